/* fused_experts.c - where an expert's rows and columns lie in the tensor of all experts. */
#include "host/model/fused_experts.h"

#include <stdio.h>
#include <string.h>

/* dims[0] experts, then rows and columns as they are stored. */
static bool check_shape(const struct tensor_dir *tensors, const struct tensor *t, int32_t n_dims,
                        const int64_t *dims, struct err *err)
{
    bool same = t->n_dims == n_dims;
    char found[96] = "", wanted[96] = "";
    for (int32_t i = 0; i < n_dims; i++)
        same = same && t->dims[i] == dims[i];
    if (!same) {
        size_t used = 0;
        for (int32_t i = 0; i < t->n_dims; i++)
            used += (size_t)snprintf(found + used, sizeof found - used, "%s%lld", i > 0 ? ", " : "",
                                     (long long)t->dims[i]);
        used = 0;
        for (int32_t i = 0; i < n_dims; i++)
            used += (size_t)snprintf(wanted + used, sizeof wanted - used, "%s%lld",
                                     i > 0 ? ", " : "", (long long)dims[i]);
        return err_set(err, ERR_FORMAT, "%s: tensor %s has shape [%s], want [%s]",
                       tensors->labels[t->file], t->name, found, wanted);
    }
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_F16 && t->dtype != DTYPE_BF16)
        return err_set(err, ERR_FORMAT, "%s: tensor %s is %s, want f32, f16 or bf16",
                       tensors->labels[t->file], t->name, dtype_name(t->dtype));
    return true;
}

bool fused_expert(const struct config *config, const struct tensor_dir *tensors, int32_t l,
                  enum matrix_slot slot, int32_t part, int32_t expert, bool bias,
                  struct tensor *view, const struct tensor **whole, struct err *err)
{
    const struct config_experts *e = &config->experts;
    const bool gate_up = slot == MATRIX_EXPERT_GATE_UP, transposed = e->transposed;
    const int64_t n_out = gate_up ? e->width : config->hidden;
    const int64_t n_in = gate_up ? config->hidden : e->width;
    const int64_t all_out = gate_up ? 2 * n_out : n_out; /* gate and up together */
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s%s", l,
             gate_up ? "gate_up_proj" : "down_proj", bias ? "_bias" : "");
    *whole = tensors == NULL ? NULL : tensor_dir_find(tensors, name);
    if (*whole == NULL)
        return true;
    const struct tensor *t = *whole;
    const int64_t stored[3] = { e->n, transposed ? n_in : all_out, transposed ? all_out : n_in };
    const int64_t biases[2] = { e->n, all_out };
    if (!check_shape(tensors, t, bias ? 2 : 3, bias ? biases : stored, err))
        return false;
    /* gpt-oss: gate and up take turns, along the outputs; the others: gate, then up. */
    const int64_t turns = transposed && gate_up ? 2 : 1;
    const int64_t first = transposed ? part : part * n_out;
    *view = (struct tensor){ .name = t->name, .dtype = t->dtype, .file = t->file };
    int64_t at;
    if (bias) {
        view->n_dims = 1;
        view->dims[0] = n_out;
        view->row_step = turns == 1 ? 0 : turns;
        at = expert * all_out + first;
        view->bytes = (size_t)((n_out - 1) * turns + 1) * dtype_bytes(t->dtype);
    } else {
        view->n_dims = 2;
        view->dims[0] = n_out;
        view->dims[1] = n_in;
        view->row_step = transposed ? turns : 0; /* 0: an ordinary matrix */
        view->col_step = transposed ? all_out : 0;
        at = expert * all_out * n_in + (transposed ? first : first * n_in);
        const int64_t n =
            transposed ? (n_out - 1) * turns + (n_in - 1) * all_out + 1 : n_out * n_in;
        view->bytes = (size_t)n * dtype_bytes(t->dtype);
    }
    view->data = t->data + (size_t)at * dtype_bytes(t->dtype);
    return true;
}
