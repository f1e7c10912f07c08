/* test_engine.c - the engine with its thread, on the fake device: submitters, a reader, a canceller
 * at once (TSan), cancellation at every phase, faults at every step, stopping while busy. All of it
 * with a device that does one step at a time, with one that has the next step before it begins with
 * the last, and with one of which every third step is over when it was launched. */
#include "tests/support/support.h"
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/log.h"
#include "host/base/rng.h"
#include "tests/sim/fake_device.h"

enum { CTX = 160, SEQS_MAX = 8, TICKETS_MAX = 1024, WAIT_MS = 20000 };

static const struct mode {
    const char *name;
    int32_t depth;      /* steps at once */
    int64_t over_every; /* fake_device.h */
} modes[] = { { "one step at a time", 1, 0 },
              { "overlap", 2, 0 },
              { "overlap, now and then", 2, 3 } };
static const struct mode *mode;

/* What the reader knows of a request; request->owner. */
struct ticket {
    struct request *request; /* NULL: not submitted, or back; under the harness' lock */
    int32_t got[4][CTX], n_got[4], n_done[4];
    enum finish finish[4];
    bool may_be_cancelled, may_fail;
    char error_text[256];
};
struct harness {
    struct fake_device device;
    struct engine *engine;
    pthread_t reader;
    pthread_mutex_t lock;
    struct ticket tickets[TICKETS_MAX];
    _Atomic int32_t n_tickets, n_returned;
    _Atomic bool closing;
    _Atomic bool hold_reader;  /* the reader drains nothing */
    _Atomic bool gated;        /* the device waits for `gate` in every step */
    _Atomic int32_t n_entered; /* steps that the device was asked for */
    sem_t gate;
};

static void sleep_ms(int32_t ms)
{
    struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };
    nanosleep(&time, NULL);
}

static void on_step(struct fake_device *device, const struct batch *batch)
{
    (void)batch;
    struct harness *h = device->context;
    atomic_fetch_add(&h->n_entered, 1);
    if (atomic_load(&h->gated))
        sem_wait(&h->gate);
}

/* ---- the reader ---- */

static void drain(struct ticket *t, struct request *r)
{
    for (int32_t i = 0; i < r->n_seqs; i++) {
        struct outbox *outbox = &r->outboxes[i];
        while (spsc_ready(&outbox->ring) > 0) {
            struct event event = outbox->events[spsc_read_at(&outbox->ring)];
            spsc_read(&outbox->ring);
            CHECK(t->n_done[i] == 0);
            if (event.kind == EVENT_TOKEN) {
                CHECK(r->first_token_ns > 0 && r->first_plan_ns > 0);
                t->got[i][t->n_got[i]++] = event.token;
            } else {
                t->n_done[i]++;
                t->finish[i] = event.finish;
            }
        }
    }
}

static void check_answer(struct ticket *t, struct request *r)
{
    for (int32_t i = 0; i < r->n_seqs; i++) {
        int32_t wanted[CTX], finish_token;
        enum finish finish;
        int32_t n = fake_answer(r, i, 0, wanted, &finish, &finish_token);
        CHECK(t->n_done[i] == 1);
        CHECK(t->n_got[i] <= n);
        CHECK(!memcmp(t->got[i], wanted, (size_t)t->n_got[i] * sizeof *wanted));
        if (t->finish[i] == FINISH_CANCELLED)
            CHECK(t->may_be_cancelled);
        else if (t->finish[i] == FINISH_ERROR)
            CHECK(t->may_fail && r->error_text[0]);
        else
            CHECK(t->finish[i] == finish && t->n_got[i] == n);
    }
}

static void *reader_main(void *arg)
{
    struct harness *h = arg;
    int fd = engine_news_fd(h->engine);
    while (true) {
        struct pollfd poller = { .fd = fd, .events = POLLIN };
        poll(&poller, 1, 5);
        if (atomic_load(&h->hold_reader))
            continue;
        bool closing = atomic_load(&h->closing); /* read before the last look */
        uint64_t n;
        ssize_t got = read(fd, &n, sizeof n);
        (void)got;
        for (struct request *r; (r = engine_take_news(h->engine)) != NULL;) {
            struct ticket *t = r->owner;
            drain(t, r);
            if (!atomic_load(&r->returned))
                continue;
            check_answer(t, r);
            memcpy(t->error_text, r->error_text, sizeof t->error_text);
            pthread_mutex_lock(&h->lock);
            t->request = NULL;
            pthread_mutex_unlock(&h->lock);
            request_close(r);
            atomic_fetch_add(&h->n_returned, 1);
        }
        if (closing)
            return NULL;
    }
}

/* ---- set up ---- */

static const struct engine_options usual = { .ctx = CTX,
                                             .max_seqs = SEQS_MAX,
                                             .max_queue = 512,
                                             .step_tokens_max = 64,
                                             .logit_rows_max = 16,
                                             .slow_ms_max = 30000,
                                             .prefix_cache = true,
                                             .eos = (const int32_t[]){ FAKE_EOS },
                                             .n_eos = 1 };

static struct harness *harness_open(int32_t n_pages)
{
    struct harness *h = calloc(1, sizeof *h);
    assert_non_null(h);
    fake_device_init(&h->device, 2, (int32_t[]){ 0, 24 }, (int32_t[]){ n_pages, n_pages },
                     SEQS_MAX);
    h->device.on_step = on_step;
    h->device.context = h;
    pthread_mutex_init(&h->lock, NULL);
    sem_init(&h->gate, 0, 0);
    return h;
}

static void harness_start(struct harness *h, const struct engine_options *options)
{
    struct engine_options all = *options;
    all.overlap = mode->depth == 2;
    h->device.depth = mode->depth;
    h->device.over_every = h->gated ? 0 : mode->over_every; /* who has the gate counts steps */
    struct engine_device device = fake_engine_device(&h->device);
    struct err err;
    assert_ok(engine_open(&h->engine, &device, &all, &err), &err);
    assert_int_equal(pthread_create(&h->reader, NULL, reader_main, h), 0);
}

static void wait_for(const _Atomic int32_t *count, int32_t n)
{
    uint64_t until = clock_ms() + WAIT_MS;
    while (atomic_load(count) < n && clock_ms() < until)
        sleep_ms(1);
    assert_true(atomic_load(count) >= n);
}

static void harness_close(struct harness *h)
{
    engine_stop(h->engine);
    atomic_store(&h->hold_reader, false);
    wait_for(&h->n_returned, atomic_load(&h->n_tickets));
    atomic_store(&h->closing, true);
    pthread_join(h->reader, NULL);
    struct engine_stats stats;
    engine_stats_read(h->engine, &stats);
    assert_int_equal(stats.running + stats.waiting, 0);
    for (int32_t g = 0; g < 2; g++)
        assert_int_equal(stats.pages_free[g], stats.pages_total[g]);
    assert_int_equal(atomic_load(&h->n_returned), atomic_load(&h->n_tickets));
    engine_close(h->engine);
    fake_device_clear(&h->device);
    sem_destroy(&h->gate);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static struct request *new_request(int32_t n_prompt, int32_t first, int32_t n_seqs,
                                   int32_t max_tokens)
{
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    CHECK(prompt);
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = (first + i * 7) % FAKE_VOCAB;
    struct request *r;
    struct err err;
    CHECK(request_open(&r, prompt, n_prompt, n_seqs, -1, &err));
    r->max_tokens = max_tokens;
    r->ignore_eos = true;
    return r;
}

/* The ticket, or NULL with err when the engine refused (the request is closed then). */
static struct ticket *submit(struct harness *h, struct request *r, bool may_be_cancelled,
                             bool may_fail, struct err *err)
{
    pthread_mutex_lock(&h->lock);
    int32_t at = atomic_load(&h->n_tickets);
    CHECK(at < TICKETS_MAX);
    struct ticket *t = &h->tickets[at];
    *t = (struct ticket){ .may_be_cancelled = may_be_cancelled, .may_fail = may_fail };
    r->owner = t;
    bool ok = engine_submit(h->engine, r, err);
    if (ok) { /* it cannot be gone: the reader needs the lock for that */
        t->request = r;
        atomic_fetch_add(&h->n_tickets, 1);
    }
    pthread_mutex_unlock(&h->lock);
    if (!ok)
        request_close(r);
    return ok ? t : NULL;
}

static void cancel(struct harness *h, struct ticket *t)
{
    pthread_mutex_lock(&h->lock);
    if (t->request)
        atomic_store(&t->request->cancelled, true);
    pthread_mutex_unlock(&h->lock);
    engine_wake(h->engine);
}

/* ---- the tests ---- */

struct submitter {
    struct harness *h;
    uint64_t seed;
    int32_t n;
};
static void *submitter_main(void *arg)
{
    struct submitter *s = arg;
    for (int32_t i = 0; i < s->n; i++) {
        struct rng4 random = rng_philox(s->seed, 0, (uint64_t)i);
        struct request *r =
            new_request(1 + (int32_t)(random.v[0] % 90), (int32_t)(random.v[1] % 3),
                        1 + (int32_t)(random.v[2] % 3), (int32_t)(random.v[3] % 60));
        r->sampling.seed = random.v[0];
        r->ignore_eos = random.v[1] & 1;
        struct err err;
        while (!submit(s->h, r, true, false, &err)) {
            CHECK(err.code == ERR_FULL);
            r = new_request(5, 0, 1, 3);
            sleep_ms(1);
        }
    }
    return NULL;
}

static void many_threads_get_right_answers(void **state)
{
    (void)state;
    struct engine_options options = usual;
    options.max_queue = 40;
    struct harness *h = harness_open(24);
    harness_start(h, &options);
    pthread_t threads[4];
    struct submitter submitters[4];
    for (int32_t i = 0; i < 4; i++) {
        submitters[i] = (struct submitter){ h, (uint64_t)i + 1, 150 };
        assert_int_equal(pthread_create(&threads[i], NULL, submitter_main, &submitters[i]), 0);
    }
    for (int32_t i = 0; i < 400; i++) { /* the canceller, and an observer */
        int32_t n = atomic_load(&h->n_tickets);
        if (n > 0 && i % 4 == 0)
            cancel(h, &h->tickets[rng_philox(9, 0, (uint64_t)i).v[0] % (uint32_t)n]);
        struct engine_stats stats;
        engine_stats_read(h->engine, &stats);
        assert_true(stats.kv_usage >= 0 && stats.kv_usage <= 1);
        assert_true(engine_stalled_ms(h->engine) < WAIT_MS);
        sleep_ms(1);
    }
    for (int32_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    wait_for(&h->n_returned, 600);
    struct engine_stats stats;
    engine_stats_read(h->engine, &stats);
    assert_true(stats.finished[FINISH_STOP] > 0 && stats.finished[FINISH_LENGTH] > 0);
    assert_true(stats.prefix_hits > 0 && stats.generated_tokens > 0);
    engine_stop(h->engine);
    assert_true((h->device.n_ahead > 0) == (mode->depth == 2));
    assert_int_equal(h->device.n_flights, 0); /* the engine waited for what it launched */
    harness_close(h);
}

/* Lets the device do n steps, and waits until it stands in the next. */
static void let_steps(struct harness *h, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t entered = atomic_load(&h->n_entered);
        sem_post(&h->gate);
        wait_for(&h->n_entered, entered + 1);
    }
}

static void open_gate(struct harness *h)
{
    atomic_store(&h->gated, false);
    sem_post(&h->gate);
}

static void cancelled_pages_are_free_within_a_step(void **state)
{
    (void)state;
    static const struct {
        const char *phase;
        int32_t steps_before; /* of the victim, a prompt of 100 and 40 to generate */
        int32_t max_seqs;
        bool is_running; /* holds pages when it is cancelled */
    } rows[] = {
        { "queued behind a full house", 1, 1, false },
        { "in its first chunk", 0, 2, true },
        { "in the middle of its prompt", 3, 2, true },
        { "decoding", 20, 2, true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct engine_options options = usual;
        options.max_seqs = rows[i].max_seqs;
        options.step_tokens = 16;
        struct harness *h = harness_open(30);
        atomic_store(&h->gated, true);
        harness_start(h, &options);
        struct err err;
        /* One that stays, so that steps go on. */
        struct ticket *other = submit(h, new_request(3, 1, 1, 120), true, false, &err);
        assert_non_null(other);
        wait_for(&h->n_entered, 1);
        let_steps(h, 2);
        struct engine_stats alone, with, after;
        engine_stats_read(h->engine, &alone);
        struct ticket *victim = submit(h, new_request(100, 2, 1, 40), true, false, &err);
        assert_non_null(victim);
        let_steps(h, 1 + rows[i].steps_before);
        engine_stats_read(h->engine, &with);
        assert_int_equal(with.running, rows[i].is_running ? 2 : 1);
        if (rows[i].is_running)
            assert_true(with.pages_free[0] < alone.pages_free[0]);
        cancel(h, victim);
        let_steps(h, 1); /* the step in flight ends, the next is planned without it */
        engine_stats_read(h->engine, &after);
        assert_int_equal(after.running, 1);
        assert_int_equal(after.waiting, 0);
        int32_t others = kv_pages_for(3 + 4 + rows[i].steps_before + 1 + mode->depth);
        assert_true(after.pages_free[0] >= after.pages_total[0] - others);
        if (mode->depth == 2) /* it is its owner's when the step that it flies in is over */
            let_steps(h, 1);
        wait_for(&h->n_returned, 1);
        assert_int_equal(victim->finish[0], FINISH_CANCELLED);
        open_gate(h);
        cancel(h, other);
        harness_close(h);
    }
}

static void a_fault_ends_everything(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 24; n++) {
        for (int32_t by_token = 0; by_token < 2; by_token++) {
            struct harness *h = harness_open(24);
            h->device.fail_at = n;
            h->device.fail_by_token = by_token;
            harness_start(h, &usual);
            struct err err = { 0 };
            for (int32_t i = 0; i < 14; i++) {
                struct ticket *t =
                    submit(h, new_request(20 + i * 5, i, 1 + i % 3, 30), false, true, &err);
                if (!t)
                    assert_int_equal(err.code, ERR_UNAVAILABLE);
            }
            wait_for(&h->n_returned, atomic_load(&h->n_tickets));
            struct engine_stats stats;
            engine_stats_read(h->engine, &stats);
            assert_true(stats.device_lost);
            assert_non_null(strstr(stats.device_error, by_token ? "not finite" : "fault at step"));
            assert_true(stats.finished[FINISH_ERROR] > 0);
            assert_null(submit(h, new_request(3, 0, 1, 3), false, false, &err));
            assert_int_equal(err.code, ERR_UNAVAILABLE);
            harness_close(h);
        }
    }
}

static void stopping_while_busy_returns_everything(void **state)
{
    (void)state;
    for (int32_t wait = 0; wait < 12; wait++) {
        struct harness *h = harness_open(24);
        harness_start(h, &usual);
        struct err err;
        for (int32_t i = 0; i < 30; i++)
            assert_non_null(submit(h, new_request(10 + i, i, 1 + i % 3, 100), true, false, &err));
        if (wait > 0)
            sleep_ms(wait / 4);
        engine_stop(h->engine);
        engine_stop(h->engine); /* twice is once */
        assert_null(submit(h, new_request(3, 0, 1, 3), false, false, &err));
        assert_int_equal(err.code, ERR_UNAVAILABLE);
        harness_close(h);
    }
}

static void a_full_queue_refuses(void **state)
{
    (void)state;
    struct engine_options options = usual;
    options.max_seqs = 2;
    options.max_queue = 3;
    struct harness *h = harness_open(30);
    atomic_store(&h->gated, true);
    harness_start(h, &options);
    struct err err;
    for (int32_t i = 0; i < 2; i++) /* two in slots */
        assert_non_null(submit(h, new_request(3, i, 1, 50), true, false, &err));
    wait_for(&h->n_entered, 1);
    let_steps(h, 1); /* the second may have come while the first was planned */
    assert_null(submit(h, new_request(3, 0, 4, 50), true, false, &err)); /* can never wait */
    assert_int_equal(err.code, ERR_REQUEST);
    assert_non_null(submit(h, new_request(3, 2, 1, 50), true, false, &err));
    assert_null(submit(h, new_request(3, 2, 3, 50), true, false, &err));
    assert_int_equal(err.code, ERR_FULL);
    assert_non_null(submit(h, new_request(3, 2, 2, 50), true, false, &err));
    let_steps(h, 2);
    assert_null(submit(h, new_request(3, 4, 1, 50), true, false, &err));
    assert_int_equal(err.code, ERR_FULL);
    open_gate(h);
    wait_for(&h->n_returned, 4);
    assert_non_null(submit(h, new_request(3, 4, 3, 50), true, false, &err));
    wait_for(&h->n_returned, 5);
    harness_close(h);
}

static void what_cannot_be_served_is_refused(void **state)
{
    (void)state;
    struct harness *h = harness_open(4); /* 64 tokens */
    harness_start(h, &usual);
    static const struct {
        const char *name;
        int32_t n_prompt, max_tokens, bad_token;
        enum err_code code;
    } rows[] = {
        { "over the context", 100, 61, -1, ERR_CONTEXT },
        { "far over the context", 10, INT32_MAX, -1, ERR_CONTEXT },
        { "one token too many for the pool", 34, 32, -1, ERR_CONTEXT },
        { "just in the pool: the last token needs no place", 33, 32, -1, ERR_NONE },
        { "a prompt alone that fills the pool", 64, 0, -1, ERR_NONE },
        { "a token outside the vocabulary", 10, 5, FAKE_VOCAB, ERR_REQUEST },
        { "a negative token", 10, 5, -7, ERR_REQUEST },
        { "negative max_tokens", 10, -1, -1, ERR_REQUEST },
    };
    int32_t n_good = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct request *r = new_request(rows[i].n_prompt, 0, 1, rows[i].max_tokens);
        if (rows[i].bad_token != -1)
            r->prompt[3] = rows[i].bad_token;
        struct err err = { 0 };
        struct ticket *t = submit(h, r, false, false, &err);
        if (err.code != rows[i].code || (t != NULL) != (rows[i].code == ERR_NONE))
            fail_msg("%s: %s", rows[i].name, err.text);
        n_good += t != NULL;
    }
    wait_for(&h->n_returned, n_good);
    harness_close(h);
}

static void a_reader_that_sleeps_is_cut(void **state)
{
    (void)state;
    struct engine_options options = usual;
    options.slow_ms_max = 60;
    struct harness *h = harness_open(30);
    harness_start(h, &options);
    atomic_store(&h->hold_reader, true);
    sleep_ms(10);
    struct err err;
    struct ticket *slow = submit(h, new_request(5, 0, 1, 140), true, false, &err);
    struct ticket *small = submit(h, new_request(5, 1, 1, 20), false, false, &err);
    assert_true(slow && small);
    struct engine_stats stats;
    uint64_t until = clock_ms() + WAIT_MS;
    do {
        sleep_ms(2);
        engine_stats_read(h->engine, &stats);
    } while (stats.finished[FINISH_CANCELLED] == 0 && clock_ms() < until);
    assert_int_equal(stats.finished[FINISH_CANCELLED], 1);
    atomic_store(&h->hold_reader, false);
    wait_for(&h->n_returned, 2);
    assert_int_equal(slow->finish[0], FINISH_CANCELLED);
    assert_int_equal(slow->n_got[0], OUTBOX_EVENTS - 1); /* the place for DONE stays free */
    assert_int_equal(small->n_got[0], 20);
    harness_close(h);
}

static void idle_costs_nothing_and_a_stuck_device_is_seen(void **state)
{
    (void)state;
    struct harness *h = harness_open(30);
    harness_start(h, &usual);
    struct err err;
    assert_non_null(submit(h, new_request(5, 0, 1, 10), false, false, &err));
    wait_for(&h->n_returned, 1);
    struct engine_stats before, after;
    sleep_ms(20);
    engine_stats_read(h->engine, &before);
    sleep_ms(200);
    engine_stats_read(h->engine, &after);
    assert_true(after.idle);
    assert_int_equal(before.beat, after.beat); /* the thread sleeps: it does not even look */
    assert_true(after.beat_ns > before.beat_ns);
    assert_int_equal(engine_stalled_ms(h->engine), 0);
    atomic_store(&h->gated, true);
    assert_non_null(submit(h, new_request(5, 0, 1, 10), false, false, &err));
    wait_for(&h->n_entered, 11);
    engine_stalled_ms(h->engine); /* the first look meets the beat */
    sleep_ms(50);
    uint64_t stalled = engine_stalled_ms(h->engine);
    assert_true(stalled >= 40 && stalled < WAIT_MS);
    open_gate(h);
    wait_for(&h->n_returned, 2);
    harness_close(h);
}

/* A request that stops in step n has a row in n + 1 when that was launched before. It counts for
 * nothing, but while it runs the engine is not idle: a device that is stuck there is seen. */
static void a_stop_leaves_a_step_in_flight(void **state)
{
    (void)state;
    struct harness *h = harness_open(30);
    atomic_store(&h->gated, true);
    harness_start(h, &usual);
    int32_t tokens[CTX], finish_token, n = 0;
    enum finish finish;
    struct request *r = NULL;
    for (int32_t i = 0; !r; i++) { /* one that stops after a few tokens */
        r = new_request(5, i, 1, 40);
        r->n_stop_tokens = 1;
        r->stop_tokens = malloc(sizeof *r->stop_tokens);
        CHECK(r->stop_tokens);
        r->stop_tokens[0] = 7;
        n = fake_answer(r, 0, 0, tokens, &finish, &finish_token);
        if (finish == FINISH_STOP && n >= 3)
            break;
        request_close(r);
        r = NULL;
    }
    struct err err;
    assert_non_null(submit(h, r, false, false, &err));
    wait_for(&h->n_entered, 1);
    let_steps(h, n); /* it stands in the step that draws the stop token */
    struct engine_stats stats;
    if (mode->depth == 2) {
        let_steps(h, 1); /* in the one behind that */
        uint64_t until = clock_ms() + WAIT_MS;
        do
            engine_stats_read(h->engine, &stats);
        while (stats.finished[FINISH_STOP] == 0 && clock_ms() < until);
        assert_int_equal(stats.running + stats.waiting, 0);
        assert_int_equal(stats.pages_free[0], stats.pages_total[0]);
        assert_false(stats.idle);
        assert_int_equal(atomic_load(&h->n_returned), 0);
        engine_stalled_ms(h->engine);
        sleep_ms(50);
        assert_true(engine_stalled_ms(h->engine) >= 40);
    }
    open_gate(h);
    wait_for(&h->n_returned, 1);
    uint64_t until = clock_ms() + WAIT_MS;
    do
        engine_stats_read(h->engine, &stats);
    while (!stats.idle && clock_ms() < until);
    assert_true(stats.idle);
    assert_int_equal(engine_stalled_ms(h->engine), 0);
    harness_close(h);
}

int main(void)
{
    log_configure(LOG_OFF, false);
    int failed = 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_threads_get_right_answers),
        cmocka_unit_test(cancelled_pages_are_free_within_a_step),
        cmocka_unit_test(a_fault_ends_everything),
        cmocka_unit_test(stopping_while_busy_returns_everything),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(what_cannot_be_served_is_refused),
        cmocka_unit_test(a_reader_that_sleeps_is_cut),
        cmocka_unit_test(idle_costs_nothing_and_a_stuck_device_is_seen),
        cmocka_unit_test(a_stop_leaves_a_step_in_flight),
    };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        mode = &modes[i];
        failed += cmocka_run_group_tests_name(mode->name, tests, NULL, NULL);
    }
    return failed;
}
