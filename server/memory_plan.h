/* memory_plan.h - what memory there is, what a model takes of it, and how many KV pages that
 * leaves. Pure, but for memory_available. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/backend/kv_layout.h"
#include "host/base/buf.h"
#include "host/base/err.h"

/* Bytes that this process may still take: the least of MemAvailable and what the control groups
 * (v2 and v1, all levels that are visible) leave, their file cache not counted. 0: unknown. */
size_t memory_available(void);

struct memory_plan {
    size_t available, budget; /* budget: all that may be used, of `available` */
    bool by_percent;
    int32_t percent;
    size_t weights, weights_anonymous; /* resident; of these, not backed by a file */
    size_t activations;                /* scratch of steps, logits included */
    size_t workspace; /* of the device's kernels, and its recorded steps; 0 on the CPU */
    size_t tables;    /* queues, page tables, sequences, the HTTP side */
    int32_t ctx, max_seqs;
    int32_t ctx_fits;   /* longest single sequence that the budget allows, at most ctx */
    double n_full_seqs; /* sequences of ctx tokens whose pages fit at once */
    int32_t n_groups;
    struct memory_group {
        int32_t window, n_layers;
        int32_t pages_per_seq; /* the most that one sequence holds at once */
        int32_t n_pages;
        size_t page_bytes;
    } groups[KV_GROUPS_MAX];
    size_t kv; /* all pages */
};

/* In: available, budget, weights, activations, workspace, tables, ctx, max_seqs; the model's
 * groups; the rows of the longest step. Fills the rest. Window groups need ceil(w / 16) + 1 pages a
 * sequence and those of one step; the budget is shared in proportion to what a sequence of ctx
 * tokens needs, and no group gets more than max_seqs such sequences do. ERR_MEMORY, with what would
 * fit, when one sequence of ctx tokens does not fit (ctx_fits is set then too). */
MUST_USE bool memory_plan_make(struct memory_plan *plan, const struct kv_cache *shape,
                               int32_t step_tokens_max, struct err *err);
/* The table that inspect and serve print. */
void memory_plan_print(struct buf *out, const struct memory_plan *plan);
void memory_plan_json(struct buf *out, const struct memory_plan *plan);
/* "1.25 GiB": for people. Returns `text`. */
const char *memory_text(double bytes, char *text, size_t size);
