/* wordpiece.h - a word to the longest tokens from the left; those that go on a word bear a prefix
 * ("##"). A word that cannot be covered, or is too long, is one unk. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/text/tokenizer.h"
#include "host/text/trie.h"

struct wordpiece {
    struct trie trie;
    uint32_t inside; /* the node behind the prefix; TRIE_ROOT with a prefix: no such token */
    bool has_prefix;
    int64_t chars_max; /* of a word */
    int32_t unk_id;
};
MUST_USE bool wordpiece_open(struct wordpiece *wordpiece, const struct vocab *vocab,
                             const char *prefix, struct err *err);
void wordpiece_close(struct wordpiece *wordpiece);
/* Appends the ids of a word of valid UTF-8. False: out of memory. */
MUST_USE bool wordpiece_encode(const struct wordpiece *wordpiece, const char *word, size_t length,
                               struct ids *out);
