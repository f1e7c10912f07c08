/* core.c - requests in, events out, one step at a time. See core.h. */
#include "host/engine/core.h"
#include "host/base/clock.h"
#include "host/grammar/grammar.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool options_valid(const struct engine_options *o, struct err *err)
{
    static const struct {
        const char *name;
        size_t at;
        int32_t low, high;
    } ranges[] = {
        { "ctx", offsetof(struct engine_options, ctx), 2, 1 << 24 },
        { "max_seqs", offsetof(struct engine_options, max_seqs), 1, 4096 },
        { "max_queue", offsetof(struct engine_options, max_queue), 1, 1 << 20 },
        { "step_tokens_max", offsetof(struct engine_options, step_tokens_max), 2, 1 << 20 },
        { "logit_rows_max", offsetof(struct engine_options, logit_rows_max), 2, 1 << 20 },
        { "slow_ms_max", offsetof(struct engine_options, slow_ms_max), 1, INT32_MAX },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        int32_t value;
        memcpy(&value, (const char *)o + ranges[i].at, sizeof value);
        if (value < ranges[i].low || value > ranges[i].high)
            return err_set(err, ERR_REQUEST, "%s must be from %d to %d, got %d", ranges[i].name,
                           ranges[i].low, ranges[i].high, value);
    }
    if (o->step_tokens != 0 && (o->step_tokens < 2 || o->step_tokens > o->step_tokens_max))
        return err_set(err, ERR_REQUEST, "step_tokens must be from 2 to %d, or 0 for auto, got %d",
                       o->step_tokens_max, o->step_tokens);
    return true;
}

bool core_open(struct core *core, const struct engine_device *device,
               const struct engine_options *options, int32_t n_steps, struct err *err)
{
    *core = (struct core){ .options = *options,
                           .vocab = device->vocab,
                           .mask_words = (device->vocab + 31) / 32 };
    CHECK(n_steps >= 1 && n_steps <= CORE_STEPS_MAX);
    if (!options_valid(options, err))
        return false;
    int32_t n_pages_seq = kv_pages_for(options->ctx);
    struct prefix_cache *cache = options->prefix_cache ? &core->cache : NULL;
    if (cache && !prefix_cache_init(cache, device->n_groups, device->windows, device->n_pages,
                                    n_pages_seq, err))
        goto fail;
    if (!kv_pool_init(&core->pool, device->n_groups, device->windows, device->n_pages,
                      options->max_seqs, n_pages_seq, cache, err))
        goto fail;
    if (!scheduler_init(&core->scheduler, &core->pool, cache, options->max_seqs, options->ctx,
                        options->logit_rows_max, err))
        goto fail;
    core->scheduler.rope_border = device->rope_border;
    for (int32_t i = 0; i < n_steps; i++) {
        struct core_step *step = &core->steps[i];
        step->ends = calloc((size_t)options->max_seqs, sizeof *step->ends);
        if (options->grammar_vocab) /* not touched before it is used */
            step->masks =
                malloc((size_t)options->max_seqs * (size_t)core->mask_words * sizeof *step->masks);
        if (!step->ends || (options->grammar_vocab && !step->masks)) {
            err_set(err, ERR_MEMORY, "no memory for steps of %d sequences", options->max_seqs);
            goto fail;
        }
        if (!plan_init(&step->plan, options->max_seqs, err) ||
            !batch_build_init(&step->build, options->step_tokens_max, options->max_seqs,
                              options->logit_rows_max, device->n_groups, n_pages_seq, err))
            goto fail;
    }
    return true;
fail:
    core_close(core);
    return false;
}

void core_close(struct core *core)
{
    for (int32_t i = 0; i < CORE_STEPS_MAX; i++) {
        plan_clear(&core->steps[i].plan);
        batch_build_clear(&core->steps[i].build);
        free(core->steps[i].ends);
        free(core->steps[i].masks);
    }
    scheduler_clear(&core->scheduler);
    kv_pool_clear(&core->pool);
    prefix_cache_clear(&core->cache);
    *core = (struct core){ 0 };
}

bool core_accepts(const struct core *core, const struct request *request, struct err *err)
{
    const struct engine_options *o = &core->options;
    if (request->n_prompt < 1)
        return err_set(err, ERR_REQUEST, "the prompt is empty");
    if (request->max_tokens < 0)
        return err_set(err, ERR_REQUEST, "max_tokens must not be negative");
    if (request->n_prompt > o->ctx || request->max_tokens > o->ctx - request->n_prompt)
        return err_set(err, ERR_CONTEXT,
                       "%d tokens of prompt and %d to generate do not fit the context of %d",
                       request->n_prompt, request->max_tokens, o->ctx);
    if (request->n_seqs > o->max_queue)
        return err_set(err, ERR_REQUEST, "%d sequences in one request, the queue holds %d",
                       request->n_seqs, o->max_queue);
    for (int32_t i = 0; i < request->n_prompt; i++)
        if (request->prompt[i] < 0 || request->prompt[i] >= core->vocab)
            return err_set(err, ERR_REQUEST, "prompt token %d is %d, the vocabulary has %d", i,
                           request->prompt[i], core->vocab);
    if (request->grammar && !o->grammar_vocab)
        return err_set(err, ERR_REQUEST, "grammars need a tokenizer, which this model has not");
    CHECK(request->sampling.n_top <= (request->n_top > 0 ? request->n_top : 0));
    int32_t n_positions = request->n_prompt + request->max_tokens - (request->max_tokens > 0);
    int32_t g, wanted;
    if (!kv_pool_can_hold(&core->pool, n_positions, &g, &wanted))
        return err_set(err, ERR_CONTEXT,
                       "%d tokens of prompt and %d to generate need %d KV pages of group %d, "
                       "there are %d",
                       request->n_prompt, request->max_tokens, wanted, g,
                       core->pool.groups[g].n_pages);
    return true;
}

/* ---- events ---- */

static void touch(struct core *core, struct run *run)
{
    if (run->touched)
        return;
    run->touched = true;
    run->touched_next = core->touched;
    core->touched = run;
}

struct run *core_take_touched(struct core *core)
{
    struct run *list = core->touched;
    core->touched = NULL;
    return list;
}

/* Puts an event into the outbox; `out` gives the log-probabilities that were asked for. */
static void send(struct core *core, struct seq *seq, struct event event,
                 const struct sample_out *out)
{
    struct outbox *outbox = seq->outbox;
    CHECK(spsc_room(&outbox->ring) > 0);
    uint32_t place = spsc_write_at(&outbox->ring);
    const struct request *request = seq->run->request;
    int32_t n_asked = request->sampling.n_top;
    if (out && n_asked >= 0) {
        event.logprob = out->logprob;
        event.n_top = out->n_top < n_asked ? out->n_top : n_asked;
        struct top *tops =
            outbox->tops ? outbox->tops + (size_t)place * (size_t)request->n_top : NULL;
        for (int32_t i = 0; i < event.n_top; i++)
            tops[i] = (struct top){ out->top_tokens[i], out->top_logprobs[i] };
    }
    outbox->events[place] = event;
    spsc_written(&outbox->ring);
    touch(core, seq->run);
}

static void end_seq(struct core *core, struct seq *seq, enum finish finish,
                    const struct sample_out *stop, uint64_t now_ns)
{
    struct event event = { .kind = EVENT_DONE,
                           .finish = finish,
                           .finish_token = stop ? stop->token : -1,
                           .time_ns = now_ns };
    grammar_state_close(seq->grammar);
    seq->grammar = NULL;
    scheduler_drop(&core->scheduler, seq);
    send(core, seq, event, stop);
    seq->run->n_done++;
    core->counts.finished[finish]++;
}

static void end_with_text(struct core *core, struct seq *seq, enum finish finish, const char *text,
                          uint64_t now_ns)
{
    struct request *request = seq->run->request;
    if (text && request->error_text[0] == '\0')
        snprintf(request->error_text, sizeof request->error_text, "%.255s", text);
    end_seq(core, seq, finish, NULL, now_ns);
}

void core_add(struct core *core, struct request *request)
{
    struct run *run = request->engine_private;
    CHECK(run != NULL && run->request == request);
    for (int32_t i = 0; i < request->n_seqs; i++) {
        struct seq *seq = &run->seqs[i];
        struct err err;
        scheduler_add(&core->scheduler, seq);
        if (request->grammar &&
            !grammar_state_open(&seq->grammar, request->grammar, core->options.grammar_vocab, &err))
            end_with_text(core, seq, FINISH_ERROR, err.text, clock_ns());
    }
}

void core_end_all(struct core *core, enum finish finish, const char *text, uint64_t now_ns)
{
    struct scheduler *s = &core->scheduler;
    while (s->n_live > 0)
        end_with_text(core, s->order[s->n_live - 1], finish, text, now_ns);
    while (s->waiting_first)
        end_with_text(core, s->waiting_first, finish, text, now_ns);
}

void core_sweep(struct core *core, uint64_t now_ns)
{
    struct scheduler *s = &core->scheduler;
    uint64_t slow_ns = (uint64_t)core->options.slow_ms_max * 1000000u;
    for (int32_t i = s->n_live - 1; i >= 0; i--) {
        struct seq *seq = s->order[i];
        bool slow = seq->blocked_ns && !seq_has_room(seq) && now_ns - seq->blocked_ns > slow_ns;
        if (slow || seq_is_cancelled(seq))
            end_seq(core, seq, FINISH_CANCELLED, NULL, now_ns);
    }
    for (struct seq *seq = s->waiting_first, *next; seq; seq = next) {
        next = seq->next;
        if (seq_is_cancelled(seq))
            end_seq(core, seq, FINISH_CANCELLED, NULL, now_ns);
    }
}

/* ---- steps ---- */

struct core_step *core_plan(struct core *core, int32_t which, int32_t step_tokens,
                            int32_t chunk_tokens, uint64_t now_ns)
{
    struct core_step *step = &core->steps[which];
    CHECK(step_tokens <= core->options.step_tokens_max);
    if (!scheduler_plan(&core->scheduler, &step->plan, step_tokens, chunk_tokens, now_ns))
        return NULL;
    batch_build_fill(&step->build, &step->plan, &core->scheduler);
    for (int32_t i = 0; i < step->plan.n_items; i++)
        step->plan.items[i].seq->run->n_flying++;
    core->counts.steps++;
    core->counts.rows += (uint64_t)step->plan.n_rows;
    return step;
}

static bool is_stop(const struct core *core, const struct request *request, int32_t token)
{
    for (int32_t i = 0; !request->ignore_eos && i < core->options.n_eos; i++)
        if (token == core->options.eos[i])
            return true;
    for (int32_t i = 0; i < request->n_stop_tokens; i++)
        if (token == request->stop_tokens[i])
            return true;
    return false;
}

void core_fill_masks(struct core *core, struct core_step *step)
{
    struct sample_row *row = step->build.rows;
    step->n_masked = 0;
    for (int32_t i = 0; i < step->plan.n_items; i++) {
        const struct plan_item *item = &step->plan.items[i];
        row += item->n_score;
        if (!item->draws)
            continue;
        struct seq *seq = item->seq;
        if (seq->grammar) {
            uint32_t *mask = step->masks + (size_t)i * (size_t)core->mask_words;
            CHECK(!row->in_flight);
            if (!grammar_mask(seq->grammar, mask)) /* none: then none is drawn */
                memset(mask, 0, (size_t)core->mask_words * sizeof *mask);
            /* No ordinary token stands for the end of a text. */
            for (int32_t k = 0; seq->run->request->ignore_eos && k < core->options.n_eos; k++)
                mask[core->options.eos[k] / 32] &= ~(1u << core->options.eos[k] % 32);
            row->mask = mask;
            step->n_masked++;
        }
        row++;
    }
}

/* Its next token, which was drawn and ends nothing by itself. */
static struct core_end advance(struct seq *seq)
{
    if (seq->grammar) {
        CHECK(grammar_advance(seq->grammar, seq->tokens[seq->n_tokens - 1]));
        if (grammar_complete(seq->grammar))
            return (struct core_end){ .finish = FINISH_STOP };
    }
    return (struct core_end){ .finish = seq->n_tokens == seq->limit ? FINISH_LENGTH : FINISH_NONE };
}

static struct core_end take_token(struct core *core, struct seq *seq, const struct sample_out *out,
                                  uint64_t now_ns)
{
    struct request *request = seq->run->request;
    if (out->token < 0) /* outs_valid: it has a grammar */
        return (struct core_end){ FINISH_ERROR,
                                  "no token is left that the grammar allows, with what logit_bias, "
                                  "bad_words, allowed_token_ids and min_tokens exclude",
                                  NULL };
    core->counts.generated_tokens++; /* drawn: a stop token is one too, as in usage */
    if (is_stop(core, request, out->token))
        return (struct core_end){ FINISH_STOP, NULL, out };
    CHECK(seq->n_tokens < seq->known && seq->known <= seq->limit);
    seq->tokens[seq->n_tokens++] = out->token;
    if (request->first_token_ns == 0)
        request->first_token_ns = now_ns;
    struct event event = {
        .kind = EVENT_TOKEN, .token = out->token, .finish_token = -1, .time_ns = now_ns
    };
    send(core, seq, event, out);
    return advance(seq);
}

static void take_score(struct prompt_logprobs *scores, int32_t target, const struct sample_out *out)
{
    scores->logprobs[target] = out->logprob;
    int32_t n = out->n_top < scores->n_top ? out->n_top : scores->n_top;
    for (int32_t i = 0; scores->tops && i < n; i++)
        scores->tops[(size_t)target * (size_t)scores->n_top + (size_t)i] =
            (struct top){ out->top_tokens[i], out->top_logprobs[i] };
}

/* How much of the prompt the leader has; again from less after a preemption, which is not told. */
static void report_progress(struct core *core, struct seq *seq)
{
    struct request *request = seq->run->request;
    int32_t n = seq->computed < seq->n_prompt ? seq->computed : seq->n_prompt;
    if (!request->wants_progress || seq->index != 0 ||
        n <= atomic_load_explicit(&request->n_computed, memory_order_relaxed))
        return;
    atomic_store_explicit(&request->n_computed, n, memory_order_release);
    touch(core, seq->run);
}

static bool outs_valid(const struct core *core, const struct core_step *step, struct err *err)
{
    for (int32_t i = 0; i < step->plan.n_logit_rows; i++) {
        const int32_t token = step->build.outs[i].token;
        if (token == -1 && step->build.rows[i].mask) /* its grammar's affair: take_token */
            continue;
        if (token < 0 || token >= core->vocab)
            return err_set(err, ERR_DEVICE,
                           "no token could be drawn (got %d): the logits are not finite", token);
    }
    return true;
}

/* The step no longer reads anything of its requests. */
static void land(struct core *core, struct core_step *step)
{
    for (int32_t i = 0; i < step->plan.n_items; i++) {
        struct run *run = step->plan.items[i].seq->run;
        run->n_flying--;
        if (run_is_over(run))
            touch(core, run);
    }
    step->plan.n_items = 0;
}

void core_abandon(struct core *core, struct core_step *step)
{
    land(core, step);
}

/* The step's tokens into their class: what came since the last one. */
static void count_step(struct core *core)
{
    uint64_t all = core->scheduler.counts.prompt_tokens + core->counts.generated_tokens;
    uint64_t tokens = all - core->counts.classed_tokens;
    int32_t i = 0;
    if (tokens == 0)
        return; /* the middle of a long prompt */
    while (i < STEP_EDGES && tokens > (uint64_t)ENGINE_STEP_EDGES[i])
        i++;
    core->counts.step_classes[i]++;
    core->counts.classed_tokens = all;
}

bool core_commit(struct core *core, struct core_step *step, uint64_t now_ns, struct err *err)
{
    if (!outs_valid(core, step, err)) {
        core_abandon(core, step);
        return false;
    }
    struct scheduler *s = &core->scheduler;
    const struct plan *plan = &step->plan;
    const struct sample_out *out = step->build.outs;
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        step->ends[i] = (struct core_end){ .finish = FINISH_NONE };
        if (!scheduler_is_live(s, item)) { /* ended since */
            out += item->n_score + item->draws;
            continue;
        }
        for (int32_t k = 0; k < item->n_score; k++)
            take_score(item->seq->run->request->prompt_logprobs, item->score_from + k, out++);
        if (item->draws)
            step->ends[i] = take_token(core, item->seq, out++, now_ns);
    }
    scheduler_commit(s, plan);
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!scheduler_is_live(s, item))
            continue;
        struct seq *seq = item->seq;
        report_progress(core, seq);
        if (step->ends[i].finish == FINISH_ERROR)
            end_with_text(core, seq, FINISH_ERROR, step->ends[i].text, now_ns);
        else if (step->ends[i].finish != FINISH_NONE)
            end_seq(core, seq, step->ends[i].finish, step->ends[i].out, now_ns);
        else if (seq->limit == seq->n_prompt && seq->computed == seq->end)
            end_seq(core, seq, FINISH_LENGTH, NULL, now_ns); /* max_tokens 0 */
    }
    count_step(core);
    land(core, step);
    return true;
}
