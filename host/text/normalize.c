/* normalize.c - steps of a normalizer, parsed and run one after the other.
 *
 * A step that would change nothing is not run: most text is in its normal form already, and then
 * it is not even copied. */
#include "host/text/normalize.h"
#include <stdlib.h>
#include <string.h>

/* --- parsing --------------------------------------------------------------------------------- */

static struct normalizer_step *add_step(struct normalizer *n, const struct json_ref *at,
                                        enum normalizer_kind kind, struct err *err)
{
    if (n->n_steps == NORMALIZER_STEPS_MAX) {
        json_error(at, err, "has more than %d steps", NORMALIZER_STEPS_MAX);
        return NULL;
    }
    struct normalizer_step *step = &n->steps[n->n_steps++];
    *step = (struct normalizer_step){ .kind = kind };
    return step;
}

static bool take_text(const struct json_ref *node, const char *key, char **copy, struct err *err)
{
    struct json_ref at;
    const char *text;
    json_get(node, key, &at);
    if (!json_string(&at, &text, err))
        return false;
    *copy = strdup(text);
    return *copy || err_set(err, ERR_MEMORY, "no memory for the normalizer");
}

static bool parse_replace(struct normalizer *n, const struct json_ref *node, struct err *err)
{
    struct json_ref pattern, at;
    const char *text;
    bool literal = false;
    char path[96];
    if (!json_get(node, "pattern", &pattern) || !json_is_object(&pattern))
        return json_error(&pattern, err, "must be an object with Regex or String");
    if (!json_get(&pattern, "Regex", &at))
        literal = json_get(&pattern, "String", &at);
    if (!json_string(&at, &text, err))
        return false;
    struct normalizer_step *step = add_step(n, node, NORMALIZER_REPLACE, err);
    if (!step || !take_text(node, "content", &step->content, err))
        return false;
    if (!split_regex_open(&step->regex, literal ? REGEX_LITERAL : REGEX_RUBY, text, strlen(text),
                          err)) {
        err_prefix(err, "%s", json_path(&at, path, sizeof path));
        return false;
    }
    return true;
}

static bool parse_strip(struct normalizer *n, const struct json_ref *node, struct err *err)
{
    struct normalizer_step *step = add_step(n, node, NORMALIZER_STRIP, err);
    if (!step)
        return false;
    step->left = step->right = true;
    return json_opt_bool(node, "strip_left", &step->left, err) &&
           json_opt_bool(node, "strip_right", &step->right, err);
}

static bool parse_node(struct normalizer *n, const struct json_ref *node, int32_t depth,
                       struct err *err)
{
    static const struct {
        const char *type;
        enum normalizer_kind kind;
        enum unicode_form form;
    } PLAIN[] = {
        { "NFC", NORMALIZER_FORM, UNICODE_NFC },
        { "NFD", NORMALIZER_FORM, UNICODE_NFD },
        { "NFKC", NORMALIZER_FORM, UNICODE_NFKC },
        { "NFKD", NORMALIZER_FORM, UNICODE_NFKD },
        { "Lowercase", NORMALIZER_LOWER, UNICODE_NFC },
        { "StripAccents", NORMALIZER_STRIP_ACCENTS, UNICODE_NFC },
    };
    struct json_ref at, list, item;
    const char *type;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, err))
        return false;
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
        if (strcmp(type, PLAIN[i].type) == 0) {
            struct normalizer_step *step = add_step(n, node, PLAIN[i].kind, err);
            if (step)
                step->form = PLAIN[i].form;
            return step != NULL;
        }
    if (strcmp(type, "Strip") == 0)
        return parse_strip(n, node, err);
    if (strcmp(type, "Prepend") == 0) {
        struct normalizer_step *step = add_step(n, node, NORMALIZER_PREPEND, err);
        return step && take_text(node, "prepend", &step->content, err);
    }
    if (strcmp(type, "Replace") == 0)
        return parse_replace(n, node, err);
    if (strcmp(type, "Sequence") == 0) {
        if (!json_get(node, "normalizers", &list) || !json_is_array(&list))
            return json_error(&list, err, "must be a list");
        if (depth > 8)
            return json_error(&list, err, "is nested too deep");
        for (bool more = json_first(&list, &item); more; more = json_next(&item))
            if (!parse_node(n, &item, depth + 1, err))
                return false;
        return true;
    }
    json_error(&at, err, "\"%.40s\" is not supported", type);
    err->code = ERR_UNSUPPORTED;
    return false;
}

bool normalizer_open(struct normalizer *normalizer, const struct json_ref *node, struct err *err)
{
    *normalizer = (struct normalizer){ 0 };
    if (!node->node)
        return true;
    if (parse_node(normalizer, node, 0, err))
        return true;
    normalizer_clear(normalizer);
    return false;
}

void normalizer_clear(struct normalizer *normalizer)
{
    for (int32_t i = 0; i < normalizer->n_steps; i++) {
        free(normalizer->steps[i].content);
        split_regex_close(normalizer->steps[i].regex);
    }
    *normalizer = (struct normalizer){ 0 };
}

void normalizer_scratch_init(struct normalizer_scratch *scratch)
{
    *scratch = (struct normalizer_scratch){ 0 };
    buf_init(&scratch->texts[0], SIZE_MAX);
    buf_init(&scratch->texts[1], SIZE_MAX);
}

void normalizer_scratch_clear(struct normalizer_scratch *scratch)
{
    buf_clear(&scratch->texts[0]);
    buf_clear(&scratch->texts[1]);
    regex_scratch_clear(&scratch->regex);
}

/* --- running --------------------------------------------------------------------------------- */

static void strip(const struct normalizer_step *step, unsigned where, const char **text,
                  size_t *length)
{
    unsigned n;
    if (step->left && (where & NORMALIZE_FIRST))
        while (*length > 0 && unicode_is_space(unicode_decode(*text, &n))) {
            *text += n;
            *length -= n;
        }
    if (step->right && (where & NORMALIZE_LAST))
        while (*length > 0 && unicode_is_space(unicode_decode_before(*text, *length, &n)))
            *length -= n;
}

static void strip_accents(const char *text, size_t length, struct buf *out)
{
    for (size_t i = 0; i < length;) {
        unsigned n;
        if (!unicode_is_mark(unicode_decode(text + i, &n)))
            buf_put(out, text + i, n);
        i += n;
    }
}

static bool replace(const struct normalizer_step *step, struct regex_scratch *scratch,
                    const char *text, size_t length, struct buf *out, struct err *err)
{
    struct regex_walk walk = {
        .regex = step->regex, .scratch = scratch, .text = text, .length = length
    };
    size_t start, end, done = 0;
    while (regex_next(&walk, &start, &end, err)) {
        buf_put(out, text + done, start - done);
        buf_puts(out, step->content);
        done = end;
    }
    buf_put(out, text + done, length - done);
    return err->code == ERR_NONE;
}

/* One step that writes: from `text` to `out`. */
static bool write_step(const struct normalizer_step *step, struct regex_scratch *regex,
                       const char *text, size_t length, struct buf *out, struct err *err)
{
    switch (step->kind) {
    case NORMALIZER_FORM:
        return unicode_normalize(step->form, text, length, out, err);
    case NORMALIZER_LOWER:
        unicode_lower(text, length, out);
        return true;
    case NORMALIZER_STRIP_ACCENTS:
        strip_accents(text, length, out);
        return true;
    case NORMALIZER_PREPEND:
        buf_puts(out, step->content);
        buf_put(out, text, length);
        return true;
    case NORMALIZER_REPLACE:
        return replace(step, regex, text, length, out, err);
    case NORMALIZER_STRIP:
        break;
    }
    CHECK(!"a step that does not write");
}

bool normalizer_run(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                    unsigned where, const char *text, size_t length, const char **out,
                    size_t *out_length, struct err *err)
{
    for (int32_t i = 0, turn = 0; i < normalizer->n_steps && length > 0; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        if (step->kind == NORMALIZER_STRIP) {
            strip(step, where, &text, &length);
            continue;
        }
        if (step->kind == NORMALIZER_PREPEND && !(where & NORMALIZE_FIRST))
            continue;
        if (step->kind == NORMALIZER_FORM && unicode_is_normal(step->form, text, length))
            continue;
        struct buf *to = &scratch->texts[turn];
        turn = 1 - turn; /* what was written last is what the next step reads */
        buf_reset(to);
        if (!write_step(step, &scratch->regex, text, length, to, err))
            return false;
        if (to->failed)
            return err_set(err, ERR_MEMORY, "no memory to normalize %zu bytes of text", length);
        text = buf_text(to);
        length = to->length;
    }
    *out = text;
    *out_length = length;
    return true;
}
