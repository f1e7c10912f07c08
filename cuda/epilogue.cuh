/* epilogue.cuh - what every product does with its sums: kernels.h, struct gemm_out. */
#pragma once
#include "cuda/device.cuh"
#include "cuda/kernels.h"

DEVICE float tanh_of(float v)
{
    /* 1 - 2 / (e^2v + 1): absolute error 1e-6; exact at both ends */
    return 1.0f - 2.0f * rcp_fast(exp2_fast(v * 2.8853900817779268f) + 1.0f);
}
DEVICE float gate_of(enum gate gate, float v)
{
    switch (gate) {
    case GATE_SILU:
        return v * rcp_fast(1.0f + exp2_fast(v * -1.4426950408889634f));
    case GATE_GELU:
        return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
    case GATE_GELU_TANH:
        return 0.5f * v * (1.0f + tanh_of(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    default: { /* GATE_RELU2 */
        const float r = v > 0.0f ? v : 0.0f;
        return r * r;
    }
    }
}
/* After row factor, x scale and bias. */
DEVICE float out_value(const struct gemm_out &out, float v)
{
    v *= out.scale;
    return out.soft_cap > 0.0f ? out.soft_cap * tanh_of(v / out.soft_cap) : v;
}
DEVICE void out_store(const struct gemm_out &out, int row, int col, float v)
{
    const int64_t at = (int64_t)row * out.stride + col;
    if (out.dtype == DTYPE_F32) {
        float *y = (float *)out.y + at;
        *y = out.epilogue == EPILOGUE_ADD ? *y + v : v;
    } else {
        uint16_t *y = (uint16_t *)out.y + at;
        *y = bf16_of(out.epilogue == EPILOGUE_ADD ? f32_of_bf16(*y) + v : v);
    }
}
