/* info.h - what the server says of itself: /props, /slots (llama-server's shapes), /server_info
 * (SGLang's), /tokenizer_info (vLLM's), and what a render request gets. Never a prompt's text. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "api/generate.h"
#include "host/base/buf.h"

struct api_server {
    const char *version;
    const char *device; /* the backend's name */
    int32_t n_slots;    /* sequences that run at once */
    int32_t n_queue;    /* that may wait */
    int32_t page_tokens, n_pages;
    const char *chat_template;         /* NULL: none */
    const char *bos, *eos, *unk, *pad; /* NULL: none */
    bool has_tokenizer;
};
/* One sequence that runs. */
struct api_slot {
    const struct sample_params *sampling; /* NULL: idle */
    int32_t n_max;                        /* max_tokens in force */
    int64_t n_decoded;
    uint64_t id_task;
};

void api_write_props(struct buf *out, const struct api_model *model,
                     const struct api_server *server);
/* slots[n_busy] run; the rest up to n_slots is idle. */
void api_write_slots(struct buf *out, const struct api_model *model,
                     const struct api_server *server, const struct api_slot *slots, int32_t n_busy);
void api_write_server_info(struct buf *out, const struct api_model *model,
                           const struct api_server *server);
void api_write_tokenizer_info(struct buf *out, const struct api_model *model,
                              const struct api_server *server);
/* vLLM's render: for chat one object, for completions a list with one a prompt. `last` closes it.
 */
void api_write_render(struct buf *out, const struct api_model *model, enum api_kind kind,
                      int32_t index, const int32_t *ids, int32_t n_ids, bool last);
