/* test_tokenizer_build.c - tokenizers built from pieces in memory, as GGUF files list them, against
 * the cases of the tokenizer.json that has the same vocabulary: what is built in the same way must
 * give the same ids, and the pre-tokenizers' names must mean what the families' files say. */
#include "tests/oracle/token_cases.h"
#include "host/text/pretok_names.h"
#include "host/text/tokenizer_build.h"
#include "host/text/vocab.h"

struct pieces {
    struct piece *pieces;
    size_t n;
    struct piece_text *merges;
    size_t n_merges;
};

static struct piece *piece_at(struct pieces *p, int id)
{
    assert_in_range(id, 0, 1 << 20);
    if ((size_t)id >= p->n) {
        p->pieces = realloc(p->pieces, ((size_t)id + 1) * sizeof *p->pieces);
        assert_non_null(p->pieces);
        for (; p->n <= (size_t)id; p->n++)
            p->pieces[p->n] = (struct piece){ .type = PIECE_UNUSED };
    }
    return &p->pieces[id];
}

/* The lists that a converter would write into a GGUF file; texts stay with the tree. */
static struct pieces pieces_of(const cJSON *root)
{
    const cJSON *model = cJSON_GetObjectItem(root, "model");
    struct pieces p = { 0 };
    for (const cJSON *v = cJSON_GetObjectItem(model, "vocab")->child; v; v = v->next)
        *piece_at(&p, v->valueint) =
            (struct piece){ v->string, strlen(v->string), 0, PIECE_NORMAL };
    for (const cJSON *a = cJSON_GetObjectItem(root, "added_tokens")->child; a; a = a->next) {
        const char *text = cJSON_GetObjectItem(a, "content")->valuestring;
        *piece_at(&p, cJSON_GetObjectItem(a, "id")->valueint) =
            (struct piece){ text, strlen(text), 0,
                            cJSON_IsTrue(cJSON_GetObjectItem(a, "special")) ? PIECE_CONTROL
                                                                            : PIECE_USER };
    }
    const cJSON *merges = cJSON_GetObjectItem(model, "merges");
    p.merges = calloc((size_t)cJSON_GetArraySize(merges) + 1, sizeof *p.merges);
    assert_non_null(p.merges);
    for (const cJSON *m = merges->child; m; m = m->next) {
        char *text;
        assert_true(asprintf(&text, "%s %s", m->child->valuestring, m->child->next->valuestring) >
                    0);
        p.merges[p.n_merges++] = (struct piece_text){ text, strlen(text) };
    }
    return p;
}

static void pieces_clear(struct pieces *p)
{
    for (size_t i = 0; i < p->n_merges; i++)
        free((char *)p->merges[i].text);
    free(p->merges);
    free(p->pieces);
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *set, *pre;
        int32_t bos;
    } rows[] = {
        { "bpe_gpt2", "gpt-2", -1 },
        { "bpe_qwen2_nfc", "qwen2", -1 },
        { "bpe_llama3_ignore_merges", "llama-bpe", 1300 },
        { "bpe_o200k", "gpt-4o", -1 },
        { "bpe_starcoder_digits", "starcoder", -1 },
    };
    struct buf json, cases;
    buf_init(&json, SIZE_MAX);
    buf_init(&cases, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err;
        assert_true(read_any(&json, rows[i].set, "tokenizer.json"));
        assert_true(read_any(&cases, rows[i].set, "cases.jsonl"));
        cJSON *root = cJSON_Parse(json.bytes);
        assert_non_null(root);
        struct pieces p = pieces_of(root);
        struct tokenizer_build build = { .kind = BUILD_MERGES,
                                         .pieces = p.pieces,
                                         .n_pieces = p.n,
                                         .merges = p.merges,
                                         .n_merges = p.n_merges,
                                         .pre = rows[i].pre,
                                         .unk = -1,
                                         .bos = rows[i].bos,
                                         .eos = -1 };
        assert_ok(tokenizer_build(&t, &build, &err), &err);
        size_t n = run_cases(t, rows[i].set, &cases);
        print_message("%s as \"%s\": %zu cases\n", rows[i].set, rows[i].pre, n);
        tokenizer_close(t);
        pieces_clear(&p);
        cJSON_Delete(root);
    }
    buf_clear(&json);
    buf_clear(&cases);
}

/* By ranks alone, as tiktoken and tekken files have them: a vocabulary whose ids are in the order
 * of its merges means the same without the list of merges. */
static void test_ranks(void **state)
{
    (void)state;
    static const struct {
        const char *set, *pre;
        int32_t bos;
    } rows[] = {
        { "bpe_llama3_ignore_merges", "llama-bpe", 1300 },
        { "bpe_o200k", "gpt-4o", -1 },
        { "bpe_gpt2", "gpt-2", -1 },
    };
    struct buf json, cases;
    buf_init(&json, SIZE_MAX);
    buf_init(&cases, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err;
        assert_true(read_any(&json, rows[i].set, "tokenizer.json"));
        assert_true(read_any(&cases, rows[i].set, "cases.jsonl"));
        cJSON *root = cJSON_Parse(json.bytes);
        assert_non_null(root);
        struct pieces p = pieces_of(root);
        char *bytes = malloc(json.length);
        size_t n = 0, length;
        assert_non_null(bytes);
        for (size_t id = 0; id < p.n; id++)
            if (p.pieces[id].type == PIECE_NORMAL) {
                assert_true(
                    vocab_from_letters(p.pieces[id].text, p.pieces[id].length, bytes + n, &length));
                p.pieces[id].text = bytes + n;
                p.pieces[id].length = length;
                n += length;
            }
        struct tokenizer_build build = { .kind = BUILD_RANKS,
                                         .pieces = p.pieces,
                                         .n_pieces = p.n,
                                         .pre = rows[i].pre,
                                         .unk = -1,
                                         .bos = rows[i].bos,
                                         .eos = -1 };
        assert_ok(tokenizer_build(&t, &build, &err), &err);
        print_message("%s by ranks: %zu cases\n", rows[i].set, run_cases(t, rows[i].set, &cases));
        tokenizer_close(t);
        free(bytes);
        pieces_clear(&p);
        cJSON_Delete(root);
    }
    buf_clear(&json);
    buf_clear(&cases);
}

/* Every name of the table compiles, and cuts a text without losing any of it. */
static bool add_up(void *arg, const char *piece, size_t length)
{
    (void)piece;
    *(size_t *)arg += length;
    return true;
}

static void test_all_names(void **state)
{
    (void)state;
    static const char *const NAMES[] = {
        "default",     "gpt-2",       "mpt",    "olmo",      "starcoder",    "refact",
        "command-r",   "smollm",      "exaone", "llama-bpe", "dbrx",         "smaug-bpe",
        "glm4",        "chatglm-bpe", "cl100k", "qwen2",     "stablelm2",    "qwen35",
        "gpt-4o",      "llama4",      "tekken", "kimi-k2",   "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "falcon",      "bloom",  "viking",    "bailingmoe",   "seed-coder",
        "superbpe",
    };
    static const char TEXT[] = "It's 12345 apples,\r\n\r\n  caf\u00e9 \u4f60\u597d12 \u00e4\u0308 "
                               "IN'T \u0e01 \U0001f600!?  $x=1;\t// \u3000end ";
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const struct pretok_name *name = pretok_name_find(NAMES[i]);
        struct pretok pretok = { 0 };
        struct pretok_scratch scratch;
        struct err err;
        size_t n = 0;
        assert_non_null(name);
        assert_ok(pretok_name_open(&pretok, name, &err), &err);
        pretok_scratch_init(&scratch);
        assert_ok(pretok_run(&pretok, &scratch, true, TEXT, sizeof TEXT - 1, add_up, &n, &err),
                  &err);
        assert_int_equal(n, sizeof TEXT - 1);
        pretok_scratch_clear(&scratch);
        pretok_clear(&pretok);
    }
    assert_null(pretok_name_find("nobody"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_all_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
