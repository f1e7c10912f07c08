/* sampler.c - the sampling arithmetic of sampler.h, host form.
 *
 * All probabilities are doubles. Candidates are kept in ascending id order throughout; filters find
 * the border they cut at by selection (a histogram, then quickselect inside one bin), never by
 * sorting the vocabulary. Invariant: `counts` and `seen` are all zero between calls. One sampler
 * belongs to one thread; allocates in sampler_open only. */
#include "host/backend/sampler_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/rng.h"

struct sample_params sample_params_neutral(void)
{
    return (struct sample_params){
        .temperature = 1,
        .top_p = 1,
        .typical_p = 1,
        .repetition_penalty = 1,
        .n_top = -1,
    };
}

bool sampler_open(struct sampler **sampler, int32_t vocab, struct err *err)
{
    CHECK(vocab > 0);
    const size_t n = (size_t)vocab;
    struct sampler *s = calloc(1, sizeof *s);
    *sampler = s;
    if (!s)
        goto fail;
    s->vocab = vocab;
    s->counts = calloc(n, sizeof *s->counts);
    s->seen = calloc(n, sizeof *s->seen);
    s->work = calloc(n, sizeof *s->work);
    s->x = calloc(n, sizeof *s->x);
    s->weight = calloc(n, sizeof *s->weight);
    s->key = calloc(n, sizeof *s->key);
    s->id = calloc(n, sizeof *s->id);
    s->ranked = calloc(n, sizeof *s->ranked);
    if (!s->counts || !s->seen || !s->work || !s->x || !s->weight || !s->key || !s->id ||
        !s->ranked)
        goto fail;
    return true;
fail:
    sampler_close(s);
    *sampler = NULL;
    return err_set(err, ERR_MEMORY, "sampler for %d tokens: out of memory", vocab);
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->counts);
    free(s->seen);
    free(s->work);
    free(s->x);
    free(s->weight);
    free(s->key);
    free(s->id);
    free(s->ranked);
    free(s);
}

/* ---- arithmetic over the vocabulary -----------------------------------------------------------
 */

/* NaNs never win; -infinity when there is nothing else. */
static float greatest(const float *x, int32_t n)
{
    float lanes[16];
    for (int32_t k = 0; k < 16; k++)
        lanes[k] = -INFINITY;
    int32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int32_t k = 0; k < 16; k++)
            lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k];
    for (; i < n; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int32_t k = 1; k < 16; k++)
        lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
    return lanes[0];
}
static int32_t first_equal(const float *x, int32_t n, float value)
{
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int32_t any = 0;
        for (int32_t k = 0; k < 16; k++)
            any |= x[i + k] == value;
        if (any)
            break;
    }
    while (i < n && x[i] != value)
        i++;
    return i < n ? i : -1;
}
static int32_t argmax(const float *x, int32_t n)
{
    const float top = greatest(x, n);
    return top > -INFINITY ? first_equal(x, n, top) : -1;
}

/* log sum e^x, x - greatest taken in double; NaNs count as excluded. */
static double log_sum_exp(const float *x, int32_t n)
{
    enum { LANES = 8 };
    const float top = greatest(x, n);
    if (!(fabsf(top) < INFINITY))
        return (double)top;
    double lanes[LANES] = { 0 };
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int32_t k = 0; k < LANES; k++) {
            const double d = (double)x[i + k] - (double)top;
            lanes[k] += exp_double(d <= 0 ? d : -INFINITY);
        }
    for (; i < n; i++)
        if (x[i] <= top)
            lanes[0] += exp_double((double)x[i] - (double)top);
    for (int32_t k = 1; k < LANES; k++)
        lanes[0] += lanes[k];
    return (double)top + log(lanes[0]);
}

/* ---- selection --------------------------------------------------------------------------------
 */

static bool before(const struct ranked *a, const struct ranked *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}
static void swap(struct ranked *a, struct ranked *b)
{
    const struct ranked t = *a;
    *a = *b;
    *b = t;
}
/* The first of items[0..n), in order, at which the sum of weights reaches `target`; the last one if
 * it never does. Reorders items. Expected O(n): the middle of three is the pivot. */
static struct ranked crossing(struct ranked *items, int32_t n, double target)
{
    while (n > 1) {
        struct ranked *a = &items[0], *b = &items[n / 2], *c = &items[n - 1];
        if (before(b, a))
            swap(a, b);
        if (before(c, b))
            swap(b, c);
        if (before(b, a))
            swap(a, b);
        const struct ranked pivot = *b;
        /* [0, i) come before the pivot; the rest is the pivot or after it */
        double sum = 0;
        int32_t i = 0;
        for (int32_t j = 0; j < n; j++)
            if (before(&items[j], &pivot)) {
                sum += items[j].weight;
                swap(&items[i++], &items[j]);
            }
        if (i > 0 && sum >= target) {
            n = i;
            continue;
        }
        if (sum + pivot.weight >= target || i == n - 1)
            return pivot;
        target -= sum + pivot.weight;
        int32_t kept = 0; /* at least one: i < n - 1 */
        for (int32_t j = i; j < n; j++)
            if (before(&pivot, &items[j]))
                items[kept++] = items[j];
        n = kept;
    }
    return items[0];
}

/* The candidate at which the weights, summed in order of key descending and id ascending, reach
 * `target`. weights NULL: each is 1. Keys are finite. */
struct ranked sampler_border(struct sampler *s, const double *key, const double *weights,
                             double target)
{
    double top = key[0], low = key[0];
    for (int32_t i = 1; i < s->n; i++) {
        top = key[i] > top ? key[i] : top;
        low = key[i] < low ? key[i] : low;
    }
    const double per = top > low ? (BINS - 1) / (top - low) : 0;
    memset(s->bins, 0, sizeof s->bins);
    for (int32_t i = 0; i < s->n; i++)
        s->bins[(int32_t)((top - key[i]) * per)] += weights ? weights[i] : 1;
    /* The sum inside a bin is taken again in another order: leave the last bin open. */
    double sum = 0;
    int32_t bin = 0;
    while (bin < BINS - 1 && sum + s->bins[bin] < target)
        sum += s->bins[bin++];
    while (bin > 0 && s->bins[bin] == 0) { /* past the end: back to the last that has any */
        bin--;
        if (s->bins[bin] > 0)
            sum -= s->bins[bin];
    }
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++)
        if ((int32_t)((top - key[i]) * per) == bin)
            s->ranked[n++] = (struct ranked){ key[i], weights ? weights[i] : 1, s->id[i] };
    CHECK(n > 0);
    return crossing(s->ranked, n, target - sum);
}

/* Candidates stay that do not come after `last`; with ties, all whose key equals its. */
void sampler_cut_after(struct sampler *s, const double *key, struct ranked last, bool ties)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const bool stays =
            key[i] > last.key || (key[i] == last.key && (ties || s->id[i] <= last.id));
        s->x[n] = s->x[i];
        s->weight[n] = s->weight[i];
        s->id[n] = s->id[i];
        n += stays;
    }
    s->n = n;
}

/* ---- one row ----------------------------------------------------------------------------------
 */

void sampler_mark(struct sampler *s, const struct sample_row *row, int32_t from, int32_t count_from)
{
    for (int32_t i = from; i < row->n_prompt + row->n_output; i++) {
        const int32_t token = row->history[i];
        CHECK(token >= 0 && token < s->vocab);
        s->seen[token] = 1;
        s->counts[token] += i >= count_from;
    }
}
void sampler_unmark(struct sampler *s, const struct sample_row *row, int32_t from)
{
    for (int32_t i = from; i < row->n_prompt + row->n_output; i++) {
        s->seen[row->history[i]] = 0;
        s->counts[row->history[i]] = 0;
    }
}
/* Each token of the history once, clearing the marks. */
static void apply_penalties(struct sampler *s, const struct sample_row *row)
{
    const struct sample_params *p = row->params;
    sampler_mark(s, row, 0, row->n_prompt);
    for (int32_t i = 0; i < row->n_prompt + row->n_output; i++) {
        const int32_t token = row->history[i];
        if (!s->seen[token])
            continue;
        double x = (double)s->work[token];
        const double r = (double)p->repetition_penalty, count = s->counts[token];
        x = x > 0 ? x / r : x * r;
        x -= (double)p->frequency_penalty * count;
        x -= count > 0 ? (double)p->presence_penalty : 0;
        s->work[token] = (float)x;
        s->seen[token] = 0;
        s->counts[token] = 0;
    }
}

/* Whether the row's logits need any change before the choice. */
static bool is_plain(const struct sample_row *row)
{
    const struct sample_params *p = row->params;
    const bool penalties =
        p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
    return !(penalties && row->n_prompt + row->n_output > 0) && p->n_biases == 0 &&
           row->n_banned == 0 && !row->mask && !p->allowed;
}
void sampler_exclude(struct sampler *s, const struct sample_row *row)
{
    const uint32_t *masks[2] = { row->mask, row->params->allowed };
    for (int32_t i = 0; i < row->n_banned; i++) {
        CHECK(row->banned[i] >= 0 && row->banned[i] < s->vocab);
        s->work[row->banned[i]] = -INFINITY;
    }
    for (int32_t k = 0; k < 2; k++)
        for (int32_t i = 0; masks[k] && i < s->vocab; i++)
            s->work[i] = masks[k][i / 32] >> (i % 32) & 1 ? s->work[i] : -INFINITY;
}
/* Logits after penalties, bias, bans and mask. */
static const float *changed_logits(struct sampler *s, const float *logits,
                                   const struct sample_row *row)
{
    const struct sample_params *p = row->params;
    if (is_plain(row))
        return logits;
    memcpy(s->work, logits, (size_t)s->vocab * sizeof *logits);
    if (p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0)
        apply_penalties(s, row);
    for (int32_t i = 0; i < p->n_biases; i++) {
        CHECK(p->biases[i].token >= 0 && p->biases[i].token < s->vocab);
        s->work[p->biases[i].token] += p->biases[i].bias;
    }
    sampler_exclude(s, row);
    return s->work;
}

static double weights_of(struct sampler *s)
{
    double total = 0;
    for (int32_t i = 0; i < s->n; i++)
        s->weight[i] = exp_double(s->x[i]);
    for (int32_t i = 0; i < s->n; i++)
        total += s->weight[i];
    return total;
}
static double total_weight(const struct sampler *s)
{
    double total = 0;
    for (int32_t i = 0; i < s->n; i++)
        total += s->weight[i];
    return total;
}

/* Locally typical sampling (Meister et al. 2022): tokens whose surprise is closest to the entropy,
 * until their probability reaches typical_p. */
static void cut_typical(struct sampler *s, double typical_p)
{
    const double total = total_weight(s), log_total = log(total);
    double entropy = 0;
    for (int32_t i = 0; i < s->n; i++)
        entropy -= s->weight[i] / total * (s->x[i] - log_total);
    for (int32_t i = 0; i < s->n; i++)
        s->key[i] = -fabs(log_total - s->x[i] - entropy);
    sampler_cut_after(s, s->key, sampler_border(s, s->key, s->weight, typical_p * total), false);
}

/* Fills x, weight, id with what may be drawn, in ascending id order; false when nothing may. */
static bool find_candidates(struct sampler *s, const float *logits, const struct sample_params *p)
{
    const float top = greatest(logits, s->vocab);
    if (!(top > -INFINITY))
        return false;
    int32_t n = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        /* +infinity leaves no room for the others */
        const bool in = top < INFINITY ? logits[i] > -INFINITY : logits[i] == top;
        s->id[n] = i;
        s->x[n] = top < INFINITY ? (double)logits[i] : 0;
        n += in;
    }
    s->n = n;
    if (p->top_k > 0 && p->top_k < s->n)
        sampler_cut_after(s, s->x, sampler_border(s, s->x, NULL, p->top_k), true);
    const double temperature = (double)p->temperature;
    for (int32_t i = 0; i < s->n; i++)
        s->x[i] = top < INFINITY ? (s->x[i] - (double)top) / temperature : 0;
    const double total = weights_of(s);
    if (p->top_p < 1)
        sampler_cut_after(s, s->x, sampler_border(s, s->x, s->weight, (double)p->top_p * total),
                          false);
    if (p->min_p > 0) {
        /* the greatest weight is 1 */
        const struct ranked last = { .key = (double)p->min_p };
        memcpy(s->key, s->weight, (size_t)s->n * sizeof *s->key);
        sampler_cut_after(s, s->key, last, true);
    }
    if (p->typical_p < 1 && s->n > 1)
        cut_typical(s, (double)p->typical_p);
    return s->n > 0;
}

static int32_t draw(const struct sampler *s, double u)
{
    const double target = u * total_weight(s);
    double sum = 0;
    int32_t last = -1;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->weight[i] <= 0)
            continue;
        last = s->id[i];
        sum += s->weight[i];
        if (sum > target)
            break;
    }
    return last;
}

/* The n most likely of the raw logits, most likely first, lower id first on a tie. */
static void top_logprobs(const float *logits, int32_t vocab, double log_sum, int32_t n,
                         struct sample_out *out)
{
    float top[SAMPLE_TOP_MAX];
    int32_t found = 0;
    for (int32_t i = 0; i < vocab; i++) {
        const float x = logits[i];
        if (!(x > -INFINITY) || (found == n && !(x > top[n - 1])))
            continue;
        int32_t at = found < n ? found++ : n - 1;
        for (; at > 0 && top[at - 1] < x; at--) {
            top[at] = top[at - 1];
            out->top_tokens[at] = out->top_tokens[at - 1];
        }
        top[at] = x;
        out->top_tokens[at] = i;
    }
    out->n_top = found;
    for (int32_t i = 0; i < found; i++)
        out->top_logprobs[i] = (float)((double)top[i] - log_sum);
}

static int32_t draw_of_chain(struct sampler *s, const float *logits, const struct sample_row *row)
{
    const struct sample_params *p = row->params;
    const uint64_t position = (uint64_t)row->position;
    const bool xtc = chain_has_xtc(p->chain) && rng_uniform_second(p->seed, row->index, position) <
                                                    (double)p->chain->xtc_probability;
    if (!chain_candidates(s, logits, row, xtc))
        return -1;
    const int32_t token = draw(s, rng_uniform(p->seed, row->index, position));
    chain_drawn(s, row, token);
    return token;
}

void sampler_row(struct sampler *s, const float *logits, const struct sample_row *row,
                 struct sample_out *out)
{
    const struct sample_params *p = row->params;
    CHECK(p->n_top <= SAMPLE_TOP_MAX && !row->in_flight);
    out->logprob = 0;
    out->n_top = 0;
    if (row->target >= 0) {
        CHECK(row->target < s->vocab);
        out->token = row->target;
    } else if (p->chain) {
        out->token = draw_of_chain(s, logits, row);
    } else {
        const float *x = changed_logits(s, logits, row);
        if (p->temperature < GREEDY_BELOW)
            out->token = argmax(x, s->vocab);
        else if (find_candidates(s, x, p))
            out->token = draw(s, rng_uniform(p->seed, row->index, (uint64_t)row->position));
        else
            out->token = -1;
    }
    if (p->n_top < 0 || out->token < 0)
        return;
    const double log_sum = log_sum_exp(logits, s->vocab);
    out->logprob = (float)((double)logits[out->token] - log_sum);
    if (p->n_top > 0)
        top_logprobs(logits, s->vocab, log_sum, p->n_top, out);
}

/* Adds `share` of what the candidates' weights say. */
static void add_probs(const struct sampler *s, double share, double *probs)
{
    const double total = total_weight(s);
    for (int32_t i = 0; i < s->n; i++)
        probs[s->id[i]] += share * (s->weight[i] / total);
}

void sampler_probs(struct sampler *s, const float *logits, const struct sample_row *row,
                   double *probs)
{
    const struct sample_params *p = row->params;
    memset(probs, 0, (size_t)s->vocab * sizeof *probs);
    if (p->chain) {
        const double chance = chain_has_xtc(p->chain) ? (double)p->chain->xtc_probability : 0;
        for (int32_t xtc = 0; xtc < 2; xtc++) {
            const double share = xtc ? chance : 1 - chance;
            if (share > 0 && chain_candidates(s, logits, row, xtc))
                add_probs(s, share, probs);
        }
        return;
    }
    const float *x = changed_logits(s, logits, row);
    if (p->temperature < GREEDY_BELOW) {
        const int32_t token = argmax(x, s->vocab);
        if (token >= 0)
            probs[token] = 1;
    } else if (find_candidates(s, x, p)) {
        add_probs(s, 1, probs);
    }
}
