/* libFuzzer entry for what is made of a .gguf file's metadata: config, names, tokenizer. The input
 * is a whole file. Whatever is accepted must read: the config as JSON, every tensor inside the
 * file, a text through the tokenizer. */
#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"
#include "host/format/gguf_folder.h"
#include "host/text/tokenizer_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_json(const struct hf_text *text)
{
    struct cJSON *tree;
    struct err err;
    if (text->size == 0)
        return;
    /* A text with U+0000 inside is refused by the reader, as it should be. */
    if (json_parse(text->bytes, text->size, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err))
        json_free(tree);
    else
        CHECK(strstr(text->bytes, "\\u0000") != NULL || err.code == ERR_MEMORY);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char text[] = "Hello <s> w\xc3\xb6rld\n 123";
    struct hf_folder folder = { 0 };
    struct tokenizer *tokenizer;
    struct file_map map;
    struct err err;
    file_map_memory(&map, bytes, size);
    if (gguf_folder_open_map(&folder, map, "fuzz", &err)) {
        CHECK((folder.config.size != 0) == (folder.config_missing.code == ERR_NONE));
        check_json(&folder.config);
        check_json(&folder.tokenizer_config);
        for (int32_t i = 0; i < folder.tensors.n_tensors; i++) {
            const struct tensor *t = &folder.tensors.tensors[i];
            CHECK(t->data >= bytes && t->bytes <= size - (size_t)(t->data - bytes));
            CHECK(dtype_row_bytes(t->dtype, (size_t)tensor_count(t)) == t->bytes);
            CHECK(t->pairs == 0 || t->dims[0] % t->pairs == 0);
        }
        if (tokenizer_open_folder(&tokenizer, &folder, &err)) {
            struct ids ids = { 0 };
            (void)!tokenizer_encode(tokenizer, text, sizeof text - 1,
                                    ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, NULL, 0, &ids, &err);
            for (size_t i = 0; i < ids.n; i++)
                CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_size(tokenizer));
            ids_clear(&ids);
            tokenizer_close(tokenizer);
        }
    }
    hf_folder_close(&folder);
    return 0;
}
