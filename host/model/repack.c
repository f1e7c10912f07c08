/* repack.c - rows in, resident layout out, in parallel.
 *
 * Every thread has its own block buffers, taken before the pool runs; rows are shared out in whole
 * tiles, so threads write to different tiles and the result does not depend on their number. Called
 * by load.c at start. */
#include "host/model/repack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/half.h"
#include "host/format/gguf_blocks.h"
#include "host/format/tensor_dir.h"

struct worker {
    float *rows; /* [block_rows][n_in], owned; NULL when nothing is a float on its way */
    struct matrix block;
    struct err err;
    bool failed;
};
struct job {
    const struct repack_source *source;
    const struct layout_shape *shape; /* layout ROWS: n_out and n_in alone */
    enum dtype dtype;                 /* ROWS: of the result */
    uint8_t *to;
    struct matrix *whole; /* not NULL: rows [row_base, row_base + n_rows) go here, unpacked */
    int32_t row_base, n_rows;
    int32_t block_rows;
    struct worker *workers; /* [n_workers] */
    int32_t n_workers;
};

/* A 32-bit finalizer (MurmurHash3's), which compilers turn into vector code: a llama-3.2-1b is 1.2
 * billion numbers. Not for sampling: rng.h. */
static void random_row(float *out, int32_t n, uint64_t seed, int32_t row, float amplitude)
{
    uint64_t mixed = (seed ^ (uint64_t)(uint32_t)row * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    const uint32_t key = (uint32_t)(mixed ^ mixed >> 32);
    const float unit = amplitude * 0x1p-31f;
    for (int32_t i = 0; i < n; i++) {
        uint32_t h = (uint32_t)i * 0x9e3779b1u + key;
        h = (h ^ h >> 16) * 0x85ebca6bu;
        h = (h ^ h >> 13) * 0xc2b2ae35u;
        out[i] = (float)(int32_t)(h ^ h >> 16) * unit;
    }
}

static int64_t stored_row(const struct repack_source *source, int32_t row)
{
    return tensor_row(source->pairs, row_map_at(&source->map, row));
}

/* Rows with steps between rows and columns. Across columns a run of rows is widened at once. */
static void stepped_rows(const struct repack_source *source, int32_t n_in, int32_t row_from,
                         int32_t n_rows, float *out)
{
    enum { RUN = 256 };
    const int64_t bytes = (int64_t)dtype_bytes(source->dtype);
    const uint8_t *from = source->data + row_from * source->row_step * bytes;
    if (source->col_step == 1) {
        for (int32_t r = 0; r < n_rows; r++)
            half_widen(out + (int64_t)r * n_in, from + r * source->row_step * bytes, source->dtype,
                       (size_t)n_in);
        return;
    }
    float run[RUN];
    const int32_t most = source->row_step < RUN ? (int32_t)(RUN / source->row_step) : 1;
    for (int32_t r = 0, n = 0; r < n_rows; r += n) {
        n = n_rows - r < most ? n_rows - r : most;
        const size_t width = (size_t)((n - 1) * source->row_step + 1);
        for (int32_t i = 0; i < n_in; i++) {
            half_widen(run, from + (r * source->row_step + i * source->col_step) * bytes,
                       source->dtype, width);
            for (int32_t k = 0; k < n; k++)
                out[(int64_t)(r + k) * n_in + i] = run[k * source->row_step];
        }
    }
}

static void source_rows(const struct job *job, int32_t row_from, int32_t n_rows, float *out)
{
    const struct repack_source *source = job->source;
    const size_t n_in = (size_t)job->shape->n_in;
    const size_t row_bytes = n_in * dtype_bytes(source->dtype);
    if (source->data != NULL && source->row_step != 0) {
        stepped_rows(source, job->shape->n_in, row_from, n_rows, out);
        return;
    }
    if (source->data != NULL && source->pairs == 0) {
        for (int32_t r = 0, n = 0; r < n_rows; r += n) { /* runs of rows that lie together */
            const int32_t left = source->map.run - (row_from + r) % source->map.run;
            n = left < n_rows - r ? left : n_rows - r;
            half_widen(out + (size_t)r * n_in,
                       source->data + (size_t)row_map_at(&source->map, row_from + r) * row_bytes,
                       source->dtype, (size_t)n * n_in);
        }
        return;
    }
    for (int32_t r = 0; r < n_rows; r++)
        if (source->data != NULL)
            half_widen(out + (size_t)r * n_in,
                       source->data + (size_t)stored_row(source, row_from + r) * row_bytes,
                       source->dtype, n_in);
        else
            random_row(out + (size_t)r * n_in, job->shape->n_in, source->seed, row_from + r,
                       source->amplitude);
}

/* The quantizer counts rows inside the block; people count them in the tensor. */
static void name_row(struct err *err, const float *rows, int32_t n_rows, int32_t n_in,
                     int32_t row_from)
{
    for (int32_t r = 0; err->code == ERR_FORMAT && r < n_rows; r++)
        for (int32_t i = 0; i < n_in; i++)
            if (!isfinite(rows[(size_t)r * (size_t)n_in + (size_t)i])) {
                err_set(err, ERR_FORMAT, "row %d, column %d is not finite (NaN or Inf)",
                        row_from + r, i);
                return;
            }
}

bool repack_form(enum dtype dtype, struct matrix_form *form)
{
    const struct gguf_blocks *blocks = gguf_blocks_of(dtype);
    if (blocks == NULL)
        return false;
    const bool table = blocks->table != NULL;
    *form = (struct matrix_form){
        .kind = table ? CODE_TABLE : CODE_INT,
        .bits = blocks->bits,
        .group = blocks->group,
        .symmetric = table || blocks->zero == (float)(1 << (blocks->bits - 1)),
        .mins = blocks->has_mins,
    };
    return true;
}

static bool all_finite(const float *values, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

/* The row's zeros hold mins: scale * code - min becomes scale * (code - zero). Where the zero would
 * be more than 2^15 the group is constant as far as fp16 can tell: -min = min * (0 - 1). */
static void mins_to_zeros(struct matrix *m, size_t row)
{
    static const float ZERO_MAX = 0x1p15f;
    float *scales = m->scales + row * (size_t)m->n_groups;
    float *zeros = m->zeros + row * (size_t)m->n_groups;
    for (int32_t g = 0; g < m->n_groups; g++) {
        const float min = zeros[g];
        if (min == 0)
            continue;
        if (fabsf(min) <= ZERO_MAX * fabsf(scales[g])) {
            zeros[g] = min / scales[g];
            continue;
        }
        const size_t from = (size_t)g * (size_t)m->group, left = (size_t)m->n_in - from;
        memset(m->codes + row * (size_t)m->n_in + from, 0,
               left < (size_t)m->group ? left : (size_t)m->group);
        scales[g] = min;
        zeros[g] = 1;
    }
}

/* Rows of blocks into rows `at` .. of `to`, as they are; mins as zeros where `to` has no mins. */
static bool unpack_rows(const struct job *job, int32_t row_from, int32_t n_rows, struct matrix *to,
                        int32_t at, struct err *err)
{
    const struct repack_source *source = job->source;
    const struct gguf_blocks *blocks = gguf_blocks_of(source->dtype);
    const size_t n_in = (size_t)to->n_in, row_bytes = dtype_row_bytes(source->dtype, n_in);
    to->table = blocks->table;
    for (int32_t r = 0; r < n_rows; r++) {
        const size_t row = (size_t)(at + r), groups_at = row * (size_t)to->n_groups;
        float *scales = to->scales + groups_at;
        const bool move = blocks->has_mins && to->mins == NULL;
        float *mins = to->mins != NULL ? to->mins + groups_at : move ? to->zeros + groups_at : NULL;
        gguf_unpack(source->dtype,
                    source->data + (size_t)stored_row(source, row_from + r) * row_bytes, n_in,
                    to->codes + row * n_in, scales, mins);
        for (int32_t g = 0; to->zeros != NULL && !move && g < to->n_groups; g++)
            to->zeros[groups_at + (size_t)g] = blocks->zero;
        if (!all_finite(scales, to->n_groups) || (mins != NULL && !all_finite(mins, to->n_groups)))
            return err_set(err, ERR_FORMAT, "row %d: a block's scale is not finite (NaN or Inf)",
                           row_from + r);
        if (move)
            mins_to_zeros(to, row);
    }
    return true;
}

static bool decode_rows(const struct job *job, int32_t row, int32_t n, struct matrix *to,
                        int32_t to_row, struct err *err)
{
    const struct repack_source *source = job->source;
    for (int32_t done = 0, m; done < n; done += m) { /* rows that follow each other in the file */
        const int32_t left = source->map.run - (row + done) % source->map.run;
        m = left < n - done ? left : n - done;
        if (!packed_rows(source->packed, row_map_at(&source->map, row + done), m, to, to_row + done,
                         err))
            return false;
    }
    return true;
}

static bool is_quantized(const struct repack_source *source)
{
    return source->packed != NULL || gguf_blocks_of(source->dtype) != NULL;
}

static void narrow_rows(const struct job *job, const float *rows, int32_t at, int32_t n)
{
    const size_t n_in = (size_t)job->shape->n_in;
    half_narrow(job->to + (size_t)at * n_in * dtype_bytes(job->dtype), rows, job->dtype,
                (size_t)n * n_in);
}

/* Rows at .. at + n of the job, which are quantized in the file. */
static bool codes_in(const struct job *job, struct worker *worker, int32_t at, int32_t n)
{
    const int32_t row = job->row_base + at, to_row = job->whole != NULL ? at : 0;
    struct matrix *to = job->whole != NULL ? job->whole : &worker->block;
    if (!(job->source->packed != NULL ? decode_rows(job, row, n, to, to_row, &worker->err)
                                      : unpack_rows(job, row, n, to, to_row, &worker->err)))
        return false;
    if (job->whole != NULL)
        return true;
    if (job->shape->layout != LAYOUT_ROWS) {
        layout_pack_block(job->shape, to, n, row, job->to);
        return true;
    }
    for (int32_t r = 0; r < n; r++)
        matrix_dequantize_row(to, r, worker->rows + (size_t)r * (size_t)to->n_in);
    narrow_rows(job, worker->rows, at, n);
    return true;
}

/* The same of rows that are floats, or random. */
static bool floats_in(const struct job *job, struct worker *worker, int32_t at, int32_t n)
{
    const int32_t row = job->row_base + at;
    source_rows(job, row, n, worker->rows);
    if (job->shape->layout == LAYOUT_ROWS) {
        narrow_rows(job, worker->rows, at, n);
        return true;
    }
    struct matrix *to = job->whole != NULL ? job->whole : &worker->block;
    const int32_t to_row = job->whole != NULL ? at : 0;
    if (!matrix_quantize_rows(to, worker->rows, to_row, to_row + n, &worker->err)) {
        name_row(&worker->err, worker->rows, n, job->shape->n_in, row);
        return false;
    }
    if (job->whole == NULL)
        layout_pack_block(job->shape, to, n, row, job->to);
    return true;
}

static void run_worker(void *arg, int32_t part, int32_t n_parts)
{
    const struct job *job = arg;
    struct worker *worker = &job->workers[part];
    int64_t from, to;
    pool_share(job->n_rows, LAYOUT_TILE_ROWS, part, n_parts, &from, &to);
    for (int32_t at = (int32_t)from; at < (int32_t)to && !worker->failed; at += job->block_rows) {
        const int32_t left = (int32_t)to - at;
        const int32_t n = left < job->block_rows ? left : job->block_rows;
        worker->failed = !(is_quantized(job->source) ? codes_in(job, worker, at, n)
                                                     : floats_in(job, worker, at, n));
    }
}

/* A block of the shape's form; of rows that will be dequantized: of the source's. */
static bool init_block(struct matrix *block, const struct repack_source *source,
                       const struct layout_shape *shape, int32_t rows, struct err *err)
{
    struct matrix_form form = { .n_out = rows,
                                .n_in = shape->n_in,
                                .kind = shape->kind,
                                .bits = shape->bits,
                                .group = shape->group,
                                .symmetric = shape->symmetric,
                                .mins = shape->mins };
    if (shape->layout == LAYOUT_ROWS && source->packed != NULL)
        form = source->packed->form;
    else if (shape->layout == LAYOUT_ROWS)
        CHECK(repack_form(source->dtype, &form));
    form.n_out = rows;
    form.n_in = shape->n_in;
    return matrix_init_form(block, &form, err);
}

static bool open_workers(struct job *job, struct err *err)
{
    const struct layout_shape *shape = job->shape;
    const size_t row_bytes = (size_t)shape->n_in * sizeof(float);
    size_t rows = REPACK_BLOCK_BYTES / row_bytes / LAYOUT_TILE_ROWS * LAYOUT_TILE_ROWS;
    if (rows > (size_t)shape->n_out)
        rows = ((size_t)shape->n_out + LAYOUT_TILE_ROWS - 1) / LAYOUT_TILE_ROWS * LAYOUT_TILE_ROWS;
    if (rows < LAYOUT_TILE_ROWS)
        rows = LAYOUT_TILE_ROWS;
    job->block_rows = (int32_t)rows;
    job->workers = calloc((size_t)job->n_workers, sizeof *job->workers);
    if (job->workers == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %d loading threads", job->n_workers);
    for (int32_t i = 0; i < job->n_workers; i++) {
        struct worker *worker = &job->workers[i];
        const bool codes = is_quantized(job->source), dense = shape->layout == LAYOUT_ROWS;
        worker->rows = codes && !dense ? NULL : malloc(rows * row_bytes);
        if (worker->rows == NULL && (dense || !codes))
            return err_set(err, ERR_MEMORY, "no memory for a block of %zu bytes", rows * row_bytes);
        if ((codes || !dense) && job->whole == NULL &&
            !init_block(&worker->block, job->source, shape, job->block_rows, err))
            return false;
    }
    return true;
}

static bool run(struct job *job, struct pool *pool, struct err *err)
{
    job->n_workers = pool != NULL ? pool_threads(pool) : 1;
    bool ok = open_workers(job, err);
    if (ok && pool != NULL)
        pool_run(pool, run_worker, job);
    else if (ok)
        run_worker(job, 0, 1);
    for (int32_t i = 0; job->workers != NULL && i < job->n_workers; i++) {
        struct worker *worker = &job->workers[i];
        if (ok && worker->failed) {
            *err = worker->err; /* the first by rows: the same whatever the number of threads */
            ok = false;
        }
        free(worker->rows);
        matrix_clear(&worker->block);
    }
    free(job->workers);
    return ok;
}

bool repack_quantize(const struct repack_source *source, const struct layout_shape *shape, void *to,
                     struct pool *pool, struct err *err)
{
    CHECK(shape->layout != LAYOUT_ROWS);
    struct job job = { .source = source, .shape = shape, .to = to, .n_rows = shape->n_out };
    return run(&job, pool, err);
}

bool repack_on_device(const struct repack_source *source, const struct layout_shape *shape,
                      struct backend *be, void *to, struct pool *pool, struct err *err)
{
    size_t rows = REPACK_DEVICE_BYTES / (size_t)shape->n_in / REPACK_DEVICE_ROWS;
    rows = (rows > 0 ? rows : 1) * REPACK_DEVICE_ROWS;
    if (rows > (size_t)shape->n_out)
        rows = (size_t)shape->n_out;
    struct matrix block;
    if (!init_block(&block, source, shape, (int32_t)rows, err))
        return false;
    bool ok = true;
    for (int32_t row = 0; row < shape->n_out && ok; row += (int32_t)rows) {
        const int32_t left = shape->n_out - row;
        struct job job = { .source = source,
                           .shape = shape,
                           .whole = &block,
                           .row_base = row,
                           .n_rows = left < (int32_t)rows ? left : (int32_t)rows };
        ok = run(&job, pool, err);
        if (ok)
            be->ops->pack(be, shape, &block, job.n_rows, row, to);
    }
    matrix_clear(&block);
    return ok;
}

bool repack_rows(const struct repack_source *source, int32_t n_in, enum dtype dtype,
                 int32_t row_from, int32_t n_rows, void *to, struct pool *pool, struct err *err)
{
    CHECK(source->data == NULL || source->dtype == dtype || is_quantized(source));
    const struct layout_shape shape = { .layout = LAYOUT_ROWS, .n_out = n_rows, .n_in = n_in };
    struct job job = { .source = source,
                       .shape = &shape,
                       .dtype = dtype,
                       .to = to,
                       .row_base = row_from,
                       .n_rows = n_rows };
    return run(&job, pool, err);
}
