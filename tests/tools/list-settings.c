/* list-settings: prints "conf|volume SECTION NAME DEFAULT" for each setting, for the test of the manual. */
#include <stdio.h>

#include "config.h"
#include "volume/volume.h"

static void print(const char *file, const struct setting *table, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%s %s %s %s\n", file, table[i].section, table[i].name,
			table[i].fallback ? table[i].fallback : "-");
}

int main(void)
{
	print("conf", config_table, config_table_size);
	print("conf", config_sleds.table, config_sleds.table_size);
	print("volume", volume_table, volume_table_size);
	return 0;
}
