/* test_jinja_syntax.c - the template language as written: what the lexer reads (numbers, escapes,
 * names, whitespace control) and every refusal of the lexer and the parser, with its line. */
#include "tests/support/support.h"
#include "host/text/jinja.h"

static bool render(const char *source, size_t length, struct buf *out, struct err *err)
{
    struct jinja jinja;
    struct run run;
    *err = (struct err){ 0 };
    buf_init(out, JINJA_OUTPUT_MAX);
    if (!jinja_parse(&jinja, source, length, err))
        return false;
    bool good = run_init(&run, &jinja, out, 0, err) && run_template(&run);
    run_clear(&run);
    jinja_clear(&jinja);
    return good;
}

static const struct {
    const char *name, *source, *want;
} RENDERS[] = {
    /* whitespace */
    { "line ends become one kind", "a\rb\r\nc\n\r", "a\nb\nc\n" },
    { "a plus keeps the newline", "{% if 1 +%}\nx{% endif %}", "\nx" },
    { "a plus keeps the blanks in front", "a\n  {%+ if 1 %}x{% endif %}", "a\n  x" },
    { "without a plus both go", "a\n  {% if 1 %}\nx{% endif %}", "a\nx" },
    { "a minus takes blanks behind raw", "{% raw -%}  {{ x }}{% endraw %}", "{{ x }}" },
    { "a minus takes blanks before endraw", "{% raw %}{{ x }}  {%- endraw %}", "{{ x }}" },
    { "a plus keeps blanks before endraw", "{% raw %}\n  {%+ endraw %}", "\n  " },
    { "what raw holds is no tag", "{%- raw %}{% if %}{% endrawx %}{%+ endraw -%} y",
      "{% if %}{% endrawx %}y" },
    { "rawx is not raw", "{% if 1 %}{% set rawx = 1 %}{{ rawx }}{% endif %}", "1" },
    { "braces that open nothing", "{ {x {", "{ {x {" },
    /* numbers */
    { "bases", "{{ 0x1F }} {{ 0XfF }} {{ 0o17 }} {{ 0b101 }} {{ 0x_1f }} {{ 0 }}",
      "31 255 15 5 31 0" },
    { "underscores between digits", "{{ 1_000 }} {{ 0b1_1 }} {{ 1_0.2_5 }}", "1000 3 10.25" },
    { "exponents", "{{ 1e+2 }} {{ 1E-2 }} {{ 2e1 }}", "100.0 0.01 20.0" },
    { "a number as an attribute", "{{ [1, [2, 3]].1.0 }}", "2" },
    { "the largest integer", "{{ 170141183460469231731687303715884105727 }}",
      "170141183460469231731687303715884105727" },
    /* strings */
    { "escapes of one letter", "{{ '\\n\\t\\\\\\'\\\"\\a\\b\\f\\v\\r' }}", "\n\t\\'\"\a\b\f\v\r" },
    { "escapes by code", "{{ '\\x41\\u00e9\\U0001F600\\ue000' }}", "Aé😀\xee\x80\x80" },
    { "octal escapes", "{{ '\\101\\1011\\7z\\61 \\68\\400' }}",
      "AA1\az1 \x06"
      "8Ā" },
    { "an octal escape at the end", "{{ '\\7' }}", "\a" },
    { "an escaped line end", "{{ 'a\\\nb' }}", "ab" },
    { "no escapes", "{{ '\\q\\8\\/' }}", "\\q\\8\\/" },
    { "strings side by side", "{{ 'a' \"b\" 'c' }}", "abc" },
    { "a string of nothing, twice", "{{ '' '' }}", "" },
    /* names: letters and letter numbers; then marks, digits and connectors too */
    { "names of letters", "{% set é = 1 %}{% set _x9 = 2 %}{{ é }}{{ _x9 }}", "12" },
    { "a letter number", "{% set Ⅷ = 8 %}{{ Ⅷ }}", "8" },
    { "marks, digits, connectors",
      "{% set a\xcc\x81\xe0\xa4\x83\xd9\xa0\xe2\x80\xbf = 3 %}"
      "{{ a\xcc\x81\xe0\xa4\x83\xd9\xa0\xe2\x80\xbf }}",
      "3" },
    /* statements */
    { "constants in both spellings",
      "{{ True }}{{ False }}{{ None }}{{ true }}{{ false }}{{ none }}",
      "TrueFalseNoneTrueFalseNone" },
    { "print with several", "{% print 1, 'a', 2 %}", "1a2" },
    { "print with nothing", "{% print %}x", "x" },
    { "set with filters", "{% set x | upper | replace('A', 'b') %}a{{ 1 }}c{% endset %}{{ x }}",
      "b1C" },
    { "a filter block", "{% filter upper | trim %} a {% endfilter %}", "A" },
    { "a named block", "{% block a scoped required %}x{% endblock a %}{% block b %}y{% endblock %}",
      "xy" },
    { "a list with a comma at its end", "{{ [1, 2,] }} {{ (1,) }} {{ () }} {{ {'a': 1,} }}",
      "[1, 2] (1,) () {'a': 1}" },
    { "a call with a comma at its end", "{{ dict(a=1,) }}", "{'a': 1}" },
    { "slices", "{{ 'abcdef'[1:5:2] }} {{ 'abc'[:] }} {{ 'abc'[::2] }} {{ 'abc'[1:] }}",
      "bd abc ac bc" },
    { "tests with an argument behind them",
      "{{ 4 is divisibleby 2 }} {{ 'a' is eq 'a' }} {{ 1.5 is gt 1.0 }} {{ 1 is in [1] }} "
      "{{ 'k' is in {'k': 1} }} {{ 1 is odd or 0 }} {{ 1 is odd and 1 }} {{ 3 is not none }}",
      "True True True True True True 1 True" },
    { "a test's argument in an if", "{% if 1 is eq 1 %}y{% endif %}{{ 'a' if 1 is odd else 'b' }}",
      "ya" },
    { "what a filter gave is called", "{{ nosuch | default(dict)(a=1) }}", "{'a': 1}" },
    { "an attribute of a number", "<{{ 1.a }}>", "<>" },
    { "filters called", "{{ 'a,b' | replace(',', ';') }}{{ (dict | string)[:1] }}", "a;b<" },
    { "not in", "{{ 1 not in [2] }} {{ not 1 in [2] }}", "True True" },
    { "powers and signs", "{{ 2 ** 3 ** 2 }} {{ -2 }} {{ +3 }} {{ - - 1 }}", "64 -2 3 1" },
    { "unpacking loops", "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }};{% endfor %}",
      "12;34;" },
    { "loops with conditions and nothing to do",
      "{% for a in [1, 2] if a > 5 %}{{ a }}{% else %}none{% endfor %}", "none" },
    { "varargs and kwargs",
      "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, b=3) }}",
      "1(2,){'b': 3}" },
};

static void test_renders(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof RENDERS / sizeof RENDERS[0]; i++) {
        struct buf out;
        struct err err;
        if (!render(RENDERS[i].source, strlen(RENDERS[i].source), &out, &err))
            fail_msg("%s: %s", RENDERS[i].name, err.text);
        if (strcmp(buf_text(&out), RENDERS[i].want) != 0)
            fail_msg("%s: got \"%s\"", RENDERS[i].name, buf_text(&out));
        buf_clear(&out);
    }
}

static const struct {
    const char *source, *says;
} ERRORS[] = {
    /* the lexer */
    { "{{ 170141183460469231731687303715884105728 }}", "line 1: integer of more than 127 bits" },
    { "{{ 1701411834604692317316873037158841057270 }}", "line 1: integer of more than 127 bits" },
    { "\n{{ '\\x4' }}", "line 2: truncated escape in a string" },
    { "{{ '\\xzz' }}", "line 1: truncated escape in a string" },
    { "{{ '\\U00110000' }}", "line 1: escape U+110000 is not a character" },
    { "{{ '\\N{DASH}' }}", "line 1: \\N{...} escapes are not supported" },
    { "{{ a$ }}", "line 1: unexpected character '$' in a tag" },
    { "{{ ! }}", "line 1: unexpected character '!' in a tag" },
    { "{{ \x01 }}", "line 1: unexpected character in a tag" },
    { "{{ \x7f }}", "line 1: unexpected character in a tag" },
    { "{{ \xcc\x81 }}", "line 1: unexpected character in a tag" },      /* a mark begins no name */
    { "{{ a\xe2\x82\xac }}", "line 1: unexpected character in a tag" }, /* nor is a sign in one */
    { "{{ a\xcd\xb8 }}", "line 1: unexpected character in a tag" }, /* nor what is not assigned */
    { "{{ ) }}", "line 1: unexpected ')'" },
    { "{{ (} }}", "line 1: unexpected '}', expected ')'" },
    { "{{ 0xg }}", "line 1: expected end of print statement, got 'xg'" },
    { "{{ 0x__1 }}", "line 1: expected end of print statement, got 'x__1'" },
    { "{{ 1 +}}", "line 1: expected an expression, got end of print statement" },
    { "{{ 1e", "line 1: tag without its closing }}" },
    { "{{ f(a b) }}", "line 1: expected ',', got 'b'" },
    { "{{ 1__0 }}", "line 1: expected end of print statement, got '__0'" },
    { "{{ 1_ }}", "line 1: expected end of print statement, got '_'" },
    { "{{ 1_a }}", "line 1: expected end of print statement, got '_a'" },
    { "{{ 1e }}", "line 1: expected end of print statement, got 'e'" },
    { "{{ 0", "line 1: tag without its closing }}" },
    { "{{ 0x", "line 1: tag without its closing }}" },
    { "{{ 1_", "line 1: tag without its closing }}" },
    { "{{ 'a\\", "line 1: string without its closing '" },
    { "{% raw x %}", "line 1: unknown tag 'raw'" },
    { "{% raw %}{% endraw", "line 1: raw block without endraw" },
    { "{% raw %}{% ", "line 1: raw block without endraw" },
    { "{%", "line 1: tag without its closing %}" },
    { "{#", "line 1: comment without #}" },
    /* what stands where something else should */
    { "{{ }}", "line 1: expected an expression, got end of print statement" },
    { "{{ 1 'x' }}", "line 1: expected end of print statement, got a string" },
    { "{{ 1 2 }}", "line 1: expected end of print statement, got a number" },
    { "{{ 1 2.5 }}", "line 1: expected end of print statement, got a number" },
    { "{{ 1 = 2 }}", "line 1: expected end of print statement, got '='" },
    { "{{ ** }}", "line 1: expected an expression, got '**'" },
    { "{{ 1 aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff }}",
      "got 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeee'" },
    { "{% 1 %}", "line 1: expected a tag's name, got a number" },
    { "{% aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg %}",
      "unknown tag 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg'" },
    { "{% endif %}", "line 1: unknown tag 'endif'" },
    { "{% break 1 %}", "line 1: break outside of a loop" },
    { "{% continue %}", "line 1: continue outside of a loop" },
    { "{% for x in y %}{% break 1 %}{% endfor %}",
      "line 1: expected end of statement block, got a number" },
    /* set */
    { "{% set = 1 %}", "line 1: expected an expression, got '='" },
    { "{% set a.1 = 2 %}", "line 1: expected a name, got a number" },
    { "{% set a[0] = 2 %}", "line 1: expected end of statement block, got '['" },
    { "{% set 1 = 2 %}", "line 1: cannot assign to this expression" },
    { "{% set a, 'b' = 2 %}", "line 1: cannot assign to this expression" },
    { "{% set a = %}", "line 1: expected an expression, got end of statement block" },
    { "{% set a | nosuch %}{% endset %}", "line 1: no filter named 'nosuch'" },
    { "{% set a | upper = 1 %}", "line 1: expected end of statement block, got '='" },
    { "{% set a %}{% endfor %}", "line 1: unknown tag 'endfor'" },
    /* if, for */
    { "{% if %}{% endif %}", "line 1: expected an expression, got end of statement block" },
    { "{% if 1 2 %}{% endif %}", "line 1: expected end of statement block, got a number" },
    { "{% if 1 %}{% else 2 %}{% endif %}",
      "line 1: expected end of statement block, got a number" },
    { "{% if 1 %}{% elif %}{% endif %}", "expected an expression, got end of statement block" },
    { "{% if 1 %}{% endif 2 %}", "line 1: expected end of statement block, got a number" },
    { "{% if 1 %}\n{% else %}x",
      "line 2: the block that begins here lacks its end (one of: endif)" },
    { "{% for in x %}{% endfor %}", "line 1: expected an expression, got 'in'" },
    { "{% for 1 in x %}{% endfor %}", "line 1: cannot assign to this expression" },
    { "{% for a of x %}{% endfor %}", "line 1: expected 'in', got 'of'" },
    { "{% for a in %}{% endfor %}", "line 1: expected an expression, got end of statement block" },
    { "{% for a in b if %}{% endfor %}",
      "line 1: expected an expression, got end of statement block" },
    { "{% for a in b recursive 1 %}{% endfor %}",
      "line 1: expected end of statement block, got a number" },
    { "{% for a in b %}x{% else %}y", "lacks its end (one of: endfor)" },
    /* macro, call, filter, with, block, print */
    { "{% macro 1() %}{% endmacro %}", "line 1: expected the macro's name, got a number" },
    { "{% macro m %}{% endmacro %}", "line 1: expected '(', got end of statement block" },
    { "{% macro m(a b) %}{% endmacro %}", "line 1: expected ',', got 'b'" },
    { "{% macro m(1) %}{% endmacro %}", "line 1: expected a parameter's name, got a number" },
    { "{% macro m(true) %}{% endmacro %}", "line 1: expected a parameter's name, got 'true'" },
    { "{% macro m(a=) %}{% endmacro %}", "line 1: expected an expression, got ')'" },
    { "{% macro m(a=1, b) %}{% endmacro %}",
      "line 1: a parameter without default behind one with a default" },
    { "{% macro m() 1 %}{% endmacro %}", "line 1: expected end of statement block, got a number" },
    { "{% call(1) m() %}{% endcall %}", "line 1: expected a parameter's name, got a number" },
    { "{% call %}{% endcall %}", "line 1: expected an expression, got end of statement block" },
    { "{% call m %}{% endcall %}", "line 1: call needs a call" },
    { "{% filter nosuch %}{% endfilter %}", "line 1: no filter named 'nosuch'" },
    { "{% filter %}{% endfilter %}", "line 1: expected a name, got end of statement block" },
    { "{% with a = 1 b = 2 %}{% endwith %}", "line 1: expected ',', got 'b'" },
    { "{% with 1 = 2 %}{% endwith %}", "line 1: cannot assign to this expression" },
    { "{% with a 2 %}{% endwith %}", "line 1: expected '=', got a number" },
    { "{% with a = %}{% endwith %}", "line 1: expected an expression, got end of statement block" },
    { "{% block 'a' %}{% endblock %}", "line 1: expected the block's name, got a string" },
    { "{% block a b %}{% endblock %}", "line 1: expected end of statement block, got 'b'" },
    { "{% print 1 2 %}", "line 1: expected ',', got a number" },
    { "{% print / %}", "line 1: expected an expression, got '/'" },
    /* expressions */
    { "{{ [1 2] }}", "line 1: expected ',', got a number" },
    { "{{ [/] }}", "line 1: expected an expression, got '/'" },
    { "{{ {1} }}", "line 1: expected ':', got '}'" },
    { "{{ {1: } }}", "line 1: expected an expression, got '}'" },
    { "{{ (1 2) }}", "line 1: expected ')', got a number" },
    { "{{ (/) }}", "line 1: expected an expression, got '/'" },
    { "{{ x[] }}", "line 1: expected an index, got ']'" },
    { "{{ x[1:2:3:4] }}", "line 1: expected ']', got a number" },
    { "{{ x[1 2] }}", "line 1: expected ']', got a number" },
    { "{{ x[/] }}", "line 1: expected an expression, got '/'" },
    { "{{ x.'a' }}", "line 1: expected name or number, got a string" },
    { "{{ f(a=1, 2) }}", "line 1: expected a named argument, got a number" },
    { "{{ f(*a, 2) }}", "line 1: expected a named argument, got a number" },
    { "{{ f(*a, *b) }}", "line 1: expected one * argument, got 'b'" },
    { "{{ f(**a, **b) }}", "line 1: expected one ** argument, got 'b'" },
    { "{{ f(**a, b) }}", "line 1: expected ')' behind a ** argument, got 'b'" },
    { "{{ f(*/) }}", "line 1: expected an expression, got '/'" },
    { "{{ f(**/) }}", "line 1: expected an expression, got '/'" },
    { "{{ f(a=/) }}", "line 1: expected an expression, got '/'" },
    { "{{ f(1 2) }}", "line 1: expected ',', got a number" },
    { "{{ f(/) }}", "line 1: expected an expression, got '/'" },
    { "{{ x | 1 }}", "line 1: expected a name, got a number" },
    { "{{ x | a.b }}", "line 1: no filter or test 'a.'..." },
    { "{{ x | aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg.b }}",
      "no filter or test 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg.'..." },
    { "{{ x | aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg }}",
      "no filter named 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg'" },
    { "{{ x | upper(/) }}", "line 1: expected an expression, got '/'" },
    { "{{ x is 1 }}", "line 1: expected a name, got a number" },
    { "{{ x is eq(/) }}", "line 1: expected an expression, got '/'" },
    { "{{ x is eq [/] }}", "line 1: expected an expression, got '/'" },
    { "{{ x is odd is odd }}", "line 1: tests cannot be chained with is" },
    { "{{ -/ }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 * / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 ** / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 ~ / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 + / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 < / }}", "line 1: expected an expression, got '/'" },
    { "{{ not / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 not 2 }}", "line 1: expected end of print statement, got 'not'" },
    { "{{ 1 and / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 or / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 if / }}", "line 1: expected an expression, got '/'" },
    { "{{ 1 if 2 else / }}", "line 1: expected an expression, got '/'" },
};

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ERRORS / sizeof ERRORS[0]; i++) {
        struct buf out;
        struct err err;
        size_t length = strlen(ERRORS[i].source);
        char *copy = guard_copy(ERRORS[i].source, length);
        if (render(copy, length, &out, &err))
            fail_msg("%s: rendered", ERRORS[i].source);
        if (err.code != ERR_FORMAT || !strstr(err.text, ERRORS[i].says))
            fail_msg("%s: code %d, \"%s\"", ERRORS[i].source, err.code, err.text);
        guard_free(copy, length);
        buf_clear(&out);
    }
}

static void refused(const char *source, size_t length, const char *says)
{
    struct buf out;
    struct err err;
    assert_false(render(source, length, &out, &err));
    assert_non_null(strstr(err.text, says));
    buf_clear(&out);
}

/* `times` of the middle between the ends. */
static void repeated(const char *begin, const char *middle, int times, const char *end,
                     const char *says)
{
    struct buf source, out;
    struct err err;
    buf_init(&source, (size_t)1 << 20);
    buf_puts(&source, begin);
    for (int i = 0; i < times; i++)
        buf_puts(&source, middle);
    buf_puts(&source, end);
    bool good = render(buf_text(&source), source.length, &out, &err);
    if (says ? good || !strstr(err.text, says) : !good)
        fail_msg("%d x \"%s\": %s", times, middle, good ? "rendered" : err.text);
    buf_clear(&out);
    buf_clear(&source);
}

static void brackets(bool in_block, const char *open, const char *close, int times,
                     const char *says)
{
    char begin[512] = "";
    for (int i = 0; i < times; i++)
        strcat(begin, open);
    char source[600];
    snprintf(source, sizeof source, "{%% %s %%}{{ %s1", in_block ? "if 0" : "set x = 1", begin);
    repeated(source, close, times, in_block ? " }}{% endif %}" : " }}", says);
}

/* More names than the first table of names has room for. */
static void test_names(void **state)
{
    (void)state;
    struct buf source, out;
    struct err err;
    buf_init(&source, 1 << 16);
    for (int i = 0; i < 200; i++)
        buf_printf(&source, "{%% set name%d = %d %%}", i, i);
    buf_puts(&source, "{{ name0 }},{{ name63 }},{{ name64 }},{{ name199 }}");
    assert_ok(render(buf_text(&source), source.length, &out, &err), &err);
    assert_string_equal(buf_text(&out), "0,63,64,199");
    buf_clear(&out);
    buf_clear(&source);
}

static void test_bounds(void **state)
{
    (void)state;
    repeated("{{ 0.", "1", 509, " }}", NULL); /* 511 characters */
    repeated("{{ 0.", "1", 510, " }}", "number of more than 511 characters");
    repeated("{% macro m(a", ", a", 99, ") %}{% endmacro %}", NULL);
    repeated("{% macro m(a", ", a", 100, ") %}{% endmacro %}", "more than 100 parameters");
    repeated("", "{% macro m() %}", 100, "", "the block that begins here lacks its end");
    repeated("", "{% macro m() %}", 101, "", "more than 100 nested levels");
    repeated("", "{% call m() %}", 101, "", "more than 100 nested levels");
    brackets(0, "[", "]", 100, NULL);
    brackets(0, "[", "]", 101, "more than 100 nested brackets");
    brackets(1, "[", "]", 100, "more than 100 nested levels");
    brackets(1, "x[", "]", 100, "more than 100 nested levels");
    brackets(1, "f(", ")", 100, "more than 100 nested levels");
    /* x.a.a.a... of 400 levels, the most there are: nothing may stand above it. */
    static const struct {
        const char *begin, *end;
    } above[] = {
        { "[", "]" },
        { "{1: ", "}" },
        { "f(", ")" },
        { "f(*", ")" },
        { "f(**", ")" },
        { "f(a=", ")" },
        { "(", ")" },
        { "x[", "]" },
        { "x is eq(", ")" },
        { "x | abs(", ")" },
        { "x is eq ", "" },
        { "x is eq [", "]" },
        { "-", "" },
        { "not ", "" },
        { "1 == ", "" },
        { "1 ~ ", "" },
        { "1 + ", "" },
        { "1 * ", "" },
        { "1 ** ", "" },
        { "1 and ", "" },
        { "1 or ", "" },
        { "1 if ", "" },
        { "1 if 1 else ", "" },
        { "", " == 1" },
        { "", " ~ 1" },
        { "", " + 1" },
        { "", " and 1" },
        { "", " if 1" },
        { "", " | abs" },
        { "", " is odd" },
        { "", "()" },
        { "", "[1]" },
        { "", ".a" },
        { "", ".1" },
        { "", "" },
    };
    for (size_t i = 0; i < sizeof above / sizeof *above; i++) {
        char begin[64], end[64];
        snprintf(begin, sizeof begin, "{%% if 0 %%}{{ %sx", above[i].begin);
        snprintf(end, sizeof end, "%s }}{%% endif %%}", above[i].end);
        repeated(begin, ".a", 396, end, NULL);
        repeated(begin, ".a", 399, end, "line 1: expression of more than 400 levels");
    }
    repeated("{% print 1", ", 1", 399, " %}", NULL);
    refused("{{ \0 }}", 7, "line 1: unexpected character in a tag");
    refused("{\0{{", 4, "line 1: tag without its closing }}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_renders),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
