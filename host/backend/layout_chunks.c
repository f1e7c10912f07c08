/* layout_chunks.c - LAYOUT_CHUNKS_C16: tiles of 16 output rows in chunks of 128 inputs.
 *
 * For what other tools stored: 2, 3, 5 and 6 bits, K-quants, tables, E4M3, mins, scales that fp16
 * does not hold. The block is
 *
 *   +----------------------------------------------------+--------+--------+
 *   | CODE_TABLE: lut (of 16 entries), table f32[2^bits] | tile 0 | tile 1 | ...
 *   +----------------------------------------------------+--------+--------+
 *   tile:   | factor f32[16] | chunk 0 | chunk 1 | ...
 *   chunk:  | scales [subs][16] | offsets [subs][16] | shared | pad to 64 | unit 0 | ... unit 3 |
 *
 *   weight = scale * factor * (value(code) - zero) - min * factor
 *
 *   A sub is the part of a group that lies in the chunk: 16, 32, 64 or 128 inputs. Every chunk has
 *   the parameters of 128 / sub subs, so that a chunk has one place whatever the group; groups of
 *   more than 128 are repeated. Scales are
 *     F16   f16, with a power of two a row (1 where the file has fp16), or the factor that makes
 *           NVFP4's scales fp16 (they are E4M3 times a float)
 *     F32   f32
 *     I8    int8 times an f16 of the chunk in `shared`: K-quants and IQ4_XS, whose scales are whole
 *           multiples of the block's d. The greatest common divisor of the scales gives it back.
 *     E8    the exponent bits of an f32: powers of two (MXFP4)
 *   offsets: none when symmetric; zeros, f16 (f32 with F32); mins in the form of the scales, I8's
 *   with their own f16 of the chunk (16 more in `shared`).
 *
 *   A unit is 32 inputs: 8 operands of 16 rows x 4 inputs, byte 4 r + i % 4 of operand i / 4, as
 *   vpdpbusd takes them. Codes of b bits are split into a part of 2, 4 or 8 bits and one of 1 or 2,
 *   each in lines of 64 bytes:
 *
 *     8 bits   line k       = operand k
 *     4 bits   line k / 2   : operand k in the low (k even) or high nibbles
 *     2 bits   line k / 4   : operand k in bits 2 (k % 4), + 1
 *     1 bit    line 0       : operand k in bit k
 *     3 = 2 + 1 bits, 5 = 4 + 1, 6 = 4 + 2, 7 is stored as 8; the low bits of the code come first
 *
 *   The row is padded to whole units with code 0, which activations of 0 meet. Bytes a weight, n_in
 *   large: Q4_K 4.75 bits (file 4.5), Q6_K 6.75 (6.56), Q5_K 5.75 (5.5), MXFP4 4.25 (4.25), NVFP4 5
 *   (4.5), NF4 in groups of 64 with f32 4.5 (4.5).
 *
 *   Worked by hand: Q4_K, row 1, input 37 (unit 1, operand 1, byte 4 * 1 + 1): the code is the high
 *   nibble of byte codes_at + 256 + 5; its scale int8 is byte 16 * 1 + 1 of the chunk. The test has
 *   it. */
#include "host/backend/layout_chunks.h"

#include <assert.h>
#include <math.h>
#include "host/base/err.h"

enum {
    TILE_ROWS = LAYOUT_TILE_ROWS,
    UNIT_QUADS = LAYOUT_UNIT / 4,
    I8_MOST = 127,
};

static size_t pad(size_t bytes)
{
    return (bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
}
static int32_t n_groups_of(const struct layout_shape *shape)
{
    return (shape->n_in - 1) / shape->group + 1;
}
static size_t table_at(const struct layout_shape *shape)
{
    return layout_chunks_is_e4m3(shape) ? 0 : pad(sizeof(struct layout_lut));
}

static bool has_e4m3_values(const float *table)
{
    for (int32_t i = 0; i < 256; i++) {
        const float value = half_e4m3_to_f32((uint8_t)i);
        if (!isnan(value) && table[i] != value)
            return false;
    }
    return true;
}

bool layout_chunks_fits(const struct layout_shape *shape, const float *table)
{
    const int32_t group = shape->group;
    const bool whole = group >= shape->n_in || group % LAYOUT_CHUNK == 0;
    if (!whole && group != 16 && group != 32 && group != 64)
        return false;
    if (shape->kind == CODE_INT)
        return shape->bits >= 2 && shape->bits <= 8;
    return shape->bits == 4 ||
           (layout_chunks_is_e4m3(shape) && (table == NULL || has_e4m3_values(table)));
}

/* Bytes of scales, offsets and shared parts of a chunk of n_subs. */
static void place_params(struct layout_chunks *t)
{
    static const size_t bytes_of[] = { [LAYOUT_SCALES_F16] = 2,
                                       [LAYOUT_SCALES_F32] = 4,
                                       [LAYOUT_SCALES_I8] = 1,
                                       [LAYOUT_SCALES_E8] = 1 };
    const size_t n = (size_t)t->n_subs * TILE_ROWS, size = bytes_of[t->scales];
    size_t offset = 0;
    if (t->zeros || t->mins)
        offset = t->scales == LAYOUT_SCALES_F32             ? 4
                 : t->mins && t->scales == LAYOUT_SCALES_I8 ? 1
                                                            : 2;
    t->offsets_at = n * size;
    t->shared_at = t->offsets_at + n * offset;
    size_t shared = t->scales == LAYOUT_SCALES_I8 ? TILE_ROWS * sizeof(uint16_t) : 0;
    shared *= t->mins ? 2 : 1;
    t->codes_at = pad(t->shared_at + shared);
}

void layout_chunks_of(const struct layout_shape *shape, struct layout_chunks *chunks)
{
    CHECK(shape->layout == LAYOUT_CHUNKS_C16 && layout_chunks_fits(shape, NULL));
    const bool one_sub = shape->group >= LAYOUT_CHUNK || shape->group >= shape->n_in;
    const int32_t bits = shape->bits == 7 ? 8 : shape->bits;
    struct layout_chunks t = {
        .n_tiles = (shape->n_out - 1) / TILE_ROWS + 1,
        .n_chunks = (shape->n_in - 1) / LAYOUT_CHUNK + 1,
        .sub = one_sub ? LAYOUT_CHUNK : shape->group,
        .code_bits = bits,
        .unit_bytes = LAYOUT_ALIGN * bits,
        .zeros = !shape->symmetric && !shape->mins,
        .mins = shape->mins,
        .scales = shape->scales,
    };
    t.n_subs = LAYOUT_CHUNK / t.sub;
    place_params(&t);
    const int32_t units = LAYOUT_CHUNK / LAYOUT_UNIT;
    t.chunk_bytes = t.codes_at + (size_t)(units * t.unit_bytes);
    const int32_t last = layout_chunk_units(shape, t.n_chunks - 1);
    t.tile_bytes = TILE_ROWS * sizeof(float) + (size_t)t.n_chunks * t.chunk_bytes -
                   (size_t)((units - last) * t.unit_bytes);
    if (shape->kind == CODE_TABLE)
        t.tiles_at = table_at(shape) + pad(sizeof(float) << shape->bits);
    *chunks = t;
}

size_t layout_chunks_bytes(const struct layout_shape *shape)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    return t.tiles_at + (size_t)t.n_tiles * t.tile_bytes;
}

/* ---- what codes stand for ---------------------------------------------------------------------
 */

void layout_chunks_int_lut(const struct layout_shape *shape, struct layout_lut *lut)
{
    *lut = (struct layout_lut){ .step = 1, .planes = 1 };
    lut->zero = shape->symmetric ? 1 << (shape->bits - 1) : 0;
}

static void set_code(struct layout_lut *lut, int32_t code, int64_t value)
{
    for (int32_t p = 0; p < lut->planes; p++)
        lut->plane[p][code] = (uint8_t)((value + lut->zero) >> (8 * p));
}

/* Sixteen values. Whole multiples of a power of two that fit int8 take one plane and are exact:
 * E2M1, IQ4. Others (NF4, FP4) are rounded to 16 bits of the largest: 2^-16 of it at most, where
 * the activations keep 8 bits. */
static void lut_of_16(const float *table, struct layout_lut *lut)
{
    float most = 0;
    for (int32_t i = 0; i < 16; i++)
        most = fmaxf(most, fabsf(table[i]));
    *lut = (struct layout_lut){ .step = 1, .zero = 128, .planes = 1 };
    for (int32_t e = -12; e <= 0; e++) {
        const float step = most > 0 ? ldexpf(1, ilogbf(most) + e + 6) : 1;
        bool whole = most <= 127 * step;
        for (int32_t i = 0; i < 16 && whole; i++)
            whole = rintf(table[i] / step) == table[i] / step;
        if (!whole)
            continue;
        lut->step = step;
        for (int32_t i = 0; i < 16; i++)
            set_code(lut, i, (int64_t)lrintf(table[i] / step));
        return;
    }
    *lut = (struct layout_lut){ .step = most / 32767, .zero = 32768, .planes = 2 };
    for (int32_t i = 0; i < 16; i++) {
        const double whole = rint((double)table[i] / (double)lut->step);
        set_code(lut, i, (int64_t)fmin(fmax(whole, -32767), 32767));
    }
}

/* ---- scales -----------------------------------------------------------------------------------
 */

static bool is_f16(float value)
{
    return half_f16_to_f32(half_f32_to_f16(value)) == value;
}
static bool near_f16(float value, float factor)
{
    const float back = half_f16_to_f32(half_f32_to_f16(value / factor)) * factor;
    return back == value || nextafterf(back, value) == value;
}

/* The factor by which a row's scales become fp16 values, mins too: 1, a power of two, or, within a
 * unit in the last place, that of E4M3 times a float. */
static bool f16_factor(const float *scales, const float *mins, int32_t n, const struct matrix *m,
                       int32_t row, float *factor)
{
    bool fits = true;
    for (int32_t g = 0; g < n && fits; g++)
        fits = is_f16(scales[g]) && (mins == NULL || is_f16(mins[g]));
    *factor = 1;
    if (fits)
        return true;
    fits = matrix_scale_parts(m, row, factor);
    for (int32_t g = 0; g < n && fits && mins != NULL; g++)
        fits = is_f16(mins[g] / *factor);
    if (fits || mins != NULL)
        return fits;
    const float power = *factor;
    float most = 0;
    for (int32_t g = 0; g < n; g++)
        most = fmaxf(most, fabsf(scales[g]));
    for (int32_t eighths = 8; eighths < 16; eighths++) {
        float tried = nextafterf(nextafterf(most / (float)(eighths * 16), 0), 0);
        for (int32_t i = 0; i < 5; i++, tried = nextafterf(tried, INFINITY)) {
            fits = tried >= 0x1p-100f;
            for (int32_t g = 0; g < n && fits; g++)
                fits = near_f16(scales[g], tried);
            if (fits) {
                *factor = tried;
                return true;
            }
        }
    }
    *factor = power;
    return false;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}
/* whole[i] * shared = values[i], exactly, with shared an fp16 value. */
static bool whole_parts(const float *values, int32_t n, float *shared, int8_t *whole)
{
    uint32_t odd = 0;
    int32_t least = INT32_MAX;
    *shared = 0;
    memset(whole, 0, (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return false;
        if (values[i] == 0)
            continue;
        int exponent;
        uint32_t mantissa = (uint32_t)ldexpf(frexpf(fabsf(values[i]), &exponent), 24);
        const int32_t zeros = __builtin_ctz(mantissa);
        mantissa >>= zeros;
        exponent += zeros - 24;
        odd = odd ? gcd(odd, mantissa) : mantissa;
        least = exponent < least ? exponent : least;
    }
    if (odd == 0)
        return true;
    const float unit = ldexpf((float)odd, least);
    float high = 0, low = 0;
    for (int32_t i = 0; i < n; i++) {
        high = fmaxf(high, values[i] / unit);
        low = fminf(low, values[i] / unit);
    }
    for (int32_t k = 1; k <= 128; k++) {
        const float tried = unit / (float)k;
        if (high * (float)k > 128 || low * (float)k < -128)
            return false;
        if (tried * (float)k != unit || !is_f16(tried))
            continue;
        const float sign = high * (float)k > I8_MOST ? -1.0f : 1.0f;
        if (sign < 0 && low * (float)k < -I8_MOST)
            return false;
        *shared = sign * tried;
        for (int32_t i = 0; i < n; i++)
            whole[i] = (int8_t)lrintf(values[i] / *shared);
        return true;
    }
    return false;
}

/* The power of two by which scales of powers of two become exponent bits. */
static bool e8_factor(const float *scales, int32_t n, float *factor)
{
    int32_t least = INT32_MAX, most = INT32_MIN;
    *factor = 1;
    for (int32_t g = 0; g < n; g++) {
        int exponent;
        if (scales[g] == 0)
            continue;
        if (!(scales[g] > 0) || !isfinite(scales[g]) || frexpf(scales[g], &exponent) != 0.5f)
            return false;
        least = exponent - 1 < least ? exponent - 1 : least;
        most = exponent - 1 > most ? exponent - 1 : most;
    }
    if (least == INT32_MAX || least >= -126)
        return true;
    /* 254 exponents; the least of more become 0, which sums with the greatest do not feel. */
    const int32_t shift = most - least <= 253 ? least + 126 : most - 127;
    *factor = ldexpf(1, shift);
    return shift == least + 126;
}

static bool chunk_whole_parts(const struct matrix *m, const float *values)
{
    const int32_t n = m->group >= LAYOUT_CHUNK ? 1 : LAYOUT_CHUNK / m->group;
    for (int32_t g = 0; g < m->n_groups; g += n) {
        float shared;
        int8_t whole[LAYOUT_SUBS_MAX];
        const int32_t left = m->n_groups - g;
        if (n > LAYOUT_SUBS_MAX || !whole_parts(values + g, left < n ? left : n, &shared, whole))
            return false;
    }
    return true;
}

uint32_t layout_scales_fit(const struct matrix *m, int32_t n_rows)
{
    uint32_t fit = 1u << LAYOUT_SCALES_F16 | 1u << LAYOUT_SCALES_F32 | 1u << LAYOUT_SCALES_I8 |
                   1u << LAYOUT_SCALES_E8;
    if (m->mins != NULL)
        fit &= ~(1u << LAYOUT_SCALES_E8);
    for (int32_t row = 0; row < n_rows; row++) {
        const size_t at = (size_t)row * (size_t)m->n_groups;
        const float *scales = m->scales + at, *mins = m->mins == NULL ? NULL : m->mins + at;
        float factor;
        if (fit & 1u << LAYOUT_SCALES_F16 &&
            !f16_factor(scales, mins, m->n_groups, m, row, &factor))
            fit &= ~(1u << LAYOUT_SCALES_F16);
        if (fit & 1u << LAYOUT_SCALES_I8 &&
            !(chunk_whole_parts(m, scales) && (mins == NULL || chunk_whole_parts(m, mins))))
            fit &= ~(1u << LAYOUT_SCALES_I8);
        if (fit & 1u << LAYOUT_SCALES_E8 && !e8_factor(scales, m->n_groups, &factor))
            fit &= ~(1u << LAYOUT_SCALES_E8);
        for (int32_t g = 0; m->zeros != NULL && g < m->n_groups; g++)
            if (!is_f16(m->zeros[at + (size_t)g]))
                fit &= 1u << LAYOUT_SCALES_F32;
    }
    return fit;
}

enum layout_scales layout_scales_best(const struct layout_shape *shape, uint32_t fit)
{
    static const enum layout_scales by_work[] = { LAYOUT_SCALES_F16, LAYOUT_SCALES_E8,
                                                  LAYOUT_SCALES_I8, LAYOUT_SCALES_F32 };
    struct layout_shape tried = *shape;
    tried.layout = LAYOUT_CHUNKS_C16;
    size_t least = SIZE_MAX;
    enum layout_scales best = LAYOUT_SCALES_F32;
    for (size_t i = 0; i < sizeof by_work / sizeof *by_work; i++) {
        tried.scales = by_work[i];
        if (!(fit & 1u << by_work[i]) || layout_chunks_bytes(&tried) >= least)
            continue;
        least = layout_chunks_bytes(&tried);
        best = by_work[i];
    }
    return best;
}

/* ---- packing ----------------------------------------------------------------------------------
 */

static void put_half(uint8_t *area, int32_t at, float value)
{
    const uint16_t bits = half_f32_to_f16(value);
    memcpy(area + (size_t)at * sizeof bits, &bits, sizeof bits);
}
static void put_float(uint8_t *area, int32_t at, float value)
{
    memcpy(area + (size_t)at * sizeof value, &value, sizeof value);
}

/* n values of one row of a chunk in a form; shared: I8's. */
static void put_values(enum layout_scales form, const float *values, int32_t n, float factor,
                       int32_t lane, uint8_t *area, uint8_t *shared)
{
    float unit = 0;
    int8_t whole[LAYOUT_SUBS_MAX];
    if (form == LAYOUT_SCALES_I8) {
        if (!whole_parts(values, n, &unit, whole))
            CHECK(n <= LAYOUT_SUBS_MAX); /* layout_scales_fit said so: zeros */
        put_half(shared, lane, unit);
    }
    for (int32_t s = 0; s < n; s++) {
        const int32_t at = s * TILE_ROWS + lane;
        if (form == LAYOUT_SCALES_F16) {
            put_half(area, at, values[s] / factor);
        } else if (form == LAYOUT_SCALES_F32) {
            put_float(area, at, values[s]);
        } else if (form == LAYOUT_SCALES_I8) {
            area[at] = (uint8_t)whole[s];
        } else {
            uint32_t bits;
            const float power = values[s] / factor;
            memcpy(&bits, &power, sizeof bits);
            area[at] = (uint8_t)(bits >> 23);
        }
    }
}

static void pack_params(const struct layout_shape *shape, const struct layout_chunks *t,
                        const struct matrix *m, int32_t m_row, int32_t lane, float factor,
                        uint8_t *chunks)
{
    const size_t row_at = (size_t)m_row * (size_t)m->n_groups;
    for (int32_t c = 0; c < t->n_chunks; c++, chunks += t->chunk_bytes) {
        const int32_t g = c * LAYOUT_CHUNK / shape->group, left = m->n_groups - g;
        const int32_t n = left < t->n_subs ? left : t->n_subs;
        const size_t at = row_at + (size_t)g;
        uint8_t *shared = chunks + t->shared_at;
        put_values(t->scales, m->scales + at, n, factor, lane, chunks, shared);
        uint8_t *offsets = chunks + t->offsets_at;
        const enum layout_scales zeros_form =
            t->scales == LAYOUT_SCALES_F32 ? LAYOUT_SCALES_F32 : LAYOUT_SCALES_F16;
        if (t->zeros)
            put_values(zeros_form, m->zeros + at, n, 1, lane, offsets, NULL);
        if (t->mins)
            put_values(t->scales == LAYOUT_SCALES_E8 ? LAYOUT_SCALES_F16 : t->scales, m->mins + at,
                       n, factor, lane, offsets, shared + TILE_ROWS * sizeof(uint16_t));
    }
}

static void or_word(uint8_t *line, uint32_t word, int32_t shift)
{
    uint32_t old;
    memcpy(&old, line, sizeof old);
    old |= word << shift;
    memcpy(line, &old, sizeof old);
}
/* The reverse of layout_quad. */
static void put_quad(uint8_t *unit, int32_t code_bits, int32_t k, int32_t lane, uint32_t word)
{
    uint8_t *at = unit + 4 * lane;
    const uint32_t ones = 0x01010101u;
    enum { LINE = LAYOUT_ALIGN };
    switch (code_bits) {
    case 2:
    case 3:
        or_word(at + k / 4 * LINE, word & 3 * ones, 2 * (k % 4));
        if (code_bits == 3)
            or_word(at + 2 * LINE, word >> 2 & ones, k);
        break;
    case 8:
        or_word(at + k * LINE, word, 0);
        break;
    default:
        or_word(at + k / 2 * LINE, word & 15 * ones, 4 * (k % 2));
        if (code_bits == 5)
            or_word(at + 4 * LINE, word >> 4 & ones, k);
        if (code_bits == 6)
            or_word(at + 4 * LINE + k / 4 * LINE, word >> 4 & 3 * ones, 2 * (k % 4));
    }
}

/* Codes of 8 bits: a quad is a word of a line, and the lines of a chunk follow each other. */
static void pack_bytes(const struct layout_chunks *t, const uint8_t *codes, int32_t n_in,
                       int32_t lane, uint8_t *chunks)
{
    for (int32_t i = 0; i < n_in; i += LAYOUT_CHUNK, chunks += t->chunk_bytes) {
        uint8_t *to = chunks + t->codes_at + 4 * lane;
        const int32_t n = n_in - i < LAYOUT_CHUNK ? n_in - i : LAYOUT_CHUNK;
        int32_t k = 0;
        for (; k + 4 <= n; k += 4, to += LAYOUT_ALIGN)
            memcpy(to, codes + i + k, 4);
        if (k < n) /* padding is 0 already */
            memcpy(to, codes + i + k, (size_t)(n - k));
    }
}
static void pack_codes(const struct layout_chunks *t, const uint8_t *codes, int32_t n_in,
                       int32_t lane, uint8_t *chunks)
{
    if (t->code_bits == 8) {
        pack_bytes(t, codes, n_in, lane, chunks);
        return;
    }
    for (int32_t i = 0; i < n_in; i += 4) {
        uint32_t word = 0;
        memcpy(&word, codes + i, (size_t)(n_in - i < 4 ? n_in - i : 4));
        uint8_t *chunk = chunks + (size_t)(i / LAYOUT_CHUNK) * t->chunk_bytes;
        uint8_t *unit = chunk + t->codes_at + i % LAYOUT_CHUNK / LAYOUT_UNIT * t->unit_bytes;
        put_quad(unit, t->code_bits, i % LAYOUT_UNIT / 4, lane, word);
    }
}

static void pack_table(const struct layout_shape *shape, const float *table, uint8_t *out)
{
    struct layout_lut lut;
    memset(out, 0, table_at(shape));
    if (!layout_chunks_is_e4m3(shape)) {
        lut_of_16(table, &lut);
        memcpy(out, &lut, sizeof lut);
    }
    memcpy(out + table_at(shape), table, sizeof *table << shape->bits);
}

void layout_chunks_pack(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                        int32_t row_from, int32_t row_to, void *out)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    if (shape->kind == CODE_TABLE && row_from == 0) { /* once, whoever has the first rows */
        CHECK(layout_chunks_fits(shape, m->table));
        pack_table(shape, m->table, out);
    }
    for (int32_t row = row_from; row < row_to; row++, m_row++) {
        const int32_t tile_index = row / TILE_ROWS, lane = row % TILE_ROWS;
        uint8_t *tile = (uint8_t *)out + t.tiles_at + (size_t)tile_index * t.tile_bytes;
        uint8_t *chunks = tile + TILE_ROWS * sizeof(float);
        const size_t groups_at = (size_t)m_row * (size_t)m->n_groups;
        if (lane == 0)
            memset(tile, 0, t.tile_bytes);
        float factor = 1;
        if (shape->scales == LAYOUT_SCALES_F16 &&
            !f16_factor(m->scales + groups_at, m->mins ? m->mins + groups_at : NULL, m->n_groups, m,
                        m_row, &factor))
            CHECK(factor > 0); /* some are rounded to 11 bits: who chose F16 said that they fit */
        if (shape->scales == LAYOUT_SCALES_E8)
            (void)e8_factor(m->scales + groups_at, m->n_groups, &factor);
        put_float(tile, lane, factor);
        pack_params(shape, &t, m, m_row, lane, factor, chunks);
        pack_codes(&t, m->codes + (size_t)m_row * (size_t)m->n_in, m->n_in, lane, chunks);
    }
}

/* ---- reading back -----------------------------------------------------------------------------
 */

static const uint8_t *tile_of(const struct layout_chunks *t, const void *packed, int32_t row)
{
    return (const uint8_t *)packed + t->tiles_at + (size_t)(row / TILE_ROWS) * t->tile_bytes;
}
static const uint8_t *chunk_of(const struct layout_chunks *t, const void *packed, int32_t row,
                               int32_t col)
{
    return tile_of(t, packed, row) + TILE_ROWS * sizeof(float) +
           (size_t)(col / LAYOUT_CHUNK) * t->chunk_bytes;
}

uint8_t layout_chunks_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                              int32_t col)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    const uint8_t *unit = chunk_of(&t, packed, row, col) + t.codes_at +
                          col % LAYOUT_CHUNK / LAYOUT_UNIT * t.unit_bytes;
    const uint32_t word = layout_quad(unit, t.code_bits, col % LAYOUT_UNIT / 4, row % TILE_ROWS);
    return (uint8_t)(word >> (8 * (col % 4)));
}

float layout_chunks_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                             int32_t group)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    const int32_t col = group * shape->group, sub = col % LAYOUT_CHUNK / t.sub;
    const float factor = layout_float_at(tile_of(&t, packed, row), row % TILE_ROWS);
    return layout_sub_scale(&t, chunk_of(&t, packed, row, col), sub, row % TILE_ROWS) * factor;
}

float layout_chunks_offset_at(const struct layout_shape *shape, const void *packed, int32_t row,
                              int32_t group)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    const int32_t col = group * shape->group, sub = col % LAYOUT_CHUNK / t.sub;
    const float factor = layout_float_at(tile_of(&t, packed, row), row % TILE_ROWS);
    const float offset =
        layout_sub_offset(&t, chunk_of(&t, packed, row, col), sub, row % TILE_ROWS);
    return t.mins ? offset * factor : offset;
}

float layout_chunks_value_of(const void *packed, int32_t bits, uint8_t code)
{
    const struct layout_shape shape = { .kind = CODE_TABLE, .bits = bits };
    return layout_float_at((const uint8_t *)packed + table_at(&shape), code);
}

void layout_chunks_row(const struct layout_shape *shape, const void *packed, int32_t row,
                       float *out)
{
    struct layout_chunks t;
    layout_chunks_of(shape, &t);
    const int32_t lane = row % TILE_ROWS, n_groups = n_groups_of(shape);
    const float symmetric_zero = shape->symmetric ? (float)(1 << (shape->bits - 1)) : 0;
    const uint8_t *table = (const uint8_t *)packed + table_at(shape);
    for (int32_t g = 0; g < n_groups; g++) {
        const float scale = layout_chunks_scale_at(shape, packed, row, g);
        const float offset = layout_chunks_offset_at(shape, packed, row, g);
        const float zero = t.zeros ? offset : symmetric_zero;
        const int32_t end = n_groups - g == 1 ? shape->n_in : (g + 1) * shape->group;
        for (int32_t i = g * shape->group; i < end; i += 4) {
            const uint8_t *unit = chunk_of(&t, packed, row, i) + t.codes_at +
                                  i % LAYOUT_CHUNK / LAYOUT_UNIT * t.unit_bytes;
            uint32_t word = layout_quad(unit, t.code_bits, i % LAYOUT_UNIT / 4, lane);
            for (int32_t j = i; j < end && j < i + 4; j++, word >>= 8) {
                const int32_t code = (int32_t)(word & 255);
                if (shape->kind == CODE_TABLE)
                    out[j] = scale * layout_float_at(table, code);
                else if (t.mins)
                    out[j] = scale * (float)code - offset;
                else
                    out[j] = scale * ((float)code - zero);
            }
        }
    }
}
