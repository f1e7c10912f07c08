/* config.h - what a model is: config.json as one struct of fields, whatever the family.
 *
 * Every number is range-checked here and nowhere else: products of the fields below fit 63 bits,
 * and each dimension an int32. How a family is added: names.h. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/backend/backend.h"
#include "host/base/dtype.h"
#include "host/base/err.h"
#include "host/format/quant_spec.h"
#include "host/model/rope.h"

enum { LAYERS_MAX = 1024, CONFIG_EOS_MAX = 16 };
/* Bounds that no model comes near, small enough that no product below overflows. */
enum { WIDTH_MAX = 1 << 20, EXPERTS_MAX = 1024, EXPERTS_CHOSEN_MAX = 64 };

enum layer_rope { LAYER_ROPE, LAYER_ROPE_LOCAL, LAYER_ROPE_NONE };
struct config_layer {
    int32_t window;       /* a token sees itself and window - 1 before it; 0: everything */
    int32_t kv_group;     /* layers of one window share a group of KV pages */
    int32_t kv_layer;     /* index inside the group */
    bool experts;         /* instead of the MLP */
    enum layer_rope rope; /* config.rope, config.rope_local, no rotation */
};
/* What the tensors of experts are called (names.c). */
enum expert_names {
    EXPERTS_MIXTRAL, /* block_sparse_moe.gate, .experts.N.w1 (gate), w3 (up), w2 (down) */
    EXPERTS_QWEN,    /* mlp.gate, mlp.experts.N.gate_proj, up_proj, down_proj */
    EXPERTS_GPT_OSS, /* mlp.router, and the same */
};
struct config_experts {
    int32_t n, n_chosen;  /* n 0: no layer has experts */
    int32_t width;        /* outputs of gate and of up */
    int32_t shared_width; /* of an expert that every row goes through; 0: there is none */
    enum expert_names names;
    bool transposed; /* tensors of all experts are [experts][inputs][outputs] (fused_experts.h) */
    enum route route;
    bool bias; /* router, gate, up and down */
    enum gate gate;
    float gate_limit; /* GATE_SWIGLU_CLAMPED */
};
/* Norms of q and k before rope: none, per head over head_dim, over all heads of the row. */
enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_ROW };
/* Where the norms of a layer stand, and what their tensors are called (names.c). */
enum norm_place {
    NORMS_PRE,    /* in front of attention and MLP */
    NORMS_GEMMA,  /* in front of and behind both */
    NORMS_GLM,    /* likewise, under other names */
    NORMS_POST,   /* behind both alone */
    NORMS_SHARED, /* one in front of both */
};
/* Names of tensors: "model.layers.N.self_attn...", "gpt_neox.layers.N.attention..." */
enum naming { NAMING_LLAMA, NAMING_NEOX };
struct config {
    char architecture[64]; /* "LlamaForCausalLM" */
    char model_type[32];   /* "llama" */
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, intermediate, vocab;
    enum norm_kind norm;
    float norm_epsilon;
    enum norm_place norms;
    bool norm_bias, norm_plus_one; /* plus one: the stored weight is gain - 1 */
    bool sub_norms;                /* in front of o and down too */
    enum qk_norm qk_norm;
    bool qkv_bias, o_bias, mlp_bias; /* mlp: gate, up and down */
    bool sinks;                      /* a logit a head that takes its share and gives nothing */
    enum naming naming;
    bool fused_qkv, fused_gate; /* stored as one tensor of q|k|v, of gate|up */
    bool plain_mlp;             /* down . act(up . x): no gate */
    bool parallel;              /* attention and MLP both read the layer's input */
    bool tied;                  /* the head is the embedding table */
    enum gate gate;
    struct config_experts experts;
    struct rope_config rope, rope_local; /* local: of the layers that say so */
    float embed_scale, residual_scale, attend_scale,
        logit_scale;                       /* 1; attend: 1 / sqrt(head_dim) */
    float attend_soft_cap, logit_soft_cap; /* 0: off */
    int32_t ctx;                           /* positions by default */
    int32_t ctx_limit;                     /* positions at most */
    enum dtype dtype; /* as the file says; NONE: it does not. Tensors have their own */
    struct quant_spec quant;
    int32_t bos, eos[CONFIG_EOS_MAX], n_eos; /* bos -1: none */
    int32_t n_kv_groups, windows[KV_GROUPS_MAX], group_layers[KV_GROUPS_MAX];
    struct config_layer layers[LAYERS_MAX];
};

/* Parses config.json, either spelling. ERR_UNSUPPORTED: a known or unknown thing that is not done
 * here, by name; ERR_FORMAT: a field is missing, of the wrong type, or out of range (its path is in
 * the text). */
MUST_USE bool config_read(struct config *config, const char *json, size_t length, struct err *err);
/* The quantization of a file of its own (struct hf_folder's `quantize`), where config.json says
 * nothing. `name` is static. */
MUST_USE bool config_read_quantize(struct config *config, const char *name, const char *json,
                                   size_t length, struct err *err);
void config_clear(struct config *config); /* its quantization rules are owned */

struct json_ref;
/* config_experts.c: config->experts and which layers have them, once all else has been read. */
MUST_USE bool config_read_experts(struct config *config, const struct json_ref *root,
                                  struct err *err);
/* Token ids as an integer, a list, or absent: eos_token_id of config.json and
 * generation_config.json. Appends those that are not in the list yet; -1 means none. */
MUST_USE bool config_read_eos(const struct json_ref *root, int32_t vocab, int32_t *eos,
                              int32_t *n_eos, struct err *err);
/* A field error of json.h becomes one of a file: ERR_FORMAT, "file: " before the text. */
void config_file_error(struct err *err, const char *file);
