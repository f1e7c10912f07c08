/* packing_bitnet.c - BitNet b1.58's packed ternary weights. Source: transformers
 * integrations/bitnet.py, microsoft/BitNet.
 *
 *   weight       u8 [n_out / 4][n_in]   bits 2i, 2i + 1 of byte (r, k): row i * n_out / 4 + r
 *   weight_scale bf16 [1]               the whole matrix
 *
 *   code 0 1 2 = -1 0 +1; 3 means nothing. w = t * weight_scale (linear_class autobitlinear), or
 *   t / weight_scale (bitlinear, also where no class is named). n_out = 4: byte 0x64 = 01 10 01 00:
 *   rows 0..3 are -1, 0, +1, 0. */
#include "host/format/packing_parts.h"

static bool is_there(const struct finder *finder)
{
    const struct tensor *weight = part_look(finder, "weight");
    return weight != NULL && weight->dtype == DTYPE_U8;
}

static bool find(struct packed *packed, const struct finder *finder, struct err *err)
{
    packed->form.bits = 2;
    packed->form.symmetric = true;
    packed->form.group = finder->n_in;
    if (!part_want(packed, finder, "weight", PART_U8, 2, -1, finder->n_in, &packed->codes, err) ||
        !part_scalar(packed, finder, "weight_scale", &packed->factor, err))
        return false;
    if (finder->n_out % 4 != 0 || packed->codes->dims[0] != finder->n_out / 4)
        return part_error(finder, packed->codes, err, "want four rows a byte for %d rows",
                          finder->n_out);
    if (finder->scheme->divide)
        packed->factor = 1 / packed->factor;
    return true;
}

static bool codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                  struct err *err)
{
    const size_t n_in = (size_t)packed->form.n_in;
    const int32_t quarter = packed->form.n_out / 4;
    for (int32_t r = 0; r < n_rows; r++) {
        const int32_t row = row_from + r, shift = row / quarter * 2;
        const uint8_t *from = packed->codes->data + (size_t)(row % quarter) * n_in;
        uint8_t *to = out + (size_t)r * n_in;
        for (size_t i = 0; i < n_in; i++) {
            const uint8_t code = from[i] >> shift & 3;
            if (code == 3)
                return err_set(err, ERR_FORMAT, "row %d, column %zu: code 3 is no ternary weight",
                               row, i);
            to[i] = code + 1; /* the zero of symmetric 2-bit codes is 2 */
        }
    }
    return true;
}

static void scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                   float *zeros)
{
    (void)row_from;
    CHECK(zeros == NULL);
    for (int32_t r = 0; r < n_rows; r++)
        to[r] = packed->factor;
}

const struct packing_ops PACKING_OPS_BITNET = { is_there, find, codes, scales };
