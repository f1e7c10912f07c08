/* options.c - reading options: defaults, then the file, then the environment, then flags.
 *
 * Invariant: every value went through option_set, with the name of its place for the error; a later
 * place replaces what an earlier one said (a list as a whole). Called once, by main. */
#include "server/options.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/file.h"
#include "server/option_table.h"

enum { CONFIG_BYTES_MAX = 1 << 20, NAME_MAX_BYTES = 48 };

/* ---- the nearest known name -------------------------------------------------------------------
 */

/* Edits (insert, delete, replace, swap of neighbours) from a to b: Damerau 1964, restricted. */
static int distance(const char *a, const char *b)
{
    size_t na = strnlen(a, NAME_MAX_BYTES), nb = strnlen(b, NAME_MAX_BYTES);
    int rows[3][NAME_MAX_BYTES + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= nb; j++)
        last[j] = before[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = last[j] + 1 < best ? last[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        int *old = before;
        before = last;
        last = now;
        now = old;
    }
    return last[nb];
}

/* Keeps the best of what it is shown; far ones are no help. */
struct nearest {
    const char *wanted, *name;
    int distance;
};
static void nearest_try(struct nearest *nearest, const char *name)
{
    int d = distance(nearest->wanted, name);
    int most = strlen(nearest->wanted) < 4 ? 1 : strlen(nearest->wanted) < 8 ? 2 : 3;
    size_t n = strlen(nearest->wanted);
    if (n >= 3 && strncmp(nearest->wanted, name, n) == 0)
        d = 1; /* a beginning: --max-conn */
    if (d <= most && (nearest->name == NULL || d < nearest->distance)) {
        nearest->name = name;
        nearest->distance = d;
    }
}
static const char *nearest_option(const char *wanted, enum command command)
{
    struct nearest nearest = { .wanted = wanted };
    for (int32_t i = 0; i < N_OPTIONS; i++)
        if (OPTIONS[i].commands & 1u << command)
            nearest_try(&nearest, OPTIONS[i].name);
    return nearest.name;
}

bool options_command(const char *name, enum command *command, struct err *err)
{
    struct nearest nearest = { .wanted = name };
    for (int32_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, COMMANDS[i].name) == 0) {
            *command = (enum command)i;
            return true;
        }
        nearest_try(&nearest, COMMANDS[i].name);
    }
    if (nearest.name != NULL)
        return err_set(err, ERR_REQUEST, "unknown command \"%s\"; did you mean %s?", name,
                       nearest.name);
    return err_set(err, ERR_REQUEST, "unknown command \"%s\"; `nibble --help` lists them", name);
}

/* ---- values -----------------------------------------------------------------------------------
 */

static bool read_long(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[text[0] == '-']))
        return false;
    long long number = strtoll(text, &end, 10);
    *value = number;
    return *end == 0 && errno == 0;
}

bool options_bytes(const char *text, int64_t *bytes)
{
    static const struct {
        const char *unit;
        int64_t factor;
    } UNITS[] = {
        { "", 1 },
        { "B", 1 },
        { "K", 1024 },
        { "KiB", 1024 },
        { "KB", 1000 },
        { "M", 1 << 20 },
        { "MiB", 1 << 20 },
        { "MB", 1000000 },
        { "G", 1 << 30 },
        { "GiB", 1 << 30 },
        { "GB", 1000000000 },
        { "T", (int64_t)1 << 40 },
        { "TiB", (int64_t)1 << 40 },
    };
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    double number = strtod(text, &end);
    if (memchr(text, 'x', (size_t)(end - text)) || memchr(text, 'X', (size_t)(end - text)))
        return false; /* strtod reads hexadecimal floats; nobody means them here */
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof UNITS / sizeof UNITS[0]; i++)
        if (strcasecmp(end, UNITS[i].unit) == 0) {
            number *= (double)UNITS[i].factor;
            if (!(number >= 0 && number < 0x1p62) || number != floor(number))
                return false;
            *bytes = (int64_t)number;
            return true;
        }
    return false;
}

static bool wrong(const char *place, const struct option *option, const char *text, struct err *err)
{
    char wanted[160] = "";
    size_t n = 0;
    struct nearest nearest = { .wanted = text };
    for (const struct option_word *word = option->words; word && word->word; word++) {
        if (word->refused)
            continue;
        n += (size_t)snprintf(wanted + n, sizeof wanted - n, "%s%s", n > 0 ? ", " : "", word->word);
        CHECK(n < sizeof wanted);
        nearest_try(&nearest, word->word);
    }
    switch (option->type) {
    case OPTION_INT:
    case OPTION_LONG:
    case OPTION_INTS:
    case OPTION_DOUBLE:
        if (option->high == INT64_MAX)
            snprintf(wanted + n, sizeof wanted - n, "%s%s of at least %lld", n > 0 ? " or " : "",
                     option->type == OPTION_DOUBLE ? "a number" : "an integer",
                     (long long)option->low);
        else
            snprintf(wanted + n, sizeof wanted - n, "%s%s from %lld to %lld", n > 0 ? " or " : "",
                     option->type == OPTION_DOUBLE ? "a number"
                     : option->type == OPTION_INTS ? "a list of integers"
                                                   : "an integer",
                     (long long)option->low, (long long)option->high);
        break;
    case OPTION_BYTES:
        snprintf(wanted, sizeof wanted, "a size from %lld to %lld bytes, as in 1MiB",
                 (long long)option->low, (long long)option->high);
        break;
    case OPTION_MEMORY:
        snprintf(wanted, sizeof wanted, "a size as in 4GiB, or a share from 1%% to 100%%");
        break;
    case OPTION_DEVICE:
        snprintf(wanted, sizeof wanted, "auto, cpu, cuda or cuda:N");
        break;
    case OPTION_FLAG:
    case OPTION_ONOFF:
        snprintf(wanted, sizeof wanted, "on or off");
        break;
    case OPTION_LIST:
        snprintf(wanted, sizeof wanted, "at most %d names, none of them empty", OPTION_LIST_MAX);
        break;
    case OPTION_TEXT:
    case OPTION_CHOICE:
        break;
    }
    err_set(err, ERR_REQUEST, "%s: \"%.100s\" is not what it takes: %s", place, text, wanted);
    if (option->type == OPTION_CHOICE && nearest.name != NULL)
        snprintf(err->text + strlen(err->text), sizeof err->text - strlen(err->text),
                 "; did you mean %s?", nearest.name);
    return false;
}

static bool set_flag(bool *field, const char *text)
{
    static const char *const YES[] = { "on", "true", "yes", "1" };
    static const char *const NO[] = { "off", "false", "no", "0" };
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, YES[i]) == 0)
            return *field = true;
        if (strcmp(text, NO[i]) == 0) {
            *field = false;
            return true;
        }
    }
    return false;
}

static bool set_list(struct options *options, struct option_texts *list, const char *text)
{
    const int32_t n_max = (int32_t)(sizeof options->copies / sizeof options->copies[0]);
    if (options->n_copies == n_max)
        return false;
    char *copy = strdup(text);
    if (copy == NULL)
        return false;
    options->copies[options->n_copies++] = copy;
    for (char *at = copy; at != NULL;) {
        char *comma = strchr(at, ',');
        if (comma != NULL)
            *comma++ = 0;
        while (*at == ' ')
            at++;
        size_t n = strlen(at);
        while (n > 0 && at[n - 1] == ' ')
            at[--n] = 0;
        if (n == 0 || list->n == OPTION_LIST_MAX)
            return false;
        list->items[list->n++] = at;
        at = comma;
    }
    return true;
}

static bool set_ints(const struct option *option, struct option_ints *list, const char *text)
{
    *list = (struct option_ints){ 0 };
    for (const char *at = text;;) {
        char *end;
        if (!isdigit((unsigned char)*at) || list->n == OPTION_LIST_MAX)
            return false;
        errno = 0;
        long long value = strtoll(at, &end, 10);
        if (errno != 0 || value < option->low || value > option->high)
            return false;
        list->items[list->n++] = (int32_t)value;
        if (*end == 0)
            return true;
        if (*end != ',')
            return false;
        at = end + 1;
    }
}

static bool set_memory(struct option_memory *memory, const char *text)
{
    char *end;
    long percent = strtol(text, &end, 10);
    *memory = (struct option_memory){ 0 };
    if (isdigit((unsigned char)text[0]) && strcmp(end, "%") == 0) {
        memory->percent = (int32_t)percent;
        return percent >= 1 && percent <= 100;
    }
    return options_bytes(text, &memory->bytes) && memory->bytes > 0;
}

static bool set_device(struct option_device *device, const char *text)
{
    int64_t index = 0;
    *device = (struct option_device){ 0 };
    if (strcmp(text, "auto") == 0)
        return true;
    device->kind = DEVICE_CPU;
    if (strcmp(text, "cpu") == 0)
        return true;
    device->kind = DEVICE_CUDA;
    if (strcmp(text, "cuda") == 0)
        return true;
    if (strncmp(text, "cuda:", 5) != 0 || !read_long(text + 5, &index) || index < 0 || index > 63)
        return false;
    device->index = (int32_t)index;
    return true;
}

/* A word of the option, or -1. */
static int find_word(const struct option *option, const char *text)
{
    for (int i = 0; option->words && option->words[i].word; i++)
        if (strcmp(text, option->words[i].word) == 0)
            return i;
    return -1;
}

static bool set_number(const struct option *option, void *field, const char *text)
{
    int64_t value;
    if (!read_long(text, &value) || value < option->low || value > option->high)
        return false;
    if (option->type == OPTION_LONG)
        *(int64_t *)field = value;
    else
        *(int32_t *)field = (int32_t)value;
    return true;
}

static bool set_double(const struct option *option, double *field, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != 0 || !isfinite(value) || value < (double)option->low ||
        value > (double)option->high)
        return false;
    *field = value;
    return true;
}

/* `place` names where the value stands; `text` outlives the options unless it is copied. */
static bool option_set(struct options *options, const struct option *option, const char *text,
                       enum option_source source, const char *place, struct err *err)
{
    void *field = (char *)options + option->offset;
    uint8_t *from = &options->sources[option - OPTIONS];
    int word = find_word(option, text);
    bool ok = true;
    if (word >= 0 && option->words[word].refused)
        return err_set(err, ERR_UNSUPPORTED, "%s %s: %s", place, text, option->words[word].refused);
    switch (option->type) {
    case OPTION_FLAG:
    case OPTION_ONOFF:
        ok = set_flag(field, text);
        break;
    case OPTION_TEXT:
        if (text[0] == 0 && option->offset != offsetof(struct options, text) &&
            option->offset != offsetof(struct options, prompt))
            return err_set(err, ERR_REQUEST, "%s: is empty", place);
        *(const char **)field = text;
        break;
    case OPTION_LIST:
        if (*from != source)
            *(struct option_texts *)field = (struct option_texts){ 0 };
        ok = set_list(options, field, text);
        break;
    case OPTION_CHOICE:
        ok = word >= 0;
        if (ok)
            *(int32_t *)field = option->words[word].value;
        break;
    case OPTION_INT:
    case OPTION_LONG:
        if (word >= 0)
            *(int32_t *)field = option->words[word].value; /* only OPTION_INT has words */
        else
            ok = set_number(option, field, text);
        break;
    case OPTION_INTS:
        ok = set_ints(option, field, text);
        break;
    case OPTION_DOUBLE:
        ok = set_double(option, field, text);
        break;
    case OPTION_BYTES:
        ok = options_bytes(text, field) && *(int64_t *)field >= option->low &&
             *(int64_t *)field <= option->high;
        break;
    case OPTION_MEMORY:
        ok = set_memory(field, text);
        break;
    case OPTION_DEVICE:
        ok = set_device(field, text);
        break;
    }
    if (!ok)
        return wrong(place, option, text, err);
    *from = (uint8_t)source;
    return true;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

/* The value of a line, in place: quoted with \" \\ \n, or bare up to a ` #`. */
static bool trim_value(char *value, char **out)
{
    if (*value != '"') {
        for (char *at = value; *at; at++)
            if (*at == '#' && (at == value || at[-1] == ' ' || at[-1] == '\t')) {
                *at = 0;
                break;
            }
        size_t n = strlen(value);
        while (n > 0 && strchr(" \t\r", value[n - 1]))
            value[--n] = 0;
        *out = value;
        return true;
    }
    char *to = value, *at = value + 1;
    *out = value;
    for (; *at && *at != '"'; at++) {
        if (*at == '\\') {
            at++;
            if (*at != '"' && *at != '\\' && *at != 'n')
                return false;
            *to++ = *at == 'n' ? '\n' : *at;
        } else {
            *to++ = *at;
        }
    }
    if (*at != '"')
        return false;
    at += 1 + strspn(at + 1, " \t\r");
    *to = 0;
    return *at == 0 || *at == '#';
}

static bool read_line(struct options *options, const char *path, int line_number, char *line,
                      uint8_t *seen, struct err *err)
{
    char place[256], *value;
    line += strspn(line, " \t\r");
    if (*line == 0 || *line == '#')
        return true;
    size_t n = strcspn(line, " \t\r=");
    char *equals = line + n + strspn(line + n, " \t\r");
    if (*equals != '=' || n == 0)
        return err_set(err, ERR_REQUEST, "%s line %d: want `key = value`, found \"%.60s\"", path,
                       line_number, line);
    const struct option *option = option_find(line, n);
    line[n] = 0;
    if (option == NULL || option->only_here || option->offset == offsetof(struct options, config)) {
        const char *near = nearest_option(line, options->command);
        return near ? err_set(err, ERR_REQUEST, "%s line %d: unknown key \"%s\"; did you mean %s?",
                              path, line_number, line, near)
                    : err_set(err, ERR_REQUEST, "%s line %d: unknown key \"%s\"", path, line_number,
                              line);
    }
    snprintf(place, sizeof place, "%s line %d: %s", path, line_number, option->name);
    if (!trim_value(equals + 1 + strspn(equals + 1, " \t\r"), &value))
        return err_set(err, ERR_REQUEST,
                       "%s: the quotes do not close, or hold a \\ that is not "
                       "\\\", \\\\ or \\n",
                       place);
    if (seen[option - OPTIONS] != 0 && option->type != OPTION_LIST)
        return err_set(err, ERR_REQUEST, "%s: stands on line %d already", place,
                       seen[option - OPTIONS]);
    seen[option - OPTIONS] = (uint8_t)(line_number < 255 ? line_number : 255);
    return option_set(options, option, value, SOURCE_FILE, place, err);
}

/* Keys of other commands are checked like ours: one file may serve several. */
static bool read_config(struct options *options, struct err *err)
{
    size_t size;
    uint8_t seen[sizeof options->sources] = { 0 };
    if (!file_read(options->config, CONFIG_BYTES_MAX, &options->config_text, &size, err))
        return false;
    if (memchr(options->config_text, 0, size) != NULL)
        return err_set(err, ERR_REQUEST, "%s: holds a NUL byte", options->config);
    int line_number = 1;
    for (char *line = options->config_text; line != NULL; line_number++) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end++ = 0;
        if (!read_line(options, options->config, line_number, line, seen, err))
            return false;
        line = end;
    }
    return true;
}

/* ---- the environment --------------------------------------------------------------------------
 */

static const char *environment_get(char *const *environment, const char *name)
{
    size_t n = strlen(name);
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
            return *environment + n + 1;
    return NULL;
}

static bool read_environment(struct options *options, char *const *environment, struct err *err)
{
    for (int32_t i = 0; i < N_OPTIONS; i++) {
        char name[NAME_MAX_BYTES + 16];
        if (OPTIONS[i].only_here || !(OPTIONS[i].commands & 1u << options->command))
            continue;
        option_environment(&OPTIONS[i], name, sizeof name);
        const char *value = environment_get(environment, name);
        /* A Kubernetes Service called "nibble" puts NIBBLE_PORT=tcp://... into every pod. */
        if (value == NULL || (strcmp(name, "NIBBLE_PORT") == 0 && strncmp(value, "tcp://", 6) == 0))
            continue;
        if (!option_set(options, &OPTIONS[i], value, SOURCE_ENVIRONMENT, name, err))
            return false;
    }
    return true;
}

/* ---- flags ------------------------------------------------------------------------------------
 */

static bool unknown_flag(const char *name, enum command command, bool elsewhere, struct err *err)
{
    if (elsewhere)
        return err_set(err, ERR_REQUEST, "--%s is no option of `nibble %s`", name,
                       COMMANDS[command].name);
    const char *near = nearest_option(name, command);
    if (near != NULL)
        return err_set(err, ERR_REQUEST, "unknown option --%s; did you mean --%s?", name, near);
    return err_set(err, ERR_REQUEST, "unknown option --%s; `nibble %s --help` lists them", name,
                   COMMANDS[command].name);
}

/* One argument that starts with a dash; *at is moved past a value that it takes. */
static bool read_flag(struct options *options, int n, char *const *args, int *at, struct err *err)
{
    const char *arg = args[*at], *value = NULL;
    const struct option *option = NULL;
    char name[NAME_MAX_BYTES + 8];
    if (arg[1] == '-') {
        const char *equals = strchr(arg, '=');
        size_t length = equals ? (size_t)(equals - arg) - 2 : strlen(arg + 2);
        value = equals ? equals + 1 : NULL;
        option = option_find(arg + 2, length);
        snprintf(name, sizeof name, "%.*s",
                 (int)(length < NAME_MAX_BYTES ? length : NAME_MAX_BYTES), arg + 2);
    } else {
        for (int32_t i = 0; i < N_OPTIONS && option == NULL; i++)
            if (OPTIONS[i].letter != 0 && OPTIONS[i].letter == arg[1])
                option = &OPTIONS[i];
        value = arg[2] != 0 ? arg + 2 : NULL;
        snprintf(name, sizeof name, "%c", arg[1]);
    }
    if (option == NULL || !(option->commands & 1u << options->command)) {
        if (option == NULL && arg[1] != '-')
            return err_set(err, ERR_REQUEST, "unknown option %.20s", arg);
        return unknown_flag(option ? option->name : name, options->command, option != NULL, err);
    }
    char place[NAME_MAX_BYTES + 8];
    snprintf(place, sizeof place, "--%s", option->name);
    if (value == NULL && option->type == OPTION_FLAG)
        value = "on";
    if (value == NULL) {
        /* `--host --port 80`: a value was forgotten. Values may start with one dash (-1). */
        if (*at + 1 >= n || (strncmp(args[*at + 1], "--", 2) == 0 &&
                             option_find(args[*at + 1] + 2, strcspn(args[*at + 1] + 2, "="))))
            return err_set(err, ERR_REQUEST, "%s wants a value: %s", place, option->value);
        value = args[++*at];
    }
    return option_set(options, option, value, SOURCE_FLAG, place, err);
}

static bool read_bare(struct options *options, const char *arg, int *n_bare, struct err *err)
{
    const struct command_spec *spec = &COMMANDS[options->command];
    const char *name = *n_bare < 2 ? spec->positional[*n_bare] : NULL;
    if (name == NULL)
        return err_set(err, ERR_REQUEST, "unexpected argument \"%.100s\"; usage: nibble %s %s", arg,
                       spec->name, spec->arguments);
    const struct option *option = option_find(name, strlen(name));
    CHECK(option != NULL);
    if (options->sources[option - OPTIONS] == SOURCE_FLAG)
        return err_set(err, ERR_REQUEST, "%s is given twice: by --%s and as \"%.100s\"", name, name,
                       arg);
    ++*n_bare;
    return option_set(options, option, arg, SOURCE_FLAG, name, err);
}

static bool read_flags(struct options *options, int n, char *const *args, struct err *err)
{
    int n_bare = 0;
    bool only_bare = false;
    for (int i = 0; i < n; i++) {
        if (!only_bare && strcmp(args[i], "--") == 0)
            only_bare = true;
        else if (only_bare || args[i][0] != '-' || args[i][1] == 0) {
            if (!read_bare(options, args[i], &n_bare, err))
                return false;
        } else if (!read_flag(options, n, args, &i, err))
            return false;
    }
    return true;
}

/* ---- all together -----------------------------------------------------------------------------
 */

static bool set_defaults(struct options *options, enum command command, struct err *err)
{
    *options =
        (struct options){ .command = command, .n_tokens = -1, .temperature = -1, .seed = -1 };
    for (int32_t i = 0; i < N_OPTIONS; i++)
        if (OPTIONS[i].initial != NULL && !option_set(options, &OPTIONS[i], OPTIONS[i].initial,
                                                      SOURCE_DEFAULT, OPTIONS[i].name, err))
            return false;
    return true;
}

bool options_parse(struct options *options, enum command command, int n, char *const *args,
                   char *const *environment, struct err *err)
{
    /* Flags first, to find --help and --config; then again, on top of all. */
    if (!set_defaults(options, command, err) || !read_flags(options, n, args, err))
        goto fail;
    if (options->help)
        return true;
    const char *config =
        options->config ? options->config : environment_get(environment, "NIBBLE_CONFIG");
    options_clear(options);
    if (!set_defaults(options, command, err))
        goto fail;
    options->config = config;
    if ((config != NULL && !read_config(options, err)) ||
        !read_environment(options, environment, err) || !read_flags(options, n, args, err))
        goto fail;
    return true;
fail:
    options_clear(options);
    return false;
}

void options_clear(struct options *options)
{
    for (int32_t i = 0; i < options->n_copies; i++)
        free(options->copies[i]);
    free(options->config_text);
    options->n_copies = 0;
    options->config_text = NULL;
    options->aliases = (struct option_texts){ 0 };
}

bool options_given(const struct options *options, const char *name)
{
    const struct option *option = option_find(name, strlen(name));
    CHECK(option != NULL);
    return options->sources[option - OPTIONS] != SOURCE_DEFAULT;
}
