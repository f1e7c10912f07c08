/* ops.c - norm, rope and sums of one row in plain C that the compiler vectorizes.
 *
 * Invariant: sums have 16 partial sums by index mod 16 and one tree of additions, so the bits do
 * not depend on the width of the machine's vectors. Pure; called by the CPU backend's threads. */
#include "host/backend/cpu/ops.h"

#include <math.h>
#include <string.h>
#include "host/base/half.h"

enum { LANES = 16 };

static float sum_tree(float lanes[LANES])
{
    for (int32_t half = LANES / 2; half > 0; half /= 2)
        for (int32_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}
/* sum of (x - mean)^2 */
static float sum_squares(const float *x, int32_t n, float mean)
{
    float lanes[LANES] = { 0 };
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int32_t k = 0; k < LANES; k++) {
            const float d = x[i + k] - mean;
            lanes[k] += d * d;
        }
    for (int32_t k = 0; i + k < n; k++) {
        const float d = x[i + k] - mean;
        lanes[k] += d * d;
    }
    return sum_tree(lanes);
}
static float sum_values(const float *x, int32_t n)
{
    float lanes[LANES] = { 0 };
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int32_t k = 0; k < LANES; k++)
            lanes[k] += x[i + k];
    for (int32_t k = 0; i + k < n; k++)
        lanes[k] += x[i + k];
    return sum_tree(lanes);
}

void ops_norm(const struct norm *norm, const float *x, float *y)
{
    const int32_t n = norm->n;
    const float *gain = norm->gain, *bias = norm->bias;
    const float mean = norm->kind == NORM_LAYER ? sum_values(x, n) / (float)n : 0.0f;
    const float inverse = 1.0f / sqrtf(sum_squares(x, n, mean) / (float)n + norm->epsilon);
    if (bias)
        for (int32_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) * inverse * gain[i] + bias[i];
    else
        for (int32_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) * inverse * gain[i];
}

void ops_rope_angles(const struct rope *rope, int32_t variant, int32_t position, float *cosines,
                     float *sines)
{
    const int32_t half = rope->rotary_dim / 2;
    const float *inv_freq = rope->inv_freq + (int64_t)variant * half;
    for (int32_t i = 0; i < half; i++) {
        const float angle = (float)position * inv_freq[i];
        cosines[i] = cosf(angle) * rope->scale;
        sines[i] = sinf(angle) * rope->scale;
    }
}

void ops_rope(const struct rope *rope, const float *cosines, const float *sines, float *head)
{
    const int32_t half = rope->rotary_dim / 2;
    if (rope->interleaved) {
        for (int32_t i = 0; i < half; i++) {
            const float a = head[2 * i], b = head[2 * i + 1];
            head[2 * i] = a * cosines[i] - b * sines[i];
            head[2 * i + 1] = b * cosines[i] + a * sines[i];
        }
        return;
    }
    for (int32_t i = 0; i < half; i++) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}

void ops_scale(const float *x, float *y, int32_t n, float scale)
{
    for (int32_t i = 0; i < n; i++)
        y[i] = x[i] * scale;
}
void ops_add(const float *x, float *y, int32_t n, float scale)
{
    for (int32_t i = 0; i < n; i++)
        y[i] += x[i] * scale;
}

static float kv_quantize(int8_t *codes, const float *x, int32_t n)
{
    float most = 0;
    bool finite = true;
    for (int32_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        finite = finite && a <= 0x1.fffffep127f;
        most = a > most ? a : most;
    }
    if (!finite || most < KV_TINY) {
        memset(codes, 0, (size_t)n);
        return finite ? 0 : NAN;
    }
    const float inverse = 127 / most;
    for (int32_t i = 0; i < n; i++)
        codes[i] = (int8_t)lrintf(x[i] * inverse); /* rounding mode: to nearest, ties to even */
    return most / 127;
}
void ops_kv_put(void *block, int32_t token, const float *head, int32_t head_dim, enum dtype dtype)
{
    uint8_t *bytes = block;
    const size_t dim = (size_t)head_dim, at = (size_t)token * dim;
    if (dtype != DTYPE_I8) {
        half_narrow(bytes + at * dtype_bytes(dtype), head, dtype, dim);
        return;
    }
    const float scale = kv_quantize((int8_t *)bytes + at, head, head_dim);
    memcpy(bytes + PAGE_TOKENS * dim + (size_t)token * KV_SCALE_BYTES, &scale, sizeof scale);
}

const struct ops_kernels *ops_kernels_of(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AVX512:
        return &ops_avx512;
    case CPU_ISA_AVX2:
        return &ops_avx2;
    default:
        return &ops_portable;
    }
}
