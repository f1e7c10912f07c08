/* load_model.c - the order of a start: files, backend, weights, memory plan, pages, engine.
 *
 * Invariant: whatever failed, load_close leaves nothing behind; errors name the file or option. */
#include "server/load_model.h"
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/log.h"
#include "host/grammar/grammar.h"
#include "server/demo_model.h"
#include "server/open_backend.h"
#include "server/sigbus.h"

enum {
    /* Rows of a step that activations are sized for when --step-tokens is auto: products are at
     * their full rate from 64 rows on, and 512 rows of a 8B model are 60 MiB of activations. */
    STEP_TOKENS_MAX = 512,
    LOGIT_ROWS_MIN = 16, /* prompt log-probabilities share these rows with decoding sequences */
    CONFIG_BYTES_MAX = 1 << 20,
    TEMPLATE_BYTES_MAX = 16 << 20, /* as in a model folder */
    SLOW_MS_MAX = 30000,
    PROGRESS_MS = 100,
};

/* ---- files ------------------------------------------------------------------------------------
 */

/* The last part of a path that is a name; "." and ".." are resolved first. */
static void name_of_path(const char *path, char name[128])
{
    char real[PATH_MAX], copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", realpath(path, real) != NULL ? real : path);
    size_t n = strlen(copy);
    static const char suffix[] = ".safetensors";
    if (n > sizeof suffix && strcmp(copy + n - sizeof suffix + 1, suffix) == 0) {
        copy[n - sizeof suffix + 1] = 0;
        char *slash = strrchr(copy, '/');
        if (slash != NULL && slash != copy && strcmp(slash, "/model") == 0)
            *slash = 0;
    }
    const char *slash = strrchr(copy, '/');
    snprintf(name, 128, "%.127s", slash != NULL && slash[1] != 0 ? slash + 1 : copy);
}

static bool load_dummy(const char *what, const char **dummy, char **owned, char name[128],
                       struct err *err)
{
    size_t size;
    *dummy = model_dummy_config(what);
    snprintf(name, 128, "%.127s", what);
    if (*dummy != NULL)
        return true;
    if (strchr(what, '/') == NULL && !file_exists(what))
        return err_set(err, ERR_NOT_FOUND,
                       "dummy:%s: no such shape; there are qwen2.5-0.5b, llama-3.2-1b, "
                       "llama-3.1-8b, and dummy:PATH of a config.json",
                       what);
    if (!file_read(what, CONFIG_BYTES_MAX, owned, &size, err))
        return false;
    *dummy = *owned;
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", what);
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        *slash = 0;
    name_of_path(slash != NULL ? folder : ".", name);
    return true;
}

bool load_files(const char *model, struct hf_folder *folder, const char **dummy, char **owned,
                char name[128], struct err *err)
{
    *dummy = NULL;
    *owned = NULL;
    if (model == NULL || strcmp(model, "demo:") == 0) {
        size_t n;
        const struct hf_file *files = demo_model_files(&n);
        snprintf(name, 128, "nibble-demo");
        return hf_folder_open_memory(folder, "nibble-demo", files, n, err);
    }
    if (strncmp(model, "dummy:", 6) == 0)
        return load_dummy(model + 6, dummy, owned, name, err);
    name_of_path(model, name);
    return hf_folder_open(folder, model, err);
}

/* ---- the model --------------------------------------------------------------------------------
 */

struct progress {
    void (*tick)(void);
    bool terminal;
    uint64_t shown_ms;
};

static void show_progress(void *context, size_t done, size_t total)
{
    struct progress *progress = context;
    uint64_t now = clock_ms();
    if (progress->tick != NULL)
        progress->tick();
    if (!progress->terminal || total == 0 || now - progress->shown_ms < PROGRESS_MS)
        return;
    progress->shown_ms = now;
    char a[32], b[32];
    fprintf(stderr, "\r\033[Kloading %3.0f %%  %s of %s", 100.0 * (double)done / (double)total,
            memory_text((double)done, a, sizeof a), memory_text((double)total, b, sizeof b));
    fflush(stderr);
}

struct load_choice load_choice_of(const struct options *options, int32_t max_seqs)
{
    int32_t rows = options->step_tokens > 0     ? options->step_tokens
                   : max_seqs > STEP_TOKENS_MAX ? max_seqs
                                                : STEP_TOKENS_MAX;
    return (struct load_choice){ .model = options->model,
                                 .weights = options->weights,
                                 .group = options->group,
                                 .head = options->head,
                                 .activations = options->activations,
                                 .kv = options->kv,
                                 .asymmetric = options->asymmetric,
                                 .ctx = options->ctx,
                                 .rows_max = rows,
                                 .logit_rows_max =
                                     max_seqs < LOGIT_ROWS_MIN ? LOGIT_ROWS_MIN : max_seqs };
}

/* What --memory allows in all; 0: unknown. */
static size_t budget_of(const struct options *options, size_t available)
{
    if (options->memory.bytes > 0)
        return (size_t)options->memory.bytes;
    return available / 100 * (size_t)options->memory.percent;
}

/* --chat-template: the file takes the place of what the folder has. */
static bool read_chat_template(struct loaded *loaded, const char *path, struct err *err)
{
    char *bytes;
    size_t size;
    if (path == NULL)
        return true;
    if (!loaded->has_folder)
        return err_set(err, ERR_UNSUPPORTED, "--chat-template: a dummy model has no tokenizer");
    if (!file_read(path, TEMPLATE_BYTES_MAX, &bytes, &size, err)) {
        err_prefix(err, "--chat-template");
        return false;
    }
    struct hf_text *text = &loaded->folder.chat_template;
    if (text->owned)
        free(text->bytes);
    *text = (struct hf_text){ .bytes = bytes, .size = size, .owned = true };
    return true;
}

static const enum dtype KV_DTYPES[] = {
    [KV_AUTO] = DTYPE_NONE, [KV_BF16] = DTYPE_BF16, [KV_INT8] = DTYPE_I8, [KV_F32] = DTYPE_F32
};

/* Exact arithmetic keeps f32 and nothing else; a GPU's kernels read bf16 or int8. */
static bool kv_fits(const struct load_choice *choice, const struct backend *be, struct err *err)
{
    if (choice->kv == KV_AUTO)
        return true;
    if (choice->activations == ACTIVATIONS_EXACT && choice->kv != KV_F32)
        return err_set(err, ERR_UNSUPPORTED, "--kv %s: exact activations keep fp32 keys and values",
                       choice->kv == KV_INT8 ? "int8" : "bf16");
    if (choice->kv == KV_F32 && !be->host_memory)
        return err_set(err, ERR_UNSUPPORTED, "--kv f32: %s keeps keys and values as bf16 or int8",
                       be->name);
    return true;
}

bool load_model(struct loaded *loaded, const struct options *options,
                const struct load_choice *choice, struct err *err)
{
    const char *dummy;
    struct progress progress = { .tick = choice->tick, .terminal = isatty(STDERR_FILENO) == 1 };
    *loaded = (struct loaded){ .available = memory_available() };
    if (!load_files(choice->model, &loaded->folder, &dummy, &loaded->dummy_config, loaded->name,
                    err))
        goto fail;
    loaded->has_folder = dummy == NULL;
    if (loaded->has_folder)
        sigbus_watch(&loaded->folder.tensors);
    if (!read_chat_template(loaded, options->chat_template, err))
        goto fail;
    if (!open_backend(&loaded->be, options, choice->activations, err))
        goto fail;
    if (loaded->be->device_free > 0)
        loaded->available = loaded->be->device_free;
    if (!kv_fits(choice, loaded->be, err))
        goto fail;
    struct model_options model_options = {
        .weights = (enum weights_mode)choice->weights,
        .group = choice->group,
        .asymmetric = choice->asymmetric,
        .head_auto = choice->head != 0,
        .ctx = choice->ctx,
        .rows_max = choice->rows_max,
        .logit_rows_max = choice->logit_rows_max,
        .kv_dtype = KV_DTYPES[choice->kv],
        .weight_bytes_max = budget_of(options, loaded->available),
        .progress = show_progress,
        .progress_context = &progress,
        .problem = choice->problem,
    };
    bool ok = model_open(&loaded->model, loaded->has_folder ? &loaded->folder : NULL, dummy,
                         loaded->be, &model_options, err);
    if (progress.shown_ms != 0)
        fputs("\r\033[K", stderr);
    if (!ok)
        goto fail;
    loaded->has_model = true;
    malloc_trim(0); /* a tokenizer's JSON tree is tens of megabytes, and was just freed */
    return true;
fail:
    load_close(loaded);
    return false;
}

void load_close(struct loaded *loaded)
{
    grammar_vocab_close(loaded->grammar_vocab);
    if (loaded->has_model)
        model_close(&loaded->model);
    if (loaded->be != NULL)
        loaded->be->ops->close(loaded->be);
    if (loaded->has_folder) {
        sigbus_forget(&loaded->folder.tensors);
        hf_folder_close(&loaded->folder);
    }
    free(loaded->dummy_config);
    *loaded = (struct loaded){ 0 };
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* What the process keeps beside the big regions: its own tables (vocabulary, template, code) and,
 * per sequence, outboxes, known tokens and page tables; per connection, libmicrohttpd's pool. An
 * upper estimate, so that the budget holds. */
static size_t table_bytes(const struct model *model, int32_t max_seqs, int32_t n_connections)
{
    const size_t process = (size_t)24 << 20, per_seq = 16 * 1024, per_token = 5;
    return process + (size_t)max_seqs * (per_seq + per_token * (size_t)model->ctx) +
           (size_t)model->vocab * 96 + (size_t)n_connections * 256;
}

bool load_plan(struct loaded *loaded, const struct options *options, int32_t max_seqs,
               int32_t n_connections, struct err *err)
{
    struct model *model = &loaded->model;
    struct memory_plan *plan = &loaded->plan;
    *plan = (struct memory_plan){
        .available = loaded->available,
        .by_percent = options->memory.bytes == 0,
        .percent = options->memory.percent,
        .weights = model->weight_bytes,
        .weights_anonymous = model->weight_anonymous_bytes,
        .activations = model->activation_bytes,
        .workspace = loaded->be->workspace,
        .tables = table_bytes(model, max_seqs, n_connections),
        .ctx = model->ctx,
        .max_seqs = max_seqs,
    };
    plan->budget = budget_of(options, plan->available);
    if (plan->available == 0 && plan->by_percent)
        return err_set(err, ERR_UNSUPPORTED,
                       "/proc/meminfo does not say what memory is available; use --memory BYTES");
    if (memory_plan_make(plan, &model->kv_shape, model->rows_max, err))
        return true;
    if (options->ctx != 0 || plan->ctx_fits < PAGE_TOKENS)
        return false;
    log_warn("context", "wanted=%d used=%d text=\"lowered to what memory holds; see --memory\"",
             (int)model->ctx, (int)plan->ctx_fits);
    model->ctx = plan->ctx = plan->ctx_fits;
    return memory_plan_make(plan, &model->kv_shape, model->rows_max, err);
}

/* The texts of tokens, for grammars. */
static bool open_vocab(struct loaded *loaded, struct err *err)
{
    /* 128k tokens: a thousand masks. Taken from the system as it fills. */
    enum { CACHE_BYTES = 32 << 20 };
    const struct model *model = &loaded->model;
    const struct tokenizer *tokenizer = model->tokenizer;
    if (tokenizer == NULL)
        return true;
    struct grammar_text *texts = calloc((size_t)model->vocab, sizeof *texts);
    if (texts == NULL)
        return err_set(err, ERR_MEMORY, "no memory for the texts of %d tokens", model->vocab);
    for (int32_t id = 0; id < model->vocab && id < tokenizer_size(tokenizer); id++)
        if (!tokenizer_is_special(tokenizer, id))
            texts[id].bytes = tokenizer_bytes(tokenizer, id, &texts[id].length);
    const bool ok = grammar_vocab_open(&loaded->grammar_vocab, texts, model->vocab, model->eos,
                                       model->n_eos, CACHE_BYTES, err);
    free(texts);
    return ok;
}

bool load_engine(struct loaded *loaded, const struct options *options, int32_t max_seqs,
                 int32_t max_queue, struct engine **engine, struct err *err)
{
    int32_t n_pages[KV_GROUPS_MAX] = { 0 };
    struct model *model = &loaded->model;
    for (int32_t g = 0; g < loaded->plan.n_groups; g++)
        n_pages[g] = loaded->plan.groups[g].n_pages;
    loaded->kv = model->kv_shape;
    if (!kv_cache_reserve(&loaded->kv, loaded->be, n_pages, err))
        return false;
    if (!open_vocab(loaded, err))
        return false;
    loaded->device = (struct engine_model_device){ .model = model, .kv = &loaded->kv };
    loaded->engine_device = engine_device_of_model(&loaded->device);
    struct engine_options engine_options = {
        .ctx = model->ctx,
        .max_seqs = max_seqs,
        .max_queue = max_queue,
        .step_tokens = options->step_tokens,
        .step_tokens_max = model->rows_max,
        .logit_rows_max = model->logit_rows_max,
        .slow_ms_max = SLOW_MS_MAX,
        .prefix_cache = options->prefix_cache,
        .overlap = options->overlap == OVERLAP_ON,
        .eos = model->eos,
        .n_eos = model->n_eos,
        .grammar_vocab = loaded->grammar_vocab,
    };
    return engine_open(engine, &loaded->engine_device, &engine_options, err);
}
