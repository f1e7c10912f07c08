/* loadgen_http.h - readers of one HTTP/1.1 reply and of the server-sent events in it, fed with
 * whatever bytes have come: where the bytes were cut makes no difference. Sources: RFC 9112
 * sections 4, 6 and 7; WHATWG HTML "Server-sent events" 9.2.6. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"

enum {
    HTTP_LINE_MAX = 16 * 1024, /* bytes of a head line, or of a chunk's size */
    HTTP_HEAD_MAX = 64 * 1024, /* bytes of the head */
    SSE_EVENT_MAX = 16 << 20,  /* bytes of one event */
};

enum http_part {
    HTTP_STATUS,     /* the status line is due */
    HTTP_HEADER,     /* a header line */
    HTTP_LENGTH,     /* `left` bytes of body */
    HTTP_CLOSE,      /* body until the connection ends */
    HTTP_CHUNK_SIZE, /* a line with a chunk's size */
    HTTP_CHUNK,      /* `left` bytes of the chunk */
    HTTP_CHUNK_END,  /* the empty line behind it */
    HTTP_TRAILER,
    HTTP_DONE,
};
struct http_reader {
    enum http_part part;
    int32_t status;
    bool keep_alive;   /* the connection can be used again, once done */
    bool event_stream; /* Content-Type: text/event-stream */
    bool chunked, has_length;
    uint64_t left;
    size_t head_bytes;
    struct buf line;
};
typedef void (*bytes_sink)(void *context, const char *bytes, size_t n);

void http_reader_init(struct http_reader *reader);
void http_reader_reset(struct http_reader *reader); /* for the next reply; memory is kept */
void http_reader_clear(struct http_reader *reader);
/* Body bytes go to `sink`. *used < n only when the reply ended before. ERR_FORMAT: not HTTP. */
MUST_USE bool http_reader_feed(struct http_reader *reader, const char *bytes, size_t n,
                               size_t *used, bytes_sink sink, void *context, struct err *err);
/* The connection has ended: true when that is the end of the reply. */
bool http_reader_end(struct http_reader *reader);

/* Lines end with LF, CRLF or CR; only `data` fields count; an event without its empty line is
 * never told of. */
struct sse_reader {
    struct buf line, data;
    bool has_data, after_cr, failed; /* failed: an event over SSE_EVENT_MAX, or no memory */
};
void sse_reader_init(struct sse_reader *reader);
void sse_reader_reset(struct sse_reader *reader);
void sse_reader_clear(struct sse_reader *reader);
/* One call of `sink` an event. */
void sse_reader_feed(struct sse_reader *reader, const char *bytes, size_t n, bytes_sink sink,
                     void *context);
