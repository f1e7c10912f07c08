/* load_model.h - from MODEL and options to a loaded model, its KV pages and an engine; shared by
 * the commands. Main thread. */
#pragma once
#include "host/engine/engine.h"
#include "host/format/hf_folder.h"
#include "host/model/model.h"
#include "server/memory_plan.h"
#include "server/options.h"

/* Which configuration of which model. */
struct load_choice {
    const char *model; /* as on the command line; NULL: the demo model */
    int32_t weights, group, head, activations, kv; /* as in struct options */
    bool asymmetric;
    int32_t ctx; /* 0: auto */
    int32_t rows_max, logit_rows_max;
    void (*tick)(void); /* called now and then while loading; NULL: nothing */
    void (*problem)(void *context, const char *text); /* as in struct model_options */
};
/* What the options say about the main model; rows for max_seqs sequences. */
struct load_choice load_choice_of(const struct options *options, int32_t max_seqs);

struct loaded {
    struct backend *be;
    struct hf_folder folder; /* the mapped files: must outlive the model */
    char *dummy_config;      /* owned; dummy:PATH */
    struct model model;
    bool has_folder, has_model;
    char name[128];   /* what the API calls it by default */
    size_t available; /* memory before loading */
    struct kv_cache kv;
    struct memory_plan plan;
    struct engine_model_device device;
    struct engine_device engine_device;
    struct grammar_vocab *grammar_vocab; /* NULL: no tokenizer */
};

/* The files of MODEL alone: no backend, no weights. `*dummy` is the config of `dummy:NAME` (then
 * the folder is empty), owned by *owned when not NULL. `name` gets the default API name. */
MUST_USE bool load_files(const char *model, struct hf_folder *folder, const char **dummy,
                         char **owned, char name[128], struct err *err);
/* Opens the backend and the model. Shows progress when standard error is a terminal. On false
 * nothing is held. */
MUST_USE bool load_model(struct loaded *loaded, const struct options *options,
                         const struct load_choice *choice, struct err *err);
/* Decides on KV pages for max_seqs sequences (loaded->plan). A context that was not asked for is
 * lowered to what fits, and said. n_connections: of HTTP, 0 for none. */
MUST_USE bool load_plan(struct loaded *loaded, const struct options *options, int32_t max_seqs,
                        int32_t n_connections, struct err *err);
/* Reserves the plan's pages and starts an engine on them. */
MUST_USE bool load_engine(struct loaded *loaded, const struct options *options, int32_t max_seqs,
                          int32_t max_queue, struct engine **engine, struct err *err);
/* A half-loaded one too. The engine is closed before. */
void load_close(struct loaded *loaded);
