/* hf_folder.c - opens a Hugging Face model folder, on disk or in memory, by the same rules.
 *
 * Names come from outside twice: the path, which the operator chose, and the shards' names in
 * model.safetensors.index.json, which the model's author chose. The latter never leave the folder.
 * Called once at start (server/cmd_*.c through host/model). */
#include "host/format/hf_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "host/base/json.h"
#include "host/format/gguf_folder.h"
#include "host/format/safetensors.h"

static const char SINGLE_NAME[] = "model.safetensors";
static const char INDEX_NAME[] = "model.safetensors.index.json";
enum {
    SMALL_BYTES_MAX = 16 << 20,      /* config.json and the like: a few KB */
    TOKENIZER_BYTES_MAX = 512 << 20, /* the largest seen is 33 MB; the JSON reader's own limit */
    INDEX_BYTES_MAX = 64 << 20,
    SHARDS_MAX = 4096, /* the largest models have some 200; each is a mapping */
    FILE_NAME_MAX = 255,
};

/* Where files come from: `files` when not NULL, else the folder `dir`. */
struct source {
    const char *dir;
    const struct hf_file *files;
    size_t n_files;
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* "dir/name", to be freed; NULL when out of memory. */
static char *join(const char *dir, const char *name)
{
    size_t dir_length = strlen(dir), name_length = strlen(name);
    char *path = malloc(dir_length + name_length + 2);
    if (path == NULL)
        return NULL;
    memcpy(path, dir, dir_length);
    if (dir_length != 0 && dir[dir_length - 1] != '/')
        path[dir_length++] = '/';
    memcpy(path + dir_length, name, name_length);
    path[dir_length + name_length] = 0;
    return path;
}

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_MEMORY, "no memory for a file name");
}

static const struct hf_file *find_memory(const struct source *source, const char *name)
{
    for (size_t i = 0; i < source->n_files; i++)
        if (strcmp(source->files[i].name, name) == 0)
            return &source->files[i];
    return NULL;
}

static bool source_has(const struct source *source, const char *name)
{
    if (source->files != NULL)
        return find_memory(source, name) != NULL;
    char *path = join(source->dir, name);
    struct stat status;
    /* Anything but a clean "no" counts as there: opening it says what is wrong with it. */
    bool has = path == NULL || stat(path, &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
    free(path);
    return has;
}

/* The whole text; `text` is left empty when the file is absent and not required. */
static bool source_read(const struct source *source, const char *name, size_t size_max,
                        bool required, struct hf_text *text, struct err *err)
{
    *text = (struct hf_text){ 0 };
    if (!source_has(source, name)) {
        if (required)
            return err_set(err, ERR_NOT_FOUND, "%s: not found", name);
        return true;
    }
    if (source->files != NULL) {
        const struct hf_file *file = find_memory(source, name);
        if (file->size > size_max)
            return err_set(err, ERR_FORMAT, "%s: %zu bytes, at most %zu", name, file->size,
                           size_max);
        /* Never written through, never freed: owned stays false. */
        text->bytes = (char *)(uintptr_t)file->bytes;
        text->size = file->size;
        return true;
    }
    char *path = join(source->dir, name);
    if (path == NULL)
        return no_memory(err);
    bool ok = file_read(path, size_max, &text->bytes, &text->size, err);
    free(path);
    text->owned = ok;
    return ok;
}

static void text_clear(struct hf_text *text)
{
    if (text->owned)
        free(text->bytes);
    *text = (struct hf_text){ 0 };
}

/* Map one file of weights and add its tensors. */
static bool add_weights(struct tensor_dir *tensors, const struct source *source, const char *name,
                        struct err *err)
{
    struct file_map map = { 0 };
    if (source->files != NULL) {
        const struct hf_file *file = find_memory(source, name);
        if (file == NULL)
            return err_set(err, ERR_NOT_FOUND, "%s: not found", name);
        file_map_memory(&map, file->bytes, file->size);
    } else {
        char *path = join(source->dir, name);
        if (path == NULL)
            return no_memory(err);
        bool ok = file_map(&map, path, err);
        free(path);
        if (!ok)
            return false;
    }
    if (!safetensors_add(tensors, map, name, err)) {
        file_unmap(&map);
        return false;
    }
    return true;
}

/* A plain name in the same folder. The index is the model author's word, the folder the operator's.
 */
static bool check_shard_name(const char *tensor, const char *name, struct err *err)
{
    size_t length = strlen(name);
    bool plain = length != 0 && length <= FILE_NAME_MAX && name[0] != '.';
    for (size_t i = 0; i < length; i++)
        plain = plain && name[i] != '/' && name[i] != '\\' && (unsigned char)name[i] >= 0x20 &&
                (unsigned char)name[i] != 0x7f;
    if (!plain || !ends_with(name, ".safetensors"))
        return err_set(err, ERR_FORMAT,
                       "%s: tensor \"%.120s\" is said to be in \"%.120s\", which is not the plain "
                       "name of a .safetensors file",
                       INDEX_NAME, tensor, name);
    return true;
}

/* Open every shard that the weight map names, in order of first mention. */
static bool add_shards(struct tensor_dir *tensors, const struct source *source,
                       const struct json_ref *weight_map, struct map *shards, struct err *err)
{
    struct json_ref item;
    for (bool more = json_first(weight_map, &item); more; more = json_next(&item)) {
        const char *name = NULL;
        bool is_new = false;
        if (!json_string(&item, &name, err))
            return err_set(err, ERR_FORMAT, "%s: tensor \"%.200s\" must name a file", INDEX_NAME,
                           item.key);
        if (!check_shard_name(item.key, name, err))
            return false;
        if (map_get(shards, name, strlen(name), -1) >= 0)
            continue;
        if (tensors->n_files == SHARDS_MAX)
            return err_set(err, ERR_FORMAT, "%s: names more than %d files", INDEX_NAME, SHARDS_MAX);
        if (!map_set(shards, name, strlen(name), tensors->n_files, &is_new))
            return no_memory(err);
        if (!add_weights(tensors, source, name, err))
            return false;
    }
    return true;
}

static bool check_index(const struct tensor_dir *tensors, const struct json_ref *weight_map,
                        const struct map *shards, struct err *err)
{
    struct json_ref item;
    for (bool more = json_first(weight_map, &item); more; more = json_next(&item)) {
        const char *name = NULL;
        CHECK(json_string(&item, &name, err)); /* add_shards has seen it */
        const struct tensor *tensor = tensor_dir_find(tensors, item.key);
        if (tensor == NULL)
            return err_set(err, ERR_FORMAT,
                           "%s: tensor \"%.150s\" should be in \"%.120s\", which does not have it",
                           INDEX_NAME, item.key, name);
        if (tensor->file != map_get(shards, name, strlen(name), -1))
            return err_set(err, ERR_FORMAT,
                           "%s: tensor \"%.150s\" should be in \"%.120s\", but is in \"%.120s\"",
                           INDEX_NAME, item.key, name, tensors->labels[tensor->file]);
    }
    return true;
}

static bool open_index(struct tensor_dir *tensors, const struct source *source, struct err *err)
{
    struct hf_text text = { 0 };
    struct cJSON *tree = NULL;
    struct map shards = { 0 };
    bool ok = false;
    if (!source_read(source, INDEX_NAME, INDEX_BYTES_MAX, true, &text, err))
        goto done;
    if (!json_parse(text.bytes, text.size, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err)) {
        err_prefix(err, "%s", INDEX_NAME);
        goto done;
    }
    struct json_ref root = json_root(tree), weight_map;
    if (!json_get(&root, "weight_map", &weight_map) || !json_is_object(&weight_map) ||
        json_count(&weight_map) == 0) {
        err_set(err, ERR_FORMAT, "%s: weight_map must be an object that names every tensor's file",
                INDEX_NAME);
        goto done;
    }
    if (!map_init(&shards, 16, err))
        goto done;
    ok = add_shards(tensors, source, &weight_map, &shards, err) &&
         check_index(tensors, &weight_map, &shards, err);
done:
    map_clear(&shards);
    json_free(tree);
    text_clear(&text);
    return ok;
}

static bool open_weights(struct tensor_dir *tensors, const struct source *source,
                         const char *only_file, struct err *err)
{
    if (only_file != NULL)
        return add_weights(tensors, source, only_file, err);
    if (source_has(source, SINGLE_NAME))
        return add_weights(tensors, source, SINGLE_NAME, err);
    if (source_has(source, INDEX_NAME))
        return open_index(tensors, source, err);
    static const char *const PICKLES[] = { "pytorch_model.bin", "pytorch_model.bin.index.json",
                                           "consolidated.00.pth" };
    for (size_t i = 0; i < sizeof PICKLES / sizeof *PICKLES; i++)
        if (source_has(source, PICKLES[i]))
            return err_set(err, ERR_UNSUPPORTED,
                           "%s: PyTorch pickles can run code and are not read; convert the model "
                           "to safetensors",
                           PICKLES[i]);
    return err_set(err, ERR_NOT_FOUND, "no weights: neither %s nor %s", SINGLE_NAME, INDEX_NAME);
}

/* chat_template.json holds the same text as {"chat_template": "..."}. */
static bool read_template_json(const struct source *source, struct hf_text *text, struct err *err)
{
    static const char NAME[] = "chat_template.json";
    struct hf_text json = { 0 };
    struct cJSON *tree = NULL;
    const char *template = NULL;
    if (!source_read(source, NAME, SMALL_BYTES_MAX, false, &json, err))
        goto fail;
    if (json.bytes == NULL)
        return true;
    if (!json_parse(json.bytes, json.size, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err)) {
        err_prefix(err, "%s", NAME);
        goto fail;
    }
    struct json_ref root = json_root(tree), member;
    json_get(&root, "chat_template", &member);
    if (!json_string(&member, &template, err)) {
        err_set(err, ERR_FORMAT, "%s: chat_template must be a string", NAME);
        goto fail;
    }
    text->bytes = strdup(template);
    if (text->bytes == NULL) {
        err_set(err, ERR_MEMORY, "no memory for a chat template");
        goto fail;
    }
    text->size = strlen(template);
    text->owned = true;
    json_free(tree);
    text_clear(&json);
    return true;
fail:
    json_free(tree);
    text_clear(&json);
    return false;
}

static void take_tiktoken(const char *found, char name[256])
{
    if (ends_with(found, ".tiktoken") && (name[0] == 0 || strcmp(found, name) < 0))
        snprintf(name, 256, "%.255s", found);
}

/* The first file name of the folder that ends in ".tiktoken", in order of bytes; false: none. */
static bool find_tiktoken(const struct source *source, char name[256])
{
    name[0] = 0;
    if (source->files != NULL) {
        for (size_t i = 0; i < source->n_files; i++)
            take_tiktoken(source->files[i].name, name);
        return name[0] != 0;
    }
    DIR *dir = opendir(source->dir);
    if (dir == NULL)
        return false;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        take_tiktoken(entry->d_name, name);
    closedir(dir);
    return name[0] != 0;
}

static bool read_tokenizer(struct hf_folder *folder, const struct source *source, struct err *err)
{
    static const char *const NAMES[] = { "tokenizer.json", "tekken.json", "tokenizer.model",
                                         "tiktoken.model" };
    char *name = folder->tokenizer_name;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES && name[0] == 0; i++)
        if (source_has(source, NAMES[i]))
            snprintf(name, sizeof folder->tokenizer_name, "%s", NAMES[i]);
    if (name[0] == 0 && !find_tiktoken(source, name))
        return true;
    return source_read(source, name, TOKENIZER_BYTES_MAX, true, &folder->tokenizer, err);
}

/* How weights are quantized, in a file of its own: before config.json was the place for it. */
static bool read_quantize(struct hf_folder *folder, const struct source *source, struct err *err)
{
    static const char *const NAMES[] = { "quantize_config.json", "quant_config.json",
                                         "hf_quant_config.json" };
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (source_has(source, NAMES[i])) {
            folder->quantize_name = NAMES[i];
            return source_read(source, NAMES[i], SMALL_BYTES_MAX, true, &folder->quantize, err);
        }
    return true;
}

static bool read_texts(struct hf_folder *folder, const struct source *source, struct err *err)
{
    const struct {
        const char *name;
        size_t size_max;
        bool required;
        struct hf_text *text;
    } texts[] = {
        { "config.json", SMALL_BYTES_MAX, true, &folder->config },
        { "generation_config.json", SMALL_BYTES_MAX, false, &folder->generation },
        { "tokenizer_config.json", SMALL_BYTES_MAX, false, &folder->tokenizer_config },
        { "special_tokens_map.json", SMALL_BYTES_MAX, false, &folder->special_tokens },
        { "chat_template.jinja", SMALL_BYTES_MAX, false, &folder->chat_template },
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!source_read(source, texts[i].name, texts[i].size_max, texts[i].required, texts[i].text,
                         err))
            return false;
    if (!read_tokenizer(folder, source, err) || !read_quantize(folder, source, err))
        return false;
    return folder->chat_template.bytes != NULL ||
           read_template_json(source, &folder->chat_template, err);
}

static bool open_source(struct hf_folder *folder, const char *label, const struct source *source,
                        const char *only_file, struct err *err)
{
    *folder = (struct hf_folder){ .path = strdup(label) };
    if (folder->path == NULL) {
        no_memory(err);
        goto fail;
    }
    if (!read_texts(folder, source, err) ||
        !open_weights(&folder->tensors, source, only_file, err)) {
        err->field[0] = 0; /* fields are for requests */
        /* The system's messages carry the whole path already. */
        if (strncmp(err->text, label, strlen(label)) != 0)
            err_prefix(err, "%s", label);
        goto fail;
    }
    return true;
fail:
    hf_folder_close(folder);
    return false;
}

bool hf_folder_open_memory(struct hf_folder *folder, const char *label, const struct hf_file *files,
                           size_t n_files, struct err *err)
{
    struct source source = { .files = files, .n_files = n_files };
    CHECK(files != NULL);
    return open_source(folder, label, &source, NULL, err);
}

static bool open_gguf(struct hf_folder *folder, const char *path, struct err *err)
{
    *folder = (struct hf_folder){ .path = strdup(path) };
    const bool ok = folder->path != NULL ? gguf_folder_open(folder, path, err) : no_memory(err);
    if (!ok)
        hf_folder_close(folder);
    return ok;
}

/* One file, or a refusal that says why not. */
static bool open_file(struct hf_folder *folder, const char *path, struct err *err)
{
    if (ends_with(path, ".gguf"))
        return open_gguf(folder, path, err);
    if (!ends_with(path, ".safetensors"))
        return err_set(err, ERR_FORMAT, "%s: want a model folder, a .safetensors or a .gguf file",
                       path);
    const char *slash = strrchr(path, '/');
    size_t dir_length = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    char *dir = slash == NULL ? strdup("./") : strndup(path, dir_length);
    if (dir == NULL)
        return no_memory(err);
    struct source source = { .dir = dir };
    bool ok = open_source(folder, path, &source, path + dir_length, err);
    free(dir);
    return ok;
}

bool hf_folder_open(struct hf_folder *folder, const char *path, struct err *err)
{
    *folder = (struct hf_folder){ 0 };
    struct stat status;
    if (stat(path, &status) != 0)
        return err_set(err, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s: %s",
                       path, strerror(errno));
    if (S_ISREG(status.st_mode))
        return open_file(folder, path, err);
    if (!S_ISDIR(status.st_mode))
        return err_set(err, ERR_FORMAT, "%s: neither a folder nor a regular file", path);
    struct source source = { .dir = path };
    return open_source(folder, path, &source, NULL, err);
}

static bool read_tokenizer_texts(struct hf_folder *folder, const struct source *source,
                                 struct err *err)
{
    if (!read_tokenizer(folder, source, err))
        return false;
    if (folder->tokenizer_name[0] == 0)
        return err_set(err, ERR_NOT_FOUND,
                       "no tokenizer: no tokenizer.json, tekken.json, tokenizer.model or "
                       "*.tiktoken");
    if (folder->tokenizer.size == 0)
        return err_set(err, ERR_FORMAT, "%s: is empty", folder->tokenizer_name);
    return source_read(source, "tokenizer_config.json", SMALL_BYTES_MAX, false,
                       &folder->tokenizer_config, err);
}

bool hf_folder_open_tokenizer(struct hf_folder *folder, const char *path, struct err *err)
{
    struct stat status;
    *folder = (struct hf_folder){ 0 };
    bool there = stat(path, &status) == 0;
    bool file = there && S_ISREG(status.st_mode);
    if (!there || (!file && !S_ISDIR(status.st_mode)) || ends_with(path, ".gguf") ||
        ends_with(path, ".safetensors"))
        return hf_folder_open(folder, path, err); /* or its refusal */
    const char *slash = file ? strrchr(path, '/') : NULL;
    char *dir = !file           ? strdup(path)
                : slash == NULL ? strdup("./")
                                : strndup(path, (size_t)(slash - path) + 1);
    folder->path = strdup(path);
    bool ok = dir != NULL && folder->path != NULL;
    if (!ok) {
        no_memory(err);
    } else {
        struct source source = { .dir = dir };
        if (file)
            snprintf(folder->tokenizer_name, sizeof folder->tokenizer_name, "%.255s",
                     slash == NULL ? path : slash + 1);
        ok = read_tokenizer_texts(folder, &source, err);
        if (!ok && strncmp(err->text, path, strlen(path)) != 0)
            err_prefix(err, "%s", path);
    }
    free(dir);
    if (!ok)
        hf_folder_close(folder);
    return ok;
}

void hf_folder_close(struct hf_folder *folder)
{
    text_clear(&folder->config);
    text_clear(&folder->generation);
    text_clear(&folder->tokenizer);
    text_clear(&folder->tokenizer_config);
    text_clear(&folder->special_tokens);
    text_clear(&folder->quantize);
    text_clear(&folder->chat_template);
    tensor_dir_clear(&folder->tensors);
    if (folder->gguf != NULL)
        gguf_clear(folder->gguf);
    free(folder->gguf);
    free(folder->path);
    *folder = (struct hf_folder){ 0 };
}
