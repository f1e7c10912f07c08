/* normalize.h - the normalizer of a tokenizer.json: text to text, before it is cut. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/json.h"
#include "host/text/charsmap.h"
#include "host/text/split_regex.h"
#include "host/text/unicode.h"

enum { NORMALIZER_STEPS_MAX = 32 };

enum normalizer_kind {
    NORMALIZER_FORM,
    NORMALIZER_LOWER,
    NORMALIZER_STRIP,
    NORMALIZER_STRIP_ACCENTS, /* drops every mark */
    NORMALIZER_PREPEND,
    NORMALIZER_REPLACE,
    NORMALIZER_BERT,   /* clean, spaces around ideographs */
    NORMALIZER_MAP,    /* sentencepiece's precompiled map */
    NORMALIZER_SPACES, /* sentencepiece: runs of blanks become one, none at the ends */
};
struct normalizer_step {
    enum normalizer_kind kind;
    enum unicode_form form;
    bool left, right;       /* strip */
    bool clean, ideographs; /* bert */
    bool only_nonspacing;   /* strip accents: marks that take no room alone (Mn) */
    char *content;          /* prepend, replace: owned */
    char *literal;          /* replace: what is looked for, or NULL; owned */
    struct split_regex *regex;
    struct charsmap map;
};
struct normalizer {
    struct normalizer_step steps[NORMALIZER_STEPS_MAX];
    int32_t n_steps;
};

/* `node`: the value of "normalizer"; an absent or null one does nothing. On false nothing is left
 * to clear. Errors name the component by its path. */
MUST_USE bool normalizer_open(struct normalizer *normalizer, const struct json_ref *node,
                              struct err *err);
void normalizer_clear(struct normalizer *normalizer);

/* Building by hand, from zeroed memory: steps in order, at most NORMALIZER_STEPS_MAX. On false the
 * normalizer is to be cleared still. */
void normalizer_add_form(struct normalizer *normalizer, enum unicode_form form);
void normalizer_add_spaces(struct normalizer *normalizer);
MUST_USE bool normalizer_add_map(struct normalizer *normalizer, const void *bytes, size_t size,
                                 enum charsmap_rule rule, struct err *err);
MUST_USE bool normalizer_add_prepend(struct normalizer *normalizer, const char *text,
                                     struct err *err);
MUST_USE bool normalizer_add_replace(struct normalizer *normalizer, const char *from,
                                     const char *to, struct err *err);

struct normalizer_scratch {
    struct buf texts[2]; /* where the steps write, in turns */
    struct regex_scratch regex;
};
void normalizer_scratch_init(struct normalizer_scratch *scratch);
void normalizer_scratch_clear(struct normalizer_scratch *scratch);

enum {
    NORMALIZE_FIRST = 1, /* the text's beginning is here: Prepend and the left Strip apply */
    NORMALIZE_LAST = 2,  /* its end is here: the right Strip applies                       */
};
/* *out is `text` itself when nothing changes, else memory of the scratch, valid until the next
 * call. `text` is valid UTF-8. */
MUST_USE bool normalizer_run(const struct normalizer *normalizer,
                             struct normalizer_scratch *scratch, unsigned where, const char *text,
                             size_t length, const char **out, size_t *out_length, struct err *err);
