/* Options: one table, four sources, precise refusals. */
#include "tests/support/support.h"
#include "host/base/buf.h"
#include "server/option_table.h"

static char *const NO_ENVIRONMENT[] = { NULL };

struct parsed {
    struct options options;
    struct err err;
    bool ok;
};
/* Words of `line` are the arguments (blanks part them); `environment` is one entry or NULL. */
static struct parsed parse(enum command command, const char *line, const char *environment)
{
    static char copy[512], *args[32], env[256], *envs[2];
    struct parsed out = { 0 };
    int n = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        args[n++] = word;
    envs[0] = envs[1] = NULL;
    if (environment) {
        snprintf(env, sizeof env, "%s", environment);
        envs[0] = env;
    }
    out.ok = options_parse(&out.options, command, n, args, envs, &out.err);
    return out;
}

static void defaults_are_those_of_the_help(void **state)
{
    (void)state;
    struct parsed p = parse(COMMAND_SERVE, "", NULL);
    assert_true(p.ok);
    const struct options *o = &p.options;
    assert_null(o->model);
    assert_int_equal(o->device.kind, DEVICE_AUTO);
    assert_int_equal(o->weights, WEIGHTS_AUTO);
    assert_int_equal(o->group, 128);
    assert_int_equal(o->ctx, 0);
    assert_int_equal(o->max_seqs, 64);
    assert_int_equal(o->max_queue, 512);
    assert_int_equal(o->step_tokens, 0);
    assert_int_equal(o->memory.percent, 80);
    assert_int_equal(o->memory.bytes, 0);
    assert_string_equal(o->host, "127.0.0.1");
    assert_int_equal(o->port, 8080);
    assert_int_equal(o->max_body, 1 << 20);
    assert_true(o->prefix_cache);
    assert_int_equal(o->log_level, LOG_INFO);
    options_clear(&p.options);
    p = parse(COMMAND_BENCH, "", NULL);
    assert_true(p.ok);
    assert_int_equal(p.options.batches.n, 5);
    assert_int_equal(p.options.batches.items[4], 16);
    options_clear(&p.options);
}

static void every_spelling_of_a_flag(void **state)
{
    (void)state;
    static const struct {
        const char *name, *line;
        enum command command;
        size_t offset;
        int32_t value;
    } rows[] = {
        { "value apart", "--port 99", COMMAND_SERVE, offsetof(struct options, port), 99 },
        { "value after =", "--port=99", COMMAND_SERVE, offsetof(struct options, port), 99 },
        { "the last one counts", "--port 1 --port 2", COMMAND_SERVE, offsetof(struct options, port),
          2 },
        { "underscores are dashes", "--max_seqs 7", COMMAND_SERVE,
          offsetof(struct options, max_seqs), 7 },
        { "a negative value is a value", "--group -1", COMMAND_SERVE,
          offsetof(struct options, group), -1 },
        { "the word for a number", "--step-tokens 5 --step-tokens auto", COMMAND_SERVE,
          offsetof(struct options, step_tokens), 0 },
        { "a choice", "--weights int4", COMMAND_SERVE, offsetof(struct options, weights),
          WEIGHTS_INT4 },
        { "short form", "-n 5 -p x", COMMAND_COMPLETE, offsetof(struct options, n_tokens), 5 },
        { "short form, no blank", "-n5 -p x", COMMAND_COMPLETE, offsetof(struct options, n_tokens),
          5 },
        { "options behind the model", "folder --port 3", COMMAND_SERVE,
          offsetof(struct options, port), 3 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct parsed p = parse(rows[i].command, rows[i].line, NULL);
        if (!p.ok)
            fail_msg("%s: %s", rows[i].name, p.err.text);
        int32_t got = *(const int32_t *)((const char *)&p.options + rows[i].offset);
        if (got != rows[i].value)
            fail_msg("%s: got %d", rows[i].name, (int)got);
        options_clear(&p.options);
    }
    struct parsed p = parse(COMMAND_SERVE, "--asymmetric --prefix-cache off -- -odd", NULL);
    assert_true(p.ok);
    assert_true(p.options.asymmetric);
    assert_false(p.options.prefix_cache);
    assert_string_equal(p.options.model, "-odd");
    options_clear(&p.options);
    p = parse(COMMAND_SERVE, "--asymmetric=off --alias a,b --alias c", NULL);
    assert_true(p.ok);
    assert_false(p.options.asymmetric);
    assert_int_equal(p.options.aliases.n, 3);
    assert_string_equal(p.options.aliases.items[1], "b");
    assert_string_equal(p.options.aliases.items[2], "c");
    options_clear(&p.options);
    p = parse(COMMAND_TOKENIZE, "folder text", NULL);
    assert_true(p.ok);
    assert_string_equal(p.options.model, "folder");
    assert_string_equal(p.options.text, "text");
    options_clear(&p.options);
}

static void refusals_say_what_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *line, *environment;
        enum command command;
        const char *said; /* all of the message, or a part */
    } rows[] = {
        { "--prot 80", NULL, COMMAND_SERVE, "unknown option --prot; did you mean --port?" },
        { "--max-conn 80", NULL, COMMAND_SERVE,
          "unknown option --max-conn; did you mean --max-connections?" },
        { "--zzz", NULL, COMMAND_SERVE, "unknown option --zzz; `nibble serve --help` lists them" },
        { "-z", NULL, COMMAND_SERVE, "unknown option -z" },
        { "--prompt x", NULL, COMMAND_SERVE, "--prompt is no option of `nibble serve`" },
        { "--port 70000", NULL, COMMAND_SERVE,
          "--port: \"70000\" is not what it takes: an integer from 0 to 65535" },
        { "--port 80x", NULL, COMMAND_SERVE, "--port: \"80x\"" },
        { "--port", NULL, COMMAND_SERVE, "--port wants a value: N" },
        { "--host --port 80", NULL, COMMAND_SERVE, "--host wants a value: ADDRESS" },
        { "--host=", NULL, COMMAND_SERVE, "--host: is empty" },
        { "--weights int5", NULL, COMMAND_SERVE,
          "--weights: \"int5\" is not what it takes: auto, int4, int8, bf16; did you mean int4?" },
        { "--group 0", NULL, COMMAND_SERVE, "--group: \"0\"" },
        { "--ctx 8", NULL, COMMAND_SERVE,
          "--ctx: \"8\" is not what it takes: auto or an integer from 16 to 16777216" },
        { "--kv int4", NULL, COMMAND_SERVE,
          "--kv: \"int4\" is not what it takes: auto, bf16, int8, f32; did you mean int8?" },
        { "--device gpu", NULL, COMMAND_SERVE, "auto, cpu, cuda or cuda:N" },
        { "--device cuda:64", NULL, COMMAND_SERVE, "--device: \"cuda:64\"" },
        { "--memory 101%", NULL, COMMAND_SERVE, "--memory: \"101%\"" },
        { "--memory 0", NULL, COMMAND_SERVE, "--memory: \"0\"" },
        { "--memory 0x10", NULL, COMMAND_SERVE, "--memory: \"0x10\"" },
        { "--memory 99999999TiB", NULL, COMMAND_SERVE, "--memory: " },
        { "--max-body 2GiB", NULL, COMMAND_SERVE, "a size from 1024 to 1073741824 bytes" },
        { "--temperature nan -p x", NULL, COMMAND_COMPLETE, "--temperature: \"nan\"" },
        { "--seed -1 -p x", NULL, COMMAND_COMPLETE, "an integer of at least 0" },
        { "--batch 1,,2", NULL, COMMAND_BENCH, "--batch: \"1,,2\"" },
        { "--batch 1,2,", NULL, COMMAND_BENCH, "--batch: \"1,2,\"" },
        { "--alias a,,b", NULL, COMMAND_SERVE, "--alias: " },
        { "--log-json=perhaps", NULL, COMMAND_SERVE, "on or off" },
        { "a b", NULL, COMMAND_SERVE, "unexpected argument \"b\"; usage: nibble serve [MODEL]" },
        { "--model a b", NULL, COMMAND_SERVE, "model is given twice" },
        { "", "NIBBLE_PORT=x", COMMAND_SERVE, "NIBBLE_PORT: \"x\"" },
        { "", "NIBBLE_MAX_SEQS=0", COMMAND_SERVE, "NIBBLE_MAX_SEQS: \"0\"" },
        { "--config /nonexistent/nibble.conf", NULL, COMMAND_SERVE, "/nonexistent/nibble.conf" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct parsed p = parse(rows[i].command, rows[i].line, rows[i].environment);
        if (p.ok)
            fail_msg("accepted: %s", rows[i].line);
        if (strstr(p.err.text, rows[i].said) == NULL)
            fail_msg("%s: said \"%s\"", rows[i].line, p.err.text);
    }
}

static void file_below_environment_below_flag(void **state)
{
    (void)state;
    char path[256], line[512];
    snprintf(path, sizeof path, "%s/nibble.conf", temp_dir());
    static const char text[] = "# a comment\n\n  port = 1\nmax-seqs=2   # behind the value\n"
                               "max_queue = 3\nhost = \"a # \\\"b\\\"\"\nalias = x, y\n"
                               "depth = 9\nlog-json = on\r\nctx = auto";
    write_file(path, text, sizeof text - 1);
    snprintf(line, sizeof line, "--config %s --max-queue 33 --alias z", path);
    struct parsed p = parse(COMMAND_SERVE, line, "NIBBLE_MAX_SEQS=22");
    if (!p.ok)
        fail_msg("%s", p.err.text);
    assert_int_equal(p.options.port, 1);
    assert_int_equal(p.options.max_seqs, 22);
    assert_int_equal(p.options.max_queue, 33);
    assert_string_equal(p.options.host, "a # \"b\"");
    assert_int_equal(p.options.aliases.n, 1); /* a later source replaces the whole list */
    assert_string_equal(p.options.aliases.items[0], "z");
    assert_true(p.options.log_json);
    assert_int_equal(p.options.depth, 9); /* a key of another command */
    options_clear(&p.options);

    /* NIBBLE_CONFIG names the file as well. */
    snprintf(line, sizeof line, "NIBBLE_CONFIG=%s", path);
    p = parse(COMMAND_SERVE, "", line);
    assert_true(p.ok);
    assert_int_equal(p.options.max_seqs, 2);
    assert_int_equal(p.options.aliases.n, 2);
    assert_string_equal(p.options.aliases.items[1], "y");
    options_clear(&p.options);
}

static void bad_files_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } rows[] = {
        { "port = 1\nprot = 2\n", "line 2: unknown key \"prot\"; did you mean port?" },
        { "port = 1\n\nport = 2\n", "line 3: port: stands on line 1 already" },
        { "port 1\n", "line 1: want `key = value`, found \"port 1\"" },
        { "= 1\n", "line 1: want `key = value`" },
        { "port = \n", "line 1: port: \"\"" },
        { "host = \"a\n", "line 1: host: the quotes do not close" },
        { "host = \"a\" b\n", "line 1: host: the quotes do not close" },
        { "host = \"a\\x\"\n", "line 1: host: the quotes do not close" },
        { "help = on\n", "line 1: unknown key \"help\"" },
        { "config = x\n", "line 1: unknown key \"config\"" },
        { "# x\nweights = int3\n", "line 2: weights: \"int3\"" },
        { "kv = int4\n", "line 1: kv: \"int4\"" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[256], line[512];
        snprintf(path, sizeof path, "%s/bad.conf", temp_dir());
        write_file(path, rows[i].text, strlen(rows[i].text));
        snprintf(line, sizeof line, "--config %s", path);
        struct parsed p = parse(COMMAND_SERVE, line, NULL);
        if (p.ok)
            fail_msg("accepted: %s", rows[i].text);
        if (strstr(p.err.text, rows[i].said) == NULL)
            fail_msg("%s: said \"%s\"", rows[i].text, p.err.text);
    }
    char path[256], line[512];
    snprintf(path, sizeof path, "%s/nul.conf", temp_dir());
    write_file(path, "port = 1\0\n", 10);
    snprintf(line, sizeof line, "--config %s", path);
    struct parsed p = parse(COMMAND_SERVE, line, NULL);
    assert_false(p.ok);
    assert_non_null(strstr(p.err.text, "NUL"));
}

static void sizes_with_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } rows[] = {
        { "0", 0 },
        { "17", 17 },
        { "1K", 1024 },
        { "1kb", 1000 },
        { "4GiB", 4294967296 },
        { "1.5G", 1610612736 },
        { "2 MiB", 2097152 },
        { "1TiB", 1099511627776 },
        { "", -1 },
        { "-1", -1 },
        { "1X", -1 },
        { "0x10", -1 },
        { "1.5", -1 },
        { "1e300G", -1 },
        { "GiB", -1 },
        { "nan", -1 },
        { "1G B", -1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t bytes = -1;
        bool ok = options_bytes(rows[i].text, &bytes);
        if (ok != (rows[i].bytes >= 0) || (ok && bytes != rows[i].bytes))
            fail_msg("%s: %d %lld", rows[i].text, ok, (long long)bytes);
    }
}

static void kubernetes_links_are_not_ours(void **state)
{
    (void)state;
    struct parsed p = parse(COMMAND_SERVE, "", "NIBBLE_PORT=tcp://10.0.0.1:80");
    assert_true(p.ok);
    assert_int_equal(p.options.port, 8080);
    options_clear(&p.options);
}

static void printed_options_read_back(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        "m --port 0 --memory 3GiB --weights int8 --group -1 --asymmetric --alias a,b --log-json",
        "--memory 7% --device cuda:3 --max-body 1025 --host #x --ctx 32",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct parsed first = parse(COMMAND_SERVE, lines[i], NULL);
        assert_true(first.ok);
        struct buf text, again;
        buf_init(&text, 1 << 20);
        buf_init(&again, 1 << 20);
        options_print(&text, &first.options);
        char path[256], line[512];
        snprintf(path, sizeof path, "%s/printed.conf", temp_dir());
        write_file(path, buf_text(&text), text.length);
        snprintf(line, sizeof line, "--config %s", path);
        struct parsed second = parse(COMMAND_SERVE, line, NULL);
        if (!second.ok)
            fail_msg("%s: %s", lines[i], second.err.text);
        const struct options *a = &first.options, *b = &second.options;
        assert_int_equal(a->port, b->port);
        assert_int_equal(a->memory.bytes, b->memory.bytes);
        assert_int_equal(a->memory.percent, b->memory.percent);
        assert_int_equal(a->group, b->group);
        assert_int_equal(a->asymmetric, b->asymmetric);
        assert_int_equal(a->device.kind, b->device.kind);
        assert_int_equal(a->device.index, b->device.index);
        assert_int_equal(a->aliases.n, b->aliases.n);
        assert_int_equal(a->max_body, b->max_body);
        assert_int_equal(a->ctx, b->ctx);
        assert_string_equal(a->host, b->host);
        buf_clear(&text);
        buf_clear(&again);
        options_clear(&first.options);
        options_clear(&second.options);
    }
}

static void every_row_is_sound(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_OPTIONS; i++) {
        const struct option *option = &OPTIONS[i];
        char name[64];
        assert_ptr_equal(option_find(option->name, strlen(option->name)), option);
        assert_true(strlen(option->name) < 32 && strlen(option->help) <= 70);
        assert_true((option->value == NULL) == (option->type == OPTION_FLAG));
        assert_true(option->commands != 0);
        assert_non_null(option_environment(option, name, sizeof name));
    }
    for (int32_t c = 0; c < COMMAND_COUNT; c++) {
        enum command command;
        struct err err;
        struct buf out;
        buf_init(&out, 1 << 20);
        assert_true(options_command(COMMANDS[c].name, &command, &err));
        assert_int_equal(command, c);
        options_help(&out, command);
        for (const char *at = buf_text(&out), *end; (end = strchr(at, '\n')); at = end + 1)
            if (end - at > 132)
                fail_msg("a line of %d: %.*s", (int)(end - at), (int)(end - at), at);
        buf_clear(&out);
        struct options options;
        assert_true(options_parse(&options, command, 1, (char *[]){ (char[]){ "--help" } },
                                  NO_ENVIRONMENT, &err));
        assert_true(options.help);
        options_clear(&options);
    }
    enum command command;
    struct err err;
    assert_false(options_command("srve", &command, &err));
    assert_non_null(strstr(err.text, "did you mean serve?"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_help),
        cmocka_unit_test(every_spelling_of_a_flag),
        cmocka_unit_test(refusals_say_what_and_where),
        cmocka_unit_test(file_below_environment_below_flag),
        cmocka_unit_test(bad_files_name_the_line),
        cmocka_unit_test(sizes_with_units),
        cmocka_unit_test(kubernetes_links_are_not_ours),
        cmocka_unit_test(printed_options_read_back),
        cmocka_unit_test(every_row_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
