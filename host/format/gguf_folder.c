/* gguf_folder.c - one or more .gguf files opened as a model folder.
 *
 * Invariant: every mapping belongs either to a part of the gguf_model or to the folder's directory
 * of tensors. Called by hf_folder.c. */
#include "host/format/gguf_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/format/gguf_model.h"

enum {
    PARTS_MAX = 1024,
    TEXT_BYTES_MAX = 512 << 20, /* of a tokenizer.json: the JSON reader's own limit */
};

/* "-00001-of-00003.gguf" at the end of a path. */
static const char PART_FORM[] = "-00000-of-00000.gguf";
enum { PART_NUMBER = 1, PART_COUNT = 10, PART_DIGITS = 5, PART_LENGTH = sizeof PART_FORM - 1 };

/* Number and count of a path that names a part; false when it does not. */
static bool part_of(const char *path, int32_t *number, int32_t *count)
{
    const size_t length = strlen(path);
    if (length <= PART_LENGTH)
        return false;
    const char *end = path + length - PART_LENGTH;
    int32_t values[2] = { 0, 0 };
    for (size_t i = 0; i < PART_LENGTH; i++) {
        const bool digit = end[i] >= '0' && end[i] <= '9';
        if (PART_FORM[i] != '0' ? end[i] != PART_FORM[i] : !digit)
            return false;
        if (PART_FORM[i] == '0')
            values[i >= PART_COUNT] = values[i >= PART_COUNT] * 10 + (end[i] - '0');
    }
    *number = values[0];
    *count = values[1];
    return true;
}

static void model_clear(struct gguf_model *model)
{
    for (int32_t i = 0; i < model->n_parts; i++)
        gguf_clear(&model->parts[i]);
    free(model->parts);
    *model = (struct gguf_model){ 0 };
}

/* split.count and split.no, of a part that is number `part` (from 0) of `n`. */
static bool check_split(const struct gguf *gguf, int32_t part, int32_t n, struct err *err)
{
    int64_t count = 1, number = 0;
    if (!gguf_opt_int(gguf, "split.count", 0, UINT16_MAX, &count, err) ||
        !gguf_opt_int(gguf, "split.no", 0, UINT16_MAX, &number, err)) {
        err_prefix(err, "%s", gguf->label);
        return false;
    }
    if (count == 0)
        count = 1;
    if (n == 1 && count > 1)
        return err_set(err, ERR_FORMAT,
                       "%s: is part %lld of %lld by split.no and split.count; want the names "
                       "NAME-00001-of-%05lld.gguf and so on",
                       gguf->label, (long long)number + 1, (long long)count, (long long)count);
    if (count != n || number != part)
        return err_set(err, ERR_FORMAT,
                       "%s: split.no %lld of split.count %lld, want %d of %d as its name says",
                       gguf->label, (long long)number, (long long)count, part, n);
    return true;
}

static bool read_part(struct gguf_model *model, const char *path, int32_t n, struct err *err)
{
    struct file_map map;
    struct gguf *part = &model->parts[model->n_parts];
    if (!file_map(&map, path, err))
        return false;
    if (!gguf_read(part, map, path, err)) {
        file_unmap(&map);
        return false;
    }
    model->n_parts++;
    return check_split(part, model->n_parts - 1, n, err);
}

static bool check_total(const struct gguf_model *model, struct err *err)
{
    int64_t wanted = -1, found = 0;
    const struct gguf *first = &model->parts[0];
    if (!gguf_opt_int(first, "split.tensors.count", 0, INT32_MAX, &wanted, err)) {
        err_prefix(err, "%s", first->label);
        return false;
    }
    for (int32_t i = 0; i < model->n_parts; i++)
        found += model->parts[i].n_tensors;
    if (model->n_parts > 1 && wanted >= 0 && wanted != found)
        return err_set(err, ERR_FORMAT, "%s: split.tensors.count is %lld, the parts have %lld",
                       first->label, (long long)wanted, (long long)found);
    return true;
}

static bool read_parts(struct gguf_model *model, const char *path, struct err *err)
{
    int32_t number = 1, count = 1;
    const bool split = part_of(path, &number, &count);
    if (split && (count < 1 || count > PARTS_MAX || number < 1 || number > count))
        return err_set(err, ERR_FORMAT, "%s: part %d of %d, want at most %d parts", path, number,
                       count, PARTS_MAX);
    model->parts = calloc((size_t)count, sizeof *model->parts);
    char *name = strdup(path);
    bool ok = (model->parts != NULL && name != NULL) ||
              err_set(err, ERR_MEMORY, "no memory for %d files", count);
    for (int32_t i = 0; i < count && ok; i++) {
        for (int32_t d = 0, left = i + 1; split && d < PART_DIGITS; d++, left /= 10)
            name[strlen(path) - PART_LENGTH + PART_NUMBER + PART_DIGITS - 1 - (size_t)d] =
                (char)('0' + left % 10);
        ok = read_part(model, name, count, err);
    }
    free(name);
    return ok && check_total(model, err);
}

/* The buffer's text goes to the folder. */
static bool keep_text(struct buf *buf, struct hf_text *text, struct err *err)
{
    if (buf->failed)
        return err_set(err, ERR_MEMORY, "no memory for a text of %zu bytes", buf->length);
    *text = (struct hf_text){ .bytes = buf->bytes, .size = buf->length, .owned = true };
    *buf = (struct buf){ 0 };
    return true;
}

/* Config and tensors, or the reason why there are none. Only memory is an error: the tokenizer of
 * a family that nibble does not run is still good for `nibble tokenize`. */
static bool open_weights(struct hf_folder *folder, struct gguf_model *model, struct err *err)
{
    const struct gguf_arch *arch;
    struct buf config;
    struct err *why = &folder->config_missing;
    int32_t n_tensors = 0;
    int64_t head_dim = 0;
    for (int32_t i = 0; i < model->n_parts; i++)
        n_tensors += model->parts[i].n_tensors;
    buf_init(&config, TEXT_BYTES_MAX);
    bool ok = n_tensors > 0 || err_set(why, ERR_UNSUPPORTED, "holds a vocabulary, and no tensors");
    ok = ok && gguf_arch_of(model, &arch, why) &&
         gguf_config_text(model, arch, &config, &head_dim, why) &&
         gguf_move_tensors(model, arch, head_dim, &folder->tensors, why) &&
         keep_text(&config, &folder->config, why);
    buf_clear(&config);
    if (ok || why->code != ERR_MEMORY)
        return true;
    *err = *why;
    return false;
}

/* "bos_token": the text of the token that an id of the metadata names. */
static bool put_token(struct buf *out, const struct gguf *gguf, const char *name, const char *key,
                      struct err *err)
{
    int64_t id = -1;
    const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    if (!gguf_opt_int(gguf, key, -1, UINT32_MAX, &id, err))
        return false;
    if (tokens == NULL || !tokens->is_array || tokens->type != GGUF_STRING || id < 0 ||
        (uint64_t)id >= tokens->n)
        return true;
    const uint8_t *at = tokens->bytes;
    const char *text = NULL;
    size_t length = 0;
    for (int64_t i = 0; i <= id; i++)
        gguf_next_string(&at, &text, &length);
    buf_printf(out, ",\n  \"%s\": ", name);
    buf_put_json_string(out, text, length);
    return true;
}

/* tokenizer_config.json: what chat templates need. */
static bool write_tokenizer_config(struct hf_folder *folder, const struct gguf *gguf,
                                   struct err *err)
{
    static const struct {
        const char *name, *key;
    } tokens[] = { { "bos_token", "tokenizer.ggml.bos_token_id" },
                   { "eos_token", "tokenizer.ggml.eos_token_id" },
                   { "unk_token", "tokenizer.ggml.unknown_token_id" },
                   { "pad_token", "tokenizer.ggml.padding_token_id" } };
    const char *template = NULL;
    size_t length = 0;
    struct buf out;
    buf_init(&out, TEXT_BYTES_MAX);
    buf_puts(&out, "{\n  \"tokenizer_class\": \"GGUF\"");
    bool ok = gguf_opt_string(gguf, "tokenizer.chat_template", &template, &length, err);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens && ok; i++)
        ok = put_token(&out, gguf, tokens[i].name, tokens[i].key, err);
    if (ok && template != NULL) {
        buf_puts(&out, ",\n  \"chat_template\": ");
        buf_put_json_string(&out, template, length);
    }
    buf_puts(&out, "\n}\n");
    if (ok)
        ok = keep_text(&out, &folder->tokenizer_config, err);
    else
        err_prefix(err, "%s", gguf->label);
    buf_clear(&out);
    return ok;
}

static bool open_model(struct hf_folder *folder, struct gguf_model *model, struct err *err)
{
    if (!open_weights(folder, model, err) || !write_tokenizer_config(folder, &model->parts[0], err))
        return false;
    folder->gguf = malloc(sizeof *folder->gguf);
    if (folder->gguf == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a vocabulary");
    /* The values point into the mapping, which the tensors or this struct keep. */
    *folder->gguf = model->parts[0];
    model->parts[0] = (struct gguf){ 0 };
    return true;
}

bool gguf_folder_open(struct hf_folder *folder, const char *path, struct err *err)
{
    struct gguf_model model = { 0 };
    const bool ok = read_parts(&model, path, err) && open_model(folder, &model, err);
    model_clear(&model);
    return ok;
}

bool gguf_folder_open_map(struct hf_folder *folder, struct file_map map, const char *label,
                          struct err *err)
{
    struct gguf_model model = { .parts = calloc(1, sizeof *model.parts) };
    bool ok = model.parts != NULL || err_set(err, ERR_MEMORY, "no memory for a file");
    if (ok && gguf_read(&model.parts[0], map, label, err)) {
        model.n_parts = 1;
        ok = check_split(&model.parts[0], 0, 1, err) && open_model(folder, &model, err);
    } else {
        file_unmap(&map);
        ok = false;
    }
    model_clear(&model);
    return ok;
}
