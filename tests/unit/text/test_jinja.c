/* test_jinja.c - the template engine: what the reference data does not show. Scopes, macros,
 * numbers, error messages with their lines, and the budgets. */
#include "tests/support/support.h"
#include "host/base/clock.h"
#include "host/base/json.h"
#include "host/text/jinja.h"
#include <cjson/cJSON.h>

static const char CONTEXT[] =
    "{\"s\":\"héllo\",\"n\":3,\"f\":1.0,\"i\":1,\"big\":12345678901234567890,\"xs\":[1,2,3],"
    "\"d\":{\"a\":1,\"items\":2,\"n\":null},\"e\":1e2}";

/* Renders on CONTEXT; false with err set, also when the template does not parse. */
static bool render(const char *source, size_t length, struct buf *out, struct err *err)
{
    struct cJSON *context;
    struct jinja jinja;
    struct run run;
    *err = (struct err){ 0 };
    buf_init(out, JINJA_OUTPUT_MAX);
    assert_ok(
        json_parse(CONTEXT, strlen(CONTEXT), &JSON_REQUEST_LIMITS, ERR_REQUEST, &context, err),
        err);
    bool good = jinja_parse(&jinja, source, length, err);
    if (good) {
        good = run_init(&run, &jinja, out, 0, err);
        const struct cJSON *member;
        cJSON_ArrayForEach (member, context) {
            struct value value;
            good = good && value_from_json(&run, member, NULL, &value) &&
                   run_define(&run, member->string, value);
        }
        good = good && run_template(&run);
        run_clear(&run);
        jinja_clear(&jinja);
    }
    json_free(context);
    return good;
}

static const struct {
    const char *name, *source, *want;
} RENDERS[] = {
    { "nothing", "", "" },
    { "1.0 stays a float", "{{ f }} {{ i }} {{ e }}", "1.0 1 100.0" },
    { "integers beyond a double", "{{ big }} {{ big + 1 }}",
      "12345678901234567890 12345678901234567891" },
    { "floats as repr prints them", "{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e22 }}",
      "1e+16 1000000000000000.0 0.0001 1e-05 1e+22" },
    { "the smallest float", "{{ 5e-324 }} {{ 1.7976931348623157e308 }}",
      "5e-324 1.7976931348623157e+308" },
    { "a method wins over a key", "{{ d.items is callable }} {{ d['items'] }} {{ d.a }}",
      "True 2 1" },
    { "set in a loop is local",
      "{% set v = 1 %}{% for x in xs %}{% set v = x %}{% endfor %}{{ v }}", "1" },
    { "a loop starts each round fresh",
      "{% for x in xs %}{{ v is defined }} {% set v = x %}{% endfor %}", "False False False " },
    { "set in an if is not local", "{% if true %}{% set v = 2 %}{% endif %}{{ v }}", "2" },
    { "a macro sees what is set later",
      "{% macro m() %}{{ v }}{% endmacro %}{% set v = 7 %}{{ m() }}", "7" },
    { "a macro's names stay inside",
      "{% macro m() %}{% set v = 1 %}{% endmacro %}{{ m() }}{{ v is defined }}", "False" },
    { "macros made in a loop keep their round",
      "{% set ns = namespace(f=[]) %}{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}"
      "{% set ns.f = ns.f + [m] %}{% endfor %}{% for m in ns.f %}{{ m() }}{% endfor %}",
      "123" },
    { "defaults see earlier parameters", "{% macro m(a, b=a + 1) %}{{ b }}{% endmacro %}{{ m(4) }}",
      "5" },
    { "caller with arguments",
      "{% macro m() %}{{ caller(1) }}{{ caller(2) }}{% endmacro %}{% call(x) m() %}<{{ x }}>{% "
      "endcall %}",
      "<1><2>" },
    { "star arguments",
      "{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2], **{'c': 3}) }}",
      "123" },
    { "recursive loops",
      "{% for x in [1, [2, [3]], 4] recursive %}{{ loop(x) if x is not number else x }}"
      "{% endfor %}",
      "1234" },
    { "depth in recursive loops",
      "{% for x in [[[]]] recursive %}{{ loop.depth }}{{ loop(x) }}{% endfor %}", "12" },
    { "with sees the outer names",
      "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "211" },
    { "generation blocks are a scope",
      "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}", "1False" },
    { "an unknown filter that is never reached", "{% if false %}{{ 1 | nosuch }}{% endif %}ok",
      "ok" },
    { "cycler and joiner",
      "{% set c = cycler('a', 'b') %}{% set j = joiner('-') %}{% for x in xs %}{{ j() }}{{ "
      "c.next() }}{% endfor %}",
      "a-b-a" },
    { "characters, not bytes", "{{ s[1] }}{{ s[-1] }}{{ s | length }}{{ s[::-1] }}", "éo5olléh" },
    { "the final sigma", "{{ 'ΟΔΟΣ ΣΑΣ' | lower }}", "οδος σας" },
    { "strings grow in place",
      "{% set ns = namespace(t='') %}{% for x in range(1000) %}{% set ns.t = ns.t + 'ab' %}{% "
      "endfor %}{{ ns.t | length }}",
      "2000" },
    { "growing does not touch what shares the text",
      "{% set a = 'x' ~ 'y' %}{% set b = a ~ '1' %}{% set c = a ~ '2' %}{{ a }} {{ b }} {{ c }}",
      "xy xy1 xy2" },
    { "the largest integer", "{{ 170141183460469231731687303715884105727 }}",
      "170141183460469231731687303715884105727" },
    { "a clock of 1970", "{{ strftime_now('%Y-%m-%dT%H:%M:%S %Q') }}", "1970-01-01T00:00:00 %Q" },
    { "break inside a condition",
      "{% for x in xs %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1" },
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
    const char *name, *source;
    enum err_code code;
    const char *says;
} ERRORS[] = {
    { "the line of a syntax error", "a\nb\n{{ 1 + }}", ERR_FORMAT,
      "chat template line 3: expected an expression, got end of print statement" },
    { "the line of a wrong operation", "a\n\n{{ xs\n + 1 }}", ERR_REQUEST,
      "chat template line 3: unsupported operand type(s) for +: 'list' and 'int'" },
    { "an undefined name", "{{ nosuch.attr }}", ERR_REQUEST, "line 1: 'nosuch' is undefined" },
    { "an undefined attribute", "{{ d.b.c }}", ERR_REQUEST, "'dict object' has no attribute 'b'" },
    { "an unknown tag", "{% foo %}", ERR_FORMAT, "unknown tag 'foo'" },
    { "a tag that is refused", "{% include 'x' %}", ERR_FORMAT, "tag 'include' is not supported" },
    { "an unknown filter", "\n{{ s | nosuch }}", ERR_FORMAT, "line 2: no filter named 'nosuch'" },
    { "a filter that is refused", "{{ s | urlize }}", ERR_REQUEST,
      "filter 'urlize' is not supported" },
    { "an unknown test", "{{ s is nosuch }}", ERR_FORMAT, "no test named 'nosuch'" },
    { "a block without end", "x{% if s %}\n\ny", ERR_FORMAT, "line 1: the block that begins here" },
    { "a string without end", "{{ 'abc }}", ERR_FORMAT, "string without its closing '" },
    { "a tag without end", "{{ abc", ERR_FORMAT, "tag without its closing }}" },
    { "a comment without end", "{# abc", ERR_FORMAT, "comment without #}" },
    { "raw without end", "{% raw %} x", ERR_FORMAT, "raw block without endraw" },
    { "wrong brackets", "{{ (1] }}", ERR_FORMAT, "unexpected ']', expected ')'" },
    { "an escape that is half a character", "{{ '\\ud83d' }}", ERR_FORMAT,
      "U+D83D is not a character" },
    { "break outside of a loop", "{% break %}", ERR_FORMAT, "break outside of a loop" },
    { "break in a macro in a loop",
      "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", ERR_FORMAT,
      "break outside of a loop" },
    { "bytes that are not UTF-8", "a\xff", ERR_FORMAT, "not UTF-8 at byte 1" },
    { "too many for a macro", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", ERR_REQUEST,
      "macro 'm' takes not more than 1 argument(s)" },
    { "too few to unpack", "{% set a, b = [1] %}", ERR_REQUEST, "not enough values to unpack" },
    { "what would change a list", "{{ xs.append(1) }}", ERR_REQUEST,
      "access to attribute 'append' of 'list' object is unsafe" },
    { "the interpreter's insides", "{{ s.__class__.__mro__ }}", ERR_REQUEST, "is unsafe" },
    { "a division by zero", "{{ 1 // 0 }}", ERR_REQUEST, "division or modulo by zero" },
    { "an overflow", "{{ 2 ** 126 * 2 }}", ERR_REQUEST, "integer of more than 127 bits" },
    { "an overflow downwards", "{{ -(-(2 ** 126) * 2) }}", ERR_REQUEST, "more than 127 bits" },
    { "division of the lowest by -1", "{{ (-(2 ** 126) * 2) // -1 }}", ERR_REQUEST, "127 bits" },
    { "an exception", "{{ raise_exception('no\nsuch ' ~ n) }}", ERR_REQUEST, "no such 3" },
    { "an unhashable key", "{{ {[1]: 2} }}", ERR_REQUEST, "unhashable type: 'list'" },
    { "a namespace that is none", "{% set s.x = 1 %}", ERR_REQUEST, "non-namespace object" },
    /* budgets */
    { "a range too long", "{% for i in range(10**9) %}{% endfor %}", ERR_REQUEST, "Range too big" },
    { "loops in loops",
      "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", ERR_REQUEST,
      "more than 2000000 steps" },
    { "a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ERR_REQUEST,
      "more than 1000 levels" },
    { "a caller that calls itself",
      "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
      ERR_REQUEST, "more than 1000 levels" },
    { "lists in lists",
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}{{ ns.x }}",
      ERR_REQUEST, "more than 1000 levels" },
    { "lists in lists as JSON",
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}{{ ns.x | tojson }}",
      ERR_REQUEST, "more than 1000 levels" },
    { "lists in lists compared",
      "{% set ns = namespace(x=[], y=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
      "{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
      ERR_REQUEST, "more than 1000 levels" },
    { "a text that doubles",
      "{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% "
      "endfor %}",
      ERR_REQUEST, "more than 2000000 steps" },
    { "lists of a million", "{{ [[1] * 1050000, [2] * 1050000, [3] * 1050000] }}", ERR_REQUEST,
      "more than 96 MB of memory" },
    { "searches in a long list",
      "{% set t = range(100000) | list %}{% for i in range(90000) %}{{ -1 in t }}{% endfor %}",
      ERR_REQUEST, "more than 2000000 steps" },
    { "a long list shown again and again",
      "{% set t = range(100000) | list %}{% for i in range(90000) %}{% set v = t | string %}"
      "{% endfor %}",
      ERR_REQUEST, "more than 2000000 steps" },
    { "a text times a billion", "{{ 'x' * 1000000000 }}", ERR_REQUEST,
      "more than 96 MB of memory" },
    { "a list times a billion", "{{ [1] * (10 ** 30) }}", ERR_REQUEST,
      "more than 96 MB of memory" },
    { "an output without end",
      "{% set t = 'x' * 1000000 %}{% for i in range(20) %}{{ t }}{% endfor %}", ERR_REQUEST,
      "output of more than 16777216 bytes" },
    { "a wide format", "{{ '%2000000d' % 1 }}", ERR_REQUEST, "width is at most 100000" },
    { "a wide center", "{{ 'x' | center(10 ** 9) }}", ERR_REQUEST, "more than 96 MB of memory" },
    { "searches in a long text",
      "{% set t = 'x' * 4000000 %}{% for i in range(90000) %}{% if 'y' in t %}{% endif %}{% endfor "
      "%}",
      ERR_REQUEST, "more than 2000000 steps" },
    { "a replace that grows", "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}", ERR_REQUEST,
      "output of more than" },
};

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ERRORS / sizeof ERRORS[0]; i++) {
        struct buf out;
        struct err err;
        uint64_t start = clock_ms();
        if (render(ERRORS[i].source, strlen(ERRORS[i].source), &out, &err))
            fail_msg("%s: rendered", ERRORS[i].name);
        if (err.code != ERRORS[i].code || !strstr(err.text, ERRORS[i].says))
            fail_msg("%s: code %d, \"%s\"", ERRORS[i].name, err.code, err.text);
        if (clock_ms() - start > 10000)
            fail_msg("%s: took more than 10 s", ERRORS[i].name);
        buf_clear(&out);
    }
}

/* `times` of the middle between the ends. */
static void nested(const char *begin, const char *middle, int times, const char *end,
                   const char *says)
{
    struct buf source, out;
    struct err err;
    buf_init(&source, (size_t)8 << 20);
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

static void test_sources(void **state)
{
    (void)state;
    nested("{{ 1", " + 1", 300, " }}", NULL);
    nested("{{ 1", " + 1", 100000, " }}", "expression of more than 400 levels");
    nested("{{ 's'", " | upper", 100000, " }}", "expression of more than 400 levels");
    nested("{{ s", ".strip()", 100000, " }}", "expression of more than 400 levels");
    nested("{{ '' ", " ~ 'x'", 100000, " }}", NULL);
    nested("{{ ", "(", 100000, " }}", "more than 100 nested");
    nested("{{ ", "[", 100000, " }}", "more than 100 nested");
    nested("{{ ", "not ", 100000, "1 }}", "more than 100 nested");
    nested("{{ ", "- ", 100000, "1 }}", "more than 100 nested");
    nested("{{ 1", " if 1 else 1", 50000, " }}", "more than 100 nested");
    nested("", "{% if 1 %}", 100000, "", "more than 100 nested");
    nested("{% if 0 %}", "{% elif 0 %}", 50000, "{% endif %}", NULL);
    nested("{{ 1", " < 1", 100000, " }}", "more than 100 comparisons");
    nested("{{ dict(a=1", ", a=1", 100000, ") }}", "more than 100 named arguments");
    nested("", "{{ s }}", 100000, "", NULL);
    nested("", "{{ v", 1, " }}{% set a = 1 %}", NULL);
    nested("", "0123456789", 200000, "", "at most 1048576 are allowed");
}

/* Cut anywhere, a template ends in text or in an error, and reads nothing behind its end. */
static void test_truncated(void **state)
{
    (void)state;
    static const char source[] =
        "{%- macro m(a, b='\\u00e9') -%}{{ a ~ b | upper }}{%- endmacro -%}{# c #}{% raw %}{{{% "
        "endraw %}"
        "{% for k, v in d | dictsort if v is not none %}{{ m(k, b=xs[1:-1]) }}{{ {'x': 1.5e3}['x'] "
        "}}"
        "{% else %}-{% endfor %}{% set q %}{{ '%s' % s }}{% endset %}{{ q if q else not q }}";
    for (size_t n = 0; n < sizeof source; n++) {
        struct buf out;
        struct err err;
        char *copy = guard_copy(source, n);
        if (!render(copy, n, &out, &err))
            assert_true(err.text[0] != 0);
        buf_clear(&out);
        guard_free(copy, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_renders),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
