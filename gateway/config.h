/* config.h: tb4.conf, see tb4.conf(5). Read once at start; never written by a program. */
#ifndef TB4_CONFIG_H
#define TB4_CONFIG_H

#include "settings.h"

#define CONFIG_DEFAULT_PATH "/etc/tb4/tb4.conf"

enum { CONFIG_DIRECT_AUTO, CONFIG_DIRECT_OFF };
enum { CONFIG_LOG_ERROR, CONFIG_LOG_WARNING, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };

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
	/* [file] */
	unsigned direct;
	/* [crucible]: all three, or none for no TLS */
	char *tls_authority, *tls_certificate, *tls_key;
	/* [log] */
	unsigned log_level;
};

extern const struct setting config_table[];
extern const size_t config_table_size;

/* Reads `path`, or CONFIG_DEFAULT_PATH if it is NULL; only the default may be absent. What the file
 * leaves out gets its default, the paths as design section 4 says. Returns 0 or an errno with one
 * or more faults. *config must be freed in any case. */
int config_read(const char *path, struct config *config, struct faults *faults);
void config_free(struct config *config);

#endif
