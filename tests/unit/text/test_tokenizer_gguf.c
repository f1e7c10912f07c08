/* Tokenizers from GGUF metadata: kinds, defaults of what is left out, and refusals. */
#include "tests/support/gguf_file.h"
#include "host/text/tokenizer_gguf.h"

#define T "tokenizer.ggml."
/* A sentencepiece vocabulary: "▁a" out of "▁" and "a". */
static const char *const PIECES[] = { "<unk>",
                                      "<s>",
                                      "</s>",
                                      "\xe2\x96\x81",
                                      "a",
                                      "\xe2\x96\x81"
                                      "a" };
static const int32_t TYPES[] = { 2, 3, 3, 1, 1, 1 };
static const float SCORES[] = { 0, 0, 0, -2, -3, -1 };
/* A byte-level one: "ab". */
static const char *const LETTERS[] = { "a", "b", "ab", "<e>" };
static const int32_t LETTER_TYPES[] = { 1, 1, 1, 3 };
static const char *const MERGES[] = { "a b" };

static bool open_file(struct tokenizer **tokenizer, struct gguf_file *f, struct err *err)
{
    struct gguf gguf;
    struct file_map map;
    size_t size;
    uint8_t *bytes = gguf_file_bytes(f, &size);
    void *memory = guard_copy(bytes, size);
    free(bytes);
    file_map_memory(&map, memory, size);
    assert_ok(gguf_read(&gguf, map, "m.gguf", err), err);
    const bool ok = tokenizer_open_gguf(tokenizer, &gguf, err);
    gguf_clear(&gguf);
    guard_free(memory, size);
    return ok;
}

static void put_llama(struct gguf_file *f)
{
    gguf_file_text(f, T "model", "llama");
    gguf_file_texts(f, T "tokens", PIECES, 6);
    gguf_file_ints(f, T "token_type", TYPES, 6);
    gguf_file_floats(f, T "scores", SCORES, 6);
}

static void put_gpt2(struct gguf_file *f, const char *pre)
{
    gguf_file_text(f, T "model", "gpt2");
    gguf_file_texts(f, T "tokens", LETTERS, 4);
    gguf_file_ints(f, T "token_type", LETTER_TYPES, 4);
    gguf_file_texts(f, T "merges", MERGES, 1);
    if (pre != NULL)
        gguf_file_text(f, T "pre", pre);
}

static void expect_ids(struct gguf_file *f, const char *text, const int32_t *wanted, size_t n)
{
    struct tokenizer *tokenizer;
    struct err err;
    struct ids ids = { 0 };
    assert_ok(open_file(&tokenizer, f, &err), &err);
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text),
                               ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, NULL, 0, &ids, &err),
              &err);
    assert_int_equal(ids.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids.ids[i], wanted[i]);
    ids_clear(&ids);
    tokenizer_close(tokenizer);
}

static void test_kinds(void **state)
{
    (void)state;
    struct gguf_file f;
    gguf_file_init(&f);
    put_llama(&f); /* a blank in front, and bos 1, by default */
    expect_ids(&f, "a", (const int32_t[]){ 1, 5 }, 2);
    gguf_file_init(&f);
    put_llama(&f);
    gguf_file_bool(&f, T "add_space_prefix", false);
    gguf_file_bool(&f, T "add_bos_token", false);
    gguf_file_bool(&f, T "add_eos_token", true);
    expect_ids(&f, "a", (const int32_t[]){ 4, 2 }, 2);
    gguf_file_init(&f);
    put_gpt2(&f, NULL);
    expect_ids(&f, "ab<e>", (const int32_t[]){ 2, 3 }, 2);
    gguf_file_init(&f);
    put_gpt2(&f, "llama-bpe"); /* whose models begin with bos */
    gguf_file_int(&f, T "bos_token_id", 3);
    expect_ids(&f, "ba", (const int32_t[]){ 3, 1, 0 }, 3);
    gguf_file_init(&f);
    put_gpt2(&f, "llama-bpe");
    gguf_file_int(&f, T "bos_token_id", UINT32_MAX); /* none, as some writers say it */
    expect_ids(&f, "a", (const int32_t[]){ 0 }, 1);
}

static void expect_error(struct gguf_file *f, enum err_code code, const char *text)
{
    struct tokenizer *tokenizer;
    struct err err;
    if (open_file(&tokenizer, f, &err))
        fail_msg("accepted; want \"%s\"", text);
    assert_null(tokenizer);
    if (err.code != code || strstr(err.text, text) == NULL)
        fail_msg("code %d, \"%s\"; want \"%s\"", err.code, err.text, text);
}

static void test_refused(void **state)
{
    (void)state;
    static const int32_t five[] = { 1, 1, 1, 1, 1 }, strange[] = { 1, 7, 1, 1 };
    static const char *const unknown[] = { "a c" };
    struct gguf_file f;
    gguf_file_init(&f);
    expect_error(&f, ERR_NOT_FOUND, "the file has no vocabulary");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "rwkv");
    expect_error(&f, ERR_UNSUPPORTED, "model: \"rwkv\"; supported: llama, gpt2, t5");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    expect_error(&f, ERR_NOT_FOUND, "metadata tokenizer.ggml.tokens is missing");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_ints(&f, T "tokens", five, 5);
    expect_error(&f, ERR_FORMAT, "tokens: is an array of i32, want an array of texts");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_texts(&f, T "tokens", LETTERS, 4);
    expect_error(&f, ERR_FORMAT, "metadata tokenizer.ggml.merges is missing");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_texts(&f, T "tokens", LETTERS, 4);
    gguf_file_ints(&f, T "token_type", five, 5);
    expect_error(&f, ERR_FORMAT, "token_type: has 5 elements, want 4, one a token");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_texts(&f, T "tokens", LETTERS, 4);
    gguf_file_ints(&f, T "token_type", strange, 4);
    expect_error(&f, ERR_FORMAT, "token 1 has type 7, want 0 to 6");
    gguf_file_init(&f);
    put_gpt2(&f, "nobody");
    expect_error(&f, ERR_UNSUPPORTED, "nobody");
    static const struct {
        const char *key, *text;
        bool llama;
    } wrong[] = { { T "bos_token_id", "bos_token_id: is string, want an integer", false },
                  { T "add_bos_token", "add_bos_token: is string, want a bool", false },
                  { T "add_eos_token", "add_eos_token: is string, want a bool", false },
                  { T "add_space_prefix", "add_space_prefix: is string, want a bool", true },
                  { T "remove_extra_whitespaces", "whitespaces: is string, want a bool", true },
                  { T "precompiled_charsmap", "charsmap: want an array of bytes", true } };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        gguf_file_init(&f);
        if (wrong[i].llama)
            put_llama(&f);
        else
            put_gpt2(&f, NULL);
        gguf_file_text(&f, wrong[i].key, "1");
        expect_error(&f, ERR_FORMAT, wrong[i].text);
    }
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_texts(&f, T "tokens", LETTERS, 4);
    gguf_file_floats(&f, T "token_type", (const float[]){ 1, 1, 1, 1 }, 4);
    expect_error(&f, ERR_FORMAT, "token_type: want integers");
    gguf_file_init(&f);
    put_gpt2(&f, "a name that is longer than any name of a pre-tokenizer, with all its letters");
    expect_error(&f, ERR_FORMAT, "pre: a name of 76 bytes, want 1 to 63");
    gguf_file_init(&f);
    gguf_file_int(&f, T "model", 1);
    expect_error(&f, ERR_FORMAT, "model: is u32, want a text");
    gguf_file_init(&f);
    put_gpt2(&f, NULL);
    gguf_file_int(&f, T "eos_token_id", 4);
    expect_error(&f, ERR_FORMAT, "eos_token_id: is 4, want an id below 4");
    gguf_file_init(&f);
    gguf_file_text(&f, T "model", "gpt2");
    gguf_file_texts(&f, T "tokens", LETTERS, 4);
    gguf_file_texts(&f, T "merges", unknown, 1);
    expect_error(&f, ERR_FORMAT, "merge");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
