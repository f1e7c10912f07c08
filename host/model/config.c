/* config.c - config.json to struct config. A family is a row of FAMILIES (families.c); what a row
 * cannot say is refused by name. Pure; called once at start. */
#include "host/model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "host/base/json.h"
#include "host/model/families.h"

static const struct {
    const char *name;
    enum gate gate;
} GATES[] = { { "silu", GATE_SILU },
              { "swish", GATE_SILU },
              { "gelu", GATE_GELU },
              { "gelu_new", GATE_GELU_TANH },
              { "gelu_pytorch_tanh", GATE_GELU_TANH },
              { "relu2", GATE_RELU2 } };

/* Bounds that no model comes near, small enough that no product below overflows: 2^20 features,
 * 2^24 rows of vocabulary, 2^24 positions. */
enum { HEADS_MAX = 4096, HEAD_DIM_MAX = 1024, VOCAB_MAX = 1 << 24, POSITIONS_MAX = 1 << 24 };

void config_file_error(struct err *err, const char *file)
{
    if (err->code == ERR_REQUEST)
        err->code = ERR_FORMAT;
    err->field[0] = 0; /* fields are for requests; the path is in the text */
    err_prefix(err, "%s", file);
}

static bool need_count(const struct json_ref *root, const char *key, int64_t high, int32_t *value,
                       struct err *err)
{
    struct json_ref item;
    int64_t found = 0;
    if (!json_get(root, key, &item))
        return json_error(&item, err, "is missing");
    if (!json_int(&item, 1, high, &found, err))
        return false;
    *value = (int32_t)found;
    return true;
}

/* Absent or null: *value stays. */
static bool opt_count(const struct json_ref *root, const char *key, int64_t low, int64_t high,
                      int32_t *value, struct err *err)
{
    int64_t found = *value;
    if (!json_opt_int(root, key, low, high, &found, err))
        return false;
    *value = (int32_t)found;
    return true;
}

static const char *supported(char *text, size_t size, bool architectures)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t i = 0; i < N_FAMILIES; i++) {
        const char *name = architectures ? FAMILIES[i].architecture : FAMILIES[i].model_type;
        const int n = snprintf(text + used, size - used, "%s%s", i == 0 ? "" : ", ", name);
        used += (size_t)n < size - used ? (size_t)n : 0;
    }
    return text;
}

/* architectures[0] decides, as in vLLM: a model_type alone does not say what head is on top. */
static const struct family *find_family(struct config *config, const struct json_ref *root,
                                        struct err *err)
{
    const char *architecture = NULL, *model_type = NULL;
    char list[1024];
    struct json_ref names, first;
    if (json_get(root, "architectures", &names)) {
        if (!json_is_array(&names)) {
            json_error(&names, err, "must be a list");
            return NULL;
        }
        if (json_first(&names, &first) && !json_string(&first, &architecture, err))
            return NULL;
    }
    if (!json_opt_string(root, "model_type", &model_type, err))
        return NULL;
    if (architecture == NULL && model_type == NULL) {
        err_set(err, ERR_FORMAT, "neither architectures nor model_type says what the model is");
        return NULL;
    }
    const struct family *family = NULL;
    for (int32_t i = 0; i < N_FAMILIES && family == NULL; i++)
        if (architecture != NULL ? strcmp(FAMILIES[i].architecture, architecture) == 0
                                 : strcmp(FAMILIES[i].model_type, model_type) == 0)
            family = &FAMILIES[i];
    if (family == NULL) {
        err_set(err, ERR_UNSUPPORTED, "%s \"%.80s\"; supported: %s",
                architecture != NULL ? "architecture" : "model_type",
                architecture != NULL ? architecture : model_type,
                supported(list, sizeof list, architecture != NULL));
        return NULL;
    }
    if (model_type != NULL && strcmp(family->model_type, model_type) != 0) {
        err_set(err, ERR_UNSUPPORTED, "model_type \"%.80s\" with architecture \"%s\", want \"%s\"",
                model_type, family->architecture, family->model_type);
        return NULL;
    }
    snprintf(config->architecture, sizeof config->architecture, "%s", family->architecture);
    snprintf(config->model_type, sizeof config->model_type, "%s", family->model_type);
    return family;
}

static bool read_shape(struct config *c, const struct family *family, const struct json_ref *root,
                       struct err *err)
{
    if (!need_count(root, "vocab_size", VOCAB_MAX, &c->vocab, err) ||
        !need_count(root, "hidden_size", WIDTH_MAX, &c->hidden, err) ||
        !need_count(root, "intermediate_size", WIDTH_MAX, &c->intermediate, err) ||
        !need_count(root, "num_hidden_layers", LAYERS_MAX, &c->n_layers, err) ||
        !need_count(root, "num_attention_heads", HEADS_MAX, &c->n_heads, err))
        return false;
    c->n_kv_heads = c->n_heads;
    if (family->kv_heads_default != 0 && !json_is_null(root, "num_key_value_heads"))
        c->n_kv_heads = family->kv_heads_default;
    if (!opt_count(root, "num_key_value_heads", 1, HEADS_MAX, &c->n_kv_heads, err))
        return false;
    if (family->naming == NAMING_NEOX && c->n_kv_heads != c->n_heads)
        return err_set(err, ERR_UNSUPPORTED, "num_key_value_heads %d of %d heads in %s",
                       c->n_kv_heads, c->n_heads, family->model_type);
    if (c->n_heads % c->n_kv_heads != 0)
        return err_set(err, ERR_FORMAT, "num_key_value_heads %d must divide num_attention_heads %d",
                       c->n_kv_heads, c->n_heads);
    if (family->head_dim_default != 0 && !json_is_null(root, "head_dim"))
        c->head_dim = family->head_dim_default;
    if (!opt_count(root, "head_dim", 1, HEAD_DIM_MAX, &c->head_dim, err))
        return false;
    if (c->head_dim == 0 && c->hidden % c->n_heads != 0)
        return err_set(err, ERR_FORMAT,
                       "num_attention_heads %d must divide hidden_size %d (there is no head_dim)",
                       c->n_heads, c->hidden);
    if (c->head_dim == 0)
        c->head_dim = c->hidden / c->n_heads;
    if (c->head_dim > HEAD_DIM_MAX || c->head_dim % 2 != 0)
        return err_set(err, ERR_FORMAT, "head_dim %d must be even and at most %d", c->head_dim,
                       HEAD_DIM_MAX);
    if ((int64_t)c->n_heads * c->head_dim > WIDTH_MAX)
        return err_set(err, ERR_FORMAT, "num_attention_heads %d x head_dim %d is above %d",
                       c->n_heads, c->head_dim, WIDTH_MAX);
    return true;
}

static bool asked(enum bias_rule rule, bool asked_for)
{
    return rule == BIAS_ALWAYS || (rule == BIAS_ASKED && asked_for);
}

static bool read_biases(struct config *c, const struct family *family, const struct json_ref *root,
                        struct err *err)
{
    bool attention = family->bias_default, mlp = false;
    const char *key = family->bias_key != NULL ? family->bias_key : "attention_bias";
    if (!json_opt_bool(root, key, &attention, err) || !json_opt_bool(root, "mlp_bias", &mlp, err))
        return false;
    if (strcmp(key, "use_bias") == 0) /* one key for both */
        mlp = attention;
    c->qkv_bias = asked(family->qkv_bias, attention);
    c->o_bias = asked(family->o_bias, attention);
    c->mlp_bias = asked(family->mlp_bias, mlp);
    return true;
}

/* A positive factor; absent or null: *value stays. */
static bool opt_factor(const struct json_ref *root, const char *key, float *value, struct err *err)
{
    double found = (double)*value;
    if (!json_opt_double(root, key, 1e-6, 1e6, &found, err))
        return false;
    *value = (float)found;
    return true;
}

/* A soft cap: null turns the default off. */
static bool read_cap(const struct json_ref *root, const char *key, float by_default, float *cap,
                     struct err *err)
{
    *cap = json_is_null(root, key) ? 0 : by_default;
    return opt_factor(root, key, cap, err);
}

static bool read_gemma(struct config *c, const struct family *family, const struct json_ref *root,
                       struct err *err)
{
    double scalar = 256;
    bool bidirectional = false;
    if (!json_opt_double(root, "query_pre_attn_scalar", 1e-3, 1e6, &scalar, err) ||
        !read_cap(root, "attn_logit_softcapping", family->attend_cap, &c->attend_soft_cap, err) ||
        !read_cap(root, "final_logit_softcapping", family->logit_cap, &c->logit_soft_cap, err) ||
        !json_opt_bool(root, "use_bidirectional_attention", &bidirectional, err))
        return false;
    if (bidirectional)
        return err_set(err, ERR_UNSUPPORTED,
                       "use_bidirectional_attention: a token sees those before it alone");
    c->attend_scale = (float)(1 / sqrt(scalar));
    c->embed_scale = (float)sqrt(c->hidden);
    return true;
}

static bool read_granite(struct config *c, const struct json_ref *root, struct err *err)
{
    float divisor = 1;
    c->attend_scale = 1; /* not 1 / sqrt(head_dim) */
    if (!opt_factor(root, "embedding_multiplier", &c->embed_scale, err) ||
        !opt_factor(root, "residual_multiplier", &c->residual_scale, err) ||
        !opt_factor(root, "attention_multiplier", &c->attend_scale, err) ||
        !opt_factor(root, "logits_scaling", &divisor, err))
        return false;
    c->logit_scale = 1 / divisor;
    return true;
}

static bool read_scales(struct config *c, const struct family *family, const struct json_ref *root,
                        struct err *err)
{
    c->embed_scale = c->residual_scale = c->logit_scale = 1;
    c->attend_scale = (float)(1 / sqrt(c->head_dim));
    if ((family->keys & KEYS_GEMMA) && !read_gemma(c, family, root, err))
        return false;
    if ((family->keys & KEYS_GRANITE) && !read_granite(c, root, err))
        return false;
    if (family->keys & KEYS_COHERE) {
        c->logit_scale = 0.0625f;
        if (!opt_factor(root, "logit_scale", &c->logit_scale, err))
            return false;
    }
    return true;
}

static bool read_norms(struct config *c, const struct family *family, const struct json_ref *root,
                       struct err *err)
{
    double epsilon = family->epsilon != 0 ? family->epsilon : 1e-6;
    const char *key = family->epsilon_key != NULL ? family->epsilon_key : "rms_norm_eps";
    bool qk_layernorm = false, is_gain = false; /* is_gain: gguf_config.c says so, nobody else */
    if (!json_opt_double(root, key, 0, 1, &epsilon, err))
        return false;
    c->norm = family->norm;
    c->norm_epsilon = (float)epsilon;
    c->norms = family->norms;
    c->norm_bias = family->norm_bias;
    c->norm_plus_one = family->norm_plus_one;
    if (c->norm_plus_one && !json_opt_bool(root, "norm_weight_is_gain", &is_gain, err))
        return false;
    c->norm_plus_one = c->norm_plus_one && !is_gain;
    c->sub_norms = family->sub_norms;
    c->qk_norm = family->qk_norm;
    c->sinks = family->sinks;
    c->parallel = family->parallel;
    if (!(family->keys & KEYS_PARALLEL))
        return true;
    if (!json_opt_bool(root, "use_parallel_residual", &c->parallel, err) ||
        !json_opt_bool(root, "qk_layernorm", &qk_layernorm, err))
        return false;
    if (qk_layernorm) /* a layer norm with its own gain for every head */
        return err_set(err, ERR_UNSUPPORTED, "qk_layernorm of %s", family->model_type);
    if (c->parallel && c->naming == NAMING_LLAMA)
        c->norms = NORMS_SHARED;
    return true;
}

static bool read_arithmetic(struct config *c, const struct family *family,
                            const struct json_ref *root, struct err *err)
{
    const char *act = family->act != NULL ? family->act : "silu";
    const char *act_key = family->act_key != NULL ? family->act_key : "hidden_act";
    c->tied = family->tied;
    c->naming = family->naming;
    c->fused_qkv = family->fused_qkv;
    c->fused_gate = family->fused_gate;
    c->plain_mlp = family->plain_mlp;
    if (!json_opt_string(root, act_key, &act, err) ||
        !json_opt_bool(root, "tie_word_embeddings", &c->tied, err) ||
        !read_biases(c, family, root, err) || !read_norms(c, family, root, err) ||
        !read_scales(c, family, root, err))
        return false;
    for (size_t i = 0; i < sizeof GATES / sizeof *GATES; i++)
        if (strcmp(GATES[i].name, act) == 0) {
            c->gate = GATES[i].gate;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED,
                   "%s \"%.60s\"; supported: silu, swish, gelu, gelu_new, gelu_pytorch_tanh, "
                   "relu2",
                   act_key, act);
}

/* ---- windows ----------------------------------------------------------------------------------
 */

/* layer_types (transformers 5): wins over max_window_layers, and must not contradict the rest. */
static bool read_layer_types(struct config *c, const struct family *family,
                             const struct json_ref *types, int32_t window, struct err *err)
{
    struct json_ref item;
    if (!json_is_array(types) || json_count(types) != c->n_layers)
        return json_error(types, err, "must be a list of num_hidden_layers = %d names",
                          c->n_layers);
    int32_t l = 0;
    for (bool more = json_first(types, &item); more; more = json_next(&item), l++) {
        const char *name = NULL;
        if (!json_string(&item, &name, err))
            return false;
        const bool sliding = strcmp(name, "sliding_attention") == 0;
        if (!sliding && strcmp(name, "full_attention") != 0) {
            char path[64];
            return err_set(err, ERR_UNSUPPORTED,
                           "%s \"%.60s\"; supported: full_attention, sliding_attention",
                           json_path(&item, path, sizeof path), name);
        }
        if (sliding && window == 0)
            return json_error(&item, err, "is sliding_attention, but there is no sliding_window");
        if (family->window == WINDOW_EVERY && !sliding && window != 0)
            return json_error(&item, err, "is full_attention, but sliding_window is %d", window);
        c->layers[l].window = sliding ? window : 0;
    }
    return true;
}

/* Which layers have rope, and which. Before the windows: smollm3's ask. */
static bool read_rope_layers(struct config *c, const struct family *family,
                             const struct json_ref *root, struct err *err)
{
    int32_t interval = 4;
    struct json_ref list, item;
    if (family->rope_rule != ROPE_LISTED)
        return true;
    if (!opt_count(root, "no_rope_layer_interval", 1, LAYERS_MAX, &interval, err))
        return false;
    for (int32_t l = 0; l < c->n_layers; l++)
        c->layers[l].rope = (l + 1) % interval == 0 ? LAYER_ROPE_NONE : LAYER_ROPE;
    if (!json_get(root, "no_rope_layers", &list))
        return true;
    if (!json_is_array(&list) || json_count(&list) != c->n_layers)
        return json_error(&list, err, "must be a list of num_hidden_layers = %d numbers",
                          c->n_layers);
    int32_t l = 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item), l++) {
        int64_t rotated = 1;
        if (!json_int(&item, 0, 1, &rotated, err))
            return false;
        c->layers[l].rope = rotated ? LAYER_ROPE : LAYER_ROPE_NONE;
    }
    return true;
}

static bool read_window(const struct family *family, const struct json_ref *root, int32_t *window,
                        int32_t *first, int32_t *pattern, struct err *err)
{
    bool use = family->window == WINDOW_EVERY || family->window == WINDOW_PATTERN;
    *window = *first = 0;
    *pattern = family->pattern_default;
    if (family->window == WINDOW_NONE)
        return true;
    if (!json_is_null(root, "sliding_window"))
        *window = family->window_default;
    if (!opt_count(root, "sliding_window", 0, INT32_MAX, window, err))
        return false;
    if (family->window == WINDOW_PATTERN &&
        (!opt_count(root, "_sliding_window_pattern", 1, INT32_MAX, pattern, err) ||
         !opt_count(root, "sliding_window_pattern", 1, INT32_MAX, pattern, err)))
        return false;
    if (family->window == WINDOW_UPPER) {
        *first = 28; /* Qwen2Config's default */
        if (!opt_count(root, "max_window_layers", 0, INT32_MAX, first, err))
            return false;
    }
    if ((family->window == WINDOW_UPPER || family->window == WINDOW_NO_ROPE) &&
        !json_opt_bool(root, "use_sliding_window", &use, err))
        return false;
    if (!use)
        *window = 0;
    return true;
}

static bool read_windows(struct config *c, const struct family *family, const struct json_ref *root,
                         struct err *err)
{
    int32_t window, first, pattern;
    struct json_ref types;
    if (!read_window(family, root, &window, &first, &pattern, err))
        return false;
    for (int32_t l = 0; l < c->n_layers; l++) {
        bool sliding = l >= first;
        if (family->window == WINDOW_PATTERN)
            sliding = (l + 1) % pattern != 0;
        else if (family->window == WINDOW_NO_ROPE)
            sliding = c->layers[l].rope == LAYER_ROPE_NONE;
        c->layers[l].window = sliding ? window : 0;
    }
    if (json_get(root, "layer_types", &types) && !read_layer_types(c, family, &types, window, err))
        return false;
    for (int32_t l = 0; l < c->n_layers; l++) {
        struct config_layer *layer = &c->layers[l];
        if (family->rope_rule == ROPE_LOCAL && layer->window != 0)
            layer->rope = LAYER_ROPE_LOCAL;
        else if (family->rope_rule == ROPE_SLIDING && layer->window == 0)
            layer->rope = LAYER_ROPE_NONE;
    }
    return true;
}

/* Layers that look back equally far share a group: two of them, as a config has one window. */
static void group_layers(struct config *c)
{
    for (int32_t l = 0; l < c->n_layers; l++) {
        struct config_layer *layer = &c->layers[l];
        int32_t g = 0;
        while (g < c->n_kv_groups && c->windows[g] != layer->window)
            g++;
        CHECK(g < KV_GROUPS_MAX);
        if (g == c->n_kv_groups) {
            c->windows[g] = layer->window;
            c->n_kv_groups++;
        }
        layer->kv_group = g;
        layer->kv_layer = c->group_layers[g]++;
    }
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

bool config_read_eos(const struct json_ref *root, int32_t vocab, int32_t *eos, int32_t *n_eos,
                     struct err *err)
{
    struct json_ref value, item;
    if (!json_get(root, "eos_token_id", &value))
        return true;
    const bool list = json_is_array(&value);
    if (list && !json_first(&value, &item))
        return true;
    bool more = true;
    for (item = list ? item : value; more; more = list && json_next(&item)) {
        int64_t id = -1;
        if (!json_int(&item, -1, vocab - 1, &id, err))
            return false;
        bool known = id < 0;
        for (int32_t i = 0; i < *n_eos; i++)
            known = known || eos[i] == id;
        if (known)
            continue;
        if (*n_eos == CONFIG_EOS_MAX)
            return json_error(&value, err, "has more than %d ids", CONFIG_EOS_MAX);
        eos[(*n_eos)++] = (int32_t)id;
    }
    return true;
}

static enum dtype read_dtype(const struct json_ref *root)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = { { "bfloat16", DTYPE_BF16 }, { "float16", DTYPE_F16 }, { "float32", DTYPE_F32 } };
    struct err ignored;
    const char *name = NULL;
    struct json_ref item;
    if ((!json_get(root, "dtype", &item) && !json_get(root, "torch_dtype", &item)) ||
        !json_string(&item, &name, &ignored))
        return DTYPE_NONE;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, name) == 0)
            return names[i].dtype;
    return DTYPE_NONE; /* "auto"; each tensor says its own */
}

static bool read_ropes(struct config *c, const struct family *family, const struct json_ref *root,
                       int32_t positions, struct err *err)
{
    if (!rope_read(&c->rope, root, &family->rope, ROPE_LAYERS_FULL, c->head_dim, positions, err))
        return false;
    return family->rope_rule != ROPE_LOCAL ||
           rope_read(&c->rope_local, root, &family->rope, ROPE_LAYERS_SLIDING, c->head_dim,
                     positions, err);
}

static bool read_root(struct config *c, const struct json_ref *root, struct err *err)
{
    if (!json_is_object(root))
        return err_set(err, ERR_FORMAT, "must be an object");
    const struct family *family = find_family(c, root, err);
    if (family == NULL || !quant_spec_read(&c->quant, root, err) ||
        !quant_spec_check(&c->quant, err))
        return false;
    int32_t positions = family->positions_default;
    if (!read_shape(c, family, root, err) || !read_arithmetic(c, family, root, err) ||
        !opt_count(root, "max_position_embeddings", 1, POSITIONS_MAX, &positions, err) ||
        !read_ropes(c, family, root, positions, err) || !read_rope_layers(c, family, root, err) ||
        !read_windows(c, family, root, err) ||
        !opt_count(root, "bos_token_id", -1, c->vocab - 1, &c->bos, err) ||
        !config_read_eos(root, c->vocab, c->eos, &c->n_eos, err) ||
        !config_read_experts(c, root, err))
        return false;
    group_layers(c);
    rope_positions(&c->rope, positions, &c->ctx, &c->ctx_limit);
    c->dtype = read_dtype(root);
    return true;
}

bool config_read(struct config *config, const char *json, size_t length, struct err *err)
{
    *config = (struct config){ .bos = -1 };
    struct cJSON *tree = NULL;
    bool ok = json_parse(json, length, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err);
    if (ok) {
        const struct json_ref root = json_root(tree);
        ok = read_root(config, &root, err);
    }
    json_free(tree);
    if (!ok) {
        config_file_error(err, "config.json");
        quant_spec_clear(&config->quant);
    }
    return ok;
}

bool config_read_quantize(struct config *config, const char *name, const char *json, size_t length,
                          struct err *err)
{
    struct cJSON *tree = NULL;
    if (config->quant.method != QUANT_NONE)
        return true;
    bool ok = json_parse(json, length, &JSON_FILE_LIMITS, ERR_FORMAT, &tree, err);
    if (ok) {
        struct json_ref root = json_root(tree), inner;
        const bool modelopt = strcmp(name, "hf_quant_config.json") == 0;
        const char *method = modelopt                                 ? "modelopt"
                             : strcmp(name, "quant_config.json") == 0 ? "awq"
                                                                      : "gptq";
        if (!modelopt)
            ok = quant_spec_read_object(&config->quant, &root, name, method, err);
        else if (json_is_object(&root) && json_get(&root, "quantization", &inner))
            ok = quant_spec_read_object(&config->quant, &inner, name, method, err);
        ok = ok && quant_spec_check(&config->quant, err);
    }
    json_free(tree);
    if (!ok) {
        config_file_error(err, name);
        quant_spec_clear(&config->quant);
    }
    return ok;
}

void config_clear(struct config *config)
{
    quant_spec_clear(&config->quant);
}
