/* support.h - what several tests need: cmocka in the right order, oracle paths, files. */
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "host/base/err.h"

/* tests/oracle/NAME, or with `full` the same below $NIBBLE_ORACLE (tests/run.sh --all sets it).
 * Returns a static buffer per call site count of 8. */
const char *oracle_path(const char *format, ...) PRINTF_LIKE(1, 2);
/* The folder of the full reference data, or NULL: then print why and count as skipped. */
const char *oracle_full(void);
/* A fresh temporary folder, removed at exit. */
const char *temp_dir(void);
void write_file(const char *path, const void *bytes, size_t size);
/* bytes placed so that the first byte behind them is an inaccessible page. Free with guard_free. */
void *guard_copy(const void *bytes, size_t size);
void guard_free(void *copy, size_t size);
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s: %s", #call, (err)->text);                                                \
    } while (0)
