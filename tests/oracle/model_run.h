/* model_run.h - a model from a folder, on a CPU backend of its own, ready to be fed. For tests. */
#pragma once
#include "tests/support/support.h"
#include "host/backend/batch.h"
#include "host/base/file.h"
#include "host/base/pool.h"
#include "host/format/hf_folder.h"
#include "host/format/safetensors.h"
#include "host/model/model.h"
#include "host/model/score.h"

struct model_setup {
    bool exact;
    enum weights_mode weights;
    int32_t group; /* 0: 128 */
    bool head_auto, asymmetric;
    enum dtype kv;     /* NONE: the backend's */
    int32_t n_threads; /* 0: 1 */
    enum cpu_isa isa;
    int32_t ctx, rows; /* 0: 128, 128 */
    bool pages;        /* reserve pages and a batch here; false: a scorer will */
    /* another backend than the CPU's; NULL: that one */
    bool (*open_backend)(struct backend **be, struct err *err);
};
struct model_run {
    struct hf_folder folder; /* must outlive the model */
    struct backend *be;
    struct model model;
    struct kv_cache kv;
    struct batch_single single;
};

/* Opens FOLDER; `config` replaces config.json's text where not NULL. */
static inline bool model_run_open(struct model_run *run, const char *folder, const char *config,
                                  const struct model_setup *setup, struct err *err)
{
    *run = (struct model_run){ 0 };
    const struct cpu_options cpu = { .n_threads = setup->n_threads ? setup->n_threads : 1,
                                     .exact = setup->exact,
                                     .isa = setup->isa };
    const int32_t rows = setup->rows ? setup->rows : 128, ctx = setup->ctx ? setup->ctx : 128;
    const struct model_options options = { .weights = setup->weights,
                                           .group = setup->group ? setup->group : 128,
                                           .asymmetric = setup->asymmetric,
                                           .head_auto = setup->head_auto,
                                           .ctx = ctx,
                                           .kv_dtype = setup->kv,
                                           .rows_max = rows,
                                           .logit_rows_max = rows };
    const int32_t n_pages[KV_GROUPS_MAX] = { kv_pages_for(ctx), kv_pages_for(ctx),
                                             kv_pages_for(ctx), kv_pages_for(ctx) };
    if (!hf_folder_open(&run->folder, folder, err))
        return false;
    if (config != NULL) {
        struct hf_text *text = &run->folder.config;
        free(text->bytes);
        *text = (struct hf_text){ 0 };
        if (!file_read(config, 1 << 20, &text->bytes, &text->size, err))
            goto fail;
        text->owned = true;
    }
    if (!(setup->open_backend != NULL ? setup->open_backend(&run->be, err)
                                      : cpu_backend_open(&run->be, &cpu, err)))
        goto fail;
    if (!model_open(&run->model, &run->folder, NULL, run->be, &options, err))
        goto fail_backend;
    run->kv = run->model.kv_shape;
    if (!setup->pages)
        return true;
    if (kv_cache_reserve(&run->kv, run->be, n_pages, err) &&
        batch_single_init(&run->single, rows, ctx, run->kv.n_groups, err))
        return true;
    model_close(&run->model);
fail_backend:
    run->be->ops->close(run->be);
fail:
    hf_folder_close(&run->folder);
    return false;
}

static inline void model_run_close(struct model_run *run)
{
    batch_single_clear(&run->single);
    model_close(&run->model);
    run->be->ops->close(run->be);
    hf_folder_close(&run->folder);
}

/* Logits of tokens[0..n) in chunks of `chunk` rows into out[n][vocab]. */
static inline void model_run_logits(struct model_run *run, const int32_t *tokens, int32_t n,
                                    int32_t chunk, float *out, model_tap *tap, void *tap_context)
{
    struct err err;
    const int32_t vocab = run->model.vocab;
    for (int32_t from = 0; from < n; from += chunk) {
        const int32_t rows = n - from < chunk ? n - from : chunk;
        const struct batch *batch =
            batch_single_build(&run->single, tokens + from, rows, from, true);
        model_forward(&run->model, batch, &run->kv, tap, tap_context, NULL);
        assert_ok(run->be->ops->finish(run->be, &err), &err);
        for (int32_t r = 0; r < rows; r++)
            run->be->ops->download(run->be, out + (size_t)(from + r) * (size_t)vocab,
                                   (const float *)run->model.logits.data +
                                       (size_t)r * (size_t)vocab,
                                   (size_t)vocab * sizeof *out);
    }
}

/* Expected tensors: a .safetensors file as a directory. */
static inline void expect_open(struct tensor_dir *dir, const char *path)
{
    struct err err;
    struct file_map map;
    *dir = (struct tensor_dir){ 0 };
    assert_ok(file_map(&map, path, &err), &err);
    assert_ok(safetensors_add(dir, map, path, &err), &err);
}

static inline const void *expect_find(const struct tensor_dir *dir, enum dtype dtype, int64_t *n,
                                      const char *format, ...)
{
    char name[64];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const struct tensor *tensor = tensor_dir_find(dir, name);
    if (tensor == NULL || tensor->dtype != dtype)
        fail_msg("%s: no such tensor, or another type", name);
    *n = tensor_count(tensor);
    return tensor->data;
}

/* sum (a - b)^2 / sum b^2 */
static inline double nmse(const float *a, const float *b, int64_t n)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return difference / size;
}
