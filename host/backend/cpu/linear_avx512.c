/* linear_avx512.c - the matrix kernels for AVX-512 with VNNI; bits as in linear_portable.c.
 *
 * Chosen by linear.c; compiled with AVX-512 flags, so nothing here may run before the CPUID check.
 *
 * Few rows of x (up to STREAM_ROWS): each line of codes is loaded once, split into nibbles in
 * registers and multiplied with every row. Limit: memory bandwidth up to 4 rows or so, then
 *   4 bits: 2 R vpdpbusd + 3 integer operations a line.
 * More rows: one chunk of four tiles is unpacked to bytes in scratch (8 KB, stays in L1) and used
 * by up to 96 rows, 4 tiles x 6 rows of int32 sums in registers: 24 vpdpbusd for 4 + 6 loads. */
#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include "host/backend/cpu/linear_avx512.h"

enum {
    STREAM_ROWS = 8,
    BLOCK_X = 6, /* 4 x 6 sums, 4 weights and a broadcast: 29 of 32 registers */
};
static_assert(LINEAR_BLOCK_TILES * UNPACKED_BYTES +
                      LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TILES * LINEAR_TILE_ROWS * 4 <=
                  LINEAR_THREAD_BYTES,
              "scratch of a thread");

/* ---- activations to int8 ----------------------------------------------------------------------
 */

static void quantize_chunk(const float *x, int32_t n, int8_t *q, float *scale, int32_t *sum)
{
    const __m512 most_finite = _mm512_set1_ps(0x1.fffffep127f);
    const int32_t lines = (n + 15) / 16;
    __m512 in[LINEAR_CHUNK / 16];
    __m512 most = _mm512_setzero_ps();
    __mmask16 odd = 0;
    for (int32_t i = 0; i < lines; i++) {
        const int32_t left = n - 16 * i;
        const __mmask16 mask = lanes(left);
        in[i] = _mm512_maskz_loadu_ps(mask, x + 16 * i);
        const __m512 a = _mm512_abs_ps(in[i]);
        odd |= _mm512_cmp_ps_mask(a, most_finite, _CMP_NLE_UQ);
        most = _mm512_max_ps(most, a);
    }
    const float amax = _mm512_reduce_max_ps(most);
    const bool zero = odd || amax < LINEAR_TINY;
    *scale = odd ? __builtin_nanf("") : zero ? 0 : amax / 127;
    const __m512 inverse = _mm512_set1_ps(zero ? 0 : 127 / amax);
    __m512i total = _mm512_setzero_si512();
    for (int32_t i = 0; i < lines; i++) {
        const __m512i v =
            zero ? _mm512_setzero_si512() : _mm512_cvtps_epi32(_mm512_mul_ps(in[i], inverse));
        total = _mm512_add_epi32(total, v);
        const int32_t left = (n - 16 * i + LAYOUT_OCT - 1) / LAYOUT_OCT * LAYOUT_OCT;
        const __mmask16 mask = lanes(left);
        _mm512_mask_cvtepi32_storeu_epi8(q + 16 * i, mask, v);
    }
    *sum = _mm512_reduce_add_epi32(total);
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

/* ---- few rows: straight from the packed lines -------------------------------------------------
 */

INLINE __m512i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}
/* The lines of oct o: inputs 0-3 and 4-7 of 16 output rows, as bytes. Fetches `ahead` bytes ahead.
 */
INLINE void stream_oct(const uint8_t *codes, ptrdiff_t ahead, int32_t o, int bits, __m512i *a,
                       __m512i *b)
{
    if (bits == 4) {
        const __m512i low = _mm512_set1_epi8(15);
        const __m512i line = _mm512_load_si512(codes + o * LINE);
        _mm_prefetch((const char *)(codes + o * LINE + ahead), _MM_HINT_T0);
        *a = _mm512_and_si512(line, low);
        *b = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
    } else {
        *a = _mm512_load_si512(codes + 2 * o * LINE);
        *b = _mm512_load_si512(codes + 2 * o * LINE + LINE);
        _mm_prefetch((const char *)(codes + 2 * o * LINE + ahead), _MM_HINT_T0);
        _mm_prefetch((const char *)(codes + 2 * o * LINE + LINE + ahead), _MM_HINT_T0);
    }
}

/* Integer sums of one chunk for R rows, two a row: of two tiles, stride bytes apart, or of the
 * first and second lines of one tile. */
INLINE void stream_chunk(const uint8_t *codes, size_t stride, ptrdiff_t ahead, int32_t octs,
                         const int8_t *q, int bits, int T, int R, __m512i dot[STREAM_ROWS][2])
{
    const int64_t q_stride = octs * LAYOUT_OCT;
    for (int32_t o = 0; o < octs; o++) {
        __m512i a0, b0, a1 = _mm512_setzero_si512(), b1 = a1;
        stream_oct(codes, ahead, o, bits, &a0, &b0);
        if (T == 2)
            stream_oct(codes + stride, ahead, o, bits, &a1, &b1);
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m512i first = broadcast4(q + r * q_stride + 8 * o);
            const __m512i second = broadcast4(q + r * q_stride + 8 * o + 4);
            dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], a0, first);
            if (T == 2) {
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], a1, first);
                dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], b0, second);
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], b1, second);
            } else {
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], b0, second);
            }
        }
    }
    UNROLL
    for (int r = 0; r < R; r++)
        __asm__("" : "+v"(dot[r][0]), "+v"(dot[r][1])); /* as in block_dots */
}

/* sums[r][t] = fma(dot, scales, sums[r][t]) */
INLINE void stream_floats(const float *scale, const int32_t *sum,
                          const struct group_params params[2], __m512i dot[STREAM_ROWS][2],
                          float *sums, bool zeros, int T, int R)
{
    UNROLL
    for (int r = 0; r < R; r++) {
        UNROLL
        for (int t = 0; t < T; t++) {
            float *to = sums + (r * T + t) * LINEAR_TILE_ROWS;
            const __m512i whole = T == 2 ? dot[r][t] : _mm512_add_epi32(dot[r][0], dot[r][1]);
            _mm512_store_ps(
                to, finish_chunk(_mm512_load_ps(to), whole, params[t], scale[r], sum[r], zeros));
            __asm__ volatile("" ::: "memory"); /* as in block_floats */
        }
    }
}

/* T tiles times all R rows (one block, n_rows = R). */
INLINE void stream_tiles(const struct linear_tiles *job, int32_t t, int bits, int T, int R)
{
    const struct linear_quantized *x = &job->x;
    const size_t stride = job->at.tile_bytes;
    const uint8_t *tile = job->packed + (size_t)t * stride;
    const uint8_t *codes = tile + job->at.codes_at;
    const bool zeros = job->at.zeros_at != 0;
    const int8_t *q = x->q;
    const float *scale = x->scale;
    const int32_t *sum = x->sum;
    float sums[2 * STREAM_ROWS * LINEAR_TILE_ROWS] __attribute__((aligned(64)));
    UNROLL
    for (int r = 0; r < R * T; r++)
        _mm512_store_ps(sums + r * LINEAR_TILE_ROWS, _mm512_setzero_ps());
    for (int32_t c = 0, group = 0, within = 0; c < x->n_chunks; c++) {
        const int32_t octs = x->octs[c];
        __m512i dot[STREAM_ROWS][2];
        UNROLL
        for (int r = 0; r < R; r++) {
            dot[r][0] = start_sum(job, sum[r], zeros);
            dot[r][1] = T == 2 ? dot[r][0] : _mm512_setzero_si512();
        }
        stream_chunk(codes, stride, fetch_ahead(codes, tile, stride, T), octs, q, bits, T, R, dot);
        struct group_params params[2];
        params[0] = load_group(job, tile, group, zeros);
        params[1] = T == 2 ? load_group(job, tile + stride, group, zeros) : params[0];
        if (zeros)
            stream_floats(scale, sum, params, dot, sums, true, T, R);
        else
            stream_floats(scale, sum, params, dot, sums, false, T, R);
        codes += octs * job->at.oct_bytes;
        q += R * octs * LAYOUT_OCT;
        scale += R;
        sum += R;
        if (++within == job->at.group_chunks) {
            within = 0;
            group++;
        }
    }
    for (int r = 0; r < R; r++) {
        for (int i = 0; i < T; i++)
            store_tile_row(job, tile + (size_t)i * stride, t + i, r,
                           _mm512_load_ps(sums + (r * T + i) * LINEAR_TILE_ROWS));
    }
}

/* All tiles, two at a time: they share the broadcasts, which else would be the limit (2 loads a
 * cycle), and two streams a thread read memory faster than one. One copy of stream_tiles for each
 * width and count of rows. */
#define STREAM(name, bits, T, R)                                                                   \
    static void name(const struct linear_tiles *job)                                               \
    {                                                                                              \
        int32_t t = job->tile_from;                                                                \
        for (; t + T <= job->tile_to; t += T)                                                      \
            stream_tiles(job, t, bits, T, R);                                                      \
        for (; t < job->tile_to; t++)                                                              \
            stream_tiles(job, t, bits, 1, R);                                                      \
    }
#define STREAM_ALL(name, bits)                                                                     \
    STREAM(name##_1, bits, 2, 1)                                                                   \
    STREAM(name##_2, bits, 2, 2)                                                                   \
    STREAM(name##_3, bits, 2, 3)                                                                   \
    STREAM(name##_4, bits, 2, 4)                                                                   \
    STREAM(name##_5, bits, 2, 5)                                                                   \
    STREAM(name##_6, bits, 2, 6)                                                                   \
    STREAM(name##_7, bits, 2, 7)                                                                   \
    STREAM(name##_8, bits, 2, 8)
STREAM_ALL(stream_w4, 4)
STREAM_ALL(stream_w8, 8)
#define STREAM_LIST(name)                                                                          \
    {                                                                                              \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8             \
    }
static void (*const streams[2][STREAM_ROWS])(const struct linear_tiles *) = {
    STREAM_LIST(stream_w4), STREAM_LIST(stream_w8)
};

/* ---- many rows: chunks unpacked once for a block of rows --------------------------------------
 */

/* One chunk of T tiles, as bytes, and of one block of rows. */
struct block_chunk {
    const uint8_t *bytes; /* tile i at bytes + i * stride */
    size_t stride;
    int32_t quads;
    const struct group_params *params; /* [T] */
    const int8_t *q;                   /* row r at q + r * 4 * quads */
    const float *scale;                /* of the rows */
    const int32_t *sum;
    int32_t zero; /* linear_tiles */
    bool zeros;
};

/* sums[r][t] = fma(dot[r][t], scales, sums[r][t]). */
INLINE void block_floats(const struct block_chunk *k, int32_t row,
                         __m512i dot[BLOCK_X][LINEAR_BLOCK_TILES], float *sums, bool zeros, int T,
                         int R)
{
    UNROLL
    for (int t = 0; t < T; t++) {
        UNROLL
        for (int r = 0; r < R; r++) {
            float *to = sums + (r * T + t) * LINEAR_TILE_ROWS;
            _mm512_store_ps(to, finish_chunk(_mm512_load_ps(to), dot[r][t], k->params[t],
                                             k->scale[row + r], k->sum[row + r], zeros));
            __asm__ volatile("" ::: "memory"); /* gcc 12 would load all sums first, and spill */
        }
    }
}
/* sums[r][t] += chunk of T tiles times R rows; sums: [R][T][16]. */
INLINE void block_dots(const struct block_chunk *k, int32_t row, float *sums, int T, int R)
{
    const int64_t q_stride = 4 * (int64_t)k->quads;
    const int8_t *q = k->q + row * q_stride;
    const uint8_t *bytes = k->bytes;
    __m512i dot[BLOCK_X][LINEAR_BLOCK_TILES];
    UNROLL
    for (int r = 0; r < R; r++) {
        UNROLL
        for (int t = 0; t < T; t++)
            dot[r][t] = _mm512_set1_epi32(-k->zero * k->sum[row + r]);
    }
    for (int32_t i = 0; i < k->quads; i++) {
        __m512i w[LINEAR_BLOCK_TILES];
        UNROLL
        for (int t = 0; t < T; t++)
            w[t] = _mm512_load_si512(bytes + (size_t)t * k->stride + (size_t)i * LINE);
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m512i four = broadcast4(q + r * q_stride + 4 * i);
            UNROLL
            for (int t = 0; t < T; t++)
                dot[r][t] = _mm512_dpbusd_epi32(dot[r][t], w[t], four);
        }
    }
    /* A fresh name for each sum: else gcc 12 keeps a second copy of it in memory, inside the loop.
     */
    UNROLL
    for (int r = 0; r < R; r++) {
        UNROLL
        for (int t = 0; t < T; t++)
            __asm__("" : "+v"(dot[r][t]));
    }
    if (k->zeros)
        block_floats(k, row, dot, sums, true, T, R);
    else
        block_floats(k, row, dot, sums, false, T, R);
}
#define BLOCK_DOTS(T, R)                                                                           \
    static void dots_##T##_##R(const struct block_chunk *k, int32_t row, float *sums)              \
    {                                                                                              \
        block_dots(k, row, sums, T, R);                                                            \
    }
#define BLOCK_DOTS_ALL(T)                                                                          \
    BLOCK_DOTS(T, 1)                                                                               \
    BLOCK_DOTS(T, 2)                                                                               \
    BLOCK_DOTS(T, 3)                                                                               \
    BLOCK_DOTS(T, 4)                                                                               \
    BLOCK_DOTS(T, 5)                                                                               \
    BLOCK_DOTS(T, 6)
BLOCK_DOTS_ALL(1)
BLOCK_DOTS_ALL(2)
BLOCK_DOTS_ALL(3)
BLOCK_DOTS_ALL(4)
#define BLOCK_LIST(T)                                                                              \
    {                                                                                              \
        dots_##T##_1, dots_##T##_2, dots_##T##_3, dots_##T##_4, dots_##T##_5, dots_##T##_6         \
    }
static void (*const block_dots_of[LINEAR_BLOCK_TILES][BLOCK_X])(const struct block_chunk *, int32_t,
                                                                float *) = {
    BLOCK_LIST(1), BLOCK_LIST(2), BLOCK_LIST(3), BLOCK_LIST(4)
};

/* n_tiles tiles from t times one block of rows. */
static void block_pass(const struct linear_tiles *job, int32_t t, int32_t n_tiles, int32_t block)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *tile = job->packed + (size_t)t * job->at.tile_bytes;
    const int32_t n = linear_block_rows(x, block);
    uint8_t *unpacked = job->scratch;
    float *sums = (float *)(void *)(unpacked + LINEAR_BLOCK_TILES * UNPACKED_BYTES);
    memset(sums, 0, (size_t)(n * n_tiles * LINEAR_TILE_ROWS) * sizeof *sums);
    struct group_params params[LINEAR_BLOCK_TILES];
    struct block_chunk k = { .params = params,
                             .q = linear_block_q(x, block),
                             .scale = x->scale + linear_block_at(x, block),
                             .sum = x->sum + linear_block_at(x, block),
                             .zero = job->zero,
                             .zeros = job->at.zeros_at != 0 };
    const uint8_t *codes = tile + job->at.codes_at;
    for (int32_t c = 0; c < x->n_chunks; c++) {
        const int32_t octs = x->octs[c];
        k.quads = 2 * octs;
        const uint8_t *bytes[LINEAR_BLOCK_TILES];
        chunk_bytes(job, tile, codes, octs, n_tiles, bytes);
        k.bytes = bytes[0];
        k.stride = job->bits == 4 ? UNPACKED_BYTES : job->at.tile_bytes;
        for (int32_t i = 0; i < n_tiles; i++)
            params[i] = load_group(job, tile + (size_t)i * job->at.tile_bytes,
                                   c / job->at.group_chunks, k.zeros);
        /* Six rows or fewer at a time, as evenly as it goes: 16 = 6 + 5 + 5. */
        int32_t row = 0;
        for (int32_t passes = (n + BLOCK_X - 1) / BLOCK_X; passes; passes--) {
            const int32_t now = (n - row + passes - 1) / passes;
            block_dots_of[n_tiles - 1][now - 1](&k, row, sums + row * n_tiles * LINEAR_TILE_ROWS);
            row += now;
        }
        codes += octs * job->at.oct_bytes;
        k.q += n * octs * LAYOUT_OCT;
        k.scale += n;
        k.sum += n;
    }
    for (int32_t r = 0; r < n; r++) {
        for (int32_t i = 0; i < n_tiles; i++)
            store_tile_row(job, tile + (size_t)i * job->at.tile_bytes, t + i,
                           block * LINEAR_BLOCK_ROWS + r,
                           _mm512_load_ps(sums + (r * n_tiles + i) * LINEAR_TILE_ROWS));
    }
}

static void tiles(const struct linear_tiles *job)
{
    const int32_t n_rows = job->x.n_rows;
    if (n_rows <= STREAM_ROWS) {
        streams[job->bits == 8][n_rows - 1](job);
        return;
    }
    for (int32_t t = job->tile_from; t < job->tile_to; t += LINEAR_BLOCK_TILES) {
        const int32_t left = job->tile_to - t;
        const int32_t n_tiles = left < LINEAR_BLOCK_TILES ? left : LINEAR_BLOCK_TILES;
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < n_rows; block++)
            block_pass(job, t, n_tiles, block);
    }
}

/* ---- fp32 activations times rows --------------------------------------------------------------
 */

enum { ROWS_W = 4, ROWS_X = 6 }; /* 24 sums in registers, 4 weights, 1 of x */

INLINE __m512 load_w(const uint8_t *row, int32_t k, __mmask16 mask, enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return _mm512_maskz_loadu_ps(mask, row + 4 * (size_t)k);
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, row + 2 * (size_t)k);
    if (dtype == DTYPE_F16)
        return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/* The tree of linear_portable.c: l + (l + 8), then 4, 2, 1. */
INLINE float tree_sum(__m512 acc)
{
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
/* 16 inputs, those in mask, of W rows of weights times R rows of x. */
INLINE void rows_step(const uint8_t *w, size_t row_bytes, const float *x, int64_t x_stride,
                      int32_t k, __mmask16 mask, enum dtype dtype, int W, int R,
                      __m512 acc[ROWS_X][ROWS_W])
{
    __m512 wk[ROWS_W];
    UNROLL
    for (int j = 0; j < W; j++)
        wk[j] = load_w(w + (size_t)j * row_bytes, k, mask, dtype);
    UNROLL
    for (int i = 0; i < R; i++) {
        const __m512 xk = _mm512_maskz_loadu_ps(mask, x + i * x_stride + k);
        UNROLL
        for (int j = 0; j < W; j++)
            acc[i][j] = _mm512_fmadd_ps(wk[j], xk, acc[i][j]);
    }
}
/* W rows of weights from o times R rows of x from r. */
INLINE void rows_block(const struct linear_rows *job, int32_t o, int32_t r, enum dtype dtype, int W,
                       int R)
{
    const int32_t bytes = dtype == DTYPE_F32 ? 4 : 2;
    const size_t row_bytes = (size_t)job->n_in * (size_t)bytes;
    const uint8_t *w = job->w + (size_t)o * row_bytes;
    const float *x = job->x + r * job->x_stride;
    __m512 acc[ROWS_X][ROWS_W];
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < W; j++)
            acc[i][j] = _mm512_setzero_ps();
    }
    int32_t k = 0;
    for (; k + 16 <= job->n_in; k += 16) {
        const uint8_t *at = w + k * bytes;
        const ptrdiff_t ahead = fetch_ahead(at, w, row_bytes, W);
        UNROLL
        for (int j = 0; j < W; j++)
            _mm_prefetch((const char *)(at + (size_t)j * row_bytes + ahead), _MM_HINT_T0);
        rows_step(w, row_bytes, x, job->x_stride, k, 0xffff, dtype, W, R, acc);
    }
    if (k < job->n_in)
        rows_step(w, row_bytes, x, job->x_stride, k, lanes(job->n_in - k), dtype, W, R, acc);
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < W; j++) {
            __asm__("" : "+v"(acc[i][j])); /* as in block_dots */
            const float sum = tree_sum(acc[i][j]);
            job->y[(r + i) * job->y_stride + o + j] = job->bias ? sum + job->bias[o + j] : sum;
        }
    }
}
#define ROWS_CASE(dtype, R)                                                                        \
    case R:                                                                                        \
        if (n_w == ROWS_W) {                                                                       \
            rows_block(job, o, r, dtype, ROWS_W, R);                                               \
        } else {                                                                                   \
            for (int32_t j = 0; j < n_w; j++)                                                      \
                rows_block(job, o + j, r, dtype, 1, R);                                            \
        }                                                                                          \
        break;
/* n_w <= 4 rows of weights times n rows of x. */
#define ROWS(name, dtype)                                                                          \
    static void name(const struct linear_rows *job, int32_t o, int32_t n_w, int32_t r, int32_t n)  \
    {                                                                                              \
        for (int32_t passes = (n + ROWS_X - 1) / ROWS_X; passes; passes--) {                       \
            const int32_t now = (n + passes - 1) / passes;                                         \
            switch (now) {                                                                         \
                ROWS_CASE(dtype, 1)                                                                \
                ROWS_CASE(dtype, 2)                                                                \
                ROWS_CASE(dtype, 3)                                                                \
                ROWS_CASE(dtype, 4)                                                                \
                ROWS_CASE(dtype, 5)                                                                \
                ROWS_CASE(dtype, 6)                                                                \
            }                                                                                      \
            r += now;                                                                              \
            n -= now;                                                                              \
        }                                                                                          \
    }
ROWS(rows_f32, DTYPE_F32)
ROWS(rows_f16, DTYPE_F16)
ROWS(rows_bf16, DTYPE_BF16)

static void rows(const struct linear_rows *job)
{
    /* Rows of x that stay in L2 (512 KB of it) while all weights pass. */
    int32_t block = (512 << 10) / 4 / job->n_in / ROWS_X * ROWS_X;
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

const struct linear_kernels linear_avx512 = { quantize_row, tiles, linear_chunks_avx512,
                                              linear_e4m3_avx512, rows };
