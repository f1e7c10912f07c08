/* file.h - files as bytes: mapped whole (model weights) or read whole (small texts).
 * Only regular files; a FIFO, a directory or a device is refused by name. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct file_map {
    const uint8_t
        *bytes; /* read-only mapping, or memory that somebody else owns (file_map_memory) */
    size_t size;
    bool mapped;
};
/* An empty file is an error (ERR_FORMAT). Code ERR_NOT_FOUND when there is no such file. */
MUST_USE bool file_map(struct file_map *map, const char *path, struct err *err);
/* Borrow bytes that live for ever (the embedded model). */
void file_map_memory(struct file_map *map, const void *bytes, size_t size);
void file_unmap(struct file_map *map);
/* The kernel may drop these pages; they come back from the file when touched again. */
void file_map_drop(const struct file_map *map, const void *from, size_t bytes);
/* malloc'ed bytes with a NUL behind; refuses over size_max. */
MUST_USE bool file_read(const char *path, size_t size_max, char **bytes, size_t *size,
                        struct err *err);
bool file_exists(const char *path);

#ifdef __cplusplus
}
#endif
