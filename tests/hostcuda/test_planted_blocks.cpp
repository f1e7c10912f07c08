/* test_planted_blocks.cpp - bugs within a block: barriers, collectives, asynchronous copies,
 * bounds. */
#include "planted.h"

struct args {
    const float *x;
    float *y;
    int n;
};
enum bug {
    NONE,
    NO_WAIT,
    SHORT_WAIT,
    NO_COMMIT,
    NO_BARRIER,
    NO_REUSE_BARRIER,
    WRONG_STAGE,
    NO_WARP_SYNC,
    ENDS_BEFORE,
    TWO_LINES,
    LANE_MISSING,
    LANE_ENDED,
    SHARED_READ,
    SHARED_WRITE,
    GLOBAL_READ,
    GLOBAL_WRITE,
    COPY_SOURCE,
    COPY_OUTSIDE,
    MISALIGNED,
    UNINITIALIZED,
    NOT_ATOMIC,
    WRONG_PARITY,
    TOO_FEW_BYTES,
    TOO_MANY_BYTES,
    NO_INIT,
    TOO_MANY_ARRIVALS,
    WRONG_COUNT,
    PARTIAL_WARP,
};
static std::vector<float> ramp(size_t n)
{
    std::vector<float> x(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 251);
    return x;
}

/* y[t] = sum over tiles of x[tile][64 threads][4] as the next thread copied it: a ring of stages.
 */
template <bug BUG> KERNEL(64, 1) ring(const __grid_constant__ struct args a)
{
    enum { STAGES = 3, TILE = 256 };
    SHARED(shared);
    float *stages = (float *)shared;
    const int t = (int)threadIdx.x;
    for (int tile = 0; tile < STAGES - 1; tile++) {
        cp_async16(stages + tile * TILE + 4 * t, a.x + tile * TILE + 4 * t, tile < a.n);
        cp_async_commit();
    }
    float sum = 0;
    for (int tile = 0; tile < a.n; tile++) {
        if (BUG == SHORT_WAIT)
            cp_async_wait<STAGES - 1>();
        else if (BUG != NO_WAIT)
            cp_async_wait<STAGES - 2>();
        if (BUG != NO_BARRIER)
            block_sync(); /* the tile is there for all, and the stage of the next copy is free */
        const int next = tile + STAGES - 1;
        const int stage = (BUG == WRONG_STAGE ? next + 1 : next) % STAGES;
        cp_async16(stages + stage * TILE + 4 * t, a.x + next * TILE + 4 * t, next < a.n);
        if (BUG != NO_COMMIT)
            cp_async_commit();
        const float *mine = stages + tile % STAGES * TILE + 4 * ((t + 1) % 64);
        for (int i = 0; i < 4; i++)
            sum += mine[i];
    }
    a.y[t] = sum;
}
template <bug BUG> static bool run_ring()
{
    enum { N = 9 };
    const std::vector<float> x = ramp(N * 256);
    float *y = device_zeros<float>(64);
    const struct args a = { device_copy(x), y, N };
    cudaStream_t stream = new_stream();
    OK(LAUNCH((ring<BUG>), 1, 64, 3 * 1024, stream, 0, a));
    const std::vector<float> got = host_copy(y, 64);
    bool right = true;
    for (size_t t = 0; t < 64; t++) {
        float sum = 0;
        for (size_t tile = 0; tile < N; tile++)
            for (size_t i = 0; i < 4; i++)
                sum += x[tile * 256 + 4 * ((t + 1) % 64) + i];
        right = right && got[t] == sum;
    }
    return right;
}

/* y[b] = sum of x[b][128]: through shared memory and lanes. */
template <bug BUG> KERNEL(128, 1) reduce(const __grid_constant__ struct args a)
{
    SHARED(shared);
    float *s = (float *)shared;
    const int t = (int)threadIdx.x;
    float v = a.x[(int)blockIdx.x * 128 + t];
    s[t] = v;
    if (BUG != NO_WARP_SYNC)
        warp_sync();
    v += s[t ^ 1]; /* of this warp */
    warp_sync();
    s[t] = v * 0.5f;
    if (BUG == ENDS_BEFORE && t == 77)
        return;
    if (BUG == TWO_LINES && t < 48)
        block_sync();
    else if (BUG != NO_BARRIER)
        block_sync();
    v = s[127 - t]; /* of another warp */
    for (int m = 16; m > 0; m >>= 1)
        if (BUG != LANE_MISSING || lane_id() != 5 || m != 4)
            v += shfl_xor_f32(v, m);
    if (BUG == LANE_ENDED && t == 64)
        return;
    if (BUG == LANE_ENDED)
        warp_sync();
    if (BUG != NO_REUSE_BARRIER)
        block_sync();
    if (lane_id() == 0)
        s[warp_id()] = v;
    block_sync();
    if (t == 0)
        a.y[blockIdx.x] = s[0] + s[1] + s[2] + s[BUG == UNINITIALIZED ? 200 : 3];
}
template <bug BUG> static bool run_reduce()
{
    const std::vector<float> x = ramp(5 * 128);
    float *y = device_zeros<float>(5);
    const struct args a = { device_copy(x), y, 0 };
    OK(LAUNCH((reduce<BUG>), 5, 128, 1024, new_stream(), 0, a));
    const std::vector<float> got = host_copy(y, 5);
    bool right = true;
    for (size_t b = 0; b < 5; b++) {
        float sum = 0;
        for (size_t i = 0; i < 128; i++)
            sum += x[b * 128 + i];
        right = right && got[b] == sum;
    }
    return right;
}

template <bug BUG> KERNEL(40, 1) bounds(const __grid_constant__ struct args a)
{
    SHARED(shared);
    float *s = (float *)shared;
    const int t = (int)threadIdx.x;
    const int n = 40;
    if (BUG == SHARED_WRITE)
        s[t + 1] = 1;
    if (t < n)
        s[t] = a.x[BUG == GLOBAL_READ ? t + 1 : t];
    block_sync();
    float v = s[BUG == SHARED_READ ? t + 1 : t];
    if (BUG == COPY_SOURCE || BUG == COPY_OUTSIDE || BUG == MISALIGNED) {
        block_sync();
        if (t < 10)
            cp_async16(s + 4 * t +
                           (BUG == COPY_OUTSIDE ? 4
                            : BUG == MISALIGNED ? 1
                                                : 0),
                       a.x + 4 * t + (BUG == COPY_SOURCE ? 4 : 0), true);
        cp_async_commit();
        cp_async_wait<0>();
        block_sync();
        v = s[t];
    }
    if (BUG == PARTIAL_WARP)
        warp_sync();
    a.y[BUG == GLOBAL_WRITE ? t + 1 : t] = v;
}
template <bug BUG> static bool run_bounds()
{
    const std::vector<float> x = ramp(40);
    float *y = device_zeros<float>(40);
    const struct args a = { device_copy(x), y, 0 };
    OK(LAUNCH((bounds<BUG>), 1, 40, 160, new_stream(), 0, a));
    return host_copy(y, 40) == x;
}

/* How many of 96 threads see an even number: a counter in shared memory. */
template <bug BUG> KERNEL(96, 1) count(const __grid_constant__ struct args a)
{
    SHARED(shared);
    uint32_t *counter = (uint32_t *)shared;
    const int t = (int)threadIdx.x;
    if (t == 0)
        *counter = 0;
    block_sync();
    if (t % 2 == 0) {
        if (BUG == NOT_ATOMIC)
            *counter += 1; /* right by luck: one after the other */
        else
            shared_add(counter, 1);
    }
    block_sync();
    if (t == 0)
        a.y[0] = (float)*counter;
}
template <bug BUG> static bool run_count()
{
    float *y = device_zeros<float>(1);
    const struct args a = { nullptr, y, 0 };
    OK(LAUNCH((count<BUG>), 1, 96, 16, new_stream(), 0, a));
    return host_copy(y, 1)[0] == 48;
}

/* Warp 0 sends tiles of 512 bytes by bulk copy, warps 1..2 sum them: full and empty mbarriers. */
template <bug BUG> KERNEL(96, 1) bulk(const __grid_constant__ struct args a)
{
    enum { STAGES = 2, TILE = 128, BYTES = 512 };
    SHARED(shared);
    float *stages = (float *)shared;
    uint64_t *full = (uint64_t *)(shared + STAGES * BYTES), *empty = full + STAGES;
    const int t = (int)threadIdx.x;
    if (t == 0 && BUG != NO_INIT) {
        for (int s = 0; s < STAGES; s++) {
            mbar_init(full + s, 1);
            mbar_init(empty + s, 64);
        }
        mbar_init_fence();
    }
    block_sync();
    if (t == 0) {
        for (int tile = 0; tile < a.n; tile++) {
            const int s = tile % STAGES, round = tile / STAGES;
            if (round > 0 && BUG != NO_REUSE_BARRIER)
                mbar_wait(empty + s, (uint32_t)(round - 1) & 1u);
            mbar_arrive_expect(full + s, BUG == TOO_FEW_BYTES    ? BYTES - 16
                                         : BUG == TOO_MANY_BYTES ? BYTES + 16
                                                                 : BYTES);
            bulk_copy(stages + s * TILE, a.x + tile * TILE, BYTES, full + s);
            if (BUG == TOO_MANY_ARRIVALS)
                mbar_arrive(full + s), mbar_arrive(full + s);
        }
    }
    if (t < 32)
        return;
    float sum = 0;
    for (int tile = 0; tile < a.n; tile++) {
        const int s = tile % STAGES, round = tile / STAGES;
        if (BUG != NO_WAIT)
            mbar_wait(full + s, (uint32_t)(BUG == WRONG_PARITY ? round + 1 : round) & 1u);
        sum += stages[s * TILE + t - 32] + stages[s * TILE + t + 32];
        if (BUG != NO_COMMIT)
            mbar_arrive(empty + s);
    }
    a.y[t - 32] = sum;
}
template <bug BUG> static bool run_bulk()
{
    enum { N = 7 };
    const std::vector<float> x = ramp(N * 128);
    float *y = device_zeros<float>(64);
    const struct args a = { device_copy(x), y, N };
    OK(LAUNCH((bulk<BUG>), 1, 96, 2 * 512 + 32, new_stream(), 0, a));
    const std::vector<float> got = host_copy(y, 64);
    bool right = true;
    for (size_t t = 0; t < 64; t++) {
        float sum = 0;
        for (size_t tile = 0; tile < N; tile++)
            sum += x[tile * 128 + t] + x[tile * 128 + t + 64];
        right = right && got[t] == sum;
    }
    return right;
}

/* Warps 0..1 fill, warp 2 reads: a named barrier that the writers only arrive at. */
template <bug BUG> KERNEL(96, 1) named(const __grid_constant__ struct args a)
{
    SHARED(shared);
    float *s = (float *)shared;
    const int t = (int)threadIdx.x;
    if (t < 64) {
        s[t] = a.x[t];
        if (BUG != NO_BARRIER)
            named_arrive(1, BUG == WRONG_COUNT ? 64 : 96);
    } else {
        if (BUG != NO_BARRIER)
            named_sync(1, 96);
        a.y[t - 64] = s[t - 64] + s[t - 32];
    }
}
template <bug BUG> static bool run_named()
{
    const std::vector<float> x = ramp(64);
    float *y = device_zeros<float>(32);
    const struct args a = { device_copy(x), y, 0 };
    OK(LAUNCH((named<BUG>), 1, 96, 256, new_stream(), 0, a));
    const std::vector<float> got = host_copy(y, 32);
    bool right = true;
    for (size_t t = 0; t < 32; t++)
        right = right && got[t] == x[t] + x[t + 32];
    return right;
}

/* A late collective of a warpgroup, as wgmma is one: the sum of all lanes' numbers. */
struct late {
    const float *from;
    float *to;
};
static void add_all(void *const *deposits, int threads)
{
    float sum = 0;
    for (int t = 0; t < threads; t++)
        sum += *((const struct late *)deposits[t])->from;
    for (int t = 0; t < threads; t++)
        *((const struct late *)deposits[t])->to += sum;
}
template <bug BUG> KERNEL(256, 1) warpgroups(const __grid_constant__ struct args a)
{
    const int t = (int)threadIdx.x;
    float mine = a.x[t], sum = 0;
    const struct late late = { &mine, &sum };
    for (int i = 0; i < 3; i++) {
        hostcuda_group_issue(128, &late, sizeof late, add_all, "sum", __FILE__, 10);
        if (BUG != NO_COMMIT)
            hostcuda_group_commit(128, __FILE__, 11);
    }
    if (BUG != NO_WAIT)
        hostcuda_group_wait(128, BUG == SHORT_WAIT ? 1 : 0, __FILE__, 12);
    a.y[t] = sum;
    if (BUG != NONE)
        hostcuda_group_commit(128, __FILE__, 13), hostcuda_group_wait(128, 0, __FILE__, 14);
}
template <bug BUG> static bool run_warpgroups()
{
    const std::vector<float> x = ramp(256);
    float *y = device_zeros<float>(256);
    const struct args a = { device_copy(x), y, 0 };
    OK(LAUNCH((warpgroups<BUG>), 1, 256, 0, new_stream(), 0, a));
    const std::vector<float> got = host_copy(y, 256);
    bool right = true;
    for (size_t g = 0; g < 2; g++) {
        float sum = 0;
        for (size_t t = 0; t < 128; t++)
            sum += x[g * 128 + t];
        for (size_t t = 0; t < 128; t++)
            right = right && got[g * 128 + t] == 3 * sum;
    }
    return right;
}

static const char *const RACE = "ThreadSanitizer: data race";
static const struct planted rows[] = {
    { "ring of cp.async stages", run_ring<NONE>, RIGHT, EVERYWHERE, NULL },
    { "ring: no wait", run_ring<NO_WAIT>, CAUGHT, EVERYWHERE, NULL },
    { "ring: the wait leaves one group too many", run_ring<SHORT_WAIT>, CAUGHT, EVERYWHERE, NULL },
    { "ring: no commit in the loop", run_ring<NO_COMMIT>, CAUGHT, EVERYWHERE, NULL },
    { "ring: no barrier", run_ring<NO_BARRIER>, CAUGHT, EVERYWHERE, NULL },
    { "ring: no barrier, both lines", run_ring<NO_BARRIER>, CAUGHT, THREAD, RACE },
    { "ring: copies to the wrong stage", run_ring<WRONG_STAGE>, CAUGHT, EVERYWHERE, NULL },
    { "reduction", run_reduce<NONE>, RIGHT, EVERYWHERE, NULL },
    { "reduction: no barrier before other warps' numbers", run_reduce<NO_BARRIER>, CAUGHT,
      EVERYWHERE, NULL },
    { "reduction: the same, both lines", run_reduce<NO_BARRIER>, CAUGHT, THREAD, RACE },
    { "reduction: no barrier before reuse", run_reduce<NO_REUSE_BARRIER>, CAUGHT, EVERYWHERE,
      NULL },
    { "reduction: no warp_sync", run_reduce<NO_WARP_SYNC>, CAUGHT, EVERYWHERE, NULL },
    { "reduction: the same, both lines", run_reduce<NO_WARP_SYNC>, CAUGHT, THREAD, RACE },
    { "reduction: a thread ends before a barrier", run_reduce<ENDS_BEFORE>, CAUGHT, EVERYWHERE,
      "divergent barrier" },
    { "reduction: a warp at two barriers", run_reduce<TWO_LINES>, CAUGHT, EVERYWHERE,
      "divergent barrier" },
    { "reduction: a lane missing in a shuffle", run_reduce<LANE_MISSING>, CAUGHT, EVERYWHERE,
      "shfl" },
    { "reduction: a lane has ended", run_reduce<LANE_ENDED>, CAUGHT, EVERYWHERE, "ended" },
    { "reduction: uninitialized shared memory", run_reduce<UNINITIALIZED>, CAUGHT, EVERYWHERE,
      NULL },
    { "bounds", run_bounds<NONE>, RIGHT, EVERYWHERE, NULL },
    { "bounds: shared read", run_bounds<SHARED_READ>, CAUGHT, ADDRESS, "use-after-poison" },
    { "bounds: shared write", run_bounds<SHARED_WRITE>, CAUGHT, EVERYWHERE, NULL },
    { "bounds: global read", run_bounds<GLOBAL_READ>, CAUGHT, ADDRESS, "heap-buffer-overflow" },
    { "bounds: global write", run_bounds<GLOBAL_WRITE>, CAUGHT, ADDRESS, "heap-buffer-overflow" },
    { "bounds: source of cp.async", run_bounds<COPY_SOURCE>, CAUGHT, ADDRESS,
      "heap-buffer-overflow" },
    { "bounds: destination of cp.async", run_bounds<COPY_OUTSIDE>, CAUGHT, EVERYWHERE,
      "cp_async16: 16 bytes" },
    { "bounds: cp.async not aligned", run_bounds<MISALIGNED>, CAUGHT, EVERYWHERE,
      "both are multiples" },
    { "bounds: warp_sync in half a warp", run_bounds<PARTIAL_WARP>, CAUGHT, EVERYWHERE,
      "all 32 threads" },
    { "counter", run_count<NONE>, RIGHT, EVERYWHERE, NULL },
    { "counter: not atomic, both lines", run_count<NOT_ATOMIC>, CAUGHT, THREAD, RACE },
    { "bulk copies", run_bulk<NONE>, RIGHT, EVERYWHERE, NULL },
    { "bulk: no wait for full", run_bulk<NO_WAIT>, CAUGHT, EVERYWHERE, NULL },
    { "bulk: no wait for empty", run_bulk<NO_REUSE_BARRIER>, CAUGHT, EVERYWHERE, NULL },
    { "bulk: readers never say empty", run_bulk<NO_COMMIT>, CAUGHT, EVERYWHERE, "never comes" },
    { "bulk: wrong parity", run_bulk<WRONG_PARITY>, CAUGHT, EVERYWHERE, NULL },
    { "bulk: expects too few bytes", run_bulk<TOO_FEW_BYTES>, CAUGHT, EVERYWHERE, NULL },
    { "bulk: expects too many bytes", run_bulk<TOO_MANY_BYTES>, CAUGHT, EVERYWHERE, "never comes" },
    { "bulk: mbarrier not initialized", run_bulk<NO_INIT>, CAUGHT, EVERYWHERE, "no mbar_init" },
    { "bulk: too many arrivals", run_bulk<TOO_MANY_ARRIVALS>, CAUGHT, EVERYWHERE, NULL },
    { "named barrier", run_named<NONE>, RIGHT, EVERYWHERE, NULL },
    { "named barrier: missing", run_named<NO_BARRIER>, CAUGHT, EVERYWHERE, NULL },
    { "named barrier: two thread counts", run_named<WRONG_COUNT>, CAUGHT, EVERYWHERE,
      "named_sync" },
    { "late collective", run_warpgroups<NONE>, RIGHT, EVERYWHERE, NULL },
    { "late collective: no wait", run_warpgroups<NO_WAIT>, CAUGHT, EVERYWHERE, NULL },
    { "late collective: short wait", run_warpgroups<SHORT_WAIT>, CAUGHT, EVERYWHERE, NULL },
    { "late collective: no commit", run_warpgroups<NO_COMMIT>, CAUGHT, EVERYWHERE, NULL },
};
int main()
{
    return run_planted(rows, (int)(sizeof rows / sizeof rows[0])) == 0 ? 0 : 1;
}
