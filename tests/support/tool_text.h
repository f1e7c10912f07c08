/* tool_text.h - what a parser of tool calls said, as one line of text: C(content), R(reasoning),
 * #0 name A({"a":1}) and . where the call is complete. Neighbours of a kind are joined, so that a
 * line does not depend on when it was asked for. */
#pragma once
#include "tests/support/support.h"
#include "api/tools.h"

struct tool_line {
    struct buf text;
    enum tool_said_kind kind; /* of the open bracket */
    int32_t call;
    bool open;
};

static inline void tool_line_close(struct tool_line *line)
{
    if (line->open)
        buf_putc(&line->text, ')');
    line->open = false;
}

static inline void tool_line_take(struct tool_line *line, struct tool_parser *parser)
{
    struct tool_said said = tool_parser_said(parser);
    for (int32_t i = 0; i < said.n_events; i++) {
        const struct tool_event *event = &said.events[i];
        bool text = event->kind == TOOL_SAID_CONTENT || event->kind == TOOL_SAID_REASONING ||
                    event->kind == TOOL_SAID_ARGUMENTS;
        if (!line->open || !text || line->kind != event->kind || line->call != event->call) {
            tool_line_close(line);
            line->open = text;
            line->kind = event->kind;
            line->call = event->call;
            if (event->kind == TOOL_SAID_CALL)
                buf_printf(&line->text, "#%d ", (int)event->call);
            else
                buf_puts(&line->text, event->kind == TOOL_SAID_CONTENT     ? "C("
                                      : event->kind == TOOL_SAID_REASONING ? "R("
                                      : event->kind == TOOL_SAID_ARGUMENTS ? "A("
                                                                           : ".");
        }
        buf_put(&line->text, said.text + event->at, event->length);
    }
    tool_parser_taken(parser);
}

/* `text` fed in pieces that end at cuts[0..n_cuts), ascending, and at its end. `each`: a byte at a
 * time. */
static inline void tool_line_of(struct tool_line *line, const struct tool_setup *setup,
                                const char *text, size_t length, const size_t *cuts, size_t n_cuts,
                                bool each)
{
    struct tool_parser *parser;
    struct err err = { 0 };
    *line = (struct tool_line){ 0 };
    buf_init(&line->text, 64 << 20);
    if (!tool_parser_open(&parser, setup, 0, &err))
        abort();
    size_t at = 0;
    for (size_t k = 0; k <= n_cuts; k++) {
        size_t end = k < n_cuts ? cuts[k] : length;
        for (size_t n = each ? 1 : end - at; at < end; at += n) {
            tool_parser_feed(parser, text + at, n);
            tool_line_take(line, parser);
        }
    }
    tool_parser_end(parser);
    tool_line_take(line, parser);
    tool_line_close(line);
    tool_parser_close(parser);
}
