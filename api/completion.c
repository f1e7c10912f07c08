/* completion.c - POST /v1/completions: prompt as string, list of strings, token ids, list of lists.
 */
#include "api/generate.h"
#include <cjson/cJSON.h>
#include <string.h>

static bool text_prompt(struct api_prompt *prompt, const struct json_ref *at,
                        const struct api_model *model, struct err *err)
{
    if (model->no_tokenizer[0] != 0)
        return json_error(at, err, "is text, but this model has no tokenizer (%s): send token ids",
                          model->no_tokenizer);
    if (!json_string(at, &prompt->text, err))
        return false;
    prompt->length = strlen(prompt->text);
    return true;
}

static bool id_prompt(struct api_prompt *prompt, const struct json_ref *at,
                      const struct api_model *model, struct arena *arena, struct err *err)
{
    if (json_count(at) == 0)
        return json_error(at, err, "must have at least one token id");
    /* Whether it fits the context is said where text prompts are measured too, with both numbers.
     */
    return api_token_list(at, model->vocab, INT32_MAX, arena, &prompt->ids, &prompt->n_ids, err);
}

static bool parse_prompts(struct generate *out, const struct json_ref *root,
                          const struct api_model *model, struct arena *arena, struct err *err)
{
    struct json_ref list, first, at;
    if (!json_get(root, "prompt", &list))
        return json_error(&list, err,
                          "is required: a string, a list of strings, a list of token ids, "
                          "or a list of such lists");
    bool is_list = json_is_array(&list);
    bool has_first = is_list && json_first(&list, &first);
    bool many = has_first && (json_is_string(&first) || json_is_array(&first));
    int64_t n = many ? json_count(&list) : 1;
    if (n > API_PROMPTS_MAX)
        return json_error(&list, err, "has %lld prompts, at most %d are allowed", (long long)n,
                          API_PROMPTS_MAX);
    out->prompts = arena_take(arena, (size_t)n, sizeof *out->prompts);
    if (out->prompts == NULL)
        return err_set(err, ERR_MEMORY, "no memory for prompts");
    if (json_is_string(&list)) {
        out->n_prompts = 1;
        return text_prompt(&out->prompts[0], &list, model, err);
    }
    if (!is_list)
        return json_error(&list, err,
                          "must be a string, a list of strings, a list of token ids, or a "
                          "list of such lists");
    if (!many) {
        out->n_prompts = 1;
        return id_prompt(&out->prompts[0], &list, model, arena, err);
    }
    bool text = json_is_string(&first);
    for (bool more = json_first(&list, &at); more; more = json_next(&at)) {
        struct api_prompt *prompt = &out->prompts[out->n_prompts++];
        if (text ? !json_is_string(&at) : !json_is_array(&at))
            return json_error(&at, err, "must be %s like the first element",
                              text ? "a string" : "a list of token ids");
        if (text ? !text_prompt(prompt, &at, model, err)
                 : !id_prompt(prompt, &at, model, arena, err))
            return false;
    }
    return true;
}

bool api_parse_completion(struct generate *out, struct cJSON *root_node,
                          const struct api_model *model, struct arena *arena, struct err *err)
{
    *out = (struct generate){ .kind = API_COMPLETION, .add_special = true };
    struct json_ref root = json_root(root_node);
    if (!api_fields_common(out, &root, model, arena, err) ||
        !parse_prompts(out, &root, model, arena, err))
        return false;
    int64_t n_top = -1;
    struct json_ref at;
    if (json_get(&root, "logprobs", &at)) {
        /* llama.cpp clients send a boolean here; false is the same as absent. */
        if (json_is_bool(&at)) {
            bool wanted;
            if (!json_bool(&at, &wanted, err))
                return false;
            n_top = wanted ? 0 : -1;
        } else if (!json_int(&at, 0, API_TOP_MAX, &n_top, err)) {
            return false;
        }
    }
    if (json_get(&root, "top_logprobs", &at))
        return json_error(&at, err, "belongs to chat completions; use logprobs");
    if (json_get(&root, "messages", &at))
        return json_error(&at, err, "belongs to chat completions; use prompt");
    if (!json_opt_bool(&root, "echo", &out->echo, err))
        return false;
    api_set_logprobs(out, n_top >= 0, (int32_t)n_top);
    if (out->max_tokens < 0)
        out->max_tokens = 16; /* OpenAI's default for completions */
    if (!api_check_min_tokens(out, err))
        return false;
    if ((int64_t)out->n_seqs * out->n_prompts > API_PROMPTS_MAX)
        return err_set_field(err, ERR_REQUEST, "n",
                             "n (or best_of) * prompts must be at most %d, got %lld",
                             API_PROMPTS_MAX, (long long)out->n_seqs * out->n_prompts);
    return true;
}
