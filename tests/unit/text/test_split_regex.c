/* test_split_regex.c - Ruby patterns in PCRE2's syntax: what they match, what is refused. The
 * expected pieces were checked against the `tokenizers` library (Split, Isolated). */
#include "tests/support/support.h"
#include "host/text/split_regex.h"

/* The matches of `pattern` in `text`, each in angle brackets; empty ones too. */
static void matches(const char *pattern, enum regex_kind kind, const char *text, struct buf *out)
{
    struct split_regex *regex;
    struct regex_scratch scratch = { 0 };
    struct err err;
    size_t start, end;
    buf_reset(out);
    if (!split_regex_open(&regex, kind, pattern, strlen(pattern), &err))
        fail_msg("%s: %s", pattern, err.text);
    struct regex_walk walk = {
        .regex = regex, .scratch = &scratch, .text = text, .length = strlen(text)
    };
    while (regex_next(&walk, &start, &end, &err)) {
        buf_putc(out, '<');
        buf_put(out, text + start, end - start);
        buf_putc(out, '>');
    }
    assert_int_equal(err.code, ERR_NONE);
    regex_scratch_clear(&scratch);
    split_regex_close(regex);
}

static void test_matches(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *pattern, *text, *want;
    } rows[] = {
        { "a dollar stands at every line end", "a$", "a\na", "<a><a>" },
        { "a caret stands at every line start", "^a", "a\na", "<a><a>" },
        { "a dot is no newline", ".", "a\nb", "<a><b>" },
        { "m is what PCRE calls s", "(?m:.)", "a\nb", "<a><\n><b>" },
        { "\\s is White_Space: U+180E is not", "\\s", "\u180e\u00a0\xc2\x85\u3000",
          "<\u00a0><\xc2\x85><\u3000>" },
        { "\\S has U+180E", "[\\S]", "\u180e ", "<\u180e>" },
        { "\\h is a hexadecimal digit", "\\h+", "xyz12ffg", "<12ff>" },
        { "\\d is any decimal digit", "\\d", "1\u0661\u00b2", "<1><\u0661>" },
        { "\\w has marks and letters", "\\w+", "a\u0301_1-b", "<a\u0301_1><b>" },
        { "\\w alone has the numbers of Latin-1", "\\w+", "a\u00b2\u2460", "<a\u00b2>" },
        { "\\w in brackets has not", "[\\w]+", "a\u00b2", "<a>" },
        { "a script without its punctuation", "\\p{Han}+", "\u4e00\u3001", "<\u4e00>" },
        { "a POSIX bracket with symbols", "[[:punct:]]+", "a+,b", "<+,>" },
        { "a word border", "\\ba", "a ba a", "<a><a>" },
        { "an interval is not possessive", "a{1,2}+", "aaaaab", "<aaaaa>" },
        { "a plus after a star is possessive", "a*+a", "aaa", "" },
        { "a fixed interval with ? is optional", "ba{2}?", "baab", "<baa><b>" },
        { "a lazy interval", "a{1,2}?", "aa", "<a><a>" },
        { "an interval from nothing", "ba{,1}", "baab", "<ba><b>" },
        { "a brace that is no interval", "a{x", "a{x", "<a{x>" },
        { "quantifiers in a row", "(?:ab){1,2}{2}", "abababab", "<abababab>" },
        { "a class cut with another", "[a-z&&[^b]]+", "abc", "<a><c>" },
        { "a class within a class", "[x[0-9]]+", "1x2y", "<1x2>" },
        { "a negated class within a class", "[a[^\\W]]", "a-b", "<a><b>" },
        { "a negated cut", "[^a-z&&[^b]]", "abc1", "<b><1>" },
        { "a dash at the end", "[a-]+", "a-b", "<a->" },
        { "a dash behind a set", "[\\d-x]+", "1-x2a", "<1-x2>" },
        { "a range by numbers", "[\\x{4e00}-\\x{4e02}]+", "\u4e00\u4e02\u4e03", "<\u4e00\u4e02>" },
        { "a range of letters as they are", "[\u4e00-\u4e02]+", "\u4e00\u4e02\u4e03",
          "<\u4e00\u4e02>" },
        { "a POSIX bracket", "[[:alpha:]]+", "ab1", "<ab>" },
        { "a negated POSIX bracket", "[[:^digit:]]+", "ab1", "<ab>" },
        { "an option to the end of its group", "a(?i)b|c", "aB AC aC", "<aB><aC>" },
        { "an option in a group of its own", "(?i:'s|'t)", "'S't", "<'S><'t>" },
        { "the long s is an s", "(?i:'s)", "'\u017f", "<'\u017f>" },
        { "a negated property", "\\p{^L}+", "a12b", "<12>" },
        { "a lookahead and a lookbehind", "\\s+(?!\\S)|(?<=x)y", "  a xy", "< ><y>" },
        { "a named group", "(?<n>a)b", "ab", "<ab>" },
        { "a comment", "a(?# b )c", "ac", "<ac>" },
        { "empty matches, none behind a match", "b*", "abba", "<><bb><>" },
        { "control characters by their letters", "[\\t\\f\\v\\a\\e\\b]+|\\t\\f\\v\\a\\e",
          "x\t\f\v\a\x1b\b", "<\t\f\v\a\x1b\b>" },
        { "the same alone", "\\t\\f\\v\\a\\e\\n\\r", "\t\f\v\a\x1b\n\r", "<\t\f\v\a\x1b\n\r>" },
        { "numbers of two and four digits", "\\x41\\u00e9", "A\u00e9", "<A\u00e9>" },
        { "numbers in both cases", "[\\x4a-\\x4C]+\\x{4D}", "xJKLM", "<JKLM>" },
        { "an escape of a sign, and of a character", "\\-\\\u00e9", "-\u00e9", "<-\u00e9>" },
        { "what is no digit, no word, no hexadecimal digit", "\\D\\W\\H\\S", "x-gy1", "<x-gy>" },
        { "negated sets in one class", "[\\D\\W]+", "1a-2", "<a->" },
        { "a negated set beside a class", "[\\W[ab]]+", "x-ay", "<-a>" },
        { "two classes in one", "[[ab][cd]]+", "xadbc", "<adbc>" },
        { "nothing in common", "[a&&]|b", "ab", "<b>" },
        { "a negated property", "\\P{L}+", "a12b", "<12>" },
        { "properties with signs in their names", "\\p{Old_Italic}\\p{Old-Italic}\\p{Old Italic}",
          "x\U00010300\U00010301\U00010302", "<\U00010300\U00010301\U00010302>" },
        { "no word border", "\\Ba", "a ba a", "<a>" },
        { "the text's own ends", "\\Aa|a\\z|b\\Z", "aa\nab", "<a><b>" },
        { "any line end", "\\R", "a\r\nb\n", "<\r\n><\n>" },
        { "a bracket that comes first", "[]a]+", "b]a", "<]a>" },
        { "a negated one", "[^]a]+", "b]a", "<b>" },
        { "a dash that comes first", "[-a]+", "b-a", "<-a>" },
        { "a dash before a set", "[a-\\d]+", "ba-1c", "<a-1>" },
        { "a dash before a property", "[a-\\p{Nd}]+", "ba-1c", "<a-1>" },
        { "a dash before a class", "[a-[0-9]]+", "ba-1c", "<a-1>" },
        { "a dash before a cut", "[a-&&a-z-]+", "ba-c", "<a->" },
        { "an and that is single", "[a&b]+", "xa&b", "<a&b>" },
        { "a range to an and", "[!-&]+", "x!%&'", "<!%&>" },
        { "a range to an escape", "[+-\\x2d]+", "x+,-.", "<+,->" },
        { "a range to a sign", "[+-\\.]+", "x+,-./", "<+,-.>" },
        { "a dash behind a range", "[a-c-]+", "xab-c", "<ab-c>" },
        { "options off", "(?i-m:A)(?-i:b)", "aBab", "<ab>" },
        { "a comment with an escaped bracket", "a(?#\\))c", "ac", "<ac>" },
        { "an interval of one number, of two, and open", "a{2}b{1,2}c{1,}", "aabbcc", "<aabbcc>" },
        { "braces around nothing", "a{}b", "a{}b", "<a{}b>" },
        { "braces around a comma", "a{,}b", "a{,}b", "<a{,}b>" },
        { "braces around two commas", "a{1,2,3}", "a{1,2,3}", "<a{1,2,3}>" },
        { "braces around a long number", "a{123456}", "a{123456}", "<a{123456}>" },
        { "a brace that is not closed", "a{1", "a{1", "<a{1>" },
        { "blanks before a line end", "\\s+$", "a  \n  b  ", "<  ><  >" },
        { "blanks before a line end, more lines", "\\s+$", " \n \n x", "< \n >" },
    };
    struct buf out;
    buf_init(&out, SIZE_MAX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        matches(rows[i].pattern, REGEX_RUBY, rows[i].text, &out);
        if (strcmp(buf_text(&out), rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, buf_text(&out), rows[i].want);
    }
    matches("a.b[", REGEX_LITERAL, "xa.b[aab[", &out);
    assert_string_equal(buf_text(&out), "<a.b[>");
    buf_clear(&out);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *pattern;
        enum err_code code;
        const char *text;
    } rows[] = {
        { "a back-reference", "(a)\\1", ERR_UNSUPPORTED, "back-reference" },
        { "a callout", "(*FAIL)", ERR_UNSUPPORTED, "callout" },
        { "PCRE's own verbs", "(*LIMIT_MATCH=1)a", ERR_UNSUPPORTED, "callout" },
        { "an absent operator", "(?~a)", ERR_UNSUPPORTED, "this group at byte 0" },
        { "extended syntax", "(?x)a", ERR_UNSUPPORTED, "this group" },
        { "a subexpression call", "\\g<n>", ERR_UNSUPPORTED, "this escape" },
        { "a kept-out start", "a\\Kb", ERR_UNSUPPORTED, "this escape at byte 1" },
        { "an unknown property", "\\p{Nonsense}", ERR_UNSUPPORTED, "Nonsense" },
        { "a raw byte", "\\xff", ERR_UNSUPPORTED, "single byte" },
        { "a property with a digit in its name", "\\p{L1}", ERR_UNSUPPORTED, "\\p{L1}" },
        { "a raw byte in a class", "[\\xff]", ERR_UNSUPPORTED, "single byte" },
        { "digits that are none", "\\xg", ERR_FORMAT, "an escape without hexadecimal digits" },
        { "no digits", "\\u", ERR_FORMAT, "an escape without hexadecimal digits" },
        { "an open brace", "\\x{41", ERR_FORMAT, "a \\x{ that is not closed" },
        { "a brace that is something else", "\\x{41g}", ERR_FORMAT, "a \\x{ that is not closed" },
        { "a number too large", "\\x{110000}", ERR_FORMAT, "a number that is no character" },
        { "a property without a brace", "\\pL", ERR_UNSUPPORTED, "\\p without a brace" },
        { "a property without a name", "\\p{}", ERR_FORMAT, "a \\p{ that is not closed" },
        { "a property that is open", "\\p{L", ERR_FORMAT, "a \\p{ that is not closed" },
        { "a property with a sign in it", "\\p{L+}", ERR_FORMAT, "a property name that is none" },
        { "a property with a very long name",
          "\\p{aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee}", ERR_FORMAT,
          "a property name that is none" },
        { "an escape nobody knows in a class", "[\\q]", ERR_UNSUPPORTED, "this escape in a class" },
        { "a backslash at the end of a class", "[\\", ERR_FORMAT, "backslash at the end" },
        { "a POSIX bracket that is open", "[[:alpha", ERR_FORMAT, "no POSIX bracket" },
        { "a POSIX bracket with one end", "[[:alpha]]", ERR_FORMAT, "no POSIX bracket" },
        { "a POSIX bracket with the other", "[[:alpha:x]]", ERR_FORMAT, "no POSIX bracket" },
        { "a POSIX bracket of nothing", "[[:", ERR_FORMAT, "no POSIX bracket" },
        { "options that are open", "(?i", ERR_FORMAT, "a group that is not closed" },
        { "a comment that is open", "a(?# b", ERR_FORMAT, "a comment that is not closed" },
        { "a comment that ends in a backslash", "a(?# b\\", ERR_FORMAT,
          "a comment that is not closed" },
        { "a name that is open", "(?<n", ERR_FORMAT, "a group name that is not closed" },
        { "a quantifier at the start", "*a", ERR_FORMAT, "nothing before it" },
        { "an interval at the start", "{2}a", ERR_FORMAT, "nothing before it" },
        { "a group that is open", "(a", ERR_FORMAT, "not closed" },
        { "a group that was not", "a)", ERR_FORMAT, "without its (" },
        { "a class that is open", "[a", ERR_FORMAT, "not closed" },
        { "a class cut that is open", "[a&&", ERR_FORMAT, "not closed" },
        { "nothing to repeat", "a|*", ERR_FORMAT, "nothing before it" },
        { "a backslash at the end", "a\\", ERR_FORMAT, "backslash at the end" },
        { "a surrogate", "\\x{d800}", ERR_FORMAT, "no character" },
        { "a POSIX bracket nobody knows", "[[:foo:]]", ERR_UNSUPPORTED, "POSIX" },
        { "not UTF-8", "a\xff", ERR_FORMAT, "not UTF-8 at byte 1" },
        { "a range backwards", "[z-a]", ERR_UNSUPPORTED, "range out of order" },
    };
    struct split_regex *regex;
    struct err err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (split_regex_open(&regex, REGEX_RUBY, rows[i].pattern, strlen(rows[i].pattern), &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || !strstr(err.text, rows[i].text))
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
    char *deep = malloc(REGEX_PATTERN_MAX + 1);
    memset(deep, '(', REGEX_PATTERN_MAX + 1);
    assert_false(split_regex_open(&regex, REGEX_RUBY, deep, REGEX_PATTERN_MAX + 1, &err));
    assert_non_null(strstr(err.text, "at most 16384"));
    assert_false(split_regex_open(&regex, REGEX_RUBY, deep, REGEX_PATTERN_MAX, &err));
    assert_non_null(strstr(err.text, "so deep a group"));
    memset(deep, '[', REGEX_PATTERN_MAX);
    assert_false(split_regex_open(&regex, REGEX_RUBY, deep, REGEX_PATTERN_MAX, &err));
    assert_non_null(strstr(err.text, "so deep a class"));
    /* Options without end in one group, and a form in PCRE2's syntax without end. */
    for (int i = 0; i < 200; i++)
        memcpy(deep + 4 * i, "(?i)", 4);
    assert_false(split_regex_open(&regex, REGEX_RUBY, deep, 800, &err));
    assert_non_null(strstr(err.text, "so many options"));
    for (int i = 0; i < REGEX_PATTERN_MAX / 2; i++)
        memcpy(deep + 2 * i, "\\b", 2);
    assert_false(split_regex_open(&regex, REGEX_RUBY, deep, REGEX_PATTERN_MAX / 2 * 2, &err));
    assert_string_equal(err.text, "pattern: its PCRE2 form is too long");
    free(deep);
}

/* A pattern that backtracks for ever ends in an error that a client can be told. */
static void test_limit(void **state)
{
    (void)state;
    struct split_regex *regex;
    struct regex_scratch scratch = { 0 };
    struct err err;
    size_t start, end;
    char text[4001];
    memset(text, 'a', 4000);
    text[4000] = 0;
    assert_ok(split_regex_open(&regex, REGEX_RUBY, "(?:a+)+b", 8, &err), &err);
    struct regex_walk walk = { .regex = regex, .scratch = &scratch, .text = text, .length = 4000 };
    /* PCRE2 may see that there is no b at all; so let there be one out of reach. */
    text[0] = 'b';
    assert_false(regex_next(&walk, &start, &end, &err));
    assert_true(err.code == ERR_REQUEST || err.code == ERR_NONE);
    regex_scratch_clear(&scratch);
    split_regex_close(regex);

    assert_ok(split_regex_open(&regex, REGEX_RUBY, "(?:a|aa|a.)+[bc](?=x)", 21, &err), &err);
    text[0] = 'a';
    text[3999] = 'c';
    walk = (struct regex_walk){ .regex = regex, .scratch = &scratch, .text = text, .length = 4000 };
    assert_false(regex_next(&walk, &start, &end, &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_non_null(strstr(err.text, "gave up"));
    regex_scratch_clear(&scratch);
    split_regex_close(regex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
