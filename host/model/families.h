/* families.h - what a family's config.json leaves unsaid: one row each. For config.c. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/model/config.h"

enum bias_rule { BIAS_NEVER, BIAS_ALWAYS, BIAS_ASKED /* by bias_key; the MLP by mlp_bias */ };
enum window_rule {
    WINDOW_NONE,
    WINDOW_EVERY,   /* sliding_window holds in every layer */
    WINDOW_UPPER,   /* use_sliding_window; from max_window_layers on, or as layer_types says */
    WINDOW_PATTERN, /* in all but each sliding_window_pattern-th, or as layer_types says */
    WINDOW_NO_ROPE, /* use_sliding_window; in the layers without rope, or as layer_types says */
};
enum rope_rule {
    ROPE_EVERY,   /* one rope in all layers */
    ROPE_LOCAL,   /* layers with a window have one of their own */
    ROPE_SLIDING, /* layers with a window alone */
    ROPE_LISTED,  /* no_rope_layers (1: rope), or all but each no_rope_layer_interval-th */
};
/* Keys that other families' files may have without meaning anything. */
enum family_keys {
    KEYS_GEMMA = 1 << 0,    /* query_pre_attn_scalar, soft caps; embeddings times sqrt(hidden) */
    KEYS_GRANITE = 1 << 1,  /* embedding_, residual_, attention_multiplier, logits_scaling */
    KEYS_COHERE = 1 << 2,   /* logit_scale */
    KEYS_PARALLEL = 1 << 3, /* use_parallel_residual */
};
struct family {
    const char *architecture, *model_type;
    int32_t kv_heads_default;  /* absent num_key_value_heads; 0: n_heads */
    int32_t head_dim_default;  /* absent head_dim; 0: hidden / n_heads */
    int32_t positions_default; /* absent max_position_embeddings */
    bool tied;                 /* absent tie_word_embeddings */
    /* biases */
    enum bias_rule qkv_bias, o_bias, mlp_bias;
    const char *bias_key; /* NULL: attention_bias */
    bool bias_default;
    /* norms */
    enum norm_place norms;
    enum norm_kind norm;
    bool norm_bias, norm_plus_one, sub_norms;
    const char *epsilon_key; /* NULL: rms_norm_eps */
    double epsilon;          /* 0: 1e-6 */
    enum qk_norm qk_norm;
    bool sinks;
    /* tensors */
    enum naming naming;
    bool fused_qkv, fused_gate, plain_mlp;
    const char *act_key, *act; /* NULL: hidden_act, silu */
    bool parallel;             /* always, or by default with KEYS_PARALLEL */
    /* positions */
    enum window_rule window;
    int32_t window_default;  /* absent sliding_window (null is none) */
    int32_t pattern_default; /* absent sliding_window_pattern */
    enum rope_rule rope_rule;
    struct rope_rules rope;
    /* the rest */
    unsigned keys; /* enum family_keys */
    float attend_cap, logit_cap;
};
extern const struct family FAMILIES[];
extern const int32_t N_FAMILIES;
