/* log.h - one line is one event on standard error: `ts level event key=value ...` or JSON.
 * Never prompt text. A log that cannot be written never blocks work for long: one write(2) of at
 * most 4096 bytes after a poll of 10 ms (0 once it is stuck); what is lost is counted and reported
 * when writing works again. Thread-safe, allocates nothing. */
#pragma once
#include <stdbool.h>
#include "host/base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

/* LOG_OFF silences all but a failed CHECK, which is written as level "fatal". */
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

void log_configure(enum log_level least, bool json);
/* `event` is one word. The format gives "key=value key=value". Every %s is escaped (quotes,
 * backslashes, control bytes, bytes that are not UTF-8) and put in double quotes when it needs
 * them, so a hostile value cannot forge a key or a line; name=\"%s\" quotes it always.
 * Conversions: d i u x X o c s f g e p with flags, width, precision and length, and %%. */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);
#define log_debug(...) log_event(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_event(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_event(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_event(LOG_ERROR, __VA_ARGS__)
#ifdef __cplusplus
}
#endif
