/* Every number of every family's config.json, in both spellings, replaced by hostile ones: refused
 * with the file's name, or a config whose numbers are safe to size, index and divide with. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/file.h"
#include "host/model/config.h"

static const char *const FAMILIES[] = { "llama_tied_rope_llama3",
                                        "mistral_window16",
                                        "qwen2_tied",
                                        "qwen3",
                                        "gemma2",
                                        "gemma3_text",
                                        "phi3_longrope",
                                        "olmo2",
                                        "granite",
                                        "starcoder2",
                                        "stablelm",
                                        "gpt_neox",
                                        "bitnet_bf16",
                                        "smollm3",
                                        "glm4",
                                        "cohere2",
                                        "mixtral_top2",
                                        "qwen2_moe",
                                        "qwen3_moe" };
static const char *const VALUES[] = {
    "0",     "-1",         "1",          "2",          "3",
    "0.5",   "1e-300",     "1e300",      "1e999",      "1023",
    "65537", "2147483647", "2147483648", "4294967297", "9223372036854775807",
    "true",  "null",       "\"8\"",      "[]",         "[1]",
    "{}",    "{\"a\":1}"
};

static void check_config(const struct config *c)
{
    static float frequencies[ROPE_VARIANTS_MAX * ROPE_PAIRS_MAX];
    float scale;
    assert_true(c->n_heads >= 1 && c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0);
    assert_true(c->head_dim >= 2 && c->head_dim <= 1024 && c->n_layers >= 1);
    assert_true((int64_t)c->n_heads * c->head_dim <= WIDTH_MAX);
    assert_true(c->ctx >= 1 && c->ctx <= c->ctx_limit);
    assert_true(isfinite(c->embed_scale) && isfinite(c->attend_scale) && c->attend_scale > 0);
    assert_true(isfinite(c->residual_scale) && isfinite(c->logit_scale));
    assert_true(c->attend_soft_cap >= 0 && c->logit_soft_cap >= 0);
    for (int32_t local = 0; local < 2; local++) {
        const struct rope_config *rope = local ? &c->rope_local : &c->rope;
        if (local && rope->dim == 0)
            continue;
        assert_true(rope->dim >= 2 && rope->dim % 2 == 0 && rope->dim <= c->head_dim);
        rope_frequencies(rope, frequencies, &scale);
        assert_true(isfinite(scale));
        for (int32_t i = 0; i < rope_variants(rope) * (rope->dim / 2); i++)
            assert_true(isfinite(frequencies[i]) && frequencies[i] >= 0);
    }
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct config_layer *layer = &c->layers[l];
        assert_true(layer->window >= 0 && layer->kv_group < c->n_kv_groups);
        assert_int_equal(c->windows[layer->kv_group], layer->window);
        assert_true(layer->rope != LAYER_ROPE_LOCAL || c->rope_local.dim > 0);
    }
}

static bool starts_number(const char *text, size_t at)
{
    const bool digit = (text[at] >= '0' && text[at] <= '9') || text[at] == '-';
    return digit && at > 0 && strchr(" ,[:\n", text[at - 1]) != NULL;
}

/* Returns how many of the forged ones were accepted. */
static int32_t forge(const char *text, size_t size, int32_t *n_tried)
{
    static struct config config;
    char *forged = malloc(size + 64);
    int32_t n_accepted = 0;
    assert_non_null(forged);
    for (size_t at = 0; at < size; at++) {
        if (!starts_number(text, at))
            continue;
        const size_t end = at + strspn(text + at, "-+.eE0123456789");
        for (size_t v = 0; v < sizeof VALUES / sizeof *VALUES; v++, (*n_tried)++) {
            struct err err = { 0 };
            const int n =
                snprintf(forged, size + 64, "%.*s%s%s", (int)at, text, VALUES[v], text + end);
            if (config_read(&config, forged, (size_t)n, &err)) {
                check_config(&config);
                n_accepted++;
                continue;
            }
            if (err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED)
                fail_msg("code %d: %s", err.code, err.text);
            if (strncmp(err.text, "config.json", 11) != 0)
                fail_msg("%s", err.text);
        }
    }
    free(forged);
    return n_accepted;
}

static void test_forged(void **state)
{
    (void)state;
    int32_t n_tried = 0, n_accepted = 0;
    for (size_t i = 0; i < 2 * sizeof FAMILIES / sizeof *FAMILIES; i++) {
        struct err err;
        char *text;
        size_t size;
        const char *path =
            oracle_path("models/%s/config%s.json", FAMILIES[i / 2], i % 2 ? "_v5" : "");
        assert_ok(file_read(path, 1 << 20, &text, &size, &err), &err);
        char *whole = calloc(1, size + 1);
        assert_non_null(whole);
        memcpy(whole, text, size);
        n_accepted += forge(whole, size, &n_tried);
        free(whole);
        free(text);
    }
    print_message("%d forged, %d of them accepted\n", n_tried, n_accepted);
    assert_true(n_tried > 5000 && n_accepted < n_tried / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_forged) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
