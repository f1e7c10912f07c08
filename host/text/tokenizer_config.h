/* tokenizer_config.h - what tokenizer_config.json adds to a vocabulary. For the readers of
 * tokenizer_files.h. */
#pragma once
#include "host/base/json.h"
#include "host/text/tokenizer_build.h"

/* Reads `added_tokens_decoder` into build->added, which the caller frees with free() (texts are
 * borrowed from the JSON). Without it, or without a config, nothing. */
MUST_USE bool config_added(struct tokenizer_build *build, const struct json_ref *config,
                           struct err *err);
/* Drops build->bos or build->eos where `add_bos_token` or `add_eos_token` says so, or, where
 * nothing is said, by the defaults. */
MUST_USE bool config_ends(struct tokenizer_build *build, const struct json_ref *config,
                          bool bos_default, bool eos_default, struct err *err);
