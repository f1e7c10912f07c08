/* vocab.c - tokens sorted by their bytes, and from that the trie. */
#include "host/grammar/vocab.h"
#include <stdlib.h>
#include <string.h>

struct sorted_token {
    const char *bytes;
    uint32_t length;
    int32_t token;
};

static int compare_tokens(const void *a, const void *b)
{
    const struct sorted_token *x = a, *y = b;
    uint32_t n = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order == 0)
        order = (x->length > y->length) - (x->length < y->length);
    return order != 0 ? order : (x->token > y->token) - (x->token < y->token);
}

static bool is_usable(const struct grammar_text *token)
{
    return token->length > 0 && token->length <= GRAMMAR_TOKEN_BYTES_MAX;
}

static bool copy_tokens(struct grammar_vocab *v, const struct grammar_text *tokens)
{
    size_t total = 0;
    for (int32_t i = 0; i < v->n_tokens; i++)
        total += is_usable(&tokens[i]) ? tokens[i].length : 0;
    v->token_first = malloc(((size_t)v->n_tokens + 1) * sizeof *v->token_first);
    v->next_same = malloc((size_t)v->n_tokens * sizeof *v->next_same);
    v->bytes = malloc(total + 1);
    if (!v->token_first || !v->next_same || !v->bytes || total > UINT32_MAX)
        return false;
    uint32_t at = 0;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        v->token_first[i] = at;
        v->next_same[i] = -1;
        if (!is_usable(&tokens[i]))
            continue;
        memcpy(v->bytes + at, tokens[i].bytes, tokens[i].length);
        at += (uint32_t)tokens[i].length;
    }
    v->token_first[v->n_tokens] = at;
    return true;
}

static uint32_t common_bytes(const struct sorted_token *a, const struct sorted_token *b)
{
    uint32_t n = 0;
    while (n < a->length && n < b->length && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

/* Nodes in the order of the sorted tokens, which is preorder; `open` are those of the last token.
 */
static void build_trie(struct grammar_vocab *v, const struct sorted_token *sorted, uint32_t n)
{
    uint32_t open[GRAMMAR_TOKEN_BYTES_MAX], n_open = 0;
    int32_t last = -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t common = i > 0 ? common_bytes(&sorted[i - 1], &sorted[i]) : 0;
        if (i > 0 &&
            common == sorted[i].length) { /* equal: sorted, so the one before is no longer */
            v->next_same[last] = sorted[i].token;
            last = sorted[i].token;
            continue;
        }
        while (n_open > common)
            v->nodes[open[--n_open]].skip = v->n_nodes;
        while (n_open < sorted[i].length) {
            open[n_open] = v->n_nodes;
            v->nodes[v->n_nodes++] = (struct trie_node){ .token = -1,
                                                         .depth = (uint16_t)(n_open + 1),
                                                         .byte = (uint8_t)sorted[i].bytes[n_open] };
            n_open++;
        }
        last = sorted[i].token;
        v->nodes[open[n_open - 1]].token = last;
    }
    while (n_open > 0)
        v->nodes[open[--n_open]].skip = v->n_nodes;
}

static bool make_trie(struct grammar_vocab *v)
{
    struct sorted_token *sorted = malloc(((size_t)v->n_tokens + 1) * sizeof *sorted);
    v->nodes = malloc(((size_t)v->token_first[v->n_tokens] + 1) * sizeof *v->nodes);
    if (!sorted || !v->nodes) {
        free(sorted);
        return false;
    }
    uint32_t n = 0;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        uint32_t length = v->token_first[i + 1] - v->token_first[i];
        if (length > 0)
            sorted[n++] = (struct sorted_token){ v->bytes + v->token_first[i], length, i };
    }
    qsort(sorted, n, sizeof *sorted, compare_tokens);
    build_trie(v, sorted, n);
    free(sorted);
    struct trie_node *fitted = realloc(v->nodes, ((size_t)v->n_nodes + 1) * sizeof *v->nodes);
    if (fitted)
        v->nodes = fitted;
    return true;
}

static uint32_t power_above(size_t n)
{
    uint32_t power = 64;
    while (power < n)
        power *= 2;
    return power;
}

/* A third for masks as bits, a third for sets (1.2 KiB each), the rest for lists and states. */
static bool make_cache(struct grammar_vocab *v, size_t cache_bytes)
{
    enum { SET_WORDS = 24 };
    size_t bytes = cache_bytes < (size_t)1 << 20 ? (size_t)1 << 20 : cache_bytes;
    if (bytes > (size_t)4 << 30)
        bytes = (size_t)4 << 30;
    size_t mask_bytes = (size_t)v->n_mask_words * sizeof(uint32_t);
    v->masks_max = (uint32_t)(bytes / 3 / mask_bytes) + 4;
    v->sets_max = (uint32_t)(bytes / 3 / (sizeof *v->next + sizeof *v->sets + SET_WORDS * 4));
    v->words_max = v->sets_max * SET_WORDS + 2 * PLACES_WORDS;
    v->lists_max = (uint32_t)(bytes / 4 / sizeof *v->lists) + 2 * EXITS_MAX;
    v->states_mask = power_above(bytes / 24 / sizeof *v->states) - 1;
    v->set_table_mask = 2 * power_above(v->sets_max) - 1;
    v->sets = malloc(v->sets_max * sizeof *v->sets);
    v->next = malloc(v->sets_max * sizeof *v->next);
    v->set_table = malloc(((size_t)v->set_table_mask + 1) * sizeof *v->set_table);
    v->words = malloc(v->words_max * sizeof *v->words);
    v->states = malloc(((size_t)v->states_mask + 1) * sizeof *v->states);
    v->masks = malloc(v->masks_max * mask_bytes);
    v->lists = malloc(v->lists_max * sizeof *v->lists);
    v->deep = malloc((GRAMMAR_TOKEN_BYTES_MAX + 1) * sizeof *v->deep);
    v->exits = malloc(EXITS_MAX * sizeof *v->exits);
    if (!v->sets || !v->next || !v->set_table || !v->words || !v->states || !v->masks ||
        !v->lists || !v->deep || !v->exits)
        return false;
    vocab_forget(v);
    return true;
}

void vocab_forget(struct grammar_vocab *vocab)
{
    vocab->epoch++;
    vocab->n_sets = vocab->n_words = vocab->n_states = vocab->n_masks = vocab->n_lists = 0;
    memset(vocab->set_table, 0, ((size_t)vocab->set_table_mask + 1) * sizeof *vocab->set_table);
    memset(vocab->states, 0, ((size_t)vocab->states_mask + 1) * sizeof *vocab->states);
}

bool grammar_vocab_open(struct grammar_vocab **vocab, const struct grammar_text *tokens,
                        int32_t n_tokens, const int32_t *eos, int32_t n_eos, size_t cache_bytes,
                        struct err *err)
{
    struct grammar_vocab *v = NULL;
    *vocab = NULL;
    CHECK(n_tokens > 0 && n_eos >= 0);
    v = calloc(1, sizeof *v);
    if (!v)
        goto fail;
    v->n_tokens = n_tokens;
    v->n_mask_words = ((uint32_t)n_tokens + 31) / 32;
    v->n_eos = n_eos;
    v->eos = malloc(((size_t)n_eos + 1) * sizeof *v->eos);
    if (!v->eos || !copy_tokens(v, tokens) || !make_trie(v) || !make_cache(v, cache_bytes))
        goto fail;
    for (int32_t i = 0; i < n_eos; i++) {
        CHECK(eos[i] >= 0 && eos[i] < n_tokens);
        v->eos[i] = eos[i];
    }
    *vocab = v;
    return true;
fail:
    grammar_vocab_close(v);
    return err_set(err, ERR_MEMORY, "no memory for the masks of %d tokens", n_tokens);
}

void grammar_vocab_close(struct grammar_vocab *vocab)
{
    if (!vocab)
        return;
    free(vocab->nodes);
    free(vocab->next_same);
    free(vocab->token_first);
    free(vocab->bytes);
    free(vocab->eos);
    free(vocab->sets);
    free(vocab->next);
    free(vocab->set_table);
    free(vocab->words);
    free(vocab->states);
    free(vocab->masks);
    free(vocab->lists);
    free(vocab->deep);
    free(vocab->exits);
    free(vocab);
}
