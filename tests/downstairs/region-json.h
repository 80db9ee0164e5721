/* region-json.h: a region's definition as JSON, as upstream has it in region.json and at
 * /region-info. */
#ifndef DOWNSTAIRS_REGION_JSON_H
#define DOWNSTAIRS_REGION_JSON_H

#include "codec.h"

/* malloc'ed. */
char *region_to_json(const struct crucible_region *region);
/* NULL, or what is wrong with it. */
const char *region_from_json(const char *text, struct crucible_region *region);
/* NULL, or what is wrong with the numbers: powers of two, sizes that a downstairs can handle. */
const char *region_check(const struct crucible_region *region);

#endif
