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
            assert_non_null(strstr(slots[s].name, "mlp.experts.*."));
            assert_true(slots[s].n_experts == 8 && slots[s].n_chosen == 3);
            assert_int_equal((int64_t)slots[s].n_out * slots[s].n_in, 8 * 64 * 128);
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

/* ---- experts in one tensor --------------------------------------------------------------------
 */

struct fused_file {
    char header[1 << 14];
    size_t header_used, used;
    uint8_t bytes[2 << 20];
};
static void add_tensor(struct fused_file *f, const char *name, const char *shape,
                       const void *const *from, const size_t *sizes, int32_t n)
{
    const size_t start = f->used;
    for (int32_t i = 0; i < n; i++) {
        assert_true(f->used + sizes[i] <= sizeof f->bytes);
        memcpy(f->bytes + f->used, from[i], sizes[i]);
        f->used += sizes[i];
    }
    f->header_used +=
        (size_t)snprintf(f->header + f->header_used, sizeof f->header - f->header_used,
                         "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         f->header_used > 1 ? "," : "", name, shape, start, f->used);
    assert_true(f->header_used < sizeof f->header);
}
/* Gate and up, or down, of every expert of a layer, one behind the other. */
static void add_fused(struct fused_file *f, const struct tensor_dir *dir, int32_t l, bool gate_up)
{
    static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
    const void *from[16];
    size_t sizes[16];
    char name[96];
    int32_t n = 0;
    for (int32_t e = 0; e < 8; e++)
        for (int32_t p = gate_up ? 0 : 2; p < (gate_up ? 2 : 3); p++, n++) {
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.%s.weight", l, e, parts[p]);
            const struct tensor *t = tensor_dir_find(dir, name);
            assert_non_null(t);
            from[n] = t->data;
            sizes[n] = t->bytes;
        }
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s", l,
             gate_up ? "gate_up_proj" : "down_proj");
    add_tensor(f, name, gate_up ? "8,128,128" : "8,128,64", from, sizes, n);
}
/* qwen3_moe's weights as transformers 5 has them in memory; free() it. */
static uint8_t *fuse(const struct tensor_dir *dir, size_t *size)
{
    static struct fused_file f;
    f.used = 0;
    f.header_used = (size_t)snprintf(f.header, sizeof f.header, "{");
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        const struct tensor *t = &dir->tensors[i];
        const void *from = t->data;
        char shape[32];
        if (strstr(t->name, "mlp.experts.") != NULL)
            continue;
        snprintf(shape, sizeof shape, t->n_dims == 2 ? "%lld,%lld" : "%lld", (long long)t->dims[0],
                 (long long)t->dims[1]);
        add_tensor(&f, t->name, shape, &from, &t->bytes, 1);
    }
    for (int32_t l = 0; l < 2; l++) {
        add_fused(&f, dir, l, true);
        add_fused(&f, dir, l, false);
    }
    f.header[f.header_used++] = '}';
    while (f.header_used % 8 != 0)
        f.header[f.header_used++] = ' ';
    const uint64_t length = f.header_used;
    uint8_t *whole = malloc(8 + f.header_used + f.used);
    assert_non_null(whole);
    memcpy(whole, &length, 8);
    memcpy(whole + 8, f.header, f.header_used);
    memcpy(whole + 8 + f.header_used, f.bytes, f.used);
    *size = 8 + f.header_used + f.used;
    return whole;
}

enum { VOCAB = 320 };
static void five_tokens(const struct hf_folder *hf, enum weights_mode weights, float *logits,
                        size_t *anonymous)
{
    static const int32_t tokens[5] = { 1, 7, 39, 300, 12 };
    const int32_t n_pages[KV_GROUPS_MAX] = { 1, 1, 1, 1 };
    struct model model;
    struct err err;
    struct batch_single single;
    struct backend *be = open_cpu(true);
    const struct model_options options = options_of(weights);
    assert_ok(model_open(&model, hf, NULL, be, &options, &err), &err);
    *anonymous = model.weight_anonymous_bytes;
    struct kv_cache kv = model.kv_shape;
    assert_ok(kv_cache_reserve(&kv, be, n_pages, &err), &err);
    assert_ok(batch_single_init(&single, 8, 16, kv.n_groups, &err), &err);
    model_forward(&model, batch_single_build(&single, tokens, 5, 0, false), &kv, NULL, NULL, NULL);
    assert_ok(be->ops->finish(be, &err), &err);
    memcpy(logits, view_row(model.logits, 0), VOCAB * sizeof *logits);
    batch_single_clear(&single);
    model_close(&model);
    be->ops->close(be);
}

static void test_one_tensor_of_all(void **state)
{
    (void)state;
    struct folder f;
    struct err err;
    size_t size;
    folder_open(&f, "qwen3_moe", NULL, NULL);
    uint8_t *weights = fuse(&f.hf.tensors, &size);
    struct hf_folder fused;
    const struct hf_file files[] = { { "config.json", f.config.bytes, f.config.size },
                                     { "model.safetensors", weights, size } };
    assert_ok(hf_folder_open_memory(&fused, "fused", files, 2, &err), &err);
    for (enum weights_mode mode = WEIGHTS_AUTO; mode <= WEIGHTS_INT4; mode++) {
        float apart[VOCAB], together[VOCAB];
        size_t bytes[2];
        if (mode == WEIGHTS_BF16)
            continue;
        five_tokens(&f.hf, mode, apart, &bytes[0]);
        five_tokens(&fused, mode, together, &bytes[1]);
        assert_memory_equal(apart, together, sizeof apart);
        assert_int_equal(bytes[0], bytes[1]); /* as stored: read where they are in the file */
    }
    hf_folder_close(&fused);
    free(weights);
    folder_close(&f);
}

static void test_one_tensor_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *from, *to, *says;
    } rows[] = {
        { "inputs and outputs the other way", "\"shape\":[4,128,192]", "\"shape\":[4,192,128]",
          "mlp.experts.gate_up_proj has shape [4, 192, 128], want [4, 128, 192]" },
        { "more experts, each of them narrower", "\"shape\":[4,96,128]", "\"shape\":[6,64,128]",
          "mlp.experts.down_proj has shape [6, 64, 128], want [4, 96, 128]" },
        { "biases as one row", "\"shape\":[4,192]", "\"shape\":[768]  ",
          "mlp.experts.gate_up_proj_bias has shape [768], want [4, 192]" },
        { "no sinks", ".self_attn.sinks\"", ".self_attn.sinkz\"",
          "self_attn.sinks is missing; want shape [4]" },
        { "no biases of down", "experts.down_proj_bias\"", "experts.down_proj_bial\"",
          "mlp.experts.0.down_proj.bias is missing" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct folder f;
        struct model model;
        struct err err = { 0 };
        struct backend *be = open_cpu(true);
        const struct model_options options = options_of(WEIGHTS_AUTO);
        folder_open(&f, "gpt_oss_bf16", rows[i].from, rows[i].to);
        if (model_open(&model, &f.hf, NULL, be, &options, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != ERR_FORMAT || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
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
        cmocka_unit_test(test_one_tensor_of_all),
        cmocka_unit_test(test_one_tensor_refused),
        cmocka_unit_test(test_dummy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
