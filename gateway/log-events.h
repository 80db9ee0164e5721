/* log-events.h: the MESSAGE_ID of each change of state that goes to the journal, by log_event(). units/tb4.catalog says
 * what each means and what to do; tests/docs/test_docs.py compares the two. An id is never changed or used again. */
#ifndef TB4_LOG_EVENTS_H
#define TB4_LOG_EVENTS_H

#define EVENT_VOLUME_STARTING "b64d7716be1943e79f368530aa377575"
#define EVENT_VOLUME_SERVING "edf7e38925a24d9aa2967fcf5cb021e9"
#define EVENT_VOLUME_PAUSED "6a89e9d4b25c496ea58fe0f01b65cbb7"
#define EVENT_VOLUME_FAILED "8bd21c94fb3146bba803fea5af7f4af4"
#define EVENT_FENCED "5ab0ea90337b4a6ab361c4a75ef60aa0"
#define EVENT_CLAIM_TAKEN "f5f1d83eb5ee4a9a9a365cbac17d9ab1"
#define EVENT_CLAIM_RELEASED "bad1d5a1a9b1467587a2a2f6113e187f"
#define EVENT_HISTORY_RESUMED "b5a0a62796104e0b88632b837e2bb81b"
#define EVENT_SLOT_ACTIVE "6fce18b602a641ebb28ee3be2767c6ae"
#define EVENT_SLOT_ABSENT "f85fcde313fc487e8bb6a8e197f03836"
#define EVENT_SLOT_REPLAY "b31a4c97d55d4fac94c67b2cd40d7b1e"
#define EVENT_SLOT_REPAIR "8d9756f000f545548a52fd83b3cbef76"
#define EVENT_SLOT_FAILED "8fdaecb17d924b318c97229f8da24614"

#endif
