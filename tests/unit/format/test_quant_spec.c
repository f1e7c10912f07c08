/* quantization_config: what is recognized, and the refusal that names it. */
#include "tests/support/support.h"
#include "host/base/buf.h"
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

#define Q(text)   "{\"quantization_config\":{" text "}}"
#define CT(group) Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{" group "}}")

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
        { "auto-round as AWQ",
          Q("\"quant_method\":\"auto-round\",\"packing_format\":\"auto_round:auto_awq\""),
          QUANT_AUTO_ROUND, 0, 0, true, NULL },
        { "auto-round as GPTQ",
          Q("\"quant_method\":\"auto-round\",\"packing_format\":\"auto_round:auto_gptq\""),
          QUANT_AUTO_ROUND, 0, 0, true, NULL },
        { "FBGEMM", Q("\"quant_method\":\"fbgemm_fp8\""), QUANT_FBGEMM_FP8, 8, -1, true, NULL },
        { "bitsandbytes, both flags off",
          Q("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":false,\"load_in_8bit\":false"),
          QUANT_BITSANDBYTES, 0, 0, true, NULL },
        { "bitsandbytes int8, only that flag", Q("\"load_in_8bit\":true"), QUANT_BITSANDBYTES, 8,
          -1, true, NULL },
        { "AWQ, a long version",
          Q("\"quant_method\":\"awq\",\"version\":\"gemm_in_some_newer_order\""), QUANT_AWQ, 4, 0,
          true,
          "quantization_config.quant_method \"awq\": version \"gemm_in_some_newer_order\" is "
          "shuffled" },
        { "dynamic that is no object", Q("\"quant_method\":\"gptq\",\"dynamic\":[1]"), QUANT_GPTQ,
          0, 0, true, NULL },
        { "a long name in a refusal, and bytes that are not ASCII",
          Q("\"quant_method\":\"gptq\",\"checkpoint_format\":\"\\u0001\u00e9\""), QUANT_GPTQ, 0, 0,
          true, "quantization_config.quant_method \"gptq\": checkpoint_format \"???\" is not" },
        { "a method that is not ASCII", Q("\"quant_method\":\"\u00e9\""), QUANT_OTHER, 0, 0, true,
          "quantization_config.quant_method \"??\": unknown quantization scheme" },
        { "ModelOpt by layers, without them",
          Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\""), QUANT_MODELOPT, 0,
          0, true,
          "quantization_config.quant_method \"modelopt\": quant_algo MIXED_PRECISION without "
          "quantized_layers" },
        { "ModelOpt by layers, which are a list",
          Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\","
            "\"quantized_layers\":[]"),
          QUANT_MODELOPT, 0, 0, true,
          "quantization_config.quant_method \"modelopt\": quant_algo MIXED_PRECISION without" },
        { "ModelOpt by layers, one of which is not known",
          Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\","
            "\"quantized_layers\":{\"a\":{\"quant_algo\":\"INT2\"}}"),
          QUANT_MODELOPT, 0, 0, true,
          "quantization_config.quant_method \"modelopt\": quant_algo \"INT2\" is not supported" },
        { "ModelOpt by layers, one of which is a number",
          Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\","
            "\"quantized_layers\":{\"a\":8}"),
          QUANT_MODELOPT, 0, 0, true,
          "quantization_config.quant_method \"modelopt\": quant_algo \"\" is not supported" },
        { "ModelOpt that does not say", Q("\"quant_method\":\"modelopt\""), QUANT_MODELOPT, 0, 0,
          true, "quantization_config.quant_method \"modelopt\": quant_algo \"\" is not supported" },
        { "BitNet that is not packed",
          Q("\"quant_method\":\"bitnet\",\"linear_class\":\"autobitlinear\","
            "\"quantization_mode\":\"online\""),
          QUANT_BITNET, 2, 0, true,
          "quantization_config.quant_method \"bitnet\": quantization_mode \"online\": its weights "
          "are not packed" },
        { "BitNet packed, said so",
          Q("\"quant_method\":\"bitnet\",\"linear_class\":\"autobitlinear\","
            "\"quantization_mode\":\"offline\""),
          QUANT_BITNET, 2, 0, true, NULL },
        { "BitNet in the other class, whose mode says nothing",
          Q("\"quant_method\":\"bitnet\",\"linear_class\":\"bitlinear\","
            "\"quantization_mode\":\"online\""),
          QUANT_BITNET, 2, 0, true, NULL },
        { "quanto", Q("\"quant_method\":\"quanto\""), QUANT_QUANTO, 0, 0, true,
          "quantization_config.quant_method \"quanto\": reading quanto checkpoints is not" },
        { "AQLM, with groups, asymmetric",
          Q("\"quant_method\":\"aqlm\",\"bits\":2,\"group_size\":8,\"sym\":false"), QUANT_AQLM, 2,
          8, false,
          "quantization_config.quant_method \"aqlm\" (2 bits, asymmetric, groups of 8): reading "
          "AQLM checkpoints is not supported" },
        { "EETQ", Q("\"quant_method\":\"eetq\""), QUANT_EETQ, 8, -1, true,
          "quantization_config.quant_method \"eetq\" (8 bits): reading EETQ checkpoints" },
        { "ct, sparse by its format",
          Q("\"quant_method\":\"compressed-tensors\",\"format\":\"sparse-bitmask\""),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": format \"sparse-bitmask\": "
          "sparse weights are not supported" },
        { "ct, dense, said so",
          Q("\"quant_method\":\"compressed-tensors\",\"sparsity_config\":{\"format\":\"dense\"},"
            "\"transform_config\":{},\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":4}}}"),
          QUANT_COMPRESSED_TENSORS, 4, -1, true, NULL },
        { "ct, groups that are no object",
          Q("\"quant_method\":\"compressed-tensors\",\"sparsity_config\":1,\"transform_config\":1,"
            "\"config_groups\":[]"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": config_groups is missing" },
        { "ct, no group", Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": config_groups is missing" },
        { "ct, activations alone", CT("\"targets\":[\"Linear\"],\"input_activations\":{}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true, NULL },
        { "ct, weights that are no object", CT("\"weights\":4"), QUANT_COMPRESSED_TENSORS, 0, 0,
          true, NULL },
        { "ct, float6 without a format", CT("\"weights\":{\"num_bits\":6,\"type\":\"float\"}"),
          QUANT_COMPRESSED_TENSORS, 6, -1, true,
          "quantization_config.quant_method \"compressed-tensors\": format \"\" with 6-bit float "
          "weights is not supported" },
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
    static const char GLOB[] =
        Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"ignore\":[\"lm_head\","
          "\"model.layers.0*\"]");
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
        { "a wildcard at the end of the name", GLOB, "model.layers.0.up", PACKING_NONE, 0, 0 },
        { "what is inside a module that is excluded", GLOB, "lm_head.x", PACKING_NONE, 0, 0 },
        { "a longer name than the one excluded", GLOB, "lm_headx", PACKING_FP8, 8, 0 },
        { "a shorter name than the wildcard", GLOB, "model.layer", PACKING_FP8, 8, 0 },
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

/* What each kind of config group comes to: packing, block, and what happens to inputs. */
static void test_schemes(void **state)
{
    (void)state;
#define W(text)             CT("\"weights\":{" text "}")
#define IN(weights, inputs) CT("\"weights\":{" weights "},\"input_activations\":{" inputs "}")
#define INT8                "\"num_bits\":8,\"type\":\"int\""
#define FLOAT8              "\"num_bits\":8,\"type\":\"float\""
#define FLOAT4              "\"num_bits\":4,\"type\":\"float\""
#define FP8(more)           Q("\"quant_method\":\"fp8\"" more)
    static const struct {
        const char *json;
        enum packing packing;
        enum act_scheme act;
        int32_t group, block_rows, block_cols;
    } rows[] = {
        { W(FLOAT8), PACKING_FP8, ACT_EXACT, -1, 0, 0 },
        { W(FLOAT4 ",\"group_size\":16"), PACKING_NVFP4, ACT_EXACT, 16, 0, 0 },
        { W(FLOAT4 ",\"group_size\":32"), PACKING_MXFP4, ACT_EXACT, 32, 0, 0 },
        { W(INT8), PACKING_CT_PACK, ACT_EXACT, -1, 0, 0 },
        { CT("\"format\":\"naive-quantized\",\"weights\":{" INT8 "}"), PACKING_CT_INT, ACT_EXACT,
          -1, 0, 0 },
        { CT("\"format\":\"mxfp8-quantized\",\"weights\":{" FLOAT8 "}"), PACKING_FP8, ACT_EXACT, -1,
          0, 0 },
        { CT("\"format\":\"mxfp4-pack-quantized\",\"weights\":{" FLOAT4 "}"), PACKING_MXFP4,
          ACT_EXACT, -1, 0, 0 },
        { W(FLOAT8 ",\"strategy\":\"block\",\"block_structure\":[64,128]"), PACKING_FP8, ACT_EXACT,
          0, 64, 128 },
        { W(FLOAT8 ",\"strategy\":\"block\",\"block_structure\":\"64x128\""), PACKING_FP8,
          ACT_EXACT, 0, 64, 128 },
        { W(INT8 ",\"group_size\":-1"), PACKING_CT_PACK, ACT_EXACT, -1, 0, 0 },
        { W(INT8 ",\"group_size\":64"), PACKING_CT_PACK, ACT_EXACT, 64, 0, 0 },
        { IN(INT8, INT8 ",\"strategy\":\"token\",\"dynamic\":true"), PACKING_CT_PACK,
          ACT_INT8_TOKEN, -1, 0, 0 },
        { IN(INT8, INT8 ",\"strategy\":\"token\",\"dynamic\":false"), PACKING_CT_PACK, ACT_EXACT,
          -1, 0, 0 },
        { IN(INT8, INT8 ",\"strategy\":\"tensor\",\"dynamic\":true"), PACKING_CT_PACK, ACT_EXACT,
          -1, 0, 0 },
        { IN(INT8, INT8 ",\"symmetric\":false,\"strategy\":\"token\",\"dynamic\":true"),
          PACKING_CT_PACK, ACT_EXACT, -1, 0, 0 },
        { IN(INT8, "\"num_bits\":4,\"strategy\":\"token\",\"dynamic\":true"), PACKING_CT_PACK,
          ACT_EXACT, -1, 0, 0 },
        { IN(FLOAT8, FLOAT8 ",\"strategy\":\"token\""), PACKING_FP8, ACT_FP8_TOKEN, -1, 0, 0 },
        { IN(FLOAT8, FLOAT8 ",\"strategy\":\"tensor\""), PACKING_FP8, ACT_FP8_TENSOR, -1, 0, 0 },
        { IN(FLOAT8, FLOAT8 ",\"strategy\":\"tensor\",\"dynamic\":true"), PACKING_FP8, ACT_EXACT,
          -1, 0, 0 },
        { IN(FLOAT8, FLOAT8 ",\"strategy\":\"group\",\"group_size\":128"), PACKING_FP8,
          ACT_FP8_BLOCK, -1, 0, 0 },
        { IN(FLOAT8, FLOAT8 ",\"strategy\":\"group\",\"group_size\":64"), PACKING_FP8, ACT_EXACT,
          -1, 0, 0 },
        { IN(FLOAT4 ",\"group_size\":16", FLOAT4 ",\"group_size\":16,\"dynamic\":\"local\""),
          PACKING_NVFP4, ACT_NVFP4, 16, 0, 0 },
        { IN(FLOAT4 ",\"group_size\":16", FLOAT4 ",\"group_size\":32"), PACKING_NVFP4, ACT_EXACT,
          16, 0, 0 },
        { IN(FLOAT4 ",\"group_size\":16", "\"num_bits\":6,\"type\":\"float\",\"group_size\":16"),
          PACKING_NVFP4, ACT_EXACT, 16, 0, 0 },
        { FP8(""), PACKING_FP8, ACT_FP8_TOKEN, 0, 0, 0 },
        { FP8(",\"activation_scheme\":\"dynamic\""), PACKING_FP8, ACT_FP8_TOKEN, 0, 0, 0 },
        { FP8(",\"activation_scheme\":\"static\""), PACKING_FP8, ACT_FP8_TENSOR, 0, 0, 0 },
        { FP8(",\"activation_scheme\":\"static\",\"weight_block_size\":[128,128]"), PACKING_FP8,
          ACT_FP8_TENSOR, 0, 128, 128 },
        { FP8(",\"weight_block_size\":[128,128]"), PACKING_FP8, ACT_FP8_BLOCK, 0, 128, 128 },
        { FP8(",\"weight_block_size\":[64,64]"), PACKING_FP8, ACT_EXACT, 0, 64, 64 },
        { Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"W4A16_NVFP4\""), PACKING_NVFP4,
          ACT_EXACT, 16, 0, 0 },
        { Q("\"load_in_8bit\":true,\"llm_int8_threshold\":0"), PACKING_BNB8, ACT_EXACT, -1, 0, 0 },
        { Q("\"load_in_8bit\":true"), PACKING_BNB8, ACT_LLM_INT8, -1, 0, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_spec spec;
        struct err err = { 0 };
        if (!read_spec(rows[i].json, &spec, &err) || !quant_spec_check(&spec, &err))
            fail_msg("%s: %s", rows[i].json, err.text);
        assert_int_equal(spec.n_schemes, 1);
        const struct quant_scheme *s = &spec.schemes[0];
        if (s->packing != rows[i].packing || s->act.scheme != rows[i].act ||
            s->group != rows[i].group || s->block_rows != rows[i].block_rows ||
            s->block_cols != rows[i].block_cols)
            fail_msg("%s: %s, inputs %d, group %d, block %d x %d", rows[i].json,
                     packing_name(s->packing), s->act.scheme, s->group, s->block_rows,
                     s->block_cols);
        quant_spec_clear(&spec);
    }
}

/* ModelOpt: layers whose weights are alike and whose inputs are not are two schemes. */
static void test_mixed(void **state)
{
    (void)state;
    struct quant_spec spec;
    struct err err = { 0 };
    const struct quant_scheme *scheme;
    assert_ok(read_spec(Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\","
                          "\"quantized_layers\":{\"a\":{\"quant_algo\":\"NVFP4\"},\"b\":{"
                          "\"quant_algo\":\"W4A16_NVFP4\"},\"c\":{\"quant_algo\":\"NVFP4\"}}"),
                        &spec, &err),
              &err);
    assert_ok(quant_spec_scheme(&spec, "a", &scheme, &err), &err);
    assert_int_equal(scheme->act.scheme, ACT_NVFP4);
    assert_ok(quant_spec_scheme(&spec, "b", &scheme, &err), &err);
    assert_int_equal(scheme->act.scheme, ACT_EXACT);
    assert_ok(quant_spec_scheme(&spec, "c", &scheme, &err), &err);
    assert_int_equal(scheme->act.scheme, ACT_NVFP4);
    quant_spec_clear(&spec);
    /* No scheme at all: nothing is quantized. */
    assert_ok(read_spec("{}", &spec, &err), &err);
    assert_ok(quant_spec_scheme(&spec, "a", &scheme, &err), &err);
    assert_null(scheme);
    quant_spec_clear(&spec);
    assert_ok(read_spec(Q("\"quant_method\":\"of its own\""), &spec, &err), &err);
    assert_ok(quant_spec_scheme(&spec, "a", &scheme, &err), &err);
    assert_null(scheme);
    quant_spec_clear(&spec);
}

/* More rules, schemes and bytes than are kept. */
static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *each, *end;
        int times;
        enum err_code code;
        const char *text;
    } rows[] = {
        { "\"quant_method\":\"gptq\",\"dynamic\":{\"x\":{}", ",\"+:a%d\":{}", "}", 63,
          ERR_UNSUPPORTED, "quantization_config: more than 64 different schemes" },
        { "\"quant_method\":\"gptq\",\"dynamic\":{\"x\":{}", ",\"+:a%d\":8", "}", 62, ERR_NONE,
          "" },
        { "\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"weights\":{}}",
          ",\"g%d\":{\"weights\":{}}", "}", 64, ERR_UNSUPPORTED,
          "quantization_config.config_groups: more than 64" },
        { "\"quant_method\":\"awq\",\"modules_to_not_convert\":[\"x\"", ",\"m%d\"", "]", 65536,
          ERR_FORMAT,
          "quantization_config: more than 65536 rules, or one of more than 4096 bytes" },
        { "\"quant_method\":\"awq\",\"modules_to_not_convert\":[\"", "%d", "\"]", 4097, ERR_FORMAT,
          "quantization_config: more than 65536 rules, or one of more than 4096 bytes" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_spec spec;
        struct err err = { 0 };
        struct buf json;
        buf_init(&json, 1 << 22);
        buf_printf(&json, "{\"quantization_config\":{%s", rows[i].begin);
        for (int k = 0; k < rows[i].times; k++) {
            char each[64];
            snprintf(each, sizeof each, "%d", k);
            const char *hole = strstr(rows[i].each, "%d");
            buf_printf(&json, "%.*s%s%s", (int)(hole - rows[i].each), rows[i].each, each, hole + 2);
        }
        buf_printf(&json, "%s}}", rows[i].end);
        const bool ok = read_spec(buf_text(&json), &spec, &err);
        if (ok != (rows[i].code == ERR_NONE) || err.code != rows[i].code ||
            strstr(err.text, rows[i].text) == NULL)
            fail_msg("row %zu: code %d, %s", i, err.code, err.text);
        if (ok)
            quant_spec_clear(&spec);
        buf_clear(&json);
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
        { "a flag of bitsandbytes", Q("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":1"),
          "quantization_config.load_in_4bit must be true or false" },
        { "the flag as saved", Q("\"quant_method\":\"bitsandbytes\",\"_load_in_4bit\":1"),
          "quantization_config._load_in_4bit must be true or false" },
        { "the other flag", Q("\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":1"),
          "quantization_config.load_in_8bit must be true or false" },
        { "the other flag as saved", Q("\"quant_method\":\"bitsandbytes\",\"_load_in_8bit\":1"),
          "quantization_config._load_in_8bit must be true or false" },
        { "a threshold below 0",
          Q("\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true,\"llm_int8_threshold\":-1"),
          "quantization_config.llm_int8_threshold must be from 0 to 1e6" },
        { "symmetry by its whole name", Q("\"quant_method\":\"hqq\",\"symmetric\":1"),
          "quantization_config.symmetric must be true or false" },
        { "a zero point of 0", Q("\"quant_method\":\"awq\",\"zero_point\":0"),
          "quantization_config.zero_point must be true or false" },
        { "marlin as a number", Q("\"quant_method\":\"gptq\",\"is_marlin_format\":1"),
          "quantization_config.is_marlin_format must be true or false" },
        { "dynamic bits", Q("\"quant_method\":\"gptq\",\"dynamic\":{\"a\":{\"bits\":17}}"),
          "quantization_config.dynamic.a.bits must be an integer from 1 to 16" },
        { "a dynamic group",
          Q("\"quant_method\":\"gptq\",\"dynamic\":{\"a\":{\"group_size\":\"x\"}}"),
          "quantization_config.dynamic.a.group_size must be an integer from -1" },
        { "dynamic symmetry", Q("\"quant_method\":\"gptq\",\"dynamic\":{\"a\":{\"sym\":2}}"),
          "quantization_config.dynamic.a.sym must be true or false" },
        { "a block that is a number", Q("\"quant_method\":\"fp8\",\"weight_block_size\":128"),
          "quantization_config.weight_block_size must be [rows, columns]" },
        { "a block without rows", Q("\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]"),
          "quantization_config.weight_block_size must be [rows, columns]" },
        { "fp8: a list that is none", Q("\"quant_method\":\"fp8\",\"modules_to_not_convert\":1"),
          "quantization_config.modules_to_not_convert must be a list of module names" },
        { "fp8: the other list", Q("\"quant_method\":\"fp8\",\"ignored_layers\":[1]"),
          "quantization_config.ignored_layers[0] must be a module name" },
        { "ModelOpt: a list that is none", Q("\"quant_method\":\"modelopt\",\"exclude_modules\":1"),
          "quantization_config.exclude_modules must be a list of module names" },
        { "ModelOpt: the other list", Q("\"quant_method\":\"modelopt\",\"ignore\":1"),
          "quantization_config.ignore must be a list of module names" },
        { "a pattern in a list that does not compile",
          Q("\"quant_method\":\"awq\",\"modules_to_not_convert\":[\"re:[\"]"),
          "quantization_config: pattern \"[\", byte 1: missing terminating ]" },
        { "ct: what is ignored", Q("\"quant_method\":\"compressed-tensors\",\"ignore\":1"),
          "quantization_config.ignore must be a list of module names" },
        { "ct: targets that are none", CT("\"targets\":1,\"weights\":{}"),
          "quantization_config.config_groups.g.targets must be a list of targets" },
        { "ct: a target that is no text", CT("\"targets\":[1],\"weights\":{}"),
          "quantization_config.config_groups.g.targets[0] must be text" },
        { "ct: a target that does not compile", CT("\"targets\":[\"re:(\"],\"weights\":{}"),
          "quantization_config: pattern \"(\", byte 1: missing closing parenthesis" },
        { "ct: a group", CT("\"weights\":{\"group_size\":-2}"),
          "config_groups.g.weights.group_size must be an integer from -1 to 1048576" },
        { "ct: symmetry", CT("\"weights\":{\"symmetric\":0}"),
          "config_groups.g.weights.symmetric must be true or false" },
        { "ct: inputs", CT("\"weights\":{},\"input_activations\":{\"num_bits\":0}"),
          "config_groups.g.input_activations.num_bits must be an integer from 1 to 16" },
        { "ct: a block of one side", CT("\"weights\":{\"block_structure\":[128]}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block of three sides", CT("\"weights\":{\"block_structure\":[1,2,3]}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block of texts", CT("\"weights\":{\"block_structure\":[\"a\",\"b\"]}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block that is a number", CT("\"weights\":{\"block_structure\":128}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block in words", CT("\"weights\":{\"block_structure\":\"128 by 128\"}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block without rows", CT("\"weights\":{\"block_structure\":\"0x128\"}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
        { "ct: a block without columns", CT("\"weights\":{\"block_structure\":\"128x0\"}"),
          "config_groups.g.weights.block_structure must be [rows, columns]" },
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
        cmocka_unit_test(test_recognized),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_modules),         cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_mixed),           cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_endless_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
