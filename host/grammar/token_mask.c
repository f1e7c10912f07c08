/* token_mask.c - which tokens may come next.
 *
 * A walk over the vocabulary's trie takes about a millisecond for 128k tokens where most are
 * allowed, and that is inside of a string, again and again. So a mask is put together from what
 * each state does by itself: the tokens that stay within its rule (worked out once per state), and
 * the nodes of the trie at which the rule may end, from where a short walk goes on with the open
 * calls. States of JSON's own rules are the same in all schemas, so that is once per process for
 * them. Masks are kept by set of places as well, which is what repeats while many sequences write
 * the same schema.
 *
 * A grammar can keep hundreds of places open and make of every node of the trie another set
 * (.*a.{60}), which would hold up everybody else for seconds. So a walk counts its work, by the
 * sizes of the sets alone and not by what happens to be cached; where that is too much, the mask
 * has the tokens of up to as many bytes as the work allows, of one at least. Each by itself is
 * right, so nothing gets stuck.
 *
 * Everything lies in the fixed room of the vocab. When it is full, all of it is forgotten and the
 * operation begins anew; when one operation alone fills it, it is done without the cache. */
#include "host/grammar/vocab.h"
#include <string.h>

enum { ROW_UNKNOWN = 0, ROW_DEAD = 1, ROW_DEAD_NARROWED = 2, ROW_SET = 3 };
enum { SET_FULL = UINT32_MAX };
/* Places walked from, above FREE_PLACES a node: about 5 ms. */
enum { FREE_PLACES = 6, WORK_MAX = 48 << 10 };

struct walk {
    struct grammar_vocab *v;
    const struct automaton *automaton;
    uint64_t owner;
    bool full, tired;
    uint32_t work, depth_max; /* nodes below this depth are left out */
    /* What the sets met in this walk took, and tokens found. */
    bool narrowed;
    uint32_t scratch_words, most_calls;
    uint32_t *mask;
    uint32_t list[LIST_TOKENS_MAX], n_list; /* n_list > LIST_TOKENS_MAX: only in the mask */
    uint32_t n_exits;                       /* > EXITS_MAX: not all are in v->exits */
    uint32_t nested;                        /* the most exits on one path */
};

static uint32_t hash_words(uint64_t owner, const uint32_t *words, uint32_t n)
{
    uint64_t hash = owner * 0x9e3779b97f4a7c15u ^ n;
    for (uint32_t i = 0; i < n; i++) {
        hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

/* Places of shared rules alone belong to all grammars of the kind. */
static uint64_t owner_of(const struct walk *w, const struct places *places)
{
    uint32_t n_shared = w->automaton->n_shared;
    if (n_shared == 0)
        return w->owner;
    for (uint32_t at = 0; at < places->n_words; at += 2 + places->words[at + 1]) {
        if (places->words[at] >= n_shared)
            return w->owner;
        for (uint32_t i = 0; i < places->words[at + 1]; i++)
            if (places->words[at + 2 + i] >= n_shared)
                return w->owner;
    }
    return w->automaton->kind;
}

/* The number of this set, or SET_FULL. */
static uint32_t know_set(struct walk *w, const struct places *places)
{
    struct grammar_vocab *v = w->v;
    uint64_t owner = owner_of(w, places);
    uint32_t hash = hash_words(owner, places->words, places->n_words) ^ places->ended;
    uint32_t at = hash;
    for (; v->set_table[at & v->set_table_mask]; at++) {
        uint32_t i = v->set_table[at & v->set_table_mask] - 1;
        const struct known_set *set = &v->sets[i];
        if (set->hash == hash && set->owner == owner && set->n_words == places->n_words &&
            set->ended == places->ended &&
            memcmp(v->words + set->words_at, places->words, set->n_words * sizeof *v->words) == 0)
            return i;
    }
    if (v->n_sets == v->sets_max || places->n_words > v->words_max - v->n_words) {
        w->full = true;
        return SET_FULL;
    }
    uint32_t i = v->n_sets++;
    v->set_table[at & v->set_table_mask] = i + 1;
    v->sets[i] = (struct known_set){
        .owner = owner,
        .hash = hash,
        .words_at = v->n_words,
        .n_words = places->n_words,
        .n_places = places->n_places,
        .ended = places->ended,
        .mask.n = MASK_NONE,
    };
    memcpy(v->words + v->n_words, places->words, places->n_words * sizeof *v->words);
    v->n_words += places->n_words;
    memset(v->next[i], 0, sizeof v->next[i]);
    return i;
}

/* Remember what the last step took: sets that several steps make keep the most. */
static void note_step(struct walk *w, uint32_t i, bool narrowed)
{
    struct known_set *set = &w->v->sets[i];
    const struct places_scratch *scratch = &w->v->scratch;
    if (scratch->n_words > set->scratch_words)
        set->scratch_words = scratch->n_words;
    if (scratch->most_calls > set->most_calls)
        set->most_calls = scratch->most_calls;
    set->narrowed |= narrowed;
}

static uint32_t make_step(struct walk *w, uint32_t from, uint8_t byte)
{
    struct grammar_vocab *v = w->v;
    struct places *to = &v->places[0];
    const struct known_set *set = &v->sets[from];
    if (!places_step(w->automaton, &v->scratch, v->words + set->words_at, set->n_words, byte, to))
        return v->next[from][byte] = to->narrowed ? ROW_DEAD_NARROWED : ROW_DEAD;
    uint32_t i = know_set(w, to);
    if (i == SET_FULL)
        return ROW_DEAD;
    note_step(w, i, to->narrowed);
    return v->next[from][byte] = i + ROW_SET;
}

/* The set behind the byte as a row's value: ROW_DEAD.. or ROW_SET + number. */
static inline uint32_t step(struct walk *w, uint32_t from, uint8_t byte)
{
    uint32_t row = w->v->next[from][byte];
    if (row == ROW_UNKNOWN)
        row = make_step(w, from, byte);
    if (row < ROW_SET) {
        w->narrowed |= row == ROW_DEAD_NARROWED;
        return row;
    }
    const struct known_set *set = &w->v->sets[row - ROW_SET];
    w->narrowed |= set->narrowed;
    if (set->scratch_words > w->scratch_words)
        w->scratch_words = set->scratch_words;
    if (set->most_calls > w->most_calls)
        w->most_calls = set->most_calls;
    return row;
}

static void allow_tokens(struct walk *w, int32_t token)
{
    for (; token >= 0; token = w->v->next_same[token]) {
        uint32_t bit = (uint32_t)1 << (token & 31);
        if (w->mask[token >> 5] & bit)
            continue;
        w->mask[token >> 5] |= bit;
        if (w->n_list < LIST_TOKENS_MAX)
            w->list[w->n_list] = (uint32_t)token;
        if (w->n_list <= LIST_TOKENS_MAX)
            w->n_list++;
    }
}

static bool note_exit(struct walk *w, uint32_t i, bool ended)
{
    uint16_t *nested = &w->v->nested[w->v->nodes[i].depth];
    nested[0] = nested[-1];
    if (!ended)
        return true;
    if (++nested[0] > w->nested)
        w->nested = nested[0];
    if (w->n_exits < EXITS_MAX)
        w->v->exits[w->n_exits] = i;
    return w->n_exits++ < EXITS_MAX;
}

/* Count a node whose parent's set has this many places. False: too much. The first bytes are free.
 */
static inline bool can_go_on(struct walk *w, const struct trie_node *node, uint32_t n_places)
{
    if (n_places > FREE_PLACES && node->depth > 1)
        w->work += n_places - FREE_PLACES;
    w->tired |= w->work > WORK_MAX;
    return !w->tired;
}

/* Over the nodes [from, to), whose parent (of depth `base`) stands at `set`. Nodes at which a place
 * comes to the end of what was opened are noted where `exits`. False: full. What was left out
 * because it is too much is in w->tired. */
static bool walk_nodes(struct walk *w, uint32_t from, uint32_t to, uint32_t base, uint32_t set,
                       bool exits)
{
    struct grammar_vocab *v = w->v;
    v->path[base] = set;
    v->nested[base] = 0;
    for (uint32_t i = from; i < to;) {
        const struct trie_node *node = &v->nodes[i];
        uint32_t before = v->path[node->depth - 1];
        if (!can_go_on(w, node, v->sets[before].n_places))
            return true;
        uint32_t row = step(w, before, node->byte);
        if (row < ROW_SET) {
            if (w->full)
                return false;
            i = node->skip;
            continue;
        }
        const struct known_set *at = &v->sets[row - ROW_SET];
        v->path[node->depth] = row - ROW_SET;
        if (node->token >= 0)
            allow_tokens(w, node->token);
        if (exits && !note_exit(w, i, at->ended))
            return true; /* too many to be of use */
        i = at->n_words > 0 && node->depth < w->depth_max ? i + 1 : node->skip;
    }
    return true;
}

/* w->list or w->mask into the cache. False: full. */
static bool keep_mask(struct walk *w, struct mask_ref *ref)
{
    struct grammar_vocab *v = w->v;
    if (w->n_list <= LIST_TOKENS_MAX) {
        if (w->n_list > v->lists_max - v->n_lists)
            return false;
        *ref = (struct mask_ref){ v->n_lists, w->n_list };
        memcpy(v->lists + v->n_lists, w->list, w->n_list * sizeof *w->list);
        v->n_lists += w->n_list;
        return true;
    }
    if (v->n_masks == v->masks_max)
        return false;
    *ref = (struct mask_ref){ v->n_masks, MASK_BITS };
    memcpy(v->masks + (size_t)v->n_masks++ * v->n_mask_words, w->mask,
           v->n_mask_words * sizeof *w->mask);
    return true;
}

static void put_mask(const struct grammar_vocab *v, struct mask_ref ref, uint32_t *mask)
{
    if (ref.n == MASK_BITS) {
        const uint32_t *bits = v->masks + (size_t)ref.at * v->n_mask_words;
        for (uint32_t i = 0; i < v->n_mask_words; i++)
            mask[i] |= bits[i];
        return;
    }
    for (uint32_t i = 0; i < ref.n; i++) {
        uint32_t token = v->lists[ref.at + i];
        mask[token >> 5] |= (uint32_t)1 << (token & 31);
    }
}

static struct walk begin_walk(struct grammar_vocab *v, const struct automaton *automaton,
                              uint64_t owner, uint32_t *mask)
{
    return (struct walk){ .v = v,
                          .automaton = automaton,
                          .owner = owner,
                          .mask = mask,
                          .depth_max = GRAMMAR_TOKEN_BYTES_MAX };
}

/* The known state, worked out when it is not; NULL: full. `mask` is cleared room for the walk, and
 * cleared again behind it. */
static struct known_state *know_state(struct grammar_vocab *v, const struct automaton *automaton,
                                      uint64_t owner, uint32_t state, uint32_t *mask)
{
    struct walk w = begin_walk(v, automaton, owner, mask);
    uint64_t state_owner = state < automaton->n_shared ? automaton->kind : owner;
    uint32_t at = hash_words(state_owner, &state, 1);
    struct known_state *known = &v->states[at & v->states_mask];
    for (; known->used; known = &v->states[++at & v->states_mask])
        if (known->owner == state_owner && known->state == state)
            return known;
    if (v->n_states > v->states_mask / 2)
        return NULL;
    places_at(automaton, &v->scratch, state, NULL, 0, &v->places[0]);
    bool narrowed = v->places[0].narrowed;
    uint32_t set = know_set(&w, &v->places[0]);
    if (set == SET_FULL)
        return NULL;
    note_step(&w, set, narrowed);
    w.scratch_words = v->sets[set].scratch_words;
    w.most_calls = v->sets[set].most_calls;
    bool done = walk_nodes(&w, 0, v->n_nodes, 0, set, true);
    struct known_state found = {
        .owner = state_owner,
        .state = state,
        .used = true,
        .joint = w.n_exits > EXITS_MAX || w.narrowed || narrowed || w.tired,
        .mask.n = MASK_NONE,
        .exits_at = v->n_lists,
        .n_exits = w.n_exits,
        .nested = w.nested,
        .scratch_words = w.scratch_words,
        .most_calls = w.most_calls,
    };
    if (done && !found.joint) {
        done = found.n_exits <= v->lists_max - v->n_lists;
        if (done) {
            memcpy(v->lists + v->n_lists, v->exits, found.n_exits * sizeof *v->exits);
            v->n_lists += found.n_exits;
            done = keep_mask(&w, &found.mask);
        }
    }
    memset(mask, 0, v->n_mask_words * sizeof *mask);
    if (!done)
        return NULL;
    v->n_states++;
    *known = found;
    return known;
}

/* From the nodes at which the rule of a place's state may end, on with its open calls. */
static bool walk_exits(struct walk *w, const struct known_state *known, const uint32_t *place)
{
    struct grammar_vocab *v = w->v;
    uint32_t n_calls = place[1];
    places_at(w->automaton, &v->scratch, place[2 + n_calls - 1], place + 2, n_calls - 1,
              &v->places[0]);
    uint32_t set = know_set(w, &v->places[0]);
    if (set == SET_FULL)
        return false;
    note_step(w, set, v->places[0].narrowed);
    w->scratch_words = v->sets[set].scratch_words;
    w->narrowed = v->sets[set].narrowed;
    for (uint32_t i = 0; i < known->n_exits; i++) {
        uint32_t node = v->lists[known->exits_at + i];
        if (!walk_nodes(w, node + 1, v->nodes[node].skip, v->nodes[node].depth, set, false))
            return false;
    }
    return true;
}

enum made { MADE, MADE_NOT, MADE_FULL };

/* Each place by itself, as long as nothing could have been dropped for room by all together. */
static enum made mask_of_places(struct walk *w, const struct places *places)
{
    struct grammar_vocab *v = w->v;
    uint64_t room = 0;
    for (uint32_t at = 0; at < places->n_words; at += 2 + places->words[at + 1]) {
        uint32_t n_calls = places->words[at + 1];
        const struct known_state *known =
            know_state(v, w->automaton, w->owner, places->words[at], w->mask);
        if (!known)
            return MADE_FULL;
        room += (uint64_t)known->scratch_words * (2 + n_calls) / 2;
        if (known->joint || known->most_calls + n_calls > CALL_DEPTH_MAX || room > ROOMY_WORDS)
            return MADE_NOT;
    }
    for (uint32_t at = 0; at < places->n_words; at += 2 + places->words[at + 1]) {
        const struct known_state *known =
            know_state(v, w->automaton, w->owner, places->words[at], w->mask);
        if (!known)
            return MADE_FULL;
        w->scratch_words = 0;
        w->narrowed = false;
        if (places->words[at + 1] > 0 && known->n_exits > 0 &&
            !walk_exits(w, known, places->words + at))
            return MADE_FULL;
        room += (uint64_t)w->scratch_words * known->nested;
        if (w->narrowed || w->tired || room > ROOMY_WORDS)
            return MADE_NOT;
    }
    return MADE;
}

/* The masks of the states themselves, over what the exits gave; they were left out so far because
 * know_state wants a cleared mask. */
static void add_state_masks(struct walk *w, const struct places *places)
{
    for (uint32_t at = 0; at < places->n_words; at += 2 + places->words[at + 1]) {
        const struct known_state *known =
            know_state(w->v, w->automaton, w->owner, places->words[at], w->mask);
        CHECK(known != NULL); /* mask_of_places found it */
        if (known->mask.n == MASK_BITS)
            w->n_list = LIST_TOKENS_MAX + 1;
        for (uint32_t i = 0; known->mask.n != MASK_BITS && i < known->mask.n; i++) {
            int32_t token = (int32_t)w->v->lists[known->mask.at + i];
            uint32_t bit = (uint32_t)1 << (token & 31);
            if (!(w->mask[token >> 5] & bit) && w->n_list < LIST_TOKENS_MAX)
                w->list[w->n_list] = (uint32_t)token;
            if (!(w->mask[token >> 5] & bit) && w->n_list <= LIST_TOKENS_MAX)
                w->n_list++;
            w->mask[token >> 5] |= bit;
        }
        put_mask(w->v, known->mask, w->mask);
    }
}

/* walk_nodes over all of the trie, without the cache. */
static void walk_plainly(struct walk *w, const struct places *places)
{
    struct grammar_vocab *v = w->v;
    v->deep[0] = *places;
    for (uint32_t i = 0; i < v->n_nodes;) {
        const struct trie_node *node = &v->nodes[i];
        const struct places *from = &v->deep[node->depth - 1];
        if (!can_go_on(w, node, from->n_places))
            return;
        bool alive = places_step(w->automaton, &v->scratch, from->words, from->n_words, node->byte,
                                 &v->deep[node->depth]);
        if (alive && node->token >= 0)
            allow_tokens(w, node->token);
        i = alive && node->depth < w->depth_max ? i + 1 : node->skip;
    }
}

/* All places at once, from the set (SET_FULL: without the cache), into the cleared mask. False:
 * full. */
static bool walk_all(struct walk *w, const struct places *places, uint32_t set, uint32_t depth_max)
{
    memset(w->mask, 0, w->v->n_mask_words * sizeof *w->mask);
    w->n_list = w->work = 0;
    w->tired = false;
    w->depth_max = depth_max;
    if (set != SET_FULL)
        return walk_nodes(w, 0, w->v->n_nodes, 0, set, false);
    walk_plainly(w, places);
    return true;
}

static bool mask_of_all(struct walk *w, const struct places *places, uint32_t set)
{
    if (!walk_all(w, places, set, GRAMMAR_TOKEN_BYTES_MAX))
        return false;
    if (!w->tired)
        return true;
    uint32_t depth = 1; /* never too much */
    for (; depth < GRAMMAR_TOKEN_BYTES_MAX; depth++) {
        if (!walk_all(w, places, set, depth + 1))
            return false;
        if (w->tired)
            break;
    }
    return walk_all(w, places, set, depth);
}

/* False: full; the mask is in an unknown state then. */
static bool mask_with_cache(struct walk *w, const struct places *places)
{
    struct grammar_vocab *v = w->v;
    uint32_t set = know_set(w, places);
    if (set == SET_FULL)
        return false;
    if (v->sets[set].mask.n != MASK_NONE) {
        put_mask(v, v->sets[set].mask, w->mask);
        return true;
    }
    enum made made = mask_of_places(w, places);
    if (made == MADE) {
        add_state_masks(w, places);
    } else if (made == MADE_NOT) {
        if (!mask_of_all(w, places, set))
            made = MADE_FULL;
    }
    if (made == MADE_FULL)
        return false;
    if (!keep_mask(w, &v->sets[set].mask)) {
        v->sets[set].mask.n =
            MASK_NONE; /* of use to this caller, not kept: there is no room before forgetting */
        vocab_forget(v);
    }
    return true;
}

void token_mask(struct grammar_vocab *vocab, const struct automaton *automaton, uint64_t owner,
                const struct places *places, uint32_t *mask)
{
    for (int attempt = 0; attempt < 3; attempt++) {
        struct walk w = begin_walk(vocab, automaton, owner, mask);
        memset(mask, 0, vocab->n_mask_words * sizeof *mask);
        if (attempt == 2) {
            mask_of_all(&w, places, SET_FULL);
            return;
        }
        if (mask_with_cache(&w, places))
            return;
        vocab_forget(vocab);
    }
}

bool token_advance(struct grammar_vocab *vocab, const struct automaton *automaton, uint64_t owner,
                   const char *bytes, uint32_t length, struct places *places)
{
    struct walk w = begin_walk(vocab, automaton, owner, NULL);
    uint32_t set = know_set(&w, places), n = 0;
    for (; n < length && !w.full; n++) {
        uint32_t row = step(&w, set, (uint8_t)bytes[n]);
        if (row < ROW_SET && !w.full)
            return false;
        set = w.full ? 0 : row - ROW_SET;
    }
    if (!w.full) {
        const struct known_set *end = &vocab->sets[set];
        places->n_words = end->n_words;
        places->n_places = end->n_places;
        places->ended = end->ended;
        memcpy(places->words, vocab->words + end->words_at, end->n_words * sizeof *places->words);
        return true;
    }
    vocab_forget(vocab);
    vocab->deep[0] = *places;
    for (n = 0; n < length; n++) {
        const struct places *from = &vocab->deep[n];
        if (!places_step(automaton, &vocab->scratch, from->words, from->n_words, (uint8_t)bytes[n],
                         &vocab->deep[n + 1]))
            return false;
    }
    *places = vocab->deep[length];
    return true;
}
