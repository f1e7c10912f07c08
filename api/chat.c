/* chat.c - POST /v1/chat/completions: messages checked, template fields, log-probabilities. */
#include "api/generate.h"
#include <cjson/cJSON.h>
#include <string.h>
#include "host/base/buf.h"

static const char *const roles[] = { "system", "developer", "user",   "assistant",
                                     "tool",   "function",  "ipython" };

/* Variables of the template that a request may not shadow (vLLM CVE-2025-62426: `tokenize`). */
static const char *const reserved[] = {
    "messages",
    "tools",
    "documents",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "add_generation_prompt",
    "continue_final_message",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "tokenize",
    "chat_template",
    "loop",
    "self",
    "dict",
    "true",
    "false",
    "none",
};

/* [{"type":"text","text":...}, ...] -> one string, parts joined by line feeds (as vLLM does for
 * templates that want strings). */
static bool join_parts(const struct json_ref *content, struct err *err)
{
    struct buf text;
    buf_init(&text, (size_t)64 << 20);
    struct json_ref part;
    bool any = false;
    for (bool more = json_first(content, &part); more; more = json_next(&part)) {
        const char *type = NULL, *piece = NULL;
        struct json_ref at;
        if (!json_is_object(&part)) {
            json_error(&part, err, "must be an object like {\"type\": \"text\", \"text\": ...}");
            goto fail;
        }
        if (!json_opt_string(&part, "type", &type, err))
            goto fail;
        if (type == NULL || strcmp(type, "text") != 0) {
            json_error(&part, err, "has the type \"%.40s\"; this server takes text parts only",
                       type ? type : "null");
            goto fail;
        }
        if (!json_get(&part, "text", &at)) {
            json_error(&at, err, "is required in a text part");
            goto fail;
        }
        if (!json_string(&at, &piece, err))
            goto fail;
        if (any)
            buf_putc(&text, '\n');
        buf_puts(&text, piece);
        any = true;
    }
    if (text.failed) {
        err_set(err, ERR_MEMORY, "no memory for message text");
        goto fail;
    }
    /* The node becomes a string in place: templates then see what they would for a plain one. */
    cJSON *node = (cJSON *)(uintptr_t)content->node;
    cJSON *copy = cJSON_CreateString(buf_text(&text));
    if (copy == NULL) {
        err_set(err, ERR_MEMORY, "no memory for message text");
        goto fail;
    }
    cJSON_Delete(node->child);
    node->child = NULL;
    node->type = (node->type & cJSON_StringIsConst) | cJSON_String;
    node->valuestring = copy->valuestring;
    copy->valuestring = NULL;
    cJSON_Delete(copy);
    buf_clear(&text);
    return true;
fail:
    buf_clear(&text);
    return false;
}

static bool check_tool_calls(const struct json_ref *calls, struct err *err)
{
    if (!json_is_array(calls))
        return json_error(calls, err, "must be a list");
    struct json_ref call;
    for (bool more = json_first(calls, &call); more; more = json_next(&call)) {
        struct json_ref function, at;
        const char *name;
        if (!json_is_object(&call))
            return json_error(&call, err, "must be an object");
        if (!json_get(&call, "function", &function) || !json_is_object(&function))
            return json_error(&function, err, "must be an object with name and arguments");
        if (!json_get(&function, "name", &at))
            return json_error(&at, err, "is required");
        if (!json_string(&at, &name, err))
            return false;
        if (json_get(&function, "arguments", &at) && !json_is_string(&at) && !json_is_object(&at))
            return json_error(&at, err, "must be a string of JSON");
    }
    return true;
}

static bool check_message(const struct json_ref *message, struct err *err)
{
    struct json_ref at, content, calls;
    const char *role;
    if (!json_is_object(message))
        return json_error(message, err, "must be an object with role and content");
    if (!json_get(message, "role", &at))
        return json_error(&at, err, "is required");
    if (!json_string(&at, &role, err))
        return false;
    bool known = false;
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        known = known || strcmp(role, roles[i]) == 0;
    if (!known)
        return json_error(&at, err,
                          "must be one of system, developer, user, assistant, tool, function, got "
                          "\"%.40s\"",
                          role);
    bool has_calls = json_get(message, "tool_calls", &calls);
    if (has_calls && !check_tool_calls(&calls, err))
        return false;
    if (!json_get(message, "content", &content)) {
        if (has_calls || strcmp(role, "assistant") == 0)
            return true;
        return json_error(&content, err, "is required for the role %s: a string or text parts",
                          role);
    }
    if (json_is_string(&content))
        return true;
    if (json_is_array(&content))
        return join_parts(&content, err);
    return json_error(&content, err, "must be a string or a list of text parts");
}

bool api_check_messages(const struct json_ref *messages, struct err *err)
{
    if (!json_is_array(messages))
        return json_error(messages, err, "must be a list of messages");
    struct json_ref message;
    int32_t n = 0;
    for (bool more = json_first(messages, &message); more; more = json_next(&message), n++)
        if (!check_message(&message, err))
            return false;
    if (n == 0)
        return json_error(messages, err, "must have at least one message");
    return true;
}

bool api_template_fields(struct generate *out, const struct json_ref *root,
                         const struct api_model *model, struct err *err)
{
    struct json_ref at, key;
    out->add_generation_prompt = true;
    if (!tool_arguments((cJSON *)(uintptr_t)out->messages, model->string_arguments, err))
        return false;
    if (json_get(root, "tools", &at)) {
        if (!api_check_tools(&at, err))
            return false;
        if (json_count(&at) > 0)
            out->tools = at.node;
    }
    if (json_get(root, "documents", &at)) {
        if (!json_is_array(&at))
            return json_error(&at, err, "must be a list");
        out->documents = at.node;
    }
    if (json_get(root, "chat_template_kwargs", &at)) {
        if (!json_is_object(&at))
            return json_error(&at, err, "must be an object");
        for (bool more = json_first(&at, &key); more; more = json_next(&key))
            for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
                if (strcmp(key.key, reserved[i]) == 0)
                    return json_error(&key, err,
                                      "is a name of the template's own and cannot be set");
        out->variables = at.node;
    }
    struct json_ref generation;
    bool given = json_get(root, "add_generation_prompt", &generation);
    if (!json_opt_bool(root, "add_generation_prompt", &out->add_generation_prompt, err) ||
        !json_opt_bool(root, "continue_final_message", &out->continue_final_message, err))
        return false;
    if (out->continue_final_message) {
        if (given && out->add_generation_prompt)
            return err_set_field(
                err, ERR_REQUEST, "continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other");
        out->add_generation_prompt = false;
    }
    return true;
}

bool api_parse_chat(struct generate *out, struct cJSON *root_node, const struct api_model *model,
                    struct arena *arena, struct err *err)
{
    *out = (struct generate){ .kind = API_CHAT };
    struct json_ref root = json_root(root_node), at;
    if (!json_is_object(&root))
        return err_set(err, ERR_REQUEST, "the body must be a JSON object");
    if (!api_check_model(&root, model, err))
        return false;
    if (json_get(&root, "prompt", &at) && !json_get(&root, "messages", &at))
        return err_set_field(err, ERR_REQUEST, "prompt",
                             "prompt belongs to completions; use messages");
    if (!json_get(&root, "messages", &at))
        return json_error(&at, err, "is required: a list of messages");
    if (!api_check_messages(&at, err))
        return false;
    out->messages = at.node;
    if (!api_fields_common(out, &root, model, arena, err) ||
        !api_template_fields(out, &root, model, err) || !api_tool_fields(out, &root, model, err))
        return false;
    if (json_get(&root, "echo", &at)) {
        bool echo;
        if (!json_bool(&at, &echo, err))
            return false;
        if (echo)
            return json_error(&at, err, "is not supported for chat; use /v1/completions");
    }
    if (model->no_tokenizer[0] != 0)
        return err_set_field(
            err, ERR_REQUEST, "messages",
            "chat needs a tokenizer, and this model has none (%s): send token ids to "
            "/v1/completions",
            model->no_tokenizer);
    if (model->no_chat[0] != 0)
        return err_set_field(err, ERR_REQUEST, "messages",
                             "this model has no usable chat template (%s): use /v1/completions",
                             model->no_chat);
    bool logprobs = false;
    int64_t n_top = 0;
    if (!json_opt_bool(&root, "logprobs", &logprobs, err) ||
        !json_opt_int(&root, "top_logprobs", 0, API_TOP_MAX, &n_top, err))
        return false;
    if (n_top > 0 && !logprobs)
        return err_set_field(err, ERR_REQUEST, "top_logprobs", "top_logprobs needs logprobs: true");
    api_set_logprobs(out, logprobs, (int32_t)n_top);
    if (out->max_tokens < 0 && model->max_tokens > 0)
        out->max_tokens = model->max_tokens;
    return api_check_min_tokens(out, err);
}
