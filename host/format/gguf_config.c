/* gguf_config.c - GGUF metadata to the text of a config.json, so that one reader (host/model's
 * config.c) knows what a model is, and one place checks every number.
 *
 * Keys and their meaning: llama.cpp's convert_hf_to_gguf.py and llama-model.cpp; what GGUF does not
 * say (gemma's attention scale, which layers have no rope) is what llama.cpp has built in. Numbers
 * are F32 in the file, and come out as decimals that read back as the same float. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/format/gguf_blocks.h"
#include "host/format/gguf_model.h"

static const struct gguf_arch ARCHS[] = {
    { "llama", "LlamaForCausalLM", "llama", NULL, GGUF_PAIRS },
    { "qwen2", "Qwen2ForCausalLM", "qwen2", NULL, 0 },
    { "qwen3", "Qwen3ForCausalLM", "qwen3", NULL, 0 },
    { "qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe", NULL, 0 },
    { "qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", NULL, 0 },
    { "gemma2", "Gemma2ForCausalLM", "gemma2", "gelu_pytorch_tanh", GGUF_GAINS },
    { "gemma3", "Gemma3ForCausalLM", "gemma3_text", "gelu_pytorch_tanh", GGUF_GAINS },
    { "phi3", "Phi3ForCausalLM", "phi3", NULL, 0 },
    { "gpt-oss", "GptOssForCausalLM", "gpt_oss", NULL, 0 },
    { "stablelm", "StableLmForCausalLM", "stablelm", NULL, GGUF_LAYER_NORM },
    { "starcoder2", "Starcoder2ForCausalLM", "starcoder2", "gelu_pytorch_tanh", GGUF_LAYER_NORM },
    { "olmo2", "Olmo2ForCausalLM", "olmo2", NULL, 0 },
    { "granite", "GraniteForCausalLM", "granite", NULL, GGUF_PAIRS },
    { "smollm3", "SmolLM3ForCausalLM", "smollm3", NULL, GGUF_PAIRS },
    { "glm4", "Glm4ForCausalLM", "glm4", NULL, 0 },
    { "cohere2", "Cohere2ForCausalLM", "cohere2", NULL, GGUF_LAYER_NORM },
};
/* A llama with experts. */
static const struct gguf_arch MIXTRAL = { "llama", "MixtralForCausalLM", "mixtral", NULL,
                                          GGUF_PAIRS };
enum { N_ARCHS = sizeof ARCHS / sizeof *ARCHS, COUNT_MAX = 1 << 24, FACTORS_MAX = 512 };

struct writer {
    const struct gguf_model *model;
    const struct gguf *gguf; /* the first part */
    const char *arch;        /* prefix of keys */
    struct buf *out;
    struct err *err;
};

const struct tensor *gguf_model_tensor(const struct gguf_model *model, const char *name)
{
    for (int32_t p = 0; p < model->n_parts; p++)
        for (int32_t i = 0; i < model->parts[p].n_tensors; i++)
            if (strcmp(model->parts[p].tensors[i].name, name) == 0)
                return &model->parts[p].tensors[i];
    return NULL;
}

static bool refuse_arch(const char *name, size_t length, struct err *err)
{
    char list[256];
    size_t used = 0;
    for (size_t i = 0; i < N_ARCHS; i++) {
        const int n =
            snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", ARCHS[i].name);
        used += (size_t)n < sizeof list - used ? (size_t)n : 0;
    }
    char shown[64];
    size_t n = 0;
    for (; n < length && n + 1 < sizeof shown; n++)
        shown[n] = (unsigned char)name[n] >= 0x20 && (unsigned char)name[n] < 0x7f ? name[n] : '?';
    shown[n] = 0;
    return err_set(err, ERR_UNSUPPORTED, "general.architecture \"%s\"; supported: %s", shown, list);
}

bool gguf_arch_of(const struct gguf_model *model, const struct gguf_arch **arch, struct err *err)
{
    const char *name = NULL;
    size_t length = 0;
    int64_t n_experts = 0;
    const struct gguf *gguf = &model->parts[0];
    *arch = NULL;
    if (!gguf_opt_string(gguf, "general.architecture", &name, &length, err) ||
        !gguf_opt_int(gguf, "llama.expert_count", 0, COUNT_MAX, &n_experts, err))
        return false;
    if (name == NULL)
        return err_set(err, ERR_FORMAT, "metadata general.architecture is missing");
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strlen(ARCHS[i].name) == length && memcmp(ARCHS[i].name, name, length) == 0)
            *arch = &ARCHS[i];
    if (*arch == NULL)
        return refuse_arch(name, length, err);
    if (*arch == &ARCHS[0] && n_experts > 0)
        *arch = &MIXTRAL;
    return true;
}

/* ---- keys -------------------------------------------------------------------------------------
 */

/* "llama.block_count" */
static const char *key_of(const struct writer *w, const char *name, char key[128])
{
    snprintf(key, 128, "%s.%s", w->arch, name);
    return key;
}

static bool has(const struct writer *w, const char *name)
{
    char key[128];
    return gguf_find(w->gguf, key_of(w, name, key)) != NULL;
}

static void put_key(const struct writer *w, const char *name)
{
    buf_printf(w->out, ",\n  \"%s\": ", name);
}

static void put_int(const struct writer *w, const char *name, int64_t value)
{
    put_key(w, name);
    buf_printf(w->out, "%lld", (long long)value);
}

static void put_number(const struct writer *w, const char *name, double value)
{
    put_key(w, name);
    buf_put_json_number(w->out, value);
}

static void put_bool(const struct writer *w, const char *name, bool value)
{
    put_key(w, name);
    buf_puts(w->out, value ? "true" : "false");
}

static void put_text(const struct writer *w, const char *name, const char *value)
{
    put_key(w, name);
    buf_put_json_string(w->out, value, strlen(value));
}

/* *value stays when absent. An array is a value a layer; only when all are the same is it one. */
static bool get_int(const struct writer *w, const char *name, int64_t *value)
{
    char key[128];
    const struct gguf_value *found = gguf_find(w->gguf, key_of(w, name, key));
    if (found == NULL || !found->is_array || !gguf_type_is_int(found->type) || found->n == 0)
        return gguf_opt_int(w->gguf, key, 0, COUNT_MAX, value, w->err);
    const int64_t first = gguf_int_at(found, 0);
    for (uint64_t i = 1; i < found->n; i++)
        if (gguf_int_at(found, i) != first)
            return err_set(w->err, ERR_UNSUPPORTED,
                           "metadata %s: differs from layer to layer, which is not supported", key);
    if (first < 0 || first > COUNT_MAX)
        return err_set(w->err, ERR_FORMAT, "metadata %s: is %lld, want 0 to %d", key,
                       (long long)first, COUNT_MAX);
    *value = first;
    return true;
}

static bool need_int(const struct writer *w, const char *name, int64_t *value)
{
    char key[128];
    *value = 0;
    if (!has(w, name))
        return err_set(w->err, ERR_FORMAT, "metadata %s is missing", key_of(w, name, key));
    if (!get_int(w, name, value))
        return false;
    return *value > 0 ||
           err_set(w->err, ERR_FORMAT, "metadata %s: is 0, want 1 or more", key_of(w, name, key));
}

static bool get_number(const struct writer *w, const char *name, double *value)
{
    char key[128];
    return gguf_opt_float(w->gguf, key_of(w, name, key), value, w->err);
}

/* Copies a number under one or two other names when it is there. */
static bool copy_number(const struct writer *w, const char *from, const char *to, const char *too)
{
    double value = 0;
    if (!has(w, from))
        return true;
    if (!get_number(w, from, &value))
        return false;
    put_number(w, to, value);
    if (too != NULL)
        put_number(w, too, value);
    return true;
}

/* Is there such a tensor in the first layer? */
static bool layer_has(const struct writer *w, const char *name)
{
    char whole[80];
    snprintf(whole, sizeof whole, "blk.0.%s", name);
    return gguf_model_tensor(w->model, whole) != NULL;
}

/* ---- rope -------------------------------------------------------------------------------------
 */

/* What frequencies are divided by, from a tensor of floats; they become a list, under one or two
 * names. */
static bool put_factors(const struct writer *w, const char *key, const char *too, const char *name)
{
    const struct tensor *tensor = gguf_model_tensor(w->model, name);
    float values[FACTORS_MAX];
    if (tensor == NULL)
        return err_set(w->err, ERR_FORMAT, "tensor %s is missing", name);
    if (tensor->n_dims != 1 || tensor->dims[0] > FACTORS_MAX || tensor->dtype != DTYPE_F32)
        return err_set(w->err, ERR_FORMAT, "tensor %s: want a vector of at most %d f32", name,
                       FACTORS_MAX);
    const size_t n = (size_t)tensor->dims[0];
    gguf_dequantize(values, tensor->data, tensor->dtype, n);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]) || values[i] <= 0)
            return err_set(w->err, ERR_FORMAT, "tensor %s: element %zu is %g, want above 0", name,
                           i, (double)values[i]);
    for (; key != NULL; key = too, too = NULL) {
        buf_printf(w->out, ", \"%s\": ", key);
        for (size_t i = 0; i < n; i++) {
            buf_puts(w->out, i == 0 ? "[" : ", ");
            buf_put_json_number(w->out, (double)values[i]);
        }
        buf_puts(w->out, "]");
    }
    return true;
}

static void put_member(const struct writer *w, const char *name, double value)
{
    buf_printf(w->out, ", \"%s\": ", name);
    buf_put_json_number(w->out, value);
}

static bool copy_member(const struct writer *w, const char *from, const char *to)
{
    double value = 0;
    if (!has(w, from))
        return true;
    if (!get_number(w, from, &value))
        return false;
    put_member(w, to, value);
    return true;
}

/* Divisors that the writer has worked out (llama 3's scheme), one list for all lengths: a longrope
 * without a border that scales nothing. */
static bool put_divisors(const struct writer *w, int64_t positions)
{
    put_key(w, "rope_scaling");
    buf_printf(w->out,
               "{\"rope_type\": \"longrope\", \"factor\": 1, \"attention_factor\": 1, "
               "\"original_max_position_embeddings\": %lld",
               (long long)positions);
    if (!put_factors(w, "short_factor", "long_factor", "rope_freqs.weight"))
        return false;
    buf_puts(w->out, "}");
    return true;
}

static bool put_longrope(const struct writer *w, int64_t positions)
{
    int64_t original = positions;
    if (!get_int(w, "rope.scaling.original_context_length", &original))
        return false;
    put_int(w, "original_max_position_embeddings", original);
    put_key(w, "rope_scaling");
    buf_puts(w->out, "{\"rope_type\": \"longrope\"");
    /* llama.cpp's attn_factor is what cos and sin are multiplied by, in both variants. */
    if (!copy_member(w, "rope.scaling.attn_factor", "attention_factor") ||
        !put_factors(w, "short_factor", NULL, "rope_factors_short.weight") ||
        !put_factors(w, "long_factor", NULL, "rope_factors_long.weight"))
        return false;
    buf_puts(w->out, "}");
    return true;
}

static bool put_yarn(const struct writer *w, double factor)
{
    int64_t original = 0;
    if (!need_int(w, "rope.scaling.original_context_length", &original))
        return false;
    put_key(w, "rope_scaling");
    buf_printf(w->out, "{\"rope_type\": \"yarn\", \"original_max_position_embeddings\": %lld",
               (long long)original);
    put_member(w, "factor", factor);
    if (!copy_member(w, "rope.scaling.yarn_beta_fast", "beta_fast") ||
        !copy_member(w, "rope.scaling.yarn_beta_slow", "beta_slow"))
        return false;
    buf_puts(w->out, "}");
    return true;
}

static bool put_scaling(const struct writer *w, int64_t positions)
{
    char key[128];
    const char *type = NULL;
    size_t length = 0;
    double factor = 0, linear = 0;
    if (!gguf_opt_string(w->gguf, key_of(w, "rope.scaling.type", key), &type, &length, w->err) ||
        !get_number(w, "rope.scaling.factor", &factor) ||
        !get_number(w, "rope.scale_linear", &linear)) /* of old writers */
        return false;
    if (gguf_model_tensor(w->model, "rope_factors_long.weight") != NULL)
        return put_longrope(w, positions);
    if (gguf_model_tensor(w->model, "rope_freqs.weight") != NULL)
        return put_divisors(w, positions);
    if (type == NULL && linear != 0) {
        type = "linear";
        length = 6;
        factor = linear;
    }
    if (type == NULL || (length == 4 && memcmp(type, "none", 4) == 0))
        return true;
    if (length == 4 && memcmp(type, "yarn", 4) == 0)
        return put_yarn(w, factor);
    if (length == 6 && memcmp(type, "linear", 6) == 0) {
        put_key(w, "rope_scaling");
        buf_puts(w->out, "{\"rope_type\": \"linear\"");
        put_member(w, "factor", factor);
        buf_puts(w->out, "}");
        return true;
    }
    return err_set(w->err, ERR_UNSUPPORTED, "metadata %s: is \"%.*s\", want none, linear or yarn",
                   key, length < 40 ? (int)length : 40, type);
}

static bool put_rope(const struct writer *w, int64_t head_dim, int64_t positions)
{
    double theta = 10000, local = 10000;
    int64_t dim = head_dim;
    if (!get_number(w, "rope.freq_base", &theta) || !get_number(w, "rope.freq_base_swa", &local) ||
        !get_int(w, "rope.dimension_count", &dim) || !put_scaling(w, positions))
        return false;
    put_number(w, "rope_theta", theta);
    if (strcmp(w->arch, "gemma3") == 0)
        put_number(w, "rope_local_base_freq", local);
    const bool partial = strcmp(w->arch, "stablelm") == 0 || strcmp(w->arch, "glm4") == 0;
    if (dim != head_dim || partial) /* the two families have defaults of their own */
        put_number(w, "partial_rotary_factor", (double)dim / (double)head_dim);
    return true;
}

/* ---- families ---------------------------------------------------------------------------------
 */

static bool put_gemma(const struct writer *w, int64_t n_layers, int64_t hidden, int64_t n_heads,
                      int64_t head_dim)
{
    /* llama.cpp knows the one model of each family that scales otherwise by its layers. */
    const bool second = strcmp(w->arch, "gemma2") == 0, largest = n_layers == (second ? 46 : 62);
    put_number(w, "query_pre_attn_scalar",
               largest ? (double)hidden / (double)n_heads : (double)head_dim);
    if (!second)
        return true;
    double cap = 0;
    if (!get_number(w, "attn_logit_softcapping", &cap))
        return false;
    put_key(w, "attn_logit_softcapping"); /* null: none, where the family has one by default */
    if (cap != 0)
        buf_put_json_number(w->out, cap);
    else
        buf_puts(w->out, "null");
    return true;
}

static bool put_experts(const struct writer *w)
{
    int64_t n_experts = 0, n_used = 0, width = 0, shared = 0;
    if (!get_int(w, "expert_count", &n_experts))
        return false;
    if (n_experts == 0)
        return true;
    if (!need_int(w, "expert_used_count", &n_used) ||
        !get_int(w, "expert_feed_forward_length", &width) ||
        !get_int(w, "expert_shared_feed_forward_length", &shared))
        return false;
    const bool qwen = strncmp(w->arch, "qwen", 4) == 0;
    put_int(w, qwen ? "num_experts" : "num_local_experts", n_experts);
    put_int(w, "num_experts_per_tok", n_used);
    if (qwen) {
        put_bool(w, "norm_topk_prob", strcmp(w->arch, "qwen3moe") == 0);
        put_int(w, "decoder_sparse_step", 1);
        put_key(w, "mlp_only_layers");
        buf_puts(w->out, "[]");
    }
    if (qwen && width == 0) { /* older files leave it to the tensor */
        const struct tensor *gate = gguf_model_tensor(w->model, "blk.0.ffn_gate_exps.weight");
        width = gate != NULL && gate->n_dims == 3 ? gate->dims[1] : 0;
    }
    if (qwen)
        put_int(w, "moe_intermediate_size", width);
    if (shared != 0)
        put_int(w, "shared_expert_intermediate_size", shared);
    return true;
}

static bool put_window(const struct writer *w)
{
    int64_t window = 0;
    /* Not so in llama.cpp's graph of these, whatever the file says. */
    if (strcmp(w->arch, "llama") == 0 || strncmp(w->arch, "qwen", 4) == 0)
        return true;
    if (!get_int(w, "attention.sliding_window", &window))
        return false;
    if (window > 0) {
        put_int(w, "sliding_window", window);
    } else {
        put_key(w, "sliding_window");
        buf_puts(w->out, "null");
    }
    return true;
}

static void put_biases(const struct writer *w)
{
    const bool qkv = layer_has(w, "attn_q.bias"), o = layer_has(w, "attn_output.bias");
    if (strcmp(w->arch, "stablelm") == 0) {
        put_bool(w, "use_qkv_bias", qkv);
        put_bool(w, "qk_layernorm", layer_has(w, "attn_q_norm.weight"));
        put_bool(w, "use_parallel_residual", !layer_has(w, "ffn_norm.weight"));
    } else if (strcmp(w->arch, "starcoder2") == 0) {
        put_bool(w, "use_bias", qkv);
    } else {
        put_bool(w, "attention_bias", strcmp(w->arch, "glm4") == 0 ? qkv : o);
    }
    put_bool(w, "mlp_bias", layer_has(w, "ffn_down.bias"));
}

static bool put_multipliers(const struct writer *w)
{
    if (strcmp(w->arch, "cohere2") == 0)
        return copy_number(w, "logit_scale", "logit_scale", NULL);
    return copy_number(w, "embedding_scale", "embedding_multiplier", NULL) &&
           copy_number(w, "residual_scale", "residual_multiplier", NULL) &&
           copy_number(w, "attention.scale", "attention_multiplier", NULL) &&
           copy_number(w, "logit_scale", "logits_scaling", NULL) &&
           copy_number(w, "final_logit_softcapping", "final_logit_softcapping", NULL);
}

/* ---- tokens that begin and end a text ---------------------------------------------------------
 */

/* Ends of turns that instruct models have beside eos; control tokens of these texts end a text in
 * llama.cpp too. */
static const char *const TURN_ENDS[] = { "<|eot_id|>", "<|im_end|>",      "<|end|>",
                                         "<|eom_id|>", "<end_of_turn>",   "<|endoftext|>",
                                         "<EOT>",      "<|end_of_text|>", "<|return|>" };

static bool put_eos(const struct writer *w, int64_t vocab)
{
    static const char *const keys[] = { "tokenizer.ggml.eos_token_id",
                                        "tokenizer.ggml.eot_token_id",
                                        "tokenizer.ggml.eom_token_id" };
    int64_t ids[16];
    int32_t n = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t id = -1;
        if (!gguf_opt_int(w->gguf, keys[i], -1, UINT32_MAX, &id, w->err))
            return false;
        if (id >= 0 && id < vocab)
            ids[n++] = id;
    }
    const struct gguf_value *tokens = gguf_find(w->gguf, "tokenizer.ggml.tokens");
    const struct gguf_value *types = gguf_find(w->gguf, "tokenizer.ggml.token_type");
    const bool readable = tokens != NULL && tokens->is_array && tokens->type == GGUF_STRING &&
                          types != NULL && types->is_array && gguf_type_is_int(types->type) &&
                          types->n == tokens->n;
    const uint8_t *at = readable ? tokens->bytes : NULL;
    for (uint64_t t = 0; readable && t < tokens->n && t < (uint64_t)vocab && n < 12; t++) {
        const char *text;
        size_t length;
        gguf_next_string(&at, &text, &length);
        bool known = gguf_int_at(types, t) != 3; /* control tokens alone */
        for (int32_t k = 0; k < n; k++)
            known = known || ids[k] == (int64_t)t;
        for (size_t k = 0; !known && k < sizeof TURN_ENDS / sizeof *TURN_ENDS; k++)
            if (strlen(TURN_ENDS[k]) == length && memcmp(TURN_ENDS[k], text, length) == 0) {
                ids[n++] = (int64_t)t;
                break;
            }
    }
    put_key(w, "eos_token_id");
    for (int32_t i = 0; i < n; i++)
        buf_printf(w->out, "%s%lld", i == 0 ? "[" : ", ", (long long)ids[i]);
    buf_puts(w->out, n == 0 ? "-1" : "]");
    return true;
}

static bool put_special(const struct writer *w, int64_t vocab)
{
    int64_t bos = -1;
    if (!gguf_opt_int(w->gguf, "tokenizer.ggml.bos_token_id", -1, UINT32_MAX, &bos, w->err))
        return false;
    put_int(w, "bos_token_id", bos < vocab ? bos : -1);
    return put_eos(w, vocab);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static bool head_dim_of(const struct writer *w, int64_t hidden, int64_t n_heads, int64_t *head_dim)
{
    *head_dim = hidden / n_heads;
    int64_t value_dim = 0;
    if (!get_int(w, "attention.key_length", head_dim) ||
        !get_int(w, "attention.value_length", &value_dim))
        return false;
    if (*head_dim == 0 || (value_dim != 0 && value_dim != *head_dim))
        return err_set(w->err, ERR_UNSUPPORTED,
                       "attention.key_length %lld with attention.value_length %lld; want the same",
                       (long long)*head_dim, (long long)value_dim);
    return true;
}

static bool put_shape(const struct writer *w, int64_t vocab, int64_t *head_dim)
{
    int64_t hidden, n_layers, n_heads, n_kv, width, positions;
    if (!need_int(w, "embedding_length", &hidden) || !need_int(w, "block_count", &n_layers) ||
        !need_int(w, "attention.head_count", &n_heads) ||
        !need_int(w, "feed_forward_length", &width) || !need_int(w, "context_length", &positions))
        return false;
    n_kv = n_heads;
    if (!get_int(w, "attention.head_count_kv", &n_kv) || !head_dim_of(w, hidden, n_heads, head_dim))
        return false;
    if (strcmp(w->arch, "gpt-oss") == 0 && !get_int(w, "expert_feed_forward_length", &width))
        return false;
    put_int(w, "vocab_size", vocab);
    put_int(w, "hidden_size", hidden);
    put_int(w, "num_hidden_layers", n_layers);
    put_int(w, "num_attention_heads", n_heads);
    put_int(w, "num_key_value_heads", n_kv);
    put_int(w, "head_dim", *head_dim);
    put_int(w, "intermediate_size", width);
    put_int(w, "max_position_embeddings", positions);
    if (strncmp(w->arch, "gemma", 5) == 0 && !put_gemma(w, n_layers, hidden, n_heads, *head_dim))
        return false;
    return put_rope(w, *head_dim, positions);
}

bool gguf_config_text(const struct gguf_model *model, const struct gguf_arch *arch, struct buf *out,
                      int64_t *head_dim, struct err *err)
{
    const struct writer writer = { model, &model->parts[0], arch->name, out, err };
    const struct writer *w = &writer;
    const struct tensor *table = gguf_model_tensor(model, "token_embd.weight");
    if (table == NULL || table->n_dims != 2 || table->dims[0] > COUNT_MAX)
        return err_set(err, ERR_FORMAT, "tensor token_embd.weight: want a table of at most %d rows",
                       COUNT_MAX);
    const int64_t vocab = table->dims[0];
    const char *architecture = arch->architecture, *type = arch->model_type;
    /* Biases on q, k, v alone are what Qwen2 has; otherwise it is the same arithmetic. */
    if (strcmp(type, "llama") == 0 && layer_has(w, "attn_q.bias") &&
        !layer_has(w, "attn_output.bias")) {
        architecture = "Qwen2ForCausalLM";
        type = "qwen2";
    }
    buf_printf(out, "{\n  \"architectures\": [\"%s\"]", architecture);
    put_text(w, "model_type", type);
    put_text(w, "hidden_act", arch->hidden_act != NULL ? arch->hidden_act : "silu");
    if (strncmp(w->arch, "gemma", 5) == 0)
        put_text(w, "hidden_activation", arch->hidden_act);
    if (arch->flags & GGUF_GAINS)
        put_bool(w, "norm_weight_is_gain", true);
    put_bool(w, "tie_word_embeddings", gguf_model_tensor(model, "output.weight") == NULL);
    /* transformers' names differ by family; config.c reads the one it wants. */
    if (arch->flags & GGUF_LAYER_NORM) {
        if (!copy_number(w, "attention.layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"))
            return false;
    } else if (!copy_number(w, "attention.layer_norm_rms_epsilon", "rms_norm_eps", NULL)) {
        return false;
    }
    if (!put_shape(w, vocab, head_dim) || !put_window(w) || !put_experts(w) ||
        !put_multipliers(w) || !put_special(w, vocab))
        return false;
    put_biases(w);
    buf_puts(out, "\n}\n");
    return true;
}
