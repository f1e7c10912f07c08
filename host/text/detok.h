/* detok.h - ids to text, one id at a time, never half a character.
 *
 * Invariant: what all pushes and the final flush appended is equal to decoding the whole list at
 * once; bytes that can never become UTF-8 come out as U+FFFD exactly as a lossy decoder of the
 * whole would write them. For byte-level vocabularies that is one for each maximal subpart; for
 * bytes' tokens (<0xE4>) one for each byte, as sentencepiece writes them. There the `tokenizers`
 * library would also spoil the whole characters of a run of bytes with one bad byte in it, which
 * only a decoder that holds back the whole run could do; both agree on bytes that are text. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/text/tokenizer.h"

struct detok {
    const struct tokenizer *tokenizer; /* borrowed */
    bool skip_special;                 /* special tokens give no text */
    bool tight;                        /* of special tokens in a row, the later ones are written
                                          as the vocabulary has them; set it after init */
    bool last_special;                 /* with tight */
    bool any;                          /* a token was written: the next one is not the first */
    int32_t strip;                     /* so many leading blanks are still to be dropped */
    uint8_t pending[8];                /* the start of a character that is not complete yet */
    uint8_t n_pending;
};
void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special);
/* What is pushed goes on behind a prompt of these ids: its first token is none of a text (unless no
 * id of the prompt gives text), so that prompt and continuation, joined, are the whole. */
void detok_go_on(struct detok *detok, const int32_t *prompt, size_t n);
/* Appends the text that is certain now (perhaps nothing). Unknown ids give nothing. */
void detok_push(struct detok *detok, int32_t id, struct buf *out);
/* The end: what is pending comes out as U+FFFD. */
void detok_flush(struct detok *detok, struct buf *out);
/* All at once. */
void detok_all(const struct tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
               struct buf *out);
