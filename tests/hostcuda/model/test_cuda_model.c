/* The whole forward pass: the CUDA backend (under the emulator, or on a GPU where this is linked
 * with the real one) against the CPU's exact arithmetic, which the oracle suite has proved.
 *
 * Activations between ops are bf16 and products see fp16, so logits differ by rounding: the bound
 * is on the normalized mean square error, a few bf16 roundings a layer (2^-9 relative each, about 4
 * a layer, adding as squares: 6 layers give 24 * 2^-18 / 3 = 3e-5; 30 times that is allowed). Where
 * the demo model's two best logits on the CPU are further apart than 0.05 the best must be the
 * same. */
#include "tests/oracle/model_run.h"

#include <math.h>
#include "cuda/cuda_backend.h"
#include "host/base/buf.h"
#include "host/base/file.h"
#include "host/base/rng.h"

enum { TOKENS = 40, CTX = 96, MANY = 20, EACH = 12, PAGES_EACH = 2 };
static const double NMSE_MAX = 1e-3;
static const float MARGIN =
    0.05f; /* of the demo model; the random models are judged by error alone */

static struct cuda_options cuda_options;
static int64_t totals[64]; /* kernel paths of every backend of this program */

static bool open_cuda(struct backend **be, struct err *err)
{
    return cuda_backend_open(be, &cuda_options, err);
}

static void close_cuda(struct model_run *run)
{
    const int64_t *counts = cuda_backend_counts(run->be);
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        totals[i] += counts[i];
    model_run_close(run);
}

static void draw_tokens(int32_t *tokens, int32_t n, int32_t vocab, uint64_t stream)
{
    for (int32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_philox(5, stream, (uint64_t)i).v[0] % (uint32_t)vocab);
}

static int32_t best_of(const float *row, int32_t n, float *margin)
{
    int32_t best = 0;
    float second = -INFINITY;
    for (int32_t i = 1; i < n; i++)
        if (row[i] > row[best]) {
            second = row[best];
            best = i;
        } else if (row[i] > second) {
            second = row[i];
        }
    *margin = row[best] - second;
    return best;
}

static double compare(const float *found, const float *wanted, int32_t n_rows, int32_t vocab,
                      const char *name)
{
    double error = 0, power = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        const float *f = found + (size_t)r * (size_t)vocab, *w = wanted + (size_t)r * (size_t)vocab;
        double mean = 0;
        for (int32_t i = 0; i < vocab; i++)
            mean += w[i] / (double)vocab;
        for (int32_t i = 0; i < vocab; i++) {
            if (!isfinite(f[i]))
                fail_msg("%s: row %d, logit %d is %g", name, r, i, (double)f[i]);
            error += ((double)f[i] - (double)w[i]) * ((double)f[i] - (double)w[i]);
            power += ((double)w[i] - mean) * ((double)w[i] - mean);
        }
        float margin, mine;
        const int32_t best = best_of(w, vocab, &margin);
        if (strstr(name, "demo") != NULL && margin > MARGIN && best_of(f, vocab, &mine) != best)
            fail_msg("%s: row %d: token %d, want %d (margin %g)", name, r, best_of(f, vocab, &mine),
                     best, (double)margin);
    }
    if (error / power > NMSE_MAX)
        fail_msg("%s: normalized error %.3g, want at most %.3g", name, error / power, NMSE_MAX);
    return error / power;
}

/* ---- one sequence, several chunkings, every kind of weights -------------------------------------
 */

struct model_case {
    const char *folder;
    enum weights_mode weights;
    int32_t group;
    int32_t dense_rows; /* from which cuBLASLt multiplies; 0: 2048, more than any chunk here */
    bool asymmetric, head_auto, invariant, int8;
    enum dtype kv;
};
static void run_case(const struct model_case *c)
{
    struct err err;
    struct model_run cpu, gpu;
    struct model_setup setup = { .exact = true,
                                 .weights = c->weights,
                                 .group = c->group,
                                 .head_auto = c->head_auto,
                                 .asymmetric = c->asymmetric,
                                 .n_threads = 2,
                                 .ctx = CTX,
                                 .rows = 64,
                                 .pages = true };
    static const int32_t chunks[] = { 64, 1, 7, 33 };
    int32_t tokens[TOKENS];
    assert_ok(model_run_open(&cpu, c->folder, NULL, &setup, &err), &err);
    const size_t size = (size_t)TOKENS * (size_t)cpu.model.vocab;
    float *wanted = malloc(size * sizeof *wanted), *found = malloc(size * sizeof *found);
    float *first = malloc(size * sizeof *first);
    assert_true(wanted != NULL && found != NULL && first != NULL);
    draw_tokens(tokens, TOKENS, cpu.model.vocab, 1);
    model_run_logits(&cpu, tokens, TOKENS, 64, wanted, NULL, NULL);
    cuda_options = (struct cuda_options){ .invariant = c->invariant,
                                          .int8 = c->int8,
                                          .dense_rows = c->dense_rows };
    setup.exact = false;
    setup.kv = c->kv;
    setup.open_backend = open_cuda;
    assert_ok(model_run_open(&gpu, c->folder, NULL, &setup, &err), &err);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s weights %d group %d%s%s%s%s%s chunk %d",
                 strrchr(c->folder, '/'), (int)c->weights, c->group,
                 c->asymmetric ? " asymmetric" : "", c->invariant ? " invariant" : "",
                 c->int8 ? " int8" : "", c->dense_rows > 0 ? " dense" : "",
                 c->kv == DTYPE_I8 ? " int8 KV" : "", chunks[i]);
        model_run_logits(&gpu, tokens, TOKENS, chunks[i], found, NULL, NULL);
        const double nmse = compare(found, wanted, TOKENS, gpu.model.vocab, name);
        printf("%-60s %.2e\n", name, nmse);
        if (i == 0)
            memcpy(first, found, size * sizeof *first);
        else if (c->invariant && memcmp(first, found, size * sizeof *first) != 0)
            fail_msg("%s: bits differ from those of one chunk", name);
    }
    /* The fused end of the q/k/v product writes no codes. */
    if (c->kv == DTYPE_I8)
        for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
            if (strcmp(cuda_backend_paths()[i], "gemm_small with rope and pages") == 0)
                assert_int_equal(cuda_backend_counts(gpu.be)[i], 0);
    close_cuda(&gpu);
    model_run_close(&cpu);
    free(wanted);
    free(found);
    free(first);
}

#define MODELS NIBBLE_TESTS_DIR "/oracle/models/"
#define DEMO   NIBBLE_SOURCE_DIR "/server/demo"
static void logits_are_the_cpus(void **state)
{
    (void)state;
    static const struct model_case cases[] = {
        { .folder = DEMO, .weights = WEIGHTS_AUTO },
        { .folder = DEMO, .weights = WEIGHTS_INT4, .group = 128 },
        { .folder = DEMO,
          .weights = WEIGHTS_INT4,
          .group = 32,
          .asymmetric = true,
          .head_auto = true },
        { .folder = DEMO, .weights = WEIGHTS_INT8, .group = 64 },
        { .folder = DEMO, .weights = WEIGHTS_INT8, .group = -1, .asymmetric = true },
        { .folder = DEMO, .weights = WEIGHTS_INT4, .group = 64, .invariant = true },
        { .folder = DEMO, .weights = WEIGHTS_INT8, .group = 128, .int8 = true },
        { .folder = DEMO, .weights = WEIGHTS_INT4, .group = 64, .dense_rows = 32 },
        { .folder = DEMO, .weights = WEIGHTS_INT8, .group = -1, .dense_rows = 33 },
        { .folder = MODELS "llama_tied_rope_llama3", .weights = WEIGHTS_INT8, .group = 64 },
        { .folder = MODELS "qwen3", .weights = WEIGHTS_INT8, .group = 32 },
        { .folder = DEMO, .weights = WEIGHTS_INT4, .group = 128, .kv = DTYPE_I8 },
        { .folder = DEMO, .weights = WEIGHTS_INT8, .group = 64, .invariant = true, .kv = DTYPE_I8 },
        { .folder = MODELS "qwen3", .weights = WEIGHTS_INT8, .group = 32, .kv = DTYPE_I8 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i]);
}

/* ---- many sequences
 * ------------------------------------------------------------------------------
 */

struct crowd {
    int32_t prompts[MANY][EACH];
    int32_t tokens[MANY * EACH], positions[MANY * EACH], row_seq[MANY * EACH],
        logit_rows[MANY * EACH], table[MANY * PAGES_EACH];
    struct batch_seq seqs[MANY];
};

/* Rows [from, to) of sequences 0..n_seqs-1; pages scattered: page j of sequence s is 2 j + s * ...
 */
static struct batch crowd_batch(struct crowd *c, int32_t n_seqs, int32_t from, int32_t to)
{
    struct batch batch = { .serial = batch_serial_next(), .n_groups = 1 };
    for (int32_t s = 0; s < n_seqs; s++) {
        c->seqs[s] = (struct batch_seq){ s, batch.n_rows, to - from, from, 0 };
        for (int32_t p = 0; p < PAGES_EACH; p++)
            c->table[s * PAGES_EACH + p] = p * MANY + (s * 7 + 3) % MANY;
        for (int32_t k = from; k < to; k++) {
            const int32_t r = batch.n_rows++;
            c->tokens[r] = c->prompts[s][k];
            c->positions[r] = k;
            c->row_seq[r] = s;
            c->logit_rows[r] = r;
        }
    }
    batch.n_seqs = n_seqs;
    batch.n_logit_rows = batch.n_rows;
    batch.tokens = c->tokens;
    batch.positions = c->positions;
    batch.row_seq = c->row_seq;
    batch.seqs = c->seqs;
    batch.logit_rows = c->logit_rows;
    batch.pages[0] = c->table;
    batch.pages_stride[0] = PAGES_EACH;
    return batch;
}

/* Logits [n_seqs][EACH][vocab]: a prompt of 3 together, then one row of each a step. */
static void crowd_run(struct model_run *run, struct crowd *c, int32_t n_seqs, float *out)
{
    struct err err;
    const size_t vocab = (size_t)run->model.vocab;
    for (int32_t from = 0, to = 3; from < EACH; from = to++) {
        const struct batch batch = crowd_batch(c, n_seqs, from, to);
        model_forward(&run->model, &batch, &run->kv, NULL, NULL, NULL);
        assert_ok(run->be->ops->finish(run->be, &err), &err);
        for (int32_t r = 0; r < batch.n_rows; r++)
            run->be->ops->download(
                run->be, out + ((size_t)c->row_seq[r] * EACH + (size_t)c->positions[r]) * vocab,
                (const float *)run->model.logits.data + (size_t)r * vocab, vocab * sizeof *out);
    }
}

static void open_crowd(struct model_run *run, bool exact, struct err *err)
{
    const struct model_setup setup = { .exact = exact,
                                       .weights = WEIGHTS_INT4,
                                       .n_threads = 2,
                                       .ctx = CTX,
                                       .rows = 64,
                                       .open_backend = exact ? NULL : open_cuda };
    int32_t n_pages[KV_GROUPS_MAX] = { MANY * PAGES_EACH };
    assert_ok(model_run_open(run, DEMO, NULL, &setup, err), err);
    assert_ok(kv_cache_reserve(&run->kv, run->be, n_pages, err), err);
}

static void many_sequences(void **state)
{
    (void)state;
    struct err err;
    static struct crowd c;
    struct model_run cpu, graphs, eager, invariant;
    for (int32_t s = 0; s < MANY; s++)
        draw_tokens(c.prompts[s], EACH, 4096, 100 + (uint64_t)s);
    open_crowd(&cpu, true, &err);
    const size_t one = (size_t)EACH * (size_t)cpu.model.vocab, all = one * MANY;
    float *wanted = malloc(all * sizeof *wanted), *found = malloc(all * sizeof *found);
    float *other = malloc(all * sizeof *other);
    assert_true(wanted != NULL && found != NULL && other != NULL);
    crowd_run(&cpu, &c, MANY, wanted);

    cuda_options = (struct cuda_options){ 0 };
    open_crowd(&graphs, false, &err);
    crowd_run(&graphs, &c, MANY, found);
    printf("%d sequences, recorded steps: %.2e\n", MANY,
           compare(found, wanted, MANY * EACH, cpu.model.vocab, "demo, recorded"));
    crowd_run(&graphs, &c, MANY, other); /* again, all of it replayed now */
    assert_memory_equal(found, other, all * sizeof *found);
    close_cuda(&graphs);

    cuda_options = (struct cuda_options){ .no_graphs = true };
    open_crowd(&eager, false, &err);
    crowd_run(&eager, &c, MANY, other);
    printf("%d sequences, eager steps: %.2e\n", MANY,
           compare(other, wanted, MANY * EACH, cpu.model.vocab, "demo, eager"));
    close_cuda(&eager);

    /* --invariant: the same bits alone and in a crowd, recorded too */
    cuda_options = (struct cuda_options){ .invariant = true };
    open_crowd(&invariant, false, &err);
    crowd_run(&invariant, &c, MANY, found);
    compare(found, wanted, MANY * EACH, cpu.model.vocab, "demo, invariant");
    crowd_run(&invariant, &c, 1, other);
    assert_memory_equal(found, other, one * sizeof *found);
    close_cuda(&invariant);
    model_run_close(&cpu);
    free(wanted);
    free(found);
    free(other);
}

/* ---- a long prompt: dequantize and cuBLASLt
 * ------------------------------------------------------
 */

enum { LONG = 256 }; /* dense_rows stands for the 2048 of choose.cu */
static void long_prompt(void **state)
{
    (void)state;
    struct err err;
    struct model_run runs[2];
    static int32_t tokens[LONG];
    float *logits[2];
    for (int32_t i = 0; i < 2; i++) {
        const struct model_setup setup = { .exact = i == 0,
                                           .weights = WEIGHTS_INT8,
                                           .group = 32,
                                           .n_threads = 2,
                                           .ctx = LONG,
                                           .rows = LONG,
                                           .pages = true,
                                           .open_backend = i == 0 ? NULL : open_cuda };
        cuda_options = (struct cuda_options){ .dense_rows = LONG };
        assert_ok(model_run_open(&runs[i], MODELS "llama_tied_rope_llama3", NULL, &setup, &err),
                  &err);
        draw_tokens(tokens, LONG, runs[i].model.vocab, 3);
        const struct batch *batch = batch_single_build(&runs[i].single, tokens, LONG, 0, false);
        model_forward(&runs[i].model, batch, &runs[i].kv, NULL, NULL, NULL);
        assert_ok(runs[i].be->ops->finish(runs[i].be, &err), &err);
        const size_t bytes = (size_t)runs[i].model.vocab * sizeof(float);
        logits[i] = malloc(bytes);
        assert_non_null(logits[i]);
        runs[i].be->ops->download(runs[i].be, logits[i], runs[i].model.logits.data, bytes);
    }
    printf("prompt of %d rows in one step: %.2e\n", LONG,
           compare(logits[1], logits[0], 1, runs[0].model.vocab, "long prompt"));
    free(logits[0]);
    free(logits[1]);
    close_cuda(&runs[1]);
    model_run_close(&runs[0]);
}

/* ---- kernels as measured
 * -------------------------------------------------------------------------
 */

#define FOLDER "cuda_model_times"
#define TIMES  FOLDER "/nibble/kernels.txt"

/* malloc'ed */
static void times_read(char **text)
{
    struct err err;
    size_t size;
    assert_ok(file_read(TIMES, 1 << 20, text, &size, &err), &err);
}
static void remove_times(void)
{
    (void)remove(TIMES);
    (void)remove(FOLDER "/nibble");
    (void)remove(FOLDER);
}
static void times_file_is(const char *text)
{
    FILE *file = fopen(TIMES, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}
/* The logits of one prompt with the kernels of that file; how often each path ran. */
static void run_measured(int64_t counts[64])
{
    struct err err;
    struct model_run gpu;
    const struct model_setup setup = { .weights = WEIGHTS_INT4,
                                       .group = 32,
                                       .n_threads = 2,
                                       .ctx = CTX,
                                       .rows = 64,
                                       .pages = true,
                                       .open_backend = open_cuda };
    int32_t tokens[TOKENS];
    cuda_options = (struct cuda_options){ .kernels = TIMES, .version = "test" };
    assert_ok(model_run_open(&gpu, MODELS "llama_tied_rope_llama3", NULL, &setup, &err), &err);
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        assert_int_equal(cuda_backend_counts(gpu.be)[i], 0); /* measuring does not count */
    draw_tokens(tokens, TOKENS, gpu.model.vocab, 3);
    const size_t size = (size_t)TOKENS * (size_t)gpu.model.vocab;
    float *logits = malloc(size * sizeof *logits);
    assert_non_null(logits);
    model_run_logits(&gpu, tokens, TOKENS, 64, logits, NULL, NULL);
    for (size_t i = 0; i < size; i++)
        assert_true(isfinite(logits[i]));
    free(logits);
    memset(counts, 0, 64 * sizeof *counts);
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        counts[i] = cuda_backend_counts(gpu.be)[i];
    close_cuda(&gpu);
}
static int64_t count_of(const int64_t counts[64], const char *path)
{
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        if (strcmp(cuda_backend_paths()[i], path) == 0)
            return counts[i];
    fail_msg("no path %s", path);
    return 0;
}
/* The times of every line as if `quick` had taken 1 us and all others 1,000. */
static char *times_with(const char *table, const char *quick)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    char *copy = strdup(table), *rest = NULL;
    assert_non_null(copy);
    int32_t number = 0;
    for (char *line = strtok_r(copy, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        number++;
        char *words = NULL;
        int32_t word = 0;
        if (number <= 2) {
            buf_printf(&out, "%s\n", line);
            continue;
        }
        const char *name = "";
        for (char *at = strtok_r(line, " ", &words); at != NULL; at = strtok_r(NULL, " ", &words)) {
            word++;
            if (word > 8 && word % 2 == 0)
                buf_puts(&out, strcmp(name, quick) == 0 ? " 1.00" : " 1000.00");
            else
                buf_printf(&out, word > 1 ? " %s" : "%s", at);
            name = at;
        }
        buf_putc(&out, '\n');
    }
    free(copy);
    assert_false(out.failed);
    char *text = strdup(buf_text(&out));
    buf_clear(&out);
    assert_non_null(text);
    return text;
}

static void kernels_as_measured(void **state)
{
    (void)state;
    int64_t counts[64];
    remove_times();
    run_measured(counts); /* measures, and leaves the table in folders that it makes */
    char *table, *again;
    times_read(&table);
    assert_non_null(strstr(table, "nibble kernels 1\n"));
    assert_non_null(strstr(table, " wgmma "));
    run_measured(counts); /* finds it: the same file to the letter */
    times_read(&again);
    assert_string_equal(again, table);
    free(again);

    static const struct {
        const char *kernel, *path, *other;
    } quick[] = { { "mma", "gemm_mma", "gemm_wgmma" }, { "wgmma", "gemm_wgmma", "gemm_mma" } };
    for (size_t i = 0; i < sizeof quick / sizeof *quick; i++) {
        char *text = times_with(table, quick[i].kernel);
        times_file_is(text);
        run_measured(counts);
        /* All but the head's, which is too wide here to be measured. */
        if (count_of(counts, quick[i].path) < 6 || count_of(counts, quick[i].other) > 1)
            fail_msg("%s is quickest in the table: %s ran %lld times, %s %lld", quick[i].kernel,
                     quick[i].path, (long long)count_of(counts, quick[i].path), quick[i].other,
                     (long long)count_of(counts, quick[i].other));
        free(text);
    }
    /* What is not such a table, or another machine's, is measured again and replaced. */
    const char *const line = strchr(strchr(table, '\n') + 1, '\n') + 1;
    char *bad[5];
    assert_true(asprintf(&bad[0], "%s", "") >= 0);
    assert_true(asprintf(&bad[1], "nibble kernels 1\nanother machine\n%s", line) >= 0);
    assert_true(asprintf(&bad[2], "%s4 32 0 0 0 1 1 17 mma 5\n", table) >= 0);
    assert_true(asprintf(&bad[3], "%s4 32 0 0 0 1 1 16 mma 5 mma 6\n", table) >= 0);
    assert_true(asprintf(&bad[4], "%s4 32 0 0 0 1 1 16 mma nan\n", table) >= 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        times_file_is(bad[i]);
        run_measured(counts);
        char *now;
        times_read(&now);
        assert_true(strncmp(now, table, (size_t)(line - table)) == 0);
        assert_null(strstr(now, " 1 1 "));
        assert_non_null(strstr(now, " wgmma "));
        free(now);
        free(bad[i]);
    }
    free(table);
    remove_times();
}

/* ---- sampling through the seam
 * -------------------------------------------------------------------
 */

static void tokens_are_the_cpus(void **state)
{
    (void)state;
    struct err err;
    struct model_run cpu, gpu;
    struct model_setup setup = { .exact = true, .ctx = CTX, .rows = 64, .pages = true };
    int32_t tokens[TOKENS];
    cuda_options = (struct cuda_options){ 0 };
    assert_ok(model_run_open(&cpu, DEMO, NULL, &setup, &err), &err);
    setup.exact = false;
    setup.open_backend = open_cuda;
    assert_ok(model_run_open(&gpu, DEMO, NULL, &setup, &err), &err);
    draw_tokens(tokens, TOKENS, cpu.model.vocab, 9);
    const struct batch *batch = batch_single_build(&gpu.single, tokens, TOKENS, 0, true);
    model_forward(&gpu.model, batch, &gpu.kv, NULL, NULL, NULL);
    assert_ok(gpu.be->ops->finish(gpu.be, &err), &err);
    const size_t vocab = (size_t)gpu.model.vocab;
    float *logits = malloc(TOKENS * vocab * sizeof *logits);
    assert_non_null(logits);
    gpu.be->ops->download(gpu.be, logits, gpu.model.logits.data, TOKENS * vocab * sizeof *logits);
    struct sampler *sampler;
    assert_ok(sampler_open(&sampler, (int32_t)vocab, &err), &err);
    struct sample_params params[TOKENS];
    struct sample_row rows[TOKENS];
    struct sample_out outs[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) {
        params[i] = sample_params_neutral();
        params[i].seed = 77;
        params[i].n_top = i % 3 == 0 ? 5 : -1;
        params[i].temperature = i % 4 == 0 ? 0 : 0.8f;
        params[i].top_k = i % 5 == 1 ? 20 : 0;
        params[i].top_p = i % 5 == 2 ? 0.9f : 1;
        params[i].min_p = i % 5 == 3 ? 0.05f : 0;
        params[i].typical_p = i % 5 == 4 ? 0.7f : 1; /* host form */
        params[i].repetition_penalty = i % 7 == 0 ? 1.3f : 1;
        rows[i] = (struct sample_row){ .logit_row = i,
                                       .params = &params[i],
                                       .target = -1,
                                       .index = 3,
                                       .position = i + 1,
                                       .history = tokens,
                                       .n_prompt = i + 1 };
        if (i % 11 == 10)
            rows[i].target = 17;
    }
    const struct sample_op op = {
        .logits = view_head(gpu.model.logits, TOKENS), .rows = rows, .outs = outs, .n_rows = TOKENS
    };
    gpu.be->ops->sample(gpu.be, &op);
    assert_ok(gpu.be->ops->finish(gpu.be, &err), &err);
    for (int32_t i = 0; i < TOKENS; i++) {
        struct sample_out wanted;
        sampler_row(sampler, logits + (size_t)i * vocab, &rows[i], &wanted);
        if (outs[i].token != wanted.token || fabsf(outs[i].logprob - wanted.logprob) > 1e-4f ||
            outs[i].n_top != wanted.n_top)
            fail_msg("row %d: token %d (%g), want %d (%g)", i, outs[i].token,
                     (double)outs[i].logprob, wanted.token, (double)wanted.logprob);
        for (int32_t k = 0; k < wanted.n_top; k++)
            assert_int_equal(outs[i].top_tokens[k], wanted.top_tokens[k]);
    }
    sampler_close(sampler);
    free(logits);
    close_cuda(&gpu);
    model_run_close(&cpu);
}

/* ---- a step ahead of the host
 * --------------------------------------------------------------------
 */

enum { STREAMS = 5, DRAWS = 7, PROMPT = 3, BIASES = 530000 };
struct drawn {
    struct sample_out outs[DRAWS][STREAMS];
    float *logits; /* of the last step: [STREAMS][vocab] */
};
struct streams {
    struct crowd crowd;
    struct sample_params params[STREAMS];
    struct sample_state states[STREAMS];
    int32_t histories[STREAMS][PROMPT + DRAWS];
    struct sample_row rows[STREAMS];
};

/* Greedy; drawn, or by mirostat and DRY, the host's; drawn from a changed history, of two tokens in
 * three; greedy from one, with so many biases that the host must do it; drawn by typical_p, which
 * is the host's too. */
static void make_streams(struct streams *s, bool host_forms, const struct logit_bias *biases)
{
    static const struct sample_chain chain = { .stages = { STAGE_DRY, STAGE_TEMPERATURE },
                                               .n_stages = 2,
                                               .dry_multiplier = 1,
                                               .dry_base = 1.5f,
                                               .dry_last_n = -1,
                                               .mirostat = 2,
                                               .mirostat_tau = 6,
                                               .mirostat_eta = 0.5f };
    static uint32_t allowed[4096 / 32];
    memset(allowed, 0xb6, sizeof allowed);
    memset(s->states, 0, sizeof s->states);
    for (int32_t i = 0; i < STREAMS; i++) {
        struct sample_params *p = &s->params[i];
        *p = sample_params_neutral();
        p->seed = 40 + (uint64_t)i;
        p->n_top = i - 1;
        p->temperature = i == 0 || i == 3 ? 0 : 1.2f;
        p->repetition_penalty = i == 2 || i == 3 ? 1.4f : 1;
        p->frequency_penalty = i == 2 ? 0.3f : 0;
        p->biases = biases;
        p->n_biases = host_forms && i == 3 ? BIASES : 0;
        p->typical_p = host_forms && i == 4 ? 0.8f : 1;
        p->allowed = i == 2 ? allowed : NULL;
        p->chain = host_forms && i == 1 ? &chain : NULL;
        draw_tokens(s->crowd.prompts[i], PROMPT, 4096, 300 + (uint64_t)i);
        memset(s->histories[i], 0x55, sizeof s->histories[i]); /* no token of any vocabulary */
        memcpy(s->histories[i], s->crowd.prompts[i], PROMPT * sizeof(int32_t));
    }
}

static void take_drawn(struct streams *s, const struct drawn *found, int32_t step)
{
    for (int32_t i = 0; i < STREAMS; i++)
        s->histories[i][PROMPT + step] = found->outs[step][i].token;
}

/* DRAWS tokens of each stream. `ahead`: each step is sent before the tokens of the last are taken,
 * which are named by slot. Else every step is finished first. */
static void run_streams(struct model_run *run, struct streams *s, bool host_forms, bool ahead,
                        struct drawn *found)
{
    struct err err;
    const struct backend_ops *ops = run->be->ops;
    for (int32_t step = 0; step < DRAWS; step++) {
        const int32_t from = step == 0 ? 0 : PROMPT + step - 1, to = PROMPT + step;
        struct batch batch = crowd_batch(&s->crowd, STREAMS, from, to);
        for (int32_t r = 0; step > 0 && r < batch.n_rows; r++)
            s->crowd.tokens[r] = ahead ? BATCH_TOKEN_IN_FLIGHT : s->histories[r][to - 1];
        for (int32_t i = 0; i < STREAMS; i++)
            s->rows[i] = (struct sample_row){ .logit_row = (i + 1) * (to - from) - 1,
                                              .params = &s->params[i],
                                              .target = -1,
                                              .index = 1,
                                              .position = to,
                                              .slot = i,
                                              .history = s->histories[i],
                                              .n_prompt = PROMPT,
                                              .n_output = step,
                                              .in_flight = ahead && step > 0,
                                              .state = &s->states[i] };
        model_forward(&run->model, &batch, &run->kv, NULL, NULL, NULL);
        const struct sample_op op = { .logits = view_head(run->model.logits, batch.n_logit_rows),
                                      .rows = s->rows,
                                      .outs = found->outs[step],
                                      .n_rows = STREAMS };
        assert_int_equal(ops->sample(run->be, &op), host_forms);
        memset(s->rows, 0xaa, sizeof s->rows); /* read before it returned, */
        memset(&s->crowd.tokens, 0xaa, sizeof s->crowd.tokens);
        memset(&s->crowd.seqs, 0xaa, sizeof s->crowd.seqs); /* the batch too */
        if (!ahead) {
            assert_ok(ops->finish(run->be, &err), &err);
            take_drawn(s, found, step);
        } else if (step > 0) {
            assert_ok(ops->collect(run->be, &err), &err);
            take_drawn(s, found, step - 1);
        }
    }
    if (ahead)
        assert_ok(ops->collect(run->be, &err), &err);
    const size_t bytes = (size_t)STREAMS * (size_t)run->model.vocab * sizeof(float);
    found->logits = malloc(bytes);
    assert_non_null(found->logits);
    ops->download(run->be, found->logits, run->model.logits.data, bytes);
}

static void a_step_ahead_draws_the_same(void **state)
{
    (void)state;
    struct logit_bias *biases = calloc(BIASES, sizeof *biases); /* token 0, by nothing */
    static struct streams streams;
    static struct drawn wanted, found;
    assert_non_null(biases);
    for (int32_t c = 0; c < 4; c++) {
        const bool recorded = c & 1, host_forms = c & 2;
        struct err err;
        struct model_run run;
        cuda_options = (struct cuda_options){ .no_graphs = !recorded };
        open_crowd(&run, false, &err);
        assert_int_equal(run.be->steps_max, 2);
        make_streams(&streams, host_forms, biases);
        run_streams(&run, &streams, host_forms, false, &wanted);
        make_streams(&streams, host_forms, biases);
        run_streams(&run, &streams, host_forms, true, &found);
        bool same = true;
        for (int32_t step = 0; step < DRAWS; step++)
            for (int32_t i = 0; i < STREAMS; i++) {
                const struct sample_out *a = &wanted.outs[step][i], *b = &found.outs[step][i];
                same = same && a->token == b->token && a->n_top == b->n_top &&
                       memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0;
                if (!same)
                    fail_msg("%s%s: step %d, stream %d: token %d (%g), want %d (%g)",
                             recorded ? "recorded" : "eager", host_forms ? ", host forms" : "",
                             step, i, b->token, (double)b->logprob, a->token, (double)a->logprob);
            }
        assert_memory_equal(wanted.logits, found.logits,
                            (size_t)STREAMS * (size_t)run.model.vocab * sizeof(float));
        free(wanted.logits);
        free(found.logits);
        close_cuda(&run);
    }
    free(biases);
}

/* A step that wants no tokens (the middle of a prompt) has its turn all the same. */
static void a_step_without_tokens_is_collected(void **state)
{
    (void)state;
    struct err err;
    struct model_run run;
    static struct streams s;
    cuda_options = (struct cuda_options){ 0 };
    open_crowd(&run, false, &err);
    make_streams(&s, false, NULL);
    for (int32_t i = 0; i < 3; i++) {
        struct batch batch = crowd_batch(&s.crowd, 1, i, i + 1);
        batch.n_logit_rows = 0;
        model_forward(&run.model, &batch, &run.kv, NULL, NULL, NULL);
        const struct sample_op op = { .logits = view_head(run.model.logits, 0) };
        assert_false(run.be->ops->sample(run.be, &op));
        if (i > 0)
            assert_ok(run.be->ops->collect(run.be, &err), &err);
    }
    assert_ok(run.be->ops->collect(run.be, &err), &err);
    assert_ok(run.be->ops->finish(run.be, &err), &err);
    close_cuda(&run);
}

/* Every path was really taken by the tests above, or is listed here with the reason. */
static void every_path_was_taken(void **state)
{
    (void)state;
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++) {
        const char *name = cuda_backend_paths()[i];
        printf("%-34s %lld\n", name, (long long)totals[i]);
        if (strcmp(name, "post_combine") == 0 || strcmp(name, "route") == 0 ||
            strcmp(name, "gather_columns") == 0 || strstr(name, "experts") != NULL)
            continue; /* counted where they belong: families with norms behind a product
                         (test_cuda_families.c), with experts (test_cuda_experts.c), in
                         activation order (test_cuda_formats.c) */
        if (totals[i] == 0)
            fail_msg("%s was never used", name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_the_cpus),
        cmocka_unit_test(many_sequences),
        cmocka_unit_test(tokens_are_the_cpus),
        cmocka_unit_test(a_step_ahead_draws_the_same),
        cmocka_unit_test(a_step_without_tokens_is_collected),
        cmocka_unit_test(long_prompt),
        cmocka_unit_test(kernels_as_measured),
        cmocka_unit_test(every_path_was_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
