/* tokenizer_folder.c - which reader takes a model's vocabulary. */
#include "host/text/tokenizer_folder.h"

#include "host/text/tokenizer_gguf.h"

bool tokenizer_open_folder(struct tokenizer **tokenizer, const struct hf_folder *folder,
                           struct err *err)
{
    *tokenizer = NULL;
    if (folder->gguf != NULL)
        return tokenizer_open_gguf(tokenizer, folder->gguf, err);
    if (folder->tokenizer.size != 0)
        return tokenizer_open(tokenizer, folder->tokenizer.bytes, folder->tokenizer.size, err);
    return err_set(err, ERR_NOT_FOUND, "the model has no tokenizer.json: token ids only");
}
