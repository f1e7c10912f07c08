/* repack.h - one matrix into its resident layout, block by block on all threads of a pool.
 *
 * At most REPACK_BLOCK_BYTES of floats and as many codes are in flight on each thread, so loading
 * never holds a second copy of anything large. */
#pragma once
#include <stdint.h>
#include "host/backend/backend.h"
#include "host/base/dtype.h"
#include "host/base/err.h"
#include "host/base/pool.h"
#include "host/format/matrix.h"
#include "host/format/packing.h"
#include "host/model/names.h"

enum {
    REPACK_BLOCK_BYTES = 2 << 20,   /* stays in a core's L2 cache; more where 16 rows need it */
    REPACK_DEVICE_BYTES = 32 << 20, /* codes that go to the device at once */
    REPACK_DEVICE_ROWS = 64,        /* in whole strips of layout F64 */
};
/* Where rows come from: a quantized matrix, a stored tensor, or random numbers of a given spread.
 */
struct repack_source {
    const struct packed *packed; /* decoded without loss, never quantized again; or NULL */
    const uint8_t *data;         /* [map.n_stored][n_in] of dtype, any alignment; NULL: random */
    enum dtype dtype;            /* of blocks: their codes are packed as they are */
    struct row_map map;          /* which of its rows, in the order before pairs */
    int32_t pairs;               /* as tensor.pairs: where each row is */
    int64_t row_step, col_step;  /* as in struct tensor, instead of map; of f32, f16, bf16 */
    uint64_t seed;               /* random: value (row, col) is a function of seed, row and col */
    float amplitude;             /* random: uniform in [-amplitude, amplitude) */
};
/* The form in which blocks of this type are packed: kind, bits, group, symmetric, mins; n_out and
 * n_in are not set. False when the type is not one of blocks. */
bool repack_form(enum dtype dtype, struct matrix_form *form);
/* Quantize (round to nearest; blocks and packed matrices are not: shape is their form, but that
 * mins become zeros where it has none: zero = min / scale, a fraction; a group whose scale is less
 * than 2^-15 of its min is made constant, which moves no weight by more than 2^-10 of itself) and
 * pack into `to`, layout_bytes(shape) of host memory, 64-byte aligned. `pool` may be NULL.
 * ERR_FORMAT: a weight or a block's scale is not finite, with the row; ERR_MEMORY. */
MUST_USE bool repack_quantize(const struct repack_source *source, const struct layout_shape *shape,
                              void *to, struct pool *pool, struct err *err);
/* The same for a backend that packs by itself (ops->pack): quantized here, packed there. */
MUST_USE bool repack_on_device(const struct repack_source *source, const struct layout_shape *shape,
                               struct backend *be, void *to, struct pool *pool, struct err *err);
/* Rows row_from .. row_from + n_rows as numbers of `dtype` [n_rows][n_in] into host memory: random,
 * stored in that dtype, or quantized ones dequantized (fp32, then rounded; order undone). */
MUST_USE bool repack_rows(const struct repack_source *source, int32_t n_in, enum dtype dtype,
                          int32_t row_from, int32_t n_rows, void *to, struct pool *pool,
                          struct err *err);
