/* crucible-status.h: what an operator should know of a Crucible volume, as JSON; described in tb4(1), "JSON OUTPUT". */
#ifndef TB4_CRUCIBLE_STATUS_H
#define TB4_CRUCIBLE_STATUS_H

struct json_object;
struct upstairs_status;
struct volume;

void crucible_status_add(const struct upstairs_status *status, const struct volume *volume, struct json_object *object);

#endif
