/* wgmma.cuh - the wrappers of cuda/wgmma.cuh with host semantics; found before it by include order.
 * The formulas are there.
 *
 * A product is computed by the wait that covers its commit, by a warpgroup's 128 threads together:
 * shared memory is read then, not at the issue. Until then the accumulators hold NaN (all bits set)
 * and their values lie here; what somebody writes into them meanwhile, or into the A registers, is
 * a failure. So is a product whose registers came from elsewhere without a wgmma_fence since the
 * last commit. Not seen: a missing async_fence. */
#pragma once
#include "cuda/device.cuh"

enum wgmma_swizzle { WGMMA_PLAIN = 0, WGMMA_128B = 1, WGMMA_64B = 2, WGMMA_32B = 3 };

DEVICE uint64_t wgmma_desc(const void *start, int leading_bytes, int stride_bytes,
                           enum wgmma_swizzle swizzle, HOSTCUDA_HERE)
{
    if (leading_bytes % 16 != 0 || stride_bytes % 16 != 0 || leading_bytes >> 18 != 0 ||
        stride_bytes >> 18 != 0)
        hostcuda_fail(HOSTCUDA_THERE,
                      "wgmma_desc: strides %d and %d: not multiples of 16 below 256 KB",
                      leading_bytes, stride_bytes);
    const uint32_t address = shared_address(start, HOSTCUDA_THERE);
    if (address % 16 != 0)
        hostcuda_fail(HOSTCUDA_THERE, "wgmma_desc: shared memory + %u is not aligned to 16",
                      address);
    return (uint64_t)((address & 0x3ffffu) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | (uint64_t)swizzle << 62;
}
DEVICE uint64_t wgmma_desc_at(uint64_t desc, int bytes)
{
    return desc + (uint64_t)(bytes >> 4);
}

/* The race detector sees what kernels do, not the accounts kept here: no library function that it
 * watches, no memory from the heap. */
#define WGMMA_UNSEEN inline __attribute__((no_sanitize("thread"), noinline))

enum wgmma_form { WGMMA_FORM_F16, WGMMA_FORM_BF16, WGMMA_FORM_U8S8 };
/* One thread's part of a product, and where it came from. */
struct wgmma_issued {
    uint32_t *d;       /* [n / 2] */
    const uint32_t *a; /* [4], NULL: a_desc */
    uint32_t a_bits[4];
    uint64_t a_desc, b_desc;
    const char *file;
    int line, n;
    enum wgmma_form form;
    bool trans_b, accumulate;
};
/* Accumulators and, while products are on their way, their values. An entry belongs to a launch. */
struct wgmma_pending {
    const void *d;
    long launch;
    int n_products;
    uint32_t values[128];
};
enum : uint32_t { WGMMA_POISON = 0xffffffffu, WGMMA_PENDING_MAX = 1u << 16, WGMMA_BLOCKS = 4096 };
inline struct wgmma_pending wgmma_pending_table[WGMMA_PENDING_MAX]; /* open addresses */
/* By block (modulo: those that run together differ) and thread: the launch + 1 of a wgmma_fence
 * that no commit has used up. */
inline long wgmma_fences[WGMMA_BLOCKS][1024];

WGMMA_UNSEEN void wgmma_fill(void *to, int value, size_t bytes)
{
    asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
}
WGMMA_UNSEEN void wgmma_move(void *to, const void *from, size_t bytes)
{
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}
WGMMA_UNSEEN struct wgmma_pending *wgmma_find(const void *d, HOSTCUDA_AT)
{
    const long launch = hostcuda_calls() + 1; /* a kernel runs between two calls */
    const uint64_t hash = (uint64_t)(uintptr_t)d * 0x9e3779b97f4a7c15u >> 48;
    for (uint32_t i = 0; i < WGMMA_PENDING_MAX; i++) {
        struct wgmma_pending *p = wgmma_pending_table + (hash + i) % WGMMA_PENDING_MAX;
        if (p->launch != launch) {
            p->launch = launch;
            p->d = d;
            p->n_products = 0;
        }
        if (p->d == d)
            return p;
    }
    hostcuda_fail(file, line, "wgmma: more than %u accumulators in a launch", WGMMA_PENDING_MAX);
}
WGMMA_UNSEEN long *wgmma_fence_at()
{
    const uint64_t block =
        blockIdx.x + (uint64_t)gridDim.x * (blockIdx.y + (uint64_t)gridDim.y * blockIdx.z);
    return &wgmma_fences[block % WGMMA_BLOCKS][threadIdx.x];
}
WGMMA_UNSEEN void wgmma_set_fence(bool fenced)
{
    *wgmma_fence_at() = fenced ? hostcuda_calls() + 1 : 0;
}
WGMMA_UNSEEN bool wgmma_fenced()
{
    return *wgmma_fence_at() == hostcuda_calls() + 1;
}

/* ---- operands in shared memory ------------------------------------------------------------------
 */

/* The byte of shared memory where element (mn, k) of a matrix starts. */
WGMMA_UNSEEN uint32_t wgmma_address(uint64_t desc, bool mn_major, int e, int mn, int k)
{
    static const int row_bytes[4] = { 16, 128, 64, 32 };
    const uint32_t start = (uint32_t)(desc & 0x3fffu) << 4;
    int leading = (int)(desc >> 16 & 0x3fffu) << 4, stride = (int)(desc >> 32 & 0x3fffu) << 4;
    const int swizzle = (int)(desc >> 62), r = row_bytes[swizzle], t = 16 / e;
    int offset;
    if (mn_major) {
        if (swizzle == WGMMA_PLAIN) {
            const int other = leading;
            leading = stride, stride = other;
        }
        offset = k % 8 * r + k / 8 * stride + mn % (r / e) * e + mn / (r / e) * leading;
    } else if (swizzle == WGMMA_PLAIN) {
        offset = mn % 8 * 16 + mn / 8 * stride + k / t * leading + k % t * e;
    } else {
        offset = mn % 8 * r + mn / 8 * stride + k * e;
    }
    const uint32_t at = start + (uint32_t)offset;
    return at ^ (at >> 3 & (uint32_t)(r - 16));
}
WGMMA_UNSEEN float wgmma_value(const struct wgmma_issued &p, uint32_t bits)
{
    return p.form == WGMMA_FORM_F16 ? f32_of_f16((uint16_t)bits) : f32_of_bf16((uint16_t)bits);
}
/* to[mn][k]: n rows of the operand that `desc` names. */
WGMMA_UNSEEN void wgmma_operand(const struct wgmma_issued &p, uint64_t desc, bool mn_major, int n,
                                float *to)
{
    const int e = p.form == WGMMA_FORM_U8S8 ? 1 : 2, depth = 32 / e;
    if ((desc >> 49 & 7u) != 0)
        hostcuda_fail(p.file, p.line, "wgmma: base offset %d in a descriptor",
                      (int)(desc >> 49 & 7u));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < depth; k++) {
            const uint32_t at = wgmma_address(desc, mn_major, e, i, k);
            if (at + (uint32_t)e > hostcuda_shared_bytes())
                hostcuda_fail(p.file, p.line,
                              "wgmma: element (%d, %d) is at %u of %zu bytes of shared memory", i,
                              k, at, hostcuda_shared_bytes());
            const unsigned char *from = hostcuda_shared() + at;
            if (at % 16 == 0)
                HOSTCUDA_TOUCH16(from);
            to[i * depth + k] =
                e == 1 ? (float)(int8_t)from[0] : wgmma_value(p, from[0] | (uint32_t)from[1] << 8);
        }
}
/* to[64][k] from the fragments of 128 threads. */
WGMMA_UNSEEN void wgmma_fragments(struct wgmma_issued *const *p, float *to)
{
    const bool bytes = p[0]->form == WGMMA_FORM_U8S8;
    const int depth = bytes ? 32 : 16, per = bytes ? 4 : 2;
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < per; j++) {
                const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i & 1),
                          k = t % 4 * per + depth / 2 * (i >> 1) + j;
                const uint32_t bits = p[t]->a_bits[i] >> 32 / per * j;
                to[row * depth + k] = bytes ? (float)(uint8_t)bits : wgmma_value(*p[t], bits);
            }
}

/* ---- products -----------------------------------------------------------------------------------
 */

WGMMA_UNSEEN void wgmma_check_same(struct wgmma_issued *const *p)
{
    for (int t = 0; t < 128; t++) {
        if (p[t]->b_desc != p[0]->b_desc || (p[t]->a == NULL && p[t]->a_desc != p[0]->a_desc) ||
            p[t]->accumulate != p[0]->accumulate)
            hostcuda_fail(p[t]->file, p[t]->line,
                          "wgmma: thread %d of the warpgroup has other descriptors than thread 0",
                          t);
        for (int i = 0; p[t]->a != NULL && i < 4; i++)
            if (p[t]->a[i] != p[t]->a_bits[i])
                hostcuda_fail(p[t]->file, p[t]->line,
                              "wgmma: a[%d] of thread %d has changed before the wait", i, t);
    }
}
/* The last product of an accumulator: its values arrive. */
WGMMA_UNSEEN void wgmma_land(const struct wgmma_issued &p, int thread)
{
    struct wgmma_pending *pending = wgmma_find(p.d, p.file, p.line);
    if (--pending->n_products > 0)
        return;
    for (int i = 0; i < p.n / 2; i++) {
        if (p.d[i] != WGMMA_POISON)
            hostcuda_fail(p.file, p.line, "wgmma: d[%d] of thread %d was written before the wait",
                          i, thread);
        p.d[i] = pending->values[i];
    }
}
WGMMA_UNSEEN void wgmma_compute(void *const *deposits, int threads)
{
    struct wgmma_issued *const *p = (struct wgmma_issued *const *)deposits;
    const bool bytes = p[0]->form == WGMMA_FORM_U8S8;
    const int depth = bytes ? 32 : 16, n = p[0]->n;
    (void)threads;
    wgmma_check_same(p);
    static float a[64 * 32], b[256 * 32]; /* one host thread */
    if (p[0]->a == NULL)
        wgmma_operand(*p[0], p[0]->a_desc, false, 64, a);
    else
        wgmma_fragments(p, a);
    wgmma_operand(*p[0], p[0]->b_desc, p[0]->trans_b, n, b);
    for (int t = 0; t < 128; t++) {
        uint32_t *values = wgmma_find(p[t]->d, p[t]->file, p[t]->line)->values;
        for (int i = 0; i < n / 2; i++) {
            const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i >> 1 & 1),
                      col = 8 * (i >> 2) + t % 4 * 2 + (i & 1);
            const float *x = a + row * depth, *y = b + col * depth;
            if (bytes) {
                int32_t sum = p[t]->accumulate ? (int32_t)values[i] : 0;
                for (int k = 0; k < depth; k++)
                    sum += (int32_t)x[k] * (int32_t)y[k];
                values[i] = (uint32_t)sum;
            } else {
                values[i] = f32_bits(
                    hostcuda_dot(x, y, depth, p[t]->accumulate ? f32_of_bits(values[i]) : 0.0f));
            }
        }
        wgmma_land(*p[t], t);
    }
}
/* For the race detector: a warp that issues a product reads all of its operands, from then on, and
 * knows of the other warps only what barriers tell it. Its lane 0 reads, which is also who gives
 * memory away after wgmma_wait: that instruction is the warp's. */
WGMMA_UNSEEN void wgmma_touch(const struct wgmma_issued &p, uint64_t desc, bool mn_major, int n)
{
#if defined(__SANITIZE_THREAD__)
    const int e = p.form == WGMMA_FORM_U8S8 ? 1 : 2, depth = 32 / e, per = 16 / e;
    for (int c = 0; c < 2 * n && threadIdx.x % 32 == 0; c++) { /* chunks of 16 bytes */
        const uint32_t at = mn_major ? wgmma_address(desc, true, e, c / depth * per, c % depth)
                                     : wgmma_address(desc, false, e, c / 2, c % 2 * per);
        if (at + 16 <= hostcuda_shared_bytes())
            HOSTCUDA_TOUCH16(hostcuda_shared() + at);
    }
#else
    (void)p, (void)desc, (void)mn_major, (void)n;
#endif
}
WGMMA_UNSEEN void wgmma_issue(struct wgmma_issued &p, uint32_t *d, const uint32_t *a, HOSTCUDA_AT)
{
    struct wgmma_pending *pending = wgmma_find(d, file, line);
    const bool first = pending->n_products == 0;
    if ((first || a != NULL) && !wgmma_fenced())
        hostcuda_fail(file, line, "wgmma: no wgmma_fence since its registers were written");
    p.d = d;
    p.a = a;
    for (int i = 0; a != NULL && i < 4; i++)
        p.a_bits[i] = a[i];
    p.file = file;
    p.line = line;
    if (first) {
        wgmma_move(pending->values, d, (size_t)p.n / 2 * 4);
        wgmma_fill(d, 0xff, (size_t)p.n / 2 * 4);
    }
    pending->n_products++;
    if (a == NULL)
        wgmma_touch(p, p.a_desc, false, 64);
    wgmma_touch(p, p.b_desc, p.trans_b, p.n);
    hostcuda_group_issue(128, &p, sizeof p, wgmma_compute, "wgmma", file, line);
}

DEVICE void wgmma_fence()
{
    wgmma_set_fence(true);
}
DEVICE void wgmma_commit(HOSTCUDA_HERE)
{
    wgmma_set_fence(false);
    hostcuda_group_commit(128, HOSTCUDA_THERE);
}
template <int N> DEVICE void wgmma_wait(HOSTCUDA_HERE)
{
    hostcuda_group_wait(128, N, HOSTCUDA_THERE);
}
template <int N> DEVICE void wgmma_landed(float (&)[N])
{
}
template <int N> DEVICE void wgmma_landed(int32_t (&)[N])
{
}

template <int N>
constexpr bool wgmma_n = N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256;

template <int N>
inline void wgmma_registers(void *d, const uint32_t *a, uint64_t b_desc, enum wgmma_form form,
                            bool trans_b, bool accumulate, HOSTCUDA_AT)
{
    static_assert(wgmma_n<N>, "sizes here");
    struct wgmma_issued p = {};
    p.b_desc = b_desc;
    p.n = N;
    p.form = form;
    p.trans_b = trans_b;
    p.accumulate = accumulate;
    wgmma_issue(p, (uint32_t *)d, a, file, line);
}
template <int N>
DEVICE void wgmma_f16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, bool accumulate,
                      HOSTCUDA_HERE)
{
    wgmma_registers<N>(d, a, b_desc, WGMMA_FORM_F16, false, accumulate, HOSTCUDA_THERE);
}
template <int N, bool TRANS_B>
DEVICE void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, bool accumulate,
                       HOSTCUDA_HERE)
{
    wgmma_registers<N>(d, a, b_desc, WGMMA_FORM_BF16, TRANS_B, accumulate, HOSTCUDA_THERE);
}
template <int N>
DEVICE void wgmma_bf16_ss(float (&d)[N / 2], uint64_t a_desc, uint64_t b_desc, bool accumulate,
                          HOSTCUDA_HERE)
{
    static_assert(wgmma_n<N>, "sizes here");
    struct wgmma_issued p = {};
    p.a_desc = a_desc;
    p.b_desc = b_desc;
    p.n = N;
    p.form = WGMMA_FORM_BF16;
    p.accumulate = accumulate;
    wgmma_issue(p, (uint32_t *)(void *)d, NULL, HOSTCUDA_THERE);
}
template <int N>
DEVICE void wgmma_u8s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc,
                       bool accumulate, HOSTCUDA_HERE)
{
    wgmma_registers<N>(d, a, b_desc, WGMMA_FORM_U8S8, false, accumulate, HOSTCUDA_THERE);
}
