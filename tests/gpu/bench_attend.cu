/* bench_attend.cu - attention over paged keys and values, heads of an 8B model (32 query heads, 8
 * of keys and values, 128 features), bf16.
 *
 * decode: GB/s of the keys and values read once, against the streaming read limit.
 * prefill: TFLOP/s of the lower triangle, 4 n_heads head_dim operations a (query, key). */
#include "tests/gpu/bench.cuh"

enum { HEADS = 32, KV_HEADS = 8, HEAD_DIM = 128, ROWS_MAX = 8192, PAGE = 16 };
static const size_t PAGE_BYTES = (size_t)2 * KV_HEADS * PAGE * HEAD_DIM * 2;

static unsigned char *pages_memory; /* BENCH_POOL_BYTES */
static unsigned char *q, *y;
static float *partial;
static uint32_t *tickets;
static size_t partial_bytes;
static double read_limit;

/* A batch of n_seqs sequences with n_rows new rows each behind n_before tokens; page tables at
 * random over all of the pool, so that a launch's pages lie apart as in a server. */
struct step {
    std::vector<int32_t> tokens, positions, row_seq, logit_rows, pages;
    std::vector<struct batch_seq> seqs;
    struct batch batch;
};
static void make_step(struct step *s, int n_seqs, int n_rows, int n_before)
{
    const int stride = (n_before + n_rows + PAGE - 1) / PAGE,
              n_pages = (int)(BENCH_POOL_BYTES / PAGE_BYTES);
    struct random_numbers rng = { 30 };
    std::vector<int32_t> order;
    for (int i = 0; i < n_pages; i++)
        order.push_back(i);
    for (int i = n_pages - 1; i > 0; i--)
        std::swap(order[(size_t)i], order[(size_t)rng.below(i + 1)]);
    for (int seq = 0; seq < n_seqs; seq++) {
        s->seqs.push_back({ seq, seq * n_rows, n_rows, n_before });
        for (int i = 0; i < stride; i++)
            s->pages.push_back(order[(size_t)((seq * stride + i) % n_pages)]);
        for (int i = 0; i < n_rows; i++) {
            s->tokens.push_back(0);
            s->positions.push_back(n_before + i);
            s->row_seq.push_back(seq);
        }
        s->logit_rows.push_back((seq + 1) * n_rows - 1);
    }
    struct batch batch = {};
    batch.serial = 1;
    batch.n_rows = n_seqs * n_rows;
    batch.n_seqs = batch.n_logit_rows = n_seqs;
    batch.tokens = s->tokens.data();
    batch.positions = s->positions.data();
    batch.row_seq = s->row_seq.data();
    batch.seqs = s->seqs.data();
    batch.logit_rows = s->logit_rows.data();
    batch.n_groups = 1;
    batch.pages[0] = s->pages.data();
    batch.pages_stride[0] = stride;
    s->batch = batch;
}
/* Microseconds of one layer's attention. */
static double time_step(const struct step *s, bool prefill)
{
    const int rows = s->batch.n_rows, ctx = s->positions.back() + 1;
    struct attend_plan plan = {};
    plan.decode_max = attend_decode_items_max(rows, ctx, KV_HEADS, 0, &harness.device);
    plan.prefill_max = attend_prefill_items_max(rows);
    std::vector<struct attend_item> decode((size_t)plan.decode_max), some((size_t)plan.prefill_max);
    plan.decode = decode.data();
    plan.prefill = some.data();
    attend_plan_batch(&plan, &s->batch, 0, KV_HEADS, 0, &harness.device);
    if (prefill ? plan.n_prefill == 0 : plan.n_decode == 0)
        return 0;
    const std::vector<struct attend_item> items(prefill ? some.begin() : decode.begin(),
                                                prefill ? some.begin() + plan.n_prefill
                                                        : decode.begin() + plan.n_decode);
    device_array<struct attend_item> d_items(items);
    device_array<int32_t> positions(s->positions), row_seq(s->row_seq), pages(s->pages);
    CUDA(cudaDeviceSynchronize());
    struct attend_in op = {};
    op.q = q;
    op.y = y;
    op.q_stride = op.y_stride = HEADS * HEAD_DIM;
    op.pages_memory = pages_memory;
    op.kv_dtype = DTYPE_BF16;
    op.n_pages = (int32_t)(BENCH_POOL_BYTES / PAGE_BYTES);
    op.n_heads = HEADS;
    op.n_kv_heads = KV_HEADS;
    op.head_dim = HEAD_DIM;
    op.scale = 0.08838834764831845f;
    op.positions = positions.data();
    op.row_seq = row_seq.data();
    op.pages = pages.data();
    op.pages_stride = s->batch.pages_stride[0];
    op.items = d_items.data();
    op.n_items = (int32_t)items.size();
    op.partial = partial;
    op.tickets = tickets;
    if (!prefill && items.size() * HEADS * (HEAD_DIM + 2) * 4 > partial_bytes)
        return 0;
    return bench_us([&](int) {
        return prefill ? attend_prefill(&harness.launch, &op) : attend_decode(&harness.launch, &op);
    });
}
static void bench_decode(int n_seqs, int ctx)
{
    struct step s;
    make_step(&s, n_seqs, 1, ctx - 1);
    const double us = time_step(&s, false),
                 bytes = (double)n_seqs * ctx * KV_HEADS * HEAD_DIM * 2 * 2;
    if (us == 0)
        return;
    /* What fits in L2 is found there by the next launch: the share may then pass 100 %. */
    printf("decode  %4d x %6d keys %9.2f us %8.1f MB %7.0f GB/s %4.0f %% of read\n", n_seqs, ctx,
           us, bytes / 1e6, bytes / us / 1e3, 100 * bytes / us * 1e6 / read_limit);
    bench_json(
        "attend_decode",
        "\"seqs\":%d,\"ctx\":%d,\"us\":%.3f,\"bytes\":%.0f,\"gbps\":%.1f,\"read_share\":%.4f",
        n_seqs, ctx, us, bytes, bytes / us / 1e3, bytes / us * 1e6 / read_limit);
}
static void bench_prefill(int n_seqs, int n_rows)
{
    struct step s;
    make_step(&s, n_seqs, n_rows, 0);
    const double us = time_step(&s, true);
    const double flops = 4.0 * HEADS * HEAD_DIM * n_seqs * ((double)n_rows * (n_rows + 1) / 2);
    if (us == 0)
        return;
    printf("prefill %4d x %6d rows %9.2f us %7.1f TFLOP/s\n", n_seqs, n_rows, us, flops / us / 1e6);
    bench_json("attend_prefill", "\"seqs\":%d,\"rows\":%d,\"us\":%.3f,\"tflops\":%.2f", n_seqs,
               n_rows, us, flops / us / 1e6);
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    partial_bytes = (size_t)256 << 20;
    CUDA(cudaMalloc((void **)&pages_memory, BENCH_POOL_BYTES));
    CUDA(cudaMalloc((void **)&q, (size_t)ROWS_MAX * HEADS * HEAD_DIM * 2));
    CUDA(cudaMalloc((void **)&y, (size_t)ROWS_MAX * HEADS * HEAD_DIM * 2));
    CUDA(cudaMalloc((void **)&partial, partial_bytes));
    CUDA(cudaMalloc((void **)&tickets, (size_t)ROWS_MAX * KV_HEADS * 4));
    CUDA(cudaMemset(tickets, 0, (size_t)ROWS_MAX * KV_HEADS * 4));
    bench_fill(pages_memory, BENCH_POOL_BYTES, 1, FILL_BF16, FILL_BF16_BITS);
    bench_fill(q, (size_t)ROWS_MAX * HEADS * HEAD_DIM * 2, 2, FILL_BF16, FILL_BF16_BITS);
    read_limit = bench_read_limit(pages_memory, (uint32_t *)partial);
    bench_json("read_limit", "\"gbps\":%.1f", read_limit / 1e9);
    for (const int ctx : { 1024, 4096, 16384, 65536 })
        bench_decode(1, ctx);
    for (const int n_seqs : { 4, 8, 16, 32, 64 })
        bench_decode(n_seqs, 4096);
    bench_decode(128, 1024);
    bench_decode(256, 512);
    for (const int rows : { 512, 2048, 4096, 8192 })
        bench_prefill(1, rows);
    bench_prefill(8, 512);
    return 0;
}
