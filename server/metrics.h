/* metrics.h - counters and histograms of the http thread, written as Prometheus text 0.0.4 under
 * vLLM's names (api.md 9.1). One writer (the http thread), so plain numbers. */
#pragma once
#include <stdint.h>
#include "host/base/buf.h"
#include "host/engine/engine.h"

enum { HISTOGRAM_EDGES_MAX = 24 };
struct histogram {
    const double *edges;
    int32_t n_edges;
    uint64_t counts[HISTOGRAM_EDGES_MAX + 1];
    uint64_t n;
    double sum;
};
enum metric_route {
    ROUTE_CHAT,
    ROUTE_COMPLETIONS,
    ROUTE_TEXT,  /* tokenize, detokenize, apply-template */
    ROUTE_INFO,  /* health, models, metrics, page */
    ROUTE_OTHER, /* unknown paths */
    ROUTE_COUNT
};
enum metric_outcome {
    OUTCOME_OK,
    OUTCOME_CANCELLED,
    OUTCOME_4XX,
    OUTCOME_429,
    OUTCOME_5XX,
    OUTCOME_COUNT
};
struct metrics {
    uint64_t requests[ROUTE_COUNT][OUTCOME_COUNT];
    uint64_t unknown_fields;
    uint64_t success_stop, success_length, success_abort, success_error; /* sequences */
    int32_t connections, streams;
    struct histogram ttft, inter_token, per_token, e2e, queue, prefill, decode;
    struct histogram prompt_tokens, generation_tokens, params_n, params_max_tokens;
};
void metrics_init(struct metrics *metrics);
void metrics_observe(struct histogram *histogram, double value);
/* `stats` NULL while loading: the schema is the same, with zeros. */
void metrics_write(struct buf *out, const struct metrics *metrics, const struct engine_stats *stats,
                   const char *model_name, int32_t n_groups, int32_t main_group);
