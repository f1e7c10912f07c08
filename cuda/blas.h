/* blas.h - the one product that gemm_dense leaves to a library: fp16 x fp16 with fp32 sums.
 *
 * cuda/cublaslt.cu: cuBLASLt, opened by dlopen. tests/hostcuda/cublaslt.cpp: a plain kernel, under
 * the emulator. Called by gemm_dense.cu alone; one thread at a time. */
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"

/* y[r][o] = sum_k w[o][k] x[r][k], all rows 16-byte aligned. Device memory. */
struct blas_product {
    const uint16_t *w;         /* fp16 [n_out][n_in] */
    const uint16_t *x;         /* fp16 [rows], stride x_stride elements */
    float *y;                  /* [rows][n_out] */
    int32_t n_out, n_in, rows; /* n_out a multiple of 16, n_in of 128 */
    int64_t x_stride;
    void *workspace; /* BLAS_WORKSPACE bytes */
};
/* What cuBLASLt wants on Hopper for its split sums (NVIDIA's own default for that chip). */
enum { BLAS_WORKSPACE = 32 << 20 };

struct blas;
/* NULL: there is no library, with the reason. */
struct blas *blas_open(struct err *err);
void blas_close(struct blas *blas); /* NULL: nothing */
/* Enqueues. An algorithm is chosen by the library's heuristic the first time a shape comes, without
 * running anything, and kept. */
cudaError_t blas_run(struct blas *blas, cudaStream_t stream, const struct blas_product *product);
