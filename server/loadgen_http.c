/* loadgen_http.c - see loadgen_http.h. Two state machines that step line by line and never look
 * back: what is unfinished waits in `line`. */
#include "server/loadgen_http.h"
#include <string.h>
#include <strings.h>

void http_reader_init(struct http_reader *r)
{
    *r = (struct http_reader){ .part = HTTP_STATUS };
    buf_init(&r->line, HTTP_LINE_MAX);
}

void http_reader_reset(struct http_reader *r)
{
    struct buf line = r->line;
    *r = (struct http_reader){ .part = HTTP_STATUS, .line = line };
    buf_reset(&r->line);
}

void http_reader_clear(struct http_reader *r)
{
    buf_clear(&r->line);
}

/* ---- lines of the head ------------------------------------------------------------------------
 */

static bool read_status(struct http_reader *r, const char *line, struct err *err)
{
    bool good = strncmp(line, "HTTP/1.", 7) == 0 && (line[7] == '0' || line[7] == '1') &&
                line[8] == ' ' && strspn(line + 9, "0123456789") == 3 &&
                (line[12] == ' ' || line[12] == 0);
    if (!good)
        return err_set(err, ERR_FORMAT, "the reply is not HTTP/1.1: \"%.60s\"", line);
    r->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    r->keep_alive = line[7] == '1';
    r->chunked = r->has_length = r->event_stream = false;
    r->left = 0;
    r->part = HTTP_HEADER;
    return true;
}

/* The value, when `line` is a header called `name`; else NULL. */
static const char *value_of(const char *line, const char *name)
{
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    return line + n + 1 + strspn(line + n + 1, " \t");
}

static bool read_header(struct http_reader *r, const char *line, struct err *err)
{
    const char *value;
    if ((value = value_of(line, "Content-Length")) != NULL) {
        size_t digits = strspn(value, "0123456789");
        if (digits == 0 || digits > 18 || value[digits + strspn(value + digits, " \t")] != 0)
            return err_set(err, ERR_FORMAT, "Content-Length is \"%.40s\"", value);
        r->has_length = true;
        r->left = 0;
        for (size_t i = 0; i < digits; i++)
            r->left = r->left * 10 + (uint64_t)(value[i] - '0');
    } else if ((value = value_of(line, "Transfer-Encoding")) != NULL) {
        if (strncasecmp(value, "chunked", 7) != 0)
            return err_set(err, ERR_FORMAT, "Transfer-Encoding is \"%.40s\"", value);
        r->chunked = true;
    } else if ((value = value_of(line, "Connection")) != NULL) {
        if (strncasecmp(value, "close", 5) == 0)
            r->keep_alive = false;
        else if (strncasecmp(value, "keep-alive", 10) == 0)
            r->keep_alive = true;
    } else if ((value = value_of(line, "Content-Type")) != NULL) {
        r->event_stream = strncasecmp(value, "text/event-stream", 17) == 0;
    }
    return true;
}

/* Which body follows: RFC 9112 section 6.3. */
static void end_head(struct http_reader *r)
{
    if (r->status < 200) {
        r->part = HTTP_STATUS; /* 100 Continue and its like: the reply is still to come */
        r->head_bytes = 0;
    } else if (r->status == 204 || r->status == 304) {
        r->part = HTTP_DONE;
    } else if (r->chunked) {
        r->part = HTTP_CHUNK_SIZE;
    } else if (r->has_length) {
        r->part = r->left > 0 ? HTTP_LENGTH : HTTP_DONE;
    } else {
        r->part = HTTP_CLOSE;
        r->keep_alive = false;
    }
}

static bool read_chunk_size(struct http_reader *r, const char *line, struct err *err)
{
    size_t digits = strspn(line, "0123456789abcdefABCDEF");
    if (digits == 0 || digits > 15 || (line[digits] != 0 && strchr("; \t", line[digits]) == NULL))
        return err_set(err, ERR_FORMAT, "a chunk's size is \"%.40s\"", line);
    r->left = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = line[i];
        int value = c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
        r->left = r->left * 16 + (uint64_t)value;
    }
    r->part = r->left > 0 ? HTTP_CHUNK : HTTP_TRAILER;
    return true;
}

/* A whole line, without its end. */
static bool take_line(struct http_reader *r, struct err *err)
{
    if (r->line.failed)
        return err_set(err, ERR_FORMAT, "a line of the head is longer than %d bytes",
                       HTTP_LINE_MAX);
    if (r->line.length > 0 && r->line.bytes[r->line.length - 1] == '\r')
        r->line.bytes[--r->line.length] = 0;
    const char *line = buf_text(&r->line);
    bool ok = true, empty = r->line.length == 0;
    switch (r->part) {
    case HTTP_STATUS:
        ok = read_status(r, line, err);
        break;
    case HTTP_HEADER:
        if (empty)
            end_head(r);
        else
            ok = read_header(r, line, err);
        break;
    case HTTP_CHUNK_SIZE:
        ok = read_chunk_size(r, line, err);
        break;
    case HTTP_CHUNK_END:
        ok = empty || err_set(err, ERR_FORMAT, "a chunk is longer than its size");
        r->part = HTTP_CHUNK_SIZE;
        break;
    case HTTP_TRAILER:
        if (empty)
            r->part = HTTP_DONE;
        break;
    case HTTP_LENGTH:
    case HTTP_CLOSE:
    case HTTP_CHUNK:
    case HTTP_DONE:
        break;
    }
    buf_reset(&r->line);
    return ok;
}

/* Bytes of the line in hand, up to and with its end. */
static bool feed_line(struct http_reader *r, const char *bytes, size_t n, size_t *used,
                      struct err *err)
{
    const char *end = memchr(bytes, '\n', n);
    *used = end != NULL ? (size_t)(end - bytes) + 1 : n;
    bool head = r->part == HTTP_STATUS || r->part == HTTP_HEADER || r->part == HTTP_TRAILER;
    r->head_bytes += head ? *used : 0;
    if (r->head_bytes > HTTP_HEAD_MAX)
        return err_set(err, ERR_FORMAT, "the head is longer than %d bytes", HTTP_HEAD_MAX);
    buf_put(&r->line, bytes, end != NULL ? *used - 1 : *used);
    return end == NULL || take_line(r, err);
}

bool http_reader_feed(struct http_reader *r, const char *bytes, size_t n, size_t *used,
                      bytes_sink sink, void *context, struct err *err)
{
    size_t at = 0;
    while (at < n && r->part != HTTP_DONE) {
        size_t step = n - at;
        if (r->part == HTTP_CLOSE) {
            sink(context, bytes + at, step);
        } else if (r->part == HTTP_LENGTH || r->part == HTTP_CHUNK) {
            step = step < r->left ? step : (size_t)r->left;
            r->left -= step;
            sink(context, bytes + at, step);
            if (r->left == 0)
                r->part = r->part == HTTP_CHUNK ? HTTP_CHUNK_END : HTTP_DONE;
        } else if (!feed_line(r, bytes + at, n - at, &step, err)) {
            return false;
        }
        at += step;
    }
    *used = at;
    return true;
}

bool http_reader_end(struct http_reader *r)
{
    if (r->part == HTTP_CLOSE)
        r->part = HTTP_DONE;
    return r->part == HTTP_DONE;
}

/* ---- server-sent events -----------------------------------------------------------------------
 */

void sse_reader_init(struct sse_reader *r)
{
    *r = (struct sse_reader){ 0 };
    buf_init(&r->line, SSE_EVENT_MAX);
    buf_init(&r->data, SSE_EVENT_MAX);
}

void sse_reader_reset(struct sse_reader *r)
{
    buf_reset(&r->line);
    buf_reset(&r->data);
    r->has_data = r->after_cr = r->failed = false;
}

void sse_reader_clear(struct sse_reader *r)
{
    buf_clear(&r->line);
    buf_clear(&r->data);
}

static void sse_line(struct sse_reader *r, bytes_sink sink, void *context)
{
    const char *line = buf_text(&r->line);
    if (r->line.length == 0) {
        if (r->has_data)
            sink(context, buf_text(&r->data), r->data.length);
        buf_reset(&r->data);
        r->has_data = false;
    } else if (strncmp(line, "data:", 5) == 0 || strcmp(line, "data") == 0) {
        if (r->has_data)
            buf_putc(&r->data, '\n');
        size_t from = r->line.length < 5 ? r->line.length : line[5] == ' ' ? 6 : 5;
        buf_put(&r->data, line + from, r->line.length - from);
        r->has_data = true;
    }
    buf_reset(&r->line);
}

void sse_reader_feed(struct sse_reader *r, const char *bytes, size_t n, bytes_sink sink,
                     void *context)
{
    for (size_t at = 0; at < n && !r->failed;) {
        if (r->after_cr && bytes[at] == '\n') { /* the second half of CRLF */
            r->after_cr = false;
            at++;
            continue;
        }
        r->after_cr = false;
        size_t step = 0;
        while (at + step < n && bytes[at + step] != '\n' && bytes[at + step] != '\r')
            step++;
        buf_put(&r->line, bytes + at, step);
        r->failed = r->line.failed || r->data.failed;
        at += step;
        if (at == n)
            break;
        r->after_cr = bytes[at++] == '\r';
        sse_line(r, sink, context);
        r->failed = r->failed || r->data.failed;
    }
}
