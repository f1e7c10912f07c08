/* choose.cu - which kernel multiplies: what was measured for this matrix (measure.cu), or one table
 * by rows, for what the device has.
 *
 * A row of the table says "from this many token rows on, try this kernel first"; a kernel that does
 * not take the op (fits) leaves it to the next. gemm_mma takes everything. --invariant uses
 * gemm_mma alone: its sums have one order whatever the number of rows (and step.cu one kind of
 * attention). */
#include "cuda/state.h"

struct choice {
    int32_t rows_from;
    enum gemm_kernel kernel;
};
/* sm_90. 1..32 rows are bound by weights: K1. From 33, wgmma: int4 meets its memory limit at 47
 * rows (kernels.md, table 1). Dequantize + cuBLASLt costs 231 / rows more than cuBLAS alone: 11 %
 * at 2048. */
static const struct choice hopper[] = {
    { 33, GEMM_WGMMA },
    { 1, GEMM_SMALL },
    { 0, GEMM_MMA },
};
/* sm_80, 86, 89, 120: mma.sync reaches the tensor cores' rate. */
static const struct choice others[] = {
    { 33, GEMM_MMA },
    { 1, GEMM_SMALL },
    { 0, GEMM_MMA },
};

bool choose_takes(const struct cuda *cuda, enum gemm_kernel kernel, const struct gemm_op *op)
{
    switch (kernel) {
    case GEMM_SMALL:
        return op->rows <= GEMM_SMALL_ROWS && gemm_small_fits(op, &cuda->info) &&
               gemm_small_workspace(&op->w, op->rows, &cuda->info) <= cuda->partial_bytes;
    case GEMM_WGMMA:
        return op->qkv == NULL && gemm_wgmma_fits(op, &cuda->info);
    case GEMM_DENSE:
        return op->qkv == NULL && cuda->dense != NULL && gemm_dense_fits(op, &cuda->info);
    case GEMM_S8:
        return op->qkv == NULL && gemm_s8_fits(op, &cuda->info);
    default:
        return op->qkv == NULL && gemm_mma_fits(op, &cuda->info);
    }
}

bool choose_takes_qkv(const struct cuda *cuda, const struct gemm_op *op)
{
    return choose_takes(cuda, GEMM_SMALL, op);
}

enum gemm_kernel choose_by_rule(const struct cuda *cuda, const struct gemm_op *op)
{
    if (op->rows >= cuda->options.dense_rows && choose_takes(cuda, GEMM_DENSE, op))
        return GEMM_DENSE;
    const struct choice *row = cuda->info.wgmma ? hopper : others;
    for (;; row++)
        if (op->rows >= row->rows_from && choose_takes(cuda, row->kernel, op))
            return row->kernel;
        else
            CHECK(row->rows_from > 0); /* gemm_mma takes everything */
}

enum gemm_kernel choose_gemm(const struct cuda *cuda, const struct gemm_op *op)
{
    if (cuda->options.invariant)
        return GEMM_MMA;
    if (cuda->options.int8 && op->rows > GEMM_SMALL_ROWS && choose_takes(cuda, GEMM_S8, op))
        return GEMM_S8;
    const enum gemm_kernel measured = measured_kernel(cuda, op);
    if (measured != GEMM_KERNELS && choose_takes(cuda, measured, op))
        return measured;
    return choose_by_rule(cuda, op);
}
