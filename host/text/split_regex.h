/* split_regex.h - regular expressions of tokenizer files, run by PCRE2.
 *
 * The `tokenizers` library runs them with Oniguruma in Ruby syntax. regex_from_ruby rewrites such a
 * pattern to PCRE2's syntax so that every construct means the same (or refuses it by name):
 * $ and ^ at line ends, \s \w \d \h by Oniguruma's tables, {n,m}+ is not possessive, class set
 * operations, isolated options. Matching: UTF and UCP, newline is LF, JIT when there is one. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/buf.h"
#include "host/base/err.h"

enum { REGEX_PATTERN_MAX = 16384 }; /* bytes; the longest known split pattern has about 700 */

/* Appends the PCRE2 form of a Ruby pattern. ERR_FORMAT or ERR_UNSUPPORTED with the byte offset. */
MUST_USE bool regex_from_ruby(const char *pattern, size_t length, struct buf *out, struct err *err);

struct split_regex; /* immutable: any number of threads */
enum regex_kind {
    REGEX_RUBY,    /* a pattern as tokenizer files write it */
    REGEX_LITERAL, /* a string that is looked for as it is  */
    REGEX_PCRE,    /* our own, already in PCRE2's syntax    */
};
MUST_USE bool split_regex_open(struct split_regex **regex, enum regex_kind kind,
                               const char *pattern, size_t length, struct err *err);
void split_regex_close(struct split_regex *regex);

/* What one thread needs for matching; zero-initialize. */
struct regex_scratch {
    void *match, *context, *stack; /* pcre2_match_data, pcre2_match_context, pcre2_jit_stack */
};
void regex_scratch_clear(struct regex_scratch *scratch);

/* Walks the matches of `text` in order, as rust-onig's find_iter does: leftmost, not overlapping,
 * no empty match right behind the previous one. */
struct regex_walk {
    const struct split_regex *regex;
    struct regex_scratch *scratch;
    const char *text; /* valid UTF-8 */
    size_t length, from, last_end;
    bool any;
};
/* False: no further match, or an error (then err->code is set; it is ERR_NONE otherwise). */
bool regex_next(struct regex_walk *walk, size_t *start, size_t *end, struct err *err);
