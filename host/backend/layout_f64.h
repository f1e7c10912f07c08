/* layout_f64.h - layout F64, what every CUDA kernel reads: the index algebra, for host and kernels.
 *
 * A unit is 16 output rows x 128 inputs with its scales and zeros; a block is the four units of a
 * strip of 64 rows; blocks of a strip follow each other along the inputs, strips along the rows.
 * n_out is padded to 64 and n_in to 128, with scale 0 (and code = zero) in the padding.
 *
 *   unit = codes (int4: 1024 B = 2 atoms of 16 x 64; int8: 2048 B = 4 atoms of 16 x 32)
 *        | scales fp16 [128 / group][16]      row r of the unit at 2 (r % 8) + r / 8
 *        | zeros  fp16 [128 / group][16]      the same order; absent when symmetric
 *
 *   w[r][k] = (code - zero) * scale * row_factor[r]      symmetric: zero = 8 or 128
 *   table (16 entries fp16): w = table[code] * scale * row_factor */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    F64_UNIT_ROWS = 16,
    F64_STRIP_ROWS = 64,
    F64_UNIT_COLS = 128, /* inputs of a unit: one quantization group of 128 */
    F64_ATOM_BYTES = 512,
};
struct f64_kind {
    int32_t bits;          /* 4 or 8: what a code takes; 2 and 3 bits lie in 4, 5 to 7 in 8 */
    int32_t group;         /* 32, 64 or 128: larger ones repeat their scale */
    bool zeros;            /* a zero per (row, group): whole numbers or fractions that fp16 holds */
    bool fractions;        /* some zero is not a whole number: one more subtraction */
    const uint16_t *table; /* 16 fp16 values (nf4, fp4, iq4) in host memory: launchers pass them by
                              value; or NULL: integers */
};
static inline int32_t f64_pad(int32_t n, int32_t to)
{
    return (n + to - 1) / to * to;
}
static inline int32_t f64_blocks(int32_t n_in)
{
    return f64_pad(n_in, F64_UNIT_COLS) / F64_UNIT_COLS;
}
static inline int32_t f64_strips(int32_t n_out)
{
    return f64_pad(n_out, F64_STRIP_ROWS) / F64_STRIP_ROWS;
}
static inline int32_t f64_code_bytes(int32_t bits)
{
    return F64_UNIT_ROWS * F64_UNIT_COLS * bits / 8;
}
static inline int32_t f64_unit_bytes(struct f64_kind kind)
{
    return f64_code_bytes(kind.bits) + F64_UNIT_COLS / kind.group * 32 * (kind.zeros ? 2 : 1);
}
/* Where unit (tile of 16 rows, block of 128 inputs) starts. */
static inline size_t f64_unit_at(struct f64_kind kind, int32_t n_in, int32_t tile, int32_t block)
{
    return (((size_t)(tile / 4) * (size_t)f64_blocks(n_in) + (size_t)block) * 4 +
            (size_t)(tile % 4)) *
           (size_t)f64_unit_bytes(kind);
}
static inline size_t f64_bytes(struct f64_kind kind, int32_t n_out, int32_t n_in)
{
    return (size_t)f64_strips(n_out) * (size_t)f64_blocks(n_in) * 4 * (size_t)f64_unit_bytes(kind);
}
