/* Each allocation of parsing a template fails, wherever in the template it falls: the arena asks
 * for memory a chunk at a time, so text of growing length in front moves the chunks' ends over
 * every node, name and string, and a sum of growing length moves the end of the array over every
 * token. */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include "host/base/buf.h"
#include "host/text/jinja.h"

static const char SOURCE[] =
    "{% macro m(a, b=2, c='x' 'y') %}{{ a }}{{ caller(1, *[2], **{'k': 3}) if caller else b }}"
    "{% endmacro %}{% call(x) m(1, b=-2.5) %}{{ x[1:2:3] }}{{ x.a.b.1 }}{% endcall %}"
    "{% if not 1 and 2 or 3 < 4 != 5 %}a{% elif x is divisibleby 3 %}b{% elif x is in [1] %}c"
    "{% else %}{% for k, v in d | dictsort(reverse=true) if v recursive %}{{ loop }}{% endfor %}"
    "{% endif %}{% set ns.a = 1 + 2 * 3 ** 4 ~ 'e\\u00e9' ~ 6 %}{% set q | upper | trim %}z"
    "{% endset %}{% with a = 1, b = (2, 3) %}{{ a }}{% endwith %}{% print 1, [2, 3, 4, 5, 6] %}"
    "{% filter upper %}f{% endfilter %}{% block t %}u{% endblock %}{% generation %}g{% "
    "endgeneration %}"
    "{{ {'a': 1, 'b': 2, 'c': 3} }}{% for x in y %}{% break %}{% else %}n{% endfor %}";

static enum err_code parse(const struct buf *source)
{
    struct jinja jinja;
    struct err err = { 0 };
    if (jinja_parse(&jinja, buf_text(source), source->length, &err)) {
        jinja_clear(&jinja);
        return ERR_NONE;
    }
    return err.code;
}

static int64_t n_failures;

static void each_fails(const char *filler, int times, const char *end)
{
    struct buf source;
    buf_init(&source, 1 << 20);
    buf_puts(&source, filler);
    for (int i = 0; i < times; i++)
        buf_puts(&source, end[0] == 0 ? "xxxxxxxxxxxxxxxx" : " + 1");
    buf_puts(&source, end);
    buf_puts(&source, SOURCE);
    (void)buf_text(&source);
    fail_alloc_at(INT64_MAX);
    enum err_code code = parse(&source);
    int64_t n = fail_alloc_seen();
    fail_alloc_off();
    assert_int_equal(code, ERR_NONE);
    assert_true(n > 5);
    for (int64_t i = 1; i <= n; i++) {
        fail_alloc_at(i);
        code = parse(&source);
        fail_alloc_off();
        if (code != ERR_MEMORY)
            fail_msg("%d fillers, allocation %d of %d: code %d", times, (int)i, (int)n, code);
        n_failures++;
    }
    buf_clear(&source);
}

static void test_each_node(void **state)
{
    (void)state;
    for (int pad = 0; pad <= 8192 / 16; pad++)
        each_fails("", pad, "");
}

static void test_each_token(void **state)
{
    (void)state;
    for (int terms = 0; terms < 256; terms++)
        each_fails(terms % 2 ? "x{{ 1" : "{{ 1", terms / 2, " }}");
    print_message("%d failures\n", (int)n_failures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_node),
        cmocka_unit_test(test_each_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
