/* tiktoken.c - lines of base64 and rank; and the choice between the files of this kind.
 *
 * The file has neither the split pattern nor special tokens: those are in the program that goes
 * with it. A family's number of tokens gives it away, and tokenizer_config.json, where there is
 * one, has the special tokens; those of Llama 3 and Qwen are known here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/base64.h"
#include "host/text/added.h"
#include "host/text/tokenizer_config.h"
#include "host/text/tokenizer_files.h"
#include "host/text/vocab.h"

struct family {
    size_t n_tokens;
    const char *pre;             /* pretok_names.h */
    const char *const *specials; /* NULL behind the last; their ids follow the tokens' */
    const char *more;            /* printf format of further ones, with a number from 0 */
    int n_more, more_at;         /* how many, and behind how many of `specials` they stand */
    const char *bos;             /* put before a text */
};

static const char *const LLAMA3[] = { "<|begin_of_text|>",
                                      "<|end_of_text|>",
                                      "<|reserved_special_token_0|>",
                                      "<|reserved_special_token_1|>",
                                      "<|finetune_right_pad_id|>",
                                      "<|step_id|>",
                                      "<|start_header_id|>",
                                      "<|end_header_id|>",
                                      "<|eom_id|>",
                                      "<|eot_id|>",
                                      "<|python_tag|>",
                                      NULL };
static const char *const QWEN[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL };
static const char *const ONE[] = { "<|endoftext|>", NULL };
static const char *const NONE[] = { NULL };
static const struct family FAMILIES[] = {
    { 50256, "gpt-2", ONE, NULL, 0, 0, NULL },
    { 100256, "cl100k", NONE, NULL, 0, 0, NULL },
    { 128000, "llama-bpe", LLAMA3, "<|reserved_special_token_%d|>", 245, 2, "<|begin_of_text|>" },
    { 151329, "glm4", NONE, NULL, 0, 0, NULL },
    { 151643, "qwen2", QWEN, "<|extra_%d|>", 205, 0, NULL },
    { 163584, "kimi-k2", NONE, NULL, 0, 0, NULL },
    { 199998, "gpt-4o", NONE, NULL, 0, 0, NULL },
};

struct tiktoken {
    struct tokenizer_build build;
    struct piece *pieces;
    size_t room;
    char *bytes; /* of all tokens */
    size_t n_bytes, n_tokens;
    struct build_added *added; /* those of the family */
    char (*names)[48];
    struct err *err;
};

static bool piece_room(struct tiktoken *t, size_t rank)
{
    if (rank < t->room)
        return true;
    size_t room = t->room ? t->room * 2 : 1024;
    if (room <= rank)
        room = rank + 1;
    struct piece *grown = reallocarray(t->pieces, room, sizeof *grown);
    if (!grown)
        return err_set(t->err, ERR_MEMORY, "no memory for %zu tokens", room);
    memset(grown + t->room, 0, (room - t->room) * sizeof *grown);
    t->pieces = grown;
    t->room = room;
    return true;
}

/* A line without its end. */
static bool read_line(struct tiktoken *t, const char *line, size_t length, size_t number)
{
    const char *blank = memchr(line, ' ', length);
    size_t n, letters = blank ? (size_t)(blank - line) : 0, rank = 0;
    bool good = blank && letters + 1 < length && length - letters - 1 <= 8;
    for (size_t i = letters + 1; good && i < length; i++) {
        good = line[i] >= '0' && line[i] <= '9';
        rank = rank * 10 + (size_t)(line[i] - '0');
    }
    if (!good || !base64_decode(line, letters, t->bytes + t->n_bytes, &n) || n == 0)
        return err_set(t->err, ERR_FORMAT, "line %zu must be base64, a blank and a rank", number);
    /* A rank sizes a table: real files have every one from 0 on. */
    if (rank >= VOCAB_IDS_MAX || rank > 2 * number + 1024)
        return err_set(t->err, ERR_FORMAT, "line %zu has the rank %zu", number, rank);
    if (!piece_room(t, rank))
        return false;
    if (t->pieces[rank].length > 0)
        return err_set(t->err, ERR_FORMAT, "line %zu has the rank %zu of another", number, rank);
    t->pieces[rank] = (struct piece){ t->bytes + t->n_bytes, n, 0, PIECE_NORMAL };
    t->n_bytes += n;
    t->n_tokens++;
    if (rank >= t->build.n_pieces)
        t->build.n_pieces = rank + 1;
    return true;
}

static bool read_lines(struct tiktoken *t, const char *text, size_t size)
{
    const char *end = text + size;
    size_t number = 0;
    t->bytes = malloc(base64_room(size) + 3);
    if (!t->bytes)
        return err_set(t->err, ERR_MEMORY, "no memory for %zu bytes of tokens", size);
    while (text < end) {
        const char *line = text, *stop = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((stop ? stop : end) - line);
        text = stop ? stop + 1 : end;
        number++;
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length > 0 && !read_line(t, line, length, number))
            return false;
    }
    if (t->n_tokens == 0)
        return err_set(t->err, ERR_FORMAT, "no tiktoken file: it has no lines");
    for (size_t i = 0; i < t->build.n_pieces; i++)
        if (t->pieces[i].length == 0)
            t->pieces[i].type = PIECE_UNUSED; /* a hole */
    t->build.pieces = t->pieces;
    return true;
}

/* The family's own special tokens, where the folder says nothing of any. */
static bool add_specials(struct tiktoken *t, const struct family *f)
{
    size_t n = 0, n_named = 0;
    while (f->specials[n_named])
        n_named++;
    size_t all = n_named + (size_t)f->n_more;
    t->added = calloc(all + 1, sizeof *t->added);
    t->names = calloc((size_t)f->n_more + 1, sizeof *t->names);
    if (!t->added || !t->names)
        return err_set(t->err, ERR_MEMORY, "no memory for %zu special tokens", all);
    for (size_t i = 0; i < n_named; i++)
        t->added[n++].text = f->specials[i];
    for (int i = 0; i < f->n_more; i++) {
        snprintf(t->names[i], sizeof *t->names, f->more, i + f->more_at);
        t->added[n++].text = t->names[i];
    }
    for (size_t i = 0; i < n; i++) {
        t->added[i].id = (int32_t)(t->build.n_pieces + i);
        t->added[i].flags = ADDED_SPECIAL;
        if (f->bos && strcmp(t->added[i].text, f->bos) == 0)
            t->build.bos = t->added[i].id;
    }
    t->build.added = t->added;
    t->build.n_added = n;
    return true;
}

static int32_t added_id(const struct tokenizer_build *b, const char *text)
{
    for (size_t i = 0; text && i < b->n_added; i++)
        if (strcmp(b->added[i].text, text) == 0)
            return b->added[i].id;
    return -1;
}

/* "bos_token": a string, or {"content": ...}. */
static const char *config_token(const struct json_ref *config, const char *key)
{
    struct json_ref at, content;
    const char *text = NULL;
    struct err ignored;
    if (!config || !json_get(config, key, &at))
        return NULL;
    if (json_is_object(&at) && json_get(&at, "content", &content))
        at = content;
    return json_string(&at, &text, &ignored) ? text : NULL;
}

static bool choose(struct tiktoken *t, const char *pre, const struct json_ref *config)
{
    const struct family *family = NULL;
    for (size_t i = 0; !pre && i < sizeof FAMILIES / sizeof *FAMILIES; i++)
        if (FAMILIES[i].n_tokens == t->n_tokens && t->build.n_pieces == t->n_tokens)
            family = &FAMILIES[i];
    if (!pre && !family)
        return err_set(t->err, ERR_UNSUPPORTED,
                       "a tiktoken file of %zu tokens does not say how to split a text, and no "
                       "known family has so many; make a tokenizer.json of it",
                       t->n_tokens);
    t->build.pre = pre ? pre : family->pre;
    if (!config_added(&t->build, config, t->err))
        return false;
    if (t->build.n_added == 0) {
        free((void *)t->build.added);
        t->build.added = NULL;
        return !family || add_specials(t, family);
    }
    t->build.bos = added_id(&t->build, config_token(config, "bos_token"));
    t->build.eos = added_id(&t->build, config_token(config, "eos_token"));
    return true;
}

bool tiktoken_open(struct tokenizer **tokenizer, const char *bytes, size_t size, const char *pre,
                   const struct json_ref *config, struct err *err)
{
    struct tiktoken t = { .build = { .kind = BUILD_RANKS, .unk = -1, .bos = -1, .eos = -1 },
                          .err = err };
    bool ok = read_lines(&t, bytes, size) && choose(&t, pre, config);
    if (ok) {
        bool llama3 = strcmp(t.build.pre, "llama-bpe") == 0;
        ok = config_ends(&t.build, config, llama3, false, err) &&
             tokenizer_build(tokenizer, &t.build, err);
    }
    if (t.build.added != t.added)
        free((void *)t.build.added);
    free(t.added);
    free(t.names);
    free(t.pieces);
    free(t.bytes);
    return ok;
}

/* --- any of them ----------------------------------------------------------------------------- */

bool tokenizer_open_file(struct tokenizer **tokenizer, const char *name, const char *bytes,
                         size_t size, const struct json_ref *config, struct err *err)
{
    size_t length = strlen(name);
    bool ok, json = length > 5 && strcmp(name + length - 5, ".json") == 0;
    if (json && strcmp(name, "tekken.json") != 0)
        return tokenizer_open(tokenizer, bytes, size, err); /* names itself */
    if (json)
        ok = tekken_open(tokenizer, bytes, size, config, err);
    else if (size > 0 && bytes[0] == '\n') /* field 1, bytes: no base64 begins with a line's end */
        ok = sentencepiece_open(tokenizer, bytes, size, config, err);
    else
        ok = tiktoken_open(tokenizer, bytes, size, NULL, config, err);
    if (ok)
        return true;
    if (err->code == ERR_REQUEST)
        err->code = ERR_FORMAT; /* the JSON getters' code: here it is a file that is wrong */
    err->field[0] = 0;
    err_prefix(err, "%s", name);
    return false;
}
