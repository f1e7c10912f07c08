/* test_gemm_wgmma.cu - K2 against sums in double: every instance, ragged shapes, stream-K and fixed
 * splits, epilogues; the same bits twice. Weights are packed here, from the picture in
 * layout_f64.h. */
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"
#include <set>
#include <string>
#ifdef HOSTCUDA
#include "hostcuda.h"
#endif

static double half_value(uint16_t h)
{
    const int e = h >> 10 & 31, m = h & 1023;
    const double v = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
    return (h & 0x8000) != 0 ? -v : v;
}
/* The half nearest to v, |v| below 65520. */
static uint16_t half_of(double v)
{
    const double a = fabs(v);
    if (a < 0x1p-14)
        return (uint16_t)((v < 0 ? 0x8000 : 0) | (int)lrint(ldexp(a, 24)));
    int e;
    (void)frexp(a, &e);
    const long m = lrint(ldexp(a, 11 - e)); /* 1024 .. 2048 */
    return (uint16_t)((v < 0 ? 0x8000 : 0) | ((e + 14) * 1024 + (int)(m - 1024)));
}
static double bf16_value(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

enum flavour { SYM, WHOLE, FRACTION, NF4 };
static const char *const flavours[] = { "symmetric", "zeros", "fractions", "table" };
static const uint16_t table[16] = {
    0xbc00, 0xb992, 0xb834, 0xb652, 0xb48d, 0xb1e8, 0xadd4, 0x0000,
    0x2d18, 0x3126, 0x33e0, 0x3568, 0x370c, 0x3880, 0x39c8, 0x3c00
};

/* One part: values as the layout says, and its bytes. */
struct part {
    int n_out;
    std::vector<double> w; /* [n_out][n_in], with the row factor */
    std::vector<uint8_t> units;
    std::vector<float> factor, bias;
};
static void put16(std::vector<uint8_t> &to, size_t at, uint16_t v)
{
    to[at] = (uint8_t)v;
    to[at + 1] = (uint8_t)(v >> 8);
}
static void put_code(uint8_t *unit, int bits, int r, int k, int code)
{
    const int lane = r % 8 * 4 + k % 8 / 2, high_row = r / 8, high_k = k % 16 / 8, odd = k % 2;
    if (bits == 4) {
        const int nibble = high_row + 2 * high_k + 4 * odd;
        unit[k / 64 * 512 + lane * 16 + k % 64 / 16 * 4 + nibble / 2] |=
            (uint8_t)(code << 4 * (nibble % 2));
    } else {
        unit[k / 32 * 512 + lane * 16 + (k % 32 / 16 * 2 + high_row) * 4 + 2 * odd + high_k] =
            (uint8_t)code;
    }
}
static struct part part_make(struct f64_kind kind, enum flavour flavour, int n_out, int n_in,
                             bool bias, struct random_numbers &rng)
{
    struct part p;
    p.n_out = n_out;
    const int cols = f64_pad(n_in, 128), rows = f64_pad(n_out, 64), n_groups = 128 / kind.group;
    const int middle = kind.bits == 4 ? 8 : 128;
    const size_t unit_bytes = (size_t)f64_unit_bytes(kind);
    p.w.assign((size_t)n_out * (size_t)n_in, 0);
    p.units.assign(f64_bytes(kind, n_out, n_in), 0);
    p.factor.assign((size_t)rows, 0);
    if (bias)
        p.bias.assign((size_t)n_out, 0);
    for (int r = 0; r < rows; r++) {
        p.factor[(size_t)r] = r < n_out ? 0.01f * (1.5f + rng.uniform()) : 0;
        if (bias && r < n_out)
            p.bias[(size_t)r] = rng.uniform();
        for (int k0 = 0; k0 < cols; k0 += kind.group) {
            const size_t unit = ((size_t)(r / 64) * (size_t)(cols / 128) * 4 +
                                 (size_t)(k0 / 128 * 4 + r % 64 / 16)) *
                                unit_bytes;
            const size_t scale_at = unit + (size_t)(kind.bits * 256 + k0 % 128 / kind.group * 32 +
                                                    (r % 8 * 2 + r % 16 / 8) * 2);
            const uint16_t scale = r < n_out ? half_of(0.3 + 0.2 * (double)rng.uniform()) : 0;
            double zero = middle;
            if (flavour == WHOLE)
                zero = rng.below(kind.bits == 4 ? 16 : 256);
            if (flavour == FRACTION)
                zero = half_value(half_of(middle + 3.7 * (double)rng.uniform()));
            put16(p.units, scale_at, scale);
            if (kind.zeros)
                put16(p.units, scale_at + (size_t)(n_groups * 32), half_of(zero));
            for (int k = k0; k < k0 + kind.group; k++) {
                const bool there = r < n_out && k < n_in;
                const int code = there ? rng.below(kind.bits == 4 ? 16 : 256) : 0;
                put_code(&p.units[unit], kind.bits, r % 16, k % 128, code);
                if (there)
                    p.w[(size_t)r * (size_t)n_in + (size_t)k] =
                        (flavour == NF4 ? half_value(table[code]) : code - zero) *
                        half_value(scale) * (double)p.factor[(size_t)r];
            }
        }
    }
    return p;
}

struct shape {
    int bits, group;
    enum flavour flavour;
    int rows, n_out[3], n_in; /* a second and third part unless 0 */
    enum epilogue epilogue;
    enum gate gate;
    enum dtype dtype;
    bool bias;
    float soft_cap;
    int n_sms, splits;
};

static double act(enum gate gate, double v)
{
    switch (gate) {
    case GATE_SILU:
        return v / (1 + exp(-v));
    case GATE_GELU:
        return 0.5 * v * (1 + erf(v / sqrt(2.0)));
    case GATE_GELU_TANH:
        return 0.5 * v * (1 + tanh(0.79788456080286536 * (v + 0.044715 * v * v * v)));
    default:
        return v > 0 ? v * v : 0;
    }
}
/* A value and what its arithmetic may be off by. */
struct bounded {
    double v, off;
};
struct data {
    std::vector<uint16_t> x; /* [rows][n_in padded] */
    std::vector<float> x_scale;
    std::vector<struct part> parts;
};
static struct bounded sum_of(const struct shape &s, const struct data &d, const struct part &p,
                             int r, int o)
{
    const size_t stride = (size_t)f64_pad(s.n_in, 128);
    double sum = 0, squares = 0, all = 0;
    for (size_t k = 0; k < (size_t)s.n_in; k++) {
        const double t =
            p.w[(size_t)o * (size_t)s.n_in + k] * half_value(d.x[(size_t)r * stride + k]);
        sum += t;
        squares += t * t;
        all += fabs(t);
    }
    /* Weights are rounded to fp16 after the scale, fractions before it too: each is off by 2^-12.3
     * of itself (rms), 7 times that is never seen. fp32 sums: 24 bits, cut off by tensor cores. */
    const double roundings = s.flavour == FRACTION ? 2 : 1, scale = (double)d.x_scale[(size_t)r];
    struct bounded b;
    b.v = sum * scale + (s.bias ? (double)p.bias[(size_t)o] : 0);
    b.off = scale * (7 * 0x1p-12 * sqrt(roundings * squares) + 0x1p-20 * all) + 0x1p-22 * fabs(b.v);
    b.v *= 0.75; /* out.scale */
    b.off *= 0.75;
    if (s.soft_cap > 0)
        b.v = (double)s.soft_cap * tanh(b.v / (double)s.soft_cap),
        b.off += 4e-6 * (double)s.soft_cap;
    return b;
}
static struct bounded wanted_of(const struct shape &s, const struct data &d, const struct part &p,
                                int r, int o, double before)
{
    struct bounded b = sum_of(s, d, p, r, o);
    if (s.epilogue == EPILOGUE_GATE) {
        const struct bounded up = sum_of(s, d, d.parts[1], r, o);
        const double a = act(s.gate, b.v);
        const double off =
            fmax(fabs(act(s.gate, b.v + b.off) - a), fabs(act(s.gate, b.v - b.off) - a)) +
            2e-6 * fabs(b.v);
        b.off = off * (fabs(up.v) + up.off) + fabs(a) * up.off;
        b.v = a * up.v;
    } else if (s.epilogue == EPILOGUE_ADD) {
        b.v += before;
    }
    b.off += fabs(b.v) * (s.dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-22) + 1e-30;
    return b;
}

static struct data data_make(const struct shape &s, struct f64_kind kind)
{
    struct random_numbers rng = { (uint64_t)(s.rows * 131 + s.n_in * 7 + s.n_out[0] + s.bits +
                                             s.group) };
    struct data d;
    for (int i = 0; i < 3 && s.n_out[i] > 0; i++)
        d.parts.push_back(part_make(kind, s.flavour, s.n_out[i], s.n_in, s.bias, rng));
    const int stride = f64_pad(s.n_in, 128);
    for (int r = 0; r < s.rows; r++) {
        d.x_scale.push_back(ldexpf(1, rng.below(5) - 4));
        for (int k = 0; k < stride; k++)
            d.x.push_back(k < s.n_in ? half_of((double)rng.uniform()) : 0);
    }
    return d;
}
/* What stands for the kernel in front: it makes x. */
struct copy_args {
    const uint16_t *from;
    uint16_t *to;
    int n;
};
KERNEL(128, 1) copy_halves(const __grid_constant__ struct copy_args a)
{
    griddep_wait();
    for (int i = (int)(blockIdx.x * 128 + threadIdx.x); i < a.n; i += (int)gridDim.x * 128)
        a.to[i] = a.from[i];
    griddep_launch();
}
/* The bytes of y of one run. chain: x comes from a kernel just before, the product may start before
 * that has ended, and another that adds to y follows in the same way. */
static std::vector<uint8_t> run(const struct shape &s, const struct data &d, struct f64_kind kind,
                                const std::vector<uint8_t> &before, int y_stride,
                                bool chain = false)
{
    struct device_info device = harness.device;
    device.n_sms = s.n_sms > 0 && s.n_sms < device.n_sms ? s.n_sms : device.n_sms;
    struct launch launch = harness.launch;
    launch.device = &device;
    struct gemm_op op;
    memset(&op, 0, sizeof op);
    std::vector<device_array<uint8_t> *> bytes;
    std::vector<device_array<float> *> floats;
    op.w.kind = kind;
    op.w.n_in = s.n_in;
    for (const struct part &p : d.parts) {
        struct f64_part *to = &op.w.parts[op.w.n_parts++];
        bytes.push_back(new device_array<uint8_t>(p.units));
        to->units = bytes.back()->data();
        floats.push_back(new device_array<float>(p.factor));
        to->row_factor = floats.back()->data();
        if (s.bias) {
            floats.push_back(new device_array<float>(p.bias));
            to->bias = floats.back()->data();
        }
        to->n_out = p.n_out;
        op.w.n_out += p.n_out;
    }
    device_array<uint16_t> x(d.x);
    device_array<float> x_scale(d.x_scale);
    device_array<uint8_t> y(before);
    device_array<uint32_t> tickets(GEMM_TICKETS);
    tickets.zero();
    op.rows = s.rows;
    op.x = x.data();
    op.x_stride = f64_pad(s.n_in, 128);
    op.x_scale = x_scale.data();
    op.out = { y.data(), y_stride, s.dtype, s.epilogue, s.gate, 0.75f, s.soft_cap };
    op.tickets = tickets.data();
    op.splits = s.splits;
    size_t partial_bytes = gemm_wgmma_workspace(&op.w, s.rows, &device);
    EXPECT(partial_bytes > 0, "no workspace");
    if (s.splits > 1) /* room for one token tile at a time, and a little */
        partial_bytes =
            (size_t)(op.w.n_out / 64 + 2 * op.w.n_parts) * (size_t)s.splits * 64 * 64 * 4;
    device_array<float> partial(partial_bytes / 4);
    op.partial = partial.data();
    op.partial_bytes = partial_bytes;
    EXPECT(gemm_wgmma_fits(&op, &device), "does not fit");
    device_array<uint16_t> x_made(d.x.size());
    if (chain) {
        const struct copy_args copy = { x.data(), x_made.data(), (int)d.x.size() };
        CUDA(LAUNCH((copy_halves), dim3(2), 128, 0, launch.stream, LAUNCH_PDL, copy));
        op.x = x_made.data();
        launch.pdl = true;
    }
    CUDA(gemm_wgmma(&launch, &op));
    if (chain) {
        op.out.epilogue = EPILOGUE_ADD;
        CUDA(gemm_wgmma(&launch, &op));
    }
    const std::vector<uint8_t> out = y.read();
    for (uint32_t t : tickets.read())
        EXPECT(t == 0, "a ticket is left");
    (void)partial.read(); /* its guards */
    for (device_array<uint8_t> *a : bytes)
        delete a;
    for (device_array<float> *a : floats)
        delete a;
    return out;
}
static double element(const std::vector<uint8_t> &y, enum dtype dtype, size_t at)
{
    if (dtype == DTYPE_F32) {
        float v;
        memcpy(&v, &y[at * 4], 4);
        return (double)v;
    }
    uint16_t h;
    memcpy(&h, &y[at * 2], 2);
    return bf16_value(h);
}
static void test_shape(const struct shape &s)
{
    if (!harness.device.wgmma)
        return;
    struct f64_kind kind = { s.bits, s.group, s.flavour == WHOLE || s.flavour == FRACTION,
                             s.flavour == FRACTION, s.flavour == NF4 ? table : NULL };
    const struct data d = data_make(s, kind);
    int cols = 0;
    for (const struct part &p : d.parts)
        cols += s.epilogue == EPILOGUE_GATE && cols > 0 ? 0 : p.n_out;
    /* Two columns of y beside the product: nobody writes them. */
    const int y_stride = cols + 2;
    const size_t width = s.dtype == DTYPE_F32 ? 4 : 2;
    std::vector<uint8_t> before((size_t)s.rows * (size_t)y_stride * width, 0x3e);
    const std::vector<uint8_t> y = run(s, d, kind, before, y_stride);
    const double old = element(before, s.dtype, 0);
    for (int r = 0; r < s.rows; r++) {
        int col = 0;
        for (const struct part &p : d.parts) {
            if (s.epilogue == EPILOGUE_GATE && col > 0)
                break;
            for (int o = 0; o < p.n_out; o++, col++) {
                const struct bounded b = wanted_of(s, d, p, r, o, old);
                EXPECT_NEAR(element(y, s.dtype, (size_t)r * (size_t)y_stride + (size_t)col), b.v,
                            b.off);
            }
        }
        EXPECT(memcmp(&y[((size_t)r * (size_t)y_stride + (size_t)cols) * width], &before[0],
                      2 * width) == 0,
               "row %d: wrote beyond its columns", r);
    }
    EXPECT(run(s, d, kind, before, y_stride) == y, "other bits the second time");
}
/* With splits, a row's bits do not depend on how many others there are. */
static void test_company(const struct shape &all)
{
    if (!harness.device.wgmma)
        return;
    struct f64_kind kind = { all.bits, all.group, false, false, NULL };
    const struct data d = data_make(all, kind);
    const size_t bytes = (size_t)all.n_out[0] * 4;
    const std::vector<uint8_t> crowd =
        run(all, d, kind, std::vector<uint8_t>((size_t)all.rows * bytes), all.n_out[0]);
    struct shape one = all;
    struct data single = d;
    const size_t row = (size_t)all.rows - 1, stride = (size_t)f64_pad(all.n_in, 128);
    one.rows = 1;
    single.x.assign(d.x.begin() + (long)(row * stride), d.x.end());
    single.x_scale.assign(1, d.x_scale[row]);
    const std::vector<uint8_t> alone =
        run(one, single, kind, std::vector<uint8_t>(bytes), all.n_out[0]);
    EXPECT(memcmp(&alone[0], &crowd[row * bytes], bytes) == 0,
           "a row alone has other bits than in a crowd");
}

/* Twice the product, bit by bit: nothing of a kernel's is read before it is there. */
static void test_chain(const struct shape &s)
{
    if (!harness.device.wgmma)
        return;
    struct f64_kind kind = { s.bits, s.group, false, false, NULL };
    const struct data d = data_make(s, kind);
    const std::vector<uint8_t> before((size_t)s.rows * (size_t)s.n_out[0] * 4);
    const std::vector<uint8_t> once = run(s, d, kind, before, s.n_out[0]),
                               twice = run(s, d, kind, before, s.n_out[0], true);
    for (size_t i = 0; i < before.size() / 4; i++)
        EXPECT(element(twice, DTYPE_F32, i) == 2 * element(once, DTYPE_F32, i), "element %zu", i);
}

static const struct shape shapes[] = {
#define PLAIN EPILOGUE_STORE, GATE_SILU, DTYPE_F32, false, 0
    /* every instance: codes x groups x token tiles (64, 128, 256 tokens) */
    { 4, 128, SYM, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 4, 128, SYM, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 128, SYM, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 64, SYM, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 4, 32, SYM, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 64, SYM, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 128, WHOLE, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 4, 128, FRACTION, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 128, WHOLE, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 32, WHOLE, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 4, 64, FRACTION, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 32, WHOLE, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 64, NF4, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 4, 32, NF4, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 4, 128, NF4, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 128, SYM, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 8, 128, SYM, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 128, SYM, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 32, SYM, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 8, 64, SYM, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 32, SYM, 200, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 128, WHOLE, 33, { 128 }, 256, PLAIN, 4, 0 },
    { 8, 64, FRACTION, 65, { 128 }, 256, PLAIN, 1, 0 },
    { 8, 32, WHOLE, 200, { 128 }, 256, PLAIN, 1, 0 },
    /* ragged: rows, outputs, inputs; one strip, three, parts that end anywhere */
    { 4, 128, SYM, 1, { 64 }, 128, PLAIN, 4, 0 },
    { 4, 128, SYM, 64, { 65 }, 200, PLAIN, 4, 0 },
    { 4, 64, SYM, 33, { 320 }, 640, PLAIN, 4, 0 },
    { 8, 128, SYM, 65, { 100, 36, 36 }, 384, PLAIN, 4, 0 },
    { 4, 128, SYM, 33, { 129, 64, 1 }, 130, PLAIN, 3, 0 },
    /* stream-K: a tile of many blocks, many tiles of few, waves and a rest; the ring goes round */
    { 4, 128, SYM, 33, { 128 }, 2560, PLAIN, 4, 0 },
    { 4, 128, SYM, 64, { 192 }, 3840, PLAIN, 4, 0 },
    { 4, 128, SYM, 64, { 640 }, 2048, PLAIN, 4, 0 },
    { 8, 128, SYM, 200, { 384 }, 1920, PLAIN, 2, 0 },
    { 4, 64, SYM, 130, { 192 }, 1792, PLAIN, 3, 0 },
#undef PLAIN
    /* fixed parts of k, also more than there are blocks, and several launches */
    { 4, 128, SYM, 33, { 128 }, 640, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, false, 0, 4, 1 },
    { 4, 128, SYM, 70, { 192 }, 640, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, true, 0, 2, 3 },
    { 8, 32, SYM, 200, { 64 }, 384, EPILOGUE_ADD, GATE_SILU, DTYPE_BF16, true, 0, 4, 9 },
    /* epilogues */
    { 4, 128, SYM, 65, { 129, 64 }, 256, EPILOGUE_STORE, GATE_SILU, DTYPE_BF16, true, 0, 4, 0 },
    { 4, 128, SYM, 33, { 129 }, 1280, EPILOGUE_ADD, GATE_SILU, DTYPE_BF16, true, 0, 4, 0 },
    { 4, 128, SYM, 33, { 65 }, 128, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, false, 3.0f, 4, 0 },
    { 4, 128, SYM, 33, { 100, 100 }, 256, EPILOGUE_GATE, GATE_SILU, DTYPE_BF16, true, 0, 4, 0 },
    { 4, 64, SYM, 65, { 64, 64 }, 2560, EPILOGUE_GATE, GATE_GELU, DTYPE_F32, false, 0, 4, 0 },
    { 8,
      128,
      SYM,
      200,
      { 128, 128 },
      1280,
      EPILOGUE_GATE,
      GATE_GELU_TANH,
      DTYPE_F32,
      false,
      0,
      3,
      0 },
    { 4, 128, WHOLE, 64, { 192, 192 }, 640, EPILOGUE_GATE, GATE_RELU2, DTYPE_F32, true, 0, 4, 2 },
};
static const struct shape large[] = {
    { 4, 128, SYM, 64, { 6144 }, 4096, EPILOGUE_STORE, GATE_SILU, DTYPE_BF16, false, 0, 0, 0 },
    { 4, 128, SYM, 1024, { 4096 }, 4096, EPILOGUE_ADD, GATE_SILU, DTYPE_BF16, false, 0, 0, 0 },
    { 8,
      128,
      SYM,
      128,
      { 2048, 2048 },
      4096,
      EPILOGUE_GATE,
      GATE_SILU,
      DTYPE_BF16,
      false,
      0,
      0,
      0 },
};

static void test_shapes(const struct shape *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct shape &s = all[i];
        CASE("int%d %s group=%d rows=%d n_out=%d+%d+%d n_in=%d epilogue=%d sms=%d splits=%d",
             s.bits, flavours[s.flavour], s.group, s.rows, s.n_out[0], s.n_out[1], s.n_out[2],
             s.n_in, (int)s.epilogue, s.n_sms, s.splits)
        test_shape(s);
    }
}
static void test_fits()
{
    struct gemm_op op;
    memset(&op, 0, sizeof op);
    op.rows = 64;
    op.w.n_parts = 1;
    op.w.parts[0].n_out = op.w.n_out = 128;
    op.w.n_in = 256;
    op.w.kind.bits = 4;
    op.w.kind.group = 128;
    struct device_info device = harness.device;
    device.wgmma = true;
    EXPECT(gemm_wgmma_fits(&op, &device), "a plain one fits");
    device.wgmma = false;
    EXPECT(!gemm_wgmma_fits(&op, &device) && gemm_wgmma_workspace(&op.w, 64, &device) == 0,
           "no wgmma here");
    device.wgmma = true;
    op.out.epilogue = EPILOGUE_GATE;
    EXPECT(!gemm_wgmma_fits(&op, &device), "a gate has two parts");
    op.out.epilogue = EPILOGUE_STORE;
    op.splits = 2;
    EXPECT(!gemm_wgmma_fits(&op, &device), "splits need partial and tickets");
    op.splits = 0;
    op.w.kind.bits = 8;
    op.w.kind.table = table;
    EXPECT(!gemm_wgmma_fits(&op, &device), "tables have 16 entries");
}

#ifdef HOSTCUDA
static std::set<std::string> ran;
static void note(const char *name, long launches, void *)
{
    if (strstr(name, "gemm_tiles") != NULL && launches > 0)
        ran.insert(name);
}
#endif
int main(int argc, char **argv)
{
    harness_init(argc, argv);
    test_shapes(shapes, sizeof shapes / sizeof *shapes);
    if (harness.full)
        test_shapes(large, sizeof large / sizeof *large);
    CASE("bits of a row do not depend on the others")
    test_company(
        { 4, 128, SYM, 70, { 100 }, 640, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, false, 0, 4, 3 });
    CASE("pdl: x of the kernel before, y of the product before")
    {
        test_chain({ 4,
                     128,
                     SYM,
                     64,
                     { 192 },
                     1280,
                     EPILOGUE_STORE,
                     GATE_SILU,
                     DTYPE_F32,
                     false,
                     0,
                     4,
                     0 });
        test_chain(
            { 8, 64, SYM, 33, { 64 }, 256, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, false, 0, 4, 0 });
    }
    CASE("what fits") test_fits();
#ifdef HOSTCUDA
    CASE("every instance ran")
    {
        hostcuda_each_kernel(note, NULL);
        EXPECT(harness.only != NULL || ran.size() == 24, "%zu of 24 instances", ran.size());
    }
#endif
    return harness_end();
}
