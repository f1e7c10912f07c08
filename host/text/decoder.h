/* decoder.h - what a token's text becomes in running text: the decoder of a tokenizer.json.
 *
 * Some of it is done to each token by itself (Replace, Metaspace, WordPiece, byte tokens), once for
 * the whole vocabulary when the tokenizer is opened; the rest to the joined text as it streams
 * (detok.h): the first token's own form, and blanks that are stripped from the beginning. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/json.h"
#include "host/text/split_regex.h"
#include "host/text/vocab.h"

enum { DECODER_STEPS_MAX = 16 };
enum decoder_kind {
    DECODER_REPLACE,   /* every match becomes `content`                                     */
    DECODER_METASPACE, /* `content`, a mark, becomes a blank; in the first token nothing    */
    DECODER_WORDPIECE, /* not the first token: `content` before it goes, else a blank comes */
    DECODER_BLANK,     /* no decoder: tokens are joined by blanks                           */
};
struct decoder_step {
    enum decoder_kind kind;
    char *content; /* owned */
    char *literal; /* replace: what is looked for, or NULL; owned */
    struct split_regex *regex;
    bool first_too; /* metaspace: marks of the first token become blanks too */
    bool cleanup;   /* wordpiece: no blanks before punctuation and contractions */
};
struct decoder {
    bool byte_level; /* the vocabulary has bytes: nothing to do */
    struct decoder_step steps[DECODER_STEPS_MAX];
    int32_t n_steps;
    bool byte_fallback; /* a token <0xE4> is that byte */
    bool fused;         /* while parsing: what follows sees the joined text */
    /* Up to this many of this character are dropped where the text begins. */
    int32_t strip;
    char strip_content[5];
    /* The table; NULL when byte_level. */
    uint32_t *offsets; /* [n + 1] into bytes */
    char *bytes;
    int32_t n;
};
/* `node`: the value of "decoder", perhaps absent. On false nothing is left to clear. Errors name
 * the component by its path. */
MUST_USE bool decoder_open(struct decoder *decoder, const struct json_ref *node, struct err *err);
/* What sentencepiece does: U+2581 is a blank, byte tokens are bytes, and `strip` blanks go from the
 * beginning. Into a zeroed decoder; on false it is to be cleared still. */
MUST_USE bool decoder_open_mark(struct decoder *decoder, int32_t strip, struct err *err);
void decoder_clear(struct decoder *decoder);

/* Fills the table from the vocabulary, which is kept no longer. ERR_MEMORY, or ERR_UNSUPPORTED: a
 * token's text would be longer than the vocabulary allows. */
MUST_USE bool decoder_build(struct decoder *decoder, const struct vocab *vocab, struct err *err);
/* Is a token's form at the beginning another one than in the table? */
bool decoder_first_differs(const struct decoder *decoder);
/* Appends the form of this token text at the beginning of a text. */
MUST_USE bool decoder_first(const struct decoder *decoder, const char *text, size_t length,
                            struct buf *out, struct err *err);
