/* packing_gptq.c - GPTQ, v1 and v2. Sources: AutoGPTQ, GPTQModel (nn_modules/qlinear).
 *
 *   qweight i32 [n_in * bits / 32][n_out]   down a column: a little-endian stream of codes, the
 *                                           lowest input in the lowest bits (3 bits: 32 codes in 3
 *                                           words, some of them across two)
 *   qzeros  i32 [n_groups][n_out * bits / 32]  along a row: the same stream over the outputs
 *   scales  f16 [n_groups][n_out]           (bf16, f32)
 *   g_idx   i32 [n_in]                      the group of each input; may be missing
 *
 *   w[o][i] = scales[g][o] * (code[i][o] - z),  g = g_idx[i],  z = qzeros + 1 mod 2^bits in v1,
 *   qzeros in v2. 4 bits, word 0 of column o = 0x76543210: inputs 0..7 have codes 0..7.
 *
 * The tensors are trusted over the config, which some writers fill in wrongly: the bits are those
 * of qweight's shape, and a matrix is symmetric when every zero is 2^(bits-1), too. */
#include <string.h>
#include "host/base/half.h"
#include "host/format/packing_parts.h"

enum { STRIP = 16 }; /* outputs at a time: a cache line of each row of words */

static bool is_there(const struct finder *finder)
{
    return part_look(finder, "qweight") != NULL;
}

static uint32_t zero_at(const struct packed *packed, size_t group, size_t row)
{
    const int32_t bits = packed->form.bits;
    const size_t words = (size_t)packed->form.n_out * (size_t)bits / 32;
    const uint32_t stored =
        part_bits(packed->zeros->data + 4 * group * words, 1, row * (size_t)bits, bits);
    if (packed->packing == PACKING_GPTQ_V2)
        return stored;
    return (stored + 1) & ((1u << bits) - 1);
}

static bool zeros_are_middle(const struct packed *packed)
{
    const size_t groups = (size_t)part_groups(packed), rows = (size_t)packed->form.n_out;
    for (size_t g = 0; g < groups; g++)
        for (size_t row = 0; row < rows; row++)
            if (zero_at(packed, g, row) != 1u << (packed->form.bits - 1))
                return false;
    return true;
}

/* The group that n_groups scales a column mean: the config's when it agrees. */
static bool find_group(struct packed *packed, const struct finder *finder,
                       const struct tensor *scales, struct err *err)
{
    const int32_t n_in = finder->n_in;
    const int64_t n_groups = scales->dims[0];
    int32_t group = finder->scheme->group;
    if (group < 1 || group > n_in)
        group = n_in;
    if ((n_in - 1) / group + 1 != n_groups && n_groups <= n_in && n_in % n_groups == 0)
        group = (int32_t)(n_in / n_groups);
    packed->form.group = group;
    if ((n_in - 1) / group + 1 == n_groups)
        return true;
    return part_error(finder, scales, err, "want %d groups of %d for %d inputs",
                      (n_in - 1) / group + 1, group, n_in);
}

static bool find(struct packed *packed, const struct finder *finder, struct err *err)
{
    const struct tensor *g_idx;
    const int64_t n_out = finder->n_out, n_in = finder->n_in;
    if (!part_want(packed, finder, "qweight", PART_I32, 2, -1, n_out, &packed->codes, err))
        return false;
    const int64_t words = packed->codes->dims[0];
    const int64_t bits = words > n_in ? 0 : words * 32 / n_in;
    if ((bits != 2 && bits != 3 && bits != 4 && bits != 8) || words * 32 != bits * n_in)
        return part_error(finder, packed->codes, err,
                          "want %d inputs of 2, 3, 4 or 8 bits in whole words", finder->n_in);
    packed->form.bits = (int32_t)bits;
    if (n_out * bits % 32 != 0)
        return part_error(finder, packed->codes, err, "want zeros of %d outputs in whole words",
                          finder->n_out);
    if (!part_want(packed, finder, "scales", PART_FLOATS, 2, -1, n_out, &packed->scales, err) ||
        !find_group(packed, finder, packed->scales, err) ||
        !part_want(packed, finder, "qzeros", PART_I32, 2, packed->scales->dims[0],
                   n_out * bits / 32, &packed->zeros, err))
        return false;
    packed->form.symmetric = finder->scheme->symmetric && zeros_are_middle(packed);
    if (part_look(finder, "g_idx") == NULL)
        return true;
    return part_want(packed, finder, "g_idx", PART_I32, 1, n_in, 0, &g_idx, err) &&
           part_order(packed, finder, g_idx, err);
}

/* 2, 4 and 8 bits: no code lies across words. */
static void strip_of_words(const struct packed *packed, const uint8_t *column, int32_t n,
                           uint8_t *to)
{
    const size_t n_in = (size_t)packed->form.n_in, n_out = (size_t)packed->form.n_out;
    const int32_t bits = packed->form.bits;
    const size_t per_word = 32 / (size_t)bits;
    for (size_t i = 0; i < n_in; i += per_word)
        for (int32_t r = 0; r < n; r++)
            part_deal_word(part_word(column, i / per_word * n_out + (size_t)r), bits, packed->rank,
                           i, to + (size_t)r * n_in);
}

static void strip_of_bits(const struct packed *packed, const uint8_t *column, int32_t n,
                          uint8_t *to)
{
    const size_t n_in = (size_t)packed->form.n_in, n_out = (size_t)packed->form.n_out;
    const int32_t bits = packed->form.bits;
    for (size_t i = 0; i < n_in; i++) {
        const size_t at = packed->rank == NULL ? i : (size_t)packed->rank[i];
        for (int32_t r = 0; r < n; r++)
            to[(size_t)r * n_in + at] =
                (uint8_t)part_bits(column + 4 * (size_t)r, n_out, i * (size_t)bits, bits);
    }
}

static bool codes(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *out,
                  struct err *err)
{
    (void)err; /* every code is below 2^bits */
    for (int32_t strip = 0; strip < n_rows; strip += STRIP) {
        const int32_t n = n_rows - strip < STRIP ? n_rows - strip : STRIP;
        const uint8_t *column = packed->codes->data + 4 * (size_t)(row_from + strip);
        uint8_t *to = out + (size_t)strip * (size_t)packed->form.n_in;
        if (32 % packed->form.bits == 0)
            strip_of_words(packed, column, n, to);
        else
            strip_of_bits(packed, column, n, to);
    }
    return true;
}

static void scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *to,
                   float *zeros)
{
    const size_t groups = (size_t)part_groups(packed), n_out = (size_t)packed->form.n_out;
    const size_t element = dtype_bytes(packed->scales->dtype);
    float some[STRIP];
    for (size_t g = 0; g < groups; g++)
        for (int32_t strip = 0; strip < n_rows; strip += STRIP) {
            const int32_t n = n_rows - strip < STRIP ? n_rows - strip : STRIP;
            const size_t row = (size_t)(row_from + strip);
            half_widen(some, packed->scales->data + (g * n_out + row) * element,
                       packed->scales->dtype, (size_t)n);
            for (int32_t r = 0; r < n; r++) {
                const size_t at = (size_t)(strip + r) * groups + g;
                to[at] = some[r];
                if (zeros != NULL)
                    zeros[at] = (float)zero_at(packed, g, row + (size_t)r);
            }
        }
}

const struct packing_ops PACKING_OPS_GPTQ = { is_there, find, codes, scales };
