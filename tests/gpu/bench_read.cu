/* bench_read.cu - the streaming read limit of this GPU, and how it depends on the size of what is
 * read and on the bytes in flight (kernels.md, order of proof 1). */
#include "tests/gpu/bench.cuh"

static const unsigned char *pool;
static uint32_t *out;

static void report(const char *way, size_t bytes, int in_flight, double rate)
{
    printf("%-22s %7.1f MB %7d KB in flight an SM %8.1f GB/s\n", way, (double)bytes / 1e6,
           in_flight / 1024, rate / 1e9);
    bench_json("read", "\"way\":\"%s\",\"bytes\":%zu,\"in_flight\":%d,\"gbps\":%.1f", way, bytes,
               in_flight, rate / 1e9);
}
template <int STAGES, int BYTES> static void bulk(size_t bytes, int blocks_per_sm)
{
    report(
        "bulk ring", bytes, STAGES * BYTES * blocks_per_sm,
        bench_read_bulk<STAGES, BYTES>(pool, bytes, BENCH_POOL_BYTES / bytes, out, blocks_per_sm));
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    device_array<unsigned char> memory(BENCH_POOL_BYTES);
    device_array<uint32_t> sink(512);
    bench_fill(memory.data(), BENCH_POOL_BYTES, 1, FILL_ANY, 0);
    pool = memory.data();
    out = sink.data();
    for (const size_t mb : { 4, 8, 16, 32, 64, 128, 512 }) {
        const size_t bytes = mb << 20;
        report("plain loads", bytes, 2048 * 64,
               bench_read_plain(pool, bytes, BENCH_POOL_BYTES / bytes, out));
        bulk<8, 8192>(bytes, 1);
        bulk<8, 8192>(bytes, 2);
    }
    const size_t bytes = BENCH_POOL_BYTES; /* the knee */
    bulk<2, 8192>(bytes, 1);
    bulk<3, 8192>(bytes, 1);
    bulk<4, 8192>(bytes, 1);
    bulk<6, 8192>(bytes, 1);
    bulk<12, 8192>(bytes, 1);
    bulk<24, 8192>(bytes, 1);
    bulk<8, 4096>(bytes, 2);
    bulk<16, 4096>(bytes, 2);
    const double limit = bench_read_limit(pool, out);
    printf("limit: %.1f GB/s\n", limit / 1e9);
    bench_json("read_limit", "\"gbps\":%.1f", limit / 1e9);
    return 0;
}
