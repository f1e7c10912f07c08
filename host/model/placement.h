/* placement.h - where a matrix that came quantized lives on a backend, and how it is multiplied:
 * the table "format x device" of the README is this, checked by tests/oracle/test_placement.c. */
#pragma once
#include "host/backend/backend.h"
#include "host/base/dtype.h"
#include "host/format/packing.h"

enum placement {
    PLACEMENT_NONE,        /* it did not come quantized */
    PLACEMENT_FUSED,       /* codes stay packed; dequantized in registers, inside the product */
    PLACEMENT_TABLE,       /* the same with a table of what a code means */
    PLACEMENT_CODES,       /* codes of a byte, dequantized row by row in each product */
    PLACEMENT_DEQUANTIZED, /* rows of bf16, dequantized while loading */
};
const char *placement_name(enum placement placement); /* "fused", "table", ... */

struct placement_source {
    struct matrix_form form; /* of the part: n_out is its rows */
    const float *table;      /* CODE_TABLE: [2^bits] */
    bool fractions;          /* zeros may be fractions */
    bool lossless;           /* as for backend_choose_layout */
    uint32_t fit;            /* likewise */
    bool order;              /* it has an activation order */
    bool takes_order;        /* it is multiplied by `linear`, which knows orders on every backend */
};
/* lossless and fit of a matrix that came quantized: reads all scales. ERR_FORMAT as packed_rows. */
MUST_USE bool placement_scan(const struct packed *packed, struct placement_source *source,
                             struct err *err);
/* The same of GGUF's blocks, by their type. */
void placement_blocks(enum dtype dtype, struct placement_source *source);
/* part->shape and part->dtype: BF16 with LAYOUT_ROWS, else NONE. Mins become zeros where the layout
 * knows no others (F64; repack.h). Pure. */
enum placement placement_of(const struct backend *be, const struct placement_source *source,
                            struct weight_part *part);
