/* decoder.c - decoders of tokenizer files, parsed, and run over a vocabulary once.
 *
 * Order in the file matters to the library; here it must be what all known files have: steps on
 * single tokens, then ByteFallback, then Fuse, then Strip. Anything else is refused. */
#include "host/text/decoder.h"
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

enum {
    CONTENT_MAX = 64, /* bytes of a replacement: a token grows that many times at most */
};

/* --- parsing --------------------------------------------------------------------------------- */

static bool unsupported(const struct json_ref *at, struct err *err, const char *what)
{
    json_error(at, err, "%s", what);
    err->code = ERR_UNSUPPORTED;
    return false;
}

static bool copy_text(char **to, const char *text, struct err *err)
{
    *to = strdup(text);
    return *to || err_set(err, ERR_MEMORY, "no memory for a decoder");
}

static struct decoder_step *add_step(struct decoder *d, const struct json_ref *at,
                                     enum decoder_kind kind, struct err *err)
{
    if (d->fused || d->byte_level) {
        unsupported(at, err, "after Fuse or ByteLevel is not supported");
        return NULL;
    }
    if (d->n_steps == DECODER_STEPS_MAX) {
        json_error(at, err, "has more than %d steps", DECODER_STEPS_MAX);
        return NULL;
    }
    struct decoder_step *step = &d->steps[d->n_steps++];
    *step = (struct decoder_step){ .kind = kind };
    return step;
}

static bool get_text(const struct json_ref *node, const char *key, const char **text,
                     struct err *err)
{
    struct json_ref at;
    json_get(node, key, &at);
    return json_string(&at, text, err);
}

static bool parse_replace(struct decoder *d, const struct json_ref *node, struct err *err)
{
    struct json_ref pattern, at;
    const char *text, *content;
    bool literal = false;
    char path[96];
    if (!json_get(node, "pattern", &pattern) || !json_is_object(&pattern))
        return json_error(&pattern, err, "must be an object with Regex or String");
    if (!json_get(&pattern, "Regex", &at))
        literal = json_get(&pattern, "String", &at);
    if (!json_string(&at, &text, err) || !get_text(node, "content", &content, err))
        return false;
    if (strlen(content) > CONTENT_MAX)
        return json_error(node, err, "has a content of more than %d bytes", CONTENT_MAX);
    struct decoder_step *step = add_step(d, node, DECODER_REPLACE, err);
    if (!step || !copy_text(&step->content, content, err))
        return false;
    if (literal && text[0])
        return copy_text(&step->literal, text, err);
    if (!split_regex_open(&step->regex, literal ? REGEX_LITERAL : REGEX_RUBY, text, strlen(text),
                          err)) {
        err_prefix(err, "%s", json_path(&at, path, sizeof path));
        return false;
    }
    return true;
}

static bool parse_metaspace(struct decoder *d, const struct json_ref *node, struct err *err)
{
    const char *mark = "\xe2\x96\x81", *scheme = NULL;
    bool prefix = true;
    if (!json_opt_string(node, "replacement", &mark, err) ||
        !json_opt_string(node, "prepend_scheme", &scheme, err) ||
        !json_opt_bool(node, "add_prefix_space", &prefix, err))
        return false;
    if (!mark[0])
        return json_error(node, err, "has an empty replacement");
    struct decoder_step *step = add_step(d, node, DECODER_METASPACE, err);
    if (!step)
        return false;
    step->first_too = scheme ? strcmp(scheme, "never") == 0 : !prefix;
    return copy_text(&step->content, mark, err);
}

static bool parse_wordpiece(struct decoder *d, const struct json_ref *node, struct err *err)
{
    const char *prefix = "##";
    bool cleanup = true;
    if (!json_opt_string(node, "prefix", &prefix, err) ||
        !json_opt_bool(node, "cleanup", &cleanup, err))
        return false;
    struct decoder_step *step = add_step(d, node, DECODER_WORDPIECE, err);
    if (!step)
        return false;
    step->cleanup = cleanup;
    return copy_text(&step->content, prefix, err);
}

static bool parse_strip(struct decoder *d, const struct json_ref *node, struct err *err)
{
    int64_t start = 0, stop = 0;
    const char *content;
    unsigned n = 0;
    if (!json_opt_int(node, "start", 0, 1000, &start, err) ||
        !json_opt_int(node, "stop", 0, 1000, &stop, err) ||
        !get_text(node, "content", &content, err))
        return false;
    if (stop != 0 || !d->fused || d->strip != 0)
        return unsupported(node, err, "must stand once, after Fuse, and strip the start alone");
    if (content[0])
        unicode_decode(content, &n);
    if (n == 0 || content[n])
        return json_error(node, err, "must strip one character");
    d->strip = (int32_t)start;
    memcpy(d->strip_content, content, n);
    return true;
}

static bool parse_sequence(struct decoder *d, const struct json_ref *node, int32_t depth,
                           struct err *err);

static bool parse_node(struct decoder *d, const struct json_ref *node, int32_t depth,
                       struct err *err)
{
    struct json_ref at;
    const char *type;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0)
        return parse_sequence(d, node, depth, err);
    if (strcmp(type, "ByteLevel") == 0) {
        if (d->byte_level || d->fused || d->byte_fallback || d->n_steps > 0)
            return unsupported(node, err, "(ByteLevel) must be the only one");
        d->byte_level = true;
        return true;
    }
    if (strcmp(type, "Fuse") == 0) {
        d->fused = true;
        return true;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        if (d->fused || d->byte_level)
            return unsupported(node, err, "(ByteFallback) must come before Fuse");
        d->byte_fallback = true;
        return true;
    }
    if (strcmp(type, "Replace") == 0)
        return parse_replace(d, node, err);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(d, node, err);
    if (strcmp(type, "WordPiece") == 0)
        return parse_wordpiece(d, node, err);
    if (strcmp(type, "Strip") == 0)
        return parse_strip(d, node, err);
    json_error(&at, err, "\"%.40s\" is not supported", type);
    err->code = ERR_UNSUPPORTED;
    return false;
}

static bool parse_sequence(struct decoder *d, const struct json_ref *node, int32_t depth,
                           struct err *err)
{
    struct json_ref list, item;
    if (!json_get(node, "decoders", &list) || !json_is_array(&list) || depth > 8)
        return json_error(&list, err, "must be a list, nested at most 8 deep");
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        if (!parse_node(d, &item, depth + 1, err))
            return false;
    return true;
}

bool decoder_open(struct decoder *decoder, const struct json_ref *node, struct err *err)
{
    *decoder = (struct decoder){ 0 };
    if (!node->node) {
        decoder->steps[decoder->n_steps++] = (struct decoder_step){ .kind = DECODER_BLANK };
        return true;
    }
    if (parse_node(decoder, node, 0, err))
        return true;
    decoder_clear(decoder);
    return false;
}

bool decoder_open_mark(struct decoder *decoder, int32_t strip, struct err *err)
{
    struct decoder_step *step = &decoder->steps[decoder->n_steps++];
    decoder->byte_fallback = decoder->fused = true;
    decoder->strip = strip;
    decoder->strip_content[0] = ' ';
    *step = (struct decoder_step){ .kind = DECODER_REPLACE };
    return copy_text(&step->literal, "\xe2\x96\x81", err) && copy_text(&step->content, " ", err);
}

void decoder_clear(struct decoder *decoder)
{
    for (int32_t i = 0; i < decoder->n_steps; i++) {
        free(decoder->steps[i].content);
        free(decoder->steps[i].literal);
        split_regex_close(decoder->steps[i].regex);
    }
    free(decoder->offsets);
    free(decoder->bytes);
    *decoder = (struct decoder){ 0 };
}

/* --- a token --------------------------------------------------------------------------------- */

static void replace_all(const char *text, size_t length, const char *from, const char *to,
                        struct buf *out)
{
    size_t n_from = strlen(from);
    const char *end = text + length, *found;
    while ((found = memmem(text, (size_t)(end - text), from, n_from)) != NULL) {
        buf_put(out, text, (size_t)(found - text));
        buf_puts(out, to);
        text = found + n_from;
    }
    buf_put(out, text, (size_t)(end - text));
}

/* What one thread needs; the table is built by one, and a first token needs it once a text. */
struct work {
    struct buf texts[2];
    struct regex_scratch regex;
    struct err *err;
};

/* The library's clean-up of one token's text, in its order. */
static void clean_up(struct work *w, int *turn)
{
    static const char *const PAIRS[][2] = {
        { " .", "." },   { " ?", "?" },     { " !", "!" },     { " ,", "," },
        { " ' ", "'" },  { " n't", "n't" }, { " 'm", "'m" },   { " do not", " don't" },
        { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
        struct buf *from = &w->texts[*turn], *to = &w->texts[1 - *turn];
        buf_reset(to);
        replace_all(buf_text(from), from->length, PAIRS[i][0], PAIRS[i][1], to);
        *turn = 1 - *turn;
    }
}

static bool run_step(const struct decoder_step *step, struct work *w, bool first, const char *text,
                     size_t length, struct buf *out)
{
    size_t n = step->content ? strlen(step->content) : 0;
    switch (step->kind) {
    case DECODER_REPLACE: {
        if (step->literal) {
            replace_all(text, length, step->literal, step->content, out);
            return true;
        }
        struct regex_walk walk = {
            .regex = step->regex, .scratch = &w->regex, .text = text, .length = length
        };
        size_t start, end, done = 0;
        while (regex_next(&walk, &start, &end, w->err)) {
            buf_put(out, text + done, start - done);
            buf_puts(out, step->content);
            done = end;
        }
        buf_put(out, text + done, length - done);
        return w->err->code == ERR_NONE;
    }
    case DECODER_METASPACE:
        replace_all(text, length, step->content, first && !step->first_too ? "" : " ", out);
        return true;
    case DECODER_WORDPIECE:
        if (!first && n > 0 && length >= n && memcmp(text, step->content, n) == 0) {
            buf_put(out, text + n, length - n);
            return true;
        }
        if (!first)
            buf_putc(out, ' ');
        buf_put(out, text, length);
        return true;
    case DECODER_BLANK:
        if (!first)
            buf_putc(out, ' ');
        buf_put(out, text, length);
        return true;
    }
    return false;
}

static int hex_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0x41>" names, or -1. */
static int byte_of(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_of(text[3]), low = hex_of(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool decode(const struct decoder *d, struct work *w, bool first, const char *text,
                   size_t length, const char **out, size_t *n_out)
{
    int turn = 0;
    for (int32_t i = 0; i < d->n_steps; i++) {
        struct buf *to = &w->texts[turn];
        buf_reset(to);
        if (!run_step(&d->steps[i], w, first, text, length, to))
            return false;
        if (d->steps[i].cleanup)
            clean_up(w, &turn);
        text = buf_text(&w->texts[turn]);
        length = w->texts[turn].length;
        turn = 1 - turn;
        if (w->texts[0].failed || w->texts[1].failed)
            return err_set(w->err, ERR_MEMORY, "no memory to decode a token");
    }
    *out = text;
    *n_out = length;
    return true;
}

static void work_init(struct work *w, struct err *err)
{
    *w = (struct work){ .err = err };
    buf_init(&w->texts[0], SIZE_MAX);
    buf_init(&w->texts[1], SIZE_MAX);
    err->code = ERR_NONE;
}

static void work_clear(struct work *w)
{
    buf_clear(&w->texts[0]);
    buf_clear(&w->texts[1]);
    regex_scratch_clear(&w->regex);
}

static void put_token(const struct decoder *d, const char *text, size_t length, struct buf *out)
{
    int byte = d->byte_fallback ? byte_of(text, length) : -1;
    if (byte >= 0)
        buf_putc(out, (char)byte);
    else
        buf_put(out, text, length);
}

bool decoder_build(struct decoder *decoder, const struct vocab *vocab, struct err *err)
{
    struct work w;
    struct buf bytes;
    bool ok = true;
    if (decoder->byte_level)
        return true;
    work_init(&w, err);
    /* Known decoders add a blank to a token at most: a file may not ask for more than a few. */
    size_t bytes_max = 2 * (size_t)vocab->offsets[vocab->n] + 16 * (size_t)vocab->n + 64;
    if (bytes_max > UINT32_MAX)
        bytes_max = UINT32_MAX;
    buf_init(&bytes, SIZE_MAX);
    decoder->n = vocab->n;
    decoder->offsets = malloc(((size_t)vocab->n + 1) * sizeof *decoder->offsets);
    if (!decoder->offsets)
        ok = err_set(err, ERR_MEMORY, "no memory for a decoder");
    for (int32_t id = 0; ok && id < vocab->n; id++) {
        size_t length;
        const char *text = vocab_bytes(vocab, id, &length);
        decoder->offsets[id] = (uint32_t)bytes.length;
        if (!text)
            continue;
        ok = decode(decoder, &w, false, text, length, &text, &length);
        if (ok && length > bytes_max - bytes.length)
            ok = err_set(err, ERR_UNSUPPORTED, "the decoded tokens take more than %zu bytes",
                         bytes_max);
        if (ok)
            put_token(decoder, text, length, &bytes);
    }
    work_clear(&w);
    if (ok && bytes.failed)
        ok = err_set(err, ERR_MEMORY, "no memory for the decoded tokens");
    if (!ok) {
        buf_clear(&bytes);
        return false;
    }
    decoder->offsets[vocab->n] = (uint32_t)bytes.length;
    buf_putc(&bytes, 0); /* never NULL */
    decoder->bytes = bytes.bytes;
    return decoder->bytes || err_set(err, ERR_MEMORY, "no memory for the decoded tokens");
}

bool decoder_first_differs(const struct decoder *decoder)
{
    for (int32_t i = 0; i < decoder->n_steps; i++)
        if (decoder->steps[i].kind != DECODER_REPLACE)
            return true;
    return false;
}

bool decoder_first(const struct decoder *decoder, const char *text, size_t length, struct buf *out,
                   struct err *err)
{
    struct work w;
    work_init(&w, err);
    bool ok = decode(decoder, &w, true, text, length, &text, &length);
    if (ok)
        put_token(decoder, text, length, out);
    work_clear(&w);
    return ok;
}
