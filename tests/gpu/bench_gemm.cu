/* bench_gemm.cu - every matrix kernel on the shapes of an 8B model, against the streaming read
 * limit and cuBLAS fp16 and bf16 of the same run.
 *
 * GB/s counts the packed weights alone (codes, scales and zeros, once). Random codes and
 * activations: a GPU draws less power on zeros and runs them faster. `--full` adds int8 at every
 * number of rows. */
#include "tests/gpu/bench.cuh"
#include "tests/gpu/cublas.cuh"

struct shape {
    const char *name;
    int32_t n_out, n_in;
};
static const struct shape shapes[] = {
    { "qkv", 6144, 4096 },   { "o", 4096, 4096 },      { "gate_up", 28672, 4096 },
    { "down", 4096, 14336 }, { "square", 8192, 8192 },
};
enum { ROWS_MAX = 4096, N_OUT_MAX = 28672, N_IN_MAX = 14336 };
static const int32_t row_counts[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096 };

static struct {
    unsigned char *weights; /* BENCH_POOL_BYTES of F64 units */
    unsigned char *halves;  /* BENCH_POOL_BYTES of fp16 or bf16, for cuBLAS */
    unsigned char *x_f16, *x_bf16, *x_s8, *y, *partial;
    float *ones; /* factors and scales */
    int32_t *sums;
    uint32_t *tickets;
    size_t partial_bytes;
    struct dense *dense;
    struct cublas cublas;
    bool has_cublas;
    double read_limit; /* bytes a second */
} b;

/* ---- data --------------------------------------------------------------------------------------
 */

/* Codes at random, scales near 1/64, whole units over the pool. */
struct units_args {
    uint32_t *to;
    size_t n_words;
    int32_t code_words, unit_words;
};
KERNEL(256, 4) fill_units(const __grid_constant__ struct units_args p)
{
    for (size_t i = (size_t)blockIdx.x * 256 + threadIdx.x; i < p.n_words;
         i += (size_t)gridDim.x * 256) {
        const bool code = (int32_t)(i % (size_t)p.unit_words) < p.code_words;
        const uint32_t v = mixed((uint32_t)i + 7u);
        p.to[i] = code ? v : (v & 0x00ff00ffu) | 0x24002400u;
    }
}
static struct f64_matrix make_matrix(const struct shape *shape, int32_t bits)
{
    struct f64_matrix w = {};
    w.n_parts = 1;
    w.n_out = shape->n_out;
    w.n_in = shape->n_in;
    w.kind.bits = bits;
    w.kind.group = 128;
    w.parts[0].n_out = shape->n_out;
    w.parts[0].units = b.weights;
    w.parts[0].row_factor = b.ones;
    const int32_t unit = f64_unit_bytes(w.kind);
    const struct units_args p = { (uint32_t *)b.weights,
                                  BENCH_POOL_BYTES / (size_t)unit * (size_t)(unit / 4),
                                  f64_code_bytes(bits) / 4, unit / 4 };
    CUDA(LAUNCH((fill_units), dim3(1024), 256, 0, harness.stream, LAUNCH_PLAIN, p));
    CUDA(cudaStreamSynchronize(harness.stream));
    return w;
}
static void *take(size_t bytes)
{
    void *p;
    CUDA(cudaMalloc(&p, bytes));
    return p;
}
static void prepare()
{
    b.weights = (unsigned char *)take(BENCH_POOL_BYTES);
    b.halves = (unsigned char *)take(BENCH_POOL_BYTES);
    const size_t x_elements = (size_t)ROWS_MAX * N_IN_MAX;
    b.x_f16 = (unsigned char *)take(x_elements * 2);
    b.x_bf16 = (unsigned char *)take(x_elements * 2);
    b.x_s8 = (unsigned char *)take(x_elements);
    b.y = (unsigned char *)take((size_t)ROWS_MAX * N_OUT_MAX * 4);
    b.partial_bytes = (size_t)256 << 20;
    b.partial = (unsigned char *)take(b.partial_bytes);
    const size_t n_ones = (size_t)ROWS_MAX * N_IN_MAX / 128;
    b.ones = (float *)take(n_ones * 4);
    b.sums = (int32_t *)take(x_elements / 32 * 4);
    b.tickets = (uint32_t *)take(GEMM_TICKETS * 4);
    bench_fill(b.x_f16, x_elements * 2, 3, FILL_F16, FILL_F16_BITS);
    bench_fill(b.x_bf16, x_elements * 2, 4, FILL_BF16, FILL_BF16_BITS);
    bench_fill(b.x_s8, x_elements, 5, FILL_ANY, 0);
    bench_fill(b.ones, n_ones * 4, 6, 0, 0x3f800000u);
    bench_fill(b.sums, x_elements / 32 * 4, 7, 0xff, 0);
    bench_fill(b.tickets, GEMM_TICKETS * 4, 8, 0, 0);
    bench_fill(b.halves, BENCH_POOL_BYTES, 9, FILL_F16, FILL_F16_BITS);
    b.read_limit = bench_read_limit(b.halves, (uint32_t *)b.y);
    b.has_cublas = cublas_open(&b.cublas);
    struct err err;
    b.dense = dense_open(&err);
    if (b.dense == NULL)
        printf("no cuBLASLt: %s\n", err.text);
}

/* ---- one product -------------------------------------------------------------------------------
 */

static struct gemm_op make_op(const struct f64_matrix *w, enum gemm_kernel kernel, int32_t rows)
{
    struct gemm_op op = {};
    op.w = *w;
    op.rows = rows;
    op.x = kernel == GEMM_SMALL ? b.x_bf16 : kernel == GEMM_S8 ? b.x_s8 : b.x_f16;
    op.x_stride = w->n_in;
    op.x_scale = b.ones;
    op.x_sum = b.sums;
    op.out.y = b.y;
    op.out.stride = w->n_out;
    op.out.dtype = DTYPE_BF16;
    op.out.epilogue = EPILOGUE_STORE;
    op.out.scale = 1;
    op.partial = (float *)b.partial;
    op.partial_bytes = b.partial_bytes;
    op.tickets = b.tickets;
    return op;
}
static bool fits(enum gemm_kernel kernel, const struct gemm_op *op)
{
    switch (kernel) {
    case GEMM_SMALL:
        return gemm_small_fits(op, &harness.device) &&
               gemm_small_workspace(&op->w, op->rows, &harness.device) <= b.partial_bytes;
    case GEMM_MMA:
        return op->rows >= 8 && gemm_mma_fits(op, &harness.device);
    case GEMM_WGMMA:
        return gemm_wgmma_fits(op, &harness.device) &&
               gemm_wgmma_workspace(&op->w, op->rows, &harness.device) <= b.partial_bytes;
    case GEMM_S8:
        return op->rows >= 16 && gemm_s8_fits(op, &harness.device);
    default:
        return b.dense != NULL && op->rows >= 512 && gemm_dense_fits(op, &harness.device);
    }
}
static cudaError_t start(enum gemm_kernel kernel, const struct gemm_op *op, bool pdl)
{
    struct launch launch = harness.launch;
    launch.pdl = pdl;
    switch (kernel) {
    case GEMM_SMALL:
        return gemm_small(&launch, op);
    case GEMM_MMA:
        return gemm_mma(&launch, op);
    case GEMM_WGMMA:
        return gemm_wgmma(&launch, op);
    case GEMM_S8:
        return gemm_s8(&launch, op);
    default:
        return gemm_dense(&launch, b.dense, op);
    }
}
static double time_kernel(enum gemm_kernel kernel, const struct f64_matrix *w, int32_t rows,
                          bool pdl)
{
    const size_t bytes = f64_bytes(w->kind, w->n_out, w->n_in), n = BENCH_POOL_BYTES / bytes;
    struct gemm_op op = make_op(w, kernel, rows);
    if (!fits(kernel, &op))
        return 0;
    return bench_us([&](int i) {
        op.w.parts[0].units = b.weights + (size_t)i % n * bytes;
        return start(kernel, &op, pdl);
    });
}
static double time_cublas(cudaDataType_t type, const struct shape *shape, int32_t rows)
{
    const size_t bytes = (size_t)shape->n_out * (size_t)shape->n_in * 2,
                 n = BENCH_POOL_BYTES / bytes;
    if (!b.has_cublas)
        return 0;
    const unsigned char *x = type == CUDA_R_16F ? b.x_f16 : b.x_bf16;
    return bench_us([&](int i) {
        return cublas_product(&b.cublas, type, b.halves + (size_t)i % n * bytes, x, b.y, rows,
                              shape->n_out, shape->n_in);
    });
}

/* ---- the table ---------------------------------------------------------------------------------
 */

static const char *const kernel_names[] = { "small", "mma", "wgmma", "dense", "s8" };

static void report(const struct shape *shape, int32_t bits, int32_t rows, const char *kernel,
                   double us, double rival)
{
    const struct f64_kind kind = { bits, 128, false, false, NULL };
    const double bytes = bits == 16 ? 2.0 * shape->n_out * shape->n_in
                                    : (double)f64_bytes(kind, shape->n_out, shape->n_in);
    const double rate = bytes / us * 1e6,
                 flops = 2.0 * rows * shape->n_out * shape->n_in / us * 1e6;
    printf("%-8s %2d bit %5d rows  %-9s %9.2f us %7.0f GB/s %4.0f %% of read %7.1f TFLOP/s",
           shape->name, bits, rows, kernel, us, rate / 1e9, 100 * rate / b.read_limit,
           flops / 1e12);
    if (rival > 0)
        printf("  %5.2f x cuBLAS", rival / us);
    printf("\n");
    bench_json("gemm",
               "\"shape\":\"%s\",\"n_out\":%d,\"n_in\":%d,\"bits\":%d,\"rows\":%d,\"kernel\":\"%"
               "s\",\"us\":%.3f,"
               "\"gbps\":%.1f,\"read_share\":%.4f,\"tflops\":%.2f,\"x_cublas\":%.3f",
               shape->name, shape->n_out, shape->n_in, bits, rows, kernel, us, rate / 1e9,
               rate / b.read_limit, flops / 1e12, rival > 0 ? rival / us : 0.0);
}
static double bench_rivals(const struct shape *shape, int32_t rows)
{
    const double f16 = time_cublas(CUDA_R_16F, shape, rows);
    if (f16 > 0)
        report(shape, 16, rows, "cublas16", f16, 0);
    bench_fill(b.halves, BENCH_POOL_BYTES, 9, FILL_BF16, FILL_BF16_BITS);
    const double bf16 = time_cublas(CUDA_R_16BF, shape, rows);
    bench_fill(b.halves, BENCH_POOL_BYTES, 9, FILL_F16, FILL_F16_BITS);
    if (bf16 > 0)
        report(shape, 16, rows, "cublasb16", bf16, 0);
    return f16 > 0 && bf16 > 0 ? std::min(f16, bf16) : std::max(f16, bf16);
}
static bool wanted(const struct shape *shape, int32_t bits, int32_t rows)
{
    if (harness.only != NULL && strcmp(harness.only, shape->name) != 0)
        return false;
    if (harness.full)
        return true;
    if (strcmp(shape->name, "qkv") == 0 || strcmp(shape->name, "o") == 0)
        return rows <= 64 && bits == 4;
    return bits == 4 || rows == 1 || rows == 16 || rows == 64 || rows == 1024;
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    prepare();
    printf("read limit %.0f GB/s\n", b.read_limit / 1e9);
    bench_json("read_limit", "\"gbps\":%.1f", b.read_limit / 1e9);
    std::vector<double> rivals(sizeof shapes / sizeof shapes[0] * (ROWS_MAX + 1));
    for (const int32_t bits : { 4, 8 })
        for (const struct shape &shape : shapes) {
            const struct f64_matrix w = make_matrix(&shape, bits);
            for (const int32_t rows : row_counts) {
                if (!wanted(&shape, bits, rows))
                    continue;
                double &rival = rivals[(size_t)(&shape - shapes) * (ROWS_MAX + 1) + (size_t)rows];
                if (rival == 0)
                    rival = bench_rivals(&shape, rows);
                for (int k = 0; k < GEMM_KERNELS; k++) {
                    const double us = time_kernel((enum gemm_kernel)k, &w, rows, false);
                    if (us > 0)
                        report(&shape, bits, rows, kernel_names[k], us, rival);
                }
                const double chained = time_kernel(GEMM_SMALL, &w, rows, true);
                if (chained > 0)
                    report(&shape, bits, rows, "small+pdl", chained, rival);
            }
        }
    return 0;
}
