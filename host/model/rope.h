/* rope.h - rotary position embedding: what config.json says about it, and the frequencies.
 *
 * Su et al. 2021 (RoPE); Chen et al. 2023 (linear); Peng et al. 2023 (YaRN, arXiv 2309.00071);
 * Llama 3.1's scheme. Arithmetic follows transformers' modeling_rope_utils in float32, because the
 * rounding of a frequency is multiplied by the position. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/base/json.h"

enum rope_kind {
    ROPE_DEFAULT,
    ROPE_LINEAR,  /* frequencies / factor */
    ROPE_DYNAMIC, /* as default up to `original` positions; beyond them theta would depend on the
                     sequence's length, which cached keys cannot follow: refused */
    ROPE_LLAMA3,  /* low frequencies / factor, a ramp between */
    ROPE_YARN,    /* likewise, and cos and sin are scaled */
};
struct rope_config {
    enum rope_kind kind;
    double theta;
    int32_t dim;      /* features rotated: head_dim */
    double factor;    /* all but default */
    int32_t original; /* positions the model was first trained with: llama3, yarn, dynamic */
    double low_freq_factor, high_freq_factor;    /* llama3 */
    double beta_fast, beta_slow;                 /* yarn */
    double attention_factor, mscale, mscale_all; /* yarn; 0: not given */
    bool truncate;                               /* yarn */
};
const char *rope_name(enum rope_kind kind);
/* `root` of config.json: rope_parameters (transformers 5) or rope_theta and rope_scaling (before).
 * ERR_UNSUPPORTED by name for other types. */
MUST_USE bool rope_read(struct rope_config *rope, const struct json_ref *root, int32_t head_dim,
                        int32_t max_positions, struct err *err);
/* Positions that this kind is good for: by default, and at most (--ctx may ask for as many). */
void rope_positions(const struct rope_config *rope, int32_t max_positions, int32_t *usual,
                    int32_t *most);
/* inv_freq[dim / 2]; *scale: what cos and sin are multiplied by. */
void rope_frequencies(const struct rope_config *rope, float *inv_freq, float *scale);
