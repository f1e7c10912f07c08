/* device_model.c - the real device: the model's forward pass and the backend's sampler.
 *
 * A backend with steps_max 2 has the tokens of a step before the host has them: the next batch may
 * name them as BATCH_TOKEN_IN_FLIGHT. Engine thread only. */
#include "host/engine/engine.h"
#include "host/model/model.h"

static bool launch(void *self, const struct batch *batch, const struct sample_row *rows,
                   int32_t n_rows, struct sample_out *outs, const struct step_masks *masks,
                   _Atomic uint64_t *beat)
{
    struct engine_model_device *device = self;
    struct backend *be = device->model->be;
    CHECK(n_rows == batch->n_logit_rows);
    for (int32_t i = 0; i < batch->n_rows; i++)
        CHECK(batch->tokens[i] >= 0 ||
              (be->steps_max > 1 && batch->tokens[i] == BATCH_TOKEN_IN_FLIGHT));
    model_forward(device->model, batch, device->kv, NULL, NULL, beat);
    masks->fill(masks->self);
    struct sample_op op = {
        .logits = view_head(device->model->logits, n_rows),
        .rows = rows,
        .outs = outs,
        .n_rows = n_rows,
    };
    return !be->ops->sample(be, &op);
}

static bool collect(void *self, struct err *err)
{
    struct engine_model_device *device = self;
    struct backend *be = device->model->be;
    return be->steps_max > 1 ? be->ops->collect(be, err) : be->ops->finish(be, err);
}

struct engine_device engine_device_of_model(struct engine_model_device *device)
{
    const struct kv_cache *kv = device->kv;
    struct engine_device out = {
        .self = device,
        .vocab = device->model->vocab,
        .n_groups = kv->n_groups,
        .rope_border = rope_border(&device->model->config.rope),
        .n_steps = device->model->be->steps_max,
        .launch = launch,
        .collect = collect,
    };
    for (int32_t g = 0; g < kv->n_groups; g++) {
        out.windows[g] = kv->groups[g].window;
        out.n_pages[g] = kv->groups[g].n_pages;
    }
    return out;
}
