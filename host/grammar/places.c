/* places.c - one byte further.
 *
 * The places in hand lie in scratch->words; `sorted` finds the ones already there, `pending` the
 * ones whose calls and return are still to be followed. A pending place is worked off before those
 * that came earlier, and each leads to a byte within LEFT_DEPTH_MAX calls; once the room is short,
 * each is followed one way only. So however little room there is, at least one place comes out of a
 * step that is possible. */
#include "host/grammar/places.h"
#include <string.h>

_Static_assert(ROOMY_WORDS < CLOSURE_WORDS - RESERVE_WORDS, "what is roomy drops nothing");
_Static_assert(ROOMY_WORDS / 2 < CLOSURE_PLACES - (LEFT_DEPTH_MAX + 2), "a place takes two words");

static bool is_short(const struct places_scratch *s)
{
    return s->n_words > CLOSURE_WORDS - RESERVE_WORDS ||
           s->n_sorted > CLOSURE_PLACES - (LEFT_DEPTH_MAX + 2);
}

static int compare_places(const uint32_t *a, const uint32_t *b)
{
    uint32_t n = a[1] < b[1] ? a[1] : b[1];
    for (uint32_t i = 0; i < n + 2; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* The place lies behind the last one, in words[n_words ..]; it stays unless it is there already, or
 * there is no room. */
static void keep_place(struct places_scratch *s, struct places *to)
{
    const uint32_t *place = s->words + s->n_words;
    uint32_t low = 0, high = s->n_sorted;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = compare_places(s->words + s->sorted[middle], place);
        if (order == 0)
            return;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (s->n_sorted == CLOSURE_PLACES) {
        to->narrowed = true;
        return;
    }
    memmove(s->sorted + low + 1, s->sorted + low, (s->n_sorted - low) * sizeof *s->sorted);
    s->sorted[low] = s->n_words;
    s->n_sorted++;
    s->pending[s->n_pending++] = s->n_words;
    s->n_words += 2 + place[1];
}

/* May a place with this many calls, open or needed on its way to the end, be kept? */
static bool fits_calls(struct places_scratch *s, struct places *to, uint32_t n)
{
    if (n > s->most_calls)
        s->most_calls = n;
    if (n > CALL_DEPTH_MAX)
        to->narrowed = true;
    return n <= CALL_DEPTH_MAX;
}

/* Propose a place: calls[0 .. n) and, if `more`, one more. */
static void add_place(const struct automaton *a, struct places_scratch *s, struct places *to,
                      uint32_t state, const uint32_t *calls, uint32_t n, const uint32_t *more)
{
    uint32_t n_calls = n + (more ? 1 : 0);
    if (!fits_calls(s, to, n_calls + a->states[state].height))
        return;
    if (s->n_words + 2 + n_calls > CLOSURE_WORDS) {
        to->narrowed = true;
        return;
    }
    uint32_t *place = s->words + s->n_words;
    place[0] = state;
    place[1] = n_calls;
    if (n > 0)
        memcpy(place + 2, calls, n * sizeof *calls);
    if (more)
        place[2 + n] = *more;
    keep_place(s, to);
}

/* Everything that the pending places reach without a byte. */
static void close_places(const struct automaton *a, struct places_scratch *s, struct places *to)
{
    while (s->n_pending > 0) {
        const uint32_t *place = s->words + s->pending[--s->n_pending];
        const struct auto_state *state = &a->states[place[0]];
        uint32_t n = place[1];
        bool followed = false;
        if (state->accepts && n == 0) {
            to->ended = true;
        } else if (state->accepts) {
            add_place(a, s, to, place[2 + n - 1], place + 2, n - 1, NULL);
            followed = true;
        }
        for (uint32_t c = state->calls; c < state[1].calls; c++) {
            const struct auto_call *call = &a->calls[c];
            if (followed && is_short(s)) {
                to->narrowed = true;
                break;
            }
            if (call->last)
                add_place(a, s, to, call->start, place + 2, n, NULL);
            else if (fits_calls(s, to, n + a->states[call->to].height))
                add_place(a, s, to, call->start, place + 2, n, &call->to);
            else
                continue;
            followed = true;
        }
    }
}

static void take_places(const struct automaton *a, struct places_scratch *s, struct places *to)
{
    for (uint32_t i = 0; i < s->n_sorted; i++) {
        const uint32_t *place = s->words + s->sorted[i];
        const struct auto_state *state = &a->states[place[0]];
        if (state->edges == state[1].edges)
            continue;
        if (to->n_words + 2 + place[1] > PLACES_WORDS) {
            to->narrowed = true;
            continue;
        }
        memcpy(to->words + to->n_words, place, (2 + place[1]) * sizeof *place);
        to->n_words += 2 + place[1];
        to->n_places++;
    }
}

static void begin(struct places_scratch *s, struct places *to)
{
    s->n_words = s->n_sorted = s->n_pending = s->most_calls = 0;
    to->n_words = to->n_places = 0;
    to->ended = to->narrowed = false;
}

void places_at(const struct automaton *automaton, struct places_scratch *scratch, uint32_t state,
               const uint32_t *calls, uint32_t n_calls, struct places *to)
{
    begin(scratch, to);
    add_place(automaton, scratch, to, state, calls, n_calls, NULL);
    close_places(automaton, scratch, to);
    take_places(automaton, scratch, to);
}

void places_start(const struct automaton *automaton, struct places_scratch *scratch,
                  struct places *to)
{
    places_at(automaton, scratch, automaton->start, NULL, 0, to);
    to->ended = automaton->accepts_empty;
}

bool places_step(const struct automaton *automaton, struct places_scratch *scratch,
                 const uint32_t *words, uint32_t n_words, uint8_t byte, struct places *to)
{
    begin(scratch, to);
    for (uint32_t at = 0; at < n_words; at += 2 + words[at + 1]) {
        const struct auto_state *state = &automaton->states[words[at]];
        for (uint32_t e = state->edges; e < state[1].edges; e++) {
            const struct auto_edge *edge = &automaton->edges[e];
            if (edge->low > byte || byte > edge->high)
                continue;
            if (scratch->n_sorted > 0 && is_short(scratch))
                to->narrowed = true;
            else
                add_place(automaton, scratch, to, edge->to, words + at + 2, words[at + 1], NULL);
        }
    }
    close_places(automaton, scratch, to);
    take_places(automaton, scratch, to);
    return to->n_words > 0 || to->ended;
}
