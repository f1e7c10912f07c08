/* json_rules.h - the rules that every grammar of JSON begins with, in the same order: their states
 * are numbered alike, so masks worked out for one grammar serve all (automaton.h, `kind`).
 *
 * Bounds, so that a model cannot write for ever where nothing is said: blanks as in
 * grammar_json_options; a number has at most 15 digits before and 15 behind the point, and two in
 * the exponent; strings have no \u0000 and no half surrogate pairs. */
#pragma once
#include "host/grammar/expr.h"

enum json_rule {
    JSON_BLANK,   /* where blanks may stand; matches the empty text too */
    JSON_CHAR,    /* one character inside of a string, escaped or not */
    JSON_STRING,  /* with its quotes */
    JSON_INTEGER, /* without fraction and exponent */
    JSON_NUMBER,
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_VALUE,
    N_JSON_RULES,
};
enum { JSON_DIGITS_MAX = 15 };
/* Make them; first of all, in an empty workshop. */
void json_rules_make(struct workshop *work, bool compact);
uint32_t json_rules_kind(bool compact);
/* A call of JSON_BLANK. */
uint32_t json_blank(struct workshop *work);
