/* packing_fp.c - small floats: FP8 of everybody, NVFP4, MXFP4.
 *
 * fp8     weight         f8_e4m3 [n_out][n_in] (or f8_e5m2)
 *         weight_scale   one for the matrix [1], a row [n_out][1], a group of inputs
 *                        [n_out][n_groups], or a block [n_out / 128][n_in / 128] (rounded up);
 *                        bf16, f32, or u8 = e8m0 (mxfp8). HF's fp8 calls it weight_scale_inv: it is
 *                        multiplied all the same. input_scale [1]: static activations
 * nvfp4   weight_packed  u8 [n_out][n_in / 2] e2m1, low nibble first    (ModelOpt: weight)
 *         weight_scale   f8_e4m3 [n_out][n_in / 16]
 *         weight_global_scale f32 [1]: w = e2m1 * (scale / global)      (ModelOpt: weight_scale_2,
 *                        w = e2m1 * (scale * scale_2))
 * mxfp4   weight_packed  u8 [n_out][n_in / 2] e2m1, low nibble first
 *         weight_scale   u8 [n_out][n_in / 32]: 2^(e - 127)
 * gpt-oss NAME_blocks    u8 [n_experts][n_out][n_in / 32][16], NAME_scales u8 [n_experts][n_out]
 *                        [n_in / 32]: the same bytes as mxfp4, expert after expert
 *
 *   e2m1: 0 .5 1 1.5 2 3 4 6, bit 3 the sign. Byte 0x2f: input 0 is -6, input 1 is 1.
 * Sources: OCP 8-bit FP and MX v1.0; compressed-tensors compressors/; ModelOpt; openai/gpt-oss. */
#include <pthread.h>
#include <stdio.h>
#include "host/base/half.h"
#include "host/format/packing_parts.h"

static const enum dtype FP8S[] = { DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_NONE };
static const enum dtype E4M3[] = { DTYPE_F8_E4M3, DTYPE_NONE };
static const enum dtype E8M0[] = { DTYPE_U8, DTYPE_F8_E8M0, DTYPE_NONE };
static const enum dtype SCALES[] = { DTYPE_F32,     DTYPE_BF16, DTYPE_F16,
                                     DTYPE_F8_E8M0, DTYPE_U8,   DTYPE_NONE };
static const float E2M1_TABLE[16] = { 0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                      -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f };
static float e4m3_table[256], e5m2_table[256];

static void fill_tables(void)
{
    for (int i = 0; i < 256; i++) {
        e4m3_table[i] = half_e4m3_to_f32((uint8_t)i);
        e5m2_table[i] = half_e5m2_to_f32((uint8_t)i);
    }
}

/* U8 scales are powers of two, whatever safetensors calls them. */
static void grid_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                        float *zeros)
{
    CHECK(zeros == NULL);
    if (packed->scales->dtype != DTYPE_U8) {
        part_grid_scales(packed, row_from, n_rows, to);
        return;
    }
    const size_t groups = (size_t)part_groups(packed);
    for (int32_t r = 0; r < n_rows; r++) {
        const size_t at = (size_t)((row_from + r) / packed->row_block) * groups;
        const uint8_t *from = packed->scales->data + packed->scales_at + at;
        for (size_t g = 0; g < groups; g++)
            to[(size_t)r * groups + g] = half_e8m0_to_f32(from[g]);
    }
}

/* ---- fp8 --------------------------------------------------------------------------------------
 */

static bool fp8_is_there(const struct finder *finder)
{
    const struct tensor *weight = part_look(finder, "weight");
    return weight != NULL && (weight->dtype == DTYPE_F8_E4M3 || weight->dtype == DTYPE_F8_E5M2);
}

/* Who shares a scale: the shape says it, the config says how large a block is. */
static void fp8_grid(struct packed *packed, const struct finder *finder,
                     const struct tensor *scales)
{
    const struct quant_scheme *scheme = finder->scheme;
    packed->form.group = finder->n_in;
    if (tensor_count(scales) == 1) {
        packed->row_block = finder->n_out;
    } else if (scheme->block_rows > 0) { /* and block_cols: they are read together */
        packed->row_block = scheme->block_rows;
        if (scheme->block_cols < finder->n_in)
            packed->form.group = scheme->block_cols;
    } else if (scheme->group > 0 && scheme->group < finder->n_in) {
        packed->form.group = scheme->group;
    }
}

static bool fp8_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const struct tensor *scales;
    const bool inverse = part_look(finder, "weight_scale_inv") != NULL;
    packed->form.kind = CODE_TABLE;
    packed->form.bits = 8;
    packed->form.symmetric = true;
    if (!part_want(packed, finder, "weight", FP8S, 2, finder->n_out, finder->n_in, &packed->codes,
                   err) ||
        !part_want(packed, finder, inverse ? "weight_scale_inv" : "weight_scale", SCALES, -1, 0, 0,
                   &scales, err))
        return false;
    fp8_grid(packed, finder, scales);
    pthread_once(&once, fill_tables);
    packed->table = packed->codes->dtype == DTYPE_F8_E4M3 ? e4m3_table : e5m2_table;
    if (packed->act.scheme == ACT_FP8_TENSOR &&
        !part_input_scale(packed, finder, "input_scale", err))
        return false;
    return part_grid(packed, finder, scales, err);
}

static bool fp8_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                      struct err *err)
{
    const size_t n_in = (size_t)packed->form.n_in, n = (size_t)n_rows * n_in;
    const uint8_t *from = packed->codes->data + (size_t)row_from * n_in;
    const int top = packed->codes->dtype == DTYPE_F8_E4M3 ? 0x7e : 0x7b; /* the largest number */
    for (size_t i = 0; i < n; i++) {
        out[i] = from[i];
        if ((from[i] & 0x7f) > top)
            return err_set(err, ERR_FORMAT, "row %zu, column %zu is not finite (code 0x%02x)",
                           (size_t)row_from + i / n_in, i % n_in, from[i]);
    }
    return true;
}

/* ---- four bits --------------------------------------------------------------------------------
 */

static bool fp4_is_there(const struct finder *finder)
{
    const struct tensor *weight = part_look(finder, "weight");
    return part_look(finder, "weight_packed") != NULL ||
           (weight != NULL && weight->dtype == DTYPE_U8);
}

static void set_fp4(struct packed *packed, int32_t group)
{
    packed->form.kind = CODE_TABLE;
    packed->form.bits = 4;
    packed->form.symmetric = true;
    packed->form.group = group < packed->form.n_in ? group : packed->form.n_in;
    packed->table = E2M1_TABLE;
}

static bool check_whole_groups(const char *name, int32_t n_in, int32_t group, struct err *err)
{
    if (n_in % group == 0)
        return true;
    return err_set(err, ERR_FORMAT, "%.200s: %d inputs, want a multiple of %d", name, n_in, group);
}

/* NVFP4's global scales, of weights and inputs. */
static bool find_globals(struct packed *packed, const struct finder *finder, struct err *err)
{
    const bool divide = finder->scheme->divide;
    packed->divide = divide;
    if (!part_scalar(packed, finder, divide ? "weight_global_scale" : "weight_scale_2",
                     &packed->factor, err))
        return false;
    if (divide && packed->factor == 0)
        return err_set(err, ERR_FORMAT, "tensor %.200s.weight_global_scale is 0", finder->module);
    if (packed->act.scheme != ACT_NVFP4)
        return true;
    if (!part_input_scale(packed, finder, divide ? "input_global_scale" : "input_scale", err))
        return false;
    if (!divide && packed->act.scheme == ACT_NVFP4)
        packed->act.scale = 1 / packed->act.scale;
    return true;
}

static bool fp4_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    const bool nv = packed->packing == PACKING_NVFP4;
    const struct tensor *scales;
    set_fp4(packed, nv ? 16 : 32);
    const char *suffix = part_look(finder, "weight_packed") != NULL ? "weight_packed" : "weight";
    if (!check_whole_groups(finder->module, finder->n_in, nv ? 16 : 32, err) ||
        !part_want(packed, finder, suffix, PART_U8, 2, finder->n_out, finder->n_in / 2,
                   &packed->codes, err) ||
        !part_want(packed, finder, "weight_scale", nv ? E4M3 : E8M0, 2, finder->n_out,
                   part_groups(packed), &scales, err))
        return false;
    packed->scales = scales;
    return !nv || find_globals(packed, finder, err);
}

static bool fp4_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                      struct err *err)
{
    (void)err;
    const size_t half = (size_t)packed->form.n_in / 2, n = (size_t)n_rows * half;
    const uint8_t *from = packed->codes->data + packed->codes_at + (size_t)row_from * half;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = from[i] & 15;
        out[2 * i + 1] = from[i] >> 4;
    }
    return true;
}

/* ---- gpt-oss ----------------------------------------------------------------------------------
 */

static bool want_slices(struct packed *packed, const struct finder *finder, const char *suffix,
                        int32_t n_dims, const int64_t *dims, const struct tensor **found,
                        struct err *err)
{
    char name[256];
    snprintf(name, sizeof name, "%.200s_%s", finder->module, suffix);
    const struct tensor *tensor = tensor_dir_find(finder->dir, name);
    *found = tensor;
    if (tensor == NULL)
        return err_set(err, ERR_FORMAT, "tensor %s is missing", name);
    bool fits = tensor->dtype == DTYPE_U8 && tensor->n_dims == n_dims;
    for (int32_t i = 0; i < n_dims && fits; i++)
        fits = tensor->dims[i] == dims[i];
    packed->tensors[packed->n_tensors++] = tensor;
    packed->bytes += tensor->bytes / (size_t)dims[0];
    if (fits)
        return true;
    return part_error(finder, tensor, err, "want u8 [%lld, %lld, %lld%s]", (long long)dims[0],
                      (long long)dims[1], (long long)dims[2], n_dims == 4 ? ", 16" : "");
}

bool packed_find_mxfp4_slice(struct packed *packed, const struct tensor_dir *dir, const char *name,
                             int32_t n_experts, int32_t expert, int32_t n_out, int32_t n_in,
                             struct err *err)
{
    static const struct quant_scheme scheme = { .packing = PACKING_MXFP4 };
    const struct finder finder = {
        .dir = dir, .scheme = &scheme, .module = name, .n_out = n_out, .n_in = n_in
    };
    char blocks[256];
    CHECK(n_out > 0 && n_in > 0 && expert >= 0 && expert < n_experts);
    *packed = (struct packed){ 0 };
    snprintf(blocks, sizeof blocks, "%.200s_blocks", name);
    if (tensor_dir_find(dir, blocks) == NULL)
        return true;
    *packed = (struct packed){ .packing = PACKING_MXFP4,
                               .form = { .n_out = n_out, .n_in = n_in },
                               .row_block = 1,
                               .factor = 1 };
    set_fp4(packed, 32);
    const int64_t dims[4] = { n_experts, n_out, n_in / 32, 16 };
    if (!check_whole_groups(name, n_in, 32, err) ||
        !want_slices(packed, &finder, "blocks", 4, dims, &packed->codes, err) ||
        !want_slices(packed, &finder, "scales", 3, dims, &packed->scales, err)) {
        packed_clear(packed);
        return false;
    }
    const size_t weights = (size_t)n_out * (size_t)n_in;
    packed->codes_at = (size_t)expert * weights / 2;
    packed->scales_at = (size_t)expert * weights / 32;
    return true;
}

const struct packing_ops PACKING_OPS_FP8 = { fp8_is_there, fp8_find, fp8_codes, grid_scales };
const struct packing_ops PACKING_OPS_FP4 = { fp4_is_there, fp4_find, fp4_codes, grid_scales };
