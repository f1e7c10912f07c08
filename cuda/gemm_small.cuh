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
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"

enum zero_kind { ZERO_SYMMETRIC, ZERO_WHOLE, ZERO_FRACTION, ZERO_TABLE, ZERO_KINDS };
enum {
    SMALL_THREADS = 256,
    SMALL_WARPS = 8,
    SMALL_STEPS = 128, /* most tiles of a block: the table of them takes 4 KB */
    /* Bytes of the ring's codes: two blocks of 64 KB cover 1.3 us of an H200's 17.8 B/clk/SM. Where
     * a block has 48 KB (sm_86, 89, 120) or memory is slower (sm_80), half. */
    SMALL_RING_BULK = 64 << 10,
    SMALL_RING_ASYNC = 32 << 10,
};
/* Copy engine and mbarriers: sm_90, 100, 103. sm_120 has them, but not the shared memory. */
#define SMALL_ARCH_HAS_BULK(arch) ((arch) >= 90 && (arch) < 120)

/* What follows from the template's numbers, for kernel and launcher. */
template <int BITS, int TILES, bool FINE, bool BULK> struct small_shape {
    enum {
        UNITS = 4 / TILES, /* of 128 inputs, a warp's: 64 registers of x whatever the tokens */
        STAGE_UNITS = BITS == 4 && !FINE && UNITS >= 2 ? 2 : 1,
        CODE_BYTES = F64_UNIT_ROWS * F64_UNIT_COLS * BITS / 8,
        STAGES =
            (BULK ? SMALL_RING_BULK : SMALL_RING_ASYNC) / (SMALL_WARPS * STAGE_UNITS * CODE_BYTES),
        LATE = FINE, /* fill a stage after its products: no registers for all of its codes */
        TOKENS = 8 * TILES,
        OUTS = 128 * TILES,                                     /* of a tile */
        EACH = OUTS > SMALL_THREADS ? OUTS / SMALL_THREADS : 1, /* of a thread */
    };
    static_assert(TILES == 1 || TILES == 2 || TILES == 4, "tokens: 8, 16 or 32");
    static_assert(STAGES >= 2 && (STAGES & (STAGES - 1)) == 0, "stages are counted by masks");
};

struct small_args {
    struct f64_part parts[WEIGHT_PARTS_MAX];
    int32_t n_parts, n_in, rows;
    int32_t blocks; /* of 128 inputs */
    int32_t unit_bytes;
    int32_t scale_at[4], zero_at[4]; /* in a unit: of its inputs 0.., 32.., 64.., 96.. */
    uint16_t table[16];
    const uint16_t *x;
    int64_t x_stride;
    struct norm_in norm;
    struct gemm_out out;
    struct qkv_out qkv;
    bool is_qkv;
    int32_t item_tiles; /* 2: gate and up, the halves of a rotation; else 1 */
    int32_t n_items, splits;
    float *partial; /* [splits][n_items * item_tiles][OUTS] */
    uint32_t *tickets;
};

/* ---- shared memory ----------------------------------------------------------------------------
 */

struct step { /* one tile of 16 rows */
    const uint8_t *units;
    const float *row_factor, *bias; /* of its first row; bias may be NULL */
    int32_t n_rows;                 /* 16, less at a part's end */
    int32_t col;                    /* of y, or of [q | k | v] */
};
struct token {
    float mean, factor;   /* x -> (x - mean) * factor (* gain): normed, times `inverse` */
    float inverse, scale; /* powers of two */
};
struct place { /* where a token's keys go; page < 0: nowhere; position < 0: padding */
    int32_t position, page;
};
struct small_shared {
    unsigned char *ring; /* [warp][stage][STAGE_UNITS] units */
    float *sums;         /* [2][warp][OUTS]; before the first tile: scratch */
    struct step *steps;
    struct token *tokens;
    struct place *places;
    uint64_t *bars;  /* [warp][stage] */
    uint32_t *pairs; /* of the table */
    uint32_t *last;  /* [2] */
};
/* Offsets of the parts; the last is the size. */
struct small_offsets {
    size_t sums, steps, tokens, places, bars, pairs, last, bytes;
};
template <int BITS, int TILES, bool FINE, bool BULK>
static __host__ __device__ inline struct small_offsets small_offsets_of(int unit_bytes)
{
    typedef small_shape<BITS, TILES, FINE, BULK> S;
    struct small_offsets at;
    at.sums = (size_t)(SMALL_WARPS * S::STAGES * S::STAGE_UNITS) * (size_t)unit_bytes;
    at.steps = at.sums + 2 * SMALL_WARPS * S::OUTS * sizeof(float);
    at.tokens = at.steps + SMALL_STEPS * sizeof(struct step);
    at.places = at.tokens + S::TOKENS * sizeof(struct token);
    at.bars = at.places + S::TOKENS * sizeof(struct place);
    at.pairs = at.bars + (size_t)(SMALL_WARPS * S::STAGES) * sizeof(uint64_t);
    at.last = at.pairs + 256 * sizeof(uint32_t);
    at.bytes = at.last + 16;
    return at;
}
DEVICE struct small_shared small_shared_of(unsigned char *base, const struct small_offsets &at)
{
    struct small_shared s;
    s.ring = base;
    s.sums = (float *)(base + at.sums);
    s.steps = (struct step *)(base + at.steps);
    s.tokens = (struct token *)(base + at.tokens);
    s.places = (struct place *)(base + at.places);
    s.bars = (uint64_t *)(base + at.bars);
    s.pairs = (uint32_t *)(base + at.pairs);
    s.last = (uint32_t *)(base + at.last);
    return s;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* Tile `tile` (16 rows) of the parts stacked, or of `part` alone. */
DEVICE struct step step_of(const struct small_args &a, int part, int tile)
{
    int col = 0;
    for (;; part++) {
        const int n = (a.parts[part].n_out + F64_UNIT_ROWS - 1) / F64_UNIT_ROWS;
        if (tile < n || part + 1 >= a.n_parts)
            break;
        tile -= n;
        col += a.parts[part].n_out;
    }
    const struct f64_part &p = a.parts[part];
    const int row = tile * F64_UNIT_ROWS, left = p.n_out - row;
    struct step s;
    s.units = p.units + ((size_t)(tile / 4) * (size_t)a.blocks * 4 + (size_t)(tile % 4)) *
                            (size_t)a.unit_bytes;
    s.row_factor = p.row_factor + row;
    s.bias = p.bias != NULL ? p.bias + row : NULL;
    s.n_rows = left < F64_UNIT_ROWS ? left : F64_UNIT_ROWS;
    s.col = col + row;
    return s;
}
/* Item `item`'s tile 0 or 1. */
DEVICE struct step item_step(const struct small_args &a, int item, int which)
{
    if (a.item_tiles == 1)
        return step_of(a, 0, item);
    if (!a.is_qkv)
        return step_of(a, which, item);
    /* Pairs of a head: (i, i + rotary_dim / 2) where it is rotated by halves, else neighbours. */
    const struct qkv_out &qkv = a.qkv;
    const int pairs = qkv.head_dim / 32, head = item / pairs, pair = item % pairs;
    const bool rotated = qkv.inv_freq != NULL && !qkv.interleaved && pair < qkv.rotary_dim / 32 &&
                         head < qkv.n_heads + qkv.n_kv_heads;
    const int tile = rotated ? pair + which * (qkv.rotary_dim / 32) : 2 * pair + which;
    return step_of(a, 0, head * 2 * pairs + tile);
}
DEVICE bool item_rotated(const struct qkv_out &qkv, int item)
{
    const int pairs = qkv.head_dim / 32;
    return qkv.inv_freq != NULL && !qkv.interleaved && item % pairs < qkv.rotary_dim / 32 &&
           item / pairs < qkv.n_heads + qkv.n_kv_heads;
}

/* ---- the ring ---------------------------------------------------------------------------------
 */

struct stream { /* of a warp */
    unsigned char *ring;
    uint64_t *bars;
    const uint8_t *next;     /* unit to issue */
    int n_units;             /* of this warp in a tile */
    int n_steps, step, unit; /* step and unit to issue */
    int put, get;            /* stages */
    uint32_t parity;         /* of `get` */
    int first_at;            /* byte of a tile at which this warp's units start */
};
template <int BITS, int TILES, bool FINE, bool BULK>
DEVICE void stream_issue(struct stream &s, const struct small_args &a, const struct step *steps)
{
    typedef small_shape<BITS, TILES, FINE, BULK> S;
    if (s.step < s.n_steps) {
        const int left = s.n_units - s.unit, n = left < S::STAGE_UNITS ? left : S::STAGE_UNITS;
        const int stride = SMALL_WARPS * 4 * a.unit_bytes; /* to this warp's next unit */
        unsigned char *to = s.ring + s.put * (S::STAGE_UNITS * a.unit_bytes);
        if (BULK) {
            if (lane_id() == 0) {
                mbar_arrive_expect(&s.bars[s.put], n * a.unit_bytes);
                for (int i = 0; i < n; i++)
                    bulk_copy(to + i * a.unit_bytes, s.next + (size_t)i * (size_t)stride,
                              a.unit_bytes, &s.bars[s.put]);
            }
        } else {
            for (int i = 0; i < n; i++)
                for (int at = lane_id() * 16; at < a.unit_bytes; at += 512)
                    cp_async16(to + i * a.unit_bytes + at, s.next + (size_t)i * (size_t)stride + at,
                               true);
        }
        s.put = (s.put + 1) & (S::STAGES - 1);
        s.unit += S::STAGE_UNITS;
        s.next += (size_t)S::STAGE_UNITS * (size_t)stride;
        if (s.unit >= s.n_units) {
            s.unit = 0;
            s.step++;
            if (s.step < s.n_steps)
                s.next = steps[s.step].units + s.first_at;
        }
    }
    if (!BULK)
        cp_async_commit(); /* empty at the end: the wait counts commits */
}
/* The oldest stage is there, for every lane. */
template <int BITS, int TILES, bool FINE, bool BULK>
DEVICE const unsigned char *stream_wait(struct stream &s, const struct small_args &a)
{
    typedef small_shape<BITS, TILES, FINE, BULK> S;
    const unsigned char *stage = s.ring + s.get * (S::STAGE_UNITS * a.unit_bytes);
    if (BULK) {
        mbar_wait(&s.bars[s.get], s.parity);
    } else {
        cp_async_wait<S::STAGES - 1>();
        warp_sync();
    }
    s.get = (s.get + 1) & (S::STAGES - 1);
    s.parity ^= s.get == 0 ? 1u : 0u;
    return stage;
}

/* ---- inputs -----------------------------------------------------------------------------------
 */

/* 8 inputs from k on as bf16 pairs, zeros from n_in on. */
DEVICE uint4 x_chunk(const struct small_args &a, int row, int k)
{
    const uint16_t *x = a.x + (int64_t)row * a.x_stride + k;
    if (k + 8 <= a.n_in)
        return ld128(x);
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = k + 2 * i < a.n_in ? x[2 * i] : 0u;
        v[i] |= k + 2 * i + 1 < a.n_in ? (uint32_t)x[2 * i + 1] << 16 : 0u;
    }
    return uint4{ v[0], v[1], v[2], v[3] };
}
DEVICE void chunk_floats(float (&v)[8], uint4 c)
{
    v[0] = bf16_low(c.x), v[1] = bf16_high(c.x), v[2] = bf16_low(c.y), v[3] = bf16_high(c.y);
    v[4] = bf16_low(c.z), v[5] = bf16_high(c.z), v[6] = bf16_low(c.w), v[7] = bf16_high(c.w);
}
/* 8 of a vector of n_in floats; `none` without one. */
DEVICE void vector_chunk(float (&v)[8], const float *from, float none, int k, int n_in)
{
    if (from != NULL && k + 8 <= n_in) {
        const uint4 a = ld128(from + k), b = ld128(from + k + 4);
        v[0] = f32_of_bits(a.x), v[1] = f32_of_bits(a.y), v[2] = f32_of_bits(a.z);
        v[3] = f32_of_bits(a.w), v[4] = f32_of_bits(b.x), v[5] = f32_of_bits(b.y);
        v[6] = f32_of_bits(b.z), v[7] = f32_of_bits(b.w);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = from == NULL ? none : k + i < n_in ? from[k + i] : 0.0f;
}

struct scan {      /* of a row, or of a part of it */
    float sum;     /* of x - mean; RMS and layer norm: of its square */
    float most;    /* largest |(x - mean) * gain| */
    float bias;    /* largest |bias| */
    float padding; /* 16 bytes */
};
/* Inputs [from, to) of a row, by a warp. mean pass: the sum of x alone. */
DEVICE struct scan scan_part(const struct small_args &a, int row, int from, int to, float mean,
                             bool mean_pass)
{
    struct scan s = { 0, 0, 0, 0 };
#pragma unroll 2
    for (int k = from + lane_id() * 8; k < to; k += 256) {
        float x[8], gain[8];
        chunk_floats(x, x_chunk(a, row, k));
        vector_chunk(gain, a.norm.gain, 1.0f, k, a.n_in);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float d = k + i < a.n_in ? x[i] - mean : 0.0f;
            s.sum = mean_pass ? s.sum + d : fma_f32(d, d, s.sum);
            s.most = fmaxf(s.most, fabsf(d * gain[i]));
        }
        if (a.norm.bias != NULL) {
            vector_chunk(gain, a.norm.bias, 0.0f, k, a.n_in);
#pragma unroll
            for (int i = 0; i < 8; i++)
                s.bias = fmaxf(s.bias, fabsf(gain[i]));
        }
    }
#pragma unroll
    for (int m = 16; m > 0; m >>= 1) {
        s.sum += shfl_xor_f32(s.sum, m);
        s.most = fmaxf(s.most, shfl_xor_f32(s.most, m));
        s.bias = fmaxf(s.bias, shfl_xor_f32(s.bias, m));
    }
    return s;
}
/* Every row by `parts` warps; scratch [row][parts]. Parts depend on TILES and, for up to 8 rows, on
 * their number: gemm_small.cu picks TILES = 4 where bits may not depend on it. */
DEVICE void scan_rows(const struct small_args &a, struct scan *scratch, int parts, int from, int to,
                      const struct token *tokens, bool mean_pass)
{
    const int at_once = SMALL_WARPS / parts, part = warp_id() / at_once;
    const int chunks = (to - from + 7) / 8;
    const int low = from + 8 * (chunks * part / parts),
              high = from + 8 * (chunks * (part + 1) / parts);
    for (int row = warp_id() % at_once; row < a.rows; row += at_once) {
        const struct scan s =
            scan_part(a, row, low, high < to ? high : to, tokens[row].mean, mean_pass);
        if (lane_id() == 0)
            scratch[row * parts + part] = s;
    }
}
DEVICE float scan_sum(const struct scan *scratch, int row, int parts)
{
    float sum = 0.0f;
    for (int i = 0; i < parts; i++)
        sum += scratch[row * parts + i].sum;
    return sum;
}
/* A row's numbers from its scan: fp16 gets values below 512 whose largest is 256 or more. */
DEVICE struct token token_of(const struct small_args &a, const struct scan *scratch, int row,
                             int parts, float mean)
{
    float most = 0.0f, bias = 0.0f;
    for (int i = 0; i < parts; i++) {
        most = fmaxf(most, scratch[row * parts + i].most);
        bias = fmaxf(bias, scratch[row * parts + i].bias);
    }
    float factor = 1.0f;
    if (a.norm.gain != NULL)
        factor = rsqrt_fast(scan_sum(scratch, row, parts) / (float)a.n_in + a.norm.epsilon);
    most = fma_f32(most, factor, bias);
    int e = (int)(f32_bits(most) >> 23); /* most in [2^(e-127), 2^(e-126)) */
    e = most == 0.0f ? 135 : e < 9 ? 9 : e > 254 ? 254 : e;
    struct token t;
    t.mean = mean;
    t.scale = f32_of_bits((uint32_t)(e - 8) << 23);
    t.inverse = f32_of_bits((uint32_t)(262 - e) << 23);
    t.factor = factor * t.inverse;
    return t;
}
/* tokens[], from whole rows (norm) or from inputs [from, to). `scratch` is free afterwards. */
template <int TILES>
DEVICE void rows_scan(const struct small_args &a, const struct small_shared &sh, int from, int to)
{
    struct scan *scratch = (struct scan *)sh.sums;
    int parts = 1;
    if (TILES == 1)
        parts = a.rows > 4 ? 1 : a.rows > 2 ? 2 : a.rows > 1 ? 4 : 8;
    if (a.norm.gain != NULL)
        from = 0, to = a.n_in;
    const int thread = (int)threadIdx.x;
    const bool own = thread < a.rows;
    float mean = 0.0f;
    if (thread < 8 * TILES)
        sh.tokens[thread] = token{ 0, 0, 0, 0 };
    block_sync();
    if (a.norm.gain != NULL && a.norm.layer) {
        scan_rows(a, scratch, parts, from, to, sh.tokens, true);
        block_sync();
        if (own) {
            mean = scan_sum(scratch, thread, parts) / (float)a.n_in;
            sh.tokens[thread].mean = mean;
        }
        block_sync();
    }
    scan_rows(a, scratch, parts, from, to, sh.tokens, false);
    block_sync();
    if (own)
        sh.tokens[thread] = token_of(a, scratch, thread, parts, mean);
    block_sync();
}
/* 8 inputs, normed and scaled, as fp16 pairs. */
DEVICE uint4 normed_chunk(const struct small_args &a, const struct token &t, int row, int k)
{
    if (row >= a.rows || k >= a.n_in)
        return uint4{ 0, 0, 0, 0 };
    float x[8], v[8];
    chunk_floats(x, x_chunk(a, row, k));
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = (x[i] - t.mean) * t.factor;
    if (a.norm.gain != NULL) {
        vector_chunk(v, a.norm.gain, 1.0f, k, a.n_in);
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] *= v[i];
        if (a.norm.bias != NULL) {
            vector_chunk(v, a.norm.bias, 0.0f, k, a.n_in);
#pragma unroll
            for (int i = 0; i < 8; i++)
                x[i] = fma_f32(v[i], t.inverse, x[i]);
        }
    }
    return uint4{ f16_pair(x[0], x[1]), f16_pair(x[2], x[3]), f16_pair(x[4], x[5]),
                  f16_pair(x[6], x[7]) };
}
/* Fragments of this warp's inputs. `stage`: its [TOKENS][64] halves, 16-byte pieces of a row
 * swapped by row % 8 so that ldmatrix and the writes have no bank conflicts. */
template <int TILES>
DEVICE void inputs_load(uint32_t (&x)[4 / TILES][8][TILES][2], const struct small_args &a,
                        const struct token *tokens, unsigned char *stage, int first_k, int n_units)
{
    const int lane = lane_id(), piece = lane % 8;
#pragma unroll
    for (int u = 0; u < 4 / TILES; u++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                x[u][half * 4 + 0][t][0] = x[u][half * 4 + 0][t][1] = 0;
                x[u][half * 4 + 1][t][0] = x[u][half * 4 + 1][t][1] = 0;
                x[u][half * 4 + 2][t][0] = x[u][half * 4 + 2][t][1] = 0;
                x[u][half * 4 + 3][t][0] = x[u][half * 4 + 3][t][1] = 0;
            }
            if (u < n_units) {
                const int k = first_k + u * (SMALL_WARPS * F64_UNIT_COLS) + half * 64 + piece * 8;
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) {
                    const int row = i * 4 + lane / 8;
                    st128(stage + row * 128 + ((piece ^ row % 8) * 16),
                          normed_chunk(a, tokens[row], row, k));
                }
                warp_sync();
#pragma unroll
                for (int t = 0; t < TILES; t++) {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        uint32_t r[4];
                        ldsm_x4(r, stage + (t * 8 + lane % 8) * 128 +
                                       (((j * 4 + lane / 8) ^ lane % 8) * 16));
                        x[u][half * 4 + 2 * j][t][0] = r[0];
                        x[u][half * 4 + 2 * j][t][1] = r[1];
                        x[u][half * 4 + 2 * j + 1][t][0] = r[2];
                        x[u][half * 4 + 2 * j + 1][t][1] = r[3];
                    }
                }
                warp_sync();
            }
        }
    }
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* A lane's share of a unit. FINE: groups of 32 (of 64: each scale twice). */
template <int BITS, int ZERO, bool FINE> struct unit_codes {
    enum { GROUPS = FINE ? 4 : 1, WORDS = BITS == 4 ? 8 : 16 };
    uint32_t word[WORDS];
    uint32_t scale[GROUPS], zero[GROUPS]; /* of rows g (low half) and g + 8 */
};
template <int BITS, int ZERO, bool FINE>
DEVICE void unit_read(unit_codes<BITS, ZERO, FINE> &c, const struct small_args &a,
                      const unsigned char *unit)
{
#pragma unroll
    for (int atom = 0; atom < BITS / 2; atom++) {
        const uint4 v = ld128(unit + atom * F64_ATOM_BYTES + lane_id() * 16);
        c.word[4 * atom] = v.x, c.word[4 * atom + 1] = v.y;
        c.word[4 * atom + 2] = v.z, c.word[4 * atom + 3] = v.w;
    }
    const unsigned char *own = unit + lane_id() / 4 * 4;
#pragma unroll
    for (int i = 0; i < unit_codes<BITS, ZERO, FINE>::GROUPS; i++) {
        c.scale[i] = *(const uint32_t *)(own + a.scale_at[i]);
        c.zero[i] = 0;
        if (ZERO == ZERO_WHOLE || ZERO == ZERO_FRACTION)
            c.zero[i] = *(const uint32_t *)(own + a.zero_at[i]);
    }
}
/* The A fragment of k16 tile `tile`; `zero` of its group. */
template <int BITS, int ZERO, bool FINE>
DEVICE void unit_fragment(uint32_t (&w)[4], const unit_codes<BITS, ZERO, FINE> &c, int tile,
                          uint32_t zero, const uint32_t *pairs)
{
    if constexpr (ZERO == ZERO_TABLE) {
        dequant_table(w, c.word[tile], pairs);
    } else if constexpr (BITS == 4) {
        dequant4(w, c.word[tile],
                 ZERO == ZERO_SYMMETRIC ? zeros4_symmetric()
                 : ZERO == ZERO_WHOLE   ? zeros4_of(zero)
                                        : zeros4_none());
    } else {
        dequant8(w, c.word[2 * tile], c.word[2 * tile + 1],
                 ZERO == ZERO_SYMMETRIC ? zeros8_symmetric()
                 : ZERO == ZERO_WHOLE   ? zeros8_of(zero)
                                        : zeros8_none());
    }
    if (ZERO == ZERO_FRACTION)
        subtract_zeros(w, zero);
}
template <int BITS, int ZERO, int TILES, bool FINE>
DEVICE void unit_multiply(float (&acc)[TILES][4], const unit_codes<BITS, ZERO, FINE> &c,
                          const uint32_t (&x)[8][TILES][2], const uint32_t *pairs)
{
    constexpr int GROUPS = unit_codes<BITS, ZERO, FINE>::GROUPS;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        float sum[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++)
            sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0.0f;
#pragma unroll
        for (int i = 0; i < 8 / GROUPS; i++) {
            const int tile = group * (8 / GROUPS) + i;
            uint32_t w[4];
            unit_fragment(w, c, tile, c.zero[group], pairs);
#pragma unroll
            for (int t = 0; t < TILES; t++)
                mma_f16(sum[t], w, x[tile][t][0], x[tile][t][1]);
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

/* ---- epilogue ---------------------------------------------------------------------------------
 * Sums lie as the lanes have them, [token tile][lane][4]; output i of a tile is float i. */

DEVICE int out_row(int i)
{
    return (i >> 4 & 7) | (i & 2) << 2;
}
DEVICE int out_token(int i)
{
    return (i >> 7 << 3) | (i >> 1 & 6) | (i & 1);
}
/* Output value before scale and cap; rows beyond the part's end: 0. */
DEVICE float factored(const struct step &s, int row, float v)
{
    if (row >= s.n_rows)
        return 0.0f;
    v *= s.row_factor[row];
    return s.bias != NULL ? v + s.bias[row] : v;
}
DEVICE void qkv_put(const struct qkv_out &qkv, const struct place &place, int token, int channel,
                    float v)
{
    const int head = channel / qkv.head_dim, d = channel % qkv.head_dim;
    if (head < qkv.n_heads) {
        qkv.q[(int64_t)token * qkv.q_stride + channel] = bf16_of(v);
        return;
    }
    if (place.page < 0)
        return;
    int kv_head = head - qkv.n_heads;
    uint16_t *pages = (uint16_t *)qkv.k_pages;
    if (kv_head >= qkv.n_kv_heads) {
        kv_head -= qkv.n_kv_heads;
        pages = (uint16_t *)qkv.v_pages;
    }
    const int64_t block = (int64_t)place.page * 2 * qkv.n_kv_heads + kv_head;
    pages[(block * PAGE_TOKENS + place.position % PAGE_TOKENS) * qkv.head_dim + d] =
        qkv.kv_dtype == DTYPE_F16 ? f16_of(v) : bf16_of(v);
}
/* Pairs (2i, 2i + 1) of a tile: rows that differ in bit 0 are 16 lanes apart. All lanes. */
DEVICE float rotated_neighbour(const struct qkv_out &qkv, const struct place &place, int channel,
                               float v)
{
    const float other = shfl_xor_f32(v, 16);
    const int d = channel % qkv.head_dim;
    if (!qkv.interleaved || qkv.inv_freq == NULL || d >= qkv.rotary_dim ||
        channel >= (qkv.n_heads + qkv.n_kv_heads) * qkv.head_dim)
        return v;
    const struct rotation r = rotation_of(place.position, qkv.inv_freq[d / 2], qkv.rope_scale);
    return (d & 1) != 0 ? rotated_high(other, v, r) : rotated_low(v, other, r);
}
/* Output i of an item: v of its first tile, w of its second. Whole warps. */
DEVICE void item_out(const struct small_args &a, const struct small_shared &sh, int item,
                     const struct step *steps, int i, float v, float w)
{
    const int row = out_row(i), token = out_token(i);
    v = factored(steps[0], row, v);
    if (a.item_tiles == 1) {
        if (row < steps[0].n_rows && token < a.rows)
            out_store(a.out, token, steps[0].col + row, out_value(a.out, v));
        return;
    }
    w = factored(steps[1], row, w);
    if (!a.is_qkv) {
        if (row < steps[0].n_rows && token < a.rows)
            out_store(a.out, token, steps[0].col + row,
                      gate_of(a.out.gate, out_value(a.out, v)) * out_value(a.out, w));
        return;
    }
    const struct qkv_out &qkv = a.qkv;
    const struct place place = sh.places[token];
    const int c0 = steps[0].col + row, c1 = steps[1].col + row;
    float low = rotated_neighbour(qkv, place, c0, v), high = rotated_neighbour(qkv, place, c1, w);
    if (item_rotated(qkv, item)) {
        const struct rotation r =
            rotation_of(place.position, qkv.inv_freq[c0 % qkv.head_dim], qkv.rope_scale);
        low = rotated_low(v, w, r);
        high = rotated_high(v, w, r);
    }
    if (place.position < 0)
        low = high = 0.0f;
    if (token < a.rows) {
        qkv_put(qkv, place, token, c0, low);
        qkv_put(qkv, place, token, c1, high);
    }
}
DEVICE void places_fill(const struct small_args &a, struct place *places, int n)
{
    const int token = (int)threadIdx.x;
    if (!a.is_qkv || token >= n)
        return;
    struct place p = { -1, -1 };
    if (token < a.rows && a.qkv.positions[token] >= 0) {
        p.position = a.qkv.positions[token];
        p.page = a.qkv.pages[(int64_t)a.qkv.row_seq[token] * a.qkv.pages_stride +
                             p.position / PAGE_TOKENS];
    }
    places[token] = p;
}

/* ---- sums over blocks -------------------------------------------------------------------------
 * Every block of an item writes its sums; the last to take the item's ticket adds them in the
 * order of the splits. The ticket of a tile is taken one tile later and looked at two later, behind
 * barriers that are there anyway: nobody waits for the round trip to L2. */

DEVICE float *partial_at(const struct small_args &a, int split, int tile, int outs)
{
    return a.partial + ((int64_t)split * (a.n_items * a.item_tiles) + tile) * outs;
}
DEVICE float partial_sum(const struct small_args &a, int tile, int outs, int i)
{
    float v = 0.0f;
    for (int from = 0; from < a.splits; from += 4) { /* four loads on their way at once */
        float part[4];
#pragma unroll
        for (int s = 0; s < 4; s++)
            part[s] =
                from + s < a.splits ? ld_other_f32(partial_at(a, from + s, tile, outs) + i) : 0.0f;
#pragma unroll
        for (int s = 0; s < 4; s++)
            v += part[s];
    }
    return v;
}
/* Takes the ticket of an item whose sums all threads have written, before a barrier. One thread. */
DEVICE void item_ticket(const struct small_args &a, int item, uint32_t *last)
{
    device_fence();
    const bool is_last = ticket(&a.tickets[item], 1) == (uint32_t)(a.splits - 1);
    if (is_last)
        st_release(&a.tickets[item], 0); /* for the next launch */
    *last = is_last ? 1u : 0u;
}

/* ---- the kernel -------------------------------------------------------------------------------
 */

template <int BITS, int ZERO, int TILES, bool FINE, bool BULK>
DEVICE void small_block(const struct small_args &a, unsigned char *memory)
{
    typedef small_shape<BITS, TILES, FINE, BULK> S;
    const struct small_shared sh =
        small_shared_of(memory, small_offsets_of<BITS, TILES, FINE, BULK>(a.unit_bytes));
    const int thread = (int)threadIdx.x, warp = warp_id();

    /* This block: inputs of one split, a run of items. */
    const int split = (int)blockIdx.x % a.splits, block = (int)blockIdx.x / a.splits;
    const int n_blocks = (int)gridDim.x / a.splits;
    const int k_from = a.blocks * split / a.splits, k_to = a.blocks * (split + 1) / a.splits;
    const int item_from = (int)((int64_t)a.n_items * block / n_blocks);
    const int item_to = (int)((int64_t)a.n_items * (block + 1) / n_blocks);
    const int n_steps = (item_to - item_from) * a.item_tiles;

    struct stream stream;
    stream.ring = sh.ring + warp * (S::STAGES * S::STAGE_UNITS * a.unit_bytes);
    stream.bars = sh.bars + warp * S::STAGES;
    const int own_units = (k_to - k_from - warp + SMALL_WARPS - 1) / SMALL_WARPS;
    stream.n_units = own_units > 0 ? own_units : 0;
    stream.n_steps = stream.n_units > 0 ? n_steps : 0;
    stream.step = stream.unit = stream.put = stream.get = 0;
    stream.parity = 0;
    stream.next = NULL;
    stream.first_at = (k_from + warp) * 4 * a.unit_bytes;

    /* Tiles, barriers and the first weights. */
    if (thread < n_steps)
        sh.steps[thread] = item_step(a, item_from + thread / a.item_tiles, thread % a.item_tiles);
    if (BULK && thread < SMALL_WARPS * S::STAGES) {
        mbar_init(&sh.bars[thread], 1);
        mbar_init_fence();
    }
    block_sync();
    if (stream.n_steps > 0)
        stream.next = sh.steps[0].units + stream.first_at;
    for (int i = 0; i < S::STAGES; i++)
        stream_issue<BITS, TILES, FINE, BULK>(stream, a, sh.steps);
    if (ZERO == ZERO_TABLE)
        table_pairs(sh.pairs, a.table, thread, SMALL_THREADS);
    griddep_launch();
    griddep_wait();

    /* Activations. */
    places_fill(a, sh.places, S::TOKENS);
    const int inputs_to = k_to * F64_UNIT_COLS;
    rows_scan<TILES>(a, sh, k_from * F64_UNIT_COLS, inputs_to < a.n_in ? inputs_to : a.n_in);
    uint32_t x[S::UNITS][8][TILES][2];
    inputs_load<TILES>(x, a, sh.tokens, (unsigned char *)sh.sums + warp * (TILES * 1024),
                       (k_from + warp) * F64_UNIT_COLS, stream.n_units);
    block_sync(); /* the staging area becomes sums */

    /* Tiles. With splits two more rounds, for the tickets of the last. */
    float first[S::EACH];
#pragma unroll
    for (int j = 0; j < S::EACH; j++)
        first[j] = 0.0f;
    const int tile_from = item_from * a.item_tiles, rounds = n_steps + (a.splits > 1 ? 2 : 0);
#pragma unroll 1
    for (int step = 0; step < rounds; step++) {
        float *sums = sh.sums + (step & 1) * (SMALL_WARPS * S::OUTS);
        if (step < n_steps) {
            float acc[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)
                acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0f;
#pragma unroll
            for (int u = 0; u < S::UNITS; u += S::STAGE_UNITS) {
                if (u < stream.n_units) {
                    const unsigned char *stage = stream_wait<BITS, TILES, FINE, BULK>(stream, a);
                    unit_codes<BITS, ZERO, FINE> c[S::STAGE_UNITS];
                    unit_read(c[0], a, stage);
                    const bool two = S::STAGE_UNITS == 2 && u + 1 < stream.n_units;
                    if (two)
                        unit_read(c[S::STAGE_UNITS - 1], a, stage + a.unit_bytes);
                    if (!S::LATE) {
                        warp_sync(); /* all lanes have read: the stage may be filled again */
                        stream_issue<BITS, TILES, FINE, BULK>(stream, a, sh.steps);
                    }
                    unit_multiply<BITS, ZERO, TILES, FINE>(acc, c[0], x[u], sh.pairs);
                    if (two)
                        unit_multiply<BITS, ZERO, TILES, FINE>(acc, c[S::STAGE_UNITS - 1],
                                                               x[u + S::STAGE_UNITS - 1], sh.pairs);
                    if (S::LATE) {
                        warp_sync();
                        stream_issue<BITS, TILES, FINE, BULK>(stream, a, sh.steps);
                    }
                }
            }
#pragma unroll
            for (int t = 0; t < TILES; t++)
                st128(sums + warp * S::OUTS + t * 128 + lane_id() * 4,
                      uint4{ f32_bits(acc[t][0]), f32_bits(acc[t][1]), f32_bits(acc[t][2]),
                             f32_bits(acc[t][3]) });
        }
        block_sync();
        /* Output: of this tile's item, or of the one whose ticket two tiles ago was the last. */
        const int done = a.splits == 1 ? step : step - 2;
        const bool ends = done >= 0 && (done + 1) % a.item_tiles == 0 &&
                          (a.splits == 1 || sh.last[done & 1] != 0);
        const int tile = tile_from + done + 1 - a.item_tiles; /* the item's first */
#pragma unroll
        for (int j = 0; j < S::EACH; j++) {
            const int i = thread + j * SMALL_THREADS;
            if (i < S::OUTS) { /* whole warps */
                float v = 0.0f, w = 0.0f;
                if (step < n_steps) {
#pragma unroll
                    for (int from = 0; from < SMALL_WARPS; from++)
                        w += sums[from * S::OUTS + i];
                    w *= sh.tokens[out_token(i)].scale;
                }
                if (a.splits == 1) {
                    v = a.item_tiles == 2 ? first[j] : w;
                    first[j] = w;
                } else {
                    if (step < n_steps && out_token(i) < a.rows)
                        partial_at(a, split, tile_from + step, S::OUTS)[i] = w;
                    if (ends && out_token(i) < a.rows) {
                        v = partial_sum(a, tile, S::OUTS, i);
                        w = a.item_tiles == 2 ? partial_sum(a, tile + 1, S::OUTS, i) : 0.0f;
                    }
                }
                if (ends)
                    item_out(a, sh, tile / a.item_tiles, &sh.steps[done + 1 - a.item_tiles], i, v,
                             w);
            }
        }
        const int written = step - 1;
        if (a.splits > 1 && thread == SMALL_THREADS - 1 && written >= 0 && written < n_steps &&
            (written + 1) % a.item_tiles == 0)
            item_ticket(a, (tile_from + written) / a.item_tiles, &sh.last[written & 1]);
    }
}
