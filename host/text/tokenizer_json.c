/* tokenizer_json.c - finding and walking the large tables.
 *
 * Invariant: everything here runs behind json_scan, so quotes and brackets match and every escape
 * is whole; what a value is was not checked, and is here. */
#include "host/text/tokenizer_json.h"
#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"
#include "host/base/json_scan.h"
#include "host/text/unicode.h"

static const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
        p++;
    return p;
}

/* Behind the string that begins at p. */
static const char *skip_string(const char *p)
{
    for (p++; *p != '"'; p++)
        p += *p == '\\';
    return p + 1;
}

/* Behind the number or word that begins at p, inside of a list or an object. */
static const char *skip_scalar(const char *p)
{
    while (*p != ',' && *p != '}' && *p != ']' && *p > ' ')
        p++;
    return p;
}

/* Behind the value that begins at p. */
static const char *skip_value(const char *p)
{
    int32_t depth = 0; /* json_scan's limit on nesting holds */
    do {
        switch (*p) {
        case '"':
            p = skip_string(p);
            break;
        case '{':
        case '[':
            depth++;
            p++;
            break;
        case '}':
        case ']':
            depth--;
            p++;
            break;
        case ' ':
        case '\t':
        case '\n':
        case '\r':
        case ',':
        case ':':
            p++;
            break;
        default:
            p = skip_scalar(p);
        }
    } while (depth > 0);
    return p;
}

/* The value of the member `key` of the object at p; NULL: p is no object or has no such key. The
 * first of several: a second one is refused when the rest is parsed. */
static const char *member(const char *p, const char *key)
{
    size_t n = strlen(key);
    if (*p != '{')
        return NULL;
    for (p = skip_blanks(p + 1); *p != '}';) {
        const char *name = p;
        p = skip_string(p);
        bool found = (size_t)(p - name) == n + 2 && memcmp(name + 1, key, n) == 0;
        p = skip_blanks(skip_blanks(p) + 1); /* the colon */
        if (found)
            return p;
        p = skip_blanks(skip_value(p));
        if (*p == ',')
            p = skip_blanks(p + 1);
    }
    return NULL;
}

static struct json_span span_of(const char *model, const char *key, char bracket)
{
    struct json_span span = { 0 };
    const char *value = member(model, key);
    if (value && *value == bracket)
        span = (struct json_span){ value, skip_value(value) };
    return span;
}

bool tokenizer_json_open(struct tokenizer_json *file, const char *json, size_t length,
                         struct err *err)
{
    *file = (struct tokenizer_json){ 0 };
    buf_init(&file->rest, JSON_FILE_LIMITS.bytes_max);
    if (!json_scan(json, length, &JSON_FILE_LIMITS, ERR_FORMAT, err))
        return false;
    const char *done = json, *model = member(skip_blanks(json), "model");
    if (model) {
        file->vocab = span_of(model, "vocab", '{');
        if (!file->vocab.from)
            file->vocab = span_of(model, "vocab", '[');
        file->merges = span_of(model, "merges", '[');
    }
    struct json_span cuts[2] = { file->vocab, file->merges };
    if (cuts[0].from > cuts[1].from) {
        cuts[0] = file->merges;
        cuts[1] = file->vocab;
    }
    for (int i = 0; i < 2; i++) {
        if (!cuts[i].from)
            continue;
        buf_put(&file->rest, done, (size_t)(cuts[i].from - done));
        buf_puts(&file->rest, *cuts[i].from == '{' ? "{}" : "[]");
        done = cuts[i].to;
    }
    buf_put(&file->rest, done, length - (size_t)(done - json));
    if (!file->rest.failed)
        return true;
    buf_clear(&file->rest);
    return err_set(err, ERR_MEMORY, "no memory for a tokenizer");
}

void tokenizer_json_clear(struct tokenizer_json *file)
{
    buf_clear(&file->rest);
    *file = (struct tokenizer_json){ 0 };
}

/* --- walking --------------------------------------------------------------------------------- */

void table_init(struct table *table, struct json_span span)
{
    *table = (struct table){ .at = span.from, .room = (size_t)(span.to - span.from) };
}

void table_clear(struct table *table)
{
    free(table->spare);
    *table = (struct table){ 0 };
}

void table_enter(struct table *table)
{
    table->at = skip_blanks(table->at + 1);
}

bool table_more(struct table *table)
{
    table->at = skip_blanks(table->at);
    if (*table->at == ',')
        table->at = skip_blanks(table->at + 1);
    if (*table->at != ']' && *table->at != '}')
        return true;
    table->at++;
    return false;
}

enum table_kind table_kind(const struct table *table)
{
    return *table->at == '"' ? TABLE_STRING : *table->at == '[' ? TABLE_LIST : TABLE_OTHER;
}

void table_skip(struct table *table)
{
    table->at = skip_value(table->at);
}

static uint32_t hex4(const char *p)
{
    char digits[5] = { p[0], p[1], p[2], p[3], 0 };
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* One escape, p behind the backslash; returns what is behind it. */
static const char *unescape(const char *p, char *out, size_t *n)
{
    static const char NAMES[] = "bfnrt", VALUES[] = "\b\f\n\r\t";
    const char *name = strchr(NAMES, *p);
    if (*p != 'u') {
        out[(*n)++] = name ? VALUES[name - NAMES] : *p;
        return p + 1;
    }
    uint32_t code = hex4(p + 1);
    p += 5;
    if (code >= 0xd800 && code < 0xdc00) {
        code = 0x10000 + ((code - 0xd800) << 10) + (hex4(p + 2) - 0xdc00);
        p += 6;
    }
    *n += unicode_encode(code, out + *n);
    return p;
}

bool table_string(struct table *table, const char **text, size_t *length)
{
    const char *p = table->at + 1, *from = p;
    while (*p != '"' && *p != '\\')
        p++;
    size_t n = (size_t)(p - from);
    *text = from;
    if (*p == '\\') {
        if (!table->spare && !(table->spare = malloc(table->room)))
            return false;
        char *out = table->spare + table->used; /* never longer than what it is written from */
        memcpy(out, from, n);
        while (*p != '"') {
            if (*p == '\\')
                p = unescape(p + 1, out, &n);
            else
                out[n++] = *p++;
        }
        table->used += n;
        *text = out;
    }
    *length = n;
    p = skip_blanks(p + 1);
    table->at = *p == ':' ? skip_blanks(p + 1) : p;
    return true;
}

bool table_int(struct table *table, int64_t high, int64_t *value)
{
    const char *p = table->at;
    int64_t sum = 0;
    bool fits = *p >= '0' && *p <= '9';
    for (; *p >= '0' && *p <= '9'; p++) {
        sum = sum * 10 + (*p - '0');
        fits &= sum <= high;
        sum = fits ? sum : 0;
    }
    table->at = p;
    *value = sum;
    return fits && skip_scalar(p) == p;
}

bool table_double(struct table *table, double *value)
{
    const char *p = table->at;
    bool number = *p == '-' || (*p >= '0' && *p <= '9');
    if (number)
        *value = strtod(p, NULL); /* json_scan has seen to the grammar; the locale is "C" */
    table->at = skip_value(p);
    return number;
}
