/* sample.cuh - sample.cu's tools: weights, sums and borders of one row, by one block.
 *
 * A border (the last token that stays, by weight or by count) takes two passes as a rule:
 *   1. histogram  2048 bins by distance from the greatest: 1/64 of T each (in whole numbers)
 *   2. measure    the exact sums before and behind the bin that should be cut, and its tokens
 * The bin counts only after the exact sums have agreed; else its neighbour, then halves. Up to 1024
 * tokens of a bin are sorted in shared memory; more are divided again, by the bits of the logits,
 * until one value is left whose tokens rank by id.
 *
 * Warp w of the block has the ids [from, to) of struct row, lanes side by side. All threads of the
 * block call each function and get the same result. */
#pragma once
#include <math.h>
#include "cuda/device.cuh"

enum {
    BINS = 2048,
    BINS_PER_UNIT = 64, /* of (max - x) / T: 32 units in all, e^-32 = 1e-14 */
    LIST = 1024,        /* tokens that are sorted */
    WARPS_MAX = 32,
    /* Below: 8 warps, because barriers of many threads cost more than the few steps they save. */
    VOCAB_SMALL = 16384,
    THREADS_SMALL = 256,
    THREADS_LARGE = 512, /* 1024 have 64 registers each, which are a few too few */
    STEP = 16,           /* loads in flight a lane: 512 * 16 * 4 bytes cover L2's latency */
};
static_assert(BINS % THREADS_LARGE == 0 && BINS % THREADS_SMALL == 0, "whole bins a thread");
#define GREEDY_BELOW 1e-5f
#define WEIGHT_UNITS 2147483648.0f /* the histogram's: all weights together are about 2^31 */

/* A token by rank: key descending, id ascending. */
struct ranked {
    uint32_t key;
    int32_t id;
};
/* Tokens stay up to this one. */
struct cut {
    uint32_t key;
    int32_t id;
};
struct memory {
    double sums[2][WARPS_MAX];
    double weights[LIST];
    struct ranked list[LIST], sorted[LIST];
    uint32_t bins[BINS];
    uint32_t words[2][WARPS_MAX];
    uint32_t n_list;
    struct ranked chosen; /* who writes it has met a barrier since it was read: histogram,
                             list_sort, tie_border and slices_load begin with one */
};
/* A row while it is searched. */
struct row {
    const float *x;
    int32_t n, from, to; /* ids of the row; of this warp */
    int32_t n_warps;
    float top;
    double temperature;
    bool counted; /* every token weighs 1 */
};

/* ---- one logit --------------------------------------------------------------------------------
 */

/* Ordered like the logits; 0: NaN or -infinity, which can never be drawn. */
DEVICE uint32_t key_of(float x)
{
    if (!(x > -INFINITY))
        return 0u;
    const uint32_t bits = f32_bits(x + 0.0f); /* -0 is 0 */
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
DEVICE float logit_of(uint32_t key)
{
    return f32_of_bits((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
DEVICE bool ranks_before(uint32_t key, int32_t id, uint32_t other_key, int32_t other_id)
{
    return key > other_key || (key == other_key && id < other_id);
}
DEVICE bool stays(struct cut cut, uint32_t key, int32_t id)
{
    return key > cut.key || (key == cut.key && id <= cut.id);
}
DEVICE struct cut cut_nothing()
{
    struct cut cut;
    cut.key = 1u;
    cut.id = 0x7fffffff;
    return cut;
}

/* The host form's e^x for x <= 0 (sampler.c, exp_double), operation by operation. */
DEVICE double exp_double(double x)
{
    const double y = x > -708.0 ? x : -708.0;
    const double shifted = add_f64(mul_f64(y, 0x1.71547652b82fep0), 0x1.8p52);
    const double n = add_f64(shifted, -0x1.8p52);
    const double r =
        add_f64(add_f64(y, -mul_f64(n, 0x1.62e42fefa38p-1)), -mul_f64(n, 0x1.ef35793c7673p-45));
    double q = 2.510038549551032e-08;
    q = add_f64(mul_f64(q, r), 2.7620088445409746e-07);
    q = add_f64(mul_f64(q, r), 2.7557268459997064e-06);
    q = add_f64(mul_f64(q, r), 2.4801521295954376e-05);
    q = add_f64(mul_f64(q, r), 0.00019841269863053618);
    q = add_f64(mul_f64(q, r), 0.0013888888917213717);
    q = add_f64(mul_f64(q, r), 0.008333333333330062);
    q = add_f64(mul_f64(q, r), 0.04166666666662413);
    q = add_f64(mul_f64(q, r), 0.16666666666666669);
    q = add_f64(mul_f64(q, r), 0.5);
    const double p = add_f64(1.0, add_f64(r, mul_f64(mul_f64(r, r), q)));
    const double result = f64_of_bits(f64_bits(p) + (f64_bits(shifted) << 52));
    return x >= -708.0 ? result : 0.0;
}
DEVICE double weight_of(const struct row &r, float x)
{
    if (r.counted || x == r.top)
        return 1.0;
    double d = add_f64((double)x, -(double)r.top);
    if (r.temperature != 1.0)
        d = d / r.temperature;
    return exp_double(d);
}

/* ---- sums over the block: the same order whatever the values ----------------------------------
 */

DEVICE double shfl_xor_f64(double v, int mask)
{
    const uint64_t bits = f64_bits(v);
    const uint32_t low = shfl_xor((uint32_t)bits, mask);
    const uint32_t high = shfl_xor((uint32_t)(bits >> 32), mask);
    return f64_of_bits((uint64_t)high << 32 | low);
}
DEVICE double warp_sum(double v)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v = add_f64(v, shfl_xor_f64(v, mask));
    return v;
}
DEVICE uint32_t warp_max(uint32_t v)
{
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint32_t other = shfl_xor(v, mask);
        v = other > v ? other : v;
    }
    return v;
}
/* The sum of v over this lane and those below. */
DEVICE uint32_t warp_prefix(uint32_t v)
{
    for (int step = 1; step < 32; step *= 2) {
        const uint32_t below = shfl(v, (lane_id() - step) & 31);
        v += lane_id() >= step ? below : 0u;
    }
    return v;
}

/* ---- passes over the row ----------------------------------------------------------------------
 */

/* Ids at, at + 32, .. of this lane; -infinity behind the warp's. */
DEVICE void load_logits(float (&v)[STEP], const struct row &r, int32_t at)
{
#pragma unroll
    for (int u = 0; u < STEP; u++) {
        const int32_t id = at + 32 * u + lane_id();
        v[u] = id < r.to ? r.x[id] : -INFINITY;
    }
}

/* The greatest and its lowest id; key 0: there is none. */
DEVICE struct ranked row_greatest(struct memory *m, const struct row &r)
{
    struct ranked best = { 0u, 0x7fffffff };
    for (int32_t at = r.from; at < r.to; at += 32 * STEP) {
        float v[STEP];
        load_logits(v, r, at);
#pragma unroll
        for (int u = 0; u < STEP; u++) {
            const uint32_t key = key_of(v[u]);
            const bool better = key > best.key;
            best.id = better ? at + 32 * u + lane_id() : best.id;
            best.key = better ? key : best.key;
        }
    }
    for (int round = 0; round < 2; round++) {
        for (int mask = 16; mask > 0; mask /= 2) {
            const uint32_t key = shfl_xor(best.key, mask);
            const int32_t id = (int32_t)shfl_xor((uint32_t)best.id, mask);
            const bool better = ranks_before(key, id, best.key, best.id);
            best.id = better ? id : best.id;
            best.key = better ? key : best.key;
        }
        if (round == 1)
            break;
        if (lane_id() == 0) {
            m->words[0][warp_id()] = best.key;
            m->words[1][warp_id()] = (uint32_t)best.id;
        }
        block_sync();
        const bool there = lane_id() < r.n_warps;
        best.key = there ? m->words[0][lane_id()] : 0u;
        best.id = there ? (int32_t)m->words[1][lane_id()] : 0x7fffffff;
        block_sync();
    }
    return best;
}

/* The keys that are searched, in bins: level 0 all of them by distance from the greatest, then
 * [low, high] by 2^shift keys. */
struct range {
    int32_t level, shift;
    uint32_t low, high;
    float per; /* level 0: bins a unit of logit */
};
DEVICE struct range range_first(const struct row &r)
{
    struct range g;
    g.level = g.shift = 0;
    g.low = 1u;
    g.high = 0xffffffffu;
    g.per = (float)((double)BINS_PER_UNIT / (r.counted ? 1.0 : r.temperature));
    return g;
}
DEVICE struct range range_inside(struct range g, uint32_t low, uint32_t high)
{
    g.level++;
    g.low = low;
    g.high = high;
    for (g.shift = 0; (high - low) >> g.shift >= (uint32_t)BINS; g.shift++)
        ;
    return g;
}
/* The better, the lower; -1 before the range, BINS behind it. */
DEVICE int32_t bin_of(const struct row &r, const struct range &g, float x, uint32_t key)
{
    if (g.level == 0)
        return x == r.top ? 0 : (int32_t)fminf((r.top - x) * g.per, (float)(BINS - 1));
    if (key > g.high)
        return -1;
    return key < g.low ? BINS : (int32_t)((g.high - key) >> g.shift);
}

/* bins[b] = about scale * the weights of the bin, a count exactly. A guess for whom measure()
 * checks: so the last bin of level 0, where most of a large vocabulary is, is left out. */
DEVICE void histogram(struct memory *m, const struct row &r, struct cut cut, const struct range &g,
                      float scale)
{
    for (int b = (int)threadIdx.x; b < BINS; b += 32 * r.n_warps)
        m->bins[b] = 0u;
    block_sync();
    const int32_t last = g.level == 0 ? BINS - 2 : BINS - 1;
    const float slope = -1.4426950408889634f / (float)r.temperature;
    for (int32_t at = r.from; at < r.to; at += 32 * STEP) {
        float v[STEP];
        load_logits(v, r, at);
#pragma unroll
        for (int u = 0; u < STEP; u++) {
            const uint32_t key = key_of(v[u]);
            const int32_t bin = key != 0u ? bin_of(r, g, v[u], key) : -1;
            if (bin < 0 || bin > last || !stays(cut, key, at + 32 * u + lane_id()))
                continue;
            const float d = v[u] == r.top ? 0.0f : r.top - v[u];
            shared_add(&m->bins[bin], r.counted ? 1u : (uint32_t)(exp2_fast(d * slope) * scale));
        }
    }
    block_sync();
}
/* The first bin up to which there are `want`; the last one if there is none. What follows it,
 * measure(), begins with a barrier before anything read here is written again. */
DEVICE int32_t guess_bin(struct memory *m, const struct row &r, uint32_t want)
{
    const int each = BINS / (32 * r.n_warps), first = (int)threadIdx.x * each;
    uint32_t mine = 0u;
    for (int b = first; b < first + each; b++)
        mine += m->bins[b];
    const uint32_t up_to = warp_prefix(mine);
    if (lane_id() == 31)
        m->words[0][warp_id()] = up_to;
    if (threadIdx.x == 0)
        m->chosen.id = BINS - 1;
    block_sync();
    const uint32_t warps = warp_prefix(lane_id() < r.n_warps ? m->words[0][lane_id()] : 0u);
    const uint32_t below = shfl(warps, (warp_id() - 1) & 31);
    uint32_t sum = up_to - mine + (warp_id() > 0 ? below : 0u);
    if (sum < want && sum + mine >= want) { /* one thread, or none */
        int b = first;
        while (sum + m->bins[b] < want)
            sum += m->bins[b++];
        m->chosen.id = b;
    }
    block_sync();
    return m->chosen.id;
}

/* Weights of what stays and ranks before bin `bin`, and up to its end; its tokens. */
struct tally {
    double before, up_to;
    uint32_t low, high; /* keys of the bin */
    int32_t n;          /* its tokens; the list has them if they are at most LIST */
};
/* Tokens of the lanes where `in`, at the end of the list. All lanes. */
DEVICE void list_add(struct memory *m, bool in, uint32_t key, int32_t id)
{
    const uint32_t lanes = warp_ballot(in);
    if (lanes == 0u)
        return;
    uint32_t at = 0u;
    if (lane_id() == 0)
        at = shared_add(&m->n_list, (uint32_t)popcount(lanes));
    at = shfl(at, 0) + (uint32_t)popcount(lanes & ((1u << lane_id()) - 1u));
    if (in && at < (uint32_t)LIST) {
        m->list[at].key = key;
        m->list[at].id = id;
    }
}
DEVICE struct tally measure(struct memory *m, const struct row &r, struct cut cut,
                            const struct range &g, int32_t bin, bool listed)
{
    struct tally t = { 0.0, 0.0, 0xffffffffu, 0u, 0 };
    if (threadIdx.x == 0)
        m->n_list = 0u;
    block_sync();
    for (int32_t at = r.from; at < r.to; at += 32 * STEP) {
        float v[STEP];
        load_logits(v, r, at);
#pragma unroll
        for (int u = 0; u < STEP; u++) {
            const uint32_t key = key_of(v[u]);
            const int32_t id = at + 32 * u + lane_id();
            const int32_t its = key != 0u && stays(cut, key, id) ? bin_of(r, g, v[u], key) : BINS;
            if (its <= bin) {
                const double w = weight_of(r, v[u]);
                t.up_to = add_f64(t.up_to, w);
                t.before = add_f64(t.before, its < bin ? w : 0.0);
            }
            if (its == bin) {
                t.low = key < t.low ? key : t.low;
                t.high = key > t.high ? key : t.high;
            }
            if (listed)
                list_add(m, its == bin, key, id);
        }
    }
    t.before = warp_sum(t.before);
    t.up_to = warp_sum(t.up_to);
    t.low = ~warp_max(~t.low);
    t.high = warp_max(t.high);
    if (lane_id() == 0) {
        m->sums[0][warp_id()] = t.before;
        m->sums[1][warp_id()] = t.up_to;
        m->words[0][warp_id()] = t.low;
        m->words[1][warp_id()] = t.high;
    }
    block_sync();
    const bool there = lane_id() < r.n_warps;
    t.before = warp_sum(there ? m->sums[0][lane_id()] : 0.0);
    t.up_to = warp_sum(there ? m->sums[1][lane_id()] : 0.0);
    t.low = ~warp_max(there ? ~m->words[0][lane_id()] : 0u);
    t.high = warp_max(there ? m->words[1][lane_id()] : 0u);
    t.n = (int32_t)m->n_list;
    block_sync();
    return t;
}
/* The weight of all that stays. */
DEVICE double total_weight(struct memory *m, const struct row &r, struct cut cut)
{
    return measure(m, r, cut, range_first(r), BINS - 1, false).up_to;
}

/* ---- borders ----------------------------------------------------------------------------------
 */

/* list[0..n) by rank to sorted[]. */
DEVICE void list_sort(struct memory *m, const struct row &r, int32_t n)
{
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += 32 * r.n_warps) {
        const struct ranked mine = m->list[i];
        int32_t rank = 0;
        for (int32_t j = 0; j < n; j++)
            rank += ranks_before(m->list[j].key, m->list[j].id, mine.key, mine.id);
        m->sorted[rank] = mine;
        m->weights[rank] = weight_of(r, logit_of(mine.key));
    }
    block_sync();
}
/* The first of the n listed tokens with which `before` grows to the target; else the last. */
DEVICE struct cut list_border(struct memory *m, const struct row &r, int32_t n, double before,
                              double target)
{
    list_sort(m, r, n);
    if (threadIdx.x == 0) {
        double sum = add_f64(before, m->weights[0]);
        int32_t i = 0;
        while (i + 1 < n && sum < target)
            sum = add_f64(sum, m->weights[++i]);
        m->chosen = m->sorted[i];
    }
    block_sync();
    const struct cut cut = { m->chosen.key, m->chosen.id };
    return cut;
}
/* The number'th (from 1) token, by id, of those with this key that stay. */
DEVICE struct cut tie_border(struct memory *m, const struct row &r, struct cut cut, uint32_t key,
                             uint32_t number)
{
    uint32_t mine = 0u;
    for (int32_t at = r.from; at < r.to; at += 32) {
        const int32_t id = at + lane_id();
        mine += id < r.to && key_of(r.x[id]) == key && stays(cut, key, id);
    }
    const uint32_t in_warp = shfl(warp_prefix(mine), 31);
    if (lane_id() == 0)
        m->words[0][warp_id()] = in_warp;
    block_sync();
    const uint32_t warps = warp_prefix(lane_id() < r.n_warps ? m->words[0][lane_id()] : 0u);
    uint32_t found = shfl(warps, warp_id()) - in_warp;
    if (found < number && found + in_warp >= number)
        for (int32_t at = r.from; at < r.to; at += 32) {
            const int32_t id = at + lane_id();
            const bool tie = id < r.to && key_of(r.x[id]) == key && stays(cut, key, id);
            const uint32_t lanes = warp_ballot(tie);
            const uint32_t below = (uint32_t)popcount(lanes & ((1u << lane_id()) - 1u));
            if (tie && found + below + 1u == number)
                m->chosen.id = id;
            found += (uint32_t)popcount(lanes);
        }
    block_sync();
    const struct cut border = { key, m->chosen.id };
    return border;
}

/* The bin in which the target is reached: its tally. Sums over more tokens are never smaller (one
 * order, rounding is monotone), so there is exactly one such bin, found from any guess. */
DEVICE struct tally border_bin(struct memory *m, const struct row &r, struct cut cut,
                               const struct range &g, int32_t bin, double target)
{
    int32_t first = 0, last = BINS - 1;
    for (int32_t tries = 0;; tries++) {
        const struct tally t = measure(m, r, cut, g, bin, true);
        int32_t next;
        if (t.up_to < target && bin < last) {
            first = bin + 1;
            next = first;
        } else if (t.before >= target && bin > first) {
            last = bin - 1;
            next = last;
        } else {
            return t;
        }
        bin = tries < 2 ? next : first + (last - first) / 2;
    }
}
/* The token at which the weights of what stays, by rank, reach the target; `cut` itself if they
 * never do. scale: of the histogram. */
DEVICE struct cut border(struct memory *m, const struct row &r, struct cut cut, double target,
                         float scale)
{
    struct range g = range_first(r);
    double above = 0.0;
    for (;;) {
        histogram(m, r, cut, g, scale);
        const double want = ceil((target - above) * (double)scale);
        const int32_t bin =
            guess_bin(m, r, want > 1.0 ? want < 4294967295.0 ? (uint32_t)want : 0xffffffffu : 1u);
        const struct tally t = border_bin(m, r, cut, g, bin, target);
        if (t.up_to < target)
            return cut;
        if (t.n <= LIST)
            return list_border(m, r, t.n, t.before, target);
        if (t.low == t.high) {
            const double number = ceil((target - t.before) / weight_of(r, logit_of(t.low)));
            const double most = (double)t.n;
            return tie_border(m, r, cut, t.low,
                              number > 1.0 ? (uint32_t)(number < most ? number : most) : 1u);
        }
        above = t.before;
        g = range_inside(g, t.low, t.high);
    }
}
