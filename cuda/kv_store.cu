/* kv_store.cu - the end of a q/k/v product that came in parts: norms, rotation, pages.
 *
 *   product [rows][(n_heads + 2 n_kv_heads) head_dim] fp32, heads q | k | v, biases added
 *   q, k: head / sqrt(mean head^2 + epsilon) * gain, then pairs rotated by position * inv_freq
 *   q -> qkv->q bf16      k, v -> page of the position, BF16, F16 or I8 (kv_layout.h)
 *   I8: scale = max |feature| / 127, code = round(feature * (127 / max)), as the CPU's ops_kv_put
 *
 * A row of position -1 leaves no keys and no values; its q is 0. A page that is not there (given
 * back, or never taken) is not written.
 *
 * Bytes: 4 read and 2 written an element (8B model, a row: 24 KB + 12 KB): limited by latency for
 * few rows, by memory for many.
 *
 *   block = (8 heads, row): thread t makes cos and sin of pairs t, t + 256 .. once;
 *           then warp w takes head 8 blockIdx.x + w, lanes stride over its features in shared
 * memory */
#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/rope.cuh"
#include "host/backend/kv_layout.h"

enum {
    /* 8 heads a block: rotations are made once for 8 heads, and one row of 48 heads still gives 6
     * blocks. */
    HEADS = 8,
    THREADS = 32 * HEADS,
};

struct kv_args {
    const float *product;
    int64_t stride;
    struct qkv_out qkv;
};
/* Floats of shared memory: [HEADS][head_dim] heads, then [rotary_dim / 2] rotations of two floats.
 */
static_assert(sizeof(struct rotation) == 2 * sizeof(float), "rotations lie behind the heads");

/* ---- one head, one warp -----------------------------------------------------------------------
 */

/* To shared memory; the sum of squares in every lane. */
DEVICE float head_load(float *head, const float *from, int dim)
{
    float sum = 0.0f;
    for (int i = lane_id(); i < dim; i += 32) {
        head[i] = from[i];
        sum += head[i] * head[i];
    }
    for (int mask = 16; mask > 0; mask /= 2)
        sum += shfl_xor_f32(sum, mask);
    return sum;
}
/* Each lane its own features. */
DEVICE void head_norm(float *head, const float *gain, int dim, float sum, float epsilon)
{
    const float inverse = 1.0f / sqrtf(sum / (float)dim + epsilon);
    for (int i = lane_id(); i < dim; i += 32)
        head[i] = head[i] * inverse * gain[i];
}
/* Pairs (i, i + half), or (2i, 2i + 1); a pair has one lane. */
DEVICE void head_rotate(float *head, const struct rotation *rotations, int half, bool interleaved)
{
    for (int i = lane_id(); i < half; i += 32) {
        const int low = interleaved ? 2 * i : i, high = interleaved ? 2 * i + 1 : i + half;
        const float a = head[low], b = head[high];
        head[low] = rotated_low(a, b, rotations[i]);
        head[high] = rotated_high(a, b, rotations[i]);
    }
}
DEVICE float greater(float a, float b)
{
    return a > b || a != a ? a : b; /* a NaN stays */
}
/* Of a feature's bits; what is no number gives any code. */
DEVICE uint32_t code_of(uint32_t feature, float inverse)
{
    const float code = fminf(fmaxf(rintf(f32_of_bits(feature) * inverse), -127.0f), 127.0f);
    return (uint32_t)(int)code & 0xffu;
}
/* Codes at `to`, their scale at `scale`; not finite: zeros, and NaN. */
DEVICE void head_quantize(uint8_t *to, float *scale, const float *head, int dim)
{
    float most = 0.0f;
    for (int i = lane_id(); i < dim; i += 32)
        most = greater(fabsf(head[i]), most);
    for (int mask = 16; mask > 0; mask /= 2)
        most = greater(shfl_xor_f32(most, mask), most);
    const bool finite = most <= 0x1.fffffep127f;
    const bool any = finite && most >= KV_TINY;
    const float inverse = any ? 127.0f / most : 0.0f;
    if (lane_id() == 0)
        *scale = any ? most / 127.0f : finite ? 0.0f : f32_of_bits(0x7fc00000u);
    if (dim % 4 != 0) {
        for (int i = lane_id(); i < dim; i += 32)
            to[i] = any ? (uint8_t)code_of(f32_bits(head[i]), inverse) : 0;
        return;
    }
    for (int i = lane_id(); i < dim / 4; i += 32) {
        const uint4 v = ld128(head + 4 * i);
        const uint32_t low = code_of(v.x, inverse) | code_of(v.y, inverse) << 8;
        const uint32_t high = code_of(v.z, inverse) | code_of(v.w, inverse) << 8;
        ((uint32_t *)(void *)to)[i] = any ? low | high << 16 : 0;
    }
}
DEVICE void head_store(uint16_t *to, const float *head, int dim, enum dtype dtype)
{
    const bool bf16 = dtype == DTYPE_BF16;
    if (((uintptr_t)to | (uintptr_t)dim * 2) % 4 != 0) {
        for (int i = lane_id(); i < dim; i += 32)
            to[i] = bf16 ? bf16_of(head[i]) : f16_of(head[i]);
        return;
    }
    uint32_t *pairs = (uint32_t *)to;
    for (int i = lane_id(); i < dim / 2; i += 32)
        pairs[i] =
            bf16 ? bf16_pair(head[2 * i], head[2 * i + 1]) : f16_pair(head[2 * i], head[2 * i + 1]);
}

/* Where head `head` of the row goes: q's row, or the block of a page; NULL: nowhere. */
DEVICE uint8_t *destination(const struct qkv_out &o, int row, int head, int position)
{
    if (head < o.n_heads)
        return (uint8_t *)(o.q + (int64_t)row * o.q_stride + (int64_t)head * o.head_dim);
    if (position < 0)
        return NULL;
    const int page = o.pages[(int64_t)o.row_seq[row] * o.pages_stride + position / PAGE_TOKENS];
    if (page < 0 || page >= o.n_pages)
        return NULL;
    const bool value = head >= o.n_heads + o.n_kv_heads;
    const int kv_head = head - o.n_heads - (value ? o.n_kv_heads : 0);
    uint8_t *pages = (uint8_t *)(value ? o.v_pages : o.k_pages);
    return pages +
           kv_block_index(o.n_kv_heads, page, 0, kv_head) * kv_block_bytes(o.kv_dtype, o.head_dim);
}

/* ---- kernel -----------------------------------------------------------------------------------
 */

KERNEL(THREADS, 1) kv_store_kernel(const __grid_constant__ struct kv_args a)
{
    SHARED(shared);
    const struct qkv_out &o = a.qkv;
    const int dim = o.head_dim, row = (int)blockIdx.y, half = o.rotary_dim / 2;
    const int n_rotated = o.n_heads + o.n_kv_heads, first = (int)blockIdx.x * HEADS;
    float *heads = (float *)shared;
    struct rotation *rotations = (struct rotation *)(heads + HEADS * dim);
    griddep_wait();
    griddep_launch();
    const int position = o.positions[row];
    const bool rotates = o.inv_freq != NULL && position >= 0;
    if (rotates && first < n_rotated) {
        const float *inv_freq =
            o.inv_freq + (o.rope_variant != NULL ? o.rope_variant[row] * half : 0);
        for (int i = (int)threadIdx.x; i < half; i += THREADS)
            rotations[i] = rotation_of(position, inv_freq[i], o.rope_scale);
    }
    block_sync();
    const int head = first + warp_id();
    if (head >= n_rotated + o.n_kv_heads)
        return;
    uint8_t *to = destination(o, row, head, position);
    if (to == NULL)
        return;
    float *mine = heads + warp_id() * dim;
    const float sum =
        head_load(mine, a.product + (int64_t)row * a.stride + (int64_t)head * dim, dim);
    const float *gain = head < o.n_heads ? o.q_gain : head < n_rotated ? o.k_gain : NULL;
    if (gain != NULL)
        head_norm(mine, gain, dim, sum, o.epsilon);
    if (position < 0) /* padding: whatever the product holds, q is finite */
        for (int i = lane_id(); i < dim; i += 32)
            mine[i] = 0.0f;
    warp_sync();
    if (rotates && head < n_rotated)
        head_rotate(mine, rotations, half, o.interleaved);
    warp_sync();
    const int token = position % PAGE_TOKENS;
    if (head < o.n_heads)
        head_store((uint16_t *)(void *)to, mine, dim, DTYPE_BF16);
    else if (o.kv_dtype == DTYPE_I8)
        head_quantize(to + token * dim, (float *)(void *)(to + PAGE_TOKENS * dim) + token, mine,
                      dim);
    else
        head_store((uint16_t *)(void *)to + token * dim, mine, dim, o.kv_dtype);
}

cudaError_t kv_store(const struct launch *launch, const float *product, int64_t stride,
                     int32_t rows, const struct qkv_out *qkv)
{
    if (rows == 0)
        return cudaSuccess;
    struct kv_args a;
    a.product = product;
    a.stride = stride;
    a.qkv = *qkv;
    if (a.qkv.inv_freq == NULL)
        a.qkv.rotary_dim = 0;
    const int32_t n_heads = qkv->n_heads + 2 * qkv->n_kv_heads;
    const dim3 grid((unsigned)((n_heads + HEADS - 1) / HEADS), (unsigned)rows);
    const size_t bytes = (size_t)(HEADS * qkv->head_dim + a.qkv.rotary_dim) * sizeof(float);
    return LAUNCH((kv_store_kernel), grid, THREADS, bytes, launch->stream,
                  launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
