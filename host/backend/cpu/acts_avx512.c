/* acts_avx512.c - acts_kernels.h compiled for AVX-512; chosen by acts_of. */
#include "host/backend/cpu/acts_kernels.h"

const struct acts acts_avx512 = { acts_most, acts_round, acts_e4m3, acts_nvfp4 };
