/* core.h - the engine without its thread: from requests to batches, from tokens to events.
 *
 * Whoever drives it: add requests; then over and over sweep, plan, run the step's batch on a
 * device (filling masks meanwhile), commit. With two steps the next may be planned before the last
 * is committed: engine.c. Every sequence gets exactly one EVENT_DONE, and room for it is kept in
 * its outbox. One thread; allocates in open, and in core_add the places in grammars. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/engine/batch_build.h"
#include "host/engine/engine.h"
#include "host/engine/scheduler.h"

enum { CORE_STEPS_MAX = 2 };

/* What commit found out about an item. */
struct core_end {
    enum finish finish;
    const char *text;             /* of FINISH_ERROR */
    const struct sample_out *out; /* of the stop token */
};
struct core_step {
    struct plan plan;
    struct batch_build build; /* batch, rows, and outs for the device to fill */
    struct core_end *ends;    /* [max_seqs] */
    uint32_t *masks;          /* [max_seqs][mask_words], by item; NULL without grammars */
    int32_t n_masked;         /* items with one: nothing is planned ahead of such a step, for
                                 their next masks hang on its tokens */
};
struct core_counts {
    uint64_t generated_tokens, steps, rows;
    uint64_t step_classes[STEP_EDGES + 1]; /* engine.h */
    uint64_t classed_tokens;               /* prompt and generated tokens that are in a class */
    uint64_t finished[5];                  /* by enum finish */
};
struct core {
    struct engine_options options; /* eos borrowed */
    int32_t vocab, mask_words;
    struct kv_pool pool;
    struct prefix_cache cache;
    struct scheduler scheduler;
    struct core_step steps[CORE_STEPS_MAX];
    struct run *touched; /* with new events */
    struct core_counts counts;
};

MUST_USE bool core_open(struct core *core, const struct engine_device *device,
                        const struct engine_options *options, int32_t n_steps, struct err *err);
void core_close(struct core *core);

/* Whether the request can be served at all: ids, lengths, and that one of its sequences fits the
 * pool. Reads constants only, so any thread may ask. */
MUST_USE bool core_accepts(const struct core *core, const struct request *request, struct err *err);
/* Its sequences (run_open was called) join the waiting ones. */
void core_add(struct core *core, struct request *request);
/* Ends what was cancelled, and what nobody has read for slow_ms_max. */
void core_sweep(struct core *core, uint64_t now_ns);
/* The next step, in core->steps[which], or NULL when there is nothing to compute. */
struct core_step *core_plan(struct core *core, int32_t which, int32_t step_tokens,
                            int32_t chunk_tokens, uint64_t now_ns);
/* The masks of the step's rows, by the places of their sequences in their grammars. */
void core_fill_masks(struct core *core, struct core_step *step);
/* The device has filled the step's outs. False, and the step was abandoned: they are not what a
 * sampler gives (not finite logits); then core_end_all. */
MUST_USE bool core_commit(struct core *core, struct core_step *step, uint64_t now_ns,
                          struct err *err);
/* The step will not be committed. Then core_end_all: its sequences have lost their way. */
void core_abandon(struct core *core, struct core_step *step);
/* Every sequence ends. `text` (may be NULL) goes to error_text. */
void core_end_all(struct core *core, enum finish finish, const char *text, uint64_t now_ns);
/* Runs with new events since the last call, or over since, linked by touched_next. A request may
 * go back to its owner once run_is_over(): not before the last step that it flies in. */
struct run *core_take_touched(struct core *core);
static inline bool core_is_empty(const struct core *core)
{
    return core->scheduler.n_live == 0 && core->scheduler.n_waiting == 0;
}
