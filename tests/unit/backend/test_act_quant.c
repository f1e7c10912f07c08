/* test_act_quant.c - activation quantizers against hand-worked rows, against the scalar formats of
 * half.h, and (tests/oracle/act_quant) against the public implementations. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>
#include "host/backend/act_quant.h"
#include "host/base/half.h"

static void expect_row(enum act_scheme scheme, float scale, const float *x, int32_t n,
                       const float *want)
{
    const struct act_quant act = { scheme, scale };
    float out[64];
    assert_true(n <= 64);
    act_quantize(&act, x, n, out);
    for (int32_t i = 0; i < n; i++)
        if (memcmp(&out[i], &want[i], sizeof out[i]) != 0 && !(out[i] == 0 && want[i] == 0))
            fail_msg("%s: x[%d] = %.9g gives %.9g, want %.9g", act_scheme_name(scheme), (int)i,
                     (double)x[i], (double)out[i], (double)want[i]);
}

static void int8_rows(void **state)
{
    (void)state;
    /* max 127.5: s = 1. -127.5 rounds to the even -128; 127.5 to 128, which is clamped. */
    const float x[] = { 127.5f, -127.5f, 0.5f, 1.5f, -0.49f, 3.2f };
    expect_row(ACT_INT8_TOKEN, 0, x, 6, (const float[]){ 127, -128, 0, 2, 0, 3 });
    const float half[] = { 0.5f, -0.25f, 0 }; /* s = 1/255: 127.5 -> 127 clamped, -63.75 -> -64 */
    const float s = 0.5f / 127.5f;
    expect_row(ACT_INT8_TOKEN, 0, half, 3, (const float[]){ 127 * s, -64 * s, 0 });
    /* bitnet: s = 127 / 2 */
    const float b[] = { 2, -2, 0.01f, 0.008f };
    expect_row(ACT_BITNET, 0, b, 4,
               (const float[]){ 127 / 63.5f, -127 / 63.5f, 1 / 63.5f, 1 / 63.5f });
    const float tiny[] = { 1e-6f, 0 }; /* floor 1e-5: s = 127e5, q = rne(12.7) */
    expect_row(ACT_BITNET, 0, tiny, 2, (const float[]){ 13 / (127 / 1e-5f), 0 });
    const float zeros[4] = { 0 };
    expect_row(ACT_INT8_TOKEN, 0, zeros, 4, zeros);
    expect_row(ACT_BITNET, 0, zeros, 4, zeros);
}

static void codes_are_the_fake_row(void **state)
{
    (void)state;
    float x[50], fake[50], scale;
    int8_t q[50];
    for (int32_t i = 0; i < 50; i++)
        x[i] = sinf((float)i * 1.7f) * (float)(i % 7);
    for (int32_t k = 0; k < 2; k++) {
        const struct act_quant act = { k == 0 ? ACT_INT8_TOKEN : ACT_BITNET, 0 };
        act_quantize(&act, x, 50, fake);
        act_quantize_int8(&act, x, 50, q, &scale);
        for (int32_t i = 0; i < 50; i++)
            assert_float_equal((float)q[i] * scale, fake[i], 1e-6f);
    }
    x[7] = INFINITY;
    const struct act_quant act = { ACT_INT8_TOKEN, 0 };
    act_quantize_int8(&act, x, 50, q, &scale);
    assert_true(isnan(scale) && q[3] == 0);
    act_quantize(&act, x, 50, fake);
    assert_true(isnan(fake[0]));
}

static void fp8_is_half_h(void **state)
{
    (void)state;
    const struct act_quant act = { ACT_FP8_TENSOR, 1 };
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 4099) {
        float x, out;
        memcpy(&x, &bits, sizeof x);
        for (int32_t sign = 0; sign < 2; sign++, x = -x) {
            act_quantize(&act, &x, 1, &out);
            const float want = half_e4m3_to_f32(half_f32_to_e4m3(x));
            if (out != want)
                fail_msg("%.9g gives %.9g, want %.9g", (double)x, (double)out, (double)want);
        }
    }
}

static void fp8_rows(void **state)
{
    (void)state;
    const float x[] = { 448, -17, 18.5f, 0.001f }; /* s = 1; -17 lies between 16 and 18: even */
    expect_row(ACT_FP8_TOKEN, 0, x, 4, (const float[]){ 448, -16, 18, 0.001953125f });
    float row[130] = { 0 }, out[130];
    row[0] = 448;
    row[128] = 44.8f; /* the second block has a scale of its own */
    row[129] = 0.3f;
    const struct act_quant block = { ACT_FP8_BLOCK, 0 };
    act_quantize(&block, row, 130, out);
    const float s = 44.8f / 448;
    assert_true(out[0] == 448 && out[1] == 0 && out[128] == 448 * s);
    assert_true(out[129] == half_e4m3_to_f32(half_f32_to_e4m3(0.3f / s)) * s);
}

static void nvfp4_rounds_to_the_nearest(void **state)
{
    (void)state;
    /* global 1, max 6: the group's scale is 1 and the codes show */
    float x[16] = { 6, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -5.01f, -0.26f, 0.24f, 4.99f };
    const float want[16] = { 6, 0, 1, 1, 2, 2, 4, 4, -6, -0.5f, 0, 4 };
    expect_row(ACT_NVFP4, 1, x, 16, want);
    /* max 7.5: 1.25 is an e4m3 value; 1.3 is not: it becomes 1.25 */
    for (int32_t i = 0; i < 16; i++)
        x[i] = want[i] * 1.25f;
    float scaled[16];
    memcpy(scaled, x, sizeof scaled);
    expect_row(ACT_NVFP4, 1, x, 16, scaled);
    x[0] = 7.8f;
    expect_row(ACT_NVFP4, 1, x, 16, scaled);
}

static void outliers_stay(void **state)
{
    (void)state;
    const float x[] = { 6, -100.3f, 127 / 64.0f, 1 / 128.0f, -0.5f }; /* the rest: s = 1/64 */
    expect_row(ACT_LLM_INT8, 6, x, 5, (const float[]){ 6, -100.3f, 127 / 64.0f, 0, -0.5f });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_rows),
        cmocka_unit_test(codes_are_the_fake_row),
        cmocka_unit_test(fp8_is_half_h),
        cmocka_unit_test(fp8_rows),
        cmocka_unit_test(nvfp4_rounds_to_the_nearest),
        cmocka_unit_test(outliers_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
