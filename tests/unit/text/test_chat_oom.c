/* Each allocation of opening and rendering a template fails once: a clean error, no leak (ASan). */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include "host/base/json.h"
#include "host/text/chat.h"
#include <cjson/cJSON.h>

static const char SOURCE[] =
    "{% macro m(a, b=2) %}{{ a }}{{ caller() if caller else b }}{% endmacro %}"
    "{% for k, v in messages[0] | dictsort %}{{ m(k, b=v) | upper }}{{ loop.nextitem }}{% endfor %}"
    "{% call m(1) %}{{ 'x' * 40000 }}{% endcall %}{% set q %}{{ messages | tojson(indent=2) }}{% "
    "endset %}"
    "{{ q.split('\\n') | map('trim') | list }}{{ '%s|%5d' % (q, 3) }}{{ range(3000) | list | "
    "length }}";

static bool open_and_render(const struct cJSON *messages, struct err *err)
{
    static const char *const specials[] = { "<|im_end|>", "</s>" };
    struct chat_template *chat;
    struct chat_text out = { 0 };
    struct chat_input input = { .messages = messages };
    if (!chat_template_open(&chat, SOURCE, strlen(SOURCE), specials, 2, err))
        return false;
    bool good = chat_render(chat, &input, &out, err);
    if (good)
        assert_int_equal(out.n_barriers > 0, true);
    chat_text_clear(&out);
    chat_template_close(chat);
    return good;
}

static void test_each_fails(void **state)
{
    (void)state;
    static const char json[] =
        "[{\"role\":\"user\",\"content\":\"a<|im_end|>b\",\"n\":[1,{\"x\":null}]}]";
    struct cJSON *messages;
    struct err err;
    assert_ok(json_parse(json, strlen(json), &JSON_REQUEST_LIMITS, ERR_REQUEST, &messages, &err),
              &err);
    fail_alloc_at(INT64_MAX);
    assert_ok(open_and_render(messages, &err), &err);
    int64_t n = fail_alloc_seen();
    fail_alloc_off();
    assert_true(n > 10);
    for (int64_t i = 1; i <= n; i++) {
        err = (struct err){ 0 };
        fail_alloc_at(i);
        bool good = open_and_render(messages, &err);
        fail_alloc_off();
        if (good || err.code != ERR_MEMORY)
            fail_msg("allocation %d of %d: %s, code %d", (int)i, (int)n, err.text, err.code);
    }
    print_message("%d allocations\n", (int)n);
    json_free(messages);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
