/* test_linear_chunks.c - products with CHUNKS_C16: every format's form by every instruction set
 * against a plain reference in double, and against each other, other thread counts and other
 * company by memcmp. */
#include "tests/support/support.h"
#include "tests/support/forms.h"
#include "host/backend/cpu/linear.h"

enum { ROWS_MAX = 113, N_IN_MAX = 1376, N_OUT_MAX = 83, X_PAD = 3, Y_PAD = 5 };

static double uniform(uint64_t seed, uint64_t at)
{
    return rng_uniform(seed, 1, at) - 0.5;
}

struct way {
    const char *name;
    enum cpu_isa isa;
    bool amx, bf16;
};
static const struct way ways[] = {
    { "portable", CPU_ISA_PORTABLE, false, false },
    { "avx2", CPU_ISA_AVX2, false, false },
    { "avx512-vnni", CPU_ISA_AVX512, false, false },
    { "avx512-vnni + bf16", CPU_ISA_AVX512, false, true },
    { "avx512-vnni + amx", CPU_ISA_AVX512, true, false },
};
enum { N_WAYS = sizeof ways / sizeof *ways };
static bool way_available(const struct way *way)
{
    return cpu_isa_available(way->isa) && (!way->amx || cpu_amx_available()) &&
           (!way->bf16 || cpu_bf16_available());
}
static struct pool *pools[2]; /* 1 and 2 threads */

/* One weight of one to three parts of the given forms. */
struct memory {
    struct weight w;
    void *blocks[WEIGHT_PARTS_MAX];
    float *bias;
    int32_t *order;
};
static const int32_t outs[WEIGHT_PARTS_MAX] = { N_OUT_MAX, 16, 33 };

static void make_part(struct memory *m, const struct form *form, int32_t p, uint64_t seed)
{
    struct err err;
    struct matrix matrix;
    struct weight_part *part = &m->w.parts[p];
    assert_ok(form_matrix(form, outs[p], m->w.n_in, seed, &matrix, &err), &err);
    if (form->table == FORM_E4M3 && outs[p] > 40) /* a row of small codes, many subnormal */
        for (int32_t i = 0; i < m->w.n_in; i++)
            matrix.codes[40 * m->w.n_in + i] = (uint8_t)(i % 17 | (i % 2) << 7);
    part->shape = form_shape(form, outs[p], m->w.n_in);
    m->blocks[p] = aligned_alloc(64, layout_bytes(&part->shape));
    assert_non_null(m->blocks[p]);
    layout_pack(&part->shape, &matrix, 0, outs[p], m->blocks[p]);
    part->data = m->blocks[p];
    part->bias = p == 1 ? NULL : m->bias;
    m->w.n_parts = p + 1;
    m->w.n_out += outs[p];
    matrix_clear(&matrix);
}
static void make(struct memory *m, const struct form *form, int32_t n_in, uint64_t seed)
{
    *m = (struct memory){ .w = { .name = form->name, .n_in = n_in } };
    m->bias = malloc(N_OUT_MAX * sizeof *m->bias);
    m->order = malloc((size_t)n_in * sizeof *m->order);
    assert_true(m->bias && m->order);
    for (int32_t i = 0; i < N_OUT_MAX; i++)
        m->bias[i] = (float)uniform(seed, (uint64_t)i);
    for (int32_t i = 0; i < n_in; i++)
        m->order[i] = n_in - 1 - i;
    make_part(m, form, 0, seed);
}
static void clear(struct memory *m)
{
    for (int32_t p = 0; p < WEIGHT_PARTS_MAX; p++)
        free(m->blocks[p]);
    free(m->bias);
    free(m->order);
}

static float *random_x(int32_t n_in)
{
    const int32_t stride = n_in + X_PAD;
    float *x = malloc((size_t)(ROWS_MAX * stride) * sizeof *x);
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
    const size_t bytes = (size_t)(n_rows * stride) * sizeof(float);
    float *y = malloc(bytes);
    struct linear_scratch *s;
    struct err err;
    assert_non_null(y);
    memset(y, 0x5a, bytes);
    assert_ok(linear_scratch_open(&s, way->isa, n_threads, ROWS_MAX, N_IN_MAX, &err), &err);
    assert_int_equal(linear_scratch_set_amx(s, way->amx), way->amx);
    assert_int_equal(linear_scratch_set_bf16(s, way->bf16), way->bf16);
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

/* x as the arithmetic sees it: int8 in each 128, with E4M3 bf16. Written from linear.h alone. */
static void round_input(const struct layout_shape *shape, double *x)
{
    const int32_t n_in = shape->n_in;
    if (shape->kind == CODE_TABLE && shape->bits == 8) {
        for (int32_t i = 0; i < n_in; i++)
            x[i] = (double)half_bf16_to_f32(half_f32_to_bf16((float)x[i]));
        return;
    }
    for (int32_t from = 0; from < n_in; from += 128) {
        const int32_t to = from + 128 < n_in ? from + 128 : n_in;
        float most = 0;
        for (int32_t i = from; i < to; i++)
            most = fmaxf(most, fabsf((float)x[i]));
        const float inverse = 127 / most, scale = most / 127;
        for (int32_t i = from; i < to; i++)
            x[i] = most > 0 ? rintf((float)x[i] * inverse) * (double)scale : 0;
    }
}
static void reference(const struct weight *w, const float *x, double *y)
{
    static double in[N_IN_MAX];
    static float row[N_IN_MAX], quantized[N_IN_MAX];
    for (int32_t p = 0; p < w->n_parts; p++) {
        const struct weight_part *part = &w->parts[p];
        act_quantize(&part->act, x, w->n_in, quantized);
        for (int32_t i = 0; i < w->n_in; i++)
            in[i] = (double)quantized[part->order ? part->order[i] : i];
        if (part->act.scheme == ACT_EXACT)
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

/* Schemes of floats: their own codes, or three int8, as fine as fp32. */
#define FLOAT_SCHEME_BOUND 4e-13
/* fp32 rounding of sums; 16 bits of NF4's table. */
static double bound_of(const struct form *form)
{
    return form->table == FORM_NF4 ? 1e-9 : 2e-13;
}
static void check_near(const struct memory *m, const float *x, const float *y, int32_t n_rows,
                       double bound, const char *how)
{
    static double want[N_OUT_MAX * 2];
    double error = 0, power = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        reference(&m->w, x + r * (m->w.n_in + X_PAD), want);
        for (int32_t o = 0; o < m->w.n_out; o++) {
            const double d = (double)y[r * (m->w.n_out + Y_PAD) + o] - want[o];
            error += d * d;
            power += want[o] * want[o];
        }
    }
    if (!(error <= bound * power))
        fail_msg("%s, %s: nmse %g", m->w.name, how, error / power);
}

static const int32_t sizes[] = { 512, 128, 1376, 96 };
static const int32_t row_counts[] = { 1, 2, 3, 4, 5, 6, 7, 13, 17, 64, 96, 97, ROWS_MAX };

/* Portable against double, and everything else against portable: all forms, sizes with a short last
 * chunk, company and threads. */
static void test_forms(void **state)
{
    (void)state;
    for (int32_t f = 0; f < N_FORMS; f++) {
        struct memory m;
        make(&m, &forms[f], sizes[f % 4], 100 + (uint64_t)f);
        float *x = random_x(m.w.n_in);
        float *want = product(&ways[0], 1, &m.w, x, ROWS_MAX);
        check_near(&m, x, want, 17, bound_of(&forms[f]), "portable");
        const int32_t stride = m.w.n_out + Y_PAD;
        for (int v = 0; v < N_WAYS; v++) {
            for (size_t k = 0; k < sizeof row_counts / sizeof *row_counts; k++) {
                if (!way_available(&ways[v]) || (v == 0 && k % 4))
                    continue;
                const int32_t n = row_counts[k], from = ROWS_MAX - n;
                float *y =
                    product(&ways[v], 1 + (int32_t)k % 2, &m.w, x + from * (m.w.n_in + X_PAD), n);
                if (memcmp(y, want + from * stride, (size_t)(n * stride) * sizeof *y))
                    fail_msg("%s, %s: %d rows on %d threads differ from portable", forms[f].name,
                             ways[v].name, n, 1 + (int)k % 2);
                free(y);
            }
        }
        free(want);
        free(x);
        clear(&m);
    }
}

/* q, k and v of different types, an activation order, and schemes that quantize activations. */
static void test_parts(void **state)
{
    (void)state;
    static const struct act_quant acts[] = {
        { ACT_EXACT, 0 },  { ACT_INT8_TOKEN, 0 }, { ACT_BITNET, 0 },   { ACT_FP8_TOKEN, 0 },
        { ACT_NVFP4, 90 }, { ACT_FP8_BLOCK, 0 },  { ACT_LLM_INT8, 6 }, { ACT_FP8_TENSOR, 0.01f },
    };
    enum { N = 9 };
    for (int32_t f = 0; f < N_FORMS; f++) {
        struct memory m;
        const int32_t others[2] = { (f * 7 + 3) % N_FORMS, (f * 5 + 1) % N_FORMS };
        make(&m, &forms[f], 384, 300 + (uint64_t)f);
        double bound = bound_of(&forms[f]);
        for (int32_t p = 1; p < WEIGHT_PARTS_MAX; p++) {
            make_part(&m, &forms[others[p - 1]], p, 400 + (uint64_t)f);
            bound = fmax(bound, bound_of(&forms[others[p - 1]]));
        }
        for (int32_t p = 0; p < WEIGHT_PARTS_MAX; p++)
            m.w.parts[p].act = acts[(f + (p == 2)) % 8];
        for (int32_t p = 0; p < WEIGHT_PARTS_MAX; p++) {
            const enum act_scheme scheme = m.w.parts[p].act.scheme;
            if (scheme != ACT_EXACT && !act_is_int8(scheme))
                bound = fmax(bound, FLOAT_SCHEME_BOUND);
        }
        m.w.parts[f % 3].order = m.order;
        float *x = random_x(384);
        float *want = product(&ways[0], 1, &m.w, x, N);
        check_near(&m, x, want, N, bound, "parts");
        for (int v = 1; v < N_WAYS; v++) {
            if (!way_available(&ways[v]))
                continue;
            float *y = product(&ways[v], 2, &m.w, x, N);
            if (memcmp(y, want, (size_t)(N * (m.w.n_out + Y_PAD)) * sizeof *y))
                fail_msg("%s, %s, with parts: differs from portable", forms[f].name, ways[v].name);
            free(y);
        }
        free(want);
        free(x);
        clear(&m);
    }
}

/* FP8 and NVFP4: the schemes' own codes with E4M3 and groups of 16, or three rows where an order
 * breaks their blocks; one row and many. */
static void test_schemes(void **state)
{
    (void)state;
    static const struct act_quant acts[] = {
        { ACT_FP8_TOKEN, 0 }, { ACT_FP8_TENSOR, 0.002f }, { ACT_FP8_BLOCK, 0 }, { ACT_NVFP4, 90 }
    };
    for (int32_t f = 0; f < N_FORMS; f++) {
        if (forms[f].table != FORM_E4M3 && forms[f].table != FORM_E2M1)
            continue;
        for (int32_t a = 0; a < 8; a++) {
            struct memory m;
            make(&m, &forms[f], a % 3 ? 400 : 512, 500 + (uint64_t)f);
            m.w.parts[0].act = acts[a % 4];
            m.w.parts[0].order = a < 4 ? NULL : m.order;
            float *x = random_x(m.w.n_in);
            float *want = product(&ways[0], 1, &m.w, x, ROWS_MAX);
            const int32_t stride = m.w.n_out + Y_PAD;
            check_near(&m, x, want, 17, FLOAT_SCHEME_BOUND, act_scheme_name(acts[a % 4].scheme));
            for (int v = 1; v < N_WAYS; v++) {
                for (size_t k = 0; k < sizeof row_counts / sizeof *row_counts; k += 2) {
                    if (!way_available(&ways[v]))
                        continue;
                    const int32_t n = row_counts[k], from = ROWS_MAX - n;
                    float *y = product(&ways[v], 1 + (int32_t)(k / 2) % 2, &m.w,
                                       x + from * (m.w.n_in + X_PAD), n);
                    if (memcmp(y, want + from * stride, (size_t)(n * stride) * sizeof *y))
                        fail_msg("%s, %s, %s: %d rows differ from portable", forms[f].name,
                                 act_scheme_name(acts[a % 4].scheme), ways[v].name, n);
                    free(y);
                }
            }
            free(want);
            free(x);
            clear(&m);
        }
    }
}

/* A broken activation is seen in its own row, and in no other. */
static void test_not_finite(void **state)
{
    (void)state;
    const float bad[] = { NAN, INFINITY, -INFINITY };
    for (int32_t f = 0; f < N_FORMS; f += 3) {
        struct memory m;
        make(&m, &forms[f], 256, 7);
        for (int v = 0; v < N_WAYS; v++) {
            if (!way_available(&ways[v]))
                continue;
            float *x = random_x(256);
            x[1 * (256 + X_PAD) + 255 - f % 3] = bad[f / 3 % 3];
            float *y = product(&ways[v], 1, &m.w, x, 11);
            for (int32_t r = 0; r < 11; r++)
                for (int32_t o = 0; o < m.w.n_out; o++)
                    assert_int_equal(isnan(y[r * (m.w.n_out + Y_PAD) + o]) != 0, r == 1);
            free(x);
            free(y);
        }
        clear(&m);
    }
}

/* Nothing behind the weights is touched. */
static void test_guard_pages(void **state)
{
    (void)state;
    for (int32_t f = 0; f < N_FORMS; f++) {
        struct memory m;
        make(&m, &forms[f], sizes[f % 4], 7);
        const size_t bytes = layout_bytes(&m.w.parts[0].shape);
        void *guarded = guard_copy(m.blocks[0], bytes);
        float *x = random_x(m.w.n_in);
        m.w.parts[0].data = guarded;
        for (int v = 0; v < N_WAYS; v++)
            for (int32_t n = 1; n <= 17 && way_available(&ways[v]); n += 8)
                free(product(&ways[v], 2, &m.w, x, n));
        guard_free(guarded, bytes);
        free(x);
        clear(&m);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),       cmocka_unit_test(test_parts),
        cmocka_unit_test(test_schemes),     cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_guard_pages),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
