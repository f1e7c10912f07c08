/* grammar.c - a compiled grammar, and the place of one sequence in it. */
#include "host/grammar/compile.h"
#include "host/grammar/vocab.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct grammar {
    struct automaton automaton;
    uint64_t owner; /* never used twice: what is cached for a closed grammar is not found again */
};
struct grammar_state {
    const struct grammar *grammar;
    struct grammar_vocab *vocab;
    bool closed; /* behind eos */
    struct places places;
};

bool grammar_finish(struct workshop *work, uint32_t root, uint32_t n_fixed, uint32_t kind,
                    struct grammar **grammar)
{
    static _Atomic uint64_t n_grammars;
    enum { OWNERS_FROM = 1024 }; /* below: kinds of sharing */
    *grammar = NULL;
    struct grammar *made = work->failed ? NULL : calloc(1, sizeof *made);
    if (!made && !work->failed)
        work_refuse(work, ERR_MEMORY, "no memory for a grammar");
    if (made && automaton_build(work, root, n_fixed, kind, &made->automaton)) {
        made->owner = OWNERS_FROM + atomic_fetch_add(&n_grammars, 1);
        *grammar = made;
    } else {
        free(made);
    }
    workshop_close(work);
    return *grammar != NULL;
}

bool source_fits(size_t length, const struct grammar_limits *limits, struct err *err)
{
    if (length <= limits->source_bytes)
        return true;
    return err_set(err, ERR_REQUEST, "the grammar has %zu bytes, want at most %zu", length,
                   limits->source_bytes);
}

void grammar_close(struct grammar *grammar)
{
    if (!grammar)
        return;
    automaton_clear(&grammar->automaton);
    free(grammar);
}

size_t grammar_bytes(const struct grammar *grammar)
{
    return sizeof *grammar + grammar->automaton.bytes;
}

bool grammar_accepts(const struct grammar *grammar, const char *bytes, size_t length)
{
    struct room {
        struct places_scratch scratch;
        struct places places[2];
    } *room = malloc(sizeof *room);
    bool alive = room != NULL;
    if (alive)
        places_start(&grammar->automaton, &room->scratch, &room->places[0]);
    for (size_t i = 0; i < length && alive; i++) {
        const struct places *from = &room->places[i % 2];
        alive = places_step(&grammar->automaton, &room->scratch, from->words, from->n_words,
                            (uint8_t)bytes[i], &room->places[1 - i % 2]);
    }
    alive = alive && room->places[length % 2].ended;
    free(room);
    return alive;
}

bool grammar_state_open(struct grammar_state **state, const struct grammar *grammar,
                        struct grammar_vocab *vocab, struct err *err)
{
    struct grammar_state *s = malloc(sizeof *s);
    *state = s;
    if (!s)
        return err_set(err, ERR_MEMORY, "no memory for the place in a grammar");
    s->grammar = grammar;
    s->vocab = vocab;
    s->closed = false;
    places_start(&grammar->automaton, &vocab->scratch, &s->places);
    return true;
}

void grammar_state_close(struct grammar_state *state)
{
    free(state);
}

void grammar_state_copy(struct grammar_state *to, const struct grammar_state *from)
{
    to->grammar = from->grammar;
    to->vocab = from->vocab;
    to->closed = from->closed;
    to->places.n_words = from->places.n_words;
    to->places.n_places = from->places.n_places;
    to->places.ended = from->places.ended;
    memcpy(to->places.words, from->places.words, from->places.n_words * sizeof(uint32_t));
}

bool grammar_accepting(const struct grammar_state *state)
{
    return state->places.ended && !state->closed;
}

bool grammar_complete(const struct grammar_state *state)
{
    return grammar_accepting(state) && state->places.n_words == 0;
}

bool grammar_mask(struct grammar_state *state, uint32_t *mask)
{
    struct grammar_vocab *v = state->vocab;
    uint32_t any = 0;
    if (state->closed) {
        memset(mask, 0, v->n_mask_words * sizeof *mask);
        return false;
    }
    token_mask(v, &state->grammar->automaton, state->grammar->owner, &state->places, mask);
    for (int32_t i = 0; i < v->n_eos; i++) {
        uint32_t bit = (uint32_t)1 << (v->eos[i] & 31);
        if (state->places.ended)
            mask[v->eos[i] >> 5] |= bit;
        else
            mask[v->eos[i] >> 5] &= ~bit;
    }
    for (uint32_t i = 0; i < v->n_mask_words && !any; i++)
        any = mask[i];
    return any != 0;
}

static bool is_eos(const struct grammar_vocab *v, int32_t token)
{
    for (int32_t i = 0; i < v->n_eos; i++)
        if (v->eos[i] == token)
            return true;
    return false;
}

bool grammar_advance(struct grammar_state *state, int32_t token)
{
    const struct grammar_vocab *v = state->vocab;
    if (state->closed || token < 0 || token >= v->n_tokens)
        return false;
    if (is_eos(v, token)) {
        if (!state->places.ended)
            return false;
        state->closed = true;
        return true;
    }
    uint32_t first = v->token_first[token], length = v->token_first[token + 1] - first;
    return length > 0 &&
           token_advance(state->vocab, &state->grammar->automaton, state->grammar->owner,
                         v->bytes + first, length, &state->places);
}
