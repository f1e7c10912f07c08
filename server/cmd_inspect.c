/* cmd_inspect.c - what a model is, how its tensors are kept, and what memory it would take. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/log.h"
#include "server/commands.h"
#include "server/load_model.h"

enum { SLOTS_MAX = 16384 };

struct inspection {
    const struct options *options;
    struct loaded loaded;
    struct model_slot *slots;
    int32_t n_slots;
};

static double bits_per_weight(const struct model_slot *slot)
{
    double weights = (double)slot->n_out * (double)slot->n_in;
    return weights > 0 ? 8 * (double)slot->bytes / weights : 0;
}

/* All slots as one: bytes, and bits per weight. */
static struct model_slot total_of(const struct inspection *in, double *weights)
{
    struct model_slot total = { 0 };
    *weights = 0;
    for (int32_t i = 0; i < in->n_slots; i++) {
        total.bytes += in->slots[i].bytes;
        *weights += (double)in->slots[i].n_out * (double)in->slots[i].n_in;
    }
    return total;
}

/* ---- text -------------------------------------------------------------------------------------
 */

static void line(struct buf *out, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);
static void line(struct buf *out, const char *name, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_printf(out, "  %-14s %s\n", name, text);
}

static void print_config(struct buf *out, const struct config *c)
{
    static const char *const GATES[] = { [GATE_SILU] = "silu",
                                         [GATE_GELU] = "gelu",
                                         [GATE_GELU_TANH] = "gelu (tanh)",
                                         [GATE_RELU2] = "relu squared" };
    line(out, "architecture", "%s (%s)", c->architecture, c->model_type);
    line(out, "shape", "%d layers, hidden %d, MLP %d (%s), %d heads, %d KV heads, head size %d",
         (int)c->n_layers, (int)c->hidden, (int)c->intermediate, GATES[c->gate], (int)c->n_heads,
         (int)c->n_kv_heads, (int)c->head_dim);
    line(out, "norms", "%s, epsilon %g%s%s%s%s%s", c->norm == NORM_RMS ? "RMS" : "layer",
         (double)c->norm_epsilon, c->qk_norm ? "; q and k normalized" : "",
         c->qkv_bias ? "; q, k, v biased" : "", c->o_bias ? "; o biased" : "",
         c->mlp_bias ? "; MLP biased" : "", c->tied ? "; head tied to the embeddings" : "");
    if (c->rope.kind == ROPE_DEFAULT)
        line(out, "rope", "theta %g", c->rope.theta);
    else
        line(out, "rope", "theta %g, %s, factor %g of %d positions", c->rope.theta,
             rope_name(c->rope.kind), c->rope.factor, (int)c->rope.original);
    for (int32_t g = 0; g < c->n_kv_groups; g++)
        if (c->windows[g] > 0)
            line(out, "window", "%d tokens in %d layers", (int)c->windows[g],
                 (int)c->group_layers[g]);
}

/* Which formats the files hold, and in how many tensors each. */
static void print_quantized(struct buf *out, const struct inspection *in)
{
    enum { KINDS_MAX = 16 };
    struct {
        const char *name;
        int32_t length, n;
    } kinds[KINDS_MAX];
    int32_t n_kinds = 0;
    char text[600] = "no";
    for (int32_t i = 0; i < in->n_slots; i++) {
        const char *stored = in->slots[i].stored; /* "Q4_K (4.5 bits)"; unquantized: "bf16" */
        const int32_t length = (int32_t)strcspn(stored, " ");
        if (stored[length] == 0)
            continue;
        int32_t k = 0;
        while (k < n_kinds &&
               (kinds[k].length != length || memcmp(kinds[k].name, stored, (size_t)length) != 0))
            k++;
        if (k == n_kinds && n_kinds < KINDS_MAX) {
            kinds[k].name = stored;
            kinds[k].length = length;
            kinds[n_kinds++].n = 0;
        }
        if (k < n_kinds)
            kinds[k].n++;
    }
    size_t n = 0;
    for (int32_t k = 0; k < n_kinds; k++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%.*s in %d", k > 0 ? ", " : "",
                              kinds[k].length, kinds[k].name, kinds[k].n);
    if (n_kinds > 0)
        snprintf(text + n, sizeof text - n, " of %d tensors", (int)in->n_slots);
    line(out, "quantized", "%s", text);
}

static void print_model(struct buf *out, const struct inspection *in)
{
    const struct model *m = &in->loaded.model;
    const struct model_defaults *d = &m->defaults;
    char eos[EOS_MAX * 12] = "none";
    size_t n = 0;
    for (int32_t i = 0; i < m->n_eos; i++)
        n += (size_t)snprintf(eos + n, sizeof eos - n, "%s%d", i > 0 ? ", " : "", (int)m->eos[i]);
    buf_printf(out, "%s\n", in->loaded.name);
    line(out, "backend", "%s", m->be->name);
    line(out, "parameters", "%lld", (long long)m->n_parameters);
    print_config(out, &m->config);
    print_quantized(out, in);
    line(out, "context", "%d tokens; the model allows %d", (int)m->ctx, (int)m->config.ctx_limit);
    line(out, "vocabulary", "%d; bos %d, eos %s", (int)m->vocab, (int)m->bos, eos);
    if (m->tokenizer != NULL)
        line(out, "tokenizer", "%d entries", (int)tokenizer_size(m->tokenizer));
    else
        line(out, "tokenizer", "none: %s", m->tokenizer_reason);
    if (m->chat != NULL)
        line(out, "chat template", "%zu bytes", m->chat_source ? strlen(m->chat_source) : 0);
    else
        line(out, "chat template", "none: %s", m->chat_reason);
    line(out, "sampling", "temperature %g, top_k %d, top_p %g, min_p %g, repetition penalty %g",
         (double)d->temperature, (int)d->top_k, (double)d->top_p, (double)d->min_p,
         (double)d->repetition_penalty);
}

static void print_tensors(struct buf *out, const struct inspection *in)
{
    char text[32], shape[32];
    double weights;
    struct model_slot total = total_of(in, &weights);
    buf_printf(out, "tensors\n  %-42s %15s  %-22s %-26s %10s %9s  %s\n", "slot", "shape", "stored",
               "resident", "size", "bits/w", "quantized ones are");
    for (int32_t i = 0; i < in->n_slots; i++) {
        const struct model_slot *slot = &in->slots[i];
        snprintf(shape, sizeof shape, "%d x %d", (int)slot->n_out, (int)slot->n_in);
        buf_printf(out, "  %-42s %15s  %-22s %-26s %10s %9.3f%s%s\n", slot->name, shape,
                   slot->stored, slot->resident,
                   memory_text((double)slot->bytes, text, sizeof text), bits_per_weight(slot),
                   slot->placement != PLACEMENT_NONE ? "  " : "",
                   slot->placement != PLACEMENT_NONE ? placement_name(slot->placement) : "");
    }
    buf_printf(out, "  %-42s %15.0f  %-22s %-26s %10s %9.3f\n", "all", weights, "", "",
               memory_text((double)total.bytes, text, sizeof text),
               weights > 0 ? 8 * (double)total.bytes / weights : 0);
}

/* What the checkpoint wants inputs quantized to, and whether this backend does it. */
static void print_activations(struct buf *out, const struct inspection *in)
{
    int32_t n = 0, used = 0;
    enum act_scheme scheme = ACT_EXACT;
    for (int32_t i = 0; i < in->n_slots; i++)
        if (in->slots[i].act != ACT_EXACT) {
            scheme = in->slots[i].act;
            n++;
            used += in->slots[i].act_used;
        }
    if (n > 0)
        line(out, "activations", "%s in %d tensors%s", act_scheme_name(scheme), (int)n,
             used > 0 ? "" : "; not done by this backend, which multiplies them as they are");
}

/* ---- JSON -------------------------------------------------------------------------------------
 */

static void put_string(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, "\"%s\":", key);
    if (text != NULL)
        buf_put_json_string(out, text, strlen(text));
    else
        buf_puts(out, "null");
}

static void print_json(struct buf *out, const struct inspection *in)
{
    const struct model *m = &in->loaded.model;
    buf_putc(out, '{');
    put_string(out, "name", in->loaded.name);
    buf_putc(out, ',');
    put_string(out, "backend", m->be->name);
    buf_putc(out, ',');
    put_string(out, "architecture", m->config.architecture);
    buf_putc(out, ',');
    put_string(out, "model_type", m->config.model_type);
    const struct config *c = &m->config;
    buf_printf(out,
               ",\"layers\":%d,\"hidden\":%d,\"intermediate\":%d,\"heads\":%d,\"kv_heads\":%d,"
               "\"head_dim\":%d,\"tied\":%s,\"rope\":\"%s\"",
               (int)c->n_layers, (int)c->hidden, (int)c->intermediate, (int)c->n_heads,
               (int)c->n_kv_heads, (int)c->head_dim, c->tied ? "true" : "false",
               rope_name(c->rope.kind));
    buf_printf(out,
               ",\"parameters\":%lld,\"ctx\":%d,\"vocab\":%d,\"bos\":%d,\"weight_bytes\":%zu,"
               "\"weight_anonymous_bytes\":%zu,\"activation_bytes\":%zu,\"eos\":[",
               (long long)m->n_parameters, (int)m->ctx, (int)m->vocab, (int)m->bos, m->weight_bytes,
               m->weight_anonymous_bytes, m->activation_bytes);
    for (int32_t i = 0; i < m->n_eos; i++)
        buf_printf(out, "%s%d", i > 0 ? "," : "", (int)m->eos[i]);
    buf_puts(out, "],");
    put_string(out, "no_tokenizer", m->tokenizer != NULL ? NULL : m->tokenizer_reason);
    buf_putc(out, ',');
    put_string(out, "no_chat", m->chat != NULL ? NULL : m->chat_reason);
    buf_puts(out, ",\"tensors\":[");
    for (int32_t i = 0; i < in->n_slots; i++) {
        const struct model_slot *slot = &in->slots[i];
        buf_puts(out, i > 0 ? ",{" : "{");
        put_string(out, "name", slot->name);
        buf_putc(out, ',');
        put_string(out, "stored", slot->stored);
        buf_putc(out, ',');
        put_string(out, "resident", slot->resident);
        buf_putc(out, ',');
        put_string(out, "placement", placement_name(slot->placement));
        buf_putc(out, ',');
        put_string(out, "activations", slot->act == ACT_EXACT ? NULL : act_scheme_name(slot->act));
        buf_printf(out, ",\"activations_used\":%s", slot->act_used ? "true" : "false");
        buf_printf(out,
                   ",\"n_out\":%d,\"n_in\":%d,\"bits\":%d,\"group\":%d,\"order\":%s,\"bytes\":%zu,"
                   "\"bits_per_weight\":%.4f}",
                   (int)slot->n_out, (int)slot->n_in, (int)slot->bits, (int)slot->group,
                   slot->order ? "true" : "false", slot->bytes, bits_per_weight(slot));
    }
    buf_printf(out, "],\"checked\":%s,\"memory\":", in->options->check ? "true" : "false");
    memory_plan_json(out, &in->loaded.plan);
    buf_puts(out, "}\n");
}

static void print_problem(void *context, const char *text)
{
    (void)context;
    fprintf(stderr, "damaged: %s\n", text);
}

int cmd_inspect(const struct options *o)
{
    struct err err;
    struct buf out;
    struct inspection in = { .options = o };
    struct load_choice choice = load_choice_of(o, o->max_seqs);
    if (o->check)
        choice.problem = print_problem;
    log_configure(LOG_WARN, false);
    buf_init(&out, (size_t)64 << 20);
    int status;
    if (!load_model(&in.loaded, o, &choice, &err) ||
        !load_plan(&in.loaded, o, o->max_seqs, 0, &err)) {
        status = command_fail(&err);
        goto end;
    }
    in.slots = calloc(SLOTS_MAX, sizeof *in.slots);
    if (in.slots == NULL) {
        err_set(&err, ERR_MEMORY, "no memory for %d slots", SLOTS_MAX);
        status = command_fail(&err);
        goto end;
    }
    in.n_slots = model_slots(&in.loaded.model, in.slots, SLOTS_MAX);
    in.n_slots = in.n_slots < SLOTS_MAX ? in.n_slots : SLOTS_MAX;
    if (o->json) {
        print_json(&out, &in);
    } else {
        print_model(&out, &in);
        print_tensors(&out, &in);
        print_activations(&out, &in);
        memory_plan_print(&out, &in.loaded.plan);
        if (o->check)
            buf_puts(&out, "check\n  every value is finite, every code and index in range\n");
    }
    status = command_print(&out);
end:
    free(in.slots);
    buf_clear(&out);
    load_close(&in.loaded);
    return status;
}
