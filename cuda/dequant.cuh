/* dequant.cuh - from the codes of layout F64 (host/backend/layout_f64.h) to MMA fragments.
 *
 * fp16 path: a nibble or byte under the mantissa of 1024 (0x6400) is the number 1024 + code, exact;
 * one subtraction (or one FMA for nibbles that sit four bits higher, 1024 + 16 code) leaves
 * code - zero, exact for whole zeros. Eight int4 weights cost 4 LOP3 + 1 shift + 4 HSUB2/HFMA2,
 * four int8 weights 2 PRMT + 2 HSUB2 (kernels.md, budgets: 5 + 4 and 4 + 4).
 *
 * Integer path: codes stay unsigned bytes; the zero point comes off through the sum of x. */
#pragma once
#include "cuda/device.cuh"
#include "host/backend/layout_f64.h"

/* Nibble order in a word of int4: n0, n4 = row g, k = 2q, 2q+1; n1, n5 = row g+8, the same k;
 * n2, n6 = row g, k = 2q+8, 2q+9; n3, n7 = row g+8. Word t of a lane's 16 bytes in an atom is k16
 * tile t. */

/* What turns magic numbers into code - zero: the same half twice. Row g: subtract `low`. Row g+8:
 * times 1/16, plus `high`. */
struct zeros4 {
    uint32_t low, high; /* 1024 + zero;  -(64 + zero) */
};
DEVICE uint32_t twice(uint16_t h)
{
    return (uint32_t)h * 0x10001u;
}
/* Symmetric: zero 8. */
DEVICE struct zeros4 zeros4_symmetric()
{
    struct zeros4 z;
    z.low = 0x64086408u;  /* 1032 */
    z.high = 0xd480d480u; /* -72 */
    return z;
}
/* Zero 0: for subtract_zeros. */
DEVICE struct zeros4 zeros4_none()
{
    struct zeros4 z;
    z.low = 0x64006400u;  /* 1024 */
    z.high = 0xd400d400u; /* -64 */
    return z;
}
/* From the unit's zeros: `pair` holds row g's in its low half, row g+8's in its high half. */
DEVICE struct zeros4 zeros4_of(uint32_t pair)
{
    const uint32_t both = h2_fma(pair, 0xbc003c00u /* 1, -1 */, 0xd4006400u /* 1024, -64 */);
    struct zeros4 z;
    z.low = byte_permute(both, 0, 0x1010u);
    z.high = byte_permute(both, 0, 0x3232u);
    return z;
}
/* A fragment of m16n8k16 (a0 row g k 2q.., a1 row g+8, a2 row g k 2q+8.., a3 row g+8) from one
 * word. */
DEVICE void dequant4(uint32_t (&a)[4], uint32_t w, struct zeros4 z)
{
    const uint32_t w8 = w >> 8;
    a[0] = h2_sub(and_or(w, 0x000f000fu, 0x64006400u), z.low);
    a[1] = h2_fma(and_or(w, 0x00f000f0u, 0x64006400u), 0x2c002c00u /* 1/16 */, z.high);
    a[2] = h2_sub(and_or(w8, 0x000f000fu, 0x64006400u), z.low);
    a[3] = h2_fma(and_or(w8, 0x00f000f0u, 0x64006400u), 0x2c002c00u, z.high);
}

/* Bytes of int8, one word a row and k16 tile: k = 2q, 2q+8, 2q+1, 2q+9. Words of a lane's 16 bytes
 * in an atom: tile 0 row g, tile 0 row g+8, tile 1 row g, tile 1 row g+8. */
struct zeros8 {
    uint32_t low, high; /* 1024 + zero of row g; of row g+8 */
};
DEVICE struct zeros8 zeros8_symmetric()
{
    struct zeros8 z;
    z.low = z.high = 0x64806480u; /* 1152 */
    return z;
}
DEVICE struct zeros8 zeros8_none()
{
    struct zeros8 z;
    z.low = z.high = 0x64006400u; /* 1024 */
    return z;
}
DEVICE struct zeros8 zeros8_of(uint32_t pair)
{
    const uint32_t both = h2_fma(pair, 0x3c003c00u /* 1 */, 0x64006400u);
    struct zeros8 z;
    z.low = byte_permute(both, 0, 0x1010u);
    z.high = byte_permute(both, 0, 0x3232u);
    return z;
}
DEVICE void dequant8(uint32_t (&a)[4], uint32_t w_low, uint32_t w_high, struct zeros8 z)
{
    a[0] = h2_sub(byte_permute(w_low, 0x64646464u, 0x4240u), z.low);
    a[1] = h2_sub(byte_permute(w_high, 0x64646464u, 0x4240u), z.high);
    a[2] = h2_sub(byte_permute(w_low, 0x64646464u, 0x4341u), z.low);
    a[3] = h2_sub(byte_permute(w_high, 0x64646464u, 0x4341u), z.high);
}

/* Fractional zeros (HQQ): after dequant with zero 0 (`zeros4_none()`, `zeros8_none()`), one more
 * subtraction, rounded to fp16. `pair` as above. */
DEVICE void subtract_zeros(uint32_t (&a)[4], uint32_t pair)
{
    const uint32_t low = byte_permute(pair, 0, 0x1010u), high = byte_permute(pair, 0, 0x3232u);
    a[0] = h2_sub(a[0], low);
    a[1] = h2_sub(a[1], high);
    a[2] = h2_sub(a[2], low);
    a[3] = h2_sub(a[3], high);
}

/* Table of 16 (nf4, fp4, iq4): `pairs[256]` in shared memory, entry lo | hi << 4 = the two halves.
 */
DEVICE void table_pairs(uint32_t *pairs, const uint16_t *table, int thread, int n_threads)
{
    for (int i = thread; i < 256; i += n_threads)
        pairs[i] = (uint32_t)table[i & 15] | (uint32_t)table[i >> 4] << 16;
}
DEVICE uint32_t table_pair(const uint32_t *pairs, uint32_t w) /* nibbles 0 and 4 of w */
{
    return pairs[(w & 15u) | (w >> 12 & 0xf0u)];
}
DEVICE void dequant_table(uint32_t (&a)[4], uint32_t w, const uint32_t *pairs)
{
    a[0] = table_pair(pairs, w);
    a[1] = table_pair(pairs, w >> 4);
    a[2] = table_pair(pairs, w >> 8);
    a[3] = table_pair(pairs, w >> 12);
}

/* s8 MMA: the unsigned A registers of row g and of row g+8 of one k16 tile; x is in the same
 * permuted order (prepare_s8). Two k16 tiles make one m16n8k32: a0, a1 of the first, a2, a3 of the
 * second. int8: the words themselves. */
DEVICE uint32_t codes_low(uint32_t w)
{
    return w & 0x0f0f0f0fu;
}
DEVICE uint32_t codes_high(uint32_t w)
{
    return w >> 4 & 0x0f0f0f0fu;
}
