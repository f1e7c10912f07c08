/* jinja_filters.c - the filters for single values (sequences: jinja_sequence.c), and the table.
 *
 * Filters that make HTML or that Jinja2 marks for pages (urlize, xmlattr, ...) are known by name
 * and refused when reached. */
#include "host/text/jinja.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A filter that is the method of the same name on str(value). */
static bool by_method(struct run *run, const struct value *value, const struct call *call,
                      const char *name, struct value *out)
{
    struct method method;
    if (!value_str(run, value, &method.self))
        return false;
    method.id = method_find(&method.self, (struct value_text){ name, strlen(name) });
    return method_call(run, &method, call, out);
}

#define BY_METHOD(name, method)                                                                    \
    static bool name(struct run *run, const struct value *value, const struct call *call,          \
                     struct value *out)                                                            \
    {                                                                                              \
        return by_method(run, value, call, method, out);                                           \
    }
BY_METHOD(filter_upper, "upper")
BY_METHOD(filter_lower, "lower")
BY_METHOD(filter_capitalize, "capitalize")
BY_METHOD(filter_trim, "strip")

static bool filter_replace(struct run *run, const struct value *value, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value arguments[3] = { 0 };
    if (!call_bind(run, call, "old new count", 2, given) ||
        !value_str(run, given[0], &arguments[0]) || !value_str(run, given[1], &arguments[1]))
        return false;
    arguments[2] = given[2] ? *given[2] : value_none();
    struct call inner = { .items = arguments, .n = 3, .what = call->what };
    return by_method(run, value, &inner, "replace", out);
}

static bool filter_center(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    if (!call_bind(run, call, "width", 0, given))
        return false;
    struct value width = given[0] ? *given[0] : value_int(80);
    struct call inner = { .items = &width, .n = 1, .what = call->what };
    return by_method(run, value, &inner, "center", out);
}

static bool filter_string(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    return call_bind(run, call, "", 0, given) && value_str(run, value, out);
}

/* Words begin at the text's begin and behind - ( { [ < and space. */
static bool filter_title(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text, piece;
    size_t from = run->out->length;
    if (!call_bind(run, call, "", 0, given) || !value_str(run, value, &text))
        return false;
    const char *p = text.text.bytes, *end = p + text.text.length;
    while (p < end) {
        const char *begin = p, *second;
        text_next(run, &p, end);
        second = p;
        while (p < end) { /* up to behind the next delimiter */
            uint32_t before = (unsigned char)*begin, code;
            const char *last = text_previous(run, begin, p);
            before = text_next(run, &last, end);
            if (text_is_space(before) || (before < 0x80 && before && strchr("-({[<", (int)before)))
                break;
            code = text_next(run, &p, end);
            (void)code;
        }
        if (!text_case(run, (struct value_text){ begin, (size_t)(second - begin) }, CASE_UPPER,
                       &piece) ||
            !value_put(run, &piece) ||
            !text_case(run, (struct value_text){ second, (size_t)(p - second) }, CASE_LOWER,
                       &piece) ||
            !value_put(run, &piece))
            return false;
    }
    return capture_end(run, from, out);
}

static bool filter_wordcount(struct run *run, const struct value *value, const struct call *call,
                             struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text;
    jinja_int n = 0;
    bool inside = false;
    if (!call_bind(run, call, "", 0, given) || !value_str(run, value, &text) ||
        !run_spend(run, 4 * text.text.length))
        return false;
    const char *p = text.text.bytes, *end = p + text.text.length;
    while (p < end) {
        const char *at = p;
        uint32_t code = text_next(run, &p, end);
        bool word =
            code == '_' || text_is(run, (struct value_text){ at, (size_t)(p - at) }, CLASS_ALNUM);
        n += word && !inside;
        inside = word;
    }
    *out = value_int(n);
    return true;
}

static bool filter_indent(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text, lines, spaces, space = value_word(" ");
    struct call none = { .what = call->what };
    if (!call_bind(run, call, "width first blank", 0, given))
        return false;
    if (value->kind != VALUE_STRING)
        return run_fail(run, "indent needs a string, got %s", value_type(value));
    if (!value_concat(run, *value, value_word("\n"), &text) ||
        !by_method(run, &text, &none, "splitlines", &lines))
        return false;
    struct value width = given[0] ? *given[0] : value_int(4);
    bool first = given[1] && value_truth(given[1]), blank = given[2] && value_truth(given[2]);
    if (width.kind == VALUE_STRING)
        spaces = width;
    else if (!value_is_integer(&width))
        return run_fail(run, "indent needs an integer or a string");
    else if (!value_binary(run, '*', &space, &width, &spaces))
        return false;
    size_t from = run->out->length;
    for (size_t i = 0; i < lines.items.n; i++) {
        const struct value *line = &lines.items.at[i];
        if ((i && !run_put(run, "\n", 1)) ||
            ((i ? blank || line->text.length : first) && !value_put(run, &spaces)) ||
            !value_put(run, line))
            return false;
    }
    return capture_end(run, from, out);
}

static bool filter_truncate(struct run *run, const struct value *value, const struct call *call,
                            struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value part, to;
    size_t n;
    struct value_text end;
    int64_t length, leeway;
    if (!call_bind(run, call, "length killwords end leeway", 0, given) ||
        !argument_int(run, call, given[0], 255, &length) ||
        !argument_text(run, call, given[2], "...", &end) ||
        !argument_int(run, call, given[3], 5, &leeway) || !value_length(run, value, &n))
        return false;
    int64_t end_length = (int64_t)text_count(run, end);
    if (length < end_length || leeway < 0)
        return run_fail(run, "truncate needs a length of at least %lld", (long long)end_length);
    *out = *value;
    if ((int64_t)n <= length + leeway)
        return true;
    if (value->kind != VALUE_STRING)
        return run_fail(run, "truncate needs a string, got %s", value_type(value));
    to = value_int(length - end_length);
    if (!value_slice(run, value, NULL, &to, NULL, &part))
        return false;
    const char *space =
        given[1] && value_truth(given[1]) ? NULL : memrchr(part.text.bytes, ' ', part.text.length);
    if (space)
        part.text.length = (size_t)(space - part.text.bytes);
    return value_concat(run, part, value_text(end.bytes, end.length), out);
}

static bool filter_escape(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text;
    size_t from = run->out->length;
    if (!call_bind(run, call, "", 0, given) || !value_str(run, value, &text))
        return false;
    const char *p = text.text.bytes, *end = p + text.text.length;
    for (; p < end; p++) {
        const char *word = *p == '&'    ? "&amp;"
                           : *p == '<'  ? "&lt;"
                           : *p == '>'  ? "&gt;"
                           : *p == '"'  ? "&#34;"
                           : *p == '\'' ? "&#39;"
                                        : NULL;
        if (word)
            buf_puts(run->out, word);
        else
            buf_putc(run->out, *p);
    }
    return run_put(run, "", 0) && run_spend(run, text.text.length) && capture_end(run, from, out);
}

static bool filter_urlencode(struct run *run, const struct value *value, const struct call *call,
                             struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text;
    size_t from = run->out->length;
    if (!call_bind(run, call, "", 0, given) || !value_str(run, value, &text))
        return false;
    if (value->kind != VALUE_STRING && !value_is_number(value))
        return run_fail(run, "urlencode of %s is not supported", value_type(value));
    const char *p = text.text.bytes, *end = p + text.text.length;
    while (p < end) {
        const char *at = p;
        uint32_t code = text_next(run, &p, end);
        bool safe = code < 0x80 && code &&
                    strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/",
                           (int)code);
        char bytes[4];
        size_t n = text_encode(code, bytes);
        if (safe)
            buf_putc(run->out, *at);
        for (size_t i = 0; !safe && i < n; i++)
            buf_printf(run->out, "%%%02X", (unsigned char)bytes[i]);
    }
    return run_put(run, "", 0) && run_spend(run, text.text.length) && capture_end(run, from, out);
}

/* ---- numbers ---- */

static bool read_float(struct value_text text, double *out)
{
    char copy[512];
    size_t n = 0;
    text = text_strip(NULL, text, NULL, 3);
    if (text.length >= sizeof copy)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.bytes[i];
        if (!c || !strchr("0123456789+-.eE_infatyINFATY", c))
            return false; /* no hexadecimal, no "nan(...)" */
        if (c != '_')
            copy[n++] = c;
    }
    copy[n] = 0;
    char *end;
    *out = strtod(copy, &end);
    return n && !*end;
}

static bool read_int(struct value_text text, int64_t base, jinja_int *out)
{
    text = text_strip(NULL, text, NULL, 3);
    bool minus = text.length && *text.bytes == '-';
    size_t i = text.length && (*text.bytes == '-' || *text.bytes == '+'), first;
    if (i + 1 < text.length && text.bytes[i] == '0') {
        char c = (char)(text.bytes[i + 1] | 0x20);
        int64_t prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefix && (base == prefix || base == 0)) {
            i += 2;
            base = prefix;
        }
    }
    base = base ? base : 10;
    *out = 0;
    for (first = i; i < text.length; i++) {
        char c = text.bytes[i];
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                             : 99;
        if (c == '_' && i > first && i + 1 < text.length && text.bytes[i - 1] != '_')
            continue;
        if (digit >= base || __builtin_mul_overflow(*out, (jinja_int)base, out) ||
            __builtin_add_overflow(*out, digit, out))
            return false;
    }
    if (minus)
        *out = -*out;
    return text.length > first;
}

static bool filter_int(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    const struct value *given[BIND_MAX];
    int64_t base;
    jinja_int integer;
    double number = NAN;
    if (!call_bind(run, call, "default base", 0, given) ||
        !argument_int(run, call, given[1], 10, &base))
        return false;
    if (value->kind == VALUE_UNDEFINED)
        return run_fail(run, "%.*s", (int)value->text.length, value->text.bytes);
    *out = given[0] ? *given[0] : value_int(0);
    if (base != 0 && (base < 2 || base > 36))
        return run_fail(run, "int needs a base of 0 or from 2 to 36");
    if (value_is_integer(value)) {
        *out = value_int(value_integer(value));
        return true;
    }
    if (value->kind == VALUE_STRING && read_int(value->text, base, &integer)) {
        *out = value_int(integer);
        return true;
    }
    if (value->kind == VALUE_FLOAT)
        number = value->number;
    else if (value->kind != VALUE_STRING || !read_float(value->text, &number))
        number = NAN;
    if (fabs(number) < 0x1p+126)
        *out = value_int((jinja_int)number);
    return true;
}

static bool filter_float(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    double number;
    if (!call_bind(run, call, "default", 0, given))
        return false;
    if (value->kind == VALUE_UNDEFINED)
        return run_fail(run, "%.*s", (int)value->text.length, value->text.bytes);
    *out = given[0] ? *given[0] : value_float(0);
    if (value_is_number(value))
        *out = value_float(value_number(value));
    else if (value->kind == VALUE_STRING && read_float(value->text, &number))
        *out = value_float(number);
    return true;
}

static bool filter_abs(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value zero = value_int(0);
    if (!call_bind(run, call, "", 0, given))
        return false;
    *out = *value;
    if (value->kind == VALUE_FLOAT)
        out->number = fabs(value->number);
    else if (!value_is_integer(value))
        return run_fail(run, "bad operand type for abs(): '%s'", value_type(value));
    else if (value_integer(value) < 0)
        return value_binary(run, '-', &zero, value, out);
    else
        *out = value_int(value_integer(value));
    return true;
}

static bool filter_round(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text method;
    int64_t precision;
    if (!call_bind(run, call, "precision method", 0, given) ||
        !argument_int(run, call, given[0], 0, &precision) ||
        !argument_text(run, call, given[1], "common", &method))
        return false;
    if (!value_is_number(value))
        return run_fail(run, "type %s doesn't define __round__", value_type(value));
    if (precision < -300 || precision > 300)
        return run_fail(run, "round needs a precision from -300 to 300");
    double number = value_number(value), scale = pow(10, (double)precision);
    if (text_is_word(method, "ceil") || text_is_word(method, "floor")) {
        number = *method.bytes == 'c' ? ceil(number * scale) : floor(number * scale);
        *out = value_float(number / scale);
        return true;
    }
    if (!text_is_word(method, "common"))
        return run_fail(run, "method must be common, ceil or floor");
    if (value_is_integer(value) && precision >= 0) {
        *out = value_int(value_integer(value));
        return true;
    }
    char text[700]; /* decimal rounding of the exact value, half to even, as Python's */
    if (precision >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)precision, number);
        number = strtod(text, NULL);
    } else {
        number = nearbyint(number * scale) / scale;
    }
    *out = value_is_integer(value) && fabs(number) < 0x1p+126 ? value_int((jinja_int)number)
                                                              : value_float(number);
    return true;
}

static bool filter_filesizeformat(struct run *run, const struct value *value,
                                  const struct call *call, struct value *out)
{
    static const char *const decimal[] = { "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB" };
    static const char *const binary[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB" };
    const struct value *given[BIND_MAX];
    double bytes = 0;
    char text[400];
    if (!call_bind(run, call, "binary", 0, given))
        return false;
    if (value_is_number(value))
        bytes = value_number(value);
    else if (value->kind != VALUE_STRING || !read_float(value->text, &bytes))
        return run_fail(run, "could not convert this %s to a number of bytes", value_type(value));
    bool of_two = given[0] && value_truth(given[0]);
    double base = of_two ? 1024 : 1000, unit = base;
    if (bytes == 1) {
        snprintf(text, sizeof text, "1 Byte");
    } else if (bytes < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes));
    } else {
        int i = 0;
        for (; i < 7 && bytes >= unit * base; i++)
            unit *= base;
        snprintf(text, sizeof text, "%.1f %s", bytes / unit, (of_two ? binary : decimal)[i]);
    }
    return value_copy_text(run, text, strlen(text), out);
}

/* ---- the others ---- */

static bool filter_default(struct run *run, const struct value *value, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    if (!call_bind(run, call, "default_value boolean", 0, given))
        return false;
    bool missing = value->kind == VALUE_UNDEFINED ||
                   (given[1] && value_truth(given[1]) && !value_truth(value));
    *out = !missing ? *value : given[0] ? *given[0] : value_word("");
    return true;
}

static bool filter_attr(struct run *run, const struct value *value, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text name;
    struct value plain = *value;
    if (!call_bind(run, call, "name", 1, given) || !argument_text(run, call, given[0], "", &name))
        return false;
    plain.pairs.n = value->kind == VALUE_DICT ? 0 : value->pairs.n; /* methods, not members */
    return value_attr(run, value->kind == VALUE_DICT ? &plain : value, name, out);
}

static bool filter_format(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    struct value text, arguments = value_list(call->items, call->n);
    arguments.kind = VALUE_TUPLE;
    if (call->n && call->n_named)
        return run_fail(run, "can't handle positional and keyword arguments at the same time");
    if (call->n_named) {
        struct value_pair *pairs = run_take(run, call->n_named, sizeof *pairs);
        if (!pairs)
            return false;
        for (size_t i = 0; i < call->n_named; i++) {
            pairs[i].key = value_text(call->named[i].name.bytes, call->named[i].name.length);
            pairs[i].value = call->named[i].value;
        }
        arguments = (struct value){ .kind = VALUE_DICT, .pairs = { pairs, call->n_named } };
    }
    return value_str(run, value, &text) && format_percent(run, &text, &arguments, out);
}

static bool json_indent(struct run *run, const struct value *indent, struct json_style *style)
{
    static const char spaces[] = "                                ";
    if (!indent || indent->kind == VALUE_NONE)
        return true;
    style->pretty = true;
    style->item_separator = (struct value_text){ ",", 1 };
    if (indent->kind == VALUE_STRING) {
        style->indent = indent->text;
        return true;
    }
    if (!value_is_integer(indent) || value_integer(indent) > (jinja_int)sizeof spaces - 1)
        return run_fail(run, "tojson needs an indent of at most %zu", sizeof spaces - 1);
    jinja_int n = value_integer(indent);
    style->indent = (struct value_text){ spaces, n > 0 ? (size_t)n : 0 };
    return true;
}

static bool filter_tojson(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    struct json_style style = { .item_separator = { ", ", 2 }, .key_separator = { ": ", 2 } };
    size_t from = run->out->length;
    if (!call_bind(run, call, "ensure_ascii indent separators sort_keys", 0, given) ||
        !json_indent(run, given[1], &style))
        return false;
    style.ascii = given[0] && value_truth(given[0]);
    style.sort = given[3] && value_truth(given[3]);
    if (given[2] && given[2]->kind != VALUE_NONE) {
        const struct value *both = given[2]->items.at;
        if ((given[2]->kind != VALUE_TUPLE && given[2]->kind != VALUE_LIST) ||
            given[2]->items.n != 2 || both[0].kind != VALUE_STRING || both[1].kind != VALUE_STRING)
            return run_fail(run, "tojson needs two separators");
        style.item_separator = both[0].text;
        style.key_separator = both[1].text;
    }
    return value_put_json(run, value, &style) && capture_end(run, from, out);
}

static bool filter_refused(struct run *run, const struct value *value, const struct call *call,
                           struct value *out)
{
    (void)value;
    (void)out;
    return run_fail(run, "%s is not supported", call->what);
}

static const struct filter_row FILTERS[] = {
    { "abs", filter_abs },
    { "attr", filter_attr },
    { "capitalize", filter_capitalize },
    { "center", filter_center },
    { "d", filter_default },
    { "default", filter_default },
    { "e", filter_escape },
    { "escape", filter_escape },
    { "filesizeformat", filter_filesizeformat },
    { "float", filter_float },
    { "forceescape", filter_escape },
    { "format", filter_format },
    { "indent", filter_indent },
    { "int", filter_int },
    { "lower", filter_lower },
    { "pprint", filter_refused },
    { "replace", filter_replace },
    { "round", filter_round },
    { "safe", filter_string },
    { "string", filter_string },
    { "striptags", filter_refused },
    { "title", filter_title },
    { "tojson", filter_tojson },
    { "trim", filter_trim },
    { "truncate", filter_truncate },
    { "upper", filter_upper },
    { "urlencode", filter_urlencode },
    { "urlize", filter_refused },
    { "wordcount", filter_wordcount },
    { "wordwrap", filter_refused },
    { "xmlattr", filter_refused },
};
enum { N_FILTERS = sizeof FILTERS / sizeof *FILTERS };

int32_t filter_find(struct value_text name)
{
    for (int32_t i = 0; i < N_FILTERS; i++)
        if (text_is_word(name, FILTERS[i].name))
            return i;
    for (int32_t i = 0; SEQUENCE_FILTERS[i].name; i++)
        if (text_is_word(name, SEQUENCE_FILTERS[i].name))
            return N_FILTERS + i;
    return -1;
}

bool filter_apply(struct run *run, int32_t filter, const struct value *value,
                  const struct call *call, struct value *out)
{
    const struct filter_row *row =
        filter < N_FILTERS ? &FILTERS[filter] : &SEQUENCE_FILTERS[filter - N_FILTERS];
    char what[48];
    struct call named = *call;
    snprintf(what, sizeof what, "filter '%s'", row->name);
    named.what = what;
    if (!run_enter(run))
        return false;
    bool good = row->apply(run, value, &named, out);
    run->depth--;
    return good;
}
