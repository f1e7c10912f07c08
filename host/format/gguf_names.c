/* gguf_names.c - tensor names of GGUF -> those of Hugging Face checkpoints, as one table, and what
 * else the conversion to GGUF has done to a tensor.
 *
 * Names: llama.cpp's gguf-py/gguf/tensor_mapping.py, read backwards. A family whose tensors have
 * other names adds rows above the general ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/format/gguf_model.h"

enum change {
    AS_IS,
    PAIRS,   /* rows are q or k of GGUF_PAIRS */
    EXPERTS, /* [experts][...]: a tensor each; %d in the name */
    LEAD,    /* a vector that is a matrix of one row */
    LEAF,    /* no ".weight" behind */
};
enum { EXPERTS_MAX = 1024, TENSORS_MAX = 1 << 20 };

static const struct row {
    const char *gguf; /* without "blk.N." and ".weight" or ".bias" */
    const char *hf;   /* "*" at the start: "model.layers.N." */
    const char *only; /* architectures, with blanks around each; NULL: all */
    enum change change;
} ROWS[] = {
    { "token_embd", "model.embed_tokens", NULL, AS_IS },
    { "output_norm", "model.norm", NULL, AS_IS },
    { "output", "lm_head", NULL, AS_IS },
    { "attn_norm", "*input_layernorm", NULL, AS_IS },
    { "attn_q", "*self_attn.q_proj", NULL, PAIRS },
    { "attn_k", "*self_attn.k_proj", NULL, PAIRS },
    { "attn_v", "*self_attn.v_proj", NULL, AS_IS },
    { "attn_qkv", "*self_attn.qkv_proj", NULL, AS_IS },
    { "attn_output", "*self_attn.o_proj", NULL, AS_IS },
    { "attn_q_norm", "*self_attn.q_layernorm", " stablelm ", AS_IS },
    { "attn_k_norm", "*self_attn.k_layernorm", " stablelm ", AS_IS },
    { "attn_q_norm", "*self_attn.q_norm", NULL, AS_IS },
    { "attn_k_norm", "*self_attn.k_norm", NULL, AS_IS },
    { "attn_sinks", "*self_attn.sinks", NULL, LEAF },
    { "ffn_norm", "*pre_feedforward_layernorm", " gemma2 gemma3 ", AS_IS },
    { "ffn_norm", "*post_attention_layernorm", NULL, AS_IS },
    { "post_attention_norm", "*post_self_attn_layernorm", " glm4 ", AS_IS },
    { "post_attention_norm", "*post_attention_layernorm", NULL, AS_IS },
    { "post_ffw_norm", "*post_mlp_layernorm", " glm4 ", AS_IS },
    { "post_ffw_norm", "*post_feedforward_layernorm", NULL, AS_IS },
    { "ffn_up", "*mlp.gate_up_proj", " phi3 glm4 ", AS_IS },
    { "ffn_up", "*mlp.c_fc", " starcoder2 ", AS_IS },
    { "ffn_down", "*mlp.c_proj", " starcoder2 ", AS_IS },
    { "ffn_gate", "*mlp.gate_proj", NULL, AS_IS },
    { "ffn_up", "*mlp.up_proj", NULL, AS_IS },
    { "ffn_down", "*mlp.down_proj", NULL, AS_IS },
    { "ffn_gate_inp", "*block_sparse_moe.gate", " llama ", AS_IS },
    { "ffn_gate_exps", "*block_sparse_moe.experts.%d.w1", " llama ", EXPERTS },
    { "ffn_up_exps", "*block_sparse_moe.experts.%d.w3", " llama ", EXPERTS },
    { "ffn_down_exps", "*block_sparse_moe.experts.%d.w2", " llama ", EXPERTS },
    { "ffn_gate_inp", "*mlp.router", " gpt-oss ", AS_IS },
    { "ffn_gate_inp", "*mlp.gate", NULL, AS_IS },
    { "ffn_gate_exps", "*mlp.experts.%d.gate_proj", NULL, EXPERTS },
    { "ffn_up_exps", "*mlp.experts.%d.up_proj", NULL, EXPERTS },
    { "ffn_down_exps", "*mlp.experts.%d.down_proj", NULL, EXPERTS },
    { "ffn_gate_shexp", "*mlp.shared_expert.gate_proj", NULL, AS_IS },
    { "ffn_up_shexp", "*mlp.shared_expert.up_proj", NULL, AS_IS },
    { "ffn_down_shexp", "*mlp.shared_expert.down_proj", NULL, AS_IS },
    { "ffn_gate_inp_shexp", "*mlp.shared_expert_gate", NULL, LEAD },
};

/* What gguf_config.c has made numbers of. */
static bool is_consumed(const char *name)
{
    return strcmp(name, "rope_freqs.weight") == 0 ||
           strcmp(name, "rope_factors_long.weight") == 0 ||
           strcmp(name, "rope_factors_short.weight") == 0;
}

struct parsed {
    int32_t layer;    /* -1: of no layer */
    const char *name; /* "attn_q" */
    size_t name_length;
    const char *end; /* ".weight", ".bias" */
};

/* "blk.12.attn_q.weight" in its pieces; false when it is not of that form. */
static bool parse(const char *text, struct parsed *p)
{
    *p = (struct parsed){ .layer = -1, .name = text };
    if (strncmp(text, "blk.", 4) == 0) {
        char *end;
        const long layer = strtol(text + 4, &end, 10);
        if (text[4] < '0' || text[4] > '9' || *end != '.' || layer > 1 << 20)
            return false;
        p->layer = (int32_t)layer;
        p->name = end + 1;
    }
    p->end = strrchr(p->name, '.');
    if (p->end == NULL || (strcmp(p->end, ".weight") != 0 && strcmp(p->end, ".bias") != 0))
        return false;
    p->name_length = (size_t)(p->end - p->name);
    return true;
}

static const struct row *row_of(const struct parsed *p, const char *arch)
{
    char word[48];
    snprintf(word, sizeof word, " %s ", arch);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const struct row *row = &ROWS[i];
        if (strlen(row->gguf) == p->name_length &&
            memcmp(row->gguf, p->name, p->name_length) == 0 &&
            (row->hf[0] == '*') == (p->layer >= 0) &&
            (row->only == NULL || strstr(row->only, word) != NULL))
            return row;
    }
    return NULL;
}

/* The new tensors of one part, and their names. */
struct list {
    struct tensor *tensors;
    int32_t n, room;
    char **names; /* [n], owned */
};

static bool push(struct list *list, const struct tensor *tensor, const char *name, struct err *err)
{
    if (list->n == TENSORS_MAX)
        return err_set(err, ERR_FORMAT, "more than %d tensors, experts counted one by one",
                       TENSORS_MAX);
    if (list->n == list->room) {
        const int32_t room = list->room == 0 ? 64 : 2 * list->room;
        struct tensor *tensors = realloc(list->tensors, (size_t)room * sizeof *tensors);
        if (tensors != NULL)
            list->tensors = tensors;
        char **names = realloc(list->names, (size_t)room * sizeof *names);
        if (names != NULL)
            list->names = names;
        if (tensors == NULL || names == NULL)
            return err_set(err, ERR_MEMORY, "no memory for %d tensors", room);
        list->room = room;
    }
    char *copy = strdup(name);
    if (copy == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a tensor's name");
    list->names[list->n] = copy;
    list->tensors[list->n] = *tensor;
    list->tensors[list->n++].name = copy;
    return true;
}

static void list_clear(struct list *list)
{
    for (int32_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list->names);
    free(list->tensors);
}

/* "model.layers.3.mlp.experts.5.up_proj.weight" */
static void put_name(char *name, size_t size, const struct row *row, const struct parsed *p,
                     int32_t expert)
{
    const char *hf = row->hf;
    size_t used = 0;
    name[0] = 0;
    if (*hf == '*') {
        used = (size_t)snprintf(name, size, "model.layers.%d.", p->layer);
        hf++;
    }
    const char *hole = strstr(hf, "%d");
    const char *end = row->change == LEAF ? "" : p->end;
    if (hole == NULL)
        snprintf(name + used, size - used, "%s%s", hf, end);
    else
        snprintf(name + used, size - used, "%.*s%d%s%s", (int)(hole - hf), hf, expert, hole + 2,
                 end);
}

static bool push_experts(struct list *list, const struct tensor *tensor, const struct row *row,
                         const struct parsed *p, struct err *err)
{
    const int64_t n = tensor->dims[0];
    if (tensor->n_dims < 2 || tensor->n_dims > 3 || n > EXPERTS_MAX)
        return err_set(err, ERR_FORMAT,
                       "tensor %s: %lld experts in %d dimensions, want at most %d in 2 or 3",
                       tensor->name, (long long)n, tensor->n_dims, EXPERTS_MAX);
    struct tensor one = *tensor;
    one.n_dims--;
    for (int32_t i = 0; i < one.n_dims; i++)
        one.dims[i] = tensor->dims[i + 1];
    one.dims[one.n_dims] = 0;
    one.bytes = tensor->bytes / (size_t)n; /* whole rows of whole blocks */
    for (int32_t e = 0; e < (int32_t)n; e++) {
        char name[192];
        put_name(name, sizeof name, row, p, e);
        one.data = tensor->data + (size_t)e * one.bytes;
        if (!push(list, &one, name, err))
            return false;
    }
    return true;
}

static bool push_tensor(struct list *list, const struct tensor *tensor, const char *arch,
                        int32_t pairs, struct err *err)
{
    struct parsed p;
    if (is_consumed(tensor->name))
        return true;
    const struct row *row = parse(tensor->name, &p) ? row_of(&p, arch) : NULL;
    if (row == NULL)
        return push(list, tensor, tensor->name, err);
    if (row->change == EXPERTS)
        return push_experts(list, tensor, row, &p, err);
    struct tensor changed = *tensor;
    char name[192];
    put_name(name, sizeof name, row, &p, 0);
    if (row->change == PAIRS && pairs > 0 && tensor->dims[0] % pairs == 0)
        changed.pairs = pairs;
    if (row->change == LEAD && tensor->n_dims == 1) {
        changed.n_dims = 2;
        changed.dims[1] = tensor->dims[0];
        changed.dims[0] = 1;
    }
    return push(list, &changed, name, err);
}

static bool move_part(struct gguf *part, const char *arch, int32_t pairs, struct tensor_dir *dir,
                      struct err *err)
{
    struct list list = { 0 };
    struct map seen = { 0 };
    bool ok = map_init(&seen, 64, err);
    for (int32_t i = 0; i < part->n_tensors && ok; i++)
        ok = push_tensor(&list, &part->tensors[i], arch, pairs, err);
    /* Two rows can make the same name: ffn_norm and post_attention_norm of a forged file. */
    for (int32_t i = 0; i < list.n && ok; i++) {
        bool is_new = false;
        const char *name = list.tensors[i].name;
        if (!map_set(&seen, name, strlen(name), i, &is_new))
            ok = err_set(err, ERR_MEMORY, "no memory for a table of names");
        else if (!is_new)
            ok = err_set(err, ERR_FORMAT, "two tensors are %s", name);
    }
    const char *slash = strrchr(part->label, '/');
    ok = ok && tensor_dir_add(dir, list.tensors, list.n, part->map,
                              slash == NULL ? part->label : slash + 1, err);
    if (ok)
        part->map = (struct file_map){ 0 }; /* the directory's now */
    map_clear(&seen);
    list_clear(&list);
    return ok;
}

bool gguf_move_tensors(struct gguf_model *model, const struct gguf_arch *arch, int64_t head_dim,
                       struct tensor_dir *dir, struct err *err)
{
    const bool paired = (arch->flags & GGUF_PAIRS) != 0 && head_dim % 2 == 0;
    const int32_t pairs = paired ? (int32_t)head_dim : 0; /* gguf_config_text has bounded it */
    for (int32_t i = 0; i < model->n_parts; i++)
        if (!move_part(&model->parts[i], arch->name, pairs, dir, err))
            return false;
    return true;
}
