/* unicode.h - what the tokenizer must know about characters: classes and normal forms.
 * Character data: utf8proc (Unicode 13 in Debian 12). Pure functions, any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"

/* The offset of the first byte that does not begin well-formed UTF-8 (RFC 3629), or `length`. */
size_t unicode_check(const char *text, size_t length);

bool unicode_is_ascii(const char *text, size_t length);

/* The code point at text[0..) of well-formed UTF-8; *length (1..4) is how many bytes it takes. */
static inline uint32_t unicode_decode(const char *text, unsigned *length)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80) {
        *length = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *length = 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *length = 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *length = 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
           (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}
/* The same for the character that ends before text[end], end > 0. */
uint32_t unicode_decode_before(const char *text, size_t end, unsigned *length);
/* Writes 1..4 bytes, returns how many. */
unsigned unicode_encode(uint32_t code, char out[4]);

bool unicode_is_space(uint32_t code);      /* White_Space                                   */
bool unicode_is_numeric(uint32_t code);    /* Nd, Nl, No                                    */
bool unicode_is_punct(uint32_t code);      /* ASCII punctuation and symbols, P* of Unicode 8 */
bool unicode_is_mark(uint32_t code);       /* Mn, Mc, Me                                    */
bool unicode_is_nonspacing(uint32_t code); /* Mn                                         */
bool unicode_is_other(uint32_t code);      /* Cc, Cf, Co; not Cn                            */
bool unicode_is_ideograph(uint32_t code);  /* what BERT puts blanks around: CJK ideographs */
bool unicode_is_word(uint32_t code);       /* UTS 18 word: Alphabetic, M, Nd, Pc, Join_Control */

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };
/* Is this text certainly in that form already (one quick pass)? */
bool unicode_is_normal(enum unicode_form form, const char *text, size_t length);
/* Appends the text in that form (UAX 15). O(n log n) at worst, also for a megabyte of combining
 * marks. False only when out of memory (out->failed stays the writer's own matter). */
MUST_USE bool unicode_normalize(enum unicode_form form, const char *text, size_t length,
                                struct buf *out, struct err *err);
/* Appends the full lower-case mapping of every character by itself (no final-sigma rule). */
void unicode_lower(const char *text, size_t length, struct buf *out);
