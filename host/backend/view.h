/* view.h - a 2-D window on backend memory: rows are tokens, columns are features. */
#pragma once
#include <stdint.h>
#include "host/base/dtype.h"
#include "host/base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

struct view {
    void *data;       /* backend memory; borrowed */
    enum dtype dtype; /* CPU activations: DTYPE_F32 */
    int32_t n_rows, n_cols;
    int64_t row_stride; /* elements between rows, >= n_cols */
};
static inline struct view view_of(void *data, enum dtype dtype, int32_t n_rows, int32_t n_cols)
{
    const struct view v = { data, dtype, n_rows, n_cols, n_cols };
    return v;
}
/* Row pointer of an F32 view in host memory. */
static inline float *view_row(struct view v, int32_t row)
{
    CHECK(v.dtype == DTYPE_F32 && row >= 0 && row < v.n_rows);
    return (float *)v.data + (int64_t)row * v.row_stride;
}
/* The first n rows. */
static inline struct view view_head(struct view v, int32_t n_rows)
{
    CHECK(n_rows <= v.n_rows);
    v.n_rows = n_rows;
    return v;
}
#ifdef __cplusplus
}
#endif
