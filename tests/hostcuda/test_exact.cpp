/* test_exact.cpp - the numbers of device.cuh under the emulator, by bits: conversions and half
 * arithmetic against whole-number arithmetic, fragments and products against plain loops over
 * matrices. (tests/gpu/test_wrappers.cu runs here and on a GPU; this file looks at every value
 * where it can.) */
#include "internal.h"
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include <stdio.h>
#include <vector>

static long n_checks, n_failed;
#define CHECK_EQUAL(found, wanted, ...)                                                            \
    do {                                                                                           \
        n_checks++;                                                                                \
        if ((found) != (wanted) && n_failed++ < 20) {                                              \
            printf("%s:%d: ", __FILE__, __LINE__);                                                 \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

static uint64_t random_state = 7;
static uint64_t random64()
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state ^ random_state >> 29;
}

/* ---- halves as whole numbers of 2^-24
 * ------------------------------------------------------------
 */

typedef __int128 wide;
static bool is_finite(uint32_t h)
{
    return (h & 0x7c00u) != 0x7c00u;
}
static wide units_of(uint32_t h) /* of 2^-24 */
{
    const int e = (int)(h >> 10 & 31u);
    const wide m = (wide)(h & 1023u) + (e != 0 ? 1024 : 0);
    const wide v = m << (e > 0 ? e - 1 : 0);
    return (h & 0x8000u) != 0 ? -v : v;
}
/* The nearest half to v . 2^-(24 + more), ties to even. A zero gets `zero_sign`. */
static uint16_t nearest_half(wide v, int more, bool zero_sign)
{
    const bool negative = v < 0 || (v == 0 && zero_sign);
    const wide a = v < 0 ? -v : v;
    uint32_t best = 0;
    /* Halves in order are whole numbers in order: the last one that is not above a. */
    for (uint32_t step = 0x4000u; step > 0; step >>= 1)
        if (best + step <= 0x7bffu && units_of(best + step) << more <= a)
            best += step;
    const wide low = units_of(best) << more;
    const wide high = (best == 0x7bffu ? (wide)65536 << 24 : units_of(best + 1)) << more;
    const wide twice = 2 * (a - low), gap = high - low;
    if (twice > gap || (twice == gap && (best & 1u) != 0))
        best++; /* above the largest: infinity's code */
    return (uint16_t)(best | (negative ? 0x8000u : 0));
}

static void test_halves()
{
    for (uint32_t h = 0; h < 0x10000u; h++) {
        const float v = f32_of_f16((uint16_t)h);
        if (!is_finite(h)) {
            CHECK_EQUAL((h & 1023u) != 0, v != v, "f32_of_f16(0x%04x)", h);
            if ((h & 1023u) == 0)
                CHECK_EQUAL(f32_bits(v), (h & 0x8000u) << 16 | 0x7f800000u, "f32_of_f16(0x%04x)",
                            h);
            CHECK_EQUAL(f16_of(v), (h & 1023u) != 0 ? 0x7fffu : h, "f16_of(0x%04x)", h);
            continue;
        }
        CHECK_EQUAL(v, (float)units_of(h) * 0x1p-24f, "f32_of_f16(0x%04x) = %g", h, (double)v);
        CHECK_EQUAL(signbit(v) != 0, (h & 0x8000u) != 0, "sign of 0x%04x", h);
        CHECK_EQUAL(f16_of(v), h, "f16_of(%g)", (double)v);
        /* Between two halves: the middle, and the floats around it. */
        const uint16_t next = (uint16_t)(h + 1);
        const wide middle = units_of(h) + ((h & 0x7fffu) == 0x7bffu
                                               ? (h & 0x8000u ? -65536 : 65536) * ((wide)1 << 24)
                                               : units_of(next));
        const float at = (float)middle * 0x1p-25f; /* exact: 12 bits */
        for (int d = -1; d <= 1; d++) {
            const float x = f32_of_bits(f32_bits(at) + (uint32_t)d);
            const uint32_t even = (h & 1u) == 0 ? h : next;
            const uint32_t wanted = d < 0 ? h : d > 0 ? next : even;
            CHECK_EQUAL(f16_of(x), wanted, "f16_of(%a) = 0x%04x, wanted 0x%04x", (double)x,
                        f16_of(x), wanted);
        }
    }
    for (uint32_t h = 0; h < 0x10000u; h++) {
        const float v = f32_of_bf16((uint16_t)h);
        if (v != v) {
            CHECK_EQUAL(bf16_of(v), 0x7fff, "bf16_of(NaN)");
            continue;
        }
        CHECK_EQUAL(bf16_of(v), h, "bf16_of(%g)", (double)v);
        if ((h & 0x7fffu) == 0x7f80u)
            continue;
        const uint32_t even = h + (h & 1u), above = h + 1;
        CHECK_EQUAL(bf16_of(f32_of_bits(h << 16 | 0x7fffu)), h, "bf16 below the middle of 0x%04x",
                    h);
        CHECK_EQUAL(bf16_of(f32_of_bits(h << 16 | 0x8000u)), even, "bf16 at the middle of 0x%04x",
                    h);
        CHECK_EQUAL(bf16_of(f32_of_bits(h << 16 | 0x8001u)), above,
                    "bf16 above the middle of 0x%04x", h);
    }
}
static uint32_t random_half()
{
    uint32_t h;
    do
        h = (uint32_t)random64() & 0xffffu;
    while (!is_finite(h));
    return h;
}
static void test_half_arithmetic()
{
    for (int i = 0; i < 400000; i++) {
        const uint32_t a = random_half(), b = random_half();
        uint32_t c = random_half();
        if (i % 4 == 1) /* cancels nearly all */
            c = (uint32_t)f16_of(-f32_of_f16((uint16_t)a) * f32_of_f16((uint16_t)b));
        if (!is_finite(c))
            continue;
        const wide product = units_of(a) * units_of(b),
                   sum = product + units_of(c) * ((wide)1 << 24);
        const bool product_sign = ((a ^ b) & 0x8000u) != 0;
        const uint16_t fma = nearest_half(sum, 24, sum == 0 && product_sign && (c & 0x8000u) != 0);
        CHECK_EQUAL(h2_fma(a, b, c), fma, "0x%04x * 0x%04x + 0x%04x = 0x%04x, wanted 0x%04x", a, b,
                    c, h2_fma(a, b, c), fma);
        const uint16_t mul = nearest_half(product, 24, product_sign);
        CHECK_EQUAL(h2_mul(a, b), mul, "0x%04x * 0x%04x = 0x%04x, wanted 0x%04x", a, b,
                    h2_mul(a, b), mul);
        const wide difference = units_of(a) - units_of(c);
        const uint16_t sub = nearest_half(
            difference, 0, difference == 0 && (a & 0x8000u) != 0 && (c & 0x8000u) == 0);
        CHECK_EQUAL(h2_sub(a, c) & 0xffffu, sub, "0x%04x - 0x%04x = 0x%04x, wanted 0x%04x", a, c,
                    h2_sub(a, c), sub);
    }
    /* Halves do not disturb each other. */
    CHECK_EQUAL(h2_sub(0x64086401u, 0x64086400u), 0x00003c00u, "h2_sub of pairs");
    CHECK_EQUAL(h2_fma(0x3c004000u, 0x40003c00u, 0x00003c00u), 0x40004200u, "h2_fma of pairs");
}

/* ---- fragments ----------------------------------------------------------------------------------
 */

struct matrices {
    const uint16_t *a, *b; /* [16][16], [16][8] as [8][16], halves */
    const uint8_t *a8;     /* [16][32] */
    const int8_t *b8;      /* [8][32] */
    float *d;              /* [16][8] in and out */
    int32_t *d8;
    uint16_t *transposed; /* [16][16] */
    bool bf16;
};
/* All by ldmatrix from rows of 16 and 32 bytes in shared memory, as kernels do it. */
KERNEL(32, 1) products(const __grid_constant__ struct matrices m)
{
    SHARED(shared);
    uint16_t *a = (uint16_t *)shared, *b = a + 256;
    uint8_t *a8 = shared + 1024, *b8 = a8 + 512;
    const int l = lane_id(), q = l & 3, g = l >> 2;
    for (int i = l; i < 256; i += 32)
        a[i] = m.a[i];
    for (int i = l; i < 128; i += 32)
        b[i] = m.b[i];
    for (int i = l; i < 512; i += 32)
        a8[i] = m.a8[i];
    for (int i = l; i < 256; i += 32)
        b8[i] = (uint8_t)m.b8[i];
    warp_sync();
    uint32_t fa[4], fb[4];
    ldsm_x4(fa, a + l % 16 * 16 + l / 16 * 8);
    ldsm_x4(fb, b + l % 8 * 16 + l / 8 % 2 * 8); /* matrices 2, 3 once more */
    float d[4];
    for (int r = 0; r < 4; r++)
        d[r] = m.d[(g + 8 * (r >> 1)) * 8 + 2 * q + (r & 1)];
    if (m.bf16)
        mma_bf16(d, fa, fb[0], fb[1]);
    else
        mma_f16(d, fa, fb[0], fb[1]);
    for (int r = 0; r < 4; r++)
        m.d[(g + 8 * (r >> 1)) * 8 + 2 * q + (r & 1)] = d[r];
    ldsm_x4(fa, a8 + l % 16 * 32 + l / 16 * 16);
    ldsm_x4(fb, b8 + l % 8 * 32 + l / 8 % 2 * 16);
    int32_t d8[4];
    for (int r = 0; r < 4; r++)
        d8[r] = m.d8[(g + 8 * (r >> 1)) * 8 + 2 * q + (r & 1)];
    mma_u8s8(d8, fa, fb[0], fb[1]);
    for (int r = 0; r < 4; r++)
        m.d8[(g + 8 * (r >> 1)) * 8 + 2 * q + (r & 1)] = d8[r];
    /* Transposed twice, by ldmatrix and by movmatrix, is as it was: rows and columns of quadrants.
     */
    ldsm_x4_trans(fa, a + l % 16 * 16 + l / 16 * 8);
    for (int i = 0; i < 4; i++) {
        const int row = i % 2 * 8, col = i / 2 * 8;
        m.transposed[(col + g) * 16 + row + 2 * q] = (uint16_t)fa[i]; /* (g, 2q) of the transpose */
        m.transposed[(col + g) * 16 + row + 2 * q + 1] = (uint16_t)(fa[i] >> 16);
        const uint32_t back = mat_transpose(fa[i]);
        const uint32_t wanted = (uint32_t)a[(row + g) * 16 + col + 2 * q] |
                                (uint32_t)a[(row + g) * 16 + col + 2 * q + 1] << 16;
        if (back != wanted)
            m.d[0] = NAN;
    }
}
template <typename T> static T *on_device(const std::vector<T> &from)
{
    T *p;
    if (cudaMalloc(&p, from.size() * sizeof(T)) != cudaSuccess)
        exit(2);
    memcpy(p, from.data(), from.size() * sizeof(T));
    return p;
}
static void test_products(bool bf16)
{
    std::vector<uint16_t> a(256), b(128);
    std::vector<uint8_t> a8(512);
    std::vector<int8_t> b8(256);
    std::vector<float> d(128);
    std::vector<int32_t> d8(128);
    for (uint16_t &v : a) { /* every exponent, subnormals, both signs */
        do
            v = (uint16_t)random64();
        while (bf16 ? (v & 0x7f80) >= 0x4f80 : !is_finite(v));
    }
    for (uint16_t &v : b) {
        do
            v = (uint16_t)random64();
        while (bf16 ? (v & 0x7f80) >= 0x4f80 : !is_finite(v));
    }
    for (uint8_t &v : a8)
        v = (uint8_t)random64();
    for (int8_t &v : b8)
        v = (int8_t)random64();
    for (size_t i = 0; i < 128; i++) {
        d[i] = (float)(int32_t)random64() * 0x1p-20f;
        d8[i] = (int32_t)random64();
    }
    const struct matrices m = { on_device(a), on_device(b),  on_device(a8), on_device(b8),
                                on_device(d), on_device(d8), on_device(a),  bf16 };
    if (LAUNCH((products), 1, 32, 2048, 0, 0, m) != cudaSuccess)
        exit(2);
    const auto value = [&](uint16_t h) { return (double)(bf16 ? f32_of_bf16(h) : f32_of_f16(h)); };
    for (size_t i = 0; i < 16; i++) {
        for (size_t j = 0; j < 8; j++) {
            double sum = (double)d[i * 8 + j];
            uint32_t sum8 = (uint32_t)d8[i * 8 + j];
            for (size_t k = 0; k < 16; k++)
                sum += value(a[i * 16 + k]) * value(b[j * 16 + k]);
            for (size_t k = 0; k < 32; k++)
                sum8 += (uint32_t)((int32_t)a8[i * 32 + k] * (int32_t)b8[j * 32 + k]);
            CHECK_EQUAL(m.d[i * 8 + j], (float)sum, "d[%zu][%zu] = %a, wanted %a (bf16 %d)", i, j,
                        (double)m.d[i * 8 + j], sum, bf16);
            CHECK_EQUAL((uint32_t)m.d8[i * 8 + j], sum8, "d8[%zu][%zu]", i, j);
        }
        for (size_t j = 0; j < 16; j++)
            CHECK_EQUAL(m.transposed[j * 16 + i], a[i * 16 + j], "transposed[%zu][%zu]", j, i);
    }
    for (const void *p :
         { (const void *)m.a, (const void *)m.b, (const void *)m.a8, (const void *)m.b8,
           (const void *)m.d, (const void *)m.d8, (const void *)m.transposed })
        cudaFree(const_cast<void *>(p));
}
/* HOSTCUDA_TRUNCATE: what 24 bits do not hold is cut off, not rounded. */
KERNEL(32, 1) one_product(const __grid_constant__ struct matrices m)
{
    const uint32_t a[4] = { m.a[0], 0, 0, 0 }; /* A[g][2q] */
    float d[4] = { 1, 1, -1, -1 };
    mma_f16(d, a, m.a[1], 0);
    if (lane_id() == 0)
        m.d[0] = d[0];
}
static void test_truncation()
{
    hc_settings_read();
    struct matrices m = {};
    /* 1 + 4 . 1.5 . 2^-26: six eighths of a step above 1. Only k = 0, 2, 4, 6 have weights. */
    m.a = on_device(std::vector<uint16_t>({ f16_of(0x1.8p-13f), f16_of(0x1p-13f) }));
    m.d = on_device(std::vector<float>(1));
    for (int truncate = 0; truncate < 2; truncate++) {
        hc_settings.truncate = truncate != 0;
        if (LAUNCH((one_product), 1, 32, 0, 0, 0, m) != cudaSuccess)
            exit(2);
        const float wanted = truncate != 0 ? 1.0f : 0x1.000002p0f;
        CHECK_EQUAL(m.d[0], wanted, "1 + 6 . 2^-26 = %a, wanted %a", (double)m.d[0],
                    (double)wanted);
        const float x[2] = { 0x1.8p-13f, 0 }, y[2] = { 0x1p-11f, 1 };
        CHECK_EQUAL(hostcuda_dot(x, y, 2, 1.0f), wanted, "dot, truncate %d", truncate);
        const float z[1] = { 0x1.4p-13f }; /* 1.25 steps, of half the size below 1 */
        CHECK_EQUAL(hostcuda_dot(z, y, 1, -1.0f), truncate != 0 ? -0x1.fffffcp-1f : -0x1.fffffep-1f,
                    "dot below 1, truncate %d", truncate);
    }
    hc_settings.truncate = false;
    cudaFree(const_cast<uint16_t *>(m.a));
    cudaFree(m.d);
}
int main()
{
    test_halves();
    test_half_arithmetic();
    test_truncation();
    for (int i = 0; i < 20; i++) {
        test_products(false);
        test_products(true);
    }
    printf("%ld checks, %ld failed\n", n_checks, n_failed);
    return n_failed == 0 && n_checks > 1000000 ? 0 : 1;
}
