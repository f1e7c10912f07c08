/* test_cuda_faults.c - the n-th call of the CUDA runtime fails, for every n of a whole life:
 * opening, loading, measuring, prompts, a recorded step, replayed steps, sampling, closing; and for
 * every n of a served life with a step planned ahead (--overlap).
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
#include "host/base/file.h"
#include "host/engine/engine.h"

enum { CTX = 64, N = 3, MAX_TOKENS = 5, PROMPT = 6 };
#define TIMES "cuda_faults_kernels.txt"

/* What is the same in every life of a test, which begins by setting it. */
static struct way {
    bool overlap;
    const char *kernels;
} way;
static long opened_at, tune_from, tune_to; /* calls, of the last life that came so far */

static const struct backend_ops *cuda_ops;
static void tune_and_note(struct backend *be, const struct weight *const *weights, int32_t n)
{
    tune_from = fault_calls();
    cuda_ops->tune(be, weights, n);
    tune_to = fault_calls();
}

static bool open_cuda(struct backend **be, struct err *err)
{
    static struct backend_ops ops;
    const struct cuda_options options = { .device = 0, .kernels = way.kernels, .version = "test" };
    if (!cuda_backend_open(be, &options, err))
        return false;
    cuda_ops = (*be)->ops;
    ops = *cuda_ops;
    ops.tune = tune_and_note;
    (*be)->ops = &ops;
    return true;
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
    if (way.overlap) /* with the host form nothing is planned ahead */
        r->sampling.repetition_penalty = i == 2 ? 1.2f : 1;
    else
        r->sampling.typical_p = i == 2 ? 0.9f : 1;
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
                                            .slow_ms_max = 60000,
                                            .overlap = way.overlap };
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
    opened_at = fault_calls() - before;
    tune_from -= before;
    tune_to -= before;
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

/* From the first call of a life on, or, where only the serving differs, from its own first. */
static void fail_from(long from, long all)
{
    int32_t opened;
    struct outcome out;
    long refused = 0, lost = 0, unhurt = 0;
    for (long n = from; n <= all; n++) {
        live(n, &opened, &out);
        refused += !opened;
        lost += opened && out.lost;
        unhurt += opened && !out.lost;
    }
    printf(
        "%ld calls in a life: %ld faults refused at start, %ld ended every request with an error, "
        "%ld came after the last answer\n",
        all, refused, lost, unhurt);
    assert_true((refused > 0) == (from == 1) && lost > 0);
    live(0, &opened, &out); /* and the program is sound afterwards */
    assert_true(opened && out.finished == N);
}

static void every_call_may_fail(void **state)
{
    (void)state;
    int32_t opened;
    struct outcome out;
    way = (struct way){ 0 };
    const long all = live(0, &opened, &out);
    assert_true(opened && out.finished == N && !out.lost);
    fail_from(1, all);
}

static void every_call_may_fail_a_step_ahead(void **state)
{
    (void)state;
    int32_t opened;
    struct outcome out;
    way = (struct way){ .overlap = true };
    const long all = live(0, &opened, &out);
    assert_true(opened && out.finished == N && !out.lost);
    fail_from(opened_at + 1, all); /* opening is the same */
}

static void write_text(const char *text, size_t n)
{
    FILE *file = fopen(TIMES, "w");
    assert_non_null(file);
    assert_true(fwrite(text, 1, n, file) == n && fclose(file) == 0);
}

/* All times are in the file but those of its last line, so one matrix and row count is measured. A
 * fault there refuses the start, and the file stays as it was. */
static void every_call_of_measuring_may_fail(void **state)
{
    (void)state;
    enum { BEHIND = 3 }; /* calls after the last time was read: two events go */
    struct err err;
    int32_t opened;
    struct outcome out;
    char *text, *now;
    size_t size, n_now;
    (void)remove(TIMES);
    way = (struct way){ .kernels = TIMES };
    live(0, &opened, &out);
    assert_true(opened && out.finished == N);
    assert_ok(file_read(TIMES, 1 << 20, &text, &size, &err), &err);
    while (size > 1 && text[size - 2] != '\n')
        size--;
    size--;
    assert_true(size > 0 && strchr(text, '\n') + 1 < text + size);
    write_text(text, size);
    const long whole = tune_to - tune_from;
    live(0, &opened, &out);
    assert_true(opened && out.finished == N);
    const long from = tune_from, to = tune_to;
    printf("%ld calls measure all shapes, %ld the one that the file lacks\n", whole, to - from);
    assert_true(to - from > 20 && to - from < whole);
    long n = from + 1;
    for (;; n++) { /* how often a kernel runs depends on the clock: the end is where a life says */
        write_text(text, size);
        live(n, &opened, &out);
        if (n > tune_to)
            break;
        if (opened)
            fail_msg("call %ld of measuring failed, and the model was opened", n - from);
        assert_ok(file_read(TIMES, 1 << 20, &now, &n_now, &err), &err);
        if (n <= tune_to - BEHIND) { /* after that the times are known: the file has them all */
            assert_int_equal(n_now, size);
            assert_memory_equal(now, text, size);
        }
        free(now);
    }
    assert_true(n - from > 20);
    live(0, &opened, &out);
    assert_true(opened && out.finished == N);
    free(text);
    (void)remove(TIMES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_of_measuring_may_fail),
        cmocka_unit_test(every_call_may_fail_a_step_ahead),
        cmocka_unit_test(every_call_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
