/* memory-backend.h: a backend of 1 MiB of memory that does everything at once, with blocks of 512. */
#ifndef MEMORY_BACKEND_H
#define MEMORY_BACKEND_H

#include "backend/backend.h"

enum { MEMORY_SIZE = 1 << 20 };

/* There is one; zeroed by each call. */
struct backend *memory_backend(void);

#endif
