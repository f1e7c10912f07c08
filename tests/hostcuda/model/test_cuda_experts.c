/* Models with experts: the CUDA backend (under the emulator, or on a GPU where this is linked with
 * the real one) against the CPU's exact arithmetic, which the oracle suite has proved.
 *
 * Bounds as in test_cuda_model.c. Where two experts' logits are nearly the same a rounding sends a
 * row to another one: a tenth of the rows may differ by that. */
#include "tests/oracle/model_run.h"

#include <math.h>
#include "cuda/cuda_backend.h"
#include "host/base/rng.h"

enum { TOKENS = 40, CTX = 64, ROWS = 48, FLIPS = TOKENS / 10, SEQS = 5, EACH = 6 };
static const double NMSE_MAX = 1e-3;

static struct cuda_options cuda_options;
static int64_t totals[64]; /* kernel paths of every backend of this program */

static bool open_cuda(struct backend **be, struct err *err)
{
    return cuda_backend_open(be, &cuda_options, err);
}
static void count_paths(const struct backend *be)
{
    const int64_t *counts = cuda_backend_counts(be);
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        totals[i] += counts[i];
}
static void draw_tokens(int32_t *tokens, int32_t n, int32_t vocab)
{
    for (int32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_philox(5, 1, (uint64_t)i).v[0] % (uint32_t)vocab);
}
static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
/* The worst row but FLIPS of them. */
static double worst_row(const float *found, const float *wanted, int32_t vocab, const char *name)
{
    double rows[TOKENS];
    for (int32_t r = 0; r < TOKENS; r++) {
        rows[r] =
            nmse(found + (size_t)r * (size_t)vocab, wanted + (size_t)r * (size_t)vocab, vocab);
        if (!isfinite(rows[r]))
            fail_msg("%s: row %d is not finite", name, r);
    }
    qsort(rows, TOKENS, sizeof *rows, compare_doubles);
    return rows[TOKENS - 1 - FLIPS];
}

/* A model on a backend, with pages: from a folder, or random weights of a config. */
struct loaded {
    struct model_run run;
    bool dummy;
};
static void load(struct loaded *m, const char *folder, const char *config,
                 const struct model_setup *setup)
{
    struct err err;
    m->dummy = config != NULL;
    if (!m->dummy) {
        assert_ok(model_run_open(&m->run, folder, NULL, setup, &err), &err);
        return;
    }
    struct model_run *run = &m->run;
    *run = (struct model_run){ 0 };
    const struct cpu_options cpu = { .n_threads = setup->n_threads, .exact = setup->exact };
    const struct model_options options = { .weights = setup->weights,
                                           .group = setup->group,
                                           .ctx = CTX,
                                           .rows_max = ROWS,
                                           .logit_rows_max = ROWS };
    const int32_t n_pages[KV_GROUPS_MAX] = { 8, 8, 8, 8 };
    assert_ok(setup->open_backend != NULL ? setup->open_backend(&run->be, &err)
                                          : cpu_backend_open(&run->be, &cpu, &err),
              &err);
    assert_ok(model_open(&run->model, NULL, config, run->be, &options, &err), &err);
    run->kv = run->model.kv_shape;
    assert_ok(kv_cache_reserve(&run->kv, run->be, n_pages, &err), &err);
    assert_ok(batch_single_init(&run->single, ROWS, CTX, run->kv.n_groups, &err), &err);
}
static void unload(struct loaded *m)
{
    if (!m->dummy) {
        model_run_close(&m->run);
        return;
    }
    batch_single_clear(&m->run.single);
    model_close(&m->run.model);
    m->run.be->ops->close(m->run.be);
}

/* gpt-oss in small: sinks, biases everywhere, clamped gates, windows, rows of bf16. */
static const char GPT_OSS[] =
    "{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\",\"vocab_size\":96,"
    "\"hidden_size\":128,\"intermediate_size\":64,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":64,\"sliding_window\":16,"
    "\"num_local_experts\":6,\"num_experts_per_tok\":3,\"swiglu_limit\":0.75,"
    "\"max_position_embeddings\":64}";
/* More experts than rows of a decode step; one chosen. */
static const char MANY[] =
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\",\"vocab_size\":96,"
    "\"hidden_size\":128,\"intermediate_size\":64,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":64,\"num_experts\":40,"
    "\"num_experts_per_tok\":1,\"moe_intermediate_size\":32,\"max_position_embeddings\":64}";

struct model_case {
    const char *name, *folder, *config;
    enum weights_mode weights;
    int32_t group;
    bool invariant;
};
static void run_case(const struct model_case *c)
{
    static const int32_t chunks[] = { TOKENS, 1, 7, 33 };
    struct loaded cpu, gpu;
    struct model_setup setup = { .exact = true,
                                 .weights = c->weights,
                                 .group = c->group,
                                 .n_threads = 2,
                                 .ctx = CTX,
                                 .rows = ROWS,
                                 .pages = true };
    int32_t tokens[TOKENS];
    load(&cpu, c->folder, c->config, &setup);
    const int32_t vocab = cpu.run.model.vocab;
    const size_t size = (size_t)TOKENS * (size_t)vocab;
    float *wanted = malloc(size * sizeof *wanted), *found = malloc(size * sizeof *found);
    float *first = malloc(size * sizeof *first);
    assert_true(wanted != NULL && found != NULL && first != NULL);
    draw_tokens(tokens, TOKENS, vocab);
    model_run_logits(&cpu.run, tokens, TOKENS, TOKENS, wanted, NULL, NULL);
    cuda_options = (struct cuda_options){ .invariant = c->invariant };
    setup.exact = false;
    setup.open_backend = open_cuda;
    load(&gpu, c->folder, c->config, &setup);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        model_run_logits(&gpu.run, tokens, TOKENS, chunks[i], found, NULL, NULL);
        const double worst = worst_row(found, wanted, vocab, c->name);
        printf("%-40s chunk %2d  %.2e\n", c->name, chunks[i], worst);
        if (worst > NMSE_MAX)
            fail_msg("%s, chunks of %d: NMSE %.3g, want at most %.3g", c->name, chunks[i], worst,
                     NMSE_MAX);
        if (i == 0)
            memcpy(first, found, size * sizeof *first);
        else if (c->invariant && memcmp(first, found, size * sizeof *first) != 0)
            fail_msg("%s, chunks of %d: other bits", c->name, chunks[i]);
    }
    count_paths(gpu.run.be);
    unload(&gpu);
    unload(&cpu);
    free(wanted);
    free(found);
    free(first);
}

static void logits_are_the_cpus(void **state)
{
    (void)state;
    const char *qwen2 = NIBBLE_TESTS_DIR "/oracle/models/qwen2_moe";
    const struct model_case cases[] = {
        { "shared expert, as stored", qwen2, NULL, WEIGHTS_AUTO, 128, false },
        { "shared expert, int8", qwen2, NULL, WEIGHTS_INT8, 32, false },
        { "shared expert, int4, invariant", qwen2, NULL, WEIGHTS_INT4, 32, true },
        { "gpt-oss, as stored", NULL, GPT_OSS, WEIGHTS_AUTO, 128, false },
        { "gpt-oss, int4", NULL, GPT_OSS, WEIGHTS_INT4, 64, false },
        { "40 experts, int4", NULL, MANY, WEIGHTS_INT4, 32, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i]);
}

/* Steps of five sequences are recorded for eight rows: padding goes to no expert, and the recording
 * gives what the same steps give eagerly, bit for bit. */
static void recordings_give_the_same(void **state)
{
    (void)state;
    float *logits[2] = { NULL, NULL };
    int32_t vocab = 0;
    for (int32_t eager = 0; eager < 2; eager++) {
        struct loaded gpu;
        const struct model_setup setup = { .weights = WEIGHTS_INT4,
                                           .group = 32,
                                           .ctx = SEQS * PAGE_TOKENS,
                                           .rows = ROWS,
                                           .pages = true,
                                           .open_backend = open_cuda };
        cuda_options = (struct cuda_options){ .no_graphs = eager };
        load(&gpu, NIBBLE_TESTS_DIR "/oracle/models/qwen2_moe", NULL, &setup);
        vocab = gpu.run.model.vocab;
        logits[eager] = calloc((size_t)(EACH * SEQS) * (size_t)vocab, sizeof **logits);
        assert_non_null(logits[eager]);
        for (int32_t p = 0; p < EACH; p++) {
            int32_t tokens[SEQS], positions[SEQS], row_seq[SEQS], rows[SEQS], table[SEQS];
            struct batch_seq seqs[SEQS];
            struct batch batch = { .serial = batch_serial_next(),
                                   .n_groups = 1,
                                   .n_rows = SEQS,
                                   .n_seqs = SEQS,
                                   .n_logit_rows = SEQS,
                                   .tokens = tokens,
                                   .positions = positions,
                                   .row_seq = row_seq,
                                   .seqs = seqs,
                                   .logit_rows = rows,
                                   .pages = { table },
                                   .pages_stride = { 1 } };
            for (int32_t s = 0; s < SEQS; s++) {
                seqs[s] = (struct batch_seq){
                    .slot = s, .first_row = s, .n_rows = 1, .first_position = p
                };
                tokens[s] = (17 * s + 5 * p + 3) % vocab;
                positions[s] = p;
                row_seq[s] = rows[s] = s;
                table[s] = s; /* a page each */
            }
            struct err err;
            model_forward(&gpu.run.model, &batch, &gpu.run.kv, NULL, NULL, NULL);
            assert_ok(gpu.run.be->ops->finish(gpu.run.be, &err), &err);
            gpu.run.be->ops->download(
                gpu.run.be, logits[eager] + (size_t)(p * SEQS) * (size_t)vocab,
                gpu.run.model.logits.data, (size_t)SEQS * (size_t)vocab * sizeof **logits);
        }
        count_paths(gpu.run.be);
        unload(&gpu);
    }
    for (int32_t i = 0; i < EACH * SEQS * vocab; i++)
        assert_true(isfinite(logits[0][i]));
    assert_memory_equal(logits[0], logits[1],
                        (size_t)(EACH * SEQS) * (size_t)vocab * sizeof(float));
    free(logits[0]);
    free(logits[1]);
}

static void every_path_ran(void **state)
{
    (void)state;
    static const char *const wanted[] = { "route",        "gemm_mma, experts", "gemm_rows, experts",
                                          "experts_gate", "experts_add",       "replay" };
    for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++) {
        int64_t n = -1;
        for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
            if (strcmp(cuda_backend_paths()[i], wanted[k]) == 0)
                n = totals[i];
        if (n <= 0)
            fail_msg("%s was started %lld times", wanted[k], (long long)n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(logits_are_the_cpus),
                                        cmocka_unit_test(recordings_give_the_same),
                                        cmocka_unit_test(every_path_ran) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
