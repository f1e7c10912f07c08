/* regex.h - regular expressions, the part that Python's re and ECMA-262 share.
 *
 * Literals and escapes (\n \r \t \f \v \a \0 \xHH \uHHHH \UHHHHHHHH, punctuation), '.', classes,
 * \d \w \s and their negations, alternatives, groups (capturing, (?:...), (?P<name>...),
 * (?<name>...)),
 * * + ? {m} {m,} {,n} {m,n}, lazy forms (the same language), ^ $ \A \Z at the ends of the
 * expression or of a branch of it. Refused by name: lookaround, back references, conditionals,
 * flags, atomic groups, possessive repetition, \b \B, \p, octal escapes.
 *
 * Matching is by code points of well-formed UTF-8. Where Unicode tables would be needed, less is
 * matched than Python does, never more: \d \w \s are ASCII's; \D and \W take of the rest of Unicode
 * only blocks that surely have no digit or letter; a negated class takes \d, \w, \s as wide as they
 * could be. Where an ambiguous expression has thousands of ways open at once ((a{0,100}){100}),
 * some are dropped (places.h). */
#pragma once
#include "host/grammar/charset.h"

enum regex_use {
    REGEX_WHOLE,  /* the whole text matches (re.fullmatch) */
    REGEX_SEARCH, /* a part of it does (re.search), as JSON Schema's `pattern` has it */
};
/* EXPR_NONE when it failed; the error is "NAME at byte N: ...". */
uint32_t regex_parse(struct workshop *work, const char *name, const char *text, size_t length,
                     enum regex_use use, enum char_form form);
