/* tool_json.c - see tool_json.h. The grammar is RFC 8259's; nesting over JSON_SCAN_DEPTH_MAX is not
 * JSON here. */
#include "api/tool_json.h"
#include <string.h>

enum number_at { N_MINUS, N_ZERO, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}
/* Inside of a container. */
static bool in_object(const struct json_scan *s)
{
    return (s->objects >> (s->depth - 1) & 1) != 0;
}

static enum json_scan_result ended(struct json_scan *s)
{
    s->at = s->depth > 0 ? SCAN_AFTER : SCAN_DONE;
    return s->depth > 0 ? JSON_SCAN_MORE : JSON_SCAN_DONE;
}

static enum json_scan_result open_container(struct json_scan *s, bool object)
{
    if (s->depth == JSON_SCAN_DEPTH_MAX)
        return JSON_SCAN_BAD;
    s->objects &= ~((uint64_t)1 << s->depth);
    s->objects |= (uint64_t)object << s->depth;
    s->depth++;
    s->at = object ? SCAN_KEY_OR_END : SCAN_VALUE_OR_END;
    return JSON_SCAN_MORE;
}

static enum json_scan_result close_container(struct json_scan *s, char c)
{
    if (c != (in_object(s) ? '}' : ']'))
        return JSON_SCAN_BAD;
    s->depth--;
    return ended(s);
}

static enum json_scan_result begin_value(struct json_scan *s, char c)
{
    switch (c) {
    case '{':
    case '[':
        return open_container(s, c == '{');
    case '"':
        s->at = SCAN_STRING;
        s->is_key = false;
        return JSON_SCAN_MORE;
    case 't':
    case 'f':
    case 'n':
        s->at = SCAN_LITERAL;
        s->literal = c == 't' ? "rue" : c == 'f' ? "alse" : "ull";
        return JSON_SCAN_MORE;
    default:
        if (c != '-' && !is_digit(c))
            return JSON_SCAN_BAD;
        s->at = SCAN_NUMBER;
        s->number = c == '-' ? N_MINUS : c == '0' ? N_ZERO : N_INT;
        return JSON_SCAN_MORE;
    }
}

/* The next state of a number; -1: this byte is none of it. */
static int step_number(int at, char c)
{
    bool digit = is_digit(c), e = c == 'e' || c == 'E';
    switch (at) {
    case N_MINUS:
        return digit ? c == '0' ? N_ZERO : N_INT : -1;
    case N_ZERO:
        return c == '.' ? N_DOT : e ? N_E : -1;
    case N_INT:
        return digit ? N_INT : c == '.' ? N_DOT : e ? N_E : -1;
    case N_DOT:
        return digit ? N_FRACTION : -1;
    case N_FRACTION:
        return digit ? N_FRACTION : e ? N_E : -1;
    case N_E:
        return digit ? N_EXPONENT : c == '+' || c == '-' ? N_SIGN : -1;
    default:
        return digit ? N_EXPONENT : -1;
    }
}

static bool number_is_whole(int at)
{
    return at == N_ZERO || at == N_INT || at == N_FRACTION || at == N_EXPONENT;
}

static enum json_scan_result in_string(struct json_scan *s, char c)
{
    bool hex = is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
    if (s->at == SCAN_ESCAPE) {
        if (c == 0 || strchr("\"\\/bfnrtu", c) == NULL)
            return JSON_SCAN_BAD;
        s->at = c == 'u' ? SCAN_HEX : SCAN_STRING;
        s->n_hex = 4;
        return JSON_SCAN_MORE;
    }
    if (s->at == SCAN_HEX) {
        if (!hex)
            return JSON_SCAN_BAD;
        if (--s->n_hex == 0)
            s->at = SCAN_STRING;
        return JSON_SCAN_MORE;
    }
    if (c == '\\')
        s->at = SCAN_ESCAPE;
    if (c != '"')
        return JSON_SCAN_MORE;
    if (!s->is_key)
        return ended(s);
    s->at = SCAN_COLON;
    return JSON_SCAN_MORE;
}

static enum json_scan_result between(struct json_scan *s, char c)
{
    if (is_blank(c))
        return JSON_SCAN_MORE;
    switch (s->at) {
    case SCAN_VALUE_OR_END:
        return c == ']' ? close_container(s, c) : begin_value(s, c);
    case SCAN_VALUE:
        return begin_value(s, c);
    case SCAN_KEY_OR_END:
        if (c == '}')
            return close_container(s, c);
        __attribute__((fallthrough));
    case SCAN_KEY:
        s->at = SCAN_STRING;
        s->is_key = true;
        return c == '"' ? JSON_SCAN_MORE : JSON_SCAN_BAD;
    case SCAN_COLON:
        s->at = SCAN_VALUE;
        return c == ':' ? JSON_SCAN_MORE : JSON_SCAN_BAD;
    case SCAN_AFTER:
        if (c != ',')
            return close_container(s, c);
        s->at = in_object(s) ? SCAN_KEY : SCAN_VALUE;
        return JSON_SCAN_MORE;
    default: /* SCAN_DONE */
        return JSON_SCAN_BAD;
    }
}

enum json_scan_result json_scan_push(struct json_scan *s, char c)
{
    if (s->at == SCAN_STRING || s->at == SCAN_ESCAPE || s->at == SCAN_HEX)
        return in_string(s, c);
    if (s->at == SCAN_LITERAL) {
        if (c != *s->literal)
            return JSON_SCAN_BAD;
        return *++s->literal == 0 ? ended(s) : JSON_SCAN_MORE;
    }
    if (s->at == SCAN_NUMBER) {
        int next = step_number(s->number, c);
        if (next >= 0) {
            s->number = (uint8_t)next;
            return JSON_SCAN_MORE;
        }
        if (!number_is_whole(s->number))
            return JSON_SCAN_BAD;
        ended(s);
    }
    return between(s, c);
}

bool json_scan_whole(const char *text, size_t length)
{
    struct json_scan scan = { 0 };
    for (size_t i = 0; i < length; i++) {
        bool control = scan.at == SCAN_STRING && (unsigned char)text[i] < 0x20;
        if (control || json_scan_push(&scan, text[i]) == JSON_SCAN_BAD)
            return false;
    }
    return scan.at == SCAN_DONE ||
           (scan.at == SCAN_NUMBER && scan.depth == 0 && number_is_whole(scan.number));
}

/* ---- escapes ----------------------------------------------------------------------------------
 */

static int put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

int json_unescape_end(struct json_unescape *u, char out[8])
{
    int n = u->high != 0 ? put_utf8(0xfffd, out) : 0;
    u->high = 0;
    return n;
}

static int put_unit(struct json_unescape *u, char out[8])
{
    uint32_t unit = u->unit;
    if (u->high != 0 && unit >= 0xdc00 && unit <= 0xdfff) {
        uint32_t c = 0x10000 + ((u->high - 0xd800u) << 10) + (unit - 0xdc00u);
        u->high = 0;
        return put_utf8(c, out);
    }
    int n = json_unescape_end(u, out);
    if (unit >= 0xd800 && unit <= 0xdbff) {
        u->high = (uint16_t)unit;
        return n;
    }
    bool lone = unit >= 0xdc00 && unit <= 0xdfff;
    return n + put_utf8(lone || unit == 0 ? 0xfffd : unit, out + n);
}

int json_unescape_push(struct json_unescape *u, char c, char out[8])
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    if (u->state >= 2) {
        int digit = is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
        u->unit = (uint16_t)(u->unit << 4 | (digit & 15));
        u->state = u->state == 2 ? 0 : (uint8_t)(u->state - 1);
        return u->state == 0 ? put_unit(u, out) : 0;
    }
    if (u->state == 0 && c == '\\') {
        u->state = 1;
        return 0;
    }
    if (u->state == 1 && c == 'u') {
        u->state = 5;
        u->unit = 0;
        return 0;
    }
    int n = json_unescape_end(u, out);
    if (u->state == 1) {
        const char *at = strchr(from, c);
        c = at != NULL && *at != 0 ? to[at - from] : c;
    }
    u->state = 0;
    out[n] = c;
    return n + 1;
}
