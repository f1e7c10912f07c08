/* token_text.h - what a fuzzed tokenizer is asked: a text must give ids that it knows, the same
 * when encoded again, and decode alike at once and id by id. For the fuzzers of this folder. */
#pragma once
#include <string.h>
#include "host/base/buf.h"
#include "host/base/utf8.h"
#include "host/text/detok.h"

static inline void put_utf8(struct buf *out, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length;) {
        int n = utf8_step(bytes + i, length - i);
        if (n > 0)
            buf_put(out, bytes + i, (size_t)n);
        i += (size_t)(n > 0 ? n : -n);
    }
}

static inline void check_text(const struct tokenizer *t, const char *text, size_t length)
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

/* Blanks at every place, marks, controls, letters of all lengths, a NUL. */
static inline void check_texts(const struct tokenizer *t)
{
    static const char TEXT[] =
        "  a b  \xe2\x96\x81 ab\tba\n\n<s></s><0x41>hello 12 \xc3\xa9 e\xcc\x81 "
        "\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80\0\xef\xac\x81  ";
    check_text(t, TEXT, sizeof TEXT - 1);
    check_text(t, TEXT + 2, 1);
    check_text(t, "", 0);
}
