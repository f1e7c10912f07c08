/* test_attend.cu - K5 and K6 with their work lists against loops in double precision.
 *
 * Pages are shuffled; what no sequence has written is NaN (0xff), as are pages behind the window,
 * the q of padding rows, and the partials before the launch: a key too many shows as NaN. */
#include <algorithm>
#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"
#ifdef HOSTCUDA
#include "hostcuda.h"
#endif

/* ---- numbers ----------------------------------------------------------------------------------
 */

static uint16_t bf16_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static float bf16_value(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}
/* Of |v| in [2^-14, 65504), or 0, whose value has few bits: cut to 10 of the fraction. */
static uint16_t f16_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    if ((u & 0x7fffffffu) < 0x38800000u)
        return 0;
    return (uint16_t)((u >> 16 & 0x8000u) | ((u & 0x7fffffffu) - 0x38000000u) >> 13);
}
static float f16_value(uint16_t h)
{
    const uint32_t u =
        (uint32_t)(h & 0x8000) << 16 | (h & 0x7fff ? (h & 0x7fffu) * 8192 + 0x38000000u : 0);
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* ---- a batch ----------------------------------------------------------------------------------
 */

struct rows_of_seq {
    int32_t first_position, n_rows;
};
struct shape {
    const char *what;
    int32_t head_dim, n_heads, n_kv_heads;
    enum dtype kv;
    int32_t window;
    float soft_cap;
    bool sinks;
    int32_t chunk;
    std::vector<rows_of_seq> seqs;
};

struct world {
    struct shape shape;
    int32_t n_rows, n_pages, pages_stride;
    std::vector<batch_seq> seqs;
    std::vector<int32_t> positions, row_seq, pages;
    std::vector<uint16_t> q; /* stride q_stride */
    std::vector<uint8_t> memory;
    std::vector<float> sinks;
    int64_t q_stride, y_stride;
    struct batch batch;
    float scale;

    int32_t group() const
    {
        return shape.n_heads / shape.n_kv_heads;
    }
    size_t block(int32_t page, int which, int32_t kv_head) const
    {
        const size_t dim = (size_t)shape.head_dim;
        return (((size_t)page * 2 + (size_t)which) * (size_t)shape.n_kv_heads + (size_t)kv_head) *
               (shape.kv == DTYPE_I8 ? 16 * dim + 64 : 32 * dim);
    }
    /* Feature d of a token of a block. */
    double element(size_t block, int32_t token, size_t d) const
    {
        const size_t dim = (size_t)shape.head_dim, i = (size_t)token * dim + d;
        uint16_t bits;
        float scale;
        if (shape.kv == DTYPE_I8) {
            memcpy(&scale, &memory[block + 16 * dim + 4 * (size_t)token], sizeof scale);
            return (double)scale * (int8_t)memory[block + i];
        }
        memcpy(&bits, &memory[block + 2 * i], sizeof bits);
        return shape.kv == DTYPE_F16 ? f16_value(bits) : bf16_value(bits);
    }
    void put(size_t block, int32_t token, const std::vector<float> &head)
    {
        const size_t dim = head.size(), first = (size_t)token * dim;
        float scale = 0.0f;
        for (const float v : head)
            scale = fmaxf(scale, fabsf(v) / 127.0f);
        for (size_t d = 0; d < dim; d++) {
            const uint16_t bits = shape.kv == DTYPE_F16 ? f16_bits(head[d]) : bf16_bits(head[d]);
            if (shape.kv == DTYPE_I8)
                memory[block + first + d] = (uint8_t)(int8_t)rintf(head[d] / scale);
            else
                memcpy(&memory[block + 2 * (first + d)], &bits, sizeof bits);
        }
        if (shape.kv == DTYPE_I8)
            memcpy(&memory[block + 16 * dim + 4 * (size_t)token], &scale, sizeof scale);
    }
};
enum { PADDING_ROWS = 3 };

static void fill_pages(struct world &w, struct random_numbers &random)
{
    const struct shape &s = w.shape;
    int32_t used = 0;
    for (const batch_seq &seq : w.seqs)
        w.pages_stride = std::max(w.pages_stride, kv_pages_for(seq.first_position + seq.n_rows));
    w.pages_stride += 2;
    w.pages.assign(w.seqs.size() * (size_t)w.pages_stride, -1);
    for (size_t i = 0; i < w.seqs.size(); i++) {
        const int32_t first = s.window > 0 ? w.seqs[i].first_position + 1 - s.window : 0;
        const int32_t end = w.seqs[i].first_position + w.seqs[i].n_rows;
        for (int32_t page = std::max(first, 0) / PAGE_TOKENS; page < kv_pages_for(end); page++)
            w.pages[i * (size_t)w.pages_stride + (size_t)page] = used++;
    }
    w.n_pages = used + 5;
    std::vector<int32_t> order((size_t)w.n_pages);
    for (size_t i = 0; i < order.size(); i++)
        order[i] = (int32_t)i;
    for (size_t i = order.size() - 1; i > 0; i--)
        std::swap(order[i], order[(size_t)random.below((int)i + 1)]);
    for (int32_t &page : w.pages)
        page = page < 0 ? -1 : order[(size_t)page];
}
static void fill_memory(struct world &w, struct random_numbers &random)
{
    const struct shape &s = w.shape;
    w.memory.assign(w.block(w.n_pages, 0, 0), 0xff);
    std::vector<float> head((size_t)s.head_dim);
    for (size_t i = 0; i < w.seqs.size(); i++)
        for (int32_t p = 0; p < w.seqs[i].first_position + w.seqs[i].n_rows; p++) {
            const int32_t page = w.pages[i * (size_t)w.pages_stride + (size_t)p / PAGE_TOKENS];
            if (page < 0)
                continue;
            for (int which = 0; which < 2; which++)
                for (int32_t h = 0; h < s.n_kv_heads; h++) {
                    /* int8: scales that differ from token to token */
                    const float size = s.kv == DTYPE_I8 ? 0.25f + fabsf(random.uniform()) : 1.0f;
                    for (float &v : head)
                        v = size * random.uniform();
                    w.put(w.block(page, which, h), p % PAGE_TOKENS, head);
                }
        }
}
static struct world world_make(const struct shape &s, uint64_t seed)
{
    struct world w = {};
    struct random_numbers random = { seed };
    w.shape = s;
    for (size_t i = 0; i < s.seqs.size(); i++) {
        w.seqs.push_back({ (int32_t)i, w.n_rows, s.seqs[i].n_rows, s.seqs[i].first_position, 0 });
        for (int32_t r = 0; r < s.seqs[i].n_rows; r++) {
            w.positions.push_back(s.seqs[i].first_position + r);
            w.row_seq.push_back((int32_t)i);
            w.n_rows++;
        }
    }
    for (int i = 0; i < PADDING_ROWS; i++) {
        w.positions.push_back(-1);
        w.row_seq.push_back(0);
    }
    fill_pages(w, random);
    fill_memory(w, random);
    w.q_stride = s.n_heads * s.head_dim + 16;
    w.y_stride = s.n_heads * s.head_dim + 8;
    w.q.assign((size_t)(w.q_stride * (w.n_rows + PADDING_ROWS)), 0xffff);
    for (int32_t r = 0; r < w.n_rows; r++)
        for (int32_t i = 0; i < s.n_heads * s.head_dim; i++) /* sharp enough to move the maximum */
            w.q[(size_t)(r * w.q_stride + i)] =
                bf16_bits(bf16_value(bf16_bits(random.uniform())) * 8.0f);
    if (s.sinks)
        for (int32_t h = 0; h < s.n_heads; h++)
            w.sinks.push_back(4.0f * random.uniform());
    w.scale = 1.0f / sqrtf((float)s.head_dim);
    w.batch.n_rows = w.n_rows;
    w.batch.n_seqs = (int32_t)w.seqs.size();
    w.batch.n_groups = 1;
    return w;
}
static const struct batch *world_batch(struct world &w)
{
    w.batch.positions = w.positions.data();
    w.batch.row_seq = w.row_seq.data();
    w.batch.seqs = w.seqs.data();
    w.batch.pages[0] = w.pages.data();
    w.batch.pages_stride[0] = w.pages_stride;
    return &w.batch;
}

/* ---- what it should be --------------------------------------------------------------------------
 */

/* y[D] of a row and head, and the mean of |v| under its probabilities. */
static void plain_attend(const struct world &w, int32_t row, int32_t head, std::vector<double> &y,
                         std::vector<double> &weight)
{
    const struct shape &s = w.shape;
    const size_t dim = (size_t)s.head_dim;
    const int32_t last = w.positions[(size_t)row], kv_head = head / w.group();
    const int32_t first = s.window > 0 ? std::max(0, last + 1 - s.window) : 0;
    const int32_t *table = &w.pages[(size_t)(w.row_seq[(size_t)row] * w.pages_stride)];
    std::vector<double> scores;
    double top = s.sinks ? (double)w.sinks[(size_t)head] : -1e300;
    for (int32_t p = first; p <= last; p++) {
        const size_t k = w.block(table[p / PAGE_TOKENS], 0, kv_head);
        double sum = 0.0;
        for (size_t d = 0; d < dim; d++)
            sum += (double)bf16_value(w.q[(size_t)(row * w.q_stride) + (size_t)head * dim + d]) *
                   w.element(k, p % PAGE_TOKENS, d);
        sum *= (double)w.scale;
        if (s.soft_cap > 0.0f)
            sum = (double)s.soft_cap * tanh(sum / (double)s.soft_cap);
        scores.push_back(sum);
        top = std::max(top, sum);
    }
    double l = s.sinks ? exp((double)w.sinks[(size_t)head] - top) : 0.0;
    y.assign(dim, 0.0);
    weight.assign(dim, 0.0);
    for (int32_t p = first; p <= last; p++) {
        const size_t block = w.block(table[p / PAGE_TOKENS], 1, kv_head);
        const double probability = exp(scores[(size_t)(p - first)] - top);
        l += probability;
        for (size_t d = 0; d < dim; d++) {
            const double v = w.element(block, p % PAGE_TOKENS, d);
            y[d] += probability * v;
            weight[d] += probability * fabs(v);
        }
    }
    for (size_t d = 0; d < dim; d++) {
        y[d] /= l;
        weight[d] /= l;
    }
}

/* ---- a kernel in front --------------------------------------------------------------------------
 */

struct copy_args {
    struct {
        void *to;
        const void *from;
        int64_t n; /* of 16 bytes */
    } parts[2];
};
KERNEL(128, 1) copy_kernel(const __grid_constant__ struct copy_args a)
{
    griddep_launch();
    for (const auto &part : a.parts)
        for (int64_t i = blockIdx.x * 128 + threadIdx.x; i < part.n; i += gridDim.x * 128)
            st128((uint4 *)part.to + i, ld128((const uint4 *)part.from + i));
}
/* q and pages come from a kernel, during which the next may start. */
static bool behind_kernel;

/* ---- what it is -------------------------------------------------------------------------------
 */

struct launched {
    std::vector<uint16_t> y;
    int32_t n_decode, n_prefill, n_split_max;
};

static struct launched world_run(struct world &w)
{
    const struct shape &s = w.shape;
    const size_t rows = (size_t)w.n_rows + PADDING_ROWS;
    std::vector<attend_item> decode((size_t)attend_decode_items_max(
        (int32_t)rows, 4096, s.n_kv_heads, s.chunk, &harness.device));
    std::vector<attend_item> prefills((size_t)attend_prefill_items_max((int32_t)rows));
    struct attend_plan plan = {};
    plan.decode = decode.data();
    plan.prefill = prefills.data();
    plan.decode_max = (int32_t)decode.size();
    plan.prefill_max = (int32_t)prefills.size();
    attend_plan_batch(&plan, world_batch(w), s.window, s.n_kv_heads, s.chunk, &harness.device);
    struct launched out = {};
    out.n_decode = plan.n_decode;
    out.n_prefill = plan.n_prefill;
    for (int32_t i = 0; i < plan.n_decode; i++)
        out.n_split_max = std::max(out.n_split_max, decode[(size_t)i].n_splits);
    prefills.resize((size_t)plan.n_prefill);
    attend_item padding = {};
    padding.row = -1;
    prefills.push_back(padding);

    device_array<uint16_t> q(w.q), y(std::vector<uint16_t>(rows * (size_t)w.y_stride, 0x4242));
    device_array<uint8_t> memory(w.memory);
    device_array<int32_t> positions(w.positions), row_seq(w.row_seq), pages(w.pages);
    device_array<float> sinks(w.sinks),
        partial(decode.size() * (size_t)s.n_heads * (size_t)(s.head_dim + 2));
    device_array<uint32_t> tickets(rows * (size_t)s.n_kv_heads);
    device_array<attend_item> decode_items(decode), prefill_items(prefills);
    device_array<uint16_t> q_from(w.q);
    device_array<uint8_t> memory_from(w.memory);
    tickets.zero();
    harness.launch.pdl = behind_kernel;
    if (behind_kernel) {
        CUDA(cudaMemset(q.data(), 0xff, w.q.size() * 2));
        CUDA(cudaMemset(memory.data(), 0xff, w.memory.size()));
        const struct copy_args args = { { { q.data(), q_from.data(), (int64_t)w.q.size() / 8 },
                                          { memory.data(), memory_from.data(),
                                            (int64_t)w.memory.size() / 16 } } };
        CUDA(LAUNCH((copy_kernel), dim3(4), 128, 0, harness.stream, LAUNCH_PLAIN, args));
    }
    struct attend_in in = {};
    in.q = q.data();
    in.y = y.data();
    in.q_stride = w.q_stride;
    in.y_stride = w.y_stride;
    in.pages_memory = memory.data();
    in.kv_dtype = s.kv;
    in.n_pages = w.n_pages;
    in.n_heads = s.n_heads;
    in.n_kv_heads = s.n_kv_heads;
    in.head_dim = s.head_dim;
    in.window = s.window;
    in.scale = w.scale;
    in.soft_cap = s.soft_cap;
    in.sinks = s.sinks ? sinks.data() : NULL;
    in.positions = positions.data();
    in.row_seq = row_seq.data();
    in.pages = pages.data();
    in.pages_stride = w.pages_stride;
    in.partial = partial.data();
    in.tickets = tickets.data();
    if (plan.n_decode > 0) {
        in.items = decode_items.data();
        in.n_items = plan.decode_max; /* the surplus too */
        CUDA(attend_decode(&harness.launch, &in));
    }
    if (plan.n_prefill > 0) {
        in.items = prefill_items.data();
        in.n_items = plan.n_prefill + 1;
        CUDA(attend_prefill(&harness.launch, &in));
    }
    out.y = y.read();
    (void)partial.read(); /* guards */
    for (const uint32_t ticket : tickets.read())
        EXPECT(ticket == 0, "a ticket stayed at %u", ticket);
    return out;
}

static void check_numbers(const struct world &w, const std::vector<uint16_t> &y)
{
    const struct shape &s = w.shape;
    const double unit = s.kv == DTYPE_F16 ? 0x1p-11 : 0x1p-8; /* of the probabilities */
    std::vector<double> wanted, weight;
    for (int32_t row = 0; row < w.n_rows; row++)
        for (int32_t head = 0; head < s.n_heads; head++) {
            plain_attend(w, row, head, wanted, weight);
            for (size_t d = 0; d < wanted.size(); d++) {
                const float found =
                    bf16_value(y[(size_t)(row * w.y_stride) + (size_t)(head * s.head_dim) + d]);
                EXPECT_NEAR(found, wanted[d],
                            (unit + 0x1p-13) * weight[d] + 0x1.02p-8 * fabs(wanted[d]) + 1e-5, 0);
            }
        }
    for (size_t i = 0; i < y.size(); i++) {
        const int64_t row = (int64_t)i / w.y_stride, col = (int64_t)i % w.y_stride;
        if (row >= w.n_rows || col >= s.n_heads * s.head_dim)
            EXPECT(y[i] == 0x4242, "row %d column %d is no output, and was written", (int)row,
                   (int)col);
    }
}

static void reseed(uint64_t seed)
{
#ifdef HOSTCUDA
    hostcuda_seed(seed);
#else
    (void)seed;
#endif
}
static void test_shape(const struct shape &s)
{
    EXPECT(attend_fits(s.head_dim, s.n_heads, s.n_kv_heads, s.kv), "does not fit");
    struct world w = world_make(s, 77);
    const struct launched first = world_run(w);
    check_numbers(w, first.y);
    int32_t alone = 0;
    for (const rows_of_seq &seq : s.seqs)
        alone += seq.n_rows == 1;
    EXPECT(first.n_decode >= alone && (first.n_decode > 0) == (alone > 0), "%d items for %d rows",
           first.n_decode, alone);
    if (s.chunk > 0 && alone > 0)
        EXPECT(first.n_split_max > 1, "no split: the merge was not tested");
    for (uint64_t seed = 5; seed < 7; seed++) {
        reseed(seed);
        EXPECT(world_run(w).y == first.y, "other bits at seed %d", (int)seed);
    }
    reseed(1);
}

/* A row's bits with a fixed chunk, alone and among others. */
static void test_company(enum dtype kv)
{
    const struct shape many = {
        "many", 64,   4,     2,  kv,
        0,      0.0f, false, 64, { { 299, 1 }, { 5, 1 }, { 130, 20 }, { 64, 1 }, { 70, 1 } }
    };
    struct world w = world_make(many, 3);
    const std::vector<uint16_t> all = world_run(w).y;
    const size_t cols = (size_t)(many.n_heads * many.head_dim);
    for (size_t i = 0; i < w.seqs.size(); i++) {
        struct world one = w;
        const batch_seq seq = w.seqs[i];
        one.n_rows = one.batch.n_rows = seq.n_rows;
        one.batch.n_seqs = 1;
        one.seqs = { seq };
        one.seqs[0].first_row = 0;
        for (int32_t r = 0; r < seq.n_rows; r++) {
            one.positions[(size_t)r] = w.positions[(size_t)(seq.first_row + r)];
            one.row_seq[(size_t)r] = 0;
            std::copy_n(&w.q[(size_t)((seq.first_row + r) * w.q_stride)], cols,
                        &one.q[(size_t)(r * w.q_stride)]);
        }
        std::copy_n(&w.pages[i * (size_t)w.pages_stride], w.pages_stride, &one.pages[0]);
        const std::vector<uint16_t> y = world_run(one).y;
        for (int32_t r = 0; r < seq.n_rows; r++)
            EXPECT(std::equal(&y[(size_t)(r * w.y_stride)], &y[(size_t)(r * w.y_stride)] + cols,
                              &all[(size_t)((seq.first_row + r) * w.y_stride)]),
                   "sequence %d row %d has other bits alone", (int)i, (int)r);
    }
}

/* ---- the work lists -----------------------------------------------------------------------------
 */

/* Every key of every lone row once, in order; every other row once; inside the bounds. */
static void check_plan(const struct batch &batch, int32_t window, int32_t n_kv_heads, int32_t chunk,
                       int32_t ctx, const struct device_info *device)
{
    int32_t lone = 0;
    for (int32_t s = 0; s < batch.n_seqs; s++)
        lone += batch.seqs[s].n_rows == 1;
    std::vector<attend_item> decode(
        (size_t)attend_decode_items_max(std::max(lone, 1), ctx, n_kv_heads, chunk, device) + 2);
    std::vector<attend_item> prefill((size_t)attend_prefill_items_max(batch.n_rows));
    struct attend_plan plan = {};
    plan.decode = decode.data();
    plan.prefill = prefill.data();
    plan.decode_max = (int32_t)decode.size() - 2; /* two guards */
    plan.prefill_max = (int32_t)prefill.size();
    decode[decode.size() - 2].row = decode[decode.size() - 1].row = 4711;
    attend_plan_batch(&plan, &batch, window, n_kv_heads, chunk, device);
    EXPECT(plan.n_decode_rows == lone, "%d rows, wanted %d", plan.n_decode_rows, lone);
    EXPECT(decode[decode.size() - 2].row == 4711, "wrote behind decode_max");
    int32_t at = 0, prefill_at = 0, chunk_found = 0;
    for (int32_t s = 0; s < batch.n_seqs; s++) {
        const batch_seq &seq = batch.seqs[s];
        if (seq.n_rows != 1)
            continue;
        const int32_t first = at, to = seq.first_position + 1;
        const int32_t low = window > 0 ? std::max(0, to - window) : 0;
        int32_t from = low / PAGE_TOKENS * PAGE_TOKENS;
        do {
            const attend_item &item = decode[(size_t)at];
            EXPECT(item.row == seq.first_row && item.n_rows == 1, "item %d: row %d", at, item.row);
            EXPECT(item.from == from && item.to > from && item.to <= to, "item %d: keys %d..%d", at,
                   item.from, item.to);
            EXPECT(item.split == at - first && item.first == first, "item %d: split %d from %d", at,
                   item.split, item.first);
            EXPECT(item.to == to || item.to % PAGE_TOKENS == 0, "item %d: cut in a page", at);
            if (item.to < to) {
                EXPECT(chunk_found == 0 || chunk_found == item.to - item.from, "uneven chunks");
                chunk_found = item.to - item.from;
            }
            from = item.to;
            at++;
        } while (from < to && at < plan.n_decode);
        EXPECT(from == to, "row %d: keys end at %d, wanted %d", seq.first_row, from, to);
        for (int32_t i = first; i < at; i++)
            EXPECT(decode[(size_t)i].n_splits == at - first, "item %d of %d splits", i,
                   decode[(size_t)i].n_splits);
    }
    EXPECT(chunk == 0 || chunk_found == 0 || chunk_found == chunk, "chunk %d", chunk_found);
    EXPECT(at == plan.n_decode && at <= plan.decode_max, "%d items, %d used", plan.n_decode, at);
    for (int32_t i = at; i < plan.decode_max; i++)
        EXPECT(decode[(size_t)i].row == -1, "surplus item %d has row %d", i, decode[(size_t)i].row);
    std::vector<int> seen((size_t)batch.n_rows, 0);
    for (; prefill_at < plan.n_prefill; prefill_at++) {
        const attend_item &item = prefill[(size_t)prefill_at];
        EXPECT(item.n_rows > 0 && item.to == batch.positions[item.row + item.n_rows - 1] + 1,
               "prefill item %d: to %d", prefill_at, item.to);
        EXPECT(batch.row_seq[item.row] == batch.row_seq[item.row + item.n_rows - 1],
               "prefill item %d: two sequences", prefill_at);
        for (int32_t r = 0; r < item.n_rows; r++)
            seen[(size_t)(item.row + r)]++;
    }
    for (int32_t r = 0; r < batch.n_rows; r++)
        EXPECT(seen[(size_t)r] == (batch.seqs[batch.row_seq[r]].n_rows > 1), "row %d in %d items",
               r, seen[(size_t)r]);
}
static void test_plans(int32_t ctx, int32_t n_sms, int32_t n_kv_heads)
{
    struct random_numbers random = { (uint64_t)(ctx + n_sms) };
    struct device_info device = {};
    device.n_sms = n_sms;
    device.arch = 90;
    for (int i = 0; i < 200; i++) {
        std::vector<batch_seq> seqs;
        std::vector<int32_t> positions, row_seq;
        const int n_seqs = 1 + random.below(i % 10 == 0 ? 200 : 8);
        for (int s = 0; s < n_seqs; s++) {
            const int32_t n_rows = random.below(3) > 0 ? 1 : random.below(std::min(400, ctx)) + 1;
            const int32_t first = random.below(ctx - n_rows + 1);
            seqs.push_back({ s, (int32_t)positions.size(), n_rows, first, 0 });
            for (int32_t r = 0; r < n_rows; r++) {
                positions.push_back(first + r);
                row_seq.push_back(s);
            }
        }
        struct batch batch = {};
        batch.n_rows = (int32_t)positions.size();
        batch.n_seqs = n_seqs;
        batch.positions = positions.data();
        batch.row_seq = row_seq.data();
        batch.seqs = seqs.data();
        const int32_t window = i % 3 == 0 ? 0 : 1 + random.below(ctx);
        const int32_t chunk = i % 4 == 0 ? 64 : i % 4 == 1 ? 512 : 0;
        check_plan(batch, window, n_kv_heads, chunk, ctx, &device);
    }
}
static void test_one_long_row(void)
{
    struct device_info device = {};
    device.n_sms = 132;
    const batch_seq seq = { 0, 0, 1, 32767, 0 };
    const int32_t position = 32767, zero = 0;
    struct batch batch = {};
    batch.n_rows = batch.n_seqs = 1;
    batch.positions = &position;
    batch.row_seq = &zero;
    batch.seqs = &seq;
    attend_item items[512];
    struct attend_plan plan = {};
    plan.decode = items;
    plan.decode_max = attend_decode_items_max(1, 32768, 8, 0, &device);
    attend_plan_batch(&plan, &batch, 0, 8, 0, &device);
    EXPECT(plan.decode_max <= 512 && plan.n_decode * 8 >= 2 * 132 && plan.n_decode * 8 <= 4 * 132,
           "%d items of 8 KV heads for 132 SMs", plan.n_decode);
}

/* ---- cases ------------------------------------------------------------------------------------
 */

static const std::vector<rows_of_seq> lone_rows = { { 0, 1 },  { 14, 1 }, { 15, 1 },
                                                    { 16, 1 }, { 99, 1 }, { 203, 1 } };
static const std::vector<rows_of_seq> chunks = { { 0, 1 }, { 0, 2 }, { 37, 70 }, { 0, 33 } };
static const struct shape decode_shapes[] = {
    { "head dims", 64, 4, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "head dims", 80, 4, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "head dims", 96, 4, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "head dims", 128, 8, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "head dims", 256, 4, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "fp16", 64, 2, 2, DTYPE_F16, 0, 0, false, 0, lone_rows },
    { "fp16", 80, 14, 2, DTYPE_F16, 0, 0, false, 0, lone_rows },
    { "fp16", 96, 3, 3, DTYPE_F16, 0, 0, false, 0, lone_rows },
    { "fp16", 128, 16, 2, DTYPE_F16, 0, 0, false, 0, lone_rows },
    { "fp16", 256, 16, 2, DTYPE_F16, 0, 0, false, 64, lone_rows },
    { "group 1", 128, 2, 2, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "group 7", 128, 14, 2, DTYPE_BF16, 0, 0, false, 64, lone_rows },
    { "group 12", 64, 24, 2, DTYPE_BF16, 0, 0, true, 64, lone_rows },
    { "group 16", 128, 16, 1, DTYPE_F16, 0, 0, false, 0, lone_rows },
    { "group 20, two passes", 80, 20, 1, DTYPE_BF16, 0, 0, true, 64, lone_rows },
    { "group 12, two passes", 256, 12, 1, DTYPE_BF16, 0, 0, false, 0, lone_rows },
    { "1000 keys", 128, 4, 1, DTYPE_BF16, 0, 0, false, 0, { { 999, 1 } } },
    { "1000 keys in 63 splits", 64, 4, 1, DTYPE_BF16, 0, 0, true, 16, { { 999, 1 } } },
    { "40 pages a warp", 64, 1, 1, DTYPE_F16, 0, 0, false, 2560, { { 2999, 1 }, { 2500, 1 } } },
    { "window 1", 64, 4, 2, DTYPE_BF16, 1, 0, false, 0, lone_rows },
    { "window 16", 64, 4, 2, DTYPE_BF16, 16, 0, false, 0, lone_rows },
    { "window 50", 64, 4, 2, DTYPE_F16, 50, 0, true, 16, lone_rows },
    { "window 128", 128, 4, 2, DTYPE_BF16, 128, 0, false, 64, lone_rows },
    { "soft cap", 64, 4, 2, DTYPE_BF16, 0, 3.0f, false, 64, lone_rows },
    { "soft cap, window, sinks", 128, 8, 2, DTYPE_F16, 70, 20.0f, true, 32, lone_rows },
    { "int8", 64, 4, 2, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8", 80, 4, 2, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8", 96, 2, 2, DTYPE_I8, 0, 0, false, 16, lone_rows },
    { "int8", 128, 8, 2, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8", 256, 4, 2, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8, group 14", 64, 28, 2, DTYPE_I8, 0, 0, true, 64, lone_rows },
    { "int8, group 20, two passes", 80, 20, 1, DTYPE_I8, 0, 0, true, 64, lone_rows },
    { "int8, group 10", 96, 10, 1, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8, group 12", 128, 12, 1, DTYPE_I8, 0, 0, false, 0, lone_rows },
    { "int8, group 12, two passes", 256, 12, 1, DTYPE_I8, 0, 0, false, 64, lone_rows },
    { "int8, 1000 keys", 128, 4, 1, DTYPE_I8, 0, 0, false, 0, { { 999, 1 } } },
    { "int8, window 50", 64, 4, 2, DTYPE_I8, 50, 0, true, 16, lone_rows },
    { "int8, soft cap, window, sinks", 128, 8, 2, DTYPE_I8, 70, 20.0f, true, 32, lone_rows },
};
static const struct shape prefill_shapes[] = {
    { "chunks", 64, 4, 2, DTYPE_BF16, 0, 0, false, 0, chunks },
    { "chunks", 80, 4, 2, DTYPE_BF16, 0, 0, false, 0, chunks },
    { "chunks", 96, 2, 2, DTYPE_F16, 0, 0, false, 0, chunks },
    { "chunks", 128, 8, 2, DTYPE_BF16, 0, 0, false, 0, chunks },
    { "chunks", 128, 7, 1, DTYPE_F16, 0, 0, false, 0, chunks },
    { "chunks", 256, 4, 2, DTYPE_BF16, 0, 0, false, 0, chunks },
    { "chunks", 256, 3, 1, DTYPE_F16, 0, 0, true, 0, chunks },
    { "group 1, 300 rows", 64, 1, 1, DTYPE_BF16, 0, 0, false, 0, { { 0, 300 } } },
    { "group 16", 64, 16, 1, DTYPE_BF16, 0, 0, true, 0, { { 40, 30 } } },
    { "128 rows exactly",
      128,
      2,
      1,
      DTYPE_BF16,
      0,
      0,
      false,
      0,
      { { 0, 128 }, { 16, 129 }, { 62, 9 }, { 126, 9 } } },
    { "after 1000 keys", 64, 2, 1, DTYPE_F16, 0, 0, false, 0, { { 1000, 9 } } },
    { "after 1000 keys", 128, 2, 1, DTYPE_BF16, 0, 0, true, 0, { { 1000, 9 }, { 500, 100 } } },
    { "after 500 keys", 256, 2, 1, DTYPE_BF16, 0, 0, false, 0, { { 500, 70 } } },
    { "window 1", 64, 4, 2, DTYPE_BF16, 1, 0, false, 0, chunks },
    { "window 17",
      64,
      2,
      1,
      DTYPE_BF16,
      17,
      0,
      false,
      0,
      { { 131, 150 }, { 32, 2 }, { 62, 9 }, { 126, 9 } } },
    { "window 17, rows without a key in the first block",
      64,
      1,
      1,
      DTYPE_BF16,
      17,
      0,
      false,
      0,
      { { 24, 128 } } },
    { "a block ends one key behind the first row",
      64,
      8,
      8,
      DTYPE_BF16,
      0,
      0,
      false,
      0,
      { { 126, 9 }, { 62, 9 } } },
    { "window 113", 64, 2, 1, DTYPE_BF16, 113, 0, false, 0, { { 128, 2 } } },
    { "window 64", 128, 2, 2, DTYPE_F16, 64, 0, true, 0, { { 100, 90 }, { 0, 70 } } },
    { "soft cap", 64, 4, 2, DTYPE_BF16, 0, 3.0f, false, 0, chunks },
    { "soft cap, window, sinks", 128, 4, 2, DTYPE_F16, 33, 20.0f, true, 0, chunks },
    { "mixed",
      128,
      4,
      2,
      DTYPE_BF16,
      0,
      0,
      false,
      32,
      { { 90, 1 }, { 3, 40 }, { 7, 1 }, { 0, 3 } } },
    { "int8", 64, 4, 2, DTYPE_I8, 0, 0, false, 0, chunks },
    { "int8", 80, 4, 2, DTYPE_I8, 0, 0, false, 0, chunks },
    { "int8", 96, 2, 2, DTYPE_I8, 0, 0, false, 0, chunks },
    { "int8", 128, 8, 2, DTYPE_I8, 0, 0, false, 0, chunks },
    { "int8", 256, 4, 2, DTYPE_I8, 0, 0, false, 0, chunks },
    { "int8, group 16", 64, 16, 1, DTYPE_I8, 0, 0, true, 0, { { 40, 30 } } },
    { "int8, after 1000 keys", 128, 2, 1, DTYPE_I8, 0, 0, true, 0, { { 1000, 9 }, { 500, 100 } } },
    { "int8, window 17", 64, 2, 1, DTYPE_I8, 17, 0, false, 0, { { 131, 150 }, { 62, 9 } } },
    { "int8, window 64", 96, 2, 2, DTYPE_I8, 64, 0, true, 0, { { 100, 90 }, { 0, 70 } } },
    { "int8, soft cap, window, sinks", 128, 4, 2, DTYPE_I8, 33, 20.0f, true, 0, chunks },
    { "int8, mixed", 128, 4, 2, DTYPE_I8, 0, 0, false, 32, { { 90, 1 }, { 3, 40 }, { 0, 3 } } },
};

static const struct shape one_chunk = { "one chunk", 64, 2,     2, DTYPE_BF16,
                                        0,           0,  false, 0, { { 0, 300 } } };
static const struct shape one_chunk_int8 = { "one chunk", 64, 2,     2, DTYPE_I8,
                                             0,           0,  false, 0, { { 0, 300 } } };
static bool wgmma_fits(const struct shape &s)
{
    struct attend_in in = {};
    in.head_dim = s.head_dim;
    in.kv_dtype = s.kv;
    return attend_wgmma_fits(&in, &harness.device);
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    for (const struct shape &s : decode_shapes)
        CASE("decode %s: head_dim=%d heads=%d/%d window=%d", s.what, s.head_dim, s.n_heads,
             s.n_kv_heads, s.window)
    test_shape(s);
    const bool wgmma = harness.device.wgmma;
    for (const bool use : { false, true }) {
        harness.device.wgmma = use;
        for (const struct shape &s : prefill_shapes) {
            if (use && (!wgmma || !wgmma_fits(s)))
                continue;
            CASE("prefill %s: head_dim=%d heads=%d/%d window=%d%s", s.what, s.head_dim, s.n_heads,
                 s.n_kv_heads, s.window, use ? " wgmma" : "")
            test_shape(s);
        }
        if (!use || wgmma)
            CASE("prefill behind a kernel that writes q and pages%s", use ? " wgmma" : "")
            {
                behind_kernel = true;
                test_shape(one_chunk);
                if (!use)
                    test_shape(one_chunk_int8);
                behind_kernel = false;
            }
    }
    harness.device.wgmma = wgmma;
    CASE("decode behind a kernel that writes q and pages")
    {
        behind_kernel = true;
        test_shape(decode_shapes[0]);
        behind_kernel = false;
    }
    CASE("a fixed chunk gives a row its bits whatever the batch") test_company(DTYPE_BF16);
    CASE("a fixed chunk gives a row its bits whatever the batch: int8")
    test_company(DTYPE_I8);
    for (const int32_t n_sms : { 1, 132 })
        for (const int32_t ctx : { 40, 3000, 131072 })
            for (const int32_t n_kv_heads : { 1, 8 })
                CASE("plans: ctx=%d sms=%d kv_heads=%d", ctx, n_sms, n_kv_heads)
    test_plans(ctx, n_sms, n_kv_heads);
    CASE("one long row fills the device") test_one_long_row();
    CASE("what does not fit")
    {
        EXPECT(!attend_fits(72, 4, 4, DTYPE_BF16) && !attend_fits(512, 4, 4, DTYPE_BF16), "sizes");
        EXPECT(!attend_fits(128, 4, 4, DTYPE_F32) && !attend_fits(128, 6, 4, DTYPE_BF16), "types");
        EXPECT(attend_fits(128, 71, 1, DTYPE_BF16), "any group");
        EXPECT(attend_fits(96, 4, 4, DTYPE_I8) && !attend_fits(96, 4, 4, DTYPE_U8), "int8");
        EXPECT(!wgmma_fits(one_chunk_int8) && (!wgmma || wgmma_fits(one_chunk)), "int8: mma");
    }
    return harness_end();
}
