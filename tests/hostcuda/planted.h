/* planted.h - programs with one bug each, run in children: what becomes of them is compared with
 * what the table says.
 *
 *   RIGHT    right numbers, and not a word, with every seed
 *   CAUGHT   wrong numbers, a failure or a sanitizer's report, with some seed of the first N_SEEDS
 * A text is what the report must contain. */
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <vector>
#include "cuda/device.cuh"
#include "cuda/launch.cuh"

enum { N_SEEDS = 12 };
enum outcome { RIGHT, CAUGHT };
enum build { EVERYWHERE, ADDRESS, THREAD }; /* builds that can see it */
struct planted {
    const char *name;
    bool (*run)(void); /* whether the numbers are right */
    enum outcome outcome;
    enum build build;
    const char *text; /* or NULL: wrong numbers will do */
};
/* Number of rows that did not do what they say. */
int run_planted(const struct planted *rows, int n);

#define OK(call)                                                                                   \
    do {                                                                                           \
        const cudaError_t status_ = (call);                                                        \
        if (status_ != cudaSuccess) {                                                              \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorName(status_));         \
            exit(3);                                                                               \
        }                                                                                          \
    } while (0)

/* Device memory, and a stream; what a child leaves behind goes with it. */
template <typename T> static inline T *device_copy(const std::vector<T> &from)
{
    T *p;
    OK(cudaMalloc(&p, from.size() * sizeof(T)));
    OK(cudaMemcpy(p, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}
template <typename T> static inline T *device_zeros(size_t n)
{
    return device_copy(std::vector<T>(n));
}
template <typename T> static inline std::vector<T> host_copy(const T *from, size_t n)
{
    std::vector<T> out(n);
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(out.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
}
static inline cudaStream_t new_stream()
{
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}
