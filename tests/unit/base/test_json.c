/* json: what is refused and how it is said, what is accepted, getters, paths, speed. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <time.h>
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/base/rng.h"

static const struct json_limits SMALL = { 4096, 8, 40 };

#define BYTES(text) text, sizeof(text) - 1

static const struct {
    const char *name, *bytes;
    size_t length;
    const char *says; /* NULL: accepted */
} TEXTS[] = {
    { "an empty body", BYTES(""), "ends at byte 0" },
    { "blanks only", BYTES(" \n\t"), "ends at byte 3" },
    { "a byte order mark", BYTES("\xef\xbb\xbf{}"), "a byte order mark at byte 0" },
    { "UTF-16", BYTES("{\0}\0"), "found byte 0x00 at byte 1" },
    { "an empty object", BYTES("{}"), NULL },
    { "an empty array with blanks", BYTES(" [ \r\n] "), NULL },
    { "scalars at the top", BYTES("12"), NULL },
    { "a string at the top", BYTES("\"a\""), NULL },
    { "two texts", BYTES("{} {}"), "found '{' at byte 3, want the end" },
    { "junk behind", BYTES("{} x"), "found 'x' at byte 3, want the end" },
    { "a NUL behind", BYTES("{}\0"), "found byte 0x00 at byte 2" },
    { "a trailing comma in an array", BYTES("[1,]"), "found ']' at byte 3, want a value" },
    { "a trailing comma in an object", BYTES("{\"a\":1,}"), "found '}' at byte 7, want a key" },
    { "a leading comma", BYTES("[,1]"), "found ',' at byte 1" },
    { "a missing comma", BYTES("[1 2]"), "want ',' or ']'" },
    { "a missing colon", BYTES("{\"a\" 1}"), "want ':'" },
    { "a bare key", BYTES("{a:1}"), "want a key in double quotes" },
    { "a number as a key", BYTES("{1:1}"), "want a key in double quotes" },
    { "single quotes", BYTES("['a']"), "want a value" },
    { "the wrong bracket", BYTES("[1}"), "found '}' at byte 2, want ',' or ']'" },
    { "a comment", BYTES("[1/*x*/]"), "found '/'" },
    { "a form feed as a blank", BYTES("\f1"), "byte 0x0c" },
    { "a leading zero", BYTES("007"), "found '0' at byte 1" },
    { "minus zero", BYTES("-0"), NULL },
    { "a minus alone", BYTES("-"), "want a digit" },
    { "a plus", BYTES("+1"), "found '+'" },
    { "no digit behind the point", BYTES("[1.]"), "want a digit" },
    { "no digit before the point", BYTES("[.5]"), "found '.'" },
    { "no digit in the exponent", BYTES("[1e]"), "want a digit" },
    { "hexadecimal", BYTES("0x10"), "found 'x' at byte 1" },
    { "too large", BYTES("[1e400]"), "too large for a double at byte 1" },
    { "negative and too large", BYTES("-1.5E+309"), "too large for a double" },
    { "the largest", BYTES("1.7976931348623157e308"), NULL },
    { "too small is zero", BYTES("1e-400"), NULL },
    { "400 digits", NULL, 400, "more than 63 bytes at byte 0" },
    { "63 digits", NULL, 63, NULL },
    { "NaN", BYTES("NaN"), "found 'N'" },
    { "Infinity", BYTES("[-Infinity]"), "want a digit" },
    { "a word cut short", BYTES("tru"), "unknown word at byte 0" },
    { "a word with a tail", BYTES("nullx"), "found 'x' at byte 4" },
    { "True", BYTES("True"), "found 'T'" },
    { "all escapes", BYTES("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83d\\uDe00\""), NULL },
    { "an unknown escape", BYTES("\"\\x41\""), "an unknown escape at byte 1" },
    { "an escaped NUL byte", BYTES("\"\\\0\""), "an unknown escape at byte 1" },
    { "U+0000 escaped", BYTES("[\"a\\u0000\"]"), "U+0000, which is not accepted, at byte 3" },
    { "U+0000 raw", BYTES("[\"a\0b\"]"), "U+0000 at byte 3" },
    { "U+0000 in a key", BYTES("{\"a\\u0000\":1}"), "U+0000" },
    { "three hex digits", BYTES("\"\\u123\""), "four hex digits" },
    { "a high surrogate alone", BYTES("\"\\ud800\""), "half a surrogate pair" },
    { "a high surrogate, then a letter", BYTES("\"\\ud800\\u0041\""), "half a surrogate pair" },
    { "a low surrogate alone", BYTES("\"\\udc00\""), "half a surrogate pair" },
    { "two high surrogates", BYTES("\"\\ud800\\ud800\""), "half a surrogate pair" },
    { "a raw newline in a string", BYTES("\"a\nb\""), "an unescaped control byte" },
    { "a raw tab in a string", BYTES("\"a\tb\""), "an unescaped control byte" },
    { "DEL in a string", BYTES("\"\x7f\""), NULL },
    { "an open string", BYTES("\"abc"), "ends at byte 4, want the rest of a string" },
    { "an open array", BYTES("[[1,2]"), "ends at byte 6" },
    { "UTF-8 of each length", BYTES("\"\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
      NULL },
    { "a stray continuation byte", BYTES("\"\x80\""), "not UTF-8 at byte 1" },
    { "an overlong slash", BYTES("\"\xc0\xaf\""), "not UTF-8" },
    { "an overlong of three", BYTES("\"\xe0\x9f\xbf\""), "not UTF-8" },
    { "a raw surrogate", BYTES("\"\xed\xa0\x80\""), "not UTF-8" },
    { "above U+10FFFF", BYTES("\"\xf4\x90\x80\x80\""), "not UTF-8" },
    { "0xff", BYTES("\"\xff\""), "not UTF-8" },
    { "UTF-8 cut by the quote", BYTES("\"\xe2\x82\""), "not UTF-8" },
    { "UTF-8 outside a string", BYTES("[\xc3\xa9]"), "found byte 0xc3 at byte 1" },
    { "8 deep", BYTES("[[[[[[[1]]]]]]]"), NULL },
    { "9 deep", BYTES("[[[[[[[[1]]]]]]]]"), "nested more than 8 deep" },
    { "9 deep, empty", BYTES("[[[[[[[[[]]]]]]]]]"), "nested more than 8 deep" },
    { "one key twice", BYTES("{\"a\":1,\"b\":2,\"a\":3}"), "a is given twice" },
    { "one key twice, escaped once", BYTES("{\"a\":1,\"\\u0061\":3}"), "a is given twice" },
    { "one key twice, below", BYTES("{\"m\":[1,{\"x\":1,\"x\":1}]}"), "m[1].x is given twice" },
    { "keys that differ in case", BYTES("{\"a\":1,\"A\":2}"), NULL },
    { "one key in two objects", BYTES("[{\"a\":1},{\"a\":{\"a\":2}}]"), NULL },
    { "one key twice among twelve",
      BYTES("{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1,"
            "\"k\":1,\"a\":1}"),
      "a is given twice" },
    { "twelve keys",
      BYTES("{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,"
            "\"i\":1,\"j\":1,\"k\":1,\"\":1}"),
      NULL },
    { "the empty key twice", BYTES("{\"\":1,\"\":1}"), "given twice" },
    { "40 values",
      BYTES("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
            "1,1,1]"),
      NULL },
    { "41 values",
      BYTES("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
            "1,1,1,1]"),
      "more than 40 values" },
    { "4097 bytes", NULL, 4097, "4097 bytes, want at most 4096" },
};

static bool parses(const char *bytes, size_t length, const struct json_limits *limits,
                   struct err *err)
{
    struct cJSON *root;
    char *copy = guard_copy(bytes, length);
    bool ok = json_parse(copy, length, limits, ERR_REQUEST, &root, err);
    guard_free(copy, length);
    if (ok)
        assert_non_null(root);
    else
        assert_null(root);
    json_free(root);
    return ok;
}

static void test_texts(void **state)
{
    (void)state;
    char digits[4097];
    memset(digits, '1', sizeof digits);
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct err err = { 0 };
        const char *bytes = TEXTS[i].bytes ? TEXTS[i].bytes : digits;
        bool ok = parses(bytes, TEXTS[i].length, &SMALL, &err);
        if (ok != (TEXTS[i].says == NULL))
            fail_msg("%s: %s", TEXTS[i].name, ok ? "accepted" : err.text);
        if (!ok && !strstr(err.text, TEXTS[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", TEXTS[i].name, err.text, TEXTS[i].says);
    }
}

static void test_code_of_refusals(void **state)
{
    (void)state;
    struct err err;
    struct cJSON *root;
    assert_false(json_parse("[", 1, &SMALL, ERR_FORMAT, &root, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_false(json_parse("{\"a\":1,\"a\":1}", 13, &SMALL, ERR_FORMAT, &root, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    char big[4097];
    memset(big, ' ', sizeof big);
    assert_false(json_parse(big, sizeof big, &SMALL, ERR_REQUEST, &root, &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
}

/* Cut anywhere, a text is refused (no accepted prefix), and nothing behind it is read. */
static void test_every_truncation(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model\": \"caf\xc3\xa9 \xf0\x9f\x98\x80\", \"x\": [1, -2.5e+10, 0.0, true, false, null,"
        " {\"\\ud83d\\ude00\\n\": {}}], \"seed\": 12345678901, \"e\": [], \"s\": \"\\\\\\\"\"}";
    struct err err;
    size_t whole = sizeof text - 1;
    assert_ok(parses(text, whole, &SMALL, &err), &err);
    for (size_t n = 0; n < whole; n++)
        if (parses(text, n, &SMALL, &err))
            fail_msg("accepted when cut at byte %zu", n);
}

/* Random damage: the scanner and cJSON agree (accepted texts parse), under ASan and a guard page.
 * ERR_MEMORY is what json_parse says when cJSON refuses what the scanner let through. */
static void test_random_damage(void **state)
{
    (void)state;
    static const char seed[] =
        "{\"a\":[1,-2.5e1,\"\\u00e9\\ud83d\\ude00\",{\"b\":null}],\"c\":true}";
    static const char alphabet[] = "{}[]:,\"\\0123456789.eE+-tfnu \x80\xc3\xa9\x01";
    uint64_t counter = 0;
    int n_accepted = 0;
    for (int round = 0; round < 30000; round++) {
        char text[sizeof seed];
        memcpy(text, seed, sizeof seed);
        size_t length = sizeof seed - 1;
        int edits = 1 + round % 3;
        for (int e = 0; e < edits; e++) {
            struct rng4 r = rng_philox(11, 0, counter++);
            size_t at = r.v[0] % length;
            if (r.v[1] % 3 == 0) {
                memmove(text + at, text + at + 1, length - at - 1);
                length--;
            } else {
                text[at] = alphabet[r.v[2] % (sizeof alphabet - 1)];
            }
        }
        struct err err = { 0 };
        if (parses(text, length, &SMALL, &err))
            n_accepted++;
        else if (err.code != ERR_REQUEST || !err.text[0])
            fail_msg("%.*s: code %d, %s", (int)length, text, err.code, err.text);
    }
    assert_true(n_accepted > 500); /* it is a test of both answers */
}

/* ---- getters ---- */

static struct cJSON *parse(const char *text)
{
    struct err err;
    struct cJSON *root;
    assert_ok(json_parse(text, strlen(text), &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, &err), &err);
    return root;
}

static const struct {
    const char *json; /* the value of "v" */
    int64_t low, high, want;
    const char *says; /* NULL: accepted */
} INTEGERS[] = {
    { "5", 1, 16, 5, NULL },
    { "1", 1, 16, 1, NULL },
    { "16", 1, 16, 16, NULL },
    { "1.0", 1, 16, 1, NULL },
    { "1.6e1", 1, 16, 16, NULL },
    { "-0", 0, 16, 0, NULL },
    { "1e-400", 0, 1, 0, NULL },
    { "0", 1, 16, 0, "v must be an integer from 1 to 16, got 0" },
    { "17", 1, 16, 0, "v must be an integer from 1 to 16, got 17" },
    { "-1", 1, INT64_MAX, 0, "v must be an integer of at least 1, got -1" },
    { "1", INT64_MIN, 0, 0, "v must be an integer of at most 0, got 1" },
    { "1.5", INT64_MIN, INT64_MAX, 0, "v must be an integer, got 1.5" },
    { "\"5\"", 1, 16, 0, "v must be an integer from 1 to 16, got \"5\"" },
    { "true", 1, 16, 0, "v must be an integer from 1 to 16, got true" },
    { "[1]", 1, 16, 0, "got an array" },
    { "{}", 1, 16, 0, "got an object" },
    { "9007199254740991", 0, INT64_MAX, 9007199254740991, NULL },
    { "9007199254740993", 0, INT64_MAX, 9007199254740992, NULL }, /* the nearest double */
    { "9223372036854774784", 0, INT64_MAX, 9223372036854774784, NULL },
    { "9223372036854775808", 0, INT64_MAX, INT64_MAX, NULL }, /* the nearest double of 2^63-1 */
    { "-9223372036854775808", INT64_MIN, 0, INT64_MIN, NULL },
    { "1e300", 0, INT64_MAX, 0, "got 1e+300" },
    { "2147483648", 0, 2147483647, 0, "from 0 to 2147483647, got 2147483648" },
};

static void test_integers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof INTEGERS / sizeof INTEGERS[0]; i++) {
        char text[100];
        struct err err = { 0 };
        snprintf(text, sizeof text, "{\"v\":%s}", INTEGERS[i].json);
        struct cJSON *root = parse(text);
        struct json_ref top = json_root(root);
        int64_t value = -77;
        bool ok = json_opt_int(&top, "v", INTEGERS[i].low, INTEGERS[i].high, &value, &err);
        if (ok != (INTEGERS[i].says == NULL))
            fail_msg("%s: %s", text, ok ? "accepted" : err.text);
        if (ok)
            assert_true(value == INTEGERS[i].want);
        else if (!strstr(err.text, INTEGERS[i].says) || strcmp(err.field, "v") != 0 ||
                 err.code != ERR_REQUEST || value != -77)
            fail_msg("%s: \"%s\" (%s)", text, err.text, err.field);
        json_free(root);
    }
}

static void test_other_types(void **state)
{
    (void)state;
    struct cJSON *root = parse("{\"temperature\":\"5\",\"t\":0.5,\"big\":101,\"n\":null,\"b\":true,"
                               "\"s\":\"text\",\"long\":\"0123456789012345678901234567890123456"
                               "\xc3\xa9\xc3\xa9\xc3\xa9\",\"ctl\":\"a\\nb\\u001b\"}");
    struct json_ref top = json_root(root), ref;
    struct err err = { 0 };
    double d = 7;
    bool b = false;
    const char *s = "kept";
    assert_false(json_opt_double(&top, "temperature", 0, 100, &d, &err));
    assert_string_equal(err.text, "temperature must be a number from 0 to 100, got \"5\"");
    assert_string_equal(err.field, "temperature");
    assert_false(json_opt_double(&top, "big", 0, 100, &d, &err));
    assert_string_equal(err.text, "big must be a number from 0 to 100, got 101");
    assert_false(json_opt_double(&top, "b", -DBL_MAX, DBL_MAX, &d, &err));
    assert_string_equal(err.text, "b must be a number, got true");
    assert_false(json_opt_double(&top, "s", 0, INFINITY, &d, &err));
    assert_string_equal(err.text, "s must be a number of at least 0, got \"text\"");
    assert_true(d == 7);
    assert_ok(json_opt_double(&top, "t", 0, 1, &d, &err), &err);
    assert_true(d == 0.5);
    assert_ok(json_opt_double(&top, "n", 0, 1, &d, &err), &err); /* null is absent */
    assert_ok(json_opt_double(&top, "none", 0, 1, &d, &err), &err);
    assert_true(d == 0.5);
    assert_ok(json_opt_bool(&top, "b", &b, &err), &err);
    assert_true(b);
    assert_false(json_opt_bool(&top, "t", &b, &err));
    assert_string_equal(err.text, "t must be true or false, got 0.5");
    assert_ok(json_opt_string(&top, "n", &s, &err), &err);
    assert_string_equal(s, "kept");
    assert_ok(json_opt_string(&top, "s", &s, &err), &err);
    assert_string_equal(s, "text");
    assert_false(json_opt_string(&top, "t", &s, &err));
    assert_string_equal(err.text, "t must be a string, got 0.5");
    assert_false(json_opt_bool(&top, "long", &b, &err));
    assert_string_equal(err.text, "long must be true or false, got \"0123456789012345678901234567"
                                  "890123456\"...");
    assert_false(json_opt_bool(&top, "ctl", &b, &err));
    assert_string_equal(err.text, "ctl must be true or false, got \"a\\nb\\u001b\"");
    assert_true(json_is_null(&top, "n"));
    assert_false(json_is_null(&top, "none"));
    assert_false(json_is_null(&top, "s"));
    assert_false(json_get(&top, "n", &ref));
    assert_null(ref.node);
    assert_false(json_get(&top, "model", &ref));
    assert_false(json_string(&ref, &s, &err));
    assert_string_equal(err.text, "model must be a string, got nothing");
    assert_false(json_get(&top, "S", &ref)); /* case matters */
    json_free(root);
    root =
        parse("{\"o\":{\"a\":1},\"low\":-1e19,\"é\":\"012345678901234567890123456789012345é789\"}");
    top = json_root(root);
    assert_false(json_opt_bool(&top, "o", &b, &err));
    assert_string_equal(err.text, "o must be true or false, got an object");
    int64_t i = 0;
    assert_false(json_opt_int(&top, "low", INT64_MIN, INT64_MAX, &i, &err));
    assert_non_null(strstr(err.text, "low must be an integer"));
    /* Cut before the character that does not fit. */
    assert_false(json_opt_bool(&top, "é", &b, &err));
    assert_string_equal(err.text, "é must be true or false, got "
                                  "\"012345678901234567890123456789012345\"...");
    /* Nothing in nothing. */
    struct json_ref none, child;
    assert_false(json_get(&top, "nothing", &none));
    assert_true(json_count(&none) == 0);
    assert_false(json_first(&none, &child));
    assert_false(json_next(&child));
    assert_null(json_number_text(root));
    /* A text that names its field is not given the name again. */
    assert_true(json_get(&top, "o", &ref));
    assert_false(json_error(&ref, &err, "o: is odd"));
    assert_string_equal(err.text, "o: is odd");
    assert_false(json_error(&ref, &err, "o is odd"));
    assert_string_equal(err.text, "o is odd");
    assert_false(json_error(&ref, &err, "odd"));
    assert_string_equal(err.text, "o odd");
    json_free(root);
    root = parse("[1]");
    top = json_root(root);
    assert_false(json_get(&top, "a", &ref)); /* not an object */
    assert_false(json_string(&top, &s, &err));
    assert_string_equal(err.text, "the value must be a string, got an array");
    assert_string_equal(err.field, "");
    json_free(root);
}

static void test_paths_and_walks(void **state)
{
    (void)state;
    struct cJSON *root = parse("{\"messages\":[{},{},{\"role\":7,\"x\":[[5]]}],\"o\":{\"a\":1,"
                               "\"b\":2},\"e\":[]}");
    struct json_ref top = json_root(root), list, item, role, x, inner, leaf;
    struct err err = { 0 };
    char path[96];
    assert_true(json_get(&top, "messages", &list) && json_is_array(&list));
    assert_int_equal(json_count(&list), 3);
    int n = 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item), n++) {
        assert_int_equal(item.index, n);
        if (n < 2)
            continue;
        assert_true(json_is_object(&item) && json_get(&item, "role", &role));
        const char *text;
        assert_false(json_string(&role, &text, &err));
        assert_string_equal(err.field, "messages[2].role");
        assert_string_equal(err.text, "messages[2].role must be a string, got 7");
        assert_false(json_error(&role, &err, "must be one of %s", "user, system"));
        assert_string_equal(err.text, "messages[2].role must be one of user, system");
        assert_false(json_error(&role, &err, "messages[2].role is odd"));
        assert_string_equal(err.text, "messages[2].role is odd");
        assert_false(json_error(&(struct json_ref){ NULL, &top, "mess", 0 }, &err, "messages odd"));
        assert_string_equal(err.text, "mess messages odd");
        assert_false(json_error(&top, &err, "needs a model"));
        assert_string_equal(err.text, "needs a model");
        assert_true(json_get(&item, "x", &x) && json_first(&x, &inner) &&
                    json_first(&inner, &leaf));
        assert_true(json_is_number(&leaf));
        assert_string_equal(json_path(&leaf, path, sizeof path), "messages[2].x[0][0]");
        assert_string_equal(json_path(&leaf, path, 10), "messages["); /* cut, terminated */
        assert_false(json_first(&leaf, &inner));
        assert_false(json_get(&item, "absent", &role));
        assert_string_equal(json_path(&role, path, sizeof path), "messages[2].absent");
    }
    assert_int_equal(n, 3);
    assert_true(json_get(&top, "o", &list));
    assert_true(json_first(&list, &item));
    assert_string_equal(item.key, "a");
    assert_string_equal(json_path(&item, path, sizeof path), "o.a");
    assert_true(json_next(&item));
    assert_string_equal(item.key, "b");
    assert_false(json_next(&item));
    assert_false(json_next(&item));
    assert_true(json_get(&top, "e", &list));
    assert_false(json_first(&list, &item));
    assert_int_equal(json_count(&list), 0);
    assert_string_equal(json_path(&top, path, sizeof path), "");
    json_free(root);
}

static void test_depth_of_files(void **state)
{
    (void)state;
    struct err err;
    for (int depth = 127; depth <= 129; depth++) {
        char text[300];
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        assert_int_equal(parses(text, 2 * (size_t)depth, &JSON_FILE_LIMITS, &err), depth <= 128);
    }
    char *deep = malloc(1000000);
    memset(deep, '[', 1000000);
    assert_false(parses(deep, 1000000, &JSON_FILE_LIMITS, &err));
    free(deep);
}

/* The shape of a large tokenizer: 300,000 members in one object, 280,000 pairs in an array. */
static void test_large(void **state)
{
    (void)state;
    struct buf text;
    struct err err;
    struct cJSON *root;
    buf_init(&text, (size_t)64 << 20);
    buf_puts(&text, "{\"vocab\":{");
    for (int i = 0; i < 300000; i++)
        buf_printf(&text, "%s\"tok%d\\u0120\": %d", i ? ", " : "", i, i);
    buf_puts(&text, "},\"merges\":[");
    for (int i = 0; i < 280000; i++)
        buf_printf(&text, "%s[\"ab%d\", \"cd%d\"]", i ? ",\n      " : "", i, i);
    size_t before_end = text.length;
    buf_puts(&text, "]}");
    assert_false(text.failed);
    const clock_t start = clock(); /* of this process: other work on the machine does not count */
    assert_ok(json_parse(text.bytes, text.length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err),
              &err);
    const double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    print_message("%zu bytes in %.2f s\n", text.length, took);
    struct json_ref top = json_root(root), vocab;
    assert_true(json_get(&top, "vocab", &vocab));
    assert_int_equal(json_count(&vocab), 300000);
    json_free(root);
    assert_true(took < 30); /* 0.1 s; quadratic work would take minutes */
    /* Equal keys are found wherever they are. */
    text.length = before_end;
    buf_puts(&text, "],\"again\":{");
    for (int i = 0; i < 100000; i++)
        buf_printf(&text, "\"%d\":1,", i);
    buf_puts(&text, "\"77\":1}}");
    assert_false(json_parse(text.bytes, text.length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err));
    assert_string_equal(err.text, "again.77 is given twice");
    buf_clear(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_code_of_refusals),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_paths_and_walks),
        cmocka_unit_test(test_depth_of_files),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
