/* pool.c - one fork-join of fixed parts at a time.
 *
 * A part is run by whoever claims it first. The caller starts with part 0 and goes on with what is
 * left, so a worker that the system keeps off its CPU (two CPUs serve the compute threads, the
 * event loop and the clients: it comes back at a tick, 4 ms later) delays a run only while it is
 * inside a part, and an op that is over before a sleeper wakes costs no waiting at all.
 *
 * Invariant: `fn` and `arg` are written only while no part is unfinished; a claim names its run in
 * the upper half of the word, hence whoever holds one may read them. `generation` and `pending` are
 * futexes: a waiter spins SPIN_NS, announces itself, and sleeps; whoever moves the word wakes it
 * only if it announced itself (both sides sequentially consistent, so one of them sees the other).
 * An idle pool uses no CPU time. */
#include "host/base/pool.h"
#include "host/base/slice.h"
#include "host/base/clock.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An op of a small model takes 20-200 us, a futex round trip 5-50: spinning 50 us catches the next
 * op of the same step, and costs nothing worth naming when the step is over. */
enum { THREADS_MAX = 64, THREADS_ASKED_MAX = 1024, SPIN_NS = 50000, YIELDS = 20 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    int32_t part;
    int32_t cpu; /* -1: not pinned */
};

struct pool {
    _Atomic uint32_t generation;           /* moves once per run, and once to stop */
    _Atomic uint32_t n_sleeping;           /* workers that sleep, or are about to, on generation */
    _Alignas(64) _Atomic uint64_t claims;  /* run << 32 | next part that nobody has */
    _Alignas(64) _Atomic uint32_t pending; /* parts of the run that are not done */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) pool_fn *fn; /* NULL: stop */
    void *arg;
    int32_t n_threads, n_started; /* n_started: threads to join */
    bool may_spin;                /* no more threads than CPUs */
    struct worker workers[];      /* [n_threads]; 0 is the caller and stays unused */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t while_it_is)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_it_is, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* True when the word has left `old` within the spinning time. */
static bool spin_while(const struct pool *pool, _Atomic uint32_t *word, uint32_t old)
{
    if (!pool->may_spin) {
        for (int i = 0; i < YIELDS; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old)
                return true;
            sched_yield();
        }
        return false;
    }
    uint64_t until = clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old)
                return true;
            relax();
        }
    } while (clock_ns() < until);
    return false;
}

static void wait_for_run(struct pool *pool, uint32_t seen)
{
    while (!spin_while(pool, &pool->generation, seen)) {
        atomic_fetch_add(&pool->n_sleeping, 1);
        while (atomic_load(&pool->generation) == seen)
            futex_wait(&pool->generation, seen);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
}

/* Runs parts of the current run until all are claimed; false when the pool stops. */
static bool run_parts(struct pool *pool)
{
    uint64_t claims = atomic_load(&pool->claims);
    while ((uint32_t)claims < (uint32_t)pool->n_threads) {
        if (!atomic_compare_exchange_weak(&pool->claims, &claims, claims + 1))
            continue;
        if (!pool->fn)
            return false;
        pool->fn(pool->arg, (int32_t)(uint32_t)claims, pool->n_threads);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->caller_sleeps))
            futex_wake_all(&pool->pending);
        claims = atomic_load(&pool->claims);
    }
    return true;
}

static void *work(void *arg)
{
    struct worker *self = arg;
    struct pool *pool = self->pool;
    slice_set_us(SLICE_COMPUTE_US);
    if (self->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)self->cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* refused: runs anywhere */
    }
    for (uint32_t seen = 0;;) {
        wait_for_run(pool, seen);
        seen = atomic_load(&pool->generation); /* before the claims: a later run wakes us again */
        if (!run_parts(pool))
            return NULL;
        slice_offer();
    }
}

/* Part 0 is the caller's. */
static void start_run(struct pool *pool, pool_fn *fn, void *arg)
{
    pool->fn = fn;
    pool->arg = arg;
    atomic_store(&pool->pending, (uint32_t)pool->n_threads - 1);
    const uint64_t run = (atomic_load(&pool->claims) >> 32) + 1;
    atomic_store(&pool->claims, run << 32 | 1);
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->n_sleeping) > 0)
        futex_wake_all(&pool->generation);
}

static void wait_for_workers(struct pool *pool)
{
    uint32_t left;
    while ((left = atomic_load(&pool->pending)) != 0) {
        if (spin_while(pool, &pool->pending, left))
            continue;
        atomic_store(&pool->caller_sleeps, 1);
        while ((left = atomic_load(&pool->pending)) != 0)
            futex_wait(&pool->pending, left);
        atomic_store(&pool->caller_sleeps, 0);
    }
}

void pool_run(struct pool *pool, pool_fn *fn, void *arg)
{
    if (pool->n_threads > 1)
        start_run(pool, fn, arg);
    fn(arg, 0, pool->n_threads);
    if (pool->n_threads > 1) {
        run_parts(pool);
        wait_for_workers(pool);
    }
    slice_offer();
}

bool pool_open(struct pool **out, int32_t n_threads, struct err *err)
{
    cpu_set_t usable;
    *out = NULL;
    if (n_threads < 0 || n_threads > THREADS_ASKED_MAX)
        return err_set(err, ERR_REQUEST, "threads must be from 0 to %d, got %d",
                       (int)THREADS_ASKED_MAX, n_threads);
    CPU_ZERO(&usable);
    int n_cpus = 1; /* over 1024 CPUs the call fails, and we do not pin */
    bool known = sched_getaffinity(0, sizeof usable, &usable) == 0;
    if (known)
        n_cpus = CPU_COUNT(&usable);
    if (n_threads == 0)
        n_threads = n_cpus < THREADS_MAX ? n_cpus : THREADS_MAX;
    struct pool *pool = NULL;
    size_t bytes = sizeof *pool + (size_t)n_threads * sizeof pool->workers[0];
    pool = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!pool)
        return err_set(err, ERR_MEMORY, "no memory for a pool of %d threads", n_threads);
    memset(pool, 0, bytes);
    pool->n_threads = n_threads;
    pool->may_spin = known && n_threads <= n_cpus;
    pool->n_started = 1;
    int32_t cpu = 0;
    for (int32_t i = 0; i < n_threads; i++, cpu++) {
        struct worker *w = &pool->workers[i];
        while (pool->may_spin && !CPU_ISSET((size_t)cpu, &usable))
            cpu++;
        *w = (struct worker){ .pool = pool, .part = i, .cpu = pool->may_spin ? cpu : -1 };
        if (i == 0)
            continue; /* the caller runs where the system puts it */
        int rc = pthread_create(&w->thread, NULL, work, w);
        if (rc != 0) {
            char reason[128];
            err_set(err, rc == EAGAIN ? ERR_MEMORY : ERR_IO, "cannot start thread %d of %d: %s",
                    i + 1, n_threads, strerror_r(rc, reason, sizeof reason));
            pool_close(pool);
            return false;
        }
        pool->n_started++;
    }
    *out = pool;
    return true;
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    start_run(pool, NULL, NULL);
    for (int32_t i = 1; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool);
}

int32_t pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_share(int64_t n, int64_t step, int32_t part, int32_t n_parts, int64_t *from, int64_t *to)
{
    CHECK(n >= 0 && step > 0 && n_parts > 0 && part >= 0 && part < n_parts);
    /* The first `more` parts get one block more; the last block may be short. */
    int64_t n_blocks = n / step + (n % step != 0), each = n_blocks / n_parts;
    int64_t more = n_blocks % n_parts;
    int64_t first = part * each + (part < more ? part : more);
    int64_t last = first + each + (part < more);
    *from = first < n_blocks ? first * step : n;
    *to = last < n_blocks ? last * step : n;
}
