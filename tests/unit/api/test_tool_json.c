/* test_tool_json.c - the scanner of JSON that comes a byte at a time: by hand, and against the
 * reader of whole texts; escapes taken away, every kind. */
#include "tests/support/support.h"
#include "api/tool_json.h"
#include "host/base/json.h"
#include "host/base/rng.h"

static void test_whole(void **state)
{
    (void)state;
    static const char *const GOOD[] = {
        "{}",
        "[]",
        "\"\"",
        "0",
        "-0",
        "1",
        "-12",
        "0.5",
        "1.25",
        "1e5",
        "1E5",
        "1e+5",
        "1E-5",
        "0e0",
        "-0.0e-0",
        "12.5E+10",
        "true",
        "false",
        "null",
        " \t\r\n1\t\r\n ",
        "{\"a\":1}",
        "{\"a\" : [1, 2.5, -3e2 ] , \"b\":{} }",
        "[[],{},\"\",null,false]",
        "[0,0.1,1]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uABCD\\uabcd\"",
        "\"é\"",
        "{\"\":\"\"}",
        "[ ]",
        "{ }",
        "[1 ]",
        "[-1]",
        "{\"a\":-0}",
        "[0]",
        "[1.5]",
        "[1e5]",
    };
    static const char *const BAD[] = {
        "",
        " ",
        "{",
        "[",
        "\"",
        "\"a",
        "\"\\",
        "\"\\u12",
        "tru",
        "nul",
        "fals",
        "-",
        "1.",
        "1e",
        "1e+",
        "01",
        "-01",
        "+1",
        ".5",
        "1.e5",
        "1.5.5",
        "1e5.5",
        "--1",
        "1-",
        "0x1",
        "00",
        "0-",
        "1e-",
        "1E+e",
        "1ee5",
        "1..5",
        "[1.]",
        "[1e]",
        "[-]",
        "truex",
        "nan",
        "trUe",
        "x",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1[",
        "[1x",
        "[\"a\"x",
        "[[]\"",
        "[1:",
        "[1}",
        "{1}",
        "{\"a\"}",
        "{\"a\",1}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1]",
        "{,}",
        "{\"a\":1 \"b\":2}",
        "1 2",
        "{} {}",
        "]",
        "}",
        ",",
        ":",
        "\"\\q\"",
        "\"\\u12g4\"",
        "\"\\u/000\"",
        "\"\\u:000\"",
        "\"\\u@000\"",
        "\"\\ug000\"",
        "\"a\nb\"",
        "\"a\x01"
        "b\"",
        "\"\x1f\"",
        "\"\" x",
        "1}",
        "[\"a\":1]",
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++)
        if (!json_scan_whole(GOOD[i], strlen(GOOD[i])))
            fail_msg("refused: %s", GOOD[i]);
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (json_scan_whole(BAD[i], strlen(BAD[i])))
            fail_msg("accepted: %s", BAD[i]);
    assert_false(json_scan_whole("\"\\\0\"", 4)); /* no escape, and the end of none */
    assert_false(json_scan_whole("\0", 1));
    char deep[2 * JSON_SCAN_DEPTH_MAX + 2];
    for (size_t n = JSON_SCAN_DEPTH_MAX; n <= JSON_SCAN_DEPTH_MAX + 1; n++) {
        memset(deep, '[', n);
        memset(deep + n, ']', n);
        assert_int_equal(json_scan_whole(deep, 2 * n), n == JSON_SCAN_DEPTH_MAX);
    }
}

/* Where the value ends is said with its last byte; numbers end with the byte behind them. */
static void test_ends(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t done; /* bytes until DONE; 0: never */
    } rows[] = {
        { "{\"a\":[1]}x", 9 }, { "\"a\"x", 3 }, { "null,", 4 }, { "12", 0 }, { "[]]", 2 }
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct json_scan scan = { 0 };
        size_t done = 0;
        for (size_t k = 0; rows[i].text[k] && !done; k++)
            done = json_scan_push(&scan, rows[i].text[k]) == JSON_SCAN_DONE ? k + 1 : 0;
        if (done != rows[i].done)
            fail_msg("%s: %zu", rows[i].text, done);
    }
    struct json_scan number = { 0 };
    assert_int_equal(json_scan_push(&number, '1'), JSON_SCAN_MORE);
    assert_int_equal(json_scan_push(&number, ' '), JSON_SCAN_MORE);
    assert_int_equal(number.at, SCAN_DONE);
    assert_int_equal(json_scan_push(&number, '2'), JSON_SCAN_BAD);
}

/* Random texts of JSON's own bytes: the same answer as the reader of whole texts. */
static void test_against_parser(void **state)
{
    (void)state;
    static const char BYTES[] = "{}[]:,\"\"\\a10-.eE+ntrufals \n";
    int n_good = 0;
    for (uint32_t i = 0; i < 300000; i++) {
        char text[12];
        const size_t n = 1 + rng_philox(1, i, 0).v[0] % (sizeof text - 1);
        for (size_t k = 0; k < n; k++)
            text[k] = BYTES[rng_philox(1, i, k + 1).v[0] % (sizeof BYTES - 1)];
        struct cJSON *tree = NULL;
        struct err err = { 0 };
        const bool parsed = json_parse(text, n, &JSON_REQUEST_LIMITS, ERR_REQUEST, &tree, &err);
        json_free(tree);
        /* What the reader refuses beyond the grammar. */
        const bool beyond = !parsed && (strstr(err.text, "given twice") != NULL ||
                                        strstr(err.text, "too large") != NULL);
        if (json_scan_whole(text, n) != (parsed || beyond))
            fail_msg("%.*s: %s", (int)n, text, parsed ? "parsed" : err.text);
        n_good += parsed;
    }
    print_message("%d of them JSON\n", n_good);
    assert_true(n_good > 100);
}

static void test_unescape(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "abc", "abc" },
        { "\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t" },
        { "\\u0041\\u00e9\\u20ac\\ud83d\\ude00", "Aé€😀" },
        { "\\u00E9\\u20AC", "é€" },
        { "\\u0000", "\xef\xbf\xbd" },
        { "\\ud83d", "\xef\xbf\xbd" },      /* a high one at the end */
        { "\\ud83dx", "\xef\xbf\xbdx" },    /* before a letter */
        { "\\ud83d\\n", "\xef\xbf\xbd\n" }, /* before an escape */
        { "\\ud83d\\u0041", "\xef\xbf\xbd"
                            "A" }, /* before a character */
        { "\\ud83d\\ud83d\\ude00", "\xef\xbf\xbd😀" },
        { "\\ude00", "\xef\xbf\xbd" },
        { "\\uffff", "\xef\xbf\xbf" },
        { "é\\u007f", "é\x7f" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct json_unescape u = { 0 };
        char out[64], piece[8];
        size_t n = 0;
        for (const char *c = rows[i].text; *c; c++) {
            const int m = json_unescape_push(&u, *c, piece);
            assert_in_range(m, 0, 7);
            memcpy(out + n, piece, (size_t)m);
            n += (size_t)m;
        }
        const int m = json_unescape_end(&u, piece);
        memcpy(out + n, piece, (size_t)m);
        n += (size_t)m;
        if (n != strlen(rows[i].want) || memcmp(out, rows[i].want, n) != 0)
            fail_msg("%s: %.*s", rows[i].text, (int)n, out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_against_parser),
        cmocka_unit_test(test_unescape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
