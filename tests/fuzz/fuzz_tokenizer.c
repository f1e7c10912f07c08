/* libFuzzer entry for tokenizer.json and texts: what stands before a 0x00 byte is the file, what
 * is behind it the text (made UTF-8 first). A text that an accepted tokenizer encodes must give ids
 * that it knows, the same when encoded again, and decode alike at once and id by id. */
#include "tests/fuzz/token_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *zero = size > 0 ? memchr(bytes, 0, size) : NULL;
    size_t length = zero ? (size_t)(zero - bytes) : size;
    struct tokenizer *t;
    struct err err;
    struct buf text;
    if (!tokenizer_open(&t, (const char *)bytes, length, &err))
        return 0;
    buf_init(&text, SIZE_MAX);
    if (zero)
        put_utf8(&text, (const char *)zero + 1, size - length - 1);
    check_text(t, buf_text(&text), text.length);
    buf_clear(&text);
    tokenizer_close(t);
    return 0;
}
