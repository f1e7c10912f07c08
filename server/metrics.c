/* metrics.c - Prometheus text 0.0.4 by hand: there is no maintained C client. Names and bucket
 * edges are vLLM's (v1/metrics/loggers.py), so that gateways built for it read nibble unchanged;
 * names that newer vLLM dropped but others still scrape come last.
 *
 * Series of what nibble has not (adapters, speculation, images, other nodes' caches, sleep) are
 * there and say zero, which is true, so that dashboards and alerts find every name. Not there:
 * kv_block_lifetime, kv_block_idle_before_evict, kv_block_reuse_gap (opt-in in vLLM; nothing
 * measures them here). */
#include "server/metrics.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const double ttft_edges[] = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                     1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560 };
static const double token_edges[] = { .01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                      .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80 };
static const double request_edges[] = { .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 };
/* Written up to the context's length. */
static const double length_edges[] = { 1,   2,    5,    10,   20,    50,    100,   200,
                                       500, 1000, 2000, 5000, 10000, 20000, 50000, 1e5,
                                       2e5, 5e5,  1e6,  2e6,  5e6,   1e7 };
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
    SET(m->inference, request_edges);
    SET(m->prompt_tokens, length_edges);
    SET(m->generation_tokens, length_edges);
    SET(m->max_generation_tokens, length_edges);
    SET(m->computed_tokens, length_edges);
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
    double length_max;  /* edges of lengths above are not written */
};

/* ---- one series -------------------------------------------------------------------------------
 */

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

/* One of several values of a series, told apart by a label. */
static void part(struct writer *w, const char *name, const char *label, const char *value,
                 uint64_t number)
{
    buf_printf(w->out, "%s{%s,%s=\"%s\"} %llu\n", name, w->labels, label, value,
               (unsigned long long)number);
}

static void histogram(struct writer *w, const char *name, const char *help,
                      const struct histogram *h)
{
    head(w, name, "histogram", help);
    uint64_t sum = 0;
    for (int32_t i = 0; i < h->n_edges; i++) {
        if (h->edges == length_edges && h->edges[i] > w->length_max)
            break;
        sum += h->counts[i];
        buf_printf(w->out, "%s_bucket{%s,le=\"%.10g\"} %llu\n", name, w->labels, h->edges[i],
                   (unsigned long long)sum);
    }
    buf_printf(w->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, w->labels,
               (unsigned long long)h->n);
    buf_printf(w->out, "%s_sum{%s} %.17g\n%s_count{%s} %llu\n", name, w->labels, h->sum, name,
               w->labels, (unsigned long long)h->n);
}

/* ---- families ---------------------------------------------------------------------------------
 */

static void write_state(struct writer *w, const struct engine_stats *s,
                        const struct metrics_model *model)
{
    gauge(w, "vllm:num_requests_running", "Sequences in the running batch.", s->running);
    gauge(w, "vllm:num_requests_waiting", "Sequences waiting.", s->waiting);
    head(w, "vllm:num_requests_waiting_by_reason", "gauge", "Sequences waiting, by reason.");
    part(w, "vllm:num_requests_waiting_by_reason", "reason", "capacity", (uint64_t)s->waiting);
    part(w, "vllm:num_requests_waiting_by_reason", "reason", "deferred", 0);
    gauge(w, "vllm:kv_cache_usage_perc", "Share of KV pages held, 0 to 1.", s->kv_usage);
    head(w, "vllm:engine_sleep_state", "gauge", "1 for the state that the engine is in.");
    part(w, "vllm:engine_sleep_state", "sleep_state", "awake", 1);
    part(w, "vllm:engine_sleep_state", "sleep_state", "weights_offloaded", 0);
    part(w, "vllm:engine_sleep_state", "sleep_state", "discard_all", 0);
    head(w, "vllm:lora_requests_info", "gauge", "Time of the last change of adapters; none here.");
    buf_printf(w->out,
               "vllm:lora_requests_info{%s,max_lora=\"0\",waiting_lora_adapters=\"\","
               "running_lora_adapters=\"\"} 0\n",
               w->labels);
    head(w, "vllm:cache_config_info", "gauge", "Page size and number of KV pages.");
    buf_printf(w->out, "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%d\"} 1\n",
               w->labels, (int)PAGE_TOKENS, (int)model->n_pages);
}

static void write_tokens(struct writer *w, const struct metrics *m, const struct engine_stats *s)
{
    /* Two atomics, read one after the other: never below zero. */
    uint64_t computed =
        s->prompt_tokens > s->cached_tokens ? s->prompt_tokens - s->cached_tokens : 0;
    counter(w, "vllm:prompt_tokens_total", "Prompt tokens, cached ones included.",
            s->prompt_tokens);
    head(w, "vllm:prompt_tokens_by_source_total", "counter", "Prompt tokens, by where from.");
    part(w, "vllm:prompt_tokens_by_source_total", "source", "local_compute", computed);
    part(w, "vllm:prompt_tokens_by_source_total", "source", "local_cache_hit", s->cached_tokens);
    part(w, "vllm:prompt_tokens_by_source_total", "source", "external_kv_transfer", 0);
    counter(w, "vllm:prompt_tokens_cached_total", "Prompt tokens found in the prefix cache.",
            s->cached_tokens);
    counter(w, "vllm:generation_tokens_total", "Tokens generated.", s->generated_tokens);
    head(w, "vllm:request_success_total", "counter", "Sequences ended, by reason.");
    part(w, "vllm:request_success_total", "finished_reason", "stop", m->success_stop);
    part(w, "vllm:request_success_total", "finished_reason", "length", m->success_length);
    part(w, "vllm:request_success_total", "finished_reason", "abort", m->success_abort);
    part(w, "vllm:request_success_total", "finished_reason", "error", m->success_error);
    part(w, "vllm:request_success_total", "finished_reason", "repetition", 0);
    counter(w, "vllm:num_preemptions_total", "Sequences preempted.", s->preemptions);
    counter(w, "vllm:prefix_cache_queries_total", "Prompt tokens looked up.", s->prefix_queries);
    counter(w, "vllm:prefix_cache_hits_total", "Prompt tokens found.", s->prefix_hits);
}

static void write_work(struct writer *w, const struct engine_stats *s,
                       const struct metrics_model *model)
{
    double rows = (double)s->rows, steps = (double)s->steps;
    counter(w, "nibble:steps_total", "Engine steps.", s->steps);
    counter(w, "nibble:rows_total", "Rows computed.", s->rows);
    gauge(w, "nibble:step_tokens", "Row budget of a step in force.", s->step_tokens);
    counter(w, "vllm:estimated_flops_per_gpu_total",
            "2 x weights that a row is multiplied with x rows, on the one device.",
            (uint64_t)(model->flops_per_row * rows));
    counter(w, "vllm:estimated_read_bytes_per_gpu_total", "All weights once a step.",
            (uint64_t)(model->weight_bytes * steps));
    counter(w, "vllm:estimated_write_bytes_per_gpu_total", "Keys and values of each row.",
            (uint64_t)(model->kv_row_bytes * rows));
}

static void write_absent(struct writer *w)
{
    static const struct {
        const char *name, *help;
    } rows[] = {
        { "vllm:external_prefix_cache_queries_total", "Tokens looked up in other nodes' caches." },
        { "vllm:external_prefix_cache_hits_total", "Tokens found there." },
        { "vllm:mm_cache_queries_total", "Images and sounds looked up." },
        { "vllm:mm_cache_hits_total", "Images and sounds found." },
        { "vllm:corrupted_requests_total", "Requests with logits that are not numbers." },
        { "vllm:spec_decode_num_drafts_total", "Drafts of speculative decoding." },
        { "vllm:spec_decode_num_draft_tokens_total", "Tokens drafted." },
        { "vllm:spec_decode_num_accepted_tokens_total", "Tokens of drafts accepted." },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        counter(w, rows[i].name, rows[i].help, 0);
    head(w, "vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter",
         "Tokens of drafts accepted, by place.");
    part(w, "vllm:spec_decode_num_accepted_tokens_per_pos_total", "position", "0", 0);
}

/* The engine counts steps in classes; their tokens are its prompt and generated tokens. */
static void write_steps(struct writer *w, const struct engine_stats *s)
{
    double edges[STEP_EDGES];
    struct histogram h = { .edges = edges, .n_edges = STEP_EDGES };
    for (int32_t i = 0; i <= STEP_EDGES; i++) {
        if (i < STEP_EDGES)
            edges[i] = ENGINE_STEP_EDGES[i];
        h.counts[i] = s->step_classes[i];
        h.n += s->step_classes[i];
    }
    h.sum = (double)s->prompt_tokens + (double)s->generated_tokens;
    histogram(w, "vllm:iteration_tokens_total", "Prompt and generated tokens of a step.", &h);
}

static void write_histograms(struct writer *w, const struct metrics *m)
{
    const struct {
        const char *name, *help;
        const struct histogram *h;
    } rows[] = {
        { "time_to_first_token_seconds", "Arrival to first token.", &m->ttft },
        { "inter_token_latency_seconds", "Gap between tokens of a sequence.", &m->inter_token },
        { "request_time_per_output_token_seconds", "Mean gap of a sequence.", &m->per_token },
        { "e2e_request_latency_seconds", "Arrival to end.", &m->e2e },
        { "request_queue_time_seconds", "Arrival to first step.", &m->queue },
        { "request_inference_time_seconds", "First step to last token.", &m->inference },
        { "request_prefill_time_seconds", "First step to first token.", &m->prefill },
        { "request_decode_time_seconds", "First token to last.", &m->decode },
        { "request_prompt_tokens", "Tokens of a prompt.", &m->prompt_tokens },
        { "request_generation_tokens", "Tokens generated of a sequence.", &m->generation_tokens },
        { "request_max_num_generation_tokens", "Most tokens of a prompt's sequences.",
          &m->max_generation_tokens },
        { "request_prefill_kv_computed_tokens", "Tokens of a prompt that were not cached.",
          &m->computed_tokens },
        { "request_params_n", "n of a prompt.", &m->params_n },
        { "request_params_max_tokens", "max_tokens of a prompt.", &m->params_max_tokens },
        /* vLLM's old name of the gap between tokens. */
        { "time_per_output_token_seconds", "As inter_token_latency_seconds.", &m->inter_token },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[80];
        snprintf(name, sizeof name, "vllm:%s", rows[i].name);
        histogram(w, name, rows[i].help, rows[i].h);
    }
}

/* Old names that production-stack's router and others still scrape. */
static void write_old(struct writer *w, const struct engine_stats *s)
{
    gauge(w, "vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc.", s->kv_usage);
    gauge(w, "vllm:gpu_prefix_cache_hit_rate", "Hits over queries since start.",
          s->prefix_queries ? (double)s->prefix_hits / (double)s->prefix_queries : 0);
    counter(w, "vllm:gpu_prefix_cache_queries_total", "As vllm:prefix_cache_queries_total.",
            s->prefix_queries);
    counter(w, "vllm:gpu_prefix_cache_hits_total", "As vllm:prefix_cache_hits_total.",
            s->prefix_hits);
    gauge(w, "vllm:cpu_cache_usage_perc", "Share of swapped pages; there are none.", 0);
    gauge(w, "vllm:num_requests_swapped", "Sequences swapped out; preemption recomputes.", 0);
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
    counter(w, "vllm:tool_call_parser_invocations_total", "Replies read for tool calls.",
            m->tool_parses);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

void metrics_write(struct buf *out, const struct metrics *m, const struct engine_stats *stats,
                   const struct metrics_model *model)
{
    static const struct engine_stats none;
    const struct engine_stats *s = stats ? stats : &none;
    char labels[256];
    size_t n = 0;
    n += (size_t)snprintf(labels, sizeof labels, "model_name=\"");
    for (const char *c = model->name; *c; c++) {
        if (n > sizeof labels - 44 && ((unsigned char)*c & 0xc0) != 0x80)
            break; /* a long name is cut between characters */
        if (*c == '"' || *c == '\\')
            labels[n++] = '\\';
        labels[n++] = (unsigned char)*c < ' ' ? '_' : *c;
    }
    snprintf(labels + n, sizeof labels - n, "\",engine=\"0\"");
    struct writer w = { out, labels, model->ctx };
    write_state(&w, s, model);
    write_tokens(&w, m, s);
    write_work(&w, s, model);
    write_absent(&w);
    write_steps(&w, s);
    write_histograms(&w, m);
    write_old(&w, s);
    write_http(&w, m);
}

const char *metrics_load_header(const char *format, const struct engine_stats *stats, char *text,
                                size_t size)
{
    text[0] = 0;
    if (strcasecmp(format, "TEXT") == 0)
        snprintf(text, size,
                 "TEXT named_metrics.kv_cache_usage_perc=%.6g, "
                 "named_metrics.num_requests_waiting=%d",
                 stats->kv_usage, (int)stats->waiting);
    else if (strcasecmp(format, "JSON") == 0)
        snprintf(text, size,
                 "JSON {\"named_metrics\": {\"kv_cache_usage_perc\": %.6g, "
                 "\"num_requests_waiting\": %d}}",
                 stats->kv_usage, (int)stats->waiting);
    return text;
}
