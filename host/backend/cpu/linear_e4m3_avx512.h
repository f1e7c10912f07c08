/* linear_e4m3_avx512.h - products with E4M3 codes of CHUNKS_C16, 16 output rows a register; bits as
 * in linear_e4m3_portable.c. The body of linear_e4m3_avx512.c and linear_e4m3_bf16.c, whose flags
 * choose the operands:
 *
 *   with AVX512_BF16 and VBMI   pairs of bf16, vdpbf16ps: 32 products an instruction
 *   without                     floats, vfmadd: 16
 *
 * Few rows stream: a line of codes of up to four tiles is widened in registers and multiplied with
 * every row. One sum a (row, output) and one order of it: four tiles side by side hide the latency.
 * More rows: a chunk of T tiles is widened to scratch once for a block of rows. */
#pragma once
#include <assert.h>
#include <string.h>
#include "host/backend/cpu/linear_chunks_avx512.h"

/* Of loops over all sums of a pass. */
#define UNROLL_ALL _Pragma("GCC unroll 24")

enum {
#ifdef __AVX512BF16__
    STEPS = 2, /* operands of a line of codes, four inputs of 16 rows */
    TILES = 4, /* of a pass: 16 KB of scratch, half of L1 */
#else
    STEPS = 4,
    TILES = 2,
#endif
    BLOCK_X = 6,
    STREAM_ROWS = 4,
    STREAM_TILES = 4,
    TILE_LINES = QUADS_MAX * STEPS, /* of a chunk */
    MULTI_TILES =
        2, /* of chunks of several subs: their sums stay in registers beside the chunk's */
};
static_assert(TILES * TILE_LINES * LINE +
                      LINEAR_BLOCK_ROWS * TILES * LINEAR_TILE_ROWS * (int)sizeof(float) +
                      TILES * LAYOUT_SUBS_MAX * LINEAR_TILE_ROWS * (int)sizeof(float) <=
                  LINEAR_THREAD_BYTES,
              "scratch of a thread");

/* ---- operands ---------------------------------------------------------------------------------
 */

#ifdef __AVX512BF16__
/* High and low bytes of the bf16 of codes 0 to 127. */
struct e4m3_tables {
    __m512i high[2], low[2], spread;
};
INLINE struct e4m3_tables make_tables(void)
{
    /* Normal: (code << 4) + (120 << 7). 2^-9 times 0 to 7: 0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00 .. */
    const __m512i first_high = _mm512_zextsi128_si512(_mm_cvtsi64_si128(0x3c3c3c3c3b3b3b00));
    const __m512i first_low = _mm512_zextsi128_si512(_mm_cvtsi64_si128(0x60402000c0800000));
    const __m512i sixteen = _mm512_set_epi64(
        0x0706050403020100 + 0x0808080808080808 * 7, 0x0706050403020100 + 0x0808080808080808 * 6,
        0x0706050403020100 + 0x0808080808080808 * 5, 0x0706050403020100 + 0x0808080808080808 * 4,
        0x0706050403020100 + 0x0808080808080808 * 3, 0x0706050403020100 + 0x0808080808080808 * 2,
        0x0706050403020100 + 0x0808080808080808, 0x0706050403020100);
    struct e4m3_tables t;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const __m512i code = _mm512_add_epi8(sixteen, _mm512_set1_epi8((char)(64 * i)));
        const __m512i nibble = _mm512_set1_epi8(15);
        t.high[i] = _mm512_add_epi8(_mm512_and_si512(_mm512_srli_epi16(code, 4), nibble),
                                    _mm512_set1_epi8(0x3c));
        t.low[i] = _mm512_andnot_si512(nibble, _mm512_slli_epi16(code, 4));
    }
    t.high[0] = _mm512_mask_mov_epi8(t.high[0], 0xff, first_high);
    t.low[0] = _mm512_mask_mov_epi8(t.low[0], 0xff, first_low);
    /* inputs 0 and 1 of the four rows of a lane, then 2 and 3 */
    t.spread =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    return t;
}
INLINE void widen(const struct e4m3_tables *t, const uint8_t *line, __m512 out[STEPS])
{
    const __m512i code = _mm512_shuffle_epi8(_mm512_load_si512(line), t->spread);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], code, t->low[1]);
    const __m512i high = _mm512_permutex2var_epi8(t->high[0], code, t->high[1]);
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i top = _mm512_ternarylogic_epi32(high, code, sign, 0xf8); /* high | code & sign */
    out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, top));
    out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, top));
}
/* Step s of the four bf16 at x, for all rows. */
INLINE __m512 input(const int8_t *x, int s)
{
    return _mm512_castsi512_ps(broadcast4(x + 4 * s));
}
INLINE __m512 multiply(__m512 w, __m512 x, __m512 sum)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}
#else
struct e4m3_tables {
    int none;
};
INLINE struct e4m3_tables make_tables(void)
{
    return (struct e4m3_tables){ 0 };
}
/* Inputs 1, 0, 3, 2: the order of the sums. */
INLINE void widen(const struct e4m3_tables *t, const uint8_t *line, __m512 out[STEPS])
{
    (void)t;
    const __m512i codes = _mm512_load_si512(line);
    const __m512i in[STEPS] = { _mm512_slli_epi32(codes, 16), _mm512_slli_epi32(codes, 24), codes,
                                _mm512_slli_epi32(codes, 8) };
    UNROLL
    for (int s = 0; s < STEPS; s++) { /* as bits of a float: 2^-120 of it, subnormals too */
        const __m512i bits =
            _mm512_and_si512(_mm512_srai_epi32(in[s], 4), _mm512_set1_epi32((int32_t)0x87f00000));
        out[s] = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1p120f));
    }
}
INLINE __m512 input(const int8_t *x, int s)
{
    const __m512i pair = broadcast4(x + s / 2 * 4);
    return _mm512_castsi512_ps(s % 2 ? _mm512_slli_epi32(pair, 16)
                                     : _mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
}
INLINE __m512 multiply(__m512 w, __m512 x, __m512 sum)
{
    return _mm512_fmadd_ps(w, x, sum);
}
#endif

/* ---- few rows ---------------------------------------------------------------------------------
 */

/* dot[r][t] += lines [first, end) of a chunk; codes: of the first of T tiles. */
INLINE void stream_lines(const struct e4m3_tables *tables, const uint8_t *codes, size_t stride,
                         ptrdiff_t ahead, int32_t first, int32_t end, const int8_t *q,
                         int64_t row_bytes, int T, int R, __m512 dot[STREAM_ROWS][STREAM_TILES])
{
    for (int32_t k = first; k < end; k++) {
        UNROLL
        for (int i = 0; i < T; i++) {
            const uint8_t *line = codes + (size_t)i * stride + (size_t)k * LINE;
            __m512 w[STEPS];
            widen(tables, line, w);
            _mm_prefetch((const char *)line + ahead, _MM_HINT_T0);
            UNROLL
            for (int r = 0; r < R; r++) {
                UNROLL
                for (int s = 0; s < STEPS; s++)
                    dot[r][i] = multiply(w[s], input(q + r * row_bytes + 8 * k, s), dot[r][i]);
            }
        }
    }
}

/* T tiles from t times R rows from `row` of the one block. */
INLINE void stream_e4m3(const struct linear_chunks *job, const struct e4m3_tables *tables,
                        int32_t t, int32_t row, int T, int R)
{
    const struct linear_quantized *x = &job->x;
    const struct layout_chunks *at = &job->at;
    const size_t stride = at->tile_bytes;
    const uint8_t *tile = linear_chunks_tile(job, t);
    const uint8_t *chunk = tile + LINEAR_TILE_ROWS * sizeof(float);
    const int8_t *q = x->q;
    const float *scale = x->scale + row;
    const int32_t sub_lines = at->sub / 4, n = x->n_rows;
    __m512 acc[STREAM_ROWS][STREAM_TILES];
    UNROLL_ALL
    for (int i = 0; i < R * T; i++)
        acc[i / T][i % T] = _mm512_setzero_ps();
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += at->chunk_bytes) {
        const int32_t lines = 2 * x->octs[c];
        const int64_t row_bytes = 8 * (int64_t)lines;
        const int8_t *from = q + row * row_bytes;
        const ptrdiff_t ahead = fetch_ahead(chunk, tile, stride, T);
        __m512 inner[STREAM_ROWS][STREAM_TILES];
        UNROLL_ALL
        for (int i = 0; i < R * T; i++)
            inner[i / T][i % T] = _mm512_setzero_ps();
        for (size_t b = 0; b < at->codes_at; b += LINE) {
            UNROLL
            for (int i = 0; i < T; i++)
                _mm_prefetch((const char *)chunk + (size_t)i * stride + b + ahead, _MM_HINT_T0);
        }
        for (int32_t first = 0, sub = 0; first < lines; first += sub_lines, sub++) {
            const int32_t end = lines - first < sub_lines ? lines : first + sub_lines;
            __m512 dot[STREAM_ROWS][STREAM_TILES];
            UNROLL_ALL
            for (int i = 0; i < R * T; i++)
                dot[i / T][i % T] = _mm512_setzero_ps();
            stream_lines(tables, chunk + at->codes_at, stride, ahead, first, end, from, row_bytes,
                         T, R, dot);
            UNROLL
            for (int i = 0; i < T; i++) {
                const uint8_t *params = chunk + (size_t)i * stride;
                const __m512 shared = at->scales == LAYOUT_SCALES_I8
                                          ? load_halves(params + at->shared_at)
                                          : _mm512_setzero_ps();
                const __m512 scales = load_values(at->scales, params, sub, shared);
                UNROLL
                for (int r = 0; r < R; r++)
                    inner[r][i] = _mm512_fmadd_ps(dot[r][i], scales, inner[r][i]);
            }
        }
        UNROLL_ALL
        for (int i = 0; i < R * T; i++)
            acc[i / T][i % T] = _mm512_fmadd_ps(inner[i / T][i % T], _mm512_set1_ps(scale[i / T]),
                                                acc[i / T][i % T]);
        q += n * row_bytes;
        scale += n;
    }
    UNROLL_ALL
    for (int i = 0; i < R * T; i++)
        store_row(job, NULL, t + i % T, row + i / T, acc[i / T][i % T]);
}
#define STREAM(R)                                                                                  \
    static void stream_##R(const struct linear_chunks *job, const struct e4m3_tables *tables,      \
                           int32_t row)                                                            \
    {                                                                                              \
        int32_t t = job->tile_from;                                                                \
        for (; t + STREAM_TILES <= job->tile_to; t += STREAM_TILES)                                \
            stream_e4m3(job, tables, t, row, STREAM_TILES, R);                                     \
        for (; t < job->tile_to; t++)                                                              \
            stream_e4m3(job, tables, t, row, 1, R);                                                \
    }
STREAM(1)
STREAM(2)
STREAM(3)
STREAM(4)

/* ---- many rows --------------------------------------------------------------------------------
 */

/* One chunk of T tiles as operands, and of one block of rows. */
struct block_chunk {
    const float *w;      /* step s of line k of tile t at [(t * TILE_LINES + k * STEPS + s) * 16] */
    const float *params; /* [T][LAYOUT_SUBS_MAX][16] */
    const int8_t *q;     /* row r at q + r * 8 * lines */
    const float *scale;  /* of the rows */
    int32_t lines, sub_lines;
};

/* The end of a chunk of one sub. Here and below gcc 12 would load all sums first, and spill. */
INLINE void end_chunk(const struct block_chunk *k, int32_t row, __m512 dot[BLOCK_X][TILES],
                      float *sums, int T, int R)
{
    UNROLL_ALL
    for (int i = 0; i < R * T; i++) {
        float *to = sums + i * LINEAR_TILE_ROWS;
        const __m512 scales =
            _mm512_load_ps(k->params + i % T * LAYOUT_SUBS_MAX * LINEAR_TILE_ROWS);
        _mm512_store_ps(to,
                        _mm512_fmadd_ps(_mm512_mul_ps(dot[i / T][i % T], scales),
                                        _mm512_set1_ps(k->scale[row + i / T]), _mm512_load_ps(to)));
        __asm__ volatile("" ::: "memory");
    }
}
/* sums[r][t] += chunk of T tiles times R rows; sums: [R][T][16]. one: the chunk is one sub, as all
 * are that more than MULTI_TILES at a time are taken of. */
INLINE void block_dots(const struct block_chunk *k, int32_t row, float *sums, bool one, int T,
                       int R)
{
    const int64_t row_bytes = 8 * (int64_t)k->lines;
    const int8_t *q = k->q + row * row_bytes;
    __m512 inner[BLOCK_X][TILES];
    UNROLL_ALL
    for (int i = 0; i < R * T; i++)
        inner[i / T][i % T] = _mm512_setzero_ps();
    for (int32_t first = 0, sub = 0; first < k->lines; first += k->sub_lines, sub++) {
        const int32_t end = k->lines - first < k->sub_lines ? k->lines : first + k->sub_lines;
        __m512 dot[BLOCK_X][TILES];
        UNROLL_ALL
        for (int i = 0; i < R * T; i++)
            dot[i / T][i % T] = _mm512_setzero_ps();
        for (int32_t line = first; line < end; line++) {
            UNROLL
            for (int s = 0; s < STEPS; s++) {
                __m512 w[TILES];
                UNROLL
                for (int t = 0; t < T; t++)
                    w[t] = _mm512_load_ps(k->w +
                                          (t * TILE_LINES + line * STEPS + s) * LINEAR_TILE_ROWS);
                UNROLL
                for (int r = 0; r < R; r++) {
                    const __m512 x = input(q + r * row_bytes + 8 * line, s);
                    UNROLL
                    for (int t = 0; t < T; t++)
                        dot[r][t] = multiply(w[t], x, dot[r][t]);
                }
            }
        }
        /* A fresh name for each sum: else gcc 12 keeps a second copy of it in memory, inside the
         * loop. */
        UNROLL_ALL
        for (int i = 0; i < R * T; i++)
            __asm__("" : "+v"(dot[i / T][i % T]));
        if (one) {
            end_chunk(k, row, dot, sums, T, R);
            return;
        }
        UNROLL_ALL
        for (int i = 0; i < R * T; i++)
            inner[i / T][i % T] = _mm512_fmadd_ps(
                dot[i / T][i % T],
                _mm512_load_ps(k->params + (i % T * LAYOUT_SUBS_MAX + sub) * LINEAR_TILE_ROWS),
                inner[i / T][i % T]);
    }
    UNROLL_ALL
    for (int i = 0; i < R * T; i++) {
        float *to = sums + i * LINEAR_TILE_ROWS;
        _mm512_store_ps(to,
                        _mm512_fmadd_ps(inner[i / T][i % T], _mm512_set1_ps(k->scale[row + i / T]),
                                        _mm512_load_ps(to)));
    }
}
typedef void dots_fn(const struct block_chunk *k, int32_t row, float *sums);
#define DOTS(T, R)                                                                                 \
    static void dots_##T##_##R(const struct block_chunk *k, int32_t row, float *sums)              \
    {                                                                                              \
        block_dots(k, row, sums, T > MULTI_TILES, T, R);                                           \
    }
#define DOTS_ALL(T)                                                                                \
    DOTS(T, 1)                                                                                     \
    DOTS(T, 2)                                                                                     \
    DOTS(T, 3)                                                                                     \
    DOTS(T, 4)                                                                                     \
    DOTS(T, 5)                                                                                     \
    DOTS(T, 6)
#define DOTS_LIST(T)                                                                               \
    dots_##T##_1, dots_##T##_2, dots_##T##_3, dots_##T##_4, dots_##T##_5, dots_##T##_6
DOTS_ALL(1)
DOTS_ALL(2)
#ifdef __AVX512BF16__
DOTS_ALL(4)
static dots_fn *const dots_of[][BLOCK_X] = {
    { DOTS_LIST(1) }, { DOTS_LIST(2) }, { DOTS_LIST(4) } /* 1, 2, 4 tiles */
};
#else
static dots_fn *const dots_of[][BLOCK_X] = { { DOTS_LIST(1) }, { DOTS_LIST(2) } };
#endif

/* A chunk of n tiles to operands and scales; fetches what comes next. */
INLINE void widen_chunk(const struct linear_chunks *job, const struct e4m3_tables *tables,
                        const uint8_t *chunk, ptrdiff_t ahead, int32_t n_tiles, int32_t lines,
                        float *w, float *params)
{
    const struct layout_chunks *at = &job->at;
    const int32_t subs = (lines * 4 - 1) / at->sub + 1;
    for (int32_t t = 0; t < n_tiles; t++, chunk += at->tile_bytes) {
        const uint8_t *codes = chunk + at->codes_at;
        const __m512 shared = at->scales == LAYOUT_SCALES_I8 ? load_halves(chunk + at->shared_at)
                                                             : _mm512_setzero_ps();
        for (size_t b = 0; b < at->codes_at; b += LINE)
            _mm_prefetch((const char *)chunk + b + ahead, _MM_HINT_T1);
        for (int32_t s = 0; s < subs; s++)
            _mm512_store_ps(params + (t * LAYOUT_SUBS_MAX + s) * LINEAR_TILE_ROWS,
                            load_values(at->scales, chunk, s, shared));
        for (int32_t k = 0; k < lines; k++) {
            __m512 out[STEPS];
            widen(tables, codes + k * LINE, out);
            _mm_prefetch((const char *)codes + k * LINE + ahead, _MM_HINT_T1);
            UNROLL
            for (int s = 0; s < STEPS; s++)
                _mm512_store_ps(w + (t * TILE_LINES + k * STEPS + s) * LINEAR_TILE_ROWS, out[s]);
        }
    }
}

/* 1, 2 or 4 tiles times one block of rows. */
static void block_pass(const struct linear_chunks *job, const struct e4m3_tables *tables, int32_t t,
                       int32_t n_tiles, int32_t block)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *tile = linear_chunks_tile(job, t);
    const uint8_t *chunk = tile + LINEAR_TILE_ROWS * sizeof(float);
    const int32_t n = linear_block_rows(x, block);
    float *w = job->scratch;
    float *sums = w + TILES * TILE_LINES * LINEAR_TILE_ROWS;
    float *params = sums + LINEAR_BLOCK_ROWS * TILES * LINEAR_TILE_ROWS;
    dots_fn *const *dots = dots_of[n_tiles / 2];
    memset(sums, 0, (size_t)(n * n_tiles * LINEAR_TILE_ROWS) * sizeof *sums);
    struct block_chunk k = { .w = w,
                             .params = params,
                             .q = linear_block_q(x, block),
                             .scale = x->scale + linear_block_at(x, block),
                             .sub_lines = job->at.sub / 4 };
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += job->at.chunk_bytes) {
        k.lines = 2 * x->octs[c];
        widen_chunk(job, tables, chunk, fetch_ahead(chunk, tile, job->at.tile_bytes, n_tiles),
                    n_tiles, k.lines, w, params);
        /* Six rows or fewer at a time, as evenly as it goes: 16 = 6 + 5 + 5. */
        int32_t row = 0;
        for (int32_t passes = (n + BLOCK_X - 1) / BLOCK_X; passes; passes--) {
            const int32_t now = (n - row + passes - 1) / passes;
            dots[now - 1](&k, row, sums + row * n_tiles * LINEAR_TILE_ROWS);
            row += now;
        }
        k.q += n * 8 * k.lines;
        k.scale += n;
    }
    for (int32_t r = 0; r < n; r++)
        for (int32_t i = 0; i < n_tiles; i++)
            store_row(job, NULL, t + i, block * LINEAR_BLOCK_ROWS + r,
                      _mm512_load_ps(sums + (r * n_tiles + i) * LINEAR_TILE_ROWS));
}

static void products(const struct linear_chunks *job)
{
    static void (*const streams[])(const struct linear_chunks *, const struct e4m3_tables *,
                                   int32_t) = { stream_1, stream_2, stream_3, stream_4 };
    const struct e4m3_tables tables = make_tables();
    if (job->x.n_rows <= STREAM_ROWS) {
        streams[job->x.n_rows - 1](job, &tables, 0);
        return;
    }
    int32_t n_tiles = job->at.n_subs == 1 ? TILES : MULTI_TILES;
    for (int32_t t = job->tile_from; t < job->tile_to; t += n_tiles) {
        while (n_tiles > job->tile_to - t)
            n_tiles /= 2;
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++)
            block_pass(job, &tables, t, n_tiles, block);
    }
}
