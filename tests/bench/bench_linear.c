/* bench_linear.c - products of every layout at 1..512 rows against the machine's two roofs, both
 * measured in the same run: the streaming read and the int8 dot product of all threads.
 *
 *   bench_linear [--threads N] [--isa portable|avx2|avx512] [--no-amx] [--mb N] [--rows N] [--case
 * NAME]
 *
 * Weights are many matrices of 2048 x 2048, N MB of packed bytes in all (1024 by default), gone
 * through in turn, so that they come from memory and not from a cache; large shared L3 caches (some
 * are hundreds of MB) need a larger N. One line a case, best of several passes: time of one
 * product, GB/s of packed weights, TOPS, and their shares of the roofs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/limits.h"
#include "host/backend/cpu/linear.h"
#include "host/base/clock.h"

enum { N_OUT = 2048, N_IN = 2048, ROWS_MAX = 512 };

struct bench {
    struct pool *pool;
    struct linear_scratch *scratch;
    double stream, peak; /* bytes/s, ops/s */
    size_t block_bytes;
    uint8_t *block;
    float *x, *y;
};

struct bench_case {
    const char *name;
    enum layout layout;
    int32_t bits, group;
    bool symmetric;
    enum dtype dtype;
};
static const struct bench_case cases[] = {
    { "w4 g128", LAYOUT_W4_C16, 4, 128, true, DTYPE_NONE },
    { "w4 g64", LAYOUT_W4_C16, 4, 64, true, DTYPE_NONE },
    { "w4 g32", LAYOUT_W4_C16, 4, 32, true, DTYPE_NONE },
    { "w4 row", LAYOUT_W4_C16, 4, N_IN, true, DTYPE_NONE },
    { "w4 g128 asym", LAYOUT_W4_C16, 4, 128, false, DTYPE_NONE },
    { "w8 g128", LAYOUT_W8_C16, 8, 128, true, DTYPE_NONE },
    { "w8 row", LAYOUT_W8_C16, 8, N_IN, true, DTYPE_NONE },
    { "bf16", LAYOUT_ROWS, 0, N_IN, true, DTYPE_BF16 },
    { "f32", LAYOUT_ROWS, 0, N_IN, true, DTYPE_F32 },
};
static const int32_t row_counts[] = { 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512 };

static size_t part_bytes(const struct bench_case *c, const struct layout_shape *shape)
{
    return c->layout == LAYOUT_ROWS ? (size_t)N_OUT * N_IN * dtype_bytes(c->dtype)
                                    : layout_bytes(shape);
}

static double time_pass(struct bench *b, const struct weight *weights, int32_t n, int32_t n_rows)
{
    const uint64_t start = clock_ns();
    for (int32_t i = 0; i < n; i++)
        linear_product(b->pool, b->scratch, &weights[i], view_of(b->x, DTYPE_F32, n_rows, N_IN),
                       view_of(b->y, DTYPE_F32, n_rows, N_OUT));
    return (double)(clock_ns() - start) * 1e-9;
}

static void run_case(struct bench *b, const struct bench_case *c, int32_t only_rows)
{
    struct weight w = { .name = c->name, .n_out = N_OUT, .n_in = N_IN, .n_parts = 1 };
    w.parts[0].shape = (struct layout_shape){ .layout = c->layout,
                                              .n_out = N_OUT,
                                              .n_in = N_IN,
                                              .bits = c->bits ? c->bits : 16,
                                              .group = c->group,
                                              .symmetric = c->symmetric };
    w.parts[0].dtype = c->dtype;
    const size_t bytes = part_bytes(c, &w.parts[0].shape);
    const int32_t n = (int32_t)(b->block_bytes / bytes);
    struct weight *weights = calloc((size_t)n, sizeof *weights);
    if (!weights)
        exit(1);
    for (int32_t i = 0; i < n; i++) {
        weights[i] = w;
        weights[i].parts[0].data = b->block + (size_t)i * bytes;
    }
    for (size_t k = 0; k < sizeof row_counts / sizeof *row_counts; k++) {
        const int32_t rows = row_counts[k];
        if (only_rows && rows != only_rows)
            continue;
        /* Enough passes for about 0.3 s, over all matrices when few rows make them memory-bound. */
        const int32_t some = rows <= 32 ? n : n < 32 ? n : 32;
        double best = 1e30, spent = 0;
        for (int pass = 0; pass < 20 && (pass < 3 || spent < 0.4); pass++) {
            const double seconds = time_pass(b, weights, some, rows);
            best = seconds < best ? seconds : best;
            spent += seconds;
        }
        const double one = best / some;
        const double rate = (double)bytes / one, ops = 2.0 * N_OUT * N_IN * rows / one;
        printf("%-13s %4d rows  %9.1f us  %6.1f GB/s %4.0f %%  %6.3f TOPS %4.0f %%  %8.0f rows/s\n",
               c->name, rows, one * 1e6, rate * 1e-9, 100 * rate / b->stream, ops * 1e-12,
               b->peak > 0 ? 100 * ops / b->peak : 0, rows / one);
        fflush(stdout);
    }
    free(weights);
}

int main(int argc, char **argv)
{
    struct bench b = { .block_bytes = (size_t)1 << 30 };
    int32_t n_threads = 0, only_rows = 0;
    enum cpu_isa isa = CPU_ISA_AUTO;
    bool amx = true;
    const char *only = "";
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--no-amx")) {
            amx = false;
            continue;
        }
        if (!strcmp(argv[i], "--threads"))
            n_threads = atoi(value);
        else if (!strcmp(argv[i], "--rows"))
            only_rows = atoi(value);
        else if (!strcmp(argv[i], "--mb"))
            b.block_bytes = (size_t)atoi(value) << 20;
        else if (!strcmp(argv[i], "--case"))
            only = value;
        else if (!strcmp(argv[i], "--isa"))
            isa = !strcmp(value, "avx2")       ? CPU_ISA_AVX2
                  : !strcmp(value, "portable") ? CPU_ISA_PORTABLE
                                               : CPU_ISA_AVX512;
        else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 1;
        }
        i++;
    }
    struct err err;
    if (!pool_open(&b.pool, n_threads, &err) ||
        !linear_scratch_open(&b.scratch, isa, pool_threads(b.pool), ROWS_MAX, N_IN, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    amx = linear_scratch_set_amx(b.scratch, amx);
    b.block = mmap(NULL, b.block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.x = aligned_alloc(64, (size_t)ROWS_MAX * N_IN * sizeof *b.x); /* as the backend's memory */
    b.y = aligned_alloc(64, (size_t)ROWS_MAX * N_OUT * sizeof *b.y);
    if (b.block == MAP_FAILED || !b.x || !b.y) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    (void)madvise(b.block, b.block_bytes, MADV_HUGEPAGE);
    memset(b.block, 0x35, b.block_bytes); /* any bytes are weights; as floats they are small */
    for (int32_t i = 0; i < ROWS_MAX * N_IN; i++)
        b.x[i] = (float)(i % 251 - 125) * 0.01f;
    b.stream = limits_stream_bytes_per_s(b.pool);
    b.peak = limits_int8_ops_per_s(b.pool);
    printf("%s%s, %d threads: streaming read %.1f GB/s, int8 dot peak %.3f TOPS\n",
           cpu_isa_name(cpu_isa_resolve(isa)), amx ? " + amx" : "", pool_threads(b.pool),
           b.stream * 1e-9, b.peak * 1e-12);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!strncmp(cases[i].name, only, strlen(only)))
            run_case(&b, &cases[i], only_rows);
    }
    printf("after: streaming read %.1f GB/s, int8 dot peak %.3f TOPS\n",
           limits_stream_bytes_per_s(b.pool) * 1e-9, limits_int8_ops_per_s(b.pool) * 1e-12);
    munmap(b.block, b.block_bytes);
    free(b.x);
    free(b.y);
    linear_scratch_close(b.scratch);
    pool_close(b.pool);
    return 0;
}
