/* json_rules.c - JSON itself (RFC 8259), as rules. */
#include "host/grammar/json_rules.h"
#include "host/grammar/compile.h"
#include "host/grammar/regex.h"
#include <string.h>

#define HEX "[0-9a-fA-F]"
/* Anything but \u0000 and surrogates; pairs of surrogates; the short escapes; the rest as it is. */
static const char CHAR[] =
    "[^\"\\\\\\x00-\\x1f]"
    "|\\\\[\"\\\\/bfnrt]"
    "|\\\\u(?:0(?:0(?:0[1-9a-fA-F]|[1-9a-fA-F]" HEX ")|[1-9a-fA-F]" HEX "{2})"
    "|[1-9a-cA-CeEfF]" HEX "{3}"
    "|[dD][0-7]" HEX "{2}"
    "|[dD][89abAB]" HEX "{2}\\\\u[dD][c-fC-F]" HEX "{2})";
static const char INTEGER[] = "0|-?[1-9][0-9]{0,14}";
static const char NUMBER[] = "-?(?:0|[1-9][0-9]{0,14})(?:\\.[0-9]{1,15})?(?:[eE][-+]?[0-9]{1,2})?";
static const char BLANK[] = " ?|\\n[ \\t]{0,20}";

static uint32_t pattern(struct workshop *work, const char *text)
{
    return regex_parse(work, "JSON", text, strlen(text), REGEX_WHOLE, CHARS_RAW);
}

static uint32_t call(struct workshop *work, enum json_rule rule)
{
    return expr_rule(work, rule);
}

/* open (item ("," item)*)? close, blanks behind open and comma and in front of close. */
static uint32_t bracketed(struct workshop *work, const char *open, uint32_t item, const char *close)
{
    uint32_t blank = call(work, JSON_BLANK);
    uint32_t next = expr_seq(work, (uint32_t[]){ expr_literal(work, ","), blank, item }, 3);
    uint32_t items = expr_seq(work, (uint32_t[]){ item, expr_star(work, next), blank }, 3);
    return expr_seq(work,
                    (uint32_t[]){ expr_literal(work, open), blank, expr_option(work, items),
                                  expr_literal(work, close) },
                    4);
}

void json_rules_make(struct workshop *work, bool compact)
{
    for (uint32_t i = 0; i < N_JSON_RULES; i++)
        rule_new(work, NULL);
    if (work->failed)
        return;
    uint32_t quote = expr_literal(work, "\"");
    uint32_t chr = pattern(work, CHAR);
    uint32_t colon = expr_literal(work, ":"), blank = call(work, JSON_BLANK);
    uint32_t member = expr_seq(
        work, (uint32_t[]){ call(work, JSON_STRING), colon, blank, call(work, JSON_VALUE) }, 4);
    rule_set(work, JSON_BLANK, compact ? EXPR_EMPTY : pattern(work, BLANK));
    rule_set(work, JSON_CHAR, chr);
    rule_set(work, JSON_STRING,
             expr_seq(work, (uint32_t[]){ quote, expr_star(work, chr), quote }, 3));
    rule_set(work, JSON_INTEGER, pattern(work, INTEGER));
    rule_set(work, JSON_NUMBER, pattern(work, NUMBER));
    rule_set(work, JSON_OBJECT, bracketed(work, "{", member, "}"));
    rule_set(work, JSON_ARRAY, bracketed(work, "[", call(work, JSON_VALUE), "]"));
    const uint32_t values[] = { call(work, JSON_OBJECT),    call(work, JSON_ARRAY),
                                call(work, JSON_STRING),    call(work, JSON_NUMBER),
                                expr_literal(work, "true"), expr_literal(work, "false"),
                                expr_literal(work, "null") };
    rule_set(work, JSON_VALUE, expr_alt(work, values, 7));
}

uint32_t json_rules_kind(bool compact)
{
    return compact ? 2 : 1;
}

uint32_t json_blank(struct workshop *work)
{
    return expr_rule(work, JSON_BLANK);
}

bool grammar_compile_json_object(struct grammar **grammar,
                                 const struct grammar_json_options *options,
                                 const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    bool compact = options && options->compact;
    workshop_open(&work, limits, err);
    json_rules_make(&work, compact);
    return grammar_finish(&work, JSON_OBJECT, N_JSON_RULES, json_rules_kind(compact), grammar);
}
