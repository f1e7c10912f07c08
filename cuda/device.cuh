/* device.cuh - what kernels are made of: one wrapper = one instruction (DESIGN 7).
 *
 * Kernels use C++ without templates over anything but dtype and tile, threadIdx.x of 1-D blocks,
 * blockIdx, and these wrappers; never inline assembly, never __half types, never static shared
 * memory. tests/hostcuda shadows this file by include order and runs the same kernels on the host.
 *
 * 16-bit floats travel as bits: uint16_t, or uint32_t for a pair (element 0 in the low half).
 * Addresses of shared memory are plain pointers. "q" and "g" below are lane % 4 and lane / 4, the
 * coordinates of every MMA fragment (PTX ISA, "Matrix fragments for mma.m16n8k16"). */
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__
/* KERNEL(256, 2) name(const __grid_constant__ struct args a): 256 threads, 2 blocks an SM. */
#define KERNEL(threads, blocks_per_sm) __global__ void __launch_bounds__(threads, blocks_per_sm)
/* The block's dynamic shared memory, 1024-byte aligned: unsigned char name[]. Once a kernel. */
#define SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#else
#define HAS_WGMMA 0
#endif

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
DEVICE void block_sync()
{
    __syncthreads();
}
/* Barrier `id` (1..15) of `threads` threads, a multiple of 32: sync waits, arrive does not. */
DEVICE void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void warp_sync()
{
    __syncwarp();
}
/* All 32 lanes take part in every warp collective. */
DEVICE uint32_t shfl(uint32_t v, int from_lane)
{
    return __shfl_sync(0xffffffffu, v, from_lane);
}
DEVICE uint32_t shfl_xor(uint32_t v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
DEVICE float shfl_f32(float v, int from_lane)
{
    return __shfl_sync(0xffffffffu, v, from_lane);
}
DEVICE float shfl_xor_f32(float v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
DEVICE uint32_t warp_ballot(bool p)
{
    return __ballot_sync(0xffffffffu, p);
}
/* Registers of a thread of this warpgroup, a multiple of 8 (sm_90a; all its warps take part). */
template <int N> DEVICE void registers_give()
{
#if HAS_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> DEVICE void registers_take()
{
#if HAS_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* ---- programmatic dependent launch (no-ops before sm_90) ----------------------------------------
 */

/* What the previous kernel of the stream wrote may be read after this, and not before; neither may
 * anything that it reads be written before. Weights may be read before. Every thread. */
DEVICE void griddep_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel of the stream may start its blocks. */
DEVICE void griddep_launch()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* 16 bytes, read once: past L1, first out of L2. 16-byte aligned. (The policy is a constant, which
 * the assembler knows; the modifier L2::evict_first itself is for wider loads of later chips.) */
DEVICE uint4 ldg_stream(const void *from)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from), "l"(policy));
    return v;
}
/* 16 bytes of shared or global memory, 16-byte aligned. */
DEVICE uint4 ld128(const void *from)
{
    return *(const uint4 *)from;
}
DEVICE void st128(void *to, uint4 v)
{
    *(uint4 *)to = v;
}

DEVICE uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes global -> shared, asynchronous: there after commit and a wait that covers the commit
 * (then a barrier, for other threads). valid = false: zeros, `from` is not read. */
DEVICE void cp_async16(void *to, const void *from, bool valid)
{
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}
/* 4 bytes, 4-byte aligned; the same otherwise. */
DEVICE void cp_async4(void *to, const void *from, bool valid)
{
    const int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}
DEVICE void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* At most N of this thread's commits are still on their way. */
template <int N> DEVICE void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* mbarriers (sm_90): 8 bytes of shared memory. A phase ends when `count` arrivals and all expected
 * bytes are in; the first phase has parity 0. */
DEVICE void mbar_init(uint64_t *bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count)
                 : "memory");
}
/* After the inits and before anybody else's use (a block_sync comes too). One thread. */
DEVICE void mbar_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::
                     : "memory");
}
DEVICE void mbar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
/* Arrives, and adds `bytes` to what the phase waits for. */
DEVICE void mbar_arrive_expect(uint64_t *bar, int bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
        "r"(bytes)
        : "memory");
}
/* Until the phase of this parity has ended. */
DEVICE void mbar_wait(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n\t.reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t}" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
}
/* bytes (a multiple of 16, both ends 16-byte aligned) global -> shared by the copy engine, counted
 * on `bar`. One thread. The data was not written by this grid. Streamed: first out of L2. */
DEVICE void bulk_copy(void *to, const void *from, int bytes, uint64_t *bar)
{
    asm volatile("{\n\t.reg .b64 policy;\n\t"
                 "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n\t"
                 "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], policy;\n\t}" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
}
/* What this thread wrote to shared memory (st or landed cp.async) becomes visible to wgmma and bulk
 * copies; then a barrier before the thread that issues them. */
DEVICE void async_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- between blocks ----------------------------------------------------------------------------
 */

DEVICE void red_add_f32(float *to, float v)
{
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory");
}
/* Old value; release and acquire at device scope: what was written before is seen by who sees it.
 */
DEVICE uint32_t ticket(uint32_t *counter, uint32_t add)
{
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(counter), "r"(add)
                 : "memory");
    return old;
}
DEVICE void st_release(uint32_t *to, uint32_t v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory");
}
DEVICE uint32_t ld_acquire(const uint32_t *from)
{
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
    return v;
}
/* Orders this thread's writes at device scope: before a barrier and one thread's ticket. */
DEVICE void device_fence()
{
    __threadfence();
}
/* Global memory that other blocks of this grid wrote: past L1. */
DEVICE float ld_other_f32(const float *from)
{
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
    return v;
}
/* Old value; orders nothing (counters and claims, read after a barrier). */
DEVICE uint32_t global_add(uint32_t *to, uint32_t v)
{
    return atomicAdd(to, v);
}
DEVICE uint32_t global_exchange(uint32_t *to, uint32_t v)
{
    return atomicExch(to, v);
}
/* Shared-memory counters (histograms). */
DEVICE uint32_t shared_add(uint32_t *to, uint32_t v)
{
    return atomicAdd(to, v);
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

DEVICE uint16_t f16_of(float v)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    return h;
}
DEVICE float f32_of_f16(uint16_t h)
{
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
    return v;
}
DEVICE uint16_t bf16_of(float v)
{
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(v));
    return h;
}
DEVICE float f32_of_bf16(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}
DEVICE float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
DEVICE float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
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
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
DEVICE uint32_t bf16_pair(float low, float high)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
/* Both halves at once, rounded to nearest even, subnormals kept. */
DEVICE uint32_t h2_sub(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
DEVICE uint32_t h2_mul(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
DEVICE uint32_t h2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/* a . b + c of bf16 halves, rounded once (sm_80 has no other arithmetic on them). */
DEVICE uint32_t b2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/* (a & mask) | bits: one LOP3, which the compiler does not always find. */
DEVICE uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
    return d;
}
/* Byte i of the result is byte (selector >> 4i & 7) of b:a. */
DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    return __byte_perm(a, b, selector);
}
/* c + a.b of four bytes; a unsigned, b signed */
DEVICE int32_t dot4_us(uint32_t a, uint32_t b, int32_t c)
{
    int32_t d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEVICE int32_t dot4_ss(uint32_t a, uint32_t b, int32_t c)
{
    int32_t d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEVICE float fma_f32(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
/* Approximations of the special function unit: 2 ulp, subnormals flushed. The host has libm's. */
DEVICE float exp2_fast(float v)
{
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(v));
    return d;
}
DEVICE float rsqrt_fast(float v)
{
    float d;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(v));
    return d;
}
DEVICE float rcp_fast(float v)
{
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(v));
    return d;
}
DEVICE int popcount(uint32_t v)
{
    return __popc(v);
}
/* Doubles, each operation rounded by itself, as the host form of the sampler has them. */
DEVICE double add_f64(double a, double b)
{
    return __dadd_rn(a, b);
}
DEVICE double mul_f64(double a, double b)
{
    return __dmul_rn(a, b);
}
DEVICE uint64_t f64_bits(double v)
{
    return (uint64_t)__double_as_longlong(v);
}
DEVICE double f64_of_bits(uint64_t v)
{
    return __longlong_as_double((long long)v);
}
DEVICE uint32_t f32_bits(float v)
{
    return __float_as_uint(v);
}
DEVICE float f32_of_bits(uint32_t v)
{
    return __uint_as_float(v);
}
/* Full precision, where positions reach 10^6 (rope). */
DEVICE void sin_cos(float angle, float *s, float *c)
{
    sincosf(angle, s, c);
}

/* ---- matrix fragments (one warp, all lanes) -----------------------------------------------------
 */

/* 8x8 matrices of 16-bit elements from shared memory; lane l gives the address of row l % 8 of
 * matrix l / 8 (16 bytes, aligned) and gets elements (g, 2q), (g, 2q+1) of matrix i in r[i]. trans:
 * elements (2q, g), (2q+1, g). */
DEVICE void ldsm_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldsm_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
/* The 8x8 matrix whose elements (g, 2q), (g, 2q+1) each lane holds, transposed. */
DEVICE uint32_t mat_transpose(uint32_t v)
{
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
    return d;
}
/* d += a . b, a [16][16] row major, b [16][8]: a0 = (g, 2q..), a1 = (g+8, 2q..), a2 = (g, 2q+8..),
 * a3 = (g+8, 2q+8..); b0 = (2q.., g), b1 = (2q+8.., g); d0, d1 = (g, 2q..), d2, d3 = (g+8, 2q..).
 */
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* The same with a [16][32] of unsigned, b [32][8] of signed bytes: a0 = (g, 4q..4q+3), a1 = (g+8,
 * 4q..), a2 = (g, 4q+16..), a3 = (g+8, 4q+16..); b0 = (4q.., g), b1 = (4q+16.., g). */
DEVICE void mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* a signed too. */
DEVICE void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* d = c + a . b, one c for all elements: where a sum begins, without writing it to d first. */
DEVICE void mma_s8_from(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                        int32_t c)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%10,%10,%10,%10};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c));
}
