/* tokenizer_files.h - tokenizers from the files of a model folder other than tokenizer.json.
 *
 * tokenizer.model   sentencepiece's ModelProto (BPE or unigram), or a tiktoken file by that name
 * tekken.json       Mistral's: {"config": {"pattern", ...}, "vocab": [{"rank", "token_bytes"}],
 *                   "special_tokens": [{"rank", "token_str", "is_control"}]}
 * *.tiktoken        a line for each token: base64 of its bytes, a blank, its rank
 *
 * What these files do not say stands beside them in tokenizer_config.json: added tokens with their
 * flags, and whether BOS and EOS are put around a text. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/json.h"
#include "host/text/tokenizer.h"

/* Any of the four kinds, told apart by `name` (the last part of a path) and the first byte.
 * `config`: tokenizer_config.json's root, or NULL. The bytes need a NUL behind; nothing is kept.
 * Errors begin with the name. */
MUST_USE bool tokenizer_open_file(struct tokenizer **tokenizer, const char *name, const char *bytes,
                                  size_t size, const struct json_ref *config, struct err *err);

/* One kind each; errors without a name. */
MUST_USE bool sentencepiece_open(struct tokenizer **tokenizer, const void *bytes, size_t size,
                                 const struct json_ref *config, struct err *err);
MUST_USE bool tekken_open(struct tokenizer **tokenizer, const char *bytes, size_t size,
                          const struct json_ref *config, struct err *err);
/* `pre`: the pre-tokenizer's name (pretok_names.h); NULL: by the number of tokens, which is a
 * family's signature; ERR_UNSUPPORTED when it is nobody's. */
MUST_USE bool tiktoken_open(struct tokenizer **tokenizer, const char *bytes, size_t size,
                            const char *pre, const struct json_ref *config, struct err *err);
