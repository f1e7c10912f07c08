/* charset.h - sets of code points, and how they are written: as UTF-8, or inside of a JSON string.
 */
#pragma once
#include "host/grammar/expr.h"

struct char_range {
    uint32_t low, high;
};
/* In the workshop's scratch; zero-initialize. */
struct charset {
    struct char_range *ranges;
    uint32_t n, capacity;
};
enum { CODE_POINT_MAX = 0x10ffff };
/* CHARS_JSON: '"', '\' and control characters as escapes (\n or \u000a), the rest as it is; U+0000
 * cannot be written. */
enum char_form { CHARS_RAW, CHARS_JSON };

void charset_add(struct workshop *work, struct charset *set, uint32_t low, uint32_t high);
/* Ascending, not touching. */
void charset_sort(struct charset *set);
/* All that is not in it. Sorts. */
void charset_negate(struct workshop *work, struct charset *set);
/* One character of the set; surrogates are never. Sorts. */
uint32_t expr_charset(struct workshop *work, struct charset *set, enum char_form form);
/* A text in that form; JSON's without its quotes. `bytes` is UTF-8. */
uint32_t expr_written(struct workshop *work, const char *bytes, size_t length, enum char_form form);
/* The code point at bytes[0..left), which is well-formed, and its length. */
uint32_t code_point_at(const char *bytes, size_t left, int *length);
/* The first byte that is not UTF-8, or `length`. */
size_t text_not_utf8(const char *bytes, size_t length);
