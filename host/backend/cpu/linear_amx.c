/* linear_amx.c - int8 products of many rows with the tile unit (AMX); bits as in linear_portable.c.
 *
 * Chosen by linear.c where the machine has AMX and the kernel has granted its state; compiled with
 * AMX flags, so nothing here may run before that. Everything but the integer dots of many rows is
 * linear_avx512.c's.
 *
 * A line of codes is 16 output rows x 4 inputs: 16 lines are one B operand of tdpbsud as they are,
 * 16 rows of quantized activations one A operand:
 *
 *     A tile: 16 rows of x, 64 inputs       B tile: 16 lines = 64 inputs x 16 outputs
 *     C tile: 16 rows x 16 outputs, int32   C += A . B in 16 cycles, 8 times the rate of vpdpbusd
 *
 * For every chunk two A by two B tiles make four C tiles; they go through memory to the float side,
 * which is now most of the time: 3 operations a 16 outputs. */
#include "host/backend/cpu/linear_avx512.h"

#include <string.h>

enum {
    /* From here on the tile unit wins (bench_linear, Granite Rapids, 4 bits, groups of 128). */
    AMX_ROWS_MIN = 9,
    A_ROWS = 16,
    PAIR = 2,
    TILE_COUNT = 8,
    C_STRIDE = PAIR * LINEAR_TILE_ROWS, /* int32 between rows of the four C tiles in memory */
};

/* Intel SDM vol. 1, 18.2: palette 1. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(struct tile_config) == 64, "ldtilecfg reads 64 bytes");

/* Inputs of an A and B tile: 64, or 32 where some chunk is not whole 64s; 0: neither divides. */
static int32_t tile_inputs(const struct linear_quantized *x)
{
    uint8_t any = 0;
    for (int32_t c = 0; c < x->n_chunks; c++)
        any |= x->octs[c];
    return any % 8 == 0 ? 64 : any % 4 == 0 ? 32 : 0;
}

/* Tiles 0-3: C (two rows of two), 4 and 5: A, 6 and 7: B. */
static void configure(int32_t inputs)
{
    struct tile_config config = { .palette = 1 };
    for (int i = 0; i < TILE_COUNT; i++) {
        config.rows[i] = A_ROWS;
        config.row_bytes[i] = 64;
    }
    config.row_bytes[4] = config.row_bytes[5] = (uint16_t)inputs;
    config.rows[6] = config.rows[7] = (uint8_t)(inputs / 4);
    _tile_loadconfig(&config);
}

/* One chunk of up to two weight tiles and up to 32 rows. */
struct amx_chunk {
    const int8_t *q; /* row r at q + r * bytes */
    int32_t bytes;   /* of a row of the chunk */
    const uint8_t *w[PAIR];
    int32_t inputs; /* of a tile step */
};

/* dots[32][2][16] = chunk. The second A and B tile only when there are such rows and outputs. */
INLINE void chunk_dots(const struct amx_chunk *k, bool two_a, bool two_b, int32_t *dots)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int32_t i = 0; i < k->bytes; i += k->inputs) {
        _tile_loadd(4, k->q + i, k->bytes);
        _tile_loadd(6, k->w[0] + i * LINEAR_TILE_ROWS, LINE);
        _tile_dpbsud(0, 4, 6);
        if (two_b) {
            _tile_loadd(7, k->w[1] + i * LINEAR_TILE_ROWS, LINE);
            _tile_dpbsud(1, 4, 7);
        }
        if (two_a) {
            _tile_loadd(5, k->q + A_ROWS * k->bytes + i, k->bytes);
            _tile_dpbsud(2, 5, 6);
            if (two_b)
                _tile_dpbsud(3, 5, 7);
        }
    }
    const int32_t stride = C_STRIDE * (int32_t)sizeof *dots;
    _tile_stored(0, dots, stride);
    if (two_b)
        _tile_stored(1, dots + LINEAR_TILE_ROWS, stride);
    if (two_a)
        _tile_stored(2, dots + A_ROWS * C_STRIDE, stride);
    if (two_a && two_b)
        _tile_stored(3, dots + A_ROWS * C_STRIDE + LINEAR_TILE_ROWS, stride);
}

/* sums[r][t] = fma(dots[r][t] - zero * sum, scales, sums[r][t]) for n rows and T tiles. */
INLINE void chunk_floats(const struct linear_tiles *job, const int32_t *dots, int32_t n,
                         const struct group_params *params, const float *scale, const int32_t *sum,
                         float *sums, int32_t sums_stride, bool zeros, int T)
{
    for (int32_t r = 0; r < n; r++) {
        const __m512i start = start_sum(job, sum[r], zeros);
        UNROLL
        for (int t = 0; t < T; t++) {
            float *to = sums + r * sums_stride + t * LINEAR_TILE_ROWS;
            const __m512i dot = _mm512_load_si512(dots + r * C_STRIDE + t * LINEAR_TILE_ROWS);
            _mm512_store_ps(to, finish_chunk(_mm512_load_ps(to), _mm512_add_epi32(dot, start),
                                             params[t], scale[r], sum[r], zeros));
        }
    }
}

/* n_tiles tiles from t times one block of rows. */
static void block_pass(const struct linear_tiles *job, int32_t inputs, int32_t t, int32_t n_tiles,
                       int32_t block)
{
    const struct linear_quantized *x = &job->x;
    const uint8_t *tile = job->packed + (size_t)t * job->at.tile_bytes;
    const uint8_t *codes = tile + job->at.codes_at;
    const int32_t n = linear_block_rows(x, block), stride = n_tiles * LINEAR_TILE_ROWS;
    const int8_t *q = linear_block_q(x, block);
    const float *scale = x->scale + linear_block_at(x, block);
    const int32_t *sum = x->sum + linear_block_at(x, block);
    const bool zeros = job->at.zeros_at != 0;
    uint8_t *unpacked = job->scratch;
    float *sums = (float *)(void *)(unpacked + LINEAR_BLOCK_TILES * UNPACKED_BYTES);
    int32_t dots[PAIR * A_ROWS * C_STRIDE] __attribute__((aligned(64)));
    struct group_params params[LINEAR_BLOCK_TILES];
    memset(sums, 0, (size_t)(n * stride) * sizeof *sums);
    for (int32_t c = 0; c < x->n_chunks; c++) {
        struct amx_chunk k = { .bytes = x->octs[c] * LAYOUT_OCT, .inputs = inputs };
        const uint8_t *bytes[LINEAR_BLOCK_TILES];
        chunk_bytes(job, tile, codes, x->octs[c], n_tiles, bytes);
        for (int32_t i = 0; i < n_tiles; i++)
            params[i] = load_group(job, tile + (size_t)i * job->at.tile_bytes,
                                   c / job->at.group_chunks, zeros);
        for (int32_t i = 0; i < n_tiles; i += PAIR) {
            const bool two_b = i + 1 < n_tiles;
            k.w[0] = bytes[i];
            k.w[1] = bytes[two_b ? i + 1 : i];
            for (int32_t r = 0; r < n; r += PAIR * A_ROWS) {
                const int32_t left = n - r, now = left < PAIR * A_ROWS ? left : PAIR * A_ROWS;
                float *to = sums + r * stride + i * LINEAR_TILE_ROWS;
                k.q = q + r * k.bytes;
                chunk_dots(&k, now > A_ROWS, two_b, dots);
                if (two_b && !zeros)
                    chunk_floats(job, dots, now, params + i, scale + r, sum + r, to, stride, false,
                                 2);
                else if (two_b)
                    chunk_floats(job, dots, now, params + i, scale + r, sum + r, to, stride, true,
                                 2);
                else
                    chunk_floats(job, dots, now, params + i, scale + r, sum + r, to, stride, zeros,
                                 1);
            }
        }
        codes += x->octs[c] * job->at.oct_bytes;
        q += n * k.bytes;
        scale += n;
        sum += n;
    }
    for (int32_t r = 0; r < n; r++) {
        for (int32_t i = 0; i < n_tiles; i++)
            store_tile_row(job, tile + (size_t)i * job->at.tile_bytes, t + i,
                           block * LINEAR_BLOCK_ROWS + r,
                           _mm512_load_ps(sums + r * stride + i * LINEAR_TILE_ROWS));
    }
}

static void tiles(const struct linear_tiles *job)
{
    const int32_t inputs = tile_inputs(&job->x);
    if (job->x.n_rows < AMX_ROWS_MIN || inputs == 0) {
        linear_avx512.tiles(job);
        return;
    }
    configure(inputs);
    for (int32_t t = job->tile_from; t < job->tile_to; t += LINEAR_BLOCK_TILES) {
        const int32_t left = job->tile_to - t;
        const int32_t n_tiles = left < LINEAR_BLOCK_TILES ? left : LINEAR_BLOCK_TILES;
        for (int32_t block = 0; block * LINEAR_BLOCK_ROWS < job->x.n_rows; block++)
            block_pass(job, inputs, t, n_tiles, block);
    }
    _tile_release(); /* a context switch need not save what is not in use */
}

static void quantize_row(const float *x, const uint8_t *lengths, const uint8_t *octs,
                         int32_t n_chunks, int32_t n_rows, int32_t row, int8_t *q, float *scale,
                         int32_t *sum)
{
    linear_avx512.quantize_row(x, lengths, octs, n_chunks, n_rows, row, q, scale, sum);
}
static void rows(const struct linear_rows *job)
{
    linear_avx512.rows(job);
}

const struct linear_kernels linear_amx = { quantize_row, tiles, linear_chunks_avx512,
                                           linear_e4m3_avx512, rows };
