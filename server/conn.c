/* conn.c - connections beside libmicrohttpd: hang-ups, deadlines, keep-alive probes.
 *
 * A suspended connection is blind (0 of 200 vanished clients noticed in 12 s), and edge-triggered
 * reads miss a FIN that comes with data: so every socket is also in our set with EPOLLRDHUP. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include "host/base/clock.h"
#include "server/loop.h"

enum {
    FIN_MS = 1000, /* after its FIN, a body has so long to come out of the kernel whole */
    REPLY_MS_MAX = 60000,
};

bool conns_open(struct http *http, uint32_t n_max, struct err *err)
{
    http->conns = calloc(n_max, sizeof *http->conns);
    http->free_slots = calloc(n_max, sizeof *http->free_slots);
    http->hung_up = calloc(n_max, sizeof *http->hung_up);
    if (http->conns == NULL || http->free_slots == NULL || http->hung_up == NULL) {
        conns_close(http);
        return err_set(err, ERR_MEMORY, "no memory for %u connections", n_max);
    }
    http->conns_max = n_max;
    for (uint32_t i = 0; i < n_max; i++)
        http->free_slots[i] = n_max - 1 - i;
    http->n_free = n_max;
    return true;
}

void conns_close(struct http *http)
{
    free(http->conns);
    free(http->free_slots);
    free(http->hung_up);
    http->hung_up = NULL;
    http->conns = NULL;
    http->free_slots = NULL;
}

uint64_t conn_key(const struct conn *conn)
{
    return ((uint64_t)conn->generation << 32) | conn->slot;
}

static void set_option(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value, sizeof value); /* best effort: a unix socket has none */
}

static void conn_begin(struct http *http, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == NULL || http->n_free == 0)
        return; /* over the limit: MHD's own limit is lower, so only without fd */
    struct conn *conn = &http->conns[http->free_slots[--http->n_free]];
    uint32_t generation = conn->generation + 1;
    *conn = (struct conn){ .fd = info->connect_fd,
                           .slot = (uint32_t)(conn - http->conns),
                           .generation = generation,
                           .mhd = mhd,
                           .used = true,
                           .since_ms = clock_ms() };
    /* A peer that vanished without FIN: 15 s idle + 3 probes of 5 s; 20 s of unacknowledged data.
     */
    set_option(conn->fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(conn->fd, IPPROTO_TCP, TCP_KEEPIDLE, 15);
    set_option(conn->fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(conn->fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(conn->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 20000);
    set_option(conn->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* A reader that takes nothing is noticed after 64 KiB, not after a megabyte. */
    set_option(conn->fd, SOL_SOCKET, SO_SNDBUF, 64 * 1024);
    struct epoll_event event = { .events = EPOLLRDHUP | EPOLLET, .data.u64 = conn_key(conn) };
    epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event);
    *socket_context = conn;
    http->n_conns++;
    http->server->metrics.connections = (int32_t)http->n_conns;
}

static void conn_end(struct http *http, void **socket_context)
{
    struct conn *conn = *socket_context;
    if (conn == NULL)
        return;
    epoll_ctl(http->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    if (conn->exchange != NULL)
        conn->exchange->conn = NULL;
    conn->used = false;
    conn->mhd = NULL;
    http->free_slots[http->n_free++] = conn->slot;
    http->n_conns--;
    http->conn_ended = true;
    http->server->metrics.connections = (int32_t)http->n_conns;
    *socket_context = NULL;
}

void conn_notify(void *context, struct MHD_Connection *mhd, void **socket_context,
                 enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_begin(context, mhd, socket_context);
    else
        conn_end(context, socket_context);
}

struct conn *conn_find(struct http *http, uint64_t key)
{
    uint32_t slot = (uint32_t)key, generation = (uint32_t)(key >> 32);
    if (slot >= http->conns_max)
        return NULL;
    struct conn *conn = &http->conns[slot];
    return conn->used && conn->generation == generation ? conn : NULL;
}

static void cut(struct conn *conn)
{
    conn->cut = true;
    shutdown(conn->fd, SHUT_RDWR);
}

void conns_cut_all(struct http *http)
{
    for (uint32_t i = 0; i < http->conns_max; i++)
        if (http->conns[i].used && !http->conns[i].cut)
            cut(&http->conns[i]);
}

void conn_hang_up(struct http *http, struct conn *conn)
{
    if (conn->hung_up)
        return;
    conn->hung_up = true;
    conn->hung_up_ms = clock_ms();
    http->hung_up[http->n_hung_up++] = conn_key(conn); /* once a connection: there is room */
}

/* False: there may be more to do for it later. */
static bool tend(struct conn *conn, uint64_t now_ms)
{
    struct exchange *x = conn->exchange;
    if (x == NULL) {
        cut(conn);
        return true;
    }
    switch (x->state) {
    case EXCHANGE_BODY:
        /* What came before the FIN may still be on its way through libmicrohttpd. */
        if (now_ms - conn->hung_up_ms < FIN_MS)
            return false;
        cut(conn);
        return true;
    case EXCHANGE_REPLY:
        return false; /* a half-closing client gets its answer */
    case EXCHANGE_PREP:
    case EXCHANGE_RUNNING:
    case EXCHANGE_STREAM:
        break;
    }
    /* A half-close while something runs counts as gone, as nginx's 499. The socket is cut too: a
     * stream that is blocked in its send buffer would be held until libmicrohttpd's timeout. */
    exchange_hang_up(x);
    cut(conn);
    return true;
}

void conns_tend_hung_up(struct http *http)
{
    uint64_t now_ms = http->n_hung_up > 0 ? clock_ms() : 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < http->n_hung_up; i++) {
        struct conn *conn = conn_find(http, http->hung_up[i]);
        if (conn != NULL && !conn->cut && !tend(conn, now_ms))
            http->hung_up[n++] = http->hung_up[i];
    }
    http->n_hung_up = n;
}

/* A reply that is complete must be taken at 16 KiB/s, and at least within REPLY_MS_MAX: a reader of
 * one byte a second holds its memory and its place for a day otherwise. */
static bool reply_is_late(struct exchange *x, uint64_t now_ms)
{
    if (x->state != EXCHANGE_REPLY && !(x->state == EXCHANGE_STREAM && x->out_final))
        return false;
    if (x->reply_ms == 0)
        x->reply_ms = now_ms;
    return now_ms - x->reply_ms > REPLY_MS_MAX + x->out.length / 16;
}

void conns_sweep(struct http *http, uint64_t now_ms)
{
    const struct server *server = http->server;
    for (uint32_t i = 0; i < http->conns_max; i++) {
        struct conn *conn = &http->conns[i];
        if (!conn->used || conn->cut)
            continue;
        struct exchange *x = conn->exchange;
        if (x == NULL) {
            /* An absolute limit: one byte every half second would hold an inactivity timeout open.
             */
            if (now_ms - conn->since_ms > server->head_ms_max)
                cut(conn);
        } else if (x->state == EXCHANGE_BODY ? now_ms > x->body_deadline_ms
                                             : reply_is_late(x, now_ms)) {
            cut(conn);
        }
    }
}
