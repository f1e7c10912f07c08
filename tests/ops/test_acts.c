/* test_acts.c - rows of activations by every instruction set: codes times scales are act_quant.c's
 * rows bit for bit, bf16 is half.h's rounding, and what is not finite is seen. */
#include <math.h>
#include "tests/support/support.h"
#include "host/backend/act_quant.h"
#include "host/backend/cpu/acts.h"
#include "host/backend/layout.h"
#include "host/base/half.h"
#include "host/base/rng.h"

static const enum cpu_isa isas[] = { CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
enum { N_ISAS = sizeof isas / sizeof *isas, N = LAYOUT_CHUNK, SEEDS = 400 };

/* Magnitudes over ten octaves, some zeros, some ties of the formats. */
static void make_row(uint64_t seed, float *x)
{
    for (int32_t i = 0; i < N; i++) {
        const uint32_t random = rng_philox(seed, 5, (uint64_t)i).v[0];
        x[i] = ldexpf((float)(int32_t)(random % 4001) - 2000, (int)(random >> 20 & 7) - 12);
        if (random >> 24 == 7)
            x[i] = 0;
        if (random >> 24 == 8)
            x[i] = (float)(random % 64) * 0x1p-10f;
    }
}
static float bf16_at(const int8_t *bytes, int32_t i)
{
    uint16_t bits;
    memcpy(&bits, bytes + 2 * i, sizeof bits);
    return half_bf16_to_f32(bits);
}
static void expect(float got, float want, const char *what, int32_t i)
{
    if (memcmp(&got, &want, sizeof got) && !(got == 0 && want == 0))
        fail_msg("%s: input %d gives %.9g, want %.9g", what, i, (double)got, (double)want);
}

static void check_e4m3(const struct acts *acts, const float *x, int32_t n)
{
    float want[N];
    _Alignas(2) int8_t q[2 * N + 2];
    const struct act_quant token = { ACT_FP8_TOKEN, 0 }, tensor = { ACT_FP8_TENSOR, 0.37f };
    const float scale = acts->most(x, n) / ACT_FP8_MOST;
    q[2 * n] = q[2 * n + 1] = 99;
    act_quantize(&token, x, n, want);
    if (scale > 0)
        acts->e4m3(x, n, scale, q);
    for (int32_t i = 0; i < n && scale > 0; i++)
        expect(bf16_at(q, i) * scale, want[i], "fp8 per token", i);
    act_quantize(&tensor, x, n, want);
    acts->e4m3(x, n, 0.37f, q);
    for (int32_t i = 0; i < n; i++) {
        expect(bf16_at(q, i) * 0.37f, want[i], "fp8 per tensor", i);
        expect(bf16_at(q, i), half_e4m3_to_f32(half_f32_to_e4m3(bf16_at(q, i))), "a code", i);
    }
    assert_true(q[2 * n] == 99 && q[2 * n + 1] == 99);
}
static void check_nvfp4(const struct acts *acts, const float *x, int32_t n, float global)
{
    float want[N], scales[LAYOUT_CHUNK / ACT_NVFP4_GROUP];
    int8_t q[N + 1];
    const struct act_quant act = { ACT_NVFP4, global };
    q[n] = 99;
    act_quantize(&act, x, n, want);
    acts->nvfp4(x, n, global, q, scales);
    for (int32_t i = 0; i < n; i++)
        expect((float)q[i] * scales[i / ACT_NVFP4_GROUP], want[i], "nvfp4", i);
    assert_int_equal(q[n], 99);
}
static void check_round(const struct acts *acts, const float *x, int32_t n)
{
    _Alignas(2) int8_t q[2 * N + 2];
    float scale;
    int exponent = 0;
    q[2 * n] = q[2 * n + 1] = 99;
    acts->round(x, n, q, &scale);
    assert_true(scale == 0 || (frexpf(scale, &exponent) == 0.5f && scale <= acts->most(x, n) &&
                               scale * 2 > acts->most(x, n)));
    for (int32_t i = 0; i < n; i++)
        expect(bf16_at(q, i) * scale, half_bf16_to_f32(half_f32_to_bf16(x[i])), "bf16", i);
    assert_true(q[2 * n] == 99 && q[2 * n + 1] == 99);
}

static void test_rows(void **state)
{
    (void)state;
    for (int k = 0; k < N_ISAS; k++) {
        if (!cpu_isa_available(isas[k])) {
            print_message("[  SKIPPED ] %d: this machine's CPUID does not offer it\n", k);
            continue;
        }
        const struct acts *acts = acts_of(isas[k]);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            const int32_t n = seed % 3 ? N : (int32_t)(seed % N) + 1;
            float x[N];
            make_row(seed, x);
            if (seed == 7)
                memset(x, 0, sizeof x);
            if (seed == 8)
                memset(x + 16, 0, 16 * sizeof *x);
            float most = 0;
            for (int32_t i = 0; i < n; i++)
                most = fmaxf(most, fabsf(x[i]));
            assert_true(acts->most(x, n) == most);
            check_e4m3(acts, x, n);
            check_nvfp4(acts, x, n, seed % 2 ? 1 : 448 * 6 / 700.0f);
            check_round(acts, x, n);
        }
    }
}

/* All numbers that are not NaN through E4M3's rounding, the four that follow each step. */
static void test_all_codes(void **state)
{
    (void)state;
    for (int k = 0; k < N_ISAS; k++) {
        if (!cpu_isa_available(isas[k]))
            continue;
        for (uint32_t bits = 0; bits <= 0x7f800000u - 16; bits += 4099) {
            float x[16];
            _Alignas(2) int8_t q[32];
            for (uint32_t i = 0; i < 16; i++) {
                const uint32_t one = bits + i;
                memcpy(&x[i], &one, sizeof one);
                x[i] = i % 2 ? -x[i] : x[i];
            }
            acts_of(isas[k])->e4m3(x, 16, 1, q);
            for (int32_t i = 0; i < 16; i++)
                expect(bf16_at(q, i), half_e4m3_to_f32(half_f32_to_e4m3(x[i])), "e4m3", i);
        }
    }
}

static void test_not_finite(void **state)
{
    (void)state;
    for (int k = 0; k < N_ISAS; k++) {
        if (!cpu_isa_available(isas[k]))
            continue;
        const struct acts *acts = acts_of(isas[k]);
        for (int32_t at = 0; at < N; at += 9) {
            float x[N], scales[N / ACT_NVFP4_GROUP], scale;
            _Alignas(2) int8_t q[2 * N];
            make_row(3, x);
            x[at] = NAN;
            assert_true(isnan(acts->most(x, N)) && isnan(acts->most(x, at + 1)));
            acts->round(x, N, q, &scale);
            assert_true(isnan(scale) && q[0] == 0 && q[2 * N - 1] == 0);
            acts->nvfp4(x, N, 1, q, scales);
            for (int32_t g = 0; g < N / ACT_NVFP4_GROUP; g++)
                assert_int_equal(isnan(scales[g]) != 0, g == at / ACT_NVFP4_GROUP);
            x[at] = -INFINITY;
            assert_true(isinf(acts->most(x, N)));
            acts->round(x, N, q, &scale);
            assert_true(isnan(scale));
            acts->nvfp4(x, N, 1, q, scales); /* saturates */
            assert_true(q[at] == -12 && scales[at / ACT_NVFP4_GROUP] == 224);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_all_codes),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
