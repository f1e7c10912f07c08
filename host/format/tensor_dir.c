/* tensor_dir.c - the directory of a model's tensors: look-up and clean-up. It is filled by the
 * readers of this floor (safetensors.c).
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
