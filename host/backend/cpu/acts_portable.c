/* acts_portable.c - acts_kernels.h compiled for any machine; chosen by acts_of. */
#include "host/backend/cpu/acts_kernels.h"

const struct acts acts_portable = { acts_most, acts_round, acts_e4m3, acts_nvfp4 };

const struct acts *acts_of(enum cpu_isa isa)
{
    return isa == CPU_ISA_AVX512 ? &acts_avx512 : isa == CPU_ISA_AVX2 ? &acts_avx2 : &acts_portable;
}
