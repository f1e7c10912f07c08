/* routes.c - the table of paths, and the answers that need no worker and never wait for the engine.
 */
#include <stdlib.h>
#include <string.h>
#include "api/error.h"
#include "api/text.h"
#include "server/loop.h"

static const struct http_route routes[] = {
    { "/v1/chat/completions", true, false, ROUTE_KIND_JOB, JOB_CHAT, ROUTE_CHAT },
    { "/chat/completions", true, false, ROUTE_KIND_JOB, JOB_CHAT, ROUTE_CHAT },
    { "/v1/completions", true, false, ROUTE_KIND_JOB, JOB_COMPLETION, ROUTE_COMPLETIONS },
    { "/tokenize", true, false, ROUTE_KIND_JOB, JOB_TOKENIZE, ROUTE_TEXT },
    { "/detokenize", true, false, ROUTE_KIND_JOB, JOB_DETOKENIZE, ROUTE_TEXT },
    { "/apply-template", true, false, ROUTE_KIND_JOB, JOB_APPLY_TEMPLATE, ROUTE_TEXT },
    { "/v1/chat/completions/render", true, false, ROUTE_KIND_JOB, JOB_RENDER_CHAT, ROUTE_TEXT },
    { "/v1/completions/render", true, false, ROUTE_KIND_JOB, JOB_RENDER_COMPLETION, ROUTE_TEXT },
    { "/", false, true, ROUTE_KIND_PAGE, JOB_CHAT, ROUTE_INFO },
    { "/health", false, true, ROUTE_KIND_HEALTH, JOB_CHAT, ROUTE_INFO },
    { "/ping", false, true, ROUTE_KIND_HEALTH, JOB_CHAT, ROUTE_INFO },
    { "/ready", false, true, ROUTE_KIND_READY, JOB_CHAT, ROUTE_INFO },
    { "/live", false, true, ROUTE_KIND_LIVE, JOB_CHAT, ROUTE_INFO },
    { "/v1/models", false, false, ROUTE_KIND_MODELS, JOB_CHAT, ROUTE_INFO },
    { "/models", false, false, ROUTE_KIND_MODELS, JOB_CHAT, ROUTE_INFO },
    { "/metrics", false, false, ROUTE_KIND_METRICS, JOB_CHAT, ROUTE_INFO },
    { "/version", false, false, ROUTE_KIND_VERSION, JOB_CHAT, ROUTE_INFO },
    { "/load", false, false, ROUTE_KIND_LOAD, JOB_CHAT, ROUTE_INFO },
    { "/server_info", false, false, ROUTE_KIND_SERVER_INFO, JOB_CHAT, ROUTE_INFO },
    { "/tokenizer_info", false, false, ROUTE_KIND_TOKENIZER_INFO, JOB_CHAT, ROUTE_INFO },
    { "/props", false, false, ROUTE_KIND_PROPS, JOB_CHAT, ROUTE_INFO },
    { "/slots", false, false, ROUTE_KIND_SLOTS, JOB_CHAT, ROUTE_INFO },
    { "/openapi.json", false, false, ROUTE_KIND_OPENAPI, JOB_CHAT, ROUTE_INFO },
    { "/score", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/v1/score", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/rerank", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/reranking", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/v1/rerank", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/v1/reranking", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
    { "/v2/rerank", true, false, ROUTE_KIND_UNSUPPORTED, JOB_CHAT, ROUTE_OTHER },
};

const struct http_route *route_table(size_t *n)
{
    *n = sizeof routes / sizeof routes[0];
    return routes;
}

const struct http_route *route_find(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (strcmp(path, routes[i].path) == 0)
            return &routes[i];
    return NULL;
}

static void answer_state(struct exchange *x, bool ready)
{
    struct server *server = x->server;
    const char *reason = NULL;
    int state = atomic_load_explicit(&server->state, memory_order_acquire);
    if (state == SERVER_LOADING) {
        reason = "loading";
    } else if (state == SERVER_FAILED) {
        reason = "device failed";
    } else if (ready && state == SERVER_DRAINING) {
        reason = "draining";
    } else if (server->engine != NULL) {
        struct engine_stats stats;
        engine_stats_read(server->engine, &stats);
        if (stats.device_lost)
            reason = "device failed";
        else if (engine_stalled_ms(server->engine) > server->stall_ms_max)
            reason = "the engine's heartbeat has stopped";
    }
    x->status = reason == NULL ? 200 : 503;
    if (reason == NULL) {
        buf_printf(&x->out, "{\"status\":\"%s\"}",
                   state == SERVER_DRAINING ? "draining"
                   : ready                  ? "ready"
                                            : "ok");
        return;
    }
    /* llama-server's shape beside ours, so that its probes read it too. */
    buf_printf(
        &x->out,
        "{\"status\":\"unavailable\",\"reason\":\"%s\",\"error\":{\"code\":503,\"message\":\"%s\","
        "\"type\":\"unavailable_error\",\"param\":null}}",
        reason, reason);
}

/* ---- llama-server's slots ---------------------------------------------------------------------
 *
 * The engine has slots of its own that only its thread may look at: what the http thread knows is
 * which sequences are out, and the engine's count of those that run. So a slot's number is its
 * place among the running ones, oldest first. */

static int32_t gather_slots(const struct exchange *own, struct api_slot *slots, int32_t n_max,
                            bool begun)
{
    int32_t n = 0;
    const struct exchange *x = own;
    while (x->next != NULL) /* the list is newest first */
        x = x->next;
    for (; x != NULL && n < n_max; x = x->previous)
        for (int32_t i = 0; i < x->n_choices && n < n_max; i++) {
            const struct choice *c = &x->choices[i];
            if (c->done || c->begun != begun)
                continue;
            slots[n++] = (struct api_slot){ .sampling = &c->request->sampling,
                                            .n_max = c->request->max_tokens,
                                            .n_decoded = c->n_tokens,
                                            .id_task = c->request->id };
        }
    return n;
}

static void answer_slots(struct exchange *x)
{
    struct server *server = x->server;
    struct engine_stats stats;
    int32_t n_slots = server->info.n_slots, n;
    const char *fail =
        MHD_lookup_connection_value(x->mhd, MHD_GET_ARGUMENT_KIND, "fail_on_no_slot");
    struct api_slot *slots = calloc((size_t)n_slots, sizeof *slots);
    if (slots == NULL) {
        err_set(&x->err, ERR_MEMORY, "no memory for %d slots", (int)n_slots);
        x->status = api_status(x->err.code);
        api_write_error(&x->out, &x->err, 0, 0);
        return;
    }
    engine_stats_read(server->engine, &stats);
    n = gather_slots(x->http->exchanges, slots, n_slots, true);
    if (stats.running > n) /* those whose prompt is being read have no event yet */
        n += gather_slots(x->http->exchanges, slots + n,
                          (stats.running < n_slots ? stats.running : n_slots) - n, false);
    if (fail != NULL && strcmp(fail, "0") != 0 && n >= n_slots) {
        err_set(&x->err, ERR_UNAVAILABLE, "no slot is free");
        x->status = 503;
        api_write_error(&x->out, &x->err, 0, 0);
    } else {
        api_write_slots(&x->out, &server->api, &server->info, slots, n);
    }
    free(slots);
}

/* Requests that are being worked on. */
static int32_t count_load(const struct exchange *x)
{
    int32_t n = 0;
    for (; x != NULL; x = x->next)
        n += x->state == EXCHANGE_PREP || x->state == EXCHANGE_RUNNING ||
             (x->state == EXCHANGE_STREAM && !x->out_final);
    return n;
}

/* Answers that need the model; x->status is 503 while there is none. */
static void answer_loaded(struct exchange *x)
{
    struct server *server = x->server;
    switch (x->route->kind) {
    case ROUTE_KIND_MODELS:
        api_write_models(&x->out, &server->api);
        return;
    case ROUTE_KIND_SERVER_INFO:
        api_write_server_info(&x->out, &server->api, &server->info);
        return;
    case ROUTE_KIND_TOKENIZER_INFO:
        if (server->info.has_tokenizer) {
            api_write_tokenizer_info(&x->out, &server->api, &server->info);
            return;
        }
        err_set(&x->err, ERR_UNSUPPORTED, "%s", server->api.no_tokenizer);
        x->status = api_status(x->err.code);
        api_write_error(&x->out, &x->err, 0, 0);
        return;
    case ROUTE_KIND_PROPS:
        api_write_props(&x->out, &server->api, &server->info);
        return;
    case ROUTE_KIND_SLOTS:
        answer_slots(x);
        return;
    default:
        CHECK(false && "a route that needs the model");
    }
}

void route_answer(struct exchange *x)
{
    struct server *server = x->server;
    int state = atomic_load_explicit(&server->state, memory_order_acquire);
    x->status = 200;
    switch (x->route->kind) {
    case ROUTE_KIND_PAGE: {
        size_t length;
        const char *text = page_text(&length);
        x->content_type = "text/html; charset=utf-8";
        buf_put(&x->out, text, length);
        return;
    }
    case ROUTE_KIND_HEALTH:
    case ROUTE_KIND_READY:
        answer_state(x, x->route->kind == ROUTE_KIND_READY);
        return;
    case ROUTE_KIND_LIVE:
        buf_puts(&x->out, "{\"status\":\"live\"}");
        return;
    case ROUTE_KIND_VERSION:
        buf_puts(&x->out, "{\"version\":\"" NIBBLE_VERSION "\"}");
        return;
    case ROUTE_KIND_OPENAPI: {
        size_t length;
        const char *text = openapi_text(&length);
        buf_put(&x->out, text, length);
        return;
    }
    case ROUTE_KIND_LOAD:
        buf_printf(&x->out, "{\"server_load\":%d}", (int)count_load(x->http->exchanges));
        return;
    case ROUTE_KIND_MODELS:
    case ROUTE_KIND_SERVER_INFO:
    case ROUTE_KIND_TOKENIZER_INFO:
    case ROUTE_KIND_PROPS:
    case ROUTE_KIND_SLOTS:
        if (state == SERVER_LOADING || server->engine == NULL)
            answer_state(x, false);
        else
            answer_loaded(x);
        return;
    case ROUTE_KIND_METRICS: {
        struct engine_stats stats;
        bool loaded = state != SERVER_LOADING && server->engine != NULL;
        if (loaded)
            engine_stats_read(server->engine, &stats);
        x->content_type = "text/plain; version=0.0.4; charset=utf-8";
        static const struct metrics_model loading = { .name = "", .ctx = INT32_MAX };
        metrics_write(&x->out, &server->metrics, loaded ? &stats : NULL,
                      loaded ? &server->metrics_model : &loading);
        return;
    }
    case ROUTE_KIND_UNSUPPORTED:
        err_set(&x->err, ERR_UNSUPPORTED,
                "%s: ranking of texts is known, and not implemented in this server",
                x->route->path);
        x->status = api_status(x->err.code);
        api_write_error(&x->out, &x->err, 0, 0);
        return;
    case ROUTE_KIND_JOB:
        break;
    }
}
