/* The sampler against the reference's distributions, and its draws against its distributions. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/rng.h"
#include "host/backend/sampler.h"

enum { VOCAB_MAX = 4096, HISTORY_MAX = 512, BIASES_MAX = 16 };

struct sample_case {
    int64_t id;
    int32_t vocab, n_support;
    bool has_tie_note;
    float logits[VOCAB_MAX];
    int32_t history[HISTORY_MAX];
    struct logit_bias biases[BIASES_MAX];
    struct sample_params params;
    struct sample_row row;
    int32_t support[VOCAB_MAX];
    double probs[VOCAB_MAX]; /* by token */
};

static double number(const struct json_ref *obj, const char *key, double otherwise)
{
    struct err err;
    assert_ok(json_opt_double(obj, key, -1e300, 1e300, &otherwise, &err), &err);
    return otherwise;
}
static int32_t ints(const struct json_ref *obj, const char *key, int32_t *out, int32_t n_max)
{
    struct err err;
    struct json_ref list, item;
    int32_t n = 0;
    if (!json_get(obj, key, &list))
        return 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        int64_t value;
        assert_true(n < n_max);
        assert_ok(json_int(&item, 0, INT32_MAX, &value, &err), &err);
        out[n++] = (int32_t)value;
    }
    return n;
}
static int32_t doubles(const struct json_ref *obj, const char *key, double *out, int32_t n_max)
{
    struct err err;
    struct json_ref list, item;
    int32_t n = 0;
    assert_true(json_get(obj, key, &list));
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        assert_true(n < n_max);
        assert_ok(json_double(&item, -1e300, 1e300, &out[n++], &err), &err);
    }
    return n;
}
static void case_read(struct sample_case *c, const char *line, size_t length)
{
    struct err err;
    struct cJSON *tree;
    double values[VOCAB_MAX];
    assert_ok(json_parse(line, length, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err), &err);
    const struct json_ref root = json_root(tree);
    struct json_ref p, item, note;
    memset(c, 0, sizeof *c);
    c->id = (int64_t)number(&root, "id", -1);
    c->has_tie_note = json_get(&root, "tie_note", &note);
    c->vocab = doubles(&root, "logits", values, VOCAB_MAX);
    for (int32_t i = 0; i < c->vocab; i++)
        c->logits[i] = (float)values[i];
    c->n_support = ints(&root, "support", c->support, VOCAB_MAX);
    assert_int_equal(doubles(&root, "probs", values, VOCAB_MAX), c->n_support);
    for (int32_t i = 0; i < c->n_support; i++)
        c->probs[c->support[i]] = values[i];
    assert_true(json_get(&root, "params", &p));
    c->params = sample_params_neutral();
    c->params.temperature = (float)number(&p, "temperature", 1);
    c->params.top_k = (int32_t)number(&p, "top_k", 0);
    c->params.top_p = (float)number(&p, "top_p", 1);
    c->params.min_p = (float)number(&p, "min_p", 0);
    c->params.typical_p = (float)number(&p, "typical_p", 1);
    c->params.repetition_penalty = (float)number(&p, "repetition_penalty", 1);
    c->params.presence_penalty = (float)number(&p, "presence_penalty", 0);
    c->params.frequency_penalty = (float)number(&p, "frequency_penalty", 0);
    struct json_ref biases;
    if (json_get(&p, "logit_bias", &biases))
        for (bool more = json_first(&biases, &item); more; more = json_next(&item)) {
            double bias;
            assert_true(c->params.n_biases < BIASES_MAX);
            assert_ok(json_double(&item, -1e9, 1e9, &bias, &err), &err);
            c->biases[c->params.n_biases++] = (struct logit_bias){ atoi(item.key), (float)bias };
        }
    c->params.biases = c->biases;
    c->row = (struct sample_row){ .params = &c->params, .target = -1, .history = c->history };
    c->row.n_prompt = ints(&p, "prompt_ids", c->history, HISTORY_MAX / 2);
    c->row.n_output = ints(&p, "output_ids", c->history + c->row.n_prompt, HISTORY_MAX / 2);
    json_free(tree);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}
/* Draws of sampler_row against probs: chi-square over tokens expected at least 5 times, the rest
 * pooled; the bound is six standard deviations of the statistic. */
static void check_draws(struct sampler *s, const float *logits, const struct sample_row *like,
                        const double *probs, int32_t vocab, int64_t id)
{
    enum { DRAWS = 4000 };
    int32_t *counts = calloc((size_t)vocab, sizeof *counts);
    struct sample_row row = *like;
    for (int32_t i = 0; i < DRAWS; i++) {
        struct sample_out out;
        row.position = i;
        sampler_row(s, logits, &row, &out);
        if (out.token < 0 || out.token >= vocab || probs[out.token] <= 0)
            fail_msg("case %lld: drew %d, which has no probability", (long long)id, out.token);
        counts[out.token]++;
    }
    double chi = 0, rest_want = 0;
    int32_t rest_got = 0, n = -1;
    for (int32_t i = 0; i < vocab; i++) {
        const double want = probs[i] * DRAWS;
        if (want < 5) {
            rest_want += want;
            rest_got += counts[i];
            continue;
        }
        chi += (counts[i] - want) * (counts[i] - want) / want;
        n++;
    }
    if (rest_want > 1) {
        chi += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
        n++;
    }
    if (chi > n + 6 * sqrt(2 * n) + 1e-9)
        fail_msg("case %lld: chi-square %.1f with %d degrees", (long long)id, chi, n);
    free(counts);
}

/* got[] is the reference's. */
static void check_probs(const struct sample_case *c, double *got)
{
    double want[VOCAB_MAX];
    memcpy(want, c->probs, sizeof want);
    if (c->has_tie_note) {
        qsort(got, (size_t)c->vocab, sizeof *got, by_size);
        qsort(want, (size_t)c->vocab, sizeof *want, by_size);
    }
    for (int32_t i = 0; i < c->vocab; i++) {
        if (fabs(got[i] - want[i]) > 2e-7)
            fail_msg("case %lld: token %d has %.9g, wanted %.9g", (long long)c->id, i, got[i],
                     want[i]);
        if ((got[i] > 0) != (want[i] > 0))
            fail_msg("case %lld: token %d: support %.9g, wanted %.9g", (long long)c->id, i, got[i],
                     want[i]);
    }
}

static void check_case(struct sampler *s, struct sample_case *c)
{
    /* This order as a chain: what the order of a request is made of gives the same. */
    static const struct sample_chain chain = {
        .stages = { STAGE_PENALTIES, STAGE_DRY, STAGE_BIASES, STAGE_TEMPERATURE, STAGE_TOP_N_SIGMA,
                    STAGE_TOP_K, STAGE_TOP_P, STAGE_MIN_P, STAGE_TYPICAL, STAGE_XTC },
        .n_stages = SAMPLE_STAGES
    };
    double got[VOCAB_MAX], drawn[VOCAB_MAX];
    c->params.chain = &chain;
    sampler_probs(s, c->logits, &c->row, got);
    check_probs(c, got);
    c->params.chain = NULL;
    sampler_probs(s, c->logits, &c->row, got);
    memcpy(drawn, got, sizeof drawn);
    check_probs(c, got);
    c->params.seed = (uint64_t)c->id + 1;
    check_draws(s, c->logits, &c->row, drawn, c->vocab, c->id);
}

static void test_reference(void **state)
{
    (void)state;
    struct err err;
    char *text;
    size_t size;
    assert_ok(file_read(oracle_path("sampling/cases.jsonl"), 16 << 20, &text, &size, &err), &err);
    struct sample_case *c = malloc(sizeof *c);
    struct sampler *s = NULL;
    int32_t vocab = 0, n = 0;
    for (char *line = text, *end; line < text + size; line = end + 1, n++) {
        end = strchr(line, '\n');
        if (!end)
            end = text + size;
        case_read(c, line, (size_t)(end - line));
        if (c->vocab != vocab) {
            sampler_close(s);
            vocab = c->vocab;
            assert_ok(sampler_open(&s, vocab, &err), &err);
        }
        check_case(s, c);
    }
    assert_int_equal(n, 240);
    sampler_close(s);
    free(c);
    free(text);
}

/* ---- what the reference does not cover --------------------------------------------------------
 */

struct small {
    const char *name;
    float logits[6];
    float temperature;
    int32_t top_k;
    float top_p;
    int32_t banned; /* token, or -1 */
    uint32_t mask;  /* 0: none */
    double probs[6];
};
static const struct small smalls[] = {
    { "greedy takes the lowest id of equals", { 1, 3, 3, 0, 3, 1 }, 0, 0, 1, -1, 0, { 0, 1 } },
    { "greedy passes over NaN", { NAN, 1, 2, NAN, 0, NAN }, 0, 0, 1, -1, 0, { 0, 0, 1 } },
    { "greedy without the banned", { 5, 4, 3, 2, 1, 0 }, 0, 0, 1, 0, 0, { 0, 1 } },
    { "greedy under a mask", { 5, 4, 3, 2, 1, 0 }, 0, 0, 1, -1, 0x38, { 0, 0, 0, 1 } },
    { "everything excluded", { 1, 1, 1, 1, 1, 1 }, 1, 0, 1, 3, 0x08, { 0 } },
    { "everything excluded, greedy", { 1, 1, 1, 1, 1, 1 }, 0, 0, 1, 3, 0x08, { 0 } },
    { "only NaN", { NAN, NAN, NAN, NAN, NAN, NAN }, 1, 0, 1, -1, 0, { 0 } },
    { "NaN has no probability", { 1, NAN, 1, NAN, NAN, NAN }, 1, 0, 1, -1, 0, { .5, 0, .5 } },
    { "infinity takes all",
      { 1, INFINITY, 1, INFINITY, 0, 0 },
      1,
      2,
      .9f,
      -1,
      0,
      { 0, .5, 0, .5 } },
    { "top_k keeps ties", { 2, 1, 1, 1, 0, 0 }, 1e9f, 2, 1, -1, 0, { .25, .25, .25, .25 } },
    { "top_k of more than there are",
      { 1, 1, 1, 1, -INFINITY, 1 },
      1,
      6,
      1,
      -1,
      0,
      { .2, .2, .2, .2, 0, .2 } },
    { "top_p of nothing keeps the first", { 0, 1, 1, 1, 0, 0 }, 1, 0, 0, -1, 0, { 0, 1 } },
    { "top_p ties go by id", { 1, 1, 1, 1, 1, 1 }, 1, 0, .5f, -1, 0, { 1. / 3, 1. / 3, 1. / 3 } },
};
static void test_small(void **state)
{
    (void)state;
    struct err err;
    struct sampler *s;
    assert_ok(sampler_open(&s, 6, &err), &err);
    for (size_t i = 0; i < sizeof smalls / sizeof *smalls; i++) {
        const struct small *c = &smalls[i];
        struct sample_params p = sample_params_neutral();
        p.temperature = c->temperature;
        p.top_k = c->top_k;
        p.top_p = c->top_p;
        struct sample_row row = { .params = &p,
                                  .target = -1,
                                  .banned = &c->banned,
                                  .n_banned = c->banned >= 0,
                                  .mask = c->mask ? &c->mask : NULL };
        double got[6], sum = 0;
        sampler_probs(s, c->logits, &row, got);
        for (int32_t t = 0; t < 6; t++) {
            sum += c->probs[t];
            if (fabs(got[t] - c->probs[t]) > 1e-6)
                fail_msg("%s: token %d has %g, wanted %g", c->name, t, got[t], c->probs[t]);
        }
        struct sample_out out;
        sampler_row(s, c->logits, &row, &out);
        if (sum == 0 ? out.token != -1 : out.token < 0 || c->probs[out.token] <= 0)
            fail_msg("%s: drew %d", c->name, out.token);
    }
    sampler_close(s);
}

/* A uniform that falls on a token's share gives that token: seed, index and position choose it. */
static void test_draw_is_the_counter(void **state)
{
    (void)state;
    struct err err;
    struct sampler *s;
    const float logits[4] = { 0, 1, 2, 1.5f };
    assert_ok(sampler_open(&s, 4, &err), &err);
    struct sample_params p = sample_params_neutral();
    p.seed = 99;
    double probs[4];
    for (uint64_t index = 0; index < 3; index++)
        for (int64_t position = 0; position < 200; position++) {
            struct sample_row row = {
                .params = &p, .target = -1, .index = index, .position = position
            };
            struct sample_out out;
            sampler_probs(s, logits, &row, probs);
            sampler_row(s, logits, &row, &out);
            double u = rng_uniform(99, index, (uint64_t)position), sum = 0;
            int32_t want = 0;
            while (want < 3 && (sum += probs[want]) <= u)
                want++;
            assert_int_equal(out.token, want);
        }
    sampler_close(s);
}

static void test_logprobs(void **state)
{
    (void)state;
    struct err err;
    struct sampler *s;
    enum { VOCAB = 1000 };
    float logits[VOCAB];
    double sum = 0;
    for (int32_t i = 0; i < VOCAB; i++) {
        logits[i] = (float)(20 * rng_uniform(3, 0, (uint64_t)i) - 10);
        if (i == 501)
            logits[i] = logits[500] = 11;
        sum += i == 500 ? 0 : exp((double)logits[i]);
    }
    sum += exp(11);
    assert_ok(sampler_open(&s, VOCAB, &err), &err);
    struct sample_params p = sample_params_neutral();
    struct sample_out out;
    struct sample_row row = { .params = &p, .target = 7 };
    p.repetition_penalty = 3; /* log-probabilities are of the raw logits */
    p.n_top = SAMPLE_TOP_MAX;
    const int32_t history[] = { 500 };
    row.history = history;
    row.n_prompt = 1;
    sampler_row(s, logits, &row, &out);
    assert_int_equal(out.token, 7);
    assert_true(fabs((double)out.logprob - ((double)logits[7] - log(sum))) < 1e-6);
    assert_int_equal(out.n_top, SAMPLE_TOP_MAX);
    assert_int_equal(out.top_tokens[0], 500);
    assert_int_equal(out.top_tokens[1], 501);
    assert_true(fabs((double)out.top_logprobs[0] - (11 - log(sum))) < 1e-6);
    for (int32_t i = 1; i < SAMPLE_TOP_MAX; i++) {
        assert_true(out.top_logprobs[i] <= out.top_logprobs[i - 1]);
        assert_true(fabs((double)out.top_logprobs[i] -
                         ((double)logits[out.top_tokens[i]] - log(sum))) < 1e-6);
    }
    int32_t above = 0;
    for (int32_t i = 0; i < VOCAB; i++)
        above += logits[i] > logits[out.top_tokens[SAMPLE_TOP_MAX - 1]];
    assert_int_equal(above, SAMPLE_TOP_MAX - 1);
    p.n_top = -1;
    sampler_row(s, logits, &row, &out);
    assert_true(out.logprob == 0 && out.n_top == 0);
    p.n_top = 0;
    p.temperature = 0;
    row.target = -1;
    sampler_row(s, logits, &row, &out);
    assert_int_equal(out.token, 501); /* 500 is penalized */
    assert_true(fabs((double)out.logprob - (11 - log(sum))) < 1e-6);
    sampler_close(s);
}

/* Selection without sorting against sorting, on vocabularies that punish bins: flat, steep, with
 * outliers, and full of ties. */
struct shape {
    const char *name;
    int32_t kind, top_k;
    float top_p;
};
static const struct shape shapes[] = {
    { "near normal, k 40", 0, 40, 1 },
    { "near normal, p 0.9", 0, 0, .9f },
    { "near normal, k 300, p 0.5", 0, 300, .5f },
    { "flat, p 0.3", 1, 0, .3f },
    { "outliers far below, k 100", 2, 100, 1 },
    { "outliers far below, p 0.99", 2, 0, .99f },
    { "few values, many ties, k 10", 3, 10, 1 },
    { "few values, many ties, p 0.7", 3, 0, .7f },
    { "ascending, k 1000, p 0.999", 4, 1000, .999f },
};
struct pair {
    float x;
    int32_t id;
};
static int by_logit(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    return x->x != y->x ? (x->x < y->x) - (x->x > y->x) : (x->id > y->id) - (x->id < y->id);
}
static void test_selection(void **state)
{
    (void)state;
    struct err err;
    struct sampler *s;
    enum { VOCAB = 20000 };
    float *logits = malloc(VOCAB * sizeof *logits);
    double *got = malloc(VOCAB * sizeof *got), *want = malloc(VOCAB * sizeof *want);
    struct pair *sorted = malloc(VOCAB * sizeof *sorted);
    assert_ok(sampler_open(&s, VOCAB, &err), &err);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *c = &shapes[i];
        for (int32_t t = 0; t < VOCAB; t++) {
            const double u = rng_uniform(i, 0, (uint64_t)t), v = rng_uniform(i, 1, (uint64_t)t);
            const double normal = sqrt(-2 * log(1 - u)) * cos(6.283185307 * v);
            const double kinds[] = { 2 * normal, 1e-6 * u, u < .01 ? -1e30 : normal, floor(4 * u),
                                     t * 1e-3 };
            logits[t] = (float)kinds[c->kind];
            sorted[t] = (struct pair){ logits[t], t };
        }
        qsort(sorted, VOCAB, sizeof *sorted, by_logit);
        int32_t n = VOCAB;
        if (c->top_k > 0)
            for (n = c->top_k; n < VOCAB && sorted[n].x == sorted[c->top_k - 1].x;)
                n++;
        double total = 0, sum = 0;
        for (int32_t t = 0; t < n; t++)
            total += exp((double)sorted[t].x - (double)sorted[0].x);
        if (c->top_p < 1) {
            int32_t kept = 0;
            while (kept < n && sum < (double)c->top_p * total)
                sum += exp((double)sorted[kept++].x - (double)sorted[0].x);
            n = kept;
            total = sum;
        }
        memset(want, 0, VOCAB * sizeof *want);
        for (int32_t t = 0; t < n; t++)
            want[sorted[t].id] = exp((double)sorted[t].x - (double)sorted[0].x) / total;
        struct sample_params p = sample_params_neutral();
        p.top_k = c->top_k;
        p.top_p = c->top_p;
        const struct sample_row row = { .params = &p, .target = -1 };
        sampler_probs(s, logits, &row, got);
        for (int32_t t = 0; t < VOCAB; t++)
            if (fabs(got[t] - want[t]) > 1e-12)
                fail_msg("%s: token %d has %.12g, wanted %.12g", c->name, t, got[t], want[t]);
    }
    sampler_close(s);
    free(logits);
    free(got);
    free(want);
    free(sorted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),           cmocka_unit_test(test_small),
        cmocka_unit_test(test_draw_is_the_counter), cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_selection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
