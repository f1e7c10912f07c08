/* test_planted_grids.cpp - bugs between blocks, between kernels, and in what the host does. */
#include "planted.h"
#include "hostcuda.h"

struct args {
    const float *x;
    float *y;
    uint32_t *flags;
    int n;
};
enum bug {
    NONE,
    NOT_RELEASED,
    NOT_WAITING,
    NO_FENCE_BARRIER,
    NO_TICKET,
    NOT_RESET,
    SAME_PLACE,
    NO_GRIDDEP,
    WRITES_EARLY,
    REUSED,
    NO_SYNC,
    NO_EVENT,
    TOO_MANY,
};
static std::vector<float> ramp(size_t n)
{
    std::vector<float> x(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 251);
    return x;
}

/* Blocks add to y[0] in turn: block b waits for flag b (a lock handed on, as stream-K does). */
template <bug BUG> KERNEL(32, 1) in_turn(const __grid_constant__ struct args a)
{
    const int b = (int)blockIdx.x;
    if (lane_id() == 0) {
        while (ld_acquire(a.flags) != (uint32_t)b) {
        }
        a.y[0] = a.y[0] * 0.5f + a.x[b];
        if (BUG != NOT_RELEASED || b != 3)
            st_release(a.flags, (uint32_t)b + 1);
    }
}
template <bug BUG> static bool run_in_turn()
{
    enum { N = 8 };
    const std::vector<float> x = ramp(N);
    float *y = device_zeros<float>(1);
    const struct args a = { device_copy(x), y, device_zeros<uint32_t>(1), 0 };
    OK(LAUNCH((in_turn<BUG>), N, 32, 0, new_stream(),
              BUG == NOT_WAITING ? LAUNCH_PLAIN : LAUNCH_WAITING, a));
    float sum = 0;
    for (size_t b = 0; b < N; b++)
        sum = sum * 0.5f + x[b];
    return host_copy(y, 1)[0] == sum;
}
template <bug BUG> static bool run_too_many()
{
    const struct args a = { nullptr, nullptr, device_zeros<uint32_t>(1), 0 };
    OK(LAUNCH((in_turn<BUG>), 1000, 32, 0, new_stream(), LAUNCH_WAITING, a));
    return host_copy(a.flags, 1)[0] == 1000;
}

/* The last block to take a ticket adds up what all blocks left. */
template <bug BUG> KERNEL(64, 1) last_adds(const __grid_constant__ struct args a)
{
    SHARED(shared);
    uint32_t *last = (uint32_t *)shared;
    const int t = (int)threadIdx.x, b = (int)blockIdx.x, n = (int)gridDim.x;
    a.y[BUG == SAME_PLACE ? t : b * 64 + t] = a.x[b * 64 + t];
    if (BUG != NO_FENCE_BARRIER) {
        device_fence();
        block_sync();
    }
    if (t == 0)
        *last = BUG == NO_TICKET ? (uint32_t)b : ticket(a.flags, 1);
    block_sync();
    if (*last != (uint32_t)n - 1)
        return;
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += ld_other_f32(a.y + i * 64 + t);
    a.y[n * 64 + t] = sum;
    if (t == 0 && BUG != NOT_RESET)
        st_release(a.flags, 0);
}
template <bug BUG> static bool run_last_adds()
{
    enum { N = 6 };
    const std::vector<float> x = ramp(N * 64);
    float *y = device_zeros<float>((N + 1) * 64);
    const struct args a = { device_copy(x), y, device_zeros<uint32_t>(1), 0 };
    cudaStream_t stream = new_stream();
    bool right = true;
    for (int turn = 0; turn < 2; turn++) {
        OK(cudaMemset(y, 0xff, (N + 1) * 64 * sizeof(float)));
        OK(LAUNCH((last_adds<BUG>), N, 64, 16, stream, 0, a));
        const std::vector<float> got = host_copy(y, (N + 1) * 64);
        for (size_t t = 0; t < 64; t++) {
            float sum = 0;
            for (size_t b = 0; b < N; b++)
                sum += x[b * 64 + t];
            right = right && got[N * 64 + t] == sum;
        }
    }
    return right;
}

/* y[i] = 2 y[i] + n, n = 1, 2, 3, the next kernel beginning before the last has ended; n = 0: y[i]
 * + 1. */
template <bug BUG> KERNEL(32, 1) add_one(const __grid_constant__ struct args a)
{
    const int i = (int)(blockIdx.x * 32 + threadIdx.x);
    const float step = a.x[0]; /* a weight: may be read before */
    if (BUG == WRITES_EARLY)
        a.y[i] = 0;
    if (BUG != NO_GRIDDEP)
        griddep_wait();
    a.y[i] = a.y[i] * (a.n != 0 ? 2.0f : 1.0f) + step * (a.n != 0 ? (float)a.n : 1.0f);
    griddep_launch();
}
template <bug BUG> static bool run_dependent()
{
    float *y = device_zeros<float>(96);
    struct args a = { device_copy(std::vector<float>(1, 1)), y, nullptr, 1 };
    cudaStream_t stream = new_stream();
    OK(LAUNCH((add_one<NONE>), 3, 32, 0, stream, LAUNCH_PLAIN, a));
    a.n = 2;
    OK(LAUNCH((add_one<BUG>), 3, 32, 0, stream, LAUNCH_PDL, a));
    a.n = 3;
    OK(LAUNCH((add_one<NONE>), 3, 32, 0, stream, LAUNCH_PDL, a));
    bool right = true;
    for (float v : host_copy(y, 96))
        right = right && v == 11;
    return right;
}
/* The same as a graph that is launched twice. */
static bool run_graph()
{
    float *y = device_zeros<float>(96);
    const struct args a = { device_copy(std::vector<float>(1, 1)), y, nullptr, 0 };
    cudaStream_t stream = new_stream(), side = new_stream();
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(LAUNCH((add_one<NONE>), 3, 32, 0, stream, LAUNCH_PLAIN, a));
    OK(cudaEventRecord(fork, stream));
    OK(cudaStreamWaitEvent(side, fork, 0));
    OK(LAUNCH((add_one<NONE>), 3, 32, 0, side, LAUNCH_PDL, a));
    OK(cudaEventRecord(join, side));
    OK(cudaStreamWaitEvent(stream, join, 0));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    const bool still_zero = host_copy(y, 96)[0] == 0;
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaGraphLaunch(exec, stream));
    bool right = still_zero && hostcuda_launches("add_one") == 0;
    for (float v : host_copy(y, 96))
        right = right && v == 4;
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    return right && hostcuda_launches("add_one") == 4 && hostcuda_launches("add_on") == 0;
}

/* Host memory to the device, a kernel, and back, all asynchronous. */
template <bug BUG> static bool run_copies()
{
    enum { N = 32 };
    float *host, *back;
    OK(cudaMallocHost(&host, N * sizeof(float)));
    OK(cudaMallocHost(&back, N * sizeof(float)));
    float *y = device_zeros<float>(N);
    const struct args a = { device_copy(std::vector<float>(1, 1)), y, nullptr, 0 };
    cudaStream_t stream = new_stream(), other = new_stream();
    cudaEvent_t event;
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    OK(cudaMemcpyAsync(y, host, N * sizeof(float), cudaMemcpyHostToDevice, stream));
    OK(LAUNCH((add_one<NONE>), 1, 32, 0, stream, 0, a));
    OK(cudaEventRecord(event, stream));
    if (BUG == REUSED)
        host[5] = 100;
    if (BUG != NO_EVENT)
        OK(cudaStreamWaitEvent(other, event, 0));
    OK(cudaMemcpyAsync(back, y, N * sizeof(float), cudaMemcpyDeviceToHost, other));
    if (BUG != NO_SYNC)
        OK(cudaStreamSynchronize(other));
    bool right = true;
    for (int i = 0; i < N; i++)
        right = right && back[i] == (float)i + 1;
    return right;
}

/* What the runtime refuses, and what a fault leaves. */
static bool run_refusals()
{
    cudaStream_t stream = new_stream();
    cudaGraph_t graph;
    void *p;
    float *y = device_zeros<float>(32);
    const struct args a = { y, y, nullptr, 0 };
    bool right = true;
    const auto refused = [&](cudaError_t found, cudaError_t wanted) {
        if (found != wanted)
            fprintf(stderr, "%s, wanted %s\n", cudaGetErrorName(found), cudaGetErrorName(wanted));
        right = right && found == wanted;
    };
    refused(LAUNCH((add_one<NONE>), 0, 32, 0, stream, 0, a), cudaErrorInvalidConfiguration);
    refused(LAUNCH((add_one<NONE>), 1, 1025, 0, stream, 0, a), cudaErrorInvalidConfiguration);
    refused(LAUNCH((add_one<NONE>), 1, 32, 228 << 10, stream, 0, a), cudaErrorInvalidValue);
    refused(cudaGetLastError(), cudaErrorInvalidValue);
    refused(cudaGetLastError(), cudaSuccess);
    refused(cudaMalloc(&p, (size_t)1 << 40), cudaErrorMemoryAllocation);
    refused(cudaMemcpy(y, y, 129, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    refused(cudaMemcpy(y + 1, &right, 1, cudaMemcpyHostToDevice), cudaSuccess);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    refused(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    refused(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    refused(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
    refused(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    refused(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnmatched);
    /* A fault: that call and all after it, until it is over. */
    const long calls = hostcuda_calls();
    OK(cudaDeviceSynchronize());
    right = right && hostcuda_calls() == calls + 1;
    hostcuda_fault_at(2);
    refused(cudaStreamSynchronize(stream), cudaSuccess);
    refused(LAUNCH((add_one<NONE>), 1, 32, 0, stream, 0, a), cudaErrorLaunchFailure);
    refused(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
    refused(cudaGetLastError(), cudaErrorLaunchFailure);
    refused(cudaMalloc(&p, 16), cudaErrorLaunchFailure);
    hostcuda_fault_at(0);
    refused(cudaMalloc(&p, 16), cudaSuccess);
    return right;
}
/* Device memory is NaN until somebody writes it, and gone when freed. */
static bool run_fresh_memory()
{
    uint32_t *p;
    size_t before, after, total;
    OK(cudaMemGetInfo(&before, &total));
    OK(cudaMalloc(&p, 400));
    OK(cudaMemGetInfo(&after, &total));
    bool right = before - after == 400;
    for (uint32_t v : host_copy(p, 100))
        right = right && v == 0xffffffffu;
    OK(cudaFree(p));
    OK(cudaMemGetInfo(&after, &total));
    return right && after == before;
}
static bool run_freed()
{
    float *y = device_zeros<float>(32);
    const struct args a = { y, y, nullptr, 0 };
    float *x = device_zeros<float>(1);
    const struct args b = { x, y, nullptr, 0 };
    OK(cudaFree(x));
    OK(LAUNCH((add_one<NONE>), 1, 32, 0, new_stream(), 0, b));
    (void)a;
    return host_copy(y, 32)[0] == 1;
}

static const char *const RACE = "ThreadSanitizer: data race";
static const struct planted rows[] = {
    { "blocks in turn", run_in_turn<NONE>, RIGHT, EVERYWHERE, NULL },
    { "in turn: a lock that is not released", run_in_turn<NOT_RELEASED>, CAUGHT, EVERYWHERE,
      "nobody writes" },
    { "in turn: not launched as waiting", run_in_turn<NOT_WAITING>, CAUGHT, EVERYWHERE,
      "LAUNCH_WAITING" },
    { "in turn: more blocks than fit", run_too_many<NONE>, CAUGHT, EVERYWHERE,
      "fit on 4 multiprocessors" },
    { "last block adds", run_last_adds<NONE>, RIGHT, EVERYWHERE, NULL },
    { "last adds: no barrier before the ticket", run_last_adds<NO_FENCE_BARRIER>, CAUGHT, THREAD,
      RACE },
    { "last adds: the last by number", run_last_adds<NO_TICKET>, CAUGHT, EVERYWHERE, NULL },
    { "last adds: counter not reset", run_last_adds<NOT_RESET>, CAUGHT, EVERYWHERE, NULL },
    { "last adds: blocks write to one place", run_last_adds<SAME_PLACE>, CAUGHT, EVERYWHERE, NULL },
    { "last adds: the same, both lines", run_last_adds<SAME_PLACE>, CAUGHT, THREAD, RACE },
    { "dependent launches", run_dependent<NONE>, RIGHT, EVERYWHERE, NULL },
    { "dependent: no griddep_wait", run_dependent<NO_GRIDDEP>, CAUGHT, EVERYWHERE, NULL },
    { "dependent: writes before griddep_wait", run_dependent<WRITES_EARLY>, CAUGHT, EVERYWHERE,
      NULL },
    { "graph", run_graph, RIGHT, EVERYWHERE, NULL },
    { "asynchronous copies", run_copies<NONE>, RIGHT, EVERYWHERE, NULL },
    { "copies: host buffer reused too early", run_copies<REUSED>, CAUGHT, EVERYWHERE, NULL },
    { "copies: read before synchronizing", run_copies<NO_SYNC>, CAUGHT, EVERYWHERE, NULL },
    { "copies: streams without an event", run_copies<NO_EVENT>, CAUGHT, EVERYWHERE, NULL },
    { "refusals and faults", run_refusals, RIGHT, EVERYWHERE, NULL },
    { "fresh memory", run_fresh_memory, RIGHT, EVERYWHERE, NULL },
    { "freed memory", run_freed, CAUGHT, ADDRESS, "heap-use-after-free" },
};
int main()
{
    return run_planted(rows, (int)(sizeof rows / sizeof rows[0])) == 0 ? 0 : 1;
}
