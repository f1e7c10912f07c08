/* regex_ruby.c - a regular expression in Oniguruma's Ruby syntax, rewritten for PCRE2.
 *
 * Invariant: what is written means in PCRE2 (UTF, UCP, MULTILINE, newline LF) what the pattern
 * means in Oniguruma (UTF-8, Ruby syntax, no options); what cannot be carried over is refused by
 * name, never passed through and hoped for. One pass, no tree: the only thing to remember is where
 * the last atom began in the output, because some quantifiers must be wrapped around it. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "host/text/split_regex.h"
#include "host/text/unicode.h"

enum { DEPTH_MAX = 64 }; /* groups, and classes within classes */

/* The classes by Oniguruma's tables. PCRE2's own \s also has U+180E, its \w has other numbers. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define WORD  "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of brackets its table for U+0000..U+00FF counts: there the other numbers are words. */
#define WORD_ALONE WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEX        "0-9A-Fa-f"

struct group {
    size_t at;    /* where it begins in the output */
    int32_t more; /* closing brackets that isolated options added */
};
struct rewrite {
    const char *pattern;
    size_t length, at;
    struct buf *out;
    size_t atom;     /* where the last atom begins in `out`, or SIZE_MAX */
    bool quantified; /* that atom has its quantifier already */
    struct group groups[DEPTH_MAX];
    int32_t depth;
    struct err *err;
};

static bool refuse(const struct rewrite *r, size_t at, const char *what)
{
    return err_set(r->err, ERR_UNSUPPORTED, "pattern: %s at byte %zu is not supported", what, at);
}
static bool broken(const struct rewrite *r, size_t at, const char *what)
{
    return err_set(r->err, ERR_FORMAT, "pattern: %s at byte %zu", what, at);
}

static bool more(const struct rewrite *r)
{
    return r->at < r->length;
}
static char peek(const struct rewrite *r, size_t ahead)
{
    return r->length - r->at > ahead ? r->pattern[r->at + ahead] : 0;
}
static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}
static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void insert(struct buf *out, size_t at, const char *text)
{
    size_t n = strlen(text), tail = out->length - at;
    buf_puts(out, text); /* makes room */
    if (out->failed)
        return;
    memmove(out->bytes + at + n, out->bytes + at, tail);
    memcpy(out->bytes + at, text, n);
}

/* One literal character, of one to four bytes, in or out of a class. */
static void put_literal(struct buf *out, const char *bytes, unsigned n)
{
    if (n == 1 && unicode_is_punct((uint8_t)bytes[0]))
        buf_putc(out, '\\');
    buf_put(out, bytes, n);
}
static void put_code(struct buf *out, uint32_t code)
{
    buf_printf(out, "\\x{%x}", code);
}

/* --- escapes --------------------------------------------------------------------------------- */

enum escape_kind { ESCAPE_CHAR, ESCAPE_SET, ESCAPE_OTHER };
struct escape {
    enum escape_kind kind;
    uint32_t code;   /* ESCAPE_CHAR */
    const char *set; /* ESCAPE_SET: inside of a PCRE2 class */
    char property[72];
    bool negated;
    char letter; /* ESCAPE_OTHER */
};

static bool hex_escape(struct rewrite *r, size_t start, int digits_max, bool braces,
                       struct escape *e)
{
    int n = 0;
    uint32_t code = 0;
    while (more(r) && n < digits_max && hex_value(peek(r, 0)) >= 0) {
        code = code * 16 + (uint32_t)hex_value(r->pattern[r->at++]);
        n++;
    }
    if (n == 0)
        return broken(r, start, "an escape without hexadecimal digits");
    if (braces) {
        if (peek(r, 0) != '}')
            return broken(r, start, "a \\x{ that is not closed");
        r->at++;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return broken(r, start, "a number that is no character");
    e->kind = ESCAPE_CHAR;
    e->code = code;
    return true;
}

static bool is_pattern(const char *pattern)
{
    int code;
    size_t at;
    pcre2_code *made =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    pcre2_code_free(made);
    return made != NULL;
}

static bool property_escape(struct rewrite *r, size_t start, bool negated, struct escape *e)
{
    if (peek(r, 0) != '{')
        return refuse(r, start, "\\p without a brace");
    r->at++;
    if (peek(r, 0) == '^') {
        negated = !negated;
        r->at++;
    }
    char name[48];
    size_t n = 0;
    while (more(r) && peek(r, 0) != '}') {
        char c = r->pattern[r->at++];
        if ((!is_letter(c) && !is_digit(c) && c != '_' && c != '-' && c != ' ') ||
            n + 1 >= sizeof name)
            return broken(r, start, "a property name that is none");
        name[n++] = c;
    }
    if (!more(r) || n == 0)
        return broken(r, start, "a \\p{ that is not closed");
    r->at++;
    name[n] = 0;
    /* PCRE2 takes a bare script name for Script_Extensions, which has punctuation too. */
    snprintf(e->property, sizeof e->property, "\\p{sc:%s}", name);
    bool script = is_pattern(e->property);
    snprintf(e->property, sizeof e->property, "\\%c{%s%s}", negated ? 'P' : 'p',
             script ? "sc:" : "", name);
    e->kind = ESCAPE_SET;
    e->set = e->property;
    return true;
}

static bool set_escape(struct escape *e, const char *set, bool negated)
{
    e->kind = ESCAPE_SET;
    e->set = set;
    e->negated = negated;
    return true;
}
static bool char_escape(struct escape *e, uint32_t code)
{
    e->kind = ESCAPE_CHAR;
    e->code = code;
    return true;
}

/* Reads an escape; r->at is behind the backslash. */
static bool read_escape(struct rewrite *r, struct escape *e, bool in_class)
{
    *e = (struct escape){ 0 };
    size_t start = r->at - 1;
    if (!more(r))
        return broken(r, start, "a backslash at the end");
    char c = r->pattern[r->at];
    if ((uint8_t)c >= 0x80 || (!is_letter(c) && !is_digit(c))) {
        unsigned n;
        uint32_t code = unicode_decode(r->pattern + r->at, &n);
        r->at += n;
        return char_escape(e, code);
    }
    r->at++;
    switch (c) {
    case 't':
        return char_escape(e, '\t');
    case 'n':
        return char_escape(e, '\n');
    case 'r':
        return char_escape(e, '\r');
    case 'f':
        return char_escape(e, '\f');
    case 'v':
        return char_escape(e, 0x0b);
    case 'a':
        return char_escape(e, 0x07);
    case 'e':
        return char_escape(e, 0x1b);
    case 's':
    case 'S':
        return set_escape(e, SPACE, c == 'S');
    case 'd':
    case 'D':
        return set_escape(e, "\\p{Nd}", c == 'D');
    case 'w':
    case 'W':
        return set_escape(e, in_class ? WORD : WORD_ALONE, c == 'W');
    case 'h':
    case 'H':
        return set_escape(e, HEX, c == 'H');
    case 'p':
    case 'P':
        return property_escape(r, start, c == 'P', e);
    case 'u':
        return hex_escape(r, start, 4, false, e);
    case 'x':
        if (peek(r, 0) == '{') {
            r->at++;
            return hex_escape(r, start, 8, true, e);
        }
        if (!hex_escape(r, start, 2, false, e))
            return false;
        return e->code < 0x80 || refuse(r, start, "a \\x escape of a single byte over 7f");
    default:
        e->kind = ESCAPE_OTHER;
        e->letter = c;
        return true;
    }
}

/* --- character classes ----------------------------------------------------------------------- */

static const struct {
    const char *name, *set;
} POSIX[] = {
    { "alnum", "\\p{Alphabetic}\\p{Nd}" },
    { "alpha", "\\p{Alphabetic}" },
    { "ascii", "\\x00-\\x7f" },
    { "blank", "\\t\\p{Zs}" },
    { "cntrl", "\\p{Cc}" },
    { "digit", "\\p{Nd}" },
    { "lower", "\\p{Lowercase}" },
    { "punct", "\\p{P}\\p{S}" },
    { "space", SPACE },
    { "upper", "\\p{Uppercase}" },
    { "word", WORD },
    { "xdigit", HEX },
};

/* One operand of && while it is read: a flat PCRE2 class body, and alternatives that PCRE2's
 * classes cannot hold (negated sets, classes within classes). */
struct operand {
    struct buf flat, nested;
    bool previous_single; /* the last item was one character: a '-' may follow as a range */
};

static void operand_init(struct operand *o)
{
    buf_init(&o->flat, 16 * REGEX_PATTERN_MAX);
    buf_init(&o->nested, 32 * REGEX_PATTERN_MAX);
    o->previous_single = false;
}
static void operand_clear(struct operand *o)
{
    buf_clear(&o->flat);
    buf_clear(&o->nested);
}

static void operand_set(struct operand *o, const char *set, bool negated)
{
    o->previous_single = false;
    if (!negated) {
        buf_puts(&o->flat, set);
        return;
    }
    if (o->nested.length > 0)
        buf_putc(&o->nested, '|');
    buf_printf(&o->nested, "[^%s]", set);
}

/* The operand as an expression that matches one character. An empty one matches none. */
static void operand_put(struct operand *o, struct buf *out)
{
    if (o->nested.failed || o->flat.failed)
        out->failed = true;
    if (o->flat.length == 0 && o->nested.length == 0)
        buf_puts(out, "(?!)");
    else if (o->nested.length == 0)
        buf_printf(out, "[%s]", buf_text(&o->flat));
    else if (o->flat.length == 0)
        buf_printf(out, "(?:%s)", buf_text(&o->nested));
    else
        buf_printf(out, "(?:[%s]|%s)", buf_text(&o->flat), buf_text(&o->nested));
}

static bool posix_class(struct rewrite *r, struct operand *o)
{
    size_t start = r->at, i = r->at + 2;
    bool negated = i < r->length && r->pattern[i] == '^';
    i += negated;
    size_t from = i;
    while (i < r->length && is_letter(r->pattern[i]))
        i++;
    if (i + 1 >= r->length || r->pattern[i] != ':' || r->pattern[i + 1] != ']')
        return broken(r, start, "a [: in a class that is no POSIX bracket");
    for (size_t k = 0; k < sizeof POSIX / sizeof *POSIX; k++)
        if (strlen(POSIX[k].name) == i - from &&
            memcmp(POSIX[k].name, r->pattern + from, i - from) == 0) {
            r->at = i + 2;
            operand_set(o, POSIX[k].set, negated);
            return true;
        }
    return refuse(r, start, "this POSIX bracket");
}

static bool rewrite_class(struct rewrite *r, struct buf *out, int32_t depth);

/* A '-' that is read: a range when one character stands on each side, else itself. */
static void class_dash(struct rewrite *r, struct operand *o)
{
    char next = peek(r, 0);
    bool set_follows = next == '\\' && peek(r, 1) && strchr("sSdDwWhHpP", peek(r, 1));
    bool and_follows = next == '&' && peek(r, 1) == '&';
    if (o->previous_single && next && next != ']' && next != '[' && !set_follows && !and_follows)
        buf_putc(&o->flat, '-');
    else
        buf_puts(&o->flat, "\\-");
}

static bool class_escape(struct rewrite *r, struct operand *o, bool in_range)
{
    size_t start = r->at - 1;
    struct escape e;
    if (!read_escape(r, &e, true))
        return false;
    if (e.kind == ESCAPE_SET) {
        operand_set(o, e.set, e.negated);
        return true;
    }
    if (e.kind == ESCAPE_OTHER && e.letter != 'b')
        return refuse(r, start, "this escape in a class");
    put_code(&o->flat, e.kind == ESCAPE_OTHER ? 0x08 : e.code);
    o->previous_single = !in_range;
    return true;
}

/* Reads up to && or the closing bracket. */
static bool class_operand(struct rewrite *r, struct operand *o, int32_t depth, bool first)
{
    size_t start = r->at;
    for (; more(r); first = false) {
        char c = r->pattern[r->at];
        if ((c == ']' && !first) || (c == '&' && peek(r, 1) == '&'))
            return true;
        bool in_range = o->flat.length > 0 && buf_text(&o->flat)[o->flat.length - 1] == '-' &&
                        (o->flat.length < 2 || buf_text(&o->flat)[o->flat.length - 2] != '\\');
        if (c == '[' && peek(r, 1) == ':') {
            if (!posix_class(r, o))
                return false;
        } else if (c == '[') {
            r->at++;
            if (o->nested.length > 0)
                buf_putc(&o->nested, '|');
            if (!rewrite_class(r, &o->nested, depth + 1))
                return false;
            o->previous_single = false;
        } else if (c == '\\') {
            r->at++;
            if (!class_escape(r, o, in_range))
                return false;
        } else if (c == '-' && !in_range) {
            r->at++;
            class_dash(r, o);
            o->previous_single = false;
        } else {
            unsigned n;
            unicode_decode(r->pattern + r->at, &n);
            put_literal(&o->flat, r->pattern + r->at, n);
            r->at += n;
            o->previous_single = !in_range;
        }
    }
    return broken(r, start, "a class that is not closed");
}

/* r->at is behind the '['. Appends an expression for one character. A && B becomes (?=A)B. */
static bool rewrite_class(struct rewrite *r, struct buf *out, int32_t depth)
{
    struct operand o;
    struct buf ands; /* lookaheads of all operands but the last */
    bool negated = peek(r, 0) == '^', ok = false, first = true;
    if (depth > DEPTH_MAX)
        return refuse(r, r->at, "so deep a class");
    r->at += negated;
    operand_init(&o);
    buf_init(&ands, 64 * REGEX_PATTERN_MAX);
    for (;;) {
        if (!class_operand(r, &o, depth, first))
            goto done;
        first = false;
        if (peek(r, 0) == ']')
            break;
        r->at += 2; /* && */
        buf_puts(&ands, "(?=");
        operand_put(&o, &ands);
        buf_putc(&ands, ')');
        operand_clear(&o);
        operand_init(&o);
    }
    r->at++;
    if (ands.failed || o.flat.failed)
        out->failed = true;
    if (negated && ands.length == 0 && o.nested.length == 0 && o.flat.length > 0) {
        buf_printf(out, "[^%s]", buf_text(&o.flat));
    } else if (negated) {
        buf_printf(out, "(?:(?!%s", buf_text(&ands));
        operand_put(&o, out);
        buf_puts(out, ")(?s:.))");
    } else if (ands.length > 0) {
        buf_printf(out, "(?:%s", buf_text(&ands));
        operand_put(&o, out);
        buf_putc(out, ')');
    } else {
        operand_put(&o, out);
    }
    ok = true;
done:
    operand_clear(&o);
    buf_clear(&ands);
    return ok;
}

/* --- outside of classes ---------------------------------------------------------------------- */

static void begin_atom(struct rewrite *r)
{
    r->atom = r->out->length;
    r->quantified = false;
}

static bool rewrite_escape(struct rewrite *r)
{
    size_t start = r->at++;
    struct escape e;
    if (!read_escape(r, &e, false))
        return false;
    begin_atom(r);
    if (e.kind == ESCAPE_CHAR) {
        put_code(r->out, e.code);
        return true;
    }
    if (e.kind == ESCAPE_SET) {
        buf_printf(r->out, e.negated ? "[^%s]" : "[%s]", e.set);
        return true;
    }
    switch (e.letter) {
    case 'b':
        buf_puts(r->out, "(?:(?<=[" WORD_ALONE "])(?![" WORD_ALONE "])|(?<![" WORD_ALONE
                         "])(?=[" WORD_ALONE "]))");
        return true;
    case 'B':
        buf_puts(r->out, "(?:(?<=[" WORD_ALONE "])(?=[" WORD_ALONE "])|(?<![" WORD_ALONE
                         "])(?![" WORD_ALONE "]))");
        return true;
    case 'A':
    case 'z':
    case 'Z':
    case 'R':
        buf_printf(r->out, "\\%c", e.letter);
        return true;
    default:
        return refuse(r, start,
                      is_digit(e.letter) ? "a back-reference or octal escape" : "this escape");
    }
}

/* (?imx-imx) or (?imx-imx: ; Ruby's m is PCRE2's s. */
static bool rewrite_options(struct rewrite *r, size_t start)
{
    buf_puts(r->out, "(?");
    for (; more(r) && peek(r, 0) != ':' && peek(r, 0) != ')'; r->at++) {
        char c = peek(r, 0);
        if (c != 'i' && c != 'm' && c != '-')
            return refuse(r, start, "this group");
        buf_putc(r->out, c == 'm' ? 's' : c);
    }
    if (!more(r))
        return broken(r, start, "a group that is not closed");
    buf_putc(r->out, ':');
    if (r->pattern[r->at++] == ':')
        return true;
    /* Isolated: in Ruby a(?i)b|c is a(?i:b|c), to the end of the group around it. */
    r->depth--;
    if (++r->groups[r->depth].more > DEPTH_MAX)
        return refuse(r, start, "so many options");
    return true;
}

static bool rewrite_open(struct rewrite *r)
{
    static const char *const PLAIN[] = { "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!" };
    size_t start = r->at, left = r->length - r->at;
    if (r->depth + 1 >= DEPTH_MAX)
        return refuse(r, start, "so deep a group");
    if (left >= 3 && memcmp(r->pattern + start, "(?#", 3) == 0) {
        while (more(r) && peek(r, 0) != ')')
            r->at += peek(r, 0) == '\\' ? 2 : 1;
        if (!more(r))
            return broken(r, start, "a comment that is not closed");
        r->at++;
        return true;
    }
    r->groups[++r->depth] = (struct group){ .at = r->out->length };
    r->atom = SIZE_MAX;
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++) {
        size_t n = strlen(PLAIN[i]);
        if (left >= n && memcmp(r->pattern + start, PLAIN[i], n) == 0) {
            buf_puts(r->out, PLAIN[i]);
            r->at += n;
            return true;
        }
    }
    if (left >= 2 && r->pattern[start + 1] == '*')
        return refuse(r, start, "a callout");
    if (left >= 3 && r->pattern[start + 1] == '?' && r->pattern[start + 2] == '<') {
        const char *close = memchr(r->pattern + start, '>', left); /* a name: not needed */
        if (!close)
            return broken(r, start, "a group name that is not closed");
        r->at = (size_t)(close - r->pattern) + 1;
        buf_puts(r->out, "(?:");
        return true;
    }
    if (left >= 2 && r->pattern[start + 1] == '?') {
        r->at += 2;
        return rewrite_options(r, start);
    }
    r->at++;
    buf_puts(r->out, "(?:"); /* nothing reads captures: back-references are refused */
    return true;
}

static bool rewrite_close(struct rewrite *r)
{
    if (r->depth == 0)
        return broken(r, r->at, "a ) without its (");
    struct group group = r->groups[r->depth--];
    for (int32_t i = 0; i <= group.more; i++)
        buf_putc(r->out, ')');
    r->atom = group.at;
    r->quantified = false;
    r->at++;
    return true;
}

/* {n} {n,} {n,m} {,m}: reads it when it is one. */
static bool read_interval(struct rewrite *r, char text[32], bool *fixed)
{
    size_t i = r->at + 1;
    uint32_t bounds[2] = { 0, 0 };
    size_t digits[2] = { 0, 0 };
    int side = 0;
    for (; i < r->length && r->pattern[i] != '}'; i++) {
        char c = r->pattern[i];
        if (c == ',' && side == 0) {
            side = 1;
        } else if (is_digit(c) && digits[side] < 5) {
            bounds[side] = bounds[side] * 10 + (uint32_t)(c - '0');
            digits[side]++;
        } else {
            return false;
        }
    }
    if (i >= r->length || digits[0] + digits[1] == 0)
        return false;
    *fixed = side == 0;
    if (side == 0)
        snprintf(text, 32, "{%u}", bounds[0]);
    else if (digits[1] == 0)
        snprintf(text, 32, "{%u,}", bounds[0]);
    else
        snprintf(text, 32, "{%u,%u}", bounds[0], bounds[1]);
    r->at = i + 1;
    return true;
}

/* Ruby: x*+ is possessive but x{n,m}+ is (x{n,m})+, and x{n}? is (x{n})?. */
static bool rewrite_quantifier(struct rewrite *r)
{
    size_t start = r->at;
    char text[32] = { 0 };
    bool interval = peek(r, 0) == '{', fixed = false;
    if (interval) {
        if (!read_interval(r, text, &fixed)) {
            begin_atom(r);
            buf_puts(r->out, "\\{");
            r->at++;
            return true;
        }
    } else {
        text[0] = r->pattern[r->at++];
    }
    if (r->atom == SIZE_MAX)
        return broken(r, start, "a quantifier with nothing before it");
    char next = peek(r, 0);
    if ((next == '?' && !fixed) || (next == '+' && !interval)) {
        text[strlen(text)] = next;
        r->at++;
    }
    if (r->quantified) {
        insert(r->out, r->atom, "(?:");
        buf_putc(r->out, ')');
    }
    buf_puts(r->out, text);
    r->quantified = true;
    return true;
}

static bool rewrite_one(struct rewrite *r)
{
    char c = peek(r, 0);
    unsigned n;
    switch (c) {
    case '\\':
        return rewrite_escape(r);
    case '[':
        begin_atom(r);
        r->at++;
        return rewrite_class(r, r->out, 0);
    case '(':
        return rewrite_open(r);
    case ')':
        return rewrite_close(r);
    case '*':
    case '+':
    case '?':
    case '{':
        return rewrite_quantifier(r);
    case '|':
        r->atom = SIZE_MAX;
        buf_putc(r->out, c);
        r->at++;
        return true;
    case '.':
    case '^':
    case '$':
        begin_atom(r);
        buf_putc(r->out, c);
        r->at++;
        return true;
    default:
        begin_atom(r);
        unicode_decode(r->pattern + r->at, &n);
        put_literal(r->out, r->pattern + r->at, n);
        r->at += n;
        return true;
    }
}

bool regex_from_ruby(const char *pattern, size_t length, struct buf *out, struct err *err)
{
    /* Blanks at line ends, searched for in a long run of blanks that ends elsewhere, cost
     * length^2: every start fails again. A start behind a blank cannot do better than the blank
     * did, so it need not be tried: the matches are the same. (DeepSeek's first pattern.) */
    static const char BLANKS[] = "\\s+$";
    struct rewrite r = {
        .pattern = pattern, .length = length, .out = out, .atom = SIZE_MAX, .err = err
    };
    size_t bad = unicode_check(pattern, length);
    if (bad < length)
        return err_set(err, ERR_FORMAT, "pattern: not UTF-8 at byte %zu", bad);
    if (length == sizeof BLANKS - 1 && memcmp(pattern, BLANKS, length) == 0)
        buf_puts(out, "(?<![" SPACE "])");
    while (more(&r) && !out->failed)
        if (!rewrite_one(&r))
            return false;
    if (r.depth > 0 && !out->failed)
        return broken(&r, r.length, "a group that is not closed");
    for (int32_t i = 0; i < r.groups[0].more; i++)
        buf_putc(out, ')');
    if (out->failed && out->length < out->limit / 2) /* it grows by short pieces */
        return err_set(err, ERR_MEMORY, "no memory for a pattern of %zu bytes", r.length);
    if (out->failed)
        return err_set(err, ERR_UNSUPPORTED, "pattern: its PCRE2 form is too long");
    return true;
}
