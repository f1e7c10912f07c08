/* bpe.h - byte-pair merges: the bytes or characters of one piece to token ids.
 *
 * Rule: of all neighbours that have a merge take the one with the lowest rank, leftmost first,
 * until there is none. (Sennrich et al. 2016; ranks are the order of the file's merges.)
 * Cost: O(n log n) by a heap over a linked list; short pieces by plain search in an array.
 *
 * In a vocabulary of texts (sentencepiece style) the first symbols are characters, one without a
 * token is its bytes' tokens <0x00> to <0xFF>, and pieces may be whole texts. Those are cut
 * wherever no merge has these two characters at its joint: nothing ever merges across. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/text/tokenizer.h"
#include "host/text/vocab.h"

struct bpe_slot {
    uint32_t left, right;
    uint32_t rank; /* UINT32_MAX: free */
    int32_t id;    /* what the two become */
};
struct bpe {
    const struct vocab *vocab; /* borrowed */
    struct bpe_slot *slots;    /* pair -> rank, id: linear probing, at most two thirds full */
    uint64_t slot_mask;
    int32_t byte_id[256]; /* the id of each single byte (characters: below 0x80), or -1 */
    bool chars;           /* first symbols are characters, else bytes */
    bool
        byte_fallback; /* characters without a token: fallback[] of their bytes, if all are there */
    int32_t fallback[256]; /* the ids of <0x00> to <0xFF>, or -1 */
    bool ignore_merges;    /* a piece that is a token is that token */
    int32_t unk_id;        /* for symbols without a token; -1: they give nothing */
    bool fuse_unk;         /* a run of such symbols gives one unk */
    uint64_t *joints; /* characters only: a filter of pairs that some merge joins; NULL: none */
    uint64_t joint_mask;
    /* [vocab->n]: do the merges of this token's bytes end in this token alone? 0: not tried yet.
     * Filled in on the way; every thread would write the same, so relaxed stores do. */
    _Atomic uint8_t *whole;
};
/* Prepares for n_merges calls of bpe_add, in the order of their ranks. Options other than
 * ignore_merges are set before the first of them. */
MUST_USE bool bpe_open(struct bpe *bpe, const struct vocab *vocab, size_t n_merges,
                       struct err *err);
/* The last of two merges of the same pair holds, as in the `tokenizers` library. */
void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);
void bpe_close(struct bpe *bpe);

/* Memory of one encoding thread; zero-initialize. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    uint64_t *heap;
    size_t symbols_room, heap_room;
};
void bpe_scratch_clear(struct bpe_scratch *scratch);
/* Appends the ids of one piece (valid UTF-8 when symbols are characters). False: out of memory. */
MUST_USE bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece,
                         size_t length, struct ids *out);
