/* metrics-text.h: what gateways count, in the text format of Prometheus: one family after the other with all VMs in each, as
 * the format demands. `tb4 metrics` and tb4-exporter print the same; tb4(1) describes each family. */
#ifndef TB4_METRICS_TEXT_H
#define TB4_METRICS_TEXT_H

#include <stdio.h>

#include "json-fields.h"

/* `gateways` is an array of what each gateway answers to "metrics"; one that does not answer has its vmid only. */
void metrics_write(FILE *out, struct json_object *gateways);

#endif
