/* tokenizer.h - text <-> token ids, from a Hugging Face tokenizer.json (the `tokenizers` library's
 * file). Immutable after open: any number of threads may encode at once (scratch is per call).
 *
 * Pipeline: added tokens are cut out of the text; between them normalizer -> pre-tokenizer -> BPE;
 * then the post-processor. A component that is not known is refused by its name and type. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"

struct tokenizer;

/* Parses `json` (not kept). Errors: ERR_FORMAT with the component's path, ERR_UNSUPPORTED by name.
 */
MUST_USE bool tokenizer_open(struct tokenizer **tokenizer, const char *json, size_t length,
                             struct err *err);
void tokenizer_close(struct tokenizer *tokenizer);

enum {
    ENCODE_ADD_SPECIAL = 1, /* what the post-processor adds (BOS, EOS)                           */
    ENCODE_PARSE_SPECIAL = 2, /* text of tokens marked `special` becomes that token; without it */
    /* only added tokens that are not special are cut out                */
};
/* A growing list of ids; zero-initialize; ids is malloc'ed, free with ids_clear. */
struct ids {
    int32_t *ids;
    size_t n, capacity;
};
void ids_clear(struct ids *ids);
MUST_USE bool ids_push(struct ids *ids, int32_t id); /* false: out of memory */

/* Appends to `out`. `text` must be UTF-8 (else ERR_REQUEST with the byte offset). `barriers`:
 * ascending byte offsets that no special token may span (text that came from a user, chat.h);
 * NULL and 0 for none. Time O(n log n) whatever the text; memory O(n). */
MUST_USE bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                               unsigned flags, const size_t *barriers, size_t n_barriers,
                               struct ids *out, struct err *err);

/* One more than the largest id (holes allowed). */
int32_t tokenizer_size(const struct tokenizer *tokenizer);
/* The bytes that this id stands for in running text (byte-level decoded; not always UTF-8 by
 * itself). NULL for an id that does not exist. */
const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);
/* The id whose vocabulary text or added-token content is exactly this, or -1. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t length);
/* Contents of all tokens marked special, in no order; *n of them. Owned by the tokenizer. */
const char *const *tokenizer_specials(const struct tokenizer *tokenizer, size_t *n);
