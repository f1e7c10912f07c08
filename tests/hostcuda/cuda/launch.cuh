/* launch.cuh - starting a kernel under the emulator: the interface of the real cuda/launch.cuh. */
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>
#include <new>
#include <tuple>
#include "hostcuda.h"

enum launch_flags {
    LAUNCH_PLAIN = 0,
    LAUNCH_PDL =
        1, /* may start before the previous kernel has ended: the kernel calls griddep_wait */
    LAUNCH_WAITING = 2, /* blocks wait for one another: all of the grid must be resident at once */
};

template <auto Kernel, typename... Args>
static cudaError_t launch_kernel(dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream,
                                 int flags, const Args &...args)
{
    using tuple = std::tuple<Args...>;
    struct hostcuda_kernel kernel = {};
    kernel.pretty = __PRETTY_FUNCTION__;
    kernel.address = (const void *)Kernel;
    kernel.body = [](const void *all) { std::apply(Kernel, *(const tuple *)all); };
    kernel.copy = [](void *to, const void *from) { new (to) tuple(*(const tuple *)from); };
    kernel.args_bytes = sizeof(tuple);
    const tuple all(args...);
    return hostcuda_launch(&kernel, grid, threads, shared_bytes, stream, flags, &all);
}
#define LAUNCH_NAME(...) __VA_ARGS__
#define LAUNCH(kernel, grid, threads, shared_bytes, stream, flags, ...)                            \
    launch_kernel<LAUNCH_NAME kernel>(grid, threads, shared_bytes, stream, flags, __VA_ARGS__)
