/* loadgen_client.c - a request from connect to its last byte.
 *
 * Why not libcurl: Debian's brings eleven more shared libraries (Kerberos, LDAP, SSH, RTMP among
 * them) into images that have eight, for the one shape of exchange that is needed here (POST with
 * Content-Length out; chunked, length or close in), and hides when a read took place, which is what
 * is measured. */
#include "server/loadgen_client.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/json.h"

enum { READ_BYTES = 64 * 1024, OUT_BYTES_MAX = 1 << 30 };

static const struct json_limits REPLY_LIMITS = { LOAD_REPLY_MAX, 64, 1 << 22 };

struct load_client *load_client_open(void)
{
    struct load_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->fd = -1;
    buf_init(&c->out, OUT_BYTES_MAX);
    buf_init(&c->body, LOAD_REPLY_MAX);
    http_reader_init(&c->http);
    sse_reader_init(&c->sse);
    return c;
}

static void disconnect(struct load_client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->used = false;
}

void load_client_close(struct load_client *c)
{
    if (c == NULL)
        return;
    disconnect(c);
    buf_clear(&c->out);
    buf_clear(&c->body);
    http_reader_clear(&c->http);
    sse_reader_clear(&c->sse);
    free(c);
}

void load_client_drop(struct load_client *c)
{
    disconnect(c);
    c->state = CLIENT_IDLE;
}

void load_client_fail(struct load_client *c, enum load_error outcome, const char *text)
{
    c->outcome = outcome;
    err_set(&c->err, ERR_IO, "%s", text);
    c->last_ns = clock_ns();
    load_client_drop(c);
}

/* ---- what a reply says ------------------------------------------------------------------------
 */

static bool has_text(const struct json_ref *object, const char *key)
{
    struct json_ref at;
    const char *text;
    struct err err;
    return json_get(object, key, &at) && json_string(&at, &text, &err) && text[0] != 0;
}

/* Whether an event's choices carry something of the model's. */
static bool read_choices(struct load_client *c, const struct json_ref *root)
{
    struct json_ref choices, choice;
    bool text = false;
    if (!json_get(root, "choices", &choices))
        return false;
    for (bool more = json_first(&choices, &choice); more; more = json_next(&choice)) {
        struct json_ref delta, calls, ids;
        text = text || has_text(&choice, "text");
        text = text || (json_get(&choice, "token_ids", &ids) && json_count(&ids) > 0);
        c->ended = c->ended || has_text(&choice, "finish_reason");
        if (json_get(&choice, "delta", &delta) || json_get(&choice, "message", &delta))
            text = text || has_text(&delta, "content") || has_text(&delta, "reasoning_content") ||
                   has_text(&delta, "reasoning") ||
                   (json_get(&delta, "tool_calls", &calls) && json_count(&calls) > 0);
    }
    return text;
}

static void read_usage(struct load_client *c, const struct json_ref *root)
{
    struct json_ref usage;
    struct err err;
    int64_t prompt = 0, output = 0;
    if (!json_get(root, "usage", &usage) || !json_is_object(&usage))
        return;
    if (json_opt_int(&usage, "prompt_tokens", 0, INT32_MAX, &prompt, &err) &&
        json_opt_int(&usage, "completion_tokens", 0, INT32_MAX, &output, &err)) {
        c->has_usage = true;
        c->n_prompt = (int32_t)prompt;
        c->n_output = (int32_t)output;
    }
}

/* The message of {"error": {"message": ...}} or {"error": "..."}, cut to fit. */
static void read_error(struct load_client *c, const struct json_ref *root)
{
    struct json_ref error, message;
    struct err err;
    const char *text = "an error";
    if (json_get(root, "error", &error)) {
        const struct json_ref *at = json_get(&error, "message", &message) ? &message : &error;
        if (!json_string(at, &text, &err))
            text = "an error";
    }
    err_set(&c->err, ERR_IO, "%.160s", text);
}

static void count_gap(struct load_client *c, double gap)
{
    struct load_stage *stage = c->stage;
    c->gap_max = gap > c->gap_max ? gap : c->gap_max;
    if (stage == NULL)
        return;
    if (stage->n_gaps == stage->gaps_room) {
        int64_t room = stage->gaps_room == 0 ? 4096 : 2 * stage->gaps_room;
        float *gaps = realloc(stage->gaps, (size_t)room * sizeof *gaps);
        if (gaps == NULL) {
            c->outcome = LOAD_PROTOCOL;
            err_set(&c->err, ERR_MEMORY, "no memory for %lld gaps", (long long)room);
            return;
        }
        stage->gaps = gaps;
        stage->gaps_room = room;
    }
    stage->gaps[stage->n_gaps++] = (float)gap;
}

static void on_event(void *context, const char *data, size_t n)
{
    struct load_client *c = context;
    struct cJSON *root = NULL;
    if (c->outcome != LOAD_OK)
        return;
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        c->ended = true;
        return;
    }
    if (!json_parse(data, n, &REPLY_LIMITS, ERR_FORMAT, &root, &c->err)) {
        c->outcome = LOAD_PROTOCOL;
        return;
    }
    struct json_ref at = json_root(root), error;
    if (json_get(&at, "error", &error)) {
        c->outcome = LOAD_STREAM;
        read_error(c, &at);
    } else {
        read_usage(c, &at);
        if (read_choices(c, &at)) {
            if (c->n_events++ == 0)
                c->first_ns = c->now_ns;
            else
                count_gap(c, (double)(c->now_ns - c->last_ns) * 1e-9);
            c->last_ns = c->now_ns;
        }
    }
    json_free(root);
}

static void on_body(void *context, const char *bytes, size_t n)
{
    struct load_client *c = context;
    if (c->http.event_stream && c->http.status == 200)
        sse_reader_feed(&c->sse, bytes, n, on_event, c);
    else
        buf_put(&c->body, bytes, n);
}

static void judge_body(struct load_client *c)
{
    struct cJSON *root = NULL;
    struct err ignored;
    bool good = c->http.status == 200;
    if (!json_parse(buf_text(&c->body), c->body.length, &REPLY_LIMITS, ERR_FORMAT, &root,
                    good ? &c->err : &ignored)) {
        c->outcome = good ? LOAD_PROTOCOL : LOAD_STATUS;
        if (!good)
            err_set(&c->err, ERR_IO, "%.160s", buf_text(&c->body));
        return;
    }
    struct json_ref at = json_root(root);
    if (good) {
        read_usage(c, &at);
        c->n_events = read_choices(c, &at);
        c->first_ns = c->now_ns; /* all of it came at once */
    } else {
        c->outcome = LOAD_STATUS;
        read_error(c, &at);
    }
    json_free(root);
}

/* The reply is whole. */
static void judge(struct load_client *c)
{
    if (c->outcome != LOAD_OK)
        return;
    if (c->sse.failed || c->body.failed) {
        c->outcome = LOAD_PROTOCOL;
        err_set(&c->err, ERR_TOO_LARGE, "the reply has more than %d bytes", LOAD_REPLY_MAX);
    } else if (!c->http.event_stream || c->http.status != 200) {
        judge_body(c);
    } else if (!c->ended) {
        c->outcome = LOAD_STREAM;
        err_set(&c->err, ERR_FORMAT, "the stream ended without finish_reason and [DONE]");
    }
    if (!c->has_usage)
        c->n_output = c->n_events;
    if (c->n_events == 0) /* no text at all: its end is all there is to see */
        c->first_ns = c->now_ns;
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

static bool fail_io(struct load_client *c, enum load_error outcome, const char *what)
{
    char text[160];
    snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    load_client_fail(c, outcome, text);
    return true;
}

/* True: failed. */
static bool connect_now(struct load_client *c, const struct load_address *address, int epoll_fd)
{
    int one = 1;
    disconnect(c);
    c->fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return fail_io(c, LOAD_CONNECT, "socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                 .data.ptr = c };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        return fail_io(c, LOAD_CONNECT, "epoll_ctl");
    c->state = CLIENT_CONNECTING;
    c->sent = 0;
    int rc = connect(c->fd, (const struct sockaddr *)&address->address, address->length);
    if (rc != 0 && errno != EINPROGRESS)
        return fail_io(c, LOAD_CONNECT, "connect");
    return false;
}

bool load_client_start(struct load_client *c, const struct load_address *address, int epoll_fd,
                       uint64_t start_ns, uint64_t deadline_ns, struct load_stage *stage)
{
    http_reader_reset(&c->http);
    sse_reader_reset(&c->sse);
    buf_reset(&c->body);
    c->stage = stage;
    c->start_ns = start_ns;
    c->deadline_ns = deadline_ns;
    c->first_ns = c->last_ns = 0;
    c->n_events = c->n_output = c->n_prompt = 0;
    c->gap_max = 0;
    c->has_usage = c->ended = c->answered = false;
    c->outcome = LOAD_OK;
    c->err = (struct err){ 0 };
    c->sent = 0;
    if (c->fd < 0)
        return connect_now(c, address, epoll_fd);
    c->state = CLIENT_SENDING;
    return load_client_ready(c, address, epoll_fd);
}

/* The connection broke. One that had served before may have been closed just as we wrote (RFC 9112
 * section 9.3.1): then the request goes out once more, and its clock runs on. True: it has ended.
 */
static bool broken(struct load_client *c, const struct load_address *address, int epoll_fd,
                   const char *what)
{
    if (c->used && !c->answered)
        return connect_now(c, address, epoll_fd);
    return fail_io(c, c->state == CLIENT_CONNECTING ? LOAD_CONNECT : LOAD_CLOSED, what);
}

static bool end_request(struct load_client *c)
{
    judge(c);
    c->last_ns = c->now_ns;
    c->state = CLIENT_IDLE;
    c->used = true;
    if (!c->http.keep_alive || c->outcome == LOAD_PROTOCOL)
        disconnect(c);
    return true;
}

/* True: the request has ended. */
static bool take_bytes(struct load_client *c, const char *bytes, size_t n)
{
    size_t used;
    c->now_ns = clock_ns();
    c->answered = true;
    if (!http_reader_feed(&c->http, bytes, n, &used, on_body, c, &c->err)) {
        c->outcome = LOAD_PROTOCOL;
        c->http.keep_alive = false;
        return end_request(c);
    }
    if (c->http.part != HTTP_DONE)
        return false;
    if (used < n)
        c->http.keep_alive = false; /* more than a reply: nothing to build on */
    return end_request(c);
}

static bool read_reply(struct load_client *c, const struct load_address *address, int epoll_fd)
{
    static char block[READ_BYTES]; /* one thread */
    for (;;) {
        ssize_t n = recv(c->fd, block, sizeof block, 0);
        if (n > 0) {
            if (take_bytes(c, block, (size_t)n))
                return true;
        } else if (n == 0) {
            c->now_ns = clock_ns();
            if (http_reader_end(&c->http))
                return end_request(c);
            errno = ECONNRESET;
            return broken(c, address, epoll_fd, "the server closed the connection");
        } else if (errno == EAGAIN) {
            return false;
        } else if (errno != EINTR) {
            return broken(c, address, epoll_fd, "recv");
        }
    }
}

static bool send_request(struct load_client *c, const struct load_address *address, int epoll_fd)
{
    while (c->sent < c->out.length) {
        ssize_t n = send(c->fd, c->out.bytes + c->sent, c->out.length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0 && errno != EINTR) {
            /* An early refusal (413) may be waiting to be read. */
            if (errno == EPIPE || errno == ECONNRESET)
                break;
            return broken(c, address, epoll_fd, "send");
        }
        c->sent += n > 0 ? (size_t)n : 0;
    }
    c->state = CLIENT_READING;
    return false;
}

bool load_client_ready(struct load_client *c, const struct load_address *address, int epoll_fd)
{
    if (c->state == CLIENT_IDLE) {
        char byte; /* a close, or bytes that nobody asked for: not to be used again */
        if (recv(c->fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN)
            disconnect(c);
        return false;
    }
    if (c->state == CLIENT_CONNECTING) {
        int failed = 0;
        socklen_t length = sizeof failed;
        struct sockaddr_storage peer;
        socklen_t peer_length = sizeof peer;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &failed, &length);
        errno = failed;
        if (failed != 0)
            return fail_io(c, LOAD_CONNECT, "connect");
        if (getpeername(c->fd, (struct sockaddr *)&peer, &peer_length) != 0)
            return false; /* not yet */
        c->state = CLIENT_SENDING;
    }
    if (c->state == CLIENT_SENDING && send_request(c, address, epoll_fd))
        return true;
    if (c->state == CLIENT_SENDING || c->state == CLIENT_READING)
        return read_reply(c, address, epoll_fd);
    return false;
}
