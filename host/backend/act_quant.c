/* act_quant.c - activation quantizers, one row at a time. See act_quant.h. Pure. */
#include "host/backend/act_quant.h"

#include <math.h>
#include <string.h>

static const float FP8_MAX = ACT_FP8_MOST, FP4_MAX = 6;

const char *act_scheme_name(enum act_scheme scheme)
{
    static const char *const names[] = {
        [ACT_EXACT] = "exact",
        [ACT_INT8_TOKEN] = "int8 per token",
        [ACT_BITNET] = "int8 per token (bitnet)",
        [ACT_FP8_TOKEN] = "fp8 per token",
        [ACT_FP8_TENSOR] = "fp8 per tensor",
        [ACT_FP8_BLOCK] = "fp8 per 128 inputs",
        [ACT_NVFP4] = "nvfp4",
        [ACT_LLM_INT8] = "int8 per token but for outliers",
    };
    CHECK((size_t)scheme < sizeof names / sizeof *names);
    return names[scheme];
}

/* 1.5 * 2^(23 + e) added and taken away rounds to multiples of 2^e, ties to even. */
static float round_to(float x, float magic)
{
    volatile float sum = x + magic; /* not to be folded away */
    return sum - magic;
}

/* To three bits behind the leading one; multiples of 2^-9 below 2^-6. x >= 0 or NaN. */
static float round_e4m3(float x)
{
    if (!(x < FP8_MAX))
        return x >= FP8_MAX ? FP8_MAX : x;
    if (x < 0x1p-6f)
        return round_to(x, 0x1.8p14f);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x7ffffu + (bits >> 20 & 1);
    bits &= ~0xfffffu;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 0, 0.5, 1, 1.5, 2, 3, 4, 6: steps of 0.5 below 2, of 1 below 4, of 2 from there. x >= 0 or NaN */
static float round_e2m1(float x)
{
    if (!(x < FP4_MAX))
        return x >= FP4_MAX ? FP4_MAX : x;
    return round_to(x, x < 2 ? 0x1.8p22f : x < 4 ? 0x1.8p23f : 0x1.8p24f);
}

static float most_of(const float *x, int32_t n)
{
    float most = 0;
    for (int32_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        most = a > most || isnan(a) ? a : most;
        if (isnan(most))
            break;
    }
    return most;
}

static void fp8_with(const float *x, int32_t n, float scale, float *out)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = scale > 0 ? copysignf(round_e4m3(fabsf(x[i] / scale)) * scale, x[i])
                           : x[i] * 0; /* a group of zeros */
}

static void nvfp4_group(const float *x, int32_t n, float global, float *out)
{
    const float local = round_e4m3(global * (most_of(x, n) / FP4_MAX));
    const float scale = local / global;
    for (int32_t i = 0; i < n; i++)
        out[i] = scale > 0 ? copysignf(round_e2m1(fabsf(x[i] / scale)) * scale, x[i]) : x[i] * 0;
}

static void llm_int8(const float *x, int32_t n, float threshold, float *out)
{
    float most = 0;
    for (int32_t i = 0; i < n; i++)
        if (fabsf(x[i]) < threshold && fabsf(x[i]) > most)
            most = fabsf(x[i]);
    const float inverse = most > 0 ? 127 / most : 0, scale = most / 127;
    for (int32_t i = 0; i < n; i++)
        out[i] = fabsf(x[i]) < threshold ? rintf(x[i] * inverse) * scale : x[i];
}

/* The factor of a row: *by multiplies (BITNET) or divides. False: the row is not finite. */
static bool int8_scale(const struct act_quant *act, const float *x, int32_t n, float *by)
{
    const float most = most_of(x, n);
    if (!(most <= 0x1.fffffep127f))
        return false;
    *by = act->scheme == ACT_BITNET ? 127 / fmaxf(most, 1e-5f) : most / 127.5f;
    return true;
}

static float int8_code(const struct act_quant *act, float x, float by)
{
    if (act->scheme == ACT_BITNET)
        x = x * by;
    else
        x = by > 0 ? x / by : 0;
    x = rintf(x);
    return x < -128 ? -128 : x > 127 ? 127 : x;
}

void act_quantize(const struct act_quant *act, const float *x, int32_t n, float *out)
{
    float by;
    switch (act->scheme) {
    case ACT_EXACT:
        memmove(out, x, (size_t)n * sizeof *out);
        return;
    case ACT_INT8_TOKEN:
    case ACT_BITNET:
        if (!int8_scale(act, x, n, &by))
            by = NAN;
        for (int32_t i = 0; i < n; i++) {
            const float q = int8_code(act, x[i], by);
            out[i] = act->scheme == ACT_BITNET || isnan(by) ? q / by : q * by;
        }
        return;
    case ACT_FP8_TOKEN:
        fp8_with(x, n, most_of(x, n) / FP8_MAX, out);
        return;
    case ACT_FP8_TENSOR:
        fp8_with(x, n, act->scale, out);
        return;
    case ACT_FP8_BLOCK:
    case ACT_NVFP4: {
        const int32_t group = act->scheme == ACT_NVFP4 ? ACT_NVFP4_GROUP : ACT_FP8_GROUP;
        for (int32_t at = 0; at < n; at += group) {
            const int32_t part = n - at < group ? n - at : group;
            if (act->scheme == ACT_NVFP4)
                nvfp4_group(x + at, part, act->scale, out + at);
            else
                fp8_with(x + at, part, most_of(x + at, part) / FP8_MAX, out + at);
        }
        return;
    }
    case ACT_LLM_INT8:
        llm_int8(x, n, act->scale, out);
        return;
    }
    CHECK(false);
}

void act_quantize_int8(const struct act_quant *act, const float *x, int32_t n, int8_t *q,
                       float *scale)
{
    CHECK(act_is_int8(act->scheme));
    float by;
    if (!int8_scale(act, x, n, &by)) {
        *scale = NAN;
        memset(q, 0, (size_t)n);
        return;
    }
    *scale = act->scheme == ACT_BITNET ? 1 / by : by;
    for (int32_t i = 0; i < n; i++)
        q[i] = (int8_t)int8_code(act, x[i], by);
}
