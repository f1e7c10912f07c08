/* jinja_format.c - "..." % values, and "...".format(values), as Python does them.
 *
 * Field widths and precisions come from the template and its data: they are bounded before they
 * size anything. */
#include "host/text/jinja.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH_MAX = 100000, PRECISION_MAX = 400, DIGITS_MAX = 160, FIELD_MAX = 1024 };

struct field {
    uint32_t fill;
    char align;  /* < > ^ =, or 0: the type's own */
    char sign;   /* + - space */
    bool other;  /* # */
    bool any;    /* the specifier is not empty */
    bool commas; /* , or _ between thousands: the character is `comma` */
    char comma;
    int32_t width, precision; /* precision -1: none */
    char type;                /* 0: none */
};

/* `text` padded to the field's width; `prefix` is the length of sign and 0x. */
static bool put_padded(struct run *run, const struct field *field, char align,
                       struct value_text text, size_t prefix)
{
    size_t length = text_count(run, text);
    size_t pad =
        field->width > 0 && (size_t)field->width > length ? (size_t)field->width - length : 0;
    size_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0, inside = align == '=' ? pad : 0;
    char fill[4];
    size_t fill_length = text_encode(field->fill ? field->fill : ' ', fill);
    if (!run_spend(run, pad))
        return false;
    for (size_t i = 0; i < left; i++)
        buf_put(run->out, fill, fill_length);
    buf_put(run->out, text.bytes, prefix);
    for (size_t i = 0; i < inside; i++)
        buf_put(run->out, fill, fill_length);
    buf_put(run->out, text.bytes + prefix, text.length - prefix);
    for (size_t i = left + inside; i < pad; i++)
        buf_put(run->out, fill, fill_length);
    return run_put(run, "", 0);
}

static bool put_string_field(struct run *run, const struct field *field, struct value_text text)
{
    if (field->precision >= 0) {
        const char *p = text.bytes, *end = p + text.length;
        for (int32_t i = 0; i < field->precision && p < end; i++)
            text_next(run, &p, end);
        text.length = (size_t)(p - text.bytes);
    }
    char align = field->align && field->align != '=' ? field->align : '<';
    return put_padded(run, field, align, text, 0);
}

/* Digits with a separator every `group` places. */
static size_t add_commas(const char *digits, size_t n, char comma, size_t group, char *out)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && (n - i) % group == 0)
            out[length++] = comma;
        out[length++] = digits[i];
    }
    return length;
}

static bool put_int_field(struct run *run, const struct field *field, jinja_int number)
{
    char digits[DIGITS_MAX], text[2 * DIGITS_MAX];
    char type = field->type ? field->type : 'd';
    unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    const char *letters = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    unsigned __int128 rest = number < 0 ? -(unsigned __int128)number : (unsigned __int128)number;
    size_t at = DIGITS_MAX, n = 0;
    do {
        digits[--at] = letters[(unsigned)(rest % base)];
        rest /= base;
    } while (rest);
    while (at > 1 && (int32_t)(DIGITS_MAX - at) < field->precision)
        digits[--at] = '0';
    if (number < 0 || field->sign == '+' || field->sign == ' ')
        text[n++] = number < 0 ? '-' : field->sign;
    if (field->other && base != 10) {
        text[n++] = '0';
        text[n++] = type;
    }
    size_t prefix = n;
    if (field->commas)
        n += add_commas(digits + at, DIGITS_MAX - at, field->comma, base == 10 ? 3 : 4, text + n);
    else
        for (; at < DIGITS_MAX; at++)
            text[n++] = digits[at];
    return put_padded(run, field, field->align ? field->align : '>', (struct value_text){ text, n },
                      prefix);
}

static bool put_float_field(struct run *run, const struct field *field, double number)
{
    char text[FIELD_MAX], grouped[FIELD_MAX + FIELD_MAX / 3];
    int precision = field->precision >= 0 ? field->precision : 6;
    if (precision > PRECISION_MAX)
        return run_fail(run, "a precision of more than %d digits", PRECISION_MAX);
    char type = field->type == '%' ? 'f' : field->type;
    double shown = fabs(field->type == '%' ? number * 100 : number);
    int n;
    if (isnan(shown) || isinf(shown)) {
        n = snprintf(text, sizeof text, "%s", isnan(shown) ? "nan" : "inf");
    } else if (!type && field->precision < 0) {
        n = float_repr(shown, text);
    } else {
        char format[8] = { '%', field->other ? '#' : '.', field->other ? '.' : '*',
                           field->other ? '*' : (type ? type : 'g'),
                           field->other ? (type ? type : 'g') : 0 };
        n = snprintf(text, sizeof text, format, precision, shown);
    }
    size_t length = 0, digits = strspn(text, "0123456789");
    if ((signbit(number) && !isnan(number)) || field->sign == '+' || field->sign == ' ')
        grouped[length++] = signbit(number) && !isnan(number) ? '-' : field->sign;
    size_t prefix = length;
    if (field->commas) {
        length += add_commas(text, digits, field->comma, 3, grouped + length);
    } else {
        memcpy(grouped + length, text, digits);
        length += digits;
    }
    memcpy(grouped + length, text + digits, (size_t)n - digits);
    length += (size_t)n - digits;
    if (field->type == '%')
        grouped[length++] = '%';
    return put_padded(run, field, field->align ? field->align : '>',
                      (struct value_text){ grouped, length }, prefix);
}

static bool no_code(struct run *run, char type, const struct value *value)
{
    return run_fail(run, "unknown format code '%c' for object of type '%s'", type,
                    value_type(value));
}

static bool put_field(struct run *run, const struct field *field, const struct value *value)
{
    if (value_is_number(value)) {
        bool as_float = field->type && strchr("eEfFgG%", field->type);
        if (value->kind == VALUE_BOOL && !field->any) {
            const char *word = value->boolean ? "True" : "False";
            return put_string_field(run, field, (struct value_text){ word, strlen(word) });
        }
        if (value->kind == VALUE_FLOAT || as_float) {
            if (field->type && !as_float)
                return no_code(run, field->type, value);
            return put_float_field(run, field, value_number(value));
        }
        if (field->type && !strchr("bcdoxX", field->type))
            return no_code(run, field->type, value);
        if (field->type == 'c') {
            char bytes[4];
            jinja_int code = value_integer(value);
            if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
                return run_fail(run, "%%c needs a character's number");
            size_t n = text_encode((uint32_t)code, bytes);
            return put_string_field(run, field, (struct value_text){ bytes, n });
        }
        if (field->any && field->precision >= 0)
            return run_fail(run, "precision not allowed in integer format specifier");
        return put_int_field(run, field, value_integer(value));
    }
    struct value text;
    if (field->type && field->type != 's')
        return no_code(run, field->type, value);
    if (field->commas || field->sign || (field->any && value->kind != VALUE_STRING))
        return run_fail(run, "this format does not fit a %s", value_type(value));
    return value_str(run, value, &text) && put_string_field(run, field, text.text);
}

/* ---- % ---- */

struct percent {
    struct run *run;
    const char *at, *end;
    const struct value *args;
    size_t used;
    bool single; /* args is the one argument */
};

static bool percent_next(struct percent *percent, const struct value **out)
{
    size_t n = percent->single ? 1 : percent->args->items.n;
    if (percent->used >= n)
        return run_fail(percent->run, "not enough arguments for format string");
    *out = percent->single ? percent->args : &percent->args->items.at[percent->used];
    percent->used++;
    return true;
}

static bool percent_number(struct percent *percent, int32_t *out)
{
    *out = 0;
    if (percent->at < percent->end && *percent->at == '*') {
        const struct value *value = NULL;
        percent->at++;
        if (!percent_next(percent, &value))
            return false;
        if (!value_is_integer(value) || value_integer(value) < 0 ||
            value_integer(value) > WIDTH_MAX)
            return run_fail(percent->run, "* wants an integer from 0 to %d", WIDTH_MAX);
        *out = (int32_t)value_integer(value);
        return true;
    }
    for (; percent->at < percent->end && *percent->at >= '0' && *percent->at <= '9';
         percent->at++) {
        *out = *out * 10 + (*percent->at - '0');
        if (*out > WIDTH_MAX)
            return run_fail(percent->run, "a format's width is at most %d", WIDTH_MAX);
    }
    return true;
}

/* (name) behind the %: the dict's member. */
static bool percent_named(struct percent *percent, const struct value **out)
{
    const char *close = memchr(percent->at, ')', (size_t)(percent->end - percent->at));
    if (!close || percent->args->kind != VALUE_DICT)
        return run_fail(percent->run,
                        close ? "format requires a mapping" : "incomplete format key");
    *out = dict_find_text(percent->run, &percent->args->pairs, percent->at + 1,
                          (size_t)(close - percent->at - 1));
    percent->at = close + 1;
    percent->used = 1;
    return *out ? true : run_fail(percent->run, "format key not found");
}

static bool percent_put(struct percent *percent, struct field *field, char type,
                        const struct value *value)
{
    struct run *run = percent->run;
    struct value text;
    field->type = type == 'i' || type == 'u' ? 'd' : type;
    if (type == 's' || type == 'r' || type == 'a') {
        bool good = type == 's' ? value_str(run, value, &text) : value_repr(run, value, &text);
        return good && put_string_field(run, field, text.text);
    }
    if (type == 'c' && value->kind == VALUE_STRING)
        return text_count(run, value->text) == 1 ? put_string_field(run, field, value->text)
                                                 : run_fail(run, "%%c requires int or char");
    if (!value_is_number(value))
        return run_fail(run, "%%%c format: a real number is required, not %s", type,
                        value_type(value));
    if (value->kind == VALUE_FLOAT && field->type == 'd') {
        if (isnan(value->number) || fabs(value->number) > 0x1p+120)
            return run_fail(run, "cannot convert this float to an integer");
        return put_int_field(run, field, (jinja_int)value->number);
    }
    struct value plain = *value;
    if (plain.kind == VALUE_BOOL)
        plain = value_int(plain.boolean);
    return put_field(run, field, &plain);
}

static bool percent_field(struct percent *percent)
{
    struct run *run = percent->run;
    struct field field = { .precision = -1 };
    const struct value *value = NULL;
    bool zero = false;
    if (percent->at < percent->end && *percent->at == '(' && !percent_named(percent, &value))
        return false;
    for (; percent->at < percent->end && strchr("#0- +", *percent->at) && *percent->at;
         percent->at++) {
        if (*percent->at == '-')
            field.align = '<';
        else if (*percent->at == '0')
            zero = true;
        else if (*percent->at == '#')
            field.other = true;
        else if (field.sign != '+')
            field.sign = *percent->at;
    }
    if (!percent_number(percent, &field.width))
        return false;
    if (percent->at < percent->end && *percent->at == '.') {
        percent->at++;
        if (!percent_number(percent, &field.precision))
            return false;
    }
    if (percent->at == percent->end)
        return run_fail(run, "incomplete format");
    char type = *percent->at++;
    if (type == '%')
        return run_put(run, "%", 1);
    if (!type || !strchr("srcdiuoxXeEfFgGa", type))
        return run_fail(run, "unsupported format character");
    if (!value && !percent_next(percent, &value))
        return false;
    if (zero && !field.align && !strchr("srca", type)) {
        field.align = '=';
        field.fill = '0';
    } else if (!field.align) {
        field.align = '>';
    }
    return percent_put(percent, &field, type, value);
}

bool format_percent(struct run *run, const struct value *format, const struct value *args,
                    struct value *out)
{
    struct percent percent = {
        run, format->text.bytes,       format->text.bytes + format->text.length, args,
        0,   args->kind != VALUE_TUPLE
    };
    size_t from = run->out->length;
    while (percent.at < percent.end) {
        const char *sign = memchr(percent.at, '%', (size_t)(percent.end - percent.at));
        const char *to = sign ? sign : percent.end;
        if (!run_put(run, percent.at, (size_t)(to - percent.at)))
            return false;
        percent.at = sign ? sign + 1 : to;
        if (sign && !percent_field(&percent))
            return false;
    }
    /* Python asks whether the one argument could be a mapping: whatever can be indexed. */
    bool mapping = args->kind == VALUE_DICT || args->kind == VALUE_LIST ||
                   args->kind == VALUE_UNDEFINED ||
                   (args->kind == VALUE_VIEW && args->view == VIEW_RANGE);
    if (!mapping && percent.used < (percent.single ? 1 : args->items.n))
        return run_fail(run, "not all arguments converted during string formatting");
    return capture_end(run, from, out);
}

/* ---- format ---- */

static bool spec_number(struct run *run, const char **at, const char *end, int32_t *out)
{
    *out = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        *out = *out * 10 + (**at - '0');
        if (*out > WIDTH_MAX)
            return run_fail(run, "a format's width is at most %d", WIDTH_MAX);
    }
    return true;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool read_spec(struct run *run, const char *at, const char *end, struct field *field)
{
    const char *next = at;
    *field = (struct field){ .any = at < end, .precision = -1 };
    if (at < end) {
        uint32_t fill = text_next(run, &next, end);
        if (next < end && strchr("<>=^", *next) && *next) {
            field->fill = fill;
            field->align = *next;
            at = next + 1;
        } else if (strchr("<>=^", *at) && *at) {
            field->align = *at++;
        }
    }
    if (at < end && (*at == '+' || *at == '-' || *at == ' '))
        field->sign = *at++;
    if (at < end && *at == '#') {
        field->other = true;
        at++;
    }
    if (at < end && *at == '0') {
        field->fill = field->fill ? field->fill : '0';
        field->align = field->align ? field->align : '=';
        at++;
    }
    if (!spec_number(run, &at, end, &field->width))
        return false;
    if (at < end && (*at == ',' || *at == '_')) {
        field->commas = true;
        field->comma = *at++;
    }
    if (at < end && *at == '.') {
        at++;
        if (!spec_number(run, &at, end, &field->precision))
            return false;
    }
    if (at < end)
        field->type = *at++;
    if (at < end || (field->type && !strchr("bcdeEfFgGosxX%", field->type)))
        return run_fail(run, "invalid format specifier");
    return true;
}

struct braces {
    struct run *run;
    const struct call *call;
    size_t next; /* of automatic numbering */
};

/* 0, name, name.attr, name[key], or nothing: the next one. */
static bool braces_value(struct braces *braces, const char *at, const char *end, struct value *out)
{
    struct run *run = braces->run;
    const char *p = at;
    while (p < end && *p != '.' && *p != '[')
        p++;
    struct value_text name = { at, (size_t)(p - at) };
    size_t index = 0;
    bool number = true, found = false;
    for (size_t i = 0; i < name.length; i++) {
        number = number && name.bytes[i] >= '0' && name.bytes[i] <= '9';
        if (number && index < 1000000)
            index = index * 10 + (size_t)(name.bytes[i] - '0');
    }
    if (!name.length)
        index = braces->next++;
    if (number) {
        found = index < braces->call->n;
        if (found)
            *out = braces->call->items[index];
    }
    for (size_t i = 0; !number && !found && i < braces->call->n_named; i++) {
        found = text_equal(run, braces->call->named[i].name, name);
        if (found)
            *out = braces->call->named[i].value;
    }
    if (!found)
        return run_fail(run, "no argument of format() for this field");
    while (p < end) {
        bool item = *p++ == '[';
        const char *from = p;
        while (p < end && (item ? *p != ']' : *p != '.' && *p != '['))
            p++;
        struct value key = value_text(from, (size_t)(p - from));
        jinja_int digits = 0;
        bool all = p > from && p - from < 10;
        for (const char *q = from; item && q < p && all; q++) {
            all = *q >= '0' && *q <= '9';
            digits = digits * 10 + (*q - '0');
        }
        if (item && all)
            key = value_int(digits);
        if (item && p < end)
            p++;
        if (!(item ? value_item(run, out, &key, out) : value_attr(run, out, key.text, out)))
            return false;
    }
    return true;
}

static bool braces_field(struct braces *braces, const char *at, const char *end)
{
    struct run *run = braces->run;
    struct field field;
    struct value value, text;
    const char *name_end = at;
    while (name_end < end && *name_end != ':' && *name_end != '!')
        name_end++;
    if (!braces_value(braces, at, name_end, &value))
        return false;
    at = name_end;
    if (at < end && *at == '!') {
        char how = at + 1 < end ? at[1] : 0;
        at += at + 1 < end ? 2 : 1;
        if (how != 's' && how != 'r')
            return run_fail(run, "unknown conversion in a format field");
        if (!(how == 's' ? value_str(run, &value, &text) : value_repr(run, &value, &text)))
            return false;
        value = text;
    }
    if (at < end && *at != ':')
        return run_fail(run, "expected ':' in a format field");
    at += at < end;
    if (memchr(at, '{', (size_t)(end - at)))
        return run_fail(run, "fields within format specifiers are not supported");
    return read_spec(run, at, end, &field) && put_field(run, &field, &value);
}

bool format_braces(struct run *run, const struct value *format, const struct call *call,
                   struct value *out)
{
    struct braces braces = { run, call, 0 };
    const char *at = format->text.bytes, *end = at + format->text.length;
    size_t from = run->out->length;
    while (at < end) {
        const char *to = at;
        while (to < end && *to != '{' && *to != '}')
            to++;
        if (!run_put(run, at, (size_t)(to - at)))
            return false;
        if (to == end)
            break;
        if (to + 1 < end && to[1] == *to) { /* {{ and }} */
            if (!run_put(run, to, 1))
                return false;
            at = to + 2;
            continue;
        }
        const char *close = *to == '{' ? memchr(to, '}', (size_t)(end - to)) : NULL;
        if (!close)
            return run_fail(run, "single '%c' encountered in format string", *to);
        if (!braces_field(&braces, to + 1, close))
            return false;
        at = close + 1;
    }
    return capture_end(run, from, out);
}
