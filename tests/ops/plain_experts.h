/* plain_experts.h - route, gates and a product of one row in double precision, written to be read.
 */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include "host/backend/cpu/linear.h"

/* One row of a route_op. */
static inline void plain_route(enum route kind, const float *logits, int32_t n, int32_t n_chosen,
                               int32_t *ids, double *weights)
{
    double all = 0, chosen = 0;
    for (int32_t e = 0; e < n; e++) {
        int32_t rank = 0; /* experts that come first */
        for (int32_t o = 0; o < n; o++)
            rank += logits[o] > logits[e] || (logits[o] == logits[e] && o < e);
        all += exp((double)logits[e]);
        if (rank >= n_chosen)
            continue;
        ids[rank] = e;
        chosen += exp((double)logits[e]);
    }
    for (int32_t s = 0; s < n_chosen; s++) {
        const double x = (double)logits[ids[s]];
        weights[s] = kind == ROUTE_SIGMOID   ? 1 / (1 + exp(-x))
                     : kind == ROUTE_SOFTMAX ? exp(x) / all
                                             : exp(x) / chosen;
    }
}

static inline double plain_gate(enum gate gate, double g, double u, double limit)
{
    switch (gate) {
    case GATE_SILU:
        return g / (1 + exp(-g)) * u;
    case GATE_GELU:
        return 0.5 * g * (1 + erf(g / sqrt(2))) * u;
    case GATE_GELU_TANH:
        return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979) * (g + 0.044715 * g * g * g))) * u;
    case GATE_RELU2:
        return g > 0 ? g * g * u : 0;
    case GATE_SWIGLU_CLAMPED:
        g = g > limit ? limit : g;
        u = u > limit ? limit : u < -limit ? -limit : u;
        return g / (1 + exp(-1.702 * g)) * (u + 1);
    }
    return NAN;
}

static inline void plain_norm(const struct norm *norm, double *x)
{
    double mean = 0, var = 0;
    for (int32_t i = 0; i < norm->n && norm->kind == NORM_LAYER; i++)
        mean += x[i] / norm->n;
    for (int32_t i = 0; i < norm->n; i++)
        var += (x[i] - mean) * (x[i] - mean) / norm->n;
    for (int32_t i = 0; i < norm->n; i++)
        x[i] = (x[i] - mean) / sqrt(var + (double)norm->epsilon) * (double)norm->gain[i] +
               (norm->bias ? (double)norm->bias[i] : 0);
}

/* y[n_out] = W x + bias, the weights as they are resident. */
static inline void plain_linear(const struct weight *w, const double *x, double *y)
{
    float *row = malloc((size_t)w->n_in * sizeof *row);
    int32_t at = 0;
    for (int32_t p = 0; p < w->n_parts; p++) {
        const struct weight_part *part = &w->parts[p];
        for (int32_t o = 0; o < part->shape.n_out; o++, at++) {
            linear_weight_row(part, o, row);
            y[at] = part->bias ? (double)part->bias[o] : 0;
            for (int32_t i = 0; i < w->n_in; i++)
                y[at] += (double)row[i] * x[part->order ? part->order[i] : i];
        }
    }
    free(row);
}
