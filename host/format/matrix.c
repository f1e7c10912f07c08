/* matrix.c - the canonical quantized matrix: memory, round to nearest, back to floats.
 *
 * Invariant of matrix_quantize_rows: every scale is m * 2^k with m of 11 bits and k within what
 * fp16 holds once the row's power of two is taken out (matrix_scale_parts), and it is rounded UP,
 * so that the ends of a group's range never fall outside the codes by more than half a step.
 * Pure functions; no thread state. */
#include "host/format/matrix.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BITS_MIN = 2,
    BITS_MAX = 8,
    /* The row's largest scale becomes 128 to 256: a kernel may then multiply it with any 8-bit code
     * in fp16 (255 * 256 < 65504), and 21 binades of normal scales lie below it. */
    SCALE_TOP_EXPONENT = 7,
    F16_MANTISSA_BITS = 10,
    F16_EXPONENT_MIN = -14,     /* of normal values */
    F16_QUANTUM_EXPONENT = -24, /* the smallest subnormal */
    /* With row factors no smaller than this, factor * 2^-24 is still a float (2^-149), so even the
     * scales of rows of subnormal floats are exact. */
    FACTOR_EXPONENT_MIN = -125,
};
/* 1.5 * 2^23: adding it to |x| <= 2^21 rounds x half to even into the low mantissa bits, in any
 * vector width, while rintf is a library call in plain SSE2 code. */
static const float ROUND_MAGIC = 12582912.0f;
static const int32_t INFINITY_BITS = 0x7f800000;

bool matrix_init(struct matrix *matrix, int32_t n_out, int32_t n_in, int32_t bits, int32_t group,
                 bool symmetric, struct err *err)
{
    const struct matrix_form form = {
        .n_out = n_out, .n_in = n_in, .bits = bits, .group = group, .symmetric = symmetric
    };
    return matrix_init_form(matrix, &form, err);
}

bool matrix_init_form(struct matrix *matrix, const struct matrix_form *form, struct err *err)
{
    const int32_t n_out = form->n_out, n_in = form->n_in;
    CHECK(!form->symmetric || !form->mins);
    CHECK(form->kind == CODE_INT || form->symmetric);
    *matrix = (struct matrix){ 0 };
    if (n_out < 1 || n_in < 1)
        return err_set(err, ERR_FORMAT, "a matrix of %d x %d cannot be quantized", n_out, n_in);
    if (form->bits < BITS_MIN || form->bits > BITS_MAX)
        return err_set(err, ERR_UNSUPPORTED, "%d bits a weight, want %d to %d", form->bits,
                       BITS_MIN, BITS_MAX);
    if (form->group < 1)
        return err_set(err, ERR_FORMAT, "quantization group of %d inputs, want 1 or more",
                       form->group);
    size_t n_codes, n_scales, scale_bytes;
    int32_t n_groups = (n_in - 1) / form->group + 1;
    if (__builtin_mul_overflow((size_t)n_out, (size_t)n_in, &n_codes) ||
        __builtin_mul_overflow((size_t)n_out, (size_t)n_groups, &n_scales) ||
        __builtin_mul_overflow(n_scales, sizeof(float), &scale_bytes))
        return err_set(err, ERR_FORMAT, "a matrix of %d x %d is too large", n_out, n_in);
    const bool zeros = !form->symmetric && !form->mins;
    *matrix = (struct matrix){
        .n_out = n_out,
        .n_in = n_in,
        .kind = form->kind,
        .bits = form->bits,
        .group = form->group,
        .n_groups = n_groups,
        .symmetric = form->symmetric,
        .codes = malloc(n_codes),
        .scales = malloc(scale_bytes),
        .zeros = zeros ? malloc(scale_bytes) : NULL,
        .mins = form->mins ? malloc(scale_bytes) : NULL,
    };
    if (matrix->codes == NULL || matrix->scales == NULL || (zeros && matrix->zeros == NULL) ||
        (form->mins && matrix->mins == NULL)) {
        err_set(err, ERR_MEMORY, "no memory for a quantized matrix of %d x %d", n_out, n_in);
        goto fail;
    }
    return true;
fail:
    matrix_clear(matrix);
    return false;
}

void matrix_clear(struct matrix *matrix)
{
    free(matrix->codes);
    free(matrix->scales);
    free(matrix->zeros);
    free(matrix->mins);
    *matrix = (struct matrix){ 0 };
}

static inline int32_t float_bits(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bits_float(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The largest |w| as float bits: magnitudes are ordered like integers, compilers vectorize integer
 * reductions but not float ones, and Inf and NaN come out as INFINITY_BITS or more. */
static int32_t magnitude_max(const float *w, int32_t n)
{
    int32_t most = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t magnitude = float_bits(w[i]) & INT32_MAX;
        most = most > magnitude ? most : magnitude;
    }
    return most;
}

/* Floats as integers of the same order: the magnitude bits of negative ones are flipped. An
 * involution. */
static inline int32_t ordered_bits(int32_t bits)
{
    return bits ^ ((bits >> 31) & INT32_MAX);
}

/* min(w, 0) and max(w, 0); false when a weight is not finite. */
static bool range_of(const float *w, int32_t n, float *low, float *high)
{
    int32_t least = 0, most = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t ordered = ordered_bits(float_bits(w[i]));
        least = least < ordered ? least : ordered;
        most = most > ordered ? most : ordered;
    }
    *low = bits_float(ordered_bits(least));
    *high = bits_float(most);
    /* -Inf and -NaN are below, Inf and NaN above all finite ones. -0.0 is ordered -1: harmless. */
    return most < INFINITY_BITS && least > ordered_bits(float_bits(-INFINITY));
}

/* value > 0 rounded up to a multiple of 2^exponent_min and to 11 significant bits. Exact in double
 * (24 bits come in). */
static double round_up(double value, int exponent_min)
{
    int exponent;
    frexp(value, &exponent); /* value = f * 2^exponent, f in [0.5, 1) */
    exponent -= F16_MANTISSA_BITS + 1;
    if (exponent < exponent_min)
        exponent = exponent_min;
    return ldexp(ceil(ldexp(value, -exponent)), exponent);
}

/* The exponent of the power of two that a row with this largest scale is divided by. */
static int factor_exponent(double scale_max)
{
    int exponent;
    frexp(scale_max, &exponent);
    exponent -= SCALE_TOP_EXPONENT + 1;
    return exponent < FACTOR_EXPONENT_MIN ? FACTOR_EXPONENT_MIN : exponent;
}

/* The scale of a group, as the layouts can hold it. */
static float store_scale(double wanted, int row_exponent)
{
    if (wanted == 0)
        return 0;
    double scale = round_up(wanted, row_exponent + F16_QUANTUM_EXPONENT);
    /* Rounding up can leave the float range when bits = 2 and |w| is near FLT_MAX. */
    static const double TOP = 0x1.ffcp127;
    return (float)(scale < TOP ? scale : TOP);
}

/* codes = clamp(round(w / scale), low, high) + zero. A true division: it costs nothing next to the
 * memory traffic, and stays right when 1 / scale overflows. */
static void encode(uint8_t *codes, const float *w, int32_t n, float scale, int32_t low,
                   int32_t high, int32_t zero)
{
    float low_float = (float)low, high_float = (float)high;
    for (int32_t i = 0; i < n; i++) {
        float steps = w[i] / scale;
        steps = steps < low_float ? low_float : steps;
        steps = steps > high_float ? high_float : steps;
        codes[i] = (uint8_t)(float_bits(steps + ROUND_MAGIC) + zero);
    }
}

static bool quantize_row_symmetric(struct matrix *matrix, const float *w, int32_t row)
{
    int32_t top = (1 << (matrix->bits - 1)) - 1, zero = top + 1, row_most = 0;
    float *scales = matrix->scales + (size_t)row * (size_t)matrix->n_groups;
    uint8_t *codes = matrix->codes + (size_t)row * (size_t)matrix->n_in;
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        int32_t from = g * matrix->group, left = matrix->n_in - from;
        int32_t most = magnitude_max(w + from, left < matrix->group ? left : matrix->group);
        scales[g] = bits_float(most);
        row_most = row_most > most ? row_most : most;
    }
    if (row_most >= INFINITY_BITS)
        return false;
    int row_exponent = factor_exponent(round_up((double)bits_float(row_most) / top, -1074));
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        int32_t from = g * matrix->group, left = matrix->n_in - from;
        int32_t n = left < matrix->group ? left : matrix->group;
        scales[g] = store_scale((double)scales[g] / top, row_exponent);
        if (scales[g] == 0)
            memset(codes + from, zero, (size_t)n);
        else
            encode(codes + from, w + from, n, scales[g], -top, top, zero);
    }
    return true;
}

static bool quantize_row_asymmetric(struct matrix *matrix, const float *w, int32_t row)
{
    int32_t top = (1 << matrix->bits) - 1;
    float *scales = matrix->scales + (size_t)row * (size_t)matrix->n_groups;
    float *zeros = matrix->zeros + (size_t)row * (size_t)matrix->n_groups;
    uint8_t *codes = matrix->codes + (size_t)row * (size_t)matrix->n_in;
    double widest = 0; /* double: a range can exceed FLT_MAX */
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        int32_t from = g * matrix->group, left = matrix->n_in - from;
        if (!range_of(w + from, left < matrix->group ? left : matrix->group, &zeros[g], &scales[g]))
            return false;
        double range = (double)scales[g] - (double)zeros[g];
        widest = widest > range ? widest : range;
    }
    int row_exponent = factor_exponent(round_up(widest / top, -1074));
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        int32_t from = g * matrix->group, left = matrix->n_in - from;
        int32_t n = left < matrix->group ? left : matrix->group;
        double low = (double)zeros[g];
        scales[g] = store_scale(((double)scales[g] - low) / top, row_exponent);
        if (scales[g] == 0) {
            zeros[g] = 0;
            memset(codes + from, 0, (size_t)n);
            continue;
        }
        int32_t zero = (int32_t)rint(-low / (double)scales[g]); /* <= top: scales are rounded up */
        zeros[g] = (float)zero;
        encode(codes + from, w + from, n, scales[g], -zero, top - zero, zero);
    }
    return true;
}

bool matrix_quantize_rows(struct matrix *matrix, const float *w, int32_t row_from, int32_t row_to,
                          struct err *err)
{
    CHECK(row_from >= 0 && row_from <= row_to && row_to <= matrix->n_out);
    CHECK(matrix->kind == CODE_INT && matrix->mins == NULL && matrix->order == NULL);
    for (int32_t row = row_from; row < row_to; row++) {
        const float *row_w = w + (size_t)(row - row_from) * (size_t)matrix->n_in;
        bool finite = matrix->symmetric ? quantize_row_symmetric(matrix, row_w, row)
                                        : quantize_row_asymmetric(matrix, row_w, row);
        if (!finite)
            return err_set(err, ERR_FORMAT, "row %d holds a weight that is not finite (NaN or Inf)",
                           row);
    }
    return true;
}

void matrix_dequantize_row(const struct matrix *matrix, int32_t row, float *out)
{
    CHECK(row >= 0 && row < matrix->n_out);
    CHECK(matrix->kind == CODE_INT || matrix->table != NULL);
    const size_t groups_at = (size_t)row * (size_t)matrix->n_groups;
    const uint8_t *codes = matrix->codes + (size_t)row * (size_t)matrix->n_in;
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        const int32_t from = g * matrix->group, left = matrix->n_in - from;
        const int32_t to = from + (left < matrix->group ? left : matrix->group);
        const float scale = matrix->scales[groups_at + (size_t)g];
        const float min = matrix->mins == NULL ? 0 : matrix->mins[groups_at + (size_t)g];
        float zero = 0;
        if (matrix->zeros != NULL)
            zero = matrix->zeros[groups_at + (size_t)g];
        else if (matrix->kind == CODE_INT && matrix->symmetric)
            zero = (float)(1 << (matrix->bits - 1));
        for (int32_t i = from; i < to; i++) {
            const float value =
                matrix->kind == CODE_TABLE ? matrix->table[codes[i]] : (float)codes[i] - zero;
            out[matrix->order == NULL ? i : matrix->order[i]] = scale * value - min;
        }
    }
}

bool matrix_scale_parts(const struct matrix *matrix, int32_t row, float *row_factor)
{
    CHECK(row >= 0 && row < matrix->n_out);
    const float *scales = matrix->scales + (size_t)row * (size_t)matrix->n_groups;
    *row_factor = 1;
    int32_t most = magnitude_max(scales, matrix->n_groups);
    if (most == 0)
        return true;
    if (most >= INFINITY_BITS)
        return false;
    int exponent = factor_exponent((double)bits_float(most));
    *row_factor = ldexpf(1, exponent);
    for (int32_t g = 0; g < matrix->n_groups; g++) {
        /* 11 bits, and normal as fp16: the case of nearly all, without a library call */
        const int32_t bits = float_bits(scales[g]);
        if ((bits & 0x1fff) == 0 && (bits >> 23 & 0xff) - 127 - exponent >= F16_EXPONENT_MIN)
            continue;
        double scale = fabs((double)scales[g]);
        if (scale != 0 && round_up(scale, exponent + F16_QUANTUM_EXPONENT) != scale)
            return false;
    }
    return true;
}
