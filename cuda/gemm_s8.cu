/* gemm_s8.cu - F64 weights x int8 rows by mma.sync m16n8k32: W4A8 and W8A8, for who asks for it.
 *
 *   v[r][o] = (sum over groups G of scale[o][G] * x_scale[r][chunk] * p[r][o][G])
 *             * row_factor[o] + bias[o], then the epilogue
 *   p[r][o][G] = sum over i in G of (code[o][i] - zero[o][G]) * x[r][i]
 *   w: F64, int4 or int8, groups of 32, 64, 128; symmetric, zeros, fractions
 *   x: int8 [rows][n_in padded to 128] in prepare_s8's order, x_scale per (row, 128 inputs =
 *      chunk), x_sum per (row, 32 inputs); sums are read for zeros only
 *
 * Moves half of gemm_mma's x and the same weights, at twice the MMA rate: 64 tokens x 128 outputs x
 * 128 inputs are 256 MMAs a block, 512 clocks of an A100's SM (2048 products a clock). sm_80's
 * code for them takes 2512 issue slots (int4 symmetric, 314 a warp), 628 clocks: 256 for MMAs, 768
 * for folds, about 650 for codes (each weight twice). Issue slots are the limit, hence:
 *
 *   - Codes are made signed without a subtraction, so that a symmetric zero needs no sum of x.
 *     int4: 16 (code - 8) is a nibble in the high half of a byte with its top bit turned over
 *     (shift, LOP3); the 16 goes into the scale. int8: code - 128 is the byte with its top bit
 *     turned over.
 *   - Integer sums begin at 1.5 * 2^23 as a float's bits: read as a float, minus 1.5 * 2^23, they
 *     are the sum, exactly, without a conversion (a quarter of the rate). A group's sum is below
 *     2^22.
 *   - Other zeros come off in fp32: sum -= scale * (zero - 8) * x_scale * x_sum, whole or fractions
 *     alike, when the group begins: a lane makes x_scale * x_sum of one token and hands it to the
 *     lanes of the same column, so that nothing waits in registers for the group's end.
 *
 *   grid and warps as gemm_mma.cu: (tokens / 64, pairs of strips, splits), 8 warps of 32 x 32;
 *   rows <= 32: 8 warps of 16 x 32. Stages of the ring end with
 *
 *     x [4 slabs] | x_scale [tokens]
 *     x [4 slabs] | [tokens] of x_sum[4], x_scale, 12 bytes of nothing      with zeros */
#include "cuda/dequant.cuh"
#include "cuda/gemm_tile.cuh"

enum {
    S8_X_BYTES = TILE_K,    /* of a token in a stage */
    S8_STEPS = TILE_K / 32, /* of a stage: one MMA deep */
    S8_TOKEN_BYTES = 32,    /* of a token, with zeros: 4 sums, the scale, nothing */
    S8_SCALE_AT = 16,
    S8_ORIGIN = 0x4b400000, /* 1.5 * 2^23 */
};
/* Blocks an SM. Smaller groups of 64 tokens: one, because folds in every step want more than 128
 * registers. */
#define S8_BLOCKS(whole, m, blocks) ((whole) || (m) == 1 ? (blocks) : 1)
static_assert(16 * 8 * 128 * TILE_K < 1 << 22,
              "int4: a group's sum leaves the float's exponent alone");
static_assert(128 * 128 * TILE_K < 1 << 22, "int8: likewise");

/* ---- into shared memory -------------------------------------------------------------------------
 */

/* Scales (and sums) of x, a token a thread; `chunk`: this thread's, of all rows * blocks. */
template <bool ZEROS, int TOKENS>
DEVICE void s8_fetch_scales(const struct tile_args &a, int chunk, unsigned char *stage)
{
    if ((int)threadIdx.x >= TOKENS)
        return;
    const bool valid = chunk < a.rows * a.blocks;
    unsigned char *to = stage + 8 * a.unit_bytes + S8_STEPS * TILE_SLAB(TOKENS) +
                        (int)threadIdx.x * (ZEROS ? S8_TOKEN_BYTES : 4);
    if (ZEROS)
        cp_async16(to, a.x_sum + (int64_t)chunk * S8_STEPS, valid);
    cp_async4(ZEROS ? to + S8_SCALE_AT : to, a.x_scale + chunk, valid);
}

/* ---- fragments ----------------------------------------------------------------------------------
 */

/* Where this lane reads in a stage. An ldmatrix.x4 is 16 tokens x 32 inputs. */
struct s8_lane {
    int weights; /* its 16 bytes of atom 0 of the warp's first unit */
    int scales;  /* its row pair's scale of group 0 */
    int x;       /* its row of slab 0 */
    int pair;    /* what is kept of tokens 2q, 2q + 1 of its first tile */
};
template <bool ZEROS, int M, int N> DEVICE struct s8_lane s8_lane_of(const struct tile_args &a)
{
    constexpr int TOKENS = M * N * 8;
    const int lane = lane_id(), matrix = lane / 8;
    const int warp_m = warp_id() % (TILE_WARPS / M), warp_n = warp_id() / (TILE_WARPS / M);
    const int x_at = 8 * a.unit_bytes;
    const int token = warp_n * N * 8 + lane % 8 + matrix / 2 * 8,
              pair = warp_n * N * 8 + lane % 4 * 2;
    struct s8_lane at;
    at.weights = warp_m * M * a.unit_bytes + lane * 16;
    at.scales = warp_m * M * a.unit_bytes + lane / 4 * 4;
    at.x = x_at + tile_x_at<TOKENS>(token, matrix % 2);
    at.pair = x_at + S8_STEPS * TILE_SLAB(TOKENS) + pair * (ZEROS ? S8_TOKEN_BYTES : 4);
    return at;
}

/* What the MMAs read, loaded a step (weights: an atom) before its first use: two of each. */
template <int M, int N> struct s8_fragments {
    uint32_t b[2][N / 2][4]; /* tokens n, n + 8: b0, b1 each */
    uint4 w[2][M];
    uint32_t scales[M]; /* rows g, g + 8 of this group */
};
template <int BITS, int M, int N>
DEVICE void s8_load(struct s8_fragments<M, N> &f, const struct tile_args &a,
                    const struct s8_lane &at, const unsigned char *stage, int step)
{
    constexpr int ATOM = 8 / BITS; /* steps of an atom */
#pragma unroll
    for (int n = 0; n < N / 2; n++)
        ldsm_x4(f.b[step % 2][n],
                stage + at.x + step * TILE_SLAB(M * N * 8) + n * 16 * TILE_SLAB_ROW);
    if (step % ATOM == 0) {
#pragma unroll
        for (int m = 0; m < M; m++)
            f.w[step / ATOM % 2][m] =
                ld128(stage + at.weights + m * a.unit_bytes + step / ATOM * F64_ATOM_BYTES);
    }
}

/* Signed codes of a step: int4 16 (code - 8), int8 code - 128. */
DEVICE uint32_t signed_low(uint32_t w)
{
    return (w << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
}
DEVICE uint32_t signed_high(uint32_t w)
{
    return (w & 0xf0f0f0f0u) ^ 0x80808080u;
}
template <int BITS> DEVICE void s8_weights(uint32_t (&r)[4], const uint4 &w, int step)
{
    if (BITS == 4) {
        const uint32_t tile0 = step % 2 == 0 ? w.x : w.z, tile1 = step % 2 == 0 ? w.y : w.w;
        r[0] = signed_low(tile0);
        r[1] = signed_high(tile0);
        r[2] = signed_low(tile1);
        r[3] = signed_high(tile1);
    } else {
        r[0] = w.x ^ 0x80808080u;
        r[1] = w.y ^ 0x80808080u;
        r[2] = w.z ^ 0x80808080u;
        r[3] = w.w ^ 0x80808080u;
    }
}
template <int BITS, int M, int N>
DEVICE void s8_multiply(int32_t (&group)[M * N][4], const struct s8_fragments<M, N> &f, int step,
                        bool first)
{
    const int atom = step / (8 / BITS) % 2;
#pragma unroll
    for (int m = 0; m < M; m++) {
        uint32_t r[4];
        s8_weights<BITS>(r, f.w[atom][m], step);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t(&b)[4] = f.b[step % 2][n / 2];
            const int at = n % 2 * 2;
            if (first)
                mma_s8_from(group[m * N + n], r, b[at], b[at + 1], S8_ORIGIN);
            else
                mma_s8(group[m * N + n], r, b[at], b[at + 1]);
        }
    }
}

/* ---- scales and zeros ---------------------------------------------------------------------------
 */

/* Of a group of weights, with the 16 of int4. */
template <int BITS> DEVICE float s8_scale(uint16_t scale)
{
    return f32_of_f16(scale) * (BITS == 4 ? 1.0f / 16 : 1.0f);
}
/* x_scale times the sum of x over the group that begins with `step`, of one token of a lane's
 * eight: g gives tile n = g / 2, token 2q + g % 2, which the lanes of column q then hand round. */
template <bool WHOLE, int N>
DEVICE float s8_token_sum(const unsigned char *pairs, int step, int group_steps)
{
    static_assert(2 * N == 8, "a token for each g of 8");
    const int g = lane_id() / 4;
    const unsigned char *token = pairs + (g / 2 * 8 + g % 2) * S8_TOKEN_BYTES;
    const int32_t *sums = (const int32_t *)(const void *)token;
    int32_t sum = 0;
    for (int i = 0; i < (WHOLE ? S8_STEPS : group_steps); i++)
        sum += sums[step + i];
    return *(const float *)(const void *)(token + S8_SCALE_AT) * (float)sum;
}
/* A group begins at `step`: its scales. */
template <int M, int N>
DEVICE void s8_begin_group(struct s8_fragments<M, N> &f, const struct tile_args &a,
                           const unsigned char *scales)
{
#pragma unroll
    for (int m = 0; m < M; m++)
        f.scales[m] = *(const uint32_t *)(scales + m * a.unit_bytes + a.scale_at);
}
/* Its zeros come off the total. */
template <int BITS, bool WHOLE, int M, int N>
DEVICE void s8_take_zeros(float (&sums)[M * N][4], const struct s8_fragments<M, N> &f,
                          const struct tile_args &a, const struct s8_lane &at,
                          const unsigned char *stage, const unsigned char *scales, int step,
                          int group_steps)
{
    float low[M], high[M]; /* -scale * (zero - 8) */
#pragma unroll
    for (int m = 0; m < M; m++) {
        const uint32_t zeros = *(const uint32_t *)(scales + m * a.unit_bytes + a.zero_at);
        const float middle = BITS == 4 ? 8.0f : 128.0f;
        low[m] = (middle - f16_low(zeros)) * f16_low(f.scales[m]);
        high[m] = (middle - f16_high(zeros)) * f16_high(f.scales[m]);
    }
    const float token_sum = s8_token_sum<WHOLE, N>(stage + at.pair, step, group_steps);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float x = shfl_f32(token_sum, (n * 2 + i) * 4 + lane_id() % 4);
#pragma unroll
            for (int m = 0; m < M; m++) {
                sums[m * N + n][i] = fma_f32(low[m], x, sums[m * N + n][i]);
                sums[m * N + n][2 + i] = fma_f32(high[m], x, sums[m * N + n][2 + i]);
            }
        }
}
/* The group has ended: its integer sums into the total. */
template <int BITS, bool WHOLE, int M, int N>
DEVICE void s8_fold(float (&sums)[M * N][4], int32_t (&group)[M * N][4],
                    const uint32_t (&scales)[M], const float (&x_scales)[N][2])
{
    const float origin = f32_of_bits(S8_ORIGIN);
#pragma unroll
    for (int m = 0; m < M; m++) {
        const float low = s8_scale<BITS>((uint16_t)scales[m]);
        const float high = s8_scale<BITS>((uint16_t)(scales[m] >> 16));
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int32_t &part = group[m * N + n][i];
                float &sum = sums[m * N + n][i];
                sum = fma_f32(f32_of_bits((uint32_t)part) - origin,
                              (i < 2 ? low : high) * x_scales[n][i % 2], sum);
                if (!WHOLE)
                    part = S8_ORIGIN;
            }
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------
 *
 * WHOLE: groups of 128, known to the compiler. M x N tiles of 16 x 8 a warp. */
template <int BITS, bool ZEROS, bool WHOLE, int M, int N>
KERNEL(TILE_THREADS, S8_BLOCKS(WHOLE, M, TILE_BLOCKS(M *N * 8)))
gemm_s8_tile(const __grid_constant__ struct tile_args a)
{
    constexpr int TOKENS = M * N * 8;
    SHARED(ring);
    const int group_shift = WHOLE ? 2 : a.group_shift, group_mask = (1 << group_shift) - 1;
    const int from = tile_split_from(a, (int)blockIdx.z);
    const int to = tile_split_from(a, (int)blockIdx.z + 1);
    struct tile_fetch fetch = tile_fetch_of<TOKENS, S8_X_BYTES>(a, from);
    int chunk = ((int)blockIdx.x * TOKENS + (int)threadIdx.x) * a.blocks + from;
    const auto fetch_x = [&](unsigned char *stage) {
        tile_fetch_x<TOKENS, S8_X_BYTES>(a, fetch, stage);
        s8_fetch_scales<ZEROS, TOKENS>(a, chunk++, stage);
    };

    /* Fill the ring: weights before the wait for the kernel that makes x. */
#pragma unroll 1
    for (int i = 0; i < a.stages - 1 && from + i < to; i++)
        tile_fetch_weights<BITS>(a, fetch, ring + i * a.stage_bytes);
    griddep_wait();
#pragma unroll 1
    for (int i = 0; i < a.stages - 1; i++) {
        if (from + i < to)
            fetch_x(ring + i * a.stage_bytes);
        cp_async_commit();
    }

    const struct s8_lane at = s8_lane_of<ZEROS, M, N>(a);
    float sums[M * N][4], x_scales[N][2];
    int32_t group[M * N][4];
#pragma unroll
    for (int i = 0; i < M * N * 4; i++) {
        sums[i / 4][i % 4] = 0.0f;
        group[i / 4][i % 4] = S8_ORIGIN;
    }
    struct s8_fragments<M, N> f;
    unsigned char *stage = ring + a.last_stage;

    /* To the next stage, with `left` to go: it has landed, the one before is free and gets what
     * comes next. */
    const auto enter = [&](int left) {
        tile_wait(a.stages);
        block_sync();
        if (left >= a.stages) {
            tile_fetch_weights<BITS>(a, fetch, stage);
            fetch_x(stage);
        }
        cp_async_commit();
        stage = stage == ring + a.last_stage ? ring : stage + a.stage_bytes;
    };
    const auto load_x_scales = [&] {
        const unsigned char *pair = stage + at.pair + (ZEROS ? S8_SCALE_AT : 0);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                x_scales[n][i] = *(
                    const float *)(const void *)(pair + (n * 8 + i) * (ZEROS ? S8_TOKEN_BYTES : 4));
    };

    enter(to - from);
    s8_load<BITS>(f, a, at, stage, 0);
    for (int left = to - from; left > 0; left--) {
#pragma unroll
        for (int step = 0; step < S8_STEPS; step++) {
            if (WHOLE ? step == 0 : (step & group_mask) == 0) {
                const unsigned char *scales = stage + at.scales + (step >> group_shift) * 32;
                s8_begin_group(f, a, scales);
                if (ZEROS)
                    s8_take_zeros<BITS, WHOLE>(sums, f, a, at, stage, scales, step, group_mask + 1);
            }
            const bool ends = WHOLE ? step == S8_STEPS - 1 : ((step + 1) & group_mask) == 0;
            if (ends)
                load_x_scales();
            if (step + 1 < S8_STEPS) {
                s8_load<BITS>(f, a, at, stage, step + 1);
            } else if (left > 1) {
                enter(left - 1);
                s8_load<BITS>(f, a, at, stage, 0);
            }
            s8_multiply<BITS>(group, f, step, WHOLE && step == 0);
            if (ends)
                s8_fold<BITS, WHOLE>(sums, group, f.scales, x_scales);
        }
    }
    griddep_launch();
    tile_finish<M, N>(a, sums, ring, NULL);
}

/* ---- the launcher -------------------------------------------------------------------------------
 */

typedef cudaError_t s8_start(const struct launch *launch, const struct tile_plan *plan,
                             const struct tile_args *args);
template <int BITS, bool ZEROS, bool WHOLE, int M, int N>
static cudaError_t start(const struct launch *launch, const struct tile_plan *plan,
                         const struct tile_args *args)
{
    const dim3 grid((unsigned)plan->tiles_x, (unsigned)plan->tiles_y, (unsigned)plan->splits);
    return LAUNCH((gemm_s8_tile<BITS, ZEROS, WHOLE, M, N>), grid, TILE_THREADS, plan->shared_bytes,
                  launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, *args);
}
static const struct instance {
    int32_t bits;
    bool zeros, whole;
    s8_start *start[2]; /* 32, 64 tokens */
} instances[] = {
#define INSTANCE(bits, zeros, whole)                                                               \
    {                                                                                              \
        bits, zeros, whole,                                                                        \
        {                                                                                          \
            start<bits, zeros, whole, 1, 4>, start<bits, zeros, whole, 2, 4>                       \
        }                                                                                          \
    }
    INSTANCE(4, false, true), INSTANCE(4, false, false), INSTANCE(4, true, true),
    INSTANCE(4, true, false), INSTANCE(8, false, true),  INSTANCE(8, false, false),
    INSTANCE(8, true, false),
#undef INSTANCE
};
static const struct instance *instance_of(const struct f64_kind *kind)
{
    for (const struct instance &i : instances)
        if (i.bits == kind->bits && i.zeros == kind->zeros &&
            (!i.whole || kind->group == F64_UNIT_COLS))
            return &i;
    return NULL;
}
static struct tile_plan plan_of(const struct gemm_op *op, const struct device_info *device)
{
    const bool whole = instance_of(&op->w.kind)->whole;
    const int32_t m = op->rows <= 32 ? 1 : 2, tokens = 32 * m;
    const int32_t x_bytes =
        S8_STEPS * TILE_SLAB(tokens) + tokens * (op->w.kind.zeros ? S8_TOKEN_BYTES : 4);
    return tile_plan_of(&op->w, op->rows, op->out.epilogue == EPILOGUE_GATE, op->splits, tokens,
                        x_bytes, 0, S8_BLOCKS(whole, m, tile_blocks(tokens, device)), device);
}

bool gemm_s8_fits(const struct gemm_op *op, const struct device_info *device)
{
    if (!tile_fits(op, device) || op->w.kind.table != NULL || instance_of(&op->w.kind) == NULL)
        return false;
    const struct tile_plan plan = plan_of(op, device);
    return tile_plan_fits(op, &plan, device);
}
cudaError_t gemm_s8(const struct launch *launch, const struct gemm_op *op)
{
    struct tile_plan plan = plan_of(op, launch->device);
    const struct tile_args args = tile_args_of(op, &plan, 1);
    return instance_of(&op->w.kind)->start[op->rows <= 32 ? 0 : 1](launch, &plan, &args);
}
