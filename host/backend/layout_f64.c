/* layout_f64.c - layout F64 as the host packs it and reads it back; layout.c's part of it.
 *
 * LAYOUT_W4_F64, LAYOUT_W8_F64   what every CUDA kernel reads (index algebra: layout_f64.h; the
 *                kernels' view of a word: cuda/dequant.cuh). One part of a weight, packed:
 *
 *   byte 0                                         factors_at = f64_bytes        bytes
 *   +----------------------------------------------+-----------------------------+
 *   | units: strips of 64 rows, blocks of 128      | row_factor f32              |
 *   | inputs inside, 4 units of 16 rows a block    | [n_out padded to 64]        |
 *   +----------------------------------------------+-----------------------------+
 *
 *   units of a strip:  block 0: u0 u1 u2 u3 | block 1: u0 u1 u2 u3 | ...      u = rows 16 u .. + 15
 *
 *   unit (4 bits, symmetric, groups of 128: 1056 bytes)
 *   0             512           1024                      1056
 *   +-------------+-------------+-------------------------+-------------------------+
 *   | atom 0      | atom 1      | scales f16              | zeros f16, the same     |
 *   | k 0..63     | k 64..127   | [128 / group][16]       | (absent when symmetric) |
 *   +-------------+-------------+-------------------------+-------------------------+
 *   at 8 bits four atoms of 32 k. Scales of a group: r0 r8 r1 r9 r2 r10 .. r7 r15, so that a lane's
 *   two rows g = lane / 4 and g + 8 are one 4-byte read.
 *
 *   atom: 32 lanes of 16 bytes; lane = 4 g + q is the lane of mma.m16n8k16's A fragment.
 *
 *   4 bits: word t of a lane is k16 tile t of the atom          8 bits: words of a lane
 *      byte      0       1       2       3                         0: k16 tile 0, row g
 *      low    g,2q    g,2q+8  g,2q+1  g,2q+9                       1: k16 tile 0, row g + 8
 *      high   g+8,2q  ..2q+8  ..2q+1  ..2q+9                       2: k16 tile 1, row g
 *                                                                  3: k16 tile 1, row g + 8
 *      nibbles n0 n1 | n2 n3 | n4 n5 | n6 n7, low first            bytes in the same k order
 *
 *   place of (row, col): r = row % 16, c = col % 128, i = c % 16, q = i % 8 / 2,
 *                        j = 2 (i % 2) + i / 8, lane = 4 (r % 8) + q
 *     4 bits   512 (c / 64) + 16 lane + 4 (c / 16 % 4) + j,                nibble r / 8
 *     8 bits   512 (c / 32) + 16 lane + 8 (c / 16 % 2) + 4 (r / 8) + j
 *
 *   w = (code - zero) * scale * row_factor; scale and row_factor (a power of two) are those of
 *   matrix_scale_parts. With a table of 16 fp16 (not stored here): w = table[code] * scale *
 *   row_factor, and no zeros. Symmetric codes of b bits are moved up to the zero of their
 * container: 8 or 128, so that kernels know one zero. Groups larger than 128 repeat their scale in
 * every block.
 *
 *   Padding: rows past n_out and groups past n_in have scale 0, zero 0 and codes that mean 0 (8 or
 *   128 when symmetric); inputs past n_in inside a group that begins before it have the group's
 *   scale and its zero (rounded to whole) as their code. Kernels give padded inputs x = 0.
 *
 * Pure functions on caller's memory; threads may pack different units of 16 rows at once. */
#include "host/backend/layout.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include "host/base/half.h"

enum {
    TILE_COLS = 16,                    /* inputs of an MMA k step */
    TILES = F64_UNIT_COLS / TILE_COLS, /* of a unit */
    LANE_BYTES = F64_ATOM_BYTES / 32,
    GROUPS_MAX = F64_UNIT_COLS / 32, /* of a unit */
};
static_assert((int)F64_UNIT_ROWS == (int)LAYOUT_TILE_ROWS,
              "loaders split work in tiles of 16 rows");
static_assert(F64_UNIT_ROWS * F64_UNIT_COLS / 2 == 2 * F64_ATOM_BYTES, "int4: two atoms");

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

bool layout_f64_fits(int32_t bits, int32_t group, int32_t n_in)
{
    if (bits < 1 || bits > 8 || group < 1 || n_in < 1)
        return false;
    return group == 32 || group == 64 || group % F64_UNIT_COLS == 0 || group >= n_in;
}

void layout_f64_of(const struct layout_shape *shape, struct layout_f64 *f64)
{
    const bool four = shape->layout == LAYOUT_W4_F64;
    CHECK(four || shape->layout == LAYOUT_W8_F64);
    CHECK(shape->n_out > 0 && shape->bits <= (four ? 4 : 8));
    CHECK(layout_f64_fits(shape->bits, shape->group, shape->n_in));
    CHECK(shape->kind == CODE_INT || (four && shape->bits == 4));
    memset(f64, 0, sizeof *f64);
    f64->kind.bits = four ? 4 : 8;
    f64->kind.group = shape->group == 32 || shape->group == 64 ? shape->group : F64_UNIT_COLS;
    f64->kind.zeros = !shape->symmetric;
    f64->kind.fractions = f64->kind.zeros && shape->fractions;
    f64->kind.table = shape->kind == CODE_TABLE ? shape->table : NULL;
    f64->factors_at = f64_bytes(f64->kind, shape->n_out, shape->n_in);
    f64->bytes = f64->factors_at + (size_t)f64_pad(shape->n_out, F64_STRIP_ROWS) * sizeof(float);
    CHECK(f64->factors_at % LAYOUT_ALIGN == 0 && f64->bytes % LAYOUT_ALIGN == 0);
}

/* What is added to a code on the way in: symmetric codes of 2, 3, 5.. bits get the zero of the
 * container. */
static int32_t code_shift(const struct layout_shape *shape, struct f64_kind kind)
{
    return shape->symmetric ? (1 << (kind.bits - 1)) - (1 << (shape->bits - 1)) : 0;
}

/* ---- packing ----------------------------------------------------------------------------------
 */

/* A unit before its codes are dealt to lanes. */
struct unit {
    uint8_t codes[F64_UNIT_ROWS][F64_UNIT_COLS];
    uint16_t scales[GROUPS_MAX][F64_UNIT_ROWS], zeros[GROUPS_MAX][F64_UNIT_ROWS];
};

static void unit_clear(struct unit *unit, struct f64_kind kind)
{
    memset(unit, 0, sizeof *unit);
    if (!kind.zeros)
        memset(unit->codes, 1 << (kind.bits - 1), sizeof unit->codes);
}

/* The code that means 0, as near as a whole number can be. */
static uint8_t code_of_zero(float zero, struct f64_kind kind)
{
    const float top = (float)((1 << kind.bits) - 1), whole = rintf(zero);
    return (uint8_t)(whole < 0 ? 0 : whole > top ? top : whole);
}

/* Row m_row of m, inputs of `block`, to row r of the unit. */
static void unit_row(struct unit *unit, const struct layout_shape *shape, struct f64_kind kind,
                     const struct matrix *m, int32_t m_row, float factor, int32_t block, int32_t r)
{
    const size_t scales_from = (size_t)m_row * (size_t)m->n_groups;
    const uint8_t *codes = m->codes + (size_t)m_row * (size_t)m->n_in;
    const uint8_t shift = (uint8_t)code_shift(shape, kind);
    const int32_t first = block * F64_UNIT_COLS;
    for (int32_t g = 0; g < F64_UNIT_COLS / kind.group; g++) {
        const int32_t col = first + g * kind.group;
        if (col >= m->n_in)
            return; /* as unit_clear left it */
        const size_t from = scales_from + (size_t)(col / m->group);
        uint8_t *to = &unit->codes[r][g * kind.group];
        unit->scales[g][r] = half_f32_to_f16(m->scales[from] / factor);
        if (kind.zeros) {
            unit->zeros[g][r] = half_f32_to_f16(m->zeros[from]);
            memset(to, code_of_zero(m->zeros[from], kind), (size_t)kind.group);
        }
        const int32_t n = least(kind.group, m->n_in - col);
        for (int32_t i = 0; i < n; i++)
            to[i] = (uint8_t)(codes[col + i] + shift);
    }
}

/* The four bytes of one k16 tile that lane q of a row's four lanes holds. */
static void lane_bytes(const uint8_t *tile, int32_t q, uint8_t out[4])
{
    out[0] = tile[2 * q];
    out[1] = tile[2 * q + 8];
    out[2] = tile[2 * q + 1];
    out[3] = tile[2 * q + 9];
}

static void unit_deal(const struct unit *unit, struct f64_kind kind, uint8_t *out)
{
    const int32_t tiles_an_atom = kind.bits == 4 ? 4 : 2;
    for (int32_t tile = 0; tile < TILES; tile++) {
        uint8_t *atom = out + tile / tiles_an_atom * F64_ATOM_BYTES;
        for (int32_t lane = 0; lane < 32; lane++) {
            uint8_t low[4], high[4], *to = atom + lane * LANE_BYTES;
            lane_bytes(&unit->codes[lane / 4][tile * TILE_COLS], lane % 4, low);
            lane_bytes(&unit->codes[lane / 4 + 8][tile * TILE_COLS], lane % 4, high);
            if (kind.bits == 4) {
                for (int32_t j = 0; j < 4; j++)
                    to[tile % 4 * 4 + j] = (uint8_t)(low[j] | high[j] << 4);
            } else {
                memcpy(to + tile % 2 * 8, low, 4);
                memcpy(to + tile % 2 * 8 + 4, high, 4);
            }
        }
    }
    uint16_t halves[F64_UNIT_ROWS];
    out += f64_code_bytes(kind.bits);
    for (int32_t area = 0; area < (kind.zeros ? 2 : 1); area++) {
        for (int32_t g = 0; g < F64_UNIT_COLS / kind.group; g++, out += sizeof halves) {
            for (int32_t r = 0; r < F64_UNIT_ROWS; r++)
                halves[2 * (r % 8) + r / 8] = area ? unit->zeros[g][r] : unit->scales[g][r];
            memcpy(out, halves, sizeof halves);
        }
    }
}

/* Rows 16 tile .. of the packed form, the first of them row m_row of m; rows past row_to are
 * padding. */
static void pack_tile(const struct layout_shape *shape, const struct layout_f64 *f64,
                      const struct matrix *m, int32_t m_row, int32_t tile, int32_t row_to,
                      uint8_t *out)
{
    const int32_t row = tile * F64_UNIT_ROWS;
    float factors[F64_UNIT_ROWS];
    for (int32_t r = 0; r < F64_UNIT_ROWS; r++) {
        factors[r] = 1;
        if (row + r < row_to && !matrix_scale_parts(m, m_row + r, &factors[r]))
            CHECK(factors[r] > 0); /* foreign scales: some are rounded to 11 bits below */
    }
    memcpy(out + f64->factors_at + (size_t)row * sizeof *factors, factors, sizeof factors);
    for (int32_t block = 0; block < f64_blocks(shape->n_in); block++) {
        struct unit unit;
        unit_clear(&unit, f64->kind);
        for (int32_t r = 0; r < least(F64_UNIT_ROWS, row_to - row); r++)
            unit_row(&unit, shape, f64->kind, m, m_row + r, factors[r], block, r);
        unit_deal(&unit, f64->kind, out + f64_unit_at(f64->kind, shape->n_in, tile, block));
    }
}

void layout_f64_pack(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                     int32_t row_from, int32_t row_to, void *out)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    if (row_from == row_to)
        return;
    const int32_t end = row_to < shape->n_out ? row_to : f64_pad(row_to, F64_STRIP_ROWS);
    for (int32_t row = row_from; row < end; row += F64_UNIT_ROWS)
        pack_tile(shape, &f64, m, m_row + row - row_from, row / F64_UNIT_ROWS, row_to, out);
}

/* ---- reading back -----------------------------------------------------------------------------
 */

static const uint8_t *unit_of(const struct layout_shape *shape, struct f64_kind kind,
                              const void *packed, int32_t row, int32_t col)
{
    return (const uint8_t *)packed +
           f64_unit_at(kind, shape->n_in, row / F64_UNIT_ROWS, col / F64_UNIT_COLS);
}

/* The formula of the drawing. */
static uint8_t stored_code(struct f64_kind kind, const uint8_t *unit, int32_t row, int32_t col)
{
    const int32_t r = row % F64_UNIT_ROWS, c = col % F64_UNIT_COLS, i = c % TILE_COLS;
    const int32_t lane = 4 * (r % 8) + i % 8 / 2, j = 2 * (i % 2) + i / 8;
    if (kind.bits == 4) {
        const uint8_t byte = unit[c / 64 * F64_ATOM_BYTES + lane * LANE_BYTES + c / 16 % 4 * 4 + j];
        return r / 8 ? byte >> 4 : byte & 15;
    }
    return unit[c / 32 * F64_ATOM_BYTES + lane * LANE_BYTES + c / 16 % 2 * 8 + r / 8 * 4 + j];
}

/* area 0: scales, 1: zeros. */
static float stored_half(struct f64_kind kind, const uint8_t *unit, int32_t area, int32_t row,
                         int32_t col)
{
    const int32_t n = F64_UNIT_COLS / kind.group, g = col % F64_UNIT_COLS / kind.group;
    const int32_t r = row % F64_UNIT_ROWS, at = (area * n + g) * F64_UNIT_ROWS;
    uint16_t bits;
    memcpy(&bits,
           unit + f64_code_bytes(kind.bits) + (size_t)(at + 2 * (r % 8) + r / 8) * sizeof bits,
           sizeof bits);
    return half_f16_to_f32(bits);
}

uint8_t layout_f64_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                           int32_t col)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const uint8_t *unit = unit_of(shape, f64.kind, packed, row, col);
    return (uint8_t)(stored_code(f64.kind, unit, row, col) - code_shift(shape, f64.kind));
}

float layout_f64_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                          int32_t group)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const int32_t col = group * shape->group;
    float factor;
    memcpy(&factor, (const uint8_t *)packed + f64.factors_at + (size_t)row * sizeof factor,
           sizeof factor);
    return stored_half(f64.kind, unit_of(shape, f64.kind, packed, row, col), 0, row, col) * factor;
}

float layout_f64_zero_at(const struct layout_shape *shape, const void *packed, int32_t row,
                         int32_t group)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const int32_t col = group * shape->group;
    if (shape->symmetric)
        return (float)(1 << (shape->bits - 1));
    return stored_half(f64.kind, unit_of(shape, f64.kind, packed, row, col), 1, row, col);
}

void layout_f64_row(const struct layout_shape *shape, const void *packed, int32_t row, float *out)
{
    struct layout_f64 f64;
    layout_f64_of(shape, &f64);
    const int32_t shift = code_shift(shape, f64.kind);
    for (int32_t g = 0, first = 0; first < shape->n_in; g++, first += shape->group) {
        const float scale = layout_f64_scale_at(shape, packed, row, g);
        const float zero = layout_f64_zero_at(shape, packed, row, g);
        const int32_t end = least(shape->group, shape->n_in - first) + first;
        for (int32_t col = first; col < end; col++) {
            const uint8_t *unit = unit_of(shape, f64.kind, packed, row, col);
            const int32_t code = stored_code(f64.kind, unit, row, col) - shift;
            out[col] = shape->kind == CODE_TABLE ? scale * half_f16_to_f32(shape->table[code])
                                                 : scale * ((float)code - zero);
        }
    }
}
