/* cublaslt.cu - blas.h through cuBLASLt, opened at run time: nibble starts without it.
 *
 * The library is found by its version's name, 13 or 12; cublasLt.h gives types and numbers alone. A
 * toolkit without that header builds a nibble without this kernel.
 * cuBLASLt counts columns first: our row-major y [rows][n_out] is its D, n_out x rows; w is A
 * transposed, x is B as it is:
 *
 *   D [n_out x rows] = A^T [n_out x n_in] . B [n_in x rows]
 *
 * What the heuristic chose for a shape is kept with its descriptors in a table of PLANS_MAX; a
 * step's shapes are few (slices and chunks of fixed size, and their remainders). */
#include "cuda/blas.h"
#if defined(HOSTCUDA)
/* tests/hostcuda/cublaslt.cpp */
#elif !__has_include(<cublasLt.h>)
struct blas *blas_open(struct err *err)
{
    (void)err_set(err, ERR_UNAVAILABLE, "cuBLASLt: the toolkit of this build had no cublasLt.h");
    return NULL;
}
void blas_close(struct blas *)
{
}
cudaError_t blas_run(struct blas *, cudaStream_t, const struct blas_product *)
{
    return cudaErrorNotSupported;
}
#else
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS_MAX = 64, ALIGNMENT = 16 };

/* The library's functions that we call: X(name). */
#define FUNCTIONS(X)                                                                               \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmul)                                                                              \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)

struct library {
    void *handle; /* of dlopen */
#define DECLARE(name) decltype(&::name) name;
    FUNCTIONS(DECLARE)
#undef DECLARE
};
struct plan {
    int32_t n_out, n_in, rows;
    int64_t x_stride;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
};
struct blas {
    struct library library;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product; /* A transposed, sums in fp32 */
    cublasLtMatmulPreference_t preference;
    struct plan plans[PLANS_MAX];
    int32_t n_plans, oldest; /* of a full table, the next to go */
};

/* ---- opening -----------------------------------------------------------------------------------
 */

static bool library_open(struct library *library, struct err *err)
{
    static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };
    for (const char *name : names)
        if (library->handle == NULL)
            library->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library->handle == NULL) {
        const char *why = dlerror();
        return err_set(err, ERR_UNAVAILABLE, "cuBLASLt: %s",
                       why != NULL ? why : "no library of version 12 or 13");
    }
    const struct {
        const char *name;
        void **to;
    } functions[] = {
#define LIST(name) { #name, (void **)(void *)&library->name },
        FUNCTIONS(LIST)
#undef LIST
    };
    for (const auto &function : functions) {
        *function.to = dlsym(library->handle, function.name);
        if (*function.to == NULL)
            return err_set(err, ERR_UNAVAILABLE, "cuBLASLt: the library has no %s", function.name);
    }
    return true;
}

static cublasStatus_t create(struct blas *blas)
{
    const struct library *l = &blas->library;
    cublasStatus_t status = l->cublasLtCreate(&blas->handle);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatmulDescCreate(&blas->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatmulDescSetAttribute(blas->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                   &transposed, sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatmulPreferenceCreate(&blas->preference);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint64_t value;
        size_t bytes;
    } wanted[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, BLAS_WORKSPACE, sizeof(uint64_t) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ALIGNMENT, sizeof(uint32_t) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT, sizeof(uint32_t) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT, sizeof(uint32_t) },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT, sizeof(uint32_t) },
    };
    for (const auto &w : wanted)
        if (status == CUBLAS_STATUS_SUCCESS)
            status = l->cublasLtMatmulPreferenceSetAttribute(blas->preference, w.attribute,
                                                             &w.value, w.bytes);
    return status;
}

struct blas *blas_open(struct err *err)
{
    struct blas *blas = (struct blas *)calloc(1, sizeof *blas);
    if (blas == NULL) {
        (void)err_set(err, ERR_MEMORY, "no memory for cuBLASLt's plans");
        return NULL;
    }
    if (!library_open(&blas->library, err)) {
        blas_close(blas);
        return NULL;
    }
    const cublasStatus_t status = create(blas);
    if (status != CUBLAS_STATUS_SUCCESS) {
        (void)err_set(err, ERR_UNAVAILABLE, "cuBLASLt: does not start (status %d)", (int)status);
        blas_close(blas);
        return NULL;
    }
    return blas;
}

/* ---- plans -------------------------------------------------------------------------------------
 */

static void plan_release(const struct library *l, struct plan *plan)
{
    const cublasLtMatrixLayout_t layouts[] = { plan->w, plan->x, plan->y };
    for (const cublasLtMatrixLayout_t layout : layouts)
        if (layout != NULL)
            (void)l->cublasLtMatrixLayoutDestroy(layout);
    memset(plan, 0, sizeof *plan);
}

static cublasStatus_t plan_make(struct blas *blas, struct plan *plan, const struct blas_product *p)
{
    const struct library *l = &blas->library;
    const uint64_t n_out = (uint64_t)p->n_out, n_in = (uint64_t)p->n_in, rows = (uint64_t)p->rows;
    cublasStatus_t status =
        l->cublasLtMatrixLayoutCreate(&plan->w, CUDA_R_16F, n_in, n_out, p->n_in);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatrixLayoutCreate(&plan->x, CUDA_R_16F, n_in, rows, p->x_stride);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, n_out, rows, p->n_out);
    cublasLtMatmulHeuristicResult_t result;
    memset(&result, 0, sizeof result);
    int n_found = 0;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = l->cublasLtMatmulAlgoGetHeuristic(blas->handle, blas->product, plan->w, plan->x,
                                                   plan->y, plan->y, blas->preference, 1, &result,
                                                   &n_found);
    if (status == CUBLAS_STATUS_SUCCESS && n_found == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    plan->algorithm = result.algo;
    plan->workspace_bytes = result.workspaceSize;
    plan->n_out = p->n_out;
    plan->n_in = p->n_in;
    plan->rows = p->rows;
    plan->x_stride = p->x_stride;
    return status;
}

/* The plan of this shape; NULL with `status` when the library has none. */
static const struct plan *plan_of(struct blas *blas, const struct blas_product *p,
                                  cublasStatus_t *status)
{
    for (int32_t i = 0; i < blas->n_plans; i++) {
        const struct plan *plan = &blas->plans[i];
        if (plan->n_out == p->n_out && plan->n_in == p->n_in && plan->rows == p->rows &&
            plan->x_stride == p->x_stride)
            return plan;
    }
    int32_t at = blas->n_plans;
    if (at == PLANS_MAX) {
        at = blas->oldest;
        blas->oldest = (at + 1) % PLANS_MAX;
    } else {
        blas->n_plans++;
    }
    struct plan *plan = &blas->plans[at];
    plan_release(&blas->library, plan);
    *status = plan_make(blas, plan, p);
    if (*status == CUBLAS_STATUS_SUCCESS)
        return plan;
    plan_release(&blas->library, plan); /* all 0: matches no shape */
    return NULL;
}

void blas_close(struct blas *blas)
{
    if (blas == NULL)
        return;
    const struct library *l = &blas->library;
    for (int32_t i = 0; i < blas->n_plans; i++)
        plan_release(l, &blas->plans[i]);
    if (blas->preference != NULL)
        (void)l->cublasLtMatmulPreferenceDestroy(blas->preference);
    if (blas->product != NULL)
        (void)l->cublasLtMatmulDescDestroy(blas->product);
    if (blas->handle != NULL)
        (void)l->cublasLtDestroy(blas->handle);
    if (l->handle != NULL)
        (void)dlclose(l->handle);
    free(blas);
}

/* ---- running -----------------------------------------------------------------------------------
 */

static cudaError_t error_of(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return cudaSuccess;
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return cudaErrorNotSupported;
    case CUBLAS_STATUS_ALLOC_FAILED:
        return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return cudaErrorLaunchFailure;
    default:
        return cudaErrorUnknown;
    }
}

cudaError_t blas_run(struct blas *blas, cudaStream_t stream, const struct blas_product *p)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    const struct plan *plan = plan_of(blas, p, &status);
    if (plan == NULL)
        return error_of(status);
    const float one = 1.0f, zero = 0.0f;
    return error_of(blas->library.cublasLtMatmul(
        blas->handle, blas->product, &one, p->w, plan->w, p->x, plan->x, &zero, p->y, plan->y, p->y,
        plan->y, &plan->algorithm, p->workspace, plan->workspace_bytes, stream));
}
#endif
