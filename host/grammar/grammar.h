/* grammar.h - what a sequence may say: a grammar, and at each step the tokens that keep it.
 *
 * Sources (JSON Schema, any JSON object, a regular expression, a list of texts, GBNF, structural
 * tags) become one automaton over bytes with a stack. Promises: a state only ever stands at a
 * prefix of an accepted text, and from every state the end can be reached; what is accepted is at
 * most what the source means (where the source is wider, schema.h and regex.h say what is left
 * out). A source that cannot be kept within the limits of time and memory is refused, never
 * loosened: ERR_REQUEST with its place in the source, what was wanted and what was found
 * (ERR_MEMORY where malloc fails).
 *
 * Threads: a compiled grammar never changes and any thread may use it. A grammar_vocab and the
 * states opened on it belong to one thread at a time (the engine's); nothing is allocated there but
 * by the *_open functions. Compile elsewhere.
 *
 *     grammar_compile_regex(&grammar, "[0-9]+", 6, &GRAMMAR_LIMITS, &err)         prep worker
 *     grammar_state_open(&state, grammar, vocab, &err)                             engine
 *     each step: grammar_mask(state, mask); token = sample(mask); grammar_advance(state, token) */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"

struct json_ref;
struct grammar;
struct grammar_vocab;
struct grammar_state;

/* Every number is a bound on what one compilation may take. */
struct grammar_limits {
    size_t source_bytes;
    int32_t depth;       /* nesting of groups; JSON's is JSON_REQUEST_LIMITS' */
    int32_t states;      /* of the automaton */
    int64_t steps;       /* of work, about 10 ns each */
    int32_t ms;          /* wall clock; 0: none */
    size_t memory_bytes; /* while compiling; the result takes less */
};
/* 1 MiB, 200 deep, 400,000 states, 100 million steps, 2 s, 256 MiB. */
extern const struct grammar_limits GRAMMAR_LIMITS;

struct grammar_json_options {
    bool
        compact; /* no blanks between the parts; else at most one blank, or a line feed and at most
                    20 blanks or tabs, where JSON has them (never before ':' or around the whole) */
};
/* The schema is a JSON text, or a part of a parsed one (borrowed during the call). schema.h has the
 * keywords. `options` may be NULL. */
MUST_USE bool grammar_compile_schema(struct grammar **grammar, const char *json, size_t length,
                                     const struct grammar_json_options *options,
                                     const struct grammar_limits *limits, struct err *err);
MUST_USE bool grammar_compile_schema_node(struct grammar **grammar, const struct json_ref *schema,
                                          const struct grammar_json_options *options,
                                          const struct grammar_limits *limits, struct err *err);
/* Any JSON object. */
MUST_USE bool grammar_compile_json_object(struct grammar **grammar,
                                          const struct grammar_json_options *options,
                                          const struct grammar_limits *limits, struct err *err);
/* The whole text matches; the dialect is in regex.h. */
MUST_USE bool grammar_compile_regex(struct grammar **grammar, const char *text, size_t length,
                                    const struct grammar_limits *limits, struct err *err);
/* Exactly one of the texts. */
struct grammar_text {
    const char *bytes; /* UTF-8 */
    size_t length;
};
MUST_USE bool grammar_compile_choice(struct grammar **grammar, const struct grammar_text *texts,
                                     size_t n_texts, const struct grammar_limits *limits,
                                     struct err *err);
/* llama.cpp's notation, from its rule `root`; the dialect is in gbnf.h. */
MUST_USE bool grammar_compile_gbnf(struct grammar **grammar, const char *text, size_t length,
                                   const struct grammar_limits *limits, struct err *err);
/* Free text, in which every trigger begins one of the tags: begin, a body, end. */
struct grammar_tag {
    struct grammar_text begin, end;
    const struct json_ref *schema; /* of the body; NULL: any JSON object */
};
struct grammar_tags {
    const struct grammar_tag *tags;
    size_t n_tags;
    const struct grammar_text *triggers; /* each tag begins with one of them; none: a tag's whole
                                            `begin` is its trigger */
    size_t n_triggers;
    bool at_least_one; /* the text may not end before a tag did */
    bool only_tags;    /* no free text: the tags stand alone, with blanks as in JSON between them */
    bool stop_after_first;
};
MUST_USE bool grammar_compile_tags(struct grammar **grammar, const struct grammar_tags *tags,
                                   const struct grammar_json_options *options,
                                   const struct grammar_limits *limits, struct err *err);
/* Outlives its states. NULL is fine. */
void grammar_close(struct grammar *grammar);
size_t grammar_bytes(const struct grammar *grammar); /* memory held */
/* Is this text in the language? Allocates; for tests and for checking given texts. */
bool grammar_accepts(const struct grammar *grammar, const char *bytes, size_t length);

/* tokens[n]: the bytes that each id stands for in running text; length 0 (control tokens, holes) or
 * above GRAMMAR_TOKEN_BYTES_MAX: never allowed. `eos`: allowed where the text may end. Copied.
 * cache_bytes: for masks and steps already worked out, at least 1 MiB is taken (128k tokens: 32 MiB
 * keeps a thousand masks). */
enum { GRAMMAR_TOKEN_BYTES_MAX = 256 };
MUST_USE bool grammar_vocab_open(struct grammar_vocab **vocab, const struct grammar_text *tokens,
                                 int32_t n_tokens, const int32_t *eos, int32_t n_eos,
                                 size_t cache_bytes, struct err *err);
void grammar_vocab_close(struct grammar_vocab *vocab); /* after its states; NULL is fine */

/* At the beginning of the text. 16 KiB. */
MUST_USE bool grammar_state_open(struct grammar_state **state, const struct grammar *grammar,
                                 struct grammar_vocab *vocab, struct err *err);
void grammar_state_close(struct grammar_state *state);
/* `to` becomes what `from` is (its grammar and vocabulary too). */
void grammar_state_copy(struct grammar_state *to, const struct grammar_state *from);

/* mask[(n_tokens + 31) / 32]: bit per token, 1 = allowed; bits behind n_tokens are 0. A bit is set
 * when grammar_advance would return true, and only then; but where a grammar keeps so many ways
 * open that working it out would hold up the thread (over about 5 ms), tokens of more than a few
 * bytes are left out, one byte at the least being looked at. False: no token is allowed, eos
 * neither; with tokens for all 256 bytes that only happens behind eos. The caller ends the sequence
 * with an error. */
MUST_USE bool grammar_mask(struct grammar_state *state, uint32_t *mask);
/* Take one token. False: it is not allowed, and the state is unchanged. Behind eos nothing is. */
MUST_USE bool grammar_advance(struct grammar_state *state, int32_t token);
bool grammar_accepting(const struct grammar_state *state); /* the text may end here */
bool grammar_complete(const struct grammar_state *state);  /* ... and nothing may follow */
