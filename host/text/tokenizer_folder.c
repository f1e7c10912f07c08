/* tokenizer_folder.c - which reader takes a model's vocabulary. */
#include "host/text/tokenizer_folder.h"

#include "host/text/tokenizer_files.h"
#include "host/text/tokenizer_gguf.h"

/* tokenizer_config.json beside the vocabulary, where there is one that can be read: one that cannot
 * is reported by whoever needs it (texts.c), and must not cost the tokenizer. */
static bool open_file(struct tokenizer **tokenizer, const struct hf_folder *folder, struct err *err)
{
    const struct hf_text *text = &folder->tokenizer_config;
    struct cJSON *config = NULL;
    struct err ignored;
    if (text->size != 0 &&
        !json_parse(text->bytes, text->size, &JSON_FILE_LIMITS, ERR_FORMAT, &config, &ignored))
        config = NULL;
    struct json_ref root = json_root(config);
    bool ok = tokenizer_open_file(tokenizer, folder->tokenizer_name, folder->tokenizer.bytes,
                                  folder->tokenizer.size,
                                  config != NULL && json_is_object(&root) ? &root : NULL, err);
    json_free(config);
    return ok;
}

bool tokenizer_open_folder(struct tokenizer **tokenizer, const struct hf_folder *folder,
                           struct err *err)
{
    *tokenizer = NULL;
    if (folder->gguf != NULL)
        return tokenizer_open_gguf(tokenizer, folder->gguf, err);
    if (folder->tokenizer.size != 0)
        return open_file(tokenizer, folder, err);
    return err_set(err, ERR_NOT_FOUND, "the model has no tokenizer.json: token ids only");
}
