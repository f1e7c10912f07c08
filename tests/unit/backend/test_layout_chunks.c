/* test_layout_chunks.c - CHUNKS_C16: unpack(pack(x)) = x for every format's form, tiles worked out
 * by hand, GGUF's own blocks, and which form of scales holds what. */
#include "tests/support/support.h"
#include "tests/support/forms.h"
#include "host/format/gguf_blocks.h"

static void *packed_of(const struct layout_shape *shape, const struct matrix *m, bool in_pieces)
{
    const size_t bytes = layout_bytes(shape);
    assert_int_equal(bytes % 64, 0);
    uint8_t *packed = aligned_alloc(64, bytes);
    assert_non_null(packed);
    memset(packed, 0xa5, bytes);
    const int32_t step = in_pieces ? 16 : (m->n_out + 15) / 16 * 16;
    for (int32_t from = 0; from < m->n_out; from += step)
        layout_pack(shape, m, from, from + step < m->n_out ? from + step : m->n_out, packed);
    return packed;
}

/* ulps: NVFP4's scales may be one unit in the last place off. */
static void check_same(const struct layout_shape *shape, const void *packed, const struct matrix *m,
                       bool ulps)
{
    float *row = malloc((size_t)m->n_in * sizeof *row);
    float *want = malloc((size_t)m->n_in * sizeof *want);
    assert_true(row && want);
    for (int32_t o = 0; o < m->n_out; o++) {
        for (int32_t i = 0; i < m->n_in; i++)
            assert_int_equal(layout_code_at(shape, packed, o, i), m->codes[o * m->n_in + i]);
        for (int32_t g = 0; g < m->n_groups; g++) {
            const int32_t at = o * m->n_groups + g;
            const float scale = layout_scale_at(shape, packed, o, g);
            float zero = m->zeros ? m->zeros[at] : 0;
            if (m->symmetric && m->kind == CODE_INT)
                zero = (float)(1 << (m->bits - 1));
            assert_true(scale == m->scales[at] ||
                        (ulps && nextafterf(scale, m->scales[at]) == m->scales[at]));
            assert_true(layout_min_at(shape, packed, o, g) == (m->mins ? m->mins[at] : 0));
            assert_true(layout_zero_at(shape, packed, o, g) == zero);
        }
        layout_row(shape, packed, o, row);
        matrix_dequantize_row(m, o, want);
        for (int32_t i = 0; i < m->n_in; i++)
            assert_true(row[i] == want[i] ||
                        (ulps && fabsf(row[i] - want[i]) <= fabsf(want[i]) * 0x1p-22f));
    }
    free(row);
    free(want);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const int32_t sizes[][2] = { { 16, 256 }, { 33, 512 },  { 1, 1024 }, { 17, 32 },
                                        { 20, 160 }, { 31, 1376 }, { 5, 200 } };
    struct err err;
    for (int32_t f = 0; f < N_FORMS; f++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            struct matrix m;
            assert_ok(form_matrix(&forms[f], sizes[s][0], sizes[s][1], 5 + s, &m, &err), &err);
            const struct layout_shape shape = form_shape(&forms[f], m.n_out, m.n_in);
            assert_true(layout_chunks_fits(&shape, m.table));
            assert_true(layout_scales_fit(&m, m.n_out) & 1u << shape.scales);
            void *packed = packed_of(&shape, &m, false), *pieces = packed_of(&shape, &m, true);
            check_same(&shape, packed, &m, forms[f].table == FORM_E2M1);
            assert_memory_equal(packed, pieces, layout_bytes(&shape));
            for (int32_t i = 0; m.table && i < 1 << m.bits; i++) {
                const float value = layout_value_of(&shape, packed, (uint8_t)i);
                assert_memory_equal(&value, &m.table[i], sizeof value);
            }
            free(packed);
            free(pieces);
            matrix_clear(&m);
        }
    }
}

/* The bytes of a large matrix stay near the file's. */
static void test_bytes(void **state)
{
    (void)state;
    for (int32_t f = 0; f < N_FORMS; f++) {
        const struct layout_shape shape = form_shape(&forms[f], 4096, 4096);
        const double bits = (double)layout_bytes(&shape) * 8 / 4096 / 4096;
        print_message("%-18s %6.3f bits a weight, %6.3f in the file\n", forms[f].name, bits,
                      forms[f].file_bits);
        assert_true(bits <= forms[f].file_bits * 1.25);
    }
}

/* ---- GGUF's blocks ----------------------------------------------------------------------------
 */

/* Any bytes with finite scales: I8 holds K-quants, F16 the others, exactly. */
static void test_gguf(void **state)
{
    (void)state;
    static const enum dtype types[] = { DTYPE_Q4_0,  DTYPE_Q4_1,  DTYPE_Q5_0,   DTYPE_Q5_1,
                                        DTYPE_Q8_0,  DTYPE_Q2_K,  DTYPE_Q3_K,   DTYPE_Q4_K,
                                        DTYPE_Q5_K,  DTYPE_Q6_K,  DTYPE_IQ4_NL, DTYPE_IQ4_XS,
                                        DTYPE_MXFP4, DTYPE_TQ1_0, DTYPE_TQ2_0 };
    enum { N_OUT = 18, N_IN = 1024 };
    struct err err;
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        const struct gguf_blocks *blocks = gguf_blocks_of(types[k]);
        const struct matrix_form form = {
            .n_out = N_OUT,
            .n_in = N_IN,
            .kind = blocks->table ? CODE_TABLE : CODE_INT,
            .bits = blocks->bits,
            .group = blocks->group,
            .symmetric = blocks->table || blocks->zero == (float)(1 << (blocks->bits - 1)),
            .mins = blocks->has_mins,
        };
        struct matrix m;
        assert_ok(matrix_init_form(&m, &form, &err), &err);
        m.table = blocks->table;
        const size_t bytes = dtype_row_bytes(types[k], N_IN);
        uint8_t *row = malloc(bytes);
        assert_non_null(row);
        for (int32_t o = 0; o < N_OUT; o++) {
            float *scales = m.scales + o * m.n_groups, *mins = m.mins ? m.mins + o * m.n_groups : 0;
            bool finite = false;
            for (uint64_t seed = 0; !finite; seed++) { /* d of any bytes may be a NaN */
                for (size_t i = 0; i < bytes; i++)
                    row[i] = (uint8_t)form_random(seed * 100 + (uint64_t)o, i);
                for (size_t i = 0; i + 1 < bytes; i += 2) /* no exponent of all ones, either end */
                    if ((row[i + 1] & 0x7c) == 0x7c)
                        row[i + 1] &= 0x3f;
                gguf_unpack(types[k], row, N_IN, m.codes + o * N_IN, scales, mins);
                finite = true;
                for (int32_t g = 0; g < m.n_groups; g++)
                    finite = finite && isfinite(scales[g]) && (!mins || isfinite(mins[g]));
            }
            for (int32_t g = 0; m.zeros && g < m.n_groups; g++)
                m.zeros[o * m.n_groups + g] = blocks->zero;
        }
        struct layout_shape shape = { .n_out = N_OUT,
                                      .n_in = N_IN,
                                      .bits = form.bits,
                                      .group = form.group,
                                      .symmetric = form.symmetric,
                                      .kind = form.kind,
                                      .mins = form.mins };
        assert_true(layout_chunks_fits(&shape, m.table));
        const bool k_quant =
            types[k] == DTYPE_IQ4_XS || (types[k] >= DTYPE_Q2_K && types[k] <= DTYPE_Q6_K);
        const uint32_t fit = layout_scales_fit(&m, N_OUT);
        shape.layout = LAYOUT_CHUNKS_C16;
        shape.scales = k_quant ? LAYOUT_SCALES_I8 : LAYOUT_SCALES_F16;
        if (types[k] == DTYPE_MXFP4)
            shape.scales = fit & 1u << LAYOUT_SCALES_E8 ? LAYOUT_SCALES_E8 : LAYOUT_SCALES_F32;
        if (!(fit & 1u << shape.scales))
            fail_msg("%s: scales of form %d do not fit", dtype_name(types[k]), shape.scales);
        void *packed = packed_of(&shape, &m, false);
        check_same(&shape, packed, &m, false);
        free(packed);
        free(row);
        matrix_clear(&m);
    }
}

/* ---- by hand ----------------------------------------------------------------------------------
 */

/* Q4_K, two rows of 256: two chunks of 4 subs. d = 2^-6, scales 1..8, dmin = 2^-4, mins 8..15;
 * code (row, i) = (i + row) % 16.
 *
 *   chunk: scales 4 x 16 bytes | mins 4 x 16 | d f16 x 16 | dmin f16 x 16 | codes at 192
 *   tile: 64 bytes of factors, chunks of 192 + 4 * 256 = 1216 */
static void test_by_hand_k(void **state)
{
    (void)state;
    struct err err;
    struct matrix m;
    const struct matrix_form form = { 2, 256, CODE_INT, 4, 32, false, true };
    assert_ok(matrix_init_form(&m, &form, &err), &err);
    for (int32_t row = 0; row < 2; row++) {
        for (int32_t i = 0; i < 256; i++)
            m.codes[row * 256 + i] = (uint8_t)((i + row) % 16);
        for (int32_t g = 0; g < 8; g++) {
            m.scales[row * 8 + g] = 0x1p-6f * (float)(g + 1);
            m.mins[row * 8 + g] = 0x1p-4f * (float)(g + 8);
        }
    }
    const struct layout_shape shape = { .layout = LAYOUT_CHUNKS_C16,
                                        .n_out = 2,
                                        .n_in = 256,
                                        .bits = 4,
                                        .group = 32,
                                        .mins = true,
                                        .scales = LAYOUT_SCALES_I8 };
    assert_int_equal(layout_bytes(&shape), 64 + 2 * 1216);
    uint8_t *packed = packed_of(&shape, &m, false);
    const uint8_t *chunk = packed + 64;
    float factor;
    memcpy(&factor, packed + 4, 4);
    assert_true(factor == 1);
    /* groups 0..3 have scales 1, 2, 3, 4: their greatest divisor is 2^-6 */
    assert_int_equal(chunk[16 * 1 + 1], 2);
    assert_int_equal(chunk[128 + 2] | chunk[129 + 2] << 8, 0x2400); /* row 1: 2^-6 = 0x2400 */
    /* mins 8, 9, 10, 11 sixteenths; 0x2c00 = 2^-4 */
    assert_int_equal(chunk[64 + 16 * 1 + 1], 9);
    assert_int_equal(chunk[160 + 2] | chunk[161 + 2] << 8, 0x2c00);
    /* row 1, input 37: unit 1, operand 1, byte 4 + 1 of line 0, high nibble; (37 + 1) % 16 = 6 */
    assert_int_equal(chunk[192 + 256 + 5] >> 4, 6);
    /* second chunk, groups 4..7: 5, 6, 7, 8 */
    assert_int_equal(chunk[1216 + 16 * 3 + 1], 8);
    free(packed);
    matrix_clear(&m);
}

/* Six bits in groups of 16, two rows of 32: codes_at = 8 * 16 + 32 -> 192; a unit is four lines of
 * nibbles and two of two bits. */
static void test_by_hand_6(void **state)
{
    (void)state;
    struct err err;
    struct matrix m;
    const struct matrix_form form = { 2, 32, CODE_INT, 6, 16, true, false };
    assert_ok(matrix_init_form(&m, &form, &err), &err);
    memset(m.codes, 0, 64);
    m.codes[32 + 22] = 0x2d; /* row 1, input 22: operand 5, byte 4 + 2; 10 1101 */
    for (int32_t g = 0; g < 4; g++)
        m.scales[g] = g % 2 ? -127 : 3;
    const struct layout_shape shape = { .layout = LAYOUT_CHUNKS_C16,
                                        .n_out = 2,
                                        .n_in = 32,
                                        .bits = 6,
                                        .group = 16,
                                        .symmetric = true,
                                        .scales = LAYOUT_SCALES_I8 };
    assert_int_equal(layout_bytes(&shape), 64 + 192 + 384);
    uint8_t *packed = packed_of(&shape, &m, false);
    const uint8_t *codes = packed + 64 + 192;
    assert_int_equal(codes[2 * 64 + 6], 0xd0);           /* operand 5: line 2, high nibble */
    assert_int_equal(codes[4 * 64 + 64 + 6], 0x2 << 2);  /* line 1 of the pairs, second field */
    assert_int_equal((int8_t)packed[64 + 16 + 1], -127); /* sub 1, row 1 */
    assert_int_equal(layout_code_at(&shape, packed, 1, 22), 0x2d);
    assert_true(layout_scale_at(&shape, packed, 1, 1) == -127);
    free(packed);
    matrix_clear(&m);
}

/* What codes of four bits stand for. E2M1 in halves, exact; NF4 in 16 bits. */
static void test_luts(void **state)
{
    (void)state;
    struct err err;
    for (int32_t f = 0; f < N_FORMS; f++) {
        if (forms[f].table == FORM_CODES || forms[f].table == FORM_E4M3)
            continue;
        struct matrix m;
        assert_ok(form_matrix(&forms[f], 16, 256, 3, &m, &err), &err);
        const struct layout_shape shape = form_shape(&forms[f], 16, 256);
        void *packed = packed_of(&shape, &m, false);
        const struct layout_lut *lut = layout_chunks_table_lut(packed);
        float most = 0;
        for (int32_t i = 0; i < 1 << forms[f].bits; i++)
            most = fmaxf(most, fabsf(m.table[i]));
        for (int32_t i = 0; i < 1 << forms[f].bits; i++) {
            int32_t sum = -lut->zero;
            for (int32_t p = 0; p < lut->planes; p++)
                sum += lut->plane[p][i] << (8 * p);
            const float value = (float)sum * lut->step;
            if (forms[f].table == FORM_NF4)
                assert_true(fabsf(value - m.table[i]) <= most * 0x1.01p-16f);
            else
                assert_true(value == m.table[i]);
        }
        free(packed);
        matrix_clear(&m);
    }
}

/* ---- which scales fit -------------------------------------------------------------------------
 */

static void test_scales_fit(void **state)
{
    (void)state;
    enum { F16 = 1 << LAYOUT_SCALES_F16, F32 = 1 << LAYOUT_SCALES_F32, I8 = 1 << LAYOUT_SCALES_I8 };
    enum { E8 = 1 << LAYOUT_SCALES_E8 };
    static const struct {
        const char *what;
        float scales[4], zero;
        uint32_t fit;
    } cases[] = {
        { "whole numbers", { 1, 2, 3, 127 }, 1, F16 | F32 | I8 },
        { "too far apart for int8", { 1, 2, 3, 129 }, 1, F16 | F32 },
        { "-128 with a positive d", { 1, 2, 3, -128 }, 1, F16 | F32 | I8 },
        { "128 with a negative d", { 1, 2, -3, 128 }, 1, F16 | F32 | I8 },
        { "128 and -128", { 1, 2, -128, 128 }, 1, F16 | F32 },
        { "powers of two", { 1, 0.25f, 8, 2 }, 1, F16 | F32 | I8 | E8 },
        { "powers far apart", { 0x1p-60f, 0x1p60f, 8, 2 }, 1, F32 | E8 },
        { "subnormal powers", { 0x1p-128f, 0x1p-127f, 0x1p-120f, 0 }, 1, F16 | F32 | E8 },
        { "24 bits", { 0x1.000002p0f, 0x1.5p0f, 1, 1 }, 1, F32 },
        { "24 bits, all multiples of one", { 0x1.000002p0f, 0x1.000002p1f, 0, 0 }, 1, F16 | F32 },
        { "zeros", { 0, 0, 0, 0 }, 1, F16 | F32 | I8 | E8 },
        { "a zero that fp16 does not hold", { 1, 2, 3, 4 }, 0.1f, F32 },
        { "not finite", { INFINITY, 1, 1, 1 }, 1, F16 | F32 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err;
        struct matrix m;
        const struct matrix_form form = { 1, 128, CODE_INT, 4, 32, false, false };
        assert_ok(matrix_init_form(&m, &form, &err), &err);
        memcpy(m.scales, cases[i].scales, sizeof cases[i].scales);
        for (int32_t g = 0; g < 4; g++)
            m.zeros[g] = cases[i].zero;
        if (layout_scales_fit(&m, 1) != cases[i].fit)
            fail_msg("%s: %x, want %x", cases[i].what, layout_scales_fit(&m, 1), cases[i].fit);
        matrix_clear(&m);
    }
}

static void test_best(void **state)
{
    (void)state;
    for (int32_t f = 0; f < N_FORMS; f++) {
        const struct layout_shape shape = form_shape(&forms[f], 64, 1024);
        struct err err;
        struct matrix m;
        assert_ok(form_matrix(&forms[f], 64, 1024, 9, &m, &err), &err);
        const enum layout_scales best = layout_scales_best(&shape, layout_scales_fit(&m, 64));
        struct layout_shape chosen = shape;
        chosen.scales = best;
        assert_true(layout_bytes(&chosen) <= layout_bytes(&shape));
        matrix_clear(&m);
    }
    struct layout_shape shape = form_shape(&forms[7], 64, 1024);
    assert_int_equal(layout_scales_best(&shape, 1u << LAYOUT_SCALES_F32), LAYOUT_SCALES_F32);
}

static void test_fits(void **state)
{
    (void)state;
    static const struct {
        int32_t n_in, bits, group;
        enum code_kind kind;
        bool fits;
    } cases[] = {
        { 1024, 4, 32, CODE_INT, true },    { 1024, 4, 16, CODE_INT, true },
        { 1024, 4, 8, CODE_INT, false },    { 1024, 4, 48, CODE_INT, false },
        { 1024, 4, 192, CODE_INT, false },  { 1024, 4, 256, CODE_INT, true },
        { 200, 4, 200, CODE_INT, true },    { 20, 3, 20, CODE_INT, true },
        { 1024, 1, 32, CODE_INT, false },   { 1024, 4, 32, CODE_TABLE, true },
        { 1024, 3, 32, CODE_TABLE, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct layout_shape shape = { .n_out = 8,
                                            .n_in = cases[i].n_in,
                                            .bits = cases[i].bits,
                                            .group = cases[i].group,
                                            .symmetric = true,
                                            .kind = cases[i].kind };
        assert_int_equal(layout_chunks_fits(&shape, NULL), cases[i].fits);
    }
    float other[256] = { 0 };
    const struct layout_shape shape = {
        .n_out = 8, .n_in = 32, .bits = 8, .group = 32, .symmetric = true, .kind = CODE_TABLE
    };
    assert_false(layout_chunks_fits(&shape, other)); /* not E4M3 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_gguf),       cmocka_unit_test(test_by_hand_k),
        cmocka_unit_test(test_by_hand_6),  cmocka_unit_test(test_luts),
        cmocka_unit_test(test_scales_fit), cmocka_unit_test(test_best),
        cmocka_unit_test(test_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
