/* arena.h - memory that lives and dies together, with a limit.
 *
 * Chunks come from malloc and grow geometrically up to `limit` bytes in all. Nothing is freed
 * singly: mark/reset gives back what came after a mark, clear gives back all. Not thread-safe. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/err.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *last;
    size_t used, limit; /* bytes handed out (padding included); the most that may be */
};
struct arena_mark {
    struct arena_chunk *chunk;
    size_t chunk_used, used;
};

void arena_init(struct arena *arena, size_t limit);
void arena_clear(struct arena *arena);

/* n * size bytes, 16-byte aligned, zeroed. NULL when over the limit, on overflow of n * size, or
 * when malloc fails. n * size == 0 gives a valid pointer. */
void *arena_take(struct arena *arena, size_t n, size_t size);
/* A copy of bytes[0..length) with a NUL behind. NULL as above. */
char *arena_copy(struct arena *arena, const void *bytes, size_t length);

struct arena_mark arena_mark(const struct arena *arena);
void arena_reset(struct arena *arena, struct arena_mark mark);
