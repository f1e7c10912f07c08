/* tokenizer_parts.h - what a tokenizer is made of. For tokenizer.c and tokenizer_load.c alone. */
#pragma once
#include "host/text/added.h"
#include "host/text/bpe.h"
#include "host/text/normalize.h"
#include "host/text/pretokenize.h"
#include "host/text/tokenizer.h"
#include "host/text/vocab.h"

enum model_kind {
    MODEL_BPE_BYTES, /* byte-level BPE */
};
struct tokenizer {
    enum model_kind kind;
    struct vocab vocab;
    struct bpe bpe;
    struct normalizer normalizer;
    struct pretok pretok;
    struct added_set added;            /* looked for in the text as it comes */
    struct added_set added_normalized; /* looked for in normalized text      */
    struct ids prefix, suffix;         /* what the post-processor puts around a text */
    const char **specials;             /* [n_specials] into the added sets */
    size_t n_specials;
};
