/* jinja_text.c - characters of a value's text: walking, searching, trimming.
 *
 * Invariant: nothing here reads behind the given end, whatever the bytes are. A mark (chat.h: the
 * noncharacter behind the first character of special-token text in a user's string) is part of
 * the character before it: it is not counted, never split off, and searches see through it. So a
 * template that splits at "</think>" works on marked text as on plain text. */
#include "host/text/jinja.h"
#include <string.h>

enum { MARK_BYTES = 3 }; /* U+FDD0..U+FDEF in UTF-8 */

/* utf8proc's iterate costs a call and a table; templates walk long texts. */
static uint32_t decode(const char **at, const char *end)
{
    const unsigned char *p = (const unsigned char *)*at;
    size_t left = (size_t)(end - *at), n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (p[0] < 0x80 || p[0] < 0xc2 || p[0] > 0xf4 || left < n) {
        (*at)++;
        return p[0];
    }
    uint32_t code = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            (*at)++;
            return p[0];
        }
        code = code << 6 | (p[i] & 0x3f);
    }
    *at += n;
    return code;
}

static bool mark_at(const struct run *run, const char *at, const char *end)
{
    return run && run->mark && end - at >= MARK_BYTES && (unsigned char)at[0] == 0xef &&
           (unsigned char)at[1] == 0xb7 && (unsigned char)at[2] == (run->mark & 0x3f) + 0x80;
}

static const char *skip_marks(const struct run *run, const char *at, const char *end)
{
    while (mark_at(run, at, end))
        at += MARK_BYTES;
    return at;
}

uint32_t text_next(const struct run *run, const char **at, const char *end)
{
    uint32_t code = decode(at, end);
    *at = skip_marks(run, *at, end);
    return code;
}

const char *text_previous(const struct run *run, const char *begin, const char *at)
{
    const char *end = at;
    while (at - begin >= MARK_BYTES && mark_at(run, at - MARK_BYTES, at))
        at -= MARK_BYTES;
    if (at == begin) /* nothing but marks */
        return begin;
    at--;
    for (int i = 0; i < 3 && at > begin && ((unsigned char)*at & 0xc0) == 0x80; i++)
        at--;
    const char *next = at;
    text_next(run, &next, end);
    return next == end ? at : end - 1; /* not UTF-8: a byte */
}

static bool is_ascii(struct value_text text)
{
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.bytes[i] >= 0x80)
            return false;
    return true;
}

size_t text_count(const struct run *run, struct value_text text)
{
    const char *p = text.bytes, *end = p + text.length;
    size_t n = 0;
    if (is_ascii(text))
        return text.length;
    for (; p < end; n++)
        text_next(run, &p, end);
    return n;
}

size_t text_encode(uint32_t code, char bytes[4])
{
    if (code < 0x80) {
        bytes[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6)
        bytes[i] = (char)(0x80 | (code & 0x3f));
    bytes[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | code);
    return n;
}

bool text_is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20) || code == 0x85 ||
           code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* Does the text at `at` begin with the needle, marks skipped? Then its end, else NULL. */
static const char *match_at(const struct run *run, const char *at, const char *end,
                            struct value_text needle)
{
    for (size_t i = 0; i < needle.length;) {
        const char *needle_end = needle.bytes + needle.length;
        if (mark_at(run, needle.bytes + i, needle_end)) {
            i += MARK_BYTES;
            continue;
        }
        at = i ? skip_marks(run, at, end) : at;
        if (at == end || *at != needle.bytes[i])
            return NULL;
        at++;
        i++;
    }
    return skip_marks(run, at, end);
}

const char *text_find(const struct run *run, const char *from, const char *end,
                      struct value_text needle, const char **match_end)
{
    if (!needle.length) {
        *match_end = from;
        return from;
    }
    if (!run->mark) {
        const char *found = memmem(from, (size_t)(end - from), needle.bytes, needle.length);
        *match_end = found ? found + needle.length : NULL;
        return found;
    }
    while (from < end && (from = memchr(from, needle.bytes[0], (size_t)(end - from)))) {
        *match_end = match_at(run, from, end, needle);
        if (*match_end)
            return from;
        from++;
    }
    return NULL;
}

const char *text_find_last(const struct run *run, const char *begin, const char *end,
                           struct value_text needle, const char **match_end)
{
    if (!needle.length) {
        *match_end = end;
        return end;
    }
    for (const char *at = end; at > begin;) {
        at = memrchr(begin, needle.bytes[0], (size_t)(at - begin));
        if (!at)
            break;
        *match_end = match_at(run, at, end, needle);
        if (*match_end)
            return at;
    }
    return NULL;
}

bool text_equal(const struct run *run, struct value_text a, struct value_text b)
{
    if (!run || !run->mark)
        return a.length == b.length && (!a.length || !memcmp(a.bytes, b.bytes, a.length));
    return text_order(run, a, b) == 0;
}

int text_order(const struct run *run, struct value_text a, struct value_text b)
{
    const char *p = a.bytes, *q = b.bytes, *p_end = p + a.length, *q_end = q + b.length;
    p = skip_marks(run, p, p_end);
    q = skip_marks(run, q, q_end);
    while (p < p_end && q < q_end) {
        uint32_t x = text_next(run, &p, p_end), y = text_next(run, &q, q_end);
        if (x != y)
            return x < y ? -1 : 1;
    }
    return p < p_end ? 1 : q < q_end ? -1 : 0;
}

static bool in_set(const struct run *run, uint32_t code, const struct value_text *chars)
{
    if (!chars)
        return text_is_space(code);
    const char *p = chars->bytes, *end = p + chars->length;
    while (p < end)
        if (text_next(run, &p, end) == code)
            return true;
    return false;
}

struct value_text text_strip(const struct run *run, struct value_text text,
                             const struct value_text *chars, int sides)
{
    const char *from = text.bytes, *to = from + text.length;
    while ((sides & 1) && from < to) {
        const char *next = from;
        if (!in_set(run, text_next(run, &next, to), chars))
            break;
        from = next;
    }
    while ((sides & 2) && from < to) {
        const char *at = text_previous(run, from, to), *next = at;
        if (!in_set(run, text_next(run, &next, to), chars))
            break;
        to = at;
    }
    return (struct value_text){ from, (size_t)(to - from) };
}
