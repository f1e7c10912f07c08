/* test_tokenizer.c - whole tokenizers: added tokens, barriers, what may not be in a file, long
 * texts; and the streaming detokenizer at every cut. The base is the reference data's GPT-2-like
 * file (tests/oracle/tokenizers/bpe_gpt2), parts of which are replaced. */
#include "tests/support/support.h"
#include <pthread.h>
#include "host/base/clock.h"
#include "host/base/rng.h"
#include "host/base/utf8.h"
#include "host/text/detok.h"
#include "host/text/unicode.h"

/* --- a small tokenizer, all of it in sight ---------------------------------------------------- */

#define ADDED(id, text, flags) "{\"id\":" id ",\"content\":\"" text "\"" flags "}"
#define SPECIAL                ",\"special\":true"
#define VOCAB                                                                                      \
    "{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"<\":4,\"s\":5,\">\":6,\"|\":7,\"ab\":8,\"\u0120a\":"  \
    "9,"                                                                                           \
    "\"\u00c3\":10,\"\u00a9\":11,\"\u00c3\u00a9\":12,\"A\":13,\"\u010a\":14}"
#define MERGES "[\"a b\",[\"\u0120\",\"a\"],\"\u00c3 \u00a9\"]"
#define MODEL(vocab, merges, more)                                                                 \
    "{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges more "}"
#define PRETOK "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define FILE_OF(normalizer, pretok, added, post, decoder, model)                                   \
    "{\"version\":\"1.0\",\"normalizer\":" normalizer ",\"pre_tokenizer\":" pretok                 \
    ",\"added_tokens\":[" added "],\"post_processor\":" post ",\"decoder\":" decoder               \
    ",\"model\":" model "}"
#define DECODER "{\"type\":\"ByteLevel\"}"
#define WITH(normalizer, added)                                                                    \
    FILE_OF(normalizer, PRETOK, added, "null", DECODER, MODEL(VOCAB, MERGES, ""))

static struct tokenizer *open_text(const char *json)
{
    struct tokenizer *t;
    struct err err;
    if (!tokenizer_open(&t, json, strlen(json), &err))
        fail_msg("%s", err.text);
    return t;
}

/* The ids as text: "0 8 20". */
static const char *encode(const struct tokenizer *t, const char *text, unsigned flags,
                          const size_t *barriers, size_t n_barriers)
{
    static char out[512];
    struct ids ids = { 0 };
    struct err err;
    size_t at = 0;
    if (!tokenizer_encode(t, text, strlen(text), flags, barriers, n_barriers, &ids, &err))
        fail_msg("%s: %s", text, err.text);
    out[0] = 0;
    for (size_t i = 0; i < ids.n && at < sizeof out - 16; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%d", i ? " " : "", ids.ids[i]);
    ids_clear(&ids);
    return out;
}

static void test_added_flags(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *normalizer, *added, *text;
        unsigned flags;
        const char *want;
    } rows[] = {
        { "a token is cut out", "null", ADDED("20", "<s>", SPECIAL), "a<s>b", ENCODE_PARSE_SPECIAL,
          "0 20 1" },
        { "a special one is text when it is not asked for", "null", ADDED("20", "<s>", SPECIAL),
          "a<s>b", 0, "0 4 5 6 1" },
        { "one that is not special is always cut out", "null", ADDED("20", "<s>", ""), "a<s>b", 0,
          "0 20 1" },
        { "the longest of those at one place", "null",
          ADDED("20", "<s", "") "," ADDED("21", "<s>", ""), "<s><s", 0, "21 20" },
        { "the leftmost before the longest", "null",
          ADDED("20", "b<", "") "," ADDED("21", "<s>", ""), "b<s>", 0, "20 5 6" },
        { "what a special one covers is not cut again", "null",
          ADDED("20", "<s>", SPECIAL) "," ADDED("21", "s>", ""), "<s>", 0, "4 5 6" },
        { "white space before goes", "null", ADDED("20", "<s>", ",\"lstrip\":true"),
          "a \u3000\n<s> a", 0, "0 20 9" },
        { "white space behind goes", "null", ADDED("20", "<s>", ",\"rstrip\":true"), "a <s> \n a",
          0, "0 3 20 0" },
        { "a word of its own", "null", ADDED("20", "ca", ",\"single_word\":true"), "ca aca ca", 0,
          "20 9 2 0 3 20" },
        { "not beside a letter of any script", "null", ADDED("20", "ca", ",\"single_word\":true"),
          "\u00e9ca", 0, "12 2 0" },
        { "found in normalized text", "{\"type\":\"Lowercase\"}",
          ADDED("20", "AC", ",\"normalized\":true"), "bAcb", 0, "1 20 1" },
        { "found before normalization", "{\"type\":\"Lowercase\"}", ADDED("20", "AC", ""), "ACac",
          0, "20 0 2" },
        { "an id of the vocabulary", "null", ADDED("8", "ab", SPECIAL), "cab", ENCODE_PARSE_SPECIAL,
          "2 8" },
        { "a hole before the id", "null", ADDED("99", "<s>", ""), "<s>", 0, "99" },
        { "no text", "null", ADDED("20", "<s>", ""), "", ENCODE_ADD_SPECIAL, "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[4096];
        snprintf(json, sizeof json, FILE_OF("%s", PRETOK, "%s", "null", DECODER, "%s"),
                 rows[i].normalizer, rows[i].added, MODEL(VOCAB, MERGES, ""));
        struct tokenizer *t = open_text(json);
        const char *got = encode(t, rows[i].text, rows[i].flags, NULL, 0);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: %s, want %s", rows[i].sentence, got, rows[i].want);
        tokenizer_close(t);
    }
}

/* No special token where a barrier lies strictly inside of its text; elsewhere it stands. */
static void test_barriers(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json, *text;
        size_t barriers[3], n;
        const char *want;
    } rows[] = {
        { "no barrier", WITH("null", ADDED("20", "<s>", SPECIAL)), "<s>", { 0 }, 0, "20" },
        { "a barrier inside", WITH("null", ADDED("20", "<s>", SPECIAL)), "<s>", { 1 }, 1, "4 5 6" },
        { "at the beginning", WITH("null", ADDED("20", "<s>", SPECIAL)), "<s>", { 0 }, 1, "20" },
        { "at the end", WITH("null", ADDED("20", "<s>", SPECIAL)), "<s>", { 3 }, 1, "20" },
        { "in the second of three",
          WITH("null", ADDED("20", "<s>", SPECIAL)),
          "<s><s><s>",
          { 4 },
          1,
          "20 4 5 6 20" },
        { "in the first and the third",
          WITH("null", ADDED("20", "<s>", SPECIAL)),
          "<s><s><s>",
          { 2, 7, 8 },
          3,
          "4 5 6 20 4 5 6" },
        { "a shorter one before the barrier",
          WITH("null", ADDED("20", "<s>", SPECIAL) "," ADDED("21", "<s", SPECIAL)),
          "<s>",
          { 2 },
          1,
          "21 6" },
        { "one that is not special may span it",
          WITH("null", ADDED("20", "<s>", "")),
          "<s>",
          { 1 },
          1,
          "20" },
        { "a special one that is normalized",
          WITH("{\"type\":\"Lowercase\"}", ADDED("20", "<S>", SPECIAL ",\"normalized\":true")),
          "A<S>A<s>",
          { 2 },
          1,
          "0 4 5 6 0 20" },
        { "the same where text before grows",
          WITH("{\"type\":\"NFD\"}", ADDED("20", "<s>", SPECIAL ",\"normalized\":true")),
          "\u226e<s><s>",
          { 4 },
          1,
          "4 4 5 6 20" },
        { "a prefix is put once",
          WITH("{\"type\":\"Prepend\",\"prepend\":\"b\"}",
               ADDED("20", "<s>", SPECIAL ",\"normalized\":true")),
          "a<s>",
          { 2 },
          1,
          "1 0 4 5 6" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_text(rows[i].json);
        const char *got =
            encode(t, rows[i].text, ENCODE_PARSE_SPECIAL, rows[i].barriers, rows[i].n);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: %s, want %s", rows[i].sentence, got, rows[i].want);
        tokenizer_close(t);
    }
}

#define TEMPLATE(single, table)                                                                    \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" table "}}"
#define ITEM(kind, id) "{\"" kind "\":{\"id\":\"" id "\",\"type_id\":0}}"
#define POST(post)                                                                                 \
    FILE_OF("null", PRETOK, ADDED("20", "<s>", SPECIAL), post, DECODER, MODEL(VOCAB, MERGES, ""))

static void test_post(void **state)
{
    (void)state;
    static const char S[] = "\"<s>\":{\"id\":\"<s>\",\"ids\":[20,7],\"tokens\":[]}";
    static const struct {
        const char *sentence, *post, *want;
    } rows[] = {
        { "none", "null", "0" },
        { "before", TEMPLATE(ITEM("SpecialToken", "<s>") "," ITEM("Sequence", "A"), "%s"),
          "20 7 0" },
        { "behind", TEMPLATE(ITEM("Sequence", "A") "," ITEM("SpecialToken", "<s>"), "%s"),
          "0 20 7" },
        { "one around the other",
          "{\"type\":\"Sequence\",\"processors\":[" TEMPLATE(
              ITEM("SpecialToken", "<s>") "," ITEM("Sequence", "A"),
              "%s") ",{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",1],\"sep\":[\"b\",2]}]}",
          "1 20 7 0 2" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char post[1024], json[4096];
        snprintf(post, sizeof post, rows[i].post, S);
        snprintf(json, sizeof json, POST("%s"), post);
        struct tokenizer *t = open_text(json);
        const char *got = encode(t, "a", ENCODE_ADD_SPECIAL, NULL, 0);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: %s, want %s", rows[i].sentence, got, rows[i].want);
        assert_string_equal(encode(t, "a", 0, NULL, 0), "0");
        tokenizer_close(t);
    }
}

static void test_questions(void **state)
{
    (void)state;
    struct tokenizer *t = open_text(WITH(
        "{\"type\":\"Lowercase\"}",
        ADDED("20", "<s>", SPECIAL) "," ADDED("22", "\u00e9!", "") "," ADDED(
            "23", "AB", ",\"normalized\":true") "," ADDED("24", "x y",
                                                          SPECIAL) "," ADDED("25", "", SPECIAL)));
    static const struct {
        int32_t id;
        const char *bytes; /* NULL: no such id */
        bool special;
    } rows[] = {
        { 0, "a", false },       { 9, " a", false },
        { 12, "\u00e9", false }, { 19, NULL, false },
        { 20, "<s>", true },     { 22, "\xe9!", false }, /* letters of the table stand for bytes */
        { 23, "ab", false }, /* decodes to its normalized text, as in the library */
        { 24, "x y", true },     { 25, NULL, false },
        { -1, NULL, false },     { 1 << 30, NULL, false },
    };
    size_t n;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *bytes = tokenizer_bytes(t, rows[i].id, &n);
        assert_int_equal(tokenizer_is_special(t, rows[i].id), rows[i].special);
        assert_int_equal(bytes != NULL, rows[i].bytes != NULL);
        if (bytes) {
            assert_int_equal(n, strlen(rows[i].bytes));
            assert_memory_equal(bytes, rows[i].bytes, n);
        }
    }
    assert_int_equal(tokenizer_size(t), 25);
    assert_int_equal(tokenizer_find(t, "\u0120a", 3), 9);
    assert_int_equal(tokenizer_find(t, "<s>", 3), 20);
    assert_int_equal(tokenizer_find(t, "AB", 2), 23);
    assert_int_equal(tokenizer_find(t, "ab", 2), 8);
    assert_int_equal(tokenizer_find(t, " a", 2), -1);
    assert_int_equal(tokenizer_find(t, "\xff", 1), -1);
    assert_int_equal(tokenizer_find(t, "", 0), -1);
    const char *const *specials = tokenizer_specials(t, &n);
    assert_int_equal(n, 2);
    assert_string_equal(specials[0], "<s>");
    assert_string_equal(specials[1], "x y");
    tokenizer_close(t);
}

/* --- files that are refused ------------------------------------------------------------------- */

#define ADD(added) WITH("null", added)
#define BPE(vocab, merges, more)                                                                   \
    FILE_OF("null", PRETOK, "", "null", DECODER, MODEL(vocab, merges, more))

static const struct {
    const char *sentence, *json;
    enum err_code code;
    const char *text;
} REFUSED[] = {
    { "no file", "", ERR_FORMAT, "tokenizer.json" },
    { "no object", "[1]", ERR_FORMAT, "not a JSON object" },
    { "no model", "{}", ERR_FORMAT, "model is missing" },
    { "a model that is none", "{\"model\":3}", ERR_FORMAT, "model must be an object" },
    { "another model", "{\"model\":{\"type\":\"WordLevel\"}}", ERR_UNSUPPORTED,
      "model.type \"WordLevel\" is not supported" },
    { "no ByteLevel", FILE_OF("null", "null", "", "null", DECODER, MODEL(VOCAB, MERGES, "")),
      ERR_UNSUPPORTED, "pre_tokenizer must have ByteLevel" },
    { "byte fallback", BPE(VOCAB, MERGES, ",\"byte_fallback\":true"), ERR_UNSUPPORTED,
      "model.byte_fallback" },
    { "a prefix of parts of words", BPE(VOCAB, MERGES, ",\"continuing_subword_prefix\":\"##\""),
      ERR_UNSUPPORTED, "model.continuing_subword_prefix" },
    { "dropout", BPE(VOCAB, MERGES, ",\"dropout\":0.1"), ERR_UNSUPPORTED, "model.dropout" },
    { "an option of the wrong type", BPE(VOCAB, MERGES, ",\"ignore_merges\":1"), ERR_FORMAT,
      "model.ignore_merges" },
    { "an unknown unk", BPE(VOCAB, MERGES, ",\"unk_token\":\"<unk>\""), ERR_FORMAT,
      "model.unk_token is \"<unk>\", which is no token" },
    { "no vocabulary", "{\"pre_tokenizer\":" PRETOK ",\"model\":{\"type\":\"BPE\",\"merges\":[]}}",
      ERR_FORMAT, "model.vocab must be an object" },
    { "a vocabulary that is a list", BPE("[1]", MERGES, ""), ERR_FORMAT, "model.vocab" },
    { "an empty vocabulary", BPE("{}", "[]", ""), ERR_FORMAT, "without tokens" },
    { "a negative id", BPE("{\"a\":-1}", "[]", ""), ERR_FORMAT, "the id of \"a\" must be" },
    { "an id with a fraction", BPE("{\"a\":0.5}", "[]", ""), ERR_FORMAT, "the id of \"a\"" },
    { "an id as text", BPE("{\"a\":\"0\"}", "[]", ""), ERR_FORMAT, "the id of \"a\"" },
    { "an id that is too large", BPE("{\"a\":16777216}", "[]", ""), ERR_FORMAT,
      "from 0 to 16777215" },
    { "an id beyond 64 bits", BPE("{\"a\":99999999999999999999999}", "[]", ""), ERR_FORMAT,
      "the id of \"a\"" },
    { "one id twice", BPE("{\"a\":0,\"b\":0}", "[]", ""), ERR_FORMAT,
      "id 0 belongs to \"a\" and to \"b\"" },
    { "one token twice", BPE("{\"a\":0,\"\\u0061\":1}", "[]", ""), ERR_FORMAT,
      "\"a\" has the ids 0 and 1" },
    { "merges that are no list", BPE(VOCAB, "{}", ""), ERR_FORMAT, "model.merges must be a list" },
    { "a merge of an unknown token", BPE(VOCAB, "[\"a b\",\"b x\"]", ""), ERR_FORMAT,
      "model.merges[1] names \"x\"" },
    { "a merge that makes none", BPE(VOCAB, "[\"b a\"]", ""), ERR_FORMAT,
      "model.merges[0] makes \"ba\"" },
    { "a merge of nothing", BPE(VOCAB, "[\" a\"]", ""), ERR_FORMAT, "model.merges[0] names \"\"" },
    { "a merge of three", BPE(VOCAB, "[[\"a\",\"b\",\"c\"]]", ""), ERR_FORMAT,
      "model.merges[0] must be two tokens" },
    { "a merge of one", BPE(VOCAB, "[[\"a\"]]", ""), ERR_FORMAT, "model.merges[0] must be" },
    { "a merge of numbers", BPE(VOCAB, "[[1,2]]", ""), ERR_FORMAT, "model.merges[0] must be" },
    { "a merge that is a number", BPE(VOCAB, "[1]", ""), ERR_FORMAT, "model.merges[0] must be" },
    { "a merge of a token with a letter that is no byte",
      BPE("{\"a\":0,\"\u2581\":1}", "[\"a \u2581\"]", ""), ERR_FORMAT, "names \"\u2581\"" },
    { "added tokens that are no list",
      "{\"pre_tokenizer\":" PRETOK ",\"added_tokens\":{},\"model\":" MODEL(VOCAB, MERGES, "") "}",
      ERR_FORMAT, "added_tokens must be a list" },
    { "an added token that is none", ADD("7"), ERR_FORMAT, "added_tokens[0] must be an object" },
    { "without content", ADD("{\"id\":20}"), ERR_FORMAT, "added_tokens[0].content" },
    { "with a negative id", ADD(ADDED("-1", "x", "")), ERR_FORMAT, "added_tokens[0].id" },
    { "with a flag that is text", ADD(ADDED("20", "x", ",\"lstrip\":\"yes\"")), ERR_FORMAT,
      "added_tokens[0].lstrip" },
    { "with the id of another token", ADD(ADDED("0", "x", "")), ERR_FORMAT,
      "id 0 belongs to \"a\" and to \"x\"" },
    { "with another id than in the vocabulary", ADD(ADDED("20", "a", "")), ERR_FORMAT,
      "\"a\" has the ids 0 and 20" },
    { "twice with two ids", ADD(ADDED("20", "x", "") "," ADDED("21", "x", "")), ERR_FORMAT,
      "\"x\" has the ids 20 and 21" },
    { "two with one id", ADD(ADDED("20", "x", "") "," ADDED("20", "y", "")), ERR_FORMAT,
      "id 20 belongs to" },
    { "that is empty when normalized",
      WITH("{\"type\":\"Strip\"}", ADDED("20", " ", ",\"normalized\":true")), ERR_FORMAT,
      "is empty when normalized" },
    { "an unknown normalizer", WITH("{\"type\":\"Nmt\"}", ""), ERR_UNSUPPORTED,
      "normalizer.type \"Nmt\"" },
    { "an unknown post-processor", POST("{\"type\":\"Foo\"}"), ERR_UNSUPPORTED,
      "post_processor.type \"Foo\"" },
    { "a template of an unknown token",
      POST(TEMPLATE(ITEM("SpecialToken", "x") "," ITEM("Sequence", "A"), "")), ERR_FORMAT,
      "post_processor.single[0].SpecialToken.id" },
    { "a template with an id beyond the vocabulary",
      POST(TEMPLATE(ITEM("SpecialToken", "x") "," ITEM("Sequence", "A"), "\"x\":{\"ids\":[21]}")),
      ERR_FORMAT, "is 21, which is no token" },
    { "a template without text", POST(TEMPLATE("", "")), ERR_UNSUPPORTED, "exactly once" },
    { "a template of two texts",
      POST(TEMPLATE(ITEM("Sequence", "A") "," ITEM("Sequence", "B"), "")), ERR_FORMAT,
      "want \"A\"" },
    { "an unknown decoder",
      FILE_OF("null", PRETOK, "", "null", "{\"type\":\"CTC\"}", MODEL(VOCAB, MERGES, "")),
      ERR_UNSUPPORTED, "decoder.type \"CTC\"" },
    { "no decoder", FILE_OF("null", PRETOK, "", "null", "null", MODEL(VOCAB, MERGES, "")),
      ERR_UNSUPPORTED, "decoder must be ByteLevel" },
    { "two vocabularies",
      "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"vocab\":{\"b\":0},\"merges\":[]}}",
      ERR_FORMAT, "vocab" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        struct tokenizer *t;
        struct err err;
        if (tokenizer_open(&t, REFUSED[i].json, strlen(REFUSED[i].json), &err))
            fail_msg("%s: accepted", REFUSED[i].sentence);
        if (err.code != REFUSED[i].code || !strstr(err.text, REFUSED[i].text))
            fail_msg("%s: code %d, \"%s\"", REFUSED[i].sentence, err.code, err.text);
    }
}

/* Cut anywhere it is refused, changed anywhere it is refused or works; nothing is read past the
 * end (guard page) and nothing crashes (ASan). */
static void test_forged(void **state)
{
    (void)state;
    static const char json[] = FILE_OF(
        "{\"type\":\"NFC\"}", PRETOK,
        ADDED("20", "<s>", SPECIAL) "," ADDED("21", "\\u00e9\\ud83d\\ude00", ",\"lstrip\":true"),
        TEMPLATE(ITEM("SpecialToken", "<s>") "," ITEM("Sequence", "A"), "\"<s>\":{\"ids\":[20]}"),
        DECODER, MODEL("{\"a\":0,\"b\":1,\"a\\u0062\":2}", "[\"a b\", [\"\\u0061\",\"b\"]]", ""));
    size_t length = sizeof json - 1;
    struct tokenizer *t = NULL;
    struct err err;
    assert_ok(tokenizer_open(&t, json, length, &err), &err);
    assert_string_equal(encode(t, "ab<s>", ENCODE_PARSE_SPECIAL | ENCODE_ADD_SPECIAL, NULL, 0),
                        "20 2 20");
    tokenizer_close(t);
    for (size_t n = 0; n < length; n++) {
        char *copy = guard_copy(json, n);
        assert_false(tokenizer_open(&t, copy, n, &err));
        guard_free(copy, n);
    }
    size_t n_accepted = 0;
    for (uint64_t round = 0; round < 4000; round++) {
        static const char with[] = "\"\\{}[],:019 -aeu\x7f\xff\0";
        char *copy = guard_copy(json, length);
        size_t at = (size_t)(rng_uniform(3, round, 0) * (double)length);
        copy[at] = with[(size_t)(rng_uniform(3, round, 1) * (sizeof with - 1))];
        if (tokenizer_open(&t, copy, length, &err)) {
            n_accepted++;
            encode(t, "ab<s>\u00e9", ENCODE_PARSE_SPECIAL | ENCODE_ADD_SPECIAL, NULL, 0);
            tokenizer_close(t);
        }
        guard_free(copy, length);
    }
    print_message("%zu of 4000 changed files were still valid\n", n_accepted);
    assert_true(n_accepted > 0 && n_accepted < 4000);
}

/* --- texts ------------------------------------------------------------------------------------ */

static struct tokenizer *open_set(const char *set)
{
    char command[1200], *json = malloc(1 << 20);
    struct tokenizer *t;
    struct err err;
    snprintf(command, sizeof command, "zcat '%s'",
             oracle_path("tokenizers/%s/tokenizer.json.gz", set));
    FILE *stream = popen(command, "r");
    assert_non_null(stream);
    size_t n = fread(json, 1, 1 << 20, stream);
    assert_int_equal(pclose(stream), 0);
    assert_ok(tokenizer_open(&t, json, n, &err), &err);
    free(json);
    return t;
}

static void test_not_utf8(void **state)
{
    (void)state;
    struct tokenizer *t = open_text(ADD(""));
    struct ids ids = { 0 };
    struct err err;
    assert_true(ids_push(&ids, 77));
    assert_false(tokenizer_encode(t, "ab\xc3(", 4, 0, NULL, 0, &ids, &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_string_equal(err.text, "text is not UTF-8 at byte 2");
    assert_int_equal(ids.n, 1);
    ids_clear(&ids);
    tokenizer_close(t);
}

/* A megabyte that is one piece, or that makes patterns search; the ids stand for the text. */
static void test_megabytes(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *set, *unit, *end;
    } rows[] = {
        { "one letter", "bpe_gpt2", "a", "" },
        { "one letter, another pattern", "bpe_llama3_ignore_merges", "A", "" },
        { "capitals for o200k", "bpe_o200k", "A", "" },
        { "blanks before a letter", "bpe_qwen2_nfc", " ", "x" },
        { "blanks before a letter, line ends searched", "bpe_deepseek_llm", " ", "x" },
        { "line ends and blanks", "bpe_deepseek_llm", " \n ", "x" },
        { "marks to sort", "bpe_qwen2_nfc", "\u0307\u0323", "" },
        { "beginnings of a special token", "bpe_gpt2", "<|endoftext", "" },
        { "blanks and tokens that strip them", "bpe_flags_nfkc_lower", "<rstrip>  ", "" },
        { "punctuation", "bpe_o200k", "^", "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_set(rows[i].set);
        struct buf text, back;
        struct ids ids = { 0 };
        struct err err;
        buf_init(&text, SIZE_MAX);
        buf_init(&back, SIZE_MAX);
        while (text.length < 1 << 20)
            buf_puts(&text, rows[i].unit);
        buf_puts(&text, rows[i].end);
        uint64_t start = clock_ms();
        assert_ok(tokenizer_encode(t, text.bytes, text.length, 0, NULL, 0, &ids, &err), &err);
        uint64_t spent = clock_ms() - start;
        print_message("%s: %d ms\n", rows[i].sentence, (int)spent);
        assert_true(spent < 20000); /* sanitizers, a loaded machine; quadratic would be minutes */
        detok_all(t, ids.ids, ids.n, false, &back);
        if (rows[i].set[4] != 'f' && rows[i].unit[0] != '\xcc') { /* those two normalize */
            assert_int_equal(back.length, text.length);
            assert_memory_equal(back.bytes, text.bytes, text.length);
        }
        ids_clear(&ids);
        buf_clear(&text);
        buf_clear(&back);
        tokenizer_close(t);
    }
}

/* Threads that start together on a fresh tokenizer: all of them meet words that no one has tried
 * (bpe.whole), and all get what one alone gets. */
struct worker {
    const struct tokenizer *tokenizer;
    const struct buf *text;
    struct ids ids;
    bool ok;
};
static void *encode_alone(void *arg)
{
    struct worker *w = arg;
    struct err err;
    w->ok =
        tokenizer_encode(w->tokenizer, w->text->bytes, w->text->length, 0, NULL, 0, &w->ids, &err);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    struct worker workers[THREADS + 1] = { 0 };
    pthread_t threads[THREADS];
    struct buf text;
    struct tokenizer *shared = open_set("bpe_qwen2_nfc"), *alone = open_set("bpe_qwen2_nfc");
    buf_init(&text, SIZE_MAX);
    for (uint64_t i = 0; i < 20000; i++) {
        double draw = rng_uniform(7, 0, i);
        buf_puts(&text, draw < 0.2 ? " " : draw < 0.21 ? "e\u0301" : "");
        buf_putc(&text, "etaoinshrdlu"[(size_t)(draw * 12)]);
    }
    workers[THREADS] = (struct worker){ .tokenizer = alone, .text = &text };
    encode_alone(&workers[THREADS]);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ .tokenizer = shared, .text = &text };
        assert_int_equal(pthread_create(&threads[i], NULL, encode_alone, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i <= THREADS; i++) {
        assert_true(workers[i].ok);
        assert_int_equal(workers[i].ids.n, workers[THREADS].ids.n);
        assert_memory_equal(workers[i].ids.ids, workers[THREADS].ids.ids,
                            workers[i].ids.n * sizeof(int32_t));
    }
    for (int i = 0; i <= THREADS; i++)
        ids_clear(&workers[i].ids);
    buf_clear(&text);
    tokenizer_close(shared);
    tokenizer_close(alone);
}

/* --- detokenizer ------------------------------------------------------------------------------ */

/* What a lossy decoder of all bytes writes: U+FFFD for each maximal part of a bad sequence. */
static void put_lossy(const char *bytes, size_t length, struct buf *out)
{
    for (size_t i = 0; i < length;) {
        int n = utf8_step(bytes + i, length - i);
        if (n > 0)
            buf_put(out, bytes + i, (size_t)n);
        else
            buf_puts(out, "\ufffd");
        i += (size_t)(n > 0 ? n : -n);
    }
}

/* Random ids of a byte-level vocabulary, most of them single bytes: at every cut what has come out
 * is whole characters, and a beginning of the lossy whole; at the end it is the whole. */
static void test_detok(void **state)
{
    (void)state;
    struct tokenizer *t = open_set("bpe_gpt2");
    static const char *const PIECES[] = { "\xe4", "\xb8", "\x80", "\xf0", "\x9f", "\xff",
                                          "\xc3", "\xa9", "a",    " ",    "\xed", "\xa0" };
    struct buf want, got, bytes;
    buf_init(&want, SIZE_MAX);
    buf_init(&got, SIZE_MAX);
    buf_init(&bytes, SIZE_MAX);
    int32_t by_byte[256];
    for (int32_t id = 0; id < tokenizer_size(t); id++) {
        size_t n;
        const char *text = tokenizer_bytes(t, id, &n);
        if (text && n == 1)
            by_byte[(uint8_t)text[0]] = id;
    }
    for (uint64_t round = 0; round < 4000; round++) {
        int32_t ids[40];
        size_t n = (size_t)(rng_uniform(5, round, 0) * 40), length;
        buf_reset(&bytes);
        buf_reset(&want);
        buf_reset(&got);
        for (size_t i = 0; i < n; i++) {
            double draw = rng_uniform(6, round, i);
            ids[i] = draw < 0.1 ? (int32_t)(draw * 10 * 1300)
                                : by_byte[(uint8_t)PIECES[(size_t)(draw * 12)][0]];
            const char *text = tokenizer_bytes(t, ids[i], &length);
            buf_put(&bytes, text, length);
        }
        put_lossy(buf_text(&bytes), bytes.length, &want);
        struct detok detok;
        detok_init(&detok, t, true);
        for (size_t i = 0; i < n; i++) {
            detok_push(&detok, ids[i], &got);
            assert_int_equal(unicode_check(buf_text(&got), got.length), got.length);
            assert_true(got.length <= want.length);
            assert_memory_equal(buf_text(&got), buf_text(&want), got.length);
            assert_true(detok.n_pending < 4);
        }
        detok_flush(&detok, &got);
        assert_int_equal(got.length, want.length);
        assert_memory_equal(buf_text(&got), buf_text(&want), want.length);
        buf_reset(&got);
        detok_all(t, ids, n, true, &got);
        assert_string_equal(buf_text(&got), buf_text(&want));
    }
    buf_reset(&got); /* special tokens and ids that are none */
    detok_all(t, (int32_t[]){ by_byte['a'], 1300, -5, 99999, by_byte['b'] }, 5, true, &got);
    assert_string_equal(buf_text(&got), "ab");
    detok_all(t, (int32_t[]){ 1300 }, 1, false, &got);
    assert_string_equal(buf_text(&got), "ab<|endoftext|>");
    buf_clear(&want);
    buf_clear(&got);
    buf_clear(&bytes);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_added_flags), cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_post),        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_forged),
        cmocka_unit_test(test_not_utf8),    cmocka_unit_test(test_megabytes),
        cmocka_unit_test(test_detok),       cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
