/* attend_wgmma.cu - prefill attention with the products of warpgroups (K6, sm_90a, bf16 cache).
 *
 *   y[r][h] = softmax over t <= position(r), t in the window, of q[r][h] . k[t] . v[t]   (as K5)
 *
 * 4 D flops a pair (row and head, key); wgmma has 4096 flops a clock and SM, exp2 16: a block of
 * 128 rows and 128 keys at D = 128 is 2048 clocks of products and 1024 of exp2, so softmax must
 * hide behind products. Bytes: 4 D a key for 128 rows, from L2, 16 a clock.
 *
 *   grid (items x tiles, n_kv_heads): tile t of an item has its packed rows [128 t, 128 (t + 1)),
 * as in attend_prefill.cu. 3 warpgroups:
 *
 *     group 0  rows  0 .. 63   S = Q K^T | softmax | O += P V     Q in shared memory, S, P, O in
 *     group 1  rows 64 .. 127                                     registers, P the A operand of P V
 *     group 2  pages to shared memory: K and V in rings of 2 blocks of keys, 16 bytes a cp.async
 *
 *   A row group in time: the products of the next block are asked for before the softmax of theirs,
 *   so P V runs under it; and the groups take turns (barriers ORDER), so that one's softmax runs
 *   under the other's products.
 *
 *     group 0   [S(1)][P V(0)] softmax(1) ...........[S(2)][P V(1)] softmax(2)
 *     group 1                  [S(1)][P V(0)] softmax(1) ...........[S(2)][P V(1)]
 *
 *   Shared memory of a block of keys, K and V alike, and of Q: panels of 64 features, a row of 128
 *   bytes a key, chunk c of row r at place c ^ (r & 7), the 128-byte swizzle of wgmma.cuh: K-major
 *   for S (16 features: 32 bytes further), MN-major for P V (16 keys: 2048 bytes further).
 *
 *     |<- 128 bytes ->|
 *     key 0   | c0 c1 .. c7 |          panel 1: keys * 128 bytes further
 *     key 1   | c1 c0 .. c6 |
 *     ..
 *
 * Keys behind the tile's last row, and before its first row's window, are zero in shared memory and
 * never read. */
#include "cuda/attend.cuh"
#include "cuda/launch.cuh"
#include "cuda/wgmma.cuh"

enum {
    GROUPS = 2,          /* of rows */
    GROUP_THREADS = 128, /* a warpgroup */
    GROUP_ROWS = 64,     /* of a wgmma */
    ROWS = GROUPS * GROUP_ROWS,
    THREADS = (GROUPS + 1) * GROUP_THREADS,
    STAGES = 2,
    LAG = 2,             /* units (K or V of a block) on their way while one is waited for */
    ROW_REGISTERS = 224, /* 2 x 224 + 56 = 3 x 168, what a launch of 384 threads holds */
    FEED_REGISTERS = 56,
    BARRIER_ORDER = 1, /* + group: its turn for products */
    BARRIER_ROWS = 3,  /* + group: its threads alone */
};
static_assert(LAG < 2 * STAGES, "a unit waits for a place that only units behind it free");

/* Keys of a block: registers of S are keys / 2, of O D / 2. */
template <int D> static constexpr int keys_of = D <= 128 ? 128 : 64;
template <int D> static constexpr int stage_bytes = keys_of<D> * 2 * D;
template <int D> static constexpr int q_bytes = D * 2 * ROWS;

struct barriers {
    uint64_t full[2][STAGES], empty[2][STAGES]; /* of K, of V */
};
template <int D>
static constexpr int shared_bytes = q_bytes<D> + stage_bytes<D> * 2 * STAGES +
                                    (int)sizeof(struct barriers) + (int)sizeof(struct tile);
static_assert(shared_bytes<128> <= 227 << 10 && shared_bytes<256> <= 227 << 10, "one block an SM");

/* Chunk of 16 bytes of a row, in panels of `rows` rows. */
DEVICE int panel_at(int rows, int row, int chunk)
{
    return chunk / 8 * rows * 128 + row * 128 + ((chunk ^ row) & 7) * 16;
}
DEVICE uint64_t k_major(const unsigned char *start)
{
    return wgmma_desc(start, 16, 1024, WGMMA_128B);
}
template <int D> DEVICE unsigned char *stage_at(unsigned char *memory, int which, int block)
{
    return memory + q_bytes<D> + (which * STAGES + block % STAGES) * stage_bytes<D>;
}

/* ---- the feeding group --------------------------------------------------------------------------
 */

template <int D> static constexpr int warp_pages = keys_of<D> / PAGE_TOKENS / 4;

template <int D> DEVICE void page_ids(const struct tile &t, int block, int (&ids)[warp_pages<D>])
{
#pragma unroll
    for (int i = 0; i < warp_pages<D>; i++) {
        const int page = block * (keys_of<D> / PAGE_TOKENS) + 4 * i + warp_id() % 4;
        ids[i] = t.from + page * PAGE_TOKENS < t.high ? t.table[page] : 0;
    }
}
template <int D>
DEVICE void fetch(const struct attend_in &a, const struct tile &t, int block, int which,
                  const int (&ids)[warp_pages<D>], unsigned char *to)
{
    const int low = t.low, high = t.high;
#pragma unroll
    for (int i = 0; i < warp_pages<D>; i++) {
        const int page = 4 * i + warp_id() % 4;
        const int key = t.from + block * keys_of<D> + page * PAGE_TOKENS;
        const unsigned char *from = page_block<DTYPE_BF16, D>(a, ids[i], which, t.kv_head);
#pragma unroll 4
        for (int at = lane_id(); at < PAGE_TOKENS * tile_chunks<D>; at += 32) {
            const int token = at / tile_chunks<D>, chunk = at % tile_chunks<D>;
            cp_async16(to + panel_at(keys_of<D>, page * PAGE_TOKENS + token, chunk), from + 16 * at,
                       key + token >= low && key + token < high);
        }
    }
}
/* Units 2 j (K of block j) and 2 j + 1 (V). What has landed is told LAG units later: by then it has
 * landed without a wait, if memory keeps up. */
template <int D>
DEVICE void feed(const struct attend_in &a, const struct tile &t, int n_blocks,
                 unsigned char *memory, struct barriers *bars)
{
    int ids[warp_pages<D>] = {}, next[warp_pages<D>];
    page_ids<D>(t, 0, next);
    for (int unit = 0; unit < 2 * n_blocks + LAG; unit++) {
        const int block = unit / 2, which = unit % 2;
        if (block < n_blocks) {
            if (which == 0) {
#pragma unroll
                for (int i = 0; i < warp_pages<D>; i++)
                    ids[i] = next[i];
                page_ids<D>(t, block + 1, next);
            }
            if (block >= STAGES)
                mbar_wait(&bars->empty[which][block % STAGES], (uint32_t)(block / STAGES - 1) & 1u);
            fetch<D>(a, t, block, which, ids, stage_at<D>(memory, which, block));
        }
        cp_async_commit();
        if (unit >= LAG) {
            cp_async_wait<LAG>();
            async_fence();
            mbar_arrive(&bars->full[which][(unit - LAG) / 2 % STAGES]);
        }
    }
}
static_assert(LAG % 2 == 0, "which of unit and of unit - LAG are the same");

/* ---- the groups of rows -------------------------------------------------------------------------
 */

/* A thread has rows g and g + 8 of its warp's 16: [h]; columns 8 i + 2q + e of an accumulator are
 * at 4 i + 2 h + e. */
template <int D> struct rows_state {
    float o[D / 2];
    float s[keys_of<D> / 2];
    uint32_t p[keys_of<D> / 16][4];
    float m[2]; /* of the raw products */
    float l[2]; /* of this lane's keys */
};
DEVICE int group_row()
{
    return warp_id() * 16 + lane_id() / 4; /* of the tile: groups of rows are the first warps */
}
DEVICE int group_of()
{
    return warp_id() / 4;
}

/* Q of this group to shared memory, rows behind the last as zeros. */
template <int D>
DEVICE void load_q(const struct attend_in &a, const struct tile &t, unsigned char *q)
{
    const int first = group_of() * GROUP_ROWS;
    for (int at = (int)threadIdx.x % GROUP_THREADS; at < GROUP_ROWS * tile_chunks<D>;
         at += GROUP_THREADS) {
        const int r = first + at / tile_chunks<D>, chunk = at % tile_chunks<D>;
        const int packed = t.first + r;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (packed < t.n_rows)
            v = ld128((const uint16_t *)a.q + (t.row + packed / t.group) * a.q_stride +
                      (int64_t)tile_head(t, packed) * D + 8 * chunk);
        st128(q + panel_at(ROWS, r, chunk), v);
    }
    async_fence();
    named_sync(BARRIER_ROWS + group_of(), GROUP_THREADS);
}
template <int D> DEVICE void ask_scores(struct rows_state<D> &x, uint64_t q, uint64_t k)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_bf16_ss<keys_of<D>>(x.s, wgmma_desc_at(q, i / 4 * ROWS * 128 + i % 4 * 32),
                                  wgmma_desc_at(k, i / 4 * keys_of<D> * 128 + i % 4 * 32), i > 0);
    wgmma_commit();
}
template <int D> DEVICE void ask_values(struct rows_state<D> &x, uint64_t v)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < keys_of<D> / 16; i++)
        wgmma_bf16<D, true>(x.o, x.p[i], wgmma_desc_at(v, i * 2048), true);
    wgmma_commit();
}
/* Scores behind the row's own key, or before its window: -inf. */
template <int D>
DEVICE void mask(const struct attend_in &a, const struct tile &t, int key, struct rows_state<D> &x)
{
    const int mine = key + lane_id() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int last = tile_position(t, t.first + group_row() + 8 * h);
        const int first = a.window > 0 ? last + 1 - a.window : 0;
#pragma unroll
        for (int i = 0; i < keys_of<D> / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (mine + 8 * i + e > last || mine + 8 * i + e < first)
                    x.s[4 * i + 2 * h + e] = NO_SCORE;
    }
}
/* Scores of the block at `key` to probabilities, in place; o is to be multiplied with factor. A row
 * may have no key yet: then its maximum is -inf, and 0 takes its place so that exp2 sees -inf - 0.
 */
template <int D>
DEVICE void soften(const struct attend_in &a, const struct tile &t, int key, float log2_scale,
                   struct rows_state<D> &x, float (&factor)[2])
{
    const int end = key + keys_of<D>;
    if (a.soft_cap > 0.0f)
#pragma unroll
        for (int i = 0; i < keys_of<D> / 2; i++)
            x.s[i] = capped(x.s[i] * a.scale, a.soft_cap);
    if (key < t.all_low || t.all_high < end)
        mask<D>(a, t, key, x);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = x.m[h], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < keys_of<D> / 8; i++)
            m = fmaxf(m, fmaxf(x.s[4 * i + 2 * h], x.s[4 * i + 2 * h + 1]));
        m = fmaxf(m, shfl_xor_f32(m, 1));
        m = fmaxf(m, shfl_xor_f32(m, 2));
        const float top = m == NO_SCORE ? 0.0f : m * log2_scale;
        factor[h] = exp2_fast(fma_f32(x.m[h], log2_scale, -top));
        x.m[h] = m;
#pragma unroll
        for (int i = 0; i < keys_of<D> / 8; i++)
#pragma unroll
            for (int e = 4 * i + 2 * h; e < 4 * i + 2 * h + 2; e++) {
                x.s[e] = exp2_fast(fma_f32(x.s[e], log2_scale, -top));
                sum += x.s[e];
            }
        x.l[h] = fma_f32(x.l[h], factor[h], sum);
    }
}
/* The accumulator's places are the A operand's. */
template <int D> DEVICE void round_probabilities(struct rows_state<D> &x)
{
#pragma unroll
    for (int i = 0; i < keys_of<D> / 16; i++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            x.p[i][r] = bf16_pair(x.s[8 * i + 2 * r], x.s[8 * i + 2 * r + 1]);
}
/* O through this warp's rows of Q's memory, to leave in whole rows. */
template <int D>
DEVICE void store(const struct attend_in &a, const struct tile &t, float log2_scale,
                  const struct rows_state<D> &x, unsigned char *q)
{
    named_sync(BARRIER_ROWS + group_of(), GROUP_THREADS); /* the group's products have read Q */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = group_row() + 8 * h;
        float l = x.l[h];
        l += shfl_xor_f32(l, 1);
        l += shfl_xor_f32(l, 2);
        const float last = last_factor(a, tile_head(t, t.first + r), x.m[h] * log2_scale, l);
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *(uint32_t *)(void *)(q + panel_at(ROWS, r, i) + lane_id() % 4 * 4) =
                bf16_pair(x.o[4 * i + 2 * h] * last, x.o[4 * i + 2 * h + 1] * last);
    }
    warp_sync();
    for (int at = lane_id(); at < 16 * tile_chunks<D>; at += 32) {
        const int r = warp_id() * 16 + at / tile_chunks<D>, chunk = at % tile_chunks<D>;
        const int packed = t.first + r;
        if (packed < t.n_rows)
            st128((uint16_t *)a.y + (t.row + packed / t.group) * a.y_stride +
                      (int64_t)tile_head(t, packed) * D + 8 * chunk,
                  ld128(q + panel_at(ROWS, r, chunk)));
    }
}
/* This warp has done with a block of K or V: its wgmma_wait has seen all its lanes. */
DEVICE void give_back(struct barriers *bars, int which, int block)
{
    if (lane_id() == 0)
        mbar_arrive(&bars->empty[which][block % STAGES]);
}
DEVICE void take(struct barriers *bars, int which, int block)
{
    mbar_wait(&bars->full[which][block % STAGES], (uint32_t)(block / STAGES) & 1u);
}

template <int D>
DEVICE void attend_rows(const struct attend_in &a, const struct tile &t, int n_blocks,
                        unsigned char *memory, struct barriers *bars)
{
    const float log2_scale = a.soft_cap > 0.0f ? LOG2_E : a.scale * LOG2_E;
    const int group = group_of(), other = 1 - group;
    const uint64_t q = k_major(memory + group * GROUP_ROWS * 128);
    struct rows_state<D> x;
    float factor[2];
    load_q<D>(a, t, memory);
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        x.o[i] = 0.0f;
    x.m[0] = x.m[1] = NO_SCORE;
    x.l[0] = x.l[1] = 0.0f;

    take(bars, 0, 0);
    ask_scores<D>(x, q, k_major(stage_at<D>(memory, 0, 0)));
    wgmma_wait<0>();
    wgmma_landed(x.s);
    give_back(bars, 0, 0);
    soften<D>(a, t, t.from, log2_scale, x, factor);
    round_probabilities<D>(x);
    if (group == 1 && n_blocks > 1)
        named_arrive(BARRIER_ORDER, GROUPS * GROUP_THREADS); /* group 0 is first */

    for (int j = 1; j < n_blocks; j++) {
        take(bars, 0, j);
        take(bars, 1, j - 1);
        named_sync(BARRIER_ORDER + group, GROUPS * GROUP_THREADS);
        ask_scores<D>(x, q, k_major(stage_at<D>(memory, 0, j)));
        ask_values<D>(
            x, wgmma_desc(stage_at<D>(memory, 1, j - 1), keys_of<D> * 128, 1024, WGMMA_128B));
        if (group == 0 || j + 1 < n_blocks)
            named_arrive(BARRIER_ORDER + other, GROUPS * GROUP_THREADS);
        wgmma_wait<1>();
        wgmma_landed(x.s);
        give_back(bars, 0, j);
        soften<D>(a, t, t.from + j * keys_of<D>, log2_scale, x, factor);
        wgmma_wait<0>();
        wgmma_landed(x.o);
        give_back(bars, 1, j - 1);
        round_probabilities<D>(x);
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            x.o[i] *= factor[i / 2 % 2];
    }
    take(bars, 1, n_blocks - 1);
    ask_values<D>(
        x, wgmma_desc(stage_at<D>(memory, 1, n_blocks - 1), keys_of<D> * 128, 1024, WGMMA_128B));
    wgmma_wait<0>();
    wgmma_landed(x.o);
    store<D>(a, t, log2_scale, x, memory);
}

template <int D> KERNEL(THREADS, 1) attend_wgmma_kernel(const __grid_constant__ struct attend_in a)
{
    SHARED(memory);
    if (!HAS_WGMMA) {
        wgmma_fence(); /* traps */
        return;
    }
    struct barriers *const bars =
        (struct barriers *)(void *)(memory + q_bytes<D> + stage_bytes<D> * 2 * STAGES);
    struct tile &t = *(struct tile *)(void *)(bars + 1);
    griddep_wait();
    griddep_launch();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * STAGES; i++) {
            mbar_init(&bars->full[i / STAGES][i % STAGES], GROUP_THREADS);
            mbar_init(&bars->empty[i / STAGES][i % STAGES], GROUPS * 4); /* warps */
        }
        mbar_init_fence();
        find_tile(a, ROWS, &t);
    }
    block_sync();
    if (t.n_rows == 0)
        return;
    const int n_blocks = (t.high - t.from + keys_of<D> - 1) / keys_of<D>;
    if (group_of() < GROUPS) {
        registers_take<ROW_REGISTERS>();
        attend_rows<D>(a, t, n_blocks, memory, bars);
    } else {
        registers_give<FEED_REGISTERS>();
        feed<D>(a, t, n_blocks, memory, bars);
    }
}

template <int D> static cudaError_t start(const struct launch *launch, const struct attend_in *op)
{
    const int n_tiles = tiles_of_item(op->n_heads / op->n_kv_heads, ROWS);
    return LAUNCH((attend_wgmma_kernel<D>),
                  dim3((unsigned)(op->n_items * n_tiles), (unsigned)op->n_kv_heads), THREADS,
                  shared_bytes<D>, launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, *op);
}

/* fp16 has no MN-major product here, 80 and 96 features no panel. */
bool attend_wgmma_fits(const struct attend_in *op, const struct device_info *device)
{
    return device->wgmma && op->kv_dtype == DTYPE_BF16 &&
           (op->head_dim == 64 || op->head_dim == 128 || op->head_dim == 256);
}
cudaError_t attend_wgmma(const struct launch *launch, const struct attend_in *op)
{
    switch (op->head_dim) {
    case 64:
        return start<64>(launch, op);
    case 128:
        return start<128>(launch, op);
    case 256:
        return start<256>(launch, op);
    default:
        return cudaErrorInvalidValue; /* attend_wgmma_fits said so */
    }
}
