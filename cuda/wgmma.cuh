/* wgmma.cuh - matrix products of a warpgroup (sm_90a): one wrapper = one instruction.
 *
 * A warpgroup is 128 threads, warps 4i .. 4i+3 of the block; all of them run every call here, with
 * the same descriptors. One product adds (or sets) D[64][N] += A[64][K] . B[K][N], K = 16 elements
 * of 16 bits or 32 of 8 bits: 32 bytes.
 *
 *   registers   warp w = warp_id() % 4 of the warpgroup has rows 16 w .. 16 w + 15, in the
 * fragments of mma.m16n8k16 (k32 for bytes): q = lane % 4, g = lane / 4, A    a[0] = (16 w + g,
 * 2q..)      a[1] = (16 w + g + 8, 2q..)       two 16-bit elements each a[2] = (16 w + g, 2q + 8..)
 * a[3] = (16 w + g + 8, 2q + 8..) bytes: 4q and 4q + 16 in place of 2q and 2q + 8, four elements
 * each D    d[4 j + 0, 1] = (16 w + g, 8 j + 2q, + 1)       j < N / 8 d[4 j + 2, 3] = (16 w + g +
 * 8, 8 j + 2q, + 1)
 *
 *   shared memory   a descriptor names where an operand starts and how it goes on. Of element type
 *               of e bytes, T = 16 / e of them in a chunk of 16 bytes, R = row bytes of the swizzle
 *               (128, 64, 32; 16 for none), the element is at
 *     swizzled(start + offset), swizzled(a) = a ^ (a >> 3 & (R - 16)): bits of the shared
 *               address itself, so buffers start at multiples of 8 R (1024 bytes for 128)
 *     K-major (rows of k: B[k][n], or A[m][k] with m for n)
 *          offset = (n % 8) R + (n / 8) stride + k e                       (none: 16 (n % 8) +
 *                   (n / 8) stride + (k / T) leading + (k % T) e)
 *          `leading` is not read under a swizzle. 64 k of 16 bits in rows of 128 bytes, rows of
 *          eight tokens together: stride 1024; the next 16 k are at start + 32.
 *     MN-major (rows of n: B[k][n], 16 bits only)
 *          offset = (k % 8) R + (k / 8) stride + (n % (R / e)) e + (n / (R / e)) leading
 *                   (none: stride and leading change places)
 *          Panels of 64 n, rows of 128 bytes, one row a k: stride 1024, leading = bytes of a panel;
 *          the next 16 k are at start + 2048.
 *
 * Order: wgmma_fence after registers (A or D) were written and before the products that use them;
 * products; wgmma_commit; wgmma_wait<N>: at most N commits are still on their way. Until a wait
 * covers it, nobody touches d, a or the shared memory of a product. Products of one shape on one D
 * follow each other without a fence. What st or cp.async wrote to shared memory needs async_fence
 * and a barrier first; bulk copies need only their mbarrier. */
#pragma once
#include "cuda/device.cuh"

enum wgmma_swizzle { WGMMA_PLAIN = 0, WGMMA_128B = 1, WGMMA_64B = 2, WGMMA_32B = 3 };

/* The matrix descriptor: start / 16 in bits 0..13, leading / 16 in 16..29, stride / 16 in 32..45,
 * base offset 0 in 49..51, swizzle in 62..63. All a multiple of 16. */
DEVICE uint64_t wgmma_desc(const void *start, int leading_bytes, int stride_bytes,
                           enum wgmma_swizzle swizzle)
{
    return (uint64_t)((shared_address(start) & 0x3ffffu) >> 4) |
           (uint64_t)(leading_bytes >> 4) << 16 | (uint64_t)(stride_bytes >> 4) << 32 |
           (uint64_t)swizzle << 62;
}
/* The descriptor of what lies `bytes` further, a multiple of 16; no carry leaves its 14 bits. */
DEVICE uint64_t wgmma_desc_at(uint64_t desc, int bytes)
{
    return desc + (uint64_t)(bytes >> 4);
}

#if HAS_WGMMA
DEVICE void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> DEVICE void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* No instruction: what the compiler knows of these registers ends here. After a wait, for the
 * accumulators that it covers: their values must not be read (copied) before. */
template <int N> DEVICE void wgmma_landed(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> DEVICE void wgmma_landed(int32_t (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

/* Operand lists: names %0 .. of N / 2 accumulators, and the accumulators. */
#define WGMMA_TEN(t)                                                                               \
    "%" t "0,%" t "1,%" t "2,%" t "3,%" t "4,%" t "5,%" t "6,%" t "7,%" t "8,%" t "9,"
#define WGMMA_TENS(a, b, c) WGMMA_TEN(a) WGMMA_TEN(b) WGMMA_TEN(c)
#define WGMMA_NAMES_8       "%0,%1,%2,%3"
#define WGMMA_NAMES_16      "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_NAMES_32      WGMMA_TEN("") "%10,%11,%12,%13,%14,%15"
#define WGMMA_NAMES_64      WGMMA_TENS("", "1", "2") "%30,%31"
#define WGMMA_NAMES_128     WGMMA_TENS("", "1", "2") WGMMA_TENS("3", "4", "5") "%60,%61,%62,%63"
#define WGMMA_NAMES_256                                                                            \
    WGMMA_TENS("", "1", "2")                                                                       \
    WGMMA_TENS("3", "4", "5")                                                                      \
    WGMMA_TENS("6", "7", "8")                                                                      \
    WGMMA_TENS("9", "10", "11") "%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_D4(c, i)  c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define WGMMA_D_8(c)    WGMMA_D4(c, 0)
#define WGMMA_D_16(c)   WGMMA_D_8(c), WGMMA_D4(c, 4)
#define WGMMA_D_32(c)   WGMMA_D_16(c), WGMMA_D4(c, 8), WGMMA_D4(c, 12)
#define WGMMA_D16(c, i) WGMMA_D4(c, i), WGMMA_D4(c, i + 4), WGMMA_D4(c, i + 8), WGMMA_D4(c, i + 12)
#define WGMMA_D_64(c)   WGMMA_D16(c, 0), WGMMA_D16(c, 16)
#define WGMMA_D_128(c)  WGMMA_D_64(c), WGMMA_D16(c, 32), WGMMA_D16(c, 48)
#define WGMMA_D_256(c)                                                                             \
    WGMMA_D_128(c), WGMMA_D16(c, 64), WGMMA_D16(c, 80), WGMMA_D16(c, 96), WGMMA_D16(c, 112)
/* The operands after the accumulators, by number: a (four registers, or a descriptor), b,
 * accumulate. */
#define WGMMA_AT_8(x)   x("4", "5", "6", "7", "8", "9")
#define WGMMA_AT_16(x)  x("8", "9", "10", "11", "12", "13")
#define WGMMA_AT_32(x)  x("16", "17", "18", "19", "20", "21")
#define WGMMA_AT_64(x)  x("32", "33", "34", "35", "36", "37")
#define WGMMA_AT_128(x) x("64", "65", "66", "67", "68", "69")
#define WGMMA_AT_256(x) x("128", "129", "130", "131", "132", "133")

#define WGMMA_FIRST_RS(a0, a1, a2, a3, b, p) "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" p ", 0;\n\t"
#define WGMMA_LAST_RS(a0, a1, a2, a3, b, p)  ",{%" a0 ",%" a1 ",%" a2 ",%" a3 "},%" b ",p"
#define WGMMA_FIRST_SS(a, b, p, u0, u1, u2)  "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" p ", 0;\n\t"
#define WGMMA_LAST_SS(a, b, p, u0, u1, u2)   ",%" a ",%" b ",p"
#define WGMMA_FLOAT(v)                       "+f"(v)
#define WGMMA_INT(v)                         "+r"(v)
#define WGMMA_ISSUE(n, shape, c, first, last, flags, ...)                                          \
    asm volatile(WGMMA_AT_##n(first) "wgmma.mma_async.sync.aligned.m64n" #n shape                  \
                                     " {" WGMMA_NAMES_##n "}" WGMMA_AT_##n(last) flags ";\n\t}"    \
                 : WGMMA_D_##n(c)                                                                  \
                 : __VA_ARGS__, "l"(b_desc), "r"((int)accumulate)                                  \
                 : "memory")
#define WGMMA_RS(n, shape, c, flags)                                                               \
    WGMMA_ISSUE(n, shape, c, WGMMA_FIRST_RS, WGMMA_LAST_RS, flags, "r"(a[0]), "r"(a[1]),           \
                "r"(a[2]), "r"(a[3]))
#define WGMMA_SS(n, shape, c, flags)                                                               \
    WGMMA_ISSUE(n, shape, c, WGMMA_FIRST_SS, WGMMA_LAST_SS, flags, "l"(a_desc))
#define WGMMA_EVERY_N(issue, shape, c, flags)                                                      \
    if constexpr (N == 8)                                                                          \
        issue(8, shape, c, flags);                                                                 \
    else if constexpr (N == 16)                                                                    \
        issue(16, shape, c, flags);                                                                \
    else if constexpr (N == 32)                                                                    \
        issue(32, shape, c, flags);                                                                \
    else if constexpr (N == 64)                                                                    \
        issue(64, shape, c, flags);                                                                \
    else if constexpr (N == 128)                                                                   \
        issue(128, shape, c, flags);                                                               \
    else                                                                                           \
        issue(256, shape, c, flags)
#else
/* Kernels that use these are never launched elsewhere; the compiler still sees them. */
DEVICE void wgmma_fence()
{
    __trap();
}
DEVICE void wgmma_commit()
{
    __trap();
}
template <int N> DEVICE void wgmma_wait()
{
    __trap();
}
template <int N> DEVICE void wgmma_landed(float (&)[N])
{
    __trap();
}
template <int N> DEVICE void wgmma_landed(int32_t (&)[N])
{
    __trap();
}
#define WGMMA_EVERY_N(issue, shape, c, flags)                                                      \
    (void)d, (void)b_desc, (void)accumulate;                                                       \
    __trap()
#endif

template <int N>
constexpr bool wgmma_n = N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256;

/* fp16, B K-major. accumulate: D += A . B, else D = A . B (then d need not hold anything). */
template <int N>
DEVICE void wgmma_f16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, bool accumulate)
{
    static_assert(wgmma_n<N>, "sizes here");
    WGMMA_EVERY_N(WGMMA_RS, "k16.f32.f16.f16", WGMMA_FLOAT, ",1,1,0");
}
/* bf16, A from registers; B K-major, or MN-major when TRANS_B. */
template <int N, bool TRANS_B>
DEVICE void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, bool accumulate)
{
    static_assert(wgmma_n<N>, "sizes here");
    if constexpr (TRANS_B) {
        WGMMA_EVERY_N(WGMMA_RS, "k16.f32.bf16.bf16", WGMMA_FLOAT, ",1,1,1");
    } else {
        WGMMA_EVERY_N(WGMMA_RS, "k16.f32.bf16.bf16", WGMMA_FLOAT, ",1,1,0");
    }
}
/* bf16, A and B in shared memory, both K-major. */
template <int N>
DEVICE void wgmma_bf16_ss(float (&d)[N / 2], uint64_t a_desc, uint64_t b_desc, bool accumulate)
{
    static_assert(wgmma_n<N>, "sizes here");
    WGMMA_EVERY_N(WGMMA_SS, "k16.f32.bf16.bf16", WGMMA_FLOAT, ",1,1,0,0");
}
/* Unsigned bytes of registers times signed bytes of shared memory (K-major), 32 k. */
template <int N>
DEVICE void wgmma_u8s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc,
                       bool accumulate)
{
    static_assert(wgmma_n<N>, "sizes here");
    WGMMA_EVERY_N(WGMMA_RS, "k32.s32.u8.s8", WGMMA_INT, "");
}
