/* test_engine_oom.c - every allocation of opening and submitting may fail, cleanly; and from then
 * on the engine thread makes none. */
#include "tests/support/support.h"
#include <poll.h>
#include <unistd.h>
#include "tests/sim/fake_device.h"
#include "tests/support/fail_alloc.h"

static struct request *make_request(int32_t n_prompt, int32_t n_seqs, struct err *err)
{
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    if (!prompt) {
        err_set(err, ERR_MEMORY, "no prompt");
        return NULL;
    }
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = i % FAKE_VOCAB;
    struct request *r;
    if (!request_open(&r, prompt, n_prompt, n_seqs, 2, err)) {
        free(prompt);
        return NULL;
    }
    r->max_tokens = 20;
    return r;
}

static const struct engine_options options = { .ctx = 256,
                                               .max_seqs = 4,
                                               .max_queue = 16,
                                               .step_tokens_max = 32,
                                               .logit_rows_max = 16,
                                               .slow_ms_max = 1000,
                                               .prefix_cache = true,
                                               .eos = (const int32_t[]){ FAKE_EOS },
                                               .n_eos = 1 };

static void every_allocation_may_fail(void **state)
{
    (void)state;
    struct fake_device fake;
    fake_device_init(&fake, 2, (int32_t[]){ 0, 24 }, (int32_t[]){ 20, 20 }, 4);
    struct engine_device device = fake_engine_device(&fake);
    struct engine *engine = NULL;
    struct err err;
    int64_t n = 1;
    for (bool opened = false; !opened; n++) {
        fail_alloc_at(n);
        err = (struct err){ 0 };
        opened = engine_open(&engine, &device, &options, &err);
        fail_alloc_off();
        assert_true(opened || err.code == ERR_MEMORY);
        assert_true(opened == (engine != NULL));
    }
    assert_true(n > 20);
    struct request *r = NULL;
    for (n = 1; !r; n++) {
        fail_alloc_at(n);
        err = (struct err){ 0 };
        r = make_request(30, 3, &err);
        fail_alloc_off();
        assert_true(r || err.code == ERR_MEMORY);
    }
    assert_true(n > 5);
    fail_alloc_at(1);
    assert_false(engine_submit(engine, r, &err));
    fail_alloc_off();
    assert_int_equal(err.code, ERR_MEMORY);
    assert_null(r->engine_private);
    request_close(r);
    engine_close(engine);
    fake_device_clear(&fake);
}

static void the_engine_thread_allocates_nothing(void **state)
{
    (void)state;
    struct fake_device fake;
    fake_device_init(&fake, 2, (int32_t[]){ 0, 24 }, (int32_t[]){ 12, 12 }, 4);
    struct engine_device device = fake_engine_device(&fake);
    struct engine *engine;
    struct err err;
    assert_ok(engine_open(&engine, &device, &options, &err), &err);
    struct request *requests[6];
    for (int32_t i = 0; i < 6; i++) {
        requests[i] = make_request(20 + 20 * i, 1 + i % 2, &err);
        assert_non_null(requests[i]);
    }
    fail_alloc_at(INT64_MAX); /* counts, all threads */
    for (int32_t i = 0; i < 6; i++)
        assert_ok(engine_submit(engine, requests[i], &err), &err);
    for (int32_t n_back = 0; n_back < 6;) {
        struct pollfd poller = { .fd = engine_news_fd(engine), .events = POLLIN };
        assert_true(poll(&poller, 1, 20000) == 1);
        uint64_t count;
        assert_true(read(poller.fd, &count, sizeof count) == (ssize_t)sizeof count);
        for (struct request *r; (r = engine_take_news(engine)) != NULL;) {
            for (int32_t k = 0; k < r->n_seqs; k++)
                while (spsc_ready(&r->outboxes[k].ring) > 0)
                    spsc_read(&r->outboxes[k].ring);
            n_back += atomic_load(&r->returned);
        }
    }
    int64_t seen = fail_alloc_seen();
    fail_alloc_off();
    assert_int_equal(seen, 6); /* one a submit, in this thread */
    for (int32_t i = 0; i < 6; i++)
        request_close(requests[i]);
    engine_close(engine);
    fake_device_clear(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_engine_thread_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
