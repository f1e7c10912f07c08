/* buf.c - growing bytes with a limit and a sticky failure.
 *
 * Invariant: when not failed, length < capacity (or capacity == 0) and bytes[length] == 0; length
 * never exceeds limit; after a failure nothing changes until reset or clear. One thread. */
#include "host/base/buf.h"
#include "host/base/utf8.h"
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *buf, size_t limit)
{
    *buf = (struct buf){ .limit = limit < SIZE_MAX / 4 ? limit : SIZE_MAX / 4 };
}

void buf_clear(struct buf *buf)
{
    free(buf->bytes);
    buf_init(buf, buf->limit);
}

void buf_reset(struct buf *buf)
{
    buf->length = 0;
    buf->failed = false;
    if (buf->bytes)
        buf->bytes[0] = 0;
}

/* Room for `more` bytes and the NUL. */
static bool grow(struct buf *buf, size_t more)
{
    if (buf->failed || more > buf->limit - buf->length) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->length + more + 1;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity < 64 ? 64 : buf->capacity;
    while (capacity < need)
        capacity *= 2; /* limit <= SIZE_MAX / 4 keeps this from wrapping */
    if (capacity > buf->limit + 1)
        capacity = buf->limit + 1;
    char *bytes = realloc(buf->bytes, capacity);
    if (!bytes) {
        buf->failed = true;
        return false;
    }
    buf->bytes = bytes;
    buf->capacity = capacity;
    return true;
}

void buf_put(struct buf *buf, const void *bytes, size_t length)
{
    if (!grow(buf, length))
        return;
    if (length > 0)
        memcpy(buf->bytes + buf->length, bytes, length);
    buf->length += length;
    buf->bytes[buf->length] = 0;
}

void buf_puts(struct buf *buf, const char *text)
{
    buf_put(buf, text, strlen(text));
}

void buf_putc(struct buf *buf, char c)
{
    buf_put(buf, &c, 1);
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        buf->failed = true;
    if (length < 0 || !grow(buf, (size_t)length))
        return;
    va_start(args, format);
    vsnprintf(buf->bytes + buf->length, (size_t)length + 1, format, args);
    va_end(args);
    buf->length += (size_t)length;
}

const char *buf_text(const struct buf *buf)
{
    return buf->bytes ? buf->bytes : "";
}

void buf_shift(struct buf *buf, size_t n)
{
    CHECK(n <= buf->length);
    if (n == 0)
        return;
    memmove(buf->bytes, buf->bytes + n, buf->length - n + 1);
    buf->length -= n;
}

static void put_escape(struct buf *buf, char c)
{
    static const char short_form[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *s = short_form; *s; s += 2)
        if (*s == c) {
            buf_put(buf, (char[2]){ '\\', s[1] }, 2);
            return;
        }
    buf_printf(buf, "\\u%04x", (unsigned)(unsigned char)c);
}

void buf_put_json_string(struct buf *buf, const char *bytes, size_t length)
{
    buf_putc(buf, '"');
    size_t plain = 0, i = 0; /* bytes[plain..i) go as they are */
    while (i < length) {
        unsigned char c = (unsigned char)bytes[i];
        int step = c < 0x80 ? 1 : utf8_step(bytes + i, length - i);
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f && step > 0) {
            i += (size_t)step;
            continue;
        }
        buf_put(buf, bytes + plain, i - plain);
        if (step < 0)
            buf_puts(buf, "\xef\xbf\xbd");
        else
            put_escape(buf, bytes[i]);
        i += (size_t)(step < 0 ? -step : step);
        plain = i;
    }
    if (plain < length)
        buf_put(buf, bytes + plain, length - plain);
    buf_putc(buf, '"');
}

void buf_put_json_number(struct buf *buf, double number)
{
    char text[40];
    if (!isfinite(number)) {
        buf_puts(buf, "null");
        return;
    }
    /* Below 1e21 an integer is written out (as browsers do). Otherwise 15 digits name a normal
     * double that has so short a name, 17 always do; subnormals carry fewer, so begin at one. */
    if (fabs(number) < 1e21 && trunc(number) == number) {
        snprintf(text, sizeof text, "%.0f", number);
    } else {
        for (int digits = fabs(number) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, number);
            if (strtod(text, NULL) == number)
                break;
        }
    }
    buf_puts(buf, text);
}
