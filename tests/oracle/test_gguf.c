/* GGUF files against the reference data: dequantized weights, bit for bit. The checked-in files
 * always, all others where $NIBBLE_ORACLE is set. */
#include "tests/oracle/model_run.h"
#include "host/format/gguf.h"
#include "host/format/gguf_blocks.h"

static const struct {
    const char *name;
    bool here; /* in tests/oracle/gguf */
} FILES[] = {
    { "llama-Q4_0", false },       { "llama-Q4_1", false },        { "llama-Q5_0", false },
    { "llama-Q5_1", false },       { "llama-Q8_0", false },        { "llama-Q2_K", true },
    { "llama-Q3_K", false },       { "llama-Q4_K", false },        { "llama-Q5_K", false },
    { "llama-Q6_K", false },       { "llama-IQ4_NL", false },      { "llama-IQ4_XS", false },
    { "llama-MXFP4", true },       { "llama-TQ1_0", true },        { "llama-TQ2_0", true },
    { "llama-F16", false },        { "llama-BF16", false },        { "llama-tool-IQ4_XS", true },
    { "llama-tool-Q3_K_M", true }, { "llama-tool-Q4_K_M", false }, { "llama3rope-F16", true },
    { "qwen2-F16", false },        { "qwen2-Q8_0", true },         { "arch/qwen3-F16", false },
};
enum { N_FILES = sizeof FILES / sizeof *FILES };

/* The file's path without the ending, or NULL when it is not here. */
static const char *path_of(int32_t i)
{
    if (FILES[i].here || oracle_full() != NULL)
        return oracle_path("gguf/%s", FILES[i].name);
    return NULL;
}

static void say_missing(int32_t n)
{
    if (n != 0)
        print_message("not checked: %d files, NIBBLE_ORACLE is not set\n", n);
}

static void test_dequantized(void **state)
{
    (void)state;
    int32_t missing = 0;
    for (int32_t i = 0; i < N_FILES; i++) {
        char path[512];
        struct gguf gguf;
        struct file_map map;
        struct tensor_dir expect;
        struct err err;
        if (path_of(i) == NULL) {
            missing++;
            continue;
        }
        snprintf(path, sizeof path, "%s.gguf", path_of(i));
        assert_ok(file_map(&map, path, &err), &err);
        assert_ok(gguf_read(&gguf, map, path, &err), &err);
        snprintf(path, sizeof path, "%s.expect.safetensors", path_of(i));
        expect_open(&expect, path);
        int32_t n_compared = 0;
        for (int32_t t = 0; t < gguf.n_tensors; t++) {
            const struct tensor *tensor = &gguf.tensors[t];
            char name[80];
            snprintf(name, sizeof name, "dequant.%s", tensor->name);
            if (tensor_dir_find(&expect, name) == NULL)
                continue;
            int64_t n;
            const float *wanted = expect_find(&expect, DTYPE_F32, &n, "%s", name);
            assert_int_equal(n, tensor_count(tensor));
            float *found = malloc((size_t)n * sizeof *found);
            assert_non_null(found);
            gguf_dequantize(found, tensor->data, tensor->dtype, (size_t)n);
            for (int64_t k = 0; k < n; k++)
                if (!(found[k] == wanted[k]))
                    fail_msg("%s, %s, %s, element %lld: found %.9g, want %.9g", FILES[i].name,
                             tensor->name, dtype_name(tensor->dtype), (long long)k,
                             (double)found[k], (double)wanted[k]);
            free(found);
            n_compared++;
        }
        assert_true(n_compared > 0 || strncmp(FILES[i].name, "arch/", 5) == 0);
        tensor_dir_clear(&expect);
        gguf_clear(&gguf);
    }
    say_missing(missing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequantized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
