/* exchange.h - one HTTP request and its reply. Never leaves the http thread.
 *
 *   BODY -> PREP -> RUNNING -> REPLY          a collected reply
 *                           -> STREAM         an SSE stream that has begun
 *   any  -> GONE                              the client vanished, or MHD completed
 *
 * It is freed when MHD has let go of it, no job is out and every request has returned. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <microhttpd.h>
#include "api/reply.h"
#include "host/base/arena.h"
#include "host/base/buf.h"
#include "host/text/detok.h"
#include "server/prep.h"
#include "server/metrics.h"
#include "server/trace.h"

struct http;
struct conn;
struct http_route;

/* One stored token of a choice, for logprobs and token_ids. */
struct kept_token {
    int32_t id;
    float logprob;
    int32_t text_offset; /* code points of the choice's text before it */
    int16_t n_tops;
    bool prompt;       /* of an echoed prompt */
    bool no_logprob;   /* its first token */
    struct top tops[]; /* room for the n_top that was asked for */
};
/* One sequence of one request, on its way to text. */
struct choice {
    struct request *request;
    int32_t seq, index;
    struct detok detok;
    struct tool_parser
        *parser;            /* chat whose text is split: released text goes there, not to text */
    struct buf text;        /* collected: all released text; stream: released, not yet framed */
    struct buf held;        /* text that may be the beginning of a stop string */
    struct buf kept;        /* kept_token records not yet framed (stream) or all */
    size_t kept_bytes;      /* of one record */
    double sum_logprob;     /* of them, when the sampler reports any: best_of */
    int32_t n_progress;     /* tokens of the prompt that were told of (return_progress) */
    bool has_line_feed;     /* t_max_predict_ms counts from then on */
    bool role_sent;         /* a chat stream's first event is out */
    int64_t n_tokens;       /* generated, the one that ended it included */
    int32_t n_characters;   /* code points of text so far, held ones included */
    uint16_t *stop_matched; /* [n_stops] bytes of each stop string that the text ends with now;
                               in the job's arena, as stop_backs */
    uint64_t first_token_ns, last_token_ns; /* 0: none yet */
    const char *stop_text;                  /* the stop string that ended it, or NULL */
    int32_t stop_token;                     /* the stop token id that ended it, -1 */
    const char *finish_reason;              /* NULL: running */
    bool done;                              /* EVENT_DONE was read, or a stop string matched */
    bool begun;                             /* the first event was seen: echo is out */
    bool prompt_sent;                       /* the prompt's ids are out, where they are wanted */
    bool final_sent;
};
enum exchange_state {
    EXCHANGE_BODY,
    EXCHANGE_PREP,
    EXCHANGE_RUNNING,
    EXCHANGE_REPLY,
    EXCHANGE_STREAM
};
struct exchange {
    struct http *http;
    struct server *server;
    struct conn *conn;
    struct MHD_Connection *mhd; /* NULL: completed */
    const struct http_route *route;
    enum exchange_state state;
    bool suspended, gone;
    struct buf body;
    bool body_too_large;
    size_t swallowed;
    uint64_t salt;    /* of the key */
    bool streaming;   /* counted in metrics.streams */
    bool in_prep;     /* a job of ours is out */
    struct job *lent; /* that job: only its cancelled flag may be touched; NULL with JOB_REPLY */
    struct job *job;  /* ours again after prep; keeps texts and requests alive */
    struct choice *choices; /* [n_choices], in the job's arena */
    uint16_t **stop_backs;  /* [n_stops][length], see stream.c */
    int32_t n_choices, n_done, n_requests_out;
    int32_t n_running; /* choices in flight: for metrics */
    struct err err;    /* the reply is this error */
    int32_t err_prompt, err_ctx;
    int32_t status;
    const char *content_type;
    struct buf out; /* reply body, or SSE text not yet read by MHD */
    size_t out_read;
    bool out_final; /* nothing will be added to out */
    uint64_t started_ns, ping_ns, body_deadline_ms;
    uint64_t reply_ms;    /* first seen with nothing left but to send; 0: not yet */
    size_t counted_bytes; /* of ours in http->body_bytes */
    bool crowded_out;     /* the body was dropped: others' bodies fill the memory for them */
    char id[152];         /* chatcmpl-<request_id> */
    char request_id[136];
    struct trace trace;
    bool named; /* request_id is the client's, by header */
    int64_t created_s;
    struct exchange *next, *previous; /* the loop's list of live ones */
};

/* stream.c: from events to text. */
/* After prep: lay out the choices of the job's requests. */
MUST_USE bool exchange_begin(struct exchange *exchange, struct err *err);
/* Read what the outboxes of this request hold; while a stream's client is slow (out over
 * EXCHANGE_OUT_MAX bytes) events stay where they are, and the engine plans no more of it. */
void exchange_drain(struct exchange *exchange, struct request *request);
/* Write the collected reply of all choices into out. Runs on a prep worker when it is large. */
void exchange_write_reply(struct exchange *exchange);
bool exchange_reply_is_large(const struct exchange *exchange);
/* Cancel everything that runs for it. */
void exchange_cancel(struct exchange *exchange);
/* Free texts of choices. */
void exchange_end(struct exchange *exchange);

enum { EXCHANGE_OUT_MAX = 32 * 1024 };
