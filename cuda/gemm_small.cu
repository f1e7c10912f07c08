/* gemm_small.cu - K1 and K1b: F64 weights times 1 to 32 rows, the kernel that decides decode speed.
 *
 *   v[r][o] = sum_i w[o][i] . norm(x)[r][i]        w [n_out][n_in] F64, x [rows][n_in] bf16
 *   then gemm_out's STORE, ADD or GATE, or q, k, v to where attention reads them (qkv_out)
 *
 * Moves the packed weights once (int4, group 128: 4.125 bits a weight); x, y and split sums stay in
 * L2. Bound by memory as long as bytes are on their way all the time: a block's ring holds 64 KB,
 * filled before the previous kernel has ended. Per unit of 16 x 128 weights and SM an H200 has 59
 * clocks (int4); dequantizing takes 36 of its logic pipe's, the MMAs 8 to 50 (8 to 32 tokens).
 *
 *            inputs ->   warp 0  warp 1 ... warp 7  warp 0 ...        units of 128 inputs
 *   tile of 16 rows    [ unit ][ unit ]...[ unit ][ unit ] ...       8 warps x UNITS a split
 *                          \______ sums in shared memory _____/ -> epilogue by the block
 *   grid = blocks x splits; block b of a split has items [n b / blocks, n (b + 1) / blocks)
 *
 * x of a warp's inputs stays in its registers as fp16 fragments (tokens on the N side), so one
 * block can hold 4096 inputs of 8 tokens, 2048 of 16, 1024 of 32. More inputs, or too few tiles for
 * the machine: K is split over blocks, and the last block of an item adds the splits in their
 * order. An item is a tile, or two that the epilogue combines: gate and up, the halves of a
 * rotation.
 *
 * A row is scaled by a power of two before it becomes fp16, taken from the whole row with a norm
 * and from the split's inputs without. */
#include <string.h>
#include "cuda/gemm_small.cuh"
#include "cuda/launch.cuh"

static_assert(SMALL_THREADS == 32 * SMALL_WARPS && 8 * 4 == GEMM_SMALL_ROWS, "shapes agree");
static_assert(F64_UNIT_ROWS == 16 && F64_UNIT_COLS == 128 && F64_ATOM_BYTES == 512, "layout F64");
static_assert(sizeof(struct step) == 32 && sizeof(struct small_args) < 4096,
              "tables and parameters");

/* An architecture compiles one of the two copy paths; the other is an empty kernel that the
 * launcher never picks there. The host has both. */
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
#define SMALL_COMPILED(bulk) ((bulk) == SMALL_ARCH_HAS_BULK(__CUDA_ARCH__ / 10))
#else
#define SMALL_COMPILED(bulk) true
#endif

template <int BITS, int ZERO, int TILES, bool FINE, bool BULK>
KERNEL(SMALL_THREADS, 2)
small_kernel(const __grid_constant__ struct small_args a)
{
    SHARED(memory);
    if constexpr (SMALL_COMPILED(BULK))
        small_block<BITS, ZERO, TILES, FINE, BULK>(a, memory);
}

/* ---- instances --------------------------------------------------------------------------------
 */

typedef cudaError_t (*small_start)(const struct launch *launch, int32_t grid,
                                   const struct small_args *a);
struct small_instance {
    small_start start;
    size_t shared_bytes;
};
template <int BITS, int ZERO, int TILES, bool FINE, bool BULK>
static cudaError_t instance_start(const struct launch *launch, int32_t grid,
                                  const struct small_args *a)
{
    return LAUNCH((small_kernel<BITS, ZERO, TILES, FINE, BULK>), dim3((unsigned)grid),
                  SMALL_THREADS, (size_t)(small_layout<BITS, ZERO, TILES, FINE, BULK>::BYTES),
                  launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, *a);
}
#define INSTANCE(bits, zero, tiles, fine, bulk)                                                    \
    {                                                                                              \
        instance_start<bits, zero, tiles, fine, bulk>,                                             \
            (size_t)small_layout<bits, zero, tiles, fine, bulk>::BYTES                             \
    }
#define COPIES(bits, zero, tiles, fine)                                                            \
    {                                                                                              \
        INSTANCE(bits, zero, tiles, fine, false), INSTANCE(bits, zero, tiles, fine, true)          \
    }
#define GROUPS(bits, zero, tiles)                                                                  \
    {                                                                                              \
        COPIES(bits, zero, tiles, false), COPIES(bits, zero, tiles, true)                          \
    }
#define TOKENS(bits, zero)                                                                         \
    {                                                                                              \
        GROUPS(bits, zero, 1), GROUPS(bits, zero, 2), GROUPS(bits, zero, 4)                        \
    }
/* [4 or 8 bits][zeros][8, 16 or 32 tokens][groups below 128][bulk copies] */
static const struct small_instance instances[2][ZERO_KINDS][3][2][2] = {
    { TOKENS(4, ZERO_SYMMETRIC), TOKENS(4, ZERO_WHOLE), TOKENS(4, ZERO_FRACTION),
      TOKENS(4, ZERO_TABLE) },
    { TOKENS(8, ZERO_SYMMETRIC), TOKENS(8, ZERO_WHOLE), TOKENS(8, ZERO_FRACTION) },
};
static enum zero_kind zero_kind_of(const struct f64_kind *kind)
{
    if (kind->table != NULL)
        return ZERO_TABLE;
    if (!kind->zeros)
        return ZERO_SYMMETRIC;
    return kind->fractions ? ZERO_FRACTION : ZERO_WHOLE;
}
/* tiles: 1, 2 or 4 */
static const struct small_instance *instance_of(const struct f64_kind *kind, int32_t tiles,
                                                const struct device_info *device)
{
    return &instances[kind->bits == 8][zero_kind_of(kind)][tiles / 2][kind->group < F64_UNIT_COLS]
                     [SMALL_ARCH_HAS_BULK(device->arch)];
}

/* ---- plan -------------------------------------------------------------------------------------
 */

struct plan {
    int32_t tiles; /* of 8 tokens: 1, 2 or 4 */
    int32_t item_tiles, n_items, splits, grid;
};
static int32_t ceil_of(int32_t n, int32_t by)
{
    return (n + by - 1) / by;
}
static int32_t n_tiles_of(const struct f64_matrix *w)
{
    int32_t n = 0;
    for (int32_t p = 0; p < w->n_parts; p++)
        n += ceil_of(w->parts[p].n_out, F64_UNIT_ROWS);
    return n;
}
/* wanted > 0: bits must not depend on the number of rows: always the instance of 32 tokens, whose
 * splits then depend on n_in alone. */
static struct plan plan_of(const struct f64_matrix *w, int32_t rows, int32_t item_tiles,
                           int32_t wanted, const struct device_info *device)
{
    struct plan plan;
    plan.tiles = wanted > 0 || rows > 16 ? 4 : rows > 8 ? 2 : 1;
    plan.item_tiles = item_tiles;
    plan.n_items = ceil_of(n_tiles_of(w), item_tiles);
    const int32_t blocks = f64_blocks(w->n_in);
    plan.splits = ceil_of(blocks, SMALL_WARPS * (4 / plan.tiles)); /* what registers hold */
    if (wanted > plan.splits)
        plan.splits = wanted < blocks ? wanted : blocks;
    /* Three quarters of the SMs, a ring each, have more bytes on their way than the memory's
     * latency needs; a split leaves every warp at least one unit. */
    while (wanted == 0 && plan.splits < blocks / SMALL_WARPS &&
           plan.n_items * plan.splits < device->n_sms * 3 / 4)
        plan.splits++;
    /* Up to four tiles an SM: one block, so that the next kernel's blocks find room and fill their
     * rings meanwhile. Else two, which hide each other's barriers. */
    const int32_t bytes = (int32_t)instance_of(&w->kind, plan.tiles, device)->shared_bytes;
    const bool two = plan.n_items * item_tiles * plan.splits > 4 * device->n_sms &&
                     2 * (bytes + 1024) <= device->shared_bytes + 1024;
    int32_t n = (two ? 2 : 1) * device->n_sms / plan.splits;
    n = n < 1 ? 1 : n > plan.n_items ? plan.n_items : n;
    const int32_t least = ceil_of(plan.n_items, SMALL_STEPS / item_tiles);
    plan.grid = (n > least ? n : least) * plan.splits;
    return plan;
}
static size_t partial_bytes_of(const struct plan *plan)
{
    if (plan->splits == 1)
        return 0;
    return (size_t)plan->splits * (size_t)(plan->n_items * plan->item_tiles) * 128 *
           (size_t)plan->tiles * sizeof(float);
}
static int32_t item_tiles_of(const struct gemm_op *op)
{
    return op->qkv != NULL || op->out.epilogue == EPILOGUE_GATE ? 2 : 1;
}

/* ---- the launcher -----------------------------------------------------------------------------
 */

static bool aligned16(const void *p)
{
    return ((uintptr_t)p & 15) == 0;
}
static bool qkv_fits(const struct gemm_op *op)
{
    const struct qkv_out *qkv = op->qkv;
    if (qkv->q_gain != NULL || qkv->k_gain != NULL || qkv->head_dim <= 0 || qkv->head_dim % 32 != 0)
        return false;
    if (qkv->kv_dtype != DTYPE_BF16 && qkv->kv_dtype != DTYPE_F16)
        return false;
    if (qkv->inv_freq != NULL) {
        if (qkv->rotary_dim <= 0 || qkv->rotary_dim > qkv->head_dim)
            return false;
        if (qkv->rotary_dim % (qkv->interleaved ? 2 : 32) != 0)
            return false;
    }
    for (int32_t p = 0; p < op->w.n_parts; p++)
        if (op->w.parts[p].n_out % qkv->head_dim != 0)
            return false;
    return op->w.n_out == (qkv->n_heads + 2 * qkv->n_kv_heads) * qkv->head_dim;
}
bool gemm_small_fits(const struct gemm_op *op, const struct device_info *device)
{
    const struct f64_kind *kind = &op->w.kind;
    if (op->rows < 1 || op->rows > GEMM_SMALL_ROWS || device->arch < 80 || op->w.n_parts < 1)
        return false;
    if ((kind->bits != 4 && kind->bits != 8) ||
        (kind->group != 32 && kind->group != 64 && kind->group != 128))
        return false;
    if (kind->table != NULL && (kind->bits != 4 || kind->zeros))
        return false;
    if (!aligned16(op->x) || op->x_stride % 8 != 0 || !aligned16(op->norm.gain) ||
        !aligned16(op->norm.bias))
        return false;
    if (op->norm.gain != NULL && op->w.n_in % 8 != 0)
        return false;
    if (op->qkv != NULL) {
        if (!qkv_fits(op))
            return false;
    } else {
        if (op->out.dtype != DTYPE_BF16 && op->out.dtype != DTYPE_F32)
            return false;
        if (op->out.epilogue == EPILOGUE_GATE &&
            (op->w.n_parts != 2 || op->w.parts[0].n_out != op->w.parts[1].n_out))
            return false;
    }
    const struct plan plan = plan_of(&op->w, op->rows, item_tiles_of(op), op->splits, device);
    const size_t bytes = instance_of(kind, plan.tiles, device)->shared_bytes;
    return bytes <= (size_t)device->shared_bytes && plan.n_items < 1 << 16 &&
           plan.grid / plan.splits < 1 << 12 && (plan.splits == 1 || plan.n_items <= GEMM_TICKETS);
}

size_t gemm_small_workspace(const struct f64_matrix *w, int32_t rows,
                            const struct device_info *device)
{
    /* Pairs have fewer items, so at least as many splits; fixed splits have all 32 tokens. */
    const struct plan plan = plan_of(w, rows, 2, 0, device), fixed = plan_of(w, rows, 2, 1, device);
    const size_t a = partial_bytes_of(&plan), b = partial_bytes_of(&fixed);
    return a > b ? a : b;
}

cudaError_t gemm_small(const struct launch *launch, const struct gemm_op *op)
{
    const struct plan plan =
        plan_of(&op->w, op->rows, item_tiles_of(op), op->splits, launch->device);
    if (partial_bytes_of(&plan) > op->partial_bytes)
        return cudaErrorInvalidValue;
    struct small_args a;
    memset(&a, 0, sizeof a);
    memcpy(a.parts, op->w.parts, sizeof a.parts);
    a.n_parts = op->w.n_parts;
    a.n_in = op->w.n_in;
    a.rows = op->rows;
    a.blocks = f64_blocks(op->w.n_in);
    a.unit_bytes = f64_unit_bytes(op->w.kind);
    a.odd_group = op->w.kind.group == 32 ? 32 : 0;
    if (op->w.kind.table != NULL)
        memcpy(a.table, op->w.kind.table, sizeof a.table);
    a.x = (const uint16_t *)op->x;
    a.x_stride = op->x_stride;
    a.norm = op->norm;
    a.one_nth = 1.0f / (float)op->w.n_in;
    a.out = op->out;
    a.is_qkv = op->qkv != NULL;
    if (a.is_qkv)
        a.qkv = *op->qkv;
    a.item_tiles = plan.item_tiles;
    a.n_items = plan.n_items;
    a.splits = plan.splits;
    a.partial = op->partial;
    a.tickets = op->tickets;
    return instance_of(&op->w.kind, plan.tiles, launch->device)->start(launch, plan.grid, &a);
}
