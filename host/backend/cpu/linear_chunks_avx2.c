/* linear_chunks_avx2.c - products with CHUNKS_C16 for AVX2, FMA and F16C; bits as in
 * linear_chunks_portable.c.
 *
 * Chosen by linear.c; compiled with AVX2 flags, so nothing here may run before the CPUID check.
 *
 * A chunk of a tile is unpacked to bytes in scratch and multiplied from there. Bytes over 15 are
 * multiplied as two nibbles, as in linear_avx2.c: eight pairs of 15 * 128 fit 16 bits. */
#include <immintrin.h>
#include <assert.h>
#include <string.h>
#include "host/backend/cpu/linear_kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

enum {
    BLOCK_X = 4,
    HALF = 8, /* output rows of a register */
    LINE = LAYOUT_ALIGN,
    HALF_LINE = LINE / 2,
    UNIT_LINES = LAYOUT_UNIT / 4,
    FLUSH_QUADS = 8, /* 8 pairs: the most that 16 bits hold */
    PLANE_BYTES = LINEAR_CHUNK * LINEAR_TILE_ROWS,
    AHEAD_BYTES = 2048,
};
static_assert(FLUSH_QUADS * 2 * 15 * 128 <= INT16_MAX, "sums of pairs fit 16 bits");
static_assert(LAYOUT_PLANES_MAX * PLANE_BYTES +
                      LINEAR_BLOCK_ROWS * LINEAR_TILE_ROWS * (int32_t)sizeof(float) <=
                  LINEAR_THREAD_BYTES,
              "scratch of a thread");

INLINE __m256i lanes(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE __m256i load_half(const uint8_t *at)
{
    return _mm256_load_si256((const __m256i *)(const void *)at);
}

/* ---- codes to bytes ---------------------------------------------------------------------------
 */

/* One half line (8 rows) of operand k of a unit. */
INLINE __m256i operand(const uint8_t *unit, int bits, int k)
{
    if (bits == 8)
        return load_half(unit + k * LINE);
    __m256i out;
    if (bits <= 3)
        out = _mm256_and_si256(_mm256_srli_epi16(load_half(unit + k / 4 * LINE), 2 * (k % 4)),
                               _mm256_set1_epi8(3));
    else
        out = _mm256_and_si256(_mm256_srli_epi16(load_half(unit + k / 2 * LINE), 4 * (k % 2)),
                               _mm256_set1_epi8(15));
    if (bits == 6) {
        const __m256i two =
            _mm256_and_si256(_mm256_srli_epi16(load_half(unit + (4 + k / 4) * LINE), 2 * (k % 4)),
                             _mm256_set1_epi8(3));
        out = _mm256_or_si256(out, _mm256_slli_epi16(two, 4));
    }
    if (bits == 5 || bits == 3) {
        const int to = bits == 5 ? 4 : 2;
        const __m256i one =
            _mm256_and_si256(_mm256_srli_epi16(load_half(unit + (bits == 5 ? 4 : 2) * LINE), k),
                             _mm256_set1_epi8(1));
        out = _mm256_or_si256(out, _mm256_slli_epi16(one, to));
    }
    return out;
}
#define UNPACK(bits)                                                                               \
    static void unpack_##bits(const uint8_t *codes, int32_t units, uint8_t *out)                   \
    {                                                                                              \
        for (int32_t u = 0; u < units; u++, codes += bits * LINE, out += UNIT_LINES * LINE) {      \
            UNROLL                                                                                 \
            for (int k = 0; k < UNIT_LINES; k++) {                                                 \
                for (int h = 0; h < LINE; h += HALF_LINE)                                          \
                    _mm256_store_si256((__m256i *)(void *)(out + k * LINE + h),                    \
                                       operand(codes + h, bits, k));                               \
            }                                                                                      \
        }                                                                                          \
    }
UNPACK(2)
UNPACK(3)
UNPACK(4)
UNPACK(5)
UNPACK(6)

static void unpack_table16(const uint8_t *codes, int32_t units, const struct layout_lut *lut,
                           uint8_t *out)
{
    for (int32_t p = 0; p < lut->planes; p++, out += PLANE_BYTES) {
        const __m256i table = _mm256_broadcastsi128_si256(
            _mm_loadu_si128((const __m128i *)(const void *)lut->plane[p]));
        unpack_4(codes, units, out);
        for (int32_t i = 0; i < units * UNIT_LINES * LINE; i += HALF_LINE) {
            __m256i *at = (__m256i *)(void *)(out + i);
            _mm256_store_si256(at, _mm256_shuffle_epi8(table, _mm256_load_si256(at)));
        }
    }
}
/* The chunk's bytes: in scratch, or in place at 8 bits. */
static const uint8_t *unpack(const struct linear_chunks *job, const uint8_t *codes, int32_t units)
{
    uint8_t *out = job->scratch;
    if (job->table)
        unpack_table16(codes, units, &job->lut, out);
    else if (job->at.code_bits == 2)
        unpack_2(codes, units, out);
    else if (job->at.code_bits == 3)
        unpack_3(codes, units, out);
    else if (job->at.code_bits == 4)
        unpack_4(codes, units, out);
    else if (job->at.code_bits == 5)
        unpack_5(codes, units, out);
    else if (job->at.code_bits == 6)
        unpack_6(codes, units, out);
    else
        return codes;
    return out;
}

/* ---- parameters, 8 rows at a time -------------------------------------------------------------
 */

INLINE __m256 load_halves(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)at));
}
/* lane: 0 or 8. shared: the fp16 factors of I8. */
INLINE __m256 load_values(enum layout_scales form, const uint8_t *area, int32_t s, int32_t lane,
                          const uint8_t *shared)
{
    const int32_t at = s * LINEAR_TILE_ROWS + lane;
    const __m128i *bytes = (const __m128i *)(const void *)(area + at);
    switch (form) {
    case LAYOUT_SCALES_F16:
        return load_halves(area + 2 * at);
    case LAYOUT_SCALES_F32:
        return _mm256_loadu_ps((const float *)(const void *)(area + 4 * at));
    case LAYOUT_SCALES_I8:
        return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes))),
                             load_halves(shared + 2 * lane));
    case LAYOUT_SCALES_E8:
        break;
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes)), 23));
}
INLINE __m256 load_offset(const struct layout_chunks *t, const uint8_t *chunk, int32_t s,
                          int32_t lane)
{
    enum layout_scales form = t->scales;
    if (form == LAYOUT_SCALES_E8 || (form == LAYOUT_SCALES_I8 && t->zeros))
        form = LAYOUT_SCALES_F16;
    return load_values(form, chunk + t->offsets_at, s, lane, chunk + t->shared_at + 32);
}

/* ---- products ---------------------------------------------------------------------------------
 */

INLINE __m256i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* dot[r] = quads of 8 output rows times R rows of q. */
INLINE void dot_quads(const uint8_t *bytes, int32_t quads, const int8_t *q, int64_t q_stride,
                      bool wide, int R, __m256i *dot)
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    UNROLL
    for (int r = 0; r < R; r++)
        dot[r] = _mm256_setzero_si256();
    for (int32_t i = 0; i < quads; i += FLUSH_QUADS) {
        const int32_t end = quads - i < FLUSH_QUADS ? quads : i + FLUSH_QUADS;
        __m256i lows[BLOCK_X], highs[BLOCK_X];
        UNROLL
        for (int r = 0; r < R; r++)
            lows[r] = highs[r] = _mm256_setzero_si256();
        for (int32_t k = i; k < end; k++) {
            const __m256i line = load_half(bytes + k * LINE);
            const __m256i a = wide ? _mm256_and_si256(line, low) : line;
            const __m256i b = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
            UNROLL
            for (int r = 0; r < R; r++) {
                const __m256i four = broadcast4(q + r * q_stride + 4 * k);
                lows[r] = _mm256_add_epi16(lows[r], _mm256_maddubs_epi16(a, four));
                if (wide)
                    highs[r] = _mm256_add_epi16(highs[r], _mm256_maddubs_epi16(b, four));
            }
        }
        UNROLL
        for (int r = 0; r < R; r++) {
            dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(lows[r], ones));
            if (wide)
                dot[r] = _mm256_add_epi32(dot[r],
                                          _mm256_slli_epi32(_mm256_madd_epi16(highs[r], ones), 4));
        }
    }
}

/* One chunk of half a tile: lane 0 or 8. */
struct half_chunk {
    const struct linear_chunks *job;
    const uint8_t *chunk, *bytes;
    const int8_t *q;
    const float *scale;
    const int32_t *sum; /* of sub s and row r at [s * n_rows + r] */
    const float *fine;  /* sub_scale, likewise; or NULL */
    int32_t n_rows, quads, lane;
};

/* Sum over the planes less the zeros, as floats. */
INLINE void whole_floats(const struct half_chunk *k, int32_t row, int32_t from, int32_t quads,
                         const int32_t *sum, bool wide, int R, __m256 *f)
{
    const int64_t q_stride = 4 * (int64_t)k->quads;
    const int8_t *q = k->q + row * q_stride + 4 * from;
    const uint8_t *bytes = k->bytes + from * LINE + k->lane * 4;
    const int32_t zero = k->job->lut.zero;
    __m256i low[BLOCK_X], more[BLOCK_X];
    dot_quads(bytes, quads, q, q_stride, wide, R, low);
    if (k->job->lut.planes > 1) {
        dot_quads(bytes + PLANE_BYTES, quads, q, q_stride, wide, R, more);
        UNROLL
        for (int r = 0; r < R; r++)
            low[r] = _mm256_add_epi32(low[r], _mm256_slli_epi32(more[r], 8));
    }
    UNROLL
    for (int r = 0; r < R; r++)
        f[r] = _mm256_cvtepi32_ps(_mm256_sub_epi32(low[r], _mm256_set1_epi32(zero * sum[r])));
}

/* sums[r] += chunk; sums of 8 outputs, 16 floats apart. */
INLINE void half_dots(const struct half_chunk *k, int32_t row, float *sums, bool wide, int R)
{
    const struct layout_chunks *t = &k->job->at;
    const int32_t sub_quads = t->sub / 4;
    __m256 inner[BLOCK_X];
    UNROLL
    for (int r = 0; r < R; r++)
        inner[r] = _mm256_setzero_ps();
    for (int32_t from = 0, s = 0; from < k->quads; from += sub_quads, s++) {
        const int32_t left = k->quads - from;
        const int32_t *sum = k->sum + s * k->n_rows + row;
        __m256 f[BLOCK_X];
        whole_floats(k, row, from, left < sub_quads ? left : sub_quads, sum, wide, R, f);
        const __m256 scale = load_values(t->scales, k->chunk, s, k->lane, k->chunk + t->shared_at);
        __m256 offset = _mm256_setzero_ps();
        if (t->zeros || t->mins)
            offset = load_offset(t, k->chunk, s, k->lane);
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m256 all = _mm256_set1_ps((float)sum[r]);
            if (t->zeros)
                f[r] = _mm256_fnmadd_ps(offset, all, f[r]);
            if (k->fine)
                f[r] = _mm256_mul_ps(f[r], _mm256_set1_ps(k->fine[s * k->n_rows + row + r]));
            inner[r] = _mm256_fmadd_ps(f[r], scale, inner[r]);
            if (t->mins)
                inner[r] = _mm256_fnmadd_ps(offset, all, inner[r]);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) {
        float *to = sums + r * LINEAR_TILE_ROWS;
        _mm256_store_ps(
            to, _mm256_fmadd_ps(inner[r], _mm256_set1_ps(k->scale[row + r]), _mm256_load_ps(to)));
    }
}
#define HALF_DOTS(R)                                                                               \
    static void half_dots_##R(const struct half_chunk *k, int32_t row, float *sums, bool wide)     \
    {                                                                                              \
        if (wide)                                                                                  \
            half_dots(k, row, sums, true, R);                                                      \
        else                                                                                       \
            half_dots(k, row, sums, false, R);                                                     \
    }
HALF_DOTS(1)
HALF_DOTS(2)
HALF_DOTS(3)
HALF_DOTS(4)

static void store_half(const struct linear_chunks *job, int32_t t, int32_t lane, int32_t r,
                       const float *sums)
{
    const int32_t first = t * LINEAR_TILE_ROWS + lane, n = job->n_out - first;
    if (n <= 0)
        return;
    const __m256i mask = lanes(n);
    const float *factors = (const float *)(const void *)linear_chunks_tile(job, t);
    __m256 y = _mm256_mul_ps(_mm256_load_ps(sums + lane), _mm256_load_ps(factors + lane));
    y = _mm256_mul_ps(y, _mm256_set1_ps(job->lut.step));
    float *to = linear_chunks_y(job, r) + first;
    if (linear_chunks_adds(job, r))
        y = _mm256_add_ps(_mm256_maskload_ps(to, mask), y);
    else if (job->bias)
        y = _mm256_add_ps(y, _mm256_maskload_ps(job->bias + first, mask));
    _mm256_maskstore_ps(to, mask, y);
}

static void tile_block(const struct linear_chunks *job, int32_t t, int32_t block)
{
    static void (*const kernels[BLOCK_X])(const struct half_chunk *, int32_t, float *,
                                          bool) = { half_dots_1, half_dots_2, half_dots_3,
                                                    half_dots_4 };
    const struct linear_quantized *x = &job->x;
    const uint8_t *chunk = linear_chunks_tile(job, t) + LINEAR_TILE_ROWS * sizeof(float);
    const int32_t n = linear_block_rows(x, block);
    const bool wide = job->table || job->at.code_bits > 4;
    float *sums = (float *)(void *)((uint8_t *)job->scratch + LAYOUT_PLANES_MAX * PLANE_BYTES);
    struct half_chunk k = { .job = job,
                            .q = linear_block_q(x, block),
                            .scale = x->scale + linear_block_at(x, block),
                            .sum = x->sub_sum + linear_block_at(x, block) * x->n_subs,
                            .fine = x->sub_scale,
                            .n_rows = n };
    if (k.fine)
        k.fine += linear_block_at(x, block) * x->n_subs;
    memset(sums, 0, (size_t)(n * LINEAR_TILE_ROWS) * sizeof *sums);
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += job->at.chunk_bytes) {
        k.quads = 2 * x->octs[c];
        k.chunk = chunk;
        for (size_t b = 0; b < job->at.chunk_bytes; b += LINE)
            _mm_prefetch((const char *)(chunk + b + AHEAD_BYTES), _MM_HINT_T0);
        k.bytes = unpack(job, chunk + job->at.codes_at, k.quads / UNIT_LINES);
        for (k.lane = 0; k.lane < LINEAR_TILE_ROWS; k.lane += HALF) {
            int32_t row = 0;
            for (int32_t passes = (n + BLOCK_X - 1) / BLOCK_X; passes; passes--) {
                const int32_t now = (n - row + passes - 1) / passes;
                kernels[now - 1](&k, row, sums + row * LINEAR_TILE_ROWS + k.lane, wide);
                row += now;
            }
        }
        k.q += n * 4 * k.quads;
        k.scale += n;
        k.sum += n * x->n_subs;
        k.fine = k.fine ? k.fine + n * x->n_subs : NULL;
    }
    for (int32_t r = 0; r < n; r++)
        for (int32_t lane = 0; lane < LINEAR_TILE_ROWS; lane += HALF)
            store_half(job, t, lane, block * LINEAR_BLOCK_ROWS + r, sums + r * LINEAR_TILE_ROWS);
}

void linear_chunks_avx2(const struct linear_chunks *job)
{
    for (int32_t t = job->tile_from; t < job->tile_to; t++)
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++)
            tile_block(job, t, block);
}
