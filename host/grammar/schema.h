/* schema.h - JSON Schema (2020-12 and what older drafts share with it) as rules.
 *
 * Kept: type, enum, const, properties, required, additionalProperties, patternProperties,
 * propertyNames, minProperties, maxProperties, items, prefixItems, minItems, maxItems, minLength,
 * maxLength, pattern, format (the table in schema_string.c), minimum, maximum, exclusiveMinimum,
 * exclusiveMaximum, multipleOf (integers), anyOf, oneOf, allOf, $ref (inside of the document,
 * recursive too), true and false. Annotations are skipped (schema.c has the list). Every other
 * keyword is refused by name, with its JSON pointer.
 *
 * What is written is a part of what the schema allows, never more:
 *  - properties come in the order of the schema, then required ones that it does not describe, then
 *    additional ones. Without additionalProperties, only objects without `properties` have
 * additional ones. Keys are written in one way (escapes only where JSON wants them) wherever some
 * are special. Of several equal additional keys readers take the last; minProperties counts them as
 * one.
 *  - keywords that are about one type (say, minLength) choose that type where `type` is missing.
 *  - integers have no fraction or exponent (1.0 is not written); numbers that are bounded have no
 *    exponent, and bounds are taken inwards to 15 digits.
 *  - items behind `prefixItems` are written only when `items` or minItems asks for them.
 *  - oneOf wants branches that provably exclude each other: by type, by enum or const, or by a
 * required property that has different values or is not allowed in the other; else it is refused.
 *  - enum and const are written as they stand in the schema, without blanks.
 *
 * The work is done on conjunctions: lists of schemas of which all must hold. A conjunction is one
 * rule; a reference is the schema it names; anyOf in a conjunction is a choice of larger ones. Each
 * is made once, from a queue, so neither depth nor recursion of the document uses the C stack. */
#pragma once
#include "host/grammar/json_rules.h"
#include "host/grammar/dfa.h"
#include "host/grammar/regex.h"

struct cJSON;
/* A schema of the document. */
struct schema {
    const struct cJSON *json;
    uint32_t up;         /* the schema that it is a part of; its own number: the root */
    const char *keyword; /* "properties", ... */
    const char *key;     /* its name there; NULL: see index */
    int32_t index;       /* -1: the keyword's value is the schema itself */
    bool checked;
};
/* One of a conjunction. */
enum {
    PART_WITHOUT_ANY = 1, /* its anyOf has been taken care of */
    PART_WITHOUT_ONE = 2,
    PART_FLAG_BITS = 2,
};
struct schema_list {
    uint32_t *at;
    uint32_t n, capacity;
};
struct conjunction {
    uint32_t first, n; /* parts in `parts`, ascending: schema << PART_FLAG_BITS | flags */
    uint32_t rule;
};
struct schemas {
    struct workshop *work;
    struct schema *all;
    uint32_t n, capacity;
    uint32_t *table, table_mask; /* schema + 1, by the address of its JSON */
    struct schema_list parts;
    struct conjunction *conjunctions;
    uint32_t n_conjunctions, conjunctions_capacity;
    uint32_t *conjunction_table, conjunction_mask; /* conjunction + 1, by its parts */
};

enum schema_type {
    TYPE_NULL = 1,
    TYPE_BOOL = 2,
    TYPE_NUMBER = 4,
    TYPE_STRING = 8,
    TYPE_ARRAY = 16,
    TYPE_OBJECT = 32,
    TYPE_ALL = 63,
};
/* Parts without references, allOf and booleans; `parts.n` 0: anything. */
struct flat {
    struct schema_list parts; /* in the scratch */
    bool never;               /* nothing satisfies it */
};

/* schema.c */
/* The rule of the document; 0 when it failed. Behind json_rules_make. */
uint32_t schema_compile(struct workshop *work, const struct cJSON *json);
/* Refuse what a schema's keyword says: "KEYWORD at #/...: what". Returns EXPR_NONE. */
uint32_t schema_refuse(struct schemas *s, uint32_t schema, const char *keyword, const char *format,
                       ...) PRINTF_LIKE(4, 5);
/* The schema that is the value (or the member `key`, or the element `index`) of a keyword. */
uint32_t schema_below(struct schemas *s, uint32_t up, const char *keyword, const char *key,
                      int32_t index, const struct cJSON *json);
const struct cJSON *schema_get(const struct schemas *s, uint32_t part, const char *keyword);
/* A count from 0; `missing` when it is not there. */
int64_t schema_count(struct schemas *s, uint32_t part, const char *keyword, int64_t missing);
void schema_flatten(struct schemas *s, const uint32_t *parts, uint32_t n, struct flat *flat);
/* The rule of the conjunction of these parts, as a call. */
uint32_t schema_call(struct schemas *s, const uint32_t *parts, uint32_t n);
void schema_push(struct schemas *s, struct schema_list *list, uint32_t value); /* in the scratch */
uint32_t schema_of(uint32_t part);
/* What types the flat parts allow; *integer: of numbers only integers. `implied`: a type that only
 * a keyword about it names counts as named. */
uint32_t schema_types(struct schemas *s, const struct flat *flat, bool implied, bool *integer);

/* schema_values.c: enum and const; oneOf. */
/* Do the parts name their values? */
bool schema_is_listed(struct schemas *s, const struct flat *flat);
uint32_t schema_values(struct schemas *s, const struct flat *flat);
/* Nothing that is written for one satisfies the other? */
bool schema_disjoint(struct schemas *s, uint32_t a, uint32_t b);

/* schema_number.c, schema_string.c, schema_object.c, schema_array.c: one type of the flat parts. */
uint32_t schema_number(struct schemas *s, const struct flat *flat, bool integer);
bool schema_number_fits(struct schemas *s, const struct flat *flat, double value);
uint32_t schema_string(struct schemas *s, const struct flat *flat);
/* What stands between the quotes, regular: `plain` when nothing is said about it. */
enum { SAYS_NOTHING = 0x7fffffff };
uint32_t schema_string_body(struct schemas *s, const struct flat *flat, uint32_t plain);
/* Is this text, written between quotes, of the body? */
bool schema_body_has(struct schemas *s, uint32_t body, const char *text);
uint32_t schema_object(struct schemas *s, const struct flat *flat);
uint32_t schema_array(struct schemas *s, const struct flat *flat);
/* The conjunction of what all parts say about the property; *impossible: it may not be there. */
void schema_property(struct schemas *s, const struct flat *flat, const char *name,
                     struct schema_list *parts, bool *impossible);
bool schema_requires(struct schemas *s, const struct flat *flat, const char *name);
