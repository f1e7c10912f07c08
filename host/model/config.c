/* config.c - config.json to struct config. A family is a row of FAMILIES; what a row cannot say is
 * refused by name.
 *
 * Defaults of absent keys are those of transformers' configuration classes, since its files leave
 * out what equals the default. Pure; called once at start. */
#include "host/model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "host/base/json.h"

enum bias_rule { BIAS_NEVER, BIAS_ALWAYS, BIAS_ASKED /* by attention_bias, mlp_bias */ };
enum window_rule {
    WINDOW_NONE,
    WINDOW_EVERY, /* sliding_window holds in every layer */
    WINDOW_UPPER, /* use_sliding_window; from max_window_layers on, or as layer_types says */
};
struct family {
    const char *architecture, *model_type;
    enum bias_rule qkv_bias, o_bias, mlp_bias;
    bool qk_norm;
    enum window_rule window;
    int32_t window_default;    /* absent sliding_window (null is none) */
    int32_t kv_heads_default;  /* absent num_key_value_heads; 0: n_heads */
    int32_t head_dim_default;  /* absent head_dim; 0: hidden / n_heads */
    int32_t positions_default; /* absent max_position_embeddings */
};
static const struct family FAMILIES[] = {
    { "LlamaForCausalLM", "llama", BIAS_ASKED, BIAS_ASKED, BIAS_ASKED, false, WINDOW_NONE, 0, 0, 0,
      2048 },
    { "MistralForCausalLM", "mistral", BIAS_NEVER, BIAS_NEVER, BIAS_NEVER, false, WINDOW_EVERY,
      4096, 8, 0, 131072 },
    { "Qwen2ForCausalLM", "qwen2", BIAS_ALWAYS, BIAS_NEVER, BIAS_NEVER, false, WINDOW_UPPER, 4096,
      32, 0, 32768 },
    { "Qwen3ForCausalLM", "qwen3", BIAS_ASKED, BIAS_ASKED, BIAS_NEVER, true, WINDOW_UPPER, 4096, 32,
      128, 32768 },
    { "MixtralForCausalLM", "mixtral", BIAS_NEVER, BIAS_NEVER, BIAS_NEVER, false, WINDOW_EVERY, 0,
      8, 0, 131072 },
    { "Qwen2MoeForCausalLM", "qwen2_moe", BIAS_ALWAYS, BIAS_NEVER, BIAS_NEVER, false, WINDOW_UPPER,
      4096, 16, 0, 32768 },
    { "Qwen3MoeForCausalLM", "qwen3_moe", BIAS_ASKED, BIAS_ASKED, BIAS_NEVER, true, WINDOW_UPPER,
      4096, 4, 0, 32768 },
};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

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
    for (size_t i = 0; i < N_FAMILIES; i++) {
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
    char list[256];
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
    for (size_t i = 0; i < N_FAMILIES && family == NULL; i++)
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

static bool read_arithmetic(struct config *c, const struct family *family,
                            const struct json_ref *root, struct err *err)
{
    double epsilon = 1e-6;
    const char *act = "silu";
    bool attention_bias = false, mlp_bias = false;
    if (!json_opt_double(root, "rms_norm_eps", 0, 1, &epsilon, err) ||
        !json_opt_string(root, "hidden_act", &act, err) ||
        !json_opt_bool(root, "attention_bias", &attention_bias, err) ||
        !json_opt_bool(root, "mlp_bias", &mlp_bias, err) ||
        !json_opt_bool(root, "tie_word_embeddings", &c->tied, err))
        return false;
    c->norm = NORM_RMS;
    c->norm_epsilon = (float)epsilon;
    c->qk_norm = family->qk_norm;
    c->qkv_bias = family->qkv_bias == BIAS_ALWAYS || (family->qkv_bias && attention_bias);
    c->o_bias = family->o_bias == BIAS_ALWAYS || (family->o_bias && attention_bias);
    c->mlp_bias = family->mlp_bias == BIAS_ALWAYS || (family->mlp_bias && mlp_bias);
    c->embed_scale = c->residual_scale = c->logit_scale = 1;
    c->attend_scale = (float)(1 / sqrt(c->head_dim));
    for (size_t i = 0; i < sizeof GATES / sizeof *GATES; i++)
        if (strcmp(GATES[i].name, act) == 0) {
            c->gate = GATES[i].gate;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED,
                   "hidden_act \"%.60s\"; supported: silu, swish, gelu, gelu_new, "
                   "gelu_pytorch_tanh, relu2",
                   act);
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

static bool read_windows(struct config *c, const struct family *family, const struct json_ref *root,
                         struct err *err)
{
    int32_t window = 0, first = 0;
    bool use = family->window == WINDOW_EVERY;
    struct json_ref types;
    if (family->window != WINDOW_NONE) {
        if (!json_is_null(root, "sliding_window"))
            window = family->window_default;
        if (!opt_count(root, "sliding_window", 0, INT32_MAX, &window, err))
            return false;
    }
    if (family->window == WINDOW_UPPER) {
        first = 28; /* Qwen2Config's default */
        if (!json_opt_bool(root, "use_sliding_window", &use, err) ||
            !opt_count(root, "max_window_layers", 0, INT32_MAX, &first, err))
            return false;
    }
    if (!use)
        window = 0;
    for (int32_t l = 0; l < c->n_layers; l++)
        c->layers[l].window = l >= first ? window : 0;
    if (json_get(root, "layer_types", &types))
        return read_layer_types(c, family, &types, window, err);
    return true;
}

/* Layers that look back equally far share a group. */
static bool group_layers(struct config *c, struct err *err)
{
    for (int32_t l = 0; l < c->n_layers; l++) {
        struct config_layer *layer = &c->layers[l];
        int32_t g = 0;
        while (g < c->n_kv_groups && c->windows[g] != layer->window)
            g++;
        if (g == KV_GROUPS_MAX)
            return err_set(err, ERR_UNSUPPORTED, "more than %d different attention windows",
                           KV_GROUPS_MAX);
        if (g == c->n_kv_groups) {
            c->windows[g] = layer->window;
            c->n_kv_groups++;
        }
        layer->kv_group = g;
        layer->kv_layer = c->group_layers[g]++;
    }
    return true;
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
        !json_is_string(&item) || !json_string(&item, &name, &ignored))
        return DTYPE_NONE;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, name) == 0)
            return names[i].dtype;
    return DTYPE_NONE; /* "auto"; each tensor says its own */
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
        !rope_read(&c->rope, root, c->head_dim, positions, err) ||
        !read_windows(c, family, root, err) || !group_layers(c, err) ||
        !opt_count(root, "bos_token_id", -1, c->vocab - 1, &c->bos, err) ||
        !config_read_eos(root, c->vocab, c->eos, &c->n_eos, err) ||
        !config_read_experts(c, root, err))
        return false;
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
    if (!ok)
        config_file_error(err, "config.json");
    return ok;
}
