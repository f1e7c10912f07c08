/* test_bf16_wrappers.cu - golden tests of arithmetic on bf16 pairs: b2_fma rounds once, and codes
 * of int8 pages come out of it exactly. */
#include "cuda/attend.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"

enum { N = 4096, CODES = 65536, THREADS = 128 };

struct fma_args {
    const uint32_t *a, *b, *c;
    uint32_t *d;
};
static KERNEL(THREADS, 1) fma_pairs(const __grid_constant__ struct fma_args a)
{
    for (int i = (int)threadIdx.x; i < N; i += THREADS)
        a.d[i] = b2_fma(a.a[i], a.b[i], a.c[i]);
}
struct codes_args {
    uint32_t *pairs; /* of bytes 0 and 2 */
    uint4 *in_order; /* of bytes 0..7: i, i >> 8, then their complements */
};
static KERNEL(THREADS, 1) widen_codes(const __grid_constant__ struct codes_args a)
{
    for (uint32_t i = threadIdx.x; i < CODES; i += THREADS) {
        const uint32_t low = i & 255u, high = i >> 8;
        a.pairs[i] = bf16_of_codes(low | high << 8 | high << 16 | low << 24);
        a.in_order[i] = widened(i | (~i & 0xffffu) << 16, (~i & 0xffffu) | i << 16);
    }
}

static double value_of(uint32_t half)
{
    const uint32_t bits = half << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return (double)v;
}
/* To 8 bits of significand, ties to even; v is exact. */
static double rounded(double v)
{
    int e;
    const double m = frexp(v, &e);
    return ldexp(rint(ldexp(m, 8)), e - 8);
}

/* Exponents in a range in which a double holds product and sum exactly. */
static void test_fma()
{
    struct random_numbers random = { 8 };
    std::vector<uint32_t> in[3];
    for (std::vector<uint32_t> &v : in)
        for (int i = 0; i < N; i++) {
            uint32_t pair = 0;
            for (int h = 0; h < 2; h++) {
                const uint32_t exponent = 127 - 8 + (uint32_t)random.below(16);
                const uint32_t half =
                    (uint32_t)random.below(2) << 15 | exponent << 7 | (uint32_t)random.below(128);
                pair |= half << 16 * h;
            }
            v.push_back(pair);
        }
    const device_array<uint32_t> a(in[0]), b(in[1]), c(in[2]), d(std::vector<uint32_t>(N, 0));
    const struct fma_args args = { a.data(), b.data(), c.data(), d.data() };
    CUDA(LAUNCH((fma_pairs), dim3(1), THREADS, 0, harness.stream, LAUNCH_PLAIN, args));
    const std::vector<uint32_t> found = d.read();
    int twice_differs = 0;
    for (size_t i = 0; i < N; i++)
        for (int h = 0; h < 32; h += 16) {
            double v[3];
            for (int k = 0; k < 3; k++)
                v[k] = value_of(in[k][i] >> h & 0xffffu);
            const double wanted = rounded(v[0] * v[1] + v[2]);
            twice_differs += wanted != rounded(rounded(v[0] * v[1]) + v[2]);
            EXPECT(value_of(found[i] >> h & 0xffffu) == wanted, "%g * %g + %g is %g, wanted %g",
                   v[0], v[1], v[2], value_of(found[i] >> h & 0xffffu), wanted);
        }
    EXPECT(twice_differs > N / 16, "%d inputs tell rounding twice from once", twice_differs);
}
static void test_codes()
{
    const device_array<uint32_t> pairs(std::vector<uint32_t>(CODES, 0));
    const device_array<uint4> in_order((size_t)CODES);
    const struct codes_args args = { pairs.data(), in_order.data() };
    CUDA(LAUNCH((widen_codes), dim3(1), THREADS, 0, harness.stream, LAUNCH_PLAIN, args));
    const std::vector<uint32_t> p = pairs.read();
    const std::vector<uint4> v = in_order.read();
    for (uint32_t i = 0; i < CODES; i++) {
        const double low = (int8_t)i, high = (int8_t)(i >> 8);
        EXPECT(value_of(p[i] & 0xffffu) == low && value_of(p[i] >> 16) == high, "pair %x", i);
        const double not_low = (int8_t)~i, not_high = (int8_t)(~i >> 8);
        const double wanted[8] = { low, high, not_low, not_high, not_low, not_high, low, high };
        const uint32_t words[4] = { v[i].x, v[i].y, v[i].z, v[i].w };
        for (int k = 0; k < 8; k++)
            EXPECT(value_of(words[k / 2] >> k % 2 * 16 & 0xffffu) == wanted[k], "code %d of %x", k,
                   i);
    }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    CASE("b2_fma") test_fma();
    CASE("codes of int8 pages, all of them") test_codes();
    return harness_end();
}
