/* ops_avx512.c - ops_kernels.h compiled for AVX-512; chosen by ops_kernels_of. */
#include "host/backend/cpu/ops_kernels.h"

const struct ops_kernels ops_avx512 = { gate_any, gate_clamped_any, act_any, soft_cap_any };
