/* main.c: the program tb4-gateway, see tb4-gateway(8). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway.h"
#include "kernel/io-flusher.h"
#include "log.h"
#include "reason.h"
#include "version.h"
#include "volume/volume.h"

static const char usage_text[] =
	"usage: tb4-gateway [--config FILE] [--stdio] [--kernel-client] VMID\n"
	"\n"
	"Serves the volumes of one VM over NBD, in the foreground, until SIGTERM or SIGINT.\n"
	"\n"
	"  --config FILE    read FILE instead of " CONFIG_DEFAULT_PATH "\n"
	"  --stdio          serve one client on standard input and output, then stop\n"
	"  --kernel-client  lock memory, as a volume is a device of this host's kernel\n"
	"  --help           show this text\n"
	"  --version        show the version\n"
	"\n"
	"See tb4-gateway(8). Exit status: 0 stopped in order, 64 bad usage, 66 no such VM,\n"
	"75 in use elsewhere, 78 bad configuration, 90 fenced; others as in tb4(1).\n";

enum { OPTION_CONFIG = 1, OPTION_STDIO, OPTION_KERNEL_CLIENT, OPTION_HELP, OPTION_VERSION };

static const struct option options[] = {
	{ "config", required_argument, NULL, OPTION_CONFIG },
	{ "stdio", no_argument, NULL, OPTION_STDIO },
	{ "kernel-client", no_argument, NULL, OPTION_KERNEL_CLIENT },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

int main(int argc, char **argv)
{
	struct config config;
	struct gateway_options run = { .config = &config };
	const char *config_path = NULL;
	bool kernel_client = false;
	char program[32] = "tb4-gateway";
	log_open(program, LOG_LEVEL_INFO);
	opterr = 0;
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (option) {
		case OPTION_CONFIG:
			config_path = optarg;
			break;
		case OPTION_STDIO:
			run.stdio = true;
			break;
		case OPTION_KERNEL_CLIENT:
			kernel_client = true;
			break;
		case OPTION_HELP:
			fputs(usage_text, stdout);
			return 0;
		case OPTION_VERSION:
			puts("tb4-gateway " TB4_VERSION);
			return 0;
		default:
			/* inside a word of short options optind has not moved on yet */
			log_error("%s: unknown option, or one that needs a value: see --help",
				optopt && argv[optind] && argv[optind][0] == '-' && argv[optind][1] == optopt
					? argv[optind]
					: argv[optind - 1]);
			return EXIT_BAD_USAGE;
		}
	}
	if (optind + 1 != argc) {
		log_error("needs the number of one VM: see --help");
		return EXIT_BAD_USAGE;
	}
	if (vmid_parse(argv[optind], &run.vmid) < 0) {
		log_error("%s: not the number of a VM (%d to %d)", argv[optind], VMID_MIN, VMID_MAX);
		return EXIT_BAD_USAGE;
	}
	snprintf(program, sizeof program, "tb4-gateway[%llu]", (unsigned long long)run.vmid);
	log_set_vmid(run.vmid);
	if (config_read_and_log(config_path, &config) < 0) {
		config_free(&config);
		return EXIT_BAD_CONFIG;
	}
	struct reason reason;
	if (kernel_client && become_io_flusher(&reason) < 0)
		log_warning("%s", reason.text);
	int status = gateway_run(&run);
	config_free(&config);
	return status;
}
