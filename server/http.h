/* http.h - the event loop: one thread owns libmicrohttpd, every connection and every exchange.
 *
 * libmicrohttpd runs in external epoll mode; its descriptor sits in our epoll set beside the
 * engine's news, the workers' wake-up and every connection's socket (EPOLLRDHUP: a suspended
 * connection is blind otherwise). Why, with measurements: libmicrohttpd's own epoll thread stalls
 * when exactly 128 connections are ready at once. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "server/exchange.h"
#include "server/server.h"

struct http;
/* Binds and listens (port 0: any free one). */
MUST_USE bool http_open(struct http **http, struct server *server, const char *host, int32_t port,
                        struct err *err);
int32_t http_port(const struct http *http);
/* The loop, on the calling thread, until stopped and drained. */
void http_run(struct http *http);
/* From any thread: state of the server has changed (ready, engine set); look again. */
void http_wake(struct http *http);
/* From any thread: refuse new work, let streams end within drain_ms_max, then return from run. */
void http_drain(struct http *http);
void http_close(struct http *http);

/* gate.c: refuses malformed HTTP that libmicrohttpd lets through. False: *status and err say why.
 */
MUST_USE bool gate_check(struct MHD_Connection *mhd, const char *url, const char *method,
                         const char *version, size_t body_bytes_max, int32_t *status,
                         struct err *err);

/* routes.c */
enum route_kind {
    ROUTE_KIND_PAGE,
    ROUTE_KIND_HEALTH,
    ROUTE_KIND_READY,
    ROUTE_KIND_LIVE,
    ROUTE_KIND_MODELS,
    ROUTE_KIND_METRICS,
    ROUTE_KIND_VERSION,
    ROUTE_KIND_LOAD,
    ROUTE_KIND_SERVER_INFO,
    ROUTE_KIND_TOKENIZER_INFO,
    ROUTE_KIND_PROPS,
    ROUTE_KIND_SLOTS,
    ROUTE_KIND_OPENAPI,
    ROUTE_KIND_UNSUPPORTED, /* known by name, not done here: 501 */
    ROUTE_KIND_JOB
};
struct http_route {
    const char *path;
    bool post; /* else GET and HEAD */
    bool open; /* needs no key */
    enum route_kind kind;
    enum job_kind job;
    enum metric_route metric;
};
/* NULL: no such path. */
const struct http_route *route_find(const char *path);
/* All of them, [*n]. */
const struct http_route *route_table(size_t *n);
/* Answer a GET route: status, content type and body in the exchange. Never waits for the engine. */
void route_answer(struct exchange *exchange);
/* The web page. */
const char *page_text(size_t *length);
/* api/openapi.json. */
const char *openapi_text(size_t *length);
