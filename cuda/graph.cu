/* graph.cu - recordings: a decode step of many kernels as one launch.
 *
 * A step whose sequences all have one row runs in a bucket: its rows are padded to the next of
 * buckets[], and everything that depends on the batch is read from the step's fixed buffers
 * (step.cu). A bucket is recorded when it is first met, on the engine thread; start-up records
 * nothing. Steps with prompts in them run eagerly: their kernels are long. */
#include <string.h>
#include "cuda/state.h"
#include "host/base/log.h"

/* Token tiles of the small kernel are 8 rows wide, those of the tiles 64: between them a padded row
 * costs no weight traffic. */
static const int32_t buckets[] = { 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256 };

/* 0: this batch is not for a recording. */
static int32_t bucket_of(const struct cuda *cuda, const struct batch *batch)
{
    if (cuda->graphs_off || cuda->failed || batch->n_rows != batch->n_seqs ||
        batch->n_logit_rows != batch->n_rows)
        return 0;
    for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++)
        if (batch->n_rows <= buckets[i])
            return buckets[i] <= cuda->limits.rows_max && buckets[i] <= cuda->limits.logit_rows_max
                       ? buckets[i]
                       : 0;
    return 0;
}

static struct recording *find(struct cuda *cuda, int32_t rows, const struct kv_cache *kv)
{
    for (int32_t i = 0; i < cuda->n_graphs; i++)
        if (cuda->graphs[i].rows == rows && cuda->graphs[i].kv == kv->groups[0].memory)
            return &cuda->graphs[i];
    return NULL;
}

bool cuda_replay(struct backend *be, const struct batch *batch, const struct kv_cache *kv)
{
    struct cuda *cuda = cuda_of(be);
    const int32_t rows = bucket_of(cuda, batch);
    if (rows == 0)
        return false;
    const struct recording *recording = find(cuda, rows, kv);
    if (recording == NULL)
        return false;
    cuda->bucket = cuda->bucket_logits = rows;
    const bool sent = step_send(cuda, batch, rows);
    cuda->bucket = cuda->bucket_logits = 0;
    if (sent) {
        cuda->counts[PATH_REPLAY]++;
        (void)cuda_ok(cuda, cudaGraphLaunch(recording->exec, cuda->stream), "graph launch", "step");
    }
    return true; /* after a failure every op is a no-op */
}

bool cuda_record(struct backend *be, const struct batch *batch, const struct kv_cache *kv)
{
    struct cuda *cuda = cuda_of(be);
    const int32_t rows = bucket_of(cuda, batch);
    if (rows == 0 || cuda->n_graphs == GRAPHS_MAX || find(cuda, rows, kv) != NULL)
        return false;
    cuda->bucket = cuda->bucket_logits = rows;
    if (!step_send(cuda, batch, rows) || /* before the capture: copies are no part of it */
        !cuda_ok(cuda, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                 "capture", "step")) {
        cuda->bucket = cuda->bucket_logits = 0;
        return false;
    }
    struct recording *recording = &cuda->graphs[cuda->n_graphs];
    memset(recording, 0, sizeof *recording);
    recording->rows = rows;
    recording->kv = kv->groups[0].memory;
    cuda->recording = true;
    return true;
}

void cuda_record_end(struct backend *be)
{
    struct cuda *cuda = cuda_of(be);
    CHECK(cuda->recording);
    cuda->recording = false;
    const int32_t rows = cuda->bucket;
    cuda->bucket = cuda->bucket_logits = 0;
    cudaGraph_t graph = NULL;
    const cudaError_t ended = cudaStreamEndCapture(cuda->stream, &graph);
    struct recording *recording = &cuda->graphs[cuda->n_graphs];
    if (cuda_ok(cuda, ended, "capture", "step") &&
        cuda_ok(cuda, cudaGraphInstantiate(&recording->exec, graph, 0), "graph", "step")) {
        cuda->n_graphs++;
        log_debug("graph", "rows=%d recordings=%d", rows, cuda->n_graphs);
        (void)cuda_ok(cuda, cudaGraphLaunch(recording->exec, cuda->stream), "graph launch", "step");
    }
    if (graph != NULL)
        cudaGraphDestroy(graph);
}

void graphs_release(struct cuda *cuda)
{
    for (int32_t i = 0; i < cuda->n_graphs; i++)
        cudaGraphExecDestroy(cuda->graphs[i].exec);
    cuda->n_graphs = 0;
}
