/* cmd_tokenize.c - ids and pieces of a text; weights are not loaded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"
#include "server/commands.h"
#include "host/text/tokenizer_folder.h"
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

/* A line is a JSON string; out comes a JSON list of ids. */
static bool tokenize_line(const struct tokenizer *tokenizer, unsigned flags, const char *line,
                          size_t length, struct err *err)
{
    struct cJSON *root = NULL;
    struct ids ids = { 0 };
    struct buf out;
    const char *text;
    buf_init(&out, (size_t)1 << 30);
    bool ok = json_parse(line, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, err);
    if (ok) {
        struct json_ref ref = json_root(root);
        ok = json_string(&ref, &text, err) &&
             tokenizer_encode(tokenizer, text, strlen(text), flags, NULL, 0, &ids, err);
    }
    if (ok) {
        put_ids(&out, &ids);
        buf_putc(&out, '\n');
        ok = (!out.failed && fwrite(buf_text(&out), 1, out.length, stdout) == out.length) ||
             err_set(err, ERR_IO, "the output could not be written");
    }
    json_free(root);
    ids_clear(&ids);
    buf_clear(&out);
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

int cmd_tokenize(const struct options *o)
{
    struct err err;
    struct hf_folder folder = { 0 };
    struct tokenizer *tokenizer = NULL;
    struct buf text;
    const char *dummy;
    char *owned, name[128];
    buf_init(&text, (size_t)256 << 20);
    if (!load_files(o->model, &folder, &dummy, &owned, name, &err))
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
