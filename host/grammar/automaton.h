/* automaton.h - a compiled grammar: states with edges over bytes, and calls of other states that
 * return. Immutable. places.h runs it.
 *
 * Invariants: from every state that an edge or a call leads to, the end of its rule can be reached;
 * `height` is how many calls must be open at once for that. No rule begins with a call of itself,
 * and at most LEFT_DEPTH_MAX calls open without a byte between them. A rule never matches the empty
 * text: where it could, its callers have a way around the call. */
#pragma once
#include "host/grammar/expr.h"

/* Open calls at once, and so the nesting of what a grammar writes: JSON's takes one a level. */
enum { CALL_DEPTH_MAX = 128, LEFT_DEPTH_MAX = 64 };

struct auto_edge {
    uint32_t to;
    uint8_t low, high; /* of the byte */
};
struct auto_call {
    uint32_t start; /* of the rule that is called */
    uint32_t to;    /* where it returns to */
    bool last;      /* nothing but the end follows at `to`: returns to the caller at once */
};
struct auto_state {
    uint32_t edges, calls; /* the first; the next state's are behind the last */
    bool accepts;          /* its rule may end here */
    uint8_t height;
};
struct automaton {
    uint32_t n_states, start;
    uint32_t n_shared; /* states 0.. that are the same in every grammar with this kind of sharing */
    uint32_t kind;     /* of sharing; 0: n_shared is 0 */
    bool accepts_empty;
    struct auto_state *states; /* [n_states + 1] */
    struct auto_edge *edges;
    struct auto_call *calls;
    size_t bytes; /* memory held */
};

/* From the rules of the workshop. `n_fixed` rules come first, whether they are called or not (what
 * is shared between grammars of one `kind`). Errors: matches no text, begins with itself, limits.
 */
bool automaton_build(struct workshop *work, uint32_t root, uint32_t n_fixed, uint32_t kind,
                     struct automaton *automaton);
void automaton_clear(struct automaton *automaton);
