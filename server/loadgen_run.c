/* loadgen_run.c - one epoll loop on one thread drives every connection of a stage.
 *
 * A client is idle (on the stack of idle ones, perhaps connected) or has a request in flight. What
 * has ended is started anew by the loop, never from inside a reader: an address that refuses at
 * once must not grow the C stack. SIGINT and SIGTERM come through a descriptor; what is in flight
 * then is cut and counts neither as done nor as an error. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "server/loadgen_client.h"

enum { EVENTS = 256, SWEEP_MS = 50, CONNECT_MS = 5000, ASK_MS = 600000 };

struct load_loop {
    struct loadgen *load;
    struct load_address address;
    int epoll_fd, timer_fd, signal_fd;
    struct load_client **clients; /* [n_clients], of room LOAD_CLIENTS_MAX */
    struct load_client **idle;    /* [n_idle], likewise */
    int32_t n_clients, n_idle;
    /* the stage in hand; NULL: outside of one */
    struct load_stage *stage;
    int32_t stage_index, n_places; /* requests that may be in flight */
    uint64_t begin_ns, end_ns, next_ns, sweep_ns;
};

/* ---- opening ----------------------------------------------------------------------------------
 */

static bool try_address(const struct addrinfo *at, struct err *err)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int failed = 0;
    socklen_t length = sizeof failed;
    if (fd < 0)
        return err_set(err, ERR_IO, "socket: %s", strerror(errno));
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
        struct pollfd poller = { .fd = fd, .events = POLLOUT };
        failed = errno;
        if (failed == EINPROGRESS) {
            failed = poll(&poller, 1, CONNECT_MS) == 1 ? 0 : ETIMEDOUT;
            if (failed == 0)
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &length);
        }
    }
    close(fd);
    return failed == 0 || err_set(err, ERR_IO, "connect: %s", strerror(failed));
}

/* The first address that takes a connection; all later ones go there. */
static bool find_address(struct load_loop *l, struct err *err)
{
    const struct url *url = &l->load->url;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *list = NULL;
    int code = getaddrinfo(url->host, url->port, &hints, &list);
    if (code != 0)
        return err_set(err, ERR_IO, "%s: %s", url->host, gai_strerror(code));
    bool found = false;
    for (const struct addrinfo *at = list; at != NULL && !found; at = at->ai_next)
        if (at->ai_addrlen <= sizeof l->address.address && try_address(at, err)) {
            memcpy(&l->address.address, at->ai_addr, at->ai_addrlen);
            l->address.length = at->ai_addrlen;
            l->address.family = at->ai_family;
            found = true;
        }
    freeaddrinfo(list);
    if (!found)
        err_prefix(err, "%s port %s: ", url->host, url->port);
    return found;
}

static bool watch(struct load_loop *l, int *fd, struct err *err)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = fd };
    return (*fd >= 0 && epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, *fd, &event) == 0) ||
           err_set(err, ERR_IO, "epoll: %s", strerror(errno));
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

bool load_loop_open(struct load_loop **out, struct loadgen *load, struct err *err)
{
    struct load_loop *l = calloc(1, sizeof *l);
    sigset_t set;
    if (l == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the event loop");
    l->load = load;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise_descriptor_limit();
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    l->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    l->clients = calloc(LOAD_CLIENTS_MAX, sizeof(struct load_client *));
    l->idle = calloc(LOAD_CLIENTS_MAX, sizeof(struct load_client *));
    if (l->clients == NULL || l->idle == NULL) {
        err_set(err, ERR_MEMORY, "no memory for %d connections", LOAD_CLIENTS_MAX);
        goto fail;
    }
    if (!watch(l, &l->timer_fd, err) || !watch(l, &l->signal_fd, err) || !find_address(l, err))
        goto fail;
    *out = l;
    return true;
fail:
    load_loop_close(l);
    return false;
}

void load_loop_close(struct load_loop *l)
{
    if (l == NULL)
        return;
    for (int32_t i = 0; i < l->n_clients; i++)
        load_client_close(l->clients[i]);
    free(l->clients);
    free(l->idle);
    const int fds[] = { l->epoll_fd, l->timer_fd, l->signal_fd };
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(l);
}

/* ---- requests ---------------------------------------------------------------------------------
 */

/* An idle client, made where there is none and there may be one more. NULL: no. */
static struct load_client *take_idle(struct load_loop *l)
{
    if (l->n_idle > 0)
        return l->idle[--l->n_idle];
    if (l->n_clients == LOAD_CLIENTS_MAX)
        return NULL;
    struct load_client *c = load_client_open();
    if (c != NULL)
        l->clients[l->n_clients++] = c;
    return c;
}

static int32_t n_busy(const struct load_loop *l)
{
    return l->n_clients - l->n_idle;
}

static void write_request(struct load_loop *l, struct load_client *c, const char *method,
                          const char *path, const struct buf *body)
{
    const struct loadgen *load = l->load;
    bool v6 = strchr(load->url.host, ':') != NULL;
    buf_reset(&c->out);
    buf_printf(&c->out, "%s %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: nibble-bench\r\n", method,
               path, v6 ? "[" : "", load->url.host, v6 ? "]" : "", load->url.port);
    if (load->key[0] != 0)
        buf_printf(&c->out, "Authorization: Bearer %s\r\n", load->key);
    if (body != NULL)
        buf_printf(&c->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                   body->length);
    buf_puts(&c->out, "\r\n");
    if (body != NULL)
        buf_put(&c->out, buf_text(body), body->length);
}

/* A request of the stage has ended. */
static void settle(struct load_loop *l, struct load_client *c)
{
    struct load_stage *stage = l->stage;
    l->idle[l->n_idle++] = c;
    if (stage == NULL)
        return;
    l->end_ns = c->last_ns > l->end_ns ? c->last_ns : l->end_ns;
    if (c->outcome != LOAD_OK) {
        stage->errors[c->outcome]++;
        if (c->outcome == LOAD_STATUS && c->http.status < 600)
            stage->statuses[c->http.status]++;
        if (stage->first_error[0] == 0)
            snprintf(stage->first_error, sizeof stage->first_error, "%.199s", c->err.text);
        return;
    }
    double first = (double)(c->first_ns - c->start_ns) * 1e-9;
    double whole = (double)(c->last_ns - c->start_ns) * 1e-9;
    stage->records[stage->n_ok++] = (struct load_record){
        .ttft = first,
        .e2e = whole,
        .tpot = c->n_output > 1 ? (whole - first) / (c->n_output - 1) : 0,
        .gap_max = c->gap_max,
        .n_prompt = c->n_prompt,
        .n_output = c->n_output,
        .n_events = c->n_events,
    };
}

static bool start_one(struct load_loop *l, uint64_t start_ns, struct err *err)
{
    struct loadgen *load = l->load;
    struct load_client *c = take_idle(l);
    struct buf body;
    char path[320];
    if (c == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a connection");
    buf_init(&body, (size_t)1 << 30);
    load_plan_body(&load->plan, l->stage_index, l->stage->n_sent, load->model, &body);
    snprintf(path, sizeof path, "%s/%s", load->base,
             load->plan.chat ? "chat/completions" : "completions");
    write_request(l, c, "POST", path, &body);
    bool failed = body.failed || c->out.failed;
    buf_clear(&body);
    if (failed) {
        l->idle[l->n_idle++] = c;
        return err_set(err, ERR_MEMORY, "no memory for a request");
    }
    l->stage->n_sent++;
    uint64_t now = clock_ns();
    uint64_t limit_ns = (uint64_t)load->options->request_ms * 1000000u;
    if (load_client_start(c, &l->address, l->epoll_fd, start_ns != 0 ? start_ns : now,
                          now + limit_ns, l->stage))
        settle(l, c);
    return true;
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static void set_timer(struct load_loop *l, uint64_t at_ns)
{
    struct itimerspec when = { .it_value = { .tv_sec = (time_t)(at_ns / 1000000000u),
                                             .tv_nsec = (long)(at_ns % 1000000000u) } };
    timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Waits for at most SWEEP_MS, and lets every ready client go on. */
static void step(struct load_loop *l)
{
    struct epoll_event events[EVENTS];
    uint64_t drained[16];
    int n = epoll_wait(l->epoll_fd, events, EVENTS, SWEEP_MS);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == &l->timer_fd) {
            (void)!read(l->timer_fd, drained, sizeof drained);
        } else if (events[i].data.ptr == &l->signal_fd) {
            l->load->stopped = true; /* stays readable: whoever looks next sees it too */
        } else {
            struct load_client *c = events[i].data.ptr;
            bool idle = c->state == CLIENT_IDLE;
            if (c->fd >= 0 && load_client_ready(c, &l->address, l->epoll_fd) && !idle)
                settle(l, c);
        }
    }
    uint64_t now = clock_ns();
    if (now - l->sweep_ns < (uint64_t)SWEEP_MS * 1000000u)
        return;
    l->sweep_ns = now;
    for (int32_t i = 0; i < l->n_clients; i++) {
        struct load_client *c = l->clients[i];
        if (c->state != CLIENT_IDLE && now > c->deadline_ns) {
            load_client_fail(c, LOAD_TIMEOUT, "no whole reply within --request-ms");
            settle(l, c);
        }
    }
}

static bool may_start(const struct load_loop *l)
{
    const struct load_stage *stage = l->stage;
    return !l->load->stopped && stage->n_sent < stage->n_requests &&
           (stage->seconds_max <= 0 ||
            (double)(clock_ns() - l->begin_ns) * 1e-9 < stage->seconds_max);
}

static bool start_due(struct load_loop *l, struct err *err)
{
    const struct load_stage *stage = l->stage;
    while (may_start(l) && n_busy(l) < l->n_places) {
        uint64_t at = 0;
        if (stage->concurrency == 0) {
            at = l->next_ns;
            if (at > clock_ns()) {
                set_timer(l, at);
                return true;
            }
        }
        if (!start_one(l, at, err))
            return false;
        if (stage->concurrency == 0)
            l->next_ns += (uint64_t)(load_plan_gap(&l->load->plan, l->stage_index, stage->n_sent,
                                                   stage->rate) *
                                     1e9);
    }
    return true;
}

static void cut_all(struct load_loop *l)
{
    for (int32_t i = 0; i < l->n_clients; i++) {
        struct load_client *c = l->clients[i];
        if (c->state == CLIENT_IDLE)
            continue;
        load_client_drop(c);
        l->idle[l->n_idle++] = c;
        if (l->stage != NULL)
            l->stage->n_cut++;
    }
}

bool load_loop_stage(struct load_loop *l, int32_t index, struct err *err)
{
    struct load_stage *stage = &l->load->stages[index];
    bool ok = true;
    stage->records = calloc((size_t)stage->n_requests, sizeof *stage->records);
    if (stage->records == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %d requests", (int)stage->n_requests);
    l->stage = stage;
    l->stage_index = index;
    l->n_places = stage->concurrency > 0 ? stage->concurrency : LOAD_CLIENTS_MAX;
    l->begin_ns = l->end_ns = l->next_ns = clock_ns();
    while (ok && !l->load->stopped && (may_start(l) || n_busy(l) > 0)) {
        ok = start_due(l, err);
        if (ok && (n_busy(l) > 0 || may_start(l)))
            step(l);
    }
    if (l->load->stopped && n_busy(l) > 0)
        l->end_ns = clock_ns();
    cut_all(l);
    stage->seconds = (double)(l->end_ns - l->begin_ns) * 1e-9;
    l->stage = NULL;
    return ok;
}

bool load_loop_ask(struct load_loop *l, const char *method, const char *path,
                   const struct buf *body, struct buf *reply, struct err *err)
{
    struct load_client *c = take_idle(l);
    if (c == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a connection");
    write_request(l, c, method, path, body);
    uint64_t now = clock_ns();
    if (load_client_start(c, &l->address, l->epoll_fd, now, now + (uint64_t)ASK_MS * 1000000u,
                          NULL))
        settle(l, c);
    while (c->state != CLIENT_IDLE && !l->load->stopped)
        step(l);
    cut_all(l);
    if (l->load->stopped)
        return err_set(err, ERR_UNAVAILABLE, "stopped");
    if (c->outcome == LOAD_STATUS)
        return err_set(err, ERR_UNAVAILABLE, "%s %s: status %d: %.200s", method, path,
                       (int)c->http.status, c->err.text);
    if (c->outcome != LOAD_OK)
        return err_set(err, ERR_IO, "%s %s: %s: %.200s", method, path, LOAD_ERROR_NAMES[c->outcome],
                       c->err.text);
    buf_reset(reply);
    buf_put(reply, buf_text(&c->body), c->body.length);
    return !reply->failed || err_set(err, ERR_MEMORY, "no memory for a reply");
}
