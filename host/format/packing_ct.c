/* packing_ct.c - compressed-tensors: pack-quantized and int-quantized.
 * Source: vllm-project/compressed-tensors compressors/.
 *
 * pack-quantized  weight_packed     i32 [n_out][n_in * bits / 32]   a row: a little-endian stream
 * of codes, code = q + 2^(bits-1); 3, 5, 6 and 7 bits of old writers: floor(32 / bits) codes a
 * word, the rest unused weight_scale      bf16 [n_out][n_groups]          one scale a row:
 * [n_out][1] weight_zero_point i32 [n_out * bits / 32][n_groups]   asymmetric: along the outputs,
 * offset as the codes; or i8 [n_out][n_groups] weight_shape      i64 [2] n_out, n_in weight_g_idx
 * i32 [n_in]                      actorder "group" int-quantized   weight            i8
 * [n_out][n_in] weight_scale      bf16 [n_out][1], [n_out][n_groups] or [1] weight_zero_point i8,
 * shaped like the scales      asymmetric
 *
 *   w = scale * (q - zero point). pack-quantized, 4 bits, word 0x76543210: q = -8 -7 .. -1. */
#include "host/base/half.h"
#include "host/format/packing_parts.h"

static const enum dtype ZEROS[] = { DTYPE_I32, DTYPE_I8, DTYPE_NONE };
static const enum dtype SHAPES[] = { DTYPE_I64, DTYPE_I32, DTYPE_NONE };

/* ---- both -------------------------------------------------------------------------------------
 */

/* Rows and inputs that share a scale, from the scales' shape where the config leaves it open. */
static bool find_scales(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *scales;
    if (!part_want(packed, finder, "weight_scale", PART_FLOATS, -1, 0, 0, &scales, err))
        return false;
    const int32_t group = finder->scheme->group, n_in = finder->n_in;
    packed->form.group = group < 1 || group > n_in ? n_in : group;
    if (tensor_count(scales) == 1 && finder->n_out > 1)
        packed->row_block = finder->n_out;
    packed->form.symmetric = finder->scheme->symmetric;
    return part_grid(packed, finder, scales, err);
}

/* ---- pack-quantized ---------------------------------------------------------------------------
 */

static bool pack_is_there(const struct finder *finder)
{
    return part_look(finder, "weight_packed") != NULL;
}

/* Codes of a word in the padded form; 0: the dense stream. */
static int64_t padded_codes(const struct packed *packed)
{
    const int64_t n_in = packed->form.n_in, bits = packed->form.bits;
    const int64_t dense = (n_in * bits + 31) / 32;
    return packed->codes->dims[1] == dense ? 0 : 32 / bits;
}

static bool check_shape(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *shape;
    if (part_look(finder, "weight_shape") == NULL)
        return true;
    if (!part_want(packed, finder, "weight_shape", SHAPES, 1, 2, 0, &shape, err))
        return false;
    int64_t sides[2];
    for (int i = 0; i < 2; i++) {
        const size_t at = (size_t)i * dtype_bytes(shape->dtype) / 4;
        sides[i] = (int32_t)part_word(shape->data, at);
        if (shape->dtype == DTYPE_I64 && part_word(shape->data, at + 1) != 0)
            sides[i] = -1;
    }
    if (sides[0] == finder->n_out && sides[1] == finder->n_in)
        return true;
    return part_error(finder, shape, err, "and says %lld x %lld, want %d x %d", (long long)sides[0],
                      (long long)sides[1], finder->n_out, finder->n_in);
}

static bool pack_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *g_idx;
    const int64_t n_out = finder->n_out, n_in = finder->n_in, bits = finder->scheme->bits;
    if (bits < 2 || bits > 8)
        return err_set(err, ERR_UNSUPPORTED, "%.200s: pack-quantized with %lld bits; want 2 to 8",
                       finder->module, (long long)bits);
    packed->form.bits = (int32_t)bits;
    if (!part_want(packed, finder, "weight_packed", PART_I32, 2, n_out, -1, &packed->codes, err))
        return false;
    const int64_t words = packed->codes->dims[1], per_word = 32 / bits;
    if (words != (n_in * bits + 31) / 32 && words != (n_in + per_word - 1) / per_word)
        return part_error(finder, packed->codes, err, "want %lld words a row for %d bits",
                          (long long)((n_in * bits + 31) / 32), packed->form.bits);
    if (!check_shape(packed, finder, err) || !find_scales(packed, finder, err))
        return false;
    const int64_t groups = part_groups(packed);
    if (!packed->form.symmetric) {
        if (!part_want(packed, finder, "weight_zero_point", ZEROS, 2, -1, groups, &packed->zeros,
                       err))
            return false;
        const int64_t rows = packed->zeros->dtype == DTYPE_I8 ? n_out : (n_out * bits + 31) / 32;
        if (packed->zeros->dims[0] != rows || packed->row_block != 1)
            return part_error(finder, packed->zeros, err, "want [%lld, %lld]", (long long)rows,
                              (long long)groups);
    }
    if (part_look(finder, "weight_g_idx") == NULL)
        return true;
    return part_want(packed, finder, "weight_g_idx", PART_I32, 1, n_in, 0, &g_idx, err) &&
           part_order(packed, finder, g_idx, err);
}

static bool pack_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                       struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in, words = (size_t)packed->codes->dims[1];
    const int32_t bits = packed->form.bits;
    const size_t padded = (size_t)padded_codes(packed);
    for (int32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = packed->codes->data + 4 * (size_t)(row_from + r) * words;
        uint8_t *to = out + (size_t)r * n_in;
        size_t i = 0;
        if (padded == 0 && 32 % bits == 0) /* no code lies across words */
            for (const size_t per_word = 32 / (size_t)bits; i + per_word <= n_in; i += per_word)
                part_deal_word(part_word(row, i / per_word), bits, packed->rank, i, to);
        for (; i < n_in; i++) {
            const size_t at =
                padded == 0 ? i * (size_t)bits : i / padded * 32 + i % padded * (size_t)bits;
            const size_t place = packed->rank == NULL ? i : (size_t)packed->rank[i];
            to[place] = (uint8_t)part_bits(row, 1, at, bits);
        }
    }
    return true;
}

static void pack_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                        float *zeros)
{
    part_grid_scales(packed, row_from, n_rows, to);
    if (zeros == NULL)
        return;
    const size_t groups = (size_t)part_groups(packed);
    const int32_t bits = packed->form.bits;
    for (int32_t r = 0; r < n_rows; r++)
        for (size_t g = 0; g < groups; g++) {
            const size_t row = (size_t)(row_from + r);
            const uint8_t *data = packed->zeros->data;
            float *zero = &zeros[(size_t)r * groups + g];
            if (packed->zeros->dtype == DTYPE_I8)
                *zero = (float)((int8_t)data[row * groups + g] + (1 << (bits - 1)));
            else
                *zero = (float)part_bits(data + 4 * g, groups, row * (size_t)bits, bits);
        }
}

/* ---- int-quantized ----------------------------------------------------------------------------
 */

static bool int_is_there(const struct finder *finder)
{
    const struct tensor *weight = part_look(finder, "weight");
    return weight != NULL && weight->dtype == DTYPE_I8;
}

static bool int_find(struct packed *packed, const struct finder *finder, struct err *err)
{
    packed->form.bits = 8;
    if (!part_want(packed, finder, "weight", PART_I8, 2, finder->n_out, finder->n_in,
                   &packed->codes, err) ||
        !find_scales(packed, finder, err))
        return false;
    if (packed->form.symmetric)
        return true;
    if (!part_want(packed, finder, "weight_zero_point", PART_I8, -1, 0, 0, &packed->zeros, err))
        return false;
    if (tensor_count(packed->zeros) != tensor_count(packed->scales))
        return part_error(finder, packed->zeros, err, "want as many as there are scales");
    return true;
}

static bool int_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                      struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in, n = (size_t)n_rows * n_in;
    const uint8_t *from = packed->codes->data + (size_t)row_from * n_in;
    for (size_t i = 0; i < n; i++)
        out[i] = from[i] ^ 0x80; /* q + 128 */
    return true;
}

static void int_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                       float *zeros)
{
    part_grid_scales(packed, row_from, n_rows, to);
    const size_t groups = (size_t)part_groups(packed);
    for (int32_t r = 0; r < n_rows && zeros != NULL; r++)
        for (size_t g = 0; g < groups; g++) {
            const size_t at = (size_t)((row_from + r) / packed->row_block) * groups + g;
            zeros[(size_t)r * groups + g] = (float)((int8_t)packed->zeros->data[at] + 128);
        }
}

const struct packing_ops PACKING_OPS_CT_PACK = { pack_is_there, pack_find, pack_codes,
                                                 pack_scales };
const struct packing_ops PACKING_OPS_CT_INT = { int_is_there, int_find, int_codes, int_scales };
