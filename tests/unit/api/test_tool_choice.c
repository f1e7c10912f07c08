/* test_tool_choice.c - tools, tool_choice and their relatives in requests; what templates and the
 * grammar compiler get of them. */
#include "tests/unit/api/requests.h"
#include "api/tools.h"
#include "host/text/chat.h"

#define F(name)   "{\"type\":\"function\",\"function\":{\"name\":\"" name "\"}}"
#define TOOLS     "\"tools\":[" F("f") "," F("g.2") "]"
#define TOOL(x)   "{\"tools\":[" x "]," M "}"
#define CHOICE(x) "{" TOOLS ",\"tool_choice\":" x "," M "}"
#define ALLOW(m, list)                                                                             \
    CHOICE("{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":" m ",\"tools\":" list "}}")

static struct api_model hermes(void)
{
    struct api_model model = PLAIN;
    model.tool_format = tool_format_find("hermes");
    model.reasoning = reason_format_find("think");
    model.no_tools = "";
    return model;
}

static void test_refused(void **state)
{
    (void)state;
    static const char a64[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char long_name[200];
    snprintf(long_name, sizeof long_name, TOOL(F("%sa")), a64);
    const struct {
        const char *body, *field, *text;
    } rows[] = {
        { TOOL("1"), "tools[0]", "must be an object" },
        { TOOL("{\"type\":\"custom\"}"), "tools[0].type", "must be \"function\", got \"custom\"" },
        { TOOL("{\"type\":1}"), "tools[0].type", "must be a string" },
        { TOOL("{\"type\":\"function\"}"), "tools[0].function", "must be an object" },
        { TOOL("{\"type\":\"function\",\"function\":{}}"), "tools[0].function.name",
          "is required" },
        { TOOL(F("")), "tools[0].function.name", "1 to 64 letters" },
        { TOOL(F("a b")), "tools[0].function.name", "got \"a b\"" },
        { TOOL(F("\xc3\xa9")), "tools[0].function.name", "letters" },
        { long_name, "tools[0].function.name", "1 to 64" },
        { TOOL(F("f") "," F("f")), "tools[1].function", "name of another tool, \"f\"" },
        { TOOL("{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}"),
          "tools[0].function.parameters", "must be an object" },
        { TOOL("{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":1}}"),
          "tools[0].function.description", "must be a string" },
        { TOOL("{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":1}}"),
          "tools[0].function.strict", "must be" },
        { CHOICE("\"any\""), "tool_choice", "got \"any\"" },
        { CHOICE("1"), "tool_choice", "must be" },
        { CHOICE("\"required\""), "tool_choice", "calls cannot be forced" },
        { CHOICE(F("f")), "tool_choice", "calls cannot be forced" },
        { CHOICE(F("h")), "tool_choice", "names \"h\", which is not among tools" },
        { CHOICE("{\"type\":\"function\"}"), "tool_choice.function", "must be an object" },
        { CHOICE("{}"), "tool_choice.type", "is required" },
        { "{\"tool_choice\":\"required\"," M "}", "tool_choice", "needs tools" },
        { "{\"tool_choice\":" F("f") "," M "}", "tool_choice", "not among tools" },
        { CHOICE("{\"type\":\"allowed_tools\"}"), "tool_choice.allowed_tools",
          "must be an object" },
        { ALLOW("\"x\"", "[" F("f") "]"), "tool_choice.allowed_tools.mode", "got \"x\"" },
        { ALLOW("\"auto\"", "[]"), "tool_choice.allowed_tools.tools", "at least one" },
        { ALLOW("\"auto\"", "[" F("h") "]"), "tool_choice.allowed_tools.tools[0].function",
          "\"h\"" },
        { ALLOW("\"required\"", "[" F("f") "]"), "tool_choice", "cannot be forced" },
        { "{\"parallel_tool_calls\":1," M "}", "parallel_tool_calls", "must be" },
        { "{\"parse_tool_calls\":\"no\"," M "}", "parse_tool_calls", "must be" },
        { "{\"reasoning_format\":\"deepseek-legacy\"," M "}", "reasoning_format", "got" },
        { "{\"functions\":[{\"name\":\"f\"}]," M "}", "functions", "not supported" },
    };
    const struct api_model model = hermes();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = { 0 };
        struct generate g;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(rows[i].body);
        if (parse(CHAT, &g, root, &model, &arena, &err))
            fail_msg("taken: %s", rows[i].body);
        assert_int_equal(err.code, ERR_REQUEST);
        if (strcmp(err.field, rows[i].field) != 0 || strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s\n%s: %s", rows[i].body, err.field, err.text);
        json_free(root);
        arena_clear(&arena);
    }
}

static void test_taken(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        enum tool_choice choice;
        bool calls, one_call, reasoning;
        int n_tools;
    } rows[] = {
        { "{" M "}", TOOL_CHOICE_NONE, false, false, true, 0 },
        { "{\"tools\":[]," M "}", TOOL_CHOICE_NONE, false, false, true, 0 },
        { "{" TOOLS "," M "}", TOOL_CHOICE_AUTO, true, false, true, 2 },
        { "{" TOOLS ",\"parse_tool_calls\":false," M "}", TOOL_CHOICE_AUTO, false, false, true, 2 },
        { "{" TOOLS ",\"parallel_tool_calls\":false," M "}", TOOL_CHOICE_AUTO, true, true, true,
          2 },
        { CHOICE("\"none\""), TOOL_CHOICE_NONE, false, false, true, 2 },
        { CHOICE("\"auto\""), TOOL_CHOICE_AUTO, true, false, true, 2 },
        { ALLOW("\"auto\"", "[" F("g.2") "]"), TOOL_CHOICE_AUTO, true, false, true, 1 },
        { "{\"reasoning_format\":\"none\"," M "}", TOOL_CHOICE_NONE, false, false, false, 0 },
        { "{\"reasoning_format\":\"deepseek\"," M "}", TOOL_CHOICE_NONE, false, false, true, 0 },
    };
    const struct api_model model = hermes();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = { 0 };
        struct generate g;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(rows[i].body);
        if (!parse(CHAT, &g, root, &model, &arena, &err))
            fail_msg("%s\n%s", rows[i].body, err.text);
        if (g.tool_choice != rows[i].choice || g.tool.calls != rows[i].calls ||
            g.tool.one_call != rows[i].one_call ||
            (g.tool.reasoning != NULL) != rows[i].reasoning ||
            cJSON_GetArraySize(g.tools) != rows[i].n_tools || g.tool.tools != g.tools)
            fail_msg("%s", rows[i].body);
        assert_int_equal(tool_setup_active(&g.tool), rows[i].calls || rows[i].reasoning);
        json_free(root);
        arena_clear(&arena);
    }
}

static void test_arguments(void **state)
{
    (void)state;
    static const struct {
        bool strings;
        const char *in, *out;
    } rows[] = {
        { false, "\"{\\\"a\\\": [1.0, 12345678901234567890]}\"",
          "{\"a\":[1.0,12345678901234567890]}" },
        { false, "\" \"", "{}" },
        { false, "null", "{}" },
        { false, "\"not {\"", "\"not {\"" },
        { false, "\"[1]\"", "\"[1]\"" },
        { false, "{\"a\":1}", "{\"a\":1}" },
        { true, "\"{\\\"a\\\": 1}\"", "\"{\\\"a\\\": 1}\"" },
        { true, "{\"a\":1}", "\"{\\\"a\\\":1}\"" },
        { true, "null", "\"{}\"" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char body[400];
        struct err err = { 0 };
        snprintf(body, sizeof body,
                 "[{\"role\":\"user\"},{\"tool_calls\":[{\"function\":{\"name\":\"f\","
                 "\"arguments\":%s}}]}]",
                 rows[i].in);
        cJSON *messages = parse_json(body);
        assert_ok(tool_arguments(messages, rows[i].strings, &err), &err);
        const cJSON *call = cJSON_GetObjectItem(messages->child->next, "tool_calls")->child;
        const cJSON *got = cJSON_GetObjectItem(cJSON_GetObjectItem(call, "function"), "arguments");
        cJSON *want = parse_json(rows[i].out);
        if (!cJSON_Compare(got, want, true))
            fail_msg("%s: %s", rows[i].in, cJSON_PrintUnformatted(got));
        if (i == 0) /* numbers keep how they were written, for templates that print them */
            assert_true(json_number_is_float(got->child->child));
        json_free(want);
        json_free(messages);
    }
}

static void test_template_probe(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        bool strings;
    } rows[] = {
        { "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | "
          "tojson }}"
          "{% endfor %}{% endfor %}",
          false },
        { "{% for m in messages %}{% for c in m.tool_calls or [] %}"
          "{{ 'x' + c.function.arguments }}{% endfor %}{% endfor %}",
          true },
        { "{% for m in messages %}{% for c in m.tool_calls or [] %}"
          "{{ c.function.arguments }}{% endfor %}{% endfor %}",
          true },
        { "{% for m in messages %}{{ m.content }}{% endfor %}", false },
        { "{{ raise_exception('no') }}", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct chat_template *chat;
        struct err err = { 0 };
        assert_ok(chat_template_open(&chat, rows[i].source, strlen(rows[i].source), NULL, 0, &err),
                  &err);
        assert_int_equal(tool_template_wants_strings(chat), rows[i].strings);
        chat_template_close(chat);
    }
}

static void test_grammar(void **state)
{
    (void)state;
    static const char none[] =
        "{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}";
    static const struct {
        const char *format;
        enum tool_choice choice;
        const char *name;
        bool parallel, text_first;
        const char *want; /* %s: the schema of a tool without parameters */
    } rows[] = {
        { "hermes", TOOL_CHOICE_REQUIRED, NULL, true, false,
          "{\"tags\":[{\"begin\":\"<tool_call>\\n{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": \","
          "\"end\":\"}\\n</tool_call>\",\"schema\":%s},"
          "{\"begin\":\"<tool_call>\\n{\\\"name\\\": \\\"g\\\", \\\"arguments\\\": \","
          "\"end\":\"}\\n</tool_call>\",\"schema\":{\"type\":\"object\",\"properties\":{\"a\":"
          "{\"$ref\":\"#/$defs/A\"}},\"$defs\":{\"A\":{\"type\":\"integer\"}}}}],"
          "\"at_least_one\":true,\"only_tags\":true,\"stop_after_first\":false}" },
        { "hermes", TOOL_CHOICE_NAMED, "f", false, true,
          "{\"tags\":[{\"begin\":\"<tool_call>\\n{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": \","
          "\"end\":\"}\\n</tool_call>\",\"schema\":%s}],"
          "\"at_least_one\":true,\"only_tags\":false,\"stop_after_first\":true}" },
        { "mistral", TOOL_CHOICE_NAMED, "f", true, false,
          "{\"tags\":[{\"begin\":\"[TOOL_CALLS][{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": \","
          "\"end\":\"}]\",\"schema\":%s}],"
          "\"at_least_one\":true,\"only_tags\":true,\"stop_after_first\":false}" },
        { "mistral_args", TOOL_CHOICE_NAMED, "f", true, false,
          "{\"tags\":[{\"begin\":\"[TOOL_CALLS]f[ARGS]\",\"end\":\"\",\"schema\":%s}],"
          "\"at_least_one\":true,\"only_tags\":true,\"stop_after_first\":false}" },
        { "llama3_json", TOOL_CHOICE_NAMED, "f", true, true,
          "{\"tags\":[{\"begin\":\"{\\\"name\\\": \\\"f\\\", \\\"parameters\\\": \",\"end\":\"}\","
          "\"schema\":%s}],\"at_least_one\":true,\"only_tags\":true,\"stop_after_first\":false}" },
        { "gpt_oss", TOOL_CHOICE_NAMED, "f", true, true,
          "{\"tags\":[{\"begin\":\"<|channel|>commentary to=functions.f "
          "<|constrain|>json<|message|>"
          "\",\"end\":\"\",\"schema\":%s}],"
          "\"at_least_one\":true,\"only_tags\":false,\"stop_after_first\":false}" },
    };
    cJSON *tools = parse_json(
        "[" F("f") ",{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":"
                   "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/A\"}},"
                   "\"$defs\":{\"A\":{\"type\":\"integer\"}}}}}]");
    struct err err = { 0 };
    cJSON *got;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf want;
        const char *hole = strstr(rows[i].want, "%s");
        buf_init(&want, 1 << 16);
        buf_put(&want, rows[i].want, (size_t)(hole - rows[i].want));
        buf_printf(&want, "%s%s", none, hole + 2);
        assert_ok(tool_grammar(&got, tool_format_find(rows[i].format), tools, rows[i].choice,
                               rows[i].name, rows[i].parallel, rows[i].text_first, &err),
                  &err);
        char *text = cJSON_PrintUnformatted(got);
        assert_string_equal(text, buf_text(&want));
        free(text);
        cJSON_Delete(got);
        buf_clear(&want);
    }
    assert_false(tool_grammar(&got, tool_format_find("glm"), tools, TOOL_CHOICE_REQUIRED, NULL,
                              true, false, &err));
    assert_string_equal(err.field, "tool_choice");
    json_free(tools);
}

/* What the grammar may write for a call is what the parser reads as that call. */
static void test_grammar_is_parsed(void **state)
{
    (void)state;
    cJSON *tools = parse_json("[" F("f") "]");
    int n = 0;
    for (int32_t i = 0; tool_format_at(i) != NULL; i++) {
        const struct tool_format *format = tool_format_at(i);
        struct err err = { 0 };
        cJSON *tags;
        if (format->begin == NULL)
            continue;
        n++;
        assert_ok(tool_grammar(&tags, format, tools, TOOL_CHOICE_NAMED, "f", true, false, &err),
                  &err);
        const cJSON *tag = cJSON_GetObjectItem(tags, "tags")->child;
        struct tool_setup setup = { .format = format, .calls = true, .tools = tools };
        struct tool_parser *parser;
        struct buf text;
        buf_init(&text, 1 << 12);
        buf_printf(&text, "%s{\"a\": 1}%s", cJSON_GetObjectItem(tag, "begin")->valuestring,
                   cJSON_GetObjectItem(tag, "end")->valuestring);
        assert_ok(tool_parser_open(&parser, &setup, 0, &err), &err);
        tool_parser_feed(parser, buf_text(&text), text.length);
        tool_parser_end(parser);
        struct tool_said said = tool_parser_said(parser);
        if (said.n_events != 3 || said.events[0].kind != TOOL_SAID_CALL ||
            said.events[1].kind != TOOL_SAID_ARGUMENTS || said.events[2].kind != TOOL_SAID_END ||
            memcmp(said.text, "f{\"a\": 1}", 9) != 0)
            fail_msg("%s: %s", format->name, buf_text(&text));
        tool_parser_close(parser);
        buf_clear(&text);
        cJSON_Delete(tags);
    }
    assert_true(n >= 10);
    json_free(tools);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_taken),
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_template_probe),
        cmocka_unit_test(test_grammar),   cmocka_unit_test(test_grammar_is_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
