#include "backend/backend-list.h"
#include "volume/volume.h"

const struct backend_operations *backend_for(const struct volume *volume)
{
	static const struct backend_operations *const by_kind[] = {
		[VOLUME_BACKEND_FILE] = &file_backend_operations,
		[VOLUME_BACKEND_CRUCIBLE] = &crucible_backend_operations,
	};
	return by_kind[volume->backend];
}
