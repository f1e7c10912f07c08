/* config.json: good ones give the right fields, bad ones are refused with the field's name. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/json.h"
#include "host/model/config.h"
#include "host/model/model.h"

/* A small llama; a row changes or drops keys. */
static const char *const BASE[][2] = {
    { "architectures", "[\"LlamaForCausalLM\"]" },
    { "model_type", "\"llama\"" },
    { "vocab_size", "320" },
    { "hidden_size", "128" },
    { "intermediate_size", "192" },
    { "num_hidden_layers", "2" },
    { "num_attention_heads", "4" },
    { "num_key_value_heads", "2" },
    { "max_position_embeddings", "512" },
};

/* `change`: "\"key\":value, ..." replaces or adds; "-key" at the start drops that key. */
static char *config_text(const char *change)
{
    static char text[4096];
    char drop[64] = "";
    if (change[0] == '-') {
        const size_t n = strcspn(change + 1, ",");
        snprintf(drop, sizeof drop, "%.*s", (int)n, change + 1);
        change += 1 + n + (change[1 + n] == ',');
    }
    size_t used = (size_t)snprintf(text, sizeof text, "{");
    for (size_t i = 0; i < sizeof BASE / sizeof *BASE; i++) {
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\":", BASE[i][0]);
        if (strcmp(drop, BASE[i][0]) != 0 && strstr(change, quoted) == NULL)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%s", used > 1 ? "," : "",
                                     quoted, BASE[i][1]);
    }
    snprintf(text + used, sizeof text - used, "%s%s}", *change ? "," : "", change);
    return text;
}

#define FAMILY(architecture, type)                                                                 \
    "\"architectures\":[\"" architecture "ForCausalLM\"],\"model_type\":\"" type                   \
    "\",\"num_key_value_heads\":4"
#define PHI3(rope)                                                                                 \
    FAMILY("Phi3", "phi3")                                                                         \
    ",\"original_max_position_embeddings\":64,\"rope_scaling\":{" rope "}"

#define YARN(rope) "\"rope_scaling\":{\"type\":\"yarn\"," rope "}"

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *change;
        enum err_code code;
        const char *says; /* must be in the message */
    } rows[] = {
        { "not JSON", "}", ERR_FORMAT, "config.json: " },
        { "not an object", NULL, ERR_FORMAT, "config.json: must be an object" },
        { "an architecture that is a number", "\"architectures\":[1]", ERR_FORMAT,
          "architectures[0] must be a string" },
        { "a model_type that is a number", "\"model_type\":1", ERR_FORMAT,
          "model_type must be a string" },
        { "a head wider than any, by division", "\"hidden_size\":4096,\"num_attention_heads\":2",
          ERR_FORMAT, "head_dim 2048 must be even and at most 1024" },
        { "a bias in words", "\"attention_bias\":\"no\"", ERR_FORMAT,
          "attention_bias must be true or false" },
        { "the other bias in words", "\"mlp_bias\":\"no\"", ERR_FORMAT,
          "mlp_bias must be true or false" },
        { "an activation that is a number", "\"hidden_act\":1", ERR_FORMAT,
          "hidden_act must be a string" },
        { "tied in words", "\"tie_word_embeddings\":\"no\"", ERR_FORMAT,
          "tie_word_embeddings must be true or false" },
        { "gemma, both directions in words",
          FAMILY("Gemma2", "gemma2") ",\"use_bidirectional_attention\":1", ERR_FORMAT,
          "use_bidirectional_attention must be true or false" },
        { "gemma, gains in words", FAMILY("Gemma2", "gemma2") ",\"norm_weight_is_gain\":1",
          ERR_FORMAT, "norm_weight_is_gain must be true or false" },
        { "stablelm, parallel in words",
          FAMILY("StableLm", "stablelm") ",\"use_parallel_residual\":1", ERR_FORMAT,
          "use_parallel_residual must be true or false" },
        { "stablelm, norms of heads in words", FAMILY("StableLm", "stablelm") ",\"qk_layernorm\":1",
          ERR_FORMAT, "qk_layernorm must be true or false" },
        { "layers that are no list", FAMILY("Qwen2", "qwen2") ",\"layer_types\":2", ERR_FORMAT,
          "layer_types must be a list of num_hidden_layers = 2 names" },
        { "layers that are numbers", FAMILY("Qwen2", "qwen2") ",\"layer_types\":[1,2]", ERR_FORMAT,
          "layer_types[0] must be a string" },
        { "a full layer where all slide",
          FAMILY("Mistral", "mistral") ",\"sliding_window\":16,\"layer_types\":["
                                       "\"sliding_attention\",\"full_attention\"]",
          ERR_FORMAT, "layer_types[1] is full_attention, but sliding_window is 16" },
        { "smollm3, layers that are no list", FAMILY("SmolLM3", "smollm3") ",\"no_rope_layers\":1",
          ERR_FORMAT, "no_rope_layers must be a list of num_hidden_layers = 2 numbers" },
        { "smollm3, a layer that is 2", FAMILY("SmolLM3", "smollm3") ",\"no_rope_layers\":[0,2]",
          ERR_FORMAT, "no_rope_layers[1] must be" },
        { "qwen2, a switch in words", FAMILY("Qwen2", "qwen2") ",\"use_sliding_window\":1",
          ERR_FORMAT, "use_sliding_window must be true or false" },
        { "a quantization that is a number", "\"quantization_config\":4", ERR_FORMAT,
          "quantization_config must be an object" },
        { "no vocabulary", "-vocab_size", ERR_FORMAT, "vocab_size is missing" },
        { "no hidden size", "-hidden_size", ERR_FORMAT, "hidden_size is missing" },
        { "no width of the MLP", "-intermediate_size", ERR_FORMAT, "intermediate_size is missing" },
        { "no layers", "-num_hidden_layers", ERR_FORMAT, "num_hidden_layers is missing" },
        { "no heads", "-num_attention_heads", ERR_FORMAT, "num_attention_heads is missing" },
        { "zero layers", "\"num_hidden_layers\":0", ERR_FORMAT, "num_hidden_layers" },
        { "1025 layers", "\"num_hidden_layers\":1025", ERR_FORMAT, "num_hidden_layers" },
        { "half a layer", "\"num_hidden_layers\":1.5", ERR_FORMAT, "num_hidden_layers" },
        { "layers as text", "\"num_hidden_layers\":\"2\"", ERR_FORMAT, "num_hidden_layers" },
        { "2^63 features", "\"hidden_size\":9223372036854775808", ERR_FORMAT, "hidden_size" },
        { "negative vocabulary", "\"vocab_size\":-1", ERR_FORMAT, "vocab_size" },
        { "KV heads that do not divide", "\"num_key_value_heads\":3", ERR_FORMAT,
          "num_key_value_heads 3 must divide num_attention_heads 4" },
        { "heads that do not divide, no head_dim",
          "\"num_attention_heads\":3,\"num_key_value_heads\":3", ERR_FORMAT,
          "num_attention_heads 3 must divide hidden_size 128" },
        { "odd head_dim", "\"head_dim\":33", ERR_FORMAT, "head_dim 33 must be even" },
        { "derived head_dim is odd", "\"hidden_size\":132", ERR_FORMAT, "head_dim 33" },
        { "head_dim too large", "\"head_dim\":1025", ERR_FORMAT, "head_dim" },
        { "heads x head_dim too large",
          "\"num_attention_heads\":4096,\"num_key_value_heads\":1,\"head_dim\":1024", ERR_FORMAT,
          "num_attention_heads 4096 x head_dim 1024" },
        { "positions out of range", "\"max_position_embeddings\":0", ERR_FORMAT,
          "max_position_embeddings" },
        { "epsilon as text", "\"rms_norm_eps\":\"small\"", ERR_FORMAT, "rms_norm_eps" },
        { "tied is a number", "\"tie_word_embeddings\":1", ERR_FORMAT, "tie_word_embeddings" },
        { "bos outside the vocabulary", "\"bos_token_id\":320", ERR_FORMAT, "bos_token_id" },
        { "eos outside the vocabulary", "\"eos_token_id\":[2,320]", ERR_FORMAT, "eos_token_id[1]" },
        { "17 eos ids", "\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", ERR_FORMAT,
          "eos_token_id has more than 16" },
        { "neither name", "-architectures,\"model_type\":null", ERR_FORMAT, "architectures" },
        { "unknown architecture", "\"architectures\":[\"FancyForCausalLM\"]", ERR_UNSUPPORTED,
          "\"FancyForCausalLM\"; supported: LlamaForCausalLM, MistralForCausalLM, "
          "Qwen2ForCausalLM, Qwen3ForCausalLM" },
        { "a classifier", "\"architectures\":[\"LlamaForSequenceClassification\"]", ERR_UNSUPPORTED,
          "LlamaForSequenceClassification" },
        { "unknown model_type alone", "-architectures,\"model_type\":\"fancy\"", ERR_UNSUPPORTED,
          "model_type \"fancy\"; supported: llama, mistral, qwen2, qwen3" },
        { "names that contradict", "\"model_type\":\"gemma\"", ERR_UNSUPPORTED,
          "model_type \"gemma\" with architecture \"LlamaForCausalLM\"" },
        { "architectures is a string", "\"architectures\":\"LlamaForCausalLM\"", ERR_FORMAT,
          "architectures must be a list" },
        { "unknown activation", "\"hidden_act\":\"mish\"", ERR_UNSUPPORTED, "hidden_act \"mish\"" },
        { "shuffled checkpoint",
          "\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,\"is_marlin_format\":"
          "true}",
          ERR_UNSUPPORTED, "marlin" },
        { "unknown quantization", "\"quantization_config\":{\"quant_method\":\"zip\"}",
          ERR_UNSUPPORTED, "\"zip\"" },
        { "rope per layer type",
          "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", ERR_UNSUPPORTED,
          "full_attention" },
        { "a factor without a type", "\"rope_scaling\":{\"factor\":2}", ERR_FORMAT,
          "rope_scaling has a factor" },
        { "linear without factor", "\"rope_scaling\":{\"type\":\"linear\"}", ERR_FORMAT,
          "rope_scaling.factor is missing" },
        { "factor 0", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}", ERR_FORMAT,
          "rope_scaling.factor" },
        { "llama3 without its frequencies",
          "\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8}", ERR_FORMAT,
          "rope_parameters.low_freq_factor is missing" },
        { "llama3 with an empty band",
          "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
          "\"high_freq_factor\":4}",
          ERR_FORMAT, "high_freq_factor" },
        { "a kind of rope that is a number", "\"rope_scaling\":{\"rope_type\":1}", ERR_FORMAT,
          "rope_scaling.rope_type must be a string" },
        { "the older name of it as a number", "\"rope_scaling\":{\"type\":1}", ERR_FORMAT,
          "rope_scaling.type must be a string" },
        { "a kind nobody knows", "\"rope_scaling\":{\"type\":\"twist\"}", ERR_UNSUPPORTED,
          "rope_type \"twist\"; supported: default, linear" },
        { "longrope, lists that are none", PHI3("\"type\":\"longrope\",\"short_factor\":1"),
          ERR_FORMAT, "rope_scaling.short_factor must be a list of 16 numbers" },
        { "longrope, a factor in words", PHI3("\"type\":\"longrope\",\"factor\":\"x\""), ERR_FORMAT,
          "rope_scaling.factor must be a number" },
        { "longrope, an attention factor in words",
          PHI3("\"type\":\"longrope\",\"attention_factor\":\"x\""), ERR_FORMAT,
          "rope_scaling.attention_factor must be a number" },
        { "longrope that turns an odd number of features",
          PHI3("\"type\":\"yarn\",\"partial_rotary_factor\":0.1"), ERR_FORMAT,
          "3 of 32 features of a head are rotated, want an even number" },
        { "yarn, a factor in words", YARN("\"factor\":\"x\""), ERR_FORMAT,
          "rope_scaling.factor must be a number" },
        { "yarn, beta_fast in words", YARN("\"beta_fast\":\"x\""), ERR_FORMAT,
          "rope_scaling.beta_fast must be a number" },
        { "yarn, beta_slow in words", YARN("\"beta_slow\":\"x\""), ERR_FORMAT,
          "rope_scaling.beta_slow must be a number" },
        { "yarn, an attention factor in words", YARN("\"attention_factor\":\"x\""), ERR_FORMAT,
          "rope_scaling.attention_factor must be a number" },
        { "yarn, mscale in words", YARN("\"mscale\":\"x\""), ERR_FORMAT,
          "rope_scaling.mscale must be a number" },
        { "yarn, the other mscale in words", YARN("\"mscale_all_dim\":\"x\""), ERR_FORMAT,
          "rope_scaling.mscale_all_dim must be a number" },
        { "yarn, truncate in words", YARN("\"truncate\":\"x\""), ERR_FORMAT,
          "rope_scaling.truncate must be true or false" },
        { "yarn with a theta of 1", YARN("\"rope_theta\":1"), ERR_FORMAT,
          "rope_theta 1: yarn needs more than 1" },
        { "theta 0", "\"rope_theta\":0", ERR_FORMAT, "rope_theta" },
        { "rope_scaling is text", "\"rope_scaling\":\"linear\"", ERR_FORMAT, "rope_scaling" },
        { "a rotated part of the head", "\"partial_rotary_factor\":0.25", ERR_UNSUPPORTED,
          "partial_rotary_factor 0.25" },
        { "an odd number of rotated features", FAMILY("GPTNeoX", "gpt_neox") ",\"rotary_pct\":0.29",
          ERR_FORMAT, "9 of 32 features of a head are rotated" },
        { "nothing rotated", FAMILY("StableLm", "stablelm") ",\"partial_rotary_factor\":0",
          ERR_FORMAT, "0 of 32 features" },
        { "a head too small for its part", FAMILY("Glm4", "glm4") ",\"head_dim\":2", ERR_FORMAT,
          "1 of 2 features" },
        { "more than whole heads", FAMILY("Glm4", "glm4") ",\"partial_rotary_factor\":1.5",
          ERR_FORMAT, "partial_rotary_factor" },
        { "longrope without its lists", PHI3("\"type\":\"longrope\""), ERR_FORMAT,
          "rope_scaling.short_factor is missing" },
        { "longrope with a short list", PHI3("\"type\":\"su\",\"short_factor\":[1,2]"), ERR_FORMAT,
          "rope_scaling.short_factor must be a list of 16 numbers" },
        { "longrope with a factor of zero",
          PHI3("\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0]"),
          ERR_FORMAT, "rope_scaling.short_factor[15]" },
        { "longrope that does not say from where on",
          FAMILY("Phi3", "phi3") ",\"rope_scaling\":{\"type\":\"longrope\"}", ERR_FORMAT,
          "original_max_position_embeddings" },
        { "longrope from position 1 on",
          FAMILY("Phi3", "phi3") ",\"rope_scaling\":{\"type\":\"longrope\","
                                 "\"original_max_position_embeddings\":1}",
          ERR_FORMAT, "original_max_position_embeddings above 1" },
        { "no scalar of queries", FAMILY("Gemma2", "gemma2") ",\"query_pre_attn_scalar\":0",
          ERR_FORMAT, "query_pre_attn_scalar" },
        { "a negative soft cap", FAMILY("Gemma2", "gemma2") ",\"attn_logit_softcapping\":-4",
          ERR_FORMAT, "attn_logit_softcapping" },
        { "tokens that see what follows",
          FAMILY("Gemma3", "gemma3_text") ",\"use_bidirectional_attention\":true", ERR_UNSUPPORTED,
          "use_bidirectional_attention" },
        { "a pattern of nothing", FAMILY("Gemma3", "gemma3_text") ",\"sliding_window_pattern\":0",
          ERR_FORMAT, "sliding_window_pattern" },
        { "logits divided by zero", FAMILY("Granite", "granite") ",\"logits_scaling\":0",
          ERR_FORMAT, "logits_scaling" },
        { "a multiplier as text", FAMILY("Granite", "granite") ",\"residual_multiplier\":\"big\"",
          ERR_FORMAT, "residual_multiplier" },
        { "a norm for every head", FAMILY("StableLm", "stablelm") ",\"qk_layernorm\":true",
          ERR_UNSUPPORTED, "qk_layernorm" },
        { "fewer KV heads in gpt_neox",
          "\"architectures\":[\"GPTNeoXForCausalLM\"],"
          "\"model_type\":\"gpt_neox\"",
          ERR_UNSUPPORTED, "num_key_value_heads 2 of 4" },
        { "a short list of layers without rope",
          FAMILY("SmolLM3", "smollm3") ",\"no_rope_layers\":[1]", ERR_FORMAT,
          "no_rope_layers must be a list of num_hidden_layers = 2" },
        { "a layer with two ropes", FAMILY("SmolLM3", "smollm3") ",\"no_rope_layers\":[1,2]",
          ERR_FORMAT, "no_rope_layers[1]" },
        { "rope every zeroth layer", FAMILY("SmolLM3", "smollm3") ",\"no_rope_layer_interval\":0",
          ERR_FORMAT, "no_rope_layer_interval" },
        { "logits times nothing", FAMILY("Cohere2", "cohere2") ",\"logit_scale\":0", ERR_FORMAT,
          "logit_scale" },
        { "layer_types of another length", "\"layer_types\":[\"full_attention\"]", ERR_FORMAT,
          "layer_types must be a list of num_hidden_layers = 2" },
        { "an unknown layer type", "\"layer_types\":[\"full_attention\",\"linear_attention\"]",
          ERR_UNSUPPORTED, "layer_types[1] \"linear_attention\"" },
        { "a sliding layer without window",
          "\"layer_types\":[\"sliding_attention\",\"full_attention\"]", ERR_FORMAT,
          "layer_types[0]" },
    };
    static struct config config;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = { 0 };
        const char *text = rows[i].change == NULL ? "[1]" : config_text(rows[i].change);
        if (config_read(&config, text, strlen(text), &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
        assert_true(strncmp(err.text, "config.json", 11) == 0 && err.field[0] == 0);
    }
}

#define QWEN2                                                                                      \
    "\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"num_hidden_layers\":4"

static void test_windows(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *change;
        int32_t n_groups, windows[4], n_layers;
    } rows[] = {
        { "llama has none", "\"sliding_window\":16", 1, { 0, 0 }, 2 },
        { "mistral in every layer",
          "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\",\"sliding_window\""
          ":16",
          1,
          { 16, 16 },
          2 },
        { "mistral without one: null",
          "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\",\"sliding_window\""
          ":null",
          1,
          { 0, 0 },
          2 },
        { "mistral that does not say: transformers' default",
          "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"",
          1,
          { 4096, 4096 },
          2 },
        { "qwen2 does not use it",
          QWEN2 ",\"sliding_window\":16,\"max_window_layers\":0",
          1,
          { 0, 0, 0, 0 },
          4 },
        { "qwen2 from a layer on",
          QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":16,\"max_window_layers\":3",
          2,
          { 0, 0, 0, 16 },
          4 },
        { "qwen2 by layer_types",
          QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":16,\"max_window_layers\":0,"
                "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\","
                "\"full_attention\"]",
          2,
          { 16, 0, 16, 0 },
          4 },
        { "gemma2: every other, from the first",
          FAMILY("Gemma2", "gemma2") ",\"num_hidden_layers\":4,\"sliding_window\":16",
          2,
          { 16, 0, 16, 0 },
          4 },
        { "gemma3: all but each third",
          FAMILY("Gemma3", "gemma3_text") ",\"num_hidden_layers\":4,\"sliding_window\":16,"
                                          "\"sliding_window_pattern\":3",
          2,
          { 16, 16, 0, 16 },
          4 },
        { "cohere2 by layer_types",
          FAMILY("Cohere2", "cohere2") ",\"num_hidden_layers\":3,\"sliding_window\":16,"
                                       "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                                       "\"full_attention\"]",
          2,
          { 0, 16, 0 },
          3 },
        { "phi3 without one", FAMILY("Phi3", "phi3"), 1, { 0, 0 }, 2 },
        { "smollm3: in layers without rope, when it is used",
          FAMILY("SmolLM3", "smollm3") ",\"use_sliding_window\":true,\"sliding_window\":16,"
                                       "\"no_rope_layers\":[1,0]",
          2,
          { 0, 16 },
          2 },
    };
    static struct config config;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = { 0 };
        const char *text = config_text(rows[i].change);
        if (!config_read(&config, text, strlen(text), &err))
            fail_msg("%s: %s", rows[i].sentence, err.text);
        assert_int_equal(config.n_kv_groups, rows[i].n_groups);
        assert_int_equal(config.n_layers, rows[i].n_layers);
        int32_t seen[KV_GROUPS_MAX] = { 0 };
        for (int32_t l = 0; l < config.n_layers; l++) {
            const struct config_layer *layer = &config.layers[l];
            if (layer->window != rows[i].windows[l])
                fail_msg("%s: layer %d has window %d", rows[i].sentence, l, layer->window);
            assert_int_equal(config.windows[layer->kv_group], layer->window);
            assert_int_equal(layer->kv_layer, seen[layer->kv_group]++);
        }
        for (int32_t g = 0; g < config.n_kv_groups; g++)
            assert_int_equal(config.group_layers[g], seen[g]);
    }
}

static void test_fields(void **state)
{
    (void)state;
    static struct config c;
    struct err err = { 0 };
    const char *text =
        config_text("\"attention_bias\":true,\"rope_theta\":5e5,\"dtype\":\"float16\","
                    "\"eos_token_id\":[7,2,7,-1],\"tie_word_embeddings\":true");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.qkv_bias && c.o_bias && !c.mlp_bias && !c.qk_norm && c.tied);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.dtype, DTYPE_F16);
    assert_int_equal(c.gate, GATE_SILU);
    assert_true(c.rope.theta == 5e5 && c.norm_epsilon == 1e-6f && c.bos == -1);
    assert_true(c.attend_scale == (float)(1 / sqrt(32)));
    assert_true(c.n_eos == 2 && c.eos[0] == 7 && c.eos[1] == 2);
    assert_true(c.ctx == 512 && c.ctx_limit == 512);

    text = config_text("-num_key_value_heads");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_int_equal(c.n_kv_heads, 4);

    text = config_text("\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.qk_norm && !c.qkv_bias && c.head_dim == 128); /* Qwen3Config's default */

    text = config_text(QWEN2);
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.qkv_bias && !c.o_bias && !c.qk_norm && c.head_dim == 32);

    /* The dictionary wins over the keys beside it, in either spelling. */
    text =
        config_text("\"rope_theta\":1e4,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":"
                    "4,\"rope_theta\":1e6}");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.rope.kind == ROPE_LINEAR && c.rope.theta == 1e6 && c.rope.factor == 4);
    assert_true(c.ctx == 512 && c.ctx_limit == 2048);
}

/* What each family adds: defaults of absent keys, and keys of its own. */
static void test_families(void **state)
{
    (void)state;
    static struct config c;
    struct err err = { 0 };
#define READ(change)                                                                               \
    do {                                                                                           \
        const char *json = config_text(change);                                                    \
        assert_ok(config_read(&c, json, strlen(json), &err), &err);                                \
    } while (0)
    READ(FAMILY("Gemma2", "gemma2") ",\"query_pre_attn_scalar\":64");
    assert_true(c.norms == NORMS_GEMMA && c.norm_plus_one && c.tied && c.head_dim == 256);
    assert_true(c.gate == GATE_GELU_TANH && c.embed_scale == sqrtf(128));
    assert_true(c.attend_scale == 0.125f && c.attend_soft_cap == 50 && c.logit_soft_cap == 30);
    READ(FAMILY("Gemma2", "gemma2") ",\"attn_logit_softcapping\":null,"
                                    "\"final_logit_softcapping\":8");
    assert_true(c.attend_soft_cap == 0 && c.logit_soft_cap == 8);

    READ(FAMILY("Gemma3", "gemma3_text") ",\"sliding_window_pattern\":2,\"rope_scaling\":"
                                         "{\"rope_type\":\"linear\",\"factor\":8}");
    assert_true(c.layers[0].rope == LAYER_ROPE_LOCAL && c.layers[1].rope == LAYER_ROPE);
    assert_true(c.rope.theta == 1e6 && c.rope.kind == ROPE_LINEAR && c.qk_norm == QK_NORM_HEAD);
    assert_true(c.rope_local.theta == 1e4 && c.rope_local.kind == ROPE_DEFAULT);
    READ(FAMILY("Gemma3", "gemma3_text") ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":"
                                         "\"linear\",\"factor\":4,\"rope_theta\":5e5},"
                                         "\"sliding_attention\":{\"rope_theta\":2e4}}");
    assert_true(c.rope.theta == 5e5 && c.rope.factor == 4 && c.rope_local.theta == 2e4);

    READ(
        FAMILY("Phi3", "phi3") ",\"max_position_embeddings\":256,\"rope_scaling\":{\"type\":\"su\","
                               "\"original_max_position_embeddings\":64,\"short_factor\":[1,1,1,1],"
                               "\"long_factor\":[2,4,8,16]},\"partial_rotary_factor\":0.25");
    assert_true(c.fused_qkv && c.fused_gate && c.rope.kind == ROPE_LONG && c.rope.dim == 8);
    assert_true(rope_border(&c.rope) == 64 && c.ctx == 256 && c.rope.factor == 4);
    assert_true(c.rope.factors[0][3] == 1 && c.rope.factors[1][3] == 16);

    READ(FAMILY("Olmo2", "olmo2"));
    assert_true(c.norms == NORMS_POST && c.qk_norm == QK_NORM_ROW && c.norm_epsilon == 1e-5f);

    READ(FAMILY("Granite", "granite") ",\"logits_scaling\":4,\"residual_multiplier\":0.5,"
                                      "\"embedding_multiplier\":12,\"logit_scale\":7");
    assert_true(c.logit_scale == 0.25f && c.residual_scale == 0.5f && c.embed_scale == 12);
    assert_true(c.attend_scale == 1); /* not 1 / sqrt(head_dim) */

    READ(FAMILY("Starcoder2", "starcoder2"));
    assert_true(c.plain_mlp && c.norm == NORM_LAYER && c.norm_bias && c.gate == GATE_GELU_TANH);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && c.windows[0] == 0);
    READ(FAMILY("Starcoder2", "starcoder2") ",\"use_bias\":false,\"norm_epsilon\":1e-3");
    assert_true(!c.qkv_bias && !c.mlp_bias && c.norm_epsilon == 1e-3f);

    READ(FAMILY("StableLm", "stablelm") ",\"use_qkv_bias\":true,\"use_parallel_residual\":true");
    assert_true(c.qkv_bias && !c.o_bias && c.parallel && c.norms == NORMS_SHARED);
    assert_true(c.rope.dim == 8);

    READ(FAMILY("GPTNeoX", "gpt_neox") ",\"rotary_pct\":0.5,\"rotary_emb_base\":2e4,"
                                       "\"use_parallel_residual\":false");
    assert_true(c.naming == NAMING_NEOX && c.mlp_bias && !c.parallel && c.norms == NORMS_PRE);
    assert_true(c.rope.dim == 16 && c.rope.theta == 2e4 && c.gate == GATE_GELU);

    READ(FAMILY("SmolLM3", "smollm3") ",\"no_rope_layer_interval\":2");
    assert_true(c.layers[0].rope == LAYER_ROPE && c.layers[1].rope == LAYER_ROPE_NONE);
    assert_true(c.rope.theta == 2e6 && c.tied);

    READ(FAMILY("Glm4", "glm4") ",\"head_dim\":32");
    assert_true(c.norms == NORMS_GLM && c.fused_gate && !c.fused_qkv && c.qkv_bias && !c.o_bias);
    assert_true(c.rope.interleaved && c.rope.dim == 16 && c.norm_epsilon == 1.5625e-7f);

    READ(FAMILY("Cohere2", "cohere2") ",\"sliding_window_pattern\":2");
    assert_true(c.parallel && c.norms == NORMS_SHARED && c.norm == NORM_LAYER && !c.norm_bias);
    assert_true(c.layers[0].rope == LAYER_ROPE && c.layers[1].rope == LAYER_ROPE_NONE);
    assert_true(c.rope.interleaved && c.logit_scale == 0.0625f);

    READ(FAMILY("BitNet", "bitnet"));
    assert_true(c.sub_norms && c.gate == GATE_RELU2 && c.rope.theta == 5e5);
#undef READ
}

/* Where a context ends: dynamic stops where its frequencies would begin to change. */
static void test_positions(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *change;
        int32_t ctx, limit;
    } rows[] = {
        { "dynamic: the trained length", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}",
          512, 512 },
        { "dynamic with a shorter original length",
          "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4,"
          "\"original_max_position_embeddings\":128}",
          128, 128 },
        { "yarn: stretched",
          "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
          "\"original_max_position_embeddings\":512}",
          2048, 2048 },
        { "yarn: stretched already",
          "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
          "\"original_max_position_embeddings\":128}",
          512, 512 },
        { "llama3: as stated",
          "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
          "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}",
          512, 512 },
    };
    static struct config c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = { 0 };
        const char *text = config_text(rows[i].change);
        if (!config_read(&c, text, strlen(text), &err))
            fail_msg("%s: %s", rows[i].sentence, err.text);
        if (c.ctx != rows[i].ctx || c.ctx_limit != rows[i].limit)
            fail_msg("%s: %d of %d", rows[i].sentence, c.ctx, c.ctx_limit);
    }
}

/* Frequencies against the papers' formulas in double. */
static double frequency(const struct rope_config *r, int32_t i)
{
    const double plain = pow(r->theta, -2.0 * i / r->dim);
    if (r->kind == ROPE_LINEAR)
        return plain / r->factor;
    if (r->kind == ROPE_LONG)
        return plain / (double)r->factors[0][i];
    if (r->kind == ROPE_LLAMA3) {
        const double turns = r->original * plain / (2 * M_PI); /* over the original length */
        double smooth = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
        smooth = fmin(fmax(smooth, 0), 1);
        return plain * (smooth + (1 - smooth) / r->factor);
    }
    if (r->kind == ROPE_YARN) {
        /* Pair i turns original * plain / 2 pi times; the ramp runs between the pairs that turn
         * beta_fast and beta_slow times, rounded outwards. */
        const double scale = r->dim / (2 * log(r->theta));
        double low = scale * log(r->original / (r->beta_fast * 2 * M_PI));
        double high = scale * log(r->original / (r->beta_slow * 2 * M_PI));
        if (r->truncate) {
            low = floor(low);
            high = ceil(high);
        }
        low = fmax(low, 0);
        high = fmin(high, r->dim - 1);
        const double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        return plain * (1 - ramp) + plain / r->factor * ramp;
    }
    return plain;
}

static void test_frequencies(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct rope_config rope;
        double scale; /* of cos and sin */
    } rows[] = {
        { "default", { .kind = ROPE_DEFAULT, .theta = 10000, .dim = 64 }, 1 },
        { "linear", { .kind = ROPE_LINEAR, .theta = 10000, .dim = 64, .factor = 2 }, 1 },
        { "dynamic, inside the original length",
          { .kind = ROPE_DYNAMIC, .theta = 10000, .dim = 64, .factor = 2, .original = 512 },
          1 },
        { "llama 3.1",
          { .kind = ROPE_LLAMA3,
            .theta = 500000,
            .dim = 128,
            .factor = 8,
            .original = 8192,
            .low_freq_factor = 1,
            .high_freq_factor = 4 },
          1 },
        { "yarn, qwen's", /* 0.1 ln 4 + 1 */
          { .kind = ROPE_YARN,
            .theta = 1e6,
            .dim = 128,
            .factor = 4,
            .original = 32768,
            .beta_fast = 32,
            .beta_slow = 1,
            .truncate = true },
          1.1386294361119891 },
        { "yarn without rounding",
          { .kind = ROPE_YARN,
            .theta = 150000,
            .dim = 64,
            .factor = 32,
            .original = 4096,
            .beta_fast = 32,
            .beta_slow = 1 },
          1.3465735902799727 },
        { "yarn with both mscales", /* (0.1 * 0.707 * ln 40 + 1) / (0.1 * 1 * ln 40 + 1) */
          { .kind = ROPE_YARN,
            .theta = 10000,
            .dim = 64,
            .factor = 40,
            .original = 4096,
            .beta_fast = 32,
            .beta_slow = 1,
            .truncate = true,
            .mscale = 0.707,
            .mscale_all = 1 },
          0.9210423553163399 },
        { "yarn with its attention factor",
          { .kind = ROPE_YARN,
            .theta = 10000,
            .dim = 64,
            .factor = 40,
            .original = 4096,
            .beta_fast = 32,
            .beta_slow = 1,
            .truncate = true,
            .attention_factor = 0.5 },
          0.5 },
        { "longrope", /* sqrt(1 + ln 32 / ln 4096) */
          { .kind = ROPE_LONG,
            .theta = 10000,
            .dim = 8,
            .factor = 32,
            .original = 4096,
            .factors = { { 1, 1.5f, 2, 3 }, { 4, 8, 16, 64 } } },
          1.1902380714238083 },
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        float found[2 * 64], scale;
        rope_frequencies(&rows[k].rope, found, &scale);
        for (int32_t i = 0; i < rows[k].rope.dim / 2; i++) {
            const double wanted = frequency(&rows[k].rope, i);
            if (fabs((double)found[i] / wanted - 1) > 2e-6)
                fail_msg("%s: pair %d is %.9g, want %.9g", rows[k].sentence, i, (double)found[i],
                         wanted);
        }
        for (int32_t i = 0; rope_variants(&rows[k].rope) > 1 && i < rows[k].rope.dim / 2; i++)
            assert_true(fabsf(found[rows[k].rope.dim / 2 + i] * rows[k].rope.factors[1][i] -
                              found[i] * rows[k].rope.factors[0][i]) <= 1e-6f * found[i]);
        if (fabs((double)scale - rows[k].scale) > 1e-6)
            fail_msg("%s: scale %.9g", rows[k].sentence, (double)scale);
    }
}

/* Settings of rope that have a meaning of their own. */
static void test_ropes(void **state)
{
    (void)state;
    static struct config c;
    struct err err = { 0 };
    const char *text = config_text(YARN("\"factor\":4,\"beta_fast\":0,\"beta_slow\":0"));
    assert_ok(config_read(&c, text, strlen(text), &err), &err); /* 0: as absent */
    assert_true(c.rope.kind == ROPE_YARN && c.rope.beta_fast == 32 && c.rope.beta_slow == 1);
    assert_string_equal(rope_name(c.rope.kind), "yarn");
    text = config_text("\"partial_rotary_factor\":1,\"rope_scaling\":{\"type\":\"dynamic\","
                       "\"factor\":2,\"original_max_position_embeddings\":4096}");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.rope.kind == ROPE_DYNAMIC && c.rope.original == 512); /* not above the whole */
    assert_string_equal(rope_name(c.rope.kind), "dynamic");
    assert_string_equal(rope_name(ROPE_DEFAULT), "default");
    text = config_text(FAMILY(
        "Gemma3",
        "gemma3_text") ",\"rope_parameters\":{\"full_attention\":"
                       "{\"rope_type\":\"default\",\"rope_theta\":5e5},\"sliding_attention\":"
                       "{\"rope_type\":\"default\",\"rope_theta\":3e4}}");
    assert_ok(config_read(&c, text, strlen(text), &err), &err);
    assert_true(c.rope.theta == 5e5 && c.rope_local.theta == 3e4);
    text = config_text(FAMILY("Gemma3", "gemma3_text") ",\"rope_parameters\":4");
    assert_false(config_read(&c, text, strlen(text), &err));
    assert_non_null(strstr(err.text, "rope_parameters must be an object or null"));
}

/* Files beside config.json: by their names, where config.json says nothing. */
static void test_quantize(void **state)
{
    (void)state;
    static const struct {
        const char *change, *name, *text;
        enum quant_method method;
        const char *says; /* NULL: read */
    } rows[] = {
        { "", "quantize_config.json", "{\"bits\":4,\"group_size\":32}", QUANT_GPTQ, NULL },
        { "", "quant_config.json", "{\"w_bit\":4}", QUANT_AWQ, NULL },
        { "", "quant_config.json", "{\"quant_method\":\"gptq\"}", QUANT_GPTQ, NULL },
        { "", "hf_quant_config.json", "{\"quantization\":{\"quant_algo\":\"FP8\"}}", QUANT_MODELOPT,
          NULL },
        { "", "hf_quant_config.json", "{\"producer\":{}}", QUANT_NONE, NULL },
        { "", "hf_quant_config.json", "[1]", QUANT_NONE, NULL },
        { "\"quantization_config\":{\"quant_method\":\"awq\"}", "quantize_config.json", "nonsense",
          QUANT_AWQ, NULL }, /* config.json has said it */
        { "", "quantize_config.json", "nonsense", QUANT_NONE, "quantize_config.json: " },
        { "", "quantize_config.json", "[1]", QUANT_NONE, "quantize_config.json must be an object" },
        { "", "quantize_config.json", "{\"bits\":0}", QUANT_NONE,
          "quantize_config.json: bits must be an integer from 1 to 16" },
        { "", "quantize_config.json", "{\"checkpoint_format\":\"marlin\"}", QUANT_NONE,
          "marlin checkpoints are shuffled" },
        { "", "hf_quant_config.json", "{\"quantization\":4}", QUANT_NONE,
          "hf_quant_config.json must be an object" },
        { "", "hf_quant_config.json", "{\"quantization\":{\"quant_algo\":\"INT1\"}}", QUANT_NONE,
          "quant_algo \"INT1\" is not supported" },
    };
    static struct config c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = { 0 };
        const char *text = config_text(rows[i].change);
        assert_ok(config_read(&c, text, strlen(text), &err), &err);
        const bool ok =
            config_read_quantize(&c, rows[i].name, rows[i].text, strlen(rows[i].text), &err);
        if (ok != (rows[i].says == NULL) || c.quant.method != rows[i].method)
            fail_msg("row %zu: method %d, %s", i, c.quant.method, ok ? "read" : err.text);
        if (!ok && strstr(err.text, rows[i].says) == NULL)
            fail_msg("row %zu: %s", i, err.text);
        config_clear(&c);
    }
}

static void test_dummies(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t layers, hidden, head_dim, vocab;
        bool tied;
    } rows[] = { { "qwen2.5-0.5b", 24, 896, 64, 151936, true },
                 { "llama-3.2-1b", 16, 2048, 64, 128256, true },
                 { "llama-3.1-8b", 32, 4096, 128, 128256, false } };
    static struct config c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = { 0 };
        const char *text = model_dummy_config(rows[i].name);
        assert_non_null(text);
        assert_ok(config_read(&c, text, strlen(text), &err), &err);
        assert_int_equal(c.n_layers, rows[i].layers);
        assert_int_equal(c.hidden, rows[i].hidden);
        assert_int_equal(c.head_dim, rows[i].head_dim);
        assert_int_equal(c.vocab, rows[i].vocab);
        assert_int_equal(c.tied, rows[i].tied);
    }
    assert_null(model_dummy_config("llama-9"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_windows),
        cmocka_unit_test(test_fields),    cmocka_unit_test(test_families),
        cmocka_unit_test(test_positions), cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_ropes),     cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_dummies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
