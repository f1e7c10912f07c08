/* structured.h - requests whose answer has a form: OpenAI's response_format, vLLM's
 * structured_outputs and its older guided_*, llama.cpp's grammar and json_schema.
 *
 * All come down to one struct; of two at once the second is refused. Pure: parsing is quick, and
 * compiling (host/grammar: bounded in time and memory) is for a prep worker. */
#pragma once
#include <stdbool.h>
#include "host/base/arena.h"
#include "host/base/err.h"
#include "host/base/json.h"

struct grammar;
enum structured_kind {
    STRUCTURED_NONE,
    STRUCTURED_OBJECT, /* any JSON object */
    STRUCTURED_SCHEMA, /* node, or its JSON text */
    STRUCTURED_REGEX,  /* text */
    STRUCTURED_CHOICE, /* node: a list of strings */
    STRUCTURED_GBNF,   /* text */
    STRUCTURED_TAGS    /* node: {structures: [{begin, schema, end}], triggers: []} */
};
struct structured {
    enum structured_kind kind;
    const char *field; /* "response_format.json_schema.schema": for errors */
    const struct cJSON *node;
    const char *text;
    bool compact; /* no blanks between the parts of JSON */
};

/* What the request asks for; field and texts live as long as the tree and the arena. */
MUST_USE bool structured_parse(struct structured *out, const struct json_ref *root,
                               struct arena *arena, struct err *err);
/* kind is not NONE. Errors name the field. The grammar is the caller's (grammar_close). */
MUST_USE bool structured_compile(const struct structured *structured, struct grammar **grammar,
                                 struct err *err);
