/* test_gemm_mma.cu - F64 weights x fp16 rows by mma.sync, against double precision. */
#include "tests/ops/cuda/product_case.cuh"

/* What gemm_mma alone has. */
static const struct product_case cases[] = {
    /* bits group scheme parts n_out n_in bias | rows epilogue dtype scale cap splits gap */
    { { 4, 128, F64_SYMMETRIC, 1, { 70 }, 1000, false }, 9, ADD, DTYPE_BF16, 0.5f, 0, 1, 2 },
    { { 4, 128, F64_SYMMETRIC, 2, { 64, 64 }, 256, true },
      5,
      GATE(GELU_TANH),
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 32, F64_SYMMETRIC, 1, { 100 }, 500, false }, 3, STORE, DTYPE_F32, 1, 30, 1, 0 },
    { { 4, 128, F64_ZEROS, 1, { 140 }, 700, false }, 64, STORE, DTYPE_BF16, 1, 0, 1, 0 },
    { { 4, 64, F64_TABLE, 1, { 150 }, 320, true }, 8, STORE, DTYPE_F32, 1, 0, 1, 0 },
    { { 4, 32, F64_TABLE, 2, { 80, 80 }, 256, false }, 20, GATE(GELU), DTYPE_BF16, 1, 0, 1, 0 },
    { { 4, 128, F64_TABLE, 1, { 64 }, 256, false }, 70, ADD, DTYPE_F32, 1, 0, 1, 0 },
    { { 8, 128, F64_SYMMETRIC, 2, { 100, 100 }, 256, true },
      33,
      GATE(SILU),
      DTYPE_BF16,
      1,
      0,
      1,
      4 },
    /* Split sums: fixed. */
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 2000, false }, 40, STORE, DTYPE_BF16, 1, 0, 3, 0 },
};
static const struct product_case large[] = {
    { { 8, 128, F64_SYMMETRIC, 1, { 1024 }, 8192, false }, 7, STORE, DTYPE_F32, 1, 0, 0, 0 },
    { { 4, 64, F64_TABLE, 3, { 2048, 512, 512 }, 2048, true }, 33, STORE, DTYPE_F32, 1, 0, 0, 0 },
};
static void test_product(const struct product_case &c)
{
    /* code - zero is rounded to fp16 when the zero is a fraction */
    product_test<rows_f16>(c, gemm_mma_fits, gemm_mma, c.w.scheme == F64_FRACTIONS ? 0x1p-11 : 0.0);
}

static void test_late(const struct product_case &c)
{
    product_test_pdl<rows_f16>(c, gemm_mma);
}

/* --invariant: a row's bits are the same whatever tile it was in. */
static void test_invariant(const struct f64_shape &shape)
{
    const struct f64_case w(shape, 5);
    const struct rows_f16 x(70, shape.n_in, 6);
    const size_t cols = (size_t)shape.n_out[0];
    std::vector<uint32_t> all;
    const int counts[] = { 70, 1, 8, 20, 32 };
    for (int rows : counts) {
        struct product_case c = { shape, rows, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, 1, 0, 1, 0 };
        struct gemm_op op = product_op(c, w.matrix);
        product_rows(&op, x);
        const std::vector<uint32_t> old((size_t)rows * cols, UINT32_MAX);
        const std::vector<uint32_t> y = product_run<uint32_t>(c, op, gemm_mma, old);
        if (all.empty())
            all = y;
        EXPECT(std::equal(y.begin(), y.end(), all.begin()), "%d rows alone have other bits", rows);
    }
}

static void test_refused()
{
    product_test_refused(gemm_mma_fits,
                         { { [](struct gemm_op *op) { op->w.n_in = 512, op->splits = 4; },
                             "splits without memory" } });
    const struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 1, { 64 }, 128, false };
    const struct f64_case w(shape, 1);
    const struct product_case c = { shape, 4, STORE, DTYPE_F32, 1, 0, 0, 0 };
    const struct gemm_op op = product_op(c, w.matrix);
    struct device_info small = harness.device;
    small.shared_bytes = 16 << 10;
    EXPECT(gemm_mma_fits(&op, &harness.device), "refused");
    EXPECT(!gemm_mma_fits(&op, &small), "takes 16 KB of shared memory");
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    tile_tests(cases, large, test_product, test_late, test_refused);
    const struct f64_shape shapes[] = { { 4, 128, F64_SYMMETRIC, 1, { 130 }, 400, true },
                                        { 4, 32, F64_ZEROS, 1, { 64 }, 256, false },
                                        { 8, 128, F64_SYMMETRIC, 1, { 64 }, 256, false } };
    for (const struct f64_shape &s : shapes)
        CASE("rows alone, int%d g%d", s.bits, s.group) test_invariant(s);
    return harness_end();
}
