/* batch.c - one sequence as a batch, for evaluation, calibration and tests.
 *
 * Invariant: page i of the sequence is page i of the cache in every group. Allocates in init only.
 * A caller that goes back in position writes the later tokens' K and V again. */
#include "host/backend/batch.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

uint64_t batch_serial_next(void)
{
    static _Atomic uint64_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

bool batch_single_init(struct batch_single *single, int32_t n_rows_max, int32_t n_tokens_max,
                       int32_t n_groups, struct err *err)
{
    CHECK(n_rows_max > 0 && n_tokens_max > 0 && n_groups > 0 && n_groups <= KV_GROUPS_MAX);
    *single =
        (struct batch_single){ .n_rows_max = n_rows_max, .n_pages = kv_pages_for(n_tokens_max) };
    const size_t rows = (size_t)n_rows_max;
    single->tokens = calloc(rows, sizeof *single->tokens);
    single->positions = calloc(rows, sizeof *single->positions);
    single->row_seq = calloc(rows, sizeof *single->row_seq);
    single->logit_rows = calloc(rows, sizeof *single->logit_rows);
    single->pages = calloc((size_t)single->n_pages, sizeof *single->pages);
    if (!single->tokens || !single->positions || !single->row_seq || !single->logit_rows ||
        !single->pages) {
        batch_single_clear(single);
        return err_set(err, ERR_MEMORY, "batch of %d rows, %d tokens: out of memory", n_rows_max,
                       n_tokens_max);
    }
    for (int32_t i = 0; i < single->n_pages; i++)
        single->pages[i] = i;
    single->batch = (struct batch){
        .n_seqs = 1,
        .tokens = single->tokens,
        .positions = single->positions,
        .row_seq = single->row_seq,
        .logit_rows = single->logit_rows,
        .n_groups = n_groups,
    };
    for (int32_t g = 0; g < n_groups; g++) {
        single->batch.pages[g] = single->pages;
        single->batch.pages_stride[g] = single->n_pages;
    }
    return true;
}

void batch_single_clear(struct batch_single *single)
{
    free(single->tokens);
    free(single->positions);
    free(single->row_seq);
    free(single->logit_rows);
    free(single->pages);
    *single = (struct batch_single){ 0 };
}

const struct batch *batch_single_build(struct batch_single *single, const int32_t *tokens,
                                       int32_t n, int32_t from, bool all_logits)
{
    CHECK(n > 0 && n <= single->n_rows_max);
    CHECK(from >= 0 && (int64_t)from + n <= (int64_t)single->n_pages * PAGE_TOKENS);
    struct batch *batch = &single->batch;
    memcpy(single->tokens, tokens, (size_t)n * sizeof *tokens);
    for (int32_t i = 0; i < n; i++) {
        single->positions[i] = from + i;
        single->logit_rows[i] = all_logits ? i : n - 1;
    }
    single->seq = (struct batch_seq){ .n_rows = n,
                                      .first_position = from,
                                      .rope_variant = single->rope_variant };
    batch->serial = batch_serial_next();
    batch->n_rows = n;
    batch->n_logit_rows = all_logits ? n : 1;
    batch->seqs = &single->seq;
    return batch;
}
