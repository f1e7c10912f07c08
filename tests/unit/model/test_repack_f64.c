/* GGUF's blocks in layout F64, and as rows of bf16: every weight read back against the blocks
 * dequantized. Blocks are random but for their fp16 scales, so every code and every sub-scale
 * occurs, 0 too. What the layout rounds is bounded: 1e-5 of the weights, squared. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/half.h"
#include "host/base/rng.h"
#include "host/format/gguf_blocks.h"
#include "host/model/placement.h"
#include "host/model/repack.h"

enum { N_OUT = 80, N_IN = 1024 };
static const double NMSE_MAX = 1e-5;

/* d_at, m_at: where the block's fp16 scale and min are; -1: none. */
static const struct {
    enum dtype dtype;
    int32_t d_at, m_at;
    enum placement want;
} TYPES[] = {
    { DTYPE_Q4_0, 0, -1, PLACEMENT_FUSED },         { DTYPE_Q4_1, 0, 2, PLACEMENT_FUSED },
    { DTYPE_Q5_0, 0, -1, PLACEMENT_FUSED },         { DTYPE_Q5_1, 0, 2, PLACEMENT_FUSED },
    { DTYPE_Q8_0, 0, -1, PLACEMENT_FUSED },         { DTYPE_Q4_K, 0, 2, PLACEMENT_FUSED },
    { DTYPE_Q5_K, 0, 2, PLACEMENT_FUSED },          { DTYPE_IQ4_NL, 0, -1, PLACEMENT_TABLE },
    { DTYPE_IQ4_XS, 0, -1, PLACEMENT_TABLE },       { DTYPE_MXFP4, -1, -1, PLACEMENT_TABLE },
    { DTYPE_TQ1_0, 52, -1, PLACEMENT_FUSED },       { DTYPE_TQ2_0, 64, -1, PLACEMENT_FUSED },
    { DTYPE_Q2_K, 80, 82, PLACEMENT_DEQUANTIZED },  { DTYPE_Q3_K, 108, -1, PLACEMENT_DEQUANTIZED },
    { DTYPE_Q6_K, 208, -1, PLACEMENT_DEQUANTIZED },
};

static void put_half(uint8_t *block, int32_t at, uint32_t random, float size)
{
    const uint16_t bits = half_f32_to_f16(size * (0.5f + (float)(random % 1024) / 1024));
    if (at >= 0)
        memcpy(block + at, &bits, sizeof bits);
}

/* Rows of blocks; free() them. */
static uint8_t *make_blocks(int32_t type)
{
    const size_t block = dtype_block_bytes(TYPES[type].dtype);
    const size_t bytes = (size_t)N_OUT * dtype_row_bytes(TYPES[type].dtype, N_IN);
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)rng_philox(3, (uint64_t)type, i).v[0];
    for (size_t at = 0; at < bytes; at += block) {
        const uint32_t random = rng_philox(4, (uint64_t)type, at).v[0];
        const bool flat = random % 16 == 0; /* a scale that is 0, or next to nothing */
        put_half(data + at, TYPES[type].d_at, random >> 8,
                 flat ? (random % 32 == 0 ? 1e-7f : 0) : 0.01f);
        put_half(data + at, TYPES[type].m_at, random >> 16, 0.05f);
        if (TYPES[type].dtype == DTYPE_MXFP4)
            data[at] = (uint8_t)(110 + random % 16);
    }
    return data;
}

static void test_blocks(void **state)
{
    (void)state;
    static const struct backend cuda = { .f64 = true };
    float *want = malloc((size_t)N_OUT * N_IN * sizeof *want), *row = malloc(N_IN * sizeof *row);
    uint16_t *rows = malloc((size_t)N_OUT * N_IN * sizeof *rows);
    assert_true(want != NULL && row != NULL && rows != NULL);
    for (int32_t t = 0; t < (int32_t)(sizeof TYPES / sizeof *TYPES); t++) {
        const enum dtype dtype = TYPES[t].dtype;
        struct placement_source how = { .table = gguf_blocks_of(dtype)->table };
        struct weight_part part = { 0 };
        struct err err;
        uint8_t *data = make_blocks(t);
        const struct repack_source source = {
            .data = data,
            .dtype = dtype,
            .map = { .n_stored = N_OUT, .run = N_OUT, .stride = N_OUT },
        };
        assert_true(repack_form(dtype, &how.form));
        how.form.n_out = N_OUT;
        how.form.n_in = N_IN;
        placement_blocks(dtype, &how);
        assert_int_equal(placement_of(&cuda, &how, &part), TYPES[t].want);
        gguf_dequantize(want, data, dtype, (size_t)N_OUT * N_IN);
        uint8_t *packed = NULL;
        if (part.shape.layout == LAYOUT_ROWS) { /* in two pieces: they must not show */
            assert_ok(repack_rows(&source, N_IN, part.dtype, 0, 37, rows, NULL, &err), &err);
            assert_ok(repack_rows(&source, N_IN, part.dtype, 37, N_OUT - 37, rows + 37 * N_IN, NULL,
                                  &err),
                      &err);
        } else {
            packed = aligned_alloc(LAYOUT_ALIGN, layout_bytes(&part.shape));
            assert_non_null(packed);
            assert_ok(repack_quantize(&source, &part.shape, packed, NULL, &err), &err);
        }
        double error = 0, power = 0;
        for (int32_t r = 0; r < N_OUT; r++) {
            if (packed != NULL)
                layout_row(&part.shape, packed, r, row);
            else
                half_widen(row, (const uint8_t *)(rows + (size_t)r * N_IN), part.dtype, N_IN);
            for (int32_t i = 0; i < N_IN; i++) {
                const double w = (double)want[(size_t)r * N_IN + (size_t)i];
                assert_true(isfinite(row[i]));
                error += ((double)row[i] - w) * ((double)row[i] - w);
                power += w * w;
            }
        }
        printf("%-8s %s: normalized square error of the weights %.2g\n", dtype_name(dtype),
               placement_name(TYPES[t].want), error / power);
        if (!(power > 0 && error / power <= NMSE_MAX))
            fail_msg("%s: %.3g, want at most %.3g", dtype_name(dtype), error / power, NMSE_MAX);
        free(packed);
        free(data);
    }
    free(rows);
    free(want);
    free(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
