/* prep.c - the prep workers: a body becomes requests. See prep.h for who owns a job when.
 *
 * A long prompt costs milliseconds of JSON, template and tokenizer; here it stalls nobody. */
#include "server/prep.h"
#include "api/info.h"
#include "host/grammar/grammar.h"
#include "server/exchange.h"
#include "server/server.h"
#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "host/base/rng.h"

enum { WORKERS_MAX = 8, ARENA_BYTES_MAX = 64 << 20 };

struct prep {
    struct mpsc in, out;
    pthread_t threads[WORKERS_MAX];
    int32_t n_threads;
    int wake;
};

struct job *job_open(struct server *server, enum job_kind kind)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return NULL;
    job->kind = kind;
    job->server = server;
    buf_init(&job->body, server->body_bytes_max + 1);
    buf_init(&job->reply, (size_t)256 << 20);
    arena_init(&job->arena, ARENA_BYTES_MAX);
    return job;
}

void job_close(struct job *job)
{
    if (job == NULL)
        return;
    for (int32_t i = 0; i < job->n_requests; i++)
        request_close(job->requests[i]);
    grammar_close(job->grammar);
    json_free(job->root);
    arena_clear(&job->arena);
    buf_clear(&job->body);
    buf_clear(&job->reply);
    free(job);
}

/* ---- text to ids ------------------------------------------------------------------------------
 */

static bool render_chat(const struct model *model, const struct generate *generate,
                        struct chat_text *text, struct err *err)
{
    struct chat_input input = {
        .messages = generate->messages,
        .tools = generate->tools,
        .documents = generate->documents,
        .variables = generate->variables,
        .add_generation_prompt = generate->add_generation_prompt,
        .continue_final_message = generate->continue_final_message,
        .bos_token = model->bos_text,
        .eos_token = model->eos_text,
        .unk_token = model->unk_text,
        .pad_token = model->pad_text,
        .now_s = (int64_t)time(NULL),
    };
    if (chat_render(model->chat, &input, text, err))
        return true;
    if (err->field[0] == 0)
        snprintf(err->field, sizeof err->field, "messages");
    return false;
}

/* Does the prompt end inside a block of reasoning, which the answer then goes on with? */
static bool reasons(const struct generate *generate, const struct chat_text *text)
{
    const struct reason_format *reasoning = generate->tool.reasoning;
    if (!generate->continue_final_message)
        return tool_prompt_reasons(reasoning, buf_text(&text->text), text->text.length);
    const struct cJSON *last =
        cJSON_GetArrayItem(generate->messages, cJSON_GetArraySize(generate->messages) - 1);
    const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "content"));
    return content != NULL && tool_text_reasons(reasoning, content, strlen(content));
}

/* The template writes BOS itself: nothing is added, special tokens of the template are parsed,
 * those in what a user wrote are not (the barriers). */
static bool encode_chat(const struct model *model, struct generate *generate, struct ids *ids,
                        struct err *err)
{
    struct chat_text text = { 0 };
    bool ok =
        render_chat(model, generate, &text, err) &&
        tokenizer_encode(model->tokenizer, buf_text(&text.text), text.text.length,
                         ENCODE_PARSE_SPECIAL | (generate->add_special ? ENCODE_ADD_SPECIAL : 0),
                         text.barriers, text.n_barriers, ids, err);
    if (ok)
        generate->tool.reasoning_open = reasons(generate, &text);
    chat_text_clear(&text);
    return ok;
}

/* ---- requests ---------------------------------------------------------------------------------
 */

/* The end of the prompt, as long as it may be. */
static void cut_prompt(struct ids *ids, const struct generate *g, int32_t ctx)
{
    int32_t wanted = g->max_tokens > 0 ? g->max_tokens : 1;
    size_t keep = g->truncate_prompt > 0 ? (size_t)g->truncate_prompt
                  : wanted < ctx         ? (size_t)(ctx - wanted)
                                         : 1;
    if (g->truncate_prompt == 0 || ids->n <= keep)
        return;
    memmove(ids->ids, ids->ids + (ids->n - keep), keep * sizeof *ids->ids);
    ids->n = keep;
}

static bool want_prompt_logprobs(struct request *request, int32_t n_top, struct err *err)
{
    size_t n_prompt = (size_t)request->n_prompt;
    struct prompt_logprobs *wanted = calloc(1, sizeof *wanted);
    if (wanted == NULL)
        return err_set(err, ERR_MEMORY, "no memory for prompt log-probabilities");
    request->prompt_logprobs = wanted;
    wanted->n_top = n_top;
    wanted->logprobs = calloc(n_prompt, sizeof *wanted->logprobs);
    if (n_top > 0)
        wanted->tops = calloc(n_prompt * (size_t)n_top, sizeof *wanted->tops);
    return (wanted->logprobs != NULL && (n_top == 0 || wanted->tops != NULL)) ||
           err_set(err, ERR_MEMORY, "no memory for log-probabilities of %zu prompt tokens",
                   n_prompt);
}

/* ids are taken over. */
static bool make_request(struct job *job, struct ids *ids, struct err *err)
{
    const struct generate *g = &job->generate;
    int32_t ctx = job->server->model->ctx;
    cut_prompt(ids, g, ctx);
    int32_t n_prompt = ids->n > INT32_MAX ? INT32_MAX : (int32_t)ids->n;
    const char *field = g->kind == API_CHAT ? "messages" : "prompt";
    if (n_prompt == 0)
        return err_set_field(err, ERR_REQUEST, field, "%s must give at least one token", field);
    if (n_prompt >= ctx) {
        job->n_prompt = n_prompt;
        job->n_ctx = ctx;
        return err_set_field(err, ERR_CONTEXT, field,
                             "the prompt has %d tokens, which leaves no room in the context of %d",
                             n_prompt, ctx);
    }
    struct request *request;
    int32_t n_top = g->sampling.n_top;
    if (!request_open(&request, ids->ids, n_prompt, g->n_seqs, n_top > 0 ? n_top : 0, err))
        return false;
    *ids = (struct ids){ 0 };
    job->requests[job->n_requests++] = request;
    int32_t room = ctx - n_prompt;
    request->max_tokens = g->max_tokens < 0 || g->max_tokens > room ? room : g->max_tokens;
    request->min_tokens = g->min_tokens < request->max_tokens ? g->min_tokens : request->max_tokens;
    request->ignore_eos = g->ignore_eos;
    request->grammar = job->grammar;
    request->sampling = g->sampling;
    request->priority = job->has_priority ? job->priority : g->priority;
    request->salt = auth_salt(job->salt, g->cache_salt) ^ (g->cache_prompt ? 0 : rng_system());
    request->wants_progress = g->stream && g->return_progress;
    if (g->n_stop_tokens > 0) {
        size_t bytes = (size_t)g->n_stop_tokens * sizeof *request->stop_tokens;
        request->stop_tokens = malloc(bytes);
        if (request->stop_tokens == NULL)
            return err_set(err, ERR_MEMORY, "no memory for stop_token_ids");
        memcpy(request->stop_tokens, g->stop_tokens, bytes);
        request->n_stop_tokens = g->n_stop_tokens;
    }
    int32_t n_prompt_top = g->echo && g->logprobs ? n_top : -1;
    n_prompt_top = g->prompt_logprobs > n_prompt_top ? g->prompt_logprobs : n_prompt_top;
    return n_prompt_top < 0 || want_prompt_logprobs(request, n_prompt_top, err);
}

static bool make_requests(struct job *job, struct err *err)
{
    const struct model *model = job->server->model;
    struct generate *g = &job->generate;
    if (g->random_seed)
        g->sampling.seed = rng_system();
    g->tool.id_seed = rng_system();
    if (!prep_sampling(job, err))
        return false;
    if (g->structured.kind != STRUCTURED_NONE &&
        !structured_compile(&g->structured, &job->grammar, err))
        return false;
    int32_t n = g->kind == API_CHAT ? 1 : g->n_prompts;
    job->requests = arena_take(&job->arena, (size_t)n, sizeof(struct request *));
    if (job->requests == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %d requests", n);
    for (int32_t i = 0; i < n; i++) {
        struct ids ids = { 0 };
        bool ok;
        if (atomic_load(&job->cancelled))
            return err_set(err, ERR_UNAVAILABLE, "the client is gone");
        if (g->kind == API_CHAT) {
            ok = encode_chat(model, g, &ids, err);
        } else if (g->prompts[i].text != NULL) {
            unsigned flags = ENCODE_PARSE_SPECIAL | (g->add_special ? ENCODE_ADD_SPECIAL : 0);
            ok = tokenizer_encode(model->tokenizer, g->prompts[i].text, g->prompts[i].length, flags,
                                  NULL, 0, &ids, err);
        } else {
            ok = true;
            for (int32_t k = 0; k < g->prompts[i].n_ids && ok; k++)
                ok = ids_push(&ids, g->prompts[i].ids[k]) ||
                     err_set(err, ERR_MEMORY, "no memory for the prompt");
        }
        ok = ok && make_request(job, &ids, err);
        ids_clear(&ids);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- the small routes -------------------------------------------------------------------------
 */

static bool run_tokenize(struct job *job, struct err *err)
{
    const struct model *model = job->server->model;
    struct tokenize_request request;
    if (!api_parse_tokenize(&request, job->root, &job->server->api, &job->arena, err))
        return false;
    struct ids ids = { 0 };
    const char **pieces = NULL;
    size_t *lengths = NULL;
    bool ok;
    if (request.text == NULL) {
        ok = encode_chat(model, &request.chat, &ids, err);
    } else {
        unsigned flags = (request.add_special ? ENCODE_ADD_SPECIAL : 0u) |
                         (request.parse_special ? ENCODE_PARSE_SPECIAL : 0u);
        ok = tokenizer_encode(model->tokenizer, request.text, request.length, flags, NULL, 0, &ids,
                              err);
    }
    if (ok && (request.with_pieces || request.with_strings)) {
        pieces = calloc(ids.n + 1, sizeof *pieces);
        lengths = calloc(ids.n + 1, sizeof *lengths);
        ok = (pieces != NULL && lengths != NULL) ||
             err_set(err, ERR_MEMORY, "no memory for %zu pieces", ids.n);
        for (size_t i = 0; i < ids.n && ok; i++) {
            pieces[i] = tokenizer_bytes(model->tokenizer, ids.ids[i], &lengths[i]);
            if (pieces[i] == NULL) {
                pieces[i] = "";
                lengths[i] = 0;
            }
        }
    }
    if (ok)
        api_write_tokenize(&job->reply, &request, ids.ids, (int32_t)ids.n, pieces, lengths,
                           model->ctx);
    free(pieces);
    free(lengths);
    ids_clear(&ids);
    return ok;
}

static bool run_detokenize(struct job *job, struct err *err)
{
    struct detokenize_request request;
    if (!api_parse_detokenize(&request, job->root, &job->server->api, &job->arena, err))
        return false;
    struct buf text;
    buf_init(&text, (size_t)256 << 20);
    detok_all(job->server->model->tokenizer, request.ids, (size_t)request.n_ids, false, &text);
    bool ok = !text.failed || err_set(err, ERR_MEMORY, "no memory for the text");
    if (ok)
        api_write_detokenize(&job->reply, buf_text(&text), text.length);
    buf_clear(&text);
    return ok;
}

static bool run_apply_template(struct job *job, struct err *err)
{
    if (!api_parse_apply_template(&job->generate, job->root, &job->server->api, &job->arena, err))
        return false;
    struct chat_text text = { 0 };
    bool ok = render_chat(job->server->model, &job->generate, &text, err);
    if (ok)
        api_write_apply_template(&job->reply, buf_text(&text.text), text.text.length);
    chat_text_clear(&text);
    return ok;
}

/* The ids that a request would run with; all that it would be refused for, it is refused for here.
 */
static bool run_render(struct job *job, struct err *err)
{
    const struct api_model *model = &job->server->api;
    struct generate *g = &job->generate;
    bool parsed = job->kind == JOB_RENDER_CHAT
                      ? api_parse_chat(g, job->root, model, &job->arena, err)
                      : api_parse_completion(g, job->root, model, &job->arena, err);
    if (!parsed || !make_requests(job, err))
        return false;
    for (int32_t i = 0; i < job->n_requests; i++)
        api_write_render(&job->reply, model, g->kind, i, job->requests[i]->prompt,
                         job->requests[i]->n_prompt, i == job->n_requests - 1);
    return true;
}

static bool run(struct job *job, struct err *err)
{
    if (job->kind == JOB_REPLY) {
        exchange_write_reply(job->exchange);
        return true;
    }
    if (!json_parse(buf_text(&job->body), job->body.length, &JSON_REQUEST_LIMITS, ERR_REQUEST,
                    &job->root, err))
        return false;
    buf_clear(&job->body); /* texts live in the tree now */
    buf_init(&job->body, 0);
    switch (job->kind) {
    case JOB_CHAT:
        return api_parse_chat(&job->generate, job->root, &job->server->api, &job->arena, err) &&
               make_requests(job, err);
    case JOB_COMPLETION:
        return api_parse_completion(&job->generate, job->root, &job->server->api, &job->arena,
                                    err) &&
               make_requests(job, err);
    case JOB_TOKENIZE:
        return run_tokenize(job, err);
    case JOB_DETOKENIZE:
        return run_detokenize(job, err);
    case JOB_APPLY_TEMPLATE:
        return run_apply_template(job, err);
    case JOB_RENDER_CHAT:
    case JOB_RENDER_COMPLETION:
        return run_render(job, err);
    case JOB_REPLY:
        break;
    }
    return true;
}

static void *worker(void *argument)
{
    struct prep *prep = argument;
    pthread_setname_np(pthread_self(), "nibble-prep");
    for (struct job *job; (job = mpsc_wait(&prep->in, -1)) != NULL;) {
        struct err err = { 0 };
        if (!atomic_load(&job->cancelled) && !run(job, &err)) {
            CHECK(err.code != ERR_NONE);
            job->err = err;
        }
        if (job->reply.failed)
            err_set(&job->err, ERR_MEMORY, "the reply is too large");
        /* `out` has room for every job there can be: prep_push counts them. */
        bool pushed = mpsc_push(&prep->out, job);
        CHECK(pushed);
        uint64_t one = 1;
        ssize_t written = write(prep->wake, &one, sizeof one);
        (void)written; /* full counter: the reader is woken anyway */
    }
    return NULL;
}

bool prep_open(struct prep **out, int32_t n_workers, uint32_t n_jobs_max, int wake, struct err *err)
{
    CHECK(n_workers >= 1 && n_workers <= WORKERS_MAX);
    struct prep *prep = calloc(1, sizeof *prep);
    if (prep == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the prep workers");
    prep->wake = wake;
    if (!mpsc_init(&prep->in, n_jobs_max, err)) {
        free(prep);
        return false;
    }
    if (!mpsc_init(&prep->out, n_jobs_max + (uint32_t)n_workers + 1, err)) {
        mpsc_clear(&prep->in);
        free(prep);
        return false;
    }
    for (int32_t i = 0; i < n_workers; i++) {
        if (pthread_create(&prep->threads[i], NULL, worker, prep) != 0) {
            prep_close(prep);
            return err_set(err, ERR_IO, "cannot start a prep worker");
        }
        prep->n_threads++;
    }
    *out = prep;
    return true;
}

void prep_close(struct prep *prep)
{
    if (prep == NULL)
        return;
    mpsc_close(&prep->in);
    for (int32_t i = 0; i < prep->n_threads; i++)
        pthread_join(prep->threads[i], NULL);
    for (struct job *job; (job = mpsc_pop(&prep->in)) != NULL;)
        job_close(job);
    for (struct job *job; (job = mpsc_pop(&prep->out)) != NULL;)
        job_close(job);
    mpsc_clear(&prep->in);
    mpsc_clear(&prep->out);
    free(prep);
}

bool prep_push(struct prep *prep, struct job *job)
{
    /* Jobs waiting to be taken count too, so that `out` can never be full. */
    if (mpsc_count(&prep->in) + mpsc_count(&prep->out) >= prep->in.capacity)
        return false;
    return mpsc_push(&prep->in, job);
}

struct job *prep_take(struct prep *prep)
{
    return mpsc_pop(&prep->out);
}
