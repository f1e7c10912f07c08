/* bench_formats.c - every format's form in CHUNKS_C16 against nibble's own int4 and int8 (W4_C16
 * and W8_C16, groups of 128), measured in turn in the same run.
 *
 *   bench_formats [--threads N] [--isa portable|avx2|avx512] [--mb N] [--case NAME]
 *
 *   decode   one row: time a byte of the file over the base's time a byte; the base is int8 for
 *            more than 6 bits. Limit 1.10, and 1.30 for tables, E4M3, groups of 16 and 32.
 *   prefill  128 rows, 256 outputs: time over the base's time. Limit 2.
 *
 * act: activations by the checkpoint's scheme: FP8 with E4M3, NVFP4 with its own.
 *
 * Weights are copies of one matrix of 2048 x 2048, N MB of each kind (256 by default), so that one
 * row comes from memory. Exits 1 when a limit is missed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "tests/support/forms.h"
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/linear.h"
#include "host/base/clock.h"

enum {
    N_OUT = 2048,
    FEW_OUT = 256,
    N_IN = 2048,
    ROWS_MAX = 128,
    N_ROW_COUNTS = 3,
    PASSES = 30,
    SOME = 16
};
static const int32_t row_counts[N_ROW_COUNTS] = { 1, 8, 128 };

struct bench {
    struct pool *pool;
    struct linear_scratch *scratch;
    size_t block_bytes;
    float *x, *y;
};
/* Copies of one packed matrix. */
struct many {
    struct weight w;
    uint8_t *block;
    size_t bytes; /* of one */
    size_t block_bytes;
    int32_t n, next;
};

static void die(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static void fill(struct many *many, const struct layout_shape *shape, const struct matrix *m,
                 size_t block_bytes)
{
    *many = (struct many){ .bytes = layout_bytes(shape), .block_bytes = block_bytes };
    many->n = (int32_t)(block_bytes / many->bytes);
    many->block =
        mmap(NULL, block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (many->block == MAP_FAILED)
        die("out of memory");
    (void)madvise(many->block, block_bytes, MADV_HUGEPAGE);
    layout_pack(shape, m, 0, shape->n_out, many->block);
    for (int32_t i = 1; i < many->n; i++)
        memcpy(many->block + (size_t)i * many->bytes, many->block, many->bytes);
    many->w = (struct weight){ .name = "", .n_out = shape->n_out, .n_in = N_IN, .n_parts = 1 };
    many->w.parts[0].shape = *shape;
}

/* Seconds of each of n products of n_rows, the next matrices in turn. */
static void time_some(struct bench *b, struct many *many, int32_t n_rows, int32_t n,
                      double *seconds)
{
    for (int32_t i = 0; i < n; i++) {
        many->w.parts[0].data = many->block + (size_t)(many->next++ % many->n) * many->bytes;
        const uint64_t start = clock_ns();
        linear_product(b->pool, b->scratch, &many->w, view_of(b->x, DTYPE_F32, n_rows, N_IN),
                       view_of(b->y, DTYPE_F32, n_rows, many->w.n_out));
        seconds[i] = (double)(clock_ns() - start) * 1e-9;
    }
}
static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
/* The 10th percentile of two kinds of products, measured in turn: whoever shares the machine is
 * left out. */
static void time_both(struct bench *b, struct many *base, struct many *many, int32_t n_rows,
                      double out[2])
{
    static double seconds[2][PASSES * SOME];
    const int32_t n = SOME;
    for (int32_t pass = 0; pass < PASSES; pass++) {
        time_some(b, base, n_rows, n, seconds[0] + pass * n);
        time_some(b, many, n_rows, n, seconds[1] + pass * n);
    }
    for (int i = 0; i < 2; i++) {
        qsort(seconds[i], (size_t)(PASSES * n), sizeof(double), by_value);
        out[i] = seconds[i][PASSES * n / 10];
    }
}

/* Matrices of a form: [0] large, for few rows, [1] small, so that 128 rows take no longer than a
 * time slice. */
static void fill_both(struct many many[2], const struct form *form, enum layout layout,
                      size_t block_bytes)
{
    for (int i = 0; i < 2; i++) {
        struct err err;
        struct matrix m;
        const int32_t n_out = i ? FEW_OUT : N_OUT;
        if (!form_matrix(form, n_out, N_IN, 1, &m, &err))
            die(err.text);
        struct layout_shape shape = form_shape(form, n_out, N_IN);
        shape.layout = layout;
        fill(&many[i], &shape, &m, i ? (size_t)16 << 20 : block_bytes);
        matrix_clear(&m);
    }
}
static void unmap_both(struct many many[2])
{
    for (int i = 0; i < 2; i++)
        munmap(many[i].block, many[i].block_bytes);
}

static bool run_form(struct bench *b, const struct form *form, struct many base[2], bool scheme)
{
    struct many many[2];
    fill_both(many, form, LAYOUT_CHUNKS_C16, b->block_bytes);
    if (scheme)
        many[0].w.parts[0].act = many[1].w.parts[0].act =
            form->table == FORM_E2M1 ? (struct act_quant){ ACT_NVFP4, 2000 }
                                     : (struct act_quant){ ACT_FP8_TOKEN, 0 };
    double both[N_ROW_COUNTS][2];
    for (int32_t k = 0; k < N_ROW_COUNTS; k++) {
        const int large = row_counts[k] > 100;
        time_both(b, &base[large], &many[large], row_counts[k], both[k]);
    }
    unmap_both(many);
    const bool hard = form->table != FORM_CODES || (form->group && form->group < 64);
    const double limit = hard ? 1.3 : 1.1, file_bytes = form->file_bits / 8 * N_OUT * N_IN;
    const double rate = file_bytes / both[0][1], base_rate = (double)base[0].bytes / both[0][0];
    const double decode = base_rate / rate, prefill = both[2][1] / both[2][0];
    const bool met = decode <= limit && prefill <= 2;
    printf("%-17s%s %6.2f %6.2f  %7.1f us %5.1f GB/s  %5.2f (%.2f) %8.0f us %5.2f  %8.0f us %5.2f "
           "(2)  %s\n",
           form->name, scheme ? " act" : "    ", form->file_bits,
           (double)many[0].bytes * 8 / N_OUT / N_IN, both[0][1] * 1e6, rate * 1e-9, decode, limit,
           both[1][1] * 1e6, both[1][1] / both[1][0], both[2][1] * 1e6, prefill,
           met ? "met" : "MISSED");
    fflush(stdout);
    return met;
}

int main(int argc, char **argv)
{
    struct bench b = { .block_bytes = (size_t)256 << 20 };
    int32_t n_threads = 0, missed = 0, tried = 0;
    enum cpu_isa isa = CPU_ISA_AUTO;
    const char *only = "";
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--threads"))
            n_threads = (int32_t)strtol(value, NULL, 10);
        else if (!strcmp(argv[i], "--mb"))
            b.block_bytes = (size_t)strtol(value, NULL, 10) << 20;
        else if (!strcmp(argv[i], "--case"))
            only = value;
        else if (!strcmp(argv[i], "--isa"))
            isa = !strcmp(value, "portable") ? CPU_ISA_PORTABLE
                  : !strcmp(value, "avx2")   ? CPU_ISA_AVX2
                                             : CPU_ISA_AVX512;
        else
            die("see the top of bench_formats.c");
    }
    struct err err;
    if (!pool_open(&b.pool, n_threads, &err) ||
        !linear_scratch_open(&b.scratch, isa, pool_threads(b.pool), ROWS_MAX, N_IN, &err))
        die(err.text);
    b.x = aligned_alloc(64, sizeof *b.x * ROWS_MAX * N_IN);
    b.y = aligned_alloc(64, sizeof *b.y * ROWS_MAX * N_OUT);
    if (!b.x || !b.y)
        die("out of memory");
    for (int32_t i = 0; i < ROWS_MAX * N_IN; i++)
        b.x[i] = (float)(i % 251 - 125) * 0.01f;
    static const struct form int4 = {
        "", 4, 128, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 0
    };
    static const struct form int8 = {
        "", 8, 128, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 0
    };
    struct many base[2][2];
    fill_both(base[0], &int4, LAYOUT_W4_C16, b.block_bytes);
    fill_both(base[1], &int8, LAYOUT_W8_C16, b.block_bytes);
    printf("%s, %d threads, %zu MB of each kind; 2048 x 2048\n", cpu_isa_name(cpu_isa_resolve(isa)),
           pool_threads(b.pool), b.block_bytes >> 20);
    printf(
        "                        bits a weight  one row: time, file rate,   8 rows: time,   128 "
        "rows: time,\nform                   file packed  time a byte over base (limit)     over "
        "base         over base (limit)\n");
    for (int32_t f = 0; f < N_FORMS; f++) {
        if (strncmp(forms[f].name, only, strlen(only)))
            continue;
        struct many *than = base[forms[f].file_bits > 6];
        const bool e4m3 = forms[f].table == FORM_E4M3, e2m1 = forms[f].table == FORM_E2M1;
        missed += !run_form(&b, &forms[f], than, false);
        tried += 1 + (e4m3 || e2m1);
        if (e4m3 || e2m1)
            missed += !run_form(&b, &forms[f], than, true);
    }
    printf("%d of %d forms meet their limits\n", tried - missed, tried);
    unmap_both(base[0]);
    unmap_both(base[1]);
    free(b.x);
    free(b.y);
    linear_scratch_close(b.scratch);
    pool_close(b.pool);
    return missed != 0;
}
