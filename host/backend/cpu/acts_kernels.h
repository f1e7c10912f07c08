/* acts_kernels.h - the body of acts_<isa>.c: included once by each, whose flags choose the form of
 * simd.h. Rounding as in act_quant.c, which the test compares with bit by bit. */
#pragma once
#include <math.h>
#include <string.h>
#include "host/backend/act_quant.h"
#include "host/backend/cpu/acts.h"
#include "host/backend/cpu/linear_kernels.h"
#include "host/backend/cpu/simd.h"

static_assert((int)SIMD_LANES == (int)ACT_NVFP4_GROUP, "a group");

/* Sixteen from x, of which n are there. */
SIMD_INLINE struct v16 acts_load(const float *x, int32_t n)
{
    if (n >= SIMD_LANES)
        return v16_load(x);
    float last[SIMD_LANES] = { 0 };
    memcpy(last, x, (size_t)n * sizeof *x);
    return v16_load(last);
}
SIMD_INLINE void acts_store(int8_t *bf16, struct v16 a, int32_t n)
{
    uint16_t out[SIMD_LANES];
    if (n >= SIMD_LANES) {
        v16_store_bf16((uint16_t *)(void *)bf16, a);
        return;
    }
    v16_store_bf16(out, a);
    memcpy(bf16, out, sizeof *out * (size_t)n);
}

static float acts_most(const float *x, int32_t n)
{
    const struct v16 infinite = v16_set1(INFINITY), zero = v16_set1(0), one = v16_set1(1);
    struct v16 most = zero, odd = zero;
    for (int32_t i = 0; i < n; i += SIMD_LANES) {
        const struct v16 a = v16_abs(acts_load(x + i, n - i));
        most = v16_max(a, most); /* a NaN in a is left out */
        odd = v16_max(v16_if_less(a, infinite, zero, one), odd);
    }
    if (v16_greatest(odd) == 0)
        return v16_greatest(most);
    for (int32_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return x[i];
    return INFINITY;
}

static void acts_round(const float *x, int32_t n, int8_t *bf16, float *scale)
{
    const float most = acts_most(x, n);
    if (!(most <= 0x1.fffffep127f) || most < LINEAR_TINY) {
        *scale = most < LINEAR_TINY ? 0 : NAN;
        memset(bf16, 0, 2 * (size_t)n);
        return;
    }
    uint32_t bits;
    memcpy(&bits, &most, sizeof bits);
    bits &= 0x7f800000;
    memcpy(scale, &bits, sizeof bits);
    const struct v16 by = v16_set1(1 / *scale), least = v16_set1(0x1p-60f), zero = v16_set1(0);
    for (int32_t i = 0; i < n; i += SIMD_LANES) {
        const struct v16 v = v16_mul(acts_load(x + i, n - i), by);
        acts_store(bf16 + 2 * i, v16_if_less(v16_abs(v), least, zero, v), n - i);
    }
}

/* a >= 0, no NaN, to the nearest of E4M3. */
SIMD_INLINE struct v16 e4m3_16(struct v16 a)
{
    const struct v16 magic = v16_set1(0x1.8p14f), most = v16_set1(ACT_FP8_MOST);
    const struct v16 small = v16_sub(v16_add(a, magic), magic); /* multiples of 2^-9 */
    return v16_if_less(a, most, v16_if_less(a, v16_set1(0x1p-6f), small, v16_round4(a)), most);
}
static void acts_e4m3(const float *x, int32_t n, float scale, int8_t *bf16)
{
    const struct v16 by = v16_set1(scale);
    for (int32_t i = 0; i < n; i += SIMD_LANES) {
        const struct v16 v = v16_div(acts_load(x + i, n - i), by);
        acts_store(bf16 + 2 * i, v16_copysign(e4m3_16(v16_abs(v)), v), n - i);
    }
}

/* 0, 0.5, 1, 1.5, 2, 3, 4, 6: steps of 0.5 below 2, of 1 below 4, of 2 from there. a >= 0 */
SIMD_INLINE struct v16 e2m1_16(struct v16 a)
{
    const struct v16 c = v16_set1(0x1.8p22f), d = v16_set1(0x1.8p23f), e = v16_set1(0x1.8p24f);
    const struct v16 low = v16_sub(v16_add(a, c), c), middle = v16_sub(v16_add(a, d), d);
    const struct v16 high = v16_sub(v16_add(a, e), e), six = v16_set1(6);
    const struct v16 more = v16_if_less(a, v16_set1(4), middle, high);
    return v16_if_less(a, six, v16_if_less(a, v16_set1(2), low, more), six);
}
/* Codes of one group of up to 16; its scale is above 0. */
SIMD_INLINE void nvfp4_codes(const float *x, int32_t n, float scale, int8_t *q)
{
    const struct v16 v = v16_div(acts_load(x, n), v16_set1(scale));
    const struct v16 r = e2m1_16(v16_abs(v)), twice = v16_copysign(v16_add(r, r), v);
    int8_t out[SIMD_LANES];
    if (n >= SIMD_LANES) {
        v16_store_i8(q, twice);
        return;
    }
    v16_store_i8(out, twice);
    memcpy(q, out, (size_t)n);
}
static void acts_nvfp4(const float *x, int32_t n, float global, int8_t *q, float *scales)
{
    const struct v16 infinite = v16_set1(INFINITY), zero = v16_set1(0), one = v16_set1(1);
    float most[SIMD_LANES] = { 0 }, scale[SIMD_LANES];
    const int32_t groups = (n + SIMD_LANES - 1) / SIMD_LANES;
    struct v16 odd = zero;
    for (int32_t g = 0; g < groups; g++) {
        const struct v16 a = v16_abs(acts_load(x + g * SIMD_LANES, n - g * SIMD_LANES));
        odd = v16_max(v16_if_less(a, infinite, zero, one), odd);
        most[g] = v16_greatest(a);
    }
    const bool finite = v16_greatest(odd) == 0;
    for (int32_t g = 0; g < groups && !finite; g++) {
        const int32_t left = n - g * SIMD_LANES;
        most[g] = acts_most(x + g * SIMD_LANES, left < SIMD_LANES ? left : SIMD_LANES);
        most[g] = isnan(most[g]) ? 0 : most[g];
    }
    const struct v16 wide = v16_mul(v16_set1(global), v16_div(v16_load(most), v16_set1(6)));
    v16_store(scale, v16_div(e4m3_16(wide), v16_set1(global)));
    for (int32_t g = 0; g < groups; g++) {
        const int32_t at = g * SIMD_LANES, left = n - at;
        scales[g] = scale[g] * 0.5f;
        if (scale[g] > 0) {
            nvfp4_codes(x + at, left, scale[g], q + at);
            continue;
        }
        memset(q + at, 0, (size_t)(left < SIMD_LANES ? left : SIMD_LANES));
        scales[g] = finite ? 0 : acts_most(x + at, left < SIMD_LANES ? left : SIMD_LANES) * 0;
    }
}
