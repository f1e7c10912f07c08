/* tokenizer_load.c - a tokenizer.json to a struct tokenizer.
 *
 * Every component is known by name or refused by name. `truncation` and `padding` are not read:
 * they are a caller's wishes that happen to be stored in the file (transformers resets both). */
#include <stdlib.h>
#include <string.h>
#include "host/text/tokenizer_json.h"
#include "host/text/tokenizer_parts.h"

struct load {
    struct tokenizer *tokenizer;
    struct tokenizer_json file;
    struct json_ref root;        /* of file.rest */
    struct table vocab;          /* holds the texts of entries[0..n_model) */
    struct vocab_entry *entries; /* the model's tokens, then the added ones */
    size_t n_entries, n_model, entries_room;
    struct err *err;
};

static bool unsupported(struct load *load, const struct json_ref *at, const char *what)
{
    json_error(at, load->err, "%s", what);
    load->err->code = ERR_UNSUPPORTED;
    return false;
}

static bool no_memory(struct load *load)
{
    return err_set(load->err, ERR_MEMORY, "no memory for a tokenizer");
}

/* How much of a text of a file goes into a message. */
static int err_length(size_t length)
{
    return length < 60 ? (int)length : 60;
}

static bool must_get(struct load *load, const struct json_ref *obj, const char *key,
                     struct json_ref *out)
{
    if (json_get(obj, key, out))
        return true;
    return json_error(out, load->err, "is missing");
}

/* --- the model's vocabulary and the added tokens --------------------------------------------- */

static struct vocab_entry *new_entry(struct load *load)
{
    if (load->n_entries == load->entries_room) {
        size_t room = load->entries_room ? load->entries_room * 2 : 1024;
        struct vocab_entry *grown = reallocarray(load->entries, room, sizeof *grown);
        if (!grown) {
            no_memory(load);
            return NULL;
        }
        load->entries = grown;
        load->entries_room = room;
    }
    return &load->entries[load->n_entries++];
}

static bool read_vocab(struct load *load)
{
    struct table *vocab = &load->vocab;
    table_init(vocab, load->file.vocab);
    for (table_enter(vocab); table_more(vocab);) {
        const char *text;
        size_t length;
        int64_t id;
        if (!table_string(vocab, &text, &length))
            return no_memory(load);
        if (!table_int(vocab, VOCAB_IDS_MAX - 1, &id))
            return err_set(load->err, ERR_FORMAT,
                           "model.vocab: the id of \"%.*s\" must be an integer from 0 to %d",
                           err_length(length), text, VOCAB_IDS_MAX - 1);
        struct vocab_entry *entry = new_entry(load);
        if (!entry)
            return false;
        *entry = (struct vocab_entry){ .text = text, .length = length, .id = (int32_t)id };
    }
    load->n_model = load->n_entries;
    return true;
}

/* A token that is looked for in normalized text, by its own normalized text; that is also what the
 * library decodes it to. */
static bool add_normalized(struct load *load, const struct json_ref *token,
                           struct vocab_entry *entry, unsigned flags)
{
    struct added_set *set = &load->tokenizer->added_normalized;
    struct normalizer_scratch scratch;
    const char *text;
    size_t length;
    normalizer_scratch_init(&scratch);
    bool ok =
        normalizer_run(&load->tokenizer->normalizer, &scratch, NORMALIZE_FIRST | NORMALIZE_LAST,
                       entry->text, entry->length, &text, &length, load->err);
    if (ok && length == 0) {
        ok = json_error(token, load->err, "is empty when normalized");
    } else if (ok && !added_set_add(set, text, length, entry->id, flags)) {
        ok = no_memory(load);
    } else if (ok) {
        entry->shown = set->tokens[set->n - 1].text; /* lives until the set is sorted */
        entry->shown_length = length;
    }
    normalizer_scratch_clear(&scratch);
    return ok;
}

static bool read_added_token(struct load *load, const struct json_ref *token)
{
    static const struct {
        const char *key;
        unsigned flag;
    } FLAGS[] = {
        { "single_word", ADDED_SINGLE_WORD }, { "lstrip", ADDED_LSTRIP },
        { "rstrip", ADDED_RSTRIP },           { "normalized", ADDED_NORMALIZED },
        { "special", ADDED_SPECIAL },
    };
    struct tokenizer *t = load->tokenizer;
    struct json_ref at;
    const char *text;
    int64_t id;
    unsigned flags = 0;
    json_get(token, "content", &at);
    if (!json_string(&at, &text, load->err))
        return false;
    size_t length = strlen(text);
    if (length > VOCAB_TOKEN_MAX)
        return json_error(&at, load->err, "is longer than %d bytes", VOCAB_TOKEN_MAX);
    json_get(token, "id", &at);
    if (!json_int(&at, 0, VOCAB_IDS_MAX - 1, &id, load->err))
        return false;
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        bool value = false;
        if (!json_opt_bool(token, FLAGS[i].key, &value, load->err))
            return false;
        flags |= value ? FLAGS[i].flag : 0;
    }
    if (length == 0)
        return true; /* as the library does: it can never be found in a text */
    struct vocab_entry *entry = new_entry(load);
    if (!entry)
        return false;
    *entry = (struct vocab_entry){ .text = text,
                                   .length = length,
                                   .id = (int32_t)id,
                                   .added = true,
                                   .special = flags & ADDED_SPECIAL };
    if (flags & ADDED_NORMALIZED)
        return add_normalized(load, token, entry, flags);
    return added_set_add(&t->added, text, length, entry->id, flags) || no_memory(load);
}

static bool read_added(struct load *load, const struct json_ref *list)
{
    struct json_ref item;
    for (bool more = json_first(list, &item); more; more = json_next(&item)) {
        if (!json_is_object(&item))
            return json_error(&item, load->err, "must be an object");
        if (!read_added_token(load, &item))
            return false;
    }
    return true;
}

/* Copies: the entries' texts die with the JSON. */
static bool list_specials(struct load *load)
{
    struct tokenizer *t = load->tokenizer;
    size_t n = 0;
    for (size_t i = load->n_model; i < load->n_entries; i++)
        n += load->entries[i].special;
    t->specials = calloc(n + 1, sizeof *t->specials);
    if (!t->specials)
        return no_memory(load);
    for (size_t i = load->n_model; i < load->n_entries; i++) {
        if (!load->entries[i].special)
            continue;
        t->specials[t->n_specials] = strndup(load->entries[i].text, load->entries[i].length);
        if (!t->specials[t->n_specials++])
            return no_memory(load);
    }
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
            return no_memory(load);
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
                return no_memory(load);
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
    char bytes[512];
    if (m->length[0] + m->length[1] > sizeof bytes) {
        /* Letters take up to twice their bytes: no merge of a real vocabulary comes near. */
        return err_set(load->err, ERR_UNSUPPORTED, "model.merges[%u] is longer than %zu bytes",
                       rank, sizeof bytes);
    }
    for (int i = 0; i < 2; i++) {
        char *at = bytes + (i == 0 ? 0 : n[0]);
        ids[i] = -1;
        if (m->length[i] > 0 && vocab_from_letters(m->text[i], m->length[i], at, &n[i]))
            ids[i] = vocab_word(&t->vocab, at, n[i]);
        if (ids[i] < 0)
            return err_set(load->err, ERR_FORMAT,
                           "model.merges[%u] names \"%.*s\", which is no token", rank,
                           err_length(m->length[i]), m->text[i]);
    }
    int32_t made = vocab_word(&t->vocab, bytes, n[0] + n[1]);
    if (made < 0)
        return err_set(load->err, ERR_FORMAT,
                       "model.merges[%u] makes \"%.*s%.*s\", which is no token", rank,
                       err_length(m->length[0]), m->text[0], err_length(m->length[1]), m->text[1]);
    bpe_add(&t->bpe, ids[0], ids[1], rank, made);
    return true;
}

static bool read_merges(struct load *load)
{
    struct table table, count;
    uint32_t rank = 0;
    size_t n = 0;
    bool ok = true;
    table_init(&count, load->file.merges);
    for (table_enter(&count); table_more(&count); n++)
        table_skip(&count);
    if (!bpe_open(&load->tokenizer->bpe, &load->tokenizer->vocab, n, load->err))
        return false;
    table_init(&table, load->file.merges);
    for (table_enter(&table); ok && table_more(&table); rank++) {
        struct merge merge;
        ok = read_merge(load, &table, rank, &merge) && add_merge(load, &merge, rank);
    }
    table_clear(&table);
    return ok;
}

/* --- the BPE model --------------------------------------------------------------------------- */

/* Fields of a BPE model that change what merging means and are not done here. */
static bool refuse_variants(struct load *load, const struct json_ref *model)
{
    static const char *const TEXTS[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    struct json_ref at;
    bool byte_fallback = false;
    double dropout = 0;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        const char *text = "";
        if (!json_opt_string(model, TEXTS[i], &text, load->err))
            return false;
        json_get(model, TEXTS[i], &at);
        if (text[0])
            return unsupported(load, &at, "is not supported");
    }
    if (!json_opt_bool(model, "byte_fallback", &byte_fallback, load->err) ||
        !json_opt_double(model, "dropout", 0, 1, &dropout, load->err))
        return false;
    json_get(model, "byte_fallback", &at);
    if (byte_fallback)
        return unsupported(load, &at, "(sentencepiece-style BPE) is not supported");
    json_get(model, "dropout", &at);
    if (dropout != 0)
        return unsupported(load, &at, "(random merges) is not supported");
    return true;
}

static bool read_bpe_options(struct load *load, const struct json_ref *model)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref at;
    const char *unk = NULL;
    if (!json_opt_bool(model, "ignore_merges", &t->bpe.ignore_merges, load->err) ||
        !json_opt_bool(model, "fuse_unk", &t->bpe.fuse_unk, load->err) ||
        !json_opt_string(model, "unk_token", &unk, load->err))
        return false;
    if (!unk)
        return true;
    t->bpe.unk_id = vocab_find(&t->vocab, unk, strlen(unk));
    json_get(model, "unk_token", &at);
    return t->bpe.unk_id >= 0 || json_error(&at, load->err, "is \"%.60s\", which is no token", unk);
}

static bool read_model(struct load *load)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref model, added, at;
    const char *type = "BPE"; /* old files do not name it; then merges must be there */
    if (!must_get(load, &load->root, "model", &model))
        return false;
    if (!json_is_object(&model))
        return json_error(&model, load->err, "must be an object");
    if (!json_opt_string(&model, "type", &type, load->err))
        return false;
    if (strcmp(type, "BPE") != 0) {
        json_get(&model, "type", &at);
        json_error(&at, load->err, "\"%.40s\" is not supported", type);
        load->err->code = ERR_UNSUPPORTED;
        return false;
    }
    if (!refuse_variants(load, &model))
        return false;
    if (!t->pretok.byte_level) {
        json_get(&load->root, "pre_tokenizer", &at);
        return unsupported(load, &at, "without ByteLevel is not supported for BPE");
    }
    t->kind = MODEL_BPE_BYTES;
    if (!load->file.vocab.from)
        return err_set(load->err, ERR_FORMAT, "model.vocab must be an object");
    if (!load->file.merges.from)
        return err_set(load->err, ERR_FORMAT, "model.merges must be a list");
    bool any_added = json_get(&load->root, "added_tokens", &added);
    if (any_added && !json_is_array(&added))
        return json_error(&added, load->err, "must be a list");
    if (!read_vocab(load) || (any_added && !read_added(load, &added)) || !list_specials(load))
        return false;
    if (!vocab_build(&t->vocab, load->entries, load->n_entries, load->err)) {
        err_prefix(load->err, "model.vocab");
        return false;
    }
    return read_merges(load) && read_bpe_options(load, &model);
}

/* --- post-processor -------------------------------------------------------------------------- */

/* The ids of a template's special token, from its table. */
static bool template_ids(struct load *load, const struct json_ref *node, const char *name,
                         const struct json_ref *named_at, struct ids *out)
{
    struct json_ref table, token, ids, item;
    if (!must_get(load, node, "special_tokens", &table))
        return false;
    if (!json_get(&table, name, &token) || !json_get(&token, "ids", &ids) || !json_is_array(&ids))
        return json_error(named_at, load->err, "is \"%.60s\", which special_tokens has no ids of",
                          name);
    for (bool more = json_first(&ids, &item); more; more = json_next(&item)) {
        int64_t id;
        if (!json_int(&item, 0, VOCAB_IDS_MAX - 1, &id, load->err))
            return false;
        if (id >= load->tokenizer->vocab.n)
            return json_error(&item, load->err, "is %lld, which is no token", (long long)id);
        if (!ids_push(out, (int32_t)id))
            return no_memory(load);
    }
    return true;
}

/* Each processor of a sequence puts its ids around what is there. */
static bool wrap(struct load *load, const struct ids *before, const struct ids *after)
{
    struct tokenizer *t = load->tokenizer;
    for (size_t i = 0; i < after->n; i++)
        if (!ids_push(&t->suffix, after->ids[i]))
            return no_memory(load);
    for (size_t i = 0; i < before->n; i++) {
        if (!ids_push(&t->prefix, 0))
            return no_memory(load);
        memmove(t->prefix.ids + i + 1, t->prefix.ids + i,
                (t->prefix.n - i - 1) * sizeof *t->prefix.ids);
        t->prefix.ids[i] = before->ids[i];
    }
    return true;
}

static bool read_template(struct load *load, const struct json_ref *node)
{
    struct json_ref single, item, body, at;
    struct ids sides[2] = { 0 };
    int32_t n_texts = 0;
    bool ok = false;
    if (!must_get(load, node, "single", &single))
        return false;
    if (!json_is_array(&single))
        return json_error(&single, load->err, "must be a list");
    for (bool more = json_first(&single, &item); more; more = json_next(&item)) {
        const char *name;
        bool text = json_get(&item, "Sequence", &body);
        if (!text && !must_get(load, &item, "SpecialToken", &body))
            goto done;
        json_get(&body, "id", &at);
        if (!json_string(&at, &name, load->err))
            goto done;
        if (!text) {
            if (!template_ids(load, node, name, &at, &sides[n_texts > 0]))
                goto done;
            continue;
        }
        n_texts++;
        if (strcmp(name, "A") != 0) {
            json_error(&at, load->err, "is \"%.20s\", want \"A\"", name);
            goto done;
        }
    }
    if (n_texts != 1) {
        unsupported(load, &single, "must have the text exactly once");
        goto done;
    }
    ok = wrap(load, &sides[0], &sides[1]);
done:
    ids_clear(&sides[0]);
    ids_clear(&sides[1]);
    return ok;
}

/* RobertaProcessing, BertProcessing: "cls" and "sep" are [text, id]. */
static bool read_cls_sep(struct load *load, const struct json_ref *node)
{
    static const char *const KEYS[2] = { "cls", "sep" };
    struct ids sides[2] = { 0 };
    bool ok = false;
    for (int i = 0; i < 2; i++) {
        struct json_ref pair, item;
        int64_t id = -1;
        int n = 0;
        if (!must_get(load, node, KEYS[i], &pair))
            goto done;
        for (bool more = json_is_array(&pair) && json_first(&pair, &item); more && n < 2;
             more = json_next(&item), n++)
            if (n == 1 && !json_int(&item, 0, load->tokenizer->vocab.n - 1, &id, load->err))
                goto done;
        if (id < 0) {
            json_error(&pair, load->err, "must be a text and an id");
            goto done;
        }
        if (!ids_push(&sides[i], (int32_t)id)) {
            no_memory(load);
            goto done;
        }
    }
    ok = wrap(load, &sides[0], &sides[1]);
done:
    ids_clear(&sides[0]);
    ids_clear(&sides[1]);
    return ok;
}

static bool read_post(struct load *load, const struct json_ref *node, int32_t depth)
{
    struct json_ref at, list, item;
    const char *type;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, load->err))
        return false;
    if (strcmp(type, "ByteLevel") == 0)
        return true; /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(load, node);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_cls_sep(load, node);
    if (strcmp(type, "Sequence") != 0) {
        json_error(&at, load->err, "\"%.40s\" is not supported", type);
        load->err->code = ERR_UNSUPPORTED;
        return false;
    }
    if (!must_get(load, node, "processors", &list))
        return false;
    if (!json_is_array(&list) || depth > 8)
        return json_error(&list, load->err, "must be a list, nested at most 8 deep");
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        if (!read_post(load, &item, depth + 1))
            return false;
    return true;
}

/* --- decoder --------------------------------------------------------------------------------- */

/* A byte-level model has one decoder: ByteLevel, perhaps in a Sequence, perhaps with Fuse. */
static bool read_decoder(struct load *load, const struct json_ref *node, int32_t depth,
                         int32_t *n_byte_level)
{
    struct json_ref at, list, item;
    const char *type;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, load->err))
        return false;
    if (strcmp(type, "ByteLevel") == 0) {
        ++*n_byte_level;
        return true;
    }
    if (strcmp(type, "Fuse") == 0 && *n_byte_level == 1)
        return true; /* joins what ByteLevel has joined */
    if (strcmp(type, "Sequence") != 0) {
        json_error(&at, load->err, "\"%.40s\" is not supported here", type);
        load->err->code = ERR_UNSUPPORTED;
        return false;
    }
    if (!must_get(load, node, "decoders", &list))
        return false;
    if (!json_is_array(&list) || depth > 8)
        return json_error(&list, load->err, "must be a list, nested at most 8 deep");
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        if (!read_decoder(load, &item, depth + 1, n_byte_level))
            return false;
    return true;
}

static bool check_decoder(struct load *load)
{
    struct json_ref decoder;
    int32_t n_byte_level = 0;
    if (json_get(&load->root, "decoder", &decoder) &&
        !read_decoder(load, &decoder, 0, &n_byte_level))
        return false;
    if (n_byte_level == 1)
        return true;
    return unsupported(load, &decoder, "must have ByteLevel exactly once");
}

/* --- all of it ------------------------------------------------------------------------------- */

static bool load_all(struct load *load)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref at;
    if (!json_is_object(&load->root))
        return err_set(load->err, ERR_FORMAT, "not a JSON object");
    json_get(&load->root, "normalizer", &at);
    if (!normalizer_open(&t->normalizer, &at, load->err))
        return false;
    json_get(&load->root, "pre_tokenizer", &at);
    if (!pretok_open(&t->pretok, &at, load->err) || !read_model(load))
        return false;
    added_set_sort(&t->added);
    added_set_sort(&t->added_normalized);
    if (json_get(&load->root, "post_processor", &at) && !read_post(load, &at, 0))
        return false;
    return check_decoder(load);
}

bool tokenizer_open(struct tokenizer **tokenizer, const char *json, size_t length, struct err *err)
{
    struct load load = { .err = err };
    struct cJSON *root = NULL;
    bool ok = false;
    if (!tokenizer_json_open(&load.file, json, length, err) ||
        !json_parse(load.file.rest.bytes, load.file.rest.length, &JSON_FILE_LIMITS, ERR_FORMAT,
                    &root, err))
        goto done;
    load.root = json_root(root);
    load.tokenizer = calloc(1, sizeof *load.tokenizer);
    ok = load.tokenizer ? load_all(&load) : no_memory(&load);
done:
    free(load.entries);
    table_clear(&load.vocab);
    json_free(root);
    tokenizer_json_clear(&load.file);
    if (!ok) {
        tokenizer_close(load.tokenizer);
        if (err->code == ERR_REQUEST)
            err->code = ERR_FORMAT; /* the JSON getters' code: here it is a file that is wrong */
        err_prefix(err, "tokenizer.json");
        return false;
    }
    *tokenizer = load.tokenizer;
    return true;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->n_specials; i++)
        free((char *)tokenizer->specials[i]);
    free(tokenizer->specials);
    ids_clear(&tokenizer->prefix);
    ids_clear(&tokenizer->suffix);
    added_set_clear(&tokenizer->added);
    added_set_clear(&tokenizer->added_normalized);
    bpe_close(&tokenizer->bpe);
    vocab_clear(&tokenizer->vocab);
    pretok_clear(&tokenizer->pretok);
    normalizer_clear(&tokenizer->normalizer);
    free(tokenizer);
}
