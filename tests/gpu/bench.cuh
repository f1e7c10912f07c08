/* bench.cuh - timing of kernels on a GPU, for bench_*.cu.
 *
 * A case is captured as a graph of LAUNCHES launches that walk over several copies of its data
 * (over 200 MB in all, so that no launch finds its own in L2), replayed until the spread is known;
 * its time is the median replay / LAUNCHES. Rows go to stdout, and as JSON lines to the file that
 * BENCH_JSON names. Under the emulator and without a GPU nothing is timed. */
#pragma once
#include <algorithm>
#include <functional>
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"

enum { BENCH_LAUNCHES = 24, BENCH_REPLAYS = 9 };
static const size_t BENCH_POOL_BYTES = (size_t)512 << 20; /* rotated over */

/* `launch(i)` puts launch i on harness.stream. Microseconds a launch; 0: it was refused. */
static double bench_us(const std::function<cudaError_t(int)> &launch)
{
    const cudaError_t first = launch(0); /* loads the module, raises limits: not capturable */
    if (first != cudaSuccess) {
        printf("  launch: %s\n", cudaGetErrorString(first));
        (void)cudaGetLastError();
        return 0;
    }
    CUDA(cudaStreamSynchronize(harness.stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    CUDA(cudaStreamBeginCapture(harness.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < BENCH_LAUNCHES; i++)
        CUDA(launch(i));
    CUDA(cudaStreamEndCapture(harness.stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaEventCreate(&from));
    CUDA(cudaEventCreate(&to));
    std::vector<double> us;
    for (int i = 0; i < BENCH_REPLAYS + 2; i++) { /* two to warm up */
        float ms = 0;
        CUDA(cudaEventRecord(from, harness.stream));
        CUDA(cudaGraphLaunch(exec, harness.stream));
        CUDA(cudaEventRecord(to, harness.stream));
        CUDA(cudaEventSynchronize(to));
        CUDA(cudaEventElapsedTime(&ms, from, to));
        if (i >= 2)
            us.push_back(ms * 1e3 / BENCH_LAUNCHES);
    }
    CUDA(cudaEventDestroy(from));
    CUDA(cudaEventDestroy(to));
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
}

/* One result. `json` is the inside of an object: "\"rows\":4,...". */
static void bench_json(const char *bench, const char *format, ...)
{
    const char *path = getenv("BENCH_JSON");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    va_list args;
    va_start(args, format);
    fprintf(file, "{\"bench\":\"%s\",", bench);
    vfprintf(file, format, args);
    fprintf(file, "}\n");
    va_end(args);
    fclose(file);
}

/* ---- the streaming read limit
 * --------------------------------------------------------------------
 *
 * Every byte read once, nothing written: what a kernel that reads weights is measured against. */
struct read_args {
    const unsigned char *from;
    size_t bytes;
    uint32_t *out; /* [threads], never written: the sum is never that */
};
/* Four 16-byte loads in flight a thread, 2048 threads an SM. */
KERNEL(512, 4) read_plain(const __grid_constant__ struct read_args p)
{
    uint32_t sum = 0;
    const size_t step = (size_t)gridDim.x * 512 * 16;
    size_t at = ((size_t)blockIdx.x * 512 + threadIdx.x) * 16;
    for (; at + 3 * step < p.bytes; at += 4 * step) {
        const uint4 a = ldg_stream(p.from + at), b = ldg_stream(p.from + at + step);
        const uint4 c = ldg_stream(p.from + at + 2 * step), d = ldg_stream(p.from + at + 3 * step);
        sum |= (a.x & a.y & a.z & a.w) & (b.x & b.y & b.z & b.w) & (c.x & c.y & c.z & c.w) &
               (d.x & d.y & d.z & d.w);
    }
    for (; at < p.bytes; at += step)
        sum |= ldg_stream(p.from + at).x;
    if (sum == 0x12345678u)
        p.out[threadIdx.x] = sum;
}
/* A ring of STAGES bulk copies of BYTES a block, one thread driving, the others reading one word
 * of each piece: the way of gemm_small. */
template <int STAGES, int BYTES>
KERNEL(128, 1)
read_bulk(const __grid_constant__ struct read_args p)
{
    SHARED(memory);
    uint64_t *full = (uint64_t *)(memory + STAGES * BYTES);
    const int t = (int)threadIdx.x;
    const int64_t n = (int64_t)(p.bytes / BYTES), first = blockIdx.x, step = gridDim.x;
    if (t == 0) {
        for (int s = 0; s < STAGES; s++)
            mbar_init(&full[s], 1);
        mbar_init_fence();
    }
    block_sync();
    uint32_t sum = 0;
    int64_t ahead = first;
    int stage = 0;
    uint32_t phase = 0;
    if (t == 0)
        for (int s = 0; s < STAGES && ahead < n; s++, ahead += step) {
            mbar_arrive_expect(&full[s], BYTES);
            bulk_copy(memory + s * BYTES, p.from + ahead * BYTES, BYTES, &full[s]);
        }
    for (int64_t i = first; i < n; i += step) {
        mbar_wait(&full[stage], phase);
        sum |= *(const uint32_t *)(memory + stage * BYTES + t * 16);
        block_sync(); /* everybody has read the stage */
        if (t == 0 && ahead < n) {
            mbar_arrive_expect(&full[stage], BYTES);
            bulk_copy(memory + stage * BYTES, p.from + ahead * BYTES, BYTES, &full[stage]);
            ahead += step;
        }
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1u;
        }
    }
    if (sum == 0x12345678u)
        p.out[t] = sum;
}
/* `n` copies of `bytes` inside `pool`; bytes a second. */
static double bench_read_plain(const unsigned char *pool, size_t bytes, size_t n, uint32_t *out)
{
    const double us = bench_us([&](int i) {
        const struct read_args p = { pool + (size_t)i % n * bytes, bytes, out };
        return LAUNCH((read_plain), dim3((unsigned)harness.device.n_sms * 4), 512, 0,
                      harness.stream, LAUNCH_PLAIN, p);
    });
    return us > 0 ? (double)bytes / us * 1e6 : 0;
}
template <int STAGES, int BYTES>
static double bench_read_bulk(const unsigned char *pool, size_t bytes, size_t n, uint32_t *out,
                              int blocks_per_sm)
{
    const double us = bench_us([&](int i) {
        const struct read_args p = { pool + (size_t)i % n * bytes, bytes / BYTES * BYTES, out };
        return LAUNCH((read_bulk<STAGES, BYTES>),
                      dim3((unsigned)(harness.device.n_sms * blocks_per_sm)), 128,
                      (size_t)(STAGES * (BYTES + 8)), harness.stream, LAUNCH_PLAIN, p);
    });
    return us > 0 ? (double)bytes / us * 1e6 : 0;
}
/* The best way of this run over 512 MB: what shares are shares of. */
static double bench_read_limit(const unsigned char *pool, uint32_t *out)
{
    double best = bench_read_plain(pool, BENCH_POOL_BYTES, 1, out);
    best = std::max(best, bench_read_bulk<8, 8192>(pool, BENCH_POOL_BYTES, 1, out, 1));
    return std::max(best, bench_read_bulk<8, 8192>(pool, BENCH_POOL_BYTES, 1, out, 2));
}

/* Random bytes: zeros would be read and multiplied faster than weights. */
struct fill_args {
    uint4 *to;
    size_t n;
    uint32_t seed, mask, bits; /* word = hash & mask | bits */
};
DEVICE uint32_t mixed(uint32_t v)
{
    v = (v ^ v >> 16) * 0x85ebca6bu;
    v = (v ^ v >> 13) * 0xc2b2ae35u;
    return v ^ v >> 16;
}
KERNEL(256, 4) fill_kernel(const __grid_constant__ struct fill_args p)
{
    for (size_t i = (size_t)blockIdx.x * 256 + threadIdx.x; i < p.n; i += (size_t)gridDim.x * 256) {
        const uint32_t v = mixed((uint32_t)i * 4 + p.seed);
        uint4 w;
        w.x = (v & p.mask) | p.bits;
        w.y = (mixed(v + 1) & p.mask) | p.bits;
        w.z = (mixed(v + 2) & p.mask) | p.bits;
        w.w = (mixed(v + 3) & p.mask) | p.bits;
        p.to[i] = w;
    }
}
static void bench_fill(void *to, size_t bytes, uint32_t seed, uint32_t mask, uint32_t bits)
{
    const struct fill_args p = { (uint4 *)to, bytes / 16, seed, mask, bits };
    CUDA(LAUNCH((fill_kernel), dim3(1024), 256, 0, harness.stream, LAUNCH_PLAIN, p));
    CUDA(cudaStreamSynchronize(harness.stream));
}
/* Masks for bench_fill: any bytes; halves (fp16 or bf16) of either sign, of ordinary size. */
enum : uint32_t {
    FILL_ANY = ~0u,
    FILL_F16 = 0x83ff83ffu,
    FILL_F16_BITS = 0x38003800u,
    FILL_BF16 = 0x807f807fu,
    FILL_BF16_BITS = 0x3f003f00u
};
