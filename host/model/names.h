/* names.h - tensor names of checkpoints -> slots of the forward pass, as one table.
 *
 * How to add a family, most often no more than this:
 *   1. families.c: a row of FAMILIES. A new key of its config.json is a new field of struct config,
 *      read and range-checked in config.c.
 *   2. names.c: rows for tensors that no family had yet; `need` says which fields ask for them.
 *      A second spelling of a name is a second row with a `need` of its own.
 *   3. decoder.c: the field goes to the op that does it (a scale, a soft cap, a second norm). Only
 *      a family whose order of stages differs gets a file of its own.
 *   4. tests/oracle/test_models.c: the model's folder in the table; tests/unit/model: its rows.
 * A fused tensor (qkv_proj, gate_up_proj) is several rows of one name: `fused` says which of its
 * rows are a part's, so that every part has its own bias, bits and place, as if stored alone. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/model/config.h"

enum matrix_slot {
    MATRIX_EMBED,
    MATRIX_HEAD,
    MATRIX_QKV, /* parts q, k, v */
    MATRIX_O,
    MATRIX_GATE_UP, /* parts gate, up; of a plain MLP up alone */
    MATRIX_DOWN,
    MATRIX_ROUTER,         /* one output an expert */
    MATRIX_EXPERT_GATE_UP, /* of every expert: parts gate, up */
    MATRIX_EXPERT_DOWN,
    MATRIX_SHARED_GATE_UP, /* of the expert that every row goes through */
    MATRIX_SHARED_DOWN,
    MATRIX_SHARED_ROUTER, /* one output: how much of it */
    VECTOR_ATTN_NORM,     /* in front of q, k, v */
    VECTOR_MLP_NORM,      /* in front of gate, up */
    VECTOR_FINAL_NORM,
    VECTOR_Q_NORM,
    VECTOR_K_NORM,
    VECTOR_O_NORM, /* in front of o, of down */
    VECTOR_DOWN_NORM,
    VECTOR_POST_ATTN_NORM, /* behind o, of what is added to the residual */
    VECTOR_POST_MLP_NORM,  /* behind down */
    VECTOR_SINKS,          /* a number a head; no ".weight" in its name */
};
enum extent {
    EXTENT_ONE, /* n_in of a vector */
    EXTENT_HIDDEN,
    EXTENT_Q,  /* n_heads * head_dim */
    EXTENT_KV, /* n_kv_heads * head_dim */
    EXTENT_HEAD_DIM,
    EXTENT_MLP, /* intermediate */
    EXTENT_VOCAB,
    EXTENT_HEADS,
    EXTENT_EXPERTS,
    EXTENT_EXPERT, /* width of an expert */
    EXTENT_SHARED, /* of the shared one */
};
/* All that must be so for a row to apply. */
enum need {
    NEED_ALWAYS = 0,
    NEED_LLAMA = 1 << 0, /* naming */
    NEED_NEOX = 1 << 1,
    NEED_UNTIED = 1 << 2,
    NEED_QK_NORM = 1 << 3,     /* per head */
    NEED_QK_NORM_ROW = 1 << 4, /* over all heads */
    NEED_QKV_APART = 1 << 5,
    NEED_QKV_FUSED = 1 << 6,
    NEED_GATE_APART = 1 << 7, /* a gated MLP */
    NEED_GATE_FUSED = 1 << 8,
    NEED_GATED = 1 << 9, /* either */
    NEED_PLAIN_MLP = 1 << 10,
    NEED_SUB_NORMS = 1 << 11,
    /* where norms stand */
    NEED_PRE = 1 << 12,
    NEED_GEMMA = 1 << 13,
    NEED_GLM = 1 << 14,
    NEED_POST = 1 << 15,
    NEED_IN_FRONT = 1 << 16, /* all but POST */
    /* layers with experts of these names, with a shared one; no other needs of an MLP hold there */
    NEED_MIXTRAL = 1 << 17,
    NEED_QWEN = 1 << 18,
    NEED_GPT_OSS = 1 << 19,
    NEED_MODULES = 1 << 20, /* of either: mlp.experts.N... */
    NEED_SHARED = 1 << 21,
    NEED_SINKS = 1 << 22,
};
enum bias { BIAS_NONE, BIAS_QKV, BIAS_O, BIAS_MLP, BIAS_NORM, BIAS_EXPERTS };
/* How a part lies in the tensor of its name. */
enum fused {
    FUSED_NO,
    FUSED_QKV,   /* rows of q, then k, then v */
    FUSED_HEADS, /* head by head: its rows of q, of k, of v */
    FUSED_GATE,  /* rows of gate, then up */
};
struct name {
    /* "model.layers.%d.self_attn.q_proj"; ".weight" or ".bias" comes behind. Matrices of experts
     * have a second %d: "model.layers.%d.mlp.experts.%d.up_proj". */
    const char *hf;
    bool in_layer; /* one a layer */
    enum matrix_slot slot;
    int32_t part;
    enum extent n_out, n_in; /* the part: [n_out][n_in], vectors [n_out] */
    unsigned need;           /* of enum need */
    enum bias bias;          /* which bias may come with it */
    enum fused fused;
};
extern const struct name NAMES[];
extern const int32_t N_NAMES;

/* One tensor an expert. */
static inline bool name_is_expert(const struct name *name)
{
    return name->slot == MATRIX_EXPERT_GATE_UP || name->slot == MATRIX_EXPERT_DOWN;
}
static inline bool name_is_vector(const struct name *name)
{
    return name->slot >= VECTOR_ATTN_NORM;
}
int32_t name_extent(const struct config *config, enum extent extent);
/* l: the layer, of names in layers. */
bool name_needed(const struct config *config, const struct name *name, int32_t l);
bool name_has_bias(const struct config *config, const struct name *name);
/* Rows of the stored tensor that are a part's: row r is stored row
 * from + r / run * stride + r % run. */
struct row_map {
    int32_t n_stored; /* rows of the tensor */
    int32_t from, run, stride;
};
struct row_map name_rows(const struct config *config, const struct name *name);
static inline int32_t row_map_at(const struct row_map *map, int32_t row)
{
    return map->from + row / map->run * map->stride + row % map->run;
}
/* "qkv", "o", ...: the slot's own name, for messages and taps. */
const char *slot_name(enum matrix_slot slot);
/* The head's tensor where it is tied, should a file have it all the same. */
const char *name_tied_head(const struct config *config);
/* Tensors that old writers left in files and that nothing reads, such as the frequencies of rope,
 * and a tied head written out a second time. */
bool name_is_harmless(const struct config *config, const char *tensor);
