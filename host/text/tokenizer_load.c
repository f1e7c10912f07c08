/* tokenizer_load.c - a tokenizer.json to a struct tokenizer.
 *
 * Every component is known by name or refused by name. `truncation` and `padding` are not read:
 * they are a caller's wishes that happen to be stored in the file (transformers resets both). */
#include <stdlib.h>
#include <string.h>
#include "host/text/tokenizer_load.h"

bool load_unsupported(struct load *load, const struct json_ref *at, const char *what)
{
    json_error(at, load->err, "%s", what);
    load->err->code = ERR_UNSUPPORTED;
    return false;
}

bool load_no_memory(struct load *load)
{
    return err_set(load->err, ERR_MEMORY, "no memory for a tokenizer");
}

bool load_must_get(struct load *load, const struct json_ref *obj, const char *key,
                   struct json_ref *out)
{
    if (json_get(obj, key, out))
        return true;
    return json_error(out, load->err, "is missing");
}

/* --- the model's vocabulary and the added tokens --------------------------------------------- */

struct vocab_entry *load_new_entry(struct load *load)
{
    if (load->n_entries == load->entries_room) {
        size_t room = load->entries_room ? load->entries_room * 2 : 1024;
        struct vocab_entry *grown = reallocarray(load->entries, room, sizeof *grown);
        if (!grown) {
            load_no_memory(load);
            return NULL;
        }
        load->entries = grown;
        load->entries_room = room;
    }
    return &load->entries[load->n_entries++];
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
        ok = load_no_memory(load);
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
    struct vocab_entry *entry = load_new_entry(load);
    if (!entry)
        return false;
    *entry = (struct vocab_entry){ .text = text,
                                   .length = length,
                                   .id = (int32_t)id,
                                   .added = true,
                                   .special = flags & ADDED_SPECIAL };
    if (flags & ADDED_NORMALIZED)
        return add_normalized(load, token, entry, flags);
    return added_set_add(&t->added, text, length, entry->id, flags) || load_no_memory(load);
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
        return load_no_memory(load);
    for (size_t i = load->n_model; i < load->n_entries; i++) {
        if (!load->entries[i].special)
            continue;
        t->specials[t->n_specials] = strndup(load->entries[i].text, load->entries[i].length);
        if (!t->specials[t->n_specials++])
            return load_no_memory(load);
    }
    return true;
}

/* --- the model ------------------------------------------------------------------------------- */

/* A byte-level pre-tokenizer, decoder and vocabulary go together. */
static bool check_bytes(struct load *load, enum load_model type)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref at;
    if (t->pretok.byte_level && type != LOAD_BPE) {
        json_get(&load->root, "pre_tokenizer", &at);
        return load_unsupported(load, &at, "(ByteLevel) is not supported for this model");
    }
    if (t->pretok.byte_level == t->decoder.byte_level)
        return true;
    if (t->pretok.byte_level) {
        json_get(&load->root, "decoder", &at);
        return load_unsupported(load, &at, "must be ByteLevel, as the pre_tokenizer is");
    }
    json_get(&load->root, "pre_tokenizer", &at);
    return load_unsupported(load, &at, "must have ByteLevel, as the decoder does");
}

static bool model_type(struct load *load, const struct json_ref *model, enum load_model *type)
{
    static const char *const NAMES[] = {
        [LOAD_BPE] = "BPE", [LOAD_UNIGRAM] = "Unigram", [LOAD_WORDPIECE] = "WordPiece"
    };
    struct json_ref at;
    /* Old files do not name it: a list of pairs is Unigram's, and else it must be BPE. */
    const char *name =
        NAMES[load->file.vocab.from && *load->file.vocab.from == '[' ? LOAD_UNIGRAM : LOAD_BPE];
    if (!json_is_object(model))
        return json_error(model, load->err, "must be an object");
    if (!json_opt_string(model, "type", &name, load->err))
        return false;
    for (int i = 0; i < 3; i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *type = (enum load_model)i;
            return true;
        }
    json_get(model, "type", &at);
    json_error(&at, load->err, "\"%.40s\" is not supported", name);
    load->err->code = ERR_UNSUPPORTED;
    return false;
}

static bool read_model(struct load *load)
{
    struct tokenizer *t = load->tokenizer;
    struct json_ref model, added;
    enum load_model type = LOAD_BPE;
    if (!load_must_get(load, &load->root, "model", &model) || !model_type(load, &model, &type))
        return false;
    bool any_added = json_get(&load->root, "added_tokens", &added);
    if (any_added && !json_is_array(&added))
        return json_error(&added, load->err, "must be a list");
    if (!load_vocab(load, type) || (any_added && !read_added(load, &added)) ||
        !check_bytes(load, type) || !list_specials(load))
        return false;
    if (!vocab_build(&t->vocab, t->pretok.byte_level ? VOCAB_LETTERS : VOCAB_TEXTS, load->entries,
                     load->n_entries, load->err)) {
        err_prefix(load->err, "model.vocab");
        return false;
    }
    return load_model_part(load, type, &model);
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
    json_get(&load->root, "decoder", &at);
    if (!decoder_open(&t->decoder, &at, load->err))
        return false;
    json_get(&load->root, "pre_tokenizer", &at);
    if (!pretok_open(&t->pretok, &at, load->err) || !read_model(load))
        return false;
    added_set_sort(&t->added);
    added_set_sort(&t->added_normalized);
    if (json_get(&load->root, "post_processor", &at) && !load_post(load, &at, 0))
        return false;
    if (decoder_build(&t->decoder, &t->vocab, load->err))
        return true;
    err_prefix(load->err, "decoder");
    return false;
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
    ok = load.tokenizer ? load_all(&load) : load_no_memory(&load);
done:
    free(load.entries);
    free(load.scores);
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
    unigram_close(&tokenizer->unigram);
    wordpiece_close(&tokenizer->wordpiece);
    decoder_clear(&tokenizer->decoder);
    vocab_clear(&tokenizer->vocab);
    pretok_clear(&tokenizer->pretok);
    normalizer_clear(&tokenizer->normalizer);
    free(tokenizer);
}
