/* packing.c - what all packings share: finding tensors, proving shapes, orders, checks of values.
 *
 * The file is hostile: every count is proven against the shape that the model's config wants before
 * anything is indexed by it. Called by host/model while loading. */
#include "host/format/packing.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/half.h"
#include "host/format/packing_parts.h"

const enum dtype PART_FLOATS[] = { DTYPE_F16, DTYPE_BF16, DTYPE_F32, DTYPE_NONE };
const enum dtype PART_I32[] = { DTYPE_I32, DTYPE_U32, DTYPE_NONE };
const enum dtype PART_U8[] = { DTYPE_U8, DTYPE_NONE };
const enum dtype PART_I8[] = { DTYPE_I8, DTYPE_NONE };

static const struct packing_ops *const OPS[PACKING_COUNT] = {
    [PACKING_GPTQ] = &PACKING_OPS_GPTQ,         [PACKING_GPTQ_V2] = &PACKING_OPS_GPTQ,
    [PACKING_AWQ_GEMM] = &PACKING_OPS_AWQ_GEMM, [PACKING_AWQ_GEMV] = &PACKING_OPS_AWQ_GEMV,
    [PACKING_CT_PACK] = &PACKING_OPS_CT_PACK,   [PACKING_CT_INT] = &PACKING_OPS_CT_INT,
    [PACKING_FP8] = &PACKING_OPS_FP8,           [PACKING_NVFP4] = &PACKING_OPS_FP4,
    [PACKING_MXFP4] = &PACKING_OPS_FP4,         [PACKING_BNB4] = &PACKING_OPS_BNB4,
    [PACKING_BNB8] = &PACKING_OPS_BNB8,         [PACKING_HQQ] = &PACKING_OPS_HQQ,
    [PACKING_BITNET] = &PACKING_OPS_BITNET,
};

/* ---- parts ------------------------------------------------------------------------------------
 */

const struct tensor *part_look(const struct finder *finder, const char *suffix)
{
    char name[256];
    const int length = snprintf(name, sizeof name, "%s.%s", finder->module, suffix);
    return length < (int)sizeof name ? tensor_dir_find(finder->dir, name) : NULL;
}

const struct tensor *part_find(struct packed *packed, const struct finder *finder,
                               const char *suffix)
{
    const struct tensor *tensor = part_look(finder, suffix);
    for (int32_t i = 0; i < packed->n_tensors; i++)
        if (packed->tensors[i] == tensor)
            return tensor;
    if (tensor != NULL) {
        CHECK(packed->n_tensors < PACKED_TENSORS_MAX);
        packed->tensors[packed->n_tensors++] = tensor;
        packed->bytes += tensor->bytes;
    }
    return tensor;
}

static void shape_text(const struct tensor *tensor, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < tensor->n_dims && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, i == 0 ? "%lld" : ", %lld",
                                 (long long)tensor->dims[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

bool part_error(const struct finder *finder, const struct tensor *tensor, struct err *err,
                const char *format, ...)
{
    char rest[256], shape[96];
    va_list args;
    va_start(args, format);
    vsnprintf(rest, sizeof rest, format, args);
    va_end(args);
    shape_text(tensor, shape, sizeof shape);
    return err_set(err, ERR_FORMAT, "%s: tensor %.200s is %s %s, %s",
                   finder->dir->labels[tensor->file], tensor->name, dtype_name(tensor->dtype),
                   shape, rest);
}

static bool is_one_of(enum dtype dtype, const enum dtype *dtypes)
{
    for (; *dtypes != DTYPE_NONE; dtypes++)
        if (*dtypes == dtype)
            return true;
    return false;
}

bool part_want(struct packed *packed, const struct finder *finder, const char *suffix,
               const enum dtype *dtypes, int32_t n_dims, int64_t dim0, int64_t dim1,
               const struct tensor **found, struct err *err)
{
    const struct tensor *tensor = part_find(packed, finder, suffix);
    *found = tensor;
    if (tensor == NULL)
        return err_set(err, ERR_FORMAT, "tensor %.200s.%s is missing: it belongs to a %s matrix",
                       finder->module, suffix, packing_name(finder->scheme->packing));
    if (!is_one_of(tensor->dtype, dtypes))
        return part_error(finder, tensor, err, "want %s%s", dtype_name(dtypes[0]),
                          dtypes[1] == DTYPE_NONE ? "" : " or alike");
    const int64_t want[2] = { dim0, dim1 };
    CHECK(n_dims <= 2);
    bool fits = n_dims < 0 || tensor->n_dims == n_dims;
    for (int32_t i = 0; i < n_dims && fits; i++)
        fits = tensor->dims[i] > 0 && (want[i] < 0 || tensor->dims[i] == want[i]);
    if (fits && tensor->bytes > 0)
        return true;
    if (n_dims == 2 && dim0 >= 0 && dim1 >= 0)
        return part_error(finder, tensor, err, "want [%lld, %lld]", (long long)dim0,
                          (long long)dim1);
    if (n_dims == 1 && dim0 >= 0)
        return part_error(finder, tensor, err, "want [%lld]", (long long)dim0);
    return part_error(finder, tensor, err, "which does not fit a matrix of %d x %d", finder->n_out,
                      finder->n_in);
}

bool part_scalar(struct packed *packed, const struct finder *finder, const char *suffix,
                 float *value, struct err *err)
{
    const struct tensor *tensor;
    if (!part_want(packed, finder, suffix, PART_FLOATS, -1, 0, 0, &tensor, err))
        return false;
    if (tensor_count(tensor) != 1)
        return part_error(finder, tensor, err, "want one element");
    half_widen(value, tensor->data, tensor->dtype, 1);
    if (isfinite(*value))
        return true;
    return part_error(finder, tensor, err, "and its value is not finite");
}

bool part_input_scale(struct packed *packed, const struct finder *finder, const char *suffix,
                      struct err *err)
{
    const struct tensor *tensor = part_look(finder, suffix);
    if (tensor == NULL) {
        packed->act = (struct act_quant){ ACT_EXACT, 0 };
        return true;
    }
    if (!part_scalar(packed, finder, suffix, &packed->act.scale, err))
        return false;
    if (packed->act.scale > 0 && isfinite(1 / packed->act.scale))
        return true;
    return part_error(finder, tensor, err, "and its value %g is no scale",
                      (double)packed->act.scale);
}

bool part_grid(struct packed *packed, const struct finder *finder, const struct tensor *scales,
               struct err *err)
{
    const int64_t rows = (packed->form.n_out - 1) / packed->row_block + 1;
    const int64_t groups = part_groups(packed), count = tensor_count(scales);
    packed->scales = scales;
    const bool flat = scales->n_dims <= 1 || (scales->n_dims == 2 && scales->dims[1] == 1);
    const bool grid = scales->n_dims == 2 && scales->dims[0] == rows && scales->dims[1] == groups;
    if (grid || (flat && count == rows * groups))
        return true;
    return part_error(finder, scales, err, "want [%lld, %lld]", (long long)rows, (long long)groups);
}

void part_grid_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *scales)
{
    const struct tensor *tensor = packed->scales;
    const size_t groups = (size_t)part_groups(packed), element = dtype_bytes(tensor->dtype);
    for (int32_t r = 0; r < n_rows; r++) {
        const size_t at = (size_t)((row_from + r) / packed->row_block) * groups;
        float *to = scales + (size_t)r * groups;
        half_widen(to, tensor->data + packed->scales_at + at * element, tensor->dtype, groups);
    }
    const size_t n = (size_t)n_rows * groups;
    if (packed->divide)
        for (size_t i = 0; i < n; i++)
            scales[i] /= packed->factor;
    else if (packed->factor != 1)
        for (size_t i = 0; i < n; i++)
            scales[i] *= packed->factor;
}

/* ---- activation order -------------------------------------------------------------------------
 */

static int32_t group_at(const struct tensor *g_idx, int32_t i)
{
    return (int32_t)part_word(g_idx->data, (size_t)i);
}

bool part_order(struct packed *packed, const struct finder *finder, const struct tensor *g_idx,
                struct err *err)
{
    const int32_t n_in = packed->form.n_in, group = packed->form.group;
    const int32_t n_groups = part_groups(packed);
    bool plain = true, unset = true;
    for (int32_t i = 0; i < n_in; i++) {
        const int32_t g = group_at(g_idx, i);
        plain = plain && g == i / group;
        unset = unset && (g == 0 || g == -1); /* never filled in: no order was used */
    }
    if (plain || unset)
        return true;
    int32_t *filled = calloc((size_t)n_groups, sizeof *filled);
    int32_t *order = malloc((size_t)n_in * sizeof *order);
    packed->rank = malloc((size_t)n_in * sizeof *packed->rank);
    packed->order = order;
    bool ok = true;
    if (filled == NULL || order == NULL || packed->rank == NULL)
        ok = err_set(err, ERR_MEMORY, "no memory for an order of %d inputs", n_in);
    for (int32_t i = 0; i < n_in && ok; i++) {
        const int32_t g = group_at(g_idx, i);
        if (g < 0 || g >= n_groups) {
            ok = part_error(finder, g_idx, err, "and puts input %d into group %d of %d", i, g,
                            n_groups);
            break;
        }
        const int32_t left = n_in - g * group, size = left < group ? left : group;
        if (filled[g] == size) {
            ok = part_error(finder, g_idx, err, "and puts more than %d inputs into group %d", size,
                            g);
            break;
        }
        packed->rank[i] = g * group + filled[g]++;
        order[packed->rank[i]] = i;
    }
    free(filled);
    return ok; /* every group is full: as many inputs as places, and none was put twice */
}

/* ---- find -------------------------------------------------------------------------------------
 */

/* Written by exporters beside a matrix, and no part of its weights. */
static void claim_side_tensors(struct packed *packed, const struct finder *finder)
{
    static const char *const SUFFIXES[] = { "input_scale", "input_zero_point",  "output_scale",
                                            "k_scale",     "v_scale",           "q_scale",
                                            "kv_scale",    "input_global_scale" };
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof *SUFFIXES; i++)
        (void)part_find(packed, finder, SUFFIXES[i]);
}

bool packed_find(struct packed *packed, const struct tensor_dir *dir, const struct quant_spec *spec,
                 const char *module, int32_t n_out, int32_t n_in, struct err *err)
{
    struct finder finder = { .dir = dir, .module = module, .n_out = n_out, .n_in = n_in };
    *packed = (struct packed){ 0 };
    CHECK(n_out > 0 && n_in > 0);
    if (!quant_spec_scheme(spec, module, &finder.scheme, err))
        return false;
    if (finder.scheme == NULL)
        return true;
    const enum packing packing = finder.scheme->packing;
    const struct packing_ops *ops = OPS[packing];
    if (ops == NULL || !ops->is_there(&finder))
        return true;
    *packed = (struct packed){
        .packing = packing,
        .form = { .n_out = n_out, .n_in = n_in, .bits = finder.scheme->bits },
        .act = finder.scheme->act,
        .row_block = 1,
        .factor = 1,
    };
    if (!ops->find(packed, &finder, err)) {
        packed_clear(packed);
        return false;
    }
    claim_side_tensors(packed, &finder);
    CHECK(packed->form.group >= 1 && packed->form.bits >= 2 && packed->form.bits <= 8);
    CHECK(packed->form.kind == CODE_INT || packed->table != NULL);
    return true;
}

void packed_clear(struct packed *packed)
{
    free((int32_t *)(uintptr_t)packed->order);
    free(packed->rank);
    free(packed->own_table);
    *packed = (struct packed){ 0 };
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static bool check_finite(const struct packed *packed, const float *values, int32_t row_from,
                         int32_t n_rows, const char *what, struct err *err)
{
    const int32_t groups = part_groups(packed);
    for (int32_t r = 0; r < n_rows; r++)
        for (int32_t g = 0; g < groups; g++)
            if (!isfinite(values[(size_t)r * (size_t)groups + (size_t)g]))
                return err_set(err, ERR_FORMAT,
                               "row %d, group %d: the %s is not finite (NaN or Inf)", row_from + r,
                               g, what);
    return true;
}

bool packed_scales(const struct packed *packed, int32_t row_from, int32_t n_rows,
                   struct matrix *block, int32_t block_row, struct err *err)
{
    const struct matrix_form *form = &packed->form;
    CHECK(row_from >= 0 && n_rows >= 0 && n_rows <= form->n_out - row_from);
    CHECK(block_row >= 0 && n_rows <= block->n_out - block_row);
    CHECK(block->n_in == form->n_in && block->kind == form->kind && block->bits == form->bits);
    CHECK(block->group == form->group && block->symmetric == form->symmetric);
    CHECK(block->mins == NULL && !form->mins);
    const size_t at = (size_t)block_row * (size_t)block->n_groups;
    float *scales = block->scales + at, *zeros = block->zeros == NULL ? NULL : block->zeros + at;
    OPS[packed->packing]->scales(packed, row_from, n_rows, scales, zeros);
    return check_finite(packed, scales, row_from, n_rows, "scale", err) &&
           (zeros == NULL || check_finite(packed, zeros, row_from, n_rows, "zero", err));
}

bool packed_rows(const struct packed *packed, int32_t row_from, int32_t n_rows,
                 struct matrix *block, int32_t block_row, struct err *err)
{
    if (!packed_scales(packed, row_from, n_rows, block, block_row, err))
        return false;
    block->table = packed->table;
    block->order = packed->order;
    uint8_t *codes = block->codes + (size_t)block_row * (size_t)block->n_in;
    return OPS[packed->packing]->codes(packed, row_from, n_rows, codes, err);
}

bool packed_fits_f16(const struct packed *packed, bool *lossless, struct err *err)
{
    enum { ROWS = 64 };
    struct matrix_form form = packed->form;
    struct matrix block;
    *lossless = true;
    form.n_out = ROWS;
    if (!matrix_init_form(&block, &form, err))
        return false;
    bool ok = true;
    for (int32_t row = 0; row < packed->form.n_out && ok && *lossless; row += ROWS) {
        const int32_t left = packed->form.n_out - row, n = left < ROWS ? left : ROWS;
        ok = packed_scales(packed, row, n, &block, 0, err);
        for (int32_t r = 0; r < n && ok && *lossless; r++) {
            float factor;
            *lossless = matrix_scale_parts(&block, r, &factor);
        }
        const size_t n_zeros = block.zeros == NULL ? 0 : (size_t)n * (size_t)block.n_groups;
        for (size_t i = 0; i < n_zeros && ok && *lossless; i++)
            *lossless = half_f16_to_f32(half_f32_to_f16(block.zeros[i])) == block.zeros[i];
    }
    matrix_clear(&block);
    return ok;
}
