/* routes.c - the table of paths, and the answers that need no worker and never wait for the engine.
 */
#include <string.h>
#include "api/text.h"
#include "server/http.h"

static const struct http_route routes[] = {
    { "/v1/chat/completions", true, false, ROUTE_KIND_JOB, JOB_CHAT, ROUTE_CHAT },
    { "/chat/completions", true, false, ROUTE_KIND_JOB, JOB_CHAT, ROUTE_CHAT },
    { "/v1/completions", true, false, ROUTE_KIND_JOB, JOB_COMPLETION, ROUTE_COMPLETIONS },
    { "/tokenize", true, false, ROUTE_KIND_JOB, JOB_TOKENIZE, ROUTE_TEXT },
    { "/detokenize", true, false, ROUTE_KIND_JOB, JOB_DETOKENIZE, ROUTE_TEXT },
    { "/apply-template", true, false, ROUTE_KIND_JOB, JOB_APPLY_TEMPLATE, ROUTE_TEXT },
    { "/", false, true, ROUTE_KIND_PAGE, JOB_CHAT, ROUTE_INFO },
    { "/health", false, true, ROUTE_KIND_HEALTH, JOB_CHAT, ROUTE_INFO },
    { "/ping", false, true, ROUTE_KIND_HEALTH, JOB_CHAT, ROUTE_INFO },
    { "/ready", false, true, ROUTE_KIND_READY, JOB_CHAT, ROUTE_INFO },
    { "/live", false, true, ROUTE_KIND_LIVE, JOB_CHAT, ROUTE_INFO },
    { "/v1/models", false, false, ROUTE_KIND_MODELS, JOB_CHAT, ROUTE_INFO },
    { "/models", false, false, ROUTE_KIND_MODELS, JOB_CHAT, ROUTE_INFO },
    { "/metrics", false, false, ROUTE_KIND_METRICS, JOB_CHAT, ROUTE_INFO },
    { "/version", false, false, ROUTE_KIND_VERSION, JOB_CHAT, ROUTE_INFO },
};

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
    case ROUTE_KIND_MODELS:
        if (state == SERVER_LOADING)
            answer_state(x, false);
        else
            api_write_models(&x->out, &server->api);
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
    case ROUTE_KIND_JOB:
        break;
    }
}
