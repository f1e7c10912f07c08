/* late.cuh - an input that a kernel writes, so that a missing griddep_wait shows: the array turns
 * to 0xff, a kernel on harness.stream that lets the next one start at once brings its contents
 * back, and the next launch may overtake it (LAUNCH_PDL). */
#pragma once
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"

struct late_args {
    const unsigned char *from;
    unsigned char *to;
    size_t n;
};
enum { LATE_THREADS = 128 };
static KERNEL(LATE_THREADS, 1) late_copy(const __grid_constant__ struct late_args a)
{
    griddep_launch();
    for (size_t i = (size_t)blockIdx.x * LATE_THREADS + threadIdx.x; i < a.n;
         i += (size_t)gridDim.x * LATE_THREADS)
        a.to[i] = a.from[i];
}
/* For one launch: keep it until that launch's output has been read. */
struct late {
    device_array<unsigned char> copy;
    template <typename T>
    explicit late(const device_array<T> &array) : late(array.data(), array.n * sizeof(T))
    {
    }
    late(void *memory, size_t bytes) : copy(bytes)
    {
        CUDA(cudaMemcpy(copy.data(), memory, bytes, cudaMemcpyDeviceToDevice));
        CUDA(cudaMemset(memory, 0xff, bytes));
        CUDA(cudaStreamSynchronize(NULL));
        const struct late_args a = { copy.data(), (unsigned char *)memory, bytes };
        CUDA(LAUNCH((late_copy), dim3(4), LATE_THREADS, 0, harness.stream, LAUNCH_PLAIN, a));
        harness.launch.pdl = true;
    }
    late(const late &) = delete;
    ~late()
    {
        harness.launch.pdl = false;
    }
};
