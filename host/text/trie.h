/* trie.h - the words of a vocabulary by their beginnings: one step a byte.
 *
 * Nodes are pairs (node, byte) -> node in one open-addressed table, 12 bytes an edge. Built once,
 * read by any number of threads. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/text/vocab.h"

enum {
    TRIE_ROOT = 0,
    /* A walk takes as many steps as its longest word has bytes, at every place of a text. */
    TRIE_WORD_MAX = 1024,
};
struct trie_edge {
    uint32_t from, to; /* to 0: free (nothing leads to the root) */
    uint32_t byte;
};
struct trie {
    struct trie_edge *edges;
    uint64_t mask;
    int32_t *ids; /* [n_nodes]: the word that ends here, or -1 */
    uint32_t n_nodes, nodes_room;
};
/* All words of the vocabulary that are not special. ERR_FORMAT when one is longer than
 * TRIE_WORD_MAX. On false nothing is left. */
MUST_USE bool trie_build(struct trie *trie, const struct vocab *vocab, struct err *err);
void trie_clear(struct trie *trie);

/* The node behind `byte`, or TRIE_ROOT: no word goes on like this. */
static inline uint32_t trie_step(const struct trie *trie, uint32_t node, uint8_t byte)
{
    uint64_t h = ((uint64_t)node << 8 | byte) * 0x9e3779b97f4a7c15u;
    for (uint64_t i = h >> 32 & trie->mask;; i = (i + 1) & trie->mask) {
        const struct trie_edge *edge = &trie->edges[i];
        if (edge->to == 0 || (edge->from == node && edge->byte == byte))
            return edge->to;
    }
}
