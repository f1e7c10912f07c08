/* sampling.cu - rows to sample: packed, sent, drawn on the device, copied back as one small block.
 *
 * Two steps may be under way (struct sampling_turn): sample() opens a turn, collect() waits for its
 * event and fills the outs. What a row draws also stays on the device, by the slot of its sequence
 * (cuda->drawn): the next step's embedding and its history take it from there, so that step can be
 * sent before the host knows the token.
 *
 * A row that asks for what the device form lacks (sample_fits), or whose history does not fit
 * SAMPLE_IDS_MAX beside the others', brings its logits to the host form: same arithmetic, one copy
 * of a row more. That is done in sample(), which then waits for the step: its token has to be on
 * the device before the next step, and the logits are there no longer. */
#include <math.h>
#include <string.h>
#include "cuda/state.h"
#include "host/base/rng.h"

static bool pinned(struct cuda *cuda, void **memory, size_t bytes, const char *what)
{
    return cuda_ok(cuda, cudaMallocHost(memory, bytes), "pinned memory", what);
}

static bool turn_reserve(struct cuda *cuda, struct sampling_turn *turn, struct err *err)
{
    const size_t n = (size_t)cuda->limits.logit_rows_max;
    if (!pinned(cuda, (void **)&turn->rows, n * sizeof *turn->rows, "rows") ||
        !pinned(cuda, (void **)&turn->outs_read, n * sizeof *turn->outs_read, "outs") ||
        !pinned(cuda, (void **)&turn->ids, (size_t)SAMPLE_IDS_MAX * sizeof(int32_t), "ids") ||
        !cuda_ok(cuda, cudaEventCreateWithFlags(&turn->done, cudaEventDisableTiming), "event",
                 "sampling")) {
        *err = cuda->failure;
        return false;
    }
    turn->on_host = (bool *)calloc(n, sizeof *turn->on_host);
    return turn->on_host != NULL || err_set(err, ERR_MEMORY, "cuda: no memory for %zu rows", n);
}

bool sampling_reserve(struct cuda *cuda, struct err *err)
{
    const struct backend_limits *l = &cuda->limits;
    const size_t n = (size_t)l->logit_rows_max;
    const size_t rows = n * sizeof *cuda->rows_device, outs = n * sizeof *cuda->outs_device;
    const size_t ids = (size_t)SAMPLE_IDS_MAX * sizeof(int32_t);
    const size_t drawn = (size_t)l->seqs_max * sizeof(int32_t);
    if (!cuda_take(cuda, (void **)&cuda->rows_device, rows, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->outs_device, outs, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->ids_device, ids, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->drawn, drawn, "drawn tokens", err) ||
        !cuda_take(cuda, (void **)&cuda->sample_scratch,
                   sample_workspace(l->vocab, l->logit_rows_max), "sampling", err))
        return false;
    for (int32_t i = 0; i < STEPS_MAX; i++)
        if (!turn_reserve(cuda, &cuda->turns[i], err))
            return false;
    if (!pinned(cuda, (void **)&cuda->drawn_host, n * sizeof(int32_t), "drawn tokens") ||
        !pinned(cuda, (void **)&cuda->logits_host, (size_t)l->vocab * sizeof(float), "logits")) {
        *err = cuda->failure;
        return false;
    }
    cuda->history = (int32_t *)calloc((size_t)l->ctx, sizeof *cuda->history);
    if (cuda->history == NULL)
        return err_set(err, ERR_MEMORY, "cuda: no memory for %d tokens", l->ctx);
    return sampler_open(&cuda->sampler, l->vocab, err);
}

void sampling_release(struct cuda *cuda)
{
    for (int32_t i = 0; i < STEPS_MAX; i++) {
        struct sampling_turn *turn = &cuda->turns[i];
        cudaFreeHost(turn->rows);
        cudaFreeHost(turn->outs_read);
        cudaFreeHost(turn->ids);
        if (turn->done != NULL)
            cudaEventDestroy(turn->done);
        free(turn->on_host);
    }
    cudaFreeHost(cuda->drawn_host);
    cudaFreeHost(cuda->logits_host);
    free(cuda->history);
    sampler_close(cuda->sampler);
}

/* n ints behind the ones that are there; -1 when there is no room. */
static int32_t put_ids(const struct sampling_turn *turn, int32_t *used, const void *from, int32_t n)
{
    if (n > SAMPLE_IDS_MAX - *used)
        return -1;
    const int32_t at = *used;
    if (n > 0)
        memcpy(turn->ids + at, from, (size_t)n * sizeof(int32_t));
    *used += n;
    return at;
}

/* What may be drawn, by both masks, behind the ints that are there; -1 when there is no room. */
static int32_t put_mask(const struct sampling_turn *turn, int32_t *used,
                        const struct sample_row *row, int32_t n_words)
{
    const uint32_t *first = row->mask != NULL ? row->mask : row->params->allowed;
    const int32_t at = put_ids(turn, used, first, n_words);
    if (at < 0 || row->mask == NULL || row->params->allowed == NULL)
        return at;
    for (int32_t i = 0; i < n_words; i++)
        turn->ids[at + i] = (int32_t)(row->mask[i] & row->params->allowed[i]);
    return at;
}

static bool wants_history(const struct sample_params *p)
{
    return p->chain != NULL || p->repetition_penalty != 1 || p->presence_penalty != 0 ||
           p->frequency_penalty != 0;
}

/* False: the host form must do this row. */
static bool pack_row(const struct cuda *cuda, const struct sampling_turn *turn,
                     const struct sample_row *row, struct device_sample *to, int32_t *used)
{
    const struct sample_params *p = row->params;
    memset(to, 0, sizeof *to);
    CHECK(row->slot >= 0 && row->slot < cuda->limits.seqs_max);
    to->logit_row = row->logit_row;
    to->slot = row->slot;
    to->target = row->target;
    to->mask_at = -1;
    to->temperature = 1;
    to->repetition_penalty = 1;
    to->top_p = 1;
    to->n_top = p->n_top;
    if (!sample_fits(row))
        return false;
    if (row->target >= 0)
        return true;
    to->temperature = p->temperature;
    to->top_k = p->top_k;
    to->top_p = p->top_p;
    to->min_p = p->min_p;
    to->draw = rng_uniform(p->seed, row->index, (uint64_t)row->position);
    const int32_t before = *used;
    if (wants_history(p)) {
        to->repetition_penalty = p->repetition_penalty;
        to->presence_penalty = p->presence_penalty;
        to->frequency_penalty = p->frequency_penalty;
        to->n_prompt = row->n_prompt;
        to->n_output = row->n_output;
        const int32_t n = row->n_prompt + row->n_output;
        to->history_at = put_ids(turn, used, row->history, n);
        if (to->history_at >= 0 && row->in_flight)
            turn->ids[to->history_at + n - 1] = -1; /* sample.cu takes it from `drawn` */
    }
    to->n_biases = p->n_biases;
    static_assert(sizeof(struct logit_bias) == 2 * sizeof(int32_t), "a bias is two ints");
    if (to->history_at >= 0)
        to->biases_at = put_ids(turn, used, p->biases, 2 * p->n_biases);
    to->n_banned = row->n_banned;
    if (to->history_at >= 0 && to->biases_at >= 0)
        to->banned_at = put_ids(turn, used, row->banned, row->n_banned);
    bool fits = to->history_at >= 0 && to->biases_at >= 0 && to->banned_at >= 0;
    if (fits && (row->mask != NULL || p->allowed != NULL)) {
        to->mask_at = put_mask(turn, used, row, (cuda->limits.vocab + 31) / 32);
        fits = to->mask_at >= 0;
    }
    if (!fits)
        *used = before;
    return fits;
}

static bool launch_rows(struct cuda *cuda, const struct sampling_turn *turn,
                        const struct sample_op *op, int32_t n, int32_t n_ids)
{
    const size_t rows = (size_t)n * sizeof *turn->rows;
    if (!cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->rows_device, turn->rows, rows, cudaMemcpyHostToDevice,
                                 cuda->stream),
                 "copy", "rows to sample"))
        return false;
    if (n_ids > 0 &&
        !cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->ids_device, turn->ids, (size_t)n_ids * sizeof(int32_t),
                                 cudaMemcpyHostToDevice, cuda->stream),
                 "copy", "histories and masks"))
        return false;
    struct launch launch;
    launch.stream = cuda->stream;
    launch.device = &cuda->info;
    launch.pdl = false; /* behind a copy */
    struct sample_in in;
    memset(&in, 0, sizeof in);
    in.logits = (const float *)op->logits.data;
    in.stride = op->logits.row_stride;
    in.vocab = op->logits.n_cols;
    in.n_rows = n;
    in.rows = cuda->rows_device;
    in.ids = cuda->ids_device;
    in.outs = cuda->outs_device;
    in.drawn = cuda->drawn;
    in.scratch = cuda->sample_scratch;
    cuda->counts[PATH_SAMPLE]++;
    return cuda_ok(cuda, sample_rows(&launch, &in), "sample_rows", "sampling") &&
           cuda_ok(cuda,
                   cudaMemcpyAsync(turn->outs_read, cuda->outs_device,
                                   (size_t)n * sizeof *turn->outs_read, cudaMemcpyDeviceToHost,
                                   cuda->stream),
                   "copy", "drawn tokens");
}

/* ---- the host form ----------------------------------------------------------------------------
 */

/* The history with the token that was in flight; `drawn` is what the device had for the slot. */
static void fill_history(struct cuda *cuda, struct sample_row *row, int32_t drawn)
{
    const int32_t n = row->n_prompt + row->n_output;
    if (!row->in_flight)
        return;
    row->in_flight = false;
    if (!wants_history(row->params)) {
        row->n_output--;
        return;
    }
    CHECK(n >= 1 && n <= cuda->limits.ctx);
    memcpy(cuda->history, row->history, (size_t)(n - 1) * sizeof *cuda->history);
    cuda->history[n - 1] = drawn >= 0 ? drawn : 0; /* no token: the step before is the end of it */
    row->history = cuda->history;
}

static bool sample_on_host(struct cuda *cuda, const struct sample_op *op, int32_t i)
{
    struct sample_row row = op->rows[i];
    const float *from =
        (const float *)op->logits.data + (int64_t)row.logit_row * op->logits.row_stride;
    int32_t *const token = &cuda->drawn_host[i], *const drawn = &cuda->drawn[row.slot];
    if (!cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->logits_host, from,
                                 (size_t)cuda->limits.vocab * sizeof(float), cudaMemcpyDeviceToHost,
                                 cuda->stream),
                 "copy", "logits") ||
        !cuda_ok(cuda,
                 cudaMemcpyAsync(token, drawn, sizeof *token, cudaMemcpyDeviceToHost, cuda->stream),
                 "copy", "a token") ||
        !cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "wait", "logits"))
        return false;
    cuda->counts[PATH_SAMPLE_HOST]++;
    fill_history(cuda, &row, *token);
    sampler_row(cuda->sampler, cuda->logits_host, &row, &op->outs[i]);
    if (row.target >= 0)
        return true;
    *token = op->outs[i].token;
    return cuda_ok(
        cuda, cudaMemcpyAsync(drawn, token, sizeof *token, cudaMemcpyHostToDevice, cuda->stream),
        "copy", "a token");
}

/* ---- turns ------------------------------------------------------------------------------------
 */

bool cuda_sample(struct backend *be, const struct sample_op *op)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->failed)
        return true; /* collect says what happened */
    CHECK(op->n_rows <= cuda->limits.logit_rows_max);
    CHECK(op->n_rows == 0 ||
          (op->logits.dtype == DTYPE_F32 && op->logits.n_cols == cuda->limits.vocab));
    CHECK(cuda->n_turns < STEPS_MAX);
    struct sampling_turn *turn = &cuda->turns[(cuda->first_turn + cuda->n_turns) % STEPS_MAX];
    int32_t n = 0, n_ids = 0;
    for (int32_t i = 0; i < op->n_rows; i++) {
        turn->on_host[i] = !pack_row(cuda, turn, &op->rows[i], &turn->rows[n], &n_ids);
        n += !turn->on_host[i];
    }
    if (n > 0 && !launch_rows(cuda, turn, op, n, n_ids))
        return true;
    for (int32_t i = 0; i < op->n_rows; i++)
        if (turn->on_host[i] && !sample_on_host(cuda, op, i))
            return true;
    if (!cuda_ok(cuda, cudaEventRecord(turn->done, cuda->stream), "event", "step"))
        return true;
    turn->outs = op->outs;
    turn->n_rows = op->n_rows;
    cuda->n_turns++;
    return n < op->n_rows;
}

/* The oldest turn, whose step is over. */
static void close_turn(struct cuda *cuda)
{
    const struct sampling_turn *turn = &cuda->turns[cuda->first_turn];
    cuda->first_turn = (cuda->first_turn + 1) % STEPS_MAX;
    cuda->n_turns--;
    const struct device_sampled *from = turn->outs_read;
    for (int32_t i = 0; i < turn->n_rows; i++) {
        if (turn->on_host[i])
            continue;
        struct sample_out *to = &turn->outs[i];
        to->token = from->token;
        to->logprob = from->logprob;
        to->n_top = from->n_top;
        memcpy(to->top_tokens, from->top_tokens, sizeof to->top_tokens);
        memcpy(to->top_logprobs, from->top_logprobs, sizeof to->top_logprobs);
        from++;
    }
}

bool cuda_collect(struct backend *be, struct err *err)
{
    struct cuda *cuda = cuda_of(be);
    CHECK(cuda->failed || cuda->n_turns > 0);
    if (!cuda->failed && cuda_ok(cuda, cudaEventSynchronize(cuda->turns[cuda->first_turn].done),
                                 "step", "a kernel of this step")) {
        close_turn(cuda);
        return true;
    }
    *err = cuda->failure;
    return false;
}

void sampling_finish(struct cuda *cuda)
{
    while (cuda->n_turns > 0)
        close_turn(cuda);
}
