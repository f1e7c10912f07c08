/* state.h - what a loaded model is made of. Inside host/model only; everybody else sees model.h. */
#pragma once
#include "host/model/model.h"
#include "host/model/names.h"

enum { LAYER_SLOTS = MATRIX_SHARED_ROUTER - MATRIX_QKV + 1 };
struct layer {
    /* gate_up, down: of the MLP; in a layer with experts of the shared one, where there is one */
    struct weight qkv, o, gate_up, down;
    struct weight router, shared_router;
    struct experts expert_gate_up, expert_down; /* n 0: an MLP instead */
    struct weight *experts;                     /* [2 * n], owned: gate_up, then down */
    /* Those that the family has; of the others gain is NULL. */
    struct norm attn_norm, mlp_norm, q_norm, k_norm, o_norm, down_norm;
    const float *sinks; /* [n_heads] or NULL */
    struct norm post_attn_norm, post_mlp_norm;
    char names[LAYER_SLOTS][32]; /* "layers.3.qkv": what the weights' names point to */
};
struct model_state {
    struct layer *layers; /* [n_layers], owned */
    struct weight embed, head;
    struct norm final_norm;
    struct rope rope, rope_local;
    struct view x, q, attended, gated; /* scratch, [rows_max][...]; see decoder.c */
    struct view routed, shared_routed; /* F32 [rows_max][experts], [rows_max][1] */
    struct view expert_gated;          /* [rows_max * n_chosen][expert width] */
    int32_t *expert_ids;               /* [rows_max * n_chosen], backend memory */
    float *expert_weights;             /* likewise */
    struct model_slot *slots;          /* [n_slots], owned */
    int32_t n_slots;
};

/* Fills model->state (layers, embed, head, norms, rope, slots) and the counts of bytes and
 * parameters from the tensors, or with random numbers where `tensors` is NULL. All shapes are
 * checked and all memory is reserved before the first byte is read. */
MUST_USE bool model_load(struct model *model, const struct tensor_dir *tensors,
                         const struct model_options *options, struct err *err);
/* decoder.c: scratch for model_forward, once. */
MUST_USE bool model_reserve_scratch(struct model *model, struct err *err);
/* decoder.c: shows the backend all matrices, once; ERR_MEMORY. */
MUST_USE bool model_tune(struct model *model, struct err *err);
/* texts.c: eos, bos, sampling defaults, tokenizer, template. */
MUST_USE bool model_read_texts(struct model *model, const struct hf_folder *folder,
                               struct err *err);
void model_clear_texts(struct model *model);
