/* ops_avx2.c - ops_kernels.h compiled for AVX2 and FMA; chosen by ops_kernels_of. */
#include "host/backend/cpu/ops_kernels.h"

const struct ops_kernels ops_avx2 = { gate_any, gate_clamped_any, act_any, soft_cap_any };
