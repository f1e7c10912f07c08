/* grammar_driver.c - grammars for the scripts of this folder, a JSON object a line.
 *
 * in:  {"kind": "schema" | "regex" | "gbnf" | "object", "source": TEXT, "compact": BOOL,
 *       "texts": [TEXT...], "seeds": N, "tokens": N}
 * out: {"accepts": [BOOL...], "samples": [{"text": TEXT, "ended": BOOL}...]} or {"error": TEXT}
 *
 * A sample is drawn from allowed tokens alone; the longer it gets, the more it looks for what
 * closes. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/buf.h"
#include "host/base/rng.h"
#include "host/grammar/grammar.h"

enum { N_TOKENS = 512, EOS = 0, N_WORDS = (N_TOKENS + 31) / 32, TEXT_MAX = 1 << 20 };

static const char *const PIECES[] = {
    "\"",           "\",",      "\":",      "\": ",  "\"}",
    "\"]",          "{\"",      "{}",       "[]",    "},",
    "],",           "\",\"",    ", ",       ", \"",  "\n  ",
    "\n",           "true",     "false",    "null",  "12",
    "123",          "0.",       "-1",       "e+",    "\\\"",
    "\\n",          "\\u00",    "\xc3\xa9", "ab",    "abc",
    "foo",          "bar",      "name",     "ing",   " the",
    "The",          "a b",      "2024",     "-01",   "T12",
    ":00",          "Z",        "00",       "99",    "\xf0\x9f\x98\x80",
    "\xe4\xb8\xad", "\xe6\x96", "type",     "value", "id",
    "items",        "[{\"",     "]}",
};
static char bytes[256];
static struct grammar_text tokens[N_TOKENS];

static bool compile(struct grammar **grammar, const cJSON *in, struct err *err)
{
    const char *kind = cJSON_GetObjectItem(in, "kind")->valuestring;
    const cJSON *source = cJSON_GetObjectItem(in, "source");
    const char *text = source ? source->valuestring : "";
    struct grammar_json_options options = { cJSON_IsTrue(cJSON_GetObjectItem(in, "compact")) };
    if (strcmp(kind, "regex") == 0)
        return grammar_compile_regex(grammar, text, strlen(text), &GRAMMAR_LIMITS, err);
    if (strcmp(kind, "gbnf") == 0)
        return grammar_compile_gbnf(grammar, text, strlen(text), &GRAMMAR_LIMITS, err);
    if (strcmp(kind, "object") == 0)
        return grammar_compile_json_object(grammar, &options, &GRAMMAR_LIMITS, err);
    return grammar_compile_schema(grammar, text, strlen(text), &options, &GRAMMAR_LIMITS, err);
}

static bool is_allowed(const uint32_t *mask, int32_t token)
{
    return mask[token >> 5] >> (token & 31) & 1;
}

/* eos, or a byte that closes something, with a chance that grows. */
static int32_t choose(const uint32_t *mask, uint64_t seed, uint64_t n)
{
    static const char closers[] = "\"}],:0123456789";
    double eager = n < 10 ? 0.2 : n < 40 ? 0.5 : 0.95;
    int32_t allowed[N_TOKENS], n_allowed = 0;
    if (rng_uniform(seed, 1, n) < eager) {
        if (is_allowed(mask, EOS))
            return EOS;
        for (const char *c = closers; *c; c++)
            if (is_allowed(mask, 1 + (uint8_t)*c) && rng_uniform(seed, 2 + (uint64_t)*c, n) < 0.7)
                return 1 + (uint8_t)*c;
    }
    for (int32_t token = 0; token < N_TOKENS; token++)
        if (is_allowed(mask, token))
            allowed[n_allowed++] = token;
    return allowed[(int32_t)(rng_uniform(seed, 0, n) * n_allowed)];
}

static cJSON *sample(const struct grammar *grammar, struct grammar_vocab *vocab, uint64_t seed,
                     int n_max)
{
    struct grammar_state *state;
    struct err err;
    struct buf text;
    uint32_t mask[N_WORDS];
    bool ended = false;
    CHECK(grammar_state_open(&state, grammar, vocab, &err));
    buf_init(&text, TEXT_MAX);
    for (int n = 0; n < n_max && !ended; n++) {
        CHECK(grammar_mask(state, mask)); /* never stuck */
        int32_t token = choose(mask, seed, (uint64_t)n);
        CHECK(grammar_advance(state, token));
        ended = token == EOS;
        if (!ended)
            buf_put(&text, tokens[token].bytes, tokens[token].length);
    }
    CHECK(!ended || grammar_accepts(grammar, buf_text(&text), text.length));
    cJSON *out = cJSON_CreateObject();
    cJSON_AddStringToObject(out, "text", ended ? buf_text(&text) : "");
    cJSON_AddBoolToObject(out, "ended", ended);
    buf_clear(&text);
    grammar_state_close(state);
    return out;
}

static cJSON *answer(const cJSON *in, struct grammar_vocab *vocab)
{
    struct grammar *grammar;
    struct err err;
    cJSON *out = cJSON_CreateObject();
    if (!compile(&grammar, in, &err)) {
        cJSON_AddStringToObject(out, "error", err.text);
        return out;
    }
    const cJSON *texts = cJSON_GetObjectItem(in, "texts"), *text;
    cJSON *accepts = cJSON_AddArrayToObject(out, "accepts");
    cJSON *samples = cJSON_AddArrayToObject(out, "samples");
    cJSON_ArrayForEach (text, texts) {
        bool is = grammar_accepts(grammar, text->valuestring, strlen(text->valuestring));
        cJSON_AddItemToArray(accepts, cJSON_CreateBool(is));
    }
    const cJSON *seeds = cJSON_GetObjectItem(in, "seeds"), *n = cJSON_GetObjectItem(in, "tokens");
    for (int seed = 0; seeds && seed < seeds->valueint; seed++)
        cJSON_AddItemToArray(samples,
                             sample(grammar, vocab, (uint64_t)seed, n ? n->valueint : 512));
    grammar_close(grammar);
    return out;
}

int main(void)
{
    struct grammar_vocab *vocab;
    struct err err;
    const int32_t eos = EOS;
    char *line = NULL;
    size_t capacity = 0;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[1 + i] = (struct grammar_text){ &bytes[i], 1 };
    }
    for (size_t i = 0; i < sizeof PIECES / sizeof PIECES[0]; i++)
        tokens[257 + i] = (struct grammar_text){ PIECES[i], strlen(PIECES[i]) };
    CHECK(grammar_vocab_open(&vocab, tokens, N_TOKENS, &eos, 1, 8 << 20, &err));
    while (getline(&line, &capacity, stdin) > 0) {
        cJSON *in = cJSON_Parse(line);
        CHECK(in != NULL);
        cJSON *out = answer(in, vocab);
        char *text = cJSON_PrintUnformatted(out);
        puts(text);
        fflush(stdout);
        free(text);
        cJSON_Delete(out);
        cJSON_Delete(in);
    }
    free(line);
    grammar_vocab_close(vocab);
    return 0;
}
