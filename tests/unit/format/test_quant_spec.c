/* quantization_config: what is recognized, and the refusal that names it. */
#include "tests/support/support.h"
#include "host/format/quant_spec.h"

static bool read_spec(const char *json, struct quant_spec *spec, struct err *err)
{
    struct cJSON *tree = NULL;
    assert_ok(json_parse(json, strlen(json), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err), err);
    struct json_ref root = json_root(tree);
    bool ok = quant_spec_read(spec, &root, err);
    json_free(tree);
    return ok;
}

#define Q(text) "{\"quantization_config\":{" text "}}"

static void test_recognized(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json;
        enum quant_method method;
        int32_t bits, group;
        bool symmetric;
        const char *refusal; /* the start of the message; NULL: can be loaded */
    } rows[] = {
        { "no key at all", "{\"model_type\":\"llama\"}", QUANT_NONE, 0, 0, true, NULL },
        { "null", "{\"quantization_config\":null}", QUANT_NONE, 0, 0, true, NULL },
        { "GPTQ, 4 bits",
          Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"sym\":true,\"desc_act\":"
            "false"),
          QUANT_GPTQ, 4, 128, true, NULL },
        { "GPTQ, old keys, asymmetric, whole rows",
          Q("\"quant_method\":\"gptq\",\"wbits\":3,\"group_size\":-1,\"sym\":false"), QUANT_GPTQ, 3,
          -1, false, NULL },
        { "GPTQ that says no more", Q("\"quant_method\":\"gptq\""), QUANT_GPTQ, 0, 0, true, NULL },
        { "AWQ with zero points",
          Q("\"quant_method\":\"awq\",\"w_bit\":4,\"q_group_size\":64,\"zero_point\":true"),
          QUANT_AWQ, 4, 64, false, NULL },
        { "AWQ without", Q("\"quant_method\":\"awq\",\"group_size\":32,\"zero_point\":false"),
          QUANT_AWQ, 4, 32, true, NULL },
        { "compressed-tensors by groups",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"targets\":["
            "\"Linear\"],\"weights\":{\"num_bits\":4,\"group_size\":32,\"strategy\":\"group\","
            "\"symmetric\":false}}}"),
          QUANT_COMPRESSED_TENSORS, 4, 32, false, NULL },
        { "compressed-tensors by channels",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"weights\":{"
            "\"num_bits\":8,\"group_size\":null,\"strategy\":\"channel\",\"symmetric\":true}}}"),
          QUANT_COMPRESSED_TENSORS, 8, -1, true, NULL },
        { "compressed-tensors by preset",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"W4A16\":[\"Linear\"]}"),
          QUANT_COMPRESSED_TENSORS, 4, 128, true, NULL },
        { "the older key", "{\"compression_config\":{\"format\":\"pack-quantized\"}}",
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "compression_config.quant_method \"compressed-tensors\": config_groups is missing" },
        { "bitsandbytes nf4",
          Q("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"load_in_8bit\":false"),
          QUANT_BITSANDBYTES, 4, 64, true, NULL },
        { "bitsandbytes int8, method left out", Q("\"load_in_4bit\":false,\"load_in_8bit\":true"),
          QUANT_BITSANDBYTES, 8, -1, true, NULL },
        { "fp8", Q("\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]"), QUANT_FP8, 8, 0,
          true, NULL },
        { "bitnet", Q("\"quant_method\":\"bitnet\""), QUANT_BITNET, 2, 0, true, NULL },
        { "mxfp4", Q("\"quant_method\":\"mxfp4\""), QUANT_MXFP4, 4, 32, true, NULL },
        { "modelopt", Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\""), QUANT_MODELOPT,
          4, 16, true, NULL },
        { "hqq", Q("\"quant_method\":\"hqq\""), QUANT_HQQ, 0, 0, true, NULL },
        { "GPTQ in marlin's order",
          Q("\"quant_method\":\"gptq\",\"bits\":4,\"checkpoint_format\":\"marlin\""), QUANT_GPTQ, 4,
          0, true, "quantization_config.quant_method \"gptq\": marlin checkpoints are shuffled" },
        { "GPTQ in planes", Q("\"quant_method\":\"gptq\",\"bits\":3,\"format\":\"gptq_p\""),
          QUANT_GPTQ, 3, 0, true,
          "quantization_config.quant_method \"gptq\": checkpoint_format \"gptq_p\" is not" },
        { "GPTQ in short words", Q("\"quant_method\":\"gptq\",\"pack_dtype\":\"int16\""),
          QUANT_GPTQ, 0, 0, true,
          "quantization_config.quant_method \"gptq\": pack_dtype \"int16\"" },
        { "AWQ, capitals", Q("\"quant_method\":\"awq\",\"version\":\"GEMM\",\"zero_point\":true"),
          QUANT_AWQ, 4, 0, false, NULL },
        { "AWQ for one kernel", Q("\"quant_method\":\"awq\",\"version\":\"gemv_fast\""), QUANT_AWQ,
          4, 0, true, "quantization_config.quant_method \"awq\": version \"gemv_fast\"" },
        { "marlin-24",
          Q("\"quant_method\":\"compressed-tensors\",\"format\":\"marlin-24\","
            "\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":4}}}"),
          QUANT_COMPRESSED_TENSORS, 4, -1, true,
          "quantization_config.quant_method \"compressed-tensors\": format \"marlin-24\"" },
        { "sparse",
          Q("\"quant_method\":\"compressed-tensors\",\"sparsity_config\":{\"format\":"
            "\"sparse-24-bitmask\"}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": sparsity_config.format" },
        { "rotated inputs",
          Q("\"quant_method\":\"compressed-tensors\",\"transform_config\":{\"R1\":{}}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": transform_config" },
        { "a format that is not known",
          Q("\"quant_method\":\"compressed-tensors\",\"format\":\"zip\",\"config_groups\":{\"g\":{"
            "\"weights\":{\"num_bits\":4}}}"),
          QUANT_COMPRESSED_TENSORS, 4, -1, true,
          "quantization_config.quant_method \"compressed-tensors\": format \"zip\" with 4-bit" },
        { "a preset that is not known",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"W1A1\":[\"Linear\"]}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": preset \"W1A1\"" },
        { "ModelOpt with int4", Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"W4A16_AWQ\""),
          QUANT_MODELOPT, 0, 0, true,
          "quantization_config.quant_method \"modelopt\": quant_algo \"W4A16_AWQ\"" },
        { "auto-round",
          Q("\"quant_method\":\"intel/auto-round\",\"bits\":4,\"group_size\":128,\"sym\":true"),
          QUANT_AUTO_ROUND, 4, 128, true, NULL },
        { "auto-round in a format of its own",
          Q("\"quant_method\":\"auto-round\",\"bits\":4,\"packing_format\":\"auto_round:zip\""),
          QUANT_AUTO_ROUND, 4, 0, true,
          "quantization_config.quant_method \"auto-round\": packing_format \"auto_round:zip\"" },
        { "torchao", Q("\"quant_method\":\"torchao\",\"bits\":4"), QUANT_TORCHAO, 4, 0, true,
          "quantization_config.quant_method \"torchao\" (4 bits): reading torchao " },
        { "a name that nobody knows", Q("\"quant_method\":\"frobnicate\",\"bits\":\"many\""),
          QUANT_OTHER, 0, 0, true,
          "quantization_config.quant_method \"frobnicate\": unknown quantization scheme; " },
        { "a name with a newline", Q("\"quant_method\":\"a\\nb\""), QUANT_OTHER, 0, 0, true,
          "quantization_config.quant_method \"a?b\": unknown" },
        { "a very long name",
          Q("\"quant_method\":\"0123456789012345678901234567890123456789012345678901234567\""),
          QUANT_OTHER, 0, 0, true,
          "quantization_config.quant_method "
          "\"01234567890123456789012345678901234567890123456\": " },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_spec spec;
        struct err err = { 0 };
        if (!read_spec(rows[i].json, &spec, &err))
            fail_msg("%s: %s", rows[i].sentence, err.text);
        if (spec.method != rows[i].method || spec.bits != rows[i].bits ||
            spec.group != rows[i].group || spec.symmetric != rows[i].symmetric)
            fail_msg("%s: method %d, bits %d, group %d, symmetric %d", rows[i].sentence,
                     spec.method, spec.bits, spec.group, spec.symmetric);
        bool ok = quant_spec_check(&spec, &err);
        if (rows[i].refusal == NULL) {
            if (!ok)
                fail_msg("%s: %s", rows[i].sentence, err.text);
        } else if (ok || err.code != ERR_UNSUPPORTED ||
                   strncmp(err.text, rows[i].refusal, strlen(rows[i].refusal)) != 0) {
            fail_msg("%s: %s", rows[i].sentence, ok ? "was accepted" : err.text);
        }
        quant_spec_clear(&spec);
    }
}

/* Which scheme a module gets. */
static void test_modules(void **state)
{
    (void)state;
#define GROUP(targets, bits)                                                                       \
    "{\"targets\":[" targets "],\"weights\":{\"num_bits\":" bits                                   \
    ",\"group_size\":32,\"strategy\":\"group\",\"symmetric\":true}}"
    static const char MIXED[] =
        Q("\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\","
          "\"ignore\":[\"lm_head\",\"re:.*\\\\.1\\\\..*gate$\"],\"config_groups\":{\"a\":" GROUP(
              "\"Linear\"", "4") ",\"b\":" GROUP("\"re:.*down_proj\",\"model.x\"", "8") "}");
    static const char DYNAMIC[] =
        Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"dynamic\":{"
          "\"-:.*\\\\.0\\\\..*\":{},\"+:.*\\\\.1\\\\.(up|gate)\":{\"bits\":8,\"group_size\":64},"
          "\".*v_proj\":{\"bits\":3}}");
    static const char OPT[] =
        Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"exclude_modules\":[\"lm_head\","
          "\"*self_attn*\"]");
    static const char MIXED_OPT[] =
        Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{"
          "\"a.x\":{\"quant_algo\":\"FP8\"},\"a.y\":{\"quant_algo\":\"NVFP4\"}}");
    static const char AWQ[] =
        Q("\"quant_method\":\"awq\",\"modules_to_not_convert\":[\"v_proj\",\"lm_head\"]");
    static const struct {
        const char *sentence, *json, *module;
        enum packing packing;
        int32_t bits, group;
    } rows[] = {
        { "by class", MIXED, "model.layers.0.up_proj", PACKING_CT_PACK, 4, 32 },
        { "a name beats a class", MIXED, "model.layers.0.down_proj", PACKING_CT_PACK, 8, 32 },
        { "a plain name", MIXED, "model.x", PACKING_CT_PACK, 8, 32 },
        { "ignored", MIXED, "lm_head", PACKING_NONE, 0, 0 },
        { "ignored by a pattern", MIXED, "model.layers.1.mlp.gate", PACKING_NONE, 0, 0 },
        { "not quite the pattern", MIXED, "model.layers.1.mlp.gate_proj", PACKING_CT_PACK, 4, 32 },
        { "embeddings are not linear", MIXED, "model.embed_tokens", PACKING_NONE, 0, 0 },
        { "dynamic: left alone", DYNAMIC, "m.0.v_proj", PACKING_NONE, 0, 0 },
        { "dynamic: overridden", DYNAMIC, "m.1.up", PACKING_GPTQ, 8, 64 },
        { "dynamic: one override", DYNAMIC, "m.1.v_proj", PACKING_GPTQ, 3, 128 },
        { "dynamic: none", DYNAMIC, "m.2.up", PACKING_GPTQ, 4, 128 },
        { "excluded by a wildcard", OPT, "model.layers.3.self_attn.q_proj", PACKING_NONE, 0, 0 },
        { "not excluded", OPT, "model.layers.3.mlp.up_proj", PACKING_FP8, 8, 0 },
        { "ModelOpt by layer", MIXED_OPT, "a.y", PACKING_NVFP4, 4, 16 },
        { "ModelOpt by layer, the other", MIXED_OPT, "a.x", PACKING_FP8, 8, 0 },
        { "ModelOpt by layer, not listed", MIXED_OPT, "a.z", PACKING_NONE, 0, 0 },
        { "a part of the name", AWQ, "model.layers.0.self_attn.v_proj", PACKING_NONE, 0, 0 },
        { "another name", AWQ, "model.layers.0.self_attn.k_proj", PACKING_AWQ_GEMM, 4, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_spec spec;
        struct err err = { 0 };
        const struct quant_scheme *scheme;
        if (!read_spec(rows[i].json, &spec, &err) || !quant_spec_check(&spec, &err))
            fail_msg("%s: %s", rows[i].sentence, err.text);
        assert_ok(quant_spec_scheme(&spec, rows[i].module, &scheme, &err), &err);
        const struct quant_scheme none = { PACKING_NONE, .bits = 0 };
        scheme = scheme == NULL ? &none : scheme;
        if (scheme->packing != rows[i].packing || scheme->bits != rows[i].bits ||
            scheme->group != rows[i].group)
            fail_msg("%s: %s, bits %d, group %d", rows[i].sentence, packing_name(scheme->packing),
                     scheme->bits, scheme->group);
        quant_spec_clear(&spec);
    }
}

/* A pattern that backtracks for ever is stopped, and named. */
static void test_endless_pattern(void **state)
{
    (void)state;
    struct quant_spec spec;
    struct err err = { 0 };
    const struct quant_scheme *scheme;
    assert_ok(
        read_spec(Q("\"quant_method\":\"gptq\",\"dynamic\":{\"(a|aa)+(a|aa)+(a|aa)+[!?]\":{}}"),
                  &spec, &err),
        &err);
    assert_false(quant_spec_scheme(
        &spec, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &scheme, &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "(a|aa)+"));
    quant_spec_clear(&spec);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json, *text;
    } rows[] = {
        { "not an object", "{\"quantization_config\":4}", "quantization_config must be an object" },
        { "empty", Q(""), "quantization_config.quant_method must name the scheme" },
        { "a numeric method", Q("\"quant_method\":4"), "quant_method must name the scheme" },
        { "an empty method", Q("\"quant_method\":\"\""), "quant_method must name the scheme" },
        { "bits as text", Q("\"quant_method\":\"gptq\",\"bits\":\"4\""),
          "quantization_config.bits must be an integer" },
        { "no bits", Q("\"quant_method\":\"gptq\",\"bits\":0"), "bits must be an integer" },
        { "many bits", Q("\"quant_method\":\"gptq\",\"bits\":4294967300"), "from 1 to 16" },
        { "half a bit", Q("\"quant_method\":\"gptq\",\"bits\":4.5"), "bits must be an integer" },
        { "a group of -2", Q("\"quant_method\":\"gptq\",\"group_size\":-2"),
          "group_size must be an integer from -1" },
        { "a group of 2^40", Q("\"quant_method\":\"awq\",\"group_size\":1099511627776"),
          "group_size must be an integer from -1" },
        { "symmetry as a number", Q("\"quant_method\":\"gptq\",\"sym\":1"),
          "quantization_config.sym must be true or false" },
        { "a pattern that does not compile", Q("\"quant_method\":\"gptq\",\"dynamic\":{\"(\":{}}"),
          "pattern \"(\"" },
        { "a list that is none", Q("\"quant_method\":\"awq\",\"modules_to_not_convert\":\"x\""),
          "modules_to_not_convert must be a list" },
        { "a block of three sides", Q("\"quant_method\":\"fp8\",\"weight_block_size\":[128,128,1]"),
          "weight_block_size must" },
        { "wrong bits in a config group",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"weights\":{"
            "\"num_bits\":-4}}}"),
          "quantization_config.config_groups.g.weights.num_bits must be an integer" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_spec spec;
        struct err err = { 0 };
        if (read_spec(rows[i].json, &spec, &err))
            fail_msg("%s: was accepted", rows[i].sentence);
        if (err.code != ERR_FORMAT || strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s: code %d, %s", rows[i].sentence, err.code, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recognized),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_modules),
        cmocka_unit_test(test_endless_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
