/* linear_portable.c - the matrix kernels in plain C: the definition that the others are compared
 * with by memcmp, and the fallback of machines without AVX2.
 *
 * Chosen by linear.c. Every float operation here is one that the vector kernels do too, in the same
 * order: a product, an fma, a conversion; sums of integers may be made in any order. */
#include "host/backend/cpu/linear_kernels.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "host/base/half.h"

/* ---- activations to int8 ----------------------------------------------------------------------
 */

static void quantize_chunk(const float *x, int32_t n, int8_t *q, float *scale, int32_t *sum)
{
    float most = 0;
    bool finite = true;
    for (int32_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        finite = finite && a <= 0x1.fffffep127f;
        most = a > most ? a : most;
    }
    *sum = 0;
    if (!finite || most < LINEAR_TINY) {
        *scale = finite ? 0 : NAN;
        memset(q, 0, (size_t)n);
        return;
    }
    *scale = most / 127;
    const float inverse = 127 / most;
    for (int32_t i = 0; i < n; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse); /* rounding mode: to nearest, ties to even */
        *sum += q[i];
    }
}

static void quantize_row(const float *x, const uint8_t *lengths, const uint8_t *octs,
                         int32_t n_chunks, int32_t n_rows, int32_t row, int8_t *q, float *scale,
                         int32_t *sum)
{
    for (int32_t c = 0; c < n_chunks; c++) {
        const int32_t n = lengths[c], padded = octs[c] * LAYOUT_OCT;
        int8_t *to = q + row * padded;
        quantize_chunk(x, n, to, &scale[c * n_rows + row], &sum[c * n_rows + row]);
        memset(to + n, 0, (size_t)(padded - n));
        x += n;
        q += n_rows * padded;
    }
}

/* ---- int8 activations times tiles -------------------------------------------------------------
 */

/* The codes of one chunk of a tile, row by row. 16 bits, for pmaddwd. */
static void unpack_chunk(const struct linear_tiles *job, const uint8_t *codes, int32_t octs,
                         int16_t out[LINEAR_TILE_ROWS][LINEAR_CHUNK])
{
    for (int32_t oct = 0; oct < octs; oct++, codes += job->at.oct_bytes) {
        for (int32_t r = 0; r < LINEAR_TILE_ROWS; r++) {
            int16_t *to = &out[r][oct * LAYOUT_OCT];
            for (int32_t i = 0; i < 4; i++) {
                const uint8_t byte = codes[4 * r + i];
                to[i] = job->bits == 4 ? byte & 15 : byte;
                to[4 + i] = job->bits == 4 ? byte >> 4 : codes[LAYOUT_ALIGN + 4 * r + i];
            }
        }
    }
}

static int32_t dot(const int16_t *w, const int8_t *x, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += w[i] * x[i];
    return sum;
}

static float half_at(const uint8_t *area, int32_t group, int32_t lane)
{
    uint16_t bits;
    memcpy(&bits, area + (size_t)(group * LINEAR_TILE_ROWS + lane) * sizeof bits, sizeof bits);
    return half_f16_to_f32(bits);
}

/* One tile times one block of rows; acc[r][o] over the chunks in ascending order. */
static void tile_block(const struct linear_tiles *job, const uint8_t *tile, int32_t block,
                       float acc[LINEAR_BLOCK_ROWS][LINEAR_TILE_ROWS])
{
    const struct linear_quantized *x = &job->x;
    const int32_t n_rows = linear_block_rows(x, block);
    const int8_t *q = linear_block_q(x, block);
    const float *scales = x->scale + linear_block_at(x, block);
    const int32_t *sums = x->sum + linear_block_at(x, block);
    const uint8_t *codes = tile + job->at.codes_at;
    int16_t w[LINEAR_TILE_ROWS][LINEAR_CHUNK];
    memset(acc, 0, (size_t)n_rows * sizeof acc[0]);
    for (int32_t c = 0; c < x->n_chunks; c++, scales += n_rows, sums += n_rows) {
        const int32_t group = c / job->at.group_chunks;
        const int32_t n = x->octs[c] * LAYOUT_OCT;
        unpack_chunk(job, codes, x->octs[c], w);
        for (int32_t o = 0; o < LINEAR_TILE_ROWS; o++) {
            const float scale = half_at(tile + job->at.scales_at, group, o);
            const float zero = job->at.zeros_at ? half_at(tile + job->at.zeros_at, group, o) : 0;
            for (int32_t r = 0; r < n_rows; r++) {
                float t = (float)(dot(w[o], q + r * n, n) - job->zero * sums[r]);
                if (job->at.zeros_at)
                    t = fmaf(-zero, (float)sums[r], t);
                acc[r][o] = fmaf(t, scales[r] * scale, acc[r][o]);
            }
        }
        codes += x->octs[c] * job->at.oct_bytes;
        q += n_rows * n;
    }
}

static void tiles(const struct linear_tiles *job)
{
    float acc[LINEAR_BLOCK_ROWS][LINEAR_TILE_ROWS];
    for (int32_t t = job->tile_from; t < job->tile_to; t++) {
        const uint8_t *tile = job->packed + (size_t)t * job->at.tile_bytes;
        const int32_t first = t * LINEAR_TILE_ROWS;
        const int32_t left = job->n_out - first;
        const int32_t n = left < LINEAR_TILE_ROWS ? left : LINEAR_TILE_ROWS;
        float factors[LINEAR_TILE_ROWS];
        memcpy(factors, tile + job->at.factors_at, sizeof factors);
        for (int32_t row = 0; row < job->x.n_rows; row += LINEAR_BLOCK_ROWS) {
            const int32_t block = row / LINEAR_BLOCK_ROWS;
            tile_block(job, tile, block, acc);
            for (int32_t r = 0; r < linear_block_rows(&job->x, block); r++) {
                float *y = job->y + (row + r) * job->y_stride + first;
                for (int32_t o = 0; o < n; o++) {
                    y[o] = acc[r][o] * factors[o];
                    if (job->bias)
                        y[o] += job->bias[first + o];
                }
            }
        }
    }
}

/* ---- fp32 activations times rows --------------------------------------------------------------
 */

/* Add n products to the partial sums; only the last piece of a row may be ragged. */
static void add_products(const float *w, const float *x, int32_t n, float acc[LINEAR_PARTIAL_SUMS])
{
    int32_t k = 0;
    for (; k + LINEAR_PARTIAL_SUMS <= n; k += LINEAR_PARTIAL_SUMS) {
        for (int32_t l = 0; l < LINEAR_PARTIAL_SUMS; l++)
            acc[l] = fmaf(w[k + l], x[k + l], acc[l]);
    }
    for (int32_t l = 0; k < n && l < LINEAR_PARTIAL_SUMS; l++) {
        const bool in = k + l < n; /* the vector kernels multiply zeros past the end */
        acc[l] = fmaf(in ? w[k + l] : 0, in ? x[k + l] : 0, acc[l]);
    }
}

static float tree_sum(float acc[LINEAR_PARTIAL_SUMS])
{
    for (int32_t half = LINEAR_PARTIAL_SUMS / 2; half; half /= 2) {
        for (int32_t l = 0; l < half; l++)
            acc[l] += acc[l + half];
    }
    return acc[0];
}

static void rows(const struct linear_rows *job)
{
    enum { STEP = 1024, BLOCK = 8 }; /* weights widened at a time, for so many rows of x */
    const int32_t bytes = (int32_t)dtype_bytes(job->dtype);
    float w[STEP];
    for (int32_t o = job->row_from; o < job->row_to; o++) {
        const uint8_t *row = job->w + (size_t)o * (size_t)job->n_in * (size_t)bytes;
        for (int32_t from = 0; from < job->n_rows; from += BLOCK) {
            const int32_t to = from + BLOCK < job->n_rows ? from + BLOCK : job->n_rows;
            float acc[BLOCK][LINEAR_PARTIAL_SUMS] = { { 0 } };
            for (int32_t k = 0; k < job->n_in; k += STEP) {
                const int32_t n = job->n_in - k < STEP ? job->n_in - k : STEP;
                half_widen(w, row + (size_t)k * (size_t)bytes, job->dtype, (size_t)n);
                for (int32_t r = from; r < to; r++)
                    add_products(w, job->x + r * job->x_stride + k, n, acc[r - from]);
            }
            for (int32_t r = from; r < to; r++) {
                const float sum = tree_sum(acc[r - from]);
                job->y[r * job->y_stride + o] = job->bias ? sum + job->bias[o] : sum;
            }
        }
    }
}

const struct linear_kernels linear_portable = { quantize_row, tiles, linear_chunks_portable,
                                                linear_e4m3_portable, rows };
