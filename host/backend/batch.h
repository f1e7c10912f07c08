/* batch.h - one step's work as flat arrays. Built by the engine (batch_build) or, for evaluation,
 * by batch_single; read by the model and the backends; borrowed for the step.
 *
 * Rows of one sequence are consecutive and in order of position: sequence s has rows
 * [first_row, first_row + n_rows) at positions first_position, first_position + 1, ... Keys and
 * values of earlier positions are in its pages already. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/kv_layout.h"
#ifdef __cplusplus
extern "C" {
#endif

/* In batch.tokens: what the last sample() drew for the row's slot. The host need not know it yet.
 * Backends with steps_max 2. */
enum { BATCH_TOKEN_IN_FLIGHT = -2 };

struct batch_seq {
    int32_t slot; /* the engine's slot, stable over a sequence's life */
    int32_t first_row, n_rows;
    int32_t first_position; /* = tokens computed before this step */
    int32_t rope_variant;   /* which frequencies its keys have: rope.n_variants of backend.h */
};
struct batch {
    uint64_t serial; /* differs from batch to batch: what backends cache under */
    int32_t n_rows, n_seqs, n_logit_rows;
    const int32_t *tokens;        /* [n_rows] ids, or BATCH_TOKEN_IN_FLIGHT */
    const int32_t *positions;     /* [n_rows] */
    const int32_t *row_seq;       /* [n_rows] index into seqs */
    const struct batch_seq *seqs; /* [n_seqs] */
    const int32_t *logit_rows;    /* [n_logit_rows] rows whose logits are wanted, ascending */
    int32_t n_groups;
    /* [n_seqs][pages_stride[g]]: page id by absolute page index; -1 where the window has passed or
     * beyond the sequence's end. Covers every position of the step. */
    const int32_t *pages[KV_GROUPS_MAX];
    int32_t pages_stride[KV_GROUPS_MAX];
};
static inline int32_t batch_page(const struct batch *batch, int32_t g, int32_t seq, int32_t index)
{
    return batch->pages[g][(int64_t)seq * batch->pages_stride[g] + index];
}

/* A serial that no other batch of this process has; any thread. */
uint64_t batch_serial_next(void);

/* One sequence with identity page tables (page i of the sequence is page i of the cache), for
 * evaluation, calibration and tests. */
struct batch_single {
    struct batch batch; /* valid until the next call */
    struct batch_seq seq;
    int32_t *tokens, *positions, *row_seq, *logit_rows, *pages; /* owned */
    int32_t n_rows_max, n_pages;
    int32_t rope_variant; /* of the whole sequence: set by who knows its length; 0 at first */
};
MUST_USE bool batch_single_init(struct batch_single *single, int32_t n_rows_max,
                                int32_t n_tokens_max, int32_t n_groups, struct err *err);
void batch_single_clear(struct batch_single *single);
/* tokens[0..n) at positions from..from+n-1; logits for all rows, or for the last alone. */
const struct batch *batch_single_build(struct batch_single *single, const int32_t *tokens,
                                       int32_t n, int32_t from, bool all_logits);
#ifdef __cplusplus
}
#endif
