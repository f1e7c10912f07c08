/* limits_avx2.c - probes of the machine's roofs with 256-bit registers. Called by limits.c after
 * the CPUID check. */
#include <immintrin.h>
#include "host/backend/cpu/limits_kernels.h"

/* Keeps the arrays of sums in registers. */
#define UNROLL _Pragma("GCC unroll 16")

static uint64_t fold(__m256i v)
{
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)(void *)lanes, v);
    return lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
}

uint64_t limits_read_avx2(const void *from, size_t bytes)
{
    const size_t half = bytes / 2;
    const uint8_t *at = from;
    __m256i sum[8] = { 0 };
    for (size_t i = 0; i < half; i += 256) {
        UNROLL
        for (size_t j = 0; j < 16; j++) {
            const uint8_t *piece = at + i + 32 * (j / 2) + half * (j % 2);
            if (j / 2 % 2 == 0)
                _mm_prefetch((const char *)(piece + LIMITS_AHEAD_BYTES), _MM_HINT_T0);
            sum[j % 8] = _mm256_xor_si256(sum[j % 8],
                                          _mm256_load_si256((const __m256i *)(const void *)piece));
        }
    }
    UNROLL
    for (int j = 1; j < 8; j++)
        sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return fold(sum[0]);
}

/* The cheapest exact int8 dot of AVX2: pairs to 16 bits, pairs of pairs to 32, and an addition. */
uint64_t limits_dot_avx2(int64_t n)
{
    __m256i sum[LIMITS_DOT_SUMS] = { 0 };
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t i = 0; i < n; i++) {
        UNROLL
        for (int j = 0; j < LIMITS_DOT_SUMS; j++) {
            __m256i pairs = _mm256_maddubs_epi16(a, b);
            __asm__ volatile("" : "+x"(pairs)); /* else equal products are made once */
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, ones));
        }
    }
    UNROLL
    for (int j = 1; j < LIMITS_DOT_SUMS; j++)
        sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return fold(sum[0]);
}
