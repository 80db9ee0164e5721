/* limits.c: `tb4 volume limit` and `tb4 limit`: how much a volume, or a VM as a whole, may use. They are stored, and a gateway
 * that runs is told to read them. */
#include <errno.h>

#include "cleanup.h"
#include "cli/cli.h"
#include "volume/vm.h"

static bool changes(const struct cli *cli)
{
	return has_option(cli, OPTION_IOPS) || has_option(cli, OPTION_BYTES_PER_SECOND) || has_option(cli, OPTION_BURST);
}

/* What the options say; the others stay. */
static int change(const struct cli *cli, struct limits *limits, struct reason *reason)
{
	const char *bytes = cli->values[OPTION_BYTES_PER_SECOND];
	int status = number_option(cli, OPTION_IOPS, 0, LIMITS_IOPS_MAX, &limits->iops, reason);
	if (status == 0)
		status = number_option(cli, OPTION_BURST, 1, LIMITS_BURST_MAX, &limits->burst, reason);
	if (status == 0 && bytes && size_parse(bytes, &limits->bytes_per_second) < 0)
		status = reason_set(reason, -EINVAL, "--bytes-per-second %s: not a size such as 100M", bytes);
	return status;
}

static int store_of_volume(const struct cli *cli, struct volume *volume, struct reason *reason)
{
	CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
	CLEANUP(volume_free) struct volume present = { 0 };
	int status = lock < 0 ? lock : volume_load(&cli->config, volume->name, &present, reason);
	if (status == 0)
		status = change(cli, &present.limits, reason);
	if (status == 0 && !has_option(cli, OPTION_DRY_RUN))
		status = volume_write(&cli->config, &present, reason);
	volume->limits = present.limits;
	return status;
}

static int store_of_vm(const struct cli *cli, uint64_t vmid, struct vm *vm, struct reason *reason)
{
	CLEANUP_CLOSE int lock = volumes_lock(&cli->config, reason);
	int status = lock < 0 ? lock : vm_load(&cli->config, vmid, vm, reason);
	if (status == 0)
		status = change(cli, &vm->limits, reason);
	if (status == 0 && !has_option(cli, OPTION_DRY_RUN))
		status = vm_write(vm, reason);
	return status;
}

/* A gateway that does not run reads them when it starts. */
static int tell_gateway(const struct cli *cli, uint64_t vmid, int *refused, struct reason *reason)
{
	CLEANUP_JSON struct json_object *answer = NULL;
	struct json_object *request = new_request("reload");
	json_add_switch(request, "only_limits", true);
	int status = change_by_gateway(cli, vmid, request, refused, &answer, reason);
	return status == -ECONNREFUSED ? 0 : status;
}

static int print(const struct cli *cli, const char *name, const struct limits *limits)
{
	char bytes[SIZE_TEXT_MAX];
	bool dry_run = has_option(cli, OPTION_DRY_RUN);
	if (has_option(cli, OPTION_JSON)) {
		struct json_object *object = json_object_new_object();
		json_add_text(object, "name", name);
		json_add_number(object, "iops", limits->iops);
		json_add_number(object, "bytes_per_second", limits->bytes_per_second);
		json_add_number(object, "burst", limits->burst);
		if (changes(cli))
			json_add_switch(object, "dry_run", dry_run);
		return print_json(object);
	}
	printf("%s%s: ", changes(cli) && dry_run ? "would limit " : "", name);
	if (limits->iops)
		printf("%llu requests/s", (unsigned long long)limits->iops);
	if (limits->bytes_per_second)
		printf("%s%s/s", limits->iops ? ", " : "", size_for_people(limits->bytes_per_second, bytes));
	if (limits->iops || limits->bytes_per_second)
		printf(", bursts of %llu s\n", (unsigned long long)limits->burst);
	else
		puts("no limits");
	return 0;
}

int command_volume_limit(struct cli *cli)
{
	CLEANUP(volume_free) struct volume volume = { 0 };
	struct reason reason;
	int refused = 0, status = find_volume(cli, cli->arguments[0], &volume, &reason);
	if (status == 0 && changes(cli))
		status = store_of_volume(cli, &volume, &reason);
	if (status == 0 && changes(cli) && !has_option(cli, OPTION_DRY_RUN))
		status = tell_gateway(cli, volume.parsed.vmid, &refused, &reason);
	return status < 0 ? fail_change(refused, status, &reason) : print(cli, volume.name, &volume.limits);
}

int command_limit(struct cli *cli)
{
	CLEANUP(vm_free) struct vm vm = { 0 };
	struct reason reason;
	char name[32];
	uint64_t vmid;
	int refused = 0;
	if (vmid_parse(cli->arguments[0], &vmid) < 0)
		return fail_text(EXIT_BAD_USAGE, "%s: not the number of a VM: see tb4 volume limit", cli->arguments[0]);
	int status = changes(cli) ? store_of_vm(cli, vmid, &vm, &reason) : vm_load(&cli->config, vmid, &vm, &reason);
	if (status == 0 && changes(cli) && !has_option(cli, OPTION_DRY_RUN))
		status = tell_gateway(cli, vmid, &refused, &reason);
	snprintf(name, sizeof name, "VM %llu", (unsigned long long)vmid);
	return status < 0 ? fail_change(refused, status, &reason) : print(cli, name, &vm.limits);
}
