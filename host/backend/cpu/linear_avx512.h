/* linear_avx512.h - what the AVX-512 and AMX kernels of tiles share: one oct unpacked, and the
 * float side of one chunk. Included by linear_avx512.c and linear_amx.c only. */
#pragma once
#include <immintrin.h>
#include <assert.h>
#include <stdbool.h>
#include "host/backend/cpu/linear_kernels.h"

static_assert((int)LINEAR_TILE_ROWS == 16 && (int)LAYOUT_ALIGN == 64, "a lane a row, a line a zmm");
static_assert((int)LAYOUT_OCT == 8, "two operands of 4 inputs");

#define INLINE static inline __attribute__((always_inline))
/* For loops over arrays of registers: gcc must unroll them before it decides what stays in memory,
 * which it does for asked-for unrolling only. */
#define UNROLL _Pragma("GCC unroll 16")

enum {
    QUADS_MAX = LINEAR_CHUNK / 4,
    LINE = LAYOUT_ALIGN,
    UNPACKED_BYTES = QUADS_MAX * LINE, /* a chunk of a tile, as bytes */
    /* Fetched ahead of the sweep: DRAM takes 0.1 us and more under load, a thread reads 16 bytes a
     * ns. 2 KB and 8 KB measured slower (bench_linear, Granite Rapids). */
    AHEAD_BYTES = 4096,
};

/* First n of 16 lanes. */
INLINE __mmask16 lanes(int32_t n)
{
    if (n >= 16)
        return 0xffff;
    return (__mmask16)((1u << n) - 1);
}

/* Scales and zeros of one group of a tile. */
struct group_params {
    __m512 scale, minus_zero;
};
INLINE struct group_params load_group(const struct linear_tiles *job, const uint8_t *tile,
                                      int32_t group, bool zeros)
{
    const size_t at = (size_t)group * LINEAR_TILE_ROWS * sizeof(uint16_t);
    struct group_params p;
    p.scale = _mm512_cvtph_ps(
        _mm256_load_si256((const __m256i *)(const void *)(tile + job->at.scales_at + at)));
    p.minus_zero = _mm512_setzero_ps();
    if (zeros) {
        const __m512 zero = _mm512_cvtph_ps(
            _mm256_load_si256((const __m256i *)(const void *)(tile + job->at.zeros_at + at)));
        p.minus_zero = _mm512_xor_ps(zero, _mm512_set1_ps(-0.0f));
    }
    return p;
}
/* What the integer sum starts with: -zero * sum(q) when all zeros are the same whole number. */
INLINE __m512i start_sum(const struct linear_tiles *job, int32_t sum, bool zeros)
{
    return zeros ? _mm512_setzero_si512() : _mm512_set1_epi32(-job->zero * sum);
}
INLINE __m512 finish_chunk(__m512 acc, __m512i dot, struct group_params p, float scale, int32_t sum,
                           bool zeros)
{
    __m512 t = _mm512_cvtepi32_ps(dot);
    if (zeros)
        t = _mm512_fmadd_ps(p.minus_zero, _mm512_cvtepi32_ps(_mm512_set1_epi32(sum)), t);
    return _mm512_fmadd_ps(t, _mm512_mul_ps(_mm512_set1_ps(scale), p.scale), acc);
}
INLINE void store_tile_row(const struct linear_tiles *job, const uint8_t *tile, int32_t t,
                           int32_t r, __m512 acc)
{
    const int32_t first = t * LINEAR_TILE_ROWS;
    const int32_t left = job->n_out - first;
    const __mmask16 mask = lanes(left);
    __m512 y = _mm512_mul_ps(acc, _mm512_load_ps((const void *)(tile + job->at.factors_at)));
    if (job->bias)
        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job->bias + first));
    _mm512_mask_storeu_ps(job->y + r * job->y_stride + first, mask, y);
}

/* How far ahead to fetch from here in one of n tiles that are swept side by side: what follows the
 * end of a tile is its neighbour, which is in use already; the sweep goes on n tiles further. */
INLINE ptrdiff_t fetch_ahead(const uint8_t *codes, const uint8_t *tile, size_t tile_bytes,
                             int32_t n)
{
    const bool inside = codes + AHEAD_BYTES < tile + tile_bytes;
    return AHEAD_BYTES + (inside ? 0 : (ptrdiff_t)tile_bytes * (n - 1));
}

/* The octs of a 4-bit chunk as bytes: for each oct a line of inputs 0-3, then a line of 4-7. */
INLINE void unpack_w4(const uint8_t *codes, ptrdiff_t ahead, int32_t octs, uint8_t *out)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (int32_t o = 0; o < octs; o++) {
        const __m512i line = _mm512_load_si512(codes + o * LINE);
        _mm_prefetch((const char *)(codes + o * LINE + ahead), _MM_HINT_T0);
        _mm512_store_si512(out + 2 * o * LINE, _mm512_and_si512(line, low));
        _mm512_store_si512(out + 2 * o * LINE + LINE,
                           _mm512_and_si512(_mm512_srli_epi16(line, 4), low));
    }
}

/* The bytes of one chunk of n tiles side by side: bytes[i] for tile i, unpacked into scratch at 4
 * bits, in place at 8. codes: of the first tile. */
INLINE void chunk_bytes(const struct linear_tiles *job, const uint8_t *tile, const uint8_t *codes,
                        int32_t octs, int32_t n, const uint8_t *bytes[LINEAR_BLOCK_TILES])
{
    const size_t stride = job->at.tile_bytes;
    const ptrdiff_t ahead = fetch_ahead(codes, tile, stride, n);
    uint8_t *unpacked = job->scratch;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *from = codes + (size_t)i * stride;
        bytes[i] = from;
        if (job->bits == 4) {
            unpack_w4(from, ahead, octs, unpacked + i * UNPACKED_BYTES);
            bytes[i] = unpacked + i * UNPACKED_BYTES;
        } else {
            for (int32_t o = 0; o < 2 * octs; o++) /* into L2: L1 has too few slots for so many */
                _mm_prefetch((const char *)(from + ahead + o * LINE), _MM_HINT_T1);
        }
    }
}
