/* limits_avx512.c - probes of the machine's roofs with 512-bit registers. Called by limits.c after
 * the CPUID check. */
#include <immintrin.h>
#include "host/backend/cpu/limits_kernels.h"

/* Keeps the arrays of sums in registers. */
#define UNROLL _Pragma("GCC unroll 16")

uint64_t limits_read_avx512(const void *from, size_t bytes)
{
    const size_t half = bytes / 2;
    const uint8_t *at = from;
    __m512i sum[8] = { 0 };
    for (size_t i = 0; i < half; i += 256) {
        UNROLL
        for (size_t j = 0; j < 8; j++) {
            const uint8_t *line = at + i + 64 * (j / 2) + half * (j % 2);
            _mm_prefetch((const char *)(line + LIMITS_AHEAD_BYTES), _MM_HINT_T0);
            sum[j] = _mm512_xor_si512(sum[j], _mm512_load_si512(line));
        }
    }
    UNROLL
    for (int j = 1; j < 8; j++)
        sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

uint64_t limits_dot_avx512(int64_t n)
{
    __m512i sum[LIMITS_DOT_SUMS] = { 0 };
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    for (int64_t i = 0; i < n; i++) {
        UNROLL
        for (int j = 0; j < LIMITS_DOT_SUMS; j++) {
            sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
            __asm__ volatile("" : "+v"(sum[j])); /* else equal sums are made once */
        }
    }
    UNROLL
    for (int j = 1; j < LIMITS_DOT_SUMS; j++)
        sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}
