/* tool_formats.c - the table of call formats, and which one a chat template writes. */
#include "api/tools.h"
#include <string.h>

/* First row whose signs are all in the template wins: rows with rarer signs stand first.
 * Sources: the models' own chat templates and cards. */
static const struct tool_format formats[] = {
    /* OpenAI's harmony: <|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>
     */
    { .name = "gpt_oss",
      .signs = { "<|channel|>", "<|message|>" },
      .body = TOOL_CHANNELS,
      .opens = { "<|start|>", "<|channel|>" },
      .closes = { "<|call|>", "<|end|>", "<|return|>" },
      .separators = { "<|message|>" } },
    /* V3: "function<sep>f\n```json\n{}\n```"; V3.1: "f<sep>{}". */
    { .name = "deepseek",
      .signs = { "<｜tool▁call▁begin｜>" },
      .body = TOOL_NAMED,
      .section_open = "<｜tool▁calls▁begin｜>",
      .section_close = "<｜tool▁calls▁end｜>",
      .opens = { "<｜tool▁call▁begin｜>" },
      .closes = { "<｜tool▁call▁end｜>" },
      .separators = { "<｜tool▁sep｜>" } },
    /* [TOOL_CALLS] [{"name":..}, ..]; since 2025 [TOOL_CALLS]f[CALL_ID]x[ARGS]{}. */
    { .name = "mistral",
      .signs = { "[TOOL_CALLS]" },
      .body = TOOL_NAMED,
      .opens = { "[TOOL_CALLS]" },
      .separators = { "[ARGS]", "[CALL_ID]" },
      .argument_key = "arguments",
      .list = true,
      .short_ids = true },
    { .name = "command_r",
      .signs = { "<|START_ACTION|>" },
      .body = TOOL_JSON,
      .opens = { "<|START_ACTION|>" },
      .closes = { "<|END_ACTION|>" },
      .drops = { "<|START_RESPONSE|>", "<|END_RESPONSE|>" },
      .argument_key = "parameters",
      .list = true },
    { .name = "qwen3_coder",
      .signs = { "<function=", "<parameter=" },
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
      .signs = { "<arg_key>", "<arg_value>" },
      .body = TOOL_XML,
      .opens = { "<tool_call>" },
      .closes = { "</tool_call>" },
      .name_end = "\n",
      .key_open = "<arg_key>",
      .key_close = "</arg_key>",
      .value_open = "<arg_value>",
      .value_close = "</arg_value>" },
    { .name = "hermes",
      .signs = { "<tool_call>" },
      .body = TOOL_JSON,
      .opens = { "<tool_call>" },
      .closes = { "</tool_call>" },
      .argument_key = "arguments" },
    /* Phi-4-mini: <|tool_call|>[..]<|/tool_call|>, and functools[..] as its card has it. */
    { .name = "phi4",
      .signs = { "<|/tool_call|>" },
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>", "functools" },
      .closes = { "<|/tool_call|>" },
      .argument_key = "arguments",
      .list = true },
    { .name = "phi4",
      .signs = { "functools" },
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>", "functools" },
      .closes = { "<|/tool_call|>" },
      .argument_key = "arguments",
      .list = true },
    { .name = "phi4", /* Phi-4-mini's template shows how tools are declared only */
      .signs = { "<|tool|>", "<|/tool|>" },
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>", "functools" },
      .closes = { "<|/tool_call|>" },
      .argument_key = "arguments",
      .list = true },
    { .name = "granite",
      .signs = { "<|tool_call|>" },
      .body = TOOL_JSON,
      .opens = { "<|tool_call|>" },
      .drops = { "<response>", "</response>" },
      .argument_key = "arguments",
      .list = true },
    { .name = "llama3_json",
      .signs = { "<|python_tag|>" },
      .body = TOOL_JSON,
      .opens = { "<|python_tag|>" },
      .argument_key = "parameters",
      .bare = true },
    { .name = "llama3_json", /* Llama 3.2 and its relatives */
      .signs = { "<|start_header_id|>", "tools" },
      .body = TOOL_JSON,
      .opens = { "<|python_tag|>" },
      .argument_key = "parameters",
      .bare = true },
    { .name = "json",
      .signs = { "tools" },
      .body = TOOL_JSON,
      .opens = { "```json" },
      .closes = { "```" },
      .argument_key = "arguments",
      .bare = true,
      .known = true },
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
    for (int32_t i = 0; tool_format_at(i) != NULL; i++) {
        bool all = true;
        for (int32_t k = 0; k < TOOL_MARKS_MAX && formats[i].signs[k] != NULL; k++)
            all = all && has(chat_template, length, formats[i].signs[k]);
        if (all)
            return &formats[i];
    }
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
