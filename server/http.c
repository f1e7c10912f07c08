/* http.c - the loop. See http.h for why it is ours and not libmicrohttpd's. */
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/log.h"
#include "server/loop.h"

enum {
    N_PREP = 2,
    PREP_JOBS_MAX = 2048,
    EVENTS = 256,
    BACKLOG = 1024,
    SWEEP_MS = 100,
    PING_MS = 10000,
    POOL_BYTES = 16 * 1024, /* a connection's head must fit: one header or URL of about 16 kB */
    DRAIN_CUT_MS = 2000,
    MMAP_BYTES = 128 * 1024,
    SEND_TIMEOUT_S = 30, /* libmicrohttpd's inactivity: a reader that takes nothing */
};
/* epoll keys that are not connections: their generation part is zero, slots are below. */
#define KEY_MHD    0xfffffffdu
#define KEY_WAKE   0xfffffffeu
#define KEY_ENGINE 0xffffffffu

static void panic(void *context, const char *file, unsigned line, const char *reason)
{
    (void)context;
    log_error("libmicrohttpd", "file=%s line=%u reason=\"%s\"", file, line, reason ? reason : "");
    abort();
}

static void mhd_log(void *context, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
static void mhd_log(void *context, const char *format, va_list arguments)
{
    (void)context;
    char text[256];
    vsnprintf(text, sizeof text, format, arguments);
    text[strcspn(text, "\n")] = 0;
    log_debug("libmicrohttpd", "text=\"%s\"", text);
}

/* Paths are compared as they were sent: nothing is unescaped, %00 and %2f cannot hide. */
static size_t no_unescape(void *context, struct MHD_Connection *mhd, char *text)
{
    (void)context;
    (void)mhd;
    return strlen(text);
}

static bool watch(struct http *http, int fd, uint32_t key, struct err *err)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = key };
    if (epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return err_set(err, ERR_IO, "epoll_ctl: %s", strerror(errno));
    return true;
}

static int listen_on(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static bool open_listener(struct http *http, const char *host, int32_t port, struct err *err)
{
    char service[16];
    snprintf(service, sizeof service, "%d", (int)port);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *list = NULL;
    int code = getaddrinfo(host, service, &hints, &list);
    if (code != 0)
        return err_set(err, ERR_IO, "--host %s: %s", host, gai_strerror(code));
    http->listen_fd = -1;
    for (const struct addrinfo *at = list; at != NULL && http->listen_fd < 0; at = at->ai_next)
        http->listen_fd = listen_on(at);
    freeaddrinfo(list);
    if (http->listen_fd < 0)
        return err_set(err, ERR_IO, "cannot listen on %s port %d: %s", host, (int)port,
                       strerror(errno));
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    if (getsockname(http->listen_fd, (struct sockaddr *)&bound, &length) == 0)
        http->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                       : ((struct sockaddr_in *)&bound)->sin_port);
    return true;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

bool http_open(struct http **out, struct server *server, const char *host, int32_t port,
               struct err *err)
{
    struct http *http = calloc(1, sizeof *http);
    if (http == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the event loop");
    http->server = server;
    http->listen_fd = http->epoll_fd = http->wake_fd = http->engine_fd = -1;
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    /* A fixed threshold: glibc's own grows to the largest body it has seen freed, later bodies come
     * from the heap then, and 43 MB of 268 stayed with us after 300 bodies (5 MB so). */
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    MHD_set_panic_func(panic, NULL);
    http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    http->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (http->epoll_fd < 0 || http->wake_fd < 0) {
        err_set(err, ERR_IO, "epoll or eventfd: %s", strerror(errno));
        goto fail;
    }
    if (!conns_open(http, (uint32_t)server->connections_max + 16, err) ||
        !open_listener(http, host, port, err) ||
        !prep_open(&http->prep, N_PREP, PREP_JOBS_MAX, http->wake_fd, err))
        goto fail;
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, handler_access,
        http, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, http->listen_fd,
        MHD_OPTION_NOTIFY_COMPLETED, handler_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
        conn_notify, http, MHD_OPTION_UNESCAPE_CALLBACK, no_unescape, NULL,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)server->connections_max,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)SEND_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)POOL_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (http->daemon == NULL) {
        err_set(err, ERR_IO, "libmicrohttpd does not start");
        goto fail;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    CHECK(info != NULL);
    http->mhd_fd = info->epoll_fd;
    http->listening = true;
    if (!watch(http, http->mhd_fd, KEY_MHD, err) || !watch(http, http->wake_fd, KEY_WAKE, err))
        goto fail;
    *out = http;
    return true;
fail:
    http_close(http);
    return false;
}

int32_t http_port(const struct http *http)
{
    return http->port;
}

void http_wake(struct http *http)
{
    uint64_t one = 1;
    ssize_t written = write(http->wake_fd, &one, sizeof one);
    (void)written;
}

void http_drain(struct http *http)
{
    atomic_store(&http->drain_wanted, true);
    http_wake(http);
}

static void take_engine_news(struct http *http)
{
    uint64_t n;
    ssize_t got = read(http->engine_fd, &n, sizeof n);
    (void)got;
    for (struct request *request; (request = engine_take_news(http->server->engine)) != NULL;) {
        bool returned = atomic_load(&request->returned);
        exchange_news(request->owner, request, returned);
    }
}

static void take_jobs(struct http *http)
{
    uint64_t n;
    ssize_t got = read(http->wake_fd, &n, sizeof n);
    (void)got;
    for (struct job *job; (job = prep_take(http->prep)) != NULL;)
        exchange_job_done(job->exchange, job);
    if (http->engine_fd < 0 &&
        atomic_load_explicit(&http->server->state, memory_order_acquire) == SERVER_READY) {
        struct err err;
        http->engine_fd = engine_news_fd(http->server->engine);
        if (!watch(http, http->engine_fd, KEY_ENGINE, &err))
            log_error("http", "text=\"%s\"", err.text);
    }
}

static void begin_drain(struct http *http, uint64_t now_ms)
{
    http->draining = true;
    http->drain_until_ms = now_ms + http->server->drain_ms_max;
    /* LOADING stays: the load has failed, and there is still no model to speak of. */
    int ready = SERVER_READY;
    atomic_compare_exchange_strong(&http->server->state, &ready, SERVER_DRAINING);
    /* New clients are refused at once instead of hanging in the backlog until exit. */
    MHD_socket fd = MHD_quiesce_daemon(http->daemon);
    if (fd != MHD_INVALID_SOCKET) {
        shutdown(fd, SHUT_RDWR);
        close(fd);
    }
    http->listening = false;
    http->listen_fd = -1;
    log_info("drain", "exchanges=%d", (int)http->n_exchanges);
}

/* An SSE comment now and then: proxies keep the stream, dead peers are noticed. */
static void ping_streams(struct http *http, uint64_t now_ns)
{
    for (struct exchange *x = http->exchanges; x != NULL; x = x->next) {
        if (x->state != EXCHANGE_STREAM || x->out_final || x->out.length != x->out_read)
            continue;
        if (now_ns - x->ping_ns > (uint64_t)PING_MS * 1000000u) {
            buf_puts(&x->out, ": ping\n\n");
            x->ping_ns = now_ns;
            exchange_poke(x);
        }
    }
}

/* The time for streams is up: what runs is cancelled and ends as an error event and a terminal one;
 * a client that does not take these within DRAIN_CUT_MS is cut. */
static void drain_further(struct http *http, uint64_t now_ms)
{
    http->drain_until_ms = now_ms + DRAIN_CUT_MS;
    if (http->drain_is_over) {
        conns_cut_all(http);
        return;
    }
    http->drain_is_over = true;
    for (struct exchange *x = http->exchanges; x != NULL; x = x->next)
        if (x->job != NULL && x->n_done < x->n_choices)
            exchange_cancel(x);
}

static void sweep(struct http *http)
{
    uint64_t now_ms = clock_ms();
    if (now_ms - http->sweep_ms < SWEEP_MS)
        return;
    http->sweep_ms = now_ms;
    conns_sweep(http, now_ms);
    ping_streams(http, clock_ns());
    if (http->draining && now_ms > http->drain_until_ms)
        drain_further(http, now_ms);
}

static int wait_ms(struct http *http)
{
    /* Out of descriptors, libmicrohttpd stops listening, and takes it up again in the MHD_run after
     * the one that ended a connection: there must be one, or an idle loop waits for ever. */
    if (http->conn_ended) {
        http->conn_ended = false;
        return 0;
    }
    MHD_UNSIGNED_LONG_LONG mhd_ms;
    if (MHD_get_timeout(http->daemon, &mhd_ms) == MHD_YES && mhd_ms < SWEEP_MS)
        return (int)mhd_ms;
    return http->n_conns > 0 || http->draining ? SWEEP_MS : -1; /* idle: no wake-ups at all */
}

void http_run(struct http *http)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(http->epoll_fd, events, EVENTS, wait_ms(http));
        for (int i = 0; i < n; i++) {
            uint64_t key = events[i].data.u64;
            if (key == KEY_WAKE) {
                take_jobs(http);
            } else if (key == KEY_ENGINE) {
                take_engine_news(http);
            } else if (key != KEY_MHD) {
                struct conn *conn = conn_find(http, key);
                if (conn != NULL)
                    conn_hang_up(http, conn);
            }
        }
        if (MHD_run(http->daemon) == MHD_NO)
            log_warn("http", "text=\"MHD_run failed\"");
        conns_tend_hung_up(http);
        sweep(http);
        if (!http->draining && atomic_load(&http->drain_wanted))
            begin_drain(http, clock_ms());
        if (http->draining && http->n_exchanges == 0)
            return;
    }
}

void http_close(struct http *http)
{
    if (http == NULL)
        return;
    prep_close(http->prep);
    if (http->daemon != NULL)
        MHD_stop_daemon(http->daemon);
    if (http->listen_fd >= 0 && (http->daemon == NULL))
        close(http->listen_fd);
    if (http->epoll_fd >= 0)
        close(http->epoll_fd);
    if (http->wake_fd >= 0)
        close(http->wake_fd);
    conns_close(http);
    free(http);
}
