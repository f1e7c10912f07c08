/* attend_decode.cu - attention of rows that are alone in their sequence (K5).
 *
 *   y[h] = sum_t exp(s[h][t]) v[t] / (sum_t exp(s[h][t]) + exp(sink[h]))     t in the window
 *   s[h][t] = cap(scale * q[h] . k[t])      G = n_heads / n_kv_heads query heads share k and v
 *
 * Moves 4 D bytes a key and KV head, once; 4 D G flops for them are far below what the tensor cores
 * have, so only the bytes in flight count: each warp keeps STAGES - 1 blocks of 32 D bytes on their
 * way (D = 128: 8 KB a warp, 32 KB a block, 96..128 KB an SM; Little's law wants 26 KB at 800 ns).
 *
 *   grid (items, n_kv_heads), 4 warps. An item is keys [from, to) of a row, from a multiple of 16.
 *   Warp w takes pages w, w + 4, .. of the item through a private ring: no block barrier in the
 * loop.
 *
 *     stage:     |  0   |  1   |  2   |  0   |  1  ..        a page is two units, K then V
 *     unit:      | K p0 | V p0 | K p1 | V p1 | K p2 ..
 *     in use: ------^      ^------^-------- on their way
 *
 *   S [16 tokens][8 heads] = K [16][D] . Q^T [D][8]     K is the 16-row operand: no row is padding
 *   O^T [D][8 heads] += V^T [D][16] . P [16][8]         P turned by movmatrix, V by ldmatrix.trans
 *
 *   Both products have heads 2q, 2q + 1 in a lane, so the softmax's factors need no exchange.
 *   More heads: TILES column tiles (9..16 a pass), then another pass over the pages.
 *
 *   end: warps merged in order 0..3 through shared memory. One split: y. More: (o, m, l) to
 *   `partial`; the block that takes the last ticket of its (row, KV head) merges splits in order
 *   0.. n_splits - 1, whichever block it is: the same bits every time.
 *
 * Keys outside the row's window are never read: their shared memory is zero, their score -inf.
 *
 *   int8 pages: units are half as long, and K's brings the page's 32 scales, so that p is ready for
 *   V before V is there. ldmatrix moves codes in twos: a lane gets features 4q .. 4q + 3 of K (or
 *   2g, 2g + 1 of V, tokens 2q and 2q + 1), even ones in bytes 0 and 2. So the inner products take
 *   features in the order 0 2 4 .. 14, 1 3 .. 15 of each 16, q likewise, and O's rows g, g + 8 are
 *   features 2g, 2g + 1. Per 4 codes 1 shift, 4 LOP3, 2 HFMA2: 224 issue slots a page of D = 128,
 *   which the memory of an sm_90 brings in some 200 cycles of four schedulers. */
#include "cuda/attend.cuh"
#include "cuda/launch.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, TILE_HEADS = 8 };

/* A token's features in 16-bit units. */
template <enum dtype KV, int D> static constexpr int row_units = KV == DTYPE_I8 ? D / 2 : D;
/* 48 KB of ring a block at most, but for D = 256, whose three stages are 96 KB. */
template <enum dtype KV, int D>
static constexpr int stages = KV == DTYPE_I8 ? (D <= 80   ? 8
                                                : D <= 96 ? 6
                                                          : 5)
                                             : (D <= 64   ? 6
                                                : D <= 80 ? 4
                                                          : 3);
template <enum dtype KV, int D>
static constexpr int codes_bytes = tile_stride<row_units<KV, D>> *PAGE_TOKENS;
template <enum dtype KV, int D>
static constexpr int stage_bytes = codes_bytes<KV, D> + (KV == DTYPE_I8 ? SCALES_BYTES : 0);
template <enum dtype KV, int D> /* of a warp */
static constexpr int ring_bytes = stage_bytes<KV, D> *stages<KV, D>;
template <enum dtype KV, int D> static constexpr int shared_bytes = ring_bytes<KV, D> *WARPS;
template <enum dtype KV>
static constexpr int largest_ring = most_of(most_of(shared_bytes<KV, 64>, shared_bytes<KV, 80>),
                                            most_of(shared_bytes<KV, 96>, shared_bytes<KV, 128>));
static_assert(largest_ring<DTYPE_BF16> <= 48 << 10 && largest_ring<DTYPE_I8> <= 48 << 10,
              "4 blocks an SM of 227 KB, 3 of 163 KB");
static_assert(shared_bytes<DTYPE_BF16, 256> <= 99 << 10 && shared_bytes<DTYPE_I8, 256> <= 99 << 10,
              "the smallest SM (sm_86, sm_89)");
/* Registers: q D / 8 and o D / 4 a tile; 128 with one tile of D <= 128. */
template <enum dtype KV, int D, int TILES>
static constexpr int blocks_per_sm = blocks_fit(shared_bytes<KV, D>, D > 128     ? 2
                                                                     : TILES > 1 ? 3
                                                                                 : 4);

/* What a warp leaves for the merge, in its own ring. Stride D + 4: heads 2q of a store land 8 banks
 * apart. */
template <int D, int TILES> struct warp_out {
    float o[TILES * TILE_HEADS][D + 4];
    float m[TILES * TILE_HEADS], l[TILES * TILE_HEADS];
};
template <int TILES> struct block_out {
    float factor[WARPS][TILES * TILE_HEADS]; /* of each warp's o and l */
    float m[TILES * TILE_HEADS], l[TILES * TILE_HEADS];
    uint32_t arrived;
};
template <int D, int TILES> struct shared_end {
    struct warp_out<D, TILES> warp; /* of warp 0, at the start of its ring */
    struct block_out<TILES> block;
};

/* The pages of one warp, in order, K and V of each. */
struct feed {
    const int32_t *table; /* page ids: every WARPS-th entry */
    int kv_head, n_pages; /* of this warp */
    int unit;             /* next to ask for: page unit / 2, K or V */
    int id;               /* of page (unit / 64 * 32 + lane) */
    int first_key;        /* of page 0 */
    int low, high;        /* keys that count: [low, high) */
    int stage;            /* where the next unit goes */
};
DEVICE int feed_id(const struct feed &f, int page)
{
    return page < f.n_pages ? f.table[WARPS * page] : 0;
}
DEVICE int feed_key(const struct feed &f, int page)
{
    return f.first_key + page * WARPS * PAGE_TOKENS;
}
/* Asks for the next unit, or for nothing behind the last: one commit either way. */
template <enum dtype KV, int D>
DEVICE void feed_next(const struct attend_in &a, struct feed &f, unsigned char *ring)
{
    const int page = f.unit >> 1;
    if (page < f.n_pages) {
        if ((f.unit & 63) == 0 && f.unit > 0)
            f.id = feed_id(f, page + lane_id());
        const int id = (int)shfl((uint32_t)f.id, page & 31), key = feed_key(f, page);
        constexpr int R = row_units<KV, D>, CHUNKS = PAGE_TOKENS * tile_chunks<R>;
        const unsigned char *from = page_block<KV, D>(a, id, f.unit & 1, f.kv_head);
        unsigned char *to = ring + f.stage * stage_bytes<KV, D>;
#pragma unroll
        for (int i = 0; i < (CHUNKS + 31) / 32; i++) {
            const int chunk = 32 * i + lane_id(), token = chunk / tile_chunks<R>;
            if (CHUNKS % 32 == 0 || chunk < CHUNKS)
                cp_async16(to + tile_at<R>(token, chunk % tile_chunks<R>), from + 16 * chunk,
                           key + token >= f.low && key + token < f.high);
        }
        if (KV == DTYPE_I8 && (f.unit & 1) == 0)
            fetch_scales<D>(a, id, f.kv_head, key, f.low, f.high, to + codes_bytes<KV, D>);
    }
    cp_async_commit();
    f.unit++;
    f.stage = f.stage + 1 == stages<KV, D> ? 0 : f.stage + 1;
}

/* Row g of O^T, row g + 8. */
template <enum dtype KV> DEVICE int out_feature(int g, int row)
{
    return KV == DTYPE_I8 ? 2 * g + row : g + 8 * row;
}
template <enum dtype KV, int D, int TILES> struct softmax_state {
    float o[TILES][D / 16][4];      /* features 16 i + out_feature, heads 2q, 2q + 1 */
    float m[TILES][2], l[TILES][2]; /* l: of this lane's tokens */
};

/* Q^T fragments: heads first.. of this KV head, zeros behind the last. */
template <enum dtype KV, int D, int TILES>
DEVICE void load_q(const struct attend_in &a, int row, int kv_head, int first,
                   uint32_t (&q)[TILES][D / 16][2])
{
    const int group = a.n_heads / a.n_kv_heads, pair = lane_id() % 4;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        const int head = first + t * TILE_HEADS + lane_id() / 4;
        const uint32_t *from = (const uint32_t *)((const uint16_t *)a.q + row * a.q_stride +
                                                  (int64_t)(kv_head * group + head) * D);
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            const int near = KV == DTYPE_I8 ? 8 * i + 2 * pair : 8 * i + pair;
            const int far = KV == DTYPE_I8 ? near + 1 : near + 4;
            const uint32_t low = head < group ? kv_of_bf16<KV>(from[near]) : 0;
            const uint32_t high = head < group ? kv_of_bf16<KV>(from[far]) : 0;
            /* int8: even features, odd ones */
            q[t][i][0] = KV == DTYPE_I8 ? byte_permute(low, high, 0x5410) : low;
            q[t][i][1] = KV == DTYPE_I8 ? byte_permute(low, high, 0x7632) : high;
        }
    }
}
/* 16 tokens x 32 features of codes (TRANS: of V, features turned into rows) to the A operands of
 * features 32 i .. and 32 i + 16 ..; with D / 16 odd the last second one is the first again. */
template <int D, bool TRANS>
DEVICE void widen_codes(const unsigned char *unit, int i, uint32_t (&f)[2][4])
{
    const int half = D % 32 == 0 || 2 * i + 1 < D / 16 ? lane_id() / 16 : 0;
    const unsigned char *at = unit + tile_at<D / 2>(lane_id() % 16, 2 * i + half);
    uint32_t r[4];
    if constexpr (TRANS)
        ldsm_x4_trans(r, at);
    else
        ldsm_x4(r, at);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t even[2] = { bf16_of_codes(r[2 * h]), bf16_of_codes(r[2 * h + 1]) };
        const uint32_t odd[2] = { bf16_of_codes(r[2 * h] >> 8), bf16_of_codes(r[2 * h + 1] >> 8) };
        /* K: rows are tokens g, g + 8; V: rows are even, odd features. */
        f[h][0] = even[0];
        f[h][1] = TRANS ? odd[0] : even[1];
        f[h][2] = TRANS ? even[1] : odd[0];
        f[h][3] = odd[1];
    }
}
template <enum dtype KV, int D, int TILES>
DEVICE void scores(const unsigned char *k, const uint32_t (&q)[TILES][D / 16][2],
                   float (&s)[TILES][4])
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
        s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0.0f;
    if constexpr (KV == DTYPE_I8) {
#pragma unroll
        for (int i = 0; i < (D + 31) / 32; i++) {
            uint32_t f[2][4];
            widen_codes<D, false>(k, i, f);
#pragma unroll
            for (int h = 0; h < 2 && 2 * i + h < D / 16; h++)
#pragma unroll
                for (int t = 0; t < TILES; t++)
                    mma_kv<KV>(s[t], f[h], q[t][2 * i + h][0], q[t][2 * i + h][1]);
        }
    } else {
        const int token = lane_id() % 16, half = lane_id() / 16;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t r[4];
            ldsm_x4(r, k + tile_at<D>(token, 2 * i + half));
#pragma unroll
            for (int t = 0; t < TILES; t++)
                mma_kv<KV>(s[t], r, q[t][i][0], q[t][i][1]);
        }
    }
}
/* Over the 8 lanes that hold the same heads. */
DEVICE float heads_max(float v)
{
    v = fmaxf(v, shfl_xor_f32(v, 4));
    v = fmaxf(v, shfl_xor_f32(v, 8));
    return fmaxf(v, shfl_xor_f32(v, 16));
}
DEVICE float heads_sum(float v)
{
    v += shfl_xor_f32(v, 4);
    v += shfl_xor_f32(v, 8);
    return v + shfl_xor_f32(v, 16);
}
/* Scores of the page at `key` to probabilities p (the B operand), and o and l to the new maximum.
 * Every page has a key that counts, so the maximum is a number. scales: of int8 pages. */
template <enum dtype KV, int D, int TILES>
DEVICE void soften(const struct attend_in &a, const struct feed &f, int key,
                   const unsigned char *scales, float (&s)[TILES][4],
                   struct softmax_state<KV, D, TILES> &x, uint32_t (&p)[TILES][2])
{
    const float *const mine = (const float *)(const void *)scales + lane_id() / 4;
    const bool scaled = KV == DTYPE_I8;
    const float k0 = scaled ? mine[0] : 1.0f, k1 = scaled ? mine[8] : 1.0f;
    const float v0 = scaled ? mine[16] : 1.0f, v1 = scaled ? mine[24] : 1.0f;
    const int token = key + lane_id() / 4;
    const bool near = token >= f.low && token < f.high;
    const bool far = token + 8 >= f.low && token + 8 < f.high;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float s0 = near ? score_of(a, s[t][h] * k0) : NO_SCORE;
            const float s1 = far ? score_of(a, s[t][2 + h] * k1) : NO_SCORE;
            const float m = fmaxf(x.m[t][h], heads_max(fmaxf(s0, s1)));
            const float factor = exp2_fast(x.m[t][h] - m);
            s[t][h] = exp2_fast(s0 - m);
            s[t][2 + h] = exp2_fast(s1 - m);
            x.m[t][h] = m;
            x.l[t][h] = fma_f32(x.l[t][h], factor, s[t][h] + s[t][2 + h]);
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                x.o[t][i][h] *= factor;
                x.o[t][i][2 + h] *= factor;
            }
        }
        p[t][0] = mat_transpose(kv_pair<KV>(s[t][0] * v0, s[t][1] * v0));
        p[t][1] = mat_transpose(kv_pair<KV>(s[t][2] * v1, s[t][3] * v1));
    }
}
template <enum dtype KV, int D, int TILES>
DEVICE void values(const unsigned char *v, const uint32_t (&p)[TILES][2],
                   struct softmax_state<KV, D, TILES> &x)
{
    if constexpr (KV == DTYPE_I8) {
#pragma unroll
        for (int i = 0; i < (D + 31) / 32; i++) {
            uint32_t f[2][4];
            widen_codes<D, true>(v, i, f);
#pragma unroll
            for (int h = 0; h < 2 && 2 * i + h < D / 16; h++)
#pragma unroll
                for (int t = 0; t < TILES; t++)
                    mma_kv<KV>(x.o[t][2 * i + h], f[h], p[t][0], p[t][1]);
        }
    } else {
        const int token = lane_id() % 8 + lane_id() / 16 * 8, half = lane_id() / 8 % 2;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t r[4];
            ldsm_x4_trans(r, v + tile_at<D>(token, 2 * i + half));
#pragma unroll
            for (int t = 0; t < TILES; t++)
                mma_kv<KV>(x.o[t][i], r, p[t][0], p[t][1]);
        }
    }
}

template <enum dtype KV, int D, int TILES>
DEVICE void leave(struct warp_out<D, TILES> *out, const struct softmax_state<KV, D, TILES> &x)
{
    const int g = lane_id() / 4, pair = lane_id() % 4;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int head = t * TILE_HEADS + 2 * pair + h;
            const float l = heads_sum(x.l[t][h]);
            if (g == 0) {
                out->m[head] = x.m[t][h];
                out->l[head] = l;
            }
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                out->o[head][16 * i + out_feature<KV>(g, 0)] = x.o[t][i][h];
                out->o[head][16 * i + out_feature<KV>(g, 1)] = x.o[t][i][2 + h];
            }
        }
    }
}
DEVICE uint16_t *y_at(const struct attend_in &a, int row, int head)
{
    return (uint16_t *)a.y + row * a.y_stride + (int64_t)head * a.head_dim;
}
/* [D] o, m, l */
DEVICE float *partial_at(const struct attend_in &a, int item, int head)
{
    return a.partial + ((int64_t)item * a.n_heads + head) * (a.head_dim + 2);
}

/* The four warps' results of `n_heads` heads, the first of them query head `head`. */
template <enum dtype KV, int D, int TILES>
DEVICE void merge_warps(const struct attend_in &a, const struct attend_item &item,
                        unsigned char *shared, int head, int n_heads)
{
    static_assert(sizeof(struct shared_end<D, TILES>) <= ring_bytes<KV, D>,
                  "in the ring of warp 0");
    struct block_out<TILES> *b = &((struct shared_end<D, TILES> *)(void *)shared)->block;
    const int tid = (int)threadIdx.x;
    const struct warp_out<D, TILES> *w[WARPS];
#pragma unroll
    for (int i = 0; i < WARPS; i++)
        w[i] = (const struct warp_out<D, TILES> *)(const void *)(shared + i * ring_bytes<KV, D>);
    if (tid < n_heads) {
        float m = NO_SCORE, l = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++)
            m = fmaxf(m, w[i]->m[tid]);
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            const float factor = exp2_fast(w[i]->m[tid] - m);
            b->factor[i][tid] = factor;
            l = fma_f32(w[i]->l[tid], factor, l);
        }
        b->m[tid] = m;
        b->l[tid] = item.n_splits > 1 ? l : last_factor(a, head + tid, m, l);
    }
    block_sync();
    for (int at = tid; at < n_heads * (D / 2); at += THREADS) {
        const int h = at / (D / 2), d = at % (D / 2) * 2;
        float low = 0.0f, high = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            low = fma_f32(w[i]->o[h][d], b->factor[i][h], low);
            high = fma_f32(w[i]->o[h][d + 1], b->factor[i][h], high);
        }
        if (item.n_splits == 1) {
            *(uint32_t *)(y_at(a, item.row, head + h) + d) =
                bf16_pair(low * b->l[h], high * b->l[h]);
            continue;
        }
        float *to = partial_at(a, item.first + item.split, head + h);
        to[d] = low;
        to[d + 1] = high;
        if (d == 0) {
            to[D] = b->m[h];
            to[D + 1] = b->l[h];
        }
    }
}
/* One head of all splits, by a warp: lanes are splits for the factors, features for the sums. */
template <int D>
DEVICE void merge_splits(const struct attend_in &a, const struct attend_item &item, int head)
{
    constexpr int SLICES = (D + 31) / 32;
    const int lane = lane_id(), n = item.n_splits;
    const float *from = partial_at(a, item.first, head);
    const int64_t stride = (int64_t)a.n_heads * (D + 2);
    float top = NO_SCORE, l = 0.0f, o[SLICES];
    for (int i = lane; i < n; i += 32)
        top = fmaxf(top, ld_other_f32(from + i * stride + D));
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2)
        top = fmaxf(top, shfl_xor_f32(top, mask));
#pragma unroll
    for (int s = 0; s < SLICES; s++)
        o[s] = 0.0f;
    for (int first = 0; first < n; first += 32) {
        const float *mine = from + (first + lane) * stride + D;
        const bool there = first + lane < n;
        const float factor = there ? exp2_fast(ld_other_f32(mine) - top) : 0.0f;
        l += there ? factor * ld_other_f32(mine + 1) : 0.0f;
        const int end = n - first < 32 ? n - first : 32;
#pragma unroll 4
        for (int i = 0; i < end; i++) {
            const float f = shfl_f32(factor, i);
#pragma unroll
            for (int s = 0; s < SLICES; s++)
                if (D % 32 == 0 || 32 * s + lane < D)
                    o[s] =
                        fma_f32(ld_other_f32(from + (first + i) * stride + 32 * s + lane), f, o[s]);
        }
    }
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2)
        l += shfl_xor_f32(l, mask);
    const float last = last_factor(a, head, top, l);
#pragma unroll
    for (int s = 0; s < SLICES; s++)
        if (D % 32 == 0 || 32 * s + lane < D)
            y_at(a, item.row, head)[32 * s + lane] = bf16_of(o[s] * last);
}

/* Keys of this warp for heads first .. first + TILES * 8 of the KV head. */
template <enum dtype KV, int D, int TILES>
DEVICE void attend_pages(const struct attend_in &a, int row, int first, struct feed f,
                         unsigned char *ring)
{
    struct softmax_state<KV, D, TILES> x;
    uint32_t q[TILES][D / 16][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            x.m[t][h] = NO_SCORE;
            x.l[t][h] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            x.o[t][i][0] = x.o[t][i][1] = x.o[t][i][2] = x.o[t][i][3] = 0.0f;
    }
    for (int i = 0; i + 1 < stages<KV, D>; i++)
        feed_next<KV, D>(a, f, ring);
    load_q<KV, D, TILES>(a, row, f.kv_head, first, q);

    int stage = 0;
    for (int page = 0; page < f.n_pages; page++) {
        float s[TILES][4];
        uint32_t p[TILES][2];
        cp_async_wait<stages<KV, D> - 2>();
        warp_sync(); /* the unit is there for all lanes, and all have done with the one before */
        feed_next<KV, D>(a, f, ring);
        const unsigned char *const unit = ring + stage * stage_bytes<KV, D>;
        scores<KV, D, TILES>(unit, q, s);
        stage = stage + 1 == stages<KV, D> ? 0 : stage + 1;
        soften<KV, D, TILES>(a, f, feed_key(f, page), unit + codes_bytes<KV, D>, s, x, p);

        cp_async_wait<stages<KV, D> - 2>();
        warp_sync();
        feed_next<KV, D>(a, f, ring);
        values<KV, D, TILES>(ring + stage * stage_bytes<KV, D>, p, x);
        stage = stage + 1 == stages<KV, D> ? 0 : stage + 1;
    }
    warp_sync();
    leave<KV, D, TILES>((struct warp_out<D, TILES> *)(void *)ring, x);
}

template <enum dtype KV, int D, int TILES>
KERNEL(THREADS, (blocks_per_sm<KV, D, TILES>))
attend_decode_kernel(const __grid_constant__ struct attend_in a)
{
    SHARED(shared);
    /* The work: lists and page tables came with the batch, before any kernel of the step. */
    const struct attend_item item = a.items[blockIdx.x];
    if (item.row < 0) {
        griddep_wait();
        return;
    }
    const int position = a.positions[item.row], group = a.n_heads / a.n_kv_heads;
    const int n_pages = (item.to - item.from + PAGE_TOKENS - 1) / PAGE_TOKENS;
    struct feed f;
    f.table = a.pages + (int64_t)a.row_seq[item.row] * a.pages_stride + item.from / PAGE_TOKENS +
              warp_id();
    f.kv_head = (int)blockIdx.y;
    f.n_pages = (n_pages - warp_id() + WARPS - 1) / WARPS;
    f.unit = 0;
    f.id = feed_id(f, lane_id());
    f.first_key = item.from + warp_id() * PAGE_TOKENS;
    f.low =
        a.window > 0 && position + 1 - a.window > item.from ? position + 1 - a.window : item.from;
    f.high = item.to;
    f.stage = 0;
    griddep_wait();
    griddep_launch();

    /* Heads, 8 or 16 a pass. */
    for (int first = 0; first < group; first += TILES * TILE_HEADS) {
        const int n_heads = group - first < TILES * TILE_HEADS ? group - first : TILES * TILE_HEADS;
        if (first > 0)
            block_sync(); /* the merge of the pass before has read the rings */
        attend_pages<KV, D, TILES>(a, item.row, first, f, shared + warp_id() * ring_bytes<KV, D>);
        block_sync();
        merge_warps<KV, D, TILES>(a, item, shared, f.kv_head * group + first, n_heads);
    }
    if (item.n_splits == 1)
        return;

    /* The last block of this row and KV head to come here has all splits before it. */
    uint32_t *const arrived = &((struct shared_end<D, TILES> *)(void *)shared)->block.arrived;
    uint32_t *const counter = &a.tickets[item.row * a.n_kv_heads + f.kv_head];
    device_fence();
    block_sync();
    if (threadIdx.x == 0)
        *arrived = ticket(counter, 1);
    block_sync();
    if (*arrived != (uint32_t)item.n_splits - 1)
        return;
    for (int head = warp_id(); head < group; head += WARPS)
        merge_splits<D>(a, item, f.kv_head * group + head);
    if (threadIdx.x == 0)
        *counter = 0;
}

template <enum dtype KV, int D, int TILES>
static cudaError_t start(const struct launch *launch, const struct attend_in *op)
{
    return LAUNCH(
        (attend_decode_kernel<KV, D, TILES>), dim3((unsigned)op->n_items, (unsigned)op->n_kv_heads),
        THREADS, shared_bytes<KV, D>, launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, *op);
}
struct instance {
    enum dtype kv;
    int head_dim, tiles;
    cudaError_t (*start)(const struct launch *launch, const struct attend_in *op);
};
#define INSTANCES(kv)                                                                              \
    { kv, 64, 1, start<kv, 64, 1> }, { kv, 64, 2, start<kv, 64, 2> },                              \
        { kv, 80, 1, start<kv, 80, 1> }, { kv, 80, 2, start<kv, 80, 2> },                          \
        { kv, 96, 1, start<kv, 96, 1> }, { kv, 96, 2, start<kv, 96, 2> },                          \
        { kv, 128, 1, start<kv, 128, 1> }, { kv, 128, 2, start<kv, 128, 2> },                      \
    {                                                                                              \
        kv, 256, 1, start<kv, 256, 1>                                                              \
    }
static const struct instance instances[] = { INSTANCES(DTYPE_BF16), INSTANCES(DTYPE_F16),
                                             INSTANCES(DTYPE_I8) };

cudaError_t attend_decode(const struct launch *launch, const struct attend_in *op)
{
    const bool wide = op->n_heads / op->n_kv_heads > TILE_HEADS && op->head_dim <= 128;
    for (const struct instance &i : instances)
        if (i.kv == op->kv_dtype && i.head_dim == op->head_dim && i.tiles == (wide ? 2 : 1))
            return i.start(launch, op);
    return cudaErrorInvalidValue; /* attend_fits said so */
}
