/* tool_state.h - the parser's struct, and what its two files share. For api/tool_*.c. */
#pragma once
#include "api/tool_json.h"
#include "api/tools.h"

enum {
    TOOL_TEXT_MAX = 64 << 20,
    TOOL_NAME_RAW_MAX = 128,
    TOOL_KEY_MAX = 256,
    TOOL_HEADER_MAX = 512,
    TOOL_STATE_MARKS = 12
};

enum state {
    AT_START, /* of content: only blanks so far */
    AT_TEXT,
    AT_THINK,
    AT_SECTION, /* between a section's mark and a call */
    AT_OPEN,    /* behind a call's mark */
    AT_JSON,    /* in a call object, or a list of them */
    AT_CLOSE,   /* behind a call */
    AT_NAME,
    AT_SKIP,      /* behind [CALL_ID] */
    AT_SEPARATED, /* between name and arguments */
    AT_NAME_LINE, /* DeepSeek V3: "function" came first, now the name up to the line's end */
    AT_FENCE,     /* and ```json */
    AT_ARGUMENTS,
    AT_XML_NAME,
    AT_XML,
    AT_XML_KEY,
    AT_XML_GAP,
    AT_XML_VALUE,
    AT_HEADER, /* channels */
    AT_COUNT,
};
enum action {
    DO_THINK,
    DO_THINK_END,
    DO_SECTION,
    DO_SECTION_END,
    DO_OPEN,
    DO_CLOSE,
    DO_DROP,
    DO_SEPARATOR,
    DO_SKIP,
    DO_NAME_END,
    DO_KEY,
    DO_KEY_END,
    DO_VALUE,
    DO_VALUE_END,
    DO_MESSAGE, /* channels: a header ends */
};
struct mark {
    const char *text;
    uint8_t length, action;
};
enum field { FIELD_OTHER, FIELD_NAME, FIELD_ARGUMENTS, FIELD_WRAPPED };

struct tool_parser {
    const struct tool_setup *setup;
    const struct tool_format *format; /* NULL: reasoning only */
    int32_t choice;
    enum state at;
    struct mark marks[AT_COUNT][TOOL_STATE_MARKS];
    uint8_t n_marks[AT_COUNT];
    char held[TOOL_MARK_BYTES_MAX]; /* the beginning of a mark of this state */
    size_t n_held;
    /* text */
    enum tool_said_kind kind; /* of plain text now */
    struct buf blank;         /* blanks that are text if text follows */
    bool trim;                /* blanks are dropped: a call or a block of reasoning was before */
    /* a call */
    struct buf raw;       /* read since the text ended, not said yet */
    struct buf arguments; /* read before the name was known */
    struct buf key, value;
    char name[TOOL_NAME_RAW_MAX + 1];
    size_t n_name;
    bool named, begun, marked, any_arguments, in_section, finished;
    int32_t n_calls;   /* begun */
    int32_t n_before;  /* those when this attempt began */
    int32_t n_section; /* and when the section did */
    /* call objects */
    struct json_scan scan;
    uint8_t base; /* depth inside a call object: 1, in a list 2 */
    enum field field;
    struct json_unescape unescape;
    struct json_scan inner; /* of arguments that are a string of JSON */
    int32_t n_members;      /* XML */
    /* said */
    struct buf events, text;
};

/* tool_calls.c. A function that takes a byte returns false when the byte cannot go on there. */
bool tool_is_blank(char c);
void tool_say(struct tool_parser *p, enum tool_said_kind kind, int32_t call, const char *bytes,
              size_t n);
void tool_text(struct tool_parser *p, char c);
/* What was read is no call: it is content. */
void tool_fail(struct tool_parser *p);
void tool_begin_attempt(struct tool_parser *p, bool marked);
/* The call is certain. False: its name cannot be one. */
bool tool_begin(struct tool_parser *p);
void tool_say_arguments(struct tool_parser *p, const char *bytes, size_t n);
void tool_end_call(struct tool_parser *p);
/* A byte of a call object or of a list of them. */
bool tool_json_byte(struct tool_parser *p, char c);
/* A byte of a name in front of its arguments; the name without blanks around it. */
bool tool_name_byte(struct tool_parser *p, char c);
void tool_trim_name(struct tool_parser *p);
/* The first byte of the arguments is next; false as tool_begin. */
bool tool_begin_named(struct tool_parser *p);
bool tool_argument_byte(struct tool_parser *p, char c);
/* One parameter of an XML call is complete: key and value. */
void tool_say_member(struct tool_parser *p);
/* Channels: a header. */
void tool_begin_header(struct tool_parser *p);
bool tool_header_byte(struct tool_parser *p, char c);
/* `raw` holds all of it: what follows is reasoning, text or a call. False: a call that cannot be.
 */
bool tool_end_header(struct tool_parser *p);
