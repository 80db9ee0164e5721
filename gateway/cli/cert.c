/* cert.c: `tb4 cert init` and `tb4 cert node`: a small authority for TLS, and the certificates that it signs.
 *
 * The authority's key and certificate lie where the keys of volumes lie, in claim_dir, which Proxmox replicates to all
 * nodes; a node's own lie below /etc/tb4/tls. With --dir all of it lies in that directory. Each node has a directory
 * with the file names that libnbd, nbdkit and QEMU look for. A key is never overwritten.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "cli/cert.h"
#include "cli/certificates.h"
#include "durable-file.h"

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define NODES_DIRECTORY "/etc/tb4/tls"
enum { AUTHORITY_DAYS = 3650, NODE_DAYS = 730, DAYS_MAX = 36500 };

/* Places */

void cert_places_free(struct cert_places *places)
{
	free(places->authority);
	free(places->authority_key);
}

int cert_find_places(const struct cli *cli, struct cert_places *places, struct reason *reason)
{
	const char *given = cli->values[OPTION_DIR];
	const char *of_authority = given ? given : cli->config.claim_dir;
	*places = (struct cert_places){ .nodes = given ? given : NODES_DIRECTORY, .directory = of_authority };
	if (given && given[0] != '/')
		return reason_set(reason, -EINVAL, "--dir %s: not an absolute path", given);
	places->authority = path_join(of_authority, "ca-cert.pem");
	places->authority_key = path_join(of_authority, "ca-key.pem");
	return places->authority && places->authority_key ? 0 : reason_set(reason, -ENOMEM, "out of memory");
}

int cert_read_file(const char *path, char **text, struct reason *reason)
{
	size_t length;
	int status = durable_file_read(path, text, &length, reason);
	return status == -ENOENT ? reason_set(reason, status, "%s: no such file", path) : status;
}

static bool exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static int lock_directory(const char *directory, struct reason *reason)
{
	int status = make_directory(directory, reason);
	CLEANUP_FREE char *path = path_join(directory, ".tls-lock");
	if (status < 0 || !path)
		return status < 0 ? status : reason_set(reason, -ENOMEM, "out of memory");
	return lock_file_wait(path, reason);
}

static int write_text(const char *path, const char *text, struct reason *reason)
{
	return durable_file_write(path, text, strlen(text), reason);
}

static int print_made(const char *certificate, const char *key, const char *authority, bool dry_run)
{
	struct json_object *object = json_object_new_object();
	json_add_text(object, "certificate", certificate);
	json_add_text(object, "key", key);
	json_add_text(object, "authority", authority);
	json_add_switch(object, "dry_run", dry_run);
	return print_json(object);
}

/* init */

static int check_no_authority(const struct cert_places *places, struct reason *reason)
{
	const char *there = exists(places->authority_key) ? places->authority_key : places->authority;
	return exists(there) ? reason_set(reason, -EEXIST, "%s: is there already: an authority is never overwritten", there)
						 : 0;
}

static int make_authority(const struct cli *cli, const struct cert_places *places, struct reason *reason)
{
	char name[CERTIFICATE_NAME_MAX];
	CLEANUP(pem_free) char *key = NULL;
	CLEANUP_FREE char *certificate = NULL;
	CLEANUP_CLOSE int lock = lock_directory(places->directory, reason);
	int status = lock < 0 ? lock : check_no_authority(places, reason);
	snprintf(name, sizeof name, "tb4 authority of %.40s", cli->config.node_name);
	if (status == 0)
		status = certificate_make_key(&key, reason);
	if (status == 0)
		status = certificate_make_authority(name, AUTHORITY_DAYS, key, &certificate, reason);
	if (status == 0)
		status = write_text(places->authority_key, key, reason);
	if (status < 0)
		return status;
	status = write_text(places->authority, certificate, reason);
	if (status < 0) /* a key without its certificate would be in the way of the next try */
		durable_file_remove(places->authority_key, NULL);
	return status;
}

int command_cert_init(struct cli *cli)
{
	CLEANUP(cert_places_free) struct cert_places places;
	struct reason reason;
	bool dry = has_option(cli, OPTION_DRY_RUN);
	int status = cert_find_places(cli, &places, &reason);
	if (status == 0)
		status = dry ? check_no_authority(&places, &reason) : make_authority(cli, &places, &reason);
	if (status < 0)
		return fail(status, &reason);
	if (has_option(cli, OPTION_JSON))
		return print_made(places.authority, places.authority_key, places.authority, dry);
	printf("%s %s, and %s for %d years: keep the key secret\n", dry ? "would make" : "made", places.authority_key,
		places.authority, AUTHORITY_DAYS / 365);
	return 0;
}

/* node */

/* What a directory and a DNS name may be called. */
static bool is_node_name(const char *name)
{
	return strlen(name) < CERTIFICATE_NAME_MAX && isalnum((unsigned char)name[0]) &&
		name[strspn(name, LETTERS ".-")] == '\0';
}

/* The files of one node. */
struct node_files {
	char *directory;
	char *authority, *certificate, *key; /* for servers */
	char *client_certificate, *client_key; /* links to them */
};

static void node_files_free(struct node_files *files)
{
	free(files->directory);
	free(files->authority);
	free(files->certificate);
	free(files->key);
	free(files->client_certificate);
	free(files->client_key);
}

static int name_files(const struct cert_places *places, const char *name, struct node_files *files, struct reason *reason)
{
	*files = (struct node_files){ .directory = path_join(places->nodes, name) };
	if (files->directory) {
		files->authority = path_join(files->directory, "ca-cert.pem");
		files->certificate = path_join(files->directory, "server-cert.pem");
		files->key = path_join(files->directory, "server-key.pem");
		files->client_certificate = path_join(files->directory, "client-cert.pem");
		files->client_key = path_join(files->directory, "client-key.pem");
	}
	return files->directory && files->authority && files->certificate && files->key && files->client_certificate &&
			files->client_key
		? 0
		: reason_set(reason, -ENOMEM, "out of memory");
}

/* The key that is there already, or a new one. */
static int have_key(const struct node_files *files, char **key, struct reason *reason)
{
	if (!exists(files->key))
		return certificate_make_key(key, reason);
	int status = private_file_check(files->key, reason);
	return status < 0 ? status : cert_read_file(files->key, key, reason);
}

static int link_file(const char *target, const char *path, struct reason *reason)
{
	if (symlink(target, path) < 0 && errno != EEXIST)
		return reason_set(reason, -errno, "%s: %m", path);
	return 0;
}

static int write_node(const struct node_files *files, const char *authority, const char *key, const char *certificate,
	struct reason *reason)
{
	int status = make_directory(files->directory, reason);
	if (status == 0 && !exists(files->key))
		status = write_text(files->key, key, reason);
	if (status == 0)
		status = write_text(files->authority, authority, reason);
	if (status == 0)
		status = write_text(files->certificate, certificate, reason);
	if (status == 0)
		status = link_file("server-cert.pem", files->client_certificate, reason);
	return status < 0 ? status : link_file("server-key.pem", files->client_key, reason);
}

static int check_node(const struct cli *cli, const struct cert_places *places, const struct node_files *files,
	struct reason *reason)
{
	if (!exists(places->authority_key))
		return reason_set(reason, -ENOENT, "%s: no such file: tb4 cert init makes an authority", places->authority_key);
	if (exists(files->certificate) && !has_option(cli, OPTION_FORCE))
		return reason_set(reason, -EEXIST, "%s: is there already: --force makes a new certificate for its key",
			files->certificate);
	return private_file_check(places->authority_key, reason);
}

/* A certificate that is made again keeps its names unless others are given. */
static int keep_names(const struct node_files *files, struct certificate_facts *facts, struct certificate_order *order,
	struct reason *reason)
{
	CLEANUP_FREE char *certificate = NULL;
	if (order->addresses || !exists(files->certificate))
		return 0;
	int status = cert_read_file(files->certificate, &certificate, reason);
	if (status == 0)
		status = certificate_read(certificate, NULL, facts, reason);
	order->addresses = facts->names;
	return status;
}

static int make_node(const struct cli *cli, const struct cert_places *places, const struct node_files *files,
	const struct certificate_order *given, struct reason *reason)
{
	CLEANUP(pem_free) char *key = NULL, *authority_key = NULL;
	CLEANUP_FREE char *authority = NULL, *certificate = NULL;
	struct certificate_facts facts = { 0 };
	struct certificate_order order = *given;
	CLEANUP_CLOSE int lock = lock_directory(places->nodes, reason);
	int status = lock < 0 ? lock : check_node(cli, places, files, reason);
	if (status == 0)
		status = cert_read_file(places->authority, &authority, reason);
	if (status == 0)
		status = cert_read_file(places->authority_key, &authority_key, reason);
	if (status == 0)
		status = keep_names(files, &facts, &order, reason);
	if (status == 0)
		status = have_key(files, &key, reason);
	if (status == 0)
		status = certificate_sign(&order, key, authority, authority_key, &certificate, reason);
	return status < 0 ? status : write_node(files, authority, key, certificate, reason);
}

static int take_order(const struct cli *cli, struct certificate_order *order, struct reason *reason)
{
	uint64_t days = NODE_DAYS;
	*order = (struct certificate_order){
		.name = cli->arguments[0],
		.addresses = cli->values[OPTION_ADDRESS],
	};
	if (!is_node_name(order->name))
		return reason_set(reason, -EINVAL, "%s: not a name of 1 to %d letters, digits, . and -", order->name,
			CERTIFICATE_NAME_MAX - 1);
	if (order->addresses && order->addresses[strspn(order->addresses, LETTERS ".:-, ")] != '\0')
		return reason_set(reason, -EINVAL, "--address %s: neither names nor addresses, separated by commas",
			order->addresses);
	int status = number_option(cli, OPTION_DAYS, 1, DAYS_MAX, &days, reason);
	order->days = (unsigned)days;
	return status;
}

int command_cert_node(struct cli *cli)
{
	CLEANUP(cert_places_free) struct cert_places places = { 0 };
	CLEANUP(node_files_free) struct node_files files = { 0 };
	struct certificate_order order;
	struct reason reason;
	bool dry = has_option(cli, OPTION_DRY_RUN);
	int status = take_order(cli, &order, &reason);
	if (status == 0)
		status = cert_find_places(cli, &places, &reason);
	if (status == 0)
		status = name_files(&places, order.name, &files, &reason);
	if (status == 0)
		status = dry ? check_node(cli, &places, &files, &reason) : make_node(cli, &places, &files, &order, &reason);
	if (status < 0)
		return fail(status, &reason);
	if (has_option(cli, OPTION_JSON))
		return print_made(files.certificate, files.key, files.authority, dry);
	printf("%s a certificate for %s in %s, for %u days at most\n", dry ? "would make" : "made", order.name,
		files.directory, order.days);
	printf("a gateway uses it by these lines of tb4.conf:\n[tls]\nauthority = %s\ncertificate = %s\nkey = %s\n",
		files.authority, files.certificate, files.key);
	return 0;
}
