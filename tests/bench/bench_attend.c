/* bench_attend.c - attention of the CPU: one line a case with time, bytes of K and V a second and
 * their share of the streaming limit (decode), or operations a second (prefill); both measured in
 * this run. Usage: bench_attend [threads]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/clock.h"
#include "host/base/pool.h"
#include "host/base/rng.h"
#include "host/backend/cpu/attend.h"
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/limits.h"

struct bench {
    const char *name;
    int32_t n_seqs, n_rows, first; /* rows of each sequence, at positions first.. */
    int32_t n_heads, n_kv_heads, head_dim, n_layers, window;
    enum dtype dtype;
};
static const struct bench benches[] = {
    { "decode 2048, llama 1B", 1, 1, 2047, 32, 8, 64, 16, 0, DTYPE_BF16 },
    { "decode 2048, llama 1B, fp32", 1, 1, 2047, 32, 8, 64, 16, 0, DTYPE_F32 },
    { "decode 8 x 2048, llama 1B", 8, 1, 2047, 32, 8, 64, 16, 0, DTYPE_BF16 },
    { "decode 2048, qwen 0.5B", 1, 1, 2047, 14, 2, 64, 24, 0, DTYPE_BF16 },
    { "decode 2048, 8B", 1, 1, 2047, 32, 8, 128, 32, 0, DTYPE_BF16 },
    { "decode 2048, no groups", 1, 1, 2047, 32, 32, 64, 8, 0, DTYPE_BF16 },
    { "decode 2048, window 512", 1, 1, 2047, 32, 8, 64, 16, 512, DTYPE_BF16 },
    { "prefill 512 at 0, llama 1B", 1, 512, 0, 32, 8, 64, 16, 0, DTYPE_BF16 },
    { "prefill 512 at 1536, llama 1B", 1, 512, 1536, 32, 8, 64, 16, 0, DTYPE_BF16 },
    { "prefill 512 at 1536, fp32", 1, 512, 1536, 32, 8, 64, 16, 0, DTYPE_F32 },
    { "prefill 512 at 1536, 8B", 1, 512, 1536, 32, 8, 128, 8, 0, DTYPE_BF16 },
    { "prefill 512 at 1536, no groups", 1, 512, 1536, 32, 32, 64, 8, 0, DTYPE_BF16 },
};

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static void run(const struct bench *c, struct pool *pool, struct attend_scratch *scratch,
                const char *isa, double stream)
{
    const int32_t n_pages = kv_pages_for(c->first + c->n_rows), n_rows = c->n_seqs * c->n_rows;
    const int32_t cols = c->n_heads * c->head_dim;
    struct kv_cache kv = {
        .n_groups = 1, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .dtype = c->dtype
    };
    kv.groups[0] = (struct kv_group){ c->window, c->n_layers, n_pages * c->n_seqs, NULL };
    const size_t bytes = kv_page_bytes(&kv, 0) * (size_t)(n_pages * c->n_seqs);
    kv.groups[0].memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!kv.groups[0].memory)
        exit(1);
    /* Halves of 1.0 and 0.x: finite as bf16 and as fp32. */
    uint16_t *halves = kv.groups[0].memory;
    for (size_t i = 0; i < bytes / 2; i++)
        halves[i] = (uint16_t)(0x3e00 + (i * 2654435761u >> 20) % 0x180);
    int32_t *pages = zeroed((size_t)(n_pages * c->n_seqs), sizeof *pages);
    for (int32_t i = 0; i < n_pages * c->n_seqs; i++)
        pages[i] = i;
    int32_t *positions = zeroed((size_t)n_rows, sizeof *positions);
    int32_t *row_seq = zeroed((size_t)n_rows, sizeof *row_seq);
    struct batch_seq *seqs = zeroed((size_t)c->n_seqs, sizeof *seqs);
    for (int32_t i = 0; i < n_rows; i++) {
        row_seq[i] = i / c->n_rows;
        positions[i] = c->first + i % c->n_rows;
    }
    for (int32_t i = 0; i < c->n_seqs; i++)
        seqs[i] = (struct batch_seq){ i, i * c->n_rows, c->n_rows, c->first, 0 };
    const struct batch batch = { .n_rows = n_rows,
                                 .n_seqs = c->n_seqs,
                                 .positions = positions,
                                 .row_seq = row_seq,
                                 .seqs = seqs,
                                 .n_groups = 1,
                                 .pages = { pages },
                                 .pages_stride = { n_pages } };
    float *q = zeroed((size_t)n_rows * (size_t)cols, sizeof *q);
    float *y = zeroed((size_t)n_rows * (size_t)cols, sizeof *y);
    for (int64_t i = 0; i < (int64_t)n_rows * cols; i++)
        q[i] = (float)rng_uniform(1, 2, (uint64_t)i) - 0.5f;
    struct attend_op op = { .y = view_of(y, DTYPE_F32, n_rows, cols),
                            .q = view_of(q, DTYPE_F32, n_rows, cols),
                            .kv = &kv,
                            .batch = &batch,
                            .n_heads = c->n_heads,
                            .scale = 0.125f };
    double best = 1e30;
    for (int32_t repeat = 0; repeat < (c->n_rows > 1 ? 3 : 12); repeat++) {
        const uint64_t start = clock_ns();
        for (op.layer = 0; op.layer < c->n_layers; op.layer++)
            attend_run(pool, scratch, &op);
        const double seconds = (double)(clock_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    double seen = 0; /* keys seen by all rows */
    for (int32_t i = 0; i < n_rows; i++)
        seen += c->window && c->window < positions[i] + 1 ? c->window : positions[i] + 1;
    if (c->n_rows == 1) {
        const double read =
            seen * 2 * c->n_kv_heads * c->head_dim * (double)dtype_bytes(c->dtype) * c->n_layers;
        printf("%-12s %-32s %9.3f ms %8.2f GB/s  %3.0f %% of streaming\n", isa, c->name, best * 1e3,
               read / best * 1e-9, 100 * read / best / stream);
    } else {
        const double flops = seen * 4 * cols * c->n_layers;
        printf("%-12s %-32s %9.3f ms %8.2f GFLOP/s\n", isa, c->name, best * 1e3,
               flops / best * 1e-9);
    }
    fflush(stdout);
    free(kv.groups[0].memory);
    free(pages);
    free(positions);
    free(row_seq);
    free(seqs);
    free(q);
    free(y);
}

int main(int argc, char **argv)
{
    struct err err;
    struct pool *pool;
    if (!pool_open(&pool, argc > 1 ? atoi(argv[1]) : 0, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const double stream = limits_stream_bytes_per_s(pool);
    printf("%d threads, streaming read %.1f GB/s\n", pool_threads(pool), stream * 1e-9);
    static const enum cpu_isa isas[] = { CPU_ISA_AVX512, CPU_ISA_AVX2 };
    for (size_t k = 0; k < 2; k++) {
        struct attend_scratch *scratch;
        if (!cpu_isa_available(isas[k]))
            continue;
        if (!attend_scratch_open(&scratch, isas[k], pool_threads(pool), 128, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
            run(&benches[i], pool, scratch, cpu_isa_name(isas[k]), stream);
        attend_scratch_close(scratch);
    }
    pool_close(pool);
    return 0;
}
