/* loadgen_report.c - numbers of a stage, as a table and as JSON. Pure. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "server/loadgen.h"

const char *const LOAD_ERROR_NAMES[LOAD_ERRORS] = {
    [LOAD_OK] = "ok",           [LOAD_CONNECT] = "connect", [LOAD_CLOSED] = "closed",
    [LOAD_TIMEOUT] = "timeout", [LOAD_STATUS] = "status",   [LOAD_PROTOCOL] = "protocol",
    [LOAD_STREAM] = "stream",
};

/* ---- numbers ----------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_percent(const double *sorted, int64_t n, double percent)
{
    double at = (double)(n - 1) * percent / 100;
    int64_t i = (int64_t)floor(at);
    if (i >= n - 1)
        return sorted[n - 1];
    return sorted[i] + (sorted[i + 1] - sorted[i]) * (at - (double)i);
}

double load_percentile(double *values, int64_t n, double percent)
{
    if (n == 0)
        return 0;
    qsort(values, (size_t)n, sizeof *values, compare);
    return at_percent(values, n, percent);
}

static struct load_spread spread(double *values, int64_t n)
{
    struct load_spread s = { .n = n };
    if (n == 0)
        return s;
    qsort(values, (size_t)n, sizeof *values, compare);
    for (int64_t i = 0; i < n; i++)
        s.mean += values[i];
    s.mean /= (double)n; /* sums of counts stay exact */
    s.p50 = at_percent(values, n, 50);
    s.p90 = at_percent(values, n, 90);
    s.p99 = at_percent(values, n, 99);
    s.max = values[n - 1];
    return s;
}

static bool is_good(const struct load_record *r, const struct load_limits *limits)
{
    return (limits->ttft <= 0 || r->ttft <= limits->ttft) &&
           (limits->tpot <= 0 || r->tpot <= limits->tpot) &&
           (limits->itl <= 0 || r->gap_max <= limits->itl) &&
           (limits->e2e <= 0 || r->e2e <= limits->e2e);
}

bool load_summarize(const struct load_stage *stage, const struct load_limits *limits,
                    struct load_summary *summary, struct err *err)
{
    int64_t room = stage->n_gaps > stage->n_ok ? stage->n_gaps : stage->n_ok;
    double *values = calloc((size_t)room + 1, sizeof *values);
    double output = 0, prompt = 0;
    *summary = (struct load_summary){ 0 };
    if (values == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %lld values", (long long)room);
#define SPREAD(field, of)                                                                          \
    do {                                                                                           \
        for (int32_t i = 0; i < stage->n_ok; i++)                                                  \
            values[i] = (double)stage->records[i].of;                                              \
        summary->field = spread(values, stage->n_ok);                                              \
    } while (0)
    SPREAD(ttft, ttft);
    SPREAD(e2e, e2e);
    SPREAD(prompt, n_prompt);
    SPREAD(output, n_output);
#undef SPREAD
    int64_t n = 0;
    for (int32_t i = 0; i < stage->n_ok; i++) {
        const struct load_record *r = &stage->records[i];
        output += r->n_output;
        prompt += r->n_prompt;
        summary->n_good += is_good(r, limits);
        if (r->n_output > 1)
            values[n++] = r->tpot;
    }
    summary->tpot = spread(values, n);
    for (int64_t i = 0; i < stage->n_gaps; i++)
        values[i] = (double)stage->gaps[i];
    summary->itl = spread(values, stage->n_gaps);
    free(values);
    for (int i = LOAD_OK + 1; i < LOAD_ERRORS; i++)
        summary->n_errors += stage->errors[i];
    if (stage->seconds > 0) {
        summary->requests_per_s = stage->n_ok / stage->seconds;
        summary->output_per_s = output / stage->seconds;
        summary->total_per_s = (output + prompt) / stage->seconds;
        summary->goodput = (double)summary->n_good / stage->seconds;
    }
    return true;
}

/* ---- the table --------------------------------------------------------------------------------
 */

static void put_load(struct buf *out, const struct load_stage *stage)
{
    char text[32];
    if (stage->concurrency > 0)
        snprintf(text, sizeof text, "%d", (int)stage->concurrency);
    else
        snprintf(text, sizeof text, "%g/s", stage->rate);
    buf_printf(out, "%8s", text);
}

static void put_spread(struct buf *out, const struct load_spread *s)
{
    char text[64];
    snprintf(text, sizeof text, "%.1f / %.1f / %.1f", s->p50 * 1e3, s->p90 * 1e3, s->p99 * 1e3);
    buf_printf(out, "  %26s", s->n > 0 ? text : "-");
}

static void put_errors(struct buf *out, const struct load_stage *stage)
{
    const char *between = "";
    for (int i = LOAD_OK + 1; i < LOAD_ERRORS; i++) {
        if (i == LOAD_STATUS || stage->errors[i] == 0)
            continue;
        buf_printf(out, "%s%lld x %s", between, (long long)stage->errors[i], LOAD_ERROR_NAMES[i]);
        between = ", ";
    }
    for (int status = 0; status < 600; status++) {
        if (stage->statuses[status] == 0)
            continue;
        buf_printf(out, "%s%lld x HTTP %d", between, (long long)stage->statuses[status], status);
        between = ", ";
    }
    buf_printf(out, "; the first: %s\n", stage->first_error);
}

static bool any_limit(const struct load_limits *limits)
{
    return limits->ttft > 0 || limits->tpot > 0 || limits->itl > 0 || limits->e2e > 0;
}

void load_write_table(struct buf *out, const struct loadgen *load,
                      const struct load_summary *summaries)
{
    bool open = load->n_stages > 0 && load->stages[0].concurrency == 0;
    bool limits = any_limit(&load->plan.limits);
    buf_printf(out, "%s:%s%s/%s, model %s, seed %llu%s\n", load->url.host, load->url.port,
               load->base, load->plan.chat ? "chat/completions" : "completions", load->model,
               (unsigned long long)load->plan.seed, load->plan.stream ? "" : ", not streamed");
    buf_printf(out, "%8s %6s %6s %8s %9s %8s", open ? "rate" : "clients", "done", "errors", "req/s",
               "token/s", limits ? "good/s" : "");
    buf_printf(out, "  %26s  %26s  %26s\n", "TTFT p50/p90/p99 ms", "inter-token p50/p90/p99 ms",
               "end to end p50/p90/p99 ms");
    for (int32_t i = 0; i < load->n_run; i++) {
        const struct load_stage *stage = &load->stages[i];
        const struct load_summary *s = &summaries[i];
        put_load(out, stage);
        buf_printf(out, " %6d %6lld %8.2f %9.1f ", (int)stage->n_ok, (long long)s->n_errors,
                   s->requests_per_s, s->output_per_s);
        if (limits)
            buf_printf(out, "%8.2f", s->goodput);
        else
            buf_printf(out, "%8s", "");
        put_spread(out, &s->ttft);
        put_spread(out, &s->itl);
        put_spread(out, &s->e2e);
        buf_putc(out, '\n');
        if (s->n_errors > 0) {
            buf_printf(out, "%8s errors: ", "");
            put_errors(out, stage);
        }
        if (stage->n_cut > 0)
            buf_printf(out, "%8s stopped: %d requests in flight were cut\n", "", (int)stage->n_cut);
    }
}

/* ---- JSON -------------------------------------------------------------------------------------
 */

static void json_number(struct buf *out, const char *key, double value)
{
    buf_printf(out, ",\"%s\":", key);
    buf_put_json_number(out, value);
}

/* `unit` 1e3 for times, which are told in milliseconds. */
static void json_spread(struct buf *out, const char *key, const struct load_spread *s, double unit)
{
    buf_printf(out, ",\"%s\":{\"count\":%lld", key, (long long)s->n);
    json_number(out, "mean", s->mean * unit);
    json_number(out, "p50", s->p50 * unit);
    json_number(out, "p90", s->p90 * unit);
    json_number(out, "p99", s->p99 * unit);
    json_number(out, "max", s->max * unit);
    buf_putc(out, '}');
}

static void json_errors(struct buf *out, const struct load_stage *stage)
{
    buf_puts(out, ",\"errors\":{");
    for (int i = LOAD_OK + 1; i < LOAD_ERRORS; i++)
        buf_printf(out, "%s\"%s\":%lld", i > LOAD_OK + 1 ? "," : "", LOAD_ERROR_NAMES[i],
                   (long long)stage->errors[i]);
    buf_puts(out, "},\"statuses\":{");
    const char *between = "";
    for (int status = 0; status < 600; status++)
        if (stage->statuses[status] > 0) {
            buf_printf(out, "%s\"%d\":%lld", between, status, (long long)stage->statuses[status]);
            between = ",";
        }
    buf_puts(out, "},\"first_error\":");
    buf_put_json_string(out, stage->first_error, strlen(stage->first_error));
}

static void json_stage(struct buf *out, const struct load_stage *stage,
                       const struct load_summary *s)
{
    buf_printf(out, "{\"concurrency\":%d", (int)stage->concurrency);
    json_number(out, "rate", stage->rate);
    buf_printf(out, ",\"sent\":%d,\"completed\":%d,\"failed\":%lld,\"cut\":%d,\"good\":%lld",
               (int)stage->n_sent, (int)stage->n_ok, (long long)s->n_errors, (int)stage->n_cut,
               (long long)s->n_good);
    json_number(out, "seconds", stage->seconds);
    json_number(out, "requests_per_s", s->requests_per_s);
    json_number(out, "output_tokens_per_s", s->output_per_s);
    json_number(out, "total_tokens_per_s", s->total_per_s);
    json_number(out, "goodput_per_s", s->goodput);
    json_spread(out, "ttft_ms", &s->ttft, 1e3);
    json_spread(out, "inter_token_ms", &s->itl, 1e3);
    json_spread(out, "per_output_token_ms", &s->tpot, 1e3);
    json_spread(out, "e2e_ms", &s->e2e, 1e3);
    json_spread(out, "prompt_tokens", &s->prompt, 1);
    json_spread(out, "output_tokens", &s->output, 1);
    json_errors(out, stage);
    buf_putc(out, '}');
}

void load_write_json(struct buf *out, const struct loadgen *load,
                     const struct load_summary *summaries)
{
    const struct load_limits *limits = &load->plan.limits;
    buf_puts(out, "{\"host\":");
    buf_put_json_string(out, load->url.host, strlen(load->url.host));
    buf_printf(out,
               ",\"port\":%ld,\"endpoint\":\"%s\",\"model\":", strtol(load->url.port, NULL, 10),
               load->plan.chat ? "chat" : "completions");
    buf_put_json_string(out, load->model, strlen(load->model));
    buf_printf(out, ",\"seed\":%llu,\"stream\":%s,\"stopped\":%s,\"slo_ms\":{\"ttft\":",
               (unsigned long long)load->plan.seed, load->plan.stream ? "true" : "false",
               load->stopped ? "true" : "false");
    buf_put_json_number(out, limits->ttft * 1e3);
    json_number(out, "tpot", limits->tpot * 1e3);
    json_number(out, "itl", limits->itl * 1e3);
    json_number(out, "e2e", limits->e2e * 1e3);
    buf_puts(out, "},\"stages\":[");
    for (int32_t i = 0; i < load->n_run; i++) {
        buf_puts(out, i > 0 ? ",\n" : "\n");
        json_stage(out, &load->stages[i], &summaries[i]);
    }
    buf_puts(out, "\n]}\n");
}
