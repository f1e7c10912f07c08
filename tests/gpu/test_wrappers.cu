/* test_wrappers.cu - golden tests of device.cuh: each wrapper, one or few warps, against plain host
 * loops. The emulator cannot prove the PTX and a GPU cannot prove the emulator: both run this.
 *
 * Arithmetic is compared by bits wherever the instruction is exact or rounds once; the sums of MMAs
 * are made of multiples that fp32 holds exactly, so that their order does not matter. */
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "tests/gpu/wrappers.h"
#include "tests/ops/cuda/harness.cuh"

static struct random_numbers rng = { 20 };

/* ---- numbers: out[i] = f(a[i], b[i], c[i])
 * -------------------------------------------------------
 */

enum number {
    F16_OF,
    F32_OF_F16,
    BF16_OF,
    F32_OF_BF16,
    BF16_LOW,
    BF16_HIGH,
    F16_LOW,
    F16_HIGH,
    F16_PAIR,
    BF16_PAIR,
    H2_SUB,
    H2_MUL,
    H2_FMA,
    AND_OR,
    BYTE_PERMUTE,
    DOT4_US,
    DOT4_SS,
    FMA_F32,
    EXP2,
    RSQRT,
    RCP,
    SIN,
    COS,
};
struct numbers_args {
    enum number f;
    int n;
    const uint32_t *a, *b, *c;
    uint32_t *out;
};
DEVICE uint32_t number_of(enum number f, uint32_t a, uint32_t b, uint32_t c)
{
    float s, cosine;
    switch (f) {
    case F16_OF:
        return f16_of(f32_of_bits(a));
    case F32_OF_F16:
        return f32_bits(f32_of_f16((uint16_t)a));
    case BF16_OF:
        return bf16_of(f32_of_bits(a));
    case F32_OF_BF16:
        return f32_bits(f32_of_bf16((uint16_t)a));
    case BF16_LOW:
        return f32_bits(bf16_low(a));
    case BF16_HIGH:
        return f32_bits(bf16_high(a));
    case F16_LOW:
        return f32_bits(f16_low(a));
    case F16_HIGH:
        return f32_bits(f16_high(a));
    case F16_PAIR:
        return f16_pair(f32_of_bits(a), f32_of_bits(b));
    case BF16_PAIR:
        return bf16_pair(f32_of_bits(a), f32_of_bits(b));
    case H2_SUB:
        return h2_sub(a, b);
    case H2_MUL:
        return h2_mul(a, b);
    case H2_FMA:
        return h2_fma(a, b, c);
    case AND_OR:
        return and_or(a, b, c);
    case BYTE_PERMUTE:
        return byte_permute(a, b, c);
    case DOT4_US:
        return (uint32_t)dot4_us(a, b, (int32_t)c);
    case DOT4_SS:
        return (uint32_t)dot4_ss(a, b, (int32_t)c);
    case FMA_F32:
        return f32_bits(fma_f32(f32_of_bits(a), f32_of_bits(b), f32_of_bits(c)));
    case EXP2:
        return f32_bits(exp2_fast(f32_of_bits(a)));
    case RSQRT:
        return f32_bits(rsqrt_fast(f32_of_bits(a)));
    case RCP:
        return f32_bits(rcp_fast(f32_of_bits(a)));
    default:
        sin_cos(f32_of_bits(a), &s, &cosine);
        return f32_bits(f == SIN ? s : cosine);
    }
}
KERNEL(128, 1) numbers_kernel(const __grid_constant__ struct numbers_args p)
{
    const int i = (int)(blockIdx.x * 128u + threadIdx.x);
    if (i < p.n)
        p.out[i] = number_of(p.f, p.a[i], p.b[i], p.c[i]);
}
struct inputs {
    std::vector<uint32_t> a, b, c;
};
static std::vector<uint32_t> run_numbers(enum number f, const struct inputs &in)
{
    device_array<uint32_t> a(in.a), b(in.b), c(in.c), out(in.a.size());
    const int n = (int)in.a.size();
    const struct numbers_args p = { f, n, a.data(), b.data(), c.data(), out.data() };
    CUDA(LAUNCH((numbers_kernel), dim3((unsigned)(n + 127) / 128), 128, 0, harness.stream,
                LAUNCH_PLAIN, p));
    return out.read();
}
static uint32_t random_pair(double most)
{
    const uint32_t low = f16_bits(rng.uniform() * most), high = f16_bits(rng.uniform() * most);
    return low | high << 16;
}
/* All bit patterns of a half in the low half, another walk in the high half. */
static struct inputs every_half()
{
    struct inputs in;
    for (uint32_t i = 0; i < 65536; i++) {
        in.a.push_back(i | (i * 40503u & 0xffffu) << 16);
        in.b.push_back(0);
        in.c.push_back(0);
    }
    return in;
}
/* Floats of every exponent, the halfway points of both 16-bit formats, and the borders. */
static struct inputs many_floats()
{
    struct inputs in;
    for (uint32_t e = 0; e < 512; e++)
        for (int i = 0; i < 64; i++) {
            const uint32_t tail =
                i < 16 ? (uint32_t)rng.next() & 0x7fe000u : (uint32_t)rng.next() & 0x7fffffu;
            const uint32_t half = i < 8 ? 0x1000u : i < 16 ? 0x8000u : 0;
            in.a.push_back(e << 23 | ((tail | half) & 0x7fffffu));
        }
    for (const float v :
         { 0.0f, -0.0f, 65504.0f, 65519.9f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-14f,
           0x1.ffcp-15f, 0x1.ffep-15f, HUGE_VALF, -HUGE_VALF, 3.4e38f, 0x1.ffp127f })
        in.a.push_back(bits_of_float(v));
    for (size_t i = 0; i < in.a.size(); i++) {
        in.b.push_back(in.a[in.a.size() - 1 - i]);
        in.c.push_back(0);
    }
    return in;
}
static void expect_half(uint32_t found, uint16_t wanted, bool bf16, uint32_t from)
{
    const bool nan = bf16 ? bf16_is_nan(wanted) : f16_is_nan(wanted);
    const bool nan_found = bf16 ? bf16_is_nan((uint16_t)found) : f16_is_nan((uint16_t)found);
    EXPECT(nan ? nan_found : (found & 0xffffu) == wanted, "%08x: found %04x, wanted %04x", from,
           found & 0xffffu, wanted);
}
static void test_narrow(enum number f, bool bf16)
{
    const struct inputs in = many_floats();
    const std::vector<uint32_t> out = run_numbers(f, in);
    for (size_t i = 0; i < out.size(); i++) {
        const float a = float_of_bits(in.a[i]), b = float_of_bits(in.b[i]);
        expect_half(out[i], bf16 ? bf16_bits(a) : f16_bits(a), bf16, in.a[i]);
        if (f == F16_PAIR || f == BF16_PAIR)
            expect_half(out[i] >> 16, bf16 ? bf16_bits(b) : f16_bits(b), bf16, in.b[i]);
    }
}
static void test_widen(enum number f, bool bf16, bool high)
{
    const struct inputs in = every_half();
    const std::vector<uint32_t> out = run_numbers(f, in);
    for (size_t i = 0; i < out.size(); i++) {
        const uint16_t h = (uint16_t)(in.a[i] >> (high ? 16 : 0));
        const float wanted = (float)(bf16 ? bf16_value(h) : f16_value(h)),
                    found = float_of_bits(out[i]);
        EXPECT(isnan(wanted) ? isnan(found) : out[i] == bits_of_float(wanted),
               "%04x: found %a, wanted %a", h, (double)found, (double)wanted);
    }
}
static double half_math(enum number f, uint16_t a, uint16_t b, uint16_t c)
{
    switch (f) {
    case H2_SUB:
        return f16_value(a) - f16_value(b);
    case H2_MUL:
        return f16_value(a) * f16_value(b);
    default: /* |a|, |b|, |c| in the range where the sum of exact products fits a double */
        return f16_value(a) * f16_value(b) + f16_value(c);
    }
}
static void test_half_math(enum number f)
{
    struct inputs in;
    static const double most[] = { 1e-6, 1e-3, 0.5, 16, 200 }; /* subnormals too */
    for (int i = 0; i < 4096; i++) {
        in.a.push_back(random_pair(most[i % 5]));
        in.b.push_back(random_pair(most[i / 5 % 5]));
        in.c.push_back(random_pair(most[i / 25 % 5]));
    }
    for (uint32_t code = 0; code < 16; code++) { /* what dequant.cuh asks for */
        in.a.push_back(0x64006400u | code << 4 | code << 20);
        in.b.push_back(f == H2_SUB ? 0x64086408u : 0x2c002c00u);
        in.c.push_back(0xd480d480u);
    }
    const std::vector<uint32_t> out = run_numbers(f, in);
    for (size_t i = 0; i < out.size(); i++)
        for (int half = 0; half < 32; half += 16)
            expect_half(
                out[i] >> half,
                f16_bits(half_math(f, (uint16_t)(in.a[i] >> half), (uint16_t)(in.b[i] >> half),
                                   (uint16_t)(in.c[i] >> half))),
                false, in.a[i]);
}
static uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector)
{
    const uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++)
        out |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
static uint32_t dotted(uint32_t a, uint32_t b, uint32_t c, bool a_signed)
{
    int64_t sum = (int32_t)c;
    for (int i = 0; i < 32; i += 8)
        sum +=
            (a_signed ? (int64_t)(int8_t)(a >> i) : (int64_t)(uint8_t)(a >> i)) * (int8_t)(b >> i);
    return (uint32_t)sum;
}
static void test_bits(enum number f)
{
    struct inputs in;
    for (int i = 0; i < 4096; i++) {
        in.a.push_back((uint32_t)rng.next());
        in.b.push_back((uint32_t)rng.next());
        in.c.push_back((uint32_t)rng.next() & (f == BYTE_PERMUTE ? 0x7777u
                                               : f == AND_OR     ? ~0u
                                                                 : 0x3fffffffu));
    }
    const std::vector<uint32_t> out = run_numbers(f, in);
    for (size_t i = 0; i < out.size(); i++) {
        const uint32_t a = in.a[i], b = in.b[i], c = in.c[i];
        const uint32_t wanted = f == AND_OR         ? (a & b) | c
                                : f == BYTE_PERMUTE ? permuted(a, b, c)
                                                    : dotted(a, b, c, f == DOT4_SS);
        EXPECT(out[i] == wanted, "%08x %08x %08x: found %08x, wanted %08x", a, b, c, out[i],
               wanted);
    }
}
static void test_fma()
{
    struct inputs in;
    for (int i = 0; i < 4096; i++) {
        in.a.push_back(bits_of_float(rng.uniform()));
        in.b.push_back(bits_of_float(rng.uniform()));
        in.c.push_back(bits_of_float(rng.uniform()));
    }
    const std::vector<uint32_t> out = run_numbers(FMA_F32, in);
    for (size_t i = 0; i < out.size(); i++)
        EXPECT(out[i] == bits_of_float(fmaf(float_of_bits(in.a[i]), float_of_bits(in.b[i]),
                                            float_of_bits(in.c[i]))),
               "fma(%08x, %08x, %08x) is %08x", in.a[i], in.b[i], in.c[i], out[i]);
}
/* Relative error of 2^-21 in the range that kernels use; rope's angles up to 10^6 radians. */
static void test_special(enum number f, float from, float to)
{
    struct inputs in;
    for (int i = 0; i < 8192; i++) {
        in.a.push_back(bits_of_float(from + (to - from) * (rng.uniform() * 0.5f + 0.5f)));
        in.b.push_back(0);
        in.c.push_back(0);
    }
    const std::vector<uint32_t> out = run_numbers(f, in);
    for (size_t i = 0; i < out.size(); i++) {
        const double a = float_of_bits(in.a[i]);
        const double wanted = f == EXP2    ? exp2(a)
                              : f == RSQRT ? 1 / sqrt(a)
                              : f == RCP   ? 1 / a
                              : f == SIN   ? sin(a)
                                           : cos(a);
        EXPECT_NEAR(float_of_bits(out[i]), wanted, f >= SIN ? 0x1p-21 : fabs(wanted) * 0x1p-21,
                    "of %a", a);
    }
}

/* ---- warps -------------------------------------------------------------------------------------
 */

struct words_args {
    const uint32_t *in;
    uint32_t *out;
};
enum { WARP_OUTS = 7 };
KERNEL(64, 1) warp_kernel(const __grid_constant__ struct words_args p)
{
    const int t = (int)threadIdx.x, lane = lane_id();
    const uint32_t v = p.in[t];
    uint32_t *out = p.out + t * WARP_OUTS;
    out[0] = (uint32_t)(warp_id() * 32 + lane);
    out[1] = shfl(v, (lane * 7 + 3) & 31); /* each lane its own source */
    out[2] = shfl_xor(v, 5);
    out[3] = f32_bits(shfl_f32(f32_of_bits(v), 31 - lane));
    out[4] = f32_bits(shfl_xor_f32(f32_of_bits(v), 16));
    out[5] = warp_ballot((v >> 3 & 1) != 0);
    out[6] = mat_transpose(v);
}
static void test_warp()
{
    std::vector<uint32_t> in;
    for (int i = 0; i < 64; i++)
        in.push_back((uint32_t)rng.next() & 0x7f7fffffu); /* floats that are no NaN */
    device_array<uint32_t> source(in), to(64 * WARP_OUTS);
    const struct words_args p = { source.data(), to.data() };
    CUDA(LAUNCH((warp_kernel), dim3(1), 64, 0, harness.stream, LAUNCH_PLAIN, p));
    const std::vector<uint32_t> out = to.read();
    for (int t = 0; t < 64; t++) {
        const int base = t & 32, lane = t & 31, q = lane % 4, g = lane / 4;
        uint32_t ballot = 0, transposed = 0;
        for (int i = 0; i < 32; i++)
            ballot |= (in[(size_t)(base + i)] >> 3 & 1) << i;
        for (int j = 0; j < 2; j++) { /* (g, 2q + j) is what (2q + j, g) was */
            const uint32_t pair = in[(size_t)(base + (2 * q + j) * 4 + g / 2)];
            transposed |= (pair >> 16 * (g % 2) & 0xffffu) << 16 * j;
        }
        const uint32_t wanted[WARP_OUTS] = { (uint32_t)t,
                                             in[(size_t)(base + ((lane * 7 + 3) & 31))],
                                             in[(size_t)(base + (lane ^ 5))],
                                             in[(size_t)(base + 31 - lane)],
                                             in[(size_t)(base + (lane ^ 16))],
                                             ballot,
                                             transposed };
        for (int i = 0; i < WARP_OUTS; i++)
            EXPECT(out[(size_t)(t * WARP_OUTS + i)] == wanted[i],
                   "thread %d, value %d: found %08x, wanted %08x", t, i,
                   out[(size_t)(t * WARP_OUTS + i)], wanted[i]);
    }
}

/* ---- memory ------------------------------------------------------------------------------------
 *
 * 128 threads, each 16 bytes: through registers, by cp.async in two groups, of 16 bytes and of 4
 * (some copies are not valid), and by the bulk copy engine over two stages and four rounds. */
KERNEL(128, 1) copy_kernel(const __grid_constant__ struct words_args p)
{
    SHARED(memory);
    uint4 *first = (uint4 *)memory, *second = first + 128;
    const int t = (int)threadIdx.x, other = 127 - t;
    const uint4 *in = (const uint4 *)p.in;
    uint4 *out = (uint4 *)p.out;
    st128(&out[t], ldg_stream(&in[t]));
    cp_async16(&first[t], &in[128 + t], t % 5 != 0);
    cp_async_commit();
    for (int j = 0; j < 4; j++)
        cp_async4((uint32_t *)&second[t] + j, (const uint32_t *)&in[256 + t] + j, t % 7 != j);
    cp_async_commit();
    cp_async_wait<1>();
    block_sync();
    st128(&out[128 + t], ld128(&first[other]));
    cp_async_wait<0>();
    block_sync();
    st128(&out[256 + t], ld128(&second[other]));
}
static std::vector<uint32_t> random_words(size_t n)
{
    std::vector<uint32_t> words;
    for (size_t i = 0; i < n; i++)
        words.push_back((uint32_t)rng.next());
    return words;
}
static void test_copy()
{
    const std::vector<uint32_t> in = random_words(3 * 512);
    device_array<uint32_t> source(in), to(3 * 512);
    const struct words_args p = { source.data(), to.data() };
    CUDA(LAUNCH((copy_kernel), dim3(1), 128, 4096, harness.stream, LAUNCH_PLAIN, p));
    const std::vector<uint32_t> out = to.read();
    for (int part = 0; part < 3; part++)
        for (int i = 0; i < 512; i++) {
            const int t = part == 0 ? i / 4 : 127 - i / 4;
            const bool valid = part == 0 || (part == 1 ? t % 5 != 0 : t % 7 != i % 4);
            const uint32_t wanted = valid ? in[(size_t)(part * 512 + t * 4 + i % 4)] : 0;
            EXPECT(out[(size_t)(part * 512 + i)] == wanted,
                   "part %d, word %d: found %08x, wanted %08x", part, i,
                   out[(size_t)(part * 512 + i)], wanted);
        }
}
enum { BULK_ROUNDS = 4, BULK_STAGES = 2, BULK_BYTES = 2048 };
KERNEL(128, 1) bulk_kernel(const __grid_constant__ struct words_args p)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    SHARED(memory);
    uint64_t *full = (uint64_t *)(memory + BULK_STAGES * BULK_BYTES), *empty = full + BULK_STAGES;
    const int t = (int)threadIdx.x;
    if (t == 0) {
        for (int s = 0; s < BULK_STAGES; s++) {
            mbar_init(&full[s], 1);
            mbar_init(&empty[s], 128);
        }
        mbar_init_fence();
    }
    block_sync();
    for (int round = 0; round < BULK_ROUNDS; round++) {
        const int s = round % BULK_STAGES;
        const uint32_t phase = (uint32_t)(round / BULK_STAGES & 1);
        unsigned char *stage = memory + s * BULK_BYTES;
        if (t == 0) {
            if (round >= BULK_STAGES)
                mbar_wait(&empty[s], phase ^ 1u);
            mbar_arrive_expect(&full[s], BULK_BYTES);
            bulk_copy(stage, (const unsigned char *)p.in + round * BULK_BYTES, BULK_BYTES,
                      &full[s]);
        }
        mbar_wait(&full[s], phase);
        st128(p.out + (round * 128 + t) * 4, ld128(stage + (127 - t) * 16));
        mbar_arrive(&empty[s]);
    }
#endif
}
static void test_bulk()
{
    const std::vector<uint32_t> in = random_words(BULK_ROUNDS * 512);
    device_array<uint32_t> source(in), to(BULK_ROUNDS * 512);
    const struct words_args p = { source.data(), to.data() };
    CUDA(LAUNCH((bulk_kernel), dim3(1), 128, BULK_STAGES * (BULK_BYTES + 16), harness.stream,
                LAUNCH_PLAIN, p));
    const std::vector<uint32_t> out = to.read();
    for (int i = 0; i < BULK_ROUNDS * 512; i++) {
        const uint32_t wanted = in[(size_t)(i / 512 * 512 + (127 - i % 512 / 4) * 4 + i % 4)];
        EXPECT(out[(size_t)i] == wanted, "word %d: found %08x, wanted %08x", i, out[(size_t)i],
               wanted);
    }
}
/* ldmatrix of four 8x8 matrices whose rows lie 48 bytes apart; both forms. */
KERNEL(32, 1) ldsm_kernel(const __grid_constant__ struct words_args p)
{
    SHARED(memory);
    const int lane = lane_id();
    st128(memory + lane * 48, ld128(p.in + lane * 4));
    warp_sync();
    uint32_t plain[4], transposed[4];
    ldsm_x4(plain, memory + lane * 48);
    ldsm_x4_trans(transposed, memory + lane * 48);
    for (int i = 0; i < 4; i++) {
        p.out[lane * 8 + i] = plain[i];
        p.out[lane * 8 + 4 + i] = transposed[i];
    }
}
static void test_ldsm()
{
    const std::vector<uint32_t> in = random_words(128);
    device_array<uint32_t> source(in), to(256);
    const struct words_args p = { source.data(), to.data() };
    CUDA(LAUNCH((ldsm_kernel), dim3(1), 32, 32 * 48, harness.stream, LAUNCH_PLAIN, p));
    const std::vector<uint32_t> out = to.read();
    const uint16_t *element = (const uint16_t *)in.data(); /* [32 rows][8] */
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 2; j++) {
                const int q = lane % 4, g = lane / 4, row = i * 8;
                const uint32_t plain = out[(size_t)(lane * 8 + i)] >> 16 * j & 0xffffu;
                const uint32_t transposed = out[(size_t)(lane * 8 + 4 + i)] >> 16 * j & 0xffffu;
                EXPECT(plain == element[(row + g) * 8 + 2 * q + j],
                       "matrix %d (%d, %d): found %04x", i, g, 2 * q + j, plain);
                EXPECT(transposed == element[(row + 2 * q + j) * 8 + g],
                       "transposed %d (%d, %d): found %04x", i, 2 * q + j, g, transposed);
            }
}

/* ---- barriers, blocks --------------------------------------------------------------------------
 */

enum { HANDOVER_ROUNDS = 6, HANDOVER_READY = 1, HANDOVER_FREE = 2 };
/* Two warps write, two read, over named barriers; shared_add counts the odd words of the input. */
KERNEL(128, 1) handover_kernel(const __grid_constant__ struct words_args p)
{
    SHARED(memory);
    uint32_t *slot = (uint32_t *)memory, *count = slot + 64;
    const int t = (int)threadIdx.x;
    if (t == 0)
        *count = 0;
    block_sync();
    if (t < 64) {
        for (int round = 0; round < HANDOVER_ROUNDS; round++) {
            const uint32_t v = p.in[round * 64 + t];
            if (round > 0)
                named_sync(HANDOVER_FREE, 128);
            slot[t] = v;
            shared_add(count, v & 1u);
            named_arrive(HANDOVER_READY, 128);
        }
    } else {
        for (int round = 0; round < HANDOVER_ROUNDS; round++) {
            named_sync(HANDOVER_READY, 128);
            p.out[round * 64 + t - 64] = slot[127 - t];
            if (round + 1 < HANDOVER_ROUNDS)
                named_arrive(HANDOVER_FREE, 128);
        }
    }
    block_sync();
    if (t == 0)
        p.out[HANDOVER_ROUNDS * 64] = *count;
}
static void test_handover()
{
    const std::vector<uint32_t> in = random_words(HANDOVER_ROUNDS * 64);
    device_array<uint32_t> source(in), to(HANDOVER_ROUNDS * 64 + 1);
    const struct words_args p = { source.data(), to.data() };
    CUDA(LAUNCH((handover_kernel), dim3(1), 128, 64 * 4 + 16, harness.stream, LAUNCH_PLAIN, p));
    const std::vector<uint32_t> out = to.read();
    uint32_t odd = 0;
    for (int i = 0; i < HANDOVER_ROUNDS * 64; i++) {
        odd += in[(size_t)i] & 1u;
        EXPECT(out[(size_t)i] == in[(size_t)(i / 64 * 64 + 63 - i % 64)], "word %d: found %08x", i,
               out[(size_t)i]);
    }
    EXPECT(out.back() == odd, "counted %u, wanted %u", out.back(), odd);
}
struct blocks_args {
    float *partial, *sum, *total;
    uint32_t *tickets, *flag, *seen;
};
enum { SUM_BLOCKS = 8 };
/* Each block leaves 64 floats; whoever draws the last ticket adds them up in order. Block 0 raises
 * a flag that block 1 waits for. */
KERNEL(64, 1) blocks_kernel(const __grid_constant__ struct blocks_args p)
{
    SHARED(memory);
    uint32_t *last = (uint32_t *)memory;
    const int t = (int)threadIdx.x, block = (int)blockIdx.x;
    const float v = (float)(block * 64 + t);
    p.partial[block * 64 + t] = v;
    red_add_f32(p.total, v);
    if (block == 0) {
        device_fence();
        block_sync();
        if (t == 0)
            st_release(p.flag, 7u);
    } else if (block == 1) {
        if (t == 0)
            while (ld_acquire(p.flag) != 7u) {
            }
        block_sync();
        p.seen[t] = (uint32_t)ld_other_f32(&p.partial[t]);
    }
    device_fence();
    block_sync();
    if (t == 0)
        *last = ticket(p.tickets, 1u);
    block_sync();
    if (*last != SUM_BLOCKS - 1)
        return;
    float sum = 0;
    for (int b = 0; b < SUM_BLOCKS; b++)
        sum += ld_other_f32(&p.partial[b * 64 + t]);
    p.sum[t] = sum;
}
static void test_blocks()
{
    device_array<float> partial(SUM_BLOCKS * 64), sum(64), total(1);
    device_array<uint32_t> tickets(1), flag(1), seen(64);
    tickets.zero();
    flag.zero();
    total.zero();
    CUDA(cudaDeviceSynchronize());
    const struct blocks_args p = { partial.data(), sum.data(),  total.data(),
                                   tickets.data(), flag.data(), seen.data() };
    CUDA(LAUNCH((blocks_kernel), dim3(SUM_BLOCKS), 64, 16, harness.stream, LAUNCH_WAITING, p));
    const std::vector<float> out = sum.read();
    const std::vector<uint32_t> saw = seen.read();
    for (int t = 0; t < 64; t++) {
        EXPECT_NEAR(out[(size_t)t], 64 * (SUM_BLOCKS - 1) * SUM_BLOCKS / 2 + SUM_BLOCKS * t, 0,
                    "sum");
        EXPECT(saw[(size_t)t] == (uint32_t)t, "block 1 saw %u of thread %d", saw[(size_t)t], t);
    }
    const int n = SUM_BLOCKS * 64;
    EXPECT_NEAR(total.read()[0], n * (n - 1) / 2, 0, "red_add");
    EXPECT(tickets.read()[0] == SUM_BLOCKS, "tickets");
}
/* A chain of dependent launches: kernel i adds i to what kernel i - 1 wrote. */
struct chain_args {
    const uint32_t *from;
    uint32_t *to;
    uint32_t add;
};
KERNEL(128, 2) chain_kernel(const __grid_constant__ struct chain_args p)
{
    const int i = (int)(blockIdx.x * 128u + threadIdx.x);
    griddep_launch();
    griddep_wait();
    p.to[i] = p.from[i] * 3u + p.add;
}
static void test_chain()
{
    enum { N = 16 * 128, LINKS = 12 };
    const std::vector<uint32_t> in = random_words(N);
    device_array<uint32_t> a(in), b(N);
    CUDA(cudaDeviceSynchronize());
    for (uint32_t i = 0; i < LINKS; i++) {
        const struct chain_args p = { i % 2 == 0 ? a.data() : b.data(),
                                      i % 2 == 0 ? b.data() : a.data(), i };
        CUDA(LAUNCH((chain_kernel), dim3(N / 128), 128, 0, harness.stream, LAUNCH_PDL, p));
    }
    const std::vector<uint32_t> out = a.read();
    for (int i = 0; i < N; i++) {
        uint32_t wanted = in[(size_t)i];
        for (uint32_t link = 0; link < LINKS; link++)
            wanted = wanted * 3u + link;
        EXPECT(out[(size_t)i] == wanted, "word %d: found %08x, wanted %08x", i, out[(size_t)i],
               wanted);
    }
}

/* ---- matrix fragments --------------------------------------------------------------------------
 */

struct mma_args {
    const uint32_t *a, *b, *c; /* lane's fragments: [32][4], [32][2], [32][4] */
    uint32_t *d;
};
enum mma_kind { MMA_F16, MMA_BF16, MMA_U8S8, MMA_S8, MMA_S8_FROM };
static constexpr bool is_bytes(enum mma_kind kind)
{
    return kind >= MMA_U8S8;
}
template <enum mma_kind KIND> KERNEL(32, 1) mma_kernel(const __grid_constant__ struct mma_args p)
{
    const int lane = lane_id();
    uint32_t a[4];
    for (int i = 0; i < 4; i++)
        a[i] = p.a[lane * 4 + i];
    const uint32_t b0 = p.b[lane * 2], b1 = p.b[lane * 2 + 1];
    if (KIND >= MMA_U8S8) {
        int32_t d[4];
        for (int i = 0; i < 4; i++)
            d[i] = (int32_t)p.c[lane * 4 + i];
        if (KIND == MMA_U8S8)
            mma_u8s8(d, a, b0, b1);
        else if (KIND == MMA_S8)
            mma_s8(d, a, b0, b1);
        else /* c has one value */
            mma_s8_from(d, a, b0, b1, (int32_t)p.c[0]);
        for (int i = 0; i < 4; i++)
            p.d[lane * 4 + i] = (uint32_t)d[i];
    } else {
        float d[4];
        for (int i = 0; i < 4; i++)
            d[i] = f32_of_bits(p.c[lane * 4 + i]);
        if (KIND == MMA_F16)
            mma_f16(d, a, b0, b1);
        else
            mma_bf16(d, a, b0, b1);
        for (int i = 0; i < 4; i++)
            p.d[lane * 4 + i] = f32_bits(d[i]);
    }
}
/* What the matrices hold. EXACT: multiples of 1/8 up to 4, whose products and sums fp32 holds.
 * TINY: fp16 subnormals, which the tensor core must keep (kernels.md, order of proof 2). */
enum mma_values { EXACT, TINY, ANY };
struct matrices {
    double a[16][32], b[32][8], c[16][8];
    int k;
};
static uint16_t element_bits(enum mma_kind kind, double v)
{
    return kind == MMA_BF16 ? bf16_bits(v) : f16_bits(v);
}
static double element(enum mma_kind kind, enum mma_values values, bool of_a)
{
    if (is_bytes(kind))
        return kind == MMA_U8S8 && of_a ? rng.below(256) : rng.below(256) - 128;
    if (values == TINY && of_a)
        return (rng.below(2047) - 1023) * 0x1p-24;
    if (values == ANY) {
        const uint16_t bits = element_bits(kind, rng.uniform() * 3);
        return kind == MMA_BF16 ? bf16_value(bits) : f16_value(bits);
    }
    return (rng.below(65) - 32) / 8.0;
}
/* Fragments as PTX draws them: `per` elements to a 32-bit register, k = per * q + j (+ 4 per). */
static uint32_t a_register(const struct matrices *m, enum mma_kind kind, int lane, int i)
{
    const int per = is_bytes(kind) ? 4 : 2, row = lane / 4 + 8 * (i % 2),
              k = lane % 4 * per + 4 * per * (i / 2);
    uint32_t bits = 0;
    for (int j = 0; j < per; j++)
        bits |= is_bytes(kind) ? ((uint32_t)(int)m->a[row][k + j] & 0xffu) << 8 * j
                               : (uint32_t)element_bits(kind, m->a[row][k + j]) << 16 * j;
    return bits;
}
static uint32_t b_register(const struct matrices *m, enum mma_kind kind, int lane, int i)
{
    const int per = is_bytes(kind) ? 4 : 2, k = lane % 4 * per + 4 * per * i;
    uint32_t bits = 0;
    for (int j = 0; j < per; j++)
        bits |= is_bytes(kind) ? ((uint32_t)(int)m->b[k + j][lane / 4] & 0xffu) << 8 * j
                               : (uint32_t)element_bits(kind, m->b[k + j][lane / 4]) << 16 * j;
    return bits;
}
static void fill_matrices(struct matrices *m, enum mma_kind kind, enum mma_values values)
{
    m->k = is_bytes(kind) ? 32 : 16;
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < m->k; k++)
            m->a[row][k] = element(kind, values, true);
    for (int k = 0; k < m->k; k++)
        for (int col = 0; col < 8; col++)
            m->b[k][col] = element(kind, values, false);
    for (int row = 0; row < 16; row++)
        for (int col = 0; col < 8; col++)
            m->c[row][col] = values == TINY                         ? 0
                             : kind == MMA_S8_FROM && row + col > 0 ? m->c[0][0]
                                                                    : rng.below(1025) - 512;
}
template <enum mma_kind KIND> static void test_mma(enum mma_values values)
{
    static struct matrices m;
    fill_matrices(&m, KIND, values);
    std::vector<uint32_t> a, b, c;
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++)
            a.push_back(a_register(&m, KIND, lane, i));
        for (int i = 0; i < 2; i++)
            b.push_back(b_register(&m, KIND, lane, i));
        for (int i = 0; i < 4; i++) {
            const double v = m.c[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
            c.push_back(is_bytes(KIND) ? (uint32_t)(int32_t)v : bits_of_float((float)v));
        }
    }
    device_array<uint32_t> da(a), db(b), dc(c), dd(128);
    const struct mma_args p = { da.data(), db.data(), dc.data(), dd.data() };
    CUDA(LAUNCH((mma_kernel<KIND>), dim3(1), 32, 0, harness.stream, LAUNCH_PLAIN, p));
    const std::vector<uint32_t> d = dd.read();
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + 8 * (i / 2), col = lane % 4 * 2 + i % 2;
            double wanted = m.c[row][col], size = fabs(wanted);
            for (int k = 0; k < m.k; k++) {
                wanted += m.a[row][k] * m.b[k][col];
                size += fabs(m.a[row][k] * m.b[k][col]);
            }
            const uint32_t bits = d[(size_t)(lane * 4 + i)];
            const double found =
                is_bytes(KIND) ? (double)(int32_t)bits : (double)float_of_bits(bits);
            /* tensor cores cut off below 2^-23 of the largest of the k16's terms (kernels.md 9) */
            EXPECT_NEAR(found, wanted, values == ANY ? size * 0x1p-20 : 0, "(%d, %d)", row, col);
        }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    CASE("f16_of") test_narrow(F16_OF, false);
    CASE("bf16_of") test_narrow(BF16_OF, true);
    CASE("f16_pair") test_narrow(F16_PAIR, false);
    CASE("bf16_pair") test_narrow(BF16_PAIR, true);
    CASE("f32_of_f16") test_widen(F32_OF_F16, false, false);
    CASE("f32_of_bf16") test_widen(F32_OF_BF16, true, false);
    CASE("f16_low") test_widen(F16_LOW, false, false);
    CASE("f16_high") test_widen(F16_HIGH, false, true);
    CASE("bf16_low") test_widen(BF16_LOW, true, false);
    CASE("bf16_high") test_widen(BF16_HIGH, true, true);
    CASE("h2_sub") test_half_math(H2_SUB);
    CASE("h2_mul") test_half_math(H2_MUL);
    CASE("h2_fma") test_half_math(H2_FMA);
    CASE("and_or") test_bits(AND_OR);
    CASE("byte_permute") test_bits(BYTE_PERMUTE);
    CASE("dot4_us") test_bits(DOT4_US);
    CASE("dot4_ss") test_bits(DOT4_SS);
    CASE("fma_f32") test_fma();
    CASE("exp2_fast") test_special(EXP2, -20, 20);
    CASE("rsqrt_fast") test_special(RSQRT, 1e-6f, 100);
    CASE("rcp_fast") test_special(RCP, 1e-6f, 100);
    CASE("sin_cos: sine") test_special(SIN, 0, 1e6f);
    CASE("sin_cos: cosine") test_special(COS, 0, 1e6f);
    CASE("shuffles, ballot, transpose") test_warp();
    CASE("ldg_stream, cp_async16, cp_async4") test_copy();
    if (harness.device.arch >= 90) {
        CASE("bulk_copy, mbarriers") test_bulk();
    }
    CASE("ldsm_x4, ldsm_x4_trans") test_ldsm();
    CASE("named barriers, shared_add") test_handover();
    CASE("tickets, flags, red_add") test_blocks();
    CASE("dependent launches") test_chain();
    for (int i = 0; i < 4; i++) {
        CASE("mma_f16, exact sums %d", i) test_mma<MMA_F16>(EXACT);
        CASE("mma_f16, any %d", i) test_mma<MMA_F16>(ANY);
        CASE("mma_f16, subnormals %d", i) test_mma<MMA_F16>(TINY);
        CASE("mma_bf16, exact sums %d", i) test_mma<MMA_BF16>(EXACT);
        CASE("mma_bf16, any %d", i) test_mma<MMA_BF16>(ANY);
        CASE("mma_u8s8 %d", i) test_mma<MMA_U8S8>(EXACT);
        CASE("mma_s8 %d", i) test_mma<MMA_S8>(EXACT);
        CASE("mma_s8_from %d", i) test_mma<MMA_S8_FROM>(EXACT);
    }
    return harness_end();
}
