/* Regular expressions and choices: what they match, what they refuse, and the masks on the way. */
#include "tests/unit/grammar/grammars.h"

static const struct {
    const char *pattern, *text;
    bool matches;
} TEXTS[] = {
    { "", "", true },
    { "", "a", false },
    { "abc", "abc", true },
    { "abc", "ab", false },
    { "abc", "abcd", false },
    { "a|b|", "", true },
    { "a|b|", "b", true },
    { "a*b+c?", "b", true },
    { "a*b+c?", "aabbc", true },
    { "a*b+c?", "ac", false },
    { "(ab){2,3}", "ab", false },
    { "(ab){2,3}", "abab", true },
    { "(ab){2,3}", "ababab", true },
    { "(ab){2,3}", "abababab", false },
    { "a{3}", "aaa", true },
    { "a{,2}", "aaa", false },
    { "a{2,}", "aaaaa", true },
    { "a{,}", "aaaaa", true },
    { "a{}", "a{}", true },
    { "a{x}", "a{x}", true },
    { "x{1", "x{1", true },
    { "[a-c]+", "abcb", true },
    { "[a-c]+", "abd", false },
    { "[^a-c]", "d", true },
    { "[^a-c]", "b", false },
    { "[^a]", "\xc3\xa9", true },
    { "[^a]", "\xc3", false },
    { "[^a]", "\xff", false },
    { "[^a]", "\xed\xa0\x80", false }, /* half of a surrogate pair */
    { "[^a]", "\xf4\x90\x80\x80", false },
    { "[^a]", "\xc0\x80", false }, /* overlong */
    { ".", "\xf0\x9f\x98\x80", true },
    { ".", "\n", false },
    { "[]a]+", "]a", true },
    { "[^]a]", "]", false },
    { "[a-]+", "a-", true },
    { "[-a]+", "-a", true },
    { "[\\d\\-x]+", "3-x", true },
    { "[\\]\\\\]+", "]\\", true },
    { "\\d+", "0123", true },
    { "\\d", "\xd9\xa3", false }, /* an Arabic digit: left out */
    { "\\D", "\xc3\xa9", true },
    { "\\D", "\xd9\xa3", false },
    { "[^\\d]", "\xd9\xa3", false },
    { "[^\\D]", "5", true },
    { "[^\\D]", "\xd9\xa3", false },
    { "\\w+", "aZ_9", true },
    { "\\W", "-", true },
    { "\\W", "\xc3\xa9", false },
    { "[^\\w]", "\xe2\x80\x94", true }, /* an em dash */
    { "[^\\W]", "a", true },
    { "\\s\\S", " x", true },
    { "\\S", "\xc2\xa0", false },
    { "\\S+", "\xe4\xb8\xad\xe6\x96\x87", true },
    { "\\x41\\u00e9\\U0001F600", "A\xc3\xa9\xf0\x9f\x98\x80", true },
    { "\\t\\n\\r\\f\\v\\a", "\t\n\r\f\v\a", true },
    { "\\.\\*\\/\\-\\(", ".*/-(", true },
    { "^abc$", "abc", true },
    { "^a$|^b$", "b", true },
    { "(^a|b)$", "a", true },
    { "\\Aab\\Z", "ab", true },
    { "(?:a|b)(?P<n>c)(?<m>d)", "acd", true },
    { "a*?b+?c??", "aabb", true },
    { "((a*)*)*", "aaaa", true },
    { "((a*)*)*b", "aab", true },
    { "(a|b)*a(a|b){20}", "bbabbbbbbbbbbbbbbbbbbbb", true },
    { "(a|b)*a(a|b){20}", "bbbbbbbbbbbbbbbbbbbbbbb", false },
    { "(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true },
    { "(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", false },
    { "\\u4e2d|\\u6587+", "\xe6\x96\x87\xe6\x96\x87", true },
    { "[\\u4e00-\\u9fff]{2}", "\xe4\xb8\xad\xe6\x96\x87", true },
};

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *pattern = TEXTS[i].pattern, *text = TEXTS[i].text;
        assert_ok(grammar_compile_regex(&grammar, pattern, strlen(pattern), &GRAMMAR_LIMITS, &err),
                  &err);
        if (grammar_accepts(grammar, text, strlen(text)) != TEXTS[i].matches)
            fail_msg("%s on \"%s\": want %d", pattern, text, TEXTS[i].matches);
        grammar_close(grammar);
    }
}

static const struct {
    const char *pattern, *says;
} REFUSED[] = {
    { "a(?=b)", "lookahead" },
    { "a(?!b)", "lookahead" },
    { "(?<=a)b", "lookbehind" },
    { "(?<!a)b", "lookbehind" },
    { "(a)\\1", "back references" },
    { "(?P<x>a)(?P=x)", "back references" },
    { "(a)(?(1)b|c)", "conditional" },
    { "(?>a)", "atomic" },
    { "(?i)a", "flags" },
    { "(?i:a)", "flags" },
    { "(?#x)a", "comments" },
    { "a*+", "possessive" },
    { "a\\b", "word boundaries" },
    { "\\p{L}", "Unicode properties" },
    { "\\07", "octal" },
    { "\\q", "unknown escape" },
    { "\\x4", "hex digits" },
    { "\\ud800", "not a Unicode character" },
    { "\\U00110000", "not a Unicode character" },
    { "a\\", "backslash at the end" },
    { "a**", "nothing that can be repeated" },
    { "*a", "nothing that can be repeated" },
    { "a|+", "nothing that can be repeated" },
    { "(*)", "nothing that can be repeated" },
    { "^*", "nothing that can be repeated" },
    { "a{3,2}", "least is above" },
    { "a{2000000}", "2000000" },
    { "a^b", "'^' is supported only" },
    { "a$b", "'$' is supported only" },
    { "(^a)*", "'^' is supported only" },
    { "(a", "not closed" },
    { "a)", "without '('" },
    { "[a", "not closed" },
    { "[b-a]", "in order" },
    { "[\\d-a]", "two characters" },
    { "(?P<x", "name is not closed" },
    { "\xff", "want UTF-8" },
    { "[^\\s\\S]", "matches no text" },
    { "a[^\\x00-\\U0010ffff]", "matches no text" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *pattern = REFUSED[i].pattern;
        ASSERT_REFUSED(
            grammar_compile_regex(&grammar, pattern, strlen(pattern), &GRAMMAR_LIMITS, &err), &err,
            REFUSED[i].says);
        assert_null(grammar);
    }
}

static void test_walks(void **state)
{
    static const char *const patterns[] = {
        "",
        "ab*",
        "(a|b)*a(a|b){20}",
        "[a-z]{3,60}",
        "(ab|ba){1000}",
        "(a{100}){100}",
        "a{0,500}b",
        "[^\"]*\"",
        "\\d{1,3}(\\.\\d+)?",
        "((a|b)*(ba)*)*x",
        ".*",
        "\\S+( \\S+){0,5}",
        "(red|green|blue)(, (red|green|blue))*",
    };
    struct grammar_vocab *vocab = test_vocab(1 << 22), *small = test_vocab(0);
    (void)state;
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        struct grammar *grammar;
        struct err err;
        assert_ok(grammar_compile_regex(&grammar, patterns[i], strlen(patterns[i]), &GRAMMAR_LIMITS,
                                        &err),
                  &err);
        for (uint64_t seed = 0; seed < 4; seed++)
            random_text(grammar, seed % 2 ? small : vocab, NULL, seed, 60, NULL, 0);
        grammar_close(grammar);
    }
    grammar_vocab_close(vocab);
    grammar_vocab_close(small);
}

static void test_large(void **state)
{
    static const struct {
        const char *pattern;
        size_t n;
        bool matches;
    } counts[] = {
        { "(a{1000}){1000}", 1000000, true },  { "(a{1000}){1000}", 999999, false },
        { "(a{1000}){1000}", 1000001, false }, { "a{0,1000000}", 777777, true },
        { "a{0,10000}", 10001, false },        { "a{0,10000}", 10000, true },
        { "(a{0,20}){20}", 400, true },        { "(a{0,20}){20}", 401, false },
        { "a{37,3000}", 36, false },           { "a{37,3000}", 37, true },
        { "a{37,3000}", 2999, true },          { "a{37,3000}", 3001, false },
    };
    char *text = malloc(1000002);
    (void)state;
    assert_non_null(text);
    memset(text, 'a', 1000002);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct grammar *grammar;
        struct err err;
        assert_ok(grammar_compile_regex(&grammar, counts[i].pattern, strlen(counts[i].pattern),
                                        &GRAMMAR_LIMITS, &err),
                  &err);
        if (grammar_accepts(grammar, text, counts[i].n) != counts[i].matches)
            fail_msg("%s on %zu", counts[i].pattern, counts[i].n);
        grammar_close(grammar);
    }
    free(text);
}

static void test_choice(void **state)
{
    static const struct grammar_text texts[] = {
        { "red", 3 }, { "green", 5 }, { "re", 2 }, { "", 0 }
    };
    struct grammar *grammar;
    struct grammar_vocab *vocab = test_vocab(0);
    struct err err;
    (void)state;
    assert_ok(grammar_compile_choice(&grammar, texts, 4, &GRAMMAR_LIMITS, &err), &err);
    assert_true(grammar_accepts(grammar, "red", 3));
    assert_true(grammar_accepts(grammar, "re", 2));
    assert_true(grammar_accepts(grammar, "", 0));
    assert_false(grammar_accepts(grammar, "gree", 4));
    for (uint64_t seed = 0; seed < 10; seed++)
        assert_true(random_text(grammar, vocab, NULL, seed, 10, NULL, 0));
    grammar_close(grammar);
    ASSERT_REFUSED(grammar_compile_choice(&grammar, texts, 0, &GRAMMAR_LIMITS, &err), &err,
                   "at least one");
    const struct grammar_text wrong = { "\xc3", 1 };
    ASSERT_REFUSED(grammar_compile_choice(&grammar, &wrong, 1, &GRAMMAR_LIMITS, &err), &err,
                   "UTF-8");
    grammar_vocab_close(vocab);
}

static void test_states(void **state)
{
    struct grammar *grammar;
    struct grammar_state *one, *two;
    struct grammar_vocab *vocab = test_vocab(0);
    struct err err;
    uint32_t mask[(TEST_TOKENS + 31) / 32];
    const int32_t a = 2 + 'a', b = 2 + 'b';
    (void)state;
    assert_ok(grammar_compile_regex(&grammar, "ab*", 3, &GRAMMAR_LIMITS, &err), &err);
    assert_ok(grammar_state_open(&one, grammar, vocab, &err), &err);
    assert_ok(grammar_state_open(&two, grammar, vocab, &err), &err);
    assert_false(grammar_accepting(one));
    assert_false(grammar_advance(one, TEST_EOS));
    assert_false(grammar_advance(one, b));
    assert_false(grammar_advance(one, -1));
    assert_false(grammar_advance(one, TEST_TOKENS));
    assert_false(grammar_advance(one, TEST_CONTROL));
    assert_true(grammar_advance(one, a));
    assert_true(grammar_accepting(one));
    assert_false(grammar_complete(one));
    grammar_state_copy(two, one);
    assert_true(grammar_advance(one, b));
    assert_true(grammar_advance(two, TEST_EOS));
    assert_false(grammar_mask(two, mask)); /* nothing behind eos */
    assert_false(grammar_advance(two, TEST_EOS));
    assert_true(grammar_mask(one, mask));
    assert_true(mask[TEST_EOS >> 5] >> (TEST_EOS & 31) & 1);
    assert_false(mask[TEST_CONTROL >> 5] >> (TEST_CONTROL & 31) & 1);
    grammar_state_close(one);
    grammar_state_close(two);
    grammar_close(grammar);
    grammar_vocab_close(vocab);
}

/* 60 places at once and another set at every node: the mask is a part of the truth, and never
 * empty. */
static void test_wide(void **state)
{
    enum { N = 30000, WORDS = (N + 31) / 32 };
    static struct grammar_text tokens[N];
    static char bytes[N][4];
    static uint32_t mask[WORDS];
    static const char pattern[] = "(.|\\n)*a[a-z]{300}";
    const int32_t eos = N - 1;
    struct grammar_vocab *vocab;
    struct grammar *grammar;
    struct grammar_state *place, *spare;
    struct err err;
    int n_left_out = 0;
    (void)state;
    for (int i = 0; i < N - 1; i++) {
        size_t n = i < 256 ? 1 : 4;
        for (size_t k = 0; k < n; k++)
            bytes[i][k] = (char)(i < 256 ? i : 'a' + (i >> 4 * (int)k) % 16);
        tokens[i] = (struct grammar_text){ bytes[i], n };
    }
    assert_ok(grammar_vocab_open(&vocab, tokens, N, &eos, 1, 1 << 24, &err), &err);
    assert_ok(grammar_compile_regex(&grammar, pattern, strlen(pattern), &GRAMMAR_LIMITS, &err),
              &err);
    assert_ok(grammar_state_open(&place, grammar, vocab, &err), &err);
    assert_ok(grammar_state_open(&spare, grammar, vocab, &err), &err);
    for (int n = 0; n < 100; n++) {
        assert_true(grammar_mask(place, mask));
        for (int32_t token = 0; token < N; token += n % 10 ? 997 : 31) {
            grammar_state_copy(spare, place);
            bool allowed = mask[token >> 5] >> (token & 31) & 1;
            bool possible = grammar_advance(spare, token);
            assert_true(possible || !allowed);
            assert_true(allowed || !possible || tokens[token].length > 1);
            n_left_out += possible && !allowed;
        }
        assert_true(grammar_advance(place, 'a'));
    }
    assert_true(n_left_out > 0);
    grammar_state_close(place);
    grammar_state_close(spare);
    grammar_close(grammar);
    grammar_vocab_close(vocab);
}

/* A vocabulary without the byte that is needed next: the mask says so. */
static void test_stuck(void **state)
{
    static const struct grammar_text tokens[] = { { "a", 1 }, { "b", 1 }, { NULL, 0 } };
    const int32_t eos = 2;
    struct grammar_vocab *vocab;
    struct grammar *grammar;
    struct grammar_state *place;
    struct err err;
    uint32_t mask;
    (void)state;
    assert_ok(grammar_vocab_open(&vocab, tokens, 3, &eos, 1, 0, &err), &err);
    assert_ok(grammar_compile_regex(&grammar, "a\\?", 3, &GRAMMAR_LIMITS, &err), &err);
    assert_ok(grammar_state_open(&place, grammar, vocab, &err), &err);
    assert_true(grammar_mask(place, &mask));
    assert_int_equal(mask, 1);
    assert_true(grammar_advance(place, 0));
    assert_false(grammar_mask(place, &mask));
    grammar_state_close(place);
    grammar_close(grammar);
    grammar_vocab_close(vocab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts), cmocka_unit_test(test_refused), cmocka_unit_test(test_walks),
        cmocka_unit_test(test_large), cmocka_unit_test(test_choice),  cmocka_unit_test(test_states),
        cmocka_unit_test(test_stuck), cmocka_unit_test(test_wide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
