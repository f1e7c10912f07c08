/* linear_chunks_avx512.h - what the AVX-512 kernels of CHUNKS_C16 share: operands out of packed
 * codes, parameters, and the products of few rows. Included by linear_chunks_avx512.c and (for
 * parameters and the end of a row) linear_e4m3_avx512.h.
 *
 * Few rows (up to CHUNKS_STREAM_ROWS): each line of codes is loaded once, split in registers and
 * multiplied with every row. By way of scratch the loads come in bursts, and one row took twice the
 * time: waiting, then computing. */
#pragma once
#include <string.h>
#include "host/backend/cpu/linear_avx512.h"

enum {
    UNIT_LINES = LAYOUT_UNIT / 4,
    HALF_LINES = UNIT_LINES / 2,
    CHUNKS_STREAM_ROWS = 4, /* of a pass */
};
typedef void chunks_stream_fn(const struct linear_chunks *job, int32_t t, int32_t row);
typedef void unpack_fn(const uint8_t *codes, int32_t units, const struct layout_lut *lut,
                       uint8_t *out, size_t plane_bytes);

/* ---- operands ---------------------------------------------------------------------------------
 */

struct tables {
    __m512i part[LAYOUT_PLANES_MAX]; /* 16 entries four times over */
};
INLINE void load_tables(const struct layout_lut *lut, int P, struct tables *tables)
{
    UNROLL
    for (int p = 0; p < P; p++)
        tables->part[p] =
            _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)lut->plane[p]));
}

/* Compilers differ in whether the count of a shift is signed. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
/* (line moved so that bit `from` comes to `to`) & mask, or'ed to out. */
INLINE __m512i or_moved(__m512i out, __m512i line, int from, int to, int mask)
{
    const __m512i moved =
        from <= to ? _mm512_slli_epi16(line, to - from) : _mm512_srli_epi16(line, from - to);
    return _mm512_ternarylogic_epi32(out, moved, _mm512_set1_epi8((char)mask), 0xf8);
}
/* Operands 4 half .. 4 half + 3 of a unit: codes. */
INLINE void half_codes(const uint8_t *unit, int half, int bits, __m512i out[HALF_LINES])
{
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(3);
    UNROLL
    for (int j = 0; j < HALF_LINES; j++) {
        const int k = half * HALF_LINES + j;
        if (bits == 8)
            out[j] = _mm512_load_si512(unit + k * LINE);
        else if (bits <= 3)
            out[j] = _mm512_and_si512(
                _mm512_srli_epi16(_mm512_load_si512(unit + half * LINE), 2 * j), two);
        else
            out[j] = _mm512_and_si512(
                _mm512_srli_epi16(_mm512_load_si512(unit + k / 2 * LINE), 4 * (k % 2)), low);
        if (bits == 6)
            out[j] = or_moved(out[j], _mm512_load_si512(unit + (4 + half) * LINE), 2 * j, 4, 0x30);
        if (bits == 5)
            out[j] = or_moved(out[j], _mm512_load_si512(unit + 4 * LINE), k, 4, 0x10);
        if (bits == 3)
            out[j] = or_moved(out[j], _mm512_load_si512(unit + 2 * LINE), k, 2, 0x04);
    }
}
#pragma GCC diagnostic pop

/* ---- parameters -------------------------------------------------------------------------------
 */

INLINE __m512 load_values(enum layout_scales form, const uint8_t *area, int32_t s, __m512 shared)
{
    const uint8_t *at = area + s * LINEAR_TILE_ROWS; /* of bytes */
    switch (form) {
    case LAYOUT_SCALES_F16:
        return _mm512_cvtph_ps(
            _mm256_loadu_si256((const __m256i *)(const void *)(area + s * LINEAR_TILE_ROWS * 2)));
    case LAYOUT_SCALES_F32:
        return _mm512_loadu_ps(area + s * LINEAR_TILE_ROWS * 4);
    case LAYOUT_SCALES_I8:
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
                                 _mm_loadu_si128((const __m128i *)(const void *)at))),
                             shared);
    case LAYOUT_SCALES_E8:
        break;
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at)), 23));
}
INLINE __m512 load_halves(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

/* -zero or -min of one sub. */
INLINE __m512 load_minus_offset(const struct layout_chunks *t, const uint8_t *chunk, int32_t s)
{
    enum layout_scales form = t->scales;
    if (form == LAYOUT_SCALES_E8 || (form == LAYOUT_SCALES_I8 && t->zeros))
        form = LAYOUT_SCALES_F16;
    const __m512 sign = _mm512_set1_ps(-0.0f);
    const __m512 shared = form == LAYOUT_SCALES_I8 ? load_halves(chunk + t->shared_at + 32) : sign;
    return _mm512_xor_ps(load_values(form, chunk + t->offsets_at, s, shared), sign);
}

/* ---- few rows ---------------------------------------------------------------------------------
 */

INLINE __m512i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* step: NULL for 1. */
INLINE void store_row(const struct linear_chunks *job, const float *step, int32_t t, int32_t r,
                      __m512 acc)
{
    const int32_t first = t * LINEAR_TILE_ROWS;
    const __mmask16 mask = lanes(job->n_out - first);
    __m512 y = _mm512_mul_ps(acc, _mm512_load_ps((const void *)linear_chunks_tile(job, t)));
    if (step)
        y = _mm512_mul_ps(y, _mm512_set1_ps(*step));
    float *to = linear_chunks_y(job, r) + first;
    if (linear_chunks_adds(job, r))
        y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), y);
    else if (job->bias)
        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job->bias + first));
    _mm512_mask_storeu_ps(to, mask, y);
}

/* R rows of one sub: dots, then floats. Two sums a row where there are few. */
struct stream {
    __m512i dot[LAYOUT_PLANES_MAX][CHUNKS_STREAM_ROWS][2];
    __m512 inner[CHUNKS_STREAM_ROWS], acc[CHUNKS_STREAM_ROWS];
};
INLINE void stream_start(struct stream *s, int P, int R)
{
    UNROLL
    for (int r = 0; r < R; r++) {
        UNROLL
        for (int p = 0; p < P; p++)
            s->dot[p][r][0] = s->dot[p][r][1] = _mm512_setzero_si512();
    }
}
INLINE void stream_sub(const struct linear_chunks *job, const uint8_t *chunk, int32_t sub,
                       const int32_t *sum, const float *fine, struct stream *s, int P, int R)
{
    const struct layout_chunks *t = &job->at;
    const bool i8 = t->scales == LAYOUT_SCALES_I8;
    const __m512 shared = i8 ? load_halves(chunk + t->shared_at) : _mm512_setzero_ps();
    const __m512 scale = load_values(t->scales, chunk, sub, shared);
    UNROLL
    for (int r = 0; r < R; r++) {
        __m512i dot[LAYOUT_PLANES_MAX];
        UNROLL
        for (int p = 0; p < P; p++)
            dot[p] = R == 1 ? _mm512_add_epi32(s->dot[p][r][0], s->dot[p][r][1]) : s->dot[p][r][0];
        dot[0] = _mm512_sub_epi32(dot[0], _mm512_set1_epi32(job->lut.zero * sum[r]));
        if (P > 1)
            dot[0] = _mm512_add_epi32(dot[0], _mm512_slli_epi32(dot[1], 8));
        __m512 f = _mm512_cvtepi32_ps(dot[0]);
        if (t->zeros)
            f = _mm512_fmadd_ps(load_minus_offset(t, chunk, sub), _mm512_set1_ps((float)sum[r]), f);
        if (fine)
            f = _mm512_mul_ps(f, _mm512_set1_ps(fine[r]));
        s->inner[r] = _mm512_fmadd_ps(f, scale, s->inner[r]);
        if (t->mins)
            s->inner[r] = _mm512_fmadd_ps(load_minus_offset(t, chunk, sub),
                                          _mm512_set1_ps((float)sum[r]), s->inner[r]);
    }
    stream_start(s, P, R);
}
/* One tile times R rows from `row` of the one block. */
INLINE void stream_tile(const struct linear_chunks *job, int32_t t, int32_t row, int bits,
                        bool table, int P, int R)
{
    const struct linear_quantized *x = &job->x;
    const struct layout_chunks *at = &job->at;
    const uint8_t *chunk = linear_chunks_tile(job, t) + LINEAR_TILE_ROWS * sizeof(float);
    const int8_t *q = x->q;
    const float *scale = x->scale + row;
    const float *fine = x->sub_scale ? x->sub_scale + row : NULL;
    const int32_t *sum = x->sub_sum + row, sub_halves = at->sub / 16, n = x->n_rows;
    struct tables tables;
    struct stream s;
    load_tables(&job->lut, P, &tables);
    UNROLL
    for (int r = 0; r < R; r++)
        s.acc[r] = _mm512_setzero_ps();
    stream_start(&s, P, R);
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += at->chunk_bytes) {
        const int32_t bytes = x->octs[c] * LAYOUT_OCT;
        const uint8_t *unit = chunk + at->codes_at;
        int32_t left = sub_halves, sub = 0;
        UNROLL
        for (int r = 0; r < R; r++)
            s.inner[r] = _mm512_setzero_ps();
        for (size_t b = 0; b < at->codes_at; b += LINE)
            _mm_prefetch((const char *)chunk + AHEAD_BYTES + b, _MM_HINT_T0);
        for (int32_t i = 0; i < bytes; i += LAYOUT_UNIT, unit += bits * LINE) {
            UNROLL
            for (int b = 0; b < bits; b++)
                _mm_prefetch((const char *)unit + AHEAD_BYTES + b * LINE, _MM_HINT_T0);
            UNROLL
            for (int half = 0; half < 2; half++) {
                __m512i codes[HALF_LINES];
                half_codes(unit, half, bits, codes);
                UNROLL
                for (int j = 0; j < HALF_LINES; j++) {
                    UNROLL
                    for (int p = 0; p < P; p++) {
                        const __m512i w =
                            table ? _mm512_shuffle_epi8(tables.part[p], codes[j]) : codes[j];
                        UNROLL
                        for (int r = 0; r < R; r++) {
                            __m512i *dot = &s.dot[p][r][R == 1 ? j % 2 : 0];
                            *dot = _mm512_dpbusd_epi32(
                                *dot, w, broadcast4(q + (row + r) * bytes + i + 16 * half + 4 * j));
                        }
                    }
                }
                if (--left == 0) {
                    stream_sub(job, chunk, sub, sum + sub * n, fine ? fine + sub * n : NULL, &s, P,
                               R);
                    left = sub_halves;
                    sub++;
                }
            }
        }
        if (left != sub_halves) /* a short last chunk ends inside a sub */
            stream_sub(job, chunk, sub, sum + sub * n, fine ? fine + sub * n : NULL, &s, P, R);
        UNROLL
        for (int r = 0; r < R; r++)
            s.acc[r] = _mm512_fmadd_ps(s.inner[r], _mm512_set1_ps(scale[r]), s.acc[r]);
        q += n * bytes;
        scale += n;
        sum += n * x->n_subs;
        fine = fine ? fine + n * x->n_subs : NULL;
    }
    UNROLL
    for (int r = 0; r < R; r++)
        store_row(job, &job->lut.step, t, row + r, s.acc[r]);
}
#define CHUNKS_STREAM(name, bits, table, P, R)                                                     \
    static void name##_##R(const struct linear_chunks *job, int32_t t, int32_t row)                \
    {                                                                                              \
        stream_tile(job, t, row, bits, table, P, R);                                               \
    }
#define CHUNKS_STREAM_ALL(name, bits, table, P)                                                    \
    CHUNKS_STREAM(name, bits, table, P, 1)                                                         \
    CHUNKS_STREAM(name, bits, table, P, 2)                                                         \
    CHUNKS_STREAM(name, bits, table, P, 3)                                                         \
    CHUNKS_STREAM(name, bits, table, P, 4)
#define CHUNKS_STREAM_LIST(name)                                                                   \
    {                                                                                              \
        name##_1, name##_2, name##_3, name##_4                                                     \
    }
