/* gemm_dense.cu - K3: F64 weights to fp16, slice by slice, and cuBLASLt's fp16 product.
 *
 *   y[r][o] = epilogue((sum_i fp16((code - zero) * scale) x[r][i]) * row_factor[o] * x_scale[r] +
 * bias)
 *
 * For thousands of rows, where a product is bound by the tensor cores and the library is best. The
 * pass over the weights reads 0.52 bytes of a weight and writes 2, which costs 231 / rows of the
 * product's own time (11 % at 2048 rows, int4, H200; kernels.md), less what stays in L2.
 *
 *   for each slice of weights:            [2048 outputs][n_in] fp16, of one, two or three parts
 *       f64_dequantize                    (a slice of a gate: 1024 rows of each part)
 *       for each chunk of rows:           product [2048 rows][2048 outputs] fp32, 16 MB: stays in
 * L2 blas_run dense_epilogue                4 bytes in, 2 or 4 out, of an output
 *
 * Row factors are not folded into the slice. They are powers of two that bring a row's largest
 * scale to [128, 256), so that fp16 holds every (code - zero) * scale, up to 255 * 256 = 65280,
 * without overflow and mostly without subnormals; folded back, ordinary weights of 2^-10 would have
 * small ones below 2^-14 and lose bits, and rows of large weights would overflow. x_scale is one of
 * each row and could not be folded either, so the epilogue reads the product in any case.
 *
 * Sums and rounding: each weight is rounded to fp16 once (2^-11), which the kernels that scale sums
 * instead do not do. */
#include <stdlib.h>
#include <string.h>
#include "cuda/blas.h"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    /* 2048 x 2048 outputs are 128 tiles of 128 x 256: one wave of 132 multiprocessors, 97 % of
     * them. Half of it would leave half of them idle, which costs more than a slice that leaves L2.
     * Up to n_in 8192 the slice is at most 32 MB and fits there (50 MB on H200) beside the product.
     */
    DENSE_SLICE_ROWS = 2048,
    DENSE_SLICE_BYTES = 64 << 20, /* wider than 16384 inputs: fewer rows */
    DENSE_PRODUCT_FLOATS = DENSE_SLICE_ROWS * 2048,
    DENSE_ROWS_STEP = 128, /* chunks of rows, but for the last */
    EPILOGUE_THREADS = 256,
    EPILOGUE_ROWS = 4, /* of a block: one load of the row factors */
    EPILOGUE_COLS = 4 * EPILOGUE_THREADS,
};
static_assert(DENSE_SLICE_ROWS % F64_STRIP_ROWS == 0, "slices are whole strips");

struct dense {
    struct blas *blas;
    unsigned char *memory; /* all of dense_bytes: */
    uint16_t *slice;       /* fp16 [rows of the slice][n_in padded] */
    float *product;        /* [rows][rows of the slice] */
    void *workspace;       /* the library's */
};

size_t dense_bytes(void)
{
    return (size_t)DENSE_SLICE_BYTES + DENSE_PRODUCT_FLOATS * sizeof(float) + BLAS_WORKSPACE;
}

struct dense *dense_open(struct err *err)
{
    struct dense *dense = (struct dense *)calloc(1, sizeof *dense);
    if (dense == NULL) {
        (void)err_set(err, ERR_MEMORY, "no memory for the dense product");
        return NULL;
    }
    dense->blas = blas_open(err);
    if (dense->blas == NULL) {
        dense_close(dense);
        return NULL;
    }
    if (cudaMalloc((void **)&dense->memory, dense_bytes()) != cudaSuccess) {
        (void)cudaGetLastError(); /* running out of memory is not sticky */
        dense->memory = NULL;
        (void)err_set(err, ERR_MEMORY, "no device memory for slices of weights (%zu bytes)",
                      dense_bytes());
        dense_close(dense);
        return NULL;
    }
    dense->slice = (uint16_t *)(void *)dense->memory;
    dense->product = (float *)(void *)(dense->memory + DENSE_SLICE_BYTES);
    dense->workspace = dense->product + DENSE_PRODUCT_FLOATS;
    return dense;
}

void dense_close(struct dense *dense)
{
    if (dense == NULL)
        return;
    if (dense->memory != NULL)
        (void)cudaFree(dense->memory);
    blas_close(dense->blas);
    free(dense);
}

/* ---- slices ------------------------------------------------------------------------------------
 */

/* Rows [row, row + n_rows) of a part, at row `at` of the slice. */
struct piece {
    int32_t part, row, n_rows, at;
    int32_t col; /* of y where the part starts */
};
struct slice {
    struct piece pieces[WEIGHT_PARTS_MAX];
    int32_t n_pieces, n_rows;
};
/* Where the next slice starts. */
struct cursor {
    int32_t part, row, col;
};

static int32_t slice_rows_max(const struct f64_matrix *w)
{
    const int32_t row_bytes = f64_pad(w->n_in, F64_UNIT_COLS) * 2;
    const int32_t rows = DENSE_SLICE_BYTES / row_bytes / F64_STRIP_ROWS * F64_STRIP_ROWS;
    return rows < DENSE_SLICE_ROWS ? rows : DENSE_SLICE_ROWS;
}
static void slice_add(struct slice *slice, struct cursor from, int32_t n_rows)
{
    struct piece *piece = &slice->pieces[slice->n_pieces++];
    piece->part = from.part;
    piece->row = from.row;
    piece->n_rows = n_rows;
    piece->at = slice->n_rows;
    piece->col = from.col;
    slice->n_rows += n_rows;
}
static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
/* The parts one after the other; of a gate, the same rows of both. False at the end. */
static bool slice_next(const struct gemm_op *op, struct cursor *cursor, struct slice *slice)
{
    const int32_t most = slice_rows_max(&op->w);
    memset(slice, 0, sizeof *slice);
    if (op->out.epilogue == EPILOGUE_GATE) {
        const int32_t left = f64_pad(op->w.parts[0].n_out, F64_STRIP_ROWS) - cursor->row;
        const int32_t half = most / 2 / F64_STRIP_ROWS * F64_STRIP_ROWS, n = least(left, half);
        if (n <= 0)
            return false;
        struct cursor second = *cursor;
        second.part = 1;
        slice_add(slice, *cursor, n);
        slice_add(slice, second, n);
        cursor->row += n;
        return true;
    }
    while (cursor->part < op->w.n_parts && slice->n_rows < most) {
        const int32_t padded = f64_pad(op->w.parts[cursor->part].n_out, F64_STRIP_ROWS);
        const int32_t n = least(padded - cursor->row, most - slice->n_rows);
        slice_add(slice, *cursor, n);
        cursor->row += n;
        if (cursor->row < padded)
            break;
        cursor->col += op->w.parts[cursor->part].n_out;
        cursor->part++;
        cursor->row = 0;
    }
    return slice->n_rows > 0;
}

/* ---- epilogue ----------------------------------------------------------------------------------
 */

struct epilogue_args {
    const float *product;       /* [n_rows][stride], from this piece's first column on */
    const float *factor, *bias; /* of this piece's first output */
    const float *product2, *factor2, *bias2; /* of a gate's second part */
    const float *x_scale;                    /* of the first row */
    struct gemm_out out;                     /* y: from row 0 and this piece's first column on */
    int32_t stride, n_rows, n_cols;
    bool aligned; /* 4 neighbours of y are one aligned load or store */
};

DEVICE float4 scaled(const float *product, const float *factor, const float *bias, int n,
                     float x_scale, const struct gemm_out &out)
{
    /* columns up to the next multiple of 64 exist in product and factor, not in bias */
    const float4 p = *(const float4 *)(const void *)product;
    const float4 f = *(const float4 *)(const void *)factor;
    float v[4] = { p.x * f.x, p.y * f.y, p.z * f.z, p.w * f.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] *= x_scale;
        if (bias != NULL && i < n)
            v[i] += bias[i];
        v[i] = out_value(out, v[i]);
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}
DEVICE void store4(const struct epilogue_args &a, int row, int col, float4 v)
{
    const int n = a.n_cols - col;
    const int64_t at = (int64_t)row * a.out.stride + col;
    if (!a.aligned || n < 4) {
        const float values[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < n)
                out_store(a.out, row, col + i, values[i]);
        return;
    }
    if (a.out.dtype == DTYPE_F32) {
        float4 *y = (float4 *)(void *)((float *)a.out.y + at);
        if (a.out.epilogue == EPILOGUE_ADD)
            v = make_float4(y->x + v.x, y->y + v.y, y->z + v.z, y->w + v.w);
        *y = v;
        return;
    }
    uint2 *y = (uint2 *)(void *)((uint16_t *)a.out.y + at);
    if (a.out.epilogue == EPILOGUE_ADD)
        v = make_float4(bf16_low(y->x) + v.x, bf16_high(y->x) + v.y, bf16_low(y->y) + v.z,
                        bf16_high(y->y) + v.w);
    *y = make_uint2(bf16_pair(v.x, v.y), bf16_pair(v.z, v.w));
}

KERNEL(EPILOGUE_THREADS, 4) dense_epilogue(const __grid_constant__ struct epilogue_args a)
{
    const int col = (int)blockIdx.x * EPILOGUE_COLS + (int)threadIdx.x * 4;
    griddep_launch();
    if (col >= a.n_cols)
        return;
    const int n = a.n_cols - col;
#pragma unroll
    for (int i = 0; i < EPILOGUE_ROWS; i++) {
        const int row = (int)blockIdx.y * EPILOGUE_ROWS + i;
        if (row >= a.n_rows)
            break;
        const int64_t at = (int64_t)row * a.stride + col;
        const float x_scale = a.x_scale[row];
        float4 v = scaled(a.product + at, a.factor + col, a.bias == NULL ? NULL : a.bias + col, n,
                          x_scale, a.out);
        if (a.out.epilogue == EPILOGUE_GATE) {
            const float4 u = scaled(a.product2 + at, a.factor2 + col,
                                    a.bias2 == NULL ? NULL : a.bias2 + col, n, x_scale, a.out);
            v = make_float4(gate_of(a.out.gate, v.x) * u.x, gate_of(a.out.gate, v.y) * u.y,
                            gate_of(a.out.gate, v.z) * u.z, gate_of(a.out.gate, v.w) * u.w);
        }
        store4(a, row, col, v);
    }
}

/* A piece (of a gate: both) of the product of rows [row, row + n_rows). */
static cudaError_t finish_piece(const struct launch *launch, const struct dense *dense,
                                const struct gemm_op *op, const struct slice *slice, int32_t i,
                                int32_t row, int32_t n_rows)
{
    const struct piece *piece = &slice->pieces[i];
    const struct f64_part *part = &op->w.parts[piece->part];
    struct epilogue_args a;
    memset(&a, 0, sizeof a);
    a.product = dense->product + piece->at;
    a.factor = part->row_factor + piece->row;
    a.bias = part->bias == NULL ? NULL : part->bias + piece->row;
    if (op->out.epilogue == EPILOGUE_GATE) {
        const struct f64_part *second = &op->w.parts[1];
        a.product2 = dense->product + slice->pieces[1].at;
        a.factor2 = second->row_factor + piece->row;
        a.bias2 = second->bias == NULL ? NULL : second->bias + piece->row;
    }
    a.x_scale = op->x_scale + row;
    a.out = op->out;
    const int64_t first = (int64_t)row * op->out.stride + piece->col + piece->row;
    const size_t bytes = op->out.dtype == DTYPE_F32 ? 4 : 2;
    a.out.y = (unsigned char *)op->out.y + first * (int64_t)bytes;
    a.stride = slice->n_rows;
    a.n_rows = n_rows;
    a.n_cols = least(piece->n_rows, part->n_out - piece->row);
    a.aligned = op->out.stride % 4 == 0 && (uintptr_t)a.out.y % (4 * bytes) == 0;
    const dim3 grid((unsigned)((a.n_cols + EPILOGUE_COLS - 1) / EPILOGUE_COLS),
                    (unsigned)((n_rows + EPILOGUE_ROWS - 1) / EPILOGUE_ROWS));
    /* Plain: it could do nothing before the product is there, and the library may end with a node
     * that is no kernel (a recording allows no programmatic edge from it). */
    return LAUNCH((dense_epilogue), grid, EPILOGUE_THREADS, 0, launch->stream, LAUNCH_PLAIN, a);
}

/* ---- the product -------------------------------------------------------------------------------
 */

static cudaError_t multiply_chunk(const struct launch *launch, const struct dense *dense,
                                  const struct gemm_op *op, const struct slice *slice, int32_t row,
                                  int32_t n_rows)
{
    struct blas_product p;
    memset(&p, 0, sizeof p);
    p.w = dense->slice;
    p.x = (const uint16_t *)op->x + (int64_t)row * op->x_stride;
    p.y = dense->product;
    p.n_out = slice->n_rows;
    p.n_in = f64_pad(op->w.n_in, F64_UNIT_COLS);
    p.rows = n_rows;
    p.x_stride = op->x_stride;
    p.workspace = dense->workspace;
    cudaError_t status = blas_run(dense->blas, launch->stream, &p);
    const int32_t n_pieces = op->out.epilogue == EPILOGUE_GATE ? 1 : slice->n_pieces;
    for (int32_t i = 0; i < n_pieces && status == cudaSuccess; i++)
        status = finish_piece(launch, dense, op, slice, i, row, n_rows);
    return status;
}

bool gemm_dense_fits(const struct gemm_op *op, const struct device_info *device)
{
    (void)device; /* any */
    const struct f64_kind *kind = &op->w.kind;
    if (op->rows < 1 || op->w.n_parts < 1 || op->w.n_parts > WEIGHT_PARTS_MAX || op->qkv != NULL)
        return false;
    if (op->out.dtype != DTYPE_F32 && op->out.dtype != DTYPE_BF16)
        return false;
    if ((kind->bits != 4 && kind->bits != 8) || (kind->table != NULL && kind->bits != 4))
        return false;
    if (kind->group != 32 && kind->group != 64 && kind->group != F64_UNIT_COLS)
        return false;
    if (op->out.epilogue == EPILOGUE_GATE &&
        (op->w.n_parts != 2 || op->w.parts[0].n_out != op->w.parts[1].n_out))
        return false;
    return slice_rows_max(&op->w) >= 2 * F64_STRIP_ROWS; /* a strip of each part of a gate */
}

cudaError_t gemm_dense(const struct launch *launch, struct dense *dense, const struct gemm_op *op)
{
    const int64_t padded = f64_pad(op->w.n_in, F64_UNIT_COLS);
    struct cursor cursor = {};
    struct slice slice;
    cudaError_t status = cudaSuccess;
    while (status == cudaSuccess && slice_next(op, &cursor, &slice)) {
        for (int32_t i = 0; i < slice.n_pieces && status == cudaSuccess; i++) {
            const struct piece *piece = &slice.pieces[i];
            status = f64_dequantize(launch, &op->w, piece->part, piece->row,
                                    piece->row + piece->n_rows, dense->slice + piece->at * padded);
        }
        const int32_t chunk =
            DENSE_PRODUCT_FLOATS / slice.n_rows / DENSE_ROWS_STEP * DENSE_ROWS_STEP;
        for (int32_t row = 0; row < op->rows && status == cudaSuccess; row += chunk)
            status = multiply_chunk(launch, dense, op, &slice, row, least(chunk, op->rows - row));
    }
    return status;
}
