/* open_backend.c - the one place where a device is chosen. */
#include "server/open_backend.h"

bool open_backend(struct backend **be, const struct options *options, int32_t activations,
                  struct err *err)
{
    if (options->device.kind == DEVICE_CUDA)
        return err_set(err, ERR_UNSUPPORTED, "--device cuda: this build has no CUDA backend");
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
