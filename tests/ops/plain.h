/* plain.h - ops in double precision, written to be read: what fast kernels are compared with. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "host/backend/backend.h"
#include "host/base/half.h"

/* K (which = 0) or V of one position, as stored. */
static inline double plain_kv(const struct attend_op *op, int32_t seq, int32_t position,
                              int32_t which, int32_t kv_head, int32_t d)
{
    const struct kv_cache *kv = op->kv;
    int32_t page = batch_page(op->batch, op->group, seq, position / PAGE_TOKENS);
    const uint8_t *block = (const uint8_t *)kv->groups[op->group].memory +
                           kv_offset(kv, op->group, op->layer, page, which, kv_head);
    const size_t token = (size_t)(position % PAGE_TOKENS), dim = (size_t)kv->head_dim;
    float value, scale = 1;
    half_widen(&value, block + (token * dim + (size_t)d) * dtype_bytes(kv->dtype), kv->dtype, 1);
    if (kv->dtype == DTYPE_I8)
        memcpy(&scale, block + PAGE_TOKENS * dim + token * sizeof scale, sizeof scale);
    return (double)value * (double)scale;
}

/* y[n_rows][n_heads * head_dim] of an attend_op, by the definition. */
static inline void plain_attend(const struct attend_op *op, double *y)
{
    const struct kv_cache *kv = op->kv;
    const int32_t dim = kv->head_dim, window = kv->groups[op->group].window;
    double *s = malloc((size_t)op->kv->groups[op->group].n_pages * PAGE_TOKENS * sizeof *s);
    for (int32_t r = 0; r < op->batch->n_rows; r++)
        for (int32_t h = 0; h < op->n_heads; h++) {
            const int32_t seq = op->batch->row_seq[r], p = op->batch->positions[r];
            const int32_t kv_head = h / (op->n_heads / kv->n_kv_heads);
            const int32_t first = window && p - window + 1 > 0 ? p - window + 1 : 0;
            const float *q = view_row(op->q, r) + (int64_t)h * dim;
            double *out = y + ((int64_t)r * op->n_heads + h) * dim;
            double top = op->sinks ? (double)op->sinks[h] : -INFINITY;
            for (int32_t t = first; t <= p; t++) {
                double dot = 0;
                for (int32_t d = 0; d < dim; d++)
                    dot += (double)q[d] * plain_kv(op, seq, t, 0, kv_head, d);
                dot *= (double)op->scale;
                if (op->soft_cap > 0)
                    dot = (double)op->soft_cap * tanh(dot / (double)op->soft_cap);
                s[t - first] = dot;
                top = dot > top ? dot : top;
            }
            double sum = op->sinks ? exp((double)op->sinks[h] - top) : 0;
            for (int32_t d = 0; d < dim; d++)
                out[d] = 0;
            for (int32_t t = first; t <= p; t++) {
                const double w = exp(s[t - first] - top);
                sum += w;
                for (int32_t d = 0; d < dim; d++)
                    out[d] += w * plain_kv(op, seq, t, 1, kv_head, d);
            }
            for (int32_t d = 0; d < dim; d++)
                out[d] /= sum;
        }
    free(s);
}

/* sum of squared differences over sum of squares */
static inline double plain_nmse(const float *got, const double *want, int64_t n)
{
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)got[i] - want[i];
        error += e * e;
        size += want[i] * want[i];
    }
    return size > 0 ? error / size : error;
}
