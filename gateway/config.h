/* config.h: tb4.conf, see tb4.conf(5). Read once at start; never written by a program. */
#ifndef TB4_CONFIG_H
#define TB4_CONFIG_H

#include "log.h"
#include "nbd/tls.h"
#include "settings.h"

#define CONFIG_DEFAULT_PATH "/etc/tb4/tb4.conf"

enum { CONFIG_DIRECT_AUTO, CONFIG_DIRECT_OFF };
enum { CONFIG_LOG_ERROR, CONFIG_LOG_WARNING, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };

/* [sled NAME]: a host that runs downstairs, and how to reach it. */
struct sled {
	char *name;
	char *address;   /* a name, an IPv4 or an IPv6 address, without brackets: where its downstairs listen */
	char *command;   /* words before a command for it; NULL: config_sled_command()'s */
	char *directory; /* of its regions */
	char *program;   /* crucible-downstairs there */
	char *arguments; /* further ones of it, or NULL */
	uint64_t capacity; /* bytes of all regions together; 0: as much as is free */
};

struct config {
	/* [paths] */
	char *run_dir, *volume_dir, *claim_dir, *data_dir;
	/* [node] */
	char *node_name;
	/* [nbd] */
	char *listen;
	bool list_exports;
	char *allow_users;
	uint64_t handshake_timeout; /* seconds */
	uint64_t max_handshakes, max_connections;
	uint64_t memory, connection_memory; /* bytes of requests in flight */
	uint64_t stall_timeout, stop_timeout; /* seconds */
	uint64_t busy_poll; /* microseconds */
	uint64_t slow_request; /* milliseconds; 0: none is traced */
	/* [kernel] */
	uint64_t kernel_connections;
	uint64_t kernel_request_timeout, kernel_dead_timeout; /* seconds */
	/* [file] */
	unsigned direct;
	/* [tls], of clients: the first three, psk_file, or all of these */
	struct nbd_credential_files tls;
	/* [crucible]: all three, or none for no TLS */
	char *tls_authority, *tls_certificate, *tls_key;
	uint64_t scrub_rate;  /* bytes a second; 0: none by itself */
	uint64_t scrub_every; /* days */
	/* [exporter] */
	char *exporter_listen; /* ADDRESS:PORT */
	/* [log] */
	unsigned log_level;
	struct sled *sleds;
	size_t sled_count;
};

extern const struct setting config_table[];
extern const size_t config_table_size;
extern const struct setting_group config_sleds;

/* Reads `path`, or CONFIG_DEFAULT_PATH if it is NULL; only the default may be absent. What the file
 * leaves out gets its default, the paths as design section 4 says. Returns 0 or an errno with one
 * or more faults. *config must be freed in any case. */
int config_read(const char *path, struct config *config, struct faults *faults);
/* The same for a daemon: logs every fault, and sets the level of the log to what the file says. */
int config_read_and_log(const char *path, struct config *config);
/* The sled of that name, or NULL. */
const struct sled *config_sled(const struct config *config, const char *name);
/* Does [tls] have what a server needs? */
bool config_has_tls(const struct config *config);
enum log_level config_log_level(const struct config *config);
void config_free(struct config *config);

#endif
