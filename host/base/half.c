/* half.c - the small floating formats, bit-exact.
 *
 * Invariant: the bulk loops give the same bits as the scalar functions, with F16C or without it.
 * A signalling binary16 NaN is quieted on the way to float, as IEEE 754 (and F16C) do. Pure. */
#include "host/base/half.h"
#include "host/base/err.h"
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float half_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
    if (exponent == 31)
        return float_of(sign | 0x7f800000 | (mantissa ? 0x400000 | mantissa << 13 : 0));
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in binary32 */
        float value = (float)mantissa * 0x1p-24f;
        return float_of(sign | bits_of(value));
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t half_f32_to_f16(float value)
{
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520, halfway to 2^16, and above: infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        /* Below 2^-14 the result is a multiple of 2^-24. Adding 0.5 leaves exactly that many
         * fraction bits in a float, so the addition itself rounds to nearest even. */
        uint32_t sum = bits_of(float_of(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
}

uint16_t half_f32_to_bf16(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float half_e4m3_to_f32(uint8_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x80) << 24;
    uint32_t exponent = bits >> 3 & 15, mantissa = bits & 7;
    if ((bits & 0x7f) == 0x7f)
        return float_of(sign | 0x7fc00000);
    if (exponent == 0)
        return float_of(sign | bits_of((float)mantissa * 0x1p-9f));
    return float_of(sign | (exponent + 120) << 23 | mantissa << 20);
}

float half_e5m2_to_f32(uint8_t bits)
{
    return half_f16_to_f32((uint16_t)(bits << 8)); /* the upper half of binary16 */
}

float half_e8m0_to_f32(uint8_t bits)
{
    if (bits == 255)
        return float_of(0x7fc00000);
    return float_of(bits == 0 ? 0x400000 : (uint32_t)bits << 23); /* 2^-127 is subnormal */
}

float half_e2m1_to_f32(uint8_t code)
{
    static const float VALUES[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    return code & 8 ? -VALUES[code & 7] : VALUES[code & 7];
}

uint8_t half_f32_to_e4m3(float value)
{
    uint32_t bits = bits_of(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7f);
    if (magnitude >= 0x43e00000) /* 448 */
        return (uint8_t)(sign | 0x7e);
    if (magnitude < 0x3c800000) { /* below 2^-6: a multiple of 2^-9, rounded by the addition */
        uint32_t sum = bits_of(float_of(magnitude) + 0x1p14f);
        return (uint8_t)(sign | (sum - 0x46800000));
    }
    magnitude += 0x7ffff + (magnitude >> 20 & 1);
    return (uint8_t)(sign | ((magnitude - 0x3c000000) >> 20));
}

/* ---- bulk --------------------------------------------------------------------------------- */

/* Elements may lie at any address (a safetensors header may have any length), so every load goes
 * through memcpy; the compiler makes plain unaligned loads of it. */
#define WIDEN_LOOP(type, expression)                                                               \
    for (size_t i = 0; i < n; i++) {                                                               \
        type v;                                                                                    \
        memcpy(&v, (const char *)in + i * sizeof v, sizeof v);                                     \
        out[i] = (expression);                                                                     \
    }

#if defined(__x86_64__)
static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2"); /* all of those have F16C, which clang 14 cannot ask */
}

__attribute__((target("avx,f16c"))) static size_t widen_f16c(float *out, const void *in, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const char *)in + 2 * i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(h));
    }
    return i;
}

__attribute__((target("avx,f16c"))) static size_t narrow_f16c(void *out, const float *in, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)((char *)out + 2 * i), h);
    }
    return i;
}
#else
static bool has_f16c(void)
{
    return false;
}
static size_t widen_f16c(float *out, const void *in, size_t n)
{
    (void)out, (void)in, (void)n;
    return 0;
}
static size_t narrow_f16c(void *out, const float *in, size_t n)
{
    (void)out, (void)in, (void)n;
    return 0;
}
#endif

/* One-byte formats by table: 256 entries cost less than the branches of a row of weights. */
static void widen_bytes(float *out, const uint8_t *in, size_t n, float (*one)(uint8_t))
{
    float table[256];
    if (n < 256) {
        for (size_t i = 0; i < n; i++)
            out[i] = one(in[i]);
        return;
    }
    for (int i = 0; i < 256; i++)
        table[i] = one((uint8_t)i);
    for (size_t i = 0; i < n; i++)
        out[i] = table[in[i]];
}

void half_widen(float *out, const void *in, enum dtype dtype, size_t n)
{
    size_t done;
    switch (dtype) {
    case DTYPE_F32:
        if (n > 0)
            memmove(out, in, n * sizeof *out);
        return;
    case DTYPE_F16:
        done = has_f16c() ? widen_f16c(out, in, n) : 0;
        out += done;
        in = (const char *)in + 2 * done;
        n -= done;
        WIDEN_LOOP(uint16_t, half_f16_to_f32(v))
        return;
    case DTYPE_BF16:
        WIDEN_LOOP(uint16_t, half_bf16_to_f32(v))
        return;
    case DTYPE_F8_E4M3:
        widen_bytes(out, in, n, half_e4m3_to_f32);
        return;
    case DTYPE_F8_E5M2:
        widen_bytes(out, in, n, half_e5m2_to_f32);
        return;
    case DTYPE_F8_E8M0:
        widen_bytes(out, in, n, half_e8m0_to_f32);
        return;
    case DTYPE_F64:
        WIDEN_LOOP(double, (float)v)
        return;
    case DTYPE_I64:
        WIDEN_LOOP(int64_t, (float)v)
        return;
    case DTYPE_I32:
        WIDEN_LOOP(int32_t, (float)v)
        return;
    case DTYPE_I16:
        WIDEN_LOOP(int16_t, (float)v)
        return;
    case DTYPE_I8:
        WIDEN_LOOP(int8_t, (float)v)
        return;
    case DTYPE_U8:
        WIDEN_LOOP(uint8_t, (float)v)
        return;
    case DTYPE_U16:
        WIDEN_LOOP(uint16_t, (float)v)
        return;
    case DTYPE_U32:
        WIDEN_LOOP(uint32_t, (float)v)
        return;
    case DTYPE_U64:
        WIDEN_LOOP(uint64_t, (float)v)
        return;
    case DTYPE_BOOL:
        WIDEN_LOOP(uint8_t, v ? 1.0f : 0.0f)
        return;
    default: /* blocks: host/format/gguf_blocks.h */
        break;
    }
    CHECK(false && "a dtype that half_widen knows");
}

/* half_f32_to_bf16 without a branch, so that the compiler makes vectors of it. */
static void narrow_bf16(void *out, const float *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = bits_of(in[i]);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
        uint16_t v = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
        memcpy((char *)out + 2 * i, &v, sizeof v);
    }
}

void half_narrow(void *out, const float *in, enum dtype dtype, size_t n)
{
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    if (dtype == DTYPE_F32) {
        if (n > 0)
            memmove(out, in, n * sizeof *in);
        return;
    }
    if (dtype == DTYPE_BF16) {
        narrow_bf16(out, in, n);
        return;
    }
    for (size_t i = has_f16c() ? narrow_f16c(out, in, n) : 0; i < n; i++) {
        uint16_t v = half_f32_to_f16(in[i]);
        memcpy((char *)out + 2 * i, &v, sizeof v);
    }
}
