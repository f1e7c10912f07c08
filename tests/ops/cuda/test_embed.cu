/* embed_rows out of F64 tables and plain rows, gather_rows, gather_columns: against the exact
 * weights. */
#include "tests/ops/cuda/f64_case.cuh"
#include "tests/ops/cuda/late.cuh"

static const float SCALE = 1.75f;

/* Tokens in every place of a unit and of a strip, padding, and one past the end. */
static std::vector<int32_t> tokens_of(int vocab)
{
    std::vector<int32_t> tokens = { -1, 0, vocab - 1, vocab };
    for (int t = 1; t < vocab && t < 70; t += 3)
        tokens.push_back(t);
    return tokens;
}
/* y is [rows][hidden + spare] bf16; wanted(token, column), times SCALE. */
template <typename Wanted>
static void check(const std::vector<uint16_t> &y, const std::vector<int32_t> &tokens, int vocab,
                  int hidden, int64_t stride, double rounding, Wanted wanted)
{
    for (size_t r = 0; r < tokens.size(); r++)
        for (int i = 0; i < (int)stride; i++) {
            const uint16_t bits = y[r * (size_t)stride + (size_t)i];
            const int token = tokens[r];
            if (i >= hidden) {
                EXPECT(bits == 0xffff, "token %d: wrote column %d", token, i);
                continue;
            }
            const double want = token < 0 || token >= vocab ? 0.0 : wanted(token, i);
            EXPECT_NEAR(bf16_value(bits), want, fabs(want) * rounding);
        }
}

/* The same tokens, every second one known by its slot alone. */
struct in_flight {
    device_array<int32_t> tokens, drawn;
    in_flight(const std::vector<int32_t> &all) : tokens(sent(all)), drawn(by_slot(all))
    {
    }
    static std::vector<int32_t> sent(std::vector<int32_t> all)
    {
        for (size_t i = 0; i < all.size(); i += 2)
            all[i] = -2 - (int32_t)(all.size() - 1 - i);
        return all;
    }
    static std::vector<int32_t> by_slot(const std::vector<int32_t> &all)
    {
        return std::vector<int32_t>(all.rbegin(), all.rend());
    }
};

static void test_f64(const struct f64_shape &shape, int spare)
{
    struct f64_case w(shape, 3);
    const int vocab = shape.n_out[0], hidden = shape.n_in;
    const std::vector<int32_t> tokens = tokens_of(vocab);
    device_array<int32_t> tokens_device(tokens);
    device_array<uint16_t> y(tokens.size() * (size_t)(hidden + spare));
    struct embed_in op;
    memset(&op, 0, sizeof op);
    op.w = &w.matrix;
    op.vocab = vocab;
    op.hidden = hidden;
    op.tokens = tokens_device.data();
    op.rows = (int32_t)tokens.size();
    op.scale = SCALE;
    op.y = y.data();
    op.y_stride = hidden + spare;
    std::vector<uint16_t> known;
    {
        const struct late tokens_late(tokens_device);
        CUDA(embed_rows(&harness.launch, &op));
        known = y.read();
    }
    struct in_flight ahead(tokens);
    op.tokens = ahead.tokens.data();
    op.drawn = ahead.drawn.data();
    device_array<uint16_t> again(known.size());
    op.y = again.data();
    const struct late drawn_late(ahead.drawn);
    CUDA(embed_rows(&harness.launch, &op));
    EXPECT(again.read() == known, "tokens in flight are not those that are known");
    check(y.read(), tokens, vocab, hidden, op.y_stride, 0x1p-8, [&](int token, int i) {
        return w.weights[(size_t)token * (size_t)hidden + (size_t)i] * (double)SCALE;
    });
}

static void test_plain(enum dtype dtype, int vocab, int hidden, int spare, float scale)
{
    struct random_numbers random = { (uint64_t)hidden };
    std::vector<double> values;
    std::vector<uint16_t> halves;
    std::vector<float> floats;
    for (int i = 0; i < vocab * hidden; i++) {
        const float v = random.uniform();
        floats.push_back(v);
        halves.push_back(dtype == DTYPE_F16 ? f16_bits((double)v) : bf16_bits((double)v));
        values.push_back(dtype == DTYPE_F32   ? (double)v
                         : dtype == DTYPE_F16 ? f16_value(halves.back())
                                              : bf16_value(halves.back()));
    }
    const std::vector<int32_t> tokens = tokens_of(vocab);
    device_array<int32_t> tokens_device(tokens);
    device_array<float> f32(floats);
    device_array<uint16_t> f16(halves), y(tokens.size() * (size_t)(hidden + spare));
    struct embed_in op;
    memset(&op, 0, sizeof op);
    op.rows_data = dtype == DTYPE_F32 ? (const void *)f32.data() : (const void *)f16.data();
    op.dtype = dtype;
    op.vocab = vocab;
    op.hidden = hidden;
    op.tokens = tokens_device.data();
    op.rows = (int32_t)tokens.size();
    op.scale = scale;
    op.y = y.data();
    op.y_stride = hidden + spare;
    std::vector<uint16_t> known;
    {
        const struct late tokens_late(tokens_device);
        CUDA(embed_rows(&harness.launch, &op));
        known = y.read();
    }
    struct in_flight ahead(tokens);
    op.tokens = ahead.tokens.data();
    op.drawn = ahead.drawn.data();
    device_array<uint16_t> again(known.size());
    op.y = again.data();
    const struct late drawn_late(ahead.drawn);
    CUDA(embed_rows(&harness.launch, &op));
    EXPECT(again.read() == known, "tokens in flight are not those that are known");
    const double rounding = dtype == DTYPE_BF16 && scale == 1.0f ? 0.0 : 0x1p-8;
    check(y.read(), tokens, vocab, hidden, op.y_stride, rounding,
          [&](int token, int i) { return values[(size_t)(token * hidden + i)] * (double)scale; });
}
static void test_other_dtype(void)
{
    struct embed_in op;
    memset(&op, 0, sizeof op);
    op.dtype = DTYPE_F8_E4M3;
    op.rows = 1;
    EXPECT(embed_rows(&harness.launch, &op) == cudaErrorInvalidValue, "a table of 8-bit floats");
}

static void test_gather(int n_cols, int x_spare, int y_spare)
{
    struct random_numbers random = { (uint64_t)n_cols };
    const int x_stride = n_cols + x_spare, y_stride = n_cols + y_spare;
    const std::vector<int32_t> rows = { 3, -1, 0, 3, 5 };
    std::vector<uint16_t> x((size_t)(6 * x_stride));
    for (uint16_t &v : x)
        v = (uint16_t)(random.next() & 0x3fff); /* finite */
    device_array<uint16_t> x_device(x), y(rows.size() * (size_t)y_stride);
    device_array<int32_t> rows_device(rows);
    const struct late x_late(x_device);
    CUDA(gather_rows(&harness.launch, x_device.data(), x_stride, rows_device.data(),
                     (int32_t)rows.size(), n_cols, y.data(), y_stride));
    const std::vector<uint16_t> found = y.read();
    for (size_t r = 0; r < rows.size(); r++)
        for (int i = 0; i < y_stride; i++) {
            const int wanted = i >= n_cols   ? 0xffff
                               : rows[r] < 0 ? 0
                                             : x[(size_t)(rows[r] * x_stride + i)];
            EXPECT(found[r * (size_t)y_stride + (size_t)i] == wanted, "row %d column %d", (int)r,
                   i);
        }
}

/* order is no permutation: a column may be asked for twice. */
static void test_columns(int n_cols, int rows, int x_spare, int y_spare)
{
    struct random_numbers random = { (uint64_t)(n_cols + rows) };
    const int x_stride = n_cols + x_spare, y_stride = n_cols + y_spare;
    std::vector<uint16_t> x((size_t)(rows * x_stride));
    for (uint16_t &v : x)
        v = (uint16_t)(random.next() & 0x3fff); /* finite */
    std::vector<int32_t> order((size_t)n_cols);
    for (int32_t &column : order)
        column = (int32_t)(random.next() % (uint64_t)n_cols);
    device_array<uint16_t> x_device(x), y((size_t)(rows * y_stride));
    device_array<int32_t> order_device(order);
    const struct late x_late(x_device);
    CUDA(gather_columns(&harness.launch, x_device.data(), x_stride, order_device.data(), rows,
                        n_cols, y.data(), y_stride));
    const std::vector<uint16_t> found = y.read();
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < y_stride; i++) {
            const int wanted = i >= n_cols ? 0xffff : x[(size_t)(r * x_stride + order[(size_t)i])];
            EXPECT(found[(size_t)(r * y_stride + i)] == wanted, "row %d column %d", r, i);
        }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    static const int hiddens[] = { 64, 128, 301, 640, 4224 };
    for (int bits = 4; bits <= 8; bits += 4)
        for (int group = 32; group <= 128; group *= 2)
            for (int scheme = F64_SYMMETRIC; scheme <= (bits == 4 ? F64_TABLE : F64_FRACTIONS);
                 scheme++)
                for (int hidden : hiddens) {
                    const struct f64_shape shape = { bits, group,   (enum f64_scheme)scheme,
                                                     1,    { 130 }, hidden,
                                                     false };
                    const int spare = hidden % 3;
                    CASE("F64 %d bits, groups of %d, %s, hidden %d + %d", bits, group,
                         f64_scheme_name(shape.scheme), hidden, spare)
                    test_f64(shape, spare);
                }
    static const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    for (enum dtype dtype : dtypes)
        for (int hidden : { 7, 64, 1032 })
            for (float scale : { 1.0f, 3.5f })
                for (int spare : { 0, 1 })
                    CASE("rows of dtype %d, hidden %d + %d, scale %g", dtype, hidden, spare,
                         (double)scale)
    test_plain(dtype, 50, hidden, spare, scale);
    CASE("other rows") test_other_dtype();
    CASE("gather 1") test_gather(1, 0, 0);
    CASE("gather 1040") test_gather(1040, 0, 8);
    CASE("gather 1041") test_gather(1041, 3, 0);
    CASE("columns 1") test_columns(1, 1, 0, 0);
    CASE("columns 1040") test_columns(1040, 5, 0, 8);
    CASE("columns 2049") test_columns(2049, 3, 3, 1);
    return harness_end();
}
