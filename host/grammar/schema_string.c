/* schema_string.c - strings: length, pattern, format. */
#include "host/grammar/schema.h"
#include "host/base/buf.h"
#include <cjson/cJSON.h>
#include <string.h>

/* As regular expressions over the whole string. Dates have 28 days in February, so that no calendar
 * is needed; leap seconds are left out. */
#define DATE                                                                                       \
    "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|" \
    "30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define TIME                                                                                       \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[-+](?:[01][0-9]|2[0-3]):"   \
    "[0-5][0-9])"
#define LABEL "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#define BYTE  "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define HEX4  "[0-9a-fA-F]{1,4}"
static const struct {
    const char *name, *pattern;
} FORMATS[] = {
    { "date", DATE },
    { "time", TIME },
    { "date-time", DATE "T" TIME },
    { "duration", "P(?:[0-9]{1,9}W|[0-9]{1,9}D(?:T[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?)?"
                  "|T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?"
                  "|[0-9]{1,9}S)|[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M"
                  "(?:[0-9]{1,9}D)?)" },
    { "uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}" },
    { "ipv4", BYTE "(?:\\." BYTE "){3}" },
    { "ipv6",
      "(?:" HEX4 ":){7}" HEX4 "|(?:" HEX4 "(?::" HEX4 "){0,2})?::(?:" HEX4 "(?::" HEX4 "){0,2})?" },
    { "email", "[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+){0,8}@" LABEL "(?:\\." LABEL "){1,8}" },
    { "hostname", LABEL "(?:\\." LABEL "){0,3}" },
    { "uri",
      "[a-z][a-z0-9+.-]{0,30}://[A-Za-z0-9._~-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~!$&'()*+,;=:"
      "@-]*)*(?:\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?(?:#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?" },
};

static uint32_t format_body(struct schemas *s, uint32_t part, const cJSON *format)
{
    if (!cJSON_IsString(format))
        return schema_refuse(s, schema_of(part), "format", "want a string");
    for (size_t i = 0; i < sizeof FORMATS / sizeof FORMATS[0]; i++)
        if (strcmp(FORMATS[i].name, format->valuestring) == 0)
            return regex_parse(s->work, "format", FORMATS[i].pattern, strlen(FORMATS[i].pattern),
                               REGEX_WHOLE, CHARS_JSON);
    return schema_refuse(s, schema_of(part), "format", "'%.60s' is not supported",
                         format->valuestring);
}

static uint32_t pattern_body(struct schemas *s, uint32_t part, const cJSON *pattern)
{
    if (!cJSON_IsString(pattern))
        return schema_refuse(s, schema_of(part), "pattern", "want a string");
    uint32_t body = regex_parse(s->work, "pattern", pattern->valuestring,
                                strlen(pattern->valuestring), REGEX_SEARCH, CHARS_JSON);
    if (s->work->failed) /* say where in the schema, not only where in the pattern */
        err_prefix(s->work->err, "the schema has '%.80s'", pattern->valuestring);
    return body;
}

/* Both, where EXPR_NONE says nothing. */
static uint32_t meet(struct schemas *s, uint32_t a, uint32_t b)
{
    return a == EXPR_NONE ? b : expr_and(s->work, a, b);
}

static void lengths(struct schemas *s, const struct flat *flat, int64_t *min, int64_t *max)
{
    *min = 0;
    *max = -1;
    for (uint32_t i = 0; i < flat->parts.n && !s->work->failed; i++) {
        int64_t low = schema_count(s, flat->parts.at[i], "minLength", 0);
        int64_t high = schema_count(s, flat->parts.at[i], "maxLength", -1);
        *min = low > *min ? low : *min;
        *max = high >= 0 && (*max < 0 || high < *max) ? high : *max;
    }
}

static uint32_t any_char(struct schemas *s)
{
    struct arena_mark mark = arena_mark(&s->work->scratch);
    struct charset all = { 0 };
    charset_add(s->work, &all, 0, CODE_POINT_MAX);
    uint32_t chr = expr_charset(s->work, &all, CHARS_JSON);
    arena_reset(&s->work->scratch, mark);
    return chr;
}

uint32_t schema_string_body(struct schemas *s, const struct flat *flat, uint32_t plain)
{
    int64_t min, max;
    uint32_t body = EXPR_NONE;
    bool said = false;
    lengths(s, flat, &min, &max);
    for (uint32_t i = 0; i < flat->parts.n && !s->work->failed; i++) {
        const cJSON *pattern = schema_get(s, flat->parts.at[i], "pattern");
        const cJSON *format = schema_get(s, flat->parts.at[i], "format");
        if (pattern)
            body = meet(s, body, pattern_body(s, flat->parts.at[i], pattern));
        if (format && !s->work->failed)
            body = meet(s, body, format_body(s, flat->parts.at[i], format));
        if ((pattern || format) && body == EXPR_NONE)
            return EXPR_NONE; /* nothing fits, and that must not read as "nothing said" */
        said |= pattern || format;
    }
    if (s->work->failed || (!said && min == 0 && max < 0))
        return plain;
    if (min > 0 || max >= 0)
        body = meet(s, body, expr_repeat(s->work, any_char(s), min, max));
    return body;
}

bool schema_body_has(struct schemas *s, uint32_t body, const char *text)
{
    struct buf written;
    buf_init(&written, (size_t)1 << 24);
    buf_put_json_string(&written, text, strlen(text));
    if (written.failed)
        work_refuse(s->work, ERR_MEMORY, "no memory to compile a schema");
    bool has = !written.failed && written.length >= 2 &&
               expr_matches(s->work, body, written.bytes + 1, written.length - 2);
    buf_clear(&written);
    return has;
}

uint32_t schema_string(struct schemas *s, const struct flat *flat)
{
    struct workshop *work = s->work;
    uint32_t quote = expr_literal(work, "\""), body;
    int64_t min, max;
    bool said = false;
    for (uint32_t i = 0; i < flat->parts.n; i++)
        said |= schema_get(s, flat->parts.at[i], "pattern") ||
                schema_get(s, flat->parts.at[i], "format");
    lengths(s, flat, &min, &max);
    if (work->failed)
        return EXPR_NONE;
    if (!said && min == 0 && max < 0)
        return expr_rule(work, JSON_STRING);
    if (said)
        body = schema_string_body(s, flat, EXPR_NONE);
    else
        body = expr_repeat(work, expr_rule(work, JSON_CHAR), min, max);
    return expr_seq(work, (uint32_t[]){ quote, body, quote }, 3);
}
