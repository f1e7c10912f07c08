/* Replies and events are read alike however their bytes were cut; what is not HTTP is refused. */
#include "tests/support/support.h"
#include "host/base/rng.h"
#include "server/loadgen_http.h"

struct seen {
    struct sse_reader sse;
    struct buf body, events; /* events: each followed by "|" */
};

static void on_event(void *context, const char *bytes, size_t n)
{
    struct seen *seen = context;
    buf_put(&seen->events, bytes, n);
    buf_putc(&seen->events, '|');
}
static void on_body(void *context, const char *bytes, size_t n)
{
    struct seen *seen = context;
    buf_put(&seen->body, bytes, n);
    sse_reader_feed(&seen->sse, bytes, n, on_event, seen);
}
static void seen_open(struct seen *seen)
{
    buf_init(&seen->body, 1 << 20);
    buf_init(&seen->events, 1 << 20);
    sse_reader_init(&seen->sse);
}
static void seen_close(struct seen *seen)
{
    buf_clear(&seen->body);
    buf_clear(&seen->events);
    sse_reader_clear(&seen->sse);
}

/* Bytes [from, to) in a block of their own, so that reading on is an error of the sanitizer. */
static bool feed(struct http_reader *reader, struct seen *seen, const char *text, size_t from,
                 size_t to, size_t *used, struct err *err)
{
    char *block = malloc(to - from + 1);
    assert_non_null(block);
    memcpy(block, text + from, to - from);
    bool ok = http_reader_feed(reader, block, to - from, used, on_body, seen, err);
    free(block);
    return ok;
}

static const struct {
    const char *name, *reply, *body, *events;
    int32_t status;
    bool ends_with_connection, keep_alive, event_stream;
} replies[] = {
    { "a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", "", 200, false,
      true, false },
    { "no reason, blanks and capitals", "HTTP/1.1 404\r\ncontent-LENGTH:   2  \r\n\r\nno", "no", "",
      404, false, true, false },
    { "bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "x", "", 200, false, true,
      false },
    { "an empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", "", 200, false, true,
      false },
    { "no content", "HTTP/1.1 204 No Content\r\n\r\n", "", "", 204, false, true, false },
    { "until the connection ends", "HTTP/1.1 200 OK\r\n\r\nall of it", "all of it", "", 200, true,
      false, false },
    { "1.0 does not stay", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", "", 200, false,
      false, false },
    { "told to close", "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", "x",
      "", 200, false, false, false },
    { "100 Continue comes before",
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", "", 200,
      false, true, false },
    { "chunks, an extension, a trailer",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n00A\r\n0123456789\r\n"
      "0\r\nX: y\r\n\r\n",
      "abcd0123456789", "", 200, false, true, false },
    { "events over chunk borders",
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
      "9\r\ndata: {\"a\r\n4\r\n\": 1\r\n3\r\n}\n\n\r\n"
      "15\r\n: ping\n\ndata: [DONE]\n\r\n1\r\n\n\r\n0\r\n\r\n",
      "data: {\"a\": 1}\n\n: ping\n\ndata: [DONE]\n\n", "{\"a\": 1}|[DONE]|", 200, false, true,
      true },
    { "events with every line end, names, no blank, two lines",
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
      "event: x\r\ndata:one\r\n\r\nid: 4\rdata: two\r\rdata: a\ndata: b\ndata\n\n\n\n"
      "data: never told",
      "event: x\r\ndata:one\r\n\r\nid: 4\rdata: two\r\rdata: a\ndata: b\ndata\n\n\n\n"
      "data: never told",
      "one|two|a\nb\n|", 200, true, false, true },
};

static void check_reply(size_t i, struct http_reader *reader, struct seen *seen)
{
    assert_int_equal(reader->part == HTTP_DONE, !replies[i].ends_with_connection);
    assert_true(http_reader_end(reader));
    assert_int_equal(reader->status, replies[i].status);
    assert_int_equal(reader->keep_alive, replies[i].keep_alive);
    assert_int_equal(reader->event_stream, replies[i].event_stream);
    assert_string_equal(buf_text(&seen->body), replies[i].body);
    assert_string_equal(buf_text(&seen->events), replies[i].events);
}

static void cuts_make_no_difference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
        const char *text = replies[i].reply;
        size_t n = strlen(text), used;
        struct http_reader reader;
        struct err err;
        http_reader_init(&reader);
        for (size_t cut = 0; cut <= n; cut++) { /* two pieces */
            struct seen seen;
            seen_open(&seen);
            http_reader_reset(&reader);
            assert_true(feed(&reader, &seen, text, 0, cut, &used, &err));
            assert_true(feed(&reader, &seen, text, cut, n, &used, &err));
            check_reply(i, &reader, &seen);
            seen_close(&seen);
        }
        for (size_t step = 1; step <= 5; step++) { /* pieces of one size */
            struct seen seen;
            seen_open(&seen);
            http_reader_reset(&reader);
            for (size_t at = 0; at < n; at += step)
                assert_true(
                    feed(&reader, &seen, text, at, at + step < n ? at + step : n, &used, &err));
            check_reply(i, &reader, &seen);
            seen_close(&seen);
        }
        http_reader_clear(&reader);
    }
}

static void a_reply_takes_no_more_than_its_own(void **state)
{
    (void)state;
    const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK";
    struct http_reader reader;
    struct seen seen;
    struct err err;
    size_t used;
    seen_open(&seen);
    http_reader_init(&reader);
    assert_true(feed(&reader, &seen, text, 0, strlen(text), &used, &err));
    assert_int_equal(used, strlen(text) - strlen("HTTP/1.1 200 OK"));
    assert_int_equal(reader.part, HTTP_DONE);
    http_reader_clear(&reader);
    seen_close(&seen);
}

static void an_early_end_is_seen(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct http_reader reader;
        struct seen seen;
        struct err err;
        size_t used;
        seen_open(&seen);
        http_reader_init(&reader);
        assert_true(feed(&reader, &seen, texts[i], 0, strlen(texts[i]), &used, &err));
        assert_false(http_reader_end(&reader));
        http_reader_clear(&reader);
        seen_close(&seen);
    }
}

static void what_is_not_http_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/2 200\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 12x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct http_reader reader;
        struct seen seen;
        struct err err = { 0 };
        size_t used;
        seen_open(&seen);
        http_reader_init(&reader);
        assert_false(feed(&reader, &seen, texts[i], 0, strlen(texts[i]), &used, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        http_reader_clear(&reader);
        seen_close(&seen);
    }
}

/* What came of a reply: the same for every way to cut it. */
struct outcome {
    bool ok, done, ended;
    int32_t status;
    struct seen seen;
};

static void read_reply(struct outcome *o, const char *text, size_t n, uint64_t seed)
{
    struct http_reader reader;
    struct err err = { 0 };
    size_t used = 0;
    *o = (struct outcome){ .ok = true };
    seen_open(&o->seen);
    http_reader_init(&reader);
    for (size_t at = 0, k = 0; o->ok && at < n && reader.part != HTTP_DONE; k++) {
        size_t step = seed == 0 ? n : 1 + (size_t)(rng_uniform(seed, 1, k) * 40);
        size_t to = at + step < n ? at + step : n;
        o->ok = feed(&reader, &o->seen, text, at, to, &used, &err);
        at = to;
    }
    o->done = reader.part == HTTP_DONE;
    o->ended = o->ok && http_reader_end(&reader);
    o->status = reader.status;
    http_reader_clear(&reader);
}

/* Replies with bytes changed, left out and doubled: never more than the bytes there are, and whole
 * or in pieces the same comes of them. What was read before a mistake was found may differ. */
static void spoiled_replies_are_read_alike(void **state)
{
    (void)state;
    enum { N = 30000 };
    int n_bad = 0;
    for (uint64_t i = 0; i < N; i++) {
        const size_t n_replies = sizeof replies / sizeof replies[0];
        char text[600];
        size_t n = strlen(replies[i % n_replies].reply);
        memcpy(text, replies[i % n_replies].reply, n);
        for (uint64_t k = 0; k < 1 + i % 4; k++) {
            static const char bytes[] = "\r\n:;0a1 \0dC\xff";
            size_t at = (size_t)(rng_uniform(i, 2, 3 * k) * (double)n);
            double kind = rng_uniform(i, 2, 3 * k + 1);
            if (kind < 0.4) {
                text[at] = bytes[(size_t)(rng_uniform(i, 2, 3 * k + 2) * (sizeof bytes - 1))];
            } else if (kind < 0.7) {
                memmove(text + at, text + at + 1, n - at - 1);
                n--;
            } else {
                memmove(text + at + 1, text + at, n - at);
                n++;
            }
        }
        struct outcome whole, pieces;
        read_reply(&whole, text, n, 0);
        read_reply(&pieces, text, n, i + 1);
        assert_int_equal(whole.ok, pieces.ok);
        assert_int_equal(whole.done, pieces.done);
        assert_int_equal(whole.ended, pieces.ended);
        n_bad += !whole.ok;
        if (whole.ok) {
            assert_int_equal(whole.status, pieces.status);
            assert_int_equal(whole.seen.body.length, pieces.seen.body.length);
            assert_memory_equal(buf_text(&whole.seen.body), buf_text(&pieces.seen.body),
                                whole.seen.body.length);
            assert_string_equal(buf_text(&whole.seen.events), buf_text(&pieces.seen.events));
        }
        seen_close(&whole.seen);
        seen_close(&pieces.seen);
    }
    assert_in_range(n_bad, N / 20, N * 3 / 4);
}

static void heads_have_a_limit(void **state)
{
    (void)state;
    struct http_reader reader;
    struct seen seen;
    struct err err = { 0 };
    size_t used;
    bool ok = true;
    seen_open(&seen);
    http_reader_init(&reader);
    assert_true(feed(&reader, &seen, "HTTP/1.1 200 OK\r\n", 0, 17, &used, &err));
    int n = 0;
    for (; ok && n < 10000; n++)
        ok = feed(&reader, &seen, "X-Header: 0123456789\r\n", 0, 22, &used, &err);
    assert_false(ok);
    assert_in_range(n, 2900, 3000); /* HTTP_HEAD_MAX / 22 */
    http_reader_reset(&reader);
    ok = true;
    for (n = 0; ok && n < 10000; n++)
        ok = feed(&reader, &seen, "one endless line", 0, 16, &used, &err);
    assert_false(ok);
    http_reader_clear(&reader);
    seen_close(&seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_make_no_difference),
        cmocka_unit_test(a_reply_takes_no_more_than_its_own),
        cmocka_unit_test(an_early_end_is_seen),
        cmocka_unit_test(what_is_not_http_is_refused),
        cmocka_unit_test(spoiled_replies_are_read_alike),
        cmocka_unit_test(heads_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
