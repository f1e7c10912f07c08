/* layout.h - the ONLY place where a resident weight layout is described (DESIGN 5).
 *
 * layout_pack and layout_code_at are the executable definitions; kernels cite the name and
 * static_assert the tile sizes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/dtype.h"
#include "host/format/matrix.h"
#include "host/backend/layout_f64.h"
#ifdef __cplusplus
extern "C" {
#endif

enum layout {
    LAYOUT_ROWS,       /* unquantized: [n_out][n_in] in the dtype it is stored in, any alignment */
    LAYOUT_CODES,      /* the canonical matrix as it is, any form; exact arithmetic */
    LAYOUT_W4_C16,     /* CPU, 4 bits: tiles of 16 rows, see layout.c's drawing */
    LAYOUT_W8_C16,     /* CPU, 8 bits: likewise */
    LAYOUT_W4_F64,     /* CUDA, 4 bits: see layout_f64.c's drawing; groups of layout_f64_fits */
    LAYOUT_W8_F64,     /* CUDA, 8 bits: likewise */
    LAYOUT_CHUNKS_C16, /* CPU, what other tools stored: drawn in layout_chunks.c */
    LAYOUT_COUNT
};
/* How CHUNKS_C16 stores scales (and mins): layout_chunks.h says which hold them exactly. */
enum layout_scales {
    LAYOUT_SCALES_F16, /* fp16 times a factor a row */
    LAYOUT_SCALES_F32,
    LAYOUT_SCALES_I8, /* int8 times an fp16 per 128 inputs */
    LAYOUT_SCALES_E8, /* powers of two */
};
struct layout_shape {
    enum layout layout;
    int32_t n_out, n_in, bits, group; /* group = n_in: one scale a row */
    bool symmetric;
    enum code_kind kind; /* as in struct matrix; CODES and CHUNKS_C16 take CODE_TABLE and
                            mins, W4_F64 takes CODE_TABLE */
    bool mins;
    enum layout_scales scales; /* CHUNKS_C16 */
    bool fractions;            /* F64: zeros may be fractions */
    uint16_t table[16];        /* F64 of CODE_TABLE: fp16 */
};
const char *layout_name(enum layout layout);
enum {
    LAYOUT_TILE_ROWS = 16, /* output rows of a tile: one per 32-bit lane of 512 bits */
    LAYOUT_OCT = 8,        /* inputs are padded to octs, inside each group */
    LAYOUT_CHUNK = 128,    /* the most inputs that share one activation scale and one int32 dot */
    LAYOUT_ALIGN = 64,     /* of the packed block, and of every tile and its code area */
    LAYOUT_GROUP_MIN = 8,  /* smaller groups stay LAYOUT_CODES */
};
/* Where things lie in the packed form of a tiled layout (drawn in layout.c). */
struct layout_tiles {
    int32_t n_tiles, n_groups;
    int32_t group_octs;   /* octs of a whole group; group g starts at oct g * group_octs */
    int32_t group_chunks; /* chunks of a whole group; chunk c belongs to group c / group_chunks */
    int32_t n_octs, n_chunks; /* of a row */
    int32_t oct_bytes;        /* 64 (4 bits) or 128 (8 bits): 8 inputs of 16 rows */
    size_t factors_at, scales_at, zeros_at, codes_at; /* inside a tile; zeros_at 0: symmetric */
    size_t tile_bytes;
};
void layout_tiles_of(const struct layout_shape *shape, struct layout_tiles *tiles);
/* Inputs of chunk c, 1..LAYOUT_CHUNK; the chunks of a row follow each other in input order. */
int32_t layout_chunk_inputs(const struct layout_shape *shape, int32_t chunk);
/* Two matrices of the same n_in whose keys agree cut their inputs into the same chunks. */
int32_t layout_chunk_key(const struct layout_shape *shape);

/* Bytes of the packed form (LAYOUT_ROWS excluded); multiples of 64. */
size_t layout_bytes(const struct layout_shape *shape);
/* Rows [row_from, row_to) of the matrix into `out` (the whole packed block, 64-byte aligned);
 * row_from is a multiple of 16, row_to too or n_out: callers may split tiles over threads. Who
 * packs the last row of F64 packs the padding rows too. */
void layout_pack(const struct layout_shape *shape, const struct matrix *matrix, int32_t row_from,
                 int32_t row_to, void *out);
/* The same from a block that holds only rows row_from .. row_from + n_rows (its first n_rows): a
 * loader has a few rows of a large matrix at a time. */
void layout_pack_block(const struct layout_shape *shape, const struct matrix *block, int32_t n_rows,
                       int32_t row_from, void *out);
/* What one weight is made of, read back from the packed form: the definition that tests compare. */
uint8_t layout_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                       int32_t col);
float layout_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                      int32_t group);
float layout_zero_at(const struct layout_shape *shape, const void *packed, int32_t row,
                     int32_t group); /* 0 of a table, and where there are mins */
float layout_min_at(const struct layout_shape *shape, const void *packed, int32_t row,
                    int32_t group); /* 0 where there are none */
/* What a code stands for: itself, or the table's entry. */
float layout_value_of(const struct layout_shape *shape, const void *packed, uint8_t code);
/* One row of weights as floats, in the order of the codes: a part's order is not applied. */
void layout_row(const struct layout_shape *shape, const void *packed, int32_t row, float *out);

/* ---- F64 --------------------------------------------------------------------------------------
 */

/* Whether F64 takes codes of this many bits in such groups: 32, 64, multiples of 128, one scale a
 * row. Pure. */
bool layout_f64_fits(int32_t bits, int32_t group, int32_t n_in);
/* The packed form of one part: units, then the row factors. */
struct layout_f64 {
    struct f64_kind kind; /* zeros: not symmetric. The table is the shape's: borrowed */
    size_t factors_at;    /* f32 [n_out padded to 64], 1 in the padding; = f64_bytes */
    size_t bytes;         /* = layout_bytes */
};
void layout_f64_of(const struct layout_shape *shape, struct layout_f64 *f64);

/* layout_f64.c's share of the functions above, for layout.c alone. m_row: the row of `m` that
 * becomes row_from. */
void layout_f64_pack(const struct layout_shape *shape, const struct matrix *m, int32_t m_row,
                     int32_t row_from, int32_t row_to, void *out);
uint8_t layout_f64_code_at(const struct layout_shape *shape, const void *packed, int32_t row,
                           int32_t col);
float layout_f64_scale_at(const struct layout_shape *shape, const void *packed, int32_t row,
                          int32_t group);
float layout_f64_zero_at(const struct layout_shape *shape, const void *packed, int32_t row,
                         int32_t group);
void layout_f64_row(const struct layout_shape *shape, const void *packed, int32_t row, float *out);
#ifdef __cplusplus
}
#endif
