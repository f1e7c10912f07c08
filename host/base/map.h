/* map.h - byte string -> int32, open addressing, built once, read by many threads.
 * Keys are copied into one block owned by the map. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"

struct map_slot {
    uint32_t hash, key_length;
    uint64_t key; /* offset into keys */
    int32_t value;
    bool used;
};
struct map {
    struct map_slot *slots;
    char *keys;
    size_t n, capacity, keys_used, keys_capacity; /* capacity: a power of two */
};

MUST_USE bool map_init(struct map *map, size_t n_expected, struct err *err);
void map_clear(struct map *map);
/* Sets or replaces. False only when out of memory. *was_new may be NULL. */
MUST_USE bool map_set(struct map *map, const void *key, size_t length, int32_t value,
                      bool *was_new);
/* The value, or `missing`. */
int32_t map_get(const struct map *map, const void *key, size_t length, int32_t missing);
