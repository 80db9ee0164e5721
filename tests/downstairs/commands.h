/* commands.h: the subcommands of tb4-test-downstairs, see main.c. Each returns the exit status. */
#ifndef DOWNSTAIRS_COMMANDS_H
#define DOWNSTAIRS_COMMANDS_H

int command_create(int argc, char **argv);
int command_run(int argc, char **argv);
int command_dump(int argc, char **argv);
int command_verify(int argc, char **argv);

#endif
