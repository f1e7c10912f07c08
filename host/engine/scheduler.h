/* scheduler.h - who computes what in the next step.
 *
 * The rule, stated once: a sequence has `known` tokens and `computed` tokens. Every step hands out
 * at most step_tokens rows, so that computed catches up with known. There is no prefill phase and
 * no decode phase; chunked prefill, prefix hits and sequences that were preempted are not special.
 *
 * Order. A sequence goes before another by priority, then by arrival.
 *   1. Sequences that are running and have one token to go, in order. When they are more than the
 *      budget, those that waited longest come first. While others have work, these are left one
 *      row in eight (and one logit row in eight), at least one, so that no number of streams
 *      starves a prompt.
 *   2. All others in order, each as many rows as there are left: at most chunk_tokens in all while
 *      anybody stands under 1 (the engine measures what a stream can bear).
 *   A sequence starts (first time or after preemption) only when all that it knows fits what is
 *   free, with a page to spare for everyone who runs; when one cannot start, nobody behind it does.
 *   Siblings start after their leader has published the prompt's pages, and hit these.
 *   Rows that want logits have a second budget, logit_rows.
 *   A sequence whose outbox has no room for all its tokens in flight is not planned.
 *
 * Pages. When a running sequence gets no page, others are preempted until it does: first those
 * whose reader is slow, then the last in order, if that is behind it. A preempted sequence loses
 * its pages (they stay findable), has computed = 0, and keeps its tokens and its slot.
 * Where keys depend on the sequence's length (rope_border: longrope), a sequence that comes to know
 * more tokens than that is started again in the same way, with keys of the other kind: its pages
 * have other names, so what longer sequences have computed can be hit.
 * The first in order can take every page, and what could not live in an empty pool was refused at
 * submit: so somebody always progresses.
 *
 * Three verbs: plan, commit, drop. Counts only, never token values (it passes a pointer to them on
 * to the prefix cache). Commit may lag plan by one step: step n + 1 may be planned while n runs, on
 * a device that runs them in order. What was planned for a sequence that has ended since, or was
 * preempted since, is dropped at commit; pages are published, and given back behind a window, at
 * commit only.
 *
 * Thread: engine only. Allocates in init, never later. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/engine/kv_pool.h"
#include "host/engine/prefix_cache.h"
#include "host/engine/seq.h"

/* Rows [first, first + n_rows) of one sequence, by position. */
struct plan_item {
    struct seq *seq; /* valid until commit: its run stays while it flies; see scheduler_is_live */
    uint64_t serial;
    uint32_t epoch;
    int32_t slot;
    int32_t first, n_rows;
    bool one;                    /* it was running and had one token to go */
    bool draws;                  /* the last row draws a token */
    int32_t n_known;             /* tokens known before the draw: the drawn one's position */
    int32_t score_from, n_score; /* prompt tokens [score_from, +n_score) get log-probabilities:
                                    token t from the row at position t - 1 */
};
struct plan {
    uint64_t serial;
    int32_t n_items, n_rows, n_logit_rows;
    int32_t n_ones;          /* rows of sequences that had one token to go */
    struct plan_item *items; /* [n_slots] */
};
struct scheduler_counts {
    uint64_t preemptions;
    uint64_t prompt_tokens, cached_tokens; /* of leaders at their first start */
    uint64_t prefix_queries, prefix_hits;  /* tokens looked up and found, at first starts */
};
struct scheduler {
    struct kv_pool *pool;       /* borrowed */
    struct prefix_cache *cache; /* borrowed, or NULL */
    int32_t n_slots, ctx, logit_rows_max;
    int32_t rope_border; /* sequences that know more tokens have rope variant 1; 0: none. Set after
                            init, before the first plan */
    int32_t *tokens;     /* [n_slots][ctx] */
    struct seq **slots;  /* [n_slots] who is there, or NULL */
    int32_t *free_slots; /* [n_slots] a stack */
    int32_t n_free_slots;
    struct seq **order; /* [n_live] live sequences, first to last */
    int32_t n_live;
    struct seq **ones; /* [n_slots] scratch */
    struct seq *waiting_first, *waiting_last;
    int32_t n_waiting;
    uint64_t next_serial, next_plan;
    struct scheduler_counts counts;
    /* The plan being made. */
    struct plan *plan;
    int32_t rows_left, logit_rows_left;
    bool preempted; /* by this plan: nobody starts in it */
    uint64_t now_ns;
};

MUST_USE bool scheduler_init(struct scheduler *s, struct kv_pool *pool, struct prefix_cache *cache,
                             int32_t n_slots, int32_t ctx, int32_t logit_rows_max, struct err *err);
void scheduler_clear(struct scheduler *s);
MUST_USE bool plan_init(struct plan *plan, int32_t n_slots, struct err *err);
void plan_clear(struct plan *plan);

/* Gives it its arrival number and puts it into the waiting list. */
void scheduler_add(struct scheduler *s, struct seq *seq);
/* Hands out rows. False when there are none to hand out. */
bool scheduler_plan(struct scheduler *s, struct plan *plan, int32_t step_tokens,
                    int32_t chunk_tokens, uint64_t now_ns);
/* The step has run. Tokens that it drew were appended (n_tokens) before. */
void scheduler_commit(struct scheduler *s, const struct plan *plan);
/* The sequence has ended, wherever it stands: pages and slot are free at once. */
void scheduler_drop(struct scheduler *s, struct seq *seq);

/* Whether the item's sequence has not ended since. */
static inline bool scheduler_is_live(const struct scheduler *s, const struct plan_item *item)
{
    return s->slots[item->slot] && s->slots[item->slot]->serial == item->serial;
}
/* Sequences that run and have one token to go. */
int32_t scheduler_n_ones(const struct scheduler *s);
