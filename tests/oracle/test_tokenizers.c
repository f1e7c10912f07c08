/* test_tokenizers.c - every tokenizer of the reference data: ids with and without
 * the post-processor, decoded text with and without special tokens, and the streaming
 * detokenizer against the whole. Expectations come from the `tokenizers` library (see
 * tests/oracle/README.md). Files may be gzipped (name.gz): they are read through zcat. */
#include "tests/oracle/token_cases.h"

static const char *const SETS[] = {
    "bpe_gpt2",
    "bpe_qwen2_nfc",
    "bpe_llama3_ignore_merges",
    "bpe_o200k",
    "bpe_starcoder_digits",
    "bpe_deepseek_llm",
    "bpe_flags_nfkc_lower",
    "real_qwen2",
    "real_mistral_v1",
    "spm_gemma",
    "spm_llama2_prepend",
    "spm_metaspace_first_phi3",
    "unigram_t5_nfkc",
    "wordpiece_bert_uncased",
};

static void test_sets(void **state)
{
    (void)state;
    size_t n_sets = 0, n_cases = 0, n_skipped = 0;
    struct buf json, cases;
    buf_init(&json, SIZE_MAX);
    buf_init(&cases, SIZE_MAX);
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++) {
        const char *set = SETS[i];
        struct tokenizer *t = NULL;
        struct err err;
        if (!read_any(&json, set, "tokenizer.json")) {
            print_message("skipped %s: not checked in, and NIBBLE_ORACLE %s\n", set,
                          oracle_full() ? "does not have it" : "is not set");
            n_skipped++;
            continue;
        }
        bool ok = tokenizer_open(&t, json.bytes, json.length, &err);
        assert_ok(ok, &err);
        assert_true(read_any(&cases, set, "cases.jsonl"));
        size_t n = run_cases(t, set, &cases);
        print_message("%s: %zu cases\n", set, n);
        assert_true(n > 0);
        n_sets++;
        n_cases += n;
        tokenizer_close(t);
    }
    print_message("tokenizers: %zu sets, %zu cases, %zu sets skipped\n", n_sets, n_cases,
                  n_skipped);
    assert_true(n_sets > 0);
    buf_clear(&json);
    buf_clear(&cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
