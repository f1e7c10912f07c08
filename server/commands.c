/* commands.c - what the commands share. */
#include "server/commands.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int command_fail(const struct err *err)
{
    fflush(stdout);
    fprintf(stderr, "nibble: %s\n", err->text);
    return 1;
}

bool command_read_stdin(struct buf *out, struct err *err)
{
    char block[65536];
    for (;;) {
        ssize_t n = read(STDIN_FILENO, block, sizeof block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "standard input: %s", strerror(errno));
        if (n == 0)
            return true;
        buf_put(out, block, (size_t)n);
        if (out->failed)
            return err_set(err, ERR_TOO_LARGE, "standard input: more than %zu bytes", out->limit);
    }
}

int command_print(const struct buf *out)
{
    struct err err;
    if (out->failed) {
        err_set(&err, ERR_MEMORY, "no memory for the output");
        return command_fail(&err);
    }
    if (fwrite(buf_text(out), 1, out->length, stdout) != out->length || fflush(stdout) != 0) {
        err_set(&err, ERR_IO, "standard output: %s", strerror(errno));
        return command_fail(&err);
    }
    return 0;
}
