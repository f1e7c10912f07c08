/* tool_json.h - JSON a byte at a time: a scanner without recursion, and the reader of call objects
 * on top of it. For api/tool_*.c. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "api/tools.h"

enum { JSON_SCAN_DEPTH_MAX = 64 };
enum json_scan_at {
    SCAN_VALUE,        /* a value must begin */
    SCAN_VALUE_OR_END, /* behind [ */
    SCAN_KEY_OR_END,   /* behind { */
    SCAN_KEY,          /* behind , in an object */
    SCAN_COLON,
    SCAN_AFTER, /* behind a value in a container */
    SCAN_STRING,
    SCAN_ESCAPE,
    SCAN_HEX,
    SCAN_NUMBER,
    SCAN_LITERAL,
    SCAN_DONE,
};
struct json_scan {
    uint64_t objects; /* bit d: container d is an object */
    uint8_t depth, at, number, n_hex;
    bool is_key;         /* the string that is being read is one */
    const char *literal; /* what must still come of true, false, null */
};
enum json_scan_result { JSON_SCAN_MORE, JSON_SCAN_DONE, JSON_SCAN_BAD };
/* Zero-initialized: a value is wanted. DONE with the last byte of a container or string; numbers
 * end with the byte behind them, so a lone one is never DONE. Control bytes in strings pass. */
enum json_scan_result json_scan_push(struct json_scan *scan, char byte);
/* Is this whole text one JSON value? Blanks around it are fine, bare control bytes in strings are
 * not. */
bool json_scan_whole(const char *text, size_t length);

/* Takes escapes of a JSON string away, a byte at a time. */
struct json_unescape {
    uint8_t state; /* 0 plain, 1 behind a backslash, 2..5 hex digits to come + 1 */
    uint16_t unit, high;
};
/* Writes at most 7 bytes; returns how many. The byte must be of a valid string. */
int json_unescape_push(struct json_unescape *unescape, char byte, char out[8]);
/* A high surrogate at the end: U+FFFD. */
int json_unescape_end(struct json_unescape *unescape, char out[8]);
