/* trie.c - building the trie of a vocabulary's words.
 *
 * Invariant: edges are at most two thirds full, so that every probe ends; n_nodes is at most one
 * more than the bytes of all words. */
#include "host/text/trie.h"
#include <stdlib.h>
#include <string.h>

static bool add_word(struct trie *trie, const char *word, size_t length, int32_t id)
{
    uint32_t node = TRIE_ROOT;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)word[i];
        uint32_t to = trie_step(trie, node, byte);
        if (to == TRIE_ROOT) {
            if (trie->n_nodes == trie->nodes_room) {
                uint32_t room = trie->nodes_room * 2;
                int32_t *grown = reallocarray(trie->ids, room, sizeof *grown);
                if (!grown)
                    return false;
                trie->ids = grown;
                trie->nodes_room = room;
            }
            to = trie->n_nodes++;
            trie->ids[to] = -1;
            uint64_t h = ((uint64_t)node << 8 | byte) * 0x9e3779b97f4a7c15u;
            uint64_t at = h >> 32 & trie->mask;
            while (trie->edges[at].to != 0)
                at = (at + 1) & trie->mask;
            trie->edges[at] = (struct trie_edge){ node, to, byte };
        }
        node = to;
    }
    trie->ids[node] = id;
    return true;
}

/* Texts that mean control do not become it by way of the model. */
static bool is_in(const struct vocab *vocab, int32_t id)
{
    return (vocab->flags[id] & (VOCAB_WORD | VOCAB_SPECIAL)) == VOCAB_WORD;
}

bool trie_build(struct trie *trie, const struct vocab *vocab, struct err *err)
{
    size_t bytes = 0, n_slots = 64, length;
    *trie = (struct trie){ .n_nodes = 1, .nodes_room = 256 };
    for (int32_t id = 0; id < vocab->n; id++)
        if (is_in(vocab, id)) {
            vocab_bytes(vocab, id, &length);
            bytes += length;
            if (length > TRIE_WORD_MAX)
                return err_set(err, ERR_FORMAT, "the token %d has %zu bytes, want at most %d", id,
                               length, TRIE_WORD_MAX);
        }
    while (n_slots * 2 < bytes * 3)
        n_slots *= 2;
    trie->edges = calloc(n_slots, sizeof *trie->edges);
    trie->mask = n_slots - 1;
    trie->ids = malloc(trie->nodes_room * sizeof *trie->ids);
    bool ok = trie->edges && trie->ids;
    if (ok)
        trie->ids[TRIE_ROOT] = -1;
    for (int32_t id = 0; ok && id < vocab->n; id++)
        if (is_in(vocab, id)) {
            const char *word = vocab_bytes(vocab, id, &length);
            ok = add_word(trie, word, length, id);
        }
    if (ok)
        return true;
    trie_clear(trie);
    return err_set(err, ERR_MEMORY, "no memory for a trie of %zu bytes of words", bytes);
}

void trie_clear(struct trie *trie)
{
    free(trie->edges);
    free(trie->ids);
    *trie = (struct trie){ 0 };
}
