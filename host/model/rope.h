/* rope.h - rotary position embedding: what config.json says about it, and the frequencies.
 *
 * Su et al. 2021 (RoPE); Chen et al. 2023 (linear); Peng et al. 2023 (YaRN, arXiv 2309.00071);
 * Ding et al. 2024 (LongRoPE, arXiv 2402.13753); Llama 3.1's scheme. Arithmetic follows
 * transformers' modeling_rope_utils in float32, because the rounding of a frequency is multiplied
 * by the position. */
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
    ROPE_LONG,    /* a factor for each pair: one list for sequences of at most `original` tokens,
                     another, from the first token on, for longer ones; cos and sin are scaled */
};
enum { ROPE_PAIRS_MAX = 512, ROPE_VARIANTS_MAX = 2 };
struct rope_config {
    enum rope_kind kind;
    double theta;
    int32_t dim;      /* features rotated: the first of each head */
    bool interleaved; /* pairs (2i, 2i + 1), not (i, i + dim / 2) */
    double factor;    /* all but default */
    int32_t original; /* positions the model was first trained with: llama3, yarn, dynamic, long */
    double low_freq_factor, high_freq_factor;         /* llama3 */
    double beta_fast, beta_slow;                      /* yarn */
    double attention_factor, mscale, mscale_all;      /* yarn; long: the first; 0: not given */
    bool truncate;                                    /* yarn */
    float factors[ROPE_VARIANTS_MAX][ROPE_PAIRS_MAX]; /* long: short ones, long ones */
};
/* What a family says about its rope. */
struct rope_rules {
    double theta; /* absent rope_theta; 0: 10000 */
    double
        partial; /* absent partial_rotary_factor; 0: whole heads, and other factors are refused */
    const char *theta_key,
        *partial_key; /* more names of these two beside the dictionary, or NULL */
    bool interleaved;
    bool yarn_is_long; /* "su" and "yarn" are early names of longrope */
    bool per_layer;    /* a dictionary per layer type is allowed */
};
enum rope_layers { ROPE_LAYERS_FULL, ROPE_LAYERS_SLIDING };
const char *rope_name(enum rope_kind kind);
/* `root` of config.json: rope_parameters (transformers 5) or rope_theta and rope_scaling (before).
 * `layers`: whose part of a dictionary per layer type; in flat spelling those of SLIDING have
 * rope_local_base_freq and nothing else. ERR_UNSUPPORTED by name for other types. */
MUST_USE bool rope_read(struct rope_config *rope, const struct json_ref *root,
                        const struct rope_rules *rules, enum rope_layers layers, int32_t head_dim,
                        int32_t max_positions, struct err *err);
/* Positions that this kind is good for: by default, and at most (--ctx may ask for as many). */
void rope_positions(const struct rope_config *rope, int32_t max_positions, int32_t *usual,
                    int32_t *most);
/* Sequences of more tokens have other frequencies, from their first token on; 0: none have. */
int32_t rope_border(const struct rope_config *rope);
static inline int32_t rope_variants(const struct rope_config *rope)
{
    return rope_border(rope) > 0 ? ROPE_VARIANTS_MAX : 1;
}
/* inv_freq[rope_variants][dim / 2]; *scale: what cos and sin are multiplied by. */
void rope_frequencies(const struct rope_config *rope, float *inv_freq, float *scale);
