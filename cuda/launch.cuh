/* launch.cuh - starting a kernel, from host code. Shadowed by tests/hostcuda like device.cuh.
 *
 *   cudaError_t status = LAUNCH((gemm_small<4, 2>), grid, threads, shared_bytes, stream, flags,
 * args...);
 *
 * The kernel's name always in parentheses (it may have commas). The limit of dynamic shared memory
 * is raised once per kernel. Errors are those of the launch alone; a kernel's own faults come with
 * a later call (DESIGN 6). */
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>

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
    if (shared_bytes > 48u << 10) {
        static size_t raised; /* one engine thread per process opens and launches */
        if (shared_bytes > raised) {
            const cudaError_t status = cudaFuncSetAttribute(
                (const void *)Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                (int)shared_bytes);
            if (status != cudaSuccess)
                return status;
            raised = shared_bytes;
        }
    }
    cudaLaunchAttribute attribute[1];
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads, 1, 1);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = (flags & LAUNCH_PDL) != 0 ? 1 : 0;
    return cudaLaunchKernelEx(&config, Kernel, args...);
}
#define LAUNCH_NAME(...) __VA_ARGS__
#define LAUNCH(kernel, grid, threads, shared_bytes, stream, flags, ...)                            \
    launch_kernel<LAUNCH_NAME kernel>(grid, threads, shared_bytes, stream, flags, __VA_ARGS__)
