/* backend.c - what every backend shares: which resident layout a matrix gets (DESIGN 5). */
#include "host/backend/backend.h"

#include "host/backend/layout_chunks.h"

enum layout backend_layout(const struct backend *be, int32_t bits, int32_t group, int32_t n_in)
{
    CHECK(bits >= 1 && bits <= 8 && group > 0 && n_in > 0);
    if (be->f64 && layout_f64_fits(bits, group, n_in))
        return bits <= 4 ? LAYOUT_W4_F64 : LAYOUT_W8_F64;
    if (be->f64)
        return LAYOUT_CODES; /* no kernel of that device reads it: loading refuses the group */
    if (be->exact || group < LAYOUT_GROUP_MIN)
        return LAYOUT_CODES;
    /* Codes of fewer bits fit the 4-bit tile with their own zero; 5 to 7 bits fit the 8-bit one. */
    return bits <= 4 ? LAYOUT_W4_C16 : LAYOUT_W8_C16;
}

void backend_choose_layout(const struct backend *be, struct layout_shape *shape, const float *table,
                           bool lossless, uint32_t fit)
{
    const bool plain = shape->kind == CODE_INT && !shape->mins && lossless;
    shape->scales = LAYOUT_SCALES_F16;
    shape->layout = LAYOUT_CODES;
    if (be->f64) { /* scales and zeros are rounded to 11 bits where they have more */
        const bool takes = (shape->kind == CODE_INT || shape->bits == 4) &&
                           layout_f64_fits(shape->bits, shape->group, shape->n_in);
        shape->layout =
            takes ? backend_layout(be, shape->bits, shape->group, shape->n_in) : LAYOUT_ROWS;
        return;
    }
    if (plain)
        shape->layout = backend_layout(be, shape->bits, shape->group, shape->n_in);
    /* Whole nibbles and bytes have tiles of their own (finer activations in small groups, AMX). */
    const bool tiled = shape->layout != LAYOUT_CODES && (shape->bits == 4 || shape->bits == 8);
    if (be->exact || tiled || !layout_chunks_fits(shape, table))
        return;
    shape->layout = LAYOUT_CHUNKS_C16;
    shape->scales = layout_scales_best(shape, fit);
}
