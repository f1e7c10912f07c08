/* test_layout.c - unpack(pack(x)) = x for every layout, and two tiles worked out by hand. */
#include "tests/support/support.h"
#include "host/backend/layout.h"
#include "host/base/half.h"
#include "host/base/rng.h"
#include <math.h>

static uint32_t rng_bits(uint64_t seed, uint64_t at)
{
    return rng_philox(seed, 0, at).v[0];
}

/* Random codes; scales of 11 bits within a few binades, so that fp16 times a power of two holds
 * them; whole zeros. */
static void random_matrix(struct matrix *m, int32_t n_out, int32_t n_in, int32_t bits,
                          int32_t group, bool symmetric, uint64_t seed)
{
    struct err err;
    assert_ok(matrix_init(m, n_out, n_in, bits, group, symmetric, &err), &err);
    uint64_t at = 0;
    for (int64_t i = 0; i < (int64_t)n_out * n_in; i++)
        m->codes[i] = (uint8_t)(rng_bits(seed, at++) & ((1u << bits) - 1));
    for (int64_t i = 0; i < (int64_t)n_out * m->n_groups; i++) {
        const float mantissa = (float)(1024 + (rng_bits(seed, at++) & 1023));
        m->scales[i] = mantissa * 0x1p-20f * (float)(1 << (rng_bits(seed, at++) % 5));
        if (!symmetric)
            m->zeros[i] = (float)(rng_bits(seed, at++) & ((1u << bits) - 1));
    }
    if (n_out > 2) /* a row of zeros packs too */
        memset(m->scales + 2 * m->n_groups, 0, (size_t)m->n_groups * sizeof(float));
}

static struct layout_shape shape_of(const struct matrix *m, enum layout layout)
{
    return (struct layout_shape){ .layout = layout,
                                  .n_out = m->n_out,
                                  .n_in = m->n_in,
                                  .bits = m->bits,
                                  .group = m->group,
                                  .symmetric = m->symmetric,
                                  .kind = m->kind,
                                  .mins = m->mins != NULL };
}

static void *packed_of(const struct layout_shape *shape, const struct matrix *m, bool in_pieces)
{
    const size_t bytes = layout_bytes(shape);
    assert_int_equal(bytes % 64, 0);
    uint8_t *packed = aligned_alloc(64, bytes);
    assert_non_null(packed);
    memset(packed, 0xa5, bytes);
    if (!in_pieces) {
        layout_pack(shape, m, 0, m->n_out, packed);
        return packed;
    }
    for (int32_t from = 0; from < m->n_out; from += 16)
        layout_pack(shape, m, from, from + 16 < m->n_out ? from + 16 : m->n_out, packed);
    return packed;
}

static void check_same(const struct layout_shape *shape, const void *packed, const struct matrix *m)
{
    float *row = malloc((size_t)m->n_in * sizeof *row);
    float *want = malloc((size_t)m->n_in * sizeof *want);
    assert_true(row && want);
    for (int32_t o = 0; o < m->n_out; o++) {
        for (int32_t i = 0; i < m->n_in; i++)
            assert_int_equal(layout_code_at(shape, packed, o, i), m->codes[o * m->n_in + i]);
        for (int32_t g = 0; g < m->n_groups; g++) {
            const int32_t at = o * m->n_groups + g;
            float zero = m->zeros ? m->zeros[at] : 0;
            if (m->symmetric && m->kind == CODE_INT)
                zero = (float)(1 << (m->bits - 1));
            assert_true(layout_min_at(shape, packed, o, g) == (m->mins ? m->mins[at] : 0));
            assert_true(layout_scale_at(shape, packed, o, g) == m->scales[at]);
            assert_true(layout_zero_at(shape, packed, o, g) == zero);
        }
        layout_row(shape, packed, o, row);
        matrix_dequantize_row(m, o, want);
        assert_memory_equal(row, want, (size_t)m->n_in * sizeof *row);
    }
    free(row);
    free(want);
}

static const struct {
    const char *what;
    int32_t n_out, n_in, group; /* group 0: one scale a row */
} cases[] = {
    { "one weight", 1, 1, 0 },
    { "groups of 32", 16, 128, 32 },
    { "groups of 64, two tiles", 32, 256, 64 },
    { "groups of 128, one row past a tile", 17, 384, 128 },
    { "groups of 256: two chunks each", 16, 1024, 256 },
    { "groups of 192: a long and a short chunk", 16, 576, 192 },
    { "one scale a row", 33, 640, 0 },
    { "one scale a row, ragged", 5, 203, 0 },
    { "short last group", 20, 200, 64 },
    { "short last group, not whole octs", 31, 173, 32 },
    { "short last group of a group of two chunks", 16, 700, 256 },
    { "groups that are not whole octs", 18, 100, 20 },
    { "one input past a group", 3, 129, 128 },
};

static void test_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int32_t bits = 2; bits <= 8; bits++) {
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                struct matrix m;
                random_matrix(&m, cases[i].n_out, cases[i].n_in, bits,
                              cases[i].group ? cases[i].group : cases[i].n_in, symmetric, 7 + i);
                for (enum layout layout = LAYOUT_CODES; layout <= LAYOUT_W8_C16; layout++) {
                    if (layout == LAYOUT_W4_C16 && bits > 4)
                        continue;
                    const struct layout_shape shape = shape_of(&m, layout);
                    void *packed = packed_of(&shape, &m, false);
                    void *pieces = packed_of(&shape, &m, true);
                    check_same(&shape, packed, &m);
                    if (layout != LAYOUT_CODES) /* CODES leaves its padding as it was */
                        assert_memory_equal(packed, pieces, layout_bytes(&shape));
                    free(packed);
                    free(pieces);
                }
                matrix_clear(&m);
            }
        }
    }
}

/* Chunks cover the inputs in order, and never cross a group. */
static void test_chunks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct layout_shape shape = { .layout = LAYOUT_W4_C16,
                                            .n_out = cases[i].n_out,
                                            .n_in = cases[i].n_in,
                                            .bits = 4,
                                            .group =
                                                cases[i].group ? cases[i].group : cases[i].n_in,
                                            .symmetric = true };
        struct layout_tiles t;
        layout_tiles_of(&shape, &t);
        int32_t col = 0, octs = 0;
        for (int32_t c = 0; c < t.n_chunks; c++) {
            const int32_t n = layout_chunk_inputs(&shape, c);
            assert_in_range(n, 1, LAYOUT_CHUNK);
            assert_int_equal(col / shape.group, c / t.group_chunks);
            assert_int_equal((col + n - 1) / shape.group, c / t.group_chunks);
            col += n;
            octs += (n + LAYOUT_OCT - 1) / LAYOUT_OCT;
        }
        assert_int_equal(col, shape.n_in);
        assert_int_equal(octs, t.n_octs);
    }
}

/* 2 rows x 10 inputs, groups of 8, 4 bits, asymmetric. By the drawing in layout.c:
 *   factors 64 B | scales f16 [2][16] = 64 B | zeros 64 B | 2 octs of 64 B             = 320 bytes
 * Row 1 has codes 1 2 3 4 5 6 7 8 | 9 10. Its lane is bytes 4-7 of a line: 0x51 0x62 0x73 0x84,
 * then the second oct, padded: 0x09 0x0a 0x00 0x00. Scales 0.75 and 0.375: the largest must land in
 * [128, 256), so the factor is 2^-8 and the halves are 192 (0x5a00) and 96 (0x5600). */
static void test_w4_by_hand(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 2, 10, 4, 8, false, &err), &err);
    for (int32_t i = 0; i < 10; i++) {
        m.codes[i] = (uint8_t)(15 - i);
        m.codes[10 + i] = (uint8_t)(1 + i);
    }
    const float scales[4] = { 1, 0.5f, 0.75f, 0.375f }, zeros[4] = { 7, 8, 9, 15 };
    memcpy(m.scales, scales, sizeof scales);
    memcpy(m.zeros, zeros, sizeof zeros);
    const struct layout_shape shape = shape_of(&m, LAYOUT_W4_C16);
    assert_int_equal(layout_bytes(&shape), 320);
    uint8_t *tile = packed_of(&shape, &m, false);
    const uint8_t first[8] = { 0xbf, 0xae, 0x9d, 0x8c, 0x51, 0x62, 0x73, 0x84 };
    const uint8_t second[8] = { 0x07, 0x06, 0x00, 0x00, 0x09, 0x0a, 0x00, 0x00 };
    assert_memory_equal(tile + 192, first, 8);
    assert_memory_equal(tile + 256, second, 8);
    float factors[16];
    uint16_t halves[16];
    memcpy(factors, tile, sizeof factors);
    assert_true(factors[0] == 0x1p-7f && factors[1] == 0x1p-8f && factors[2] == 0);
    memcpy(halves, tile + 64, sizeof halves); /* group 0 */
    assert_int_equal(halves[0], 0x5800);
    assert_int_equal(halves[1], 0x5a00);
    memcpy(halves, tile + 96, sizeof halves); /* group 1 */
    assert_int_equal(halves[1], 0x5600);
    memcpy(halves, tile + 128 + 32, sizeof halves); /* zeros of group 1 */
    assert_true(half_f16_to_f32(halves[0]) == 8 && half_f16_to_f32(halves[1]) == 15);
    float row[10];
    layout_row(&shape, tile, 1, row);
    assert_true(row[0] == 0.75f * (1 - 9) && row[9] == 0.375f * (10 - 15));
    free(tile);
    matrix_clear(&m);
}

/* 8 bits, symmetric: factors 64 | scales [1][16] = 32 padded to 64 | 1 oct of 128 = 256 bytes. Row
 * 2 has codes 10 20 .. 80: 10 20 30 40 in bytes 8-11 of the first line, 50 .. 80 of the second. */
static void test_w8_by_hand(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 3, 8, 8, 8, true, &err), &err);
    memset(m.codes, 128, 24);
    for (int32_t i = 0; i < 8; i++)
        m.codes[16 + i] = (uint8_t)(10 * (i + 1));
    m.scales[0] = m.scales[1] = m.scales[2] = 2;
    const struct layout_shape shape = shape_of(&m, LAYOUT_W8_C16);
    assert_int_equal(layout_bytes(&shape), 256);
    uint8_t *tile = packed_of(&shape, &m, false);
    const uint8_t first[4] = { 10, 20, 30, 40 }, second[4] = { 50, 60, 70, 80 };
    assert_memory_equal(tile + 128 + 8, first, 4);
    assert_memory_equal(tile + 192 + 8, second, 4);
    assert_true(layout_zero_at(&shape, tile, 2, 0) == 128);
    free(tile);
    matrix_clear(&m);
}

/* What our quantizer makes is packed without loss. */
static void test_quantized_is_lossless(void **state)
{
    (void)state;
    enum { N_OUT = 19, N_IN = 300 };
    static float w[N_OUT * N_IN];
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = (float)rng_uniform(3, 0, (uint64_t)i) - 0.5f;
    for (int i = 0; i < N_IN; i++) {
        w[4 * N_IN + i] *= 0x1p-120f; /* a row of very small weights, and one of large ones */
        w[5 * N_IN + i] *= 0x1p100f;
    }
    for (int32_t bits = 4; bits <= 8; bits += 4) {
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            struct matrix m;
            struct err err;
            assert_ok(matrix_init(&m, N_OUT, N_IN, bits, 64, symmetric, &err), &err);
            assert_ok(matrix_quantize_rows(&m, w, 0, N_OUT, &err), &err);
            const struct layout_shape shape =
                shape_of(&m, bits == 4 ? LAYOUT_W4_C16 : LAYOUT_W8_C16);
            void *packed = packed_of(&shape, &m, false);
            check_same(&shape, packed, &m);
            free(packed);
            matrix_clear(&m);
        }
    }
}

/* A loader that has only some rows at a time writes the same bytes. */
static void test_blocks(void **state)
{
    (void)state;
    enum { N_OUT = 37, N_IN = 100, BLOCK = 16 };
    static float w[N_OUT * N_IN];
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = (float)rng_uniform(4, 0, (uint64_t)i) - 0.5f;
    static const enum layout layouts[] = { LAYOUT_CODES, LAYOUT_W4_C16, LAYOUT_W8_C16 };
    for (size_t i = 0; i < 6; i++) {
        struct matrix m, block;
        struct err err;
        const enum layout layout = layouts[i / 2];
        const int32_t bits = layout == LAYOUT_W8_C16 ? 8 : 4;
        assert_ok(matrix_init(&m, N_OUT, N_IN, bits, 32, i % 2, &err), &err);
        assert_ok(matrix_init(&block, BLOCK, N_IN, bits, 32, i % 2, &err), &err);
        assert_ok(matrix_quantize_rows(&m, w, 0, N_OUT, &err), &err);
        const struct layout_shape shape = shape_of(&m, layout);
        void *whole = packed_of(&shape, &m, false);
        void *pieces = aligned_alloc(64, layout_bytes(&shape));
        memset(pieces, 0, layout_bytes(&shape));
        for (int32_t row = 0; row < N_OUT; row += BLOCK) {
            const int32_t n = N_OUT - row < BLOCK ? N_OUT - row : BLOCK;
            assert_ok(matrix_quantize_rows(&block, w + (size_t)row * N_IN, 0, n, &err), &err);
            layout_pack_block(&shape, &block, n, row, pieces);
        }
        check_same(&shape, pieces, &m);
        if (layout != LAYOUT_CODES) /* its padding between areas is nobody's */
            assert_memory_equal(pieces, whole, layout_bytes(&shape));
        free(whole);
        free(pieces);
        matrix_clear(&m);
        matrix_clear(&block);
    }
}

/* Tables and mins: the canonical layout alone. Scales of 24 bits stay as they are. */
static void test_forms(void **state)
{
    (void)state;
    static const struct {
        int32_t bits, group;
        bool mins;
    } forms[] = { { 4, 64, false }, { 4, 16, false }, { 8, 128, false }, { 8, 1, false },
                  { 4, 32, true },  { 2, 16, true },  { 5, 32, true } };
    float table[256];
    for (int32_t i = 0; i < 256; i++)
        table[i] = sinf((float)i) * 3;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const struct matrix_form form = { .n_out = 37,
                                          .n_in = 203,
                                          .kind = forms[i].mins ? CODE_INT : CODE_TABLE,
                                          .bits = forms[i].bits,
                                          .group = forms[i].group,
                                          .symmetric = !forms[i].mins,
                                          .mins = forms[i].mins };
        struct err err;
        struct matrix m;
        assert_ok(matrix_init_form(&m, &form, &err), &err);
        m.table = forms[i].mins ? NULL : table;
        for (int32_t k = 0; k < form.n_out * form.n_in; k++)
            m.codes[k] = (uint8_t)(rng_bits(i, (uint64_t)k) & ((1u << form.bits) - 1));
        for (int32_t k = 0; k < form.n_out * m.n_groups; k++) {
            m.scales[k] = (float)rng_uniform(i, 2, (uint64_t)k);
            if (m.mins)
                m.mins[k] = (float)rng_uniform(i, 3, (uint64_t)k);
        }
        const struct layout_shape shape = shape_of(&m, LAYOUT_CODES);
        for (int pieces = 0; pieces < 2; pieces++) {
            void *packed = packed_of(&shape, &m, pieces);
            check_same(&shape, packed, &m);
            for (int32_t code = 0; code < 1 << form.bits; code++)
                assert_true(layout_value_of(&shape, packed, (uint8_t)code) ==
                            (m.table ? table[code] : (float)code));
            free(packed);
        }
        matrix_clear(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_forms),
        cmocka_unit_test(test_chunks),     cmocka_unit_test(test_w4_by_hand),
        cmocka_unit_test(test_w8_by_hand), cmocka_unit_test(test_quantized_is_lossless),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
