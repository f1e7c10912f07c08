/* err.c - filling in struct err, and the end of a program that is wrong.
 *
 * Invariant: text and field are NUL-terminated UTF-8 without control bytes, whatever the arguments
 * held (file names and request bytes come here), so an error may go to a log or a reply as it is.
 * Any thread; allocates nothing. */
#include "host/base/err.h"
#include "host/base/log.h"
#include "host/base/utf8.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Control bytes become blanks, bytes that are not UTF-8 '?'; a sequence cut at the end goes. */
static void tidy(char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length;) {
        int step = utf8_step(text + i, length - i);
        if (step < 0) {
            size_t bad = (size_t)-step;
            if (i + bad == length && ((unsigned char)text[i]) >= 0xc2) {
                text[i] = 0;
                return;
            }
            memset(text + i, '?', bad);
            i += bad;
        } else {
            if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
                text[i] = ' ';
            i += (size_t)step;
        }
    }
}

/* By way of a copy, because the arguments may point into err->text. */
static void set_text(struct err *err, const char *format, va_list args)
{
    char text[sizeof err->text];
    if (vsnprintf(text, sizeof text, format, args) < 0)
        text[0] = 0;
    tidy(text);
    memcpy(err->text, text, sizeof text);
}

bool err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_text(err, format, args);
    va_end(args);
    err->code = code;
    err->field[0] = 0;
    return false;
}

bool err_set_field(struct err *err, enum err_code code, const char *field, const char *format, ...)
{
    char name[sizeof err->field];
    va_list args;
    va_start(args, format);
    set_text(err, format, args);
    va_end(args);
    snprintf(name, sizeof name, "%s", field);
    tidy(name);
    memcpy(err->field, name, sizeof name);
    err->code = code;
    return false;
}

void err_prefix(struct err *err, const char *format, ...)
{
    char prefix[sizeof err->text], text[2 * sizeof err->text + 2];
    va_list args;
    va_start(args, format);
    if (vsnprintf(prefix, sizeof prefix, format, args) < 0)
        prefix[0] = 0;
    va_end(args);
    snprintf(text, sizeof text, "%s: %s", prefix, err->text);
    text[sizeof err->text - 1] = 0;
    tidy(text);
    memcpy(err->text, text, sizeof err->text);
}

void check_failed(const char *file, int line, const char *what)
{
    log_event(LOG_OFF, "bug", "file=%s line=%d check=\"%s\"", file, line, what);
    abort();
}
