/* act_quant.h - how a checkpoint's scheme quantizes what its weights are multiplied with.
 *
 * Some checkpoints were made for quantized activations (W8A8, FP8, NVFP4, BitNet): their weights
 * say so (struct weight_part). The backends do it unless the arithmetic is exact. Every scheme
 * works on one row at a time, so a row's bits do not depend on its company.
 *
 *   INT8_TOKEN   s = max|x| / 127.5 of the row          q = clamp(rne(x / s), -128, 127)   x' = q s
 *   BITNET       s = 127 / max(max|x|, 1e-5)            q = clamp(rne(x * s), -128, 127)   x' = q /
 * s FP8_TOKEN    s = max|x| / 448 of the row            q = e4m3(x / s)                    x' = q s
 *   FP8_TENSOR   s = `scale`, from the file             q = e4m3(x / s), saturating        x' = q s
 *   FP8_BLOCK    s = max|x| / 448 of 128 inputs         q = e4m3(x / s)                    x' = q s
 *   NVFP4        s = e4m3(G max|x| / 6) / G of 16 inputs, G = `scale` from the file
 *                                                       q = e2m1(x / s), saturating        x' = q s
 *   LLM_INT8     |x| >= `scale` (6) stays as it is; the rest of the row:
 *                s = max|x| / 127                       q = rne(x * 127 / max|x|)          x' = q s
 *
 * rne: to nearest, ties to even; e4m3 and e2m1 round likewise. A row (or group) of zeros gives
 * zeros; one with a NaN or an infinity gives NaNs in INT8_TOKEN and BITNET, where it has no scale.
 * Sources: compressed-tensors (calculate_qparams, fake_quantize), the BitNet b1.58 report and its
 * layers in transformers, Dettmers et al. 2022 (LLM.int8, outliers by element here: by column of
 * the batch would make a row depend on others). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/format/act_scheme.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { ACT_FP8_GROUP = 128, ACT_NVFP4_GROUP = 16, ACT_FP8_MOST = 448 };
/* "int8 per token", for inspect and messages. */
const char *act_scheme_name(enum act_scheme scheme);
static inline bool act_is_int8(enum act_scheme scheme)
{
    return scheme == ACT_INT8_TOKEN || scheme == ACT_BITNET;
}
/* Whether two weights may share one quantized input. */
static inline bool act_same(const struct act_quant *a, const struct act_quant *b)
{
    return a->scheme == b->scheme && a->scale == b->scale;
}
/* out[n] = x' of x[n]; may be the same memory. ACT_EXACT copies. */
void act_quantize(const struct act_quant *act, const float *x, int32_t n, float *out);
/* INT8_TOKEN and BITNET: the codes, and what one code stands for (x' = q * *scale; BITNET's
 * division by s becomes a product with 1 / s: up to one unit in the last place from x'). *scale is
 * NaN and q zero for a row that is not finite. */
void act_quantize_int8(const struct act_quant *act, const float *x, int32_t n, int8_t *q,
                       float *scale);
#ifdef __cplusplus
}
#endif
