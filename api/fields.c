/* fields.c - the request fields that chat and completions share, each with its range.
 *
 * Every refusal names the field, what was wanted and what was found (json.h). Fields that other
 * servers honour and this one does not are refused here by name unless they hold their neutral
 * value: never silently ignored. */
#include "api/generate.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

/* Known, not honoured: refused unless null or the neutral value. */
enum neutral {
    NEUTRAL_NONE,
    NEUTRAL_FALSE,
    NEUTRAL_TRUE,
    NEUTRAL_ZERO,
    NEUTRAL_ONE,
    NEUTRAL_OFF, /* a number that is not positive */
    NEUTRAL_EMPTY
};
static const struct {
    const char *name;
    enum neutral neutral;
} not_honoured[] = {
    { "suffix", NEUTRAL_EMPTY },
    { "functions", NEUTRAL_EMPTY },
    { "function_call", NEUTRAL_NONE },
    { "structured_outputs", NEUTRAL_NONE },
    { "guided_json", NEUTRAL_NONE },
    { "guided_regex", NEUTRAL_NONE },
    { "guided_choice", NEUTRAL_NONE },
    { "guided_grammar", NEUTRAL_NONE },
    { "grammar", NEUTRAL_EMPTY },
    { "json_schema", NEUTRAL_NONE },
    { "prompt_logprobs", NEUTRAL_NONE },
    { "bad_words", NEUTRAL_EMPTY },
    { "allowed_token_ids", NEUTRAL_NONE },
    { "truncate_prompt_tokens", NEUTRAL_NONE },
    { "use_beam_search", NEUTRAL_FALSE },
    { "length_penalty", NEUTRAL_ONE },
    { "dry_multiplier", NEUTRAL_ZERO },
    { "xtc_probability", NEUTRAL_ZERO },
    { "mirostat", NEUTRAL_ZERO },
    { "dynatemp_range", NEUTRAL_ZERO },
    { "top_n_sigma", NEUTRAL_OFF },
    { "samplers", NEUTRAL_NONE },
    { "lora", NEUTRAL_EMPTY },
    { "prompt_embeds", NEUTRAL_NONE },
    { "spaces_between_special_tokens", NEUTRAL_TRUE },
    { "return_tokens_as_token_ids", NEUTRAL_FALSE },
    { "timings_per_token", NEUTRAL_FALSE },
    { "return_progress", NEUTRAL_FALSE },
    { "t_max_predict_ms", NEUTRAL_NONE },
    { "response_fields", NEUTRAL_NONE },
    { "parse_tool_calls", NEUTRAL_FALSE },
    { "audio", NEUTRAL_NONE },
    { "modalities", NEUTRAL_NONE },
    { "kv_transfer_params", NEUTRAL_NONE },
};

/* Honoured by the parsers, or harmless to ignore: not counted as unknown. */
static const char *const known[] = {
    "model",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "ignore_eos",
    "echo",
    "return_token_ids",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "add_special_tokens",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "stop",
    "stop_token_ids",
    "prompt",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "documents",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "cache_salt",
    "priority",
    "user",
    "metadata",
    "store",
    "service_tier",
    "response_format",
    "request_id",
    "reasoning_effort",
    "cache_prompt",
    "prompt_cache_key",
    "safety_identifier",
    "chat_template",
    "xtc_threshold",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "mirostat_tau",
    "mirostat_eta",
    "dynatemp_exponent",
    "id_slot",
};

static bool is_neutral(const cJSON *node, enum neutral neutral)
{
    switch (neutral) {
    case NEUTRAL_NONE:
        return false;
    case NEUTRAL_FALSE:
        return cJSON_IsFalse(node);
    case NEUTRAL_TRUE:
        return cJSON_IsTrue(node);
    case NEUTRAL_ZERO:
        return cJSON_IsNumber(node) && node->valuedouble == 0;
    case NEUTRAL_ONE:
        return cJSON_IsNumber(node) && node->valuedouble == 1;
    case NEUTRAL_OFF:
        return cJSON_IsNumber(node) && node->valuedouble <= 0;
    case NEUTRAL_EMPTY:
        return (cJSON_IsString(node) && node->valuestring[0] == 0) ||
               ((cJSON_IsArray(node) || cJSON_IsObject(node)) && node->child == NULL);
    }
    return false;
}

static bool refuse_known(const struct json_ref *root, struct err *err)
{
    struct json_ref at;
    for (size_t i = 0; i < sizeof not_honoured / sizeof not_honoured[0]; i++) {
        if (!json_get(root, not_honoured[i].name, &at))
            continue;
        if (!is_neutral(at.node, not_honoured[i].neutral))
            return err_set_field(err, ERR_REQUEST, not_honoured[i].name,
                                 "%s is not supported by this server", not_honoured[i].name);
    }
    if (json_get(root, "response_format", &at)) {
        const char *type = NULL;
        if (!json_is_object(&at))
            return json_error(&at, err, "must be an object");
        if (!json_opt_string(&at, "type", &type, err))
            return false;
        if (type == NULL || strcmp(type, "text") != 0)
            return err_set_field(
                err, ERR_REQUEST, "response_format",
                "response_format of type \"%.40s\" is not supported by this server; "
                "only \"text\" is",
                type ? type : "null");
    }
    if (json_get(root, "chat_template", &at))
        return err_set_field(err, ERR_REQUEST, "chat_template",
                             "chat_template in a request is not allowed: templates are code");
    return true;
}

static int32_t count_unknown(const struct json_ref *root)
{
    int32_t n = 0;
    struct json_ref at;
    for (bool more = json_first(root, &at); more; more = json_next(&at)) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0] && !found; i++)
            found = strcmp(at.node->string, known[i]) == 0;
        for (size_t i = 0; i < sizeof not_honoured / sizeof not_honoured[0] && !found; i++)
            found = strcmp(at.node->string, not_honoured[i].name) == 0;
        n += !found;
    }
    return n;
}

bool api_check_model(const struct json_ref *root, const struct api_model *model, struct err *err)
{
    const char *name = NULL;
    if (!json_opt_string(root, "model", &name, err))
        return false;
    if (name == NULL)
        return true;
    for (int32_t i = 0; i < model->n_names; i++)
        if (strcmp(name, model->names[i]) == 0)
            return true;
    return err_set_field(err, ERR_NOT_FOUND, "model",
                         "the model \"%.100s\" does not exist; this server has \"%.100s\"", name,
                         model->id);
}

bool api_token_list(const struct json_ref *array, int32_t vocab, int32_t n_max, struct arena *arena,
                    int32_t **ids, int32_t *n, struct err *err)
{
    int64_t count = json_count(array);
    if (count > n_max)
        return json_error(array, err, "has %lld tokens, at most %d are possible", (long long)count,
                          n_max);
    *n = 0;
    *ids = arena_take(arena, (size_t)count + 1, sizeof **ids);
    if (*ids == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %lld token ids", (long long)count);
    struct json_ref at;
    for (bool more = json_first(array, &at); more; more = json_next(&at)) {
        int64_t id;
        if (!json_int(&at, 0, vocab - 1, &id, err))
            return false;
        (*ids)[(*n)++] = (int32_t)id;
    }
    return true;
}

static bool parse_stop(struct generate *out, const struct json_ref *root, struct arena *arena,
                       struct err *err)
{
    struct json_ref stop, at;
    if (!json_get(root, "stop", &stop))
        return true;
    bool single = json_is_string(&stop);
    if (!single && !json_is_array(&stop))
        return json_error(&stop, err, "must be a string or a list of strings");
    int64_t count = single ? 1 : json_count(&stop);
    if (count > API_STOPS_MAX)
        return json_error(&stop, err, "has %lld strings, at most %d are allowed", (long long)count,
                          API_STOPS_MAX);
    out->stops = arena_take(arena, (size_t)count + 1, sizeof *out->stops);
    if (out->stops == NULL)
        return err_set(err, ERR_MEMORY, "no memory for stop strings");
    bool more = true;
    if (single)
        at = stop;
    else
        more = json_first(&stop, &at);
    for (; more; more = !single && json_next(&at)) {
        const char *text;
        if (!json_string(&at, &text, err))
            return false;
        size_t length = strlen(text);
        if (length == 0 || length > API_STOP_BYTES_MAX)
            return json_error(&at, err, "must have 1 to %d bytes, got %zu", API_STOP_BYTES_MAX,
                              length);
        out->stops[out->n_stops++] = (struct api_stop){ text, length };
    }
    return true;
}

/* {"15043": -100, ...}; an id is a decimal number without sign or blanks. */
static bool parse_bias(struct generate *out, const struct json_ref *root, int32_t vocab,
                       struct arena *arena, struct err *err)
{
    struct json_ref map, at;
    if (!json_get(root, "logit_bias", &map))
        return true;
    if (!json_is_object(&map))
        return json_error(&map, err, "must be an object of token id to bias");
    int64_t count = json_count(&map);
    if (count > API_BIASES_MAX)
        return json_error(&map, err, "has %lld entries, at most %d are allowed", (long long)count,
                          API_BIASES_MAX);
    struct logit_bias *biases = arena_take(arena, (size_t)count + 1, sizeof *biases);
    if (biases == NULL)
        return err_set(err, ERR_MEMORY, "no memory for logit_bias");
    int32_t n = 0;
    for (bool more = json_first(&map, &at); more; more = json_next(&at)) {
        const char *key = at.node->string;
        int64_t id = 0;
        size_t digits = strspn(key, "0123456789");
        if (digits == 0 || digits > 9 || key[digits] != 0)
            return json_error(&map, err, "has the key \"%.40s\", wanted a token id from 0 to %d",
                              key, vocab - 1);
        for (size_t i = 0; i < digits; i++)
            id = id * 10 + (key[i] - '0');
        if (id >= vocab)
            return json_error(&map, err, "has the key \"%.40s\", wanted a token id from 0 to %d",
                              key, vocab - 1);
        double bias;
        if (!json_double(&at, -100, 100, &bias, err))
            return false;
        biases[n++] = (struct logit_bias){ (int32_t)id, (float)bias };
    }
    out->sampling.biases = biases;
    out->sampling.n_biases = n;
    return true;
}

static bool parse_sampling(struct generate *out, const struct json_ref *root,
                           const struct api_model *model, struct err *err)
{
    double temperature = (double)model->temperature, top_p = (double)model->top_p,
           min_p = (double)model->min_p, typical_p = (double)model->typical_p,
           repetition = (double)model->repetition_penalty, presence = 0, frequency = 0;
    int64_t top_k = model->top_k, seed = -1;
    if (!json_opt_double(root, "temperature", 0, 100, &temperature, err) ||
        !json_opt_int(root, "top_k", -1, INT32_MAX, &top_k, err) ||
        !json_opt_double(root, "top_p", 0, 1, &top_p, err) ||
        !json_opt_double(root, "min_p", 0, 1, &min_p, err) ||
        !json_opt_double(root, "typical_p", 0, 1, &typical_p, err) ||
        !json_opt_double(root, "repeat_penalty", 0.01, 100, &repetition, err) ||
        !json_opt_double(root, "repetition_penalty", 0.01, 100, &repetition, err) ||
        !json_opt_double(root, "presence_penalty", -2, 2, &presence, err) ||
        !json_opt_double(root, "frequency_penalty", -2, 2, &frequency, err) ||
        !json_opt_int(root, "seed", INT64_MIN, INT64_MAX, &seed, err))
        return false;
    out->sampling.temperature = (float)temperature;
    out->sampling.top_k = (int32_t)top_k;
    out->sampling.top_p = (float)top_p;
    out->sampling.min_p = (float)min_p;
    out->sampling.typical_p = (float)typical_p;
    out->sampling.repetition_penalty = (float)repetition;
    out->sampling.presence_penalty = (float)presence;
    out->sampling.frequency_penalty = (float)frequency;
    out->sampling.seed = (uint64_t)seed;
    out->random_seed = seed == -1; /* -1 and absent: the server draws one (llama-server, vLLM) */
    return true;
}

static bool parse_stream(struct generate *out, const struct json_ref *root, struct err *err)
{
    struct json_ref options;
    if (!json_opt_bool(root, "stream", &out->stream, err))
        return false;
    if (!json_get(root, "stream_options", &options))
        return true;
    if (!json_is_object(&options))
        return json_error(&options, err, "must be an object");
    if (!out->stream)
        return json_error(&options, err, "is only allowed when stream is true");
    return json_opt_bool(&options, "include_usage", &out->include_usage, err) &&
           json_opt_bool(&options, "continuous_usage_stats", &out->continuous_usage, err);
}

bool api_check_min_tokens(const struct generate *generate, struct err *err)
{
    if (generate->max_tokens >= 0 && generate->min_tokens > generate->max_tokens)
        return err_set_field(err, ERR_REQUEST, "min_tokens",
                             "min_tokens must be at most max_tokens (%d), got %d",
                             generate->max_tokens, generate->min_tokens);
    return true;
}

bool api_fields_common(struct generate *out, const struct json_ref *root,
                       const struct api_model *model, struct arena *arena, struct err *err)
{
    struct json_ref at;
    out->n = 1;
    out->max_tokens = -1;
    out->skip_special = true;
    out->sampling = sample_params_neutral();
    out->sampling.n_top = -1;
    if (!json_is_object(root))
        return err_set(err, ERR_REQUEST, "the body must be a JSON object");
    if (!api_check_model(root, model, err) || !refuse_known(root, err) ||
        !parse_stream(out, root, err) || !parse_sampling(out, root, model, err) ||
        !parse_stop(out, root, arena, err) || !parse_bias(out, root, model->vocab, arena, err))
        return false;
    int64_t n = 1, best_of = 0, max_tokens = -1, min_tokens = 0, priority = 0;
    if (!json_opt_int(root, "n", 1, API_N_MAX, &n, err) ||
        !json_opt_int(root, "best_of", 1, API_N_MAX, &best_of, err) ||
        !json_opt_int(root, "max_tokens", out->kind == API_CHAT ? 1 : 0, INT32_MAX, &max_tokens,
                      err) ||
        !json_opt_int(root, "max_completion_tokens", out->kind == API_CHAT ? 1 : 0, INT32_MAX,
                      &max_tokens, err) ||
        !json_opt_int(root, "min_tokens", 0, INT32_MAX, &min_tokens, err) ||
        !json_opt_int(root, "priority", INT32_MIN, INT32_MAX, &priority, err) ||
        !json_opt_bool(root, "ignore_eos", &out->ignore_eos, err) ||
        !json_opt_bool(root, "return_token_ids", &out->return_token_ids, err) ||
        !json_opt_bool(root, "skip_special_tokens", &out->skip_special, err) ||
        !json_opt_bool(root, "include_stop_str_in_output", &out->include_stop, err) ||
        !json_opt_string(root, "cache_salt", &out->cache_salt, err))
        return false;
    if (best_of != 0 && best_of != n)
        return err_set_field(err, ERR_REQUEST, "best_of",
                             "best_of is not supported by this server unless it equals n (%d)",
                             (int)n);
    if (min_tokens > model->ctx)
        return err_set_field(err, ERR_REQUEST, "min_tokens",
                             "min_tokens must be at most the context of %d tokens, got %lld",
                             model->ctx, (long long)min_tokens);
    out->n = (int32_t)n;
    out->max_tokens = (int32_t)max_tokens;
    out->min_tokens = (int32_t)min_tokens;
    out->priority = (int32_t)priority;
    if (json_get(root, "stop_token_ids", &at)) {
        if (!json_is_array(&at))
            return json_error(&at, err, "must be a list of token ids");
        if (!api_token_list(&at, model->vocab, API_STOP_TOKENS_MAX, arena, &out->stop_tokens,
                            &out->n_stop_tokens, err))
            return false;
    }
    if (out->n_stops > 0 && model->no_tokenizer[0] != 0)
        return err_set_field(err, ERR_REQUEST, "stop", "stop strings need a tokenizer: %s",
                             model->no_tokenizer);
    out->n_unknown = count_unknown(root);
    return true;
}
