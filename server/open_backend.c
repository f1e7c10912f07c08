/* open_backend.c - the one place where a device is chosen. */
#include "server/open_backend.h"
#include "host/base/log.h"
#ifdef NIBBLE_CUDA
#include "cuda/cuda_backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#endif

static bool open_cpu(struct backend **be, const struct options *options, int32_t activations,
                     struct err *err)
{
    struct cpu_options cpu = {
        .n_threads = options->threads,
        .exact = activations == ACTIVATIONS_EXACT,
        .isa = (enum cpu_isa)options->isa,
    };
    if (!cpu_isa_available(cpu.isa))
        return err_set(err, ERR_UNSUPPORTED,
                       "--isa: this machine does not have that instruction set");
    return cpu_backend_open(be, &cpu, err);
}

#ifdef NIBBLE_CUDA
/* In the user's cache, one file a device; "" when there is no such place. */
static const char *cache_file(int32_t device, char *path, size_t size)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool of_cache = cache != NULL && cache[0] == '/';
    if (!of_cache && (home == NULL || home[0] != '/'))
        return "";
    const int n = snprintf(path, size, "%s%s/nibble/kernels-%d.txt", of_cache ? cache : home,
                           of_cache ? "" : "/.cache", (int)device);
    return n > 0 && (size_t)n < size ? path : "";
}

static bool open_cuda(struct backend **be, const struct options *options, int32_t activations,
                      struct err *err)
{
    if (activations == ACTIVATIONS_EXACT)
        return err_set(err, ERR_UNSUPPORTED,
                       "--activations exact: fp32 activations are for --device cpu");
    char path[1024];
    const char *kernels = options->kernels;
    if (strcmp(kernels, "auto") == 0)
        kernels = cache_file(options->device.index, path, sizeof path);
    else if (strcmp(kernels, "rule") == 0)
        kernels = NULL;
    const struct cuda_options cuda = { .device = options->device.index,
                                       .invariant = options->invariant,
                                       .int8 = activations == ACTIVATIONS_INT8,
                                       .no_graphs = !options->graphs,
                                       .kernels = kernels,
                                       .version = NIBBLE_VERSION };
    return cuda_backend_open(be, &cuda, err);
}
#endif

bool open_backend(struct backend **be, const struct options *options, int32_t activations,
                  struct err *err)
{
#ifdef NIBBLE_CUDA
    if (options->device.kind == DEVICE_CUDA)
        return open_cuda(be, options, activations, err);
    if (options->device.kind == DEVICE_AUTO && activations != ACTIVATIONS_EXACT) {
        struct err why;
        if (open_cuda(be, options, activations, &why))
            return true;
        log_info("device", "using=cpu reason=\"%s\"", why.text);
    }
#else
    if (options->device.kind == DEVICE_CUDA)
        return err_set(err, ERR_UNSUPPORTED, "--device cuda: this build has no CUDA backend");
#endif
    return open_cpu(be, options, activations, err);
}
