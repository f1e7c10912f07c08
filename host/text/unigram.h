/* unigram.h - the most probable cut of a piece into tokens (Kudo 2018): a Viterbi walk.
 *
 * A token's score is its log-probability; a character that no token of its own length covers may
 * be unknown, at 10 below the lowest score. Ties go to the cut found first, which is the one whose
 * last token begins first. Cost: text bytes times the longest token's; memory 16 bytes a byte. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/text/tokenizer.h"
#include "host/text/trie.h"

struct unigram {
    const struct vocab *vocab; /* borrowed */
    struct trie trie;
    double *scores; /* [vocab->n], owned */
    double unk_score;
    int32_t unk_id; /* -1: unknown characters give nothing */
    /* Sums of scores are kept as float, as sentencepiece does, not as double, as `tokenizers`. */
    bool single;
    bool byte_fallback;
    int32_t fallback[256]; /* the ids of <0x00> to <0xFF>, or -1 */
};
enum { UNIGRAM_UNK_PENALTY = 10 };
/* Takes `scores` over in any case (malloc'ed); the caller sets unk_id, byte_fallback and single
 * afterwards. `lowest`: the score that unknown characters lie below. */
MUST_USE bool unigram_open(struct unigram *unigram, const struct vocab *vocab, double *scores,
                           double lowest, struct err *err);
void unigram_close(struct unigram *unigram);

struct unigram_node {
    double score;  /* of the best cut of text[0..here) */
    uint32_t from; /* where its last token begins; UINT32_MAX: not reached */
    int32_t id;    /* of the last token; -1: unknown */
};
struct unigram_scratch {
    struct unigram_node *nodes;
    size_t room;
};
void unigram_scratch_clear(struct unigram_scratch *scratch);
/* Appends the ids of a piece of valid UTF-8. False: out of memory. */
MUST_USE bool unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch,
                             const char *piece, size_t length, struct ids *out);
