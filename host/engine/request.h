/* request.h - what travels: one HTTP request's generation work, k sequences of one prompt.
 *
 * One owner at a time (DESIGN 3): http -> prep -> engine -> http; the pointer moves through bounded
 * queues. While the engine owns it, others may only set `cancelled` and read outboxes. It comes
 * back through engine_take_news with `returned` set, after every sequence's EVENT_DONE is in its
 * outbox; the engine never touches it again. Prompt lists are several requests. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/sampler.h"
#include "host/base/err.h"
#include "host/base/queue.h"

struct grammar;

enum finish {
    FINISH_NONE,
    FINISH_STOP,      /* an eos or stop token id (finish_token says which) */
    FINISH_LENGTH,    /* max_tokens or the context */
    FINISH_CANCELLED, /* the flag was set: client gone, stop string found, or outbox full too long
                       */
    FINISH_ERROR,     /* device fault, or the pool can never hold it: error_text */
};
enum event_kind {
    EVENT_TOKEN,
    EVENT_DONE,
};
struct event {
    enum event_kind kind;
    int32_t token; /* TOKEN */
    float logprob; /* TOKEN, and DONE by STOP (of finish_token), when n_top >= 0 was asked for */
    int32_t n_top; /* likewise: entries valid in the stream's tops row for this ring place */
    enum finish finish;   /* DONE */
    int32_t finish_token; /* DONE by STOP: the token id that ended it; it was not sent as a TOKEN.
                             -1: the text is whole by its grammar */
    uint64_t time_ns;     /* when it was committed (clock_ns) */
};
enum { OUTBOX_EVENTS = 32, SEQS_PER_REQUEST_MAX = 128 };
struct top {
    int32_t token;
    float logprob;
};
/* One sequence's ring: written by the engine, read by the http thread. */
struct outbox {
    struct spsc ring; /* capacity OUTBOX_EVENTS */
    struct event events[OUTBOX_EVENTS];
    struct top *tops; /* [OUTBOX_EVENTS][n_top], or NULL when n_top <= 0; owned by the request */
};

/* Log-probabilities of the prompt's own tokens, filled while it is computed. */
struct prompt_logprobs {
    float *logprobs;  /* [n_prompt]; [0] unused */
    struct top *tops; /* [n_prompt][n_top] or NULL */
    int32_t n_top;    /* 0..20 */
};

struct request {
    /* Set by whoever makes it, constant afterwards. */
    int32_t *prompt; /* [n_prompt], owned; 1 <= n_prompt < ctx, ids checked < vocab */
    int32_t n_prompt;
    int32_t n_seqs;     /* k >= 1 */
    int32_t n_top;      /* as given to request_open: entries of a row of tops; sampling.n_top is at
                           most this */
    int32_t max_tokens; /* per sequence, >= 0; n_prompt + max_tokens <= ctx. 0: only the prompt
                           is computed (echo, cache fill) */
    int32_t min_tokens; /* eos and stop ids are banned before */
    bool ignore_eos;    /* eos is an ordinary token */
    int32_t
        *stop_tokens; /* [n_stop_tokens], owned: ids that end a sequence (not the model's eos) */
    int32_t n_stop_tokens;
    struct sample_params
        sampling; /* what it points to is borrowed until the request has returned */
    const struct grammar *grammar; /* what the output may be, or NULL; borrowed until the request
                                      has returned. A sequence ends by STOP where its text is
                                      whole or at one of stop_tokens, by LENGTH or CANCELLED
                                      anywhere, by ERROR where no token is left that all its
                                      fields allow */
    struct prompt_logprobs *prompt_logprobs; /* owned, or NULL; such a request looks up no prefix */
    uint64_t salt;                           /* tenant: pages are only shared under an equal salt */
    int32_t priority;                        /* lower goes first; 0 default */
    bool wants_progress; /* news whenever some of the prompt has been computed */
    uint64_t id;         /* ours, unique */
    void *owner;         /* the exchange; never read by the engine */
    uint64_t submit_ns;

    /* Anyone may set it; the engine reads it at the next plan. One flag a sequence, and one for
     * all. */
    _Atomic bool cancelled;
    _Atomic bool seq_cancelled[SEQS_PER_REQUEST_MAX];

    /* Written by the engine before the events that make them readable. */
    struct outbox *outboxes; /* [n_seqs], owned */
    int32_t n_cached;        /* prompt tokens taken from the prefix cache */
    uint64_t first_plan_ns;  /* left the queue; 0: never */
    uint64_t first_token_ns;
    _Atomic int32_t n_computed; /* tokens of the prompt, cached ones too; with wants_progress. Who
                                   acquires one over 0 may read n_cached and first_plan_ns */
    char error_text[256];       /* with FINISH_ERROR */
    _Atomic bool returned;      /* set by engine_take_news alone, with the last appearance */
    _Atomic bool in_news;       /* the engine's: it is in the news queue already */
    struct request *next;       /* the owner's list link; the engine's while it owns the request */
    void *engine_private;       /* the engine's sequences (struct run); NULL outside the engine */
};

/* All memory that the request owns; zero-filled beyond the arguments (sampling neutral). Copies
 * nothing: takes `prompt` (malloc'ed) over on success. n_top: entries per token for outboxes. */
MUST_USE bool request_open(struct request **request, int32_t *prompt, int32_t n_prompt,
                           int32_t n_seqs, int32_t n_top, struct err *err);
void request_close(struct request *request);
