/* gemm_wgmma.cu - K2: int4 / int8 weights times 33 .. 1024 token rows with wgmma (sm_90a).
 *
 *   y[r][o] = epilogue(sum_k w[o][k] . x[r][k])     kernels.h, gemm_op; any rows >= 1 are correct
 *   w: layout F64, dequantized in registers: A operand      x: fp16 of prepare_f16: B operand
 *
 * Moves 0.516 B (int4) or 1.016 B (int8) a weight once per token tile of BM rows, from the second
 * on out of L2, and 2 B a token and input once per 128 outputs, out of L2. A tile of 16 x 16
 * weights costs the tensor cores BM / 8 clocks and dequantization 2.5 (ALU) and 4 (FMA pipe, with
 * the scale): bound by tensor cores from BM = 64 on; one warpgroup dequantizes while the other's
 * wgmma runs.
 *
 *   block = 128 outputs x BM tokens at a time, one block a multiprocessor, persistent
 *
 *     warpgroup 0          strip of 64 outputs   acc [64][BM] --+
 *     warpgroup 1          strip of 64 outputs   acc [64][BM] --+--> staging [32 tokens][64] --> y
 *     warpgroup 2, warp 0  weights: bulk copies of a whole block (4 units, scales inside), 2 a
 * stage 1 .. 3  tokens: 16-byte cp.async, swizzled on the way rings   w: n_w stages of 128 k x: n_x
 * panels of 64 k: [BM rows][128 B], 128B swizzle
 *
 * Tokens go by cp.async because the swizzle permutes 16-byte chunks inside a row of 128 bytes: a
 * 1-D bulk copy cannot, and x would otherwise need a tensor map or an order of its own in memory
 * that the mma.sync kernel and cuBLASLt could not share. 64 copies of 512 bytes a panel of 256
 * tokens, by three warps with nothing else to do, against 1024 clocks of tensor cores.
 *
 * Work is (pair of strips, token tile, 128 k): stream_k.cuh. A slot of `partial` is a tile's sums.
 * With op->splits BM is 64: then the bits do not depend on the number of rows. */
#include <string.h>
#include "cuda/epilogue.cuh"
#include "cuda/fragments.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/stream_k.cuh"
#include "cuda/wgmma.cuh"

enum {
    WARPGROUP = 128,
    CONSUMERS = 2, /* warpgroups; the third feeds */
    CONSUMER_WARPS = 8,
    TOKEN_WARPS = 3,
    THREADS = (CONSUMERS + 1) * WARPGROUP,
    TILE_OUTPUTS = CONSUMERS * F64_STRIP_ROWS,
    PANEL_ROW_BYTES = 128,
    /* Panels in flight behind the one that a token warp fills: LAG_TOKENS / BM, 64 KB of reads out
     * of L2. The ring has two more: consumers free a panel when the next one is there. */
    LAG_TOKENS = 512,
    /* Epilogue: tokens staged at a time. 64 would cost BM = 256 one of its five panels. */
    CHUNK = 32,
    STAGED_STRIDE = F64_STRIP_ROWS + 4, /* fragments are written without bank conflicts */
    STAGED_BYTES = CHUNK * STAGED_STRIDE * 4,
    W_STAGES_MIN = 3, /* if there is room: weights come from far, tokens out of L2 */
    W_STAGES_MAX = 8,
    X_PANELS_MAX = 16,
    N_BARRIERS = 2 * (W_STAGES_MAX + X_PANELS_MAX),
    TABLE_BYTES = 1024,
    FIXED_BYTES = CONSUMERS * STAGED_BYTES + TABLE_BYTES + N_BARRIERS * 8,
    /* 65536 registers = 128 x 40 + 256 x 232. BM = 256 has 128 sums and 32 of fragments. */
    FEEDER_REGISTERS = 40,
    CONSUMER_REGISTERS = 232,
    BARRIER_STRIP = 1,
    BARRIER_PAIR = 3, /* a strip: + warpgroup */
};
static_assert(CONSUMERS * WARPGROUP * CONSUMER_REGISTERS + WARPGROUP * FEEDER_REGISTERS <= 65536,
              "the register file");
struct wgmma_part {
    const uint8_t *units;
    const float *row_factor, *bias;
    int32_t n_out, first_strip, first_col;
};
struct wgmma_args {
    struct tile_plan plan;
    struct wgmma_part parts[WEIGHT_PARTS_MAX];
    int32_t n_parts, n_strips;
    int32_t unit_bytes, group_shift; /* log2(group / 32) */
    const uint16_t *x;
    int64_t x_stride;
    const float *x_scale;
    int32_t rows;
    bool paired; /* columns 2i, 2i + 1 of y are one aligned store */
    struct gemm_out out;
    float *partial;    /* [slot][2 strips][64 x BM]: slot_give */
    uint32_t *tickets; /* [slot][2]: 1 when a strip's sums are there */
    int32_t n_w, n_x;
    int32_t w_at, staged_at; /* of shared memory; the panels are at 0 */
    uint16_t table[16];
};

/* ---- strips -------------------------------------------------------------------------------------
 */

/* The strip of warpgroup `wg`: neighbours, or with a gate the same of both parts. The last pair of
 * an odd number has its strip twice; strip_stored says which is kept. */
DEVICE int strip_of(const struct wgmma_args &a, int pair, int wg)
{
    if (a.out.epilogue == EPILOGUE_GATE)
        return pair + wg * a.parts[1].first_strip;
    const int strip = 2 * pair + wg;
    return strip < a.n_strips ? strip : a.n_strips - 1;
}
DEVICE bool strip_stored(const struct wgmma_args &a, int pair, int wg)
{
    return a.out.epilogue == EPILOGUE_GATE || 2 * pair + wg < a.n_strips;
}
DEVICE const struct wgmma_part &part_of(const struct wgmma_args &a, int strip)
{
    int i = a.n_parts - 1;
    while (i > 0 && strip < a.parts[i].first_strip)
        i--;
    return a.parts[i];
}

/* ---- rings --------------------------------------------------------------------------------------
 */

struct ring {
    int slot;
    uint32_t phase;
};
DEVICE void ring_step(struct ring &r, int n)
{
    if (++r.slot == n) {
        r.slot = 0;
        r.phase ^= 1u;
    }
}
struct barriers {
    uint64_t *w_full, *w_empty, *x_full, *x_empty;
};
DEVICE struct barriers barriers_of(const struct wgmma_args &a, unsigned char *memory)
{
    struct barriers b;
    b.w_full = (uint64_t *)(memory + a.staged_at + CONSUMERS * STAGED_BYTES + TABLE_BYTES);
    b.w_empty = b.w_full + W_STAGES_MAX;
    b.x_full = b.w_empty + W_STAGES_MAX;
    b.x_empty = b.x_full + X_PANELS_MAX;
    return b;
}
/* A thread a barrier; who waits for them meets a block_sync first. */
DEVICE void barriers_init(const struct barriers &b)
{
    const int i = (int)threadIdx.x;
    if (i >= N_BARRIERS)
        return;
    mbar_init(b.w_full + i, i < W_STAGES_MAX                      ? 1
                            : i < 2 * W_STAGES_MAX                ? CONSUMER_WARPS
                            : i < 2 * W_STAGES_MAX + X_PANELS_MAX ? TOKEN_WARPS
                                                                  : CONSUMER_WARPS);
    mbar_init_fence();
}

/* ---- feeding ------------------------------------------------------------------------------------
 */

/* One lane. Weights are nobody's output: no wait for the previous kernel. */
DEVICE void feed_weights(const struct wgmma_args &a, unsigned char *memory,
                         const struct barriers &b)
{
    const int block_bytes = 4 * a.unit_bytes;
    struct walk walk = walk_begin(a.plan);
    struct segment s;
    struct ring w = { 0, 0 };
    while (walk_next(a.plan, walk, s)) {
        const uint8_t *from[CONSUMERS];
#pragma unroll
        for (int i = 0; i < CONSUMERS; i++) {
            const int strip = strip_of(a, s.pair, i);
            const struct wgmma_part &part = part_of(a, strip);
            from[i] = part.units +
                      ((int64_t)(strip - part.first_strip) * a.plan.blocks + s.from) * block_bytes;
        }
        for (int k = s.from; k < s.to; k++) {
            unsigned char *to = memory + a.w_at + w.slot * CONSUMERS * block_bytes;
            mbar_wait(b.w_empty + w.slot, w.phase ^ 1u);
            mbar_arrive_expect(b.w_full + w.slot, CONSUMERS * block_bytes);
#pragma unroll
            for (int i = 0; i < CONSUMERS; i++) {
                bulk_copy(to + i * block_bytes, from[i], block_bytes, b.w_full + w.slot);
                from[i] += block_bytes;
            }
            ring_step(w, a.n_w);
        }
    }
    griddep_launch(); /* all weights are on their way */
}
/* Rows [first, first + BM) x 64 k from column `col`; this warp every third group of four rows. */
template <int BM>
DEVICE void feed_panel(const struct wgmma_args &a, unsigned char *panel, int first, int col)
{
    const int chunk = lane_id() & 7;
    for (int i = warp_id() % 4 - 1; i < BM / 4; i += TOKEN_WARPS) {
        const int row = 4 * i + (lane_id() >> 3);
        const bool valid = first + row < a.rows;
        const uint16_t *from = a.x + (valid ? first + row : 0) * a.x_stride + col + chunk * 8;
        cp_async16(panel + row * PANEL_ROW_BYTES + ((chunk ^ (row & 7)) << 4), from, valid);
    }
    cp_async_commit();
}
/* What this warp copied is there: for wgmma, too. */
DEVICE void announce(const struct barriers &b, struct ring &r, int n)
{
    async_fence();
    warp_sync();
    if (lane_id() == 0)
        mbar_arrive(b.x_full + r.slot);
    ring_step(r, n);
}
template <int BM>
DEVICE void feed_tokens(const struct wgmma_args &a, unsigned char *memory, const struct barriers &b)
{
    constexpr int LAG = LAG_TOKENS / BM;
    struct walk walk = walk_begin(a.plan);
    struct segment s;
    struct ring filled = { 0, 0 }, there = { 0, 0 };
    int pending = 0;
    griddep_wait(); /* for consumers, too: y and partial come after the tokens */
    while (walk_next(a.plan, walk, s)) {
        for (int panel = s.from * PANELS; panel < s.to * PANELS; panel++) {
            mbar_wait(b.x_empty + filled.slot, filled.phase ^ 1u);
            feed_panel<BM>(a, memory + filled.slot * BM * PANEL_ROW_BYTES, s.token * BM,
                           panel * PANEL_COLS);
            ring_step(filled, a.n_x);
            if (pending == LAG) {
                cp_async_wait<LAG>();
                announce(b, there, a.n_x);
            } else {
                pending++;
            }
        }
    }
    cp_async_wait<0>();
    for (; pending > 0; pending--)
        announce(b, there, a.n_x);
}

/* ---- multiplying --------------------------------------------------------------------------------
 */

struct consumer { /* through its segments */
    struct barriers b;
    unsigned char *memory;
    const uint32_t *pairs;
    struct ring w, x, freed; /* stages and panels waited for; panels given back */
};
/* The oldest panel not given back: a wait has covered its products. */
DEVICE void free_panel(const struct wgmma_args &a, struct consumer &c)
{
    if (lane_id() == 0)
        mbar_arrive(c.b.x_empty + c.freed.slot);
    ring_step(c.freed, a.n_x);
}
/* d = or += fragments . the next panel; on its way when this returns. */
template <int BM>
DEVICE void multiply(const struct wgmma_args &a, struct consumer &c, float (&d)[BM / 2],
                     const uint32_t (&f)[STEPS][4], bool accumulate)
{
    const uint64_t panel =
        wgmma_desc(c.memory + c.x.slot * BM * PANEL_ROW_BYTES, 16, 8 * PANEL_ROW_BYTES, WGMMA_128B);
    mbar_wait(c.b.x_full + c.x.slot, c.x.phase);
    ring_step(c.x, a.n_x);
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < STEPS; t++)
        wgmma_f16<BM>(d, f[t], wgmma_desc_at(panel, t * 32), accumulate || t > 0);
    wgmma_commit();
}
DEVICE const unsigned char *unit_wait(const struct wgmma_args &a, const struct consumer &c)
{
    mbar_wait(c.b.w_full + c.w.slot, c.w.phase);
    return c.memory + a.w_at + (c.w.slot * CONSUMER_WARPS + warp_id()) * a.unit_bytes;
}
DEVICE void unit_free(const struct wgmma_args &a, struct consumer &c)
{
    warp_sync();
    if (lane_id() == 0)
        mbar_arrive(c.b.w_empty + c.w.slot);
    ring_step(c.w, a.n_w);
}
/* acc += n blocks of 128 k; the scale is multiplied into the weights, rounded to fp16. While a
 * panel's wgmma runs, the weights of the next are dequantized. */
template <int BITS, enum codes CODES, bool FINE, int BM>
DEVICE void add_blocks(const struct wgmma_args &a, struct consumer &c, float (&acc)[BM / 2], int n)
{
    uint32_t f[PANELS][STEPS][4];
    for (int k = 0; k < n; k++) {
        const unsigned char *unit = unit_wait(a, c);
        struct group g = { 0, 0 };
        if (!FINE)
            g = group_load<CODES>(unit + BITS * 256, 2, 0);
        dequant_half<BITS, CODES, FINE, true>(f[0], unit, 0, g, a.group_shift, c.pairs);
        multiply<BM>(a, c, acc, f[0], true);
        wgmma_wait<1>();
        if (k > 0)
            free_panel(a, c);
        dequant_half<BITS, CODES, FINE, true>(f[1], unit, 1, g, a.group_shift, c.pairs);
        unit_free(a, c);
        multiply<BM>(a, c, acc, f[1], true);
        wgmma_wait<1>();
        free_panel(a, c);
    }
    wgmma_wait<0>();
    wgmma_landed(acc);
    free_panel(a, c);
}
/* One group of 128 into `sums`, while the one before, `last`, comes off its way and into acc. */
template <int BITS, enum codes CODES, int BM>
DEVICE void add_group(const struct wgmma_args &a, struct consumer &c,
                      uint32_t (&f)[PANELS][STEPS][4], float (&acc)[BM / 2], float (&sums)[BM / 2],
                      float (&last)[BM / 2], uint32_t &last_scales, bool first)
{
    const unsigned char *unit = unit_wait(a, c);
    const struct group g = group_load<CODES>(unit + BITS * 256, 2, 0);
    dequant_half<BITS, CODES, false, false>(f[0], unit, 0, g, a.group_shift, c.pairs);
    multiply<BM>(a, c, sums, f[0], false);
    wgmma_wait<1>();
    wgmma_landed(last);
    if (!first)
        free_panel(a, c);
    fold(acc, last, last_scales);
    last_scales = g.scales;
    dequant_half<BITS, CODES, false, false>(f[1], unit, 1, g, a.group_shift, c.pairs);
    unit_free(a, c);
    multiply<BM>(a, c, sums, f[1], true);
    wgmma_wait<1>();
    free_panel(a, c);
}
/* The same with groups of 128 summed apart and scaled in fp32: exact weights, and at 64 tokens no
 * dearer. Two sums take turns, so that one fills while the other is folded. */
template <int BITS, enum codes CODES, int BM>
DEVICE void add_groups(const struct wgmma_args &a, struct consumer &c, float (&acc)[BM / 2], int n)
{
    uint32_t f[PANELS][STEPS][4], scales = 0;
    float even[BM / 2], odd[BM / 2];
#pragma unroll
    for (int i = 0; i < BM / 2; i++)
        even[i] = odd[i] = 0.0f;
    int k = 0;
    for (; k + 1 < n; k += 2) {
        add_group<BITS, CODES, BM>(a, c, f, acc, even, odd, scales, k == 0);
        add_group<BITS, CODES, BM>(a, c, f, acc, odd, even, scales, false);
    }
    if (k < n) {
        add_group<BITS, CODES, BM>(a, c, f, acc, even, odd, scales, k == 0);
        wgmma_wait<0>();
        wgmma_landed(even);
        fold(acc, even, scales);
    } else {
        wgmma_wait<0>();
        wgmma_landed(odd);
        fold(acc, odd, scales);
    }
    free_panel(a, c);
}

/* ---- output -------------------------------------------------------------------------------------
 */

/* This lane's two columns of a strip: neighbours that one store writes (paired), or lane, lane
 * + 32. */
struct columns {
    int at[2], col[2]; /* of the strip, of y; col -1: none */
    float factor[2], bias[2];
};
DEVICE struct columns columns_of(const struct wgmma_args &a, int strip)
{
    const struct wgmma_part &part = part_of(a, strip);
    struct columns c;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        c.at[i] = a.paired ? 2 * lane_id() + i : lane_id() + 32 * i;
        const int row = (strip - part.first_strip) * F64_STRIP_ROWS + c.at[i];
        const bool there = row < part.n_out;
        c.col[i] = there ? part.first_col + row : -1;
        c.factor[i] = there ? part.row_factor[row] : 0.0f;
        c.bias[i] = there && part.bias != NULL ? part.bias[row] : 0.0f;
    }
    return c;
}
DEVICE float value_of(const struct wgmma_args &a, const struct columns &c, int i,
                      const float *staged, float x_scale)
{
    return out_value(a.out, staged[c.at[i]] * c.factor[i] * x_scale + c.bias[i]);
}
DEVICE void load_two(const struct wgmma_args &a, int row, const struct columns &c, float (&v)[2])
{
    const int64_t at = (int64_t)row * a.out.stride;
    v[0] = v[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (c.col[i] >= 0)
            v[i] = a.out.dtype == DTYPE_F32
                       ? ((const float *)a.out.y)[at + c.col[i]]
                       : f32_of_bf16(((const uint16_t *)a.out.y)[at + c.col[i]]);
}
DEVICE void store_two(const struct wgmma_args &a, int row, const struct columns &c,
                      const float (&v)[2])
{
    const int64_t at = (int64_t)row * a.out.stride;
    if (a.paired && c.col[0] >= 0) {
        if (a.out.dtype == DTYPE_F32)
            *(uint2 *)((float *)a.out.y + at + c.col[0]) = { f32_bits(v[0]), f32_bits(v[1]) };
        else
            *(uint32_t *)((uint16_t *)a.out.y + at + c.col[0]) = bf16_pair(v[0], v[1]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (c.col[i] < 0)
            continue;
        if (a.out.dtype == DTYPE_F32)
            ((float *)a.out.y)[at + c.col[i]] = v[i];
        else
            ((uint16_t *)a.out.y)[at + c.col[i]] = bf16_of(v[i]);
    }
}
/* n tokens of y from `token` on, out of this strip's staging: a warp writes 64 neighbours. */
DEVICE void store_strip(const struct wgmma_args &a, const struct columns &c, const float *staged,
                        int token, int n)
{
    enum { EACH = CHUNK / 4 }; /* tokens of a warp: their old values are read together */
    float old[EACH][2], x_scale[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int t = warp_id() % 4 + 4 * i;
        old[i][0] = old[i][1] = 0.0f;
        x_scale[i] = t < n ? a.x_scale[token + t] : 0.0f;
        if (a.out.epilogue == EPILOGUE_ADD && t < n)
            load_two(a, token + t, c, old[i]);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int t = warp_id() % 4 + 4 * i;
        float v[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            v[j] = old[i][j] + value_of(a, c, j, staged + t * STAGED_STRIDE, x_scale[i]);
        if (t < n)
            store_two(a, token + t, c, v);
    }
}
/* The same with both strips: act(gate) * up, by all eight warps. */
DEVICE void store_gated(const struct wgmma_args &a, const struct columns &gate,
                        const struct columns &up, const float *staged, int token, int n)
{
#pragma unroll 1
    for (int t = warp_id(); t < n; t += CONSUMER_WARPS) {
        const float x_scale = a.x_scale[token + t];
        const float *from = staged + t * STAGED_STRIDE;
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            v[i] = gate_of(a.out.gate, value_of(a, gate, i, from, x_scale)) *
                   value_of(a, up, i, from + STAGED_BYTES / 4, x_scale);
        store_two(a, token + t, gate, v);
    }
}
/* 32 tokens of this thread's sums to the staging, [token][output]. */
template <int BM> DEVICE void stage_sums(float *to, const float (&acc)[BM / 2], int chunk)
{
#pragma unroll
    for (int j = 0; j < CHUNK / 8; j++) {
        const int i = (chunk * CHUNK / 8 + j) * 4;
        to[j * 8 * STAGED_STRIDE] = acc[i];
        to[(j * 8 + 1) * STAGED_STRIDE] = acc[i + 1];
        to[j * 8 * STAGED_STRIDE + 8] = acc[i + 2];
        to[(j * 8 + 1) * STAGED_STRIDE + 8] = acc[i + 3];
    }
}
/* Sums to y, CHUNK tokens at a time through shared memory: fragments hold 8 outputs of a token in
 * 8 lanes, stores want 64. One loop, so that its code is there once; registers have no index, so
 * each chunk's staging is. */
template <int BM>
DEVICE void put_sums(const struct wgmma_args &a, const struct consumer &c,
                     const float (&acc)[BM / 2], const struct segment &s, int wg)
{
    const bool gated = a.out.epilogue == EPILOGUE_GATE;
    const int barrier = gated ? BARRIER_PAIR : BARRIER_STRIP + wg;
    const int threads = gated ? CONSUMERS * WARPGROUP : WARPGROUP;
    const struct columns mine = columns_of(a, strip_of(a, s.pair, gated ? 0 : wg));
    const struct columns up = columns_of(a, strip_of(a, s.pair, gated ? 1 : wg));
    float *staging = (float *)(c.memory + a.staged_at);
    float *staged = staging + wg * (STAGED_BYTES / 4);
    float *to = staged + (lane_id() & 3) * 2 * STAGED_STRIDE + warp_id() % 4 * F64_UNIT_ROWS +
                (lane_id() >> 2);
#pragma unroll 1
    for (int chunk = 0; chunk < BM / CHUNK; chunk++) {
        const int token = s.token * BM + chunk * CHUNK;
        const int n = a.rows - token < CHUNK ? a.rows - token : CHUNK;
        if (n <= 0)
            break;
#pragma unroll
        for (int i = 0; i < BM / CHUNK; i++)
            if (i == chunk)
                stage_sums<BM>(to, acc, i);
        named_sync(barrier, threads);
        if (gated)
            store_gated(a, mine, up, staging, token, n);
        else if (strip_stored(a, s.pair, wg))
            store_strip(a, mine, staged, token, n);
        named_sync(barrier, threads);
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------
 */

template <int BM> DEVICE float *slot_of(const struct wgmma_args &a, int slot, int wg)
{
    return a.partial + ((int64_t)slot * CONSUMERS + wg) * (F64_STRIP_ROWS * BM);
}
template <int BITS, enum codes CODES, bool FINE, int BM>
DEVICE void consume(const struct wgmma_args &a, unsigned char *memory, const struct barriers &b)
{
    const int wg = warp_id() / 4;
    struct consumer c;
    c.b = b;
    c.memory = memory;
    c.pairs = (const uint32_t *)(memory + a.staged_at + CONSUMERS * STAGED_BYTES);
    c.w = c.x = c.freed = { 0, 0 };
    struct walk walk = walk_begin(a.plan);
    struct segment s;
    while (walk_next(a.plan, walk, s)) {
        float acc[BM / 2];
#pragma unroll
        for (int i = 0; i < BM / 2; i++)
            acc[i] = 0.0f;
        if constexpr (BM == 64 && !FINE && CODES != TABLE)
            add_groups<BITS, CODES, BM>(a, c, acc, s.to - s.from);
        else
            add_blocks<BITS, CODES, FINE, BM>(a, c, acc, s.to - s.from);
        for (int slot = s.first_slot; slot < s.first_slot + s.n_slots; slot++)
            slot_add(acc, slot_of<BM>(a, slot, wg), a.tickets + slot * CONSUMERS + wg,
                     BARRIER_STRIP + wg);
        if (s.slot >= 0)
            slot_give(acc, slot_of<BM>(a, s.slot, wg), a.tickets + s.slot * CONSUMERS + wg,
                      BARRIER_STRIP + wg);
        else
            put_sums<BM>(a, c, acc, s, wg);
    }
}
/* FINE: groups of 32 and 64 (128, too, where there is no instance for it alone). */
template <int BITS, enum codes CODES, bool FINE, int BM>
KERNEL(THREADS, 1)
gemm_tiles(const __grid_constant__ struct wgmma_args a)
{
    SHARED(memory);
    if (!HAS_WGMMA) {
        wgmma_fence(); /* traps */
        return;
    }
    const struct barriers b = barriers_of(a, memory);
    barriers_init(b);
    if (CODES == TABLE)
        table_pairs((uint32_t *)(memory + a.staged_at + CONSUMERS * STAGED_BYTES), a.table,
                    (int)threadIdx.x, THREADS);
    block_sync();
    if (warp_id() < CONSUMER_WARPS) {
        registers_take<CONSUMER_REGISTERS>();
        consume<BITS, CODES, FINE, BM>(a, memory, b);
    } else {
        registers_give<FEEDER_REGISTERS>();
        if (warp_id() > CONSUMER_WARPS)
            feed_tokens<BM>(a, memory, b);
        else if (lane_id() == 0)
            feed_weights(a, memory, b);
    }
}

/* ---- launching ----------------------------------------------------------------------------------
 */

template <int BITS, enum codes CODES, bool FINE, int BM>
static cudaError_t start(const struct launch *launch, const struct wgmma_args *args,
                         int shared_bytes)
{
    const bool waiting = args->plan.streamed > 0 || args->plan.splits > 1;
    return LAUNCH((gemm_tiles<BITS, CODES, FINE, BM>), dim3((unsigned)args->plan.grid), THREADS,
                  (size_t)shared_bytes, launch->stream,
                  (launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN) |
                      (waiting ? LAUNCH_WAITING : LAUNCH_PLAIN),
                  *args);
}
/* Tokens of a tile. `clocks` of a block of 128 k from the targets of kernels.md section 5 (450,
 * 520, 600 TFLOP/s of 790): to be replaced by measured ones. */
enum { N_TILE_SIZES = 3 };
static const struct {
    int32_t tokens, clocks;
} tile_sizes[N_TILE_SIZES] = { { 64, 900 }, { 128, 1560 }, { 256, 2700 } };
static const struct instance {
    int32_t bits;
    enum codes codes;
    bool fine;
    cudaError_t (*start[N_TILE_SIZES])(const struct launch *, const struct wgmma_args *, int);
} instances[] = {
#define TILES(bits, codes, fine)                                                                   \
    {                                                                                              \
        bits, codes, fine,                                                                         \
        {                                                                                          \
            start<bits, codes, fine, 64>, start<bits, codes, fine, 128>,                           \
                start<bits, codes, fine, 256>                                                      \
        }                                                                                          \
    }
    TILES(4, SYMMETRIC, false), /* the first that suits is taken */
    TILES(4, SYMMETRIC, true),  TILES(4, ZEROS, false),     TILES(4, ZEROS, true),
    TILES(4, TABLE, true),      TILES(8, SYMMETRIC, false), TILES(8, SYMMETRIC, true),
    TILES(8, ZEROS, true),
#undef TILES
};
static const struct instance *find_instance(const struct f64_kind *kind)
{
    const enum codes codes = kind->table != NULL ? TABLE : kind->zeros ? ZEROS : SYMMETRIC;
    for (size_t i = 0; i < sizeof instances / sizeof *instances; i++)
        if (instances[i].bits == kind->bits && instances[i].codes == codes &&
            (instances[i].fine || kind->group == 128))
            return instances + i;
    return NULL;
}

static int32_t pairs_of(const struct f64_matrix *w, enum epilogue epilogue)
{
    if (epilogue == EPILOGUE_GATE)
        return f64_strips(w->parts[0].n_out);
    int32_t n = 0;
    for (int32_t i = 0; i < w->n_parts; i++)
        n += f64_strips(w->parts[i].n_out);
    return (n + 1) / 2;
}
static size_t slot_bytes(int32_t tokens)
{
    return (size_t)TILE_OUTPUTS * (size_t)tokens * sizeof(float);
}
static int32_t splits_of(const struct gemm_op *op)
{
    const int32_t blocks = f64_blocks(op->w.n_in);
    return op->splits < blocks ? op->splits : blocks; /* a matter of the matrix alone */
}
/* Token tiles whose slots fit at once when every tile is in `splits`. */
static int64_t token_tiles_max(const struct gemm_op *op, int32_t tokens)
{
    const int64_t slots = (int64_t)pairs_of(&op->w, op->out.epilogue) * (splits_of(op) - 1);
    if (slots <= 0)
        return INT32_MAX;
    const int64_t by_bytes = (int64_t)(op->partial_bytes / slot_bytes(tokens)) / slots;
    const int64_t by_tickets = GEMM_TICKETS / CONSUMERS / slots;
    return by_bytes < by_tickets ? by_bytes : by_tickets;
}
static int32_t slots_max(const struct gemm_op *op, int32_t tokens)
{
    if (op->partial == NULL || op->tickets == NULL)
        return 0;
    const size_t n = op->partial_bytes / slot_bytes(tokens);
    return n < GEMM_TICKETS / CONSUMERS ? (int32_t)n : GEMM_TICKETS / CONSUMERS;
}
static void plan_size(struct tile_plan *p, const struct gemm_op *op, int32_t tokens)
{
    memset(p, 0, sizeof *p);
    p->token_tiles = (op->rows + tokens - 1) / tokens;
    p->n_tiles = pairs_of(&op->w, op->out.epilogue) * p->token_tiles;
    p->blocks = f64_blocks(op->w.n_in);
}
/* The size of tile that takes the fewest clocks. */
static int plan_tiles(struct tile_plan *p, const struct gemm_op *op,
                      const struct device_info *device)
{
    int best = 0;
    int64_t best_clocks = INT64_MAX;
    for (int i = 0; i < N_TILE_SIZES; i++) {
        struct tile_plan plan;
        plan_size(&plan, op, tile_sizes[i].tokens);
        const int64_t blocks = plan_auto(&plan, device->n_sms, slots_max(op, tile_sizes[i].tokens));
        if (blocks * tile_sizes[i].clocks >= best_clocks)
            continue;
        best_clocks = blocks * tile_sizes[i].clocks;
        best = i;
        *p = plan;
    }
    return best;
}
static void plan_splits(struct tile_plan *p, const struct gemm_op *op,
                        const struct device_info *device)
{
    plan_size(p, op, tile_sizes[0].tokens);
    p->splits = splits_of(op);
    const int64_t units = (int64_t)p->n_tiles * p->splits;
    p->grid = units < device->n_sms ? (int32_t)units : device->n_sms;
}

/* Rings: as many blocks of 128 k as there is room for, then some stages, panels, stages. Returns
 * the bytes of shared memory; 0: not enough. */
static int32_t plan_shared(struct wgmma_args *args, int32_t tokens,
                           const struct device_info *device)
{
    const int32_t panel = tokens * PANEL_ROW_BYTES, stage = CONSUMERS * 4 * args->unit_bytes;
    int32_t left = device->shared_bytes - FIXED_BYTES, n = 0;
    while (n < W_STAGES_MAX && left >= stage + PANELS * panel) {
        left -= stage + PANELS * panel;
        n++;
    }
    args->n_w = n;
    args->n_x = n * PANELS;
    for (; args->n_w < W_STAGES_MIN && left >= stage; left -= stage)
        args->n_w++;
    for (; args->n_x < X_PANELS_MAX && left >= panel; left -= panel)
        args->n_x++;
    for (; args->n_w < W_STAGES_MAX && left >= stage; left -= stage)
        args->n_w++;
    if (n < 1 || args->n_w < 2 || args->n_x < LAG_TOKENS / tokens + 2)
        return 0;
    args->w_at = args->n_x * panel;
    args->staged_at = args->w_at + args->n_w * stage;
    return args->staged_at + FIXED_BYTES;
}

static void fill_matrix(struct wgmma_args *args, const struct gemm_op *op)
{
    int32_t strips = 0, cols = 0;
    for (int32_t i = 0; i < op->w.n_parts; i++) {
        const struct f64_part *part = &op->w.parts[i];
        args->parts[i] = { part->units, part->row_factor, part->bias, part->n_out, strips, cols };
        strips += f64_strips(part->n_out);
        cols += part->n_out;
    }
    args->n_parts = op->w.n_parts;
    args->n_strips = strips;
    args->unit_bytes = f64_unit_bytes(op->w.kind);
    args->group_shift = op->w.kind.group == 32 ? 0 : op->w.kind.group == 64 ? 1 : 2;
    if (op->w.kind.table != NULL)
        memcpy(args->table, op->w.kind.table, sizeof args->table);
}
static void fill_rows(struct wgmma_args *args, const struct gemm_op *op, int32_t row)
{
    args->x = (const uint16_t *)op->x + (int64_t)row * op->x_stride;
    args->x_stride = op->x_stride;
    args->x_scale = op->x_scale + row;
    args->rows = op->rows - row;
    args->out = op->out;
    const int64_t element = op->out.dtype == DTYPE_F32 ? 4 : 2;
    args->out.y = (unsigned char *)op->out.y + (int64_t)row * op->out.stride * element;
    args->paired = op->out.stride % 2 == 0 && (uintptr_t)op->out.y % (size_t)(2 * element) == 0;
    for (int32_t i = 0; i < op->w.n_parts; i++)
        args->paired = args->paired && op->w.parts[i].n_out % 2 == 0;
    args->partial = op->partial;
    args->tickets = op->tickets;
}

bool gemm_wgmma_fits(const struct gemm_op *op, const struct device_info *device)
{
    const struct f64_matrix *w = &op->w;
    if (!device->wgmma || op->rows < 1 || w->n_parts < 1 || op->qkv != NULL ||
        find_instance(&w->kind) == NULL)
        return false;
    if (op->out.epilogue == EPILOGUE_GATE &&
        (w->n_parts != 2 || w->parts[0].n_out != w->parts[1].n_out))
        return false;
    struct wgmma_args args;
    args.unit_bytes = f64_unit_bytes(w->kind);
    for (int i = 0; i < N_TILE_SIZES; i++)
        if (plan_shared(&args, tile_sizes[i].tokens, device) == 0)
            return false;
    return op->splits <= 1 ||
           (op->tickets != NULL && token_tiles_max(op, tile_sizes[0].tokens) > 0);
}
size_t gemm_wgmma_workspace(const struct f64_matrix *w, int32_t rows,
                            const struct device_info *device)
{
    (void)w;
    if (!device->wgmma)
        return 0;
    int i = 0;
    while (i < N_TILE_SIZES - 1 && tile_sizes[i].tokens < rows)
        i++;
    return (size_t)device->n_sms * slot_bytes(tile_sizes[i].tokens);
}
cudaError_t gemm_wgmma(const struct launch *launch, const struct gemm_op *op)
{
    const struct instance *instance = find_instance(&op->w.kind);
    struct wgmma_args args;
    memset(&args, 0, sizeof args);
    fill_matrix(&args, op);
    if (op->splits < 1) {
        const int i = plan_tiles(&args.plan, op, launch->device);
        const int32_t bytes = plan_shared(&args, tile_sizes[i].tokens, launch->device);
        fill_rows(&args, op, 0);
        return instance->start[i](launch, &args, bytes);
    }
    /* Fixed parts of k, as many token tiles a launch as there are slots for. */
    const int32_t tokens = tile_sizes[0].tokens;
    const int32_t bytes = plan_shared(&args, tokens, launch->device);
    const int64_t tiles = token_tiles_max(op, tokens);
    for (int64_t row = 0; row < op->rows; row += tiles * tokens) {
        struct gemm_op some = *op;
        fill_rows(&args, op, (int32_t)row);
        if (args.rows > tiles * tokens)
            args.rows = (int32_t)(tiles * tokens);
        some.rows = args.rows;
        plan_splits(&args.plan, &some, launch->device);
        const cudaError_t status = instance->start[0](launch, &args, bytes);
        if (status != cudaSuccess)
            return status;
    }
    return cudaSuccess;
}
