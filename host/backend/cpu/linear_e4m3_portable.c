/* linear_e4m3_portable.c - products with E4M3 codes of CHUNKS_C16 in plain C: the definition that
 * the vector kernels are compared with by memcmp. Chosen by linear.c. */
#include "host/backend/cpu/linear_kernels.h"

#include <math.h>
#include <string.h>
#include "host/base/half.h"

/* The codes of one chunk of one row as floats. */
static void widen_row(const struct linear_chunks *job, const uint8_t *chunk, int32_t inputs,
                      int32_t lane, float out[LINEAR_CHUNK])
{
    for (int32_t i = 0; i < inputs; i += 4) {
        const uint8_t *unit = chunk + job->at.codes_at + i / LAYOUT_UNIT * job->at.unit_bytes;
        uint32_t word = layout_quad(unit, 8, i % LAYOUT_UNIT / 4, lane);
        for (int32_t j = i; j < i + 4; j++, word >>= 8)
            out[j] = half_e4m3_to_f32((uint8_t)word);
    }
}

static float bf16_at(const int8_t *q, int32_t i)
{
    uint16_t bits;
    memcpy(&bits, q + 2 * i, sizeof bits);
    return half_bf16_to_f32(bits);
}
static float dot(const float *w, const int8_t *q, int32_t n)
{
    float sum = 0;
    for (int32_t i = 0; i < n; i += 2) {
        sum = fmaf(w[i + 1], bf16_at(q, i + 1), sum);
        sum = fmaf(w[i], bf16_at(q, i), sum);
    }
    return sum;
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
    const uint8_t *chunk = linear_chunks_tile(job, t) + LINEAR_TILE_ROWS * sizeof(float);
    float w[LINEAR_CHUNK];
    memset(acc, 0, (size_t)n_rows * sizeof *acc);
    for (int32_t c = 0; c < x->n_chunks; c++, chunk += at->chunk_bytes) {
        const int32_t inputs = x->octs[c] * LAYOUT_OCT;
        widen_row(job, chunk, inputs, lane, w);
        for (int32_t r = 0; r < n_rows; r++) {
            float inner = 0;
            for (int32_t s = 0; s * at->sub < inputs; s++) {
                const int32_t from = s * at->sub, left = inputs - from;
                const float f =
                    dot(w + from, q + 2 * (r * inputs + from), left < at->sub ? left : at->sub);
                inner = fmaf(f, layout_sub_scale(at, chunk, s, lane), inner);
            }
            acc[r] = fmaf(inner, scales[r], acc[r]);
        }
        q += 2 * n_rows * inputs;
        scales += n_rows;
    }
}

void linear_e4m3_portable(const struct linear_chunks *job)
{
    float acc[LINEAR_BLOCK_ROWS];
    for (int32_t o = job->tile_from * LINEAR_TILE_ROWS;
         o < job->tile_to * LINEAR_TILE_ROWS && o < job->n_out; o++) {
        const int32_t t = o / LINEAR_TILE_ROWS, lane = o % LINEAR_TILE_ROWS;
        const float factor = layout_float_at(linear_chunks_tile(job, t), lane);
        for (int32_t row = 0; row < job->x.n_rows; row += LINEAR_BLOCK_ROWS) {
            const int32_t block = row / LINEAR_BLOCK_ROWS;
            row_block(job, t, lane, block, acc);
            for (int32_t r = 0; r < linear_block_rows(&job->x, block); r++) {
                float *y = linear_chunks_y(job, row + r) + o;
                const float value = acc[r] * factor;
                if (linear_chunks_adds(job, row + r))
                    *y += value;
                else
                    *y = job->bias ? value + job->bias[o] : value;
            }
        }
    }
}
