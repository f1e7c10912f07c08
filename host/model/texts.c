/* texts.c - the small files beside the weights: sampling defaults, tokenizer, chat template.
 *
 * generation_config.json must be right where it exists, since a wrong eos id never ends a text. A
 * missing or unusable tokenizer or template is no error: the server then serves token ids, or
 * completions only, and says why. Called by model_open. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"
#include "host/base/log.h"
#include "host/model/state.h"
#include "host/text/tokenizer_folder.h"

static const char GENERATION[] = "generation_config.json";
static const char TOKENIZER_CONFIG[] = "tokenizer_config.json";
static const char SPECIAL_TOKENS[] = "special_tokens_map.json";

static bool opt_float(const struct json_ref *root, const char *key, double low, double high,
                      float *value, struct err *err)
{
    double found = (double)*value;
    if (!json_opt_double(root, key, low, high, &found, err))
        return false;
    *value = (float)found;
    return true;
}

static bool read_generation(struct model *model, const struct json_ref *root, struct err *err)
{
    struct model_defaults *d = &model->defaults;
    const int32_t vocab = model->config.vocab;
    int64_t top_k = 0, max_tokens = 0, bos = model->bos;
    bool sample = true;
    struct json_ref item;
    if (!json_is_object(root))
        return err_set(err, ERR_FORMAT, "must be an object");
    if (!opt_float(root, "temperature", 0, 100, &d->temperature, err) ||
        !opt_float(root, "top_p", 1e-6, 1, &d->top_p, err) ||
        !opt_float(root, "min_p", 0, 1, &d->min_p, err) ||
        !opt_float(root, "typical_p", 1e-6, 1, &d->typical_p, err) ||
        !opt_float(root, "repetition_penalty", 1e-3, 100, &d->repetition_penalty, err) ||
        !json_opt_int(root, "top_k", -1, INT32_MAX, &top_k, err) ||
        !json_opt_int(root, "max_new_tokens", 1, INT32_MAX, &max_tokens, err) ||
        !json_opt_bool(root, "do_sample", &sample, err) ||
        !json_opt_int(root, "bos_token_id", -1, vocab - 1, &bos, err) ||
        !config_read_eos(root, vocab, model->eos, &model->n_eos, err))
        return false;
    /* "do_sample": false alone means greedy. A temperature beside it is taken at its word, as in
     * vLLM, which does not look at do_sample. */
    if (!sample && !json_get(root, "temperature", &item))
        d->temperature = 0;
    d->top_k = top_k < 0 ? 0 : (int32_t)top_k;
    d->max_tokens = (int32_t)max_tokens;
    model->bos = (int32_t)bos;
    return true;
}

/* What ends a text is the union of both files: chat models list more in generation_config. */
static bool read_defaults(struct model *model, const struct hf_text *text, struct err *err)
{
    const struct config *config = &model->config;
    static_assert((int)EOS_MAX == (int)CONFIG_EOS_MAX, "one list");
    model->defaults = (struct model_defaults){
        .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1
    };
    model->bos = config->bos;
    model->n_eos = config->n_eos;
    memcpy(model->eos, config->eos, sizeof model->eos);
    if (text->size == 0)
        return true;
    struct cJSON *tree = NULL;
    bool ok = json_parse(text->bytes, text->size, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err);
    if (ok) {
        const struct json_ref root = json_root(tree);
        ok = read_generation(model, &root, err);
    }
    json_free(tree);
    if (!ok)
        config_file_error(err, GENERATION);
    return ok;
}

/* "bos_token": a string, or {"content": ...}; anything else is as if absent. */
static bool read_token_text(const struct json_ref *root, const char *key, char **text,
                            struct err *err)
{
    struct json_ref item, content;
    const char *found = NULL;
    if (*text != NULL || !json_get(root, key, &item))
        return true;
    if (json_is_object(&item) && json_get(&item, "content", &content))
        item = content;
    struct err ignored;
    if (!json_string(&item, &found, &ignored))
        return true;
    *text = strdup(found);
    return *text != NULL || err_set(err, ERR_MEMORY, "no memory for %s", key);
}

static bool read_token_texts(struct model *model, const struct json_ref *root, struct err *err)
{
    return read_token_text(root, "bos_token", &model->bos_text, err) &&
           read_token_text(root, "eos_token", &model->eos_text, err) &&
           read_token_text(root, "unk_token", &model->unk_text, err) &&
           read_token_text(root, "pad_token", &model->pad_text, err);
}

static bool copy_source(struct model *model, const char *bytes, size_t size, struct err *err)
{
    model->chat_source = malloc(size + 1);
    if (model->chat_source == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a chat template of %zu bytes", size);
    memcpy(model->chat_source, bytes, size);
    model->chat_source[size] = 0;
    return true;
}

/* Token texts, and the template where there is no file of its own. A file that is no JSON costs
 * what it would have told: *reason says so. Only memory is an error. */
static bool read_token_file(struct model *model, const struct hf_text *text, const char *name,
                            bool template, char reason[256], struct err *err)
{
    if (text->size == 0)
        return true;
    struct cJSON *tree = NULL;
    struct err why;
    if (!json_parse(text->bytes, text->size, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &why)) {
        snprintf(reason, 256, "%s: %.200s", name, why.text);
        log_warn("tokenizer_config", "file=%s reason=%s", name, why.text);
        return true;
    }
    const struct json_ref root = json_root(tree);
    bool ok = true;
    if (json_is_object(&root)) {
        const char *source = NULL;
        ok = read_token_texts(model, &root, err);
        if (ok && template && chat_template_source(tree, &source))
            ok = copy_source(model, source, strlen(source), err);
    }
    json_free(tree);
    return ok;
}

static bool open_tokenizer(struct model *model, const struct hf_folder *folder, struct err *err)
{
    struct err why;
    if (!tokenizer_open_folder(&model->tokenizer, folder, &why)) {
        model->tokenizer = NULL;
    } else if (tokenizer_size(model->tokenizer) > model->config.vocab) {
        /* A text could turn into an id that the table of embeddings does not have. */
        err_set(&why, ERR_FORMAT, "the tokenizer has ids up to %d, the model has %d embeddings",
                tokenizer_size(model->tokenizer) - 1, model->config.vocab);
        tokenizer_close(model->tokenizer);
        model->tokenizer = NULL;
    } else {
        return true;
    }
    if (why.code == ERR_MEMORY) {
        *err = why;
        return false;
    }
    snprintf(model->tokenizer_reason, sizeof model->tokenizer_reason, "%.250s", why.text);
    if (why.code == ERR_NOT_FOUND)
        return true;
    log_warn("tokenizer", "reason=%s", model->tokenizer_reason);
    return true;
}

/* A template that fails on the simplest conversation is reported when the model is opened, not at
 * the first request. It stays: some want a system message, or parts instead of texts. */
static void try_chat(struct model *model)
{
    static const char MESSAGES[] = "[{\"role\":\"user\",\"content\":\"Hello\"}]";
    struct cJSON *messages = NULL;
    struct chat_text text = { 0 };
    struct err why;
    if (!json_parse(MESSAGES, sizeof MESSAGES - 1, &JSON_REQUEST_LIMITS, ERR_REQUEST, &messages,
                    &why))
        return;
    const struct chat_input input = { .messages = messages,
                                      .add_generation_prompt = true,
                                      .bos_token = model->bos_text,
                                      .eos_token = model->eos_text,
                                      .unk_token = model->unk_text,
                                      .pad_token = model->pad_text };
    if (!chat_render(model->chat, &input, &text, &why))
        log_warn("chat_template", "reason=\"fails on one user message: %.200s\"", why.text);
    chat_text_clear(&text);
    json_free(messages);
}

static bool open_chat(struct model *model, struct err *err)
{
    char *reason = model->chat_reason;
    const size_t size = sizeof model->chat_reason;
    if (model->tokenizer == NULL) {
        snprintf(reason, size, "%s", model->tokenizer_reason);
        return true;
    }
    if (model->chat_source == NULL) {
        if (reason[0] == 0)
            snprintf(reason, size, "the model has no chat template");
        return true;
    }
    size_t n_specials;
    const char *const *specials = tokenizer_specials(model->tokenizer, &n_specials);
    struct err why;
    if (chat_template_open(&model->chat, model->chat_source, strlen(model->chat_source), specials,
                           n_specials, &why)) {
        reason[0] = 0;
        try_chat(model);
        return true;
    }
    model->chat = NULL;
    if (why.code == ERR_MEMORY) {
        *err = why;
        return false;
    }
    snprintf(reason, size, "%.250s", why.text);
    log_warn("chat_template", "reason=%s", reason);
    return true;
}

bool model_read_texts(struct model *model, const struct hf_folder *folder, struct err *err)
{
    static const struct hf_folder no_files; /* a dummy has no folder */
    if (folder == NULL)
        folder = &no_files;
    if (!read_defaults(model, &folder->generation, err))
        return false;
    const struct hf_text *template = &folder->chat_template;
    if (template->size != 0 && memchr(template->bytes, 0, template->size) != NULL)
        snprintf(model->chat_reason, sizeof model->chat_reason, "the chat template has a NUL byte");
    else if (template->size != 0 && !copy_source(model, template->bytes, template->size, err))
        return false;
    return read_token_file(model, &folder->tokenizer_config, TOKENIZER_CONFIG,
                           model->chat_source == NULL, model->chat_reason, err) &&
           read_token_file(model, &folder->special_tokens, SPECIAL_TOKENS, false,
                           model->chat_reason, err) &&
           open_tokenizer(model, folder, err) && open_chat(model, err);
}

void model_clear_texts(struct model *model)
{
    tokenizer_close(model->tokenizer);
    chat_template_close(model->chat);
    free(model->chat_source);
    free(model->bos_text);
    free(model->eos_text);
    free(model->unk_text);
    free(model->pad_text);
}
