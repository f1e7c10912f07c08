/* model.h - a model that is loaded: what it is, what it needs, and its forward pass.
 *
 * model_open: config.json -> struct config; tensor names -> slots (names.h); each tensor from the
 * mapped file through the canonical matrix to its resident layout, one at a time (repack.h); never
 * two copies. Immutable afterwards but for its activation scratch, which belongs to the thread that
 * calls model_forward. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/backend.h"
#include "host/format/hf_folder.h"
#include "host/model/config.h"
#include "host/model/placement.h"
#include "host/text/chat.h"
#include "host/text/tokenizer.h"

enum weights_mode { WEIGHTS_AUTO, WEIGHTS_BF16, WEIGHTS_INT8, WEIGHTS_INT4 };
struct model_options {
    enum weights_mode weights; /* AUTO: every tensor exactly as stored; BF16: as AUTO, refused
                                  unless the checkpoint is unquantized */
    int32_t group;             /* 32, 64, 128, or -1: one scale a row */
    bool asymmetric;
    bool head_auto;   /* leave embeddings and head as stored; else int8 with int4 / int8 */
    int32_t ctx;      /* most tokens of a sequence; 0: what the model allows */
    int32_t rows_max; /* rows of a step that activations are sized for */
    int32_t logit_rows_max;
    enum dtype kv_dtype;     /* DTYPE_NONE: the backend's default */
    size_t weight_bytes_max; /* larger weights (mapped ones included) are refused before any is
                                read; 0: no limit */
    /* Progress of loading: called now and then from the loading thread; NULL for none. */
    void (*progress)(void *context, size_t bytes_done, size_t bytes_total);
    void *progress_context;
    /* Not NULL: every value of every tensor is looked at, mapped ones too, and each damaged tensor
     * is told in one sentence; then opening fails with their number. NULL: the first one is the
     * error, and what stays in the mapped file is not looked at. */
    void (*problem)(void *context, const char *text);
    void *problem_context;
};

/* Sampling defaults of generation_config.json; absent ones are neutral (temperature 1). */
struct model_defaults {
    float temperature, top_p, min_p, typical_p, repetition_penalty;
    int32_t top_k;
    int32_t max_tokens; /* max_new_tokens, 0: none */
};
enum { EOS_MAX = 16 };
struct model {
    struct config config;
    struct backend *be; /* borrowed */
    int32_t ctx;        /* tokens a sequence may have, prompt and output */
    int32_t rows_max, logit_rows_max;
    int32_t vocab;               /* columns of the logits */
    int32_t eos[EOS_MAX], n_eos; /* every id that ends a text (generation_config, config) */
    int32_t bos;                 /* -1: none */
    struct model_defaults defaults;
    struct tokenizer *tokenizer; /* NULL: token ids only; then tokenizer_reason says why */
    char tokenizer_reason[256];
    struct chat_template *chat; /* NULL: no chat; chat_reason says why */
    char chat_reason[256];
    char *chat_source;                               /* the template's text, or NULL */
    char *bos_text, *eos_text, *unk_text, *pad_text; /* for the template, NULL when unknown */
    struct kv_cache kv_shape;      /* groups, heads, dtype; n_pages 0, memory NULL */
    struct view logits;            /* [logit_rows_max][vocab] F32, backend memory */
    size_t weight_bytes;           /* resident weights, mapped ones included */
    size_t weight_anonymous_bytes; /* of these, not backed by the file */
    size_t activation_bytes;
    int64_t n_parameters;
    struct model_state *state; /* weights and scratch, decoder.c's own */
};

/* dummy: (`dummy:NAME`) random weights of a known shape, no files: folder == NULL and
 * `dummy_config` holds config.json's text. `folder` must outlive the model where the backend reads
 * host memory: weights stay in its mapped files. `be` is prepared for this model, and for no other.
 * ERR_REQUEST: an option does not fit this model; ERR_FORMAT, ERR_UNSUPPORTED: the files, with the
 * tensor or field, what was wanted and what was found. */
MUST_USE bool model_open(struct model *model, const struct hf_folder *folder,
                         const char *dummy_config, struct backend *be,
                         const struct model_options *options, struct err *err);
void model_close(struct model *model);

/* config.json's text of a `dummy:` name ("qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"), or NULL.
 */
const char *model_dummy_config(const char *name);

/* Called before each linear layer with its slot's name and its input (after the pre norm is NOT yet
 * applied: `x` is what the op reads, `pre` the norm that follows, or NULL). For calibration. Routed
 * experts are not shown: their rows differ from expert to expert. */
typedef void model_tap(void *context, const struct weight *w, struct view x,
                       const struct norm *pre);

/* One step: embeds batch->tokens, runs every layer, stores K and V into `kv`'s pages, and leaves
 * the logits of batch->logit_rows in model->logits rows 0..n_logit_rows-1. Asynchronous where the
 * backend is: results are there after be->ops->finish. batch->n_rows <= rows_max,
 * n_logit_rows <= logit_rows_max (CHECKed). `beat` (may be NULL) is incremented once a layer: the
 * heartbeat. */
void model_forward(struct model *model, const struct batch *batch, const struct kv_cache *kv,
                   model_tap *tap, void *tap_context, _Atomic uint64_t *beat);

/* batch_seq.rope_variant of a sequence of n_tokens tokens: where it changes, all of its keys do. */
static inline int32_t model_rope_variant(const struct model *model, int32_t n_tokens)
{
    const int32_t border = rope_border(&model->config.rope);
    return border > 0 && n_tokens > border;
}

/* Reserve pages for every group in REGION_KV; n_pages[g] pages each. */
MUST_USE bool kv_cache_reserve(struct kv_cache *kv, struct backend *be, const int32_t *n_pages,
                               struct err *err);

/* What `inspect` prints. One line per tensor slot: name, layout, bits, group, bytes. */
struct model_slot {
    char name[96];
    char stored[32];             /* "bf16", "f16" */
    char resident[32];           /* "bf16 rows (mapped)", "W4_C16 group 128" */
    int32_t n_out, n_in;         /* of all experts together */
    int32_t n_experts, n_chosen; /* how many, and of a row; 1 for what is no expert */
    int32_t bits, group;         /* 0: unquantized */
    bool order;                  /* in activation order */
    enum placement placement;
    enum act_scheme act; /* what the checkpoint wants its input quantized to */
    bool act_used;       /* and whether that is done here */
    size_t bytes;
};
int32_t model_slots(const struct model *model, struct model_slot *slots, int32_t n_max);
