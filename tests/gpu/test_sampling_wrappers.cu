/* test_sampling_wrappers.cu - golden tests of what only the sampler takes from device.cuh: doubles
 * that round after every operation, bit counts, and atomics on global memory. */
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/ops/cuda/harness.cuh"

enum { N = 512, BLOCKS = 6, THREADS = 96, CELLS = 5 };

struct doubles_args {
    int n;
    const double *a, *b, *c;
    double *sum, *product, *both; /* a + b, a * b, a * b + c rounded twice */
    uint64_t *bits;               /* of a, by way of a double made of them */
};
static KERNEL(THREADS, 1) doubles(const __grid_constant__ struct doubles_args a)
{
    for (int i = (int)threadIdx.x; i < a.n; i += THREADS) {
        a.sum[i] = add_f64(a.a[i], a.b[i]);
        a.product[i] = mul_f64(a.a[i], a.b[i]);
        a.both[i] = add_f64(mul_f64(a.a[i], a.b[i]), a.c[i]);
        a.bits[i] = f64_bits(f64_of_bits(f64_bits(a.a[i])));
    }
}

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static double any_double(struct random_numbers &random)
{
    return ldexp((double)random.uniform() + ldexp((double)random.uniform(), -30),
                 (int)(20 * random.uniform()));
}

static void test_doubles()
{
    struct random_numbers random = { 31 };
    std::vector<double> a(N), b(N), c(N);
    int fused_differs = 0;
    for (size_t i = 0; i < N; i++) {
        a[i] = any_double(random);
        b[i] = any_double(random);
        const double product = a[i] * b[i];
        c[i] = i % 2 == 0 ? -product : any_double(random); /* fused: the product's rest */
        fused_differs += fma(a[i], b[i], c[i]) != product + c[i];
    }
    EXPECT(fused_differs > N / 4, "%d inputs tell rounding twice from rounding once",
           fused_differs);
    const device_array<double> a_device(a), b_device(b), c_device(c);
    const device_array<double> sum(std::vector<double>(N, 0)), product(std::vector<double>(N, 0)),
        both(std::vector<double>(N, 0));
    const device_array<uint64_t> bits(std::vector<uint64_t>(N, 0));
    const struct doubles_args args = {
        N,          a_device.data(), b_device.data(), c_device.data(),
        sum.data(), product.data(),  both.data(),     bits.data()
    };
    CUDA(LAUNCH((doubles), dim3(1), THREADS, 0, harness.stream, LAUNCH_PLAIN, args));
    const std::vector<double> s = sum.read(), p = product.read(), d = both.read();
    const std::vector<uint64_t> w = bits.read();
    for (size_t i = 0; i < N; i++) {
        const double wanted = a[i] * b[i];
        EXPECT(bits_of(s[i]) == bits_of(a[i] + b[i]), "sum %zu: %a", i, s[i]);
        EXPECT(bits_of(p[i]) == bits_of(wanted), "product %zu: %a", i, p[i]);
        EXPECT(bits_of(d[i]) == bits_of(wanted + c[i]), "product and sum %zu: %a", i, d[i]);
        EXPECT(w[i] == bits_of(a[i]), "bits %zu", i);
    }
}

struct counts_args {
    int n;
    const uint32_t *from;
    int *to;
};
static KERNEL(THREADS, 1) counts(const __grid_constant__ struct counts_args a)
{
    for (int i = (int)threadIdx.x; i < a.n; i += THREADS)
        a.to[i] = popcount(a.from[i]);
}
static void test_popcount()
{
    struct random_numbers random = { 32 };
    std::vector<uint32_t> words(N);
    for (size_t i = 0; i < N; i++)
        words[i] = i < 32    ? 1u << i
                   : i == 32 ? 0
                   : i == 33 ? 0xffffffffu
                             : (uint32_t)((double)random.uniform() * 2147483647.0) * 2654435761u;
    const device_array<uint32_t> from(words);
    const device_array<int> to(std::vector<int>(N, -1));
    const struct counts_args args = { N, from.data(), to.data() };
    CUDA(LAUNCH((counts), dim3(1), THREADS, 0, harness.stream, LAUNCH_PLAIN, args));
    const std::vector<int> found = to.read();
    for (size_t i = 0; i < N; i++) {
        int wanted = 0;
        for (uint32_t left = words[i]; left != 0; left >>= 1)
            wanted += (int)(left & 1u);
        EXPECT(found[i] == wanted, "%08x: %d, want %d", words[i], found[i], wanted);
    }
}

/* Every thread adds its number + 1 to a cell and takes what it finds in a chain: sums are whole,
 * and each number put into the chain comes out once. */
struct atomics_args {
    uint32_t *cells, *chain, *old, *taken;
};
static KERNEL(THREADS, 1) atomics(const __grid_constant__ struct atomics_args a)
{
    const uint32_t me = blockIdx.x * THREADS + threadIdx.x;
    a.old[me] = global_add(a.cells + me % CELLS, me + 1);
    a.taken[me] = global_exchange(a.chain, me + 1);
}
static void test_atomics()
{
    enum { ALL = BLOCKS * THREADS };
    const device_array<uint32_t> cells(std::vector<uint32_t>(CELLS, 0)),
        chain(std::vector<uint32_t>(1, 0)), old(std::vector<uint32_t>(ALL, 0xffffffffu)),
        taken(std::vector<uint32_t>(ALL, 0xffffffffu));
    const struct atomics_args args = { cells.data(), chain.data(), old.data(), taken.data() };
    CUDA(LAUNCH((atomics), dim3(BLOCKS), THREADS, 0, harness.stream, LAUNCH_PLAIN, args));
    const std::vector<uint32_t> sums = cells.read(), last = chain.read(), before = old.read(),
                                out = taken.read();
    for (uint32_t cell = 0; cell < CELLS; cell++) {
        uint32_t wanted = 0;
        for (uint32_t me = cell; me < ALL; me += CELLS)
            wanted += me + 1;
        EXPECT(sums[cell] == wanted, "cell %u: %u, want %u", cell, sums[cell], wanted);
    }
    std::vector<int> seen(ALL + 1, 0);
    for (uint32_t me = 0; me < ALL; me++) {
        EXPECT(before[me] < sums[me % CELLS], "thread %u found %u", me, before[me]);
        EXPECT(out[me] <= ALL, "thread %u took %u", me, out[me]);
        seen[out[me] <= ALL ? out[me] : 0]++;
    }
    seen[last[0] <= ALL ? last[0] : 0]++;
    for (uint32_t i = 0; i <= ALL; i++)
        EXPECT(seen[i] == 1, "%u came out %d times", i, seen[i]);
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    CASE("add_f64, mul_f64, f64_bits, f64_of_bits") test_doubles();
    CASE("popcount") test_popcount();
    CASE("global_add, global_exchange") test_atomics();
    return harness_end();
}
