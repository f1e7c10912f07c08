/* isa.c - what this machine can run. Pure but for the one request for AMX state.
 *
 * __builtin_cpu_supports reads CPUID and XGETBV: an instruction set counts only when the kernel
 * also saves its registers. */
#include "host/backend/cpu/isa.h"

#include <sys/syscall.h>
#include <unistd.h>
#include <cpuid.h>
#include "host/base/err.h"

/* clang 14 does not know "f16c" as a feature string: leaf 1, ECX bit 29. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
           __builtin_cpu_supports("bmi2");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

bool cpu_isa_available(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AUTO:
    case CPU_ISA_PORTABLE:
        return true;
    case CPU_ISA_AVX2:
        return has_avx2();
    case CPU_ISA_AVX512:
        return has_avx512();
    }
    return false;
}

enum cpu_isa cpu_isa_resolve(enum cpu_isa isa)
{
    CHECK(cpu_isa_available(isa));
    if (isa != CPU_ISA_AUTO)
        return isa;
    if (has_avx512())
        return CPU_ISA_AVX512;
    return has_avx2() ? CPU_ISA_AVX2 : CPU_ISA_PORTABLE;
}

const char *cpu_isa_name(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AUTO:
        return "auto";
    case CPU_ISA_PORTABLE:
        return "portable";
    case CPU_ISA_AVX2:
        return "avx2";
    case CPU_ISA_AVX512:
        return "avx512-vnni";
    }
    return "?";
}

bool cpu_amx_available(void)
{
    /* Linux, Documentation/arch/x86/xstate.rst: tile data is off until a process asks for it. */
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    enum { CPUID7_EDX_AMX_TILE = 1 << 24, CPUID7_EDX_AMX_INT8 = 1 << 25 };
    const unsigned wanted = CPUID7_EDX_AMX_TILE | CPUID7_EDX_AMX_INT8;
    unsigned eax, ebx, ecx, edx;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        return false;
    return (edx & wanted) == wanted &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

bool cpu_bf16_available(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vbmi");
}
