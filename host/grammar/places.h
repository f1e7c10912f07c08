/* places.h - where in an automaton a text stands: a set of places, each a state and the open calls.
 *
 * Pure: a step depends on the set and the byte alone, so that a mask worked out ahead and a token
 * taken later agree. Dropping a place only narrows what may follow: each place by itself can reach
 * the end (automaton.h's heights say with how many open calls), so a set that is too large for its
 * room loses places and never gets stuck. */
#pragma once
#include "host/grammar/automaton.h"

/* 16 KiB with the head: 500 places in a shallow grammar, 30 in the deepest. */
enum { PLACES_WORDS = 4092, CLOSURE_WORDS = 4 * PLACES_WORDS, CLOSURE_PLACES = 4096 };
/* Kept free, so that one place comes through however many there are. */
enum { RESERVE_WORDS = (LEFT_DEPTH_MAX + 2) * (CALL_DEPTH_MAX + 2) };
/* A step whose scratch takes no more words than this drops nothing for room. */
enum { ROOMY_WORDS = PLACES_WORDS };

/* Places in ascending order, each [state, n_calls, state to return to, ... innermost last]. Only
 * places with an edge are kept. */
struct places {
    uint32_t n_words, n_places;
    bool ended; /* a place has come to the end of the text (or of what was opened in places_at) */
    bool narrowed; /* something was dropped for room or depth */
    uint32_t words[PLACES_WORDS];
};
/* What a step works on; about 200 KiB, one a thread. */
struct places_scratch {
    uint32_t words[CLOSURE_WORDS], n_words;
    uint32_t sorted[CLOSURE_PLACES],
        n_sorted; /* offsets of places in words, ascending by content */
    uint32_t pending[CLOSURE_PLACES], n_pending;
    uint32_t most_calls; /* the most calls that a place of the last step has open or will need */
};

/* The beginning of the text. */
void places_start(const struct automaton *automaton, struct places_scratch *scratch,
                  struct places *to);
/* One state with these open calls (innermost last), and what may follow without a byte. */
void places_at(const struct automaton *automaton, struct places_scratch *scratch, uint32_t state,
               const uint32_t *calls, uint32_t n_calls, struct places *to);
/* Behind one more byte; `to` may not be `from`. False: the byte is not possible (to is empty). */
bool places_step(const struct automaton *automaton, struct places_scratch *scratch,
                 const uint32_t *words, uint32_t n_words, uint8_t byte, struct places *to);
