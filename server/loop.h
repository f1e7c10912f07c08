/* loop.h - what http.c and its neighbours (conn.c, handler.c) share. Http thread only. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <microhttpd.h>
#include "server/http.h"

/* One TCP connection. Slots are reused; an epoll event carries slot and generation, so that an
 * event of a dead connection cannot touch the next one on the same descriptor. */
struct conn {
    int fd;
    uint32_t slot, generation;
    struct MHD_Connection *mhd;
    struct exchange *exchange; /* the one in progress, or NULL */
    bool used, hung_up, cut;
    uint64_t since_ms;   /* accepted, or the last exchange completed */
    uint64_t hung_up_ms; /* when hung_up was set */
};
struct http {
    struct server *server;
    struct MHD_Daemon *daemon;
    struct prep *prep;
    int epoll_fd, wake_fd, listen_fd, mhd_fd,
        engine_fd; /* engine_fd: -1 until the engine is seen */
    int32_t port;
    struct conn *conns; /* [conns_max] */
    uint32_t conns_max, n_conns;
    uint32_t *free_slots, n_free;
    uint64_t *hung_up; /* [n_hung_up <= conns_max] keys of connections whose peer has said FIN */
    uint32_t n_hung_up;
    size_t body_bytes;          /* of request bodies held, in exchanges and in jobs */
    struct exchange *exchanges; /* live ones */
    int32_t n_exchanges, n_streams;
    uint64_t sweep_ms, ids;
    _Atomic bool drain_wanted;
    bool conn_ended; /* since the last wait: see wait_ms */
    bool draining, listening;
    bool drain_is_over;      /* drain_ms_max has passed: what runs is cancelled */
    uint64_t drain_until_ms; /* the next step of the drain; see drain_further */
};

/* conn.c */
MUST_USE bool conns_open(struct http *http, uint32_t n_max, struct err *err);
void conns_close(struct http *http);
void conn_notify(void *context, struct MHD_Connection *mhd, void **socket_context,
                 enum MHD_ConnectionNotificationCode code);
struct conn *conn_find(struct http *http, uint64_t key);
uint64_t conn_key(const struct conn *conn);
/* The peer will send nothing more. Called before MHD_run; the answer is conns_tend_hung_up's. */
void conn_hang_up(struct http *http, struct conn *conn);
/* After each MHD_run: end what hung-up connections are in the middle of. Costs nothing while there
 * are none. */
void conns_tend_hung_up(struct http *http);
/* Cut what is late. Every 100 ms while anything is open. */
void conns_sweep(struct http *http, uint64_t now_ms);
void conns_cut_all(struct http *http);

/* handler.c: libmicrohttpd's callbacks and the life of an exchange. */
enum MHD_Result handler_access(void *context, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *data,
                               size_t *data_size, void **request_context);
void handler_completed(void *context, struct MHD_Connection *mhd, void **request_context,
                       enum MHD_RequestTerminationCode code);
/* A job came back from prep; a request has news. */
void exchange_job_done(struct exchange *exchange, struct job *job);
void exchange_news(struct exchange *exchange, struct request *request, bool returned);
/* The client is gone: cancel, let MHD finish. */
void exchange_hang_up(struct exchange *exchange);
/* Something changed: resume the connection if MHD has work. */
void exchange_poke(struct exchange *exchange);
/* Free it if nobody holds it any more. */
void exchange_try_free(struct exchange *exchange);
