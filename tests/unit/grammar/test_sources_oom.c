/* The other sources (schema, GBNF, tags) and what runs them: each allocation fails once, with a
 * clean error and no leak (ASan). */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include "host/grammar/grammar.h"

static const char SCHEMA[] =
    "{\"properties\":{\"a\":{\"pattern\":\"^[a-c]+$\",\"maxLength\":9},\"b\":{\"enum\":[1,\"x\",{"
    "\"c\":2}]}},"
    "\"additionalProperties\":{\"type\":\"integer\",\"minimum\":3},\"required\":[\"a\"]}";
static const char GBNF[] = "root ::= \"(\" a \")\" | [a-z]{2,900}\na ::= root* \"x\"?";
static const struct grammar_tag TAGS[] = { { { "<f>", 3 }, { "</f>", 4 }, NULL } };

static bool compile(int source, struct grammar **grammar, struct err *err)
{
    const struct grammar_tags tags = { .tags = TAGS, .n_tags = 1 };
    if (source == 0)
        return grammar_compile_schema(grammar, SCHEMA, strlen(SCHEMA), NULL, &GRAMMAR_LIMITS, err);
    if (source == 1)
        return grammar_compile_gbnf(grammar, GBNF, strlen(GBNF), &GRAMMAR_LIMITS, err);
    return grammar_compile_tags(grammar, &tags, NULL, &GRAMMAR_LIMITS, err);
}

static bool use(int source, struct err *err)
{
    static const struct grammar_text tokens[] = { { "{", 1 }, { "(", 1 }, { "<", 1 }, { "a", 1 } };
    struct grammar *grammar = NULL;
    struct grammar_vocab *vocab = NULL;
    struct grammar_state *state = NULL;
    uint32_t mask;
    bool good = compile(source, &grammar, err) &&
                grammar_vocab_open(&vocab, tokens, 4, NULL, 0, 0, err) &&
                grammar_state_open(&state, grammar, vocab, err);
    if (good)
        assert_true(grammar_mask(state, &mask));
    grammar_state_close(state);
    grammar_vocab_close(vocab);
    grammar_close(grammar);
    return good;
}

static void test_each_fails(void **state)
{
    (void)state;
    for (int source = 0; source < 3; source++) {
        struct err err;
        fail_alloc_at(INT64_MAX);
        assert_ok(use(source, &err), &err);
        int64_t n = fail_alloc_seen();
        fail_alloc_off();
        assert_true(n > 15);
        for (int64_t i = 1; i <= n; i++) {
            err = (struct err){ 0 };
            fail_alloc_at(i);
            bool good = use(source, &err);
            fail_alloc_off();
            if (good || err.code != ERR_MEMORY)
                fail_msg("source %d, allocation %d of %d: %s, code %d", source, (int)i, (int)n,
                         err.text, err.code);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
