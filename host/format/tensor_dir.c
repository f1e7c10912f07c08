/* tensor_dir.c - the directory of a model's tensors. It is filled by the readers of this floor
 * (safetensors.c, gguf_folder.c).
 *
 * Invariant: tensor i is found under its own name, and under no other. by_name may hold left-overs
 * of an addition that ran out of memory; tensor_dir_find sees through them. */
#include "host/format/tensor_dir.h"

#include <stdlib.h>
#include <string.h>

const struct tensor *tensor_dir_find(const struct tensor_dir *dir, const char *name)
{
    if (dir->n_tensors == 0)
        return NULL;
    int32_t index = map_get(&dir->by_name, name, strlen(name), -1);
    if (index < 0 || index >= dir->n_tensors || strcmp(dir->tensors[index].name, name) != 0)
        return NULL;
    return &dir->tensors[index];
}

/* Room for n more tensors, their names and one file. Changes capacities only. */
static bool grow(struct tensor_dir *dir, int32_t n, size_t name_bytes, struct err *err)
{
    size_t n_tensors = (size_t)dir->n_tensors + (size_t)n;
    if (n_tensors > INT32_MAX)
        return err_set(err, ERR_FORMAT, "more than %d tensors", INT32_MAX);
    if (dir->by_name.slots == NULL && !map_init(&dir->by_name, (size_t)n, err))
        return false;
    struct tensor *tensors = realloc(dir->tensors, (n_tensors + 1) * sizeof *tensors);
    if (tensors == NULL)
        goto memory;
    dir->tensors = tensors;
    struct file_map *files = realloc(dir->files, ((size_t)dir->n_files + 1) * sizeof *files);
    if (files == NULL)
        goto memory;
    dir->files = files;
    char **labels = realloc(dir->labels, ((size_t)dir->n_files + 1) * sizeof *labels);
    if (labels == NULL)
        goto memory;
    dir->labels = labels;
    /* Not realloc: the tensors point into the block, and move with it. */
    char *names = malloc(dir->names_used + name_bytes + 1);
    if (names == NULL)
        goto memory;
    if (dir->names_used != 0)
        memcpy(names, dir->names, dir->names_used);
    for (int32_t i = 0; i < dir->n_tensors; i++)
        dir->tensors[i].name = names + (dir->tensors[i].name - dir->names);
    free(dir->names);
    dir->names = names;
    return true;
memory:
    return err_set(err, ERR_MEMORY, "no memory for a directory of %zu tensors", n_tensors);
}

bool tensor_dir_add(struct tensor_dir *dir, const struct tensor *tensors, int32_t n,
                    struct file_map file, const char *label, struct err *err)
{
    size_t name_bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct tensor *other = tensor_dir_find(dir, tensors[i].name);
        if (other != NULL)
            return err_set(err, ERR_FORMAT, "tensor \"%.200s\" is already in %.120s", other->name,
                           dir->labels[other->file]);
        name_bytes += strlen(tensors[i].name) + 1;
    }
    char *label_copy = strdup(label);
    if (label_copy == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a file name");
    if (!grow(dir, n, name_bytes, err))
        goto fail;
    for (int32_t i = 0; i < n; i++) {
        const char *name = tensors[i].name;
        if (!map_set(&dir->by_name, name, strlen(name), dir->n_tensors + i, NULL)) {
            err_set(err, ERR_MEMORY, "no memory for %d tensor names", n);
            goto fail;
        }
    }
    /* Nothing below can fail. */
    for (int32_t i = 0; i < n; i++) {
        struct tensor *tensor = &dir->tensors[dir->n_tensors + i];
        size_t length = strlen(tensors[i].name) + 1;
        char *name = memcpy(dir->names + dir->names_used, tensors[i].name, length);
        dir->names_used += length;
        *tensor = tensors[i];
        tensor->name = name;
        tensor->file = dir->n_files;
    }
    dir->n_tensors += n;
    dir->labels[dir->n_files] = label_copy;
    dir->files[dir->n_files++] = file;
    return true;
fail:
    free(label_copy);
    return false;
}

void tensor_dir_clear(struct tensor_dir *dir)
{
    for (int32_t i = 0; i < dir->n_files; i++) {
        file_unmap(&dir->files[i]);
        free(dir->labels[i]);
    }
    free(dir->files);
    free(dir->labels);
    free(dir->tensors);
    free(dir->names);
    map_clear(&dir->by_name);
    *dir = (struct tensor_dir){ 0 };
}

int64_t tensor_count(const struct tensor *tensor)
{
    int64_t count = 1;
    for (int32_t i = 0; i < tensor->n_dims; i++)
        count *= tensor->dims[i]; /* cannot overflow: the reader has checked the product */
    return count;
}
