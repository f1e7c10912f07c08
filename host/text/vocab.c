/* vocab.c - building and reading the flat tables of a vocabulary.
 *
 * Invariant: offsets ascend; slots are at most two thirds full, so every probe ends; every id in a
 * slot has VOCAB_WORD, and its bytes are unique among words. */
#include "host/text/vocab.h"
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

/* GPT-2's bytes_to_unicode, backwards; -1 for a letter outside of the table. */
static int byte_of_letter(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) ||
        (code >= 0xae && code <= 0xff))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100; /* 00..20 */
    if (code >= 0x121 && code <= 0x142)
        return (int)code - 0x121 + 0x7f; /* 7f..a0 */
    return code == 0x143 ? 0xad : -1;
}

bool vocab_from_letters(const char *text, size_t length, char *out, size_t *out_length)
{
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        unsigned step;
        int byte = byte_of_letter(unicode_decode(text + i, &step));
        if (byte < 0)
            return false;
        out[n++] = (char)byte;
        i += step;
    }
    *out_length = n;
    return true;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd6e8feb86659fd93u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Words are short: at most two loads for 16 bytes, no loop. Not keyed: the vocabulary is the
 * operator's own file, and a lookup probes a fixed table whatever a client asks for. */
static uint64_t hash_of(const char *bytes, size_t length)
{
    uint64_t a = 0, b = 0, h = length;
    while (length > 16) {
        memcpy(&a, bytes, 8);
        memcpy(&b, bytes + 8, 8);
        h = mix(a ^ h, b);
        bytes += 16;
        length -= 16;
    }
    if (length >= 8) {
        memcpy(&a, bytes, 8);
        memcpy(&b, bytes + length - 8, 8);
    } else if (length >= 4) {
        uint32_t low, high;
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + length - 4, 4);
        a = low;
        b = high;
    } else if (length > 0) {
        a = (uint64_t)(uint8_t)bytes[0] << 16 | (uint64_t)(uint8_t)bytes[length / 2] << 8 |
            (uint8_t)bytes[length - 1];
    }
    return mix(a ^ h, b ^ h << 32);
}

int32_t vocab_word(const struct vocab *vocab, const char *bytes, size_t length)
{
    if (length > vocab->longest)
        return -1;
    uint64_t hash = hash_of(bytes, length);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (uint64_t i = hash & vocab->slot_mask;; i = (i + 1) & vocab->slot_mask) {
        const struct vocab_slot *slot = &vocab->slots[i];
        if (slot->id < 0)
            return -1;
        if (slot->tag == tag) {
            uint32_t at = vocab->offsets[slot->id];
            if (vocab->offsets[slot->id + 1] - at == length &&
                memcmp(vocab->bytes + at, bytes, length) == 0)
                return slot->id;
        }
    }
}

const char *vocab_bytes(const struct vocab *vocab, int32_t id, size_t *length)
{
    if (id < 0 || id >= vocab->n || !(vocab->flags[id] & VOCAB_EXISTS))
        return NULL;
    *length = vocab->offsets[id + 1] - vocab->offsets[id];
    return vocab->bytes + vocab->offsets[id];
}

int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length)
{
    int32_t id = map_get(&vocab->texts, text, length, -1);
    if (id >= 0)
        return id;
    if (vocab->kind != VOCAB_LETTERS)
        return vocab_word(vocab, text, length);
    if (length > 2 * vocab->longest || unicode_check(text, length) < length)
        return -1;
    char small[256], *bytes = length <= sizeof small ? small : malloc(length);
    size_t n;
    if (bytes && vocab_from_letters(text, length, bytes, &n))
        id = vocab_word(vocab, bytes, n);
    if (bytes != small)
        free(bytes);
    return id;
}

/* --- building -------------------------------------------------------------------------------- */

/* How much of a token goes into a message. */
static int shown(const struct vocab_entry *e)
{
    size_t n = e->length < 60 ? e->length : 60;
    while (n > 0 && n < e->length && ((uint8_t)e->text[n] & 0xc0) == 0x80)
        n--;
    return unicode_check(e->text, n) == n ? (int)n : 0;
}

/* `by_id`: for every id the index of its entry plus one. An added token that repeats an entry of
 * the model marks that entry. */
static bool order_entries(struct vocab *vocab, const struct vocab_entry *entries, size_t n,
                          uint32_t *by_id, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct vocab_entry *e = &entries[i];
        uint32_t *at = &by_id[e->id];
        if (*at) {
            const struct vocab_entry *other = &entries[*at - 1];
            bool same = e->length == other->length && memcmp(e->text, other->text, e->length) == 0;
            if (!e->added || !same || (vocab->flags[e->id] & VOCAB_ADDED))
                return err_set(err, ERR_FORMAT, "id %d belongs to \"%.*s\" and to \"%.*s\"", e->id,
                               shown(other), other->text, shown(e), e->text);
        } else {
            *at = (uint32_t)i + 1;
        }
        vocab->flags[e->id] |= (uint8_t)(VOCAB_EXISTS | (e->added ? VOCAB_ADDED : 0) |
                                         (e->special ? VOCAB_SPECIAL : 0));
    }
    return true;
}

/* Writes the bytes of every id; words get VOCAB_WORD. */
static void write_bytes(struct vocab *vocab, const struct vocab_entry *entries,
                        const uint32_t *by_id)
{
    size_t at = 0;
    for (int32_t id = 0; id < vocab->n; id++) {
        vocab->offsets[id] = (uint32_t)at;
        if (!by_id[id])
            continue;
        const struct vocab_entry *e = &entries[by_id[id] - 1];
        const char *text = e->shown ? e->shown : e->text;
        size_t text_length = e->shown ? e->shown_length : e->length, length;
        bool plain = vocab->kind != VOCAB_LETTERS;
        bool letters = !plain && vocab_from_letters(text, text_length, vocab->bytes + at, &length);
        if (!letters) {
            length = text_length;
            memcpy(vocab->bytes + at, text, length);
        }
        if (!e->added && !e->hidden && (plain || letters))
            vocab->flags[id] |= VOCAB_WORD;
        if ((vocab->flags[id] & VOCAB_WORD) && length > vocab->longest)
            vocab->longest = length;
        at += length;
    }
    vocab->offsets[vocab->n] = (uint32_t)at;
}

/* Returns the id of a word with the same bytes, or -1 when it is in. */
static int32_t insert_word(struct vocab *vocab, int32_t id)
{
    const char *bytes = vocab->bytes + vocab->offsets[id];
    size_t length = vocab->offsets[id + 1] - vocab->offsets[id];
    int32_t same = vocab_word(vocab, bytes, length);
    if (same >= 0)
        return same;
    uint64_t hash = hash_of(bytes, length), i = hash & vocab->slot_mask;
    while (vocab->slots[i].id >= 0)
        i = (i + 1) & vocab->slot_mask;
    vocab->slots[i] = (struct vocab_slot){ (uint32_t)(hash >> 32), id };
    return -1;
}

/* Texts that vocab_from_letters cannot find: raw ones, and added tokens. */
static bool index_texts(struct vocab *vocab, const struct vocab_entry *entries, size_t n,
                        struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct vocab_entry *e = &entries[i];
        if (!e->added && (vocab->flags[e->id] & VOCAB_WORD))
            continue;
        int32_t before = map_get(&vocab->texts, e->text, e->length, -1);
        if (before < 0 && e->added) {
            before = vocab_find(vocab, e->text, e->length);
        }
        if (before >= 0 && before != e->id)
            return err_set(err, ERR_FORMAT, "\"%.*s\" has the ids %d and %d", shown(e), e->text,
                           before, e->id);
        if (!map_set(&vocab->texts, e->text, e->length, e->id, NULL))
            return err_set(err, ERR_MEMORY, "no memory for %zu tokens", n);
    }
    return true;
}

bool vocab_build(struct vocab *vocab, enum vocab_kind kind, const struct vocab_entry *entries,
                 size_t n, struct err *err)
{
    *vocab = (struct vocab){ .kind = kind };
    uint32_t *by_id = NULL;
    size_t bytes = 0, n_slots = 64;
    for (size_t i = 0; i < n; i++) {
        const struct vocab_entry *e = &entries[i];
        if (e->id < 0 || e->id >= VOCAB_IDS_MAX)
            return err_set(err, ERR_FORMAT, "\"%.*s\" has the id %d, want 0 to %d", shown(e),
                           e->text, e->id, VOCAB_IDS_MAX - 1);
        if (e->length > VOCAB_TOKEN_MAX)
            return err_set(err, ERR_FORMAT, "a token of %zu bytes (id %d), want at most %d",
                           e->length, e->id, VOCAB_TOKEN_MAX);
        if (e->id >= vocab->n)
            vocab->n = e->id + 1;
        bytes += e->shown ? e->shown_length : e->length;
    }
    if (n == 0)
        return err_set(err, ERR_FORMAT, "a vocabulary without tokens");
    if (bytes > UINT32_MAX || n > VOCAB_IDS_MAX)
        return err_set(err, ERR_FORMAT, "a vocabulary of %zu tokens, %zu bytes", n, bytes);
    while (n_slots * 2 < n * 3)
        n_slots *= 2;
    size_t ids = (size_t)vocab->n;
    by_id = calloc(ids, sizeof *by_id);
    vocab->offsets = malloc((ids + 1) * sizeof *vocab->offsets);
    vocab->flags = calloc(ids, 1);
    vocab->bytes = malloc(bytes + 1);
    vocab->slots = malloc(n_slots * sizeof *vocab->slots);
    vocab->slot_mask = n_slots - 1;
    if (!by_id || !vocab->offsets || !vocab->flags || !vocab->bytes || !vocab->slots) {
        err_set(err, ERR_MEMORY, "no memory for %zu tokens", n);
        goto fail;
    }
    memset(vocab->slots, 0xff, n_slots * sizeof *vocab->slots);
    if (!map_init(&vocab->texts, 16, err) || !order_entries(vocab, entries, n, by_id, err))
        goto fail;
    write_bytes(vocab, entries, by_id);
    for (int32_t id = 0; id < vocab->n; id++)
        if (vocab->flags[id] & VOCAB_WORD) {
            int32_t same = insert_word(vocab, id);
            const struct vocab_entry *e = &entries[by_id[id] - 1];
            if (same >= 0) {
                err_set(err, ERR_FORMAT, "\"%.*s\" has the ids %d and %d", shown(e), e->text, same,
                        id);
                goto fail;
            }
        }
    if (!index_texts(vocab, entries, n, err))
        goto fail;
    free(by_id);
    return true;
fail:
    free(by_id);
    vocab_clear(vocab);
    return false;
}

void vocab_clear(struct vocab *vocab)
{
    free(vocab->offsets);
    free(vocab->bytes);
    free(vocab->flags);
    free(vocab->slots);
    map_clear(&vocab->texts);
    *vocab = (struct vocab){ 0 };
}
