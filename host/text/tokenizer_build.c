/* tokenizer_build.c - from a list of pieces to a struct tokenizer.
 *
 * Where a file has scores or ranks instead of merges, the merges are found: every way to cut a
 * piece into two others. Cost: a piece's bytes squared (PIECE_BYTES_MAX bounds them). */
#include "host/text/tokenizer_build.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/pretok_names.h"
#include "host/text/tokenizer_parts.h"
#include "host/text/unicode.h"

static const char MARK[] = "\xe2\x96\x81"; /* U+2581 */

struct maker {
    const struct tokenizer_build *build;
    struct tokenizer *tokenizer;
    struct vocab_entry *entries;
    size_t n_entries;
    bool *replaced; /* [n_pieces]: an added token has this id */
    bool ignore_merges;
    struct err *err;
};

static bool no_memory(struct maker *m)
{
    return err_set(m->err, ERR_MEMORY, "no memory for a tokenizer of %zu tokens",
                   m->build->n_pieces);
}

static bool sentencepiece(const struct maker *m)
{
    return m->build->kind == BUILD_SCORES || m->build->kind == BUILD_UNIGRAM;
}

/* --- pieces ---------------------------------------------------------------------------------- */

static bool is_added(enum piece_type type)
{
    return type == PIECE_UNKNOWN || type == PIECE_CONTROL || type == PIECE_USER;
}

static bool check_piece(struct maker *m, size_t id)
{
    const struct piece *p = &m->build->pieces[id];
    if (p->type < PIECE_NORMAL || p->type > PIECE_BYTE)
        return err_set(m->err, ERR_FORMAT, "token %zu has the type %d, want 1 to 6", id,
                       (int)p->type);
    if (p->type == PIECE_NORMAL && p->length > PIECE_BYTES_MAX)
        return err_set(m->err, ERR_FORMAT, "token %zu has %zu bytes, want at most %d", id,
                       p->length, PIECE_BYTES_MAX);
    if (sentencepiece(m) && !isfinite(p->score))
        return err_set(m->err, ERR_FORMAT, "token %zu has the score %g", id, (double)p->score);
    if (p->length == 0 || (m->build->kind == BUILD_RANKS && p->type == PIECE_NORMAL))
        return true;
    size_t bad = unicode_check(p->text, p->length);
    if (is_added(p->type) &&
        memchr(p->text, 0, p->length)) /* specials are handed out as C strings */
        return err_set(m->err, ERR_FORMAT, "token %zu has a NUL", id);
    return bad == p->length ||
           err_set(m->err, ERR_FORMAT, "token %zu is not UTF-8 at byte %zu", id, bad);
}

/* What phi3's files mean but GGUF cannot say: blanks behind its role tokens belong to them, not
 * those behind the tokens that begin or end a text. */
static bool strips(const struct maker *m, const struct piece *p)
{
    static const char *const ENDS[] = { "<s>", "</s>", "<unk>", "<|endoftext|>" };
    if (!m->build->strip_behind_special || p->type != PIECE_CONTROL)
        return false;
    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++)
        if (p->length == strlen(ENDS[i]) && memcmp(p->text, ENDS[i], p->length) == 0)
            return false;
    return true;
}

/* User-defined pieces are looked for in normalized text, as they are. */
static bool add_user(struct maker *m, const struct piece *p, int32_t id)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    for (size_t i = 0; i < p->length; i++) {
        if (p->text[i] == ' ' && m->build->user_blanks)
            buf_puts(&text, MARK);
        else
            buf_putc(&text, p->text[i]);
    }
    bool ok = !text.failed &&
              added_set_add(&m->tokenizer->added_normalized, text.bytes, text.length, id, 0);
    buf_clear(&text);
    return ok || no_memory(m);
}

static bool add_entry(struct maker *m, size_t id)
{
    const struct piece *p = &m->build->pieces[id];
    if (!check_piece(m, id))
        return false;
    if (p->length == 0 || (m->replaced && m->replaced[id]))
        return true;
    bool special = p->type == PIECE_CONTROL || p->type == PIECE_UNKNOWN;
    m->entries[m->n_entries++] =
        (struct vocab_entry){ .text = p->text,
                              .length = p->length,
                              .id = (int32_t)id,
                              .added = is_added(p->type),
                              .special = special,
                              .hidden = p->type == PIECE_UNUSED || p->type == PIECE_BYTE };
    if (!is_added(p->type))
        return true;
    if (sentencepiece(m) && p->type == PIECE_USER)
        return add_user(m, p, (int32_t)id);
    unsigned flags = (special ? ADDED_SPECIAL : 0) | (strips(m, p) ? ADDED_RSTRIP : 0);
    return added_set_add(&m->tokenizer->added, p->text, p->length, (int32_t)id, flags) ||
           no_memory(m);
}

/* Marks the pieces that added tokens replace: one of the same text that is a word stays a word. */
static bool mark_replaced(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    m->replaced = calloc(b->n_pieces + 1, sizeof *m->replaced);
    if (!m->replaced)
        return no_memory(m);
    for (size_t i = 0; i < b->n_added; i++) {
        const struct build_added *a = &b->added[i];
        if (a->id < 0 || (size_t)a->id >= b->n_pieces + BUILD_HOLES_MAX)
            return err_set(m->err, ERR_FORMAT, "the added token \"%.60s\" has the id %d of %zu",
                           a->text, a->id, b->n_pieces);
        if ((size_t)a->id >= b->n_pieces)
            continue;
        const struct piece *p = &b->pieces[a->id];
        m->replaced[a->id] = is_added(p->type) || p->length != strlen(a->text) ||
                             memcmp(p->text, a->text, p->length) != 0;
    }
    return true;
}

static bool add_added(struct maker *m, const struct build_added *a)
{
    m->entries[m->n_entries++] = (struct vocab_entry){ .text = a->text,
                                                       .length = strlen(a->text),
                                                       .id = a->id,
                                                       .added = true,
                                                       .special = a->flags & ADDED_SPECIAL };
    return added_set_add(&m->tokenizer->added, a->text, strlen(a->text), a->id,
                         a->flags & ~(unsigned)ADDED_NORMALIZED) ||
           no_memory(m);
}

static bool list_specials(struct maker *m)
{
    struct tokenizer *t = m->tokenizer;
    size_t n = 0;
    for (size_t i = 0; i < m->n_entries; i++)
        n += m->entries[i].special;
    t->specials = calloc(n + 1, sizeof *t->specials);
    if (!t->specials)
        return no_memory(m);
    for (size_t i = 0; i < m->n_entries; i++) {
        const struct vocab_entry *e = &m->entries[i];
        if (!e->special)
            continue;
        t->specials[t->n_specials] = strndup(e->text, e->length);
        if (!t->specials[t->n_specials++])
            return no_memory(m);
    }
    return true;
}

static bool add_pieces(struct maker *m)
{
    static const enum vocab_kind KINDS[] = { [BUILD_SCORES] = VOCAB_TEXTS,
                                             [BUILD_UNIGRAM] = VOCAB_TEXTS,
                                             [BUILD_MERGES] = VOCAB_LETTERS,
                                             [BUILD_RANKS] = VOCAB_BYTES };
    struct tokenizer *t = m->tokenizer;
    size_t n = m->build->n_pieces;
    if (n > VOCAB_IDS_MAX)
        return err_set(m->err, ERR_FORMAT, "%zu tokens, at most %d", n, VOCAB_IDS_MAX);
    m->entries = calloc(n + m->build->n_added + 1, sizeof *m->entries);
    if (!m->entries)
        return no_memory(m);
    if (m->build->n_added > 0 && !mark_replaced(m))
        return false;
    for (size_t id = 0; id < n; id++)
        if (!add_entry(m, id))
            return false;
    for (size_t i = 0; i < m->build->n_added; i++)
        if (!add_added(m, &m->build->added[i]))
            return false;
    added_set_sort(&t->added);
    added_set_sort(&t->added_normalized);
    return list_specials(m) &&
           vocab_build(&t->vocab, KINDS[m->build->kind], m->entries, m->n_entries, m->err);
}

/* --- merges ---------------------------------------------------------------------------------- */

struct found {
    int32_t left, right, made;
    uint32_t rank;
};
struct found_list {
    struct found *found;
    size_t n, room;
};

/* All ways to cut this word into two words. */
static bool find_cuts(struct maker *m, int32_t id, uint32_t rank, struct found_list *list)
{
    const struct vocab *vocab = &m->tokenizer->vocab;
    size_t length;
    const char *text = vocab_bytes(vocab, id, &length);
    for (size_t i = 1; i < length; i++) {
        if (vocab->kind == VOCAB_TEXTS && ((uint8_t)text[i] & 0xc0) == 0x80)
            continue;
        int32_t left = vocab_word(vocab, text, i), right;
        if (left < 0 || (right = vocab_word(vocab, text + i, length - i)) < 0)
            continue;
        if (list->n == list->room) {
            size_t room = list->room ? list->room * 2 : 4096;
            struct found *grown = reallocarray(list->found, room, sizeof *grown);
            if (!grown)
                return no_memory(m);
            list->found = grown;
            list->room = room;
        }
        list->found[list->n++] = (struct found){ left, right, id, rank };
    }
    return true;
}

static bool is_word(const struct maker *m, size_t id)
{
    const struct vocab *vocab = &m->tokenizer->vocab;
    return id < (size_t)vocab->n && (vocab->flags[id] & VOCAB_WORD);
}

struct rated {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct rated *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Ranks by score: equal scores have one rank, and of those the leftmost pair merges first. */
static bool find_scored(struct maker *m, struct found_list *list)
{
    const struct tokenizer_build *b = m->build;
    struct rated *order = calloc(b->n_pieces + 1, sizeof *order);
    size_t n = 0;
    bool ok = order != NULL || no_memory(m);
    for (size_t id = 0; ok && id < b->n_pieces; id++)
        if (is_word(m, id))
            order[n++] = (struct rated){ b->pieces[id].score, (int32_t)id };
    if (ok)
        qsort(order, n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; ok && i < n; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        ok = find_cuts(m, order[i].id, rank, list);
    }
    free(order);
    return ok;
}

static bool find_ranked(struct maker *m, struct found_list *list)
{
    for (size_t id = 0; id < m->build->n_pieces; id++)
        if (is_word(m, id) && !find_cuts(m, (int32_t)id, (uint32_t)id, list))
            return false;
    return true;
}

/* "left right": the id of each and of both together. */
static bool read_merge(struct maker *m, size_t rank, struct found *f)
{
    const struct vocab *vocab = &m->tokenizer->vocab;
    const struct piece_text *merge = &m->build->merges[rank];
    char bytes[PIECE_BYTES_MAX];
    size_t n = 0, left;
    const char *blank = NULL;
    if (merge->length > 1) /* a piece may itself begin with a blank */
        blank = memchr(merge->text + 1, ' ', merge->length - 1);
    bool good = blank && merge->length <= sizeof bytes &&
                unicode_check(merge->text, merge->length) == merge->length;
    *f = (struct found){ .rank = (uint32_t)rank };
    if (good)
        good = vocab_from_letters(merge->text, (size_t)(blank - merge->text), bytes, &left) &&
               vocab_from_letters(blank + 1, (size_t)(merge->text + merge->length - blank) - 1,
                                  bytes + left, &n);
    if (!good)
        return err_set(m->err, ERR_FORMAT, "merge %zu must be two tokens: \"a b\"", rank);
    f->left = vocab_word(vocab, bytes, left);
    f->right = vocab_word(vocab, bytes + left, n);
    f->made = vocab_word(vocab, bytes, left + n);
    if (f->left >= 0 && f->right >= 0 && f->made >= 0)
        return true;
    return err_set(m->err, ERR_FORMAT, "merge %zu \"%.*s\" %s no token", rank,
                   merge->length < 60 ? (int)merge->length : 0, merge->text,
                   f->made < 0 ? "makes" : "names");
}

static bool make_bpe(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    struct tokenizer *t = m->tokenizer;
    struct found_list list = { 0 };
    t->kind = MODEL_BPE;
    bool ok = b->kind == BUILD_MERGES   ? true
              : b->kind == BUILD_SCORES ? find_scored(m, &list)
                                        : find_ranked(m, &list);
    size_t n = b->kind == BUILD_MERGES ? b->n_merges : list.n;
    ok = ok && bpe_open(&t->bpe, &t->vocab, n, m->err);
    if (ok) {
        t->bpe.ignore_merges = m->ignore_merges;
        t->bpe.fuse_unk = true;
        for (int i = 0; i < 256; i++)
            t->bpe.byte_fallback |= t->bpe.fallback[i] >= 0;
        if (sentencepiece(m))
            t->bpe.unk_id = b->unk;
    }
    for (size_t i = 0; ok && i < n; i++) {
        struct found f;
        if (b->kind == BUILD_MERGES)
            ok = read_merge(m, i, &f);
        else
            f = list.found[i];
        if (ok)
            bpe_add(&t->bpe, f.left, f.right, f.rank, f.made);
    }
    free(list.found);
    return ok;
}

static bool make_unigram(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    struct tokenizer *t = m->tokenizer;
    double lowest = 0;
    bool any = false;
    double *scores = calloc((size_t)t->vocab.n, sizeof *scores);
    if (!scores)
        return no_memory(m);
    for (int32_t id = 0; id < t->vocab.n; id++) {
        if (!is_word(m, (size_t)id))
            continue;
        scores[id] = (double)b->pieces[id].score;
        if (!any || scores[id] < lowest) {
            lowest = scores[id];
            any = true;
        }
    }
    t->kind = MODEL_UNIGRAM;
    if (!unigram_open(&t->unigram, &t->vocab, scores, lowest, m->err))
        return false;
    t->unigram.single = true;
    t->unigram.unk_id = b->unk;
    for (int i = 0; i < 256; i++)
        t->unigram.byte_fallback |= t->unigram.fallback[i] >= 0;
    return true;
}

/* --- around the model ------------------------------------------------------------------------ */

static bool make_sentencepiece_normalizer(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    struct normalizer *n = &m->tokenizer->normalizer;
    if (b->charsmap_bytes > 0 &&
        !normalizer_add_map(n, b->charsmap, b->charsmap_bytes, CHARSMAP_LONGEST, m->err)) {
        err_prefix(m->err, "precompiled_charsmap");
        return false;
    }
    if (b->remove_extra_whitespaces)
        normalizer_add_spaces(n);
    if (b->add_dummy_prefix && !normalizer_add_prepend(n, MARK, m->err))
        return false;
    return normalizer_add_replace(n, " ", MARK, m->err) &&
           decoder_open_mark(&m->tokenizer->decoder, b->add_dummy_prefix, m->err);
}

static bool make_pretok(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    struct tokenizer *t = m->tokenizer;
    t->decoder.byte_level = t->pretok.byte_level = true;
    m->ignore_merges = b->kind == BUILD_RANKS;
    if (b->pattern)
        return pretok_add_pattern(&t->pretok, b->pattern, m->err);
    const char *pre = b->pre ? b->pre : "default";
    const struct pretok_name *name = pretok_name_find(pre);
    if (!name)
        return err_set(m->err, ERR_UNSUPPORTED, "the pre-tokenizer \"%.60s\" is not supported",
                       pre);
    if (name->nfc)
        normalizer_add_form(&t->normalizer, UNICODE_NFC);
    m->ignore_merges |= name->ignore_merges;
    return pretok_name_open(&t->pretok, name, m->err);
}

static bool add_end(struct maker *m, const char *what, int32_t id, struct ids *ids)
{
    size_t length;
    if (id < 0)
        return true;
    if (!vocab_bytes(&m->tokenizer->vocab, id, &length))
        return err_set(m->err, ERR_FORMAT, "%s is %d, which is no token", what, id);
    return ids_push(ids, id) || no_memory(m);
}

static bool make(struct maker *m)
{
    const struct tokenizer_build *b = m->build;
    struct tokenizer *t = m->tokenizer;
    if (!(sentencepiece(m) ? make_sentencepiece_normalizer(m) : make_pretok(m)) || !add_pieces(m))
        return false;
    size_t length;
    if (b->unk >= 0 && !vocab_bytes(&t->vocab, b->unk, &length))
        return err_set(m->err, ERR_FORMAT, "unk is %d, which is no token", b->unk);
    return (b->kind == BUILD_UNIGRAM ? make_unigram(m) : make_bpe(m)) &&
           add_end(m, "bos", b->bos, &t->prefix) && add_end(m, "eos", b->eos, &t->suffix) &&
           decoder_build(&t->decoder, &t->vocab, m->err);
}

bool tokenizer_build(struct tokenizer **tokenizer, const struct tokenizer_build *build,
                     struct err *err)
{
    struct tokenizer_build full = *build;
    struct maker m = { .build = &full, .tokenizer = calloc(1, sizeof **tokenizer), .err = err };
    for (size_t id = 0; full.unk < 0 && id < full.n_pieces && id < VOCAB_IDS_MAX; id++)
        if (full.pieces[id].type == PIECE_UNKNOWN)
            full.unk = (int32_t)id;
    bool ok = m.tokenizer ? make(&m) : no_memory(&m);
    free(m.entries);
    free(m.replaced);
    if (!ok) {
        tokenizer_close(m.tokenizer);
        return false;
    }
    *tokenizer = m.tokenizer;
    return true;
}
