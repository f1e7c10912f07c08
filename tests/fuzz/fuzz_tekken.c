/* libFuzzer entry for tekken.json. */
#include "tests/fuzz/token_text.h"
#include "host/text/tokenizer_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct tokenizer *t;
    struct err err;
    if (!tekken_open(&t, (const char *)bytes, size, NULL, &err))
        return 0;
    check_texts(t);
    tokenizer_close(t);
    return 0;
}
