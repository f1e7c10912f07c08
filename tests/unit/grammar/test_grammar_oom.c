/* Each allocation of compiling a grammar and of reading a text with it fails; and each limit, from
 * nothing upwards, is met in turn: a clean error, the same grammar once there is enough. */
#include "tests/unit/grammar/grammars.h"
#include "tests/support/fail_alloc.h"

static const struct {
    const char *pattern, *yes, *no;
} ROWS[] = {
    { "(ab|cd){2,5}[a-z&&x]?x*", "abcd", "ab" },
    { "(?:\\d{1,3}\\.){3}\\d{1,3}", "10.0.0.1", "10.0.0" },
    { "^(yes|no)$|[^a-z\\s]+?", "yes", "maybe" },
    { "(\\w+@[\\w\\-]+\\.(com|org))|(?P<n>\\x41\\u00e9)", "a@b.com", "a@b" },
    { "((a{,3}b{2,}){1,3}c?){0,2}", "abbabb", "ab" },
    { "[\\d\\-x]{1,40}", "12-x", "y" },
};

static bool compile(struct grammar **g, const char *pattern, const struct grammar_limits *limits,
                    struct err *err)
{
    *err = (struct err){ 0 };
    return grammar_compile_regex(g, pattern, strlen(pattern), limits, err);
}

static void check(const struct grammar *g, size_t row)
{
    assert_true(grammar_accepts(g, ROWS[row].yes, strlen(ROWS[row].yes)));
    assert_false(grammar_accepts(g, ROWS[row].no, strlen(ROWS[row].no)));
}

static void test_each_allocation_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct grammar *g = NULL;
        struct err err;
        int64_t at = 1;
        for (bool ok = false; !ok; at++) {
            fail_alloc_at(at);
            ok = compile(&g, ROWS[i].pattern, &GRAMMAR_LIMITS, &err);
            fail_alloc_off();
            if (!ok && err.code != ERR_MEMORY)
                fail_msg("%s, allocation %d: code %d, %s", ROWS[i].pattern, (int)at, err.code,
                         err.text);
        }
        assert_true(at > 3);
        check(g, i);
        grammar_close(g);
    }
    static const struct grammar_text texts[] = { { "yes", 3 }, { "no", 2 }, { "none", 4 } };
    struct grammar *g = NULL;
    struct err err = { 0 };
    for (int64_t at = 1;; at++) {
        fail_alloc_at(at);
        const bool ok = grammar_compile_choice(&g, texts, 3, &GRAMMAR_LIMITS, &err);
        fail_alloc_off();
        if (ok)
            break;
        assert_int_equal(err.code, ERR_MEMORY);
    }
    assert_true(grammar_accepts(g, "none", 4) && !grammar_accepts(g, "non", 3));
    /* What is opened on it. */
    static const struct grammar_text tokens[] = { { "</s>", 4 }, { "n", 1 }, { "o", 1 } };
    const int32_t eos = 0;
    struct grammar_vocab *vocab = NULL;
    struct grammar_state *s = NULL;
    for (int64_t at = 1;; at++) {
        fail_alloc_at(at);
        bool ok = grammar_vocab_open(&vocab, tokens, 3, &eos, 1, 1 << 20, &err);
        if (ok && !grammar_state_open(&s, g, vocab, &err)) {
            grammar_vocab_close(vocab);
            ok = false;
        }
        fail_alloc_off();
        if (ok)
            break;
        assert_int_equal(err.code, ERR_MEMORY);
    }
    uint32_t mask = 0;
    assert_true(grammar_mask(s, &mask));
    assert_int_equal(mask, 2); /* "n" alone */
    grammar_state_close(s);
    grammar_vocab_close(vocab);
    grammar_close(g);
}

static void test_each_limit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        for (int which = 0; which < 4; which++) {
            struct grammar *g = NULL;
            struct err err;
            int64_t refused = 0;
            /* Small numbers one by one, larger ones in steps. */
            for (int64_t n = 1;; n += 1 + n / 64) {
                struct grammar_limits limits = GRAMMAR_LIMITS;
                if (which == 0)
                    limits.steps = n;
                else if (which == 1)
                    limits.states = (int32_t)n;
                else if (which == 2)
                    limits.memory_bytes = (size_t)n * 64;
                else
                    limits.depth = (int32_t)n;
                limits.ms = 0;
                if (compile(&g, ROWS[i].pattern, &limits, &err))
                    break;
                refused++;
                if (err.code != ERR_REQUEST && err.code != ERR_MEMORY)
                    fail_msg("%s, limit %d of %d: code %d, %s", ROWS[i].pattern, which, (int)n,
                             err.code, err.text);
                assert_true(err.text[0] != 0);
            }
            assert_true(which == 3 || refused > 0);
            check(g, i);
            grammar_close(g);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_allocation_fails),
        cmocka_unit_test(test_each_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
