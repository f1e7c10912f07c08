/* linear_e4m3_avx2.c - products with E4M3 codes of CHUNKS_C16 for AVX2 and FMA; bits as in
 * linear_e4m3_portable.c.
 *
 * Chosen by linear.c; compiled with AVX2 flags, so nothing here may run before the CPUID check.
 *
 * A chunk of T tiles is widened to floats in scratch and multiplied from there, eight sums side by
 * side whatever the rows: 4 tiles by 1 row, 2 by 2, 1 by 4. */
#include <immintrin.h>
#include <assert.h>
#include <string.h>
#include "host/backend/cpu/linear_kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

enum {
    BLOCK_X = 4,
    TILES = 4,
    HALF = 8, /* output rows of a register */
    LINE = LAYOUT_ALIGN,
    TILE_FLOATS = LINEAR_CHUNK * LINEAR_TILE_ROWS,
    AHEAD_BYTES = 2048,
};
static_assert((TILES * TILE_FLOATS + 2 * TILES * LINEAR_TILE_ROWS) * (int)sizeof(float) <=
                  LINEAR_THREAD_BYTES,
              "scratch of a thread: four tiles, sums of two rows");
static_assert((TILE_FLOATS + LINEAR_BLOCK_ROWS * LINEAR_TILE_ROWS) * (int)sizeof(float) <=
                  LINEAR_THREAD_BYTES,
              "one tile, sums of a block");

INLINE __m256i lanes(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The code in the top byte of each word: its bits as those of a float are 2^-120 of it, subnormals
 * too. */
INLINE __m256 widen(__m256i code)
{
    const __m256i bits =
        _mm256_and_si256(_mm256_srai_epi32(code, 4), _mm256_set1_epi32((int32_t)0x87f00000));
    return _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0x1p120f));
}
/* A chunk of a tile: [input][16]. Fetches what comes next. */
static void widen_chunk(const uint8_t *codes, int32_t lines, float *out)
{
    for (int32_t k = 0; k < lines; k++, out += 4 * LINEAR_TILE_ROWS) {
        _mm_prefetch((const char *)(codes + k * LINE + AHEAD_BYTES), _MM_HINT_T0);
        for (int32_t h = 0; h < 2; h++) {
            const __m256i in =
                _mm256_load_si256((const __m256i *)(const void *)(codes + k * LINE + h * LINE / 2));
            float *to = out + h * HALF;
            _mm256_store_ps(to, widen(_mm256_slli_epi32(in, 24)));
            _mm256_store_ps(to + LINEAR_TILE_ROWS, widen(_mm256_slli_epi32(in, 16)));
            _mm256_store_ps(to + 2 * LINEAR_TILE_ROWS, widen(_mm256_slli_epi32(in, 8)));
            _mm256_store_ps(to + 3 * LINEAR_TILE_ROWS, widen(in));
        }
    }
}

INLINE __m256 load_scales(const struct layout_chunks *t, const uint8_t *chunk, int32_t s,
                          int32_t lane)
{
    const int32_t at = s * LINEAR_TILE_ROWS + lane;
    const __m128i *bytes = (const __m128i *)(const void *)(chunk + at);
    const __m128i *halves = (const __m128i *)(const void *)(chunk + 2 * at);
    const __m128i *shared = (const __m128i *)(const void *)(chunk + t->shared_at + 2 * lane);
    switch (t->scales) {
    case LAYOUT_SCALES_F16:
        return _mm256_cvtph_ps(_mm_loadu_si128(halves));
    case LAYOUT_SCALES_F32:
        return _mm256_loadu_ps((const float *)(const void *)(chunk + 4 * at));
    case LAYOUT_SCALES_I8:
        return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes))),
                             _mm256_cvtph_ps(_mm_loadu_si128(shared)));
    case LAYOUT_SCALES_E8:
        break;
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes)), 23));
}

/* One chunk of T tiles and of one block of rows. */
struct block_chunk {
    const struct linear_chunks *job;
    const uint8_t *chunk; /* of the first tile */
    const float *w;       /* [T][input][16] */
    const int8_t *q;
    const float *scale;
    int32_t inputs;
};

/* dot[r][2 t + half] += pair `pair` of inputs. */
INLINE void pair_dots(const struct block_chunk *k, const int8_t *q, int32_t pair, int T, int R,
                      __m256 dot[BLOCK_X][2 * TILES])
{
    const float *w = k->w + pair * 2 * LINEAR_TILE_ROWS;
    UNROLL
    for (int r = 0; r < R; r++) {
        int32_t two;
        memcpy(&two, q + (int64_t)r * 2 * k->inputs + 4 * pair, sizeof two);
        const __m256i both = _mm256_set1_epi32(two);
        const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-65536)));
        const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        UNROLL
        for (int t = 0; t < 2 * T; t++) {
            const float *at = w + t / 2 * TILE_FLOATS + t % 2 * HALF;
            dot[r][t] = _mm256_fmadd_ps(_mm256_load_ps(at + LINEAR_TILE_ROWS), odd, dot[r][t]);
            dot[r][t] = _mm256_fmadd_ps(_mm256_load_ps(at), even, dot[r][t]);
        }
    }
}
/* sums[r][t] += chunk of T tiles times R rows; sums: [R][T][16]. */
INLINE void block_dots(const struct block_chunk *k, int32_t row, float *sums, int T, int R)
{
    const struct layout_chunks *at = &k->job->at;
    const int8_t *q = k->q + (int64_t)row * 2 * k->inputs;
    float inner[2 * BLOCK_X * HALF] __attribute__((aligned(32))) = { 0 };
    for (int32_t first = 0, sub = 0; first < k->inputs; first += at->sub, sub++) {
        const int32_t end = k->inputs - first < at->sub ? k->inputs : first + at->sub;
        __m256 dot[BLOCK_X][2 * TILES];
        UNROLL
        for (int i = 0; i < R * 2 * T; i++)
            dot[i / (2 * T)][i % (2 * T)] = _mm256_setzero_ps();
        for (int32_t pair = first / 2; pair < end / 2; pair++)
            pair_dots(k, q, pair, T, R, dot);
        UNROLL
        for (int i = 0; i < R * 2 * T; i++) {
            const int t = i % (2 * T);
            const __m256 scales =
                load_scales(at, k->chunk + (size_t)(t / 2) * at->tile_bytes, sub, t % 2 * HALF);
            _mm256_store_ps(inner + i * HALF, _mm256_fmadd_ps(dot[i / (2 * T)][t], scales,
                                                              _mm256_load_ps(inner + i * HALF)));
        }
    }
    UNROLL
    for (int i = 0; i < R * 2 * T; i++)
        _mm256_store_ps(sums + i * HALF,
                        _mm256_fmadd_ps(_mm256_load_ps(inner + i * HALF),
                                        _mm256_set1_ps(k->scale[row + i / (2 * T)]),
                                        _mm256_load_ps(sums + i * HALF)));
}
typedef void dots_fn(const struct block_chunk *k, int32_t row, float *sums);
#define DOTS(T, R)                                                                                 \
    static void dots_##T##_##R(const struct block_chunk *k, int32_t row, float *sums)              \
    {                                                                                              \
        block_dots(k, row, sums, T, R);                                                            \
    }
DOTS(1, 1)
DOTS(1, 2)
DOTS(1, 3)
DOTS(1, 4)
DOTS(2, 1)
DOTS(2, 2)
DOTS(4, 1)
static dots_fn *const dots_of[][BLOCK_X] = { { dots_1_1, dots_1_2, dots_1_3, dots_1_4 },
                                             { dots_2_1, dots_2_2 },
                                             { dots_4_1 } }; /* 1, 2, 4 tiles */

static void store_half(const struct linear_chunks *job, int32_t t, int32_t lane, int32_t r,
                       const float *sums)
{
    const int32_t first = t * LINEAR_TILE_ROWS + lane, n = job->n_out - first;
    if (n <= 0)
        return;
    const __m256i mask = lanes(n);
    const float *factors = (const float *)(const void *)linear_chunks_tile(job, t);
    __m256 y = _mm256_mul_ps(_mm256_load_ps(sums), _mm256_load_ps(factors + lane));
    float *to = linear_chunks_y(job, r) + first;
    if (linear_chunks_adds(job, r))
        y = _mm256_add_ps(_mm256_maskload_ps(to, mask), y);
    else if (job->bias)
        y = _mm256_add_ps(y, _mm256_maskload_ps(job->bias + first, mask));
    _mm256_maskstore_ps(to, mask, y);
}

/* n_tiles tiles times one block of rows; at most BLOCK_X / n_tiles rows unless it is one. */
static void block_pass(const struct linear_chunks *job, int32_t t, int32_t n_tiles, int32_t block)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *chunk = linear_chunks_tile(job, t) + LINEAR_TILE_ROWS * sizeof(float);
    const int32_t n = linear_block_rows(x, block), most = BLOCK_X / n_tiles;
    float *w = job->scratch, *sums = w + n_tiles * TILE_FLOATS;
    memset(sums, 0, (size_t)(n * n_tiles * LINEAR_TILE_ROWS) * sizeof *sums);
    struct block_chunk k = { .job = job,
                             .w = w,
                             .q = linear_block_q(x, block),
                             .scale = x->scale + linear_block_at(x, block) };
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += job->at.chunk_bytes) {
        k.inputs = x->octs[c] * LAYOUT_OCT;
        k.chunk = chunk;
        for (int32_t i = 0; i < n_tiles; i++)
            widen_chunk(chunk + (size_t)i * job->at.tile_bytes + job->at.codes_at, k.inputs / 4,
                        w + i * TILE_FLOATS);
        int32_t row = 0;
        for (int32_t passes = (n + most - 1) / most; passes; passes--) {
            const int32_t now = (n - row + passes - 1) / passes;
            dots_of[n_tiles / 2][now - 1](&k, row, sums + row * n_tiles * LINEAR_TILE_ROWS);
            row += now;
        }
        k.q += 2 * n * k.inputs;
        k.scale += n;
    }
    for (int32_t i = 0; i < n * n_tiles; i++)
        for (int32_t lane = 0; lane < LINEAR_TILE_ROWS; lane += HALF)
            store_half(job, t + i % n_tiles, lane, block * LINEAR_BLOCK_ROWS + i / n_tiles,
                       sums + i * LINEAR_TILE_ROWS + lane);
}

void linear_e4m3_avx2(const struct linear_chunks *job)
{
    int32_t n_tiles = job->x.n_rows == 1 ? TILES : job->x.n_rows == 2 ? TILES / 2 : 1;
    for (int32_t t = job->tile_from; t < job->tile_to; t += n_tiles) {
        while (n_tiles > job->tile_to - t)
            n_tiles /= 2;
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++)
            block_pass(job, t, n_tiles, block);
    }
}
