/* rope.c - reads a checkpoint's rope settings and computes its frequencies. Pure; at start. */
#include "host/model/rope.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    enum rope_kind kind;
} KINDS[] = {
    { "default", ROPE_DEFAULT }, { "linear", ROPE_LINEAR }, { "dynamic", ROPE_DYNAMIC },
    { "llama3", ROPE_LLAMA3 },   { "yarn", ROPE_YARN },     { "longrope", ROPE_LONG },
};
enum { POSITIONS_MAX = 1 << 24 };

const char *rope_name(enum rope_kind kind)
{
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (KINDS[i].kind == kind)
            return KINDS[i].name;
    CHECK(!"a kind of rope that has no name");
    return NULL;
}

static bool read_kind(struct rope_config *rope, const struct json_ref *dict,
                      const struct rope_rules *rules, struct err *err)
{
    const char *name = NULL;
    struct json_ref item;
    /* rope_type since transformers 4.45, type before; files that have both mean the first. */
    if (!json_opt_string(dict, "rope_type", &name, err) ||
        (name == NULL && !json_opt_string(dict, "type", &name, err)))
        return false;
    if (name == NULL && json_get(dict, "factor", &item))
        return json_error(dict, err, "has a factor, but no rope_type");
    if (name == NULL)
        name = "default";
    for (bool more = json_first(dict, &item); more; more = json_next(&item))
        if (json_is_object(&item)) /* {"full_attention": {...}, "sliding_attention": {...}} */
            return err_set(err, ERR_UNSUPPORTED, "rope parameters per layer type (\"%s\")",
                           item.key);
    /* What Phi-3 called it at first. */
    if (rules->yarn_is_long && (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0))
        name = "longrope";
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (strcmp(KINDS[i].name, name) == 0) {
            rope->kind = KINDS[i].kind;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED,
                   "rope_type \"%s\"; supported: default, linear, dynamic, llama3, yarn, longrope",
                   name);
}

static bool need(const struct json_ref *dict, const char *key, double low, double high,
                 double *value, struct err *err)
{
    struct json_ref item;
    if (!json_get(dict, key, &item))
        return json_error(&item, err, "is missing");
    return json_double(&item, low, high, value, err);
}

/* The part of a head that is rotated. */
static bool read_partial(struct rope_config *rope, const struct json_ref *object, const char *key,
                         const struct rope_rules *rules, int32_t head_dim, struct err *err)
{
    double partial = 0;
    struct json_ref item;
    if (key == NULL || !json_get(object, key, &item))
        return true;
    if (!json_double(&item, 0, 1, &partial, err))
        return false;
    if (rules->partial == 0 && partial != 1)
        return err_set(err, ERR_UNSUPPORTED, "partial_rotary_factor %g; supported: 1", partial);
    rope->dim = (int32_t)(head_dim * partial);
    return true;
}

static bool read_factors(const struct rope_config *rope, const struct json_ref *dict,
                         const char *key, float *factors, struct err *err)
{
    struct json_ref list, item;
    if (!json_get(dict, key, &list))
        return json_error(&list, err, "is missing");
    if (!json_is_array(&list) || json_count(&list) != rope->dim / 2)
        return json_error(&list, err, "must be a list of %d numbers", rope->dim / 2);
    int32_t i = 0;
    for (bool more = json_first(&list, &item); more; more = json_next(&item), i++) {
        double factor = 0;
        if (!json_double(&item, 1e-6, 1e6, &factor, err))
            return false;
        factors[i] = (float)factor;
    }
    return true;
}

static bool read_long(struct rope_config *rope, const struct json_ref *dict, int32_t max_positions,
                      bool has_original, struct err *err)
{
    if (!has_original || rope->original < 2) /* its logarithm divides */
        return json_error(dict, err,
                          "of type longrope needs original_max_position_embeddings above 1");
    if (rope->dim < 2 || rope->dim % 2 != 0) /* rope_read says it */
        return true;
    rope->factor = (double)max_positions / rope->original;
    return json_opt_double(dict, "factor", 1e-3, 1e6, &rope->factor, err) &&
           json_opt_double(dict, "attention_factor", 1e-6, 1e6, &rope->attention_factor, err) &&
           read_factors(rope, dict, "short_factor", rope->factors[0], err) &&
           read_factors(rope, dict, "long_factor", rope->factors[1], err);
}

static bool read_yarn(struct rope_config *rope, const struct json_ref *dict, int32_t max_positions,
                      struct err *err)
{
    rope->factor = (double)max_positions / rope->original;
    if (!json_opt_double(dict, "factor", 1e-3, 1e6, &rope->factor, err) ||
        !json_opt_double(dict, "beta_fast", 0, 1e6, &rope->beta_fast, err) ||
        !json_opt_double(dict, "beta_slow", 0, 1e6, &rope->beta_slow, err) ||
        !json_opt_double(dict, "attention_factor", 1e-6, 1e6, &rope->attention_factor, err) ||
        !json_opt_double(dict, "mscale", 0, 1e6, &rope->mscale, err) ||
        !json_opt_double(dict, "mscale_all_dim", 0, 1e6, &rope->mscale_all, err) ||
        !json_opt_bool(dict, "truncate", &rope->truncate, err))
        return false;
    if (rope->beta_fast == 0) /* as absent: the paper's values */
        rope->beta_fast = 32;
    if (rope->beta_slow == 0)
        rope->beta_slow = 1;
    if (rope->theta <= 1)
        return err_set(err, ERR_FORMAT, "rope_theta %g: yarn needs more than 1", rope->theta);
    return true;
}

static bool read_dict(struct rope_config *rope, const struct json_ref *dict,
                      const struct rope_rules *rules, int32_t head_dim, int32_t max_positions,
                      bool has_original, struct err *err)
{
    int64_t original = rope->original;
    struct json_ref item;
    if (!read_kind(rope, dict, rules, err) ||
        !read_partial(rope, dict, "partial_rotary_factor", rules, head_dim, err) ||
        !json_opt_double(dict, "rope_theta", 1e-3, 1e15, &rope->theta, err) ||
        !json_opt_int(dict, "original_max_position_embeddings", 1, POSITIONS_MAX, &original, err))
        return false;
    has_original = has_original || json_get(dict, "original_max_position_embeddings", &item);
    rope->original = (int32_t)original;
    switch (rope->kind) {
    case ROPE_DEFAULT:
        return true;
    case ROPE_LINEAR:
        return need(dict, "factor", 1e-3, 1e6, &rope->factor, err);
    case ROPE_DYNAMIC:
        if (rope->original > max_positions)
            rope->original = max_positions;
        return need(dict, "factor", 1e-3, 1e6, &rope->factor, err);
    case ROPE_LLAMA3:
        if (!need(dict, "factor", 1e-3, 1e6, &rope->factor, err) ||
            !need(dict, "low_freq_factor", 1e-6, 1e6, &rope->low_freq_factor, err) ||
            !need(dict, "high_freq_factor", 1e-6, 1e6, &rope->high_freq_factor, err))
            return false;
        if (rope->high_freq_factor <= rope->low_freq_factor)
            return json_error(dict, err, "needs high_freq_factor above low_freq_factor, got %g, %g",
                              rope->high_freq_factor, rope->low_freq_factor);
        return true;
    case ROPE_YARN:
        return read_yarn(rope, dict, max_positions, err);
    case ROPE_LONG:
        return read_long(rope, dict, max_positions, has_original, err);
    }
    return true;
}

/* The dictionary of these layers; false: there is none. */
static bool find_dict(const struct json_ref *root, const struct rope_rules *rules,
                      enum rope_layers layers, struct json_ref *dict, bool *per_layer)
{
    struct json_ref part;
    *per_layer = false;
    /* transformers 5 lets rope_scaling win where a file has both. */
    if (!json_get(root, "rope_scaling", dict) && !json_get(root, "rope_parameters", dict))
        return false;
    if (rules->per_layer && json_is_object(dict) &&
        json_get(dict, layers == ROPE_LAYERS_FULL ? "full_attention" : "sliding_attention",
                 &part)) {
        *per_layer = true;
        *dict = part;
    }
    return true;
}

static bool read_all(struct rope_config *rope, const struct json_ref *root,
                     const struct rope_rules *rules, enum rope_layers layers, int32_t head_dim,
                     int32_t max_positions, struct err *err)
{
    struct json_ref dict, item;
    bool per_layer;
    const bool found = find_dict(root, rules, layers, &dict, &per_layer);
    if (layers == ROPE_LAYERS_SLIDING && !(found && per_layer))
        return json_opt_double(root, "rope_local_base_freq", 1e-3, 1e15, &rope->theta, err);
    int64_t original = max_positions;
    if (!json_opt_double(root, "rope_theta", 1e-3, 1e15, &rope->theta, err) ||
        (rules->theta_key != NULL &&
         !json_opt_double(root, rules->theta_key, 1e-3, 1e15, &rope->theta, err)) ||
        !json_opt_int(root, "original_max_position_embeddings", 1, POSITIONS_MAX, &original, err) ||
        !read_partial(rope, root, "partial_rotary_factor", rules, head_dim, err) ||
        !read_partial(rope, root, rules->partial_key, rules, head_dim, err))
        return false;
    rope->original = (int32_t)original;
    if (!found)
        return true;
    if (!json_is_object(&dict))
        return json_error(&dict, err, "must be an object or null");
    return read_dict(rope, &dict, rules, head_dim, max_positions,
                     json_get(root, "original_max_position_embeddings", &item), err);
}

bool rope_read(struct rope_config *rope, const struct json_ref *root,
               const struct rope_rules *rules, enum rope_layers layers, int32_t head_dim,
               int32_t max_positions, struct err *err)
{
    const double partial = rules->partial == 0 ? 1 : rules->partial;
    const bool local = layers == ROPE_LAYERS_SLIDING;
    *rope = (struct rope_config){ .kind = ROPE_DEFAULT,
                                  .theta = rules->theta == 0 || local ? 10000 : rules->theta,
                                  .dim = (int32_t)(head_dim * partial),
                                  .interleaved = rules->interleaved,
                                  .factor = 1,
                                  .original = max_positions,
                                  .beta_fast = 32,
                                  .beta_slow = 1,
                                  .truncate = true };
    if (!read_all(rope, root, rules, layers, head_dim, max_positions, err))
        return false;
    if (rope->dim >= 2 && rope->dim % 2 == 0)
        return true;
    return err_set(err, ERR_FORMAT, "%d of %d features of a head are rotated, want an even number",
                   rope->dim, head_dim);
}

void rope_positions(const struct rope_config *rope, int32_t max_positions, int32_t *usual,
                    int32_t *most)
{
    double stretched = max_positions;
    *usual = *most = max_positions;
    switch (rope->kind) {
    case ROPE_DYNAMIC:
        *usual = *most = rope->original;
        return;
    case ROPE_YARN: /* who adds yarn to a config seldom changes max_position_embeddings too */
        stretched = rope->original * rope->factor;
        break;
    case ROPE_LINEAR: /* files disagree whether max_position_embeddings is stretched already */
        stretched = max_positions * rope->factor;
        break;
    case ROPE_DEFAULT:
    case ROPE_LLAMA3:
    case ROPE_LONG: /* max_position_embeddings is the stretched one */
        return;
    }
    if (stretched > POSITIONS_MAX)
        stretched = POSITIONS_MAX;
    if (stretched > max_positions)
        *most = (int32_t)stretched;
    if (rope->kind == ROPE_YARN)
        *usual = *most;
}

/* Low frequencies (wavelength above original / low) are divided by the factor, high ones stay. */
static float scale_llama3(const struct rope_config *rope, float inv_freq)
{
    const float two_pi = (float)(2 * M_PI);
    const float old_len = (float)rope->original, factor = (float)rope->factor;
    const float low = (float)rope->low_freq_factor;
    const float wavelength = two_pi / inv_freq;
    if (wavelength < (float)(rope->original / rope->high_freq_factor))
        return inv_freq;
    if (wavelength > (float)(rope->original / rope->low_freq_factor))
        return inv_freq / factor;
    const float smooth =
        (old_len / wavelength - low) / (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

/* The feature pair that turns `rotations` times over the original length (YaRN, eq. 23). */
static double yarn_dim(const struct rope_config *rope, double rotations)
{
    return rope->dim * log(rope->original / (rotations * 2 * M_PI)) / (2 * log(rope->theta));
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void scale_yarn(const struct rope_config *rope, float *inv_freq, float *scale)
{
    double low = yarn_dim(rope, rope->beta_fast), high = yarn_dim(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rope->dim - 1);
    if (low == high)
        high += 0.001;
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = fminf(fmaxf(ramp, 0), 1);
        const float keep = 1 - ramp;
        const float pos_freq = 1 / inv_freq[i];
        const float interpolated = 1 / ((float)rope->factor * pos_freq);
        inv_freq[i] = interpolated * (1 - keep) + inv_freq[i] * keep;
    }
    double attention = rope->attention_factor;
    if (attention == 0 && rope->mscale != 0 && rope->mscale_all != 0)
        attention =
            yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all);
    else if (attention == 0)
        attention = yarn_mscale(rope->factor, 1);
    *scale = (float)attention;
}

int32_t rope_border(const struct rope_config *rope)
{
    const size_t bytes = (size_t)(rope->dim / 2) * sizeof rope->factors[0][0];
    const bool differ = memcmp(rope->factors[0], rope->factors[1], bytes) != 0;
    return rope->kind == ROPE_LONG && differ ? rope->original : 0;
}

/* cos and sin grow with the stretch (LongRoPE, section 3.3). */
static float long_scale(const struct rope_config *rope)
{
    if (rope->attention_factor != 0)
        return (float)rope->attention_factor;
    return rope->factor <= 1 ? 1.0f : (float)sqrt(1 + log(rope->factor) / log(rope->original));
}

void rope_frequencies(const struct rope_config *rope, float *inv_freq, float *scale)
{
    const int32_t half = rope->dim / 2;
    *scale = 1;
    for (int32_t i = 0; i < half; i++) {
        const float exponent = (float)(2 * i) / (float)rope->dim;
        const float power = powf((float)rope->theta, exponent);
        inv_freq[i] = 1.0f / power;
        if (rope->kind == ROPE_LINEAR)
            inv_freq[i] /= (float)rope->factor;
        else if (rope->kind == ROPE_LLAMA3)
            inv_freq[i] = scale_llama3(rope, inv_freq[i]);
        for (int32_t v = 0; v < rope_variants(rope) && rope->kind == ROPE_LONG; v++)
            inv_freq[v * half + i] = 1.0f / (rope->factors[v][i] * power);
    }
    if (rope->kind == ROPE_YARN)
        scale_yarn(rope, inv_freq, scale);
    if (rope->kind == ROPE_LONG)
        *scale = long_scale(rope);
}
