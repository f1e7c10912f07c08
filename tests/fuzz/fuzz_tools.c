/* libFuzzer entry for the parsers of tool calls: byte 0 chooses the format, byte 1 the reasoning
 * and switches, bytes 2 and 3 where the rest, a model's text, is cut. However it is cut, what is
 * said is the same; a call is begun, then argued, then ended, once each and in order; the arguments
 * of a complete call, where its format writes objects, are JSON. */
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>
#include "api/tool_json.h"
#include "api/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char TOOLS[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":"
    "{\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"}}}}}]";

/* Kinds and texts of all events, neighbours joined: equal for equal readings. */
struct reading {
    struct buf text, arguments;
    int last_kind, last_call, n_begun, n_ended;
};

static void take(struct reading *r, struct tool_parser *parser)
{
    struct tool_said said = tool_parser_said(parser);
    for (int32_t i = 0; i < said.n_events; i++) {
        const struct tool_event *e = &said.events[i];
        if ((int)e->kind != r->last_kind || e->call != r->last_call)
            buf_printf(&r->text, "\x01%d/%d ", (int)e->kind, (int)e->call);
        buf_put(&r->text, said.text + e->at, e->length);
        r->last_kind = (int)e->kind;
        r->last_call = e->call;
        if (e->kind == TOOL_SAID_CALL) {
            CHECK(e->call == r->n_begun++);
            CHECK(e->length > 0 && e->id[0] != 0);
            buf_reset(&r->arguments);
        } else if (e->kind == TOOL_SAID_ARGUMENTS) {
            CHECK(e->call == r->n_begun - 1 && r->n_ended <= e->call);
            buf_put(&r->arguments, said.text + e->at, e->length);
        } else if (e->kind == TOOL_SAID_END) {
            CHECK(e->call == r->n_begun - 1);
            r->n_ended = e->call + 1;
            CHECK(buf_text(&r->arguments)[0] == '{');
            CHECK(json_scan_whole(buf_text(&r->arguments), r->arguments.length));
        }
    }
    tool_parser_taken(parser);
}

static void read_text(struct reading *r, const struct tool_setup *setup, const char *text,
                      size_t length, size_t first, size_t second)
{
    struct tool_parser *parser;
    struct err err = { 0 };
    *r = (struct reading){ .last_kind = -1 };
    buf_init(&r->text, SIZE_MAX);
    buf_init(&r->arguments, SIZE_MAX);
    CHECK(tool_parser_open(&parser, setup, 0, &err));
    tool_parser_feed(parser, text, first);
    take(r, parser);
    tool_parser_feed(parser, text + first, second - first);
    take(r, parser);
    tool_parser_feed(parser, text + second, length - second);
    tool_parser_end(parser);
    take(r, parser);
    CHECK(tool_parser_finished(parser) && !tool_parser_failed(parser));
    CHECK(tool_parser_calls(parser) == r->n_begun);
    tool_parser_close(parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static cJSON *tools;
    if (tools == NULL)
        tools = cJSON_Parse(TOOLS);
    if (size < 4)
        return 0;
    const char *text = (const char *)bytes + 4;
    size_t length = size - 4, first = bytes[2] % (length + 1), second = bytes[3] % (length + 1);
    struct tool_setup setup = { .format = tool_format_at(bytes[0] % 16),
                                .reasoning = reason_format_at(bytes[1] % 8),
                                .calls = (bytes[1] & 16) == 0,
                                .one_call = (bytes[1] & 32) != 0,
                                .reasoning_open = (bytes[1] & 64) != 0,
                                .tools = tools };
    if (first > second) {
        size_t swap = first;
        first = second;
        second = swap;
    }
    struct reading whole, cut;
    read_text(&whole, &setup, text, length, length, length);
    read_text(&cut, &setup, text, length, first, second);
    CHECK(whole.text.length == cut.text.length);
    CHECK(memcmp(buf_text(&whole.text), buf_text(&cut.text), cut.text.length) == 0);
    buf_clear(&whole.text);
    buf_clear(&whole.arguments);
    buf_clear(&cut.text);
    buf_clear(&cut.arguments);
    return 0;
}
