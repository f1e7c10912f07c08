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
          QUANT_GPTQ, 4, 128, true,
          "quantization_config.quant_method \"gptq\" (4 bits, groups of 128): reading GPTQ "
          "checkpoints is not supported yet; " },
        { "GPTQ, old keys, asymmetric, whole rows",
          Q("\"quant_method\":\"gptq\",\"wbits\":3,\"group_size\":-1,\"sym\":false"), QUANT_GPTQ, 3,
          -1, false,
          "quantization_config.quant_method \"gptq\" (3 bits, asymmetric): reading GPTQ " },
        { "GPTQ that says no more", Q("\"quant_method\":\"gptq\""), QUANT_GPTQ, 0, 0, true,
          "quantization_config.quant_method \"gptq\": reading GPTQ " },
        { "AWQ with zero points",
          Q("\"quant_method\":\"awq\",\"w_bit\":4,\"q_group_size\":64,\"zero_point\":true"),
          QUANT_AWQ, 4, 64, false,
          "quantization_config.quant_method \"awq\" (4 bits, asymmetric, groups of 64): reading "
          "AWQ " },
        { "AWQ without", Q("\"quant_method\":\"awq\",\"group_size\":32,\"zero_point\":false"),
          QUANT_AWQ, 4, 32, true,
          "quantization_config.quant_method \"awq\" (4 bits, groups of 32)" },
        { "compressed-tensors by groups",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"targets\":["
            "\"Linear\"],\"weights\":{\"num_bits\":4,\"group_size\":32,\"strategy\":\"group\","
            "\"symmetric\":false}}}"),
          QUANT_COMPRESSED_TENSORS, 4, 32, false,
          "quantization_config.quant_method \"compressed-tensors\" (4 bits, asymmetric, groups of "
          "32)" },
        { "compressed-tensors by channels",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"weights\":{"
            "\"num_bits\":8,\"group_size\":null,\"strategy\":\"channel\",\"symmetric\":true}}}"),
          QUANT_COMPRESSED_TENSORS, 8, -1, true,
          "quantization_config.quant_method \"compressed-tensors\" (8 bits): reading "
          "compressed-tensors " },
        { "compressed-tensors by preset",
          Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"W4A16\":[\"Linear\"]}"),
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "quantization_config.quant_method \"compressed-tensors\": " },
        { "the older key", "{\"compression_config\":{\"format\":\"pack-quantized\"}}",
          QUANT_COMPRESSED_TENSORS, 0, 0, true,
          "compression_config.quant_method \"compressed-tensors\": " },
        { "bitsandbytes nf4",
          Q("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"load_in_8bit\":false"),
          QUANT_BITSANDBYTES, 4, 64, true,
          "quantization_config.quant_method \"bitsandbytes\" (4 bits, groups of 64): " },
        { "bitsandbytes int8, method left out", Q("\"load_in_4bit\":false,\"load_in_8bit\":true"),
          QUANT_BITSANDBYTES, 8, -1, true,
          "quantization_config.quant_method \"bitsandbytes\" (8 bits): " },
        { "fp8", Q("\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]"), QUANT_FP8, 8, 0,
          true, "quantization_config.quant_method \"fp8\" (8 bits): reading FP8 " },
        { "bitnet", Q("\"quant_method\":\"bitnet\""), QUANT_BITNET, 2, 0, true,
          "quantization_config.quant_method \"bitnet\" (2 bits): reading BitNet " },
        { "mxfp4", Q("\"quant_method\":\"mxfp4\""), QUANT_MXFP4, 4, 32, true,
          "quantization_config.quant_method \"mxfp4\" (4 bits, groups of 32): reading MXFP4 " },
        { "modelopt", Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\""), QUANT_MODELOPT,
          0, 0, true, "quantization_config.quant_method \"modelopt\": reading ModelOpt " },
        { "hqq", Q("\"quant_method\":\"hqq\""), QUANT_HQQ, 0, 0, true,
          "quantization_config.quant_method \"hqq\": reading HQQ " },
        { "auto-round",
          Q("\"quant_method\":\"intel/auto-round\",\"bits\":4,\"group_size\":128,\"sym\":true"),
          QUANT_AUTO_ROUND, 4, 128, true,
          "quantization_config.quant_method \"intel/auto-round\" (4 bits, groups of 128): reading "
          "AutoRound " },
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
    }
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
