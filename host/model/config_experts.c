/* config_experts.c - what config.json says about experts: one row a family. Defaults of absent keys
 * are those of transformers' configuration classes. Pure. */
#include <string.h>
#include "host/base/json.h"
#include "host/model/config.h"

struct expert_rules {
    const char *model_type;
    enum expert_names names;
    int32_t n_default, chosen_default;
    const char *width_key; /* NULL: the MLP's */
    int32_t width_default;
    bool asks_norm;         /* norm_topk_prob, by default false; else weights add up to 1 */
    bool some_layers;       /* decoder_sparse_step, mlp_only_layers */
    int32_t shared_default; /* shared_expert_intermediate_size; 0: there is no such expert */
    bool bias, clamped;     /* clamped: swiglu_limit, swiglu_alpha */
};
static const struct expert_rules RULES[] = {
    { "mixtral", EXPERTS_MIXTRAL, 8, 2, NULL, 0, false, false, 0, false, false },
    { "qwen2_moe", EXPERTS_QWEN, 60, 4, "moe_intermediate_size", 1408, true, true, 5632, false,
      false },
    { "qwen3_moe", EXPERTS_QWEN, 128, 8, "moe_intermediate_size", 768, true, true, 0, false,
      false },
    { "gpt_oss", EXPERTS_GPT_OSS, 128, 4, NULL, 0, false, false, 0, true, true },
};

static bool read_count(const struct json_ref *root, const char *key, int64_t low, int64_t high,
                       int32_t *value, struct err *err)
{
    int64_t found = *value;
    if (!json_opt_int(root, key, low, high, &found, err))
        return false;
    *value = (int32_t)found;
    return true;
}

static bool read_layers(struct config *c, const struct expert_rules *rules,
                        const struct json_ref *root, struct err *err)
{
    int32_t step = 1;
    struct json_ref list, item;
    if (rules->some_layers && !read_count(root, "decoder_sparse_step", 1, LAYERS_MAX, &step, err))
        return false;
    for (int32_t l = 0; l < c->n_layers; l++)
        c->layers[l].experts = (l + 1) % step == 0;
    if (!rules->some_layers || !json_get(root, "mlp_only_layers", &list))
        return true;
    if (!json_is_array(&list))
        return json_error(&list, err, "must be a list of layers");
    for (bool more = json_first(&list, &item); more; more = json_next(&item)) {
        int64_t l = 0;
        if (!json_int(&item, 0, INT32_MAX, &l, err))
            return false;
        if (l < c->n_layers)
            c->layers[l].experts = false;
    }
    return true;
}

/* Clamped gates: the limit is a field, the slope is not. */
static bool read_gate(struct config_experts *experts, const struct json_ref *root, struct err *err)
{
    double limit = 7, alpha = 1.702;
    if (!json_opt_double(root, "swiglu_limit", 0, 1e6, &limit, err) ||
        !json_opt_double(root, "swiglu_alpha", 0, 1e6, &alpha, err))
        return false;
    if (alpha != 1.702)
        return err_set(err, ERR_UNSUPPORTED, "swiglu_alpha %g; supported: 1.702", alpha);
    experts->gate = GATE_SWIGLU_CLAMPED;
    experts->gate_limit = (float)limit;
    return true;
}

bool config_read_experts(struct config *c, const struct json_ref *root, struct err *err)
{
    const struct expert_rules *rules = NULL;
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++)
        if (strcmp(RULES[i].model_type, c->model_type) == 0)
            rules = &RULES[i];
    if (rules == NULL)
        return true;
    struct config_experts *e = &c->experts;
    bool norm = !rules->asks_norm;
    *e = (struct config_experts){ .names = rules->names,
                                  .n = rules->n_default,
                                  .n_chosen = rules->chosen_default,
                                  .width = rules->width_key != NULL ? rules->width_default
                                                                    : c->intermediate,
                                  .shared_width = rules->shared_default,
                                  .transposed = rules->names == EXPERTS_GPT_OSS,
                                  .bias = rules->bias,
                                  .gate = c->gate };
    /* Old files have one name, what transformers 5 writes may have the other. */
    if (!read_count(root, "num_experts", 1, EXPERTS_MAX, &e->n, err) ||
        !read_count(root, "num_local_experts", 1, EXPERTS_MAX, &e->n, err) ||
        !read_count(root, "num_experts_per_tok", 1, EXPERTS_CHOSEN_MAX, &e->n_chosen, err) ||
        (rules->width_key != NULL &&
         !read_count(root, rules->width_key, 1, WIDTH_MAX, &e->width, err)) ||
        (rules->shared_default != 0 && !read_count(root, "shared_expert_intermediate_size", 1,
                                                   WIDTH_MAX, &e->shared_width, err)) ||
        (rules->asks_norm && !json_opt_bool(root, "norm_topk_prob", &norm, err)) ||
        (rules->clamped && !read_gate(e, root, err)) || !read_layers(c, rules, root, err))
        return false;
    e->route = norm ? ROUTE_SOFTMAX_CHOSEN : ROUTE_SOFTMAX;
    if (e->n_chosen > e->n)
        return err_set(err, ERR_FORMAT, "num_experts_per_tok %d is above the number of experts, %d",
                       e->n_chosen, e->n);
    return true;
}
