/* names.h - tensor names of checkpoints -> slots of the forward pass, as one table.
 *
 * How to add a family, most often no more than this:
 *   1. config.c: a row of FAMILIES. A new key of its config.json is a new field of struct config.
 *   2. names.c: rows for tensors that no family had yet; `need` says which field asks for them.
 *      A second spelling of a name is a second row with a `need` of its own.
 *   3. decoder.c: the field goes to the op that does it (a scale, a soft cap, a second norm). Only
 * a family whose order of stages differs gets a file of its own.
 *   4. tests/oracle/test_models.c: the model's folder in the table; tests/unit/model: its rows.
 * Fused tensors (qkv_proj, gate_up_proj) are rows of one part with the summed extent. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/model/config.h"

enum matrix_slot {
    MATRIX_EMBED,
    MATRIX_HEAD,
    MATRIX_QKV, /* parts q, k, v */
    MATRIX_O,
    MATRIX_GATE_UP, /* parts gate, up */
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
};
enum extent {
    EXTENT_ONE, /* n_in of a vector */
    EXTENT_HIDDEN,
    EXTENT_Q,  /* n_heads * head_dim */
    EXTENT_KV, /* n_kv_heads * head_dim */
    EXTENT_HEAD_DIM,
    EXTENT_MLP, /* intermediate */
    EXTENT_VOCAB,
    EXTENT_EXPERTS,
    EXTENT_EXPERT, /* width of an expert */
    EXTENT_SHARED, /* of the shared one */
};
enum need {
    NEED_ALWAYS,
    NEED_UNTIED,
    NEED_QK_NORM,
    NEED_MLP,     /* layers without experts */
    NEED_MIXTRAL, /* layers with experts of these names */
    NEED_QWEN,
    NEED_SHARED, /* layers with a shared expert */
};
enum bias { BIAS_NONE, BIAS_QKV, BIAS_O, BIAS_MLP, BIAS_EXPERTS };
struct name {
    /* "model.layers.%d.self_attn.q_proj"; ".weight" or ".bias" comes behind. Matrices of experts
     * have a second %d: "model.layers.%d.mlp.experts.%d.up_proj". */
    const char *hf;
    bool in_layer; /* one a layer */
    enum matrix_slot slot;
    int32_t part;
    enum extent n_out, n_in; /* stored as [n_out][n_in], vectors as [n_out] */
    enum need need;
    enum bias bias; /* which bias may come with it */
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
/* "qkv", "o", ...: the slot's own name, for messages and taps. */
const char *slot_name(enum matrix_slot slot);
/* Tensors that old writers left in files and that nothing reads, such as the frequencies of rope,
 * and a tied head written out a second time. */
bool name_is_harmless(const struct config *config, const char *tensor);
