/* normalize.c - steps of a normalizer, parsed and run one after the other.
 *
 * A step that would change nothing is not run: most text is in its normal form already, and then
 * it is not even copied. */
#include "host/text/normalize.h"
#include <stdlib.h>
#include <string.h>
#include "host/base/base64.h"

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
    if (literal && text[0]) {
        step->literal = strdup(text);
        return step->literal || err_set(err, ERR_MEMORY, "no memory for the normalizer");
    }
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

/* BertNormalizer, as steps: cleaning and spaces around ideographs, then accents off (which go by
 * themselves where nothing is said and case is folded), then lower case. */
static bool parse_bert(struct normalizer *n, const struct json_ref *node, struct err *err)
{
    bool clean = true, ideographs = true, lower = true;
    if (!json_opt_bool(node, "clean_text", &clean, err) ||
        !json_opt_bool(node, "handle_chinese_chars", &ideographs, err) ||
        !json_opt_bool(node, "lowercase", &lower, err))
        return false;
    bool accents = lower;
    if (!json_opt_bool(node, "strip_accents", &accents, err))
        return false;
    struct normalizer_step *step = add_step(n, node, NORMALIZER_BERT, err);
    if (!step)
        return false;
    step->clean = clean;
    step->ideographs = ideographs;
    if (accents) {
        if (!(step = add_step(n, node, NORMALIZER_FORM, err)))
            return false;
        step->form = UNICODE_NFD;
        if (!(step = add_step(n, node, NORMALIZER_STRIP_ACCENTS, err)))
            return false;
        step->only_nonspacing = true;
    }
    return !lower || add_step(n, node, NORMALIZER_LOWER, err);
}

static bool parse_precompiled(struct normalizer *n, const struct json_ref *node, struct err *err)
{
    struct json_ref at;
    const char *text = "";
    char path[96];
    size_t size;
    if (json_get(node, "precompiled_charsmap", &at) && !json_string(&at, &text, err))
        return false;
    size_t length = strlen(text);
    uint8_t *bytes = malloc(base64_room(length));
    if (!bytes)
        return err_set(err, ERR_MEMORY, "no memory for a map of %zu letters", length);
    bool ok = base64_decode(text, length, bytes, &size);
    if (!ok) {
        json_error(&at, err, "is not base64");
    } else {
        struct normalizer_step *step = add_step(n, node, NORMALIZER_MAP, err);
        ok = step && charsmap_open(&step->map, bytes, size, CHARSMAP_GRAPHEMES, err);
        if (step && !ok)
            err_prefix(err, "%s", json_path(&at, path, sizeof path));
    }
    free(bytes);
    return ok;
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
    if (strcmp(type, "BertNormalizer") == 0)
        return parse_bert(n, node, err);
    if (strcmp(type, "Precompiled") == 0)
        return parse_precompiled(n, node, err);
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
        free(normalizer->steps[i].literal);
        charsmap_close(&normalizer->steps[i].map);
        split_regex_close(normalizer->steps[i].regex);
    }
    *normalizer = (struct normalizer){ 0 };
}

/* --- by hand --------------------------------------------------------------------------------- */

static struct normalizer_step *next_step(struct normalizer *n, enum normalizer_kind kind)
{
    CHECK(n->n_steps < NORMALIZER_STEPS_MAX);
    struct normalizer_step *step = &n->steps[n->n_steps++];
    *step = (struct normalizer_step){ .kind = kind };
    return step;
}

static bool copy_text(char **to, const char *text, struct err *err)
{
    *to = strdup(text);
    return *to || err_set(err, ERR_MEMORY, "no memory for the normalizer");
}

void normalizer_add_form(struct normalizer *normalizer, enum unicode_form form)
{
    next_step(normalizer, NORMALIZER_FORM)->form = form;
}

void normalizer_add_spaces(struct normalizer *normalizer)
{
    next_step(normalizer, NORMALIZER_SPACES);
}

bool normalizer_add_map(struct normalizer *normalizer, const void *bytes, size_t size,
                        enum charsmap_rule rule, struct err *err)
{
    return charsmap_open(&next_step(normalizer, NORMALIZER_MAP)->map, bytes, size, rule, err);
}

bool normalizer_add_prepend(struct normalizer *normalizer, const char *text, struct err *err)
{
    return copy_text(&next_step(normalizer, NORMALIZER_PREPEND)->content, text, err);
}

bool normalizer_add_replace(struct normalizer *normalizer, const char *from, const char *to,
                            struct err *err)
{
    struct normalizer_step *step = next_step(normalizer, NORMALIZER_REPLACE);
    CHECK(from[0]);
    return copy_text(&step->literal, from, err) && copy_text(&step->content, to, err);
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

static void strip_accents(const struct normalizer_step *step, const char *text, size_t length,
                          struct buf *out)
{
    for (size_t i = 0; i < length;) {
        unsigned n;
        uint32_t code = unicode_decode(text + i, &n);
        if (!(step->only_nonspacing ? unicode_is_nonspacing(code) : unicode_is_mark(code)))
            buf_put(out, text + i, n);
        i += n;
    }
}

static void clean(const struct normalizer_step *step, const char *text, size_t length,
                  struct buf *out)
{
    for (size_t i = 0; i < length;) {
        unsigned n;
        size_t plain = i;
        while (plain < length && text[plain] >= ' ' && text[plain] < 0x7f)
            plain++;
        if (plain > i) {
            buf_put(out, text + i, plain - i);
            i = plain;
            continue;
        }
        uint32_t code = unicode_decode(text + i, &n);
        bool blank = unicode_is_space(code), around = false;
        bool kept = code == '\t' || code == '\n' || code == '\r';
        if (step->clean && !kept && (code == 0xfffd || unicode_is_other(code))) {
            i += n;
            continue;
        }
        if (step->ideographs)
            around = unicode_is_ideograph(code);
        if (around)
            buf_putc(out, ' ');
        if (step->clean && blank)
            buf_putc(out, ' ');
        else
            buf_put(out, text + i, n);
        if (around)
            buf_putc(out, ' ');
        i += n;
    }
}

/* One blank for many; at the text's own ends none. */
static void join_spaces(unsigned where, const char *text, size_t length, struct buf *out)
{
    static const char MARK[] = "\xe2\x96\x81"; /* ends a text like a blank does */
    if (where & NORMALIZE_LAST)
        for (;;) {
            if (length > 0 && text[length - 1] == ' ')
                length--;
            else if (length >= 3 && memcmp(text + length - 3, MARK, 3) == 0)
                length -= 3;
            else
                break;
        }
    bool blank = where & NORMALIZE_FIRST;
    for (size_t i = 0; i < length;) {
        if (text[i] == ' ') {
            if (!blank)
                buf_putc(out, ' ');
            blank = true;
            i++;
            continue;
        }
        const char *next = memchr(text + i, ' ', length - i);
        size_t end = next ? (size_t)(next - text) : length;
        buf_put(out, text + i, end - i);
        blank = false;
        i = end;
    }
}

static void replace_literal(const struct normalizer_step *step, const char *text, size_t length,
                            struct buf *out)
{
    size_t n_from = strlen(step->literal), n_to = strlen(step->content);
    const char *end = text + length, *found;
    while (text < end) {
        size_t left = (size_t)(end - text);
        found = n_from == 1 ? memchr(text, step->literal[0], left)
                            : memmem(text, left, step->literal, n_from);
        if (!found)
            break;
        buf_put(out, text, (size_t)(found - text));
        buf_put(out, step->content, n_to);
        text = found + n_from;
    }
    buf_put(out, text, (size_t)(end - text));
}

static bool replace(const struct normalizer_step *step, struct regex_scratch *scratch,
                    const char *text, size_t length, struct buf *out, struct err *err)
{
    struct regex_walk walk = {
        .regex = step->regex, .scratch = scratch, .text = text, .length = length
    };
    size_t start, end, done = 0;
    if (step->literal) {
        replace_literal(step, text, length, out);
        return true;
    }
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
                       unsigned where, const char *text, size_t length, struct buf *out,
                       struct err *err)
{
    switch (step->kind) {
    case NORMALIZER_FORM:
        return unicode_normalize(step->form, text, length, out, err);
    case NORMALIZER_LOWER:
        unicode_lower(text, length, out);
        return true;
    case NORMALIZER_STRIP_ACCENTS:
        strip_accents(step, text, length, out);
        return true;
    case NORMALIZER_BERT:
        clean(step, text, length, out);
        return true;
    case NORMALIZER_MAP:
        charsmap_run(&step->map, text, length, out);
        return true;
    case NORMALIZER_SPACES:
        join_spaces(where, text, length, out);
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
        if (step->kind == NORMALIZER_STRIP_ACCENTS && unicode_is_ascii(text, length))
            continue;
        struct buf *to = &scratch->texts[turn];
        turn = 1 - turn; /* what was written last is what the next step reads */
        buf_reset(to);
        if (!write_step(step, &scratch->regex, where, text, length, to, err))
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
