/* gbnf.c - one pass over the text; groups lie on a stack of their own. */
#include "host/grammar/gbnf.h"
#include "host/base/map.h"
#include "host/grammar/compile.h"
#include <string.h>

struct group {
    uint32_t items_from, branches_from;
    uint32_t open; /* byte of its '(' */
};
struct numbers {
    uint32_t *at;
    uint32_t n, capacity;
};
struct gbnf {
    struct workshop *work;
    const char *text;
    size_t length, at;
    struct map names;                  /* rule name -> rule */
    struct numbers defined, first_use; /* by rule: is it; byte of its first mention */
    struct group *groups;
    uint32_t n_groups, groups_capacity;
    struct numbers items, branches;
    bool repeatable; /* the last item is one atom */
};

static bool refuse(struct gbnf *g, size_t at, const char *what)
{
    work_refuse(g->work, ERR_REQUEST, "the grammar at byte %zu: %s", at, what);
    return false;
}

static bool refuse_name(struct gbnf *g, size_t at, const char *name, const char *what)
{
    work_refuse(g->work, ERR_REQUEST, "the grammar at byte %zu: rule %.60s %s", at, name, what);
    return false;
}

static void push(struct workshop *work, struct numbers *list, uint32_t value)
{
    list->at = scratch_grow(work, list->at, list->n, &list->capacity, sizeof *list->at);
    if (!work->failed)
        list->at[list->n++] = value;
}

static bool next_is(const struct gbnf *g, char c)
{
    return g->at < g->length && g->text[g->at] == c;
}

static bool next_is_text(const struct gbnf *g, const char *text)
{
    size_t n = strlen(text);
    return n <= g->length - g->at && memcmp(g->text + g->at, text, n) == 0;
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/* Blanks and comments; line ends too where the rule cannot end. */
static void skip_blanks(struct gbnf *g, bool lines)
{
    while (g->at < g->length && work_step(g->work, 1)) {
        char c = g->text[g->at];
        if (c == '#') {
            while (g->at < g->length && g->text[g->at] != '\n' && g->text[g->at] != '\r')
                g->at++;
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            g->at++;
        } else {
            return;
        }
    }
}

/* The rule of the name at g->at, made when it is new. */
static bool parse_name(struct gbnf *g, uint32_t *rule)
{
    enum { NAME_MAX_BYTES = 128 };
    char name[NAME_MAX_BYTES + 1];
    size_t from = g->at, n = 0;
    bool is_new;
    while (g->at < g->length && is_name_byte(g->text[g->at])) {
        if (n == NAME_MAX_BYTES)
            return refuse(g, from, "a rule's name of more than 128 bytes");
        name[n++] = g->text[g->at++];
    }
    if (n == 0)
        return refuse(g, from,
                      g->at == g->length ? "the end, want a rule's name" : "want a rule's name");
    name[n] = 0;
    int32_t found = map_get(&g->names, name, n, -1);
    if (found >= 0) {
        *rule = (uint32_t)found;
        return true;
    }
    *rule = rule_new(g->work, name);
    while (g->defined.n <= *rule && !g->work->failed) { /* repetitions make rules without names */
        push(g->work, &g->defined, false);
        push(g->work, &g->first_use, (uint32_t)from);
    }
    if (!g->work->failed && !map_set(&g->names, name, n, (int32_t)*rule, &is_new))
        work_refuse(g->work, ERR_MEMORY, "no memory for the names of a grammar");
    return !g->work->failed;
}

static bool parse_hex(struct gbnf *g, size_t from, int n, uint32_t *point)
{
    *point = 0;
    for (int i = 0; i < n; i++, g->at++) {
        char c = g->at < g->length ? g->text[g->at] : 0;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return refuse(g, from, "an escape without its hex digits");
        *point = *point * 16 + digit;
    }
    if (*point > CODE_POINT_MAX || (*point >= 0xd800 && *point <= 0xdfff))
        return refuse(g, from, "an escape that is not a Unicode character");
    return true;
}

/* One character of a literal or a class, perhaps escaped. */
static bool parse_point(struct gbnf *g, uint32_t *point)
{
    size_t from = g->at;
    int n;
    if (!next_is(g, '\\')) {
        *point = code_point_at(g->text + g->at, g->length - g->at, &n);
        g->at += (size_t)n;
        return true;
    }
    char c = g->at + 1 < g->length ? g->text[g->at + 1] : 0;
    g->at += 2;
    switch (c) {
    case 'x':
        return parse_hex(g, from, 2, point);
    case 'u':
        return parse_hex(g, from, 4, point);
    case 'U':
        return parse_hex(g, from, 8, point);
    case 'n':
        *point = '\n';
        return true;
    case 'r':
        *point = '\r';
        return true;
    case 't':
        *point = '\t';
        return true;
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        *point = (uint8_t)c;
        return true;
    default:
        return refuse(g, from, "an unknown escape");
    }
}

static void put_item(struct gbnf *g, uint32_t item)
{
    push(g->work, &g->items, item);
    g->repeatable = true;
}

static uint32_t one_point(struct gbnf *g, uint32_t point)
{
    struct charset set = { 0 };
    charset_add(g->work, &set, point, point);
    return expr_charset(g->work, &set, CHARS_RAW);
}

static bool parse_literal(struct gbnf *g)
{
    size_t from = g->at++;
    uint32_t first = g->items.n;
    while (!next_is(g, '"')) {
        uint32_t point;
        if (g->at == g->length)
            return refuse(g, from, "a literal that is not closed");
        if (!work_step(g->work, 1) || !parse_point(g, &point))
            return false;
        push(g->work, &g->items, one_point(g, point));
    }
    g->at++;
    if (g->work->failed)
        return false;
    uint32_t item = expr_seq(g->work, g->items.at + first, g->items.n - first);
    g->items.n = first;
    put_item(g, item);
    return !g->work->failed;
}

static bool parse_class(struct gbnf *g)
{
    size_t from = g->at++;
    struct charset set = { 0 };
    bool negated = next_is(g, '^');
    g->at += negated;
    while (!next_is(g, ']')) {
        uint32_t low, high;
        if (g->at == g->length)
            return refuse(g, from, "a class that is not closed");
        size_t part = g->at;
        if (!work_step(g->work, 1) || !parse_point(g, &low))
            return false;
        high = low;
        if (next_is(g, '-') && g->at + 1 < g->length && g->text[g->at + 1] != ']') {
            g->at++;
            if (!parse_point(g, &high))
                return false;
            if (high < low)
                return refuse(g, part, "a range that ends before it begins");
        }
        charset_add(g->work, &set, low, high);
    }
    g->at++;
    if (negated)
        charset_negate(g->work, &set);
    put_item(g, expr_charset(g->work, &set, CHARS_RAW));
    return !g->work->failed;
}

static bool parse_number(struct gbnf *g, int64_t *value)
{
    size_t from = g->at;
    *value = 0;
    for (; g->at < g->length && g->text[g->at] >= '0' && g->text[g->at] <= '9'; g->at++)
        if (*value <= REPEAT_MAX)
            *value = *value * 10 + (g->text[g->at] - '0');
    return g->at > from;
}

/* At '*', '+', '?' or '{'. */
static bool parse_quantifier(struct gbnf *g)
{
    size_t from = g->at;
    char c = g->text[g->at++];
    int64_t min = c == '+', max = c == '?' ? 1 : -1;
    if (!g->repeatable)
        return refuse(g, from, "nothing that can be repeated is in front of this");
    if (c == '{') {
        skip_blanks(g, true);
        bool low = parse_number(g, &min);
        max = min;
        skip_blanks(g, true);
        if (next_is(g, ',')) {
            g->at++;
            skip_blanks(g, true);
            if (!parse_number(g, &max))
                max = -1;
            low |= max >= 0;
            skip_blanks(g, true);
        }
        if (!low || !next_is(g, '}'))
            return refuse(g, from, "want {m}, {m,}, {,n} or {m,n}");
        g->at++;
        if (max >= 0 && min > max)
            return refuse(g, from, "a repetition whose least is above its most");
    }
    uint32_t *item = &g->items.at[g->items.n - 1];
    *item = expr_repeat(g->work, *item, min, max);
    return !g->work->failed;
}

static bool open_group(struct gbnf *g, size_t open)
{
    if (g->n_groups > (uint32_t)g->work->limits->depth) {
        work_refuse(g->work, ERR_REQUEST,
                    "the grammar at byte %zu: groups nested more than %d deep", open,
                    g->work->limits->depth);
        return false;
    }
    g->groups =
        scratch_grow(g->work, g->groups, g->n_groups, &g->groups_capacity, sizeof *g->groups);
    if (!g->work->failed)
        g->groups[g->n_groups++] = (struct group){ g->items.n, g->branches.n, (uint32_t)open };
    g->repeatable = false;
    return !g->work->failed;
}

static void end_branch(struct gbnf *g)
{
    const struct group *group = &g->groups[g->n_groups - 1];
    if (g->work->failed)
        return;
    push(g->work, &g->branches,
         expr_seq(g->work, g->items.at + group->items_from, g->items.n - group->items_from));
    g->items.n = group->items_from;
    g->repeatable = false;
}

static uint32_t end_group(struct gbnf *g)
{
    end_branch(g);
    const struct group *group = &g->groups[--g->n_groups];
    uint32_t n = g->branches.n - group->branches_from;
    if (g->work->failed)
        return EXPR_NONE;
    g->branches.n = group->branches_from;
    return expr_alt(g->work, g->branches.at + group->branches_from, n);
}

static bool parse_item(struct gbnf *g)
{
    size_t from = g->at;
    struct charset all = { 0 };
    uint32_t rule;
    switch (g->text[g->at]) {
    case '"':
        return parse_literal(g);
    case '[':
        return parse_class(g);
    case '*':
    case '+':
    case '?':
    case '{':
        return parse_quantifier(g);
    case '(':
        g->at++;
        return open_group(g, from);
    case ')':
        if (g->n_groups == 1)
            return refuse(g, from, "')' without '('");
        g->at++;
        put_item(g, end_group(g));
        return !g->work->failed;
    case '|':
        g->at++;
        end_branch(g);
        skip_blanks(g, true);
        return !g->work->failed;
    case '.':
        g->at++;
        charset_add(g->work, &all, 0, CODE_POINT_MAX);
        put_item(g, expr_charset(g->work, &all, CHARS_RAW));
        return !g->work->failed;
    case '<':
    case '!':
        return refuse(g, from, "tokens by name or number are not supported");
    default:
        if (!is_name_byte(g->text[g->at]))
            return refuse(g, from, "want a literal, a class, a rule's name, a group or a line end");
        if (!parse_name(g, &rule))
            return false;
        put_item(g, expr_rule(g->work, rule));
        return !g->work->failed;
    }
}

/* name ::= branches, to the end of the line. */
static bool parse_rule(struct gbnf *g)
{
    size_t from = g->at;
    uint32_t rule;
    if (!parse_name(g, &rule))
        return false;
    if (g->defined.at[rule])
        return refuse_name(g, from, g->work->rules[rule].name, "is defined twice");
    g->defined.at[rule] = true;
    skip_blanks(g, false);
    if (!next_is_text(g, "::="))
        return refuse(g, g->at, "want '::=' behind a rule's name");
    g->at += 3;
    if (!open_group(g, from))
        return false;
    skip_blanks(g, true);
    while (g->at < g->length && !g->work->failed) {
        skip_blanks(g, g->n_groups > 1);
        if (g->at == g->length || next_is(g, '\n') || next_is(g, '\r'))
            break;
        if (!parse_item(g))
            return false;
    }
    if (g->n_groups > 1)
        return refuse(g, g->groups[g->n_groups - 1].open, "a group that is not closed");
    rule_set(g->work, rule, end_group(g));
    return !g->work->failed;
}

static bool parse_rules(struct gbnf *g)
{
    struct workshop *work = g->work;
    size_t wrong = text_not_utf8(g->text, g->length);
    if (wrong < g->length)
        return refuse(g, wrong, "want UTF-8");
    for (skip_blanks(g, true); g->at < g->length; skip_blanks(g, true))
        if (work->failed || !parse_rule(g))
            return false;
    for (uint32_t r = 0; r < work->n_rules && !work->failed; r++)
        if (work->rules[r].name && !g->defined.at[r])
            return refuse_name(g, g->first_use.at[r], work->rules[r].name, "has no definition");
    return !work->failed;
}

uint32_t gbnf_parse(struct workshop *work, const char *text, size_t length)
{
    struct gbnf g = { .work = work, .text = text, .length = length };
    struct arena_mark mark = arena_mark(&work->scratch);
    int32_t root = -1;
    if (!map_init(&g.names, 64, work->err)) {
        work->failed = true;
        return 0;
    }
    push(work, &g.items, EXPR_EMPTY); /* neither list is ever NULL */
    push(work, &g.branches, EXPR_EMPTY);
    if (parse_rules(&g)) {
        root = map_get(&g.names, "root", 4, -1);
        if (root < 0)
            work_refuse(work, ERR_REQUEST, "the grammar has no rule named root");
    }
    map_clear(&g.names);
    arena_reset(&work->scratch, mark);
    return root < 0 ? 0 : (uint32_t)root;
}

bool grammar_compile_gbnf(struct grammar **grammar, const char *text, size_t length,
                          const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    *grammar = NULL;
    if (!source_fits(length, limits, err))
        return false;
    workshop_open(&work, limits, err);
    uint32_t root = gbnf_parse(&work, text, length);
    return grammar_finish(&work, root, 0, 0, grammar);
}
