#include "users.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <string.h>

#include "cleanup.h"

static int user_id(const char *name, uid_t *id, struct reason *reason)
{
	char *end;
	errno = 0;
	unsigned long number = strtoul(name, &end, 10);
	if (isdigit((unsigned char)name[0]) && *end == '\0' && errno == 0 && number < (uid_t)-1) {
		*id = (uid_t)number;
		return 0;
	}
	const struct passwd *user = getpwnam(name);
	if (!user)
		return reason_set(reason, -ENOTUNIQ, "allow_users: there is no user %s", name);
	*id = user->pw_uid;
	return 0;
}

int users_parse(const char *text, uid_t **users, size_t *count, struct reason *reason)
{
	*count = 0;
	*users = NULL;
	CLEANUP_FREE char *copy = strdup(text ? text : "");
	CLEANUP_FREE uid_t *ids = copy ? calloc(strlen(copy) / 2 + 1, sizeof *ids) : NULL;
	if (!ids)
		return reason_set(reason, -ENOMEM, "out of memory");
	char *state = NULL;
	size_t found = 0;
	for (char *name = strtok_r(copy, ", \t", &state); name; name = strtok_r(NULL, ", \t", &state)) {
		int status = user_id(name, &ids[found], reason);
		if (status < 0)
			return status;
		found++;
	}
	*count = found;
	*users = take_pointer(&ids);
	return 0;
}
