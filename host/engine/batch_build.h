/* batch_build.h - from a plan to the flat arrays that the device reads, and the rows to sample. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/batch.h"
#include "host/backend/sampler.h"
#include "host/engine/scheduler.h"

struct batch_build {
    int32_t n_rows_max, n_seqs_max, n_logit_rows_max, n_pages_seq;
    /* Owned; the batch points here. */
    int32_t *tokens, *positions, *row_seq; /* [n_rows_max] */
    struct batch_seq *seqs;                /* [n_seqs_max] */
    int32_t *logit_rows;                   /* [n_logit_rows_max] */
    int32_t *pages[KV_GROUPS_MAX];         /* [n_seqs_max][n_pages_seq] at most */
    struct sample_row *rows;               /* [n_logit_rows_max] */
    struct sample_out *outs;               /* [n_logit_rows_max] */
    struct batch batch;
};
MUST_USE bool batch_build_init(struct batch_build *build, int32_t n_rows_max, int32_t n_seqs_max,
                               int32_t n_logit_rows_max, int32_t n_groups, int32_t n_pages_seq,
                               struct err *err);
void batch_build_clear(struct batch_build *build);
/* Fills batch and rows (n_logit_rows of them, item by item: its scored rows, then its draw). Valid
 * until the next call, as long as the sequences live. Where a step was planned that is not
 * committed yet, the token that it draws is BATCH_TOKEN_IN_FLIGHT, and in_flight in the row's
 * history. */
void batch_build_fill(struct batch_build *build, const struct plan *plan,
                      const struct scheduler *s);
