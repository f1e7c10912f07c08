/* test_wgmma.cu - mistakes that a kernel can make with wgmma.cuh: under the emulator each ends in a
 * failure or in wrong numbers, never in the right ones. (What each wrapper computes when it is used
 * well, on the emulator and on a GPU: tests/gpu/test_wgmma_wrappers.cu.) */
#include "cuda/launch.cuh"
#include "cuda/wgmma.cuh"
#include "tests/ops/cuda/harness.cuh"
#ifdef HOSTCUDA
#include <sys/wait.h>
#include <unistd.h>
#endif

enum bug {
    NONE,
    NO_FENCE,       /* registers written, then the product */
    NO_FENCE_AGAIN, /* the second batch, with new A registers */
    NO_COMMIT,
    NO_WAIT,
    WAIT_TOO_WEAK, /* leaves the last batch on its way */
    D_WRITTEN,     /* accumulators written while the product is on its way */
    A_WRITTEN,
    B_WRITTEN, /* shared memory reused before the wait */
    WARP_MISSING,
    OTHER_DESCRIPTOR, /* of one thread */
    BEYOND,           /* a panel that ends beyond shared memory */
    N_BUGS,
};
static const char *const bugs[N_BUGS] = { "none",
                                          "no fence",
                                          "no fence before the second batch",
                                          "no commit",
                                          "no wait",
                                          "a wait that leaves one",
                                          "d written before the wait",
                                          "a written before the wait",
                                          "shared memory reused before the wait",
                                          "a warp is missing",
                                          "a thread has another descriptor",
                                          "beyond shared memory" };
enum { N = 16, SHARED_BYTES = 2048 };
struct bug_args {
    float *y; /* [64][16] */
    enum bug bug;
};
/* Two batches of 16 k of ones: y = 32. */
KERNEL(128, 1)
wgmma_with(const __grid_constant__ struct bug_args p)
{
    SHARED(memory);
    const int t = (int)threadIdx.x;
    const uint4 ones = { 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u };
    st128(memory + t * 16, ones);
    async_fence();
    block_sync();
    if (p.bug == WARP_MISSING && t >= 96)
        return;
    uint64_t b = wgmma_desc(memory, 16, 1024, WGMMA_128B);
    if (p.bug == BEYOND || (p.bug == OTHER_DESCRIPTOR && t == 77))
        b = wgmma_desc_at(b, 1024);
    uint32_t a[2][4];
    float d[N / 2];
    for (int i = 0; i < 4; i++)
        a[0][i] = a[1][i] = 0x3c003c00u;
    for (int i = 0; i < N / 2; i++)
        d[i] = 0.0f;
    if (p.bug != NO_FENCE)
        wgmma_fence();
    wgmma_f16<N>(d, a[0], b, true);
    wgmma_commit();
    if (p.bug != NO_FENCE_AGAIN)
        wgmma_fence();
    wgmma_f16<N>(d, a[1], wgmma_desc_at(b, 32), true);
    if (p.bug != NO_COMMIT)
        wgmma_commit();
    if (p.bug == D_WRITTEN)
        d[3] = 1.0f;
    if (p.bug == A_WRITTEN)
        a[1][2] = 0;
    if (p.bug == B_WRITTEN)
        st128(memory + t * 16, { 0, 0, 0, 0 });
    if (p.bug == WAIT_TOO_WEAK)
        wgmma_wait<1>();
    else if (p.bug != NO_WAIT)
        wgmma_wait<0>();
    wgmma_landed(d);
    for (int i = 0; i < N / 2; i++)
        p.y[(t / 32 * 16 + t % 32 / 4 + 8 * (i % 4 / 2)) * N + 8 * (i / 4) + t % 4 * 2 + i % 2] =
            d[i];
}
static bool right_numbers(enum bug bug)
{
    device_array<float> y(64 * N);
    const struct bug_args args = { y.data(), bug };
    CUDA(LAUNCH((wgmma_with), dim3(1), 128, SHARED_BYTES, harness.stream, LAUNCH_PLAIN, args));
    for (float v : y.read())
        if (!(v == 32.0f))
            return false;
    return true;
}
#ifdef HOSTCUDA
/* In a process of its own: failures abort. */
static bool right_in_child(enum bug bug)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(3);
        _exit(right_numbers(bug) ? 0 : 1);
    }
    int status = 0;
    EXPECT(child > 0 && waitpid(child, &status, 0) == child, "no child");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
#endif

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    if (harness.device.wgmma) {
        CASE("%s", bugs[NONE]) EXPECT(right_numbers(NONE), "without a bug");
#ifdef HOSTCUDA
        for (int bug = NONE + 1; bug < N_BUGS; bug++)
            CASE("%s", bugs[bug]) EXPECT(!right_in_child((enum bug)bug), "not caught");
#endif
    }
    return harness_end();
}
