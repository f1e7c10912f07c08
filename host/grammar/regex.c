/* regex.c - one pass over the text; groups lie on a stack of their own, not on C's. */
#include "host/grammar/regex.h"
#include "host/grammar/compile.h"
#include <string.h>

/* An open group, or the whole. A branch is items[items_from ..]; finished branches lie in
 * branches[branches_from ..]. */
struct group {
    uint32_t items_from, branches_from;
    uint32_t open;      /* byte of its '(' */
    bool leads, trails; /* its branches begin (end) where the whole text of the expression does */
    bool at_start, at_end;     /* the branch in hand has ^ in front ($ behind) */
    bool start_left, end_left; /* a group in front (behind) has taken care of that side */
};
struct numbers {
    uint32_t *at;
    uint32_t n, capacity;
};
struct regex {
    struct workshop *work;
    const char *name, *text;
    size_t length, at;
    enum regex_use use;
    enum char_form form;
    struct group *groups;
    uint32_t n_groups, groups_capacity;
    struct numbers items, branches;
    uint32_t *closes; /* [length] of a '(': the byte of its ')' */
    bool repeatable;  /* the last item is one atom that has no quantifier yet */
    uint32_t any;     /* any text, for REGEX_SEARCH */
};

static bool refuse(struct regex *r, size_t at, const char *what)
{
    work_refuse(r->work, ERR_REQUEST, "%s at byte %zu: %s", r->name, at, what);
    return false;
}

static void push(struct workshop *work, struct numbers *list, uint32_t value)
{
    list->at = scratch_grow(work, list->at, list->n, &list->capacity, sizeof *list->at);
    if (!work->failed)
        list->at[list->n++] = value;
}

static bool more(const struct regex *r)
{
    return r->at < r->length;
}

static bool next_is(const struct regex *r, char c)
{
    return more(r) && r->text[r->at] == c;
}

/* Code points that \d, \w, \s surely match, and that their negations surely do not miss. */
static const struct char_range DIGITS[] = { { '0', '9' } };
static const struct char_range NOT_DIGITS[] = {
    { 0, '0' - 1 }, { '9' + 1, 0x65f }, { 0x2000, 0xa61f }, { 0xac00, 0xd7a3 }, { 0x1f300, 0x1faff }
};
static const struct char_range WORDS[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } };
static const struct char_range NOT_WORDS[] = {
    { 0, '0' - 1 },     { '9' + 1, 'A' - 1 }, { 'Z' + 1, '_' - 1 }, { '`', '`' },
    { 'z' + 1, 0xa9 },  { 0xab, 0xb1 },       { 0xd7, 0xd7 },       { 0xf7, 0xf7 },
    { 0x2010, 0x2027 }, { 0x2030, 0x203e },   { 0x2190, 0x23ff },   { 0x2500, 0x2757 },
    { 0x3001, 0x3003 }, { 0x3008, 0x3011 },   { 0x1f300, 0x1faff },
};
static const struct char_range BLANKS[] = { { '\t', '\r' }, { ' ', ' ' } };
static const struct char_range NOT_BLANKS[] = {
    { 0, '\t' - 1 },
    { '\r' + 1, 0x1b },
    { '!', 0x84 },
    { 0x86, 0x9f },
    { 0xa1, 0x167f },
    { 0x1681, 0x180d },
    { 0x180f, 0x1fff },
    { 0x200b, 0x2027 },
    { 0x202a, 0x202e },
    { 0x2030, 0x205e },
    { 0x2060, 0x2fff },
    { 0x3001, 0xfefe },
    { 0xff00, CODE_POINT_MAX },
};
struct category {
    char letter, opposite;
    const struct char_range *ranges;
    uint32_t n;
};
#define CATEGORY(letter, opposite, ranges)                                                         \
    {                                                                                              \
        letter, opposite, ranges, sizeof ranges / sizeof ranges[0]                                 \
    }
static const struct category CATEGORIES[] = {
    CATEGORY('d', 'D', DIGITS),    CATEGORY('D', 'd', NOT_DIGITS), CATEGORY('w', 'W', WORDS),
    CATEGORY('W', 'w', NOT_WORDS), CATEGORY('s', 'S', BLANKS),     CATEGORY('S', 's', NOT_BLANKS),
};

static const struct category *find_category(char letter)
{
    for (size_t i = 0; i < sizeof CATEGORIES / sizeof CATEGORIES[0]; i++)
        if (CATEGORIES[i].letter == letter)
            return &CATEGORIES[i];
    return NULL;
}

/* `wide`: everything that it may be, for a class that is negated afterwards. */
static void add_category(struct regex *r, struct charset *set, const struct category *category,
                         bool wide)
{
    struct charset own = { 0 };
    const struct category *from = wide ? find_category(category->opposite) : category;
    for (uint32_t i = 0; i < from->n; i++)
        charset_add(r->work, &own, from->ranges[i].low, from->ranges[i].high);
    if (wide)
        charset_negate(r->work, &own);
    for (uint32_t i = 0; i < own.n; i++)
        charset_add(r->work, set, own.ranges[i].low, own.ranges[i].high);
}

static bool parse_hex(struct regex *r, size_t from, int n, uint32_t *point)
{
    *point = 0;
    for (int i = 0; i < n; i++, r->at++) {
        char c = more(r) ? r->text[r->at] : 0;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return refuse(r, from, "an escape without its hex digits");
        *point = *point * 16 + digit;
    }
    if (*point > CODE_POINT_MAX || (*point >= 0xd800 && *point <= 0xdfff))
        return refuse(r, from, "an escape that is not a Unicode character");
    return true;
}

/* Behind a backslash: a code point, or a category. */
static bool parse_escape(struct regex *r, uint32_t *point, const struct category **category)
{
    static const char names[] = "nrtfva", values[] = "\n\r\t\f\v\a";
    size_t from = r->at - 1;
    *category = NULL;
    if (!more(r))
        return refuse(r, from, "a backslash at the end");
    uint8_t c = (uint8_t)r->text[r->at];
    if (c >= 0x80) {
        int n;
        *point = code_point_at(r->text + r->at, r->length - r->at, &n);
        r->at += (size_t)n;
        return true;
    }
    r->at++;
    *category = find_category((char)c);
    if (*category)
        return true;
    if (c == 'x' || c == 'u' || c == 'U')
        return parse_hex(r, from, c == 'x' ? 2 : c == 'u' ? 4 : 8, point);
    const char *known = c ? strchr(names, c) : NULL;
    if (known) {
        *point = (uint8_t)values[known - names];
        return true;
    }
    if (c == '0' && !(more(r) && r->text[r->at] >= '0' && r->text[r->at] <= '9')) {
        *point = 0;
        return true;
    }
    if (c >= '0' && c <= '9')
        return refuse(r, from, "back references and octal escapes are not supported");
    if (c == 'b' || c == 'B')
        return refuse(r, from, "word boundaries (\\b, \\B) are not supported");
    if (c == 'p' || c == 'P')
        return refuse(r, from, "Unicode properties (\\p) are not supported");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return refuse(r, from, "an unknown escape");
    *point = c;
    return true;
}

/* One end of a range, or a category. */
static bool parse_class_part(struct regex *r, uint32_t *point, const struct category **category)
{
    int n;
    *category = NULL;
    if (next_is(r, '\\')) {
        r->at++;
        if (next_is(r, 'b')) { /* a backspace, in a class */
            r->at++;
            *point = '\b';
            return true;
        }
        return parse_escape(r, point, category);
    }
    *point = code_point_at(r->text + r->at, r->length - r->at, &n);
    r->at += (size_t)n;
    return true;
}

/* Behind '['. */
static bool parse_class(struct regex *r, struct charset *set)
{
    size_t from = r->at - 1;
    bool negated = next_is(r, '^');
    r->at += negated;
    for (bool first = true; first || !next_is(r, ']'); first = false) {
        uint32_t low, high;
        const struct category *category, *other;
        if (!more(r))
            return refuse(r, from, "a class that is not closed");
        size_t part = r->at;
        if (!work_step(r->work, 1) || !parse_class_part(r, &low, &category))
            return false;
        high = low;
        bool range = next_is(r, '-') && r->at + 1 < r->length && r->text[r->at + 1] != ']';
        if (range) {
            r->at++;
            if (!parse_class_part(r, &high, &other))
                return false;
            if (category || other || high < low)
                return refuse(r, part, "a range whose ends are not two characters in order");
        }
        if (category)
            add_category(r, set, category, negated);
        else
            charset_add(r->work, set, low, high);
    }
    r->at++;
    if (negated)
        charset_negate(r->work, set);
    return !r->work->failed;
}

static void put_item(struct regex *r, uint32_t item)
{
    push(r->work, &r->items, item);
    r->repeatable = true;
}

static void put_charset(struct regex *r, struct charset *set)
{
    put_item(r, expr_charset(r->work, set, r->form));
}

static void put_point(struct regex *r, uint32_t point)
{
    struct charset set = { 0 };
    charset_add(r->work, &set, point, point);
    put_charset(r, &set);
}

/* The byte of the ']' of the class that opens at `i`. The first character may be ']' itself. */
static size_t class_end(const struct regex *r, size_t i)
{
    i += i + 1 < r->length && r->text[i + 1] == '^';
    i += i + 1 < r->length && r->text[i + 1] == ']';
    for (i++; i < r->length && r->text[i] != ']'; i++)
        i += r->text[i] == '\\';
    return i;
}

/* Where each group closes; classes and escapes are skipped. */
static bool find_closes(struct regex *r)
{
    struct numbers open = { 0 };
    r->closes = scratch_take(r->work, r->length + 1, sizeof *r->closes);
    for (size_t i = 0; i < r->length && work_step(r->work, 1); i++) {
        char c = r->text[i];
        if (c == '\\') {
            i++;
        } else if (c == '[') {
            i = class_end(r, i);
        } else if (c == '(') {
            push(r->work, &open, (uint32_t)i);
        } else if (c == ')' && open.n > 0) {
            r->closes[open.at[--open.n]] = (uint32_t)i;
        }
    }
    return !r->work->failed;
}

static bool open_group(struct regex *r, uint32_t open, bool leads, bool trails)
{
    if (r->n_groups > (uint32_t)r->work->limits->depth) {
        work_refuse(r->work, ERR_REQUEST, "%s at byte %u: groups nested more than %d deep", r->name,
                    open, r->work->limits->depth);
        return false;
    }
    r->groups =
        scratch_grow(r->work, r->groups, r->n_groups, &r->groups_capacity, sizeof *r->groups);
    if (!r->work->failed)
        r->groups[r->n_groups++] = (struct group){ .items_from = r->items.n,
                                                   .branches_from = r->branches.n,
                                                   .open = open,
                                                   .leads = leads,
                                                   .trails = trails };
    r->repeatable = false;
    return !r->work->failed;
}

static bool begins_with(const struct regex *r, const char *head)
{
    size_t n = strlen(head);
    return n <= r->length - r->at && memcmp(r->text + r->at, head, n) == 0;
}

/* Behind '(': up to what the group holds. */
static bool parse_group_head(struct regex *r)
{
    size_t from = r->at - 1;
    struct group *up = &r->groups[r->n_groups - 1];
    size_t close = r->closes[from];
    bool first = r->items.n == up->items_from && !up->at_start;
    bool last = close > 0 &&
                (close + 1 == r->length || r->text[close + 1] == '|' || r->text[close + 1] == ')');
    /* A quantifier behind it, and what is repeated has neither begin nor end. */
    bool single = close > 0 && (close + 1 == r->length || !strchr("*+?{", r->text[close + 1]));
    bool leads = up->leads && first && single, trails = up->trails && last;
    up->start_left |= leads;
    up->end_left |= trails;
    if (next_is(r, '?')) {
        static const struct {
            const char *head, *refusal;
        } heads[] = {
            { "?:", NULL },
            { "?P<", NULL },
            { "?=", "lookahead is not supported" },
            { "?!", "lookahead is not supported" },
            { "?<=", "lookbehind is not supported" },
            { "?<!", "lookbehind is not supported" },
            { "?<", NULL },
            { "?P=", "back references are not supported" },
            { "?(", "conditional groups are not supported" },
            { "?>", "atomic groups are not supported" },
            { "?#", "comments are not supported" },
            { "?", "flags in a group are not supported" },
        };
        size_t i = 0;
        while (!begins_with(r, heads[i].head))
            i++;
        if (heads[i].refusal)
            return refuse(r, from, heads[i].refusal);
        r->at += strlen(heads[i].head);
        bool named = heads[i].head[strlen(heads[i].head) - 1] == '<';
        size_t name = r->at;
        while (named && more(r) && r->text[r->at] != '>')
            r->at++;
        if (named && (!more(r) || r->at == name))
            return refuse(r, from, "a group whose name is not closed");
        r->at += named;
    }
    return open_group(r, (uint32_t)from, leads, trails);
}

/* The branch in hand is whole. */
static void end_branch(struct regex *r)
{
    struct group *g = &r->groups[r->n_groups - 1];
    bool search = r->use == REGEX_SEARCH;
    uint32_t body = r->work->failed ? EXPR_NONE
                                    : expr_seq(r->work, r->items.at + g->items_from,
                                               r->items.n - g->items_from);
    if (search && g->leads && !g->at_start && !g->start_left)
        body = expr_seq2(r->work, r->any, body);
    if (search && g->trails && !g->at_end && !g->end_left)
        body = expr_seq2(r->work, body, r->any);
    r->items.n = g->items_from;
    push(r->work, &r->branches, body);
    g->at_start = g->at_end = g->start_left = g->end_left = false;
    r->repeatable = false;
}

/* All branches of the group in hand; it is gone then. */
static uint32_t end_group(struct regex *r)
{
    end_branch(r);
    const struct group *g = &r->groups[--r->n_groups];
    uint32_t n = r->branches.n - g->branches_from;
    if (r->work->failed)
        return EXPR_NONE;
    r->branches.n = g->branches_from;
    return expr_alt(r->work, r->branches.at + g->branches_from, n);
}

static bool parse_number(struct regex *r, size_t *at, int64_t *value)
{
    size_t from = *at;
    *value = 0;
    for (; *at < r->length && r->text[*at] >= '0' && r->text[*at] <= '9'; ++*at)
        if (*value <= REPEAT_MAX)
            *value = *value * 10 + (r->text[*at] - '0');
    return *at > from;
}

/* At '*', '+', '?' or '{': true with the bounds when it is a quantifier; r->at is behind it then.
 */
static bool parse_bounds(struct regex *r, int64_t *min, int64_t *max)
{
    char c = r->text[r->at];
    size_t at = r->at + 1;
    *min = c == '+';
    *max = c == '?' ? 1 : -1;
    if (c == '{') {
        bool low = parse_number(r, &at, min);
        *max = *min;
        if (at < r->length && r->text[at] == ',') {
            at++;
            if (!parse_number(r, &at, max))
                *max = -1;
            low = true; /* none is 0 */
        }
        if (!low || at >= r->length || r->text[at] != '}')
            return false; /* Python takes it as it stands */
        at++;
    }
    r->at = at;
    return true;
}

static bool parse_quantifier(struct regex *r)
{
    size_t from = r->at;
    int64_t min, max;
    if (!parse_bounds(r, &min, &max)) {
        put_point(r, '{');
        r->at++;
        return !r->work->failed;
    }
    if (!r->repeatable)
        return refuse(r, from, "nothing that can be repeated is in front of this");
    if (max >= 0 && min > max)
        return refuse(r, from, "a repetition whose least is above its most");
    if (next_is(r, '+'))
        return refuse(r, r->at, "possessive repetition is not supported");
    if (next_is(r, '?'))
        r->at++;
    uint32_t *item = &r->items.at[r->items.n - 1];
    *item = expr_repeat(r->work, *item, min, max);
    r->repeatable = false;
    return !r->work->failed;
}

/* ^ and \A; $ and \Z. Only where they say nothing, or end the search's freedom. */
static bool parse_anchor(struct regex *r, size_t from, bool start)
{
    struct group *g = &r->groups[r->n_groups - 1];
    r->repeatable = false;
    if (start) {
        if (!g->leads || r->items.n > g->items_from)
            return refuse(r, from, "'^' is supported only at the beginning of a branch");
        g->at_start = true;
        return true;
    }
    if (!g->trails || (more(r) && !next_is(r, '|') && !next_is(r, ')')))
        return refuse(r, from, "'$' is supported only at the end of a branch");
    g->at_end = true;
    return true;
}

static bool parse_item(struct regex *r)
{
    size_t from = r->at;
    struct charset set = { 0 };
    const struct category *category;
    uint32_t point;
    int n;
    switch (r->text[r->at]) {
    case '^':
    case '$':
        r->at++;
        return parse_anchor(r, from, r->text[from] == '^');
    case '*':
    case '+':
    case '?':
    case '{':
        return parse_quantifier(r);
    case '|':
        r->at++;
        end_branch(r);
        return !r->work->failed;
    case '(':
        r->at++;
        return parse_group_head(r);
    case ')':
        if (r->n_groups == 1)
            return refuse(r, from, "')' without '('");
        r->at++;
        put_item(r, end_group(r));
        return !r->work->failed;
    case '[':
        r->at++;
        if (!parse_class(r, &set))
            return false;
        put_charset(r, &set);
        return !r->work->failed;
    case '.':
        r->at++;
        charset_add(r->work, &set, '\n', '\n');
        charset_negate(r->work, &set);
        put_charset(r, &set);
        return !r->work->failed;
    case '\\':
        r->at++;
        if (next_is(r, 'A') || next_is(r, 'Z')) {
            r->at++;
            return parse_anchor(r, from, r->text[from + 1] == 'A');
        }
        if (!parse_escape(r, &point, &category))
            return false;
        if (category)
            add_category(r, &set, category, false);
        else
            charset_add(r->work, &set, point, point);
        put_charset(r, &set);
        return !r->work->failed;
    default:
        point = code_point_at(r->text + r->at, r->length - r->at, &n);
        r->at += (size_t)n;
        put_point(r, point);
        return !r->work->failed;
    }
}

static bool check_utf8(struct regex *r)
{
    size_t wrong = text_not_utf8(r->text, r->length);
    return wrong == r->length || refuse(r, wrong, "want UTF-8");
}

static uint32_t any_text(struct regex *r)
{
    struct charset all = { 0 };
    charset_add(r->work, &all, 0, CODE_POINT_MAX);
    return expr_star(r->work, expr_charset(r->work, &all, r->form));
}

uint32_t regex_parse(struct workshop *work, const char *name, const char *text, size_t length,
                     enum regex_use use, enum char_form form)
{
    struct regex r = {
        .work = work, .name = name, .text = text, .length = length, .use = use, .form = form
    };
    struct arena_mark mark = arena_mark(&work->scratch);
    uint32_t result = EXPR_NONE;
    push(work, &r.items, EXPR_EMPTY); /* neither list is ever NULL */
    push(work, &r.branches, EXPR_EMPTY);
    bool fine = check_utf8(&r) && find_closes(&r) && open_group(&r, 0, true, true);
    if (fine && use == REGEX_SEARCH)
        r.any = any_text(&r);
    while (fine && more(&r))
        fine = work_step(work, 1) && parse_item(&r);
    if (fine && r.n_groups > 1)
        fine = refuse(&r, r.groups[r.n_groups - 1].open, "a group that is not closed");
    if (fine)
        result = end_group(&r);
    arena_reset(&work->scratch, mark);
    return work->failed ? EXPR_NONE : result;
}

bool grammar_compile_regex(struct grammar **grammar, const char *text, size_t length,
                           const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    *grammar = NULL;
    if (!source_fits(length, limits, err))
        return false;
    workshop_open(&work, limits, err);
    uint32_t root = rule_new(&work, NULL);
    rule_set(&work, root,
             regex_parse(&work, "the regular expression", text, length, REGEX_WHOLE, CHARS_RAW));
    return grammar_finish(&work, root, 0, 0, grammar);
}

bool grammar_compile_choice(struct grammar **grammar, const struct grammar_text *texts,
                            size_t n_texts, const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    size_t total = 0;
    *grammar = NULL;
    for (size_t i = 0; i < n_texts; i++)
        total += texts[i].length;
    if (!source_fits(total, limits, err))
        return false;
    if (n_texts == 0)
        return err_set(err, ERR_REQUEST, "the choice has no texts, want at least one");
    workshop_open(&work, limits, err);
    struct numbers items = { 0 };
    for (size_t i = 0; i < n_texts && !work.failed; i++) {
        if (text_not_utf8(texts[i].bytes, texts[i].length) < texts[i].length)
            work_refuse(&work, ERR_REQUEST, "text %zu of the choice is not UTF-8", i);
        push(&work, &items, expr_text(&work, texts[i].bytes, texts[i].length));
    }
    uint32_t root = rule_new(&work, NULL);
    rule_set(&work, root, work.failed ? EXPR_NONE : expr_alt(&work, items.at, items.n));
    return grammar_finish(&work, root, 0, 0, grammar);
}
