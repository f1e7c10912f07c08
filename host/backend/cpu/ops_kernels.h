/* ops_kernels.h - the body of ops_<isa>: included once by each kernel file, whose flags choose the
 * form of simd.h. */
#pragma once
#include <math.h>
#include "host/backend/cpu/ops.h"
#include "host/backend/cpu/simd.h"

/* x / (1 + e^-x), by e^-|x| so that nothing overflows */
SIMD_INLINE struct v16 silu16(struct v16 x)
{
    const struct v16 zero = v16_set1(0.0f), one = v16_set1(1.0f);
    struct v16 e = v16_exp(v16_sub(zero, v16_abs(x)));
    struct v16 top = v16_if_less(x, zero, e, one);
    return v16_mul(x, v16_div(top, v16_add(one, e)));
}
/* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
SIMD_INLINE struct v16 gelu_tanh16(struct v16 x)
{
    struct v16 cube = v16_mul(v16_mul(x, x), x);
    struct v16 inner =
        v16_mul(v16_set1(0.79788456080286536f), v16_fma(v16_set1(0.044715f), cube, x));
    return v16_mul(v16_mul(v16_set1(0.5f), x), v16_add(v16_set1(1.0f), v16_tanh(inner)));
}
SIMD_INLINE struct v16 relu2_16(struct v16 x)
{
    struct v16 r = v16_max(v16_set1(0.0f), x);
    return v16_mul(r, r);
}
/* 0.5 x (1 + erf(x / sqrt 2)): the C library's erff, lane by lane; few models use it */
SIMD_INLINE struct v16 gelu16(struct v16 x)
{
    float lanes[SIMD_LANES];
    v16_store(lanes, x);
    for (int i = 0; i < SIMD_LANES; i++)
        lanes[i] = 0.5f * lanes[i] * (1.0f + erff(lanes[i] * 0.70710678118654752f));
    return v16_load(lanes);
}
SIMD_INLINE struct v16 act16(enum gate kind, struct v16 x)
{
    switch (kind) {
    case GATE_SILU:
        return silu16(x);
    case GATE_GELU:
        return gelu16(x);
    case GATE_GELU_TANH:
        return gelu_tanh16(x);
    case GATE_RELU2:
        return relu2_16(x);
    case GATE_SWIGLU_CLAMPED:
        break;
    }
    CHECK(!"a known gate");
    return x;
}

/* The last lanes of a row go through a padded copy: the same arithmetic. */
SIMD_INLINE void gate_row(enum gate kind, const float *gate, const float *up, float *y, int32_t n,
                          float scale)
{
    const struct v16 by = v16_set1(scale);
    int32_t i = 0;
    for (; i + SIMD_LANES <= n; i += SIMD_LANES)
        v16_store(y + i, v16_mul(act16(kind, v16_mul(v16_load(gate + i), by)),
                                 v16_mul(v16_load(up + i), by)));
    if (i < n) {
        const size_t bytes = (size_t)(n - i) * sizeof *y;
        float g[SIMD_LANES] = { 0 }, u[SIMD_LANES] = { 0 };
        memcpy(g, gate + i, bytes);
        memcpy(u, up + i, bytes);
        v16_store(g, v16_mul(act16(kind, v16_mul(v16_load(g), by)), v16_mul(v16_load(u), by)));
        memcpy(y + i, g, bytes);
    }
}
static void act_any(enum gate kind, const float *x, float *y, int32_t n, float scale)
{
    const struct v16 by = v16_set1(scale);
    int32_t i = 0;
    for (; i + SIMD_LANES <= n; i += SIMD_LANES)
        v16_store(y + i, act16(kind, v16_mul(v16_load(x + i), by)));
    if (i < n) {
        float lanes[SIMD_LANES] = { 0 };
        memcpy(lanes, x + i, (size_t)(n - i) * sizeof *x);
        v16_store(lanes, act16(kind, v16_mul(v16_load(lanes), by)));
        memcpy(y + i, lanes, (size_t)(n - i) * sizeof *y);
    }
}
static void gate_any(enum gate kind, const float *gate, const float *up, float *y, int32_t n,
                     float scale)
{
    if (kind == GATE_SILU)
        gate_row(GATE_SILU, gate, up, y, n, scale);
    else
        gate_row(kind, gate, up, y, n, scale);
}

/* g / (1 + e^(-1.702 g)) * (u + 1) of the clamped gate and up; NaN stays NaN: limits come first. */
SIMD_INLINE struct v16 clamped16(struct v16 gate, struct v16 up, struct v16 limit)
{
    const struct v16 alpha = v16_set1(1.702f), one = v16_set1(1.0f), zero = v16_set1(0.0f);
    const struct v16 low = v16_sub(zero, limit);
    struct v16 g = v16_if_less(limit, gate, limit, gate);
    struct v16 u = v16_if_less(limit, up, limit, v16_max(low, up));
    struct v16 e = v16_exp(v16_mul(v16_abs(g), v16_sub(zero, alpha)));
    struct v16 sigmoid = v16_div(v16_if_less(g, zero, e, one), v16_add(one, e));
    return v16_mul(v16_mul(g, sigmoid), v16_add(u, one));
}
static void gate_clamped_any(const float *gate, const float *up, float *y, int32_t n, float limit)
{
    const struct v16 most = v16_set1(limit);
    int32_t i = 0;
    for (; i + SIMD_LANES <= n; i += SIMD_LANES)
        v16_store(y + i, clamped16(v16_load(gate + i), v16_load(up + i), most));
    if (i < n) {
        const size_t bytes = (size_t)(n - i) * sizeof *y;
        float g[SIMD_LANES] = { 0 }, u[SIMD_LANES] = { 0 };
        memcpy(g, gate + i, bytes);
        memcpy(u, up + i, bytes);
        v16_store(g, clamped16(v16_load(g), v16_load(u), most));
        memcpy(y + i, g, bytes);
    }
}

SIMD_INLINE struct v16 cap16(struct v16 x, struct v16 scale, struct v16 cap)
{
    return v16_mul(v16_tanh(v16_div(v16_mul(x, scale), cap)), cap);
}
static void soft_cap_any(float *x, int32_t n, float scale, float cap)
{
    const struct v16 by = v16_set1(scale), top = v16_set1(cap);
    int32_t i = 0;
    for (; i + SIMD_LANES <= n; i += SIMD_LANES)
        v16_store(x + i, cap16(v16_load(x + i), by, top));
    if (i < n) {
        float lanes[SIMD_LANES] = { 0 };
        memcpy(lanes, x + i, (size_t)(n - i) * sizeof *x);
        v16_store(lanes, cap16(v16_load(lanes), by, top));
        memcpy(x + i, lanes, (size_t)(n - i) * sizeof *x);
    }
}
