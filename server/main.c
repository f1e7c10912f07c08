/* main.c - nibble COMMAND ...: find the command, read its options, call it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "server/commands.h"

static int (*const RUN[COMMAND_COUNT])(const struct options *) = {
    [COMMAND_SERVE] = cmd_serve,       [COMMAND_COMPLETE] = cmd_complete,
    [COMMAND_TOKENIZE] = cmd_tokenize, [COMMAND_INSPECT] = cmd_inspect,
    [COMMAND_EVAL] = cmd_eval,         [COMMAND_BENCH] = cmd_bench,
    [COMMAND_HEALTH] = cmd_health,
};

static int print_page(void (*write)(struct buf *out))
{
    struct buf out;
    buf_init(&out, 1 << 20);
    write(&out);
    int status = command_print(&out);
    buf_clear(&out);
    return status;
}

static int run(enum command command, int n, char **args)
{
    struct err err;
    struct options options;
    if (!options_parse(&options, command, n, args, environ, &err)) {
        command_fail(&err);
        return 2;
    }
    int status;
    if (options.help || options.print_config) {
        struct buf out;
        buf_init(&out, 1 << 20);
        if (options.help)
            options_help(&out, command);
        else
            options_print(&out, &options);
        status = command_print(&out);
        buf_clear(&out);
    } else if (options.check_config && command != COMMAND_SERVE) {
        puts("the configuration is fine");
        status = 0;
    } else {
        status = RUN[command](&options);
    }
    options_clear(&options);
    return status;
}

int main(int argc, char **argv)
{
    struct err err;
    enum command command;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        int status = print_page(options_help_all);
        return argc < 2 ? 2 : status;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("nibble " NIBBLE_VERSION);
        return 0;
    }
    if (!options_command(argv[1], &command, &err)) {
        command_fail(&err);
        return 2;
    }
    return run(command, argc - 2, argv + 2);
}
