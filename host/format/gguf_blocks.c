/* gguf_blocks.c - one small function a block type, each on one block. Pure. */
#include "host/format/gguf_blocks.h"

#include <string.h>
#include "host/base/err.h"
#include "host/base/half.h"

/* One block to its parts. */
typedef void unpack_block(const uint8_t *b, uint8_t *codes, float *scales, float *mins);

static float f16(const uint8_t *b)
{
    return half_f16_to_f32((uint16_t)(b[0] | b[1] << 8));
}

/* qs[16]: j, j + 16 */
static void nibbles(const uint8_t *qs, uint8_t *codes)
{
    for (int32_t j = 0; j < 16; j++) {
        codes[j] = qs[j] & 15;
        codes[j + 16] = qs[j] >> 4;
    }
}

/* Bit i of the 32 in qh is worth 16 in code i. */
static void fifth_bits(const uint8_t *qh, uint8_t *codes)
{
    for (int32_t i = 0; i < 32; i++)
        codes[i] = (uint8_t)(codes[i] | (qh[i / 8] >> (i % 8) & 1) << 4);
}

static void q4_0(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    scales[0] = f16(b);
    nibbles(b + 2, codes);
}

static void q4_1(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    scales[0] = f16(b);
    mins[0] = -f16(b + 2);
    nibbles(b + 4, codes);
}

static void q5_0(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    scales[0] = f16(b);
    nibbles(b + 6, codes);
    fifth_bits(b + 2, codes);
}

static void q5_1(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    scales[0] = f16(b);
    mins[0] = -f16(b + 2);
    nibbles(b + 8, codes);
    fifth_bits(b + 4, codes);
}

static void q8_0(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    scales[0] = f16(b);
    for (int32_t i = 0; i < 32; i++)
        codes[i] = b[2 + i] ^ 0x80; /* int8 + 128 */
}

/* qs[64] as planes of two bits. */
static void planes(const uint8_t *qs, uint8_t *codes)
{
    for (int32_t half = 0; half < 2; half++)
        for (int32_t p = 0; p < 4; p++)
            for (int32_t l = 0; l < 32; l++)
                codes[half * 128 + p * 32 + l] = qs[half * 32 + l] >> (2 * p) & 3;
}

/* Bit g of byte l is worth 1 << place in code 32g + l. */
static void high_bits(const uint8_t *bytes, int32_t place, uint8_t *codes)
{
    for (int32_t g = 0; g < 8; g++)
        for (int32_t l = 0; l < 32; l++)
            codes[g * 32 + l] = (uint8_t)(codes[g * 32 + l] | (bytes[l] >> g & 1) << place);
}

static void q2_k(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    const float d = f16(b + 80), dmin = f16(b + 82);
    for (int32_t g = 0; g < 16; g++) {
        scales[g] = d * (float)(b[g] & 15);
        mins[g] = dmin * (float)(b[g] >> 4);
    }
    planes(b + 16, codes);
}

static void q3_k(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    const uint8_t *s = b + 96;
    const float d = f16(b + 108);
    for (int32_t g = 0; g < 16; g++) {
        /* Low four bits in the nibbles of the first eight bytes, high two in the last four. */
        const int32_t low = s[g % 8] >> (g / 8 * 4) & 15, high = s[8 + g % 4] >> (g / 4 * 2) & 3;
        scales[g] = d * (float)((low | high << 4) - 32);
    }
    planes(b + 32, codes);
    high_bits(b, 2, codes);
}

/* Q4_K and Q5_K: eight scales and eight mins of six bits each in twelve bytes. */
static void scales_of_six_bits(const uint8_t *b, float *scales, float *mins)
{
    const float d = f16(b), dmin = f16(b + 2);
    const uint8_t *s = b + 4;
    for (int32_t g = 0; g < 8; g++) {
        const int32_t sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        const int32_t mn = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        scales[g] = d * (float)sc;
        mins[g] = dmin * (float)mn;
    }
}

/* 32 bytes hold 64 elements: low nibbles the first half. */
static void wide_nibbles(const uint8_t *qs, uint8_t *codes)
{
    for (int32_t g = 0; g < 8; g++)
        for (int32_t l = 0; l < 32; l++)
            codes[g * 32 + l] = qs[g / 2 * 32 + l] >> (g % 2 * 4) & 15;
}

static void q4_k(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    scales_of_six_bits(b, scales, mins);
    wide_nibbles(b + 16, codes);
}

static void q5_k(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    scales_of_six_bits(b, scales, mins);
    wide_nibbles(b + 48, codes);
    high_bits(b + 16, 4, codes);
}

static void q6_k(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    const uint8_t *ql = b, *qh = b + 128;
    const float d = f16(b + 208);
    for (int32_t g = 0; g < 16; g++)
        scales[g] = d * (float)(int8_t)b[192 + g];
    planes(qh, codes); /* the two high bits */
    for (int32_t part = 0; part < 8; part++) {
        const uint8_t *low = ql + part / 4 * 64 + part % 2 * 32;
        for (int32_t l = 0; l < 32; l++) {
            const int32_t high = codes[part * 32 + l] << 4;
            codes[part * 32 + l] = (uint8_t)((low[l] >> (part / 2 % 2 * 4) & 15) | high);
        }
    }
}

static void iq4_xs(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    const float d = f16(b);
    const int32_t scales_h = b[2] | b[3] << 8;
    for (int32_t g = 0; g < 8; g++) {
        const int32_t low = b[4 + g / 2] >> (g % 2 * 4) & 15, high = scales_h >> (2 * g) & 3;
        scales[g] = d * (float)((low | high << 4) - 32);
        nibbles(b + 8 + 16 * g, codes + 32 * g);
    }
}

/* The table is doubled, so the scale is halved: 2^(e - 128), subnormal floats where e < 2. */
static void mxfp4(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    const uint32_t bits = b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23;
    memcpy(scales, &bits, sizeof bits);
    nibbles(b + 1, codes);
}

/* A byte holds digits of a fraction in base 3: digit n comes out in front when the byte is
 * multiplied by 3^n (mod 256) and then by 3. */
static uint8_t digit(uint8_t byte, int32_t n)
{
    static const uint8_t powers[5] = { 1, 3, 9, 27, 81 };
    return (uint8_t)((uint8_t)(byte * powers[n]) * 3 >> 8);
}

static void tq1_0(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    for (int32_t i = 0; i < 160; i++)
        codes[i] = digit(b[i % 32], i / 32);
    for (int32_t i = 0; i < 80; i++)
        codes[160 + i] = digit(b[32 + i % 16], i / 16);
    for (int32_t i = 0; i < 16; i++)
        codes[240 + i] = digit(b[48 + i % 4], i / 4);
    scales[0] = f16(b + 52);
}

static void tq2_0(const uint8_t *b, uint8_t *codes, float *scales, float *mins)
{
    (void)mins;
    planes(b, codes);
    scales[0] = f16(b + 64);
}

static const float IQ4_TABLE[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113 };
static const float MXFP4_TABLE[16] = {
    0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12
};

static const struct {
    struct gguf_blocks blocks;
    unpack_block *unpack;
} KINDS[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = { { 4, 32, 8, false, NULL }, q4_0 },
    [DTYPE_Q4_1] = { { 4, 32, 0, true, NULL }, q4_1 },
    [DTYPE_Q5_0] = { { 5, 32, 16, false, NULL }, q5_0 },
    [DTYPE_Q5_1] = { { 5, 32, 0, true, NULL }, q5_1 },
    [DTYPE_Q8_0] = { { 8, 32, 128, false, NULL }, q8_0 },
    [DTYPE_Q2_K] = { { 2, 16, 0, true, NULL }, q2_k },
    [DTYPE_Q3_K] = { { 3, 16, 4, false, NULL }, q3_k },
    [DTYPE_Q4_K] = { { 4, 32, 0, true, NULL }, q4_k },
    [DTYPE_Q5_K] = { { 5, 32, 0, true, NULL }, q5_k },
    [DTYPE_Q6_K] = { { 6, 16, 32, false, NULL }, q6_k },
    [DTYPE_IQ4_NL] = { { 4, 32, 0, false, IQ4_TABLE }, q4_0 },
    [DTYPE_IQ4_XS] = { { 4, 32, 0, false, IQ4_TABLE }, iq4_xs },
    [DTYPE_MXFP4] = { { 4, 32, 0, false, MXFP4_TABLE }, mxfp4 },
    [DTYPE_TQ1_0] = { { 2, 256, 1, false, NULL }, tq1_0 },
    [DTYPE_TQ2_0] = { { 2, 256, 1, false, NULL }, tq2_0 },
};

const struct gguf_blocks *gguf_blocks_of(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return KINDS[dtype].unpack == NULL ? NULL : &KINDS[dtype].blocks;
}

void gguf_unpack(enum dtype dtype, const void *blocks, size_t n, uint8_t *codes, float *scales,
                 float *mins)
{
    const struct gguf_blocks *kind = gguf_blocks_of(dtype);
    CHECK(kind != NULL);
    const size_t block = (size_t)dtype_block(dtype), bytes = dtype_block_bytes(dtype);
    const size_t n_groups = block / (size_t)kind->group;
    CHECK(n % block == 0);
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n / block; i++)
        KINDS[dtype].unpack(b + i * bytes, codes + i * block, scales + i * n_groups,
                            kind->has_mins ? mins + i * n_groups : NULL);
}

void gguf_dequantize(float *out, const void *blocks, enum dtype dtype, size_t n)
{
    const struct gguf_blocks *kind = gguf_blocks_of(dtype);
    if (kind == NULL) {
        half_widen(out, blocks, dtype, n);
        return;
    }
    const size_t block = (size_t)dtype_block(dtype), bytes = dtype_block_bytes(dtype);
    CHECK(n % block == 0);
    uint8_t codes[GGUF_BLOCK_MAX];
    float scales[GGUF_BLOCK_GROUPS_MAX], mins[GGUF_BLOCK_GROUPS_MAX] = { 0 };
    for (size_t i = 0; i < n / block; i++) {
        KINDS[dtype].unpack((const uint8_t *)blocks + i * bytes, codes, scales, mins);
        for (size_t j = 0; j < block; j++) {
            const size_t g = j / (size_t)kind->group;
            const float value = kind->table != NULL ? kind->table[codes[j]] : (float)codes[j];
            const float product = scales[g] * (value - kind->zero);
            out[i * block + j] = kind->has_mins ? product - mins[g] : product;
        }
    }
}
