/* cmd_health.c - GET /health of a running server over a plain socket, within a time limit: the
 * images' HEALTHCHECK. Exit status 0: it answered 200. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "server/commands.h"
#include "server/url.h"

/* The server on this machine that --host and --port (or NIBBLE_PORT) describe. */
static bool own_url(const struct options *o, struct url *target, struct err *err)
{
    *target = (struct url){ 0 };
    const char *host = strcmp(o->host, "0.0.0.0") == 0 ? "127.0.0.1"
                       : strcmp(o->host, "::") == 0    ? "::1"
                                                       : o->host;
    if (!url_set_host(target, host))
        return err_set(err, ERR_REQUEST, "--host: %.100s is not a host's name", o->host);
    snprintf(target->port, sizeof target->port, "%d", (int)o->port);
    return true;
}

static bool wait_for(int fd, short events, uint64_t until_ms)
{
    for (;;) {
        uint64_t now = clock_ms();
        struct pollfd poller = { .fd = fd, .events = events };
        int n = now >= until_ms ? 0 : poll(&poller, 1, (int)(until_ms - now));
        if (n > 0)
            return true;
        if (n == 0) {
            errno = ETIMEDOUT;
            return false;
        }
        if (errno != EINTR)
            return false;
    }
}

static int connect_to(const struct addrinfo *list, uint64_t until_ms)
{
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        int failed = 0;
        socklen_t length = sizeof failed;
        if (connect(fd, at->ai_addr, at->ai_addrlen) == 0)
            return fd;
        if (errno == EINPROGRESS && wait_for(fd, POLLOUT, until_ms) &&
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &length) == 0) {
            if (failed == 0)
                return fd;
            errno = failed;
        }
        int saved = errno;
        close(fd);
        errno = saved;
    }
    return -1;
}

/* Sends the request and reads until the server closes (at most size - 1 bytes are kept). */
static bool exchange_bytes(int fd, const struct url *target, char *reply, size_t size,
                           uint64_t until_ms)
{
    char request[700];
    int length = snprintf(
        request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n",
        target->path[0] != 0 ? target->path : "/health", target->host, target->port);
    for (int sent = 0; sent < length;) {
        if (!wait_for(fd, POLLOUT, until_ms))
            return false;
        ssize_t n = send(fd, request + sent, (size_t)(length - sent), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        sent += n > 0 ? (int)n : 0;
    }
    size_t got = 0;
    while (got < size - 1) {
        if (!wait_for(fd, POLLIN, until_ms))
            return false;
        ssize_t n = recv(fd, reply + got, size - 1 - got, 0);
        if (n == 0)
            break;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        got += n > 0 ? (size_t)n : 0;
    }
    reply[got] = 0;
    return true;
}

static bool ask(const struct url *target, int32_t timeout_ms, int *status, char *reply, size_t size,
                struct err *err)
{
    uint64_t until_ms = clock_ms() + (uint64_t)timeout_ms;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *list = NULL;
    int code = getaddrinfo(target->host, target->port, &hints, &list);
    if (code != 0)
        return err_set(err, ERR_IO, "%s: %s", target->host, gai_strerror(code));
    int fd = connect_to(list, until_ms);
    freeaddrinfo(list);
    bool ok = fd >= 0 && exchange_bytes(fd, target, reply, size, until_ms);
    if (!ok)
        err_set(err, ERR_IO, "%s port %s: %s", target->host, target->port, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (!ok)
        return false;
    if (sscanf(reply, "HTTP/1.%*1[01] %3d", status) != 1)
        return err_set(err, ERR_FORMAT, "%s port %s: the answer is not HTTP", target->host,
                       target->port);
    return true;
}

int cmd_health(const struct options *o)
{
    struct err err;
    struct url target;
    char reply[16384];
    int status = 0;
    if (!(o->url != NULL ? url_read(o->url, &target, &err) : own_url(o, &target, &err)) ||
        !ask(&target, o->timeout_ms, &status, reply, sizeof reply, &err))
        return command_fail(&err);
    const char *body = strstr(reply, "\r\n\r\n");
    printf("%d %s\n", status, body != NULL ? body + 4 : "");
    return status == 200 ? 0 : 1;
}
