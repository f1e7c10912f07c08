/* Every dense family on CUDA, under the emulator, against the exact CPU. */
#include "cuda/cuda_backend.h"
#include "host/base/rng.h"
#include "tests/oracle/model_run.h"

#include <math.h>

enum { TOKENS = 40, CTX = 96 };
/* bf16 activations and pages: up to 9e-5 was seen; a field that is not done gives 0.01 to 1. */
static const double NMSE_MAX = 1e-3;

static bool open_cuda(struct backend **be, struct err *err)
{
    const struct cuda_options options = { 0 };
    return cuda_backend_open(be, &options, err);
}

static void draw_tokens(int32_t *tokens, int32_t n, int32_t vocab, uint64_t stream)
{
    for (int32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_philox(5, stream, (uint64_t)i).v[0] % (uint32_t)vocab);
}

static double compare(const float *found, const float *wanted, int32_t n_rows, int32_t vocab,
                      const char *name)
{
    const int64_t n = (int64_t)n_rows * vocab;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(found[i]))
            fail_msg("%s: logit %lld is %g", name, (long long)i, (double)found[i]);
    const double error = nmse(found, wanted, n);
    if (!(error <= NMSE_MAX))
        fail_msg("%s: normalized error %.3g, want at most %.3g", name, error, NMSE_MAX);
    return error;
}

/* A reference model's config.json with heads of 64 features, which CUDA's attention takes, and
 * random weights: the same numbers on both devices. */
static bool open_random(struct model_run *run, const char *name, const char *from, const char *to,
                        enum weights_mode weights, bool exact, struct err *err)
{
    char config[4096];
    char *text;
    size_t size;
    const struct cpu_options cpu = { .n_threads = 2, .exact = true };
    const struct model_options options = {
        .weights = weights, .group = 32, .ctx = CTX, .rows_max = 64, .logit_rows_max = 64
    };
    const int32_t pages = kv_pages_for(CTX), n_pages[] = { pages, pages, pages, pages };
    *run = (struct model_run){ 0 };
    assert_ok(
        file_read(oracle_path("models/%s/config.json", name), sizeof config / 2, &text, &size, err),
        err);
    char *whole = calloc(1, size + 1);
    assert_non_null(whole);
    memcpy(whole, text, size);
    char *at = strstr(whole, from);
    assert_non_null(at);
    snprintf(config, sizeof config, "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from));
    free(whole);
    free(text);
    const bool ok = (exact ? cpu_backend_open(&run->be, &cpu, err) : open_cuda(&run->be, err)) &&
                    model_open(&run->model, NULL, config, run->be, &options, err);
    if (!ok)
        return false;
    run->kv = run->model.kv_shape;
    run->single = (struct batch_single){ 0 };
    return kv_cache_reserve(&run->kv, run->be, n_pages, err) &&
           batch_single_init(&run->single, 64, CTX, run->kv.n_groups, err);
}
static int64_t count_of(const struct backend *be, const char *path)
{
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        if (strcmp(cuda_backend_paths()[i], path) == 0)
            return cuda_backend_counts(be)[i];
    fail_msg("no path %s", path);
    return 0;
}
static void close_random(struct model_run *run)
{
    batch_single_clear(&run->single);
    model_close(&run->model);
    run->be->ops->close(run->be);
}

/* The fields of other families: norms behind, soft caps, windows and local ropes (gemma), norms
 * over all heads (olmo2), fused tensors and two sets of frequencies (phi3), layer norms with
 * biases, a plain MLP beside attention (gpt_neox), interleaved parts of heads (glm4), layers
 * without rope (cohere2, smollm3), norms in front of o and down (bitnet). */
static void families_are_the_cpus(void **state)
{
    (void)state;
    static const char OLD[] = "\"hidden_size\"", NEW[] = "\"head_dim\": 64, \"hidden_size\"";
    static const char OLD_DIM[] = "\"head_dim\": 32", NEW_DIM[] = "\"head_dim\": 64";
    static const struct {
        const char *name, *from, *to;
        enum weights_mode weights;
        bool norms_behind; /* a product */
    } cases[] = {
        { "gemma2", OLD_DIM, NEW_DIM, WEIGHTS_AUTO, true },
        { "gemma3_text", OLD_DIM, NEW_DIM, WEIGHTS_INT8, true },
        { "phi3_longrope", "\"partial_rotary_factor\": 1.0",
          "\"head_dim\": 64, \"partial_rotary_factor\": 0.5", WEIGHTS_INT8, false },
        { "olmo2", OLD, NEW, WEIGHTS_INT8, true },
        { "granite", OLD, NEW, WEIGHTS_AUTO, false },
        { "starcoder2", OLD, NEW, WEIGHTS_INT8, false },
        { "stablelm", OLD, NEW, WEIGHTS_AUTO, false },
        { "gpt_neox", OLD, NEW, WEIGHTS_INT8, false },
        { "gpt_neox", OLD, NEW, WEIGHTS_AUTO, false },
        { "smollm3", OLD_DIM, NEW_DIM, WEIGHTS_AUTO, false },
        { "glm4", OLD_DIM, NEW_DIM, WEIGHTS_INT8, true },
        { "cohere2", OLD_DIM, NEW_DIM, WEIGHTS_AUTO, false },
        { "bitnet_bf16", OLD, NEW, WEIGHTS_INT8, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err;
        struct model_run cpu, gpu;
        int32_t tokens[TOKENS];
        assert_ok(open_random(&cpu, cases[i].name, cases[i].from, cases[i].to, cases[i].weights,
                              true, &err),
                  &err);
        assert_ok(open_random(&gpu, cases[i].name, cases[i].from, cases[i].to, cases[i].weights,
                              false, &err),
                  &err);
        const size_t size = (size_t)TOKENS * (size_t)cpu.model.vocab;
        float *wanted = malloc(size * sizeof *wanted), *found = malloc(size * sizeof *found);
        assert_true(wanted != NULL && found != NULL);
        draw_tokens(tokens, TOKENS, cpu.model.vocab, 1);
        /* 40 tokens are beyond phi3's border: the second set of frequencies; then the first. */
        for (int32_t n = TOKENS; n >= TOKENS / 2; n -= TOKENS / 2) {
            cpu.single.rope_variant = model_rope_variant(&cpu.model, n);
            gpu.single.rope_variant = cpu.single.rope_variant;
            model_run_logits(&cpu, tokens, n, 64, wanted, NULL, NULL);
            model_run_logits(&gpu, tokens, n, n == TOKENS ? 64 : 7, found, NULL, NULL);
            printf("%-16s weights %d, %d tokens: %.2e\n", cases[i].name, (int)cases[i].weights, n,
                   compare(found, wanted, n, cpu.model.vocab, cases[i].name));
        }
        free(wanted);
        free(found);
        const int64_t combined = count_of(gpu.be, "post_combine");
        if ((combined > 0) != cases[i].norms_behind)
            fail_msg("%s: post_combine ran %lld times", cases[i].name, (long long)combined);
        close_random(&gpu);
        close_random(&cpu);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(families_are_the_cpus) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
