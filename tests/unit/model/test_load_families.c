/* Loading what other families store otherwise: fused tensors whose rows do not fit, quantized while
 * loading alike mapped, in place or head by head; random weights of every family's shape. */
#include <math.h>
#include "host/base/file.h"
#include "tests/oracle/model_run.h"

/* config.json of a reference model with one piece of text replaced; free() it. */
static char *changed_config(const char *name, const char *from, const char *to)
{
    struct err err;
    char *text;
    size_t size;
    assert_ok(file_read(oracle_path("models/%s/config.json", name), 1 << 20, &text, &size, &err),
              &err);
    char *whole = calloc(1, size + strlen(to) + 1);
    assert_non_null(whole);
    memcpy(whole, text, size);
    char *at = strstr(whole, from);
    if (at == NULL)
        fail_msg("%s: no %s in its config", name, from);
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
    free(text);
    return whole;
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *name, *from, *to, *says;
    } rows[] = {
        { "fewer KV heads than the fused tensor has", "phi3_longrope", "\"num_key_value_heads\": 2",
          "\"num_key_value_heads\": 1", "qkv_proj.weight has shape [256, 128], want [192, 128]" },
        { "a wider MLP than the fused tensor has", "glm4", "\"intermediate_size\": 96",
          "\"intermediate_size\": 97", "gate_up_proj.weight has shape [192, 64], want [194, 64]" },
        { "more heads than the fused tensor has", "gpt_neox", "\"num_attention_heads\": 4",
          "\"num_attention_heads\": 4,\"head_dim\": 64",
          "query_key_value.weight has shape [384, 128], want [768, 128]" },
        { "tensors that the fields do not ask for", "starcoder2", "\"use_bias\": true",
          "\"use_bias\": false", "is not part of a starcoder2 model" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct hf_folder folder;
        struct backend *be;
        struct model model;
        struct err err = { 0 };
        const struct cpu_options cpu = { .n_threads = 1, .exact = true };
        const struct model_options options = { .rows_max = 8, .logit_rows_max = 8 };
        assert_ok(hf_folder_open(&folder, oracle_path("models/%s", rows[i].name), &err), &err);
        free(folder.config.bytes);
        folder.config.bytes = changed_config(rows[i].name, rows[i].from, rows[i].to);
        folder.config.size = strlen(folder.config.bytes);
        folder.config.owned = true;
        assert_ok(cpu_backend_open(&be, &cpu, &err), &err);
        if (model_open(&model, &folder, NULL, be, &options, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: \"%s\"", rows[i].sentence, err.text);
        be->ops->close(be);
        hf_folder_close(&folder);
    }
}

/* `dummy:FOLDER/config.json`: no file has these weights. */
static void test_random(void **state)
{
    (void)state;
    static const char *const names[] = { "gemma2",      "gemma3_text", "phi3_longrope", "olmo2",
                                         "granite",     "starcoder2",  "stablelm",      "gpt_neox",
                                         "bitnet_bf16", "smollm3",     "glm4",          "cohere2" };
    static const int32_t tokens[5] = { 1, 7, 39, 0, 12 };
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        struct backend *be;
        struct model model;
        struct batch_single single;
        struct err err;
        const bool int8 = i % 2;
        const struct cpu_options cpu = { .n_threads = 2, .exact = !int8 };
        const struct model_options options = { .rows_max = 8,
                                               .logit_rows_max = 8,
                                               .group = 32,
                                               .weights = int8 ? WEIGHTS_INT8 : WEIGHTS_AUTO };
        const int32_t n_pages[KV_GROUPS_MAX] = { 1, 1, 1, 1 };
        char *config = changed_config(names[i / 2], "\"bos_token_id\"", "\"bos_token_id\"");
        assert_ok(cpu_backend_open(&be, &cpu, &err), &err);
        assert_ok(model_open(&model, NULL, config, be, &options, &err), &err);
        struct kv_cache kv = model.kv_shape;
        assert_ok(kv_cache_reserve(&kv, be, n_pages, &err), &err);
        assert_ok(batch_single_init(&single, 8, 16, kv.n_groups, &err), &err);
        model_forward(&model, batch_single_build(&single, tokens, 5, 0, true), &kv, NULL, NULL,
                      NULL);
        assert_ok(be->ops->finish(be, &err), &err);
        double square = 0;
        for (int32_t r = 0; r < 5; r++)
            for (int32_t t = 0; t < model.vocab; t++)
                square += pow((double)view_row(model.logits, r)[t], 2);
        if (!(isfinite(square) && square > 0))
            fail_msg("%s: the logits' squares add up to %g", names[i / 2], square);
        batch_single_clear(&single);
        model_close(&model);
        be->ops->close(be);
        free(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
