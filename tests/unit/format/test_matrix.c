/* Round to nearest: worked by hand, then its promises on random rows of every size of number. */
#include "tests/support/support.h"
#include <float.h>
#include <math.h>
#include "host/base/half.h"
#include "host/format/matrix.h"

static void test_by_hand_symmetric(void **state)
{
    (void)state;
    /* 4 bits, groups of 4, 6 inputs: the last group has 2.
     *   group 0: largest 0.875, scale 0.875 / 7 = 0.125.  Steps 7, -2.5, 1.5, 0; ties to even.
     *   group 1: largest 7, scale 1.                      Steps 3.5, -7. */
    static const float W[6] = { 0.875f, -0.3125f, 0.1875f, 0.0f, 3.5f, -7.0f };
    static const uint8_t CODES[6] = { 8 + 7, 8 - 2, 8 + 2, 8, 8 + 4, 8 - 7 };
    static const float BACK[6] = { 0.875f, -0.25f, 0.25f, 0.0f, 4.0f, -7.0f };
    struct matrix m;
    struct err err;
    float back[6], factor;
    assert_ok(matrix_init(&m, 1, 6, 4, 4, true, &err), &err);
    assert_int_equal(m.n_groups, 2);
    assert_null(m.zeros);
    assert_ok(matrix_quantize_rows(&m, W, 0, 1, &err), &err);
    assert_memory_equal(m.codes, CODES, sizeof CODES);
    assert_true(m.scales[0] == 0.125f && m.scales[1] == 1.0f);
    matrix_dequantize_row(&m, 0, back);
    assert_memory_equal(back, BACK, sizeof BACK);
    /* The largest scale, 1, becomes 128 = 1 / 2^-7; the other one 16. */
    assert_true(matrix_scale_parts(&m, 0, &factor));
    assert_true(factor == 0x1p-7f);
    matrix_clear(&m);
}

static void test_by_hand_asymmetric(void **state)
{
    (void)state;
    /* 4 bits, groups of 4.
     *   group 0: -1 to 2.75, scale 3.75 / 15 = 0.25, zero 4.  Steps -4, 1.5, 11, 0.
     *   group 1: 0 to 3.75 (zero is always in), scale 0.25, zero 0.  Steps 15, 7.5, 4, 0.
     *   group 2: all zero. */
    static const float W[12] = { -1, 0.375f, 2.75f, 0, 3.75f, 1.875f, 1, 0.125f, 0, -0.0f, 0, 0 };
    static const uint8_t CODES[12] = { 0, 6, 15, 4, 15, 8, 4, 0, 0, 0, 0, 0 };
    static const float BACK[12] = { -1, 0.5f, 2.75f, 0, 3.75f, 2, 1, 0, 0, 0, 0, 0 };
    struct matrix m;
    struct err err;
    float back[12];
    assert_ok(matrix_init(&m, 1, 12, 4, 4, false, &err), &err);
    assert_ok(matrix_quantize_rows(&m, W, 0, 1, &err), &err);
    assert_memory_equal(m.codes, CODES, sizeof CODES);
    assert_true(m.scales[0] == 0.25f && m.scales[1] == 0.25f && m.scales[2] == 0);
    assert_true(m.zeros[0] == 4 && m.zeros[1] == 0 && m.zeros[2] == 0);
    matrix_dequantize_row(&m, 0, back);
    for (int i = 0; i < 12; i++)
        assert_true(back[i] == BACK[i]);
    matrix_clear(&m);
}

static void test_scale_is_rounded_up(void **state)
{
    (void)state;
    /* 0.7f / 7 = 0.09999999829... = 1638.39997 * 2^-14; eleven bits: 1639 * 2^-14. */
    static const float W[1] = { 0.7f };
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 1, 1, 4, 1, true, &err), &err);
    assert_ok(matrix_quantize_rows(&m, W, 0, 1, &err), &err);
    assert_true(m.scales[0] == 1639.0f / 16384.0f);
    assert_int_equal(m.codes[0], 15);
    matrix_clear(&m);
}

static void test_scale_rounded_into_the_next_binade(void **state)
{
    (void)state;
    /* The largest scale, 1 - 2^-20, is stored as 1, so the row's factor is 2^-7 and not 2^-8; the
     * small scale 3 * 2^-32 must then go to a multiple of 2^-24 * 2^-7, which is 4 * 2^-32. */
    static const float W[2] = { 7.0f * (1.0f - 0x1p-20f), 7.0f * 3.0f * 0x1p-32f };
    struct matrix m;
    struct err err;
    float factor;
    assert_ok(matrix_init(&m, 1, 2, 4, 1, true, &err), &err);
    assert_ok(matrix_quantize_rows(&m, W, 0, 1, &err), &err);
    assert_true(m.scales[0] == 1.0f && m.scales[1] == 0x1p-30f);
    assert_true(matrix_scale_parts(&m, 0, &factor));
    assert_true(factor == 0x1p-7f);
    assert_int_equal(m.codes[1], 8 + 5); /* 21 / 4 = 5.25 steps */
    matrix_clear(&m);
}

static uint32_t random_state = 1;
static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* About -1 to 1, dense around 0. */
static float random_weight(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(random_u32() >> 8) / 8388608.0f - 1.0f;
    return sum / 4;
}

enum kind {
    KIND_PLAIN,
    KIND_POSITIVE,
    KIND_SPARSE, /* most groups all zero */
    KIND_SPREAD, /* every weight its own exponent, over all floats */
    KIND_GROUPS, /* every group its own exponent, over 50 binades */
    KIND_SUBNORMAL,
    KIND_HUGE,    /* up to FLT_MAX, both signs */
    KIND_TIES,    /* multiples of half a step */
    KIND_OUTLIER, /* one weight of 1000 */
    KIND_ZERO,
    KIND_COUNT
};

static void fill(float *w, int32_t n, int32_t group, enum kind kind)
{
    for (int32_t i = 0; i < n; i++) {
        float x = random_weight();
        switch (kind) {
        case KIND_POSITIVE:
            x = fabsf(x) + 0.25f;
            break;
        case KIND_SPARSE:
            x = (i / group) % 3 == 0 && random_u32() % 8 == 0 ? x : 0;
            break;
        case KIND_SPREAD:
            x = ldexpf(x, (int)(random_u32() % 270) - 145);
            break;
        case KIND_GROUPS:
            x = ldexpf(x, -((i / group) * 17 % 50));
            break;
        case KIND_SUBNORMAL:
            x = ldexpf(x, -(int)(random_u32() % 6) - 142);
            break;
        case KIND_HUGE:
            x = i % 7 == 0 ? (x < 0 ? -FLT_MAX : FLT_MAX) : ldexpf(x, 127);
            break;
        case KIND_TIES:
            x = (float)((int32_t)(random_u32() % 31) - 15) * 0.5f;
            break;
        case KIND_OUTLIER:
            x = i == n / 2 ? 1000.0f : x;
            break;
        case KIND_ZERO:
            x = i % 2 ? 0.0f : -0.0f;
            break;
        default:
            break;
        }
        w[i] = x;
    }
}

/* Everything that matrix.h promises about one row. */
static void check_row(const struct matrix *m, int32_t row, const float *w)
{
    float factor = 0, back[512];
    int exponent;
    int32_t top = (1 << m->bits) - 1;
    assert_true(m->n_in <= 512);
    assert_true(matrix_scale_parts(m, row, &factor));
    assert_true(frexpf(factor, &exponent) == 0.5f); /* a power of two */
    matrix_dequantize_row(m, row, back);
    double largest = 0;
    for (int32_t g = 0; g < m->n_groups; g++) {
        int32_t from = g * m->group, to = from + m->group < m->n_in ? from + m->group : m->n_in;
        double scale = (double)m->scales[(size_t)row * (size_t)m->n_groups + (size_t)g];
        double zero = m->symmetric
                          ? (double)(1 << (m->bits - 1))
                          : (double)m->zeros[(size_t)row * (size_t)m->n_groups + (size_t)g];
        double low = 0, high = 0;
        for (int32_t i = from; i < to; i++) {
            low = fmin(low, (double)w[i]);
            high = fmax(high, (double)w[i]);
        }
        assert_true(isfinite(scale) && scale >= 0);
        assert_true((scale == 0) == (low == 0 && high == 0));
        assert_true(zero >= 0 && zero <= top && zero == rint(zero));
        /* The stored form: fp16 times the factor, exactly. */
        uint16_t half = half_f32_to_f16((float)(scale / (double)factor));
        assert_true((double)half_f16_to_f32(half) * (double)factor == scale);
        largest = fmax(largest, scale / (double)factor);
        /* Not wasteful: at most one unit in the eleventh bit above the formula. FLT_MAX is the one
         * place where rounding up is impossible. */
        double ideal = m->symmetric ? fmax(-low, high) / (double)(top / 2) : (high - low) / top;
        assert_true(scale >= ideal || scale == 0x1.ffcp127);
        if (ideal / (double)factor >= 0x1p-14)
            assert_true(scale <= ideal * (1 + 0x1p-10));
        for (int32_t i = from; i < to; i++) {
            uint8_t code = m->codes[(size_t)row * (size_t)m->n_in + (size_t)i];
            double value = scale * ((double)code - zero);
            assert_true(code <= top && (!m->symmetric || code >= 1));
            /* 2e-5 of a step: w / scale has 24 bits and at most 255 steps. */
            if (fabs(value - (double)w[i]) > scale * (0.5 + 2e-5))
                fail_msg("w[%d] = %g became %g, scale %g", i, (double)w[i], value, scale);
            if (isfinite((float)value))
                assert_true(back[i] == (float)value);
        }
    }
    if (largest != 0 && factor != 0x1p-125f)
        assert_true(largest >= 128 && largest < 256);
    if (largest == 0)
        assert_true(factor == 1);
}

static void test_promises(void **state)
{
    (void)state;
    enum { N_OUT = 3 };
    static const int32_t N_IN[] = { 1, 31, 128, 200, 500 }, GROUPS[] = { 1, 5, 32, 64, 128, 1000 };
    float w[N_OUT * 500];
    for (int32_t bits = 2; bits <= 8; bits++) {
        for (int32_t variant = 0; variant < 5 * 6 * 2; variant++) {
            int32_t n_in = N_IN[variant / 12], group = GROUPS[variant / 2 % 6];
            for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
                struct matrix m, single;
                struct err err;
                fill(w, N_OUT * n_in, group, kind);
                assert_ok(matrix_init(&m, N_OUT, n_in, bits, group, variant % 2, &err), &err);
                assert_ok(matrix_init(&single, N_OUT, n_in, bits, group, variant % 2, &err), &err);
                assert_ok(matrix_quantize_rows(&m, w, 0, N_OUT, &err), &err);
                for (int32_t row = 0; row < N_OUT; row++) {
                    check_row(&m, row, w + row * n_in);
                    assert_ok(matrix_quantize_rows(&single, w + row * n_in, row, row + 1, &err),
                              &err);
                }
                size_t n_scales = N_OUT * (size_t)m.n_groups * sizeof(float);
                assert_memory_equal(m.codes, single.codes, N_OUT * (size_t)n_in);
                assert_memory_equal(m.scales, single.scales, n_scales);
                if (m.zeros != NULL)
                    assert_memory_equal(m.zeros, single.zeros, n_scales);
                matrix_clear(&m);
                matrix_clear(&single);
            }
        }
    }
}

/* The mean square error stays within 0.5 % of scales kept in fp32. */
static void test_error_near_fp32_scales(void **state)
{
    (void)state;
    enum { N_OUT = 64, N_IN = 512 };
    static float w[N_OUT * N_IN], back[N_IN];
    for (int32_t bits = 4; bits <= 8; bits += 4) {
        for (int32_t group = 32; group <= 128; group *= 2) {
            for (int32_t symmetric = 0; symmetric < 2; symmetric++) {
                struct matrix m;
                struct err err;
                double ours = 0, exact = 0;
                int32_t top = symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
                fill(w, N_OUT * N_IN, group, KIND_PLAIN);
                assert_ok(matrix_init(&m, N_OUT, N_IN, bits, group, symmetric, &err), &err);
                assert_ok(matrix_quantize_rows(&m, w, 0, N_OUT, &err), &err);
                for (int32_t from = 0; from < N_OUT * N_IN; from += group) {
                    float low = 0, high = 0;
                    if (from % N_IN == 0)
                        matrix_dequantize_row(&m, from / N_IN, back);
                    for (int32_t i = from; i < from + group; i++) {
                        low = fminf(low, w[i]);
                        high = fmaxf(high, w[i]);
                    }
                    float scale = (symmetric ? fmaxf(-low, high) : high - low) / (float)top;
                    float zero = symmetric ? 0 : rintf(-low / scale);
                    for (int32_t i = from; i < from + group; i++) {
                        float steps = rintf(w[i] / scale) + zero;
                        steps = fminf(fmaxf(steps, symmetric ? -(float)top : 0), (float)top) - zero;
                        double miss = (double)w[i] - (double)(steps * scale);
                        double our_miss = (double)w[i] - (double)back[i % N_IN];
                        exact += miss * miss;
                        ours += our_miss * our_miss;
                    }
                }
                if (ours > 1.005 * exact)
                    fail_msg("bits %d group %d symmetric %d: %.4f of the error with fp32 scales",
                             bits, group, symmetric, ours / exact);
                matrix_clear(&m);
            }
        }
    }
}

static void test_not_finite(void **state)
{
    (void)state;
    enum { N_OUT = 3, N_IN = 70 };
    static const float BAD[] = { INFINITY, -INFINITY, NAN, -NAN };
    float w[N_OUT * N_IN];
    for (int32_t symmetric = 0; symmetric < 2; symmetric++) {
        struct matrix m;
        struct err err;
        assert_ok(matrix_init(&m, N_OUT + 5, N_IN, 8, 32, symmetric, &err), &err);
        for (int32_t at = 0; at < N_OUT * N_IN; at++) {
            for (size_t bad = 0; bad < sizeof BAD / sizeof *BAD; bad++) {
                char text[32];
                fill(w, N_OUT * N_IN, 32, KIND_PLAIN);
                w[at] = BAD[bad];
                assert_false(matrix_quantize_rows(&m, w, 5, 5 + N_OUT, &err));
                assert_int_equal(err.code, ERR_FORMAT);
                snprintf(text, sizeof text, "row %d ", 5 + at / N_IN);
                assert_non_null(strstr(err.text, text));
            }
        }
        matrix_clear(&m);
    }
}

static void test_init(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        int32_t n_out, n_in, bits, group;
        enum err_code code;
    } rows[] = {
        { "the smallest", 1, 1, 2, 1, ERR_NONE },
        { "a group longer than a row", 2, 96, 4, 128, ERR_NONE },
        { "no rows", 0, 8, 4, 8, ERR_FORMAT },
        { "no columns", 8, 0, 4, 8, ERR_FORMAT },
        { "minus rows", -1, 8, 4, 8, ERR_FORMAT },
        { "minus columns", 8, INT32_MIN, 4, 8, ERR_FORMAT },
        { "1 bit", 8, 8, 1, 8, ERR_UNSUPPORTED },
        { "9 bits", 8, 8, 9, 8, ERR_UNSUPPORTED },
        { "-1 bits", 8, 8, -1, 8, ERR_UNSUPPORTED },
        { "a group of 0", 8, 8, 4, 0, ERR_FORMAT },
        { "a group of -1: the caller says n_in", 8, 8, 4, -1, ERR_FORMAT },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct matrix m;
        struct err err = { 0 };
        bool ok =
            matrix_init(&m, rows[i].n_out, rows[i].n_in, rows[i].bits, rows[i].group, false, &err);
        if (ok != (rows[i].code == ERR_NONE) || err.code != rows[i].code)
            fail_msg("%s: %s", rows[i].sentence, err.text);
        matrix_clear(&m);
    }
}

/* Scales that came from elsewhere. */
static void test_foreign_scales(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        float scales[3];
        bool exact;
        float factor;
    } rows[] = {
        { "all zero", { 0, 0, 0 }, true, 1 },
        { "fp16 values", { 0.0999755859375f, 0.5f, 0x1p-24f }, true, 0x1p-8f },
        { "bf16 values", { 1.0078125f, 200.0f, 0.0001f * 0 }, true, 1 },
        { "twelve bits", { 1.00048828125f, 1, 1 }, false, 0x1p-7f },
        { "31 binades", { 128, 0x1p-24f, 1 }, true, 1 },
        { "32 binades", { 128, 0x1p-25f, 1 }, false, 1 },
        { "a negative one", { -2, 1, 0.5f }, true, 0x1p-6f },
        { "infinity", { INFINITY, 1, 1 }, false, 1 },
        { "not a number", { 1, NAN, 1 }, false, 1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct matrix m;
        struct err err;
        float factor = 0;
        assert_ok(matrix_init(&m, 1, 96, 4, 32, true, &err), &err);
        memcpy(m.scales, rows[i].scales, sizeof rows[i].scales);
        bool exact = matrix_scale_parts(&m, 0, &factor);
        if (exact != rows[i].exact || factor != rows[i].factor)
            fail_msg("%s: exact %d, factor %g", rows[i].sentence, exact, (double)factor);
        matrix_clear(&m);
    }
}

/* w = scale * value - min, placed by the order. */
static void test_forms_by_hand(void **state)
{
    (void)state;
    static const float table[4] = { -1, 0, 0.5f, 6 };
    static const int32_t order[6] = { 4, 0, 5, 1, 3, 2 };
    static const uint8_t codes[6] = { 0, 1, 2, 3, 2, 3 };
    static const float scales[2] = { 2, -0.5f }, offsets[2] = { 0.25f, 3 };
    static const struct {
        const char *sentence;
        struct matrix_form form;
        bool ordered;
        float want[6];
    } rows[] = {
        { "table, groups of 4",
          { 1, 6, CODE_TABLE, 2, 4, true, false },
          false,
          { -2, 0, 1, 12, -0.25f, -3 } },
        { "table in order",
          { 1, 6, CODE_TABLE, 2, 4, true, false },
          true,
          { 0, 12, -3, -0.25f, -2, 1 } },
        { "mins",
          { 1, 6, CODE_INT, 2, 4, false, true },
          false,
          { -0.25f, 1.75f, 3.75f, 5.75f, -4, -4.5f } },
        { "fractional zeros",
          { 1, 6, CODE_INT, 2, 4, false, false },
          false,
          { -0.5f, 1.5f, 3.5f, 5.5f, 0.5f, 0 } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct matrix m;
        struct err err;
        float out[6];
        assert_ok(matrix_init_form(&m, &rows[i].form, &err), &err);
        assert_true((m.zeros != NULL) == (!rows[i].form.symmetric && !rows[i].form.mins));
        assert_true((m.mins != NULL) == rows[i].form.mins);
        memcpy(m.codes, codes, sizeof codes);
        memcpy(m.scales, scales, sizeof scales);
        if (m.zeros != NULL)
            memcpy(m.zeros, offsets, sizeof offsets);
        if (m.mins != NULL)
            memcpy(m.mins, offsets, sizeof offsets);
        m.table = table;
        m.order = rows[i].ordered ? order : NULL;
        matrix_dequantize_row(&m, 0, out);
        for (int32_t k = 0; k < 6; k++)
            if (out[k] != rows[i].want[k])
                fail_msg("%s: column %d is %g, want %g", rows[i].sentence, k, (double)out[k],
                         (double)rows[i].want[k]);
        matrix_clear(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand_symmetric),
        cmocka_unit_test(test_by_hand_asymmetric),
        cmocka_unit_test(test_scale_is_rounded_up),
        cmocka_unit_test(test_scale_rounded_into_the_next_binade),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_error_near_fp32_scales),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_foreign_scales),
        cmocka_unit_test(test_forms_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
