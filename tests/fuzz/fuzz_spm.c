/* libFuzzer entry for tokenizer.model: sentencepiece's protobuf. */
#include "tests/fuzz/token_text.h"
#include "host/text/tokenizer_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct tokenizer *t;
    struct err err;
    if (!sentencepiece_open(&t, bytes, size, NULL, &err))
        return 0;
    check_texts(t);
    tokenizer_close(t);
    return 0;
}
