/* schema_object.c - objects: declared properties in their order, then additional ones. */
#include "host/grammar/schema.h"
#include <cjson/cJSON.h>
#include <string.h>

/* Above this many, minProperties and maxProperties count no further. */
enum { COUNT_MAX = 4096 };

static const cJSON *object_of(struct schemas *s, uint32_t part, const char *keyword)
{
    const cJSON *value = schema_get(s, part, keyword);
    if (value && !cJSON_IsObject(value))
        schema_refuse(s, schema_of(part), keyword, "want an object of schemas");
    return s->work->failed ? NULL : value;
}

static const cJSON *find_member(struct schemas *s, const cJSON *object, const char *name)
{
    for (const cJSON *at = object ? object->child : NULL; at && work_step(s->work, 1);
         at = at->next)
        if (strcmp(at->string, name) == 0)
            return at;
    return NULL;
}

static uint32_t key_pattern(struct schemas *s, const char *pattern)
{
    return regex_parse(s->work, "patternProperties", pattern, strlen(pattern), REGEX_SEARCH,
                       CHARS_JSON);
}

/* The key as it stands between quotes, in the one way we write it. */
static uint32_t key_expr(struct schemas *s, const char *name)
{
    return expr_written(s->work, name, strlen(name), CHARS_JSON);
}

static bool pattern_has(struct schemas *s, const char *pattern, const char *name)
{
    uint32_t keys = key_pattern(s, pattern);
    return !s->work->failed && schema_body_has(s, keys, name);
}

void schema_property(struct schemas *s, const struct flat *flat, const char *name,
                     struct schema_list *parts, bool *impossible)
{
    *impossible = false;
    for (uint32_t i = 0; i < flat->parts.n && work_step(s->work, 1); i++) {
        uint32_t part = flat->parts.at[i], up = schema_of(part);
        const cJSON *own = find_member(s, object_of(s, part, "properties"), name);
        const cJSON *patterns = object_of(s, part, "patternProperties");
        const cJSON *rest = schema_get(s, part, "additionalProperties");
        bool found = own != NULL;
        if (own)
            schema_push(s, parts,
                        schema_below(s, up, "properties", own->string, -1, own) << PART_FLAG_BITS);
        for (const cJSON *at = patterns ? patterns->child : NULL; at && !s->work->failed;
             at = at->next)
            if (pattern_has(s, at->string, name)) {
                found = true;
                schema_push(s, parts,
                            schema_below(s, up, "patternProperties", at->string, -1, at)
                                << PART_FLAG_BITS);
            }
        if (!found && rest && !s->work->failed) {
            *impossible |= cJSON_IsFalse(rest);
            schema_push(s, parts,
                        schema_below(s, up, "additionalProperties", NULL, -1, rest)
                            << PART_FLAG_BITS);
        }
    }
}

bool schema_requires(struct schemas *s, const struct flat *flat, const char *name)
{
    for (uint32_t i = 0; i < flat->parts.n; i++) {
        const cJSON *required = schema_get(s, flat->parts.at[i], "required");
        for (const cJSON *at = required ? required->child : NULL; at && work_step(s->work, 1);
             at = at->next)
            if (cJSON_IsString(at) && strcmp(at->valuestring, name) == 0)
                return true;
    }
    return false;
}

struct property {
    const char *name;
    uint32_t member; /* key, colon, value */
    bool required;
};
struct object {
    struct schemas *s;
    const struct flat *flat;
    struct property *properties;
    uint32_t n, capacity;
    int64_t min, max; /* properties; max < 0: any number */
    uint32_t names;   /* what keys must match, regular; EXPR_NONE: anything */
    uint32_t added;   /* a member that is not declared; EXPR_NONE: none */
};

static uint32_t member(struct object *o, uint32_t key, uint32_t value)
{
    struct workshop *work = o->s->work;
    uint32_t quote = expr_literal(work, "\"");
    if (key == EXPR_NONE || value == EXPR_NONE)
        return EXPR_NONE;
    return expr_seq(
        work, (uint32_t[]){ quote, key, quote, expr_literal(work, ":"), json_blank(work), value },
        6);
}

static bool is_declared(struct object *o, const char *name)
{
    for (uint32_t i = 0; i < o->n && work_step(o->s->work, 1); i++)
        if (strcmp(o->properties[i].name, name) == 0)
            return true;
    return false;
}

static void declare(struct object *o, const char *name)
{
    struct schemas *s = o->s;
    struct workshop *work = s->work;
    if (is_declared(o, name) || work->failed)
        return;
    o->properties = scratch_grow(work, o->properties, o->n, &o->capacity, sizeof *o->properties);
    struct arena_mark mark = arena_mark(&work->scratch);
    struct schema_list parts = { 0 };
    bool impossible, required = schema_requires(s, o->flat, name);
    schema_property(s, o->flat, name, &parts, &impossible);
    uint32_t value = impossible || work->failed ? EXPR_NONE : schema_call(s, parts.at, parts.n);
    uint32_t key = key_expr(s, name);
    if (o->names != EXPR_NONE && !work->failed)
        key = expr_and(work, key, o->names);
    arena_reset(&work->scratch, mark);
    if (!work->failed)
        o->properties[o->n++] = (struct property){ name, member(o, key, value), required };
}

static void find_properties(struct object *o)
{
    struct schemas *s = o->s;
    for (uint32_t i = 0; i < o->flat->parts.n && !s->work->failed; i++) {
        const cJSON *properties = object_of(s, o->flat->parts.at[i], "properties");
        for (const cJSON *at = properties ? properties->child : NULL; at && !s->work->failed;
             at = at->next)
            declare(o, at->string);
    }
    for (uint32_t i = 0; i < o->flat->parts.n && !s->work->failed; i++) {
        uint32_t part = o->flat->parts.at[i];
        const cJSON *required = schema_get(s, part, "required");
        if (required && !cJSON_IsArray(required))
            schema_refuse(s, schema_of(part), "required", "want a list of names");
        for (const cJSON *at = required ? required->child : NULL; at && !s->work->failed;
             at = at->next) {
            if (cJSON_IsString(at))
                declare(o, at->valuestring);
            else
                schema_refuse(s, schema_of(part), "required", "want a list of names");
        }
    }
}

static uint32_t any_key(struct schemas *s)
{
    struct arena_mark mark = arena_mark(&s->work->scratch);
    struct charset all = { 0 };
    charset_add(s->work, &all, 0, CODE_POINT_MAX);
    uint32_t chr = expr_charset(s->work, &all, CHARS_JSON);
    arena_reset(&s->work->scratch, mark);
    return expr_star(s->work, chr);
}

/* All keys that are neither declared nor, `but` aside, of a pattern. */
static uint32_t other_keys(struct object *o, const cJSON *but, uint32_t key)
{
    struct schemas *s = o->s;
    struct workshop *work = s->work;
    struct schema_list taken = { 0 };
    for (uint32_t i = 0; i < o->n; i++)
        schema_push(s, &taken, key_expr(s, o->properties[i].name));
    for (uint32_t i = 0; i < o->flat->parts.n && !work->failed; i++) {
        const cJSON *patterns = object_of(s, o->flat->parts.at[i], "patternProperties");
        for (const cJSON *at = patterns ? patterns->child : NULL; at && !work->failed;
             at = at->next)
            if (at != but)
                schema_push(s, &taken, key_pattern(s, at->string));
    }
    if (work->failed)
        return EXPR_NONE;
    if (o->names != EXPR_NONE)
        key = expr_and(work, key, o->names);
    return taken.n == 0 ? key : expr_minus(work, key, expr_alt(work, taken.at, taken.n));
}

/* What all parts but `except` say about a key that they do not declare. */
static void rest_of(struct object *o, uint32_t except, struct schema_list *parts)
{
    struct schemas *s = o->s;
    for (uint32_t i = 0; i < o->flat->parts.n && !s->work->failed; i++) {
        uint32_t part = o->flat->parts.at[i];
        const cJSON *rest = schema_get(s, part, "additionalProperties");
        if (rest && part != except)
            schema_push(s, parts,
                        schema_below(s, schema_of(part), "additionalProperties", NULL, -1, rest)
                            << PART_FLAG_BITS);
    }
}

/* Members whose keys a pattern has: of one pattern alone, so that one schema (and what the other
 * parts say) is all there is to it. */
static void add_patterns(struct object *o, struct schema_list *forms)
{
    struct schemas *s = o->s;
    for (uint32_t i = 0; i < o->flat->parts.n && !s->work->failed; i++) {
        uint32_t part = o->flat->parts.at[i];
        const cJSON *patterns = object_of(s, part, "patternProperties");
        for (const cJSON *at = patterns ? patterns->child : NULL; at && !s->work->failed;
             at = at->next) {
            struct schema_list parts = { 0 };
            schema_push(s, &parts,
                        schema_below(s, schema_of(part), "patternProperties", at->string, -1, at)
                            << PART_FLAG_BITS);
            rest_of(o, part, &parts);
            uint32_t value = s->work->failed ? EXPR_NONE : schema_call(s, parts.at, parts.n);
            schema_push(s, forms, member(o, other_keys(o, at, key_pattern(s, at->string)), value));
        }
    }
}

static void find_added(struct object *o)
{
    struct schemas *s = o->s;
    struct schema_list forms = { 0 }, parts = { 0 };
    bool declares = false, says = false;
    for (uint32_t i = 0; i < o->flat->parts.n; i++) {
        uint32_t part = o->flat->parts.at[i];
        declares |= object_of(s, part, "properties") || object_of(s, part, "patternProperties");
        says |= schema_get(s, part, "additionalProperties") != NULL;
    }
    add_patterns(o, &forms);
    rest_of(o, UINT32_MAX, &parts);
    if ((says || !declares) && !s->work->failed) {
        uint32_t value = schema_call(s, parts.at, parts.n);
        bool plain = o->n == 0 && forms.n == 0 && o->names == EXPR_NONE;
        if (plain)
            schema_push(s, &forms,
                        value == EXPR_NONE ? EXPR_NONE
                                           : expr_seq(s->work,
                                                      (uint32_t[]){ expr_rule(s->work, JSON_STRING),
                                                                    expr_literal(s->work, ":"),
                                                                    json_blank(s->work), value },
                                                      4));
        else if (value != EXPR_NONE)
            schema_push(s, &forms, member(o, other_keys(o, NULL, any_key(s)), value));
    }
    o->added = s->work->failed ? EXPR_NONE : expr_alt(s->work, forms.at, forms.n);
}

static void find_names(struct object *o)
{
    struct schemas *s = o->s;
    struct schema_list parts = { 0 };
    struct flat flat;
    for (uint32_t i = 0; i < o->flat->parts.n && !s->work->failed; i++) {
        uint32_t part = o->flat->parts.at[i];
        const cJSON *names = schema_get(s, part, "propertyNames");
        if (names)
            schema_push(s, &parts,
                        schema_below(s, schema_of(part), "propertyNames", NULL, -1, names)
                            << PART_FLAG_BITS);
    }
    if (parts.n == 0 || s->work->failed)
        return;
    schema_flatten(s, parts.at, parts.n, &flat);
    uint32_t first = schema_of(parts.at[0]);
    bool integer;
    for (uint32_t i = 0; i < flat.parts.n && !s->work->failed; i++)
        if (schema_get(s, flat.parts.at[i], "anyOf") || schema_get(s, flat.parts.at[i], "oneOf") ||
            schema_get(s, flat.parts.at[i], "enum") || schema_get(s, flat.parts.at[i], "const"))
            schema_refuse(s, first, "propertyNames",
                          "only pattern, format, minLength and maxLength are supported");
    if (flat.never || !(schema_types(s, &flat, false, &integer) & TYPE_STRING))
        schema_refuse(s, first, "propertyNames", "no name is allowed");
    if (!s->work->failed)
        o->names = schema_string_body(s, &flat, any_key(s));
}

/* State (i, k): properties before i are dealt with, k are there; the last row is behind an
 * additional one. 0 begins, 1 ends. */
struct grid {
    struct object *o;
    struct net_edge *edges;
    uint32_t n, capacity;
    uint32_t n_counts;
};

static uint32_t cell(const struct grid *g, uint32_t i, uint32_t k)
{
    return 2 + i * g->n_counts + k;
}

static void put_edge(struct grid *g, uint32_t from, uint32_t to, uint32_t label)
{
    struct workshop *work = g->o->s->work;
    g->edges = scratch_grow(work, g->edges, g->n, &g->capacity, sizeof *g->edges);
    if (work_step(work, 1) && label != EXPR_NONE)
        g->edges[g->n++] = (struct net_edge){ from, to, label };
}

/* The count behind one more of k, or none: too many. */
static bool count_up(const struct grid *g, uint32_t k, uint32_t *next)
{
    if (k + 1 < g->n_counts)
        *next = k + 1;
    else
        *next = k;
    return k + 1 < g->n_counts || g->o->max < 0;
}

static void put_row(struct grid *g, uint32_t i)
{
    struct object *o = g->o;
    struct workshop *work = o->s->work;
    const struct property *p = &o->properties[i];
    uint32_t next, comma = expr_seq2(work, expr_literal(work, ","), json_blank(work));
    uint32_t later = p->member == EXPR_NONE ? EXPR_NONE : expr_seq2(work, comma, p->member);
    for (uint32_t k = 0; k < g->n_counts && !work->failed; k++) {
        if (!p->required)
            put_edge(g, cell(g, i, k), cell(g, i + 1, k), EXPR_EMPTY);
        if (count_up(g, k, &next))
            put_edge(g, cell(g, i, k), cell(g, i + 1, next), k == 0 ? p->member : later);
    }
}

/* Members, at least one. */
static uint32_t members(struct object *o)
{
    struct workshop *work = o->s->work;
    int64_t count = o->max >= 0 ? o->max : o->min > 1 ? o->min : 1;
    struct grid g = { .o = o, .n_counts = (uint32_t)(count < COUNT_MAX ? count : COUNT_MAX) + 1 };
    uint64_t n_states = 2 + (uint64_t)(o->n + 2) * g.n_counts;
    if (n_states > (uint32_t)work->limits->states)
        return work_refuse(work, ERR_REQUEST, "the grammar takes more than %d states",
                           work->limits->states);
    put_edge(&g, 0, cell(&g, 0, 0), EXPR_EMPTY);
    for (uint32_t i = 0; i < o->n && !work->failed; i++)
        put_row(&g, i);
    uint32_t comma = expr_seq2(work, expr_literal(work, ","), json_blank(work));
    uint32_t later = o->added == EXPR_NONE ? EXPR_NONE : expr_seq2(work, comma, o->added);
    for (uint32_t k = 0; k < g.n_counts && !work->failed; k++) {
        uint32_t next;
        bool enough = (int64_t)k >= o->min;
        if (k > 0 && enough)
            put_edge(&g, cell(&g, o->n, k), 1, EXPR_EMPTY);
        if (k > 0)
            put_edge(&g, cell(&g, o->n + 1, k), 1, EXPR_EMPTY);
        if (!count_up(&g, k, &next))
            continue;
        /* Equal additional keys are one for a reader, so one of them counts towards `min`. */
        if ((int64_t)k + 1 >= o->min)
            put_edge(&g, cell(&g, o->n, k), cell(&g, o->n + 1, next), k == 0 ? o->added : later);
        if (k > 0)
            put_edge(&g, cell(&g, o->n + 1, k), cell(&g, o->n + 1, next), later);
    }
    return work->failed ? EXPR_NONE : expr_net(work, (uint32_t)n_states, g.edges, g.n);
}

uint32_t schema_object(struct schemas *s, const struct flat *flat)
{
    struct workshop *work = s->work;
    struct object o = { .s = s, .flat = flat, .max = -1 };
    bool said = false, empty = true;
    for (uint32_t i = 0; i < flat->parts.n && !work->failed; i++) {
        uint32_t part = flat->parts.at[i];
        int64_t low = schema_count(s, part, "minProperties", 0);
        int64_t high = schema_count(s, part, "maxProperties", -1);
        o.min = low > o.min ? low : o.min;
        o.max = high >= 0 && (o.max < 0 || high < o.max) ? high : o.max;
        said |= low > 0 || high >= 0 || object_of(s, part, "properties") ||
                schema_get(s, part, "required") || schema_get(s, part, "additionalProperties") ||
                object_of(s, part, "patternProperties") || schema_get(s, part, "propertyNames");
    }
    if (work->failed || (o.max >= 0 && o.min > o.max))
        return EXPR_NONE;
    if (!said)
        return expr_rule(work, JSON_OBJECT);
    find_names(&o);
    find_properties(&o);
    find_added(&o);
    if (work->failed)
        return EXPR_NONE;
    if (o.min > (int64_t)o.n + 1)
        return schema_refuse(s, schema_of(flat->parts.at[0]), "minProperties",
                             "%lld, which is more than the declared properties and one (equal "
                             "additional keys count once)",
                             (long long)o.min);
    for (uint32_t i = 0; i < o.n; i++)
        empty &= !o.properties[i].required;
    if (o.max >= (int64_t)o.n && o.added == EXPR_NONE)
        o.max = -1; /* says nothing */
    uint32_t blank = json_blank(work);
    uint32_t inside = o.max == 0 ? EXPR_NONE : expr_seq2(work, members(&o), blank);
    if (empty && o.min == 0)
        inside = expr_option(work, inside);
    return expr_seq(
        work, (uint32_t[]){ expr_literal(work, "{"), blank, inside, expr_literal(work, "}") }, 4);
}
