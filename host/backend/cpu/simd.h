/* simd.h - sixteen floats at once, one arithmetic for three instruction sets.
 *
 * The flags of the including file choose the form: AVX-512, AVX2 + FMA, or plain C. Every function
 * gives the same bits in all three (fused multiply-adds are fused everywhere, sums have one tree),
 * so a kernel that is written with these alone does not depend on the machine. Included by the
 * kernel files of this folder only. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "host/base/dtype.h"
#include "host/base/half.h"

#define SIMD_INLINE static inline __attribute__((always_inline, unused))

enum { SIMD_LANES = 16 };

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define SIMD_AVX512 1
struct v16 {
    __m512 v;
};

SIMD_INLINE struct v16 v16_set1(float x)
{
    return (struct v16){ _mm512_set1_ps(x) };
}
SIMD_INLINE struct v16 v16_load(const float *p)
{
    return (struct v16){ _mm512_loadu_ps(p) };
}
SIMD_INLINE void v16_store(float *p, struct v16 a)
{
    _mm512_storeu_ps(p, a.v);
}
SIMD_INLINE struct v16 v16_load_f16(const uint16_t *p)
{
    return (struct v16){ _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)) };
}
SIMD_INLINE struct v16 v16_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return (struct v16){ _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)) };
}
SIMD_INLINE struct v16 v16_load_i8(const int8_t *p)
{
    __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
    return (struct v16){ _mm512_cvtepi32_ps(wide) };
}
SIMD_INLINE struct v16 v16_add(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm512_add_ps(a.v, b.v) };
}
SIMD_INLINE struct v16 v16_sub(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm512_sub_ps(a.v, b.v) };
}
SIMD_INLINE struct v16 v16_mul(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm512_mul_ps(a.v, b.v) };
}
SIMD_INLINE struct v16 v16_div(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm512_div_ps(a.v, b.v) };
}
/* a * b + c, rounded once */
SIMD_INLINE struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c)
{
    return (struct v16){ _mm512_fmadd_ps(a.v, b.v, c.v) };
}
/* a > b ? a : b, so a NaN in b stays */
SIMD_INLINE struct v16 v16_max(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm512_max_ps(a.v, b.v) };
}
SIMD_INLINE struct v16 v16_abs(struct v16 a)
{
    return (struct v16){ _mm512_abs_ps(a.v) };
}
/* a < limit ? then : otherwise, lane by lane; a NaN takes otherwise */
SIMD_INLINE struct v16 v16_if_less(struct v16 a, struct v16 limit, struct v16 then,
                                   struct v16 otherwise)
{
    __mmask16 less = _mm512_cmp_ps_mask(a.v, limit.v, _CMP_LT_OQ);
    return (struct v16){ _mm512_mask_blend_ps(less, otherwise.v, then.v) };
}
/* lane i of a where bit i is set */
SIMD_INLINE struct v16 v16_keep(uint32_t bits, struct v16 a, struct v16 otherwise)
{
    return (struct v16){ _mm512_mask_blend_ps((__mmask16)bits, otherwise.v, a.v) };
}
SIMD_INLINE struct v16 v16_copysign(struct v16 magnitude, struct v16 sign)
{
    const __m512 bit = _mm512_castsi512_ps(_mm512_set1_epi32(INT32_MIN));
    return (
        struct v16){ _mm512_or_ps(_mm512_andnot_ps(bit, magnitude.v), _mm512_and_ps(bit, sign.v)) };
}
/* a * 2^n for whole n in -126..0, a and the product normal */
SIMD_INLINE struct v16 v16_scale2(struct v16 a, struct v16 n)
{
    __m512i shift = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
    return (struct v16){ _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shift)) };
}
SIMD_INLINE struct v16 v16_round(struct v16 a)
{
    return (struct v16){ _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) };
}
/* The first two levels of v16_sum for four vectors: lane 4 t + i is
 * (x_t[i] + x_t[i + 8]) + (x_t[i + 4] + x_t[i + 12]). */
SIMD_INLINE struct v16 v16_fold4(struct v16 x0, struct v16 x1, struct v16 x2, struct v16 x3)
{
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(x0.v, x1.v, 0x44),
                             _mm512_shuffle_f32x4(x0.v, x1.v, 0xee));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(x2.v, x3.v, 0x44),
                             _mm512_shuffle_f32x4(x2.v, x3.v, 0xee));
    return (struct v16){ _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88),
                                       _mm512_shuffle_f32x4(a, b, 0xdd)) };
}
/* The last two levels: f_g holds vectors 4 g .. 4 g + 3; lane k is the sum of vector k. */
SIMD_INLINE struct v16 v16_fold16(struct v16 f0, struct v16 f1, struct v16 f2, struct v16 f3)
{
    __m512d d0 = _mm512_castps_pd(f0.v), d1 = _mm512_castps_pd(f1.v);
    __m512d d2 = _mm512_castps_pd(f2.v), d3 = _mm512_castps_pd(f3.v);
    __m512 a = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(d0, d1)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(d0, d1)));
    __m512 b = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(d2, d3)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(d2, d3)));
    __m512 s = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return (struct v16){ _mm512_permutexvar_ps(order, s) };
}
/* Row i of `to` (16 floats apart) becomes lane i of 16 rows: to[k][i] = rows[i] lane k. */
SIMD_INLINE void v16_store_transposed(float *to, const struct v16 rows[SIMD_LANES])
{
    __m512 a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
        a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            __m512d lo = _mm512_castps_pd(a[i + k]), hi = _mm512_castps_pd(a[i + k + 2]);
            b[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
            b[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
        }
    }
    /* b[4 r + k] holds columns k, 4 + k, 8 + k, 12 + k of rows 4 r .. 4 r + 3 */
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        __m512 lo = _mm512_shuffle_f32x4(b[k], b[4 + k], 0x88);
        __m512 hi = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0x88);
        __m512 lo2 = _mm512_shuffle_f32x4(b[k], b[4 + k], 0xdd);
        __m512 hi2 = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0xdd);
        _mm512_storeu_ps(to + 16 * k, _mm512_shuffle_f32x4(lo, hi, 0x88));
        _mm512_storeu_ps(to + 16 * (8 + k), _mm512_shuffle_f32x4(lo, hi, 0xdd));
        _mm512_storeu_ps(to + 16 * (4 + k), _mm512_shuffle_f32x4(lo2, hi2, 0x88));
        _mm512_storeu_ps(to + 16 * (12 + k), _mm512_shuffle_f32x4(lo2, hi2, 0xdd));
    }
}
/* Finite a to four significant bits, to nearest even. */
SIMD_INLINE struct v16 v16_round4(struct v16 a)
{
    __m512i b = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 20), _mm512_set1_epi32(1));
    b = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7ffff)), odd);
    return (struct v16){ _mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(-0x100000))) };
}
/* To nearest even; finite. */
SIMD_INLINE void v16_store_bf16(uint16_t *p, struct v16 a)
{
    __m512i b = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    b = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd);
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16)));
}
/* Whole numbers in -128..127. */
SIMD_INLINE void v16_store_i8(int8_t *p, struct v16 a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
SIMD_INLINE float v16_greatest(struct v16 a)
{
    return _mm512_reduce_max_ps(a.v);
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
struct v16 {
    __m256 lo, hi;
};

SIMD_INLINE struct v16 v16_set1(float x)
{
    return (struct v16){ _mm256_set1_ps(x), _mm256_set1_ps(x) };
}
SIMD_INLINE struct v16 v16_load(const float *p)
{
    return (struct v16){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) };
}
SIMD_INLINE void v16_store(float *p, struct v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
SIMD_INLINE struct v16 v16_load_f16(const uint16_t *p)
{
    return (struct v16){ _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                         _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8))) };
}
SIMD_INLINE __m256 simd_widen_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SIMD_INLINE struct v16 v16_load_bf16(const uint16_t *p)
{
    return (struct v16){ simd_widen_bf16(p), simd_widen_bf16(p + 8) };
}
SIMD_INLINE __m256 simd_widen_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
SIMD_INLINE struct v16 v16_load_i8(const int8_t *p)
{
    return (struct v16){ simd_widen_i8(p), simd_widen_i8(p + 8) };
}
SIMD_INLINE struct v16 v16_add(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi) };
}
SIMD_INLINE struct v16 v16_sub(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi) };
}
SIMD_INLINE struct v16 v16_mul(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi) };
}
SIMD_INLINE struct v16 v16_div(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi) };
}
SIMD_INLINE struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c)
{
    return (struct v16){ _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi) };
}
SIMD_INLINE struct v16 v16_max(struct v16 a, struct v16 b)
{
    return (struct v16){ _mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi) };
}
SIMD_INLINE struct v16 v16_abs(struct v16 a)
{
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return (struct v16){ _mm256_andnot_ps(bit, a.lo), _mm256_andnot_ps(bit, a.hi) };
}
SIMD_INLINE struct v16 v16_if_less(struct v16 a, struct v16 limit, struct v16 then,
                                   struct v16 otherwise)
{
    return (struct v16){
        _mm256_blendv_ps(otherwise.lo, then.lo, _mm256_cmp_ps(a.lo, limit.lo, _CMP_LT_OQ)),
        _mm256_blendv_ps(otherwise.hi, then.hi, _mm256_cmp_ps(a.hi, limit.hi, _CMP_LT_OQ)),
    };
}
SIMD_INLINE __m256 simd_keep8(uint32_t bits, __m256 a, __m256 otherwise)
{
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int32_t)bits), lane);
    return _mm256_blendv_ps(otherwise, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)));
}
SIMD_INLINE struct v16 v16_keep(uint32_t bits, struct v16 a, struct v16 otherwise)
{
    return (struct v16){ simd_keep8(bits, a.lo, otherwise.lo),
                         simd_keep8(bits >> 8, a.hi, otherwise.hi) };
}
SIMD_INLINE struct v16 v16_copysign(struct v16 magnitude, struct v16 sign)
{
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return (struct v16){
        _mm256_or_ps(_mm256_andnot_ps(bit, magnitude.lo), _mm256_and_ps(bit, sign.lo)),
        _mm256_or_ps(_mm256_andnot_ps(bit, magnitude.hi), _mm256_and_ps(bit, sign.hi)),
    };
}
SIMD_INLINE __m256 simd_scale2(__m256 a, __m256 n)
{
    __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), shift));
}
SIMD_INLINE struct v16 v16_scale2(struct v16 a, struct v16 n)
{
    return (struct v16){ simd_scale2(a.lo, n.lo), simd_scale2(a.hi, n.hi) };
}
SIMD_INLINE struct v16 v16_round(struct v16 a)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (struct v16){ _mm256_round_ps(a.lo, NEAREST), _mm256_round_ps(a.hi, NEAREST) };
}
SIMD_INLINE __m256 simd_fold2(struct v16 x0, struct v16 x1)
{
    __m256 a = _mm256_add_ps(x0.lo, x0.hi), b = _mm256_add_ps(x1.lo, x1.hi);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
SIMD_INLINE struct v16 v16_fold4(struct v16 x0, struct v16 x1, struct v16 x2, struct v16 x3)
{
    return (struct v16){ simd_fold2(x0, x1), simd_fold2(x2, x3) };
}
SIMD_INLINE __m256 simd_fold_end(__m256 f0, __m256 f1, __m256 f2, __m256 f3)
{
    __m256d d0 = _mm256_castps_pd(f0), d1 = _mm256_castps_pd(f1);
    __m256d d2 = _mm256_castps_pd(f2), d3 = _mm256_castps_pd(f3);
    __m256 a = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(d0, d1)),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(d0, d1)));
    __m256 b = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(d2, d3)),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(d2, d3)));
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
SIMD_INLINE struct v16 v16_fold16(struct v16 f0, struct v16 f1, struct v16 f2, struct v16 f3)
{
    /* lane 4 t + g of s is vector 4 g + t: transpose the 4 x 4 */
    __m256 lo = simd_fold_end(f0.lo, f1.lo, f2.lo, f3.lo);
    __m256 hi = simd_fold_end(f0.hi, f1.hi, f2.hi, f3.hi);
    __m128 r0 = _mm256_castps256_ps128(lo), r1 = _mm256_extractf128_ps(lo, 1);
    __m128 r2 = _mm256_castps256_ps128(hi), r3 = _mm256_extractf128_ps(hi, 1);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return (struct v16){ _mm256_set_m128(r1, r0), _mm256_set_m128(r3, r2) };
}
SIMD_INLINE void simd_transpose8(float *to, const __m256 r[8])
{
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(to + 16 * k, _mm256_permute2f128_ps(b[k], b[4 + k], 0x20));
        _mm256_storeu_ps(to + 16 * (4 + k), _mm256_permute2f128_ps(b[k], b[4 + k], 0x31));
    }
}
SIMD_INLINE void v16_store_transposed(float *to, const struct v16 rows[SIMD_LANES])
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m256 lo[8], hi[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            lo[i] = rows[8 * half + i].lo;
            hi[i] = rows[8 * half + i].hi;
        }
        simd_transpose8(to + 8 * half, lo);
        simd_transpose8(to + 8 * half + 16 * 8, hi);
    }
}
SIMD_INLINE __m256i simd_round_bits(__m256 a, int at)
{
    __m256i b = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, at), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32((1 << (at - 1)) - 1)), odd);
}
SIMD_INLINE struct v16 v16_round4(struct v16 a)
{
    const __m256i bits = _mm256_set1_epi32(-0x100000);
    return (struct v16){
        _mm256_castsi256_ps(_mm256_and_si256(simd_round_bits(a.lo, 20), bits)),
        _mm256_castsi256_ps(_mm256_and_si256(simd_round_bits(a.hi, 20), bits)),
    };
}
SIMD_INLINE void v16_store_bf16(uint16_t *p, struct v16 a)
{
    __m256i lo = _mm256_srli_epi32(simd_round_bits(a.lo, 16), 16);
    __m256i hi = _mm256_srli_epi32(simd_round_bits(a.hi, 16), 16);
    __m256i all = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
    _mm256_storeu_si256((void *)p, all);
}
SIMD_INLINE void v16_store_i8(int8_t *p, struct v16 a)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((void *)p, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                _mm256_extracti128_si256(words, 1)));
}
SIMD_INLINE float v16_greatest(struct v16 a)
{
    __m256 m = _mm256_max_ps(a.lo, a.hi);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

#else
struct v16 {
    float f[SIMD_LANES];
};
/* Calls, not inlined: unrolled sixteen-fold the kernels would take minutes to compile. */
#define SIMD_PLAIN   static __attribute__((noinline, unused))
#define SIMD_PLAIN_C 1
#define SIMD_EACH(i) for (int i = 0; i < SIMD_LANES; i++)

SIMD_PLAIN struct v16 v16_set1(float x)
{
    struct v16 r;
    SIMD_EACH(i)
    r.f[i] = x;
    return r;
}
SIMD_PLAIN struct v16 v16_load(const float *p)
{
    struct v16 r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
SIMD_PLAIN void v16_store(float *p, struct v16 a)
{
    memcpy(p, a.f, sizeof a.f);
}
SIMD_PLAIN struct v16 v16_load_f16(const uint16_t *p)
{
    struct v16 r;
    half_widen(r.f, p, DTYPE_F16, SIMD_LANES);
    return r;
}
SIMD_PLAIN struct v16 v16_load_bf16(const uint16_t *p)
{
    struct v16 r;
    SIMD_EACH(i)
    r.f[i] = half_bf16_to_f32(p[i]);
    return r;
}
SIMD_PLAIN struct v16 v16_load_i8(const int8_t *p)
{
    struct v16 r;
    SIMD_EACH(i)
    r.f[i] = (float)p[i];
    return r;
}
SIMD_PLAIN struct v16 v16_add(struct v16 a, struct v16 b)
{
    SIMD_EACH(i)
    a.f[i] += b.f[i];
    return a;
}
SIMD_PLAIN struct v16 v16_sub(struct v16 a, struct v16 b)
{
    SIMD_EACH(i)
    a.f[i] -= b.f[i];
    return a;
}
SIMD_PLAIN struct v16 v16_mul(struct v16 a, struct v16 b)
{
    SIMD_EACH(i)
    a.f[i] *= b.f[i];
    return a;
}
SIMD_PLAIN struct v16 v16_div(struct v16 a, struct v16 b)
{
    SIMD_EACH(i)
    a.f[i] /= b.f[i];
    return a;
}
SIMD_PLAIN struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c)
{
    SIMD_EACH(i)
    c.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return c;
}
SIMD_PLAIN struct v16 v16_max(struct v16 a, struct v16 b)
{
    SIMD_EACH(i)
    b.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i];
    return b;
}
SIMD_PLAIN struct v16 v16_abs(struct v16 a)
{
    SIMD_EACH(i)
    a.f[i] = fabsf(a.f[i]);
    return a;
}
SIMD_PLAIN struct v16 v16_if_less(struct v16 a, struct v16 limit, struct v16 then,
                                  struct v16 otherwise)
{
    SIMD_EACH(i)
    otherwise.f[i] = a.f[i] < limit.f[i] ? then.f[i] : otherwise.f[i];
    return otherwise;
}
SIMD_PLAIN struct v16 v16_keep(uint32_t bits, struct v16 a, struct v16 otherwise)
{
    SIMD_EACH(i)
    a.f[i] = bits >> i & 1 ? a.f[i] : otherwise.f[i];
    return a;
}
SIMD_PLAIN struct v16 v16_copysign(struct v16 magnitude, struct v16 sign)
{
    SIMD_EACH(i)
    magnitude.f[i] = copysignf(magnitude.f[i], sign.f[i]);
    return magnitude;
}
SIMD_PLAIN struct v16 v16_scale2(struct v16 a, struct v16 n)
{
    SIMD_EACH(i)
    {
        /* What cannot be converted (NaN, infinity) leaves a unchanged, as 2^31 << 23 does. */
        bool whole = n.f[i] >= -1024 && n.f[i] <= 1024;
        uint32_t bits, shift = whole ? (uint32_t)(int32_t)n.f[i] << 23 : 0;
        memcpy(&bits, &a.f[i], sizeof bits);
        bits += shift;
        memcpy(&a.f[i], &bits, sizeof bits);
    }
    return a;
}
SIMD_PLAIN struct v16 v16_round(struct v16 a)
{
    SIMD_EACH(i)
    a.f[i] = rintf(a.f[i]);
    return a;
}
SIMD_PLAIN struct v16 v16_fold4(struct v16 x0, struct v16 x1, struct v16 x2, struct v16 x3)
{
    const struct v16 *x[4] = { &x0, &x1, &x2, &x3 };
    struct v16 r;
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 4; i++)
            r.f[4 * t + i] = (x[t]->f[i] + x[t]->f[i + 8]) + (x[t]->f[i + 4] + x[t]->f[i + 12]);
    return r;
}
SIMD_PLAIN struct v16 v16_fold16(struct v16 f0, struct v16 f1, struct v16 f2, struct v16 f3)
{
    const struct v16 *f[4] = { &f0, &f1, &f2, &f3 };
    struct v16 r;
    SIMD_EACH(k)
    {
        const float *p = f[k / 4]->f + k % 4 * 4;
        r.f[k] = (p[0] + p[2]) + (p[1] + p[3]);
    }
    return r;
}
SIMD_PLAIN void v16_store_transposed(float *to, const struct v16 rows[SIMD_LANES])
{
    SIMD_EACH(i)
    SIMD_EACH(k)
    to[16 * k + i] = rows[i].f[k];
}
SIMD_PLAIN struct v16 v16_round4(struct v16 a)
{
    SIMD_EACH(i)
    {
        uint32_t bits;
        memcpy(&bits, &a.f[i], sizeof bits);
        bits = (bits + 0x7ffff + (bits >> 20 & 1)) & ~0xfffffu;
        memcpy(&a.f[i], &bits, sizeof bits);
    }
    return a;
}
SIMD_PLAIN void v16_store_bf16(uint16_t *p, struct v16 a)
{
    SIMD_EACH(i)
    p[i] = half_f32_to_bf16(a.f[i]);
}
SIMD_PLAIN void v16_store_i8(int8_t *p, struct v16 a)
{
    SIMD_EACH(i)
    p[i] = (int8_t)a.f[i];
}
SIMD_PLAIN float v16_greatest(struct v16 a)
{
    float m = a.f[0];
    SIMD_EACH(i)
    m = m > a.f[i] ? m : a.f[i];
    return m;
}
#endif

/* Sixteen elements of F32, F16 or BF16 at element `at` of `p`. */
SIMD_INLINE struct v16 v16_widen(const void *p, int64_t at, enum dtype dtype)
{
    if (dtype == DTYPE_BF16)
        return v16_load_bf16((const uint16_t *)p + at);
    if (dtype == DTYPE_F16)
        return v16_load_f16((const uint16_t *)p + at);
    return v16_load((const float *)p + at);
}
/* ((x0 + x8) + (x4 + x12)) + ((x2 + x10) + (x6 + x14)), plus the same of the odd lanes. */
SIMD_INLINE float v16_sum(struct v16 a)
{
    float x[SIMD_LANES], f[4];
    v16_store(x, a);
    for (int i = 0; i < 4; i++)
        f[i] = (x[i] + x[i + 8]) + (x[i + 4] + x[i + 12]);
    return (f[0] + f[2]) + (f[1] + f[3]);
}

/* e^x for x <= 0, within 1.5 ulp; 0 below -87 (where the result would leave the normal numbers),
 * exactly 1 at 0, NaN for NaN. x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q through
 * five Chebyshev nodes: 8e-9 relative. ln 2 is split so that n * hi is exact for |n| < 2^9
 * (Cody and Waite). */
SIMD_INLINE struct v16 v16_exp(struct v16 x)
{
    const struct v16 low = v16_set1(-87.0f);
    struct v16 y = v16_max(low, x);
    struct v16 n = v16_round(v16_mul(y, v16_set1(0x1.715476p+0f)));
    struct v16 r = v16_fma(n, v16_set1(-0x1.62e4p-1f), y);
    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);
    struct v16 p = v16_set1(0.0013926184037700295f);
    p = v16_fma(p, r, v16_set1(0.008363178931176662f));
    p = v16_fma(p, r, v16_set1(0.041666556149721146f));
    p = v16_fma(p, r, v16_set1(0.16666576266288757f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_if_less(x, low, v16_set1(0.0f), v16_scale2(p, n));
}
/* tanh within 2 ulp: below 0.625 x + x^3 p(x^2) (no cancellation), else (1 - e) / (1 + e) with
 * e = e^(-2 |x|). */
SIMD_INLINE struct v16 v16_tanh(struct v16 x)
{
    struct v16 a = v16_abs(x), z = v16_mul(x, x);
    struct v16 p = v16_set1(-0.006096714176237583f);
    p = v16_fma(p, z, v16_set1(0.020997179672122f));
    p = v16_fma(p, z, v16_set1(-0.05385090783238411f));
    p = v16_fma(p, z, v16_set1(0.1333276927471161f));
    p = v16_fma(p, z, v16_set1(-0.333333283662796f));
    struct v16 small = v16_fma(v16_mul(p, z), x, x);
    struct v16 e = v16_exp(v16_mul(a, v16_set1(-2.0f)));
    struct v16 one = v16_set1(1.0f);
    struct v16 large = v16_copysign(v16_div(v16_sub(one, e), v16_add(one, e)), x);
    return v16_if_less(a, v16_set1(0.625f), small, large);
}
