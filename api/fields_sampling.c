/* fields_sampling.c - request fields about which token comes next: OpenAI's, vLLM's, llama.cpp's.
 *
 * What llama.cpp has beyond the others becomes a chain (sampler.h), and only when one of these
 * fields says so: without one, rows keep the form that every device has. Without `samplers` a chain
 * keeps this server's order, penalties first and temperature before the filters; with it, the
 * request's, logit_bias before all as in llama.cpp. */
#include "api/fields.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* All 64 bits of it, which a double does not hold. */
static bool parse_seed(struct generate *out, const struct json_ref *root, struct err *err)
{
    struct json_ref at;
    int64_t seed = -1;
    if (!json_opt_int(root, "seed", INT64_MIN, INT64_MAX, &seed, err))
        return false;
    const char *digits = json_get(root, "seed", &at) ? json_number_text(at.node) : NULL;
    if (digits != NULL) {
        char *end;
        errno = 0;
        seed = strtoll(digits, &end, 10);
        if (errno != 0 || *end != 0)
            return json_error(&at, err, "must be an integer of 64 bits, got %.40s", digits);
    }
    out->sampling.seed = (uint64_t)seed;
    out->random_seed = seed == -1; /* -1 and absent: the server draws one (llama-server, vLLM) */
    return true;
}

static bool parse_params(struct generate *out, const struct json_ref *root,
                         const struct api_model *model, struct err *err)
{
    double temperature = (double)model->temperature, top_p = (double)model->top_p,
           min_p = (double)model->min_p, typical_p = (double)model->typical_p,
           repetition = (double)model->repetition_penalty, presence = 0, frequency = 0;
    int64_t top_k = model->top_k;
    if (!json_opt_double(root, "temperature", 0, 100, &temperature, err) ||
        !json_opt_int(root, "top_k", -1, INT32_MAX, &top_k, err) ||
        !json_opt_double(root, "top_p", 0, 1, &top_p, err) ||
        !json_opt_double(root, "min_p", 0, 1, &min_p, err) ||
        !json_opt_double(root, "typical_p", 0, 1, &typical_p, err) ||
        !json_opt_double(root, "repeat_penalty", 0.01, 100, &repetition, err) ||
        !json_opt_double(root, "repetition_penalty", 0.01, 100, &repetition, err) ||
        !json_opt_double(root, "presence_penalty", -2, 2, &presence, err) ||
        !json_opt_double(root, "frequency_penalty", -2, 2, &frequency, err) ||
        !parse_seed(out, root, err))
        return false;
    out->sampling.temperature = (float)temperature;
    out->sampling.top_k = (int32_t)top_k;
    out->sampling.top_p = (float)top_p;
    out->sampling.min_p = (float)min_p;
    out->sampling.typical_p = (float)typical_p;
    out->sampling.repetition_penalty = (float)repetition;
    out->sampling.presence_penalty = (float)presence;
    out->sampling.frequency_penalty = (float)frequency;
    return true;
}

/* ---- the chain --------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    char letter; /* llama.cpp's short form */
    enum sample_stage stage;
} STAGES[] = {
    { "penalties", 'e', STAGE_PENALTIES },
    { "dry", 'd', STAGE_DRY },
    { "top_n_sigma", 's', STAGE_TOP_N_SIGMA },
    { "top_k", 'k', STAGE_TOP_K },
    { "typ_p", 'y', STAGE_TYPICAL },
    { "top_p", 'p', STAGE_TOP_P },
    { "min_p", 'm', STAGE_MIN_P },
    { "xtc", 'x', STAGE_XTC },
    { "temperature", 't', STAGE_TEMPERATURE },
};
enum { N_STAGES = sizeof STAGES / sizeof STAGES[0] };

static const enum sample_stage ORDER[SAMPLE_STAGES] = {
    STAGE_PENALTIES, STAGE_DRY,   STAGE_BIASES, STAGE_TEMPERATURE, STAGE_TOP_N_SIGMA,
    STAGE_TOP_K,     STAGE_TOP_P, STAGE_MIN_P,  STAGE_TYPICAL,     STAGE_XTC,
};

void api_chain_default(struct sample_chain *chain)
{
    *chain = (struct sample_chain){ .n_stages = SAMPLE_STAGES,
                                    .last_n = -1,
                                    .dynatemp_exponent = 1,
                                    .xtc_threshold = 0.1f,
                                    .dry_base = 1.75f,
                                    .dry_allowed_length = 2,
                                    .dry_last_n = 64,
                                    .mirostat_tau = 5,
                                    .mirostat_eta = 0.1f };
    memcpy(chain->stages, ORDER, sizeof ORDER);
}

static bool add_stage(struct sample_chain *chain, const struct json_ref *at, const char *name,
                      size_t length, struct err *err)
{
    for (int32_t i = 0; i < N_STAGES; i++) {
        bool by_name =
            strlen(STAGES[i].name) == length && memcmp(STAGES[i].name, name, length) == 0;
        if (!by_name && !(length == 1 && STAGES[i].letter == *name))
            continue;
        for (int32_t k = 0; k < chain->n_stages; k++)
            if (chain->stages[k] == STAGES[i].stage)
                return json_error(at, err, "names %s twice", STAGES[i].name);
        chain->stages[chain->n_stages++] = STAGES[i].stage;
        return true;
    }
    return json_error(
        at, err,
        "has no sampler \"%.*s\"; there are penalties, dry, top_n_sigma, top_k, typ_p, "
        "top_p, min_p, xtc and temperature",
        length > 40 ? 40 : (int)length, name);
}

/* A list of names, or llama.cpp's string of letters. */
static bool parse_samplers(struct generate *out, const struct json_ref *root, struct err *err)
{
    struct json_ref list, at;
    const char *name;
    if (!json_get(root, "samplers", &list))
        return true;
    if (!json_is_array(&list) && !json_is_string(&list))
        return json_error(&list, err, "must be a list of names of samplers");
    out->has_chain = true;
    out->chain.n_stages = 0;
    out->chain.stages[out->chain.n_stages++] = STAGE_BIASES;
    if (json_is_string(&list)) {
        if (!json_string(&list, &name, err))
            return false;
        for (; *name != 0; name++)
            if (!add_stage(&out->chain, &list, name, 1, err))
                return false;
        return true;
    }
    for (bool more = json_first(&list, &at); more; more = json_next(&at))
        if (!json_string(&at, &name, err) || !add_stage(&out->chain, &at, name, strlen(name), err))
            return false;
    return true;
}

static bool parse_breakers(struct generate *out, const struct json_ref *root, struct arena *arena,
                           struct err *err)
{
    static const struct api_string_limits limits = { API_BREAKERS_MAX, API_BREAKER_BYTES_MAX,
                                                     false };
    static struct api_stop usual[] = { { "\n", 1 }, { ":", 1 }, { "\"", 1 }, { "*", 1 } };
    struct json_ref at;
    out->breakers = usual;
    out->n_breakers = sizeof usual / sizeof usual[0];
    return !json_get(root, "dry_sequence_breakers", &at) ||
           api_string_list(&at, &limits, arena, &out->breakers, &out->n_breakers, err);
}

static bool needs_chain(const struct generate *out, bool window)
{
    const struct sample_params *p = &out->sampling;
    const struct sample_chain *c = &out->chain;
    bool penalties =
        p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
    return (window && penalties) || c->dynatemp_range > 0 || c->top_n_sigma > 0 ||
           c->xtc_probability > 0 || c->min_keep > 1 || c->dry_multiplier > 0 || c->mirostat > 0;
}

static bool parse_chain(struct generate *out, const struct json_ref *root, struct arena *arena,
                        struct err *err)
{
    struct sample_chain *c = &out->chain;
    api_chain_default(c);
    struct json_ref at;
    double range = 0, exponent = 1, sigma = -1, xtc = 0, threshold = 0.1, dry = 0, base = 1.75,
           tau = 5, eta = 0.1;
    int64_t last_n = -1, keep = 0, allowed = 2, dry_last_n = 64, mirostat = 0;
    if (!json_opt_int(root, "repeat_last_n", -1, INT32_MAX, &last_n, err) ||
        !json_opt_double(root, "dynatemp_range", 0, 100, &range, err) ||
        !json_opt_double(root, "dynatemp_exponent", 0, 100, &exponent, err) ||
        !json_opt_double(root, "top_n_sigma", -1, 1000, &sigma, err) ||
        !json_opt_double(root, "xtc_probability", 0, 1, &xtc, err) ||
        !json_opt_double(root, "xtc_threshold", 0, 1, &threshold, err) ||
        !json_opt_int(root, "min_keep", 0, INT32_MAX, &keep, err) ||
        !json_opt_double(root, "dry_multiplier", 0, 100, &dry, err) ||
        !json_opt_double(root, "dry_base", 1, 100, &base, err) ||
        !json_opt_int(root, "dry_allowed_length", 0, INT32_MAX - 1, &allowed, err) ||
        !json_opt_int(root, "dry_penalty_last_n", -1, INT32_MAX, &dry_last_n, err) ||
        !json_opt_int(root, "mirostat", 0, 2, &mirostat, err) ||
        !json_opt_double(root, "mirostat_tau", 0, 100, &tau, err) ||
        !json_opt_double(root, "mirostat_eta", 0, 100, &eta, err) ||
        !parse_breakers(out, root, arena, err))
        return false;
    c->windowed = json_get(root, "repeat_last_n", &at);
    c->last_n = (int32_t)last_n;
    c->dynatemp_range = (float)range;
    c->dynatemp_exponent = (float)exponent;
    c->top_n_sigma = (float)sigma;
    c->xtc_probability = threshold > 0.5 ? 0 : (float)xtc;
    c->xtc_threshold = (float)threshold;
    c->min_keep = (int32_t)keep;
    c->dry_multiplier = (float)dry;
    c->dry_base = (float)base;
    c->dry_allowed_length = (int32_t)allowed;
    c->dry_last_n = (int32_t)dry_last_n;
    c->mirostat = (int32_t)mirostat;
    c->mirostat_tau = (float)tau;
    c->mirostat_eta = (float)eta;
    out->has_chain = needs_chain(out, c->windowed);
    if (!parse_samplers(out, root, err))
        return false;
    if (c->mirostat == 0)
        return true;
    /* In place of all filters, as in llama.cpp; what changes logits before them stays. */
    static const enum sample_stage before[] = { STAGE_PENALTIES, STAGE_DRY, STAGE_BIASES,
                                                STAGE_TEMPERATURE };
    memcpy(c->stages, before, sizeof before);
    c->n_stages = sizeof before / sizeof before[0];
    return true;
}

/* ---- tokens by name ---------------------------------------------------------------------------
 */

static bool parse_bias_value(const struct json_ref *at, float *bias, struct err *err)
{
    double value;
    bool ban;
    if (json_is_bool(at)) { /* llama.cpp: false is never */
        if (!json_bool(at, &ban, err))
            return false;
        *bias = -INFINITY;
        return !ban || json_error(at, err, "must be a number from -100 to 100, or false");
    }
    if (!json_double(at, -100, 100, &value, err))
        return false;
    *bias = (float)value;
    return true;
}

/* A key of the object form: a decimal number without sign or blanks. */
static bool parse_bias_key(const struct json_ref *map, const char *key, int32_t vocab, int32_t *id,
                           struct err *err)
{
    int64_t value = 0;
    size_t digits = strspn(key, "0123456789");
    bool is_id = digits > 0 && digits <= 9 && key[digits] == 0;
    for (size_t i = 0; i < digits && is_id; i++)
        value = value * 10 + (key[i] - '0');
    *id = (int32_t)value;
    return (is_id && value < vocab) ||
           json_error(map, err, "has the key \"%.40s\", wanted a token id from 0 to %d", key,
                      vocab - 1);
}

/* [id, bias] or ["text", bias]. */
static bool parse_bias_pair(struct api_bias *bias, const struct json_ref *pair, int32_t vocab,
                            struct err *err)
{
    struct json_ref at;
    int64_t id;
    if (!json_is_array(pair) || json_count(pair) != 2)
        return json_error(pair, err, "must be a pair of a token id, or text, and a bias");
    json_first(pair, &at);
    if (json_is_string(&at)) {
        if (!json_string(&at, &bias->text, err))
            return false;
        bias->length = strlen(bias->text);
        if (bias->length == 0 || bias->length > API_STOP_BYTES_MAX)
            return json_error(&at, err, "must have 1 to %d bytes, got %zu", API_STOP_BYTES_MAX,
                              bias->length);
    } else {
        if (!json_int(&at, 0, vocab - 1, &id, err))
            return false;
        bias->token = (int32_t)id;
    }
    json_next(&at);
    return parse_bias_value(&at, &bias->bias, err);
}

/* {"15043": -100, ...}, or a list of pairs (llama.cpp). */
static bool parse_bias(struct generate *out, const struct json_ref *root,
                       const struct api_model *model, struct arena *arena, struct err *err)
{
    struct json_ref list, at;
    if (!json_get(root, "logit_bias", &list))
        return true;
    bool map = json_is_object(&list);
    if (!map && !json_is_array(&list))
        return json_error(&list, err, "must be an object of token id to bias, or a list of pairs");
    int64_t count = json_count(&list);
    if (count > API_BIASES_MAX)
        return json_error(&list, err, "has %lld entries, at most %d are allowed", (long long)count,
                          API_BIASES_MAX);
    out->biases = arena_take(arena, (size_t)count + 1, sizeof *out->biases);
    if (out->biases == NULL)
        return err_set(err, ERR_MEMORY, "no memory for logit_bias");
    for (bool more = json_first(&list, &at); more; more = json_next(&at)) {
        struct api_bias *bias = &out->biases[out->n_biases++];
        if (map ? !parse_bias_key(&list, at.key, model->vocab, &bias->token, err) ||
                      !parse_bias_value(&at, &bias->bias, err)
                : !parse_bias_pair(bias, &at, model->vocab, err))
            return false;
        if (bias->text != NULL && model->no_tokenizer[0] != 0)
            return json_error(&at, err, "is text, which needs a tokenizer: %s",
                              model->no_tokenizer);
    }
    return true;
}

static bool parse_allowed(struct generate *out, const struct json_ref *root,
                          const struct api_model *model, struct arena *arena, struct err *err)
{
    struct json_ref at;
    int32_t *ids, n;
    if (!json_get(root, "allowed_token_ids", &at))
        return true;
    if (!json_is_array(&at))
        return json_error(&at, err, "must be a list of token ids");
    if (json_count(&at) == 0)
        return json_error(&at, err, "must have at least one token id");
    if (!api_token_list(&at, model->vocab, INT32_MAX - 1, arena, &ids, &n, err))
        return false;
    uint32_t *bits = arena_take(arena, ((size_t)model->vocab + 31) / 32, sizeof *bits);
    if (bits == NULL)
        return err_set(err, ERR_MEMORY, "no memory for allowed_token_ids");
    for (int32_t i = 0; i < n; i++)
        bits[ids[i] / 32] |= 1u << ids[i] % 32;
    out->sampling.allowed = bits;
    return true;
}

static bool parse_bad_words(struct generate *out, const struct json_ref *root,
                            const struct api_model *model, struct arena *arena, struct err *err)
{
    static const struct api_string_limits limits = { API_BAD_WORDS_MAX, API_BAD_WORD_BYTES_MAX,
                                                     false };
    struct json_ref at;
    if (!json_get(root, "bad_words", &at))
        return true;
    if (!api_string_list(&at, &limits, arena, &out->bad_words, &out->n_bad_words, err))
        return false;
    return out->n_bad_words == 0 || model->no_tokenizer[0] == 0 ||
           json_error(&at, err, "needs a tokenizer: %s", model->no_tokenizer);
}

bool api_fields_sampling(struct generate *out, const struct json_ref *root,
                         const struct api_model *model, struct arena *arena, struct err *err)
{
    out->sampling = sample_params_neutral();
    out->sampling.n_top = -1;
    if (!parse_params(out, root, model, err) || !parse_chain(out, root, arena, err) ||
        !parse_bias(out, root, model, arena, err) || !parse_allowed(out, root, model, arena, err) ||
        !parse_bad_words(out, root, model, arena, err))
        return false;
    return out->chain.dry_multiplier == 0 || out->n_breakers == 0 || model->no_tokenizer[0] == 0 ||
           err_set_field(err, ERR_REQUEST, "dry_sequence_breakers",
                         "dry_sequence_breakers need a tokenizer (%s); [] is possible",
                         model->no_tokenizer);
}
