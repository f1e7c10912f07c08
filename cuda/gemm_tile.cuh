/* gemm_tile.cuh - what the tile kernels of mma.sync share (gemm_mma.cu, gemm_s8.cu): which outputs
 * a block makes, the ring that brings weights and x to shared memory, and the way out.
 *
 * A block of 8 warps makes 128 outputs (two strips of 64) of 8, 32 or 64 tokens, over all of the
 * inputs or one split of them. It steps through the inputs 128 at a time; a stage of the ring is
 *
 *   weights: 4 units of strip 0, 4 units of strip 1, as they lie in memory | x [slabs] | extra
 *
 * Weights need no rearranging: F64 holds fragments in lane order, so a lane's 16 bytes of an atom
 * are one shared read without bank conflicts. x rows are 256 (fp16) or 128 bytes (int8), cut into
 * slabs of [tokens][32 bytes], one for each step of the MMAs; the two 16-byte pieces of tokens 4..7
 * of eight change places, so that the 8 rows of an ldmatrix touch all 32 banks. A lane reads every
 * slab at the same place: one address in a register for all steps.
 *
 * STORE and ADD: the strips of all parts are numbered through, a block takes two neighbours (the
 * last may have none). GATE: strip j of gate and strip j of up, so that act(gate) * up stays in the
 * block. */
#pragma once
#include "cuda/device.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    TILE_WARPS = 8, /* 2 for each scheduler; twice that with two blocks an SM */
    TILE_THREADS = TILE_WARPS * 32,
    TILE_OUTS = 2 * F64_STRIP_ROWS,
    TILE_K = F64_UNIT_COLS,
    TILE_SLAB_ROW = 32, /* of x: an MMA's depth of a token, 16 halves or 32 bytes */
    TILE_STAGES_MAX = 4,
    TILE_SPLITS_MAX = 16,
    /* fp32 outputs of a token on their way out: 4 more than 128, so that the 4 token pairs of a
     * fragment (8 rows apart in banks) and its 8 outputs fall on 32 banks */
    TILE_OUT_STRIDE = TILE_OUTS + 4,
};
/* Blocks an SM that registers leave room for: two, of 128 each. Where an SM has 100 KB of shared
 * memory the ring of 64 tokens lets one block in, which then may have 255. (tile_blocks is the same
 * for the host.) */
#if defined(__CUDA_ARCH__) &&                                                                      \
    (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#define TILE_BLOCKS(tokens) ((tokens) == 64 ? 1 : 2)
#else
#define TILE_BLOCKS(tokens) 2
#endif
/* Bytes of a slab: 32 more than its rows, so that the 8 pieces of a row that 8 threads bring (4
 * slabs) fall on 32 banks. */
#define TILE_SLAB(tokens) ((tokens)*TILE_SLAB_ROW + 32)
static_assert(2 * TILE_OUT_STRIDE % 32 == 8,
              "fragment stores of the way out have no bank conflicts");

struct tile_args {
    struct f64_part parts[WEIGHT_PARTS_MAX];
    int32_t strips[WEIGHT_PARTS_MAX]; /* of each part */
    int32_t n_parts;
    int32_t blocks; /* of 128 inputs */
    int32_t unit_bytes;
    int32_t group_shift;       /* 0, 1, 2: steps of 32 inputs in a group, as a power of two */
    int32_t scale_at, zero_at; /* in a unit */
    int32_t rows;
    const uint8_t *x;
    int64_t x_stride; /* bytes */
    int64_t x_pass;   /* bytes from a thread's row of x to its next one in a stage */
    const float *x_scale;
    const int32_t *x_sum;
    struct gemm_out out;
    bool out_wide; /* four outputs of a row are one aligned store */
    int32_t stages, stage_bytes, splits;
    int32_t last_stage; /* where it is in the ring */
    float *partial;
    uint32_t *tickets;
    uint16_t table[16];
    /* experts: tile blockIdx.x of the list; or tiles NULL */
    const struct expert_tile *tiles;
    int64_t part_stride[WEIGHT_PARTS_MAX], bias_stride[WEIGHT_PARTS_MAX];
    const int32_t *row_map;
};

/* ---- which rows, of which matrix ----------------------------------------------------------------
 * Read again wherever they are wanted: registers are scarcer than the cache. */

template <int TOKENS> DEVICE int tile_first_row(const struct tile_args &a)
{
    return a.tiles == NULL ? (int)blockIdx.x * TOKENS : a.tiles[blockIdx.x].row_from;
}
DEVICE int tile_rows_end(const struct tile_args &a)
{
    return a.tiles == NULL ? a.rows : a.tiles[blockIdx.x].row_from + a.tiles[blockIdx.x].n_rows;
}
DEVICE int tile_row_out(const struct tile_args &a, int row)
{
    return a.row_map == NULL ? row : a.row_map[row];
}

/* ---- which outputs ------------------------------------------------------------------------------
 */

struct tile_strip {
    const uint8_t *units; /* NULL: no strip here */
    const float *row_factor, *bias;
    int n_outs, col; /* valid outputs, 1..64; where they go in a row of y */
};
DEVICE struct tile_strip tile_strip_of(const struct tile_args &a, int half)
{
    struct tile_strip s = {};
    const bool gate = a.out.epilogue == EPILOGUE_GATE;
    int strip = gate ? (int)blockIdx.y : (int)blockIdx.y * 2 + half;
    int part = gate ? half : 0, col = 0;
    if (!gate) {
        while (part < a.n_parts && strip >= a.strips[part]) {
            strip -= a.strips[part];
            col += a.parts[part++].n_out;
        }
        if (part == a.n_parts)
            return s;
    }
    const struct f64_part &p = a.parts[part];
    int64_t to_part = 0, to_bias = 0;
    if (a.tiles != NULL) {
        const int64_t expert = a.tiles[blockIdx.x].expert;
        to_part = expert * a.part_stride[part];
        to_bias = expert * a.bias_stride[part];
    }
    s.units = p.units + to_part + (size_t)strip * (size_t)a.blocks * 4 * (size_t)a.unit_bytes;
    s.row_factor = p.row_factor + to_part / (int64_t)sizeof(float) + strip * F64_STRIP_ROWS;
    s.bias =
        p.bias == NULL ? NULL : p.bias + to_bias / (int64_t)sizeof(float) + strip * F64_STRIP_ROWS;
    s.n_outs = min(F64_STRIP_ROWS, p.n_out - strip * F64_STRIP_ROWS);
    s.col = col + strip * F64_STRIP_ROWS;
    return s;
}
/* The inputs of this block's split, in blocks of 128; splits differ by at most one. */
DEVICE int tile_split_from(const struct tile_args &a, int split)
{
    return (int)((int64_t)a.blocks * split / a.splits);
}

/* ---- into shared memory -------------------------------------------------------------------------
 */

/* Where piece `piece` (16 bytes) of a token is among the slabs. */
template <int TOKENS> DEVICE int tile_x_at(int token, int piece)
{
    return piece / 2 * TILE_SLAB(TOKENS) + token * TILE_SLAB_ROW +
           (piece % 2 ^ (token / 4 & 1)) * 16;
}
/* A thread's way through memory: half of the block brings strip 0, half strip 1 (or strip 0 again
 * where there is none: what comes of it is not stored); of x, a thread has one piece of its first
 * token and of every PASS-th after it. Five numbers that stay in registers: what they are made of
 * does not. */
struct tile_fetch {
    const uint8_t *units, *x; /* of the next stage */
    int to_units, to_x;       /* where they go in a stage */
    int rows;                 /* of x, from its first one on; zeros past them */
};
template <int TOKENS, int ROW_BYTES>
DEVICE struct tile_fetch tile_fetch_of(const struct tile_args &a, int block)
{
    constexpr int PIECES = ROW_BYTES / 16, HALF = TILE_THREADS / 2;
    static_assert(TILE_THREADS / PIECES % 8 == 0, "a piece has the same half in every pass");
    const int half = (int)threadIdx.x / HALF, first = (int)threadIdx.x % HALF * 16;
    struct tile_strip s = tile_strip_of(a, half);
    if (s.units == NULL)
        s = tile_strip_of(a, 0);
    const int token = (int)threadIdx.x / PIECES, piece = (int)threadIdx.x % PIECES;
    const int row = tile_first_row<TOKENS>(a) + token;
    struct tile_fetch f;
    f.units = s.units + (size_t)block * 4 * (size_t)a.unit_bytes + first;
    f.x = a.x + row * a.x_stride + block * ROW_BYTES + piece * 16;
    f.to_units = half * 4 * a.unit_bytes + first;
    f.to_x = 8 * a.unit_bytes + tile_x_at<TOKENS>(token, piece);
    f.rows = tile_rows_end(a) - row;
    return f;
}
/* A strip's units, 16 bytes a thread: codes fill 2 (int4) or 4 passes, scales and zeros part of
 * one. */
template <int BITS>
DEVICE void tile_fetch_weights(const struct tile_args &a, struct tile_fetch &f,
                               unsigned char *stage)
{
    constexpr int HALF = TILE_THREADS / 2, PASSES = BITS / 2;
    const int strip_bytes = 4 * a.unit_bytes;
    unsigned char *to = stage + f.to_units;
#pragma unroll
    for (int i = 0; i < PASSES; i++)
        cp_async16(to + i * HALF * 16, f.units + i * HALF * 16, true);
    if ((int)threadIdx.x % HALF * 16 < strip_bytes - PASSES * HALF * 16)
        cp_async16(to + PASSES * HALF * 16, f.units + PASSES * HALF * 16, true);
    f.units += strip_bytes;
}
/* x rows of a stage: ROW_BYTES of each of TOKENS tokens. */
template <int TOKENS, int ROW_BYTES>
DEVICE void tile_fetch_x(const struct tile_args &a, struct tile_fetch &f, unsigned char *stage)
{
    constexpr int PIECES = ROW_BYTES / 16, PASS = TILE_THREADS / PIECES;
    unsigned char *to = stage + f.to_x;
    if (PASS <= TOKENS || (int)threadIdx.x / PIECES < TOKENS) {
        const uint8_t *from = f.x;
#pragma unroll
        for (int i = 0; i < TOKENS; i += PASS, from += a.x_pass)
            cp_async16(to + i * TILE_SLAB_ROW, from, i < f.rows);
    }
    f.x += ROW_BYTES;
}
/* All but the newest stages - 2 commits of this thread have landed. */
DEVICE void tile_wait(int stages)
{
    if (stages == 4)
        cp_async_wait<2>();
    else if (stages == 3)
        cp_async_wait<1>();
    else
        cp_async_wait<0>();
}

/* ---- sums of splits -----------------------------------------------------------------------------
 */

/* Each split leaves its sums in `partial`; the last one to come adds all of them in their order, so
 * that the bits do not depend on who was last. False: this block is done. */
template <int N>
DEVICE bool tile_sum_splits(const struct tile_args &a, float (&sums)[N][4], unsigned char *shared)
{
    if (a.splits == 1)
        return true;
    const uint32_t tile = blockIdx.y * gridDim.x + blockIdx.x;
    constexpr size_t step = (size_t)N * 4 * TILE_THREADS; /* floats of a split's sums */
    float *mine = a.partial + (size_t)tile * (size_t)a.splits * step + threadIdx.x;
#pragma unroll
    for (int i = 0; i < N * 4; i++)
        mine[blockIdx.z * step + (size_t)i * TILE_THREADS] = sums[i / 4][i % 4];
    device_fence();
    block_sync();
    uint32_t *last = (uint32_t *)(void *)shared;
    if (threadIdx.x == 0)
        *last = ticket(&a.tickets[tile], 1);
    block_sync();
    if (*last != (uint32_t)a.splits - 1)
        return false;
#pragma unroll
    for (int i = 0; i < N * 4; i++)
        sums[i / 4][i % 4] = 0.0f;
    for (int s = 0; s < a.splits; s++)
#pragma unroll
        for (int i = 0; i < N * 4; i++)
            sums[i / 4][i % 4] += ld_other_f32(mine + (size_t)s * step + (size_t)i * TILE_THREADS);
    if (threadIdx.x == 0)
        st_release(&a.tickets[tile], 0);
    block_sync(); /* `last` is read before the way out overwrites it */
    return true;
}

/* ---- the way out --------------------------------------------------------------------------------
 */

/* Sums of a warp's fragments (16 M outputs, 8 N tokens; see mma_f16's d) to out[token][output]. */
template <int M, int N> DEVICE void tile_to_shared(const float (&sums)[M * N][4], float *out)
{
    const int warp_m = warp_id() % (TILE_WARPS / M), warp_n = warp_id() / (TILE_WARPS / M);
    const int g = lane_id() / 4, q = lane_id() % 4;
    float *to = out + (warp_n * N * 8 + 2 * q) * TILE_OUT_STRIDE + warp_m * M * 16 + g;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[(n * 8 + i % 2) * TILE_OUT_STRIDE + m * 16 + i / 2 * 8] = sums[m * N + n][i];
}

/* A thread's four neighbouring outputs of a strip: factors and bias, the same for all tokens. */
struct tile_quad {
    float factor[4], bias[4];
    int n_valid; /* of the four */
};
DEVICE struct tile_quad tile_quad_of(const struct tile_strip &s, int at)
{
    struct tile_quad quad;
    quad.n_valid = s.units == NULL ? 0 : max(0, min(4, s.n_outs - at));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const bool valid = i < quad.n_valid;
        quad.factor[i] = valid ? s.row_factor[at + i] : 0.0f;
        quad.bias[i] = valid && s.bias != NULL ? s.bias[at + i] : 0.0f;
    }
    return quad;
}
DEVICE void tile_values(const struct gemm_out &out, const struct tile_quad &quad, const float *sums,
                        float x_scale, float (&v)[4])
{
    const uint4 bits = ld128(sums);
    const uint32_t words[4] = { bits.x, bits.y, bits.z, bits.w };
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] =
            out_value(out, fma_f32(f32_of_bits(words[i]), quad.factor[i] * x_scale, quad.bias[i]));
}
/* v to y[row][col ..], the first n of them. */
DEVICE void tile_store(const struct tile_args &a, int row, int col, int n, float (&v)[4])
{
    if (n < 4 || !a.out_wide || col % 4 != 0) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < n)
                out_store(a.out, row, col + i, v[i]);
        return;
    }
    const int64_t at = (int64_t)row * a.out.stride + col;
    const bool add = a.out.epilogue == EPILOGUE_ADD;
    if (a.out.dtype == DTYPE_F32) {
        float *y = (float *)a.out.y + at;
        if (add) {
            const uint4 old = ld128(y);
            v[0] = f32_of_bits(old.x) + v[0], v[1] = f32_of_bits(old.y) + v[1];
            v[2] = f32_of_bits(old.z) + v[2], v[3] = f32_of_bits(old.w) + v[3];
        }
        uint4 bits;
        bits.x = f32_bits(v[0]), bits.y = f32_bits(v[1]);
        bits.z = f32_bits(v[2]), bits.w = f32_bits(v[3]);
        st128(y, bits);
    } else {
        uint64_t *y = (uint64_t *)(void *)((uint16_t *)a.out.y + at);
        if (add) {
            const uint64_t old = *y;
            const uint32_t low = (uint32_t)old, high = (uint32_t)(old >> 32);
            v[0] = bf16_low(low) + v[0], v[1] = bf16_high(low) + v[1];
            v[2] = bf16_low(high) + v[2], v[3] = bf16_high(high) + v[3];
        }
        *y = (uint64_t)bf16_pair(v[2], v[3]) << 32 | bf16_pair(v[0], v[1]);
    }
}
/* STORE, ADD: a warp writes the 128 outputs of a token; a thread keeps its four outputs. */
template <int TOKENS>
DEVICE void tile_store_rows(const struct tile_args &a, const float *sums, const float *x_scale)
{
    const int quad_at = lane_id() * 4, half = quad_at / F64_STRIP_ROWS;
    const struct tile_strip s = tile_strip_of(a, half);
    const struct tile_quad quad = tile_quad_of(s, quad_at % F64_STRIP_ROWS);
    const int first = tile_first_row<TOKENS>(a), end = tile_rows_end(a);
    for (int token = warp_id(); token < TOKENS; token += TILE_WARPS) {
        const int row = first + token;
        if (row >= end || quad.n_valid == 0)
            break;
        float v[4];
        tile_values(a.out, quad, sums + token * TILE_OUT_STRIDE + quad_at,
                    x_scale == NULL ? 1.0f : x_scale[row], v);
        tile_store(a, tile_row_out(a, row), s.col + quad_at % F64_STRIP_ROWS, quad.n_valid, v);
    }
}
/* GATE: half a warp writes the 64 gated outputs of a token. */
template <int TOKENS>
DEVICE void tile_store_gated(const struct tile_args &a, const float *sums, const float *x_scale)
{
    const int quad_at = lane_id() % 16 * 4;
    const struct tile_strip s = tile_strip_of(a, 0), up = tile_strip_of(a, 1);
    const struct tile_quad gate_quad = tile_quad_of(s, quad_at),
                           up_quad = tile_quad_of(up, quad_at);
    const int first = tile_first_row<TOKENS>(a), end = tile_rows_end(a);
    for (int token = (int)threadIdx.x / 16; token < TOKENS; token += TILE_THREADS / 16) {
        const int row = first + token;
        if (row >= end || gate_quad.n_valid == 0)
            break;
        const float scale = x_scale == NULL ? 1.0f : x_scale[row];
        const float *from = sums + token * TILE_OUT_STRIDE + quad_at;
        float v[4], u[4];
        tile_values(a.out, gate_quad, from, scale, v);
        tile_values(a.out, up_quad, from + F64_STRIP_ROWS, scale, u);
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = gate_of(a.out.gate, v[i]) * u[i];
        tile_store(a, tile_row_out(a, row), s.col + quad_at, gate_quad.n_valid, v);
    }
}
/* Everything after the sums: splits, shared memory (the ring's, free by now), y. */
template <int M, int N>
DEVICE void tile_finish(const struct tile_args &a, float (&sums)[M * N][4], unsigned char *shared,
                        const float *x_scale)
{
    constexpr int TOKENS = M * N * 8; /* M warps side by side along the tokens */
    block_sync();                     /* every warp has read the last stage */
    if (!tile_sum_splits(a, sums, shared))
        return;
    float *out = (float *)(void *)shared;
    tile_to_shared<M, N>(sums, out);
    block_sync();
    if (a.out.epilogue == EPILOGUE_GATE)
        tile_store_gated<TOKENS>(a, out, x_scale);
    else
        tile_store_rows<TOKENS>(a, out, x_scale);
}

/* ---- host: from the op to the launch
 * --------------------------------------------------------------
 */

struct tile_plan {
    int32_t tokens; /* of a block: 8, 32, 64 */
    int32_t tiles_x, tiles_y, splits;
    int32_t stages, stage_bytes;
    size_t shared_bytes;
};
static inline int32_t tile_pairs(const struct f64_matrix *w, bool gate)
{
    int32_t n = 0;
    for (int32_t p = 0; p < w->n_parts; p++)
        n += f64_strips(w->parts[p].n_out);
    return gate ? f64_strips(w->parts[0].n_out) : (n + 1) / 2;
}
static inline size_t tile_partial_bytes(const struct tile_plan *plan)
{
    return plan->splits == 1
               ? 0
               : (size_t)plan->tiles_x * (size_t)plan->tiles_y * (size_t)plan->splits *
                     (size_t)plan->tokens * TILE_OUTS * sizeof(float);
}
static inline int32_t tile_blocks(int32_t tokens, const struct device_info *device)
{
    const int32_t arch = device->arch;
    return tokens == 64 && (arch == 86 || arch == 89 || arch >= 120) ? 1 : 2;
}
/* Stages for `blocks` rings an SM, or for one where two stages of each do not fit. Two are enough:
 * with two blocks a stage has the time of two to land. */
static inline int32_t tile_stages(int32_t stage_bytes, int32_t fixed_bytes, int32_t blocks,
                                  const struct device_info *device)
{
    /* 1 KB is reserved a block */
    const int32_t all = device->shared_bytes - fixed_bytes,
                  half = (device->shared_bytes - 1024) / 2 - fixed_bytes;
    const int32_t n = (blocks == 2 && half >= 2 * stage_bytes ? half : all) / stage_bytes;
    return n < TILE_STAGES_MAX ? n : TILE_STAGES_MAX; /* below 2: does not fit */
}
/* Splits of the inputs: when tiles leave SMs idle, as many as keep two blocks on each, but at least
 * four blocks of 128 inputs a split: less does not fill the ring. */
static inline int32_t tile_splits(int32_t tiles, int32_t blocks, const struct device_info *device)
{
    if (tiles >= device->n_sms || tiles > GEMM_TICKETS)
        return 1;
    int32_t n = 2 * device->n_sms / tiles;
    n = n < blocks / 4 ? n : blocks / 4;
    n = n < TILE_SPLITS_MAX ? n : TILE_SPLITS_MAX;
    return n > 1 ? n : 1;
}
/* x_bytes: of x and extra in a stage; fixed_bytes: before the ring; sm_blocks: what the kernel
 * states; splits 0: our choice. */
static inline struct tile_plan tile_plan_of(const struct f64_matrix *w, int32_t rows, bool gate,
                                            int32_t splits, int32_t tokens, int32_t x_bytes,
                                            int32_t fixed_bytes, int32_t sm_blocks,
                                            const struct device_info *device)
{
    struct tile_plan plan;
    const int32_t blocks = f64_blocks(w->n_in);
    plan.tokens = tokens;
    plan.tiles_x = (rows + tokens - 1) / tokens;
    plan.tiles_y = tile_pairs(w, gate);
    plan.splits = splits == 0 ? tile_splits(plan.tiles_x * plan.tiles_y, blocks, device) : splits;
    if (plan.splits > blocks)
        plan.splits = blocks;
    plan.stage_bytes = 8 * f64_unit_bytes(w->kind) + x_bytes;
    plan.stages = tile_stages(plan.stage_bytes, fixed_bytes, sm_blocks, device);
    plan.shared_bytes = (size_t)fixed_bytes + (size_t)plan.stages * (size_t)plan.stage_bytes;
    const size_t out_bytes = (size_t)fixed_bytes + (size_t)tokens * TILE_OUT_STRIDE * sizeof(float);
    if (plan.shared_bytes < out_bytes)
        plan.shared_bytes = out_bytes;
    return plan;
}
/* What both kernels ask of an op; pointers of x are not looked at: x may not be prepared yet. */
static inline bool tile_fits(const struct gemm_op *op, const struct device_info *device)
{
    const struct f64_kind *kind = &op->w.kind;
    if (op->rows < 1 || device->arch < 80 || op->qkv != NULL || op->w.n_parts < 1 || op->splits < 0)
        return false;
    if ((kind->bits != 4 && kind->bits != 8) ||
        (kind->group != 32 && kind->group != 64 && kind->group != 128))
        return false;
    if (op->out.dtype != DTYPE_BF16 && op->out.dtype != DTYPE_F32)
        return false;
    return op->out.epilogue != EPILOGUE_GATE ||
           (op->w.n_parts == 2 && op->w.parts[0].n_out == op->w.parts[1].n_out);
}
/* Shared memory for a ring; and memory for the splits that the op fixes. */
static inline bool tile_plan_fits(const struct gemm_op *op, const struct tile_plan *plan,
                                  const struct device_info *device)
{
    if (plan->stages < 2 || plan->shared_bytes > (size_t)device->shared_bytes)
        return false;
    return op->splits == 0 || plan->splits == 1 ||
           (plan->tiles_x * plan->tiles_y <= GEMM_TICKETS &&
            tile_partial_bytes(plan) <= op->partial_bytes);
}
/* x_size: bytes of an element of x. Splits of our own choice shrink to the partial sums there is
 * memory for; a fixed number does not. */
static inline struct tile_args tile_args_of(const struct gemm_op *op, struct tile_plan *plan,
                                            int32_t x_size)
{
    const struct f64_kind *kind = &op->w.kind;
    struct tile_args a = {};
    for (int32_t p = 0; p < op->w.n_parts; p++) {
        a.parts[p] = op->w.parts[p];
        a.strips[p] = f64_strips(op->w.parts[p].n_out);
    }
    while (op->splits == 0 && tile_partial_bytes(plan) > op->partial_bytes)
        plan->splits--;
    a.n_parts = op->w.n_parts;
    a.blocks = f64_blocks(op->w.n_in);
    a.unit_bytes = f64_unit_bytes(*kind);
    a.group_shift = kind->group == 32 ? 0 : kind->group == 64 ? 1 : 2;
    a.scale_at = f64_code_bytes(kind->bits);
    a.zero_at = a.scale_at + F64_UNIT_COLS / kind->group * 32;
    a.rows = op->rows;
    a.x = (const uint8_t *)op->x;
    a.x_stride = op->x_stride * x_size;
    a.x_pass = a.x_stride * (TILE_THREADS / (TILE_K * x_size / 16));
    a.x_scale = op->x_scale;
    a.x_sum = op->x_sum;
    a.out = op->out;
    const uintptr_t wide = op->out.dtype == DTYPE_F32 ? 16 : 8;
    a.out_wide = (uintptr_t)op->out.y % wide == 0 && op->out.stride % 4 == 0;
    a.stages = plan->stages;
    a.stage_bytes = plan->stage_bytes;
    a.last_stage = (plan->stages - 1) * plan->stage_bytes;
    a.splits = plan->splits;
    a.partial = op->partial;
    a.tickets = op->tickets;
    if (op->groups != NULL) {
        a.tiles = op->groups->tiles;
        a.row_map = op->groups->rows;
        for (int32_t p = 0; p < op->w.n_parts; p++) {
            a.part_stride[p] = op->groups->part_stride[p];
            a.bias_stride[p] = op->groups->bias_stride[p];
        }
    }
    for (int i = 0; i < 16 && kind->table != NULL; i++)
        a.table[i] = kind->table[i];
    return a;
}
