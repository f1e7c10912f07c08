/* placement.c - one decision: which layout of this backend takes a matrix as another tool stored
 * it. Called by load.c. */
#include "host/model/placement.h"

#include "host/backend/layout_chunks.h"
#include "host/base/half.h"

const char *placement_name(enum placement placement)
{
    static const char *const NAMES[] = {
        [PLACEMENT_NONE] = "as stored",
        [PLACEMENT_FUSED] = "fused",
        [PLACEMENT_TABLE] = "table",
        [PLACEMENT_CODES] = "dequantized in the product",
        [PLACEMENT_DEQUANTIZED] = "dequantized while loading",
    };
    return NAMES[placement];
}

bool placement_scan(const struct packed *packed, struct placement_source *source, struct err *err)
{
    enum { ROWS = 64 };
    struct matrix_form form = packed->form;
    struct matrix block;
    const int32_t n_out = form.n_out;
    bool lossless = form.kind == CODE_INT && !form.mins, ok = true;
    uint32_t fit = UINT32_MAX;
    form.n_out = n_out < ROWS ? n_out : ROWS;
    if (!matrix_init_form(&block, &form, err))
        return false;
    for (int32_t row = 0; row < n_out && ok; row += ROWS) {
        const int32_t n = n_out - row < ROWS ? n_out - row : ROWS;
        ok = packed_scales(packed, row, n, &block, 0, err);
        if (!ok)
            break;
        fit &= layout_scales_fit(&block, n);
        for (int32_t r = 0; r < n && lossless; r++) {
            float factor;
            lossless = matrix_scale_parts(&block, r, &factor);
        }
    }
    source->fit = fit;
    source->lossless = lossless && (form.symmetric || fit & 1u << LAYOUT_SCALES_F16);
    matrix_clear(&block);
    return ok;
}

/* One group a block: its scale is the fp16 of the file, or MXFP4's power of two; else (K-quants) a
 * whole multiple of it. */
void placement_blocks(enum dtype dtype, struct placement_source *source)
{
    source->lossless = source->form.group == dtype_block(dtype);
    source->fit = 1u << (source->lossless ? LAYOUT_SCALES_F16 : LAYOUT_SCALES_I8);
    if (dtype == DTYPE_MXFP4)
        source->fit = 1u << LAYOUT_SCALES_E8;
}

enum placement placement_of(const struct backend *be, const struct placement_source *source,
                            struct weight_part *part)
{
    const struct matrix_form *form = &source->form;
    struct layout_shape *shape = &part->shape;
    *shape = (struct layout_shape){ .n_out = form->n_out,
                                    .n_in = form->n_in,
                                    .bits = form->bits,
                                    .group = form->group,
                                    .symmetric = form->symmetric,
                                    .kind = form->kind,
                                    .mins = form->mins };
    backend_choose_layout(be, shape, source->table, source->lossless, source->fit);
    if (be->f64 && source->order && !source->takes_order)
        shape->layout = LAYOUT_ROWS;
    part->dtype = DTYPE_NONE;
    if (shape->layout == LAYOUT_ROWS) {
        *shape = (struct layout_shape){ .layout = LAYOUT_ROWS,
                                        .n_out = form->n_out,
                                        .n_in = form->n_in };
        part->dtype = DTYPE_BF16; /* fp32's range, whatever the scales are */
        return PLACEMENT_DEQUANTIZED;
    }
    if (shape->layout == LAYOUT_CODES)
        return PLACEMENT_CODES;
    if (be->f64) {
        shape->fractions = source->fractions || form->mins;
        shape->mins = false;
        for (int32_t i = 0; form->kind == CODE_TABLE && i < 1 << form->bits; i++)
            shape->table[i] = half_f32_to_f16(source->table[i]);
    }
    return shape->kind == CODE_TABLE ? PLACEMENT_TABLE : PLACEMENT_FUSED;
}
