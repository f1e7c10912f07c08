/* Each allocation of opening a tokenizer and encoding with it fails once: a clean error, no leak
 * (ASan). One file of each kind. */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/text/detok.h"
#include "host/text/tokenizer_files.h"
#include "tests/unit/text/tokenizer_examples.h"

/* sentencepiece: <unk> <s> _ a b ab; the model's type is the last byte */
#define PIECE(length, text, text_length, more) "\x0a" length "\x0a" text_length text more
#define SCORE                                  "\x15\x00\x00\x80\xbf"
#define PIECES                                                                                     \
    PIECE("\x0e", "<unk>", "\x05", SCORE "\x18\x02")                                               \
    PIECE("\x0c", "<s>", "\x03", SCORE "\x18\x03")                                                 \
    PIECE("\x0a", MARK, "\x03", SCORE)                                                             \
    PIECE("\x08", "a", "\x01", SCORE)                                                              \
    PIECE("\x08", "b", "\x01", SCORE)                                                              \
    PIECE("\x09", "ab", "\x02", SCORE)                                                             \
    PIECE("\x0c", "<u>", "\x03", SCORE "\x18\x04")
static const char BPE[] = PIECES "\x12\x02\x18\x02";
static const char UNIGRAM[] = PIECES "\x12\x02\x18\x01";
static const char TEKKEN[] =
    "{\"config\":{\"pattern\":\" ?\\\\p{L}+\",\"default_num_special_tokens\":3},\"vocab\":["
    "{\"rank\":0,\"token_bytes\":\"YQ==\"},{\"rank\":1,\"token_bytes\":\"Yg==\"},"
    "{\"rank\":2,\"token_bytes\":\"YWI=\"}]}";
static const char WORDS[] =
    "{\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":"
    "\"BertPreTokenizer\"},"
    "\"decoder\":{\"type\":\"WordPiece\"},\"added_tokens\":[{\"id\":0,\"content\":\"[UNK]\","
    "\"special\":true}],\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":"
    "{\"[UNK]\":0,\"a\":1,\"##b\":2}}}";

static const char TIKTOKEN[] = "YQ== 0\nYg== 1\nYWI= 2\nIA== 3\n";

static const struct json_ref *config; /* beside tiktoken.model */

static bool open_and_use(const char *name, const char *bytes, size_t size, struct err *err)
{
    static const char TEXT[] =
        "ab <u>a\u00e9\u4f60 abababababababababababababababababababababababab";
    struct tokenizer *t;
    struct ids ids = { 0 };
    struct buf text;
    /* No family has so few tokens: the pattern must be said. */
    if (strcmp(name, "tiktoken.model") == 0
            ? !tiktoken_open(&t, bytes, size, "gpt-2", config, err)
            : !tokenizer_open_file(&t, name, bytes, size, NULL, err))
        return false;
    buf_init(&text, SIZE_MAX);
    bool ok = tokenizer_encode(t, TEXT, sizeof TEXT - 1, ENCODE_ADD_SPECIAL, NULL, 0, &ids, err);
    if (ok) {
        detok_all(t, ids.ids, ids.n, true, &text);
        if (text.failed)
            ok = err_set(err, ERR_MEMORY, "no memory for the text");
    }
    buf_clear(&text);
    ids_clear(&ids);
    tokenizer_close(t);
    return ok;
}

static void test_each_fails(void **state)
{
    (void)state;
    struct {
        const char *name, *bytes;
        size_t size;
    } rows[5 + N_TOKENIZER_EXAMPLES] = {
        { "tokenizer.model", BPE, sizeof BPE - 1 },
        { "tokenizer.model", UNIGRAM, sizeof UNIGRAM - 1 },
        { "tekken.json", TEKKEN, sizeof TEKKEN - 1 },
        { "tokenizer.json", WORDS, sizeof WORDS - 1 },
        { "tiktoken.model", TIKTOKEN, sizeof TIKTOKEN - 1 },
    };
    for (int e = 0; e < N_TOKENIZER_EXAMPLES; e++) {
        rows[5 + e].name = "tokenizer.json";
        rows[5 + e].bytes = TOKENIZER_EXAMPLES[e].json;
        rows[5 + e].size = strlen(TOKENIZER_EXAMPLES[e].json);
    }
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct err err;
        fail_alloc_at(INT64_MAX);
        assert_ok(open_and_use(rows[r].name, rows[r].bytes, rows[r].size, &err), &err);
        int64_t n = fail_alloc_seen();
        fail_alloc_off();
        assert_true(n > 10);
        for (int64_t i = 1; i <= n; i++) {
            err = (struct err){ 0 };
            fail_alloc_at(i);
            bool good = open_and_use(rows[r].name, rows[r].bytes, rows[r].size, &err);
            fail_alloc_off();
            if (good || err.code != ERR_MEMORY)
                fail_msg("%s, allocation %d of %d: %s, code %d", rows[r].name, (int)i, (int)n,
                         err.text, err.code);
        }
        print_message("%s: %d allocations\n", rows[r].name, (int)n);
    }
}

/* Added tokens of a tokenizer_config.json, and vocabularies that outgrow their first tables. */
static void test_larger_ones_fail(void **state)
{
    (void)state;
    static const char CONFIG[] =
        "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"add_eos_token\":true,\"eos_token\":\"<e>"
        "\","
        "\"added_tokens_decoder\":{\"4\":{\"content\":\"<s>\",\"special\":true},"
        "\"5\":{\"content\":\"<e>\"}}}";
    struct cJSON *tree;
    struct err err;
    assert_ok(json_parse(CONFIG, sizeof CONFIG - 1, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err),
              &err);
    const struct json_ref root = json_root(tree);
    struct buf unigram, bpe, ranks;
    buf_init(&unigram, 1 << 20);
    buf_init(&bpe, 1 << 20);
    buf_init(&ranks, 1 << 20);
    buf_puts(&unigram,
             "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[");
    buf_puts(
        &bpe,
        "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 1100; i++) {
        buf_printf(&unigram, "%s[\"\\u%04x\",-%d]", i ? "," : "", 0x4e00 + i, i + 1);
        buf_printf(&bpe, "%s\"\\u%04x\":%d", i ? "," : "", 0x4e00 + i, i);
    }
    for (int i = 0; i < 1100; i++) /* four letters: three bytes */
        buf_printf(&ranks, "%c%c%ca %d\n", 'A' + i / 256, 'A' + i / 16 % 16, 'A' + i % 16, i);
    buf_puts(&unigram, "]}}");
    buf_puts(&bpe, "}}}");
    const struct {
        const char *name, *bytes;
        size_t size;
        const struct json_ref *config;
    } rows[] = {
        { "tiktoken.model", TIKTOKEN, sizeof TIKTOKEN - 1, &root },
        { "tiktoken.model", buf_text(&ranks), ranks.length, NULL },
        { "tokenizer.json", buf_text(&unigram), unigram.length, NULL },
        { "tokenizer.json", buf_text(&bpe), bpe.length, NULL },
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        config = rows[r].config;
        bool ok = false;
        int64_t at = 1;
        for (; !ok; at++) {
            err = (struct err){ 0 };
            fail_alloc_at(at);
            ok = open_and_use(rows[r].name, rows[r].bytes, rows[r].size, &err);
            fail_alloc_off();
            if (!ok && err.code != ERR_MEMORY)
                fail_msg("%s, allocation %d: code %d, %s", rows[r].name, (int)at, err.code,
                         err.text);
        }
        assert_true(at > 10);
    }
    config = NULL;
    buf_clear(&unigram);
    buf_clear(&bpe);
    buf_clear(&ranks);
    json_free(tree);
}

/* The list of ids is full at each token in turn: its growth fails there, or nothing fails. */
static void test_each_push_fails(void **state)
{
    (void)state;
    static const char TEXT[] = " ab <u>a\u00e9\u4f60\u4f61 aababab [UNK] abab u b";
    for (int e = -3; e < N_TOKENIZER_EXAMPLES; e++) {
        const char *name = e < -1 ? "tokenizer.model" : e < 0 ? "tekken.json" : "tokenizer.json";
        const char *bytes = e == -3   ? BPE
                            : e == -2 ? UNIGRAM
                            : e == -1 ? TEKKEN
                                      : TOKENIZER_EXAMPLES[e].json;
        const size_t size = e == -3 ? sizeof BPE - 1 : e == -2 ? sizeof UNIGRAM - 1 : strlen(bytes);
        struct tokenizer *t;
        struct err err;
        assert_ok(tokenizer_open_file(&t, name, bytes, size, NULL, &err), &err);
        for (int full = 0; full < 64; full++) {
            struct ids ids = { 0 };
            for (int i = 0; i < full; i++)
                assert_true(ids_push(&ids, 0));
            for (int64_t at = 1; at < 8; at++) {
                ids.n = (size_t)full;
                err = (struct err){ 0 };
                fail_alloc_at(at);
                const bool ok = tokenizer_encode(t, TEXT, sizeof TEXT - 1, ENCODE_ADD_SPECIAL, NULL,
                                                 0, &ids, &err);
                fail_alloc_off();
                if (!ok && err.code != ERR_MEMORY)
                    fail_msg("%s, %d ids, allocation %d: code %d, %s", name, full, (int)at,
                             err.code, err.text);
                if (ok)
                    break;
            }
            ids_clear(&ids);
        }
        tokenizer_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_fails),
                                        cmocka_unit_test(test_larger_ones_fail),
                                        cmocka_unit_test(test_each_push_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
