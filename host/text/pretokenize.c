/* pretokenize.c - stages of a pre-tokenizer, parsed and run.
 *
 * The order of pieces and what each behavior makes of matches follow the `tokenizers` library
 * (NormalizedString::split), empty matches included: they leave no piece but separate others. */
#include "host/text/pretokenize.h"
#include <string.h>
#include "host/text/unicode.h"

/* ByteLevel's own pattern (GPT-2). */
static const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Whitespace's pattern is run by Rust's regex crate, whose \w also has the two joiners. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"
static const char WHITESPACE_PATTERN[] = "[" RUST_WORD "]+|[^" RUST_WORD "\\t-\\r\\x{85}\\p{Z}]+";

/* --- parsing --------------------------------------------------------------------------------- */

static struct pretok_stage *add_stage(struct pretok *pretok, const struct json_ref *at,
                                      enum pretok_kind kind, enum pretok_behavior behavior,
                                      struct err *err)
{
    if (pretok->n_stages == PRETOK_STAGES_MAX) {
        json_error(at, err, "has more than %d stages", PRETOK_STAGES_MAX);
        return NULL;
    }
    struct pretok_stage *stage = &pretok->stages[pretok->n_stages++];
    *stage = (struct pretok_stage){ .kind = kind, .behavior = behavior };
    return stage;
}

static bool add_class(struct pretok *pretok, const struct json_ref *at, bool (*is)(uint32_t),
                      enum pretok_behavior behavior, struct err *err)
{
    struct pretok_stage *stage = add_stage(pretok, at, PRETOK_CLASS, behavior, err);
    if (!stage)
        return false;
    stage->is = is;
    return true;
}

static bool add_regex(struct pretok *pretok, const struct json_ref *at, enum regex_kind kind,
                      const char *pattern, enum pretok_behavior behavior, bool invert,
                      struct err *err)
{
    char path[96];
    struct pretok_stage *stage = add_stage(pretok, at, PRETOK_REGEX, behavior, err);
    if (!stage)
        return false;
    stage->invert = invert;
    if (!split_regex_open(&stage->regex, kind, pattern, strlen(pattern), err)) {
        err_prefix(err, "%s", json_path(at, path, sizeof path));
        return false;
    }
    return true;
}

static bool behavior_of(const struct json_ref *node, enum pretok_behavior *behavior,
                        struct err *err)
{
    static const char *const NAMES[] = {
        [BEHAVIOR_REMOVED] = "Removed",
        [BEHAVIOR_ISOLATED] = "Isolated",
        [BEHAVIOR_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [BEHAVIOR_MERGED_WITH_NEXT] = "MergedWithNext",
        [BEHAVIOR_CONTIGUOUS] = "Contiguous",
    };
    struct json_ref at;
    const char *name = "";
    json_get(node, "behavior", &at);
    if (!json_string(&at, &name, err))
        return false;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *behavior = (enum pretok_behavior)i;
            return true;
        }
    json_error(&at, err, "\"%.40s\" is not known", name);
    err->code = ERR_UNSUPPORTED;
    return false;
}

static bool parse_split(struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    struct json_ref pattern, text;
    const char *bytes;
    enum pretok_behavior behavior;
    bool invert = false, literal = false;
    if (!behavior_of(node, &behavior, err) || !json_opt_bool(node, "invert", &invert, err))
        return false;
    if (!json_get(node, "pattern", &pattern) || !json_is_object(&pattern))
        return json_error(&pattern, err, "must be an object with Regex or String");
    if (!json_get(&pattern, "Regex", &text))
        literal = json_get(&pattern, "String", &text);
    if (!json_string(&text, &bytes, err))
        return false;
    return add_regex(pretok, &text, literal ? REGEX_LITERAL : REGEX_RUBY, bytes, behavior, invert,
                     err);
}

/* There is one buffer for pieces that are written anew. */
static bool one_rewrite(const struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    for (int32_t i = 0; i < pretok->n_stages; i++)
        if (pretok->stages[i].kind == PRETOK_MARK || pretok->stages[i].kind == PRETOK_PREFIX) {
            json_error(node, err, "is a second component that writes the text anew");
            err->code = ERR_UNSUPPORTED;
            return false;
        }
    return true;
}

static bool parse_byte_level(struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    bool prefix = true, use_regex = true; /* the library's defaults for files without them */
    if (!json_opt_bool(node, "add_prefix_space", &prefix, err) ||
        !json_opt_bool(node, "use_regex", &use_regex, err))
        return false;
    if (prefix && !one_rewrite(pretok, node, err))
        return false;
    if (prefix && !add_stage(pretok, node, PRETOK_PREFIX, BEHAVIOR_ISOLATED, err))
        return false;
    if (use_regex &&
        !add_regex(pretok, node, REGEX_RUBY, GPT2_PATTERN, BEHAVIOR_ISOLATED, false, err))
        return false;
    pretok->byte_level = true;
    return true;
}

static bool parse_char(struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    struct json_ref at;
    const char *text;
    unsigned n = 0;
    json_get(node, "delimiter", &at);
    if (!json_string(&at, &text, err))
        return false;
    uint32_t code = text[0] ? unicode_decode(text, &n) : 0;
    if (n == 0 || text[n])
        return json_error(&at, err, "must be one character");
    struct pretok_stage *stage = add_stage(pretok, node, PRETOK_CHAR, BEHAVIOR_REMOVED, err);
    if (!stage)
        return false;
    stage->code = code;
    return true;
}

static bool parse_metaspace(struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    static const char *const SCHEMES[] = {
        [SCHEME_ALWAYS] = "always", [SCHEME_FIRST] = "first", [SCHEME_NEVER] = "never"
    };
    struct json_ref at;
    const char *text = "\xe2\x96\x81", *name = NULL;
    bool split = true, prefix = true;
    unsigned n = 0;
    if (!json_opt_string(node, "replacement", &text, err) ||
        !json_opt_string(node, "prepend_scheme", &name, err) ||
        !json_opt_bool(node, "add_prefix_space", &prefix, err) ||
        !json_opt_bool(node, "split", &split, err) || !one_rewrite(pretok, node, err))
        return false;
    uint32_t code = text[0] ? unicode_decode(text, &n) : 0;
    if (n == 0 || text[n]) {
        json_get(node, "replacement", &at);
        return json_error(&at, err, "must be one character");
    }
    if (!name) /* files before there were schemes */
        name = SCHEMES[prefix ? SCHEME_ALWAYS : SCHEME_NEVER];
    int scheme = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(name, SCHEMES[i]) == 0)
            scheme = i;
    if (scheme < 0) {
        json_get(node, "prepend_scheme", &at);
        return json_error(&at, err, "is \"%.20s\", want always, first or never", name);
    }
    struct pretok_stage *stage = add_stage(pretok, node, PRETOK_MARK, BEHAVIOR_ISOLATED, err);
    if (!stage)
        return false;
    stage->scheme = (enum pretok_scheme)scheme;
    memcpy(stage->mark, text, n);
    if (!split)
        return true;
    stage = add_stage(pretok, node, PRETOK_CHAR, BEHAVIOR_MERGED_WITH_NEXT, err);
    if (stage)
        stage->code = code;
    return stage != NULL;
}

static bool parse_node(struct pretok *pretok, const struct json_ref *node, int32_t depth,
                       struct err *err);

static bool parse_sequence(struct pretok *pretok, const struct json_ref *node, int32_t depth,
                           struct err *err)
{
    struct json_ref list, item;
    if (!json_get(node, "pretokenizers", &list) || !json_is_array(&list))
        return json_error(&list, err, "must be a list");
    if (depth > 8)
        return json_error(&list, err, "is nested too deep");
    for (bool more = json_first(&list, &item); more; more = json_next(&item))
        if (!parse_node(pretok, &item, depth + 1, err))
            return false;
    return true;
}

static bool parse_node(struct pretok *pretok, const struct json_ref *node, int32_t depth,
                       struct err *err)
{
    struct json_ref at;
    const char *type;
    enum pretok_behavior behavior;
    json_get(node, "type", &at);
    if (!json_string(&at, &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0)
        return parse_sequence(pretok, node, depth, err);
    if (pretok->byte_level) {
        /* What follows would see the mapped letters, not the text; nobody ships that. */
        json_error(node, err, "(%.40s) comes after ByteLevel, which must be the last", type);
        err->code = ERR_UNSUPPORTED;
        return false;
    }
    if (strcmp(type, "Split") == 0)
        return parse_split(pretok, node, err);
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(pretok, node, err);
    if (strcmp(type, "Digits") == 0) {
        bool alone = false;
        return json_opt_bool(node, "individual_digits", &alone, err) &&
               add_class(pretok, node, unicode_is_numeric,
                         alone ? BEHAVIOR_ISOLATED : BEHAVIOR_CONTIGUOUS, err);
    }
    if (strcmp(type, "Punctuation") == 0) {
        struct json_ref given;
        behavior = BEHAVIOR_ISOLATED;
        if (json_get(node, "behavior", &given) && !behavior_of(node, &behavior, err))
            return false;
        return add_class(pretok, node, unicode_is_punct, behavior, err);
    }
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_class(pretok, node, unicode_is_space, BEHAVIOR_REMOVED, err);
    if (strcmp(type, "Whitespace") == 0)
        return add_regex(pretok, node, REGEX_PCRE, WHITESPACE_PATTERN, BEHAVIOR_REMOVED, true, err);
    if (strcmp(type, "BertPreTokenizer") == 0)
        return add_class(pretok, node, unicode_is_space, BEHAVIOR_REMOVED, err) &&
               add_class(pretok, node, unicode_is_punct, BEHAVIOR_ISOLATED, err);
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return parse_char(pretok, node, err);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(pretok, node, err);
    json_error(&at, err, "\"%.40s\" is not supported", type);
    err->code = ERR_UNSUPPORTED;
    return false;
}

bool pretok_open(struct pretok *pretok, const struct json_ref *node, struct err *err)
{
    *pretok = (struct pretok){ 0 };
    if (!node->node)
        return true;
    if (parse_node(pretok, node, 0, err))
        return true;
    pretok_clear(pretok);
    return false;
}

bool pretok_add_pattern(struct pretok *pretok, const char *pattern, struct err *err)
{
    CHECK(pretok->n_stages < PRETOK_STAGES_MAX);
    struct pretok_stage *stage = &pretok->stages[pretok->n_stages];
    *stage = (struct pretok_stage){ .kind = PRETOK_REGEX, .behavior = BEHAVIOR_ISOLATED };
    if (!split_regex_open(&stage->regex, REGEX_RUBY, pattern, strlen(pattern), err))
        return false;
    pretok->n_stages++;
    return true;
}

void pretok_clear(struct pretok *pretok)
{
    for (int32_t i = 0; i < pretok->n_stages; i++)
        split_regex_close(pretok->stages[i].regex);
    *pretok = (struct pretok){ 0 };
}

void pretok_scratch_init(struct pretok_scratch *scratch)
{
    *scratch = (struct pretok_scratch){ 0 };
    buf_init(&scratch->prefixed, SIZE_MAX);
}

void pretok_scratch_clear(struct pretok_scratch *scratch)
{
    regex_scratch_clear(&scratch->regex);
    buf_clear(&scratch->prefixed);
}

/* --- running --------------------------------------------------------------------------------- */

struct run {
    const struct pretok *pretok;
    struct pretok_scratch *scratch;
    pretok_sink *sink;
    void *arg;
    const char *origin; /* the beginning of the whole text, when it is in this one; else NULL */
    struct err *err;
};

static bool run_stage(const struct run *run, int32_t at, const char *text, size_t length);

static inline bool pass_on(const struct run *run, int32_t at, const char *text, size_t length)
{
    if (length == 0)
        return true;
    if (at == run->pretok->n_stages)
        return run->sink(run->arg, text, length);
    return run_stage(run, at, text, length);
}

/* The matches and the stretches between them come in here in order; pieces go out by behavior. */
struct splitter {
    const struct run *run;
    const char *text;
    int32_t next_stage;
    enum pretok_behavior behavior;
    bool held;                   /* a piece that may still grow: [held_start, held_end) */
    bool held_match, last_match; /* what it began as; whether the last event was a match */
    size_t held_start, held_end;
};

static bool release(struct splitter *s)
{
    if (!s->held)
        return true;
    s->held = false;
    return pass_on(s->run, s->next_stage, s->text + s->held_start, s->held_end - s->held_start);
}

static bool hold(struct splitter *s, size_t start, size_t end, bool is_match)
{
    if (!release(s))
        return false;
    s->held = true;
    s->held_match = is_match;
    s->held_start = start;
    s->held_end = end;
    return true;
}

static bool event(struct splitter *s, size_t start, size_t end, bool is_match)
{
    bool grows = false;
    switch (s->behavior) {
    case BEHAVIOR_ISOLATED:
        return pass_on(s->run, s->next_stage, s->text + start, end - start);
    case BEHAVIOR_REMOVED:
        return is_match || pass_on(s->run, s->next_stage, s->text + start, end - start);
    case BEHAVIOR_CONTIGUOUS:
        grows = s->held && is_match == s->last_match;
        break;
    case BEHAVIOR_MERGED_WITH_PREVIOUS: /* only the first match of a row joins what is before */
        grows = s->held && is_match && !s->last_match;
        break;
    case BEHAVIOR_MERGED_WITH_NEXT: /* only the last match of a row is joined by what follows */
        grows = s->held && !is_match && s->last_match;
        break;
    }
    s->last_match = is_match;
    if (!grows)
        return hold(s, start, end, is_match);
    s->held_end = end;
    return true;
}

static bool run_regex(const struct run *run, const struct pretok_stage *stage, struct splitter *s,
                      const char *text, size_t length)
{
    struct regex_walk walk = {
        .regex = stage->regex, .scratch = &run->scratch->regex, .text = text, .length = length
    };
    size_t start, end, done = 0;
    while (regex_next(&walk, &start, &end, run->err)) {
        if (start > done && !event(s, done, start, stage->invert))
            return false;
        if (!event(s, start, end, !stage->invert))
            return false;
        done = end;
    }
    if (run->err->code != ERR_NONE)
        return false;
    return done == length || event(s, done, length, stage->invert);
}

static bool run_class(const struct pretok_stage *stage, struct splitter *s, const char *text,
                      size_t length)
{
    size_t done = 0;
    for (size_t i = 0; i < length;) {
        unsigned n;
        uint32_t code = unicode_decode(text + i, &n);
        if (stage->kind == PRETOK_CHAR ? code == stage->code : stage->is(code)) {
            if (i > done && !event(s, done, i, stage->invert))
                return false;
            if (!event(s, i, i + n, !stage->invert))
                return false;
            done = i + n;
        }
        i += n;
    }
    return done == length || event(s, done, length, stage->invert);
}

static bool run_prefix(const struct run *run, int32_t at, const char *text, size_t length)
{
    if (text[0] == ' ')
        return pass_on(run, at + 1, text, length);
    struct buf *prefixed = &run->scratch->prefixed;
    buf_reset(prefixed);
    buf_putc(prefixed, ' ');
    buf_put(prefixed, text, length);
    if (prefixed->failed)
        return err_set(run->err, ERR_MEMORY, "no memory for a piece of %zu bytes", length);
    return pass_on(run, at + 1, prefixed->bytes, prefixed->length);
}

static bool run_mark(const struct run *run, int32_t at, const char *text, size_t length)
{
    const struct pretok_stage *stage = &run->pretok->stages[at];
    const size_t n = strlen(stage->mark);
    struct buf *marked = &run->scratch->prefixed;
    bool has = text[0] == ' ' || (length >= n && memcmp(text, stage->mark, n) == 0);
    buf_reset(marked);
    if (!has &&
        (stage->scheme == SCHEME_ALWAYS || (stage->scheme == SCHEME_FIRST && text == run->origin)))
        buf_put(marked, stage->mark, n);
    const char *end = text + length, *blank;
    while ((blank = memchr(text, ' ', (size_t)(end - text))) != NULL) {
        buf_put(marked, text, (size_t)(blank - text));
        buf_put(marked, stage->mark, n);
        text = blank + 1;
    }
    buf_put(marked, text, (size_t)(end - text));
    if (marked->failed)
        return err_set(run->err, ERR_MEMORY, "no memory for a piece of %zu bytes", length);
    return pass_on(run, at + 1, marked->bytes, marked->length);
}

static bool run_stage(const struct run *run, int32_t at, const char *text, size_t length)
{
    const struct pretok_stage *stage = &run->pretok->stages[at];
    if (stage->kind == PRETOK_PREFIX)
        return run_prefix(run, at, text, length);
    if (stage->kind == PRETOK_MARK)
        return run_mark(run, at, text, length);
    struct splitter s = {
        .run = run, .text = text, .next_stage = at + 1, .behavior = stage->behavior
    };
    bool ok = stage->kind == PRETOK_REGEX ? run_regex(run, stage, &s, text, length)
                                          : run_class(stage, &s, text, length);
    return ok && release(&s);
}

bool pretok_run(const struct pretok *pretok, struct pretok_scratch *scratch, bool first,
                const char *text, size_t length, pretok_sink *sink, void *arg, struct err *err)
{
    struct run run = { .pretok = pretok,
                       .scratch = scratch,
                       .sink = sink,
                       .arg = arg,
                       .origin = first ? text : NULL,
                       .err = err };
    err->code = ERR_NONE;
    return pass_on(&run, 0, text, length);
}
