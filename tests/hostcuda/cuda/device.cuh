/* device.cuh - the wrappers of cuda/device.cuh with host semantics; found before it by include
 * order. The comments there say what each one means; those here, what the emulator makes of it.
 *
 * Waiting, landing and failing is in fibers.cpp, async.cpp and matrix.cpp: outside the kernels'
 * translation units, so that the race detector sees the kernels' own accesses only. */
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>
#include "hostcuda.h"

#define DEVICE                         static inline __attribute__((unused))
#define KERNEL(threads, blocks_per_sm) __global__ void
#define SHARED(name)                   unsigned char *const name = hostcuda_shared()
#define HAS_WGMMA                      1 /* cuda/wgmma.cuh of this folder */

/* ---- threads ----------------------------------------------------------------------------------
 */

DEVICE int lane_id()
{
    return (int)(threadIdx.x & 31u);
}
DEVICE int warp_id()
{
    return (int)(threadIdx.x >> 5);
}
DEVICE void block_sync(HOSTCUDA_HERE)
{
    hostcuda_barrier(0, 0, true, "block_sync", HOSTCUDA_THERE);
}
DEVICE void named_sync(int id, int threads, HOSTCUDA_HERE)
{
    hostcuda_barrier(id, threads, true, "named_sync", HOSTCUDA_THERE);
}
DEVICE void named_arrive(int id, int threads, HOSTCUDA_HERE)
{
    hostcuda_barrier(id, threads, false, "named_arrive", HOSTCUDA_THERE);
}
DEVICE void warp_sync(HOSTCUDA_HERE)
{
    hostcuda_collective(32, nullptr, nullptr, true, "warp_sync", HOSTCUDA_THERE);
}
/* Shuffles and votes order no memory, here as there. */
DEVICE uint32_t shfl(uint32_t v, int from_lane, HOSTCUDA_HERE)
{
    return hostcuda_shfl(v, from_lane, HOSTCUDA_THERE);
}
DEVICE uint32_t shfl_xor(uint32_t v, int mask, HOSTCUDA_HERE)
{
    return hostcuda_shfl(v, lane_id() ^ mask, HOSTCUDA_THERE);
}
DEVICE float shfl_f32(float v, int from_lane, HOSTCUDA_HERE)
{
    return __uint_as_float(hostcuda_shfl(__float_as_uint(v), from_lane, HOSTCUDA_THERE));
}
DEVICE float shfl_xor_f32(float v, int mask, HOSTCUDA_HERE)
{
    return __uint_as_float(hostcuda_shfl(__float_as_uint(v), lane_id() ^ mask, HOSTCUDA_THERE));
}
DEVICE uint32_t warp_ballot(bool p, HOSTCUDA_HERE)
{
    return hostcuda_ballot(p, HOSTCUDA_THERE);
}
template <int N> DEVICE void registers_give()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}
template <int N> DEVICE void registers_take()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}

/* ---- programmatic dependent launch -------------------------------------------------------------
 */

DEVICE void griddep_wait(HOSTCUDA_HERE)
{
    hostcuda_griddep_wait(HOSTCUDA_THERE);
}
DEVICE void griddep_launch()
{
    hostcuda_griddep_launch();
}

/* ---- memory -----------------------------------------------------------------------------------
 */

DEVICE uint4 ldg_stream(const void *from)
{
    if (hostcuda_counting)
        hostcuda_count_stream(16);
    return *(const uint4 *)from;
}
DEVICE uint4 ld128(const void *from, HOSTCUDA_HERE)
{
    if (hostcuda_counting)
        hostcuda_count_shared(from, 16, HOSTCUDA_THERE);
    return *(const uint4 *)from;
}
DEVICE void st128(void *to, uint4 v, HOSTCUDA_HERE)
{
    if (hostcuda_counting)
        hostcuda_count_shared(to, 16, HOSTCUDA_THERE);
    *(uint4 *)to = v;
}
DEVICE uint32_t shared_address(const void *p, HOSTCUDA_HERE)
{
    return hostcuda_shared_at(p, 1, "shared_address", HOSTCUDA_THERE);
}

/* The destination is NaN from here on, written by this thread, until the copy lands: at the wait,
 * or somewhere before. */
DEVICE void cp_async16(void *to, const void *from, bool valid, HOSTCUDA_HERE)
{
    hostcuda_shared_at(to, 16, "cp_async16", HOSTCUDA_THERE);
    hostcuda_cp_async(to, from, 16, valid, HOSTCUDA_THERE);
    const uint4 nan = { 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu };
    *(uint4 *)to = nan;
    if (valid)
        HOSTCUDA_TOUCH16(from);
}
DEVICE void cp_async4(void *to, const void *from, bool valid, HOSTCUDA_HERE)
{
    hostcuda_shared_at(to, 4, "cp_async4", HOSTCUDA_THERE);
    hostcuda_cp_async(to, from, 4, valid, HOSTCUDA_THERE);
    *(uint32_t *)to = 0xffffffffu;
}
DEVICE void cp_async_commit(HOSTCUDA_HERE)
{
    hostcuda_cp_commit(HOSTCUDA_THERE);
}
template <int N> DEVICE void cp_async_wait(HOSTCUDA_HERE)
{
    hostcuda_cp_wait(N, HOSTCUDA_THERE);
}

DEVICE void mbar_init(uint64_t *bar, int count, HOSTCUDA_HERE)
{
    hostcuda_mbar_init(bar, count, HOSTCUDA_THERE);
}
DEVICE void mbar_init_fence()
{
}
DEVICE void mbar_arrive(uint64_t *bar, HOSTCUDA_HERE)
{
    hostcuda_mbar_arrive(bar, 0, HOSTCUDA_THERE);
}
DEVICE void mbar_arrive_expect(uint64_t *bar, int bytes, HOSTCUDA_HERE)
{
    hostcuda_mbar_arrive(bar, bytes, HOSTCUDA_THERE);
}
DEVICE void mbar_wait(uint64_t *bar, uint32_t parity, HOSTCUDA_HERE)
{
    hostcuda_mbar_wait(bar, parity, HOSTCUDA_THERE);
}
DEVICE void bulk_copy(void *to, const void *from, int bytes, uint64_t *bar, HOSTCUDA_HERE)
{
    hostcuda_shared_at(to, (size_t)bytes, "bulk_copy", HOSTCUDA_THERE);
    memset(to, 0xff, (size_t)bytes);
    hostcuda_bulk_copy(to, from, bytes, bar, HOSTCUDA_THERE);
}
DEVICE void async_fence()
{
}

/* ---- between blocks ----------------------------------------------------------------------------
 */

DEVICE void red_add_f32(float *to, float v)
{
    uint32_t *bits = (uint32_t *)to;
    const float old = __uint_as_float(__atomic_load_n(bits, __ATOMIC_RELAXED));
    __atomic_store_n(bits, __float_as_uint(old + v), __ATOMIC_RELAXED); /* one host thread */
}
DEVICE uint32_t ticket(uint32_t *counter, uint32_t add)
{
    hostcuda_progress();
    return __atomic_fetch_add(counter, add, __ATOMIC_ACQ_REL);
}
DEVICE void st_release(uint32_t *to, uint32_t v)
{
    hostcuda_progress();
    __atomic_store_n(to, v, __ATOMIC_RELEASE);
}
DEVICE uint32_t ld_acquire(const uint32_t *from, HOSTCUDA_HERE)
{
    hostcuda_poll("ld_acquire", HOSTCUDA_THERE);
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
DEVICE void device_fence()
{
}
DEVICE float ld_other_f32(const float *from)
{
    return *from;
}
DEVICE uint32_t global_add(uint32_t *to, uint32_t v)
{
    return __atomic_fetch_add(to, v, __ATOMIC_RELAXED);
}
DEVICE uint32_t global_exchange(uint32_t *to, uint32_t v)
{
    return __atomic_exchange_n(to, v, __ATOMIC_RELAXED);
}
DEVICE uint32_t shared_add(uint32_t *to, uint32_t v, HOSTCUDA_HERE)
{
    hostcuda_shared_at(to, 4, "shared_add", HOSTCUDA_THERE);
    return __atomic_fetch_add(to, v, __ATOMIC_RELAXED);
}

/* ---- numbers: bit exact but for the approximations ---------------------------------------------
 */

DEVICE uint32_t f32_bits(float v)
{
    return __float_as_uint(v);
}
DEVICE float f32_of_bits(uint32_t v)
{
    return __uint_as_float(v);
}
DEVICE uint16_t f16_of(float v)
{
    const uint32_t bits = f32_bits(v), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    if (a > 0x7f800000u)
        return 0x7fff; /* cvt's NaN */
    if (a >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* 65520 and above */
    if (a < 0x38800000u) /* below 2^-14: 1/2 has the spacing of fp16 subnormals, 2^-24 */
        return (uint16_t)(sign | (f32_bits(f32_of_bits(a) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
}
DEVICE float f32_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = h & 0x7fffu;
    if (a >= 0x7c00u)
        return f32_of_bits(sign | 0x7f800000u | (a & 0x3ffu) << 13);
    return f32_of_bits(sign | f32_bits(f32_of_bits(a << 13) * 0x1p112f));
}
DEVICE uint16_t bf16_of(float v)
{
    const uint32_t bits = f32_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
DEVICE float f32_of_bf16(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}
DEVICE float bf16_low(uint32_t pair)
{
    return f32_of_bits(pair << 16);
}
DEVICE float bf16_high(uint32_t pair)
{
    return f32_of_bits(pair & 0xffff0000u);
}
DEVICE float f16_low(uint32_t pair)
{
    return f32_of_f16((uint16_t)pair);
}
DEVICE float f16_high(uint32_t pair)
{
    return f32_of_f16((uint16_t)(pair >> 16));
}
DEVICE uint32_t f16_pair(float low, float high)
{
    return (uint32_t)f16_of(low) | (uint32_t)f16_of(high) << 16;
}
DEVICE uint32_t bf16_pair(float low, float high)
{
    return (uint32_t)bf16_of(low) | (uint32_t)bf16_of(high) << 16;
}
/* a + b for f16_of and bf16_of to round: what float cannot hold sticks to the last bit (round to
 * odd), and the 13 or 16 bits between the two formats keep that from mattering. */
DEVICE float odd_sum(double a, double b)
{
    const double s = a + b, bb = s - a, error = (a - (s - bb)) + (b - bb);
    float f = (float)s;
    const double rest = (s - (double)f) + error; /* its sign is all that counts */
    if (rest != 0 &&
        (f32_bits(f) & 1u) == 0) { /* a NaN has the sum's own error: NaN != 0, stays NaN */
        const bool up = (rest > 0) == (f > 0 || (f == 0 && rest > 0));
        f = f32_of_bits(f == 0 ? (rest > 0 ? 1u : 0x80000001u)
                        : up   ? f32_bits(f) + 1u
                               : f32_bits(f) - 1u);
    }
    return f;
}
DEVICE uint16_t h_fma(uint16_t a, uint16_t b, uint16_t c)
{
    const float x = f32_of_f16(a), y = f32_of_f16(b), z = f32_of_f16(c);
    const float product = x * y; /* exact: 22 bits */
    const float sum = product + z;
    if (!(fabsf(sum) < INFINITY))
        return f16_of(sum);
    return f16_of(odd_sum((double)product, (double)z));
}
DEVICE uint32_t h2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return (uint32_t)h_fma((uint16_t)a, (uint16_t)b, (uint16_t)c) |
           (uint32_t)h_fma((uint16_t)(a >> 16), (uint16_t)(b >> 16), (uint16_t)(c >> 16)) << 16;
}
DEVICE uint32_t h2_sub(uint32_t a, uint32_t b)
{
    return h2_fma(a, 0x3c003c00u, b ^ 0x80008000u);
}
DEVICE uint32_t h2_mul(uint32_t a, uint32_t b)
{
    return f16_pair(f16_low(a) * f16_low(b), f16_high(a) * f16_high(b));
}
DEVICE uint16_t b_fma(float x, float y, float z)
{
    const float sum = fmaf(x, y, z);
    return bf16_of(fabsf(sum) < INFINITY ? odd_sum((double)x * (double)y, (double)z) : sum);
}
DEVICE uint32_t b2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return (uint32_t)b_fma(bf16_low(a), bf16_low(b), bf16_low(c)) |
           (uint32_t)b_fma(bf16_high(a), bf16_high(b), bf16_high(c)) << 16;
}
DEVICE uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits)
{
    return (a & mask) | bits;
}
DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> 4 * i & 0xfu,
                       byte = (uint32_t)(both >> 8 * (s & 7u)) & 0xffu;
        out |= ((s & 8u) != 0 ? (byte >> 7) * 0xffu : byte) << 8 * i; /* bit 3: the sign, spread */
    }
    return out;
}
DEVICE int32_t dot4_us(uint32_t a, uint32_t b, int32_t c)
{
    uint32_t sum = (uint32_t)c;
    for (int i = 0; i < 32; i += 8)
        sum += (uint32_t)((int32_t)(a >> i & 0xffu) * (int8_t)(b >> i));
    return (int32_t)sum;
}
DEVICE int32_t dot4_ss(uint32_t a, uint32_t b, int32_t c)
{
    uint32_t sum = (uint32_t)c;
    for (int i = 0; i < 32; i += 8)
        sum += (uint32_t)((int8_t)(a >> i) * (int8_t)(b >> i));
    return (int32_t)sum;
}
DEVICE int popcount(uint32_t v)
{
    return __builtin_popcount(v);
}
DEVICE double add_f64(double a, double b)
{
    return a + b;
} /* built without contraction */
DEVICE double mul_f64(double a, double b)
{
    return a * b;
}
DEVICE uint64_t f64_bits(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
DEVICE double f64_of_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
DEVICE float fma_f32(float a, float b, float c)
{
    return fmaf(a, b, c);
}
DEVICE float flush_subnormal(float v)
{
    return fabsf(v) < 0x1p-126f ? copysignf(0.0f, v) : v;
}
DEVICE float exp2_fast(float v)
{
    return flush_subnormal(exp2f(flush_subnormal(v)));
}
DEVICE float rsqrt_fast(float v)
{
    return 1.0f / sqrtf(flush_subnormal(v));
}
DEVICE float rcp_fast(float v)
{
    return flush_subnormal(1.0f / flush_subnormal(v));
}
DEVICE void sin_cos(float angle, float *s, float *c)
{
    *s = sinf(angle), *c = cosf(angle);
}

/* ---- matrix fragments --------------------------------------------------------------------------
 */

DEVICE void ldsm_x4(uint32_t (&r)[4], const void *row, HOSTCUDA_HERE)
{
    HOSTCUDA_TOUCH16(row);
    hostcuda_ldsm(r, row, false, HOSTCUDA_THERE);
}
DEVICE void ldsm_x4_trans(uint32_t (&r)[4], const void *row, HOSTCUDA_HERE)
{
    HOSTCUDA_TOUCH16(row);
    hostcuda_ldsm(r, row, true, HOSTCUDA_THERE);
}
DEVICE uint32_t mat_transpose(uint32_t v, HOSTCUDA_HERE)
{
    return hostcuda_mat_transpose(v, HOSTCUDA_THERE);
}
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, HOSTCUDA_HERE)
{
    hostcuda_mma(HOSTCUDA_F16, d, a, b0, b1, HOSTCUDA_THERE);
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, HOSTCUDA_HERE)
{
    hostcuda_mma(HOSTCUDA_BF16, d, a, b0, b1, HOSTCUDA_THERE);
}
DEVICE void mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     HOSTCUDA_HERE)
{
    hostcuda_mma(HOSTCUDA_U8S8, d, a, b0, b1, HOSTCUDA_THERE);
}
DEVICE void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, HOSTCUDA_HERE)
{
    hostcuda_mma(HOSTCUDA_S8S8, d, a, b0, b1, HOSTCUDA_THERE);
}
DEVICE void mma_s8_from(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                        int32_t c, HOSTCUDA_HERE)
{
    d[0] = d[1] = d[2] = d[3] = c;
    hostcuda_mma(HOSTCUDA_S8S8, d, a, b0, b1, HOSTCUDA_THERE);
}
