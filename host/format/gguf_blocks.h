/* gguf_blocks.h - the ONLY place where GGUF's block types are described: the scalar truth.
 *
 * A row is a string of blocks, and each block has its own scales. All types fit one formula, that
 * of the canonical matrix (matrix.h), with `group` neighbours sharing scale and min:
 *
 *   w = scale * (value(code) - zero) - min        value: the code itself, or table[code]
 *
 * d, dmin, m: fp16. "j, j + 16": byte j holds element j in its low and j + 16 in its high nibble.
 *
 *   type     elements  bytes  of a block, in order                            scale    min
 *   Q4_0        32      18    d  qs[16]: j, j + 16                            d
 *   Q4_1        32      20    d  m  qs[16]                                    d        -m
 *   Q5_0        32      22    d  qh[4]: fifth bit of element i in bit i       d
 *                             qs[16]
 *   Q5_1        32      24    d  m  qh[4]  qs[16]                             d        -m
 *   Q8_0        32      34    d  qs[32]: int8                                 d
 *   Q2_K       256      84    scales[16]: 4 + 4 bits  qs[64]: planes          d * low  dmin * high
 *                             d  dmin
 *   Q3_K       256     110    hmask[32]: third bits  qs[64]: planes           d * (sc - 32)
 *                             scales[12]  d
 *   Q4_K       256     144    d  dmin  scales[12]  qs[128]                    d * sc   dmin * mn
 *   Q5_K       256     176    d  dmin  scales[12]  qh[32]  qs[128]            d * sc   dmin * mn
 *   Q6_K       256     210    ql[128]  qh[64]  scales[16]: int8  d            d * sc
 *   IQ4_NL      32      18    d  qs[16]: j, j + 16, by the table              d
 *   IQ4_XS     256     136    d  scales_h[2]  scales_l[4]  qs[128]            d * (ls - 32)
 *   MXFP4       32      17    e: exponent  qs[16]: j, j + 16, by a table      2^(e - 128)
 *   TQ1_0      256      54    qs[48]  qh[4]: five, four base-3 digits a byte  d
 *   TQ2_0      256      66    qs[64]: planes  d                               d
 *
 * "planes": 32 bytes hold 128 elements, plane p (bits 2p, 2p + 1) the elements 32p to 32p + 31.
 * Source: ggml-org/llama.cpp, ggml-common.h and gguf-py/gguf/quants.py; the order of float
 * operations is the latter's, so the results are equal bit for bit. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/dtype.h"

enum { GGUF_BLOCK_MAX = 256, GGUF_BLOCK_GROUPS_MAX = 16 };

struct gguf_blocks {
    int32_t bits;  /* of a code: 2 to 8 */
    int32_t group; /* elements that share scale and min: 16, 32, 256 */
    float zero;    /* 0 where there is a min or a table */
    bool has_mins;
    const float *table; /* [16], or NULL: the code is the value */
};
/* NULL when the type is not one of blocks. */
const struct gguf_blocks *gguf_blocks_of(enum dtype dtype);

/* `n` elements, whole blocks, to their parts: codes[n], scales[n / group], mins[n / group] (not
 * touched where the type has none). Any bytes will do; scales may come out as NaN or Inf. */
void gguf_unpack(enum dtype dtype, const void *blocks, size_t n, uint8_t *codes, float *scales,
                 float *mins);
/* `n` elements to floats; plain types (F32, F16, BF16, ...) too. */
void gguf_dequantize(float *out, const void *blocks, enum dtype dtype, size_t n);
