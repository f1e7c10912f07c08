/* matrix.h - the canonical quantized matrix: where every on-disk packing and every kernel layout
 * meet (DESIGN 5), one tensor at a time.
 *
 *   w[o][order[i]] = scale[o][g(i)] * (value(code[o][i]) - zero[o][g(i)]) - min[o][g(i)]
 *   g(i) = i / group;  order[i] = i where there is no order
 *
 * CODE_INT: value(code) is the code itself, and one of three holds:
 *   symmetric   zero = 2^(bits-1), no min: signed b-bit integers, stored unsigned
 *   zeros       a zero per (row, group), whole or fractional, no min
 *   mins        a min per (row, group), zero = 0: GGUF's asymmetric blocks
 * CODE_TABLE: value(code) = table[code]; no zeros, no mins (`symmetric` is set). NF4, FP4, IQ4,
 * E2M1 have 16 entries, E4M3 has 256. Products and differences are rounded one after the other to
 * fp32. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"
#include "host/base/dtype.h"
#ifdef __cplusplus
extern "C" {
#endif

enum code_kind {
    CODE_INT,   /* unsigned integers of `bits` bits */
    CODE_TABLE, /* indices into a table of 2^bits floats */
};
/* What a matrix is made of, without its numbers. */
struct matrix_form {
    int32_t n_out, n_in;
    enum code_kind kind;
    int32_t bits;   /* 2..8 */
    int32_t group;  /* inputs per scale, 1 or more */
    bool symmetric; /* neither zeros nor mins; always so for CODE_TABLE */
    bool mins;      /* mins in place of zeros; not with symmetric */
};
struct matrix {
    int32_t n_out, n_in;
    enum code_kind kind;
    int32_t bits;  /* 2..8 */
    int32_t group; /* inputs per scale; n_in (or more) for one scale a row; the last may be short */
    int32_t n_groups;     /* ceil(n_in / group) */
    bool symmetric;       /* CODE_INT: every zero is 2^(bits-1) */
    uint8_t *codes;       /* [n_out][n_in], owned; below 2^bits */
    float *scales;        /* [n_out][n_groups], owned */
    float *zeros;         /* [n_out][n_groups], owned; NULL when symmetric or with mins */
    float *mins;          /* [n_out][n_groups], owned; or NULL */
    const float *table;   /* CODE_TABLE: [2^bits], borrowed; set by the caller after init */
    const int32_t *order; /* [n_in] activation order, a permutation: code i is of input order[i];
                             borrowed; NULL: code i is of input i */
};
/* Integers with zeros unless symmetric; no mins, table or order. Codes, scales (and zeros)
 * uninitialized. Checks the arguments against overflow. */
MUST_USE bool matrix_init(struct matrix *matrix, int32_t n_out, int32_t n_in, int32_t bits,
                          int32_t group, bool symmetric, struct err *err);
/* The same for any form. */
MUST_USE bool matrix_init_form(struct matrix *matrix, const struct matrix_form *form,
                               struct err *err);
void matrix_clear(struct matrix *matrix);

/* Round to nearest, per group of `matrix->group` inputs (Jacob et al. 2018, eq. 1-3).
 *   symmetric:  scale = max|w| / (2^(bits-1) - 1), code = clamp(round(w / scale)) + 2^(bits-1)
 *   asymmetric: range [min(w,0), max(w,0)], scale = range / (2^bits - 1), integer zero point
 * round is half to even. Scales are rounded up to what the resident layouts store, before the codes
 * are chosen: an fp16 value times a power of two common to the row (matrix_scale_parts), hence
 * packing loses nothing, and |w - dequantized| <= scale / 2 for every weight (up to float rounding
 * of w / scale). A group of zeros gets scale 0, codes equal to its zero. Any finite floats will do,
 * subnormal ones and FLT_MAX included. Rows [row_from, row_to) of `matrix` from w:
 * [row_to - row_from][n_in] floats, all finite (else ERR_FORMAT naming the row; what was written so
 * far stays). Pure per row: callers may split rows over threads. 3 to 5 GB/s of floats a core in
 * plain SSE2 (asymmetric groups of 32: 1.5; Xeon with AMX, 2026). */
MUST_USE bool matrix_quantize_rows(struct matrix *matrix, const float *w, int32_t row_from,
                                   int32_t row_to, struct err *err);
/* out[n_in] floats of one row, by input (order undone). */
void matrix_dequantize_row(const struct matrix *matrix, int32_t row, float *out);
/* The power of two by which the layouts divide the scales of a row, to keep them as fp16: the
 * largest lands in [128, 256), or below in rows of subnormal floats (no factor is under 2^-125).
 * True when scales[row][g] / *row_factor is exactly an fp16 value for every g: always so after
 * matrix_quantize_rows. False for foreign scales that have more than 11 bits or are spread over
 * more than 31 binades (they round when packed), or are not finite (factor 1). A row of zero scales
 * has factor 1. */
MUST_USE bool matrix_scale_parts(const struct matrix *matrix, int32_t row, float *row_factor);
#ifdef __cplusplus
}
#endif
