/* map.c - byte string -> int32 with linear probing.
 *
 * Invariant: at most two thirds of the slots are used, so every probe ends; slots and keys only
 * grow. One thread builds; afterwards any number may read. */
#include "host/base/map.h"
#include <stdlib.h>
#include <string.h>

/* Eight bytes a step through a multiply and a fold of its upper half (the murmur finalizer's
 * constants). Not keyed: vocabularies come from the operator's own files. */
static uint32_t hash_of(const void *key, size_t length)
{
    const char *p = key;
    uint64_t h = 0x9e3779b97f4a7c15u ^ length, word;
    for (; length >= 8; p += 8, length -= 8) {
        memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    word = 0;
    if (length > 0)
        memcpy(&word, p, length);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h >> 32);
}

bool map_init(struct map *map, size_t n_expected, struct err *err)
{
    *map = (struct map){ 0 };
    size_t capacity = 16, need;
    bool fits = !__builtin_mul_overflow(n_expected, (size_t)2, &need);
    while (fits && capacity < need)
        fits = !__builtin_mul_overflow(capacity, (size_t)2, &capacity);
    if (fits)
        map->slots = calloc(capacity, sizeof *map->slots);
    if (!map->slots)
        return err_set(err, ERR_MEMORY, "no memory for a table of %zu keys", n_expected);
    map->capacity = capacity;
    return true;
}

void map_clear(struct map *map)
{
    free(map->slots);
    free(map->keys);
    *map = (struct map){ 0 };
}

/* The slot that holds the key, or the free one where it belongs. */
static struct map_slot *find(const struct map *map, uint32_t hash, const void *key, size_t length)
{
    size_t mask = map->capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct map_slot *slot = &map->slots[i];
        if (!slot->used)
            return slot;
        if (slot->hash == hash && slot->key_length == length &&
            (length == 0 || memcmp(map->keys + slot->key, key, length) == 0))
            return slot;
    }
}

static bool grow_slots(struct map *map)
{
    size_t capacity;
    if (__builtin_mul_overflow(map->capacity, (size_t)2, &capacity))
        return false;
    struct map_slot *slots = calloc(capacity, sizeof *slots);
    if (!slots)
        return false;
    for (size_t old = 0; old < map->capacity; old++) {
        if (!map->slots[old].used)
            continue;
        size_t i = map->slots[old].hash & (capacity - 1);
        while (slots[i].used)
            i = (i + 1) & (capacity - 1);
        slots[i] = map->slots[old];
    }
    free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    return true;
}

static bool grow_keys(struct map *map, size_t more)
{
    size_t need;
    if (__builtin_add_overflow(map->keys_used, more, &need) || need > SIZE_MAX / 4)
        return false;
    if (need <= map->keys_capacity)
        return true;
    size_t capacity = map->keys_capacity < 256 ? 256 : map->keys_capacity;
    while (capacity < need)
        capacity *= 2;
    char *keys = realloc(map->keys, capacity);
    if (!keys)
        return false;
    map->keys = keys;
    map->keys_capacity = capacity;
    return true;
}

bool map_set(struct map *map, const void *key, size_t length, int32_t value, bool *was_new)
{
    if (length > UINT32_MAX)
        return false;
    uint32_t hash = hash_of(key, length);
    struct map_slot *slot = find(map, hash, key, length);
    if (was_new)
        *was_new = !slot->used;
    if (slot->used) {
        slot->value = value;
        return true;
    }
    if (!grow_keys(map, length))
        return false;
    if (map->n >= map->capacity / 3 * 2) {
        if (!grow_slots(map))
            return false;
        slot = find(map, hash, key, length);
    }
    if (length > 0)
        memcpy(map->keys + map->keys_used, key, length);
    *slot = (struct map_slot){ .hash = hash,
                               .key_length = (uint32_t)length,
                               .key = map->keys_used,
                               .value = value,
                               .used = true };
    map->keys_used += length;
    map->n++;
    return true;
}

int32_t map_get(const struct map *map, const void *key, size_t length, int32_t missing)
{
    if (map->n == 0 || length > UINT32_MAX)
        return missing;
    const struct map_slot *slot = find(map, hash_of(key, length), key, length);
    return slot->used ? slot->value : missing;
}
