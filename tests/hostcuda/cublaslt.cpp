/* cublaslt.cpp - cuda/blas.h under the emulator: one plain kernel, sums in double. With
 * HOSTCUDA_BLAS=0 in the environment there is no library. */
#include "cuda/blas.h"

#include <stdlib.h>
#include "cuda/device.cuh"
#include "cuda/launch.cuh"

enum { THREADS = 64 };

struct blas {
    int n_runs;
};
struct args {
    struct blas_product p;
};

KERNEL(THREADS, 1) product(const __grid_constant__ struct args a)
{
    const int out = (int)blockIdx.x * THREADS + (int)threadIdx.x, row = (int)blockIdx.y;
    if (out >= a.p.n_out)
        return;
    const uint16_t *w = a.p.w + (int64_t)out * a.p.n_in, *x = a.p.x + row * a.p.x_stride;
    double sum = 0;
    for (int k = 0; k < a.p.n_in; k++)
        sum += (double)f32_of_f16(w[k]) * (double)f32_of_f16(x[k]);
    a.p.y[(int64_t)row * a.p.n_out + out] = (float)sum;
}

struct blas *blas_open(struct err *err)
{
    const char *wanted = getenv("HOSTCUDA_BLAS");
    if (wanted != NULL && wanted[0] == '0') {
        (void)err_set(err, ERR_UNAVAILABLE, "cuBLASLt: not in this environment (HOSTCUDA_BLAS=0)");
        return NULL;
    }
    return new struct blas();
}

void blas_close(struct blas *blas)
{
    delete blas;
}

cudaError_t blas_run(struct blas *blas, cudaStream_t stream, const struct blas_product *p)
{
    if (p->n_out % 16 != 0 || p->n_in % 128 != 0 || p->x_stride % 8 != 0 ||
        (uintptr_t)p->w % 16 != 0 || (uintptr_t)p->x % 16 != 0 || (uintptr_t)p->y % 16 != 0)
        return cudaErrorInvalidValue;
    blas->n_runs++;
    const struct args a = { *p };
    return LAUNCH((product),
                  dim3((unsigned)((p->n_out + THREADS - 1) / THREADS), (unsigned)p->rows), THREADS,
                  0, stream, LAUNCH_PLAIN, a);
}
