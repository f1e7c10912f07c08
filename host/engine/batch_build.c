/* batch_build.c - flat arrays of one step. Allocates in init, never later. Engine thread only. */
#include "host/engine/batch_build.h"
#include <stdlib.h>
#include <string.h>

bool batch_build_init(struct batch_build *build, int32_t n_rows_max, int32_t n_seqs_max,
                      int32_t n_logit_rows_max, int32_t n_groups, int32_t n_pages_seq,
                      struct err *err)
{
    CHECK(n_rows_max >= 1 && n_seqs_max >= 1 && n_logit_rows_max >= 1);
    CHECK(n_groups >= 1 && n_groups <= KV_GROUPS_MAX && n_pages_seq >= 1);
    *build = (struct batch_build){ .n_rows_max = n_rows_max,
                                   .n_seqs_max = n_seqs_max,
                                   .n_logit_rows_max = n_logit_rows_max,
                                   .n_pages_seq = n_pages_seq };
    size_t n_rows = (size_t)n_rows_max, n_logit_rows = (size_t)n_logit_rows_max;
    build->tokens = calloc(n_rows, sizeof *build->tokens);
    build->positions = calloc(n_rows, sizeof *build->positions);
    build->row_seq = calloc(n_rows, sizeof *build->row_seq);
    build->seqs = calloc((size_t)n_seqs_max, sizeof *build->seqs);
    build->logit_rows = calloc(n_logit_rows, sizeof *build->logit_rows);
    build->rows = calloc(n_logit_rows, sizeof *build->rows);
    build->outs = calloc(n_logit_rows, sizeof *build->outs);
    if (!build->tokens || !build->positions || !build->row_seq || !build->seqs ||
        !build->logit_rows || !build->rows || !build->outs)
        goto fail;
    for (int32_t g = 0; g < n_groups; g++) {
        build->pages[g] = calloc((size_t)n_seqs_max * (size_t)n_pages_seq, sizeof(int32_t));
        if (!build->pages[g])
            goto fail;
    }
    build->batch.n_groups = n_groups;
    return true;
fail:
    batch_build_clear(build);
    return err_set(err, ERR_MEMORY, "no memory for batches of %d rows", n_rows_max);
}

void batch_build_clear(struct batch_build *build)
{
    free(build->tokens);
    free(build->positions);
    free(build->row_seq);
    free(build->seqs);
    free(build->logit_rows);
    free(build->rows);
    free(build->outs);
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++)
        free(build->pages[g]);
    *build = (struct batch_build){ 0 };
}

/* Page tables as wide as the longest sequence of the step, not as the context. */
static void fill_pages(struct batch_build *build, const struct plan *plan,
                       const struct kv_pool *pool)
{
    for (int32_t g = 0; g < pool->n_groups; g++) {
        int32_t stride = 1;
        for (int32_t i = 0; i < plan->n_items; i++) {
            int32_t end = pool->groups[g].spans[plan->items[i].slot].end;
            stride = end > stride ? end : stride;
        }
        CHECK(stride <= build->n_pages_seq);
        for (int32_t i = 0; i < plan->n_items; i++) {
            int32_t *table = build->pages[g] + (int64_t)i * stride;
            for (int32_t page = 0; page < stride; page++)
                table[page] = kv_pool_page(pool, g, plan->items[i].slot, page);
        }
        build->batch.pages[g] = build->pages[g];
        build->batch.pages_stride[g] = stride;
    }
}

static struct sample_row *add_logit_row(struct batch_build *build, int32_t row,
                                        const struct plan_item *item)
{
    struct batch *batch = &build->batch;
    CHECK(batch->n_logit_rows < build->n_logit_rows_max);
    int32_t at = batch->n_logit_rows++;
    build->logit_rows[at] = row;
    const struct seq *seq = item->seq;
    build->rows[at] = (struct sample_row){
        .logit_row = at,
        .params = &seq->run->request->sampling,
        .target = -1,
        .index = (uint64_t)seq->index,
        .position = item->n_known,
        .slot = item->slot,
        .history = seq->tokens,
        .n_prompt = seq->n_prompt,
        .n_output = seq->n_tokens - seq->n_prompt,
    };
    return &build->rows[at];
}

static void fill_logit_rows(struct batch_build *build, const struct plan_item *item,
                            int32_t first_row)
{
    const struct seq *seq = item->seq;
    const struct run *run = seq->run;
    for (int32_t target = item->score_from; target < item->score_from + item->n_score; target++) {
        struct sample_row *row = add_logit_row(build, first_row + target - 1 - item->first, item);
        row->params = &run->score_params;
        row->target = seq->tokens[target];
        row->position = target;
    }
    if (!item->draws)
        return;
    struct sample_row *row = add_logit_row(build, first_row + item->n_rows - 1, item);
    row->state = &item->seq->sample;
    CHECK(item->n_known - seq->n_tokens <= 1); /* of one step in flight */
    row->in_flight = item->n_known > seq->n_tokens;
    row->n_output += row->in_flight;
    if (item->n_known - seq->n_prompt < run->request->min_tokens) {
        row->banned = run->banned;
        row->n_banned = run->n_banned;
    }
}

void batch_build_fill(struct batch_build *build, const struct plan *plan, const struct scheduler *s)
{
    CHECK(plan->n_rows <= build->n_rows_max && plan->n_items <= build->n_seqs_max);
    struct batch *batch = &build->batch;
    *batch = (struct batch){ .serial = plan->serial,
                             .n_rows = plan->n_rows,
                             .n_seqs = plan->n_items,
                             .tokens = build->tokens,
                             .positions = build->positions,
                             .row_seq = build->row_seq,
                             .seqs = build->seqs,
                             .logit_rows = build->logit_rows,
                             .n_groups = batch->n_groups };
    int32_t row = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct seq *seq = item->seq;
        build->seqs[i] = (struct batch_seq){ .slot = item->slot,
                                             .first_row = row,
                                             .n_rows = item->n_rows,
                                             .first_position = item->first,
                                             .rope_variant = seq->kind.rope_variant };
        fill_logit_rows(build, item, row);
        for (int32_t k = 0; k < item->n_rows; k++, row++) {
            int32_t position = item->first + k;
            build->tokens[row] =
                position < seq->n_tokens ? seq->tokens[position] : BATCH_TOKEN_IN_FLIGHT;
            build->positions[row] = position;
            build->row_seq[row] = i;
        }
    }
    CHECK(row == plan->n_rows && batch->n_logit_rows == plan->n_logit_rows);
    fill_pages(build, plan, s->pool);
}
