/* measure.cu - how long each kernel takes for each matrix of the model, by rows: the table that
 * choose.cu asks first.
 *
 * Measured when a model is opened, on its own matrices in turn, so that the large ones come from
 * memory and not from the cache, and kept in a file: a start that finds all it needs there measures
 * nothing. A shape and row count takes a millisecond a kernel. The kernel of the rule stays unless
 * another is 5 % quicker: two starts of one machine should choose alike. The file is text, one line
 * a shape and row count:
 *
 *     nibble kernels 1
 *     NVIDIA H200, sm_90, 132 multiprocessors, driver 13000, nibble 0.1.0
 *     4 128 0 0 0 4096 4096 64 wgmma 12.25 mma 20.5
 *
 * bits, group, zeros, fractions, table; rows and columns of the matrix; rows of x; microseconds.
 * What does not read like that, or speaks of another machine, is measured again and replaced. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cuda/state.h"
#include "host/base/buf.h"
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/log.h"

enum {
    SHAPES_MAX = 64, /* beyond: by rule */
    MATRICES_MAX = 16,
    BUCKETS = 9, /* 16, 32, .. 4096 rows; below 9 rows memory alone counts, and the rule is right */
    ROWS_FIRST = 16,
    ROUNDS = 3,
    ROUND_US = 300,
    LAUNCHES_MAX = 50,
    FILE_MAX = 1 << 18,
    LINE_MAX_BYTES = 512,
};
static const float STAYS = 0.95f; /* of the rule's time: another kernel has to be below */
static const char *const names[GEMM_KERNELS] = { "small", "mma", "wgmma", "dense", "s8" };

struct times {
    float us[GEMM_KERNELS]; /* 0: not measured */
    bool known;
};
struct shape {
    struct f64_kind kind; /* table: NULL or not */
    int32_t n_out, n_in;
    struct times times[BUCKETS];
    enum gemm_kernel best[BUCKETS];            /* settled for this process; GEMM_KERNELS: none */
    struct f64_matrix *matrices[MATRICES_MAX]; /* of the model, while it is tuned */
    int32_t n_matrices;
};
struct measured {
    struct shape shapes[SHAPES_MAX];
    int32_t n_shapes;
};

static int32_t bucket_rows(int32_t bucket)
{
    return ROWS_FIRST << bucket;
}
static int32_t bucket_of(int32_t rows)
{
    int32_t bucket = 0;
    while (bucket < BUCKETS - 1 && bucket_rows(bucket) < rows)
        bucket++;
    return bucket;
}

static bool same_shape(const struct shape *shape, const struct f64_kind *kind, int32_t n_out,
                       int32_t n_in)
{
    const struct f64_kind *k = &shape->kind;
    return shape->n_out == n_out && shape->n_in == n_in && k->bits == kind->bits &&
           k->group == kind->group && k->zeros == kind->zeros && k->fractions == kind->fractions &&
           (k->table == NULL) == (kind->table == NULL);
}
static struct shape *find_shape(struct measured *m, const struct f64_kind *kind, int32_t n_out,
                                int32_t n_in)
{
    for (int32_t i = 0; i < m->n_shapes; i++)
        if (same_shape(&m->shapes[i], kind, n_out, n_in))
            return &m->shapes[i];
    return NULL;
}
static struct shape *add_shape(struct measured *m, const struct f64_kind *kind, int32_t n_out,
                               int32_t n_in)
{
    struct shape *shape = find_shape(m, kind, n_out, n_in);
    if (shape != NULL || m->n_shapes == SHAPES_MAX)
        return shape;
    shape = &m->shapes[m->n_shapes++];
    shape->kind = *kind;
    shape->n_out = n_out;
    shape->n_in = n_in;
    for (enum gemm_kernel &best : shape->best)
        best = GEMM_KERNELS;
    return shape;
}

enum gemm_kernel measured_kernel(const struct cuda *cuda, const struct gemm_op *op)
{
    if (cuda->measured == NULL || op->rows <= ROWS_FIRST / 2)
        return GEMM_KERNELS;
    const struct shape *shape = find_shape(cuda->measured, &op->w.kind, op->w.n_out, op->w.n_in);
    return shape == NULL ? GEMM_KERNELS : shape->best[bucket_of(op->rows)];
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static void describe(const struct cuda *cuda, char *text, size_t size)
{
    cudaDeviceProp p;
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    memset(&p, 0, sizeof p);
    (void)cudaGetDeviceProperties(&p, cuda->options.device);
    snprintf(text, size, "%.80s, sm_%d, %d multiprocessors, driver %d, nibble %s", p.name,
             cuda->info.arch, cuda->info.n_sms, driver,
             cuda->options.version != NULL ? cuda->options.version : "-");
}

/* "name us name us ..." */
static bool read_times(const char *at, struct times *times)
{
    memset(times, 0, sizeof *times);
    while (*at != 0) {
        char name[16];
        float us;
        int used = 0, kernel = 0;
        if (sscanf(at, " %15s %f%n", name, &us, &used) != 2 || !(us > 0 && us < 1e9f))
            return false;
        while (kernel < GEMM_KERNELS && strcmp(names[kernel], name) != 0)
            kernel++;
        if (kernel == GEMM_KERNELS || times->us[kernel] > 0)
            return false;
        times->us[kernel] = us;
        times->known = true;
        at += used;
    }
    return times->known;
}
static bool read_line(struct measured *m, const char *line)
{
    int bits, group, zeros, fractions, table, n_out, n_in, rows, used = 0;
    if (sscanf(line, "%d %d %d %d %d %d %d %d%n", &bits, &group, &zeros, &fractions, &table, &n_out,
               &n_in, &rows, &used) != 8)
        return false;
    const bool flags = (zeros | fractions | table | 1) == 1;
    if (!flags || (bits != 4 && bits != 8) || (group != 32 && group != 64 && group != 128) ||
        n_out < 1 || n_in < 1 || rows < ROWS_FIRST || bucket_rows(bucket_of(rows)) != rows)
        return false;
    static const uint16_t some[16] = { 0 };
    struct f64_kind kind;
    memset(&kind, 0, sizeof kind);
    kind.bits = bits;
    kind.group = group;
    kind.zeros = zeros != 0;
    kind.fractions = fractions != 0;
    kind.table = table != 0 ? some : NULL;
    struct shape *shape = add_shape(m, &kind, n_out, n_in);
    return shape == NULL || read_times(line + used, &shape->times[bucket_of(rows)]);
}
/* False, and nothing in `m`, when the file is not this machine's table. */
static bool read_file(const struct cuda *cuda, const char *path, struct measured *m)
{
    char *bytes, machine[200];
    size_t size;
    struct err err;
    if (!file_read(path, FILE_MAX, &bytes, &size, &err)) {
        if (err.code != ERR_NOT_FOUND)
            log_warn("kernels", "file=%s reason=\"%s\"", path, err.text);
        return false;
    }
    describe(cuda, machine, sizeof machine);
    const char *reason = NULL;
    int32_t number = 0;
    char *rest = NULL;
    for (char *line = strtok_r(bytes, "\n", &rest); line != NULL && reason == NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        number++;
        if (number == 1 && strcmp(line, "nibble kernels 1") != 0)
            reason = "not a table of kernel times";
        else if (number == 2 && strcmp(line, machine) != 0)
            reason = "of another machine, driver or version";
        else if (number > 2 && (strlen(line) >= LINE_MAX_BYTES || !read_line(m, line)))
            reason = "cannot be read";
    }
    free(bytes);
    if (reason == NULL)
        return number >= 2;
    log_warn("kernels", "file=%s line=%d reason=\"%s\": measured again", path, (int)number, reason);
    memset(m, 0, sizeof *m);
    return false;
}

static void print_shape(const struct shape *shape, struct buf *out)
{
    for (int32_t b = 0; b < BUCKETS; b++) {
        const struct times *times = &shape->times[b];
        if (!times->known)
            continue;
        const struct f64_kind *k = &shape->kind;
        buf_printf(out, "%d %d %d %d %d %d %d %d", (int)k->bits, (int)k->group, k->zeros,
                   k->fractions, k->table != NULL, (int)shape->n_out, (int)shape->n_in,
                   (int)bucket_rows(b));
        for (int i = 0; i < GEMM_KERNELS; i++)
            if (times->us[i] > 0)
                buf_printf(out, " %s %.2f", names[i], (double)times->us[i]);
        buf_putc(out, '\n');
    }
}
/* The folders of `path`, where they are missing; what cannot be made, fopen names. */
static void make_folders(char *path)
{
    for (char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        (void)mkdir(path, 0700);
        *at = '/';
    }
}
/* Whole or not at all: readers of other processes see the old file or the new one. */
static void write_file(const struct cuda *cuda, const char *path, const struct measured *m)
{
    char machine[200], beside[4096];
    struct buf out;
    describe(cuda, machine, sizeof machine);
    buf_init(&out, FILE_MAX);
    buf_printf(&out, "nibble kernels 1\n%s\n", machine);
    for (int32_t i = 0; i < m->n_shapes; i++)
        print_shape(&m->shapes[i], &out);
    const int length = snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid());
    const bool fits = length > 0 && length < (int)sizeof beside && !out.failed;
    if (fits)
        make_folders(beside);
    FILE *file = fits ? fopen(beside, "we") : NULL;
    bool good = file != NULL && fwrite(out.bytes, 1, out.length, file) == out.length;
    good = file != NULL && fclose(file) == 0 && good && rename(beside, path) == 0;
    if (!good) {
        log_warn("kernels", "file=%s reason=\"cannot be written: the next start measures again\"",
                 path);
        if (file != NULL)
            (void)unlink(beside);
    }
    buf_clear(&out);
}

/* ---- measuring --------------------------------------------------------------------------------
 */

static void note_matrix(struct measured *m, const struct f64_matrix *matrix)
{
    struct shape *shape = add_shape(m, &matrix->kind, matrix->n_out, matrix->n_in);
    if (shape == NULL || shape->n_matrices == MATRICES_MAX)
        return;
    struct f64_matrix *copy = (struct f64_matrix *)malloc(sizeof *copy);
    if (copy == NULL)
        return; /* one less to take turns */
    *copy = *matrix;
    shape->matrices[shape->n_matrices++] = copy;
}
/* As ops.cu multiplies: all parts at once where they agree, or one by one (q/k/v of many rows). */
static void note_weight(struct measured *m, const struct weight *w)
{
    struct f64_matrix matrix;
    if (cuda_matrix(w, 0, w->n_parts, &matrix))
        note_matrix(m, &matrix);
    for (int32_t i = 0; i < w->n_parts && w->n_parts > 1; i++)
        if (cuda_matrix(w, i, i + 1, &matrix))
            note_matrix(m, &matrix);
}

struct clock_events {
    cudaEvent_t from, to;
};
static void op_of(const struct cuda *cuda, const struct shape *shape, int32_t rows, int32_t turn,
                  struct gemm_op *op)
{
    memset(op, 0, sizeof *op);
    op->w = *shape->matrices[turn % shape->n_matrices];
    op->rows = rows;
    op->x = cuda->normed;
    op->x_stride = shape->n_in;
    op->out.y = cuda->product;
    op->out.stride = shape->n_out;
    op->out.dtype = DTYPE_F32;
    op->out.scale = 1;
    op->partial_bytes = cuda->partial_bytes;
}
/* The quickest of a few rounds of launches, in microseconds a launch; 0: the device failed. */
static float time_kernel(struct cuda *cuda, const struct clock_events *events,
                         const struct shape *shape, int32_t rows, enum gemm_kernel kernel)
{
    float best = 0;
    struct gemm_op op;
    op_of(cuda, shape, rows, 0, &op);
    if (!cuda_gemm(cuda, &op, kernel, "measuring")) /* code and cache are warm from here on */
        return 0;
    int32_t n = 1, turn = 1;
    for (int32_t round = 0; round < ROUNDS; round++) {
        float ms = 0;
        bool good =
            cuda_ok(cuda, cudaEventRecord(events->from, cuda->stream), "event", "measuring");
        for (int32_t i = 0; i < n && good; i++) {
            op_of(cuda, shape, rows, turn++, &op);
            good = cuda_gemm(cuda, &op, kernel, "measuring");
        }
        if (!good ||
            !cuda_ok(cuda, cudaEventRecord(events->to, cuda->stream), "event", "measuring") ||
            !cuda_ok(cuda, cudaEventSynchronize(events->to), "wait", "measuring") ||
            !cuda_ok(cuda, cudaEventElapsedTime(&ms, events->from, events->to), "event",
                     "measuring"))
            return 0;
        const float us = ms * 1e3f / (float)n > 0.01f ? ms * 1e3f / (float)n : 0.01f;
        best = best == 0 || us < best ? us : best;
        n = us * LAUNCHES_MAX < ROUND_US ? LAUNCHES_MAX : us > ROUND_US ? 1 : (int)(ROUND_US / us);
    }
    return best;
}
static void measure(struct cuda *cuda, const struct clock_events *events, struct shape *shape,
                    int32_t bucket)
{
    static const enum gemm_kernel kernels[] = { GEMM_SMALL, GEMM_WGMMA, GEMM_MMA, GEMM_DENSE };
    struct times *times = &shape->times[bucket];
    struct gemm_op op;
    op_of(cuda, shape, bucket_rows(bucket), 0, &op);
    for (const enum gemm_kernel kernel : kernels) {
        if (!choose_takes(cuda, kernel, &op))
            continue;
        times->us[kernel] = time_kernel(cuda, events, shape, op.rows, kernel);
        if (times->us[kernel] == 0)
            return;
        times->known = true;
    }
}

/* The rule's kernel, or the quickest where that is clearly quicker. */
static void settle(const struct cuda *cuda, struct shape *shape, int32_t bucket)
{
    const struct times *times = &shape->times[bucket];
    struct gemm_op op;
    op_of(cuda, shape, bucket_rows(bucket), 0, &op);
    enum gemm_kernel best = choose_by_rule(cuda, &op);
    const float stays = times->us[best] > 0 ? times->us[best] * STAYS : 1e30f;
    float least = stays;
    for (int i = 0; i < GEMM_KERNELS; i++)
        if (times->us[i] > 0 && times->us[i] < least &&
            choose_takes(cuda, (enum gemm_kernel)i, &op)) {
            best = (enum gemm_kernel)i;
            least = times->us[i];
        }
    shape->best[bucket] = best;
}

/* "16=small 32=small 64=wgmma ..." */
static void log_shape(const struct shape *shape)
{
    char text[BUCKETS * 16] = "";
    size_t at = 0;
    for (int32_t b = 0; b < BUCKETS && shape->best[b] != GEMM_KERNELS; b++)
        at += (size_t)snprintf(text + at, sizeof text - at, " %d=%s", (int)bucket_rows(b),
                               names[shape->best[b]]);
    log_debug("kernels", "matrix=%dx%d bits=%d group=%d rows:%s", (int)shape->n_out,
              (int)shape->n_in, (int)shape->kind.bits, (int)shape->kind.group, text);
}

/* Every shape of the model at every row count that a step can have. Returns how many were new. */
static int32_t measure_all(struct cuda *cuda, struct measured *m)
{
    struct clock_events events = { NULL, NULL };
    int32_t n_new = 0;
    int64_t counts[PATHS];
    memcpy(counts, cuda->counts, sizeof counts); /* of the model's steps, not of these */
    const size_t x_bytes = (size_t)cuda->limits.rows_max *
                           (size_t)f64_pad(cuda->limits.cols_max, F64_UNIT_COLS) * sizeof(uint16_t);
    const int64_t product_max =
        (int64_t)cuda->limits.rows_max * f64_pad(cuda->limits.cols_max, F64_UNIT_COLS);
    /* 0x3c3c: 0.0115 in bf16 */
    bool good = cuda_ok(cuda, cudaEventCreate(&events.from), "event", "measuring") &&
                cuda_ok(cuda, cudaEventCreate(&events.to), "event", "measuring") &&
                cuda_ok(cuda, cudaMemsetAsync(cuda->normed, 0x3c, x_bytes, cuda->stream), "memset",
                        "measuring");
    for (int32_t i = 0; i < m->n_shapes && good; i++)
        for (int32_t b = 0; b < BUCKETS && good; b++) {
            struct shape *shape = &m->shapes[i];
            if (shape->n_matrices == 0 || bucket_rows(b) > cuda->limits.rows_max ||
                (int64_t)bucket_rows(b) * shape->n_out > product_max)
                continue; /* the head's product has a place of its own, for few rows */
            if (!shape->times[b].known) {
                measure(cuda, &events, shape, b);
                n_new++;
            }
            good = !cuda->failed;
            settle(cuda, shape, b);
        }
    if (events.from != NULL)
        cudaEventDestroy(events.from);
    if (events.to != NULL)
        cudaEventDestroy(events.to);
    memcpy(cuda->counts, counts, sizeof counts);
    return n_new;
}

void cuda_tune(struct backend *be, const struct weight *const *weights, int32_t n_weights)
{
    struct cuda *cuda = cuda_of(be);
    const char *path = cuda->kernels_file;
    CHECK(cuda->prepared && cuda->measured == NULL);
    if (path == NULL || cuda->options.invariant || cuda->failed)
        return;
    const uint64_t from_ns = clock_ns();
    struct measured *m = (struct measured *)calloc(1, sizeof *m);
    if (m == NULL)
        return; /* by rule */
    const bool found = path[0] != 0 && read_file(cuda, path, m);
    for (int32_t i = 0; i < n_weights; i++)
        note_weight(m, weights[i]);
    const int32_t n_new = measure_all(cuda, m);
    for (int32_t i = 0; i < m->n_shapes; i++)
        while (m->shapes[i].n_matrices > 0)
            free(m->shapes[i].matrices[--m->shapes[i].n_matrices]);
    if (cuda->failed) {
        free(m);
        return; /* finish says what happened */
    }
    if (n_new > 0 && path[0] != 0)
        write_file(cuda, path, m);
    cuda->measured = m;
    for (int32_t i = 0; i < m->n_shapes; i++)
        log_shape(&m->shapes[i]);
    log_info("kernels", "shapes=%d measured=%d ms=%.0f file=\"%s\" found=%s", (int)m->n_shapes,
             (int)n_new, (double)(clock_ns() - from_ns) * 1e-6, path, found ? "yes" : "no");
}
