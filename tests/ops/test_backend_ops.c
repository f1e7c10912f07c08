/* The CPU backend's ops against their definitions in double precision: norm, rope, gates, K/V
 * store, embed, logits, sample, memory, failures. Bits must not depend on threads or company. */
#include "tests/support/support.h"
#include "tests/ops/plain.h"
#include "host/base/rng.h"
#include "host/backend/cpu/cpu_backend.h"
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/ops.h"

static float noise(uint64_t stream, int64_t i)
{
    return (float)(4 * rng_uniform(11, stream, (uint64_t)i) - 2);
}
static float *noises(uint64_t stream, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = noise(stream, i);
    return x;
}
/* [n_out][n_in] floats as one part. */
static struct weight dense(const char *name, const float *data, int32_t n_out, int32_t n_in)
{
    return (struct weight){
        .name = name,
        .n_out = n_out,
        .n_in = n_in,
        .n_parts = 1,
        .parts = { { .shape = { LAYOUT_ROWS, n_out, n_in, 0, n_in, false },
                     .dtype = DTYPE_F32,
                     .data = data,
                     .bytes = (size_t)n_out * (size_t)n_in * sizeof *data } },
    };
}

enum { ROWS = 37, HIDDEN = 72, VOCAB = 50 };
static const struct backend_limits limits = {
    .rows_max = 64,
    .logit_rows_max = 16,
    .cols_max = 256,
    .vocab = VOCAB,
    .n_heads = 4,
    .head_dim = 48,
    .ctx = 128,
};
static struct backend *open_cpu(int32_t n_threads, enum cpu_isa isa)
{
    struct backend *be;
    struct err err;
    const struct cpu_options options = { n_threads, true, isa };
    assert_ok(cpu_backend_open(&be, &options, &err), &err);
    assert_ok(be->ops->prepare(be, &limits, &err), &err);
    return be;
}
static void done(struct backend *be)
{
    struct err err;
    assert_ok(be->ops->finish(be, &err), &err);
    be->ops->close(be);
}

/* ---- linear: norms, epilogues, gates ----------------------------------------------------------
 */

struct linear_row {
    const char *name;
    int32_t pre, post; /* 0 none, 1 RMS, 2 layer with bias */
    enum epilogue epilogue;
    enum gate gate;
    float scale;
    bool in_place; /* y is x */
};
static const struct linear_row linear_rows[] = {
    { "plain", 0, 0, EPILOGUE_STORE, 0, 1, false },
    { "plain, over its input", 0, 0, EPILOGUE_STORE, 0, 1, true },
    { "scaled", 0, 0, EPILOGUE_STORE, 0, .5f, false },
    { "RMS norm before", 1, 0, EPILOGUE_STORE, 0, 1, false },
    { "layer norm before, over its input", 2, 0, EPILOGUE_STORE, 0, 1, true },
    { "RMS norm after", 0, 1, EPILOGUE_STORE, 0, 1, false },
    { "added", 0, 0, EPILOGUE_ADD, 0, 1, false },
    { "norms on both sides, scaled, added", 1, 1, EPILOGUE_ADD, 0, .25f, false },
    { "layer norms on both sides, added", 2, 2, EPILOGUE_ADD, 0, 1, false },
    { "silu gate", 1, 0, EPILOGUE_GATE, GATE_SILU, 1, false },
    { "gelu gate", 0, 0, EPILOGUE_GATE, GATE_GELU, 1, false },
    { "gelu gate by tanh", 0, 0, EPILOGUE_GATE, GATE_GELU_TANH, 1, false },
    { "relu squared gate, scaled", 0, 0, EPILOGUE_GATE, GATE_RELU2, .5f, false },
    { "gelu of all, layer norm in front", 2, 0, EPILOGUE_ACT, GATE_GELU, 1, false },
    { "gelu by tanh of all, norm behind, scaled", 0, 1, EPILOGUE_ACT, GATE_GELU_TANH, .5f, false },
    { "relu squared of all, in place", 1, 0, EPILOGUE_ACT, GATE_RELU2, 1, true },
};
static void plain_norm(const struct norm *norm, double *x)
{
    double mean = 0, var = 0;
    for (int32_t i = 0; i < norm->n && norm->kind == NORM_LAYER; i++)
        mean += x[i] / norm->n;
    for (int32_t i = 0; i < norm->n; i++)
        var += (x[i] - mean) * (x[i] - mean) / norm->n;
    for (int32_t i = 0; i < norm->n; i++)
        x[i] = (x[i] - mean) / sqrt(var + (double)norm->epsilon) * (double)norm->gain[i] +
               (norm->bias ? (double)norm->bias[i] : 0);
}
static double plain_act(enum gate gate, double x)
{
    switch (gate) {
    case GATE_SILU:
        return x / (1 + exp(-x));
    case GATE_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case GATE_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    default:
        return x > 0 ? x * x : 0;
    }
}
static const float *gains, *biases;
static const struct norm *norm_of(int32_t kind, int32_t n)
{
    static struct norm norms[2];
    static int32_t next;
    struct norm *norm = &norms[next++ % 2];
    *norm = (struct norm){ kind == 2 ? NORM_LAYER : NORM_RMS, gains, kind == 2 ? biases : NULL, n,
                           1e-5f };
    return kind ? norm : NULL;
}
static void run_linear(struct backend *be, const struct linear_row *c, const struct weight *w,
                       const float *x, const float *y0, int32_t n_rows, float *y)
{
    const int32_t cols = c->epilogue == EPILOGUE_GATE ? HIDDEN / 2 : HIDDEN;
    float *xs = malloc(sizeof(float) * (size_t)(n_rows * HIDDEN));
    memcpy(xs, x, sizeof(float) * (size_t)(n_rows * HIDDEN));
    memcpy(y, y0, sizeof(float) * (size_t)(n_rows * cols));
    struct linear_op op = { .x = view_of(xs, DTYPE_F32, n_rows, HIDDEN),
                            .y = view_of(c->in_place ? xs : y, DTYPE_F32, n_rows, cols),
                            .w = w,
                            .pre = norm_of(c->pre, HIDDEN),
                            .post = norm_of(c->post, HIDDEN),
                            .epilogue = c->epilogue,
                            .gate = c->gate,
                            .scale = c->scale };
    be->ops->linear(be, &op);
    if (c->in_place)
        memcpy(y, xs, sizeof(float) * (size_t)(n_rows * cols));
    free(xs);
}
static void check_linear_row(const struct linear_row *c, enum cpu_isa isa)
{
    float *x = noises(1, ROWS * HIDDEN), *data = noises(2, HIDDEN * HIDDEN),
          *y0 = noises(3, ROWS * HIDDEN), *y = noises(4, ROWS * HIDDEN),
          *other = noises(4, ROWS * HIDDEN);
    const struct weight w = dense("w", data, HIDDEN, HIDDEN);
    const int32_t cols = c->epilogue == EPILOGUE_GATE ? HIDDEN / 2 : HIDDEN;
    double *want = malloc(sizeof(double) * ROWS * HIDDEN);
    for (int32_t r = 0; r < ROWS; r++) {
        double in[HIDDEN], p[HIDDEN];
        for (int32_t i = 0; i < HIDDEN; i++)
            in[i] = (double)x[r * HIDDEN + i];
        if (c->pre)
            plain_norm(norm_of(c->pre, HIDDEN), in);
        for (int32_t o = 0; o < HIDDEN; o++) {
            p[o] = 0;
            for (int32_t i = 0; i < HIDDEN; i++)
                p[o] += (double)data[o * HIDDEN + i] * in[i];
        }
        if (c->post)
            plain_norm(norm_of(c->post, HIDDEN), p);
        for (int32_t o = 0; o < cols; o++) {
            double v = p[o] * (double)c->scale;
            if (c->epilogue == EPILOGUE_ACT)
                v = plain_act(c->gate, v);
            if (c->epilogue == EPILOGUE_GATE)
                v = plain_act(c->gate, v) * p[o + cols] * (double)c->scale;
            if (c->epilogue == EPILOGUE_ADD)
                v += (double)y0[r * cols + o];
            want[r * cols + o] = v;
        }
    }
    struct backend *one = open_cpu(1, isa), *three = open_cpu(3, isa);
    run_linear(one, c, &w, x, y0, ROWS, y);
    const double nmse = plain_nmse(y, want, ROWS * cols);
    if (!(nmse < 1e-12))
        fail_msg("%s: NMSE %.3g", c->name, nmse);
    run_linear(three, c, &w, x, y0, ROWS, other);
    assert_memory_equal(y, other, sizeof(float) * (size_t)(ROWS * cols));
    for (int32_t r = 0; r < ROWS; r += 9) {
        run_linear(one, c, &w, x + r * HIDDEN, y0 + r * cols, 1, other);
        assert_memory_equal(y + r * cols, other, sizeof(float) * (size_t)cols);
    }
    done(one);
    done(three);
    free(x);
    free(data);
    free(y0);
    free(y);
    free(other);
    free(want);
}
static void test_linear_rows(void **state)
{
    (void)state;
    static const enum cpu_isa isas[] = { CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
    float *g = noises(20, HIDDEN), *b = noises(21, HIDDEN);
    gains = g;
    biases = b;
    for (size_t i = 0; i < 3; i++) {
        if (!cpu_isa_available(isas[i])) {
            print_message("skipped: this machine has no %s\n", cpu_isa_name(isas[i]));
            continue;
        }
        for (size_t r = 0; r < sizeof linear_rows / sizeof *linear_rows; r++)
            check_linear_row(&linear_rows[r], isas[i]);
    }
    free(g);
    free(b);
}

/* e^x, tanh and the gates on single numbers: relative error and equal bits between sets. */
static void test_functions(void **state)
{
    (void)state;
    static const enum cpu_isa isas[] = { CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
    enum { N = 4099 };
    float x[N], ones[N], y[3][N];
    for (int32_t i = 0; i < N; i++) {
        x[i] = (float)(i - N / 2) * (i % 3 ? 0.005f : 0.04f);
        ones[i] = 1;
    }
    for (size_t k = 0; k < 3; k++) {
        const size_t like = k;
        if (!cpu_isa_available(isas[k]))
            continue;
        const struct ops_kernels *ops = ops_kernels_of(isas[k]);
        for (enum gate gate = GATE_SILU; gate <= GATE_RELU2; gate++) {
            ops->gate(gate, x, ones, y[like], N, 1);
            for (int32_t i = 0; i < N; i++) {
                const double want = plain_act(gate, (double)x[i]);
                const double tolerance = gate == GATE_SILU || gate == GATE_RELU2
                                             ? 4e-7 * fabs(want)
                                             : 1e-6 * fabs((double)x[i]);
                if (!(fabs((double)y[like][i] - want) <= tolerance + 1e-37))
                    fail_msg("gate %d of %g is %.9g, wanted %.9g", (int)gate, (double)x[i],
                             (double)y[like][i], want);
            }
        }
        for (int32_t i = 0; i < N; i++)
            ones[i] = 2; /* by which scale * up is 1 */
        ops->gate(GATE_GELU_TANH, x, ones, y[like], N, 0.5f);
        ops->act(GATE_GELU_TANH, x, ones, N, 0.5f);
        assert_memory_equal(ones, y[like], sizeof ones);
        for (int32_t i = 0; i < N; i++)
            ones[i] = 1;
        memcpy(y[like], x, sizeof x);
        ops->soft_cap(y[like], N, 0.5f, 3);
        for (int32_t i = 0; i < N; i++) {
            const double want = 3 * tanh((double)x[i] * 0.5 / 3);
            if (!(fabs((double)y[like][i] - want) <= 4e-7 * fabs(want)))
                fail_msg("cap of %g is %.9g, wanted %.9g", (double)x[i], (double)y[like][i], want);
        }
        if (k > 0)
            assert_memory_equal(y[like], y[0], sizeof y[0]);
    }
}

/* ---- q, k, v: norm per head, rotation, pages --------------------------------------------------
 */

struct store_row {
    const char *name;
    int32_t rotary_dim; /* 0: no rope */
    bool interleaved, qk_norm;
    float rope_scale;
    enum dtype dtype;
    bool whole; /* the norms are over all heads of q, of k */
    int32_t variant;
};
static const struct store_row store_rows[] = {
    { "no rotation", 0, false, false, 1, DTYPE_F32, false, 0 },
    { "rotation of halves", 16, false, false, 1, DTYPE_F32, false, 0 },
    { "rotation of neighbours", 16, true, false, 1, DTYPE_F32, false, 0 },
    { "the first half alone rotates", 8, false, false, 1, DTYPE_F32, false, 0 },
    { "scaled rotation, norm per head", 16, false, true, 1.25f, DTYPE_F32, false, 0 },
    { "bf16 pages", 16, false, true, 1, DTYPE_BF16, false, 0 },
    { "fp16 pages, neighbours, part", 8, true, false, 1, DTYPE_F16, false, 0 },
    { "a norm over all heads", 16, false, true, 1, DTYPE_F32, true, 0 },
    { "a norm over all heads, part", 8, true, true, 1, DTYPE_BF16, true, 0 },
    { "the second set of frequencies", 16, false, false, 1.25f, DTYPE_F32, false, 1 },
    { "the first set of two, in part", 8, false, true, 1, DTYPE_F32, false, 2 },
    { "int8 pages", 16, false, true, 1, DTYPE_I8, false, 0 },
    { "int8 pages, neighbours, part", 8, true, false, 1, DTYPE_I8, false, 0 },
};
enum { DIM = 16, HEADS = 2, KV_HEADS = 1, QKV = (HEADS + 2 * KV_HEADS) * DIM };
static void plain_head(const struct store_row *c, const struct norm *norm, const float *inv_freq,
                       int32_t position, double *x)
{
    if (norm)
        plain_norm(norm, x);
    const int32_t half = c->rotary_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        const double angle = (double)((float)position * inv_freq[i]);
        const double cosine = cos(angle) * (double)c->rope_scale;
        const double sine = sin(angle) * (double)c->rope_scale;
        double *a = c->interleaved ? &x[2 * i] : &x[i];
        double *b = c->interleaved ? &x[2 * i + 1] : &x[i + half];
        const double a0 = *a, b0 = *b;
        *a = a0 * cosine - b0 * sine;
        *b = b0 * cosine + a0 * sine;
    }
}
static void check_store_row(const struct store_row *c, int32_t n_threads)
{
    float *x = noises(30, ROWS * HIDDEN), *data = noises(31, QKV * HIDDEN),
          *gain = noises(32, HEADS * DIM);
    const struct weight w = dense("qkv", data, QKV, HIDDEN);
    const int32_t half = c->rotary_dim / 2, variant = c->variant % 2; /* 2: the first of two */
    float inv_freqs[2 * (DIM / 2)] = { 0 }, y[ROWS * HEADS * DIM];
    for (int32_t i = 0; i < 2 * half; i++)
        inv_freqs[i] = powf(10000, -2.0f * (float)(i % half) / DIM) / (float)(1 + i / half);
    const float *inv_freq = inv_freqs + variant * half;
    const int32_t all = c->whole ? HEADS : 1;
    const struct norm norm = { NORM_RMS, gain, NULL, DIM, 1e-6f };
    const struct norm q_norm = { NORM_RMS, gain, NULL, DIM * all, 1e-6f };
    const struct rope rope = { inv_freqs, c->rotary_dim, c->rope_scale, c->interleaved,
                               c->variant > 0 ? 2 : 1 };
    struct kv_cache kv = {
        .n_groups = 2, .n_kv_heads = KV_HEADS, .head_dim = DIM, .dtype = c->dtype
    };
    struct backend *be = open_cpu(n_threads, CPU_ISA_AUTO);
    struct err err;
    for (int32_t g = 0; g < 2; g++) {
        kv.groups[g] = (struct kv_group){ 0, 2, 8, NULL };
        assert_ok(
            be->ops->reserve(be, REGION_KV, 8 * kv_page_bytes(&kv, g), &kv.groups[g].memory, &err),
            &err);
    }
    struct batch_single single;
    assert_ok(batch_single_init(&single, ROWS, 128, 2, &err), &err);
    int32_t tokens[ROWS] = { 0 };
    const int32_t from = 60;
    single.rope_variant = variant;
    const struct batch *batch = batch_single_build(&single, tokens, ROWS, from, false);
    const struct kv_store store = { .kv = &kv,
                                    .group = 1,
                                    .layer = 1,
                                    .n_heads = HEADS,
                                    .q_norm = c->qk_norm ? &q_norm : NULL,
                                    .k_norm = c->qk_norm ? &norm : NULL,
                                    .rope = c->rotary_dim ? &rope : NULL };
    const struct linear_op op = { .x = view_of(x, DTYPE_F32, ROWS, HIDDEN),
                                  .y = view_of(y, DTYPE_F32, ROWS, HEADS * DIM),
                                  .w = &w,
                                  .store = &store,
                                  .batch = batch,
                                  .scale = 1 };
    be->ops->linear(be, &op);
    const struct attend_op at = { .kv = &kv, .batch = batch, .group = 1, .layer = 1 };
    /* half a unit of the stored significand, of 24, 11 or 8 bits */
    const double relative = c->dtype == DTYPE_F16 ? 0x1p-11 : c->dtype == DTYPE_BF16 ? 0x1p-8 : 0;
    for (int32_t r = 0; r < ROWS; r++) {
        double wants[(HEADS + 2 * KV_HEADS) * DIM] = { 0 };
        for (int32_t o = 0; o < QKV; o++)
            for (int32_t i = 0; i < HIDDEN; i++)
                wants[o] += (double)data[o * HIDDEN + i] * (double)x[r * HIDDEN + i];
        if (c->qk_norm && c->whole) {
            plain_norm(&q_norm, wants);
            plain_norm(&norm, wants + HEADS * DIM); /* one KV head */
        }
        for (int32_t h = 0; h < HEADS + 2 * KV_HEADS; h++) {
            double *want = wants + h * DIM;
            if (h < HEADS + KV_HEADS)
                plain_head(c, c->qk_norm && !c->whole ? &norm : NULL, inv_freq, from + r, want);
            double most = 0; /* int8: half a step of the head's largest / 127 */
            for (int32_t d = 0; d < DIM; d++)
                most = fabs(want[d]) > most ? fabs(want[d]) : most;
            const double half_step = c->dtype == DTYPE_I8 ? most / 254 : 0;
            for (int32_t d = 0; d < DIM; d++) {
                const double got = h < HEADS ? (double)y[(r * HEADS + h) * DIM + d]
                                             : plain_kv(&at, 0, from + r, h - HEADS, 0, d);
                const double stored = relative * fabs(want[d]) + half_step;
                if (fabs(got - want[d]) > 1e-4 + (h < HEADS ? 0 : stored))
                    fail_msg("%s: row %d, head %d, feature %d is %g, wanted %g", c->name, r, h, d,
                             got, want[d]);
            }
        }
    }
    /* The other layer, the other group and earlier positions are untouched. */
    const struct attend_op layer0 = { .kv = &kv, .batch = batch, .group = 1, .layer = 0 };
    const struct attend_op group0 = { .kv = &kv, .batch = batch, .group = 0, .layer = 1 };
    assert_true(plain_kv(&layer0, 0, from, 0, 0, 0) == 0);
    assert_true(plain_kv(&group0, 0, from, 0, 0, 0) == 0);
    assert_true(plain_kv(&at, 0, from - 1, 0, 0, 0) == 0);
    assert_true(plain_kv(&at, 0, from + ROWS, 1, 0, 0) == 0);
    batch_single_clear(&single);
    done(be);
    free(x);
    free(data);
    free(gain);
}
static void test_store_rows(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof store_rows / sizeof *store_rows; r++)
        for (int32_t n_threads = 1; n_threads < 4; n_threads++)
            check_store_row(&store_rows[r], n_threads);
}

/* The rotary table is kept per batch and rope; neither a new batch nor another rope may meet an old
 * one. */
static void test_angles_are_not_stale(void **state)
{
    (void)state;
    float *x = noises(40, HIDDEN), *data = noises(41, QKV * HIDDEN);
    const struct weight w = dense("qkv", data, QKV, HIDDEN);
    struct backend *be = open_cpu(1, CPU_ISA_AUTO);
    struct err err;
    struct kv_cache kv = {
        .n_groups = 1, .n_kv_heads = KV_HEADS, .head_dim = DIM, .dtype = DTYPE_F32
    };
    kv.groups[0] = (struct kv_group){ 0, 1, 8, NULL };
    assert_ok(
        be->ops->reserve(be, REGION_KV, 8 * kv_page_bytes(&kv, 0), &kv.groups[0].memory, &err),
        &err);
    struct batch_single single;
    assert_ok(batch_single_init(&single, 1, 128, 1, &err), &err);
    float freqs[3][DIM / 2];
    for (int32_t i = 0; i < 3 * DIM / 2; i++)
        freqs[i / (DIM / 2)][i % (DIM / 2)] = 0.01f * (float)(i + 1);
    const int32_t token = 0;
    for (int32_t position = 0; position < 5; position++) {
        const struct batch *batch = batch_single_build(&single, &token, 1, position, true);
        for (int32_t k = 0; k < 9; k++) {
            const struct rope rope = { freqs[k * k % 3], DIM, 1, false, 1 };
            const struct kv_store store = { .kv = &kv,
                                            .n_heads = HEADS,
                                            .rope = k == 4 ? NULL : &rope };
            float y[HEADS * DIM], product[QKV];
            struct linear_op op = { .x = view_of(x, DTYPE_F32, 1, HIDDEN),
                                    .y = view_of(product, DTYPE_F32, 1, QKV),
                                    .w = &w,
                                    .scale = 1 };
            be->ops->linear(be, &op);
            op.y = view_of(y, DTYPE_F32, 1, HEADS * DIM);
            op.store = &store;
            op.batch = batch;
            be->ops->linear(be, &op);
            float cosines[DIM / 2], sines[DIM / 2];
            ops_rope_angles(&rope, 0, position, cosines, sines);
            for (int32_t h = 0; h < HEADS && store.rope; h++)
                ops_rope(&rope, cosines, sines, product + h * DIM);
            assert_memory_equal(y, product, sizeof y);
        }
    }
    batch_single_clear(&single);
    done(be);
    free(x);
    free(data);
}

/* ---- embed, logits, sample, failures ----------------------------------------------------------
 */

static void test_embed_and_logits(void **state)
{
    (void)state;
    float *table = noises(50, VOCAB * HIDDEN), *gain = noises(51, HIDDEN);
    const struct weight w = dense("embed", table, VOCAB, HIDDEN);
    struct err err;
    struct batch_single single;
    assert_ok(batch_single_init(&single, 16, 128, 1, &err), &err);
    int32_t tokens[16];
    for (int32_t i = 0; i < 16; i++)
        tokens[i] = i * 7 % VOCAB;
    for (int32_t n_threads = 1; n_threads < 3; n_threads++) {
        struct backend *be = open_cpu(n_threads, CPU_ISA_AUTO);
        const struct batch *built = batch_single_build(&single, tokens, 16, 3, true);
        assert_int_equal(built->positions[15], 18);
        struct batch batch = *built;
        float x[16 * HIDDEN], logits[16 * VOCAB];
        const struct embed_op embed = { view_of(x, DTYPE_F32, 16, HIDDEN), &w, &batch, 2.0f };
        be->ops->embed(be, &embed);
        for (int32_t i = 0; i < 16 * HIDDEN; i++)
            assert_true(x[i] == 2 * table[tokens[i / HIDDEN] * HIDDEN + i % HIDDEN]);
        static const int32_t wanted[] = { 2, 3, 15 };
        batch.logit_rows = wanted;
        batch.n_logit_rows = 3;
        const struct norm norm = { NORM_RMS, gain, NULL, HIDDEN, 1e-5f };
        for (int32_t form = 0; form < 3; form++) {
            const float scale = form ? 0.125f : 1, cap = form == 2 ? 30 : 0;
            memset(logits, 0, sizeof logits);
            const struct logits_op op = { view_of(logits, DTYPE_F32, 16, VOCAB),
                                          view_of(x, DTYPE_F32, 16, HIDDEN),
                                          &w,
                                          form == 1 ? NULL : &norm,
                                          &batch,
                                          scale,
                                          cap };
            be->ops->logits(be, &op);
            for (int32_t i = 0; i < 3; i++) {
                double in[HIDDEN];
                for (int32_t k = 0; k < HIDDEN; k++)
                    in[k] = (double)x[wanted[i] * HIDDEN + k];
                if (form != 1)
                    plain_norm(&norm, in);
                for (int32_t o = 0; o < VOCAB; o++) {
                    double dot = 0;
                    for (int32_t k = 0; k < HIDDEN; k++)
                        dot += (double)table[o * HIDDEN + k] * in[k];
                    dot *= (double)scale;
                    if (cap > 0)
                        dot = (double)cap * tanh(dot / (double)cap);
                    assert_true(fabs((double)logits[i * VOCAB + o] - dot) < 1e-4);
                }
            }
            for (int32_t i = 3 * VOCAB; i < 16 * VOCAB; i++)
                assert_true(logits[i] == 0);
        }
        done(be);
    }
    batch_single_clear(&single);
    free(table);
    free(gain);
}

static void test_sample_rows(void **state)
{
    (void)state;
    float *logits = noises(60, 8 * VOCAB);
    struct sample_params p = sample_params_neutral();
    p.seed = 5;
    p.n_top = 3;
    struct sample_row rows[24];
    struct sample_out outs[3][24];
    memset(outs, 0, sizeof outs);
    for (int32_t i = 0; i < 24; i++)
        rows[i] = (struct sample_row){
            .logit_row = i % 8, .params = &p, .target = i == 5 ? 9 : -1, .position = i
        };
    for (int32_t k = 0; k < 3; k++) {
        struct backend *be = open_cpu(k + 1, CPU_ISA_AUTO);
        const struct sample_op op = { view_of(logits, DTYPE_F32, 8, VOCAB), rows, outs[k], 24 };
        be->ops->sample(be, &op);
        done(be);
        for (int32_t i = 0; i < 24; i++) {
            assert_in_range(outs[k][i].token, 0, VOCAB - 1);
            assert_int_equal(outs[k][i].n_top, 3);
        }
        assert_int_equal(outs[k][5].token, 9);
        assert_memory_equal(outs[k], outs[0], sizeof outs[0]);
    }
    free(logits);
}

static void test_failure_stays(void **state)
{
    (void)state;
    struct backend *be = open_cpu(1, CPU_ISA_AUTO);
    struct err err;
    float *table = noises(70, VOCAB * HIDDEN), x[HIDDEN] = { 0 };
    const struct weight w = dense("embed", table, VOCAB, HIDDEN);
    struct batch_single single;
    assert_ok(batch_single_init(&single, 1, 16, 1, &err), &err);
    const int32_t token = 1;
    const struct embed_op embed = { view_of(x, DTYPE_F32, 1, HIDDEN), &w,
                                    batch_single_build(&single, &token, 1, 0, true), 1 };
    cpu_backend_fail(be, "attend", "page %d burned", 3);
    cpu_backend_fail(be, "linear", "later");
    be->ops->embed(be, &embed);
    assert_true(x[0] == 0);
    for (int32_t i = 0; i < 2; i++) {
        assert_false(be->ops->finish(be, &err));
        assert_int_equal(err.code, ERR_DEVICE);
        assert_string_equal(err.text, "cpu: attend: page 3 burned");
    }
    batch_single_clear(&single);
    be->ops->close(be);
    free(table);
}

static void test_memory(void **state)
{
    (void)state;
    struct backend *be;
    struct err err;
    const struct cpu_options options = { .n_threads = 1 };
    assert_ok(cpu_backend_open(&be, &options, &err), &err);
    assert_true(be->host_memory && !be->exact && be->kv_dtype == DTYPE_BF16);
    void *memory, *other;
    assert_ok(be->ops->reserve(be, REGION_WEIGHTS, 3 << 20, &memory, &err), &err);
    assert_ok(be->ops->reserve(be, REGION_KV, 0, &other, &err), &err);
    assert_non_null(other);
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (int32_t i = 0; i < 3 << 20; i += 4096)
        assert_int_equal(((uint8_t *)memory)[i], 0);
    be->ops->upload(be, memory, "abc", 4);
    char back[4];
    be->ops->download(be, back, memory, 4);
    assert_string_equal(back, "abc");
    assert_false(be->ops->reserve(be, REGION_KV, SIZE_MAX / 2, &other, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_null(other);
    assert_non_null(strstr(err.text, "keys and values"));
    assert_non_null(strstr(err.text, "9223372036854775807"));
    be->ops->close(be);
}

/* Matrices that came quantized: whole nibbles and bytes whose scales fit go to their tiles, the
 * rest to CHUNKS_C16 with the cheapest scales, what neither takes stays. */
static void test_choose_layout(void **state)
{
    (void)state;
    enum { F16 = 1 << LAYOUT_SCALES_F16, F32 = 1 << LAYOUT_SCALES_F32, I8 = 1 << LAYOUT_SCALES_I8 };
    static const struct {
        const char *name;
        int32_t bits, group;
        bool symmetric, mins, table, lossless;
        uint32_t fit;
        enum layout want;
        enum layout_scales scales;
    } cases[] = {
        { "Q4_0", 4, 32, true, false, false, true, F16, LAYOUT_W4_C16, LAYOUT_SCALES_F16 },
        { "Q4_K", 4, 32, false, true, false, false, I8, LAYOUT_CHUNKS_C16, LAYOUT_SCALES_I8 },
        { "Q6_K", 6, 16, true, false, false, false, I8, LAYOUT_CHUNKS_C16, LAYOUT_SCALES_I8 },
        { "3 bits", 3, 128, false, false, false, true, F16 | F32, LAYOUT_CHUNKS_C16,
          LAYOUT_SCALES_F16 },
        { "fp32 scales", 4, 64, true, false, false, false, F32, LAYOUT_CHUNKS_C16,
          LAYOUT_SCALES_F32 },
        { "NF4", 4, 64, true, false, true, false, F32, LAYOUT_CHUNKS_C16, LAYOUT_SCALES_F32 },
        { "a table of 8", 3, 64, true, false, true, false, F32, LAYOUT_CODES, LAYOUT_SCALES_F16 },
        { "groups of 48", 4, 48, true, false, false, true, F16, LAYOUT_W4_C16, LAYOUT_SCALES_F16 },
        { "groups of 48, fp32", 4, 48, true, false, false, false, F32, LAYOUT_CODES,
          LAYOUT_SCALES_F16 },
        { "groups of 48, 5 bits", 5, 48, true, false, false, true, F16, LAYOUT_W8_C16,
          LAYOUT_SCALES_F16 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct backend be = { .exact = false };
        struct layout_shape shape = { .n_out = 64,
                                      .n_in = 1024,
                                      .bits = cases[i].bits,
                                      .group = cases[i].group,
                                      .symmetric = cases[i].symmetric,
                                      .kind = cases[i].table ? CODE_TABLE : CODE_INT,
                                      .mins = cases[i].mins };
        backend_choose_layout(&be, &shape, NULL, cases[i].lossless, cases[i].fit);
        if (shape.layout != cases[i].want || shape.scales != cases[i].scales)
            fail_msg("%s: %s, scales %d", cases[i].name, layout_name(shape.layout), shape.scales);
        be.exact = true;
        backend_choose_layout(&be, &shape, NULL, cases[i].lossless, cases[i].fit);
        assert_int_equal(shape.layout, LAYOUT_CODES);
        be = (struct backend){ .f64 = true };
        backend_choose_layout(&be, &shape, NULL, cases[i].lossless, cases[i].fit);
        assert_true(shape.layout != LAYOUT_CHUNKS_C16);
    }
}

struct layout_row {
    const char *name;
    bool exact;
    int32_t bits, group;
    enum layout want, want_f64;
};
static const struct layout_row layout_rows[] = {
    { "exact arithmetic keeps the codes", true, 4, 128, LAYOUT_CODES, LAYOUT_W4_F64 },
    { "4 bits", false, 4, 128, LAYOUT_W4_C16, LAYOUT_W4_F64 },
    { "8 bits", false, 8, 64, LAYOUT_W8_C16, LAYOUT_W8_F64 },
    { "2 bits fit the nibble", false, 2, 64, LAYOUT_W4_C16, LAYOUT_W4_F64 },
    { "3 bits fit the nibble", false, 3, 64, LAYOUT_W4_C16, LAYOUT_W4_F64 },
    { "5 bits take a byte", false, 5, 64, LAYOUT_W8_C16, LAYOUT_W8_F64 },
    { "groups too small for an oct", false, 4, 4, LAYOUT_CODES, LAYOUT_CODES },
};
static void test_layouts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof layout_rows / sizeof *layout_rows; i++) {
        const struct layout_row *c = &layout_rows[i];
        const struct backend be = { .exact = c->exact };
        if (backend_layout(&be, c->bits, c->group, 4096) != c->want)
            fail_msg("%s: %s", c->name, layout_name(backend_layout(&be, c->bits, c->group, 4096)));
        const struct backend gpu = { .f64 = true };
        if (backend_layout(&gpu, c->bits, c->group, 4096) != c->want_f64)
            fail_msg("%s: %s", c->name, layout_name(backend_layout(&gpu, c->bits, c->group, 4096)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_rows),      cmocka_unit_test(test_functions),
        cmocka_unit_test(test_store_rows),       cmocka_unit_test(test_angles_are_not_stale),
        cmocka_unit_test(test_embed_and_logits), cmocka_unit_test(test_sample_rows),
        cmocka_unit_test(test_failure_stays),    cmocka_unit_test(test_memory),
        cmocka_unit_test(test_choose_layout),    cmocka_unit_test(test_layouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
