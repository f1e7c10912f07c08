/* linear_kernels.h - between linear.c and the kernel files: one table of functions per instruction
 * set, chosen once. Included by linear*.c only.
 *
 * Every table computes the same bits; linear_portable.c is the definition in plain C. */
#pragma once
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/layout_chunks.h"
#include "host/base/dtype.h"

enum {
    LINEAR_CHUNK = 128,     /* = LAYOUT_CHUNK */
    LINEAR_TILE_ROWS = 16,  /* = LAYOUT_TILE_ROWS */
    LINEAR_BLOCK_ROWS = 96, /* activation rows of one pass of the tile kernels */
    LINEAR_BLOCK_TILES = 4, /* weight tiles of one pass */
    LINEAR_PARTIAL_SUMS = 16,
    LINEAR_WIDEN_ROWS = 4,                     /* rows of codes widened to floats at a time */
    LINEAR_OVERREAD_BYTES = 16 * LINEAR_CHUNK, /* readable behind q: AMX takes 16 rows at a time */
    /* Scratch of one thread besides the widened rows: unpacked chunk and float sums of a pass. */
    LINEAR_THREAD_BYTES =
        LINEAR_BLOCK_TILES * LINEAR_TILE_ROWS * (2 * LINEAR_CHUNK + 4 * LINEAR_BLOCK_ROWS) +
        /* of CHUNKS_C16: scales and offsets of the subs as floats */
        LINEAR_BLOCK_TILES * LINEAR_TILE_ROWS * LAYOUT_SUBS_MAX * 2 * 4,
};

/* Activations of all rows in int8, in blocks of LINEAR_BLOCK_ROWS rows (the last may have fewer),
 * so that what a kernel reads for one chunk of a block is contiguous:
 *
 *   block b           q + b * LINEAR_BLOCK_ROWS * row_bytes, its rows n = rows of the block
 *     chunk c           + n * first[c]                   first[c]: bytes of the chunks before it
 *       row r             + r * 8 * octs[c]              padded with zeros to whole octs
 *   scale, sum of (block b, chunk c, row r) at [b * LINEAR_BLOCK_ROWS * n_chunks + c * n + r]
 *   sub_sum of sub s of chunk c at [(b * LINEAR_BLOCK_ROWS * n_chunks + c * n) * n_subs + s * n +
 *   r]
 *
 * For E4M3 codes the inputs are bf16 in place of int8, two bytes each: first, 8 * octs and
 * row_bytes are twice that, and there are no sums. */
struct linear_quantized {
    const int8_t *q;        /* 64-byte aligned; 8 with several groups */
    const float *scale;     /* max|x| / 127; NaN where x is not finite */
    const int32_t *sum;     /* sum of q */
    const int32_t *sub_sum; /* the same of each sub of a chunk, for CHUNKS_C16; else NULL */
    const float *sub_scale; /* a scale of each sub besides, at sub_sum's places; or NULL */
    int32_t n_subs;         /* of a chunk */
    const uint8_t *octs;    /* [n_chunks] octs of each chunk, 1..16; whole units for CHUNKS_C16 */
    int32_t row_bytes;      /* of all chunks */
    int32_t n_chunks, n_rows;
};
static inline int32_t linear_block_rows(const struct linear_quantized *x, int32_t block)
{
    const int32_t left = x->n_rows - block * LINEAR_BLOCK_ROWS;
    return left < LINEAR_BLOCK_ROWS ? left : LINEAR_BLOCK_ROWS;
}
static inline const int8_t *linear_block_q(const struct linear_quantized *x, int32_t block)
{
    return x->q + (int64_t)block * LINEAR_BLOCK_ROWS * x->row_bytes;
}
/* Where scale and sum of a block begin. */
static inline int64_t linear_block_at(const struct linear_quantized *x, int32_t block)
{
    return (int64_t)block * LINEAR_BLOCK_ROWS * x->n_chunks;
}

/* Tiles [tile_from, tile_to) of one W4_C16 or W8_C16 part times all rows. */
struct linear_tiles {
    const uint8_t *packed;
    struct layout_tiles at;
    int32_t bits;  /* 4 or 8: of the layout, not of the codes */
    int32_t zero;  /* symmetric: 2^(code bits - 1); else 0, and zeros_at is set */
    int32_t n_out; /* of the part: the last tile may be short */
    int32_t tile_from, tile_to;
    struct linear_quantized x;
    const float *bias; /* [n_out] or NULL */
    float *y;          /* [n_rows][y_stride], column 0 of the part */
    int64_t y_stride;
    void *scratch; /* LINEAR_THREAD_BYTES of this thread, 64-byte aligned */
};

/* Tiles [tile_from, tile_to) of one CHUNKS_C16 part times all rows. Per chunk, with x of one scale:
 *
 *   inner = 0
 *   for each sub:  f = (float)(dot - zero * sum)         exact: two planes are 128 * 127 * 2^16
 *                  f = fma(-zero_of_group, sum, f)       with zeros
 *                  f = f * sub_scale                     with them (no zeros, no mins)
 *                  inner = fma(f, scale_of_sub, inner)
 *                  inner = fma(-min_of_sub, sum, inner)  with mins
 *   acc = fma(inner, scale_x, acc)
 *
 * and y = acc * factor * step (+ bias). Of E4M3 codes f is the sum of fp32 products, for each pair
 * of inputs i, i + 1 in order (vdpbf16ps as Intel documents it and Zen 4 does it, two FMAs):
 *
 *   f = fma(w[i + 1], x[i + 1], f), f = fma(w[i], x[i], f)     from 0, no subnormals occur
 *
 * With a split x, rows 3 r to 3 r + 2 of x are the int8 (or bf16) of row r, of what that left, and
 * of what that left: y = ((first + bias) + second) + third. */
enum { LINEAR_SPLIT = 3 };
static_assert((int)LINEAR_BLOCK_ROWS % (int)LINEAR_SPLIT == 0, "a block has whole rows of y");
struct linear_chunks {
    const uint8_t *packed; /* the part */
    struct layout_chunks at;
    struct layout_lut lut; /* not of E4M3 */
    bool table;            /* codes go through the lut */
    bool split;            /* a row of y for LINEAR_SPLIT of x */
    int32_t n_out, tile_from, tile_to;
    struct linear_quantized x;
    const float *bias; /* [n_out] or NULL */
    float *y;
    int64_t y_stride;
    void *scratch;
};
/* Whether row r of x adds to a row of y that is there; and which row. */
static inline bool linear_chunks_adds(const struct linear_chunks *job, int32_t r)
{
    return job->split && r % LINEAR_SPLIT;
}
static inline float *linear_chunks_y(const struct linear_chunks *job, int32_t r)
{
    return job->y + (job->split ? r / LINEAR_SPLIT : r) * job->y_stride;
}
static inline const uint8_t *linear_chunks_tile(const struct linear_chunks *job, int32_t t)
{
    return job->packed + job->at.tiles_at + (size_t)t * job->at.tile_bytes;
}

/* Rows [row_from, row_to) of weights that are (or were widened to) floats times all rows of x. */
struct linear_rows {
    const uint8_t *w; /* row 0 of the part; any alignment */
    enum dtype dtype; /* F32, F16, BF16 */
    int32_t n_in;
    int32_t row_from, row_to;
    const float *x; /* [n_rows][x_stride] */
    int64_t x_stride;
    int32_t n_rows;
    const float *bias; /* [n_out] or NULL */
    float *y;
    int64_t y_stride;
};

struct linear_kernels {
    /* One row of a block of n_rows rows (see linear_quantized): lengths[c] inputs of each chunk,
     * padded to octs[c] octs. q, scale and sum point at the block. */
    void (*quantize_row)(const float *x, const uint8_t *lengths, const uint8_t *octs,
                         int32_t n_chunks, int32_t n_rows, int32_t row, int8_t *q, float *scale,
                         int32_t *sum);
    void (*tiles)(const struct linear_tiles *job);
    void (*chunks)(const struct linear_chunks *job);
    void (*e4m3)(const struct linear_chunks *job); /* CHUNKS_C16 of E4M3 codes */
    void (*rows)(const struct linear_rows *job);
};
extern const struct linear_kernels linear_portable;
extern const struct linear_kernels linear_avx2;
extern const struct linear_kernels linear_avx512;
/* The AVX-512 table, with the tile unit for products of many rows. */
extern const struct linear_kernels linear_amx;
void linear_chunks_portable(const struct linear_chunks *job);
void linear_chunks_avx2(const struct linear_chunks *job);
void linear_chunks_avx512(const struct linear_chunks *job);
void linear_e4m3_portable(const struct linear_chunks *job);
void linear_e4m3_avx2(const struct linear_chunks *job);
void linear_e4m3_avx512(const struct linear_chunks *job);
void linear_e4m3_bf16(const struct linear_chunks *job); /* cpu_bf16_available() */

/* Below this magnitude a whole chunk counts as zero: 127 / max|x| must stay finite. */
#define LINEAR_TINY 0x1p-100f
