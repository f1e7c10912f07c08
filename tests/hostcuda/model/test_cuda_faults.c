/* test_cuda_faults.c - the n-th call of the CUDA runtime fails, for every n of a whole life:
 * opening, loading, prompts, a recorded step, replayed steps, sampling, closing.
 *
 * Whatever n is: opening fails with a sentence that names the device, or the engine runs and every
 * request comes back, finished or with an error event; then the engine says that the device is lost
 * and takes no more. Nothing hangs, nothing leaks (ASan), nothing aborts. What the process does
 * with a lost device (/health 503, non-zero exit) is test_cuda_http.py's. */
#include "tests/oracle/model_run.h"
#include "tests/hostcuda/model/fault.h"

#include <poll.h>
#include <unistd.h>
#include "cuda/cuda_backend.h"
#include "host/engine/engine.h"

enum { CTX = 64, N = 3, MAX_TOKENS = 5, PROMPT = 6 };

static bool open_cuda(struct backend **be, struct err *err)
{
    const struct cuda_options options = { .device = 0 };
    return cuda_backend_open(be, &options, err);
}

struct outcome {
    int32_t finished, failed; /* requests */
    bool lost;
};

static struct request *make(int32_t i)
{
    struct err err;
    struct request *r;
    int32_t *prompt = malloc(PROMPT * sizeof *prompt);
    assert_non_null(prompt);
    for (int32_t k = 0; k < PROMPT; k++)
        prompt[k] = 10 + 13 * i + k;
    assert_ok(request_open(&r, prompt, PROMPT, 1, 0, &err), &err);
    r->max_tokens = MAX_TOKENS;
    r->ignore_eos = true;
    r->sampling.temperature = i == 1 ? 0.9f : 0;
    r->sampling.typical_p = i == 2 ? 0.9f : 1; /* the host form too */
    return r;
}

static void take(struct request *r, struct outcome *out)
{
    struct outbox *outbox = &r->outboxes[0];
    for (; spsc_ready(&outbox->ring) > 0; spsc_read(&outbox->ring)) {
        const struct event *event = &outbox->events[spsc_read_at(&outbox->ring)];
        if (event->kind != EVENT_DONE)
            continue;
        out->finished += event->finish == FINISH_LENGTH;
        out->failed += event->finish == FINISH_ERROR;
        if (event->finish == FINISH_ERROR)
            assert_non_null(strstr(r->error_text, "cuda"));
    }
    if (atomic_load(&r->returned))
        request_close(r);
}

static struct outcome serve(struct model_run *run)
{
    struct err err;
    struct outcome out = { 0 };
    struct engine_model_device model_device = { &run->model, &run->kv };
    struct engine_device device = engine_device_of_model(&model_device);
    const struct engine_options options = { .ctx = CTX,
                                            .max_seqs = 4,
                                            .max_queue = 8,
                                            .step_tokens = 16,
                                            .step_tokens_max = 32,
                                            .logit_rows_max = 16,
                                            .slow_ms_max = 60000 };
    struct engine *engine;
    assert_ok(engine_open(&engine, &device, &options, &err), &err);
    int32_t sent = 0;
    for (; sent < N; sent++) {
        struct request *r = make(sent);
        if (!engine_submit(engine, r, &err)) { /* lost already */
            assert_int_equal(err.code, ERR_UNAVAILABLE);
            request_close(r);
            break;
        }
    }
    while (out.finished + out.failed < sent) {
        struct pollfd poller = { .fd = engine_news_fd(engine), .events = POLLIN };
        assert_int_equal(poll(&poller, 1, 60000), 1); /* else it hangs */
        uint64_t count;
        assert_int_equal(read(poller.fd, &count, sizeof count), sizeof count);
        for (struct request *r; (r = engine_take_news(engine)) != NULL;)
            take(r, &out);
    }
    struct engine_stats stats;
    engine_stats_read(engine, &stats);
    out.lost = stats.device_lost;
    if (out.failed > 0 || sent < N)
        assert_true(out.lost);
    if (out.lost) {
        struct request *r = make(0);
        assert_non_null(strstr(stats.device_error, "cuda"));
        assert_false(engine_submit(engine, r, &err));
        assert_int_equal(err.code, ERR_UNAVAILABLE);
        request_close(r);
    }
    engine_close(engine);
    return out;
}

/* A whole life; how many calls it made. */
static long live(long n, int32_t *opened, struct outcome *out)
{
    struct err err;
    struct model_run run;
    const struct model_setup setup = { .weights = WEIGHTS_INT8,
                                       .group = 64,
                                       .ctx = CTX,
                                       .rows = 32,
                                       .pages = true,
                                       .open_backend = open_cuda };
    *out = (struct outcome){ 0 };
    fault_at(n);
    const long before = fault_calls();
    *opened = model_run_open(&run, NIBBLE_TESTS_DIR "/oracle/models/llama_tied_rope_llama3", NULL,
                             &setup, &err);
    if (*opened) {
        *out = serve(&run);
        model_run_close(&run);
    } else if (n == 0) {
        fail_msg("a sound device: %s", err.text);
    } else if (strstr(err.text, "cuda") == NULL) {
        fail_msg("call %ld: \"%s\" does not name the device", n, err.text);
    }
    const long calls = fault_calls() - before;
    fault_at(0);
    return calls;
}

static void every_call_may_fail(void **state)
{
    (void)state;
    int32_t opened;
    struct outcome out;
    const long all = live(0, &opened, &out);
    assert_true(opened && out.finished == N && !out.lost);
    long refused = 0, lost = 0, unhurt = 0;
    for (long n = 1; n <= all; n++) {
        live(n, &opened, &out);
        refused += !opened;
        lost += opened && out.lost;
        unhurt += opened && !out.lost;
    }
    printf(
        "%ld calls in a life: %ld faults refused at start, %ld ended every request with an error, "
        "%ld came after the last answer\n",
        all, refused, lost, unhurt);
    assert_true(refused > 0 && lost > 0);
    live(0, &opened, &out); /* and the program is sound afterwards */
    assert_true(opened && out.finished == N);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_call_may_fail) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
