/* grammars.h - what the tests of host/grammar share: small vocabularies, masks checked one by one.
 */
#pragma once
#include "tests/support/support.h"
#include "host/base/rng.h"
#include "host/grammar/grammar.h"

#define ASSERT_REFUSED(call, err, wanted)                                                          \
    do {                                                                                           \
        memset((err), 0, sizeof *(err));                                                           \
        assert_false(call);                                                                        \
        if ((err)->code != ERR_REQUEST || !strstr((err)->text, wanted))                            \
            fail_msg("code %d, \"%s\", want \"%s\"", (int)(err)->code, (err)->text, wanted);       \
    } while (0)

enum { TEST_TOKENS = 700, TEST_EOS = 0, TEST_CONTROL = 1 };

/* Token 0 is eos, 1 a control token, 2..257 the bytes, then pieces of what the tests' grammars
 * write, some twice. Close with grammar_vocab_close. */
static inline struct grammar_vocab *test_vocab_of(const char *const *pieces, size_t n_pieces,
                                                  size_t cache_bytes)
{
    static char bytes[256];
    static struct grammar_text tokens[TEST_TOKENS];
    struct grammar_vocab *vocab;
    struct err err;
    const int32_t eos = TEST_EOS;
    int32_t n = 2;
    memset(tokens, 0, sizeof tokens);
    tokens[TEST_EOS] = (struct grammar_text){ "</s>", 4 };
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[n++] = (struct grammar_text){ &bytes[i], 1 };
    }
    for (size_t i = 0; i < n_pieces && n < TEST_TOKENS; i++)
        tokens[n++] = (struct grammar_text){ pieces[i], strlen(pieces[i]) };
    assert_ok(grammar_vocab_open(&vocab, tokens, TEST_TOKENS, &eos, 1, cache_bytes, &err), &err);
    return vocab;
}

static inline struct grammar_vocab *test_vocab(size_t cache_bytes)
{
    static const char *const pieces[] = {
        "ab",
        "abc",
        "aba",
        "aa",
        "aaa",
        "aaaa",
        "ba",
        "bb",
        "bab",
        "b\"",
        "\"",
        "\",",
        "\":",
        "\": ",
        "\"}",
        "\"]",
        "{\"",
        "{}",
        "[]",
        "[[",
        "]]",
        "}}",
        "},",
        "},{",
        "],",
        "\",\"",
        ", \"",
        "\n  ",
        "\n",
        "    ",
        " ",
        "  ",
        "\t\t",
        "true",
        "false",
        "null",
        "tr",
        "ue",
        "12",
        "123",
        "0.",
        "-1",
        "1e",
        "e+",
        "\\\"",
        "\\n",
        "\\u00",
        "\xc3\xa9",
        "\xc3",
        "\xa9\xc3",
        "\xe2\x82",
        "\xf0\x9f",
        "\x98\x80",
        "name",
        "\"name\"",
        "\"name\": \"",
        "age",
        "\"age\":",
        "value",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "a b",
        "ab\"",
        "ab\",\"",
        "ab",
        "red",
        "green",
        "blue",
        "gre",
        "en\"",
        "<t",
        "<tool",
        "<tool>",
        ">{",
        "</tool>",
        "x",
        "xy",
        "xyz",
        "z",
        "(",
        "((",
        "))",
        ")",
        "()",
        "1+",
        "+",
        "+1",
        "*",
        "*(",
        "2024",
        "-01",
        "-0",
        "T",
        ":00",
        "Z",
        "Hello",
        " world",
        ".",
        "...",
        "\r\n",
        "\xe4\xb8\xad",
        "\xe6\x96\x87",
        "\xff",
        "\x80",
    };
    return test_vocab_of(pieces, sizeof pieces / sizeof pieces[0], cache_bytes);
}

/* Of a grammar with hundreds of places at once, long tokens may be left out. */
static bool masks_may_be_short;

/* Does the mask say of each token what grammar_advance does? */
static inline void check_mask(struct grammar_state *state, struct grammar_state *spare,
                              const uint32_t *mask)
{
    for (int32_t token = 0; token < TEST_TOKENS; token++) {
        bool allowed = mask[token >> 5] >> (token & 31) & 1;
        grammar_state_copy(spare, state);
        if (grammar_advance(spare, token) != allowed && (allowed || !masks_may_be_short))
            fail_msg("token %d: the mask says %d, advance the opposite", token, allowed);
    }
}

/* Write a text by allowed tokens drawn at random, at most `n_max` tokens; every mask is checked.
 * False when it did not end by itself (`text` is a prefix then). */
static inline bool random_text(const struct grammar *grammar, struct grammar_vocab *vocab,
                               const char *const *pieces, uint64_t seed, int n_max, char *text,
                               size_t size)
{
    struct grammar_state *state, *spare;
    struct err err;
    uint32_t mask[(TEST_TOKENS + 31) / 32];
    bool ended = false;
    (void)pieces;
    (void)text;
    (void)size;
    assert_ok(grammar_state_open(&state, grammar, vocab, &err), &err);
    assert_ok(grammar_state_open(&spare, grammar, vocab, &err), &err);
    for (int n = 0; n < n_max && !ended; n++) {
        int32_t allowed[TEST_TOKENS], n_allowed = 0;
        assert_true(grammar_mask(state, mask)); /* never stuck */
        check_mask(state, spare, mask);
        for (int32_t token = 0; token < TEST_TOKENS; token++)
            if (mask[token >> 5] >> (token & 31) & 1)
                allowed[n_allowed++] = token;
        int32_t token = allowed[(int)(rng_uniform(seed, 7, (uint64_t)n) * (double)n_allowed)];
        assert_true(grammar_advance(state, token));
        ended = token == TEST_EOS;
    }
    grammar_state_close(state);
    grammar_state_close(spare);
    return ended;
}
