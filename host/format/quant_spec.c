/* quant_spec.c - reads quantization_config into a struct quant_spec, and says what can be loaded.
 *
 * Keys by method (aliases as found in published checkpoints): formats page of the design, sections
 * 2 to 7. Only the first group of compressed-tensors' config_groups is summed up here: a struct for
 * several comes with the reader of such files. Pure; called by host/model at start. */
#include "host/format/quant_spec.h"

#include <stdio.h>
#include <string.h>

enum { GROUP_MAX = 1 << 20 };

struct method {
    const char *name; /* quant_method */
    enum quant_method method;
    const char *title;   /* as the messages call such checkpoints */
    int32_t bits, group; /* what the method implies when the config does not say */
};
static const struct method METHODS[] = {
    { "gptq", QUANT_GPTQ, "GPTQ", 0, 0 },
    { "awq", QUANT_AWQ, "AWQ", 4, 0 },
    { "compressed-tensors", QUANT_COMPRESSED_TENSORS, "compressed-tensors", 0, 0 },
    { "fp8", QUANT_FP8, "FP8", 8, 0 },
    { "fbgemm_fp8", QUANT_FBGEMM_FP8, "FBGEMM FP8", 8, -1 },
    { "bitsandbytes", QUANT_BITSANDBYTES, "bitsandbytes", 0, 0 },
    { "bitnet", QUANT_BITNET, "BitNet", 2, 0 },
    { "mxfp4", QUANT_MXFP4, "MXFP4", 4, 32 },
    { "modelopt", QUANT_MODELOPT, "ModelOpt", 0, 0 },
    { "hqq", QUANT_HQQ, "HQQ", 0, 0 },
    { "auto-round", QUANT_AUTO_ROUND, "AutoRound", 0, 0 },
    { "intel/auto-round", QUANT_AUTO_ROUND, "AutoRound", 0, 0 },
    { "torchao", QUANT_TORCHAO, "torchao", 0, 0 },
    { "quanto", QUANT_QUANTO, "quanto", 0, 0 },
    { "aqlm", QUANT_AQLM, "AQLM", 0, 0 },
    { "eetq", QUANT_EETQ, "EETQ", 8, -1 },
};

static const struct method *find_method(const char *name)
{
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (strcmp(METHODS[i].name, name) == 0)
            return &METHODS[i];
    return NULL;
}

/* The first of `keys` that is there, as an integer; *value stays when none is. */
static bool read_count(const struct json_ref *object, const char *const keys[], int64_t low,
                       int64_t high, int32_t *value, struct err *err)
{
    struct json_ref member;
    for (int32_t i = 0; keys[i] != NULL; i++) {
        if (!json_get(object, keys[i], &member))
            continue;
        int64_t found = 0;
        if (!json_int(&member, low, high, &found, err)) {
            char path[128];
            return err_set(err, ERR_FORMAT, "%s must be an integer from %lld to %lld",
                           json_path(&member, path, sizeof path), (long long)low, (long long)high);
        }
        *value = (int32_t)found;
        return true;
    }
    return true;
}

static bool read_flag(const struct json_ref *object, const char *key, bool *value, struct err *err)
{
    struct json_ref member;
    if (!json_get(object, key, &member) || json_bool(&member, value, err))
        return true;
    char path[128];
    return err_set(err, ERR_FORMAT, "%s must be true or false",
                   json_path(&member, path, sizeof path));
}

static const char *const BITS_KEYS[] = { "bits", "w_bit", "wbits", "nbits", "num_bits", NULL };
static const char *const GROUP_KEYS[] = { "group_size", "q_group_size", NULL };

static bool read_figures(const struct json_ref *object, struct quant_spec *spec, struct err *err)
{
    bool zero_point = !spec->symmetric;
    if (!read_count(object, BITS_KEYS, 1, 16, &spec->bits, err) ||
        !read_count(object, GROUP_KEYS, -1, GROUP_MAX, &spec->group, err) ||
        !read_flag(object, "sym", &spec->symmetric, err) ||
        !read_flag(object, "symmetric", &spec->symmetric, err) ||
        !read_flag(object, "zero_point", &zero_point, err))
        return false;
    if (spec->method == QUANT_AWQ)
        spec->symmetric = !zero_point;
    return true;
}

/* config_groups: { "group_0": { "weights": { num_bits, group_size, strategy, symmetric } } } */
static bool read_config_groups(const struct json_ref *object, struct quant_spec *spec,
                               struct err *err)
{
    struct json_ref groups, group, weights, strategy;
    if (!json_get(object, "config_groups", &groups) || !json_is_object(&groups) ||
        !json_first(&groups, &group) || !json_is_object(&group) ||
        !json_get(&group, "weights", &weights) || !json_is_object(&weights))
        return true; /* presets, sparsity only: the method alone is what there is to say */
    if (!read_figures(&weights, spec, err))
        return false;
    const char *text = NULL;
    if (json_get(&weights, "strategy", &strategy) && json_is_string(&strategy) &&
        json_string(&strategy, &text, err) && strcmp(text, "channel") == 0)
        spec->group = -1;
    return true;
}

/* bitsandbytes states its width as two flags, and its 4-bit block of 64 not at all. */
static bool read_bitsandbytes(const struct json_ref *object, struct quant_spec *spec,
                              struct err *err)
{
    bool four = false, eight = false;
    if (!read_flag(object, "load_in_4bit", &four, err) ||
        !read_flag(object, "_load_in_4bit", &four, err) ||
        !read_flag(object, "load_in_8bit", &eight, err) ||
        !read_flag(object, "_load_in_8bit", &eight, err))
        return false;
    if (four || eight) {
        spec->bits = four ? 4 : 8;
        spec->group = four ? 64 : -1;
    }
    return true;
}

/* quant_method, or what older writers left it to be guessed from. NULL: it cannot be known. */
static const char *method_name(const struct json_ref *object, const char *key, struct err *err)
{
    struct json_ref member;
    const char *name = NULL;
    if (json_get(object, "quant_method", &member))
        return json_is_string(&member) && json_string(&member, &name, err) ? name : NULL;
    if (strcmp(key, "compression_config") == 0)
        return "compressed-tensors";
    if (json_get(object, "load_in_4bit", &member) || json_get(object, "load_in_8bit", &member))
        return "bitsandbytes";
    return NULL;
}

bool quant_spec_read(struct quant_spec *spec, const struct json_ref *config, struct err *err)
{
    static const char *const KEYS[] = { "quantization_config", "compression_config" };
    *spec = (struct quant_spec){ .symmetric = true };
    struct json_ref object;
    const char *key = NULL;
    for (size_t i = 0; key == NULL && i < sizeof KEYS / sizeof *KEYS; i++)
        if (json_get(config, KEYS[i], &object))
            key = KEYS[i];
    if (key == NULL)
        return true;
    if (!json_is_object(&object))
        return err_set(err, ERR_FORMAT, "%s must be an object", key);
    const char *name = method_name(&object, key, err);
    if (name == NULL || *name == 0)
        return err_set(err, ERR_FORMAT, "%s.quant_method must name the scheme", key);

    const struct method *method = find_method(name);
    snprintf(spec->name, sizeof spec->name, "%s", name);
    for (char *c = spec->name; *c != 0; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
    spec->key = key;
    if (method == NULL) {
        spec->method = QUANT_OTHER;
        return true; /* its keys may mean anything */
    }
    spec->method = method->method;
    spec->bits = method->bits;
    spec->group = method->group;
    bool ok = read_figures(&object, spec, err);
    if (ok && spec->method == QUANT_COMPRESSED_TENSORS)
        ok = read_config_groups(&object, spec, err);
    if (ok && spec->method == QUANT_BITSANDBYTES)
        ok = read_bitsandbytes(&object, spec, err);
    if (!ok)
        *spec = (struct quant_spec){ .symmetric = true };
    return ok;
}

bool quant_spec_check(const struct quant_spec *spec, struct err *err)
{
    if (spec->method == QUANT_NONE)
        return true;
    if (spec->method == QUANT_OTHER)
        return err_set(err, ERR_UNSUPPORTED,
                       "%s.quant_method \"%s\": unknown quantization scheme; take the unquantized "
                       "checkpoint, and --weights int4 or int8",
                       spec->key, spec->name);
    char figures[96] = "";
    int used = 0;
    if (spec->bits != 0)
        used = snprintf(figures, sizeof figures, " (%d bits%s", spec->bits,
                        spec->symmetric ? "" : ", asymmetric");
    if (used > 0 && spec->group > 0)
        used +=
            snprintf(figures + used, sizeof figures - (size_t)used, ", groups of %d", spec->group);
    if (used > 0)
        snprintf(figures + used, sizeof figures - (size_t)used, ")");
    const char *title = spec->name;
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (METHODS[i].method == spec->method)
            title = METHODS[i].title;
    return err_set(
        err, ERR_UNSUPPORTED,
        "%s.quant_method \"%s\"%s: reading %s checkpoints is not supported yet; take the "
        "unquantized checkpoint, and --weights int4 or int8",
        spec->key, spec->name, figures, title);
}
