/* cublas.cuh - the rival of bench_gemm: cuBLAS through dlopen, so that the bench starts without it.
 */
#pragma once
#include <cublas_v2.h> /* types and numbers only */
#include <dlfcn.h>
#include "tests/ops/cuda/harness.cuh"

typedef cublasStatus_t (*cublas_gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m,
                                      int n, int k, const void *alpha, const void *a,
                                      cudaDataType a_type, int lda, const void *b,
                                      cudaDataType b_type, int ldb, const void *beta, void *c,
                                      cudaDataType c_type, int ldc, cublasComputeType_t,
                                      cublasGemmAlgo_t);
struct cublas {
    cublasHandle_t handle;
    cublas_gemm gemm;
};
/* False: there is none. */
static bool cublas_open(struct cublas *c)
{
    static const char *const names[] = { "libcublas.so.13", "libcublas.so.12", "libcublas.so" };
    void *library = NULL;
    for (const char *name : names)
        if (library == NULL)
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        printf("no cuBLAS: %s\n", dlerror());
        return false;
    }
    const auto create = (cublasStatus_t(*)(cublasHandle_t *))dlsym(library, "cublasCreate_v2");
    const auto set_stream =
        (cublasStatus_t(*)(cublasHandle_t, cudaStream_t))dlsym(library, "cublasSetStream_v2");
    const auto set_workspace =
        (cublasStatus_t(*)(cublasHandle_t, void *, size_t))dlsym(library, "cublasSetWorkspace_v2");
    c->gemm = (cublas_gemm)dlsym(library, "cublasGemmEx");
    if (create == NULL || set_stream == NULL || set_workspace == NULL || c->gemm == NULL)
        return false;
    if (create(&c->handle) != CUBLAS_STATUS_SUCCESS ||
        set_stream(c->handle, harness.stream) != CUBLAS_STATUS_SUCCESS)
        return false;
    const size_t bytes = (size_t)64
                         << 20; /* its own choice needs an allocation, which graphs forbid */
    void *workspace;
    return cudaMalloc(&workspace, bytes) == cudaSuccess &&
           set_workspace(c->handle, workspace, bytes) == CUBLAS_STATUS_SUCCESS;
}
/* y [rows][n_out] = x [rows][n_in] . w [n_out][n_in], all of `type`, sums in fp32. */
static cudaError_t cublas_product(const struct cublas *c, cudaDataType_t type, const void *w,
                                  const void *x, void *y, int rows, int n_out, int n_in)
{
    const float one = 1, zero = 0;
    const cublasStatus_t status =
        c->gemm(c->handle, CUBLAS_OP_T, CUBLAS_OP_N, n_out, rows, n_in, &one, w, type, n_in, x,
                type, n_in, &zero, y, type, n_out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown;
}
