/* loadgen_client.h - one connection, and the request on it. */
#pragma once
#include <sys/socket.h>
#include "server/loadgen.h"
#include "server/loadgen_http.h"

enum client_state { CLIENT_IDLE, CLIENT_CONNECTING, CLIENT_SENDING, CLIENT_READING };
struct load_client {
    int fd; /* -1: not connected */
    enum client_state state;
    bool used;      /* the connection has carried a whole reply: the server may have closed it */
    bool answered;  /* bytes of the reply in hand have come */
    struct buf out; /* the request: head and body */
    size_t sent;
    struct http_reader http;
    struct sse_reader sse;
    struct buf body; /* a reply that is no stream */
    /* of the request in hand */
    struct load_stage *stage; /* gaps go there; NULL: none */
    uint64_t start_ns, deadline_ns, first_ns, last_ns;
    uint64_t now_ns; /* of the bytes being read */
    int32_t n_events, n_output, n_prompt;
    double gap_max;
    bool has_usage, ended; /* [DONE], or a finish_reason, was seen */
    enum load_error outcome;
    struct err err; /* when the outcome is not LOAD_OK */
};
struct load_address {
    struct sockaddr_storage address;
    socklen_t length;
    int family;
};

struct load_client *load_client_open(void); /* NULL: no memory */
void load_client_close(struct load_client *client);
/* Send what is in `out`; its times count from start_ns. True: it has failed already. */
bool load_client_start(struct load_client *client, const struct load_address *address, int epoll_fd,
                       uint64_t start_ns, uint64_t deadline_ns, struct load_stage *stage);
/* Its descriptor is ready (edge-triggered). True: the request has ended, `outcome` says how. */
bool load_client_ready(struct load_client *client, const struct load_address *address,
                       int epoll_fd);
/* End it with this outcome and drop the connection. */
void load_client_fail(struct load_client *client, enum load_error outcome, const char *text);
/* Forget the request in hand, and its connection. */
void load_client_drop(struct load_client *client);
