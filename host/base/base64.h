/* base64.h - RFC 4648 base64 to bytes. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/err.h"

/* The most bytes that base64 of this length can stand for. */
static inline size_t base64_room(size_t length)
{
    return length / 4 * 3 + 3;
}
/* Into out[0..base64_room(length)). False: a character outside of the alphabet, or a length that no
 * bytes give; padding may be left out. */
MUST_USE bool base64_decode(const char *text, size_t length, void *out, size_t *n_out);
