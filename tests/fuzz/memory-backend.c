#include "memory-backend.h"

#include <stdlib.h>
#include <string.h>

#include "checked.h"

static uint8_t memory[MEMORY_SIZE];
static const struct backend_operations operations;

/* The contract of backend.h, of which the caller must not break a word. */
static void check_contract(const struct backend *backend, const struct backend_request *request)
{
	const struct backend_geometry *geometry = &backend->geometry;
	bool moves = request->operation == BACKEND_READ || request->operation == BACKEND_WRITE;
	if (request->operation == BACKEND_FLUSH)
		return;
	if (!range_inside(request->offset, request->length, geometry->size) || request->length == 0 ||
		!is_aligned(request->offset, geometry->block_min) ||
		!is_aligned(request->length, geometry->block_min))
		abort();
	if (moves && !(request->flags & BACKEND_BORROWED) &&
		!is_aligned((uintptr_t)request->buffer, BACKEND_BUFFER_ALIGNMENT))
		abort();
}

static void submit(struct backend *backend, struct backend_request *request)
{
	check_contract(backend, request);
	switch (request->operation) {
	case BACKEND_READ:
		request->extents_count = 0;
		memcpy(request->buffer, memory + request->offset, request->length);
		break;
	case BACKEND_WRITE:
		memcpy(memory + request->offset, request->buffer, request->length);
		break;
	case BACKEND_ZERO:
		memset(memory + request->offset, 0, request->length);
		break;
	case BACKEND_STATUS:
		request->extents[0] = (struct backend_extent){ .length = request->length };
		request->extents_count = 1;
		break;
	case BACKEND_FLUSH:
	case BACKEND_TRIM:
	case BACKEND_CACHE:
		break;
	}
	request->done(request, 0);
}

static void status(struct backend *backend, struct json_object *object)
{
	(void)backend;
	(void)object;
}

static void resize(struct backend *backend, uint64_t size)
{
	(void)size;
	static const struct reason reason = { "memory does not grow" };
	backend->events.step(backend->events.context, BACKEND_RESIZED, -22, &reason);
}

static const struct backend_operations operations = {
	.name = "memory",
	.submit = submit,
	.resize = resize,
	.status = status,
};

struct backend *memory_backend(void)
{
	static struct backend backend;
	memset(memory, 0, sizeof memory);
	backend = (struct backend){
		.operations = &operations,
		.geometry = {
			.size = MEMORY_SIZE,
			.block_min = 512,
			.block_preferred = 4096,
			.trim = true,
			.zero = true,
			.fast_zero = true,
			.cache = true,
			.status = true,
			.fua = true,
			.holes = true,
		},
	};
	return &backend;
}
