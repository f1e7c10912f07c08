/* libFuzzer entry for tokenizer.json and texts: what stands before a 0x00 byte is the file, what
 * is behind it the text (made UTF-8 first). A text that an accepted tokenizer encodes must give ids
 * that it knows, the same when encoded again, and decode alike at once and id by id. */
#include <string.h>
#include "host/base/buf.h"
#include "host/base/utf8.h"
#include "host/text/detok.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void put_utf8(struct buf *out, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length;) {
        int n = utf8_step(bytes + i, length - i);
        if (n > 0)
            buf_put(out, bytes + i, (size_t)n);
        i += (size_t)(n > 0 ? n : -n);
    }
}

static void check_text(const struct tokenizer *t, const char *text, size_t length)
{
    struct ids ids = { 0 }, again = { 0 };
    struct buf all, joined;
    struct detok detok;
    struct err err;
    size_t barrier = length / 2, n;
    unsigned flags = ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL;
    buf_init(&all, SIZE_MAX);
    buf_init(&joined, SIZE_MAX);
    if (tokenizer_encode(t, text, length, flags, &barrier, 1, &ids, &err)) {
        CHECK(tokenizer_encode(t, text, length, flags, &barrier, 1, &again, &err));
        CHECK(ids.n == again.n);
        detok_init(&detok, t, false);
        for (size_t i = 0; i < ids.n; i++) {
            CHECK(ids.ids[i] == again.ids[i]);
            CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_size(t));
            CHECK(!tokenizer_bytes(t, ids.ids[i], &n) || n <= all.limit);
            detok_push(&detok, ids.ids[i], &joined);
        }
        detok_flush(&detok, &joined);
        detok_all(t, ids.ids, ids.n, false, &all);
        CHECK(all.length == joined.length);
        CHECK(all.length == 0 || memcmp(all.bytes, joined.bytes, all.length) == 0);
    }
    ids_clear(&ids);
    ids_clear(&again);
    buf_clear(&all);
    buf_clear(&joined);
}

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
