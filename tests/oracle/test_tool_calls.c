/* test_tool_calls.c - chat templates write assistant turns with tool calls as the model should;
 * what they write is parsed back: parse(render(call)) is the call.
 *
 * A turn is what the template adds for it behind the generation prompt, up to the family's end of
 * turn. It must also stand in the reference's own render (render.jsonl), where jinja2 wrote it. The
 * checked-in templates always, all of them when the full reference data is there. */
#include "tests/support/tool_text.h"
#include "host/text/chat.h"
#include <cjson/cJSON.h>

enum { NOW_S = 1753538709 };

/* What each template is known to write; a template with tools that is not here fails the test. */
static const struct {
    const char *name, *format; /* NULL: writes no calls, the reason is `why` */
    const char *reasoning, *why;
} templates[] = {
    { "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command_r", "command_r", NULL },
    { "GLM-4.6", "glm", "think", NULL },
    { "HuggingFaceTB-SmolLM3-3B", NULL, "think", "calls are not written" },
    { "Mistral-Small-3.2-24B-Instruct-2506", "mistral_args", NULL, NULL },
    { "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", NULL, NULL },
    { "Qwen-QwQ-32B", "hermes", "think", NULL },
    { "Qwen-Qwen2.5-7B-Instruct", "hermes", NULL, NULL },
    { "Qwen-Qwen3-0.6B", "hermes", "think", NULL },
    { "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek", "think", NULL },
    { "google-gemma-2-2b-it", NULL, NULL, "no tools" },
    { "ibm-granite-granite-3.3-2B-Instruct", "granite", "think", "calls are not written" },
    { "meta-llama-Llama-3.1-8B-Instruct", "llama3_json", NULL, NULL },
    { "meta-llama-Llama-3.2-3B-Instruct", "llama3_json", NULL, NULL },
    { "microsoft-Phi-3.5-mini-instruct", NULL, NULL, "no tools" },
    { "mistralai-Mistral-Nemo-Instruct-2407", "mistral", NULL, NULL },
    { "openai-gpt-oss-120b", "gpt_oss", "gpt_oss", NULL },
    { "own_chatml", NULL, NULL, "no tools" },
    { "own_chatml_default_system", NULL, NULL, "no tools" },
    { "own_deepseek", "deepseek", "think", "calls need a form of their own" },
    { "own_gemma", NULL, NULL, "no tools" },
    { "own_generation_tags", NULL, NULL, "no tools" },
    { "own_llama2", NULL, NULL, "no tools" },
    { "own_llama3", NULL, NULL, "no tools" },
    { "own_llama31_tools", "llama3_json", NULL, NULL },
    { "own_macro_tools", "json", NULL, "calls are not written" },
    { "own_mistral_v1", NULL, NULL, "no tools" },
    { "own_mistral_v3_tools", "mistral", NULL, NULL },
    { "own_phi3", NULL, NULL, "no tools" },
    { "own_qwen_tools_thinking", "hermes", "think", NULL },
    { "own_zephyr", NULL, NULL, "no tools" },
};

/* Where an assistant's turn ends; the engine stops at these and shows no text for them. */
static const char *const turn_ends[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<|observation|>",
    "<|user|>",
    "<|end_of_text|>",
};

static char *read_whole(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *length, file), *length);
    bytes[*length] = 0;
    fclose(file);
    return bytes;
}

static cJSON *parse(const char *bytes, size_t length)
{
    cJSON *root;
    struct err err;
    assert_ok(json_parse(bytes, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err), &err);
    return root;
}

/* The first n messages, as text; NULL: the template refuses them. */
static char *render(const struct chat_template *chat, const cJSON *talk, int n, bool generate)
{
    cJSON *messages = cJSON_CreateArray();
    const cJSON *options = cJSON_GetObjectItemCaseSensitive(talk, "options"), *item;
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(talk, "messages"))
        if (n-- > 0)
            cJSON_AddItemToArray(messages, cJSON_Duplicate(item, true));
    struct chat_input input = { .messages = messages,
                                .tools = cJSON_GetObjectItemCaseSensitive(options, "tools"),
                                .add_generation_prompt = generate,
                                .bos_token = "<s>",
                                .eos_token = "</s>",
                                .unk_token = "<unk>",
                                .pad_token = "<pad>",
                                .now_s = NOW_S };
    struct chat_text out = { 0 };
    struct err err = { 0 };
    char *text = NULL;
    if (chat_render(chat, &input, &out, &err))
        text = strdup(buf_text(&out.text));
    chat_text_clear(&out);
    cJSON_Delete(messages);
    return text;
}

/* The turn in `whole` behind `prompt`, in place; NULL: it does not stand there. A template may open
 * a block of reasoning for the model that it does not write into histories. */
static char *turn_of(char *whole, char *prompt)
{
    while (strncmp(whole, prompt, strlen(prompt)) != 0) {
        char *last = NULL;
        for (char *at = prompt; (at = strstr(at, "<think>")) != NULL; at++)
            last = at;
        if (last == NULL)
            return NULL;
        *last = 0;
    }
    char *turn = whole + strlen(prompt);
    for (size_t i = 0; i < sizeof turn_ends / sizeof turn_ends[0]; i++) {
        char *end = strstr(turn, turn_ends[i]);
        if (end != NULL)
            *end = 0;
    }
    return turn;
}

/* The turn without an empty block of reasoning, which some templates write into the last turn only.
 */
static const char *behind_thoughts(const char *turn)
{
    const char *end = strstr(turn, "</think>");
    return end == NULL ? turn : end + strlen("</think>") + strspn(end + strlen("</think>"), "\n");
}

struct heard {
    struct buf content, reasoning, name[8], arguments[8];
    int32_t n_calls, n_ends;
};

static void hear(struct heard *heard, struct tool_parser *parser)
{
    struct tool_said said = tool_parser_said(parser);
    for (int32_t i = 0; i < said.n_events; i++) {
        const struct tool_event *event = &said.events[i];
        const char *text = said.text + event->at;
        assert_true(event->call < 8);
        if (event->kind == TOOL_SAID_CONTENT)
            buf_put(&heard->content, text, event->length);
        if (event->kind == TOOL_SAID_REASONING)
            buf_put(&heard->reasoning, text, event->length);
        if (event->kind == TOOL_SAID_CALL)
            buf_put(&heard->name[event->call], text, event->length);
        if (event->kind == TOOL_SAID_ARGUMENTS)
            buf_put(&heard->arguments[event->call], text, event->length);
        heard->n_calls += event->kind == TOOL_SAID_CALL;
        heard->n_ends += event->kind == TOOL_SAID_END;
    }
    tool_parser_taken(parser);
}

static void compare(const struct heard *heard, const cJSON *message, const char *turn,
                    bool only_first, const char *where)
{
    const cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls"), *call;
    int32_t n = 0, want_calls = only_first ? 1 : cJSON_GetArraySize(calls);
    if (heard->n_calls != want_calls || heard->n_ends != heard->n_calls)
        fail_msg("%s: %d calls, %d complete, in %s", where, heard->n_calls, heard->n_ends, turn);
    cJSON_ArrayForEach (call, calls) {
        if (n == want_calls) /* gpt-oss's template writes the first alone */
            break;
        const cJSON *function = cJSON_GetObjectItemCaseSensitive(call, "function");
        const cJSON *want = cJSON_GetObjectItemCaseSensitive(function, "arguments");
        cJSON *got = parse(buf_text(&heard->arguments[n]), heard->arguments[n].length);
        cJSON *object = cJSON_IsString(want) ? parse(want->valuestring, strlen(want->valuestring))
                                             : cJSON_Duplicate(want, true);
        assert_string_equal(
            buf_text(&heard->name[n]),
            cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function, "name")));
        /* Templates that print a string of JSON as JSON (tojson) give it back as what it holds. */
        if (!cJSON_Compare(got, object, true))
            fail_msg("%s: arguments %s of %s", where, buf_text(&heard->arguments[n]), turn);
        json_free(got);
        json_free(object);
        n++;
    }
    const char *content =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "content"));
    /* gpt-oss and Command R write what is said beside a call as thoughts; the latter null as None.
     */
    bool thought = heard->content.length == 0 && heard->reasoning.length > 0;
    if (content == NULL)
        content = "None";
    if (strstr(turn, content) == NULL)
        content = "";
    assert_string_equal(buf_text(thought ? &heard->reasoning : &heard->content), content);
}

static void parse_back(const struct tool_setup *setup, const char *turn, const cJSON *message,
                       const char *where)
{
    for (int each = 0; each < 2; each++) {
        struct heard heard = { 0 };
        struct tool_parser *parser;
        struct err err = { 0 };
        struct buf *bufs = &heard.content;
        for (int i = 0; i < 18; i++)
            buf_init(i < 2    ? &bufs[i]
                     : i < 10 ? &heard.name[i - 2]
                              : &heard.arguments[i - 10],
                     1 << 20);
        assert_ok(tool_parser_open(&parser, setup, 0, &err), &err);
        for (size_t at = 0, n = strlen(turn); at < n && each; at++) {
            tool_parser_feed(parser, turn + at, 1);
            hear(&heard, parser);
        }
        if (!each)
            tool_parser_feed(parser, turn, strlen(turn));
        tool_parser_end(parser);
        hear(&heard, parser);
        compare(&heard, message, turn, setup->format->body == TOOL_CHANNELS, where);
        tool_parser_close(parser);
        buf_clear(&heard.content);
        buf_clear(&heard.reasoning);
        for (int i = 0; i < 8; i++) {
            buf_clear(&heard.name[i]);
            buf_clear(&heard.arguments[i]);
        }
    }
}

/* Every assistant turn with calls of one conversation. Returns how many were parsed back. */
static int run_talk(const struct chat_template *chat, const struct tool_setup *plain,
                    const cJSON *talk, const char *expected, const char *name)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(talk, "messages"), *message;
    struct tool_setup setup = *plain;
    int n = 0, n_parsed = 0;
    setup.tools = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(talk, "options"), "tools");
    cJSON_ArrayForEach (message, messages) {
        n++;
        if (cJSON_GetObjectItemCaseSensitive(message, "tool_calls") == NULL)
            continue;
        char *prompt = render(chat, talk, n - 1, true), *whole = render(chat, talk, n, false);
        char where[200];
        snprintf(where, sizeof where, "%s, %s", name, talk->string);
        if (prompt != NULL && whole != NULL) {
            char *turn = turn_of(whole, prompt);
            if (turn == NULL)
                fail_msg("%s: the turn does not follow the prompt:\n%s\n----\n%s", where, prompt,
                         whole);
            if (strstr(expected, behind_thoughts(turn)) == NULL)
                fail_msg("%s: not in the reference: %s", where, turn);
            parse_back(&setup, turn, message, where);
            n_parsed++;
        }
        free(prompt);
        free(whole);
    }
    return n_parsed;
}

static cJSON *parse_file(const char *folder, const char *name)
{
    char path[1200];
    size_t length;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *bytes = read_whole(path, &length);
    assert_non_null(bytes);
    cJSON *root = parse(bytes, length);
    free(bytes);
    return root;
}

static int run_template(const char *folder, const cJSON *talks, char *renders, size_t i)
{
    char path[1400], sign[200];
    size_t length;
    int n_parsed = 0;
    snprintf(path, sizeof path, "%s/templates/%s.jinja", folder, templates[i].name);
    char *source = read_whole(path, &length);
    if (source == NULL)
        return 0; /* not among the checked-in ones */
    const struct tool_format *format = tool_format_of(source, length);
    const struct reason_format *reasoning = reason_format_of(source, length);
    const char *found = format ? format->name : "-", *split = reasoning ? reasoning->name : "-";
    if (strcmp(found, templates[i].format ? templates[i].format : "-") != 0 ||
        strcmp(split, templates[i].reasoning ? templates[i].reasoning : "-") != 0)
        fail_msg("%s: taken for %s and %s", templates[i].name, found, split);
    struct tool_setup setup = { .format = format, .reasoning = reasoning, .calls = true };
    struct chat_template *chat;
    struct err err = { 0 };
    assert_ok(chat_template_open(&chat, source, length, NULL, 0, &err), &err);
    snprintf(sign, sizeof sign, "\"template\":\"%s\",", templates[i].name);
    for (char *line = renders; *line && templates[i].why == NULL;) {
        char *end = strchrnul(line, '\n'), kept = *end;
        *end = 0;
        if (strstr(line, sign) != NULL) {
            cJSON *row = parse(line, (size_t)(end - line));
            const char *expected =
                cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "expected"));
            const cJSON *talk = cJSON_GetObjectItemCaseSensitive(
                talks, cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "conversation")));
            if (expected != NULL)
                n_parsed += run_talk(chat, &setup, talk, expected, templates[i].name);
            json_free(row);
        }
        *end = kept;
        line = kept ? end + 1 : end;
    }
    if (format != NULL)
        printf("  %-45s %-12s %d turns%s%s\n", templates[i].name, format->name, n_parsed,
               templates[i].why ? ": " : "", templates[i].why ? templates[i].why : "");
    assert_true(format == NULL || templates[i].why != NULL || n_parsed >= 2);
    chat_template_close(chat);
    free(source);
    return n_parsed;
}

static void run_folder(const char *folder, int at_least)
{
    cJSON *talks = parse_file(folder, "conversations.json");
    char path[1200];
    size_t length;
    int n = 0;
    snprintf(path, sizeof path, "%s/render.jsonl", folder);
    char *renders = read_whole(path, &length);
    assert_non_null(renders);
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++)
        n += run_template(folder, talks, renders, i);
    printf("%d turns parsed back\n", n);
    assert_true(n >= at_least);
    free(renders);
    json_free(talks);
}

static void test_checked_in(void **state)
{
    (void)state;
    run_folder(NIBBLE_TESTS_DIR "/oracle/chat_templates", 20);
}

static void test_full(void **state)
{
    (void)state;
    char folder[1100];
    if (!oracle_full()) {
        printf("skipped: no full reference data (NIBBLE_ORACLE)\n");
        skip();
    }
    snprintf(folder, sizeof folder, "%s/chat_templates", oracle_full());
    run_folder(folder, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_in),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
