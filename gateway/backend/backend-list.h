/* backend-list.h: the backends there are, for backend.c alone and the files that define them. */
#ifndef TB4_BACKEND_LIST_H
#define TB4_BACKEND_LIST_H

#include "backend/backend.h"

extern const struct backend_operations crucible_backend_operations;
extern const struct backend_operations file_backend_operations;

#endif
