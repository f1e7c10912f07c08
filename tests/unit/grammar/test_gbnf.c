/* llama.cpp's notation: what grammars match, what is refused, and the masks on the way. */
#include "tests/unit/grammar/grammars.h"

static const char JSON[] =
    "# a comment\n"
    "root   ::= object\n"
    "value  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::=\n"
    "  \"{\" ws (\n"
    "            string \":\" ws value\n"
    "    (\",\" ws string \":\" ws value)*\n"
    "  )? \"}\" ws\n"
    "array  ::=\n"
    "  \"[\" ws (\n"
    "            value\n"
    "    (\",\" ws value)*\n"
    "  )? \"]\" ws\n"
    "string ::=\n"
    "  \"\\\"\" (\n"
    "    [^\"\\\\\\x7F\\x00-\\x1F] |\n"
    "    \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) # escapes\n"
    "  )* \"\\\"\" ws\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] "
    "[1-9]{0,15})? "
    "ws\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static const char ARITHMETIC[] = "root ::= (expr \"=\" ws term \"\\n\")+\n"
                                 "expr ::= term ([-+*/] term)*\n"
                                 "term ::= ident | num | \"(\" ws expr \")\" ws\n"
                                 "ident ::= [a-z] [a-z0-9_]* ws\n"
                                 "num ::= [0-9]+ ws\n"
                                 "ws ::= [ \\t\\n]*\n";

static const struct {
    const char *grammar, *text;
    bool matches;
} TEXTS[] = {
    { "root ::= \"a\" | \"b\"", "b", true },
    { "root ::= \"a\" | \"b\"", "c", false },
    { "root ::= x y\nx ::= \"1\"?\ny ::= x x", "11", true },
    { "root ::= x y\nx ::= \"1\"?\ny ::= x x", "", true },
    { "root ::= x y\nx ::= \"1\"?\ny ::= x x", "1111", false },
    { "root ::= \"(\" root \")\" | \"\"", "((()))", true },
    { "root ::= \"(\" root \")\" | \"\"", "((())", false },
    { "root ::= \"a\" root \"b\" | \"ab\"", "aaabbb", true },
    { "root ::= \"a\" root \"b\" | \"ab\"", "aaabb", false },
    { "root ::= [a-c]{2} \"-\"{,2} [^x]{1,}", "ab--yy", true },
    { "root ::= [a-c]{2} \"-\"{,2} [^x]{1,}", "ab---", true },
    { "root ::= [a-c]{2} \"-\"{,2} [^x]{1,}", "abx", false },
    { "root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\\\\\\"\"", "A\xc3\xa9\xf0\x9f\x98\x80\n\t\\\"",
      true },
    { "root ::= .", "\xf0\x9f\x98\x80", true },
    { "root ::= .", "\n", true },
    { "root ::= .", "\xf0\x9f\x98", false },
    { "root ::= [^a]", "\xff", false },
    { "root ::= (\"a\" |\n \"b\")+ # comment ] \" (\n", "ab", true },
    { "root ::= a-b\na-b ::= \"x\" a_1\na_1 ::= \"y\"", "xy", true },
    { "root::=a\r\na::=\"x\"\r\n", "x", true },
    { "root ::= (\"x\"{2}){3}", "xxxxxx", true },
    { "root ::= \"é\"", "\xc3\xa9", true },
    { "root ::= [é-ü]", "\xc3\xb6", true },
    { "root ::= [-a]+ [\\]]", "a-a]", true },
    { JSON, "{\"a\": [1, 2.5e3, {\"b\":null}], \"c\":\"\\u00e9\\n\"}", true },
    { JSON, "{\"a\":01}", false },
    { JSON, "[1]", false },
    { JSON, "{\"a\":tru}", false },
    { ARITHMETIC, "(a +1)*2=x\n", true },
    { ARITHMETIC, "((((b1))))=7\n1=1\n", true },
    { ARITHMETIC, "(a + =x\n", false },
};

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *source = TEXTS[i].grammar, *text = TEXTS[i].text;
        assert_ok(grammar_compile_gbnf(&grammar, source, strlen(source), &GRAMMAR_LIMITS, &err),
                  &err);
        if (grammar_accepts(grammar, text, strlen(text)) != TEXTS[i].matches)
            fail_msg("%s on \"%s\": want %d", source, text, TEXTS[i].matches);
        grammar_close(grammar);
    }
}

static const struct {
    const char *grammar, *says;
} REFUSED[] = {
    { "", "no rule named root" },
    { "a ::= \"x\"", "no rule named root" },
    { "root ::= b", "rule b has no definition" },
    { "root ::= \"a\"\nroot ::= \"b\"", "defined twice" },
    { "root ::= root \"a\" | \"b\"", "root begins with itself" },
    { "root ::= x? root \"a\" | \"b\"\nx ::= \"x\"", "root begins with itself" },
    { "root ::= a\na ::= b \"x\" | \"z\"\nb ::= a \"y\" | \"w\"", "begins with itself" },
    { "root ::= root", "matches no text" },
    { "root ::= a\na ::= b\nb ::= a", "matches no text" },
    { "root ::= \"a\" root", "matches no text" },
    { "root ::= []", "matches no text" },
    { "root ::= \"a", "not closed" },
    { "root ::= [a", "not closed" },
    { "root ::= (\"a\"", "not closed" },
    { "root ::= \"a\")", "without '('" },
    { "root ::= [b-a]", "ends before it begins" },
    { "root = \"a\"", "'::='" },
    { "root ::= \"\\q\"", "unknown escape" },
    { "root ::= \"\\u12\"", "hex digits" },
    { "root ::= \"\\uD800\"", "not a Unicode character" },
    { "root ::= * \"a\"", "nothing that can be repeated" },
    { "root ::= \"a\"{2,1}", "least is above" },
    { "root ::= \"a\"{x}", "want {m}" },
    { "root ::= \"a\"{99999999}", "want at most 1000000" },
    { "root ::= <think>", "tokens by name" },
    { "root ::= \"a\" $", "want a literal" },
    { "root ::= \"\xff\"", "UTF-8" },
    { "::= \"a\"", "want a rule's name" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *source = REFUSED[i].grammar;
        ASSERT_REFUSED(
            grammar_compile_gbnf(&grammar, source, strlen(source), &GRAMMAR_LIMITS, &err), &err,
            REFUSED[i].says);
        assert_null(grammar);
    }
}

static void test_walks(void **state)
{
    static const char *const grammars[] = {
        JSON,
        ARITHMETIC,
        "root ::= \"(\" root \")\" | \"\"",
        "root ::= \"(\" root \")\" root | \"x\"",
        "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"z\"",
        "root ::= a root \"b\" | c root \"c\" | \"z\"\na ::= \"a\"\nc ::= \"a\"",
        "root ::= s s s\ns ::= [a-z]* \" \"?",
        "root ::= q \"x\"\nq ::= [^\"]*",
    };
    struct grammar_vocab *vocab = test_vocab(1 << 22), *small = test_vocab(0);
    (void)state;
    for (size_t i = 0; i < sizeof grammars / sizeof grammars[0]; i++) {
        struct grammar *grammar;
        struct err err;
        assert_ok(
            grammar_compile_gbnf(&grammar, grammars[i], strlen(grammars[i]), &GRAMMAR_LIMITS, &err),
            &err);
        masks_may_be_short = strstr(grammars[i], "c root") != NULL; /* 2^n ways behind n a's */
        for (uint64_t seed = 0; seed < 6; seed++)
            random_text(grammar, seed % 2 ? small : vocab, NULL, seed, 80, NULL, 0);
        grammar_close(grammar);
    }
    grammar_vocab_close(vocab);
    grammar_vocab_close(small);
}

/* As deep as calls may go, and no deeper: the masks near the bound, and no place to be stuck in. */
static void test_depth(void **state)
{
    static const char *const grammars[] = { "root ::= \"(\" root \")\" | \"x\"",
                                            "root ::= \"(\" a \")\" | \"x\"\na ::= b b | \"\"\n"
                                            "b ::= \"(\" c \")\"\nc ::= root \"1\"" };
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct grammar_vocab *vocab = test_vocab(1 << 21);
        struct grammar *grammar;
        struct grammar_state *place, *spare;
        struct err err;
        uint32_t mask[(TEST_TOKENS + 31) / 32];
        int n_open = 0;
        assert_ok(
            grammar_compile_gbnf(&grammar, grammars[i], strlen(grammars[i]), &GRAMMAR_LIMITS, &err),
            &err);
        assert_ok(grammar_state_open(&place, grammar, vocab, &err), &err);
        assert_ok(grammar_state_open(&spare, grammar, vocab, &err), &err);
        while (grammar_advance(place, 2 + '(')) {
            n_open++;
            assert_true(n_open < 200);
            assert_true(grammar_mask(place, mask));
            if (n_open > 50)
                check_mask(place, spare, mask);
        }
        assert_true(n_open > 60);
        for (int n = 0; n < 2000 && !grammar_complete(place); n++) {
            static const char ends[] = "x1)(";
            bool moved = false;
            assert_true(grammar_mask(place, mask));
            check_mask(place, spare, mask);
            for (int k = 0; ends[k] && !moved; k++)
                moved = grammar_advance(place, 2 + ends[k]);
            assert_true(moved);
        }
        assert_true(grammar_complete(place));
        grammar_state_close(place);
        grammar_state_close(spare);
        grammar_close(grammar);
        grammar_vocab_close(vocab);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_walks),
        cmocka_unit_test(test_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
