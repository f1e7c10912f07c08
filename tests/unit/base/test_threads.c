/* queue and pool. Run under ThreadSanitizer too (preset tsan). */
#include "tests/support/support.h"
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/pool.h"
#include "host/base/queue.h"

/* ---- queue ---- */

static void test_queue_alone(void **state)
{
    (void)state;
    struct mpsc queue;
    struct err err;
    int items[5];
    assert_ok(mpsc_init(&queue, 3, &err), &err);
    assert_null(mpsc_pop(&queue));
    for (int round = 0; round < 5; round++) { /* the ring goes round */
        assert_true(mpsc_push(&queue, &items[0]));
        assert_true(mpsc_push(&queue, &items[1]));
        assert_true(mpsc_push(&queue, &items[2]));
        assert_false(mpsc_push(&queue, &items[3])); /* full: the caller keeps it */
        assert_int_equal(mpsc_count(&queue), 3);
        assert_ptr_equal(mpsc_pop(&queue), &items[0]);
        assert_true(mpsc_push(&queue, &items[4]));
        assert_ptr_equal(mpsc_wait(&queue, 0), &items[1]);
        assert_ptr_equal(mpsc_wait(&queue, -1), &items[2]);
        assert_ptr_equal(mpsc_pop(&queue), &items[4]);
    }
    uint64_t start = clock_ms();
    assert_null(mpsc_wait(&queue, 30));
    assert_true(clock_ms() - start >= 29);
    assert_null(mpsc_wait(&queue, 0));
    assert_true(mpsc_push(&queue, &items[0]));
    mpsc_close(&queue);
    assert_false(mpsc_push(&queue, &items[1]));         /* closed */
    assert_ptr_equal(mpsc_wait(&queue, -1), &items[0]); /* drains */
    assert_null(mpsc_wait(&queue, -1));
    mpsc_clear(&queue);
    mpsc_clear(&queue);
}

enum { PRODUCERS = 3, ITEMS = 20000 };

struct producer {
    struct mpsc *queue;
    int items[ITEMS];
    pthread_t thread;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 0; i < ITEMS; i++) {
        p->items[i] = i;
        while (!mpsc_push(p->queue, &p->items[i]))
            sched_yield();
    }
    return NULL;
}

static void test_queue_with_producers(void **state)
{
    (void)state;
    struct mpsc queue;
    struct err err;
    static struct producer producers[PRODUCERS];
    int next[PRODUCERS] = { 0 };
    assert_ok(mpsc_init(&queue, 16, &err), &err);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].queue = &queue;
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    for (int n = 0; n < PRODUCERS * ITEMS; n++) {
        int *item = mpsc_wait(&queue, 10000);
        assert_non_null(item);
        int who = 0;
        while (item < producers[who].items || item >= producers[who].items + ITEMS)
            who++;
        assert_int_equal(*item, next[who]); /* each producer's items come in its order */
        next[who]++;
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(producers[i].thread, NULL);
    assert_null(mpsc_pop(&queue));
    mpsc_clear(&queue);
}

static void *close_later(void *arg)
{
    usleep(20000);
    mpsc_close(arg);
    return NULL;
}

static void test_close_wakes(void **state)
{
    (void)state;
    struct mpsc queue;
    struct err err;
    pthread_t thread;
    assert_ok(mpsc_init(&queue, 1, &err), &err);
    assert_int_equal(pthread_create(&thread, NULL, close_later, &queue), 0);
    assert_null(mpsc_wait(&queue, -1));
    pthread_join(thread, NULL);
    mpsc_clear(&queue);
}

struct ring {
    struct spsc spsc;
    int items[8];
};

static void *fill_ring(void *arg)
{
    struct ring *ring = arg;
    for (int i = 0; i < ITEMS;) {
        if (!spsc_room(&ring->spsc)) {
            sched_yield();
            continue;
        }
        ring->items[spsc_write_at(&ring->spsc)] = i++;
        spsc_written(&ring->spsc);
    }
    return NULL;
}

static void test_ring(void **state)
{
    (void)state;
    struct ring ring;
    pthread_t thread;
    spsc_init(&ring.spsc, 8);
    atomic_store(&ring.spsc.head, UINT32_MAX - 100); /* the indices wrap on the way */
    atomic_store(&ring.spsc.tail, UINT32_MAX - 100);
    assert_int_equal(spsc_room(&ring.spsc), 8);
    assert_int_equal(pthread_create(&thread, NULL, fill_ring, &ring), 0);
    for (int i = 0; i < ITEMS;) {
        if (!spsc_ready(&ring.spsc)) {
            sched_yield();
            continue;
        }
        assert_int_equal(ring.items[spsc_read_at(&ring.spsc)], i++);
        spsc_read(&ring.spsc);
    }
    pthread_join(thread, NULL);
}

/* ---- pool ---- */

static void test_shares(void **state)
{
    (void)state;
    static const struct {
        int64_t n, step;
        int32_t n_parts;
    } rows[] = { { 0, 1, 3 }, { 1, 1, 3 },     { 10, 1, 3 },   { 10, 4, 3 },     { 10, 16, 3 },
                 { 7, 7, 2 }, { 4096, 64, 5 }, { 100, 8, 64 }, { 151936, 32, 7 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t expect = 0, least = INT64_MAX, most = 0;
        for (int32_t part = 0; part < rows[i].n_parts; part++) {
            int64_t from, to;
            pool_share(rows[i].n, rows[i].step, part, rows[i].n_parts, &from, &to);
            assert_int_equal(from, expect);
            assert_true(to >= from && to <= rows[i].n);
            assert_true(from % rows[i].step == 0 || from == rows[i].n);
            expect = to;
            int64_t blocks = (to - from + rows[i].step - 1) / rows[i].step;
            least = blocks < least ? blocks : least;
            most = blocks > most ? blocks : most;
        }
        assert_int_equal(expect, rows[i].n);
        assert_true(most - least <= 1);
    }
}

struct job {
    int64_t counts[64]; /* plain memory: the pool orders it, or TSan complains */
    int32_t n_parts;
    int64_t sum;
};

static void count_part(void *arg, int32_t part, int32_t n_parts)
{
    struct job *job = arg;
    job->counts[part]++;
    if (part == 0)
        job->n_parts = n_parts;
}

static void test_pool_runs(void **state)
{
    (void)state;
    static const int32_t sizes[] = { 1, 2, 3, 8 };
    for (size_t i = 0; i < 4; i++) {
        struct pool *pool;
        struct err err;
        struct job job = { 0 };
        assert_ok(pool_open(&pool, sizes[i], &err), &err);
        assert_int_equal(pool_threads(pool), sizes[i]);
        int64_t runs = 3000;
        for (int64_t run = 0; run < runs; run++) {
            pool_run(pool, count_part, &job);
            assert_int_equal(job.n_parts, sizes[i]);
            for (int32_t part = 0; part < sizes[i]; part++)
                assert_int_equal(job.counts[part], run + 1);
            if (run % 500 == 0)
                usleep(1000); /* long enough for the workers to sleep */
        }
        pool_close(pool);
    }
}

static void slow_part(void *arg, int32_t part, int32_t n_parts)
{
    if (part == n_parts - 1)
        usleep(3000); /* the caller falls asleep waiting */
    count_part(arg, part, n_parts);
}

static void test_pool_sleeps_and_wakes(void **state)
{
    (void)state;
    struct pool *pool;
    struct err err;
    struct job job = { 0 };
    assert_ok(pool_open(&pool, 2, &err), &err);
    for (int run = 0; run < 50; run++) {
        pool_run(pool, slow_part, &job);
        assert_int_equal(job.counts[1], run + 1);
        usleep(run % 2 ? 200 : 0);
    }
    pool_close(pool);
}

static void test_pool_is_idle(void **state)
{
    (void)state;
    struct pool *pool;
    struct err err;
    struct job job = { 0 };
    struct timespec before, after;
    assert_ok(pool_open(&pool, 4, &err), &err);
    pool_run(pool, count_part, &job);
    usleep(50000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(300000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    assert_true(us < 5000); /* of 300,000 */
    pool_close(pool);
}

static void test_pool_arguments(void **state)
{
    (void)state;
    struct pool *pool;
    struct err err;
    assert_false(pool_open(&pool, -1, &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_false(pool_open(&pool, 1025, &err));
    assert_ok(pool_open(&pool, 0, &err), &err);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    int want = CPU_COUNT(&set) < 64 ? CPU_COUNT(&set) : 64;
    assert_int_equal(pool_threads(pool), want);
    pool_close(pool);
    pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_alone),
        cmocka_unit_test(test_queue_with_producers),
        cmocka_unit_test(test_close_wakes),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_pool_runs),
        cmocka_unit_test(test_pool_sleeps_and_wakes),
        cmocka_unit_test(test_pool_is_idle),
        cmocka_unit_test(test_pool_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
