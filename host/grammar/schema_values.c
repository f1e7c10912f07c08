/* schema_values.c - enum and const; and whether the branches of a oneOf exclude each other. */
#include "host/grammar/schema.h"
#include "host/base/buf.h"
#include "host/base/json.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

static const cJSON *const_of(const struct schemas *s, uint32_t part)
{
    return schema_get(s, part, "const");
}

static bool is_listed(const struct schemas *s, uint32_t part)
{
    return const_of(s, part) || schema_get(s, part, "enum");
}

bool schema_is_listed(struct schemas *s, const struct flat *flat)
{
    for (uint32_t i = 0; i < flat->parts.n && work_step(s->work, 1); i++)
        if (is_listed(s, flat->parts.at[i]))
            return true;
    return false;
}

static bool equal(struct schemas *s, const cJSON *a, const cJSON *b)
{
    return work_step(s->work, 4) && cJSON_Compare(a, b, true);
}

/* Is the value in the part's own list (or has it none)? */
static bool part_lists(struct schemas *s, uint32_t part, const cJSON *value)
{
    const cJSON *one = const_of(s, part), *many = schema_get(s, part, "enum");
    if (one && !equal(s, one, value))
        return false;
    if (!many)
        return true;
    for (const cJSON *at = many->child; at; at = at->next)
        if (equal(s, at, value))
            return true;
    return false;
}

static uint32_t type_of(const cJSON *value)
{
    if (cJSON_IsNull(value))
        return TYPE_NULL;
    if (cJSON_IsBool(value))
        return TYPE_BOOL;
    if (cJSON_IsNumber(value))
        return TYPE_NUMBER;
    if (cJSON_IsString(value))
        return TYPE_STRING;
    return cJSON_IsArray(value) ? TYPE_ARRAY : TYPE_OBJECT;
}

static bool is_whole(double number)
{
    return number > -1e300 && number < 1e300 && __builtin_floor(number) == number;
}

/* Does the value satisfy the flat parts? Of objects and lists only what enum and const say is
 * known; *unknown names a keyword that would have to be. */
static bool satisfies(struct schemas *s, const struct flat *flat, uint32_t types, bool integer,
                      uint32_t body, const cJSON *value, const char **unknown)
{
    static const char *const inner[] = {
        "properties",        "required",      "additionalProperties",
        "patternProperties", "propertyNames", "minProperties",
        "maxProperties",     "items",         "prefixItems",
        "minItems",          "maxItems"
    };
    uint32_t type = type_of(value);
    if (!(types & type))
        return false;
    for (uint32_t i = 0; i < flat->parts.n; i++) {
        if (!part_lists(s, flat->parts.at[i], value))
            return false;
        for (size_t k = 0;
             (type & (TYPE_ARRAY | TYPE_OBJECT)) && k < sizeof inner / sizeof inner[0]; k++)
            if (schema_get(s, flat->parts.at[i], inner[k]))
                *unknown = inner[k];
    }
    if (type == TYPE_NUMBER)
        return (!integer || is_whole(value->valuedouble)) &&
               schema_number_fits(s, flat, value->valuedouble);
    return type != TYPE_STRING || body == SAYS_NOTHING ||
           schema_body_has(s, body, value->valuestring);
}

static void put_number(struct buf *buf, const cJSON *value)
{
    const char *text = json_number_text(value);
    if (text)
        buf_puts(buf, text);
    else
        buf_put_json_number(buf, value->valuedouble);
}

/* The value without blanks. The tree is walked along its links: `at` goes down, on, or back up (the
 * parents lie in `up`, as deep as the parser lets JSON be). */
static uint32_t written(struct schemas *s, const cJSON *value)
{
    enum { DEPTH_MAX = 512 };
    const cJSON *up[DEPTH_MAX];
    struct buf buf;
    int depth = 0;
    buf_init(&buf, s->work->limits->memory_bytes / 4);
    for (const cJSON *at = value; at;) {
        if (depth > 0 && cJSON_IsObject(up[depth - 1])) {
            buf_put_json_string(&buf, at->string, strlen(at->string));
            buf_putc(&buf, ':');
        }
        if (cJSON_IsString(at))
            buf_put_json_string(&buf, at->valuestring, strlen(at->valuestring));
        else if (cJSON_IsNumber(at))
            put_number(&buf, at);
        else if (cJSON_IsObject(at) || cJSON_IsArray(at))
            buf_putc(&buf, cJSON_IsObject(at) ? '{' : '[');
        else
            buf_puts(&buf, cJSON_IsNull(at) ? "null" : cJSON_IsTrue(at) ? "true" : "false");
        if ((cJSON_IsObject(at) || cJSON_IsArray(at)) && at->child) {
            CHECK(depth < DEPTH_MAX);
            up[depth++] = at;
            at = at->child;
            continue;
        }
        if (cJSON_IsObject(at) || cJSON_IsArray(at))
            buf_putc(&buf, cJSON_IsObject(at) ? '}' : ']');
        while (depth > 0 && !at->next) {
            at = up[--depth];
            buf_putc(&buf, cJSON_IsObject(at) ? '}' : ']');
        }
        if (depth == 0)
            break;
        buf_putc(&buf, ',');
        at = at->next;
    }
    uint32_t text = buf.failed ? work_refuse(s->work, ERR_MEMORY, "no memory to compile a schema")
                               : expr_text(s->work, buf.bytes, buf.length);
    buf_clear(&buf);
    return text;
}

/* The values that the first part with a list lists. */
static const cJSON *first_list(struct schemas *s, const struct flat *flat, uint32_t *part)
{
    for (uint32_t i = 0; i < flat->parts.n; i++) {
        *part = flat->parts.at[i];
        if (const_of(s, *part))
            return const_of(s, *part);
        const cJSON *many = schema_get(s, *part, "enum");
        if (many && (!cJSON_IsArray(many) || !many->child)) {
            schema_refuse(s, schema_of(*part), "enum", "want a list of at least one value");
            return NULL;
        }
        if (many)
            return many->child;
    }
    return NULL;
}

static bool lists_string(const cJSON *at, bool all)
{
    for (; at; at = all ? at->next : NULL)
        if (cJSON_IsString(at))
            return true;
    return false;
}

uint32_t schema_values(struct schemas *s, const struct flat *flat)
{
    struct workshop *work = s->work;
    uint32_t part = 0;
    bool integer;
    uint32_t types = schema_types(s, flat, false, &integer);
    const cJSON *first = work->failed ? NULL : first_list(s, flat, &part);
    if (!first)
        return EXPR_NONE;
    bool all = !const_of(s, part);
    uint32_t body =
        lists_string(first, all) ? schema_string_body(s, flat, SAYS_NOTHING) : SAYS_NOTHING;
    struct schema_list items = { 0 };
    for (const cJSON *at = first; at && work_step(work, 1); at = all ? at->next : NULL) {
        const char *unknown = NULL;
        bool fits = satisfies(s, flat, types, integer, body, at, &unknown);
        if (unknown)
            return schema_refuse(s, schema_of(part), all ? "enum" : "const",
                                 "a list or an object as a value is not supported beside %s",
                                 unknown);
        if (fits)
            schema_push(s, &items, written(s, at));
    }
    return work->failed ? EXPR_NONE : expr_alt(work, items.at, items.n);
}

/* Does what is listed by one side never equal what is listed by the other? Both list. */
static bool lists_differ(struct schemas *s, const struct flat *a, const struct flat *b)
{
    uint32_t part = 0;
    const cJSON *first = first_list(s, a, &part);
    bool all = first && !const_of(s, part);
    for (const cJSON *at = first; at && work_step(s->work, 1); at = all ? at->next : NULL) {
        bool in_both = true;
        for (uint32_t i = 0; i < a->parts.n && in_both; i++)
            in_both = part_lists(s, a->parts.at[i], at);
        for (uint32_t i = 0; i < b->parts.n && in_both; i++)
            in_both = part_lists(s, b->parts.at[i], at);
        if (in_both)
            return false;
    }
    return !s->work->failed;
}

static uint32_t types_listed(struct schemas *s, const struct flat *flat)
{
    uint32_t part = 0, types = 0;
    const cJSON *first = first_list(s, flat, &part);
    bool all = first && !const_of(s, part);
    for (const cJSON *at = first; at; at = all ? at->next : NULL)
        types |= type_of(at);
    return types;
}

/* A property that both want and that cannot be the same, or that one wants and the other forbids.
 */
static bool property_differs(struct schemas *s, const struct flat *a, const struct flat *b,
                             const char *name)
{
    struct schema_list first = { 0 }, second = { 0 };
    bool not_a, not_b;
    struct flat x, y;
    schema_property(s, a, name, &first, &not_a);
    schema_property(s, b, name, &second, &not_b);
    if (not_b || not_a)
        return true;
    if (!schema_requires(s, b, name))
        return false;
    schema_flatten(s, first.at, first.n, &x);
    schema_flatten(s, second.at, second.n, &y);
    if (x.never || y.never)
        return true;
    if (schema_is_listed(s, &x) && schema_is_listed(s, &y))
        return lists_differ(s, &x, &y);
    bool integer;
    return (schema_types(s, &x, false, &integer) & schema_types(s, &y, false, &integer)) == 0;
}

static bool objects_differ(struct schemas *s, const struct flat *a, const struct flat *b)
{
    for (uint32_t i = 0; i < a->parts.n && !s->work->failed; i++) {
        const cJSON *required = schema_get(s, a->parts.at[i], "required");
        for (const cJSON *at = required ? required->child : NULL; at && work_step(s->work, 1);
             at = at->next)
            if (cJSON_IsString(at) && property_differs(s, a, b, at->valuestring))
                return true;
    }
    return false;
}

/* What is written for the flat parts, by type; what they accept is larger where no type is named,
 * and alternatives are not looked into. */
static uint32_t types_of(struct schemas *s, const struct flat *flat, bool written_only)
{
    bool integer;
    for (uint32_t i = 0; i < flat->parts.n; i++)
        if (schema_get(s, flat->parts.at[i], "anyOf") || schema_get(s, flat->parts.at[i], "oneOf"))
            written_only = false;
    uint32_t types = schema_types(s, flat, written_only, &integer);
    if (schema_is_listed(s, flat))
        types &= types_listed(s, flat);
    return types;
}

bool schema_disjoint(struct schemas *s, uint32_t a, uint32_t b)
{
    struct arena_mark mark = arena_mark(&s->work->scratch);
    uint32_t one = a << PART_FLAG_BITS, two = b << PART_FLAG_BITS;
    struct flat x, y;
    bool disjoint = false;
    schema_flatten(s, &one, 1, &x);
    schema_flatten(s, &two, 1, &y);
    if (s->work->failed) {
        disjoint = false;
    } else if (x.never || y.never) {
        disjoint = true;
    } else {
        uint32_t both = (types_of(s, &x, true) & types_of(s, &y, false)) |
                        (types_of(s, &y, true) & types_of(s, &x, false));
        disjoint =
            both == 0 ||
            (schema_is_listed(s, &x) && schema_is_listed(s, &y) && lists_differ(s, &x, &y)) ||
            (both == TYPE_OBJECT && (objects_differ(s, &x, &y) || objects_differ(s, &y, &x)));
    }
    arena_reset(&s->work->scratch, mark);
    return disjoint;
}
