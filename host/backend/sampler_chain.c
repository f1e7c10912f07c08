/* sampler_chain.c - samplers in the order that a request names, by llama.cpp's formulas.
 *
 * Where they come from: llama.cpp's README and common_sampler_init (order; mirostat takes the place
 * of the filters), and the papers: DRY (p-e-w, 2024), XTC (p-e-w, 2024), top-n-sigma (Tang et al.
 * 2024), entropy-based temperature (Zhang et al. 2024), mirostat (Basu et al. 2020). In double, so
 * that probabilities agree with theirs to float's rounding.
 *
 * Unlike sampler.c's, x stays a logit: penalties may come behind a filter, and depend on its sign.
 */
#include "host/backend/sampler_parts.h"
#include <math.h>

enum { MIROSTAT_M = 100 }; /* most likely tokens from which s of Zipf's law is estimated */

static double minimum(double a, double b)
{
    return a < b ? a : b;
}

static double greatest_of(const struct sampler *s)
{
    double top = s->x[0];
    for (int32_t i = 1; i < s->n; i++)
        top = s->x[i] > top ? s->x[i] : top;
    return top;
}
/* Weights e^(x - greatest x); returns their sum. */
static double weigh(struct sampler *s)
{
    const double top = greatest_of(s);
    double total = 0;
    for (int32_t i = 0; i < s->n; i++)
        total += s->weight[i] = exp_double(s->x[i] - top);
    return total;
}
/* - sum p log p, where log p = x - top - log_total; `zero` is top + log_total. */
static double entropy_of(const struct sampler *s, double total, double zero)
{
    double entropy = 0;
    for (int32_t i = 0; i < s->n; i++)
        entropy -= s->weight[i] / total * (s->x[i] - zero);
    return entropy;
}
/* The candidates up to `last` stay, but the first `keep` in any case. */
static void cut(struct sampler *s, const double *key, struct ranked last, int32_t keep)
{
    if (keep >= s->n)
        return;
    if (keep > 1) {
        const struct ranked least = sampler_border(s, key, NULL, keep);
        if (least.key < last.key || (least.key == last.key && least.id > last.id))
            last = least;
    }
    sampler_cut_after(s, key, last, false);
}

/* ---- penalties --------------------------------------------------------------------------------
 */

static void penalize(struct sampler *s, const struct sample_row *row)
{
    const struct sample_params *p = row->params;
    const struct sample_chain *c = p->chain;
    const double r = (double)p->repetition_penalty, presence = (double)p->presence_penalty,
                 frequency = (double)p->frequency_penalty;
    const int32_t n = row->n_prompt + row->n_output;
    const int32_t from = c->windowed && c->last_n >= 0 && c->last_n < n ? n - c->last_n : 0;
    if (r == 1 && presence == 0 && frequency == 0)
        return;
    sampler_mark(s, row, from, c->windowed ? from : row->n_prompt);
    for (int32_t i = 0; i < s->n; i++) {
        const int32_t count = s->counts[s->id[i]];
        if (!s->seen[s->id[i]])
            continue;
        s->x[i] = s->x[i] > 0 ? s->x[i] / r : s->x[i] * r;
        s->x[i] -= frequency * count + (count > 0 ? presence : 0);
    }
    sampler_unmark(s, row, from);
}

/* DRY: a token that would go on with a repetition loses multiplier * base^(length - allowed), where
 * length is that of the longest run before it that is also the end of the context. */

static bool bit(const uint32_t *bits, int32_t token)
{
    return bits && bits[token / 32] >> (token % 32) & 1;
}
/* The first of the runs that begin with this token, if there is one. */
static int32_t first_run(const struct sample_chain *c, int32_t token)
{
    int32_t low = 0, high = c->n_dry_breaks_long;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (c->dry_breaks_long[middle].ids[0] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
/* Tokens at the end of the context behind the last break: repetitions are no longer than these. */
static int32_t unbroken(const struct sample_chain *c, const int32_t *end, int32_t n)
{
    for (int32_t i = 0; i < n; i++) { /* end[-1 - i] is looked at */
        int32_t longest = bit(c->dry_breaks, end[-1 - i]) ? 0 : -1;
        for (int32_t k = first_run(c, end[-1 - i]); k < c->n_dry_breaks_long; k++) {
            const struct token_run *run = &c->dry_breaks_long[k];
            if (run->ids[0] != end[-1 - i])
                break;
            if (run->n - 1 > i || run->n - 1 <= longest)
                continue;
            if (memcmp(run->ids, end - 1 - i, (size_t)run->n * sizeof *run->ids) == 0)
                longest = run->n - 1;
        }
        if (longest >= 0)
            return i - longest;
    }
    return n;
}
/* lengths[i], 0 < i < n: how many tokens before end - i are the same as those before end (Z
 * function of the context read backwards). */
static void common_ends(const int32_t *end, int32_t n, int32_t *lengths)
{
    int32_t left = 0, right = 0; /* [left, right) matches the beginning, right the farthest */
    for (int32_t i = 1; i < n; i++) {
        int32_t length = 0;
        if (i < right)
            length = lengths[i - left] < right - i ? lengths[i - left] : right - i;
        while (i + length < n && end[-1 - length] == end[-1 - i - length])
            length++;
        if (i + length > right) {
            left = i;
            right = i + length;
        }
        lengths[i] = length;
    }
}
static void penalize_repetition(struct sampler *s, const struct sample_row *row)
{
    const struct sample_chain *c = row->params->chain;
    int32_t n = row->n_prompt + row->n_output;
    const int32_t *end = row->history + n, allowed = c->dry_allowed_length;
    int32_t *lengths = (int32_t *)(void *)s->ranked; /* six ints fit where one of these does */
    if (c->dry_multiplier == 0 || c->dry_base < 1)
        return;
    n = c->dry_last_n >= 0 && c->dry_last_n < n ? c->dry_last_n : n;
    n = n < s->vocab ? n : (int32_t)minimum(n, 6.0 * s->vocab);
    const int32_t longest = unbroken(c, end, n);
    if (n <= allowed || longest < allowed)
        return;
    common_ends(end, n, lengths);
    /* counts: length + 1 of the longest repetition that the token goes on with. */
    for (int32_t i = 1; i < n; i++) {
        const int32_t length = lengths[i] < longest ? lengths[i] : longest, token = end[-i];
        CHECK(token >= 0 && token < s->vocab);
        if (length >= allowed && s->counts[token] < length + 1)
            s->counts[token] = length + 1;
    }
    /* llama.cpp's bound: the power stays within a float. */
    const double base = (double)c->dry_base;
    const double exponent_max = base > 1.000001 ? 88.7228391 / log(base) : INFINITY;
    for (int32_t i = 0; i < s->n; i++) {
        const int32_t count = s->counts[s->id[i]];
        if (count > 0)
            s->x[i] -= (double)c->dry_multiplier *
                       pow(base, floor(minimum(count - 1 - allowed, exponent_max)));
    }
    for (int32_t i = 1; i < n; i++)
        s->counts[end[-i]] = 0;
}

static void add_biases(struct sampler *s, const struct sample_params *p)
{
    float *bias = s->work; /* its logits are in x by now */
    for (int32_t i = 0; i < p->n_biases; i++) {
        CHECK(p->biases[i].token >= 0 && p->biases[i].token < s->vocab);
        bias[p->biases[i].token] = 0;
    }
    for (int32_t i = 0; i < p->n_biases; i++)
        bias[p->biases[i].token] += p->biases[i].bias;
    int32_t n = 0, next = 0;
    for (int32_t i = 0; i < p->n_biases; i++)
        s->seen[p->biases[i].token] = 1;
    for (; next < s->n; next++) {
        const int32_t id = s->id[next];
        const double x = s->x[next] + (s->seen[id] ? (double)bias[id] : 0);
        s->x[n] = x;
        s->id[n] = id;
        n += x > -INFINITY;
    }
    s->n = n;
    for (int32_t i = 0; i < p->n_biases; i++)
        s->seen[p->biases[i].token] = 0;
}

/* ---- temperature and filters ------------------------------------------------------------------
 */

static void scale(struct sampler *s, const struct sample_params *p)
{
    const struct sample_chain *c = p->chain;
    double temperature = (double)p->temperature;
    if (c->dynatemp_range > 0 && s->n > 1) {
        /* From the entropy of the distribution, as a share of what it could be at most. */
        const double total = weigh(s), low = temperature - (double)c->dynatemp_range;
        const double entropy = entropy_of(s, total, greatest_of(s) + log(total));
        const double least = low > 0 ? low : 0, most = temperature + (double)c->dynatemp_range;
        temperature = least + (most - least) *
                                  pow(fmax(entropy, 0) / log(s->n), (double)c->dynatemp_exponent);
    }
    if (temperature < (double)GREEDY_BELOW) {
        int32_t best = 0;
        for (int32_t i = 1; i < s->n; i++)
            best = s->x[i] > s->x[best] ? i : best;
        s->x[0] = s->x[best];
        s->id[0] = s->id[best];
        s->n = 1;
        return;
    }
    for (int32_t i = 0; i < s->n; i++)
        s->x[i] /= temperature;
}

/* Logits within n standard deviations of the greatest. */
static void cut_sigma(struct sampler *s, double n_sigma)
{
    double top = s->x[0], mean = 0, square = 0;
    for (int32_t i = 0; i < s->n; i++) {
        top = s->x[i] > top ? s->x[i] : top;
        mean += s->x[i] / s->n;
    }
    for (int32_t i = 0; i < s->n; i++)
        square += (s->x[i] - mean) * (s->x[i] - mean) / s->n;
    const struct ranked last = { .key = top - n_sigma * sqrt(square) };
    sampler_cut_after(s, s->x, last, true);
}
static void cut_typical(struct sampler *s, double typical_p, int32_t keep)
{
    const double total = weigh(s), zero = greatest_of(s) + log(total);
    const double entropy = entropy_of(s, total, zero);
    for (int32_t i = 0; i < s->n; i++)
        s->key[i] = -fabs(zero - s->x[i] - entropy);
    cut(s, s->key, sampler_border(s, s->key, s->weight, typical_p * total), keep);
}
/* The least likely of those over the threshold stays, and what comes behind it. */
static void cut_choices(struct sampler *s, double threshold, int32_t keep)
{
    const double total = weigh(s);
    int32_t over = 0, least = -1;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->weight[i] / total < threshold)
            continue;
        over++;
        if (least < 0 || s->x[i] <= s->x[least])
            least = i;
    }
    if (over < 2 || s->n - (over - 1) < keep)
        return;
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const bool stays = s->weight[i] / total < threshold || i == least;
        s->x[n] = s->x[i];
        s->id[n] = s->id[i];
        n += stays;
    }
    s->n = n;
}

static void run_stage(struct sampler *s, const struct sample_row *row, enum sample_stage stage,
                      bool xtc)
{
    const struct sample_params *p = row->params;
    const struct sample_chain *c = p->chain;
    const int32_t keep = c->min_keep;
    switch (stage) {
    case STAGE_PENALTIES:
        penalize(s, row);
        break;
    case STAGE_DRY:
        penalize_repetition(s, row);
        break;
    case STAGE_BIASES:
        add_biases(s, p);
        break;
    case STAGE_TEMPERATURE:
        scale(s, p);
        break;
    case STAGE_TOP_N_SIGMA:
        if (c->top_n_sigma > 0 && s->n > 1)
            cut_sigma(s, (double)c->top_n_sigma);
        break;
    case STAGE_TOP_K:
        if (p->top_k > 0 && p->top_k < s->n)
            sampler_cut_after(s, s->x, sampler_border(s, s->x, NULL, p->top_k), true);
        break;
    case STAGE_TOP_P:
        if (p->top_p < 1) {
            const double total = weigh(s);
            cut(s, s->x, sampler_border(s, s->x, s->weight, (double)p->top_p * total), keep);
        }
        break;
    case STAGE_MIN_P:
        if (p->min_p > 0) {
            weigh(s);
            memcpy(s->key, s->weight, (size_t)s->n * sizeof *s->key); /* the greatest is 1 */
            cut(s, s->key, (struct ranked){ .key = (double)p->min_p, .id = INT32_MAX }, keep);
        }
        break;
    case STAGE_TYPICAL:
        if (p->typical_p < 1 && s->n > 1)
            cut_typical(s, (double)p->typical_p, keep);
        break;
    case STAGE_XTC:
        if (xtc && s->n > 1)
            cut_choices(s, (double)c->xtc_threshold, keep);
        break;
    case SAMPLE_STAGES:
        break;
    }
}

/* ---- mirostat ---------------------------------------------------------------------------------
 */

static double bound_of(const struct sample_row *row)
{
    CHECK(row->state != NULL);
    return row->state->begun ? row->state->mu : 2 * (double)row->params->chain->mirostat_tau;
}
/* How many of the most likely tokens keep the surprise at mu, if they follow Zipf's law. */
static double zipf_k(struct sampler *s, double mu)
{
    const int32_t n = s->n < MIROSTAT_M ? s->n : MIROSTAT_M;
    double greatest[MIROSTAT_M]; /* the n greatest x, descending */
    int32_t found = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const double x = s->x[i];
        if (found == n && x <= greatest[n - 1])
            continue;
        int32_t at = found < n ? found++ : n - 1;
        for (; at > 0 && greatest[at - 1] < x; at--)
            greatest[at] = greatest[at - 1];
        greatest[at] = x;
    }
    double sum_tb = 0, sum_tt = 0;
    for (int32_t i = 0; i + 1 < n; i++) {
        const double t = log((double)(i + 2) / (i + 1));
        sum_tb += t * (greatest[i] - greatest[i + 1]); /* log(p_i / p_i+1) */
        sum_tt += t * t;
    }
    const double slope = sum_tb / sum_tt, e = slope - 1;
    return pow(e * exp2(mu) / (1 - pow(s->vocab, -e)), 1 / slope);
}
static void cut_surprise(struct sampler *s, const struct sample_row *row)
{
    const double mu = bound_of(row), total = weigh(s);
    if (s->n < 2)
        return;
    if (row->params->chain->mirostat == 1) {
        double k = zipf_k(s, mu);
        k = k >= 1 ? minimum(floor(k), s->n) : 1; /* NaN too: all are equally likely */
        sampler_cut_after(s, s->x, sampler_border(s, s->x, NULL, k), false);
        return;
    }
    /* What has more surprise than mu goes, but the likeliest stays. */
    const double least = total * exp2(-mu);
    memcpy(s->key, s->weight, (size_t)s->n * sizeof *s->key);
    sampler_cut_after(s, s->key, (struct ranked){ .key = minimum(1, least), .id = INT32_MAX },
                      false);
    if (least > 1)
        s->n = 1;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

/* A word that would be complete with its last token at the end of the output. */
static void exclude_bad_words(struct sampler *s, const struct sample_row *row)
{
    const struct sample_chain *c = row->params->chain;
    const int32_t *end = row->history + row->n_prompt + row->n_output;
    for (int32_t i = 0; i < c->n_bad_words; i++) {
        const struct token_run *word = &c->bad_words[i];
        const int32_t n = word->n - 1;
        if (n <= row->n_output && memcmp(end - n, word->ids, (size_t)n * sizeof *end) == 0)
            s->work[word->ids[n]] = -INFINITY;
    }
}

bool chain_has_xtc(const struct sample_chain *c)
{
    bool named = false;
    for (int32_t i = 0; i < c->n_stages; i++)
        named = named || c->stages[i] == STAGE_XTC;
    return named && c->xtc_probability > 0 && c->xtc_threshold <= 0.5f;
}

bool chain_candidates(struct sampler *s, const float *logits, const struct sample_row *row,
                      bool xtc)
{
    const struct sample_chain *c = row->params->chain;
    memcpy(s->work, logits, (size_t)s->vocab * sizeof *logits);
    sampler_exclude(s, row);
    exclude_bad_words(s, row);
    float top = -INFINITY;
    for (int32_t i = 0; i < s->vocab; i++)
        top = s->work[i] > top ? s->work[i] : top;
    s->n = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        /* +infinity leaves no room for the others */
        const bool in = top < INFINITY ? s->work[i] > -INFINITY : s->work[i] == top;
        s->id[s->n] = i;
        s->x[s->n] = top < INFINITY ? (double)s->work[i] : 0;
        s->n += in;
    }
    for (int32_t i = 0; i < c->n_stages && s->n > 0; i++)
        run_stage(s, row, c->stages[i], xtc);
    if (s->n == 0)
        return false;
    if (c->mirostat)
        cut_surprise(s, row);
    weigh(s);
    return true;
}

void chain_drawn(const struct sampler *s, const struct sample_row *row, int32_t token)
{
    const struct sample_chain *c = row->params->chain;
    if (!c->mirostat || token < 0)
        return;
    double total = 0, mine = 0;
    for (int32_t i = 0; i < s->n; i++) {
        total += s->weight[i];
        mine += s->id[i] == token ? s->weight[i] : 0;
    }
    const double surprise = -log2(mine / total);
    row->state->mu = bound_of(row) - (double)c->mirostat_eta * (surprise - (double)c->mirostat_tau);
    row->state->begun = true;
}
