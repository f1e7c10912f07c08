/* step.cu - one step's batch on the device: fixed places, two copies at most.
 *
 * A token in flight is sent as the slot that it was drawn for: -2 - slot; embed.cu looks it up.
 * Rows past the batch's are padding (token -1, position -1, sequence 0): a recording runs its whole
 * bucket. The pinned twin is written only when the last copy out of it has been made. */
#include <string.h>
#include "cuda/state.h"

static size_t place(size_t *at, size_t bytes)
{
    const size_t here = *at;
    *at += (bytes + 255) / 256 * 256;
    return here;
}

/* --invariant: every row is attended to as a decode row, with splits that depend on its position
 * alone; prompts pay for it by reading their keys once a row. */
static int32_t chunk_of(const struct cuda *cuda)
{
    enum { CHUNK_MIN = 512, SPLITS_MAX = 32 }; /* bounds the partial sums: 32 a row */
    if (!cuda->options.invariant)
        return 0;
    const int32_t chunk = f64_pad(cuda->limits.ctx / SPLITS_MAX + 1, PAGE_TOKENS);
    return chunk > CHUNK_MIN ? chunk : CHUNK_MIN;
}
int32_t step_decode_rows(const struct cuda *cuda)
{
    return cuda->options.invariant ? cuda->limits.rows_max : cuda->limits.seqs_max;
}
int32_t step_decode_items(const struct cuda *cuda, int32_t rows)
{
    return attend_decode_items_max(rows, cuda->limits.ctx, cuda->limits.n_kv_heads, chunk_of(cuda),
                                   &cuda->info);
}

bool step_reserve(struct cuda *cuda, struct err *err)
{
    struct step_buffers *s = &cuda->step;
    const struct backend_limits *l = &cuda->limits;
    s->decode_max = step_decode_items(cuda, step_decode_rows(cuda));
    s->prefill_max = attend_prefill_items_max(l->rows_max);
    size_t at = 0;
    s->tokens_at = place(&at, (size_t)l->rows_max * sizeof(int32_t));
    s->positions_at = place(&at, (size_t)l->rows_max * sizeof(int32_t));
    s->row_seq_at = place(&at, (size_t)l->rows_max * sizeof(int32_t));
    s->variants_at = place(&at, (size_t)l->rows_max * sizeof(int32_t));
    s->logit_rows_at = place(&at, (size_t)l->logit_rows_max * sizeof(int32_t));
    for (int32_t g = 0; g < l->n_kv_groups; g++) {
        s->decode_at[g] = place(&at, (size_t)s->decode_max * sizeof(struct attend_item));
        s->prefill_at[g] = place(&at, (size_t)s->prefill_max * sizeof(struct attend_item));
    }
    s->bytes = at;
    if (!cuda_take(cuda, (void **)&s->device, at, "the step's batch", err))
        return false;
    if (cuda->options.invariant) {
        s->rows_alone = (struct batch_seq *)calloc((size_t)l->rows_max, sizeof *s->rows_alone);
        if (s->rows_alone == NULL)
            return err_set(err, ERR_MEMORY, "cuda: no memory for %d rows", l->rows_max);
    }
    if (!cuda_ok(cuda, cudaMallocHost((void **)&s->host, at), "pinned memory", "batch")) {
        *err = cuda->failure;
        return false;
    }
    for (int32_t g = 0; g < l->n_kv_groups; g++) {
        const size_t stride = (size_t)kv_pages_for(l->ctx) + 1;
        const size_t bytes = stride * (size_t)l->seqs_max * sizeof(int32_t);
        s->pages_stride[g] = (int32_t)stride;
        if (!cuda_take(cuda, (void **)&s->pages_device[g], bytes, "page tables", err))
            return false;
        if (!cuda_ok(cuda, cudaMallocHost((void **)&s->pages_host[g], bytes), "pinned memory",
                     "page tables")) {
            *err = cuda->failure;
            return false;
        }
        memset(s->pages_host[g], 0xff, bytes);
        if (!cuda_ok(cuda, cudaMemsetAsync(s->pages_device[g], 0xff, bytes, cuda->stream), "memset",
                     "page tables")) {
            *err = cuda->failure;
            return false;
        }
    }
    return true;
}

/* The table of a group, where it differs from what the device has. */
static bool send_pages(struct cuda *cuda, const struct batch *batch, int32_t g)
{
    struct step_buffers *s = &cuda->step;
    const int32_t stride = s->pages_stride[g], from_stride = batch->pages_stride[g];
    const int32_t n = from_stride < stride ? from_stride : stride;
    CHECK(batch->n_seqs <= cuda->limits.seqs_max);
    bool same = true;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        const int32_t *from = batch->pages[g] + (int64_t)i * from_stride;
        int32_t *to = s->pages_host[g] + (int64_t)i * stride;
        if (memcmp(to, from, (size_t)n * sizeof *to) == 0)
            continue;
        memcpy(to, from, (size_t)n * sizeof *to);
        same = false;
    }
    if (same)
        return true;
    return cuda_ok(cuda,
                   cudaMemcpyAsync(s->pages_device[g], s->pages_host[g],
                                   (size_t)batch->n_seqs * (size_t)stride * sizeof(int32_t),
                                   cudaMemcpyHostToDevice, cuda->stream),
                   "copy", "page tables");
}

static void fill_rows(struct cuda *cuda, const struct batch *batch, int32_t rows)
{
    struct step_buffers *s = &cuda->step;
    int32_t *tokens = (int32_t *)(void *)(s->host + s->tokens_at);
    int32_t *positions = (int32_t *)(void *)(s->host + s->positions_at);
    int32_t *row_seq = (int32_t *)(void *)(s->host + s->row_seq_at);
    int32_t *variants = (int32_t *)(void *)(s->host + s->variants_at);
    int32_t *logit_rows = (int32_t *)(void *)(s->host + s->logit_rows_at);
    const size_t bytes = (size_t)batch->n_rows * sizeof(int32_t);
    for (int32_t r = 0; r < batch->n_rows; r++) {
        const struct batch_seq *seq = &batch->seqs[batch->row_seq[r]];
        const int32_t slot = seq->slot;
        CHECK(seq->rope_variant >= 0 &&
              (seq->rope_variant < cuda->limits.rope_variants || seq->rope_variant == 0));
        variants[r] = seq->rope_variant;
        tokens[r] = batch->tokens[r];
        if (tokens[r] != BATCH_TOKEN_IN_FLIGHT)
            continue;
        CHECK(slot >= 0 && slot < cuda->limits.seqs_max);
        tokens[r] = -2 - slot; /* embed.cu */
    }
    memcpy(positions, batch->positions, bytes);
    memcpy(row_seq, batch->row_seq, bytes);
    for (int32_t r = batch->n_rows; r < rows; r++) {
        tokens[r] = positions[r] = -1;
        row_seq[r] = variants[r] = 0;
    }
    const int32_t logits = cuda->bucket_logits > 0 ? cuda->bucket_logits : batch->n_logit_rows;
    s->identity_logits = logits == rows;
    for (int32_t i = 0; i < logits; i++) {
        logit_rows[i] = i < batch->n_logit_rows ? batch->logit_rows[i] : -1;
        if (i < batch->n_logit_rows && logit_rows[i] != i)
            s->identity_logits = false;
    }
}

/* Every row as a sequence of its own, for the plan of attention. */
static void part_rows(struct cuda *cuda, struct batch *batch)
{
    int32_t n = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++)
        for (int32_t r = 0; r < batch->seqs[s].n_rows; r++) {
            struct batch_seq *row = &cuda->step.rows_alone[n++];
            row->slot = batch->seqs[s].slot;
            row->first_row = batch->seqs[s].first_row + r;
            row->n_rows = 1;
            row->first_position = batch->seqs[s].first_position + r;
        }
    batch->seqs = cuda->step.rows_alone;
    batch->n_seqs = n;
}

bool step_send(struct cuda *cuda, const struct batch *batch, int32_t rows)
{
    struct step_buffers *s = &cuda->step;
    if (cuda->failed)
        return false;
    if (s->serial == batch->serial && batch->serial != 0)
        return true;
    CHECK(rows >= batch->n_rows && rows <= cuda->limits.rows_max);
    CHECK(batch->n_logit_rows <= cuda->limits.logit_rows_max);
    CHECK(batch->n_groups == cuda->limits.n_kv_groups);
    if (s->in_flight && !cuda_ok(cuda, cudaEventSynchronize(cuda->copied), "wait", "batch"))
        return false;
    fill_rows(cuda, batch, rows);
    struct batch planned = *batch;
    if (cuda->options.invariant)
        part_rows(cuda, &planned);
    for (int32_t g = 0; g < batch->n_groups; g++) {
        struct attend_plan plan;
        memset(&plan, 0, sizeof plan);
        plan.decode = (struct attend_item *)(void *)(s->host + s->decode_at[g]);
        plan.prefill = (struct attend_item *)(void *)(s->host + s->prefill_at[g]);
        plan.decode_max = s->decode_max;
        plan.prefill_max = s->prefill_max;
        attend_plan_batch(&plan, &planned, cuda->limits.windows[g], cuda->limits.n_kv_heads,
                          chunk_of(cuda), &cuda->info);
        s->n_decode[g] = plan.n_decode;
        s->n_prefill[g] = plan.n_prefill;
        if (!send_pages(cuda, batch, g))
            return false;
    }
    if (!cuda_ok(
            cuda,
            cudaMemcpyAsync(s->device, s->host, s->bytes, cudaMemcpyHostToDevice, cuda->stream),
            "copy", "batch") ||
        !cuda_ok(cuda, cudaEventRecord(cuda->copied, cuda->stream), "event", "batch"))
        return false;
    s->in_flight = true;
    s->serial = batch->serial;
    return true;
}
