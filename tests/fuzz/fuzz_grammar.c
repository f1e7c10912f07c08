/* libFuzzer entry for grammars of every source: the first byte chooses the compiler, the second
 * seeds a walk. What compiles is written by allowed tokens: never stuck, masks as advance has it,
 * and what ends is accepted as a whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"
#include "host/base/rng.h"
#include "host/grammar/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { N_TOKENS = 288, EOS = 0, WORDS = (N_TOKENS + 31) / 32, WALK_TOKENS = 24, N_SOURCES = 6 };

static const struct grammar_limits LIMITS = { .source_bytes = 1 << 16,
                                              .depth = 50,
                                              .states = 20000,
                                              .steps = 3000000,
                                              .ms = 0,
                                              .memory_bytes = (size_t)64 << 20 };
static const char *const PIECES[] = { "\"",       "\",", "\":",  "{\"",  "\"}",  "ab",   "aa",
                                      "a\"",      "12",  "true", "\n ",  "\\n",  "\xc3", "\xa9",
                                      "\xe4\xb8", "((",  "))",   "], [", "abab", "  ",   "</",
                                      "<a",       "x,y", "0.",   "-1",   "e5" };
static char single[256];
static struct grammar_text tokens[N_TOKENS];
static struct grammar_vocab *vocab;

static void open_vocab(void)
{
    struct err err;
    const int32_t eos = EOS;
    for (int i = 0; i < 256; i++) {
        single[i] = (char)i;
        tokens[1 + i] = (struct grammar_text){ &single[i], 1 };
    }
    for (size_t i = 0; i < sizeof PIECES / sizeof PIECES[0]; i++)
        tokens[257 + i] = (struct grammar_text){ PIECES[i], strlen(PIECES[i]) };
    CHECK(grammar_vocab_open(&vocab, tokens, N_TOKENS, &eos, 1, 0, &err));
}

/* Lines of the text, at most 8, as choices or as begin, end, begin, end... with one trigger. */
static bool compile_lines(struct grammar **grammar, const char *text, size_t length, bool as_tags,
                          struct err *err)
{
    struct grammar_text lines[8];
    struct grammar_tag tags[4];
    size_t n = 0;
    for (size_t at = 0; at <= length && n < 8; n++) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t stop = end ? (size_t)(end - text) : length;
        lines[n] = (struct grammar_text){ text + at, stop - at };
        at = stop + 1;
    }
    if (!as_tags)
        return grammar_compile_choice(grammar, lines, n, &LIMITS, err);
    size_t n_tags = n / 2;
    for (size_t i = 0; i < n_tags; i++)
        tags[i] = (struct grammar_tag){ lines[2 * i], lines[2 * i + 1], NULL };
    struct grammar_tags in = { .tags = tags,
                               .n_tags = n_tags,
                               .triggers = n % 2 ? &lines[n - 1] : NULL,
                               .n_triggers = n % 2,
                               .at_least_one = length & 1,
                               .only_tags = length % 3 == 0,
                               .stop_after_first = length % 5 == 0 };
    return grammar_compile_tags(grammar, &in, NULL, &LIMITS, err);
}

static bool compile(struct grammar **grammar, unsigned source, const char *text, size_t length,
                    struct err *err)
{
    const struct grammar_json_options compact = { true };
    switch (source) {
    case 0:
        return grammar_compile_regex(grammar, text, length, &LIMITS, err);
    case 1:
        return grammar_compile_gbnf(grammar, text, length, &LIMITS, err);
    case 2:
        return grammar_compile_schema(grammar, text, length, NULL, &LIMITS, err);
    case 3:
        return grammar_compile_schema(grammar, text, length, &compact, &LIMITS, err);
    default:
        return compile_lines(grammar, text, length, source == 4, err);
    }
}

static void walk(const struct grammar *grammar, uint64_t seed)
{
    struct grammar_state *state, *spare;
    struct err err;
    uint32_t mask[WORDS];
    char text[WALK_TOKENS * 8];
    size_t length = 0;
    bool ended = false;
    CHECK(grammar_state_open(&state, grammar, vocab, &err));
    CHECK(grammar_state_open(&spare, grammar, vocab, &err));
    for (uint64_t n = 0; n < WALK_TOKENS && !ended; n++) {
        int32_t allowed[N_TOKENS], n_allowed = 0;
        CHECK(grammar_mask(state, mask));
        for (int32_t token = 0; token < N_TOKENS; token++)
            if (mask[token >> 5] >> (token & 31) & 1)
                allowed[n_allowed++] = token;
        for (int k = 0; k < 8; k++) {
            int32_t token = (int32_t)(rng_uniform(seed, 1, n * 8 + (uint64_t)k) * N_TOKENS);
            grammar_state_copy(spare, state);
            CHECK(grammar_advance(spare, token) == (mask[token >> 5] >> (token & 31) & 1));
        }
        int32_t token = allowed[(int32_t)(rng_uniform(seed, 0, n) * n_allowed)];
        CHECK(grammar_advance(state, token));
        ended = token == EOS;
        if (!ended) {
            memcpy(text + length, tokens[token].bytes, tokens[token].length);
            length += tokens[token].length;
        }
    }
    CHECK(!ended || grammar_accepts(grammar, text, length));
    grammar_state_close(state);
    grammar_state_close(spare);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct grammar *grammar;
    struct err err = { 0 };
    if (!vocab)
        open_vocab();
    if (size < 2)
        return 0;
    if (!compile(&grammar, bytes[0] % N_SOURCES, (const char *)bytes + 2, size - 2, &err)) {
        CHECK(err.text[0] != 0 && grammar == NULL);
        return 0;
    }
    walk(grammar, bytes[1]);
    grammar_close(grammar);
    return 0;
}
