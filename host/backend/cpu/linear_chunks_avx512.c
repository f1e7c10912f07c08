/* linear_chunks_avx512.c - products with CHUNKS_C16 for AVX-512 with VNNI; bits as in
 * linear_chunks_portable.c.
 *
 * Chosen by linear.c; compiled with AVX-512 flags, so nothing here may run before the CPUID check.
 *
 * Few rows stream (linear_chunks_avx512.h). For more, a chunk of up to four tiles is unpacked to
 * bytes in scratch (8 KB, stays in L1) and multiplied from there, up to 24 int32 sums in registers.
 */
#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include "host/backend/cpu/linear_chunks_avx512.h"

enum {
    STREAM_ROWS = 8, /* from 9 on unpacking once wins (bench_formats, Zen 4) */
    MULTI_TILES = 2, /* of chunks of several subs: 12 sums of the sub, 12 of the chunk */
    BLOCK_X = 6,     /* 4 x 6 sums, 4 weights and a broadcast: 29 of 32 registers */
    TILE_PARAMS = LAYOUT_SUBS_MAX * 2 * LINEAR_TILE_ROWS, /* floats */
};
static_assert(LINEAR_BLOCK_TILES * UNPACKED_BYTES +
                      LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TILES * LINEAR_TILE_ROWS * 4 +
                      LINEAR_BLOCK_TILES * TILE_PARAMS * 4 <=
                  LINEAR_THREAD_BYTES,
              "scratch of a thread");

/* ---- codes to bytes ---------------------------------------------------------------------------
 */

/* Eight operands of one unit. */
INLINE void unit_operands(const uint8_t *unit, int bits, __m512i out[UNIT_LINES])
{
    half_codes(unit, 0, bits, out);
    half_codes(unit, 1, bits, out + HALF_LINES);
}

/* Codes of one chunk of a tile as bytes, plane after plane, UNPACKED_BYTES * stride apart. */
#define UNPACK(bits)                                                                               \
    static void unpack_##bits(const uint8_t *codes, int32_t units, const struct layout_lut *lut,   \
                              uint8_t *out, size_t plane_bytes)                                    \
    {                                                                                              \
        (void)lut;                                                                                 \
        (void)plane_bytes;                                                                         \
        for (int32_t u = 0; u < units; u++, codes += bits * LINE, out += UNIT_LINES * LINE) {      \
            __m512i ops[UNIT_LINES];                                                               \
            unit_operands(codes, bits, ops);                                                       \
            UNROLL                                                                                 \
            for (int k = 0; k < UNIT_LINES; k++)                                                   \
                _mm512_store_si512(out + k * LINE, ops[k]);                                        \
        }                                                                                          \
    }
UNPACK(2)
UNPACK(3)
UNPACK(4)
UNPACK(5)
UNPACK(6)

static void unpack_table16(const uint8_t *codes, int32_t units, const struct layout_lut *lut,
                           uint8_t *out, size_t plane_bytes)
{
    for (int32_t u = 0; u < units; u++, codes += 4 * LINE, out += UNIT_LINES * LINE) {
        __m512i ops[UNIT_LINES];
        unit_operands(codes, 4, ops);
        for (int32_t p = 0; p < lut->planes; p++) {
            const __m512i table = _mm512_broadcast_i32x4(
                _mm_loadu_si128((const __m128i *)(const void *)lut->plane[p]));
            UNROLL
            for (int k = 0; k < UNIT_LINES; k++)
                _mm512_store_si512(out + (size_t)p * plane_bytes + k * LINE,
                                   _mm512_shuffle_epi8(table, ops[k]));
        }
    }
}

static unpack_fn *unpack_of(const struct linear_chunks *job)
{
    static unpack_fn *const by_bits[] = {
        [2] = unpack_2, [3] = unpack_3, [4] = unpack_4, [5] = unpack_5, [6] = unpack_6, [8] = NULL
    };
    if (!job->table)
        return by_bits[job->at.code_bits];
    return unpack_table16;
}

/* ---- parameters -------------------------------------------------------------------------------
 */

/* params[s][0] = scales, [s][1] = -offsets, 16 floats each. */
static void load_params(const struct layout_chunks *t, const uint8_t *chunk, int32_t n_subs,
                        float *params)
{
    const bool i8 = t->scales == LAYOUT_SCALES_I8;
    const __m512 shared = i8 ? load_halves(chunk + t->shared_at) : _mm512_setzero_ps();
    for (int32_t s = 0; s < n_subs; s++)
        _mm512_store_ps(params + s * 2 * LINEAR_TILE_ROWS,
                        load_values(t->scales, chunk, s, shared));
    for (int32_t s = 0; s < n_subs && (t->zeros || t->mins); s++)
        _mm512_store_ps(params + (s * 2 + 1) * LINEAR_TILE_ROWS, load_minus_offset(t, chunk, s));
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* One chunk of T tiles as P planes of bytes, and of one block of rows. */
struct chunk_bytes {
    const uint8_t *bytes; /* plane p of tile t at bytes + t * stride + p * plane_bytes */
    size_t stride, plane_bytes;
    const float *params; /* [T][LAYOUT_SUBS_MAX][2][16] */
    const int8_t *q;     /* row r at q + r * 4 * quads */
    const float *scale;  /* of the rows */
    const int32_t *sum;  /* of sub s and row r at [s * n_rows + r] */
    const float *fine;   /* sub_scale, likewise; or NULL */
    int32_t n_rows, quads, sub_quads;
    int32_t zero; /* layout_lut */
    bool zeros, mins;
};

/* After one sub: inner[r][t]; or sums, [R][T][16], where one sub is the chunk. */
struct sub_ends {
    __m512 inner[BLOCK_X][LINEAR_BLOCK_TILES];
    float *sums;
};
INLINE void sub_floats(const struct chunk_bytes *k, int32_t sub, int32_t row, const float *fine,
                       __m512i dot[LAYOUT_PLANES_MAX][BLOCK_X][LINEAR_BLOCK_TILES],
                       struct sub_ends *ends, bool one, bool zeros, bool mins, int P, int T, int R)
{
    const int32_t *sum = k->sum + sub * k->n_rows + row;
    UNROLL
    for (int t = 0; t < T; t++) {
        const float *params = k->params + t * TILE_PARAMS + sub * 2 * LINEAR_TILE_ROWS;
        const __m512 scale = _mm512_load_ps(params);
        const __m512 offset = _mm512_load_ps(params + LINEAR_TILE_ROWS);
        UNROLL
        for (int r = 0; r < R; r++) {
            __m512i whole = dot[0][r][t];
            if (P > 1)
                whole = _mm512_add_epi32(whole, _mm512_slli_epi32(dot[1][r][t], 8));
            __m512 f = _mm512_cvtepi32_ps(whole);
            if (zeros)
                f = _mm512_fmadd_ps(offset, _mm512_cvtepi32_ps(_mm512_set1_epi32(sum[r])), f);
            if (fine)
                f = _mm512_mul_ps(f, _mm512_set1_ps(fine[r]));
            __m512 in = _mm512_fmadd_ps(f, scale, one ? _mm512_setzero_ps() : ends->inner[r][t]);
            if (mins)
                in = _mm512_fmadd_ps(offset, _mm512_cvtepi32_ps(_mm512_set1_epi32(sum[r])), in);
            if (!one) {
                ends->inner[r][t] = in;
                continue;
            }
            float *to = ends->sums + (r * T + t) * LINEAR_TILE_ROWS;
            _mm512_store_ps(
                to, _mm512_fmadd_ps(in, _mm512_set1_ps(k->scale[row + r]), _mm512_load_ps(to)));
            __asm__ volatile("" ::: "memory"); /* gcc 12 would load all sums first, and spill */
        }
    }
}
INLINE void sub_forms(const struct chunk_bytes *k, int32_t sub, int32_t row,
                      __m512i dot[LAYOUT_PLANES_MAX][BLOCK_X][LINEAR_BLOCK_TILES],
                      struct sub_ends *ends, bool one, int P, int T, int R)
{
    if (k->zeros)
        sub_floats(k, sub, row, NULL, dot, ends, one, true, false, P, T, R);
    else if (k->mins)
        sub_floats(k, sub, row, NULL, dot, ends, one, false, true, P, T, R);
    else if (k->fine)
        sub_floats(k, sub, row, k->fine + sub * k->n_rows + row, dot, ends, one, false, false, P, T,
                   R);
    else
        sub_floats(k, sub, row, NULL, dot, ends, one, false, false, P, T, R);
}

/* sums[r][t] += chunk of T tiles times R rows. one: the chunk is one sub, as all are that four
 * tiles at a time are taken of. */
INLINE void chunk_dots(const struct chunk_bytes *k, int32_t row, float *sums, bool one, int P,
                       int T, int R)
{
    const int64_t q_stride = 4 * (int64_t)k->quads;
    const int8_t *q = k->q + row * q_stride;
    struct sub_ends ends = { .sums = sums };
    UNROLL
    for (int r = 0; r < R; r++) {
        UNROLL
        for (int t = 0; t < T; t++)
            ends.inner[r][t] = _mm512_setzero_ps();
    }
    for (int32_t from = 0, sub = 0; from < k->quads; from += k->sub_quads, sub++) {
        const int32_t *sum = k->sum + sub * k->n_rows + row;
        const int32_t to = k->quads - from < k->sub_quads ? k->quads : from + k->sub_quads;
        __m512i dot[LAYOUT_PLANES_MAX][BLOCK_X][LINEAR_BLOCK_TILES];
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m512i start = _mm512_set1_epi32(-k->zero * sum[r]);
            UNROLL
            for (int t = 0; t < T; t++) {
                UNROLL
                for (int p = 0; p < P; p++)
                    dot[p][r][t] = p == 0 ? start : _mm512_setzero_si512();
            }
        }
        for (int32_t i = from; i < to; i++) {
            __m512i w[LAYOUT_PLANES_MAX][LINEAR_BLOCK_TILES];
            UNROLL
            for (int t = 0; t < T; t++) {
                UNROLL
                for (int p = 0; p < P; p++)
                    w[p][t] = _mm512_load_si512(k->bytes + (size_t)t * k->stride +
                                                (size_t)p * k->plane_bytes + (size_t)i * LINE);
            }
            UNROLL
            for (int r = 0; r < R; r++) {
                const __m512i four = broadcast4(q + r * q_stride + 4 * i);
                UNROLL
                for (int t = 0; t < T; t++) {
                    UNROLL
                    for (int p = 0; p < P; p++)
                        dot[p][r][t] = _mm512_dpbusd_epi32(dot[p][r][t], w[p][t], four);
                }
            }
        }
        /* A fresh name for each sum: else gcc 12 keeps a second copy of it in memory, inside the
         * loop. */
        UNROLL
        for (int r = 0; r < R; r++) {
            UNROLL
            for (int t = 0; t < T; t++) {
                UNROLL
                for (int p = 0; p < P; p++)
                    __asm__("" : "+v"(dot[p][r][t]));
            }
        }
        sub_forms(k, sub, row, dot, &ends, one, P, T, R);
        if (one)
            return;
    }
    UNROLL
    for (int r = 0; r < R; r++) {
        const __m512 scale = _mm512_set1_ps(k->scale[row + r]);
        UNROLL
        for (int t = 0; t < T; t++) {
            float *to = sums + (r * T + t) * LINEAR_TILE_ROWS;
            _mm512_store_ps(to, _mm512_fmadd_ps(ends.inner[r][t], scale, _mm512_load_ps(to)));
        }
    }
}
typedef void dots_fn(const struct chunk_bytes *k, int32_t row, float *sums);
#define DOTS(P, T, R)                                                                              \
    static void dots_##P##_##T##_##R(const struct chunk_bytes *k, int32_t row, float *sums)        \
    {                                                                                              \
        chunk_dots(k, row, sums, T == LINEAR_BLOCK_TILES, P, T, R);                                \
    }
#define DOTS_ALL(P, T)                                                                             \
    DOTS(P, T, 1)                                                                                  \
    DOTS(P, T, 2)                                                                                  \
    DOTS(P, T, 3)                                                                                  \
    DOTS(P, T, 4)                                                                                  \
    DOTS(P, T, 5)                                                                                  \
    DOTS(P, T, 6)
DOTS_ALL(1, 1)
DOTS_ALL(1, 2)
DOTS_ALL(1, 4)
DOTS_ALL(2, 1)
DOTS_ALL(2, 2)
#define DOTS_LIST(P, T)                                                                            \
    {                                                                                              \
        dots_##P##_##T##_1, dots_##P##_##T##_2, dots_##P##_##T##_3, dots_##P##_##T##_4,            \
            dots_##P##_##T##_5, dots_##P##_##T##_6                                                 \
    }
static dots_fn *const dots_of[][3][BLOCK_X] = {
    { DOTS_LIST(1, 1), DOTS_LIST(1, 2), DOTS_LIST(1, 4) }, /* 1, 2, 4 tiles */
    { DOTS_LIST(2, 1), DOTS_LIST(2, 2) },
};

/* Where a chunk's bytes are: unpacked to scratch, or in place at 8 bits. */
static void place_bytes(const struct linear_chunks *job, unpack_fn *unpack, const uint8_t *chunk,
                        int32_t units, int32_t n_tiles, struct chunk_bytes *k)
{
    uint8_t *scratch = job->scratch;
    const size_t stride = job->at.tile_bytes;
    k->bytes = scratch;
    k->plane_bytes = UNPACKED_BYTES;
    k->stride = (size_t)job->lut.planes * UNPACKED_BYTES;
    if (unpack == NULL) {
        k->bytes = chunk + job->at.codes_at;
        k->stride = stride;
        return;
    }
    for (int32_t i = 0; i < n_tiles; i++)
        unpack(chunk + (size_t)i * stride + job->at.codes_at, units, &job->lut,
               scratch + (size_t)i * k->stride, UNPACKED_BYTES);
}

/* What comes AHEAD_BYTES later in each tile, into L1 for one row and L2 for many. */
INLINE void fetch(const struct linear_chunks *job, const uint8_t *chunk, const uint8_t *tile,
                  int32_t n_tiles)
{
    const ptrdiff_t ahead = fetch_ahead(chunk, tile, job->at.tile_bytes, n_tiles);
    for (int32_t i = 0; i < n_tiles; i++) {
        const char *at = (const char *)chunk + (size_t)i * job->at.tile_bytes + ahead;
        for (size_t b = 0; b < job->at.chunk_bytes; b += LINE)
            _mm_prefetch(at + b, _MM_HINT_T0);
    }
}

/* 1, 2 or 4 tiles times one block of rows. */
static void block_pass(const struct linear_chunks *job, unpack_fn *unpack, int32_t t,
                       int32_t n_tiles, int32_t block)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *tile = linear_chunks_tile(job, t);
    const uint8_t *chunk = tile + LINEAR_TILE_ROWS * sizeof(float);
    const int32_t n = linear_block_rows(x, block);
    float *sums = (float *)(void *)((uint8_t *)job->scratch + LINEAR_BLOCK_TILES * UNPACKED_BYTES);
    float *params = sums + LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TILES * LINEAR_TILE_ROWS;
    dots_fn *const *dots = dots_of[job->lut.planes - 1][n_tiles / 2];
    memset(sums, 0, (size_t)(n * n_tiles * LINEAR_TILE_ROWS) * sizeof *sums);
    struct chunk_bytes k = { .params = params,
                             .q = linear_block_q(x, block),
                             .scale = x->scale + linear_block_at(x, block),
                             .sum = x->sub_sum + linear_block_at(x, block) * x->n_subs,
                             .n_rows = n,
                             .sub_quads = job->at.sub / 4,
                             .zero = job->lut.zero,
                             .zeros = job->at.zeros,
                             .mins = job->at.mins,
                             .fine = x->sub_scale };
    if (k.fine)
        k.fine += linear_block_at(x, block) * x->n_subs;
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += job->at.chunk_bytes) {
        k.quads = 2 * x->octs[c];
        fetch(job, chunk, tile, n_tiles);
        place_bytes(job, unpack, chunk, k.quads / UNIT_LINES, n_tiles, &k);
        const int32_t subs = (k.quads - 1) / k.sub_quads + 1;
        for (int32_t i = 0; i < n_tiles; i++)
            load_params(&job->at, chunk + (size_t)i * job->at.tile_bytes, subs,
                        params + i * TILE_PARAMS);
        /* Six rows or fewer at a time, as evenly as it goes: 16 = 6 + 5 + 5. */
        int32_t row = 0;
        for (int32_t passes = (n + BLOCK_X - 1) / BLOCK_X; passes; passes--) {
            const int32_t now = (n - row + passes - 1) / passes;
            dots[now - 1](&k, row, sums + row * n_tiles * LINEAR_TILE_ROWS);
            row += now;
        }
        k.q += n * 4 * k.quads;
        k.scale += n;
        k.sum += n * x->n_subs;
        k.fine = k.fine ? k.fine + n * x->n_subs : NULL;
    }
    for (int32_t r = 0; r < n; r++)
        for (int32_t i = 0; i < n_tiles; i++)
            store_row(job, &job->lut.step, t + i, block * LINEAR_BLOCK_ROWS + r,
                      _mm512_load_ps(sums + (r * n_tiles + i) * LINEAR_TILE_ROWS));
}

/* ---- few rows ---------------------------------------------------------------------------------
 */

CHUNKS_STREAM_ALL(stream_2, 2, false, 1)
CHUNKS_STREAM_ALL(stream_3, 3, false, 1)
CHUNKS_STREAM_ALL(stream_4, 4, false, 1)
CHUNKS_STREAM_ALL(stream_5, 5, false, 1)
CHUNKS_STREAM_ALL(stream_6, 6, false, 1)
CHUNKS_STREAM_ALL(stream_8, 8, false, 1)
CHUNKS_STREAM_ALL(stream_table_1, 4, true, 1)
CHUNKS_STREAM_ALL(stream_table_2, 4, true, 2)
static chunks_stream_fn *const streams[9][CHUNKS_STREAM_ROWS] = {
    [2] = CHUNKS_STREAM_LIST(stream_2), [3] = CHUNKS_STREAM_LIST(stream_3),
    [4] = CHUNKS_STREAM_LIST(stream_4), [5] = CHUNKS_STREAM_LIST(stream_5),
    [6] = CHUNKS_STREAM_LIST(stream_6), [8] = CHUNKS_STREAM_LIST(stream_8),
};
static chunks_stream_fn *const table_streams[2][CHUNKS_STREAM_ROWS] = {
    CHUNKS_STREAM_LIST(stream_table_1), CHUNKS_STREAM_LIST(stream_table_2)
};

/* A tile of 4 bits is 18 KB for 2048 inputs: passes after the first find it in L1. */
static void stream(const struct linear_chunks *job)
{
    chunks_stream_fn *const *kernels = streams[job->at.code_bits];
    if (job->table)
        kernels = table_streams[job->lut.planes - 1];
    for (int32_t t = job->tile_from; t < job->tile_to; t++) {
        int32_t row = 0, n = job->x.n_rows;
        for (int32_t passes = (n - 1) / CHUNKS_STREAM_ROWS + 1; passes; passes--) {
            const int32_t now = (n - row + passes - 1) / passes;
            kernels[now - 1](job, t, row);
            row += now;
        }
    }
}

void linear_chunks_avx512(const struct linear_chunks *job)
{
    unpack_fn *unpack = unpack_of(job);
    if (job->x.n_rows <= STREAM_ROWS) {
        stream(job);
        return;
    }
    int32_t n_tiles = LINEAR_BLOCK_TILES / job->lut.planes;
    if (job->at.n_subs > 1 && n_tiles > MULTI_TILES)
        n_tiles = MULTI_TILES;
    for (int32_t t = job->tile_from; t < job->tile_to; t += n_tiles) {
        while (n_tiles > job->tile_to - t)
            n_tiles /= 2;
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++)
            block_pass(job, unpack, t, n_tiles, block);
    }
}
