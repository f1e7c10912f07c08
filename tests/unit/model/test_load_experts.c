/* Tensors of experts: a checkpoint whose header says something else is refused by the tensor's
 * name, lines of `inspect` stand for all experts of a matrix, random weights run. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/file.h"
#include "host/format/hf_folder.h"
#include "host/model/model.h"

/* The reference model's files, the header with `from` (once) replaced by `to` of the same length.
 */
struct folder {
    struct hf_folder hf;
    struct file_map config, weights;
    char *copy;
};
static void folder_open(struct folder *f, const char *name, const char *from, const char *to)
{
    struct err err;
    assert_ok(file_map(&f->config, oracle_path("models/%s/config.json", name), &err), &err);
    assert_ok(file_map(&f->weights, oracle_path("models/%s/model.safetensors", name), &err), &err);
    f->copy = malloc(f->weights.size);
    assert_non_null(f->copy);
    memcpy(f->copy, f->weights.bytes, f->weights.size);
    if (from != NULL) {
        assert_int_equal(strlen(from), strlen(to));
        char *at = memmem(f->copy, f->weights.size, from, strlen(from));
        if (at == NULL)
            fail_msg("\"%s\" is not in the header", from);
        memcpy(at, to, strlen(to));
    }
    const struct hf_file files[] = {
        { "config.json", (const char *)f->config.bytes, f->config.size },
        { "model.safetensors", f->copy, f->weights.size },
    };
    assert_ok(hf_folder_open_memory(&f->hf, name, files, 2, &err), &err);
}
static void folder_close(struct folder *f)
{
    hf_folder_close(&f->hf);
    file_unmap(&f->config);
    file_unmap(&f->weights);
    free(f->copy);
}

static struct model_options options_of(enum weights_mode weights)
{
    return (struct model_options){
        .weights = weights, .group = 32, .rows_max = 8, .logit_rows_max = 8
    };
}
static struct backend *open_cpu(bool exact)
{
    struct backend *be;
    struct err err;
    assert_ok(cpu_backend_open(&be, &(struct cpu_options){ .n_threads = 1, .exact = exact }, &err),
              &err);
    return be;
}

#define L "model.layers.1.mlp."
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *from, *to;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "an expert's matrix under another name", "\"" L "experts.3.up_proj.weight\"",
          "\"" L "experts.9.up_proj.weight\"", ERR_FORMAT,
          "tensor " L "experts.3.up_proj.weight is missing; want shape [64, 128]" },
        { "no router", "\"" L "gate.weight\"", "\"" L "date.weight\"", ERR_FORMAT,
          "tensor " L "gate.weight is missing; want shape [8, 128]" },
        { "one expert of another type", "\"" L "experts.2.down_proj.weight\":{\"dtype\":\"BF16\"",
          "\"" L "experts.2.down_proj.weight\":{\"dtype\": \"F16\"", ERR_UNSUPPORTED,
          "layers.1.experts.down: experts of one layer in different forms are not supported: "
          "expert 2 is rows, f16" },
        { "one expert turned on its side",
          "\"" L "experts.7.gate_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[64,128]",
          "\"" L "experts.7.gate_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[128,64]", ERR_FORMAT,
          "has shape [128, 64], want [64, 128]" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct folder f;
        struct model model;
        struct err err = { 0 };
        struct backend *be = open_cpu(true);
        const struct model_options options = options_of(WEIGHTS_AUTO);
        folder_open(&f, "qwen3_moe", rows[i].from, rows[i].to);
        if (model_open(&model, &f.hf, NULL, be, &options, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
        be->ops->close(be);
        folder_close(&f);
    }
}

static void test_backend_without_experts(void **state)
{
    (void)state;
    struct folder f;
    struct model model;
    struct err err = { 0 };
    struct backend *be = open_cpu(true);
    const struct backend_ops *ops = be->ops;
    struct backend_ops fewer = *ops;
    fewer.linear_experts = NULL;
    be->ops = &fewer;
    const struct model_options options = options_of(WEIGHTS_AUTO);
    folder_open(&f, "mixtral_top2", NULL, NULL);
    assert_false(model_open(&model, &f.hf, NULL, be, &options, &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "experts (mixtral) are not supported by cpu"));
    ops->close(be);
    folder_close(&f);
}

static void test_slots(void **state)
{
    (void)state;
    static const enum weights_mode modes[] = { WEIGHTS_AUTO, WEIGHTS_INT8, WEIGHTS_INT4 };
    for (size_t i = 0; i < 3; i++) {
        struct folder f;
        struct model model;
        struct err err;
        struct backend *be = open_cpu(false);
        const struct model_options options = options_of(modes[i]);
        folder_open(&f, "qwen3_moe", NULL, NULL);
        assert_ok(model_open(&model, &f.hf, NULL, be, &options, &err), &err);
        struct model_slot slots[64];
        const int32_t n = model_slots(&model, slots, 64);
        assert_int_equal(n, 2 + 2 * 8); /* embed, head; q k v o, router, gate up down */
        size_t bytes = 0;
        int32_t experts = 0;
        for (int32_t s = 0; s < n; s++) {
            bytes += slots[s].bytes;
            if (strstr(slots[s].name, "mlp.gate.weight") != NULL)
                assert_int_equal(slots[s].bits, 0); /* routers stay as they are */
            if (strstr(slots[s].name, "experts") == NULL)
                continue;
            experts++;
            const int32_t bits = modes[i] == WEIGHTS_AUTO ? 0 : modes[i] == WEIGHTS_INT8 ? 8 : 4;
            assert_int_equal(slots[s].bits, bits);
            if (bits == 0)
                assert_int_equal(slots[s].bytes, 8 * 64 * 128 * 2);
        }
        assert_int_equal(experts, 2 * 3);
        assert_true(bytes <= model.weight_bytes && bytes > model.weight_bytes / 2);
        model_close(&model);
        be->ops->close(be);
        folder_close(&f);
    }
}

static void test_dummy(void **state)
{
    (void)state;
    static const char CONFIG[] =
        "{\"architectures\":[\"Qwen2MoeForCausalLM\"],\"model_type\":\"qwen2_moe\",\"vocab_size\":"
        "64,"
        "\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":3,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"max_position_embeddings\":64,"
        "\"decoder_sparse_step\":2,\"num_experts\":5,\"num_experts_per_tok\":2,"
        "\"moe_intermediate_size\":24,\"shared_expert_intermediate_size\":40}";
    static const int32_t tokens[5] = { 1, 7, 39, 0, 12 };
    for (int32_t exact = 0; exact < 2; exact++)
        for (enum weights_mode weights = WEIGHTS_AUTO; weights <= WEIGHTS_INT4; weights++) {
            struct model model;
            struct err err;
            struct backend *be = open_cpu(exact);
            struct model_options options = options_of(weights);
            const int32_t n_pages[KV_GROUPS_MAX] = { 1, 1, 1, 1 };
            assert_ok(model_open(&model, NULL, CONFIG, be, &options, &err), &err);
            struct kv_cache kv = model.kv_shape;
            struct batch_single single;
            assert_ok(kv_cache_reserve(&kv, be, n_pages, &err), &err);
            assert_ok(batch_single_init(&single, 8, 16, kv.n_groups, &err), &err);
            model_forward(&model, batch_single_build(&single, tokens, 5, 0, false), &kv, NULL, NULL,
                          NULL);
            assert_ok(be->ops->finish(be, &err), &err);
            float sum = 0;
            for (int32_t t = 0; t < 64; t++)
                sum += fabsf(view_row(model.logits, 0)[t]);
            assert_true(isfinite(sum) && sum > 0);
            batch_single_clear(&single);
            model_close(&model);
            be->ops->close(be);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_backend_without_experts),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_dummy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
