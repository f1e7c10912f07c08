/* tools.h - a model's text to content, reasoning and tool calls; and tools in requests.
 *
 * Pure: text in, events out; no threads, no sockets. The parser reads a byte at a time and decides
 * nothing by where its input was cut, so the events of a stream, joined, are those of the whole.
 *
 * Rules:
 * - A call begins (TOOL_SAID_CALL) when its name is known and its arguments begin. What turns out
 *   not to be a call before that is content, marks included, in its place.
 * - Arguments are the bytes that the model wrote, but for raw control characters in strings, which
 *   are escaped (JSON has none), arguments that are a string of JSON, which are unwrapped, and
 *   formats that do not write JSON. Bytes that cannot go on as JSON end the call: its arguments
 * stay cut short, and those bytes are content. So is the end of the text.
 * - Where nothing marks a call (a message that is one JSON object), its name must be one of the
 *   request's tools.
 * - Blanks next to a call or a reasoning block are not text. All else is said.
 * - Reasoning is a block at the beginning of the answer (or the prompt ends inside one); marks of
 *   calls inside it are text. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/json.h"

struct cJSON;

enum tool_body {
    TOOL_JSON,     /* {"name":..., "arguments"|"parameters":{}}, or a list of them */
    TOOL_NAMED,    /* the name, a mark, the arguments */
    TOOL_XML,      /* the name, then key and value between marks */
    TOOL_CHANNELS, /* gpt-oss: messages with a header that names channel and recipient */
};
enum { TOOL_MARKS_MAX = 3, TOOL_NAME_MAX = 64, TOOL_MARK_BYTES_MAX = 48, TOOL_ID_MAX = 32 };

/* How a family of models writes calls. NULL ends lists; NULL texts: there is no such mark. */
struct tool_format {
    const char *name; /* --tool-parser */
    enum tool_body body;
    const char *section_open, *section_close; /* around all calls */
    const char *opens[TOOL_MARKS_MAX];        /* in front of a call (TOOL_JSON: or a list) */
    const char *closes[TOOL_MARKS_MAX];       /* behind it; may be missing */
    const char *drops[TOOL_MARKS_MAX];        /* framing in text that is not shown */
    const char *separators[TOOL_MARKS_MAX];   /* NAMED: between name and arguments */
    const char *name_end, *key_open, *key_close, *value_open, *value_close; /* XML */
    /* How one call is written when the grammar writes it: "%s" stands for the name. NULL: the
     * arguments are no JSON, and calls cannot be forced. */
    const char *begin, *end;
    bool bare;      /* a message that begins with { or [ may be a call */
    bool known;     /* names must be those of the request's tools */
    bool short_ids; /* ids are 9 letters and digits (Mistral's templates want that) */
};
/* Blocks of reasoning. open NULL: the channels of gpt-oss. */
struct reason_format {
    const char *name, *open, *close;
};
/* By name, or NULL. "auto" and "none" are no names. */
const struct tool_format *tool_format_find(const char *name);
const struct reason_format *reason_format_find(const char *name);
/* By what a chat template says; NULL: it has no tools / no reasoning. */
const struct tool_format *tool_format_of(const char *chat_template, size_t length);
const struct reason_format *reason_format_of(const char *chat_template, size_t length);
/* For messages and tests: row i, NULL behind the last. */
const struct tool_format *tool_format_at(int32_t i);
const struct reason_format *reason_format_at(int32_t i);

/* What one request wants of its text. Constant while its choices run; all pointers borrowed. */
struct tool_setup {
    const struct tool_format *format;      /* NULL: none is known */
    bool calls;                            /* calls are parsed */
    bool one_call;                         /* parallel_tool_calls false: a call ends the choice */
    const struct reason_format *reasoning; /* NULL: not split */
    bool reasoning_open;                   /* the prompt ends inside the block */
    const struct cJSON *tools;             /* the request's list, or NULL */
    uint64_t id_seed;                      /* calls get ids from (seed, choice, call) */
};
/* Is a parser needed at all? */
bool tool_setup_active(const struct tool_setup *setup);
/* Is this token one of the marks that the parser must see, special or not? */
bool tool_setup_marks(const struct tool_setup *setup, const char *text, size_t length);
/* The prompt ends inside a reasoning block: its last mark is the block's opening one, and nothing
 * but blanks follows. */
bool tool_prompt_reasons(const struct reason_format *reasoning, const char *prompt, size_t length);
/* The same of an answer that is to go on: a block was opened in it and not closed. */
bool tool_text_reasons(const struct reason_format *reasoning, const char *text, size_t length);

enum tool_said_kind {
    TOOL_SAID_CONTENT,
    TOOL_SAID_REASONING,
    TOOL_SAID_CALL,      /* text: its name; id */
    TOOL_SAID_ARGUMENTS, /* text: more of them */
    TOOL_SAID_END,       /* the call is complete: its arguments are a JSON object */
};
struct tool_event {
    enum tool_said_kind kind;
    int32_t call;      /* its index, or -1 */
    size_t at, length; /* in the text */
    char id[TOOL_ID_MAX];
};
/* What was said since the last tool_parser_taken; neighbours of one kind are one event. */
struct tool_said {
    const struct tool_event *events; /* [n_events] */
    int32_t n_events;
    const char *text;
};

/* ---- requests ---- */

enum tool_choice { TOOL_CHOICE_NONE, TOOL_CHOICE_AUTO, TOOL_CHOICE_REQUIRED, TOOL_CHOICE_NAMED };
/* [A-Za-z0-9_.-]{1,64} */
bool tool_name_is_fine(const char *name, size_t length);
/* What the grammar compiler gets for calls of this format (host/grammar, structural tags):
 *   {"tags": [{"begin", "end", "schema"}], "at_least_one", "only_tags", "stop_after_first"}
 * One tag a tool, its arguments by the schema of its parameters (none declared: no members). With
 * TOOL_CHOICE_AUTO text is free but for what follows a tag's beginning; with _REQUIRED and _NAMED
 * (`name`) a call must be written, and nothing else unless `text_first` (reasoning comes before).
 * `parallel` false: one call. Marks are text here, though the tokens that they are may be special:
 * the vocabulary must give those their texts (tool_setup_marks). ERR_REQUEST, field tool_choice,
 * where the format cannot be forced. The result is the caller's, cJSON_Delete. */
MUST_USE bool tool_grammar(struct cJSON **out, const struct tool_format *format,
                           const struct cJSON *tools, enum tool_choice choice, const char *name,
                           bool parallel, bool text_first, struct err *err);
/* Arguments in tool_calls of messages are strings of JSON on the wire; templates want objects (as
 * transformers documents), or the strings (`strings`). In the tree; a string that is no object
 * stays what it is, and none at all becomes {}. */
MUST_USE bool tool_arguments(struct cJSON *messages, bool strings, struct err *err);
struct chat_template;
/* Does this template write a call's arguments well only when they are a string? Found by trying. */
bool tool_template_wants_strings(const struct chat_template *chat);

/* ---- texts ---- */

struct tool_parser;
MUST_USE bool tool_parser_open(struct tool_parser **parser, const struct tool_setup *setup,
                               int32_t choice, struct err *err);
void tool_parser_close(struct tool_parser *parser);
/* UTF-8, cut anywhere. */
void tool_parser_feed(struct tool_parser *parser, const char *bytes, size_t length);
/* The text has ended: what was held back is said. */
void tool_parser_end(struct tool_parser *parser);
struct tool_said tool_parser_said(const struct tool_parser *parser);
void tool_parser_taken(struct tool_parser *parser);
/* Is there anything in it that a reply shows? */
bool tool_said_shows(struct tool_said said);
int32_t tool_parser_calls(const struct tool_parser *parser); /* begun so far */
bool tool_parser_finished(const struct tool_parser *parser); /* one_call: it is complete */
bool tool_parser_failed(const struct tool_parser *parser);   /* out of memory */
