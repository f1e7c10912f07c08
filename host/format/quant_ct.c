/* quant_ct.c - the quantization config of compressed-tensors.
 *
 *   { "config_groups": { "group_0": { "targets": [..], "format": "pack-quantized",
 *                          "weights": { num_bits, type, symmetric, strategy, group_size,
 *                                       block_structure, actorder },
 *                          "input_activations": { num_bits, type, strategy, dynamic, .. } | null },
 *                        "W4A16": [targets] },                            a preset by its name
 *     "ignore": [..], "format": "pack-quantized" | "mixed-precision", "sparsity_config": {..} }
 *
 * Source: vllm-project/compressed-tensors quantization/{quant_config,quant_scheme}.py. Rules in the
 * order in which they count: what is ignored, targets by name, targets by class. */
#include "host/format/quant_rules.h"

#include <stdio.h>
#include <string.h>

/* num_bits and the like of one "weights" or "input_activations". */
struct args {
    int32_t bits, group; /* group 0: not stated */
    bool is_float, symmetric;
    int32_t dynamic; /* 0: false, 1: true, 2: "local" */
    const char *strategy;
    int32_t block_rows, block_cols;
};

/* [rows, cols], or the older text "128x128". */
static bool read_block(const struct json_ref *object, struct args *args, struct err *err)
{
    struct json_ref block, item;
    char path[128];
    if (!json_get(object, "block_structure", &block))
        return true;
    int64_t sides[2] = { 0, 0 };
    int32_t n = 0;
    const char *text = NULL;
    bool ok = true;
    if (json_is_string(&block)) {
        int rows, cols;
        ok = json_string(&block, &text, err) && sscanf(text, "%6dx%6d", &rows, &cols) == 2;
        if (ok) {
            sides[0] = rows;
            sides[1] = cols;
            n = 2;
        }
    } else if (json_is_array(&block)) {
        bool more = json_first(&block, &item);
        for (; more && ok && n < 2; more = json_next(&item))
            ok = json_int(&item, 1, 1 << 20, &sides[n++], err);
        ok = ok && !more;
    }
    if (!ok || n != 2 || sides[0] < 1 || sides[1] < 1)
        return err_set(err, ERR_FORMAT, "%s must be [rows, columns]",
                       json_path(&block, path, sizeof path));
    args->block_rows = (int32_t)sides[0];
    args->block_cols = (int32_t)sides[1];
    return true;
}

static bool read_args(const struct json_ref *object, struct args *args, struct err *err)
{
    struct json_ref dynamic;
    const char *type = quant_text(object, "type");
    *args = (struct args){ .bits = 8, .symmetric = true };
    args->is_float = type != NULL && strcmp(type, "float") == 0;
    args->strategy = quant_text(object, "strategy");
    if (!quant_read_count(object, QUANT_BITS_KEYS, 1, 16, &args->bits, err) ||
        !quant_read_count(object, QUANT_GROUP_KEYS, -1, 1 << 20, &args->group, err) ||
        !quant_read_flag(object, "symmetric", &args->symmetric, err) ||
        !read_block(object, args, err))
        return false;
    if (json_get(object, "dynamic", &dynamic)) {
        bool flag = false;
        if (json_bool(&dynamic, &flag, err))
            args->dynamic = flag;
        else
            args->dynamic = 2;
    }
    if (args->strategy == NULL)
        args->strategy = args->group == 0 ? "tensor" : args->group < 0 ? "channel" : "group";
    if (strcmp(args->strategy, "channel") == 0 || strcmp(args->strategy, "tensor") == 0)
        args->group = -1;
    return true;
}

/* How inputs are quantized; what we do not do (static int8, asymmetric ones) stays exact. */
static enum act_scheme act_of(const struct args *args)
{
    const char *strategy = args->strategy;
    const bool token = strcmp(strategy, "token") == 0, tensor = strcmp(strategy, "tensor") == 0;
    if (!args->is_float && args->bits == 8 && args->symmetric && token && args->dynamic != 0)
        return ACT_INT8_TOKEN;
    if (args->is_float && args->bits == 8) {
        if (token)
            return ACT_FP8_TOKEN;
        if (tensor && args->dynamic == 0)
            return ACT_FP8_TENSOR;
        if (strcmp(strategy, "group") == 0 && args->group == 128)
            return ACT_FP8_BLOCK;
    }
    if (args->is_float && args->bits == 4 && args->group == 16)
        return ACT_NVFP4;
    return ACT_EXACT;
}

static enum packing packing_of_format(const char *format, const struct args *weights)
{
    if (format == NULL || strcmp(format, "mixed-precision") == 0)
        format = "";
    if (strcmp(format, "pack-quantized") == 0)
        return PACKING_CT_PACK;
    if (strcmp(format, "int-quantized") == 0)
        return PACKING_CT_INT;
    if (strcmp(format, "float-quantized") == 0)
        return PACKING_FP8;
    if (strcmp(format, "nvfp4-pack-quantized") == 0)
        return PACKING_NVFP4;
    if (strcmp(format, "mxfp4-pack-quantized") == 0)
        return PACKING_MXFP4;
    if (*format == 0 || strcmp(format, "naive-quantized") == 0 ||
        strcmp(format, "mxfp8-quantized") == 0) {
        if (weights->is_float && weights->bits == 8)
            return PACKING_FP8;
        if (weights->is_float && weights->bits == 4)
            return weights->group == 32 ? PACKING_MXFP4 : PACKING_NVFP4;
        if (!weights->is_float && *format == 0)
            return PACKING_CT_PACK;
        return weights->is_float ? PACKING_NONE : PACKING_CT_INT;
    }
    return PACKING_NONE;
}

static bool add_targets(struct quant_spec *spec, const struct json_ref *targets, int32_t scheme,
                        bool classes, struct err *err)
{
    struct json_ref item;
    char path[128];
    if (!json_is_array(targets))
        return err_set(err, ERR_FORMAT, "%s must be a list of targets",
                       json_path(targets, path, sizeof path));
    for (bool more = json_first(targets, &item); more; more = json_next(&item)) {
        const char *text = NULL;
        if (!json_string(&item, &text, err))
            return err_set(err, ERR_FORMAT, "%s must be text", json_path(&item, path, sizeof path));
        const bool regex = strncmp(text, "re:", 3) == 0;
        const bool linear = strcmp(text, "Linear") == 0;
        if (linear != classes)
            continue;
        const enum quant_match match = linear ? MATCH_LINEAR : regex ? MATCH_REGEX : MATCH_NAME;
        if (!quant_rule_add(spec, match, regex ? text + 3 : text, scheme, err))
            return false;
    }
    return true;
}

static const struct {
    const char *name;
    struct args weights, inputs; /* inputs.bits 0: none */
} PRESETS[] = {
    { "W8A16", { 8, -1, false, true, 0, "channel", 0, 0 }, { 0 } },
    { "W4A16", { 4, 128, false, true, 0, "group", 0, 0 }, { 0 } },
    { "W4A16_ASYM", { 4, 128, false, false, 0, "group", 0, 0 }, { 0 } },
    { "W8A8", { 8, -1, false, true, 0, "channel", 0, 0 }, { 8, 0, false, true, 1, "token", 0, 0 } },
    { "INT8", { 8, -1, false, true, 0, "channel", 0, 0 }, { 8, 0, false, true, 1, "token", 0, 0 } },
    { "FP8", { 8, -1, true, true, 0, "tensor", 0, 0 }, { 8, 0, true, true, 0, "tensor", 0, 0 } },
    { "FP8_DYNAMIC",
      { 8, -1, true, true, 0, "channel", 0, 0 },
      { 8, 0, true, true, 1, "token", 0, 0 } },
    { "FP8_BLOCK",
      { 8, 0, true, true, 0, "block", 128, 128 },
      { 8, 128, true, true, 1, "group", 0, 0 } },
    { "NVFP4A16", { 4, 16, true, true, 0, "tensor_group", 0, 0 }, { 0 } },
    { "NVFP4",
      { 4, 16, true, true, 0, "tensor_group", 0, 0 },
      { 4, 16, true, true, 2, "tensor_group", 0, 0 } },
    { "MXFP4A16", { 4, 32, true, true, 0, "group", 0, 0 }, { 0 } },
};

static void set_scheme(struct quant_spec *spec, int32_t index, const struct args *weights,
                       const struct args *inputs, const char *format)
{
    struct quant_scheme *scheme = &spec->schemes[index];
    *scheme = (struct quant_scheme){ .packing = packing_of_format(format, weights),
                                     .bits = weights->bits,
                                     .group = weights->group,
                                     .symmetric = weights->symmetric };
    if (inputs->bits != 0)
        scheme->act.scheme = act_of(inputs);
    if (strcmp(weights->strategy, "block") == 0) {
        scheme->block_rows = weights->block_rows;
        scheme->block_cols = weights->block_cols;
        scheme->group = 0;
    }
    scheme->divide = scheme->packing == PACKING_NVFP4;
    if (scheme->packing == PACKING_NONE)
        quant_refuse(spec,
                     "format \"%.60s\" with %d-bit %s weights is not supported; take a checkpoint "
                     "in pack-quantized, int-quantized, float-quantized, nvfp4-pack-quantized or "
                     "mxfp4-pack-quantized",
                     format == NULL ? "" : format, weights->bits,
                     weights->is_float ? "float" : "integer");
    if (spec->bits == 0) { /* what messages call the whole checkpoint: its first group */
        spec->bits = weights->bits;
        spec->group = weights->group;
        spec->symmetric = weights->symmetric;
    }
}

/* One entry of config_groups: the index of its scheme, -1 when it is not about weights. */
static bool read_group(struct quant_spec *spec, const struct json_ref *group, const char *format,
                       int32_t *scheme, struct err *err)
{
    struct json_ref member;
    struct args weights, inputs = { 0 };
    *scheme = -1;
    if (json_is_object(group)) {
        if (!json_get(group, "weights", &member) || !json_is_object(&member))
            return true; /* activations alone, such as the keys and values of attention */
        if (!read_args(&member, &weights, err))
            return false;
        if (json_get(group, "input_activations", &member) && json_is_object(&member) &&
            !read_args(&member, &inputs, err))
            return false;
        const char *own = quant_text(group, "format");
        format = own != NULL ? own : format;
    } else {
        size_t i = 0;
        while (i < sizeof PRESETS / sizeof *PRESETS && strcmp(PRESETS[i].name, group->key) != 0)
            i++;
        if (i == sizeof PRESETS / sizeof *PRESETS) {
            quant_refuse(spec, "preset \"%.40s\" is not known; write it out as a config group",
                         group->key);
            return true;
        }
        weights = PRESETS[i].weights;
        inputs = PRESETS[i].inputs;
    }
    *scheme = quant_scheme_add(spec, err);
    if (*scheme < 0)
        return false;
    set_scheme(spec, *scheme, &weights, &inputs, format);
    return true;
}

static bool read_groups(struct quant_spec *spec, const struct json_ref *groups, const char *format,
                        struct err *err)
{
    int32_t schemes[QUANT_SCHEMES_MAX], n = 0; /* of each group; -1: it is not about weights */
    struct json_ref group, targets;
    for (bool more = json_first(groups, &group); more; more = json_next(&group)) {
        if (n == QUANT_SCHEMES_MAX)
            return err_set(err, ERR_UNSUPPORTED, "%s.config_groups: more than %d", spec->key,
                           QUANT_SCHEMES_MAX);
        if (!read_group(spec, &group, format, &schemes[n++], err))
            return false;
    }
    for (int classes = 0; classes < 2; classes++) { /* a name beats a class, whatever its group */
        int32_t i = 0;
        for (bool more = json_first(groups, &group); more; more = json_next(&group), i++) {
            if (schemes[i] < 0)
                continue;
            if (!json_is_object(&group))
                targets = group;
            else if (!json_get(&group, "targets", &targets))
                continue;
            if (!add_targets(spec, &targets, schemes[i], classes, err))
                return false;
        }
    }
    return true;
}

bool quant_read_ct(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    struct json_ref groups, sparsity, transform;
    const char *format = quant_text(object, "format");
    spec->rules_only = true;
    if (format != NULL && strcmp(format, "marlin-24") == 0)
        quant_refuse(spec, "format \"marlin-24\" is shuffled for one GPU kernel and half of it is "
                           "left out; take the checkpoint in pack-quantized");
    if (format != NULL && strncmp(format, "sparse", 6) == 0)
        quant_refuse(spec,
                     "format \"%.40s\": sparse weights are not supported; take the dense "
                     "checkpoint",
                     format);
    if (json_get(object, "sparsity_config", &sparsity) && json_is_object(&sparsity)) {
        const char *sparse = quant_text(&sparsity, "format");
        if (sparse != NULL && strcmp(sparse, "dense") != 0)
            quant_refuse(spec,
                         "sparsity_config.format \"%.40s\": sparse weights are not supported; "
                         "take the dense checkpoint",
                         sparse);
    }
    if (json_get(object, "transform_config", &transform) && json_is_object(&transform) &&
        json_count(&transform) > 0)
        quant_refuse(spec, "transform_config: weights that want their inputs rotated are not "
                           "supported; take a checkpoint without transforms");
    if (!quant_rules_add_list(spec, object, "ignore", MATCH_NAME, -1, err))
        return false;
    if (!json_get(object, "config_groups", &groups) || !json_is_object(&groups) ||
        json_count(&groups) == 0) {
        quant_refuse(spec, "config_groups is missing: nothing says which weights are quantized, "
                           "and how");
        return true;
    }
    return read_groups(spec, &groups, format, err);
}
