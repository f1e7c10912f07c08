/* wrappers.h - plain host arithmetic that the wrappers of device.cuh and wgmma.cuh are held
 * against: bits of small floats by way of double, nothing shared with host/ or cuda/. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The nearest float of `mantissa` bits and exponent bias `bias`, ties to even, in 16 bits. */
static inline uint16_t small_float(double v, int mantissa, int bias)
{
    const uint32_t infinity = ((1u << (15 - mantissa)) - 1u) << mantissa;
    const uint32_t sign = signbit(v) ? 0x8000u : 0;
    if (isnan(v))
        return (uint16_t)(infinity | 1u);
    if (isinf(v))
        return (uint16_t)(sign | infinity);
    if (v == 0)
        return (uint16_t)sign;
    const int least = 1 - bias, e = ilogb(v) > least ? ilogb(v) : least;
    const double steps = nearbyint(ldexp(fabs(v), mantissa - e)); /* of 2^(e - mantissa) */
    const double bits = ldexp(e - least, mantissa) + steps;       /* a carry is a new exponent */
    return (uint16_t)(sign | (bits >= infinity ? infinity : (uint32_t)bits));
}
static inline double small_value(uint16_t h, int mantissa, int bias)
{
    const int e = (h & 0x7fff) >> mantissa, m = h & ((1 << mantissa) - 1);
    double v;
    if (e == (1 << (15 - mantissa)) - 1)
        v = m == 0 ? HUGE_VAL : NAN;
    else if (e == 0)
        v = ldexp(m, 1 - bias - mantissa);
    else
        v = ldexp(m + (1 << mantissa), e - bias - mantissa);
    return (h & 0x8000) != 0 ? -v : v;
}
static inline uint16_t f16_bits(double v)
{
    return small_float(v, 10, 15);
}
static inline double f16_value(uint16_t h)
{
    return small_value(h, 10, 15);
}
static inline uint16_t bf16_bits(double v)
{
    return small_float(v, 7, 127);
}
static inline double bf16_value(uint16_t h)
{
    return small_value(h, 7, 127);
}
static inline bool f16_is_nan(uint16_t h)
{
    return (h & 0x7fff) > 0x7c00;
}
static inline bool bf16_is_nan(uint16_t h)
{
    return (h & 0x7fff) > 0x7f80;
}
static inline float float_of_bits(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return v;
}
static inline uint32_t bits_of_float(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
