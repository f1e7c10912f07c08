/* libFuzzer entry for safetensors_add: the input is a whole file. Every tensor that is accepted
 * must lie inside it, and be found under its name. */
#include <stdlib.h>
#include <string.h>
#include "host/format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct tensor_dir dir = { 0 };
    struct file_map map;
    struct err err;
    file_map_memory(&map, bytes, size);
    if (safetensors_add(&dir, map, "fuzz", &err)) {
        for (int32_t i = 0; i < dir.n_tensors; i++) {
            const struct tensor *tensor = &dir.tensors[i];
            CHECK(tensor->data >= bytes);
            CHECK(tensor->bytes <= size - (size_t)(tensor->data - bytes));
            CHECK(tensor_dir_find(&dir, tensor->name) == tensor);
            CHECK((size_t)tensor_count(tensor) * dtype_bytes(tensor->dtype) == tensor->bytes);
        }
        /* The same file again: every name is taken, and nothing may change. */
        int32_t n_tensors = dir.n_tensors;
        CHECK(safetensors_add(&dir, map, "again", &err) == (n_tensors == 0));
        CHECK(dir.n_tensors == n_tensors);
    }
    tensor_dir_clear(&dir);
    return 0;
}
