/* Tests of gemm_small: every instance, both copy paths, every epilogue, against sums in double of
 * exact weights and of activations rounded as the kernel rounds them. */
#include <string>
#include "tests/ops/cuda/f64_case.cuh"
#include "tests/ops/cuda/late.cuh"
#ifdef HOSTCUDA
#include "tests/hostcuda/hostcuda.h"
#endif

/* ---- one product ------------------------------------------------------------------------------
 */

enum norm_case { NO_NORM, RMS, LAYER, LAYER_BIAS };
static const char *const norm_names[] = { "no norm", "rms", "layer", "layer+bias" };
struct problem {
    struct f64_shape shape;
    int rows;
    enum norm_case norm;
    enum epilogue epilogue;
    enum gate gate;
    enum dtype dtype;
    float scale, soft_cap;
    int splits; /* op->splits */
    int arch;   /* 80: cp.async, 90: bulk copies */
    int n_sms;  /* 0: the device's; many: few tiles are split over blocks */
};
static struct problem problem_of(struct f64_shape shape, int rows, int arch)
{
    struct problem p;
    memset(&p, 0, sizeof p);
    p.shape = shape;
    p.rows = rows;
    p.dtype = DTYPE_F32;
    p.scale = 1;
    p.arch = arch;
    return p;
}
/* A copy path that this device has compiled. */
static bool path_here(int arch)
{
    const int real = harness.device.arch;
    return harness.emulated || (arch >= 90) == (real >= 90 && real < 120);
}
static struct device_info device_of(const struct problem &p)
{
    struct device_info device = harness.device;
    if (harness.emulated)
        device.arch = p.arch;
    if (p.n_sms > 0)
        device.n_sms = p.n_sms;
    return device;
}

/* Rows of bf16 with stride over n_in, what lies between is NaN; and their value after the norm and
 * fp16, in double. */
struct rows_bf16 {
    int rows, n_in, stride;
    std::vector<uint16_t> bits;
    std::vector<float> gain, bias;
    std::vector<double> exact; /* [rows][n_in], rounded as fp16 with a power of two */
    float epsilon;

    rows_bf16(int n_rows, int n_cols, enum norm_case norm, uint64_t seed)
        : rows(n_rows), n_in(n_cols), stride(f64_pad(n_cols, 8) + 8), epsilon(1e-5f)
    {
        struct random_numbers random = { seed };
        bits.assign((size_t)rows * (size_t)stride, 0xffff);
        for (int i = 0; i < n_in; i++) {
            gain.push_back(1.0f + 0.5f * random.uniform());
            bias.push_back(0.3f * random.uniform());
        }
        for (int r = 0; r < rows; r++) {
            const double size = ldexp(1.0, random.below(24) - 12), mean = norm >= LAYER ? 3 : 0;
            std::vector<double> x;
            for (int i = 0; i < n_in; i++) {
                const double v =
                    size * (mean + (double)random.uniform() * (random.below(64) == 0 ? 16.0 : 1.0));
                const uint16_t h = bf16_bits(v);
                bits[(size_t)r * (size_t)stride + (size_t)i] = h;
                x.push_back(bf16_value(h));
            }
            row_exact(x, norm);
        }
    }
    void row_exact(std::vector<double> &x, enum norm_case norm)
    {
        double mean = 0, square = 0, most = 0;
        if (norm >= LAYER)
            for (double v : x)
                mean += v / n_in;
        for (double v : x)
            square += (v - mean) * (v - mean) / n_in;
        for (size_t i = 0; i < x.size() && norm != NO_NORM; i++) {
            x[i] = (x[i] - mean) / sqrt(square + (double)epsilon) * (double)gain[i];
            x[i] += norm == LAYER_BIAS ? (double)bias[i] : 0;
        }
        for (double v : x)
            most = std::max(most, fabs(v));
        int e = 0;
        frexp(most, &e); /* most in [2^(e-1), 2^e) -> [256, 512) */
        for (double v : x)
            exact.push_back(ldexp(f16_value(f16_bits(ldexp(v, 9 - e))), e - 9));
    }
};

/* Fractional zeros leave code - zero rounded to fp16: the weights that count. */
static void round_weights(struct f64_case &w)
{
    if (w.shape.scheme != F64_FRACTIONS)
        return;
    size_t at = 0;
    for (const struct f64_part_case &p : w.parts)
        for (size_t r = 0; r < (size_t)p.n_out; r++)
            for (size_t i = 0; i < (size_t)w.shape.n_in; i++, at++) {
                const size_t group = r * (size_t)p.n_groups + i / (size_t)w.shape.group;
                const double v = p.codes[r * (size_t)w.shape.n_in + i] - f16_value(p.zeros[group]);
                w.weights[at] =
                    f16_value(f16_bits(v)) * f16_value(p.scales[group]) * (double)p.row_factor[r];
            }
}

/* Sum, and what it may be off by: fp32 sums of the products, and one input of the row that rounds
 * to the other fp16 neighbour (a norm in fp32 is off by 2^-22, so one in 2^10 does). */
struct expected {
    double v, bound;
};
static struct expected product_of(const struct f64_case &w, const struct rows_bf16 &x, int out,
                                  int row, enum norm_case norm)
{
    const size_t n_in = (size_t)x.n_in;
    double absolute, most = 0;
    struct expected e;
    e.v = w.dot(out, x.exact, row, &absolute);
    for (size_t i = 0; i < n_in; i++)
        most = std::max(most,
                        fabs(w.weights[(size_t)out * n_in + i] * x.exact[(size_t)row * n_in + i]));
    e.v += w.bias_of(out);
    /* 16: sums of warps and splits */
    e.bound = product_bound(x.n_in, w.shape.group, absolute) + 16 * ldexp(absolute, -23) +
              ldexp(fabs(e.v) + fabs(w.bias_of(out)), -22);
    if (norm != NO_NORM)
        e.bound += 4 * ldexp(most, -10) + ldexp(absolute, -20);
    return e;
}
static struct expected finished(struct expected e, const struct problem &p)
{
    e.v *= (double)p.scale;
    e.bound *= fabs((double)p.scale);
    if (p.soft_cap > 0) { /* slope at most 1; tanh_of is good to 1e-6 */
        e.v = (double)p.soft_cap * tanh(e.v / (double)p.soft_cap);
        e.bound += 2e-6 * (double)p.soft_cap;
    }
    return e;
}
/* Output column `col` before it is rounded to y's dtype; `old`: what ADD adds to. */
static struct expected output_of(const struct problem &p, const struct f64_case &w,
                                 const struct rows_bf16 &x, int col, int row, double old)
{
    struct expected e = finished(product_of(w, x, col, row, p.norm), p);
    if (p.epilogue == EPILOGUE_ADD) {
        e.v += old;
        e.bound += ldexp(fabs(e.v) + fabs(old), -23);
    }
    if (p.epilogue != EPILOGUE_GATE)
        return e;
    const struct expected up = finished(product_of(w, x, w.shape.n_out[0] + col, row, p.norm), p);
    const double g = gate_exact(p.gate, e.v);
    const double g_bound = e.bound * gate_slope(p.gate, e.v, e.bound) + 4e-6 * fabs(e.v) + 1e-6;
    struct expected both = { g * up.v, fabs(g) * up.bound + (fabs(up.v) + up.bound) * g_bound };
    return both;
}

static struct gemm_op op_of(const struct problem &p, const struct f64_case &w,
                            const struct rows_bf16 &x, const device_array<uint16_t> &x_device,
                            const device_array<float> &gain, const device_array<float> &bias)
{
    struct gemm_op op;
    memset(&op, 0, sizeof op);
    op.w = w.matrix;
    op.rows = p.rows;
    op.x = x_device.data();
    op.x_stride = x.stride;
    if (p.norm != NO_NORM) {
        op.norm.gain = gain.data();
        op.norm.bias = p.norm == LAYER_BIAS ? bias.data() : NULL;
        op.norm.epsilon = x.epsilon;
        op.norm.layer = p.norm >= LAYER;
    }
    op.splits = p.splits;
    return op;
}
/* Runs op with tickets and partial sums of its own; tickets are zero afterwards. */
static void run_op(const struct problem &p, struct gemm_op op)
{
    const struct device_info device = device_of(p);
    struct launch launch = harness.launch;
    launch.device = &device;
    launch.pdl = true;
    size_t bytes = gemm_small_workspace(&op.w, op.rows, &device);
    if (op.splits > 1) /* more than the backend's fixed one */
        bytes = std::max(bytes,
                         (size_t)op.splits * (size_t)(op.w.n_out / 16 + 3) * 512 * sizeof(float));
    device_array<float> partial(bytes / sizeof(float) + 1);
    device_array<uint32_t> tickets(GEMM_TICKETS);
    tickets.zero();
    op.partial = partial.data();
    op.partial_bytes = bytes;
    op.tickets = tickets.data();
    EXPECT(gemm_small_fits(&op, &device), "refused");
    const late x_late((void *)(uintptr_t)op.x,
                      ((size_t)(op.rows - 1) * (size_t)op.x_stride + (size_t)op.w.n_in) * 2);
    CUDA(gemm_small(&launch, &op));
    for (uint32_t t : tickets.read())
        EXPECT(t == 0, "a ticket is left at %u", t);
    partial.read(); /* its guards */
}
/* y's bits as the kernel left them, [rows][stride] */
struct ran {
    std::vector<uint32_t> bits;
    int stride;
};
static struct ran run_problem(const struct problem &p, const struct f64_case &w,
                              const struct rows_bf16 &x, const std::vector<float> &old)
{
    device_array<uint16_t> x_device(x.bits);
    device_array<float> gain(x.gain), bias(x.bias);
    struct gemm_op op = op_of(p, w, x, x_device, gain, bias);
    const int n = p.epilogue == EPILOGUE_GATE ? w.matrix.n_out / 2 : w.matrix.n_out;
    struct ran ran;
    ran.stride = n + 3;
    op.out.stride = ran.stride;
    op.out.dtype = p.dtype;
    op.out.epilogue = p.epilogue;
    op.out.gate = p.gate;
    op.out.scale = p.scale;
    op.out.soft_cap = p.soft_cap;
    if (p.dtype == DTYPE_F32) {
        std::vector<float> y(old);
        device_array<float> out(y);
        op.out.y = out.data();
        run_op(p, op);
        for (float v : out.read()) {
            uint32_t word;
            memcpy(&word, &v, 4);
            ran.bits.push_back(word);
        }
    } else {
        std::vector<uint16_t> y;
        for (float v : old)
            y.push_back(bf16_bits((double)v));
        device_array<uint16_t> out(y);
        op.out.y = out.data();
        run_op(p, op);
        for (uint16_t h : out.read())
            ran.bits.push_back((uint32_t)h << 16);
    }
    return ran;
}
static double value_of(uint32_t word)
{
    float v;
    memcpy(&v, &word, 4);
    return (double)v;
}
static std::vector<float> old_of(const struct problem &p, const struct f64_case &w)
{
    const int n = p.epilogue == EPILOGUE_GATE ? w.matrix.n_out / 2 : w.matrix.n_out;
    struct random_numbers random = { 77 };
    std::vector<float> old;
    for (int i = 0; i < p.rows * (n + 3); i++)
        old.push_back(ldexpf(roundf(64.0f * random.uniform()), -3)); /* bf16 holds it */
    return old;
}
static struct ran test_problem(const struct problem &p)
{
    struct f64_case w(p.shape, 5);
    round_weights(w);
    const struct rows_bf16 x(p.rows, p.shape.n_in, p.norm, 9);
    const std::vector<float> old = old_of(p, w);
    const struct ran ran = run_problem(p, w, x, old);
    const int n = ran.stride - 3;
    for (int r = 0; r < p.rows; r++) {
        for (int c = 0; c < ran.stride; c++) {
            const size_t at = (size_t)(r * ran.stride + c);
            const double was = (double)old[at], found = value_of(ran.bits[at]);
            if (c >= n) {
                EXPECT(found == was, "row %d: wrote past column %d", r, n);
                continue;
            }
            const struct expected e = output_of(p, w, x, c, r, was);
            EXPECT_NEAR(found, e.v, e.bound + rounding_bound(p.dtype, fabs(e.v) + e.bound),
                        "row %d column %d", r, c);
        }
    }
    return ran;
}
#define FOR_PATHS(p, arch_)                                                                        \
    for (int arch_ : { 80, 90 })                                                                   \
        if ((p).arch = arch_, path_here(arch_))

/* ---- tables ------------------------------------------------------------------------------------
 */

static const int all_rows[] = { 1, 2, 7, 8, 9, 16, 31, 32 };

/* Every instance of the kernel, every number of rows. */
static void test_kinds()
{
    for (int bits : { 4, 8 })
        for (int group : { 32, 64, 128 })
            for (int scheme = F64_SYMMETRIC; scheme <= (bits == 4 ? F64_TABLE : F64_FRACTIONS);
                 scheme++)
                for (int rows : all_rows) {
                    const struct f64_shape shape = { bits, group,  (enum f64_scheme)scheme,
                                                     1,    { 40 }, 1300,
                                                     false };
                    struct problem p = problem_of(shape, rows, 0);
                    FOR_PATHS(p, arch)
                    CASE("int%d group %d %s rows %d sm_%d", bits, group,
                         f64_scheme_name(shape.scheme), rows, arch)
                    test_problem(p);
                }
}

struct size {
    const char *what;
    int n_out, n_in, rows, n_sms;
};
static const struct size sizes[] = {
    { "one output, one input", 1, 1, 1, 0 },
    { "less than a unit", 7, 60, 3, 0 },
    { "one unit", 16, 128, 8, 0 },
    { "inputs not a multiple of 8", 33, 261, 5, 0 },
    { "one block has several tiles", 400, 256, 4, 0 },
    { "a full slice: 32 units", 32, 4096, 2, 0 },
    { "more inputs than registers hold", 48, 4200, 1, 0 },
    { "three slices", 16, 8320, 6, 0 },
    { "16 tokens, two slices and a bit", 48, 4100, 16, 0 },
    { "32 tokens, five slices", 35, 4500, 32, 0 },
    { "few tiles, many SMs: split", 64, 4096, 1, 132 },
    { "few tiles, many SMs, 9 rows", 64, 4096, 9, 132 },
    { "more tiles than a block's table", 2500, 128, 1, 1 },
};
static void test_sizes()
{
    for (const struct size &s : sizes)
        for (int bits : { 4, 8 }) {
            const struct f64_shape shape = {
                bits, 128, F64_SYMMETRIC, 1, { s.n_out }, s.n_in, false
            };
            struct problem p = problem_of(shape, s.rows, 0);
            p.n_sms = s.n_sms;
            FOR_PATHS(p, arch)
            CASE("%s: %d x %d, rows %d, int%d, sm_%d", s.what, s.n_out, s.n_in, s.rows, bits, arch)
            test_problem(p);
        }
}

struct finish {
    const char *what;
    enum epilogue epilogue;
    enum gate gate;
    enum dtype dtype;
    int n_parts, n_out[3];
    bool bias;
    float scale, soft_cap;
};
static const struct finish finishes[] = {
    { "store fp32", EPILOGUE_STORE, GATE_SILU, DTYPE_F32, 1, { 50 }, false, 1, 0 },
    { "store bf16, bias", EPILOGUE_STORE, GATE_SILU, DTYPE_BF16, 1, { 50 }, true, 1, 0 },
    { "three parts, ragged, bias",
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      3,
      { 50, 17, 64 },
      true,
      1,
      0 },
    { "add fp32, scale", EPILOGUE_ADD, GATE_SILU, DTYPE_F32, 1, { 50 }, true, 0.25f, 0 },
    { "add bf16", EPILOGUE_ADD, GATE_SILU, DTYPE_BF16, 1, { 64 }, false, 1, 0 },
    { "add, two parts", EPILOGUE_ADD, GATE_SILU, DTYPE_BF16, 2, { 30, 20 }, true, 1, 0 },
    { "soft cap", EPILOGUE_STORE, GATE_SILU, DTYPE_F32, 1, { 50 }, false, 0.125f, 30 },
    { "silu", EPILOGUE_GATE, GATE_SILU, DTYPE_BF16, 2, { 64, 64 }, false, 1, 0 },
    { "silu, ragged, bias, fp32", EPILOGUE_GATE, GATE_SILU, DTYPE_F32, 2, { 43, 43 }, true, 1, 0 },
    { "gelu", EPILOGUE_GATE, GATE_GELU, DTYPE_F32, 2, { 32, 32 }, true, 1, 0 },
    { "gelu tanh", EPILOGUE_GATE, GATE_GELU_TANH, DTYPE_F32, 2, { 32, 32 }, true, 0.03125f, 0 },
    { "relu2", EPILOGUE_GATE, GATE_RELU2, DTYPE_F32, 2, { 32, 32 }, true, 1, 0 },
};
static void test_finishes()
{
    for (const struct finish &f : finishes)
        for (int rows : { 1, 8, 16, 31 })
            for (bool split : { false, true }) {
                struct f64_shape shape = { 4,         64, F64_SYMMETRIC,
                                           f.n_parts, {}, split ? 2304 : 512,
                                           f.bias };
                memcpy(shape.n_out, f.n_out, sizeof shape.n_out);
                struct problem p = problem_of(shape, rows, 0);
                p.epilogue = f.epilogue;
                p.gate = f.gate;
                p.dtype = f.dtype;
                p.scale = f.scale;
                p.soft_cap = f.soft_cap;
                p.norm = RMS;
                p.n_sms = split ? 132 : 2;
                FOR_PATHS(p, arch)
                CASE("%s, rows %d, %s, sm_%d", f.what, rows, split ? "split" : "whole", arch)
                test_problem(p);
            }
}
static void test_norms()
{
    for (enum norm_case norm : { RMS, LAYER, LAYER_BIAS })
        for (int n_in : { 104, 520, 896, 2304, 4200 })
            for (int rows : { 1, 2, 3, 5, 9, 32 }) {
                const struct f64_shape shape = { 8, 128, F64_ZEROS, 1, { 32 }, n_in, false };
                struct problem p = problem_of(shape, rows, 90);
                p.norm = norm;
                p.arch = path_here(90) ? 90 : 80;
                CASE("%s of %d, rows %d", norm_names[norm], n_in, rows) test_problem(p);
            }
}

static void expect_same(const std::vector<uint32_t> &a, const std::vector<uint32_t> &b)
{
    EXPECT(a == b, "the bits differ");
}
static void seed_set(uint64_t seed)
{
#ifdef HOSTCUDA
    hostcuda_seed(seed);
#else
    (void)seed;
#endif
}
/* Fixed splits; the same bits again, whatever the order of blocks. */
static void test_splits()
{
    for (int splits = 0; splits <= 4; splits++)
        for (int rows : { 1, 8, 20 })
            for (bool gate : { false, true }) {
                const struct f64_shape shape = { 4,          128,  F64_ZEROS, gate ? 2 : 1,
                                                 { 96, 96 }, 2200, true };
                struct problem p = problem_of(shape, rows, 0);
                p.splits = splits;
                p.norm = RMS;
                p.epilogue = gate ? EPILOGUE_GATE : EPILOGUE_STORE;
                p.n_sms = 132;
                FOR_PATHS(p, arch)
                CASE("splits %d, rows %d, %s, same bits again, sm_%d", splits, rows,
                     gate ? "gate" : "store", arch)
                {
                    const std::vector<uint32_t> first = test_problem(p).bits;
                    for (uint64_t seed = 2; seed < 5; seed++) {
                        seed_set(seed);
                        expect_same(first, test_problem(p).bits);
                    }
                    seed_set(1);
                }
            }
}
/* With fixed splits a row has the same bits alone, among others, and on any number of SMs. */
static void test_company()
{
    for (enum norm_case norm : { NO_NORM, RMS })
        for (int rows : { 1, 5, 12 }) {
            const struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 1, { 80 }, 3000, false };
            struct problem p = problem_of(shape, 32, path_here(90) ? 90 : 80);
            p.norm = norm;
            p.splits = 1;
            CASE("first %d of 32 rows, %s: the bits of 32", rows, norm_names[norm])
            {
                const struct ran all = test_problem(p);
                p.rows = rows;
                p.n_sms = 3;
                const struct ran few = test_problem(p);
                const size_t n = few.bits.size() - 3; /* what lies behind the last row differs */
                expect_same(
                    std::vector<uint32_t>(all.bits.begin(), all.bits.begin() + (ptrdiff_t)n),
                    std::vector<uint32_t>(few.bits.begin(), few.bits.begin() + (ptrdiff_t)n));
            }
        }
}

/* ---- q, k, v ----------------------------------------------------------------------------------
 */

struct heads {
    const char *what;
    int n_heads, n_kv_heads, head_dim, rotary_dim; /* 0: no rotation */
    bool interleaved;
    int n_parts; /* 3, or 1: q, k, v in one */
    enum dtype kv_dtype;
    bool bias;
};
static const struct heads heads_table[] = {
    { "halves", 3, 1, 64, 64, false, 3, DTYPE_BF16, false },
    { "halves, one part, bias, fp16", 2, 2, 32, 32, false, 1, DTYPE_F16, true },
    { "part of a head", 2, 1, 96, 64, false, 3, DTYPE_BF16, true },
    { "a third of a head", 1, 1, 96, 32, false, 3, DTYPE_F16, false },
    { "neighbours", 2, 1, 64, 64, true, 3, DTYPE_BF16, false },
    { "neighbours, part of a head", 2, 1, 64, 22, true, 3, DTYPE_F16, true },
    { "no rotation", 2, 1, 32, 0, false, 3, DTYPE_BF16, true },
    { "head of 128", 1, 1, 128, 128, false, 3, DTYPE_BF16, false },
};
enum { QKV_PAGES = 12, QKV_STRIDE = 6, QKV_SEQS = 2 };

struct qkv_case {
    struct heads h;
    int rows;
    std::vector<int32_t> positions, row_seq, pages;
    std::vector<float> inv_freq;
    float rope_scale;

    qkv_case(const struct heads &heads_, int n_rows) : h(heads_), rows(n_rows), rope_scale(1.25f)
    {
        for (int r = 0; r < rows;
             r++) { /* two sequences, the last row of three or more is padding */
            const bool second = r >= rows / 2;
            const int at = second ? 40 + r - rows / 2 : r;
            positions.push_back(rows > 2 && r == rows - 1 ? -1 : at);
            row_seq.push_back(positions.back() < 0 ? -1 : second ? 1 : 0);
        }
        for (int i = 0; i < QKV_SEQS * QKV_STRIDE; i++)
            pages.push_back((i * 5 + 2) % QKV_PAGES);
        pages[QKV_STRIDE + 3] = -1; /* of sequence 1: positions 48 to 63 are not kept */
        for (int i = 0; i < h.rotary_dim / 2; i++)
            inv_freq.push_back(powf(1000.0f, -2.0f * (float)i / (float)h.rotary_dim));
    }
    int n_channels() const
    {
        return (h.n_heads + 2 * h.n_kv_heads) * h.head_dim;
    }
    /* index into the pages; -1: not stored */
    int page_index(int row, int channel) const
    {
        const int position = positions[(size_t)row];
        if (position < 0)
            return -1;
        const int page =
            pages[(size_t)(row_seq[(size_t)row] * QKV_STRIDE + position / PAGE_TOKENS)];
        if (page < 0)
            return -1;
        const int head = channel / h.head_dim - h.n_heads, which = head / h.n_kv_heads;
        const int block = (page * 2 + which) * h.n_kv_heads + head % h.n_kv_heads;
        return (block * PAGE_TOKENS + position % PAGE_TOKENS) * h.head_dim + channel % h.head_dim;
    }
    /* after rotation; `all`: the row's products */
    struct expected rotated(const std::vector<struct expected> &all, int row, int channel) const
    {
        const int d = channel % h.head_dim;
        if (d >= h.rotary_dim || channel >= (h.n_heads + h.n_kv_heads) * h.head_dim)
            return all[(size_t)channel];
        const int half = h.rotary_dim / 2;
        const bool high = h.interleaved ? d % 2 != 0 : d >= half;
        const int step = h.interleaved ? 1 : half, pair = h.interleaved ? d / 2 : d % half;
        const struct expected a = all[(size_t)(high ? channel - step : channel)];
        const struct expected b = all[(size_t)(high ? channel : channel + step)];
        const float angle = (float)positions[(size_t)row] * inv_freq[(size_t)pair];
        const double c = cos((double)angle), s = sin((double)angle), scale = (double)rope_scale;
        struct expected e;
        e.v = scale * (high ? b.v * c + a.v * s : a.v * c - b.v * s);
        e.bound = scale * (a.bound + b.bound + 1e-6 * (fabs(a.v) + fabs(b.v)));
        return e;
    }
};
static void test_qkv_case(const struct heads &h, int rows, int arch, bool split)
{
    const struct qkv_case q(h, rows);
    struct f64_shape shape = { 4, 128, F64_SYMMETRIC, h.n_parts, {}, split ? 2304 : 384, h.bias };
    shape.n_out[0] = h.n_parts == 1 ? q.n_channels() : h.n_heads * h.head_dim;
    shape.n_out[1] = shape.n_out[2] = h.n_kv_heads * h.head_dim;
    struct problem p = problem_of(shape, rows, arch);
    p.norm = RMS;
    p.n_sms = split ? 132 : 0;
    const struct f64_case w(shape, 21);
    const struct rows_bf16 x(rows, shape.n_in, p.norm, 22);
    device_array<uint16_t> x_device(x.bits);
    device_array<float> gain(x.gain), bias(x.bias), inv_freq(q.inv_freq);
    device_array<int32_t> positions(q.positions), row_seq(q.row_seq), pages(q.pages);
    const int n_q = h.n_heads * h.head_dim, q_stride = n_q + 8;
    const size_t page_elements = (size_t)(2 * h.n_kv_heads * PAGE_TOKENS * h.head_dim);
    device_array<uint16_t> q_out((size_t)(rows * q_stride)), memory(page_elements * QKV_PAGES);

    struct qkv_out out;
    memset(&out, 0, sizeof out);
    out.q = q_out.data();
    out.q_stride = q_stride;
    out.k_pages = memory.data();
    out.v_pages = memory.data() + page_elements / 2;
    out.kv_dtype = h.kv_dtype;
    out.n_pages = QKV_PAGES;
    out.n_heads = h.n_heads;
    out.n_kv_heads = h.n_kv_heads;
    out.head_dim = h.head_dim;
    out.positions = positions.data();
    out.row_seq = row_seq.data();
    out.pages = pages.data();
    out.pages_stride = QKV_STRIDE;
    out.inv_freq = h.rotary_dim > 0 ? inv_freq.data() : NULL;
    out.rotary_dim = h.rotary_dim;
    out.rope_scale = q.rope_scale;
    out.interleaved = h.interleaved;
    struct gemm_op op = op_of(p, w, x, x_device, gain, bias);
    op.qkv = &out;
    op.out.scale = 1;
    run_op(p, op);

    const std::vector<uint16_t> q_found = q_out.read(), found = memory.read();
    std::vector<bool> stored(found.size(), false);
    for (int r = 0; r < rows; r++) {
        std::vector<struct expected> all;
        for (int c = 0; c < q.n_channels(); c++)
            all.push_back(product_of(w, x, c, r, p.norm));
        for (int c = 0; c < q.n_channels(); c++) {
            if (c < n_q && q.positions[(size_t)r] < 0) {
                EXPECT(q_found[(size_t)(r * q_stride + c)] == 0, "padding row %d has a q", r);
                continue;
            }
            const struct expected e = q.rotated(all, r, c);
            const double most = fabs(e.v) + e.bound;
            if (c < n_q) {
                EXPECT_NEAR(bf16_value(q_found[(size_t)(r * q_stride + c)]), e.v,
                            e.bound + rounding_bound(DTYPE_BF16, most), "q row %d channel %d", r,
                            c);
                continue;
            }
            const int at = q.page_index(r, c);
            if (at < 0)
                continue;
            stored[(size_t)at] = true;
            const uint16_t bits = found[(size_t)at];
            EXPECT_NEAR(h.kv_dtype == DTYPE_F16 ? f16_value(bits) : bf16_value(bits), e.v,
                        e.bound + (h.kv_dtype == DTYPE_F16 ? ldexp(most, -11)
                                                           : rounding_bound(DTYPE_BF16, most)),
                        "row %d channel %d", r, c);
        }
        for (int c = n_q; c < q_stride; c++)
            EXPECT(q_found[(size_t)(r * q_stride + c)] == 0xffff, "wrote past q of row %d", r);
    }
    for (size_t i = 0; i < found.size(); i++)
        EXPECT(stored[i] || found[i] == 0xffff, "wrote key or value %zu of no row", i);
}
static void test_qkv()
{
    for (const struct heads &h : heads_table)
        for (int rows : { 1, 8, 12, 32 })
            for (bool split : { false, true })
                for (int arch : { 80, 90 })
                    if (path_here(arch))
                        CASE("q, k, v: %s, rows %d, %s, sm_%d", h.what, rows,
                             split ? "split" : "whole", arch)
    test_qkv_case(h, rows, arch, split);
}

/* ---- what is refused ---------------------------------------------------------------------------
 */

static void test_refused()
{
    static float gain[64] __attribute__((aligned(16)));
    static uint16_t rows[64] __attribute__((aligned(16)));
    struct qkv_out qkv;
    memset(&qkv, 0, sizeof qkv);
    qkv.n_heads = 2;
    qkv.n_kv_heads = 1;
    qkv.head_dim = 64;
    qkv.kv_dtype = DTYPE_BF16;
    struct gemm_op good;
    memset(&good, 0, sizeof good);
    good.w.n_parts = 1;
    good.w.n_out = good.w.parts[0].n_out = 256;
    good.w.n_in = 128;
    good.w.kind.bits = 4;
    good.w.kind.group = 128;
    good.rows = 32;
    good.x = rows;
    good.x_stride = 128;
    good.out.dtype = DTYPE_BF16;
    const struct device_info *device = &harness.device;
    CASE("refused: what has no kernel")
    {
        EXPECT(gemm_small_fits(&good, device), "a plain product is refused");
        struct gemm_op op = good;
        op.rows = 33;
        EXPECT(!gemm_small_fits(&op, device), "33 rows");
        op = good;
        op.w.kind.group = 256;
        EXPECT(!gemm_small_fits(&op, device), "group 256");
        op = good;
        op.x_stride = 129;
        EXPECT(!gemm_small_fits(&op, device), "odd stride");
        op = good;
        op.w.n_in = 124;
        op.norm.gain = gain;
        EXPECT(!gemm_small_fits(&op, device), "norm of a ragged row");
        op = good;
        op.out.epilogue = EPILOGUE_GATE;
        EXPECT(!gemm_small_fits(&op, device), "a gate of one part");
        op = good;
        op.qkv = &qkv;
        EXPECT(gemm_small_fits(&op, device), "plain q, k, v are refused");
        qkv.q_gain = gain;
        EXPECT(!gemm_small_fits(&op, device), "norm of q");
        qkv.q_gain = NULL;
        qkv.inv_freq = gain;
        qkv.rotary_dim = 48;
        EXPECT(!gemm_small_fits(&op, device), "halves of 24");
        qkv.interleaved = true;
        EXPECT(gemm_small_fits(&op, device), "48 neighbours are refused");
        qkv.head_dim = 80;
        EXPECT(!gemm_small_fits(&op, device), "head of 80");
    }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    test_refused();
    test_kinds();
    test_sizes();
    test_finishes();
    test_norms();
    test_splits();
    test_company();
    test_qkv();
    return harness_end();
}
