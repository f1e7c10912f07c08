/* detok.c - bytes of tokens to text, holding back a character until it is whole.
 *
 * Invariant: pending[0..n_pending) is a beginning of a well-formed UTF-8 sequence (at most three
 * bytes) that the next bytes may complete. Allocates through `out`, and for the first token of
 * decoders that write it in a form of its own. */
#include "host/text/detok.h"
#include <string.h>
#include "host/base/utf8.h"
#include "host/text/tokenizer_parts.h"

/* Text that is certain, less what a decoder strips from the beginning. */
static void put_good(struct detok *detok, const char *text, size_t length, struct buf *out)
{
    if (length == 0)
        return;
    const char *blank = detok->tokenizer->decoder.strip_content;
    const size_t n = detok->strip > 0 ? strlen(blank) : 0;
    while (detok->strip > 0 && length > 0) {
        if (length < n || memcmp(text, blank, n) != 0) {
            detok->strip = 0;
            break;
        }
        text += n;
        length -= n;
        detok->strip--;
    }
    buf_put(out, text, length);
}

/* n bytes that are no text. */
static void put_bad(struct detok *detok, size_t n, struct buf *out)
{
    if (!detok->tokenizer->decoder.byte_fallback)
        n = 1;
    while (n-- > 0)
        put_good(detok, "\xef\xbf\xbd", 3, out);
}

void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special)
{
    *detok = (struct detok){ .tokenizer = tokenizer,
                             .skip_special = skip_special,
                             .strip = tokenizer->decoder.strip };
}

static bool gives_text(const struct detok *detok, int32_t id)
{
    size_t length;
    return tokenizer_bytes(detok->tokenizer, id, &length) &&
           !(detok->skip_special && tokenizer_is_special(detok->tokenizer, id));
}

void detok_go_on(struct detok *detok, const int32_t *prompt, size_t n)
{
    for (size_t i = 0; i < n && !detok->any; i++)
        if (gives_text(detok, prompt[i])) {
            detok->any = true;
            detok->strip = 0;
        }
}

/* Could more bytes make this one character? `left` bytes are all there is, and they are not one. */
static bool may_complete(const char *bytes, size_t left)
{
    uint8_t lead = (uint8_t)bytes[0];
    return lead >= 0xc2 && lead <= 0xf4 && (size_t)-utf8_step(bytes, left) == left;
}

/* Appends what is certain of bytes[0..length); returns how many bytes at the end are not. */
static size_t put_text(struct detok *detok, const char *bytes, size_t length, struct buf *out)
{
    size_t plain = 0, i = 0; /* bytes[plain..i) are well-formed and not out yet */
    while (i < length) {
        int n = utf8_step(bytes + i, length - i);
        if (n > 0) {
            i += (size_t)n;
            continue;
        }
        put_good(detok, bytes + plain, i - plain, out);
        if (may_complete(bytes + i, length - i))
            return length - i;
        put_bad(detok, (size_t)-n, out);
        i += (size_t)-n;
        plain = i;
    }
    put_good(detok, bytes + plain, i - plain, out);
    return 0;
}

static void put_bytes(struct detok *detok, const char *bytes, size_t length, struct buf *out)
{
    /* First finish what is pending, a byte at a time: at most three of them. */
    while (detok->n_pending > 0 && length > 0) {
        char start[8];
        memcpy(start, detok->pending, sizeof start);
        start[detok->n_pending] = *bytes++;
        length--;
        size_t n = (size_t)detok->n_pending + 1, left = put_text(detok, start, n, out);
        memcpy(detok->pending, start + n - left, left);
        detok->n_pending = (uint8_t)left;
    }
    size_t left = put_text(detok, bytes, length, out);
    if (left > 0) {
        memcpy(detok->pending, bytes + length - left, left);
        detok->n_pending = (uint8_t)left;
    }
}

void detok_push(struct detok *detok, int32_t id, struct buf *out)
{
    size_t length;
    const char *bytes = tokenizer_bytes(detok->tokenizer, id, &length);
    if (!bytes || (detok->skip_special && tokenizer_is_special(detok->tokenizer, id)))
        return;
    const struct tokenizer *t = detok->tokenizer;
    if (detok->tight) {
        bool special = tokenizer_is_special(t, id);
        if (special && detok->last_special)
            bytes = vocab_bytes(&t->vocab, id, &length);
        detok->last_special = special;
    }
    bool first = !detok->any;
    detok->any = true;
    if (!first || !decoder_first_differs(&t->decoder)) {
        put_bytes(detok, bytes, length, out);
        return;
    }
    struct buf form;
    struct err err;
    buf_init(&form, SIZE_MAX);
    bytes = vocab_bytes(&t->vocab, id, &length);
    if (decoder_first(&t->decoder, bytes, length, &form, &err) && !form.failed)
        put_bytes(detok, buf_text(&form), form.length, out);
    else
        out->failed = true; /* out of memory */
    buf_clear(&form);
}

void detok_flush(struct detok *detok, struct buf *out)
{
    if (detok->n_pending > 0)
        put_bad(detok, detok->n_pending, out);
    detok->n_pending = 0;
}

void detok_all(const struct tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
               struct buf *out)
{
    struct detok detok;
    detok_init(&detok, tokenizer, skip_special);
    for (size_t i = 0; i < n; i++)
        detok_push(&detok, ids[i], out);
    detok_flush(&detok, out);
}
