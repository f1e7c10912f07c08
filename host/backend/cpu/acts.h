/* acts.h - rows of activations as the kernels of CHUNKS_C16 take them: what act_quant.h's schemes
 * of floats make of them, as codes and scales, and bf16. One table per instruction set, the same
 * bits; acts_kernels.h is the one body. Called by linear.c and the test. Pure. */
#pragma once
#include <stdint.h>
#include "host/backend/backend.h"

struct acts {
    /* max|x| of n; NaN where one is. */
    float (*most)(const float *x, int32_t n);
    /* bf16[n] of x over *scale, the power of two at or below max|x| (0 below LINEAR_TINY; NaN, and
     * codes of 0, where one is not finite); to nearest even, and 0 below 2^-60. */
    void (*round)(const float *x, int32_t n, int8_t *bf16, float *scale);
    /* bf16[n], exact: e4m3(x / scale), saturating. scale > 0; no NaN in x */
    void (*e4m3)(const float *x, int32_t n, float scale, int8_t *bf16);
    /* NVFP4, n <= LAYOUT_CHUNK: q[n] is twice e2m1(x / s) of groups of ACT_NVFP4_GROUP,
     * scales[group] is s / 2. */
    void (*nvfp4)(const float *x, int32_t n, float global, int8_t *q, float *scales);
};
extern const struct acts acts_portable, acts_avx2, acts_avx512;
const struct acts *acts_of(enum cpu_isa isa); /* not AUTO */
