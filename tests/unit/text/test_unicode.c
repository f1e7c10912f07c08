/* test_unicode.c - character classes, normal forms, normalizers. */
#include "tests/support/support.h"
#include "host/base/clock.h"
#include "host/text/normalize.h"

static void test_check(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *text;
        size_t length, want;
    } rows[] = {
        { "nothing", "", 0, 0 },
        { "ASCII", "0123456789abcdef!", 17, 17 },
        { "a stray continuation byte", "abcdefgh\x80", 9, 8 },
        { "an overlong slash", "ab\xc0\xaf", 4, 2 },
        { "a surrogate", "\xed\xa0\x80", 3, 0 },
        { "a character cut off", "12345678\xe4\xb8", 10, 8 },
        { "above U+10FFFF", "a\xf4\x90\x80\x80", 5, 1 },
        { "all lengths", "a\u00e9\u4e00\U0001f600", 10, 10 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *copy = guard_copy(rows[i].text, rows[i].length);
        size_t got = unicode_check(copy, rows[i].length);
        if (got != rows[i].want)
            fail_msg("%s: %zu, want %zu", rows[i].sentence, got, rows[i].want);
        guard_free(copy, rows[i].length);
    }
}

static void test_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text, *forms[4]; /* NFC NFD NFKC NFKD */
    } rows[] = {
        { "e\u0301", { "\u00e9", "e\u0301", "\u00e9", "e\u0301" } },
        { "\u00e9", { "\u00e9", "e\u0301", "\u00e9", "e\u0301" } },
        { "\ufb01", { "\ufb01", "\ufb01", "fi", "fi" } },
        { "\u2126", { "\u03a9", "\u03a9", "\u03a9", "\u03a9" } },
        { "\u1112\u1161\u11ab",
          { "\ud55c", "\u1112\u1161\u11ab", "\ud55c", "\u1112\u1161\u11ab" } },
        { "\uac00\u11a8", { "\uac01", "\u1100\u1161\u11a8", "\uac01", "\u1100\u1161\u11a8" } },
        { "q\u0307\u0323", { "q\u0323\u0307", "q\u0323\u0307", "q\u0323\u0307", "q\u0323\u0307" } },
        { "\u0958", { "\u0915\u093c", "\u0915\u093c", "\u0915\u093c", "\u0915\u093c" } },
        { "\u304b\u3099", { "\u304c", "\u304b\u3099", "\u304c", "\u304b\u3099" } },
        { "<\u0338", { "\u226e", "<\u0338", "\u226e", "<\u0338" } },
        { "x\u4e00y\u00b2", { "x\u4e00y\u00b2", "x\u4e00y\u00b2", "x\u4e00y2", "x\u4e00y2" } },
    };
    struct buf out;
    struct err err;
    buf_init(&out, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int form = 0; form < 4; form++) {
            const char *want = rows[i].forms[form];
            buf_reset(&out);
            assert_ok(unicode_normalize((enum unicode_form)form, rows[i].text, strlen(rows[i].text),
                                        &out, &err),
                      &err);
            if (strcmp(buf_text(&out), want) != 0)
                fail_msg("row %zu, form %d: \"%s\", want \"%s\"", i, form, buf_text(&out), want);
            if (unicode_is_normal((enum unicode_form)form, rows[i].text, strlen(rows[i].text)))
                assert_string_equal(rows[i].text, want);
        }
    buf_clear(&out);
}

/* Half a megabyte of marks out of order after one letter: sorted, and not in quadratic time. */
static void test_marks(void **state)
{
    (void)state;
    enum { PAIRS = 1 << 17 };
    struct buf in, out;
    struct err err;
    buf_init(&in, SIZE_MAX);
    buf_init(&out, SIZE_MAX);
    buf_putc(&in, 'q');
    for (int i = 0; i < PAIRS; i++)
        buf_puts(&in, "\u0307\u0323"); /* classes 230, 220 */
    uint64_t start = clock_ms();
    assert_ok(unicode_normalize(UNICODE_NFC, in.bytes, in.length, &out, &err), &err);
    print_message("%d marks: %d ms\n", 2 * PAIRS, (int)(clock_ms() - start));
    assert_true(clock_ms() - start < 10000);
    assert_int_equal(out.length, in.length);
    for (int i = 0; i < PAIRS; i++) {
        assert_memory_equal(out.bytes + 1 + 2 * i, "\u0323", 2);
        assert_memory_equal(out.bytes + 1 + 2 * (PAIRS + i), "\u0307", 2);
    }
    buf_clear(&in);
    buf_clear(&out);
}

static void test_classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t code;
        bool space, numeric, punct, mark, word;
    } rows[] = {
        { 'a', 0, 0, 0, 0, 1 },    { '_', 0, 0, 1, 0, 1 },     { ' ', 1, 0, 0, 0, 0 },
        { 0x85, 1, 0, 0, 0, 0 },   { 0x180e, 0, 0, 0, 0, 0 },  { '7', 0, 1, 0, 0, 1 },
        { 0xb2, 0, 1, 0, 0, 0 },   { 0x2160, 0, 1, 0, 0, 1 },  { '$', 0, 0, 1, 0, 0 },
        { 0x20ac, 0, 0, 0, 0, 0 }, { 0x3002, 0, 0, 1, 0, 0 },  { 0x301, 0, 0, 0, 1, 1 },
        { 0x200d, 0, 0, 0, 0, 1 }, { 0x24b6, 0, 0, 0, 0, 1 },  { 0x203f, 0, 0, 1, 0, 1 },
        { 0x166d, 0, 0, 1, 0, 0 }, { 0x2e42, 0, 0, 1, 0, 0 },  { 0x2e43, 0, 0, 0, 0, 0 },
        { 0x2e50, 0, 0, 0, 0, 0 }, { 0x1e95f, 0, 0, 0, 0, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t c = rows[i].code;
        if (unicode_is_space(c) != rows[i].space || unicode_is_numeric(c) != rows[i].numeric ||
            unicode_is_punct(c) != rows[i].punct || unicode_is_mark(c) != rows[i].mark ||
            unicode_is_word(c) != rows[i].word)
            fail_msg("U+%04X", c);
    }
}

static void test_normalizers(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json, *text, *want;
    } rows[] = {
        { "lower case", "{'type':'Lowercase'}", "A\u0130\u03a3\u00c9", "ai\u0307\u03c3\u00e9" },
        { "blanks on both sides", "{'type':'Strip'}", " \u3000a b\n", "a b" },
        { "on the left", "{'type':'Strip','strip_right':false}", " a ", "a " },
        { "nothing but blanks", "{'type':'Strip'}", " \n ", "" },
        { "no marks", "{'type':'StripAccents'}", "e\u0301\u00e9", "e\u00e9" },
        { "a prefix", "{'type':'Prepend','prepend':'\u2581'}", "a", "\u2581a" },
        { "no prefix for nothing", "{'type':'Prepend','prepend':'\u2581'}", "", "" },
        { "a string", "{'type':'Replace','pattern':{'String':'.'},'content':'-'}", "a.b", "a-b" },
        { "a pattern", "{'type':'Replace','pattern':{'Regex':' {2,}'},'content':' '}", "a   b c",
          "a b c" },
        { "one after the other",
          "{'type':'Sequence','normalizers':[{'type':'NFKC'},{'type':'Lowercase'},"
          "{'type':'Strip'},{'type':'Replace','pattern':{'String':'i'},'content':'j'}]}",
          " \ufb01X ", "fjx" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct cJSON *root;
        struct normalizer normalizer;
        struct normalizer_scratch scratch;
        struct err err;
        const char *out;
        size_t n;
        char json[512];
        snprintf(json, sizeof json, "%s", rows[i].json);
        for (char *p = json; *p; p++)
            if (*p == '\'')
                *p = '"';
        assert_ok(json_parse(json, strlen(json), &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err), &err);
        struct json_ref ref = json_root(root);
        assert_ok(normalizer_open(&normalizer, &ref, &err), &err);
        json_free(root);
        normalizer_scratch_init(&scratch);
        assert_ok(normalizer_run(&normalizer, &scratch, NORMALIZE_FIRST | NORMALIZE_LAST,
                                 rows[i].text, strlen(rows[i].text), &out, &n, &err),
                  &err);
        if (n != strlen(rows[i].want) || memcmp(out, rows[i].want, n) != 0)
            fail_msg("%s: \"%.*s\", want \"%s\"", rows[i].sentence, (int)n, out, rows[i].want);
        normalizer_scratch_clear(&scratch);
        normalizer_clear(&normalizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),       cmocka_unit_test(test_forms),
        cmocka_unit_test(test_marks),       cmocka_unit_test(test_classes),
        cmocka_unit_test(test_normalizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
