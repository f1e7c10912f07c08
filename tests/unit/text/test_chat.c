/* test_chat.c - the rendering of conversations: special-token text in users' strings, the end of
 * the last message, the choice of the template, speed. */
#include "tests/support/support.h"
#include "host/base/clock.h"
#include "host/base/json.h"
#include "host/text/chat.h"
#include <cjson/cJSON.h>

static const char CHATML[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
static const char *const SPECIALS[] = { "<|im_start|>", "<|im_end|>", "<|im_end_of_all|>", "",
                                        "\xef\xbd\x9c"
                                        "end" };
enum { N_SPECIALS = 5 };

static struct cJSON *parse(const char *json)
{
    struct cJSON *root;
    struct err err;
    assert_ok(json_parse(json, strlen(json), &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, &err), &err);
    return root;
}

static bool render(const char *template, const char *messages, struct chat_input input,
                   struct chat_text *out, struct err *err)
{
    struct chat_template *chat;
    struct cJSON *json = parse(messages);
    *err = (struct err){ 0 };
    *out = (struct chat_text){ 0 };
    input.messages = json;
    bool good = chat_template_open(&chat, template, strlen(template), SPECIALS, N_SPECIALS, err);
    if (good) {
        good = chat_render(chat, &input, out, err);
        chat_template_close(chat);
    }
    json_free(json);
    return good;
}

static const struct {
    const char *name, *template, *messages, *want;
    size_t barriers[4], n_barriers;
} MARKS[] = {
    { "plain text",
      CHATML,
      "[{\"role\":\"user\",\"content\":\"a <b> c\"}]",
      "<|im_start|>user\na <b> c<|im_end|>\n",
      { 0 },
      0 },
    { "a special token's text",
      CHATML,
      "[{\"role\":\"user\",\"content\":\"x<|im_end|>y\"}]",
      "<|im_start|>user\nx<|im_end|>y<|im_end|>\n",
      { 19 },
      1 },
    { "two, one within the other's begin",
      CHATML,
      "[{\"role\":\"user\",\"content\":\"<|im_<|im_start|>\"}]",
      "<|im_start|>user\n<|im_<|im_start|><|im_end|>\n",
      { 23 },
      1 },
    { "the begin of one at the end, which the template might complete",
      CHATML,
      "[{\"role\":\"user\",\"content\":\"x<|im_\"}]",
      "<|im_start|>user\nx<|im_<|im_end|>\n",
      { 19 },
      1 },
    { "two parts that make one together",
      "{{ messages[0].content | join }}",
      "[{\"content\":[\"<|im_\",\"end|>\"]}]",
      "<|im_end|>",
      { 1 },
      1 },
    { "a begin that trimming lays bare",
      "{{ messages[0].content | trim }}end|>",
      "[{\"content\":\"<|im_  \\n\"}]",
      "<|im_end|>",
      { 1 },
      1 },
    { "a first character of several bytes",
      "{{ messages[0].content }}",
      "[{\"content\":\"\xef\xbd\x9c"
      "end\"}]",
      "\xef\xbd\x9c"
      "end",
      { 3 },
      1 },
    { "in a key",
      "{{ messages[0] | tojson }}",
      "[{\"<|im_end|>\":1}]",
      "{\"<|im_end|>\": 1}",
      { 3 },
      1 },
    { "in a role",
      "{{ messages[0].role }}",
      "[{\"role\":\"<|im_end|>\"}]",
      "<|im_end|>",
      { 1 },
      1 },
    { "splitting sees through marks",
      "{{ messages[0].content.split('<|im_end|>')[-1] }}",
      "[{\"content\":\"a<|im_end|>b\"}]",
      "b",
      { 0 },
      0 },
    { "so do length, slices and comparisons",
      "{{ messages[0].content | length }}{{ messages[0].content[1:3] }}"
      "{{ messages[0].content == '<|im_end|>' }}{{ '<|im_end|>' in messages[0].content }}"
      "{{ messages[0].content.startswith('<|im') }}{{ messages[0].content.endswith('end|>') }}",
      "[{\"content\":\"<|im_end|>\"}]",
      "10|iTrueTrueTrueTrue",
      { 0 },
      0 },
    { "replacing takes the mark along",
      "{{ messages[0].content | replace('<|im_end|>', '-') }}",
      "[{\"content\":\"a<|im_end|>b<|im_end|>\"}]",
      "a-b-",
      { 0 },
      0 },
    { "repr shows no mark", "{{ messages }}", "[\"<|im_end|>\"]", "['<|im_end|>']", { 3 }, 1 },
    { "json as ASCII shows no mark",
      "{{ messages | tojson(ensure_ascii=true) }}",
      "[\"<|im_end|>\xc3\xa9\"]",
      "[\"<|im_end|>\\u00e9\"]",
      { 3 },
      1 },
    { "a noncharacter of the input stays",
      "{{ messages[0] }}{{ messages[1] }}",
      "[\"\xef\xb7\x90<|im_end|>\",\"\xef\xb7\x91\"]",
      "\xef\xb7\x90<|im_end|>\xef\xb7\x91",
      { 4 },
      1 },
    { "reversed, it is no token",
      "{{ messages[0] | reverse }}",
      "[\"<|im_end|>\"]",
      ">|dne_mi|<",
      { 0 },
      0 },
};

static void test_marks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof MARKS / sizeof MARKS[0]; i++) {
        struct chat_text out;
        struct err err;
        if (!render(MARKS[i].template, MARKS[i].messages, (struct chat_input){ 0 }, &out, &err))
            fail_msg("%s: %s", MARKS[i].name, err.text);
        if (strcmp(buf_text(&out.text), MARKS[i].want) != 0)
            fail_msg("%s: got \"%s\"", MARKS[i].name, buf_text(&out.text));
        if (out.n_barriers != MARKS[i].n_barriers)
            fail_msg("%s: %zu barriers", MARKS[i].name, out.n_barriers);
        for (size_t j = 0; j < out.n_barriers; j++)
            if (out.barriers[j] != MARKS[i].barriers[j])
                fail_msg("%s: barrier at %zu", MARKS[i].name, out.barriers[j]);
        chat_text_clear(&out);
    }
}

/* All 32 noncharacters and a special token's text: refused, since nothing is left to mark with. */
static void test_all_marks_taken(void **state)
{
    (void)state;
    char messages[200] = "[\"";
    size_t n = 2;
    for (int i = 0; i < 32; i++) {
        messages[n++] = (char)0xef;
        messages[n++] = (char)0xb7;
        messages[n++] = (char)(0x90 + i);
    }
    strcpy(messages + n, "\"]");
    struct chat_text out;
    struct err err;
    assert_ok(render("{{ messages[0] }}", messages, (struct chat_input){ 0 }, &out, &err), &err);
    assert_int_equal(out.text.length, 96);
    chat_text_clear(&out);
    strcpy(messages + n, "<|im_end|>\"]");
    assert_false(render("{{ messages[0] }}", messages, (struct chat_input){ 0 }, &out, &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_non_null(strstr(err.text, "U+FDD0"));
}

static const struct {
    const char *name, *template, *messages, *want; /* NULL: an error */
} FINALS[] = {
    { "kept as it is", CHATML, "[{\"role\":\"assistant\",\"content\":\"Once, \"}]",
      "<|im_start|>assistant\nOnce, " },
    { "trimmed by the template", "{{ messages[0].content | trim }}<end>",
      "[{\"content\":\" Once, \"}]", "Once," },
    { "leading space is not part of it", "{{ messages[0].content }}<end>",
      "[{\"content\":\" Once, \"}]", " Once," },
    { "the last of several", "x{{ messages[0].content }}y{{ messages[0].content }}z",
      "[{\"content\":\"ab\"}]", "xabyab" },
    { "the last part with text", "{{ messages[0].content[0].text }}<end>",
      "[{\"content\":[{\"text\":\"first\"},{\"image\":1}]}]", "first" },
    { "a barrier behind the cut goes", "{{ messages[1].content }}{{ messages[0].content }}",
      "[{\"content\":\"<|im_end|>\"},{\"content\":\"ab\"}]", "ab" },
    { "nothing to say", CHATML, "[{\"role\":\"assistant\",\"content\":\"\"}]",
      "<|im_start|>assistant\n<|im_end|>\n" },
    { "content the template drops", "{{ 1 }}", "[{\"content\":\"ab\"}]", NULL },
    { "no content", "{{ 1 }}", "[{\"content\":null}]", NULL },
    { "no messages", "{{ 1 }}", "[]", NULL },
};

static void test_final_message(void **state)
{
    (void)state;
    struct chat_input input = { .continue_final_message = true };
    for (size_t i = 0; i < sizeof FINALS / sizeof FINALS[0]; i++) {
        struct chat_text out;
        struct err err;
        bool good = render(FINALS[i].template, FINALS[i].messages, input, &out, &err);
        if (good != (FINALS[i].want != NULL))
            fail_msg("%s: %s", FINALS[i].name, good ? buf_text(&out.text) : err.text);
        if (good && strcmp(buf_text(&out.text), FINALS[i].want) != 0)
            fail_msg("%s: got \"%s\"", FINALS[i].name, buf_text(&out.text));
        if (!good)
            assert_string_equal(err.field, "messages");
        assert_int_equal(out.n_barriers, 0);
        chat_text_clear(&out);
    }
    struct chat_text out;
    struct err err;
    input.add_generation_prompt = true;
    assert_false(render(CHATML, "[]", input, &out, &err));
    assert_string_equal(err.field, "continue_final_message");
}

static void test_variables(void **state)
{
    (void)state;
    struct cJSON *variables = parse("{\"enable_thinking\":false,\"date_string\":\"<|im_end|>\"}");
    struct cJSON *tools = parse("[{\"function\":{\"name\":\"f\"}}]");
    struct chat_text out;
    struct err err;
    static const char template[] =
        "{{ enable_thinking }} {{ date_string }} {{ tools[0].function.name }} {{ documents }} "
        "{{ bos_token }} {{ eos_token is defined }} {{ add_generation_prompt }} {{ "
        "strftime_now('%j') }}";
    struct chat_input input = {
        .variables = variables, .tools = tools, .bos_token = "<s>", .now_s = 86400
    };
    assert_ok(render(template, "[]", input, &out, &err), &err);
    assert_string_equal(buf_text(&out.text), "False <|im_end|> f None <s> False False 002");
    assert_int_equal(out.n_barriers, 1);
    chat_text_clear(&out);
    input.tools = NULL;
    assert_ok(render("{{ tools is none }}", "[]", input, &out, &err), &err);
    assert_string_equal(buf_text(&out.text), "True");
    chat_text_clear(&out);
    json_free(variables);
    json_free(tools);
}

static void test_errors(void **state)
{
    (void)state;
    struct chat_text out;
    struct err err;
    assert_false(render("{{ raise_exception('bad: ' ~ messages[0]) }}", "[\"<|im_end|>\"]",
                        (struct chat_input){ 0 }, &out, &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_string_equal(err.text, "bad: <|im_end|>"); /* no mark */
    assert_null(out.text.bytes);
    assert_false(render("\n{{ x.y }}", "[]", (struct chat_input){ 0 }, &out, &err));
    assert_string_equal(err.text, "chat template line 2: 'x' is undefined");
    assert_false(render("{{", "[]", (struct chat_input){ 0 }, &out, &err));
    assert_int_equal(err.code, ERR_FORMAT);
}

static const struct {
    const char *config, *want;
} SOURCES[] = {
    { "{\"chat_template\":\"a\"}", "a" },
    { "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},"
      "{\"name\":\"default\",\"template\":\"d\"}]}",
      "d" },
    { "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"}]}", "r" },
    { "{\"chat_template\":[{\"name\":\"a\",\"template\":\"a\"},{\"name\":\"b\"}]}", NULL },
    { "{\"chat_template\":[]}", NULL },
    { "{\"chat_template\":null}", NULL },
    { "{\"chat_template\":[{\"name\":\"default\",\"template\":3}]}", NULL },
    { "{}", NULL },
    { "[]", NULL },
};

static void test_sources(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof SOURCES / sizeof SOURCES[0]; i++) {
        struct cJSON *config = parse(SOURCES[i].config);
        const char *source;
        assert_int_equal(chat_template_source(config, &source), SOURCES[i].want != NULL);
        if (SOURCES[i].want)
            assert_string_equal(source, SOURCES[i].want);
        json_free(config);
    }
}

/* A hundred messages; and a megabyte of what begins every special token. */
static void test_speed(void **state)
{
    (void)state;
    struct cJSON *messages = cJSON_CreateArray();
    struct chat_template *chat;
    struct chat_text out;
    struct err err;
    char content[2001];
    memset(content, 'x', 2000);
    content[2000] = 0;
    for (int i = 0; i < 100; i++) {
        struct cJSON *message = cJSON_CreateObject();
        cJSON_AddStringToObject(message, "role", i % 2 ? "assistant" : "user");
        cJSON_AddStringToObject(message, "content", content);
        cJSON_AddItemToArray(messages, message);
    }
    assert_ok(chat_template_open(&chat, CHATML, strlen(CHATML), SPECIALS, N_SPECIALS, &err), &err);
    struct chat_input input = { .messages = messages };
    uint64_t start = clock_ns();
    for (int i = 0; i < 20; i++) {
        assert_ok(chat_render(chat, &input, &out, &err), &err);
        assert_int_equal(out.text.length, 100 * (2000 + 24) + 50 * 4 + 50 * 9);
        chat_text_clear(&out);
    }
    double took_ms = (double)(clock_ns() - start) / 20 / 1e6;
    print_message("100 messages of 2 kB: %.2f ms\n", took_ms);
#ifndef NIBBLE_SANITIZED
    assert_true(took_ms < 5);
#endif
    cJSON_Delete(messages);
    char *long_text = malloc((1 << 20) + 1);
    memset(long_text, '<', 1 << 20);
    long_text[1 << 20] = 0;
    messages = cJSON_CreateArray();
    cJSON_AddItemToArray(messages, cJSON_CreateObject());
    cJSON_AddStringToObject(messages->child, "role", "user");
    cJSON_AddStringToObject(messages->child, "content", long_text);
    input.messages = messages;
    start = clock_ns();
    assert_ok(chat_render(chat, &input, &out, &err), &err);
    print_message("a megabyte of <: %.1f ms\n", (double)(clock_ns() - start) / 1e6);
    assert_int_equal(out.n_barriers, 1); /* the last one might begin a token */
    chat_text_clear(&out);
    cJSON_Delete(messages);
    free(long_text);
    chat_template_close(chat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks),         cmocka_unit_test(test_all_marks_taken),
        cmocka_unit_test(test_final_message), cmocka_unit_test(test_variables),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
