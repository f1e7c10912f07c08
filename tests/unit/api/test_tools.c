/* test_tools.c - texts of models as their families write them, split; and split the same however
 * the text was cut. */
#include "tests/support/tool_text.h"
#include <cjson/cJSON.h>

static const char TOOLS[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},"
    "\"o\":{\"type\":[\"string\",\"null\"]},\"m\":{\"type\":[\"integer\",\"string\"]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_weather\"}}]";

enum { CALLS = 1, OPEN = 2, ONE = 4 };
struct row {
    const char *what, *format, *reasoning; /* NULL: none */
    unsigned flags;
    const char *text, *said;
};

#define HERMES(a) "<tool_call>\n{\"name\": \"f\", \"arguments\": " a "}\n</tool_call>"
#define BEGIN     "<｜tool▁calls▁begin｜>"
#define END       "<｜tool▁calls▁end｜>"
#define CALL      "<｜tool▁call▁begin｜>"
#define CALL_END  "<｜tool▁call▁end｜>"
#define SEP       "<｜tool▁sep｜>"

static const struct row rows[] = {
    /* ---- Hermes, Qwen ---- */
    { "plain text", "hermes", "think", CALLS, "Hello <b>you</b>\n", "C(Hello <b>you</b>\n)" },
    { "nothing", "hermes", "think", CALLS, "", "" },
    { "one call", "hermes", NULL, CALLS, HERMES("{\"a\": 1}"), "#0 fA({\"a\": 1})." },
    { "text in front, blanks dropped", "hermes", NULL, CALLS, "On it. \n" HERMES("{}") "\n",
      "C(On it.)#0 fA({})." },
    { "two calls", "hermes", NULL, CALLS, HERMES("{\"a\":[1,{\"b\":\"}\"}]}") "\n" HERMES("{ }"),
      "#0 fA({\"a\":[1,{\"b\":\"}\"}]}).#1 fA({ })." },
    { "text between and behind", "hermes", NULL, CALLS, HERMES("{}") "\nand\n" HERMES("{}") " done",
      "#0 fA({}).C(and)#1 fA({}).C(done)" },
    { "arguments in front of the name", "hermes", NULL, CALLS,
      "<tool_call>{\"arguments\": {\"a\": \"<tool_call>\"}, \"name\": \"f\"}</tool_call>",
      "#0 fA({\"a\": \"<tool_call>\"})." },
    { "no arguments", "hermes", NULL, CALLS, "<tool_call>{\"name\":\"f\"}</tool_call>",
      "#0 fA({})." },
    { "null arguments", "hermes", NULL, CALLS,
      "<tool_call>{\"name\":\"f\",\"arguments\":null}</tool_call>", "#0 fA({})." },
    { "arguments as a string of JSON", "hermes", NULL, CALLS,
      HERMES("\"{\\\"a\\\": \\\"\\u00e9\\ud83d\\ude00\\\\n\\\"}\""),
      "#0 fA({\"a\": \"\xc3\xa9\xf0\x9f\x98\x80\\n\"})." },
    { "an empty string of JSON", "hermes", NULL, CALLS, HERMES("\" \""), "#0 fA({})." },
    { "a string of something else", "hermes", NULL, CALLS, HERMES("\"x\""),
      "C(" HERMES("\"x\"") ")" },
    { "a string of half an object", "hermes", NULL, CALLS, HERMES("\" {1\""),
      "#0 fA({)C(1\"}\n</tool_call>)" },
    { "other members are not looked at", "hermes", NULL, CALLS,
      "<tool_call>{\"id\":7,\"type\":\"function\",\"x\":[{\"name\":\"g\"}],\"name\":\"f\",\"y\":1."
      "5}"
      "</tool_call>",
      "#0 fA({})." },
    { "two objects behind one mark", "hermes", NULL, CALLS,
      "<tool_call>{\"name\":\"f\"}\n{\"name\":\"g\"}</tool_call>", "#0 fA({}).#1 gA({})." },
    { "no closing mark", "hermes", NULL, CALLS, "<tool_call>{\"name\":\"f\",\"arguments\":{}}",
      "#0 fA({})." },
    { "raw control characters are escaped", "hermes", NULL, CALLS,
      HERMES("{\"a\":\"x\ny\tz\r\001\"}"), "#0 fA({\"a\":\"x\\ny\\tz\\r\\u0001\"})." },
    { "characters of four bytes", "hermes", NULL, CALLS,
      "\xf0\x9f\x98\x80 " HERMES("{\"a\":\"é\"}"), "C(\xf0\x9f\x98\x80)#0 fA({\"a\":\"é\"})." },
    { "not parsed when calls are off", "hermes", "think", 0, "x" HERMES("{}"),
      "C(x" HERMES("{}") ")" },
    { "one call ends the choice", "hermes", NULL, CALLS | ONE, HERMES("{}") "\n" HERMES("{}"),
      "#0 fA({})." },
    /* what is no call is text */
    { "the mark alone", "hermes", NULL, CALLS, "a <tool_call>", "C(a <tool_call>)" },
    { "half a mark", "hermes", NULL, CALLS, "a <tool_ca", "C(a <tool_ca)" },
    { "not JSON", "hermes", NULL, CALLS, "<tool_call>no</tool_call>x",
      "C(<tool_call>no</tool_call>x)" },
    { "cut in the name", "hermes", NULL, CALLS, "<tool_call>{\"name\": \"f",
      "C(<tool_call>{\"name\": \"f)" },
    { "no name", "hermes", NULL, CALLS, "<tool_call>{\"arguments\":{}}</tool_call>",
      "C(<tool_call>{\"arguments\":{}}</tool_call>)" },
    { "a name of other characters", "hermes", NULL, CALLS,
      "<tool_call>{\"name\":\"f g\",\"arguments\":{}}</tool_call>",
      "C(<tool_call>{\"name\":\"f g\",\"arguments\":{}}</tool_call>)" },
    { "arguments that are a list", "hermes", NULL, CALLS, HERMES("[1]"), "C(" HERMES("[1]") ")" },
    { "a call inside a call that is none", "hermes", NULL, CALLS, "<tool_call>\n" HERMES("{}"),
      "C(<tool_call>)#0 fA({})." },
    { "cut in the arguments", "hermes", NULL, CALLS,
      "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\": \"b", "#0 fA({\"a\": \"b)" },
    { "arguments that go wrong", "hermes", NULL, CALLS, HERMES("{\"a\": nul, 2}") "x",
      "#0 fA({\"a\": nul)C(, 2}}\n</tool_call>x)" },
    { "65 containers", "hermes", NULL, CALLS,
      HERMES("{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
             "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1"),
      "#0 "
      "fA({\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[)C([[1}\n</"
      "tool_call>)" },
    /* ---- reasoning ---- */
    { "a block", "hermes", "think", CALLS, "<think>\nwhy\n\nnot\n</think>\n\nSo.",
      "R(why\n\nnot)C(So.)" },
    { "the prompt opened it", "hermes", "think", CALLS | OPEN, "\nwhy\n</think>\n\nSo.",
      "R(why)C(So.)" },
    { "blanks in front of it", NULL, "think", 0, "\n<think>a</think>b", "R(a)C(b)" },
    { "an empty one", "hermes", "think", CALLS, "<think>\n\n</think>\n\nYes", "C(Yes)" },
    { "a call behind it", "hermes", "think", CALLS, "<think>a</think>\n" HERMES("{}"),
      "R(a)#0 fA({})." },
    { "a call inside it is text", "hermes", "think", CALLS, "<think><tool_call>{}</think>b",
      "R(<tool_call>{})C(b)" },
    { "never closed", NULL, "think", 0, "<think>a </thi", "R(a </thi)" },
    { "not at the beginning", NULL, "think", 0, "a <think>b</think>", "C(a <think>b</think>)" },
    { "not split", "hermes", NULL, CALLS, "<think>a</think>b", "C(<think>a</think>b)" },
    { "Magistral", "mistral", "mistral", CALLS, "[THINK]a[/THINK]b", "R(a)C(b)" },
    /* ---- Llama 3 ---- */
    { "parameters", "llama3_json", NULL, CALLS, "{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}",
      "#0 fA({\"a\": \"b\"})." },
    { "behind <|python_tag|>", "llama3_json", NULL, CALLS,
      "<|python_tag|>{\"type\": \"function\", \"name\": \"other\", \"parameters\": {}}",
      "#0 otherA({})." },
    { "two with a semicolon", "llama3_json", NULL, CALLS,
      "{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"get_weather\",\"parameters\":{}}",
      "#0 fA({}).#1 get_weatherA({})." },
    { "JSON that is an answer", "llama3_json", NULL, CALLS, "{\"name\": \"Bob\", \"age\": 3}",
      "C({\"name\": \"Bob\", \"age\": 3})" },
    { "an unknown name without a mark", "llama3_json", NULL, CALLS,
      "{\"name\": \"Bob\", \"parameters\": {}}", "C({\"name\": \"Bob\", \"parameters\": {}})" },
    { "only at the beginning", "llama3_json", NULL, CALLS, "See {\"name\":\"f\",\"parameters\":{}}",
      "C(See {\"name\":\"f\",\"parameters\":{}})" },
    { "code is text", "llama3_json", NULL, CALLS, "<|python_tag|>brave_search.call(query=\"x\")",
      "C(<|python_tag|>brave_search.call(query=\"x\"))" },
    { "text behind a call", "llama3_json", NULL, CALLS, "{\"name\":\"f\"}; and {",
      "#0 fA({}).C(; and {)" },
    /* ---- Mistral ---- */
    { "a list", "mistral", NULL, CALLS,
      "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdef123\"}, "
      "{\"name\": \"g\", \"arguments\": {}}]",
      "#0 fA({\"a\": 1}).#1 gA({})." },
    { "since 2025", "mistral", NULL, CALLS, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
      "#0 fA({\"a\": 1}).#1 gA({})." },
    { "with ids", "mistral", NULL, CALLS, "On it.[TOOL_CALLS]f[CALL_ID]abcdef123[ARGS]{}",
      "C(On it.)#0 fA({})." },
    { "without a mark between", "mistral", NULL, CALLS, "[TOOL_CALLS]f{\"a\":1}",
      "#0 fA({\"a\":1})." },
    { "a list that breaks", "mistral", NULL, CALLS, "[TOOL_CALLS][{\"name\":\"f\"}, {\"nam",
      "#0 fA({}).C(, {\"nam)" },
    { "a list of something else", "mistral", NULL, CALLS, "[TOOL_CALLS][1]", "C([TOOL_CALLS][1])" },
    /* ---- DeepSeek ---- */
    { "V3", "deepseek", NULL, CALLS,
      "a" BEGIN CALL "function" SEP "f\n```json\n{\"a\": 1}\n```" CALL_END "\n" CALL "function" SEP
      "g\n```json\n{}\n```" CALL_END END,
      "C(a)#0 fA({\"a\": 1}).#1 gA({})." },
    { "V3.1", "deepseek", "think", CALLS | OPEN,
      "hm</think>" BEGIN CALL "f" SEP "{\"a\": 1}" CALL_END CALL "g" SEP "{}" CALL_END END,
      "R(hm)#0 fA({\"a\": 1}).#1 gA({})." },
    { "V3.1 without the section", "deepseek", NULL, CALLS, CALL "f" SEP "{}" CALL_END "ok",
      "#0 fA({}).C(ok)" },
    { "V3 with a string of JSON", "deepseek", NULL, CALLS,
      CALL "function" SEP "f\n```json\n\"{\\\"a\\\": 1}\"\n```" CALL_END CALL "g" SEP
           "\"\"" CALL_END,
      "#0 fA({\"a\": 1}).#1 gA({})." },
    { "a section of text", "deepseek", NULL, CALLS, BEGIN " x" END, "C(" BEGIN " x" END ")" },
    { "V3 without a fence", "deepseek", NULL, CALLS, CALL "function" SEP "f\nx",
      "C(" CALL "function" SEP "f\nx)" },
    /* ---- Phi-4, Granite ---- */
    { "functools", "phi4", NULL, CALLS, "functools[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]",
      "#0 fA({\"a\": 1})." },
    { "marked", "phi4", NULL, CALLS,
      "<|tool_call|>[{\"name\":\"f\",\"arguments\":{}}]<|/tool_call|> x", "#0 fA({}).C(x)" },
    { "the word functools", "phi4", NULL, CALLS, "import functools\nx", "C(import functools\nx)" },
    { "a list", "granite", "think", CALLS,
      "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\"}]",
      "#0 fA({}).#1 gA({})." },
    { "thoughts and response", "granite", "think", CALLS, "<think>a</think><response>b</response>",
      "R(a)C(b)" },
    /* ---- XML ---- */
    { "Qwen3-Coder", "qwen3_coder", NULL, CALLS,
      "x\n<tool_call>\n<function=f>\n<parameter=s>\n12\n</parameter>\n<parameter=n>\n12\n"
      "</parameter>\n</function>\n</tool_call>",
      "C(x)#0 fA({\"s\": \"12\", \"n\": 12})." },
    { "values by declaration", "qwen3_coder", NULL, CALLS,
      "<function=f><parameter=o>null</parameter><parameter=m>5</parameter><parameter=n>a\"b\n"
      "</parameter><parameter=?>{\"z\": [1]}</parameter></function>",
      "#0 fA({\"o\": \"null\", \"m\": 5, \"n\": \"a\\\"b\", \"?\": {\"z\": [1]}})." },
    { "no parameters", "qwen3_coder", NULL, CALLS,
      "<tool_call><function=f></function></tool_call>y", "#0 fA({}).C(y)" },
    { "cut in a value", "qwen3_coder", NULL, CALLS,
      "<function=f><parameter=s>a</parameter><parameter=n>1",
      "#0 fA({\"s\": \"a\")C(<parameter=n>1)" },
    { "GLM", "glm", "think", CALLS,
      "\n<think>a</think>\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>true</arg_value>\n"
      "<arg_key>x</arg_key>\n<arg_value>true</arg_value>\n</tool_call>",
      "R(a)#0 fA({\"s\": \"true\", \"x\": true})." },
    { "GLM without parameters", "glm", NULL, CALLS,
      "<tool_call>f\n</tool_call><tool_call>f</tool_call>", "#0 fA({}).#1 fA({})." },
    /* ---- Command R7B ---- */
    { "action", "command_r", "command_r", CALLS,
      "<|START_THINKING|>a<|END_THINKING|><|START_ACTION|>[\n {\"tool_call_id\": \"0\", "
      "\"tool_name\": \"f\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|>",
      "R(a)#0 fA({\"a\": 1})." },
    { "response", "command_r", "command_r", CALLS, "<|START_RESPONSE|>Hi<|END_RESPONSE|>",
      "C(Hi)" },
    /* ---- gpt-oss ---- */
    { "analysis and final", "gpt_oss", "gpt_oss", CALLS,
      "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi.\n"
      "<|return|>",
      "R(hm)C(Hi.\n)" },
    { "a call", "gpt_oss", "gpt_oss", CALLS,
      "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
      "to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
      "R(hm)#0 fA({\"a\": 1})." },
    { "recipient in the role", "gpt_oss", "gpt_oss", CALLS,
      " to=functions.f<|channel|>commentary json<|message|>{}<|call|><|start|>assistant "
      "to=functions.g<|channel|>commentary<|message|>{ }",
      "#0 fA({}).#1 gA({ })." },
    { "a preamble", "gpt_oss", "gpt_oss", CALLS, "<|channel|>commentary<|message|>First.<|end|>",
      "C(First.)" },
    { "without tools a call is text", "gpt_oss", "gpt_oss", 0,
      "<|channel|>commentary to=functions.f<|message|>{}",
      "C(<|channel|>commentary to=functions.f<|message|>{})" },
    { "plain text after all", "gpt_oss", "gpt_oss", CALLS, "the <b>", "C(the <b>)" },
    { "half a header", "gpt_oss", "gpt_oss", CALLS, "<|channel|>final", "C(<|channel|>final)" },
    /* ---- JSON ---- */
    { "a fence", "json", NULL, CALLS, "Sure:\n```json\n{\"name\":\"f\",\"arguments\":{}}\n```\n",
      "C(Sure:)#0 fA({})." },
    { "a list", "json", NULL, CALLS, "[{\"name\":\"f\"},{\"name\":\"f\"}]",
      "#0 fA({}).#1 fA({})." },
    { "a fence of something else", "json", NULL, CALLS, "```json\n{\"a\":1}\n```",
      "C(```json\n{\"a\":1}\n```)" },
    { "an empty list", "json", NULL, CALLS, "[ ]", "C([ ])" },
    { "a list of numbers", "json", NULL, CALLS, "[1, 2]", "C([1, 2])" },
};

static cJSON *tools;

static struct tool_setup setup_of(const struct row *row)
{
    return (struct tool_setup){
        .format = row->format ? tool_format_find(row->format) : NULL,
        .reasoning = row->reasoning ? reason_format_find(row->reasoning) : NULL,
        .calls = row->flags & CALLS,
        .reasoning_open = row->flags & OPEN,
        .one_call = row->flags & ONE,
        .tools = tools,
        .id_seed = 7,
    };
}

static void expect(const struct row *row, const size_t *cuts, size_t n_cuts, bool each)
{
    struct tool_setup setup = setup_of(row);
    struct tool_line line;
    size_t length = strlen(row->text);
    assert_true(row->format == NULL || setup.format != NULL);
    assert_true(row->reasoning == NULL || setup.reasoning != NULL);
    tool_line_of(&line, &setup, row->text, length, cuts, n_cuts, each);
    if (strcmp(buf_text(&line.text), row->said) != 0)
        fail_msg("%s: %s (cuts %zu at %zu, %zu)\n  got  %s\n  want %s",
                 row->format ? row->format : "-", row->what, n_cuts, n_cuts ? cuts[0] : 0,
                 n_cuts > 1 ? cuts[1] : 0, buf_text(&line.text), row->said);
    buf_clear(&line.text);
}

static void test_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect(&rows[i], NULL, 0, false);
}

static void test_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t length = strlen(rows[i].text);
        expect(&rows[i], NULL, 0, true);
        for (size_t a = 0; a <= length; a++)
            for (size_t b = a; b <= length; b++)
                expect(&rows[i], (size_t[]){ a, b }, 2, false);
    }
}

/* A stream says what it can: arguments come as they are written, not when they are whole. */
static void test_arguments_stream(void **state)
{
    (void)state;
    struct row row = { .format = "hermes", .flags = CALLS };
    struct tool_setup setup = setup_of(&row);
    struct tool_parser *parser;
    struct err err = { 0 };
    assert_ok(tool_parser_open(&parser, &setup, 0, &err), &err);
    static const struct {
        const char *piece, *said;
    } steps[] = {
        { "Hi ", "C(Hi" },
        { "<tool", "" },
        { "_call>{\"name\":", "" },
        { "\"f\", \"arguments\":", "" },
        { " {\"a\"", ")#0 fA({\"a\"" },
        { ": \"x", ": \"x" },
        { "y\"}", "y\"}" },
        { "}", ")." },
        { "</tool_call>", "" },
    };
    struct tool_line line = { 0 };
    buf_init(&line.text, 1 << 20);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        buf_reset(&line.text);
        tool_parser_feed(parser, steps[i].piece, strlen(steps[i].piece));
        tool_line_take(&line, parser);
        assert_string_equal(buf_text(&line.text), steps[i].said);
    }
    buf_clear(&line.text);
    tool_parser_close(parser);
}

static void ids_of(const char *format, uint64_t seed, int32_t choice, char ids[2][TOOL_ID_MAX])
{
    static const char two[] = "[TOOL_CALLS][{\"name\":\"f\"},{\"name\":\"f\"}]",
                      hermes[] = "<tool_call>{\"name\":\"f\"}{\"name\":\"f\"}";
    struct tool_setup setup = { .format = tool_format_find(format),
                                .calls = true,
                                .id_seed = seed };
    struct tool_parser *parser;
    struct err err = { 0 };
    int n = 0;
    assert_ok(tool_parser_open(&parser, &setup, choice, &err), &err);
    const char *text = setup.format->short_ids ? two : hermes;
    tool_parser_feed(parser, text, strlen(text));
    struct tool_said said = tool_parser_said(parser);
    for (int32_t i = 0; i < said.n_events; i++)
        if (said.events[i].kind == TOOL_SAID_CALL)
            memcpy(ids[n++], said.events[i].id, TOOL_ID_MAX);
    assert_int_equal(n, 2);
    tool_parser_close(parser);
}

static void test_ids(void **state)
{
    (void)state;
    char all[8][TOOL_ID_MAX];
    static const char *const formats[] = { "hermes", "mistral" };
    for (int k = 0; k < 2; k++) {
        ids_of(formats[k], 1, 0, all);
        ids_of(formats[k], 1, 1, all + 2);
        ids_of(formats[k], 2, 0, all + 4);
        ids_of(formats[k], 1, 0, all + 6); /* the same request again: a stream and a whole agree */
        for (int i = 0; i < 6; i++) {
            if (k == 0)
                assert_memory_equal(all[i], "call_", 5);
            assert_int_equal(strlen(all[i]), k == 0 ? 25 : 9);
            assert_int_equal(strspn(all[i] + (k == 0 ? 5 : 0),
                                    "0123456789abcdefghijklmnopqrstuvwxyz"
                                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
                             k == 0 ? 20 : 9);
            for (int j = 0; j < i; j++)
                assert_string_not_equal(all[i], all[j]);
        }
        assert_string_equal(all[0], all[6]);
        assert_string_equal(all[1], all[7]);
    }
}

static void test_setup_marks(void **state)
{
    (void)state;
    static const struct {
        const char *format, *text;
        bool want;
    } cases[] = {
        { "gpt_oss", "<|channel|>", true },
        { "gpt_oss", "<|constrain|>", true },
        { "gpt_oss", "<|call|>", true },
        { "gpt_oss", "<|endoftext|>", false },
        { "hermes", "<tool_call>", true },
        { "hermes", "</think>", true },
        { "hermes", "<|im_end|>", false },
        { "mistral", "[ARGS]", true },
        { "deepseek", SEP, true },
        { "deepseek", "<｜User｜>", false },
        { "llama3_json", "<|python_tag|>", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tool_setup setup = { .format = tool_format_find(cases[i].format),
                                    .reasoning = reason_format_find("think"),
                                    .calls = true };
        if (tool_setup_marks(&setup, cases[i].text, strlen(cases[i].text)) != cases[i].want)
            fail_msg("%s %s", cases[i].format, cases[i].text);
    }
    struct tool_setup off = { .format = tool_format_find("hermes") };
    assert_false(tool_setup_active(&off));
    assert_false(tool_setup_marks(&off, "<tool_call>", 11));
}

static void test_prompts(void **state)
{
    (void)state;
    const struct reason_format *think = reason_format_find("think");
    static const struct {
        const char *prompt;
        bool open;
    } cases[] = {
        { "<|im_start|>assistant\n<think>\n", true },
        { "<think>", true },
        { "<think>\n\n</think>\n\n", false },
        { "assistant\n", false },
        { "", false },
        { "think>", false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(tool_prompt_reasons(think, cases[i].prompt, strlen(cases[i].prompt)),
                         cases[i].open);
    assert_false(tool_prompt_reasons(NULL, "<think>", 7));
    assert_false(tool_prompt_reasons(reason_format_find("gpt_oss"), "<think>", 7));
}

static void test_names(void **state)
{
    (void)state;
    for (int32_t i = 0; tool_format_at(i) != NULL; i++)
        assert_non_null(tool_format_find(tool_format_at(i)->name));
    for (int32_t i = 0; reason_format_at(i) != NULL; i++)
        assert_ptr_equal(reason_format_find(reason_format_at(i)->name), reason_format_at(i));
    assert_null(tool_format_find("auto"));
    assert_null(reason_format_find("none"));
    assert_null(tool_format_at(-1));
}

static int open_tools(void **state)
{
    (void)state;
    tools = cJSON_Parse(TOOLS);
    return tools == NULL;
}
static int close_tools(void **state)
{
    (void)state;
    cJSON_Delete(tools);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_arguments_stream),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_setup_marks),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, open_tools, close_tools);
}
