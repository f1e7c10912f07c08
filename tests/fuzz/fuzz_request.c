/* libFuzzer entry for the request parsers: the first byte chooses the route and the model, the rest
 * is the body. What is accepted must keep the promises of generate.h; a refusal has a text. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "api/error.h"
#include "api/generate.h"
#include "api/text.h"
#include "host/base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { N_ROUTES = 5, VOCAB = 300, CTX = 64 };

static void check_text(const char *text, size_t length)
{
    CHECK(strlen(text) == length);
    for (size_t i = 0; i < length;) {
        int n = utf8_step(text + i, length - i);
        CHECK(n > 0);
        i += (size_t)n;
    }
}

static void check_ids(const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        CHECK(ids[i] >= 0 && ids[i] < VOCAB);
}

static void check_messages(const cJSON *messages)
{
    CHECK(cJSON_IsArray(messages) && messages->child != NULL);
    for (const cJSON *at = messages->child; at != NULL; at = at->next) {
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(at, "content");
        CHECK(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(at, "role")));
        CHECK(content == NULL || cJSON_IsNull(content) || cJSON_IsString(content));
    }
}

static void check_strings(const struct api_stop *strings, int32_t n, size_t bytes_max)
{
    for (int32_t i = 0; i < n; i++) {
        CHECK(strings[i].length >= 1 && strings[i].length <= bytes_max);
        check_text(strings[i].text, strings[i].length);
    }
}

static void check_chain(const struct sample_chain *c)
{
    bool seen[SAMPLE_STAGES] = { false };
    CHECK(c->n_stages >= 1 && c->n_stages <= SAMPLE_STAGES);
    for (int32_t i = 0; i < c->n_stages; i++) {
        CHECK(!seen[c->stages[i]]);
        seen[c->stages[i]] = true;
    }
    CHECK(c->last_n >= -1 && c->min_keep >= 0 && c->dry_last_n >= -1);
    CHECK(c->xtc_probability >= 0 && c->xtc_probability <= 1 && c->dry_base >= 1);
    CHECK(c->mirostat >= 0 && c->mirostat <= 2 && c->dry_allowed_length >= 0);
}

static void check_generate(const struct generate *g)
{
    const struct sample_params *s = &g->sampling;
    CHECK(g->n >= 1 && g->n <= API_N_MAX);
    CHECK(g->max_tokens >= -1 && g->min_tokens >= 0 && g->min_tokens <= CTX);
    CHECK(g->max_tokens < 0 || g->min_tokens <= g->max_tokens);
    CHECK(s->temperature >= 0 && s->top_k >= -1 && s->repetition_penalty > 0);
    CHECK(s->top_p >= 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
    CHECK(s->n_top >= -1 && s->n_top <= API_TOP_MAX);
    for (int32_t i = 0; i < g->n_biases; i++)
        CHECK(g->biases[i].token >= 0 && g->biases[i].token < VOCAB && g->biases[i].bias <= 100 &&
              (g->biases[i].bias >= -100 || g->biases[i].bias == -INFINITY));
    check_chain(&g->chain);
    check_strings(g->bad_words, g->n_bad_words, API_BAD_WORD_BYTES_MAX);
    check_strings(g->breakers, g->n_breakers, API_BREAKER_BYTES_MAX);
    CHECK(g->n_seqs >= g->n && g->n_seqs <= API_N_MAX && !(g->stream && g->n_seqs > g->n));
    CHECK(g->truncate_prompt >= -1 && g->truncate_prompt < CTX);
    CHECK(g->prompt_logprobs >= -1 && g->prompt_logprobs <= API_TOP_MAX);
    CHECK(g->n_stops <= API_STOPS_MAX && g->n_stop_tokens <= API_STOP_TOKENS_MAX);
    for (int32_t i = 0; i < g->n_stops; i++) {
        CHECK(g->stops[i].length >= 1 && g->stops[i].length <= API_STOP_BYTES_MAX);
        check_text(g->stops[i].text, g->stops[i].length);
    }
    check_ids(g->stop_tokens, g->n_stop_tokens);
    CHECK((g->kind == API_CHAT) == (g->n_prompts == 0));
    CHECK((int64_t)g->n_seqs * g->n_prompts <= API_PROMPTS_MAX);
    for (int32_t i = 0; i < g->n_prompts; i++) {
        if (g->prompts[i].text != NULL)
            check_text(g->prompts[i].text, g->prompts[i].length);
        else
            CHECK(g->prompts[i].n_ids >= 1);
        check_ids(g->prompts[i].ids, g->prompts[i].n_ids);
    }
    if (g->kind == API_CHAT)
        check_messages(g->messages);
    CHECK(!g->continue_final_message || !g->add_generation_prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = { "m" };
    struct api_model model = { .id = "m",
                               .names = names,
                               .n_names = 1,
                               .vocab = VOCAB,
                               .ctx = CTX,
                               .temperature = 1,
                               .top_p = 1,
                               .typical_p = 1,
                               .repetition_penalty = 1,
                               .no_tokenizer = "",
                               .no_chat = "",
                               .tool_format = tool_format_find("hermes"),
                               .reasoning = reason_format_find("think") };
    struct cJSON *root;
    struct err err = { 0 };
    struct arena arena;
    if (size == 0 || !json_parse((const char *)bytes + 1, size - 1, &JSON_REQUEST_LIMITS,
                                 ERR_REQUEST, &root, &err))
        return 0;
    int32_t which = bytes[0] % N_ROUTES, variant = bytes[0] / N_ROUTES % 4;
    if (variant == 1)
        model.no_tokenizer = "none";
    if (variant == 2)
        model.max_tokens = 8;
    arena_init(&arena, variant == 3 ? 64 : 1 << 20);
    struct generate generate;
    struct tokenize_request tokenize;
    struct detokenize_request detokenize;
    bool ok = false;
    switch (which) {
    case 0:
        ok = api_parse_chat(&generate, root, &model, &arena, &err);
        break;
    case 1:
        ok = api_parse_completion(&generate, root, &model, &arena, &err);
        break;
    case 2:
        ok = api_parse_tokenize(&tokenize, root, &model, &arena, &err);
        if (ok && tokenize.text != NULL)
            check_text(tokenize.text, tokenize.length);
        else if (ok)
            check_messages(tokenize.chat.messages);
        break;
    case 3:
        ok = api_parse_detokenize(&detokenize, root, &model, &arena, &err);
        if (ok)
            check_ids(detokenize.ids, detokenize.n_ids);
        break;
    default:
        ok = api_parse_apply_template(&generate, root, &model, &arena, &err);
        if (ok)
            check_messages(generate.messages);
        break;
    }
    if (ok && which < 2)
        check_generate(&generate);
    if (!ok) {
        int32_t status = api_status(err.code);
        CHECK(err.text[0] != 0);
        CHECK(status == 400 || status == 404 || (err.code == ERR_MEMORY && variant == 3));
        struct buf out;
        buf_init(&out, 1 << 16);
        api_write_error(&out, &err, 0, 0);
        cJSON *body;
        CHECK(
            json_parse(buf_text(&out), out.length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &body, &err));
        json_free(body);
        buf_clear(&out);
    }
    json_free(root);
    arena_clear(&arena);
    return 0;
}
