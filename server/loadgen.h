/* loadgen.h - `nibble bench --url`: load on any OpenAI-compatible server, and what came of it.
 *
 *   plan    what is asked: prompts, lengths, arrivals; a pure function of (seed, stage, request)
 *   client  one request on one connection, from its first byte sent to its last one read
 *   stage   one load (a concurrency, or a rate), driven by one epoll loop on one thread
 *   report  percentiles, table, JSON, SVG
 *
 * Times. A closed loop (concurrency) starts a request when the one before it on that place has
 * ended. An open loop (rate) starts requests by the clock, and a request's time counts from its
 * place on that clock even where the generator was late. TTFT: to the first event that carries
 * text. Inter-token: between events that carry text (a server may put several tokens into one).
 * Per output token: (last - first) / (tokens - 1), tokens by the server's own `usage`, else by
 * events. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"
#include "server/options.h"
#include "server/url.h"

enum {
    LOAD_STAGES_MAX = OPTION_LIST_MAX,
    LOAD_CLIENTS_MAX = 16384,
    LOAD_REPLY_MAX = 16 << 20, /* bytes of a reply that is no stream */
};

/* ---- plan -------------------------------------------------------------------------------------
 */

/* N | uniform:LOW:HIGH | normal:MEAN:DEVIATION, in tokens; draws are at least 1. */
struct load_lengths {
    enum { LENGTHS_FIXED, LENGTHS_UNIFORM, LENGTHS_NORMAL } kind;
    double a, b;
};
MUST_USE bool load_lengths_read(const char *text, struct load_lengths *lengths, struct err *err);
int32_t load_lengths_draw(const struct load_lengths *lengths, uint64_t seed, uint64_t stream,
                          uint64_t counter);

/* A line of --prompts: the request's own members as JSON text. */
struct load_prompt {
    char *members;      /* "messages":[...] or "prompt":...; owned */
    int32_t max_tokens; /* 0: drawn */
};
struct load_limits { /* --slo; seconds, 0: none */
    double ttft, tpot, itl, e2e;
};
struct load_plan {
    bool chat, stream, ignore_eos;
    double temperature; /* < 0: not sent */
    uint64_t seed;
    struct load_lengths prompt, output;
    double tokens_per_word, tokens_around; /* as the server counted them (loadgen_client) */
    struct load_prompt *prompts;           /* [n_prompts], owned; n_prompts 0: words are drawn */
    int32_t n_prompts;
    struct load_limits limits;
};
MUST_USE bool load_plan_open(struct load_plan *plan, const struct options *options,
                             struct err *err);
void load_plan_close(struct load_plan *plan);
/* The body of request `index` of stage `stage`. */
void load_plan_body(const struct load_plan *plan, int32_t stage, int32_t index, const char *model,
                    struct buf *out);
/* A body whose prompt is all words of the list `times` over: to see what the server makes of them.
 */
void load_plan_probe(const struct load_plan *plan, int32_t times, const char *model,
                     struct buf *out);
int32_t load_plan_words(void);
/* Seconds from arrival index - 1 to arrival `index` of a Poisson process. */
double load_plan_gap(const struct load_plan *plan, int32_t stage, int32_t index, double rate);

/* ---- results ----------------------------------------------------------------------------------
 */

enum load_error {
    LOAD_OK,
    LOAD_CONNECT,  /* no connection */
    LOAD_CLOSED,   /* the server closed it before the reply was whole */
    LOAD_TIMEOUT,  /* --request-ms */
    LOAD_STATUS,   /* not 200: by status */
    LOAD_PROTOCOL, /* not HTTP, not JSON, too large */
    LOAD_STREAM,   /* an error event, or no end of the stream in a reply that ended */
    LOAD_ERRORS,
};
extern const char *const LOAD_ERROR_NAMES[LOAD_ERRORS];

struct load_record { /* of a request that went well; seconds */
    double ttft, e2e, tpot, gap_max;
    int32_t n_prompt, n_output, n_events;
};
struct load_stage {
    int32_t concurrency; /* 0: open loop */
    double rate;
    int32_t n_requests; /* wanted */
    double seconds_max; /* none is started later */
    /* what came */
    struct load_record *records; /* [n_ok], owned */
    int32_t n_ok, n_sent, n_cut; /* cut: in flight when it was stopped */
    int64_t errors[LOAD_ERRORS];
    int64_t statuses[600]; /* of LOAD_STATUS, by status */
    float *gaps;           /* [n_gaps] seconds between events, owned */
    int64_t n_gaps, gaps_room;
    double seconds; /* from the first start to the last end */
    char first_error[200];
};

struct loadgen {
    const struct options *options;
    struct url url;
    char base[300]; /* path before /chat/completions: "/v1" */
    char key[520];  /* "" none */
    char model[256];
    struct load_plan plan;
    struct load_stage stages[LOAD_STAGES_MAX + 1]; /* the last one: the warm-up */
    int32_t n_stages, n_run;
    bool stopped; /* SIGINT or SIGTERM */
};

/* ---- report -----------------------------------------------------------------------------------
 */

struct load_spread {
    int64_t n;
    double mean, p50, p90, p99, max; /* 0 when n is 0 */
};
/* Linear interpolation between the two nearest of the sorted values, as numpy's default; sorts. */
double load_percentile(double *values, int64_t n, double percent);
struct load_summary {
    struct load_spread ttft, itl, tpot, e2e, prompt, output;
    double requests_per_s, output_per_s, total_per_s, goodput;
    int64_t n_good, n_errors;
};
MUST_USE bool load_summarize(const struct load_stage *stage, const struct load_limits *limits,
                             struct load_summary *summary, struct err *err);
void load_write_table(struct buf *out, const struct loadgen *load,
                      const struct load_summary *summaries);
void load_write_json(struct buf *out, const struct loadgen *load,
                     const struct load_summary *summaries);
void load_write_svg(struct buf *out, const struct loadgen *load,
                    const struct load_summary *summaries);

/* ---- loadgen_run.c ----------------------------------------------------------------------------
 */

/* `nibble bench --url`: the exit status. */
int load_command(const struct options *options);

struct load_loop;
/* Resolves the address; blocks SIGINT and SIGTERM, which then stop a stage. */
MUST_USE bool load_loop_open(struct load_loop **loop, struct loadgen *load, struct err *err);
void load_loop_close(struct load_loop *loop);
/* One request outside any stage; the reply's body. False when it has no status 200. */
MUST_USE bool load_loop_ask(struct load_loop *loop, const char *method, const char *path,
                            const struct buf *body, struct buf *reply, struct err *err);
/* Runs stage `index` to its end, or until loadgen.stopped. False: no memory, or the system. */
MUST_USE bool load_loop_stage(struct load_loop *loop, int32_t index, struct err *err);
