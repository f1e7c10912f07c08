/* isa.h - which instruction sets this machine has. The choice between kernel files is made once, by
 * CPUID and what the kernel saves on a context switch; never by trying an instruction.
 *
 * cpu_isa_available() is declared in backend.h. */
#pragma once
#include <stdbool.h>
#include "host/backend/backend.h"

/* AUTO becomes the best that this machine has; anything else comes back as it is. CHECKs that the
 * machine can run it. */
enum cpu_isa cpu_isa_resolve(enum cpu_isa isa);
/* "portable", "avx2", "avx512-vnni" */
const char *cpu_isa_name(enum cpu_isa isa);
/* AMX int8 tiles on top of CPU_ISA_AVX512: asks the kernel for the tile state once a process. */
bool cpu_amx_available(void);
/* AVX512_BF16 and VBMI on top of CPU_ISA_AVX512. */
bool cpu_bf16_available(void);
