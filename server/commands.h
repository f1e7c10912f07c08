/* commands.h - one function a command: options in, exit status out. Each runs on the main thread,
 * prints results to standard output and one `nibble: ...` line to standard error on failure. */
#pragma once
#include "host/base/buf.h"
#include "host/base/err.h"
#include "server/options.h"

int cmd_serve(const struct options *options);
int cmd_complete(const struct options *options);
int cmd_tokenize(const struct options *options);
int cmd_inspect(const struct options *options);
int cmd_eval(const struct options *options);
int cmd_bench(const struct options *options);
int cmd_health(const struct options *options);

/* commands.c: what they share. */
/* Prints `nibble: text`; returns the exit status 1. */
int command_fail(const struct err *err);
/* Everything from standard input (at most 256 MiB) appended to `out`. */
MUST_USE bool command_read_stdin(struct buf *out, struct err *err);
/* Writes `out` to standard output; 0, or 1 when it could not be written. */
int command_print(const struct buf *out);
