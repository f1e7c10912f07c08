/* norm.cu - rows between products: norm, and the form in which the next product reads them.
 *
 *   prepare_f16   y[r][i] = norm(x)[r][i] / scale[r]     fp16, scale a power of two, 0 up to 128 k
 *   prepare_s8    y[r][i] = round(norm(x) / scale[c])    int8, c = chunk of 128, permuted, with
 * sums prepare_bf16  y[r][i] = norm(x)[r][i]                bf16 gate_combine  y[r][i] =
 * act(x[r][i]) * x[r][n + i]   fp32 -> bf16 post_combine  y[r][i] = or += cap(scale * norm(x)) fp32
 * -> bf16 or fp32; y may be x
 *
 *   norm: (x - mean) / sqrt(mean (x - mean)^2 + epsilon) * gain + bias; RMS has mean 0; no gain: x
 *
 * Bytes: a row is read once and written once (prepare_f16 of 4096: 8 KB + 8 KB), gains come from
 * L2: limited by latency for one row, by memory for many. So: one block a row, the row in shared
 * memory between the sums and the writes (a thread reads back what it copied: no barrier for that),
 * 16 bytes an access, at most three barriers.
 *
 *        thread     0      1      2  ...  T-1 |   0      1  ...
 *        columns  0..7  8..15 16..23          | 8T ..                chunk c = thread + i * T
 *
 * T a multiple of 32, so that 16 neighbours hold one chunk of 128 and 4 hold the 32 of a sum. */
#include "cuda/device.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    THREADS_MAX = 1024,
    VALUES = 8, /* of a chunk: 16 bytes of bf16, one 8-byte store of codes */
    /* A thread has one chunk up to 4096 columns, then two, because a barrier of 1024 threads costs
     * more than a second chunk; all 1024 threads only where rows are wider than 8192. */
    THREADS_FEW = 512,
    GATE_THREADS = 256,
    /* One sum or maximum of a block: a float a warp. Each reduction has its own, which saves the
     * barrier before the next one. */
    SLOTS = 32,
    REDUCTIONS = 3,
};
static_assert(F64_UNIT_COLS % VALUES == 0, "padding is whole chunks");

/* ---- a block's sums ---------------------------------------------------------------------------
 */

DEVICE float block_sum(float v, float *slots, int n_warps)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v += shfl_xor_f32(v, mask);
    if (lane_id() == 0)
        slots[warp_id()] = v;
    block_sync();
    v = lane_id() < n_warps ? slots[lane_id()] : 0.0f;
    for (int mask = 16; mask > 0; mask /= 2)
        v += shfl_xor_f32(v, mask);
    return v;
}
/* of values >= 0 */
DEVICE float block_max(float v, float *slots, int n_warps)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v = fmaxf(v, shfl_xor_f32(v, mask));
    if (lane_id() == 0)
        slots[warp_id()] = v;
    block_sync();
    v = lane_id() < n_warps ? slots[lane_id()] : 0.0f;
    for (int mask = 16; mask > 0; mask /= 2)
        v = fmaxf(v, shfl_xor_f32(v, mask));
    return v;
}

/* ---- eight columns ----------------------------------------------------------------------------
 */

/* x[col .. col + 8) of a row of n to shared memory, zeros behind it; there after cp_async_wait. */
DEVICE void copy_bf16(void *to, const uint16_t *x, int col, int n, bool aligned)
{
    if (aligned && (col + VALUES <= n || col >= n)) {
        cp_async16(to, col < n ? x + col : x, col < n);
        return;
    }
    uint32_t w[4];
    for (int k = 0; k < 4; k++) {
        const int at = col + 2 * k;
        const uint32_t low = at < n ? x[at] : 0u, high = at + 1 < n ? x[at + 1] : 0u;
        w[k] = low | high << 16;
    }
    st128(to, make_uint4(w[0], w[1], w[2], w[3]));
}
DEVICE void copy_f32(float *to, const float *x, int col, int n, bool aligned)
{
    if (aligned && (col + VALUES <= n || col >= n)) {
        cp_async16(to, col < n ? x + col : x, col < n);
        cp_async16(to + 4, col < n ? x + col + 4 : x, col < n);
        return;
    }
    for (int k = 0; k < VALUES; k++)
        to[k] = col + k < n ? x[col + k] : 0.0f;
}
DEVICE void widen(float (&v)[VALUES], uint4 raw)
{
    const uint32_t w[4] = { raw.x, raw.y, raw.z, raw.w };
    for (int k = 0; k < 4; k++) {
        v[2 * k] = bf16_low(w[k]);
        v[2 * k + 1] = bf16_high(w[k]);
    }
}
DEVICE void load_f32(float (&v)[VALUES], const float *x, int col, int n, bool aligned)
{
    if (aligned && col + VALUES <= n) {
        const uint4 a = ld128(x + col), b = ld128(x + col + 4);
        const uint32_t w[VALUES] = { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w };
        for (int k = 0; k < VALUES; k++)
            v[k] = f32_of_bits(w[k]);
        return;
    }
    for (int k = 0; k < VALUES; k++)
        v[k] = col + k < n ? x[col + k] : 0.0f;
}

struct stats {
    float mean, inverse;
};
/* sum of (x - mean)^2 over the columns that exist */
DEVICE float squares(const float (&v)[VALUES], int col, int n, float mean)
{
    float sum = 0.0f;
    for (int k = 0; k < VALUES; k++) {
        const float d = col + k < n ? v[k] - mean : 0.0f;
        sum += d * d;
    }
    return sum;
}
DEVICE float inverse_of(float sum, int n, float epsilon)
{
    return 1.0f / sqrtf(sum / (float)n + epsilon);
}
/* In place; columns behind n become 0. `aligned`: gain and bias stand at 16 bytes. */
DEVICE void norm_values(float (&v)[VALUES], int col, int n, const struct norm_in &norm,
                        struct stats s, bool aligned)
{
    if (norm.gain == NULL)
        return;
    float gain[VALUES];
    load_f32(gain, norm.gain, col, n, aligned);
    for (int k = 0; k < VALUES; k++)
        v[k] = (v[k] - s.mean) * s.inverse * gain[k];
    if (norm.bias == NULL)
        return;
    load_f32(gain, norm.bias, col, n, aligned);
    for (int k = 0; k < VALUES; k++)
        v[k] += gain[k];
}

/* ---- prepare ----------------------------------------------------------------------------------
 */

enum form { FORM_F16, FORM_S8, FORM_BF16 };
struct prepare_args {
    struct prepare_op op;
    int32_t threads, padded;
    int32_t width; /* columns in shared memory: whole chunks for every thread */
    bool aligned_x, aligned_y, aligned_norm;
};

DEVICE struct stats row_stats(const struct prepare_args &a, const uint4 *chunks, float *slots)
{
    const int n = a.op.n_in, n_warps = a.threads / 32, n_chunks = a.width / VALUES;
    struct stats s = { 0.0f, 1.0f };
    if (a.op.norm.gain == NULL)
        return s;
    float v[VALUES], sum = 0.0f;
    if (a.op.norm.layer) {
        for (int c = (int)threadIdx.x; c < n_chunks; c += a.threads) {
            widen(v, chunks[c]);
            for (int k = 0; k < VALUES; k++)
                sum += v[k];
        }
        s.mean = block_sum(sum, slots, n_warps) / (float)n;
        sum = 0.0f;
    }
    for (int c = (int)threadIdx.x; c < n_chunks; c += a.threads) {
        widen(v, chunks[c]);
        sum += squares(v, c * VALUES, n, s.mean);
    }
    s.inverse = inverse_of(block_sum(sum, slots + SLOTS, n_warps), n, a.op.norm.epsilon);
    return s;
}

/* 2^(e - 8) for a maximum in [2^e, 2^(e+1)). Below 2^-118 it stays where 1 / scale is a number: the
 * row is then below 256, and still exact but for what fp16 cannot hold. */
DEVICE float power_scale(float max)
{
    int e = (int)(f32_bits(max) >> 23) - 127;
    e = e < -118 ? -118 : e > 127 ? 127 : e;
    return max > 0.0f ? f32_of_bits((uint32_t)(e - 8 + 127) << 23) : 1.0f;
}
DEVICE void store_f16(const struct prepare_args &a, int row, int col, const float (&v)[VALUES],
                      float inverse)
{
    uint16_t *y = (uint16_t *)a.op.y + (int64_t)row * a.op.y_stride + col;
    st128(y, make_uint4(f16_pair(v[0] * inverse, v[1] * inverse),
                        f16_pair(v[2] * inverse, v[3] * inverse),
                        f16_pair(v[4] * inverse, v[5] * inverse),
                        f16_pair(v[6] * inverse, v[7] * inverse)));
}
DEVICE void store_bf16(uint16_t *y, int col, int n, const float (&v)[VALUES], bool aligned)
{
    if (aligned && col + VALUES <= n) {
        st128(y + col, make_uint4(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]),
                                  bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7])));
        return;
    }
    for (int k = 0; k < VALUES; k++)
        if (col + k < n)
            y[col + k] = bf16_of(v[k]);
}

DEVICE uint32_t code_of(float v, float inverse)
{
    const float r = fminf(fmaxf(rintf(v * inverse), -127.0f), 127.0f);
    return (uint32_t)(int)r & 0xffu;
}
/* Codes, chunk scales and sums of 32. Even lanes hold k = 0..7 of a 16, odd ones 8..15; the pair
 * swaps halves, so that each writes two words of bytes k = 2q, 2q+8, 2q+1, 2q+9. */
DEVICE void store_s8(const struct prepare_args &a, int row, int col, const float (&v)[VALUES])
{
    float max = 0.0f;
    for (int k = 0; k < VALUES; k++)
        max = fmaxf(max, fabsf(v[k]));
    for (int mask = 8; mask > 0; mask /= 2)
        max = fmaxf(max, shfl_xor_f32(max, mask));
    const float inverse = max > 0.0f ? 127.0f / max : 0.0f;
    uint32_t w[2] = { 0u, 0u };
    for (int k = 0; k < VALUES; k++)
        w[k / 4] |= code_of(v[k], inverse) << (k % 4 * 8);
    int32_t sum = dot4_ss(w[0], 0x01010101u, dot4_ss(w[1], 0x01010101u, 0));
    sum += (int32_t)shfl_xor((uint32_t)sum, 1);
    sum += (int32_t)shfl_xor((uint32_t)sum, 2);
    const bool odd = (lane_id() & 1) != 0;
    const uint32_t other = shfl_xor(odd ? w[0] : w[1], 1);
    if (col >= a.padded)
        return;
    const uint32_t low = odd ? other : w[0], high = odd ? w[1] : other;
    uint32_t *y = (uint32_t *)((uint8_t *)a.op.y + (int64_t)row * a.op.y_stride + col);
    y[0] = byte_permute(low, high, 0x5140u);
    y[1] = byte_permute(low, high, 0x7362u);
    if (col % 32 == 0)
        a.op.sum[(int64_t)row * (a.padded / 32) + col / 32] = sum;
    if (col % F64_UNIT_COLS == 0)
        a.op.scale[(int64_t)row * (a.padded / F64_UNIT_COLS) + col / F64_UNIT_COLS] = max / 127.0f;
}

/* The power of two that goes with the row: all normed values before the first is written. */
DEVICE float row_scale(const struct prepare_args &a, const uint4 *chunks, struct stats s,
                       float *slots)
{
    float v[VALUES], max = 0.0f;
    for (int c = (int)threadIdx.x; c < a.width / VALUES; c += a.threads) {
        widen(v, chunks[c]);
        norm_values(v, c * VALUES, a.op.n_in, a.op.norm, s, a.aligned_norm);
        for (int k = 0; k < VALUES; k++)
            max = fmaxf(max, fabsf(v[k]));
    }
    return power_scale(block_max(max, slots, a.threads / 32));
}

template <enum form FORM>
KERNEL(THREADS_MAX, 1)
prepare_kernel(const __grid_constant__ struct prepare_args a)
{
    SHARED(shared);
    float *slots = (float *)shared; /* [REDUCTIONS][SLOTS] */
    uint4 *chunks = (uint4 *)(slots + REDUCTIONS * SLOTS);
    const int row = (int)blockIdx.x, n = a.op.n_in;
    griddep_wait();
    griddep_launch();
    int from = row;
    if (a.op.from != NULL) {
        from = a.op.from[row];
        if (from < 0)
            return;
        from /= a.op.divisor;
    }
    const uint16_t *x = (const uint16_t *)a.op.x + (int64_t)from * a.op.x_stride;
    for (int c = (int)threadIdx.x; c < a.width / VALUES; c += a.threads)
        copy_bf16(&chunks[c], x, c * VALUES, n, a.aligned_x);
    cp_async_commit();
    cp_async_wait<0>();
    const struct stats s = row_stats(a, chunks, slots);
    float scale = 1.0f;
    if constexpr (FORM == FORM_F16) {
        scale = row_scale(a, chunks, s, slots + 2 * SLOTS);
        if (threadIdx.x == 0)
            a.op.scale[row] = scale;
    }
    for (int c = (int)threadIdx.x; c < a.width / VALUES; c += a.threads) {
        float v[VALUES];
        widen(v, chunks[c]);
        norm_values(v, c * VALUES, n, a.op.norm, s, a.aligned_norm);
        if constexpr (FORM == FORM_S8)
            store_s8(a, row, c * VALUES, v);
        else if constexpr (FORM == FORM_BF16)
            store_bf16((uint16_t *)a.op.y + (int64_t)row * a.op.y_stride, c * VALUES, n, v,
                       a.aligned_y);
        else if (c * VALUES < a.padded)
            store_f16(a, row, c * VALUES, v, 1.0f / scale);
    }
}

/* ---- post_combine -----------------------------------------------------------------------------
 */

struct post_args {
    const float *x;
    int64_t x_stride;
    int32_t n, threads, width;
    struct norm_in norm;
    struct gemm_out out;
    bool aligned_x, aligned_y, aligned_norm;
};
DEVICE void post_store(const struct post_args &a, int row, int col, const float (&v)[VALUES])
{
    if (!a.aligned_y || col + VALUES > a.n) {
        for (int k = 0; k < VALUES; k++)
            if (col + k < a.n)
                out_store(a.out, row, col + k, v[k]);
        return;
    }
    const bool add = a.out.epilogue == EPILOGUE_ADD;
    const int64_t at = (int64_t)row * a.out.stride + col;
    float sum[VALUES];
    if (a.out.dtype == DTYPE_F32) {
        float *y = (float *)a.out.y + at;
        for (int k = 0; k < VALUES; k++)
            sum[k] = 0.0f;
        if (add)
            load_f32(sum, y, 0, VALUES, true);
        uint32_t w[VALUES];
        for (int k = 0; k < VALUES; k++)
            w[k] = f32_bits(add ? sum[k] + v[k] : v[k]);
        st128(y, make_uint4(w[0], w[1], w[2], w[3]));
        st128(y + 4, make_uint4(w[4], w[5], w[6], w[7]));
        return;
    }
    uint16_t *y = (uint16_t *)a.out.y + at;
    widen(sum, add ? ld128(y) : make_uint4(0u, 0u, 0u, 0u));
    for (int k = 0; k < VALUES; k++)
        sum[k] = add ? sum[k] + v[k] : v[k];
    store_bf16(y, 0, VALUES, sum, true);
}
DEVICE struct stats post_stats(const struct post_args &a, const float *values, float *slots)
{
    const int n_warps = a.threads / 32, step = a.threads * VALUES;
    struct stats s = { 0.0f, 1.0f };
    if (a.norm.gain == NULL)
        return s;
    float v[VALUES], sum = 0.0f;
    if (a.norm.layer) {
        for (int col = (int)threadIdx.x * VALUES; col < a.width; col += step) {
            load_f32(v, values, col, a.width, true);
            for (int k = 0; k < VALUES; k++)
                sum += v[k];
        }
        s.mean = block_sum(sum, slots, n_warps) / (float)a.n;
        sum = 0.0f;
    }
    for (int col = (int)threadIdx.x * VALUES; col < a.width; col += step) {
        load_f32(v, values, col, a.width, true);
        sum += squares(v, col, a.n, s.mean);
    }
    s.inverse = inverse_of(block_sum(sum, slots + SLOTS, n_warps), a.n, a.norm.epsilon);
    return s;
}
KERNEL(THREADS_MAX, 1) post_kernel(const __grid_constant__ struct post_args a)
{
    SHARED(shared);
    float *slots = (float *)shared; /* [REDUCTIONS][SLOTS] */
    float *values = slots + REDUCTIONS * SLOTS;
    const int row = (int)blockIdx.x, step = a.threads * VALUES;
    griddep_wait();
    griddep_launch();
    const float *x = a.x + (int64_t)row * a.x_stride;
    for (int col = (int)threadIdx.x * VALUES; col < a.width; col += step)
        copy_f32(values + col, x, col, a.n, a.aligned_x);
    cp_async_commit();
    cp_async_wait<0>();
    const struct stats s = post_stats(a, values, slots);
    for (int col = (int)threadIdx.x * VALUES; col < a.width; col += step) {
        float v[VALUES];
        load_f32(v, values, col, a.width, true);
        norm_values(v, col, a.n, a.norm, s, a.aligned_norm);
        for (int k = 0; k < VALUES; k++)
            v[k] = out_value(a.out, v[k]);
        post_store(a, row, col, v);
    }
}

/* ---- gate_combine -----------------------------------------------------------------------------
 */

struct gate_args {
    const float *x;
    int64_t x_stride;
    uint16_t *y;
    int64_t y_stride;
    int32_t n;
    enum gate gate;
    bool plain; /* no second factor */
    bool aligned_x, aligned_y;
};
/* Grid: (chunks of a row, rows). */
KERNEL(GATE_THREADS, 1) gate_kernel(const __grid_constant__ struct gate_args a)
{
    const int col = ((int)blockIdx.x * GATE_THREADS + (int)threadIdx.x) * VALUES;
    griddep_wait();
    griddep_launch();
    if (col >= a.n)
        return;
    const float *x = a.x + (int64_t)blockIdx.y * a.x_stride;
    float gate[VALUES], up[VALUES];
    load_f32(gate, x, col, a.n, a.aligned_x);
    for (int k = 0; k < VALUES; k++)
        up[k] = 1.0f;
    if (!a.plain)
        load_f32(up, x + a.n, col, a.n, a.aligned_x);
    for (int k = 0; k < VALUES; k++)
        up[k] *= gate_of(a.gate, gate[k]);
    store_bf16(a.y + (int64_t)blockIdx.y * a.y_stride, col, a.n, up, a.aligned_y);
}

/* ---- launchers --------------------------------------------------------------------------------
 */

/* Rows of `element` bytes each start at a multiple of 16 bytes. */
static bool rows_aligned(const void *p, int64_t stride, int32_t element)
{
    return ((uintptr_t)p | (uintptr_t)(stride * element)) % 16 == 0;
}
static bool norm_aligned(const struct norm_in *norm)
{
    return ((uintptr_t)norm->gain | (uintptr_t)norm->bias) % 16 == 0;
}
static int32_t threads_of(int32_t n_chunks)
{
    const int32_t most = n_chunks <= 2 * THREADS_FEW ? THREADS_FEW : THREADS_MAX;
    const int32_t each = (n_chunks + most - 1) / most;
    return f64_pad((n_chunks + each - 1) / each, 32);
}
static size_t shared_of(int32_t width, size_t element)
{
    return REDUCTIONS * SLOTS * sizeof(float) + (size_t)width * element;
}
static bool prepare_args_of(const struct launch *launch, const struct prepare_op *op,
                            struct prepare_args *a)
{
    a->op = *op;
    a->padded = f64_pad(op->n_in, F64_UNIT_COLS);
    a->threads = threads_of(a->padded / VALUES);
    a->width = f64_pad(a->padded, a->threads * VALUES);
    a->aligned_x = rows_aligned(op->x, op->x_stride, 2);
    a->aligned_y = rows_aligned(op->y, op->y_stride, 2);
    a->aligned_norm = norm_aligned(&op->norm);
    return shared_of(a->width, 2) <= (size_t)launch->device->shared_bytes;
}
template <enum form FORM>
static cudaError_t prepare(const struct launch *launch, const struct prepare_op *op)
{
    struct prepare_args a;
    if (op->rows == 0)
        return cudaSuccess;
    if (!prepare_args_of(launch, op, &a))
        return cudaErrorInvalidValue;
    return LAUNCH((prepare_kernel<FORM>), dim3((unsigned)op->rows), a.threads,
                  shared_of(a.width, 2), launch->stream, launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN,
                  a);
}
cudaError_t prepare_f16(const struct launch *launch, const struct prepare_op *op)
{
    return prepare<FORM_F16>(launch, op);
}
cudaError_t prepare_s8(const struct launch *launch, const struct prepare_op *op)
{
    return prepare<FORM_S8>(launch, op);
}
cudaError_t prepare_bf16(const struct launch *launch, const struct prepare_op *op)
{
    return prepare<FORM_BF16>(launch, op);
}

cudaError_t gate_combine(const struct launch *launch, const float *x, int64_t x_stride,
                         int32_t rows, int32_t n, enum gate gate, bool plain, void *y,
                         int64_t y_stride)
{
    if (rows == 0)
        return cudaSuccess;
    const bool aligned = rows_aligned(x, x_stride, 4) && n % 4 == 0;
    const struct gate_args a = { x,        x_stride, (uint16_t *)y,
                                 y_stride, n,        gate,
                                 plain,    aligned,  rows_aligned(y, y_stride, 2) };
    const int32_t per_block = GATE_THREADS * VALUES;
    const dim3 grid((unsigned)((n + per_block - 1) / per_block), (unsigned)rows);
    return LAUNCH((gate_kernel), grid, GATE_THREADS, 0, launch->stream,
                  launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}

cudaError_t post_combine(const struct launch *launch, const float *x, int64_t x_stride,
                         int32_t rows, int32_t n, struct norm_in norm, const struct gemm_out *out)
{
    if (rows == 0)
        return cudaSuccess;
    struct post_args a;
    a.x = x;
    a.x_stride = x_stride;
    a.n = n;
    a.threads = threads_of((n + VALUES - 1) / VALUES);
    a.width = f64_pad(n, a.threads * VALUES);
    a.norm = norm;
    a.out = *out;
    a.aligned_x = rows_aligned(x, x_stride, 4);
    a.aligned_y = rows_aligned(out->y, out->stride, out->dtype == DTYPE_F32 ? 4 : 2);
    a.aligned_norm = norm_aligned(&norm);
    const size_t bytes = shared_of(a.width, sizeof(float));
    if (bytes > (size_t)launch->device->shared_bytes)
        return cudaErrorInvalidValue;
    return LAUNCH((post_kernel), dim3((unsigned)rows), a.threads, bytes, launch->stream,
                  launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN, a);
}
