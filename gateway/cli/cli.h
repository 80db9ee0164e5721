/* cli.h: what the subcommands of tb4 have in common.
 *
 * commands[] in tb4.c lists every subcommand, options[] every option; parser, --help and the tests
 * of manual page and completion read these tables. Each subcommand has its own file and one
 * function that gets a parsed struct cli and returns an exit status. It prints results on standard
 * output and at most one line, through fail(), about why it failed.
 *
 * tb4 talks to a running gateway only through its control socket (ask_gateway()). What needs no
 * gateway it does itself, under the same locks and claims (offline.h).
 */
#ifndef TB4_CLI_H
#define TB4_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "json-fields.h"
#include "reason.h"
#include "volume/volume.h"

enum option_id {
	OPTION_CONFIG,
	OPTION_JSON,
	OPTION_HELP,
	OPTION_VERSION,
	OPTION_ADDRESS,
	OPTION_ALLOW_SINGLE_SLED,
	OPTION_BACKEND,
	OPTION_BACKGROUND,
	OPTION_BURST,
	OPTION_BYTES_PER_SECOND,
	OPTION_CONNECTIONS,
	OPTION_DAYS,
	OPTION_DESCRIPTION,
	OPTION_DEVICE,
	OPTION_DIR,
	OPTION_DISK,
	OPTION_DRY_RUN,
	OPTION_ENCRYPT,
	OPTION_FORCE,
	OPTION_IOPS,
	OPTION_KEEP,
	OPTION_KEY_FILE,
	OPTION_NAME,
	OPTION_OVERWRITE,
	OPTION_RATE,
	OPTION_SIZE,
	OPTION_SLED,
	OPTION_STOP,
	OPTION_TARGET,
	OPTION_WATCH,
	OPTION_YES,
	OPTION_COUNT,
};
_Static_assert(OPTION_COUNT <= 32, "struct command has a bit for each");

struct option_info {
	const char *name;  /* with its dashes */
	const char *value; /* what stands for the value in --help; NULL: it takes none */
	const char *help;
};
extern const struct option_info option_infos[OPTION_COUNT];

enum { CLI_ARGUMENTS_MAX = 4 };

struct cli;
struct command {
	const char *group; /* "volume", "cert"; NULL: a word of its own */
	const char *name;
	const char *arguments; /* as --help shows them */
	int min_arguments, max_arguments;
	unsigned options; /* bits 1 << enum option_id, beside the four global ones */
	const char *summary;
	int (*run)(struct cli *cli);
};

struct cli {
	const struct command *command;
	struct config config; /* read before run(), except for check and doctor */
	const char *arguments[CLI_ARGUMENTS_MAX];
	int argument_count;
	const char *values[OPTION_COUNT]; /* NULL: not given; "" for those without a value */
	const char *targets[VOLUME_TARGETS]; /* every --target, in their order; values[] has the last */
	int target_count;
};

static inline bool has_option(const struct cli *cli, enum option_id option)
{
	return cli->values[option];
}

/* Prints "tb4: text" on standard error and returns the exit status that goes with the errno. */
int fail(int error, const struct reason *reason);
int fail_text(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for a change that a gateway was asked for: `refused` is the exit status it gave, or 0. */
int fail_change(int refused, int error, const struct reason *reason);

/* The number that an option gives, from `minimum` to `maximum`; left alone if the option is not given. 0 or -EINVAL. */
int number_option(const struct cli *cli, enum option_id option, uint64_t minimum, uint64_t maximum, uint64_t *number,
	struct reason *reason);

/* Prints a JSON object on standard output and frees it; NULL: out of memory. Returns a status. */
int print_json(struct json_object *object);

/* The volume that an argument names: a name, or a VMID together with --disk. Reads its file.
 * Returns 0 or an errno with its reason; free the volume in any case. */
int find_volume(const struct cli *cli, const char *argument, struct volume *volume,
	struct reason *reason);
/* The same for what only Crucible volumes have; `lacking` says what, as in "has no slots". */
int find_crucible_volume(const struct cli *cli, const char *argument, const char *lacking, struct volume *volume,
	struct reason *reason);
/* The same without reading: what the volume is or would be called. */
int name_volume(const struct cli *cli, const char *argument, char name[VOLUME_NAME_MAX],
	struct reason *reason);

/* All volumes of a VM (0: of all VMs). Damaged ones are reported on standard error and left out. */
int load_volumes(const struct cli *cli, uint64_t vmid, struct volumes *volumes);

/* Asks the gateway of a VM on this node. *answer is to be freed. -ECONNREFUSED if none runs. */
int ask_gateway(const struct cli *cli, uint64_t vmid, struct json_object *request,
	struct json_object **answer, struct reason *reason);
struct json_object *new_request(const char *command);
/* The same for a change. If the gateway refuses, *exit_status is what it says, since it knows better what is wrong;
 * otherwise it is left alone. */
int change_by_gateway(const struct cli *cli, uint64_t vmid, struct json_object *request, int *exit_status,
	struct json_object **answer, struct reason *reason);
/* The same where only a gateway can do it: -ECONNREFUSED comes with advice to start one. */
int change_while_served(const struct cli *cli, const struct volume *volume, struct json_object *request,
	int *exit_status, struct json_object **answer, struct reason *reason);

/* A volume in what a gateway answers to "status"; NULL if it is not there. */
struct json_object *volume_in_status(struct json_object *status, const char *name);

/* Bytes for people, about three digits: "51.2 GiB". */
const char *size_for_people(uint64_t bytes, char text[SIZE_TEXT_MAX]);

/* tb4 can be told to stop by SIGINT and SIGTERM; long work looks here and undoes itself. */
void catch_interrupts(void);
bool was_interrupted(void);

int command_attach(struct cli *cli);
int command_cert_init(struct cli *cli);
int command_cert_list(struct cli *cli);
int command_cert_node(struct cli *cli);
int command_cert_show(struct cli *cli);
int command_check(struct cli *cli);
int command_claim_force(struct cli *cli);
int command_claim_release(struct cli *cli);
int command_claim_show(struct cli *cli);
int command_detach(struct cli *cli);
int command_doctor(struct cli *cli);
int command_limit(struct cli *cli);
int command_metrics(struct cli *cli);
int command_ports(struct cli *cli);
int command_reload(struct cli *cli);
int command_sled_check(struct cli *cli);
int command_sled_drain(struct cli *cli);
int command_sled_list(struct cli *cli);
int command_status(struct cli *cli);
int command_trace(struct cli *cli);
int command_volume_adopt(struct cli *cli);
int command_volume_create(struct cli *cli);
int command_volume_delete(struct cli *cli);
int command_volume_export(struct cli *cli);
int command_volume_import(struct cli *cli);
int command_volume_info(struct cli *cli);
int command_volume_limit(struct cli *cli);
int command_volume_list(struct cli *cli);
int command_volume_replace(struct cli *cli);
int command_volume_resize(struct cli *cli);
int command_volume_retry(struct cli *cli);
int command_volume_scrub(struct cli *cli);
int command_volume_snapshot(struct cli *cli);

#endif
