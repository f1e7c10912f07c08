/* schema.c - the document: schemas by number, conjunctions, and the queue that makes rules of them.
 */
#include "host/grammar/schema.h"
#include "host/base/json.h"
#include "host/grammar/compile.h"
#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a keyword is about: a type, all of them (0), or nothing that restricts (SKIPPED). */
enum { SKIPPED = 64, COMBINES = 128 };
static const struct {
    const char *name;
    uint32_t about;
} KEYWORDS[] = {
    { "type", 0 },
    { "enum", 0 },
    { "const", 0 },
    { "properties", TYPE_OBJECT },
    { "required", TYPE_OBJECT },
    { "additionalProperties", TYPE_OBJECT },
    { "patternProperties", TYPE_OBJECT },
    { "propertyNames", TYPE_OBJECT },
    { "minProperties", TYPE_OBJECT },
    { "maxProperties", TYPE_OBJECT },
    { "items", TYPE_ARRAY },
    { "prefixItems", TYPE_ARRAY },
    { "minItems", TYPE_ARRAY },
    { "maxItems", TYPE_ARRAY },
    { "uniqueItems", TYPE_ARRAY },
    { "minLength", TYPE_STRING },
    { "maxLength", TYPE_STRING },
    { "pattern", TYPE_STRING },
    { "format", TYPE_STRING },
    { "minimum", TYPE_NUMBER },
    { "maximum", TYPE_NUMBER },
    { "exclusiveMinimum", TYPE_NUMBER },
    { "exclusiveMaximum", TYPE_NUMBER },
    { "multipleOf", TYPE_NUMBER },
    { "anyOf", COMBINES },
    { "oneOf", COMBINES },
    { "allOf", COMBINES },
    { "$ref", COMBINES },
    { "$schema", SKIPPED },
    { "$id", SKIPPED }, /* of the root alone */
    { "$comment", SKIPPED },
    { "$defs", SKIPPED },
    { "definitions", SKIPPED },
    { "title", SKIPPED },
    { "description", SKIPPED },
    { "default", SKIPPED },
    { "examples", SKIPPED },
    { "example", SKIPPED },
    { "deprecated", SKIPPED },
    { "readOnly", SKIPPED },
    { "writeOnly", SKIPPED },
    { "discriminator", SKIPPED },
    { "contentEncoding", SKIPPED },
    { "contentMediaType", SKIPPED },
};

uint32_t schema_of(uint32_t part)
{
    return part >> PART_FLAG_BITS;
}

/* "#/properties/a/items" into text[size]; long ones lose their front. */
static void print_pointer(const struct schemas *s, uint32_t schema, char *text, size_t size)
{
    size_t at = size - 1;
    text[at] = 0;
    for (uint32_t i = schema; s->all[i].up != i; i = s->all[i].up) {
        char step[128];
        const struct schema *node = &s->all[i];
        if (node->key)
            snprintf(step, sizeof step, "/%.32s/%.80s", node->keyword, node->key);
        else if (node->index >= 0)
            snprintf(step, sizeof step, "/%.32s/%d", node->keyword, node->index);
        else
            snprintf(step, sizeof step, "/%.32s", node->keyword);
        size_t n = strlen(step);
        if (n + 4 > at) {
            memmove(text + 3, text + at, size - at);
            memcpy(text, "...", 3);
            return;
        }
        at -= n;
        memcpy(text + at, step, n);
    }
    text[0] = '#';
    memmove(text + 1, text + at, size - at);
}

uint32_t schema_refuse(struct schemas *s, uint32_t schema, const char *keyword, const char *format,
                       ...)
{
    char pointer[200], text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_pointer(s, schema, pointer, sizeof pointer);
    return work_refuse(s->work, ERR_REQUEST, "%.40s at %s: %s", keyword, pointer, text);
}

void schema_push(struct schemas *s, struct schema_list *list, uint32_t value)
{
    list->at = scratch_grow(s->work, list->at, list->n, &list->capacity, sizeof *list->at);
    if (!s->work->failed)
        list->at[list->n++] = value;
}

static uint32_t hash_address(const void *address)
{
    uint64_t bits = (uint64_t)(uintptr_t)address * 0x9e3779b97f4a7c15u;
    return (uint32_t)(bits >> 32);
}

static uint32_t hash_parts(const uint32_t *parts, uint32_t n)
{
    uint64_t hash = n;
    for (uint32_t i = 0; i < n; i++) {
        hash = (hash ^ parts[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* Twice the table when it is half full: the new one, empty, or NULL. */
static uint32_t *larger_table(struct schemas *s, uint32_t n, uint32_t *mask)
{
    if (n <= *mask / 2 && *mask > 0)
        return NULL;
    *mask = *mask > 0 ? *mask * 2 + 1 : 63;
    return s->work->failed ? NULL
                           : arena_take(&s->work->arena, (size_t)*mask + 1, sizeof(uint32_t));
}

uint32_t schema_below(struct schemas *s, uint32_t up, const char *keyword, const char *key,
                      int32_t index, const struct cJSON *json)
{
    struct workshop *work = s->work;
    uint32_t at = hash_address(json);
    for (; s->n > 0 && s->table[at & s->table_mask]; at++)
        if (s->all[s->table[at & s->table_mask] - 1].json == json)
            return s->table[at & s->table_mask] - 1;
    s->all = work_grow(work, s->all, s->n, &s->capacity, sizeof *s->all);
    if (!work_step(work, 1))
        return 0;
    if (!cJSON_IsObject(json) && !cJSON_IsBool(json))
        return schema_refuse(s, up, keyword, "want a schema (an object, true or false)");
    uint32_t schema = s->n++;
    s->all[schema] = (struct schema){
        .json = json, .up = schema == 0 ? 0 : up, .keyword = keyword, .key = key, .index = index
    };
    uint32_t *table = larger_table(s, s->n, &s->table_mask);
    if (table) {
        s->table = table;
        for (uint32_t i = 0; i < s->n; i++) {
            for (at = hash_address(s->all[i].json); table[at & s->table_mask];)
                at++;
            table[at & s->table_mask] = i + 1;
        }
    } else if (s->table) {
        s->table[at & s->table_mask] = schema + 1;
    }
    if (!s->table)
        work_refuse(work, ERR_MEMORY, "no memory to compile a schema");
    return work->failed ? 0 : schema;
}

const struct cJSON *schema_get(const struct schemas *s, uint32_t part, const char *keyword)
{
    return cJSON_GetObjectItemCaseSensitive(s->all[schema_of(part)].json, keyword);
}

int64_t schema_count(struct schemas *s, uint32_t part, const char *keyword, int64_t missing)
{
    const cJSON *value = schema_get(s, part, keyword);
    if (!value)
        return missing;
    double number = cJSON_IsNumber(value) ? value->valuedouble : -1;
    if (number < 0 || number > 9e15 || number != (double)(int64_t)number) {
        schema_refuse(s, schema_of(part), keyword, "want a count from 0");
        return missing;
    }
    return (int64_t)number;
}

static uint32_t keyword_about(const char *name)
{
    for (size_t i = 0; i < sizeof KEYWORDS / sizeof KEYWORDS[0]; i++)
        if (strcmp(KEYWORDS[i].name, name) == 0)
            return KEYWORDS[i].about;
    return strncmp(name, "x-", 2) == 0 ? SKIPPED : UINT32_MAX;
}

/* Every keyword of the schema is known. */
static bool check_keywords(struct schemas *s, uint32_t schema)
{
    const cJSON *json = s->all[schema].json;
    if (s->all[schema].checked)
        return true;
    s->all[schema].checked = true;
    for (const cJSON *at = json->child; at && work_step(s->work, 1); at = at->next) {
        if (keyword_about(at->string) == UINT32_MAX)
            schema_refuse(s, schema, at->string, "this keyword is not supported");
        else if (strcmp(at->string, "uniqueItems") == 0 && !cJSON_IsFalse(at))
            schema_refuse(s, schema, at->string, "this keyword is not supported");
        else if (strcmp(at->string, "$id") == 0 && schema != 0)
            schema_refuse(s, schema, at->string, "supported only at the root");
    }
    return !s->work->failed;
}

/* Is there anything but annotations, references and what the flags say has been taken care of? */
static bool says_something(const struct schemas *s, uint32_t part)
{
    for (const cJSON *at = s->all[schema_of(part)].json->child; at; at = at->next) {
        uint32_t about = keyword_about(at->string);
        if (about < SKIPPED)
            return true;
        if (strcmp(at->string, "anyOf") == 0 && !(part & PART_WITHOUT_ANY))
            return true;
        if (strcmp(at->string, "oneOf") == 0 && !(part & PART_WITHOUT_ONE))
            return true;
    }
    return false;
}

/* One step of a JSON pointer: ~1 is '/', ~0 is '~', %XX a byte. False: does not fit or is no step.
 */
static bool pointer_step(const char **at, char *step, size_t size)
{
    size_t n = 0;
    for (; **at && **at != '/'; ++*at) {
        char c = **at;
        unsigned byte;
        if (n + 1 >= size)
            return false;
        if (c == '~' && ((*at)[1] == '0' || (*at)[1] == '1'))
            c = *++*at == '0' ? '~' : '/';
        else if (c == '%' && sscanf(*at + 1, "%2x", &byte) == 1 && (*at)[1] && (*at)[2])
            c = (char)byte, *at += 2;
        step[n++] = c;
    }
    step[n] = 0;
    return true;
}

static uint32_t resolve(struct schemas *s, uint32_t schema, const cJSON *ref)
{
    enum { STEP_BYTES = 512 };
    if (!cJSON_IsString(ref))
        return schema_refuse(s, schema, "$ref", "want a string");
    const char *at = ref->valuestring;
    const cJSON *json = s->all[0].json;
    if (at[0] != '#' || (at[1] && at[1] != '/'))
        return schema_refuse(s, schema, "$ref", "'%.80s' does not lie in this document (#/...)",
                             at);
    for (at++; *at && json;) {
        char step[STEP_BYTES], *end;
        at++;
        if (!pointer_step(&at, step, sizeof step))
            return schema_refuse(s, schema, "$ref", "'%.80s' is too long", ref->valuestring);
        if (!work_step(s->work, 1))
            return 0;
        if (cJSON_IsArray(json)) {
            long index = strtol(step, &end, 10);
            json = *end || end == step || index < 0 || index > 1000000
                       ? NULL
                       : cJSON_GetArrayItem(json, (int)index);
        } else {
            json = cJSON_GetObjectItemCaseSensitive(json, step);
        }
    }
    if (!json)
        return schema_refuse(s, schema, "$ref", "'%.80s' is not in the schema", ref->valuestring);
    return schema_below(s, 0, ref->valuestring + (ref->valuestring[1] ? 2 : 1), NULL, -1, json);
}

static bool in_list(const struct schema_list *list, uint32_t part)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->at[i] == part)
            return true;
    return false;
}

void schema_flatten(struct schemas *s, const uint32_t *parts, uint32_t n, struct flat *flat)
{
    struct schema_list pending = { 0 }, seen = { 0 };
    *flat = (struct flat){ 0 };
    for (uint32_t i = n; i > 0; i--)
        schema_push(s, &pending, parts[i - 1]);
    while (pending.n > 0 && work_step(s->work, 1 + seen.n)) {
        uint32_t part = pending.at[--pending.n], schema = schema_of(part);
        const cJSON *json = s->all[schema].json;
        if (in_list(&seen, part))
            continue; /* a ring of references says nothing new */
        schema_push(s, &seen, part);
        if (cJSON_IsBool(json)) {
            flat->never |= !cJSON_IsTrue(json);
            continue;
        }
        if (!check_keywords(s, schema))
            return;
        const cJSON *ref = schema_get(s, part, "$ref"), *all = schema_get(s, part, "allOf");
        if (all && !cJSON_IsArray(all))
            schema_refuse(s, schema, "allOf", "want a list of schemas");
        int32_t index = 0;
        for (const cJSON *at = all ? all->child : NULL; at && !s->work->failed; at = at->next)
            schema_push(s, &pending,
                        schema_below(s, schema, "allOf", NULL, index++, at) << PART_FLAG_BITS);
        if (ref)
            schema_push(s, &pending, resolve(s, schema, ref) << PART_FLAG_BITS);
        if (says_something(s, part))
            schema_push(s, &flat->parts, part);
    }
}

static int compare_parts(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The flat parts in ascending order; the number of the conjunction, made when it is new. */
static uint32_t find_conjunction(struct schemas *s, const uint32_t *parts, uint32_t n)
{
    struct workshop *work = s->work;
    uint32_t hash = hash_parts(parts, n), at = hash;
    for (; s->conjunction_table && s->conjunction_table[at & s->conjunction_mask]; at++) {
        const struct conjunction *c =
            &s->conjunctions[s->conjunction_table[at & s->conjunction_mask] - 1];
        if (c->n == n && (n == 0 || memcmp(s->parts.at + c->first, parts, n * sizeof *parts) == 0))
            return (uint32_t)(c - s->conjunctions);
    }
    uint32_t first = s->parts.n, i = s->n_conjunctions;
    for (uint32_t k = 0; k < n; k++) {
        s->parts.at =
            work_grow(work, s->parts.at, s->parts.n, &s->parts.capacity, sizeof *s->parts.at);
        if (work->failed)
            return 0;
        s->parts.at[s->parts.n++] = parts[k];
    }
    s->conjunctions =
        work_grow(work, s->conjunctions, i, &s->conjunctions_capacity, sizeof *s->conjunctions);
    uint32_t rule = rule_new(work, NULL);
    if (work->failed)
        return 0;
    s->conjunctions[s->n_conjunctions++] = (struct conjunction){ first, n, rule };
    uint32_t *table = larger_table(s, s->n_conjunctions, &s->conjunction_mask);
    if (table) {
        s->conjunction_table = table;
        for (uint32_t c = 0; c < s->n_conjunctions; c++) {
            at = hash_parts(s->parts.at + s->conjunctions[c].first, s->conjunctions[c].n);
            while (table[at & s->conjunction_mask])
                at++;
            table[at & s->conjunction_mask] = c + 1;
        }
    } else if (s->conjunction_table) {
        s->conjunction_table[at & s->conjunction_mask] = i + 1;
    }
    if (!s->conjunction_table)
        work_refuse(work, ERR_MEMORY, "no memory to compile a schema");
    return i;
}

uint32_t schema_call(struct schemas *s, const uint32_t *parts, uint32_t n)
{
    struct arena_mark mark = arena_mark(&s->work->scratch);
    struct flat flat;
    uint32_t result = EXPR_NONE;
    schema_flatten(s, parts, n, &flat);
    if (!s->work->failed && !flat.never) {
        if (flat.parts.n > 1)
            qsort(flat.parts.at, flat.parts.n, sizeof *flat.parts.at, compare_parts);
        if (flat.parts.n == 0)
            result = expr_rule(s->work, JSON_VALUE);
        else {
            uint32_t found = find_conjunction(s, flat.parts.at, flat.parts.n);
            if (!s->work->failed)
                result = expr_rule(s->work, s->conjunctions[found].rule);
        }
    }
    arena_reset(&s->work->scratch, mark);
    return result;
}

static uint32_t type_named(const char *name, bool *number)
{
    static const struct {
        const char *name;
        uint32_t type;
    } names[] = { { "null", TYPE_NULL },      { "boolean", TYPE_BOOL },  { "number", TYPE_NUMBER },
                  { "integer", TYPE_NUMBER }, { "string", TYPE_STRING }, { "array", TYPE_ARRAY },
                  { "object", TYPE_OBJECT } };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i].name, name) == 0) {
            *number |= strcmp(name, "number") == 0;
            return names[i].type;
        }
    return 0;
}

uint32_t schema_types(struct schemas *s, const struct flat *flat, bool implied, bool *integer)
{
    uint32_t types = TYPE_ALL, about = 0;
    bool named = false;
    *integer = false;
    for (uint32_t i = 0; i < flat->parts.n && work_step(s->work, 1); i++) {
        uint32_t part = flat->parts.at[i], own = 0;
        bool number = false;
        for (const cJSON *at = s->all[schema_of(part)].json->child; at; at = at->next) {
            uint32_t keyword = keyword_about(at->string);
            about |= keyword < SKIPPED ? keyword : 0;
        }
        const cJSON *type = schema_get(s, part, "type");
        if (!type)
            continue;
        const cJSON *at = cJSON_IsArray(type) ? type->child : type;
        for (; at; at = cJSON_IsArray(type) ? at->next : NULL) {
            uint32_t one = cJSON_IsString(at) ? type_named(at->valuestring, &number) : 0;
            if (one == 0)
                schema_refuse(s, schema_of(part), "type",
                              "want null, boolean, integer, number, string, array, object or a "
                              "list of these");
            own |= one;
        }
        types &= own;
        *integer |= (own & TYPE_NUMBER) && !number;
        named = true;
    }
    return implied && !named && about != 0 && !schema_is_listed(s, flat) ? about : types;
}

/* The alternatives of an anyOf or oneOf in part i, each with all the other parts. */
static uint32_t distribute(struct schemas *s, const struct flat *flat, uint32_t i,
                           const char *keyword, uint32_t flag)
{
    uint32_t part = flat->parts.at[i], schema = schema_of(part);
    const cJSON *branches = schema_get(s, part, keyword);
    struct schema_list calls = { 0 }, parts = { 0 };
    if (!cJSON_IsArray(branches) || !branches->child)
        return schema_refuse(s, schema, keyword, "want a list of schemas");
    for (uint32_t k = 0; k < flat->parts.n; k++)
        schema_push(s, &parts, k == i ? part | flag : flat->parts.at[k]);
    schema_push(s, &parts, 0);
    int32_t index = 0;
    for (const cJSON *at = branches->child; at && work_step(s->work, parts.n); at = at->next) {
        uint32_t branch = schema_below(s, schema, keyword, NULL, index++, at);
        if (s->work->failed)
            break;
        parts.at[parts.n - 1] = branch << PART_FLAG_BITS;
        schema_push(s, &calls, schema_call(s, parts.at, parts.n));
    }
    return s->work->failed ? EXPR_NONE : expr_alt(s->work, calls.at, calls.n);
}

static void check_exclusive(struct schemas *s, uint32_t part)
{
    const cJSON *branches = schema_get(s, part, "oneOf");
    uint32_t schema = schema_of(part);
    int32_t i = 0;
    for (const cJSON *a = cJSON_IsArray(branches) ? branches->child : NULL; a; a = a->next, i++) {
        int32_t k = 0;
        for (const cJSON *b = branches->child; b != a && work_step(s->work, 1); b = b->next, k++) {
            uint32_t one = schema_below(s, schema, "oneOf", NULL, i, a);
            uint32_t two = schema_below(s, schema, "oneOf", NULL, k, b);
            if (s->work->failed)
                return;
            if (!schema_disjoint(s, one, two) && !s->work->failed)
                schema_refuse(s, schema, "oneOf",
                              "cannot prove that nothing satisfies both branch %d and branch %d "
                              "(by type, by enum or const, by a required property); anyOf would do",
                              k, i);
        }
        if (s->work->failed)
            return;
    }
}

static uint32_t compile_flat(struct schemas *s, const struct flat *flat)
{
    struct workshop *work = s->work;
    for (uint32_t i = 0; i < flat->parts.n; i++) {
        uint32_t part = flat->parts.at[i];
        if (!(part & PART_WITHOUT_ANY) && schema_get(s, part, "anyOf"))
            return distribute(s, flat, i, "anyOf", PART_WITHOUT_ANY);
        if (!(part & PART_WITHOUT_ONE) && schema_get(s, part, "oneOf")) {
            check_exclusive(s, part);
            return distribute(s, flat, i, "oneOf", PART_WITHOUT_ONE);
        }
    }
    bool integer;
    uint32_t types = schema_types(s, flat, true, &integer);
    if (schema_is_listed(s, flat))
        return schema_values(s, flat);
    uint32_t forms[7], n = 0;
    if ((types & TYPE_OBJECT) && !work->failed)
        forms[n++] = schema_object(s, flat);
    if ((types & TYPE_ARRAY) && !work->failed)
        forms[n++] = schema_array(s, flat);
    if ((types & TYPE_STRING) && !work->failed)
        forms[n++] = schema_string(s, flat);
    if ((types & TYPE_NUMBER) && !work->failed)
        forms[n++] = schema_number(s, flat, integer);
    if (types & TYPE_BOOL)
        forms[n++] = expr_alt2(work, expr_literal(work, "true"), expr_literal(work, "false"));
    if (types & TYPE_NULL)
        forms[n++] = expr_literal(work, "null");
    return work->failed ? EXPR_NONE : expr_alt(work, forms, n);
}

static void compile_conjunction(struct schemas *s, uint32_t i)
{
    struct workshop *work = s->work;
    struct arena_mark mark = arena_mark(&work->scratch);
    struct conjunction c = s->conjunctions[i];
    struct flat flat = { 0 };
    for (uint32_t k = 0; k < c.n; k++)
        schema_push(s, &flat.parts, s->parts.at[c.first + k]);
    if (!work->failed)
        rule_set(work, c.rule, compile_flat(s, &flat));
    arena_reset(&work->scratch, mark);
}

uint32_t schema_compile(struct workshop *work, const struct cJSON *json)
{
    struct schemas s = { .work = work };
    uint32_t root = rule_new(work, NULL);
    if (work->failed)
        return 0;
    if (!cJSON_IsObject(json) && !cJSON_IsBool(json)) {
        work_refuse(work, ERR_REQUEST, "the schema is not an object");
        return 0;
    }
    uint32_t part = schema_below(&s, 0, "", NULL, -1, json) << PART_FLAG_BITS;
    if (!work->failed)
        rule_set(work, root, schema_call(&s, &part, 1));
    for (uint32_t i = 0; i < s.n_conjunctions && work_step(work, 1); i++)
        compile_conjunction(&s, i);
    return root;
}

bool grammar_compile_schema_node(struct grammar **grammar, const struct json_ref *schema,
                                 const struct grammar_json_options *options,
                                 const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    bool compact = options && options->compact;
    workshop_open(&work, limits, err);
    json_rules_make(&work, compact);
    uint32_t root = schema_compile(&work, schema->node);
    return grammar_finish(&work, root, N_JSON_RULES, json_rules_kind(compact), grammar);
}

bool grammar_compile_schema(struct grammar **grammar, const char *json, size_t length,
                            const struct grammar_json_options *options,
                            const struct grammar_limits *limits, struct err *err)
{
    struct cJSON *root;
    *grammar = NULL;
    if (!source_fits(length, limits, err) ||
        !json_parse(json, length, &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, err))
        return false;
    struct json_ref ref = json_root(root);
    bool made = grammar_compile_schema_node(grammar, &ref, options, limits, err);
    json_free(root);
    return made;
}
