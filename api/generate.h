/* generate.h - what /v1/chat/completions and /v1/completions come down to: one struct, checked.
 *
 * Pure: JSON in, struct out; no threads, no sockets, no model. Memory comes from the caller's
 * arena; texts point into the parsed JSON tree, which must live as long. Every refusal names its
 * field. Known fields that are not honoured are refused by name; unknown ones are counted. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "api/structured.h"
#include "api/tools.h"
#include "host/base/arena.h"
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/backend/sampler.h"

enum {
    API_PROMPTS_MAX = 1024,    /* prompts of one completions request */
    API_N_MAX = 128,           /* n: SEQS_PER_REQUEST_MAX */
    API_STOPS_MAX = 64,        /* stop strings */
    API_STOP_BYTES_MAX = 4096, /* bytes of one */
    API_STOP_TOKENS_MAX = 256,
    API_BIASES_MAX = 16384,
    API_BAD_WORDS_MAX = 1024,
    API_BAD_WORD_BYTES_MAX = 256,
    API_BREAKERS_MAX = 16,      /* strings that end a repetition (DRY) */
    API_BREAKER_BYTES_MAX = 64, /* of one */
    API_RESPONSE_FIELDS_MAX = 64,
    API_TOP_MAX = SAMPLE_TOP_MAX,
};

/* What the model and the server say about themselves; the parser checks against it. */
struct api_model {
    const char *id;           /* the alias that replies carry */
    const char *const *names; /* [n_names] accepted in "model"; the alias is one of them */
    int32_t n_names;
    int32_t vocab, ctx;
    int64_t created_s;
    /* Sampling defaults (generation_config.json or neutral). */
    float temperature, top_p, min_p, typical_p, repetition_penalty;
    int32_t top_k;
    int32_t max_tokens; /* default of chat; 0: up to the context */
    /* "" when there is one; else why text endpoints answer 400. */
    const char *no_tokenizer, *no_chat;
    const struct tool_format *tool_format; /* NULL: calls are not parsed; no_tools says why */
    const char *no_tools;
    const struct reason_format *reasoning; /* NULL: not split */
    bool string_arguments; /* the chat template wants arguments of calls as strings of JSON */
};

enum api_kind { API_CHAT, API_COMPLETION };

/* A prompt of /v1/completions: text or ids. */
struct api_prompt {
    const char *text; /* NULL when ids */
    size_t length;
    int32_t *ids; /* [n_ids], checked against the vocabulary */
    int32_t n_ids;
};
struct api_stop {
    const char *text;
    size_t length;
};
/* A bias of a token, or of each token of a text. */
struct api_bias {
    const char *text; /* NULL: of `token` */
    size_t length;
    int32_t token;
    float bias; /* -infinity: never */
};
struct generate {
    enum api_kind kind;
    bool stream, include_usage, continuous_usage;
    int32_t n;
    int32_t n_seqs; /* computed for each prompt, of which the n likeliest are returned (best_of) */
    int32_t max_tokens; /* -1: not given */
    int32_t min_tokens;
    int32_t truncate_prompt; /* keep so many tokens of the prompt's end; 0: all, -1: what fits */
    int32_t prompt_logprobs; /* likeliest tokens beside each of the prompt's; -1: none at all */
    int32_t predict_ms_max;  /* llama.cpp's t_max_predict_ms, once there is a line feed; 0: none */
    bool ignore_eos, echo, return_token_ids, skip_special, include_stop;
    bool tight_specials; /* special tokens in a row are written without what a decoder puts between
                          */
    bool logprobs;       /* in the reply; sampling.n_top may be set without, for best_of */
    bool tokens_as_ids;  /* tokens of log-probabilities as "token_id:123" */
    bool timings_per_token, return_progress;
    bool cache_prompt; /* false: shares no pages with other requests */
    bool add_special;  /* BOS in front of text (completions: default true; chat: false, its template
                          writes it) */
    bool random_seed;  /* no seed was given: the server draws one */
    struct sample_params sampling; /* without biases and chain; n_top = wanted, -1 none */
    bool has_chain;
    struct sample_chain chain; /* without what needs the tokenizer: the following */
    struct api_bias *biases;
    int32_t n_biases;
    struct api_stop *bad_words, *breakers;
    int32_t n_bad_words, n_breakers;
    struct api_stop *stops;
    int32_t n_stops;
    struct api_stop *response_fields; /* of a collected reply: these members alone */
    int32_t n_response_fields;
    const char *request_id; /* NULL: none */
    int32_t *stop_tokens;
    int32_t n_stop_tokens;
    struct structured structured; /* the form of the answer */
    struct api_prompt *prompts;   /* completion: [n_prompts] >= 1 */
    int32_t n_prompts;
    /* chat: nodes of the tree, for chat_input */
    const struct cJSON *messages, *tools, *documents, *variables;
    bool add_generation_prompt, continue_final_message;
    enum tool_choice tool_choice;
    const char *tool_name;  /* TOOL_CHOICE_NAMED */
    struct tool_setup tool; /* how its text is split; reasoning_open and id_seed are the server's */
    const char *cache_salt; /* NULL: none */
    int32_t priority;
    int32_t n_unknown; /* unknown fields ignored */
};

/* `root` is the parsed body. Model name is checked here: unknown -> ERR_NOT_FOUND, field "model".
 */
MUST_USE bool api_parse_chat(struct generate *out, struct cJSON *root,
                             const struct api_model *model, struct arena *arena, struct err *err);
MUST_USE bool api_parse_completion(struct generate *out, struct cJSON *root,
                                   const struct api_model *model, struct arena *arena,
                                   struct err *err);

/* A chain that does nothing: all stages in this server's order, llama.cpp's values for the rest. */
void api_chain_default(struct sample_chain *chain);
/* [A-Za-z0-9._-]{1,128} */
bool api_request_id_is_fine(const char *id);

/* Shared by the parsers (fields.c). */
MUST_USE bool api_fields_common(struct generate *out, const struct json_ref *root,
                                const struct api_model *model, struct arena *arena,
                                struct err *err);
MUST_USE bool api_check_model(const struct json_ref *root, const struct api_model *model,
                              struct err *err);
/* What the reply shows of log-probabilities, and what the sampler must therefore report. */
void api_set_logprobs(struct generate *out, bool wanted, int32_t n_top);
/* min_tokens against max_tokens, once the default of the latter is in. */
MUST_USE bool api_check_min_tokens(const struct generate *generate, struct err *err);
/* An array of token ids below `vocab`, into the arena. */
MUST_USE bool api_token_list(const struct json_ref *array, int32_t vocab, int32_t n_max,
                             struct arena *arena, int32_t **ids, int32_t *n, struct err *err);
/* Check messages and turn lists of text parts into one string each (in the tree). */
MUST_USE bool api_check_messages(const struct json_ref *messages, struct err *err);
/* tools, documents, chat_template_kwargs, add_generation_prompt, continue_final_message. */
MUST_USE bool api_template_fields(struct generate *out, const struct json_ref *root,
                                  const struct api_model *model, struct err *err);
/* tool_choice, parallel_tool_calls, parse_tool_calls, reasoning_format; out->tools is there. */
MUST_USE bool api_tool_fields(struct generate *out, const struct json_ref *root,
                              const struct api_model *model, struct err *err);
MUST_USE bool api_check_tools(const struct json_ref *tools, struct err *err);
