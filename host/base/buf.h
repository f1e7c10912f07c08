/* buf.h - a byte string that grows, up to a limit. Failure is sticky: writers need no checks,
 * the reader asks once (`buf.failed`). Always NUL-terminated behind `length` when not failed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "host/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct buf {
    char *bytes; /* owned; NULL until the first byte; use buf_text for a C string */
    size_t length, capacity, limit;
    bool failed; /* over the limit or out of memory: nothing was added since */
};

void buf_init(struct buf *buf, size_t limit);
void buf_clear(struct buf *buf); /* frees */
void buf_reset(struct buf *buf); /* length = 0, failed = false, memory kept */
void buf_put(struct buf *buf, const void *bytes, size_t length);
void buf_puts(struct buf *buf, const char *text);
void buf_putc(struct buf *buf, char c);
void buf_printf(struct buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);
const char *buf_text(const struct buf *buf); /* never NULL */
/* Drop the first n bytes. */
void buf_shift(struct buf *buf, size_t n);
/* Append a JSON string literal, quotes included; bytes that are not UTF-8 become U+FFFD. */
void buf_put_json_string(struct buf *buf, const char *bytes, size_t length);
/* Append the shortest decimal that reads back as this double (integers without a fraction);
 * not finite: null. */
void buf_put_json_number(struct buf *buf, double number);

#ifdef __cplusplus
}
#endif
