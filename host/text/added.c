/* added.c - cutting added tokens out of a text.
 *
 * Invariant: every byte is looked at once for each byte of the longest token that could begin
 * there; tokens are found by narrowing a range of the sorted list, byte by byte. */
#include "host/text/added.h"
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

bool added_set_add(struct added_set *set, const char *text, size_t length, int32_t id,
                   unsigned flags)
{
    CHECK(length > 0);
    if (set->n == set->capacity) {
        size_t capacity = set->capacity ? set->capacity * 2 : 16;
        struct added_token *grown = reallocarray(set->tokens, capacity, sizeof *grown);
        if (!grown)
            return false;
        set->tokens = grown;
        set->capacity = capacity;
    }
    char *copy = malloc(length + 1); /* not strndup: a text may have a NUL */
    if (!copy)
        return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    set->tokens[set->n] = (struct added_token){ copy, length, id, flags, set->n };
    set->n++;
    set->first[(uint8_t)text[0]] = true;
    set->any_special |= (flags & ADDED_SPECIAL) != 0;
    return true;
}

static int compare(const struct added_token *x, const struct added_token *y)
{
    size_t n = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, n);
    if (order != 0)
        return order;
    return (x->length > y->length) - (x->length < y->length);
}

static int by_text(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int order = compare(x, y);
    if (order != 0)
        return order;
    if ((x->flags ^ y->flags) & ADDED_SPECIAL)
        return x->flags & ADDED_SPECIAL ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

void added_set_sort(struct added_set *set)
{
    if (set->n == 0)
        return;
    qsort(set->tokens, set->n, sizeof *set->tokens, by_text);
    size_t kept = 1;
    for (size_t i = 1; i < set->n; i++) {
        if (compare(&set->tokens[kept - 1], &set->tokens[i]) == 0)
            free(set->tokens[i].text);
        else
            set->tokens[kept++] = set->tokens[i];
    }
    set->n = kept;
}

void added_set_clear(struct added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->tokens[i].text);
    free(set->tokens);
    *set = (struct added_set){ 0 };
}

/* Is there a barrier strictly inside text[start, end)? */
static bool spans_barrier(const struct added_cut *cut, size_t start, size_t end)
{
    size_t low = 0, high = cut->n_barriers;
    start += cut->base;
    end += cut->base;
    while (low < high) { /* the first barrier after start */
        size_t middle = low + (high - low) / 2;
        if (cut->barriers[middle] > start)
            high = middle;
        else
            low = middle + 1;
    }
    return low < cut->n_barriers && cut->barriers[low] < end;
}

/* The first index in [low, high) whose byte at `depth` is at least `byte`. All share the bytes
 * before; one that ends there sorts before any byte. */
static size_t bound(const struct added_set *set, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct added_token *token = &set->tokens[middle];
        int have = token->length > depth ? (uint8_t)token->text[depth] : -1;
        if (have >= byte)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The longest token that begins at `at`, or NULL. */
static const struct added_token *longest_at(const struct added_cut *cut, size_t at)
{
    const struct added_set *set = cut->set;
    const struct added_token *best = NULL;
    size_t low = 0, high = set->n;
    for (size_t depth = 0; at + depth < cut->length; depth++) {
        int byte = (uint8_t)cut->text[at + depth];
        low = bound(set, low, high, depth, byte);
        high = bound(set, low, high, depth, byte + 1);
        if (low == high)
            break;
        const struct added_token *token = &set->tokens[low];
        if (token->length == depth + 1 &&
            !((token->flags & ADDED_SPECIAL) && spans_barrier(cut, at, at + depth + 1)))
            best = token;
    }
    return best;
}

static bool beside_word(const struct added_cut *cut, size_t start, size_t end)
{
    unsigned n;
    return (start > 0 && unicode_is_word(unicode_decode_before(cut->text, start, &n))) ||
           (end < cut->length && unicode_is_word(unicode_decode(cut->text + end, &n)));
}

static size_t strip_left(const struct added_cut *cut, size_t start)
{
    unsigned n;
    while (start > cut->done && unicode_is_space(unicode_decode_before(cut->text, start, &n)))
        start -= n;
    return start > cut->done ? start : cut->done;
}

static size_t strip_right(struct added_cut *cut, size_t end)
{
    unsigned n;
    /* A run of blanks is walked once, however many tokens in it strip to its end. */
    if (end < cut->space_end)
        return cut->space_end;
    while (end < cut->length && unicode_is_space(unicode_decode(cut->text + end, &n)))
        end += n;
    cut->space_end = end;
    return end;
}

enum added_found added_next(struct added_cut *cut, size_t *start, size_t *end, int32_t *id)
{
    const struct added_set *set = cut->set;
    if (cut->waiting) {
        cut->waiting = false;
        *id = cut->waiting_id;
        return ADDED_ID;
    }
    while (set->n > 0 && cut->at < cut->length) {
        if (!set->first[(uint8_t)cut->text[cut->at]]) {
            cut->at++;
            continue;
        }
        const struct added_token *token = longest_at(cut, cut->at);
        if (!token) {
            cut->at++;
            continue;
        }
        size_t from = cut->at, to = from + token->length;
        cut->at = to; /* also when it does not count: matches do not overlap */
        if ((token->flags & ADDED_SPECIAL) && !cut->parse_special)
            continue;
        if ((token->flags & ADDED_SINGLE_WORD) && beside_word(cut, from, to))
            continue;
        if (token->flags & ADDED_LSTRIP)
            from = strip_left(cut, from);
        if (token->flags & ADDED_RSTRIP)
            to = strip_right(cut, to);
        size_t done = cut->done;
        cut->done = to;
        *id = token->id;
        if (from <= done)
            return ADDED_ID;
        cut->waiting = true;
        cut->waiting_id = token->id;
        *start = done;
        *end = from;
        return ADDED_TEXT;
    }
    if (cut->done >= cut->length)
        return ADDED_END;
    *start = cut->done;
    *end = cut->length;
    cut->done = cut->length;
    return ADDED_TEXT;
}
