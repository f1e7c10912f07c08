/* bpe.c - merging.
 *
 * Two ways that give the same: up to SHORT_MAX symbols an array and a scan for the lowest rank;
 * above, a heap of (rank, place) over a linked list, where an entry that no longer holds is
 * noticed because the rank stored at its place is another. Most pieces of running text are tokens
 * themselves: those are found in the vocabulary, once it is known that merging leads there. */
#include "host/text/bpe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

enum {
    SHORT_MAX = 48,
    JOINT_BITS_MAX = 1 << 21, /* 256 KiB, which stays in a second-level cache */
    WHOLE_UNKNOWN = 0,
    WHOLE_YES = 1,
    WHOLE_NO = 2,
};
static const uint32_t NO_RANK = UINT32_MAX;

struct bpe_symbol {
    int32_t id;
    uint32_t previous, next; /* UINT32_MAX: none */
    uint32_t rank;           /* of the merge with the next one */
};

static uint64_t pair_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return h >> 32 ^ h >> 20;
}

static const struct bpe_slot *find_pair(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint32_t l = (uint32_t)left, r = (uint32_t)right;
    for (uint64_t i = pair_hash(l, r) & bpe->slot_mask;; i = (i + 1) & bpe->slot_mask) {
        const struct bpe_slot *slot = &bpe->slots[i];
        if ((slot->left == l && slot->right == r) || slot->rank == NO_RANK)
            return slot;
    }
}

bool bpe_open(struct bpe *bpe, const struct vocab *vocab, size_t n_merges, struct err *err)
{
    *bpe = (struct bpe){ .vocab = vocab, .unk_id = -1, .chars = vocab->kind == VOCAB_TEXTS };
    if (n_merges >= NO_RANK / 4)
        return err_set(err, ERR_FORMAT, "%zu merges, want fewer than 2^30", n_merges);
    size_t n_slots = 64;
    while (n_slots * 2 < n_merges * 3)
        n_slots *= 2;
    bpe->slots = malloc(n_slots * sizeof *bpe->slots);
    bpe->whole = calloc((size_t)vocab->n, sizeof *bpe->whole);
    if (bpe->chars) {
        uint64_t n_bits = 1 << 12;
        while (n_bits < 8 * n_merges && n_bits < JOINT_BITS_MAX)
            n_bits *= 2;
        bpe->joints = calloc(n_bits / 64, sizeof *bpe->joints);
        bpe->joint_mask = n_bits - 1;
    }
    if (!bpe->slots || !bpe->whole || (bpe->chars && !bpe->joints)) {
        bpe_close(bpe);
        return err_set(err, ERR_MEMORY, "no memory for %zu merges", n_merges);
    }
    memset(bpe->slots, 0xff, n_slots * sizeof *bpe->slots);
    bpe->slot_mask = n_slots - 1;
    for (int i = 0; i < 256; i++) {
        char byte = (char)i, text[8];
        bpe->byte_id[i] = vocab_word(vocab, &byte, 1);
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        bpe->fallback[i] = bpe->chars ? vocab_find(vocab, text, 6) : -1;
    }
    return true;
}

/* A symbol that does not stand for the text of its token? (Or perhaps not: "<0x" is enough.) */
static bool stands_for_other(const struct bpe *bpe, int32_t id, const char *text, size_t length)
{
    return id == bpe->unk_id || length == 0 ||
           (bpe->byte_fallback && length == 6 && memcmp(text, "<0x", 3) == 0);
}

static uint64_t joint_bit(const struct bpe *bpe, uint32_t before, uint32_t behind)
{
    uint64_t h = ((uint64_t)before << 32 | behind) * 0x9e3779b97f4a7c15u;
    return h >> 40 & bpe->joint_mask;
}

/* Notes which two characters this merge joins. One that takes a byte's token or unk may join
 * whatever: then nothing is cut. */
static void add_joint(struct bpe *bpe, int32_t left, int32_t right)
{
    size_t length[2];
    unsigned n;
    const char *text[2] = { vocab_bytes(bpe->vocab, left, &length[0]),
                            vocab_bytes(bpe->vocab, right, &length[1]) };
    if (stands_for_other(bpe, left, text[0], length[0]) ||
        stands_for_other(bpe, right, text[1], length[1])) {
        free(bpe->joints);
        bpe->joints = NULL;
        return;
    }
    uint64_t bit =
        joint_bit(bpe, unicode_decode_before(text[0], length[0], &n), unicode_decode(text[1], &n));
    bpe->joints[bit / 64] |= (uint64_t)1 << bit % 64;
}

void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    struct bpe_slot *slot = (struct bpe_slot *)find_pair(bpe, left, right);
    *slot = (struct bpe_slot){ (uint32_t)left, (uint32_t)right, rank, id };
    if (bpe->joints)
        add_joint(bpe, left, right);
}

void bpe_close(struct bpe *bpe)
{
    free(bpe->slots);
    free((void *)bpe->whole);
    free(bpe->joints);
    *bpe = (struct bpe){ 0 };
}

void bpe_scratch_clear(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){ 0 };
}

static uint32_t rank_of(const struct bpe *bpe, int32_t left, int32_t right)
{
    return find_pair(bpe, left, right)->rank;
}

/* --- short pieces ---------------------------------------------------------------------------- */

/* ids[0..n) merged in place; returns how many are left. n <= SHORT_MAX. */
static uint32_t merge_short(const struct bpe *bpe, int32_t *ids, uint32_t n)
{
    uint32_t ranks[SHORT_MAX]; /* ranks[i]: of the merge of ids[i] and ids[i + 1] */
    int32_t made[SHORT_MAX];   /* what it makes */
    for (uint32_t i = 0; i + 1 < n; i++) {
        const struct bpe_slot *slot = find_pair(bpe, ids[i], ids[i + 1]);
        ranks[i] = slot->rank;
        made[i] = slot->id;
    }
    while (n > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == NO_RANK)
            break;
        ids[best] = made[best];
        n--;
        for (uint32_t i = best + 1; i < n; i++)
            ids[i] = ids[i + 1];
        for (uint32_t i = best; i + 1 < n; i++) {
            ranks[i] = ranks[i + 1];
            made[i] = made[i + 1];
        }
        if (best > 0) {
            const struct bpe_slot *slot = find_pair(bpe, ids[best - 1], ids[best]);
            ranks[best - 1] = slot->rank;
            made[best - 1] = slot->id;
        }
        if (best + 1 < n) {
            const struct bpe_slot *slot = find_pair(bpe, ids[best], ids[best + 1]);
            ranks[best] = slot->rank;
            made[best] = slot->id;
        }
    }
    return n;
}

/* --- long pieces ----------------------------------------------------------------------------- */

static void heap_push(uint64_t *heap, size_t *n, uint64_t item)
{
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 4] > item) {
        heap[i] = heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    heap[i] = item;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t child = 4 * i + 1, best = child;
        if (child >= *n)
            break;
        for (size_t k = child + 1; k < child + 4 && k < *n; k++)
            if (heap[k] < heap[best])
                best = k;
        if (heap[best] >= last)
            break;
        heap[i] = heap[best];
        i = best;
    }
    heap[i] = last;
    return top;
}

/* Rooms for n symbols and the heap: n - 1 pairs at first, and two new ones for each of at most
 * n - 1 merges that take one out. */
static bool reserve(struct bpe_scratch *scratch, size_t n)
{
    if (n > scratch->symbols_room) {
        struct bpe_symbol *grown = reallocarray(scratch->symbols, n, sizeof *grown);
        if (!grown)
            return false;
        scratch->symbols = grown;
        scratch->symbols_room = n;
    }
    if (n > scratch->heap_room / 2) {
        uint64_t *grown = reallocarray(scratch->heap, n, 2 * sizeof *grown);
        if (!grown)
            return false;
        scratch->heap = grown;
        scratch->heap_room = 2 * n;
    }
    return true;
}

/* Takes the rank of the merge at `at` anew, and puts it into the heap when there is one. */
static void rate(const struct bpe *bpe, struct bpe_symbol *s, uint32_t at, uint64_t *heap,
                 size_t *n_heap)
{
    s[at].rank = s[at].next == NO_RANK ? NO_RANK : rank_of(bpe, s[at].id, s[s[at].next].id);
    if (s[at].rank != NO_RANK)
        heap_push(heap, n_heap, (uint64_t)s[at].rank << 32 | at);
}

/* scratch->symbols[0..n) hold ids; merges them along the links. */
static void merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t n)
{
    struct bpe_symbol *s = scratch->symbols;
    uint64_t *heap = scratch->heap;
    size_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i].previous = i == 0 ? NO_RANK : i - 1;
        s[i].next = i + 1 == n ? NO_RANK : i + 1;
    }
    for (uint32_t i = 0; i < n; i++)
        rate(bpe, s, i, heap, &n_heap);
    while (n_heap > 0) {
        uint64_t item = heap_pop(heap, &n_heap);
        uint32_t at = (uint32_t)item;
        if (s[at].rank != (uint32_t)(item >> 32))
            continue; /* one of the two has been merged since */
        uint32_t gone = s[at].next;
        s[at].id = find_pair(bpe, s[at].id, s[gone].id)->id;
        s[at].next = s[gone].next;
        s[gone].rank = NO_RANK;
        s[gone].id = -1;
        if (s[at].next != NO_RANK)
            s[s[at].next].previous = at;
        rate(bpe, s, at, heap, &n_heap);
        if (s[at].previous != NO_RANK)
            rate(bpe, s, s[at].previous, heap, &n_heap);
    }
}

/* --- a piece --------------------------------------------------------------------------------- */

static bool ids_room(struct ids *ids, size_t more)
{
    if (ids->capacity - ids->n >= more)
        return true;
    size_t capacity = ids->capacity ? ids->capacity : 64;
    while (capacity - ids->n < more)
        if (__builtin_mul_overflow(capacity, (size_t)2, &capacity))
            return false;
    int32_t *grown = reallocarray(ids->ids, capacity, sizeof *grown);
    if (!grown)
        return false;
    ids->ids = grown;
    ids->capacity = capacity;
    return true;
}

enum { SYMBOLS_MAX = 5 }; /* of one character: an unk from before it and four bytes */

/* The symbols of the character (or byte) at text[0..), *step bytes long. `unk`: one is due, unless
 * the next character fuses with it; as in the library, bytes' tokens overtake it. All in all never
 * more symbols than bytes. */
static unsigned take_symbols(const struct bpe *bpe, const char *text, unsigned *step, bool *unk,
                             int32_t out[SYMBOLS_MAX])
{
    unsigned n = 0;
    uint8_t first = (uint8_t)*text;
    int32_t id = bpe->byte_id[first];
    *step = 1;
    if (bpe->chars && first >= 0x80) {
        unicode_decode(text, step);
        id = vocab_word(bpe->vocab, text, *step);
    }
    if (id >= 0) {
        if (*unk)
            out[n++] = bpe->unk_id;
        *unk = false;
        out[n++] = id;
        return n;
    }
    if (bpe->byte_fallback) {
        while (n < *step && bpe->fallback[(uint8_t)text[n]] >= 0) {
            out[n] = bpe->fallback[(uint8_t)text[n]];
            n++;
        }
        if (n == *step)
            return n;
        n = 0;
    }
    if (bpe->unk_id < 0)
        return 0;
    if (*unk && !bpe->fuse_unk)
        out[n++] = bpe->unk_id;
    *unk = true;
    return n;
}

static bool encode_long(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece,
                        size_t length, struct ids *out)
{
    if (length >= NO_RANK || !reserve(scratch, length))
        return false;
    uint32_t n = 0;
    bool unk = false;
    for (size_t i = 0; i < length;) {
        int32_t ids[SYMBOLS_MAX];
        unsigned step, taken = take_symbols(bpe, piece + i, &step, &unk, ids);
        for (unsigned k = 0; k < taken; k++)
            scratch->symbols[n++].id = ids[k];
        i += step;
    }
    if (unk)
        scratch->symbols[n++].id = bpe->unk_id;
    if (n == 0)
        return true;
    merge_long(bpe, scratch, n);
    if (!ids_room(out, n))
        return false;
    for (uint32_t i = 0; i != NO_RANK; i = scratch->symbols[i].next)
        out->ids[out->n++] = scratch->symbols[i].id;
    return true;
}

static bool encode_piece(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece,
                         size_t length, struct ids *out)
{
    int32_t word = vocab_word(bpe->vocab, piece, length);
    uint8_t whole = WHOLE_NO;
    if (word >= 0) {
        whole = bpe->ignore_merges ? WHOLE_YES
                                   : atomic_load_explicit(&bpe->whole[word], memory_order_relaxed);
        if (whole == WHOLE_YES)
            return ids_push(out, word);
    }
    if (length > SHORT_MAX)
        return encode_long(bpe, scratch, piece, length, out);
    int32_t ids[SHORT_MAX + SYMBOLS_MAX];
    uint32_t n = 0;
    bool unk = false;
    for (size_t i = 0; i < length;) {
        unsigned step;
        n += take_symbols(bpe, piece + i, &step, &unk, ids + n);
        i += step;
    }
    if (unk)
        ids[n++] = bpe->unk_id;
    n = merge_short(bpe, ids, n);
    if (word >= 0 && whole == WHOLE_UNKNOWN)
        atomic_store_explicit(&bpe->whole[word], n == 1 && ids[0] == word ? WHOLE_YES : WHOLE_NO,
                              memory_order_relaxed);
    if (n == 0)
        return true;
    if (!ids_room(out, n))
        return false;
    memcpy(out->ids + out->n, ids, n * sizeof *ids);
    out->n += n;
    return true;
}

/* May the piece be cut before text[at]? No merge joins these two characters, and the second one
 * has a token, so that an unk does not grow across either. */
static bool is_gap(const struct bpe *bpe, uint32_t before, uint32_t behind, const char *text,
                   unsigned n)
{
    uint64_t bit = joint_bit(bpe, before, behind);
    if (bpe->joints[bit / 64] >> bit % 64 & 1)
        return false;
    return (n == 1 ? bpe->byte_id[(uint8_t)*text] : vocab_word(bpe->vocab, text, n)) >= 0;
}

bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece,
                size_t length, struct ids *out)
{
    if (!bpe->joints || bpe->ignore_merges || length == 0)
        return encode_piece(bpe, scratch, piece, length, out);
    unsigned n;
    uint32_t before = unicode_decode(piece, &n);
    size_t start = 0;
    for (size_t i = n; i < length; i += n) {
        uint32_t code = unicode_decode(piece + i, &n);
        if (is_gap(bpe, before, code, piece + i, n)) {
            if (!encode_piece(bpe, scratch, piece + start, i - start, out))
                return false;
            start = i;
        }
        before = code;
    }
    return encode_piece(bpe, scratch, piece + start, length - start, out);
}
