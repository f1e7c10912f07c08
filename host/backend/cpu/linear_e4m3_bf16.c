/* linear_e4m3_bf16.c - E4M3 of CHUNKS_C16 as bf16, 32 products an instruction. Chosen by linear.c
 * where CPUID offers AVX512_BF16 and VBMI; compiled with their flags. */
#include "host/backend/cpu/linear_e4m3_avx512.h"

void linear_e4m3_bf16(const struct linear_chunks *job)
{
    products(job);
}
