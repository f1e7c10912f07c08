/* jinja_print.c - values as text: str, repr and JSON as Python writes them; JSON to values.
 *
 * Everything is appended to run->out; what shall become a value is taken off its end again
 * (capture_end). A mark (chat.h) is passed through as it is, never escaped. */
#include "host/text/jinja.h"
#include "host/base/json.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool run_put(struct run *run, const char *bytes, size_t length)
{
    buf_put(run->out, bytes, length);
    if (!run->out->failed)
        return run_spend(run, length);
    /* Writers of small pieces ask later, so the last ones may be missing: within 1 MiB of the limit
     * it was the limit. */
    if (run->out->length + length + (1 << 20) > JINJA_OUTPUT_MAX)
        return run_fail(run, "output of more than %d bytes", JINJA_OUTPUT_MAX);
    return err_set(run->err, ERR_MEMORY, "chat template: out of memory for its output");
}

static bool put_word(struct run *run, const char *word)
{
    return run_put(run, word, strlen(word));
}

bool capture_end(struct run *run, size_t from, struct value *out)
{
    if (run->out->failed)
        return run_put(run, "", 0);
    size_t length = run->out->length - from;
    if (!value_copy_text(run, run->out->bytes ? run->out->bytes + from : "", length, out))
        return false;
    run->out->length = from;
    if (run->out->bytes)
        run->out->bytes[from] = 0;
    return run_spend(run, length);
}

int int_repr(jinja_int number, char text[INT_TEXT_MAX])
{
    char digits[INT_TEXT_MAX];
    int n = 0, length = 0;
    unsigned __int128 rest = number < 0 ? -(unsigned __int128)number : (unsigned __int128)number;
    do {
        digits[n++] = (char)('0' + (int)(rest % 10));
        rest /= 10;
    } while (rest);
    if (number < 0)
        text[length++] = '-';
    while (n)
        text[length++] = digits[--n];
    text[length] = 0;
    return length;
}

/* The shortest digits that read back as the number; an exponent below 1e-4 and from 1e16 on. */
int float_repr(double number, char text[FLOAT_TEXT_MAX])
{
    if (isnan(number) || isinf(number))
        return snprintf(text, FLOAT_TEXT_MAX, "%s",
                        isnan(number) ? "nan"
                        : number < 0  ? "-inf"
                                      : "inf");
    int precision = 0;
    char digits[40];
    do {
        snprintf(digits, sizeof digits, "%.*e", precision, number);
    } while (precision++ < 16 && strtod(digits, NULL) != number);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        *e = 0;
        return snprintf(text, FLOAT_TEXT_MAX, "%se%c%02d", digits, exponent < 0 ? '-' : '+',
                        abs(exponent));
    }
    int decimals = precision - 1 - exponent;
    return snprintf(text, FLOAT_TEXT_MAX, "%.*f", decimals < 1 ? 1 : decimals, number);
}

static bool put_number(struct run *run, const struct value *value)
{
    char text[INT_TEXT_MAX];
    int n =
        value->kind == VALUE_INT ? int_repr(value->integer, text) : float_repr(value->number, text);
    return run_put(run, text, (size_t)n);
}

static bool put_string_repr(struct run *run, struct value_text text)
{
    bool single = memchr(text.bytes, '\'', text.length), both = false;
    both = single && memchr(text.bytes, '"', text.length);
    char quote = single && !both ? '"' : '\'';
    const char *p = text.bytes, *end = p + text.length;
    buf_putc(run->out, quote);
    while (p < end) {
        const char *from = p;
        uint32_t code = text_next(NULL, &p, end);
        if (code == (uint32_t)quote || code == '\\')
            buf_printf(run->out, "\\%c", (char)code);
        else if (code == '\n' || code == '\t' || code == '\r')
            buf_printf(run->out, "\\%c", code == '\n' ? 'n' : code == '\t' ? 't' : 'r');
        else if ((code >= 0x20 && code < 0x7f) || (code >= 0x7f && code_is_printable(code)) ||
                 (run->mark && code == run->mark))
            buf_put(run->out, from, (size_t)(p - from));
        else if (code < 0x100)
            buf_printf(run->out, "\\x%02x", code);
        else
            buf_printf(run->out, code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
    }
    return run_put(run, &quote, 1) && run_spend(run, text.length);
}

static bool put_items(struct run *run, const struct value_items *items, const char *open,
                      const char *close)
{
    if (!run_enter(run))
        return false;
    bool good = put_word(run, open);
    for (size_t i = 0; good && i < items->n; i++)
        good = (!i || put_word(run, ", ")) && value_put_repr(run, &items->at[i]);
    run->depth--;
    return good && put_word(run, close);
}

static bool put_pairs(struct run *run, const struct value_pair *pairs, size_t n)
{
    if (!run_enter(run))
        return false;
    bool good = put_word(run, "{");
    for (size_t i = 0; good && i < n; i++)
        good = (!i || put_word(run, ", ")) && value_put_repr(run, &pairs[i].key) &&
               put_word(run, ": ") && value_put_repr(run, &pairs[i].value);
    run->depth--;
    return good && put_word(run, "}");
}

static bool put_view(struct run *run, const struct value *value)
{
    if (value->view == VIEW_GENERATOR)
        return put_word(run, "<generator object>");
    if (value->view == VIEW_RANGE) {
        const struct value_items *items = &value->items;
        jinja_int first = items->n ? items->at[0].integer : 0;
        jinja_int step = items->n > 1 ? items->at[1].integer - first : 1;
        struct value bounds[3] = { value_int(first), value_int(first + (jinja_int)items->n * step),
                                   value_int(step) };
        struct value_items shown = { bounds, step == 1 ? 2 : 3 };
        return put_items(run, &shown, "range(", ")");
    }
    return put_word(run, value_type(value)) && put_items(run, &value->items, "([", "])");
}

bool value_put_repr(struct run *run, const struct value *value)
{
    if (!run_spend(run, 1))
        return false;
    switch (value->kind) {
    case VALUE_UNDEFINED:
        return put_word(run, "Undefined");
    case VALUE_NONE:
        return put_word(run, "None");
    case VALUE_BOOL:
        return put_word(run, value->boolean ? "True" : "False");
    case VALUE_INT:
    case VALUE_FLOAT:
        return put_number(run, value);
    case VALUE_STRING:
        return put_string_repr(run, value->text);
    case VALUE_LIST:
        return put_items(run, &value->items, "[", "]");
    case VALUE_TUPLE:
        return put_items(run, &value->items, "(", value->items.n == 1 ? ",)" : ")");
    case VALUE_VIEW:
        return put_view(run, value);
    case VALUE_DICT:
        return put_pairs(run, value->pairs.at, value->pairs.n);
    case VALUE_SPACE:
        return put_word(run, "<Namespace ") &&
               put_pairs(run, value->space->pairs, value->space->n) && put_word(run, ">");
    case VALUE_MACRO:
        return put_word(run, "<Macro ") && put_string_repr(run, value->macro->name) &&
               put_word(run, ">");
    case VALUE_JOINER:
    case VALUE_CYCLER:
    case VALUE_LOOP:
    default:
        return put_word(run, "<") && put_word(run, value_type(value)) && put_word(run, ">");
    }
}

bool value_put(struct run *run, const struct value *value)
{
    if (value->kind == VALUE_STRING)
        return run_put(run, value->text.bytes, value->text.length);
    return value->kind == VALUE_UNDEFINED ? true : value_put_repr(run, value);
}

bool value_str(struct run *run, const struct value *value, struct value *out)
{
    size_t from = run->out->length;
    if (value->kind == VALUE_STRING) {
        *out = *value;
        return true;
    }
    return value_put(run, value) && capture_end(run, from, out);
}

bool value_repr(struct run *run, const struct value *value, struct value *out)
{
    size_t from = run->out->length;
    return value_put_repr(run, value) && capture_end(run, from, out);
}

/* ---- JSON ---- */

static bool put_json_string(struct run *run, struct value_text text, const struct json_style *style)
{
    const char *p = text.bytes, *end = p + text.length;
    buf_putc(run->out, '"');
    while (p < end) {
        const char *from = p;
        while (p < end && (unsigned char)*p >= 0x20 && *p != '"' && *p != '\\' &&
               ((unsigned char)*p < 0x7f || !style->ascii))
            p++;
        buf_put(run->out, from, (size_t)(p - from));
        if (p == end)
            break;
        from = p;
        uint32_t code = text_next(NULL, &p, end);
        static const char letters[] = "\nn\tt\rr\bb\ff\"\"\\\\";
        const char *letter = letters;
        while (*letter && (uint32_t)*letter != code)
            letter += 2;
        if (*letter)
            buf_printf(run->out, "\\%c", letter[1]);
        else if (code == 0x7f || (run->mark && code == run->mark))
            buf_put(run->out, from, (size_t)(p - from));
        else if (code < 0x10000)
            buf_printf(run->out, "\\u%04x", code);
        else
            buf_printf(run->out, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                       0xdc00 + (code & 0x3ff));
    }
    return run_put(run, "\"", 1) && run_spend(run, text.length);
}

static bool put_json(struct run *run, const struct value *value, const struct json_style *style,
                     int32_t level);

static bool json_break(struct run *run, const struct json_style *style, int32_t level)
{
    if (!style->pretty)
        return true;
    bool good = run_put(run, "\n", 1);
    for (int32_t i = 0; good && i < level; i++)
        good = run_put(run, style->indent.bytes, style->indent.length);
    return good;
}

static bool put_json_key(struct run *run, const struct value *key, const struct json_style *style)
{
    if (key->kind == VALUE_STRING)
        return put_json_string(run, key->text, style);
    if (!value_is_number(key) && key->kind != VALUE_NONE)
        return run_fail(run, "keys must be str, int, float, bool or None, not %s", value_type(key));
    return run_put(run, "\"", 1) && put_json(run, key, style, 0) && run_put(run, "\"", 1);
}

struct sort_entry {
    const struct value_pair *pair;
    struct value_text key;
};

static int by_key(const void *a, const void *b)
{
    return text_order(NULL, ((const struct sort_entry *)a)->key,
                      ((const struct sort_entry *)b)->key);
}

static bool put_json_pairs(struct run *run, const struct value_pairs *pairs,
                           const struct json_style *style, int32_t level)
{
    struct sort_entry *order = run_take(run, pairs->n, sizeof *order);
    if (!order)
        return false;
    for (size_t i = 0; i < pairs->n; i++) {
        order[i] = (struct sort_entry){ &pairs->at[i], pairs->at[i].key.text };
        if (style->sort && pairs->at[i].key.kind != VALUE_STRING)
            return run_fail(run, "sort_keys needs keys that are strings");
    }
    if (style->sort && pairs->n)
        qsort(order, pairs->n, sizeof *order, by_key);
    for (size_t i = 0; i < pairs->n; i++) {
        const struct value_pair *pair = order[i].pair;
        if ((i && !run_put(run, style->item_separator.bytes, style->item_separator.length)) ||
            !json_break(run, style, level + 1) || !put_json_key(run, &pair->key, style) ||
            !run_put(run, style->key_separator.bytes, style->key_separator.length) ||
            !put_json(run, &pair->value, style, level + 1))
            return false;
    }
    return true;
}

static bool put_json_items(struct run *run, const struct value_items *items,
                           const struct json_style *style, int32_t level)
{
    for (size_t i = 0; i < items->n; i++)
        if ((i && !run_put(run, style->item_separator.bytes, style->item_separator.length)) ||
            !json_break(run, style, level + 1) || !put_json(run, &items->at[i], style, level + 1))
            return false;
    return true;
}

static bool put_json(struct run *run, const struct value *value, const struct json_style *style,
                     int32_t level)
{
    if (!run_spend(run, 1))
        return false;
    switch (value->kind) {
    case VALUE_NONE:
        return put_word(run, "null");
    case VALUE_BOOL:
        return put_word(run, value->boolean ? "true" : "false");
    case VALUE_FLOAT:
        if (isnan(value->number) || isinf(value->number))
            return put_word(run, isnan(value->number) ? "NaN"
                                 : value->number < 0  ? "-Infinity"
                                                      : "Infinity");
        return put_number(run, value);
    case VALUE_INT:
        return put_number(run, value);
    case VALUE_STRING:
        return put_json_string(run, value->text, style);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        break;
    default:
        return run_fail(run, "Object of type %s is not JSON serializable", value_type(value));
    }
    bool dict = value->kind == VALUE_DICT;
    if (dict ? !value->pairs.n : !value->items.n)
        return put_word(run, dict ? "{}" : "[]");
    if (!run_enter(run))
        return false;
    bool good = put_word(run, dict ? "{" : "[") &&
                (dict ? put_json_pairs(run, &value->pairs, style, level)
                      : put_json_items(run, &value->items, style, level)) &&
                json_break(run, style, level) && put_word(run, dict ? "}" : "]");
    run->depth--;
    return good;
}

bool value_put_json(struct run *run, const struct value *value, const struct json_style *style)
{
    return put_json(run, value, style, 0);
}

static bool number_from_json(const struct cJSON *json, struct value *out)
{
    double number = json->valuedouble;
    const char *text = json_number_text(json);
    if (text) { /* an integer beyond what a double holds exactly */
        jinja_int integer = 0;
        bool over = false;
        for (const char *p = text + (*text == '-'); *p; p++)
            over = over || __builtin_mul_overflow(integer, 10, &integer) ||
                   __builtin_add_overflow(integer, *p - '0', &integer);
        if (!over) {
            *out = value_int(*text == '-' ? -integer : integer);
            return true;
        }
    }
    if (!json_number_is_float(json) && number == trunc(number) && fabs(number) < 0x1p+100)
        *out = value_int((jinja_int)number);
    else
        *out = value_float(number);
    return true;
}

static bool string_from_json(struct run *run, const char *text, const struct marker *marker,
                             struct value *out)
{
    size_t length = strlen(text), from = run->out->length;
    if (!marker)
        return value_copy_text(run, text, length, out);
    return marker_put(run, marker, text, length) && capture_end(run, from, out);
}

static bool items_from_json(struct run *run, const struct cJSON *json, const struct marker *marker,
                            struct value *out)
{
    size_t n = (size_t)cJSON_GetArraySize(json), i = 0;
    struct value *items = run_take(run, n, sizeof *items);
    if (!items)
        return false;
    for (const struct cJSON *child = json->child; child; child = child->next)
        if (!value_from_json(run, child, marker, &items[i++]))
            return false;
    *out = value_list(items, n);
    return true;
}

static bool pairs_from_json(struct run *run, const struct cJSON *json, const struct marker *marker,
                            struct value *out)
{
    size_t n = (size_t)cJSON_GetArraySize(json), i = 0;
    struct value_pair *pairs = run_take(run, n, sizeof *pairs);
    if (!pairs)
        return false;
    for (const struct cJSON *child = json->child; child; child = child->next, i++)
        if (!string_from_json(run, child->string ? child->string : "", marker, &pairs[i].key) ||
            !value_from_json(run, child, marker, &pairs[i].value))
            return false;
    *out = (struct value){ .kind = VALUE_DICT, .pairs = { pairs, n } };
    return true;
}

bool value_from_json(struct run *run, const struct cJSON *json, const struct marker *marker,
                     struct value *out)
{
    switch (json->type & 0xff) {
    case cJSON_True:
    case cJSON_False:
        *out = value_bool((json->type & 0xff) == cJSON_True);
        return true;
    case cJSON_Number:
        return number_from_json(json, out);
    case cJSON_String:
        return string_from_json(run, json->valuestring ? json->valuestring : "", marker, out);
    case cJSON_Array:
    case cJSON_Object: {
        if (!run_enter(run))
            return false;
        bool good = (json->type & 0xff) == cJSON_Array ? items_from_json(run, json, marker, out)
                                                       : pairs_from_json(run, json, marker, out);
        run->depth--;
        return good;
    }
    default:
        *out = value_none();
        return true;
    }
}
