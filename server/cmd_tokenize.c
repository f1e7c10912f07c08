/* cmd_tokenize.c - ids and pieces of a text; weights are not loaded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/tokenizer_folder.h"
#include "host/text/unicode.h"
#include "server/commands.h"
#include "server/load_model.h"

static void print_piece(struct buf *out, const struct tokenizer *tokenizer, int32_t id)
{
    size_t length = 0;
    const char *bytes = tokenizer_bytes(tokenizer, id, &length);
    buf_printf(out, "%7d  ", (int)id);
    buf_put_json_string(out, bytes ? bytes : "", bytes ? length : 0);
    buf_puts(out, bytes != NULL && tokenizer_is_special(tokenizer, id) ? "  special\n" : "\n");
}

static void put_ids(struct buf *out, const struct ids *ids)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < ids->n; i++)
        buf_printf(out, i > 0 ? ",%d" : "%d", (int)ids->ids[i]);
    buf_putc(out, ']');
}

static bool tokenize_text(const struct tokenizer *tokenizer, const struct options *o,
                          const char *text, size_t length, struct err *err)
{
    struct ids ids = { 0 };
    struct buf out;
    unsigned flags = ENCODE_PARSE_SPECIAL | (o->no_special ? 0u : ENCODE_ADD_SPECIAL);
    if (!tokenizer_encode(tokenizer, text, length, flags, NULL, 0, &ids, err)) {
        ids_clear(&ids);
        return false;
    }
    buf_init(&out, (size_t)1 << 30);
    if (o->json) {
        buf_puts(&out, "{\"ids\":");
        put_ids(&out, &ids);
        buf_puts(&out, ",\"pieces\":[");
        for (size_t i = 0; i < ids.n; i++) {
            size_t n = 0;
            const char *bytes = tokenizer_bytes(tokenizer, ids.ids[i], &n);
            buf_puts(&out, i > 0 ? "," : "");
            buf_put_json_string(&out, bytes ? bytes : "", bytes ? n : 0);
        }
        buf_printf(&out, "],\"count\":%zu}\n", ids.n);
    } else {
        for (size_t i = 0; i < ids.n; i++)
            print_piece(&out, tokenizer, ids.ids[i]);
    }
    ids_clear(&ids);
    bool ok = !out.failed && fwrite(buf_text(&out), 1, out.length, stdout) == out.length;
    buf_clear(&out);
    return ok || err_set(err, ERR_IO, "the output could not be written");
}

static bool hex4(const char *p, const char *end, uint32_t *code)
{
    *code = 0;
    if (end - p < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        const char *digit =
            strchr("0123456789abcdef", p[i] >= 'A' && p[i] <= 'F' ? p[i] + 32 : p[i]);
        if (p[i] == 0 || digit == NULL)
            return false;
        *code = *code << 4 | (uint32_t)(digit - "0123456789abcdef");
    }
    return true;
}

/* One escape behind its backslash at *at; false: none of JSON's. A surrogate comes in pairs. */
static bool put_escape(const char **at, const char *end, struct buf *text)
{
    static const char NAMES[] = "\"\\/bfnrt", VALUES[] = "\"\\/\b\f\n\r\t";
    const char *p = *at, *name = p < end && *p != 0 ? strchr(NAMES, *p) : NULL;
    uint32_t code, low;
    char bytes[4];
    if (name != NULL) {
        buf_putc(text, VALUES[name - NAMES]);
        *at = p + 1;
        return true;
    }
    if (p == end || *p != 'u' || !hex4(p + 1, end, &code))
        return false;
    p += 5;
    if (code >= 0xd800 && code < 0xe000) {
        if (code >= 0xdc00 || end - p < 6 || p[0] != '\\' || p[1] != 'u' ||
            !hex4(p + 2, end, &low) || low < 0xdc00 || low >= 0xe000)
            return false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
    }
    buf_put(text, bytes, unicode_encode(code, bytes));
    *at = p;
    return true;
}

/* A JSON string to its text, U+0000 included (which json_parse does not let into trees). */
static bool read_string(const char *line, size_t length, struct buf *text, struct err *err)
{
    const char *p = line, *end = line + length;
    while (end > p && strchr(" \t\r\n", end[-1]) != NULL && end[-1] != 0)
        end--;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    bool good = p < end && *p++ == '"';
    while (good && p < end && *p != '"') {
        if ((uint8_t)*p < 0x20)
            good = false;
        else if (*p != '\\')
            buf_putc(text, *p++);
        else {
            p++;
            good = put_escape(&p, end, text);
        }
    }
    if (!good || p + 1 != end)
        return err_set(err, ERR_FORMAT, "not a JSON string (at byte %zu)", (size_t)(p - line));
    return !text->failed || err_set(err, ERR_MEMORY, "no memory for a line of %zu bytes", length);
}

/* A line is a JSON string; out comes a JSON list of ids. */
static bool tokenize_line(const struct tokenizer *tokenizer, unsigned flags, const char *line,
                          size_t length, struct err *err)
{
    struct ids ids = { 0 };
    struct buf out, text;
    buf_init(&out, (size_t)1 << 30);
    buf_init(&text, (size_t)1 << 30);
    bool ok = read_string(line, length, &text, err) &&
              tokenizer_encode(tokenizer, buf_text(&text), text.length, flags, NULL, 0, &ids, err);
    if (ok) {
        put_ids(&out, &ids);
        buf_putc(&out, '\n');
        ok = (!out.failed && fwrite(buf_text(&out), 1, out.length, stdout) == out.length) ||
             err_set(err, ERR_IO, "the output could not be written");
    }
    ids_clear(&ids);
    buf_clear(&out);
    buf_clear(&text);
    return ok;
}

static bool tokenize_lines(const struct tokenizer *tokenizer, const struct options *o,
                           struct err *err)
{
    unsigned flags = ENCODE_PARSE_SPECIAL | (o->no_special ? 0u : ENCODE_ADD_SPECIAL);
    bool from_stdin = strcmp(o->jsonl, "-") == 0;
    FILE *file = from_stdin ? stdin : fopen(o->jsonl, "re");
    char *line = NULL;
    size_t room = 0;
    long number = 0;
    bool ok = true;
    if (file == NULL)
        return err_set(err, ERR_NOT_FOUND, "--jsonl %s: %s", o->jsonl, strerror(errno));
    for (ssize_t n; ok && (n = getline(&line, &room, file)) > 0;) {
        number++;
        ok = tokenize_line(tokenizer, flags, line, (size_t)n, err);
        if (!ok)
            err_prefix(err, "%s line %ld", o->jsonl, number);
    }
    if (ok && ferror(file))
        ok = err_set(err, ERR_IO, "--jsonl %s: %s", o->jsonl, strerror(errno));
    free(line);
    if (!from_stdin)
        fclose(file);
    return ok;
}

/* A path may be a vocabulary alone: a folder without weights, or one file. */
static bool open_files(const char *model, struct hf_folder *folder, const char **dummy,
                       char **owned, char name[128], struct err *err)
{
    if (model == NULL || strcmp(model, "demo:") == 0 || strncmp(model, "dummy:", 6) == 0)
        return load_files(model, folder, dummy, owned, name, err);
    *dummy = NULL;
    *owned = NULL;
    snprintf(name, 128, "%.127s", model);
    return hf_folder_open_tokenizer(folder, model, err);
}

int cmd_tokenize(const struct options *o)
{
    struct err err;
    struct hf_folder folder = { 0 };
    struct tokenizer *tokenizer = NULL;
    struct buf text;
    const char *dummy;
    char *owned, name[128];
    buf_init(&text, (size_t)256 << 20);
    if (!open_files(o->model, &folder, &dummy, &owned, name, &err))
        return command_fail(&err);
    bool ok = tokenizer_open_folder(&tokenizer, &folder, &err);
    if (!ok)
        err_prefix(&err, "%s", name);
    if (ok && o->jsonl != NULL)
        ok = tokenize_lines(tokenizer, o, &err);
    else if (ok && o->text != NULL)
        ok = tokenize_text(tokenizer, o, o->text, strlen(o->text), &err);
    else if (ok)
        ok = command_read_stdin(&text, &err) &&
             tokenize_text(tokenizer, o, buf_text(&text), text.length, &err);
    if (ok && fflush(stdout) != 0)
        ok = err_set(&err, ERR_IO, "standard output: %s", strerror(errno));
    buf_clear(&text);
    if (tokenizer != NULL)
        tokenizer_close(tokenizer);
    if (dummy == NULL)
        hf_folder_close(&folder);
    free(owned);
    return ok ? 0 : command_fail(&err);
}
