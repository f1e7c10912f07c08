/* ops.h - the plain functions the CPU backend composes its ops from: one row, or part of one.
 *
 * Pure: floats in, floats out, no threads, no memory. A row's result depends on that row alone. */
#pragma once
#include <stdint.h>
#include "host/backend/backend.h"

/* y = norm(x); y may be x. RMS: x / sqrt(mean x^2 + epsilon) * gain; layer: (x - mean) /
 * sqrt(variance + epsilon) * gain + bias. RMS adds a bias too where there is one. */
void ops_norm(const struct norm *norm, const float *x, float *y);

/* cos and sin, both [rotary_dim / 2], of one position in one variant: the angle is rounded to
 * float, as transformers do it. */
void ops_rope_angles(const struct rope *rope, int32_t variant, int32_t position, float *cosines,
                     float *sines);
/* Rotate the first rotary_dim features of one head in place. */
void ops_rope(const struct rope *rope, const float *cosines, const float *sines, float *head);

/* y = x * scale, or y += x * scale */
void ops_scale(const float *x, float *y, int32_t n, float scale);
void ops_add(const float *x, float *y, int32_t n, float scale);

/* One head's features to token `token` of a block of pages (kv_layout.h) of this type. int8: a head
 * with a number that is not finite gets the scale NaN, so that it shows. */
void ops_kv_put(void *block, int32_t token, const float *head, int32_t head_dim, enum dtype dtype);

/* What needs e^x, once per instruction set with equal bits (simd.h). */
struct ops_kernels {
    /* y[i] = act(gate[i] * scale) * (up[i] * scale) */
    void (*gate)(enum gate kind, const float *gate, const float *up, float *y, int32_t n,
                 float scale);
    /* GATE_SWIGLU_CLAMPED */
    void (*gate_clamped)(const float *gate, const float *up, float *y, int32_t n, float limit);
    /* y[i] = act(x[i] * scale) */
    void (*act)(enum gate kind, const float *x, float *y, int32_t n, float scale);
    /* x = cap * tanh(x * scale / cap) */
    void (*soft_cap)(float *x, int32_t n, float scale, float cap);
};
extern const struct ops_kernels ops_portable, ops_avx2, ops_avx512;
const struct ops_kernels *ops_kernels_of(enum cpu_isa isa);
