/* The load generator's plans, numbers and figures. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/json.h"
#include "server/loadgen.h"

static void lengths_are_read(void **state)
{
    (void)state;
    static const char *const bad[] = { "",       "0",         "-3",           "x",
                                       "12x",    "uniform:4", "uniform:9:4",  "uniform:0:4",
                                       "normal", "normal:5:", "normal:5:-1",  "normal:0:1",
                                       "nan",    "1e300",     "uniform:1:2:3" };
    struct load_lengths l;
    struct err err;
    assert_true(load_lengths_read("128", &l, &err));
    assert_int_equal(load_lengths_draw(&l, 1, 2, 3), 128);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(load_lengths_read(bad[i], &l, &err));
}

static void lengths_have_their_moments(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct load_lengths l;
    struct err err;
    double sum = 0, squares = 0;
    int32_t low = INT32_MAX, high = 0;
    assert_true(load_lengths_read("uniform:10:20", &l, &err));
    for (uint64_t i = 0; i < N; i++) {
        int32_t n = load_lengths_draw(&l, 7, 1, i);
        sum += n;
        low = n < low ? n : low;
        high = n > high ? n : high;
        assert_int_equal(n, load_lengths_draw(&l, 7, 1, i));
    }
    assert_int_equal(low, 10);
    assert_int_equal(high, 20);
    assert_true(fabs(sum / N - 15) < 0.1); /* deviation 3.16 / sqrt(N) = 0.022 */
    assert_true(load_lengths_read("normal:100:20", &l, &err));
    sum = 0;
    for (uint64_t i = 0; i < N; i++) {
        double n = load_lengths_draw(&l, 7, 2, i);
        sum += n;
        squares += n * n;
    }
    assert_true(fabs(sum / N - 100) < 0.7); /* 5 x 20 / sqrt(N) */
    assert_true(fabs(sqrt(squares / N - sum / N * sum / N) - 20) < 0.6);
    assert_true(load_lengths_read("normal:2:50", &l, &err));
    for (uint64_t i = 0; i < N; i++)
        assert_true(load_lengths_draw(&l, 7, 3, i) >= 1);
}

/* Mean and the exponential's share beyond the mean, 1/e. */
static void arrivals_are_poisson(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct load_plan plan = { .seed = 3 };
    double sum = 0;
    int beyond = 0;
    for (int32_t i = 0; i < N; i++) {
        double gap = load_plan_gap(&plan, 0, i, 50);
        assert_true(gap >= 0);
        sum += gap;
        beyond += gap > 0.02;
    }
    assert_true(fabs(sum / N - 0.02) < 0.02 * 5 / sqrt(N));
    assert_true(fabs((double)beyond / N - exp(-1)) < 0.02);
    assert_true(load_plan_gap(&plan, 0, 5, 50) == load_plan_gap(&plan, 0, 5, 50));
    assert_true(load_plan_gap(&plan, 0, 5, 50) != load_plan_gap(&plan, 1, 5, 50));
}

/* Values of numpy.percentile, method "linear". */
static void percentiles_are_numpys(void **state)
{
    (void)state;
    double values[] = { 15, 20, 35, 40, 50 };
    assert_float_equal(load_percentile(values, 5, 50), 35, 1e-12);
    assert_float_equal(load_percentile(values, 5, 40), 29, 1e-12);
    assert_float_equal(load_percentile(values, 5, 90), 46, 1e-12);
    assert_float_equal(load_percentile(values, 5, 99), 49.6, 1e-12);
    assert_float_equal(load_percentile(values, 5, 0), 15, 0);
    assert_float_equal(load_percentile(values, 5, 100), 50, 0);
    double unsorted[] = { 3, 1, 2 };
    assert_float_equal(load_percentile(unsorted, 3, 50), 2, 0);
    assert_float_equal(load_percentile(unsorted, 1, 99), 1, 0);
    assert_float_equal(load_percentile(unsorted, 0, 50), 0, 0);
}

static struct load_plan words_plan(bool chat)
{
    return (struct load_plan){ .chat = chat,
                               .stream = true,
                               .ignore_eos = true,
                               .temperature = 0,
                               .seed = 1,
                               .prompt = { LENGTHS_FIXED, 100, 0 },
                               .output = { LENGTHS_FIXED, 7, 0 },
                               .tokens_per_word = 2,
                               .tokens_around = 10 };
}

static void bodies_say_what_was_asked(void **state)
{
    (void)state;
    struct load_plan plan = words_plan(false);
    struct buf body, again;
    struct err err;
    struct cJSON *root;
    struct json_ref prompt, max_tokens, options;
    const char *text;
    int64_t n = 0;
    buf_init(&body, 1 << 20);
    buf_init(&again, 1 << 20);
    load_plan_body(&plan, 0, 4, "a \"model\"", &body);
    load_plan_body(&plan, 0, 4, "a \"model\"", &again);
    assert_string_equal(buf_text(&body), buf_text(&again));
    assert_true(
        json_parse(buf_text(&body), body.length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &root, &err));
    struct json_ref at = json_root(root);
    assert_true(json_get(&at, "prompt", &prompt) && json_string(&prompt, &text, &err));
    int words = 1;
    for (const char *c = text; *c; c++)
        words += *c == ' ';
    assert_int_equal(words, 45); /* (100 - 10) / 2 */
    assert_true(json_get(&at, "max_tokens", &max_tokens) &&
                json_int(&max_tokens, 1, 100, &n, &err));
    assert_int_equal(n, 7);
    assert_true(json_get(&at, "stream_options", &options));
    json_free(root);
    load_plan_body(&plan, 0, 5, "a \"model\"", &again);
    assert_string_not_equal(buf_text(&body), buf_text(&again));
    load_plan_body(&plan, 1, 4, "a \"model\"", &again); /* another stage: nothing is cached */
    assert_string_not_equal(buf_text(&body), buf_text(&again));
    plan.seed = 2;
    load_plan_body(&plan, 0, 4, "a \"model\"", &again);
    assert_string_not_equal(buf_text(&body), buf_text(&again));
    buf_clear(&body);
    buf_clear(&again);
}

/* Ten requests, every figure by hand. */
static void a_stage_is_summed_up(void **state)
{
    (void)state;
    struct load_record records[10];
    float gaps[] = { 0.010f, 0.030f, 0.020f };
    for (int i = 0; i < 10; i++)
        records[i] = (struct load_record){ .ttft = 0.1 * (10 - i),
                                           .e2e = 2 + 0.1 * i,
                                           .tpot = i == 0 ? 0 : 0.05,
                                           .gap_max = 0.06,
                                           .n_prompt = 20,
                                           .n_output = i == 0 ? 1 : 11 };
    struct load_stage stage = { .concurrency = 2,
                                .records = records,
                                .n_ok = 10,
                                .n_sent = 13,
                                .gaps = gaps,
                                .n_gaps = 3,
                                .seconds = 4 };
    stage.errors[LOAD_STATUS] = 2;
    stage.errors[LOAD_CLOSED] = 1;
    struct load_summary s;
    struct err err;
    assert_true(load_summarize(&stage, &(struct load_limits){ .ttft = 0.5 }, &s, &err));
    assert_float_equal(s.ttft.p50, 0.55, 1e-9);
    assert_float_equal(s.ttft.p90, 0.91, 1e-9);
    assert_float_equal(s.ttft.p99, 0.991, 1e-9);
    assert_float_equal(s.e2e.mean, 2.45, 1e-9);
    assert_int_equal(s.tpot.n, 9); /* one token has no time per further token */
    assert_float_equal(s.itl.p50, 0.020, 1e-6);
    assert_float_equal(s.itl.max, 0.030, 1e-6);
    assert_float_equal(s.requests_per_s, 2.5, 1e-9);
    assert_float_equal(s.output_per_s, 25, 1e-9); /* 100 / 4 */
    assert_float_equal(s.total_per_s, 75, 1e-9);
    assert_int_equal(s.n_errors, 3);
    assert_int_equal(s.n_good, 5); /* TTFT of 0.1 to 0.5 */
    assert_float_equal(s.goodput, 1.25, 1e-9);
    assert_true(
        load_summarize(&stage, &(struct load_limits){ .ttft = 0.5, .e2e = 2.55 }, &s, &err));
    assert_int_equal(s.n_good,
                     1); /* ttft <= .5 are the last five, of which only 2.5 ends in time */
    assert_true(load_summarize(&stage, &(struct load_limits){ .itl = 0.05 }, &s, &err));
    assert_int_equal(s.n_good, 0);
    assert_true(load_summarize(&stage, &(struct load_limits){ .tpot = 0.05 }, &s, &err));
    assert_int_equal(s.n_good, 10);
}

static void a_stage_without_a_reply_has_zeros(void **state)
{
    (void)state;
    struct load_stage stage = { .concurrency = 1 };
    struct load_summary s;
    struct err err;
    assert_true(load_summarize(&stage, &(struct load_limits){ 0 }, &s, &err));
    assert_true(s.ttft.p99 == 0 && s.requests_per_s == 0 && s.goodput == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_read),
        cmocka_unit_test(lengths_have_their_moments),
        cmocka_unit_test(arrivals_are_poisson),
        cmocka_unit_test(percentiles_are_numpys),
        cmocka_unit_test(bodies_say_what_was_asked),
        cmocka_unit_test(a_stage_is_summed_up),
        cmocka_unit_test(a_stage_without_a_reply_has_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
