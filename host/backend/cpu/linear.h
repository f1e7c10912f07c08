/* linear.h - y = W x on the CPU, for every resident weight layout (DESIGN 4, 5).
 *
 * The layout of each part chooses the arithmetic.
 *
 * LAYOUT_ROWS, LAYOUT_CODES: fp32 activations, fp32 FMA; 16 partial sums by input mod 16, each in
 * ascending order, then one fixed tree of additions.
 *
 * LAYOUT_W4_C16, LAYOUT_W8_C16: activations quantized to int8 per (row, chunk) while running. A
 * chunk is min(group, 128) inputs of one weight group; q = round half to even(x * 127 / max|x|),
 * scale = max|x| / 127. Per chunk an exact int32 dot, and acc = fma(dot, scale_x * scale_w, acc)
 * over the chunks in ascending order.
 *
 * LAYOUT_CHUNKS_C16: the same int8 per (row, 128 inputs), whatever the groups; sums of groups in
 * int32, of a chunk and of the chunks in fp32 (linear_kernels.h has the formula). E4M3 codes are
 * multiplied with activations in bf16 (8 bits of each, not of the largest in 128), summed in fp32.
 *
 * A part whose scheme quantizes activations (act_quant.h) has x quantized so first. Where the
 * scheme is int8, the tile layouts share one scale a row in place of the chunks' own. CHUNKS_C16
 * takes the scheme's own codes where products of codes are exact: FP8 with E4M3 (four bits by four,
 * as bf16), NVFP4 with groups of 16 (int8). What other schemes made it takes as LINEAR_SPLIT rows
 * of int8 (or bf16), each of what the one before left.
 *
 * The bits of y[r][o] depend on x[r] and W[o] alone: not on the number of rows, of threads, or on
 * the instruction set. A NaN or infinity in a chunk of x makes the whole of y[r] NaN.
 *
 * Called by the CPU backend (one thread at a time; work is spread over the pool). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/base/pool.h"
#include "host/backend/backend.h"
#include "host/backend/view.h"
#include "host/backend/cpu/isa.h"

struct linear_scratch;
/* Room for products of up to rows_max rows of n_in_max inputs, by n_threads threads with the
 * kernels of `isa` (AUTO is resolved). ERR_MEMORY. Nothing is allocated later. */
MUST_USE bool linear_scratch_open(struct linear_scratch **scratch, enum cpu_isa isa,
                                  int32_t n_threads, int32_t rows_max, int32_t n_in_max,
                                  struct err *err);
void linear_scratch_close(struct linear_scratch *scratch); /* NULL is fine */

/* y[r][0..w->n_out) = W . x[r] + bias for every row r of x. All parts of w, stacked along the
 * outputs, each with its own layout, order and bias. x, y: F32, x.n_cols == w->n_in, y.n_cols ==
 * w->n_out, same n_rows (0 is fine), not overlapping. x is quantized once for all parts that agree
 * in group and order. pool must have the n_threads of scratch. */
void linear_product(struct pool *pool, struct linear_scratch *scratch, const struct weight *w,
                    struct view x, struct view y);

/* The same with rows dealt out to several weights (experts): rows [row_from, row_from + n_rows) of
 * y are w times x[rows[i]] (rows NULL: x[i]); groups follow each other from row 0. All weights have
 * the forms of the first (linear_same_forms). */
struct linear_group {
    const struct weight *w;
    int32_t row_from, n_rows;
};
void linear_product_groups(struct pool *pool, struct linear_scratch *scratch,
                           const struct linear_group *groups, int32_t n_groups, struct view x,
                           const int32_t *rows, struct view y);
/* Whether two weights of one shape want their input in the same forms, part by part. */
bool linear_same_forms(const struct weight *a, const struct weight *b);

/* out[n_in]: row `row` of a part as floats (embedding tables); any layout. order is not applied. */
void linear_weight_row(const struct weight_part *part, int32_t row, float *out);

/* Tile unit (AMX) on or off; on from the start where the machine has it. For tests and benches: the
 * bits are the same either way. Returns what is now set. */
bool linear_scratch_set_amx(struct linear_scratch *scratch, bool on);
/* Likewise vdpbf16ps for E4M3 codes. */
bool linear_scratch_set_bf16(struct linear_scratch *scratch, bool on);
