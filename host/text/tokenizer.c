/* tokenizer.c - text to ids: the pipeline, in order; and the questions that others ask of ids.
 *
 * Invariant: after open nothing changes but bpe.whole (a memo, see bpe.h). All memory of a call
 * is its own. What a failed call had appended is taken back. */
#include "host/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>
#include "host/text/tokenizer_parts.h"

/* Positions in a piece are 32 bits wide (bpe.c), and normal forms grow up to eleven-fold. */
static const size_t TEXT_MAX = (size_t)256 << 20;

void ids_clear(struct ids *ids)
{
    free(ids->ids);
    *ids = (struct ids){ 0 };
}

bool ids_push(struct ids *ids, int32_t id)
{
    if (ids->n == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 64;
        int32_t *grown = reallocarray(ids->ids, capacity, sizeof *grown);
        if (!grown)
            return false;
        ids->ids = grown;
        ids->capacity = capacity;
    }
    ids->ids[ids->n++] = id;
    return true;
}

struct encoding {
    const struct tokenizer *tokenizer;
    bool parse_special;
    const size_t *barriers; /* of the text as it came in */
    size_t n_barriers;
    struct ids *out;
    struct pretok_scratch pretok;
    struct normalizer_scratch normalizer;
    struct bpe_scratch bpe;
    struct unigram_scratch unigram;
    size_t stretch;    /* where the stretch being encoded begins in the whole */
    struct buf joined; /* a normalized stretch that was cut at barriers */
    struct err *err;
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_MEMORY, "no memory for token ids");
}

static bool encode_piece(void *arg, const char *piece, size_t length)
{
    struct encoding *e = arg;
    switch (e->tokenizer->kind) {
    case MODEL_BPE:
        return bpe_encode(&e->tokenizer->bpe, &e->bpe, piece, length, e->out);
    case MODEL_UNIGRAM:
        return unigram_encode(&e->tokenizer->unigram, &e->unigram, piece, length, e->out);
    case MODEL_WORDPIECE:
        return wordpiece_encode(&e->tokenizer->wordpiece, piece, length, e->out);
    }
    return false;
}

static bool encode_pieces(struct encoding *e, bool first, const char *text, size_t length)
{
    if (pretok_run(&e->tokenizer->pretok, &e->pretok, first, text, length, encode_piece, e, e->err))
        return true;
    return e->err->code != ERR_NONE ? false : no_memory(e->err);
}

/* Normalized text: added tokens that are looked for there, and what is between them. */
static bool encode_normalized(struct encoding *e, const char *text, size_t length,
                              const size_t *barriers, size_t n_barriers, size_t base)
{
    struct added_cut cut = { .set = &e->tokenizer->added_normalized,
                             .text = text,
                             .length = length,
                             .parse_special = e->parse_special,
                             .barriers = barriers,
                             .n_barriers = n_barriers,
                             .base = base };
    size_t start, end;
    int32_t id;
    enum added_found found;
    while ((found = added_next(&cut, &start, &end, &id)) != ADDED_END) {
        if (found == ADDED_ID && !ids_push(e->out, id))
            return no_memory(e->err);
        if (found == ADDED_TEXT &&
            !encode_pieces(e, start == 0 && e->stretch == 0, text + start, end - start))
            return false;
    }
    return true;
}

/* Normalizes the parts between barriers[0..n) (offsets from `base`) by themselves, so that it is
 * known where the barriers are afterwards: a token's text that a user wrote must not come together
 * in normalized text either. */
static bool encode_in_parts(struct encoding *e, const char *text, size_t length, size_t base,
                            const size_t *barriers, size_t n)
{
    size_t *moved = malloc(n * sizeof *moved), done = 0;
    bool ok = false;
    if (!moved)
        return no_memory(e->err);
    buf_reset(&e->joined);
    for (size_t i = 0; i <= n; i++) {
        size_t end = i < n ? barriers[i] - base : length, part_length;
        unsigned where = (i == 0 ? NORMALIZE_FIRST : 0) | (i == n ? NORMALIZE_LAST : 0);
        const char *part;
        if (!normalizer_run(&e->tokenizer->normalizer, &e->normalizer, where, text + done,
                            end - done, &part, &part_length, e->err))
            goto done;
        buf_put(&e->joined, part, part_length);
        done = end;
        if (i < n)
            moved[i] = e->joined.length;
    }
    if (e->joined.failed) {
        no_memory(e->err);
        goto done;
    }
    ok = encode_normalized(e, buf_text(&e->joined), e->joined.length, moved, n, 0);
done:
    free(moved);
    return ok;
}

/* Text between added tokens; `base`: its offset in the whole. */
static bool encode_stretch(struct encoding *e, const char *text, size_t length, size_t base)
{
    const struct tokenizer *t = e->tokenizer;
    e->stretch = base;
    if (t->normalizer.n_steps == 0)
        return encode_normalized(e, text, length, e->barriers, e->n_barriers, base);
    if (t->added_normalized.any_special) {
        size_t from = 0, to;
        while (from < e->n_barriers && e->barriers[from] <= base)
            from++;
        for (to = from; to < e->n_barriers && e->barriers[to] < base + length; to++)
            ;
        if (to > from)
            return encode_in_parts(e, text, length, base, e->barriers + from, to - from);
    }
    const char *normal;
    size_t normal_length;
    return normalizer_run(&t->normalizer, &e->normalizer, NORMALIZE_FIRST | NORMALIZE_LAST, text,
                          length, &normal, &normal_length, e->err) &&
           encode_normalized(e, normal, normal_length, NULL, 0, 0);
}

static bool encode_text(struct encoding *e, const char *text, size_t length)
{
    struct added_cut cut = { .set = &e->tokenizer->added,
                             .text = text,
                             .length = length,
                             .parse_special = e->parse_special,
                             .barriers = e->barriers,
                             .n_barriers = e->n_barriers };
    size_t start, end;
    int32_t id;
    enum added_found found;
    while ((found = added_next(&cut, &start, &end, &id)) != ADDED_END) {
        if (found == ADDED_ID && !ids_push(e->out, id))
            return no_memory(e->err);
        if (found == ADDED_TEXT && !encode_stretch(e, text + start, end - start, start))
            return false;
    }
    return true;
}

static bool push_all(struct ids *out, const struct ids *ids, struct err *err)
{
    for (size_t i = 0; i < ids->n; i++)
        if (!ids_push(out, ids->ids[i]))
            return no_memory(err);
    return true;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                      unsigned flags, const size_t *barriers, size_t n_barriers, struct ids *out,
                      struct err *err)
{
    struct encoding e = { .tokenizer = tokenizer,
                          .parse_special = (flags & ENCODE_PARSE_SPECIAL) != 0,
                          .barriers = barriers,
                          .n_barriers = n_barriers,
                          .out = out,
                          .err = err };
    size_t before = out->n;
    if (length > TEXT_MAX)
        return err_set(err, ERR_REQUEST, "text of %zu bytes, at most %zu", length, TEXT_MAX);
    size_t bad = unicode_check(text, length);
    if (bad < length)
        return err_set(err, ERR_REQUEST, "text is not UTF-8 at byte %zu", bad);
    for (size_t i = 1; i < n_barriers; i++)
        CHECK(barriers[i - 1] <= barriers[i]);
    pretok_scratch_init(&e.pretok);
    normalizer_scratch_init(&e.normalizer);
    buf_init(&e.joined, SIZE_MAX);
    bool add = (flags & ENCODE_ADD_SPECIAL) != 0;
    bool ok = (!add || push_all(out, &tokenizer->prefix, err)) && encode_text(&e, text, length) &&
              (!add || push_all(out, &tokenizer->suffix, err));
    if (!ok)
        out->n = before;
    pretok_scratch_clear(&e.pretok);
    normalizer_scratch_clear(&e.normalizer);
    bpe_scratch_clear(&e.bpe);
    unigram_scratch_clear(&e.unigram);
    buf_clear(&e.joined);
    return ok;
}

int32_t tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocab.n;
}

const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length)
{
    const struct decoder *d = &tokenizer->decoder;
    const char *bytes = vocab_bytes(&tokenizer->vocab, id, length);
    if (!bytes || !d->offsets)
        return bytes;
    *length = d->offsets[id + 1] - d->offsets[id];
    return d->bytes + d->offsets[id];
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab.n && (tokenizer->vocab.flags[id] & VOCAB_SPECIAL);
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    return vocab_find(&tokenizer->vocab, text, length);
}

const char *const *tokenizer_specials(const struct tokenizer *tokenizer, size_t *n)
{
    *n = tokenizer->n_specials;
    return tokenizer->specials;
}
