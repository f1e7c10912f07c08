/* open_backend.c - the one place where a device is chosen. */
#include "server/open_backend.h"
#include "host/base/log.h"
#ifdef NIBBLE_CUDA
#include "cuda/cuda_backend.h"
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
static bool open_cuda(struct backend **be, const struct options *options, int32_t activations,
                      struct err *err)
{
    if (activations == ACTIVATIONS_EXACT)
        return err_set(err, ERR_UNSUPPORTED,
                       "--activations exact: fp32 activations are for --device cpu");
    const struct cuda_options cuda = { .device = options->device.index,
                                       .invariant = options->invariant,
                                       .int8 = activations == ACTIVATIONS_INT8,
                                       .no_graphs = !options->graphs };
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
