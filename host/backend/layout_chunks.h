/* layout_chunks.h - LAYOUT_CHUNKS_C16: what other tools stored, on the CPU's fast path with its own
 * codes, scales, zeros and mins (drawn in layout_chunks.c).
 *
 * Beside layout.h's general functions, for who chooses the layout and for the kernels. */
#pragma once
#include <string.h>
#include "host/base/half.h"
#include "host/backend/layout.h"
#ifdef __cplusplus
extern "C" {
#endif

enum {
    LAYOUT_UNIT = 32,     /* inputs are padded to units, at the end of a row */
    LAYOUT_SUBS_MAX = 8,  /* groups of 16 in a chunk */
    LAYOUT_PLANES_MAX = 2 /* bytes of what a code stands for */
};
/* What a code of up to 4 bits stands for, as unsigned bytes for the int8 dot product:
 *   value = step * (sum over p of plane[p][code] * 256^p - zero) */
struct layout_lut {
    float step;
    int32_t zero, planes, unused;
    uint8_t plane[LAYOUT_PLANES_MAX][16];
};
/* Where things lie. A tile is its factors, then its chunks; a chunk is its parameters, then its
 * codes. */
struct layout_chunks {
    int32_t n_tiles, n_chunks;
    int32_t sub, n_subs; /* inputs that share scale and offset in a chunk; subs of a whole chunk */
    int32_t code_bits;   /* as stored: 2, 3, 4, 5, 6, 8 */
    int32_t unit_bytes;  /* codes of a unit of 16 rows: 64 * code_bits */
    bool zeros, mins;
    enum layout_scales scales;
    /* Inside a chunk. shared: I8's fp16 factors, of the scales and then of the mins. */
    size_t offsets_at, shared_at, codes_at, chunk_bytes;
    size_t tiles_at, tile_bytes;
};
void layout_chunks_of(const struct layout_shape *shape, struct layout_chunks *chunks);
/* Of CHUNKS_C16: codes that are E4M3, which the kernels multiply as floats. */
static inline bool layout_chunks_is_e4m3(const struct layout_shape *shape)
{
    return shape->kind == CODE_TABLE && shape->bits == 8;
}
/* Units of chunk c: 4, or fewer in the last. */
static inline int32_t layout_chunk_units(const struct layout_shape *shape, int32_t chunk)
{
    const int32_t left = shape->n_in - chunk * LAYOUT_CHUNK;
    return left >= LAYOUT_CHUNK ? LAYOUT_CHUNK / LAYOUT_UNIT : (left - 1) / LAYOUT_UNIT + 1;
}
/* Whether the layout takes matrices of this form (layout and scales are not read): groups of 16, 32
 * or 64, multiples of 128, one scale a row; tables of 16 entries or that of E4M3 (code 0x7f and
 * 0xff, its NaNs, must not occur). table: of CODE_TABLE. */
bool layout_chunks_fits(const struct layout_shape *shape, const float *table);

/* The forms of scales that hold the first n_rows rows exactly, as 1 << enum layout_scales: a caller
 * with many blocks takes the AND. F32 is always among them. Pure. */
uint32_t layout_scales_fit(const struct matrix *block, int32_t n_rows);
/* Of such a set the one with the fewest bytes for this shape. */
enum layout_scales layout_scales_best(const struct layout_shape *shape, uint32_t fit);

/* ---- for the kernels --------------------------------------------------------------------------
 */

/* Of CODE_INT: built from the shape. E4M3 has none. */
void layout_chunks_int_lut(const struct layout_shape *shape, struct layout_lut *lut);
static inline const struct layout_lut *layout_chunks_table_lut(const void *packed)
{
    return (const struct layout_lut *)packed;
}

/* Inputs 4 k .. 4 k + 3 of a unit, one row: four codes as the bytes of a word. */
static inline uint32_t layout_quad_bits(const uint8_t *line, int32_t shift, uint32_t mask)
{
    uint32_t word;
    memcpy(&word, line, sizeof word);
    return word >> shift & mask * 0x01010101u;
}
static inline uint32_t layout_quad(const uint8_t *unit, int32_t code_bits, int32_t k, int32_t lane)
{
    const uint8_t *at = unit + 4 * lane;
    enum { LINE = LAYOUT_ALIGN };
    switch (code_bits) {
    case 2:
    case 3: {
        const uint32_t two = layout_quad_bits(at + k / 4 * LINE, 2 * (k % 4), 3);
        return code_bits == 2 ? two : two | layout_quad_bits(at + 2 * LINE, k, 1) << 2;
    }
    case 8:
        return layout_quad_bits(at + k * LINE, 0, 255);
    default: {
        const uint32_t four = layout_quad_bits(at + k / 2 * LINE, 4 * (k % 2), 15);
        at += 4 * LINE;
        if (code_bits == 5)
            return four | layout_quad_bits(at, k, 1) << 4;
        if (code_bits == 6)
            return four | layout_quad_bits(at + k / 4 * LINE, 2 * (k % 4), 3) << 4;
        return four;
    }
    }
}

static inline float layout_half_at(const uint8_t *area, int32_t at)
{
    uint16_t bits;
    memcpy(&bits, area + (size_t)at * sizeof bits, sizeof bits);
    return half_f16_to_f32(bits);
}
static inline float layout_float_at(const uint8_t *area, int32_t at)
{
    float value;
    memcpy(&value, area + (size_t)at * sizeof value, sizeof value);
    return value;
}
/* Scale of one sub of one row without the row's factor: exact. chunk: its first byte. */
static inline float layout_sub_scale(const struct layout_chunks *t, const uint8_t *chunk,
                                     int32_t sub, int32_t lane)
{
    const int32_t at = sub * LAYOUT_TILE_ROWS + lane;
    switch (t->scales) {
    case LAYOUT_SCALES_F16:
        return layout_half_at(chunk, at);
    case LAYOUT_SCALES_F32:
        return layout_float_at(chunk, at);
    case LAYOUT_SCALES_I8:
        return layout_half_at(chunk + t->shared_at, lane) * (float)(int8_t)chunk[at];
    case LAYOUT_SCALES_E8:
        break;
    }
    const uint32_t bits = (uint32_t)chunk[at] << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
/* Zero (as it is) or min (without the row's factor); 0 where there are none. */
static inline float layout_sub_offset(const struct layout_chunks *t, const uint8_t *chunk,
                                      int32_t sub, int32_t lane)
{
    const int32_t at = sub * LAYOUT_TILE_ROWS + lane;
    const uint8_t *area = chunk + t->offsets_at;
    if (!t->zeros && !t->mins)
        return 0;
    if (t->scales == LAYOUT_SCALES_F32)
        return layout_float_at(area, at);
    if (t->mins && t->scales == LAYOUT_SCALES_I8)
        return layout_half_at(chunk + t->shared_at, LAYOUT_TILE_ROWS + lane) *
               (float)(int8_t)area[at];
    return layout_half_at(area, at);
}

/* ---- layout_chunks.c's share of layout.h's functions, for layout.c alone ----------------------
 */

void layout_chunks_pack(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                        int32_t row_from, int32_t row_to, void *out);
size_t layout_chunks_bytes(const struct layout_shape *shape);
uint8_t layout_chunks_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                              int32_t col);
float layout_chunks_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                             int32_t group);
/* Zero, or with mins the min. */
float layout_chunks_offset_at(const struct layout_shape *shape, const void *packed, int32_t row,
                              int32_t group);
float layout_chunks_value_of(const void *packed, int32_t bits, uint8_t code);
void layout_chunks_row(const struct layout_shape *shape, const void *packed, int32_t row,
                       float *out);
#ifdef __cplusplus
}
#endif
