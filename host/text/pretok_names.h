/* pretok_names.h - pre-tokenizers by the names that GGUF files use (tokenizer.ggml.pre).
 *
 * Each name stands for the pre-tokenizer of one family's own tokenizer.json; patterns are that
 * file's, applied one after the other. */
#pragma once
#include <stdbool.h>
#include "host/base/err.h"
#include "host/text/pretokenize.h"

struct pretok_name {
    const char *name;
    const char *const *patterns; /* NULL behind the last; Ruby syntax */
    bool nfc;                    /* the text is brought into NFC first                  */
    bool ignore_merges;          /* a piece that is a token is that token               */
    bool add_bos;                /* unless the file says otherwise                      */
};
/* NULL: no such name. */
const struct pretok_name *pretok_name_find(const char *name);
/* Into a zeroed pretok. On false it is to be cleared still. */
MUST_USE bool pretok_name_open(struct pretok *pretok, const struct pretok_name *name,
                               struct err *err);
