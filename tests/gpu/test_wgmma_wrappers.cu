/* test_wgmma_wrappers.cu - golden tests of wgmma.cuh: every form, every N, every swizzle, one
 * warpgroup, against plain host loops. The images of shared memory are written here from the
 * formulas of that header's first comment; values are multiples whose sums fp32 and s32 hold
 * exactly, so results are compared by bits. */
#include "cuda/launch.cuh"
#include "cuda/wgmma.cuh"
#include "tests/gpu/wrappers.h"
#include "tests/ops/cuda/harness.cuh"

static struct random_numbers rng = { 21 };

enum form { F16_RS, BF16_RS, BF16_RS_TRANS, BF16_SS, U8S8_RS };
enum { STEPS = 2, ROWS = 64 };
struct wgmma_args {
    const uint32_t *a;        /* [steps][128 threads][4]: the fragments */
    const unsigned char *b;   /* image of shared memory: B, and behind it A for BF16_SS */
    int b_bytes, image_bytes; /* multiples of 1024 */
    int leading, stride;
    int step_bytes, a_step_bytes; /* from the first 32 bytes of k to the next */
    enum wgmma_swizzle swizzle;
    bool accumulate;
    const uint32_t *c; /* [64][N], what D starts from; floats' bits or s32 */
    uint32_t *d;       /* [64][N] */
};
template <enum form FORM> struct sum_type {
    typedef float type;
};
template <> struct sum_type<U8S8_RS> {
    typedef int32_t type;
};
DEVICE void from_bits(float &to, uint32_t bits)
{
    to = f32_of_bits(bits);
}
DEVICE void from_bits(int32_t &to, uint32_t bits)
{
    to = (int32_t)bits;
}
DEVICE uint32_t to_bits(float from)
{
    return f32_bits(from);
}
DEVICE uint32_t to_bits(int32_t from)
{
    return (uint32_t)from;
}
/* Where accumulator i of a thread belongs. */
DEVICE int sum_at(int i, int n, int t)
{
    const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i % 4 / 2),
              col = 8 * (i / 4) + t % 4 * 2 + i % 2;
    return row * n + col;
}
template <enum form FORM, int N>
KERNEL(128, 1)
wgmma_kernel(const __grid_constant__ struct wgmma_args p)
{
    SHARED(memory);
    const int t = (int)threadIdx.x;
    for (int i = t * 16; i < p.image_bytes; i += 128 * 16)
        st128(memory + i, ld128(p.b + i));
    async_fence();
    block_sync();
    uint64_t b = wgmma_desc(memory, p.leading, p.stride, p.swizzle);
    uint64_t a_desc =
        wgmma_desc(memory + (FORM == BF16_SS ? p.b_bytes : 0), p.leading, p.stride, p.swizzle);
    uint32_t a[STEPS][4];
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < 4; i++)
            a[step][i] = p.a[(step * 128 + t) * 4 + i];
    typename sum_type<FORM>::type d[N / 2];
    for (int i = 0; i < N / 2; i++)
        from_bits(d[i], p.c[sum_at(i, N, t)]);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const bool accumulate = p.accumulate || step > 0;
        if constexpr (FORM == F16_RS)
            wgmma_f16<N>(d, a[step], b, accumulate);
        else if constexpr (FORM == BF16_RS)
            wgmma_bf16<N, false>(d, a[step], b, accumulate);
        else if constexpr (FORM == BF16_RS_TRANS)
            wgmma_bf16<N, true>(d, a[step], b, accumulate);
        else if constexpr (FORM == BF16_SS)
            wgmma_bf16_ss<N>(d, a_desc, b, accumulate);
        else
            wgmma_u8s8<N>(d, a[step], b, accumulate);
        b = wgmma_desc_at(b, p.step_bytes);
        a_desc = wgmma_desc_at(a_desc, p.a_step_bytes);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_landed(d);
    for (int i = 0; i < N / 2; i++)
        p.d[sum_at(i, N, t)] = to_bits(d[i]);
}

/* ---- host --------------------------------------------------------------------------------------
 */

static int row_bytes(enum wgmma_swizzle swizzle)
{
    return swizzle == WGMMA_128B ? 128 : swizzle == WGMMA_64B ? 64 : swizzle == WGMMA_32B ? 32 : 16;
}
static int swizzled(int offset, int row)
{
    return offset ^ (offset >> 3 & (row - 16));
}
/* Offset of element (n, k) of `size` bytes in an operand of n_rows rows of k. Rows of 32 bytes hold
 * one step: the next one has an array of its own behind this one. */
static int k_major_at(int n, int k, int size, int row, const struct wgmma_args *p, int n_rows)
{
    const int at = k * size;
    if (row == 16)
        return 16 * (n % 8) + n / 8 * p->stride + at / 16 * p->leading + at % 16;
    return swizzled(n % 8 * row + n / 8 * p->stride + at % row, row) +
           at / row * (n_rows / 8) * p->stride;
}
static int n_major_at(int n, int k, int row, int leading, int stride)
{
    return swizzled(k % 8 * row + k / 8 * stride + n % (row / 2) * 2 + n / (row / 2) * leading,
                    row);
}
static void put(std::vector<unsigned char> &image, int at, enum form form, double v)
{
    if (form == U8S8_RS) {
        image[(size_t)at] = (unsigned char)(int)v;
        return;
    }
    const uint16_t bits = form == F16_RS ? f16_bits(v) : bf16_bits(v);
    memcpy(&image[(size_t)at], &bits, 2);
}
struct product {
    std::vector<double> a, b, c; /* [64][k], [n][k], [64][n] */
    int k, n;
};
static double value(enum form form, bool of_a)
{
    if (form == U8S8_RS)
        return of_a ? rng.below(256) : rng.below(256) - 128;
    return (rng.below(65) - 32) / 8.0;
}
static struct product make_product(enum form form, int n, int k)
{
    struct product m;
    m.k = k;
    m.n = n;
    for (int i = 0; i < ROWS * k; i++)
        m.a.push_back(value(form, true));
    for (int i = 0; i < n * k; i++)
        m.b.push_back(value(form, false));
    for (int i = 0; i < ROWS * n; i++)
        m.c.push_back(rng.below(257) - 128);
    return m;
}
static uint32_t a_register(const struct product &m, enum form form, int step, int t, int i)
{
    const int per = form == U8S8_RS ? 4 : 2, row = t / 32 * 16 + t % 32 / 4 + 8 * (i % 2);
    const int k = step * 8 * per + t % 4 * per + 4 * per * (i / 2);
    uint32_t bits = 0;
    for (int j = 0; j < per; j++) {
        const double v = m.a[(size_t)(row * m.k + k + j)];
        bits |= form == U8S8_RS  ? ((uint32_t)(int)v & 0xffu) << 8 * j
                : form == F16_RS ? (uint32_t)f16_bits(v) << 16 * j
                                 : (uint32_t)bf16_bits(v) << 16 * j;
    }
    return bits;
}
/* Strides of the image, and the image: B, then A for BF16_SS; gaps are NaN. */
static std::vector<unsigned char> make_image(const struct product &m, enum form form,
                                             struct wgmma_args *p)
{
    const int size = form == U8S8_RS ? 1 : 2, row = row_bytes(p->swizzle), k_bytes = m.k * size;
    if (form == BF16_RS_TRANS) {
        p->stride = 8 * row; /* of 8 k */
        p->leading = m.k / 8 * p->stride;
        p->step_bytes = 2 * p->stride;
        p->b_bytes = (m.n * 2 + row - 1) / row * p->leading;
    } else {
        p->leading = row == 16 ? 128 : 16; /* without a swizzle: the next 16 bytes of k */
        p->stride = row == 16 ? k_bytes / 16 * 128 : 8 * row;
        p->step_bytes = row == 16 ? 256 : row == 32 ? m.n / 8 * p->stride : 32;
        p->a_step_bytes = row == 32 ? ROWS / 8 * p->stride : p->step_bytes;
        p->b_bytes = m.n / 8 * p->stride * (row == 32 ? STEPS : 1);
    }
    p->b_bytes = (p->b_bytes + 1023) / 1024 * 1024;
    const int a_bytes = form == BF16_SS ? ROWS / 8 * p->stride * STEPS : 0;
    p->image_bytes = (p->b_bytes + a_bytes + 1023) / 1024 * 1024;
    std::vector<unsigned char> image((size_t)p->image_bytes, 0xff);
    for (int n = 0; n < m.n; n++)
        for (int k = 0; k < m.k; k++)
            put(image,
                form == BF16_RS_TRANS ? n_major_at(n, k, row, p->leading, p->stride)
                                      : k_major_at(n, k, size, row, p, m.n),
                form, m.b[(size_t)(n * m.k + k)]);
    for (int r = 0; r < ROWS && form == BF16_SS; r++)
        for (int k = 0; k < m.k; k++)
            put(image, p->b_bytes + k_major_at(r, k, size, row, p, ROWS), form,
                m.a[(size_t)(r * m.k + k)]);
    return image;
}
template <enum form FORM, int N> static void test_wgmma(enum wgmma_swizzle swizzle, bool accumulate)
{
    struct wgmma_args p = {};
    p.swizzle = swizzle;
    p.accumulate = accumulate;
    const struct product m = make_product(FORM, N, STEPS * (FORM == U8S8_RS ? 32 : 16));
    const std::vector<unsigned char> image = make_image(m, FORM, &p);
    std::vector<uint32_t> a, c;
    for (int step = 0; step < STEPS; step++)
        for (int t = 0; t < 128; t++)
            for (int i = 0; i < 4; i++)
                a.push_back(a_register(m, FORM, step, t, i));
    for (const double v : m.c) /* D = A . B must not look at D */
        c.push_back(!accumulate       ? 0x7fc00000u
                    : FORM == U8S8_RS ? (uint32_t)(int32_t)v
                                      : bits_of_float((float)v));
    device_array<uint32_t> da(a), dc(c), dd((size_t)(ROWS * N));
    device_array<unsigned char> db(image);
    p.a = da.data();
    p.b = db.data();
    p.c = dc.data();
    p.d = dd.data();
    CUDA(cudaDeviceSynchronize());
    CUDA(LAUNCH((wgmma_kernel<FORM, N>), dim3(1), 128, (size_t)p.image_bytes, harness.stream,
                LAUNCH_PLAIN, p));
    const std::vector<uint32_t> d = dd.read();
    for (int row = 0; row < ROWS; row++)
        for (int col = 0; col < N; col++) {
            double wanted = accumulate ? m.c[(size_t)(row * N + col)] : 0;
            for (int k = 0; k < m.k; k++)
                wanted += m.a[(size_t)(row * m.k + k)] * m.b[(size_t)(col * m.k + k)];
            const uint32_t bits = d[(size_t)(row * N + col)];
            const double found =
                FORM == U8S8_RS ? (double)(int32_t)bits : (double)float_of_bits(bits);
            EXPECT(found == wanted, "(%d, %d): found %.9g, wanted %.9g", row, col, found, wanted);
        }
}
template <enum form FORM> static void test_form(const char *name, enum wgmma_swizzle swizzle)
{
    static const char *const swizzles[] = { "plain", "128B", "64B", "32B" };
    for (int accumulate = 0; accumulate < 2; accumulate++) {
#define SIZE(n)                                                                                    \
    CASE("%s n=%d %s accumulate=%d", name, n, swizzles[swizzle], accumulate)                       \
    test_wgmma<FORM, n>(swizzle, accumulate != 0)
        SIZE(8);
        SIZE(16);
        SIZE(32);
        SIZE(64);
        SIZE(128);
        SIZE(256);
#undef SIZE
    }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    if (!harness.device.wgmma) {
        printf("no wgmma here: skipped\n0 passed, 0 failed, 1 skipped\n");
        return 77;
    }
    static const enum wgmma_swizzle swizzles[] = { WGMMA_128B, WGMMA_64B, WGMMA_32B, WGMMA_PLAIN };
    for (const enum wgmma_swizzle swizzle : swizzles) {
        test_form<F16_RS>("f16", swizzle);
        test_form<BF16_RS>("bf16", swizzle);
        test_form<BF16_SS>("bf16 from shared memory", swizzle);
        test_form<U8S8_RS>("u8s8", swizzle);
    }
    /* MN-major: kernels use panels of 128 bytes */
    test_form<BF16_RS_TRANS>("bf16 transposed", WGMMA_128B);
    return harness_end();
}
