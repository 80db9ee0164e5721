/* codec-samples.h: frames written out by hand, and the messages that they are. */
#ifndef TB4_CODEC_SAMPLES_H
#define TB4_CODEC_SAMPLES_H

#include "codec.h"

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

struct sample {
	const char *name; /* begins with the number in section 2 of the specification if it is there */
	struct crucible_message message;
	const char *hex;
	const char *error_text; /* what crucible_error_text() is to say, if it is an error report */
	uint8_t *frame; /* of its exact size in malloc'ed memory, so that reading beyond it shows */
	size_t size;
};

/* All samples: those of section 2, and at least one for each message type, each kind of error, each
 * form of what has several. */
const struct sample *samples(size_t *count);
const struct sample *sample_named(const char *name);

/* The data of a write or a read response; NULL for other messages. */
struct crucible_data *data_of(struct crucible_message *message);

/* malloc'ed bytes of a text of hex digits. UU and SS stand for the upstairs and the session id as
 * in section 2, 512*00 for 512 zero bytes. */
uint8_t *bytes_of(const char *hex, size_t *size);

typedef void sample_test(const struct sample *sample);
void for_each_sample(sample_test *test);

/* malloc'ed, in memory of exactly the size that crucible_measure() announced. */
uint8_t *encoded(const struct crucible_message *message, size_t *size);

/* Fails the test if the frame is refused. */
struct crucible_message decoded(const uint8_t *frame, size_t size);

/* Whether the frame is accepted. Fails the test if it is and is not what would be sent. */
bool is_accepted(const uint8_t *frame, size_t size);

/* Compares what the two messages mean, not how they are stored. */
void expect_same(const struct crucible_message *message, const struct crucible_message *wanted);

#endif
