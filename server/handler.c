/* handler.c - libmicrohttpd's callbacks, and an exchange from its first header to its last byte. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "api/error.h"
#include "host/base/clock.h"
#include "host/base/log.h"
#include "host/base/rng.h"
#include "server/loop.h"
#include "server/pieces.h"

enum {
    STREAM_BLOCK = 16 * 1024,
    SWALLOW_MAX =
        4 << 20, /* a chunked body over the limit is read so far to be able to answer 413 */
    BODIES_BYTES_MAX = 256 << 20, /* of all requests being read or prepared */
};

/* ---- making and freeing -----------------------------------------------------------------------
 */

static struct exchange *exchange_open(struct http *http, struct MHD_Connection *mhd)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (x == NULL)
        return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->http = http;
    x->server = http->server;
    x->mhd = mhd;
    x->conn = info ? info->socket_context : NULL;
    if (x->conn != NULL)
        x->conn->exchange = x;
    x->started_ns = x->ping_ns = clock_ns();
    x->created_s = (int64_t)time(NULL);
    x->body_deadline_ms = clock_ms() + http->server->body_ms_max;
    buf_init(&x->body, http->server->body_bytes_max);
    buf_init(&x->out, (size_t)1 << 30);
    uint64_t random = rng_system();
    snprintf(x->id, sizeof x->id, "%016llx%08llx", (unsigned long long)random,
             (unsigned long long)(http->ids++ & 0xffffffffu));
    const char *given = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "X-Request-Id");
    x->named = given != NULL && api_request_id_is_fine(given);
    snprintf(x->request_id, sizeof x->request_id, "%.128s", x->named ? given : x->id);
    trace_read(&x->trace, MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "traceparent"));
    x->next = http->exchanges;
    if (x->next != NULL)
        x->next->previous = x;
    http->exchanges = x;
    http->n_exchanges++;
    return x;
}

void exchange_try_free(struct exchange *x)
{
    if (x->mhd != NULL || x->in_prep || x->n_requests_out > 0)
        return;
    if (x->previous != NULL)
        x->previous->next = x->next;
    else
        x->http->exchanges = x->next;
    if (x->next != NULL)
        x->next->previous = x->previous;
    x->http->n_exchanges--;
    x->http->body_bytes -= x->counted_bytes;
    exchange_end(x);
    job_close(x->job);
    buf_clear(&x->body);
    buf_clear(&x->out);
    free(x);
}

/* ---- replying ---------------------------------------------------------------------------------
 */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (MHD_add_response_header(response, name, value) == MHD_NO)
        log_warn("header", "name=%s text=\"no memory\"", name);
}

/* What every reply carries: ids, and the load where it is asked for. */
static void add_headers(struct exchange *x, struct MHD_Response *response)
{
    char text[200];
    add_header(response, "X-Request-Id", x->request_id);
    if (trace_response(&x->trace, text, sizeof text)[0] != 0)
        add_header(response, "traceresponse", text);
    const char *format =
        MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "endpoint-load-metrics-format");
    /* The engine is there once any of these replies has been made by it. */
    if (format == NULL || x->job == NULL || x->server->engine == NULL)
        return;
    struct engine_stats stats;
    engine_stats_read(x->server->engine, &stats);
    if (metrics_load_header(format, &stats, text, sizeof text)[0] != 0)
        add_header(response, "endpoint-load-metrics", text);
}

static enum MHD_Result queue_reply(struct exchange *x, bool close)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(x->out.length, (void *)(uintptr_t)buf_text(&x->out),
                                        MHD_RESPMEM_PERSISTENT); /* lives until completed */
    if (response == NULL)
        return MHD_NO;
    add_header(response, "Content-Type", x->content_type ? x->content_type : "application/json");
    add_headers(x, response);
    add_header(response, "X-Content-Type-Options", "nosniff");
    if (x->status == 429 || x->status == 503)
        add_header(response, "Retry-After", "1");
    if (x->status == 401)
        add_header(response, "WWW-Authenticate", "Bearer");
    if (x->status == 405 || x->status == 204)
        add_header(response, "Allow",
                   x->route && x->route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    if (close)
        add_header(response, "Connection", "close");
    enum MHD_Result result = MHD_queue_response(x->mhd, (unsigned)x->status, response);
    MHD_destroy_response(response);
    return result;
}

static void write_error(struct exchange *x)
{
    buf_reset(&x->out);
    x->out_read = 0;
    x->content_type = NULL;
    if (x->status < 400)
        x->status = api_status(x->err.code);
    api_write_error(&x->out, &x->err, x->err_prompt, x->err_ctx);
}

static enum MHD_Result refuse(struct exchange *x, bool close)
{
    x->state = EXCHANGE_REPLY;
    write_error(x);
    return queue_reply(x, close);
}

/* MHD wants more of the stream. */
static ssize_t read_stream(void *context, uint64_t position, char *bytes, size_t max)
{
    struct exchange *x = context;
    (void)position;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = x->out.length - x->out_read;
    if (n == 0 && !x->out_final) {
        exchange_drain(x, NULL); /* what waited in the rings while the client was slow */
        n = x->out.length - x->out_read;
    }
    if (n == 0) {
        if (x->out.failed || x->out_final)
            return x->out.failed ? MHD_CONTENT_READER_END_WITH_ERROR
                                 : MHD_CONTENT_READER_END_OF_STREAM;
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
        return 0;
    }
    n = n < max ? n : max;
    memcpy(bytes, x->out.bytes + x->out_read, n);
    x->out_read += n;
    if (x->out_read == x->out.length) {
        buf_reset(&x->out);
        x->out_read = 0;
    }
    return (ssize_t)n;
}

static enum MHD_Result queue_stream(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, NULL);
    if (response == NULL)
        return MHD_NO;
    x->status = 200;
    add_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    add_header(response, "Cache-Control", "no-cache");
    add_header(response, "X-Accel-Buffering", "no");
    add_headers(x, response);
    enum MHD_Result result = MHD_queue_response(x->mhd, 200, response);
    if (result == MHD_YES && !x->streaming) {
        x->streaming = true;
        x->server->metrics.streams++;
    }
    MHD_destroy_response(response);
    return result;
}

/* ---- the way of a request ---------------------------------------------------------------------
 */

void exchange_poke(struct exchange *x)
{
    bool ready = x->gone || x->state == EXCHANGE_REPLY || x->state == EXCHANGE_STREAM;
    if (x->suspended && ready && x->mhd != NULL) {
        x->suspended = false;
        MHD_resume_connection(x->mhd);
    }
}

static enum MHD_Result suspend(struct exchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
    return MHD_YES;
}

void exchange_hang_up(struct exchange *x)
{
    if (x->gone)
        return;
    x->gone = true;
    if (x->lent != NULL)
        atomic_store(&x->lent->cancelled, true);
    exchange_cancel(x);
    exchange_poke(x);
}

static void fail(struct exchange *x)
{
    x->state = EXCHANGE_REPLY;
    write_error(x);
    exchange_poke(x);
}

static void submit(struct exchange *x)
{
    struct job *job = x->job;
    struct server *server = x->server;
    const struct generate *g = &job->generate;
    if (x->http->drain_is_over) {
        err_set(&x->err, ERR_UNAVAILABLE, "the server is shutting down");
        fail(x);
        return;
    }
    if (!exchange_begin(x, &x->err)) {
        fail(x);
        return;
    }
    if (!x->named && g->request_id != NULL)
        snprintf(x->request_id, sizeof x->request_id, "%.128s", g->request_id);
    snprintf(x->id, sizeof x->id, "%s-%s", g->kind == API_CHAT ? "chatcmpl" : "cmpl",
             x->request_id);
    x->state = EXCHANGE_RUNNING;
    x->n_running = x->n_choices;
    server->metrics.unknown_fields += (uint64_t)g->n_unknown;
    for (int32_t i = 0; i < job->n_requests; i++) {
        struct request *request = job->requests[i];
        request->submit_ns = clock_ns();
        request->id = ++x->http->ids;
        if (!engine_submit(server->engine, request, &x->err)) {
            exchange_cancel(x); /* the ones before it: all or nothing */
            fail(x);
            return;
        }
        x->n_requests_out++;
    }
}

void exchange_job_done(struct exchange *x, struct job *job)
{
    x->in_prep = false;
    x->lent = NULL;
    if (job->kind == JOB_REPLY) {
        job_close(job);
        x->state = EXCHANGE_REPLY;
        x->status = 200;
        if (x->err.code != ERR_NONE)
            write_error(x);
        exchange_poke(x);
        exchange_try_free(x);
        return;
    }
    x->job = job;
    if (x->gone) {
        exchange_try_free(x);
        return;
    }
    if (job->err.code != ERR_NONE) {
        x->err = job->err;
        x->err_prompt = job->n_prompt;
        x->err_ctx = job->n_ctx;
        fail(x);
    } else if (job->kind == JOB_CHAT || job->kind == JOB_COMPLETION) {
        submit(x);
    } else {
        x->state = EXCHANGE_REPLY;
        x->status = 200;
        buf_clear(&x->out);
        x->out = job->reply;
        buf_init(&job->reply, 0);
        exchange_poke(x);
    }
}

static void finish_collected(struct exchange *x)
{
    if (x->err.code != ERR_NONE) {
        fail(x);
        return;
    }
    if (exchange_reply_is_large(x)) {
        struct job *job = job_open(x->server, JOB_REPLY);
        if (job != NULL) {
            job->exchange = x;
            x->state = EXCHANGE_PREP;
            x->in_prep = true;
            if (prep_push(x->http->prep, job))
                return;
            x->in_prep = false;
            job_close(job);
        }
    }
    exchange_write_reply(x);
    x->status = 200;
    if (x->err.code != ERR_NONE)
        write_error(x);
    x->state = EXCHANGE_REPLY;
    exchange_poke(x);
}

void exchange_news(struct exchange *x, struct request *request, bool returned)
{
    if (x->state == EXCHANGE_RUNNING || x->state == EXCHANGE_STREAM) {
        exchange_drain(x, request);
        if (x->state == EXCHANGE_RUNNING && !x->gone &&
            (x->n_done == x->n_choices || x->err.code != ERR_NONE))
            finish_collected(x);
        exchange_poke(x);
    } else if (x->n_choices > 0 && !x->in_prep) {
        exchange_drain(x, request); /* after a failure: rings are read to their ends */
    }
    if (returned)
        x->n_requests_out--;
    exchange_try_free(x);
}

/* ---- libmicrohttpd's callbacks ----------------------------------------------------------------
 */

static const char *header(struct MHD_Connection *mhd, const char *name)
{
    return MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, name);
}

/* The head is here. True: read on (the body). False: *result is the answer. */
static bool begin(struct exchange *x, const char *url, const char *method, const char *version,
                  enum MHD_Result *result)
{
    struct server *server = x->server;
    if (!gate_check(x->mhd, url, method, version, server->body_bytes_max, &x->status, &x->err)) {
        *result = refuse(x, true);
        return false;
    }
    x->route = route_find(url);
    if (x->route == NULL) {
        err_set(&x->err, ERR_NOT_FOUND, "no such path");
        *result = refuse(x, strcmp(method, "GET") != 0);
        return false;
    }
    if (strcmp(method, "OPTIONS") == 0) {
        x->status = 204;
        x->state = EXCHANGE_REPLY;
        return true;
    }
    bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (x->route->post ? strcmp(method, "POST") != 0 : !get) {
        err_set(&x->err, ERR_METHOD, "this path wants %s", x->route->post ? "POST" : "GET");
        *result = refuse(x, !get);
        return false;
    }
    if (server->auth != NULL && !x->route->open &&
        !auth_check(server->auth, header(x->mhd, "Authorization"), header(x->mhd, "X-Api-Key"),
                    &x->salt)) {
        x->salt = 0; /* nobody's */
        err_set(&x->err, ERR_UNAUTHORIZED, "a valid API key is needed: Authorization: Bearer KEY");
        *result = refuse(x, x->route->post);
        return false;
    }
    if (x->route->post) {
        int state = atomic_load_explicit(&server->state, memory_order_acquire);
        if (state != SERVER_READY) {
            err_set(&x->err, ERR_UNAVAILABLE, "%s",
                    state == SERVER_LOADING    ? "the model is loading"
                    : state == SERVER_DRAINING ? "the server is shutting down"
                                               : "the device has failed");
            *result = refuse(x, true);
            return false;
        }
    }
    return true;
}

/* Gateways set it; it goes before the body's field. */
static bool read_priority(struct exchange *x, int32_t *priority, bool *given)
{
    const char *text = header(x->mhd, "X-Vllm-Priority");
    *given = text != NULL;
    if (text == NULL)
        return true;
    size_t n = strspn(text + (*text == '-'), "0123456789") + (*text == '-');
    long value = n <= 11 ? strtol(text, NULL, 10) : LONG_MAX;
    *priority = (int32_t)value;
    return (text[n] == 0 && n > (size_t)(*text == '-') && value == *priority) ||
           err_set_field(&x->err, ERR_REQUEST, "X-Vllm-Priority",
                         "X-Vllm-Priority must be an integer of 32 bits, got \"%.40s\"", text);
}

static enum MHD_Result dispatch(struct exchange *x)
{
    /* Cut while its body was late: what was buffered may still complete it, but nobody is there,
     * and the connection is on no list any more that would notice. */
    if (x->conn != NULL && x->conn->cut)
        return MHD_NO;
    if (x->state == EXCHANGE_REPLY)
        return queue_reply(x, false);
    if (!x->route->post || x->route->kind == ROUTE_KIND_UNSUPPORTED) {
        route_answer(x);
        x->state = EXCHANGE_REPLY;
        return queue_reply(x, false);
    }
    if (x->body_too_large) {
        err_set(&x->err, ERR_TOO_LARGE, "the body has more than the %zu bytes that are allowed",
                x->server->body_bytes_max);
        return refuse(x, true);
    }
    if (x->crowded_out) {
        err_set(&x->err, ERR_FULL, "too many large requests are being read; try again");
        return refuse(x, true);
    }
    struct job *job = job_open(x->server, x->route->job);
    if (job == NULL) {
        err_set(&x->err, ERR_MEMORY, "no memory for the request");
        return refuse(x, false);
    }
    job->exchange = x;
    job->salt = x->salt;
    if (!read_priority(x, &job->priority, &job->has_priority)) {
        job_close(job);
        return refuse(x, false);
    }
    job->body = x->body;
    buf_init(&x->body, 0);
    if (!prep_push(x->http->prep, job)) {
        job_close(job);
        err_set(&x->err, ERR_FULL, "too many requests are waiting; try again");
        return refuse(x, false);
    }
    x->in_prep = true;
    x->lent = job;
    x->state = EXCHANGE_PREP;
    return suspend(x);
}

static void take_body(struct exchange *x, const char *data, size_t size)
{
    struct http *http = x->http;
    x->swallowed += size;
    x->body_too_large = x->body_too_large || x->swallowed > x->server->body_bytes_max;
    /* 4,096 connections could hold 4 GiB of bodies, each within its own limit. */
    x->crowded_out = x->crowded_out || http->body_bytes + size > BODIES_BYTES_MAX;
    if (!x->body_too_large && !x->crowded_out) {
        buf_put(&x->body, data, size);
        x->crowded_out = x->body.failed;
        x->counted_bytes += size;
        http->body_bytes += size;
    }
    if (x->body_too_large || x->crowded_out) {
        buf_clear(&x->body);
        buf_init(&x->body, x->server->body_bytes_max);
        http->body_bytes -= x->counted_bytes;
        x->counted_bytes = 0;
    }
}

enum MHD_Result handler_access(void *context, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *data,
                               size_t *data_size, void **request_context)
{
    struct http *http = context;
    struct exchange *x = *request_context;
    if (x == NULL) {
        x = exchange_open(http, mhd);
        if (x == NULL)
            return MHD_NO;
        *request_context = x;
        enum MHD_Result result = MHD_YES;
        begin(x, url, method, version, &result);
        return result;
    }
    if (*data_size > 0) {
        take_body(x, data, *data_size);
        *data_size = 0;
        return x->swallowed > x->server->body_bytes_max + SWALLOW_MAX ? MHD_NO : MHD_YES;
    }
    if (x->gone)
        return MHD_NO;
    switch (x->state) {
    case EXCHANGE_BODY:
        return dispatch(x);
    case EXCHANGE_REPLY:
        return queue_reply(x, false);
    case EXCHANGE_STREAM:
        return queue_stream(x);
    case EXCHANGE_PREP:
    case EXCHANGE_RUNNING:
        break;
    }
    return suspend(x); /* a spurious wake-up */
}

/* One line a request; never its text. A key is told by the beginning of its digest. */
static void log_request(const struct exchange *x, bool whole)
{
    struct reply_usage usage = { 0 };
    uint64_t first_ns = 0;
    char trace[80] = "", key[32] = "", ttft[40] = "";
    for (int32_t i = 0; i < x->n_choices; i++) {
        const struct choice *c = &x->choices[i];
        if (c->n_tokens > 0 && (first_ns == 0 || c->first_token_ns < first_ns))
            first_ns = c->first_token_ns;
    }
    if (x->n_choices > 0)
        usage = exchange_usage(x);
    if (x->trace.trace_id[0] != 0)
        snprintf(trace, sizeof trace, "%s", x->trace.trace_id);
    if (x->server->auth != NULL && x->salt != 0) {
        uint8_t digest[4];
        memcpy(digest, &x->salt, sizeof digest);
        snprintf(key, sizeof key, "%02x%02x%02x%02x", digest[0], digest[1], digest[2], digest[3]);
    }
    if (first_ns > x->started_ns)
        snprintf(ttft, sizeof ttft, "%.1f", (double)(first_ns - x->started_ns) * 1e-6);
    log_info("request",
             "request_id=\"%s\" trace_id=\"%s\" span_id=\"%s\" key_id=\"%s\" path=%s status=%d "
             "outcome=%s prompt_tokens=%lld cached_tokens=%lld tokens=%lld ttft_ms=%s ms=%.1f",
             x->request_id, trace, x->trace.span_id, key, x->route ? x->route->path : "-",
             (int)x->status, whole ? "done" : "cancelled", (long long)usage.prompt_tokens,
             (long long)usage.cached_tokens, (long long)usage.completion_tokens, ttft,
             (double)(clock_ns() - x->started_ns) * 1e-6);
}

static void count(struct exchange *x, bool whole)
{
    struct metrics *m = &x->server->metrics;
    enum metric_route route = x->route ? x->route->metric : ROUTE_OTHER;
    enum metric_outcome outcome = !whole             ? OUTCOME_CANCELLED
                                  : x->status == 429 ? OUTCOME_429
                                  : x->status >= 500 ? OUTCOME_5XX
                                  : x->status >= 400 ? OUTCOME_4XX
                                                     : OUTCOME_OK;
    m->requests[route][outcome]++;
    m->streams -= x->streaming;
    x->streaming = false;
    if (x->server->log_requests && route != ROUTE_INFO)
        log_request(x, whole);
}

void handler_completed(void *context, struct MHD_Connection *mhd, void **request_context,
                       enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *request_context;
    (void)context;
    (void)mhd;
    if (x == NULL)
        return;
    *request_context = NULL;
    count(x, code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !x->gone);
    if (x->conn != NULL) {
        x->conn->exchange = NULL;
        x->conn->since_ms = clock_ms();
        x->conn = NULL;
    }
    x->mhd = NULL;
    x->suspended = false;
    if (x->n_done < x->n_choices || x->in_prep) {
        x->gone = true;
        if (x->lent != NULL)
            atomic_store(&x->lent->cancelled, true);
        exchange_cancel(x);
    }
    exchange_try_free(x);
}
