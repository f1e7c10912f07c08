/* packing_awq.c - AWQ: versions gemm and gemv, 4 bits. Source: AutoAWQ awq/modules/linear.
 *
 * gemm  qweight i32 [n_in][n_out / 8]      along the outputs: nibble i (bits 4 i ..) of word c is
 *                                          output 8 c + (0,2,4,6,1,3,5,7)[i]
 *       qzeros  i32 [n_groups][n_out / 8]  in the same order
 *       scales  f16 [n_groups][n_out]
 * gemv  qweight i32 [n_out][n_in / 8]      along the inputs, in order
 *       qzeros  i32 [n_out][padded]        nibble g of a row is the zero of group g
 *       scales  f16 [n_out][padded * 8]
 *
 *   w[o][i] = scales * (code - z), z as it is stored. gemm, word 0x76543210 of input i: outputs
 * 0..7 have the codes 0 4 1 5 2 6 3 7. */
#include "host/base/half.h"
#include "host/format/packing_parts.h"

/* Where output j of a word lies. */
static const uint8_t NIBBLE_OF[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

static bool is_there(const struct finder *finder)
{
    return part_look(finder, "qweight") != NULL;
}

static bool set_form(struct packed *packed, const struct finder *finder, struct err *err)
{
    const int32_t group = finder->scheme->group;
    packed->form.bits = 4;
    packed->form.group = group < 1 || group > finder->n_in ? finder->n_in : group;
    packed->form.symmetric = finder->scheme->symmetric && part_look(finder, "qzeros") == NULL;
    if (finder->scheme->bits != 4)
        return err_set(err, ERR_UNSUPPORTED, "%.200s: AWQ with %d bits; want 4", finder->module,
                       finder->scheme->bits);
    return true;
}

static bool find_gemm(struct packed *packed, const struct finder *finder, struct err *err)
{
    const int64_t n_out = finder->n_out, n_in = finder->n_in;
    if (!set_form(packed, finder, err))
        return false;
    const int64_t groups = part_groups(packed);
    if (!part_want(packed, finder, "qweight", PART_I32, 2, n_in, -1, &packed->codes, err))
        return false;
    if (n_out % 8 != 0 || packed->codes->dims[1] != n_out / 8)
        return part_error(finder, packed->codes, err, "want 8 outputs a word for %d outputs",
                          finder->n_out);
    return part_want(packed, finder, "scales", PART_FLOATS, 2, groups, n_out, &packed->scales,
                     err) &&
           (packed->form.symmetric || part_want(packed, finder, "qzeros", PART_I32, 2, groups,
                                                n_out / 8, &packed->zeros, err));
}

static uint8_t gemm_at(const struct tensor *tensor, size_t line, size_t row)
{
    const size_t words = (size_t)tensor->dims[1];
    return part_word(tensor->data, line * words + row / 8) >> (4 * NIBBLE_OF[row % 8]) & 15;
}

/* Rows row .. row + 7 of one word column. */
static void gemm_octet(const struct packed *packed, size_t row, uint8_t *to)
{
    const size_t n_in = (size_t)packed->form.n_in, words = (size_t)packed->codes->dims[1];
    for (size_t i = 0; i < n_in; i++) {
        const uint32_t word = part_word(packed->codes->data, i * words + row / 8);
        for (size_t j = 0; j < 8; j++)
            to[j * n_in + i] = word >> (4 * NIBBLE_OF[j]) & 15;
    }
}

static bool gemm_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                       struct err *err)
{
    (void)err;
    const size_t n_in = (size_t)packed->form.n_in;
    for (int32_t r = 0; r < n_rows;) {
        const size_t row = (size_t)(row_from + r);
        uint8_t *to = out + (size_t)r * n_in;
        if (row % 8 == 0 && r + 8 <= n_rows) {
            gemm_octet(packed, row, to);
            r += 8;
            continue;
        }
        for (size_t i = 0; i < n_in; i++)
            to[i] = gemm_at(packed->codes, i, row);
        r++;
    }
    return true;
}

static void gemm_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                        float *zeros)
{
    const size_t groups = (size_t)part_groups(packed), n_out = (size_t)packed->form.n_out;
    const enum dtype dtype = packed->scales->dtype;
    for (size_t g = 0; g < groups; g++)
        for (int32_t r = 0; r < n_rows; r++) {
            const size_t row = (size_t)(row_from + r), at = (size_t)r * groups + g;
            half_widen(to + at, packed->scales->data + (g * n_out + row) * dtype_bytes(dtype),
                       dtype, 1);
            if (zeros != NULL)
                zeros[at] = gemm_at(packed->zeros, g, row);
        }
}

static bool find_gemv(struct packed *packed, const struct finder *finder, struct err *err)
{
    const int64_t n_out = finder->n_out, n_in = finder->n_in;
    if (!set_form(packed, finder, err))
        return false;
    const int64_t groups = part_groups(packed);
    if (!part_want(packed, finder, "qweight", PART_I32, 2, n_out, -1, &packed->codes, err))
        return false;
    if (n_in % 8 != 0 || packed->codes->dims[1] != n_in / 8)
        return part_error(finder, packed->codes, err, "want 8 inputs a word for %d inputs",
                          finder->n_in);
    if (!part_want(packed, finder, "scales", PART_FLOATS, 2, n_out, -1, &packed->scales, err))
        return false;
    if (packed->scales->dims[1] < groups)
        return part_error(finder, packed->scales, err, "want %lld scales a row or more",
                          (long long)groups);
    if (packed->form.symmetric)
        return true;
    if (!part_want(packed, finder, "qzeros", PART_I32, 2, n_out, -1, &packed->zeros, err))
        return false;
    if (packed->zeros->dims[1] < (groups + 7) / 8)
        return part_error(finder, packed->zeros, err, "want %lld zeros a row or more",
                          (long long)groups);
    return true;
}

static bool gemv_codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                       struct err *err)
{
    (void)err;
    const size_t n = (size_t)n_rows * (size_t)packed->form.n_in;
    const size_t first = (size_t)row_from * (size_t)packed->form.n_in / 8;
    for (size_t word = 0; word < n / 8; word++)
        for (size_t i = 0; i < 8; i++)
            out[8 * word + i] = part_word(packed->codes->data, first + word) >> (4 * i) & 15;
    return true;
}

static void gemv_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                        float *zeros)
{
    const size_t groups = (size_t)part_groups(packed), width = (size_t)packed->scales->dims[1];
    const enum dtype dtype = packed->scales->dtype;
    for (int32_t r = 0; r < n_rows; r++) {
        const size_t row = (size_t)(row_from + r), at = (size_t)r * groups;
        half_widen(to + at, packed->scales->data + row * width * dtype_bytes(dtype), dtype, groups);
        if (zeros == NULL)
            continue;
        const uint8_t *words = packed->zeros->data + 4 * row * (size_t)packed->zeros->dims[1];
        for (size_t g = 0; g < groups; g++)
            zeros[at + g] = (float)(part_word(words, g / 8) >> (4 * (g % 8)) & 15);
    }
}

const struct packing_ops PACKING_OPS_AWQ_GEMM = { is_there, find_gemm, gemm_codes, gemm_scales };
const struct packing_ops PACKING_OPS_AWQ_GEMV = { is_there, find_gemv, gemv_codes, gemv_scales };
