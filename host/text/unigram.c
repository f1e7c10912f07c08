/* unigram.c - forward over the places of a piece, backward along the best cut.
 *
 * Invariant: when the walk comes to a place, its best score is final, since tokens only lead
 * forward. Every character boundary is reached: by a token of one character, or as unknown. */
#include "host/text/unigram.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

static const uint32_t NOWHERE = UINT32_MAX;

bool unigram_open(struct unigram *unigram, const struct vocab *vocab, double *scores, double lowest,
                  struct err *err)
{
    *unigram = (struct unigram){
        .vocab = vocab, .scores = scores, .unk_id = -1, .unk_score = lowest - UNIGRAM_UNK_PENALTY
    };
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        unigram->fallback[i] = vocab_find(vocab, text, 6);
    }
    if (trie_build(&unigram->trie, vocab, err))
        return true;
    unigram_close(unigram);
    return false;
}

void unigram_close(struct unigram *unigram)
{
    trie_clear(&unigram->trie);
    free(unigram->scores);
    *unigram = (struct unigram){ 0 };
}

void unigram_scratch_clear(struct unigram_scratch *scratch)
{
    free(scratch->nodes);
    *scratch = (struct unigram_scratch){ 0 };
}

static void offer(const struct unigram *u, struct unigram_node *to, uint32_t from, double score,
                  int32_t id)
{
    if (to->from != NOWHERE && score <= to->score)
        return;
    to->score = u->single ? (double)(float)score : score;
    to->from = from;
    to->id = id;
}

/* All tokens that begin at text[at], and perhaps an unknown character. Returns its length. */
static unsigned go_on(const struct unigram *u, struct unigram_node *nodes, const char *text,
                      uint32_t at, size_t length)
{
    unsigned n;
    unicode_decode(text + at, &n);
    bool alone = false; /* a token that is this one character */
    uint32_t node = TRIE_ROOT;
    double here = nodes[at].score;
    for (uint32_t i = at; i < length; i++) {
        node = trie_step(&u->trie, node, (uint8_t)text[i]);
        if (node == TRIE_ROOT)
            break;
        int32_t id = u->trie.ids[node];
        if (id < 0)
            continue;
        offer(u, &nodes[i + 1], at, u->scores[id] + here, id);
        alone |= i + 1 - at == n;
    }
    if (!alone)
        offer(u, &nodes[at + n], at, u->unk_score + here, -1);
    return n;
}

/* The ids of an unknown stretch: its bytes' tokens, or one unk. */
static bool push_unknown(const struct unigram *u, const char *text, size_t length, struct ids *out)
{
    if (u->byte_fallback) {
        size_t n = 0, before = out->n;
        while (n < length && u->fallback[(uint8_t)text[n]] >= 0)
            if (!ids_push(out, u->fallback[(uint8_t)text[n++]]))
                return false;
        if (n == length)
            return true;
        out->n = before;
    }
    return u->unk_id < 0 || ids_push(out, u->unk_id);
}

bool unigram_encode(const struct unigram *u, struct unigram_scratch *scratch, const char *piece,
                    size_t length, struct ids *out)
{
    if (length == 0)
        return true;
    if (length >= NOWHERE)
        return false;
    if (length + 1 > scratch->room) {
        struct unigram_node *grown = reallocarray(scratch->nodes, length + 1, sizeof *grown);
        if (!grown)
            return false;
        scratch->nodes = grown;
        scratch->room = length + 1;
    }
    struct unigram_node *nodes = scratch->nodes;
    for (size_t i = 0; i <= length; i++)
        nodes[i].from = NOWHERE;
    nodes[0].score = 0;
    for (uint32_t at = 0; at < length;)
        at += go_on(u, nodes, piece, at, length);
    /* Backward, turning the links around: node.from becomes where the next token ends. */
    uint32_t end = (uint32_t)length, next = NOWHERE;
    for (uint32_t at = end;;) {
        uint32_t from = nodes[at].from;
        nodes[at].from = next;
        next = at;
        if (at == 0)
            break;
        at = from;
    }
    for (uint32_t at = 0; at < end;) {
        uint32_t to = nodes[at].from;
        if (nodes[to].id >= 0) {
            if (!ids_push(out, nodes[to].id))
                return false;
        } else {
            while (to < end && nodes[nodes[to].from].id < 0)
                to = nodes[to].from; /* unknown characters in a row are one */
            if (!push_unknown(u, piece + at, to - at, out))
                return false;
        }
        at = to;
    }
    return true;
}
