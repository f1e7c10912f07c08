/* vocab.h - a vocabulary as a trie, and the cache of what was worked out on it (token_mask.c). */
#pragma once
#include "host/grammar/places.h"

/* In preorder, so that a walk is a loop: the node's subtree is [i + 1, skip). */
struct trie_node {
    uint32_t skip;
    int32_t token;  /* the first token that ends here, or -1; others: next_same */
    uint16_t depth; /* bytes from the root, 1.. */
    uint8_t byte;
};
/* A set of tokens: up to LIST_TOKENS_MAX as a list, else as bits. */
enum { LIST_TOKENS_MAX = 256 };
struct mask_ref {
    uint32_t at; /* the list's place in `lists`, or the number of the bit mask */
    uint32_t n;  /* tokens; MASK_BITS; MASK_NONE: not worked out yet */
};
enum { MASK_NONE = UINT32_MAX, MASK_BITS = UINT32_MAX - 1 };

/* A set of places, known by number. Row i of `next` is where its bytes lead. */
struct known_set {
    uint64_t owner;
    uint32_t hash, words_at, n_words, n_places;
    uint32_t scratch_words, most_calls; /* of the step that made it */
    bool ended, narrowed;
    struct mask_ref mask;
};
/* What one state does by itself, whatever the open calls are. */
struct known_state {
    uint64_t owner;
    uint32_t state;
    bool used, joint; /* joint: cannot be told apart from the open calls at a bearable price */
    struct mask_ref mask;
    uint32_t exits_at, n_exits; /* in `lists`: nodes at which its rule may end */
    uint32_t nested;            /* the most of them on one path of the trie */
    uint32_t scratch_words, most_calls;
};

struct grammar_vocab {
    int32_t n_tokens;
    uint32_t n_mask_words;
    struct trie_node *nodes;
    uint32_t n_nodes;
    int32_t *next_same;    /* [n_tokens] another token with the same bytes, or -1 */
    uint32_t *token_first; /* [n_tokens + 1] into bytes */
    char *bytes;
    int32_t *eos;
    int32_t n_eos;

    /* The cache: everything in it may be forgotten at any time; `epoch` counts how often it was. */
    uint64_t epoch;
    struct known_set *sets;
    uint32_t (*next)[256]; /* [sets_max] */
    uint32_t n_sets, sets_max;
    uint32_t *set_table, set_table_mask;
    uint32_t *words, n_words, words_max;
    struct known_state *states; /* a hash table */
    uint32_t n_states, states_mask;
    uint32_t *masks; /* [masks_max][n_mask_words] */
    uint32_t n_masks, masks_max;
    uint32_t *lists, n_lists, lists_max;

    /* Of one operation. */
    struct places_scratch scratch;
    struct places places[2];
    struct places *deep; /* [GRAMMAR_TOKEN_BYTES_MAX + 1] the path of a walk without the cache */
    uint32_t path[GRAMMAR_TOKEN_BYTES_MAX + 1];
    uint16_t nested[GRAMMAR_TOKEN_BYTES_MAX + 1]; /* exits on the path */
    uint32_t *exits;                              /* [EXITS_MAX] */
};
enum { EXITS_MAX = 8192 };

/* Forget everything. */
void vocab_forget(struct grammar_vocab *vocab);

/* token_mask.c. The mask of a set of places (eos left out), bits or'ed into a cleared mask. */
void token_mask(struct grammar_vocab *vocab, const struct automaton *automaton, uint64_t owner,
                const struct places *places, uint32_t *mask);
/* `places` behind these bytes. False: not possible, unchanged. */
bool token_advance(struct grammar_vocab *vocab, const struct automaton *automaton, uint64_t owner,
                   const char *bytes, uint32_t length, struct places *places);
