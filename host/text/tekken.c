/* tekken.c - tekken.json: special tokens have the first ids, the vocabulary's ranks come behind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/base64.h"
#include "host/text/added.h"
#include "host/text/tokenizer_config.h"
#include "host/text/tokenizer_files.h"
#include "host/text/vocab.h"

struct tekken {
    struct tokenizer_build build;
    struct json_ref root, config, vocab;
    int64_t n_special, n_vocab;
    struct piece *pieces; /* [n_special + n_vocab] */
    char *bytes;          /* of all tokens */
    size_t n_bytes;
    char (*fillers)[24]; /* [n_special] "<SPECIAL_17>" */
    struct err *err;
};

/* Files before they listed their special tokens have these. */
static const char *const FIRST_SPECIALS[] = {
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
};

static bool read_sizes(struct tekken *t)
{
    int64_t n_size = 0, n_listed;
    struct json_ref at;
    t->n_special = 1000;
    if (!json_is_object(&t->root) || !json_get(&t->root, "config", &t->config) ||
        !json_is_object(&t->config))
        return err_set(t->err, ERR_FORMAT, "no tekken file: config must be an object");
    if (!json_get(&t->root, "vocab", &t->vocab) || !json_is_array(&t->vocab))
        return json_error(&t->vocab, t->err, "must be a list");
    n_listed = json_count(&t->vocab);
    json_get(&t->config, "pattern", &at);
    if (!json_string(&at, &t->build.pattern, t->err) ||
        !json_opt_int(&t->config, "default_num_special_tokens", 3, 1 << 16, &t->n_special, t->err))
        return false;
    n_size = n_listed + t->n_special;
    if (!json_opt_int(&t->config, "default_vocab_size", t->n_special + 1, VOCAB_IDS_MAX, &n_size,
                      t->err))
        return false;
    t->n_vocab = n_size - t->n_special < n_listed ? n_size - t->n_special : n_listed;
    if (t->n_vocab < 1 || t->n_vocab + t->n_special > VOCAB_IDS_MAX)
        return json_error(&t->vocab, t->err, "has %lld tokens", (long long)n_listed);
    return true;
}

static bool read_token(struct tekken *t, const struct json_ref *item, int64_t rank)
{
    struct json_ref at;
    const char *text;
    int64_t said;
    size_t n;
    json_get(item, "rank", &at);
    if (!json_int(&at, 0, VOCAB_IDS_MAX, &said, t->err))
        return false;
    if (said != rank)
        return json_error(&at, t->err, "is %lld, want its place, %lld", (long long)said,
                          (long long)rank);
    json_get(item, "token_bytes", &at);
    if (!json_string(&at, &text, t->err))
        return false;
    if (!base64_decode(text, strlen(text), t->bytes + t->n_bytes, &n) || n == 0)
        return json_error(&at, t->err, "must be base64 of a byte or more");
    t->pieces[t->n_special + rank] = (struct piece){ t->bytes + t->n_bytes, n, 0, PIECE_NORMAL };
    t->n_bytes += n;
    return true;
}

static bool read_vocab(struct tekken *t)
{
    struct json_ref item, at;
    size_t room = 0;
    int64_t rank = 0;
    for (bool more = json_first(&t->vocab, &item); more; more = json_next(&item)) {
        const char *text = "";
        if (!json_is_object(&item))
            return json_error(&item, t->err, "must be an object");
        if (json_get(&item, "token_bytes", &at) && !json_string(&at, &text, t->err))
            return false;
        room += base64_room(strlen(text));
    }
    t->build.n_pieces = (size_t)(t->n_special + t->n_vocab);
    t->pieces = calloc(t->build.n_pieces, sizeof *t->pieces);
    t->bytes = malloc(room);
    t->fillers = calloc((size_t)t->n_special, sizeof *t->fillers);
    if (!t->pieces || !t->bytes || !t->fillers)
        return err_set(t->err, ERR_MEMORY, "no memory for %zu tokens", t->build.n_pieces);
    for (bool more = json_first(&t->vocab, &item); more && rank < t->n_vocab;
         more = json_next(&item))
        if (!read_token(t, &item, rank++))
            return false;
    return true;
}

static bool read_special(struct tekken *t, const struct json_ref *item)
{
    struct json_ref at;
    const char *text;
    int64_t rank;
    bool control = true;
    json_get(item, "rank", &at);
    if (!json_int(&at, 0, t->n_special - 1, &rank, t->err))
        return false;
    json_get(item, "token_str", &at);
    if (!json_string(&at, &text, t->err) || !json_opt_bool(item, "is_control", &control, t->err))
        return false;
    if (t->pieces[rank].length > 0)
        return json_error(item, t->err, "has the rank %lld of another", (long long)rank);
    if (!text[0] || strlen(text) > VOCAB_TOKEN_MAX)
        return json_error(&at, t->err, "must have 1 to %d bytes", VOCAB_TOKEN_MAX);
    t->pieces[rank] = (struct piece){ text, strlen(text), 0, control ? PIECE_CONTROL : PIECE_USER };
    return true;
}

static bool read_specials(struct tekken *t)
{
    struct json_ref list, item;
    if (json_get(&t->root, "special_tokens", &list)) {
        if (!json_is_array(&list))
            return json_error(&list, t->err, "must be a list");
        for (bool more = json_first(&list, &item); more; more = json_next(&item))
            if (!json_is_object(&item) ? !json_error(&item, t->err, "must be an object")
                                       : !read_special(t, &item))
                return false;
    } else {
        for (int64_t i = 0;
             i < (int64_t)(sizeof FIRST_SPECIALS / sizeof *FIRST_SPECIALS) && i < t->n_special; i++)
            t->pieces[i] =
                (struct piece){ FIRST_SPECIALS[i], strlen(FIRST_SPECIALS[i]), 0, PIECE_CONTROL };
    }
    for (int64_t i = 0; i < t->n_special; i++)
        if (t->pieces[i].length == 0) {
            int n = snprintf(t->fillers[i], sizeof *t->fillers, "<SPECIAL_%d>", (int)i);
            t->pieces[i] = (struct piece){ t->fillers[i], (size_t)n, 0, PIECE_CONTROL };
        }
    return true;
}

static int32_t special_id(const struct tekken *t, const char *text)
{
    for (int64_t i = 0; i < t->n_special; i++)
        if (t->pieces[i].length == strlen(text) &&
            memcmp(t->pieces[i].text, text, t->pieces[i].length) == 0)
            return (int32_t)i;
    return -1;
}

/* The file with U+FFFD for every escaped U+0000, which trees do not hold: the text of the token for
 * that byte has one ("token_str", which is not read). */
static char *without_zeros(const char *bytes, size_t size)
{
    char *copy = malloc(size + 1);
    if (!copy)
        return NULL;
    memcpy(copy, bytes, size);
    copy[size] = 0;
    for (char *p = copy, *end = copy + size; (p = memchr(p, '\\', (size_t)(end - p))) != NULL;) {
        if (end - p >= 6 && memcmp(p, "\\u0000", 6) == 0)
            memcpy(p, "\\ufffd", 6);
        p += end - p >= 2 ? 2 : 1; /* what is escaped begins no escape */
    }
    return copy;
}

bool tekken_open(struct tokenizer **tokenizer, const char *bytes, size_t size,
                 const struct json_ref *config, struct err *err)
{
    struct tekken t = { .err = err };
    struct cJSON *root = NULL;
    char *copy = without_zeros(bytes, size);
    if (!copy)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", size);
    bool ok = json_parse(copy, size, &JSON_FILE_LIMITS, ERR_FORMAT, &root, err);
    free(copy);
    if (ok) {
        t.root = json_root(root);
        ok = read_sizes(&t) && read_vocab(&t) && read_specials(&t);
    }
    if (ok) {
        t.build.kind = BUILD_RANKS;
        t.build.pieces = t.pieces;
        t.build.unk = -1;
        t.build.bos = special_id(&t, "<s>");
        t.build.eos = special_id(&t, "</s>");
        ok = config_ends(&t.build, config, true, false, err) &&
             tokenizer_build(tokenizer, &t.build, err);
    }
    free(t.pieces);
    free(t.bytes);
    free(t.fillers);
    json_free(root);
    return ok;
}
