/* linear_e4m3_avx512.c - E4M3 of CHUNKS_C16 as floats, for AVX-512 without bf16. Chosen by
 * linear.c; compiled with AVX-512 flags, so nothing here may run before the CPUID check. */
#include "host/backend/cpu/linear_e4m3_avx512.h"

void linear_e4m3_avx512(const struct linear_chunks *job)
{
    products(job);
}
