/* packing_hqq.c - HQQ: codes by strides, real-valued zeros. Source: mobiusml/hqq
 * core/{quantize,bitpack}.py.
 *
 * The matrix, row after row, is cut into [n_rows][n_cols] with n_cols = group_size (axis 1) or
 * n_rows = group_size (axis 0); each row (axis 1) or column (axis 0) of that has a scale and a
 * zero. Then rows that are a part apart share a byte or word, part 0 in the highest bits:
 *
 *   W_q   8 bits  u8  [n_rows][n_cols]
 *         4 bits  u8  [n_rows / 2][n_cols]    row r high, row r + n_rows / 2 low
 *         2 bits  u8  [n_rows / 4][n_cols]    four parts, bits 6, 4, 2, 0
 *         3 bits  i32 [n_rows / 10 rounded up][n_cols]  ten parts, bits 27, 24 .. 0
 *   scale, zero   f16 (bf16, f32) one a row or column
 *   nbits, group_size, axis, shape ...  tensors too: i32 scalars, i64 [2]
 *
 *   w = (code - zero) * scale. 4 bits, axis 1, n_rows 2, byte 0 = 0x5a: the first weight of row 0
 *   has code 5, of row 1 code 10. axis 0: neighbours differ in their scale, which makes groups
 * of 1. */
#include <string.h>
#include "host/base/half.h"
#include "host/format/packing_parts.h"

static const enum dtype SCALARS[] = { DTYPE_I32, DTYPE_U8, DTYPE_I64, DTYPE_BOOL, DTYPE_NONE };
static const enum dtype CODES[] = { DTYPE_U8, DTYPE_I32, DTYPE_NONE };

static bool is_there(const struct finder *finder)
{
    return part_look(finder, "W_q") != NULL;
}

/* A whole number that is a tensor of one element; `value` stays when there is none. */
static bool read_scalar(struct packed *packed, const struct finder *finder, const char *suffix,
                        int64_t *value, struct err *err)
{
    const struct tensor *tensor;
    if (part_look(finder, suffix) == NULL)
        return true;
    if (!part_want(packed, finder, suffix, SCALARS, -1, 0, 0, &tensor, err))
        return false;
    if (tensor_count(tensor) != 1)
        return part_error(finder, tensor, err, "want one element");
    *value = dtype_bytes(tensor->dtype) == 1 ? *tensor->data
                                             : (int64_t)(int32_t)part_word(tensor->data, 0);
    if (tensor->dtype == DTYPE_I64)
        memcpy(value, tensor->data, sizeof *value);
    return true;
}

static void claim_figures(struct packed *packed, const struct finder *finder)
{
    static const char *const SUFFIXES[] = {
        "shape",    "packing",    "unpack_view_dtype",  "compute_dtype",       "channel_wise",
        "optimize", "round_zero", "encoded_state_dict", "stores_quant_config", "offload_meta"
    };
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof *SUFFIXES; i++)
        (void)part_find(packed, finder, SUFFIXES[i]);
}

static int32_t common_divisor(int32_t a, int32_t b)
{
    while (b != 0) {
        const int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int64_t parts_of(int32_t bits)
{
    return bits == 3 ? 10 : 8 / bits;
}
static int64_t rows_of(const struct packed *packed)
{
    const int64_t weights = (int64_t)packed->form.n_out * packed->form.n_in;
    return packed->axis0 ? packed->block : weights / packed->block;
}
static int64_t cols_of(const struct packed *packed)
{
    return (int64_t)packed->form.n_out * packed->form.n_in / rows_of(packed);
}

/* Scales and zeros: one a row or column, floats. */
static bool find_values(struct packed *packed, const struct finder *finder, const char *suffix,
                        const struct tensor **found, struct err *err)
{
    const int64_t n = packed->axis0 ? cols_of(packed) : rows_of(packed);
    if (!part_want(packed, finder, suffix, PART_FLOATS, -1, 0, 0, found, err))
        return false;
    if (tensor_count(*found) == n)
        return true;
    return part_error(finder, *found, err, "want %lld values", (long long)n);
}

static bool find(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct quant_scheme *scheme = finder->scheme;
    const int64_t weights = (int64_t)finder->n_out * finder->n_in;
    int64_t bits = scheme->bits, group = scheme->group, axis = 1, as_float = 0, nested[2] = { 0 };
    if (!read_scalar(packed, finder, "nbits", &bits, err) ||
        !read_scalar(packed, finder, "group_size", &group, err) ||
        !read_scalar(packed, finder, "axis", &axis, err) ||
        !read_scalar(packed, finder, "view_as_float", &as_float, err) ||
        !read_scalar(packed, finder, "quant_scale", &nested[0], err) ||
        !read_scalar(packed, finder, "quant_zero", &nested[1], err))
        return false;
    claim_figures(packed, finder);
    if ((bits != 2 && bits != 3 && bits != 4 && bits != 8) || as_float != 0 || nested[0] != 0 ||
        nested[1] != 0 || (axis != 0 && axis != 1))
        return err_set(
            err, ERR_UNSUPPORTED,
            "%.200s: HQQ with %lld bits, axis %lld%s%s is not supported; want 2, 3, 4 or "
            "8 bits with plain scales",
            finder->module, (long long)bits, (long long)axis,
            as_float != 0 ? ", viewed as floats" : "",
            nested[0] != 0 || nested[1] != 0 ? ", scales quantized again" : "");
    packed->axis0 = axis == 0;
    if (group < 1)
        group = axis == 1 ? finder->n_in : finder->n_out;
    if (group > weights || weights % group != 0)
        return err_set(err, ERR_FORMAT, "%.200s: group_size %lld does not divide %d x %d",
                       finder->module, (long long)group, finder->n_out, finder->n_in);
    if (group > INT32_MAX)
        return err_set(err, ERR_FORMAT, "%.200s: group_size %lld", finder->module,
                       (long long)group);
    packed->block = (int32_t)group;
    packed->form.bits = (int32_t)bits;
    packed->form.group = packed->axis0 ? 1 : common_divisor(finder->n_in, packed->block);
    const int64_t parts = parts_of(packed->form.bits), rows = rows_of(packed);
    const int64_t stored = (rows + parts - 1) / parts;
    if (!part_want(packed, finder, "W_q", CODES, 2, stored, cols_of(packed), &packed->codes, err))
        return false;
    if (packed->codes->dtype != (bits == 3 ? DTYPE_I32 : DTYPE_U8) ||
        (bits != 3 && rows % parts != 0))
        return part_error(finder, packed->codes, err, "which does not hold %d-bit codes",
                          packed->form.bits);
    return find_values(packed, finder, "scale", &packed->scales, err) &&
           find_values(packed, finder, "zero", &packed->zeros, err);
}

static bool codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                  struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in, n = (size_t)n_rows * n_in;
    const size_t first = (size_t)row_from * n_in, cols = (size_t)cols_of(packed);
    const size_t step = (size_t)packed->codes->dims[0];
    const uint32_t bits = (uint32_t)packed->form.bits, mask = (1u << bits) - 1;
    const uint32_t top = bits == 3 ? 27 : 8 - bits; /* where part 0 lies */
    for (size_t i = 0; i < n;) {                    /* a stored row at a time */
        const size_t row = (first + i) / cols, col = (first + i) % cols;
        const size_t left = cols - col, run = left < n - i ? left : n - i;
        const size_t at = row % step * cols + col;
        const uint32_t shift = top - bits * (uint32_t)(row / step);
        for (size_t k = 0; k < run; k++) {
            const uint32_t word =
                bits == 3 ? part_word(packed->codes->data, at + k) : packed->codes->data[at + k];
            out[i + k] = (uint8_t)(word >> shift & mask);
        }
        i += run;
    }
    return true;
}

static void scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                   float *zeros)
{
    const size_t groups = (size_t)part_groups(packed), group = (size_t)packed->form.group;
    const size_t first = (size_t)row_from * groups, n = (size_t)n_rows * groups;
    const size_t cols = (size_t)cols_of(packed);
    const enum dtype scale = packed->scales->dtype, zero = packed->zeros->dtype;
    for (size_t i = 0; i < n; i++) {
        const size_t weight = (first + i) * group;
        const size_t at = packed->axis0 ? weight % cols : weight / (size_t)packed->block;
        half_widen(to + i, packed->scales->data + at * dtype_bytes(scale), scale, 1);
        half_widen(zeros + i, packed->zeros->data + at * dtype_bytes(zero), zero, 1);
    }
}

const struct packing_ops PACKING_OPS_HQQ = { is_there, find, codes, scales };
