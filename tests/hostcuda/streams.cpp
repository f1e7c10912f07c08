/* streams.cpp - streams that run late, events, capture and graphs.
 *
 * A stream's operations wait in its queue until somebody synchronizes with it: its order is kept,
 * that between streams only where events say so. The null stream runs at once, after every stream
 * that is not cudaStreamNonBlocking, as the legacy stream does. */
#include "runtime.h"
#include <algorithm>
#include <time.h>

static std::vector<hostcuda_stream *> &streams = *new std::vector<hostcuda_stream *>;
static std::shared_ptr<hc_capture> capturing; /* one at a time */

#define CALL                                                                                       \
    struct hc_call call;                                                                           \
    if (call.status != cudaSuccess)                                                                \
    return call.status

/* ---- running ------------------------------------------------------------------------------------
 */

static std::unique_ptr<struct hc_grid> grid_of(const struct hc_op &op)
{
    const struct hc_launch &launch = *op.launch;
    auto grid = std::make_unique<struct hc_grid>();
    grid->body = launch.body;
    grid->args = launch.args.get();
    grid->count = launch.count;
    grid->grid = launch.grid;
    grid->threads = launch.threads;
    grid->flags = launch.flags;
    grid->shared_bytes = launch.shared_bytes;
    return grid;
}
/* One operation; `early` is its grid if it has begun already. When the one after it is a launch
 * that need not wait for its end (PDL), some blocks of that run first, as far as griddep_wait. */
static std::unique_ptr<struct hc_grid> run_op(const struct hc_op &op, const struct hc_op *next,
                                              std::unique_ptr<struct hc_grid> early)
{
    if (!op.launch) {
        op.run();
        return nullptr;
    }
    auto grid = early ? std::move(early) : grid_of(op);
    std::unique_ptr<struct hc_grid> next_grid;
    if (next != nullptr && next->launch && (next->launch->flags & 1) != 0 &&
        hc_settings.arch >= 90) {
        next_grid = grid_of(*next);
        hc_start_early(next_grid.get());
    }
    grid->count->launches++;
    hc_run_grid(grid.get());
    return next_grid;
}
static void run_ops(const hc_ops &ops)
{
    std::unique_ptr<struct hc_grid> early;
    for (size_t i = 0; i < ops.size(); i++)
        early = run_op(ops[i], i + 1 < ops.size() ? &ops[i + 1] : nullptr, std::move(early));
}
void hc_run_stream(struct hostcuda_stream *stream, long until)
{
    if (stream->n_run >= until)
        return;
    const size_t n = (size_t)(until - stream->n_run);
    const hc_ops ops(stream->queue.begin(), stream->queue.begin() + (long)n);
    stream->queue.erase(stream->queue.begin(), stream->queue.begin() + (long)n);
    stream->n_run = until;
    run_ops(ops);
}
void hc_run_all(void)
{
    for (struct hostcuda_stream *stream : streams)
        hc_run_stream(stream, stream->n_queued);
}
void hc_run_blocking(void)
{
    for (struct hostcuda_stream *stream : streams)
        if (stream->blocking)
            hc_run_stream(stream, stream->n_queued);
}
bool hc_stream_ok(cudaStream_t stream)
{
    return stream == nullptr || std::find(streams.begin(), streams.end(), stream) != streams.end();
}
bool hc_capture_forbids(void)
{
    if (capturing)
        capturing->invalid = true;
    return (bool)capturing;
}
void hc_enqueue(cudaStream_t stream, const hc_op &op)
{
    if (stream == nullptr) {
        hc_run_blocking();
        run_op(op, nullptr, nullptr);
    } else if (stream->capture) {
        stream->capture->ops.push_back(op);
        stream->unjoined = stream != stream->capture->origin;
    } else {
        stream->queue.push_back(op);
        stream->n_queued++;
    }
}

/* ---- streams ------------------------------------------------------------------------------------
 */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    CALL;
    struct hostcuda_stream *stream = new hostcuda_stream();
    stream->blocking = (flags & cudaStreamNonBlocking) == 0;
    streams.push_back(stream);
    *out = stream;
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    CALL;
    if (stream == nullptr || !hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    hc_run_stream(stream, stream->n_queued);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    if (stream == nullptr)
        hc_run_blocking();
    else
        hc_run_stream(stream, stream->n_queued);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    if (stream == nullptr || stream->n_run == stream->n_queued)
        return cudaSuccess;
    hc_run_stream(stream, stream->n_run + 1); /* asked often enough, all is done */
    return cudaErrorNotReady;
}

/* ---- events -------------------------------------------------------------------------------------
 */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    CALL;
    *out = new hostcuda_event();
    (*out)->state = std::make_shared<hc_event_state>();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    struct hc_call call;
    delete event; /* of a lost device too: what is left of it is here */
    return call.status;
}
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CALL;
    if (event == nullptr || !hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    auto state = std::make_shared<hc_event_state>();
    state->recorded = true;
    state->stream = stream;
    event->state = state;
    if (stream != nullptr && stream->capture) {
        state->capture = stream->capture;
        return cudaSuccess;
    }
    struct hc_op op;
    op.run = [state]() {
        state->done = true;
        state->seconds = now();
    };
    hc_enqueue(stream, op);
    state->position = stream == nullptr ? 0 : stream->n_queued;
    return cudaSuccess;
}
static void run_until(const std::shared_ptr<hc_event_state> &state)
{
    if (!state->recorded || state->done)
        return;
    if (hc_stream_ok(state->stream) && state->stream != nullptr)
        hc_run_stream(state->stream, state->position);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    CALL;
    if (event == nullptr || !hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    const std::shared_ptr<hc_event_state> state = event->state;
    if (!state->recorded)
        return cudaSuccess;
    if (state->capture) {
        if (stream == nullptr || state->capture != capturing)
            return hc_error(cudaErrorStreamCaptureUnsupported);
        state->stream->unjoined = false;
        if (!stream->capture) {
            stream->capture = state->capture;
            state->capture->streams.push_back(stream);
        }
        stream->unjoined = stream != state->capture->origin;
        return cudaSuccess;
    }
    if (stream != nullptr && stream->capture)
        return hc_error(cudaErrorStreamCaptureUnsupported); /* waits for work outside the graph */
    struct hc_op op;
    op.run = [state]() { run_until(state); };
    hc_enqueue(stream, op);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    CALL;
    if (event == nullptr)
        return hc_error(cudaErrorInvalidResourceHandle);
    if (event->state->capture || hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    run_until(event->state);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    CALL;
    if (event == nullptr)
        return hc_error(cudaErrorInvalidResourceHandle);
    const std::shared_ptr<hc_event_state> state = event->state;
    if (state->capture || hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    if (!state->recorded || state->done)
        return cudaSuccess;
    if (hc_stream_ok(state->stream) && state->stream != nullptr)
        hc_run_stream(state->stream, state->stream->n_run + 1);
    return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    CALL;
    if (from == nullptr || to == nullptr || !from->state->recorded || !to->state->recorded)
        return hc_error(cudaErrorInvalidResourceHandle);
    if (!from->state->done || !to->state->done)
        return cudaErrorNotReady;
    *ms = (float)((to->state->seconds - from->state->seconds) * 1e3);
    return cudaSuccess;
}

/* ---- capture and graphs -------------------------------------------------------------------------
 */

void hc_streams_forget(void)
{
    for (struct hostcuda_stream *s : streams) {
        s->queue.clear();
        s->n_run = s->n_queued;
        s->capture.reset();
        s->unjoined = false;
    }
    capturing.reset();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    CALL;
    if (stream == nullptr || capturing)
        return hc_error(cudaErrorStreamCaptureUnsupported);
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    capturing = std::make_shared<hc_capture>();
    capturing->origin = stream;
    capturing->streams.push_back(stream);
    stream->capture = capturing;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    CALL;
    *out = nullptr;
    if (stream == nullptr || !hc_stream_ok(stream) || !stream->capture)
        return hc_error(cudaErrorStreamCaptureUnmatched);
    const std::shared_ptr<hc_capture> capture = stream->capture;
    if (capture->origin != stream)
        return hc_error(cudaErrorStreamCaptureUnmatched);
    bool unjoined = false;
    for (struct hostcuda_stream *s : capture->streams) {
        unjoined = unjoined || s->unjoined;
        s->unjoined = false;
        s->capture.reset();
    }
    capturing.reset();
    if (capture->invalid)
        return hc_error(cudaErrorStreamCaptureInvalidated);
    if (unjoined)
        return hc_error(cudaErrorStreamCaptureUnjoined);
    *out = new hostcuda_graph();
    (*out)->ops = std::make_shared<hc_ops>(capture->ops);
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    *status = stream == nullptr || !stream->capture ? cudaStreamCaptureStatusNone
              : stream->capture->invalid            ? cudaStreamCaptureStatusInvalidated
                                                    : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    CALL;
    if (graph == nullptr)
        return hc_error(cudaErrorInvalidValue);
    *out = new hostcuda_graph_exec();
    (*out)->ops = graph->ops;
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    CALL;
    return hc_error(exec == nullptr || !hc_stream_ok(stream) ? cudaErrorInvalidValue : cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    CALL;
    if (exec == nullptr || !hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidValue);
    const std::shared_ptr<hc_ops> ops = exec->ops;
    struct hc_op op;
    op.run = [ops]() { run_ops(*ops); };
    hc_enqueue(stream, op);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    CALL;
    if (graph == nullptr || nodes != nullptr)
        return hc_error(cudaErrorInvalidValue); /* the number is all there is */
    *count = graph->ops->size();
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    struct hc_call call;
    delete exec; /* of a lost device too: what is left of it is here */
    return call.status;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    struct hc_call call;
    delete graph; /* of a lost device too: what is left of it is here */
    return call.status;
}
