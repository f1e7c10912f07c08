/* pretokenize.h - the pre_tokenizer of a tokenizer.json: text to pieces that are merged alone.
 *
 * A list of stages; every stage cuts each piece that the one before it made, and sees nothing but
 * that piece (a lookahead ends at its end). Pieces are handed on depth first, so no list of them
 * is ever built. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/json.h"
#include "host/text/split_regex.h"

enum { PRETOK_STAGES_MAX = 32 };

enum pretok_behavior {
    BEHAVIOR_REMOVED,
    BEHAVIOR_ISOLATED,
    BEHAVIOR_MERGED_WITH_PREVIOUS,
    BEHAVIOR_MERGED_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS,
};
enum pretok_kind {
    PRETOK_REGEX,  /* matches of `regex` are the delimiters              */
    PRETOK_CLASS,  /* every character of which `is` is true              */
    PRETOK_CHAR,   /* every character equal to `code`                    */
    PRETOK_PREFIX, /* no cut: a blank is put before a piece without one  */
    PRETOK_MARK,   /* no cut: blanks become `mark`, and by `scheme` one is put before a piece */
                   /* that does not begin with one                                            */
};
enum pretok_scheme { SCHEME_ALWAYS, SCHEME_FIRST, SCHEME_NEVER };
struct pretok_stage {
    enum pretok_kind kind;
    enum pretok_behavior behavior;
    bool invert; /* what lies between the delimiters takes their part */
    struct split_regex *regex;
    bool (*is)(uint32_t code);
    uint32_t code;
    enum pretok_scheme scheme; /* of the mark */
    char mark[5];              /* one character */
};
struct pretok {
    struct pretok_stage stages[PRETOK_STAGES_MAX];
    int32_t n_stages;
    bool byte_level; /* a ByteLevel pre-tokenizer stands at the end */
};

/* `node`: the value of "pre_tokenizer"; an absent or null one cuts nothing. On false nothing is
 * left to clear. Errors name the component by its path. */
MUST_USE bool pretok_open(struct pretok *pretok, const struct json_ref *node, struct err *err);
void pretok_clear(struct pretok *pretok);
/* Appends a stage: matches of our own pattern are pieces, and so is what lies between them. On
 * false the pretok is to be cleared still. */
MUST_USE bool pretok_add_pattern(struct pretok *pretok, const char *pattern, struct err *err);

/* Called for every piece in order; `piece` is valid during the call. False stops. */
typedef bool pretok_sink(void *arg, const char *piece, size_t length);
struct pretok_scratch {
    struct regex_scratch regex;
    struct buf prefixed; /* a piece with its blank before it */
};
void pretok_scratch_init(struct pretok_scratch *scratch);
void pretok_scratch_clear(struct pretok_scratch *scratch);
/* `text` is valid UTF-8; `first`: it begins the whole. False with err set, or with err->code
 * ERR_NONE when the sink stopped. */
MUST_USE bool pretok_run(const struct pretok *pretok, struct pretok_scratch *scratch, bool first,
                         const char *text, size_t length, pretok_sink *sink, void *arg,
                         struct err *err);
