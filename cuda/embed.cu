/* embed.cu - rows picked by number: token embeddings out of F64 or plain rows, rows for the head.
 *
 *   embed_rows    y[r] = table[tokens[r]] * scale      bf16 [rows][hidden]; token -1: zeros;
 *                                                      token -2 - s: the one at drawn[s]
 *   gather_rows   y[i] = x[rows[i]]                    bf16 [n][n_cols]; row -1: zeros
 *   gather_columns   y[r][i] = x[r][order[i]]          bf16; a row stays in L1
 *
 * Bytes: one row of the table and one of y a token (4096 of int4: 2 KB + 8 KB): latency. A row of
 * an F64 table is one sixteenth of each of its units, so a whole 32-byte sector is read for 16 or 8
 * bytes of codes: twice the row, which is nothing beside one matrix product.
 *
 *   block = (columns, row); a thread has what 16 bytes (int4) or two words (int8) of a lane hold:
 *
 *   int4   atom of 64 columns, quarter q:  k16 tiles t = 0..3, columns 16t + 2q, +1, +8, +9
 *   int8   atom of 32 columns, quarter q:  k16 tiles t = 0..1, the same
 *   rows   8 columns */
#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    THREADS = 128, /* 2048 columns of int4 a block, 1024 of the others */
    VALUES = 8,
};

/* The host does not know a token that is in flight, only its slot. */
DEVICE int32_t number_of(const int32_t *numbers, const int32_t *drawn, int row)
{
    const int32_t number = numbers[row];
    return number < -1 && drawn != NULL ? drawn[-2 - number] : number;
}

/* ---- F64 --------------------------------------------------------------------------------------
 */

struct f64_args {
    struct f64_part part;
    int32_t bits, group, unit_bytes, code_bytes, blocks; /* of f64_kind, layout_f64.h */
    bool zeros, has_table;
    uint16_t table[16];
    const int32_t *tokens, *drawn;
    int32_t vocab, hidden;
    float scale;
    uint16_t *y;
    int64_t y_stride;
};
/* Two neighbouring columns, the first even. */
DEVICE void put_pair(const struct f64_args &a, uint16_t *y, int col, float low, float high)
{
    if (col + 1 < a.hidden && (uintptr_t)(y + col) % 4 == 0) {
        *(uint32_t *)(y + col) = bf16_pair(low, high);
        return;
    }
    if (col < a.hidden)
        y[col] = bf16_of(low);
    if (col + 1 < a.hidden)
        y[col + 1] = bf16_of(high);
}
/* What turns codes of one group of the row into weights. */
struct scaling {
    float scale, zero;
};
DEVICE struct scaling scaling_of(const struct f64_args &a, const uint8_t *unit, int row, int group)
{
    const uint16_t *scales = (const uint16_t *)(unit + a.code_bytes);
    const int n_groups = F64_UNIT_COLS / a.group, at = 2 * (row % 8) + row / 8;
    struct scaling s;
    s.scale = f32_of_f16(scales[group * F64_UNIT_ROWS + at]);
    s.zero = a.bits == 4 ? 8.0f : 128.0f;
    if (a.zeros)
        s.zero = f32_of_f16(scales[(n_groups + group) * F64_UNIT_ROWS + at]);
    return s;
}
DEVICE float weight_of(const struct f64_args &a, struct scaling s, uint32_t code)
{
    const float v = a.has_table ? f32_of_f16(a.table[code & 15u]) : (float)code - s.zero;
    return v * s.scale;
}

/* Column `col` of the row: first of an atom; quarter q of its lanes. */
DEVICE void embed4(const struct f64_args &a, const uint8_t *unit, int row, int col, int q,
                   float factor, uint16_t *y)
{
    const int atom = col % F64_UNIT_COLS / 64;
    const uint8_t *lane = unit + atom * F64_ATOM_BYTES + (4 * (row % 8) + q) * 16;
    const uint4 raw = ld128(lane);
    const uint32_t words[4] = { raw.x, raw.y, raw.z, raw.w };
    for (int t = 0; t < 4; t++) {
        const uint32_t w = words[t] >> (row < 8 ? 0 : 4);
        const struct scaling s = scaling_of(a, unit, row, (col % F64_UNIT_COLS + 16 * t) / a.group);
        const int at = col + 16 * t + 2 * q;
        put_pair(a, y, at, weight_of(a, s, w & 15u) * factor,
                 weight_of(a, s, w >> 16 & 15u) * factor);
        put_pair(a, y, at + 8, weight_of(a, s, w >> 8 & 15u) * factor,
                 weight_of(a, s, w >> 24 & 15u) * factor);
    }
}
DEVICE void embed8(const struct f64_args &a, const uint8_t *unit, int row, int col, int q,
                   float factor, uint16_t *y)
{
    const int atom = col % F64_UNIT_COLS / 32;
    const uint32_t *lane =
        (const uint32_t *)(unit + atom * F64_ATOM_BYTES + (4 * (row % 8) + q) * 16);
    const struct scaling s = scaling_of(a, unit, row, col % F64_UNIT_COLS / a.group);
    for (int t = 0; t < 2; t++) {
        const uint32_t w = lane[2 * t + row / 8];
        const int at = col + 16 * t + 2 * q;
        put_pair(a, y, at, weight_of(a, s, w & 255u) * factor,
                 weight_of(a, s, w >> 16 & 255u) * factor);
        put_pair(a, y, at + 8, weight_of(a, s, w >> 8 & 255u) * factor,
                 weight_of(a, s, w >> 24) * factor);
    }
}
KERNEL(THREADS, 1) embed_f64(const __grid_constant__ struct f64_args a)
{
    const int atom_cols = a.bits == 4 ? 64 : 32;
    const int item = (int)blockIdx.x * THREADS + (int)threadIdx.x;
    const int col = item / 4 * atom_cols, q = item % 4;
    griddep_wait();
    griddep_launch();
    if (col >= a.hidden)
        return;
    const int token = number_of(a.tokens, a.drawn, (int)blockIdx.y);
    uint16_t *y = a.y + (int64_t)blockIdx.y * a.y_stride;
    if (token < 0 || token >= a.vocab) {
        for (int at = col + 2 * q; at < col + atom_cols; at += 8)
            put_pair(a, y, at, 0.0f, 0.0f);
        return;
    }
    const int tile = token / F64_UNIT_ROWS;
    const int64_t block = (int64_t)(tile / 4) * a.blocks + col / F64_UNIT_COLS;
    const uint8_t *unit = a.part.units + (block * 4 + tile % 4) * a.unit_bytes;
    const float factor = a.part.row_factor[token] * a.scale;
    if (a.bits == 4)
        embed4(a, unit, token % F64_UNIT_ROWS, col, q, factor, y);
    else
        embed8(a, unit, token % F64_UNIT_ROWS, col, q, factor, y);
}

/* ---- rows -------------------------------------------------------------------------------------
 */

struct rows_args {
    const void *x;
    int64_t x_stride;
    const int32_t *rows, *drawn;
    int32_t n_rows, n_cols; /* of x; n_rows 0: not known */
    float scale;
    uint16_t *y;
    int64_t y_stride;
    bool aligned;
};
template <enum dtype DTYPE> DEVICE float element(const void *x, int64_t at)
{
    if constexpr (DTYPE == DTYPE_F32)
        return ((const float *)x)[at];
    else if constexpr (DTYPE == DTYPE_F16)
        return f32_of_f16(((const uint16_t *)x)[at]);
    else
        return f32_of_bf16(((const uint16_t *)x)[at]);
}
/* bf16 at scale 1 is a copy, 16 bytes at a time where it can be. */
template <enum dtype DTYPE>
KERNEL(THREADS, 1)
rows_kernel(const __grid_constant__ struct rows_args a)
{
    const int col = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * VALUES;
    griddep_wait();
    griddep_launch();
    if (col >= a.n_cols)
        return;
    const int row = number_of(a.rows, a.drawn, (int)blockIdx.y);
    const bool there = row >= 0 && (a.n_rows == 0 || row < a.n_rows);
    uint16_t *y = a.y + (int64_t)blockIdx.y * a.y_stride + col;
    const int64_t from = (int64_t)row * a.x_stride + col;
    if (DTYPE == DTYPE_BF16 && a.aligned && a.scale == 1.0f && col + VALUES <= a.n_cols) {
        st128(y, there ? ld128((const uint16_t *)a.x + from) : make_uint4(0u, 0u, 0u, 0u));
        return;
    }
    for (int k = 0; k < VALUES; k++)
        if (col + k < a.n_cols)
            y[k] = bf16_of(there ? element<DTYPE>(a.x, from + k) * a.scale : 0.0f);
}

/* ---- columns ----------------------------------------------------------------------------------
 */

struct columns_args {
    const uint16_t *x;
    int64_t x_stride;
    const int32_t *order;
    int32_t n_cols;
    uint16_t *y;
    int64_t y_stride;
    bool aligned;
};
KERNEL(THREADS, 1) columns_kernel(const __grid_constant__ struct columns_args a)
{
    const int col = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * VALUES;
    griddep_wait();
    griddep_launch();
    if (col >= a.n_cols)
        return;
    const uint16_t *x = a.x + (int64_t)blockIdx.y * a.x_stride;
    uint16_t *y = a.y + (int64_t)blockIdx.y * a.y_stride + col;
    if (a.aligned && col + VALUES <= a.n_cols) {
        uint32_t w[VALUES / 2];
        for (int k = 0; k < VALUES / 2; k++)
            w[k] = x[a.order[col + 2 * k]] | (uint32_t)x[a.order[col + 2 * k + 1]] << 16;
        st128(y, make_uint4(w[0], w[1], w[2], w[3]));
        return;
    }
    for (int k = 0; k < VALUES && col + k < a.n_cols; k++)
        y[k] = x[a.order[col + k]];
}

/* ---- launchers --------------------------------------------------------------------------------
 */

static bool aligned16(const void *p, int64_t stride)
{
    return ((uintptr_t)p | (uintptr_t)(stride * 2)) % 16 == 0;
}
static dim3 grid_of(int32_t items, int32_t rows)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS), (unsigned)rows);
}
template <enum dtype DTYPE>
static cudaError_t rows_launch(const struct launch *launch, int32_t n, const struct rows_args &a)
{
    return LAUNCH((rows_kernel<DTYPE>), grid_of((a.n_cols + VALUES - 1) / VALUES, n), THREADS, 0,
                  launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
cudaError_t embed_rows(const struct launch *launch, const struct embed_in *op)
{
    if (op->rows == 0)
        return cudaSuccess;
    if (op->w != NULL) {
        struct f64_args a;
        a.part = op->w->parts[0];
        const struct f64_kind *kind = &op->w->kind;
        a.bits = kind->bits;
        a.group = kind->group;
        a.unit_bytes = f64_unit_bytes(*kind);
        a.code_bytes = f64_code_bytes(kind->bits);
        a.blocks = f64_blocks(op->hidden);
        a.zeros = kind->zeros;
        a.has_table = kind->table != NULL;
        for (int32_t i = 0; i < 16; i++)
            a.table[i] = kind->table != NULL ? kind->table[i] : (uint16_t)0;
        a.tokens = op->tokens;
        a.drawn = op->drawn;
        a.vocab = op->vocab;
        a.hidden = op->hidden;
        a.scale = op->scale;
        a.y = (uint16_t *)op->y;
        a.y_stride = op->y_stride;
        const int32_t atom_cols = a.bits == 4 ? 64 : 32;
        const int32_t items = (op->hidden + atom_cols - 1) / atom_cols * 4;
        return LAUNCH((embed_f64), grid_of(items, op->rows), THREADS, 0, launch->stream,
                      launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
    }
    const struct rows_args a = {
        op->rows_data, op->hidden,
        op->tokens,    op->drawn,
        op->vocab,     op->hidden,
        op->scale,     (uint16_t *)op->y,
        op->y_stride,  aligned16(op->rows_data, op->hidden) && aligned16(op->y, op->y_stride)
    };
    switch (op->dtype) {
    case DTYPE_F32:
        return rows_launch<DTYPE_F32>(launch, op->rows, a);
    case DTYPE_F16:
        return rows_launch<DTYPE_F16>(launch, op->rows, a);
    case DTYPE_BF16:
        return rows_launch<DTYPE_BF16>(launch, op->rows, a);
    default:
        return cudaErrorInvalidValue;
    }
}
cudaError_t gather_rows(const struct launch *launch, const void *x, int64_t x_stride,
                        const int32_t *rows, int32_t n, int32_t n_cols, void *y, int64_t y_stride)
{
    if (n == 0)
        return cudaSuccess;
    const struct rows_args a = {
        x,      x_stride, rows,          NULL,     0,
        n_cols, 1.0f,     (uint16_t *)y, y_stride, aligned16(x, x_stride) && aligned16(y, y_stride)
    };
    return rows_launch<DTYPE_BF16>(launch, n, a);
}
cudaError_t gather_columns(const struct launch *launch, const void *x, int64_t x_stride,
                           const int32_t *order, int32_t rows, int32_t n_cols, void *y,
                           int64_t y_stride)
{
    if (rows == 0)
        return cudaSuccess;
    struct columns_args a;
    a.x = (const uint16_t *)x;
    a.x_stride = x_stride;
    a.order = order;
    a.n_cols = n_cols;
    a.y = (uint16_t *)y;
    a.y_stride = y_stride;
    a.aligned = aligned16(y, y_stride);
    return LAUNCH((columns_kernel), grid_of((n_cols + VALUES - 1) / VALUES, rows), THREADS, 0,
                  launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
