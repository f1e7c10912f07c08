/* backend.c - what every backend shares: which resident layout a matrix gets (DESIGN 5). */
#include "host/backend/backend.h"

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

enum layout backend_layout_of(const struct backend *be, const struct layout_shape *shape,
                              bool lossless)
{
    if (shape->kind != CODE_INT || shape->mins || !lossless)
        return LAYOUT_CODES;
    return backend_layout(be, shape->bits, shape->group, shape->n_in);
}
