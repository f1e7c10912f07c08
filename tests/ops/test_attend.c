/* Attention of the CPU against the definition in double precision, and against itself: for every
 * cut, company, thread count and instruction set the same bits. */
#include "tests/support/support.h"
#include "tests/ops/plain.h"
#include "host/base/pool.h"
#include "host/base/rng.h"
#include "host/backend/cpu/attend.h"
#include "host/backend/cpu/isa.h"

struct row {
    const char *name;
    int32_t head_dim, n_heads, n_kv_heads, n_tokens, window;
    float soft_cap;
    bool sinks;
    enum dtype dtype;
    float size; /* of queries and keys: 1 soft, 4 peaked */
};
static const struct row rows[] = {
    { "one head, one page", 32, 1, 1, 16, 0, 0, false, DTYPE_F32, 1 },
    { "one token", 64, 4, 2, 1, 0, 0, false, DTYPE_F32, 1 },
    { "llama 1B heads, floats", 64, 8, 2, 75, 0, 0, false, DTYPE_F32, 1 },
    { "llama 1B heads, bf16", 64, 8, 2, 75, 0, 0, false, DTYPE_BF16, 1 },
    { "fp16 pages", 64, 4, 2, 50, 0, 0, false, DTYPE_F16, 1 },
    { "a group of 7", 64, 7, 1, 75, 0, 0, false, DTYPE_BF16, 1 },
    { "a group of 8 of 128 features", 128, 8, 1, 75, 0, 0, false, DTYPE_BF16, 4 },
    { "80 features", 80, 6, 2, 75, 0, 0, false, DTYPE_BF16, 1 },
    { "40 features: not whole vectors", 40, 3, 1, 50, 0, 0, false, DTYPE_BF16, 1 },
    { "20 features, floats", 20, 6, 3, 50, 0, 0, false, DTYPE_F32, 1 },
    { "window of 1: only itself", 32, 2, 1, 40, 1, 0, false, DTYPE_F32, 1 },
    { "window inside a page", 64, 4, 1, 75, 5, 0, false, DTYPE_BF16, 1 },
    { "window of a page", 64, 4, 4, 75, 16, 0, false, DTYPE_F32, 1 },
    { "window over pages", 64, 4, 1, 99, 37, 0, false, DTYPE_BF16, 4 },
    { "window longer than the text", 64, 4, 2, 40, 4096, 0, false, DTYPE_F32, 1 },
    { "soft cap", 64, 4, 2, 60, 0, 5, false, DTYPE_F32, 4 },
    { "soft cap that hardly bends", 64, 4, 2, 60, 0, 50, false, DTYPE_F32, 1 },
    { "sinks", 64, 8, 2, 60, 0, 0, true, DTYPE_BF16, 1 },
    { "sinks, window and cap", 64, 8, 2, 75, 20, 10, true, DTYPE_F32, 4 },
    { "more heads than a block", 16, 70, 1, 20, 0, 0, true, DTYPE_F32, 1 },
    { "int8 pages", 64, 8, 2, 75, 0, 0, false, DTYPE_I8, 1 },
    { "int8, a group of 7", 128, 7, 1, 75, 0, 0, false, DTYPE_I8, 4 },
    { "int8, a group of 16", 96, 16, 1, 40, 0, 0, false, DTYPE_I8, 1 },
    { "int8, 40 features: not whole vectors", 40, 3, 1, 50, 0, 0, false, DTYPE_I8, 1 },
    { "int8, 20 features", 20, 6, 3, 50, 0, 0, false, DTYPE_I8, 1 },
    { "int8, window over pages", 80, 4, 1, 99, 37, 0, false, DTYPE_I8, 4 },
    { "int8, sinks, window and cap", 64, 8, 2, 75, 20, 10, true, DTYPE_I8, 4 },
};

static float noise(uint64_t stream, int64_t i, float size)
{
    /* sum of four uniforms: near normal */
    double x = -2;
    for (uint64_t k = 0; k < 4; k++)
        x += rng_uniform(7, stream * 8 + k, (uint64_t)i);
    return (float)(x * 1.7) * size;
}

/* Two sequences of n_tokens positions whose pages are mixed; what no position owns is NaN. */
struct world {
    const struct row *row;
    struct kv_cache kv;
    int32_t n_pages; /* of a sequence */
    int32_t *table;  /* [2][n_pages] */
    float *q, *y;    /* [2][n_tokens][cols] */
    float sinks[128];
    int32_t cols;
    int32_t tokens[512], positions[512], row_seq[512];
    struct batch_seq seqs[2];
    struct batch batch;
};
/* A token's features into its block of a page, as kv_layout.h draws it. */
static void put_head(const struct world *w, uint8_t *block, int32_t token, const float *head)
{
    const size_t dim = (size_t)w->row->head_dim, at = (size_t)token * dim;
    if (w->row->dtype != DTYPE_I8) {
        half_narrow(block + at * dtype_bytes(w->row->dtype), head, w->row->dtype, dim);
        return;
    }
    float scale = 0;
    for (size_t d = 0; d < dim; d++)
        scale = fabsf(head[d]) / 127 > scale ? fabsf(head[d]) / 127 : scale;
    for (size_t d = 0; d < dim; d++)
        block[at + d] = (uint8_t)(int8_t)lrintf(head[d] / scale);
    memcpy(block + 16 * dim + (size_t)token * sizeof scale, &scale, sizeof scale);
}
static void world_make(struct world *w, const struct row *row)
{
    *w = (struct world){ .row = row, .n_pages = kv_pages_for(row->n_tokens) };
    const int32_t n_pages = 2 * w->n_pages + 1, layers = 2;
    w->cols = row->n_heads * row->head_dim;
    w->kv = (struct kv_cache){
        .n_groups = 1, .n_kv_heads = row->n_kv_heads, .head_dim = row->head_dim, .dtype = row->dtype
    };
    w->kv.groups[0] = (struct kv_group){ row->window, layers, n_pages, NULL };
    const size_t page = kv_page_bytes(&w->kv, 0);
    w->kv.groups[0].memory = malloc(page * (size_t)n_pages);
    memset(w->kv.groups[0].memory, 0xff, page * (size_t)n_pages); /* NaN in all types */
    w->table = malloc(sizeof(int32_t) * 2 * (size_t)w->n_pages);
    for (int32_t i = 0; i < w->n_pages; i++) {
        w->table[i] = n_pages - 1 - 2 * i;
        w->table[w->n_pages + i] = n_pages - 2 - 2 * i;
    }
    for (int32_t seq = 0; seq < 2; seq++)
        for (int32_t p = 0; p < row->n_tokens; p++)
            for (int32_t which = 0; which < 2; which++)
                for (int32_t h = 0; h < row->n_kv_heads; h++) {
                    float head[128];
                    for (int32_t d = 0; d < row->head_dim; d++)
                        head[d] = noise((uint64_t)(1 + which), ((seq * 512 + p) * 8 + h) * 128 + d,
                                        row->size);
                    const size_t at =
                        kv_offset(&w->kv, 0, 1, w->table[seq * w->n_pages + p / 16], which, h);
                    put_head(w, (uint8_t *)w->kv.groups[0].memory + at, p % 16, head);
                }
    const size_t n = 2 * (size_t)(row->n_tokens * w->cols);
    w->q = malloc(n * sizeof(float));
    w->y = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        w->q[i] = noise(5, (int64_t)i, row->size);
    for (int32_t i = 0; i < 128; i++)
        w->sinks[i] = noise(6, i, 3);
}
static void world_clear(struct world *w)
{
    free(w->kv.groups[0].memory);
    free(w->table);
    free(w->q);
    free(w->y);
}
static void world_seq(struct world *w, int32_t seq, int32_t from, int32_t n)
{
    struct batch *b = &w->batch;
    w->seqs[b->n_seqs] = (struct batch_seq){ seq, b->n_rows, n, from, 0 };
    for (int32_t i = 0; i < n; i++) {
        w->positions[b->n_rows + i] = from + i;
        w->row_seq[b->n_rows + i] = b->n_seqs;
    }
    b->n_rows += n;
    b->n_seqs++;
}
static void world_batch(struct world *w)
{
    w->batch = (struct batch){ .tokens = w->tokens,
                               .positions = w->positions,
                               .row_seq = w->row_seq,
                               .seqs = w->seqs,
                               .n_groups = 1,
                               .pages = { w->table },
                               .pages_stride = { w->n_pages } };
}
static struct attend_op world_op(struct world *w, const float *q, float *y)
{
    const struct row *row = w->row;
    return (struct attend_op){
        .y = view_of(y, DTYPE_F32, w->batch.n_rows, w->cols),
        .q = view_of((void *)(uintptr_t)q, DTYPE_F32, w->batch.n_rows, w->cols),
        .kv = &w->kv,
        .batch = &w->batch,
        .layer = 1,
        .n_heads = row->n_heads,
        .scale = 1.0f / sqrtf((float)row->head_dim),
        .soft_cap = row->soft_cap,
        .sinks = row->sinks ? w->sinks : NULL,
    };
}
/* Sequence 0, `chunk` rows a step, into y. */
static void run_chunks(struct world *w, struct pool *pool, struct attend_scratch *scratch,
                       int32_t chunk, float *y)
{
    const int32_t n = w->row->n_tokens;
    memset(y, 0xff, sizeof(float) * (size_t)(n * w->cols));
    for (int32_t from = 0; from < n; from += chunk) {
        world_batch(w);
        world_seq(w, 0, from, n - from < chunk ? n - from : chunk);
        struct attend_op op = world_op(w, w->q + from * w->cols, y + from * w->cols);
        attend_run(pool, scratch, &op);
    }
}

struct machine {
    struct pool *pool;
    struct attend_scratch *scratch;
};
static void machine_open(struct machine *m, enum cpu_isa isa, int32_t n_threads)
{
    struct err err;
    assert_ok(pool_open(&m->pool, n_threads, &err), &err);
    assert_ok(attend_scratch_open(&m->scratch, isa, n_threads, 128, &err), &err);
}
static void machine_close(struct machine *m)
{
    attend_scratch_close(m->scratch);
    pool_close(m->pool);
}

static void same_bits(const char *name, const char *what, int32_t detail, const float *got,
                      const float *want, int64_t n)
{
    if (memcmp(got, want, (size_t)n * sizeof *got) == 0)
        return;
    int64_t at = 0;
    while (memcmp(got + at, want + at, sizeof *got) == 0)
        at++;
    fail_msg("%s: %s %d: float %lld is %.9g, wanted %.9g", name, what, detail, (long long)at,
             (double)got[at], (double)want[at]);
}

static void check_row(const struct row *row, enum cpu_isa isa, const float *like, float *out)
{
    struct world w;
    struct machine one, two, five;
    world_make(&w, row);
    machine_open(&one, isa, 1);
    machine_open(&two, isa, 2);
    machine_open(&five, isa, 5);
    const int32_t n = row->n_tokens, size = n * w.cols;
    float *y = malloc(sizeof(float) * 2 * (size_t)size);
    double *want = malloc(sizeof(double) * (size_t)size);

    run_chunks(&w, one.pool, one.scratch, n, w.y);
    world_batch(&w);
    world_seq(&w, 0, 0, n);
    struct attend_op op = world_op(&w, w.q, w.y);
    plain_attend(&op, want);
    const double nmse = plain_nmse(w.y, want, size);
    if (!(nmse < 1e-12))
        fail_msg("%s: NMSE %.3g", row->name, nmse);
    if (like)
        same_bits(row->name, "other instruction set", 0, w.y, like, size);
    memcpy(out, w.y, sizeof(float) * (size_t)size);

    static const int32_t chunks[] = { 1, 2, 3, 7, 16, 33 };
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        run_chunks(&w, one.pool, one.scratch, chunks[i], y);
        same_bits(row->name, "chunks of", chunks[i], y, w.y, size);
    }
    run_chunks(&w, two.pool, two.scratch, n, y);
    same_bits(row->name, "threads", 2, y, w.y, size);
    run_chunks(&w, five.pool, five.scratch, 1, y);
    same_bits(row->name, "threads", 5, y, w.y, size);

    /* Among others: the other sequence's last row goes first, then the second half of this. */
    const int32_t from = n / 2;
    world_batch(&w);
    world_seq(&w, 1, n - 1, 1);
    world_seq(&w, 0, from, n - from);
    int32_t table[256];
    memcpy(table, w.table + w.n_pages, sizeof(int32_t) * (size_t)w.n_pages);
    memcpy(table + w.n_pages, w.table, sizeof(int32_t) * (size_t)w.n_pages);
    w.batch.pages[0] = table;
    float *q = malloc(sizeof(float) * (size_t)(size + w.cols));
    memcpy(q, w.q + (2 * n - 1) * w.cols, sizeof(float) * (size_t)w.cols);
    memcpy(q + w.cols, w.q + from * w.cols, sizeof(float) * (size_t)((n - from) * w.cols));
    op = world_op(&w, q, y);
    attend_run(two.pool, two.scratch, &op);
    same_bits(row->name, "among others", 2, y + w.cols, w.y + from * w.cols,
              (int64_t)(n - from) * w.cols);

    free(q);
    free(y);
    free(want);
    machine_close(&one);
    machine_close(&two);
    machine_close(&five);
    world_clear(&w);
}

static void test_rows(void **state)
{
    (void)state;
    static const enum cpu_isa isas[] = { CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const size_t bytes =
            sizeof(float) * (size_t)(rows[r].n_tokens * rows[r].n_heads * rows[r].head_dim);
        float *first = malloc(bytes), *next = malloc(bytes);
        for (size_t i = 0; i < 3; i++) {
            if (cpu_isa_available(isas[i]))
                check_row(&rows[r], isas[i], i ? first : NULL, i ? next : first);
            else if (r == 0)
                print_message("skipped: this machine has no %s\n", cpu_isa_name(isas[i]));
        }
        free(first);
        free(next);
    }
}

/* A page that holds garbage behind the sequence's end must not show, and neither must NaN in K of
 * a token out of view; a NaN in view must. */
static void check_nan_in_view(enum dtype dtype)
{
    const struct row row = { "nan", 64, 4, 2, 30, 0, 0, false, dtype, 1 };
    struct world w;
    struct machine m;
    world_make(&w, &row);
    machine_open(&m, CPU_ISA_AUTO, 1);
    float *y = malloc(sizeof(float) * (size_t)(row.n_tokens * w.cols));
    uint8_t *block = (uint8_t *)w.kv.groups[0].memory + kv_offset(&w.kv, 0, 1, w.table[1], 0, 1);
    if (dtype == DTYPE_I8) /* K of position 20, head 1 */
        ((float *)(void *)(block + 16 * 64))[4] = NAN;
    else
        ((uint16_t *)(void *)block)[4 * 64] = 0x7fc0;
    run_chunks(&w, m.pool, m.scratch, 30, y);
    for (int32_t p = 0; p < 30; p++)
        for (int32_t h = 0; h < 4; h++)
            assert_int_equal(isnan(y[p * w.cols + h * 64]) != 0, p >= 20 && h >= 2);
    free(y);
    machine_close(&m);
    world_clear(&w);
}

static void test_nan_in_view(void **state)
{
    (void)state;
    check_nan_in_view(DTYPE_BF16);
    check_nan_in_view(DTYPE_I8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_nan_in_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
