/* tokenizer_config.c - added tokens and ends of a text, from tokenizer_config.json. */
#include "host/text/tokenizer_config.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/added.h"
#include "host/text/vocab.h"

static bool read_flags(const struct json_ref *token, unsigned *flags, struct err *err)
{
    static const struct {
        const char *key;
        unsigned flag;
    } FLAGS[] = { { "single_word", ADDED_SINGLE_WORD },
                  { "lstrip", ADDED_LSTRIP },
                  { "rstrip", ADDED_RSTRIP },
                  { "special", ADDED_SPECIAL } };
    *flags = 0;
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        bool value = false;
        if (!json_opt_bool(token, FLAGS[i].key, &value, err))
            return false;
        *flags |= value ? FLAGS[i].flag : 0;
    }
    return true;
}

/* The keys are ids: plain digits. */
static bool read_id(const struct json_ref *token, int32_t *id, struct err *err)
{
    const char *key = token->key ? token->key : "";
    char *end;
    errno = 0;
    long value = strtol(key, &end, 10);
    if (key[0] < '0' || key[0] > '9' || *end || errno != 0 || value >= VOCAB_IDS_MAX)
        return json_error(token, err, "must have an id from 0 to %d for its key",
                          VOCAB_IDS_MAX - 1);
    *id = (int32_t)value;
    return true;
}

bool config_added(struct tokenizer_build *build, const struct json_ref *config, struct err *err)
{
    struct json_ref list, token, content;
    if (!config || !json_get(config, "added_tokens_decoder", &list))
        return true;
    if (!json_is_object(&list))
        return json_error(&list, err, "must be an object");
    size_t n = (size_t)json_count(&list);
    struct build_added *added = calloc(n + 1, sizeof *added);
    if (!added)
        return err_set(err, ERR_MEMORY, "no memory for %zu added tokens", n);
    size_t at = 0;
    bool ok = true;
    for (bool more = json_first(&list, &token); ok && more; more = json_next(&token)) {
        struct build_added *a = &added[at++];
        ok = json_is_object(&token) || json_error(&token, err, "must be an object");
        if (!ok)
            break;
        json_get(&token, "content", &content);
        ok = read_id(&token, &a->id, err) && json_string(&content, &a->text, err) &&
             read_flags(&token, &a->flags, err);
        if (ok && a->text[0] == 0)
            at--; /* it can never be found in a text */
        else if (ok && strlen(a->text) > VOCAB_TOKEN_MAX)
            ok = json_error(&content, err, "is longer than %d bytes", VOCAB_TOKEN_MAX);
    }
    if (!ok) {
        free(added);
        return false;
    }
    build->added = added;
    build->n_added = at;
    return true;
}

bool config_ends(struct tokenizer_build *build, const struct json_ref *config, bool bos_default,
                 bool eos_default, struct err *err)
{
    bool bos = bos_default, eos = eos_default;
    if (config && (!json_opt_bool(config, "add_bos_token", &bos, err) ||
                   !json_opt_bool(config, "add_eos_token", &eos, err)))
        return false;
    if (!bos)
        build->bos = -1;
    if (!eos)
        build->eos = -1;
    return true;
}
