/* log.c - one event, one line, one write(2) to standard error.
 *
 * Invariant: whatever the arguments hold, a line is one line of UTF-8 of at most LINE_MAX_BYTES,
 * and its keys are those of the format. The format is walked here, conversion by conversion, since
 * only that tells a value from the text around it. Any thread; allocates nothing. */
#include "host/base/log.h"
#include "host/base/utf8.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A pipe that polls writable takes PIPE_BUF (4096) bytes at once: a line is never torn by others.
 * Stuck for 10 ms once is bearable for the engine; after that lines are dropped without waiting. */
enum { LINE_MAX_BYTES = 4096, VALUES_MAX = 3072, STUCK_MS = 10 };

static _Atomic int least_level = LOG_INFO;
static _Atomic bool as_json;
static _Atomic uint32_t n_dropped;

struct line {
    char *text;
    size_t length, size; /* bytes beyond size are dropped */
};

void log_configure(enum log_level least, bool json)
{
    atomic_store(&least_level, (int)least);
    atomic_store(&as_json, json);
}

static void put(struct line *line, const char *bytes, size_t n)
{
    if (n > line->size - line->length)
        n = line->size - line->length;
    memcpy(line->text + line->length, bytes, n);
    line->length += n;
}

static void put_text(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* The inside of a JSON string. All or nothing per character, so that a full line stays valid. */
static void put_escaped(struct line *line, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n;) {
        int step = utf8_step(bytes + i, n - i);
        unsigned char c = (unsigned char)bytes[i];
        char out[8];
        int length = step;
        if (step < 0)
            length = snprintf(out, sizeof out, "\\ufffd");
        else if (c == '"' || c == '\\')
            length = snprintf(out, sizeof out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            length = snprintf(out, sizeof out, "\\u%04x", c);
        else
            memcpy(out, bytes + i, (size_t)step);
        if ((size_t)length > line->size - line->length)
            return;
        put(line, out, (size_t)length);
        i += (size_t)(step < 0 ? -step : step);
    }
}

static bool is_plain(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c <= 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '=')
            return false;
    }
    return n > 0;
}

static void put_string(struct line *line, const char *text, int precision, bool in_quotes)
{
    if (!text)
        text = "(null)";
    size_t n = precision >= 0 ? strnlen(text, (size_t)precision) : strlen(text);
    if (in_quotes || is_plain(text, n)) {
        put_escaped(line, text, n);
        return;
    }
    if (line->size - line->length < 2)
        return;
    line->size -= 1; /* the closing quote has its place even when the value is cut */
    put_text(line, "\"");
    put_escaped(line, text, n);
    line->size += 1;
    put_text(line, "\"");
}

/* One conversion of the format: %[flags][width][.precision][length]letter. */
struct spec {
    char text[32]; /* rebuilt with the numbers in place of '*' and without the length */
    int precision; /* -1: none */
    int n_long;    /* l 1, ll 2, j 3, z 4, t 5, h -1, hh -2 */
    char letter;
};

static const char *read_number(const char *p, int *number, va_list *args)
{
    *number = 0;
    if (*p == '*') {
        *number = va_arg(*args, int);
        return p + 1;
    }
    for (; *p >= '0' && *p <= '9'; p++)
        *number = *number < 1000 ? *number * 10 + (*p - '0') : *number;
    return p;
}

static const char *read_spec(const char *p, struct spec *spec, va_list *args)
{
    size_t n = 0;
    int width = 0;
    *spec = (struct spec){ .precision = -1 };
    spec->text[n++] = '%';
    for (; *p && strchr("-+ #0", *p) && n < 8; p++)
        spec->text[n++] = *p;
    p = read_number(p, &width, args);
    if (*p == '.')
        p = read_number(p + 1, &spec->precision, args);
    for (; *p && strchr("hljzt", *p); p++)
        spec->n_long += *p == 'h' ? -1 : *p == 'l' ? 1 : *p == 'j' ? 3 : *p == 'z' ? 4 : 5;
    spec->letter = *p;
    if (width != 0)
        n += (size_t)snprintf(spec->text + n, sizeof spec->text - n, "%d", width);
    if (spec->precision >= 0)
        n += (size_t)snprintf(spec->text + n, sizeof spec->text - n, ".%d", spec->precision);
    if (spec->letter && strchr("diuxXo", spec->letter))
        n += (size_t)snprintf(spec->text + n, sizeof spec->text - n, "j");
    spec->text[n] = spec->letter;
    return *p ? p + 1 : p;
}

static intmax_t take_signed(int n_long, va_list *args)
{
    switch (n_long) {
    case 1:
        return va_arg(*args, long);
    case 2:
        return va_arg(*args, long long);
    case 3:
        return va_arg(*args, intmax_t);
    case 4:
        return va_arg(*args, ssize_t);
    case 5:
        return va_arg(*args, ptrdiff_t);
    case -1:
        return (short)va_arg(*args, int);
    case -2:
        return (signed char)va_arg(*args, int);
    default:
        return va_arg(*args, int);
    }
}

static uintmax_t take_unsigned(int n_long, va_list *args)
{
    switch (n_long) {
    case 1:
        return va_arg(*args, unsigned long);
    case 2:
        return va_arg(*args, unsigned long long);
    case 3:
        return va_arg(*args, uintmax_t);
    case 4:
        return va_arg(*args, size_t);
    case 5:
        return (uintmax_t)va_arg(*args, ptrdiff_t);
    case -1:
        return (unsigned short)va_arg(*args, unsigned);
    case -2:
        return (unsigned char)va_arg(*args, unsigned);
    default:
        return va_arg(*args, unsigned);
    }
}

static void put_conversion(struct line *line, const struct spec *spec, bool in_quotes,
                           va_list *args)
{
    char text[128];
    int n = 0;
    switch (spec->letter) {
    case '%':
        put_text(line, "%");
        return;
    case 's':
        put_string(line, va_arg(*args, const char *), spec->precision, in_quotes);
        return;
    case 'c':
        text[0] = (char)va_arg(*args, int);
        put_string(line, text, 1, in_quotes);
        return;
    case 'd':
    case 'i':
        n = snprintf(text, sizeof text, spec->text, take_signed(spec->n_long, args));
        break;
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        n = snprintf(text, sizeof text, spec->text, take_unsigned(spec->n_long, args));
        break;
    case 'f':
    case 'g':
    case 'e':
        n = snprintf(text, sizeof text, spec->text, va_arg(*args, double));
        break;
    case 'p':
        n = snprintf(text, sizeof text, spec->text, va_arg(*args, void *));
        break;
    default:
        CHECK(false && "a conversion that log_event knows");
    }
    put(line, text, n < 0 ? 0 : n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

static void put_values(struct line *line, const char *format, va_list *args)
{
    bool in_quotes = false;
    while (*format) {
        struct spec spec;
        size_t n = strcspn(format, "%");
        for (size_t i = 0; i < n; i++)
            in_quotes ^= format[i] == '"';
        put(line, format, n);
        format += n;
        if (*format == '%') {
            format = read_spec(format + 1, &spec, args);
            put_conversion(line, &spec, in_quotes, args);
        }
    }
}

static bool is_json_literal(const char *text, size_t n)
{
    size_t i = n > 0 && text[0] == '-', first = i;
    if ((n == 4 && memcmp(text, "true", 4) == 0) || (n == 5 && memcmp(text, "false", 5) == 0))
        return true;
    while (i < n && text[i] >= '0' && text[i] <= '9')
        i++;
    if (i == first || i - first > 15 || (text[first] == '0' && i - first > 1))
        return false;
    if (i < n && text[i] == '.') {
        size_t point = i++;
        while (i < n && text[i] >= '0' && text[i] <= '9')
            i++;
        if (i == point + 1)
            return false;
    }
    return i == n;
}

/* `key=value key="value"` (as put_values writes it) to `,"key":value,"key":"value"`. */
static void put_values_json(struct line *line, const char *p, const char *end)
{
    while (p < end) {
        const char *key = p;
        while (p < end && *p != '=' && *p != ' ')
            p++;
        size_t key_length = (size_t)(p - key);
        const char *value = p < end && *p == '=' ? ++p : p;
        const char *closed = NULL; /* behind the first closing quote */
        bool quoted = false;
        while (p < end && (quoted || *p != ' ')) {
            if (*p == '\\' && quoted && p + 1 < end) {
                p++;
            } else if (*p == '"') {
                quoted = !quoted;
                closed = !quoted && !closed ? p + 1 : closed;
            }
            p++;
        }
        const char *value_end = p;
        size_t n = (size_t)(value_end - value);
        while (p < end && *p == ' ')
            p++;
        if (key_length == 0)
            continue;
        put_text(line, ",\"");
        put_escaped(line, key, key_length);
        put_text(line, "\":");
        if (is_json_literal(value, n)) {
            put(line, value, n);
        } else if (n >= 2 && value[0] == '"' && closed == value_end) {
            put(line, value, n); /* put_escaped made its inside */
        } else {
            put_text(line, "\"");
            put_escaped(line, value, n);
            put_text(line, "\"");
        }
    }
}

static void put_time(struct line *line)
{
    struct timespec now;
    struct tm tm;
    char text[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    put(line, text, n);
    snprintf(text, sizeof text, ".%03dZ", (int)(now.tv_nsec / 1000000));
    put_text(line, text);
}

/* Returns false when the line was lost. */
static bool write_line(const char *text, size_t n)
{
    struct pollfd fd = { .fd = STDERR_FILENO, .events = POLLOUT };
    int ready = poll(&fd, 1, atomic_load(&n_dropped) ? 0 : STUCK_MS);
    if (ready < 0 && errno != EINTR)
        return false;
    if (ready <= 0 || !(fd.revents & POLLOUT))
        return false;
    return write(STDERR_FILENO, text, n) == (ssize_t)n;
}

static void write_event(enum log_level level, const char *event, const char *values, size_t n)
{
    static const char *const NAMES[] = { "debug", "info", "warn", "error", "fatal" };
    char text[LINE_MAX_BYTES];
    struct line line = { text, 0, sizeof text - 2 }; /* "}\n" always fits */
    bool json = atomic_load(&as_json);
    put_text(&line, json ? "{\"ts\":\"" : "");
    put_time(&line);
    put_text(&line, json ? "\",\"level\":\"" : " ");
    put_text(&line, NAMES[level]);
    put_text(&line, json ? "\",\"event\":\"" : " ");
    put_escaped(&line, event, strnlen(event, 64));
    put_text(&line, json ? "\"" : n > 0 ? " " : "");
    size_t before = line.length;
    if (json)
        put_values_json(&line, values, values + n);
    else
        put(&line, values, n);
    if (json && line.length == line.size) {
        /* Escaping made it too long (values are cut at VALUES_MAX before): keep it valid. */
        line.length = before;
        put_text(&line, ",\"cut\":true");
    }
    line.size = sizeof text;
    put_text(&line, json ? "}\n" : "\n");
    if (!write_line(text, line.length))
        atomic_fetch_add(&n_dropped, 1);
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    char values[VALUES_MAX];
    struct line line = { values, 0, sizeof values };
    if ((int)level < atomic_load(&least_level))
        return;
    CHECK((unsigned)level <= LOG_OFF);
    int saved_errno = errno;
    va_list args;
    va_start(args, format);
    put_values(&line, format, &args);
    va_end(args);
    uint32_t lost = atomic_load(&n_dropped);
    write_event(level, event, values, line.length);
    if (lost > 0 && atomic_load(&n_dropped) == lost) {
        char text[40];
        int n = snprintf(text, sizeof text, "lines=%u", lost);
        atomic_fetch_sub(&n_dropped, lost);
        write_event(LOG_WARN, "log_dropped", text, (size_t)n);
    }
    errno = saved_errno;
}
