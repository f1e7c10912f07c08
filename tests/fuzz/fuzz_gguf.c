/* libFuzzer entry for gguf_read: the input is a whole file. Every tensor that is accepted must lie
 * inside it, and every value can be read. */
#include <stdlib.h>
#include <string.h>
#include "host/format/gguf.h"
#include "host/format/gguf_blocks.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void read_value(const struct gguf *gguf, const struct gguf_value *value)
{
    struct err err;
    int64_t integer = 0;
    double number = 0;
    const uint8_t *at = value->bytes;
    CHECK(gguf_find(gguf, value->key) == value);
    for (uint64_t i = 0; i < value->n; i++) {
        const char *text;
        size_t length;
        if (value->type == GGUF_STRING)
            gguf_next_string(&at, &text, &length);
        else
            number += gguf_float_at(value, i);
    }
    CHECK(value->type != GGUF_STRING || at == value->bytes + value->size);
    if (gguf_opt_int(gguf, value->key, INT64_MIN, INT64_MAX, &integer, &err))
        CHECK(!value->is_array);
    if (gguf_opt_float(gguf, value->key, &number, &err))
        CHECK(number == number);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct gguf gguf;
    struct file_map map;
    struct err err;
    file_map_memory(&map, bytes, size);
    if (!gguf_read(&gguf, map, "fuzz", &err))
        return 0;
    for (int32_t i = 0; i < gguf.n_values; i++)
        read_value(&gguf, &gguf.values[i]);
    for (int32_t i = 0; i < gguf.n_tensors; i++) {
        const struct tensor *tensor = &gguf.tensors[i];
        const size_t n = (size_t)tensor_count(tensor);
        CHECK(tensor->data >= bytes);
        CHECK(tensor->bytes <= size - (size_t)(tensor->data - bytes));
        CHECK(dtype_row_bytes(tensor->dtype, n) == tensor->bytes);
        float *row = malloc(n * sizeof *row);
        CHECK(row != NULL);
        gguf_dequantize(row, tensor->data, tensor->dtype, n);
        free(row);
    }
    gguf_clear(&gguf);
    return 0;
}
