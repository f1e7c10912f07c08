/* sampling.cu - rows to sample: packed, sent, drawn on the device, copied back as one small block.
 *
 * A row that asks for what the device form lacks (sample_fits), or whose history does not fit
 * SAMPLE_IDS_MAX beside the others', brings its logits to the host form: same arithmetic, one copy
 * of a row more. Outs are filled in finish(). */
#include <math.h>
#include <string.h>
#include "cuda/state.h"
#include "host/base/rng.h"

bool sampling_reserve(struct cuda *cuda, struct err *err)
{
    const struct backend_limits *l = &cuda->limits;
    const size_t n = (size_t)l->logit_rows_max;
    const size_t rows = n * sizeof *cuda->rows_host, outs = n * sizeof *cuda->outs_host;
    const size_t ids = (size_t)SAMPLE_IDS_MAX * sizeof(int32_t);
    if (!cuda_take(cuda, (void **)&cuda->rows_device, rows, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->outs_device, outs, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->ids_device, ids, "sampling", err) ||
        !cuda_take(cuda, (void **)&cuda->sample_scratch,
                   sample_workspace(l->vocab, l->logit_rows_max), "sampling", err))
        return false;
    if (!cuda_ok(cuda, cudaMallocHost((void **)&cuda->rows_host, rows), "pinned memory", "rows") ||
        !cuda_ok(cuda, cudaMallocHost((void **)&cuda->outs_host, outs), "pinned memory", "outs") ||
        !cuda_ok(cuda, cudaMallocHost((void **)&cuda->ids_host, ids), "pinned memory", "ids") ||
        !cuda_ok(cuda,
                 cudaMallocHost((void **)&cuda->logits_host, (size_t)l->vocab * sizeof(float)),
                 "pinned memory", "logits")) {
        *err = cuda->failure;
        return false;
    }
    cuda->on_host = (bool *)calloc(n, sizeof *cuda->on_host);
    if (cuda->on_host == NULL)
        return err_set(err, ERR_MEMORY, "cuda: no memory for %zu rows", n);
    return sampler_open(&cuda->sampler, l->vocab, err);
}

void sampling_release(struct cuda *cuda)
{
    cudaFreeHost(cuda->rows_host);
    cudaFreeHost(cuda->outs_host);
    cudaFreeHost(cuda->ids_host);
    cudaFreeHost(cuda->logits_host);
    free(cuda->on_host);
    sampler_close(cuda->sampler);
}

/* n ints behind the ones that are there; -1 when there is no room. */
static int32_t put_ids(struct cuda *cuda, int32_t *used, const void *from, int32_t n)
{
    if (n > SAMPLE_IDS_MAX - *used)
        return -1;
    const int32_t at = *used;
    if (n > 0)
        memcpy(cuda->ids_host + at, from, (size_t)n * sizeof(int32_t));
    *used += n;
    return at;
}

static bool wants_history(const struct sample_params *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* False: the host form must do this row. */
static bool pack_row(struct cuda *cuda, const struct sample_row *row, struct device_sample *to,
                     int32_t *used)
{
    const struct sample_params *p = row->params;
    memset(to, 0, sizeof *to);
    to->logit_row = row->logit_row;
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
        to->history_at = put_ids(cuda, used, row->history, row->n_prompt + row->n_output);
    }
    to->n_biases = p->n_biases;
    static_assert(sizeof(struct logit_bias) == 2 * sizeof(int32_t), "a bias is two ints");
    if (to->history_at >= 0)
        to->biases_at = put_ids(cuda, used, p->biases, 2 * p->n_biases);
    to->n_banned = row->n_banned;
    if (to->history_at >= 0 && to->biases_at >= 0)
        to->banned_at = put_ids(cuda, used, row->banned, row->n_banned);
    bool fits = to->history_at >= 0 && to->biases_at >= 0 && to->banned_at >= 0;
    if (fits && row->mask != NULL) {
        to->mask_at = put_ids(cuda, used, row->mask, (cuda->limits.vocab + 31) / 32);
        fits = to->mask_at >= 0;
    }
    if (!fits)
        *used = before;
    return fits;
}

static bool launch_rows(struct cuda *cuda, const struct sample_op *op, int32_t n, int32_t n_ids)
{
    const size_t rows = (size_t)n * sizeof *cuda->rows_host;
    if (!cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->rows_device, cuda->rows_host, rows, cudaMemcpyHostToDevice,
                                 cuda->stream),
                 "copy", "rows to sample"))
        return false;
    if (n_ids > 0 &&
        !cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->ids_device, cuda->ids_host, (size_t)n_ids * sizeof(int32_t),
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
    in.scratch = cuda->sample_scratch;
    cuda->counts[PATH_SAMPLE]++;
    return cuda_ok(cuda, sample_rows(&launch, &in), "sample_rows", "sampling") &&
           cuda_ok(cuda,
                   cudaMemcpyAsync(cuda->outs_host, cuda->outs_device,
                                   (size_t)n * sizeof *cuda->outs_host, cudaMemcpyDeviceToHost,
                                   cuda->stream),
                   "copy", "drawn tokens");
}

void cuda_sample(struct backend *be, const struct sample_op *op)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->failed || op->n_rows == 0)
        return;
    CHECK(op->n_rows <= cuda->limits.logit_rows_max && op->logits.dtype == DTYPE_F32);
    CHECK(op->logits.n_cols == cuda->limits.vocab);
    CHECK(cuda->pending.n_rows == 0); /* one sample() a finish() */
    int32_t n = 0, n_ids = 0;
    for (int32_t i = 0; i < op->n_rows; i++) {
        cuda->on_host[i] = !pack_row(cuda, &op->rows[i], &cuda->rows_host[n], &n_ids);
        n += !cuda->on_host[i];
    }
    if (n > 0 && !launch_rows(cuda, op, n, n_ids))
        return;
    cuda->pending = *op;
}

static bool sample_on_host(struct cuda *cuda, const struct sample_op *op, int32_t i)
{
    const struct sample_row *row = &op->rows[i];
    const float *from =
        (const float *)op->logits.data + (int64_t)row->logit_row * op->logits.row_stride;
    if (!cuda_ok(cuda,
                 cudaMemcpyAsync(cuda->logits_host, from,
                                 (size_t)cuda->limits.vocab * sizeof(float), cudaMemcpyDeviceToHost,
                                 cuda->stream),
                 "copy", "logits") ||
        !cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "wait", "logits"))
        return false;
    cuda->counts[PATH_SAMPLE_HOST]++;
    sampler_row(cuda->sampler, cuda->logits_host, row, &op->outs[i]);
    return true;
}

bool sampling_finish(struct cuda *cuda)
{
    const struct sample_op op = cuda->pending;
    cuda->pending.n_rows = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < op.n_rows; i++) {
        if (cuda->on_host[i]) {
            if (!sample_on_host(cuda, &op, i))
                return false;
            continue;
        }
        const struct device_sampled *from = &cuda->outs_host[n++];
        struct sample_out *to = &op.outs[i];
        to->token = from->token;
        to->logprob = from->logprob;
        to->n_top = from->n_top;
        memcpy(to->top_tokens, from->top_tokens, sizeof to->top_tokens);
        memcpy(to->top_logprobs, from->top_logprobs, sizeof to->top_logprobs);
    }
    return true;
}
