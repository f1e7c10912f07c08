/* server.h - what the whole process shares: the loaded model, the engine, the options in force.
 *
 * Everything here is constant once `state` has left SERVER_LOADING, but for the atomics. The http
 * thread starts first (so that /health can say 503 while the model loads) and looks at `model` and
 * `engine` only after it has seen SERVER_READY (release / acquire on `state`). */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "api/generate.h"
#include "api/info.h"
#include "host/engine/engine.h"
#include "host/model/model.h"
#include "server/auth.h"
#include "server/metrics.h"

enum server_state {
    SERVER_LOADING, /* /health 503 */
    SERVER_READY,
    SERVER_DRAINING, /* /ready 503, /health 200, new work 503 */
    SERVER_FAILED,   /* device lost: /health 503, the process is about to exit non-zero */
};
struct server {
    _Atomic int state;     /* enum server_state */
    struct model *model;   /* borrowed */
    struct engine *engine; /* borrowed */
    struct api_model api;
    struct api_server info;
    struct auth *auth; /* NULL: no key needed */
    struct metrics metrics;
    struct metrics_model metrics_model;
    size_t body_bytes_max; /* 413 above: 1 MiB, --max-body */
    uint64_t stall_ms_max; /* heartbeat older than this: /health 503 */
    uint64_t drain_ms_max; /* how long SIGTERM lets streams go on */
    uint64_t head_ms_max;  /* idle keep-alive and slow heads are cut after this */
    uint64_t body_ms_max;  /* a body must be complete so long after its head */
    int32_t connections_max;
    int64_t started_s;
    bool log_requests;
};
