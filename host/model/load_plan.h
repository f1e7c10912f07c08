/* load_plan.h - the plan between load.c, which makes it, and load_fill.c, which carries it out. */
#pragma once
#include "host/model/placement.h"
#include "host/model/repack.h"
#include "host/model/state.h"

enum item_kind {
    ITEM_MAPPED, /* rows stay in the mapped file */
    ITEM_COPY,   /* rows are copied as they are stored */
    ITEM_PACK,   /* quantized and packed */
    ITEM_DECODE, /* quantized in the file: decoded and packed */
    ITEM_ORDER,  /* the activation order of such a matrix */
    ITEM_VECTOR, /* a norm or bias, widened to F32 */
};
struct item {
    enum item_kind kind;
    const struct tensor *tensor; /* NULL: random */
    struct weight_part *part;    /* matrices, orders */
    struct packed *packed;       /* DECODE, ORDER: owned by the DECODE item */
    const float **vector;        /* where the pointer to the vector goes */
    int32_t n;                   /* of a vector */
    struct row_map map;          /* which rows of the tensor */
    enum placement placement;    /* matrices */
    bool is_gain;                /* random: 1, not about 0 */
    bool plus_one;               /* what is stored is one less */
    struct tensor view;   /* an expert's part of a tensor of all: what `tensor` points to then */
    size_t offset, bytes; /* in the reserved piece; ITEM_MAPPED: no offset */
    char name[96];
};
struct plan {
    struct model *model;
    const struct tensor_dir *tensors; /* NULL: random */
    const struct model_options *options;
    struct item *items;
    int32_t n_items, n_items_max;
    bool *used; /* [tensors->n_tensors] */
    size_t reserved_bytes, mapped_bytes;
};
static inline const char *plan_file_of(const struct plan *plan, const struct tensor *tensor)
{
    return plan->tensors->labels[tensor->file];
}
/* Reserve and fill. On false the file, the tensor and the row are named. */
MUST_USE bool load_fill(const struct plan *plan, struct err *err);
