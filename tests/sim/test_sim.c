/* test_sim.c - the engine's core against a fake device: random requests, virtual time, one thread.
 *
 * A row of the table is a situation; together they serve 100,000 requests (NIBBLE_SIM_REQUESTS
 * changes it; 15 s under ASan on one core). After every step: the pool's invariant, the budgets,
 * the order. At the end of every request: exactly one DONE a sequence, and the one right answer. */
#include "tests/support/support.h"
#include "tests/sim/fake_device.h"
#include "host/base/rng.h"
#include "host/engine/core.h"

enum { CTX = 160, N_FAMILIES = 6, LIVE_MAX = 96, PRIORITIES = 3 };

struct situation {
    const char *name;
    int32_t n_groups, windows[2], n_pages[2];
    int32_t n_slots, step_tokens, chunk_tokens, logit_rows;
    int32_t n_steps; /* 1: commit before the next plan; 2: one step behind */
    bool prefix_cache;
    int32_t prompt_max, output_max, seqs_max; /* of a request */
    int32_t arrive, cancel, slow, dead; /* in a thousand: a tick, a tick, a request, likewise */
    int32_t priorities;
    int32_t rope_border;
};
/* clang-format off */
static const struct situation situations[] = {
    /*                                   groups windows      pages      slots rows chunk logit lag
     *         cache  prompt output seqs  arrive cancel slow dead  priorities border */
    { "roomy, one group",                  1, { 0 },     { 400 },     16, 64, 32, 32, 1,
      true,  100,  30, 1,  300,   0,   0,   0,  1, 0 },
    { "roomy, commit lags",                1, { 0 },     { 400 },     16, 64, 32, 32, 2,
      true,  100,  30, 1,  300,   0,   0,   0,  1, 0 },
    { "tiny pool",                         1, { 0 },     { 10 },       8, 32, 16, 16, 1,
      true,  100,  50, 2,  300,  10,  50,   5,  1, 0 },
    { "tiny pool, commit lags",            1, { 0 },     { 10 },       8, 32, 16, 16, 2,
      true,  100,  50, 2,  300,  10,  50,   5,  1, 0 },
    { "full and window groups",            2, { 0, 24 }, { 60, 24 },   8, 48, 24, 16, 1,
      true,  110,  40, 3,  300,  10,  50,   5,  1, 0 },
    { "full and window groups, lag",       2, { 0, 24 }, { 60, 24 },   8, 48, 24, 16, 2,
      true,  110,  40, 3,  300,  10,  50,   5,  1, 0 },
    { "window of 17, pool of the least",   2, { 0, 17 }, { 10, 2 },    4, 24, 16,  8, 2,
      true,  100,  50, 2,  200,  10,  50,   5,  1, 0 },
    { "window of 16 first, then full",     2, { 16, 0 }, { 12, 30 },   6, 40, 16,  8, 2,
      true,  100,  50, 2,  200,  10,  50,   5,  2, 0 },
    { "window alone",                      1, { 40 },    { 16 },       6, 40, 20,  8, 1,
      true,  100,  50, 2,  200,  10,  50,   5,  1, 0 },
    { "no prefix cache",                   2, { 0, 24 }, { 30, 16 },   8, 48, 24, 16, 2,
      false, 100,  40, 3,  300,  10,  50,   5,  1, 0 },
    { "more streams than rows",            1, { 0 },     { 200 },     24,  6,  3,  4, 1,
      true,   40,  30, 2,  300,   5,  20,   2,  1, 0 },
    { "more streams than rows, lag",       1, { 0 },     { 200 },     24,  6,  3,  4, 2,
      true,   40,  30, 2,  300,   5,  20,   2,  1, 0 },
    { "two rows a step, two logit rows",   1, { 0 },     { 40 },       5,  2,  1,  2, 2,
      true,   30,  12, 2,  150,   5,  20,   2,  1, 0 },
    { "many sequences a request",          1, { 0 },     { 80 },      16, 64, 32, 24, 2,
      true,   90,  20, 9,  120,  10,  50,   5,  1, 0 },
    { "long answers, few pages",           1, { 0 },     { 30 },      12, 48, 24, 16, 2,
      true,   20, 130, 2,  200,   5,  20,   2,  1, 0 },
    { "slow readers everywhere",           2, { 0, 24 }, { 40, 24 },  12, 48, 24, 16, 2,
      true,   80,  60, 2,  300,   5, 600, 150,  1, 0 },
    { "three priorities",                  1, { 0 },     { 24 },       8, 48, 24, 16, 2,
      true,  100,  40, 2,  300,  10,  50,   5,  3, 0 },
    { "cancels like rain",                 2, { 0, 24 }, { 24, 12 },   8, 48, 24, 16, 2,
      true,  100,  50, 3,  400, 400,  50,   5,  2, 0 },
    { "keys change at 48 tokens",          1, { 0 },     { 60 },       8, 48, 24, 16, 1,
      true,   90,  60, 3,  300,  10,  50,   5,  1, 48 },
    { "keys change at 55, lag",            2, { 0, 24 }, { 60, 24 },   8, 48, 24, 16, 2,
      true,   90,  60, 3,  300,  10,  50,   5,  2, 55 },
    { "keys change at 33, tiny pool, lag", 1, { 0 },     { 10 },       8, 32, 16, 16, 2,
      true,   60,  80, 2,  300,  10,  50,   5,  1, 33 },
};
/* clang-format on */

/* What the reader has of a request. */
struct client {
    struct request *request;
    int32_t *got[16]; /* [seq][CTX] */
    int32_t n_got[16], n_done[16];
    enum finish finish[16];
    int32_t finish_token[16];
    int32_t read_chance; /* in a thousand, a tick: 1000 always */
    bool was_cancelled;
};
struct sim {
    const struct situation *at;
    uint64_t seed, counter, hash;
    struct core core;
    struct fake_device device;
    int32_t families[N_FAMILIES][CTX];
    struct client clients[LIVE_MAX];
    int32_t n_live, n_made, n_ended, n_requests;
    uint64_t now_ns, next_id;
    uint64_t last_started[PRIORITIES]; /* serials of leaders */
    uint64_t salts[CORE_STEPS_MAX][64];
    /* What was true before the plan. */
    struct seq_before_plan {
        uint64_t serial;
        uint32_t epoch;
        int32_t to_go;
        bool running, planned, crosses; /* crosses: it will start again with other keys */
    } before[64];
    struct core_step *pending;
    int64_t n_ticks, n_cancelled, n_slow_cut;
};

static uint32_t below(struct sim *sim, uint32_t n)
{
    return rng_philox(sim->seed, 1, sim->counter++).v[0] % n;
}
static bool chance(struct sim *sim, int32_t thousandths)
{
    return (int32_t)below(sim, 1000) < thousandths;
}
static void note(struct sim *sim, uint64_t value)
{
    sim->hash = fake_mix(sim->hash, value);
}

/* ---- clients ---- */

static struct request *make_request(struct sim *sim)
{
    const struct situation *at = sim->at;
    int32_t n_prompt = 1 + (int32_t)below(sim, (uint32_t)at->prompt_max);
    int32_t n_tail = (int32_t)below(sim, 6);
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    assert_non_null(prompt);
    memcpy(prompt, sim->families[below(sim, N_FAMILIES)], (size_t)n_prompt * sizeof *prompt);
    for (int32_t i = n_prompt > n_tail ? n_prompt - n_tail : 0; i < n_prompt; i++)
        prompt[i] = (int32_t)below(sim, FAKE_VOCAB);
    int32_t k = chance(sim, 300) ? 1 + (int32_t)below(sim, (uint32_t)at->seqs_max) : 1;
    int32_t n_top = (int32_t)below(sim, 4) - 1;
    struct request *r;
    struct err err;
    assert_ok(request_open(&r, prompt, n_prompt, k, n_top, &err), &err);
    r->max_tokens = (int32_t)below(sim, (uint32_t)at->output_max + 1);
    r->min_tokens = chance(sim, 200) ? (int32_t)below(sim, 8) : 0;
    r->ignore_eos = chance(sim, 200);
    if (chance(sim, 200)) {
        r->n_stop_tokens = 2;
        r->stop_tokens = malloc(2 * sizeof(int32_t));
        assert_non_null(r->stop_tokens);
        r->stop_tokens[0] = (int32_t)below(sim, FAKE_VOCAB);
        r->stop_tokens[1] = (int32_t)below(sim, FAKE_VOCAB);
    }
    if (chance(sim, 100)) {
        int32_t n = (int32_t)below(sim, 3);
        r->prompt_logprobs = calloc(1, sizeof *r->prompt_logprobs);
        assert_non_null(r->prompt_logprobs);
        r->prompt_logprobs->n_top = n;
        r->prompt_logprobs->logprobs = calloc((size_t)n_prompt, sizeof(float));
        r->prompt_logprobs->tops = calloc((size_t)(n_prompt * (n + 1)), sizeof(struct top));
        assert_non_null(r->prompt_logprobs->logprobs);
        assert_non_null(r->prompt_logprobs->tops);
    }
    r->sampling.seed = below(sim, 1000);
    r->salt = below(sim, 4) == 0;
    r->priority = (int32_t)below(sim, (uint32_t)at->priorities);
    r->id = sim->next_id++;
    return r;
}

static void arrive(struct sim *sim)
{
    if (sim->n_live == LIVE_MAX || sim->n_made == sim->n_requests)
        return;
    struct client *c = &sim->clients[sim->n_live++];
    *c = (struct client){ .request = make_request(sim), .read_chance = 1000 };
    sim->n_made++;
    if (chance(sim, sim->at->slow))
        c->read_chance = 3 + (int32_t)below(sim, 60);
    if (chance(sim, sim->at->dead))
        c->read_chance = 0;
    for (int32_t i = 0; i < c->request->n_seqs; i++) {
        c->got[i] = malloc(CTX * sizeof(int32_t));
        assert_non_null(c->got[i]);
    }
    struct err err;
    assert_ok(core_accepts(&sim->core, c->request, &err), &err);
    int32_t eos = FAKE_EOS;
    assert_ok(run_open(c->request, &eos, 1, &err), &err);
    core_add(&sim->core, c->request);
}

static void read_events(struct sim *sim, struct client *c, int32_t seq, int32_t n_max)
{
    struct outbox *outbox = &c->request->outboxes[seq];
    for (; n_max > 0 && spsc_ready(&outbox->ring) > 0; n_max--) {
        uint32_t place = spsc_read_at(&outbox->ring);
        struct event event = outbox->events[place];
        assert_int_equal(c->n_done[seq], 0); /* nothing follows a DONE */
        if (c->request->sampling.n_top >= 0 &&
            (event.kind == EVENT_TOKEN || event.finish == FINISH_STOP)) {
            assert_int_equal(event.n_top, c->request->sampling.n_top);
            int32_t token = event.kind == EVENT_TOKEN ? event.token : event.finish_token;
            if (event.n_top > 0) {
                const struct top *tops = outbox->tops + place * (uint32_t)event.n_top;
                assert_int_equal(tops[0].token, token);
                assert_true(tops[0].logprob == event.logprob);
            }
        }
        if (event.kind == EVENT_TOKEN) {
            assert_true(c->n_got[seq] < CTX);
            c->got[seq][c->n_got[seq]++] = event.token;
            note(sim, (uint64_t)event.token);
        } else {
            c->n_done[seq]++;
            c->finish[seq] = event.finish;
            c->finish_token[seq] = event.finish_token;
            note(sim, 1000 + (uint64_t)event.finish);
        }
        spsc_read(&outbox->ring);
    }
}

static void check_scores(const struct sim *sim, const struct request *r)
{
    const int32_t border = sim->at->rope_border;
    uint64_t hash = fake_root(r->salt, border > 0 && r->n_prompt > border);
    for (int32_t i = 1; i < r->n_prompt; i++) {
        hash = fake_mix(hash, (uint64_t)r->prompt[i - 1]);
        float wanted = fake_logprob(hash, r->prompt[i]);
        if (r->prompt_logprobs->logprobs[i] != wanted)
            fail_msg("request %llu: log-probability of prompt token %d is %g, not %g",
                     (unsigned long long)r->id, i, (double)r->prompt_logprobs->logprobs[i],
                     (double)wanted);
        if (r->prompt_logprobs->n_top > 0)
            assert_int_equal(r->prompt_logprobs->tops[i * r->prompt_logprobs->n_top].token,
                             r->prompt[i]);
    }
}

/* The request is back: everything about it must be right. */
static void end_client(struct sim *sim, struct client *c)
{
    struct request *r = c->request;
    bool whole = true;
    for (int32_t i = 0; i < r->n_seqs; i++) {
        read_events(sim, c, i, INT32_MAX);
        assert_int_equal(c->n_done[i], 1);
        int32_t wanted[CTX], finish_token;
        enum finish finish;
        int32_t n = fake_answer(r, i, sim->at->rope_border, wanted, &finish, &finish_token);
        if (c->finish[i] == FINISH_CANCELLED) {
            assert_true(c->was_cancelled || c->read_chance < 1000);
            sim->n_slow_cut += !c->was_cancelled;
            whole = false;
        } else {
            assert_int_equal(c->finish[i], finish);
            assert_int_equal(c->finish_token[i], finish_token);
            assert_int_equal(c->n_got[i], n);
        }
        assert_true(c->n_got[i] <= n);
        assert_memory_equal(c->got[i], wanted, (size_t)c->n_got[i] * sizeof *wanted);
        free(c->got[i]);
    }
    if (r->prompt_logprobs && whole)
        check_scores(sim, r);
    sim->n_cancelled += c->was_cancelled;
    run_close(r);
    request_close(r);
    *c = sim->clients[--sim->n_live];
    sim->n_ended++;
}

static void clients_act(struct sim *sim)
{
    for (int32_t i = 0; i < sim->n_live; i++) {
        struct client *c = &sim->clients[i];
        for (int32_t seq = 0; seq < c->request->n_seqs; seq++)
            if (c->read_chance == 1000)
                read_events(sim, c, seq, INT32_MAX);
            else if (chance(sim, c->read_chance))
                read_events(sim, c, seq, 1 + (int32_t)below(sim, 20));
    }
    if (sim->n_live > 0 && chance(sim, sim->at->cancel)) {
        struct client *c = &sim->clients[below(sim, (uint32_t)sim->n_live)];
        c->was_cancelled = true;
        if (chance(sim, 500))
            atomic_store(&c->request->cancelled, true);
        else
            atomic_store(&c->request->seq_cancelled[below(sim, (uint32_t)c->request->n_seqs)],
                         true);
    }
}

static void collect_done(struct sim *sim)
{
    for (struct run *run = core_take_touched(&sim->core), *next; run; run = next) {
        next = run->touched_next;
        run->touched = false;
        run->done = run_is_over(run);
    }
    for (int32_t i = sim->n_live - 1; i >= 0; i--)
        if (((struct run *)sim->clients[i].request->engine_private)->done)
            end_client(sim, &sim->clients[i]);
}

/* ---- what a plan must be ---- */

static bool crosses(const struct sim *sim, const struct seq *seq)
{
    const int32_t border = sim->at->rope_border;
    return border > 0 && seq->known > border && seq->kind.rope_variant == 0 && seq->planned > 0;
}

static void before_plan(struct sim *sim)
{
    const struct scheduler *s = &sim->core.scheduler;
    memset(sim->before, 0, sizeof sim->before);
    for (int32_t i = 0; i < s->n_live; i++) {
        const struct seq *seq = s->order[i];
        sim->before[seq->slot] =
            (struct seq_before_plan){ seq->serial,      seq->epoch, seq_to_go(seq),
                                      seq->planned > 0, false,      crosses(sim, seq) };
    }
}

/* Leaders of one priority start in the order in which they came. */
static void check_start(struct sim *sim, const struct seq *seq)
{
    if (seq->index != 0 || seq->epoch != 0 || sim->before[seq->slot].serial == seq->serial)
        return;
    assert_true(seq->serial > sim->last_started[seq->priority]);
    sim->last_started[seq->priority] = seq->serial;
}

static void check_plan(struct sim *sim, const struct plan *plan)
{
    const struct situation *at = sim->at;
    const struct scheduler *s = &sim->core.scheduler;
    int32_t n_rows = 0, n_logit_rows = 0, n_ones = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        struct seq_before_plan *before = &sim->before[item->slot];
        assert_true(scheduler_is_live(s, item));
        bool known = before->serial == item->serial;
        assert_false(known && before->planned); /* once a plan */
        assert_true(item->n_rows >= 1);
        assert_true((int32_t)spsc_room(&item->seq->outbox->ring) >
                    item->seq->known - item->seq->n_tokens);
        check_start(sim, item->seq);
        assert_true(item->seq->index == 0 || item->seq->run->seqs[0].prompt_computed);
        if (!known)
            *before = (struct seq_before_plan){ .serial = item->serial };
        n_ones += known && before->running && before->to_go == 1 && !before->crosses;
        before->planned = true;
        n_rows += item->n_rows;
        n_logit_rows += item->n_score + item->draws;
        note(sim,
             (uint64_t)item->slot << 40 | (uint64_t)item->first << 20 | (uint64_t)item->n_rows);
    }
    assert_int_equal(n_rows, plan->n_rows);
    assert_int_equal(n_logit_rows, plan->n_logit_rows);
    assert_int_equal(n_ones, plan->n_ones);
    assert_true(n_rows <= at->step_tokens && n_logit_rows <= at->logit_rows);
    if (n_ones > 0) /* a stream never waits for more than a chunk of others */
        assert_true(n_rows - n_ones <= at->chunk_tokens);
}

/* Who has one token to go goes first, and the first in order goes in any case. */
static void check_order(struct sim *sim, const struct plan *plan)
{
    const struct situation *at = sim->at;
    const struct scheduler *s = &sim->core.scheduler;
    bool crowded = s->n_live > at->step_tokens / 2 || s->n_live > at->logit_rows / 2;
    bool first = true;
    for (int32_t i = 0; i < s->n_live; i++) {
        const struct seq *seq = s->order[i];
        const struct seq_before_plan *before = &sim->before[seq->slot];
        if (before->serial == seq->serial && before->planned)
            first = false;
        if (before->serial != seq->serial || !before->running || before->to_go == 0 ||
            seq->blocked_ns || before->planned || before->crosses)
            continue;
        if (crowded) /* taking turns: but nobody is left out for long */
            assert_true(plan->serial - seq->last_plan < 400);
        else if (first && !sim->pending)
            fail_msg("%s: the first in order was not planned", at->name);
        else if (before->to_go == 1 && seq->epoch == before->epoch)
            assert_true(kv_pool_reach(&sim->core.pool, seq->slot) <= seq->planned);
    }
}

/* Nothing planned and nothing in flight: then every running sequence waits for its reader. */
static void check_stall(struct sim *sim)
{
    const struct scheduler *s = &sim->core.scheduler;
    bool blocked = false;
    for (int32_t i = 0; i < s->n_live; i++) {
        blocked |= s->order[i]->blocked_ns > 0;
        assert_true(s->order[i]->blocked_ns > 0 || s->order[i]->planned == 0);
    }
    assert_true(blocked || (s->n_live == 0 && s->n_waiting == 0));
}

/* ---- the run ---- */

static void run_pending(struct sim *sim)
{
    struct core_step *step = sim->pending;
    sim->pending = NULL;
    struct err err;
    sim->device.salts = sim->salts[step - sim->core.steps];
    assert_ok(fake_step(&sim->device, &step->build.batch, step->build.rows, step->plan.n_logit_rows,
                        step->build.outs, NULL, &err),
              &err);
    assert_ok(core_commit(&sim->core, step, sim->now_ns, &err), &err);
    assert_ok(kv_pool_check(&sim->core.pool, &err), &err);
}

static void tick(struct sim *sim)
{
    const struct situation *at = sim->at;
    struct err err;
    sim->n_ticks++;
    while (chance(sim, at->arrive) && sim->n_live < LIVE_MAX && sim->n_made < sim->n_requests)
        arrive(sim);
    clients_act(sim);
    core_sweep(&sim->core, sim->now_ns);
    before_plan(sim);
    int32_t which = sim->pending == &sim->core.steps[0];
    if (at->n_steps == 1)
        which = 0;
    struct core_step *step =
        core_plan(&sim->core, which, at->step_tokens, at->chunk_tokens, sim->now_ns);
    assert_ok(kv_pool_check(&sim->core.pool, &err), &err);
    if (step) {
        check_plan(sim, &step->plan);
        check_order(sim, &step->plan);
        for (int32_t i = 0; i < step->plan.n_items; i++)
            sim->salts[which][i] = step->plan.items[i].seq->kind.salt;
        sim->now_ns += 100000u * (uint64_t)step->plan.n_rows;
    } else if (!sim->pending) {
        check_stall(sim);
    }
    sim->now_ns += 1000000;
    if (sim->pending)
        run_pending(sim);
    sim->pending = step;
    if (at->n_steps == 1 && sim->pending)
        run_pending(sim);
    collect_done(sim);
}

static uint64_t run(const struct situation *at, uint64_t seed, int32_t n_requests, bool print)
{
    struct sim *sim = calloc(1, sizeof *sim);
    assert_non_null(sim);
    sim->at = at;
    sim->seed = seed;
    sim->n_requests = n_requests;
    sim->now_ns = 1;
    for (int32_t f = 0; f < N_FAMILIES; f++)
        for (int32_t i = 0; i < CTX; i++) /* families share their beginnings by halves */
            sim->families[f][i] = f > 0 && i < 32 * (f % 3) ? sim->families[f - 1][i]
                                                            : (int32_t)below(sim, FAKE_VOCAB);
    fake_device_init(&sim->device, at->n_groups, at->windows, at->n_pages, at->n_slots);
    sim->device.rope_border = at->rope_border;
    struct engine_device device = fake_engine_device(&sim->device);
    int32_t eos = FAKE_EOS;
    struct engine_options options = { .ctx = CTX,
                                      .max_seqs = at->n_slots,
                                      .max_queue = LIVE_MAX * 16,
                                      .step_tokens_max = at->step_tokens,
                                      .logit_rows_max = at->logit_rows,
                                      .slow_ms_max = 3000,
                                      .prefix_cache = at->prefix_cache,
                                      .eos = &eos,
                                      .n_eos = 1 };
    struct err err;
    assert_ok(core_open(&sim->core, &device, &options, at->n_steps, &err), &err);
    while (sim->n_ended < n_requests) {
        tick(sim);
        assert_true(sim->n_ticks < 2000 * (int64_t)n_requests + 100000); /* somebody starves */
    }
    if (sim->pending)
        run_pending(sim);
    assert_true(core_is_empty(&sim->core));
    for (int32_t g = 0; g < at->n_groups; g++)
        assert_int_equal(sim->core.pool.groups[g].n_free, at->n_pages[g]);
    const struct scheduler_counts *counts = &sim->core.scheduler.counts;
    if (print)
        printf("  %-34s %6d requests %8lld steps %9llu rows %7llu preempted %6lld cancelled "
               "%5lld cut  hits %2.0f %%\n",
               at->name, n_requests, (long long)sim->core.counts.steps,
               (unsigned long long)sim->core.counts.rows, (unsigned long long)counts->preemptions,
               (long long)sim->n_cancelled, (long long)sim->n_slow_cut,
               counts->prefix_queries
                   ? 100.0 * (double)counts->prefix_hits / (double)counts->prefix_queries
                   : 0.0);
    if (at->prefix_cache && n_requests >= 300)
        assert_true(counts->prefix_hits > 0);
    uint64_t hash = sim->hash;
    core_close(&sim->core);
    fake_device_clear(&sim->device);
    free(sim);
    return hash;
}

enum { N_SITUATIONS = sizeof situations / sizeof *situations };

static void every_situation_is_served(void **state)
{
    (void)state;
    int32_t total = 100000;
    const char *asked = getenv("NIBBLE_SIM_REQUESTS");
    if (asked)
        total = atoi(asked);
    printf("%d requests (NIBBLE_SIM_REQUESTS changes it)\n", total);
    for (int32_t i = 0; i < N_SITUATIONS; i++)
        run(&situations[i], 1000 + (uint64_t)i, total / N_SITUATIONS + 1, true);
}

static void same_seed_same_run(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_SITUATIONS; i++) {
        uint64_t first = run(&situations[i], 7, 150, false);
        if (run(&situations[i], 7, 150, false) != first)
            fail_msg("%s: another run with the same seed", situations[i].name);
        assert_true(run(&situations[i], 8, 150, false) != first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_run),
        cmocka_unit_test(every_situation_is_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
