/* fields_output.c - request fields about what comes back: where text ends, streams, shapes of
 * replies.
 */
#include "api/fields.h"
#include <string.h>

bool api_string_list(const struct json_ref *list, const struct api_string_limits *limits,
                     struct arena *arena, struct api_stop **strings, int32_t *n, struct err *err)
{
    struct json_ref at;
    bool single = json_is_string(list);
    if (!(limits->single && single) && !json_is_array(list))
        return json_error(list, err, "must be %sa list of strings",
                          limits->single ? "a string or " : "");
    int64_t count = single ? 1 : json_count(list);
    if (count > limits->n_max)
        return json_error(list, err, "has %lld strings, at most %d are allowed", (long long)count,
                          limits->n_max);
    *n = 0;
    *strings = arena_take(arena, (size_t)count + 1, sizeof **strings);
    if (*strings == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %lld strings", (long long)count);
    bool more = true;
    if (single)
        at = *list;
    else
        more = json_first(list, &at);
    for (; more; more = !single && json_next(&at)) {
        const char *text;
        if (!json_string(&at, &text, err))
            return false;
        size_t length = strlen(text);
        if (length == 0 || length > (size_t)limits->bytes_max)
            return json_error(&at, err, "must have 1 to %d bytes, got %zu", limits->bytes_max,
                              length);
        (*strings)[(*n)++] = (struct api_stop){ text, length };
    }
    return true;
}

static bool parse_stop(struct generate *out, const struct json_ref *root,
                       const struct api_model *model, struct arena *arena, struct err *err)
{
    static const struct api_string_limits limits = { API_STOPS_MAX, API_STOP_BYTES_MAX, true };
    struct json_ref at;
    if (json_get(root, "stop", &at) &&
        !api_string_list(&at, &limits, arena, &out->stops, &out->n_stops, err))
        return false;
    if (out->n_stops > 0 && model->no_tokenizer[0] != 0)
        return err_set_field(err, ERR_REQUEST, "stop", "stop strings need a tokenizer: %s",
                             model->no_tokenizer);
    if (!json_get(root, "stop_token_ids", &at))
        return true;
    if (!json_is_array(&at))
        return json_error(&at, err, "must be a list of token ids");
    return api_token_list(&at, model->vocab, API_STOP_TOKENS_MAX, arena, &out->stop_tokens,
                          &out->n_stop_tokens, err);
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

/* llama-server's: the members of the reply that are wanted, "usage" or "timings/prompt_ms". */
static bool parse_response_fields(struct generate *out, const struct json_ref *root,
                                  struct arena *arena, struct err *err)
{
    static const struct api_string_limits limits = { API_RESPONSE_FIELDS_MAX, 256, false };
    struct json_ref at;
    if (!json_get(root, "response_fields", &at))
        return true;
    if (!api_string_list(&at, &limits, arena, &out->response_fields, &out->n_response_fields, err))
        return false;
    if (out->stream && out->n_response_fields > 0)
        return json_error(&at, err, "is not supported with stream: events keep their shape");
    return true;
}

static bool parse_prompt_logprobs(struct generate *out, const struct json_ref *root,
                                  struct err *err)
{
    struct json_ref at;
    int64_t n;
    out->prompt_logprobs = -1;
    if (!json_get(root, "prompt_logprobs", &at))
        return true;
    if (!json_int(&at, 0, API_TOP_MAX, &n, err))
        return false;
    if (out->stream)
        return json_error(&at, err, "is not supported with stream");
    out->prompt_logprobs = (int32_t)n;
    return true;
}

static bool parse_request_id(struct generate *out, const struct json_ref *root, struct err *err)
{
    struct json_ref at;
    if (!json_get(root, "request_id", &at))
        return true;
    if (!json_string(&at, &out->request_id, err))
        return false;
    return api_request_id_is_fine(out->request_id) ||
           json_error(&at, err, "must have 1 to 128 letters, digits, dots, dashes or underscores");
}

bool api_request_id_is_fine(const char *id)
{
    size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return n >= 1 && n <= 128 && id[n] == 0;
}

bool api_fields_output(struct generate *out, const struct json_ref *root,
                       const struct api_model *model, struct arena *arena, struct err *err)
{
    bool spaces = true;
    int64_t predict_ms = 0;
    out->skip_special = true;
    if (!parse_stream(out, root, err) || !parse_stop(out, root, model, arena, err) ||
        !structured_parse(&out->structured, root, arena, err) ||
        !parse_response_fields(out, root, arena, err) || !parse_prompt_logprobs(out, root, err) ||
        !parse_request_id(out, root, err) ||
        !json_opt_bool(root, "ignore_eos", &out->ignore_eos, err) ||
        !json_opt_bool(root, "return_token_ids", &out->return_token_ids, err) ||
        !json_opt_bool(root, "return_tokens_as_token_ids", &out->tokens_as_ids, err) ||
        !json_opt_bool(root, "skip_special_tokens", &out->skip_special, err) ||
        !json_opt_bool(root, "spaces_between_special_tokens", &spaces, err) ||
        !json_opt_bool(root, "include_stop_str_in_output", &out->include_stop, err) ||
        !json_opt_bool(root, "timings_per_token", &out->timings_per_token, err) ||
        !json_opt_bool(root, "return_progress", &out->return_progress, err) ||
        !json_opt_int(root, "t_max_predict_ms", -1, INT32_MAX, &predict_ms, err))
        return false;
    if (out->structured.kind != STRUCTURED_NONE && model->no_tokenizer[0] != 0)
        return err_set_field(err, ERR_REQUEST, out->structured.field, "%s needs a tokenizer: %s",
                             out->structured.field, model->no_tokenizer);
    out->tight_specials = !spaces && !out->skip_special;
    out->predict_ms_max = predict_ms > 0 ? (int32_t)predict_ms : 0;
    return true;
}
