/* test_scheduler.c - the scheduling rule, sentence by sentence. A plan is written as text: "A0+16*"
 * is 16 rows of A from position 0, and * says that the last row draws a token; siblings of A are
 * A.1, A.2; "?3" behind it: three prompt tokens are scored. */
#include "tests/support/support.h"
#include "host/engine/scheduler.h"

enum { CTX = 160, SLOTS = 12, NAMES = 26 };

static struct fixture {
    struct prefix_cache cache;
    struct kv_pool pool;
    struct scheduler s;
    struct plan plans[2];
    struct request *requests[NAMES];
    int32_t step, chunk;
    uint64_t now_ns;
} f;

static void open_fixture(int32_t n_pages, int32_t n_slots, int32_t step, int32_t chunk,
                         int32_t logit_rows)
{
    struct err err;
    memset(&f, 0, sizeof f);
    int32_t windows[1] = { 0 }, pages[1] = { n_pages }, n_seq = kv_pages_for(CTX);
    assert_ok(prefix_cache_init(&f.cache, 1, windows, pages, n_seq, &err), &err);
    assert_ok(kv_pool_init(&f.pool, 1, windows, pages, SLOTS, n_seq, &f.cache, &err), &err);
    assert_ok(scheduler_init(&f.s, &f.pool, &f.cache, n_slots, CTX, logit_rows, &err), &err);
    for (int32_t i = 0; i < 2; i++)
        assert_ok(plan_init(&f.plans[i], SLOTS, &err), &err);
    f.step = step;
    f.chunk = chunk;
    f.now_ns = 1;
}

static struct seq *seq_of(const char *name)
{
    struct run *run = f.requests[name[0] - 'A']->engine_private;
    return &run->seqs[name[1] == '.' ? name[2] - '0' : 0];
}

static void close_fixture(void)
{
    struct err err;
    assert_ok(kv_pool_check(&f.pool, &err), &err);
    for (int32_t i = 0; i < NAMES; i++) {
        struct request *r = f.requests[i];
        struct run *run = r ? r->engine_private : NULL;
        for (int32_t k = 0; r && k < r->n_seqs; k++)
            if (run->seqs[k].state != SEQ_DONE)
                scheduler_drop(&f.s, &run->seqs[k]);
        if (r)
            run_close(r);
        request_close(r);
    }
    assert_int_equal(f.pool.groups[0].n_free, f.pool.groups[0].n_pages);
    assert_int_equal(f.s.n_live + f.s.n_waiting, 0);
    assert_int_equal(f.s.n_free_slots, f.s.n_slots);
    scheduler_clear(&f.s);
    kv_pool_clear(&f.pool);
    prefix_cache_clear(&f.cache);
    for (int32_t i = 0; i < 2; i++)
        plan_clear(&f.plans[i]);
}

/* A request whose prompt begins with `text` (equal texts share pages). */
static struct request *make(char name, int32_t text, int32_t n_prompt, int32_t n_seqs,
                            int32_t max_tokens)
{
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    assert_non_null(prompt);
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = text * 1000 + i;
    struct err err;
    struct request *r;
    assert_ok(request_open(&r, prompt, n_prompt, n_seqs, -1, &err), &err);
    r->max_tokens = max_tokens;
    f.requests[name - 'A'] = r;
    return r;
}

static void add(char name)
{
    struct err err;
    struct request *r = f.requests[name - 'A'];
    assert_ok(run_open(r, NULL, 0, &err), &err);
    struct run *run = r->engine_private;
    for (int32_t i = 0; i < r->n_seqs; i++)
        scheduler_add(&f.s, &run->seqs[i]);
}

static void come(char name, int32_t text, int32_t n_prompt, int32_t max_tokens)
{
    make(name, text, n_prompt, 1, max_tokens);
    add(name);
}

static void plan_is(int32_t which, const char *wanted)
{
    char got[400] = "";
    struct plan *plan = &f.plans[which];
    scheduler_plan(&f.s, plan, f.step, f.chunk, f.now_ns++);
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        size_t at = strlen(got);
        char name = '?', sibling[16] = "";
        for (int32_t k = 0; k < NAMES; k++)
            if (f.requests[k] == item->seq->run->request)
                name = (char)('A' + k);
        if (item->seq->index > 0)
            snprintf(sibling, sizeof sibling, ".%d:", item->seq->index);
        int n = snprintf(got + at, sizeof got - at, "%s%c%s%d+%d%s", at ? " " : "", name, sibling,
                         item->first, item->n_rows, item->draws ? "*" : "");
        if (item->n_score > 0)
            snprintf(got + at + n, sizeof got - at - (size_t)n, "?%d", item->n_score);
    }
    assert_string_equal(got, wanted);
    struct err err;
    assert_ok(kv_pool_check(&f.pool, &err), &err);
}

static void commit(int32_t which)
{
    const struct plan *plan = &f.plans[which];
    for (int32_t i = 0; i < plan->n_items; i++) {
        struct seq *seq = plan->items[i].seq;
        if (!scheduler_is_live(&f.s, &plan->items[i]) || !plan->items[i].draws)
            continue;
        seq->tokens[seq->n_tokens++] = 5;
    }
    scheduler_commit(&f.s, plan);
    struct err err;
    assert_ok(kv_pool_check(&f.pool, &err), &err);
}

static void step_is(const char *wanted)
{
    plan_is(0, wanted);
    commit(0);
}

/* ---- the rule ---- */

static void a_prompt_takes_what_a_step_has_then_one_row_a_step(void **state)
{
    (void)state;
    open_fixture(20, 4, 32, 8, 8);
    come('A', 1, 70, 3);
    step_is("A0+32");
    step_is("A32+32");
    step_is("A64+6*");
    step_is("A70+1*");
    step_is("A71+1*"); /* draws the third; nobody needs its own position */
    step_is("");
    close_fixture();
}

static void streams_go_first_and_bear_a_chunk(void **state)
{
    (void)state;
    open_fixture(40, 6, 32, 8, 8);
    come('A', 1, 10, 50);
    come('B', 2, 10, 50);
    step_is("A0+10* B0+10*");
    come('C', 3, 50, 50);
    come('D', 4, 4, 50);
    step_is("A10+1* B10+1* C0+8");
    step_is("A11+1* B11+1* C8+8"); /* D is behind C, short as it is */
    scheduler_drop(&f.s, seq_of("A"));
    scheduler_drop(&f.s, seq_of("B"));
    step_is("C16+32"); /* nobody streams: the whole step */
    step_is("C48+2* D0+4*");
    step_is("C50+1* D4+1*");
    close_fixture();
}

static void too_many_streams_take_turns_and_leave_a_share(void **state)
{
    (void)state;
    open_fixture(60, 12, 4, 4, 8);
    for (char name = 'A'; name < 'A' + 5; name++)
        come(name, name, 1, 50);
    step_is("A0+1* B0+1* C0+1* D0+1*");
    step_is("A1+1* B1+1* C1+1* E0+1*"); /* one row in eight, at least one, is kept for E */
    step_is("D1+1* A2+1* B2+1* C2+1*"); /* who waited longest, then in order */
    come('F', 9, 3, 50);
    step_is("E1+1* A3+1* B3+1* F0+1");
    step_is("C3+1* D2+1* A4+1* F1+1");
    step_is("B4+1* E2+1* A5+1* C4+1*"); /* F has one token to go now: it takes its turn */
    step_is("D3+1* F2+1* A6+1* B5+1*");
    close_fixture();
}

static void logit_rows_are_a_budget_of_their_own(void **state)
{
    (void)state;
    open_fixture(20, 4, 32, 32, 6);
    struct request *r = make('A', 1, 20, 1, 2);
    r->prompt_logprobs = calloc(1, sizeof *r->prompt_logprobs);
    assert_non_null(r->prompt_logprobs);
    add('A');
    step_is("A0+6?6"); /* each of these rows scores the token behind it */
    come('B', 2, 10, 50);
    step_is("A6+6?6 B0+9"); /* B may compute, but has no logit row left to draw */
    step_is("B9+1* A12+5?5");
    step_is("B10+1* A17+3*?2");
    close_fixture();
}

static void who_wants_scores_publishes_but_looks_nothing_up(void **state)
{
    (void)state;
    open_fixture(20, 4, 64, 64, 64);
    come('A', 1, 40, 1);
    step_is("A0+40*");
    struct request *r = make('B', 1, 40, 2, 2);
    r->prompt_logprobs = calloc(1, sizeof *r->prompt_logprobs);
    assert_non_null(r->prompt_logprobs);
    add('B');
    step_is("B0+40*?39");
    step_is("B40+1* B.1:32+8*"); /* the sibling wants none */
    close_fixture();
}

static void a_known_prompt_is_not_computed_again(void **state)
{
    (void)state;
    open_fixture(20, 4, 64, 64, 8);
    come('A', 1, 40, 1);
    step_is("A0+40*");
    come('B', 1, 40, 1);
    step_is("B32+8*");
    scheduler_drop(&f.s, seq_of("A"));
    scheduler_drop(&f.s, seq_of("B"));
    come('C', 1, 32, 1);
    step_is("C16+16*"); /* a hit on all of it leaves the last page to compute, not shared */
    come('D', 1, 33, 1);
    step_is("D32+1*");
    assert_int_equal(f.requests['D' - 'A']->n_cached, 32);
    assert_true(f.s.counts.prompt_tokens == 40 + 40 + 32 + 33);
    assert_true(f.s.counts.cached_tokens == 32 + 16 + 32);
    make('E', 1, 40, 1, 1)->salt = 99;
    add('E');
    step_is("E0+40*"); /* another tenant */
    close_fixture();
}

static void siblings_wait_for_the_leaders_pages(void **state)
{
    (void)state;
    open_fixture(20, 6, 32, 32, 8);
    make('A', 1, 50, 3, 5);
    add('A');
    come('B', 2, 8, 5);
    step_is("A0+32"); /* B is behind, the siblings wait */
    step_is("A32+18* B0+8*");
    step_is("A50+1* B8+1* A.1:48+2* A.2:48+2*");
    close_fixture();
}

static void siblings_of_a_cancelled_leader_go_alone(void **state)
{
    (void)state;
    open_fixture(20, 6, 32, 32, 8);
    make('A', 1, 50, 2, 5);
    add('A');
    step_is("A0+32");
    scheduler_drop(&f.s, seq_of("A"));
    step_is("A.1:32+18*"); /* with what the leader left */
    close_fixture();
}

static void priority_then_arrival(void **state)
{
    (void)state;
    open_fixture(40, 1, 16, 16, 8);
    come('A', 1, 16, 1);
    step_is("A0+16*");
    make('B', 2, 5, 1, 1)->priority = 1;
    add('B');
    make('C', 3, 5, 1, 1)->priority = 0;
    add('C');
    make('D', 4, 5, 1, 1)->priority = -1;
    add('D');
    make('E', 5, 5, 1, 1)->priority = 0;
    add('E');
    step_is(""); /* one slot, and A has it until it is dropped */
    const char *order[] = { "A", "D", "C", "E", "B" };
    for (int32_t i = 0; i + 1 < 5; i++) {
        scheduler_drop(&f.s, seq_of(order[i]));
        char wanted[16];
        snprintf(wanted, sizeof wanted, "%s0+5*", order[i + 1]);
        step_is(wanted);
    }
    close_fixture();
}

static void steps_until(const char *name, int32_t known)
{
    for (int32_t i = 0; i < 200 && seq_of(name)->known < known; i++) {
        scheduler_plan(&f.s, &f.plans[0], f.step, f.chunk, f.now_ns++);
        commit(0);
    }
    assert_int_equal(seq_of(name)->known, known);
}

static void the_last_is_preempted_and_comes_back(void **state)
{
    (void)state;
    open_fixture(6, 4, 64, 64, 8);
    come('A', 1, 31, 50);
    come('B', 2, 31, 50);
    step_is("A0+31* B0+31*");
    steps_until("A", 48); /* both fill three pages: the pool is full */
    assert_int_equal(f.pool.groups[0].n_free, 0);
    step_is("A47+1* B47+1*");
    step_is("A48+1*"); /* the fourth page is B's third */
    assert_true(f.s.counts.preemptions == 1);
    assert_int_equal(seq_of("B")->computed, 0);
    assert_int_equal(seq_of("B")->known, 49); /* it keeps its tokens, and its slot */
    assert_int_equal(f.s.n_live, 2);
    step_is("A49+1*"); /* two pages are free, B's needs four and one to spare for A */
    scheduler_drop(&f.s, seq_of("A"));
    step_is("B32+17*"); /* two of its three pages were still there */
    close_fixture();
}

static void who_cannot_start_holds_back_who_is_behind(void **state)
{
    (void)state;
    open_fixture(6, 6, 64, 64, 8);
    come('A', 1, 40, 20);
    step_is("A0+40*"); /* three pages */
    come('B', 2, 40, 20);
    come('C', 3, 4, 20);
    step_is("A40+1*"); /* B's three pages are there, but none to spare for A; C must not pass */
    assert_int_equal(f.s.n_waiting, 2);
    scheduler_drop(&f.s, seq_of("A"));
    step_is("B0+40* C0+4*");
    close_fixture();
}

static void write_events(struct seq *seq, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        spsc_written(&seq->outbox->ring);
}
static void read_events(struct seq *seq, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        spsc_read(&seq->outbox->ring);
}

static void a_full_outbox_stops_one_sequence_alone(void **state)
{
    (void)state;
    open_fixture(20, 4, 64, 64, 8);
    come('A', 1, 5, 100);
    come('B', 2, 5, 100);
    step_is("A0+5* B0+5*");
    write_events(seq_of("A"), OUTBOX_EVENTS - 1); /* one place: it is DONE's */
    step_is("B5+1*");
    assert_true(seq_of("A")->blocked_ns > 0);
    read_events(seq_of("A"), 1);
    step_is("A5+1* B6+1*");
    assert_true(seq_of("A")->blocked_ns == 0);
    close_fixture();
}

static void room_is_needed_for_all_that_is_in_flight(void **state)
{
    (void)state;
    open_fixture(20, 4, 64, 64, 8);
    come('A', 1, 5, 100);
    write_events(seq_of("A"), OUTBOX_EVENTS - 2); /* one token and DONE */
    plan_is(0, "A0+5*");
    plan_is(1, ""); /* the first token is in flight: there is no place for a second */
    commit(0);
    plan_is(1, "A5+1*");
    commit(1);
    close_fixture();
}

static void the_slow_are_preempted_first(void **state)
{
    (void)state;
    open_fixture(6, 4, 64, 64, 8);
    come('A', 1, 31, 50); /* first in order, but its reader sleeps */
    come('B', 2, 15, 50);
    come('C', 3, 15, 50);
    step_is("A0+31* B0+15* C0+15*"); /* two pages, one, one */
    write_events(seq_of("A"), OUTBOX_EVENTS);
    step_is("B15+1* C15+1*");
    step_is("B16+1* C16+1*"); /* all six are taken */
    steps_until("C", 33);
    step_is("B32+1* C32+1*"); /* not C, though it is the last */
    assert_int_equal(seq_of("A")->planned, 0);
    assert_true(f.s.counts.preemptions == 1);
    close_fixture();
}

static void commit_may_lag_by_one(void **state)
{
    (void)state;
    open_fixture(20, 4, 64, 64, 8);
    come('A', 1, 20, 50);
    plan_is(0, "A0+20*");
    plan_is(1, "A20+1*"); /* reads the token that step 0 draws */
    assert_int_equal(seq_of("A")->computed, 0);
    assert_int_equal(f.cache.n_named[0], 0); /* nothing is published before commit */
    commit(0);
    assert_int_equal(seq_of("A")->computed, 20);
    assert_int_equal(f.cache.n_named[0], 1);
    plan_is(0, "A21+1*");
    commit(1);
    /* It ends at step 1's token: the row in flight counts for nothing, the pages are free now. */
    scheduler_drop(&f.s, seq_of("A"));
    assert_int_equal(f.pool.groups[0].n_free, 20);
    come('B', 2, 20, 50);
    plan_is(1, "B0+20*"); /* in the same slot, while A's row still runs */
    commit(0);
    assert_int_equal(seq_of("B")->computed, 0);
    commit(1);
    assert_int_equal(seq_of("B")->computed, 20);
    close_fixture();
}

static void a_preempted_sequence_keeps_the_token_in_flight(void **state)
{
    (void)state;
    open_fixture(4, 4, 64, 64, 8);
    come('A', 1, 31, 20);
    come('B', 2, 15, 20);
    step_is("A0+31* B0+15*"); /* two pages and one; one is free */
    plan_is(0, "A31+1* B15+1*");
    plan_is(1, "A32+1*"); /* takes the last page; B's next is not there, and A goes before */
    commit(0);
    plan_is(0, "A33+1*");
    assert_int_equal(seq_of("B")->known, 17);
    assert_int_equal(seq_of("B")->n_tokens, 17);
    assert_int_equal(seq_of("B")->computed, 16); /* it waits with its page */
    commit(1);
    commit(0);
    steps_until("A", 48);
    step_is("A47+1*");
    plan_is(0, "A48+1*"); /* now B's page goes */
    assert_true(f.s.counts.preemptions == 1);
    commit(0);
    close_fixture();
}

static void a_prompt_alone_is_computed_and_draws_nothing(void **state)
{
    (void)state;
    open_fixture(20, 4, 32, 32, 8);
    come('A', 1, 40, 0);
    step_is("A0+32");
    step_is("A32+8");
    step_is("");
    assert_int_equal(seq_of("A")->computed, 40);
    close_fixture();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_takes_what_a_step_has_then_one_row_a_step),
        cmocka_unit_test(streams_go_first_and_bear_a_chunk),
        cmocka_unit_test(too_many_streams_take_turns_and_leave_a_share),
        cmocka_unit_test(logit_rows_are_a_budget_of_their_own),
        cmocka_unit_test(who_wants_scores_publishes_but_looks_nothing_up),
        cmocka_unit_test(a_known_prompt_is_not_computed_again),
        cmocka_unit_test(siblings_wait_for_the_leaders_pages),
        cmocka_unit_test(siblings_of_a_cancelled_leader_go_alone),
        cmocka_unit_test(priority_then_arrival),
        cmocka_unit_test(the_last_is_preempted_and_comes_back),
        cmocka_unit_test(who_cannot_start_holds_back_who_is_behind),
        cmocka_unit_test(a_full_outbox_stops_one_sequence_alone),
        cmocka_unit_test(room_is_needed_for_all_that_is_in_flight),
        cmocka_unit_test(the_slow_are_preempted_first),
        cmocka_unit_test(commit_may_lag_by_one),
        cmocka_unit_test(a_preempted_sequence_keeps_the_token_in_flight),
        cmocka_unit_test(a_prompt_alone_is_computed_and_draws_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
