/* tool_parse.c - the machine that splits a model's text: content, reasoning, calls. Rules: tools.h.
 *
 * One byte at a time: it is held while it may belong to a mark of the state that the machine is in;
 * a whole mark is an action, any other byte goes to the state. A state may give a byte back (with
 * the state changed), never two. So nothing depends on cuts, and a byte costs a bounded number of
 * comparisons. What an attempt at a call has read is kept in `raw` until the call begins: if it
 * never does, it is text. */
#include <stdlib.h>
#include <string.h>
#include "api/tool_state.h"

/* ---- the machine ------------------------------------------------------------------------------
 */

static void raw_mark(struct tool_parser *p, const struct mark *mark)
{
    buf_put(&p->raw, mark->text, mark->length);
}

/* Behind a call. */
static void leave_call(struct tool_parser *p)
{
    buf_reset(&p->raw);
    p->trim = true;
    p->kind = TOOL_SAID_CONTENT;
    p->at = p->in_section ? AT_SECTION : AT_TEXT;
}

static void on_open(struct tool_parser *p, const struct mark *mark)
{
    if (p->format->body == TOOL_CHANNELS) {
        tool_begin_header(p);
        raw_mark(p, mark);
        p->n_name = 3; /* the header has begun */
        return;
    }
    tool_begin_attempt(p, true);
    raw_mark(p, mark);
    p->at = p->format->body == TOOL_XML ? AT_XML_NAME : AT_OPEN;
}

static void on_close(struct tool_parser *p)
{
    if (p->at == AT_TEXT && p->kind == TOOL_SAID_CONTENT)
        tool_say(p, p->kind, -1, buf_text(&p->blank), p->blank.length);
    if (p->at == AT_XML || p->at == AT_XML_NAME) {
        tool_say_arguments(p, p->n_members == 0 ? "{}" : "}", p->n_members == 0 ? 2 : 1);
        tool_end_call(p);
    }
    leave_call(p);
    buf_reset(&p->blank);
    if (p->format->body == TOOL_CHANNELS)
        tool_begin_header(p);
}

static void on_separator(struct tool_parser *p, const struct mark *mark)
{
    raw_mark(p, mark);
    p->at = AT_SEPARATED;
}

static void on_name_end(struct tool_parser *p, const struct mark *mark)
{
    tool_trim_name(p);
    if (!tool_begin(p)) {
        raw_mark(p, mark);
        tool_fail(p);
        return;
    }
    if (mark->action == DO_CLOSE) {
        on_close(p);
        return;
    }
    p->at = mark->action == DO_KEY ? AT_XML_KEY : AT_XML;
    buf_reset(&p->key);
    if (mark->action == DO_KEY)
        raw_mark(p, mark);
}

static void on_mark(struct tool_parser *p, const struct mark *mark)
{
    if (p->at == AT_XML_NAME) {
        on_name_end(p, mark);
        return;
    }
    switch ((enum action)mark->action) {
    case DO_THINK:
    case DO_THINK_END:
        p->kind = mark->action == DO_THINK ? TOOL_SAID_REASONING : TOOL_SAID_CONTENT;
        p->at = mark->action == DO_THINK ? AT_THINK : AT_START;
        p->trim = true;
        buf_reset(&p->blank);
        break;
    case DO_SECTION:
        tool_begin_attempt(p, true);
        raw_mark(p, mark);
        p->in_section = true;
        p->n_section = p->n_calls;
        p->at = AT_SECTION;
        break;
    case DO_SECTION_END:
        raw_mark(p, mark);
        p->in_section = false;
        if (p->n_calls == p->n_section)
            tool_fail(p);
        else
            leave_call(p);
        break;
    case DO_OPEN:
        on_open(p, mark);
        break;
    case DO_CLOSE:
        on_close(p);
        break;
    case DO_DROP:
        break;
    case DO_SEPARATOR:
        on_separator(p, mark);
        break;
    case DO_SKIP:
        raw_mark(p, mark);
        p->at = AT_SKIP;
        break;
    case DO_NAME_END:
        CHECK(!"only behind a name");
        break;
    case DO_KEY:
        raw_mark(p, mark);
        buf_reset(&p->key);
        p->at = AT_XML_KEY;
        break;
    case DO_KEY_END:
        raw_mark(p, mark);
        buf_reset(&p->value);
        p->at = p->format->value_open != NULL ? AT_XML_GAP : AT_XML_VALUE;
        break;
    case DO_VALUE:
        raw_mark(p, mark);
        p->at = AT_XML_VALUE;
        break;
    case DO_VALUE_END:
        tool_say_member(p);
        p->at = AT_XML;
        break;
    case DO_MESSAGE:
        raw_mark(p, mark);
        if (!tool_end_header(p))
            tool_fail(p);
        break;
    }
}

/* A byte into the attempt's raw text. */
static bool keep(struct tool_parser *p, char c)
{
    buf_putc(&p->raw, c);
    return true;
}

/* Behind a call: blanks, commas between calls, the fence's end, or another call. */
static bool close_byte(struct tool_parser *p, char c)
{
    const struct tool_format *f = p->format;
    if (tool_is_blank(c) || (f->body == TOOL_NAMED && c == '`') ||
        (f->body == TOOL_JSON && (c == ';' || c == ',')))
        return keep(p, c);
    if (f->body == TOOL_JSON && c == '{') {
        bool marked = p->marked;
        tool_begin_attempt(p, marked);
        p->at = AT_JSON;
    }
    return false;
}

/* Between name and arguments. */
static bool separated_byte(struct tool_parser *p, char c)
{
    if (tool_is_blank(c))
        return keep(p, c);
    if (c == '{' || c == '"') {
        tool_begin_named(p);
        return false;
    }
    tool_trim_name(p);
    if (p->format->body == TOOL_NAMED && strcmp(p->name, "function") == 0) {
        p->n_name = 0;
        p->at = AT_NAME_LINE;
    }
    return false;
}

/* One byte that is no mark. False: it was not taken, and the state has changed (or must). */
static bool on_byte(struct tool_parser *p, char c)
{
    switch (p->at) {
    case AT_START:
        if (tool_is_blank(c)) {
            tool_text(p, c);
            return true;
        }
        if (p->setup->calls && p->format != NULL && p->format->bare && (c == '{' || c == '[')) {
            tool_begin_attempt(p, false);
            p->at = AT_JSON;
            return false;
        }
        p->at = AT_TEXT;
        return false;
    case AT_TEXT:
    case AT_THINK:
        tool_text(p, c);
        return true;
    case AT_SECTION:
        return tool_is_blank(c) && keep(p, c);
    case AT_OPEN:
        if (tool_is_blank(c))
            return keep(p, c);
        if (c == '{' || c == '[')
            p->at = AT_JSON;
        else if (p->format->body == TOOL_NAMED)
            p->at = AT_NAME;
        return false;
    case AT_JSON:
        if (!tool_json_byte(p, c))
            return false;
        if (p->scan.at == SCAN_DONE) {
            p->at = AT_CLOSE;
            if (p->n_calls > p->n_before)
                buf_reset(&p->raw); /* the end of a list */
        }
        return true;
    case AT_CLOSE:
        return close_byte(p, c);
    case AT_NAME:
        if (c != '{')
            return tool_name_byte(p, c);
        tool_begin_named(p);
        return false;
    case AT_SKIP:
        return p->raw.length < TOOL_HEADER_MAX && c != '{' && keep(p, c);
    case AT_SEPARATED:
        return separated_byte(p, c);
    case AT_NAME_LINE:
        if (c != '\n')
            return tool_name_byte(p, c);
        p->at = AT_FENCE;
        return keep(p, c);
    case AT_FENCE:
        if (c != '{' && c != '"')
            return strchr("`json \n\r", c) != NULL && c != 0 && keep(p, c);
        tool_begin_named(p);
        return false;
    case AT_ARGUMENTS:
        return tool_argument_byte(p, c);
    case AT_XML_NAME:
        return tool_name_byte(p, c);
    case AT_XML:
    case AT_XML_GAP:
        return tool_is_blank(c) && keep(p, c);
    case AT_XML_KEY:
        buf_putc(&p->key, c);
        return p->key.length <= TOOL_KEY_MAX && keep(p, c);
    case AT_XML_VALUE:
        buf_putc(&p->value, c);
        return keep(p, c);
    case AT_HEADER:
        return tool_header_byte(p, c);
    case AT_COUNT:
        break;
    }
    return true;
}

/* The mark of this state that the n held bytes are; NULL: none; *more: they may become one. */
static const struct mark *match(const struct tool_parser *p, bool *more)
{
    *more = false;
    for (int i = 0; i < p->n_marks[p->at]; i++) {
        const struct mark *mark = &p->marks[p->at][i];
        if (p->n_held > mark->length || memcmp(mark->text, p->held, p->n_held) != 0)
            continue;
        if (p->n_held == mark->length)
            return mark;
        *more = true;
    }
    return NULL;
}

static void push(struct tool_parser *p, char byte)
{
    char todo[TOOL_MARK_BYTES_MAX]; /* bytes to read, the next at `at` */
    size_t at = sizeof todo;
    todo[--at] = byte;
    while (at < sizeof todo && !p->finished) {
        bool more;
        p->held[p->n_held++] = todo[at++];
        const struct mark *mark = match(p, &more);
        if (mark != NULL) {
            p->n_held = 0;
            on_mark(p, mark);
        } else if (!more) {
            /* The first is no mark's; the others are looked at anew. */
            size_t rest = p->n_held - 1;
            char first = p->held[0];
            at -= rest;
            memcpy(todo + at, p->held + 1, rest);
            p->n_held = 0;
            enum state before = p->at;
            if (on_byte(p, first))
                continue;
            if (p->at == before)
                tool_fail(p);
            todo[--at] = first;
        }
    }
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void add_mark(struct tool_parser *p, enum state state, const char *text, enum action action)
{
    if (text == NULL)
        return;
    size_t length = strlen(text);
    uint8_t *n = &p->n_marks[state];
    CHECK(length > 0 && length < TOOL_MARK_BYTES_MAX);
    CHECK(*n < TOOL_STATE_MARKS);
    p->marks[state][(*n)++] = (struct mark){ text, (uint8_t)length, (uint8_t)action };
}

static void add_marks(struct tool_parser *p, enum state state, const char *const *texts,
                      enum action action)
{
    for (int k = 0; k < TOOL_MARKS_MAX; k++)
        add_mark(p, state, texts[k], action);
}

static void add_channels(struct tool_parser *p)
{
    static const enum state in[] = { AT_TEXT, AT_CLOSE };
    for (int i = 0; i < 2; i++) {
        add_marks(p, in[i], p->format->opens, DO_OPEN);
        add_marks(p, in[i], p->format->closes, DO_CLOSE);
    }
    add_mark(p, AT_HEADER, p->format->separators[0], DO_MESSAGE);
}

static void add_calls(struct tool_parser *p)
{
    static const enum state in[] = { AT_START, AT_TEXT, AT_SECTION, AT_CLOSE };
    const struct tool_format *f = p->format;
    for (int i = 0; i < 4; i++) {
        add_marks(p, in[i], f->opens, DO_OPEN);
        if (in[i] == AT_START || in[i] == AT_TEXT)
            add_mark(p, in[i], f->section_open, DO_SECTION);
        else
            add_mark(p, in[i], f->section_close, DO_SECTION_END);
    }
    add_marks(p, AT_CLOSE, f->closes, DO_CLOSE);
    add_mark(p, AT_NAME, f->separators[0], DO_SEPARATOR);
    add_mark(p, AT_NAME, f->separators[1], DO_SKIP);
    add_mark(p, AT_SKIP, f->separators[0], DO_SEPARATOR);
    if (f->body != TOOL_XML)
        return;
    add_mark(p, AT_XML_NAME, f->name_end, DO_NAME_END);
    add_mark(p, AT_XML_NAME, f->key_open, DO_KEY);
    add_mark(p, AT_XML_NAME, f->closes[0], DO_CLOSE);
    add_mark(p, AT_XML, f->key_open, DO_KEY);
    add_mark(p, AT_XML, f->closes[0], DO_CLOSE);
    add_mark(p, AT_XML_KEY, f->key_close, DO_KEY_END);
    add_mark(p, AT_XML_GAP, f->value_open, DO_VALUE);
    add_mark(p, AT_XML_VALUE, f->value_close, DO_VALUE_END);
}

bool tool_parser_open(struct tool_parser **out, const struct tool_setup *setup, int32_t choice,
                      struct err *err)
{
    struct tool_parser *p = calloc(1, sizeof *p);
    if (p == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the parser of tool calls");
    p->setup = setup;
    p->format = setup->format;
    p->choice = choice;
    p->kind = TOOL_SAID_CONTENT;
    struct buf *const bufs[] = { &p->blank, &p->raw,    &p->arguments, &p->key,
                                 &p->value, &p->events, &p->text };
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++)
        buf_init(bufs[i], TOOL_TEXT_MAX);
    const struct reason_format *reasoning = setup->reasoning;
    if (p->format != NULL && p->format->body == TOOL_CHANNELS) {
        add_channels(p);
        tool_begin_header(p);
    } else {
        if (p->format != NULL && setup->calls)
            add_calls(p);
        for (int i = 0; p->format != NULL && i < 2; i++)
            add_marks(p, i ? AT_TEXT : AT_START, p->format->drops, DO_DROP);
        if (reasoning != NULL) {
            add_mark(p, AT_START, reasoning->open, DO_THINK);
            add_mark(p, AT_THINK, reasoning->close, DO_THINK_END);
        }
        bool open = reasoning != NULL && setup->reasoning_open;
        p->at = open ? AT_THINK : AT_START;
        p->kind = open ? TOOL_SAID_REASONING : TOOL_SAID_CONTENT;
        p->trim = open;
    }
    *out = p;
    return true;
}

void tool_parser_close(struct tool_parser *p)
{
    if (p == NULL)
        return;
    buf_clear(&p->blank);
    buf_clear(&p->raw);
    buf_clear(&p->arguments);
    buf_clear(&p->key);
    buf_clear(&p->value);
    buf_clear(&p->events);
    buf_clear(&p->text);
    free(p);
}

void tool_parser_feed(struct tool_parser *p, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length && !p->finished; i++)
        push(p, bytes[i]);
}

void tool_parser_end(struct tool_parser *p)
{
    if (p->finished)
        return;
    /* Half a mark belongs to what it would have ended. */
    if (p->at == AT_START || p->at == AT_TEXT || p->at == AT_THINK) {
        for (size_t i = 0; i < p->n_held; i++)
            tool_text(p, p->held[i]);
    } else {
        buf_put(&p->raw, p->held, p->n_held);
        tool_fail(p);
    }
    p->n_held = 0;
    tool_say(p, p->kind, -1, buf_text(&p->blank), p->blank.length);
    buf_reset(&p->blank);
    p->finished = true;
}

struct tool_said tool_parser_said(const struct tool_parser *p)
{
    return (struct tool_said){
        .events = (const struct tool_event *)(const void *)p->events.bytes,
        .n_events = (int32_t)(p->events.length / sizeof(struct tool_event)),
        .text = buf_text(&p->text),
    };
}

void tool_parser_taken(struct tool_parser *p)
{
    bool failed = tool_parser_failed(p);
    buf_reset(&p->events);
    buf_reset(&p->text);
    p->text.failed = failed;
}

bool tool_said_shows(struct tool_said said)
{
    for (int32_t i = 0; i < said.n_events; i++)
        if (said.events[i].kind != TOOL_SAID_END)
            return true;
    return false;
}

int32_t tool_parser_calls(const struct tool_parser *p)
{
    return p->n_calls;
}

bool tool_parser_finished(const struct tool_parser *p)
{
    return p->finished;
}

bool tool_parser_failed(const struct tool_parser *p)
{
    return p->events.failed || p->text.failed || p->blank.failed || p->raw.failed ||
           p->arguments.failed || p->key.failed || p->value.failed;
}
