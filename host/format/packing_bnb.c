/* packing_bnb.c - bitsandbytes: nf4, fp4 and LLM.int8. Source: bitsandbytes functional.py.
 *
 * 4 bits  weight             u8 [n_out * n_in / 2][1]   the matrix row after row, high nibble first
 *         weight.quant_map   f32 [16]                   what a code means
 *         weight.absmax      f32 [blocks]               of each 64 (blocksize) weights in that
 * order weight.quant_state.bitsandbytes__nf4          u8: a JSON text { quant_type, blocksize,
 *                            (__fp4)                    shape, nested_blocksize, nested_offset }
 *         double: weight.absmax u8 [blocks], weight.nested_quant_map f32 [256],
 *                 weight.nested_absmax f32 [blocks / 256]; absmax = nested_quant_map[a] *
 *                 nested_absmax[block / 256] + nested_offset
 *   w = quant_map[code] * absmax. Byte 0x1e: weight 0 has code 1, weight 1 has code 14. Blocks that
 *   cross rows become smaller groups: the largest that divides block and row.
 *
 * int8    weight i8 [n_out][n_in], SCB f32 [n_out]: w = q * (SCB / 127); weight_format u8: 0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/half.h"
#include "host/base/json.h"
#include "host/format/packing_parts.h"

static const enum dtype F32S[] = { DTYPE_F32, DTYPE_NONE };
static const enum dtype ABSMAX[] = { DTYPE_F32, DTYPE_U8, DTYPE_NONE };
enum { BLOCK_MAX = 1 << 20, MAP_SIZE = 16, NESTED_SIZE = 256 };

/* ---- 4 bits -----------------------------------------------------------------------------------
 */

static bool four_is_there(const struct finder *finder)
{
    return part_look(finder, "weight.absmax") != NULL;
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

/* The figures of the JSON text. */
static bool read_state(struct packed *packed, const struct json_ref *state, int64_t shape[2],
                       struct err *err)
{
    struct json_ref list, item;
    int64_t block = 64, nested = NESTED_SIZE;
    double offset = 0;
    int32_t n = 0;
    if (!json_is_object(state))
        return err_set(err, ERR_FORMAT, "must be an object");
    if (!json_opt_int(state, "blocksize", 1, BLOCK_MAX, &block, err) ||
        !json_opt_int(state, "nested_blocksize", 1, BLOCK_MAX, &nested, err) ||
        !json_opt_double(state, "nested_offset", -1e30, 1e30, &offset, err))
        return false;
    if (json_get(state, "shape", &list) && json_is_array(&list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item), n++)
            if (!json_int(&item, 1, INT32_MAX, &shape[n < 2 ? n : 1], err))
                return false;
    if (n != 2)
        return err_set(err, ERR_FORMAT, "shape must be [rows, columns]");
    packed->block = (int32_t)block;
    packed->nested_block = (int32_t)nested;
    packed->offset = (float)offset;
    return true;
}

static bool find_state(struct packed *packed, const struct finder *finder, struct err *err)
{
    const char *suffix = "weight.quant_state.bitsandbytes__nf4";
    if (part_look(finder, suffix) == NULL)
        suffix = "weight.quant_state.bitsandbytes__fp4";
    const struct tensor *text;
    struct cJSON *tree = NULL;
    int64_t shape[2] = { 0 };
    if (!part_want(packed, finder, suffix, PART_U8, 1, -1, 0, &text, err))
        return false;
    bool ok = json_parse((const char *)text->data, text->bytes, &JSON_REQUEST_LIMITS, ERR_FORMAT,
                         &tree, err);
    if (ok) {
        const struct json_ref root = json_root(tree);
        ok = read_state(packed, &root, shape, err);
    }
    json_free(tree);
    if (!ok) {
        const struct err inner = *err;
        return part_error(finder, text, err, "whose text is wrong: %.200s", inner.text);
    }
    if (shape[0] == finder->n_out && shape[1] == finder->n_in)
        return true;
    return part_error(finder, text, err, "and says %lld x %lld, want %d x %d", (long long)shape[0],
                      (long long)shape[1], finder->n_out, finder->n_in);
}

static bool find_map(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *map;
    if (!part_want(packed, finder, "weight.quant_map", F32S, 1, MAP_SIZE, 0, &map, err))
        return false;
    packed->own_table = malloc(MAP_SIZE * sizeof *packed->own_table);
    if (packed->own_table == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a table");
    half_widen(packed->own_table, map->data, DTYPE_F32, MAP_SIZE);
    packed->table = packed->own_table;
    for (int i = 0; i < MAP_SIZE; i++)
        if (!isfinite(packed->table[i]))
            return part_error(finder, map, err, "and entry %d is not finite", i);
    return true;
}

static bool four_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    packed->form.kind = CODE_TABLE;
    packed->form.bits = 4;
    packed->form.symmetric = true;
    const int64_t weights = (int64_t)finder->n_out * finder->n_in;
    if (!part_want(packed, finder, "weight", PART_U8, -1, 0, 0, &packed->codes, err))
        return false;
    if (tensor_count(packed->codes) != (weights + 1) / 2)
        return part_error(finder, packed->codes, err, "want %lld bytes for %d x %d",
                          (long long)(weights + 1) / 2, finder->n_out, finder->n_in);
    if (!find_state(packed, finder, err) || !find_map(packed, finder, err))
        return false;
    const int64_t blocks = (weights - 1) / packed->block + 1;
    packed->form.group = common_divisor(finder->n_in, packed->block);
    if (!part_want(packed, finder, "weight.absmax", ABSMAX, 1, blocks, 0, &packed->scales, err))
        return false;
    if (packed->scales->dtype == DTYPE_F32)
        return true;
    return part_want(packed, finder, "weight.nested_absmax", F32S, 1,
                     (blocks - 1) / packed->nested_block + 1, 0, &packed->nested, err) &&
           part_want(packed, finder, "weight.nested_quant_map", F32S, 1, NESTED_SIZE, 0,
                     &packed->nested_map, err);
}

static bool four_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                       struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in, n = (size_t)n_rows * n_in;
    const size_t first = (size_t)row_from * n_in;
    for (size_t i = 0; i < n; i++) {
        const uint8_t byte = packed->codes->data[(first + i) / 2];
        out[i] = (first + i) % 2 == 0 ? byte >> 4 : byte & 15;
    }
    return true;
}

static float float_at(const struct tensor *tensor, size_t index)
{
    float value;
    memcpy(&value, tensor->data + index * sizeof value, sizeof value);
    return value;
}

static float absmax_at(const struct packed *packed, size_t block)
{
    if (packed->scales->dtype == DTYPE_F32)
        return float_at(packed->scales, block);
    const float coarse = float_at(packed->nested, block / (size_t)packed->nested_block);
    return float_at(packed->nested_map, packed->scales->data[block]) * coarse + packed->offset;
}

static void four_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                        float *zeros)
{
    CHECK(zeros == NULL);
    const size_t groups = (size_t)part_groups(packed), group = (size_t)packed->form.group;
    const size_t first = (size_t)row_from * groups, n = (size_t)n_rows * groups;
    for (size_t i = 0; i < n; i++) /* groups divide rows: they are counted through */
        to[i] = absmax_at(packed, (first + i) * group / (size_t)packed->block);
}

/* ---- int8 -------------------------------------------------------------------------------------
 */

static bool eight_is_there(const struct finder *finder)
{
    return part_look(finder, "SCB") != NULL;
}

static bool eight_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *format = part_find(packed, finder, "weight_format");
    packed->form.bits = 8;
    packed->form.symmetric = true;
    packed->form.group = finder->n_in;
    packed->factor = 127;
    packed->divide = true;
    if (format != NULL && (format->dtype != DTYPE_U8 || format->bytes != 1 || *format->data != 0))
        return part_error(finder, format, err,
                          "want a u8 of 0: rows in their own order; save the checkpoint again with "
                          "a newer bitsandbytes");
    return part_want(packed, finder, "weight", PART_I8, 2, finder->n_out, finder->n_in,
                     &packed->codes, err) &&
           part_want(packed, finder, "SCB", F32S, 1, finder->n_out, 0, &packed->scales, err);
}

static bool eight_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                        struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in, n = (size_t)n_rows * n_in;
    const uint8_t *from = packed->codes->data + (size_t)row_from * n_in;
    for (size_t i = 0; i < n; i++)
        out[i] = from[i] ^ 0x80;
    return true;
}

static void eight_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                         float *zeros)
{
    CHECK(zeros == NULL);
    part_grid_scales(packed, row_from, n_rows, to);
}

const struct packing_ops PACKING_OPS_BNB4 = { four_is_there, four_find, four_codes, four_scales };
const struct packing_ops PACKING_OPS_BNB8 = { eight_is_there, eight_find, eight_codes,
                                              eight_scales };
