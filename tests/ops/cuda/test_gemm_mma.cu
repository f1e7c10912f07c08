/* test_gemm_mma.cu - F64 weights x fp16 rows by mma.sync, against double precision. */
#include "tests/ops/cuda/product_case.cuh"

/* Kinds, token tiles (rows <= 8, <= 32, more), ragged n_out and n_in, parts. */
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
      9,
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
    { { 4, 128, F64_SYMMETRIC, 2, { 64, 64 }, 256, true },
      5,
      EPILOGUE_GATE,
      GATE_GELU_TANH,
      DTYPE_F32,
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
    { { 4, 32, F64_SYMMETRIC, 1, { 100 }, 500, false },
      3,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      30,
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
      DTYPE_BF16,
      1,
      0,
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
    { { 4, 64, F64_TABLE, 1, { 150 }, 320, true },
      8,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      1,
      0 },
    { { 4, 32, F64_TABLE, 2, { 80, 80 }, 256, false },
      20,
      EPILOGUE_GATE,
      GATE_GELU,
      DTYPE_BF16,
      1,
      0,
      1,
      0 },
    { { 4, 128, F64_TABLE, 1, { 64 }, 256, false },
      70,
      EPILOGUE_ADD,
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
      GATE_SILU,
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
    { { 4, 128, F64_SYMMETRIC, 1, { 200 }, 2000, false },
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
      7,
      EPILOGUE_STORE,
      GATE_SILU,
      DTYPE_F32,
      1,
      0,
      0,
      0 },
    { { 4, 64, F64_TABLE, 3, { 2048, 512, 512 }, 2048, true },
      33,
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
    /* code - zero is rounded to fp16 when the zero is a fraction */
    product_test<rows_f16>(c, gemm_mma_fits, gemm_mma, c.w.scheme == F64_FRACTIONS ? 0x1p-11 : 0.0);
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

/* What must be refused, each for one reason. */
static void test_refused()
{
    const struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 2, { 64, 64 }, 128, false };
    const struct f64_case w(shape, 1);
    const struct product_case c = { shape, 4, EPILOGUE_GATE, GATE_SILU, DTYPE_F32, 1, 0, 0, 0 };
    const struct gemm_op good = product_op(c, w.matrix);
    EXPECT(gemm_mma_fits(&good, &harness.device), "a good op was refused");
    const auto refuses = [&](void (*change)(struct gemm_op *), const char *what) {
        struct gemm_op op = good;
        change(&op);
        EXPECT(!gemm_mma_fits(&op, &harness.device), "takes %s", what);
    };
    refuses([](struct gemm_op *op) { op->rows = 0; }, "no rows");
    refuses([](struct gemm_op *op) { op->w.n_parts = 1; }, "a gate of one part");
    refuses([](struct gemm_op *op) { op->w.parts[1].n_out = 63; }, "a gate of unlike parts");
    refuses([](struct gemm_op *op) { op->w.kind.group = 16; }, "groups of 16");
    refuses([](struct gemm_op *op) { op->w.kind.bits = 2; }, "2 bits");
    refuses([](struct gemm_op *op) { op->out.dtype = DTYPE_F16; }, "fp16 outputs");
    refuses([](struct gemm_op *op) { op->w.n_in = 512, op->splits = 4; }, "splits without memory");
    static const struct qkv_out qkv = {};
    refuses([](struct gemm_op *op) { op->qkv = &qkv; }, "q, k, v");
    struct device_info small = harness.device;
    small.shared_bytes = 16 << 10;
    EXPECT(!gemm_mma_fits(&good, &small), "takes 16 KB of shared memory");
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    for (const struct product_case &c : cases)
        CASE("%s", product_name(c)) test_product(c);
    if (harness.full)
        for (const struct product_case &c : large)
            CASE("%s", product_name(c)) test_product(c);
    const struct f64_shape shapes[] = { { 4, 128, F64_SYMMETRIC, 1, { 130 }, 400, true },
                                        { 4, 32, F64_ZEROS, 1, { 64 }, 256, false },
                                        { 8, 128, F64_SYMMETRIC, 1, { 64 }, 256, false } };
    for (const struct f64_shape &s : shapes)
        CASE("rows alone, int%d g%d", s.bits, s.group) test_invariant(s);
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
        CASE("x comes late, %s", product_name(c)) product_test_pdl<rows_f16>(c, gemm_mma);
    CASE("refused") test_refused();
    return harness_end();
}
