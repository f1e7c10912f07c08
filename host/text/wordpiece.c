/* wordpiece.c - longest match by walking the trie once from each token's beginning.
 *
 * Cost: word bytes times the longest token's (TRIE_WORD_MAX at most), no copies. */
#include "host/text/wordpiece.h"
#include <string.h>

bool wordpiece_open(struct wordpiece *wordpiece, const struct vocab *vocab, const char *prefix,
                    struct err *err)
{
    *wordpiece = (struct wordpiece){ .has_prefix = prefix[0] != 0, .unk_id = -1 };
    if (!trie_build(&wordpiece->trie, vocab, err))
        return false;
    uint32_t node = TRIE_ROOT;
    for (const char *p = prefix; *p; p++) {
        node = trie_step(&wordpiece->trie, node, (uint8_t)*p);
        if (node == TRIE_ROOT)
            break;
    }
    wordpiece->inside = node;
    return true;
}

void wordpiece_close(struct wordpiece *wordpiece)
{
    trie_clear(&wordpiece->trie);
    *wordpiece = (struct wordpiece){ 0 };
}

bool wordpiece_encode(const struct wordpiece *w, const char *word, size_t length, struct ids *out)
{
    size_t before = out->n;
    int64_t n_chars = 0;
    for (size_t i = 0; i < length; i++)
        n_chars += ((uint8_t)word[i] & 0xc0) != 0x80;
    bool covered = n_chars <= w->chars_max;
    for (size_t at = 0; covered && at < length;) {
        uint32_t node = at == 0 ? TRIE_ROOT : w->inside;
        int32_t best = -1;
        size_t end = at;
        bool dead = at > 0 && w->has_prefix && node == TRIE_ROOT; /* no token goes on a word */
        for (size_t i = at; !dead && i < length; i++) {
            node = trie_step(&w->trie, node, (uint8_t)word[i]);
            if (node == TRIE_ROOT)
                break;
            if (w->trie.ids[node] >= 0) {
                best = w->trie.ids[node];
                end = i + 1;
            }
        }
        covered = best >= 0;
        if (covered && !ids_push(out, best))
            return false;
        at = end;
    }
    if (covered)
        return true;
    out->n = before;
    return ids_push(out, w->unk_id);
}
