/* Hostile grammars: each is refused (ERR_REQUEST, with a text) or done, within the limits of time
 * and memory, and what is done never gets stuck. */
#include "tests/unit/grammar/grammars.h"
#include <time.h>
#include "host/base/buf.h"

/* A source is head, n times left, middle, n times right, tail; '@' is the number of the copy, '~'
 * the number of the next. */
static const struct shape {
    const char *kind, *head, *left, *middle, *right, *tail;
} SHAPES[] = {
    { "regex", "", "(", "a", ")", "" },
    { "regex", "", "(?:", "a", ")*", "" },
    { "regex", "", "(", "a*", ")*", "b" },
    { "regex", "", "(", "", "", "" },
    { "regex", "", ")", "", "", "" },
    { "regex", "", "[", "", "", "" },
    { "regex", "", "a|", "", "", "" },
    { "regex", "", "(a|", "b", ")", "" },
    { "regex", "", "(", "a", "){1000}", "" },
    { "regex", "", "(", "a", "){0,1000}", "" },
    { "regex", "", "(", "a|b", ")+", "" },
    { "regex", "", "(a|ab|b)*", "", "", "" },
    { "regex", "", ".*a", "", "", "" },
    { "regex", "(", ".*", ")", "", "b" },
    { "regex", "(a|b)*a", "(a|b)", "", "", "" },
    { "regex", "", "[^a]{100}", "", "", "" },
    { "regex", "", "a{1000000}", "", "", "" },
    { "regex", "", "a{0,1000000}", "", "", "" },
    { "regex", "", "(a?b?){500}", "", "", "" },
    { "regex", "", "\\U0010ffff", "", "", "" },
    { "regex", "[", "\\u4e00-\\u9fff", "", "", "]" },
    { "regex", "", "^", "", "", "" },
    { "regex", "", "a?", "", "a", "" },
    { "regex", "", "a**", "", "", "" },
    { "regex", "", "(?=", "a", ")", "" },
    { "regex", "", "\\", "", "", "" },
    { "regex", "", "\xf0\x9f\x98\x80", "", "", "" },
    { "regex", "", "\xff", "", "", "" },
    { "gbnf", "root ::= ", "(", "\"a\"", ")", "" },
    { "gbnf", "root ::= ", "(", "\"a\"", ")*", "" },
    { "gbnf", "root ::= ", "(", "\"a\"", "){0,1000}", "" },
    { "gbnf", "root ::= ", "(", "", "", "" },
    { "gbnf", "root ::= r0\n", "r@ ::= r~\n", "r", "", " ::= \"a\"" },
    { "gbnf", "root ::= r0\n", "r@ ::= r~ \"x\"\n", "rz ::= \"a\"", "", "" },
    { "gbnf", "root ::= r0\n", "r@ ::= r~ r~\n", "", "", "" },
    { "gbnf", "root ::= r0\n", "r@ ::= \"(\" r~ \")\" | r~\n", "", "", "" },
    { "gbnf", "root ::= r0\n", "r@ ::= \"a\" r~ \"b\" | \"a\" r~ \"c\" | \"z\"\n", "", "", "" },
    { "gbnf", "root ::= \"x\"", " | root \"@\"", "", "", "" },
    { "gbnf", "root ::= \"x\"", " | \"y\" root \"@\"", "", "", "" },
    { "gbnf", "root ::= ", "s ", "", "", "\ns ::= [a-z]* | \"\"" },
    { "gbnf", "root ::= ", "s ", "", "", "\ns ::= \"\"" },
    { "gbnf", "root ::= \"a\" s\ns ::= \"\"", " | s@", "", "", "" },
    { "gbnf", "root ::= \"", "a", "\"", "", "" },
    { "gbnf", "root ::= \"a\"", "\n", "", "", "" },
    { "gbnf", "", "#", "", "", "" },
    { "gbnf", "root ::= [", "a-z", "]", "", "" },
    { "gbnf", "root ::= ", "\"a\"{1000} ", "", "", "" },
    { "gbnf", "root ::= a b | c d\na ::= \"x\"* b ::= a", "", "", "", "" },
    { "schema", "", "{\"items\":", "{}", "}", "" },
    { "schema", "", "{\"allOf\":[", "{}", "]}", "" },
    { "schema", "", "{\"anyOf\":[{\"type\":\"null\"},", "{}", "]}", "" },
    { "schema", "{\"enum\":[", "\"value @\",", "0", "", "]}" },
    { "schema", "{\"enum\":[", "@,", "0", "", "]}" },
    { "schema", "{\"const\":", "[", "", "]", "}" },
    { "schema", "{\"allOf\":[",
      "{\"anyOf\":[{\"minLength\":@},{\"maxLength\":@},{\"pattern\":\"@\"}]},", "{}", "", "]}" },
    { "schema", "{\"allOf\":[", "{\"pattern\":\"a.{@}b\"},", "{}", "", "]}" },
    { "schema", "{\"allOf\":[", "{\"multipleOf\":~},", "{}", "", "]}" },
    { "schema", "{\"oneOf\":[", "{\"const\":@},", "{\"type\":\"string\"}", "", "]}" },
    { "schema", "{\"oneOf\":[", "{\"type\":\"string\"},", "{}", "", "]}" },
    { "schema", "{\"properties\":{", "\"p@\":{},", "\"q\":{}", "", "}}" },
    { "schema", "{\"properties\":{", "\"p@\":{\"$ref\":\"#\"},", "\"q\":{}", "", "}}" },
    { "schema", "{\"additionalProperties\":{},\"properties\":{", "\"p@\":{\"type\":\"integer\"},",
      "\"q\":{}", "", "}}" },
    { "schema", "{\"required\":[", "\"p@\",", "\"q\"", "", "]}" },
    { "schema", "{\"minProperties\":9,\"maxProperties\":30,\"properties\":{", "\"p@\":{},",
      "\"q\":{}", "", "}}" },
    { "schema", "{\"patternProperties\":{", "\"a.{@}b\":{},", "\"q\":{}", "", "}}" },
    { "schema", "{\"prefixItems\":[", "{\"type\":\"integer\"},", "{}", "", "]}" },
    { "schema", "{\"$defs\":{", "\"d@\":{\"$ref\":\"#/$defs/d~\"},", "\"x\":{}", "",
      "},\"$ref\":\"#/$defs/d0\"}" },
    { "schema", "{\"$ref\":\"#", "/allOf/0", "\",\"allOf\":[{}]", "", "}" },
    { "schema", "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]", ",\"x-@\":1", "", "", "}" },
    { "schema", "{\"$ref\":\"#\"", ",\"x-@\":1", "", "", "}" },
    { "schema", "{\"items\":{\"$ref\":\"#\"},\"minItems\":1", ",\"x-@\":1", "", "", "}" },
    { "schema", "{\"minLength\":", "9", "", "", "}" },
    { "schema", "{\"maxLength\":1", "0", "", "", "}" },
    { "schema", "{\"minimum\":1", "0", "", "", "}" },
    { "schema", "{\"maximum\":-0.", "0", "1", "", ",\"type\":\"number\"}" },
    { "schema", "{\"type\":\"string\",\"pattern\":\"", "(", "a", ")*", "\"}" },
    { "schema", "{\"maxLength\":100000,\"pattern\":\"", "[ab]*a", "", "", "\"}" },
    { "schema", "{\"type\":[", "\"string\",", "\"null\"", "", "]}" },
    { "schema",
      "{\"items\":{\"items\":{\"maxItems\":1000000},\"maxItems\":1000000},\"maxItems\":1000000",
      ",\"x-@\":1", "", "", "}" },
    { "choice", "", "value @\n", "", "", "" },
    { "choice", "", "a", "", "", "" },
};
static const int COUNTS[] = { 1, 60, 3000, 20000, 60000 };

static void put(struct buf *buf, const char *text, int n)
{
    for (int i = 0; i < n; i++)
        for (const char *c = text; *c; c++) {
            if (*c == '@' || *c == '~')
                buf_printf(buf, "%d", *c == '@' ? i : i + 1);
            else
                buf_putc(buf, *c);
        }
}

static bool compile_choice(struct grammar **grammar, const struct buf *source, struct err *err)
{
    static struct grammar_text texts[70000];
    size_t n = 0;
    for (size_t at = 0; at < source->length; n++) {
        const char *end = memchr(source->bytes + at, '\n', source->length - at);
        size_t stop = end ? (size_t)(end - source->bytes) : source->length;
        texts[n] = (struct grammar_text){ source->bytes + at, stop - at };
        at = stop + 1;
    }
    return grammar_compile_choice(grammar, texts, n, &GRAMMAR_LIMITS, err);
}

static bool compile(struct grammar **grammar, const char *kind, const struct buf *source,
                    struct err *err)
{
    const char *text = buf_text(source);
    if (strcmp(kind, "regex") == 0)
        return grammar_compile_regex(grammar, text, source->length, &GRAMMAR_LIMITS, err);
    if (strcmp(kind, "gbnf") == 0)
        return grammar_compile_gbnf(grammar, text, source->length, &GRAMMAR_LIMITS, err);
    if (strcmp(kind, "choice") == 0)
        return compile_choice(grammar, source, err);
    return grammar_compile_schema(grammar, text, source->length, NULL, &GRAMMAR_LIMITS, err);
}

static double cpu_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void walk(const struct grammar *grammar, struct grammar_vocab *vocab, uint64_t seed)
{
    struct grammar_state *place;
    struct err err;
    uint32_t mask[(TEST_TOKENS + 31) / 32];
    assert_ok(grammar_state_open(&place, grammar, vocab, &err), &err);
    for (int n = 0; n < 12; n++) {
        int32_t allowed[TEST_TOKENS], n_allowed = 0;
        assert_true(grammar_mask(place, mask));
        for (int32_t token = 0; token < TEST_TOKENS; token++)
            if (mask[token >> 5] >> (token & 31) & 1)
                allowed[n_allowed++] = token;
        int32_t token = allowed[(int)(rng_uniform(seed, 9, (uint64_t)n) * (double)n_allowed)];
        assert_true(grammar_advance(place, token));
        if (token == TEST_EOS)
            break;
    }
    grammar_state_close(place);
}

static void test_shapes(void **state)
{
    struct grammar_vocab *vocab = test_vocab(1 << 21);
    struct buf source;
    int n_done = 0, n_refused = 0;
    double slowest = 0;
    (void)state;
    buf_init(&source, (size_t)8 << 20);
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++)
        for (size_t k = 0; k < sizeof COUNTS / sizeof COUNTS[0]; k++) {
            const struct shape *shape = &SHAPES[i];
            struct grammar *grammar;
            struct err err = { 0 };
            buf_reset(&source);
            put(&source, shape->head, 1);
            put(&source, shape->left, COUNTS[k]);
            put(&source, shape->middle, 1);
            put(&source, shape->right, COUNTS[k]);
            put(&source, shape->tail, 1);
            assert_false(source.failed);
            double from = cpu_seconds();
            if (compile(&grammar, shape->kind, &source, &err)) {
                walk(grammar, vocab, i);
                grammar_close(grammar);
                n_done++;
            } else {
                if (err.code != ERR_REQUEST && err.code != ERR_TOO_LARGE)
                    fail_msg("%s %s: code %d, %s", shape->kind, shape->left, (int)err.code,
                             err.text);
                assert_true(err.text[0] != 0);
                assert_null(grammar);
                n_refused++;
            }
            double took = cpu_seconds() - from;
            slowest = took > slowest ? took : slowest;
            if (took > 4)
                fail_msg("%s %s%s x %d: %.1f s", shape->kind, shape->head, shape->left, COUNTS[k],
                         took);
        }
    printf("%d done, %d refused, slowest %.2f s\n", n_done, n_refused, slowest);
    assert_true(n_done + n_refused >= 200);
    buf_clear(&source);
    grammar_vocab_close(vocab);
}

/* Small limits stop everything, exactly. */
static void test_limits(void **state)
{
    static const char pattern[] = "(abc|def){3}[a-z]{2,9}";
    static const struct {
        const char *name;
        struct grammar_limits limits;
    } rows[] = {
        { "the grammar has 22 bytes, want at most 10", { 10, 200, 1000, 100000, 0, 1 << 20 } },
        { "nested more than 0 deep", { 100, 0, 1000, 100000, 0, 1 << 20 } },
        { "more than 5 states", { 100, 200, 5, 100000, 0, 1 << 20 } },
        { "more than 30 steps", { 100, 200, 1000, 30, 0, 1 << 20 } },
        { "more than 2000 bytes", { 100, 200, 1000, 100000, 0, 2000 } },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct grammar *grammar;
        struct err err;
        ASSERT_REFUSED(
            grammar_compile_regex(&grammar, pattern, strlen(pattern), &rows[i].limits, &err), &err,
            rows[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_shapes),
                                        cmocka_unit_test(test_limits) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
