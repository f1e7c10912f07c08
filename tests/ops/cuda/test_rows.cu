/* Tests of gemm_rows: bf16, fp16 and fp32 weights against sums in double of the same numbers, over
 * both kernels, every count of rows around their borders, ragged and unaligned shapes. */
#include "tests/ops/cuda/f64_case.cuh"
#include "tests/ops/cuda/late.cuh"
#include <optional>

struct rows_case {
    enum dtype dtype;
    int rows, n_out, n_in;
    enum dtype out;
    enum epilogue epilogue;
    bool bias;
    float scale, soft_cap;
    int gap;   /* elements between rows of x, and of y */
    int shift; /* elements that w and x start past an aligned address */
    int n_sms; /* 0: the device's */
};

static const char *dtype_names(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? "f32" : dtype == DTYPE_F16 ? "f16" : "bf16";
}

/* Stored numbers and what they are. fp16 of all magnitudes, subnormals too; fp32 of 24 bits. */
struct stored_rows {
    std::vector<uint8_t> bytes;
    std::vector<double> exact;
    stored_rows(enum dtype dtype, size_t n, size_t shift, uint64_t seed)
    {
        struct random_numbers random = { seed };
        const size_t size = dtype == DTYPE_F32 ? 4 : 2;
        bytes.assign((n + shift) * size, 0xff);
        for (size_t i = 0; i < n; i++) {
            const float v =
                random.uniform() * ldexpf(1.0f, -random.below(dtype == DTYPE_F16 ? 24 : 12));
            uint16_t half = 0;
            if (dtype == DTYPE_F32) {
                exact.push_back((double)v);
                memcpy(&bytes[(i + shift) * size], &v, 4);
                continue;
            }
            half = dtype == DTYPE_F16 ? f16_bits((double)v) : bf16_bits((double)v);
            exact.push_back(dtype == DTYPE_F16 ? f16_value(half) : bf16_value(half));
            memcpy(&bytes[(i + shift) * size], &half, 2);
        }
    }
};

static double out_exact(const struct rows_case &c, const double *w, const double *x, double bias,
                        double old, double *bound)
{
    double sum = bias, all = fabs(bias);
    for (int i = 0; i < c.n_in; i++) {
        sum += w[i] * x[i];
        all += fabs(w[i] * x[i]);
    }
    sum *= (double)c.scale;
    all *= fabs((double)c.scale);
    /* a tensor core's sum of 16 is cut off up to 4 times; warps' sums, bias, scale */
    *bound = (4.0 * ((c.n_in + 15) / 16) + 16) * ldexp(all, -23);
    if (c.soft_cap > 0) {
        sum = (double)c.soft_cap * tanh(sum / (double)c.soft_cap);
        *bound += (double)c.soft_cap * 4e-6;
    }
    if (c.epilogue == EPILOGUE_ADD) {
        sum += old;
        *bound += ldexp(fabs(old), -23);
    }
    *bound += rounding_bound(c.out, fabs(sum) + *bound);
    return sum;
}

template <typename Y> static void test_rows(const struct rows_case &c)
{
    const size_t n_in = (size_t)c.n_in, shift = (size_t)c.shift, n_out = (size_t)c.n_out;
    const size_t x_stride = n_in + (size_t)c.gap, y_stride = n_out + (size_t)c.gap;
    const stored_rows w(c.dtype, n_out * n_in, shift, 1);
    struct random_numbers random = { 2 };
    std::vector<uint16_t> x(shift + (size_t)c.rows * x_stride, 0x7fc0); /* NaN between rows */
    std::vector<double> x_exact((size_t)c.rows * n_in);
    for (size_t r = 0; r < (size_t)c.rows; r++)
        for (size_t i = 0; i < n_in; i++) {
            const uint16_t bits = bf16_bits((double)random.uniform());
            x[shift + r * x_stride + i] = bits;
            x_exact[r * n_in + i] = bf16_value(bits);
        }
    std::vector<float> bias(n_out);
    for (float &b : bias)
        b = random.uniform();
    std::vector<Y> old((size_t)c.rows * y_stride, (Y)-1);
    std::vector<double> old_exact(old.size());
    for (size_t i = 0; i < old.size(); i++)
        if (i % y_stride < n_out) {
            const float v = random.uniform();
            uint32_t word;
            memcpy(&word, &v, 4);
            old[i] = sizeof(Y) == 4 ? (Y)word : (Y)bf16_bits((double)v);
            old_exact[i] = sizeof(Y) == 4 ? (double)v : bf16_value((uint16_t)old[i]);
        }
    const device_array<uint8_t> w_device(w.bytes);
    const device_array<uint16_t> x_device(x);
    const device_array<float> bias_device(bias);
    struct rows_op op;
    memset(&op, 0, sizeof op);
    op.w = w_device.data() + shift * (c.dtype == DTYPE_F32 ? 4 : 2);
    op.dtype = c.dtype;
    op.n_out = c.n_out;
    op.n_in = c.n_in;
    op.rows = c.rows;
    op.x = x_device.data() + shift;
    op.x_stride = (int64_t)x_stride;
    op.bias = c.bias ? bias_device.data() : NULL;
    op.out.stride = (int64_t)y_stride;
    op.out.dtype = c.out;
    op.out.epilogue = c.epilogue;
    op.out.scale = c.scale;
    op.out.soft_cap = c.soft_cap;
    struct device_info device = harness.device;
    if (c.n_sms > 0)
        device.n_sms = c.n_sms;
    std::vector<Y> found[2];
    for (std::vector<Y> &y : found) {
        const device_array<Y> y_device(old);
        struct launch launch = harness.launch;
        launch.device = &device;
        launch.pdl = device.arch >= 90 && &y != found; /* once each way */
        op.out.y = y_device.data();
        std::optional<late> x_late;
        if (launch.pdl)
            x_late.emplace(x_device);
        CUDA(gemm_rows(&launch, &op));
        y = y_device.read();
    }
    EXPECT(found[0] == found[1], "two launches differ");
    for (size_t i = 0; i < old.size(); i++) {
        const size_t r = i / y_stride, o = i % y_stride;
        if (o >= n_out) {
            EXPECT(found[0][i] == (Y)-1, "wrote between rows: column %zu", o);
            continue;
        }
        double bound;
        const double wanted = out_exact(c, &w.exact[o * n_in], &x_exact[r * n_in],
                                        c.bias ? (double)bias[o] : 0.0, old_exact[i], &bound);
        float v;
        const uint32_t word = sizeof(Y) == 4 ? (uint32_t)found[0][i] : (uint32_t)found[0][i] << 16;
        memcpy(&v, &word, 4);
        EXPECT(fabs((double)v - wanted) <= bound, "row %zu, output %zu: %.9g, wanted %.9g +- %.3g",
               r, o, (double)v, wanted, bound);
    }
}

/* A row among others and alone: the same bits, with one_order, in both tiles' ranges. */
static void test_one_order(enum dtype dtype)
{
    enum { ROWS = 140, N_OUT = 150, N_IN = 200 };
    const stored_rows w(dtype, (size_t)N_OUT * N_IN, 0, 3);
    struct random_numbers random = { 4 };
    std::vector<uint16_t> x((size_t)ROWS * N_IN);
    for (uint16_t &v : x)
        v = bf16_bits((double)random.uniform());
    const device_array<uint8_t> w_device(w.bytes);
    const device_array<uint16_t> x_device(x);
    struct device_info device = harness.device;
    struct launch launch = harness.launch;
    launch.device = &device;
    struct rows_op op;
    memset(&op, 0, sizeof op);
    op.w = w_device.data();
    op.dtype = dtype;
    op.n_out = N_OUT;
    op.n_in = N_IN;
    op.x = x_device.data();
    op.x_stride = N_IN;
    op.out.stride = N_OUT;
    op.out.dtype = DTYPE_F32;
    op.out.scale = 1;
    std::vector<uint32_t> all;
    const int counts[] = { ROWS, 1, 8, 20, 33, 70 };
    for (int rows : counts) {
        const device_array<uint32_t> y((size_t)rows * N_OUT);
        op.rows = rows;
        op.one_order = true;
        device.n_sms = rows == 70 ? 100 : 1; /* the small tile, and the large one */
        op.out.y = y.data();
        CUDA(gemm_rows(&launch, &op));
        const std::vector<uint32_t> bits = y.read();
        if (all.empty())
            all = bits;
        EXPECT(std::equal(bits.begin(), bits.end(), all.begin()), "%d rows alone have other bits",
               rows);
    }
}

static void run_case(const struct rows_case &c)
{
    CASE("%s x %d rows, [%d][%d] -> %s, %s%s%s gap=%d shift=%d sms=%d", dtype_names(c.dtype),
         c.rows, c.n_out, c.n_in, c.out == DTYPE_F32 ? "f32" : "bf16",
         c.epilogue == EPILOGUE_ADD ? "add" : "store", c.bias ? " bias" : "",
         c.soft_cap > 0 ? " cap" : "", c.gap, c.shift, c.n_sms)
    {
        if (c.out == DTYPE_F32)
            test_rows<uint32_t>(c);
        else
            test_rows<uint16_t>(c);
    }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    static const enum dtype dtypes[] = { DTYPE_BF16, DTYPE_F16, DTYPE_F32 };
    static const struct {
        int rows, n_out, n_in;
    } shapes[] = {
        { 1, 1, 1 },      { 1, 64, 256 },   { 2, 40, 1300 },  { 7, 16, 100 },
        { 8, 33, 64 },    { 9, 48, 520 },   { 16, 17, 1024 }, { 17, 64, 40 },
        { 31, 20, 203 },  { 32, 72, 2056 }, { 33, 40, 72 },   { 64, 32, 96 },
        { 65, 130, 200 }, { 70, 31, 7 },    { 130, 36, 64 },  { 40, 64, 33 },
    };
    for (enum dtype dtype : dtypes) {
        for (const auto &s : shapes) {
            struct rows_case c = { dtype, s.rows, s.n_out, s.n_in, DTYPE_F32, EPILOGUE_STORE,
                                   false, 1,      0,       0,      0,         0 };
            run_case(c);
            c.out = DTYPE_BF16;
            c.bias = true;
            c.gap = 8;
            run_case(c);
            c.epilogue = EPILOGUE_ADD;
            c.scale = 0.5f;
            c.gap = 3; /* odd strides: x and y are not aligned */
            run_case(c);
            c.out = DTYPE_F32;
            c.soft_cap = 2.0f;
            c.shift = 1; /* w neither */
            run_case(c);
        }
        CASE("one order, %s", dtype_names(dtype)) test_one_order(dtype);
        /* few multiprocessors: the large tile */
        run_case({ dtype, 130, 140, 104, DTYPE_BF16, EPILOGUE_STORE, true, 1, 0, 2, 0, 1 });
        run_case({ dtype, 33, 256, 72, DTYPE_F32, EPILOGUE_ADD, false, 2, 0, 0, 0, 1 });
        run_case({ dtype, 129, 20, 45, DTYPE_F32, EPILOGUE_STORE, true, 1, 5, 1, 1, 1 });
        if (harness.full) {
            run_case({ dtype, 1, 32064, 4096, DTYPE_F32, EPILOGUE_STORE, false, 1, 0, 0, 0, 0 });
            run_case({ dtype, 300, 4096, 2048, DTYPE_BF16, EPILOGUE_STORE, true, 1, 0, 0, 0, 0 });
        }
    }
    return harness_end();
}
