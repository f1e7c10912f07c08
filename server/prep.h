/* prep.h - what would stall the event loop: JSON, templates, tokenizing, very large replies.
 *
 * A job is owned by the http thread, then by one prep worker, then by the http thread again; it
 * goes through two bounded queues. Workers read the model's constant tables and nothing else. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "api/generate.h"
#include "api/text.h"
#include "host/base/arena.h"
#include "host/base/buf.h"
#include "host/base/queue.h"
#include "host/engine/request.h"

struct server;
struct exchange;
enum job_kind {
    JOB_CHAT,
    JOB_COMPLETION,
    JOB_TOKENIZE,
    JOB_DETOKENIZE,
    JOB_APPLY_TEMPLATE,
    JOB_RENDER_CHAT,
    JOB_RENDER_COMPLETION,
    JOB_REPLY
};

struct job {
    enum job_kind kind;
    struct server *server;
    struct exchange *exchange; /* read by the http thread; by a worker with JOB_REPLY only */
    struct buf body;           /* owned */
    uint64_t salt;             /* of the caller's key */
    bool has_priority;         /* the header X-Vllm-Priority, which goes before the field */
    int32_t priority;
    _Atomic bool cancelled; /* the client is gone: do not bother */
    /* results */
    struct err err;          /* code != ERR_NONE: refused */
    int32_t n_prompt, n_ctx; /* with ERR_CONTEXT */
    struct arena arena;
    struct cJSON *root; /* texts of `generate` point into it */
    struct generate generate;
    struct grammar *grammar; /* of its requests, owned; NULL: none */
    struct request *
        *requests; /* [n_requests], one a prompt, in the arena; each owned until submitted */
    int32_t n_requests;
    struct buf reply; /* finished JSON of the small routes */
};
/* prep_sampling.c: the generate's biases, bad words and breakers as tokens, into generate.sampling;
 * what they point to is the job's. */
MUST_USE bool prep_sampling(struct job *job, struct err *err);
struct job *job_open(struct server *server, enum job_kind kind); /* NULL: no memory */
void job_close(struct job *job);

struct prep;
/* n workers; finished jobs go to `done` and `wake` (an eventfd) is written. */
MUST_USE bool prep_open(struct prep **prep, int32_t n_workers, uint32_t n_jobs_max, int wake,
                        struct err *err);
void prep_close(struct prep *prep); /* joins; jobs still queued are closed */
MUST_USE bool prep_push(struct prep *prep, struct job *job); /* false: full */
struct job *prep_take(struct prep *prep);                    /* a finished one, or NULL */
