/* jinja_lex.c - template source to tokens, with the whitespace control of trim_blocks and
 * lstrip_blocks.
 *
 * Invariant: tokens between TOKEN_*_BEGIN and the matching _END have balanced brackets. For
 * jinja_parse.c. Rules: Jinja2 3.1's lexer (its documentation, "Whitespace Control"). */
#include "host/text/jinja.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct lexer {
    struct arena *arena, *scratch;
    struct err *err;
    const char *source;
    size_t length, at;
    int32_t line;
    bool line_starting; /* only whitespace between the line's begin and `at` so far */
    struct token *tokens;
    size_t n, capacity;
    char brackets[JINJA_NEST_MAX]; /* the closing ones that are awaited */
    int32_t n_brackets;
};

bool jinja_syntax(struct err *err, int32_t line, const char *format, ...)
{
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(err, ERR_FORMAT, "chat template line %d: %s", line, text);
}

static bool lex_push(struct lexer *lexer, enum token_kind kind, struct value value, uint16_t op)
{
    if (lexer->n == lexer->capacity) {
        size_t capacity = lexer->capacity ? 2 * lexer->capacity : 256;
        struct token *more = arena_take(lexer->scratch, capacity, sizeof *more);
        if (!more)
            return err_set(lexer->err, ERR_MEMORY, "chat template: out of memory for its tokens");
        if (lexer->n)
            memcpy(more, lexer->tokens, lexer->n * sizeof *more);
        lexer->tokens = more;
        lexer->capacity = capacity;
    }
    lexer->tokens[lexer->n++] =
        (struct token){ .kind = (uint8_t)kind, .op = op, .line = lexer->line, .value = value };
    return true;
}

static void lex_advance(struct lexer *lexer, size_t to)
{
    for (; lexer->at < to; lexer->at++)
        lexer->line += lexer->source[lexer->at] == '\n';
}

static size_t skip_space(const struct lexer *lexer, size_t at)
{
    const char *p = lexer->source + at, *end = lexer->source + lexer->length;
    while (p < end) {
        const char *next = p;
        if (!text_is_space(text_next(NULL, &next, end)))
            break;
        p = next;
    }
    return (size_t)(p - lexer->source);
}

/* Line ends become \n, and one at the very end is dropped. */
static bool normalize(struct lexer *lexer, const char *source, size_t length)
{
    char *text = arena_take(lexer->arena, length + 1, 1);
    if (!text)
        return err_set(lexer->err, ERR_MEMORY, "chat template: out of memory for its text");
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (source[i] == '\r') {
            text[n++] = '\n';
            i += i + 1 < length && source[i + 1] == '\n';
        } else {
            text[n++] = source[i];
        }
    }
    if (n && text[n - 1] == '\n')
        n--;
    lexer->source = text;
    lexer->length = n;
    return true;
}

static bool starts(const struct lexer *lexer, size_t at, const char *what)
{
    size_t n = strlen(what);
    return lexer->length - at >= n && memcmp(lexer->source + at, what, n) == 0;
}

/* The end of a tag at `at`: where the template goes on, or 0 when this is no such end.
 * `close` is "%}" or "#}" (a newline behind it is trimmed) or "}}" (it is not). */
static size_t tag_end(const struct lexer *lexer, size_t at, const char *close)
{
    bool trims = close[0] != '}';
    if (starts(lexer, at, close)) {
        at += 2;
        if (trims && at < lexer->length && lexer->source[at] == '\n')
            at++;
        return at;
    }
    if (at < lexer->length && starts(lexer, at + 1, close)) {
        if (lexer->source[at] == '-')
            return skip_space(lexer, at + 3);
        if (lexer->source[at] == '+' && trims)
            return at + 3;
    }
    return 0;
}

/* Data up to `to`, where a tag with this sign begins. */
static bool lex_data(struct lexer *lexer, size_t to, char sign, bool lstrips)
{
    size_t from = lexer->at, end = to;
    if (sign == '-') {
        struct value_text text = { lexer->source + from, to - from };
        end = from + text_strip(NULL, text, NULL, 2).length;
    } else if (sign != '+' && lstrips) {
        size_t line = to;
        while (line > from && lexer->source[line - 1] != '\n')
            line--;
        if ((line > from || lexer->line_starting) && skip_space(lexer, line) >= to)
            end = line;
    }
    if (end > from && !lex_push(lexer, TOKEN_DATA, value_text(lexer->source + from, end - from), 0))
        return false;
    lex_advance(lexer, to);
    return true;
}

/* On behind a tag, which ends at `to`. */
static void lex_leave(struct lexer *lexer, size_t to)
{
    lex_advance(lexer, to);
    lexer->line_starting = lexer->source[to - 1] == '\n';
}

/* {% raw %} at `at`? Then where its content begins, else 0. */
static size_t raw_begin(const struct lexer *lexer, size_t at)
{
    at += 2;
    if (at < lexer->length && (lexer->source[at] == '-' || lexer->source[at] == '+'))
        at++;
    at = skip_space(lexer, at);
    if (!starts(lexer, at, "raw"))
        return 0;
    at = skip_space(lexer, at + 3);
    if (starts(lexer, at, "-%}"))
        return skip_space(lexer, at + 3);
    return starts(lexer, at, "%}") ? at + 2 : 0;
}

static bool lex_raw(struct lexer *lexer, size_t content)
{
    int32_t line = lexer->line;
    lex_leave(lexer, content);
    for (size_t at = content; at + 1 < lexer->length; at++) {
        if (!starts(lexer, at, "{%"))
            continue;
        size_t word = at + 2;
        char sign = word < lexer->length ? lexer->source[word] : 0;
        word += sign == '-' || sign == '+';
        word = skip_space(lexer, word);
        if (!starts(lexer, word, "endraw"))
            continue;
        size_t end = tag_end(lexer, skip_space(lexer, word + 6), "%}");
        if (!end)
            continue;
        if (!lex_data(lexer, at, sign, true))
            return false;
        lex_leave(lexer, end);
        return true;
    }
    return jinja_syntax(lexer->err, line, "raw block without endraw");
}

static bool lex_comment(struct lexer *lexer, size_t content)
{
    for (size_t at = content; at + 1 < lexer->length; at++) {
        size_t end = tag_end(lexer, at, "#}");
        if (end) {
            lex_leave(lexer, end);
            return true;
        }
    }
    return jinja_syntax(lexer->err, lexer->line, "comment without #}");
}

/* ---- inside of a tag ---- */

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'Z')
        return c - 'A' + 10;
    return 99;
}

/* Digits with single underscores between them; the end, or `at` when there are none. */
static size_t digits_end(const struct lexer *lexer, size_t at, int base)
{
    size_t end = at;
    while (end < lexer->length) {
        char c = lexer->source[end];
        if (digit_of(c) < base)
            end++;
        else if (c == '_' && end > at && end + 1 < lexer->length &&
                 digit_of(lexer->source[end + 1]) < base)
            end++; /* a digit is next: no two underscores in a row */
        else
            break;
    }
    return end;
}

static bool lex_integer(struct lexer *lexer)
{
    size_t at = lexer->at, end = 0;
    int base = 10;
    if (lexer->source[at] == '0' && at + 1 < lexer->length) {
        char c = (char)(lexer->source[at + 1] | 0x20);
        int prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        size_t first = at + 2 + (at + 2 < lexer->length && lexer->source[at + 2] == '_');
        if (prefix && digits_end(lexer, first, prefix) > first) {
            base = prefix;
            at = first;
        }
    }
    end = digits_end(lexer, at, base);
    jinja_int number = 0;
    for (size_t i = at; i < end; i++) {
        if (lexer->source[i] == '_')
            continue;
        if (__builtin_mul_overflow(number, base, &number) ||
            __builtin_add_overflow(number, digit_of(lexer->source[i]), &number))
            return jinja_syntax(lexer->err, lexer->line, "integer of more than 127 bits");
    }
    if (!lex_push(lexer, TOKEN_INT, value_int(number), 0))
        return false;
    lex_advance(lexer, end);
    return true;
}

/* The end of a float at the lexer's place (behind {{ or {%), or 0. */
static size_t float_end(const struct lexer *lexer)
{
    size_t at = digits_end(lexer, lexer->at, 10), end = 0;
    if (lexer->source[lexer->at - 1] == '.')
        return 0;
    if (at < lexer->length && lexer->source[at] == '.') {
        size_t fraction = digits_end(lexer, at + 1, 10);
        if (fraction == at + 1)
            return 0;
        end = at = fraction;
    }
    if (at < lexer->length && (lexer->source[at] | 0x20) == 'e') {
        size_t exponent = at + 1;
        if (exponent < lexer->length &&
            (lexer->source[exponent] == '+' || lexer->source[exponent] == '-'))
            exponent++;
        size_t last = digits_end(lexer, exponent, 10);
        if (last > exponent)
            end = last;
    }
    return end;
}

static bool lex_float(struct lexer *lexer, size_t end)
{
    char text[512]; /* digits behind the 500th change nothing but would need memory */
    size_t n = 0;
    if (end - lexer->at >= sizeof text)
        return jinja_syntax(lexer->err, lexer->line, "number of more than %zu characters",
                            sizeof text - 1);
    for (size_t i = lexer->at; i < end; i++)
        if (lexer->source[i] != '_')
            text[n++] = lexer->source[i];
    text[n] = 0;
    if (!lex_push(lexer, TOKEN_FLOAT, value_float(strtod(text, NULL)), 0))
        return false;
    lex_advance(lexer, end);
    return true;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: `n` hexadecimal digits behind the letter. */
static bool lex_code(struct lexer *lexer, const char **at, const char *end, int n, char *text,
                     size_t *length)
{
    uint32_t code = 0;
    for (int i = 0; i < n; i++) {
        int digit = *at < end ? digit_of(**at) : 99;
        if (digit >= 16)
            return jinja_syntax(lexer->err, lexer->line, "truncated escape in a string");
        code = code * 16 + (uint32_t)digit;
        (*at)++;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return jinja_syntax(lexer->err, lexer->line, "escape U+%X is not a character", code);
    *length += text_encode(code, text + *length);
    return true;
}

static bool lex_escape(struct lexer *lexer, const char **at, const char *end, char *text,
                       size_t *length)
{
    static const char letters[] = "n\nt\tr\r\\\\'\'\"\"a\ab\bf\fv\v";
    char c = *(*at)++;
    for (size_t i = 0; letters[i]; i += 2) {
        if (letters[i] == c) {
            text[(*length)++] = letters[i + 1];
            return true;
        }
    }
    if (c == 'x')
        return lex_code(lexer, at, end, 2, text, length);
    if (c == 'u')
        return lex_code(lexer, at, end, 4, text, length);
    if (c == 'U')
        return lex_code(lexer, at, end, 8, text, length);
    if (c == 'N')
        return jinja_syntax(lexer->err, lexer->line, "\\N{...} escapes are not supported");
    if (c == '\n')
        return true;
    if (c >= '0' && c <= '7') {
        uint32_t code = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *at < end && **at >= '0' && **at <= '7'; i++)
            code = code * 8 + (uint32_t)(*(*at)++ - '0');
        *length += text_encode(code, text + *length);
        return true;
    }
    text[(*length)++] = '\\';
    text[(*length)++] = c;
    return true;
}

static bool lex_string(struct lexer *lexer)
{
    const char *from = lexer->source + lexer->at + 1, *end = lexer->source + lexer->length;
    char quote = from[-1];
    const char *close = from;
    while (close < end && *close != quote)
        close += *close == '\\' && close + 1 < end ? 2 : 1;
    if (close >= end)
        return jinja_syntax(lexer->err, lexer->line, "string without its closing %c", quote);
    /* No escape is longer than its source. */
    char *text = arena_take(lexer->arena, (size_t)(close - from) + 4, 1);
    if (!text)
        return err_set(lexer->err, ERR_MEMORY, "chat template: out of memory for a string");
    size_t n = 0;
    for (const char *p = from; p < close;) {
        if (*p != '\\') {
            text[n++] = *p++;
            continue;
        }
        p++;
        if (!lex_escape(lexer, &p, close, text, &n))
            return false;
    }
    if (!lex_push(lexer, TOKEN_STRING, value_text(text, n), 0))
        return false;
    lex_advance(lexer, (size_t)(close + 1 - lexer->source));
    return true;
}

static bool code_in_name(uint32_t code, bool first)
{
    if (code < 0x80)
        return code == '_' || (code | 0x20) - 'a' < 26 || (!first && code - '0' < 10);
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    if ((category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
        category == UTF8PROC_CATEGORY_NL)
        return true;
    return !first && (category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                      category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_PC);
}

static size_t name_end(const struct lexer *lexer, size_t at)
{
    const char *p = lexer->source + at, *end = lexer->source + lexer->length;
    for (bool first = true; p < end; first = false) {
        const char *next = p;
        if (!code_in_name(text_next(NULL, &next, end), first))
            break;
        p = next;
    }
    return (size_t)(p - lexer->source);
}

static bool lex_bracket(struct lexer *lexer, char c)
{
    char close = c == '(' ? ')' : c == '[' ? ']' : c == '{' ? '}' : 0;
    if (close) {
        if (lexer->n_brackets == JINJA_NEST_MAX)
            return jinja_syntax(lexer->err, lexer->line, "more than %d nested brackets",
                                JINJA_NEST_MAX);
        lexer->brackets[lexer->n_brackets++] = close;
        return true;
    }
    if (c != ')' && c != ']' && c != '}')
        return true;
    if (!lexer->n_brackets)
        return jinja_syntax(lexer->err, lexer->line, "unexpected '%c'", c);
    char want = lexer->brackets[--lexer->n_brackets];
    if (want != c)
        return jinja_syntax(lexer->err, lexer->line, "unexpected '%c', expected '%c'", c, want);
    return true;
}

static bool lex_operator(struct lexer *lexer)
{
    static const char doubles[] = "//**==!=>=<=";
    char c = lexer->source[lexer->at];
    char second = lexer->at + 1 < lexer->length ? lexer->source[lexer->at + 1] : 0;
    for (size_t i = 0; second && doubles[i]; i += 2) {
        if (doubles[i] == c && doubles[i + 1] == second) {
            if (!lex_push(lexer, TOKEN_OPERATOR, value_none(), (uint16_t)OP(c, second)))
                return false;
            lex_advance(lexer, lexer->at + 2);
            return true;
        }
    }
    if (!c || !strchr("+-/*%~[](){}<>=.:|,;", c)) {
        if ((unsigned char)c < 0x20 || (unsigned char)c >= 0x7f)
            return jinja_syntax(lexer->err, lexer->line, "unexpected character in a tag");
        return jinja_syntax(lexer->err, lexer->line, "unexpected character '%c' in a tag", c);
    }
    if (!lex_bracket(lexer, c) ||
        !lex_push(lexer, TOKEN_OPERATOR, value_none(), (uint16_t)(unsigned char)c))
        return false;
    lex_advance(lexer, lexer->at + 1);
    return true;
}

/* From behind {{ or {% to behind its end. */
static bool lex_tag(struct lexer *lexer, const char *close)
{
    int32_t line = lexer->line;
    lexer->n_brackets = 0;
    for (;;) {
        lex_advance(lexer, skip_space(lexer, lexer->at));
        if (lexer->at >= lexer->length)
            return jinja_syntax(lexer->err, line, "tag without its closing %s", close);
        size_t end = lexer->n_brackets ? 0 : tag_end(lexer, lexer->at, close);
        if (end) {
            if (!lex_push(lexer, *close == '%' ? TOKEN_BLOCK_END : TOKEN_VARIABLE_END, value_none(),
                          0))
                return false;
            lex_leave(lexer, end);
            return true;
        }
        char c = lexer->source[lexer->at];
        bool good;
        if (c >= '0' && c <= '9') {
            end = float_end(lexer);
            good = end ? lex_float(lexer, end) : lex_integer(lexer);
        } else if (c == '\'' || c == '"') {
            good = lex_string(lexer);
        } else if ((end = name_end(lexer, lexer->at)) > lexer->at) {
            good = lex_push(lexer, TOKEN_NAME,
                            value_text(lexer->source + lexer->at, end - lexer->at), 0);
            lex_advance(lexer, end);
        } else {
            good = lex_operator(lexer);
        }
        if (!good)
            return false;
    }
}

static bool lex_root(struct lexer *lexer)
{
    while (lexer->at < lexer->length) {
        size_t tag = lexer->at;
        while (tag + 1 < lexer->length &&
               !(lexer->source[tag] == '{' && strchr("{%#", lexer->source[tag + 1]) &&
                 lexer->source[tag + 1]))
            tag++;
        if (tag + 1 >= lexer->length)
            return lex_data(lexer, lexer->length, '+', false);
        char kind = lexer->source[tag + 1];
        char sign = tag + 2 < lexer->length ? lexer->source[tag + 2] : 0;
        if (!lex_data(lexer, tag, sign, kind != '{'))
            return false;
        size_t raw = kind == '%' ? raw_begin(lexer, tag) : 0;
        size_t inside = tag + 2 + (sign == '-' || sign == '+');
        bool good;
        if (raw) {
            good = lex_raw(lexer, raw);
        } else if (kind == '#') {
            good = lex_comment(lexer, inside);
        } else {
            good = lex_push(lexer, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_VARIABLE_BEGIN,
                            value_none(), 0);
            lex_advance(lexer, inside);
            good = good && lex_tag(lexer, kind == '%' ? "%}" : "}}");
        }
        if (!good)
            return false;
    }
    return true;
}

bool jinja_lex(struct arena *arena, struct arena *scratch, const char *source, size_t length,
               struct token **tokens, size_t *n_tokens, struct err *err)
{
    struct lexer lexer = {
        .arena = arena, .scratch = scratch, .err = err, .line = 1, .line_starting = true
    };
    if (length > JINJA_SOURCE_MAX)
        return err_set(err, ERR_FORMAT, "chat template: %zu bytes, at most %d are allowed", length,
                       JINJA_SOURCE_MAX);
    for (utf8proc_ssize_t at = 0; at < (utf8proc_ssize_t)length;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)source + at,
                                              (utf8proc_ssize_t)length - at, &code);
        if (n <= 0)
            return err_set(err, ERR_FORMAT, "chat template: not UTF-8 at byte %zd", at);
        at += n;
    }
    if (!normalize(&lexer, source, length) || !lex_root(&lexer) ||
        !lex_push(&lexer, TOKEN_END, value_none(), 0))
        return false;
    *tokens = lexer.tokens;
    *n_tokens = lexer.n;
    return true;
}
