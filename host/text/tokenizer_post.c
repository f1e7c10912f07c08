/* tokenizer_post.c - the post-processor of a tokenizer.json: ids that are put around a text. */
#include <string.h>
#include "host/text/tokenizer_load.h"

/* The ids of a template's special token, from its table. */
static bool template_ids(struct load *load, const struct json_ref *node, const char *name,
                         const struct json_ref *named_at, struct ids *out)
{
    struct json_ref table, token, ids, item;
    if (!load_must_get(load, node, "special_tokens", &table))
        return false;
    if (!json_get(&table, name, &token) || !json_get(&token, "ids", &ids) || !json_is_array(&ids))
        return json_error(named_at, load->err, "is \"%.60s\", which special_tokens has no ids of",
                          name);
    for (bool more = json_first(&ids, &item); more; more = json_next(&item)) {
        int64_t id;
        if (!json_int(&item, 0, VOCAB_IDS_MAX - 1, &id, load->err))
            return false;
        if (id >= load->tokenizer->vocab.n)
            return json_error(&item, load->err, "is %lld, which is no token", (long long)id);
        if (!ids_push(out, (int32_t)id))
            return load_no_memory(load);
    }
    return true;
}

/* Each processor of a sequence puts its ids around what is there. */
static bool wrap(struct load *load, const struct ids *before, const struct ids *after)
{
    struct tokenizer *t = load->tokenizer;
    for (size_t i = 0; i < after->n; i++)
        if (!ids_push(&t->suffix, after->ids[i]))
            return load_no_memory(load);
    for (size_t i = 0; i < before->n; i++) {
        if (!ids_push(&t->prefix, 0))
            return load_no_memory(load);
        memmove(t->prefix.ids + i + 1, t->prefix.ids + i,
                (t->prefix.n - i - 1) * sizeof *t->prefix.ids);
        t->prefix.ids[i] = before->ids[i];
    }
    return true;
}

static bool read_template(struct load *load, const struct json_ref *node)
{
    struct json_ref single, item, body, at;
    struct ids sides[2] = { 0 };
    int32_t n_texts = 0;
    bool ok = false;
    if (!load_must_get(load, node, "single", &single))
        return false;
    if (!json_is_array(&single))
        return json_error(&single, load->err, "must be a list");
    for (bool more = json_first(&single, &item); more; more = json_next(&item)) {
        const char *name;
        bool text = json_get(&item, "Sequence", &body);
        if (!text && !load_must_get(load, &item, "SpecialToken", &body))
            goto done;
        json_get(&body, "id", &at);
        if (!json_string(&at, &name, load->err))
            goto done;
        if (!text) {
            if (!template_ids(load, node, name, &at, &sides[n_texts > 0]))
                goto done;
            continue;
        }
        n_texts++;
        if (strcmp(name, "A") != 0) {
            json_error(&at, load->err, "is \"%.20s\", want \"A\"", name);
            goto done;
        }
    }
    if (n_texts != 1) {
        load_unsupported(load, &single, "must have the text exactly once");
        goto done;
    }
    ok = wrap(load, &sides[0], &sides[1]);
done:
    ids_clear(&sides[0]);
    ids_clear(&sides[1]);
    return ok;
}

/* RobertaProcessing, BertProcessing: "cls" and "sep" are [text, id]. */
static bool read_cls_sep(struct load *load, const struct json_ref *node)
{
    static const char *const KEYS[2] = { "cls", "sep" };
    struct ids sides[2] = { 0 };
    bool ok = false;
    for (int i = 0; i < 2; i++) {
        struct json_ref pair, item;
        int64_t id = -1;
        int n = 0;
        if (!load_must_get(load, node, KEYS[i], &pair))
            goto done;
        for (bool more = json_is_array(&pair) && json_first(&pair, &item); more && n < 2;
             more = json_next(&item), n++)
            if (n == 1 && !json_int(&item, 0, load->tokenizer->vocab.n - 1, &id, load->err))
                goto done;
        if (id < 0) {
            json_error(&pair, load->err, "must be a text and an id");
            goto done;
        }
        if (!ids_push(&sides[i], (int32_t)id)) {
            load_no_memory(load);
            goto done;
        }
    }
    ok = wrap(load, &sides[0], &sides[1]);
done:
    ids_clear(&sides[0]);
    ids_clear(&sides[1]);
    return ok;
}

bool load_post(struct load *load, const struct json_ref *node, int32_t depth)
{
    struct json_ref at, list, item;
    const char *type;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, load->err))
        return false;
    if (strcmp(type, "ByteLevel") == 0)
        return true; /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(load, node);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_cls_sep(load, node);
    if (strcmp(type, "Sequence") != 0) {
        json_error(&at, load->err, "\"%.40s\" is not supported", type);
        load->err->code = ERR_UNSUPPORTED;
        return false;
    }
    if (!load_must_get(load, node, "processors", &list))
        return false;
    if (!json_is_array(&list) || depth > 8)
        return json_error(&list, load->err, "must be a list, nested at most 8 deep");
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        if (!load_post(load, &item, depth + 1))
            return false;
    return true;
}
