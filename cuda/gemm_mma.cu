/* gemm_mma.cu - F64 weights x fp16 rows by mma.sync: sm_80, 86, 89, 120, and the fallback
 * everywhere.
 *
 *   v[r][o] = (sum_i w[o][i] . x[r][i]) * row_factor[o] * x_scale[r] + bias[o], then the epilogue
 *   w: F64, int4 or int8, groups of 32, 64, 128; symmetric, zeros, fractions, table
 *   x: fp16 [rows][n_in padded to 128]
 *
 * Any rows, n_out, n_in. Moves 0.516 B a weight (int4, groups of 128) once per 64 rows, from L2
 * after the first time. Up to about 30 rows the weights' bytes are the limit, then the tensor
 * cores: 64 tokens x 128 outputs x 128 inputs are 512 MMAs of m16n8k16 a block, 1024 clocks of an
 * A100's SM. Of its 4 x 1024 issue slots, sm_80's code takes 2736 (342 a warp): 512 for MMAs, 1152
 * for dequantization (each weight twice, see below), 288 for folds, 128 for ldmatrix, the rest for
 * copies and addresses. Shared memory gives 80 KB, 640 clocks.
 *
 *   grid (tokens / 64, pairs of strips, splits of the inputs), 256 threads:
 *
 *               tokens 0..31  32..63
 *     outputs    +-----------+-----------+      a warp has 32 x 32: 2 x 4 tiles of 16 x 8. Weights
 *      0..31     |  warp 0   |  warp 4   |      are dequantized by two warps, x is read by four:
 *     32..63     |  warp 1   |  warp 5   |      8 warps of 16 x 64 would dequantize once but read x
 *     64..95     |  warp 2   |  warp 6   |      eight times, as many clocks of shared memory as of
 *     96..127    |  warp 3   |  warp 7   |      tensor cores.
 *                +-----------+-----------+
 *   rows <= 32: 8 warps of 16 x 32; rows <= 8: 8 warps of 16 x 8.
 *
 * Scales are applied to the sums: a group has its own fp32 accumulator, added to the total by one
 * FMA an element when the group ends. At 4 FMAs a 16 x 8 tile and group that costs as much as
 * scaling the weights of groups of 128 (4 HMUL2 a 16 x 16 tile, 8 tiles), and weights stay exact:
 * whole numbers below 256, not products rounded to fp16.
 *
 * One order of sums for all tiles: k16 tiles of a group in their order, groups in theirs. So a
 * token's result has the same bits with 1 row as with 1000, as long as `splits` is the same
 * (--invariant). */
#include "cuda/dequant.cuh"
#include "cuda/gemm_tile.cuh"

enum codes { CODES_SYMMETRIC, CODES_ZEROS, CODES_FRACTIONS, CODES_TABLE };
enum {
    MMA_X_BYTES = TILE_K * 2,  /* of a token in a stage */
    MMA_STEPS = TILE_K / 16,   /* k16 tiles of a stage */
    MMA_TABLE_BYTES = 256 * 4, /* pairs of table entries, before the ring */
};

/* ---- fragments ----------------------------------------------------------------------------------
 */

/* Where this lane reads in a stage. An ldmatrix.x4 is 16 tokens x one k16 tile; with 8 tokens it is
 * 8 tokens x two k16 tiles. */
struct mma_lane {
    int weights; /* its 16 bytes of atom 0 of the warp's first unit */
    int scales;  /* its row pair's scale of group 0 */
    int x;       /* its row of slab 0 */
};
template <int M, int N> DEVICE struct mma_lane mma_lane_of(const struct tile_args &a)
{
    const int lane = lane_id(), matrix = lane / 8;
    const int warp_m = warp_id() % (TILE_WARPS / M), warp_n = warp_id() / (TILE_WARPS / M);
    const int token = lane % 8 + (N > 1 ? matrix / 2 * 8 : 0), piece = N > 1 ? matrix % 2 : matrix;
    struct mma_lane at;
    at.weights = warp_m * M * a.unit_bytes + lane * 16;
    at.scales = warp_m * M * a.unit_bytes + lane / 4 * 4;
    at.x = 8 * a.unit_bytes + tile_x_at<M * N * 8>(warp_n * N * 8 + token, piece);
    return at;
}

/* What the MMAs read, loaded a k16 tile (weights: an atom) before its first use: two of each. */
template <int M, int N> struct mma_fragments {
    uint32_t b[2][(N + 1) / 2][4]; /* tokens n, n + 8: b0, b1 each; 8 tokens: tile 0, tile 1 */
    uint4 w[2][M];
    uint32_t scales[M]; /* rows g, g + 8 of this group */
    uint32_t next_scales[M], next_zeros[M];
    uint32_t zero_low[M], zero_high[M]; /* struct zeros4 or zeros8; fractions: the pair in low */
};
/* x of k16 tile `step` of this stage. */
template <int M, int N>
DEVICE void mma_load_x(struct mma_fragments<M, N> &f, const struct mma_lane &at,
                       const unsigned char *stage, int step)
{
    const unsigned char *from = stage + at.x + step * TILE_SLAB(M * N * 8);
    if (N > 1) {
#pragma unroll
        for (int n = 0; n < N / 2; n++)
            ldsm_x4(f.b[step % 2][n], from + n * 16 * TILE_SLAB_ROW);
    } else if (step % 2 == 0) {
        ldsm_x4(f.b[step / 2 % 2][0], from);
    }
}
/* Weights from k16 tile `step` on, if an atom begins there (int4: 4 tiles, int8: 2). */
template <int BITS, int M, int N>
DEVICE void mma_load_weights(struct mma_fragments<M, N> &f, const struct tile_args &a,
                             const struct mma_lane &at, const unsigned char *stage, int step)
{
    constexpr int ATOM = 16 / BITS;
    if (step % ATOM == 0) {
#pragma unroll
        for (int m = 0; m < M; m++)
            f.w[step / ATOM % 2][m] =
                ld128(stage + at.weights + m * a.unit_bytes + step / ATOM * F64_ATOM_BYTES);
    }
}
/* Scales and zeros of the group of k16 tile `step`, to begin when that step does. */
template <enum codes CODES, int M, int N>
DEVICE void mma_load_group(struct mma_fragments<M, N> &f, const struct tile_args &a,
                           const struct mma_lane &at, const unsigned char *stage, int step)
{
    const unsigned char *from = stage + at.scales + (step / 2 >> a.group_shift) * 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
        f.next_scales[m] = *(const uint32_t *)(from + m * a.unit_bytes + a.scale_at);
        if (CODES == CODES_ZEROS || CODES == CODES_FRACTIONS)
            f.next_zeros[m] = *(const uint32_t *)(from + m * a.unit_bytes + a.zero_at);
    }
}
template <int BITS, enum codes CODES, int M, int N>
DEVICE void mma_begin_group(struct mma_fragments<M, N> &f)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
        f.scales[m] = f.next_scales[m];
        if (CODES == CODES_ZEROS && BITS == 4) {
            const struct zeros4 z = zeros4_of(f.next_zeros[m]);
            f.zero_low[m] = z.low, f.zero_high[m] = z.high;
        } else if (CODES == CODES_ZEROS) {
            const struct zeros8 z = zeros8_of(f.next_zeros[m]);
            f.zero_low[m] = z.low, f.zero_high[m] = z.high;
        } else if (CODES == CODES_FRACTIONS) {
            f.zero_low[m] = f.next_zeros[m];
        }
    }
}

/* The A fragment of k16 tile `step` from its atom. */
template <int BITS, enum codes CODES>
DEVICE void mma_weights(uint32_t (&r)[4], const uint4 &w, int step, uint32_t zero_low,
                        uint32_t zero_high, const uint32_t *pairs)
{
    if (BITS == 4) {
        const int t = step % 4;
        const uint32_t word = t == 0 ? w.x : t == 1 ? w.y : t == 2 ? w.z : w.w;
        if (CODES == CODES_TABLE)
            dequant_table(r, word, pairs);
        else
            dequant4(r, word,
                     CODES == CODES_ZEROS       ? zeros4{ zero_low, zero_high }
                     : CODES == CODES_FRACTIONS ? zeros4_none()
                                                : zeros4_symmetric());
    } else {
        dequant8(r, step % 2 == 0 ? w.x : w.z, step % 2 == 0 ? w.y : w.w,
                 CODES == CODES_ZEROS       ? zeros8{ zero_low, zero_high }
                 : CODES == CODES_FRACTIONS ? zeros8_none()
                                            : zeros8_symmetric());
    }
    if (CODES == CODES_FRACTIONS)
        subtract_zeros(r, zero_low);
}
template <int BITS, enum codes CODES, int M, int N>
DEVICE void mma_multiply(float (&group)[M * N][4], const struct mma_fragments<M, N> &f, int step,
                         const uint32_t *pairs)
{
    const int atom = step / (16 / BITS) % 2;
#pragma unroll
    for (int m = 0; m < M; m++) {
        uint32_t r[4];
        mma_weights<BITS, CODES>(r, f.w[atom][m], step, f.zero_low[m], f.zero_high[m], pairs);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int at = N > 1 ? n % 2 * 2 : step % 2 * 2;
            const uint32_t(&b)[4] = f.b[N > 1 ? step % 2 : step / 2 % 2][n / 2];
            mma_f16(group[m * N + n], r, b[at], b[at + 1]);
        }
    }
}
/* The group has ended: its sums times its scales into the total. */
template <int M, int N>
DEVICE void mma_fold(float (&sums)[M * N][4], float (&group)[M * N][4], const uint32_t (&scales)[M])
{
#pragma unroll
    for (int m = 0; m < M; m++) {
        const float low = f16_low(scales[m]), high = f16_high(scales[m]);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &sum = sums[m * N + n][i];
                sum = fma_f32(group[m * N + n][i], i < 2 ? low : high, sum);
                group[m * N + n][i] = 0.0f;
            }
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------
 *
 * WHOLE: groups of 128, known to the compiler. M x N tiles of 16 x 8 a warp. */
template <int BITS, enum codes CODES, bool WHOLE, int M, int N>
KERNEL(TILE_THREADS, TILE_BLOCKS(M *N * 8))
gemm_mma_tile(const __grid_constant__ struct tile_args a)
{
    constexpr int TOKENS = M * N * 8;
    SHARED(shared);
    uint32_t *pairs = (uint32_t *)(void *)shared;
    unsigned char *ring = shared + (CODES == CODES_TABLE ? MMA_TABLE_BYTES : 0);
    const int from = tile_split_from(a, (int)blockIdx.z);
    const int to = tile_split_from(a, (int)blockIdx.z + 1);
    if (a.tiles != NULL) { /* made by the kernel before */
        griddep_wait();
        if (a.tiles[blockIdx.x].expert < 0)
            return;
    }
    struct tile_fetch fetch = tile_fetch_of<TOKENS, MMA_X_BYTES>(a, from);

    /* Fill the ring: weights before the wait for the kernel that makes x. */
#pragma unroll 1
    for (int i = 0; i < a.stages - 1 && from + i < to; i++)
        tile_fetch_weights<BITS>(a, fetch, ring + i * a.stage_bytes);
    if (CODES == CODES_TABLE)
        table_pairs(pairs, a.table, (int)threadIdx.x, TILE_THREADS);
    griddep_wait();
#pragma unroll 1
    for (int i = 0; i < a.stages - 1; i++) {
        if (from + i < to)
            tile_fetch_x<TOKENS, MMA_X_BYTES>(a, fetch, ring + i * a.stage_bytes);
        cp_async_commit();
    }

    const struct mma_lane at = mma_lane_of<M, N>(a);
    float sums[M * N][4], group[M * N][4];
#pragma unroll
    for (int i = 0; i < M * N * 4; i++)
        sums[i / 4][i % 4] = group[i / 4][i % 4] = 0.0f;
    struct mma_fragments<M, N> f;
    unsigned char *stage = ring + a.last_stage;

    /* To the next stage, with `left` to go: it has landed, the one before is free and gets what
     * comes next. */
    const auto enter = [&](int left) {
        tile_wait(a.stages);
        block_sync();
        if (left >= a.stages) {
            tile_fetch_weights<BITS>(a, fetch, stage);
            tile_fetch_x<TOKENS, MMA_X_BYTES>(a, fetch, stage);
        }
        cp_async_commit();
        stage = stage == ring + a.last_stage ? ring : stage + a.stage_bytes;
    };
    /* What step 0..7 of this stage needs. */
    const auto load = [&](int step) {
        mma_load_x(f, at, stage, step);
        mma_load_weights<BITS>(f, a, at, stage, step);
        if (WHOLE ? step == 0 : step % 2 == 0)
            mma_load_group<CODES>(f, a, at, stage, step);
    };

    enter(to - from);
    load(0);
    for (int left = to - from; left > 0; left--) {
#pragma unroll
        for (int step = 0; step < MMA_STEPS; step++) {
            if (WHOLE ? step == 0 : step % 2 == 0)
                mma_begin_group<BITS, CODES>(f);
            if (step + 1 < MMA_STEPS) {
                load(step + 1);
            } else if (left > 1) {
                enter(left - 1);
                load(0);
            }
            mma_multiply<BITS, CODES>(group, f, step, pairs);
            if (WHOLE ? step == MMA_STEPS - 1
                      : step % 2 != 0 && ((step / 2 + 1) & ((1 << a.group_shift) - 1)) == 0)
                mma_fold<M, N>(sums, group, f.scales);
        }
    }
    griddep_launch();
    tile_finish<M, N>(a, sums, ring, a.x_scale);
}

/* ---- the launcher -------------------------------------------------------------------------------
 */

typedef cudaError_t mma_start(const struct launch *launch, const struct tile_plan *plan,
                              const struct tile_args *args);
template <int BITS, enum codes CODES, bool WHOLE, int M, int N>
static cudaError_t start(const struct launch *launch, const struct tile_plan *plan,
                         const struct tile_args *args)
{
    const dim3 grid((unsigned)plan->tiles_x, (unsigned)plan->tiles_y, (unsigned)plan->splits);
    return LAUNCH((gemm_mma_tile<BITS, CODES, WHOLE, M, N>), grid, TILE_THREADS, plan->shared_bytes,
                  launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, *args);
}
/* Fractions and tables are rare: groups of 128 take the way of the smaller ones. */
static const struct instance {
    int32_t bits;
    enum codes codes;
    bool whole;
    mma_start *start[3]; /* 8, 32, 64 tokens */
} instances[] = {
#define INSTANCE(bits, codes, whole)                                                               \
    {                                                                                              \
        bits, codes, whole,                                                                        \
        {                                                                                          \
            start<bits, codes, whole, 1, 1>, start<bits, codes, whole, 1, 4>,                      \
                start<bits, codes, whole, 2, 4>                                                    \
        }                                                                                          \
    }
    INSTANCE(4, CODES_SYMMETRIC, true),  INSTANCE(4, CODES_SYMMETRIC, false),
    INSTANCE(4, CODES_ZEROS, true),      INSTANCE(4, CODES_ZEROS, false),
    INSTANCE(4, CODES_FRACTIONS, false), INSTANCE(4, CODES_TABLE, false),
    INSTANCE(8, CODES_SYMMETRIC, true),  INSTANCE(8, CODES_SYMMETRIC, false),
    INSTANCE(8, CODES_ZEROS, false),     INSTANCE(8, CODES_FRACTIONS, false),
#undef INSTANCE
};
static enum codes codes_of(const struct f64_kind *kind)
{
    return kind->table != NULL ? CODES_TABLE
           : kind->fractions   ? CODES_FRACTIONS
           : kind->zeros       ? CODES_ZEROS
                               : CODES_SYMMETRIC;
}
static const struct instance *instance_of(const struct f64_kind *kind)
{
    const enum codes codes = codes_of(kind);
    for (const struct instance &i : instances)
        if (i.bits == kind->bits && i.codes == codes && (!i.whole || kind->group == F64_UNIT_COLS))
            return &i;
    return NULL;
}
static int32_t tile_index(int32_t rows)
{
    return rows <= 8 ? 0 : rows <= 32 ? 1 : 2;
}
static struct tile_plan plan_tiles(const struct f64_matrix *w, int32_t rows, int32_t tokens,
                                   bool gate, int32_t splits, const struct device_info *device)
{
    return tile_plan_of(w, rows, gate, splits, tokens, MMA_STEPS * TILE_SLAB(tokens),
                        w->kind.table != NULL ? MMA_TABLE_BYTES : 0, tile_blocks(tokens, device),
                        device);
}
static struct tile_plan plan_of(const struct f64_matrix *w, int32_t rows, bool gate, int32_t splits,
                                const struct device_info *device)
{
    const int32_t tokens = rows <= 8 ? 8 : rows <= 32 ? 32 : 64;
    return plan_tiles(w, rows, tokens, gate, splits, device);
}
/* Experts: their own tiles, which fill the machine without splits. */
static struct tile_plan plan_op(const struct gemm_op *op, const struct device_info *device)
{
    const bool gate = op->out.epilogue == EPILOGUE_GATE;
    const struct gemm_groups *groups = op->groups;
    if (groups == NULL)
        return plan_of(&op->w, op->rows, gate, op->splits, device);
    return plan_tiles(&op->w, groups->n_tiles * groups->tokens, groups->tokens, gate, 1, device);
}

bool gemm_mma_fits(const struct gemm_op *op, const struct device_info *device)
{
    const struct f64_kind *kind = &op->w.kind;
    if (!tile_fits(op, device) || instance_of(kind) == NULL || (kind->table != NULL && kind->zeros))
        return false;
    const struct tile_plan plan = plan_op(op, device);
    return tile_plan_fits(op, &plan, device);
}
size_t gemm_mma_workspace(const struct f64_matrix *w, int32_t rows,
                          const struct device_info *device)
{
    const struct tile_plan store = plan_of(w, rows, false, 0, device);
    if (w->n_parts != 2)
        return tile_partial_bytes(&store);
    const struct tile_plan gate = plan_of(w, rows, true, 0, device);
    const size_t a = tile_partial_bytes(&store), b = tile_partial_bytes(&gate);
    return a > b ? a : b;
}
cudaError_t gemm_mma(const struct launch *launch, const struct gemm_op *op)
{
    struct tile_plan plan = plan_op(op, launch->device);
    const struct tile_args args = tile_args_of(op, &plan, 2);
    return instance_of(&op->w.kind)->start[tile_index(plan.tokens)](launch, &plan, &args);
}
