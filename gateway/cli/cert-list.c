/* cert-list.c: `tb4 cert list` and `tb4 cert show`: what there is, and how long it holds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cli/cert.h"
#include "cli/certificates.h"
#include "durable-file.h"

enum { DAY = 24 * 60 * 60, SOON = 30 };

/* Whole days; negative when it is over. */
static long days_left(const struct certificate_facts *facts)
{
	time_t left = facts->end - time(NULL);
	return left >= 0 ? left / DAY : -1 - (-left / DAY);
}

static const char *state_of(const struct certificate_facts *facts)
{
	time_t now = time(NULL);
	if (facts->end <= now)
		return "expired";
	if (facts->begin > now)
		return "not valid yet";
	if (!facts->is_signed)
		return "of another authority";
	return days_left(facts) < SOON ? "ends soon" : "valid";
}

static bool is_usable(const struct certificate_facts *facts)
{
	time_t now = time(NULL);
	return facts->begin <= now && now < facts->end && facts->is_signed;
}

static void date_of(time_t time, char text[16])
{
	struct tm parts;
	strftime(text, 16, "%Y-%m-%d", gmtime_r(&time, &parts));
}

static struct json_object *to_json(const char *path, const struct certificate_facts *facts)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "name", facts->name);
	json_add_text(object, "names", facts->names);
	json_add_text(object, "issuer", facts->issuer);
	json_add_switch(object, "authority", facts->is_authority);
	json_add_text(object, "state", state_of(facts));
	json_add(object, "begins", json_object_new_int64(facts->begin));
	json_add(object, "expires", json_object_new_int64(facts->end));
	json_add(object, "days_left", json_object_new_int64(days_left(facts)));
	json_add_text(object, "fingerprint", facts->fingerprint);
	json_add_text(object, "file", path);
	return object;
}

/* The authority's certificate, or NULL if there is none to compare with. */
static char *read_authority(const struct cert_places *places)
{
	char *authority = NULL;
	return cert_read_file(places->authority, &authority, NULL) < 0 ? NULL : authority;
}

static int read_facts(const char *path, const char *authority, struct certificate_facts *facts, struct reason *reason)
{
	struct reason why;
	CLEANUP_FREE char *pem = NULL;
	int status = cert_read_file(path, &pem, reason);
	if (status < 0)
		return status;
	status = certificate_read(pem, authority, facts, &why);
	return status < 0 ? reason_set(reason, status, "%s: %s", path, why.text) : 0;
}

/* list */

static int list_one(const char *path, const char *authority, struct json_object *list)
{
	struct certificate_facts facts;
	struct reason reason;
	char end[16];
	int status = read_facts(path, authority, &facts, &reason);
	if (status < 0)
		return fail(status, &reason);
	date_of(facts.end, end);
	if (list)
		json_append(list, to_json(path, &facts));
	else
		printf("%-24s %-10s %6ld  %-20s %s\n", facts.name, end, days_left(&facts), state_of(&facts),
			facts.is_authority ? "authority" : facts.names);
	return is_usable(&facts) ? 0 : EXIT_DEGRADED;
}

static int list_nodes(const struct cert_places *places, const char *authority, struct json_object *list)
{
	struct dirent **entries = NULL;
	int status = 0, count = scandir(places->nodes, &entries, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		CLEANUP_FREE struct dirent *entry = entries[i];
		CLEANUP_FREE char *path = NULL;
		if (entry->d_name[0] == '.' || asprintf(&path, "%s/%s/server-cert.pem", places->nodes, entry->d_name) < 0 ||
			access(path, F_OK) < 0)
			continue;
		int listed = list_one(path, authority, list);
		status = status ? status : listed;
	}
	free(entries);
	return status;
}

int command_cert_list(struct cli *cli)
{
	CLEANUP(cert_places_free) struct cert_places places = { 0 };
	struct reason reason;
	int status = cert_find_places(cli, &places, &reason);
	if (status < 0)
		return fail(status, &reason);
	CLEANUP_FREE char *authority = read_authority(&places);
	struct json_object *list = has_option(cli, OPTION_JSON) ? json_object_new_array() : NULL;
	if (!list)
		printf("%-24s %-10s %6s  %-20s %s\n", "NAME", "EXPIRES", "DAYS", "STATE", "NAMES");
	if (authority)
		status = list_one(places.authority, authority, list);
	int listed = list_nodes(&places, authority, list);
	status = status ? status : listed;
	if (list) {
		struct json_object *object = json_object_new_object();
		json_add(object, "certificates", list);
		int printed = print_json(object);
		status = status ? status : printed;
	}
	return status;
}

/* show */

static void print(const char *path, const struct certificate_facts *facts)
{
	char begin[16], end[16];
	date_of(facts->begin, begin);
	date_of(facts->end, end);
	printf("name         %s%s\n", facts->name, facts->is_authority ? " (an authority)" : "");
	if (facts->names[0])
		printf("names        %s\n", facts->names);
	printf("issuer       %s\n", facts->issuer);
	printf("valid        %s to %s, %ld days left\n", begin, end, days_left(facts));
	printf("state        %s\n", state_of(facts));
	printf("fingerprint  %s\n", facts->fingerprint);
	printf("file         %s\n", path);
}

/* A path, or the name of a node; nothing: the authority. */
static char *path_of(const struct cli *cli, const struct cert_places *places)
{
	const char *what = cli->arguments[0];
	char *path;
	if (cli->argument_count == 0)
		return strdup(places->authority);
	if (strchr(what, '/'))
		return strdup(what);
	return asprintf(&path, "%s/%s/server-cert.pem", places->nodes, what) < 0 ? NULL : path;
}

int command_cert_show(struct cli *cli)
{
	CLEANUP(cert_places_free) struct cert_places places = { 0 };
	struct certificate_facts facts;
	struct reason reason;
	int status = cert_find_places(cli, &places, &reason);
	if (status < 0)
		return fail(status, &reason);
	CLEANUP_FREE char *authority = read_authority(&places);
	CLEANUP_FREE char *path = path_of(cli, &places);
	if (!path)
		return fail_text(EXIT_INTERNAL, "out of memory");
	status = read_facts(path, authority, &facts, &reason);
	if (status < 0)
		return fail(status, &reason);
	int printed = 0;
	if (has_option(cli, OPTION_JSON))
		printed = print_json(to_json(path, &facts));
	else
		print(path, &facts);
	return printed ? printed : is_usable(&facts) ? 0 : EXIT_DEGRADED;
}
