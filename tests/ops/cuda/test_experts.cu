/* Tests of experts.cu and of products whose rows are dealt out to experts: route and plan against
 * plain loops, each expert's product bit for bit against the same kernel with that expert alone,
 * gate and add against double precision. */
#include "tests/ops/cuda/f64_case.cuh"
#include "tests/ops/cuda/late.cuh"
#include <memory>

/* ---- route and plan ---------------------------------------------------------------------------
 */

struct route_case {
    int rows, n_experts, n_chosen;
    enum route kind;
    int padding; /* rows at the end that are none */
    bool lopsided;
};
static const struct route_case route_cases[] = {
    { 1, 1, 1, ROUTE_SIGMOID, 0, false },
    { 3, 4, 2, ROUTE_SOFTMAX_CHOSEN, 0, false },
    { 9, 8, 8, ROUTE_SOFTMAX, 0, false },
    { 33, 60, 4, ROUTE_SOFTMAX, 5, false },
    { 40, 128, 8, ROUTE_SOFTMAX_CHOSEN, 0, true },
    { 100, 5, 3, ROUTE_SOFTMAX_CHOSEN, 0, true },
    { 2, 1024, 64, ROUTE_SOFTMAX_CHOSEN, 0, false },
    { 600, 1, 1, ROUTE_SIGMOID, 3, false },
    { 8, 33, 1, ROUTE_SOFTMAX, 8, false },
};

/* Whole numbers with ties, now and then a NaN. */
static std::vector<float> route_logits(const struct route_case &c)
{
    struct random_numbers random = { (uint64_t)(c.rows * 31 + c.n_experts) };
    std::vector<float> x((size_t)c.rows * (size_t)c.n_experts);
    for (size_t i = 0; i < x.size(); i++) {
        const size_t e = i % (size_t)c.n_experts;
        x[i] = (float)random.below(12) - 6.0f + (random.below(3) == 0 ? random.uniform() : 0.0f);
        if (c.lopsided && e == 1)
            x[i] = 7;
        if (random.below(97) == 0)
            x[i] = NAN;
    }
    return x;
}
/* By definition: numbers before NaN, greater before smaller, lower index before higher. */
static std::vector<int32_t> route_exact(const float *x, int n, int k)
{
    std::vector<int32_t> order;
    for (int e = 0; e < n; e++)
        order.push_back(e);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        if (isnan(x[a]) || isnan(x[b]))
            return !isnan(x[a]) && isnan(x[b]);
        return x[a] > x[b];
    });
    order.resize((size_t)k);
    return order;
}

static void check_weights(const struct route_case &c, const float *x, const int32_t *ids,
                          const float *found)
{
    double all = 0, chosen = 0;
    for (int e = 0; e < c.n_experts; e++)
        all += exp((double)x[e]);
    for (int s = 0; s < c.n_chosen; s++)
        chosen += exp((double)x[ids[s]]);
    if (isnan(all))
        return; /* whatever: NaN is in the sums */
    for (int s = 0; s < c.n_chosen; s++) {
        const double v = (double)x[ids[s]];
        const double want = c.kind == ROUTE_SIGMOID   ? 1 / (1 + exp(-v))
                            : c.kind == ROUTE_SOFTMAX ? exp(v) / all
                                                      : exp(v) / chosen;
        EXPECT_NEAR(found[s], want, 2e-6, "weight of slot %d", s);
    }
}

/* The lists for these ids, on the device. */
struct lists {
    device_array<int32_t> sorted, ranks;
    std::vector<std::unique_ptr<device_array<struct expert_tile>>> tiles;
    struct expert_lists at;
    lists(int n_slots, int n_experts) : sorted((size_t)n_slots), ranks((size_t)n_slots)
    {
        at.sorted = sorted.data();
        at.ranks = ranks.data();
        for (int i = 0; i < EXPERT_LISTS; i++) {
            at.n_tiles[i] = experts_tiles_max(i, n_slots, n_experts);
            tiles.emplace_back(new device_array<struct expert_tile>((size_t)at.n_tiles[i]));
            at.tiles[i] = tiles.back()->data();
        }
    }
};

static void check_lists(const std::vector<int32_t> &ids, int n_experts, const struct lists &lists)
{
    const std::vector<int32_t> sorted = lists.sorted.read();
    std::vector<int32_t> want, first;
    for (int e = 0; e < n_experts; e++) {
        first.push_back((int32_t)want.size());
        for (size_t i = 0; i < ids.size(); i++)
            if (ids[i] == e)
                want.push_back((int32_t)i);
    }
    first.push_back((int32_t)want.size());
    want.resize(ids.size(), -1);
    EXPECT(sorted == want, "slots are not in the experts' order");
    for (int i = 0; i < EXPERT_LISTS; i++) {
        const std::vector<struct expert_tile> tiles = lists.tiles[(size_t)i]->read();
        const int rows = 1 << EXPERT_TILE_SHIFT(i);
        size_t t = 0;
        for (int e = 0; e < n_experts; e++)
            for (int at = first[(size_t)e]; at < first[(size_t)e + 1]; at += rows, t++) {
                const int left = first[(size_t)e + 1] - at;
                if (t >= tiles.size()) {
                    EXPECT(false, "list %d: more tiles than there is room for", i);
                    return;
                }
                EXPECT(tiles[t].expert == e && tiles[t].row_from == at &&
                           tiles[t].n_rows == std::min(left, rows),
                       "list %d, tile %zu: expert %d, rows %d + %d", i, t, tiles[t].expert,
                       tiles[t].row_from, tiles[t].n_rows);
            }
        for (; t < tiles.size(); t++)
            EXPECT(tiles[t].expert == -1, "list %d, tile %zu is surplus", i, t);
    }
}

static void test_route(const struct route_case &c)
{
    const std::vector<float> x = route_logits(c);
    const int n_slots = c.rows * c.n_chosen, real = c.rows - c.padding;
    std::vector<int32_t> positions((size_t)c.rows, 5);
    for (int r = real; r < c.rows; r++)
        positions[(size_t)r] = -1;
    const device_array<float> logits(x);
    const device_array<int32_t> positions_device(positions);
    const device_array<int32_t> ids((size_t)n_slots);
    const device_array<float> weights((size_t)n_slots);
    struct route_in in;
    memset(&in, 0, sizeof in);
    in.logits = logits.data();
    in.stride = c.n_experts;
    in.rows = c.rows;
    in.n_experts = c.n_experts;
    in.n_chosen = c.n_chosen;
    in.kind = c.kind;
    in.positions = c.padding > 0 ? positions_device.data() : NULL;
    in.ids = ids.data();
    in.weights = weights.data();
    const struct lists lists(n_slots, c.n_experts);
    {
        const late logits_late(logits);
        CUDA(experts_route(&harness.launch, &in));
        CUDA(experts_plan(&harness.launch, ids.data(), n_slots, c.n_experts, &lists.at));
        const std::vector<int32_t> found = ids.read();
        const std::vector<float> found_weights = weights.read();
        for (int r = 0; r < c.rows; r++) {
            const size_t at = (size_t)r * (size_t)c.n_chosen;
            const float *row = &x[(size_t)r * (size_t)c.n_experts];
            const std::vector<int32_t> want = r < real
                                                  ? route_exact(row, c.n_experts, c.n_chosen)
                                                  : std::vector<int32_t>((size_t)c.n_chosen, -1);
            EXPECT(std::equal(want.begin(), want.end(), found.begin() + (ptrdiff_t)at),
                   "row %d: other experts", r);
            if (r < real && harness.n_expect_failed == 0)
                check_weights(c, row, &found[at], &found_weights[at]);
        }
        check_lists(found, c.n_experts, lists);
    }
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* Experts whose rows are a few, many, none. */
static std::vector<int32_t> some_ids(int n_slots, int n_experts)
{
    struct random_numbers random = { 3 };
    std::vector<int32_t> ids;
    for (int i = 0; i < n_slots; i++) {
        const int e = random.below(3) == 0 ? random.below(n_experts) : n_experts / 2;
        ids.push_back(i % 19 == 7 ? -1 : e == 1 ? 0 : e); /* nobody wants expert 1 */
    }
    return ids;
}

struct f64_experts_case {
    struct f64_shape w;
    int n_experts, n_slots;
    enum epilogue epilogue; /* STORE or GATE */
};
static const struct f64_experts_case f64_cases[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 100 }, 300, true }, 4, 50, EPILOGUE_STORE },
    { { 4, 32, F64_ZEROS, 2, { 70, 70 }, 128, true }, 3, 90, EPILOGUE_GATE },
    { { 8, 64, F64_SYMMETRIC, 2, { 64, 64 }, 200, false }, 5, 40, EPILOGUE_GATE },
    { { 4, 32, F64_TABLE, 1, { 130 }, 96, false }, 2, 150, EPILOGUE_STORE },
    { { 8, 128, F64_FRACTIONS, 1, { 66 }, 128, true }, 1, 30, EPILOGUE_STORE },
};

/* All experts' parts a constant distance apart, as the loader leaves them: units, then factors. */
struct f64_bank {
    std::vector<std::unique_ptr<struct f64_case>> each;
    std::vector<std::unique_ptr<device_array<uint8_t>>> blocks;
    std::vector<std::unique_ptr<device_array<float>>> biases;
    struct f64_matrix first;
    struct gemm_groups groups;
    f64_bank(const struct f64_shape &shape, int n)
    {
        memset(&groups, 0, sizeof groups);
        for (int e = 0; e < n; e++)
            each.emplace_back(new struct f64_case(shape, (uint64_t)(e + 1)));
        first = each[0]->matrix;
        for (int p = 0; p < shape.n_parts; p++) {
            const struct f64_kind kind = each[0]->kind();
            const size_t n_out = (size_t)shape.n_out[p], padded = (n_out + 63) / 64 * 64;
            const size_t units = f64_bytes(kind, shape.n_out[p], shape.n_in);
            const size_t stride = (units + padded * sizeof(float) + 63) / 64 * 64;
            const size_t bias_stride = n_out + 5;
            blocks.emplace_back(new device_array<uint8_t>(stride * (size_t)n));
            biases.emplace_back(new device_array<float>(bias_stride * (size_t)n));
            for (int e = 0; e < n; e++) {
                const struct f64_part &part = each[(size_t)e]->matrix.parts[p];
                uint8_t *to = blocks.back()->data() + (size_t)e * stride;
                CUDA(cudaMemcpy(to, part.units, units, cudaMemcpyDeviceToDevice));
                CUDA(cudaMemcpy(to + units, part.row_factor, padded * sizeof(float),
                                cudaMemcpyDeviceToDevice));
                if (part.bias != NULL)
                    CUDA(cudaMemcpy(biases.back()->data() + (size_t)e * bias_stride, part.bias,
                                    n_out * sizeof(float), cudaMemcpyDeviceToDevice));
            }
            first.parts[p].units = blocks.back()->data();
            first.parts[p].row_factor =
                (const float *)(const void *)(blocks.back()->data() + units);
            if (first.parts[p].bias != NULL)
                first.parts[p].bias = biases.back()->data();
            groups.part_stride[p] = (int64_t)stride;
            groups.bias_stride[p] = (int64_t)(bias_stride * sizeof(float));
        }
        CUDA(cudaStreamSynchronize(NULL));
    }
};

/* Rows of the product in the experts' order -> slot rows; what nobody wants stays. */
static void compare_slots(const std::vector<int32_t> &ids, const std::vector<int32_t> &sorted,
                          const std::vector<uint32_t> &found, size_t cols, int e,
                          const std::vector<uint32_t> &alone)
{
    for (size_t i = 0; i < sorted.size(); i++) {
        if (sorted[i] < 0 || ids[(size_t)sorted[i]] != e)
            continue;
        EXPECT(std::equal(alone.begin() + (ptrdiff_t)(i * cols),
                          alone.begin() + (ptrdiff_t)((i + 1) * cols),
                          found.begin() + (ptrdiff_t)((size_t)sorted[i] * cols)),
               "expert %d, slot row %d has other bits than alone", e, sorted[i]);
    }
}

static void test_f64(const struct f64_experts_case &c, int list)
{
    const std::vector<int32_t> ids = some_ids(c.n_slots, c.n_experts);
    const device_array<int32_t> ids_device(ids);
    const struct lists lists(c.n_slots, c.n_experts);
    struct f64_bank bank(c.w, c.n_experts);
    const struct rows_f16 x(c.n_slots, c.w.n_in, 8);
    const size_t cols = (size_t)(c.epilogue == EPILOGUE_GATE ? c.w.n_out[0] : bank.first.n_out);
    const std::vector<uint32_t> before((size_t)c.n_slots * cols, UINT32_MAX);
    const device_array<uint32_t> y(before), alone(before);
    struct gemm_op op;
    memset(&op, 0, sizeof op);
    op.w = bank.first;
    op.rows = c.n_slots;
    op.x = x.data_device->data();
    op.x_stride = x.stride;
    op.x_scale = x.scale_device->data();
    op.out.y = y.data();
    op.out.stride = (int64_t)cols;
    op.out.dtype = DTYPE_F32;
    op.out.epilogue = c.epilogue;
    op.out.scale = 1;
    op.splits = 1;
    bank.groups.tiles = lists.at.tiles[list];
    bank.groups.n_tiles = lists.at.n_tiles[list];
    bank.groups.tokens = 1 << EXPERT_TILE_SHIFT(list);
    bank.groups.rows = lists.at.sorted;
    op.groups = &bank.groups;
    EXPECT(gemm_mma_fits(&op, &harness.device), "refused");
    {
        const late ids_late(ids_device);
        CUDA(experts_plan(&harness.launch, ids_device.data(), c.n_slots, c.n_experts, &lists.at));
        CUDA(gemm_mma(&harness.launch, &op));
        CUDA(cudaStreamSynchronize(harness.stream));
    }
    const std::vector<uint32_t> found = y.read();
    const std::vector<int32_t> sorted = lists.sorted.read();
    op.groups = NULL;
    op.out.y = alone.data();
    for (int e = 0; e < c.n_experts; e++) {
        op.w = bank.each[(size_t)e]->matrix;
        CUDA(gemm_mma(&harness.launch, &op));
        compare_slots(ids, sorted, found, cols, e, alone.read());
    }
    for (size_t i = 0; i < ids.size(); i++)
        for (size_t k = 0; k < cols && ids[i] < 0; k++)
            EXPECT(found[i * cols + k] == UINT32_MAX, "slot row %zu of padding was written", i);
}

struct rows_experts_case {
    enum dtype dtype;
    int n_experts, n_slots, n_out, n_in;
    bool bias;
};
static const struct rows_experts_case rows_cases[] = {
    { DTYPE_BF16, 4, 60, 96, 128, true },
    { DTYPE_F16, 3, 200, 40, 72, false },
    { DTYPE_F32, 2, 20, 33, 50, true },
    { DTYPE_BF16, 1, 10, 31, 20, false },
};
static void test_rows(const struct rows_experts_case &c)
{
    struct random_numbers random = { 11 };
    const std::vector<int32_t> ids = some_ids(c.n_slots, c.n_experts);
    const device_array<int32_t> ids_device(ids);
    const struct lists lists(c.n_slots, c.n_experts);
    const size_t size = c.dtype == DTYPE_F32 ? 4 : 2, n_in = (size_t)c.n_in;
    const size_t matrix = (size_t)c.n_out * n_in, stride = (matrix * size + 63) / 64 * 64;
    std::vector<uint8_t> w(stride * (size_t)c.n_experts, 0xff);
    std::vector<float> bias((size_t)(c.n_experts * (c.n_out + 3)));
    for (int e = 0; e < c.n_experts; e++)
        for (size_t i = 0; i < matrix; i++) {
            const float v = random.uniform();
            const uint16_t half = c.dtype == DTYPE_F16 ? f16_bits((double)v) : bf16_bits((double)v);
            memcpy(&w[(size_t)e * stride + i * size], size == 4 ? (const void *)&v : &half, size);
        }
    for (float &b : bias)
        b = random.uniform();
    std::vector<uint16_t> x((size_t)c.n_slots * n_in);
    for (uint16_t &v : x)
        v = bf16_bits((double)random.uniform());
    const device_array<uint8_t> w_device(w);
    const device_array<float> bias_device(bias);
    const device_array<uint16_t> x_device(x);
    const size_t cols = (size_t)c.n_out;
    const std::vector<uint32_t> before((size_t)c.n_slots * cols, UINT32_MAX);
    const device_array<uint32_t> y(before), alone(before);
    struct gemm_groups groups;
    memset(&groups, 0, sizeof groups);
    groups.tiles = lists.at.tiles[EXPERT_LISTS - 1];
    groups.n_tiles = lists.at.n_tiles[EXPERT_LISTS - 1];
    groups.tokens = 64;
    groups.part_stride[0] = (int64_t)stride;
    groups.bias_stride[0] = (int64_t)(c.n_out + 3) * (int64_t)sizeof(float);
    groups.rows = lists.at.sorted;
    struct rows_op op;
    memset(&op, 0, sizeof op);
    op.w = w_device.data();
    op.dtype = c.dtype;
    op.n_out = c.n_out;
    op.n_in = c.n_in;
    op.rows = c.n_slots;
    op.x = x_device.data();
    op.x_stride = c.n_in;
    op.bias = c.bias ? bias_device.data() : NULL;
    op.out.y = y.data();
    op.out.stride = c.n_out;
    op.out.dtype = DTYPE_F32;
    op.out.scale = 1;
    op.groups = &groups;
    {
        const late ids_late(ids_device);
        CUDA(experts_plan(&harness.launch, ids_device.data(), c.n_slots, c.n_experts, &lists.at));
        CUDA(gemm_rows(&harness.launch, &op));
        CUDA(cudaStreamSynchronize(harness.stream));
    }
    const std::vector<uint32_t> found = y.read();
    const std::vector<int32_t> sorted = lists.sorted.read();
    op.groups = NULL;
    op.one_order = true;
    op.out.y = alone.data();
    for (int e = 0; e < c.n_experts; e++) {
        op.w = w_device.data() + (size_t)e * stride;
        op.bias = c.bias ? bias_device.data() + e * (c.n_out + 3) : NULL;
        CUDA(gemm_rows(&harness.launch, &op));
        compare_slots(ids, sorted, found, cols, e, alone.read());
    }
}

/* ---- inputs and outputs -----------------------------------------------------------------------
 */

/* prepare_* with a list of rows: row r is what row from[r] / divisor is alone. */
static void test_prepare(int n_in, int divisor)
{
    enum { ROWS = 5, SLOTS = 12 };
    struct random_numbers random = { 21 };
    std::vector<uint16_t> x((size_t)(ROWS * n_in));
    for (uint16_t &v : x)
        v = bf16_bits((double)random.uniform());
    std::vector<int32_t> from;
    for (int i = 0; i < SLOTS; i++)
        from.push_back(i == 4 || i > 9 ? -1 : random.below(ROWS * divisor));
    const device_array<uint16_t> x_device(x);
    const device_array<int32_t> from_device(from);
    const size_t stride = (size_t)f64_pad(n_in, F64_UNIT_COLS);
    const device_array<uint16_t> all((size_t)ROWS * stride), some((size_t)SLOTS * stride);
    const device_array<float> scales((size_t)ROWS), some_scales((size_t)SLOTS);
    struct prepare_op op;
    memset(&op, 0, sizeof op);
    op.x = x_device.data();
    op.x_stride = n_in;
    op.rows = ROWS;
    op.n_in = n_in;
    op.y = all.data();
    op.y_stride = (int64_t)stride;
    op.scale = scales.data();
    CUDA(prepare_f16(&harness.launch, &op));
    op.from = from_device.data();
    op.divisor = divisor;
    op.rows = SLOTS;
    op.y = some.data();
    op.scale = some_scales.data();
    {
        const late from_late(from_device);
        CUDA(prepare_f16(&harness.launch, &op));
        CUDA(cudaStreamSynchronize(harness.stream));
    }
    const std::vector<uint16_t> want = all.read(), found = some.read();
    for (int i = 0; i < SLOTS; i++)
        for (size_t k = 0; k < stride; k++) {
            const int row = from[(size_t)i] / divisor;
            const uint16_t w = from[(size_t)i] < 0 ? 0xffff : want[(size_t)row * stride + k];
            EXPECT(found[(size_t)i * stride + k] == w, "row %d, column %zu", i, k);
        }
}

static void test_gate(enum gate gate, int n)
{
    enum { SLOTS = 7 };
    struct random_numbers random = { 31 };
    const size_t cols = (size_t)n;
    std::vector<float> x(SLOTS * 2 * cols);
    for (float &v : x)
        v = 4 * random.uniform();
    const std::vector<int32_t> ids = { 0, 3, -1, 2, 0, -1, 9 };
    const device_array<float> x_device(x);
    const device_array<int32_t> ids_device(ids);
    const device_array<uint16_t> y(SLOTS * cols);
    const struct experts_gate_in in = {
        x_device.data(), 2 * n, ids_device.data(), SLOTS, n, gate, 1.5f, y.data(), n
    };
    {
        const late x_late(x_device);
        CUDA(experts_gate(&harness.launch, &in));
        CUDA(cudaStreamSynchronize(harness.stream));
    }
    const std::vector<uint16_t> found = y.read();
    for (size_t s = 0; s < SLOTS; s++)
        for (size_t i = 0; i < cols; i++) {
            double g = (double)x[s * 2 * cols + i], u = (double)x[s * 2 * cols + cols + i];
            if (ids[s] < 0) {
                EXPECT(found[s * cols + i] == 0xffff, "slot %zu is padding", s);
                continue;
            }
            if (gate == GATE_SWIGLU_CLAMPED) {
                g = std::min(g, 1.5);
                u = std::min(std::max(u, -1.5), 1.5);
                u = g / (1 + exp(-1.702 * g)) * (u + 1);
            } else {
                u *= g / (1 + exp(-g));
            }
            EXPECT_NEAR(bf16_value(found[s * cols + i]), u, fabs(u) / 256 + 1e-5, "slot %zu", s);
        }
}

static void test_add(int n, int k)
{
    enum { ROWS = 5 };
    struct random_numbers random = { 41 };
    const size_t cols = (size_t)n, slots = (size_t)(ROWS * k);
    std::vector<float> x(slots * cols), weights;
    std::vector<int32_t> ids;
    std::vector<uint16_t> old(ROWS * cols);
    for (float &v : x)
        v = random.uniform();
    for (uint16_t &v : old)
        v = bf16_bits((double)random.uniform());
    for (size_t i = 0; i < slots; i++) {
        ids.push_back(i / (size_t)k == 3 ? -1 : 1);
        weights.push_back(random.uniform());
    }
    const device_array<float> x_device(x), weights_device(weights);
    const device_array<int32_t> ids_device(ids);
    const device_array<uint16_t> y(old);
    const struct experts_add_in in = {
        x_device.data(), n, ids_device.data(), weights_device.data(), ROWS, k, n, 0.5f, y.data(), n
    };
    {
        const late x_late(x_device);
        CUDA(experts_add(&harness.launch, &in));
        CUDA(cudaStreamSynchronize(harness.stream));
    }
    const std::vector<uint16_t> found = y.read();
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < cols; i++) {
            double sum = 0;
            for (size_t s = 0; s < (size_t)k; s++)
                sum +=
                    (double)weights[r * (size_t)k + s] * (double)x[(r * (size_t)k + s) * cols + i];
            const double before = bf16_value(old[r * cols + i]);
            if (r == 3)
                EXPECT(found[r * cols + i] == old[r * cols + i], "row 3 is padding");
            else
                EXPECT_NEAR(bf16_value(found[r * cols + i]), before + 0.5 * sum,
                            (fabs(before) + fabs(sum)) / 256 + 1e-5, "row %zu", r);
        }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    for (const struct route_case &c : route_cases)
        CASE("route rows=%d experts=%d of %d kind=%d", c.rows, c.n_chosen, c.n_experts, c.kind)
    test_route(c);
    for (const struct f64_experts_case &c : f64_cases)
        for (int list = 0; list < EXPERT_LISTS; list++)
            CASE("int%d g%d %s, %d experts, %d slots, n_out=%d, list %d", c.w.bits, c.w.group,
                 f64_scheme_name(c.w.scheme), c.n_experts, c.n_slots, c.w.n_out[0], list)
    test_f64(c, list);
    for (const struct rows_experts_case &c : rows_cases)
        CASE("rows dtype=%d, %d experts, %d slots, n_out=%d n_in=%d", (int)c.dtype, c.n_experts,
             c.n_slots, c.n_out, c.n_in)
    test_rows(c);
    CASE("inputs by list") test_prepare(100, 1);
    CASE("inputs by list of slots") test_prepare(264, 3);
    CASE("gate silu") test_gate(GATE_SILU, 300);
    CASE("gate clamped") test_gate(GATE_SWIGLU_CLAMPED, 33);
    CASE("add, one slot") test_add(257, 1);
    CASE("add, six slots") test_add(64, 6);
    return harness_end();
}
