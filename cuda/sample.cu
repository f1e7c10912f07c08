/* sample.cu - from a row of logits to a token: sampler.h's arithmetic in its order, on the device.
 *
 *   x = logits, changed by mask, penalties, biases, bans       (host/backend/sampler.h says how)
 *   top_k, top_p, min_p cut;  token: first id at which the sum of e^((x - max) / T) passes u *
 * total
 *
 * Exact and repeatable: borders are found on the bits of the logits, every weight is the host
 * form's (same operations in double, none contracted), every sum is taken in one fixed order. What
 * is left between this and the host form:
 *   - sums run as a tree here and in id order there: a border of top_p or of the draw that lies
 *     within n 2^-53 of a token's edge (3e-11 for 256k tokens) may fall on the neighbour;
 *   - logits so close that their distances from the greatest are one double rank by their own size
 *     here and as equals there;
 *   - log-probabilities may differ in the last bit of the float.
 * typical_p is not here: sample_fits.
 *
 * Bytes: a row is 4 vocab (512 KB of 128k tokens), in L2 because the head product has just written
 * it; a pass over it by one SM takes about 5 us at 64 bytes a clock. Passes: greedy 1, temperature
 * 2, top_k or top_p 3 more each, log-probabilities 2, the n_top most likely 4 more, a changed row 2
 * more. Limited by L2 and, where all weights are needed, by double arithmetic (30 operations each).
 *
 *   block = row, in 8 or 16 warps; warp w has the ids [w, w + 1) * segment, lanes side by side
 *
 * A border (the last token that stays, by weight or by count) takes two passes as a rule:
 *   1. histogram  2048 bins by distance from the greatest: 1/64 of T each (in whole numbers)
 *   2. measure    the exact sums before and behind the bin that should be cut, and its tokens
 * The bin counts only after the exact sums have agreed; else its neighbour, then halves. Up to 1024
 * tokens of a bin are sorted in shared memory; more are divided again, by the bits of the logits,
 * until one value is left whose tokens rank by id. */
#include <math.h>
#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

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
    struct ranked chosen;
};
struct sample_args {
    struct sample_in in;
    int32_t segment, n_warps; /* ids of a warp, a multiple of 32 */
    int64_t scratch_stride;   /* elements a row: changed logits, then counts */
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
/* The first bin up to which there are `want`; the last one if there is none. */
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
    const int32_t bin = m->chosen.id;
    block_sync();
    return bin;
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
    block_sync();
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
    block_sync();
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

/* ---- the draw ---------------------------------------------------------------------------------
 */

DEVICE double live_weight(const struct row &r, struct cut cut, double min_p, int32_t id, float x)
{
    const uint32_t key = key_of(x);
    if (key == 0u || !stays(cut, key, id))
        return 0.0;
    const double w = weight_of(r, x);
    return min_p > 0.0 && w < min_p ? 0.0 : w;
}
/* Ids from .. to, one lane each: the one whose weight passes the target, else the last with any. */
DEVICE int32_t draw_lane(const struct row &r, struct cut cut, double min_p, int32_t from,
                         int32_t to, double target)
{
    const int32_t id = from + lane_id();
    const double mine = id < to ? live_weight(r, cut, min_p, id, r.x[id]) : 0.0;
    const uint64_t bits = f64_bits(mine);
    double sum = 0.0;
    int32_t last = -1;
    for (int lane = 0; lane < 32 && !(sum > target); lane++) {
        const uint32_t low = shfl((uint32_t)bits, lane), high = shfl((uint32_t)(bits >> 32), lane);
        const double w = f64_of_bits((uint64_t)high << 32 | low);
        if (w > 0.0)
            last = from + lane;
        sum = add_f64(sum, w);
    }
    return last;
}
/* The token at u of the weights of what stays, in id order; -1: nothing stays. Warps share the ids,
 * then those of the warp that has it, until 32 are left. */
DEVICE int32_t draw(struct memory *m, const struct row &row, struct cut cut, double min_p, double u)
{
    struct row r = row;
    int32_t from = 0, to = r.n;
    double target = -1.0; /* of the ids from .. to; not known yet */
    for (;;) {
        const int32_t each = (to - from + r.n_warps - 1) / r.n_warps,
                      segment = (each + 31) / 32 * 32;
        r.from = from + warp_id() * segment;
        r.to = r.from + segment < to ? r.from + segment : to;
        double sum = 0.0;
        for (int32_t at = r.from; at < r.to; at += 32 * STEP) {
            float v[STEP];
            load_logits(v, r, at);
            for (int k = 0; k < STEP; k++)
                sum = add_f64(sum, live_weight(r, cut, min_p, at + 32 * k + lane_id(), v[k]));
        }
        sum = warp_sum(sum);
        if (lane_id() == 0)
            m->sums[0][warp_id()] = sum;
        block_sync();
        if (target < 0.0) {
            double total = 0.0;
            for (int w = 0; w < r.n_warps; w++)
                total = add_f64(total, m->sums[0][w]);
            target = mul_f64(u, total);
        }
        int32_t chosen = -1;
        double sum_before = 0.0, before = 0.0;
        for (int w = 0; w < r.n_warps && !(chosen >= 0 && sum_before > target); w++) {
            if (!(m->sums[0][w] > 0.0))
                continue;
            chosen = w;
            before = sum_before;
            sum_before = add_f64(sum_before, m->sums[0][w]);
        }
        block_sync();
        if (chosen < 0)
            return -1;
        target = fmax(add_f64(target, -before), 0.0);
        from += chosen * segment;
        to = from + segment < to ? from + segment : to;
        if (segment == 32)
            break;
    }
    if (warp_id() == 0) {
        const int32_t id = draw_lane(r, cut, min_p, from, to, target);
        if (lane_id() == 0)
            m->chosen.id = id;
    }
    block_sync();
    const int32_t id = m->chosen.id;
    block_sync();
    return id;
}

/* ---- changed logits ---------------------------------------------------------------------------
 */

DEVICE bool has_penalties(const struct device_sample &p)
{
    return (p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f ||
            p.frequency_penalty != 0.0f) &&
           p.n_prompt + p.n_output > 0;
}
/* Each token of the history once: who takes its count from counts[] applies it. */
DEVICE void apply_penalties(const struct device_sample &p, const int32_t *history, float *x,
                            uint32_t *counts, int threads)
{
    const uint32_t taken = 0xffffffffu;
    const int32_t n = p.n_prompt + p.n_output;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += threads)
        global_exchange(&counts[history[i]], 0u);
    block_sync();
    for (int32_t i = p.n_prompt + (int32_t)threadIdx.x; i < n; i += threads)
        global_add(&counts[history[i]], 1u);
    block_sync();
    const double r = (double)p.repetition_penalty;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += threads) {
        const uint32_t count = global_exchange(&counts[history[i]], taken);
        if (count == taken)
            continue;
        double v = (double)x[history[i]];
        v = v > 0.0 ? v / r : mul_f64(v, r);
        v = add_f64(v, -mul_f64((double)p.frequency_penalty, (double)count));
        v = add_f64(v, count > 0u ? -(double)p.presence_penalty : 0.0);
        x[history[i]] = (float)v;
    }
    block_sync();
}
/* Pairs (token, bias); a token that comes twice gets both, in order, from its first thread. */
DEVICE void apply_biases(const int32_t *pairs, int32_t n, float *x, int threads)
{
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += threads) {
        bool first = true;
        for (int32_t j = 0; j < i; j++)
            first = first && pairs[2 * j] != pairs[2 * i];
        if (!first)
            continue;
        float v = x[pairs[2 * i]];
        for (int32_t j = i; j < n; j++)
            if (pairs[2 * j] == pairs[2 * i])
                v += f32_of_bits((uint32_t)pairs[2 * j + 1]);
        x[pairs[2 * i]] = v;
    }
    block_sync();
}
/* r.x becomes a changed copy, where anything changes. */
DEVICE void change_logits(const struct sample_args &a, const struct device_sample &p, struct row *r)
{
    const bool penalties = has_penalties(p);
    if (!penalties && p.n_biases == 0 && p.n_banned == 0 && p.mask_at < 0)
        return;
    const int threads = 32 * r->n_warps;
    float *x = a.in.scratch + (int64_t)blockIdx.x * a.scratch_stride;
    const uint32_t *mask = p.mask_at >= 0 ? (const uint32_t *)a.in.ids + p.mask_at : NULL;
    for (int32_t id = r->from + lane_id(); id < r->to; id += 32) {
        const bool allowed = mask == NULL || (mask[id / 32] >> (id % 32) & 1u) != 0;
        x[id] = allowed ? r->x[id] : -INFINITY; /* nothing that comes after brings it back */
    }
    block_sync();
    if (penalties)
        apply_penalties(p, a.in.ids + p.history_at, x, (uint32_t *)x + a.scratch_stride / 2,
                        threads);
    apply_biases(a.in.ids + p.biases_at, p.n_biases, x, threads);
    for (int32_t i = (int32_t)threadIdx.x; i < p.n_banned; i += threads)
        global_exchange((uint32_t *)&x[a.in.ids[p.banned_at + i]], f32_bits(-INFINITY));
    block_sync();
    r->x = x;
}

/* ---- kernel -----------------------------------------------------------------------------------
 */

DEVICE int32_t choose(const struct sample_args &a, const struct device_sample &p, struct memory *m,
                      struct row r)
{
    change_logits(a, p, &r);
    const struct ranked best = row_greatest(m, r);
    if (best.key == 0u)
        return -1;
    if (p.temperature < GREEDY_BELOW)
        return best.id;
    r.top = logit_of(best.key);
    struct cut cut = cut_nothing();
    if (!(r.top < INFINITY)) /* leaves no room for the others */
        cut.key = best.key;
    if (p.top_k > 0 && p.top_k < r.n) {
        r.counted = true;
        cut = border(m, r, cut, (double)p.top_k, 1.0f);
        cut.id = 0x7fffffff; /* ties stay */
        r.counted = false;
    }
    r.temperature = (double)p.temperature;
    if (p.top_p < 1.0f) {
        const double total = total_weight(m, r, cut);
        cut = border(m, r, cut, mul_f64((double)p.top_p, total), WEIGHT_UNITS / (float)total);
    }
    return draw(m, r, cut, (double)p.min_p, p.draw);
}

/* The n most likely and their log-probabilities. */
DEVICE int32_t most_likely(struct memory *m, struct row r, int32_t n, double log_sum,
                           struct device_sampled *out)
{
    r.counted = true;
    const struct cut cut = border(m, r, cut_nothing(), (double)n, 1.0f);
    if (threadIdx.x == 0)
        m->n_list = 0u;
    block_sync();
    for (int32_t at = r.from; at < r.to; at += 32) {
        const int32_t id = at + lane_id();
        const uint32_t key = id < r.to ? key_of(r.x[id]) : 0u;
        list_add(m, key != 0u && stays(cut, key, id), key, id);
    }
    block_sync();
    const int32_t found = (int32_t)m->n_list; /* at most n: fewer if there are not so many */
    list_sort(m, r, found);
    for (int32_t i = (int32_t)threadIdx.x; i < found; i += 32 * r.n_warps) {
        out->top_tokens[i] = m->sorted[i].id;
        out->top_logprobs[i] = (float)add_f64((double)r.x[m->sorted[i].id], -log_sum);
    }
    return found;
}

template <int THREADS>
KERNEL(THREADS, 1)
sample_kernel(const __grid_constant__ struct sample_args a)
{
    SHARED(shared);
    struct memory *m = (struct memory *)shared;
    griddep_wait();
    griddep_launch();
    const struct device_sample &p = a.in.rows[blockIdx.x];
    struct device_sampled *out = &a.in.outs[blockIdx.x];
    struct row r;
    r.x = a.in.logits + (int64_t)p.logit_row * a.in.stride;
    r.n = a.in.vocab;
    r.n_warps = a.n_warps;
    r.from = warp_id() * a.segment;
    r.to = r.from + a.segment < r.n ? r.from + a.segment : r.n;
    r.top = 0.0f;
    r.temperature = 1.0;
    r.counted = false;
    const int32_t token = p.logit_row < 0 ? -1 : p.target >= 0 ? p.target : choose(a, p, m, r);
    float logprob = 0.0f;
    int32_t n_top = 0;
    if (p.n_top >= 0 && token >= 0) {
        const struct ranked best = row_greatest(m, r);
        r.top = best.key != 0u ? logit_of(best.key) : -INFINITY;
        double log_sum = (double)r.top;
        if (fabsf(r.top) < INFINITY)
            log_sum = add_f64(log_sum, log(total_weight(m, r, cut_nothing())));
        logprob = (float)add_f64((double)r.x[token], -log_sum);
        if (p.n_top > 0 && best.key != 0u)
            n_top = most_likely(m, r, p.n_top, log_sum, out);
    }
    if (threadIdx.x == 0) {
        out->token = token;
        out->logprob = logprob;
        out->n_top = n_top;
    }
}

/* ---- launcher ---------------------------------------------------------------------------------
 */

bool sample_fits(const struct sample_row *row)
{
    return row->params->n_top <= SAMPLE_TOP_MAX &&
           (row->target >= 0 || !(row->params->typical_p < 1.0f));
}
size_t sample_workspace(int32_t vocab, int32_t n_rows)
{
    return (size_t)n_rows * (size_t)f64_pad(vocab, 32) * 2 * sizeof(float);
}
cudaError_t sample_rows(const struct launch *launch, const struct sample_in *op)
{
    if (op->n_rows == 0)
        return cudaSuccess;
    const bool small = op->vocab <= VOCAB_SMALL;
    struct sample_args a;
    a.in = *op;
    a.n_warps = (small ? THREADS_SMALL : THREADS_LARGE) / 32;
    a.segment = f64_pad((op->vocab + a.n_warps - 1) / a.n_warps, 32);
    a.scratch_stride = 2 * (int64_t)f64_pad(op->vocab, 32);
    const dim3 grid((unsigned)op->n_rows);
    const int flags = launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN;
    if (small)
        return LAUNCH((sample_kernel<THREADS_SMALL>), grid, THREADS_SMALL, sizeof(struct memory),
                      launch->stream, flags, a);
    return LAUNCH((sample_kernel<THREADS_LARGE>), grid, THREADS_LARGE, sizeof(struct memory),
                  launch->stream, flags, a);
}
