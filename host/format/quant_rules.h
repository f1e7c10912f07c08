/* quant_rules.h - which modules a quantization config means: names, classes, patterns.
 * Between quant_spec.c and quant_ct.c; nobody else includes it. */
#pragma once
#include "host/format/quant_spec.h"

enum quant_match {
    MATCH_NAME,     /* the whole name */
    MATCH_LINEAR,   /* every linear layer: not the embedding */
    MATCH_REGEX,    /* from the start of the name, as Python's re.match */
    MATCH_CONTAINS, /* somewhere in the name */
    MATCH_GLOB,     /* '*' is any text; the whole name, or up to a '.' */
};
struct quant_rule {
    enum quant_match match;
    char *text;     /* owned */
    void *regex;    /* pcre2_code, owned; REGEX */
    int32_t scheme; /* index into schemes; -1: not quantized */
};
/* ERR_FORMAT: a pattern that does not compile, or too many rules; ERR_MEMORY. */
MUST_USE bool quant_rule_add(struct quant_spec *spec, enum quant_match match, const char *text,
                             int32_t scheme, struct err *err);
/* A rule for every text of a list (absent or null: none), all meaning `scheme`. "re:" in front of a
 * text makes it a pattern. */
MUST_USE bool quant_rules_add_list(struct quant_spec *spec, const struct json_ref *object,
                                   const char *key, enum quant_match match, int32_t scheme,
                                   struct err *err);
/* A new scheme, all zero but symmetric; its index. -1: none left or no memory. */
int32_t quant_scheme_add(struct quant_spec *spec, struct err *err);
void quant_rules_clear(struct quant_spec *spec);
/* The scheme of the first rule that matches; *found false: none does. */
MUST_USE bool quant_rules_find(const struct quant_spec *spec, const char *module, int32_t *scheme,
                               bool *found, struct err *err);

/* Figures of JSON objects, as quant_spec.c reads them. */
MUST_USE bool quant_read_count(const struct json_ref *object, const char *const keys[], int64_t low,
                               int64_t high, int32_t *value, struct err *err);
MUST_USE bool quant_read_flag(const struct json_ref *object, const char *key, bool *value,
                              struct err *err);
/* The text, or NULL when it is absent or not a string. */
const char *quant_text(const struct json_ref *object, const char *key);
extern const char *const QUANT_BITS_KEYS[], *const QUANT_GROUP_KEYS[];
/* quant_ct.c: config_groups, ignore, format, sparsity. */
MUST_USE bool quant_read_ct(struct quant_spec *spec, const struct json_ref *object,
                            struct err *err);
/* spec->refusal, unless there is one already. */
void quant_refuse(struct quant_spec *spec, const char *format, ...) PRINTF_LIKE(2, 3);
