/* attend_plan.cu - host: what the attention kernels do in a step, as lists of items.
 *
 * A sequence with one row is decoded: its keys are cut into splits, so that a few long rows fill
 * the device; the kernel merges them. Every other sequence goes to prefill in items of
 * PREFILL_ITEM_ROWS rows, the last (the costliest: it sees the most keys) first.
 *
 *   keys of the row   |page|page|page|page|page|page|pa      chunk = 2 pages
 *   window                    |<---------------------->|
 *   items                |  split 0  |  split 1  | s 2  |     cut at from + i . chunk, from whole
 * pages
 *
 * The chosen chunk depends on the batch; a fixed one gives splits that depend on the row alone
 * (--invariant). No state, no allocation; any thread. */
#include "cuda/attend.cuh"

enum {
    /* Blocks of attend_decode that an SM holds at once: 3 with 163 KB of shared memory, 4 with 227
     * (D = 128). More items than fit are a second wave, which a few keys do not pay for. */
    WAVE_BLOCKS = 3,
    CHUNK_STEP = 64, /* a page for each of the 4 warps */
    /* Splits of rows that fill a wave anyway only even out the last one. */
    CHUNK_MIN_FULL = 256,
};
static_assert(CHUNK_STEP % PAGE_TOKENS == 0 && CHUNK_MIN_FULL % CHUNK_STEP == 0, "whole pages");

static int32_t divide_up(int64_t n, int32_t by)
{
    return (int32_t)((n + by - 1) / by);
}

/* First key of the window of the row at `position`, its page's first. */
static int32_t keys_from(int32_t position, int32_t window)
{
    const int32_t first = window > 0 && position + 1 > window ? position + 1 - window : 0;
    return first / PAGE_TOKENS * PAGE_TOKENS;
}

/* ---- decode -----------------------------------------------------------------------------------
 */

int32_t attend_decode_items_max(int32_t rows, int32_t ctx, int32_t n_kv_heads, int32_t chunk,
                                const struct device_info *device)
{
    if (chunk > 0)
        return rows * divide_up(ctx, chunk);
    const int32_t wave = WAVE_BLOCKS * device->n_sms / n_kv_heads;
    return wave > 2 * rows ? wave : 2 * rows;
}

static int64_t count_items(const struct batch *batch, int32_t window, int32_t chunk)
{
    int64_t n = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        if (seq->n_rows == 1)
            n += divide_up(seq->first_position + 1 - keys_from(seq->first_position, window), chunk);
    }
    return n;
}
/* The smallest chunk whose items fit `n_max`, which is at least the rows. */
static int32_t choose_chunk(const struct batch *batch, int32_t window, int32_t chunk_min,
                            int64_t n_max)
{
    int32_t low = chunk_min / CHUNK_STEP, high = low;
    while (count_items(batch, window, high * CHUNK_STEP) > n_max)
        high *= 2; /* ends: one item a row once a chunk holds the longest */
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (count_items(batch, window, middle * CHUNK_STEP) > n_max)
            low = middle + 1;
        else
            high = middle;
    }
    return high * CHUNK_STEP;
}
static void plan_decode_row(struct attend_plan *plan, const struct batch_seq *seq, int32_t window,
                            int32_t chunk)
{
    const int32_t from = keys_from(seq->first_position, window), to = seq->first_position + 1;
    const int32_t n_splits = divide_up(to - from, chunk), first = plan->n_decode;
    CHECK(n_splits <= plan->decode_max - first);
    for (int32_t s = 0; s < n_splits; s++) {
        const int32_t end = from + (s + 1) * chunk;
        plan->decode[plan->n_decode++] = (struct attend_item){
            .row = seq->first_row,
            .n_rows = 1,
            .from = from + s * chunk,
            .to = s + 1 == n_splits ? to : end,
            .split = s,
            .n_splits = n_splits,
            .first = first,
        };
    }
    plan->n_decode_rows++;
}

/* ---- prefill ----------------------------------------------------------------------------------
 */

/* A sequence of n > 1 rows has at most (n + 1) / 2 items. */
static_assert(PREFILL_ITEM_ROWS >= 2, "or items_max is too small");
int32_t attend_prefill_items_max(int32_t rows_max)
{
    return (rows_max + 1) / 2;
}
static void plan_prefill_seq(struct attend_plan *plan, const struct batch_seq *seq, int32_t window)
{
    const int32_t n_items = divide_up(seq->n_rows, PREFILL_ITEM_ROWS);
    CHECK(n_items <= plan->prefill_max - plan->n_prefill);
    for (int32_t i = n_items - 1; i >= 0; i--) {
        const int32_t row = i * PREFILL_ITEM_ROWS;
        const int32_t n_rows =
            seq->n_rows - row < PREFILL_ITEM_ROWS ? seq->n_rows - row : PREFILL_ITEM_ROWS;
        plan->prefill[plan->n_prefill++] = (struct attend_item){
            .row = seq->first_row + row,
            .n_rows = n_rows,
            .from = keys_from(seq->first_position + row, window),
            .to = seq->first_position + row + n_rows,
            .split = 0,
            .n_splits = 1,
            .first = 0,
        };
    }
}

void attend_plan_batch(struct attend_plan *plan, const struct batch *batch, int32_t window,
                       int32_t n_kv_heads, int32_t chunk, const struct device_info *device)
{
    CHECK(chunk >= 0 && chunk % PAGE_TOKENS == 0);
    plan->n_decode = plan->n_prefill = plan->n_decode_rows = 0;
    int32_t rows = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++)
        rows += batch->seqs[s].n_rows == 1;
    CHECK(rows <= plan->decode_max);
    if (chunk == 0 && rows > 0) {
        const int32_t n_max = attend_decode_items_max(rows, 0, n_kv_heads, 0, device);
        const bool full = 2 * rows * n_kv_heads > WAVE_BLOCKS * device->n_sms;
        chunk = choose_chunk(batch, window, full ? CHUNK_MIN_FULL : CHUNK_STEP,
                             n_max < plan->decode_max ? n_max : plan->decode_max);
    }
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        if (seq->n_rows == 1)
            plan_decode_row(plan, seq, window, chunk);
        else if (seq->n_rows > 1)
            plan_prefill_seq(plan, seq, window);
    }
    for (int32_t i = plan->n_decode; i < plan->decode_max; i++)
        plan->decode[i] = (struct attend_item){
            .row = -1, .n_rows = 0, .from = 0, .to = 0, .split = 0, .n_splits = 1, .first = 0
        };
}

/* ---- what there is ----------------------------------------------------------------------------
 */

bool attend_fits(int32_t head_dim, int32_t n_heads, int32_t n_kv_heads, enum dtype kv_dtype)
{
    if (n_kv_heads <= 0 || n_heads <= 0 || n_heads % n_kv_heads != 0)
        return false;
    if (kv_dtype != DTYPE_BF16 && kv_dtype != DTYPE_F16 && kv_dtype != DTYPE_I8)
        return false;
    for (const int32_t d : { 64, 80, 96, 128, 256 })
        if (d == head_dim)
            return true;
    return false;
}
