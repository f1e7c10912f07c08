/* added.h - added tokens: whole texts that become one id before anything else looks at them.
 *
 * One set holds the tokens that are looked for in the same text (those that are `normalized` are
 * looked for in normalized text, the others before). Matching is leftmost, then longest, then not
 * overlapping, as the `tokenizers` library does it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"

enum {
    ADDED_SINGLE_WORD = 1, /* not next to a word character                */
    ADDED_LSTRIP = 2,      /* takes the white space before it             */
    ADDED_RSTRIP = 4,      /* takes the white space behind it             */
    ADDED_NORMALIZED = 8,  /* is normalized, and looked for in normalized */
    ADDED_SPECIAL = 16,    /* control, not text                           */
};
struct added_token {
    char *text; /* owned, valid UTF-8 */
    size_t length;
    int32_t id;
    unsigned flags;
    size_t order; /* of adding */
};
struct added_set {
    struct added_token *tokens; /* sorted by text after added_set_sort, no two alike */
    size_t n, capacity;
    bool first[256]; /* some token begins with this byte */
    bool any_special;
};
/* Copies the text, which must not be empty. False: out of memory. */
MUST_USE bool added_set_add(struct added_set *set, const char *text, size_t length, int32_t id,
                            unsigned flags);
/* Ends the building. Of tokens with the same text a special one stays, else the one added first. */
void added_set_sort(struct added_set *set);
void added_set_clear(struct added_set *set);

struct added_cut {
    const struct added_set *set;
    const char *text; /* valid UTF-8 */
    size_t length;
    bool parse_special; /* false: special tokens are text */
    /* No special token spans one of these; ascending offsets, of which `base` is text[0]. */
    const size_t *barriers;
    size_t n_barriers, base;
    /* The walk's own; zero-initialize. */
    size_t at, done, space_end;
    bool waiting;
    int32_t waiting_id;
};
enum added_found { ADDED_END, ADDED_TEXT, ADDED_ID };
/* The next part in order: text[*start, *end) that is no added token, or an id. */
enum added_found added_next(struct added_cut *cut, size_t *start, size_t *end, int32_t *id);
