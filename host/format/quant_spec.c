/* quant_spec.c - reads quantization_config into a struct quant_spec, and says what can be loaded.
 *
 * Keys by method (aliases as found in published checkpoints): formats page of the design, sections
 * 2 to 7; compressed-tensors: quant_ct.c. Called by host/model at start. */
#include "host/format/quant_spec.h"

#include <stdio.h>
#include <string.h>
#include "host/format/quant_rules.h"

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
bool quant_read_count(const struct json_ref *object, const char *const keys[], int64_t low,
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

bool quant_read_flag(const struct json_ref *object, const char *key, bool *value, struct err *err)
{
    struct json_ref member;
    if (!json_get(object, key, &member) || json_bool(&member, value, err))
        return true;
    char path[128];
    return err_set(err, ERR_FORMAT, "%s must be true or false",
                   json_path(&member, path, sizeof path));
}

const char *const QUANT_BITS_KEYS[] = { "bits", "w_bit", "wbits", "nbits", "num_bits", NULL };
const char *const QUANT_GROUP_KEYS[] = { "group_size", "q_group_size", NULL };

const char *quant_text(const struct json_ref *object, const char *key)
{
    struct json_ref member;
    struct err ignored;
    const char *text = NULL;
    if (!json_get(object, key, &member) || !json_string(&member, &text, &ignored))
        return NULL;
    return text;
}

static bool read_figures(const struct json_ref *object, struct quant_spec *spec, struct err *err)
{
    bool zero_point = !spec->symmetric;
    if (!quant_read_count(object, QUANT_BITS_KEYS, 1, 16, &spec->bits, err) ||
        !quant_read_count(object, QUANT_GROUP_KEYS, -1, GROUP_MAX, &spec->group, err) ||
        !quant_read_flag(object, "sym", &spec->symmetric, err) ||
        !quant_read_flag(object, "symmetric", &spec->symmetric, err) ||
        !quant_read_flag(object, "zero_point", &zero_point, err))
        return false;
    if (spec->method == QUANT_AWQ)
        spec->symmetric = !zero_point;
    return true;
}

/* bitsandbytes states its width as two flags, and its 4-bit block of 64 not at all. */
static bool read_bitsandbytes(const struct json_ref *object, struct quant_spec *spec,
                              struct err *err)
{
    bool four = false, eight = false;
    if (!quant_read_flag(object, "load_in_4bit", &four, err) ||
        !quant_read_flag(object, "_load_in_4bit", &four, err) ||
        !quant_read_flag(object, "load_in_8bit", &eight, err) ||
        !quant_read_flag(object, "_load_in_8bit", &eight, err))
        return false;
    if (four || eight) {
        spec->bits = four ? 4 : 8;
        spec->group = four ? 64 : -1;
    }
    return true;
}

/* ---- one method each --------------------------------------------------------------------------
 */

/* `dynamic`: pattern -> overrides; "-:" in front leaves the module alone, "+:" or nothing is an
 * override. The first that matches counts. */
static bool read_gptq_dynamic(struct quant_spec *spec, const struct json_ref *object,
                              struct err *err)
{
    struct json_ref dynamic, item;
    if (!json_get(object, "dynamic", &dynamic) || !json_is_object(&dynamic))
        return true;
    for (bool more = json_first(&dynamic, &item); more; more = json_next(&item)) {
        const char *pattern = item.key;
        int32_t scheme = -1;
        if (strncmp(pattern, "-:", 2) != 0) {
            scheme = quant_scheme_add(spec, err);
            if (scheme < 0)
                return false;
            struct quant_scheme *own = &spec->schemes[scheme];
            *own = spec->schemes[0];
            if (json_is_object(&item) &&
                (!quant_read_count(&item, QUANT_BITS_KEYS, 1, 16, &own->bits, err) ||
                 !quant_read_count(&item, QUANT_GROUP_KEYS, -1, GROUP_MAX, &own->group, err) ||
                 !quant_read_flag(&item, "sym", &own->symmetric, err)))
                return false;
        }
        if (strncmp(pattern, "-:", 2) == 0 || strncmp(pattern, "+:", 2) == 0)
            pattern += 2;
        if (!quant_rule_add(spec, MATCH_REGEX, pattern, scheme, err))
            return false;
    }
    return true;
}

static bool read_gptq(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    bool marlin = false;
    const char *format = quant_text(object, "checkpoint_format");
    if (format == NULL)
        format = quant_text(object, "format");
    const char *words = quant_text(object, "pack_dtype");
    if (!quant_read_flag(object, "is_marlin_format", &marlin, err))
        return false;
    struct quant_scheme *scheme = &spec->schemes[0];
    scheme->packing = PACKING_GPTQ;
    if (marlin || (format != NULL && strcmp(format, "marlin") == 0))
        quant_refuse(spec, "marlin checkpoints are shuffled for one GPU kernel; take the one in "
                           "gptq or gptq_v2 format, or convert it with GPTQModel");
    else if (format != NULL && strcmp(format, "gptq_v2") == 0)
        scheme->packing = PACKING_GPTQ_V2;
    else if (format != NULL && strcmp(format, "gptq") != 0)
        quant_refuse(spec,
                     "checkpoint_format \"%.40s\" is not supported; take the checkpoint in gptq or "
                     "gptq_v2 format",
                     format);
    if (words != NULL && strcmp(words, "int32") != 0)
        quant_refuse(spec, "pack_dtype \"%.20s\": want int32", words);
    return read_gptq_dynamic(spec, object, err);
}

static bool read_awq(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    const char *version = quant_text(object, "version");
    struct quant_scheme *scheme = &spec->schemes[0];
    char lower[16] = "gemm";
    for (size_t i = 0; version != NULL && i < sizeof lower; i++) {
        const char c = version[i];
        lower[i] = i + 1 == sizeof lower ? 0 : c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        if (c == 0)
            break;
    }
    scheme->packing = strcmp(lower, "gemv") == 0 ? PACKING_AWQ_GEMV : PACKING_AWQ_GEMM;
    if (strcmp(lower, "gemm") != 0 && strcmp(lower, "gemv") != 0)
        quant_refuse(spec,
                     "version \"%.40s\" is shuffled for one GPU kernel; take the checkpoint in "
                     "version gemm or gemv",
                     version);
    return quant_rules_add_list(spec, object, "modules_to_not_convert", MATCH_CONTAINS, -1, err);
}

/* AutoRound writes GPTQ's or AWQ's tensors; what it says of single layers their shapes say too. */
static void read_auto_round(struct quant_spec *spec, const struct json_ref *object)
{
    const char *format = quant_text(object, "packing_format");
    struct quant_scheme *scheme = &spec->schemes[0];
    scheme->packing = PACKING_GPTQ;
    if (format != NULL && strcmp(format, "auto_round:auto_awq") == 0)
        scheme->packing = PACKING_AWQ_GEMM;
    else if (format != NULL && strcmp(format, "auto_round:auto_gptq") != 0)
        quant_refuse(spec,
                     "packing_format \"%.60s\" is not supported; take the checkpoint in "
                     "auto_round:auto_gptq or auto_round:auto_awq, or export it for llm_compressor",
                     format);
}

static bool read_fp8(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    struct json_ref block, item;
    struct quant_scheme *scheme = &spec->schemes[0];
    const char *activations = quant_text(object, "activation_scheme");
    const bool is_static = activations != NULL && strcmp(activations, "static") == 0;
    scheme->packing = PACKING_FP8;
    scheme->act.scheme = is_static ? ACT_FP8_TENSOR : ACT_FP8_TOKEN;
    if (json_get(object, "weight_block_size", &block)) {
        int64_t sides[2] = { 0 };
        int32_t n = 0;
        bool ok = json_is_array(&block) && json_count(&block) == 2, more = ok;
        for (more = more && json_first(&block, &item); more && ok; more = json_next(&item))
            ok = json_int(&item, 1, GROUP_MAX, &sides[n++], err);
        if (!ok)
            return err_set(err, ERR_FORMAT, "%s.weight_block_size must be [rows, columns]",
                           spec->key);
        scheme->block_rows = (int32_t)sides[0];
        scheme->block_cols = (int32_t)sides[1];
        if (!is_static)
            scheme->act.scheme = scheme->block_cols == 128 ? ACT_FP8_BLOCK : ACT_EXACT;
    }
    return quant_rules_add_list(spec, object, "modules_to_not_convert", MATCH_CONTAINS, -1, err) &&
           quant_rules_add_list(spec, object, "ignored_layers", MATCH_CONTAINS, -1, err);
}

/* quant_algo of the whole checkpoint, or of one of MIXED_PRECISION's layers. */
static bool modelopt_scheme(const char *algo, struct quant_scheme *scheme)
{
    if (algo != NULL && strcmp(algo, "FP8") == 0)
        *scheme = (struct quant_scheme){
            .packing = PACKING_FP8, .bits = 8, .symmetric = true, .act = { ACT_FP8_TENSOR, 0 }
        };
    else if (algo != NULL && (strcmp(algo, "NVFP4") == 0 || strcmp(algo, "W4A16_NVFP4") == 0))
        *scheme = (struct quant_scheme){ .packing = PACKING_NVFP4,
                                         .bits = 4,
                                         .group = 16,
                                         .symmetric = true,
                                         .act = { *algo == 'N' ? ACT_NVFP4 : ACT_EXACT, 0 } };
    else
        return false;
    return true;
}

static bool read_modelopt(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    struct json_ref layers, layer;
    const char *algo = quant_text(object, "quant_algo");
    if (!quant_rules_add_list(spec, object, "exclude_modules", MATCH_GLOB, -1, err) ||
        !quant_rules_add_list(spec, object, "ignore", MATCH_GLOB, -1, err))
        return false;
    if (algo != NULL && strcmp(algo, "MIXED_PRECISION") == 0) {
        spec->rules_only = true;
        if (!json_get(object, "quantized_layers", &layers) || !json_is_object(&layers)) {
            quant_refuse(spec, "quant_algo MIXED_PRECISION without quantized_layers");
            return true;
        }
        for (bool more = json_first(&layers, &layer); more; more = json_next(&layer)) {
            struct quant_scheme wanted;
            algo = json_is_object(&layer) ? quant_text(&layer, "quant_algo") : NULL;
            if (!modelopt_scheme(algo, &wanted))
                break;
            int32_t scheme = 1; /* one of each kind is enough */
            while (scheme < spec->n_schemes &&
                   (spec->schemes[scheme].packing != wanted.packing ||
                    spec->schemes[scheme].act.scheme != wanted.act.scheme))
                scheme++;
            if (scheme == spec->n_schemes && (scheme = quant_scheme_add(spec, err)) < 0)
                return false;
            spec->schemes[scheme] = wanted;
            if (!quant_rule_add(spec, MATCH_NAME, layer.key, scheme, err))
                return false;
            algo = "";
        }
        if (algo != NULL && *algo == 0)
            return true;
    } else if (modelopt_scheme(algo, &spec->schemes[0])) {
        spec->bits = spec->schemes[0].bits;
        spec->group = spec->schemes[0].group;
        return true;
    }
    quant_refuse(spec, "quant_algo \"%.40s\" is not supported; take a checkpoint in FP8 or NVFP4",
                 algo == NULL ? "" : algo);
    return true;
}

static bool read_method(struct quant_spec *spec, const struct json_ref *object, struct err *err)
{
    if (spec->method == QUANT_COMPRESSED_TENSORS)
        return quant_read_ct(spec, object, err);
    if (quant_scheme_add(spec, err) < 0)
        return false;
    struct quant_scheme *scheme = &spec->schemes[0];
    scheme->bits = spec->bits;
    scheme->group = spec->group;
    scheme->symmetric = spec->symmetric;
    const char *text;
    double threshold = 6;
    struct json_ref member;
    switch (spec->method) {
    case QUANT_GPTQ:
        return read_gptq(spec, object, err);
    case QUANT_AWQ:
        return read_awq(spec, object, err);
    case QUANT_AUTO_ROUND:
        read_auto_round(spec, object);
        return true;
    case QUANT_FP8:
    case QUANT_FBGEMM_FP8:
        return read_fp8(spec, object, err);
    case QUANT_MODELOPT:
        return read_modelopt(spec, object, err);
    case QUANT_BITSANDBYTES:
        scheme->packing = spec->bits == 8 ? PACKING_BNB8 : PACKING_BNB4;
        if (json_get(object, "llm_int8_threshold", &member) &&
            !json_double(&member, 0, 1e6, &threshold, err))
            return err_set(err, ERR_FORMAT, "%s.llm_int8_threshold must be from 0 to 1e6",
                           spec->key);
        if (spec->bits == 8 && threshold > 0)
            scheme->act = (struct act_quant){ ACT_LLM_INT8, (float)threshold };
        return true; /* llm_int8_skip_modules: such weights are stored as floats, which shows */
    case QUANT_BITNET:
        text = quant_text(object, "linear_class");
        scheme->packing = PACKING_BITNET;
        scheme->divide = text == NULL || strcmp(text, "autobitlinear") != 0;
        scheme->act.scheme = ACT_BITNET;
        if (quant_text(object, "quantization_mode") != NULL && !scheme->divide &&
            strcmp(quant_text(object, "quantization_mode"), "offline") != 0)
            quant_refuse(spec,
                         "quantization_mode \"%.40s\": its weights are not packed; take the "
                         "offline checkpoint",
                         quant_text(object, "quantization_mode"));
        return true;
    case QUANT_MXFP4:
        scheme->packing = PACKING_MXFP4;
        return true;
    case QUANT_HQQ:
        scheme->packing = PACKING_HQQ;
        return true;
    default:
        return true;
    }
}

/* quant_method, or what older writers left it to be guessed from. NULL: it cannot be known. */
static const char *method_name(const struct json_ref *object, const char *key, struct err *err)
{
    struct json_ref member;
    const char *name = NULL;
    if (json_get(object, "quant_method", &member))
        return json_string(&member, &name, err) ? name : NULL;
    if (strcmp(key, "compression_config") == 0)
        return "compressed-tensors";
    if (json_get(object, "load_in_4bit", &member) || json_get(object, "load_in_8bit", &member))
        return "bitsandbytes";
    return NULL;
}

static void start_name(struct quant_spec *spec, const char *name)
{
    snprintf(spec->name, sizeof spec->name, "%s", name);
    for (char *c = spec->name; *c != 0; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
}

bool quant_spec_read_object(struct quant_spec *spec, const struct json_ref *object, const char *key,
                            const char *fallback, struct err *err)
{
    *spec = (struct quant_spec){ .symmetric = true };
    if (!json_is_object(object))
        return err_set(err, ERR_FORMAT, "%s must be an object", key);
    const char *name = method_name(object, key, err);
    if (name == NULL)
        name = fallback;
    if (name == NULL || *name == 0)
        return err_set(err, ERR_FORMAT, "%s.quant_method must name the scheme", key);
    const struct method *method = find_method(name);
    start_name(spec, name);
    spec->key = key;
    if (method == NULL) {
        spec->method = QUANT_OTHER;
        return true; /* its keys may mean anything */
    }
    spec->method = method->method;
    spec->bits = method->bits;
    spec->group = method->group;
    bool ok = read_figures(object, spec, err);
    if (ok && spec->method == QUANT_BITSANDBYTES)
        ok = read_bitsandbytes(object, spec, err);
    ok = ok && read_method(spec, object, err);
    if (!ok)
        quant_spec_clear(spec);
    return ok;
}

bool quant_spec_read(struct quant_spec *spec, const struct json_ref *config, struct err *err)
{
    static const char *const KEYS[] = { "quantization_config", "compression_config" };
    *spec = (struct quant_spec){ .symmetric = true };
    struct json_ref object;
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (json_get(config, KEYS[i], &object))
            return quant_spec_read_object(spec, &object, KEYS[i], NULL, err);
    return true;
}

void quant_spec_clear(struct quant_spec *spec)
{
    quant_rules_clear(spec);
    *spec = (struct quant_spec){ .symmetric = true };
}

bool quant_spec_scheme(const struct quant_spec *spec, const char *module,
                       const struct quant_scheme **scheme, struct err *err)
{
    int32_t index = 0;
    bool found;
    *scheme = NULL;
    if (spec->method == QUANT_NONE)
        return true;
    if (!quant_rules_find(spec, module, &index, &found, err))
        return false;
    if (!found)
        index = spec->rules_only || spec->n_schemes == 0 ? -1 : 0;
    if (index >= 0)
        *scheme = &spec->schemes[index];
    return true;
}

const char *packing_name(enum packing packing)
{
    static const char *const NAMES[PACKING_COUNT] = {
        [PACKING_NONE] = "none",         [PACKING_GPTQ] = "gptq",
        [PACKING_GPTQ_V2] = "gptq v2",   [PACKING_AWQ_GEMM] = "awq gemm",
        [PACKING_AWQ_GEMV] = "awq gemv", [PACKING_CT_PACK] = "ct packed",
        [PACKING_CT_INT] = "ct int",     [PACKING_FP8] = "fp8",
        [PACKING_NVFP4] = "nvfp4",       [PACKING_MXFP4] = "mxfp4",
        [PACKING_BNB4] = "bnb 4-bit",    [PACKING_BNB8] = "bnb int8",
        [PACKING_HQQ] = "hqq",           [PACKING_BITNET] = "bitnet",
    };
    CHECK((unsigned)packing < PACKING_COUNT);
    return NAMES[packing];
}

static bool can_load(enum quant_method method)
{
    switch (method) {
    case QUANT_TORCHAO:
    case QUANT_QUANTO:
    case QUANT_AQLM:
    case QUANT_EETQ:
    case QUANT_OTHER:
        return false;
    default:
        return true;
    }
}

bool quant_spec_check(const struct quant_spec *spec, struct err *err)
{
    if (spec->refusal[0] != 0)
        return err_set(err, ERR_UNSUPPORTED, "%s.quant_method \"%s\": %s", spec->key, spec->name,
                       spec->refusal);
    if (can_load(spec->method))
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
    return err_set(err, ERR_UNSUPPORTED,
                   "%s.quant_method \"%s\"%s: reading %s checkpoints is not supported; take the "
                   "unquantized checkpoint, and --weights int4 or int8",
                   spec->key, spec->name, figures, title);
}
