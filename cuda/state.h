/* state.h - what the CUDA backend is made of; cuda/ only.
 *
 * One stream, one thread. Device memory is taken in reserve and prepare, and given back in close.
 * A step's batch goes up in one copy into fixed places (struct step_buffers), so that recordings
 * find the next step's numbers where they found this one's. */
#pragma once
#include "cuda/cuda_backend.h"
#include "cuda/kernels.h"

enum {
    BLOCKS_MAX = 64,
    GRAPHS_MAX = 48,
    SAMPLE_IDS_MAX = 1 << 20, /* ints of histories, biases, bans and masks that one step may bring
                                 to the device; rows beyond are sampled by the host form */
    STEPS_MAX = 2,            /* steps under way */
};
enum path {
    PATH_GEMM_SMALL,
    PATH_GEMM_SMALL_QKV,
    PATH_GEMM_MMA,
    PATH_GEMM_WGMMA,
    PATH_GEMM_DENSE,
    PATH_GEMM_S8,
    PATH_GEMM_ROWS,
    PATH_PREPARE,
    PATH_KV_STORE,
    PATH_GATE,
    PATH_POST,
    PATH_EMBED,
    PATH_GATHER,
    PATH_ORDER,
    PATH_ROUTE,
    PATH_EXPERTS_MMA,
    PATH_EXPERTS_ROWS,
    PATH_EXPERTS_GATE,
    PATH_EXPERTS_ADD,
    PATH_ATTEND_DECODE,
    PATH_ATTEND_PREFILL,
    PATH_SAMPLE,
    PATH_SAMPLE_HOST,
    PATH_REPLAY,
    PATHS
};

extern const char *const path_names[PATHS + 1]; /* ops.cu */

/* The batch on the device. All arrays lie in one block; `host` is its pinned twin. */
struct step_buffers {
    uint8_t *device, *host;
    size_t bytes;
    size_t tokens_at, positions_at, row_seq_at, variants_at, logit_rows_at; /* int32 */
    size_t decode_at[KV_GROUPS_MAX], prefill_at[KV_GROUPS_MAX];             /* struct attend_item */
    int32_t decode_max, prefill_max;
    struct batch_seq *rows_alone; /* --invariant: [rows_max] */
    uint64_t serial;              /* of the batch that is there; 0: none */
    int32_t n_decode[KV_GROUPS_MAX], n_prefill[KV_GROUPS_MAX];
    bool identity_logits; /* logit row i is row i, for every row */
    bool in_flight;       /* a copy out of `host` may still be under way */
    /* Page tables change once in 16 tokens: they have a block of their own, sent when it differs.
     */
    int32_t *pages_device[KV_GROUPS_MAX], *pages_host[KV_GROUPS_MAX];
    int32_t pages_stride[KV_GROUPS_MAX];
};
/* One step's rows to sample: the pinned memory that its copies read and write, so it is in use
 * until its event. */
struct sampling_turn {
    struct device_sample *rows;
    struct device_sampled *outs_read;
    int32_t *ids;
    cudaEvent_t done;        /* the step is over, outs_read included */
    struct sample_out *outs; /* the caller's, to be filled */
    int32_t n_rows;
    bool *on_host; /* [logit_rows_max] rows whose outs are there already */
};
struct recording {
    int32_t rows;
    const void *kv; /* memory of its first group */
    cudaGraphExec_t exec;
};
/* experts_ops.cu: what the latest route said, and room for what its rows become. */
struct experts_state {
    struct expert_lists lists; /* n_tiles: of this route */
    int32_t rows, n_chosen, n_experts;
    uint16_t *x;        /* [slots][inputs padded to 128]: fp16, or bf16 rows */
    float *x_scale;     /* [slots] */
    float *product;     /* [slots][cols] */
    int64_t x_elements; /* slots * cols */
};
struct measured; /* measure.cu */
struct cuda {
    struct backend backend; /* first: a backend is a cuda */
    struct cuda_options options;
    struct device_info info;
    char name[160];
    cudaStream_t stream;
    cudaEvent_t copied; /* the last copy out of step_buffers.host has been made */
    void *blocks[BLOCKS_MAX];
    int32_t n_blocks;
    size_t region_bytes[REGION_COUNT], scratch_bytes, total_bytes;
    bool prepared;
    struct backend_limits limits;
    struct step_buffers step;
    /* scratch */
    uint16_t *x16;               /* [rows][cols padded to 128] */
    int8_t *x8;                  /* the same, int8 */
    float *x_scale;              /* [rows][cols padded / 128] */
    int32_t *x_sum;              /* [rows][cols padded / 32] */
    uint16_t *normed, *gathered; /* bf16 [rows][cols] */
    float *product;              /* [rows][cols] */
    float *partial;              /* split sums */
    size_t partial_bytes;
    uint32_t *tickets;
    float *attend_partial;
    uint32_t *attend_tickets;
    struct experts_state experts;
    struct dense *dense;       /* opened when first wanted */
    char *kernels_file;        /* options.kernels, owned */
    struct measured *measured; /* kernel times; NULL: none */
    uint8_t *staging;          /* canonical blocks on their way into F64; given back by prepare */
    size_t staging_bytes;
    /* sampling */
    struct sampling_turn turns[STEPS_MAX];
    int32_t first_turn, n_turns; /* that are open, oldest first */
    struct device_sample *rows_device;
    struct device_sampled *outs_device;
    int32_t *ids_device;
    int32_t *drawn; /* [seqs_max] by slot: the token that was drawn last */
    float *sample_scratch;
    /* the host form of a row: pinned, but for the history */
    struct sampler *sampler;
    float *logits_host;
    int32_t *drawn_host; /* [logit_rows_max] */
    int32_t *history;    /* [ctx] */
    /* recordings */
    struct recording graphs[GRAPHS_MAX];
    int32_t n_graphs;
    bool graphs_off;
    bool recording;
    int32_t bucket, bucket_logits; /* rows of a recording; 0: as many as the op says */
    /* faults */
    bool failed;
    struct err failure;
    int64_t counts[PATHS];
};
static inline struct cuda *cuda_of(struct backend *be)
{
    return (struct cuda *)be;
}

/* True when `status` is success; else keeps the first failure, with what was being done. */
bool cuda_ok(struct cuda *cuda, cudaError_t status, const char *op, const char *name);
void cuda_fail(struct cuda *cuda, const char *format, ...) PRINTF_LIKE(2, 3);
/* step.cu: sends the batch, padded to the recording's bucket; once a batch. */
bool step_reserve(struct cuda *cuda, struct err *err);
/* Rows of a step that decode attention may have to do; its grid for this many rows. */
int32_t step_decode_rows(const struct cuda *cuda);
int32_t step_decode_items(const struct cuda *cuda, int32_t rows);
bool step_send(struct cuda *cuda, const struct batch *batch, int32_t rows);
/* Device memory outside the regions. */
bool cuda_take(struct cuda *cuda, void **memory, size_t bytes, const char *what, struct err *err);
/* ops.cu */
void cuda_embed(struct backend *be, const struct embed_op *op);
void cuda_linear(struct backend *be, const struct linear_op *op);
void cuda_attend(struct backend *be, const struct attend_op *op);
void cuda_logits(struct backend *be, const struct logits_op *op);
/* experts_ops.cu */
bool experts_reserve(struct cuda *cuda, struct err *err);
void cuda_route(struct backend *be, const struct route_op *op);
void cuda_linear_experts(struct backend *be, const struct linear_experts_op *op);
/* ops.cu, for experts_ops.cu */
struct launch launch_of(const struct cuda *cuda);
struct norm_in norm_of(const struct norm *norm);
int32_t rows_of(const struct cuda *cuda, int32_t rows);
const int32_t *step_ints(const struct cuda *cuda, size_t at);
/* sampling.cu */
bool sampling_reserve(struct cuda *cuda, struct err *err);
void sampling_release(struct cuda *cuda);
bool cuda_sample(struct backend *be, const struct sample_op *op);
bool cuda_collect(struct backend *be, struct err *err);
void sampling_finish(struct cuda *cuda); /* after the stream is done: fills all outs */
/* graph.cu */
bool cuda_replay(struct backend *be, const struct batch *batch, const struct kv_cache *kv);
bool cuda_record(struct backend *be, const struct batch *batch, const struct kv_cache *kv);
void cuda_record_end(struct backend *be);
void graphs_release(struct cuda *cuda);
/* ops.cu: parts [from, to) of a weight as one matrix; false when they do not agree. */
bool cuda_matrix(const struct weight *w, int32_t from, int32_t to, struct f64_matrix *out);
/* ops.cu: op (w, rows, x in bf16, norm, out or qkv) by this kernel, its input prepared for it. */
bool cuda_gemm(struct cuda *cuda, struct gemm_op *op, enum gemm_kernel kernel, const char *name);
/* choose.cu: the kernel for this product: as measured, else by rule. */
enum gemm_kernel choose_gemm(const struct cuda *cuda, const struct gemm_op *op);
enum gemm_kernel choose_by_rule(const struct cuda *cuda, const struct gemm_op *op);
bool choose_takes(const struct cuda *cuda, enum gemm_kernel kernel, const struct gemm_op *op);
/* measure.cu: seam, tune. */
void cuda_tune(struct backend *be, const struct weight *const *weights, int32_t n_weights);
/* measure.cu: the kernel that was quickest for this matrix and these rows; GEMM_KERNELS: not
 * measured. */
enum gemm_kernel measured_kernel(const struct cuda *cuda, const struct gemm_op *op);
/* Whether gemm_small takes this q/k/v product with rotation and pages in its epilogue. */
bool choose_takes_qkv(const struct cuda *cuda, const struct gemm_op *op);
