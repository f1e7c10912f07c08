/* text.c - tokenize, detokenize, apply-template, models: vLLM's and llama-server's spellings. */
#include "api/text.h"
#include <cjson/cJSON.h>
#include <string.h>
#include "host/base/utf8.h"

static bool need_object(const struct json_ref *root, struct err *err)
{
    return json_is_object(root) || err_set(err, ERR_REQUEST, "the body must be a JSON object");
}

static bool need_tokenizer(const struct api_model *model, struct err *err)
{
    return model->no_tokenizer[0] == 0 ||
           err_set(err, ERR_REQUEST, "this model has no tokenizer: %s", model->no_tokenizer);
}

static bool parse_messages(struct generate *chat, const struct json_ref *root,
                           const struct api_model *model, struct err *err)
{
    struct json_ref at;
    *chat = (struct generate){ .kind = API_CHAT };
    if (!json_get(root, "messages", &at))
        return json_error(&at, err, "is required: a list of messages");
    if (!api_check_messages(&at, err))
        return false;
    chat->messages = at.node;
    if (model->no_chat[0] != 0)
        return err_set_field(err, ERR_REQUEST, "messages",
                             "this model has no usable chat template: %s", model->no_chat);
    return api_template_fields(chat, root, model, err);
}

bool api_parse_tokenize(struct tokenize_request *out, struct cJSON *root_node,
                        const struct api_model *model, struct arena *arena, struct err *err)
{
    (void)arena;
    *out = (struct tokenize_request){ .parse_special = true };
    struct json_ref root = json_root(root_node), at;
    if (!need_object(&root, err) || !api_check_model(&root, model, err) ||
        !need_tokenizer(model, err))
        return false;
    if (json_get(&root, "messages", &at)) {
        if (!parse_messages(&out->chat, &root, model, err))
            return false;
    } else if (json_get(&root, "prompt", &at)) {
        out->add_special = true; /* vLLM's default */
        if (!json_string(&at, &out->text, err))
            return false;
    } else if (json_get(&root, "content", &at)) {
        if (!json_string(&at, &out->text, err)) /* llama-server: no BOS unless asked for */
            return false;
    } else {
        return err_set_field(err, ERR_REQUEST, "prompt",
                             "prompt (or content, or messages) is required: a string");
    }
    if (out->text != NULL)
        out->length = strlen(out->text);
    return json_opt_bool(&root, "add_special_tokens", &out->add_special, err) &&
           json_opt_bool(&root, "add_special", &out->add_special, err) &&
           json_opt_bool(&root, "parse_special", &out->parse_special, err) &&
           json_opt_bool(&root, "with_pieces", &out->with_pieces, err) &&
           json_opt_bool(&root, "return_token_strs", &out->with_strings, err);
}

static bool is_utf8(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        int n = utf8_step(text + i, length - i);
        if (n < 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

/* llama-server: a piece is a string, or a list of bytes where it is not UTF-8. */
static void write_piece(struct buf *out, const char *bytes, size_t length)
{
    if (is_utf8(bytes, length)) {
        buf_put_json_string(out, bytes, length);
        return;
    }
    buf_putc(out, '[');
    for (size_t i = 0; i < length; i++)
        buf_printf(out, "%s%d", i ? "," : "", (unsigned char)bytes[i]);
    buf_putc(out, ']');
}

void api_write_tokenize(struct buf *out, const struct tokenize_request *request, const int32_t *ids,
                        int32_t n_ids, const char *const *pieces, const size_t *piece_lengths,
                        int32_t ctx)
{
    buf_printf(out, "{\"count\":%d,\"max_model_len\":%d,\"tokens\":[", (int)n_ids, (int)ctx);
    for (int32_t i = 0; i < n_ids; i++) {
        buf_puts(out, i ? "," : "");
        if (!request->with_pieces) {
            buf_printf(out, "%d", (int)ids[i]);
            continue;
        }
        buf_printf(out, "{\"id\":%d,\"piece\":", (int)ids[i]);
        write_piece(out, pieces[i], piece_lengths[i]);
        buf_putc(out, '}');
    }
    buf_puts(out, "],\"token_strs\":");
    if (request->with_strings) {
        for (int32_t i = 0; i < n_ids; i++) {
            buf_puts(out, i ? "," : "[");
            buf_put_json_string(out, pieces[i], piece_lengths[i]);
        }
        buf_puts(out, n_ids ? "]" : "[]");
    } else {
        buf_puts(out, "null");
    }
    buf_putc(out, '}');
}

bool api_parse_detokenize(struct detokenize_request *out, struct cJSON *root_node,
                          const struct api_model *model, struct arena *arena, struct err *err)
{
    *out = (struct detokenize_request){ 0 };
    struct json_ref root = json_root(root_node), at;
    if (!need_object(&root, err) || !api_check_model(&root, model, err) ||
        !need_tokenizer(model, err))
        return false;
    if (!json_get(&root, "tokens", &at))
        return json_error(&at, err, "is required: a list of token ids");
    if (!json_is_array(&at))
        return json_error(&at, err, "must be a list of token ids");
    return api_token_list(&at, model->vocab, 1 << 20, arena, &out->ids, &out->n_ids, err);
}

/* "prompt" is vLLM's name for the text, "content" llama-server's. */
void api_write_detokenize(struct buf *out, const char *text, size_t length)
{
    buf_puts(out, "{\"prompt\":");
    buf_put_json_string(out, text, length);
    buf_puts(out, ",\"content\":");
    buf_put_json_string(out, text, length);
    buf_putc(out, '}');
}

bool api_parse_apply_template(struct generate *out, struct cJSON *root_node,
                              const struct api_model *model, struct arena *arena, struct err *err)
{
    (void)arena;
    *out = (struct generate){ .kind = API_CHAT };
    struct json_ref root = json_root(root_node);
    return need_object(&root, err) && api_check_model(&root, model, err) &&
           need_tokenizer(model, err) && parse_messages(out, &root, model, err);
}

void api_write_apply_template(struct buf *out, const char *text, size_t length)
{
    buf_puts(out, "{\"prompt\":");
    buf_put_json_string(out, text, length);
    buf_putc(out, '}');
}

void api_write_models(struct buf *out, const struct api_model *model)
{
    buf_puts(out, "{\"object\":\"list\",\"data\":[{\"id\":");
    buf_put_json_string(out, model->id, strlen(model->id));
    buf_printf(
        out,
        ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"nibble\",\"max_model_len\":%d,"
        "\"meta\":{\"n_vocab\":%d,\"n_ctx_train\":%d}}]}",
        (long long)model->created_s, (int)model->ctx, (int)model->vocab, (int)model->ctx);
}
