/* pieces.c - what replies are made of, streamed or collected, and the collected one. Http thread,
 * but for exchange_write_reply of a large reply, which has its exchange to itself. */
#include "server/pieces.h"
#include <stdlib.h>
#include <string.h>
#include "server/server.h"

struct reply_head exchange_head(const struct exchange *x)
{
    const struct generate *g = &x->job->generate;
    return (struct reply_head){ .kind = g->kind,
                                .id = x->id,
                                .model = x->server->api.id,
                                .created_s = x->created_s,
                                .logprobs = g->logprobs,
                                .return_token_ids = g->return_token_ids,
                                .tokens_as_ids = g->tokens_as_ids };
}

/* What the engine has written of a request may be read once one of its events was. Its first token
 * is then that of its choices: 0 when there is none yet. */
static bool has_begun(const struct exchange *x, int32_t r, uint64_t *first_token_ns)
{
    const int32_t n = x->job->generate.n_seqs;
    bool begun = false;
    *first_token_ns = 0;
    for (int32_t i = r * n; i < (r + 1) * n; i++) {
        const struct choice *c = &x->choices[i];
        begun = begun || c->begun;
        if (c->first_token_ns != 0 && (*first_token_ns == 0 || c->first_token_ns < *first_token_ns))
            *first_token_ns = c->first_token_ns;
    }
    return begun;
}

struct reply_usage exchange_usage(const struct exchange *x)
{
    struct reply_usage usage = { 0 };
    uint64_t first;
    for (int32_t r = 0; r < x->job->n_requests; r++) {
        usage.prompt_tokens += x->job->requests[r]->n_prompt;
        usage.cached_tokens += has_begun(x, r, &first) ? x->job->requests[r]->n_cached : 0;
    }
    for (int32_t i = 0; i < x->n_choices; i++)
        usage.completion_tokens += x->choices[i].n_tokens;
    return usage;
}

struct reply_timings exchange_timings(const struct exchange *x)
{
    struct reply_timings timings = { 0 };
    const int32_t n = x->job->generate.n_seqs;
    for (int32_t r = 0; r < x->job->n_requests; r++) {
        const struct request *request = x->job->requests[r];
        uint64_t first;
        if (!has_begun(x, r, &first))
            continue;
        timings.cache_n += request->n_cached;
        timings.prompt_n += request->n_prompt - request->n_cached;
        if (first > request->first_plan_ns && request->first_plan_ns != 0)
            timings.prompt_ms += (double)(first - request->first_plan_ns) * 1e-6;
        for (int32_t i = r * n; i < (r + 1) * n; i++) {
            const struct choice *c = &x->choices[i];
            double ms = c->last_token_ns > first ? (double)(c->last_token_ns - first) * 1e-6 : 0;
            timings.predicted_n += c->n_tokens;
            timings.predicted_ms = ms > timings.predicted_ms ? ms : timings.predicted_ms;
        }
    }
    return timings;
}

static void token_bytes(const struct exchange *x, int32_t id, const char **bytes, size_t *length)
{
    *bytes = NULL;
    if (x->server->model->tokenizer != NULL)
        *bytes = tokenizer_bytes(x->server->model->tokenizer, id, length);
    if (*bytes == NULL) {
        *bytes = "";
        *length = 0;
    }
}

bool exchange_piece(const struct exchange *x, const struct choice *c, struct reply_piece *piece,
                    void **memory)
{
    const struct generate *g = &x->job->generate;
    int32_t n = (int32_t)(c->kept.length / c->kept_bytes);
    size_t n_top = g->sampling.n_top > 0 ? (size_t)g->sampling.n_top : 0;
    struct reply_token *tokens = NULL;
    *memory = NULL;
    if (c->parser != NULL && tool_parser_failed(c->parser))
        return false;
    if (n > 0) {
        size_t bytes = (size_t)n * (sizeof *tokens + n_top * sizeof(struct reply_top));
        *memory = tokens = malloc(bytes);
        if (tokens == NULL)
            return false;
    }
    struct reply_top *tops = (struct reply_top *)(void *)(tokens + n);
    for (int32_t i = 0; i < n; i++) {
        const struct kept_token *kept =
            (const struct kept_token *)(const void *)(c->kept.bytes + (size_t)i * c->kept_bytes);
        struct reply_top *mine = n_top ? tops + (size_t)i * n_top : NULL;
        tokens[i] = (struct reply_token){ .id = kept->id,
                                          .logprob = kept->logprob,
                                          .prompt = kept->prompt,
                                          .no_logprob = kept->no_logprob,
                                          .tops = mine,
                                          .n_tops = kept->n_tops,
                                          .text_offset = kept->text_offset };
        token_bytes(x, kept->id, &tokens[i].bytes, &tokens[i].length);
        for (int32_t k = 0; k < kept->n_tops; k++) {
            mine[k].id = kept->tops[k].token;
            mine[k].logprob = kept->tops[k].logprob;
            token_bytes(x, kept->tops[k].token, &mine[k].bytes, &mine[k].length);
        }
    }
    *piece = (struct reply_piece){ .index = c->index,
                                   .split = c->parser != NULL,
                                   .text = buf_text(&c->text),
                                   .length = c->text.length,
                                   .tokens = tokens,
                                   .n_tokens = n,
                                   .finish_reason = c->finish_reason,
                                   .stop_reason_text = c->stop_text,
                                   .stop_reason_token = c->stop_token };
    if (c->parser != NULL)
        piece->said = tool_parser_said(c->parser);
    return true;
}

void exchange_no_memory(struct exchange *x)
{
    if (x->err.code == ERR_NONE)
        err_set(&x->err, ERR_MEMORY, "no memory for the reply");
}

/* ---- the collected reply ----------------------------------------------------------------------
 */

static size_t text_bytes(const struct choice *c)
{
    struct tool_said said =
        c->parser != NULL ? tool_parser_said(c->parser) : (struct tool_said){ 0 };
    const struct tool_event *last = said.n_events > 0 ? &said.events[said.n_events - 1] : NULL;
    return c->text.length + (last != NULL ? last->at + last->length : 0);
}

bool exchange_reply_is_large(const struct exchange *x)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < x->n_choices; i++)
        bytes += x->choices[i].kept.length + text_bytes(&x->choices[i]);
    for (int32_t i = 0; i < x->job->n_requests && x->job->generate.prompt_logprobs >= 0; i++)
        bytes += (size_t)x->job->requests[i]->n_prompt * sizeof(struct reply_token);
    return bytes > 64 * 1024; /* about a millisecond of formatting */
}

/* vLLM's prompt_logprobs as tokens; *memory is to be freed. False: no memory. */
static bool prompt_piece(const struct exchange *x, const struct request *request,
                         struct reply_piece *piece, void **memory)
{
    const struct prompt_logprobs *known = request->prompt_logprobs;
    int32_t n = request->n_prompt, n_top = x->job->generate.prompt_logprobs;
    *memory = NULL;
    if (n_top < 0 || known == NULL)
        return true;
    struct reply_token *tokens =
        calloc((size_t)n, sizeof *tokens + (size_t)n_top * sizeof(struct reply_top));
    if (tokens == NULL)
        return false;
    struct reply_top *tops = (struct reply_top *)(void *)(tokens + n);
    for (int32_t i = 0; i < n; i++) {
        struct reply_token *token = &tokens[i];
        token->id = request->prompt[i];
        token->no_logprob = i == 0;
        token->logprob = known->logprobs[i];
        token->tops = tops + (size_t)i * (size_t)n_top;
        token_bytes(x, token->id, &token->bytes, &token->length);
        for (int32_t k = 0; k < n_top && i > 0; k++) {
            const struct top *from = &known->tops[(size_t)i * (size_t)known->n_top + (size_t)k];
            struct reply_top *to = &tops[(size_t)i * (size_t)n_top + (size_t)k];
            to->id = from->token;
            to->logprob = from->logprob;
            token_bytes(x, to->id, &to->bytes, &to->length);
            token->n_tops++;
        }
    }
    piece->prompt_logprobs = tokens;
    piece->n_prompt_logprobs = n;
    *memory = tokens;
    return true;
}

static double mean_logprob(const struct choice *c)
{
    return c->n_tokens > 0 ? c->sum_logprob / (double)c->n_tokens : 0;
}

/* best_of: the n of a prompt's choices with the greatest mean log-probability of a token come to
 * its front, best first; of equal ones the earlier. Without it all stay where they are. */
static void rank_choices(const struct generate *g, struct choice *choices)
{
    for (int32_t i = 0; i < g->n && g->n < g->n_seqs; i++) {
        int32_t best = i;
        for (int32_t k = i + 1; k < g->n_seqs; k++)
            if (mean_logprob(&choices[k]) > mean_logprob(&choices[best]))
                best = k;
        struct choice chosen = choices[best];
        memmove(&choices[i + 1], &choices[i], (size_t)(best - i) * sizeof *choices);
        choices[i] = chosen;
    }
}

static bool write_choice(struct exchange *x, const struct reply_head *head, const struct choice *c,
                         int32_t index)
{
    const struct generate *g = &x->job->generate;
    void *memory, *prompt_memory;
    struct reply_piece piece;
    if (!exchange_piece(x, c, &piece, &memory))
        return false;
    piece.index = index;
    if (g->return_token_ids) {
        piece.prompt_ids = c->request->prompt;
        piece.n_prompt_ids = c->request->n_prompt;
    }
    bool ok = g->kind == API_CHAT || prompt_piece(x, c->request, &piece, &prompt_memory);
    if (ok)
        reply_choice(&x->out, head, &piece, index == 0);
    if (g->kind != API_CHAT)
        free(prompt_memory);
    free(memory);
    return ok;
}

/* What chat has beside its choices. */
static bool write_end(struct exchange *x, const struct reply_head *head)
{
    const struct generate *g = &x->job->generate;
    const struct request *request = x->job->requests[0];
    struct reply_usage usage = exchange_usage(x);
    struct reply_timings timings = exchange_timings(x);
    struct reply_piece piece = { .prompt_ids = g->return_token_ids ? request->prompt : NULL,
                                 .n_prompt_ids = request->n_prompt };
    void *memory;
    bool ok = prompt_piece(x, request, &piece, &memory);
    if (ok)
        reply_end(&x->out, head, &usage, &timings, &piece);
    free(memory);
    return ok;
}

void exchange_write_reply(struct exchange *x)
{
    struct reply_head head = exchange_head(x);
    const struct generate *g = &x->job->generate;
    bool ok = true;
    reply_begin(&x->out, &head);
    for (int32_t r = 0; r < x->job->n_requests; r++) {
        struct choice *choices = &x->choices[r * g->n_seqs];
        rank_choices(g, choices);
        for (int32_t i = 0; i < g->n && ok; i++)
            ok = write_choice(x, &head, &choices[i], r * g->n + i);
    }
    ok = ok && write_end(x, &head);
    if (ok && g->n_response_fields > 0) {
        struct buf whole = x->out;
        buf_init(&x->out, whole.limit);
        reply_select(&x->out, buf_text(&whole), whole.length, g->response_fields,
                     g->n_response_fields);
        buf_clear(&whole);
    }
    if (!ok || x->out.failed)
        exchange_no_memory(x);
}
