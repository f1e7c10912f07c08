/* attend.cuh - what the attention kernels share: how 16-bit tiles lie in shared memory, products
 * in the element type of the cache, scores in base 2. */
#pragma once
#include "cuda/device.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"

/* Query rows of a prefill item (attend_plan.cu cuts, the kernels' grids follow). 128: one tile of
 * an ungrouped model; a group of G heads makes G tiles of 128 / G tokens. */
enum { PREFILL_ITEM_ROWS = 128 };

#define LOG2_E 1.4426950408889634f
/* A masked score, and the maximum of no scores. */
#define NO_SCORE (-__builtin_huge_valf())

/* A tile in shared memory: rows of D elements in chunks of 16 bytes. ldmatrix reads a chunk of 8
 * consecutive rows at once, which must lie in 8 different sixteenths of the 128 bytes of banks:
 *   D a multiple of 64: row stride 2 D bytes, chunk c of row r at place c ^ (r & 7);
 *   else: an odd number of chunks, the last of them padding where D / 8 is even.
 * D codes of int8 lie as D / 2 elements do. */
template <int D> static constexpr int tile_chunks = D / 8;
template <int D>
static constexpr int tile_stride = D % 64 == 0 || tile_chunks<D> % 2 == 1 ? 2 * D : 2 * D + 16;
template <int D> DEVICE int tile_at(int row, int chunk)
{
    static_assert(D % 8 == 0, "rows are whole chunks");
    /* The upper bits of the chunk apart: they become constants of the address. */
    return row * tile_stride<D> +
           (D % 64 == 0 ? chunk / 8 * 128 + ((chunk ^ row) & 7) * 16 : chunk * 16);
}

static constexpr int most_of(int a, int b)
{
    return a > b ? a : b;
}
/* Shared memory of an SM; a block takes 1 KB more than it asks for. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
#define SM_SHARED_BYTES (228 << 10)
#elif __CUDA_ARCH__ == 800
#define SM_SHARED_BYTES (164 << 10)
#else
#define SM_SHARED_BYTES (100 << 10)
#endif
/* Blocks of an SM for __launch_bounds__: at most `most`, where registers end. */
static constexpr int blocks_fit(int bytes, int most)
{
    return SM_SHARED_BYTES / (bytes + 1024) < most ? SM_SHARED_BYTES / (bytes + 1024) : most;
}

/* int8 pages. Codes become bf16, which holds them exactly; K's scales are multiplied into the
 * scores (fp32), V's into the probabilities before these are rounded: one rounding of 2^-9, as for
 * bf16 pages, and q needs no other type (fp16 would end at 65504). */

/* Signed bytes 0 and 2 of v as a pair of bf16: 0x4300 is 128, so 128 + (the low seven bits), less
 * 128 or, for negative codes, 256. */
DEVICE uint32_t bf16_of_codes(uint32_t v)
{
    return b2_fma(and_or(v, 0x00800080u, 0x43004300u), 0xbf80bf80u,
                  and_or(v, 0x007f007fu, 0x43004300u));
}
/* Eight codes as the chunk of their elements, in order. */
DEVICE uint4 widened(uint32_t low, uint32_t high)
{
    return make_uint4(
        bf16_of_codes(byte_permute(low, 0, 0x0100)), bf16_of_codes(byte_permute(low, 0, 0x0302)),
        bf16_of_codes(byte_permute(high, 0, 0x0100)), bf16_of_codes(byte_permute(high, 0, 0x0302)));
}

template <enum dtype KV>
DEVICE void mma_kv(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    if constexpr (KV == DTYPE_F16)
        mma_f16(d, a, b0, b1);
    else
        mma_bf16(d, a, b0, b1);
}
template <enum dtype KV> DEVICE uint32_t kv_pair(float low, float high)
{
    return KV == DTYPE_F16 ? f16_pair(low, high) : bf16_pair(low, high);
}
/* A pair of q (bf16) as the cache's type: the MMA has one type for both. */
template <enum dtype KV> DEVICE uint32_t kv_of_bf16(uint32_t pair)
{
    return KV == DTYPE_F16 ? f16_pair(bf16_low(pair), bf16_high(pair)) : pair;
}

DEVICE float capped(float s, float cap)
{
    return cap * tanh_of(s * rcp_fast(cap));
}
/* score . log2 e of a raw product; exp2 of differences is the softmax. */
DEVICE float score_of(const struct attend_in &a, float product)
{
    const float s = product * a.scale;
    return LOG2_E * (a.soft_cap > 0.0f ? capped(s, a.soft_cap) : s);
}
/* K (which 0) or V (1) of a page: a block of kv_layout.h. */
template <enum dtype KV, int D>
DEVICE const unsigned char *page_block(const struct attend_in &a, int page, int which, int kv_head)
{
    return (const unsigned char *)a.pages_memory +
           kv_block_index(a.n_kv_heads, page, which, kv_head) * kv_block_bytes(KV, D);
}
enum { SCALES_BYTES = 2 * PAGE_TOKENS * KV_SCALE_BYTES };
/* int8: scales of a page's 16 keys, [2][16] floats: K's, then V's; 0 for keys outside [low, high).
 * Asks, does not commit. */
template <int D>
DEVICE void fetch_scales(const struct attend_in &a, int page, int kv_head, int key, int low,
                         int high, unsigned char *to)
{
    const int token = lane_id() % PAGE_TOKENS, which = lane_id() / PAGE_TOKENS;
    cp_async4(to + KV_SCALE_BYTES * lane_id(),
              page_block<DTYPE_I8, D>(a, page, which, kv_head) + PAGE_TOKENS * D +
                  KV_SCALE_BYTES * token,
              key + token >= low && key + token < high);
}

/* The sink is one more key, with value 0. Returns what o is multiplied with. */
DEVICE float last_factor(const struct attend_in &a, int head, float m, float l)
{
    if (a.sinks == NULL)
        return 1.0f / l;
    const float sink = a.sinks[head] * LOG2_E, top = fmaxf(m, sink);
    const float factor = exp2_fast(m - top);
    return factor / fma_f32(l, factor, exp2_fast(sink - top));
}

/* ---- prefill: tiles of packed rows --------------------------------------------------------------
 * Rows of a tile are (token, head) pairs, the G heads of a KV head innermost. */

/* What a block works at; in shared memory, as registers are few. */
struct tile {
    const int32_t *table; /* page ids from key `from` */
    int kv_head, group;
    int row, n_rows;       /* of the item: first row of the batch; packed rows */
    int first;             /* first packed row of this tile */
    int position;          /* of the item's first row */
    int from, low, high;   /* keys: from of a page, some row sees [low, high) */
    int all_low, all_high; /* every row sees [all_low, all_high) */
};
DEVICE int tile_position(const struct tile &t, int packed)
{
    return t.position + packed / t.group;
}
DEVICE int tile_head(const struct tile &t, int packed)
{
    return t.kv_head * t.group + packed % t.group;
}
/* Tiles of `rows` packed rows of a full item: blocks of the grid. */
static inline __host__ __device__ int tiles_of_item(int group, int rows)
{
    return (PREFILL_ITEM_ROWS * group + rows - 1) / rows;
}
/* The tile of this block; n_rows 0: none (padding, or behind the item's last row). */
DEVICE void find_tile(const struct attend_in &a, int rows, struct tile *t)
{
    const int group = a.n_heads / a.n_kv_heads;
    const int n_tiles = tiles_of_item(group, rows);
    const struct attend_item item = a.items[(int)blockIdx.x / n_tiles];
    t->kv_head = (int)blockIdx.y;
    t->group = group;
    t->row = item.row;
    t->n_rows = item.n_rows * group;
    t->first = (n_tiles - 1 - (int)blockIdx.x % n_tiles) * rows;
    t->position = item.to - item.n_rows;
    if (item.row < 0 || t->first >= t->n_rows) {
        t->n_rows = 0;
        return;
    }
    const int end = t->first + rows < t->n_rows ? t->first + rows : t->n_rows;
    const int position = tile_position(*t, t->first);
    t->low = a.window > 0 && position + 1 > a.window ? position + 1 - a.window : 0;
    t->high = tile_position(*t, end - 1) + 1;
    t->all_low = a.window > 0 ? t->high - a.window : 0;
    t->all_high = position + 1;
    t->from = t->low / PAGE_TOKENS * PAGE_TOKENS;
    t->table = a.pages + (int64_t)a.row_seq[item.row] * a.pages_stride + t->from / PAGE_TOKENS;
}
