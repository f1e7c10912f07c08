/* test_pretokenize.c - pieces of pre-tokenizers. Expectations: the `tokenizers` library 0.23.3
 * (pre_tokenize_str), for every behavior, inverted and not. */
#include "tests/support/support.h"
#include "host/text/pretokenize.h"

static bool collect(void *arg, const char *piece, size_t length)
{
    struct buf *out = arg;
    if (out->length > 0)
        buf_putc(out, '|');
    buf_put(out, piece, length);
    return !out->failed;
}

static void pieces(const char *json, const char *text, struct buf *out)
{
    struct cJSON *root;
    struct pretok pretok;
    struct pretok_scratch scratch;
    struct err err;
    buf_reset(out);
    assert_ok(json_parse(json, strlen(json), &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err), &err);
    struct json_ref ref = json_root(root);
    if (!pretok_open(&pretok, &ref, &err))
        fail_msg("%s: %s", json, err.text);
    json_free(root);
    pretok_scratch_init(&scratch);
    assert_ok(pretok_run(&pretok, &scratch, true, text, strlen(text), collect, out, &err), &err);
    pretok_scratch_clear(&scratch);
    pretok_clear(&pretok);
}

static void test_behaviors(void **state)
{
    (void)state;
    static const struct {
        const char *behavior;
        bool invert;
        const char *pattern, *want; /* of "aabxaa ba\naaa" */
    } rows[] = {
        { "Isolated", false, "'Regex':'a'", "a|a|bx|a|a| b|a|\n|a|a|a" },
        { "Isolated", false, "'String':''", "a|a|b|x|a|a| |b|a|\n|a|a|a" },
        { "Isolated", true, "'Regex':'b*'", "a|a|b|x|a|a| |b|a|\n|a|a|a" },
        { "Isolated", false, "'Regex':'$'", "aabxaa ba|\naaa" },
        { "Removed", false, "'Regex':'a'", "bx| b|\n" },
        { "Removed", false, "'Regex':'b*'", "a|a|x|a|a| |a|\n|a|a|a" },
        { "Removed", true, "'Regex':'a{1,2}+'", "aa|aa|a|aaa" },
        { "Removed", true, "'Regex':'b*'", "b|b" },
        { "Removed", true, "'Regex':'$'", "" },
        { "MergedWithPrevious", false, "'Regex':'a'", "a|a|bxa|a| ba|\na|a|a" },
        { "MergedWithPrevious", false, "'Regex':'b*'", "a|ab|x|a|a| b|a|\n|a|a|a" },
        { "MergedWithPrevious", true, "'Regex':'a'", "a|abx|a|a b|a\n|a|a|a" },
        { "MergedWithPrevious", true, "'Regex':'b*'", "a|a|bx|a|a| |ba|\n|a|a|a" },
        { "MergedWithPrevious", true, "'Regex':'a{1,2}+'", "aabx|aa b|a\n|aaa" },
        { "MergedWithNext", false, "'Regex':'a'", "a|abx|a|a b|a\n|a|a|a" },
        { "MergedWithNext", false, "'Regex':'b*'", "a|a|bx|a|a| |ba|\n|a|a|a" },
        { "MergedWithNext", true, "'Regex':'a'", "a|a|bxa|a| ba|\na|a|a" },
        { "MergedWithNext", true, "'Regex':'b*'", "a|ab|x|a|a| b|a|\n|a|a|a" },
        { "Contiguous", false, "'Regex':'a'", "aa|bx|aa| b|a|\n|aaa" },
        { "Contiguous", true, "'Regex':'a'", "aa|bx|aa| b|a|\n|aaa" },
        { "Contiguous", false, "'Regex':'\\\\h'", "aab|x|aa| |ba|\n|aaa" },
        { "Contiguous", false, "'String':''", "a|a|b|x|a|a| |b|a|\n|a|a|a" },
    };
    struct buf out;
    buf_init(&out, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[256];
        snprintf(json, sizeof json, "{'type':'Split','pattern':{%s},'behavior':'%s','invert':%s}",
                 rows[i].pattern, rows[i].behavior, rows[i].invert ? "true" : "false");
        for (char *p = json; *p; p++)
            if (*p == '\'')
                *p = '"';
        pieces(json, "aabxaa ba\naaa", &out);
        if (strcmp(buf_text(&out), rows[i].want) != 0)
            fail_msg("%s%s %s: \"%s\", want \"%s\"", rows[i].behavior,
                     rows[i].invert ? " inverted" : "", rows[i].pattern, buf_text(&out),
                     rows[i].want);
    }
    buf_clear(&out);
}

#define SEQUENCE(list) "{\"type\":\"Sequence\",\"pretokenizers\":[" list "]}"
#define BYTES(prefix, regex)                                                                       \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"use_regex\":" regex "}"

static void test_components(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json, *text, *want;
    } rows[] = {
        { "GPT-2's pattern", BYTES("false", "true"), "I'll be 10x  there ",
          "I|'ll| be| 10|x| | there| " },
        { "a blank before the text", BYTES("true", "true"), "a b", " a| b" },
        { "no blank before a blank", BYTES("true", "false"), " a b", " a b" },
        { "a blank before every piece",
          SEQUENCE("{\"type\":\"Punctuation\"}," BYTES("true", "false")), "a,b", " a| ,| b" },
        { "digits together", "{\"type\":\"Digits\",\"individual_digits\":false}", "a12b\u00b23",
          "a|12|b|\u00b23" },
        { "digits alone", "{\"type\":\"Digits\",\"individual_digits\":true}", "a12b", "a|1|2|b" },
        { "ASCII symbols are punctuation", "{\"type\":\"Punctuation\"}", "a$b\u3002\u20ac",
          "a|$|b|\u3002|\u20ac" },
        { "punctuation that goes", "{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}", "a,b.",
          "a|b" },
        { "white space goes", "{\"type\":\"WhitespaceSplit\"}", " a\u3000b\tc ", "a|b|c" },
        { "words and what is none", "{\"type\":\"Whitespace\"}", "Hey! a_b \u00e9-x",
          "Hey|!|a_b|\u00e9|-|x" },
        { "as BERT", "{\"type\":\"BertPreTokenizer\"}", "a, b.c", "a|,|b|.|c" },
        { "at a character", "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"\u2581\"}",
          "a\u2581\u2581b", "a|b" },
        { "a lookahead ends with its piece",
          SEQUENCE("{\"type\":\"Digits\"}," BYTES("false", "true")), "a  1", "a|  |1" },
        { "an empty sequence", SEQUENCE(""), "a b", "a b" },
        { "no text", BYTES("true", "true"), "", "" },
    };
    struct buf out;
    buf_init(&out, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pieces(rows[i].json, rows[i].text, &out);
        if (strcmp(buf_text(&out), rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, buf_text(&out), rows[i].want);
    }
    buf_clear(&out);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json;
        enum err_code code;
        const char *text;
    } rows[] = {
        { "an unknown type", "{\"type\":\"Foo\"}", ERR_UNSUPPORTED, "type \"Foo\"" },
        { "one that comes later", SEQUENCE("{\"type\":\"UnicodeScripts\"}"), ERR_UNSUPPORTED,
          "pretokenizers[0].type \"UnicodeScripts\"" },
        { "no type", "{}", ERR_REQUEST, "type" },
        { "not an object", "[1]", ERR_REQUEST, "type" },
        { "a stage behind ByteLevel", SEQUENCE(BYTES("true", "true") ",{\"type\":\"Digits\"}"),
          ERR_UNSUPPORTED, "pretokenizers[1] (Digits) comes after ByteLevel" },
        { "an unknown behavior",
          "{\"type\":\"Split\",\"behavior\":\"Merge\",\"pattern\":{\"Regex\":\"a\"}}",
          ERR_UNSUPPORTED, "behavior \"Merge\"" },
        { "no pattern", "{\"type\":\"Split\",\"behavior\":\"Removed\"}", ERR_REQUEST, "pattern" },
        { "a bad pattern",
          "{\"type\":\"Split\",\"behavior\":\"Removed\",\"pattern\":{\"Regex\":\"(\"}}", ERR_FORMAT,
          "pattern.Regex: pattern: a group that is not closed at byte 1" },
        { "invert as a number",
          "{\"type\":\"Split\",\"behavior\":\"Removed\",\"invert\":1,\"pattern\":{\"Regex\":\"a\"}"
          "}",
          ERR_REQUEST, "invert" },
        { "two characters", "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"ab\"}", ERR_REQUEST,
          "one character" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct cJSON *root;
        struct pretok pretok;
        struct err err;
        assert_ok(json_parse(rows[i].json, strlen(rows[i].json), &JSON_FILE_LIMITS, ERR_FORMAT,
                             &root, &err),
                  &err);
        struct json_ref ref = json_root(root);
        if (pretok_open(&pretok, &ref, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        json_free(root);
        if (err.code != rows[i].code || !strstr(err.text, rows[i].text))
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_behaviors),
        cmocka_unit_test(test_components),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
