#include "volume/target.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static bool parse_port(const char *text, uint16_t *port)
{
	unsigned value = 0;
	if (text[0] == '\0' || text[0] == '0')
		return false;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text))
			return false;
		value = value * 10 + (unsigned)(*text - '0');
		if (value > UINT16_MAX)
			return false;
	}
	*port = (uint16_t)value;
	return true;
}

int target_parse(const char *text, char host[TARGET_HOST_MAX], uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	if (!colon || !parse_port(colon + 1, port))
		return -EINVAL;
	size_t length = (size_t)(colon - text);
	bool has_brackets = length > 2 && text[0] == '[' && text[length - 1] == ']';
	if (has_brackets) {
		text++;
		length -= 2;
	}
	if (length == 0 || length >= TARGET_HOST_MAX || (!has_brackets && memchr(text, ':', length)))
		return -EINVAL;
	for (size_t i = 0; i < length; i++) {
		if (!isalnum((unsigned char)text[i]) && !strchr(has_brackets ? ":.%" : ".-_", text[i]))
			return -EINVAL;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	return 0;
}
