/* rope.cuh - the rotation of one pair of features, for epilogues that write q and k.
 *
 *   angle = position * inv_freq (fp32, as every peer rounds it), cos and sin times the rope's scale
 *
 * sincosf keeps an array in local memory for large angles, and fast approximations lose the angle:
 * here pi/2 comes off in three fp32 pieces. The first difference is exact for |angle| < 2^22 (the
 * product's lowest bit is 2^-23, what is left is below 1), so positions of millions are as good as
 * small ones: error below 2e-7. */
#pragma once
#include "cuda/device.cuh"

struct rotation {
    float cos, sin;
};
DEVICE struct rotation rotation_of(int position, float inv_freq, float scale)
{
    const float angle = (float)position * inv_freq;
    const float shifted = fma_f32(angle, 0.63661977236758134f, 12582912.0f); /* 1.5 * 2^23 */
    const float n = shifted - 12582912.0f; /* the nearest multiple of pi/2 */
    float r = fma_f32(n, -1.57079637050628662f, angle);
    r = fma_f32(n, 4.37113900018624283e-8f, r);
    r = fma_f32(n, 1.71512451e-15f, r);
    const float r2 = r * r;
    float s = fma_f32(r2, -1.9515295891e-4f, 8.3321608736e-3f);
    s = fma_f32(s, r2, -1.6666654611e-1f);
    s = fma_f32(s * r2, r, r);
    float c = fma_f32(r2, 2.443315711809948e-5f, -1.388731625493765e-3f);
    c = fma_f32(c, r2, 4.166664568298827e-2f);
    c = fma_f32(c * r2, r2, fma_f32(r2, -0.5f, 1.0f));
    const uint32_t quarter = f32_bits(shifted); /* n in its low bits */
    const float sine = (quarter & 1u) != 0 ? c : s, cosine = (quarter & 1u) != 0 ? s : c;
    struct rotation rotation;
    rotation.sin = ((quarter & 2u) != 0 ? -sine : sine) * scale;
    rotation.cos = (((quarter + 1u) & 2u) != 0 ? -cosine : cosine) * scale;
    return rotation;
}
/* The first of a pair; the second is b * cos + a * sin. */
DEVICE float rotated_low(float a, float b, struct rotation r)
{
    return a * r.cos - b * r.sin;
}
DEVICE float rotated_high(float a, float b, struct rotation r)
{
    return b * r.cos + a * r.sin;
}
