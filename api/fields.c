/* fields.c - the request fields that chat and completions share, each with its range: which are
 * known, how many and how long; fields_sampling.c and fields_output.c have the rest.
 *
 * Every refusal names the field, what was wanted and what was found (json.h). Fields that other
 * servers honour and this one does not are refused here by name unless they hold their neutral
 * value: never silently ignored. */
#include "api/fields.h"
#include <cjson/cJSON.h>
#include <string.h>

/* Known, not honoured: refused unless null or the neutral value. */
enum neutral {
    NEUTRAL_NONE,
    NEUTRAL_FALSE,
    NEUTRAL_ZERO,
    NEUTRAL_ONE,
    NEUTRAL_OFF, /* a number below 0 */
    NEUTRAL_EMPTY
};
static const struct {
    const char *name;
    enum neutral neutral;
} not_honoured[] = {
    { "suffix", NEUTRAL_EMPTY },
    { "functions", NEUTRAL_EMPTY },
    { "function_call", NEUTRAL_NONE },
    { "guided_whitespace_pattern", NEUTRAL_NONE },
    { "use_beam_search", NEUTRAL_FALSE },
    { "length_penalty", NEUTRAL_ONE },
    { "lora", NEUTRAL_EMPTY },
    { "prompt_embeds", NEUTRAL_NONE },
    { "audio", NEUTRAL_NONE },
    { "modalities", NEUTRAL_NONE },
    { "kv_transfer_params", NEUTRAL_NONE },
    { "adaptive_target", NEUTRAL_OFF },
    { "post_sampling_probs", NEUTRAL_FALSE },
    { "n_indent", NEUTRAL_ZERO },
    { "n_cache_reuse", NEUTRAL_ZERO },
};

/* Honoured by the parsers, or harmless to ignore: not counted as unknown. (n_keep and n_discard say
 * what a context shift keeps; there is none. adaptive_decay says nothing without its target.) */
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
    "parse_tool_calls",
    "reasoning_format",
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
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_decoding_backend",
    "grammar",
    "json_schema",
    "request_id",
    "reasoning_effort",
    "cache_prompt",
    "prompt_cache_key",
    "safety_identifier",
    "chat_template",
    "id_slot",
    "n_keep",
    "n_discard",
    "adaptive_decay",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dynatemp_range",
    "dynatemp_exponent",
    "top_n_sigma",
    "min_keep",
    "samplers",
    "allowed_token_ids",
    "bad_words",
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "spaces_between_special_tokens",
    "return_tokens_as_token_ids",
    "timings_per_token",
    "return_progress",
    "t_max_predict_ms",
    "response_fields",
};

static bool is_neutral(const cJSON *node, enum neutral neutral)
{
    switch (neutral) {
    case NEUTRAL_NONE:
        return false;
    case NEUTRAL_FALSE:
        return cJSON_IsFalse(node);
    case NEUTRAL_ZERO:
        return cJSON_IsNumber(node) && node->valuedouble == 0;
    case NEUTRAL_ONE:
        return cJSON_IsNumber(node) && node->valuedouble == 1;
    case NEUTRAL_OFF:
        return cJSON_IsNumber(node) && node->valuedouble < 0;
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

bool api_check_min_tokens(const struct generate *generate, struct err *err)
{
    if (generate->max_tokens >= 0 && generate->min_tokens > generate->max_tokens)
        return err_set_field(err, ERR_REQUEST, "min_tokens",
                             "min_tokens must be at most max_tokens (%d), got %d",
                             generate->max_tokens, generate->min_tokens);
    return true;
}

void api_set_logprobs(struct generate *out, bool wanted, int32_t n_top)
{
    out->logprobs = wanted;
    out->sampling.n_top = wanted ? n_top : -1;
    if (out->n_seqs > out->n && !wanted)
        out->sampling.n_top = 0; /* the mean says which are best */
}

/* best_of sequences are computed, and the n best of them returned. */
static bool parse_counts(struct generate *out, const struct json_ref *root, struct err *err)
{
    int64_t n = 1, best_of = 0;
    if (!json_opt_int(root, "n", 1, API_N_MAX, &n, err) ||
        !json_opt_int(root, "best_of", 1, API_N_MAX, &best_of, err))
        return false;
    if (best_of != 0 && best_of < n)
        return err_set_field(err, ERR_REQUEST, "best_of", "best_of must be at least n (%d), got %d",
                             (int)n, (int)best_of);
    if (best_of > n && out->stream)
        return err_set_field(err, ERR_REQUEST, "best_of",
                             "best_of over n is not supported with stream: the best are known at "
                             "the end");
    out->n = (int32_t)n;
    out->n_seqs = best_of > n ? (int32_t)best_of : out->n;
    return true;
}

static bool parse_lengths(struct generate *out, const struct json_ref *root,
                          const struct api_model *model, struct err *err)
{
    struct json_ref at;
    int64_t max_tokens = -1, min_tokens = 0, truncate = 0, least = out->kind == API_CHAT ? 1 : 0;
    if (!json_opt_int(root, "max_tokens", least, INT32_MAX, &max_tokens, err) ||
        !json_opt_int(root, "max_completion_tokens", least, INT32_MAX, &max_tokens, err) ||
        !json_opt_int(root, "min_tokens", 0, INT32_MAX, &min_tokens, err))
        return false;
    if (min_tokens > model->ctx)
        return err_set_field(err, ERR_REQUEST, "min_tokens",
                             "min_tokens must be at most the context of %d tokens, got %lld",
                             model->ctx, (long long)min_tokens);
    if (json_get(root, "truncate_prompt_tokens", &at)) {
        if (!json_int(&at, -1, model->ctx - 1, &truncate, err))
            return false;
        if (truncate == 0)
            return json_error(&at, err, "must be from 1 to %d, or -1 for what the context allows",
                              model->ctx - 1);
    }
    out->max_tokens = (int32_t)max_tokens;
    out->min_tokens = (int32_t)min_tokens;
    out->truncate_prompt = (int32_t)truncate;
    return true;
}

bool api_fields_common(struct generate *out, const struct json_ref *root,
                       const struct api_model *model, struct arena *arena, struct err *err)
{
    int64_t priority = 0;
    out->cache_prompt = true;
    if (!json_is_object(root))
        return err_set(err, ERR_REQUEST, "the body must be a JSON object");
    if (!api_check_model(root, model, err) || !refuse_known(root, err) ||
        !api_fields_output(out, root, model, arena, err) ||
        !api_fields_sampling(out, root, model, arena, err) || !parse_counts(out, root, err) ||
        !parse_lengths(out, root, model, err) ||
        !json_opt_int(root, "priority", INT32_MIN, INT32_MAX, &priority, err) ||
        !json_opt_bool(root, "add_special_tokens", &out->add_special, err) ||
        !json_opt_bool(root, "cache_prompt", &out->cache_prompt, err) ||
        !json_opt_string(root, "cache_salt", &out->cache_salt, err))
        return false;
    out->priority = (int32_t)priority;
    out->n_unknown = count_unknown(root);
    return true;
}
