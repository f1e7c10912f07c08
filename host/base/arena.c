/* arena.c - memory that lives and dies together.
 *
 * Invariant: `used` is the sum of the bytes handed out (rounded up to 16) and never exceeds
 * `limit`; every chunk but the last is left as it was when the next one began. One thread. */
#include "host/base/arena.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, CHUNK_FIRST = 4096, CHUNK_GROWTH_MAX = 1 << 24 };

struct arena_chunk {
    struct arena_chunk *before;
    size_t used, capacity; /* of bytes */
    _Alignas(ALIGN) char bytes[];
};

void arena_init(struct arena *arena, size_t limit)
{
    *arena = (struct arena){ .limit = limit };
}

static void free_until(struct arena *arena, const struct arena_chunk *keep)
{
    while (arena->last != keep) {
        struct arena_chunk *chunk = arena->last;
        CHECK(chunk != NULL);
        arena->last = chunk->before;
        free(chunk);
    }
}

void arena_clear(struct arena *arena)
{
    free_until(arena, NULL);
    arena->used = 0;
}

/* A chunk with room for `need`: twice the last one (up to 16 MiB, so that a big arena wastes
 * little), but not beyond what the limit still allows. need <= limit - used holds. */
static bool add_chunk(struct arena *arena, size_t need)
{
    size_t capacity = arena->last ? arena->last->capacity : CHUNK_FIRST / 2;
    capacity = capacity < CHUNK_GROWTH_MAX / 2 ? 2 * capacity : CHUNK_GROWTH_MAX;
    if (capacity > arena->limit - arena->used)
        capacity = arena->limit - arena->used;
    if (capacity < need)
        capacity = need;
    if (capacity > SIZE_MAX / 2)
        return false;
    struct arena_chunk *chunk = malloc(sizeof *chunk + capacity);
    if (!chunk)
        return false;
    chunk->before = arena->last;
    chunk->used = 0;
    chunk->capacity = capacity;
    arena->last = chunk;
    return true;
}

void *arena_take(struct arena *arena, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - ALIGN)
        return NULL;
    bytes = bytes == 0 ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > arena->limit - arena->used)
        return NULL;
    struct arena_chunk *chunk = arena->last;
    if (!chunk || bytes > chunk->capacity - chunk->used) {
        if (!add_chunk(arena, bytes))
            return NULL;
        chunk = arena->last;
    }
    void *place = chunk->bytes + chunk->used;
    chunk->used += bytes;
    arena->used += bytes;
    return memset(place, 0, bytes);
}

char *arena_copy(struct arena *arena, const void *bytes, size_t length)
{
    if (length == SIZE_MAX)
        return NULL;
    char *copy = arena_take(arena, length + 1, 1);
    if (copy && length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

struct arena_mark arena_mark(const struct arena *arena)
{
    return (struct arena_mark){ arena->last, arena->last ? arena->last->used : 0, arena->used };
}

void arena_reset(struct arena *arena, struct arena_mark mark)
{
    CHECK(mark.used <= arena->used);
    free_until(arena, mark.chunk);
    if (mark.chunk)
        mark.chunk->used = mark.chunk_used;
    arena->used = mark.used;
}
