/* packing_parts.h - what packing.c and the packing_*.c share; nobody else includes it. */
#pragma once
#include "host/format/packing.h"

/* A module being looked up. */
struct finder {
    const struct tensor_dir *dir;
    const struct quant_scheme *scheme;
    const char *module;
    int32_t n_out, n_in;
};
struct packing_ops {
    /* Whether the module has the tensor that makes it one of this packing; cheap, no checks. */
    bool (*is_there)(const struct finder *finder);
    bool (*find)(struct packed *packed, const struct finder *finder, struct err *err);
    /* codes[n_rows][n_in] of rows row_from ..; below 2^bits by construction or by check. */
    bool (*codes)(const struct packed *packed, int32_t row_from, int32_t n_rows, uint8_t *codes,
                  struct err *err);
    /* scales[n_rows][n_groups]; zeros likewise, NULL when symmetric. Finite or not: the caller
     * checks. */
    void (*scales)(const struct packed *packed, int32_t row_from, int32_t n_rows, float *scales,
                   float *zeros);
};
extern const struct packing_ops PACKING_OPS_GPTQ, PACKING_OPS_AWQ_GEMM, PACKING_OPS_AWQ_GEMV,
    PACKING_OPS_CT_PACK, PACKING_OPS_CT_INT, PACKING_OPS_FP8, PACKING_OPS_FP4, PACKING_OPS_BNB4,
    PACKING_OPS_BNB8, PACKING_OPS_HQQ, PACKING_OPS_BITNET;

/* MODULE.SUFFIX, or NULL; *part_find* adds it to the packed matrix's tensors. */
const struct tensor *part_look(const struct finder *finder, const char *suffix);
const struct tensor *part_find(struct packed *packed, const struct finder *finder,
                               const char *suffix);
/* The same, required, of one of the dtypes (a list that ends in NONE) and of the shape; n_dims -1:
 * any shape; a dim of -1: any size. Sizes of the shape that are 0 are refused. */
MUST_USE bool part_want(struct packed *packed, const struct finder *finder, const char *suffix,
                        const enum dtype *dtypes, int32_t n_dims, int64_t dim0, int64_t dim1,
                        const struct tensor **tensor, struct err *err);
/* ERR_FORMAT: "FILE: tensor NAME has shape [..], " and the rest. */
bool part_error(const struct finder *finder, const struct tensor *tensor, struct err *err,
                const char *format, ...) PRINTF_LIKE(4, 5);
extern const enum dtype PART_FLOATS[], PART_I32[], PART_U8[], PART_I8[];

/* A tensor of one element as a float; finite, else ERR_FORMAT. */
MUST_USE bool part_scalar(struct packed *packed, const struct finder *finder, const char *suffix,
                          float *value, struct err *err);
/* A static scale of inputs into packed->act; where there is none inputs stay exact. Positive. */
MUST_USE bool part_input_scale(struct packed *packed, const struct finder *finder,
                               const char *suffix, struct err *err);
/* Scales of rows by blocks: `tensor` holds [n_out / row_block][n_groups] values, one for all when
 * that is one. Checks the count. */
MUST_USE bool part_grid(struct packed *packed, const struct finder *finder,
                        const struct tensor *scales, struct err *err);
/* scales and factor of such a grid. */
void part_grid_scales(const struct packed *packed, int32_t row_from, int32_t n_rows, float *scales);
/* The activation order that g_idx [n_in] means: stable by group, or none. form.group is set. */
MUST_USE bool part_order(struct packed *packed, const struct finder *finder,
                         const struct tensor *g_idx, struct err *err);
static inline int32_t part_groups(const struct packed *packed)
{
    return (packed->form.n_in - 1) / packed->form.group + 1;
}
static inline uint32_t part_word(const uint8_t *words, size_t index)
{
    const uint8_t *b = words + 4 * index;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
/* The codes of a whole word, lowest first, to out[places[first + i]] (places NULL: out[first + i]).
 */
static inline void part_deal_word(uint32_t word, int32_t bits, const int32_t *places, size_t first,
                                  uint8_t *out)
{
    const uint32_t mask = (1u << bits) - 1;
    for (size_t i = 0; i < 32 / (size_t)bits; i++, word >>= bits)
        out[places == NULL ? first + i : (size_t)places[first + i]] = (uint8_t)(word & mask);
}
/* `bits` (1..8) at bit `at` of a little-endian stream of words that are `stride` words apart. */
static inline uint32_t part_bits(const uint8_t *words, size_t stride, size_t at, int32_t bits)
{
    const size_t word = at / 32;
    const uint32_t shift = at % 32;
    uint32_t value = part_word(words, word * stride) >> shift;
    if (shift + (uint32_t)bits > 32)
        value |= part_word(words, (word + 1) * stride) << (32 - shift);
    return value & ((1u << bits) - 1);
}
