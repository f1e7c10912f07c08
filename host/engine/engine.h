/* engine.h - the engine thread: takes requests, plans steps, runs them, hands tokens out.
 *
 * submit from any thread; news are read by one thread (http), woken by an eventfd that is written
 * once a step. The engine never waits for a reader: a sequence is planned only while its outbox has
 * room for all its steps in flight; one whose reader is slow is the first to be preempted, and is
 * cancelled after `slow_ms_max`. The engine thread allocates nothing after start, but 16 KiB for
 * each sequence that has a grammar. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "host/engine/request.h"
#include "host/backend/batch.h"
#include "host/backend/sampler.h"

struct model;
struct grammar_vocab;

/* Fills the masks of the rows that were passed along with it. */
struct step_masks {
    void (*fill)(void *self);
    void *self;
};
/* What runs a step: the model on its backend, or a fake one in tests. */
struct engine_device {
    void *self;
    int32_t vocab;
    int32_t n_groups;               /* KV groups */
    int32_t windows[KV_GROUPS_MAX]; /* 0: full */
    int32_t n_pages[KV_GROUPS_MAX];
    /* Sequences of more tokens than this have batch_seq.rope_variant 1, from their first token on;
     * 0: none have. */
    int32_t rope_border;
    /* Steps that may be launched and not yet collected, 1 or 2. They run in order. */
    int32_t n_steps;
    /* Forward pass and sampling of one batch. rows[i].logit_row indexes the batch's logit rows.
     * beat is incremented now and then. masks->fill is called once, between the two: where the
     * forward pass is asynchronous it runs meanwhile. The batch, the rows, their masks and
     * histories are read before it returns; params and bans stay, and outs are filled, until
     * collect. True: the step is still running, so this is the time to plan the next. */
    bool (*launch)(void *self, const struct batch *batch, const struct sample_row *rows,
                   int32_t n_rows, struct sample_out *outs, const struct step_masks *masks,
                   _Atomic uint64_t *beat);
    /* Waits for the oldest step that was launched. False: the device has failed, and is asked for
     * nothing more. */
    bool (*collect)(void *self, struct err *err);
};
/* The real device. `kv` must have its pages reserved. Both are borrowed. */
struct engine_model_device {
    struct model *model;
    struct kv_cache *kv;
};
struct engine_device engine_device_of_model(struct engine_model_device *device);

struct engine_options {
    int32_t ctx;             /* most tokens of a sequence */
    int32_t max_seqs;        /* sequences planned at once (slots) */
    int32_t max_queue;       /* sequences waiting, free slots not counted, before engine_submit
                                refuses: 512 */
    int32_t step_tokens;     /* rows of a step; 0: auto, from measured time per row */
    int32_t step_tokens_max; /* what batches and activations are sized for */
    int32_t logit_rows_max;
    int32_t slow_ms_max; /* a reader that takes nothing for so long is cut: 30,000 */
    bool prefix_cache;
    bool overlap; /* a step is planned and launched while one runs, where the device can do that */
    const int32_t *eos; /* [n_eos], borrowed */
    int32_t n_eos;
    /* The tokens as texts, the engine thread's alone from now on; borrowed. NULL: requests with a
     * grammar are refused. */
    struct grammar_vocab *grammar_vocab;
};
struct engine;
MUST_USE bool engine_open(struct engine **engine, const struct engine_device *device,
                          const struct engine_options *options, struct err *err);
/* Stops the thread: every live request ends with FINISH_CANCELLED and is returned first. The reader
 * must take the news before engine_close. */
void engine_stop(struct engine *engine);
void engine_close(struct engine *engine);

/* Ownership moves on true. ERR_FULL: too many waiting. ERR_UNAVAILABLE: stopped or device lost.
 * Never blocks for long (a mutex held for a push). */
MUST_USE bool engine_submit(struct engine *engine, struct request *request, struct err *err);
/* Ask the engine to look at its cancel flags now (after setting some). */
void engine_wake(struct engine *engine);

/* An event is told of at the end of its step, a cancellation before the next one begins.
 * Readable when there are news. The reader reads the eventfd, then calls engine_take_news until it
 * gives NULL. A request may appear again and again, once per step with events; the last time with
 * `returned` true. */
int engine_news_fd(const struct engine *engine);
struct request *engine_take_news(struct engine *engine);

/* Upper edges of the classes that steps are counted in, by their tokens (vLLM's). */
enum { STEP_EDGES = 13 };
extern const int32_t ENGINE_STEP_EDGES[STEP_EDGES];

/* Numbers for /metrics and /health, readable from any thread without waiting (atomics). */
struct engine_stats {
    int32_t running, waiting; /* sequences */
    int32_t pages_total[KV_GROUPS_MAX],
        pages_free[KV_GROUPS_MAX]; /* free: not held by a sequence */
    double kv_usage;               /* 0..1, the fullest group */
    uint64_t prompt_tokens, cached_tokens,
        generated_tokens; /* cached: hits; prompt: computed or hit; generated: those that end a
                             sequence included */
    uint64_t prefix_queries, prefix_hits; /* in tokens */
    uint64_t preemptions, steps, rows;
    /* Steps by tokens, class i up to ENGINE_STEP_EDGES[i], the last one beyond; a prompt's tokens
     * count with the step that it started in (vLLM's rule: the sum is prompt + generated). */
    uint64_t step_classes[STEP_EDGES + 1];
    uint64_t finished[5]; /* by enum finish */
    uint64_t beat;        /* grows while the engine makes progress; also when idle */
    uint64_t beat_ns;     /* clock_ns at which `beat` was last seen to change by the engine
                             itself: idle counts as alive */
    bool idle;
    bool device_lost;
    char device_error[256];
    int32_t step_tokens; /* in force */
};
void engine_stats_read(const struct engine *engine, struct engine_stats *stats);
/* Milliseconds since the engine last made progress while it had work; 0 when idle. */
uint64_t engine_stalled_ms(const struct engine *engine);
