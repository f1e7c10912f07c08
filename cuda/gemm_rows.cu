/* gemm_rows.cu - products with unquantized weights, stored as rows of bf16, fp16 or fp32.
 *
 *   y[r][o] = epilogue(sum_i w[o][i] x[r][i] + bias[o])     w [n_out][n_in] as stored, x bf16, fp32
 * sums
 *
 * All three types go through the bf16 tensor cores, exactly: an fp16 number is the sum of two bf16
 * (8 + 3 bits of significand), an fp32 number of three (8 + 8 + 8), so a product of fp16 weights
 * takes two MMAs and of fp32 weights three. fp16 MMAs would need x in fp16, which is a row scale
 * and one more pass; fp32 FMAs have a twelfth of the tensor cores' rate. Only fp32 weights below
 * 2^-110 lose their last bits.
 *
 * 1..32 rows (rows_small): bound by the weights, 2 or 4 bytes each, read once. A block is 16
 * outputs and all rows; its 8 warps share the inputs out in runs of 32:
 *
 *   inputs     0    32   64        256  288            warp w, step s: inputs 256 s + 32 w ..
 *            +----+----+---- ... +----+----+---
 *   output o | w0 | w1 | w2      | w0 | w1 |           lane (g, q): 8 inputs from 8 q of outputs
 *   + 16     +----+----+---- ... +----+----+---        o + g and o + g + 8: 16 bytes each
 *
 * Sums over inputs have no order to keep, so the 8 inputs of a lane are the k of two MMAs as they
 * come: weights and x go from memory to registers in 16 bytes and never through shared memory. The
 * warps' sums meet in shared memory, in the order of the warps.
 *
 * More rows (rows_tile): x is A, weights are B, blocks of BM rows x BN outputs, 32 inputs a stage,
 * cp.async stages. Rows of blocks run first, so that weights are read from memory once:
 *
 *            outputs 0 .. BN      BN .. 2 BN
 *   rows  0  | block (0, 0) |  | block (0, 1) |       8 warps, WM x WN of them
 *   .. 2 BM  | block (1, 0) |  | block (1, 1) |
 *
 * 128 x 128 is bound by the tensor cores: 64 FMA a byte of shared memory. 64 x 32 is for products
 * that would leave multiprocessors idle. */
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    ROWS_THREADS = 256,
    ROWS_WARPS = ROWS_THREADS / 32,
    SMALL_OUTS = 16,
    SMALL_STEP = 32, /* inputs of a warp's step */
    SMALL_SWEEP = SMALL_STEP * ROWS_WARPS,
    TILE_K = 32, /* inputs of a stage */
    /* Bytes of a staged row of 16-bit numbers: 5 times 16, odd, so that the 8 rows of an ldmatrix
     * lie in different banks. Of fp32: 40 words, so that 4 rows of 8-byte reads do. */
    PITCH_16 = TILE_K * 2 + 16,
    PITCH_32 = TILE_K * 4 + 32,
};
static_assert(GEMM_SMALL_ROWS == 32, "rows_small has up to 4 tiles of 8 rows");

struct rows_args {
    const unsigned char *w;
    const uint16_t *x;
    const float *bias;
    struct gemm_out out;
    int64_t x_stride;
    int32_t n_out, n_in, rows;
    bool w_aligned, x_aligned;       /* rows start at multiples of 16 bytes and end at them */
    bool out_pairs;                  /* two neighbours of y are one aligned store */
    const struct expert_tile *tiles; /* rows_tile: of blockIdx.x, or NULL */
    int64_t w_stride, bias_stride;   /* bytes from an expert to the next one */
    const int32_t *row_map;
};

template <enum dtype T> struct stored {
    static constexpr int BYTES = T == DTYPE_F32 ? 4 : 2;
    static constexpr int PARTS = T == DTYPE_BF16 ? 1 : T == DTYPE_F16 ? 2 : 3; /* bf16 each */
    static constexpr int WORDS = 8 * BYTES / 4;                                /* of 8 numbers */
    static constexpr int PITCH = T == DTYPE_F32 ? PITCH_32 : PITCH_16;
    static constexpr int STAGES = T == DTYPE_F32 ? 3 : 4; /* 92 or 82 KB: sm_86 has 99 */
};

/* Unrolled steps of rows_small: 32 bytes each of a lane (64 of fp32) are on their way. 16 warps a
 * multiprocessor make 64 KB (48 with 32 rows, whose sums need the registers), more than the 36 that
 * 4.8 TB/s at 1 us needs. */
template <enum dtype T, int NT>
static constexpr int SMALL_STEPS = T == DTYPE_F32 ? 2
                                   : NT == 4      ? 3
                                                  : 4;

/* ---- numbers to bf16 ---------------------------------------------------------------------------
 */

/* The upper halves of two words. */
DEVICE uint32_t upper_pair(uint32_t low, uint32_t high)
{
    return byte_permute(low, high, 0x7632u);
}
/* Two floats as PARTS pairs of bf16 that add up to them: each part is what is left, cut off after 8
 * bits; differences are exact. */
template <int PARTS> DEVICE void split_pair(uint32_t (&p)[PARTS], float low, float high)
{
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        p[i] = upper_pair(f32_bits(low), f32_bits(high));
        low -= bf16_low(p[i]);
        high -= bf16_high(p[i]);
    }
}
/* A pair of bf16 or fp16 bits. */
template <enum dtype T> DEVICE void split_bits(uint32_t (&p)[stored<T>::PARTS], uint32_t pair)
{
    if constexpr (T == DTYPE_BF16)
        p[0] = pair;
    else
        split_pair<stored<T>::PARTS>(p, f16_low(pair), f16_high(pair));
}

/* ---- few rows ----------------------------------------------------------------------------------
 */

/* N numbers from number k on of a row that has n of them, zeros after; not aligned. */
template <int BYTES, int N>
DEVICE void load_slow(uint32_t (&words)[N * BYTES / 4], const unsigned char *row, int k, int n)
{
#pragma unroll
    for (int i = 0; i < N * BYTES / 4; i++)
        words[i] = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (k + i >= n)
            continue;
        if (BYTES == 4)
            words[i] = *(const uint32_t *)(const void *)(row + (int64_t)(k + i) * 4);
        else
            words[i / 2] |=
                (uint32_t) * (const uint16_t *)(const void *)(row + (int64_t)(k + i) * 2)
                << 16 * (i % 2);
    }
}
/* 8 weights, streamed. Outputs and rows past the end are the last one again, and not stored. */
template <enum dtype T>
DEVICE void load_weights(uint32_t (&words)[stored<T>::WORDS], const struct rows_args &a, int out,
                         int k)
{
    const unsigned char *row =
        a.w + (int64_t)(out < a.n_out ? out : a.n_out - 1) * a.n_in * stored<T>::BYTES;
    if (!a.w_aligned || k + 8 > a.n_in) {
        load_slow<stored<T>::BYTES, 8>(words, row, k, a.n_in);
        return;
    }
#pragma unroll
    for (int i = 0; i < stored<T>::WORDS; i += 4) {
        const uint4 v = ldg_stream(row + (int64_t)k * stored<T>::BYTES + i * 4);
        words[i] = v.x;
        words[i + 1] = v.y;
        words[i + 2] = v.z;
        words[i + 3] = v.w;
    }
}
DEVICE void load_x(uint32_t (&words)[4], const struct rows_args &a, int row, int k)
{
    const uint16_t *x = a.x + (int64_t)(row < a.rows ? row : a.rows - 1) * a.x_stride;
    if (!a.x_aligned || k + 8 > a.n_in) {
        load_slow<2, 8>(words, (const unsigned char *)x, k, a.n_in);
        return;
    }
    const uint4 v = ld128(x + k);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}
/* The bf16 parts of 8 weights. */
template <enum dtype T>
DEVICE void split_weights(uint32_t (&p)[4][stored<T>::PARTS],
                          const uint32_t (&words)[stored<T>::WORDS])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        if constexpr (T == DTYPE_F32)
            split_pair<3>(p[i], f32_of_bits(words[2 * i]), f32_of_bits(words[2 * i + 1]));
        else
            split_bits<T>(p[i], words[i]);
}

/* 16 outputs x 32 inputs of this warp, times NT tiles of 8 rows of x. */
template <enum dtype T, int NT>
DEVICE void small_step(float (&sum)[NT][4], const uint32_t (&low)[stored<T>::WORDS],
                       const uint32_t (&high)[stored<T>::WORDS], const struct rows_args &a, int k)
{
    const int g = lane_id() / 4;
    uint32_t p[4][stored<T>::PARTS], p8[4][stored<T>::PARTS];
    split_weights<T>(p, low);
    split_weights<T>(p8, high);
#pragma unroll
    for (int t = 0; t < NT; t++) {
        uint32_t x[4];
        load_x(x, a, 8 * t + g, k);
#pragma unroll
        for (int i = 0; i < stored<T>::PARTS; i++) {
            const uint32_t first[4] = { p[0][i], p8[0][i], p[1][i], p8[1][i] };
            const uint32_t second[4] = { p[2][i], p8[2][i], p[3][i], p8[3][i] };
            mma_bf16(sum[t], first, x[0], x[1]);
            mma_bf16(sum[t], second, x[2], x[3]);
        }
    }
}

template <enum dtype T, int NT>
KERNEL(ROWS_THREADS, 2)
rows_small(const __grid_constant__ struct rows_args a)
{
    SHARED(memory);
    constexpr int STEPS = SMALL_STEPS<T, NT>, WORDS = stored<T>::WORDS;
    float *sums = (float *)(void *)memory; /* [warp][NT][lane][4] */
    const int lane = lane_id(), first_out = (int)blockIdx.x * SMALL_OUTS;
    const int out = first_out + lane / 4, k0 = warp_id() * SMALL_STEP + lane % 4 * 8;
    float sum[NT][4] = {};
    uint32_t low[STEPS][WORDS], high[STEPS][WORDS];

    /* weights: STEPS steps ahead, the first before the previous kernel has ended */
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        load_weights<T>(low[s], a, out, k0 + s * SMALL_SWEEP);
        load_weights<T>(high[s], a, out + 8, k0 + s * SMALL_SWEEP);
    }
    griddep_wait();
    griddep_launch();
    for (int k = k0; k - k0 < a.n_in; k += STEPS * SMALL_SWEEP) {
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int at = k + s * SMALL_SWEEP;
            small_step<T, NT>(sum, low[s], high[s], a, at);
            load_weights<T>(low[s], a, out, at + STEPS * SMALL_SWEEP);
            load_weights<T>(high[s], a, out + 8, at + STEPS * SMALL_SWEEP);
        }
    }

    /* the warps' sums */
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sums[((warp_id() * NT + t) * 32 + lane) * 4 + i] = sum[t][i];
    block_sync();
    for (int e = (int)threadIdx.x; e < NT * 8 * SMALL_OUTS; e += ROWS_THREADS) {
        const int o = e % SMALL_OUTS, row = e / SMALL_OUTS;
        const int from = (row / 8 * 32 + o % 8 * 4 + row % 8 / 2) * 4 + o / 8 * 2 + row % 2;
        float v = 0.0f;
        for (int w = 0; w < ROWS_WARPS; w++)
            v += sums[w * NT * 128 + from];
        if (row >= a.rows || first_out + o >= a.n_out)
            continue;
        if (a.bias != NULL)
            v += a.bias[first_out + o];
        out_store(a.out, row, first_out + o, out_value(a.out, v));
    }
}

/* ---- many rows ---------------------------------------------------------------------------------
 */

template <int BM_, int BN_, int WARPS_M_> struct tile {
    static constexpr int BM = BM_, BN = BN_, WARPS_M = WARPS_M_;
    static constexpr int WM = BM / WARPS_M, WN = BN / (ROWS_WARPS / WARPS_M); /* of a warp */
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments");
};
typedef tile<128, 128, 2> large_tile;
typedef tile<64, 32, 4> small_tile;

template <enum dtype T, typename TILE>
static constexpr int STAGE_BYTES = TILE::BM *PITCH_16 + TILE::BN *stored<T>::PITCH;

/* Rows [first, first + N) x TILE_K numbers from k on, to shared memory. */
template <int BYTES, int N, int PITCH>
DEVICE void stage_rows(unsigned char *to, const unsigned char *from, int64_t row_bytes, int first,
                       int n_rows, int k, int n_in, bool aligned)
{
    constexpr int CHUNKS = TILE_K * BYTES / 16, IN_CHUNK = 16 / BYTES;
    for (int i = (int)threadIdx.x; i < N * CHUNKS; i += ROWS_THREADS) {
        const int r = i / CHUNKS, at = k + i % CHUNKS * IN_CHUNK;
        unsigned char *chunk = to + r * PITCH + i % CHUNKS * 16;
        const bool inside = first + r < n_rows && at < n_in;
        const unsigned char *row = from + (inside ? (int64_t)(first + r) * row_bytes : 0);
        if (aligned) {
            cp_async16(chunk, row + (inside ? (int64_t)at * BYTES : 0), inside);
        } else {
            uint32_t w[4];
            load_slow<BYTES, IN_CHUNK>(w, row, at, inside ? n_in : 0);
            st128(chunk, make_uint4(w[0], w[1], w[2], w[3]));
        }
    }
}
template <enum dtype T, typename TILE>
DEVICE void stage_load(unsigned char *memory, int stage, const struct rows_args &a, int first,
                       int k)
{
    unsigned char *x = memory + stage * STAGE_BYTES<T, TILE>;
    stage_rows<2, TILE::BM, PITCH_16>(x, (const unsigned char *)a.x, a.x_stride * 2, first, a.rows,
                                      k, a.n_in, a.x_aligned);
    stage_rows<stored<T>::BYTES, TILE::BN, stored<T>::PITCH>(
        x + TILE::BM * PITCH_16, a.w, (int64_t)a.n_in * stored<T>::BYTES,
        (int)blockIdx.y * TILE::BN, a.n_out, k, a.n_in, a.w_aligned);
}

/* B fragments of 16 outputs x 16 inputs: b[n tile of 8][b0, b1][part]. */
template <enum dtype T>
DEVICE void weight_fragments(uint32_t (&b)[2][2][stored<T>::PARTS], const unsigned char *w)
{
    const int lane = lane_id();
    if constexpr (T == DTYPE_F32) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *pair =
                (const float *)(const void *)(w + (lane / 4 + i / 2 * 8) * PITCH_32) +
                lane % 4 * 2 + i % 2 * 8;
            const float2 v = *(const float2 *)(const void *)pair;
            split_pair<3>(b[i / 2][i % 2], v.x, v.y);
        }
    } else {
        uint32_t r[4];
        ldsm_x4(r, w + (lane % 8 + lane / 16 * 8) * PITCH_16 + lane / 8 % 2 * 16);
#pragma unroll
        for (int i = 0; i < 4; i++)
            split_bits<T>(b[i / 2][i % 2], r[i]);
    }
}

/* This block's rows and matrix: of its expert, or all there are. */
template <typename TILE> DEVICE bool block_rows(struct rows_args &a, int &first)
{
    first = (int)blockIdx.x * TILE::BM;
    if (a.tiles == NULL)
        return true;
    const struct expert_tile tile = a.tiles[blockIdx.x];
    first = tile.row_from;
    a.rows = tile.row_from + tile.n_rows;
    a.w += tile.expert * a.w_stride;
    if (a.bias != NULL)
        a.bias += tile.expert * a.bias_stride / (int64_t)sizeof(float);
    return tile.expert >= 0;
}

/* One stage: sum[m tile][n tile] of this warp. */
template <enum dtype T, typename TILE>
DEVICE void tile_step(float (&sum)[TILE::WM / 16][TILE::WN / 8][4], const unsigned char *stage)
{
    constexpr int MT = TILE::WM / 16;
    const int lane = lane_id(), warp_m = warp_id() % TILE::WARPS_M;
    const int warp_n = warp_id() / TILE::WARPS_M;
    const unsigned char *x = stage + warp_m * TILE::WM * PITCH_16;
    const unsigned char *w = stage + TILE::BM * PITCH_16 + warp_n * TILE::WN * stored<T>::PITCH;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t f[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            ldsm_x4(f[m], x + (m * 16 + lane % 16) * PITCH_16 + k * 2 + lane / 16 * 16);
#pragma unroll
        for (int n = 0; n < TILE::WN / 16; n++) {
            uint32_t b[2][2][stored<T>::PARTS];
            weight_fragments<T>(b, w + n * 16 * stored<T>::PITCH + k * stored<T>::BYTES);
#pragma unroll
            for (int i = 0; i < stored<T>::PARTS; i++)
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma_bf16(sum[m][2 * n], f[m], b[0][0][i], b[0][1][i]);
                    mma_bf16(sum[m][2 * n + 1], f[m], b[1][0][i], b[1][1][i]);
                }
        }
    }
}

/* Columns col and col + 1 of a row, the second perhaps past the end. */
DEVICE void store_pair(const struct rows_args &a, int row, int col, float v0, float v1)
{
    const bool second = col + 1 < a.n_out;
    if (row >= a.rows || col >= a.n_out)
        return;
    if (a.bias != NULL) {
        v0 += a.bias[col];
        v1 += second ? a.bias[col + 1] : 0.0f;
    }
    v0 = out_value(a.out, v0);
    v1 = out_value(a.out, v1);
    row = a.row_map == NULL ? row : a.row_map[row];
    if (!a.out_pairs || !second || a.out.epilogue == EPILOGUE_ADD) {
        out_store(a.out, row, col, v0);
        if (second)
            out_store(a.out, row, col + 1, v1);
        return;
    }
    const int64_t at = (int64_t)row * a.out.stride + col;
    if (a.out.dtype == DTYPE_F32)
        *(float2 *)(void *)((float *)a.out.y + at) = make_float2(v0, v1);
    else
        *(uint32_t *)(void *)((uint16_t *)a.out.y + at) = bf16_pair(v0, v1);
}

template <enum dtype T, typename TILE>
KERNEL(ROWS_THREADS, T == DTYPE_BF16 ? 2 : 1)
rows_tile(const __grid_constant__ struct rows_args all)
{
    SHARED(memory);
    struct rows_args a = all;
    int first;
    constexpr int STAGES = stored<T>::STAGES, BYTES = STAGE_BYTES<T, TILE>;
    const int n_stages = (a.n_in + TILE_K - 1) / TILE_K;
    float sum[TILE::WM / 16][TILE::WN / 8][4] = {};

    /* fill */
    griddep_wait();
    griddep_launch();
    if (!block_rows<TILE>(a, first))
        return;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < n_stages)
            stage_load<T, TILE>(memory, s, a, first, s * TILE_K);
        cp_async_commit();
    }
    /* run: load stage s + STAGES - 1 where s - 1 was, multiply s */
    for (int s = 0; s < n_stages; s++) {
        cp_async_wait<STAGES - 2>();
        block_sync();
        const int next = s + STAGES - 1;
        if (next < n_stages)
            stage_load<T, TILE>(memory, next % STAGES, a, first, next * TILE_K);
        cp_async_commit();
        tile_step<T, TILE>(sum, memory + s % STAGES * BYTES);
    }
    /* store: d0, d1 = (row g, outputs 2q, 2q+1), d2, d3 = row g + 8 */
    const int lane = lane_id(), warp_m = warp_id() % TILE::WARPS_M;
    const int row0 = first + warp_m * TILE::WM + lane / 4;
    const int col0 =
        (int)blockIdx.y * TILE::BN + warp_id() / TILE::WARPS_M * TILE::WN + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < TILE::WM / 16; m++)
#pragma unroll
        for (int n = 0; n < TILE::WN / 8; n++) {
            store_pair(a, row0 + m * 16, col0 + n * 8, sum[m][n][0], sum[m][n][1]);
            store_pair(a, row0 + m * 16 + 8, col0 + n * 8, sum[m][n][2], sum[m][n][3]);
        }
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <enum dtype T, int NT>
static cudaError_t launch_small(const struct launch *launch, const struct rows_args &a)
{
    const dim3 grid((unsigned)((a.n_out + SMALL_OUTS - 1) / SMALL_OUTS));
    const size_t shared = (size_t)ROWS_WARPS * NT * 32 * 4 * sizeof(float);
    return LAUNCH((rows_small<T, NT>), grid, ROWS_THREADS, shared, launch->stream,
                  launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
static int32_t tiles_of(int32_t n, int32_t tile)
{
    return (n + tile - 1) / tile;
}
template <enum dtype T, typename TILE>
static cudaError_t launch_tile(const struct launch *launch, const struct rows_args &a)
{
    const int32_t row_tiles = a.tiles != NULL ? a.rows : tiles_of(a.rows, TILE::BM);
    const dim3 grid((unsigned)row_tiles, (unsigned)tiles_of(a.n_out, TILE::BN));
    const size_t shared = (size_t)stored<T>::STAGES * (size_t)STAGE_BYTES<T, TILE>;
    return LAUNCH((rows_tile<T, TILE>), grid, ROWS_THREADS, shared, launch->stream,
                  launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
template <enum dtype T>
static cudaError_t launch_rows(const struct launch *launch, const struct rows_args &a,
                               bool one_order)
{
    static_assert(small_tile::BM == 1 << EXPERT_TILE_SHIFT(EXPERT_LISTS - 1), "experts' tiles");
    if (a.tiles != NULL)
        return launch_tile<T, small_tile>(launch, a);
    if (a.rows <= GEMM_SMALL_ROWS && !one_order) {
        if (a.rows <= 8)
            return launch_small<T, 1>(launch, a);
        return a.rows <= 16 ? launch_small<T, 2>(launch, a) : launch_small<T, 4>(launch, a);
    }
    /* both tiles add k16 after k16 */
    const int32_t tiles = tiles_of(a.rows, large_tile::BM) * tiles_of(a.n_out, large_tile::BN);
    if (tiles < launch->device->n_sms)
        return launch_tile<T, small_tile>(launch, a);
    return launch_tile<T, large_tile>(launch, a);
}

cudaError_t gemm_rows(const struct launch *launch, const struct rows_op *op)
{
    struct rows_args a = {};
    a.w = (const unsigned char *)op->w;
    a.x = (const uint16_t *)op->x;
    a.bias = op->bias;
    a.out = op->out;
    a.x_stride = op->x_stride;
    a.n_out = op->n_out;
    a.n_in = op->n_in;
    a.rows = op->rows;
    if (op->groups != NULL) {
        a.rows = op->groups->n_tiles; /* for the grid; blocks know their rows */
        a.tiles = op->groups->tiles;
        a.w_stride = op->groups->part_stride[0];
        a.bias_stride = op->groups->bias_stride[0];
        a.row_map = op->groups->rows;
    }
    const int32_t w_bytes = op->dtype == DTYPE_F32 ? 4 : 2;
    a.w_aligned =
        op->n_in * (int64_t)w_bytes % 16 == 0 && (uintptr_t)op->w % 16 == 0 && a.w_stride % 16 == 0;
    a.x_aligned = op->n_in % 8 == 0 && op->x_stride % 8 == 0 && (uintptr_t)op->x % 16 == 0;
    const uintptr_t pair = op->out.dtype == DTYPE_F32 ? 8 : 4;
    a.out_pairs = op->out.stride % 2 == 0 && (uintptr_t)op->out.y % pair == 0;
    switch (op->dtype) {
    case DTYPE_BF16:
        return launch_rows<DTYPE_BF16>(launch, a, op->one_order);
    case DTYPE_F16:
        return launch_rows<DTYPE_F16>(launch, a, op->one_order);
    case DTYPE_F32:
        return launch_rows<DTYPE_F32>(launch, a, op->one_order);
    default:
        return cudaErrorInvalidValue;
    }
}
