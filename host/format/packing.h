/* packing.h - one quantized matrix as a checkpoint stores it, decoded without loss.
 *
 * packed_find collects the tensors of a module and proves their shapes; packed_rows decodes any
 * range of output rows into the canonical matrix, so that loading stays one block at a time and
 * parallel. Each packing is drawn in its packing_*.c. Tensor bytes stay borrowed from the
 * directory. */
#pragma once
#include "host/format/matrix.h"
#include "host/format/quant_spec.h"
#include "host/format/tensor_dir.h"

enum { PACKED_TENSORS_MAX = 32 };
struct packed {
    enum packing packing;    /* NONE: the module is not quantized, and nothing else is set */
    struct matrix_form form; /* what packed_rows decodes to */
    struct act_quant act;    /* static scales filled in */
    const int32_t *order;    /* [n_in] as struct matrix has it, or NULL; owned */
    const float *table;      /* CODE_TABLE: [2^bits]; owned when it came from the file */
    const struct tensor *tensors[PACKED_TENSORS_MAX]; /* all that it consists of */
    int32_t n_tensors;
    size_t bytes; /* of those tensors: what the matrix takes in the file */

    /* the reader's own */
    const struct tensor *codes, *scales, *zeros, *nested, *nested_map;
    size_t codes_at, scales_at; /* bytes into those tensors: an expert's slice */
    int32_t row_block;          /* rows that share a scale; scales are [n_out / row_block][...] */
    int32_t block;              /* bnb, hqq: weights of a block of the flattened matrix */
    int32_t nested_block;       /* bnb: blocks that share a nested absmax */
    float factor, offset;       /* factor: every scale is multiplied by it; offset: bnb nested */
    bool divide;                /* factor is divided by instead */
    bool axis0;                 /* hqq */
    int32_t *rank;              /* [n_in] input i is at code rank[i]; owned, with order */
    float *own_table;
};

/* ERR_FORMAT names the tensor, what was wanted and what was found; ERR_UNSUPPORTED. On false
 * nothing is held. n_out, n_in: what the model's config says. A module whose tensors are plain
 * floats, whatever the rules say, is not quantized. */
MUST_USE bool packed_find(struct packed *packed, const struct tensor_dir *dir,
                          const struct quant_spec *spec, const char *module, int32_t n_out,
                          int32_t n_in, struct err *err);
/* gpt-oss: slice `expert` of NAME_blocks u8 [n_experts][n_out][n_in / 32][16] and NAME_scales u8
 * [n_experts][n_out][n_in / 32]; name without those ends ("...experts.gate_up_proj"). NONE when
 * there is no such tensor. */
MUST_USE bool packed_find_mxfp4_slice(struct packed *packed, const struct tensor_dir *dir,
                                      const char *name, int32_t n_experts, int32_t expert,
                                      int32_t n_out, int32_t n_in, struct err *err);
void packed_clear(struct packed *packed);

/* Rows [row_from, row_from + n_rows) into rows block_row .. of `block`, a matrix of packed->form
 * (but for n_out); its table and order are set. ERR_FORMAT: a scale or zero that is not finite, or
 * a code that means nothing, with its row. Pure but for `block`: threads may take different rows.
 */
MUST_USE bool packed_rows(const struct packed *packed, int32_t row_from, int32_t n_rows,
                          struct matrix *block, int32_t block_row, struct err *err);
/* The same without the codes. */
MUST_USE bool packed_scales(const struct packed *packed, int32_t row_from, int32_t n_rows,
                            struct matrix *block, int32_t block_row, struct err *err);
/* Whether fp16 with a factor a row holds every scale, and fp16 every zero (*lossless): what the
 * tiled layouts need. Reads all scales. ERR_FORMAT as packed_rows; ERR_MEMORY. */
MUST_USE bool packed_fits_f16(const struct packed *packed, bool *lossless, struct err *err);
