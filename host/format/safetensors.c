/* safetensors.c - reads the header of one .safetensors file into a tensor directory.
 *
 *   [u64 n, little-endian][n bytes of JSON][data]
 *   JSON: { "name": { "dtype": "BF16", "shape": [o, i], "data_offsets": [begin, end] }, ...,
 *           "__metadata__": { text: text } }        offsets count from the start of the data
 *
 * The file is hostile until proven otherwise: every number is checked before it sizes, indexes or
 * loops anything, and nothing is added to the directory before the whole file has been proven.
 * Called by hf_folder.c. */
#include "host/format/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include "host/base/json.h"

enum {
    SIZE_BYTES = 8,
    HEADER_BYTES_MAX = 100000000, /* the reference implementation's limit */
    NAME_BYTES_MAX = 4096,
};
/* JSON numbers are doubles: from 2^53 on two texts may mean the same one. No real file comes near.
 */
static const int64_t NUMBER_MAX = (INT64_C(1) << 53) - 1;

/* root, tensor, list, number. A tensor has about eight values, so this is a million tensors. */
static const struct json_limits HEADER_LIMITS = {
    .bytes_max = HEADER_BYTES_MAX,
    .depth_max = 4,
    .nodes_max = 8000000,
};

/* One entry of the header, while nothing is sure yet. */
struct entry {
    struct tensor tensor; /* name points into the JSON tree, data is not set */
    uint64_t begin, end;  /* from the start of the data; begin <= end */
};

static bool wrong_type(const struct json_ref *ref, const char *wanted, struct err *err)
{
    char path[160];
    return err_set(err, ERR_FORMAT, "%s must be %s", json_path(ref, path, sizeof path), wanted);
}

/* A whole number below 2^53. */
static bool read_number(const struct json_ref *ref, int64_t *value, struct err *err)
{
    if (!json_is_number(ref) || !json_int(ref, 0, NUMBER_MAX, value, err))
        return wrong_type(ref, "a whole number below 2^53", err);
    return true;
}

static bool read_shape(const struct json_ref *shape, struct tensor *tensor, struct err *err)
{
    if (!json_is_array(shape))
        return wrong_type(shape, "a list of sizes", err);
    struct json_ref item;
    tensor->n_dims = 0;
    for (bool more = json_first(shape, &item); more; more = json_next(&item)) {
        if (tensor->n_dims == TENSOR_DIMS_MAX)
            return err_set(err, ERR_UNSUPPORTED,
                           "tensor \"%.200s\" has %lld dimensions, at most %d", tensor->name,
                           (long long)json_count(shape), TENSOR_DIMS_MAX);
        if (!read_number(&item, &tensor->dims[tensor->n_dims], err))
            return false;
        tensor->n_dims++;
    }
    return true;
}

/* bytes = product(dims) * dtype_bytes. A zero among the dims does not excuse a product of the
 * others that overflows: consumers multiply them in any order. */
static bool size_tensor(struct tensor *tensor, struct err *err)
{
    int64_t product = 1;
    bool empty = false;
    for (int32_t i = 0; i < tensor->n_dims; i++) {
        int64_t dim = tensor->dims[i];
        empty |= dim == 0;
        if (__builtin_mul_overflow(product, dim == 0 ? 1 : dim, &product))
            goto overflow;
    }
    if (__builtin_mul_overflow(product, (int64_t)dtype_bytes(tensor->dtype), &product))
        goto overflow;
    tensor->bytes = empty ? 0 : (size_t)product;
    return true;
overflow:
    return err_set(err, ERR_FORMAT, "tensor \"%.200s\": its shape is too large to count",
                   tensor->name);
}

static bool read_offsets(const struct json_ref *offsets, uint64_t data_bytes, struct entry *entry,
                         struct err *err)
{
    struct json_ref item;
    int64_t pair[2] = { 0, 0 };
    if (!json_is_array(offsets) || json_count(offsets) != 2)
        return wrong_type(offsets, "a list of two offsets", err);
    int32_t n = 0;
    for (bool more = json_first(offsets, &item); more; more = json_next(&item))
        if (!read_number(&item, &pair[n++], err))
            return false;
    entry->begin = (uint64_t)pair[0];
    entry->end = (uint64_t)pair[1];
    if (entry->begin > entry->end)
        return err_set(err, ERR_FORMAT,
                       "tensor \"%.200s\": data_offsets [%lld, %lld] run backwards",
                       entry->tensor.name, (long long)pair[0], (long long)pair[1]);
    if (entry->end > data_bytes)
        return err_set(
            err, ERR_FORMAT,
            "tensor \"%.200s\" ends at byte %lld of the data, but the file has only %llu",
            entry->tensor.name, (long long)pair[1], (unsigned long long)data_bytes);
    return true;
}

static bool read_entry(const struct json_ref *item, uint64_t data_bytes, struct entry *entry,
                       struct err *err)
{
    struct tensor *tensor = &entry->tensor;
    *entry = (struct entry){ .tensor.name = item->key };
    if (strlen(item->key) > NAME_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "a tensor's name has %zu bytes, at most %d",
                       strlen(item->key), NAME_BYTES_MAX);
    if (!json_is_object(item))
        return wrong_type(item, "an object with dtype, shape and data_offsets", err);
    struct json_ref dtype, shape, offsets;
    const char *dtype_text = NULL;
    json_get(item, "dtype", &dtype);
    json_get(item, "shape", &shape);
    json_get(item, "data_offsets", &offsets);
    if (!json_string(&dtype, &dtype_text, err))
        return wrong_type(&dtype, "the name of an element type", err);
    tensor->dtype = dtype_from_safetensors(dtype_text);
    if (tensor->dtype == DTYPE_NONE)
        return err_set(err, ERR_UNSUPPORTED, "tensor \"%.200s\": unknown dtype \"%.32s\"",
                       tensor->name, dtype_text);
    if (!read_shape(&shape, tensor, err) || !size_tensor(tensor, err) ||
        !read_offsets(&offsets, data_bytes, entry, err))
        return false;
    if (entry->end - entry->begin != tensor->bytes)
        return err_set(
            err, ERR_FORMAT,
            "tensor \"%.200s\": shape and dtype %s want %zu bytes, data_offsets give %llu",
            tensor->name, dtype_text, tensor->bytes,
            (unsigned long long)(entry->end - entry->begin));
    return true;
}

static int by_offset(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->tensor.name, b->tensor.name); /* empty tensors: qsort is not stable */
}

/* The data must be covered once, without a hole: so no byte is read twice or smuggled in. */
static bool check_cover(const struct entry *entries, int32_t n, uint64_t data_bytes,
                        struct err *err)
{
    uint64_t covered = 0;
    for (int32_t i = 0; i < n; i++) {
        if (entries[i].begin < covered)
            return err_set(err, ERR_FORMAT, "tensors \"%.180s\" and \"%.180s\" overlap",
                           entries[i - 1].tensor.name, entries[i].tensor.name);
        if (entries[i].begin > covered)
            return err_set(
                err, ERR_FORMAT, "%llu bytes before tensor \"%.200s\" belong to no tensor",
                (unsigned long long)(entries[i].begin - covered), entries[i].tensor.name);
        covered = entries[i].end;
    }
    if (covered != data_bytes)
        return err_set(err, ERR_FORMAT, "the last %llu bytes belong to no tensor",
                       (unsigned long long)(data_bytes - covered));
    return true;
}

static uint64_t read_u64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int32_t i = 0; i < SIZE_BYTES; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* The header's extent: within the file, within the limit, and looking like JSON. */
static bool find_header(struct file_map file, size_t *header_bytes, struct err *err)
{
    if (file.size < SIZE_BYTES)
        return err_set(err, ERR_FORMAT, "%zu bytes, a safetensors file has at least 10", file.size);
    uint64_t n = read_u64(file.bytes);
    if (n > HEADER_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "header of %llu bytes, at most %d: not a safetensors file?",
                       (unsigned long long)n, HEADER_BYTES_MAX);
    if (n > file.size - SIZE_BYTES)
        return err_set(err, ERR_FORMAT,
                       "header of %llu bytes in a file of %zu: the file is cut short",
                       (unsigned long long)n, file.size);
    if (n < 2 || file.bytes[SIZE_BYTES] != '{')
        return err_set(err, ERR_FORMAT, "the header does not start with '{': not safetensors");
    *header_bytes = (size_t)n;
    return true;
}

/* __metadata__ is text to text by the format; we use none of it, but a file that breaks this rule
 * was not made by an honest writer. */
static bool check_metadata(const struct json_ref *metadata, struct err *err)
{
    if (!json_is_object(metadata))
        return wrong_type(metadata, "an object of strings", err);
    struct json_ref item;
    for (bool more = json_first(metadata, &item); more; more = json_next(&item))
        if (!json_is_string(&item))
            return wrong_type(&item, "a string", err);
    return true;
}

bool safetensors_add(struct tensor_dir *dir, struct file_map file, const char *label,
                     struct err *err)
{
    struct cJSON *tree = NULL;
    struct entry *entries = NULL;
    struct tensor *tensors = NULL;
    size_t header_bytes = 0;
    int32_t n = 0;
    if (!find_header(file, &header_bytes, err))
        goto fail;
    const uint8_t *data = file.bytes + SIZE_BYTES + header_bytes;
    uint64_t data_bytes = file.size - SIZE_BYTES - header_bytes;

    if (!json_parse((const char *)file.bytes + SIZE_BYTES, header_bytes, &HEADER_LIMITS, ERR_FORMAT,
                    &tree, err)) {
        err_prefix(err, "header");
        goto fail;
    }
    struct json_ref root = json_root(tree), item;
    CHECK(json_is_object(&root));      /* it starts with '{' */
    int64_t count = json_count(&root); /* bounded by nodes_max */
    entries = calloc((size_t)count + 1, sizeof *entries);
    tensors = calloc((size_t)count + 1, sizeof *tensors);
    if (entries == NULL || tensors == NULL) {
        err_set(err, ERR_MEMORY, "no memory for a header of %lld tensors", (long long)count);
        goto fail;
    }
    for (bool more = json_first(&root, &item); more; more = json_next(&item)) {
        if (strcmp(item.key, "__metadata__") == 0) {
            if (!check_metadata(&item, err))
                goto fail;
        } else if (!read_entry(&item, data_bytes, &entries[n++], err)) {
            goto fail;
        }
    }
    qsort(entries, (size_t)n, sizeof *entries, by_offset);
    if (!check_cover(entries, n, data_bytes, err))
        goto fail;
    for (int32_t i = 0; i < n; i++) {
        tensors[i] = entries[i].tensor;
        tensors[i].data = data + entries[i].begin;
    }
    if (!tensor_dir_add(dir, tensors, n, file, label, err))
        goto fail;
    free(entries);
    free(tensors);
    json_free(tree);
    return true;
fail:
    free(entries);
    free(tensors);
    json_free(tree);
    err->field[0] = 0; /* fields are for requests */
    err_prefix(err, "%s", label);
    return false;
}
