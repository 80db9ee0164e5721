/* tb4.c: the program tb4, see tb4(1): its tables, its parser, its --help. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "log.h"
#include "version.h"

#define BIT(option) (1u << OPTION_##option)
#define GLOBAL_OPTIONS (BIT(CONFIG) | BIT(JSON) | BIT(HELP) | BIT(VERSION))

/* clang-format off */
const struct option_info option_infos[OPTION_COUNT] = {
	[OPTION_CONFIG] = { "--config", "FILE", "read FILE instead of " CONFIG_DEFAULT_PATH },
	[OPTION_JSON] = { "--json", NULL, "print the result as JSON" },
	[OPTION_HELP] = { "--help", NULL, "show help, also for one command" },
	[OPTION_VERSION] = { "--version", NULL, "show the version" },
	[OPTION_ADDRESS] = { "--address", "LIST", "further names and addresses, separated by commas" },
	[OPTION_ALLOW_SINGLE_SLED] = { "--allow-single-sled", NULL, "several copies on one sled, if there are too few" },
	[OPTION_BACKEND] = { "--backend", "NAME", "what holds the bytes: file (default) or crucible" },
	[OPTION_BACKGROUND] = { "--background", NULL, "begin it, and do not wait for its end" },
	[OPTION_BURST] = { "--burst", "SECONDS", "seconds' worth of the limits that may be used at once" },
	[OPTION_BYTES_PER_SECOND] = { "--bytes-per-second", "SIZE", "read and written a second, as 100M; 0: no limit" },
	[OPTION_CONNECTIONS] = { "--connections", "N", "connections of a device, 1 to 16" },
	[OPTION_DAYS] = { "--days", "N", "how long the certificate holds (default 730)" },
	[OPTION_DESCRIPTION] = { "--description", "TEXT", "shown to NBD clients" },
	[OPTION_DEVICE] = { "--device", "N", "attach it as /dev/nbdN" },
	[OPTION_DIR] = { "--dir", "DIR", "where all certificates and keys lie" },
	[OPTION_DISK] = { "--disk", "N", "number of the disk, where a VMID is given (default 0)" },
	[OPTION_DRY_RUN] = { "--dry-run", NULL, "say what would be done and change nothing" },
	[OPTION_ENCRYPT] = { "--encrypt", NULL, "make a key and encrypt the blocks with it (crucible)" },
	[OPTION_FORCE] = { "--force", NULL, "do it although something speaks against it: see tb4(1)" },
	[OPTION_IOPS] = { "--iops", "N", "requests a second; 0: no limit" },
	[OPTION_KEEP] = { "--keep", NULL, "stay, connect it again when its gateway restarts, and grow it" },
	[OPTION_KEY_FILE] = { "--key-file", "FILE", "encrypt with the key in FILE, 32 bytes (crucible)" },
	[OPTION_NAME] = { "--name", "NAME", "full name of the volume instead of --disk" },
	[OPTION_OVERWRITE] = { "--overwrite", NULL, "replace what the volume holds; cannot be undone" },
	[OPTION_RATE] = { "--rate", "SIZE", "bytes a second at most, as 50M" },
	[OPTION_SIZE] = { "--size", "SIZE", "size of a volume that is made, as 50G or 512M" },
	[OPTION_SLED] = { "--sled", "NAME", "where the new region is made" },
	[OPTION_STOP] = { "--stop", NULL, "end the one that runs" },
	[OPTION_TARGET] = { "--target", "HOST:PORT", "where a downstairs listens: takes regions that exist (crucible)" },
	[OPTION_WATCH] = { "--watch", NULL, "show it again every two seconds until Ctrl-C" },
	[OPTION_YES] = { "--yes", NULL, "do not ask" },
};

static const struct command commands[] = {
	{ "volume", "create", "VMID SIZE", 2, 2,
		BIT(BACKEND) | BIT(DISK) | BIT(NAME) | BIT(DESCRIPTION) | BIT(DRY_RUN) | BIT(KEY_FILE) | BIT(TARGET) | BIT(ENCRYPT) |
			BIT(ALLOW_SINGLE_SLED) | BIT(FORCE),
		"make a volume for a VM", command_volume_create },
	{ "volume", "adopt", "VMID", 1, 1,
		BIT(DISK) | BIT(NAME) | BIT(DESCRIPTION) | BIT(DRY_RUN) | BIT(KEY_FILE) | BIT(TARGET) | BIT(FORCE),
		"make a volume of three regions that exist already (crucible)", command_volume_adopt },
	{ "volume", "list", "[VMID]", 0, 1, 0,
		"list volumes", command_volume_list },
	{ "volume", "info", "VOLUME", 1, 1, BIT(DISK),
		"show one volume", command_volume_info },
	{ "volume", "resize", "VOLUME SIZE", 2, 2, BIT(DISK) | BIT(DRY_RUN),
		"grow a volume, also while it is served", command_volume_resize },
	{ "volume", "replace", "VOLUME SLOT", 2, 2, BIT(DISK) | BIT(TARGET) | BIT(SLED) | BIT(ALLOW_SINGLE_SLED),
		"give a slot a new region while it is served (crucible)", command_volume_replace },
	{ "volume", "retry", "VOLUME SLOT", 2, 2, BIT(DISK),
		"try a slot again that has failed (crucible)", command_volume_retry },
	{ "volume", "scrub", "VOLUME", 1, 1, BIT(DISK) | BIT(RATE) | BIT(BACKGROUND) | BIT(STOP),
		"compare all copies while it is served, and heal (crucible)", command_volume_scrub },
	{ "volume", "snapshot", "VOLUME NAME", 2, 2, BIT(DISK),
		"say why there is none, and what to use", command_volume_snapshot },
	{ "volume", "limit", "VOLUME", 1, 1, BIT(DISK) | BIT(IOPS) | BIT(BYTES_PER_SECOND) | BIT(BURST) | BIT(DRY_RUN),
		"show or change how much a volume may use, also while it is served", command_volume_limit },
	{ "volume", "delete", "VOLUME", 1, 1, BIT(DISK) | BIT(YES) | BIT(DRY_RUN) | BIT(FORCE),
		"delete a volume and its contents", command_volume_delete },
	{ "volume", "import", "VOLUME FILE", 2, 2,
		BIT(DISK) | BIT(SIZE) | BIT(OVERWRITE) | BIT(DRY_RUN) | BIT(BACKEND) | BIT(ENCRYPT) | BIT(KEY_FILE) |
			BIT(ALLOW_SINGLE_SLED),
		"fill a volume from a raw or qcow2 image, or from - (standard input)", command_volume_import },
	{ "volume", "export", "VOLUME FILE", 2, 2, BIT(DISK) | BIT(FORCE),
		"copy a volume to a raw image, or to - (standard output)", command_volume_export },
	{ "claim", "show", "[VOLUME]", 0, 1, BIT(DISK),
		"show who may write a volume", command_claim_show },
	{ "claim", "release", "VOLUME", 1, 1, BIT(DISK) | BIT(DRY_RUN),
		"give up a claim that a dead gateway of this node left", command_claim_release },
	{ "claim", "force", "VOLUME", 1, 1, BIT(DISK) | BIT(YES) | BIT(DRY_RUN),
		"take a volume for this node, whoever owns it", command_claim_force },
	{ "cert", "init", "", 0, 0, BIT(DIR) | BIT(DRY_RUN),
		"make an authority for TLS: a key and a certificate that sign others", command_cert_init },
	{ "cert", "node", "NAME", 1, 1, BIT(ADDRESS) | BIT(DAYS) | BIT(DIR) | BIT(DRY_RUN) | BIT(FORCE),
		"make a key and a certificate for a server and its clients", command_cert_node },
	{ "cert", "list", "", 0, 0, BIT(DIR),
		"show the certificates that there are, and how long they hold", command_cert_list },
	{ "cert", "show", "[NAME]", 0, 1, BIT(DIR),
		"show one certificate", command_cert_show },
	{ "sled", "list", "", 0, 0, 0,
		"show the sleds and what is on them", command_sled_list },
	{ "sled", "check", "[SLED]", 0, 1, 0,
		"say what is wrong with sleds and the regions on them", command_sled_check },
	{ "sled", "drain", "SLED", 1, 1, BIT(DRY_RUN),
		"move all regions of a sled to others, while they are served", command_sled_drain },
	{ NULL, "attach", "VOLUME", 1, 1, BIT(DISK) | BIT(CONNECTIONS) | BIT(DEVICE) | BIT(KEEP) | BIT(DRY_RUN),
		"make a kernel device of a volume, or of all of a VM", command_attach },
	{ NULL, "detach", "VOLUME", 1, 1, BIT(DISK) | BIT(FORCE) | BIT(DRY_RUN),
		"take a kernel device away, if nobody uses it", command_detach },
	{ NULL, "ports", "VMID", 1, 1, 0,
		"show the ports and devices of a VM", command_ports },
	{ NULL, "limit", "VMID", 1, 1, BIT(IOPS) | BIT(BYTES_PER_SECOND) | BIT(BURST) | BIT(DRY_RUN),
		"the same of all volumes of a VM together", command_limit },
	{ NULL, "reload", "VMID", 1, 1, BIT(DRY_RUN),
		"make a gateway take up what volume files say now", command_reload },
	{ NULL, "status", "[VMID]", 0, 1, BIT(WATCH),
		"show gateways and what they serve", command_status },
	{ NULL, "trace", "VMID", 1, 1, BIT(WATCH),
		"show the requests that took long, and where their time went", command_trace },
	{ NULL, "metrics", "[VMID]", 0, 1, 0,
		"print counters in the text format of Prometheus", command_metrics },
	{ NULL, "check", "", 0, 0, 0,
		"check configuration, volume files and records", command_check },
	{ NULL, "doctor", "[VMID]", 0, 1, 0,
		"say what keeps gateways from working here, and what to do", command_doctor },
};
/* clang-format on */

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* Help */

static void print_synopsis(const struct command *command)
{
	printf("tb4 %s%s%s%s%s", command->group ? command->group : "", command->group ? " " : "",
		command->name, command->arguments[0] ? " " : "", command->arguments);
}

static void print_options(unsigned options)
{
	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		const struct option_info *info = &option_infos[i];
		char left[40];
		if (!(options & (1u << i)))
			continue;
		snprintf(left, sizeof left, "%s%s%s", info->name, info->value ? " " : "",
			info->value ? info->value : "");
		printf("  %-20s %s\n", left, info->help);
	}
}

static int print_help(const struct command *command)
{
	if (command) {
		printf("usage: ");
		print_synopsis(command);
		printf(" [OPTION...]\n\n%s\n\n", command->summary);
		print_options(command->options | GLOBAL_OPTIONS);
		return 0;
	}
	printf("usage: tb4 COMMAND [ARGUMENT...] [OPTION...]\n\nVolumes of virtual machines, served over "
		   "NBD by tb4-gateway.\n\n");
	for (unsigned i = 0; i < COMMAND_COUNT; i++) {
		char words[48];
		snprintf(words, sizeof words, "%s%s%s%s%s", commands[i].group ? commands[i].group : "",
			commands[i].group ? " " : "", commands[i].name, commands[i].arguments[0] ? " " : "",
			commands[i].arguments);
		printf("  %-28s %s\n", words, commands[i].summary);
	}
	printf("\nVOLUME is a name such as vm-200-disk-0, or a VMID. SIZE is bytes, or as 512M, 50G, 1T.\n\n");
	print_options(GLOBAL_OPTIONS);
	printf("\nExit status: 0 done, 1 degraded, 2 broken (doctor), 64 bad usage, 65 damaged data, 66 no such volume, 69 no "
		   "gateway,\n70 out of memory, 73 exists already or no room, 74 I/O error, 75 in use, 77 not "
		   "permitted,\n78 bad configuration, 90 fenced, 130 interrupted. See tb4(1).\n");
	return 0;
}

/* Parsing */

/* The option named by `word`, up to its "=" if it has one; OPTION_COUNT if there is none. */
static enum option_id find_option(const char *word)
{
	size_t length = strcspn(word, "=");
	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		if (strlen(option_infos[i].name) == length && strncmp(option_infos[i].name, word, length) == 0)
			return i;
	}
	return OPTION_COUNT;
}

/* Takes options out of argv, wherever they stand, and leaves the other words. Returns a status. */
static int take_options(struct cli *cli, int argc, char **argv, char **words, int *word_count)
{
	bool only_words = false;
	*word_count = 0;
	for (int i = 1; i < argc; i++) {
		char *word = argv[i];
		if (only_words || word[0] != '-' || word[1] == '\0') {
			words[(*word_count)++] = word;
			continue;
		}
		if (strcmp(word, "--") == 0) {
			only_words = true;
			continue;
		}
		enum option_id option = find_option(word);
		if (option == OPTION_COUNT)
			return fail_text(EXIT_BAD_USAGE, "%s: unknown option: see tb4 --help", word);
		const char *value = strchr(word, '=');
		if (!option_infos[option].value) {
			if (value)
				return fail_text(
					EXIT_BAD_USAGE, "%s takes no value", option_infos[option].name);
			cli->values[option] = "";
			continue;
		}
		if (!value && i + 1 >= argc)
			return fail_text(EXIT_BAD_USAGE, "%s needs a value", word);
		cli->values[option] = value ? value + 1 : argv[++i];
		if (option == OPTION_TARGET && cli->target_count == VOLUME_TARGETS)
			return fail_text(EXIT_BAD_USAGE, "--target: there are %d", VOLUME_TARGETS);
		if (option == OPTION_TARGET)
			cli->targets[cli->target_count++] = cli->values[option];
	}
	return 0;
}

/* The command that the first words name; *used says how many they are. */
static const struct command *find_command(char **words, int count, int *used)
{
	for (unsigned i = 0; i < COMMAND_COUNT; i++) {
		const struct command *command = &commands[i];
		*used = command->group ? 2 : 1;
		if (count >= *used && strcmp(words[*used - 1], command->name) == 0 &&
			(!command->group || strcmp(words[0], command->group) == 0))
			return command;
	}
	return NULL;
}

static int refuse_words(char **words, int count)
{
	char names[200] = "";
	size_t used = 0;
	for (unsigned i = 0; i < COMMAND_COUNT && used < sizeof names; i++) {
		if (commands[i].group && strcmp(words[0], commands[i].group) == 0)
			used += (size_t)snprintf(
				names + used, sizeof names - used, "%s%s", used ? ", " : "", commands[i].name);
	}
	if (used == 0)
		return fail_text(EXIT_BAD_USAGE, "%s: unknown command: see tb4 --help", words[0]);
	if (count == 1)
		return fail_text(EXIT_BAD_USAGE, "%s needs one of: %s", words[0], names);
	return fail_text(EXIT_BAD_USAGE, "%s %s: unknown command: one of %s", words[0], words[1], names);
}

static int take_arguments(struct cli *cli, char **words, int count)
{
	const struct command *command = cli->command;
	if (count < command->min_arguments || count > command->max_arguments)
		return fail_text(EXIT_BAD_USAGE, "%s%s%s takes: %s", command->group ? command->group : "",
			command->group ? " " : "", command->name,
			command->arguments[0] ? command->arguments : "no arguments");
	for (int i = 0; i < count; i++)
		cli->arguments[i] = words[i];
	cli->argument_count = count;
	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		if (cli->values[i] && !((command->options | GLOBAL_OPTIONS) & (1u << i)))
			return fail_text(EXIT_BAD_USAGE, "%s%s%s does not take %s",
				command->group ? command->group : "", command->group ? " " : "", command->name,
				option_infos[i].name);
	}
	return 0;
}

static int run(struct cli *cli)
{
	/* these report the faults of tb4.conf themselves */
	if (cli->command->run == command_check || cli->command->run == command_doctor)
		return cli->command->run(cli);
	struct faults faults = { 0 };
	struct reason reason;
	int status = config_read(cli->values[OPTION_CONFIG], &cli->config, &faults);
	if (status < 0)
		faults_reason(&faults, &reason);
	faults_free(&faults);
	if (status < 0) {
		fail(status, &reason);
		status = EXIT_BAD_CONFIG;
	} else {
		status = cli->command->run(cli);
	}
	config_free(&cli->config);
	return status;
}

int main(int argc, char **argv)
{
	struct cli cli = { 0 };
	int word_count, used = 0;
	log_open("tb4", LOG_LEVEL_WARNING);
	signal(SIGXFSZ, SIG_IGN); /* a limit is an error like any other */
	char **words = calloc((size_t)argc + 1, sizeof *words);
	if (!words)
		return fail_text(EXIT_INTERNAL, "out of memory");
	int status = take_options(&cli, argc, argv, words, &word_count);
	if (status == 0 && has_option(&cli, OPTION_VERSION)) {
		puts("tb4 " TB4_VERSION);
	} else if (status == 0 && word_count == 0) {
		if (has_option(&cli, OPTION_HELP))
			print_help(NULL);
		else
			status = fail_text(EXIT_BAD_USAGE, "needs a command: see tb4 --help");
	} else if (status == 0) {
		cli.command = find_command(words, word_count, &used);
		if (has_option(&cli, OPTION_HELP))
			status = print_help(cli.command);
		else if (!cli.command)
			status = refuse_words(words, word_count);
		else
			status = take_arguments(&cli, words + used, word_count - used);
		if (status == 0 && !has_option(&cli, OPTION_HELP))
			status = run(&cli);
	}
	free(words);
	if ((fflush(stdout) == EOF || ferror(stdout)) && status == 0)
		status = fail_text(EXIT_IO, "cannot write to standard output: %m");
	return status;
}
