/* prep_sampling.c - what a request says of tokens by their text: biases, bad words, what ends a
 * repetition. And that something is left to be drawn: a row without any token would be taken for a
 * fault of the device. On a prep worker; memory from the job's arena, which outlives the requests.
 */
#include "server/prep.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "server/server.h"

enum {
    TAIL_TOKENS_MAX = 20,   /* of a breaker, behind the token that it begins in: llama.cpp's */
    LONG_BREAKS_MAX = 65536 /* ways in which breakers lie over tokens */
};

static bool no_memory(struct err *err, const char *field)
{
    return err_set_field(err, ERR_MEMORY, field, "no memory for %s", field);
}

/* Ids of a text by itself, into the arena. */
static bool encode(struct job *job, const char *text, size_t length, struct token_run *run,
                   struct err *err)
{
    struct ids ids = { 0 };
    bool ok = tokenizer_encode(job->server->model->tokenizer, text, length, 0, NULL, 0, &ids, err);
    if (ok) {
        int32_t *copy = arena_take(&job->arena, ids.n + 1, sizeof *copy);
        ok = copy != NULL || err_set(err, ERR_MEMORY, "no memory for the tokens of a text");
        if (ok && ids.n > 0)
            memcpy(copy, ids.ids, ids.n * sizeof *copy);
        *run = (struct token_run){ copy, (int32_t)ids.n };
    }
    ids_clear(&ids);
    return ok;
}

/* ---- biases and bad words ---------------------------------------------------------------------
 */

struct bias_list {
    struct logit_bias *items; /* malloc'ed */
    size_t n, room;
};

static bool add_bias(struct bias_list *list, int32_t token, float bias)
{
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        struct logit_bias *items = realloc(list->items, room * sizeof *items);
        if (items == NULL)
            return false;
        list->items = items;
        list->room = room;
    }
    list->items[list->n++] = (struct logit_bias){ token, bias };
    return true;
}

static bool add_biases(struct job *job, struct bias_list *list, struct err *err)
{
    const struct generate *g = &job->generate;
    for (int32_t i = 0; i < g->n_biases; i++) {
        const struct api_bias *bias = &g->biases[i];
        struct token_run run = { &bias->token, 1 };
        if (bias->text != NULL && !encode(job, bias->text, bias->length, &run, err))
            return false;
        for (int32_t k = 0; k < run.n; k++)
            if (!add_bias(list, run.ids[k], bias->bias))
                return no_memory(err, "logit_bias");
    }
    return true;
}

/* As it is at the beginning of a text, and as it is behind a blank. (vLLM drops the second where it
 * has another number of tokens; then the word would still come.) */
static bool word_tokens(struct job *job, const struct api_stop *word, struct token_run runs[2],
                        int32_t *n, struct err *err)
{
    size_t blanks = strspn(word->text, " \t\n\r\v\f");
    const char *text = word->text + (blanks < word->length ? blanks : 0);
    size_t length = strlen(text);
    char *spaced = arena_take(&job->arena, length + 2, 1);
    if (spaced == NULL)
        return no_memory(err, "bad_words");
    spaced[0] = ' ';
    memcpy(spaced + 1, text, length);
    if (!encode(job, text, length, &runs[0], err) ||
        !encode(job, spaced, length + 1, &runs[1], err))
        return false;
    *n = runs[0].n > 0;
    bool same = runs[1].n == runs[0].n &&
                memcmp(runs[1].ids, runs[0].ids, (size_t)runs[0].n * sizeof *runs[0].ids) == 0;
    if (runs[0].n > 0 && runs[1].n > 0 && !same)
        *n = 2;
    return true;
}

/* A word of one token is a bias; longer ones are the chain's. */
static bool add_bad_words(struct job *job, struct bias_list *list, struct err *err)
{
    struct generate *g = &job->generate;
    if (g->n_bad_words == 0)
        return true;
    struct token_run *words = arena_take(&job->arena, (size_t)g->n_bad_words * 2, sizeof *words);
    if (words == NULL)
        return no_memory(err, "bad_words");
    int32_t n_words = 0;
    for (int32_t i = 0; i < g->n_bad_words; i++) {
        struct token_run runs[2];
        int32_t n;
        if (!word_tokens(job, &g->bad_words[i], runs, &n, err))
            return false;
        for (int32_t k = 0; k < n; k++) {
            if (runs[k].n > 1)
                words[n_words++] = runs[k];
            else if (!add_bias(list, runs[k].ids[0], -INFINITY))
                return no_memory(err, "bad_words");
        }
    }
    g->chain.bad_words = words;
    g->chain.n_bad_words = n_words;
    g->has_chain = g->has_chain || n_words > 0;
    return true;
}

static int by_token(const void *a, const void *b)
{
    const struct logit_bias *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

/* One bias a token: the sum of all that were given. */
static bool merge_biases(struct job *job, struct bias_list *list, struct err *err)
{
    struct logit_bias *merged = arena_take(&job->arena, list->n + 1, sizeof *merged);
    int32_t n = 0;
    if (merged == NULL)
        return no_memory(err, "logit_bias");
    if (list->n > 0)
        qsort(list->items, list->n, sizeof *list->items, by_token);
    for (size_t i = 0; i < list->n; i++) {
        if (n > 0 && merged[n - 1].token == list->items[i].token)
            merged[n - 1].bias += list->items[i].bias;
        else
            merged[n++] = list->items[i];
    }
    job->generate.sampling.biases = merged;
    job->generate.sampling.n_biases = n;
    return true;
}

/* ---- what ends a repetition -------------------------------------------------------------------
 */

struct breakers {
    struct job *job;
    struct token_run tails[API_BREAKERS_MAX][API_BREAKER_BYTES_MAX]; /* of breaker b from byte i */
    struct token_run *runs;
    int32_t n_runs;
};

/* A token whose end is the beginning of a breaker, with the tokens of the rest. */
static bool add_overlaps(struct breakers *b, int32_t id, const char *bytes, size_t length,
                         int32_t which, struct err *err)
{
    const struct api_stop *breaker = &b->job->generate.breakers[which];
    size_t most = length < breaker->length - 1 ? length : breaker->length - 1;
    for (size_t n = most; n > 0; n--) {
        if (memcmp(bytes + length - n, breaker->text, n) != 0)
            continue;
        struct token_run *tail = &b->tails[which][n];
        if (tail->ids == NULL && !encode(b->job, breaker->text + n, breaker->length - n, tail, err))
            return false;
        int32_t n_tail = tail->n < TAIL_TOKENS_MAX ? tail->n : TAIL_TOKENS_MAX;
        int32_t *ids = arena_take(&b->job->arena, (size_t)n_tail + 1, sizeof *ids);
        if (ids == NULL || b->n_runs == LONG_BREAKS_MAX)
            return err_set_field(err, ERR_REQUEST, "dry_sequence_breakers",
                                 "dry_sequence_breakers lie over too many tokens");
        ids[0] = id;
        memcpy(ids + 1, tail->ids, (size_t)n_tail * sizeof *ids);
        b->runs[b->n_runs++] = (struct token_run){ ids, n_tail + 1 };
    }
    return true;
}

static bool find_breaks(struct breakers *b, uint32_t *bits, struct err *err)
{
    struct job *job = b->job;
    const struct tokenizer *tokenizer = job->server->model->tokenizer;
    const struct generate *g = &job->generate;
    int32_t n_ids = tokenizer_size(tokenizer), vocab = job->server->api.vocab;
    for (int32_t id = 0; id < n_ids && id < vocab; id++) {
        size_t length;
        const char *bytes = tokenizer_bytes(tokenizer, id, &length);
        int32_t whole = -1;
        for (int32_t k = 0; bytes != NULL && k < g->n_breakers && whole < 0; k++)
            if (memmem(bytes, length, g->breakers[k].text, g->breakers[k].length) != NULL)
                whole = k;
        if (whole >= 0)
            bits[id / 32] |= 1u << id % 32;
        for (int32_t k = 0; bytes != NULL && k < g->n_breakers && whole < 0; k++)
            if (!add_overlaps(b, id, bytes, length, k, err))
                return false;
    }
    return true;
}

static bool add_breakers(struct job *job, struct err *err)
{
    struct generate *g = &job->generate;
    if (g->chain.dry_multiplier == 0 || g->n_breakers == 0)
        return true;
    struct breakers *b = calloc(1, sizeof *b);
    struct token_run *runs = malloc(LONG_BREAKS_MAX * sizeof *runs);
    uint32_t *bits =
        arena_take(&job->arena, ((size_t)job->server->api.vocab + 31) / 32, sizeof *bits);
    bool ok = b != NULL && runs != NULL && bits != NULL;
    if (!ok) {
        no_memory(err, "dry_sequence_breakers");
        goto out;
    }
    *b = (struct breakers){ .job = job, .runs = runs };
    ok = find_breaks(b, bits, err);
    if (!ok)
        goto out;
    struct token_run *kept = arena_take(&job->arena, (size_t)b->n_runs + 1, sizeof *kept);
    ok = kept != NULL || no_memory(err, "dry_sequence_breakers");
    if (!ok)
        goto out;
    memcpy(kept, runs, (size_t)b->n_runs * sizeof *kept);
    g->chain.dry_breaks = bits;
    g->chain.dry_breaks_long = kept;
    g->chain.n_dry_breaks_long = b->n_runs;
out:
    free(b);
    free(runs);
    return ok;
}

/* ---- is there anything left? ------------------------------------------------------------------
 */

static void forbid(uint32_t *bits, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        bits[ids[i] / 32] &= ~(1u << ids[i] % 32);
}

/* At any place: so the last tokens of all bad words count as forbidden, and with min_tokens what
 * would end the text. */
static bool check_left(struct job *job, struct err *err)
{
    const struct generate *g = &job->generate;
    const struct sample_params *p = &g->sampling;
    const struct model *model = job->server->model;
    int32_t vocab = job->server->api.vocab;
    size_t n_words = ((size_t)vocab + 31) / 32;
    uint32_t *bits = arena_take(&job->arena, n_words, sizeof *bits);
    if (bits == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a set of tokens");
    memset(bits, 0xff, n_words * sizeof *bits);
    if (p->allowed != NULL)
        memcpy(bits, p->allowed, n_words * sizeof *bits);
    for (int32_t i = 0; i < p->n_biases; i++)
        if (p->biases[i].bias == -INFINITY)
            forbid(bits, &p->biases[i].token, 1);
    for (int32_t i = 0; i < g->chain.n_bad_words; i++)
        forbid(bits, &g->chain.bad_words[i].ids[g->chain.bad_words[i].n - 1], 1);
    if (g->min_tokens > 0)
        forbid(bits, g->stop_tokens, g->n_stop_tokens);
    if (g->min_tokens > 0 && !g->ignore_eos)
        forbid(bits, model->eos, model->n_eos);
    for (int32_t id = 0; id < vocab; id++)
        if (bits[id / 32] >> (id % 32) & 1)
            return true;
    const char *field = p->allowed != NULL   ? "allowed_token_ids"
                        : g->n_bad_words > 0 ? "bad_words"
                        : g->n_biases > 0    ? "logit_bias"
                                             : "min_tokens";
    return err_set_field(
        err, ERR_REQUEST, field,
        "%s: no token is left that could be generated, with logit_bias, bad_words, "
        "allowed_token_ids and, below min_tokens, what ends a text",
        field);
}

bool prep_sampling(struct job *job, struct err *err)
{
    struct generate *g = &job->generate;
    struct bias_list list = { 0 };
    bool ok = add_biases(job, &list, err) && add_bad_words(job, &list, err) &&
              merge_biases(job, &list, err) && add_breakers(job, err) && check_left(job, err);
    free(list.items);
    g->sampling.chain = ok && g->has_chain ? &g->chain : NULL;
    return ok;
}
