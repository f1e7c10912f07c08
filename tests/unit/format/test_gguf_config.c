/* The config.json that is written for each architecture, line by line, and what is refused. */
#include "tests/support/gguf_file.h"
#include <math.h>
#include "host/base/json.h"
#include "host/format/gguf_folder.h"

enum { KEYS_MAX = 6, LINES_MAX = 9 };

struct key {
    const char *name; /* behind "ARCH." */
    double number;    /* integers as u32, others as f32 */
    const char *text; /* not NULL: a text */
};
struct row {
    const char *sentence, *arch;
    struct key keys[KEYS_MAX];
    const char *tensors[3];       /* vectors [4] more */
    const char *lines[LINES_MAX]; /* that must be in the text; "!": must not */
};

static void put_model(struct gguf_file *f, const struct row *row)
{
    static const struct {
        const char *name;
        uint32_t value;
    } ints[] = { { "context_length", 64 },      { "embedding_length", 16 },
                 { "block_count", 1 },          { "feed_forward_length", 24 },
                 { "attention.head_count", 2 }, { "attention.head_count_kv", 1 } };
    char key[96];
    gguf_file_init(f);
    gguf_file_text(f, "general.architecture", row->arch);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        bool replaced = false;
        for (int k = 0; k < KEYS_MAX; k++)
            replaced = replaced ||
                       (row->keys[k].name != NULL && strcmp(row->keys[k].name, ints[i].name) == 0);
        snprintf(key, sizeof key, "%s.%s", row->arch, ints[i].name);
        if (!replaced)
            gguf_file_int(f, key, ints[i].value);
    }
    for (int k = 0; k < KEYS_MAX && row->keys[k].name != NULL; k++) {
        const struct key *extra = &row->keys[k];
        snprintf(key, sizeof key, "%s.%s", row->arch, extra->name);
        if (extra->text != NULL)
            gguf_file_text(f, key, extra->text);
        else if (extra->number == floor(extra->number))
            gguf_file_int(f, key, (uint32_t)extra->number);
        else
            gguf_file_float(f, key, (float)extra->number);
    }
    gguf_file_tensor(f, "token_embd.weight", 40, 16, 0);
    for (int i = 0; i < 3 && row->tensors[i] != NULL; i++)
        gguf_file_tensor(f, row->tensors[i], 4, 0, 0);
}

static void open_file(struct hf_folder *folder, struct gguf_file *f, void **memory, size_t *size)
{
    struct file_map map;
    struct err err;
    uint8_t *bytes = gguf_file_bytes(f, size);
    *memory = guard_copy(bytes, *size);
    free(bytes);
    file_map_memory(&map, *memory, *size);
    *folder = (struct hf_folder){ 0 };
    assert_ok(gguf_folder_open_map(folder, map, "m.gguf", &err), &err);
}

#define ROPE(x) "rope." x
static const struct row ROWS[] = {
    { "q, k, v biased: Qwen2's arithmetic",
      "llama",
      { { 0 } },
      { "blk.0.attn_q.bias" },
      { "\"Qwen2ForCausalLM\"", "\"model_type\": \"qwen2\"" } },
    { "all of attention biased",
      "llama",
      { { 0 } },
      { "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_down.bias" },
      { "\"LlamaForCausalLM\"", "\"attention_bias\": true", "\"mlp_bias\": true" } },
    { "a window that llama.cpp does not apply",
      "qwen2",
      { { "attention.sliding_window", 16, 0 } },
      { 0 },
      { "!sliding_window" } },
    { "heads of another width",
      "qwen3",
      { { "attention.key_length", 32, 0 }, { "attention.value_length", 32, 0 } },
      { 0 },
      { "\"head_dim\": 32", "\"Qwen3ForCausalLM\"" } },
    { "linear rope",
      "llama",
      { { ROPE("scaling.type"), 0, "linear" }, { ROPE("scaling.factor"), 4, 0 } },
      { 0 },
      { "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4}" } },
    { "linear rope of old writers",
      "llama",
      { { ROPE("scale_linear"), 0.5, 0 } },
      { 0 },
      { "{\"rope_type\": \"linear\", \"factor\": 0.5}" } },
    { "no scaling, said",
      "llama",
      { { ROPE("scaling.type"), 0, "none" } },
      { 0 },
      { "!rope_scaling" } },
    { "yarn",
      "qwen2",
      { { ROPE("scaling.type"), 0, "yarn" },
        { ROPE("scaling.factor"), 4, 0 },
        { ROPE("scaling.original_context_length"), 16, 0 },
        { ROPE("scaling.yarn_beta_fast"), 30, 0 },
        { ROPE("scaling.yarn_beta_slow"), 2, 0 } },
      { 0 },
      { "{\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 16, \"factor\": 4, "
        "\"beta_fast\": 30, \"beta_slow\": 2}" } },
    { "divisors",
      "llama",
      { { 0 } },
      { "rope_freqs.weight" },
      { "\"rope_type\": \"longrope\", \"factor\": 1, \"attention_factor\": 1",
        "\"short_factor\": [1, 2, 3, 4], \"long_factor\": [1, 2, 3, 4]" } },
    { "longrope",
      "phi3",
      { { ROPE("scaling.original_context_length"), 32, 0 },
        { ROPE("scaling.attn_factor"), 1.25, 0 },
        { "attention.sliding_window", 0, 0 } },
      { "rope_factors_long.weight", "rope_factors_short.weight" },
      { "\"original_max_position_embeddings\": 32", "\"attention_factor\": 1.25",
        "\"long_factor\": [1, 2, 3, 4]", "\"sliding_window\": null", "\"Phi3ForCausalLM\"" } },
    { "a part of the head",
      "stablelm",
      { { ROPE("dimension_count"), 2, 0 }, { "attention.layer_norm_epsilon", 0.5, 0 } },
      { "blk.0.attn_q.bias", "blk.0.ffn_norm.weight" },
      { "\"partial_rotary_factor\": 0.25", "\"layer_norm_eps\": 0.5", "\"use_qkv_bias\": true",
        "\"use_parallel_residual\": false", "\"qk_layernorm\": false", "!rms_norm_eps" } },
    { "starcoder2",
      "starcoder2",
      { { "attention.layer_norm_epsilon", 0.5, 0 } },
      { "blk.0.attn_q.bias" },
      { "\"norm_epsilon\": 0.5", "\"use_bias\": true", "\"hidden_act\": \"gelu_pytorch_tanh\"" } },
    { "gemma2",
      "gemma2",
      { { "attn_logit_softcapping", 50, 0 },
        { "final_logit_softcapping", 30, 0 },
        { "attention.sliding_window", 16, 0 } },
      { 0 },
      { "\"attn_logit_softcapping\": 50", "\"final_logit_softcapping\": 30",
        "\"query_pre_attn_scalar\": 8", "\"sliding_window\": 16", "\"norm_weight_is_gain\": true",
        "\"hidden_activation\": \"gelu_pytorch_tanh\"" } },
    { "gemma2 without a cap",
      "gemma2",
      { { "attn_logit_softcapping", 0, 0 } },
      { 0 },
      { "\"attn_logit_softcapping\": null" } },
    { "the largest gemma2 scales by its width",
      "gemma2",
      { { "block_count", 46, 0 },
        { "attention.key_length", 4, 0 },
        { "attention.value_length", 4, 0 } },
      { 0 },
      { "\"query_pre_attn_scalar\": 8", "\"head_dim\": 4" } },
    { "gemma3",
      "gemma3",
      { { ROPE("freq_base"), 1000000, 0 },
        { ROPE("scaling.type"), 0, "linear" },
        { ROPE("scaling.factor"), 8, 0 } },
      { 0 },
      { "\"rope_theta\": 1000000", "\"rope_local_base_freq\": 10000", "\"Gemma3ForCausalLM\"",
        "!attn_logit_softcapping" } },
    { "granite",
      "granite",
      { { "embedding_scale", 12, 0 },
        { "residual_scale", 0.25, 0 },
        { "attention.scale", 0.125, 0 },
        { "logit_scale", 8, 0 } },
      { 0 },
      { "\"embedding_multiplier\": 12", "\"residual_multiplier\": 0.25",
        "\"attention_multiplier\": 0.125", "\"logits_scaling\": 8" } },
    { "cohere2",
      "cohere2",
      { { "logit_scale", 0.25, 0 },
        { "attention.layer_norm_epsilon", 0.5, 0 },
        { "attention.sliding_window", 16, 0 } },
      { 0 },
      { "\"logit_scale\": 0.25", "\"layer_norm_eps\": 0.5", "!logits_scaling" } },
    { "glm4",
      "glm4",
      { { ROPE("dimension_count"), 4, 0 } },
      { "blk.0.attn_q.bias" },
      { "\"partial_rotary_factor\": 0.5", "\"attention_bias\": true" } },
    { "qwen3moe",
      "qwen3moe",
      { { "expert_count", 4, 0 },
        { "expert_used_count", 2, 0 },
        { "expert_feed_forward_length", 12, 0 } },
      { 0 },
      { "\"num_experts\": 4", "\"num_experts_per_tok\": 2", "\"moe_intermediate_size\": 12",
        "\"norm_topk_prob\": true", "!num_local_experts" } },
    { "qwen2moe",
      "qwen2moe",
      { { "expert_count", 4, 0 },
        { "expert_used_count", 2, 0 },
        { "expert_shared_feed_forward_length", 20, 0 } },
      { 0 },
      { "\"shared_expert_intermediate_size\": 20", "\"norm_topk_prob\": false" } },
    { "gpt-oss",
      "gpt-oss",
      { { "expert_count", 4, 0 },
        { "expert_used_count", 2, 0 },
        { "expert_feed_forward_length", 12, 0 },
        { "attention.sliding_window", 16, 0 } },
      { "blk.0.attn_q.bias", "blk.0.attn_output.bias" },
      { "\"num_local_experts\": 4", "\"intermediate_size\": 12", "\"sliding_window\": 16",
        "\"attention_bias\": true" } },
    { "olmo2",
      "olmo2",
      { { "attention.layer_norm_rms_epsilon", 0.5, 0 } },
      { 0 },
      { "\"rms_norm_eps\": 0.5", "\"Olmo2ForCausalLM\"" } },
    { "smollm3", "smollm3", { { 0 } }, { 0 }, { "\"SmolLM3ForCausalLM\"" } },
};

static void test_lines(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct gguf_file f;
        struct hf_folder folder;
        struct cJSON *tree;
        struct err err;
        void *memory;
        size_t size;
        put_model(&f, &ROWS[i]);
        open_file(&folder, &f, &memory, &size);
        if (folder.config_missing.code != ERR_NONE)
            fail_msg("%s: %s", ROWS[i].sentence, folder.config_missing.text);
        assert_ok(json_parse(folder.config.bytes, folder.config.size, &JSON_FILE_LIMITS, ERR_FORMAT,
                             &tree, &err),
                  &err);
        json_free(tree);
        for (int k = 0; k < LINES_MAX && ROWS[i].lines[k] != NULL; k++) {
            const char *line = ROWS[i].lines[k];
            const bool wanted = line[0] != '!';
            if ((strstr(folder.config.bytes, line + !wanted) != NULL) != wanted)
                fail_msg("%s: %s: %s in\n%s", ROWS[i].sentence, line,
                         wanted ? "is not" : "should not be", folder.config.bytes);
        }
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* Values a layer are fine where they agree. */
static void test_arrays(void **state)
{
    (void)state;
    static const struct {
        int32_t values[2];
        enum gguf_type type;
        enum err_code code;
        const char *text;
    } rows[] = {
        { { 2, 2 }, GGUF_I32, ERR_NONE, NULL },
        { { 2, 1 },
          GGUF_I32,
          ERR_UNSUPPORTED,
          "llama.attention.head_count: differs from layer to layer" },
        { { -2, -2 }, GGUF_I32, ERR_FORMAT, "llama.attention.head_count: is -2, want 0 to" },
        { { 0, 0 }, GGUF_I32, ERR_FORMAT, "llama.attention.head_count: is 0, want 1 or more" },
        { { 2, 2 },
          GGUF_F32,
          ERR_FORMAT,
          "llama.attention.head_count: is an array of f32, want an integer" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct gguf_file f;
        struct hf_folder folder;
        void *memory;
        size_t size;
        gguf_file_init(&f);
        gguf_file_tensor(&f, "token_embd.weight", 40, 16, 0);
        gguf_file_text(&f, "general.architecture", "llama");
        gguf_file_int(&f, "llama.context_length", 64);
        gguf_file_int(&f, "llama.embedding_length", 16);
        gguf_file_int(&f, "llama.block_count", 2);
        gguf_file_int(&f, "llama.feed_forward_length", 24);
        if (rows[i].type == GGUF_I32)
            gguf_file_ints(&f, "llama.attention.head_count", rows[i].values, 2);
        else
            gguf_file_floats(&f, "llama.attention.head_count", (const float[]){ 2, 2 }, 2);
        open_file(&folder, &f, &memory, &size);
        const struct err *why = &folder.config_missing;
        if (why->code != rows[i].code ||
            (rows[i].text != NULL && strstr(why->text, rows[i].text) == NULL))
            fail_msg("row %zu: code %d, \"%s\"", i, why->code, why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* Factors of rope come from a tensor: its form and every number count. */
static void test_factors(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        float values[4];
        int32_t rows, cols;
        const char *text; /* NULL: accepted */
    } rows[] = {
        { "good", { 1, 2, 3, 4 }, 4, 0, NULL },
        { "a matrix", { 1, 2, 3, 4 }, 2, 2, "rope_freqs.weight: want a vector of at most 512" },
        { "zero", { 1, 0, 3, 4 }, 4, 0, "rope_freqs.weight: element 1 is 0, want above 0" },
        { "negative", { 1, 2, -3, 4 }, 4, 0, "element 2 is -3" },
        { "not a number", { 1, 2, 3, NAN }, 4, 0, "element 3 is nan" },
        { "infinite", { INFINITY, 2, 3, 4 }, 4, 0, "element 0 is inf" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row plain = { "", "llama", { { 0 } }, { 0 }, { 0 } };
        struct gguf_file f;
        struct hf_folder folder;
        void *memory;
        size_t size;
        put_model(&f, &plain);
        gguf_file_entry(&f, "rope_freqs.weight", 0, rows[i].rows, rows[i].cols, 0);
        buf_put(&f.data, rows[i].values, sizeof rows[i].values);
        open_file(&folder, &f, &memory, &size);
        const struct err *why = &folder.config_missing;
        if ((rows[i].text == NULL) != (why->code == ERR_NONE) ||
            (rows[i].text != NULL && strstr(why->text, rows[i].text) == NULL))
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, why->code, why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* Every key that is read, as a text in place of a number, or a number in place of a text. */
static void test_wrong_types(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *key;
        bool text; /* what it should be */
    } rows[] = {
        { "llama", "context_length", false },
        { "llama", "embedding_length", false },
        { "llama", "block_count", false },
        { "llama", "feed_forward_length", false },
        { "llama", "attention.head_count", false },
        { "llama", "attention.head_count_kv", false },
        { "llama", "attention.key_length", false },
        { "llama", "attention.value_length", false },
        { "llama", "attention.layer_norm_rms_epsilon", false },
        { "llama", "rope.freq_base", false },
        { "llama", "rope.dimension_count", false },
        { "llama", "rope.scaling.type", true },
        { "llama", "rope.scaling.factor", false },
        { "llama", "rope.scale_linear", false },
        { "llama", "expert_count", false },
        { "qwen3moe", "expert_count", false },
        { "gemma3", "rope.freq_base_swa", false },
        { "gemma3", "attention.sliding_window", false },
        { "gemma2", "attn_logit_softcapping", false },
        { "gemma2", "final_logit_softcapping", false },
        { "granite", "embedding_scale", false },
        { "granite", "residual_scale", false },
        { "granite", "attention.scale", false },
        { "granite", "logit_scale", false },
        { "cohere2", "logit_scale", false },
        { "stablelm", "attention.layer_norm_epsilon", false },
        { "gpt-oss", "expert_feed_forward_length", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row row = {
            "", rows[i].arch, { { rows[i].key, 7, rows[i].text ? NULL : "7" } }, { 0 }, { 0 }
        };
        struct gguf_file f;
        struct hf_folder folder;
        void *memory;
        size_t size;
        char wanted[96];
        put_model(&f, &row);
        open_file(&folder, &f, &memory, &size);
        snprintf(wanted, sizeof wanted, "metadata %s.%s: is %s, want ", rows[i].arch, rows[i].key,
                 rows[i].text ? "u32" : "string");
        const struct err *why = &folder.config_missing;
        if (why->code != ERR_FORMAT || strstr(why->text, wanted) == NULL)
            fail_msg("%s: code %d, \"%s\"", wanted, why->code, why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_wrong_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
