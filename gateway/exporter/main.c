/* main.c: the program tb4-exporter, see tb4-exporter(8). */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "config.h"
#include "exporter/exporter.h"
#include "listen.h"
#include "log.h"
#include "version.h"

static const char usage_text[] =
	"usage: tb4-exporter [--config FILE]\n"
	"\n"
	"Serves the figures of all gateways of this node over HTTP, for Prometheus, in the foreground,\n"
	"until SIGTERM or SIGINT.\n"
	"\n"
	"  --config FILE  read FILE instead of " CONFIG_DEFAULT_PATH "\n"
	"  --help         show this text\n"
	"  --version      show the version\n"
	"\n"
	"See tb4-exporter(8). Exit status: 0 stopped in order, 64 bad usage, 73 the port is taken,\n"
	"78 bad configuration; others as in tb4(1).\n";

enum { OPTION_CONFIG = 1, OPTION_HELP, OPTION_VERSION };

static const struct option options[] = {
	{ "config", required_argument, NULL, OPTION_CONFIG },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

/* Serves until a signal comes. All threads inherit that these are blocked. */
static int serve(const struct config *config)
{
	struct reason reason;
	struct exporter *exporter;
	sigset_t ends;
	int number;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGHUP);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = listen_http(config->exporter_listen, &reason);
	int status = fd < 0 ? fd : exporter_open(config->run_dir, fd, &exporter, &reason);
	if (status < 0) {
		log_error("%s", reason.text);
		return exit_status_for(status);
	}
	log_info("serving http://%s/metrics", config->exporter_listen);
	sd_notifyf(0, "READY=1\nSTATUS=Serving http://%s/metrics", config->exporter_listen);
	sigwait(&ends, &number);
	sd_notify(0, "STOPPING=1");
	log_info("stopping: signal %d", number);
	exporter_close(exporter);
	return 0;
}

int main(int argc, char **argv)
{
	struct config config;
	const char *config_path = NULL;
	log_open("tb4-exporter", LOG_LEVEL_INFO);
	opterr = 0;
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (option) {
		case OPTION_CONFIG:
			config_path = optarg;
			break;
		case OPTION_HELP:
			fputs(usage_text, stdout);
			return 0;
		case OPTION_VERSION:
			puts("tb4-exporter " TB4_VERSION);
			return 0;
		default:
			log_error("%s: unknown option, or one that needs a value: see --help", argv[optind - 1]);
			return EXIT_BAD_USAGE;
		}
	}
	if (optind != argc) {
		log_error("%s: takes no arguments: see --help", argv[optind]);
		return EXIT_BAD_USAGE;
	}
	int status = EXIT_BAD_CONFIG;
	if (config_read_and_log(config_path, &config) == 0)
		status = serve(&config);
	config_free(&config);
	return status;
}
