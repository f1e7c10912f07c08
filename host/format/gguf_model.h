/* gguf_model.h - a model made of one or more .gguf files, and what is said about it in terms that
 * the rest of nibble reads: the text of a config.json, names of tensors as in Hugging Face
 * checkpoints. For gguf_folder.c, gguf_config.c, gguf_names.c and gguf_tokenizer.c alone. */
#pragma once
#include "host/base/buf.h"
#include "host/format/gguf.h"

struct gguf_model {
    struct gguf *parts; /* [n_parts]; the first has the metadata */
    int32_t n_parts;
};

/* An architecture of GGUF ("llama", "qwen2") as nibble's families know it. */
enum {
    GGUF_PAIRS =
        1,               /* rows of q and k are stored as pairs for interleaved rope: llama.cpp's
                            conversion permutes them (undo_permute), the family's own rope is half-split */
    GGUF_LAYER_NORM = 2, /* attention.layer_norm_epsilon in place of ..._rms_epsilon */
    GGUF_GAINS = 4,      /* norms are stored with the 1 of gemma's 1 + w */
};
struct gguf_arch {
    const char *name;         /* general.architecture */
    const char *architecture; /* "LlamaForCausalLM" */
    const char *model_type;
    const char *hidden_act; /* NULL: "silu" */
    unsigned flags;
};
/* ERR_UNSUPPORTED by name, ERR_FORMAT when the file does not say. A llama with experts is a
 * mixtral. */
MUST_USE bool gguf_arch_of(const struct gguf_model *model, const struct gguf_arch **arch,
                           struct err *err);
/* In any part; NULL when there is none. O(tensors). */
const struct tensor *gguf_model_tensor(const struct gguf_model *model, const char *name);

/* The text of a config.json (look at out->failed), and the features of an attention head. */
MUST_USE bool gguf_config_text(const struct gguf_model *model, const struct gguf_arch *arch,
                               struct buf *out, int64_t *head_dim, struct err *err);
/* Moves the parts' tensors into `dir`, named as in a Hugging Face checkpoint: experts one by one,
 * rows of q and k marked (tensor.pairs) where heads have head_dim features. Tensors that the config
 * has consumed are left out; names that nobody knows stay as they are, and the loader refuses them.
 * The parts' mappings go to `dir` one by one as their tensors are added; whatever happens,
 * gguf_clear on each part stays right. */
MUST_USE bool gguf_move_tensors(struct gguf_model *model, const struct gguf_arch *arch,
                                int64_t head_dim, struct tensor_dir *dir, struct err *err);
