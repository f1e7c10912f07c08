/* test_linear.c - matrix products: every instruction set against a plain reference in double, and
 * against each other, other thread counts and other company by memcmp. */
#include "tests/support/support.h"
#include <math.h>
#include "host/backend/cpu/linear.h"
#include "host/base/half.h"
#include "host/base/rng.h"

enum { ROWS_MAX = 113, N_IN_MAX = 1100 }; /* more rows than a block of the kernels (96) */

static double uniform(uint64_t seed, uint64_t at)
{
    return rng_uniform(seed, 1, at) - 0.5;
}

/* ---- weights ----------------------------------------------------------------------------------
 */

struct part_case {
    int32_t n_out;
    enum layout layout;
    int32_t bits, group; /* group 0: one scale a row */
    bool symmetric;
    enum dtype dtype; /* LAYOUT_ROWS */
    bool bias, order;
    int shift; /* LAYOUT_ROWS: bytes off alignment */
};

struct part_memory {
    void *block;
    float *bias;
    int32_t *order;
};

static void part_make(struct weight_part *part, struct part_memory *memory,
                      const struct part_case *c, int32_t n_in, const int32_t *order, uint64_t seed)
{
    struct err err;
    *part = (struct weight_part){
        .shape = { .layout = c->layout,
                   .n_out = c->n_out,
                   .n_in = n_in,
                   .bits = c->bits,
                   .group = c->group && c->group < n_in ? c->group : n_in,
                   .symmetric = c->symmetric },
        .dtype = c->dtype,
        .order = c->order ? order : NULL,
    };
    *memory = (struct part_memory){ 0 };
    if (c->bias) {
        memory->bias = malloc((size_t)c->n_out * sizeof *memory->bias);
        assert_non_null(memory->bias);
        for (int32_t o = 0; o < c->n_out; o++)
            memory->bias[o] = (float)uniform(seed + 1, (uint64_t)o);
        part->bias = memory->bias;
    }
    const size_t n = (size_t)c->n_out * (size_t)n_in;
    float *w = malloc(n * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < n; i++)
        w[i] = (float)(uniform(seed, i) * 0.1);
    if (c->layout == LAYOUT_ROWS) {
        memory->block = malloc(n * dtype_bytes(c->dtype) + (size_t)c->shift);
        assert_non_null(memory->block);
        uint8_t *to = (uint8_t *)memory->block + c->shift;
        if (c->shift && c->dtype == DTYPE_F32)
            memcpy(to, w, n * sizeof *w);
        else
            half_narrow(to, w, c->dtype, n);
        part->data = to;
    } else {
        struct matrix m;
        assert_ok(matrix_init(&m, c->n_out, n_in, c->bits, part->shape.group, c->symmetric, &err),
                  &err);
        assert_ok(matrix_quantize_rows(&m, w, 0, c->n_out, &err), &err);
        memory->block = aligned_alloc(64, layout_bytes(&part->shape));
        assert_non_null(memory->block);
        layout_pack(&part->shape, &m, 0, c->n_out, memory->block);
        part->data = memory->block;
        matrix_clear(&m);
    }
    free(w);
}

struct weight_case {
    const char *what;
    int32_t n_in;
    struct part_case parts[WEIGHT_PARTS_MAX]; /* n_out 0: no more */
};

#define W4(n, g)                                                                                   \
    {                                                                                              \
        n, LAYOUT_W4_C16, 4, g, true, DTYPE_NONE, false, false, 0                                  \
    }
#define W4Z(n, g)                                                                                  \
    {                                                                                              \
        n, LAYOUT_W4_C16, 4, g, false, DTYPE_NONE, true, false, 0                                  \
    }
#define W8(n, g)                                                                                   \
    {                                                                                              \
        n, LAYOUT_W8_C16, 8, g, true, DTYPE_NONE, false, false, 0                                  \
    }
#define W8Z(n, g)                                                                                  \
    {                                                                                              \
        n, LAYOUT_W8_C16, 8, g, false, DTYPE_NONE, true, false, 0                                  \
    }
#define CODES(n, b, g, sym)                                                                        \
    {                                                                                              \
        n, LAYOUT_CODES, b, g, sym, DTYPE_NONE, true, false, 0                                     \
    }
#define DENSE(n, t, off)                                                                           \
    {                                                                                              \
        n, LAYOUT_ROWS, 0, 0, false, t, true, false, off                                           \
    }

static const struct weight_case weight_cases[] = {
    { "4 bits, groups of 128", 512, { W4(80, 128) } },
    { "4 bits, groups of 64, odd outputs", 192, { W4(83, 64) } },
    { "4 bits, groups of 32, short last group", 200, { W4(19, 32) } },
    { "4 bits, one scale a row", 320, { W4(33, 0) } },
    { "4 bits, groups of 256", 1024, { W4(16, 256) } },
    { "4 bits, one output", 64, { W4(1, 64) } },
    { "4 bits with zeros, groups of 128", 384, { W4Z(70, 128) } },
    { "4 bits with zeros, groups of 32, ragged", 173, { W4Z(35, 32) } },
    { "4 bits with zeros, one scale a row, ragged", 131, { W4Z(9, 0) } },
    { "3 bits in nibbles",
      128,
      { { 18, LAYOUT_W4_C16, 3, 64, true, DTYPE_NONE, true, false, 0 } } },
    { "8 bits, groups of 128", 512, { W8(80, 128) } },
    { "8 bits, groups of 64, short last group", 200, { W8(51, 64) } },
    { "8 bits, groups of 32", 96, { W8(15, 32) } },
    { "8 bits, one scale a row", 300, { W8(17, 0) } },
    { "8 bits with zeros, groups of 128", 256, { W8Z(100, 128) } },
    { "8 bits with zeros, groups of 20", 110, { W8Z(20, 20) } },
    { "8 bits with zeros, one scale a row", 259, { W8Z(47, 0) } },
    { "q and k of 4 bits, v of 8, one input", 256, { W4(64, 128), W4Z(17, 128), W8(33, 128) } },
    { "parts that differ in group and kind",
      256,
      { W4(20, 32), DENSE(5, DTYPE_BF16, 0), W8(7, 0) } },
    { "activation order, shared by two parts",
      256,
      { { 40, LAYOUT_W4_C16, 4, 64, true, DTYPE_NONE, true, true, 0 },
        { 9, LAYOUT_W8_C16, 8, 64, false, DTYPE_NONE, false, true, 0 },
        { 6, LAYOUT_ROWS, 0, 0, false, DTYPE_BF16, true, true, 0 } } },
    { "codes of 4 bits, exact", 256, { CODES(37, 4, 64, true) } },
    { "codes of 8 bits with zeros, exact, ragged", 203, { CODES(22, 8, 32, false) } },
    { "codes and rows, exact",
      192,
      { CODES(5, 4, 0, false), DENSE(6, DTYPE_F32, 0), DENSE(7, DTYPE_F16, 0) } },
    { "bf16", 1100, { DENSE(43, DTYPE_BF16, 0) } },
    { "bf16, ragged and at an odd address", 117, { DENSE(11, DTYPE_BF16, 1) } },
    { "f16", 160, { DENSE(30, DTYPE_F16, 0) } },
    { "f16, ragged", 77, { DENSE(13, DTYPE_F16, 1) } },
    { "f32", 96, { DENSE(29, DTYPE_F32, 0) } },
    { "f32, ragged and at an odd address", 7, { DENSE(3, DTYPE_F32, 2) } },
};
enum { N_CASES = sizeof weight_cases / sizeof *weight_cases };
static const int32_t row_counts[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64, ROWS_MAX };

struct weight_memory {
    struct weight w;
    struct part_memory parts[WEIGHT_PARTS_MAX];
    int32_t *order;
};

static void weight_make(struct weight_memory *m, const struct weight_case *c, uint64_t seed)
{
    *m = (struct weight_memory){ .w = { .name = c->what, .n_in = c->n_in } };
    m->order = malloc((size_t)c->n_in * sizeof *m->order);
    assert_non_null(m->order);
    for (int32_t i = 0; i < c->n_in; i++) /* 7 is prime to every n_in that is used with order */
        m->order[i] = i * 7 % c->n_in;
    for (int i = 0; i < WEIGHT_PARTS_MAX && c->parts[i].n_out; i++) {
        part_make(&m->w.parts[i], &m->parts[i], &c->parts[i], c->n_in, m->order,
                  seed + 10 * (uint64_t)i);
        m->w.n_parts++;
        m->w.n_out += c->parts[i].n_out;
    }
}
static void weight_free(struct weight_memory *m)
{
    for (int i = 0; i < WEIGHT_PARTS_MAX; i++) {
        free(m->parts[i].block);
        free(m->parts[i].bias);
    }
    free(m->order);
}

/* ---- the plain reference ----------------------------------------------------------------------
 */

static bool is_tiled(const struct weight_part *part)
{
    return part->shape.layout == LAYOUT_W4_C16 || part->shape.layout == LAYOUT_W8_C16;
}
/* x as the fast arithmetic sees it: rounded to int8 in each chunk. Written from linear.h alone. */
static void round_input(const struct layout_shape *shape, double *x)
{
    for (int32_t g = 0; g < shape->n_in; g += shape->group) {
        const int32_t end = g + shape->group < shape->n_in ? g + shape->group : shape->n_in;
        for (int32_t from = g; from < end; from += 128) {
            const int32_t to = from + 128 < end ? from + 128 : end;
            float most = 0;
            for (int32_t i = from; i < to; i++)
                most = fmaxf(most, fabsf((float)x[i]));
            const float inverse = 127 / most, scale = most / 127;
            for (int32_t i = from; i < to; i++)
                x[i] = most > 0 ? rintf((float)x[i] * inverse) * (double)scale : 0;
        }
    }
}

static void reference(const struct weight *w, const float *x, double *y)
{
    double in[N_IN_MAX];
    float row[N_IN_MAX];
    for (int32_t p = 0; p < w->n_parts; p++) {
        const struct weight_part *part = &w->parts[p];
        float quantized[N_IN_MAX];
        act_quantize(&part->act, x, w->n_in, quantized);
        for (int32_t i = 0; i < w->n_in; i++)
            in[i] = (double)quantized[part->order ? part->order[i] : i];
        if (is_tiled(part) && !act_is_int8(part->act.scheme))
            round_input(&part->shape, in);
        for (int32_t o = 0; o < part->shape.n_out; o++) {
            linear_weight_row(part, o, row);
            double sum = 0;
            for (int32_t i = 0; i < w->n_in; i++)
                sum += (double)row[i] * in[i];
            *y++ = sum + (part->bias ? (double)part->bias[o] : 0);
        }
    }
}

/* ---- instruction sets -------------------------------------------------------------------------
 */

/* One way to compute: a kernel table, with or without the tile unit. */
struct way {
    const char *name;
    enum cpu_isa isa;
    bool amx;
};
static const struct way ways[] = {
    { "portable", CPU_ISA_PORTABLE, false },
    { "avx2", CPU_ISA_AVX2, false },
    { "avx512-vnni", CPU_ISA_AVX512, false },
    { "avx512-vnni + amx", CPU_ISA_AVX512, true },
};
enum { N_WAYS = sizeof ways / sizeof *ways };
static bool way_available(const struct way *way)
{
    return cpu_isa_available(way->isa) && (!way->amx || cpu_amx_available());
}

static struct pool *pools[2]; /* 1 and 2 threads */

static struct linear_scratch *scratch_of(const struct way *way, int32_t n_threads)
{
    struct linear_scratch *s;
    struct err err;
    assert_ok(linear_scratch_open(&s, way->isa, n_threads, ROWS_MAX, N_IN_MAX, &err), &err);
    assert_int_equal(linear_scratch_set_amx(s, way->amx), way->amx);
    return s;
}

/* Rows of x 3 floats longer than they need be, rows of y 5; what lies between must stay. */
enum { X_PAD = 3, Y_PAD = 5 };
static float *random_x(int32_t n_in)
{
    const int32_t stride = n_in + X_PAD;
    float *x = malloc((size_t)ROWS_MAX * (size_t)stride * sizeof *x);
    assert_non_null(x);
    for (int32_t i = 0; i < ROWS_MAX * stride; i++)
        x[i] = (float)uniform(99, (uint64_t)i);
    for (int32_t r = 0; r < ROWS_MAX; r++) /* an outlier a row, and a chunk of zeros */
        x[r * stride + r % n_in] *= 20;
    for (int32_t i = 0; i < n_in && i < 128; i++)
        x[5 * stride + i] = 0;
    return x;
}

static float *product(const struct way *way, int32_t n_threads, const struct weight *w, float *x,
                      int32_t n_rows)
{
    const int32_t stride = w->n_out + Y_PAD;
    const size_t bytes = (size_t)n_rows * (size_t)stride * sizeof(float);
    float *y = malloc(bytes);
    assert_non_null(y);
    memset(y, 0x5a, bytes);
    struct linear_scratch *s = scratch_of(way, n_threads);
    linear_product(pools[n_threads - 1], s, w,
                   (struct view){ x, DTYPE_F32, n_rows, w->n_in, w->n_in + X_PAD },
                   (struct view){ y, DTYPE_F32, n_rows, w->n_out, stride });
    linear_scratch_close(s);
    for (int32_t r = 0; r < n_rows; r++) {
        for (int32_t i = 0; i < Y_PAD; i++) {
            uint32_t bits;
            memcpy(&bits, &y[r * stride + w->n_out + i], sizeof bits);
            assert_int_equal(bits, 0x5a5a5a5a);
        }
    }
    return y;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

/* Normalized mean square error against double: (2^-24 rounding, a few hundred terms)^2. */
static void test_reference(void **state)
{
    (void)state;
    double worst = 0;
    for (int i = 0; i < N_CASES; i++) {
        struct weight_memory m;
        weight_make(&m, &weight_cases[i], 100 * (uint64_t)i);
        float *x = random_x(m.w.n_in);
        double *want = malloc((size_t)m.w.n_out * sizeof *want);
        assert_non_null(want);
        for (int v = 0; v < N_WAYS; v++) {
            if (!way_available(&ways[v]))
                continue;
            float *y = product(&ways[v], 1, &m.w, x, 17);
            double error = 0, power = 0;
            for (int32_t r = 0; r < 17; r++) {
                reference(&m.w, x + r * (m.w.n_in + X_PAD), want);
                for (int32_t o = 0; o < m.w.n_out; o++) {
                    const double d = (double)y[r * (m.w.n_out + Y_PAD) + o] - want[o];
                    error += d * d;
                    power += want[o] * want[o];
                }
            }
            if (!(error <= 1e-13 * power))
                fail_msg("%s, %s: nmse %g", weight_cases[i].what, ways[v].name, error / power);
            worst = fmax(worst, error / power);
            free(y);
        }
        free(want);
        free(x);
        weight_free(&m);
    }
    print_message("worst nmse against double: %.2g\n", worst);
}

/* Weights whose scheme quantizes activations: every scheme on every kind of weight, by every way,
 * against the definition of act_quant.h; the same bits by all. Rows are scaled by a power of two a
 * row, so that a scale taken from a neighbour would show. */
static void test_schemes(void **state)
{
    (void)state;
    static const struct act_quant acts[] = {
        { ACT_INT8_TOKEN, 0 }, { ACT_BITNET, 0 }, { ACT_FP8_TOKEN, 0 }, { ACT_FP8_TENSOR, 0.01f },
        { ACT_FP8_BLOCK, 0 },  { ACT_NVFP4, 90 }, { ACT_LLM_INT8, 6 },
    };
    enum { N = 17 };
    for (int i = 0; i < N_CASES; i++) {
        struct weight_memory m;
        weight_make(&m, &weight_cases[i], 100 * (uint64_t)i + 9);
        const int32_t x_stride = m.w.n_in + X_PAD, y_stride = m.w.n_out + Y_PAD;
        float *x = random_x(m.w.n_in);
        for (int32_t k = 0; k < N * x_stride; k++)
            x[k] = ldexpf(x[k], k / x_stride % 3);
        double want[256];
        assert_true(m.w.n_out <= 256);
        const struct act_quant *act = &acts[(size_t)i % (sizeof acts / sizeof *acts)];
        for (int p = 0; p < m.w.n_parts; p++) /* parts may differ */
            m.w.parts[p].act = p == 1 ? acts[(size_t)i * 3 % (sizeof acts / sizeof *acts)] : *act;
        float *first = NULL;
        for (int v = 0; v < N_WAYS; v++) {
            if (!way_available(&ways[v]))
                continue;
            float *y = product(&ways[v], 1 + v % 2, &m.w, x, N);
            double error = 0, power = 0;
            for (int32_t r = 0; r < N; r++) {
                reference(&m.w, x + r * x_stride, want);
                for (int32_t o = 0; o < m.w.n_out; o++) {
                    const double d = (double)y[r * y_stride + o] - want[o];
                    error += d * d;
                    power += want[o] * want[o];
                }
            }
            if (!(error <= 1e-13 * power))
                fail_msg("%s, %s, %s: nmse %g", weight_cases[i].what, act_scheme_name(act->scheme),
                         ways[v].name, error / power);
            if (first != NULL)
                assert_memory_equal(y, first, (size_t)(N * y_stride) * sizeof *y);
            if (first == NULL)
                first = y;
            else
                free(y);
        }
        free(first);
        free(x);
        weight_free(&m);
    }
}

/* All rows at once, by portable code on one thread, is what everything else is compared with. */
static void test_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct weight_memory m;
        weight_make(&m, &weight_cases[i], 100 * (uint64_t)i + 5);
        float *x = random_x(m.w.n_in);
        float *want = product(&ways[0], 1, &m.w, x, ROWS_MAX);
        const int32_t stride = m.w.n_out + Y_PAD;
        for (int v = 0; v < N_WAYS; v++) {
            for (size_t k = 0; k < sizeof row_counts / sizeof *row_counts; k++) {
                if (!way_available(&ways[v]))
                    continue;
                const int32_t n = row_counts[k];
                /* the last n rows, so that a row's neighbours and place differ */
                const int32_t from = ROWS_MAX - n;
                float *y =
                    product(&ways[v], 1 + (int32_t)k % 2, &m.w, x + from * (m.w.n_in + X_PAD), n);
                if (memcmp(y, want + from * stride, (size_t)(n * stride) * sizeof *y))
                    fail_msg("%s, %s: %d rows on %d threads differ from portable",
                             weight_cases[i].what, ways[v].name, n, 1 + (int)k % 2);
                free(y);
            }
        }
        free(want);
        free(x);
        weight_free(&m);
    }
}

/* The same rows on 1 and 2 threads. */
static void test_threads(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct weight_memory m;
        weight_make(&m, &weight_cases[i], 100 * (uint64_t)i + 7);
        float *x = random_x(m.w.n_in);
        for (int v = 0; v < N_WAYS; v++) {
            if (!way_available(&ways[v]))
                continue;
            for (int32_t n = 1; n <= ROWS_MAX; n = 3 * n + 1) {
                float *one = product(&ways[v], 1, &m.w, x, n);
                float *two = product(&ways[v], 2, &m.w, x, n);
                assert_memory_equal(one, two, (size_t)(n * (m.w.n_out + Y_PAD)) * sizeof *one);
                free(one);
                free(two);
            }
        }
        free(x);
        weight_free(&m);
    }
}

/* A broken activation is seen in its own row, and in no other. */
static void test_not_finite(void **state)
{
    (void)state;
    static const struct weight_case c = { "", 256, { W4(20, 64), W8(20, 128), W4Z(3, 0) } };
    struct weight_memory m;
    weight_make(&m, &c, 3);
    const float bad[] = { NAN, INFINITY, -INFINITY };
    for (int v = 0; v < N_WAYS; v++) {
        for (int b = 0; b < 3 && way_available(&ways[v]); b++) {
            for (int32_t n = 2; n <= 20; n += 9) {
                float *x = random_x(256);
                x[1 * (256 + X_PAD) + 255 - b] = bad[b];
                float *y = product(&ways[v], 1, &m.w, x, n);
                for (int32_t r = 0; r < n; r++) {
                    for (int32_t o = 0; o < m.w.n_out; o++)
                        assert_int_equal(isnan(y[r * (m.w.n_out + Y_PAD) + o]) != 0, r == 1);
                }
                free(x);
                free(y);
            }
        }
    }
    weight_free(&m);
}

/* Nothing behind x, y, weights or bias is touched. */
static void test_guard_pages(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct weight_memory m;
        weight_make(&m, &weight_cases[i], 11);
        const int32_t n_in = m.w.n_in, n_out = m.w.n_out;
        for (int p = 0; p < m.w.n_parts; p++) {
            struct weight_part *part = &m.w.parts[p];
            const size_t bytes =
                part->shape.layout == LAYOUT_ROWS
                    ? (size_t)part->shape.n_out * (size_t)n_in * dtype_bytes(part->dtype)
                    : layout_bytes(&part->shape);
            part->data = guard_copy(part->data, bytes);
            if (part->bias)
                part->bias = guard_copy(part->bias, (size_t)part->shape.n_out * sizeof(float));
        }
        float *x = random_x(n_in), *y = calloc((size_t)(17 * n_out), sizeof *y);
        assert_non_null(y);
        for (int v = 0; v < N_WAYS; v++) {
            for (int32_t n = 1; n <= 17 && way_available(&ways[v]); n += 8) {
                const size_t x_bytes = (size_t)(n * n_in) * sizeof *x;
                const size_t y_bytes = (size_t)(n * n_out) * sizeof *y;
                float *gx = guard_copy(x, x_bytes), *gy = guard_copy(y, y_bytes);
                struct linear_scratch *s = scratch_of(&ways[v], 2);
                linear_product(pools[1], s, &m.w, view_of(gx, DTYPE_F32, n, n_in),
                               view_of(gy, DTYPE_F32, n, n_out));
                linear_scratch_close(s);
                guard_free(gx, x_bytes);
                guard_free(gy, y_bytes);
            }
        }
        for (int p = 0; p < m.w.n_parts; p++) {
            struct weight_part *part = &m.w.parts[p];
            const size_t bytes =
                part->shape.layout == LAYOUT_ROWS
                    ? (size_t)part->shape.n_out * (size_t)n_in * dtype_bytes(part->dtype)
                    : layout_bytes(&part->shape);
            guard_free((void *)(uintptr_t)part->data, bytes);
            if (part->bias)
                guard_free((void *)(uintptr_t)part->bias,
                           (size_t)part->shape.n_out * sizeof(float));
        }
        free(x);
        free(y);
        weight_free(&m);
    }
}

static int setup(void **state)
{
    (void)state;
    struct err err;
    for (int i = 0; i < 2; i++)
        assert_ok(pool_open(&pools[i], 1 + i, &err), &err);
    for (int v = 0; v < N_WAYS; v++) {
        if (!way_available(&ways[v]))
            print_message("[  SKIPPED ] %s: this machine's CPUID does not offer it\n",
                          ways[v].name);
    }
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    pool_close(pools[0]);
    pool_close(pools[1]);
    return 0;
}

/* Tables, mins and an activation order in the canonical layout, against matrix_dequantize_row. */
static void test_forms(void **state)
{
    (void)state;
    enum { N_OUT = 21, N_IN = 150, N_ROWS = 3 };
    static float table[16];
    int32_t order[N_IN];
    float w_row[N_IN], x[N_ROWS][N_IN], y[N_ROWS][2 * N_OUT];
    struct err err;
    struct matrix m[2];
    struct weight w = { .name = "forms", .n_out = 2 * N_OUT, .n_in = N_IN, .n_parts = 2 };
    for (int32_t i = 0; i < 16; i++)
        table[i] = (float)uniform(5, (uint64_t)i);
    for (int32_t i = 0; i < N_IN; i++) {
        order[i] = i * 7 % N_IN;
        for (int32_t r = 0; r < N_ROWS; r++)
            x[r][i] = (float)uniform(6, (uint64_t)(r * N_IN + i));
    }
    for (int32_t p = 0; p < 2; p++) {
        const struct matrix_form form = { N_OUT, N_IN, p ? CODE_INT : CODE_TABLE, 4, 16, !p, p };
        assert_ok(matrix_init_form(&m[p], &form, &err), &err);
        m[p].table = p ? NULL : table;
        m[p].order = order;
        for (int32_t i = 0; i < N_OUT * N_IN; i++)
            m[p].codes[i] = (uint8_t)(rng_philox(7, (uint64_t)p, (uint64_t)i).v[0] & 15);
        for (int32_t i = 0; i < N_OUT * m[p].n_groups; i++) {
            m[p].scales[i] = (float)uniform(8, (uint64_t)i);
            if (p)
                m[p].mins[i] = (float)uniform(9, (uint64_t)i);
        }
        struct weight_part *part = &w.parts[p];
        part->shape = (struct layout_shape){ .layout = LAYOUT_CODES,
                                             .n_out = N_OUT,
                                             .n_in = N_IN,
                                             .bits = 4,
                                             .group = 16,
                                             .symmetric = !p,
                                             .kind = form.kind,
                                             .mins = p };
        part->order = order;
        void *packed = aligned_alloc(64, layout_bytes(&part->shape));
        assert_non_null(packed);
        layout_pack(&part->shape, &m[p], 0, N_OUT, packed);
        part->data = packed;
    }
    struct linear_scratch *s;
    assert_ok(linear_scratch_open(&s, CPU_ISA_AUTO, pool_threads(pools[0]), N_ROWS, N_IN, &err),
              &err);
    linear_product(pools[0], s, &w, view_of(x, DTYPE_F32, N_ROWS, N_IN),
                   view_of(y, DTYPE_F32, N_ROWS, 2 * N_OUT));
    for (int32_t o = 0; o < 2 * N_OUT; o++) {
        matrix_dequantize_row(&m[o / N_OUT], o % N_OUT, w_row);
        for (int32_t r = 0; r < N_ROWS; r++) {
            double want = 0;
            for (int32_t i = 0; i < N_IN; i++)
                want += (double)w_row[i] * (double)x[r][i];
            assert_true(fabs((double)y[r][o] - want) < 1e-5);
        }
    }
    linear_scratch_close(s);
    for (int32_t p = 0; p < 2; p++) {
        free((void *)(uintptr_t)w.parts[p].data);
        matrix_clear(&m[p]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),  cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_same_bits),  cmocka_unit_test(test_threads),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_guard_pages),
        cmocka_unit_test(test_forms),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
