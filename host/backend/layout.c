/* layout.c - resident weight layouts: drawn here, defined by layout_pack and layout_code_at.
 *
 * Pure functions on caller's memory. Invariant: for every matrix, what layout_code_at and
 * layout_zero_at read back is what was packed, and layout_scale_at too where matrix_scale_parts
 * says that the scales fit (always for our own quantizer). Loaders call layout_pack, kernels read.
 *
 * LAYOUT_ROWS    [n_out][n_in] in the stored dtype, row after row; may be the mapped file itself.
 *                Read by the fp32 kernels.
 *
 * LAYOUT_CODES   the canonical matrix in any form; read by the fp32 kernels (exact arithmetic).
 * Five areas, each at a multiple of 64 bytes: codes   u8  [n_out][n_in] scales  f32
 * [n_out][n_groups] zeros   f32 [n_out][n_groups]   unless symmetric or with mins mins    f32
 * [n_out][n_groups]   with mins table   f32 [2^bits]            CODE_TABLE
 *
 * LAYOUT_W4_C16, LAYOUT_W8_C16   tiles of 16 output rows for int8 dot products; read by
 *                cpu/linear_*.c. Tile t = rows 16 t .. 16 t + 15, tiles follow each other:
 *
 *   byte 0          64                64 + pad64(32 n_groups)        codes_at
 *   +---------------+-----------------+-----------------------------+--------------------------+
 *   | factor f32[16]| scales f16      | zeros f16 [n_groups][16]    | codes: octs 0, 1, 2, ... |
 *   |  one per row  | [n_groups][16]  | (absent when symmetric)     |                          |
 *   +---------------+-----------------+-----------------------------+--------------------------+
 *
 *   weight = scale * factor * (code - zero). factor is a power of two (matrix_scale_parts), so the
 *   16-bit scales lose nothing; zeros are whole numbers or fractions that fp16 holds.
 *
 *   An oct is 8 consecutive inputs of one group, for all 16 rows. Each group starts a new oct, the
 *   last oct of a group is padded with code 0 (its activations are 0 too). One oct at 4 bits is one
 *   cache line; low nibbles are its inputs 0-3, high nibbles its inputs 4-7:
 *
 *     byte      0      1      2      3   |   4  ...  7   | ...  |  60 ... 63
 *     low    r0,i0  r0,i1  r0,i2  r0,i3  | r1,i0 ..r1,i3 | ...  | r15,i0 .. r15,i3
 *     high   r0,i4  r0,i5  r0,i6  r0,i7  | r1,i4 ..r1,i7 | ...  | r15,i4 .. r15,i7
 *
 *   so (line & 0x0f) and (line >> 4 & 0x0f) are both operands of vpdpbusd: lane r gets 4 inputs of
 *   row r. At 8 bits an oct is two lines, the first with inputs 0-3, the second with 4-7; 16 such
 *   lines (64 inputs) are one B tile of an AMX tdpbsud.
 *
 *     code byte of (row, col):  g = col / group,  i = col % group,  oct = g * group_octs + i / 8
 *       4 bits  codes_at + 64 oct + 4 (row % 16) + i % 4,       nibble (i % 8) / 4
 *       8 bits  codes_at + 128 oct + 64 ((i % 8) / 4) + 4 (row % 16) + i % 4
 *
 *   Rows past n_out in the last tile have factor, scales and codes 0. Everything is a multiple of
 * 64 bytes: a line never straddles two cache lines. Cost at 4 bits, n_in 2048: 4.27 bits a weight
 * with groups of 128, 4.52 with 64; a row's factor is 32 bits of it.
 *
 * LAYOUT_W4_F64, LAYOUT_W8_F64   units in the order of MMA fragments, for the CUDA kernels; drawn
 * in layout_f64.c, which has the code too.
 *
 * LAYOUT_CHUNKS_C16   what other tools stored, on the CPU; drawn in layout_chunks.c, which has the
 * code too. */
#include "host/backend/layout.h"

#include <assert.h>
#include <string.h>
#include "host/base/err.h"
#include "host/base/half.h"
#include "host/backend/layout_chunks.h"

static_assert(LAYOUT_CHUNK % LAYOUT_OCT == 0, "a chunk is whole octs");
static_assert(LAYOUT_TILE_ROWS * LAYOUT_OCT / 2 == LAYOUT_ALIGN, "an oct of 4 bits is a line");

static size_t pad(size_t bytes)
{
    return (bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
}
static bool is_tiled(enum layout layout)
{
    return layout == LAYOUT_W4_C16 || layout == LAYOUT_W8_C16;
}
static bool is_f64(enum layout layout)
{
    return layout == LAYOUT_W4_F64 || layout == LAYOUT_W8_F64;
}
static int32_t groups_of(const struct layout_shape *shape)
{
    return (shape->n_in - 1) / shape->group + 1;
}
static void check_shape(const struct layout_shape *shape)
{
    CHECK(shape->n_out > 0 && shape->n_in > 0);
    CHECK(shape->group > 0 && shape->group <= shape->n_in);
    const bool four = shape->layout == LAYOUT_W4_C16 || shape->layout == LAYOUT_W4_F64;
    CHECK(shape->bits >= 1 && shape->bits <= (four ? 4 : 8));
    CHECK(!shape->symmetric || !shape->mins);
    CHECK(shape->kind == CODE_INT || shape->symmetric);
    CHECK(shape->layout == LAYOUT_CODES || shape->layout == LAYOUT_CHUNKS_C16 ||
          (!shape->mins && (shape->kind == CODE_INT || is_f64(shape->layout))));
}

const char *layout_name(enum layout layout)
{
    switch (layout) {
    case LAYOUT_ROWS:
        return "rows";
    case LAYOUT_CODES:
        return "codes";
    case LAYOUT_W4_C16:
        return "w4-c16";
    case LAYOUT_W8_C16:
        return "w8-c16";
    case LAYOUT_W4_F64:
        return "w4-f64";
    case LAYOUT_W8_F64:
        return "w8-f64";
    case LAYOUT_CHUNKS_C16:
        return "chunks-c16";
    case LAYOUT_COUNT:
        break;
    }
    return "?";
}

void layout_tiles_of(const struct layout_shape *shape, struct layout_tiles *tiles)
{
    check_shape(shape);
    CHECK(is_tiled(shape->layout));
    const int32_t n_groups = groups_of(shape);
    const int32_t last = shape->n_in - (n_groups - 1) * shape->group;
    struct layout_tiles t = {
        .n_tiles = (shape->n_out - 1) / LAYOUT_TILE_ROWS + 1,
        .n_groups = n_groups,
        .group_octs = (shape->group - 1) / LAYOUT_OCT + 1,
        .group_chunks = (shape->group - 1) / LAYOUT_CHUNK + 1,
        .oct_bytes = shape->layout == LAYOUT_W4_C16 ? LAYOUT_ALIGN : 2 * LAYOUT_ALIGN,
    };
    t.n_octs = (n_groups - 1) * t.group_octs + (last - 1) / LAYOUT_OCT + 1;
    t.n_chunks = (n_groups - 1) * t.group_chunks + (last - 1) / LAYOUT_CHUNK + 1;
    const size_t halves = pad((size_t)n_groups * LAYOUT_TILE_ROWS * sizeof(uint16_t));
    t.scales_at = pad(LAYOUT_TILE_ROWS * sizeof(float));
    t.zeros_at = shape->symmetric ? 0 : t.scales_at + halves;
    t.codes_at = t.scales_at + (shape->symmetric ? halves : 2 * halves);
    t.tile_bytes = t.codes_at + (size_t)t.n_octs * (size_t)t.oct_bytes;
    *tiles = t;
}

int32_t layout_chunk_inputs(const struct layout_shape *shape, int32_t chunk)
{
    if (shape->layout == LAYOUT_CHUNKS_C16) {
        const int32_t from = chunk * LAYOUT_CHUNK;
        CHECK(chunk >= 0 && from < shape->n_in);
        return shape->n_in - from < LAYOUT_CHUNK ? shape->n_in - from : LAYOUT_CHUNK;
    }
    const int32_t group_chunks = (shape->group - 1) / LAYOUT_CHUNK + 1;
    const int32_t group = chunk / group_chunks;
    const int32_t at = chunk % group_chunks * LAYOUT_CHUNK; /* inside the group */
    int32_t n = shape->group - at;
    if (n > shape->n_in - group * shape->group - at)
        n = shape->n_in - group * shape->group - at;
    CHECK(chunk >= 0 && n > 0);
    return n < LAYOUT_CHUNK ? n : LAYOUT_CHUNK;
}

int32_t layout_chunk_key(const struct layout_shape *shape)
{
    if (shape->layout == LAYOUT_CHUNKS_C16) { /* padded otherwise, and with sums of each sub */
        struct layout_chunks t;
        layout_chunks_of(shape, &t);
        return -t.sub;
    }
    if (shape->group % LAYOUT_CHUNK == 0 || shape->group >= shape->n_in)
        return shape->group < LAYOUT_CHUNK ? shape->group : LAYOUT_CHUNK;
    return shape->group;
}

/* ---- sizes and places -------------------------------------------------------------------------
 */

static size_t codes_scales_at(const struct layout_shape *shape)
{
    return pad((size_t)shape->n_out * (size_t)shape->n_in);
}
/* Where the second array of [n_out][n_groups] floats begins, zeros or mins: there is one at most.
 */
static size_t codes_offsets_at(const struct layout_shape *shape)
{
    const size_t scales = (size_t)shape->n_out * (size_t)groups_of(shape) * sizeof(float);
    return codes_scales_at(shape) + pad(scales);
}
static size_t codes_table_at(const struct layout_shape *shape)
{
    const size_t at = codes_offsets_at(shape);
    return shape->symmetric ? at : at + (at - codes_scales_at(shape));
}

size_t layout_bytes(const struct layout_shape *shape)
{
    check_shape(shape);
    if (is_tiled(shape->layout)) {
        struct layout_tiles t;
        layout_tiles_of(shape, &t);
        return (size_t)t.n_tiles * t.tile_bytes;
    }
    if (shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_bytes(shape);
    if (is_f64(shape->layout)) {
        struct layout_f64 f64;
        layout_f64_of(shape, &f64);
        return f64.bytes;
    }
    CHECK(shape->layout == LAYOUT_CODES);
    const size_t table = shape->kind == CODE_TABLE ? ((size_t)1 << shape->bits) * sizeof(float) : 0;
    return codes_table_at(shape) + pad(table);
}

static size_t code_byte_at(const struct layout_shape *shape, const struct layout_tiles *t,
                           int32_t row, int32_t col, int *shift)
{
    const int32_t within = col % shape->group;
    const int32_t oct = col / shape->group * t->group_octs + within / LAYOUT_OCT;
    const int32_t half = within % LAYOUT_OCT / 4; /* inputs 0-3 or 4-7 of the oct */
    size_t at = (size_t)(row / LAYOUT_TILE_ROWS) * t->tile_bytes + t->codes_at;
    at += (size_t)oct * (size_t)t->oct_bytes + (size_t)(row % LAYOUT_TILE_ROWS * 4 + within % 4);
    *shift = 0;
    if (shape->layout == LAYOUT_W4_C16)
        *shift = 4 * half;
    else
        at += (size_t)half * LAYOUT_ALIGN;
    return at;
}

/* ---- packing ----------------------------------------------------------------------------------
 */

/* Rows m_row .. of m become rows row_from .. row_to of the packed form. */
static void pack_codes(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                       int32_t row_from, int32_t row_to, uint8_t *out)
{
    const size_t n_in = (size_t)m->n_in, n_groups = (size_t)m->n_groups, at = (size_t)m_row;
    const size_t from = (size_t)row_from, n = (size_t)(row_to - row_from);
    memcpy(out + from * n_in, m->codes + at * n_in, n * n_in);
    memcpy(out + codes_scales_at(shape) + from * n_groups * sizeof(float),
           m->scales + at * n_groups, n * n_groups * sizeof(float));
    if (!m->symmetric)
        memcpy(out + codes_offsets_at(shape) + from * n_groups * sizeof(float),
               (shape->mins ? m->mins : m->zeros) + at * n_groups, n * n_groups * sizeof(float));
    if (m->kind == CODE_TABLE && row_from == 0) /* once, whoever has the first rows */
        memcpy(out + codes_table_at(shape), m->table, sizeof(float) << m->bits);
}

static void pack_tile_row(const struct layout_shape *shape, const struct layout_tiles *t,
                          const struct matrix *m, int32_t m_row, int32_t row, uint8_t *tile)
{
    const size_t lane = (size_t)(row % LAYOUT_TILE_ROWS);
    float factor;
    if (!matrix_scale_parts(m, m_row, &factor))
        CHECK(factor > 0); /* foreign scales: some are rounded to 11 bits below */
    memcpy(tile + t->factors_at + lane * sizeof factor, &factor, sizeof factor);
    for (int32_t g = 0; g < t->n_groups; g++) {
        const size_t at = ((size_t)g * LAYOUT_TILE_ROWS + lane) * sizeof(uint16_t);
        const size_t from = (size_t)m_row * (size_t)t->n_groups + (size_t)g;
        const uint16_t scale = half_f32_to_f16(m->scales[from] / factor);
        memcpy(tile + t->scales_at + at, &scale, sizeof scale);
        if (t->zeros_at) {
            const uint16_t zero = half_f32_to_f16(m->zeros[from]);
            memcpy(tile + t->zeros_at + at, &zero, sizeof zero);
        }
    }
    const uint8_t *codes = m->codes + (size_t)m_row * (size_t)m->n_in;
    const bool nibbles = shape->layout == LAYOUT_W4_C16;
    for (int32_t first = 0, g = 0; first < m->n_in; first += shape->group, g++) {
        uint8_t *to = tile + t->codes_at + (size_t)g * (size_t)t->group_octs * (size_t)t->oct_bytes;
        const int32_t left = m->n_in - first;
        const int32_t n = left < shape->group ? left : shape->group;
        to += lane * 4;
        for (int32_t i = 0; i < n; i += LAYOUT_OCT, to += t->oct_bytes) {
            uint8_t oct[LAYOUT_OCT] = { 0 };
            memcpy(oct, codes + first + i, (size_t)(n - i < LAYOUT_OCT ? n - i : LAYOUT_OCT));
            for (int j = 0; j < 4; j++) {
                if (nibbles) {
                    to[j] = (uint8_t)(oct[j] | oct[4 + j] << 4);
                } else {
                    to[j] = oct[j];
                    to[LAYOUT_ALIGN + j] = oct[4 + j];
                }
            }
        }
    }
}

static void pack_rows(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                      int32_t row_from, int32_t row_to, void *out)
{
    check_shape(shape);
    CHECK(shape->n_in == m->n_in && shape->group == m->group && shape->bits == m->bits);
    CHECK(shape->symmetric == m->symmetric && shape->kind == m->kind);
    CHECK(shape->mins == (m->mins != NULL) && (m->kind == CODE_INT || m->table != NULL));
    CHECK(row_from >= 0 && row_from <= row_to && row_to <= shape->n_out);
    CHECK(row_from % LAYOUT_TILE_ROWS == 0);
    CHECK(row_to % LAYOUT_TILE_ROWS == 0 || row_to == shape->n_out);
    if (shape->layout == LAYOUT_CODES) {
        pack_codes(shape, m, m_row, row_from, row_to, out);
        return;
    }
    if (is_f64(shape->layout)) {
        layout_f64_pack(shape, m, m_row, row_from, row_to, out);
        return;
    }
    if (shape->layout == LAYOUT_CHUNKS_C16) {
        layout_chunks_pack(shape, m, m_row, row_from, row_to, out);
        return;
    }
    struct layout_tiles t;
    layout_tiles_of(shape, &t);
    for (int32_t row = row_from; row < row_to; row++) {
        uint8_t *tile = (uint8_t *)out + (size_t)(row / LAYOUT_TILE_ROWS) * t.tile_bytes;
        if (row % LAYOUT_TILE_ROWS == 0)
            memset(tile, 0, t.tile_bytes);
        pack_tile_row(shape, &t, m, m_row + row - row_from, row, tile);
    }
}

void layout_pack(const struct layout_shape *shape, const struct matrix *matrix, int32_t row_from,
                 int32_t row_to, void *out)
{
    CHECK(shape->n_out == matrix->n_out);
    pack_rows(shape, matrix, row_from, row_from, row_to, out);
}

void layout_pack_block(const struct layout_shape *shape, const struct matrix *block, int32_t n_rows,
                       int32_t row_from, void *out)
{
    CHECK(n_rows >= 0 && n_rows <= block->n_out && n_rows <= shape->n_out - row_from);
    pack_rows(shape, block, 0, row_from, row_from + n_rows, out);
}

/* ---- reading back -----------------------------------------------------------------------------
 */

uint8_t layout_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                       int32_t col)
{
    const uint8_t *bytes = packed;
    CHECK(row >= 0 && row < shape->n_out && col >= 0 && col < shape->n_in);
    if (shape->layout == LAYOUT_CODES)
        return bytes[(size_t)row * (size_t)shape->n_in + (size_t)col];
    if (is_f64(shape->layout))
        return layout_f64_code_at(shape, packed, row, col);
    if (shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_code_at(shape, packed, row, col);
    struct layout_tiles t;
    layout_tiles_of(shape, &t);
    int shift;
    const uint8_t byte = bytes[code_byte_at(shape, &t, row, col, &shift)];
    if (shape->layout == LAYOUT_W8_C16)
        return byte;
    return shift ? byte >> 4 : byte & 15;
}

static float half_in_tile(const struct layout_tiles *t, const uint8_t *packed, size_t area,
                          int32_t row, int32_t group)
{
    const uint8_t *tile = packed + (size_t)(row / LAYOUT_TILE_ROWS) * t->tile_bytes;
    uint16_t bits;
    memcpy(&bits,
           tile + area + (size_t)(group * LAYOUT_TILE_ROWS + row % LAYOUT_TILE_ROWS) * sizeof bits,
           sizeof bits);
    return half_f16_to_f32(bits);
}
static float float_in_codes(const struct layout_shape *shape, const uint8_t *packed, size_t area,
                            int32_t row, int32_t group)
{
    float value;
    const size_t at = (size_t)row * (size_t)groups_of(shape) + (size_t)group;
    memcpy(&value, packed + area + at * sizeof value, sizeof value);
    return value;
}

float layout_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                      int32_t group)
{
    CHECK(row >= 0 && row < shape->n_out && group >= 0 && group < groups_of(shape));
    if (shape->layout == LAYOUT_CODES)
        return float_in_codes(shape, packed, codes_scales_at(shape), row, group);
    if (is_f64(shape->layout))
        return layout_f64_scale_at(shape, packed, row, group);
    if (shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_scale_at(shape, packed, row, group);
    struct layout_tiles t;
    layout_tiles_of(shape, &t);
    float factor;
    memcpy(&factor,
           (const uint8_t *)packed + (size_t)(row / LAYOUT_TILE_ROWS) * t.tile_bytes +
               t.factors_at + (size_t)(row % LAYOUT_TILE_ROWS) * sizeof factor,
           sizeof factor);
    return half_in_tile(&t, packed, t.scales_at, row, group) * factor;
}

float layout_zero_at(const struct layout_shape *shape, const void *packed, int32_t row,
                     int32_t group)
{
    CHECK(row >= 0 && row < shape->n_out && group >= 0 && group < groups_of(shape));
    if (shape->mins || shape->kind == CODE_TABLE)
        return 0;
    if (shape->symmetric)
        return (float)(1 << (shape->bits - 1));
    if (shape->layout == LAYOUT_CODES)
        return float_in_codes(shape, packed, codes_offsets_at(shape), row, group);
    if (is_f64(shape->layout))
        return layout_f64_zero_at(shape, packed, row, group);
    if (shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_offset_at(shape, packed, row, group);
    struct layout_tiles t;
    layout_tiles_of(shape, &t);
    return half_in_tile(&t, packed, t.zeros_at, row, group);
}

float layout_min_at(const struct layout_shape *shape, const void *packed, int32_t row,
                    int32_t group)
{
    CHECK(row >= 0 && row < shape->n_out && group >= 0 && group < groups_of(shape));
    if (shape->mins && shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_offset_at(shape, packed, row, group);
    return shape->mins ? float_in_codes(shape, packed, codes_offsets_at(shape), row, group) : 0;
}

float layout_value_of(const struct layout_shape *shape, const void *packed, uint8_t code)
{
    if (shape->kind == CODE_INT)
        return (float)code;
    float value;
    CHECK(code < 1 << shape->bits);
    if (shape->layout == LAYOUT_CHUNKS_C16)
        return layout_chunks_value_of(packed, shape->bits, code);
    if (is_f64(shape->layout))
        return half_f16_to_f32(shape->table[code]);
    memcpy(&value, (const uint8_t *)packed + codes_table_at(shape) + code * sizeof value,
           sizeof value);
    return value;
}

/* scale * (value(code) - zero) - min; at most one of zero and min is not 0. */
static void row_values(const struct layout_shape *shape, const void *packed, const uint8_t *codes,
                       int32_t n, float scale, float zero, float min, float *out)
{
    if (shape->kind == CODE_TABLE) {
        for (int32_t i = 0; i < n; i++)
            out[i] = scale * layout_value_of(shape, packed, codes[i]);
    } else if (shape->mins) {
        for (int32_t i = 0; i < n; i++)
            out[i] = scale * (float)codes[i] - min;
    } else {
        for (int32_t i = 0; i < n; i++)
            out[i] = scale * ((float)codes[i] - zero);
    }
}

/* n codes of one row and group, lane by lane out of their octs. */
static void tile_group_codes(const struct layout_tiles *t, const uint8_t *at, int32_t n,
                             uint8_t *out)
{
    for (int32_t i = 0; i < n; i += LAYOUT_OCT, at += t->oct_bytes) {
        uint8_t oct[LAYOUT_OCT];
        for (int j = 0; j < 4; j++) {
            const bool nibbles = t->oct_bytes == LAYOUT_ALIGN;
            oct[j] = nibbles ? at[j] & 15 : at[j];
            oct[4 + j] = nibbles ? (uint8_t)(at[j] >> 4) : at[LAYOUT_ALIGN + j];
        }
        memcpy(out + i, oct, (size_t)(n - i < LAYOUT_OCT ? n - i : LAYOUT_OCT));
    }
}

void layout_row(const struct layout_shape *shape, const void *packed, int32_t row, float *out)
{
    enum { STEP = 256 }; /* codes widened at a time; whole octs */
    check_shape(shape);
    if (is_f64(shape->layout)) {
        layout_f64_row(shape, packed, row, out);
        return;
    }
    if (shape->layout == LAYOUT_CHUNKS_C16) {
        layout_chunks_row(shape, packed, row, out);
        return;
    }
    struct layout_tiles t = { 0 };
    const uint8_t *at = packed;
    if (is_tiled(shape->layout)) {
        layout_tiles_of(shape, &t);
        at += (size_t)(row / LAYOUT_TILE_ROWS) * t.tile_bytes + t.codes_at;
        at += (size_t)(row % LAYOUT_TILE_ROWS * 4);
    } else {
        CHECK(shape->layout == LAYOUT_CODES);
        at += (size_t)row * (size_t)shape->n_in;
    }
    for (int32_t g = 0, first = 0; first < shape->n_in; g++, first += shape->group) {
        const float scale = layout_scale_at(shape, packed, row, g);
        const float zero = layout_zero_at(shape, packed, row, g);
        const float min = layout_min_at(shape, packed, row, g);
        const int32_t left = shape->n_in - first;
        const int32_t n = left < shape->group ? left : shape->group;
        for (int32_t i = 0; i < n; i += STEP) {
            const int32_t n_now = n - i < STEP ? n - i : STEP;
            uint8_t some[STEP];
            const uint8_t *codes = at + first + i;
            if (t.tile_bytes) {
                const size_t oct = (size_t)g * (size_t)t.group_octs + (size_t)(i / LAYOUT_OCT);
                tile_group_codes(&t, at + oct * (size_t)t.oct_bytes, n_now, some);
                codes = some;
            }
            row_values(shape, packed, codes, n_now, scale, zero, min, out + first + i);
        }
    }
}
