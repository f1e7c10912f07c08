/* tokenizer_parts.h - what a tokenizer is made of. For tokenizer.c, detok.c and those that build
 * one (tokenizer_load.c, tokenizer_build.c) alone. */
#pragma once
#include "host/text/added.h"
#include "host/text/bpe.h"
#include "host/text/decoder.h"
#include "host/text/normalize.h"
#include "host/text/pretokenize.h"
#include "host/text/tokenizer.h"
#include "host/text/unigram.h"
#include "host/text/vocab.h"
#include "host/text/wordpiece.h"

enum model_kind {
    MODEL_BPE, /* of bytes or of characters, as the vocabulary is */
    MODEL_UNIGRAM,
    MODEL_WORDPIECE,
};
struct tokenizer {
    enum model_kind kind;
    struct vocab vocab;
    struct bpe bpe; /* the one that `kind` says; the others are zero */
    struct unigram unigram;
    struct wordpiece wordpiece;
    struct decoder decoder;
    struct normalizer normalizer;
    struct pretok pretok;
    struct added_set added;            /* looked for in the text as it comes */
    struct added_set added_normalized; /* looked for in normalized text      */
    struct ids prefix, suffix;         /* what the post-processor puts around a text */
    const char **specials;             /* [n_specials] into the added sets */
    size_t n_specials;
};
