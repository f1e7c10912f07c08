/* test_gemm_s8.cu - F64 weights x int8 rows (W4A8, W8A8), against double precision. */
#include "tests/ops/cuda/product_case.cuh"

/* Kinds, token tiles (rows <= 32, more), ragged n_out and n_in, parts. */
static const struct product_case cases[] = {
    /* bits group scheme parts n_out n_in bias | rows epilogue gate dtype scale cap splits gap */
    { { 4, 128, F64_SYMMETRIC, 1, { 128 }, 256, false },
      1,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 300, true },
      8,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      1,
      8 },
    { { 4, 128, F64_SYMMETRIC, 1, { 70 }, 1000, false },
      33,
      EPILOGUE_ADD,
      GATE_SILU,
      DTYPE_BF16,
      0.5f,
      0,
      1,
      2 },
    { { 4, 128, F64_SYMMETRIC, 1, { 1 }, 1, true },
      33,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      3 },
    { { 4, 128, F64_SYMMETRIC, 3, { 130, 66, 30 }, 640, true },
      64,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      2 },
    { { 4, 128, F64_SYMMETRIC, 2, { 130, 130 }, 384, false },
      100,
      EPILOGUE_GATE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 4, 64, F64_SYMMETRIC, 1, { 192 }, 448, false },
      33,
      EPILOGUE_ADD,
      GATE_SILU,
      DTYPE_F32,
      2,
      0,
      1,
      0 },
    { { 4, 32, F64_SYMMETRIC, 1, { 100 }, 500, true },
      65,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 4, 128, F64_ZEROS, 1, { 140 }, 700, false },
      8,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 128, F64_ZEROS, 1, { 140 }, 700, false },
      64,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      30,
      1,
      0 },
    { { 4, 64, F64_ZEROS, 2, { 90, 90 }, 200, true },
      40,
      EPILOGUE_GATE,
      GATE_RELU2,
      DTYPE_F32,
      1,
      0,
      1,
      2 },
    { { 4, 32, F64_ZEROS, 1, { 64 }, 128, false },
      17,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 64, F64_FRACTIONS, 1, { 100 }, 300, false },
      100,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 128, F64_FRACTIONS, 1, { 64 }, 256, false },
      4,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 8, 128, F64_SYMMETRIC, 1, { 200 }, 300, true },
      1,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 8, 128, F64_SYMMETRIC, 1, { 128 }, 640, false },
      64,
      EPILOGUE_ADD,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 8, 128, F64_SYMMETRIC, 2, { 100, 100 }, 256, true },
      33,
      EPILOGUE_GATE,
      GATE_GELU,
      DTYPE_BF16,
      1,
      0,
      1,
      4 },
    { { 8, 64, F64_SYMMETRIC, 1, { 70 }, 400, false },
      30,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      50,
      1,
      0 },
    { { 8, 32, F64_ZEROS, 1, { 130 }, 300, true },
      100,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 8, 128, F64_ZEROS, 1, { 64 }, 384, false },
      6,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 8, 64, F64_FRACTIONS, 1, { 64 }, 200, false },
      12,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    /* Split sums: chosen, fixed, more than there are blocks of inputs. */
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 2000, true },
      8,
      EPILOGUE_ADD,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      0,
      0 },
    { { 4, 128, F64_ZEROS, 1, { 200 }, 2000, false },
      40,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      3,
      0 },
    { { 8, 64, F64_ZEROS, 2, { 64, 64 }, 600, false },
      20,
      EPILOGUE_GATE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      9,
      0 },
};
/* Shapes of real layers, on a GPU. */
static const struct product_case large[] = {
    { { 4, 128, F64_SYMMETRIC, 1, { 4096 }, 4096, false },
      256,
      EPILOGUE_ADD,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
    { { 4, 128, F64_ZEROS, 2, { 2000, 2000 }, 2048, false },
      130,
      EPILOGUE_GATE,
      GATE_SILU,
      DTYPE_BF16,
      1,
      0,
      0,
      0 },
    { { 8, 128, F64_SYMMETRIC, 1, { 1024 }, 8192, false },
      40,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      0,
      0 },
};
static void test_product(const struct product_case &c)
{
    product_test<rows_s8>(c, gemm_s8_fits, gemm_s8, 0.0);
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

/* What must be refused, each for one reason. */
static void test_refused()
{
    const struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 2, { 64, 64 }, 128, false };
    const struct f64_case w(shape, 1);
    const struct product_case c = { shape, 40, EPILOGUE_GATE, GATE_SILU, DTYPE_F32, 1, 0, 0, 0 };
    const struct gemm_op good = product_op(c, w.matrix);
    EXPECT(gemm_s8_fits(&good, &harness.device), "a good op was refused");
    const auto refuses = [&](void (*change)(struct gemm_op *), const char *what) {
        struct gemm_op op = good;
        change(&op);
        EXPECT(!gemm_s8_fits(&op, &harness.device), "takes %s", what);
    };
    static const uint16_t table[16] = {};
    refuses([](struct gemm_op *op) { op->w.kind.table = table; }, "a table");
    refuses([](struct gemm_op *op) { op->rows = 0; }, "no rows");
    refuses([](struct gemm_op *op) { op->w.n_parts = 1; }, "a gate of one part");
    refuses([](struct gemm_op *op) { op->w.kind.group = 16; }, "groups of 16");
    refuses([](struct gemm_op *op) { op->out.dtype = DTYPE_F16; }, "fp16 outputs");
    refuses([](struct gemm_op *op) { op->w.n_in = 512, op->splits = 4; }, "splits without memory");
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    for (const struct product_case &c : cases)
        CASE("%s", product_name(c)) test_product(c);
    if (harness.full)
        for (const struct product_case &c : large)
            CASE("%s", product_name(c)) test_product(c);
    const int extremes[][3] = { { 4, 0, 127 },  { 4, 0, -127 },  { 4, 15, 127 },  { 8, 0, 127 },
                                { 8, 0, -127 }, { 8, 255, 127 }, { 8, 255, -127 } };
    for (const int(&e)[3] : extremes)
        CASE("extremes int%d code=%d x=%d", e[0], e[1], e[2]) test_extremes(e[0], e[1], e[2]);
    const struct product_case late[] = {
        { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 1000, false },
          8,
          EPILOGUE_STORE,
          GATE_SILU,
          DTYPE_F32,
          1,
          0,
          2,
          0 },
        { { 8, 64, F64_ZEROS, 1, { 64 }, 256, true },
          64,
          EPILOGUE_STORE,
          GATE_SILU,
          DTYPE_F32,
          1,
          0,
          1,
          0 },
    };
    for (const struct product_case &c : late)
        CASE("x comes late, %s", product_name(c)) product_test_pdl<rows_s8>(c, gemm_s8);
    CASE("refused") test_refused();
    return harness_end();
}
