/* requests.h - what the tests of the request parsers share: a model, bodies, a parser by name. */
#pragma once
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "api/generate.h"
#include "api/text.h"
#include "host/base/buf.h"

static const char *const NAMES[] = { "nibble", "demo" };
static const struct api_model PLAIN = { .id = "nibble",
                                        .names = NAMES,
                                        .n_names = 2,
                                        .vocab = 1000,
                                        .ctx = 100,
                                        .created_s = 1700000000,
                                        .temperature = 0.5f,
                                        .top_p = 0.75f,
                                        .min_p = 0.125f,
                                        .typical_p = 0.875f,
                                        .repetition_penalty = 1.25f,
                                        .top_k = 40,
                                        .no_tokenizer = "",
                                        .no_chat = "" };

enum which { PLAIN_MODEL, NO_TOKENIZER, NO_CHAT, MAX_32 };
static inline struct api_model model_of(enum which which)
{
    struct api_model model = PLAIN;
    if (which == NO_TOKENIZER)
        model.no_tokenizer = "tokenizer.json is missing";
    if (which == NO_CHAT)
        model.no_chat = "chat_template.jinja is missing";
    if (which == MAX_32)
        model.max_tokens = 32;
    return model;
}

enum endpoint { CHAT, COMPLETION };
/* A body is M or P (the smallest one) and what is added. */
#define M "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define P "\"prompt\":\"hi\""

static inline cJSON *parse_json(const char *body)
{
    cJSON *root;
    struct err err = { 0 };
    char *copy = guard_copy(body, strlen(body));
    if (!json_parse(copy, strlen(body), &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, &err))
        fail_msg("%s: %s", body, err.text);
    guard_free(copy, strlen(body));
    return root;
}
static inline bool parse(enum endpoint endpoint, struct generate *out, cJSON *root,
                         const struct api_model *model, struct arena *arena, struct err *err)
{
    return endpoint == CHAT ? api_parse_chat(out, root, model, arena, err)
                            : api_parse_completion(out, root, model, arena, err);
}
