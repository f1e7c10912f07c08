/* load.c - tensors to resident weights: plan, reserve once, fill.
 *
 * The plan walks the table of names, finds and checks every tensor, and decides where it will
 * live: in the mapped file as it is, or in reserved memory. Only then is memory reserved, in one
 * piece, and filled tensor by tensor; the file's pages are let go behind. Invariant: at no time is
 * there a second copy of a matrix, but for the blocks of repack.h. Called by model_open. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/log.h"
#include "host/format/gguf_blocks.h"
#include "host/model/fused_experts.h"
#include "host/model/load_plan.h"
#include "host/model/placement.h"

/* ---- plan -------------------------------------------------------------------------------------
 */

static const char *shape_text(const struct tensor *tensor, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < tensor->n_dims && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, i == 0 ? "%lld" : ", %lld",
                                 (long long)tensor->dims[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}

/* A tensor of [n_out][n_in]; n_in 0: a vector. Parts of a fused tensor find it again. */
static bool find_tensor(struct plan *plan, const char *name, int32_t n_out, int32_t n_in,
                        const struct tensor **found, struct err *err)
{
    *found = NULL;
    if (plan->tensors == NULL)
        return true;
    const struct tensor *t = tensor_dir_find(plan->tensors, name);
    char shape[96], wanted[48];
    snprintf(wanted, sizeof wanted, n_in > 0 ? "[%d, %d]" : "[%d]", n_out, n_in);
    if (t == NULL)
        return err_set(err, ERR_FORMAT, "tensor %s is missing; want shape %s", name, wanted);
    const bool fits = n_in > 0 ? t->n_dims == 2 && t->dims[0] == n_out && t->dims[1] == n_in
                               : t->n_dims == 1 && t->dims[0] == n_out;
    if (!fits)
        return err_set(err, ERR_FORMAT, "%s: tensor %s has shape %s, want %s",
                       plan_file_of(plan, t), name, shape_text(t, shape, sizeof shape), wanted);
    const bool plain = t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16;
    if (!plain && (n_in == 0 || dtype_block(t->dtype) < 2))
        return err_set(err, ERR_FORMAT, "%s: tensor %s is %s, want f32, f16 or bf16",
                       plan_file_of(plan, t), name, dtype_name(t->dtype));
    plan->used[t - plan->tensors->tensors] = true;
    *found = t;
    return true;
}

static struct item *add_item(struct plan *plan, enum item_kind kind, const char *name, size_t bytes)
{
    CHECK(plan->n_items < plan->n_items_max);
    struct item *item = &plan->items[plan->n_items++];
    *item = (struct item){ .kind = kind, .bytes = bytes };
    snprintf(item->name, sizeof item->name, "%s", name);
    if (kind == ITEM_MAPPED) {
        plan->mapped_bytes += bytes;
    } else {
        item->offset = plan->reserved_bytes;
        plan->reserved_bytes += (bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
    }
    plan->model->n_parameters += kind == ITEM_VECTOR ? (int64_t)(bytes / sizeof(float)) : 0;
    return item;
}

static struct row_map map_all(int32_t n)
{
    return (struct row_map){ .n_stored = n, .run = n, .stride = n };
}

/* A norm's gain or bias [n], or the rows `map` of a fused bias. */
static bool add_vector(struct plan *plan, const char *name, int32_t n, const struct row_map *map,
                       const float **vector, struct item **added, struct err *err)
{
    const struct tensor *tensor;
    if (!find_tensor(plan, name, map->n_stored, 0, &tensor, err))
        return false;
    struct item *item = add_item(plan, ITEM_VECTOR, name, (size_t)n * sizeof(float));
    *added = item;
    item->tensor = tensor;
    item->vector = vector;
    item->n = n;
    item->map = *map;
    return true;
}

/* Bits a weight is to have; 0: as stored. Routers are small, and a code's error may send a row to
 * another expert. */
static int32_t bits_wanted(const struct plan *plan, enum matrix_slot slot)
{
    const struct model_options *options = plan->options;
    if (slot == MATRIX_ROUTER || slot == MATRIX_SHARED_ROUTER)
        return 0;
    const bool table = slot == MATRIX_EMBED || slot == MATRIX_HEAD;
    if (options->weights != WEIGHTS_INT8 && options->weights != WEIGHTS_INT4)
        return 0;
    if (table)
        return options->head_auto ? 0 : 8;
    return options->weights == WEIGHTS_INT8 ? 8 : 4;
}

/* "...experts.0.up_proj" stands for all of them. */
static void name_all_experts(char *name)
{
    char *index = strstr(name, "experts.0.");
    if (index != NULL)
        index[strlen("experts.")] = '*';
}
/* Experts behind the first add to its line; expert -1: a matrix that is none. */
static void add_slot(struct plan *plan, const char *name, int32_t expert, enum dtype stored,
                     const struct item *item)
{
    struct model_state *state = plan->model->state;
    const struct config_experts *experts = &plan->model->config.experts;
    const struct layout_shape *shape = &item->part->shape;
    if (expert > 0) {
        state->slots[state->n_slots - 1].bytes += item->bytes;
        state->slots[state->n_slots - 1].n_out += shape->n_out;
        return;
    }
    struct model_slot *slot = &state->slots[state->n_slots++];
    *slot = (struct model_slot){ .n_out = shape->n_out, .n_in = shape->n_in, .bytes = item->bytes };
    slot->n_experts = expert == 0 ? experts->n : 1;
    slot->n_chosen = expert == 0 ? experts->n_chosen : 1;
    snprintf(slot->name, sizeof slot->name, "%s", name);
    if (expert == 0)
        name_all_experts(slot->name);
    const int32_t block = dtype_block(stored);
    if (plan->tensors == NULL)
        snprintf(slot->stored, sizeof slot->stored, "random");
    else if (block == 1)
        snprintf(slot->stored, sizeof slot->stored, "%s", dtype_name(stored));
    else
        snprintf(slot->stored, sizeof slot->stored, "%s (%.5g bits)", dtype_name(stored),
                 8 * (double)dtype_block_bytes(stored) / block);
    if (item->kind == ITEM_DECODE) {
        const struct matrix_form *form = &item->packed->form;
        snprintf(slot->stored, sizeof slot->stored, "%s (%.4g bits)",
                 packing_name(item->packed->packing),
                 8 * (double)item->packed->bytes / ((double)form->n_out * (double)form->n_in));
    }
    slot->placement = item->placement;
    if (item->packed != NULL && !plan->model->be->exact) {
        slot->act = item->packed->act.scheme;
        slot->act_used = slot->act != ACT_EXACT && item->part->act.scheme == slot->act;
    }
    if (shape->layout != LAYOUT_ROWS) {
        const bool order = item->packed != NULL && item->packed->order != NULL;
        slot->bits = shape->bits;
        slot->group = shape->group;
        slot->order = order;
        snprintf(slot->resident, sizeof slot->resident, "%s group %d%s%s",
                 layout_name(shape->layout), shape->group,
                 shape->kind == CODE_TABLE ? " table"
                 : shape->mins             ? " mins"
                 : shape->symmetric        ? ""
                                           : " asym",
                 order ? " order" : "");
    } else {
        snprintf(slot->resident, sizeof slot->resident, "%s rows%s", dtype_name(item->part->dtype),
                 item->placement == PLACEMENT_DEQUANTIZED ? " (dequantized)"
                 : item->kind == ITEM_MAPPED              ? " (mapped)"
                                                          : "");
    }
}

/* Blocks keep their codes, in the fastest layout that takes them as they are. */
static bool place_blocks(const struct plan *plan, const char *name, enum dtype stored, int32_t bits,
                         struct weight_part *part, enum placement *placement, struct err *err)
{
    struct placement_source source = { 0 };
    const int32_t n_out = part->shape.n_out, n_in = part->shape.n_in;
    if (bits != 0 || plan->options->weights != WEIGHTS_AUTO)
        return err_set(err, ERR_REQUEST,
                       "tensor %s is quantized already (%s), and is used as it is; leave out "
                       "--weights",
                       name, dtype_name(stored));
    CHECK(repack_form(stored, &source.form));
    source.form.n_out = n_out;
    source.form.n_in = n_in;
    source.table = gguf_blocks_of(stored)->table;
    placement_blocks(stored, &source);
    *placement = placement_of(plan->model->be, &source, part);
    return true;
}

/* Bytes of a part in its place. */
static size_t part_bytes(const struct weight_part *part)
{
    const struct layout_shape *shape = &part->shape;
    if (shape->layout != LAYOUT_ROWS)
        return layout_bytes(shape);
    return (size_t)shape->n_out * dtype_row_bytes(part->dtype, (size_t)shape->n_in);
}

/* "qkv_proj.weight" and its part: dummies have other numbers in each, people see which is which. */
static const char *label_of(const struct name *name, const char *tensor, char *text, size_t size)
{
    static const char *const parts[2][WEIGHT_PARTS_MAX] = { { "q", "k", "v" }, { "gate", "up" } };
    if (name->fused == FUSED_NO)
        return tensor;
    snprintf(text, size, "%s (%s)", tensor, parts[name->fused == FUSED_GATE][name->part]);
    return text;
}

/* Whether rows of the mapped file can be read where they are. */
static bool can_map(const struct backend *be, const struct tensor *tensor,
                    const struct row_map *map, int32_t n_out)
{
    return tensor != NULL && be->host_memory && tensor->pairs == 0 && tensor->row_step == 0 &&
           map->run == n_out && (uintptr_t)tensor->data % dtype_bytes(tensor->dtype) == 0;
}

/* Where a matrix that came quantized will live, and in which layout. */
static bool add_packed(struct plan *plan, const struct name *row, const char *name, int32_t expert,
                       struct packed *packed, const struct row_map *map, int32_t n_out,
                       struct weight_part *part, struct err *err)
{
    const struct backend *be = plan->model->be;
    struct placement_source source = { .form = packed->form,
                                       .table = packed->table,
                                       .fractions = packed->packing == PACKING_HQQ,
                                       .order = packed->order != NULL,
                                       .takes_order = !name_is_expert(row) &&
                                                      row->slot != MATRIX_EMBED &&
                                                      row->slot != MATRIX_HEAD };
    source.form.n_out = n_out;
    if (!be->exact && !placement_scan(packed, &source, err) && plan->options->problem == NULL) {
        err_prefix(err, "%s: tensor %s", plan_file_of(plan, packed->codes), name);
        return false;
    }
    const enum placement placement = placement_of(be, &source, part);
    if (!be->exact && !be->f64) /* the CUDA backend multiplies bf16 inputs as they are */
        part->act = packed->act;
    part->bytes = part_bytes(part);
    struct item *item = add_item(plan, ITEM_DECODE, name, part->bytes);
    item->tensor = packed->codes;
    item->part = part;
    item->packed = packed;
    item->map = *map;
    item->placement = placement;
    for (int32_t i = 0; i < packed->n_tensors; i++)
        plan->used[packed->tensors[i] - plan->tensors->tensors] = true;
    plan->model->n_parameters += (int64_t)n_out * source.form.n_in;
    add_slot(plan, name, expert, packed->codes->dtype, item);
    if (packed->order == NULL || placement == PLACEMENT_DEQUANTIZED)
        return true;
    item = add_item(plan, ITEM_ORDER, name, (size_t)source.form.n_in * sizeof(int32_t));
    item->part = part;
    item->packed = packed;
    item->n = source.form.n_in;
    return true;
}

/* *packed: owned by the plan when the module is quantized, else NULL. */
static bool find_packed(struct plan *plan, const char *name, int32_t n_out, int32_t n_in,
                        struct packed **packed, struct err *err)
{
    static const char end[] = ".weight";
    char module[96];
    *packed = NULL;
    if (plan->tensors == NULL || plan->model->config.quant.method == QUANT_NONE)
        return true;
    const size_t length = strlen(name);
    CHECK(length >= sizeof end && length < sizeof module);
    snprintf(module, sizeof module, "%.*s", (int)(length - (sizeof end - 1)), name);
    struct packed found;
    if (!packed_find(&found, plan->tensors, &plan->model->config.quant, module, n_out, n_in, err))
        return false;
    if (found.packing == PACKING_NONE)
        return true;
    *packed = malloc(sizeof **packed);
    if (*packed == NULL) {
        packed_clear(&found);
        return err_set(err, ERR_MEMORY, "no memory for the plan of %s", name);
    }
    **packed = found;
    return true;
}

/* gpt-oss in mxfp4: an expert's rows of the tensors of all experts; gate and up take turns. */
static bool find_slice(struct plan *plan, const struct name *row, int32_t l, int32_t expert,
                       int32_t n_out, int32_t n_in, struct row_map *map, struct packed **packed,
                       struct err *err)
{
    const struct config *config = &plan->model->config;
    const bool gate_up = row->slot == MATRIX_EXPERT_GATE_UP;
    char name[96];
    struct packed found;
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s", l,
             gate_up ? "gate_up_proj" : "down_proj");
    if (!packed_find_mxfp4_slice(&found, plan->tensors, name, config->experts.n, expert,
                                 gate_up ? 2 * n_out : n_out, n_in, err))
        return false;
    if (found.packing == PACKING_NONE)
        return true;
    if (gate_up)
        *map = (struct row_map){ .n_stored = 2 * n_out, .from = row->part, .run = 1, .stride = 2 };
    *packed = malloc(sizeof **packed);
    if (*packed == NULL) {
        packed_clear(&found);
        return err_set(err, ERR_MEMORY, "no memory for the plan of %s", name);
    }
    **packed = found;
    return true;
}

/* Where a matrix is: quantized (*packed, which the caller owns), a part of a tensor of all experts
 * (*view, whose name is not NULL), or a tensor of its own (*tensor). */
static bool find_matrix(struct plan *plan, const struct name *row, const char *name, int32_t l,
                        int32_t expert, int32_t n_out, int32_t n_in, struct row_map *map,
                        struct packed **packed, struct tensor *view, const struct tensor **tensor,
                        struct err *err)
{
    const struct tensor *whole = NULL;
    *packed = NULL;
    *view = (struct tensor){ 0 };
    if (name_is_expert(row) && plan->tensors != NULL) {
        if (!find_slice(plan, row, l, expert, n_out, n_in, map, packed, err))
            return false;
        if (*packed != NULL)
            return true;
        if (!fused_expert(&plan->model->config, plan->tensors, l, row->slot, row->part, expert,
                          false, view, &whole, err))
            return false;
        if (whole != NULL) {
            plan->used[whole - plan->tensors->tensors] = true;
            *tensor = view;
            return true;
        }
    }
    if (!find_packed(plan, name, map->n_stored, n_in, packed, err))
        return false;
    return *packed != NULL || find_tensor(plan, name, map->n_stored, n_in, tensor, err);
}

/* l, expert: its layer and index; 0 for other matrices. */
static bool add_matrix(struct plan *plan, const struct name *row, const char *stored_name,
                       int32_t l, int32_t expert, int32_t n_out, int32_t n_in,
                       struct weight_part *part, struct err *err)
{
    const struct backend *be = plan->model->be;
    struct row_map map = name_rows(&plan->model->config, row);
    const struct tensor *tensor = NULL;
    struct tensor view;
    char text[96];
    const char *name = label_of(row, stored_name, text, sizeof text);
    struct packed *packed;
    if (!find_matrix(plan, row, stored_name, l, expert, n_out, n_in, &map, &packed, &view, &tensor,
                     err))
        return false;
    if (!name_is_expert(row))
        expert = -1;
    if (packed != NULL) {
        const int32_t n_items = plan->n_items;
        const bool ok = add_packed(plan, row, name, expert, packed, &map, n_out, part, err);
        if (plan->n_items == n_items) { /* it did not come to own it */
            packed_clear(packed);
            free(packed);
        }
        return ok;
    }
    enum dtype stored = plan->model->config.dtype;
    if (tensor != NULL)
        stored = tensor->dtype;
    else if (stored == DTYPE_NONE)
        stored = DTYPE_BF16;
    part->shape = (struct layout_shape){ .layout = LAYOUT_ROWS, .n_out = n_out, .n_in = n_in };
    part->dtype = stored;
    enum item_kind kind = ITEM_COPY;
    enum placement placement = PLACEMENT_NONE;
    size_t bytes = (size_t)n_out * dtype_row_bytes(stored, (size_t)n_in);
    const int32_t bits = bits_wanted(plan, row->slot);
    if (dtype_block(stored) > 1) {
        if (!place_blocks(plan, name, stored, bits, part, &placement, err))
            return false;
        kind = ITEM_PACK;
        bytes = part_bytes(part);
    } else if (bits != 0) {
        int32_t group = plan->options->group;
        if (group < 0 || group > n_in)
            group = n_in;
        part->shape.bits = bits;
        part->shape.group = group;
        part->shape.symmetric = !plan->options->asymmetric;
        part->shape.layout = backend_layout(be, bits, group, n_in);
        if (be->f64 && part->shape.layout == LAYOUT_CODES)
            return err_set(
                err, ERR_UNSUPPORTED,
                "tensor %s: %d bits in groups of %d are not supported by %s; want groups "
                "of 32, 64 or a multiple of 128",
                name, bits, group, be->name);
        part->dtype = DTYPE_NONE;
        kind = ITEM_PACK;
        bytes = layout_bytes(&part->shape);
    } else if (can_map(be, tensor, &map, n_out)) {
        kind = ITEM_MAPPED;
    }
    part->bytes = bytes;
    struct item *item = add_item(plan, kind, name, bytes);
    item->view = view;
    item->tensor = view.name != NULL ? &item->view : tensor;
    item->part = part;
    item->map = map;
    item->placement = placement;
    plan->model->n_parameters += (int64_t)n_out * n_in;
    add_slot(plan, name, expert, stored, item);
    return true;
}

static struct weight *weight_of(struct model_state *state, int32_t l, enum matrix_slot slot,
                                int32_t expert)
{
    switch (slot) {
    case MATRIX_EMBED:
        return &state->embed;
    case MATRIX_HEAD:
        return &state->head;
    case MATRIX_QKV:
        return &state->layers[l].qkv;
    case MATRIX_O:
        return &state->layers[l].o;
    case MATRIX_GATE_UP:
    case MATRIX_SHARED_GATE_UP:
        return &state->layers[l].gate_up;
    case MATRIX_ROUTER:
        return &state->layers[l].router;
    case MATRIX_SHARED_ROUTER:
        return &state->layers[l].shared_router;
    case MATRIX_EXPERT_GATE_UP:
        return &state->layers[l].experts[expert];
    case MATRIX_EXPERT_DOWN:
        return &state->layers[l].experts[state->layers[l].expert_gate_up.n + expert];
    default:
        CHECK(slot == MATRIX_DOWN || slot == MATRIX_SHARED_DOWN);
        return &state->layers[l].down;
    }
}

static struct norm *norm_of(struct model_state *state, int32_t l, enum matrix_slot slot)
{
    switch (slot) {
    case VECTOR_FINAL_NORM:
        return &state->final_norm;
    case VECTOR_ATTN_NORM:
        return &state->layers[l].attn_norm;
    case VECTOR_MLP_NORM:
        return &state->layers[l].mlp_norm;
    case VECTOR_Q_NORM:
        return &state->layers[l].q_norm;
    case VECTOR_K_NORM:
        return &state->layers[l].k_norm;
    case VECTOR_O_NORM:
        return &state->layers[l].o_norm;
    case VECTOR_DOWN_NORM:
        return &state->layers[l].down_norm;
    case VECTOR_POST_ATTN_NORM:
        return &state->layers[l].post_attn_norm;
    default:
        CHECK(slot == VECTOR_POST_MLP_NORM);
        return &state->layers[l].post_mlp_norm;
    }
}

/* Gain and bias of one norm. */
static bool add_norm(struct plan *plan, const struct name *name, const char *base, int32_t n,
                     struct norm *norm, struct err *err)
{
    const struct config *config = &plan->model->config;
    const struct row_map map = map_all(n);
    struct item *item;
    char tensor[80];
    *norm = (struct norm){ .kind = config->norm, .n = n, .epsilon = config->norm_epsilon };
    snprintf(tensor, sizeof tensor, "%s.weight", base);
    if (!add_vector(plan, tensor, n, &map, &norm->gain, &item, err))
        return false;
    item->is_gain = true;
    item->plus_one = config->norm_plus_one;
    if (!name_has_bias(config, name))
        return true;
    snprintf(tensor, sizeof tensor, "%s.bias", base);
    return add_vector(plan, tensor, n, &map, &norm->bias, &item, err);
}

/* Old quantizers wrote a bias beside every matrix. Zeros are left out; anything else counts,
 * whatever the config says. */
static bool has_stray_bias(struct plan *plan, const char *name)
{
    const struct tensor *bias = plan->tensors == NULL ? NULL : tensor_dir_find(plan->tensors, name);
    if (bias == NULL || plan->model->config.quant.method == QUANT_NONE)
        return false;
    bool zero = true;
    for (size_t i = 0; i < bias->bytes && zero; i++)
        zero = bias->data[i] == 0;
    if (zero)
        plan->used[bias - plan->tensors->tensors] = true;
    return !zero;
}

/* A matrix's bias: a tensor of its own, or a part of that of all experts. */
static bool add_bias(struct plan *plan, const struct name *name, const char *tensor, int32_t l,
                     int32_t expert, int32_t n_out, struct weight_part *part, struct err *err)
{
    const struct tensor *whole = NULL;
    const struct row_map map = name_rows(&plan->model->config, name);
    struct tensor view;
    struct item *item;
    if (name_is_expert(name) && !fused_expert(&plan->model->config, plan->tensors, l, name->slot,
                                              name->part, expert, true, &view, &whole, err))
        return false;
    if (whole == NULL)
        return add_vector(plan, tensor, n_out, &map, &part->bias, &item, err);
    plan->used[whole - plan->tensors->tensors] = true;
    item = add_item(plan, ITEM_VECTOR, tensor, (size_t)n_out * sizeof(float));
    item->view = view;
    item->tensor = &item->view;
    item->vector = &part->bias;
    item->n = n_out;
    item->map = map;
    return true;
}

/* One row of the table of names, in one layer; of one expert where it has one each. */
static bool add_name(struct plan *plan, const struct name *name, int32_t l, int32_t expert,
                     struct err *err)
{
    struct model_state *state = plan->model->state;
    const struct config *config = &plan->model->config;
    const int32_t n_out = name_extent(config, name->n_out);
    const int32_t n_in = name_extent(config, name->n_in);
    struct item *item;
    char base[64], tensor[80];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(base, sizeof base, name->hf, l, expert); /* a format of ours, names.c */
#pragma GCC diagnostic pop
    if (name->slot == VECTOR_SINKS) {
        const struct row_map map = map_all(n_out);
        return add_vector(plan, base, n_out, &map, &state->layers[l].sinks, &item, err);
    }
    if (name_is_vector(name))
        return add_norm(plan, name, base, n_out, norm_of(state, l, name->slot), err);
    snprintf(tensor, sizeof tensor, "%s.weight", base);
    struct weight *weight = weight_of(state, l, name->slot, expert);
    CHECK(name->part == weight->n_parts && name->part < WEIGHT_PARTS_MAX);
    CHECK(weight->n_parts == 0 || weight->n_in == n_in);
    weight->n_in = n_in;
    weight->n_out += n_out;
    struct weight_part *part = &weight->parts[weight->n_parts++];
    if (!add_matrix(plan, name, tensor, l, expert, n_out, n_in, part, err))
        return false;
    snprintf(tensor, sizeof tensor, "%s.bias", base);
    if (!name_has_bias(config, name) && !has_stray_bias(plan, tensor))
        return true;
    return add_bias(plan, name, tensor, l, expert, n_out, part, err);
}

static void name_weights(struct model_state *state, int32_t n_layers)
{
    state->embed.name = slot_name(MATRIX_EMBED);
    state->head.name = slot_name(MATRIX_HEAD);
    for (int32_t l = 0; l < n_layers; l++) {
        struct layer *layer = &state->layers[l];
        const int32_t n = layer->expert_gate_up.n;
        for (int32_t i = 0; i < LAYER_SLOTS; i++) {
            const enum matrix_slot slot = MATRIX_QKV + i;
            snprintf(layer->names[i], sizeof layer->names[i], "layers.%d.%s", l, slot_name(slot));
            if (slot == MATRIX_EXPERT_GATE_UP || slot == MATRIX_EXPERT_DOWN) {
                for (int32_t e = 0; e < n; e++)
                    weight_of(state, l, slot, e)->name = layer->names[i];
            } else if ((slot != MATRIX_SHARED_GATE_UP && slot != MATRIX_SHARED_DOWN) || n > 0) {
                weight_of(state, l, slot, 0)->name = layer->names[i];
            }
        }
        layer->expert_gate_up.name = layer->names[MATRIX_EXPERT_GATE_UP - MATRIX_QKV];
        layer->expert_down.name = layer->names[MATRIX_EXPERT_DOWN - MATRIX_QKV];
    }
}

/* A head written out a second time must say the same as the table it is tied to. */
static bool check_tied_head(const struct plan *plan, struct err *err)
{
    const struct config *config = &plan->model->config;
    const char *name = name_tied_head(config);
    const struct tensor *head = tensor_dir_find(plan->tensors, name), *embed = NULL;
    for (int32_t i = 0; i < plan->n_items && embed == NULL; i++)
        if (plan->items[i].part == &plan->model->state->embed.parts[0])
            embed = plan->items[i].tensor;
    if (!config->tied || head == NULL || embed == NULL)
        return true;
    const bool same = head->dtype == embed->dtype && head->bytes == embed->bytes &&
                      memcmp(head->data, embed->data, head->bytes) == 0;
    if (same)
        return true;
    return err_set(err, ERR_FORMAT,
                   "%s: tensor %s differs from %s, but config.json says tie_word_embeddings",
                   plan_file_of(plan, head), name, embed->name);
}

static bool check_extras(const struct plan *plan, struct err *err)
{
    for (int32_t i = 0; i < plan->tensors->n_tensors; i++) {
        const struct tensor *t = &plan->tensors->tensors[i];
        char shape[96];
        if (plan->used[i] || name_is_harmless(&plan->model->config, t->name))
            continue;
        return err_set(err, ERR_FORMAT,
                       "%s: tensor %.200s (%s, %s) is not part of a %s model as config.json "
                       "describes it",
                       plan_file_of(plan, t), t->name, dtype_name(t->dtype),
                       shape_text(t, shape, sizeof shape), plan->model->config.model_type);
    }
    return check_tied_head(plan, err);
}

/* Room for the experts of every layer that has them. */
static bool make_experts(struct plan *plan, struct err *err)
{
    const struct config *config = &plan->model->config;
    for (int32_t l = 0; l < config->n_layers; l++) {
        struct layer *layer = &plan->model->state->layers[l];
        if (!config->layers[l].experts)
            continue;
        const int32_t n = config->experts.n;
        layer->experts = calloc(2 * (size_t)n, sizeof *layer->experts);
        if (layer->experts == NULL)
            return err_set(err, ERR_MEMORY, "no memory for %d experts in each layer", n);
        layer->expert_gate_up = (struct experts){ .n = n, .each = layer->experts };
        layer->expert_down = (struct experts){ .n = n, .each = layer->experts + n };
    }
    return true;
}

static bool add_layer_name(struct plan *plan, const struct name *name, int32_t l, struct err *err)
{
    const int32_t n = name_is_expert(name) ? plan->model->config.experts.n : 1;
    for (int32_t e = 0; e < n; e++)
        if (!add_name(plan, name, l, e, err))
            return false;
    return true;
}

/* linear_experts takes matrices of one form (backend.h). */
static bool check_experts(const struct experts *experts, struct err *err)
{
    for (int32_t e = 1; e < experts->n; e++)
        for (int32_t p = 0; p < experts->each[0].n_parts; p++) {
            const struct weight_part *a = &experts->each[0].parts[p];
            const struct weight_part *b = &experts->each[e].parts[p];
            const struct layout_shape *x = &a->shape, *y = &b->shape;
            const bool same = x->layout == y->layout && x->bits == y->bits &&
                              x->group == y->group && x->symmetric == y->symmetric &&
                              x->kind == y->kind && x->mins == y->mins && a->dtype == b->dtype &&
                              x->fractions == y->fractions &&
                              memcmp(x->table, y->table, sizeof x->table) == 0 &&
                              (a->order == NULL) == (b->order == NULL);
            if (!same)
                return err_set(err, ERR_UNSUPPORTED,
                               "%s: experts of one layer in different forms are not supported: "
                               "expert %d is %s, %s, %d bits in groups of %d; expert 0 is %s, %s, "
                               "%d bits in groups of %d",
                               experts->name, e, layout_name(y->layout), dtype_name(b->dtype),
                               y->bits, y->group, layout_name(x->layout), dtype_name(a->dtype),
                               x->bits, x->group);
        }
    return true;
}

/* Said once, because answers depend on it. */
static void say_activations(const struct plan *plan)
{
    const struct model_state *state = plan->model->state;
    for (int32_t i = 0; i < state->n_slots; i++)
        if (state->slots[i].act != ACT_EXACT && !state->slots[i].act_used) {
            log_info("activations",
                     "scheme=\"%s\" used=no reason=\"%s multiplies them as they are\"",
                     act_scheme_name(state->slots[i].act), plan->model->be->name);
            return;
        }
}

static bool make_plan(struct plan *plan, struct err *err)
{
    struct model_state *state = plan->model->state;
    const struct config *config = &plan->model->config;
    /* each name with its bias and its order; gate, up and down of each expert too */
    plan->n_items_max = 3 * N_NAMES * (config->n_layers + 1) +
                        3 * WEIGHT_PARTS_MAX * config->experts.n * config->n_layers;
    plan->items = calloc((size_t)plan->n_items_max, sizeof *plan->items);
    state->layers = calloc((size_t)config->n_layers, sizeof *state->layers);
    state->slots = calloc((size_t)plan->n_items_max, sizeof *state->slots);
    const size_t n_tensors = plan->tensors == NULL ? 0 : (size_t)plan->tensors->n_tensors;
    plan->used = calloc(n_tensors + 1, sizeof *plan->used);
    if (plan->items == NULL || state->layers == NULL || state->slots == NULL || plan->used == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the plan of %d layers", config->n_layers);
    if (!make_experts(plan, err))
        return false;
    for (int32_t i = 0; i < N_NAMES; i++)
        if (!NAMES[i].in_layer && name_needed(config, &NAMES[i], 0) &&
            !add_name(plan, &NAMES[i], 0, 0, err))
            return false;
    for (int32_t l = 0; l < config->n_layers; l++)
        for (int32_t i = 0; i < N_NAMES; i++)
            if (NAMES[i].in_layer && name_needed(config, &NAMES[i], l) &&
                !add_layer_name(plan, &NAMES[i], l, err))
                return false;
    if (plan->tensors != NULL && !check_extras(plan, err))
        return false;
    name_weights(state, config->n_layers);
    for (int32_t l = 0; l < config->n_layers; l++)
        if (!check_experts(&state->layers[l].expert_gate_up, err) ||
            !check_experts(&state->layers[l].expert_down, err))
            return false;
    return true;
}

/* The frequencies of rope, the one vector that no file holds. */
static bool load_rope(struct model *model, const struct rope_config *config, struct rope *rope,
                      struct err *err)
{
    const size_t bytes = (size_t)rope_variants(config) * (size_t)(config->dim / 2) * sizeof(float);
    void *memory;
    if (!model->be->ops->reserve(model->be, REGION_WEIGHTS, bytes, &memory, err))
        return false;
    float *frequencies = malloc(bytes);
    if (frequencies == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu bytes", bytes);
    rope_frequencies(config, frequencies, &rope->scale);
    model->be->ops->upload(model->be, memory, frequencies, bytes);
    free(frequencies);
    rope->inv_freq = memory;
    rope->rotary_dim = config->dim;
    rope->interleaved = config->interleaved;
    rope->n_variants = rope_variants(config);
    model->weight_anonymous_bytes += bytes;
    model->weight_bytes += bytes;
    return true;
}

static bool load_ropes(struct model *model, struct err *err)
{
    const struct config *config = &model->config;
    return load_rope(model, &config->rope, &model->state->rope, err) &&
           (config->rope_local.dim == 0 ||
            load_rope(model, &config->rope_local, &model->state->rope_local, err));
}

bool model_load(struct model *model, const struct tensor_dir *tensors,
                const struct model_options *options, struct err *err)
{
    struct plan plan = { .model = model, .tensors = tensors, .options = options };
    bool ok = make_plan(&plan, err);
    if (ok)
        say_activations(&plan);
    ok = ok && load_fill(&plan, err) && load_ropes(model, err);
    for (int32_t l = 0; ok && model->config.norms == NORMS_SHARED && l < model->config.n_layers;
         l++)
        model->state->layers[l].mlp_norm = model->state->layers[l].attn_norm;
    if (ok && model->config.tied) { /* one resident copy, two readers */
        const char *name = model->state->head.name;
        model->state->head = model->state->embed;
        model->state->head.name = name;
    }
    for (int32_t i = 0; i < plan.n_items; i++)
        if (plan.items[i].kind == ITEM_DECODE) {
            packed_clear(plan.items[i].packed);
            free(plan.items[i].packed);
        }
    free(plan.items);
    free(plan.used);
    return ok;
}
