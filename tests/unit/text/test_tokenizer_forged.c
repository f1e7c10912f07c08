/* test_tokenizer_forged.c - what the readers of tokenizer files refuse, by the exact field: tekken,
 * tiktoken with a tokenizer_config.json, vocabularies in GGUF metadata, lists of tokens; and maps
 * of characters made by hand. */
#include "tests/support/gguf_file.h"
#include "host/base/json.h"
#include "host/text/added.h"
#include "host/text/charsmap.h"
#include "host/text/normalize.h"
#include "host/text/tokenizer_files.h"
#include "host/text/tokenizer_gguf.h"
#include "host/text/vocab.h"

#define MARK  "\xe2\x96\x81"
#define T     "tokenizer.ggml."
#define LINES "YQ== 0\nYg== 1\nIA== 2\nYWI= 3\nIGE= 4"

static const char *encode(const struct tokenizer *t, const char *text)
{
    static char out[512];
    struct ids ids = { 0 };
    struct err err;
    size_t at = 0;
    assert_ok(tokenizer_encode(t, text, strlen(text), ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL,
                               NULL, 0, &ids, &err),
              &err);
    out[0] = 0;
    for (size_t i = 0; i < ids.n && at < sizeof out - 16; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%d", i ? " " : "", ids.ids[i]);
    ids_clear(&ids);
    return out;
}

/* A file and what a tokenizer_config.json says beside it. */
static bool open_with(struct tokenizer **t, const char *name, const char *bytes, const char *config,
                      struct err *err)
{
    struct cJSON *tree = NULL;
    if (config)
        assert_ok(json_parse(config, strlen(config), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err),
                  err);
    struct json_ref root = json_root(tree);
    const struct json_ref *at = config ? &root : NULL;
    bool ok = strcmp(name, "tiktoken") == 0
                  ? tiktoken_open(t, bytes, strlen(bytes), "gpt-2", at, err)
                  : tokenizer_open_file(t, name, bytes, strlen(bytes), at, err);
    json_free(tree);
    return ok;
}

#define TEKKEN(config, vocab, more)                                                                \
    "{\"config\":{\"pattern\":\"a\",\"default_num_special_tokens\":4" config "},\"vocab\":[" vocab \
    "]" more "}"
#define A                "{\"rank\":0,\"token_bytes\":\"YQ==\"}"
#define SPECIAL(text)    TEKKEN("", A, ",\"special_tokens\":[{\"rank\":1," text "}]")
#define ADDED(key, text) "{\"added_tokens_decoder\":{\"" key "\":" text "}}"

/* sentencepiece: the one piece "a" */
#define PIECE                                                                                      \
    "\x0a\x03\x0a\x01"                                                                             \
    "a"

static void test_files(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes, *config;
        const char *want; /* the error, or "=" and the ids of "a<s>b" */
    } rows[] = {
        { "tekken.json", "{\"vocab\":[]}", NULL, "tekken.json: no tekken file: config must be" },
        { "tekken.json", "{\"config\":7}", NULL, "tekken.json: no tekken file: config must be" },
        { "tekken.json", "{\"config\":{},\"vocab\":7}", NULL, "tekken.json: vocab must be a list" },
        { "tekken.json", "{\"a\":\"\\", NULL, "tekken.json: " },
        { "tekken.json", "{\"a\":\"\\u00", NULL, "tekken.json: " },
        { "tekken.json", TEKKEN("", "{\"rank\":0}", ""), NULL,
          "tekken.json: vocab[0].token_bytes must be a string" },
        { "tekken.json", SPECIAL("\"token_str\":7"), NULL,
          "tekken.json: special_tokens[0].token_str must be a string" },
        { "tekken.json", SPECIAL("\"token_str\":\"x\",\"is_control\":7"), NULL,
          "tekken.json: special_tokens[0].is_control must be true or false" },
        { "tekken.json", TEKKEN("", A, ""), "{\"add_bos_token\":7}",
          "tekken.json: add_bos_token must be true or false" },
        { "tekken.json", TEKKEN("", A, ""), "{\"add_eos_token\":7}",
          "tekken.json: add_eos_token must be true or false" },
        { "tokenizer.model", PIECE "\x12\x03\x1a\x01x", NULL,
          "tokenizer.model: a trainer's field has the wire type 2, want 0" },
        { "tokenizer.model", PIECE "\x1a\x03\x1a\x01x", NULL,
          "tokenizer.model: a normalizer's field has the wire type 2, want 0" },
        { "tokenizer.model", PIECE, "{\"added_tokens_decoder\":7}",
          "tokenizer.model: added_tokens_decoder must be an object" },
        { "tokenizer.model", PIECE, "{\"add_bos_token\":7}",
          "tokenizer.model: add_bos_token must be true or false" },
        { "x", "", NULL, "x: no tiktoken file: it has no lines" },
        { "tiktoken", "YQ== 99999999", NULL, "line 1 has the rank 99999999" },
        { "tiktoken", "YQ== 1025\nYg== 0", NULL, "=1025 0" },
        { "tiktoken", LINES, ADDED("6", "7"), "added_tokens_decoder.6 must be an object" },
        { "tiktoken", LINES, ADDED("6", "{\"content\":\"x\",\"special\":7}"),
          "added_tokens_decoder.6.special must be true or false" },
        { "tiktoken", LINES, ADDED("6x", "{\"content\":\"x\"}"),
          "added_tokens_decoder.6x must have an id from 0 to 16777215 for its key" },
        { "tiktoken", LINES, ADDED("16777216", "{\"content\":\"x\"}"),
          "added_tokens_decoder.16777216 must have an id from 0 to 16777215 for its key" },
        { "tiktoken", LINES, ADDED("99999999999999999999", "{\"content\":\"x\"}"),
          "must have an id from 0 to 16777215 for its key" },
        { "tiktoken", LINES, "{\"added_tokens_decoder\":[1]}",
          "added_tokens_decoder must be an object" },
        { "tiktoken", LINES, "{\"add_bos_token\":7}", "add_bos_token must be true or false" },
        { "tiktoken", LINES, "{\"add_eos_token\":7}", "add_eos_token must be true or false" },
        { "tiktoken", LINES,
          "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"eos_token\":\"<s>\",\"add_eos_token\":"
          "true,"
          "\"added_tokens_decoder\":{\"7\":{\"content\":\"<s>\",\"special\":true},"
          "\"8\":{\"content\":\"<e>\"}}}",
          "=7 0 7 1 7" },
        { "tiktoken", LINES,
          "{\"bos_token\":\"nobody\",\"add_bos_token\":true,\"eos_token\":{\"content\":\"<e>\"},"
          "\"add_eos_token\":true,\"added_tokens_decoder\":{\"7\":{\"content\":\"<s>\","
          "\"special\":true},\"8\":{\"content\":\"<e>\"}}}",
          "=0 7 1 8" },
        { "tiktoken", LINES,
          "{\"bos_token\":{},\"add_bos_token\":true,\"eos_token\":7,\"add_eos_token\":true,"
          "\"added_tokens_decoder\":{\"7\":{\"content\":\"<s>\",\"special\":true}}}",
          "=0 7 1" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err = { 0 };
        const bool ok = open_with(&t, rows[i].name, rows[i].bytes, rows[i].config, &err);
        if (ok != (rows[i].want[0] == '='))
            fail_msg("row %zu: %s", i, ok ? "accepted" : err.text);
        if (!ok && strncmp(err.text, rows[i].want, strlen(rows[i].want)) != 0 &&
            !strstr(err.text, rows[i].want))
            fail_msg("row %zu: %s", i, err.text);
        if (ok && strcmp(encode(t, strcmp(rows[i].want, "=1025 0") == 0 ? "ab" : "a<s>b"),
                         rows[i].want + 1) != 0)
            fail_msg("row %zu: %s", i, encode(t, "a<s>b"));
        if (ok)
            tokenizer_close(t);
    }
}

/* Texts that are longer than any token. */
static void test_long_tokens(void **state)
{
    (void)state;
    char *text = malloc(VOCAB_TOKEN_MAX + 400), *json = malloc(VOCAB_TOKEN_MAX + 1000);
    static const struct {
        const char *name, *form, *config, *wanted;
    } rows[] = {
        { "tekken.json", SPECIAL("\"token_str\":\"%s\""), NULL,
          "special_tokens[0].token_str must have 1 to 65536 bytes" },
        { "tiktoken", LINES, ADDED("6", "{\"content\":\"%s\"}"),
          "added_tokens_decoder.6.content is longer than 65536 bytes" },
        { "tokenizer.json",
          "{\"added_tokens\":[{\"id\":1,\"content\":\"%s\"}],\"model\":{\"type\":\"BPE\",\"vocab\":"
          "{\"a\":0},\"merges\":[]}}",
          NULL, "added_tokens[0].content is longer than 65536 bytes" },
        { "tokenizer.json",
          "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"%s\":1},\"merges\":[]}}", NULL,
          "a token of 65537 bytes (id 1), want at most 65536" },
        { "tokenizer.json",
          "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"%s\"]]}}", NULL,
          "model.merges[0] is longer than 2048 bytes" },
    };
    memset(text, 'x', VOCAB_TOKEN_MAX + 1);
    text[VOCAB_TOKEN_MAX + 1] = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err = { 0 };
        const char *form = rows[i].config ? rows[i].config : rows[i].form;
        const char *hole = strstr(form, "%s");
        snprintf(json, VOCAB_TOKEN_MAX + 1000, "%.*s%s%s", (int)(hole - form), form, text,
                 hole + 2);
        assert_false(open_with(&t, rows[i].name, rows[i].config ? rows[i].form : json,
                               rows[i].config ? json : NULL, &err));
        if (!strstr(err.text, rows[i].wanted))
            fail_msg("row %zu: %s", i, err.text);
    }
    free(text);
    free(json);
}

/* As many tokens as GPT-2's file has; one with a hole is nobody's. */
static void test_family_without_bos(void **state)
{
    (void)state;
    for (int hole = 0; hole < 2; hole++) {
        struct tokenizer *t = NULL;
        struct buf lines;
        struct err err = { 0 };
        buf_init(&lines, 1 << 22);
        for (int i = 0; i < 50256; i++)
            buf_printf(&lines, "%c%c%c%c %d\n", 'A' + i / 4096 % 16, 'A' + i / 256 % 16,
                       'A' + i / 16 % 16, 'A' + i % 16, i + (hole && i == 50255));
        const bool ok =
            tokenizer_open_file(&t, "vocab.tiktoken", buf_text(&lines), lines.length, NULL, &err);
        buf_clear(&lines);
        if (hole) {
            assert_false(ok);
            assert_non_null(strstr(err.text, "a tiktoken file of 50256 tokens does not say how"));
            continue;
        }
        assert_ok(ok, &err);
        assert_int_equal(tokenizer_size(t), 50257);
        assert_string_equal(encode(t, "<|endoftext|>"), "50256"); /* and nothing before it */
        tokenizer_close(t);
    }
}

/* ---- GGUF -------------------------------------------------------------------------------------
 */

static bool open_gguf(struct tokenizer **t, struct gguf_file *f, struct err *err)
{
    struct gguf gguf;
    struct file_map map;
    size_t size;
    uint8_t *bytes = gguf_file_bytes(f, &size);
    file_map_memory(&map, bytes, size);
    assert_ok(gguf_read(&gguf, map, "m.gguf", err), err);
    const bool ok = tokenizer_open_gguf(t, &gguf, err);
    gguf_clear(&gguf);
    free(bytes);
    return ok;
}

static void put_bytes(struct gguf_file *f, const char *key, enum gguf_type type, const char *bytes,
                      size_t n)
{
    gguf_file_key(f, key, GGUF_ARRAY);
    gguf_put(&f->values, type, 4);
    gguf_put(&f->values, n, 8);
    buf_put(&f->values, bytes, n);
}

enum forge {
    TOKENS_TEXT,
    TOKENS_NONE,
    SCORES_TEXTS,
    SCORES_ONE,
    SCORES_FEW,
    TYPE_NEGATIVE,
    TYPE_ZERO,
    MERGES_INTS,
    PRE_INT,
    PRE_NUL,
    UNK_TEXT,
    FEW_PIECES,
    MAP_INTS,
    MAP_EMPTY,
    MAP_SHORT,
    MODEL_LONG,
    N_FORGES
};

static void test_gguf(void **state)
{
    (void)state;
    static const char *const pieces[] = { "<unk>", "<s>", "</s>", MARK, "a", MARK "a" };
    static const char *const texts[] = { "1", "2", "3", "4", "5", "6" };
    static const int32_t types[] = { 2, 3, 3, 1, 1, 1 }, negative[] = { 2, 3, 3, 1, -1, 1 },
                         zero[] = { 2, 3, 3, 0, 0, 0 };
    static const float scores[] = { 0, 0, 0, -2, -3, -1 };
    static const char *const want[N_FORGES] = {
        [TOKENS_TEXT] = "metadata tokenizer.ggml.tokens: is string, want an array of texts",
        [TOKENS_NONE] = "metadata tokenizer.ggml.tokens is missing",
        [SCORES_TEXTS] =
            "metadata tokenizer.ggml.scores: is an array of string, want an array of numbers",
        [SCORES_ONE] = "metadata tokenizer.ggml.scores: is f32, want an array of numbers",
        [SCORES_FEW] = "metadata tokenizer.ggml.scores: has 5 elements, want 6, one a token",
        [TYPE_NEGATIVE] = "token 4 has type -1, want 0 to 6",
        [TYPE_ZERO] = "=1 5",
        [MERGES_INTS] =
            "metadata tokenizer.ggml.merges: is an array of i32, want an array of texts",
        [PRE_INT] = "metadata tokenizer.ggml.pre: is u32, want a text",
        [PRE_NUL] = "metadata tokenizer.ggml.pre: a name of 3 bytes, want 1 to 63",
        [UNK_TEXT] = "metadata tokenizer.ggml.unknown_token_id: is string, want an integer",
        [FEW_PIECES] = "=0",
        [MAP_INTS] = "metadata tokenizer.ggml.precompiled_charsmap: want an array of bytes",
        [MAP_EMPTY] = "=1 5",
        [MAP_SHORT] = "precompiled_charsmap: a map of 3 bytes",
        [MODEL_LONG] =
            "metadata tokenizer.ggml.model: "
            "\"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg\"; supported",
    };
    for (enum forge forge = 0; forge < N_FORGES; forge++) {
        struct tokenizer *t;
        struct gguf_file f;
        struct err err = { 0 };
        const bool merges = forge >= MERGES_INTS && forge <= PRE_NUL;
        const int32_t n = forge == FEW_PIECES ? 1 : forge == TOKENS_NONE ? 0 : 6;
        gguf_file_init(&f);
        gguf_file_text(
            &f, T "model",
            forge == MODEL_LONG
                ? "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg"
            : merges ? "gpt2"
                     : "llama");
        if (forge == TOKENS_TEXT)
            gguf_file_text(&f, T "tokens", "a");
        else
            gguf_file_texts(&f, T "tokens", forge == FEW_PIECES ? pieces + 3 : pieces, n);
        if (forge == SCORES_TEXTS)
            gguf_file_texts(&f, T "scores", texts, 6);
        else if (forge == SCORES_ONE)
            gguf_file_float(&f, T "scores", 1);
        else
            gguf_file_floats(&f, T "scores", scores, forge == SCORES_FEW ? 5 : n);
        gguf_file_ints(&f, T "token_type",
                       forge == TYPE_NEGATIVE ? negative
                       : forge == TYPE_ZERO   ? zero
                       : forge == FEW_PIECES  ? types + 3
                                              : types,
                       n);
        if (forge == MERGES_INTS)
            gguf_file_ints(&f, T "merges", types, 2);
        else if (merges)
            gguf_file_texts(&f, T "merges", texts, 0);
        if (forge == PRE_INT)
            gguf_file_int(&f, T "pre", 1);
        if (forge == PRE_NUL) {
            gguf_file_key(&f, T "pre", GGUF_STRING);
            gguf_put(&f.values, 3, 8);
            buf_put(&f.values, "a\0b", 3);
        }
        if (forge == UNK_TEXT)
            gguf_file_text(&f, T "unknown_token_id", "0");
        if (forge == MAP_INTS)
            gguf_file_ints(&f, T "precompiled_charsmap", types, 2);
        if (forge == MAP_EMPTY || forge == MAP_SHORT)
            put_bytes(&f, T "precompiled_charsmap", forge == MAP_EMPTY ? GGUF_U8 : GGUF_I8, "abc",
                      forge == MAP_EMPTY ? 0 : 3);
        const bool ok = open_gguf(&t, &f, &err);
        if (ok != (want[forge][0] == '='))
            fail_msg("%d: %s", (int)forge, ok ? "accepted" : err.text);
        if (!ok && !strstr(err.text, want[forge]))
            fail_msg("%d: %s", (int)forge, err.text);
        if (ok && strcmp(encode(t, forge == FEW_PIECES ? "" : "a"), want[forge] + 1) != 0 &&
            forge != FEW_PIECES)
            fail_msg("%d: %s", (int)forge, encode(t, "a"));
        if (ok)
            tokenizer_close(t);
    }
}

/* Whether a blank behind a role token belongs to it hangs on the model's name. */
static void test_phi3(void **state)
{
    (void)state;
    static const struct {
        const char *name; /* NULL: a number */
        bool strips;
    } rows[] = { { "Phi-3 mini", true }, { "my phi3", true },    { "PHI-3", true },
                 { "phi-4", false },     { "phi-", false },      { "phi", false },
                 { "phi 3", false },     { "xph phi3.5", true }, { NULL, false },
                 { "phi4", false } };
    static const char *const pieces[] = { "<unk>", "<s>", "<|user|>", MARK, "a" };
    static const int32_t types[] = { 2, 3, 3, 1, 1 };
    static const float scores[] = { 0, 0, 0, -2, -3 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct gguf_file f;
        struct err err;
        gguf_file_init(&f);
        gguf_file_text(&f, T "model", "llama");
        gguf_file_texts(&f, T "tokens", pieces, 5);
        gguf_file_floats(&f, T "scores", scores, 5);
        gguf_file_ints(&f, T "token_type", types, 5);
        gguf_file_bool(&f, T "add_space_prefix", false);
        if (rows[i].name)
            gguf_file_text(&f, "general.name", rows[i].name);
        else
            gguf_file_int(&f, "general.name", 3);
        assert_ok(open_gguf(&t, &f, &err), &err);
        const char *got = encode(t, "<|user|> a<s> a");
        if (strcmp(got, rows[i].strips ? "1 2 4 1 3 4" : "1 2 3 4 1 3 4") != 0)
            fail_msg("%s: %s", rows[i].name ? rows[i].name : "a number", got);
        tokenizer_close(t);
    }
}

/* ---- lists ------------------------------------------------------------------------------------
 */

static void test_vocab(void **state)
{
    (void)state;
    static char long_text[80];
    memset(long_text, 'x', sizeof long_text);
    memcpy(long_text + 58, "\xe4\xbd\xa0", 3); /* bytes 58 to 60: the 60th is inside of it */
    const struct vocab_entry bad_first[] = { { .text = "a", .length = 1, .id = -1 } };
    const struct vocab_entry bad_last[] = { { .text = "a", .length = 1, .id = VOCAB_IDS_MAX } };
    const struct vocab_entry twice[] = { { .text = long_text, .length = 80, .id = 0 },
                                         { .text = long_text, .length = 80, .id = 1 } };
    const struct vocab_entry no_text[] = { { .text = "\xff", .length = 1, .id = 0 },
                                           { .text = "a", .length = 1, .id = 0 } };
    const struct vocab_entry added_twice[] = {
        { .text = "a", .length = 1, .id = 0 },
        { .text = "a", .length = 1, .id = 0, .added = true },
        { .text = "a", .length = 1, .id = 0, .added = true },
    };
    const struct {
        const struct vocab_entry *entries;
        size_t n;
        const char *wanted;
    } rows[] = {
        { bad_first, 1, "\"a\" has the id -1, want 0 to 16777215" },
        { bad_last, 1, "\"a\" has the id 16777216, want 0 to 16777215" },
        { twice, 2, "\" has the ids 0 and 1" },
        { no_text, 2, "id 0 belongs to \"\" and to \"a\"" },
        { added_twice, 3, "id 0 belongs to \"a\" and to \"a\"" },
        { NULL, 0, "a vocabulary without tokens" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct vocab vocab;
        struct err err;
        assert_false(vocab_build(&vocab, VOCAB_TEXTS, rows[i].entries, rows[i].n, &err));
        if (!strstr(err.text, rows[i].wanted))
            fail_msg("row %zu: %s", i, err.text);
        if (i == 2) { /* cut before the character that does not fit */
            char shown[80];
            snprintf(shown, sizeof shown, "\"%.58s\" has", long_text);
            assert_non_null(strstr(err.text, shown));
        }
        vocab_clear(&vocab);
    }
    /* Byte-level letters, longer than the buffer they are looked up in. */
    char letters[301], *bytes = letters;
    memset(letters, 'y', 300);
    letters[300] = 0;
    const struct vocab_entry whole[] = { { .text = bytes, .length = 300, .id = 0 } };
    struct vocab vocab;
    struct err err;
    assert_ok(vocab_build(&vocab, VOCAB_LETTERS, whole, 1, &err), &err);
    assert_int_equal(vocab_find(&vocab, letters, 300), 0);
    assert_int_equal(vocab_find(&vocab, letters, 299), -1);
    assert_int_equal(vocab_find(&vocab, "\x01", 1), -1);
    vocab_clear(&vocab);
}

/* The same text twice: the special one is kept, of equals the first. */
static void test_added_twice(void **state)
{
    (void)state;
    static const struct {
        unsigned flags[3];
        int32_t kept;
    } rows[] = { { { 0, ADDED_SPECIAL, 0 }, 1 },
                 { { 0, 0, 0 }, 0 },
                 { { 0, 0, ADDED_SPECIAL }, 2 },
                 { { ADDED_SPECIAL, ADDED_SPECIAL, 0 }, 0 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct added_set set = { 0 };
        for (int k = 0; k < 3; k++)
            assert_true(added_set_add(&set, "<s>", 3, k, rows[i].flags[k]));
        for (int k = 0; k < 40; k++) { /* others around it */
            char text[24];
            snprintf(text, sizeof text, "<%c%d>", k % 2 ? 'z' : 'a', k);
            assert_true(added_set_add(&set, text, strlen(text), 100 + k, 0));
        }
        added_set_sort(&set);
        assert_int_equal(set.n, 41);
        int n = 0;
        for (size_t k = 0; k < set.n; k++)
            if (set.tokens[k].id < 3) {
                assert_int_equal(set.tokens[k].id, rows[i].kept);
                n++;
            }
        assert_int_equal(n, 1);
        added_set_clear(&set);
    }
}

/* ---- normalizers ------------------------------------------------------------------------------
 */

#define BERT(flags) "{\"type\":\"BertNormalizer\"," flags "}"
#define OFF         "\"clean_text\":false,\"handle_chinese_chars\":false,\"lowercase\":false"

static void test_normalizers(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
        unsigned where;
        const char *want;
    } rows[] = {
        { BERT(OFF), "\u00c9\t\x01\u4f60", 3, "\u00c9\t\x01\u4f60" },
        { BERT("\"clean_text\":true,\"handle_chinese_chars\":false,\"lowercase\":false"),
          "\u00c9\t\x01\ufffd\u4f60", 3, "\u00c9 \u4f60" },
        { BERT("\"clean_text\":false,\"handle_chinese_chars\":true,\"lowercase\":false"),
          "\t\u4f60a", 3, "\t \u4f60 a" },
        { BERT("\"lowercase\":true"), "\u00c9A", 3, "ea" }, /* accents go with the case */
        { BERT("\"lowercase\":true,\"strip_accents\":false"), "\u00c9A", 3, "\u00e9a" },
        { BERT("\"lowercase\":false,\"strip_accents\":true"), "\u00c9A", 3, "EA" },
        { "{\"type\":\"Strip\",\"strip_left\":false}", " a ", 3, " a" },
        { "{\"type\":\"Strip\",\"strip_right\":false}", " a ", 3, "a " },
        { "{\"type\":\"Strip\"}", " a ", 3, "a" },
        { "{\"type\":\"Strip\"}", " a ", NORMALIZE_FIRST, "a " },
        { "{\"type\":\"Strip\"}", " a ", NORMALIZE_LAST, " a" },
        { "{\"type\":\"Strip\"}", "  ", 3, "" },
        { "{\"type\":\"Replace\",\"pattern\":{\"String\":\"ab\"},\"content\":\"x\"}", "aabbab", 3,
          "axbx" },
        { "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"xy\"}", "aba", 3,
          "xybxy" },
        { "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"x\"}", "aabab", 3,
          "xbxb" },
        { NULL, "  a  b ", 3, "a b" }, /* sentencepiece's blanks */
        { NULL, "  a  b ", 0, " a b " },
        { NULL, "a" MARK " " MARK, NORMALIZE_LAST, "a" },
        { NULL, "a" MARK " b", 3, "a" MARK " b" },
        { NULL, "\xe2\x96\x80", 3, "\xe2\x96\x80" },
    };
    _Static_assert((NORMALIZE_FIRST | NORMALIZE_LAST) == 3, "both ends");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct normalizer n = { 0 };
        struct normalizer_scratch scratch;
        struct cJSON *tree = NULL;
        struct err err = { 0 };
        const char *out;
        size_t length;
        if (rows[i].json) {
            assert_ok(json_parse(rows[i].json, strlen(rows[i].json), &JSON_FILE_LIMITS, ERR_FORMAT,
                                 &tree, &err),
                      &err);
            const struct json_ref root = json_root(tree);
            assert_ok(normalizer_open(&n, &root, &err), &err);
        } else {
            normalizer_add_spaces(&n);
        }
        normalizer_scratch_init(&scratch);
        assert_ok(normalizer_run(&n, &scratch, rows[i].where, rows[i].text, strlen(rows[i].text),
                                 &out, &length, &err),
                  &err);
        if (length != strlen(rows[i].want) || memcmp(out, rows[i].want, length) != 0)
            fail_msg("row %zu: \"%.*s\"", i, (int)length, out);
        normalizer_scratch_clear(&scratch);
        normalizer_clear(&n);
        json_free(tree);
    }
    /* A map that is no map, named by its place. */
    static const char MAP[] = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}";
    struct normalizer n;
    struct cJSON *tree;
    struct err err;
    assert_ok(json_parse(MAP, sizeof MAP - 1, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err), &err);
    const struct json_ref root = json_root(tree);
    assert_false(normalizer_open(&n, &root, &err));
    assert_string_equal(err.text,
                        "precompiled_charsmap: a map of 3 bytes with a trie of 0, want fewer");
    json_free(tree);
}

/* ---- maps of characters -----------------------------------------------------------------------
 */

enum { UNITS = 2048, MAP_BYTES = 4 + 4 * UNITS + 6 };

static void put_unit(uint8_t *map, uint32_t i, uint32_t unit)
{
    for (int k = 0; k < 4; k++)
        map[4 + 4 * i + (uint32_t)k] = (uint8_t)(unit >> (8 * k));
}

/* A double array with the keys "x" -> "yy", "xz" -> "w" and the first byte of e with an acute
 * accent
 * -> "w"; offsets are 256, 512 and so on, so that nothing collides. */
static void make_map(uint8_t *map)
{
    const uint32_t leaf = 1u << 31, has = 1u << 8;
    memset(map, 0, MAP_BYTES);
    for (int k = 0; k < 4; k++)
        map[k] = (uint8_t)((uint32_t)(4 * UNITS) >> (8 * k));
    memcpy(map + 4 + 4 * UNITS, "yy\0w\0", 6);
    put_unit(map, 0, 256u << 10);
    uint32_t x = 256 ^ 'x';
    put_unit(map, x, 512u << 10 | has | 'x');
    put_unit(map, x ^ 512, leaf | 0);
    uint32_t z = x ^ 512 ^ 'z';
    put_unit(map, z, 1024u << 10 | has | 'z');
    put_unit(map, z ^ 1024, leaf | 3);
    uint32_t e = 256 ^ 0xc3;
    put_unit(map, e, 512u << 10 | has | 0xc3);
    put_unit(map, e ^ 512, leaf | 3);
}

static void expect_map(const uint8_t *bytes, enum charsmap_rule rule, const char *text,
                       const char *want)
{
    struct charsmap map;
    struct buf out;
    struct err err;
    buf_init(&out, 1 << 10);
    assert_ok(charsmap_open(&map, bytes, MAP_BYTES, rule, &err), &err);
    charsmap_run(&map, text, strlen(text), &out);
    if (strcmp(buf_text(&out), want) != 0)
        fail_msg("%s: \"%s\", want \"%s\"", text, buf_text(&out), want);
    charsmap_close(&map);
    buf_clear(&out);
}

static void test_maps(void **state)
{
    (void)state;
    static uint8_t map[MAP_BYTES];
    make_map(map);
    expect_map(map, CHARSMAP_LONGEST, "axb", "ayyb");
    expect_map(map, CHARSMAP_LONGEST, "xzx", "wyy");
    expect_map(map, CHARSMAP_LONGEST, "\xc3\xa9x", "\xc3\xa9yy"); /* half a character is no key */
    expect_map(map, CHARSMAP_LONGEST, "", "");
    expect_map(map, CHARSMAP_GRAPHEMES, "axzb", "ayyzb");     /* always the shortest */
    expect_map(map, CHARSMAP_GRAPHEMES, "x\xcc\x81z", "yyz"); /* for the whole cluster */
    expect_map(map, CHARSMAP_GRAPHEMES, "x\xcc\x81\xcc\x81\xcc\x81", "yy\xcc\x81\xcc\x81\xcc\x81");
    /* Values that lie outside, or inside of a character; units that lead outside. */
    put_unit(map, 256 ^ 'x' ^ 512, 1u << 31 | 1000);
    expect_map(map, CHARSMAP_LONGEST, "axb", "axb");
    make_map(map);
    memcpy(map + 4 + 4 * UNITS, "\xc3\xa9\0w\0", 6);
    put_unit(map, 256 ^ 'x' ^ 512, 1u << 31 | 1);
    expect_map(map, CHARSMAP_LONGEST, "axb", "axb");
    make_map(map);
    put_unit(map, 256 ^ 'x', (1u << 20) << 10 | 1u << 8 | 'x');
    expect_map(map, CHARSMAP_LONGEST, "axb", "axb");
    expect_map(map, CHARSMAP_LONGEST, "xzb", "xzb");
    put_unit(map, 0, (1u << 20) << 10);
    expect_map(map, CHARSMAP_LONGEST, "axb", "axb");
    expect_map(map, CHARSMAP_GRAPHEMES, "axb", "axb");
    /* Sizes that do not fit. */
    static const struct {
        size_t size;
        uint32_t trie;
        uint8_t last;
        const char *wanted;
    } rows[] = {
        { 3, 4, 0, "a map of 3 bytes with a trie of 0, want fewer" },
        { 20, 0, 0, "a map of 20 bytes with a trie of 0, want fewer" },
        { 20, 6, 0, "a map of 20 bytes with a trie of 6, want fewer" },
        { 20, 16, 0, "a map of 20 bytes with a trie of 16, want fewer" },
        { 20, 8, 'a', "the map's 8 bytes of replacements are not texts" },
        { 20, 12, 0xff, "the map's 4 bytes of replacements are not texts" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct charsmap bad;
        struct err err;
        uint8_t bytes[20] = { (uint8_t)rows[i].trie };
        if (rows[i].last == 0xff)
            bytes[18] = 0xff;
        else
            bytes[rows[i].size - 1] = rows[i].last;
        assert_false(charsmap_open(&bad, bytes, rows[i].size, CHARSMAP_LONGEST, &err));
        assert_string_equal(err.text, rows[i].wanted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_family_without_bos),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_long_tokens),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_phi3),
        cmocka_unit_test(test_vocab),
        cmocka_unit_test(test_added_twice),
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
