/* rng.h - counter-based random numbers: a pure function of (seed, stream, counter), so a draw
 * does not depend on what else ran. Philox4x32-10 (Salmon et al., SC11). */
#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

struct rng4 {
    uint32_t v[4];
};
struct rng4 rng_philox(uint64_t seed, uint64_t stream, uint64_t counter);
/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);
/* Another of the same place, independent of the first. */
double rng_uniform_second(uint64_t seed, uint64_t stream, uint64_t counter);
/* 64 bits from the operating system. */
uint64_t rng_system(void);
#ifdef __cplusplus
}
#endif
