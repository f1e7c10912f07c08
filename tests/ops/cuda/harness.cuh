/* harness.cuh - tests of CUDA kernels that run in both worlds: under tests/hostcuda (g++, no GPU)
 * and on a GPU (nvcc, tests/gpu/run.sh). No library but the C++ one; a program is one table of
 * cases.
 *
 *   int main(int argc, char **argv)
 *   {
 *       harness_init(argc, argv);                 // --full: the large shapes too (GPU)
 *                          // --stop: ends at the first failure; --every N: each N-th case alone
 *       for (const struct shape &s : shapes)
 *           CASE("rows=%d n_out=%d", s.rows, s.n_out) test_shape(s);   // EXPECT... inside
 *       return harness_end();                     // "N passed, N failed"; 77: no GPU
 *   }
 *
 * Not thread-safe; one device, the default one; everything on harness.stream. */
#pragma once
#include <cuda_runtime.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>
#include "cuda/kernels.h"

struct harness {
    struct device_info device;
    struct launch launch;
    cudaStream_t stream;
    bool full;     /* large shapes wanted */
    bool emulated; /* no GPU under this */
    bool stop;
    int every, n_cases;
    int n_passed, n_failed, n_expect_failed;
    char name[256];
    const char *only; /* substring of the cases to run, or NULL */
};
static struct harness harness;

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        const cudaError_t status_ = (call);                                                        \
        if (status_ != cudaSuccess) {                                                              \
            fprintf(stderr, "%s:%d: %s: %s (%s)\n", __FILE__, __LINE__, #call,                     \
                    cudaGetErrorString(status_), harness.name);                                    \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

static inline void harness_init(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--full") == 0)
            harness.full = true;
        else if (strcmp(argv[i], "--stop") == 0)
            harness.stop = true;
        else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc)
            harness.every = atoi(argv[++i]);
        else
            harness.only = argv[i];
    }
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no CUDA device: skipped\n0 passed, 0 failed, 1 skipped\n");
        exit(77);
    }
    cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, 0));
    harness.device.n_sms = p.multiProcessorCount;
    harness.device.arch = p.major * 10 + p.minor;
    harness.device.shared_bytes = (int32_t)p.sharedMemPerBlockOptin;
    harness.device.wgmma = p.major == 9;
#ifdef HOSTCUDA
    harness.emulated = true;
#endif
    CUDA(cudaStreamCreateWithFlags(&harness.stream, cudaStreamNonBlocking));
    harness.launch.stream = harness.stream;
    harness.launch.device = &harness.device;
    harness.launch.pdl = false;
}
static inline int harness_end()
{
    printf("%d passed, %d failed\n", harness.n_passed, harness.n_failed);
    return harness.n_failed == 0 ? 0 : 1;
}
/* `if` of a case: false when it is not wanted. */
static inline bool case_begin(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(harness.name, sizeof harness.name, format, args);
    va_end(args);
    harness.n_expect_failed = 0;
    if (harness.every > 1 && harness.n_cases++ % harness.every != 0)
        return false;
    return harness.only == NULL || strstr(harness.name, harness.only) != NULL;
}
static inline void case_end(bool ran)
{
    if (!ran)
        return;
    if (harness.n_expect_failed == 0)
        harness.n_passed++;
    else {
        harness.n_failed++;
        printf("FAILED  %s (%d mismatches)\n", harness.name, harness.n_expect_failed);
    }
}
#define CASE(...)                                                                                  \
    for (bool ran_ = case_begin(__VA_ARGS__), once_ = true; once_; case_end(ran_), once_ = false)  \
        if (ran_)
static inline void expect_failed(const char *file, int line, const char *format, ...)
{
    if (harness.n_expect_failed++ >= 8)
        return; /* the first few say it */
    va_list args;
    va_start(args, format);
    printf("%s:%d: %s: ", file, line, harness.name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    if (harness.stop)
        exit(1);
}
#define EXPECT(condition, ...)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            expect_failed(__FILE__, __LINE__, __VA_ARGS__);                                        \
    } while (0)
/* |found - wanted| <= bound, NaN fails */
#define EXPECT_NEAR(found, wanted, bound, ...)                                                     \
    do {                                                                                           \
        const double found_ = (double)(found), wanted_ = (double)(wanted),                         \
                     bound_ = (double)(bound);                                                     \
        if (!(fabs(found_ - wanted_) <= bound_))                                                   \
            expect_failed(__FILE__, __LINE__, "found %.9g, wanted %.9g within %.3g", found_,       \
                          wanted_, bound_);                                                        \
    } while (0)

/* Device memory with a guard on both sides that must stay as it is; freed with the object. `T` is
 * a plain type. Uninitialized contents are 0xff bytes (NaN as any float). */
template <typename T> struct device_array {
    enum { GUARD = 256 };
    unsigned char *block;
    size_t n;
    explicit device_array(size_t count) : block(NULL), n(count)
    {
        CUDA(cudaMalloc((void **)&block, n * sizeof(T) + 2 * GUARD));
        CUDA(cudaMemset(block, 0xff, n * sizeof(T) + 2 * GUARD));
        CUDA(cudaStreamSynchronize(NULL)); /* harness.stream does not wait for the default stream */
    }
    explicit device_array(const std::vector<T> &from) : device_array(from.size())
    {
        CUDA(cudaMemcpy(data(), from.data(), n * sizeof(T), cudaMemcpyHostToDevice));
        CUDA(cudaStreamSynchronize(NULL));
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;
    ~device_array()
    {
        cudaFree(block);
    }
    T *data() const
    {
        return (T *)(block + GUARD);
    }
    void zero()
    {
        CUDA(cudaMemset(data(), 0, n * sizeof(T)));
        CUDA(cudaStreamSynchronize(NULL));
    }
    std::vector<T> read() const
    {
        CUDA(cudaStreamSynchronize(harness.stream));
        std::vector<unsigned char> all(n * sizeof(T) + 2 * GUARD);
        CUDA(cudaMemcpy(all.data(), block, all.size(), cudaMemcpyDeviceToHost));
        for (int i = 0; i < GUARD; i++)
            EXPECT(all[(size_t)i] == 0xff && all[all.size() - 1 - (size_t)i] == 0xff,
                   "wrote outside the array (guard byte %d)", i);
        std::vector<T> out(n);
        memcpy((void *)out.data(), all.data() + GUARD, n * sizeof(T));
        return out;
    }
};

/* Repeatable numbers (splitmix64). */
struct random_numbers {
    uint64_t state;
    uint64_t next()
    {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    float uniform()
    {
        return (float)(next() >> 40) * 0x1p-24f * 2.0f - 1.0f;
    } /* [-1, 1) */
    int below(int n)
    {
        return (int)(next() % (uint64_t)n);
    }
};
