/* info.c - see info.h. */
#include "api/info.h"
#include <string.h>
#include "host/base/rng.h"

static void put_text(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, "\"%s\":", key);
    if (text != NULL)
        buf_put_json_string(out, text, strlen(text));
    else
        buf_puts(out, "null");
}

static void put_number(struct buf *out, const char *key, double number)
{
    buf_printf(out, ",\"%s\":", key);
    buf_put_json_number(out, number);
}

/* llama-server's names of the samplers that are here. */
static void put_params(struct buf *out, const struct sample_params *p, int32_t n_max, bool seeded)
{
    buf_printf(out, "{\"n_predict\":%d,\"max_tokens\":%d", (int)n_max, (int)n_max);
    /* 2^32 - 1 is llama-server's "drawn anew for each request". */
    put_number(out, "seed", seeded ? (double)p->seed : 4294967295.0);
    put_number(out, "temperature", (double)p->temperature);
    put_number(out, "top_k", p->top_k > 0 ? p->top_k : 0);
    put_number(out, "top_p", (double)p->top_p);
    put_number(out, "min_p", (double)p->min_p);
    put_number(out, "typical_p", (double)p->typical_p);
    put_number(out, "repeat_penalty", (double)p->repetition_penalty);
    put_number(out, "presence_penalty", (double)p->presence_penalty);
    put_number(out, "frequency_penalty", (double)p->frequency_penalty);
    buf_putc(out, '}');
}

/* What a request gets that says nothing. */
static struct sample_params defaults_of(const struct api_model *model)
{
    struct sample_params p = sample_params_neutral();
    p.temperature = model->temperature;
    p.top_p = model->top_p;
    p.min_p = model->min_p;
    p.typical_p = model->typical_p;
    p.repetition_penalty = model->repetition_penalty;
    p.top_k = model->top_k;
    return p;
}

void api_write_props(struct buf *out, const struct api_model *model,
                     const struct api_server *server)
{
    const struct sample_params p = defaults_of(model);
    buf_printf(out,
               "{\"default_generation_settings\":{\"id\":0,\"id_task\":-1,\"n_ctx\":%d,"
               "\"speculative\":false,\"is_processing\":false,\"params\":",
               (int)model->ctx);
    put_params(out, &p, model->max_tokens > 0 ? model->max_tokens : -1, false);
    buf_printf(out, "},\"total_slots\":%d,", (int)server->n_slots);
    put_text(out, "model_alias", model->id);
    buf_putc(out, ',');
    put_text(out, "model_path", model->id); /* where it lies on the disk is nobody's business */
    buf_putc(out, ',');
    put_text(out, "chat_template", server->chat_template ? server->chat_template : "");
    buf_puts(out, ",\"chat_template_caps\":{},\"modalities\":{\"vision\":false,\"audio\":false},");
    put_text(out, "bos_token", server->bos ? server->bos : "");
    buf_putc(out, ',');
    put_text(out, "eos_token", server->eos ? server->eos : "");
    buf_printf(out, ",\"build_info\":\"nibble-%s\",\"is_sleeping\":false}", server->version);
}

void api_write_slots(struct buf *out, const struct api_model *model,
                     const struct api_server *server, const struct api_slot *slots, int32_t n_busy)
{
    buf_putc(out, '[');
    for (int32_t i = 0; i < server->n_slots; i++) {
        const struct api_slot *slot = i < n_busy ? &slots[i] : NULL;
        buf_printf(out, "%s{\"id\":%d,\"n_ctx\":%d,\"speculative\":false,\"is_processing\":%s",
                   i > 0 ? "," : "", (int)i, (int)model->ctx, slot != NULL ? "true" : "false");
        if (slot != NULL) {
            buf_printf(out, ",\"id_task\":%llu,\"params\":", (unsigned long long)slot->id_task);
            put_params(out, slot->sampling, slot->n_max, true);
            buf_printf(out,
                       ",\"next_token\":[{\"has_next_token\":true,\"n_remain\":%lld,"
                       "\"n_decoded\":%lld}]",
                       (long long)(slot->n_max - slot->n_decoded), (long long)slot->n_decoded);
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

void api_write_server_info(struct buf *out, const struct api_model *model,
                           const struct api_server *server)
{
    buf_printf(out, "{\"version\":\"%s\",", server->version);
    put_text(out, "model_path", model->id);
    buf_putc(out, ',');
    put_text(out, "served_model_name", model->id);
    buf_putc(out, ',');
    put_text(out, "device", server->device);
    buf_printf(out,
               ",\"tp_size\":1,\"dp_size\":1,\"max_model_len\":%d,\"context_length\":%d,"
               "\"max_running_requests\":%d,\"max_queued_requests\":%d,\"page_size\":%d,"
               "\"max_total_num_tokens\":%lld,\"vocab_size\":%d}",
               (int)model->ctx, (int)model->ctx, (int)server->n_slots, (int)server->n_queue,
               (int)server->page_tokens,
               (long long)server->n_pages * (long long)server->page_tokens, (int)model->vocab);
}

void api_write_tokenizer_info(struct buf *out, const struct api_model *model,
                              const struct api_server *server)
{
    static const char *const names[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    const char *const texts[] = { server->bos, server->eos, server->unk, server->pad };
    /* The class is what transformers would call any tokenizer.json. */
    buf_printf(out,
               "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"vocab_size\":%d,"
               "\"model_max_length\":%d",
               (int)model->vocab, (int)model->ctx);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        buf_putc(out, ',');
        put_text(out, names[i], texts[i]);
    }
    buf_putc(out, ',');
    put_text(out, "chat_template", server->chat_template);
    buf_putc(out, '}');
}

void api_write_render(struct buf *out, const struct api_model *model, enum api_kind kind,
                      int32_t index, const int32_t *ids, int32_t n_ids, bool last)
{
    bool chat = kind == API_CHAT;
    buf_puts(out, index > 0 ? "," : chat ? "" : "[");
    buf_printf(out, "{\"request_id\":\"%s-%016llx\",", chat ? "chatcmpl" : "cmpl",
               (unsigned long long)rng_system());
    put_text(out, "model", model->id);
    buf_puts(out, ",\"token_ids\":[");
    for (int32_t i = 0; i < n_ids; i++)
        buf_printf(out, "%s%d", i > 0 ? "," : "", (int)ids[i]);
    buf_puts(out, "],\"token_offsets\":null}");
    buf_puts(out, last && !chat ? "]" : "");
}
