/* structured.c - see structured.h. Shapes: OpenAI's API reference (response_format), vLLM's
 * protocol (structured_outputs, guided_*, structural_tag), llama.cpp's server (grammar,
 * json_schema, response_format with a schema of its own). */
#include "api/structured.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/grammar/grammar.h"

enum { TAGS_MAX = 1024, CHOICES_MAX = 100000 };

struct parse {
    struct structured *out;
    struct arena *arena;
    struct err *err;
};

/* The one form of the answer; a second is refused. */
static bool take(struct parse *p, enum structured_kind kind, const struct json_ref *at)
{
    char path[sizeof p->err->field];
    json_path(at, path, sizeof path);
    if (p->out->kind != STRUCTURED_NONE)
        return json_error(at, p->err, "cannot be combined with %s: an answer has one form",
                          p->out->field);
    const size_t n = strlen(path) + 1;
    char *field = arena_take(p->arena, n, 1);
    if (field == NULL)
        return err_set(p->err, ERR_MEMORY, "no memory for the name of a field");
    memcpy(field, path, n);
    p->out->kind = kind;
    p->out->field = field;
    p->out->node = at->node;
    return true;
}
static bool take_text(struct parse *p, enum structured_kind kind, const struct json_ref *at)
{
    return take(p, kind, at) && json_string(at, &p->out->text, p->err);
}
/* A schema: an object, true or false; with `texts` also a JSON text. */
static bool take_schema(struct parse *p, const struct json_ref *at, bool texts)
{
    if (texts && json_is_string(at))
        return take_text(p, STRUCTURED_SCHEMA, at);
    if (!json_is_object(at) && !json_is_bool(at))
        return json_error(at, p->err, "must be a JSON Schema: an object%s",
                          texts ? " or its JSON text" : "");
    return take(p, STRUCTURED_SCHEMA, at);
}
static bool take_choice(struct parse *p, const struct json_ref *at)
{
    struct json_ref item;
    if (!json_is_array(at) || json_count(at) == 0)
        return json_error(at, p->err, "must be a list of at least one string");
    if (json_count(at) > CHOICES_MAX)
        return json_error(at, p->err, "has %lld strings, at most %d are allowed",
                          (long long)json_count(at), CHOICES_MAX);
    for (bool more = json_first(at, &item); more; more = json_next(&item))
        if (!json_is_string(&item))
            return json_error(&item, p->err, "must be a string");
    return take(p, STRUCTURED_CHOICE, at);
}
static bool take_tags(struct parse *p, const struct json_ref *at)
{
    struct json_ref list, item, member;
    const char *text;
    if (!json_is_object(at))
        return json_error(at, p->err, "must be an object with structures and triggers");
    if (!json_get(at, "structures", &list) || !json_is_array(&list) || json_count(&list) == 0 ||
        json_count(&list) > TAGS_MAX)
        return json_error(&list, p->err, "must be a list of 1 to %d tags", TAGS_MAX);
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        if (!json_is_object(&item))
            return json_error(&item, p->err, "must be an object with begin, schema and end");
        if (!json_get(&item, "begin", &member) || !json_string(&member, &text, p->err) ||
            !json_get(&item, "end", &member) || !json_string(&member, &text, p->err))
            return member.node != NULL ? false : json_error(&member, p->err, "must be a string");
        if (json_get(&item, "schema", &member) && !json_is_object(&member))
            return json_error(&member, p->err, "must be a JSON Schema: an object");
    }
    if (json_get(at, "triggers", &list)) {
        if (!json_is_array(&list) || json_count(&list) > TAGS_MAX)
            return json_error(&list, p->err, "must be a list of at most %d strings", TAGS_MAX);
        for (bool more = json_first(&list, &item); more; more = json_next(&item))
            if (!json_string(&item, &text, p->err))
                return false;
    }
    return take(p, STRUCTURED_TAGS, at);
}

static bool parse_response_format(struct parse *p, const struct json_ref *root)
{
    struct json_ref format, inner, schema;
    const char *type = NULL;
    if (!json_get(root, "response_format", &format))
        return true;
    if (!json_is_object(&format))
        return json_error(&format, p->err, "must be an object");
    if (!json_opt_string(&format, "type", &type, p->err))
        return false;
    if (type != NULL && strcmp(type, "text") == 0)
        return true;
    if (type != NULL && strcmp(type, "json_object") == 0) /* llama.cpp: with a schema */
        return json_get(&format, "schema", &schema) ? take_schema(p, &schema, false)
                                                    : take(p, STRUCTURED_OBJECT, &format);
    if (type != NULL && strcmp(type, "json_schema") == 0) {
        if (json_get(&format, "json_schema", &inner)) {
            if (!json_is_object(&inner))
                return json_error(&inner, p->err, "must be an object with name and schema");
            return json_get(&inner, "schema", &schema) ? take_schema(p, &schema, false)
                                                       : take(p, STRUCTURED_OBJECT, &inner);
        }
        if (json_get(&format, "schema", &schema))
            return take_schema(p, &schema, false);
        return json_error(&inner, p->err, "must be an object with name and schema");
    }
    if (type != NULL && strcmp(type, "structural_tag") == 0)
        return take_tags(p, &format);
    return err_set_field(p->err, ERR_REQUEST, "response_format.type",
                         "response_format.type must be text, json_object, json_schema or "
                         "structural_tag, got %.40s",
                         type != NULL ? type : "none");
}

/* The members of structured_outputs, and the same by their older names at the top. */
enum member {
    MEMBER_JSON,
    MEMBER_REGEX,
    MEMBER_CHOICE,
    MEMBER_GBNF,
    MEMBER_OBJECT,
    MEMBER_TAGS,
    MEMBER_COMPACT /* no form, but how one is written */
};
static bool take_member(struct parse *p, enum member member, const struct json_ref *at)
{
    bool wanted = false;
    switch (member) {
    case MEMBER_JSON:
        return take_schema(p, at, true);
    case MEMBER_REGEX:
        return take_text(p, STRUCTURED_REGEX, at);
    case MEMBER_CHOICE:
        return take_choice(p, at);
    case MEMBER_GBNF:
        return take_text(p, STRUCTURED_GBNF, at);
    case MEMBER_OBJECT:
        return json_bool(at, &wanted, p->err) && (!wanted || take(p, STRUCTURED_OBJECT, at));
    case MEMBER_TAGS:
        return take_tags(p, at);
    case MEMBER_COMPACT:
        return json_bool(at, &p->out->compact, p->err);
    }
    return false;
}

static bool parse_structured_outputs(struct parse *p, const struct json_ref *root)
{
    static const struct {
        const char *name;
        enum member member;
    } members[] = { { "json", MEMBER_JSON },
                    { "regex", MEMBER_REGEX },
                    { "choice", MEMBER_CHOICE },
                    { "grammar", MEMBER_GBNF },
                    { "json_object", MEMBER_OBJECT },
                    { "structural_tag", MEMBER_TAGS },
                    { "disable_any_whitespace", MEMBER_COMPACT } };
    enum { MEMBERS = sizeof members / sizeof *members };
    struct json_ref outputs, at;
    if (!json_get(root, "structured_outputs", &outputs))
        return true;
    if (!json_is_object(&outputs))
        return json_error(&outputs, p->err, "must be an object");
    for (bool more = json_first(&outputs, &at); more; more = json_next(&at)) {
        size_t i = 0;
        while (i < MEMBERS && strcmp(at.node->string, members[i].name) != 0)
            i++;
        if (cJSON_IsNull(at.node))
            continue;
        if (i == MEMBERS)
            return json_error(&at, p->err,
                              "is not supported by this server; json, regex, choice, "
                              "grammar, json_object, structural_tag and "
                              "disable_any_whitespace are");
        if (!take_member(p, members[i].member, &at))
            return false;
    }
    return p->out->kind != STRUCTURED_NONE ||
           json_error(&outputs, p->err,
                      "must have one of json, regex, choice, grammar, json_object, structural_tag");
}

bool structured_parse(struct structured *out, const struct json_ref *root, struct arena *arena,
                      struct err *err)
{
    static const struct {
        const char *name;
        enum member member;
    } names[] = { { "guided_json", MEMBER_JSON },     { "guided_regex", MEMBER_REGEX },
                  { "guided_choice", MEMBER_CHOICE }, { "guided_grammar", MEMBER_GBNF },
                  { "grammar", MEMBER_GBNF },         { "json_schema", MEMBER_JSON } };
    struct parse p = { out, arena, err };
    struct json_ref at;
    *out = (struct structured){ 0 };
    if (!parse_response_format(&p, root) || !parse_structured_outputs(&p, root))
        return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!json_get(root, names[i].name, &at))
            continue;
        /* llama.cpp's clients send an empty grammar for none. */
        if (names[i].member == MEMBER_GBNF && json_is_string(&at) && at.node->valuestring[0] == 0)
            continue;
        if (!take_member(&p, names[i].member, &at))
            return false;
    }
    return true;
}

/* ---- to a grammar -----------------------------------------------------------------------------
 */

static struct grammar_text text_of(const char *text)
{
    return (struct grammar_text){ text, strlen(text) };
}

static bool compile_choice(const struct structured *s, struct grammar **grammar, struct err *err)
{
    const struct json_ref list = json_root(s->node);
    struct json_ref item;
    struct grammar_text *texts = malloc((size_t)json_count(&list) * sizeof *texts);
    if (texts == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %lld texts", (long long)json_count(&list));
    size_t n = 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        texts[n++] = text_of(item.node->valuestring);
    const bool ok = grammar_compile_choice(grammar, texts, n, &GRAMMAR_LIMITS, err);
    free(texts);
    return ok;
}

static bool compile_tags(const struct structured *s, struct grammar **grammar, struct err *err)
{
    const struct grammar_json_options json = { .compact = s->compact };
    struct grammar_tag tags[TAGS_MAX];
    struct grammar_text triggers[TAGS_MAX];
    struct json_ref schemas[TAGS_MAX];
    const struct json_ref root = json_root(s->node);
    struct json_ref list, item, at;
    struct grammar_tags all = { .tags = tags, .triggers = triggers };
    if (!json_get(&root, "structures", &list))
        return err_set(err, ERR_REQUEST, "no structures");
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        struct grammar_tag *tag = &tags[all.n_tags];
        *tag = (struct grammar_tag){ 0 };
        if (json_get(&item, "begin", &at))
            tag->begin = text_of(at.node->valuestring);
        if (json_get(&item, "end", &at))
            tag->end = text_of(at.node->valuestring);
        if (json_get(&item, "schema", &at)) {
            schemas[all.n_tags] = json_root(at.node);
            tag->schema = &schemas[all.n_tags];
        }
        all.n_tags++;
    }
    if (json_get(&root, "triggers", &list))
        for (bool more = json_first(&list, &item); more; more = json_next(&item))
            triggers[all.n_triggers++] = text_of(item.node->valuestring);
    return grammar_compile_tags(grammar, &all, &json, &GRAMMAR_LIMITS, err);
}

bool structured_compile(const struct structured *s, struct grammar **grammar, struct err *err)
{
    const struct grammar_json_options json = { .compact = s->compact };
    const struct grammar_limits *limits = &GRAMMAR_LIMITS;
    const struct json_ref node = json_root(s->node);
    bool ok = false;
    switch (s->kind) {
    case STRUCTURED_NONE:
        CHECK(false);
    case STRUCTURED_OBJECT:
        ok = grammar_compile_json_object(grammar, &json, limits, err);
        break;
    case STRUCTURED_SCHEMA:
        ok = s->text != NULL
                 ? grammar_compile_schema(grammar, s->text, strlen(s->text), &json, limits, err)
                 : grammar_compile_schema_node(grammar, &node, &json, limits, err);
        break;
    case STRUCTURED_REGEX:
        ok = grammar_compile_regex(grammar, s->text, strlen(s->text), limits, err);
        break;
    case STRUCTURED_CHOICE:
        ok = compile_choice(s, grammar, err);
        break;
    case STRUCTURED_GBNF:
        ok = grammar_compile_gbnf(grammar, s->text, strlen(s->text), limits, err);
        break;
    case STRUCTURED_TAGS:
        ok = compile_tags(s, grammar, err);
        break;
    }
    if (ok)
        return true;
    err_prefix(err, "%s", s->field);
    snprintf(err->field, sizeof err->field, "%s", s->field);
    return false;
}
