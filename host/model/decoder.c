/* decoder.c - the forward pass of a llama-like decoder: one list of backend calls.
 *
 *   x = embed(tokens)                                                              [rows][hidden]
 *   per layer:
 *     q, k, v  = W_qkv . norm(x) + b;  q, k normed and rotated;  k, v to the pages
 *     attended = softmax(q . K^T / sqrt(head_dim)) . V                    [rows][heads * head_dim]
 *     x       += norm(W_o . norm(attended))
 *     gated    = act(W_gate . norm(x)) * (W_up . norm(x)), or act(W_up . norm(x)) [rows][intermed.]
 *     x       += norm(W_down . norm(gated))
 *   or, in a layer with experts, for the n_chosen experts e of each row:
 *     e, weights = route(W_router . norm(x))
 *     gated_e    = act(W_gate_e . norm(x)) * (W_up_e . norm(x))
 *     x         += sum over e of weight_e * W_down_e . gated_e
 *     x         += sigmoid(W_shared_router . norm(x)) * W_down . gated, where an expert is shared
 *   logits = W_head . norm(x) of the rows that want them               [logit rows][vocabulary]
 *
 * Scratch is reserved once; nothing is allocated here while serving. Called by one thread at a
 * time. Families differ in fields of struct config, not in this list: each norm is there or is not.
 */
#include "host/model/state.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Of the widest MLP or shared expert; 0: there is neither. */
static int32_t mlp_width(const struct config *c)
{
    int32_t width = c->experts.shared_width;
    for (int32_t l = 0; l < c->n_layers; l++)
        if (!c->layers[l].experts && c->intermediate > width)
            width = c->intermediate;
    return width;
}

/* Widest inputs or outputs of linear_experts, a slot; a shared expert has all slots of a row. */
static int32_t expert_cols(const struct config *c)
{
    const struct config_experts *e = &c->experts;
    const int32_t shared = e->n == 0 ? 0 : (e->shared_width + e->n_chosen - 1) / e->n_chosen;
    int32_t widest = 2 * e->width > c->hidden ? 2 * e->width : c->hidden;
    widest = shared > widest ? shared : widest;
    return e->n == 0 ? 0 : widest;
}

bool model_reserve_scratch(struct model *model, struct err *err)
{
    const struct config *c = &model->config;
    struct model_state *s = model->state;
    struct backend *be = model->be;
    struct view ids = { 0 }, weights = { 0 };
    const struct config_experts *e = &c->experts;
    const int32_t n_q = c->n_heads * c->head_dim, n_slots = model->rows_max * e->n_chosen;
    const int32_t mlp = mlp_width(c);
    const struct {
        struct view *view;
        enum dtype dtype;
        int32_t n_rows, n_cols;
    } wanted[] = {
        { &s->x, be->activation, model->rows_max, c->hidden },
        { &s->q, be->activation, model->rows_max, n_q },
        { &s->attended, be->activation, model->rows_max, n_q },
        { &s->gated, be->activation, model->rows_max, mlp },
        { &model->logits, DTYPE_F32, model->logit_rows_max, c->vocab },
        { &s->routed, DTYPE_F32, model->rows_max, e->n },
        { &s->shared_routed, DTYPE_F32, model->rows_max, e->shared_width > 0 },
        { &s->expert_gated, be->activation, n_slots, e->width },
        { &ids, DTYPE_I32, n_slots, 1 },
        { &weights, DTYPE_F32, n_slots, 1 },
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (wanted[i].n_rows == 0 || wanted[i].n_cols == 0)
            continue;
        const size_t bytes =
            (size_t)wanted[i].n_rows * (size_t)wanted[i].n_cols * dtype_bytes(wanted[i].dtype);
        void *memory;
        if (!be->ops->reserve(be, REGION_ACTIVATIONS, bytes, &memory, err))
            return false;
        *wanted[i].view = view_of(memory, wanted[i].dtype, wanted[i].n_rows, wanted[i].n_cols);
        model->activation_bytes += bytes;
    }
    s->expert_ids = ids.data;
    s->expert_weights = weights.data;
    int32_t widest = c->hidden;
    const int32_t products[] = { n_q + 2 * c->n_kv_heads * c->head_dim,
                                 (c->plain_mlp ? 1 : 2) * mlp, 2 * e->width, e->n };
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        widest = products[i] > widest ? products[i] : widest;
    struct backend_limits limits = {
        .rows_max = model->rows_max,
        .logit_rows_max = model->logit_rows_max,
        .seqs_max = model->logit_rows_max, /* every sequence of a step may want a token */
        .n_kv_groups = c->n_kv_groups,
        .cols_max = widest,
        .vocab = c->vocab,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .ctx = model->ctx,
        .n_experts = e->n,
        .n_chosen = e->n_chosen,
        .expert_cols = expert_cols(c),
        .rope_variants = rope_variants(&c->rope),
    };
    for (int32_t g = 0; g < c->n_kv_groups; g++)
        limits.windows[g] = c->windows[g];
    return be->ops->prepare(be, &limits, err);
}

bool model_tune(struct model *model, struct err *err)
{
    const struct model_state *s = model->state;
    enum { EACH = 4 };
    int32_t n = 0;
    if (model->be->ops->tune == NULL)
        return true;
    const struct weight **weights =
        calloc((size_t)model->config.n_layers * EACH + 1, sizeof(const struct weight *));
    if (weights == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a list of the matrices of %d layers",
                       model->config.n_layers);
    for (int32_t l = 0; l < model->config.n_layers; l++) {
        const struct layer *layer = &s->layers[l];
        const struct weight *const of_layer[EACH] = { &layer->qkv, &layer->o, &layer->gate_up,
                                                      &layer->down };
        for (int32_t i = 0; i < EACH; i++)
            if (of_layer[i]->n_parts > 0)
                weights[n++] = of_layer[i];
    }
    weights[n++] = &s->head;
    model->be->ops->tune(model->be, weights, n);
    free(weights);
    return true;
}

/* What every linear layer of a step has in common. */
struct step {
    struct backend *be;
    const struct batch *batch;
    model_tap *tap;
    void *tap_context;
    enum gate gate;
};

/* `op` has what differs; scale 0 is 1. */
static void linear(const struct step *step, struct linear_op op)
{
    if (step->tap != NULL)
        step->tap(step->tap_context, op.w, op.x, op.pre);
    op.batch = step->batch;
    op.gate = step->gate;
    op.scale = op.scale == 0 ? 1 : op.scale;
    step->be->ops->linear(step->be, &op);
}

/* NULL: the family has none here. */
static const struct norm *norm_of(const struct norm *norm)
{
    return norm->gain != NULL ? norm : NULL;
}

static const struct rope *rope_of(const struct model_state *s, const struct config_layer *layer)
{
    switch (layer->rope) {
    case LAYER_ROPE:
        return &s->rope;
    case LAYER_ROPE_LOCAL:
        return &s->rope_local;
    case LAYER_ROPE_NONE:
        return NULL;
    }
    return NULL;
}

static void route(const struct step *step, const struct config_experts *e, struct view logits,
                  enum route kind, const struct model_state *s)
{
    step->be->ops->route(step->be, &(struct route_op){
                                       .logits = logits,
                                       .ids = s->expert_ids,
                                       .weights = s->expert_weights,
                                       .n_chosen = logits.n_cols == 1 ? 1 : e->n_chosen,
                                       .kind = kind,
                                   });
}

/* x += sum of the chosen experts of norm(x), and the shared one. All of them read x before any adds
 * to it. */
static void experts(const struct step *step, const struct config *c, const struct model_state *s,
                    const struct layer *layer, struct view x)
{
    struct backend *be = step->be;
    const struct config_experts *e = &c->experts;
    const struct norm *norm = &layer->mlp_norm;
    const bool shared = e->shared_width > 0;
    const int32_t n = x.n_rows;
    const struct view routed = view_head(s->routed, n);
    struct view gated = { 0 }, shared_routed = { 0 };
    linear(step, (struct linear_op){ .w = &layer->router, .x = x, .y = routed, .pre = norm });
    if (shared) {
        shared_routed = view_head(s->shared_routed, n);
        gated = view_of(s->gated.data, s->gated.dtype, n, e->shared_width);
        linear(step, (struct linear_op){
                         .w = &layer->shared_router, .x = x, .y = shared_routed, .pre = norm });
        linear(
            step,
            (struct linear_op){
                .w = &layer->gate_up, .x = x, .y = gated, .pre = norm, .epilogue = EPILOGUE_GATE });
    }
    route(step, e, routed, e->route, s);
    struct linear_experts_op op = { .y = view_head(s->expert_gated, n * e->n_chosen),
                                    .x = x,
                                    .w = &layer->expert_gate_up,
                                    .pre = norm,
                                    .ids = s->expert_ids,
                                    .weights = s->expert_weights,
                                    .n_chosen = e->n_chosen,
                                    .epilogue = EPILOGUE_GATE,
                                    .gate = e->gate,
                                    .gate_limit = e->gate_limit,
                                    .scale = 1 };
    be->ops->linear_experts(be, &op);
    op.x = op.y;
    op.y = x;
    op.w = &layer->expert_down;
    op.pre = NULL;
    op.epilogue = EPILOGUE_ADD;
    op.scale = c->residual_scale;
    be->ops->linear_experts(be, &op);
    if (!shared)
        return;
    route(step, e, shared_routed, ROUTE_SIGMOID, s);
    if (step->tap != NULL)
        step->tap(step->tap_context, &layer->down, gated, NULL);
    const struct experts one = { layer->down.name, 1, &layer->down };
    op.x = gated;
    op.w = &one;
    op.n_chosen = 1;
    be->ops->linear_experts(be, &op);
}

static void mlp(const struct step *step, const struct config *c, const struct model_state *s,
                const struct layer *layer, struct view x)
{
    const struct view gated = view_of(s->gated.data, s->gated.dtype, x.n_rows, c->intermediate);
    linear(step, (struct linear_op){ .w = &layer->gate_up,
                                     .x = x,
                                     .y = gated,
                                     .pre = norm_of(&layer->mlp_norm),
                                     .epilogue = c->plain_mlp ? EPILOGUE_ACT : EPILOGUE_GATE });
    linear(step, (struct linear_op){ .w = &layer->down,
                                     .x = gated,
                                     .y = x,
                                     .pre = norm_of(&layer->down_norm),
                                     .post = norm_of(&layer->post_mlp_norm),
                                     .epilogue = EPILOGUE_ADD,
                                     .scale = c->residual_scale });
}

static void feed_forward(const struct step *step, const struct config *c,
                         const struct model_state *s, int32_t l, struct view x)
{
    if (c->layers[l].experts)
        experts(step, c, s, &s->layers[l], x);
    else
        mlp(step, c, s, &s->layers[l], x);
}

void model_forward(struct model *model, const struct batch *batch, const struct kv_cache *kv,
                   model_tap *tap, void *tap_context, _Atomic uint64_t *beat)
{
    const struct config *c = &model->config;
    const struct model_state *s = model->state;
    struct backend *be = model->be;
    const int32_t n = batch->n_rows;
    CHECK(n >= 1 && n <= model->rows_max);
    CHECK(batch->n_logit_rows >= 0 && batch->n_logit_rows <= model->logit_rows_max);
    CHECK(kv->n_groups == c->n_kv_groups && batch->n_groups == c->n_kv_groups);
    const struct view x = view_head(s->x, n), q = view_head(s->q, n);
    const struct view attended = view_head(s->attended, n);
    const struct step step = { be, batch, tap, tap_context, c->gate };
    if (tap == NULL && be->ops->replay != NULL && be->ops->replay(be, batch, kv)) {
        if (beat != NULL)
            atomic_fetch_add_explicit(beat, 1, memory_order_relaxed);
        return;
    }
    const bool recording = tap == NULL && be->ops->record != NULL && be->ops->record(be, batch, kv);

    be->ops->embed(be, &(struct embed_op){
                           .y = x, .table = &s->embed, .batch = batch, .scale = c->embed_scale });
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct layer *layer = &s->layers[l];
        const struct kv_store store = {
            .kv = kv,
            .group = c->layers[l].kv_group,
            .layer = c->layers[l].kv_layer,
            .n_heads = c->n_heads,
            .q_norm = norm_of(&layer->q_norm),
            .k_norm = norm_of(&layer->k_norm),
            .rope = rope_of(s, &c->layers[l]),
        };
        linear(&step, (struct linear_op){ .w = &layer->qkv,
                                          .x = x,
                                          .y = q,
                                          .pre = norm_of(&layer->attn_norm),
                                          .store = &store });
        be->ops->attend(be, &(struct attend_op){ .y = attended,
                                                 .q = q,
                                                 .kv = kv,
                                                 .batch = batch,
                                                 .group = store.group,
                                                 .layer = store.layer,
                                                 .n_heads = c->n_heads,
                                                 .scale = c->attend_scale,
                                                 .soft_cap = c->attend_soft_cap,
                                                 .sinks = layer->sinks });
        if (c->parallel) /* reads x before o changes it */
            feed_forward(&step, c, s, l, x);
        linear(&step, (struct linear_op){ .w = &layer->o,
                                          .x = attended,
                                          .y = x,
                                          .pre = norm_of(&layer->o_norm),
                                          .post = norm_of(&layer->post_attn_norm),
                                          .epilogue = EPILOGUE_ADD,
                                          .scale = c->residual_scale });
        if (!c->parallel)
            feed_forward(&step, c, s, l, x);
        if (beat != NULL)
            atomic_fetch_add_explicit(beat, 1, memory_order_relaxed);
    }
    if (tap != NULL)
        tap(tap_context, &s->head, x, &s->final_norm);
    if (batch->n_logit_rows > 0)
        be->ops->logits(
            be, &(struct logits_op){ .logits = view_head(model->logits, batch->n_logit_rows),
                                     .x = x,
                                     .head = &s->head,
                                     .norm = &s->final_norm,
                                     .batch = batch,
                                     .scale = c->logit_scale,
                                     .soft_cap = c->logit_soft_cap });
    if (recording)
        be->ops->record_end(be);
}
