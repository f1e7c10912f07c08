/* bench_grammar.c - what a token costs under a grammar: mask and advance, at a vocabulary of 128k.
 *
 *     bench_grammar [tokenizer.json]
 *
 * Without a file the vocabulary is made up: bytes, words with and without a blank in front,
 * numbers, blanks, punctuation of JSON and of code, CJK. Texts are written as the longest tokens
 * that fit. One line a case: compile time, the first text (nothing is known yet), and the mean of
 * all of them against the limit of 50 us a token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "host/base/buf.h"
#include "host/base/file.h"
#include "host/base/rng.h"
#include "host/grammar/grammar.h"
#include "host/text/tokenizer.h"

enum { MADE_UP = 128000, LIMIT_US = 50, TEXTS = 200, TEXT_MAX = 4096, SYLLABLES = 40 };

static struct grammar_text *tokens;
static int32_t n_tokens, eos;
static uint64_t draws;

static uint64_t cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t draw(uint32_t n)
{
    return (uint32_t)(rng_uniform(1, 1, draws++) * n);
}

static void add_token(const char *bytes, size_t length)
{
    char *copy = malloc(length + 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, length);
    tokens[n_tokens++] = (struct grammar_text){ copy, length };
}

static void put_word(struct buf *word)
{
    static const char syllables[SYLLABLES][5] = { "an",  "be",  "con", "de",  "er",   "for", "ing",
                                                  "in",  "ist", "ki",  "la",  "ment", "no",  "on",
                                                  "pre", "re",  "sta", "ter", "tion", "un",  "ver",
                                                  "wor", "ly",  "ed",  "es",  "al",   "com", "ma",
                                                  "ri",  "si",  "to",  "us",  "ex",   "po",  "qu",
                                                  "tra", "ve",  "lo",  "ne",  "ab" };
    for (uint32_t n = 1 + draw(4); n > 0; n--)
        buf_puts(word, syllables[draw(SYLLABLES)]);
}

static void make_up_tokens(void)
{
    static const char *const marks[] = {
        "\"",   "\",",    "\":",    "\": ", "\": \"", "\",\"", "\", \"", "{\"",  "\"}",  "\"]",
        "[\"",  "}}",     "},",     "],",   "[]",     "{}",    "\"},",   "\"],", ", ",   ": ",
        "\\n",  "\\\"",   "\\u",    " {",   " [",     "();",   "()",     " =",   "->",   "//",
        "/*",   "...",    "!\"",    ".\"",  ".\",",   "?\"",   " \"",    "\n\n", "\r\n", "\":[",
        "\":{", "\":[\"", "\":{\"", "true", "false",  "null",  "{\n",    "\",\n"
    };
    struct buf word;
    buf_init(&word, 256);
    tokens = calloc(MADE_UP, sizeof *tokens);
    CHECK(tokens != NULL);
    for (int i = 0; i < 256; i++)
        add_token(&(char){ (char)i }, 1);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        add_token(marks[i], strlen(marks[i]));
    for (int i = 0; i < 1000; i++) {
        buf_reset(&word);
        buf_printf(&word, "%d", i);
        add_token(buf_text(&word), word.length);
    }
    for (int n = 2; n < 64; n++) {
        buf_reset(&word);
        for (int i = 0; i < n; i++)
            buf_putc(&word, ' ');
        add_token(buf_text(&word), word.length);
    }
    while (n_tokens < MADE_UP - 1) {
        uint32_t kind = draw(20);
        buf_reset(&word);
        if (kind < 10)
            buf_putc(&word, ' ');
        if (kind == 19)
            for (uint32_t n = 1 + draw(3); n > 0; n--)
                buf_printf(&word, "%c%c%c", 0xe4 + (int)draw(5), 0x80 + (int)draw(64),
                           0x80 + (int)draw(64));
        else
            put_word(&word);
        if (kind == 18)
            buf_puts(&word, marks[draw(12)]);
        if (kind == 17)
            buf_puts(&word, ".");
        add_token(buf_text(&word), word.length);
    }
    buf_clear(&word);
    eos = n_tokens++;
}

static void read_tokens(const char *path)
{
    struct tokenizer *tokenizer;
    struct file_map map;
    struct err err;
    if (!file_map(&map, path, &err) ||
        !tokenizer_open(&tokenizer, (const char *)map.bytes, map.size, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(2);
    }
    n_tokens = tokenizer_size(tokenizer);
    tokens = calloc((size_t)n_tokens + 1, sizeof *tokens);
    CHECK(tokens != NULL);
    for (int32_t i = 0; i < n_tokens; i++)
        if (!tokenizer_is_special(tokenizer, i))
            tokens[i].bytes = tokenizer_bytes(tokenizer, i, &tokens[i].length);
    eos = n_tokens++;
}

/* The longest token in front of the text, by a table of hashes of the tokens. */
static int32_t *table;
static uint32_t table_mask;

static uint32_t hash(const char *bytes, size_t length)
{
    uint64_t h = length;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)bytes[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return (uint32_t)h;
}

static void index_tokens(void)
{
    table_mask = (1u << 20) - 1;
    table = malloc(((size_t)table_mask + 1) * sizeof *table);
    CHECK(table != NULL);
    memset(table, 0xff, ((size_t)table_mask + 1) * sizeof *table);
    for (int32_t i = 0; i < n_tokens; i++) {
        uint32_t at = hash(tokens[i].bytes, tokens[i].length);
        if (tokens[i].length == 0)
            continue;
        while (table[at & table_mask] >= 0)
            at++;
        table[at & table_mask] = i;
    }
}

static int32_t longest_token(const char *text, size_t left)
{
    for (size_t length = left < 32 ? left : 32; length > 0; length--)
        for (uint32_t at = hash(text, length); table[at & table_mask] >= 0; at++) {
            const struct grammar_text *token = &tokens[table[at & table_mask]];
            if (token->length == length && memcmp(token->bytes, text, length) == 0)
                return table[at & table_mask];
        }
    CHECK(!"every byte is a token");
    return -1;
}

static void put_sentence(struct buf *text, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(text, ' ');
        put_word(text);
    }
}

/* A record as SCHEMA has it. */
static void write_record(struct buf *text)
{
    static const char *const states[] = { "open", "closed", "in progress" };
    buf_printf(text, "{\"id\": %u, \"title\": \"", draw(100000));
    put_sentence(text, 4);
    buf_puts(text, "\", \"summary\": \"");
    put_sentence(text, 25);
    buf_printf(text, "\", \"state\": \"%s\", \"score\": %u.%u, \"tags\": [", states[draw(3)],
               draw(100), draw(100));
    for (uint32_t i = 0, n = draw(4); i < n; i++) {
        buf_puts(text, i > 0 ? ", \"" : "\"");
        put_word(text);
        buf_puts(text, "\"");
    }
    buf_puts(text, "], \"author\": {\"name\": \"");
    put_sentence(text, 2);
    buf_printf(text, "\", \"email\": null, \"age\": %u}, \"steps\": [", draw(90));
    for (uint32_t i = 0, n = 1 + draw(3); i < n; i++) {
        buf_puts(text, i > 0 ? ", {\"explanation\": \"" : "{\"explanation\": \"");
        put_sentence(text, 10);
        buf_printf(text, "\", \"done\": %s}", draw(2) ? "true" : "false");
    }
    buf_puts(text, "]}");
}

#define RECORD(TITLE, SUMMARY)                                                                     \
    "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"integer\"},\"title\":" TITLE          \
    ",\"summary\":" SUMMARY ",\"state\":{\"enum\":[\"open\",\"closed\",\"in progress\"]},"         \
    "\"score\":{\"type\":\"number\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}" \
    "},"                                                                                           \
    "\"author\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"email\":"    \
    "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]},\"age\":{\"type\":\"integer\","       \
    "\"minimum\":0,\"maximum\":150}},\"required\":[\"name\",\"email\",\"age\"]},\"steps\":"        \
    "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"explanation\":"          \
    "{\"type\":\"string\"},\"done\":{\"type\":\"boolean\"}},\"required\":[\"explanation\"]}}},"    \
    "\"required\":[\"id\",\"title\",\"summary\",\"state\"]}"
static const char JSON_GBNF[] =
    "root ::= object\nvalue ::= object | array | string | number | \"true\" | \"false\" | "
    "\"null\"\n"
    "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\"\n"
    "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\"\n"
    "string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt/] | \"u\" "
    "[0-9a-fA-F]{4}))* "
    "\"\\\"\"\n"
    "number ::= \"-\"? ([0-9] | [1-9] [0-9]{0,15}) (\".\" [0-9]+)? ([eE] [-+]? [0-9]+)?\n"
    "ws ::= [ \\n\\t]{0,20}\n";
static const struct bench {
    const char *name, *kind, *source;
} CASES[] = {
    { "schema", "schema", RECORD("{\"type\":\"string\"}", "{\"type\":\"string\"}") },
    { "schema, the same again", "schema",
      RECORD("{\"type\":\"string\"}", "{\"type\":\"string\"}") },
    { "any JSON object", "object", "" },
    { "JSON as GBNF", "gbnf", JSON_GBNF },
    { "schema, maxLength 60 and 400", "schema",
      RECORD("{\"type\":\"string\",\"maxLength\":60}", "{\"type\":\"string\",\"maxLength\":400}") },
    { "schema, patterns", "schema",
      RECORD("{\"type\":\"string\",\"pattern\":\"^[a-z ]+$\"}",
             "{\"type\":\"string\",\"pattern\":\"^\\\\S+( \\\\S+)*$\"}") },
    { "regex .*", "regex", "(?:.|\\n)*" },
};

static bool compile(struct grammar **grammar, const struct bench *bench, struct err *err)
{
    if (strcmp(bench->kind, "object") == 0)
        return grammar_compile_json_object(grammar, NULL, &GRAMMAR_LIMITS, err);
    if (strcmp(bench->kind, "gbnf") == 0)
        return grammar_compile_gbnf(grammar, bench->source, strlen(bench->source), &GRAMMAR_LIMITS,
                                    err);
    if (strcmp(bench->kind, "regex") == 0)
        return grammar_compile_regex(grammar, bench->source, strlen(bench->source), &GRAMMAR_LIMITS,
                                     err);
    return grammar_compile_schema(grammar, bench->source, strlen(bench->source), NULL,
                                  &GRAMMAR_LIMITS, err);
}

/* Nanoseconds for all tokens of the text, and how many. */
static uint64_t write_text(const struct grammar *grammar, struct grammar_vocab *vocab,
                           uint32_t *mask, const struct buf *text, uint64_t *n, uint64_t *worst)
{
    struct grammar_state *state;
    struct err err;
    uint64_t total = 0;
    CHECK(grammar_state_open(&state, grammar, vocab, &err));
    for (size_t at = 0; at < text->length;) {
        int32_t token = longest_token(text->bytes + at, text->length - at);
        uint64_t from = cpu_ns();
        CHECK(grammar_mask(state, mask));
        if (!grammar_advance(state, token)) {
            fprintf(stderr, "not allowed: %.*s\n", (int)(text->length - at), text->bytes + at);
            exit(1);
        }
        uint64_t took = cpu_ns() - from;
        CHECK(mask[token >> 5] >> (token & 31) & 1);
        total += took;
        *worst = took > *worst ? took : *worst;
        ++*n;
        at += tokens[token].length;
    }
    CHECK(grammar_accepting(state));
    grammar_state_close(state);
    return total;
}

static bool run(const struct bench *bench, struct grammar_vocab *vocab, uint32_t *mask)
{
    struct grammar *grammar;
    struct err err;
    struct buf text;
    uint64_t total = 0, first = 0, n = 0, n_first = 0, worst = 0, from = cpu_ns();
    if (!compile(&grammar, bench, &err)) {
        fprintf(stderr, "%s: %s\n", bench->name, err.text);
        exit(2);
    }
    double compile_ms = (double)(cpu_ns() - from) / 1e6;
    buf_init(&text, TEXT_MAX);
    for (int i = 0; i < TEXTS; i++) {
        buf_reset(&text);
        draws = (uint64_t)i * 1000;
        write_record(&text);
        CHECK(!text.failed);
        total += write_text(grammar, vocab, mask, &text, &n, &worst);
        if (i == 0)
            first = total, n_first = n;
    }
    buf_clear(&text);
    double mean_us = (double)total / 1e3 / (double)n;
    printf("%-30s compile %7.2f ms  %7.1f KB  first text %8.1f us/token  mean %7.2f us  worst "
           "%8.1f us  "
           "ratio to the limit %.2f\n",
           bench->name, compile_ms, (double)grammar_bytes(grammar) / 1024,
           (double)first / 1e3 / (double)n_first, mean_us, (double)worst / 1e3, mean_us / LIMIT_US);
    grammar_close(grammar);
    return mean_us <= LIMIT_US;
}

int main(int argc, char **argv)
{
    struct grammar_vocab *vocab;
    struct err err;
    bool kept = true;
    if (argc > 1)
        read_tokens(argv[1]);
    else
        make_up_tokens();
    index_tokens();
    uint64_t from = cpu_ns();
    CHECK(grammar_vocab_open(&vocab, tokens, n_tokens, &eos, 1, (size_t)32 << 20, &err));
    printf("%d tokens, opened in %.1f ms\n", n_tokens, (double)(cpu_ns() - from) / 1e6);
    uint32_t *mask = calloc(((size_t)n_tokens + 31) / 32, sizeof *mask);
    CHECK(mask != NULL);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        kept &= run(&CASES[i], vocab, mask);
    free(mask);
    grammar_vocab_close(vocab);
    return kept ? 0 : 1;
}
