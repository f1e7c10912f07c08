/* charsmap.c - walking sentencepiece's double array, which a file forged or not has filled.
 *
 * Every index is checked where it is used; a walk ends after KEY_MAX bytes at the latest, so no
 * array of any content costs more than that at a place. */
#include "host/text/charsmap.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "host/text/unicode.h"

enum {
    KEY_MAX = 64,       /* bytes; the longest known key has 18 */
    GRAPHEME_BYTES = 5, /* longer clusters are not looked up as a whole */
};

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit_at(const struct charsmap *map, uint32_t i)
{
    return load32(map->bytes + 4 + (size_t)i * 4);
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static const char *find(const struct charsmap *map, const char *text, size_t length, bool longest,
                        size_t *taken);

/* No key is this character, and none goes on from it with an ASCII character. CR is left out, which
 * may be one cluster with LF. */
static bool is_plain(const struct charsmap *map, char c)
{
    size_t taken;
    uint32_t node = offset_of(unit_at(map, 0)) ^ (uint8_t)c;
    if (c == '\r' || c == 0 || find(map, &c, 1, false, &taken) != NULL)
        return false;
    if (node >= map->n_units || (unit_at(map, node) & (1u << 31 | 0xff)) != (uint8_t)c)
        return true; /* no key begins with it */
    node ^= offset_of(unit_at(map, node));
    for (uint32_t next = 1; next < 128; next++) {
        uint32_t to = node ^ next;
        if (to < map->n_units && (unit_at(map, to) & (1u << 31 | 0xff)) == next)
            return false;
    }
    return true;
}

/* The end of the plain characters from `at`, each of them before an ASCII character. */
static size_t plain_end(const struct charsmap *map, const char *text, size_t at, size_t length)
{
    while (at + 1 < length && (uint8_t)text[at] < 0x80 && (uint8_t)text[at + 1] < 0x80 &&
           map->plain[(uint8_t)text[at]])
        at++;
    return at;
}

bool charsmap_open(struct charsmap *map, const void *bytes, size_t size, enum charsmap_rule rule,
                   struct err *err)
{
    *map = (struct charsmap){ .rule = rule };
    if (size == 0)
        return true;
    uint32_t trie_bytes = size >= 4 ? load32(bytes) : 0;
    if (size < 4 || trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes >= size - 4)
        return err_set(err, ERR_FORMAT, "a map of %zu bytes with a trie of %u, want fewer", size,
                       trie_bytes);
    const char *text = (const char *)bytes + 4 + trie_bytes;
    size_t text_size = size - 4 - trie_bytes;
    if (text[text_size - 1] != 0 || unicode_check(text, text_size) < text_size)
        return err_set(err, ERR_FORMAT, "the map's %zu bytes of replacements are not texts",
                       text_size);
    map->bytes = malloc(size);
    if (!map->bytes)
        return err_set(err, ERR_MEMORY, "no memory for a map of %zu bytes", size);
    memcpy(map->bytes, bytes, size);
    map->size = size;
    map->n_units = trie_bytes / 4;
    map->text_at = 4 + (size_t)trie_bytes;
    for (int c = 0; c < 128; c++)
        map->plain[c] = is_plain(map, (char)c);
    return true;
}

void charsmap_close(struct charsmap *map)
{
    free(map->bytes);
    *map = (struct charsmap){ 0 };
}

/* The replacement of the longest (or shortest) key that text[0..length) begins with; NULL: none.
 * *taken: bytes of that key. */
static const char *find(const struct charsmap *map, const char *text, size_t length, bool longest,
                        size_t *taken)
{
    const char *found = NULL;
    uint32_t node = offset_of(unit_at(map, 0));
    if (length > KEY_MAX)
        length = KEY_MAX;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        node ^= byte;
        if (node >= map->n_units)
            break;
        uint32_t unit = unit_at(map, node);
        if ((unit & (1u << 31 | 0xff)) != byte)
            break;
        node ^= offset_of(unit);
        if (!(unit >> 8 & 1))
            continue;
        if (node >= map->n_units)
            break;
        size_t at = map->text_at + (unit_at(map, node) & 0x7fffffff);
        if (at >= map->size)
            break;
        found = (const char *)map->bytes + at;
        *taken = i + 1;
        if (!longest)
            break;
    }
    /* A value may point into the middle of a character: such a map changes nothing here. */
    return found && ((uint8_t)*found & 0xc0) != 0x80 ? found : NULL;
}

static void run_longest(const struct charsmap *map, const char *text, size_t length,
                        struct buf *out)
{
    for (size_t i = 0; i < length;) {
        size_t taken = 0, plain = plain_end(map, text, i, length);
        unsigned n;
        buf_put(out, text + i, plain - i);
        i = plain;
        unicode_decode(text + i, &n);
        const char *to = find(map, text + i, length - i, true, &taken);
        /* A key that ends inside a character is no key. */
        if (to && (i + taken == length || ((uint8_t)text[i + taken] & 0xc0) != 0x80)) {
            buf_puts(out, to);
            i += taken;
        } else {
            buf_put(out, text + i, n);
            i += n;
        }
    }
}

/* The end of the grapheme cluster (UAX 29, extended) that begins at `from`. */
static size_t grapheme_end(const char *text, size_t from, size_t length)
{
    unsigned n;
    int32_t state = 0;
    int32_t before = (int32_t)unicode_decode(text + from, &n);
    size_t i = from + n;
    while (i < length) {
        int32_t code = (int32_t)unicode_decode(text + i, &n);
        if (utf8proc_grapheme_break_stateful(before, code, &state))
            break;
        before = code;
        i += n;
    }
    return i;
}

static void run_graphemes(const struct charsmap *map, const char *text, size_t length,
                          struct buf *out)
{
    for (size_t i = 0; i < length;) {
        /* Before another ASCII character one is a cluster by itself. */
        size_t end = plain_end(map, text, i, length), taken;
        if (end > i) {
            buf_put(out, text + i, end - i);
            i = end;
        }
        end = grapheme_end(text, i, length);
        const char *to = NULL;
        if (end - i <= GRAPHEME_BYTES)
            to = find(map, text + i, end - i, false, &taken);
        if (to) {
            buf_puts(out, to);
            i = end;
            continue;
        }
        while (i < end) {
            unsigned n;
            unicode_decode(text + i, &n);
            to = find(map, text + i, n, false, &taken);
            if (to)
                buf_puts(out, to);
            else
                buf_put(out, text + i, n);
            i += n;
        }
    }
}

void charsmap_run(const struct charsmap *map, const char *text, size_t length, struct buf *out)
{
    if (!map->bytes)
        buf_put(out, text, length);
    else if (map->rule == CHARSMAP_LONGEST)
        run_longest(map, text, length, out);
    else
        run_graphemes(map, text, length, out);
}
