/* attend_prefill.cu - attention of rows that follow one another in a sequence (K6), sm_80 and up.
 *
 *   y[r][h] = softmax over t <= position(r), t in the window, of q[r][h] . k[t] . v[t]   (as K5)
 *
 * 4 D flops a pair (row and head, key): limited by mma.sync, 62..75 % of the wgmma rate on sm_90.
 * A tile reads its keys once from L2: 4 D bytes a key for ROWS rows, 64 flops a byte at 128 rows.
 *
 *   Rows of a tile are (token, head) pairs, the G heads of the group innermost: a group of 4 makes
 *   128 rows of 32 tokens, which share the keys, and whose causal edge is short.
 *
 *   grid (items x tiles, n_kv_heads): tile t of an item has its packed rows [ROWS t, ROWS (t + 1)).
 *
 *        keys ->  | 64  | 64  | 64  |..        4 warps, each 16 or 32 rows of the tile and all
 * keys: rows        +-----+-----+-----+          S and P never leave registers, softmax needs only
 *     warp 0  32  |     |     |  \  |          the 4 lanes of a row; Q is in shared memory and is
 *     warp 1  32  |     |     |   \ |          read again for every 64 keys (a quarter of what K
 *     warp 2  32  |     |     |    \|          costs), as O takes 128 of 255 registers at D = 128
 *     warp 3  32  +-----+-----+-----+
 *
 *     K(j) in | S = Q K^T, softmax | P V    |          one buffer each for K and V: two blocks an
 * SM | <- V(j) on its way | <- K(j + 1)       cover each other's waits
 *
 *   int8 pages: a page's codes land at the end of the memory that its bf16 will take, and the
 * warp that asked for them widens them there, once for the four that read them: 8 issue slots 4
 * codes. K's fetch brings the scales of K and V; they go into the scores and the probabilities.
 *
 * Keys behind the tile's last row, and before its first row's window, are zero in shared memory and
 * never read; pages are written up to the last row by the kernel before. */
#include "cuda/attend.cuh"
#include "cuda/launch.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, KEYS = 64 };
static_assert(KEYS == WARPS * PAGE_TOKENS, "each warp fetches one page of a block of keys");

/* 16-row tiles of a warp. Two halve the reads of K and V from shared memory for each product; with
 * D = 256 one of them is 128 registers of O already. */
template <int D> static constexpr int row_tiles = D <= 128 ? 2 : 1;
template <int D> static constexpr int rows_of = row_tiles<D> * 16 * WARPS;

template <enum dtype KV>
static constexpr int scales_bytes = KV == DTYPE_I8 ? WARPS *SCALES_BYTES : 0;
template <enum dtype KV, int D>
static constexpr int shared_bytes = (rows_of<D> + 2 * KEYS) * tile_stride<D> + scales_bytes<KV> +
                                    (int)sizeof(struct tile);
static_assert(shared_bytes<DTYPE_I8, 128> <= 81 << 10, "two blocks an SM of 163 KB");
static_assert(shared_bytes<DTYPE_I8, 256> <= 99 << 10, "the smallest SM (sm_86, sm_89)");
/* Q to shared memory, rows behind the last as zeros. */
template <enum dtype KV, int D>
DEVICE void load_q(const struct attend_in &a, const struct tile &t, unsigned char *q)
{
    for (int at = (int)threadIdx.x; at < rows_of<D> * tile_chunks<D>; at += THREADS) {
        const int r = at / tile_chunks<D>, chunk = at % tile_chunks<D>, packed = t.first + r;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (packed < t.n_rows) {
            const int token = packed / t.group, head = tile_head(t, packed);
            v = ld128((const uint16_t *)a.q + (t.row + token) * a.q_stride + (int64_t)head * D +
                      8 * chunk);
            v = make_uint4(kv_of_bf16<KV>(v.x), kv_of_bf16<KV>(v.y), kv_of_bf16<KV>(v.z),
                           kv_of_bf16<KV>(v.w));
        }
        st128(q + tile_at<D>(r, chunk), v);
    }
}
/* The page of this warp in block j of the keys; 0 behind the last, where nothing is read. */
DEVICE int page_id(const struct tile &t, int j)
{
    const int page = j * WARPS + warp_id();
    return t.from + page * PAGE_TOKENS < t.high ? t.table[page] : 0;
}
/* int8: a page's codes come to the end of the memory that its elements will take. */
template <int D> static constexpr int page_bytes = PAGE_TOKENS *tile_stride<D>;
template <int D> static constexpr int codes_at = page_bytes<D> - PAGE_TOKENS *D;
enum { WIDEN_CHUNKS = 2 }; /* a lane's, at once: 64 of a warp make whole 128 bytes of elements */
/* scales: of this warp's page, [2][16] floats. */
template <enum dtype KV, int D>
DEVICE void fetch(const struct attend_in &a, const struct tile &t, int j, int id, int which,
                  unsigned char *to, unsigned char *scales)
{
    const unsigned char *from = page_block<KV, D>(a, id, which, t.kv_head);
    const int lane = lane_id(), low = t.low, high = t.high;
    const int key = t.from + j * KEYS + warp_id() * PAGE_TOKENS;
    if constexpr (KV == DTYPE_I8) {
        unsigned char *const codes = to + warp_id() * page_bytes<D> + codes_at<D>;
#pragma unroll
        for (int i = 0; i < (D + 31) / 32; i++) {
            const int chunk = 32 * i + lane, token = chunk / (D / 16);
            if (D % 32 == 0 || chunk < D)
                cp_async16(codes + 16 * chunk, from + 16 * chunk,
                           key + token >= low && key + token < high);
        }
        if (which == 0)
            fetch_scales<D>(a, id, t.kv_head, key, low, high, scales);
    } else {
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            const int chunk = 32 * i + lane, token = chunk / tile_chunks<D>;
            cp_async16(to + tile_at<D>(warp_id() * PAGE_TOKENS + token, chunk % tile_chunks<D>),
                       from + 16 * chunk, key + token >= low && key + token < high);
        }
    }
    cp_async_commit();
}
/* int8: this warp's page of the block, codes to elements, in their place: the first n chunks of
 * codes make 2 n of elements, which end before the next code. Lanes take what they asked for. */
template <enum dtype KV, int D> DEVICE void widen(unsigned char *block)
{
    if constexpr (KV == DTYPE_I8) {
        unsigned char *const page = block + warp_id() * page_bytes<D>;
        const unsigned char *const codes = page + codes_at<D>;
#pragma unroll 1 /* registers: O has 128 */
        for (int from = 0; from < D; from += 32 * WIDEN_CHUNKS) {
            const int first = from + lane_id();
            uint4 c[WIDEN_CHUNKS];
#pragma unroll
            for (int i = 0; i < WIDEN_CHUNKS; i++)
                if (first + 32 * i < D)
                    c[i] = ld128(codes + 16 * (first + 32 * i));
            warp_sync(); /* the page's last elements go where its last codes are */
#pragma unroll
            for (int i = 0; i < WIDEN_CHUNKS; i++) {
                const int at = first + 32 * i, token = at / (D / 16), chunk = at % (D / 16) * 2;
                if (at >= D)
                    continue;
                st128(page + tile_at<D>(token, chunk), widened(c[i].x, c[i].y));
                st128(page + tile_at<D>(token, chunk + 1), widened(c[i].z, c[i].w));
            }
        }
    }
}

template <int D> struct rows_state {
    float o[row_tiles<D>][D / 8][4]; /* rows g, g + 8; features 8 i + 2q, + 1 */
    float m[row_tiles<D>][2];        /* of the raw products */
    float l[row_tiles<D>][2];        /* of this lane's keys */
};
template <int D> using score_tile = float[row_tiles<D>][KEYS / 8][4]; /* keys 8 i + 2q, + 1 */
/* The same as the A operand of P V: the accumulator's places, rounded. */
template <int D> using probability_tile = uint32_t[row_tiles<D>][KEYS / 16][4];

template <enum dtype KV, int D>
DEVICE void scores(const unsigned char *q, const unsigned char *k, score_tile<D> &s)
{
    const int row = warp_id() * 16 * row_tiles<D> + lane_id() % 16, half = lane_id() / 16;
    const int key = lane_id() % 8 + lane_id() / 16 * 8, key_half = lane_id() / 8 % 2;
    /* More of them: the addresses of Q do not fit the registers (ptxas 13.0 spills). */
    [[maybe_unused]] constexpr int UNROLL = KV == DTYPE_I8 ? 2 : 4; /* unused by g++ */
#pragma unroll
    for (int t = 0; t < row_tiles<D>; t++)
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
            s[t][i][0] = s[t][i][1] = s[t][i][2] = s[t][i][3] = 0.0f;
#pragma unroll UNROLL
    for (int d = 0; d < D / 16; d++) {
        uint32_t rows[row_tiles<D>][4];
#pragma unroll
        for (int t = 0; t < row_tiles<D>; t++)
            ldsm_x4(rows[t], q + tile_at<D>(row + 16 * t, 2 * d + half));
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            uint32_t keys[4];
            ldsm_x4(keys, k + tile_at<D>(16 * i + key, 2 * d + key_half));
#pragma unroll
            for (int t = 0; t < row_tiles<D>; t++) {
                mma_kv<KV>(s[t][2 * i], rows[t], keys[0], keys[1]);
                mma_kv<KV>(s[t][2 * i + 1], rows[t], keys[2], keys[3]);
            }
        }
    }
}
/* Scores behind the row's own key, or before its window: -inf. */
template <int D>
DEVICE void mask(const struct attend_in &a, const struct tile &tile, int key, score_tile<D> &s)
{
    const int mine = key + lane_id() % 4 * 2;
    const int packed = tile.first + warp_id() * row_tiles<D> * 16 + lane_id() / 4;
#pragma unroll
    for (int t = 0; t < row_tiles<D>; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int last = tile_position(tile, packed + 16 * t + 8 * h);
            const int first = a.window > 0 ? last + 1 - a.window : 0;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (mine + 8 * i + e > last || mine + 8 * i + e < first)
                        s[t][i][2 * h + e] = NO_SCORE;
        }
}
/* Over the 4 lanes of a row. */
DEVICE float row_max(float v)
{
    v = fmaxf(v, shfl_xor_f32(v, 1));
    return fmaxf(v, shfl_xor_f32(v, 2));
}
DEVICE float row_sum(float v)
{
    v += shfl_xor_f32(v, 1);
    return v + shfl_xor_f32(v, 2);
}
/* int8: of the lane's keys, 8 i + 2q and the next; page i / 2 has them. */
struct alignas(8) key_pair {
    float low, high;
};
DEVICE struct key_pair key_scales(const unsigned char *scales, int which, int i)
{
    return *(const struct key_pair *)(const void *)(scales + i / 2 * SCALES_BYTES +
                                                    which * PAGE_TOKENS * KV_SCALE_BYTES +
                                                    (i % 2 * 8 + lane_id() % 4 * 2) *
                                                        KV_SCALE_BYTES);
}
template <enum dtype KV, int D>
DEVICE void scale_scores(const unsigned char *scales, score_tile<D> &s)
{
    if constexpr (KV == DTYPE_I8) {
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            const struct key_pair k = key_scales(scales, 0, i);
#pragma unroll
            for (int t = 0; t < row_tiles<D>; t++) {
                s[t][i][0] *= k.low;
                s[t][i][1] *= k.high;
                s[t][i][2] *= k.low;
                s[t][i][3] *= k.high;
            }
        }
    }
}
/* Scores to probabilities, o and l to the new maximum. A row may have no key yet: then its maximum
 * is -inf, and 0 takes its place so that exp2 sees -inf - 0. */
template <enum dtype KV, int D>
DEVICE void soften(float log2_scale, const unsigned char *scales, score_tile<D> &s,
                   struct rows_state<D> &x, probability_tile<D> &p)
{
#pragma unroll
    for (int t = 0; t < row_tiles<D>; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = x.m[t][h], sum = 0.0f;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
                m = fmaxf(m, fmaxf(s[t][i][2 * h], s[t][i][2 * h + 1]));
            m = row_max(m);
            const float top = m == NO_SCORE ? 0.0f : m * log2_scale;
            const float factor = exp2_fast(fma_f32(x.m[t][h], log2_scale, -top));
            x.m[t][h] = m;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) {
                const float p0 = exp2_fast(fma_f32(s[t][i][2 * h], log2_scale, -top));
                const float p1 = exp2_fast(fma_f32(s[t][i][2 * h + 1], log2_scale, -top));
                sum += p0 + p1;
                if (KV == DTYPE_I8) {
                    s[t][i][2 * h] = p0;
                    s[t][i][2 * h + 1] = p1;
                } else {
                    p[t][i / 2][i % 2 * 2 + h] = kv_pair<KV>(p0, p1);
                }
            }
            x.l[t][h] = fma_f32(x.l[t][h], factor, sum);
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                x.o[t][i][2 * h] *= factor;
                x.o[t][i][2 * h + 1] *= factor;
            }
        }
    if constexpr (KV == DTYPE_I8) {
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            const struct key_pair v = key_scales(scales, 1, i);
#pragma unroll
            for (int t = 0; t < row_tiles<D>; t++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    p[t][i / 2][i % 2 * 2 + h] =
                        kv_pair<KV>(s[t][i][2 * h] * v.low, s[t][i][2 * h + 1] * v.high);
        }
    }
}
template <enum dtype KV, int D>
DEVICE void values(const unsigned char *v, const probability_tile<D> &p, struct rows_state<D> &x)
{
    const int key = lane_id() % 16, half = lane_id() / 16;
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t f[4];
            ldsm_x4_trans(f, v + tile_at<D>(16 * i + key, 2 * d + half));
#pragma unroll
            for (int t = 0; t < row_tiles<D>; t++) {
                mma_kv<KV>(x.o[t][2 * d], p[t][i], f[0], f[1]);
                mma_kv<KV>(x.o[t][2 * d + 1], p[t][i], f[2], f[3]);
            }
        }
}
/* O through this warp's rows of Q's memory, which nobody has read since a barrier, to leave in
 * whole rows. */
template <int D>
DEVICE void store(const struct attend_in &a, const struct tile &t, float log2_scale,
                  const struct rows_state<D> &x, unsigned char *q)
{
    const int first = warp_id() * 16 * row_tiles<D>, g = lane_id() / 4, pair = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < row_tiles<D>; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = first + 16 * i + 8 * h + g;
            const float factor = last_factor(a, tile_head(t, t.first + r), x.m[i][h] * log2_scale,
                                             row_sum(x.l[i][h]));
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                *(uint32_t *)(void *)(q + tile_at<D>(r, d) + 4 * pair) =
                    bf16_pair(x.o[i][d][2 * h] * factor, x.o[i][d][2 * h + 1] * factor);
        }
    warp_sync();
    for (int at = lane_id(); at < 16 * row_tiles<D> * tile_chunks<D>; at += 32) {
        const int r = first + at / tile_chunks<D>, chunk = at % tile_chunks<D>;
        const int packed = t.first + r, token = packed / t.group;
        if (packed < t.n_rows)
            st128((uint16_t *)a.y + (t.row + token) * a.y_stride +
                      (int64_t)tile_head(t, packed) * D + 8 * chunk,
                  ld128(q + tile_at<D>(r, chunk)));
    }
}
template <enum dtype KV, int D>
KERNEL(THREADS, (blocks_fit(shared_bytes<KV, D>, 2)))
attend_prefill_kernel(const __grid_constant__ struct attend_in a)
{
    SHARED(shared);
    unsigned char *const q = shared, *const k = q + rows_of<D> * tile_stride<D>;
    unsigned char *const v = k + KEYS * tile_stride<D>;
    unsigned char *const scales = v + KEYS * tile_stride<D>;
    unsigned char *const page_scales = scales + warp_id() * (scales_bytes<KV> / WARPS);
    struct tile &t = *(struct tile *)(void *)(scales + scales_bytes<KV>);
    griddep_wait();
    griddep_launch();
    if (threadIdx.x == 0)
        find_tile(a, rows_of<D>, &t);
    block_sync();
    if (t.n_rows == 0)
        return;

    /* Before the first keys. */
    const int n_blocks = (t.high - t.from + KEYS - 1) / KEYS;
    const float log2_scale = a.soft_cap > 0.0f ? LOG2_E : a.scale * LOG2_E;
    int id = page_id(t, 0);
    fetch<KV, D>(a, t, 0, id, 0, k, page_scales);
    load_q<KV, D>(a, t, q);
    struct rows_state<D> x;
#pragma unroll
    for (int i = 0; i < row_tiles<D>; i++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            x.m[i][h] = NO_SCORE;
            x.l[i][h] = 0.0f;
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            x.o[i][d][0] = x.o[i][d][1] = x.o[i][d][2] = x.o[i][d][3] = 0.0f;
    }

    for (int j = 0; j < n_blocks; j++) {
        const int key = t.from + j * KEYS;
        const int next_id = page_id(t, j + 1);
        score_tile<D> s;
        probability_tile<D> p;
        cp_async_wait<0>();
        widen<KV, D>(k);
        block_sync(); /* K(j) is there, and nobody reads V(j - 1) */
        fetch<KV, D>(a, t, j, id, 1, v, page_scales);
        scores<KV, D>(q, k, s);
        scale_scores<KV, D>(scales, s);
        if (a.soft_cap > 0.0f)
#pragma unroll
            for (int i = 0; i < row_tiles<D> * KEYS / 2; i++) {
                float &e = s[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4];
                e = capped(e * a.scale, a.soft_cap);
            }
        if (key < t.all_low || key + KEYS > t.all_high)
            mask<D>(a, t, key, s);
        soften<KV, D>(log2_scale, scales, s, x, p);
        cp_async_wait<0>();
        widen<KV, D>(v);
        block_sync(); /* V(j) is there, and nobody reads K(j) */
        id = next_id;
        if (j + 1 < n_blocks)
            fetch<KV, D>(a, t, j + 1, id, 0, k, page_scales);
        values<KV, D>(v, p, x);
    }
    store<D>(a, t, log2_scale, x, q);
}

template <enum dtype KV, int D>
static cudaError_t start(const struct launch *launch, const struct attend_in *op)
{
    const int group = op->n_heads / op->n_kv_heads;
    const int n_tiles = tiles_of_item(group, rows_of<D>);
    return LAUNCH((attend_prefill_kernel<KV, D>),
                  dim3((unsigned)(op->n_items * n_tiles), (unsigned)op->n_kv_heads), THREADS,
                  shared_bytes<KV, D>, launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN,
                  *op);
}
struct instance {
    enum dtype kv;
    int head_dim;
    cudaError_t (*start)(const struct launch *launch, const struct attend_in *op);
};
#define INSTANCES(kv)                                                                              \
    { kv, 64, start<kv, 64> }, { kv, 80, start<kv, 80> }, { kv, 96, start<kv, 96> },               \
        { kv, 128, start<kv, 128> },                                                               \
    {                                                                                              \
        kv, 256, start<kv, 256>                                                                    \
    }
static const struct instance instances[] = { INSTANCES(DTYPE_BF16), INSTANCES(DTYPE_F16),
                                             INSTANCES(DTYPE_I8) };

cudaError_t attend_prefill(const struct launch *launch, const struct attend_in *op)
{
    if (attend_wgmma_fits(op, launch->device))
        return attend_wgmma(launch, op);
    for (const struct instance &i : instances)
        if (i.kv == op->kv_dtype && i.head_dim == op->head_dim)
            return i.start(launch, op);
    return cudaErrorInvalidValue; /* attend_fits said so */
}
