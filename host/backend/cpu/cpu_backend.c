/* cpu_backend.c - the CPU as a device: oracle, fallback, and what CI runs.
 *
 * Every op is composed from plain functions (ops.h, linear.h, attend.h, sampler.h), spread over the
 * pool by rows; so a fused op is by construction the sequence of its stages. Invariant: memory is
 * taken in open, reserve and prepare only. Called from one thread at a time. */
#include "host/backend/cpu/cpu_backend.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include "host/base/half.h"
#include "host/base/pool.h"
#include "host/backend/cpu/attend.h"
#include "host/backend/cpu/experts.h"
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/linear.h"
#include "host/backend/cpu/ops.h"

enum {
    BLOCKS_MAX = 64, /* reserve calls; loaders make a handful */
    /* Rotary tables kept: models have one or two kinds (local and global layers). */
    ANGLES_KEPT = 2,
    /* Floats of work from which waking the other threads (1-2 us) pays. */
    ALONE_FLOATS = 16384,
    /* From here a mapping asks for 2 MB pages: fewer TLB misses while streaming weights. */
    HUGE_PAGE_BYTES = 2 << 20,
};

struct block {
    void *memory;
    size_t bytes;
};
/* cos and sin of every row of a batch. */
struct angles {
    uint64_t serial;
    int32_t n_rows;
    const float *inv_freq;
    int32_t rotary_dim;
    float scale;
    int32_t *positions; /* [rows_max] what the table was made for */
    int32_t *variants;  /* [rows_max] likewise */
    float *table;       /* [rows_max][2][head_dim / 2]: cosines, then sines */
};
struct cpu {
    struct backend backend; /* first: a backend is a cpu */
    enum cpu_isa isa;
    bool amx; /* tile unit for many rows; same bits without */
    const struct ops_kernels *kernels;
    struct pool *pool;
    char name[96];
    struct block blocks[BLOCKS_MAX];
    int32_t n_blocks;
    size_t region_bytes[REGION_COUNT];
    bool prepared;
    struct backend_limits limits;
    struct linear_scratch *linear;
    struct attend_scratch *attend;
    struct experts_scratch *experts; /* NULL: a model without */
    struct sampler **samplers;       /* [n_threads] */
    float *normed;                   /* [max(rows_max, logit_rows_max)][cols_max] */
    float *product;                  /* [rows_max][cols_max] */
    float *heads;                    /* [n_threads][head_dim]: one head before it is narrowed */
    struct angles angles[ANGLES_KEPT];
    int32_t angles_oldest;
    bool failed;
    struct err failure;
};

static struct cpu *cpu_of(struct backend *be)
{
    return (struct cpu *)be;
}

void cpu_backend_fail(struct backend *be, const char *op, const char *format, ...)
{
    struct cpu *cpu = cpu_of(be);
    if (cpu->failed)
        return;
    char text[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)err_set(&cpu->failure, ERR_DEVICE, "cpu: %s: %s", op, text);
    cpu->failed = true;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static const char *const region_names[REGION_COUNT] = {
    [REGION_WEIGHTS] = "weights",
    [REGION_KV] = "keys and values",
    [REGION_ACTIVATIONS] = "activations",
};

static bool cpu_reserve(struct backend *be, enum region region, size_t bytes, void **memory,
                        struct err *err)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(region >= 0 && region < REGION_COUNT);
    *memory = NULL;
    struct sysinfo info = { 0 };
    (void)sysinfo(&info);
    const uint64_t total = (uint64_t)info.totalram * info.mem_unit;
    const uint64_t unused = (uint64_t)info.freeram * info.mem_unit;
    if (cpu->n_blocks == BLOCKS_MAX)
        return err_set(err, ERR_MEMORY, "cpu: more than %d reservations", BLOCKS_MAX);
    /* Pages are zero and come when they are touched; more than the machine has can never work. */
    void *p = MAP_FAILED;
    /* KV pages are a cache that fills up to its budget: as shared memory they show as RssShmem, so
     * that RssAnon stays what it should be, a number that returns to its base (decode at 2,048
     * tokens: no difference in speed). */
    const int sharing = region == REGION_KV ? MAP_SHARED : MAP_PRIVATE;
    if (bytes <= total)
        p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                 sharing | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, ERR_MEMORY,
                       "cpu: no memory for %s: asked for %zu bytes, the machine has %llu, %llu of "
                       "them free, %zu are reserved already",
                       region_names[region], bytes, (unsigned long long)total,
                       (unsigned long long)unused,
                       cpu->region_bytes[REGION_WEIGHTS] + cpu->region_bytes[REGION_KV] +
                           cpu->region_bytes[REGION_ACTIVATIONS]);
    if (bytes >= HUGE_PAGE_BYTES)
        (void)madvise(p, bytes, MADV_HUGEPAGE); /* a wish */
    cpu->blocks[cpu->n_blocks++] = (struct block){ p, bytes ? bytes : 1 };
    cpu->region_bytes[region] += bytes;
    *memory = p;
    return true;
}

/* rows * cols floats at a 64-byte border, untouched; NULL when that cannot be. */
static float *take_floats(int64_t rows, int64_t cols)
{
    size_t n, bytes;
    if (__builtin_mul_overflow((size_t)rows, (size_t)cols, &n) ||
        __builtin_mul_overflow(n, sizeof(float), &bytes) || bytes > SIZE_MAX - 64)
        return NULL;
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

static bool cpu_prepare(struct backend *be, const struct backend_limits *limits, struct err *err)
{
    struct cpu *cpu = cpu_of(be);
    const struct backend_limits *l = limits;
    CHECK(!cpu->prepared);
    CHECK(l->rows_max > 0 && l->logit_rows_max > 0 && l->cols_max > 0 && l->vocab > 0);
    CHECK(l->n_heads > 0 && l->head_dim > 0);
    cpu->prepared = true; /* what was taken is given back in close, also after a failure */
    cpu->limits = *limits;
    if (l->head_dim > ATTEND_HEAD_DIM_MAX)
        return err_set(err, ERR_UNSUPPORTED, "cpu: heads of %d features, at most %d", l->head_dim,
                       ATTEND_HEAD_DIM_MAX);
    const int32_t n_threads = pool_threads(cpu->pool);
    const int32_t rows = l->rows_max > l->logit_rows_max ? l->rows_max : l->logit_rows_max;
    if (!linear_scratch_open(&cpu->linear, cpu->isa, n_threads, rows, l->cols_max, err) ||
        !attend_scratch_open(&cpu->attend, cpu->isa, n_threads, l->head_dim, err) ||
        (l->n_experts > 0 && !experts_scratch_open(&cpu->experts, l, err)))
        return false;
    linear_scratch_set_amx(cpu->linear, cpu->amx);
    cpu->normed = take_floats(rows, l->cols_max);
    cpu->product = take_floats(l->rows_max, l->cols_max);
    cpu->heads = take_floats(n_threads, l->head_dim);
    cpu->samplers = calloc((size_t)n_threads, sizeof(struct sampler *));
    bool ok = cpu->normed && cpu->product && cpu->heads && cpu->samplers;
    for (int32_t i = 0; i < ANGLES_KEPT && ok; i++) {
        struct angles *a = &cpu->angles[i];
        a->table = take_floats(l->rows_max, 2 * (l->head_dim / 2) + 1);
        a->positions = calloc((size_t)l->rows_max, sizeof *a->positions);
        a->variants = calloc((size_t)l->rows_max, sizeof *a->variants);
        ok = a->table && a->positions && a->variants;
    }
    if (!ok)
        return err_set(err, ERR_MEMORY, "cpu: scratch for %d rows of %d columns: out of memory",
                       rows, l->cols_max);
    for (int32_t i = 0; i < n_threads; i++)
        if (!sampler_open(&cpu->samplers[i], l->vocab, err))
            return false;
    return true;
}

static void cpu_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    if (!cpu_of(be)->failed && bytes)
        memcpy(to, from, bytes);
}

/* ---- rows over threads ------------------------------------------------------------------------
 */

/* Rows [from, to) of the op in `arg`, on thread `part`. */
typedef void rows_fn(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to);
struct rows_job {
    struct cpu *cpu;
    rows_fn *fn;
    const void *arg;
    int32_t n_rows;
};
static void rows_part(void *arg, int32_t part, int32_t n_parts)
{
    const struct rows_job *job = arg;
    int64_t from, to;
    pool_share(job->n_rows, 1, part, n_parts, &from, &to);
    if (from < to)
        job->fn(job->cpu, job->arg, part, (int32_t)from, (int32_t)to);
}
/* row_floats: how much work a row is */
static void rows_run(struct cpu *cpu, rows_fn *fn, const void *arg, int32_t n_rows,
                     int64_t row_floats)
{
    struct rows_job job = { cpu, fn, arg, n_rows };
    if (n_rows == 1 || n_rows * row_floats < ALONE_FLOATS)
        rows_part(&job, 0, 1);
    else
        pool_run(cpu->pool, rows_part, &job);
}

/* ---- embed ------------------------------------------------------------------------------------
 */

static void embed_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    (void)cpu, (void)part;
    const struct embed_op *op = arg;
    for (int32_t r = from; r < to; r++) {
        const int32_t token = op->batch->tokens[r];
        CHECK(token >= 0 && token < op->table->n_out);
        float *y = view_row(op->y, r);
        linear_weight_row(&op->table->parts[0], token, y);
        if (op->scale != 1)
            ops_scale(y, y, op->y.n_cols, op->scale);
    }
}
static void cpu_embed(struct backend *be, const struct embed_op *op)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(op->table->n_parts == 1 && !op->table->parts[0].order && !op->table->parts[0].bias);
    CHECK(op->y.n_cols == op->table->n_in && op->y.n_rows >= op->batch->n_rows);
    if (!cpu->failed)
        rows_run(cpu, embed_rows, op, op->batch->n_rows, op->y.n_cols);
}

/* ---- linear -----------------------------------------------------------------------------------
 */

struct norm_job {
    const struct norm *norm;
    struct view x, y;
    const int32_t *rows; /* row i of y comes from row rows[i] of x; NULL: from row i */
};
static void norm_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    (void)cpu, (void)part;
    const struct norm_job *job = arg;
    for (int32_t r = from; r < to; r++) {
        const float *x = view_row(job->x, job->rows ? job->rows[r] : r);
        float *y = view_row(job->y, r);
        if (job->norm)
            ops_norm(job->norm, x, y);
        else
            memcpy(y, x, (size_t)job->y.n_cols * sizeof *y);
    }
}

static const float *angles_row(const struct angles *a, int32_t row, const float **sines)
{
    const int32_t half = a->rotary_dim / 2;
    const float *cosines = a->table + (int64_t)row * 2 * half;
    *sines = cosines + half;
    return cosines;
}
struct angles_job {
    struct angles *angles;
    const struct rope *rope;
};
static void angles_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    (void)cpu, (void)part;
    const struct angles_job *job = arg;
    const int32_t half = job->rope->rotary_dim / 2;
    for (int32_t r = from; r < to; r++) {
        float *cosines = job->angles->table + (int64_t)r * 2 * half;
        ops_rope_angles(job->rope, job->angles->variants[r], job->angles->positions[r], cosines,
                        cosines + half);
    }
}
static int32_t variant_of(const struct rope *rope, const struct batch *batch, int32_t row)
{
    if (rope->n_variants <= 1)
        return 0;
    const int32_t variant = batch->seqs[batch->row_seq[row]].rope_variant;
    CHECK(variant >= 0 && variant < rope->n_variants);
    return variant;
}
static bool angles_fit(const struct angles *a, const struct rope *rope, const struct batch *batch)
{
    if (a->inv_freq != rope->inv_freq || a->serial != batch->serial || a->n_rows != batch->n_rows ||
        a->rotary_dim != rope->rotary_dim || a->scale != rope->scale ||
        memcmp(a->positions, batch->positions, (size_t)batch->n_rows * sizeof *a->positions) != 0)
        return false;
    for (int32_t r = 0; rope->n_variants > 1 && r < batch->n_rows; r++)
        if (a->variants[r] != variant_of(rope, batch, r))
            return false;
    return true;
}
/* The table of this rope for this batch: made by the first layer, used by all. */
static const struct angles *angles_of(struct cpu *cpu, const struct rope *rope,
                                      const struct batch *batch)
{
    CHECK(rope->rotary_dim > 0 && rope->rotary_dim % 2 == 0);
    CHECK(rope->rotary_dim <= cpu->limits.head_dim);
    for (int32_t i = 0; i < ANGLES_KEPT; i++)
        if (angles_fit(&cpu->angles[i], rope, batch))
            return &cpu->angles[i];
    struct angles *a = &cpu->angles[cpu->angles_oldest];
    cpu->angles_oldest = (cpu->angles_oldest + 1) % ANGLES_KEPT;
    a->serial = batch->serial;
    a->n_rows = batch->n_rows;
    a->inv_freq = rope->inv_freq;
    a->rotary_dim = rope->rotary_dim;
    a->scale = rope->scale;
    memcpy(a->positions, batch->positions, (size_t)batch->n_rows * sizeof *a->positions);
    for (int32_t r = 0; r < batch->n_rows; r++)
        a->variants[r] = variant_of(rope, batch, r);
    const struct angles_job job = { a, rope };
    /* a sine costs about 20 times a sum */
    rows_run(cpu, angles_rows, &job, batch->n_rows, 20 * (int64_t)rope->rotary_dim);
    return a;
}

struct epilogue_job {
    const struct linear_op *op;
    struct view product;
    const struct angles *angles; /* of op->store->rope */
};
/* One head: norm, rotation. In place. */
static void head_finish(const struct norm *norm, const struct rope *rope,
                        const struct angles *angles, int32_t row, float *head)
{
    if (norm)
        ops_norm(norm, head, head);
    if (rope) {
        const float *sines, *cosines = angles_row(angles, row, &sines);
        ops_rope(rope, cosines, sines, head);
    }
}
static bool is_per_head(const struct norm *norm, const struct kv_store *st)
{
    return norm && norm->n == st->kv->head_dim;
}
/* Norms over all heads of q, of k. */
static void norm_whole(const struct kv_store *st, float *product)
{
    float *k = product + (int64_t)st->n_heads * st->kv->head_dim;
    if (st->q_norm && !is_per_head(st->q_norm, st))
        ops_norm(st->q_norm, product, product);
    if (st->k_norm && !is_per_head(st->k_norm, st))
        ops_norm(st->k_norm, k, k);
}
static void store_row(struct cpu *cpu, const struct epilogue_job *job, int32_t part, int32_t row,
                      const float *product)
{
    const struct linear_op *op = job->op;
    const struct kv_store *st = op->store;
    const struct kv_cache *kv = st->kv;
    const struct batch *batch = op->batch;
    const int32_t dim = kv->head_dim, position = batch->positions[row];
    const struct norm *q_norm = is_per_head(st->q_norm, st) ? st->q_norm : NULL;
    const struct norm *k_norm = is_per_head(st->k_norm, st) ? st->k_norm : NULL;
    float *y = view_row(op->y, row);
    memcpy(y, product, (size_t)(st->n_heads * dim) * sizeof *y);
    for (int32_t h = 0; h < st->n_heads; h++)
        head_finish(q_norm, st->rope, job->angles, row, y + (int64_t)h * dim);
    const int32_t page = batch_page(batch, st->group, batch->row_seq[row], position / PAGE_TOKENS);
    uint8_t *memory = kv->groups[st->group].memory;
    float *head = cpu->heads + (int64_t)part * cpu->limits.head_dim;
    const float *k = product + (int64_t)st->n_heads * dim;
    for (int32_t which = 0; which < 2; which++)
        for (int32_t h = 0; h < kv->n_kv_heads; h++) {
            memcpy(head, k + ((int64_t)which * kv->n_kv_heads + h) * dim,
                   (size_t)dim * sizeof *head);
            if (which == 0)
                head_finish(k_norm, st->rope, job->angles, row, head);
            ops_kv_put(memory + kv_offset(kv, st->group, st->layer, page, which, h),
                       position % PAGE_TOKENS, head, dim, kv->dtype);
        }
}
static void epilogue_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    const struct epilogue_job *job = arg;
    const struct linear_op *op = job->op;
    for (int32_t r = from; r < to; r++) {
        float *p = view_row(job->product, r), *y = view_row(op->y, r);
        if (op->post)
            ops_norm(op->post, p, p);
        if (op->store) {
            if (op->scale != 1)
                ops_scale(p, p, job->product.n_cols, op->scale);
            norm_whole(op->store, p);
            store_row(cpu, job, part, r, p);
            continue;
        }
        switch (op->epilogue) {
        case EPILOGUE_STORE:
            if (p != y || op->scale != 1)
                ops_scale(p, y, op->y.n_cols, op->scale);
            break;
        case EPILOGUE_ADD:
            ops_add(p, y, op->y.n_cols, op->scale);
            break;
        case EPILOGUE_ACT:
            cpu->kernels->act(op->gate, p, y, op->y.n_cols, op->scale);
            break;
        case EPILOGUE_GATE:
            cpu->kernels->gate(op->gate, p, p + op->y.n_cols, y, op->y.n_cols, op->scale);
            break;
        }
    }
}

static void check_linear(const struct cpu *cpu, const struct linear_op *op)
{
    const struct weight *w = op->w;
    CHECK(cpu->prepared && op->x.n_rows <= cpu->limits.rows_max);
    CHECK(w->n_in <= cpu->limits.cols_max && w->n_out <= cpu->limits.cols_max);
    CHECK(op->x.n_cols == w->n_in && op->y.n_rows == op->x.n_rows);
    CHECK(!op->pre || op->pre->n == w->n_in);
    CHECK(!op->post || op->post->n == w->n_out);
    const int32_t n_out = w->n_out;
    if (!op->store) {
        CHECK(op->y.n_cols == (op->epilogue == EPILOGUE_GATE ? n_out / 2 : n_out));
        return;
    }
    const struct kv_store *st = op->store;
    CHECK(op->epilogue == EPILOGUE_STORE && op->batch && op->batch->n_rows == op->x.n_rows);
    CHECK(st->group >= 0 && st->group < st->kv->n_groups && st->kv->groups[st->group].memory);
    CHECK(st->kv->head_dim <= cpu->limits.head_dim);
    CHECK(op->y.n_cols == st->n_heads * st->kv->head_dim);
    CHECK(n_out == (st->n_heads + 2 * st->kv->n_kv_heads) * st->kv->head_dim);
    const int32_t dim = st->kv->head_dim;
    CHECK(!st->q_norm || st->q_norm->n == dim || st->q_norm->n == st->n_heads * dim);
    CHECK(!st->k_norm || st->k_norm->n == dim || st->k_norm->n == st->kv->n_kv_heads * dim);
    CHECK(!st->rope || st->rope->rotary_dim <= st->kv->head_dim);
}
static void cpu_linear(struct backend *be, const struct linear_op *op)
{
    struct cpu *cpu = cpu_of(be);
    check_linear(cpu, op);
    const int32_t n = op->x.n_rows;
    if (cpu->failed || n == 0)
        return;
    struct view x = op->x;
    if (op->pre) {
        x = view_of(cpu->normed, DTYPE_F32, n, op->w->n_in);
        const struct norm_job job = { op->pre, op->x, x, NULL };
        rows_run(cpu, norm_rows, &job, n, op->w->n_in);
    }
    struct epilogue_job job = { .op = op };
    /* The product goes straight to y when nothing stands between; y may then not be x. */
    const bool direct = !op->store && op->epilogue == EPILOGUE_STORE && op->y.data != x.data;
    job.product = direct ? op->y : view_of(cpu->product, DTYPE_F32, n, op->w->n_out);
    linear_product(cpu->pool, cpu->linear, op->w, x, job.product);
    if (direct && !op->post && op->scale == 1)
        return;
    if (op->store && op->store->rope)
        job.angles = angles_of(cpu, op->store->rope, op->batch);
    rows_run(cpu, epilogue_rows, &job, n, op->w->n_out);
}

/* ---- experts ----------------------------------------------------------------------------------
 */

static void route_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    (void)cpu, (void)part;
    const struct route_op *op = arg;
    for (int32_t r = from; r < to; r++)
        experts_route_row(op->kind, view_row(op->logits, r), op->logits.n_cols, op->n_chosen,
                          op->ids + (int64_t)r * op->n_chosen,
                          op->weights + (int64_t)r * op->n_chosen);
}
static void cpu_route(struct backend *be, const struct route_op *op)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(cpu->prepared && op->n_chosen >= 1 && op->n_chosen <= op->logits.n_cols);
    if (!cpu->failed && op->logits.n_rows > 0)
        rows_run(cpu, route_rows, op, op->logits.n_rows,
                 (int64_t)op->logits.n_cols * (op->n_chosen + 1));
}
static void cpu_linear_experts(struct backend *be, const struct linear_experts_op *op)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(cpu->prepared && cpu->experts);
    if (cpu->failed || op->x.n_rows == 0)
        return;
    struct view x = op->x;
    if (op->pre) {
        CHECK(op->epilogue == EPILOGUE_GATE && op->pre->n == x.n_cols);
        CHECK(x.n_rows <= cpu->limits.rows_max && x.n_cols <= cpu->limits.cols_max);
        x = view_of(cpu->normed, DTYPE_F32, op->x.n_rows, op->x.n_cols);
        const struct norm_job job = { op->pre, op->x, x, NULL };
        rows_run(cpu, norm_rows, &job, x.n_rows, x.n_cols);
    }
    experts_run(cpu->pool, cpu->experts, cpu->linear, cpu->kernels, op, x);
}

/* ---- attend, logits, sample -------------------------------------------------------------------
 */

static void cpu_attend(struct backend *be, const struct attend_op *op)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(cpu->prepared);
    if (!cpu->failed)
        attend_run(cpu->pool, cpu->attend, op);
}

static void logits_rows(struct cpu *cpu, const void *arg, int32_t part, int32_t from, int32_t to)
{
    (void)part;
    const struct logits_op *op = arg;
    for (int32_t r = from; r < to; r++) {
        float *y = view_row(op->logits, r);
        if (op->soft_cap > 0)
            cpu->kernels->soft_cap(y, op->logits.n_cols, op->scale, op->soft_cap);
        else
            ops_scale(y, y, op->logits.n_cols, op->scale);
    }
}
static void cpu_logits(struct backend *be, const struct logits_op *op)
{
    struct cpu *cpu = cpu_of(be);
    const int32_t n = op->batch->n_logit_rows;
    CHECK(cpu->prepared && n <= cpu->limits.logit_rows_max && n <= op->logits.n_rows);
    CHECK(op->head->n_in <= cpu->limits.cols_max && op->x.n_cols == op->head->n_in);
    CHECK(op->logits.n_cols == op->head->n_out);
    CHECK(!op->norm || op->norm->n == op->head->n_in);
    if (cpu->failed || n == 0)
        return;
    const struct view x = view_of(cpu->normed, DTYPE_F32, n, op->head->n_in);
    const struct norm_job job = { op->norm, op->x, x, op->batch->logit_rows };
    rows_run(cpu, norm_rows, &job, n, op->head->n_in);
    linear_product(cpu->pool, cpu->linear, op->head, x, view_head(op->logits, n));
    if (op->scale != 1 || op->soft_cap > 0)
        rows_run(cpu, logits_rows, op, n, op->logits.n_cols);
}

/* Rows cost very different amounts (greedy, or top-p over the whole vocabulary): threads take the
 * next row. */
struct sample_job {
    struct cpu *cpu;
    const struct sample_op *op;
    _Atomic int32_t next;
};
static void sample_part(void *arg, int32_t part, int32_t n_parts)
{
    (void)n_parts;
    struct sample_job *job = arg;
    for (;;) {
        const int32_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (i >= job->op->n_rows)
            return;
        const struct sample_row *row = &job->op->rows[i];
        sampler_row(job->cpu->samplers[part], view_row(job->op->logits, row->logit_row), row,
                    &job->op->outs[i]);
    }
}
static bool cpu_sample(struct backend *be, const struct sample_op *op)
{
    struct cpu *cpu = cpu_of(be);
    CHECK(cpu->prepared && op->logits.n_cols == cpu->limits.vocab);
    if (cpu->failed || op->n_rows == 0)
        return true;
    struct sample_job job = { .cpu = cpu, .op = op };
    if (op->n_rows > 1)
        pool_run(cpu->pool, sample_part, &job);
    else
        sample_part(&job, 0, 1);
    return true;
}

/* ---- open, finish, close ----------------------------------------------------------------------
 */

static bool cpu_finish(struct backend *be, struct err *err)
{
    const struct cpu *cpu = cpu_of(be);
    if (cpu->failed)
        *err = cpu->failure;
    return !cpu->failed;
}

static void cpu_close(struct backend *be)
{
    struct cpu *cpu = cpu_of(be);
    if (!cpu)
        return;
    for (int32_t i = 0; cpu->samplers && i < pool_threads(cpu->pool); i++)
        sampler_close(cpu->samplers[i]);
    free(cpu->samplers);
    for (int32_t i = 0; i < ANGLES_KEPT; i++) {
        free(cpu->angles[i].table);
        free(cpu->angles[i].positions);
        free(cpu->angles[i].variants);
    }
    free(cpu->normed);
    free(cpu->product);
    free(cpu->heads);
    attend_scratch_close(cpu->attend);
    experts_scratch_close(cpu->experts);
    linear_scratch_close(cpu->linear);
    for (int32_t i = 0; i < cpu->n_blocks; i++)
        (void)munmap(cpu->blocks[i].memory, cpu->blocks[i].bytes);
    if (cpu->pool)
        pool_close(cpu->pool);
    free(cpu);
}

static const struct backend_ops cpu_ops = {
    .reserve = cpu_reserve,
    .prepare = cpu_prepare,
    .upload = cpu_copy,
    .download = cpu_copy,
    .embed = cpu_embed,
    .linear = cpu_linear,
    .attend = cpu_attend,
    .route = cpu_route,
    .linear_experts = cpu_linear_experts,
    .logits = cpu_logits,
    .sample = cpu_sample,
    .finish = cpu_finish,
    .close = cpu_close,
};

bool cpu_backend_open(struct backend **be, const struct cpu_options *options, struct err *err)
{
    *be = NULL;
    if (!cpu_isa_available(options->isa))
        return err_set(err, ERR_UNSUPPORTED, "cpu: this machine has no %s",
                       cpu_isa_name(options->isa));
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return err_set(err, ERR_MEMORY, "cpu: out of memory");
    if (!pool_open(&cpu->pool, options->n_threads, err))
        goto fail;
    cpu->isa = cpu_isa_resolve(options->isa);
    cpu->kernels = ops_kernels_of(cpu->isa);
    cpu->amx = options->isa == CPU_ISA_AUTO && cpu->isa == CPU_ISA_AVX512 && cpu_amx_available();
    (void)snprintf(cpu->name, sizeof cpu->name, "cpu %s%s, %d thread%s, %s", cpu_isa_name(cpu->isa),
                   cpu->amx ? " + amx" : "", pool_threads(cpu->pool),
                   pool_threads(cpu->pool) == 1 ? "" : "s",
                   options->exact ? "exact" : "int8 activations");
    cpu->backend = (struct backend){
        .ops = &cpu_ops,
        .name = cpu->name,
        .host_memory = true,
        .steps_max = 1,
        .exact = options->exact,
        .activation = DTYPE_F32,
        .kv_dtype = options->exact ? DTYPE_F32 : DTYPE_BF16,
        .pool = cpu->pool,
    };
    *be = &cpu->backend;
    return true;
fail:
    cpu_close(&cpu->backend);
    return false;
}
