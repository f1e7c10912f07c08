/* cmd_serve.c - the server's life: listen, load, serve, drain, exit (DESIGN 3).
 *
 * The http thread starts first, so that /health answers 503 while the model loads. SIGTERM and
 * SIGINT are blocked in every thread and taken by this one: the first drains, a second one ends the
 * process at once. A lost device ends it with status 1. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "host/base/slice.h"
#include "host/base/clock.h"
#include "host/base/log.h"
#include "server/commands.h"
#include "server/http.h"
#include "server/load_model.h"

enum {
    STALL_MS_MAX = 30000, /* the heartbeat beats once a layer; a layer of 512 rows takes seconds on
                             a slow machine, never so long */
    SLOTS_MAX = 8192,
    WATCH_MS = 1000, /* how often the device is looked at; idle, this is all that runs */
};

struct service {
    struct server server;
    struct http *http;
    pthread_t thread;
    bool has_thread;
    struct loaded loaded;
    struct engine *engine;
    const char *names[OPTION_LIST_MAX];
    int drain_signal; /* the one that began the drain */
};

/* ---- signals ----------------------------------------------------------------------------------
 */

static sigset_t stop_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}

/* SIGTERM or SIGINT within wait_ms, or 0. */
static int take_signal(int wait_ms)
{
    sigset_t set = stop_signals();
    struct timespec wait = { .tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000L };
    int number = sigtimedwait(&set, NULL, &wait);
    return number > 0 ? number : 0;
}

/* While the model loads there is nothing to drain: nobody was promised anything yet. */
static void stop_while_loading(void)
{
    if (take_signal(0) == 0)
        return;
    if (isatty(STDERR_FILENO) == 1)
        fputs("\r\033[K", stderr);
    log_info("stop", "text=\"asked to stop while loading\"");
    _exit(0);
}

/* ---- the http thread --------------------------------------------------------------------------
 */

static void *http_thread(void *argument)
{
    pthread_setname_np(pthread_self(), "nibble-http");
    slice_set_us(SLICE_LOOP_US);
    http_run(argument);
    return NULL;
}

/* Waits for the http thread's end; a second signal ends the process. */
static void join_http(struct service *s)
{
    while (s->has_thread) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 50 * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        if (pthread_timedjoin_np(s->thread, NULL, &until) == 0) {
            s->has_thread = false;
        } else if (take_signal(0) != 0) {
            log_warn("stop", "text=\"a second signal: not waiting for streams\"");
            _exit(1);
        }
    }
}

/* ---- start ------------------------------------------------------------------------------------
 */

/* Where a client on this machine would go: an address that means "all" is reached as localhost. */
static void client_address(const struct service *s, const struct options *o, char *text,
                           size_t size)
{
    const char *host = strcmp(o->host, "0.0.0.0") == 0 ? "127.0.0.1"
                       : strcmp(o->host, "::") == 0    ? "::1"
                                                       : o->host;
    bool bare_v6 = strchr(host, ':') != NULL && host[0] != '[';
    snprintf(text, size, "http://%s%.255s%s:%d", bare_v6 ? "[" : "", host, bare_v6 ? "]" : "",
             (int)http_port(s->http));
}

static bool start_http(struct service *s, const struct options *o, struct err *err)
{
    struct server *server = &s->server;
    *server = (struct server){
        .state = SERVER_LOADING,
        .body_bytes_max = (size_t)o->max_body,
        .stall_ms_max = STALL_MS_MAX,
        .drain_ms_max = (uint64_t)o->drain_ms,
        .head_ms_max = (uint64_t)o->head_ms,
        .body_ms_max = (uint64_t)o->body_ms,
        .connections_max = o->max_connections,
        .started_s = (int64_t)time(NULL),
        .log_requests = o->log_requests,
    };
    metrics_init(&server->metrics);
    if (o->api_key_file != NULL && !auth_open(&server->auth, o->api_key_file, err))
        return false;
    if (!http_open(&s->http, server, o->host, o->port, err))
        return false;
    int failed = pthread_create(&s->thread, NULL, http_thread, s->http);
    if (failed != 0)
        return err_set(err, ERR_IO, "cannot start the http thread: %s", strerror(failed));
    s->has_thread = true;
    char address[300];
    client_address(s, o, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);
    return true;
}

static bool is_a_word(const char *parser)
{
    return strcmp(parser, "auto") == 0 || strcmp(parser, "none") == 0;
}

/* --tool-parser and --reasoning-parser name a format, auto or none. */
static bool check_parsers(const struct options *o, struct err *err)
{
    struct buf names;
    bool ok = true;
    buf_init(&names, 1 << 12);
    if (is_a_word(o->tool_parser) || tool_format_find(o->tool_parser) != NULL) {
        for (int32_t i = 0; reason_format_at(i) != NULL; i++)
            buf_printf(&names, ", %s", reason_format_at(i)->name);
        ok = is_a_word(o->reasoning_parser) || reason_format_find(o->reasoning_parser) != NULL ||
             err_set(err, ERR_REQUEST, "--reasoning-parser must be one of auto, none%s, got %s",
                     buf_text(&names), o->reasoning_parser);
    } else {
        for (int32_t i = 0; tool_format_at(i) != NULL; i++)
            buf_printf(&names, ", %s", tool_format_at(i)->name);
        ok = err_set(err, ERR_REQUEST, "--tool-parser must be one of auto, none%s, got %s",
                     buf_text(&names), o->tool_parser);
    }
    buf_clear(&names);
    return ok;
}

/* How its text is split. */
static void fill_parsers(struct api_model *api, const struct model *model, const struct options *o)
{
    if (model->chat == NULL)
        return;
    const char *source = model->chat_source;
    size_t length = strlen(source);
    api->tool_format = strcmp(o->tool_parser, "auto") == 0 ? tool_format_of(source, length)
                                                           : tool_format_find(o->tool_parser);
    api->reasoning = strcmp(o->reasoning_parser, "auto") == 0
                         ? reason_format_of(source, length)
                         : reason_format_find(o->reasoning_parser);
    api->no_tools = strcmp(o->tool_parser, "none") == 0
                        ? "--tool-parser is none"
                        : "this model's chat template does not show tools";
    api->string_arguments = tool_template_wants_strings(model->chat);
    log_info("parsers", "tools=%s reasoning=%s arguments=%s",
             api->tool_format != NULL ? api->tool_format->name : "none",
             api->reasoning != NULL ? api->reasoning->name : "none",
             api->string_arguments ? "strings" : "objects");
}

static void fill_api(struct service *s, const struct options *o)
{
    const struct model *model = &s->loaded.model;
    const struct model_defaults *d = &model->defaults;
    int32_t n = 0;
    for (; n < o->aliases.n; n++)
        s->names[n] = o->aliases.items[n];
    if (n == 0)
        s->names[n++] = s->loaded.name;
    s->server.api = (struct api_model){
        .id = s->names[0],
        .names = s->names,
        .n_names = n,
        .vocab = model->vocab,
        .ctx = model->ctx,
        .created_s = s->server.started_s,
        .temperature = d->temperature,
        .top_p = d->top_p,
        .min_p = d->min_p,
        .typical_p = d->typical_p,
        .repetition_penalty = d->repetition_penalty,
        .top_k = d->top_k,
        .max_tokens = d->max_tokens,
        .no_tokenizer = model->tokenizer != NULL ? "" : model->tokenizer_reason,
        .no_chat = model->chat != NULL ? "" : model->chat_reason,
    };
}

/* What a row costs: weights that it is multiplied with, keys and values that it writes. A separate
 * embedding table is looked up; a tied one is the head too. */
static struct metrics_model metrics_model_of(const struct model *model, const char *name,
                                             const struct engine *engine)
{
    struct engine_stats stats;
    struct model_slot *slots = calloc(SLOTS_MAX, sizeof *slots);
    int32_t n = slots != NULL ? model_slots(model, slots, SLOTS_MAX) : 0;
    double weights = 0, embed = 0;
    bool has_head = false;
    for (int32_t i = 0; i < n && i < SLOTS_MAX; i++) {
        const struct model_slot *slot = &slots[i];
        double size = slot->n_in > 1 && slot->n_out > 1
                          ? (double)slot->n_out * slot->n_in * slot->n_chosen / slot->n_experts
                          : 0;
        if (strstr(slot->name, "embed") != NULL)
            embed = size;
        else
            weights += size;
        has_head = has_head || strstr(slot->name, "head") != NULL;
    }
    free(slots);
    engine_stats_read(engine, &stats);
    struct metrics_model out = { .name = name,
                                 .ctx = model->ctx,
                                 .n_pages = stats.pages_total[0],
                                 .flops_per_row = 2 * (weights + (has_head ? 0 : embed)),
                                 .weight_bytes = (double)model->weight_bytes };
    for (int32_t g = 0; g < model->kv_shape.n_groups; g++)
        out.kv_row_bytes += (double)kv_page_bytes(&model->kv_shape, g) / PAGE_TOKENS;
    return out;
}

static void fill_info(struct service *s, const struct options *o)
{
    const struct model *model = &s->loaded.model;
    struct metrics_model *numbers = &s->server.metrics_model;
    *numbers = metrics_model_of(model, s->server.api.id, s->engine);
    s->server.info = (struct api_server){
        .version = NIBBLE_VERSION,
        .device = model->be->name,
        .n_slots = o->max_seqs,
        .n_queue = o->max_queue,
        .page_tokens = PAGE_TOKENS,
        .n_pages = numbers->n_pages,
        .chat_template = model->chat != NULL ? model->chat_source : NULL,
        .bos = model->bos_text,
        .eos = model->eos_text,
        .unk = model->unk_text,
        .pad = model->pad_text,
        .has_tokenizer = model->tokenizer != NULL,
    };
}

static bool start_model(struct service *s, const struct options *o, struct err *err)
{
    struct load_choice choice = load_choice_of(o, o->max_seqs);
    choice.tick = stop_while_loading;
    uint64_t from = clock_ns();
    if (!check_parsers(o, err) || !load_model(&s->loaded, o, &choice, err) ||
        !load_plan(&s->loaded, o, o->max_seqs, o->max_connections, err))
        return false;
    struct buf table;
    buf_init(&table, 1 << 20);
    memory_plan_print(&table, &s->loaded.plan);
    fputs(buf_text(&table), stdout);
    fflush(stdout);
    buf_clear(&table);
    if (!load_engine(&s->loaded, o, o->max_seqs, o->max_queue, &s->engine, err))
        return false;
    fill_api(s, o);
    fill_parsers(&s->server.api, &s->loaded.model, o);
    fill_info(s, o);
    const struct model *model = &s->loaded.model;
    log_info("loaded", "model=%s parameters=%lld backend=\"%s\" ctx=%d ms=%.0f", s->server.api.id,
             (long long)model->n_parameters, model->be->name, (int)model->ctx,
             (double)(clock_ns() - from) * 1e-6);
    if (model->tokenizer == NULL)
        log_warn("tokenizer", "text=\"token ids only: %s\"", model->tokenizer_reason);
    else if (model->chat == NULL)
        log_warn("chat", "text=\"no chat endpoint: %s\"", model->chat_reason);
    return true;
}

static void print_try(const struct service *s, const struct options *o)
{
    char address[300];
    client_address(s, o, address, sizeof address);
    const char *key = s->server.auth != NULL ? " -H 'Authorization: Bearer KEY'" : "";
    const struct model *model = &s->loaded.model;
    if (model->chat != NULL)
        printf("ready; try: curl -N %s/v1/chat/completions%s -d '{\"stream\": true, \"messages\": "
               "[{\"role\": \"user\", \"content\": \"Tell me a story about a fox.\"}]}'\n",
               address, key);
    else
        printf("ready; try: curl %s/v1/completions%s -d '{\"prompt\": %s, \"max_tokens\": 16}'\n",
               address, key, model->tokenizer != NULL ? "\"Once upon a time\"" : "[1, 2, 3]");
    fflush(stdout);
}

/* ---- life and end -----------------------------------------------------------------------------
 */

/* Until a signal (true) or the device is lost (false). */
static bool watch(struct service *s)
{
    for (;;) {
        s->drain_signal = take_signal(WATCH_MS);
        if (s->drain_signal != 0)
            return true;
        struct engine_stats stats;
        engine_stats_read(s->engine, &stats);
        if (stats.device_lost) {
            log_error("device", "text=\"%s\"", stats.device_error);
            return false;
        }
    }
}

/* Live requests end first (or with an error event, when the device is lost), then the http thread
 * returns, having taken all news; then nobody is left to use the engine. */
static void stop(struct service *s)
{
    if (s->has_thread) {
        http_drain(s->http);
        join_http(s);
    }
    if (s->engine != NULL)
        engine_stop(s->engine);
    http_close(s->http);
    if (s->engine != NULL)
        engine_close(s->engine);
    load_close(&s->loaded);
    auth_close(s->server.auth);
}

static int check_only(const struct options *o)
{
    struct err err;
    struct auth *auth = NULL;
    if (o->api_key_file != NULL && !auth_open(&auth, o->api_key_file, &err))
        return command_fail(&err);
    auth_close(auth);
    puts("the configuration is fine");
    return 0;
}

int cmd_serve(const struct options *o)
{
    struct err err;
    struct service s = { 0 };
    if (o->check_config)
        return check_only(o);
    log_configure((enum log_level)o->log_level, o->log_json);
    /* Two malloc arenas: what clients made us allocate goes back to the system, not into one arena
     * a thread. */
    mallopt(M_ARENA_MAX, 2);
    sigset_t set = stop_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (!start_http(&s, o, &err) || !start_model(&s, o, &err)) {
        command_fail(&err);
        stop(&s);
        return 1;
    }
    s.server.model = &s.loaded.model;
    s.server.engine = s.engine;
    atomic_store_explicit(&s.server.state, SERVER_READY, memory_order_release);
    http_wake(s.http);
    print_try(&s, o);
    bool asked = watch(&s);
    if (!asked)
        atomic_store_explicit(&s.server.state, SERVER_FAILED, memory_order_release);
    stop(&s);
    return asked ? 0 : 1;
}
