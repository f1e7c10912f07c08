/* charset.c - sets of code points as expressions over bytes. */
#include "host/grammar/charset.h"
#include "host/base/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SURROGATE_FIRST = 0xd800, SURROGATE_LAST = 0xdfff };

void charset_add(struct workshop *work, struct charset *set, uint32_t low, uint32_t high)
{
    set->ranges = scratch_grow(work, set->ranges, set->n, &set->capacity, sizeof *set->ranges);
    if (work_step(work, 1))
        set->ranges[set->n++] = (struct char_range){ low, high };
}

static int compare_ranges(const void *a, const void *b)
{
    const struct char_range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

void charset_sort(struct charset *set)
{
    uint32_t n = 0;
    if (set->n > 1)
        qsort(set->ranges, set->n, sizeof *set->ranges, compare_ranges);
    for (uint32_t i = 0; i < set->n; i++) {
        struct char_range range = set->ranges[i];
        if (n > 0 && range.low <= set->ranges[n - 1].high + 1) {
            if (range.high > set->ranges[n - 1].high)
                set->ranges[n - 1].high = range.high;
        } else {
            set->ranges[n++] = range;
        }
    }
    set->n = n;
}

void charset_negate(struct workshop *work, struct charset *set)
{
    struct charset other = { 0 };
    uint32_t low = 0;
    charset_sort(set);
    for (uint32_t i = 0; i < set->n; i++) {
        if (set->ranges[i].low > low)
            charset_add(work, &other, low, set->ranges[i].low - 1);
        low = set->ranges[i].high + 1;
    }
    if (low <= CODE_POINT_MAX)
        charset_add(work, &other, low, CODE_POINT_MAX);
    *set = other;
}

static int encode(uint32_t point, uint8_t *bytes)
{
    if (point < 0x80) {
        bytes[0] = (uint8_t)point;
        return 1;
    }
    int n = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const uint8_t heads[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (int i = n - 1; i > 0; i--) {
        bytes[i] = (uint8_t)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    bytes[0] = (uint8_t)(heads[n] | point);
    return n;
}

struct pieces {
    uint32_t *items;
    uint32_t n, capacity;
};

static void put_piece(struct workshop *work, struct pieces *pieces, uint32_t item)
{
    pieces->items =
        scratch_grow(work, pieces->items, pieces->n, &pieces->capacity, sizeof *pieces->items);
    if (!work->failed)
        pieces->items[pieces->n++] = item;
}

/* A range whose UTF-8 is one range for each byte: the largest such part of [low, high] that begins
 * with low; its end is returned. */
static uint32_t put_block(struct workshop *work, struct pieces *pieces, uint32_t low, uint32_t high)
{
    static const uint32_t ends[] = { 0x7f, 0x7ff, 0xffff, CODE_POINT_MAX };
    for (int i = 0; i < 4; i++)
        if (low <= ends[i]) {
            high = high < ends[i] ? high : ends[i];
            break;
        }
    for (int n = 1; n <= 3 && high > 0x7f; n++) {
        uint32_t mask = (1u << (6 * n)) - 1;
        if ((low & ~mask) == (high & ~mask))
            break;
        if (low & mask)
            high = low | mask;
        else if ((high & mask) != mask)
            high = (high & ~mask) - 1;
    }
    uint8_t first[4], last[4];
    uint32_t bytes[4];
    int n = encode(low, first);
    encode(high, last);
    for (int i = 0; i < n; i++)
        bytes[i] = expr_range(work, first[i], last[i]);
    put_piece(work, pieces, expr_seq(work, bytes, (uint32_t)n));
    return high;
}

static void put_raw(struct workshop *work, struct pieces *pieces, uint32_t low, uint32_t high)
{
    while (low <= high && !work->failed) {
        if (low >= SURROGATE_FIRST && low <= SURROGATE_LAST) {
            low = SURROGATE_LAST + 1;
            continue;
        }
        uint32_t end =
            low < SURROGATE_FIRST && high >= SURROGATE_FIRST ? SURROGATE_FIRST - 1 : high;
        low = put_block(work, pieces, low, end) + 1;
    }
}

/* A character that JSON wants escaped, as \n and as \u000a or \u000A. */
static void put_escaped(struct workshop *work, struct pieces *pieces, uint32_t c)
{
    static const char shorts[][2] = { { '"', '"' },  { '\\', '\\' }, { '\b', 'b' }, { '\f', 'f' },
                                      { '\n', 'n' }, { '\r', 'r' },  { '\t', 't' } };
    char text[8];
    if (c == 0)
        return;
    for (size_t i = 0; i < sizeof shorts / sizeof shorts[0]; i++)
        if (c == (uint8_t)shorts[i][0]) {
            snprintf(text, sizeof text, "\\%c", shorts[i][1]);
            put_piece(work, pieces, expr_literal(work, text));
        }
    if (c >= 0x20)
        return;
    snprintf(text, sizeof text, "\\u%04x", c);
    put_piece(work, pieces, expr_literal(work, text));
    if ((c & 15) < 10)
        return;
    snprintf(text, sizeof text, "\\u%04X", c);
    put_piece(work, pieces, expr_literal(work, text));
}

static void put_json(struct workshop *work, struct pieces *pieces, uint32_t low, uint32_t high)
{
    static const struct char_range plain[] = { { ' ', '!' },
                                               { '#', '[' },
                                               { ']', CODE_POINT_MAX } };
    for (uint32_t c = low; c <= high && c < 0x20; c++)
        put_escaped(work, pieces, c);
    if (low <= '"' && '"' <= high)
        put_escaped(work, pieces, '"');
    if (low <= '\\' && '\\' <= high)
        put_escaped(work, pieces, '\\');
    for (int i = 0; i < 3; i++) {
        uint32_t from = low > plain[i].low ? low : plain[i].low;
        uint32_t to = high < plain[i].high ? high : plain[i].high;
        if (from <= to)
            put_raw(work, pieces, from, to);
    }
}

uint32_t expr_charset(struct workshop *work, struct charset *set, enum char_form form)
{
    struct pieces pieces = { 0 };
    charset_sort(set);
    for (uint32_t i = 0; i < set->n && !work->failed; i++) {
        if (form == CHARS_JSON)
            put_json(work, &pieces, set->ranges[i].low, set->ranges[i].high);
        else
            put_raw(work, &pieces, set->ranges[i].low, set->ranges[i].high);
    }
    return work->failed ? EXPR_NONE : expr_alt(work, pieces.items, pieces.n);
}

uint32_t expr_written(struct workshop *work, const char *bytes, size_t length, enum char_form form)
{
    struct arena_mark mark = arena_mark(&work->scratch);
    struct pieces pieces = { 0 };
    size_t plain = 0, at = 0;
    if (form == CHARS_RAW)
        return expr_text(work, bytes, length);
    for (; at < length && work_step(work, 1); at++) {
        uint8_t c = (uint8_t)bytes[at];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        struct charset one = { 0 };
        put_piece(work, &pieces, expr_text(work, bytes + plain, at - plain));
        charset_add(work, &one, c, c);
        put_piece(work, &pieces, expr_charset(work, &one, form));
        plain = at + 1;
    }
    if (!work->failed)
        put_piece(work, &pieces, expr_text(work, bytes + plain, at - plain));
    uint32_t result = work->failed ? EXPR_NONE : expr_seq(work, pieces.items, pieces.n);
    arena_reset(&work->scratch, mark);
    return result;
}

uint32_t code_point_at(const char *bytes, size_t left, int *length)
{
    static const uint8_t masks[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
    int n = utf8_step(bytes, left);
    CHECK(n > 0);
    uint32_t point = (uint8_t)bytes[0] & masks[n];
    for (int i = 1; i < n; i++)
        point = point << 6 | ((uint8_t)bytes[i] & 0x3f);
    *length = n;
    return point;
}

size_t text_not_utf8(const char *bytes, size_t length)
{
    size_t at = 0;
    while (at < length) {
        int n = utf8_step(bytes + at, length - at);
        if (n < 0)
            return at;
        at += (size_t)n;
    }
    return length;
}
