/* Each allocation of opening a GGUF file and its tokenizer fails once: a clean error, no leak
 * (ASan). */
#include "tests/support/fail_alloc.h"
#include "tests/support/gguf_file.h"
#include "host/format/gguf_folder.h"
#include "host/text/tokenizer_folder.h"

static uint8_t *make_file(size_t *size)
{
    static const char *const tokens[] = { "a", "b", "ab", "<|im_end|>" };
    static const char *const merges[] = { "a b" };
    static const int32_t types[] = { 1, 1, 1, 3 };
    struct gguf_file f;
    gguf_file_init(&f);
    gguf_file_text(&f, "general.architecture", "llama");
    gguf_file_int(&f, "llama.context_length", 64);
    gguf_file_int(&f, "llama.embedding_length", 16);
    gguf_file_int(&f, "llama.block_count", 1);
    gguf_file_int(&f, "llama.feed_forward_length", 24);
    gguf_file_int(&f, "llama.attention.head_count", 2);
    gguf_file_int(&f, "llama.expert_count", 3);
    gguf_file_int(&f, "llama.expert_used_count", 1);
    gguf_file_text(&f, "tokenizer.ggml.model", "gpt2");
    gguf_file_texts(&f, "tokenizer.ggml.tokens", tokens, 4);
    gguf_file_ints(&f, "tokenizer.ggml.token_type", types, 4);
    gguf_file_texts(&f, "tokenizer.ggml.merges", merges, 1);
    gguf_file_text(&f, "tokenizer.chat_template", "{{ messages }}");
    gguf_file_tensor(&f, "token_embd.weight", 40, 16, 0);
    gguf_file_tensor(&f, "blk.0.attn_q.weight", 16, 16, 0);
    gguf_file_tensor(&f, "blk.0.ffn_up_exps.weight", 3, 4, 16);
    gguf_file_tensor(&f, "rope_freqs.weight", 4, 0, 0);
    return gguf_file_bytes(&f, size);
}

static bool open_all(const uint8_t *bytes, size_t size, struct err *err)
{
    struct hf_folder folder = { 0 };
    struct tokenizer *tokenizer = NULL;
    struct file_map map;
    file_map_memory(&map, bytes, size);
    const bool ok = gguf_folder_open_map(&folder, map, "m.gguf", err) &&
                    tokenizer_open_folder(&tokenizer, &folder, err);
    assert_true(!ok || folder.config_missing.code == ERR_NONE);
    tokenizer_close(tokenizer);
    hf_folder_close(&folder);
    return ok;
}

static char path[600];
/* The same by its path. */
static bool open_path(const uint8_t *bytes, size_t size, struct err *err)
{
    struct hf_folder folder;
    (void)bytes;
    (void)size;
    if (!hf_folder_open(&folder, path, err))
        return false;
    hf_folder_close(&folder);
    return true;
}

static void each_fails(bool (*open)(const uint8_t *bytes, size_t size, struct err *err))
{
    struct err err;
    size_t size;
    uint8_t *bytes = make_file(&size);
    snprintf(path, sizeof path, "%s/m.gguf", temp_dir());
    write_file(path, bytes, size);
    fail_alloc_at(INT64_MAX);
    assert_ok(open(bytes, size, &err), &err);
    const int64_t n = fail_alloc_seen();
    fail_alloc_off();
    assert_true(n > 20);
    for (int64_t i = 1; i <= n; i++) {
        err = (struct err){ 0 };
        fail_alloc_at(i);
        const bool good = open(bytes, size, &err);
        fail_alloc_off();
        if (good || err.code != ERR_MEMORY)
            fail_msg("allocation %d of %d: %s, code %d", (int)i, (int)n, err.text, err.code);
    }
    print_message("%d allocations\n", (int)n);
    free(bytes);
}

static void test_each_fails(void **state)
{
    (void)state;
    each_fails(open_all);
    each_fails(open_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
