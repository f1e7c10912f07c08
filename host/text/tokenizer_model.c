/* tokenizer_model.c - the model of a tokenizer.json: its vocabulary, and BPE, Unigram, WordPiece.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/tokenizer_load.h"

/* --- vocabularies ---------------------------------------------------------------------------- */

static bool read_ids(struct load *load)
{
    struct table *vocab = &load->vocab;
    table_init(vocab, load->file.vocab);
    for (table_enter(vocab); table_more(vocab);) {
        const char *text;
        size_t length;
        int64_t id;
        if (!table_string(vocab, &text, &length))
            return load_no_memory(load);
        if (!table_int(vocab, VOCAB_IDS_MAX - 1, &id))
            return err_set(load->err, ERR_FORMAT,
                           "model.vocab: the id of \"%.*s\" must be an integer from 0 to %d",
                           load_shown(length), text, VOCAB_IDS_MAX - 1);
        struct vocab_entry *entry = load_new_entry(load);
        if (!entry)
            return false;
        *entry = (struct vocab_entry){ .text = text, .length = length, .id = (int32_t)id };
    }
    return true;
}

static bool push_score(struct load *load, size_t n, double score)
{
    /* Room doubles with n: at every power of two from 1024 on. */
    if (n == 0 || (n >= 1024 && (n & (n - 1)) == 0)) {
        double *grown = reallocarray(load->scores, n == 0 ? 1024 : n * 2, sizeof *grown);
        if (!grown)
            return load_no_memory(load);
        load->scores = grown;
    }
    load->scores[n] = score;
    return true;
}

/* [["text", score], ...]; ids are places. */
static bool read_scores(struct load *load)
{
    struct table *vocab = &load->vocab;
    size_t n = 0;
    table_init(vocab, load->file.vocab);
    for (table_enter(vocab); table_more(vocab); n++) {
        const char *text = NULL;
        size_t length = 0;
        double score = 0;
        bool good = table_kind(vocab) == TABLE_LIST && n < VOCAB_IDS_MAX;
        if (good) {
            table_enter(vocab);
            good = table_more(vocab) && table_kind(vocab) == TABLE_STRING;
        }
        if (good && !table_string(vocab, &text, &length))
            return load_no_memory(load);
        good = good && table_more(vocab) && table_double(vocab, &score) && isfinite(score) &&
               !table_more(vocab);
        if (!good)
            return err_set(load->err, ERR_FORMAT,
                           "model.vocab[%zu] must be a token and its score, [\"a\", -1.5]", n);
        struct vocab_entry *entry = load_new_entry(load);
        if (!entry || !push_score(load, n, score))
            return false;
        *entry = (struct vocab_entry){ .text = text, .length = length, .id = (int32_t)n };
    }
    return true;
}

bool load_vocab(struct load *load, enum load_model type)
{
    bool list = type == LOAD_UNIGRAM;
    const char *from = load->file.vocab.from;
    if (!from || (*from == '[') != list)
        return err_set(load->err, ERR_FORMAT, "model.vocab must be %s",
                       list ? "a list" : "an object");
    if (!(list ? read_scores(load) : read_ids(load)))
        return false;
    load->n_model = load->n_entries;
    return true;
}

/* --- merges ---------------------------------------------------------------------------------- */

struct merge {
    const char *text[2];
    size_t length[2];
};

/* The merge here: "left right" or ["left", "right"]. */
static bool read_merge(struct load *load, struct table *table, uint32_t rank, struct merge *m)
{
    bool good = false;
    if (table_kind(table) == TABLE_STRING) {
        const char *text, *blank;
        size_t length;
        if (!table_string(table, &text, &length))
            return load_no_memory(load);
        blank = memchr(text, ' ', length);
        if (blank) {
            m->text[0] = text;
            m->length[0] = (size_t)(blank - text);
            m->text[1] = blank + 1;
            m->length[1] = length - m->length[0] - 1;
            good = !memchr(m->text[1], ' ', m->length[1]);
        }
    } else if (table_kind(table) == TABLE_LIST) {
        int n = 0;
        for (table_enter(table); table_more(table) && table_kind(table) == TABLE_STRING; n++) {
            int i = n < 2 ? n : 1;
            if (!table_string(table, &m->text[i], &m->length[i]))
                return load_no_memory(load);
        }
        good = n == 2 && table->at[-1] == ']';
    }
    return good || err_set(load->err, ERR_FORMAT,
                           "model.merges[%u] must be two tokens: \"a b\" or [\"a\", \"b\"]", rank);
}

static bool add_merge(struct load *load, const struct merge *m, uint32_t rank)
{
    struct tokenizer *t = load->tokenizer;
    size_t n[2] = { 0, 0 };
    int32_t ids[2];
    char bytes[2048];
    if (m->length[0] + m->length[1] > sizeof bytes) {
        /* Letters take up to twice their bytes: no merge of a real vocabulary comes near. */
        return err_set(load->err, ERR_UNSUPPORTED, "model.merges[%u] is longer than %zu bytes",
                       rank, sizeof bytes);
    }
    for (int i = 0; i < 2; i++) {
        char *at = bytes + (i == 0 ? 0 : n[0]);
        ids[i] = -1;
        bool known = m->length[i] > 0;
        if (known && t->vocab.kind == VOCAB_LETTERS) {
            known = vocab_from_letters(m->text[i], m->length[i], at, &n[i]);
        } else if (known) {
            memcpy(at, m->text[i], m->length[i]);
            n[i] = m->length[i];
        }
        if (known)
            ids[i] = vocab_word(&t->vocab, at, n[i]);
        if (ids[i] < 0)
            return err_set(load->err, ERR_FORMAT,
                           "model.merges[%u] names \"%.*s\", which is no token", rank,
                           load_shown(m->length[i]), m->text[i]);
    }
    int32_t made = vocab_word(&t->vocab, bytes, n[0] + n[1]);
    if (made < 0)
        return err_set(load->err, ERR_FORMAT,
                       "model.merges[%u] makes \"%.*s%.*s\", which is no token", rank,
                       load_shown(m->length[0]), m->text[0], load_shown(m->length[1]), m->text[1]);
    bpe_add(&t->bpe, ids[0], ids[1], rank, made);
    return true;
}

static size_t count_merges(struct load *load)
{
    struct table table;
    size_t n = 0;
    table_init(&table, load->file.merges);
    for (table_enter(&table); table_more(&table); n++)
        table_skip(&table);
    return n;
}

static bool read_merges(struct load *load)
{
    struct table table;
    uint32_t rank = 0;
    bool ok = true;
    table_init(&table, load->file.merges);
    for (table_enter(&table); ok && table_more(&table); rank++) {
        struct merge merge;
        ok = read_merge(load, &table, rank, &merge) && add_merge(load, &merge, rank);
    }
    table_clear(&table);
    return ok;
}

/* --- models ---------------------------------------------------------------------------------- */

/* Fields of a BPE model that change what merging means and are not done here. */
static bool refuse_variants(struct load *load, const struct json_ref *model)
{
    static const char *const TEXTS[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    struct json_ref at;
    double dropout = 0;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        const char *text = "";
        if (!json_opt_string(model, TEXTS[i], &text, load->err))
            return false;
        json_get(model, TEXTS[i], &at);
        if (text[0])
            return load_unsupported(load, &at, "is not supported");
    }
    if (!json_opt_double(model, "dropout", 0, 1, &dropout, load->err))
        return false;
    json_get(model, "dropout", &at);
    if (dropout != 0)
        return load_unsupported(load, &at, "(random merges) is not supported");
    return true;
}

/* The id of the model's unk_token; -1 when it names none. */
static bool read_unk(struct load *load, const struct json_ref *model, int32_t *id)
{
    struct json_ref at;
    const char *unk = NULL;
    *id = -1;
    if (!json_opt_string(model, "unk_token", &unk, load->err))
        return false;
    if (!unk)
        return true;
    *id = vocab_find(&load->tokenizer->vocab, unk, strlen(unk));
    json_get(model, "unk_token", &at);
    return *id >= 0 || json_error(&at, load->err, "is \"%.60s\", which is no token", unk);
}

static bool read_bpe(struct load *load, const struct json_ref *model)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref at;
    t->kind = MODEL_BPE;
    if (!load->file.merges.from)
        return err_set(load->err, ERR_FORMAT, "model.merges must be a list");
    if (!refuse_variants(load, model) ||
        !bpe_open(&t->bpe, &t->vocab, count_merges(load), load->err) ||
        !json_opt_bool(model, "ignore_merges", &t->bpe.ignore_merges, load->err) ||
        !json_opt_bool(model, "fuse_unk", &t->bpe.fuse_unk, load->err) ||
        !json_opt_bool(model, "byte_fallback", &t->bpe.byte_fallback, load->err) ||
        !read_unk(load, model, &t->bpe.unk_id))
        return false;
    json_get(model, "byte_fallback", &at);
    if (t->bpe.byte_fallback && t->vocab.kind == VOCAB_LETTERS)
        return load_unsupported(load, &at, "beside ByteLevel is not supported");
    return read_merges(load);
}

static bool read_unigram(struct load *load, const struct json_ref *model)
{
    struct tokenizer *t = load->tokenizer;
    int64_t unk = -1;
    if (!json_opt_int(model, "unk_id", 0, (int64_t)load->n_model - 1, &unk, load->err))
        return false;
    double lowest = 0;
    for (size_t i = 0; i < load->n_model; i++)
        lowest = load->scores[i] < lowest || i == 0 ? load->scores[i] : lowest;
    /* The vocabulary may have more ids, of added tokens: they are no words of the model. */
    double *scores = reallocarray(load->scores, (size_t)t->vocab.n, sizeof *scores);
    if (!scores)
        return load_no_memory(load);
    load->scores = NULL;
    t->kind = MODEL_UNIGRAM;
    if (!unigram_open(&t->unigram, &t->vocab, scores, lowest, load->err))
        return false;
    t->unigram.unk_id = (int32_t)unk;
    return json_opt_bool(model, "byte_fallback", &t->unigram.byte_fallback, load->err);
}

static bool read_wordpiece(struct load *load, const struct json_ref *model)
{
    struct tokenizer *t = load->tokenizer;
    const char *prefix = "##";
    struct json_ref at;
    int32_t unk;
    t->kind = MODEL_WORDPIECE;
    int64_t chars_max = 100;
    if (!json_opt_string(model, "continuing_subword_prefix", &prefix, load->err) ||
        !json_opt_int(model, "max_input_chars_per_word", 0, INT32_MAX, &chars_max, load->err) ||
        !read_unk(load, model, &unk) ||
        !wordpiece_open(&t->wordpiece, &t->vocab, prefix, load->err))
        return false;
    json_get(model, "unk_token", &at);
    if (unk < 0)
        return json_error(&at, load->err, "is missing");
    t->wordpiece.unk_id = unk;
    t->wordpiece.chars_max = chars_max;
    return true;
}

bool load_model_part(struct load *load, enum load_model type, const struct json_ref *model)
{
    switch (type) {
    case LOAD_BPE:
        return read_bpe(load, model);
    case LOAD_UNIGRAM:
        return read_unigram(load, model);
    case LOAD_WORDPIECE:
        return read_wordpiece(load, model);
    }
    return false;
}
