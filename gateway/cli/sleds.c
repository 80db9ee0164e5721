#include "cli/sleds.h"

#include <errno.h>
#include <stdlib.h>

#include "cleanup.h"

int survey_sleds(const struct cli *cli, const char *name, struct survey **surveys, size_t *count, struct reason *reason)
{
	const struct config *config = &cli->config;
	const struct sled *one = name ? config_sled(config, name) : NULL;
	*surveys = NULL;
	*count = name ? 1 : config->sled_count;
	if (config->sled_count == 0)
		return reason_set(reason, -ENOENT, "no sleds: tb4.conf has no [sled NAME]");
	if (name && !one)
		return reason_set(reason, -ENOENT, "%s: no such sled in tb4.conf: see tb4 sled list", name);
	CLEANUP_FREE const struct sled **sleds = calloc(*count, sizeof *sleds);
	if (!sleds)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < *count; i++)
		sleds[i] = one ? one : &config->sleds[i];
	return sleds_survey(sleds, *count, surveys, reason);
}
