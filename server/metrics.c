/* metrics.c - Prometheus text 0.0.4 by hand: there is no maintained C client. Names and bucket
 * edges are vLLM's (v1/metrics/loggers.py), so that gateways built for it read nibble unchanged;
 * names that newer vLLM dropped but others still scrape come last. Nothing resets on a scrape. */
#include "server/metrics.h"
#include <stdio.h>
#include <string.h>

static const double ttft_edges[] = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                     1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560 };
static const double token_edges[] = { .01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                      .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80 };
static const double request_edges[] = { .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 };
static const double length_edges[] = { 1,   2,    5,    10,   20,    50,    100,   200,
                                       500, 1000, 2000, 5000, 10000, 20000, 50000, 100000 };
static const double n_edges[] = { 1, 2, 5, 10, 20 };

#define SET(histogram, list)                                                                       \
    ((histogram).edges = (list), (histogram).n_edges = (int32_t)(sizeof(list) / sizeof *(list)))

void metrics_init(struct metrics *m)
{
    memset(m, 0, sizeof *m);
    SET(m->ttft, ttft_edges);
    SET(m->inter_token, token_edges);
    SET(m->per_token, token_edges);
    SET(m->e2e, request_edges);
    SET(m->queue, request_edges);
    SET(m->prefill, request_edges);
    SET(m->decode, request_edges);
    SET(m->prompt_tokens, length_edges);
    SET(m->generation_tokens, length_edges);
    SET(m->params_max_tokens, length_edges);
    SET(m->params_n, n_edges);
}

void metrics_observe(struct histogram *histogram, double value)
{
    int32_t i = 0;
    while (i < histogram->n_edges && value > histogram->edges[i])
        i++;
    histogram->counts[i]++;
    histogram->n++;
    histogram->sum += value;
}

struct writer {
    struct buf *out;
    const char *labels; /* model_name="...",engine="0" */
};

static void head(struct writer *w, const char *name, const char *type, const char *help)
{
    buf_printf(w->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void gauge(struct writer *w, const char *name, const char *help, double value)
{
    head(w, name, "gauge", help);
    buf_printf(w->out, "%s{%s} %.17g\n", name, w->labels, value);
}

static void counter(struct writer *w, const char *name, const char *help, uint64_t value)
{
    head(w, name, "counter", help);
    buf_printf(w->out, "%s{%s} %llu\n", name, w->labels, (unsigned long long)value);
}

static void histogram(struct writer *w, const char *name, const char *help,
                      const struct histogram *h)
{
    head(w, name, "histogram", help);
    uint64_t sum = 0;
    for (int32_t i = 0; i < h->n_edges; i++) {
        sum += h->counts[i];
        buf_printf(w->out, "%s_bucket{%s,le=\"%.10g\"} %llu\n", name, w->labels, h->edges[i],
                   (unsigned long long)sum);
    }
    buf_printf(w->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, w->labels,
               (unsigned long long)h->n);
    buf_printf(w->out, "%s_sum{%s} %.17g\n%s_count{%s} %llu\n", name, w->labels, h->sum, name,
               w->labels, (unsigned long long)h->n);
}

static void write_http(struct writer *w, const struct metrics *m)
{
    static const char *const routes[] = { "chat", "completions", "text", "info", "other" };
    static const char *const outcomes[] = { "ok", "cancelled", "4xx", "429", "5xx" };
    head(w, "nibble:http_requests_total", "counter", "HTTP requests by route and outcome.");
    for (int32_t r = 0; r < ROUTE_COUNT; r++)
        for (int32_t o = 0; o < OUTCOME_COUNT; o++)
            buf_printf(w->out, "nibble:http_requests_total{route=\"%s\",outcome=\"%s\"} %llu\n",
                       routes[r], outcomes[o], (unsigned long long)m->requests[r][o]);
    gauge(w, "nibble:connections", "Open connections.", m->connections);
    gauge(w, "nibble:streams", "Streams being sent.", m->streams);
    counter(w, "nibble:unknown_fields_total", "Unknown request fields ignored.", m->unknown_fields);
}

void metrics_write(struct buf *out, const struct metrics *m, const struct engine_stats *stats,
                   const char *model_name, int32_t n_groups, int32_t main_group)
{
    static const struct engine_stats none;
    const struct engine_stats *s = stats ? stats : &none;
    char labels[256];
    size_t n = 0;
    n += (size_t)snprintf(labels, sizeof labels, "model_name=\"");
    for (const char *c = model_name; *c && n < sizeof labels - 40; c++) {
        if (*c == '"' || *c == '\\')
            labels[n++] = '\\';
        labels[n++] = (unsigned char)*c < ' ' ? '_' : *c;
    }
    snprintf(labels + n, sizeof labels - n, "\",engine=\"0\"");
    struct writer w = { out, labels };

    gauge(&w, "vllm:num_requests_running", "Sequences in the running batch.", s->running);
    gauge(&w, "vllm:num_requests_waiting", "Sequences waiting.", s->waiting);
    head(&w, "vllm:num_requests_waiting_by_reason", "gauge", "Sequences waiting, by reason.");
    buf_printf(out, "vllm:num_requests_waiting_by_reason{%s,reason=\"capacity\"} %d\n", labels,
               (int)s->waiting);
    buf_printf(out, "vllm:num_requests_waiting_by_reason{%s,reason=\"deferred\"} 0\n", labels);
    gauge(&w, "vllm:kv_cache_usage_perc", "Share of KV pages held, 0 to 1.", s->kv_usage);
    head(&w, "vllm:cache_config_info", "gauge", "Page size and number of KV pages.");
    buf_printf(out, "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%d\"} 1\n",
               labels, (int)PAGE_TOKENS, n_groups > 0 ? (int)s->pages_total[main_group] : 0);
    counter(&w, "vllm:prompt_tokens_total", "Prompt tokens, cached ones included.",
            s->prompt_tokens);
    counter(&w, "vllm:prompt_tokens_cached_total", "Prompt tokens found in the prefix cache.",
            s->cached_tokens);
    counter(&w, "vllm:generation_tokens_total", "Tokens generated.", s->generated_tokens);
    head(&w, "vllm:request_success_total", "counter", "Sequences ended, by reason.");
    buf_printf(out, "vllm:request_success_total{%s,finished_reason=\"stop\"} %llu\n", labels,
               (unsigned long long)m->success_stop);
    buf_printf(out, "vllm:request_success_total{%s,finished_reason=\"length\"} %llu\n", labels,
               (unsigned long long)m->success_length);
    buf_printf(out, "vllm:request_success_total{%s,finished_reason=\"abort\"} %llu\n", labels,
               (unsigned long long)m->success_abort);
    buf_printf(out, "vllm:request_success_total{%s,finished_reason=\"error\"} %llu\n", labels,
               (unsigned long long)m->success_error);
    counter(&w, "vllm:num_preemptions_total", "Sequences preempted.", s->preemptions);
    counter(&w, "vllm:prefix_cache_queries_total", "Prompt tokens looked up.", s->prefix_queries);
    counter(&w, "vllm:prefix_cache_hits_total", "Prompt tokens found.", s->prefix_hits);
    counter(&w, "nibble:steps_total", "Engine steps.", s->steps);
    counter(&w, "nibble:rows_total", "Rows computed.", s->rows);
    gauge(&w, "nibble:step_tokens", "Row budget of a step in force.", s->step_tokens);
    histogram(&w, "vllm:time_to_first_token_seconds", "Arrival to first token.", &m->ttft);
    histogram(&w, "vllm:inter_token_latency_seconds", "Gap between tokens of a sequence.",
              &m->inter_token);
    histogram(&w, "vllm:request_time_per_output_token_seconds", "Mean gap of a sequence.",
              &m->per_token);
    histogram(&w, "vllm:e2e_request_latency_seconds", "Arrival to end.", &m->e2e);
    histogram(&w, "vllm:request_queue_time_seconds", "Arrival to first step.", &m->queue);
    histogram(&w, "vllm:request_prefill_time_seconds", "First step to first token.", &m->prefill);
    histogram(&w, "vllm:request_decode_time_seconds", "First token to end.", &m->decode);
    histogram(&w, "vllm:request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_tokens);
    histogram(&w, "vllm:request_generation_tokens", "Tokens generated of a sequence.",
              &m->generation_tokens);
    histogram(&w, "vllm:request_params_n", "n of a request.", &m->params_n);
    histogram(&w, "vllm:request_params_max_tokens", "max_tokens of a request.",
              &m->params_max_tokens);
    write_http(&w, m);
    /* Old names that production-stack's router and others still scrape. */
    gauge(&w, "vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc.", s->kv_usage);
    gauge(&w, "vllm:gpu_prefix_cache_hit_rate", "Hits over queries since start.",
          s->prefix_queries ? (double)s->prefix_hits / (double)s->prefix_queries : 0);
    counter(&w, "vllm:gpu_prefix_cache_queries_total", "As vllm:prefix_cache_queries_total.",
            s->prefix_queries);
    counter(&w, "vllm:gpu_prefix_cache_hits_total", "As vllm:prefix_cache_hits_total.",
            s->prefix_hits);
}
