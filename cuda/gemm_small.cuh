/* gemm_small.cuh - K1, K1b: the device side. gemm_small.cu has the formula, the geometry and the
 * launcher. Phases of a block:
 *
 *   steps_fill        which tiles of 16 rows this block has, in order
 *   stream_issue      the ring's first stages of weights: before the previous kernel has ended
 *   griddep_wait
 *   rows_scan         one number a row: the norm's factor and a power of two for fp16
 *   inputs_load       x of this warp's inputs, normed, to MMA fragments that stay in registers
 *   per tile          wait for a stage, dequantize, multiply; sum the warps; epilogue
 *
 * A warp streams its own inputs of every tile through its own ring, so that nothing but the sums of
 * a tile crosses warps: one block_sync a tile. */
#pragma once
#include "cuda/dequant.cuh"
#include "cuda/gemm_small_inputs.cuh"
#include "cuda/gemm_small_out.cuh"
#include "cuda/gemm_small_parts.cuh"

/* ---- the ring ---------------------------------------------------------------------------------
 * Stages are consumed and filled in the same order; a stage is filled again as soon as its codes
 * are in registers, with what comes STAGES later. */

struct stream {     /* of a warp; few registers, x has 64 of them */
    int step, unit; /* to copy: tile, unit of this warp in it; if WHOLE the count knows */
    int n_units;    /* of this warp in a tile */
    uint32_t count; /* stages consumed */
};
template <class S> DEVICE unsigned char *stream_stage(unsigned char *ring, int stage)
{
    return ring + (warp_id() * S::STAGES + stage) * (S::STAGE_UNITS * S::SLOT);
}
/* 512 bytes of codes at a time, then scales and zeros: 32 to 256 bytes. */
template <class S> DEVICE void unit_copy(unsigned char *to, const uint8_t *from, int bytes)
{
    const int at = lane_id() * 16;
#pragma unroll
    for (int i = 0; i < S::CODE_BYTES; i += 512)
        cp_async16(to + at + i, from + at + i, true);
    if (at < bytes - S::CODE_BYTES)
        cp_async16(to + at + S::CODE_BYTES, from + at + S::CODE_BYTES, true);
}
/* Copies to the stage that this warp will consume after `index` others. */
template <class S, bool BULK>
DEVICE void stream_fill(struct stream &s, const struct small_args &a, const struct small_shared &sh,
                        uint32_t index)
{
    const int step = S::WHOLE ? (int)index : s.step, unit = S::WHOLE ? 0 : s.unit;
    if (step < sh.share->n_tiles) {
        const int bytes = a.unit_bytes, stride = SMALL_WARPS * 4 * bytes; /* to the next unit */
        const uint8_t *from = sh.steps[step].units + (warp_id() + unit * SMALL_WARPS) * 4 * bytes;
        const int stage = (int)(index % S::STAGES);
        const bool two = S::STAGE_UNITS == 2 && unit + 1 < s.n_units;
        unsigned char *to = stream_stage<S>(sh.ring, stage);
        if (BULK) {
            uint64_t *bar = sh.bars + warp_id() * S::STAGES + stage;
            if (lane_id() == 0) {
                mbar_arrive_expect(bar, two ? 2 * bytes : bytes);
                bulk_copy(to, from, bytes, bar);
                if (two)
                    bulk_copy(to + S::SLOT, from + stride, bytes, bar);
            }
        } else {
            unit_copy<S>(to, from, bytes);
            if (two)
                unit_copy<S>(to + S::SLOT, from + stride, bytes);
        }
        s.unit += S::STAGE_UNITS;
        if (s.unit >= s.n_units) {
            s.unit = 0;
            s.step++;
        }
    }
    if (!BULK)
        cp_async_commit(); /* empty at the end: the wait counts commits */
}
/* The stage to consume is there, for every lane. */
template <class S, bool BULK>
DEVICE const unsigned char *stream_wait(const struct stream &s, const struct small_shared &sh)
{
    const int stage = (int)(s.count % S::STAGES);
    if (BULK) {
        mbar_wait(sh.bars + warp_id() * S::STAGES + stage, s.count / S::STAGES & 1u);
    } else {
        cp_async_wait<S::STAGES - 1>();
        warp_sync();
    }
    return stream_stage<S>(sh.ring, stage);
}
/* All lanes have read it. */
template <class S, bool BULK>
DEVICE void stream_done(struct stream &s, const struct small_args &a, const struct small_shared &sh)
{
    warp_sync();
    stream_fill<S, BULK>(s, a, sh, s.count + S::STAGES);
    s.count++;
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* A lane's share of a unit, or of half of one (FINE: two groups of 32; of 64: each scale twice). */
template <int BITS, int ZERO, bool FINE> struct unit_codes {
    enum { PARTS = FINE ? 2 : 1, GROUPS = FINE ? 2 : 1, ATOMS = BITS / 2 / PARTS };
    uint32_t word[4 * ATOMS];
    uint32_t scale[GROUPS], zero[GROUPS]; /* of rows g (low half) and g + 8 */
};
template <int BITS, int ZERO, bool FINE>
DEVICE void unit_read(unit_codes<BITS, ZERO, FINE> &c, const struct small_args &a,
                      const unsigned char *unit, int part)
{
    typedef unit_codes<BITS, ZERO, FINE> C;
#pragma unroll
    for (int i = 0; i < C::ATOMS; i++) {
        const uint4 v = ld128(unit + (part * C::ATOMS + i) * F64_ATOM_BYTES + lane_id() * 16);
        c.word[4 * i] = v.x;
        c.word[4 * i + 1] = v.y;
        c.word[4 * i + 2] = v.z;
        c.word[4 * i + 3] = v.w;
    }
    const unsigned char *own = unit + lane_id() / 4 * 4;
    constexpr int AT = F64_UNIT_ROWS * F64_UNIT_COLS * BITS / 8; /* of the scales */
#pragma unroll
    for (int i = 0; i < C::GROUPS; i++) {
        const int group = part * C::GROUPS + i;
        const int at = AT + group / 2 * 32 + (group + 1) / 2 * (FINE ? a.odd_group : 0);
        c.scale[i] = *(const uint32_t *)(own + at);
        c.zero[i] = 0;
        if (ZERO == ZERO_WHOLE || ZERO == ZERO_FRACTION)
            c.zero[i] = *(const uint32_t *)(own + at + (FINE ? 64 + 2 * a.odd_group : 32));
    }
}
/* The A fragment of k16 tile `tile`; z of its group, `zero` where zeros are fractions. */
template <int BITS, int ZERO, bool FINE, class zeros>
DEVICE void unit_fragment(uint32_t (&w)[4], const unit_codes<BITS, ZERO, FINE> &c, int tile,
                          const zeros &z, uint32_t zero, const uint32_t *pairs)
{
    if constexpr (ZERO == ZERO_TABLE)
        dequant_table(w, c.word[tile], pairs);
    else if constexpr (BITS == 4)
        dequant4(w, c.word[tile], z);
    else
        dequant8(w, c.word[2 * tile], c.word[2 * tile + 1], z);
    if constexpr (ZERO == ZERO_FRACTION)
        subtract_zeros(w, zero);
}
/* Once a group. */
template <int BITS, int ZERO> DEVICE auto unit_zeros(uint32_t zero)
{
    if constexpr (BITS == 4)
        return ZERO == ZERO_SYMMETRIC ? zeros4_symmetric()
               : ZERO == ZERO_WHOLE   ? zeros4_of(zero)
                                      : zeros4_none();
    else
        return ZERO == ZERO_SYMMETRIC ? zeros8_symmetric()
               : ZERO == ZERO_WHOLE   ? zeros8_of(zero)
                                      : zeros8_none();
}
template <int BITS, int ZERO, int TILES, bool FINE>
DEVICE void unit_multiply(float (&acc)[TILES][4], const unit_codes<BITS, ZERO, FINE> &c,
                          const uint32_t (&x)[8][TILES][2], int part, const uint32_t *pairs)
{
    typedef unit_codes<BITS, ZERO, FINE> C;
    constexpr int GROUPS = C::GROUPS, GROUP_TILES = 8 / C::PARTS / GROUPS;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const auto z = unit_zeros<BITS, ZERO>(c.zero[group]);
        float sum[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++)
            sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0.0f;
#pragma unroll
        for (int i = 0; i < GROUP_TILES; i++) {
            const int tile = group * GROUP_TILES + i, at = part * (8 / C::PARTS) + tile;
            uint32_t w[4];
            unit_fragment(w, c, tile, z, c.zero[group], pairs);
#pragma unroll
            for (int t = 0; t < TILES; t++)
                mma_f16(sum[t], w, x[at][t][0], x[at][t][1]);
        }
        const float low = f16_low(c.scale[group]), high = f16_high(c.scale[group]);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            acc[t][0] = fma_f32(sum[t][0], low, acc[t][0]);
            acc[t][1] = fma_f32(sum[t][1], low, acc[t][1]);
            acc[t][2] = fma_f32(sum[t][2], high, acc[t][2]);
            acc[t][3] = fma_f32(sum[t][3], high, acc[t][3]);
        }
    }
}

/* ---- the kernel -------------------------------------------------------------------------------
 */

DEVICE struct share share_of(const struct small_args &a)
{
    const uint32_t splits = (uint32_t)a.splits, n = gridDim.x / splits, block = blockIdx.x / splits;
    const uint32_t items = (uint32_t)a.n_items; /* below 2^16 (fits), blocks below 2^12 */
    struct share s;
    s.split = (int)(blockIdx.x - block * splits);
    s.k_from = a.blocks * s.split / a.splits;
    s.k_to = a.blocks * (s.split + 1) / a.splits;
    s.tile_from = (int)(items * block / n) * a.item_tiles;
    s.n_tiles = (int)(items * (block + 1) / n) * a.item_tiles - s.tile_from;
    return s;
}
/* This warp's units of a tile. */
DEVICE int units_of(const struct share &share)
{
    return (share.k_to - share.k_from - warp_id() + SMALL_WARPS - 1) / SMALL_WARPS;
}
/* This warp's units of one tile: the sums over their inputs. */
template <int BITS, int ZERO, int TILES, bool FINE, bool BULK>
DEVICE void tile_multiply(float (&acc)[TILES][4], const uint32_t (&x)[4 / TILES][8][TILES][2],
                          struct stream &stream, const struct small_args &a,
                          const struct small_shared &sh)
{
    typedef small_shape<BITS, ZERO, TILES, FINE, BULK> S;
    constexpr int SECOND = S::STAGE_UNITS - 1;
#pragma unroll
    for (int t = 0; t < TILES; t++)
        acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0f;
#pragma unroll
    for (int u = 0; u < S::UNITS; u += S::STAGE_UNITS) {
        if (u < stream.n_units) {
            const unsigned char *stage = stream_wait<S, BULK>(stream, sh);
            unit_codes<BITS, ZERO, FINE> c[S::STAGE_UNITS];
            if constexpr (S::LATE) {
#pragma unroll
                for (int part = 0; part < c[0].PARTS; part++) {
                    unit_read(c[0], a, stage, part);
                    unit_multiply<BITS, ZERO, TILES, FINE>(acc, c[0], x[u], part, sh.pairs);
                }
                stream_done<S, BULK>(stream, a, sh);
            } else {
                const bool two = S::STAGE_UNITS == 2 && u + 1 < stream.n_units;
                unit_read(c[0], a, stage, 0);
                if (two)
                    unit_read(c[SECOND], a, stage + S::SLOT, 0);
                stream_done<S, BULK>(stream, a, sh);
                unit_multiply<BITS, ZERO, TILES, FINE>(acc, c[0], x[u], 0, sh.pairs);
                if (two)
                    unit_multiply<BITS, ZERO, TILES, FINE>(acc, c[SECOND], x[u + SECOND], 0,
                                                           sh.pairs);
            }
        }
    }
}

template <int BITS, int ZERO, int TILES, bool FINE, bool BULK>
DEVICE void small_block(const struct small_args &a, unsigned char *memory)
{
    typedef small_shape<BITS, ZERO, TILES, FINE, BULK> S;
    const struct small_shared sh =
        small_shared_of<small_layout<BITS, ZERO, TILES, FINE, BULK>>(memory);
    const int thread = (int)threadIdx.x, warp = warp_id();
    const struct share share = share_of(a);
    const int pair = a.item_tiles - 1; /* 1: an item is two tiles */

    /* Tiles, barriers and the first weights. */
    struct stream stream;
    stream.n_units = units_of(share);
    stream.step = stream.unit = 0;
    stream.count = 0;
    if (thread < share.n_tiles) {
        sh.steps[thread] = item_step(a, (share.tile_from + thread) >> pair, thread & pair);
        sh.steps[thread].units += (size_t)share.k_from * 4 * (size_t)a.unit_bytes;
    }
    if (thread == 0)
        *sh.share = share;
    if (BULK && thread < SMALL_WARPS * S::STAGES) {
        mbar_init(&sh.bars[thread], 1);
        mbar_init_fence();
    }
    block_sync();
#pragma unroll 1
    for (uint32_t i = 0; i < S::STAGES && stream.n_units > 0; i++) /* or it never waits */
        stream_fill<S, BULK>(stream, a, sh, i);
    if (ZERO == ZERO_TABLE)
        table_pairs(sh.pairs, a.table, thread, SMALL_THREADS);
    griddep_launch();
    griddep_wait();

    /* Activations. */
    places_fill(a, sh.places, S::TOKENS);
    const int inputs_to = share.k_to * F64_UNIT_COLS;
    rows_scan<TILES>(a, sh.tokens, (struct scan *)(void *)sh.sums, share.k_from * F64_UNIT_COLS,
                     inputs_to < a.n_in ? inputs_to : a.n_in);
    uint32_t x[S::UNITS][8][TILES][2];
    inputs_load<TILES, S::PIECES>(x, a, sh.tokens, (unsigned char *)sh.sums + warp * S::STAGING,
                                  (share.k_from + warp) * F64_UNIT_COLS, stream.n_units);
    block_sync(); /* the staging area becomes sums */

    /* Tiles. With splits two more rounds, for the tickets of the last. How many there are is read
     * again and again: shared memory has room, the registers are full of x. */
#pragma unroll 1
    for (int step = 0; step < sh.share->n_tiles + (a.splits > 1 ? 2 : 0); step++) {
        float *sums = sh.sums + (step & 1) * (SMALL_WARPS * S::OUTS);
        if (step < sh.share->n_tiles) {
            float acc[TILES][4];
            if (!BULK) /* a lane's addresses of cp.async leave no register for it */
                stream.n_units = units_of(*sh.share);
            if (S::WHOLE)
                stream.count = (uint32_t)step; /* as it is: a register less */
            tile_multiply<BITS, ZERO, TILES, FINE, BULK>(acc, x, stream, a, sh);
#pragma unroll
            for (int t = 0; t < TILES; t++)
                st128(sums + warp * S::OUTS + t * 128 + lane_id() * 4,
                      uint4{ f32_bits(acc[t][0]), f32_bits(acc[t][1]), f32_bits(acc[t][2]),
                             f32_bits(acc[t][3]) });
        }
        block_sync();
        const int n_steps = sh.share->n_tiles;
        /* Output: of this tile's item, or of the one whose ticket two tiles ago was the last. */
        const int done = a.splits == 1 ? step : step - 2;
        const bool ends =
            done >= 0 && (done & pair) == pair && (a.splits == 1 || sh.last[done & 1] != 0);
        const int tile_from = sh.share->tile_from,
                  tile = tile_from + done - pair; /* the item's first */
#pragma unroll 1
        for (int i = thread; i < S::OUTS; i += SMALL_THREADS) { /* whole warps */
            float v = 0.0f, w = 0.0f;
            if (step < n_steps) {
#pragma unroll
                for (int from = 0; from < SMALL_WARPS; from++)
                    w += sums[from * S::OUTS + i];
                w *= sh.tokens[out_token(i)].scale;
            }
            if (a.splits == 1) {
                v = w;
                if (pair != 0 && ends)
                    v = sh.firsts[i];
                else
                    sh.firsts[i] = w; /* this thread's until the second tile */
            } else {
                if (step < n_steps && out_token(i) < a.rows)
                    partial_at(a, sh.share->split, tile_from + step, S::OUTS)[i] = w;
                if (ends && out_token(i) < a.rows) {
                    v = partial_sum(a, tile, S::OUTS, i);
                    w = pair != 0 ? partial_sum(a, tile + 1, S::OUTS, i) : 0.0f;
                }
            }
            if (ends)
                item_out(a, sh.places, &sh.steps[done - pair], i, v, w);
        }
        const int written = step - 1;
        if (a.splits > 1 && thread == SMALL_THREADS - 1 && written >= 0 && written < n_steps &&
            (written & pair) == pair)
            item_ticket(a, (tile_from + written) >> pair, &sh.last[written & 1]);
    }
}
