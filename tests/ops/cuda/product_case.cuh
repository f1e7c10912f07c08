/* product_case.cuh - one product of a tile kernel against double precision: gemm_mma, gemm_s8 and
 * gemm_dense; and the cases that gemm_mma and gemm_s8 have in common.
 *
 *   y = epilogue(soft_cap((sum of w . x + bias) * scale)), exact weights, x as the kernel gets it.
 *
 * Checks every output within a bound, columns between rows and memory around y untouched, tickets
 * back at zero, and the same bits from a second launch. */
#pragma once
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/f64_case.cuh"

struct product_case {
    struct f64_shape w;
    int rows;
    enum epilogue epilogue;
    enum gate gate;
    enum dtype dtype;
    float scale, soft_cap;
    int splits; /* 0: the kernel's choice */
    int gap;    /* columns between rows of y */
};
enum { PRODUCT_PARTIAL = 1 << 22 };
/* Epilogue and gate of a case. */
#define STORE      EPILOGUE_STORE, GATE_SILU
#define ADD        EPILOGUE_ADD, GATE_SILU
#define GATE(kind) EPILOGUE_GATE, GATE_##kind

static inline int product_cols(const struct product_case &c)
{
    int n = 0;
    for (int p = 0; p < c.w.n_parts; p++)
        n += c.w.n_out[p];
    return c.epilogue == EPILOGUE_GATE ? c.w.n_out[0] : n;
}
static inline struct gemm_op product_op(const struct product_case &c, const struct f64_matrix &w)
{
    struct gemm_op op;
    memset(&op, 0, sizeof op);
    op.w = w;
    op.rows = c.rows;
    op.out.stride = product_cols(c) + c.gap;
    op.out.dtype = c.dtype;
    op.out.epilogue = c.epilogue;
    op.out.gate = c.gate;
    op.out.scale = c.scale;
    op.out.soft_cap = c.soft_cap;
    op.splits = c.splits;
    return op;
}
static inline void product_rows(struct gemm_op *op, const struct rows_f16 &x)
{
    op->x = x.data_device->data();
    op->x_stride = x.stride;
    op->x_scale = x.scale_device->data();
}
static inline void product_rows(struct gemm_op *op, const struct rows_s8 &x)
{
    op->x = x.data_device->data();
    op->x_stride = x.stride;
    op->x_scale = x.scale_device->data();
    op->x_sum = x.sum_device->data();
}

/* v before the epilogue, and what the kernel's v may be off by. `weight_error`: of each weight,
 * relative (a kernel that rounds code - zero to fp16). */
static inline double product_value(const struct product_case &c, const struct f64_case &w,
                                   const std::vector<double> &x, int row, int out,
                                   double weight_error, double *bound)
{
    double absolute;
    const double v = (w.dot(out, x, row, &absolute) + w.bias_of(out)) * (double)c.scale;
    absolute = (absolute + fabs(w.bias_of(out))) * fabs((double)c.scale);
    *bound = product_bound(c.w.n_in, c.w.group, absolute) + weight_error * absolute;
    if (c.soft_cap == 0)
        return v;
    const double cap = (double)c.soft_cap; /* slope at most 1; tanh_of is 1e-6 off, and v / cap */
    *bound += cap * 4e-6;
    return cap * tanh(v / cap);
}
static inline double product_gated(const struct product_case &c, double g, double g_bound, double u,
                                   double u_bound, double *bound)
{
    const double act = gate_exact(c.gate, g);
    const double act_bound = gate_slope(c.gate, g, g_bound) * g_bound + 4e-6 * (fabs(g) + 1e-3);
    *bound = act_bound * (fabs(u) + u_bound) + fabs(act) * u_bound;
    return act * u;
}
static inline double product_exact(const struct product_case &c, const struct f64_case &w,
                                   const std::vector<double> &x, int row, int col, double old,
                                   double weight_error, double *bound)
{
    double v = product_value(c, w, x, row, col, weight_error, bound);
    if (c.epilogue == EPILOGUE_GATE) {
        double u_bound;
        const double u = product_value(c, w, x, row, col + c.w.n_out[0], weight_error, &u_bound);
        v = product_gated(c, v, *bound, u, u_bound, bound);
    }
    if (c.epilogue == EPILOGUE_ADD)
        v += old;
    *bound += rounding_bound(c.dtype, fabs(v) + *bound) + ldexp(fabs(old), -23);
    return v;
}

/* y of one launch, as bits (fp32, or bf16 in the low half); `old` is what was there before. */
typedef cudaError_t product_launch(const struct launch *launch, const struct gemm_op *op);
template <typename T>
static inline std::vector<uint32_t> product_run(const struct product_case &c, struct gemm_op op,
                                                product_launch *launch, const std::vector<T> &old)
{
    device_array<T> y(old);
    device_array<float> partial(PRODUCT_PARTIAL);
    device_array<uint32_t> tickets((size_t)GEMM_TICKETS);
    tickets.zero();
    op.out.y = y.data();
    op.partial = partial.data();
    op.partial_bytes = PRODUCT_PARTIAL * sizeof(float);
    op.tickets = tickets.data();
    CUDA(launch(&harness.launch, &op));
    const std::vector<T> bits = y.read();
    for (uint32_t t : tickets.read())
        EXPECT(t == 0, "a ticket was left at %u", t);
    const size_t cols = (size_t)product_cols(c), stride = cols + (size_t)c.gap;
    for (size_t i = 0; i < bits.size(); i++)
        if (i % stride >= cols)
            EXPECT(bits[i] == (T)-1, "wrote between rows: column %zu", i % stride);
    return std::vector<uint32_t>(bits.begin(), bits.end());
}
template <typename T>
static inline void product_check(const struct product_case &c, const struct f64_case &w,
                                 const struct gemm_op &op, const std::vector<double> &x,
                                 product_launch *launch, double weight_error)
{
    const size_t cols = (size_t)product_cols(c), stride = cols + (size_t)c.gap;
    const bool add = c.epilogue == EPILOGUE_ADD;
    std::vector<T> old((size_t)c.rows * stride, (T)-1);
    struct random_numbers random = { 77 };
    for (size_t i = 0; i < old.size(); i++)
        if (add && i % stride < cols) {
            const float v = 4 * random.uniform();
            if (sizeof(T) == 2)
                old[i] = (T)bf16_bits((double)v);
            else
                memcpy(&old[i], &v, sizeof v);
        }
    const auto value = [](uint32_t bits) {
        float v;
        memcpy(&v, &bits, sizeof v);
        return sizeof(T) == 2 ? bf16_value((uint16_t)bits) : (double)v;
    };
    const std::vector<uint32_t> y = product_run<T>(c, op, launch, old);
    for (int r = 0; r < c.rows; r++)
        for (int o = 0; o < (int)cols; o++) {
            const size_t at = (size_t)r * stride + (size_t)o;
            double bound;
            const double before = add ? value(old[at]) : 0.0;
            const double v = product_exact(c, w, x, r, o, before, weight_error, &bound);
            const double found = value(y[at]);
            EXPECT(fabs(found - v) <= bound, "row %d output %d: %.9g, wanted %.9g within %.3g", r,
                   o, found, v, bound);
        }
    EXPECT(product_run<T>(c, op, launch, old) == y, "a second launch has other bits");
}
/* `kernel` and its `fits` on one case; X: rows_f16 or rows_s8. */
typedef bool product_fits(const struct gemm_op *op, const struct device_info *device);
template <typename X>
static inline void product_test(const struct product_case &c, product_fits *fits,
                                product_launch *launch, double weight_error)
{
    const struct f64_case w(c.w, (uint64_t)(c.rows * 1000 + c.w.n_in));
    const X x(c.rows, c.w.n_in, (uint64_t)(c.rows + 7));
    struct gemm_op op = product_op(c, w.matrix);
    product_rows(&op, x);
    op.partial_bytes = PRODUCT_PARTIAL * sizeof(float);
    EXPECT(fits(&op, &harness.device), "refused");
    if (c.dtype == DTYPE_BF16)
        product_check<uint16_t>(c, w, op, x.exact, launch, weight_error);
    else
        product_check<uint32_t>(c, w, op, x.exact, launch, weight_error);
}
/* Launched behind the kernel that makes x, and allowed to start before it has ended: x is not there
 * when the first blocks are, nor are the tickets of the launch before. */
struct product_words {
    const uint32_t *from;
    uint32_t *to;
    int n;
};
KERNEL(128, 1) product_copy(const __grid_constant__ struct product_words a)
{
    for (int i = (int)threadIdx.x; i < a.n; i += 128)
        a.to[i] = a.from[i];
}
template <typename X>
static inline void product_test_pdl(const struct product_case &c, product_launch *launch)
{
    const struct f64_case w(c.w, 8);
    const X x(c.rows, c.w.n_in, 9);
    struct gemm_op op = product_op(c, w.matrix);
    product_rows(&op, x);
    const std::vector<uint32_t> old((size_t)c.rows * (size_t)op.out.stride, UINT32_MAX);
    const std::vector<uint32_t> wanted = product_run<uint32_t>(c, op, launch, old);
    const size_t words = x.data_device->n * sizeof *x.data_device->data() / sizeof(uint32_t);
    device_array<uint32_t> late(words), first(old), second(old), tickets((size_t)GEMM_TICKETS);
    device_array<float> partial(PRODUCT_PARTIAL);
    tickets.zero();
    const struct product_words copy = { (const uint32_t *)(const void *)op.x, late.data(),
                                        (int)words };
    op.x = late.data();
    op.out.y = first.data();
    op.partial = partial.data();
    op.partial_bytes = PRODUCT_PARTIAL * sizeof(float);
    op.tickets = tickets.data();
    struct launch pdl = harness.launch;
    pdl.pdl = harness.device.arch >= 90;
    CUDA(LAUNCH((product_copy), dim3(1), 128, 0, harness.stream, LAUNCH_PLAIN, copy));
    CUDA(launch(&pdl, &op));
    op.out.y = second.data();
    CUDA(launch(&pdl, &op));
    EXPECT(first.read() == wanted, "other bits than after a full stop");
    EXPECT(second.read() == wanted, "other bits behind itself");
}
static inline const char *product_name(const struct product_case &c)
{
    static char name[256];
    static const char *const epilogues[] = { "store", "add", "gate" };
    int n = snprintf(name, sizeof name, "int%d g%d %s, rows=%d n_out=%d", c.w.bits, c.w.group,
                     f64_scheme_name(c.w.scheme), c.rows, c.w.n_out[0]);
    for (int p = 1; p < c.w.n_parts; p++)
        n += snprintf(name + n, sizeof name - (size_t)n, "+%d", c.w.n_out[p]);
    snprintf(name + n, sizeof name - (size_t)n, " n_in=%d %s%d %s%s splits=%d", c.w.n_in,
             epilogues[c.epilogue], c.epilogue == EPILOGUE_GATE ? (int)c.gate : 0,
             c.dtype == DTYPE_BF16 ? "bf16" : "f32", c.w.bias ? " bias" : "", c.splits);
    return name;
}
template <size_t N>
static inline void product_tests(const struct product_case (&cases)[N],
                                 void (*test)(const struct product_case &c), const char *what)
{
    for (const struct product_case &c : cases)
        CASE("%s%s", what, product_name(c)) test(c);
}

/* What every product refuses, each for one reason, and `more`. */
struct product_refusal {
    void (*change)(struct gemm_op *op);
    const char *what;
};
static inline void product_test_refused(product_fits *fits,
                                        const std::vector<struct product_refusal> &more)
{
    const struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 2, { 64, 64 }, 128, false };
    const struct f64_case w(shape, 1);
    const struct product_case c = { shape, 40, GATE(SILU), DTYPE_F32, 1, 0, 0, 0 };
    const struct gemm_op good = product_op(c, w.matrix);
    static const struct qkv_out qkv = {};
    EXPECT(fits(&good, &harness.device), "a good op was refused");
    std::vector<struct product_refusal> all = {
        { [](struct gemm_op *op) { op->rows = 0; }, "no rows" },
        { [](struct gemm_op *op) { op->w.n_parts = 1; }, "a gate of one part" },
        { [](struct gemm_op *op) { op->w.parts[1].n_out = 63; }, "a gate of unlike parts" },
        { [](struct gemm_op *op) { op->w.kind.group = 16; }, "groups of 16" },
        { [](struct gemm_op *op) { op->w.kind.bits = 2; }, "2 bits" },
        { [](struct gemm_op *op) { op->out.dtype = DTYPE_F16; }, "fp16 outputs" },
        { [](struct gemm_op *op) { op->qkv = &qkv; }, "q, k, v" },
    };
    all.insert(all.end(), more.begin(), more.end());
    for (const struct product_refusal &r : all) {
        struct gemm_op op = good;
        r.change(&op);
        EXPECT(!fits(&op, &harness.device), "takes %s", r.what);
    }
}

/* ---- gemm_mma and gemm_s8 -----------------------------------------------------------------------
 *
 * Kinds, token tiles (rows <= 8, <= 32, more), ragged n_out and n_in, parts. */
static const struct product_case tile_cases[] = {
    /* bits group scheme parts n_out n_in bias | rows epilogue dtype scale cap splits gap */
    { { 4, 128, F64_SYMMETRIC, 1, { 128 }, 256, false }, 1, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 300, true }, 8, STORE, DTYPE_BF16, 1, 0, 1, 8 },
    { { 4, 128, F64_SYMMETRIC, 1, { 1 }, 1, true }, 33, STORE, DTYPE_F32, 1, 0, 1, 3 },
    { { 4, 128, F64_SYMMETRIC, 3, { 130, 66, 30 }, 640, true }, 64, STORE, DTYPE_F32, 1, 0, 1, 2 },
    { { 4, 128, F64_SYMMETRIC, 2, { 130, 130 }, 384, false },
      100,
      GATE(SILU),
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 4, 64, F64_SYMMETRIC, 1, { 192 }, 448, false }, 33, ADD, DTYPE_F32, 2, 0, 1, 0 },
    { { 4, 32, F64_SYMMETRIC, 1, { 100 }, 500, true }, 65, STORE, DTYPE_BF16, 1, 0, 1, 0 },
    { { 4, 128, F64_ZEROS, 1, { 140 }, 700, false }, 8, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 4, 64, F64_ZEROS, 2, { 90, 90 }, 200, true }, 40, GATE(RELU2), DTYPE_F32, 1, 0, 1, 2 },
    { { 4, 32, F64_ZEROS, 1, { 64 }, 128, false }, 17, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 4, 64, F64_FRACTIONS, 1, { 100 }, 300, false }, 100, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 4, 128, F64_FRACTIONS, 1, { 64 }, 256, false }, 4, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 8, 128, F64_SYMMETRIC, 1, { 200 }, 300, true }, 1, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 8, 128, F64_SYMMETRIC, 1, { 128 }, 640, false }, 64, ADD, DTYPE_BF16, 1, 0, 1, 0 },
    { { 8, 64, F64_SYMMETRIC, 1, { 70 }, 400, false }, 30, STORE, DTYPE_F32, 1, 50, 1, 0 },
    { { 8, 32, F64_ZEROS, 1, { 130 }, 300, true }, 100, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 8, 128, F64_ZEROS, 1, { 64 }, 384, false }, 6, STORE, DTYPE_BF16, 1, 0, 1, 0 },
    { { 8, 64, F64_FRACTIONS, 1, { 64 }, 200, false }, 12, STORE, DTYPE_F32, 1, 0, 1, 0 },
    /* Split sums: chosen, more than there are blocks of inputs. */
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 2000, true }, 8, ADD, DTYPE_F32, 1, 0, 0, 0 },
    { { 8, 64, F64_ZEROS, 2, { 64, 64 }, 600, false }, 20, GATE(SILU), DTYPE_F32, 1, 0, 9, 0 },
};
/* Shapes of real layers, on a GPU. */
static const struct product_case tile_large[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 4096 }, 4096, false }, 256, ADD, DTYPE_BF16, 1, 0, 0, 0 },
    { { 4, 128, F64_ZEROS, 2, { 2000, 2000 }, 2048, false },
      130,
      GATE(SILU),
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
};
/* x comes late: splits, and zeros. */
static const struct product_case tile_late[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 1000, false }, 8, STORE, DTYPE_F32, 1, 0, 2, 0 },
    { { 8, 64, F64_ZEROS, 1, { 64 }, 256, true }, 64, STORE, DTYPE_F32, 1, 0, 1, 0 },
};
/* All of them, the kernel's own cases, and `refused`. */
template <size_t N, size_t N_LARGE>
static inline void
tile_tests(const struct product_case (&own)[N], const struct product_case (&own_large)[N_LARGE],
           void (*test)(const struct product_case &c),
           void (*test_late)(const struct product_case &c), void (*test_refused)())
{
    product_tests(tile_cases, test, "");
    product_tests(own, test, "");
    if (harness.full) {
        product_tests(tile_large, test, "");
        product_tests(own_large, test, "");
    }
    product_tests(tile_late, test_late, "x comes late, ");
    CASE("refused") test_refused();
}
