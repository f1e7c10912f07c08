/* experts.cu - which rows go to which expert, and what becomes of their outputs.
 *
 *   route     ids[r][s], weights[r][s] of the k greatest of E logits      a warp a row
 *   plan      slot rows (r, s) sorted by expert, stably, and cut into tiles of 8, 32 and 64 rows,
 * so that a product's grid knows its rows without the host        one block gate      y[slot] =
 * gate(x[slot][0..n), x[slot][n..2n))                fp32 -> bf16 add       y[r] += scale * sum
 * over s of weights[r][s] * x[r k + s]     fp32 -> bf16, in slot order
 *
 * route and plan move some KB and are bound by latency: plan's slots stand in the order of its
 * warps' segments, a warp counts 32 slots at a time,
 *
 *     slots    0 .. seg | seg .. 2 seg | ...          counts[warp][expert]: slots of an expert in a
 *     warp         0    |      1       | ...          segment, then where the segment's first goes
 *
 * and a slot's place is the expert's start + the segment's offset + its rank in the segment. gate
 * and add are bound by memory. */
#include "cuda/device.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    ROUTE_THREADS = 256,             /* 8 rows */
    ROUTE_EACH = EXPERTS_LIMIT / 32, /* logits of a lane: 32 */
    PLAN_WARPS = 16,
    PLAN_THREADS = PLAN_WARPS * 32,
    ROW_THREADS = 256,
    NAN_LAST = 1 << 16, /* added to the index of a NaN: behind every number */
};
static_assert(EXPERTS_LIMIT % 32 == 0 && (int)EXPERTS_LIMIT < (int)NAN_LAST,
              "an index has room for a mark");

/* ---- route ------------------------------------------------------------------------------------
 */

DEVICE bool comes_first(float v, int at, float other, int other_at)
{
    return v > other || (v == other && at < other_at);
}
/* The best of the lanes' candidates, in every lane. */
DEVICE void best_of_warp(float &v, int &at)
{
    for (int mask = 16; mask > 0; mask /= 2) {
        const float other = shfl_xor_f32(v, mask);
        const int other_at = (int)shfl_xor((uint32_t)at, mask);
        if (comes_first(other, other_at, v, at)) {
            v = other;
            at = other_at;
        }
    }
}
DEVICE float sum_of_warp(float v)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v += shfl_xor_f32(v, mask);
    return v;
}

KERNEL(ROUTE_THREADS, 2) route_kernel(const __grid_constant__ struct route_in a)
{
    const int row = (int)blockIdx.x * (ROUTE_THREADS / 32) + warp_id(), lane = lane_id();
    griddep_wait();
    griddep_launch();
    if (row >= a.rows)
        return;
    int32_t *ids = a.ids + (int64_t)row * a.n_chosen;
    float *weights = a.weights + (int64_t)row * a.n_chosen;
    if (a.positions != NULL && a.positions[row] < 0) { /* padding */
        for (int s = lane; s < a.n_chosen; s += 32) {
            ids[s] = -1;
            weights[s] = 0.0f;
        }
        return;
    }
    const float *x = a.logits + (int64_t)row * a.stride;
    uint32_t chosen = 0; /* bit i: logit lane + 32 i */
    float top = 0.0f, sum = 0.0f;
    for (int s = 0; s < a.n_chosen; s++) {
        float best = -INFINITY;
        int at = 2 * NAN_LAST;
        for (int i = 0; i < ROUTE_EACH; i++) {
            const int e = lane + 32 * i;
            if (e >= a.n_experts || (chosen >> i & 1u) != 0)
                continue;
            const float v = x[e];
            const bool number = v == v;
            const float key = number ? v : -INFINITY;
            const int key_at = number ? e : e + NAN_LAST;
            if (comes_first(key, key_at, best, at)) {
                best = key;
                at = key_at;
            }
        }
        best_of_warp(best, at);
        at %= NAN_LAST;
        if (at % 32 == lane)
            chosen |= 1u << at / 32;
        const float v = x[at];
        top = s == 0 ? v : top;
        const float w = a.kind == ROUTE_SIGMOID ? 1.0f / (1.0f + expf(-v)) : expf(v - top);
        sum += w;
        if (lane == 0) {
            ids[s] = at;
            weights[s] = w;
        }
    }
    if (a.kind == ROUTE_SIGMOID)
        return;
    if (a.kind == ROUTE_SOFTMAX) {
        float all = 0.0f;
        for (int e = lane; e < a.n_experts; e += 32)
            all += expf(x[e] - top);
        sum = sum_of_warp(all);
    }
    if (lane == 0)
        for (int s = 0; s < a.n_chosen; s++)
            weights[s] /= sum;
}

/* ---- plan -------------------------------------------------------------------------------------
 */

struct plan_args {
    const int32_t *ids;
    int32_t n_slots, n_experts, segment; /* segment: slots of a warp, a multiple of 32 */
    struct expert_lists lists;
};

/* This warp's slots of each expert; ranks[i]: slot i's rank among its segment's of its expert. */
DEVICE void count_segment(const struct plan_args &a, int32_t *counts, int32_t *ranks)
{
    const int from = warp_id() * a.segment, lane = lane_id();
    const int to = min(from + a.segment, a.n_slots);
    for (int at = from; at < to; at += 32) {
        const int id = at + lane < to ? a.ids[at + lane] : -1;
        int rank = 0;
        bool last = true;
        for (int j = 0; j < 32; j++) {
            const bool same = (int)shfl((uint32_t)id, j) == id;
            rank += same && j < lane;
            last = last && !(same && j > lane);
        }
        if (id >= 0)
            rank += counts[id];
        warp_sync();
        if (id >= 0) {
            ranks[at + lane] = rank;
            if (last)
                counts[id] = rank + 1;
        }
        warp_sync();
    }
}
DEVICE int tiles_of_rows(int rows, int shift)
{
    return (rows + (1 << shift) - 1) >> shift;
}
/* starts[e], and the first tile of expert e in each list: exclusive sums by one warp. counts are
 * the experts' totals; element n of each array gets the sum of all. */
DEVICE void scan_experts(const int32_t *totals, int32_t *sums, int n, int shift)
{
    const int each = (n + 31) / 32, lane = lane_id(), from = lane * each;
    const int to = min(from + each, n);
    int mine = 0;
    for (int e = from; e < to; e++)
        mine += tiles_of_rows(totals[e], shift);
    int before = mine;
    for (int d = 1; d < 32; d *= 2) {
        const int other = (int)shfl((uint32_t)before, lane >= d ? lane - d : lane);
        before += lane >= d ? other : 0;
    }
    if (lane == 31)
        sums[n] = before;
    before -= mine;
    for (int e = from; e < to; e++) {
        sums[e] = before;
        before += tiles_of_rows(totals[e], shift);
    }
}

KERNEL(PLAN_THREADS, 1) plan_kernel(const __grid_constant__ struct plan_args a)
{
    SHARED(memory);
    const int n = a.n_experts, thread = (int)threadIdx.x;
    int32_t *counts = (int32_t *)(void *)memory; /* [PLAN_WARPS][n] */
    int32_t *totals = counts + PLAN_WARPS * n;   /* [n] */
    int32_t *starts = totals + n;                /* [1 + EXPERT_LISTS][n + 1] */
    for (int i = thread; i < PLAN_WARPS * n; i += PLAN_THREADS)
        counts[i] = 0;
    block_sync();
    griddep_wait();
    count_segment(a, counts + warp_id() * n, a.lists.ranks);
    block_sync();

    /* counts: of a segment -> of the segments before it */
    for (int e = thread; e < n; e += PLAN_THREADS) {
        int before = 0;
        for (int w = 0; w < PLAN_WARPS; w++) {
            const int here = counts[w * n + e];
            counts[w * n + e] = before;
            before += here;
        }
        totals[e] = before;
    }
    block_sync();
    if (warp_id() < 1 + EXPERT_LISTS)
        scan_experts(totals, starts + warp_id() * (n + 1), n,
                     warp_id() == 0 ? 0 : EXPERT_TILE_SHIFT(warp_id() - 1));
    block_sync();

    /* places; the rest of `sorted` is nobody's */
    for (int i = thread; i < a.n_slots; i += PLAN_THREADS) {
        const int id = a.ids[i];
        if (id >= 0)
            a.lists.sorted[starts[id] + counts[i / a.segment * n + id] + a.lists.ranks[i]] = i;
        if (i >= starts[n])
            a.lists.sorted[i] = -1;
    }
    /* tiles */
    for (int list = 0; list < EXPERT_LISTS; list++) {
        const int32_t *first = starts + (1 + list) * (n + 1);
        const int rows = 1 << EXPERT_TILE_SHIFT(list);
        for (int e = thread; e < n; e += PLAN_THREADS)
            for (int t = first[e]; t < first[e + 1]; t++) {
                const int done = (t - first[e]) * rows;
                const struct expert_tile tile = { e, starts[e] + done, min(rows, totals[e] - done),
                                                  0 };
                a.lists.tiles[list][t] = tile;
            }
        for (int t = first[n] + thread; t < a.lists.n_tiles[list]; t += PLAN_THREADS) {
            const struct expert_tile none = { -1, 0, 0, 0 };
            a.lists.tiles[list][t] = none;
        }
    }
    griddep_launch();
}

/* ---- outputs ----------------------------------------------------------------------------------
 */

KERNEL(ROW_THREADS, 2) experts_gate_kernel(const __grid_constant__ struct experts_gate_in a)
{
    const int slot = (int)blockIdx.y, col = (int)blockIdx.x * ROW_THREADS + (int)threadIdx.x;
    griddep_wait();
    griddep_launch();
    if (col >= a.n || a.ids[slot] < 0)
        return;
    const float *x = a.x + (int64_t)slot * a.x_stride;
    float g = x[col], u = x[a.n + col];
    if (a.gate == GATE_SWIGLU_CLAMPED) {
        g = g > a.limit ? a.limit : g;
        u = u > a.limit ? a.limit : u < -a.limit ? -a.limit : u;
        g = g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
    } else {
        g = gate_of(a.gate, g) * u;
    }
    ((uint16_t *)a.y)[(int64_t)slot * a.y_stride + col] = bf16_of(g);
}
KERNEL(ROW_THREADS, 2) experts_add_kernel(const __grid_constant__ struct experts_add_in a)
{
    const int row = (int)blockIdx.y, col = (int)blockIdx.x * ROW_THREADS + (int)threadIdx.x;
    griddep_wait();
    griddep_launch();
    if (col >= a.n)
        return;
    const int32_t *ids = a.ids + (int64_t)row * a.n_chosen;
    const float *weights = a.weights + (int64_t)row * a.n_chosen;
    const float *x = a.x + (int64_t)row * a.n_chosen * a.x_stride + col;
    float sum = 0.0f;
    if (ids[0] < 0)
        return;
    for (int s = 0; s < a.n_chosen; s++)
        sum = fma_f32(weights[s], x[s * a.x_stride], sum);
    uint16_t *y = (uint16_t *)a.y + (int64_t)row * a.y_stride + col;
    *y = bf16_of(fma_f32(sum, a.scale, f32_of_bf16(*y)));
}

/* ---- launchers --------------------------------------------------------------------------------
 */

static int32_t flags_of(const struct launch *launch)
{
    return launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN;
}
cudaError_t experts_route(const struct launch *launch, const struct route_in *op)
{
    const int32_t per_block = ROUTE_THREADS / 32;
    return LAUNCH((route_kernel), dim3((unsigned)((op->rows + per_block - 1) / per_block)),
                  ROUTE_THREADS, 0, launch->stream, flags_of(launch), *op);
}
int32_t experts_tiles_max(int32_t list, int32_t n_slots, int32_t n_experts)
{
    return n_slots / (1 << EXPERT_TILE_SHIFT(list)) + (n_experts < n_slots ? n_experts : n_slots);
}
cudaError_t experts_plan(const struct launch *launch, const int32_t *ids, int32_t n_slots,
                         int32_t n_experts, const struct expert_lists *lists)
{
    struct plan_args a;
    a.ids = ids;
    a.n_slots = n_slots;
    a.n_experts = n_experts;
    a.segment = f64_pad((n_slots + PLAN_WARPS - 1) / PLAN_WARPS, 32);
    a.lists = *lists;
    const int32_t ints = PLAN_WARPS * n_experts + n_experts + (1 + EXPERT_LISTS) * (n_experts + 1);
    return LAUNCH((plan_kernel), dim3(1), PLAN_THREADS, (size_t)ints * sizeof(int32_t),
                  launch->stream, flags_of(launch), a);
}
static dim3 grid_of(int32_t cols, int32_t rows)
{
    return dim3((unsigned)((cols + ROW_THREADS - 1) / ROW_THREADS), (unsigned)rows);
}
cudaError_t experts_gate(const struct launch *launch, const struct experts_gate_in *op)
{
    return LAUNCH((experts_gate_kernel), grid_of(op->n, op->n_slots), ROW_THREADS, 0,
                  launch->stream, flags_of(launch), *op);
}
cudaError_t experts_add(const struct launch *launch, const struct experts_add_in *op)
{
    return LAUNCH((experts_add_kernel), grid_of(op->n, op->rows), ROW_THREADS, 0, launch->stream,
                  flags_of(launch), *op);
}
