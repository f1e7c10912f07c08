/* test_gemm_s8.cu - F64 weights x int8 rows (W4A8, W8A8), against double precision. */
#include "tests/ops/cuda/product_case.cuh"

/* What gemm_s8 alone has. */
static const struct product_case cases[] = {
    /* bits group scheme parts n_out n_in bias | rows epilogue dtype scale cap splits gap */
    { { 4, 128, F64_SYMMETRIC, 1, { 70 }, 1000, false }, 33, ADD, DTYPE_BF16, 0.5f, 0, 1, 2 },
    { { 4, 128, F64_ZEROS, 1, { 140 }, 700, false }, 64, STORE, DTYPE_F32, 1, 30, 1, 0 },
    { { 8, 128, F64_SYMMETRIC, 2, { 100, 100 }, 256, true },
      33,
      GATE(GELU),
      DTYPE_BF16,
      1,
      0,
      1,
      4 },
    /* Split sums: fixed. */
    { { 4, 128, F64_ZEROS, 1, { 200 }, 2000, false }, 40, STORE, DTYPE_BF16, 1, 0, 3, 0 },
};
static const struct product_case large[] = {
    { { 8, 128, F64_SYMMETRIC, 1, { 1024 }, 8192, false }, 40, STORE, DTYPE_F32, 1, 0, 0, 0 },
};
static void test_product(const struct product_case &c)
{
    product_test<rows_s8>(c, gemm_s8_fits, gemm_s8, 0.0);
}

static void test_late(const struct product_case &c)
{
    product_test_pdl<rows_s8>(c, gemm_s8);
}

/* The largest sums that codes can make: all of one sign, x at +-127. The integer sums stay inside
 * the 22 bits that the kernel reads as a float's. */
static void test_extremes(int bits, int code, int x_code)
{
    const struct f64_shape shape = { bits, 128, F64_SYMMETRIC, 1, { 64 }, 256, false };
    struct f64_case w(shape, 3);
    struct f64_part_case &part = w.parts[0];
    std::fill(part.codes.begin(), part.codes.end(), (uint8_t)code);
    w.pack(part);
    CUDA(cudaMemcpy(w.units_device[0]->data(), part.units.data(), part.units.size(),
                    cudaMemcpyHostToDevice));
    w.weights.clear();
    w.keep_weights(part);
    const struct product_case c = { shape, 3, EPILOGUE_STORE, GATE_SILU, DTYPE_F32, 1, 0, 1, 0 };
    struct rows_s8 x(3, shape.n_in, 4);
    std::fill(x.codes.begin(), x.codes.end(), (int8_t)x_code);
    for (size_t i = 0; i < x.exact.size(); i++)
        x.exact[i] = x_code * (double)x.scales[i / 128];
    CUDA(cudaMemcpy(x.data_device->data(), x.codes.data(), x.codes.size(), cudaMemcpyHostToDevice));
    struct gemm_op op = product_op(c, w.matrix);
    product_rows(&op, x);
    product_check<uint32_t>(c, w, op, x.exact, gemm_s8, 0.0);
}

static void test_refused()
{
    product_test_refused(
        gemm_s8_fits,
        { { [](struct gemm_op *op) { op->w.n_in = 512, op->splits = 4; }, "splits without memory" },
          { [](struct gemm_op *op) {
               static const uint16_t table[16] = {};
               op->w.kind.table = table;
           },
            "a table" } });
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    tile_tests(cases, large, test_product, test_late, test_refused);
    const int extremes[][3] = { { 4, 0, 127 },  { 4, 0, -127 },  { 4, 15, 127 },  { 8, 0, 127 },
                                { 8, 0, -127 }, { 8, 255, 127 }, { 8, 255, -127 } };
    for (const int(&e)[3] : extremes)
        CASE("extremes int%d code=%d x=%d", e[0], e[1], e[2]) test_extremes(e[0], e[1], e[2]);
    return harness_end();
}
