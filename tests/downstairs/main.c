/* tb4-test-downstairs: a Crucible downstairs for tests, with upstream's semantics and faults on
 * demand. Its directories are laid out as upstream's, so that upstream's tools can read them.
 *
 * usage: tb4-test-downstairs create --dir D [--block-size 4096] [--extent-size 100]
 *                                   [--extent-count 15] [--uuid U] [--encrypted]
 *        tb4-test-downstairs run --dir D --port P [--address 127.0.0.1] [--repair-port P+4000]
 *                                [--read-only] [--control SOCKET] [--sync] [--silence-limit MS]
 *        tb4-test-downstairs dump --dir D [--dir D2 [--dir D3]] [--data]
 *        tb4-test-downstairs verify --dir D
 *        tb4-test-downstairs version
 *
 * Upstream's -d, -u, -p and -a are taken too, so that it can be the program of a sled.
 *
 * run: --control takes the commands in faults.h; --sync makes syncs reach the medium; without a
 * frame for --silence-limit (45000) an upstairs is dropped. Prints "ready" when it listens. What
 * aborts upstream's process aborts this one.
 * dump: generation and flush number of each extent, and whether it is dirty, side by side; exit
 * status 1 if they differ. With --data blocks and their contexts are compared too.
 * verify: exit status 1 if a block does not fit its hash.
 */
#include <err.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"

static int command_version(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("Crucible Version: test\nUpstairs <-> Downstairs Message Version: 13\n");
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "create", command_create },
	{ "run", command_run },
	{ "dump", command_dump },
	{ "verify", command_verify },
	{ "version", command_version },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	errx(2, "usage: tb4-test-downstairs create|run|dump|verify|version OPTION..., see the head of main.c");
}
