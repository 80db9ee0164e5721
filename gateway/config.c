#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "cleanup.h"
#include "volume/target.h"

static const char *const direct_choices[] = { "auto", "off", NULL };
static const char *const log_choices[] = { "error", "warning", "info", "debug", NULL };

#define AT(member) offsetof(struct config, member)
#define K UINT64_C(1024)

/* clang-format off */
const struct setting config_table[] = {
	{ "paths", "run_dir", SETTING_PATH, AT(run_dir), "/run/tb4", 0, 0, NULL, false,
		"sockets and state that is gone after a reboot" },
	{ "paths", "volume_dir", SETTING_PATH, AT(volume_dir), NULL, 0, 0, NULL, false,
		"volume files" },
	{ "paths", "claim_dir", SETTING_PATH, AT(claim_dir), NULL, 0, 0, NULL, false,
		"records of who may write a volume" },
	{ "paths", "data_dir", SETTING_PATH, AT(data_dir), "/var/lib/tb4/volumes", 0, 0, NULL, false,
		"images of the file backend" },
	{ "node", "name", SETTING_TEXT, AT(node_name), NULL, 0, 0, NULL, false,
		"name of this node in records" },
	{ "nbd", "listen", SETTING_TEXT, AT(listen), NULL, 0, 0, NULL, false,
		"address for NBD over TCP, beside the unix socket" },
	{ "nbd", "list", SETTING_SWITCH, AT(list_exports), "yes", 0, 0, NULL, false,
		"answer NBD_OPT_LIST" },
	{ "nbd", "allow_users", SETTING_TEXT, AT(allow_users), NULL, 0, 0, NULL, false,
		"further users that may connect to the unix socket" },
	{ "nbd", "handshake_timeout", SETTING_NUMBER, AT(handshake_timeout), "10", 1, 3600, NULL, false,
		"seconds until a client must have chosen an export" },
	{ "nbd", "max_handshakes", SETTING_NUMBER, AT(max_handshakes), "64", 1, 10000, NULL, false,
		"clients that may be in the handshake at once" },
	{ "nbd", "max_connections", SETTING_NUMBER, AT(max_connections), "128", 1, 10000, NULL, false,
		"clients that may be served at once" },
	{ "nbd", "memory", SETTING_SIZE, AT(memory), "256M", 64*K*K, 1024*K*K*K, NULL, false,
		"bytes of all requests in flight" },
	{ "nbd", "connection_memory", SETTING_SIZE, AT(connection_memory), "64M", 32*K*K, 1024*K*K*K, NULL, false,
		"bytes of one client's requests in flight" },
	{ "nbd", "stall_timeout", SETTING_NUMBER, AT(stall_timeout), "30", 1, 86400, NULL, false,
		"seconds after which a client that takes no replies or sends no payload is dropped if memory is short" },
	{ "nbd", "stop_timeout", SETTING_NUMBER, AT(stop_timeout), "30", 1, 86400, NULL, false,
		"seconds that an orderly stop waits for requests" },
	{ "nbd", "busy_poll", SETTING_NUMBER, AT(busy_poll), "50", 0, 1000, NULL, false,
		"microseconds to look for the next request of a client that sends one at a time, 4 times as long for the answer; 0: never" },
	{ "nbd", "slow_request", SETTING_NUMBER, AT(slow_request), "100", 0, 3600000, NULL, false,
		"milliseconds from which on tb4 trace shows a request; 0: none" },
	{ "tls", "authority", SETTING_PATH, AT(tls.authority), NULL, 0, 0, NULL, false,
		"PEM file of the authority that signs the certificates of clients" },
	{ "tls", "certificate", SETTING_PATH, AT(tls.certificate), NULL, 0, 0, NULL, false,
		"PEM file of the certificate that clients are shown" },
	{ "tls", "key", SETTING_PATH, AT(tls.key), NULL, 0, 0, NULL, false,
		"PEM file of its key" },
	{ "tls", "revoked", SETTING_PATH, AT(tls.revoked), NULL, 0, 0, NULL, false,
		"PEM file of certificates that the authority has revoked" },
	{ "tls", "psk_file", SETTING_PATH, AT(tls.psk_file), NULL, 0, 0, NULL, false,
		"keys shared with clients: lines of NAME:HEXKEY" },
	{ "kernel", "connections", SETTING_NUMBER, AT(kernel_connections), "4", 1, 16, NULL, false,
		"connections of a kernel device, as far as there are processors" },
	{ "kernel", "request_timeout", SETTING_NUMBER, AT(kernel_request_timeout), "10", 1, 3600, NULL, false,
		"seconds without an answer after which the kernel sends a request again" },
	{ "kernel", "dead_timeout", SETTING_NUMBER, AT(kernel_dead_timeout), "86400", 1, 31536000, NULL, false,
		"seconds without a gateway after which requests fail" },
	{ "file", "direct", SETTING_CHOICE, AT(direct), "auto", 0, 0, direct_choices, false,
		"bypass the page cache where the file system can" },
	{ "crucible", "tls_authority", SETTING_PATH, AT(tls_authority), NULL, 0, 0, NULL, false,
		"PEM file of the authority that signs the certificates of downstairs" },
	{ "crucible", "tls_certificate", SETTING_PATH, AT(tls_certificate), NULL, 0, 0, NULL, false,
		"PEM file of this node's certificate" },
	{ "crucible", "tls_key", SETTING_PATH, AT(tls_key), NULL, 0, 0, NULL, false,
		"PEM file of its key" },
	{ "crucible", "scrub_rate", SETTING_SIZE, AT(scrub_rate), "0", 0, INT64_MAX, NULL, false,
		"bytes a second that a gateway reads and compares of all copies by itself; 0: none" },
	{ "crucible", "scrub_every", SETTING_NUMBER, AT(scrub_every), "7", 1, 365, NULL, false,
		"days from the beginning of one such pass to the next" },
	{ "exporter", "listen", SETTING_TEXT, AT(exporter_listen), "127.0.0.1:9199", 0, 0, NULL, false,
		"address and port at which tb4-exporter serves /metrics" },
	{ "log", "level", SETTING_CHOICE, AT(log_level), "info", 0, 0, log_choices, false,
		"least important lines to log" },
};

#undef AT
#define AT(member) offsetof(struct sled, member)
static const struct setting sled_table[] = {
	{ "sled", "address", SETTING_TEXT, AT(address), NULL, 0, 0, NULL, true,
		"name or address at which its downstairs listen" },
	{ "sled", "command", SETTING_TEXT, AT(command), NULL, 0, 0, NULL, false,
		"words that run what follows them on the sled, as root" },
	{ "sled", "directory", SETTING_PATH, AT(directory), "/var/lib/crucible", 0, 0, NULL, false,
		"its regions" },
	{ "sled", "capacity", SETTING_SIZE, AT(capacity), "0", 0, INT64_MAX, NULL, false,
		"bytes that all its regions together may have, full or not; 0: as many as are free" },
	{ "sled", "program", SETTING_TEXT, AT(program), "crucible-downstairs", 0, 0, NULL, false,
		"the program of the downstairs" },
	{ "sled", "arguments", SETTING_TEXT, AT(arguments), NULL, 0, 0, NULL, false,
		"further arguments for it, such as those for TLS" },
};
/* clang-format on */
const struct setting_group config_sleds = {
	.prefix = "sled",
	.table = sled_table,
	.table_size = sizeof sled_table / sizeof sled_table[0],
	.item_size = sizeof(struct sled),
	.name_offset = offsetof(struct sled, name),
	.items_offset = offsetof(struct config, sleds),
	.count_offset = offsetof(struct config, sled_count),
};
const size_t config_table_size = sizeof config_table / sizeof config_table[0];

/* pmxcfs, the cluster file system of Proxmox VE, is mounted on /etc/pve. */
static bool on_proxmox(void)
{
	struct stat pve, etc;
	return stat("/etc/pve", &pve) == 0 && stat("/etc", &etc) == 0 && pve.st_dev != etc.st_dev;
}

static int set_if_absent(char **text, const char *value)
{
	if (!*text)
		*text = strdup(value);
	return *text ? 0 : -ENOMEM;
}

static int complete(struct config *config)
{
	bool proxmox = on_proxmox();
	struct utsname host;
	if (uname(&host) < 0)
		return -errno;
	host.nodename[strcspn(host.nodename, ".")] = '\0'; /* Proxmox names nodes by the short name */
	if (set_if_absent(&config->node_name, host.nodename) < 0 ||
		set_if_absent(&config->volume_dir, proxmox ? "/etc/pve/tb4" : "/etc/tb4/volumes") < 0 ||
		set_if_absent(&config->claim_dir, proxmox ? "/etc/pve/priv/tb4" : "/var/lib/tb4/claims") < 0)
		return -ENOMEM;
	return 0;
}

/* Targets are found back on their sleds by the address. */
static int check_sleds(const struct config *config, const char *file, struct faults *faults)
{
	int status = 0;
	for (size_t i = 0; i < config->sled_count; i++) {
		const struct sled *sled = &config->sleds[i];
		char text[SETTINGS_LINE_MAX + 8], host[TARGET_HOST_MAX];
		uint16_t port;
		if (!sled->address)
			continue; /* a fault already */
		snprintf(text, sizeof text, strchr(sled->address, ':') ? "[%s]:1" : "%s:1", sled->address);
		if (target_parse(text, host, &port) < 0)
			status = faults_add(faults, file, 0, "[sled %s] address = %s: neither a name nor an address", sled->name,
				sled->address);
		for (size_t k = 0; k < i; k++) {
			const char *other = config->sleds[k].address;
			if (other && strcmp(other, sled->address) == 0)
				status = faults_add(faults, file, 0, "[sled %s] has the address of [sled %s]", sled->name,
					config->sleds[k].name);
		}
	}
	return status;
}

int config_read(const char *path, struct config *config, struct faults *faults)
{
	*config = (struct config){ 0 };
	const char *file = path ? path : CONFIG_DEFAULT_PATH;
	int status = settings_read_with_group(config_table, config_table_size, &config_sleds, file, config, faults);
	if (status == -ENOENT && !path)
		status = 0; /* defaults are already in place */
	if (status < 0 && status != -EBADMSG)
		faults_add(faults, file, 0, "%s", strerror(-status));
	int completed = complete(config);
	if (completed < 0) {
		faults_add(faults, file, 0, "%s", strerror(-completed));
		return completed;
	}
	if (config->connection_memory > config->memory)
		status = faults_add(faults, file, settings_line_of(file, "connection_memory"),
			"connection_memory is larger than memory");
	bool has_all = config->tls_authority && config->tls_certificate && config->tls_key;
	if (!has_all && (config->tls_authority || config->tls_certificate || config->tls_key))
		status = faults_add(faults, file, 0,
			"[crucible] needs all of tls_authority, tls_certificate and tls_key, or none of them");
	const struct nbd_credential_files *tls = &config->tls;
	bool has_any = tls->authority || tls->certificate || tls->key || tls->revoked;
	if (has_any && !(tls->authority && tls->certificate && tls->key))
		status = faults_add(faults, file, 0, "[tls] needs all of authority, certificate and key, or none of them");
	int checked = check_sleds(config, file, faults);
	return checked < 0 ? checked : status;
}

int config_read_and_log(const char *path, struct config *config)
{
	struct faults faults = { 0 };
	int status = config_read(path, config, &faults);
	for (size_t i = 0; i < faults.count; i++) {
		char text[512];
		log_error("%s", fault_text(&faults.items[i], text, sizeof text));
	}
	faults_free(&faults);
	if (status == 0)
		log_set_level(config_log_level(config));
	return status;
}

const struct sled *config_sled(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->sled_count; i++) {
		if (strcmp(config->sleds[i].name, name) == 0)
			return &config->sleds[i];
	}
	return NULL;
}

bool config_has_tls(const struct config *config)
{
	return (config->tls.authority && config->tls.certificate && config->tls.key) || config->tls.psk_file;
}

enum log_level config_log_level(const struct config *config)
{
	static const enum log_level levels[] = {
		[CONFIG_LOG_ERROR] = LOG_LEVEL_ERROR,
		[CONFIG_LOG_WARNING] = LOG_LEVEL_WARNING,
		[CONFIG_LOG_INFO] = LOG_LEVEL_INFO,
		[CONFIG_LOG_DEBUG] = LOG_LEVEL_DEBUG,
	};
	return levels[config->log_level];
}

void config_free(struct config *config)
{
	settings_free(config_table, config_table_size, config);
	settings_free_group(&config_sleds, config);
}
