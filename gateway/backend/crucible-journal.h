/* crucible-journal.h: one line in the log for each change of state of a Crucible volume's slots. */
#ifndef TB4_CRUCIBLE_JOURNAL_H
#define TB4_CRUCIBLE_JOURNAL_H

#include "volume/volume.h"

struct upstairs;

/* What was said of each slot last; zero: nothing yet. The backend's. */
struct crucible_journal {
	unsigned said[VOLUME_TARGETS];
};

/* To be called when a slot or the volume may have changed. A slot that is tried again and again is absent, and said so once;
 * not before the volume serves without it. */
void crucible_journal_note(struct crucible_journal *journal, const struct volume *volume, const struct upstairs *upstairs);

#endif
