/* charsmap.h - sentencepiece's precompiled map of characters to replacements ("nmt_nfkc" and its
 * like), as it lies in a model file or, base64, in a tokenizer.json.
 *
 *   u32 bytes of the trie | trie: u32 units of a double array | replacements, each ended by a NUL
 *
 * A unit (darts-clone): bits 0-7 the byte that leads here, bit 31 set: a value, bits 0-30; bit 8: a
 * value lies at this unit's offset; offset = bits 10-30, shifted left by 8 when bit 9 is set. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"

enum charsmap_rule {
    CHARSMAP_LONGEST,   /* sentencepiece: at every place the longest key */
    CHARSMAP_GRAPHEMES, /* `tokenizers`: what begins each grapheme cluster of at most 5 bytes is */
                        /* looked up for the whole of it, else for each of its characters;      */
                        /* always the shortest key                                               */
};
struct charsmap {
    uint8_t *bytes; /* owned copy of the map; NULL: none */
    size_t n_units, text_at, size;
    enum charsmap_rule rule;
    bool plain[128]; /* this ASCII character stays as it is before another one */
};
/* ERR_FORMAT: sizes that do not fit, replacements that are no UTF-8 or not ended. Empty bytes give
 * a map that changes nothing. */
MUST_USE bool charsmap_open(struct charsmap *map, const void *bytes, size_t size,
                            enum charsmap_rule rule, struct err *err);
void charsmap_close(struct charsmap *map);
/* Appends the mapped text. `text` is valid UTF-8. O(n). */
void charsmap_run(const struct charsmap *map, const char *text, size_t length, struct buf *out);
