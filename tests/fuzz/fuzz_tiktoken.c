/* libFuzzer entry for tiktoken files, and for tokenizer_config.json beside them: what stands before
 * a 0x00 byte is the file, what is behind it the configuration. */
#include "tests/fuzz/token_text.h"
#include "host/text/tokenizer_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *zero = size > 0 ? memchr(bytes, 0, size) : NULL;
    size_t length = zero ? (size_t)(zero - bytes) : size;
    struct cJSON *config = NULL;
    struct tokenizer *t;
    struct err err;
    if (zero && !json_parse((const char *)zero + 1, size - length - 1, &JSON_REQUEST_LIMITS,
                            ERR_FORMAT, &config, &err))
        config = NULL;
    struct json_ref root = json_root(config);
    if (tiktoken_open(&t, (const char *)bytes, length, "llama-bpe", config ? &root : NULL, &err)) {
        check_texts(t);
        tokenizer_close(t);
    }
    json_free(config);
    return 0;
}
