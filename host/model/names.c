/* names.c - the table of tensor names. Pure. */
#include "host/model/names.h"

#include <string.h>

#define L "model.layers.%d."
#define X "gpt_neox.layers.%d."
/* A vector of a layer; a matrix of a layer that is a tensor of its own; one of a fused tensor. */
#define NORM(hf_, slot_, extent_, need_)                                                           \
    {                                                                                              \
        hf_, true, slot_, 0, extent_, EXTENT_ONE, need_, BIAS_NORM, FUSED_NO                       \
    }
#define PART(hf_, slot_, part_, out_, in_, need_, bias_)                                           \
    {                                                                                              \
        hf_, true, slot_, part_, out_, in_, need_, bias_, FUSED_NO                                 \
    }
#define FUSED(hf_, slot_, part_, out_, need_, bias_, fused_)                                       \
    {                                                                                              \
        hf_, true, slot_, part_, out_, EXTENT_HIDDEN, need_, bias_, fused_                         \
    }
#define TABLE(hf_, slot_, need_)                                                                   \
    {                                                                                              \
        hf_, false, slot_, 0, EXTENT_VOCAB, EXTENT_HIDDEN, need_, BIAS_NONE, FUSED_NO              \
    }
#define LAST(hf_, need_)                                                                           \
    {                                                                                              \
        hf_, false, VECTOR_FINAL_NORM, 0, EXTENT_HIDDEN, EXTENT_ONE, need_, BIAS_NORM, FUSED_NO    \
    }
const struct name NAMES[] = {
    TABLE("model.embed_tokens", MATRIX_EMBED, NEED_LLAMA),
    NORM(L "input_layernorm", VECTOR_ATTN_NORM, EXTENT_HIDDEN, NEED_LLAMA | NEED_IN_FRONT),
    PART(L "self_attn.q_proj", MATRIX_QKV, 0, EXTENT_Q, EXTENT_HIDDEN, NEED_LLAMA | NEED_QKV_APART,
         BIAS_QKV),
    PART(L "self_attn.k_proj", MATRIX_QKV, 1, EXTENT_KV, EXTENT_HIDDEN, NEED_LLAMA | NEED_QKV_APART,
         BIAS_QKV),
    PART(L "self_attn.v_proj", MATRIX_QKV, 2, EXTENT_KV, EXTENT_HIDDEN, NEED_LLAMA | NEED_QKV_APART,
         BIAS_QKV),
    FUSED(L "self_attn.qkv_proj", MATRIX_QKV, 0, EXTENT_Q, NEED_LLAMA | NEED_QKV_FUSED, BIAS_QKV,
          FUSED_QKV),
    FUSED(L "self_attn.qkv_proj", MATRIX_QKV, 1, EXTENT_KV, NEED_LLAMA | NEED_QKV_FUSED, BIAS_QKV,
          FUSED_QKV),
    FUSED(L "self_attn.qkv_proj", MATRIX_QKV, 2, EXTENT_KV, NEED_LLAMA | NEED_QKV_FUSED, BIAS_QKV,
          FUSED_QKV),
    NORM(L "self_attn.q_norm", VECTOR_Q_NORM, EXTENT_HEAD_DIM, NEED_QK_NORM),
    NORM(L "self_attn.k_norm", VECTOR_K_NORM, EXTENT_HEAD_DIM, NEED_QK_NORM),
    NORM(L "self_attn.q_norm", VECTOR_Q_NORM, EXTENT_Q, NEED_QK_NORM_ROW),
    NORM(L "self_attn.k_norm", VECTOR_K_NORM, EXTENT_KV, NEED_QK_NORM_ROW),
    NORM(L "self_attn.attn_sub_norm", VECTOR_O_NORM, EXTENT_Q, NEED_SUB_NORMS),
    NORM(L "self_attn.sinks", VECTOR_SINKS, EXTENT_HEADS, NEED_SINKS),
    PART(L "self_attn.o_proj", MATRIX_O, 0, EXTENT_HIDDEN, EXTENT_Q, NEED_LLAMA, BIAS_O),
    NORM(L "post_attention_layernorm", VECTOR_POST_ATTN_NORM, EXTENT_HIDDEN, NEED_GEMMA),
    NORM(L "post_attention_layernorm", VECTOR_POST_ATTN_NORM, EXTENT_HIDDEN, NEED_POST),
    NORM(L "post_self_attn_layernorm", VECTOR_POST_ATTN_NORM, EXTENT_HIDDEN, NEED_GLM),
    NORM(L "post_attention_layernorm", VECTOR_MLP_NORM, EXTENT_HIDDEN, NEED_LLAMA | NEED_PRE),
    NORM(L "post_attention_layernorm", VECTOR_MLP_NORM, EXTENT_HIDDEN, NEED_GLM),
    NORM(L "pre_feedforward_layernorm", VECTOR_MLP_NORM, EXTENT_HIDDEN, NEED_GEMMA),
    PART(L "mlp.gate_proj", MATRIX_GATE_UP, 0, EXTENT_MLP, EXTENT_HIDDEN,
         NEED_LLAMA | NEED_GATE_APART, BIAS_MLP),
    PART(L "mlp.up_proj", MATRIX_GATE_UP, 1, EXTENT_MLP, EXTENT_HIDDEN,
         NEED_LLAMA | NEED_GATE_APART, BIAS_MLP),
    FUSED(L "mlp.gate_up_proj", MATRIX_GATE_UP, 0, EXTENT_MLP, NEED_LLAMA | NEED_GATE_FUSED,
          BIAS_MLP, FUSED_GATE),
    FUSED(L "mlp.gate_up_proj", MATRIX_GATE_UP, 1, EXTENT_MLP, NEED_LLAMA | NEED_GATE_FUSED,
          BIAS_MLP, FUSED_GATE),
    PART(L "mlp.c_fc", MATRIX_GATE_UP, 0, EXTENT_MLP, EXTENT_HIDDEN, NEED_LLAMA | NEED_PLAIN_MLP,
         BIAS_MLP),
    NORM(L "mlp.ffn_sub_norm", VECTOR_DOWN_NORM, EXTENT_MLP, NEED_SUB_NORMS),
    PART(L "mlp.down_proj", MATRIX_DOWN, 0, EXTENT_HIDDEN, EXTENT_MLP, NEED_LLAMA | NEED_GATED,
         BIAS_MLP),
    PART(L "mlp.c_proj", MATRIX_DOWN, 0, EXTENT_HIDDEN, EXTENT_MLP, NEED_LLAMA | NEED_PLAIN_MLP,
         BIAS_MLP),
    NORM(L "post_feedforward_layernorm", VECTOR_POST_MLP_NORM, EXTENT_HIDDEN, NEED_GEMMA),
    NORM(L "post_feedforward_layernorm", VECTOR_POST_MLP_NORM, EXTENT_HIDDEN, NEED_POST),
    NORM(L "post_mlp_layernorm", VECTOR_POST_MLP_NORM, EXTENT_HIDDEN, NEED_GLM),
    PART(L "block_sparse_moe.gate", MATRIX_ROUTER, 0, EXTENT_EXPERTS, EXTENT_HIDDEN, NEED_MIXTRAL,
         BIAS_NONE),
    PART(L "block_sparse_moe.experts.%d.w1", MATRIX_EXPERT_GATE_UP, 0, EXTENT_EXPERT, EXTENT_HIDDEN,
         NEED_MIXTRAL, BIAS_NONE),
    PART(L "block_sparse_moe.experts.%d.w3", MATRIX_EXPERT_GATE_UP, 1, EXTENT_EXPERT, EXTENT_HIDDEN,
         NEED_MIXTRAL, BIAS_NONE),
    PART(L "block_sparse_moe.experts.%d.w2", MATRIX_EXPERT_DOWN, 0, EXTENT_HIDDEN, EXTENT_EXPERT,
         NEED_MIXTRAL, BIAS_NONE),
    PART(L "mlp.gate", MATRIX_ROUTER, 0, EXTENT_EXPERTS, EXTENT_HIDDEN, NEED_QWEN, BIAS_NONE),
    PART(L "mlp.router", MATRIX_ROUTER, 0, EXTENT_EXPERTS, EXTENT_HIDDEN, NEED_GPT_OSS,
         BIAS_EXPERTS),
    PART(L "mlp.experts.%d.gate_proj", MATRIX_EXPERT_GATE_UP, 0, EXTENT_EXPERT, EXTENT_HIDDEN,
         NEED_MODULES, BIAS_EXPERTS),
    PART(L "mlp.experts.%d.up_proj", MATRIX_EXPERT_GATE_UP, 1, EXTENT_EXPERT, EXTENT_HIDDEN,
         NEED_MODULES, BIAS_EXPERTS),
    PART(L "mlp.experts.%d.down_proj", MATRIX_EXPERT_DOWN, 0, EXTENT_HIDDEN, EXTENT_EXPERT,
         NEED_MODULES, BIAS_EXPERTS),
    PART(L "mlp.shared_expert.gate_proj", MATRIX_SHARED_GATE_UP, 0, EXTENT_SHARED, EXTENT_HIDDEN,
         NEED_SHARED, BIAS_NONE),
    PART(L "mlp.shared_expert.up_proj", MATRIX_SHARED_GATE_UP, 1, EXTENT_SHARED, EXTENT_HIDDEN,
         NEED_SHARED, BIAS_NONE),
    PART(L "mlp.shared_expert.down_proj", MATRIX_SHARED_DOWN, 0, EXTENT_HIDDEN, EXTENT_SHARED,
         NEED_SHARED, BIAS_NONE),
    PART(L "mlp.shared_expert_gate", MATRIX_SHARED_ROUTER, 0, EXTENT_ONE, EXTENT_HIDDEN,
         NEED_SHARED, BIAS_NONE),
    LAST("model.norm", NEED_LLAMA),
    TABLE("lm_head", MATRIX_HEAD, NEED_LLAMA | NEED_UNTIED),

    TABLE("gpt_neox.embed_in", MATRIX_EMBED, NEED_NEOX),
    NORM(X "input_layernorm", VECTOR_ATTN_NORM, EXTENT_HIDDEN, NEED_NEOX),
    FUSED(X "attention.query_key_value", MATRIX_QKV, 0, EXTENT_Q, NEED_NEOX, BIAS_QKV, FUSED_HEADS),
    FUSED(X "attention.query_key_value", MATRIX_QKV, 1, EXTENT_KV, NEED_NEOX, BIAS_QKV,
          FUSED_HEADS),
    FUSED(X "attention.query_key_value", MATRIX_QKV, 2, EXTENT_KV, NEED_NEOX, BIAS_QKV,
          FUSED_HEADS),
    PART(X "attention.dense", MATRIX_O, 0, EXTENT_HIDDEN, EXTENT_Q, NEED_NEOX, BIAS_O),
    NORM(X "post_attention_layernorm", VECTOR_MLP_NORM, EXTENT_HIDDEN, NEED_NEOX),
    PART(X "mlp.dense_h_to_4h", MATRIX_GATE_UP, 0, EXTENT_MLP, EXTENT_HIDDEN, NEED_NEOX, BIAS_MLP),
    PART(X "mlp.dense_4h_to_h", MATRIX_DOWN, 0, EXTENT_HIDDEN, EXTENT_MLP, NEED_NEOX, BIAS_MLP),
    LAST("gpt_neox.final_layer_norm", NEED_NEOX),
    TABLE("embed_out", MATRIX_HEAD, NEED_NEOX | NEED_UNTIED),
};
#undef L
#undef X
const int32_t N_NAMES = sizeof NAMES / sizeof *NAMES;

int32_t name_extent(const struct config *config, enum extent extent)
{
    switch (extent) {
    case EXTENT_ONE:
        return 1;
    case EXTENT_HIDDEN:
        return config->hidden;
    case EXTENT_Q:
        return config->n_heads * config->head_dim;
    case EXTENT_KV:
        return config->n_kv_heads * config->head_dim;
    case EXTENT_HEAD_DIM:
        return config->head_dim;
    case EXTENT_MLP:
        return config->intermediate;
    case EXTENT_VOCAB:
        return config->vocab;
    case EXTENT_HEADS:
        return config->n_heads;
    case EXTENT_EXPERTS:
        return config->experts.n;
    case EXTENT_EXPERT:
        return config->experts.width;
    case EXTENT_SHARED:
        return config->experts.shared_width;
    }
    return 0;
}

static unsigned norm_needs(enum norm_place norms)
{
    switch (norms) {
    case NORMS_PRE:
        return NEED_PRE | NEED_IN_FRONT;
    case NORMS_GEMMA:
        return NEED_GEMMA | NEED_IN_FRONT;
    case NORMS_GLM:
        return NEED_GLM | NEED_IN_FRONT;
    case NORMS_POST:
        return NEED_POST;
    case NORMS_SHARED:
        return NEED_IN_FRONT;
    }
    return 0;
}

static unsigned mlp_needs(const struct config *config, bool has_experts)
{
    const struct config_experts *experts = &config->experts;
    if (has_experts)
        return (experts->names == EXPERTS_MIXTRAL ? NEED_MIXTRAL
                : experts->names == EXPERTS_QWEN  ? NEED_QWEN | NEED_MODULES
                                                  : NEED_GPT_OSS | NEED_MODULES) |
               (experts->shared_width > 0 ? NEED_SHARED : 0);
    if (config->plain_mlp)
        return NEED_PLAIN_MLP;
    return NEED_GATED | (config->fused_gate ? NEED_GATE_FUSED : NEED_GATE_APART);
}

bool name_needed(const struct config *config, const struct name *name, int32_t l)
{
    unsigned have = norm_needs(config->norms);
    have |= mlp_needs(config, name->in_layer && config->layers[l].experts);
    have |= config->naming == NAMING_NEOX ? NEED_NEOX : NEED_LLAMA;
    have |= config->tied ? 0 : NEED_UNTIED;
    have |= config->qk_norm == QK_NORM_HEAD ? NEED_QK_NORM : 0;
    have |= config->qk_norm == QK_NORM_ROW ? NEED_QK_NORM_ROW : 0;
    have |= config->fused_qkv ? NEED_QKV_FUSED : NEED_QKV_APART;
    have |= config->sub_norms ? NEED_SUB_NORMS : 0;
    have |= config->sinks ? NEED_SINKS : 0;
    return (name->need & ~have) == 0;
}

struct row_map name_rows(const struct config *config, const struct name *name)
{
    const int32_t q = name_extent(config, EXTENT_Q), kv = name_extent(config, EXTENT_KV);
    const int32_t n = name_extent(config, name->n_out), dim = config->head_dim;
    switch (name->fused) {
    case FUSED_NO:
        break;
    case FUSED_QKV:
        return (struct row_map){ .n_stored = q + 2 * kv,
                                 .from = name->part == 0 ? 0 : q + (name->part - 1) * kv,
                                 .run = n,
                                 .stride = n };
    case FUSED_HEADS: /* as many KV heads as heads */
        return (struct row_map){
            .n_stored = 3 * q, .from = name->part * dim, .run = dim, .stride = 3 * dim
        };
    case FUSED_GATE:
        return (struct row_map){ .n_stored = 2 * n, .from = name->part * n, .run = n, .stride = n };
    }
    return (struct row_map){ .n_stored = n, .run = n, .stride = n };
}

bool name_has_bias(const struct config *config, const struct name *name)
{
    switch (name->bias) {
    case BIAS_NONE:
        return false;
    case BIAS_QKV:
        return config->qkv_bias;
    case BIAS_O:
        return config->o_bias;
    case BIAS_MLP:
        return config->mlp_bias;
    case BIAS_NORM:
        return config->norm_bias;
    case BIAS_EXPERTS:
        return config->experts.bias;
    }
    return false;
}

const char *slot_name(enum matrix_slot slot)
{
    switch (slot) {
    case MATRIX_EMBED:
        return "embed";
    case MATRIX_HEAD:
        return "head";
    case MATRIX_QKV:
        return "qkv";
    case MATRIX_O:
        return "o";
    case MATRIX_GATE_UP:
        return "gate_up";
    case MATRIX_DOWN:
        return "down";
    case MATRIX_ROUTER:
        return "router";
    case MATRIX_EXPERT_GATE_UP:
        return "experts.gate_up";
    case MATRIX_EXPERT_DOWN:
        return "experts.down";
    case MATRIX_SHARED_GATE_UP:
        return "shared.gate_up";
    case MATRIX_SHARED_DOWN:
        return "shared.down";
    case MATRIX_SHARED_ROUTER:
        return "shared.router";
    case VECTOR_ATTN_NORM:
        return "attn_norm";
    case VECTOR_MLP_NORM:
        return "mlp_norm";
    case VECTOR_FINAL_NORM:
        return "final_norm";
    case VECTOR_SINKS:
        return "sinks";
    case VECTOR_Q_NORM:
        return "q_norm";
    case VECTOR_K_NORM:
        return "k_norm";
    case VECTOR_O_NORM:
        return "o_norm";
    case VECTOR_DOWN_NORM:
        return "down_norm";
    case VECTOR_POST_ATTN_NORM:
        return "post_attn_norm";
    case VECTOR_POST_MLP_NORM:
        return "post_mlp_norm";
    }
    return "?";
}

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), n = strlen(end);
    return length >= n && strcmp(text + length - n, end) == 0;
}

const char *name_tied_head(const struct config *config)
{
    return config->naming == NAMING_NEOX ? "embed_out.weight" : "lm_head.weight";
}

bool name_is_harmless(const struct config *config, const char *tensor)
{
    if (ends_with(tensor, "rotary_emb.inv_freq"))
        return true;
    /* Masks of causal attention that GPT-NeoX once stored. */
    if (config->naming == NAMING_NEOX &&
        (ends_with(tensor, ".attention.bias") || ends_with(tensor, ".attention.masked_bias")))
        return true;
    /* Scales for keys and values of 8 bits: ours have 16 or 32. */
    if (config->quant.method != QUANT_NONE &&
        (ends_with(tensor, ".k_scale") || ends_with(tensor, ".v_scale") ||
         ends_with(tensor, ".q_scale") || ends_with(tensor, ".kv_scale") ||
         ends_with(tensor, ".prob_output_scale")))
        return true;
    return config->tied && strcmp(tensor, name_tied_head(config)) == 0;
}
