/* dummy.c - config.json of models whose shape is known by name, for `dummy:NAME`: random weights,
 * no files. Shapes as published by their makers. */
#include <string.h>
#include "host/model/model.h"

static const char QWEN2_5_0_5B[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"hidden_size\":896,"
    "\"intermediate_size\":4864,\"num_hidden_layers\":24,\"num_attention_heads\":14,"
    "\"num_key_value_heads\":2,\"vocab_size\":151936,\"max_position_embeddings\":32768,"
    "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-06,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"use_sliding_window\":false,\"torch_dtype\":\"bfloat16\"}";
static const char LLAMA_3_2_1B[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":2048,"
    "\"intermediate_size\":8192,\"num_hidden_layers\":16,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"head_dim\":64,\"vocab_size\":128256,"
    "\"max_position_embeddings\":131072,\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":"
    "\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
    "\"original_max_position_embeddings\":8192},\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\"}";
static const char LLAMA_3_1_8B[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4096,"
    "\"intermediate_size\":14336,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"vocab_size\":128256,\"max_position_embeddings\":131072,"
    "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
    "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},"
    "\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
    "\"torch_dtype\":\"bfloat16\"}";

const char *model_dummy_config(const char *name)
{
    static const struct {
        const char *name, *config;
    } known[] = { { "qwen2.5-0.5b", QWEN2_5_0_5B },
                  { "llama-3.2-1b", LLAMA_3_2_1B },
                  { "llama-3.1-8b", LLAMA_3_1_8B } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0)
            return known[i].config;
    return NULL;
}
