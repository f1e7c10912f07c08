/* backend.h - the one seam: what a device can do (DESIGN 4).
 *
 * One op is one stage of a layer and takes one descriptor struct; optional fields are the fusions.
 * The CPU backend composes them from small plain functions; CUDA picks the fused kernel. Nothing
 * above the seam knows which.
 *
 * Ops return nothing. Wrong arguments are bugs (CHECK). A device failure is kept in the backend
 * (the first wins, with the op's name); after it every op is a no-op until finish() reports it. Ops
 * of one backend are called from one thread at a time.
 *
 * Bits do not depend on company (CPU, both arithmetics): the value of a row depends on that row's
 * inputs and its sequence's K/V alone -
 *   - an activation's quantization scale depends on its (row, group) only;
 *   - attention reads K and V back from pages, the current chunk's too; its softmax and P.V run
 * over absolute pages in ascending order, alike for one row and many;
 *   - the sum over inputs has one order in the single-row and the tile kernels and is never split
 *     over threads;
 *   - expert sums go in slot order.
 * So logits are equal, bit for bit, for every chunking, with or without a prefix hit, alone or
 * among others, for any number of threads. On CUDA: the same run gives the same bits. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"
#include "host/backend/view.h"
#include "host/backend/act_quant.h"
#include "host/backend/batch.h"
#include "host/backend/layout.h"
#include "host/backend/sampler.h"
#include "host/format/act_scheme.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- weights ----------------------------------------------------------------------------------
 */

enum { WEIGHT_PARTS_MAX = 3 };

struct weight_part {
    struct layout_shape shape; /* n_out, n_in, layout, bits, group */
    enum dtype dtype;          /* LAYOUT_ROWS: F32, F16 or BF16 */
    const void *data;  /* backend memory, or the mapped file where the backend reads host memory */
    size_t bytes;      /* what one pass over the part reads */
    const float *bias; /* [n_out] F32, or NULL */
    const int32_t *order; /* [n_in] activation order: input i reads x column order[i]; or NULL */
    /* How its input is quantized first (before `order`), unless the arithmetic is exact. */
    struct act_quant act;
};
/* A linear layer: parts are stacked along the outputs (q, k, v; gate, up) and share their input. */
struct weight {
    const char *name; /* for messages and taps: "layers.3.qkv" */
    int32_t n_out, n_in, n_parts;
    struct weight_part parts[WEIGHT_PARTS_MAX];
};

/* The experts of a layer: matrices of one shape, whose parts have the same layout, bits and group.
 * Where ops do not read host memory, data, bias and order of a part lie a constant distance apart
 * from one expert to the next. */
struct experts {
    const char *name; /* "layers.3.experts.down" */
    int32_t n;
    const struct weight *each; /* [n] */
};

enum norm_kind { NORM_RMS, NORM_LAYER };
struct norm {
    enum norm_kind kind;
    const float *gain; /* [n], never NULL */
    const float *bias; /* [n] or NULL */
    int32_t n;
    float epsilon;
};

/* Rotary embedding, half-split pairs (i, i + rotary_dim / 2) of the first rotary_dim features:
 * angle = position * inv_freq[i]; cos and sin are multiplied by `scale` (yarn, longrope). Where
 * there are variants (longrope), a row takes that of its sequence: batch_seq.rope_variant. */
struct rope {
    const float *inv_freq; /* [n_variants][rotary_dim / 2], backend memory */
    int32_t rotary_dim;
    float scale;
    bool interleaved;   /* pairs (2i, 2i + 1) instead */
    int32_t n_variants; /* 0 or 1: one */
};

/* With a kv_store the product is [q | k | v]: q goes to y, k and v to the pages. */
struct kv_store {
    const struct kv_cache *kv;
    int32_t group, layer; /* layer: index inside the group */
    int32_t n_heads;      /* query heads; KV heads and head_dim are in kv */
    /* Before rope; or NULL, both. Of head_dim features: per head. Of all of q, all of k: one each
     * (with one KV head, k's is either). */
    const struct norm *q_norm, *k_norm;
    const struct rope *rope; /* NULL: no rotation in this layer */
};

enum epilogue { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_GATE, EPILOGUE_ACT };
/* SWIGLU_CLAMPED (gpt-oss; experts alone): g = min(gate, limit), u = up within +-limit;
 * g / (1 + e^(-1.702 g)) * (u + 1) */
enum gate { GATE_SILU, GATE_GELU, GATE_GELU_TANH, GATE_RELU2, GATE_SWIGLU_CLAMPED };

/* ---- ops --------------------------------------------------------------------------------------
 */

/* y[r] = table row tokens[r] * scale */
struct embed_op {
    struct view y;              /* [n_rows][n_in of the table] */
    const struct weight *table; /* [vocab][hidden], one part, any layout */
    const struct batch *batch;
    float scale;
};
/* y (=|+=) epilogue(post(W . pre(x) + bias) * scale) */
struct linear_op {
    struct view
        y; /* [n_rows][n_out]; GATE: [n_rows][n_out / 2]; store: [n_rows][n_heads * head_dim] */
    struct view x; /* [n_rows][n_in] */
    const struct weight *w;
    const struct norm *pre, *post; /* NULL, or a norm of x / of the product */
    const struct kv_store *store;  /* NULL, or for q/k/v */
    const struct batch *batch;     /* needed with store */
    /* GATE: act(first half) * second half, gate rows before up rows; ACT: act(product) */
    enum epilogue epilogue;
    enum gate gate;
    float scale; /* 1 for none */
};
/* The n_chosen experts of each row with the greatest logits, in descending order, equal ones in
 * ascending order of their index; and what their outputs are weighted with:
 *   SOFTMAX         softmax over all logits
 *   SOFTMAX_CHOSEN  softmax over the chosen ones (= that over all, divided by the sum of the
 * chosen) SIGMOID         1 / (1 + e^-logit) */
enum route { ROUTE_SOFTMAX, ROUTE_SOFTMAX_CHOSEN, ROUTE_SIGMOID };
struct route_op {
    struct view logits; /* F32 [n_rows][experts] */
    int32_t *ids;       /* [n_rows][n_chosen], backend memory */
    float *weights;     /* [n_rows][n_chosen], backend memory */
    int32_t n_chosen;
    enum route kind;
};
/* Slot s of row r goes through expert e = ids[r][s]; slot rows are r * n_chosen + s.
 *   GATE: y[slot row] = gate(W_e . pre(x[r]) + bias_e)                x [n_rows], y [slot rows]
 *   ADD:  y[r] += scale * sum over s, ascending, of weights[r][s] * (W_e . x[slot row] + bias_e)
 *                                                                     x [slot rows], y [n_rows] */
struct linear_experts_op {
    struct view y, x;
    const struct experts *w;
    const struct norm *pre; /* GATE: NULL or a norm of x */
    const int32_t *ids;     /* as the latest route left them */
    const float *weights;   /* ADD */
    int32_t n_chosen;
    enum epilogue epilogue; /* GATE or ADD */
    enum gate gate;
    float gate_limit; /* GATE_SWIGLU_CLAMPED */
    float scale;      /* ADD; 1 for none */
};
/* y = softmax(q . K^T * scale) . V over each row's own sequence, causal, inside the window. */
struct attend_op {
    struct view y, q; /* [n_rows][n_heads * head_dim] */
    const struct kv_cache *kv;
    const struct batch *batch;
    int32_t group, layer, n_heads;
    float scale;
    float soft_cap;     /* cap * tanh(s / cap); 0: off */
    const float *sinks; /* [n_heads] logit of a virtual key with value 0; or NULL */
};
/* logits[i] = cap(scale * head . norm(x[batch->logit_rows[i]])) */
struct logits_op {
    struct view logits; /* [n_logit_rows][vocab] F32 */
    struct view x;
    const struct weight *head;
    const struct norm *norm;
    const struct batch *batch;
    float scale, soft_cap; /* 1, 0: off */
};
/* outs[i] of rows[i]; all host memory. `rows` and what they point to are read before sample()
 * returns; outs are valid after collect or finish. n_rows 0: a step that wants no tokens. */
struct sample_op {
    struct view logits;            /* F32 [n][vocab] */
    const struct sample_row *rows; /* [n_rows] */
    struct sample_out *outs;       /* [n_rows] */
    int32_t n_rows;
};

enum region { REGION_WEIGHTS, REGION_KV, REGION_ACTIVATIONS, REGION_COUNT };

/* The largest shapes that will ever be asked for: scratch is taken once. */
struct backend_limits {
    int32_t rows_max; /* rows of a step */
    int32_t logit_rows_max;
    int32_t seqs_max, n_kv_groups; /* sequences of a step; groups of page tables */
    int32_t cols_max;              /* widest input or product */
    int32_t vocab;
    int32_t n_heads, n_kv_heads, head_dim, ctx;
    int32_t windows[KV_GROUPS_MAX]; /* as kv_group.window */
    int32_t rope_variants;          /* as rope.n_variants */
    /* Experts of a layer, those of a row; inputs and outputs of linear_experts, for each of a row's
     * n_chosen slots; 0: none. */
    int32_t n_experts, n_chosen, expert_cols;
};

struct backend;
struct backend_ops {
    /* Memory of the backend, zeroed, 64-byte aligned, until close. ERR_MEMORY with the bytes asked
     * for and what there is. */
    bool (*reserve)(struct backend *be, enum region region, size_t bytes, void **memory,
                    struct err *err);
    /* Scratch for these shapes; once, before the first op. */
    bool (*prepare)(struct backend *be, const struct backend_limits *limits, struct err *err);
    void (*upload)(struct backend *be, void *to, const void *from, size_t bytes);
    void (*download)(struct backend *be, void *to, const void *from, size_t bytes);
    /* Rows row_from .. row_from + n_rows (row_from a multiple of 64) of the packed matrix at `to`
     * from the first n_rows of `block`, on the device. NULL: layout_pack_block, then upload. */
    void (*pack)(struct backend *be, const struct layout_shape *shape, const struct matrix *block,
                 int32_t n_rows, int32_t row_from, void *to);
    /* Once, between prepare and the first op, with the matrices that `linear` and `logits` will
     * see: time to find out which kernel is quickest for each. NULL: nothing to find out. */
    void (*tune)(struct backend *be, const struct weight *const *weights, int32_t n_weights);

    void (*embed)(struct backend *be, const struct embed_op *op);
    void (*linear)(struct backend *be, const struct linear_op *op);
    void (*attend)(struct backend *be, const struct attend_op *op);
    /* NULL where experts cannot be multiplied. */
    void (*route)(struct backend *be, const struct route_op *op);
    void (*linear_experts)(struct backend *be, const struct linear_experts_op *op);
    void (*logits)(struct backend *be, const struct logits_op *op);
    /* Ends a step. True: it has run to its end and outs are there, because the backend knows no
     * other way or because these rows are the host's to draw; there is nothing to be gained by
     * preparing the next step before collect. */
    bool (*sample)(struct backend *be, const struct sample_op *op);
    /* One step of many kernels as one launch. NULL where there is nothing to gain. `replay`: the
     * ops of this batch, logits included, were recorded before for this `kv` and run now: true, and
     * the caller makes no other call for this forward pass. Else `record` may answer true: the ops
     * that follow are recorded, and run at record_end. Same bits as without. */
    bool (*replay)(struct backend *be, const struct batch *batch, const struct kv_cache *kv);
    bool (*record)(struct backend *be, const struct batch *batch, const struct kv_cache *kv);
    void (*record_end)(struct backend *be);
    /* The outs of the oldest sample() that was not collected: waits for that step alone, at most
     * steps_max of them are open. False as finish. NULL where steps_max is 1: finish. */
    bool (*collect)(struct backend *be, struct err *err);
    /* Wait for everything, and fill all outs; false with the first failure since open (it stays:
     * the device is lost). */
    bool (*finish)(struct backend *be, struct err *err);
    void (*close)(struct backend *be);
};
struct backend {
    const struct backend_ops *ops;
    const char *name;      /* "cpu avx512-vnni, 2 threads, int8 activations" */
    bool host_memory;      /* ops read host pointers: weights may stay in the mapped file */
    bool f64;              /* quantized matrices in layout F64 */
    int32_t steps_max;     /* steps that may be under way at once, in order: 1, or 2 */
    size_t device_free;    /* bytes of device memory that were free at open; 0: host memory */
    size_t workspace;      /* bytes of device memory that prepare took, and recordings may */
    bool exact;            /* fp32 activations and KV, canonical weights */
    enum dtype activation; /* of views between ops */
    enum dtype kv_dtype;   /* default KV element */
    struct pool *pool;     /* for loading in parallel (borrowed), or NULL */
};
/* The layout in which this backend wants a quantized matrix of these properties. LAYOUT_CODES of a
 * backend with f64 set: it cannot multiply with it. */
enum layout backend_layout(const struct backend *be, int32_t bits, int32_t group, int32_t n_in);
/* The same for a matrix of any form that came quantized, into shape->layout and ->scales: the one
 * place where that is decided. lossless: fp16 times a power of two a row holds its scales, and fp16
 * its zeros. fit: layout_scales_fit's set. table: of CODE_TABLE. LAYOUT_ROWS: no layout of this
 * backend takes it, it is to be dequantized while loading; F64 with mins: they are to become zeros.
 */
void backend_choose_layout(const struct backend *be, struct layout_shape *shape, const float *table,
                           bool lossless, uint32_t fit);

/* ---- the CPU backend --------------------------------------------------------------------------
 */

enum cpu_isa { CPU_ISA_AUTO, CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
struct cpu_options {
    int32_t n_threads; /* 0: one per usable CPU */
    bool exact;        /* fp32 activations, fp32 KV: the oracle */
    /* AUTO: the best that CPUID offers, the AMX tile unit included; tests ask for each. AVX512
     * named is VNNI without AMX. */
    enum cpu_isa isa;
};
MUST_USE bool cpu_backend_open(struct backend **be, const struct cpu_options *options,
                               struct err *err);
/* Whether this machine can run it. */
bool cpu_isa_available(enum cpu_isa isa);
#ifdef __cplusplus
}
#endif
