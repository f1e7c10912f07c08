/* What config.json says about experts: defaults, both spellings, which layers have them, refusals.
 */
#include "tests/support/support.h"
#include "host/model/config.h"

#define COMMON                                                                                     \
    "\"vocab_size\":320,\"hidden_size\":128,\"intermediate_size\":192,\"num_hidden_layers\":4,"    \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2"
#define MIXTRAL "\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"," COMMON
#define QWEN2   "\"architectures\":[\"Qwen2MoeForCausalLM\"],\"model_type\":\"qwen2_moe\"," COMMON
#define QWEN3   "\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\"," COMMON
#define GPT_OSS "\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\"," COMMON

static struct config config;
static bool read_text(const char *members, struct err *err)
{
    char text[1024];
    snprintf(text, sizeof text, "{%s}", members);
    *err = (struct err){ 0 };
    return config_read(&config, text, strlen(text), err);
}

static void test_fields(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *members, *layers; /* layers: x has experts */
        int32_t n, n_chosen, width, shared_width;
        enum route route;
    } rows[] = {
        { "mixtral's defaults", MIXTRAL, "xxxx", 8, 2, 192, 0, ROUTE_SOFTMAX_CHOSEN },
        { "mixtral", MIXTRAL ",\"num_local_experts\":4,\"num_experts_per_tok\":1", "xxxx", 4, 1,
          192, 0, ROUTE_SOFTMAX_CHOSEN },
        { "mixtral knows neither norm_topk_prob nor layers without experts",
          MIXTRAL ",\"norm_topk_prob\":false,\"decoder_sparse_step\":2", "xxxx", 8, 2, 192, 0,
          ROUTE_SOFTMAX_CHOSEN },
        { "qwen2_moe's defaults", QWEN2, "xxxx", 60, 4, 1408, 5632, ROUTE_SOFTMAX },
        { "qwen2_moe",
          QWEN2 ",\"num_experts\":6,\"moe_intermediate_size\":64,\"norm_topk_prob\":true,"
                "\"shared_expert_intermediate_size\":96",
          "xxxx", 6, 4, 64, 96, ROUTE_SOFTMAX_CHOSEN },
        { "qwen3_moe's defaults", QWEN3, "xxxx", 128, 8, 768, 0, ROUTE_SOFTMAX },
        { "the number of experts as transformers 5 spells it", QWEN3 ",\"num_local_experts\":16",
          "xxxx", 16, 8, 768, 0, ROUTE_SOFTMAX },
        { "experts in every other layer", QWEN3 ",\"decoder_sparse_step\":2", ".x.x", 128, 8, 768,
          0, ROUTE_SOFTMAX },
        { "gpt-oss", GPT_OSS ",\"num_local_experts\":32,\"num_experts_per_tok\":4", "xxxx", 32, 4,
          192, 0, ROUTE_SOFTMAX_CHOSEN },
        { "an MLP by name", QWEN3 ",\"mlp_only_layers\":[0,3,77]", ".xx.", 128, 8, 768, 0,
          ROUTE_SOFTMAX },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err;
        if (!read_text(rows[i].members, &err))
            fail_msg("%s: %s", rows[i].sentence, err.text);
        const struct config_experts *e = &config.experts;
        if (e->n != rows[i].n || e->n_chosen != rows[i].n_chosen || e->width != rows[i].width ||
            e->shared_width != rows[i].shared_width || e->route != rows[i].route)
            fail_msg("%s: %d of %d experts of %d, shared %d, route %d", rows[i].sentence,
                     e->n_chosen, e->n, e->width, e->shared_width, (int)e->route);
        for (int32_t l = 0; l < 4; l++)
            if (config.layers[l].experts != (rows[i].layers[l] == 'x'))
                fail_msg("%s: layer %d", rows[i].sentence, l);
        const bool gpt_oss = config.sinks;
        assert_int_equal(gpt_oss, strstr(rows[i].members, "gpt_oss") != NULL);
        assert_int_equal(e->gate, gpt_oss ? GATE_SWIGLU_CLAMPED : GATE_SILU);
        assert_int_equal(e->bias, gpt_oss);
        assert_int_equal(e->transposed, gpt_oss);
        assert_true(!gpt_oss || e->gate_limit == 7.0f);
    }
    struct err err;
    assert_ok(read_text("\"model_type\":\"llama\",\"num_experts\":4," COMMON, &err), &err);
    assert_int_equal(config.experts.n, 0); /* not a key of llama */
    assert_false(config.layers[0].experts);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *members;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "no experts", QWEN3 ",\"num_experts\":0", ERR_FORMAT, "num_experts" },
        { "too many", QWEN3 ",\"num_experts\":1025", ERR_FORMAT, "num_experts" },
        { "half an expert", QWEN3 ",\"num_experts\":1.5", ERR_FORMAT, "num_experts" },
        { "none chosen", MIXTRAL ",\"num_experts_per_tok\":0", ERR_FORMAT, "num_experts_per_tok" },
        { "more chosen than there are", MIXTRAL ",\"num_experts_per_tok\":9", ERR_FORMAT,
          "num_experts_per_tok 9 is above the number of experts, 8" },
        { "65 chosen", QWEN3 ",\"num_experts_per_tok\":65", ERR_FORMAT, "num_experts_per_tok" },
        { "no width", QWEN3 ",\"moe_intermediate_size\":0", ERR_FORMAT, "moe_intermediate_size" },
        { "a shared expert of 2^40 features",
          QWEN2 ",\"shared_expert_intermediate_size\":1099511627776", ERR_FORMAT,
          "shared_expert_intermediate_size" },
        { "norm_topk_prob is a number", QWEN3 ",\"norm_topk_prob\":1", ERR_FORMAT,
          "norm_topk_prob" },
        { "a step of no layers", QWEN3 ",\"decoder_sparse_step\":0", ERR_FORMAT,
          "decoder_sparse_step" },
        { "layers are not a list", QWEN3 ",\"mlp_only_layers\":3", ERR_FORMAT,
          "mlp_only_layers must be a list" },
        { "another slope of the clamped gate", GPT_OSS ",\"swiglu_alpha\":1.5", ERR_UNSUPPORTED,
          "swiglu_alpha 1.5; supported: 1.702" },
        { "a negative limit", GPT_OSS ",\"swiglu_limit\":-1", ERR_FORMAT, "swiglu_limit" },
        { "a layer below 0", QWEN3 ",\"mlp_only_layers\":[1,-1]", ERR_FORMAT,
          "mlp_only_layers[1]" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err;
        if (read_text(rows[i].members, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_fields),
                                        cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
