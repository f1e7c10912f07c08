/* names.c - the table of tensor names. Pure. */
#include "host/model/names.h"

#include <string.h>

#define L "model.layers.%d."
const struct name NAMES[] = {
    { "model.embed_tokens", false, MATRIX_EMBED, 0, EXTENT_VOCAB, EXTENT_HIDDEN, NEED_ALWAYS,
      BIAS_NONE },
    { L "input_layernorm", true, VECTOR_ATTN_NORM, 0, EXTENT_HIDDEN, EXTENT_ONE, NEED_ALWAYS,
      BIAS_NONE },
    { L "self_attn.q_proj", true, MATRIX_QKV, 0, EXTENT_Q, EXTENT_HIDDEN, NEED_ALWAYS, BIAS_QKV },
    { L "self_attn.k_proj", true, MATRIX_QKV, 1, EXTENT_KV, EXTENT_HIDDEN, NEED_ALWAYS, BIAS_QKV },
    { L "self_attn.v_proj", true, MATRIX_QKV, 2, EXTENT_KV, EXTENT_HIDDEN, NEED_ALWAYS, BIAS_QKV },
    { L "self_attn.q_norm", true, VECTOR_Q_NORM, 0, EXTENT_HEAD_DIM, EXTENT_ONE, NEED_QK_NORM,
      BIAS_NONE },
    { L "self_attn.k_norm", true, VECTOR_K_NORM, 0, EXTENT_HEAD_DIM, EXTENT_ONE, NEED_QK_NORM,
      BIAS_NONE },
    { L "self_attn.o_proj", true, MATRIX_O, 0, EXTENT_HIDDEN, EXTENT_Q, NEED_ALWAYS, BIAS_O },
    { L "post_attention_layernorm", true, VECTOR_MLP_NORM, 0, EXTENT_HIDDEN, EXTENT_ONE,
      NEED_ALWAYS, BIAS_NONE },
    { L "mlp.gate_proj", true, MATRIX_GATE_UP, 0, EXTENT_MLP, EXTENT_HIDDEN, NEED_MLP, BIAS_MLP },
    { L "mlp.up_proj", true, MATRIX_GATE_UP, 1, EXTENT_MLP, EXTENT_HIDDEN, NEED_MLP, BIAS_MLP },
    { L "mlp.down_proj", true, MATRIX_DOWN, 0, EXTENT_HIDDEN, EXTENT_MLP, NEED_MLP, BIAS_MLP },
    { L "block_sparse_moe.gate", true, MATRIX_ROUTER, 0, EXTENT_EXPERTS, EXTENT_HIDDEN,
      NEED_MIXTRAL, BIAS_NONE },
    { L "block_sparse_moe.experts.%d.w1", true, MATRIX_EXPERT_GATE_UP, 0, EXTENT_EXPERT,
      EXTENT_HIDDEN, NEED_MIXTRAL, BIAS_NONE },
    { L "block_sparse_moe.experts.%d.w3", true, MATRIX_EXPERT_GATE_UP, 1, EXTENT_EXPERT,
      EXTENT_HIDDEN, NEED_MIXTRAL, BIAS_NONE },
    { L "block_sparse_moe.experts.%d.w2", true, MATRIX_EXPERT_DOWN, 0, EXTENT_HIDDEN, EXTENT_EXPERT,
      NEED_MIXTRAL, BIAS_NONE },
    { L "mlp.gate", true, MATRIX_ROUTER, 0, EXTENT_EXPERTS, EXTENT_HIDDEN, NEED_QWEN, BIAS_NONE },
    { L "mlp.experts.%d.gate_proj", true, MATRIX_EXPERT_GATE_UP, 0, EXTENT_EXPERT, EXTENT_HIDDEN,
      NEED_QWEN, BIAS_NONE },
    { L "mlp.experts.%d.up_proj", true, MATRIX_EXPERT_GATE_UP, 1, EXTENT_EXPERT, EXTENT_HIDDEN,
      NEED_QWEN, BIAS_NONE },
    { L "mlp.experts.%d.down_proj", true, MATRIX_EXPERT_DOWN, 0, EXTENT_HIDDEN, EXTENT_EXPERT,
      NEED_QWEN, BIAS_NONE },
    { L "mlp.shared_expert.gate_proj", true, MATRIX_SHARED_GATE_UP, 0, EXTENT_SHARED, EXTENT_HIDDEN,
      NEED_SHARED, BIAS_NONE },
    { L "mlp.shared_expert.up_proj", true, MATRIX_SHARED_GATE_UP, 1, EXTENT_SHARED, EXTENT_HIDDEN,
      NEED_SHARED, BIAS_NONE },
    { L "mlp.shared_expert.down_proj", true, MATRIX_SHARED_DOWN, 0, EXTENT_HIDDEN, EXTENT_SHARED,
      NEED_SHARED, BIAS_NONE },
    { L "mlp.shared_expert_gate", true, MATRIX_SHARED_ROUTER, 0, EXTENT_ONE, EXTENT_HIDDEN,
      NEED_SHARED, BIAS_NONE },
    { "model.norm", false, VECTOR_FINAL_NORM, 0, EXTENT_HIDDEN, EXTENT_ONE, NEED_ALWAYS,
      BIAS_NONE },
    { "lm_head", false, MATRIX_HEAD, 0, EXTENT_VOCAB, EXTENT_HIDDEN, NEED_UNTIED, BIAS_NONE },
};
#undef L
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
    case EXTENT_EXPERTS:
        return config->experts.n;
    case EXTENT_EXPERT:
        return config->experts.width;
    case EXTENT_SHARED:
        return config->experts.shared_width;
    }
    return 0;
}

bool name_needed(const struct config *config, const struct name *name, int32_t l)
{
    const struct config_experts *experts = &config->experts;
    const bool in_experts = name->in_layer && config->layers[l].experts;
    switch (name->need) {
    case NEED_ALWAYS:
        return true;
    case NEED_UNTIED:
        return !config->tied;
    case NEED_QK_NORM:
        return config->qk_norm;
    case NEED_MLP:
        return !in_experts;
    case NEED_MIXTRAL:
        return in_experts && experts->names == EXPERTS_MIXTRAL;
    case NEED_QWEN:
        return in_experts && experts->names == EXPERTS_QWEN;
    case NEED_SHARED:
        return in_experts && experts->shared_width > 0;
    }
    return false;
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
    case VECTOR_Q_NORM:
        return "q_norm";
    case VECTOR_K_NORM:
        return "k_norm";
    }
    return "?";
}

bool name_is_harmless(const struct config *config, const char *tensor)
{
    static const char FREQUENCIES[] = "rotary_emb.inv_freq";
    const size_t length = strlen(tensor), end = sizeof FREQUENCIES - 1;
    if (length >= end && strcmp(tensor + length - end, FREQUENCIES) == 0)
        return true;
    return config->tied && strcmp(tensor, "lm_head.weight") == 0;
}
