/* Tests of gemm_dense: every kind, epilogue and output, slices of one to three parts, several
 * slices and chunks of rows, against double precision. On a GPU the product is cuBLASLt's: without
 * the library there is nothing to test. */
#include "tests/ops/cuda/product_case.cuh"

static struct dense *dense;
static cudaError_t run_dense(const struct launch *launch, const struct gemm_op *op)
{
    struct launch l = *launch;
    l.pdl = harness.device.arch >= 90;
    return gemm_dense(&l, dense, op);
}
static void test_product(const struct product_case &c)
{
    /* A weight is rounded to fp16 once, (code - zero) before it where the zero has a fraction. */
    const double weight_error = c.w.scheme == F64_FRACTIONS ? 0x1p-10 : 0x1p-11;
    product_test<struct rows_f16>(c, gemm_dense_fits, run_dense, weight_error);
}

static const struct product_case cases[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 64 }, 128, false }, 1, STORE, DTYPE_F32, 1, 0, 0, 0 },
    { { 4, 128, F64_SYMMETRIC, 1, { 100 }, 300, true }, 5, STORE, DTYPE_BF16, 1, 0, 0, 4 },
    { { 4, 64, F64_ZEROS, 1, { 130 }, 200, true }, 9, ADD, DTYPE_F32, 0.5f, 0, 0, 2 },
    { { 4, 32, F64_FRACTIONS, 1, { 65 }, 140, false }, 6, ADD, DTYPE_BF16, 2, 0, 0, 3 },
    { { 4, 64, F64_TABLE, 1, { 72 }, 256, true }, 7, STORE, DTYPE_F32, 1, 9, 0, 1 },
    { { 8, 128, F64_SYMMETRIC, 1, { 96 }, 384, false }, 4, STORE, DTYPE_BF16, 1, 0, 0, 0 },
    { { 8, 32, F64_ZEROS, 1, { 33 }, 77, true }, 17, STORE, DTYPE_F32, 1, 3, 0, 3 },
    { { 8, 64, F64_FRACTIONS, 1, { 20 }, 500, false }, 3, ADD, DTYPE_F32, 1, 0, 0, 0 },
    /* q, k, v in one slice; columns of the second and third are not aligned */
    { { 4, 128, F64_SYMMETRIC, 3, { 128, 64, 64 }, 256, true }, 8, STORE, DTYPE_F32, 1, 0, 0, 0 },
    { { 4, 128, F64_ZEROS, 3, { 66, 33, 31 }, 129, true }, 5, ADD, DTYPE_BF16, 1, 0, 0, 2 },
    /* gates */
    { { 4, 128, F64_SYMMETRIC, 2, { 128, 128 }, 256, false },
      8,
      GATE(SILU),
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
    { { 4, 64, F64_ZEROS, 2, { 70, 70 }, 190, true }, 5, GATE(GELU), DTYPE_F32, 1, 0, 0, 1 },
    { { 8, 128, F64_SYMMETRIC, 2, { 37, 37 }, 128, true },
      6,
      GATE(GELU_TANH),
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
    { { 4, 32, F64_TABLE, 2, { 64, 64 }, 64, false }, 3, GATE(RELU2), DTYPE_F32, 1, 0, 0, 0 },
    /* several slices: of one part, across parts (2048 rows end inside the second), of a gate */
    { { 4, 128, F64_SYMMETRIC, 1, { 2200 }, 40, true }, 2, STORE, DTYPE_F32, 1, 0, 0, 0 },
    { { 4, 128, F64_SYMMETRIC, 3, { 1500, 1100, 1600 }, 40, true },
      2,
      STORE,
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
    { { 8, 128, F64_SYMMETRIC, 2, { 1090, 1090 }, 40, true },
      2,
      GATE(SILU),
      DTYPE_F32,
      1,
      0,
      0,
      0 },
    /* several chunks of rows */
    { { 4, 128, F64_SYMMETRIC, 1, { 2048 }, 16, true }, 2051, STORE, DTYPE_BF16, 1, 0, 0, 0 },
    /* few rows fit a slice */
    { { 4, 128, F64_SYMMETRIC, 1, { 640 }, 65000, false }, 3, STORE, DTYPE_F32, 1, 0, 0, 0 },
};
static const struct product_case large[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 4096 }, 4096, false }, 2048, STORE, DTYPE_BF16, 1, 0, 0, 0 },
    { { 4, 128, F64_ZEROS, 2, { 1536, 1536 }, 2048, true },
      300,
      GATE(SILU),
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
};

static void test_refused()
{
    product_test_refused(gemm_dense_fits, { { [](struct gemm_op *op) { op->w.n_in = 300000; },
                                              "slices of less than two strips" } });
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    struct err err;
    dense = dense_open(&err);
    if (dense == NULL) {
        printf("%s: skipped\n0 passed, 0 failed, 1 skipped\n", err.text);
        return 77;
    }
    product_tests(cases, test_product, "");
    if (harness.full)
        product_tests(large, test_product, "");
    CASE("refused") test_refused();
    dense_close(dense);
    return harness_end();
}
