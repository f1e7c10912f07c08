/* quant_rules.c - rules by name and pattern: kept, and asked.
 *
 * Patterns come from the checkpoint's author: their number and length are bounded, they are matched
 * with a limit on steps, and without just-in-time code. Pure but for memory. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "host/format/quant_rules.h"

#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RULES_MAX = 1 << 16,
    TEXT_MAX = 4096,
    MATCH_STEPS_MAX = 100000, /* real patterns take a few hundred on names of 60 bytes */
    HEAP_KIB_MAX = 1024,
};

int32_t quant_scheme_add(struct quant_spec *spec, struct err *err)
{
    if (spec->n_schemes == QUANT_SCHEMES_MAX) {
        err_set(err, ERR_UNSUPPORTED, "%s: more than %d different schemes", spec->key,
                QUANT_SCHEMES_MAX);
        return -1;
    }
    struct quant_scheme *grown =
        realloc(spec->schemes, (size_t)(spec->n_schemes + 1) * sizeof *grown);
    if (grown == NULL) {
        err_set(err, ERR_MEMORY, "no memory for a quantization scheme");
        return -1;
    }
    spec->schemes = grown;
    grown[spec->n_schemes] = (struct quant_scheme){ .symmetric = true };
    return spec->n_schemes++;
}

static bool compile(struct quant_rule *rule, const char *key, struct err *err)
{
    int code;
    PCRE2_SIZE at;
    rule->regex = pcre2_compile((PCRE2_SPTR)rule->text, PCRE2_ZERO_TERMINATED,
                                PCRE2_ANCHORED | PCRE2_UTF, &code, &at, NULL);
    if (rule->regex != NULL)
        return true;
    PCRE2_UCHAR text[128];
    pcre2_get_error_message(code, text, sizeof text);
    return err_set(err, ERR_FORMAT, "%s: pattern \"%.120s\", byte %zu: %s", key, rule->text,
                   (size_t)at, (const char *)text);
}

bool quant_rule_add(struct quant_spec *spec, enum quant_match match, const char *text,
                    int32_t scheme, struct err *err)
{
    if (spec->n_rules == RULES_MAX || strlen(text) > TEXT_MAX)
        return err_set(err, ERR_FORMAT, "%s: more than %d rules, or one of more than %d bytes",
                       spec->key, RULES_MAX, TEXT_MAX);
    /* Doubled when it reaches a power of two: no capacity to keep. */
    const int32_t n = spec->n_rules;
    if ((n & (n - 1)) == 0) {
        const size_t capacity = n == 0 ? 1 : 2 * (size_t)n;
        struct quant_rule *grown = realloc(spec->rules, capacity * sizeof *grown);
        if (grown == NULL)
            return err_set(err, ERR_MEMORY, "no memory for %d quantization rules", n + 1);
        spec->rules = grown;
    }
    struct quant_rule *rule = &spec->rules[n];
    *rule = (struct quant_rule){ .match = match, .text = strdup(text), .scheme = scheme };
    if (rule->text == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a quantization rule");
    spec->n_rules++;
    return match != MATCH_REGEX || compile(rule, spec->key, err);
}

bool quant_rules_add_list(struct quant_spec *spec, const struct json_ref *object, const char *key,
                          enum quant_match match, int32_t scheme, struct err *err)
{
    struct json_ref list, item;
    if (!json_get(object, key, &list))
        return true;
    char path[128];
    if (!json_is_array(&list))
        return err_set(err, ERR_FORMAT, "%s must be a list of module names",
                       json_path(&list, path, sizeof path));
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        const char *text = NULL;
        if (!json_string(&item, &text, err))
            return err_set(err, ERR_FORMAT, "%s must be a module name",
                           json_path(&item, path, sizeof path));
        const bool regex = strncmp(text, "re:", 3) == 0;
        if (!quant_rule_add(spec, regex ? MATCH_REGEX : match, regex ? text + 3 : text, scheme,
                            err))
            return false;
    }
    return true;
}

void quant_rules_clear(struct quant_spec *spec)
{
    for (int32_t i = 0; i < spec->n_rules; i++) {
        free(spec->rules[i].text);
        pcre2_code_free(spec->rules[i].regex);
    }
    free(spec->rules);
    free(spec->schemes);
    spec->rules = NULL;
    spec->schemes = NULL;
    spec->n_rules = spec->n_schemes = 0;
}

/* '*' is any text. One star remembered is enough: a later one takes over from an earlier. */
static bool glob_matches(const char *glob, const char *name)
{
    const char *star = NULL, *resume = NULL;
    while (*name != 0) {
        if (*glob == '*') {
            star = glob++;
            resume = name;
        } else if (*glob == *name) {
            glob++;
            name++;
        } else if (*glob == 0 && *name == '.') {
            return true; /* a rule for a module holds for what is inside it */
        } else if (star != NULL) {
            glob = star + 1;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == 0;
}

static bool regex_matches(const struct quant_rule *rule, const char *module, bool *matches,
                          struct err *err)
{
    int found = PCRE2_ERROR_NOMEMORY;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (data != NULL && context != NULL) {
        pcre2_set_match_limit(context, MATCH_STEPS_MAX);
        pcre2_set_heap_limit(context, HEAP_KIB_MAX);
        found = pcre2_match(rule->regex, (PCRE2_SPTR)module, strlen(module), 0, 0, data, context);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    *matches = found >= 0;
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH)
        return true;
    return err_set(err, ERR_UNSUPPORTED,
                   "quantization rule \"%.120s\" takes more than %d steps on %.120s", rule->text,
                   MATCH_STEPS_MAX, module);
}

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

bool quant_rules_find(const struct quant_spec *spec, const char *module, int32_t *scheme,
                      bool *found, struct err *err)
{
    *found = false;
    for (int32_t i = 0; i < spec->n_rules && !*found; i++) {
        const struct quant_rule *rule = &spec->rules[i];
        switch (rule->match) {
        case MATCH_NAME:
            *found = strcmp(rule->text, module) == 0;
            break;
        case MATCH_LINEAR:
            *found = !ends_with(module, "embed_tokens");
            break;
        case MATCH_REGEX:
            if (!regex_matches(rule, module, found, err))
                return false;
            break;
        case MATCH_CONTAINS:
            *found = strstr(module, rule->text) != NULL;
            break;
        case MATCH_GLOB:
            *found = glob_matches(rule->text, module);
            break;
        }
        *scheme = rule->scheme;
    }
    return true;
}

void quant_refuse(struct quant_spec *spec, const char *format, ...)
{
    va_list args;
    if (spec->refusal[0] != 0)
        return;
    va_start(args, format);
    vsnprintf(spec->refusal, sizeof spec->refusal, format, args);
    va_end(args);
    for (char *c = spec->refusal; *c != 0; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
}
