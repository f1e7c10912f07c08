/* vocab.h - token ids and the bytes that they stand for, in flat tables.
 *
 * Most vocabularies are texts, kept as they are. A byte-level vocabulary writes every byte as one
 * letter (GPT-2's table: printable Latin-1 stands for itself, the others for U+0100 and up). Here
 * tokens are kept as the bytes themselves. A token with a letter outside of that table can never
 * come out of the merges; like the library's decoder this keeps such a token as its text. Immutable
 * after vocab_build: any number of threads. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/map.h"

enum {
    VOCAB_IDS_MAX = 1 << 24,   /* ids from a file size a table: 64 MiB at most */
    VOCAB_TOKEN_MAX = 1 << 16, /* bytes of one token's text */
    VOCAB_EXISTS = 1,          /* flags: the id has a token             */
    VOCAB_WORD = 2,            /* the model's, reachable by merges      */
    VOCAB_SPECIAL = 4,         /* an added token that is marked special */
    VOCAB_ADDED = 8,           /* an added token                        */
};
struct vocab_entry {
    const char *text; /* borrowed until vocab_build returns */
    size_t length;
    int32_t id;
    bool added, special; /* an added token; it may repeat an entry of the model */
    bool hidden;         /* no text becomes it by way of the model: not a word  */
    const char *shown;   /* NULL, or what to write for it: an added token's normalized text */
    size_t shown_length;
};
struct vocab_slot {
    uint32_t tag; /* of the bytes' hash */
    int32_t id;   /* -1: free */
};
enum vocab_kind {
    VOCAB_LETTERS, /* byte-level: entries' texts are letters for bytes */
    VOCAB_TEXTS,   /* texts stand for themselves                       */
    VOCAB_BYTES,   /* so do bytes, of any value                        */
};
struct vocab {
    enum vocab_kind kind;
    uint32_t *offsets; /* [n + 1] into bytes */
    char *bytes;
    uint8_t *flags;           /* [n] */
    int32_t n;                /* one more than the largest id */
    size_t longest;           /* bytes of the longest word */
    struct vocab_slot *slots; /* the words by their bytes: linear probing */
    uint64_t slot_mask;
    struct map texts; /* added tokens and those that are no words, by their text */
};
/* ERR_FORMAT: an id out of range or of two texts, a text of two ids. On false nothing is left. */
MUST_USE bool vocab_build(struct vocab *vocab, enum vocab_kind kind,
                          const struct vocab_entry *entries, size_t n, struct err *err);
void vocab_clear(struct vocab *vocab);

/* The word with exactly these bytes, or -1. */
int32_t vocab_word(const struct vocab *vocab, const char *bytes, size_t length);
/* The bytes of an id; NULL when there is no such id. */
const char *vocab_bytes(const struct vocab *vocab, int32_t id, size_t *length);
/* The id whose text (as the file writes it) is this, or -1; added tokens first. */
int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length);

/* Letters of a byte-level text to bytes, into out[0..length). False when one is not in the table
 * (then `out` is unspecified). */
bool vocab_from_letters(const char *text, size_t length, char *out, size_t *out_length);
