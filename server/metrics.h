/* metrics.h - counters and histograms of the http thread, written as Prometheus text 0.0.4 under
 * vLLM's names (api.md 9.1). One writer (the http thread), so plain numbers; nothing is ever reset.
 *
 * What holds of the numbers: prompt_tokens_total and generation_tokens_total are the sums of
 * `usage`; a sequence of n tokens has one time to first token and n - 1 inter-token latencies;
 * prefill, decode and inference times, generation_tokens and e2e have one value a sequence,
 * prompt_tokens, prefill_kv_computed_tokens and params_* one a prompt. */
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
    ROUTE_TEXT,  /* tokenize, detokenize, apply-template, render */
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
    uint64_t tool_parses; /* choices whose text was read for tool calls */
    uint64_t success_stop, success_length, success_abort, success_error; /* sequences */
    int32_t connections, streams;
    struct histogram ttft, inter_token, per_token, e2e, queue, prefill, decode, inference;
    struct histogram prompt_tokens, generation_tokens, max_generation_tokens, computed_tokens;
    struct histogram params_n, params_max_tokens;
};
void metrics_init(struct metrics *metrics);
void metrics_observe(struct histogram *histogram, double value);

/* What the numbers are about; constant once the model is loaded. */
struct metrics_model {
    const char *name;
    int32_t ctx;                                      /* histograms of lengths end there */
    int32_t n_pages;                                  /* of the main KV group */
    double flops_per_row, weight_bytes, kv_row_bytes; /* estimates, by shapes */
};
/* `stats` NULL while loading: the same series, with zeros. */
void metrics_write(struct buf *out, const struct metrics *metrics, const struct engine_stats *stats,
                   const struct metrics_model *model);

/* The value of the endpoint-load-metrics header (ORCA) in `format`, "TEXT" or "JSON" in any case;
 * "" when it is neither. Returns `text`. */
const char *metrics_load_header(const char *format, const struct engine_stats *stats, char *text,
                                size_t size);
