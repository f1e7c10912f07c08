/* test_layout_f64.c - layout F64: unpack(pack(x)) = x, its padding, two units worked out by hand,
 * and the words that kernels read (cuda/dequant.cuh) taken apart once more on their own. */
#include "tests/support/support.h"
#include "host/backend/layout.h"
#include "host/base/half.h"
#include "host/base/rng.h"

static uint32_t rng_bits(uint64_t seed, uint64_t at)
{
    return rng_philox(seed, 0, at).v[0];
}

/* Random codes; scales of 11 bits within a few binades, so that fp16 times a power of two holds
 * them; whole zeros. Row 2 is a row of zeros. */
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
    if (n_out > 2)
        memset(m->scales + 2 * m->n_groups, 0, (size_t)m->n_groups * sizeof(float));
}

static struct layout_shape shape_of(const struct matrix *m, enum layout layout)
{
    return (struct layout_shape){ .layout = layout,
                                  .n_out = m->n_out,
                                  .n_in = m->n_in,
                                  .bits = m->bits,
                                  .group = m->group,
                                  .symmetric = m->symmetric };
}

enum { GUARD = 64 };
/* step 0: at once. Else `step` rows a call, as loaders do. The bytes after the block stay. */
static uint8_t *packed_of(const struct layout_shape *shape, const struct matrix *m, int32_t step)
{
    const size_t bytes = layout_bytes(shape);
    assert_int_equal(bytes % 64, 0);
    uint8_t *packed = aligned_alloc(64, bytes + GUARD);
    assert_non_null(packed);
    memset(packed, 0xa5, bytes + GUARD);
    if (step == 0)
        layout_pack(shape, m, 0, m->n_out, packed);
    for (int32_t from = 0; step != 0 && from < m->n_out; from += step)
        layout_pack(shape, m, from, from + step < m->n_out ? from + step : m->n_out, packed);
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(packed[bytes + i], 0xa5);
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
            const float zero = m->symmetric ? (float)(1 << (m->bits - 1)) : m->zeros[at];
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

/* A weight as a kernel would find it: the fragment registers of mma.m16n8k16 out of a lane's words
 * (cuda/dequant.cuh), rows g and g + 8, k = 2q, 2q+1, 2q+8, 2q+9; padding included. */
struct fragment {
    int32_t code[2][4]; /* [row g, g + 8][k 2q, 2q+1, 2q+8, 2q+9] */
};
static uint32_t word_at(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}
static struct fragment fragment_of(const uint8_t *unit, int32_t bits, int32_t tile, int32_t lane)
{
    static const int nibbles[2][4] = { { 0, 4, 2, 6 }, { 1, 5, 3, 7 } };
    static const int bytes[4] = { 0, 2, 1, 3 };
    struct fragment f;
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 4; i++)
            if (bits == 4) {
                const uint32_t w = word_at(unit + tile / 4 * 512 + lane * 16 + tile % 4 * 4);
                f.code[half][i] = (int32_t)(w >> 4 * nibbles[half][i] & 15);
            } else {
                const uint32_t w =
                    word_at(unit + tile / 2 * 512 + lane * 16 + tile % 2 * 8 + half * 4);
                f.code[half][i] = (int32_t)(w >> 8 * bytes[i] & 255);
            }
    return f;
}

static void check_fragments(const struct layout_shape *shape, const uint8_t *packed,
                            const struct matrix *m)
{
    static const int offsets[4] = { 0, 1, 8, 9 };
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const size_t unit_bytes = (size_t)f64_unit_bytes(f64.kind);
    const int32_t rows = (m->n_out + 63) / 64 * 64, cols = (m->n_in + 127) / 128 * 128;
    assert_int_equal(f64.factors_at, (size_t)(rows / 16) * (size_t)(cols / 128) * unit_bytes);
    assert_int_equal(f64.bytes, f64.factors_at + (size_t)rows * sizeof(float));
    assert_int_equal(f64.bytes, layout_bytes(shape));
    const int32_t container_zero = 1 << (f64.kind.bits - 1);
    for (int32_t i = 0; i < rows / 16 * (cols / 128) * 8 * 32; i++) {
        const int32_t lane = i % 32, tile = i / 32 % 8, unit = i / 256;
        const int32_t strip = unit / 4 / (cols / 128), block = unit / 4 % (cols / 128);
        const uint8_t *at = packed + (size_t)unit * unit_bytes;
        const struct fragment f = fragment_of(at, f64.kind.bits, tile, lane);
        for (int32_t j = 0; j < 8; j++) {
            const int32_t row = strip * 64 + unit % 4 * 16 + lane / 4 + j / 4 * 8;
            const int32_t col = block * 128 + tile * 16 + lane % 4 * 2 + offsets[j % 4];
            int32_t want = m->symmetric ? container_zero : 0;
            if (row < m->n_out && col < m->n_in)
                want += m->codes[row * m->n_in + col] - (m->symmetric ? 1 << (m->bits - 1) : 0);
            else if (row < m->n_out && !m->symmetric &&
                     col / f64.kind.group * f64.kind.group < m->n_in)
                want = (int32_t)m->zeros[row * m->n_groups + (m->n_in - 1) / m->group];
            assert_int_equal(f.code[j / 4][j % 4], want);
        }
    }
    for (int32_t row = m->n_out; row < rows; row++) {
        float factor;
        memcpy(&factor, packed + f64.factors_at + (size_t)row * sizeof factor, sizeof factor);
        assert_true(factor == 1);
    }
}

/* Scales and zeros in the padding are 0. */
static void check_padding(const struct layout_shape *shape, const uint8_t *packed,
                          const struct matrix *m)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const int32_t blocks = (m->n_in + 127) / 128, groups = 128 / f64.kind.group;
    const int32_t areas = m->symmetric ? 1 : 2;
    for (int32_t unit = 0; unit < (m->n_out + 63) / 64 * 4 * blocks; unit++)
        for (int32_t i = 0; i < areas * groups * 16; i++) {
            const int32_t row = unit / 4 / blocks * 64 + unit % 4 * 16 + i % 16 / 2 + i % 2 * 8;
            const int32_t col = unit / 4 % blocks * 128 + i / 16 % groups * f64.kind.group;
            uint16_t half;
            memcpy(&half,
                   packed + (size_t)unit * (size_t)f64_unit_bytes(f64.kind) +
                       (size_t)(f64.kind.bits * 256) + (size_t)i * 2,
                   2);
            if (row >= m->n_out || col >= m->n_in)
                assert_int_equal(half, 0);
        }
}

static const struct {
    const char *what;
    int32_t n_out, n_in, group; /* group 0: one scale a row */
} cases[] = {
    { "one weight", 1, 1, 0 },
    { "groups of 32, one strip", 64, 128, 32 },
    { "groups of 64, two strips", 128, 256, 64 },
    { "groups of 128, one row past a strip", 65, 384, 128 },
    { "groups of 256: a scale for two blocks", 16, 1024, 256 },
    { "groups of 384, short last group of one block", 48, 512, 384 },
    { "one scale a row", 33, 640, 0 },
    { "one scale a row, ragged", 5, 203, 0 },
    { "one scale a row, less than a block", 79, 100, 0 },
    { "short last group", 20, 200, 64 },
    { "short last group, padded groups in the last block", 31, 173, 32 },
    { "short last group of a group of two blocks", 80, 700, 256 },
    { "one input past a group", 3, 129, 128 },
};

static void test_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int32_t bits = 2; bits <= 8; bits++)
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                struct matrix m;
                random_matrix(&m, cases[i].n_out, cases[i].n_in, bits,
                              cases[i].group ? cases[i].group : cases[i].n_in, symmetric, 7 + i);
                for (enum layout layout = LAYOUT_W4_F64; layout <= LAYOUT_W8_F64; layout++) {
                    if (layout == LAYOUT_W4_F64 && bits > 4)
                        continue;
                    const struct layout_shape shape = shape_of(&m, layout);
                    assert_true(layout_f64_fits(bits, m.group, m.n_in));
                    uint8_t *packed = packed_of(&shape, &m, 0);
                    check_same(&shape, packed, &m);
                    check_fragments(&shape, packed, &m);
                    check_padding(&shape, packed, &m);
                    for (int32_t step = 16; step <= 64; step += 48) {
                        uint8_t *pieces = packed_of(&shape, &m, step);
                        assert_memory_equal(packed, pieces, layout_bytes(&shape));
                        free(pieces);
                    }
                    free(packed);
                }
                matrix_clear(&m);
            }
}

static void test_fits(void **state)
{
    (void)state;
    static const struct {
        int32_t bits, group, n_in;
        bool fits;
    } wanted[] = {
        { 4, 32, 256, true },   { 4, 64, 256, true },   { 8, 128, 256, true },
        { 4, 256, 1024, true }, { 4, 384, 1024, true }, { 4, 100, 100, true },
        { 4, 203, 203, true },  { 2, 64, 256, true },   { 5, 64, 256, true },
        { 4, 8, 256, false },   { 4, 16, 256, false },  { 4, 48, 256, false },
        { 4, 96, 256, false },  { 4, 192, 256, false }, { 4, 8, 8, true },
        { 9, 64, 256, false },  { 0, 64, 256, false },  { 4, 0, 256, false },
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        assert_int_equal(layout_f64_fits(wanted[i].bits, wanted[i].group, wanted[i].n_in),
                         wanted[i].fits);
}

/* 4 bits, not symmetric, [9][32] with one group of 32: one strip of 4 units, each 1024 + 4 * 32
 * scales + 4 * 32 zeros = 1280 bytes; then 64 factors.
 *
 *   row 0: codes 0 1 2 .. 15 0 1 .. 15, scale 1 -> 128 * 2^-7 (0x5800), zero 7 (0x4700)
 *   row 8: codes 15 14 .. 0 15 .. 0, scale 0.75 -> 192 * 2^-8 (0x5a00), zero 9 (0x4880)
 *
 * Lane 0 has rows 0 and 8, q = 0: k = 0, 8, 1, 9 of each k16 tile. Word 0 (k 0..15): row 0 has
 * codes 0, 8, 1, 9 and row 8 has 15, 7, 14, 6: bytes f0 78 e1 69. Word 1 (k 16..31) is the same.
 * Words 2 and 3 (k 32..63) lie past n_in, in groups of their own: 0. Lane 3 (q = 3): k = 6, 14, 7,
 * 15: row 0 has 6, 14, 7, 15, row 8 has 9, 1, 8, 0: bytes 96 1e 87 0f. Lane 4 has rows 1 and 9: row
 * 1 is all code 3 (zero 3), row 9 is padding: bytes 03 03 03 03. */
static void test_w4_by_hand(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 9, 32, 4, 32, false, &err), &err);
    memset(m.codes, 3, 9 * 32);
    for (int32_t i = 0; i < 32; i++) {
        m.codes[i] = (uint8_t)(i % 16);
        m.codes[8 * 32 + i] = (uint8_t)(15 - i % 16);
    }
    for (int32_t r = 0; r < 9; r++) {
        m.scales[r] = 0.5f;
        m.zeros[r] = 3;
    }
    m.scales[0] = 1;
    m.zeros[0] = 7;
    m.scales[8] = 0.75f;
    m.zeros[8] = 9;
    const struct layout_shape shape = shape_of(&m, LAYOUT_W4_F64);
    assert_int_equal(layout_bytes(&shape), 4 * 1280 + 64 * 4);
    uint8_t *packed = packed_of(&shape, &m, 0);
    static const uint8_t lane0[16] = { 0xf0, 0x78, 0xe1, 0x69, 0xf0, 0x78, 0xe1, 0x69 };
    static const uint8_t lane3[16] = { 0x96, 0x1e, 0x87, 0x0f, 0x96, 0x1e, 0x87, 0x0f };
    static const uint8_t lane4[16] = { 3, 3, 3, 3, 3, 3, 3, 3 };
    assert_memory_equal(packed, lane0, 16);
    assert_memory_equal(packed + 48, lane3, 16);
    assert_memory_equal(packed + 64, lane4, 16);
    for (int32_t i = 0; i < 512; i++) /* atom 1: k 64..127 */
        assert_int_equal(packed[512 + i], 0);
    /* scales of group 0: r0 r8 r1 r9 ..: 128, 192, 128 (0.5 / 2^-8), 0 (padding), 128 .. */
    static const uint8_t scales[8] = { 0x00, 0x58, 0x00, 0x5a, 0x00, 0x58, 0x00, 0x00 };
    static const uint8_t zeros[8] = { 0x00, 0x47, 0x80, 0x48, 0x00, 0x42, 0x00, 0x00 };
    assert_memory_equal(packed + 1024, scales, 8);
    assert_memory_equal(packed + 1024 + 128, zeros, 8);
    for (int32_t i = 32; i < 128; i++) { /* groups 1 to 3 */
        assert_int_equal(packed[1024 + i], 0);
        assert_int_equal(packed[1024 + 128 + i], 0);
    }
    for (int32_t i = 1280; i < 4 * 1280; i++) /* units 1 to 3: padding */
        assert_int_equal(packed[i], 0);
    float factors[64];
    memcpy(factors, packed + 4 * 1280, sizeof factors);
    assert_true(factors[0] == 0x1p-7f && factors[1] == 0x1p-8f && factors[8] == 0x1p-8f);
    assert_true(factors[9] == 1 && factors[63] == 1);
    float row[32];
    layout_row(&shape, packed, 8, row);
    assert_true(row[0] == 0.75f * (15 - 9) && row[31] == 0.75f * (0 - 9));
    free(packed);
    matrix_clear(&m);
}

/* 8 bits, symmetric, [16][16], one scale a row: one strip of 4 units of 2048 + 32 bytes. Code of
 * (row, k) = 16 row + k. Lane 5 (g = 1, q = 1): k = 2, 10, 3, 11. Word 0, row 1: 18 26 19 27; word
 * 1, row 9: 146 154 147 155; words 2, 3 (k 16..31) are past n_in: 128. */
static void test_w8_by_hand(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 16, 16, 8, 16, true, &err), &err);
    for (int32_t i = 0; i < 256; i++)
        m.codes[i] = (uint8_t)i;
    for (int32_t r = 0; r < 16; r++)
        m.scales[r] = (float)(r + 1);
    const struct layout_shape shape = shape_of(&m, LAYOUT_W8_F64);
    assert_int_equal(layout_bytes(&shape), 4 * 2080 + 64 * 4);
    uint8_t *packed = packed_of(&shape, &m, 0);
    static const uint8_t lane5[16] = { 18,  26,  19,  27,  146, 154, 147, 155,
                                       128, 128, 128, 128, 128, 128, 128, 128 };
    assert_memory_equal(packed + 5 * 16, lane5, 16);
    for (int32_t i = 512; i < 2048; i++)
        assert_int_equal(packed[i], 128);
    /* Every scale is a power of two times 128 .. 255: r0 = 1 is 128, r8 = 9 is 144, r1 = 2 is 128.
     */
    uint16_t halves[16];
    memcpy(halves, packed + 2048, sizeof halves);
    assert_true(half_f16_to_f32(halves[0]) == 128 && half_f16_to_f32(halves[1]) == 144);
    assert_true(half_f16_to_f32(halves[2]) == 128 && half_f16_to_f32(halves[15]) == 128);
    assert_true(layout_scale_at(&shape, packed, 8, 0) == 9);
    free(packed);
    matrix_clear(&m);
}

/* Symmetric codes of 3 bits (zero 4) lie around 8. */
static void test_three_bits_by_hand(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 1, 32, 3, 32, true, &err), &err);
    for (int32_t i = 0; i < 32; i++)
        m.codes[i] = (uint8_t)(i % 8);
    m.scales[0] = 2;
    const struct layout_shape shape = shape_of(&m, LAYOUT_W4_F64);
    uint8_t *packed = packed_of(&shape, &m, 0);
    /* lane 0: k = 0, 8, 1, 9: codes 0 0 1 1 are stored as 4 4 5 5; row 8 is padding, 8 */
    static const uint8_t lane0[4] = { 0x84, 0x84, 0x85, 0x85 };
    assert_memory_equal(packed, lane0, 4);
    assert_int_equal(layout_code_at(&shape, packed, 0, 7), 7);
    assert_true(layout_zero_at(&shape, packed, 0, 0) == 4);
    free(packed);
    matrix_clear(&m);
}

/* Fractional zeros that fp16 holds come back; the padding of a short group gets the nearest code.
 */
static void test_fractional_zeros(void **state)
{
    (void)state;
    struct matrix m;
    struct err err;
    assert_ok(matrix_init(&m, 1, 100, 4, 64, false, &err), &err);
    memset(m.codes, 5, 100);
    m.scales[0] = m.scales[1] = 1;
    m.zeros[0] = 7.25f;
    m.zeros[1] = 7.75f;
    const struct layout_shape shape = shape_of(&m, LAYOUT_W4_F64);
    uint8_t *packed = packed_of(&shape, &m, 0);
    check_same(&shape, packed, &m);
    /* k = 112 .. 127 is k16 tile 3 of atom 1; row 0 of lane 0 */
    static const uint8_t lane0[4] = { 8, 8, 8, 8 };
    assert_memory_equal(packed + 512 + 12, lane0, 4);
    free(packed);
    matrix_clear(&m);
}

/* What our quantizer makes is packed without loss, whole and in blocks of rows. */
static void test_quantized_is_lossless(void **state)
{
    (void)state;
    enum { N_OUT = 83, N_IN = 300, BLOCK = 32 };
    static float w[N_OUT * N_IN];
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = (float)rng_uniform(3, 0, (uint64_t)i) - 0.5f;
    for (int i = 0; i < N_IN; i++) {
        w[4 * N_IN + i] *= 0x1p-120f; /* a row of very small weights, and one of large ones */
        w[5 * N_IN + i] *= 0x1p100f;
    }
    for (int i = 0; i < 4; i++) {
        struct matrix m, block;
        struct err err;
        const int32_t bits = i / 2 ? 8 : 4;
        assert_ok(matrix_init(&m, N_OUT, N_IN, bits, 64, i % 2, &err), &err);
        assert_ok(matrix_init(&block, BLOCK, N_IN, bits, 64, i % 2, &err), &err);
        assert_ok(matrix_quantize_rows(&m, w, 0, N_OUT, &err), &err);
        const struct layout_shape shape = shape_of(&m, bits == 4 ? LAYOUT_W4_F64 : LAYOUT_W8_F64);
        uint8_t *whole = packed_of(&shape, &m, 0);
        check_same(&shape, whole, &m);
        uint8_t *pieces = aligned_alloc(64, layout_bytes(&shape));
        assert_non_null(pieces);
        memset(pieces, 0x5a, layout_bytes(&shape));
        for (int32_t row = 0; row < N_OUT; row += BLOCK) {
            const int32_t n = N_OUT - row < BLOCK ? N_OUT - row : BLOCK;
            assert_ok(matrix_quantize_rows(&block, w + (size_t)row * N_IN, 0, n, &err), &err);
            layout_pack_block(&shape, &block, n, row, pieces);
        }
        assert_memory_equal(pieces, whole, layout_bytes(&shape));
        free(whole);
        free(pieces);
        matrix_clear(&m);
        matrix_clear(&block);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(layout_name(LAYOUT_W4_F64), "w4-f64");
    assert_string_equal(layout_name(LAYOUT_W8_F64), "w8-f64");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_w4_by_hand),
        cmocka_unit_test(test_w8_by_hand),
        cmocka_unit_test(test_three_bits_by_hand),
        cmocka_unit_test(test_fractional_zeros),
        cmocka_unit_test(test_quantized_is_lossless),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
