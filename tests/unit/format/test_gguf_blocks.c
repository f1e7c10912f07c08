/* gguf_blocks: one block of every type, worked by hand; the reference data is in tests/oracle. */
#include "tests/support/support.h"
#include <math.h>
#include "host/format/gguf_blocks.h"

/* All bytes are 0 but for those named. fp16: 1 = 00 3c, 2 = 00 40, 0.5 = 00 38, -1 = 00 bc. */
static const struct {
    enum dtype dtype;
    struct {
        int32_t at;
        uint8_t byte;
    } bytes[12];
    struct {
        int32_t element;
        float value;
    } wanted[8];
} ROWS[] = {
    /* d 2; byte 0 = 0x2f: element 0 is 15 - 8, element 16 is 2 - 8; the rest 0 - 8. */
    { DTYPE_Q4_0, { { 1, 0x40 }, { 2, 0x2f } }, { { 0, 14 }, { 16, -12 }, { 1, -16 } } },
    /* d 0.5, m -1 */
    { DTYPE_Q4_1,
      { { 1, 0x38 }, { 3, 0xbc }, { 19, 0xf1 } },
      { { 15, -0.5f }, { 31, 6.5f }, { 0, -1 } } },
    /* d 1; bit 17 of qh is element 17, the high nibble of byte 1: 3 + 16 - 16 */
    { DTYPE_Q5_0,
      { { 1, 0x3c }, { 4, 0x02 }, { 7, 0x31 } },
      { { 17, 3 }, { 1, -15 }, { 0, -16 } } },
    /* d 1, m 0.5; bit 31 of qh: element 31 = 16 + 2 */
    { DTYPE_Q5_1,
      { { 1, 0x3c }, { 3, 0x38 }, { 7, 0x80 }, { 23, 0x20 } },
      { { 31, 18.5f }, { 15, 0.5f } } },
    { DTYPE_Q8_0, { { 1, 0x38 }, { 2, 0x80 }, { 33, 0x7f } }, { { 0, -64 }, { 31, 63.5f } } },
    /* d 1, dmin 2; group 0: scale 3, min 1; group 15: scale 2, min 0. Byte 16 = 0xe4: codes 0, 1,
     * 2, 3 of elements 0, 32, 64, 96; byte 16 + 63: element 128 + 96 + 31 = 255. */
    { DTYPE_Q2_K,
      { { 81, 0x3c },
        { 83, 0x40 },
        { 0, 0x13 },
        { 2, 0x05 },
        { 15, 0x02 },
        { 16, 0xe4 },
        { 79, 0xc0 } },
      { { 0, -2 }, { 1, -2 }, { 32, 5 }, { 255, 6 }, { 64, 0 } } },
    /* d 1. scales bytes at 96: group 0 = 1 + 16 * 2 = 33, so 1; group 15: low nibble in the high
     * half of byte 7, high bits 6, 7 of byte 11: 15 + 48 - 32 = 31. hmask bit 0 of byte 0:
     * element 0; bit 7 of byte 31: element 255. */
    { DTYPE_Q3_K,
      { { 109, 0x3c },
        { 96, 0x01 },
        { 104, 0x02 },
        { 103, 0xf0 },
        { 107, 0xc0 },
        { 32, 0x03 },
        { 0, 0x01 },
        { 31, 0x80 },
        { 95, 0x40 } },
      { { 0, 3 }, { 1, -4 }, { 255, 31 }, { 254, -124 } } },
    /* d 1, dmin 0.5. Scale 0 = byte 0 & 63 = 5, min 0 = byte 4 & 63 = 2; byte 0's top bits (3) are
     * scale 4's: 3 << 4 | byte 8's low nibble (1) = 49; min 4 = byte 8's high nibble 2 | byte 4's
     * top bits (1) << 4 = 18. Byte 16: element 0 = 7, element 32 = 9; group 4 starts at 128. */
    { DTYPE_Q4_K,
      { { 1, 0x3c },
        { 3, 0x38 },
        { 4, 0xc5 },
        { 8, 0x42 },
        { 12, 0x21 },
        { 16, 0x97 },
        { 16 + 64, 0x01 } },
      { { 0, 34 }, { 1, -1 }, { 32, 0 }, { 128, 40 }, { 129, -9 } } },
    /* d 2; scale 1 = 1. qh byte 5 bit 1: element 37; its low four bits in byte 48 + 5, high. */
    { DTYPE_Q5_K, { { 1, 0x40 }, { 5, 0x01 }, { 21, 0x02 }, { 53, 0x60 } }, { { 37, 44 } } },
    /* d 0.5. Scales at 192: group 0 = -2, group 15 = 3. Element 0: ql byte 0 low 4 | qh byte 0 bits
     * 0, 1 (2) << 4 = 36 - 32; element 255: second half, fourth part: ql byte 127 high (1),
     * qh byte 63 bits 6, 7 (3): 49 - 32 = 17. */
    { DTYPE_Q6_K,
      { { 209, 0x38 },
        { 192, 0xfe },
        { 207, 0x03 },
        { 0, 0x04 },
        { 128, 0x02 },
        { 127, 0x10 },
        { 191, 0xc0 } },
      { { 0, -4 }, { 1, 32 }, { 255, 25.5f }, { 254, -48 } } },
    { DTYPE_IQ4_NL, { { 1, 0x3c }, { 2, 0xf8 } }, { { 0, 1 }, { 16, 113 }, { 1, -127 } } },
    /* d 1. ls of group 0: low nibble of byte 4 (1) | bits 0, 1 of scales_h (2) << 4 = 33 - 32;
     * group 7: high nibble of byte 7 (0) | bits 14, 15 (3) << 4 = 48 - 32 = 16. */
    { DTYPE_IQ4_XS,
      { { 1, 0x3c }, { 2, 0x02 }, { 3, 0xc0 }, { 4, 0x01 }, { 8, 0x9f }, { 135, 0x7a } },
      { { 0, 113 }, { 16, 13 }, { 239, 16 * 25 }, { 255, -160 }, { 32, 32 * 127 } } },
    /* 2^(130 - 128) = 4 times the doubled values: code 1 = 1, code 15 = -12. */
    { DTYPE_MXFP4, { { 0, 130 }, { 1, 0xf1 } }, { { 0, 4 }, { 16, -48 }, { 1, 0 } } },
    /* The least exponent: 2^-128 is a subnormal float. */
    { DTYPE_MXFP4, { { 1, 0x02 } }, { { 0, 0x1p-127f } } },
    /* A byte of 255 is 2 2 2 2 2; 86 is 1/3 of 256 rounded up: 1 0 0 0 0. All else 0 - 1. */
    { DTYPE_TQ1_0,
      { { 53, 0x40 }, { 0, 255 }, { 31, 86 }, { 47, 255 }, { 51, 86 } },
      { { 0, 2 },
        { 128, 2 },
        { 31, 0 },
        { 63, -2 },
        { 175, 2 },
        { 239, 2 },
        { 243, 0 },
        { 1, -2 } } },
    { DTYPE_TQ2_0,
      { { 65, 0x3c }, { 0, 0x24 }, { 63, 0x80 } },
      { { 0, -1 }, { 32, 0 }, { 64, 1 }, { 96, -1 }, { 255, 1 } } },
};

static void test_by_hand(void **state)
{
    (void)state;
    bool seen[DTYPE_COUNT] = { false };
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const enum dtype dtype = ROWS[i].dtype;
        const size_t bytes = dtype_block_bytes(dtype);
        uint8_t block[256] = { 0 };
        float out[GGUF_BLOCK_MAX + 1];
        out[dtype_block(dtype)] = 42; /* not touched */
        for (int k = 0; k < 12; k++)
            if (ROWS[i].bytes[k].byte != 0)
                block[ROWS[i].bytes[k].at] = ROWS[i].bytes[k].byte;
        uint8_t *guarded = guard_copy(block, bytes);
        gguf_dequantize(out, guarded, dtype, (size_t)dtype_block(dtype));
        guard_free(guarded, bytes);
        assert_true(out[dtype_block(dtype)] == 42);
        for (int k = 0; k < 8; k++)
            if ((k == 0 || ROWS[i].wanted[k].element != 0) &&
                out[ROWS[i].wanted[k].element] != ROWS[i].wanted[k].value)
                fail_msg("%s, element %d: found %g, want %g", dtype_name(dtype),
                         ROWS[i].wanted[k].element, (double)out[ROWS[i].wanted[k].element],
                         (double)ROWS[i].wanted[k].value);
        seen[dtype] = true;
    }
    for (int d = 0; d < DTYPE_COUNT; d++)
        assert_int_equal(seen[d], gguf_blocks_of((enum dtype)d) != NULL);
}

/* Random bytes: codes stay below 2^bits, and the parts make the floats of gguf_dequantize. */
static void test_parts(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (int d = 1; d < DTYPE_COUNT; d++) {
        const enum dtype dtype = (enum dtype)d;
        const struct gguf_blocks *kind = gguf_blocks_of(dtype);
        if (kind == NULL)
            continue;
        const size_t n = 3 * (size_t)dtype_block(dtype), bytes = dtype_row_bytes(dtype, n);
        const size_t group = (size_t)kind->group;
        uint8_t blocks[3 * 256], codes[3 * GGUF_BLOCK_MAX];
        float scales[3 * GGUF_BLOCK_GROUPS_MAX], mins[3 * GGUF_BLOCK_GROUPS_MAX];
        float out[3 * GGUF_BLOCK_MAX];
        for (size_t i = 0; i < bytes; i++) {
            random = random * 1664525u + 1013904223u;
            blocks[i] = (uint8_t)(random >> 24);
        }
        gguf_unpack(dtype, blocks, n, codes, scales, mins);
        gguf_dequantize(out, blocks, dtype, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(codes[i] < 1 << kind->bits);
            const float value = kind->table != NULL ? kind->table[codes[i]] : (float)codes[i];
            float w = scales[i / group] * (value - kind->zero);
            if (kind->has_mins)
                w -= mins[i / group];
            assert_true(w == out[i] || (isnan(w) && isnan(out[i])));
        }
    }
}

static void test_plain(void **state)
{
    (void)state;
    float out[2];
    gguf_dequantize(out, (const uint16_t[2]){ 0x3c00, 0xc000 }, DTYPE_F16, 2);
    assert_true(out[0] == 1 && out[1] == -2);
    assert_null(gguf_blocks_of(DTYPE_BF16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
