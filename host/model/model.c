/* model.c - opens and closes a model: config, texts, weights, scratch, in this order, so that what
 * is cheap to refuse is refused before gigabytes are read.
 *
 * Invariant: on false nothing is held but the backend's memory, which lives until its close. */
#include "host/model/model.h"

#include <stdlib.h>
#include <string.h>
#include "host/base/log.h"
#include "host/model/state.h"

enum { ROWS_MAX = 1 << 16 };

static bool check_options(const struct model_options *options, const struct backend *be,
                          struct err *err)
{
    const int32_t group = options->group;
    const bool quantize = options->weights == WEIGHTS_INT4 || options->weights == WEIGHTS_INT8;
    if (quantize && group != 32 && group != 64 && group != 128 && group != -1)
        return err_set(err, ERR_REQUEST, "group %d: want 32, 64, 128, or -1 for one scale a row",
                       group);
    if (options->rows_max < 1 || options->rows_max > ROWS_MAX || options->logit_rows_max < 1 ||
        options->logit_rows_max > ROWS_MAX)
        return err_set(err, ERR_REQUEST, "steps of %d rows with %d of logits: want 1 to %d",
                       options->rows_max, options->logit_rows_max, ROWS_MAX);
    const enum dtype kv = options->kv_dtype;
    if (kv != DTYPE_NONE && kv != DTYPE_F32 && kv != DTYPE_F16 && kv != DTYPE_BF16 &&
        kv != DTYPE_I8)
        return err_set(err, ERR_UNSUPPORTED, "keys and values in %s; supported: f32, f16, bf16, i8",
                       dtype_name(kv));
    if (be->exact && kv != DTYPE_NONE && kv != DTYPE_F32)
        return err_set(err, ERR_REQUEST, "exact arithmetic keeps keys and values in f32, not %s",
                       dtype_name(kv));
    return true;
}

static bool choose_ctx(struct model *model, int32_t wanted, struct err *err)
{
    const struct config *c = &model->config;
    model->ctx = wanted != 0 ? wanted : c->ctx;
    if (wanted < 0 || wanted > c->ctx_limit)
        return err_set(err, c->rope.kind == ROPE_DYNAMIC ? ERR_UNSUPPORTED : ERR_REQUEST,
                       "context of %d tokens: this model takes 1 to %d%s", wanted, c->ctx_limit,
                       c->rope.kind == ROPE_DYNAMIC
                           ? "; rope_type \"dynamic\" is not supported beyond its original length"
                           : "");
    if (c->rope.kind == ROPE_DYNAMIC)
        log_info("context", "ctx=%d reason=\"rope_type dynamic: up to the original length\"",
                 model->ctx);
    return true;
}

static void shape_kv(struct model *model, enum dtype wanted)
{
    const struct config *c = &model->config;
    const struct backend *be = model->be;
    model->kv_shape = (struct kv_cache){ .n_groups = c->n_kv_groups,
                                         .n_kv_heads = c->n_kv_heads,
                                         .head_dim = c->head_dim,
                                         .dtype = wanted != DTYPE_NONE ? wanted
                                                  : be->exact          ? DTYPE_F32
                                                                       : be->kv_dtype };
    for (int32_t g = 0; g < c->n_kv_groups; g++)
        model->kv_shape.groups[g] =
            (struct kv_group){ .window = c->windows[g], .n_layers = c->group_layers[g] };
}

bool model_open(struct model *model, const struct hf_folder *folder, const char *dummy_config,
                struct backend *be, const struct model_options *options, struct err *err)
{
    CHECK((folder == NULL) != (dummy_config == NULL));
    *model = (struct model){ .be = be, .bos = -1 };
    if (!check_options(options, be, err))
        return false;
    if (folder != NULL && folder->config_missing.code != ERR_NONE) {
        *err = folder->config_missing;
        goto fail;
    }
    const char *text = folder != NULL ? folder->config.bytes : dummy_config;
    const size_t size = folder != NULL ? folder->config.size : strlen(dummy_config);
    if (!config_read(&model->config, text, size, err) || !choose_ctx(model, options->ctx, err))
        goto fail;
    if (folder != NULL && folder->quantize_name != NULL &&
        !config_read_quantize(&model->config, folder->quantize_name, folder->quantize.bytes,
                              folder->quantize.size, err))
        goto fail;
    if (options->weights != WEIGHTS_AUTO && model->config.quant.method != QUANT_NONE) {
        static const char *const names[] = { "auto", "bf16", "int8", "int4" };
        err_set(err, ERR_REQUEST,
                "weights %s: the checkpoint is quantized already (%s); take weights auto, or the "
                "unquantized checkpoint",
                names[options->weights], model->config.quant.name);
        goto fail;
    }
    if (model->config.experts.n > 0 && be->ops->linear_experts == NULL) {
        err_set(err, ERR_UNSUPPORTED, "experts (%s) are not supported by %s",
                model->config.model_type, be->name);
        goto fail;
    }
    model->rows_max = options->rows_max;
    model->logit_rows_max = options->logit_rows_max;
    model->vocab = model->config.vocab;
    shape_kv(model, options->kv_dtype);
    model->state = calloc(1, sizeof *model->state);
    if (model->state == NULL) {
        err_set(err, ERR_MEMORY, "no memory for a model");
        goto fail;
    }
    if (!model_read_texts(model, folder, err) ||
        !model_load(model, folder != NULL ? &folder->tensors : NULL, options, err) ||
        !model_reserve_scratch(model, err) || !model_tune(model, err))
        goto fail;
    return true;
fail:
    model_close(model);
    err->field[0] = 0; /* fields are for requests */
    if (folder != NULL && (err->code == ERR_FORMAT || err->code == ERR_UNSUPPORTED))
        err_prefix(err, "%s", folder->path);
    return false;
}

void model_close(struct model *model)
{
    model_clear_texts(model);
    if (model->state != NULL) {
        for (int32_t l = 0; model->state->layers != NULL && l < model->config.n_layers; l++)
            free(model->state->layers[l].experts);
        free(model->state->layers);
        free(model->state->slots);
        free(model->state);
    }
    config_clear(&model->config);
    *model = (struct model){ .bos = -1 };
}

int32_t model_slots(const struct model *model, struct model_slot *slots, int32_t n_max)
{
    const int32_t n = model->state->n_slots;
    for (int32_t i = 0; i < n && i < n_max; i++)
        slots[i] = model->state->slots[i];
    return n;
}

bool kv_cache_reserve(struct kv_cache *kv, struct backend *be, const int32_t *n_pages,
                      struct err *err)
{
    for (int32_t g = 0; g < kv->n_groups; g++) {
        size_t bytes;
        if (n_pages[g] < 1 ||
            __builtin_mul_overflow((size_t)n_pages[g], kv_page_bytes(kv, g), &bytes))
            return err_set(err, ERR_MEMORY, "%d pages of keys and values", n_pages[g]);
        if (!be->ops->reserve(be, REGION_KV, bytes, &kv->groups[g].memory, err)) {
            err_prefix(err, "%d pages of %zu bytes for keys and values", n_pages[g],
                       kv_page_bytes(kv, g));
            return false;
        }
        kv->groups[g].n_pages = n_pages[g];
    }
    return true;
}
