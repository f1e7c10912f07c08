/* test_counters.cpp - HOSTCUDA_COUNTERS: bytes and bank conflicts of accesses whose numbers are
 * known. */
#include "internal.h"
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include <stdio.h>

struct args {
    const unsigned char *x;
    unsigned char *y;
    int stride; /* bytes between the pieces of neighboring lanes */
};
KERNEL(64, 1) strided(const __grid_constant__ struct args a)
{
    SHARED(shared);
    const int t = (int)threadIdx.x;
    cp_async16(shared + 16 * t, a.x + 16 * t, true);
    cp_async_commit();
    cp_async_wait<0>();
    block_sync();
    uint4 v = ldg_stream(a.x);
    for (int i = 0; i < 3; i++) {
        const uint4 w = ld128(shared + t % 32 * a.stride);
        v.x += w.x;
    }
    st128(a.y + 16 * t, v);
}
KERNEL(32, 1) matrices(const __grid_constant__ struct args a)
{
    SHARED(shared);
    st128(shared + 16 * lane_id(), uint4{ 0, 0, 0, 0 });
    warp_sync();
    uint32_t r[4];
    ldsm_x4(r, shared + lane_id() * a.stride);
    if (r[0] == 1)
        a.y[0] = 1;
}
static struct hc_kernel_count counted(const char *name, int stride);

int main()
{
    setenv("HOSTCUDA_COUNTERS", "1", 1);
    hc_settings_read();
    if (!hostcuda_counting) {
        printf("0 rows: nothing is counted under the race detector: skipped\n");
        return 77;
    }
    static const struct {
        const char *kernel;
        int stride;
        unsigned rounds, conflicts;
    } rows[] = {
        { "strided", 16, 2 * 4 * 3, 0 },              /* eight neighbors fill 128 bytes */
        { "strided", 0, 2 * 4 * 3, 0 },               /* all read one piece */
        { "strided", 128, 2 * 4 * 3, 2 * 4 * 3 * 7 }, /* all in one group of banks */
        { "strided", 64, 2 * 4 * 3, 2 * 4 * 3 * 3 },  /* four in each of two */
        { "strided", 144, 2 * 4 * 3, 0 },             /* a padded row */
        { "matrices", 16, 8, 0 },
        { "matrices", 128, 8, 4 * 7 },
        { "matrices", 80, 8, 0 },
    };
    int n_failed = 0;
    for (const auto &row : rows) {
        const struct hc_kernel_count n = counted(row.kernel, row.stride);
        const bool strides = row.kernel[0] == 's';
        const bool right = n.shared_reads == row.rounds && n.shared_conflicts == row.conflicts &&
                           n.stream_bytes == (strides ? 64 * 16 : 0) &&
                           n.copy_bytes == (strides ? 64 * 16 : 0) &&
                           n.plain_bytes == (strides ? 64 * 16 : 0);
        if (!right)
            printf("FAILED %s, stride %d: %llu rounds, %llu conflicts\n", row.kernel, row.stride,
                   (unsigned long long)n.shared_reads, (unsigned long long)n.shared_conflicts);
        n_failed += !right;
    }
    printf("%zu rows, %d failed\n", sizeof rows / sizeof rows[0], n_failed);
    return n_failed == 0 ? 0 : 1;
}
static struct hc_kernel_count counted(const char *name, int stride)
{
    struct args a = { nullptr, nullptr, stride };
    unsigned char *x, *y;
    if (cudaMalloc(&x, 4096) != cudaSuccess || cudaMalloc(&y, 4096) != cudaSuccess)
        exit(2);
    a.x = x;
    a.y = y;
    struct hc_kernel_count *all = hc_count_of(name);
    const struct hc_kernel_count before = all != nullptr ? *all : hc_kernel_count{};
    const cudaError_t status = name[0] == 's' ? LAUNCH((strided), 1, 64, 8192, 0, 0, a)
                                              : LAUNCH((matrices), 1, 32, 8192, 0, 0, a);
    if (status != cudaSuccess)
        exit(2);
    cudaFree(x);
    cudaFree(y);
    struct hc_kernel_count n = *hc_count_of(name);
    n.stream_bytes -= before.stream_bytes;
    n.copy_bytes -= before.copy_bytes;
    n.plain_bytes -= before.plain_bytes;
    n.shared_reads -= before.shared_reads;
    n.shared_conflicts -= before.shared_conflicts;
    return n;
}
