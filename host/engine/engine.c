/* engine.c - the engine thread and its two borders: the inbox in front, the news behind.
 *
 * Invariant: a request is in the inbox, or in the core, or done and in the news, or back with its
 * reader. A run is marked done under the news lock, with the append that follows its last event;
 * `returned` is set by the reader's own engine_take_news, so nobody can free a request that is
 * still in a list. The engine's part of `in_news` is under the same lock: events are written before
 * it is taken, and the reader drains after it has cleared the flag, so no event is left behind.
 *
 * The thread allocates nothing; a request's sequences are allocated in engine_submit and freed in
 * engine_take_news, by the threads that call these.
 *
 * Overlap (options.overlap, on a device that takes two steps): while step n runs, n + 1 is planned
 * and launched, with the tokens that n draws named and not known; then n is collected and
 * committed. So the device never waits for the host. What it costs: who comes while n runs starts
 * in n + 2, and a sequence that stops in n has a row in n + 1 that counts for nothing (one that
 * ends by length has not: that is known before). When the device says of a launch that it is over
 * already, nothing is planned ahead of it. */
#include "host/engine/engine.h"
#include "host/base/slice.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/log.h"
#include "host/engine/core.h"
#include "host/engine/pace.h"
#include "host/engine/seq.h"
#include "host/engine/stats.h"

/* While every sequence waits for its reader: how often to look at the outboxes. Readers need not
 * wake the engine then; at worst a stream that was stalled anyway goes on this much later. */
enum { BLOCKED_POLL_MS = 2 };

/* Launched and not committed. */
struct flight {
    struct core_step *step;
    uint64_t from_ns; /* when it was launched */
};

struct engine {
    struct engine_device device;
    struct core core;                      /* engine thread */
    struct pace pace;                      /* engine thread */
    struct flight flights[CORE_STEPS_MAX]; /* engine thread; oldest first */
    int32_t n_flights, n_steps, next_step; /* engine thread */
    uint64_t landed_ns;                    /* engine thread: the last one */
    struct stats *stats;                   /* owned */
    pthread_t thread;
    bool joined;

    pthread_mutex_t inbox_lock;
    pthread_cond_t inbox_change;
    struct request *inbox_first, *inbox_last; /* linked by next */
    int32_t n_inbox;                          /* sequences in the inbox */
    int32_t n_waiting; /* in the core without a slot, less the slots that are free */
    bool woken, stopping, closed, lost;

    pthread_mutex_t news_lock;
    struct request *news_first, *news_last; /* linked by next */
    int news_fd;
};

/* ---- the inbox ---- */

bool engine_submit(struct engine *engine, struct request *request, struct err *err)
{
    if (!core_accepts(&engine->core, request, err))
        return false;
    if (!run_open(request, engine->core.options.eos, engine->core.options.n_eos, err))
        return false;
    request->next = NULL;
    pthread_mutex_lock(&engine->inbox_lock);
    int32_t n_queued = engine->n_inbox + engine->n_waiting; /* negative: slots are free */
    bool closed = engine->closed, lost = engine->lost;
    bool full = request->n_seqs > engine->core.options.max_queue - n_queued;
    if (!closed && !full) {
        *(engine->inbox_last ? &engine->inbox_last->next : &engine->inbox_first) = request;
        engine->inbox_last = request;
        engine->n_inbox += request->n_seqs;
        pthread_cond_signal(&engine->inbox_change);
    }
    pthread_mutex_unlock(&engine->inbox_lock);
    if (!closed && !full)
        return true; /* not touched any more: it may be on its way back already */
    run_close(request);
    if (closed)
        return err_set(err, ERR_UNAVAILABLE,
                       lost ? "the device has failed" : "the engine has stopped");
    return err_set(err, ERR_FULL, "%d sequences are waiting, at most %d may",
                   n_queued > 0 ? n_queued : 0, engine->core.options.max_queue);
}

void engine_wake(struct engine *engine)
{
    pthread_mutex_lock(&engine->inbox_lock);
    engine->woken = true;
    pthread_cond_signal(&engine->inbox_change);
    pthread_mutex_unlock(&engine->inbox_lock);
}

/* Everything from the inbox into the core. False when the engine is to stop; nothing can come in
 * after that, nor after `close`. */
static bool take_inbox(struct engine *engine, bool close)
{
    pthread_mutex_lock(&engine->inbox_lock);
    struct request *list = engine->inbox_first;
    engine->inbox_first = engine->inbox_last = NULL;
    engine->n_waiting =
        engine->core.scheduler.n_waiting - engine->core.scheduler.n_free_slots + engine->n_inbox;
    engine->n_inbox = 0;
    engine->woken = false;
    bool stopping = engine->stopping;
    engine->closed = engine->closed || stopping || close;
    engine->lost = engine->lost || close;
    pthread_mutex_unlock(&engine->inbox_lock);
    while (list) {
        struct request *request = list;
        list = request->next;
        request->next = NULL;
        core_add(&engine->core, request);
    }
    return !stopping;
}

/* After a plan: who has got a slot no longer counts as waiting. */
static void count_waiting(struct engine *engine)
{
    int32_t n = engine->core.scheduler.n_waiting - engine->core.scheduler.n_free_slots;
    pthread_mutex_lock(&engine->inbox_lock);
    engine->n_waiting = n;
    pthread_mutex_unlock(&engine->inbox_lock);
}

/* Until something happens, or for timeout_ms (-1: for ever). */
static void sleep_until_change(struct engine *engine, int32_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int rc = 0;
    pthread_mutex_lock(&engine->inbox_lock);
    while (!engine->inbox_first && !engine->woken && !engine->stopping && rc != ETIMEDOUT)
        rc = timeout_ms < 0
                 ? pthread_cond_wait(&engine->inbox_change, &engine->inbox_lock)
                 : pthread_cond_timedwait(&engine->inbox_change, &engine->inbox_lock, &until);
    pthread_mutex_unlock(&engine->inbox_lock);
}

/* ---- the news ---- */

static void news_append(struct engine *engine, struct request *request)
{
    request->next = NULL;
    *(engine->news_last ? &engine->news_last->next : &engine->news_first) = request;
    engine->news_last = request;
}

/* Tells the reader of all requests with new events: one lock and one write a step. */
static void deliver(struct engine *engine)
{
    struct run *run = core_take_touched(&engine->core);
    if (!run)
        return;
    bool appended = false;
    pthread_mutex_lock(&engine->news_lock);
    while (run) {
        struct run *next = run->touched_next;
        struct request *request = run->request;
        run->touched = false;
        run->done = run_is_over(run);
        if (!atomic_load_explicit(&request->in_news, memory_order_relaxed)) {
            atomic_store_explicit(&request->in_news, true, memory_order_relaxed);
            news_append(engine, request);
            appended = true;
        }
        run = next;
    }
    pthread_mutex_unlock(&engine->news_lock);
    uint64_t one = 1;
    if (appended) /* fails only when the counter is full: then it is readable anyway */
        (void)!write(engine->news_fd, &one, sizeof one);
}

int engine_news_fd(const struct engine *engine)
{
    return engine->news_fd;
}

struct request *engine_take_news(struct engine *engine)
{
    pthread_mutex_lock(&engine->news_lock);
    struct request *request = engine->news_first;
    bool done = false;
    if (request) {
        engine->news_first = request->next;
        if (!engine->news_first)
            engine->news_last = NULL;
        request->next = NULL;
        atomic_store_explicit(&request->in_news, false, memory_order_relaxed);
        done = ((struct run *)request->engine_private)->done;
    }
    pthread_mutex_unlock(&engine->news_lock);
    if (done) {
        run_close(request);
        atomic_store(&request->returned, true);
    }
    return request;
}

/* ---- the thread ---- */

static struct core_step *plan_step(struct engine *engine, int32_t *step_tokens, uint64_t now_ns)
{
    const struct engine_options *o = &engine->core.options;
    if (o->step_tokens > 0) {
        *step_tokens = o->step_tokens;
        return core_plan(&engine->core, engine->next_step, o->step_tokens, o->step_tokens, now_ns);
    }
    int32_t n_ones = scheduler_n_ones(&engine->core.scheduler);
    int32_t chunk = pace_chunk(&engine->pace, n_ones);
    *step_tokens = o->step_tokens_max;
    if (n_ones > 0 && n_ones + chunk < *step_tokens)
        *step_tokens = n_ones + chunk;
    return core_plan(&engine->core, engine->next_step, o->step_tokens_max, chunk, now_ns);
}

struct masks_of {
    struct core *core;
    struct core_step *step;
};
static void fill_masks(void *self)
{
    const struct masks_of *of = self;
    core_fill_masks(of->core, of->step);
}
/* True: it is still running, and the next may be planned. */
static bool launch(struct engine *engine, struct core_step *step)
{
    const struct batch_build *build = &step->build;
    struct masks_of of = { &engine->core, step };
    const struct step_masks masks = { fill_masks, &of };
    CHECK(engine->n_flights < engine->n_steps);
    engine->flights[engine->n_flights++] = (struct flight){ step, clock_ns() };
    engine->next_step = (engine->next_step + 1) % engine->n_steps;
    const bool runs =
        engine->device.launch(engine->device.self, &build->batch, build->rows,
                              step->plan.n_logit_rows, build->outs, &masks, &engine->stats->beat);
    return runs && step->n_masked == 0;
}

/* Waits for the oldest step, and commits it. */
static bool land(struct engine *engine, struct err *err)
{
    const struct flight flight = engine->flights[0];
    const struct plan *plan = &flight.step->plan;
    CHECK(engine->n_flights > 0);
    engine->flights[0] = engine->flights[--engine->n_flights];
    if (!engine->device.collect(engine->device.self, err)) {
        core_abandon(&engine->core, flight.step);
        return false;
    }
    uint64_t now_ns = clock_ns(); /* it began when the one before it was done, at the earliest */
    uint64_t from_ns = flight.from_ns > engine->landed_ns ? flight.from_ns : engine->landed_ns;
    engine->landed_ns = now_ns;
    pace_record(&engine->pace, plan->n_ones, plan->n_rows - plan->n_ones, now_ns - from_ns);
    return core_commit(&engine->core, flight.step, now_ns, err);
}

/* The numbers of now. A step in flight is work, whoever still wants it: a device that is stuck with
 * it must not look idle. */
static void write_stats(struct engine *engine, int32_t step_tokens)
{
    stats_write(engine->stats, &engine->core, step_tokens,
                core_is_empty(&engine->core) && engine->n_flights == 0);
}

/* Every live request ends with an error, and no other is taken. */
static void lose_device(struct engine *engine, const struct err *err)
{
    while (engine->n_flights > 0)
        core_abandon(&engine->core, engine->flights[--engine->n_flights].step);
    log_error("device_lost", "error=\"%s\"", err->text);
    stats_lose_device(engine->stats, err->text);
    take_inbox(engine, true);
    core_end_all(&engine->core, FINISH_ERROR, err->text, clock_ns());
}

static void *engine_main(void *arg)
{
    struct engine *engine = arg;
    struct core *core = &engine->core;
    int32_t step_tokens = core->options.step_tokens_max;
    slice_set_us(SLICE_COMPUTE_US);
    while (take_inbox(engine, false)) {
        uint64_t now_ns = clock_ns();
        core_sweep(core, now_ns);
        struct core_step *step = plan_step(engine, &step_tokens, now_ns);
        count_waiting(engine);
        write_stats(engine, step_tokens);
        deliver(engine); /* what was cancelled: its reader need not wait for the step */
        if (!step && engine->n_flights == 0) { /* idle, or all readers are behind */
            sleep_until_change(engine, core_is_empty(core) ? -1 : BLOCKED_POLL_MS);
            continue;
        }
        bool good = true, runs = step && launch(engine, step);
        struct err err;
        while (good && engine->n_flights > (runs ? engine->n_steps - 1 : 0))
            good = land(engine, &err);
        if (!good)
            lose_device(engine, &err);
        /* Before the news: who hears of an end finds its pages free. */
        write_stats(engine, step_tokens);
        deliver(engine);
    }
    struct err err;
    while (engine->n_flights > 0)
        if (!land(engine, &err))
            lose_device(engine, &err);
    core_end_all(core, FINISH_CANCELLED, NULL, clock_ns());
    write_stats(engine, step_tokens);
    deliver(engine);
    return NULL;
}

/* The thread takes no signals that others send: these are main's. Its own faults stay deliverable
 * (a blocked one kills without the handler, and the message of a model file cut short is lost). */
static bool start_thread(struct engine *engine, struct err *err)
{
    static const int FAULTS[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL };
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof FAULTS / sizeof FAULTS[0]; i++)
        sigdelset(&all, FAULTS[i]);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, &before) == 0);
    int rc = pthread_create(&engine->thread, NULL, engine_main, engine);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot start the engine thread: %s", strerror(rc));
    pthread_setname_np(engine->thread, "engine");
    return true;
}

static void engine_free(struct engine *engine)
{
    core_close(&engine->core);
    free(engine->stats);
    if (engine->news_fd >= 0)
        close(engine->news_fd);
    pthread_cond_destroy(&engine->inbox_change);
    pthread_mutex_destroy(&engine->inbox_lock);
    pthread_mutex_destroy(&engine->news_lock);
    free(engine);
}

bool engine_open(struct engine **engine, const struct engine_device *device,
                 const struct engine_options *options, struct err *err)
{
    *engine = NULL;
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ERR_MEMORY, "no memory for the engine");
    e->device = *device;
    pthread_condattr_t attr;
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&e->inbox_change, &attr) == 0);
    pthread_condattr_destroy(&attr);
    CHECK(pthread_mutex_init(&e->inbox_lock, NULL) == 0);
    CHECK(pthread_mutex_init(&e->news_lock, NULL) == 0);
    e->news_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (e->news_fd < 0) {
        err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
        goto fail;
    }
    e->stats = calloc(1, sizeof *e->stats);
    if (!e->stats) {
        err_set(err, ERR_MEMORY, "no memory for the engine");
        goto fail;
    }
    CHECK(device->n_steps >= 1 && device->n_steps <= CORE_STEPS_MAX);
    e->n_steps = options->overlap ? device->n_steps : 1;
    if (!core_open(&e->core, device, options, e->n_steps, err))
        goto fail;
    stats_init(e->stats, device);
    pace_init(&e->pace, options->step_tokens_max);
    if (!start_thread(e, err))
        goto fail;
    *engine = e;
    return true;
fail:
    engine_free(e);
    return false;
}

void engine_stop(struct engine *engine)
{
    if (engine->joined)
        return;
    pthread_mutex_lock(&engine->inbox_lock);
    engine->stopping = true;
    pthread_cond_signal(&engine->inbox_change);
    pthread_mutex_unlock(&engine->inbox_lock);
    CHECK(pthread_join(engine->thread, NULL) == 0);
    engine->joined = true;
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    engine_stop(engine);
    while (engine_take_news(engine)) /* the requests are their owners' */
        ;
    engine_free(engine);
}

void engine_stats_read(const struct engine *engine, struct engine_stats *stats)
{
    stats_read(engine->stats, stats);
}

uint64_t engine_stalled_ms(const struct engine *engine)
{
    return stats_stalled_ms(engine->stats);
}
