/* rng.c - Philox4x32-10, a keyed bijection of a 128-bit counter (Salmon, Moraes, Dror, Shaw:
 * "Parallel random numbers: as easy as 1, 2, 3", SC11). Pure; any thread.
 * Key words: seed low, seed high. Counter words: counter low, high, stream low, high. */
#include "host/base/rng.h"
#include "host/base/err.h"
#include <errno.h>
#include <sys/random.h>

enum { ROUNDS = 10 };

struct rng4 rng_philox(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t a = (uint64_t)c0 * 0xd2511f53u, b = (uint64_t)c2 * 0xcd9e8d57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (struct rng4){ { c0, c1, c2, c3 } };
}

static double uniform(uint32_t high, uint32_t low)
{
    uint64_t bits = (uint64_t)high << 32 | low;
    return (double)(bits >> 11) * 0x1p-53;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    struct rng4 r = rng_philox(seed, stream, counter);
    return uniform(r.v[1], r.v[0]);
}

double rng_uniform_second(uint64_t seed, uint64_t stream, uint64_t counter)
{
    struct rng4 r = rng_philox(seed, stream, counter);
    return uniform(r.v[3], r.v[2]);
}

uint64_t rng_system(void)
{
    uint64_t bits;
    ssize_t got;
    do
        got = getrandom(&bits, sizeof bits, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == (ssize_t)sizeof bits); /* Linux gives up to 256 bytes whole once it is seeded */
    return bits;
}
