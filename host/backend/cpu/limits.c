/* limits.c - the two roofs of this machine, measured with small loops on all threads of a pool.
 *
 * Called by `nibble bench` and tests/bench, never while serving: it takes a second and a large
 * block of memory for that time. */
#include "host/backend/cpu/limits.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "host/backend/cpu/isa.h"
#include "host/backend/cpu/limits_kernels.h"
#include "host/base/clock.h"
#include "host/base/err.h"

enum { PASSES = 5, STEP_BYTES = 4096 };
static const size_t BLOCK_BYTES = (size_t)1 << 30; /* servers have L3 caches of hundreds of MB */
static const size_t BLOCK_BYTES_MIN = (size_t)64 << 20;

/* A probe is one pass on every thread; the sink keeps the compiler from dropping it. */
struct probe {
    enum cpu_isa isa;
    uint8_t *block;
    size_t bytes;
    int64_t steps;
    uint64_t sink[64];
};

static void fill(void *arg, int32_t part, int32_t n_parts)
{
    struct probe *p = arg;
    int64_t from, to;
    pool_share((int64_t)p->bytes, STEP_BYTES, part, n_parts, &from, &to);
    memset(p->block + from, 1, (size_t)(to - from));
}

static uint64_t read_portable(const void *from, size_t bytes)
{
    const uint64_t *at = from;
    uint64_t sum[8] = { 0 };
    for (size_t i = 0; i < bytes / 8; i += 8) {
        for (size_t j = 0; j < 8; j++)
            sum[j] ^= at[i + j];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static void read_all(void *arg, int32_t part, int32_t n_parts)
{
    struct probe *p = arg;
    int64_t from, to;
    pool_share((int64_t)p->bytes, STEP_BYTES, part, n_parts, &from, &to);
    const uint8_t *at = p->block + from;
    const size_t bytes = (size_t)(to - from);
    if (p->isa == CPU_ISA_AVX512)
        p->sink[part % 64] += limits_read_avx512(at, bytes);
    else if (p->isa == CPU_ISA_AVX2)
        p->sink[part % 64] += limits_read_avx2(at, bytes);
    else
        p->sink[part % 64] += read_portable(at, bytes);
}

static void dot_all(void *arg, int32_t part, int32_t n_parts)
{
    struct probe *p = arg;
    (void)n_parts;
    if (p->isa == CPU_ISA_AVX512)
        p->sink[part % 64] += limits_dot_avx512(p->steps);
    else
        p->sink[part % 64] += limits_dot_avx2(p->steps);
}

static double best_seconds(struct pool *pool, pool_fn *fn, struct probe *p)
{
    double best = 1e30;
    for (int i = 0; i < PASSES; i++) {
        const uint64_t start = clock_ns();
        pool_run(pool, fn, p);
        const double seconds = (double)(clock_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* What may be taken for a second without pushing others out: a quarter of what is available. */
static size_t block_bytes(void)
{
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file)
        return BLOCK_BYTES_MIN;
    char line[128];
    while (!kib && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
            kib = 0;
    }
    fclose(file);
    size_t bytes = BLOCK_BYTES;
    while (bytes > BLOCK_BYTES_MIN && bytes / 1024 > kib / 4)
        bytes /= 2;
    return bytes;
}

double limits_stream_bytes_per_s(struct pool *pool)
{
    struct probe p = { .isa = cpu_isa_resolve(CPU_ISA_AUTO), .bytes = block_bytes() };
    p.block = mmap(NULL, p.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p.block == MAP_FAILED)
        return 0;
    /* As for resident weights: fewer page walks, where the system has large pages to give. */
    (void)madvise(p.block, p.bytes, MADV_HUGEPAGE);
    pool_run(pool, fill, &p);
    const double seconds = best_seconds(pool, read_all, &p);
    munmap(p.block, p.bytes);
    return (double)p.bytes / seconds;
}

double limits_int8_ops_per_s(struct pool *pool)
{
    struct probe p = { .isa = cpu_isa_resolve(CPU_ISA_AUTO), .steps = 1000000 };
    if (p.isa == CPU_ISA_PORTABLE)
        return 0;
    const double macs = p.isa == CPU_ISA_AVX512 ? LIMITS_DOT_MACS_AVX512 : LIMITS_DOT_MACS_AVX2;
    const double seconds = best_seconds(pool, dot_all, &p);
    return 2 * macs * LIMITS_DOT_SUMS * (double)p.steps * pool_threads(pool) / seconds;
}
