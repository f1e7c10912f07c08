/* tensor_dir.h - what every reader of model files produces: name -> dtype, shape, bytes.
 * Tensor data points into mapped files owned by the directory. Immutable after open. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/dtype.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/map.h"

enum { TENSOR_DIMS_MAX = 4 };

struct tensor {
    const char *name; /* owned by the directory */
    enum dtype dtype;
    int32_t n_dims;                /* 0 (a scalar) to 4 */
    int64_t dims[TENSOR_DIMS_MAX]; /* outermost first; each >= 0, product checked */
    const uint8_t *data;           /* little-endian, row-major, any alignment */
    size_t bytes;                  /* = dtype_row_bytes(dtype, product(dims)), checked */
    int32_t file;                  /* index into files */
    /* Rows of a head where GGUF keeps q and k for interleaved rope: of each `pairs` rows, 2i and
     * 2i + 1 are i and i + pairs / 2 of the half-split order. 0: rows are as they should be. */
    int32_t pairs;
    /* Elements from one row (of a vector: element) to the next, and from one column to the next,
     * where this is a part of a larger tensor. row_step 0: rows follow each other. */
    int64_t row_step, col_step;
};
struct tensor_dir {
    struct tensor *tensors; /* [n_tensors], in file order */
    int32_t n_tensors;
    struct file_map *files; /* [n_files] */
    char **labels;          /* [n_files], owned: the file's name for messages */
    int32_t n_files;
    struct map by_name; /* name -> index */
    char *names;        /* one block */
    size_t names_used;
};
/* For readers: n checked tensors of one mapped file, in file order. Names are copied; they may not
 * be in the directory yet (ERR_FORMAT names both files), nor twice among the new ones (the caller
 * has seen to that). `label` is copied. On success the directory takes the mapping over; on false
 * nothing has changed. */
MUST_USE bool tensor_dir_add(struct tensor_dir *dir, const struct tensor *tensors, int32_t n,
                             struct file_map file, const char *label, struct err *err);
/* A zeroed struct is an empty directory. NULL when there is no such tensor. */
const struct tensor *tensor_dir_find(const struct tensor_dir *dir, const char *name);
/* Frees and unmaps everything. */
void tensor_dir_clear(struct tensor_dir *dir);
/* Where row `row` (of a vector: element) is stored. */
static inline int64_t tensor_row(int32_t pairs, int64_t row)
{
    if (pairs == 0)
        return row;
    const int64_t in_head = row % pairs, half = pairs / 2;
    return row - in_head + 2 * (in_head % half) + in_head / half;
}
/* Number of elements; 0 when a dimension is 0. */
int64_t tensor_count(const struct tensor *tensor);
