/* tokenizer_load.h - the state of reading a tokenizer.json. For tokenizer_load.c, tokenizer_model.c
 * and tokenizer_post.c alone. */
#pragma once
#include "host/text/tokenizer_json.h"
#include "host/text/tokenizer_parts.h"

struct load {
    struct tokenizer *tokenizer;
    struct tokenizer_json file;
    struct json_ref root;        /* of file.rest */
    struct table vocab;          /* holds the texts of entries[0..n_model) */
    struct vocab_entry *entries; /* the model's tokens, then the added ones */
    size_t n_entries, n_model, entries_room;
    double *scores; /* unigram: [n_model]; owned until the model takes it */
    struct err *err;
};

/* json_error as ERR_UNSUPPORTED. False. */
bool load_unsupported(struct load *load, const struct json_ref *at, const char *what);
bool load_no_memory(struct load *load);
MUST_USE bool load_must_get(struct load *load, const struct json_ref *obj, const char *key,
                            struct json_ref *out);
/* How much of a text of a file goes into a message. */
static inline int load_shown(size_t length)
{
    return length < 60 ? (int)length : 60;
}
/* NULL: out of memory, said. */
struct vocab_entry *load_new_entry(struct load *load);

/* tokenizer_model.c: the model of type BPE, Unigram or WordPiece over the vocabulary, which is
 * built; `type` is one of those. load_vocab comes first. */
enum load_model { LOAD_BPE, LOAD_UNIGRAM, LOAD_WORDPIECE };
MUST_USE bool load_vocab(struct load *load, enum load_model type);
MUST_USE bool load_model_part(struct load *load, enum load_model type,
                              const struct json_ref *model);
/* tokenizer_post.c */
MUST_USE bool load_post(struct load *load, const struct json_ref *node, int32_t depth);
