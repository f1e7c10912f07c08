/* stream.c - from the engine's events to text: detokenizing, stop strings, log-probabilities; and
 * the events of a stream. pieces.c has what both forms of a reply are made of.
 *
 * A collected reply is the stream, collected: both read the same events through the same code, and
 * the text of a choice is released by the same rule, so they are equal byte for byte. Http thread
 * only, but for exchange_write_reply of a large reply, which has its exchange to itself. */
#include "server/exchange.h"
#include <stdlib.h>
#include <string.h>
#include "host/base/clock.h"
#include "server/pieces.h"
#include "server/server.h"

enum { TEXT_BYTES_MAX = 64 << 20, KEPT_BYTES_MAX = 512 << 20 };

static bool wants_kept(const struct generate *g)
{
    return g->logprobs || g->return_token_ids;
}

/* ---- stop strings -----------------------------------------------------------------------------
 */

/* Knuth, Morris, Pratt: backs[k][i] is the length of the longest beginning of stop string k, other
 * than itself, that its first i + 1 bytes end with. So a byte costs a step or two per stop string,
 * whatever the strings: comparing ends with beginnings took 64 hostile ones 16 ms a token. */
static bool open_stops(struct exchange *x, struct arena *arena, struct err *err)
{
    const struct generate *g = &x->job->generate;
    _Static_assert(API_STOP_BYTES_MAX <= UINT16_MAX, "lengths fit");
    x->stop_backs = arena_take(arena, (size_t)g->n_stops, sizeof *x->stop_backs);
    if (x->stop_backs == NULL)
        return err_set(err, ERR_MEMORY, "no memory for stop strings");
    for (int32_t k = 0; k < g->n_stops; k++) {
        const struct api_stop *stop = &g->stops[k];
        uint16_t *back = arena_take(arena, stop->length, sizeof *back), n = 0;
        if (back == NULL)
            return err_set(err, ERR_MEMORY, "no memory for stop strings");
        x->stop_backs[k] = back;
        for (size_t i = 1; i < stop->length; i++) {
            while (n > 0 && stop->text[i] != stop->text[n])
                n = back[n - 1];
            n = (uint16_t)(n + (stop->text[i] == stop->text[n]));
            back[i] = n;
        }
    }
    return true;
}

/* One byte further. The stop string that it completes (the longest, which starts first), or -1. The
 * match that is complete first wins, so that where tokens were cut does not matter. */
static int32_t step_stops(const struct exchange *x, struct choice *c, char byte)
{
    const struct generate *g = &x->job->generate;
    int32_t best = -1;
    for (int32_t k = 0; k < g->n_stops; k++) {
        const struct api_stop *stop = &g->stops[k];
        uint16_t n = c->stop_matched[k];
        while (n > 0 && stop->text[n] != byte)
            n = x->stop_backs[k][n - 1];
        n = (uint16_t)(n + (stop->text[n] == byte));
        c->stop_matched[k] = n;
        if (n == stop->length && (best < 0 || n > g->stops[best].length))
            best = k;
    }
    return best;
}

bool exchange_begin(struct exchange *x, struct err *err)
{
    struct job *job = x->job;
    const struct generate *g = &job->generate;
    int32_t n = job->n_requests * g->n_seqs;
    x->choices = arena_take(&job->arena, (size_t)n, sizeof *x->choices);
    if (x->choices == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %d choices", n);
    if (!open_stops(x, &job->arena, err))
        return false;
    int32_t n_top = g->sampling.n_top > 0 ? g->sampling.n_top : 0;
    for (int32_t i = 0; i < n; i++) {
        struct choice *c = &x->choices[i];
        c->stop_matched = arena_take(&job->arena, (size_t)g->n_stops, sizeof *c->stop_matched);
        if (c->stop_matched == NULL) {
            err_set(err, ERR_MEMORY, "no memory for %d choices", n);
            goto fail;
        }
        c->request = job->requests[i / g->n_seqs];
        c->seq = i % g->n_seqs;
        c->index = i;
        c->stop_token = -1;
        c->kept_bytes = sizeof(struct kept_token) + (size_t)n_top * sizeof(struct top);
        buf_init(&c->text, TEXT_BYTES_MAX);
        buf_init(&c->held, TEXT_BYTES_MAX);
        buf_init(&c->kept, KEPT_BYTES_MAX);
        if (x->server->model->tokenizer != NULL) {
            detok_init(&c->detok, x->server->model->tokenizer, g->skip_special);
            c->detok.tight = g->tight_specials;
            if (g->kind == API_CHAT && tool_setup_active(&g->tool) &&
                !tool_parser_open(&c->parser, &g->tool, i, err))
                goto fail;
            detok_go_on(&c->detok, c->request->prompt, (size_t)c->request->n_prompt);
        }
    }
    for (int32_t i = 0; i < job->n_requests; i++)
        job->requests[i]->owner = x;
    x->n_choices = n;
    return true;
fail:
    for (int32_t i = 0; i < n; i++)
        tool_parser_close(x->choices[i].parser);
    return false;
}

void exchange_end(struct exchange *x)
{
    for (int32_t i = 0; i < x->n_choices; i++) {
        tool_parser_close(x->choices[i].parser);
        buf_clear(&x->choices[i].text);
        buf_clear(&x->choices[i].held);
        buf_clear(&x->choices[i].kept);
    }
    x->n_choices = 0;
}

void exchange_cancel(struct exchange *x)
{
    if (x->job == NULL)
        return;
    for (int32_t i = 0; i < x->job->n_requests; i++)
        if (x->job->requests[i] != NULL)
            atomic_store(&x->job->requests[i]->cancelled, true);
    engine_wake(x->server->engine);
}

static void release(struct choice *c, size_t n)
{
    if (c->parser != NULL)
        tool_parser_feed(c->parser, buf_text(&c->held), n);
    else
        buf_put(&c->text, c->held.bytes, n);
    buf_shift(&c->held, n);
}

/* New text has been appended to `held` from byte `from` on. True: a stop string ended the choice.
 */
static bool match_stops(const struct exchange *x, struct choice *c, size_t from)
{
    const struct generate *g = &x->job->generate;
    for (size_t i = from; i < c->held.length && g->n_stops > 0; i++) {
        int32_t k = step_stops(x, c, c->held.bytes[i]);
        if (k < 0)
            continue;
        c->stop_text = g->stops[k].text;
        release(c, g->include_stop ? i + 1 : i + 1 - g->stops[k].length);
        buf_reset(&c->held);
        return true;
    }
    /* The longest end that is the beginning of a stop string cannot be released yet. */
    size_t back = 0;
    for (int32_t k = 0; k < g->n_stops; k++)
        back = c->stop_matched[k] > back ? c->stop_matched[k] : back;
    release(c, c->held.length - back);
    return false;
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void keep(struct choice *c, const struct generate *g, int32_t id, float logprob,
                 const struct top *tops, int32_t n_tops, bool prompt, bool no_logprob)
{
    if (!wants_kept(g))
        return;
    static const char zeros[sizeof(struct kept_token) + SAMPLE_TOP_MAX * sizeof(struct top)];
    size_t at = c->kept.length;
    buf_put(&c->kept, zeros, c->kept_bytes);
    if (c->kept.failed)
        return;
    struct kept_token *kept = (struct kept_token *)(void *)(c->kept.bytes + at);
    int32_t room = (int32_t)((c->kept_bytes - sizeof *kept) / sizeof(struct top));
    *kept = (struct kept_token){ .id = id,
                                 .logprob = logprob,
                                 .text_offset = c->n_characters,
                                 .n_tops = (int16_t)(n_tops < room ? n_tops : room),
                                 .prompt = prompt,
                                 .no_logprob = no_logprob };
    if (kept->n_tops > 0)
        memcpy(kept->tops, tops, (size_t)kept->n_tops * sizeof *tops);
}

/* The echoed prompt: its text as it was sent, its tokens with their log-probabilities. */
static void begin_choice(struct exchange *x, struct choice *c)
{
    const struct generate *g = &x->job->generate;
    const struct request *request = c->request;
    c->begun = true;
    if (!g->echo)
        return;
    const struct tokenizer *tokenizer = x->server->model->tokenizer;
    const struct api_prompt *prompt = &g->prompts[c->index / g->n_seqs];
    const struct prompt_logprobs *known = request->prompt_logprobs;
    struct buf text;
    buf_init(&text, TEXT_BYTES_MAX);
    struct detok detok = { 0 };
    if (tokenizer != NULL)
        detok_init(&detok, tokenizer, g->skip_special);
    for (int32_t i = 0; i < request->n_prompt && g->logprobs; i++) {
        const struct top *tops = NULL;
        int32_t n_tops = 0;
        if (known != NULL && known->tops != NULL && i > 0) {
            n_tops = known->n_top;
            tops = known->tops + (size_t)i * (size_t)n_tops;
        }
        keep(c, g, request->prompt[i], known && i > 0 ? known->logprobs[i] : 0, tops, n_tops, true,
             i == 0);
        if (tokenizer != NULL) {
            size_t before = text.length;
            detok_push(&detok, request->prompt[i], &text);
            c->n_characters +=
                (int32_t)reply_characters(buf_text(&text) + before, text.length - before);
        }
    }
    if (prompt->text != NULL && g->truncate_prompt == 0) {
        buf_put(&c->text, prompt->text, prompt->length);
        c->n_characters = (int32_t)reply_characters(prompt->text, prompt->length);
    } else if (tokenizer != NULL) {
        buf_reset(&text);
        detok_all(tokenizer, request->prompt, (size_t)request->n_prompt, g->skip_special, &text);
        buf_put(&c->text, buf_text(&text), text.length);
        c->n_characters = (int32_t)reply_characters(buf_text(&text), text.length);
    }
    buf_clear(&text);
}

/* Every sequence of a prompt has ended: what is known once a prompt. */
static void observe_request(struct exchange *x, const struct request *request)
{
    struct metrics *m = &x->server->metrics;
    int64_t most = 0;
    for (int32_t i = 0; i < x->n_choices; i++) {
        const struct choice *c = &x->choices[i];
        if (c->request != request)
            continue;
        if (!c->done)
            return;
        most = c->n_tokens > most ? c->n_tokens : most;
    }
    metrics_observe(&m->max_generation_tokens, (double)most);
    metrics_observe(&m->prompt_tokens, request->n_prompt);
    metrics_observe(&m->computed_tokens, request->n_prompt - request->n_cached);
    metrics_observe(&m->params_n, x->job->generate.n);
    metrics_observe(&m->params_max_tokens, request->max_tokens);
}

static void observe_sequence(struct exchange *x, const struct choice *c)
{
    struct metrics *m = &x->server->metrics;
    const struct request *request = c->request;
    uint64_t planned = request->first_plan_ns;
    metrics_observe(&m->e2e, (double)(clock_ns() - x->started_ns) * 1e-9);
    metrics_observe(&m->generation_tokens, (double)c->n_tokens);
    if (planned != 0)
        metrics_observe(&m->queue, (double)(planned - request->submit_ns) * 1e-9);
    if (c->n_tokens == 0 || planned == 0)
        return;
    metrics_observe(&m->prefill, (double)(c->first_token_ns - planned) * 1e-9);
    metrics_observe(&m->decode, (double)(c->last_token_ns - c->first_token_ns) * 1e-9);
    metrics_observe(&m->inference, (double)(c->last_token_ns - planned) * 1e-9);
    if (c->n_tokens > 1)
        metrics_observe(&m->per_token, (double)(c->last_token_ns - c->first_token_ns) * 1e-9 /
                                           (double)(c->n_tokens - 1));
}

static void finish_choice(struct exchange *x, struct choice *c, const char *reason)
{
    struct metrics *m = &x->server->metrics;
    c->done = true;
    c->finish_reason = reason;
    if (c->parser != NULL) {
        tool_parser_end(c->parser);
        m->tool_parses += x->job->generate.tool.calls;
        /* Of itself: a stop string may have cut the call short. */
        if (strcmp(reason, "stop") == 0 && c->stop_text == NULL && tool_parser_calls(c->parser) > 0)
            c->finish_reason = "tool_calls";
    }
    x->n_done++;
    x->n_running--;
    observe_sequence(x, c);
    observe_request(x, c->request);
    if (strcmp(reason, "stop") == 0)
        m->success_stop++;
    else if (strcmp(reason, "length") == 0)
        m->success_length++;
    else if (strcmp(reason, "abort") == 0)
        m->success_abort++;
    else
        m->success_error++;
}

static void count_token(struct exchange *x, struct choice *c, uint64_t time_ns)
{
    struct metrics *m = &x->server->metrics;
    if (c->n_tokens == 0) {
        c->first_token_ns = time_ns;
        metrics_observe(&m->ttft, (double)(time_ns - x->started_ns) * 1e-9);
    } else {
        metrics_observe(&m->inter_token, (double)(time_ns - c->last_token_ns) * 1e-9);
    }
    c->n_tokens++;
    c->last_token_ns = time_ns;
}

/* Marks of calls and reasoning reach the parser though special tokens give no text. */
static bool shows(const struct exchange *x, const struct choice *c, int32_t id)
{
    const struct generate *g = &x->job->generate;
    size_t length;
    if (c->parser == NULL || !g->skip_special)
        return !g->skip_special;
    const char *bytes = tokenizer_bytes(x->server->model->tokenizer, id, &length);
    return bytes != NULL && tool_setup_marks(&g->tool, bytes, length);
}

/* Text of one token into the choice. True: a stop string ended it, or the one call it may have. */
static bool add_text(struct exchange *x, struct choice *c, int32_t id)
{
    if (x->server->model->tokenizer == NULL)
        return false;
    size_t from = c->held.length;
    c->detok.skip_special = !shows(x, c, id);
    detok_push(&c->detok, id, &c->held);
    size_t n = c->held.length - from;
    c->n_characters += (int32_t)reply_characters(buf_text(&c->held) + from, n);
    c->has_line_feed = c->has_line_feed || (n > 0 && memchr(c->held.bytes + from, '\n', n));
    return match_stops(x, c, from) || (c->parser != NULL && tool_parser_finished(c->parser));
}

/* The choice ends here, whatever the engine is about to draw. */
static void end_choice(struct exchange *x, struct choice *c, const char *reason)
{
    atomic_store(&c->request->seq_cancelled[c->seq], true);
    engine_wake(x->server->engine);
    finish_choice(x, c, reason);
}

/* All text that is still held is text after all. True: it was a stop string. */
static bool flush_text(struct exchange *x, struct choice *c)
{
    if (x->server->model->tokenizer == NULL)
        return false;
    size_t from = c->held.length;
    detok_flush(&c->detok, &c->held);
    if (match_stops(x, c, from))
        return true;
    release(c, c->held.length);
    return false;
}

static bool is_late(const struct generate *g, const struct choice *c, uint64_t now_ns)
{
    return g->predict_ms_max > 0 && c->has_line_feed &&
           now_ns - c->first_token_ns > (uint64_t)g->predict_ms_max * 1000000u;
}

static void on_token(struct exchange *x, struct choice *c, const struct event *event,
                     const struct top *tops)
{
    const struct generate *g = &x->job->generate;
    count_token(x, c, event->time_ns);
    c->sum_logprob += (double)event->logprob;
    keep(c, g, event->token, event->logprob, tops, event->n_top, false, false);
    if (add_text(x, c, event->token))
        end_choice(x, c, "stop");
    else if (is_late(g, c, event->time_ns))
        end_choice(x, c, flush_text(x, c) ? "stop" : "length");
}

static bool is_stop_token(const struct request *request, int32_t id)
{
    for (int32_t i = 0; i < request->n_stop_tokens; i++)
        if (request->stop_tokens[i] == id)
            return true;
    return false;
}

static void on_done(struct exchange *x, struct choice *c, const struct event *event,
                    const struct top *tops)
{
    const struct generate *g = &x->job->generate;
    if (event->finish == FINISH_STOP && event->finish_token >= 0) {
        count_token(x, c, event->time_ns);
        c->sum_logprob += (double)event->logprob;
        keep(c, g, event->finish_token, event->logprob, tops, event->n_top, false, false);
        if (is_stop_token(c->request, event->finish_token)) {
            c->stop_token = event->finish_token;
            if (g->include_stop && add_text(x, c, event->finish_token)) {
                finish_choice(x, c, "stop");
                return;
            }
        }
    }
    if (event->finish == FINISH_ERROR && x->err.code == ERR_NONE)
        err_set(&x->err, ERR_UNAVAILABLE, "%s", c->request->error_text);
    if (event->finish == FINISH_CANCELLED && x->err.code == ERR_NONE && !x->gone)
        err_set(&x->err, ERR_UNAVAILABLE, "the request was cancelled by the server");
    bool stopped = flush_text(x, c);
    finish_choice(x, c,
                  stopped                             ? "stop"
                  : event->finish == FINISH_STOP      ? "stop"
                  : event->finish == FINISH_LENGTH    ? "length"
                  : event->finish == FINISH_CANCELLED ? "abort"
                                                      : "error");
}

/* ---- events of a stream -----------------------------------------------------------------------
 */

/* The first event of a chat choice says who speaks. */
static void send_role(struct exchange *x, struct choice *c)
{
    const struct generate *g = &x->job->generate;
    if (g->kind != API_CHAT || c->role_sent)
        return;
    struct reply_head head = exchange_head(x);
    struct reply_usage usage = exchange_usage(x);
    struct reply_piece role = { .index = c->index,
                                .text = "",
                                .first = true,
                                .stop_reason_token = -1,
                                .prompt_ids = g->return_token_ids ? c->request->prompt : NULL,
                                .n_prompt_ids = c->request->n_prompt };
    reply_chunk(&x->out, &head, &role, g->continuous_usage ? &usage : NULL, NULL);
    c->role_sent = c->prompt_sent = true;
}

/* How far the prompt is, in front of its first choice's tokens. */
static void send_progress(struct exchange *x, struct choice *c)
{
    const struct request *request = c->request;
    int32_t n = atomic_load_explicit(&request->n_computed, memory_order_acquire);
    if (!request->wants_progress || c->seq != 0 || c->begun || n <= c->n_progress)
        return;
    uint64_t now = clock_ns(), since = request->first_plan_ns;
    struct reply_head head = exchange_head(x);
    struct reply_progress progress = { .total = request->n_prompt,
                                       .cache = request->n_cached,
                                       .processed = n,
                                       .time_ms = since ? (double)(now - since) * 1e-6 : 0 };
    x->state = EXCHANGE_STREAM;
    send_role(x, c);
    reply_progress_chunk(&x->out, &head, c->index, &progress);
    c->n_progress = n;
}

static bool has_text(const struct choice *c)
{
    return c->parser != NULL ? tool_said_shows(tool_parser_said(c->parser)) : c->text.length > 0;
}

/* Frame what the choice has released as one event, if there is anything to say. */
static void send_piece(struct exchange *x, struct choice *c)
{
    struct reply_head head = exchange_head(x);
    struct reply_usage usage = exchange_usage(x);
    struct reply_timings timings;
    const struct generate *g = &x->job->generate;
    const struct reply_usage *running = g->continuous_usage ? &usage : NULL;
    const struct reply_timings *each = g->timings_per_token ? &timings : NULL, *last = each;
    bool chat = g->kind == API_CHAT;
    send_role(x, c);
    const int32_t *prompt_ids = g->return_token_ids && !c->prompt_sent ? c->request->prompt : NULL;
    bool ended = c->finish_reason != NULL && !c->final_sent;
    /* Tokens without text (half a character, half a stop string) wait for the text. Without a
     * tokenizer there is none to wait for: the ids are the reply. */
    bool ids_only = x->server->model->tokenizer == NULL && c->kept.length > 0;
    if (!has_text(c) && !ended && !ids_only)
        return;
    void *memory;
    struct reply_piece piece;
    if (!exchange_piece(x, c, &piece, &memory)) {
        exchange_no_memory(x);
        return;
    }
    if (ended && x->n_done == x->n_choices && !g->include_usage)
        last = &timings; /* they ride on the last event */
    if (last != NULL)
        timings = exchange_timings(x);
    piece.prompt_ids = prompt_ids;
    piece.n_prompt_ids = c->request->n_prompt;
    c->prompt_sent = true;
    if (chat && ended && has_text(c)) {
        /* The last text and the finish are two events: an empty delta carries the reason. */
        piece.finish_reason = NULL;
        reply_chunk(&x->out, &head, &piece, running, each);
        piece = (struct reply_piece){ .index = c->index,
                                      .text = "",
                                      .finish_reason = c->finish_reason,
                                      .stop_reason_text = c->stop_text,
                                      .stop_reason_token = c->stop_token };
    }
    reply_chunk(&x->out, &head, &piece, running, last);
    c->final_sent = c->final_sent || ended;
    free(memory);
    buf_reset(&c->text);
    buf_reset(&c->kept);
    if (c->parser != NULL)
        tool_parser_taken(c->parser);
}

static void end_stream(struct exchange *x)
{
    if (x->out_final)
        return;
    if (x->err.code != ERR_NONE) {
        reply_error_chunk(&x->out, &x->err);
    } else if (x->job->generate.include_usage) {
        struct reply_head head = exchange_head(x);
        struct reply_usage usage = exchange_usage(x);
        struct reply_timings timings = exchange_timings(x);
        reply_usage_chunk(&x->out, &head, &usage, &timings);
    }
    reply_done(&x->out);
    x->out_final = true;
}

/* A sequence's events. A slow client's stay in the ring: the engine then plans no more of it. */
static void drain_choice(struct exchange *x, struct choice *c)
{
    struct outbox *outbox = &c->request->outboxes[c->seq];
    bool stream = x->job->generate.stream;
    uint32_t ready = spsc_ready(&outbox->ring);
    bool was_full = ready + 2 >= outbox->ring.capacity, read = false;
    int32_t n_top = x->job->generate.sampling.n_top;
    if (stream && !x->gone && x->err.code == ERR_NONE)
        send_progress(x, c);
    while (spsc_ready(&outbox->ring) > 0) {
        if (stream && x->state == EXCHANGE_STREAM && !x->gone && !c->done &&
            x->out.length - x->out_read > EXCHANGE_OUT_MAX)
            break;
        uint32_t at = spsc_read_at(&outbox->ring);
        const struct event event = outbox->events[at];
        const struct top *tops =
            outbox->tops && n_top > 0 ? outbox->tops + (size_t)at * (size_t)n_top : NULL;
        if (!c->done && !x->gone) {
            if (!c->begun)
                begin_choice(x, c);
            if (event.kind == EVENT_TOKEN)
                on_token(x, c, &event, tops);
            else
                on_done(x, c, &event, tops);
            if (stream && x->err.code == ERR_NONE) {
                x->state = EXCHANGE_STREAM;
                send_piece(x, c);
            }
        } else if (!c->done && event.kind == EVENT_DONE) {
            finish_choice(x, c, "abort");
        }
        spsc_read(&outbox->ring);
        read = true;
    }
    if (read && was_full)
        engine_wake(x->server->engine); /* there is room again: it may be planned */
}

void exchange_drain(struct exchange *x, struct request *request)
{
    for (int32_t i = 0; i < x->n_choices; i++)
        if (request == NULL || x->choices[i].request == request)
            drain_choice(x, &x->choices[i]);
    if (x->gone)
        return;
    bool failed = x->err.code != ERR_NONE;
    if (failed && x->n_done < x->n_choices)
        exchange_cancel(x);
    if (x->state == EXCHANGE_STREAM && (failed || x->n_done == x->n_choices))
        end_stream(x);
}
