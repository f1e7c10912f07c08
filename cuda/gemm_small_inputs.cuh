/* gemm_small_inputs.cuh - K1: from bf16 rows to fp16 fragments in registers, normed on the way.
 * Included by gemm_small.cuh alone.
 *
 *   y = (x - mean) * rstd * gain + bias, then times a power of two (kernels.h, prepare_f16)
 *
 * On the way between the end of the previous kernel and the first product, and behind every bit of
 * it stands an idle memory once the ring is full: each row is read twice (L2, then L1), with two
 * barriers, and the code is short, because it runs once and comes from L2 too. */
#pragma once
#include "cuda/gemm_small_parts.cuh"

/* 8 inputs from k on as bf16 pairs, zeros from n_in on. The 16 bytes are inside the row's stride.
 */
DEVICE uint4 x_chunk(const struct small_args &a, int row, int k)
{
    uint4 v = ld128(a.x + (int64_t)row * a.x_stride + k);
    const int left = a.n_in - k;
    if (left < 8) {
        v.x = left > 1 ? v.x : left > 0 ? v.x & 0xffffu : 0u;
        v.y = left > 3 ? v.y : left > 2 ? v.y & 0xffffu : 0u;
        v.z = left > 5 ? v.z : left > 4 ? v.z & 0xffffu : 0u;
        v.w = left > 6 ? v.w & 0xffffu : 0u;
    }
    return v;
}
DEVICE void chunk_floats(float (&v)[8], uint4 c)
{
    v[0] = bf16_low(c.x);
    v[1] = bf16_high(c.x);
    v[2] = bf16_low(c.y);
    v[3] = bf16_high(c.y);
    v[4] = bf16_low(c.z);
    v[5] = bf16_high(c.z);
    v[6] = bf16_low(c.w);
    v[7] = bf16_high(c.w);
}
/* 8 of a vector of floats; with a norm n_in is a multiple of 8 (fits). */
DEVICE void vector_chunk(float (&v)[8], const float *from)
{
    const uint4 a = ld128(from), b = ld128(from + 4);
    v[0] = f32_of_bits(a.x);
    v[1] = f32_of_bits(a.y);
    v[2] = f32_of_bits(a.z);
    v[3] = f32_of_bits(a.w);
    v[4] = f32_of_bits(b.x);
    v[5] = f32_of_bits(b.y);
    v[6] = f32_of_bits(b.z);
    v[7] = f32_of_bits(b.w);
}

struct scan {         /* of a row, or of a part of it */
    float sum, most;  /* of x or (x - mean)^2; largest |(x - mean) * gain| */
    float bias, none; /* largest |bias| */
};
/* Inputs [from, to) of a row, by a warp. */
DEVICE struct scan scan_part(const struct small_args &a, int row, int from, int to, float mean,
                             bool mean_pass)
{
    struct scan s = { 0, 0, 0, 0 };
#pragma unroll 4
    for (int k = from + lane_id() * 8; k < to; k += 256) {
        float x[8], v[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
        chunk_floats(x, x_chunk(a, row, k));
        if (a.norm.gain != NULL)
            vector_chunk(v, a.norm.gain + k);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float d = x[i] - mean;
            s.sum = fma_f32(d, mean_pass ? 1.0f : d, s.sum);
            s.most = fmaxf(s.most, fabsf(d * v[i]));
        }
        if (a.norm.bias != NULL) {
            vector_chunk(v, a.norm.bias + k);
#pragma unroll
            for (int i = 0; i < 8; i++)
                s.bias = fmaxf(s.bias, fabsf(v[i]));
        }
    }
#pragma unroll
    for (int m = 16; m > 0; m >>= 1) {
        s.sum += shfl_xor_f32(s.sum, m);
        s.most = fmaxf(s.most, shfl_xor_f32(s.most, m));
        s.bias = fmaxf(s.bias, shfl_xor_f32(s.bias, m));
    }
    return s;
}
/* A row's numbers from its parts: fp16 gets values below 512 whose largest is 256 or more. */
DEVICE struct token token_of(const struct small_args &a, struct scan s, float mean)
{
    float factor = 1.0f;
    if (a.norm.gain != NULL)
        factor = rsqrt_fast(s.sum * a.one_nth + a.norm.epsilon);
    const float most = fma_f32(s.most, factor, s.bias);
    int e = (int)(f32_bits(most) >> 23); /* most in [2^(e-127), 2^(e-126)) */
    e = most == 0.0f ? 135 : e < 9 ? 9 : e > 254 ? 254 : e;
    struct token t;
    t.scale = f32_of_bits((uint32_t)(e - 8) << 23);
    t.inverse = f32_of_bits((uint32_t)(262 - e) << 23);
    t.factor = factor * t.inverse;
    t.shift = -mean * t.factor;
    return t;
}
/* tokens[], from whole rows (norm) or from inputs [from, to). `scratch` is free afterwards.
 *
 * A row is scanned by `parts` warps, as many as there are for up to 8 rows; its sum has their
 * order. With TILES = 4, which is what fixed splits use, bits do not depend on the number of rows.
 */
template <int TILES>
DEVICE void rows_scan(const struct small_args &a, struct token *tokens, struct scan *scratch,
                      int from, int to)
{
    const int thread = (int)threadIdx.x;
    int parts = 1;
    if (TILES == 1)
        parts = a.rows > 4 ? 1 : a.rows > 2 ? 2 : a.rows > 1 ? 4 : 8;
    if (a.norm.gain != NULL) {
        from = 0;
        to = a.n_in;
    }
    const int at_once = SMALL_WARPS / parts, part = warp_id() / at_once,
              chunks = (to - from + 7) / 8;
    const int low = from + 8 * (chunks * part / parts);
    const int high = from + 8 * (chunks * (part + 1) / parts);
    float mean = 0.0f; /* of row `thread` */
    if (thread < 8 * TILES)
        tokens[thread] = token{ 0, 0, 0, 0 };
    block_sync();
#pragma unroll 1
    for (int pass = a.norm.layer && a.norm.gain != NULL ? 0 : 1; pass < 2; pass++) {
        for (int row = warp_id() % at_once; row < a.rows; row += at_once) {
            const struct scan s =
                scan_part(a, row, low, high < to ? high : to, tokens[row].shift, pass == 0);
            if (lane_id() == 0)
                scratch[row * parts + part] = s;
        }
        block_sync();
        if (thread < a.rows) {
            struct scan all = { 0, 0, 0, 0 };
            for (int i = 0; i < parts; i++) {
                const struct scan s = scratch[thread * parts + i];
                all.sum += s.sum;
                all.most = fmaxf(all.most, s.most);
                all.bias = fmaxf(all.bias, s.bias);
            }
            if (pass == 0) {
                mean = all.sum * a.one_nth;
                tokens[thread].shift = mean; /* for the second pass */
            } else {
                tokens[thread] = token_of(a, all, mean);
            }
        }
        block_sync();
    }
}
/* 8 inputs of a row, normed and scaled, as fp16 pairs. */
DEVICE uint4 normed_chunk(const struct small_args &a, const struct token &t, uint4 chunk,
                          const float (&gain)[8], const float (&bias)[8])
{
    float x[8];
    chunk_floats(x, chunk);
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = fma_f32(x[i], t.factor, t.shift);
    if (a.norm.gain != NULL) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] *= gain[i];
        if (a.norm.bias != NULL) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                x[i] = fma_f32(bias[i], t.inverse, x[i]);
        }
    }
    return uint4{ f16_pair(x[0], x[1]), f16_pair(x[2], x[3]), f16_pair(x[4], x[5]),
                  f16_pair(x[6], x[7]) };
}
/* Fragments of this warp's units, PIECES of 8 inputs at a time through `stage`, this warp's
 * [TOKENS] [PIECES][8] halves; pieces of a row are swapped by row % 8 against bank conflicts. What
 * is x of units from n_units on stays unset: nobody multiplies it. */
template <int TILES, int PIECES>
DEVICE void inputs_load(uint32_t (&x)[4 / TILES][8][TILES][2], const struct small_args &a,
                        const struct token *tokens, unsigned char *stage, int first_k, int n_units)
{
    constexpr int UNIT_PIECES = F64_UNIT_COLS / 8, PASSES = 4 / TILES * UNIT_PIECES / PIECES;
    constexpr int ROWS = 32 / PIECES; /* at once */
    const int lane = lane_id(), piece = lane % PIECES;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        if (pass * PIECES / UNIT_PIECES < n_units) {
            const int at = pass * PIECES + piece, unit = at / UNIT_PIECES;
            const int k = first_k + unit * (SMALL_WARPS * F64_UNIT_COLS) + at % UNIT_PIECES * 8;
            const bool inside = unit < n_units && k < a.n_in;
            float gain[8] = { 0, 0, 0, 0, 0, 0, 0, 0 }, bias[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
            if (a.norm.gain != NULL && inside)
                vector_chunk(gain, a.norm.gain + k);
            if (a.norm.bias != NULL && inside)
                vector_chunk(bias, a.norm.bias + k);
            int row = lane / PIECES;
            uint4 next = uint4{ 0, 0, 0, 0 }; /* a row ahead: its latency behind this row's work */
            if (inside && row < a.rows)
                next = x_chunk(a, row, k);
#pragma unroll 1
            for (; row < 8 * TILES; row += ROWS) {
                const uint4 chunk = next;
                if (inside && row + ROWS < a.rows)
                    next = x_chunk(a, row + ROWS, k);
                uint4 y = uint4{ 0, 0, 0, 0 };
                if (inside && row < a.rows)
                    y = normed_chunk(a, tokens[row], chunk, gain, bias);
                st128(stage + (row * PIECES + (piece ^ row % 8)) * 16, y);
            }
            warp_sync();
#pragma unroll
            for (int c = 0; c < PIECES / 4; c++) {
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    constexpr int PER_TILE = 2; /* pieces */
                    const int from = pass * PIECES + 4 * c;
                    const int u = from / UNIT_PIECES, tile = from % UNIT_PIECES / PER_TILE;
                    uint32_t r[4];
                    ldsm_x4(r, stage +
                                   ((t * 8 + lane % 8) * PIECES + ((4 * c + lane / 8) ^ lane % 8)) *
                                       16);
                    x[u][tile][t][0] = r[0];
                    x[u][tile][t][1] = r[1];
                    x[u][tile + 1][t][0] = r[2];
                    x[u][tile + 1][t][1] = r[3];
                }
            }
            warp_sync();
        }
    }
}
