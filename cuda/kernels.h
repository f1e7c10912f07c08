/* kernels.h - what cuda_backend.cu calls: one launcher a kernel family, and what they share.
 *
 * Launchers run on the host, check nothing that the backend has checked, allocate nothing, never
 * synchronize, and return the launch's status. Pointers are device memory unless said otherwise.
 * `rows` is the number of tokens (M); output channels are n_out, inputs n_in.
 *
 * Rows that are padding (graphs run whole buckets) have token -1 and position -1: kernels leave
 * their outputs finite and write no keys or values for them. */
#pragma once
#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/backend/layout_f64.h"
#include "host/backend/backend.h"

/* The device as kernels want to know it. */
struct device_info {
    int32_t n_sms;
    int32_t arch;         /* 80, 86, 89, 90, 120 */
    int32_t shared_bytes; /* most dynamic shared memory of a block */
    bool wgmma;           /* sm_90 and built with its kernels */
};

/* How a kernel is started. */
struct launch {
    cudaStream_t stream;
    const struct device_info *device;
    bool pdl; /* LAUNCH_PDL allowed here */
};

/* ---- F64 matrices -----------------------------------------------------------------------------
 */

struct f64_part {
    const uint8_t *units;    /* f64_bytes: see layout_f64.h */
    const float *row_factor; /* [n_out padded to 64] */
    const float *bias;       /* [n_out] or NULL */
    int32_t n_out;
};
struct f64_matrix {
    struct f64_part parts[WEIGHT_PARTS_MAX];
    int32_t n_parts, n_out, n_in;
    struct f64_kind kind; /* common to the parts */
};

/* ---- matrix products --------------------------------------------------------------------------
 *
 *   v[r][o] = (sum_i w[o][i] . x[r][i]) * row_factor[o] * x_scale[r] + bias[o]
 *   v       = soft_cap(v * scale)
 *   STORE: y = v      ADD: y = y + v      GATE: y[r][o] = act(v of parts[0]) * (v of parts[1])
 *
 * Sums in fp32. y is bf16 or fp32. The same launch gives the same bits. */
struct gemm_out {
    void *y;
    int64_t stride;   /* elements between rows of y */
    enum dtype dtype; /* DTYPE_BF16 or DTYPE_F32 */
    enum epilogue epilogue;
    enum gate gate;
    float scale;
    float soft_cap; /* 0: off */
};
/* q, k, v of the product to where attention reads them: see kv_store.cu. */
struct qkv_out {
    uint16_t *q; /* bf16 [rows][n_heads * head_dim], stride q_stride */
    int64_t q_stride;
    /* Of this layer: [n_pages][2][n_kv_heads] blocks of kv_layout.h; v_pages = k_pages + one page's
     * K. */
    void *k_pages, *v_pages;
    enum dtype kv_dtype; /* BF16, F16 or, by kv_store alone, I8 */
    int32_t n_pages, n_heads, n_kv_heads, head_dim;
    const int32_t *positions; /* [rows], -1: padding */
    const int32_t *row_seq;   /* [rows] */
    const int32_t *pages;     /* [n_seqs][pages_stride] */
    int32_t pages_stride;
    const float *inv_freq;       /* [variants][rotary_dim / 2], or NULL: no rotation */
    const int32_t *rope_variant; /* [rows] (kv_store alone), or NULL: there is one */
    int32_t rotary_dim;
    float rope_scale;
    bool interleaved;
    const float *q_gain, *k_gain; /* per-head RMS norm [head_dim], or NULL */
    float epsilon;
};
struct norm_in {
    const float *gain; /* NULL: no norm */
    const float *bias; /* layer norm, or NULL */
    float epsilon;
    bool layer; /* layer norm; else RMS */
};
/* Experts: a product's rows are dealt out to matrices that lie a constant distance apart. A tile of
 * rows goes to one of them; tiles are lists on the device (experts.cu). */
struct expert_tile {
    int32_t expert; /* -1: surplus, there is nothing to do */
    int32_t row_from, n_rows, unused;
};
struct gemm_groups {
    const struct expert_tile *tiles;       /* [n_tiles] */
    int32_t n_tiles, tokens;               /* of the grid; most rows of a tile: 8, 32 or 64 */
    int64_t part_stride[WEIGHT_PARTS_MAX]; /* bytes from an expert's part to the next one's */
    int64_t bias_stride[WEIGHT_PARTS_MAX]; /* likewise */
    const int32_t *rows;                   /* row i of x makes row rows[i] of y */
};
struct gemm_op {
    struct f64_matrix w; /* with groups: of expert 0 */
    int32_t rows;
    const struct gemm_groups *groups; /* gemm_mma; NULL: one matrix for all rows */
    /* gemm_small reads bf16 rows itself and norms them; x_scale and chunk sums are not used.
     * gemm_mma, gemm_wgmma, gemm_dense: fp16 rows of prepare_f16, columns padded to 128 with 0.
     * gemm_s8: int8 rows of prepare_s8. */
    const void *x;
    int64_t x_stride;     /* elements */
    const float *x_scale; /* fp16: [rows]; s8: [rows][n_in padded / 128] */
    const int32_t *x_sum; /* s8: sums of the codes [rows][n_in padded / 32] */
    struct norm_in norm;  /* gemm_small */
    struct gemm_out out;
    const struct qkv_out *qkv; /* gemm_small: instead of out; NULL: none */
    /* Split sums: `partial` of workspace_bytes, `tickets` GEMM_TICKETS counters that are zero
     * before and after. */
    float *partial;
    size_t partial_bytes;
    uint32_t *tickets;
    int32_t splits; /* 0: the kernel's own choice; else a fixed number (--invariant) */
};
enum { GEMM_TICKETS = 16384, GEMM_SMALL_ROWS = 32 };

enum gemm_kernel { GEMM_SMALL, GEMM_MMA, GEMM_WGMMA, GEMM_DENSE, GEMM_S8, GEMM_KERNELS };
/* Whether this kernel takes this op on this device (rows, kind, epilogue); pure. */
bool gemm_small_fits(const struct gemm_op *op, const struct device_info *device);
bool gemm_mma_fits(const struct gemm_op *op, const struct device_info *device);
bool gemm_wgmma_fits(const struct gemm_op *op, const struct device_info *device);
bool gemm_s8_fits(const struct gemm_op *op, const struct device_info *device);
/* Bytes of `partial` that rows x this matrix may want; 0: none. */
size_t gemm_small_workspace(const struct f64_matrix *w, int32_t rows,
                            const struct device_info *device);
size_t gemm_mma_workspace(const struct f64_matrix *w, int32_t rows,
                          const struct device_info *device);
size_t gemm_wgmma_workspace(const struct f64_matrix *w, int32_t rows,
                            const struct device_info *device);
cudaError_t gemm_small(const struct launch *launch, const struct gemm_op *op);
cudaError_t gemm_mma(const struct launch *launch, const struct gemm_op *op);
cudaError_t gemm_wgmma(const struct launch *launch,
                       const struct gemm_op *op); /* STORE, ADD, GATE */
cudaError_t gemm_s8(const struct launch *launch, const struct gemm_op *op);

/* Unquantized rows: y = epilogue(W . x) with W [n_out][n_in] bf16, fp16 or fp32 as stored, x bf16
 * of any number of rows, already normed. */
struct rows_op {
    const void *w;
    enum dtype dtype;
    int32_t n_out, n_in, rows;
    const void *x; /* bf16 */
    int64_t x_stride;
    const float *bias;
    const struct gemm_groups
        *groups;         /* NULL: one matrix; else tokens = 64, w and bias of expert 0 */
    struct gemm_out out; /* STORE or ADD; a gate is done by gate_combine */
    bool one_order;      /* a row's sums have one order whatever the number of rows (--invariant) */
};
cudaError_t gemm_rows(const struct launch *launch, const struct rows_op *op);

/* Dequantize-and-multiply through cuBLASLt (gemm_dense.cu): any rows, epilogue and kind; NULL with
 * the reason when there is no library or no memory for it. Takes dense_bytes of device memory. */
struct dense;
size_t dense_bytes(void);
struct dense *dense_open(struct err *err);
void dense_close(struct dense *dense); /* NULL: nothing */
bool gemm_dense_fits(const struct gemm_op *op, const struct device_info *device);
cudaError_t gemm_dense(const struct launch *launch, struct dense *dense, const struct gemm_op *op);
/* fp16 rows [row_from, row_to) of part `part`, [n][n_in padded to 128]; a multiple of 16 each, up
 * to n_out padded to 64. (code - zero) * scale, rounded; the row factor is left to who multiplies,
 * since fp16 holds it for ordinary rows alone. */
cudaError_t f64_dequantize(const struct launch *launch, const struct f64_matrix *w, int32_t part,
                           int32_t row_from, int32_t row_to, uint16_t *out);

/* ---- repacking at load ------------------------------------------------------------------------
 * Canonical rows -> F64, on the device, a block of rows at a time. */
struct repack_op {
    struct f64_kind kind;
    int32_t n_out, n_in, row_from, n_rows; /* row_from a multiple of 64; n_rows too, or the rest */
    int32_t group;        /* of the source: kind.group, a multiple of 128, or n_in */
    int32_t bits;         /* of the source: symmetric codes move up to kind's zero; 0: kind.bits */
    const uint8_t *codes; /* [n_rows][n_in] */
    const float *scales;  /* [n_rows][n_groups]; exact multiples as matrix_scale_parts says */
    const float *zeros;   /* [n_rows][n_groups], or NULL: symmetric */
    uint8_t *units;       /* the whole part's */
    float *row_factor;    /* the whole part's */
};
cudaError_t f64_repack(const struct launch *launch, const struct repack_op *op);

/* ---- rows (norm.cu, embed.cu, kv_store.cu) ------------------------------------------------------
 */

struct prepare_op {
    /* Row r of y comes from row from[r] / divisor of x; from[r] < 0: y stays. NULL: from row r. */
    const int32_t *from;
    int32_t divisor;
    const void *x; /* bf16 [rows], stride x_stride */
    int64_t x_stride;
    int32_t rows, n_in;
    struct norm_in norm;
    /* fp16: y[r][i] = norm(x)[r][i] / scale[r], scale a power of two so that the largest |y| of the
     * row is in [256, 512); columns n_in .. padded to 128 are 0; a row of zeros has scale 1. */
    /* s8: y = round(norm(x) / scale[chunk]), chunks of 128, scale = max / 127, in the order in
     * which F64's integer path reads: inside each 16, byte 4 q + j holds k = (2q, 2q+8, 2q+1,
     * 2q+9)[j]. */
    /* bf16: the normed row. */
    void *y;
    int64_t y_stride;
    float *scale;
    int32_t *sum; /* s8: sums of 32 codes, [rows][padded / 32] */
};
cudaError_t prepare_f16(const struct launch *launch, const struct prepare_op *op);
cudaError_t prepare_s8(const struct launch *launch, const struct prepare_op *op);
cudaError_t prepare_bf16(const struct launch *launch, const struct prepare_op *op);
/* y (bf16) = act(x[0..n)) * x[n..2n) of fp32 rows, without the second factor where `plain`;
 * y (=|+=) norm(x) * out.scale of fp32 rows */
cudaError_t gate_combine(const struct launch *launch, const float *x, int64_t x_stride,
                         int32_t rows, int32_t n, enum gate gate, bool plain, void *y,
                         int64_t y_stride);
cudaError_t post_combine(const struct launch *launch, const float *x, int64_t x_stride,
                         int32_t rows, int32_t n, struct norm_in norm, const struct gemm_out *out);
/* q to qkv->q, k and v to pages, from the fp32 product [rows][(n_heads + 2 n_kv_heads) head_dim].
 */
cudaError_t kv_store(const struct launch *launch, const float *product, int64_t stride,
                     int32_t rows, const struct qkv_out *qkv);
/* y[r] = table row tokens[r] * scale (bf16); token -1: zeros; token -2 - s: the token at drawn[s].
 * Table: F64 (w) or rows of dtype. */
struct embed_in {
    const struct f64_matrix *w; /* or NULL: */
    const void *rows_data;
    enum dtype dtype;
    int32_t vocab, hidden;
    const int32_t *tokens; /* [rows] */
    const int32_t *drawn;  /* [slots], or NULL: such tokens give zeros */
    int32_t rows;
    float scale;
    void *y;
    int64_t y_stride;
};
cudaError_t embed_rows(const struct launch *launch, const struct embed_in *op);
/* y[i] = x[rows[i]], bf16, i < n; rows[i] = -1: zeros. */
cudaError_t gather_rows(const struct launch *launch, const void *x, int64_t x_stride,
                        const int32_t *rows, int32_t n, int32_t n_cols, void *y, int64_t y_stride);
/* y[r][i] = x[r][order[i]], bf16, order [n_cols]: inputs as a matrix in activation order wants
 * them.
 */
cudaError_t gather_columns(const struct launch *launch, const void *x, int64_t x_stride,
                           const int32_t *order, int32_t rows, int32_t n_cols, void *y,
                           int64_t y_stride);

/* ---- experts (experts.cu) -----------------------------------------------------------------------
 */

enum { EXPERTS_LIMIT = 1024, EXPERT_LISTS = 3 };
/* Tiles of 8, 32 and 64 rows, as powers of two. */
#define EXPERT_TILE_SHIFT(list) ((list) == 0 ? 3 : (list) == 1 ? 5 : 6)
struct route_in {
    const float *logits;
    int64_t stride;
    int32_t rows, n_experts, n_chosen;
    enum route kind;
    const int32_t *positions; /* [rows], -1: padding, whose ids are -1 and weights 0; or NULL */
    int32_t *ids;             /* [rows][n_chosen] */
    float *weights;
};
/* Slot rows (row, slot) by expert. */
struct expert_lists {
    int32_t *sorted; /* [n_slots] slot row; -1 behind the last that is not padding */
    int32_t *ranks;  /* [n_slots] scratch */
    struct expert_tile *tiles[EXPERT_LISTS]; /* of `sorted`, [n_tiles] */
    int32_t n_tiles[EXPERT_LISTS];
};
/* y[slot] (bf16) = gate of x[slot] [0, n) and [n, 2n), fp32; slots with id -1 stay. */
struct experts_gate_in {
    const float *x;
    int64_t x_stride;
    const int32_t *ids;
    int32_t n_slots, n;
    enum gate gate;
    float limit;
    void *y;
    int64_t y_stride;
};
/* y[r] (bf16) += scale * sum of weights[r][s] * x[r * n_chosen + s] in the order of s. */
struct experts_add_in {
    const float *x;
    int64_t x_stride;
    const int32_t *ids;
    const float *weights;
    int32_t rows, n_chosen, n;
    float scale;
    void *y;
    int64_t y_stride;
};
cudaError_t experts_route(const struct launch *launch, const struct route_in *op);
/* Most tiles of a list that n_slots can make: n_tiles. */
int32_t experts_tiles_max(int32_t list, int32_t n_slots, int32_t n_experts);
cudaError_t experts_plan(const struct launch *launch, const int32_t *ids, int32_t n_slots,
                         int32_t n_experts, const struct expert_lists *lists);
cudaError_t experts_gate(const struct launch *launch, const struct experts_gate_in *op);
cudaError_t experts_add(const struct launch *launch, const struct experts_add_in *op);

/* ---- attention --------------------------------------------------------------------------------
 * y[row][head] = softmax(q . K^T * scale (soft cap) + sinks) . V over the row's sequence, causal,
 * inside the window. q, y bf16; pages as kv_layout.h, BF16, F16 or I8. */
struct attend_in {
    const void *q;
    void *y;
    int64_t q_stride, y_stride;
    const void *pages_memory; /* of this layer: [n_pages][2][n_kv_heads] blocks */
    enum dtype kv_dtype;
    int32_t n_pages, n_heads, n_kv_heads, head_dim;
    int32_t window; /* 0: none */
    float scale, soft_cap;
    const float *sinks;                         /* [n_heads] or NULL */
    const int32_t *positions, *row_seq, *pages; /* as in qkv_out */
    int32_t pages_stride;
    /* Work lists, made on the host with the batch: see attend_plan. */
    const struct attend_item *items;
    int32_t n_items;   /* decode: of the grid, surplus items have row -1 */
    float *partial;    /* decode: [n_items][n_heads][head_dim + 2] */
    uint32_t *tickets; /* decode: [rows * n_kv_heads], zero before and after */
};
/* decode: keys [from, to) of row `row`, split `split` of n_splits, its partials from item `first`.
 * prefill: query rows [row, row + n_rows) of one sequence. Padding: row -1. */
struct attend_item {
    int32_t row, n_rows;
    int32_t from, to;
    int32_t split, n_splits, first;
};
/* Host: the work of a step. Rows of sequences with one row go to `decode` (at most decode_max, the
 * rest of the array is padding), the others to `prefill`. `chunk`: keys of a split, a multiple of
 * 16; 0: chosen from the device and the batch; fixed for --invariant. */
struct attend_plan {
    struct attend_item *decode, *prefill; /* host arrays of the caller */
    int32_t decode_max, prefill_max;
    int32_t n_decode, n_prefill, n_decode_rows;
};
void attend_plan_batch(struct attend_plan *plan, const struct batch *batch, int32_t window,
                       int32_t n_kv_heads, int32_t chunk, const struct device_info *device);
/* Most decode items that `rows` rows of at most ctx keys make with this chunk (0: chosen):
 * decode_max, n_items of a graph of this many rows, and the rows of `partial`. n_decode, what a
 * batch really has, is never more; the rest up to decode_max has row -1. */
int32_t attend_decode_items_max(int32_t rows, int32_t ctx, int32_t n_kv_heads, int32_t chunk,
                                const struct device_info *device);
int32_t attend_prefill_items_max(int32_t rows_max);
bool attend_fits(int32_t head_dim, int32_t n_heads, int32_t n_kv_heads, enum dtype kv_dtype);
cudaError_t attend_decode(const struct launch *launch, const struct attend_in *op);
cudaError_t attend_prefill(const struct launch *launch, const struct attend_in *op);
/* The form of prefill for sm_90a, which attend_prefill starts where it fits. */
bool attend_wgmma_fits(const struct attend_in *op, const struct device_info *device);
cudaError_t attend_wgmma(const struct launch *launch, const struct attend_in *op);

/* ---- sampling (sample.cu): sampler.h's arithmetic
 * ------------------------------------------------
 */
struct device_sample {
    int32_t logit_row;
    int32_t slot; /* of `drawn` */
    int32_t target, top_k, n_top;
    float temperature, top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    double draw; /* in [0, 1), from (seed, index, position) on the host; unused when greedy */
    int32_t history_at, n_prompt, n_output; /* ids[history_at ..]; -1: the token at drawn[slot] */
    int32_t biases_at, n_biases;            /* ids: token, bits of the bias, ... */
    int32_t banned_at, n_banned;            /* ids */
    int32_t mask_at;                        /* ids as bits, (vocab + 31) / 32 words; -1: none */
};
struct device_sampled {
    int32_t token;
    float logprob;
    int32_t n_top;
    int32_t top_tokens[SAMPLE_TOP_MAX];
    float top_logprobs[SAMPLE_TOP_MAX];
};
struct sample_in {
    const float *logits; /* [..][vocab], not changed */
    int64_t stride;
    int32_t vocab, n_rows;
    const struct device_sample *rows;
    const int32_t *ids;
    struct device_sampled *outs;
    /* [slots] or NULL. A row that draws puts its token there, at the end; no two rows of a launch
     * may draw for one slot. */
    int32_t *drawn;
    float *scratch; /* sample_workspace bytes, zero before the first launch */
};
/* Whether the device form has everything this row asks for. It has temperature, top_k, top_p,
 * min_p, repetition, presence and frequency penalty, logit_bias, bans, masks and log-probabilities;
 * not typical_p and not a chain. Vocabularies of up to 1,048,576 tokens; one launch at a time on a
 * scratch. */
bool sample_fits(const struct sample_row *row);
size_t sample_workspace(int32_t vocab, int32_t n_rows);
cudaError_t sample_rows(const struct launch *launch, const struct sample_in *op);
