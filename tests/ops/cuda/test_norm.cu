/* Rows between products against double-precision loops: the prepared forms with their scales, sums,
 * order and padding; the gate; the norm and epilogue after a product in parts. */
#include <algorithm>
#include "tests/gpu/wrappers.h"
#include "tests/ops/cuda/harness.cuh"
#include "tests/ops/cuda/late.cuh"

enum norm_case { NONE, RMS, LAYER, LAYER_BIAS, NORM_CASES };
static const char *const norm_names[NORM_CASES] = { "no norm", "rms", "layer", "layer with bias" };
static const float EPSILON = 1e-5f;

/* Norm of one row in double, and how far fp32 may be from it. */
struct normed {
    std::vector<double> v, bound;
};
static struct normed norm_of(const std::vector<double> &x, enum norm_case norm,
                             const std::vector<float> &gain, const std::vector<float> &bias)
{
    const size_t n = x.size();
    struct normed out = { x, std::vector<double>(n, 0.0) };
    if (norm == NONE)
        return out;
    double mean = 0, sum = 0, size = 0;
    for (double v : x) {
        mean += v / (double)n;
        size = std::max(size, fabs(v));
    }
    if (norm == RMS)
        mean = 0;
    for (double v : x)
        sum += (v - mean) * (v - mean);
    const double inverse = 1 / sqrt(sum / (double)n + (double)EPSILON);
    for (size_t i = 0; i < n; i++) {
        const double b = norm == LAYER_BIAS ? (double)bias[i] : 0.0;
        out.v[i] = (x[i] - mean) * inverse * (double)gain[i] + b;
        out.bound[i] = 2e-6 * (fabs(out.v[i]) + fabs(b) + fabs((double)gain[i]) * inverse * size);
    }
    return out;
}
static std::vector<float> random_floats(struct random_numbers &random, size_t n)
{
    std::vector<float> v(n);
    for (float &x : v)
        x = random.uniform() * 2.0f;
    return v;
}

/* Rows of bf16, one in five all zero but for the last case; columns behind n are NaN. */
struct rows_bf16 {
    std::vector<uint16_t> bits;
    std::vector<std::vector<double>> v;
};
static struct rows_bf16 make_rows(struct random_numbers &random, int rows, int n, int64_t stride)
{
    struct rows_bf16 x;
    x.bits.assign((size_t)(rows * stride), 0x7fc0);
    for (int r = 0; r < rows; r++) {
        static const double scales[] = { 1.0, 1e-3, 30.0, 0.0, 1e-30 };
        x.v.emplace_back((size_t)n);
        for (int i = 0; i < n; i++) {
            const double v = scales[r % 5] * (double)(random.uniform() + random.uniform() + 0.25f);
            const uint16_t bits = bf16_bits(v);
            x.bits[(size_t)(r * stride + i)] = bits;
            x.v[(size_t)r][(size_t)i] = bf16_value(bits);
        }
    }
    return x;
}

struct shape {
    int rows, n, spare; /* spare: columns between rows */
};
/* A prepare_op over device memory that outlives it. */
struct prepared {
    struct rows_bf16 host;
    std::vector<float> gain, bias;
    device_array<uint16_t> x;
    device_array<float> gain_device, bias_device;
    struct prepare_op op;
    prepared(struct random_numbers &random, const struct shape &s, enum norm_case norm)
        : host(make_rows(random, s.rows, s.n, s.n + s.spare)),
          gain(random_floats(random, (size_t)s.n)), bias(random_floats(random, (size_t)s.n)),
          x(host.bits), gain_device(gain), bias_device(bias)
    {
        memset(&op, 0, sizeof op);
        op.x = x.data();
        op.x_stride = s.n + s.spare;
        op.rows = s.rows;
        op.n_in = s.n;
        op.norm.gain = norm == NONE ? NULL : gain_device.data();
        op.norm.bias = norm == LAYER_BIAS ? bias_device.data() : NULL;
        op.norm.epsilon = EPSILON;
        op.norm.layer = norm == LAYER || norm == LAYER_BIAS;
    }
    struct normed wanted(int row, enum norm_case norm) const
    {
        return norm_of(host.v[(size_t)row], norm, gain, bias);
    }
};

static void test_f16(const struct shape &s, enum norm_case norm)
{
    struct random_numbers random = { (uint64_t)(s.n * 10 + norm) };
    struct prepared p(random, s, norm);
    const int padded = f64_pad(s.n, 128);
    device_array<uint16_t> y((size_t)(s.rows * padded));
    device_array<float> scale((size_t)s.rows);
    p.op.y = y.data();
    p.op.y_stride = padded;
    p.op.scale = scale.data();
    const struct late x_late(p.x);
    CUDA(prepare_f16(&harness.launch, &p.op));
    const std::vector<uint16_t> found = y.read();
    const std::vector<float> scales = scale.read();
    for (int r = 0; r < s.rows; r++) {
        const struct normed want = p.wanted(r, norm);
        const double f = (double)scales[(size_t)r];
        double max = 0;
        int e;
        for (double v : want.v)
            max = std::max(max, fabs(v));
        EXPECT(frexp(f, &e) == 0.5, "row %d: scale %g is no power of two", r, f);
        if (max == 0)
            EXPECT(f == 1.0, "row %d: scale %g of zeros", r, f);
        else
            EXPECT(max / f >= 256 * (1 - 1e-5) && max / f < 512 * (1 + 1e-5),
                   "row %d: greatest %g, scale %g", r, max, f);
        for (int i = 0; i < padded; i++) {
            const double v = f16_value(found[(size_t)(r * padded + i)]) * f;
            if (i >= s.n)
                EXPECT(v == 0, "row %d: padding %d is %g", r, i, v);
            else
                EXPECT_NEAR(v, want.v[(size_t)i],
                            want.bound[(size_t)i] + fabs(want.v[(size_t)i]) * 0x1p-11 +
                                f * 0x1p-25);
        }
    }
}
static void test_s8(const struct shape &s, enum norm_case norm)
{
    struct random_numbers random = { (uint64_t)(s.n * 10 + norm + 5) };
    struct prepared p(random, s, norm);
    const int padded = f64_pad(s.n, 128), n_chunks = padded / 128;
    device_array<int8_t> y((size_t)(s.rows * padded));
    device_array<float> scale((size_t)(s.rows * n_chunks));
    device_array<int32_t> sum((size_t)(s.rows * padded / 32));
    p.op.y = y.data();
    p.op.y_stride = padded;
    p.op.scale = scale.data();
    p.op.sum = sum.data();
    const struct late x_late(p.x);
    CUDA(prepare_s8(&harness.launch, &p.op));
    const std::vector<int8_t> found = y.read();
    const std::vector<float> scales = scale.read();
    const std::vector<int32_t> sums = sum.read();
    for (int r = 0; r < s.rows; r++) {
        const struct normed want = p.wanted(r, norm);
        for (int i = 0; i < padded; i++) {
            static const int order[4] = { 0, 8, 1, 9 }; /* byte 4 q + j holds 2 q + order[j] */
            const int in16 = i % 16;
            int at = -1;
            for (int b = 0; b < 16; b++)
                if (2 * (b / 4) + order[b % 4] == in16)
                    at = b;
            const int code = found[(size_t)(r * padded + i / 16 * 16 + at)];
            const double f = (double)scales[(size_t)(r * n_chunks + i / 128)];
            if (i >= s.n)
                EXPECT(code == 0, "row %d: padding %d is %d", r, i, code);
            else
                EXPECT_NEAR(code * f, want.v[(size_t)i], want.bound[(size_t)i] + f * 0.5001);
        }
        for (int c = 0; c < n_chunks; c++) {
            double max = 0, bound = 0;
            for (int i = c * 128; i < std::min(s.n, c * 128 + 128); i++) {
                max = std::max(max, fabs(want.v[(size_t)i]));
                bound = std::max(bound, want.bound[(size_t)i]);
            }
            EXPECT_NEAR(scales[(size_t)(r * n_chunks + c)], max / 127, max * 1e-6 + bound / 127);
        }
        for (int c = 0; c < padded / 32; c++) {
            int want_sum = 0;
            for (int i = 0; i < 32; i++)
                want_sum += found[(size_t)(r * padded + c * 32 + i)];
            EXPECT(sums[(size_t)(r * padded / 32 + c)] == want_sum,
                   "row %d: sum %d is %d, wanted %d", r, c, sums[(size_t)(r * padded / 32 + c)],
                   want_sum);
        }
    }
}
static void test_bf16(const struct shape &s, enum norm_case norm)
{
    struct random_numbers random = { (uint64_t)(s.n * 10 + norm + 7) };
    struct prepared p(random, s, norm);
    const int stride = s.n + s.spare;
    device_array<uint16_t> y((size_t)(s.rows * stride));
    p.op.y = y.data();
    p.op.y_stride = stride;
    const struct late x_late(p.x);
    CUDA(prepare_bf16(&harness.launch, &p.op));
    const std::vector<uint16_t> found = y.read();
    for (int r = 0; r < s.rows; r++) {
        const struct normed want = p.wanted(r, norm);
        for (int i = 0; i < stride; i++) {
            const uint16_t bits = found[(size_t)(r * stride + i)];
            if (i >= s.n)
                EXPECT(bits == 0xffff, "row %d: wrote column %d", r, i);
            else
                EXPECT_NEAR(bf16_value(bits), want.v[(size_t)i],
                            want.bound[(size_t)i] + fabs(want.v[(size_t)i]) * 0x1p-8 + 1e-40);
        }
    }
}

static double act_of(enum gate gate, double v)
{
    switch (gate) {
    case GATE_SILU:
        return v / (1 + exp(-v));
    case GATE_GELU:
        return 0.5 * v * (1 + erf(v / sqrt(2.0)));
    case GATE_GELU_TANH:
        return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    default:
        return v > 0 ? v * v : 0;
    }
}
static void test_gate(const struct shape &s, enum gate gate, bool plain)
{
    struct random_numbers random = { (uint64_t)(s.n + gate) };
    const int stride = 2 * s.n + s.spare, y_stride = s.n + s.spare;
    const std::vector<float> x = random_floats(random, (size_t)(s.rows * stride));
    device_array<float> x_device(x);
    device_array<uint16_t> y((size_t)(s.rows * y_stride));
    const struct late x_late(x_device);
    CUDA(gate_combine(&harness.launch, x_device.data(), stride, s.rows, s.n, gate, plain, y.data(),
                      y_stride));
    const std::vector<uint16_t> found = y.read();
    for (int r = 0; r < s.rows; r++)
        for (int i = 0; i < y_stride; i++) {
            const uint16_t bits = found[(size_t)(r * y_stride + i)];
            if (i >= s.n) {
                EXPECT(bits == 0xffff, "row %d: wrote column %d", r, i);
                continue;
            }
            const double up = plain ? 1 : (double)x[(size_t)(r * stride + s.n + i)];
            const double want = act_of(gate, (double)x[(size_t)(r * stride + i)]) * up;
            EXPECT_NEAR(bf16_value(bits), want, fabs(want) * 0x1p-8 + 4e-6 * fabs(up));
        }
}

struct post_case {
    enum dtype dtype;
    enum epilogue epilogue;
    float scale, soft_cap;
    bool in_place; /* y is x: fp32 */
};
static void test_post(const struct shape &s, enum norm_case norm, const struct post_case &c)
{
    struct random_numbers random = { (uint64_t)(s.n + norm) };
    const int stride = s.n + s.spare;
    const size_t n_all = (size_t)(s.rows * stride);
    const std::vector<float> x = random_floats(random, n_all),
                             gain = random_floats(random, (size_t)s.n);
    const std::vector<float> bias = random_floats(random, (size_t)s.n);
    std::vector<float> old = random_floats(random, n_all);
    std::vector<uint16_t> old_bf16;
    for (float &v : old) {
        old_bf16.push_back(bf16_bits((double)v));
        v = (float)bf16_value(old_bf16.back());
    }
    device_array<float> x_device(x), y_f32(old), gain_device(gain), bias_device(bias);
    device_array<uint16_t> y_bf16(old_bf16);
    struct norm_in in;
    memset(&in, 0, sizeof in);
    in.gain = norm == NONE ? NULL : gain_device.data();
    in.bias = norm == LAYER_BIAS ? bias_device.data() : NULL;
    in.epsilon = EPSILON;
    in.layer = norm == LAYER || norm == LAYER_BIAS;
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = c.in_place             ? (void *)x_device.data()
            : c.dtype == DTYPE_F32 ? (void *)y_f32.data()
                                   : (void *)y_bf16.data();
    out.stride = stride;
    out.dtype = c.dtype;
    out.epilogue = c.epilogue;
    out.scale = c.scale;
    out.soft_cap = c.soft_cap;
    const struct late x_late(x_device);
    CUDA(post_combine(&harness.launch, x_device.data(), stride, s.rows, s.n, in, &out));
    const std::vector<float> found_f32 = c.in_place ? x_device.read() : y_f32.read();
    const std::vector<uint16_t> found_bf16 = y_bf16.read();
    for (int r = 0; r < s.rows; r++) {
        const std::vector<double> row(x.begin() + r * stride, x.begin() + r * stride + s.n);
        const struct normed want = norm_of(row, norm, gain, bias);
        for (int i = 0; i < stride; i++) {
            const size_t at = (size_t)(r * stride + i);
            const double before = (double)(c.in_place ? x[at] : old[at]);
            const double found =
                c.dtype == DTYPE_F32 ? (double)found_f32[at] : bf16_value(found_bf16[at]);
            if (i >= s.n) {
                EXPECT(found == before, "row %d: wrote column %d", r, i);
                continue;
            }
            double v = want.v[(size_t)i] * (double)c.scale;
            if (c.soft_cap > 0)
                v = (double)c.soft_cap * tanh(v / (double)c.soft_cap);
            v += c.epilogue == EPILOGUE_ADD ? before : 0;
            const double rounding = c.dtype == DTYPE_F32 ? 1e-7 : 0x1p-8;
            EXPECT_NEAR(found, v, want.bound[(size_t)i] + fabs(v) * rounding + 1e-5);
        }
    }
}

static void test_too_wide(void)
{
    struct prepare_op op;
    memset(&op, 0, sizeof op);
    op.rows = 1;
    op.n_in = 1 << 20;
    op.x_stride = op.y_stride = op.n_in;
    EXPECT(prepare_f16(&harness.launch, &op) == cudaErrorInvalidValue,
           "a row wider than shared memory");
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    static const struct shape shapes[] = { { 5, 1, 0 },    { 2, 7, 3 },     { 5, 64, 0 },
                                           { 3, 128, 8 },  { 2, 129, 7 },   { 5, 2048, 0 },
                                           { 2, 4100, 4 }, { 1, 11008, 0 }, { 1, 28672, 8 } };
    for (const struct shape &s : shapes)
        for (int norm = 0; norm < NORM_CASES; norm++) {
            const enum norm_case n = (enum norm_case)norm;
            CASE("prepare_f16 %d x %d + %d, %s", s.rows, s.n, s.spare, norm_names[norm])
            test_f16(s, n);
            CASE("prepare_s8 %d x %d + %d, %s", s.rows, s.n, s.spare, norm_names[norm])
            test_s8(s, n);
            CASE("prepare_bf16 %d x %d + %d, %s", s.rows, s.n, s.spare, norm_names[norm])
            test_bf16(s, n);
        }
    static const struct post_case posts[] = {
        { DTYPE_F32, EPILOGUE_STORE, 1.0f, 0.0f, true },
        { DTYPE_F32, EPILOGUE_ADD, 0.5f, 0.0f, false },
        { DTYPE_BF16, EPILOGUE_STORE, 2.0f, 3.0f, false },
        { DTYPE_BF16, EPILOGUE_ADD, 0.25f, 0.0f, false },
    };
    for (const struct shape &s : shapes) {
        for (int gate = GATE_SILU; gate <= GATE_RELU2; gate++)
            for (int plain = 0; plain < 2; plain++)
                CASE("gate_combine %d x %d + %d, gate %d%s", s.rows, s.n, s.spare, gate,
                     plain ? ", plain" : "")
        test_gate(s, (enum gate)gate, plain != 0);
        for (int norm = 0; norm < NORM_CASES; norm++)
            for (const struct post_case &c : posts)
                CASE("post_combine %d x %d + %d, %s, dtype %d, epilogue %d%s", s.rows, s.n, s.spare,
                     norm_names[norm], c.dtype, c.epilogue, c.in_place ? ", in place" : "")
        test_post(s, (enum norm_case)norm, c);
    }
    CASE("too wide") test_too_wide();
    return harness_end();
}
