/* Each allocation of opening a model folder, or its tokenizer's files alone, fails once; and each
 * of reading its quantization config: a clean error, no leak (ASan). */
#include "tests/unit/format/packing_examples.h"
#include "tests/support/fail_alloc.h"
#include <sys/stat.h>
#include "host/format/hf_folder.h"
#include "host/format/quant_spec.h"

static char dir[512];

static void write_text(const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, text, strlen(text));
}

static void write_shard(const char *name, const char *tensor)
{
    char path[600], bytes[256] = { 0 };
    const int n =
        snprintf(bytes + 8, sizeof bytes - 8,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", tensor);
    bytes[0] = (char)n;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, bytes, 8 + (size_t)n + 1);
}

static bool open_folder(struct err *err)
{
    struct hf_folder folder;
    if (!hf_folder_open(&folder, dir, err))
        return false;
    assert_int_equal(folder.tensors.n_tensors, 2);
    hf_folder_close(&folder);
    return true;
}

static bool open_shard(struct err *err)
{
    struct hf_folder folder;
    char path[600];
    snprintf(path, sizeof path, "%s/x.safetensors", dir);
    if (!hf_folder_open(&folder, path, err))
        return false;
    hf_folder_close(&folder);
    return true;
}

static bool open_tokenizer(struct err *err)
{
    struct hf_folder folder;
    char path[600];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (!hf_folder_open_tokenizer(&folder, path, err) ||
        (hf_folder_close(&folder), !hf_folder_open_tokenizer(&folder, dir, err)))
        return false;
    hf_folder_close(&folder);
    return true;
}

static bool open_memory(struct err *err)
{
    static const struct hf_file files[] = { { "config.json", "{}", 2 } };
    struct hf_folder folder;
    if (hf_folder_open_memory(&folder, "memory", files, 1, err))
        fail_msg("opened without weights");
    return err->code == ERR_NOT_FOUND; /* the error of an honest run */
}

static const char *quant_json;
static bool read_quant(struct err *err)
{
    struct cJSON *tree = NULL;
    struct quant_spec spec;
    if (!json_parse(quant_json, strlen(quant_json), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err))
        return false;
    const struct json_ref root = json_root(tree);
    const bool ok = quant_spec_read(&spec, &root, err);
    json_free(tree);
    if (ok)
        quant_spec_clear(&spec);
    return ok;
}

static void each_fails(const char *what, bool (*call)(struct err *err))
{
    struct err err = { 0 };
    fail_alloc_at(INT64_MAX);
    assert_ok(call(&err), &err);
    const int64_t n = fail_alloc_seen();
    fail_alloc_off();
    assert_true(n > 0);
    for (int64_t i = 1; i <= n; i++) {
        err = (struct err){ 0 };
        fail_alloc_at(i);
        const bool good = call(&err);
        fail_alloc_off();
        if (good || err.code != ERR_MEMORY)
            fail_msg("%s: allocation %d of %d: code %d, %s", what, (int)i, (int)n, err.code,
                     err.text);
    }
}

static void test_folders(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s", temp_dir());
    write_text("config.json", "{}");
    write_text("tokenizer.json", "{}");
    write_text("tokenizer_config.json", "{}");
    write_text("quant_config.json", "{}");
    write_text("chat_template.json", "{\"chat_template\":\"x\"}");
    write_text("model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}}");
    write_shard("x.safetensors", "a");
    write_shard("y.safetensors", "b");
    each_fails("folder", open_folder);
    each_fails("one file", open_shard);
    each_fails("tokenizer", open_tokenizer);
    each_fails("memory", open_memory);
}

static void test_quant(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "{\"quantization_config\":{\"quant_method\":\"gptq\",\"dynamic\":{\"+:a\":{\"bits\":8},\"-:"
        "b\":{}}}}",
        "{\"quantization_config\":{\"quant_method\":\"awq\",\"modules_to_not_convert\":[\"a\","
        "\"b\",\"c\"]}}",
        "{\"quantization_config\":{\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_"
        "PRECISION\","
        "\"quantized_layers\":{\"a\":{\"quant_algo\":\"FP8\"},\"b\":{\"quant_algo\":\"NVFP4\"}}}}",
        "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"ignore\":[\"x\"],"
        "\"config_groups\":{\"g\":{\"targets\":[\"Linear\",\"re:.*\"],\"weights\":{}}}}}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        quant_json = rows[i];
        each_fails(quant_json, read_quant);
    }
}

/* Every packing's example: looking it up, and asking whether fp16 holds its scales. */
static void test_packings(void **state)
{
    (void)state;
    const struct change none = { 0 };
    for (int32_t k = 0; k < N_EXAMPLES; k++) {
        const struct example *e = &EXAMPLES[k];
        uint8_t *copies[PARTS_MAX] = { 0 };
        struct tensor_dir directory;
        struct quant_spec spec;
        read_config(&spec, e->config);
        make_dir(&directory, e, &none, copies);
        bool ok = false;
        for (int64_t at = 1; !ok; at++) {
            struct packed packed;
            struct err err = { 0 };
            bool lossless;
            fail_alloc_at(at);
            ok = packed_find(&packed, &directory, &spec, "m", e->n_out, e->n_in, &err);
            if (ok) {
                ok = packed_fits_f16(&packed, &lossless, &err);
                packed_clear(&packed);
            }
            fail_alloc_off();
            if (!ok && err.code != ERR_MEMORY)
                fail_msg("%s: allocation %d: code %d, %s", e->sentence, (int)at, err.code,
                         err.text);
        }
        tensor_dir_clear(&directory);
        quant_spec_clear(&spec);
        for (int32_t i = 0; i < PARTS_MAX; i++)
            free(copies[i]);
    }
}

/* A file whose names did not all find room leaves nothing behind, also where its numbers are taken
 * by the next one. */
static void test_left_overs(void **state)
{
    (void)state;
    enum { N = 200 };
    static char names[N][16];
    struct tensor tensors[N] = { { 0 } };
    const struct tensor other = { .name = "other", .n_dims = 1, .dims = { 1 } };
    const struct file_map none = { 0 };
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        tensors[i] = (struct tensor){ .name = names[i], .n_dims = 1, .dims = { 1 } };
    }
    int32_t n_failed = 0;
    for (int64_t at = 1;; at++) {
        struct tensor_dir directory = { 0 };
        struct err err = { 0 };
        const struct tensor first = { .name = "first", .n_dims = 1, .dims = { 1 } };
        assert_ok(tensor_dir_add(&directory, &first, 1, none, "one", &err), &err);
        fail_alloc_at(at);
        const bool ok = tensor_dir_add(&directory, tensors, N, none, "many", &err);
        fail_alloc_off();
        if (!ok) {
            n_failed++;
            assert_int_equal(err.code, ERR_MEMORY);
            assert_null(tensor_dir_find(&directory, "t0"));
            assert_ok(tensor_dir_add(&directory, &other, 1, none, "two", &err), &err);
            for (int i = 0; i < N; i++)
                assert_null(tensor_dir_find(&directory, names[i]));
            assert_ok(tensor_dir_add(&directory, tensors, N, none, "many", &err), &err);
        }
        assert_non_null(tensor_dir_find(&directory, "first"));
        assert_string_equal(tensor_dir_find(&directory, "t199")->name, "t199");
        tensor_dir_clear(&directory);
        if (ok)
            break;
    }
    assert_true(n_failed > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_quant),
        cmocka_unit_test(test_packings),
        cmocka_unit_test(test_left_overs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
