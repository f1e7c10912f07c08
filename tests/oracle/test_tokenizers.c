/* test_tokenizers.c - every tokenizer of the reference data: ids with and without
 * the post-processor, decoded text with and without special tokens, and the streaming
 * detokenizer against the whole. Expectations come from the `tokenizers` library (see
 * tests/oracle/README.md). Files may be gzipped (name.gz): they are read through zcat. */
#include "tests/oracle/token_cases.h"
#include "host/text/tokenizer_files.h"

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

/* The sentencepiece files that the tokenizer.json of these sets were made from: the same cases
 * hold, ids and texts. Gemma's tokenizer.json leaves out two user-defined pieces; T5's has four
 * tokens more, which a folder's tokenizer_config.json would list. */
static void test_models(void **state)
{
    (void)state;
    static const struct {
        const char *set, *without, *config;
    } rows[] = {
        { "spm_gemma", "_of_turn>", NULL },
        { "spm_llama2_prepend", NULL, NULL },
        { "real_mistral_v1", NULL, "{\"add_bos_token\":true}" },
    };
    size_t n_models = 0;
    struct buf model, cases;
    buf_init(&model, SIZE_MAX);
    buf_init(&cases, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = NULL;
        struct cJSON *config = NULL;
        struct err err;
        if (!read_any(&model, rows[i].set, "tokenizer.model")) {
            print_message("skipped %s: no tokenizer.model\n", rows[i].set);
            continue;
        }
        if (rows[i].config)
            assert_ok(json_parse(rows[i].config, strlen(rows[i].config), &JSON_FILE_LIMITS,
                                 ERR_FORMAT, &config, &err),
                      &err);
        struct json_ref root = json_root(config);
        assert_ok(tokenizer_open_file(&t, "tokenizer.model", buf_text(&model), model.length,
                                      config ? &root : NULL, &err),
                  &err);
        assert_true(read_any(&cases, rows[i].set, "cases.jsonl"));
        print_message("%s: %zu cases\n", rows[i].set,
                      run_cases_without(t, rows[i].set, &cases, rows[i].without));
        tokenizer_close(t);
        json_free(config);
        n_models++;
    }
    assert_true(n_models > 0);
    buf_clear(&model);
    buf_clear(&cases);
}

/* What sentencepiece itself makes of texts (never a control token). */
static void test_sentencepiece(void **state)
{
    (void)state;
    static const char *const MODELS[] = { "spm_gemma", "spm_llama2_prepend", "unigram_t5_nfkc" };
    struct buf model, cases;
    buf_init(&model, SIZE_MAX);
    buf_init(&cases, SIZE_MAX);
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++) {
        struct tokenizer *t = NULL;
        struct err err;
        size_t line = 0;
        char *save = NULL;
        if (!read_any(&cases, MODELS[i], "sentencepiece.jsonl")) {
            print_message("skipped %s: sentencepiece.jsonl is in the checked-in data alone\n",
                          MODELS[i]);
            continue;
        }
        assert_true(read_any(&model, MODELS[i], "tokenizer.model"));
        assert_ok(sentencepiece_open(&t, buf_text(&model), model.length, NULL, &err), &err);
        for (char *l = strtok_r(cases.bytes, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
            hide_zeros(l);
            cJSON *c = cJSON_Parse(l);
            assert_non_null(c);
            check_ids(t, MODELS[i], ++line, text_of(c, "text"), 0, cJSON_GetObjectItem(c, "ids"));
            cJSON_Delete(c);
        }
        print_message("%s: %zu texts\n", MODELS[i], line);
        tokenizer_close(t);
    }
    buf_clear(&model);
    buf_clear(&cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_sentencepiece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
