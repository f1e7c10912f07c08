/* linear_chunks_portable.c - products with CHUNKS_C16 in plain C: the definition that the vector
 * kernels are compared with by memcmp. Chosen by linear.c. */
#include "host/backend/cpu/linear_kernels.h"

#include <math.h>
#include <string.h>

/* What the codes of one chunk of one row stand for, plane by plane. 16 bits, for pmaddwd. */
static void unpack_row(const struct linear_chunks *job, const uint8_t *chunk, int32_t units,
                       int32_t lane, int16_t out[LAYOUT_PLANES_MAX][LINEAR_CHUNK])
{
    for (int32_t i = 0; i < units * LAYOUT_UNIT; i += 4) {
        const uint8_t *unit = chunk + job->at.codes_at + i / LAYOUT_UNIT * job->at.unit_bytes;
        uint32_t word = layout_quad(unit, job->at.code_bits, i % LAYOUT_UNIT / 4, lane);
        for (int32_t j = i; j < i + 4; j++, word >>= 8)
            for (int32_t p = 0; p < job->lut.planes; p++)
                out[p][j] = job->table ? job->lut.plane[p][word & 15] : (int16_t)(word & 255);
    }
}

static int32_t dot(const int16_t *w, const int8_t *x, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += w[i] * x[i];
    return sum;
}

/* Sum over the planes less the zeros. Two planes fit 32 bits: 128 * 127 * (2^16 - 1) < 2^30. */
static float whole(const struct layout_lut *lut, const int16_t w[LAYOUT_PLANES_MAX][LINEAR_CHUNK],
                   int32_t from, const int8_t *q, int32_t n, int32_t sum)
{
    int32_t low = dot(w[0] + from, q + from, n);
    if (lut->planes > 1)
        low += dot(w[1] + from, q + from, n) * 256;
    return (float)(low - lut->zero * sum);
}

/* One row of a tile times one block of rows of x. */
static void row_block(const struct linear_chunks *job, int32_t t, int32_t lane, int32_t block,
                      float acc[LINEAR_BLOCK_ROWS])
{
    const struct linear_quantized *x = &job->x;
    const struct layout_chunks *at = &job->at;
    const int32_t n_rows = linear_block_rows(x, block);
    const int8_t *q = linear_block_q(x, block);
    const float *scales = x->scale + linear_block_at(x, block);
    const int32_t *sums = x->sub_sum + linear_block_at(x, block) * x->n_subs;
    const float *fine = x->sub_scale ? x->sub_scale + linear_block_at(x, block) * x->n_subs : NULL;
    const uint8_t *chunk = linear_chunks_tile(job, t) + LINEAR_TILE_ROWS * sizeof(float);
    int16_t w[LAYOUT_PLANES_MAX][LINEAR_CHUNK];
    memset(acc, 0, (size_t)n_rows * sizeof *acc);
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += at->chunk_bytes) {
        const int32_t bytes = x->octs[c] * LAYOUT_OCT;
        unpack_row(job, chunk, bytes / LAYOUT_UNIT, lane, w);
        for (int32_t r = 0; r < n_rows; r++) {
            float inner = 0;
            for (int32_t s = 0; s * at->sub < bytes; s++) {
                const int32_t from = s * at->sub, left = bytes - from;
                const int32_t n = left < at->sub ? left : at->sub, sum = sums[s * n_rows + r];
                const float offset = -layout_sub_offset(at, chunk, s, lane);
                float f = whole(&job->lut, w, from, q + r * bytes, n, sum);
                if (at->zeros)
                    f = fmaf(offset, (float)sum, f);
                if (fine)
                    f *= fine[s * n_rows + r];
                inner = fmaf(f, layout_sub_scale(at, chunk, s, lane), inner);
                if (at->mins)
                    inner = fmaf(offset, (float)sum, inner);
            }
            acc[r] = fmaf(inner, scales[r], acc[r]);
        }
        q += n_rows * bytes;
        scales += n_rows;
        sums += n_rows * x->n_subs;
        fine = fine ? fine + n_rows * x->n_subs : NULL;
    }
}

void linear_chunks_portable(const struct linear_chunks *job)
{
    float acc[LINEAR_BLOCK_ROWS];
    for (int32_t t = job->tile_from; t < job->tile_to; t++) {
        for (int32_t lane = 0; lane < LINEAR_TILE_ROWS; lane++) {
            const int32_t o = t * LINEAR_TILE_ROWS + lane;
            const float factor = layout_float_at(linear_chunks_tile(job, t), lane);
            for (int32_t row = 0; row < job->x.n_rows && o < job->n_out; row += LINEAR_BLOCK_ROWS) {
                const int32_t block = row / LINEAR_BLOCK_ROWS;
                row_block(job, t, lane, block, acc);
                for (int32_t r = 0; r < linear_block_rows(&job->x, block); r++) {
                    float *y = linear_chunks_y(job, row + r) + o;
                    const float value = acc[r] * factor * job->lut.step;
                    if (linear_chunks_adds(job, row + r))
                        *y += value;
                    else
                        *y = job->bias ? value + job->bias[o] : value;
                }
            }
        }
    }
}
