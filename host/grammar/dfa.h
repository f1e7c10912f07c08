/* dfa.h - one expression as a finite automaton over bytes and calls of rules. Compile time only;
 * lives in the workshop's scratch until the caller resets it. */
#pragma once
#include "host/grammar/expr.h"

struct dfa_edge {
    uint32_t to;
    uint8_t low, high; /* of the byte */
};
struct dfa_call {
    uint32_t rule, to;
};
/* No edge leads to `start` unless the expression cannot be empty; `start` never accepts: whether
 * the empty text matches is `nullable`. Mostly deterministic (edges of a state ascend and do not
 * overlap); where that would take too many states it is not (`overlaps`). */
struct dfa {
    uint32_t n_states, start;
    bool nullable, overlaps;
    uint8_t *accepts;     /* [n_states] */
    uint32_t *edge_first; /* [n_states + 1] */
    uint32_t *call_first; /* [n_states + 1] */
    struct dfa_edge *edges;
    struct dfa_call *calls;
};

/* rule_nullable[rule]: a call may be skipped too; NULL: rules are copied in place of calls, which
 * must end (the regular part of a grammar). False: work->failed. */
bool dfa_build(struct workshop *work, uint32_t expr, const uint8_t *rule_nullable, struct dfa *dfa);

/* Languages of regular expressions: what both match, and what only a matches. */
uint32_t expr_and(struct workshop *work, uint32_t a, uint32_t b);
uint32_t expr_minus(struct workshop *work, uint32_t a, uint32_t b);
/* Does the regular expression match this text? False too when the work failed. */
bool expr_matches(struct workshop *work, uint32_t expr, const char *bytes, size_t length);
