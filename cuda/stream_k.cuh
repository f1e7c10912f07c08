/* stream_k.cuh - tiles of a product dealt to a grid that is resident at once: which block adds
 * which k of which tile, and who adds up what is in pieces.
 *
 * The first `streamed` tiles are one line of k blocks, cut evenly over the grid: a tile's first
 * piece ends some block's share, its other pieces begin the shares of the next blocks, or are all
 * of them. Who has a tile's first k owns it; the others leave their sums in a slot each, and the
 * owner adds the slots in the order of k. Nobody waits before its own sums are left, so no cycle.
 * The other tiles are dealt whole. With splits > 1 every tile is cut in so many equal parts
 * instead. */
#pragma once
#include "cuda/device.cuh"

struct tile_plan {
    int32_t n_tiles, token_tiles; /* tile = pair of strips * token_tiles + token tile */
    int32_t blocks;               /* of 128 k */
    int32_t grid;
    int32_t streamed; /* tiles [0, streamed) are cut anywhere */
    int32_t splits;   /* > 1: every tile in so many; streamed is 0 */
};

/* ---- the work of a block ------------------------------------------------------------------------
 */

/* Blocks of 128 k [from, to) of a tile. The owner has from = 0 and adds n_slots slots; others leave
 * their sums in `slot`. */
struct segment {
    int pair, token;
    int from, to;
    int slot; /* -1: owner */
    int first_slot, n_slots;
};
struct walk {
    int64_t at, to; /* of the line of k blocks, or units of splits */
    int whole;
};
DEVICE struct walk walk_begin(const struct tile_plan &p)
{
    const int64_t line = (int64_t)p.streamed * p.blocks, block = (int64_t)blockIdx.x;
    struct walk w;
    w.at = p.splits > 1 ? block : line * block / p.grid;
    w.to = p.splits > 1 ? (int64_t)p.n_tiles * p.splits : line * (block + 1) / p.grid;
    w.whole = p.splits > 1 ? p.n_tiles : p.streamed + (int)block;
    return w;
}
/* Unit u of the splits: the last k of a tile come first, so that an owner waits only for units that
 * were begun before its own. */
DEVICE int walk_split(const struct tile_plan &p, struct walk &w, struct segment &s)
{
    const int tile = (int)(w.at / p.splits), part = p.splits - 1 - (int)(w.at % p.splits);
    w.at += p.grid;
    s.from = (int)((int64_t)p.blocks * part / p.splits);
    s.to = (int)((int64_t)p.blocks * (part + 1) / p.splits);
    s.first_slot = tile * (p.splits - 1);
    s.slot = part > 0 ? s.first_slot + part - 1 : -1;
    s.n_slots = part > 0 ? 0 : p.splits - 1;
    return tile;
}
/* The next piece of the line. A tile's k after the first piece begin a block's share: the slot is
 * the block. */
DEVICE int walk_line(const struct tile_plan &p, struct walk &w, struct segment &s)
{
    const int64_t tile = w.at / p.blocks, end = (tile + 1) * p.blocks;
    s.from = (int)(w.at - tile * p.blocks);
    const int64_t to = end < w.to ? end : w.to;
    s.to = s.from + (int)(to - w.at);
    w.at = to;
    s.slot = s.from > 0 ? (int)blockIdx.x : -1;
    s.first_slot = (int)blockIdx.x + 1;
    /* The last block of this tile: the largest b with line * b / grid <= end - 1. */
    const int64_t line = (int64_t)p.streamed * p.blocks;
    s.n_slots = s.from > 0 ? 0 : (int)((end * p.grid - 1) / line) - (int)blockIdx.x;
    return (int)tile;
}
DEVICE bool walk_next(const struct tile_plan &p, struct walk &w, struct segment &s)
{
    int tile;
    if (w.at < w.to) {
        tile = p.splits > 1 ? walk_split(p, w, s) : walk_line(p, w, s);
    } else if (w.whole < p.n_tiles) {
        tile = w.whole;
        w.whole += p.grid;
        s.from = 0;
        s.to = p.blocks;
        s.slot = -1;
        s.first_slot = s.n_slots = 0;
    } else {
        return false;
    }
    s.pair = tile / p.token_tiles;
    s.token = tile % p.token_tiles;
    return true;
}
/* ---- sums in slots: [N / 4][128 threads][4] floats and a flag, 1 when they are there
 * ---------------
 */

/* The 128 threads of a warpgroup, which meet at `barrier`. */
template <int N>
DEVICE void slot_give(const float (&sums)[N], float *slot, uint32_t *flag, int barrier)
{
    float *to = slot + (threadIdx.x % 128) * 4;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const uint4 v = { f32_bits(sums[i]), f32_bits(sums[i + 1]), f32_bits(sums[i + 2]),
                          f32_bits(sums[i + 3]) };
        st128(to + i * 128, v);
    }
    device_fence();
    named_sync(barrier, 128);
    if (threadIdx.x % 128 == 0)
        st_release(flag, 1);
}
/* sums += the slot's, when they are there; its flag is 0 again afterwards. */
template <int N>
DEVICE void slot_add(float (&sums)[N], const float *slot, uint32_t *flag, int barrier)
{
    if (threadIdx.x % 128 == 0) {
        while (ld_acquire(flag) == 0)
            ;
        st_release(flag, 0);
    }
    named_sync(barrier, 128);
    const float *from = slot + (threadIdx.x % 128) * 4;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const uint4 v = ld128(from + i * 128);
        sums[i] += f32_of_bits(v.x);
        sums[i + 1] += f32_of_bits(v.y);
        sums[i + 2] += f32_of_bits(v.z);
        sums[i + 3] += f32_of_bits(v.w);
    }
}

/* ---- on the host --------------------------------------------------------------------------------
 */

/* A slot costs about as much as six blocks of 128 k: 1 KB a token written and read, through L2. A
 * block's share of the line is at least four. */
enum { SLOT_BLOCKS = 6, SHARE_BLOCKS_MIN = 4 };
/* Tiles whole, or the last wave and one more cut evenly (stream-K). Returns the blocks of 128 k on
 * the longest way through. */
static int64_t plan_auto(struct tile_plan *p, int32_t n_sms, int32_t n_slots)
{
    const int32_t waves = p->n_tiles / n_sms, rest = p->n_tiles % n_sms;
    const int64_t whole = (int64_t)(waves + (rest > 0)) * p->blocks;
    const int64_t line = (int64_t)p->n_tiles * p->blocks;
    int64_t grid = line / SHARE_BLOCKS_MIN < n_sms ? line / SHARE_BLOCKS_MIN : n_sms;
    if (grid > n_slots)
        grid = n_slots;
    p->splits = 1;
    if (rest > 0 && grid > rest && (waves == 0 || grid == n_sms)) {
        const int64_t cut = (line + grid - 1) / grid + SLOT_BLOCKS;
        if (cut < whole) {
            p->grid = (int32_t)grid;
            p->streamed = waves > 0 ? rest + n_sms : p->n_tiles;
            return cut;
        }
    }
    p->grid = p->n_tiles < n_sms ? p->n_tiles : n_sms;
    p->streamed = 0;
    return whole;
}
