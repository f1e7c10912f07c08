/* tool_formats.c - the table of call formats, and which one a chat template writes. */
#include "api/tools.h"
#include <string.h>

/* Sources: the models' own chat templates and cards. */
static const struct tool_format formats[] = {
    /* OpenAI's harmony: <|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>
     */
    { .name = "gpt_oss",
      .body = TOOL_CHANNELS,
      .opens = { "<|start|>", "<|channel|>" },
      .closes = { "<|call|>", "<|end|>", "<|return|>" },
      .separators = { "<|message|>" },
      /* <|call|> ends the turn: it is a token that ends the text. */
      .begin = "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>",
      .end = "" },
    /* V3: "function<sep>f\n```json\n{}\n```"; V3.1: "f<sep>{}". Either is read. */
    { .name = "deepseek",
      .body = TOOL_NAMED,
      .section_open = "<｜tool▁calls▁begin｜>",
      .section_close = "<｜tool▁calls▁end｜>",
      .opens = { "<｜tool▁call▁begin｜>" },
      .closes = { "<｜tool▁call▁end｜>" },
      .separators = { "<｜tool▁sep｜>" },
      .begin = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n```json\n",
      .end = "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>" },
    { .name = "deepseek_v31",
      .body = TOOL_NAMED,
      .section_open = "<｜tool▁calls▁begin｜>",
      .section_close = "<｜tool▁calls▁end｜>",
      .opens = { "<｜tool▁call▁begin｜>" },
      .closes = { "<｜tool▁call▁end｜>" },
      .separators = { "<｜tool▁sep｜>" },
      .begin = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁sep｜>",
      .end = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>" },
    /* [TOOL_CALLS] [{"name":..}, ..]; since 2025 [TOOL_CALLS]f[CALL_ID]x[ARGS]{}. Either is read.
     */
    { .name = "mistral_args",
      .body = TOOL_NAMED,
      .opens = { "[TOOL_CALLS]" },
      .separators = { "[ARGS]", "[CALL_ID]" },
      .short_ids = true,
      .begin = "[TOOL_CALLS]%s[ARGS]",
      .end = "" },
    { .name = "mistral",
      .body = TOOL_NAMED,
      .opens = { "[TOOL_CALLS]" },
      .separators = { "[ARGS]", "[CALL_ID]" },
      .short_ids = true,
      .begin = "[TOOL_CALLS][{\"name\": \"%s\", \"arguments\": ",
      .end = "}]" },
    { .name = "command_r",
      .body = TOOL_JSON,
      .opens = { "<|START_ACTION|>" },
      .closes = { "<|END_ACTION|>" },
      .drops = { "<|START_RESPONSE|>", "<|END_RESPONSE|>" },
      .begin = "<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"%s\", \"parameters\": ",
      .end = "}]<|END_ACTION|>" },
    { .name = "qwen3_coder",
      .body = TOOL_XML,
      .section_open = "<tool_call>",
      .section_close = "</tool_call>",
      .opens = { "<function=" },
      .closes = { "</function>" },
      .name_end = ">",
      .key_open = "<parameter=",
      .key_close = ">",
      .value_close = "</parameter>" },
    { .name = "glm",
      .body = TOOL_XML,
      .opens = { "<tool_call>" },
      .closes = { "</tool_call>" },
      .name_end = "\n",
      .key_open = "<arg_key>",
      .key_close = "</arg_key>",
      .value_open = "<arg_value>",
      .value_close = "</arg_value>" },
    { .name = "hermes",
      .body = TOOL_JSON,
      .opens = { "<tool_call>" },
      .closes = { "</tool_call>" },
      .begin = "<tool_call>\n{\"name\": \"%s\", \"arguments\": ",
      .end = "}\n</tool_call>" },
    /* Phi-4-mini: <|tool_call|>[..]<|/tool_call|>, and functools[..] as its card has it. */
    { .name = "phi4",
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>", "functools" },
      .closes = { "<|/tool_call|>" },
      .begin = "<|tool_call|>[{\"name\": \"%s\", \"arguments\": ",
      .end = "}]<|/tool_call|>" },
    { .name = "granite",
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>" },
      .drops = { "<response>", "</response>" },
      .begin = "<|tool_call|>[{\"name\": \"%s\", \"arguments\": ",
      .end = "}]" },
    { .name = "llama3_json",
      .body = TOOL_JSON,
      .opens = { "<|python_tag|>" },
      .bare = true,
      .begin = "{\"name\": \"%s\", \"parameters\": ",
      .end = "}" },
    { .name = "json",
      .body = TOOL_JSON,
      .opens = { "```json" },
      .closes = { "```" },
      .bare = true,
      .known = true,
      .begin = "{\"name\": \"%s\", \"arguments\": ",
      .end = "}" },
};
/* A chat template that has both texts writes this format. The first row that fits wins: those with
 * rarer texts stand first. */
static const struct {
    const char *format, *signs[2];
} signs[] = {
    { "gpt_oss", { "<|channel|>", "<|message|>" } },
    { "deepseek", { "<｜tool▁call▁begin｜>", "```json" } },
    { "deepseek_v31", { "<｜tool▁call▁begin｜>" } },
    { "mistral_args", { "[TOOL_CALLS]", "[ARGS]" } },
    { "mistral", { "[TOOL_CALLS]" } },
    { "command_r", { "<|START_ACTION|>" } },
    { "qwen3_coder", { "<function=", "<parameter=" } },
    { "glm", { "<arg_key>", "<arg_value>" } },
    { "hermes", { "<tool_call>" } },
    { "phi4", { "<|/tool_call|>" } },
    { "phi4", { "functools" } },
    { "phi4",
      { "<|tool|>", "<|/tool|>" } }, /* Phi-4-mini's own shows how tools are declared only */
    { "granite", { "<|tool_call|>" } },
    { "llama3_json", { "<|python_tag|>" } },
    { "llama3_json", { "<|start_header_id|>", "tools" } }, /* Llama 3.2 and its relatives */
    { "json", { "tools" } },
};
static const struct reason_format reasons[] = {
    { "gpt_oss", NULL, NULL },
    { "think", "<think>", "</think>" },
    { "mistral", "[THINK]", "[/THINK]" },
    { "command_r", "<|START_THINKING|>", "<|END_THINKING|>" },
};

const struct tool_format *tool_format_at(int32_t i)
{
    return i >= 0 && (size_t)i < sizeof formats / sizeof formats[0] ? &formats[i] : NULL;
}

const struct reason_format *reason_format_at(int32_t i)
{
    return i >= 0 && (size_t)i < sizeof reasons / sizeof reasons[0] ? &reasons[i] : NULL;
}

const struct tool_format *tool_format_find(const char *name)
{
    for (int32_t i = 0; tool_format_at(i) != NULL; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

const struct reason_format *reason_format_find(const char *name)
{
    for (int32_t i = 0; reason_format_at(i) != NULL; i++)
        if (strcmp(reasons[i].name, name) == 0)
            return &reasons[i];
    return NULL;
}

static bool has(const char *text, size_t length, const char *sign)
{
    return memmem(text, length, sign, strlen(sign)) != NULL;
}

const struct tool_format *tool_format_of(const char *chat_template, size_t length)
{
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (has(chat_template, length, signs[i].signs[0]) &&
            (signs[i].signs[1] == NULL || has(chat_template, length, signs[i].signs[1])))
            return tool_format_find(signs[i].format);
    return NULL;
}

const struct reason_format *reason_format_of(const char *chat_template, size_t length)
{
    const struct tool_format *format = tool_format_of(chat_template, length);
    if (format != NULL && format->body == TOOL_CHANNELS)
        return &reasons[0];
    for (int32_t i = 1; reason_format_at(i) != NULL; i++)
        if (has(chat_template, length, reasons[i].close))
            return &reasons[i];
    return NULL;
}

bool tool_setup_active(const struct tool_setup *setup)
{
    return (setup->calls && setup->format != NULL) || setup->reasoning != NULL;
}

static bool is(const char *mark, const char *text, size_t length)
{
    return mark != NULL && strlen(mark) == length && memcmp(mark, text, length) == 0;
}

bool tool_setup_marks(const struct tool_setup *setup, const char *text, size_t length)
{
    const struct tool_format *f = setup->format;
    if (setup->reasoning != NULL &&
        (is(setup->reasoning->open, text, length) || is(setup->reasoning->close, text, length)))
        return true;
    if (f == NULL || !tool_setup_active(setup))
        return false;
    for (int32_t k = 0; k < TOOL_MARKS_MAX; k++)
        if (is(f->opens[k], text, length) || is(f->closes[k], text, length) ||
            is(f->separators[k], text, length) || is(f->drops[k], text, length))
            return true;
    /* The header's type of content is a mark too, though nothing is done with it. */
    if (f->body == TOOL_CHANNELS && is("<|constrain|>", text, length))
        return true;
    return is(f->section_open, text, length) || is(f->section_close, text, length) ||
           is(f->key_open, text, length) || is(f->key_close, text, length) ||
           is(f->value_open, text, length) || is(f->value_close, text, length);
}

bool tool_prompt_reasons(const struct reason_format *reasoning, const char *prompt, size_t length)
{
    if (reasoning == NULL || reasoning->open == NULL)
        return false;
    while (length > 0 && strchr(" \t\r\n", prompt[length - 1]) != NULL)
        length--;
    size_t n = strlen(reasoning->open);
    return length >= n && memcmp(prompt + length - n, reasoning->open, n) == 0;
}

bool tool_text_reasons(const struct reason_format *reasoning, const char *text, size_t length)
{
    if (reasoning == NULL || reasoning->open == NULL)
        return false;
    const char *at = memmem(text, length, reasoning->open, strlen(reasoning->open));
    return at != NULL && !has(at, length - (size_t)(at - text), reasoning->close);
}
