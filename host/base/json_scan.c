/* json_scan.c - RFC 8259, checked byte by byte before cJSON sees anything.
 *
 * Invariant: `at` never passes `end`, no byte behind `end` is read, and every accepted byte is
 * accounted for by the grammar. No recursion and no allocation: the nesting is a bit per level.
 * Pure. */
#include "host/base/json_scan.h"
#include "host/base/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* cJSON reads a number by way of 63 bytes, and would take a longer one for two tokens. */
enum { NUMBER_BYTES_MAX = 63, DEPTH_MAX = 512 };

struct scan {
    const char *start, *at, *end;
    const struct json_limits *limits;
    enum err_code code;
    struct err *err;
    int64_t n_nodes;
    int32_t depth;                      /* open containers */
    uint64_t is_object[DEPTH_MAX / 64]; /* a bit per open container */
};

static bool refuse(struct scan *s, const char *at, const char *what)
{
    return err_set(s->err, s->code, "not valid JSON: %s at byte %zu", what,
                   (size_t)(at - s->start));
}

static bool refuse_unexpected(struct scan *s, const char *wanted)
{
    if (s->at == s->end)
        return err_set(s->err, s->code, "not valid JSON: it ends at byte %zu, want %s",
                       (size_t)(s->at - s->start), wanted);
    unsigned char c = (unsigned char)*s->at;
    if (c > 0x20 && c < 0x7f)
        return err_set(s->err, s->code, "not valid JSON: found '%c' at byte %zu, want %s", c,
                       (size_t)(s->at - s->start), wanted);
    return err_set(s->err, s->code, "not valid JSON: found byte 0x%02x at byte %zu, want %s", c,
                   (size_t)(s->at - s->start), wanted);
}

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
        s->at++;
}

/* Four hex digits at s->at; -1 when they are not. */
static int32_t hex4(const struct scan *s)
{
    int32_t value = 0;
    if (s->end - s->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = s->at[i];
        int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Behind a backslash. */
static bool scan_escape(struct scan *s)
{
    const char *from = s->at - 1;
    if (s->at == s->end)
        return refuse_unexpected(s, "the rest of a string");
    char c = *s->at++;
    if (c != 'u')
        return c && strchr("\"\\/bfnrt", c) ? true : refuse(s, from, "an unknown escape");
    int32_t unit = hex4(s);
    if (unit < 0)
        return refuse(s, from, "\\u without four hex digits");
    s->at += 4;
    if (unit == 0)
        return refuse(s, from, "U+0000, which is not accepted,");
    if (unit < 0xd800 || unit > 0xdfff)
        return true;
    if (unit >= 0xdc00 || s->end - s->at < 6 || s->at[0] != '\\' || s->at[1] != 'u')
        return refuse(s, from, "half a surrogate pair");
    s->at += 2;
    unit = hex4(s);
    if (unit < 0xdc00 || unit > 0xdfff)
        return refuse(s, from, "half a surrogate pair");
    s->at += 4;
    return true;
}

/* At the opening quote. */
static bool scan_string(struct scan *s)
{
    s->at++;
    while (s->at < s->end) {
        unsigned char c = (unsigned char)*s->at;
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c == '\\') {
            s->at++;
            if (!scan_escape(s))
                return false;
        } else if (c < 0x20) {
            return refuse(s, s->at, c == 0 ? "U+0000" : "an unescaped control byte in a string");
        } else if (c < 0x80) {
            s->at++;
        } else {
            int step = utf8_step(s->at, (size_t)(s->end - s->at));
            if (step < 0)
                return refuse(s, s->at, "a byte that is not UTF-8");
            s->at += step;
        }
    }
    return refuse_unexpected(s, "the rest of a string");
}

static bool scan_digits(struct scan *s)
{
    const char *from = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > from ? true : refuse_unexpected(s, "a digit");
}

static bool scan_number(struct scan *s)
{
    const char *from = s->at;
    char text[NUMBER_BYTES_MAX + 1];
    bool has_exponent = false;
    s->at += *s->at == '-';
    if (s->at < s->end && *s->at == '0')
        s->at++; /* and no digit may follow: the caller finds it unexpected */
    else if (!scan_digits(s))
        return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!scan_digits(s))
            return false;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        has_exponent = true;
        s->at++;
        s->at += s->at < s->end && (*s->at == '+' || *s->at == '-');
        if (!scan_digits(s))
            return false;
    }
    size_t length = (size_t)(s->at - from);
    if (length > NUMBER_BYTES_MAX)
        return refuse(s, from, "a number of more than 63 bytes");
    if (!has_exponent)
        return true;
    memcpy(text, from, length);
    text[length] = 0;
    return isfinite(strtod(text, NULL)) ? true : refuse(s, from, "a number too large for a double");
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, word, length) != 0)
        return refuse(s, s->at, "an unknown word");
    s->at += length;
    return true;
}

static bool in_object(const struct scan *s)
{
    int32_t top = s->depth - 1;
    return s->is_object[top / 64] >> (top % 64) & 1;
}

static bool open_container(struct scan *s, bool object)
{
    uint64_t bit = (uint64_t)1 << (s->depth % 64);
    if (object)
        s->is_object[s->depth / 64] |= bit;
    else
        s->is_object[s->depth / 64] &= ~bit;
    s->depth++;
    s->at++;
    return true;
}

/* A key and its colon. */
static bool scan_key(struct scan *s)
{
    skip_blanks(s);
    if (s->at == s->end || *s->at != '"')
        return refuse_unexpected(s, "a key in double quotes");
    if (!scan_string(s))
        return false;
    skip_blanks(s);
    if (s->at == s->end || *s->at != ':')
        return refuse_unexpected(s, "':'");
    s->at++;
    return true;
}

/* A scalar whole, or the opening of a container (*opened). */
static bool scan_value(struct scan *s, bool *opened)
{
    *opened = false;
    skip_blanks(s);
    if (s->at == s->end)
        return refuse_unexpected(s, "a value");
    if (++s->n_nodes > s->limits->nodes_max)
        return err_set(s->err, s->code, "the JSON has more than %lld values",
                       (long long)s->limits->nodes_max);
    if (s->depth >= s->limits->depth_max)
        return err_set(s->err, s->code, "the JSON is nested more than %d deep at byte %zu",
                       s->limits->depth_max, (size_t)(s->at - s->start));
    switch (*s->at) {
    case '{':
    case '[':
        *opened = true;
        return open_container(s, *s->at == '{');
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        if (*s->at == '-' || (*s->at >= '0' && *s->at <= '9'))
            return scan_number(s);
        return refuse_unexpected(s, "a value");
    }
}

/* Behind a value: closes what ends here, and stops where the next value begins (or at the end of
 * the text, *done). `opened`: the container on top has nothing in it yet. */
static bool scan_between(struct scan *s, bool opened, bool *done)
{
    *done = false;
    while (s->depth > 0) {
        bool object = in_object(s);
        skip_blanks(s);
        if (s->at < s->end && *s->at == (object ? '}' : ']')) {
            s->at++;
            s->depth--;
            opened = false;
            continue;
        }
        if (!opened) {
            if (s->at == s->end || *s->at != ',')
                return refuse_unexpected(s, object ? "',' or '}'" : "',' or ']'");
            s->at++;
        }
        return object ? scan_key(s) : true;
    }
    *done = true;
    return true;
}

bool json_scan(const char *bytes, size_t length, const struct json_limits *limits,
               enum err_code code, struct err *err)
{
    struct scan s = { bytes, bytes, bytes + length, limits, code, err, 0, 0, { 0 } };
    CHECK(limits->depth_max <= DEPTH_MAX);
    if (length > limits->bytes_max)
        return err_set(err, code == ERR_REQUEST ? ERR_TOO_LARGE : code,
                       "the JSON has %zu bytes, want at most %zu", length, limits->bytes_max);
    if (length >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        return refuse(&s, bytes, "a byte order mark");
    for (bool done = false, opened; !done;)
        if (!scan_value(&s, &opened) || !scan_between(&s, opened, &done))
            return false;
    skip_blanks(&s);
    return s.at == s.end ? true : refuse_unexpected(&s, "the end");
}
