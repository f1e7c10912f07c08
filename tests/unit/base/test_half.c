/* half, dtype, rng: every bit pattern, and the published vectors. */
#include "tests/support/support.h"
#include <float.h>
#include <math.h>
#include "host/base/dtype.h"
#include "host/base/half.h"
#include "host/base/rng.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* What a small float means, from its definition alone: sign, exponent, mantissa. */
static double meaning(uint32_t code, int n_exponent, int n_mantissa)
{
    uint32_t mantissa = code & ((1u << n_mantissa) - 1);
    int exponent = (int)(code >> n_mantissa & ((1u << n_exponent) - 1));
    int bias = (1 << (n_exponent - 1)) - 1;
    double value = exponent == 0
                       ? ldexp(mantissa, 1 - bias - n_mantissa)
                       : ldexp(mantissa + (1u << n_mantissa), exponent - bias - n_mantissa);
    return code >> (n_exponent + n_mantissa) & 1 ? -value : value;
}

static void test_every_f16(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        float value = half_f16_to_f32((uint16_t)code);
        bool special = (code & 0x7c00) == 0x7c00;
        if (special && (code & 0x3ff)) {
            assert_true(isnan(value));
            assert_int_equal(half_f32_to_f16(value), code | 0x200); /* payload kept, quieted */
            continue;
        }
        if (special)
            assert_true(isinf(value) && (value < 0) == (code >> 15));
        else
            assert_true((double)value == meaning(code, 5, 10));
        assert_int_equal(half_f32_to_f16(value), code);
    }
}

static void test_every_bf16(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        float value = half_bf16_to_f32((uint16_t)code);
        assert_int_equal(bits_of(value), code << 16);
        bool nan = (code & 0x7fff) > 0x7f80;
        assert_int_equal(half_f32_to_bf16(value), nan ? code | 0x40 : code);
    }
}

static void test_every_byte(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        float e4m3 = half_e4m3_to_f32((uint8_t)code), e5m2 = half_e5m2_to_f32((uint8_t)code);
        if ((code & 0x7f) == 0x7f)
            assert_true(isnan(e4m3));
        else
            assert_true((double)e4m3 == meaning(code, 4, 3));
        assert_int_equal(half_f32_to_e4m3(e4m3), code);
        if ((code & 0x7c) != 0x7c)
            assert_true((double)e5m2 == meaning(code, 5, 2));
        else
            assert_true(code & 3 ? isnan(e5m2) : isinf(e5m2));
        float e8m0 = half_e8m0_to_f32((uint8_t)code);
        assert_true(code == 255 ? isnan(e8m0) : (double)e8m0 == ldexp(1, (int)code - 127));
    }
    for (uint32_t code = 0; code < 16; code++)
        assert_true((double)half_e2m1_to_f32((uint8_t)code) == meaning(code, 2, 1));
}

/* Between neighbours a and b: below the middle goes to a, above to b, the middle to the even one.
 */
static void test_rounding_f16(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7c00; code++) {
        float a = half_f16_to_f32((uint16_t)code);
        float b = code == 0x7bff ? 65536.0f : half_f16_to_f32((uint16_t)(code + 1));
        float middle = (a + b) / 2;
        uint32_t even = code & 1 ? code + 1 : code;
        for (uint32_t sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            assert_int_equal(half_f32_to_f16(s * middle), even | sign << 15);
            assert_int_equal(half_f32_to_f16(s * nextafterf(middle, 0)), code | sign << 15);
            assert_int_equal(half_f32_to_f16(s * nextafterf(middle, 1e30f)),
                             (code + 1) | sign << 15);
        }
    }
    assert_int_equal(half_f32_to_f16(FLT_MAX), 0x7c00);
    assert_int_equal(half_f32_to_f16(float_of(1)), 0); /* the least subnormal float */
}

static void test_rounding_bf16(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7f80; code++) {
        uint32_t base = code << 16;
        assert_int_equal(half_f32_to_bf16(float_of(base | 0x7fff)), code);
        assert_int_equal(half_f32_to_bf16(float_of(base | 0x8000)), code + (code & 1));
        assert_int_equal(half_f32_to_bf16(float_of(base | 0x8001)), code + 1);
    }
}

static void test_rounding_e4m3(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7e; code++) {
        float a = half_e4m3_to_f32((uint8_t)code), b = half_e4m3_to_f32((uint8_t)(code + 1));
        float middle = (a + b) / 2;
        assert_int_equal(half_f32_to_e4m3(middle), code + (code & 1));
        assert_int_equal(half_f32_to_e4m3(-middle), (code + (code & 1)) | 0x80);
        assert_int_equal(half_f32_to_e4m3(nextafterf(middle, 0)), code);
        assert_int_equal(half_f32_to_e4m3(nextafterf(middle, 1e30f)), code + 1);
    }
    assert_int_equal(half_f32_to_e4m3(449), 0x7e); /* saturates */
    assert_int_equal(half_f32_to_e4m3(1e30f), 0x7e);
    assert_int_equal(half_f32_to_e4m3(-INFINITY), 0xfe);
    assert_int_equal(half_f32_to_e4m3(NAN) & 0x7f, 0x7f);
    assert_int_equal(half_f32_to_e4m3(float_of(1)), 0);
}

/* The vector loops against the scalar functions: all 65536 codes, at odd addresses and lengths. */
static void test_widen_and_narrow(void **state)
{
    (void)state;
    enum { N = 65536 };
    uint8_t *in = malloc(2 * N + 1);
    float *out = malloc(N * sizeof *out);
    uint16_t *back = malloc(N * sizeof *back);
    for (int kind = 0; kind < 2; kind++) {
        enum dtype dtype = kind ? DTYPE_BF16 : DTYPE_F16;
        for (uint32_t i = 0; i < N; i++)
            memcpy(in + 1 + 2 * i, &(uint16_t){ (uint16_t)i }, 2);
        half_widen(out, in + 1, dtype, N);
        for (uint32_t i = 0; i < N; i++) {
            float want = kind ? half_bf16_to_f32((uint16_t)i) : half_f16_to_f32((uint16_t)i);
            assert_int_equal(bits_of(out[i]), bits_of(want));
        }
        half_narrow(back, out, dtype, N);
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(back[i], kind ? half_f32_to_bf16(out[i]) : half_f32_to_f16(out[i]));
        for (size_t n = 0; n < 40; n++) { /* tails write nothing behind */
            out[n] = 12345;
            half_widen(out, in + 1, dtype, n);
            assert_true(out[n] == 12345);
            back[n] = 77;
            half_narrow(back, out, dtype, n);
            assert_int_equal(back[n], 77);
        }
    }
    for (uint64_t i = 0; i < N; i++) { /* random floats, specials among them */
        struct rng4 r = rng_philox(3, 0, i);
        out[i] = float_of(i % 3 ? r.v[0] : (r.v[0] & 0x8fffffff) | 0x38000000);
    }
    half_narrow(back, out, DTYPE_F16, N);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(back[i], half_f32_to_f16(out[i]));
    for (uint32_t i = 0; i < 256; i++)
        in[i] = (uint8_t)i;
    for (size_t n = 255; n <= 256; n++) { /* by function, by table */
        half_widen(out, in, DTYPE_F8_E4M3, n);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(bits_of(out[i]), bits_of(half_e4m3_to_f32((uint8_t)i)));
        half_widen(out, in, DTYPE_F8_E5M2, n);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(bits_of(out[i]), bits_of(half_e5m2_to_f32((uint8_t)i)));
        half_widen(out, in, DTYPE_F8_E8M0, n);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(bits_of(out[i]), bits_of(half_e8m0_to_f32((uint8_t)i)));
    }
    free(in);
    free(out);
    free(back);
}

static void test_widen_integers(void **state)
{
    (void)state;
    float out[2];
#define WIDENS(dtype, type, a, b)                                                                  \
    do {                                                                                           \
        type in[2] = { a, b };                                                                     \
        half_widen(out, in, dtype, 2);                                                             \
        assert_true(out[0] == (float)in[0] && out[1] == (float)in[1]);                             \
        assert_int_equal(dtype_bytes(dtype), sizeof in[0]);                                        \
    } while (0)
    WIDENS(DTYPE_F64, double, 0.1, -1e300);
    WIDENS(DTYPE_F32, float, 0.1f, -1e30f);
    WIDENS(DTYPE_I64, int64_t, INT64_MIN, (1ll << 24) + 1);
    WIDENS(DTYPE_I32, int32_t, INT32_MIN, 7);
    WIDENS(DTYPE_I16, int16_t, INT16_MIN, 7);
    WIDENS(DTYPE_I8, int8_t, INT8_MIN, 7);
    WIDENS(DTYPE_U8, uint8_t, 255, 7);
    WIDENS(DTYPE_U16, uint16_t, 65535, 7);
    WIDENS(DTYPE_U32, uint32_t, UINT32_MAX, 7);
    WIDENS(DTYPE_U64, uint64_t, UINT64_MAX, 7);
    WIDENS(DTYPE_BOOL, uint8_t, 0, 1);
    half_widen(out, (uint8_t[2]){ 2, 0 }, DTYPE_BOOL, 2);
    assert_true(out[0] == 1 && out[1] == 0);
}

static void test_dtype(void **state)
{
    (void)state;
    assert_int_equal(dtype_bytes(DTYPE_NONE), 0);
    for (int i = 1; i < DTYPE_COUNT; i++) {
        const enum dtype dtype = (enum dtype)i;
        assert_true(dtype_block_bytes(dtype) > 0);
        assert_true(dtype_block(dtype) > 1 || dtype_bytes(dtype) == dtype_block_bytes(dtype));
        assert_non_null(dtype_name(dtype));
    }
    assert_int_equal(dtype_from_safetensors("BF16"), DTYPE_BF16);
    assert_int_equal(dtype_from_safetensors("F8_E4M3"), DTYPE_F8_E4M3);
    assert_int_equal(dtype_from_safetensors("bf16"), DTYPE_NONE);
    assert_int_equal(dtype_from_safetensors(""), DTYPE_NONE);
    assert_int_equal(dtype_from_safetensors("F4"), DTYPE_NONE);
    assert_int_equal(dtype_from_safetensors("Q4_0"), DTYPE_NONE);
    assert_int_equal(dtype_block(DTYPE_NONE), 0);
    assert_int_equal(dtype_block(DTYPE_F16), 1);
    assert_int_equal(dtype_block(DTYPE_Q4_K), 256);
    assert_int_equal(dtype_row_bytes(DTYPE_F16, 3), 6);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_0, 64), 36);
    assert_int_equal(dtype_row_bytes(DTYPE_Q6_K, 512), 420);
}

/* Known answers of Random123's kat_vectors, philox4x32 with 10 rounds. */
static const struct {
    uint32_t counter[4], key[2], want[4];
} PHILOX[] = {
    { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
    { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
      { 0xffffffff, 0xffffffff },
      { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
    { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
      { 0xa4093822, 0x299f31d0 },
      { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
};

static void test_rng(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof PHILOX / sizeof PHILOX[0]; i++) {
        const uint32_t *c = PHILOX[i].counter, *k = PHILOX[i].key;
        struct rng4 r = rng_philox((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2],
                                   (uint64_t)c[1] << 32 | c[0]);
        assert_memory_equal(r.v, PHILOX[i].want, sizeof r.v);
    }
    double sum = 0;
    int quarter[4] = { 0 };
    for (uint64_t i = 0; i < 100000; i++) {
        double u = rng_uniform(7, 8, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        quarter[(int)(u * 4)]++;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.005); /* 5 standard deviations */
    for (int i = 0; i < 4; i++)
        assert_true(abs(quarter[i] - 25000) < 700);
    assert_true(rng_uniform(7, 8, 1) == rng_uniform(7, 8, 1));
    assert_true(rng_uniform(7, 8, 1) != rng_uniform(7, 9, 1));
    assert_true(rng_uniform(7, 8, 1) != rng_uniform(8, 8, 1));
    assert_true(rng_system() != rng_system());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_f16),
        cmocka_unit_test(test_every_bf16),
        cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_rounding_f16),
        cmocka_unit_test(test_rounding_bf16),
        cmocka_unit_test(test_rounding_e4m3),
        cmocka_unit_test(test_widen_and_narrow),
        cmocka_unit_test(test_widen_integers),
        cmocka_unit_test(test_dtype),
        cmocka_unit_test(test_rng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
