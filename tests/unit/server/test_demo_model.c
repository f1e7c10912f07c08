/* The demo model in the binary is the one in server/demo, byte for byte, and opens. */
#include "tests/support/support.h"
#include "host/base/file.h"
#include "server/demo_model.h"

static void test_same_bytes(void **state)
{
    (void)state;
    static const char *const NAMES[] = { "model.safetensors",      "config.json",
                                         "generation_config.json", "tokenizer.json",
                                         "tokenizer_config.json",  "special_tokens_map.json" };
    size_t n = 0;
    const struct hf_file *files = demo_model_files(&n);
    assert_int_equal(n, sizeof NAMES / sizeof *NAMES);
    for (size_t i = 0; i < n; i++) {
        char path[512], *bytes = NULL;
        size_t size = 0;
        struct err err;
        assert_string_equal(files[i].name, NAMES[i]);
        snprintf(path, sizeof path, "%s/server/demo/%s", NIBBLE_SOURCE_DIR, NAMES[i]);
        assert_ok(file_read(path, 64 << 20, &bytes, &size, &err), &err);
        assert_int_equal(files[i].size, size);
        assert_memory_equal(files[i].bytes, bytes, size);
        assert_int_equal(((const char *)files[i].bytes)[size], 0);
        assert_int_equal((uintptr_t)files[i].bytes % 64, 0);
        free(bytes);
    }
}

static void test_opens(void **state)
{
    (void)state;
    size_t n = 0;
    const struct hf_file *files = demo_model_files(&n);
    struct hf_folder folder;
    struct err err;
    assert_ok(hf_folder_open_memory(&folder, "demo", files, n, &err), &err);
    const struct tensor *embedding = tensor_dir_find(&folder.tensors, "model.embed_tokens.weight");
    assert_non_null(embedding);
    assert_int_equal(embedding->n_dims, 2);
    assert_int_equal(embedding->dims[0], 4096);
    assert_int_equal(embedding->dims[1], 256);
    assert_int_equal(embedding->dtype, DTYPE_BF16);
    assert_non_null(folder.tokenizer.bytes);
    assert_int_equal(strlen(folder.tokenizer.bytes), folder.tokenizer.size);
    assert_null(folder.chat_template.bytes); /* it is in tokenizer_config.json */
    hf_folder_close(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
