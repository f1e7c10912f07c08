/* ops_portable.c - ops_kernels.h compiled for plain C; chosen by ops_kernels_of. */
#include "host/backend/cpu/ops_kernels.h"

const struct ops_kernels ops_portable = { gate_any, gate_clamped_any, act_any, soft_cap_any };
