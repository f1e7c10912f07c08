/* load_fill.c - what a plan decided is done: memory is reserved in one piece and filled, tensor by
 * tensor. Called by load.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/half.h"
#include "host/model/load_plan.h"

/* FNV-1a: a dummy's weights depend on their names alone. */
static uint64_t seed_of(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name != 0; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash;
}

/* Uniform with a standard deviation of 1 / sqrt(n_in), so that activations keep their size. */
static float amplitude_of(int32_t n_in)
{
    return (float)sqrt(3.0 / n_in);
}

/* Whether the item's n rows (of a vector: elements) lie together, in order. */
static bool is_run(const struct item *item, int32_t n)
{
    return item->tensor->pairs == 0 && item->map.run == n;
}
/* Where one of them is. */
static const uint8_t *row_at(const struct item *item, int32_t row, size_t row_bytes)
{
    return item->tensor->data +
           (size_t)tensor_row(item->tensor->pairs, row_map_at(&item->map, row)) * row_bytes;
}

/* Rows as they are stored, in the part's order. */
static bool copy_rows(struct backend *be, const struct item *item, uint8_t *to, struct err *err)
{
    const int32_t n_rows = item->part->shape.n_out;
    const size_t row_bytes = item->bytes / (size_t)n_rows;
    if (is_run(item, n_rows)) {
        be->ops->upload(be, to, row_at(item, 0, row_bytes), item->bytes);
        return true;
    }
    const size_t most = REPACK_BLOCK_BYTES / row_bytes;
    const int32_t rows = most < 1 ? 1 : most < (size_t)n_rows ? (int32_t)most : n_rows;
    uint8_t *block = malloc((size_t)rows * row_bytes);
    if (block == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", (size_t)rows * row_bytes);
    for (int32_t from = 0; from < n_rows; from += rows) {
        const int32_t n = n_rows - from < rows ? n_rows - from : rows;
        for (int32_t r = 0; r < n; r++)
            memcpy(block + (size_t)r * row_bytes, row_at(item, from + r, row_bytes), row_bytes);
        be->ops->upload(be, to + (size_t)from * row_bytes, block, (size_t)n * row_bytes);
    }
    free(block);
    return true;
}

static void widen_vector(const struct item *item, float *values)
{
    const enum dtype dtype = item->tensor->dtype;
    const size_t element = dtype_bytes(dtype);
    const int64_t step = item->tensor->row_step;
    if (step != 0) {
        for (int32_t i = 0; i < item->n; i++)
            half_widen(values + i, item->tensor->data + (size_t)(i * step) * element, dtype, 1);
        return;
    }
    if (is_run(item, item->n))
        half_widen(values, row_at(item, 0, element), dtype, (size_t)item->n);
    for (int32_t i = 0; !is_run(item, item->n) && i < item->n; i++)
        half_widen(values + i, row_at(item, i, element), dtype, 1);
}

static bool fill_vector(const struct plan *plan, const struct item *item, uint8_t *to,
                        struct err *err)
{
    struct backend *be = plan->model->be;
    float *values = malloc(item->bytes);
    if (values == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", item->bytes);
    bool ok = true;
    if (item->tensor != NULL)
        widen_vector(item, values);
    for (int32_t i = 0; i < item->n && ok; i++) {
        if (item->tensor == NULL)
            values[i] = item->is_gain ? 1.0f : (float)(i % 7 - 3) * 0.01f;
        else if (item->plus_one)
            values[i] += 1.0f;
        if (!isfinite(values[i]))
            ok = err_set(err, ERR_FORMAT, "element %d is not finite (NaN or Inf)", i);
    }
    if (ok) {
        be->ops->upload(be, to, values, item->bytes);
        *item->vector = (const float *)(void *)to;
    }
    free(values);
    return ok;
}

/* Parts that agree in their order share the pointer: they share their ordered input then. */
static void fill_order(const struct plan *plan, const struct item *item, uint8_t *to)
{
    struct backend *be = plan->model->be;
    be->ops->upload(be, to, item->packed->order, item->bytes);
    item->part->order = (const int32_t *)(void *)to;
    for (const struct item *other = item - 1; other >= plan->items; other--)
        if (other->kind == ITEM_ORDER) {
            if (other->n == item->n &&
                memcmp(other->packed->order, item->packed->order, item->bytes) == 0)
                item->part->order = other->part->order;
            return;
        }
}

/* Rows of numbers: straight into their place, or by way of a block here. */
static bool fill_rows(struct backend *be, const struct repack_source *source,
                      const struct item *item, uint8_t *to, struct err *err)
{
    const struct weight_part *part = item->part;
    const int32_t n_out = part->shape.n_out, n_in = part->shape.n_in;
    if (be->host_memory)
        return repack_rows(source, n_in, part->dtype, 0, n_out, to, be->pool, err);
    const size_t row_bytes = (size_t)n_in * dtype_bytes(part->dtype);
    const size_t most = REPACK_DEVICE_BYTES / row_bytes;
    const int32_t rows = most < 1 ? 1 : most < (size_t)n_out ? (int32_t)most : n_out;
    uint8_t *block = malloc((size_t)rows * row_bytes);
    if (block == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", (size_t)rows * row_bytes);
    bool ok = true;
    for (int32_t from = 0; from < n_out && ok; from += rows) {
        const int32_t n = n_out - from < rows ? n_out - from : rows;
        ok = repack_rows(source, n_in, part->dtype, from, n, block, be->pool, err);
        if (ok)
            be->ops->upload(be, to + (size_t)from * row_bytes, block, (size_t)n * row_bytes);
    }
    free(block);
    return ok;
}

static bool fill_matrix(const struct plan *plan, const struct item *item, uint8_t *to,
                        struct err *err)
{
    struct backend *be = plan->model->be;
    const struct layout_shape *shape = &item->part->shape;
    const bool pack = shape->layout != LAYOUT_ROWS;
    const struct repack_source source = {
        .packed = item->packed,
        .data = item->tensor == NULL ? NULL : item->tensor->data,
        .map = item->map,
        .dtype = item->tensor == NULL ? DTYPE_NONE : item->tensor->dtype,
        .pairs = item->tensor == NULL ? 0 : item->tensor->pairs,
        .row_step = item->tensor == NULL ? 0 : item->tensor->row_step,
        .col_step = item->tensor == NULL ? 0 : item->tensor->col_step,
        .seed = seed_of(item->name),
        .amplitude = amplitude_of(shape->n_in),
    };
    item->part->data = to;
    if (item->kind == ITEM_COPY && item->tensor != NULL && item->tensor->row_step == 0)
        return copy_rows(be, item, to, err);
    if (pack && be->ops->pack != NULL)
        return repack_on_device(&source, shape, be, to, be->pool, err);
    if (!pack)
        return fill_rows(be, &source, item, to, err);
    /* Straight into its place where we can write there; else by way of one matrix here. */
    const size_t whole = (item->bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
    uint8_t *here = be->host_memory ? to : aligned_alloc(LAYOUT_ALIGN, whole);
    if (here == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", item->bytes);
    const bool ok = repack_quantize(&source, shape, here, be->pool, err);
    if (here != to) {
        if (ok)
            be->ops->upload(be, to, here, item->bytes);
        free(here);
    }
    return ok;
}

static void name_item(const struct plan *plan, const struct item *item, struct err *err)
{
    err_prefix(err, "tensor %s", item->name);
    if (item->tensor != NULL)
        err_prefix(err, "%s", plan_file_of(plan, item->tensor));
}

/* Rows that stay in the file, or are copied as they are: finite? Blocks of 4096 values. */
static bool check_rows(const struct item *item, struct err *err)
{
    enum { STEP = 4096 };
    const struct layout_shape *shape = &item->part->shape;
    const enum dtype dtype = item->tensor->dtype;
    const size_t n_in = (size_t)shape->n_in, element = dtype_bytes(dtype);
    float values[STEP];
    for (int32_t r = 0; r < shape->n_out; r++) {
        const uint8_t *row = row_at(item, r, n_in * element);
        for (size_t from = 0; from < n_in; from += STEP) {
            const size_t n = n_in - from < STEP ? n_in - from : STEP;
            half_widen(values, row + from * element, dtype, n);
            for (size_t i = 0; i < n; i++)
                if (!isfinite(values[i]))
                    return err_set(err, ERR_FORMAT, "row %d, column %zu is not finite (NaN or Inf)",
                                   r, from + i);
        }
    }
    return true;
}

static bool fill_item(const struct plan *plan, const struct item *item, uint8_t *memory,
                      struct err *err)
{
    const bool as_stored = item->kind == ITEM_MAPPED || item->kind == ITEM_COPY;
    if (plan->options->problem != NULL && as_stored && item->tensor != NULL &&
        !check_rows(item, err)) {
        name_item(plan, item, err);
        return false;
    }
    if (item->kind == ITEM_MAPPED) {
        const size_t row_bytes = item->bytes / (size_t)item->part->shape.n_out;
        item->part->data = item->tensor->data + (size_t)item->map.from * row_bytes;
        return true;
    }
    uint8_t *to = memory + item->offset;
    if (item->kind == ITEM_ORDER) {
        fill_order(plan, item, to);
        return true;
    }
    const bool ok = item->kind == ITEM_VECTOR ? fill_vector(plan, item, to, err)
                                              : fill_matrix(plan, item, to, err);
    if (!ok) {
        name_item(plan, item, err);
    } else if (item->packed != NULL) {
        for (int32_t i = 0; i < item->packed->n_tensors; i++) {
            const struct tensor *part = item->packed->tensors[i];
            file_map_drop(&plan->tensors->files[part->file], part->data, part->bytes);
        }
    } else if (item->tensor != NULL) {
        file_map_drop(&plan->tensors->files[item->tensor->file], item->tensor->data,
                      item->tensor->bytes);
    }
    return ok;
}

bool load_fill(const struct plan *plan, struct err *err)
{
    struct model *model = plan->model;
    const struct model_options *options = plan->options;
    void *memory;
    const size_t total = plan->reserved_bytes + plan->mapped_bytes;
    if (options->weight_bytes_max > 0 && total > options->weight_bytes_max)
        return err_set(err, ERR_MEMORY,
                       "the weights take %.2f GiB, and %.2f GiB may be used; try a larger --memory "
                       "or --weights int4",
                       (double)total / 0x1p30, (double)options->weight_bytes_max / 0x1p30);
    if (!model->be->ops->reserve(model->be, REGION_WEIGHTS, plan->reserved_bytes, &memory, err)) {
        err_prefix(err, "weights of %zu bytes", plan->reserved_bytes);
        return false;
    }
    size_t done = 0;
    int32_t n_damaged = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        if (!fill_item(plan, &plan->items[i], memory, err)) {
            if (options->problem == NULL || err->code != ERR_FORMAT)
                return false;
            options->problem(options->problem_context, err->text);
            n_damaged++;
        }
        done += plan->items[i].bytes;
        if (options->progress != NULL)
            options->progress(options->progress_context, done, total);
    }
    if (n_damaged > 0)
        return err_set(err, ERR_FORMAT, "%d of %d tensors are damaged", n_damaged, plan->n_items);
    model->weight_bytes = total;
    model->weight_anonymous_bytes = plan->reserved_bytes;
    return true;
}
