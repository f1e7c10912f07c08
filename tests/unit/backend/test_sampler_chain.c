/* The samplers of chains against make_sampling_chain.py's probabilities; mirostat's memory; bounds.
 */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/backend/sampler.h"

enum { VOCAB_MAX = 256, IDS_MAX = 256, RUNS_MAX = 8 };

struct chain_case {
    char kind[16];
    int32_t vocab;
    float logits[VOCAB_MAX];
    double probs[VOCAB_MAX];
    int32_t history[IDS_MAX];
    struct logit_bias biases[8];
    uint32_t allowed[VOCAB_MAX / 32], breaks[VOCAB_MAX / 32];
    int32_t ids[RUNS_MAX * 2][8];
    struct token_run words[RUNS_MAX], breaks_long[RUNS_MAX];
    struct sample_chain chain;
    struct sample_params params;
    struct sample_state state;
    struct sample_row row;
};

static double number(const struct json_ref *obj, const char *key, double otherwise)
{
    struct err err;
    assert_ok(json_opt_double(obj, key, -1e9, 1e9, &otherwise, &err), &err);
    return otherwise;
}
static int32_t numbers(const struct json_ref *obj, const char *key, double *out)
{
    struct json_ref list, item;
    struct err err;
    int32_t n = 0;
    if (!json_get(obj, key, &list))
        return 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        assert_true(n < VOCAB_MAX);
        assert_ok(json_double(&item, -1e9, 1e9, &out[n++], &err), &err);
    }
    return n;
}
static int32_t ids(const struct json_ref *list, int32_t *out)
{
    struct json_ref item;
    struct err err;
    int32_t n = 0;
    for (bool more = json_first(list, &item); more; more = json_next(&item)) {
        int64_t value;
        assert_true(n < IDS_MAX);
        assert_ok(json_int(&item, 0, VOCAB_MAX - 1, &value, &err), &err);
        out[n++] = (int32_t)value;
    }
    return n;
}
static enum sample_stage stage_of(const char *name)
{
    static const char *const names[SAMPLE_STAGES] = { "penalties",   "dry",         "biases",
                                                      "temperature", "top_n_sigma", "top_k",
                                                      "top_p",       "min_p",       "typ_p",
                                                      "xtc" };
    for (int32_t i = 0; i < SAMPLE_STAGES; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum sample_stage)i;
    fail_msg("stage %s", name);
    return SAMPLE_STAGES;
}

static void read_lists(struct chain_case *c, const struct json_ref *p)
{
    struct err err;
    struct json_ref list, item, part;
    int32_t n_used = 0;
    if (json_get(p, "stages", &list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
            const char *name;
            assert_ok(json_string(&item, &name, &err), &err);
            c->chain.stages[c->chain.n_stages++] = stage_of(name);
        }
    if (json_get(p, "prompt_ids", &list))
        c->row.n_prompt = ids(&list, c->history);
    if (json_get(p, "output_ids", &list))
        c->row.n_output = ids(&list, c->history + c->row.n_prompt);
    if (json_get(p, "allowed", &list)) {
        int32_t allowed[IDS_MAX], n = ids(&list, allowed);
        for (int32_t i = 0; i < n; i++)
            c->allowed[allowed[i] / 32] |= 1u << allowed[i] % 32;
        c->params.allowed = c->allowed;
    }
    if (json_get(p, "logit_bias", &list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
            int64_t token;
            double bias = -INFINITY;
            assert_true(json_first(&item, &part));
            assert_ok(json_int(&part, 0, VOCAB_MAX, &token, &err), &err);
            assert_true(json_next(&part));
            if (!json_is_bool(&part))
                assert_ok(json_double(&part, -100, 100, &bias, &err), &err);
            c->biases[c->params.n_biases++] = (struct logit_bias){ (int32_t)token, (float)bias };
        }
    if (json_get(p, "bad_words", &list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
            int32_t *to = c->ids[n_used++];
            c->words[c->chain.n_bad_words++] = (struct token_run){ to, ids(&item, to) };
        }
    if (json_get(p, "dry_breaks", &list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
            int32_t *to = c->ids[n_used++];
            const int32_t n = ids(&item, to);
            if (n == 1)
                c->breaks[to[0] / 32] |= 1u << to[0] % 32;
            else
                c->breaks_long[c->chain.n_dry_breaks_long++] = (struct token_run){ to, n };
        }
}

static void read_case(struct chain_case *c, const char *line, size_t length)
{
    struct err err;
    struct cJSON *tree;
    double values[VOCAB_MAX], support[VOCAB_MAX];
    const char *kind = "";
    assert_ok(json_parse(line, length, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err), &err);
    const struct json_ref root = json_root(tree);
    struct json_ref p, at;
    memset(c, 0, sizeof *c);
    assert_ok(json_opt_string(&root, "kind", &kind, &err), &err);
    snprintf(c->kind, sizeof c->kind, "%s", kind);
    c->vocab = numbers(&root, "logits", values);
    for (int32_t i = 0; i < c->vocab; i++)
        c->logits[i] = (float)values[i];
    const int32_t n = numbers(&root, "support", support);
    assert_int_equal(numbers(&root, "probs", values), n);
    for (int32_t i = 0; i < n; i++)
        c->probs[(int32_t)support[i]] = values[i];
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
    c->chain = (struct sample_chain){
        .windowed = json_get(&p, "repeat_last_n", &at),
        .last_n = (int32_t)number(&p, "repeat_last_n", -1),
        .dynatemp_range = (float)number(&p, "dynatemp_range", 0),
        .dynatemp_exponent = (float)number(&p, "dynatemp_exponent", 1),
        .top_n_sigma = (float)number(&p, "top_n_sigma", -1),
        .xtc_probability = (float)number(&p, "xtc_probability", 0),
        .xtc_threshold = (float)number(&p, "xtc_threshold", 0.1),
        .min_keep = (int32_t)number(&p, "min_keep", 0),
        .dry_multiplier = (float)number(&p, "dry_multiplier", 0),
        .dry_base = (float)number(&p, "dry_base", 1.75),
        .dry_allowed_length = (int32_t)number(&p, "dry_allowed_length", 2),
        .dry_last_n = (int32_t)number(&p, "dry_penalty_last_n", -1),
        .dry_breaks = c->breaks,
        .dry_breaks_long = c->breaks_long,
        .bad_words = c->words,
        .mirostat = (int32_t)number(&p, "mirostat", 0),
        .mirostat_tau = (float)number(&p, "mirostat_tau", 5),
        .mirostat_eta = (float)number(&p, "mirostat_eta", 0.1),
    };
    c->row = (struct sample_row){
        .params = &c->params, .target = -1, .history = c->history, .state = &c->state
    };
    read_lists(c, &p);
    c->params.chain = &c->chain;
    c->params.biases = c->biases;
    c->state.begun = json_get(&p, "mu", &at);
    c->state.mu = number(&p, "mu", 0);
    json_free(tree);
}

/* How often each token is drawn against its probability: chi-square, as test_sampler.c has it. */
static void check_draws(struct sampler *s, const struct chain_case *c, int32_t number)
{
    enum { DRAWS = 2000 };
    int32_t counts[VOCAB_MAX] = { 0 }, n = -1, rest = 0;
    double chi = 0, rest_want = 0;
    for (int32_t i = 0; i < DRAWS; i++) {
        struct sample_state state = c->state;
        struct sample_row row = c->row;
        struct sample_out out;
        row.position = i;
        row.state = &state;
        sampler_row(s, c->logits, &row, &out);
        if (out.token < 0 || c->probs[out.token] <= 0)
            fail_msg("case %d: drew %d, which has no probability", number, out.token);
        counts[out.token]++;
        if (c->chain.mirostat == 0 || i > 20)
            continue;
        const double mu = c->state.begun ? c->state.mu : 2 * (double)c->chain.mirostat_tau;
        const double surprise = -log2(c->probs[out.token]);
        const double want =
            mu - (double)c->chain.mirostat_eta * (surprise - (double)c->chain.mirostat_tau);
        if (!state.begun || fabs(state.mu - want) > 1e-5)
            fail_msg("case %d: mu is %.9g, wanted %.9g", number, state.mu, want);
    }
    for (int32_t i = 0; i < c->vocab; i++) {
        const double want = c->probs[i] * DRAWS;
        if (want < 5) {
            rest_want += want;
            rest += counts[i];
            continue;
        }
        chi += (counts[i] - want) * (counts[i] - want) / want;
        n++;
    }
    if (rest_want > 1) {
        chi += (rest - rest_want) * (rest - rest_want) / rest_want;
        n++;
    }
    if (chi > n + 6 * sqrt(2 * n) + 1e-9)
        fail_msg("case %d: chi-square %.1f with %d degrees", number, chi, n);
}

static void test_reference(void **state)
{
    (void)state;
    struct err err;
    char *text;
    size_t size;
    assert_ok(file_read(oracle_path("sampling/chain.jsonl"), 16 << 20, &text, &size, &err), &err);
    struct chain_case *c = malloc(sizeof *c);
    int32_t n = 0;
    for (char *line = text, *end; line < text + size; line = end + 1, n++) {
        struct sampler *s;
        double got[VOCAB_MAX];
        end = strchr(line, '\n');
        assert_non_null(end);
        read_case(c, line, (size_t)(end - line));
        assert_ok(sampler_open(&s, c->vocab, &err), &err);
        for (int32_t round = 0; round < 2;
             round++) { /* what one row marks, the next must not see */
            sampler_probs(s, c->logits, &c->row, got);
            for (int32_t i = 0; i < c->vocab; i++)
                if (fabs(got[i] - c->probs[i]) > 1e-6 || (got[i] > 0) != (c->probs[i] > 0))
                    fail_msg("case %d (%s): token %d has %.9g, wanted %.9g", n, c->kind, i, got[i],
                             c->probs[i]);
        }
        c->params.seed = (uint64_t)n;
        check_draws(s, c, n);
        sampler_close(s);
    }
    assert_int_equal(n, 240);
    free(c);
    free(text);
}

/* DRY over a context of one token repeated: linear, not square; and the power stays finite. */
static void test_long_repetition(void **state)
{
    (void)state;
    enum { VOCAB = 20000, LONG = 100000 };
    struct err err;
    struct sampler *s;
    float *logits = calloc(VOCAB, sizeof *logits);
    int32_t *history = calloc(LONG, sizeof *history);
    double *probs = calloc(VOCAB, sizeof *probs);
    assert_ok(sampler_open(&s, VOCAB, &err), &err);
    struct sample_chain chain = { .stages = { STAGE_DRY },
                                  .n_stages = 1,
                                  .dry_multiplier = 1,
                                  .dry_base = 1.75f,
                                  .dry_allowed_length = 2,
                                  .dry_last_n = -1 };
    struct sample_params p = sample_params_neutral();
    p.chain = &chain;
    const struct sample_row row = {
        .params = &p, .target = -1, .history = history, .n_prompt = LONG
    };
    const uint64_t begun = clock_ms();
    for (int32_t i = 0; i < 20; i++)
        sampler_probs(s, logits, &row, probs);
    assert_true(clock_ms() - begun < 5000); /* 20 * LONG^2 / 2 comparisons take a minute */
    assert_true(probs[0] == 0 && fabs(probs[1] - 1.0 / (VOCAB - 1)) < 1e-12);
    /* base 1: every repetition costs the same */
    chain.dry_base = 1;
    sampler_probs(s, logits, &row, probs);
    assert_true(fabs(probs[0] / probs[1] - exp(-1)) < 1e-9);
    sampler_close(s);
    free(logits);
    free(history);
    free(probs);
}

/* Nothing left: no token, as without a chain. */
static void test_nothing_left(void **state)
{
    (void)state;
    struct err err;
    struct sampler *s;
    const float logits[3] = { 1, 2, 3 };
    const uint32_t allowed = 2;
    const struct logit_bias never = { 1, -INFINITY };
    struct sample_chain chain = { .stages = { STAGE_BIASES, STAGE_TEMPERATURE }, .n_stages = 2 };
    struct sample_params p = sample_params_neutral();
    struct sample_out out;
    const struct sample_row row = { .params = &p, .target = -1 };
    assert_ok(sampler_open(&s, 3, &err), &err);
    p.allowed = &allowed;
    for (int32_t i = 0; i < 4; i++) {
        p.chain = i % 2 ? &chain : NULL;
        p.n_biases = i / 2;
        p.biases = &never;
        sampler_row(s, logits, &row, &out);
        assert_int_equal(out.token, i / 2 ? -1 : 1);
    }
    sampler_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_long_repetition),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
