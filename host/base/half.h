/* half.h - the small floating formats, bit-exact: the scalar truth for every vector kernel.
 * Round to nearest, ties to even; NaN stays NaN; subnormals are kept.
 * Sources: IEEE 754-2019 binary16; bfloat16 = upper half of binary32; OCP 8-bit FP (E4M3 has no
 * infinity, 0x7f is NaN), OCP MX v1.0 (E8M0, E2M1). */
#pragma once
#include <stdint.h>
#include <stddef.h>
#include "host/base/dtype.h"
#ifdef __cplusplus
extern "C" {
#endif

float half_f16_to_f32(uint16_t bits);
uint16_t half_f32_to_f16(float value);
static inline float half_bf16_to_f32(uint16_t bits)
{
    union {
        uint32_t u;
        float f;
    } v = { (uint32_t)bits << 16 };
    return v.f;
}
uint16_t half_f32_to_bf16(float value);
float half_e4m3_to_f32(uint8_t bits);
float half_e5m2_to_f32(uint8_t bits);
float half_e8m0_to_f32(uint8_t bits);  /* 2^(bits-127); 255 is NaN */
float half_e2m1_to_f32(uint8_t code);  /* low four bits */
uint8_t half_f32_to_e4m3(float value); /* saturates to +-448 */

/* n elements of `dtype` (F32 F16 BF16 F64 F8_* or an integer type) to float. */
void half_widen(float *out, const void *in, enum dtype dtype, size_t n);
/* n floats to F32, F16 or BF16. */
void half_narrow(void *out, const float *in, enum dtype dtype, size_t n);
#ifdef __cplusplus
}
#endif
