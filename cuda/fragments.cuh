/* fragments.cuh - half a unit of layout F64 (16 outputs x 64 k) in shared memory to the four A
 * fragments of wgmma or mma.sync that a warp multiplies by a panel of 64 k.
 *
 * A lane reads 16 bytes (int4) or 32 (int8), without bank conflicts. Per 8 int4 weights: 4 LOP3, a
 * shift, 4 HSUB2 / HFMA2; the scale 4 HMUL2, zeros 4 HSUB2. */
#pragma once
#include "cuda/dequant.cuh"

enum {
    PANEL_COLS = 64,                     /* 128 bytes of fp16: the widest swizzle */
    PANELS = F64_UNIT_COLS / PANEL_COLS, /* of a block of 128 k */
    STEPS = PANEL_COLS / 16,             /* wgmma of a panel */
};
enum codes { SYMMETRIC, ZEROS, TABLE };

/* fp16 pairs of this lane: row g in the low half, row g + 8 in the high half. */
struct group {
    uint32_t scales, zeros;
};
template <enum codes CODES>
DEVICE struct group group_load(const unsigned char *scales, int group_shift, int i)
{
    const unsigned char *at = scales + i * 32 + (lane_id() >> 2) * 4;
    struct group g;
    g.scales = *(const uint32_t *)at;
    g.zeros = CODES == ZEROS ? *(const uint32_t *)(at + (32 * 4 >> group_shift)) : 0;
    return g;
}
/* The four fragments of 64 k before zeros and scale; int8: rows of 1024 bytes. */
template <int BITS, enum codes CODES>
DEVICE void fragments(uint32_t (&f)[STEPS][4], const unsigned char *unit, int half,
                      const uint32_t *pairs)
{
    const unsigned char *at = unit + half * (BITS / 4 * F64_ATOM_BYTES) + lane_id() * 16;
    uint32_t w[2 * STEPS];
#pragma unroll
    for (int i = 0; i < BITS / 4; i++) {
        const uint4 v = ld128(at + i * F64_ATOM_BYTES);
        w[4 * i] = v.x;
        w[4 * i + 1] = v.y;
        w[4 * i + 2] = v.z;
        w[4 * i + 3] = v.w;
    }
    struct zeros4 z4 = zeros4_symmetric();
    struct zeros8 z8 = zeros8_symmetric();
    if (CODES == ZEROS) { /* none yet: subtract_zeros takes whole ones and fractions */
        z4.low = z8.low = z8.high = 0x64006400u; /* 1024 */
        z4.high = 0xd400d400u;                   /* -64 */
    }
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
        if constexpr (CODES == TABLE)
            dequant_table(f[t], w[t], pairs);
        else if constexpr (BITS == 4)
            dequant4(f[t], w[t], z4);
        else
            dequant8(f[t], w[2 * t], w[2 * t + 1], z8);
    }
}
template <enum codes CODES, bool SCALED> DEVICE void group_apply(uint32_t (&f)[4], struct group g)
{
    if (CODES == ZEROS)
        subtract_zeros(f, g.zeros);
    if (SCALED) {
        const uint32_t low = byte_permute(g.scales, 0, 0x1010u),
                       high = byte_permute(g.scales, 0, 0x3232u);
        f[0] = h2_mul(f[0], low);
        f[1] = h2_mul(f[1], high);
        f[2] = h2_mul(f[2], low);
        f[3] = h2_mul(f[3], high);
    }
}
/* FINE: a group is smaller than the half; else g is its only one. */
template <int BITS, enum codes CODES, bool FINE, bool SCALED>
DEVICE void dequant_half(uint32_t (&f)[STEPS][4], const unsigned char *unit, int half,
                         struct group g, int group_shift, const uint32_t *pairs)
{
    fragments<BITS, CODES>(f, unit, half, pairs);
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
        if (FINE && t % 2 == 0)
            g = group_load<CODES>(unit + BITS * 256, group_shift,
                                  (2 * half + t / 2) >> group_shift);
        group_apply<CODES, SCALED>(f[t], g);
    }
}
/* acc += sums of one group times its scales: fragments of D, rows g and g + 8 by turns of two. */
template <int N> DEVICE void fold(float (&acc)[N], const float (&sums)[N], uint32_t scales)
{
    const float low = f16_low(scales), high = f16_high(scales);
#pragma unroll
    for (int i = 0; i < N; i++)
        acc[i] = fma_f32(sums[i], (i & 2) != 0 ? high : low, acc[i]);
}
