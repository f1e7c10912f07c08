/* linear_avx2.c - the matrix kernels for AVX2, FMA and F16C; bits as in linear_portable.c.
 *
 * Chosen by linear.c; compiled with AVX2 flags, so nothing here may run before the CPUID check.
 *
 * Without vpdpbusd an int8 product is pmaddubsw (pairs, 16 bits, saturating) + pmaddwd (to 32). A
 * nibble times a byte fits: a pair is at most 2 * 15 * 128 = 3840, so eight of them may be added in
 * 16 bits (30720) before one pmaddwd. 8-bit codes would saturate (2 * 255 * 127), so they are
 * multiplied as two nibbles: code = 16 high + low. Both are exact.
 *
 * A line of 16 rows is taken as two halves of 8 rows: one 256-bit register of int32 sums each. */
#include <immintrin.h>
#include <assert.h>
#include <string.h>
#include "host/backend/cpu/linear_kernels.h"

static_assert((int)LINEAR_TILE_ROWS == 16 && (int)LAYOUT_ALIGN == 64,
              "two halves of 8 rows a line");
static_assert((int)LAYOUT_OCT == 8, "two operands of 4 inputs");

#define INLINE static inline __attribute__((always_inline))
/* For loops over arrays of registers: gcc must unroll them before it decides what stays in memory,
 * which it does for asked-for unrolling only. */
#define UNROLL _Pragma("GCC unroll 8")

enum {
    BLOCK_X = 4,    /* rows of x at a time: 4 sums of 32 bits and 4 or 8 of 16 */
    HALF = 8,       /* output rows of a register */
    FLUSH_OCTS = 4, /* 8 pairs: the most that 16 bits hold */
    LINE = LAYOUT_ALIGN,
    AHEAD_BYTES = 2048, /* as in linear_avx512.c */
};
static_assert(2 * FLUSH_OCTS * 2 * 15 * 128 <= INT16_MAX, "sums of pairs fit 16 bits");

/* First n of 8 lanes. */
INLINE __m256i lanes(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* ---- activations to int8 ----------------------------------------------------------------------
 */

static float max_lane(__m256 v)
{
    const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
static int32_t add_lanes(__m256i v)
{
    const __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i b = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}

static void quantize_chunk(const float *x, int32_t n, int8_t *q, float *scale, int32_t *sum)
{
    const __m256 most_finite = _mm256_set1_ps(0x1.fffffep127f);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const int32_t octs = (n + LAYOUT_OCT - 1) / LAYOUT_OCT;
    __m256 in[LINEAR_CHUNK / 8];
    __m256 most = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int32_t i = 0; i < octs; i++) {
        in[i] = n - 8 * i >= 8 ? _mm256_loadu_ps(x + 8 * i)
                               : _mm256_maskload_ps(x + 8 * i, lanes(n - 8 * i));
        const __m256 a = _mm256_andnot_ps(sign, in[i]);
        odd = _mm256_or_ps(odd, _mm256_cmp_ps(a, most_finite, _CMP_NLE_UQ));
        most = _mm256_max_ps(most, a);
    }
    const float amax = max_lane(most);
    const bool finite = _mm256_movemask_ps(odd) == 0;
    *sum = 0;
    if (!finite || amax < LINEAR_TINY) {
        *scale = finite ? 0 : __builtin_nanf("");
        memset(q, 0, (size_t)octs * LAYOUT_OCT);
        return;
    }
    *scale = amax / 127;
    const __m256 inverse = _mm256_set1_ps(127 / amax);
    __m256i total = _mm256_setzero_si256();
    for (int32_t i = 0; i < octs; i++) {
        const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(in[i], inverse));
        total = _mm256_add_epi32(total, v);
        const __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storel_epi64((__m128i *)(void *)(q + 8 * i), _mm_packs_epi16(words, words));
    }
    *sum = add_lanes(total);
}

static void quantize_row(const float *x, const uint8_t *lengths, const uint8_t *octs,
                         int32_t n_chunks, int32_t n_rows, int32_t row, int8_t *q, float *scale,
                         int32_t *sum)
{
    for (int32_t c = 0; c < n_chunks; c++) {
        const int32_t n = lengths[c], padded = octs[c] * LAYOUT_OCT;
        const int32_t octs_of_n = (n + LAYOUT_OCT - 1) / LAYOUT_OCT * LAYOUT_OCT;
        int8_t *to = q + row * padded;
        quantize_chunk(x, n, to, &scale[c * n_rows + row], &sum[c * n_rows + row]);
        if (octs_of_n < padded)
            memset(to + octs_of_n, 0, (size_t)(padded - octs_of_n));
        x += n;
        q += n_rows * padded;
    }
}

/* ---- int8 activations times tiles -------------------------------------------------------------
 */

INLINE __m256i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}
INLINE __m256i load_half(const uint8_t *at)
{
    return _mm256_load_si256((const __m256i *)(const void *)at);
}

/* dot[r] += up to FLUSH_OCTS octs of 4-bit codes of 8 output rows times R rows of q. */
INLINE void add_octs_w4(const uint8_t *codes, int32_t octs, const int8_t *q, int64_t q_stride,
                        int R, __m256i *dot)
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[BLOCK_X];
    UNROLL
    for (int r = 0; r < R; r++)
        pairs[r] = _mm256_setzero_si256();
    for (int32_t o = 0; o < octs; o++) {
        const __m256i line = load_half(codes + o * LINE);
        _mm_prefetch((const char *)(codes + o * LINE + AHEAD_BYTES), _MM_HINT_T0);
        const __m256i a = _mm256_and_si256(line, low);
        const __m256i b = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
        UNROLL
        for (int r = 0; r < R; r++) {
            const int8_t *at = q + r * q_stride + 8 * o;
            pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(a, broadcast4(at)));
            pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(b, broadcast4(at + 4)));
        }
    }
    UNROLL
    for (int r = 0; r < R; r++)
        dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
}
/* The same of 8-bit codes. */
INLINE void add_octs_w8(const uint8_t *codes, int32_t octs, const int8_t *q, int64_t q_stride,
                        int R, __m256i *dot)
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i lows[BLOCK_X], highs[BLOCK_X];
    UNROLL
    for (int r = 0; r < R; r++)
        lows[r] = highs[r] = _mm256_setzero_si256();
    for (int32_t o = 0; o < 2 * octs; o++) {
        const __m256i line = load_half(codes + o * LINE);
        _mm_prefetch((const char *)(codes + o * LINE + AHEAD_BYTES), _MM_HINT_T0);
        const __m256i a = _mm256_and_si256(line, low);
        const __m256i b = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i four = broadcast4(q + r * q_stride + 4 * o);
            lows[r] = _mm256_add_epi16(lows[r], _mm256_maddubs_epi16(a, four));
            highs[r] = _mm256_add_epi16(highs[r], _mm256_maddubs_epi16(b, four));
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) {
        const __m256i high = _mm256_slli_epi32(_mm256_madd_epi16(highs[r], ones), 4);
        dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(lows[r], ones));
        dot[r] = _mm256_add_epi32(dot[r], high);
    }
}

INLINE __m256 half_floats(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at));
}

/* R rows of one chunk: row r at q + r * stride. */
struct chunk_rows {
    const int8_t *q;
    int64_t stride;
    const float *scale; /* [R] */
    const int32_t *sum; /* [R] */
    int32_t octs;
};
/* One chunk of half a tile: acc[r] = fma(dot, scale_x * scale_w, acc[r]). params and codes are at
 * the half. */
INLINE void chunk_half(const struct linear_tiles *job, const uint8_t *params, const uint8_t *codes,
                       const struct chunk_rows *x, int bits, int R, __m256 *acc)
{
    __m256i dot[BLOCK_X];
    UNROLL
    for (int r = 0; r < R; r++)
        dot[r] = _mm256_set1_epi32(-job->zero * x->sum[r]);
    for (int32_t o = 0; o < x->octs; o += FLUSH_OCTS) {
        const int32_t now = x->octs - o < FLUSH_OCTS ? x->octs - o : FLUSH_OCTS;
        if (bits == 4)
            add_octs_w4(codes + o * LINE, now, x->q + 8 * o, x->stride, R, dot);
        else
            add_octs_w8(codes + 2 * o * LINE, now, x->q + 8 * o, x->stride, R, dot);
    }
    const __m256 w_scale = half_floats(params + job->at.scales_at);
    UNROLL
    for (int r = 0; r < R; r++) {
        __m256 t = _mm256_cvtepi32_ps(dot[r]);
        if (job->at.zeros_at) {
            const __m256 zero = half_floats(params + job->at.zeros_at);
            t = _mm256_fnmadd_ps(zero, _mm256_cvtepi32_ps(_mm256_set1_epi32(x->sum[r])), t);
        }
        acc[r] = _mm256_fmadd_ps(t, _mm256_mul_ps(_mm256_set1_ps(x->scale[r]), w_scale), acc[r]);
    }
}

static void store_half(const struct linear_tiles *job, const uint8_t *tile, int32_t first,
                       int32_t r, __m256 acc)
{
    const int32_t n = job->n_out - first;
    if (n <= 0)
        return;
    const __m256i mask = lanes(n);
    const size_t lane = (size_t)(first % LINEAR_TILE_ROWS) * sizeof(float);
    __m256 y = _mm256_mul_ps(acc, _mm256_load_ps((const void *)(tile + job->at.factors_at + lane)));
    if (job->bias)
        y = _mm256_add_ps(y, _mm256_maskload_ps(job->bias + first, mask));
    _mm256_maskstore_ps(job->y + r * job->y_stride + first, mask, y);
}

/* Tile t times R rows of a block, from `row` of the block; half h sits 32 bytes into each line and
 * 16 into the scales. */
INLINE void tile_rows(const struct linear_tiles *job, int32_t t, int32_t block, int32_t row,
                      int bits, int R)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *tile = job->packed + (size_t)t * job->at.tile_bytes;
    const uint8_t *codes = tile + job->at.codes_at;
    const uint8_t *params = tile;
    const int32_t n_rows = linear_block_rows(x, block);
    const int8_t *q = linear_block_q(x, block);
    const int64_t first = linear_block_at(x, block) + row;
    __m256 acc[2][BLOCK_X];
    UNROLL
    for (int r = 0; r < R; r++)
        acc[0][r] = acc[1][r] = _mm256_setzero_ps();
    for (int32_t c = 0, within = 0; c < x->n_chunks; c++) {
        const int32_t bytes = x->octs[c] * LAYOUT_OCT;
        const int64_t at = first + (int64_t)c * n_rows;
        const struct chunk_rows rows = { .q = q + row * bytes,
                                         .stride = bytes,
                                         .scale = x->scale + at,
                                         .sum = x->sum + at,
                                         .octs = x->octs[c] };
        chunk_half(job, params, codes, &rows, bits, R, acc[0]);
        chunk_half(job, params + HALF * 2, codes + LINE / 2, &rows, bits, R, acc[1]);
        codes += x->octs[c] * job->at.oct_bytes;
        q += n_rows * bytes;
        if (++within == job->at.group_chunks) {
            within = 0;
            params += LINEAR_TILE_ROWS * sizeof(uint16_t);
        }
    }
    const int32_t y_row = block * LINEAR_BLOCK_ROWS + row;
    UNROLL
    for (int r = 0; r < R; r++) {
        store_half(job, tile, t * LINEAR_TILE_ROWS, y_row + r, acc[0][r]);
        store_half(job, tile, t * LINEAR_TILE_ROWS + HALF, y_row + r, acc[1][r]);
    }
}
#define TILE_ROWS(name, bits, R)                                                                   \
    static void name(const struct linear_tiles *job, int32_t t, int32_t block, int32_t row)        \
    {                                                                                              \
        tile_rows(job, t, block, row, bits, R);                                                    \
    }
TILE_ROWS(tile_w4_1, 4, 1)
TILE_ROWS(tile_w4_2, 4, 2)
TILE_ROWS(tile_w4_3, 4, 3)
TILE_ROWS(tile_w4_4, 4, 4)
TILE_ROWS(tile_w8_1, 8, 1)
TILE_ROWS(tile_w8_2, 8, 2)
TILE_ROWS(tile_w8_3, 8, 3)
TILE_ROWS(tile_w8_4, 8, 4)

static void tiles(const struct linear_tiles *job)
{
    static void (*const kernels[2][BLOCK_X])(const struct linear_tiles *, int32_t, int32_t,
                                             int32_t) = {
        { tile_w4_1, tile_w4_2, tile_w4_3, tile_w4_4 },
        { tile_w8_1, tile_w8_2, tile_w8_3, tile_w8_4 },
    };
    for (int32_t t = job->tile_from; t < job->tile_to; t++) {
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++) {
            int32_t row = 0, n = linear_block_rows(&job->x, block);
            for (int32_t passes = (n + BLOCK_X - 1) / BLOCK_X; passes; passes--) {
                const int32_t now = (n + passes - 1) / passes;
                kernels[job->bits == 8][now - 1](job, t, block, row);
                row += now;
                n -= now;
            }
        }
    }
}

/* ---- fp32 activations times rows --------------------------------------------------------------
 */

enum { ROWS_W = 2, ROWS_X = 3 }; /* 12 sums, 2 weights, 1 of x */

/* Lanes [8 h, 8 h + 8) of 16 weights from k; the first n of them exist. */
INLINE __m256 load_w(const uint8_t *row, int32_t k, int32_t n, enum dtype dtype)
{
    if (dtype == DTYPE_F32) {
        const float *from = (const float *)(const void *)(row + 4 * (size_t)k);
        return n >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes(n));
    }
    __m128i bits = _mm_setzero_si128();
    if (n > 0)
        memcpy(&bits, row + 2 * (size_t)k, n >= 8 ? 16 : 2 * (size_t)n);
    if (dtype == DTYPE_F16)
        return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
/* The tree of linear_portable.c: l + (l + 8), then 4, 2, 1. */
INLINE float tree_sum(__m256 first, __m256 second)
{
    const __m256 a = _mm256_add_ps(first, second);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
/* One step of 16 inputs, n of which exist. */
INLINE void rows_step(const uint8_t *w, size_t row_bytes, const float *x, int64_t x_stride,
                      int32_t k, int32_t n, enum dtype dtype, int W, int R,
                      __m256 acc[ROWS_X][2 * ROWS_W])
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t left = n - 8 * h;
        __m256 wk[ROWS_W];
        UNROLL
        for (int j = 0; j < W; j++)
            wk[j] = load_w(w + (size_t)j * row_bytes, k + 8 * h, left, dtype);
        UNROLL
        for (int i = 0; i < R; i++) {
            const float *from = x + i * x_stride + k + 8 * h;
            const __m256 xk =
                left >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes(left));
            UNROLL
            for (int j = 0; j < W; j++)
                acc[i][2 * j + h] = _mm256_fmadd_ps(wk[j], xk, acc[i][2 * j + h]);
        }
    }
}
INLINE void rows_block(const struct linear_rows *job, int32_t o, int32_t r, enum dtype dtype, int W,
                       int R)
{
    const size_t row_bytes = (size_t)job->n_in * (dtype == DTYPE_F32 ? 4 : 2);
    const uint8_t *w = job->w + (size_t)o * row_bytes;
    const float *x = job->x + r * job->x_stride;
    __m256 acc[ROWS_X][2 * ROWS_W];
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < 2 * W; j++)
            acc[i][j] = _mm256_setzero_ps();
    }
    int32_t k = 0;
    for (; k + 16 <= job->n_in; k += 16)
        rows_step(w, row_bytes, x, job->x_stride, k, 16, dtype, W, R, acc);
    if (k < job->n_in)
        rows_step(w, row_bytes, x, job->x_stride, k, job->n_in - k, dtype, W, R, acc);
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < W; j++) {
            const float sum = tree_sum(acc[i][2 * j], acc[i][2 * j + 1]);
            job->y[(r + i) * job->y_stride + o + j] = job->bias ? sum + job->bias[o + j] : sum;
        }
    }
}
#define ROWS(name, dtype)                                                                          \
    static void name(const struct linear_rows *job, int32_t o, int32_t n_w, int32_t r, int32_t n)  \
    {                                                                                              \
        for (int32_t passes = (n + ROWS_X - 1) / ROWS_X; passes; passes--) {                       \
            const int32_t now = (n + passes - 1) / passes;                                         \
            if (n_w == 2 && now == 3)                                                              \
                rows_block(job, o, r, dtype, 2, 3);                                                \
            else if (n_w == 2 && now == 2)                                                         \
                rows_block(job, o, r, dtype, 2, 2);                                                \
            else if (n_w == 2)                                                                     \
                rows_block(job, o, r, dtype, 2, 1);                                                \
            else                                                                                   \
                for (int32_t i = 0; i < now; i++)                                                  \
                    rows_block(job, o, r + i, dtype, 1, 1);                                        \
            r += now;                                                                              \
            n -= now;                                                                              \
        }                                                                                          \
    }
ROWS(rows_f32, DTYPE_F32)
ROWS(rows_f16, DTYPE_F16)
ROWS(rows_bf16, DTYPE_BF16)

static void rows(const struct linear_rows *job)
{
    /* Rows of x that stay in L2 (256 KB of it) while all weights pass. */
    int32_t block = (256 << 10) / 4 / job->n_in / ROWS_X * ROWS_X;
    block = block < ROWS_X ? ROWS_X : block;
    for (int32_t r = 0; r < job->n_rows; r += block) {
        const int32_t n = job->n_rows - r < block ? job->n_rows - r : block;
        for (int32_t o = job->row_from; o < job->row_to; o += ROWS_W) {
            const int32_t n_w = job->row_to - o < ROWS_W ? job->row_to - o : ROWS_W;
            if (job->dtype == DTYPE_F32)
                rows_f32(job, o, n_w, r, n);
            else if (job->dtype == DTYPE_F16)
                rows_f16(job, o, n_w, r, n);
            else
                rows_bf16(job, o, n_w, r, n);
        }
    }
}

const struct linear_kernels linear_avx2 = { quantize_row, tiles, linear_chunks_avx2,
                                            linear_e4m3_avx2, rows };
