/* tokenizer_build.h - a tokenizer from a vocabulary in memory: what tokenizer.model, tekken.json,
 * tiktoken files and GGUF metadata have in common.
 *
 * Ids are places in `pieces`. The numbers of the types are those of sentencepiece and of GGUF. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/text/tokenizer.h"

enum {
    PIECE_BYTES_MAX = 1024, /* of one piece that merges make; known ones have at most some 400 */
};
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3, /* special: cut out of a text only where special tokens are parsed */
    PIECE_USER = 4,    /* user-defined: always cut out of a text, whole                   */
    PIECE_UNUSED = 5,  /* never comes out of a text                                       */
    PIECE_BYTE = 6,    /* "<0x41>": stands for that byte                                  */
};
struct piece {
    const char *text; /* UTF-8; a normal piece of BUILD_RANKS: bytes of any value */
    size_t length;    /* 0: there is no such id */
    float score;      /* BUILD_SCORES, BUILD_UNIGRAM: higher is better */
    enum piece_type type;
};
struct piece_text {
    const char *text;
    size_t length;
};
/* An added token that stands beside the vocabulary. */
struct build_added {
    const char *text; /* NUL-terminated UTF-8, not empty */
    int32_t id;     /* takes the place of a piece with this id, unless that one has the same text */
    unsigned flags; /* ADDED_* of added.h; looked for in the text as it comes */
};
enum {
    BUILD_HOLES_MAX = 1 << 16, /* how far an added token's id may lie behind the pieces */
};
enum build_kind {
    BUILD_SCORES,  /* sentencepiece BPE (GGUF: llama): neighbours that make a piece are merged, */
                   /* the highest score first; U+2581 stands for a blank                        */
    BUILD_UNIGRAM, /* sentencepiece unigram (GGUF: t5); the same normalizer                     */
    BUILD_MERGES,  /* byte-level BPE (GGUF: gpt2): normal pieces in GPT-2's letters, and merges */
    BUILD_RANKS,   /* byte-level BPE (tiktoken, tekken): neighbours that make a piece are       */
                   /* merged, the lowest id first; a text's piece that is a token is that token */
};
struct tokenizer_build {
    enum build_kind kind;
    const struct piece *pieces; /* all borrowed for the call */
    size_t n_pieces;
    /* BUILD_MERGES: "left right", lowest rank first */
    const struct piece_text *merges;
    size_t n_merges;
    /* BUILD_MERGES, BUILD_RANKS: a name of tokenizer.ggml.pre ("qwen2"; pretok_names.h), or, when
     * `pattern` is not NULL, that one (Ruby syntax; matches are pieces, and what lies between) */
    const char *pre, *pattern;
    /* BUILD_SCORES, BUILD_UNIGRAM: sentencepiece's normalizer */
    const void *charsmap; /* precompiled; NULL: none */
    size_t charsmap_bytes;
    bool add_dummy_prefix;         /* GGUF: add_space_prefix         */
    bool remove_extra_whitespaces; /* GGUF: the key of the same name */
    /* GGUF: blanks of user-defined pieces are U+2581 of the original; sentencepiece itself never
     * finds a user-defined piece with a blank, since there is none in normalized text */
    bool user_blanks;
    /* tokens that stand beside the pieces: their flags win over a piece's type */
    const struct build_added *added;
    size_t n_added;
    int32_t unk; /* an id; -1: the first piece of type UNKNOWN, if any */
    /* ENCODE_ADD_SPECIAL puts these ids around a text; -1: nothing */
    int32_t bos, eos;
    bool strip_behind_special; /* white space behind control tokens is taken with them (phi3) */
};
/* ERR_FORMAT: which piece or merge is wrong and how; ERR_UNSUPPORTED: the name of the pre-tokenizer
 * is not known. A file's name is put before by the caller. */
MUST_USE bool tokenizer_build(struct tokenizer **tokenizer, const struct tokenizer_build *build,
                              struct err *err);
