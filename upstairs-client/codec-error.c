/* codec-error.c: an error of a peer as a line for people; see codec.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "codec-layout.h"

/* Text that is made within a buffer: at least one byte is left, for the end. */
struct line {
	char *at;
	size_t left;
	bool is_cut;
};

static void add_byte(struct line *line, char byte)
{
	if (line->left <= 1) {
		line->is_cut = true;
		return;
	}
	*line->at++ = byte;
	line->left--;
}

/* Texts of peers are long dumps at times, of unknown encoding. */
static void add_bytes(struct line *line, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length && !line->is_cut; i++) {
		char byte = bytes[i];
		if (byte == '\n' || byte == '\t' || byte == '\r')
			byte = ' ';
		add_byte(line, byte >= ' ' && byte <= '~' ? byte : '?');
	}
}

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
	char text[160]; /* enough for each use below */
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	add_bytes(line, text, length > 0 ? (size_t)length : 0);
}

static void add_uuid(struct line *line, const struct crucible_uuid *uuid)
{
	for (size_t i = 0; i < sizeof uuid->bytes; i++)
		add(line, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid->bytes[i]);
}

static void add_mode(struct line *line, const char *mode, bool expected, bool actual)
{
	add(line, ": expected %s%s, is %s%s", expected ? "" : "not ", mode, actual ? "" : "not ", mode);
}

static void add_ids(
	struct line *line, const struct crucible_uuid *expected, const struct crucible_uuid *actual)
{
	add(line, ": expected ");
	add_uuid(line, expected);
	add(line, ", is ");
	add_uuid(line, actual);
}

static void add_negotiation_error(struct line *line, const struct crucible_negotiation_error *error)
{
	const struct layout *layout = crucible_negotiation_error_layout(error->kind);
	add(line, ": %s", layout ? layout->name : "unknown reason");
	switch (error->kind) {
	case CRUCIBLE_NEGOTIATION_GENERATION_TOO_LOW:
		add(line, ": requested %" PRIu64 ", is %" PRIu64, error->generations.requested,
			error->generations.actual);
		break;
	case CRUCIBLE_NEGOTIATION_INCOMPATIBLE_VERSION:
		add(line, ": expected %" PRIu32 ", is %" PRIu32, error->versions.expected,
			error->versions.actual);
		break;
	case CRUCIBLE_NEGOTIATION_ENCRYPTION_MISMATCH:
		add_mode(line, "encrypted", error->flags.expected, error->flags.actual);
		break;
	case CRUCIBLE_NEGOTIATION_READ_ONLY_MISMATCH:
		add_mode(line, "read-only", error->flags.expected, error->flags.actual);
		break;
	case CRUCIBLE_NEGOTIATION_UPSTAIRS_ID_MISMATCH:
	case CRUCIBLE_NEGOTIATION_SESSION_ID_MISMATCH:
		add_ids(line, &error->ids.expected, &error->ids.actual);
		break;
	default:
		break;
	}
}

static void add_error(struct line *line, const struct crucible_error *error)
{
	const struct layout *layout = crucible_error_layout(error->kind);
	add(line, "%s", layout ? layout->name : "unknown error");
	if (layout && layout->fields[0].kind == FIELD_TEXT && error->text.length > 0) {
		add(line, ": ");
		add_bytes(line, error->text.bytes, error->text.length);
	} else if (error->kind == CRUCIBLE_ERROR_MISSING_CONTEXT_SLOT) {
		add(line, ": block %" PRIu64 " of extent %" PRIu32, error->slot.block,
			error->slot.extent_id);
	} else if (error->kind == CRUCIBLE_ERROR_NEGOTIATION) {
		add_negotiation_error(line, &error->negotiation);
	}
}

void crucible_error_text(const struct crucible_error *error, char *buffer, size_t size)
{
	if (size == 0)
		return;
	struct line line = { .at = buffer, .left = size };
	add_error(&line, error);
	if (line.is_cut)
		for (size_t dots = 0; dots < 3 && line.at - dots > buffer; dots++)
			line.at[-1 - (ptrdiff_t)dots] = '.';
	*line.at = '\0';
}
