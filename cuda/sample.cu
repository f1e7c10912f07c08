/* sample.cu - from a row of logits to a token: sampler.h's arithmetic in its order, on the device.
 *
 *   x = logits, changed by mask, penalties, biases, bans       (host/backend/sampler.h says how)
 *   top_k, top_p, min_p cut;  token: first id at which the sum of e^((x - max) / T) passes u *
 * total
 *
 * Exact and repeatable: borders are found on the bits of the logits, every weight is the host
 * form's (same operations in double, none contracted), every sum is taken in one order that depends
 * on the vocabulary alone. What is left between this and the host form:
 *   - sums run as a tree here and in id order there: a border of top_p or of the draw that lies
 *     within n 2^-53 of a token's edge (3e-11 for 256k tokens) may fall on the neighbour;
 *   - logits so close that their distances from the greatest are one double rank by their own size
 *     here and as equals there;
 *   - log-probabilities may differ in the last bit of the float.
 * typical_p and chains are not here: sample_fits.
 *
 * Bytes: a row is 4 vocab (512 KB of 128k tokens), in L2 because the head product has just written
 * it. One SM reads 64 bytes a clock there: 5 us a pass; and a weight is 40 operations in double, 45
 * us for 128k of them on an SM with 64 lanes. So what every row needs goes over several blocks:
 *
 *   a row's team of blocks        copy with mask, greatest, sums of slices of 1024 ids
 *   the first block of it         penalties, biases and bans (scattered); then borders and the draw
 *
 * up to as many blocks as there are SMs for, which wait for one another on tickets in the scratch.
 * The first block's passes: none for greedy; top_k, top_p 2 each and one for the sums of what they
 * leave; the n_top most likely 3. */
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/sample.cuh"

enum {
    TEAM_MAX = 16,
    SLICE = 1024,      /* ids of a sum: 32 a lane */
    TEAM_SLICES = 4,   /* at least, a block: else its barriers cost more than it saves */
    SLICES_MAX = LIST, /* they pass through memory.weights: a million tokens */
    ROUNDS = 3,        /* barriers of a team; the last ticket is for leaving */
};
static_assert(SLICE % (32 * STEP) == 0, "whole steps");

/* What the blocks of a row share, in front of its changed logits. */
struct team_memory {
    uint32_t tickets[ROUNDS + 1]; /* zero before and after */
    struct ranked greatest[2][TEAM_MAX];
    double sums[2][SLICES_MAX]; /* of slices: [0] what may be drawn, [1] raw */
};
struct sample_args {
    struct sample_in in;
    int32_t n_warps, team;
    int64_t row_bytes; /* of scratch */
};
struct team {
    struct team_memory *shared;
    int32_t rank, size;
};

/* ---- team -------------------------------------------------------------------------------------
 */

DEVICE void team_wait(uint32_t *counter, uint32_t count)
{
    if (threadIdx.x == 0)
        while (ld_acquire(counter) < count)
            ;
}
/* What every block of the row wrote before is seen after. */
DEVICE void team_sync(const struct team &t, int32_t round)
{
    device_fence();
    block_sync();
    if (t.size == 1)
        return;
    if (threadIdx.x == 0)
        ticket(&t.shared->tickets[round], 1u);
    team_wait(&t.shared->tickets[round], (uint32_t)t.size);
    block_sync();
}
/* The first block goes on when the others have left, who read nothing any more. */
DEVICE bool team_leave(const struct team &t)
{
    uint32_t *leaving = &t.shared->tickets[ROUNDS];
    device_fence();
    block_sync();
    if (t.size == 1)
        return false;
    if (t.rank > 0) {
        if (threadIdx.x == 0)
            ticket(leaving, 1u);
        return true;
    }
    team_wait(leaving, (uint32_t)(t.size - 1));
    block_sync();
    if ((int)threadIdx.x <= ROUNDS)
        t.shared->tickets[threadIdx.x] = 0u;
    return false;
}

/* The ids [from, to) over this block's warps. */
DEVICE void share(struct row *r, int32_t from, int32_t to)
{
    const int32_t each = (to - from + r->n_warps - 1) / r->n_warps, segment = (each + 31) / 32 * 32;
    r->from = from + warp_id() * segment;
    r->to = r->from + segment < to ? r->from + segment : to;
}
DEVICE void share_team(struct row *r, const struct team &t)
{
    const int32_t each = (r->n + t.size - 1) / t.size, block = (each + 31) / 32 * 32;
    const int32_t from = t.rank * block < r->n ? t.rank * block : r->n;
    share(r, from, from + block < r->n ? from + block : r->n);
}
/* After a team_sync: the greatest of all blocks. */
DEVICE struct ranked team_greatest(const struct team &t, int32_t which)
{
    struct ranked best = t.shared->greatest[which][0];
    for (int32_t i = 1; i < t.size; i++) {
        const struct ranked other = t.shared->greatest[which][i];
        if (ranks_before(other.key, other.id, best.key, best.id))
            best = other;
    }
    return best;
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
/* The sums of this team's slices. */
DEVICE void slice_sums(const struct row &row, int32_t rank, int32_t size, struct cut cut,
                       double min_p, double *sums)
{
    struct row r = row;
    for (int32_t s = rank * r.n_warps + warp_id(); s * SLICE < r.n; s += size * r.n_warps) {
        r.from = s * SLICE;
        r.to = r.from + SLICE < r.n ? r.from + SLICE : r.n;
        double sum = 0.0;
        for (int32_t at = r.from; at < r.to; at += 32 * STEP) {
            float v[STEP];
            load_logits(v, r, at);
#pragma unroll
            for (int u = 0; u < STEP; u++)
                sum = add_f64(sum, live_weight(r, cut, min_p, at + 32 * u + lane_id(), v[u]));
        }
        sum = warp_sum(sum);
        if (lane_id() == 0)
            sums[s] = sum;
    }
}
/* To shared memory (m->weights: who writes there next, list_sort, has met barriers); all of them
 * together. */
DEVICE double slices_load(struct memory *m, const struct row &r, const double *sums)
{
    const int32_t n = (r.n + SLICE - 1) / SLICE;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += 32 * r.n_warps)
        m->weights[i] = sums[i];
    block_sync();
    double total = 0.0;
    for (int32_t i = 0; i < n; i++)
        total = add_f64(total, m->weights[i]);
    return total;
}
/* The first sum that brings those before it past the target, else the last that is not 0. */
struct place {
    int32_t index;
    double before;
};
DEVICE struct place place_of(const double *sums, int32_t n, double target)
{
    struct place place = { -1, 0.0 };
    double sum = 0.0;
    for (int32_t i = 0; i < n && !(place.index >= 0 && sum > target); i++) {
        if (!(sums[i] > 0.0))
            continue;
        place.index = i;
        place.before = sum;
        sum = add_f64(sum, sums[i]);
    }
    return place;
}
/* The token at u of the weights of what stays, in id order; -1: nothing stays. Its slice, its
 * warp's part of that, and so on until 32 ids are left. */
DEVICE int32_t draw(struct memory *m, const struct row &row, const double *sums, struct cut cut,
                    double min_p, double u)
{
    struct row r = row;
    double target = mul_f64(u, slices_load(m, r, sums));
    struct place place = place_of(m->weights, (r.n + SLICE - 1) / SLICE, target);
    int32_t from = place.index * SLICE, segment = SLICE;
    int32_t to = from + SLICE < r.n ? from + SLICE : r.n;
    while (place.index >= 0) {
        target = fmax(add_f64(target, -place.before), 0.0);
        if (segment == 32)
            break;
        share(&r, from, to);
        double sum = 0.0;
        for (int32_t id = r.from + lane_id(); id < r.to; id += 32)
            sum = add_f64(sum, live_weight(r, cut, min_p, id, r.x[id]));
        sum = warp_sum(sum);
        if (lane_id() == 0)
            m->sums[0][warp_id()] = sum;
        block_sync();
        place = place_of(m->sums[0], r.n_warps, target);
        block_sync();
        segment = ((to - from + r.n_warps - 1) / r.n_warps + 31) / 32 * 32;
        from += place.index * segment;
        to = from + segment < to ? from + segment : to;
    }
    if (place.index >= 0 && warp_id() == 0) {
        const int32_t id = draw_lane(r, cut, min_p, from, to, target);
        if (lane_id() == 0)
            m->chosen.id = id;
    }
    block_sync();
    return place.index < 0 ? -1 : m->chosen.id; /* not written again without a barrier before */
}

/* ---- changed logits ---------------------------------------------------------------------------
 */

DEVICE bool has_penalties(const struct device_sample &p)
{
    return (p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f ||
            p.frequency_penalty != 0.0f) &&
           p.n_prompt + p.n_output > 0;
}
/* What the row before drew is on the device alone. Where that was no token the host has seen it, or
 * will: then this row counts for nothing, but must write nowhere else. */
DEVICE int32_t past_token(const int32_t *history, int32_t i, int32_t in_flight, int32_t vocab)
{
    const int32_t token = history[i] < 0 ? in_flight : history[i];
    return token >= 0 && token < vocab ? token : 0;
}
/* Each token of the history once: who takes its count from counts[] applies it. */
DEVICE void apply_penalties(const struct device_sample &p, const int32_t *history,
                            int32_t in_flight, int32_t vocab, float *x, uint32_t *counts,
                            int threads)
{
    const uint32_t taken = 0xffffffffu;
    const int32_t n = p.n_prompt + p.n_output;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += threads)
        global_exchange(&counts[past_token(history, i, in_flight, vocab)], 0u);
    block_sync();
    for (int32_t i = p.n_prompt + (int32_t)threadIdx.x; i < n; i += threads)
        global_add(&counts[past_token(history, i, in_flight, vocab)], 1u);
    block_sync();
    const double r = (double)p.repetition_penalty;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += threads) {
        const int32_t token = past_token(history, i, in_flight, vocab);
        const uint32_t count = global_exchange(&counts[token], taken);
        if (count == taken)
            continue;
        double v = (double)x[token];
        v = v > 0.0 ? v / r : mul_f64(v, r);
        v = add_f64(v, -mul_f64((double)p.frequency_penalty, (double)count));
        v = add_f64(v, count > 0u ? -(double)p.presence_penalty : 0.0);
        x[token] = (float)v;
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
DEVICE bool has_changes(const struct device_sample &p)
{
    return has_penalties(p) || p.n_biases > 0 || p.n_banned > 0 || p.mask_at >= 0;
}
/* A changed copy of the row: the team copies, its first block scatters. */
DEVICE void change_logits(const struct sample_args &a, const struct device_sample &p,
                          const struct team &t, const struct row &r, float *x)
{
    const int threads = 32 * r.n_warps;
    const uint32_t *mask = p.mask_at >= 0 ? (const uint32_t *)a.in.ids + p.mask_at : NULL;
    for (int32_t id = r.from + lane_id(); id < r.to; id += 32) {
        const bool allowed = mask == NULL || (mask[id / 32] >> (id % 32) & 1u) != 0;
        x[id] = allowed ? r.x[id] : -INFINITY; /* nothing that comes after brings it back */
    }
    team_sync(t, 0);
    if (t.rank == 0) {
        if (has_penalties(p))
            apply_penalties(p, a.in.ids + p.history_at,
                            a.in.drawn != NULL ? a.in.drawn[p.slot] : -1, r.n, x,
                            (uint32_t *)x + (r.n + 31) / 32 * 32, threads);
        apply_biases(a.in.ids + p.biases_at, p.n_biases, x, threads);
        for (int32_t i = (int32_t)threadIdx.x; i < p.n_banned; i += threads)
            global_exchange((uint32_t *)&x[a.in.ids[p.banned_at + i]], f32_bits(-INFINITY));
    }
    team_sync(t, 1);
}

/* ---- kernel -----------------------------------------------------------------------------------
 */

/* What is known of a row when its first block goes on alone. */
struct known {
    struct ranked best, raw; /* of the changed and of the given logits */
    struct cut cut;          /* what may be drawn at all */
    bool has_sums;           /* of the changed logits, over `cut` */
};
DEVICE bool wants_top_k(const struct device_sample &p, const struct row &r)
{
    return p.top_k > 0 && p.top_k < r.n;
}
/* The team's part: greatest and sums. */
DEVICE struct known find_known(struct memory *m, const struct device_sample &p,
                               const struct team &t, struct row changed, struct row raw)
{
    const bool chooses = p.target < 0, reports = p.n_top >= 0;
    struct ranked best = { 0u, -1 }, given = { 0u, -1 };
    if (chooses)
        best = row_greatest(m, changed);
    if (reports)
        given = chooses && changed.x == raw.x ? best : row_greatest(m, raw);
    if (threadIdx.x == 0) {
        t.shared->greatest[0][t.rank] = best;
        t.shared->greatest[1][t.rank] = given;
    }
    team_sync(t, 2);
    struct known k;
    k.best = team_greatest(t, 0);
    k.raw = team_greatest(t, 1);
    k.cut = cut_nothing();
    changed.top = logit_of(k.best.key);
    raw.top = logit_of(k.raw.key);
    if (!(changed.top < INFINITY)) /* leaves no room for the others */
        k.cut.key = k.best.key;
    k.has_sums =
        chooses && k.best.key != 0u && !(p.temperature < GREEDY_BELOW) && !wants_top_k(p, changed);
    if (k.has_sums)
        slice_sums(changed, t.rank, t.size, k.cut, p.top_p < 1.0f ? 0.0 : (double)p.min_p,
                   t.shared->sums[0]);
    if (reports && k.raw.key != 0u)
        slice_sums(raw, t.rank, t.size, cut_nothing(), 0.0, t.shared->sums[1]);
    return k;
}

DEVICE int32_t choose(struct memory *m, const struct device_sample &p, const struct team &t,
                      const struct known &k, struct row r)
{
    if (k.best.key == 0u)
        return -1;
    if (p.temperature < GREEDY_BELOW)
        return k.best.id;
    struct cut cut = k.cut;
    if (wants_top_k(p, r)) {
        r.counted = true;
        cut = border(m, r, cut, (double)p.top_k, 1.0f);
        cut.id = 0x7fffffff; /* ties stay */
        r.counted = false;
    }
    if (p.top_p < 1.0f) {
        const double total =
            k.has_sums ? slices_load(m, r, t.shared->sums[0]) : total_weight(m, r, cut);
        cut = border(m, r, cut, mul_f64((double)p.top_p, total), WEIGHT_UNITS / (float)total);
    }
    if (!k.has_sums || p.top_p < 1.0f) {
        slice_sums(r, 0, 1, cut, (double)p.min_p, t.shared->sums[0]);
        block_sync();
    }
    return draw(m, r, t.shared->sums[0], cut, (double)p.min_p, p.draw);
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
DEVICE void report(struct memory *m, const struct device_sample &p, const struct team &t,
                   const struct known &k, const struct row &r, int32_t token,
                   struct device_sampled *out)
{
    float logprob = 0.0f;
    int32_t n_top = 0;
    if (p.n_top >= 0 && token >= 0) {
        double log_sum = k.raw.key != 0u ? (double)r.top : -(double)INFINITY;
        if (fabs(log_sum) < (double)INFINITY)
            log_sum = add_f64(log_sum, log(slices_load(m, r, t.shared->sums[1])));
        logprob = (float)add_f64((double)r.x[token], -log_sum);
        if (p.n_top > 0 && k.raw.key != 0u)
            n_top = most_likely(m, r, p.n_top, log_sum, out);
    }
    if (threadIdx.x == 0) {
        out->token = token;
        out->logprob = logprob;
        out->n_top = n_top;
    }
}

/* Grid: (team, rows). */
template <int THREADS>
KERNEL(THREADS, 1)
sample_kernel(const __grid_constant__ struct sample_args a)
{
    SHARED(shared);
    struct memory *m = (struct memory *)shared;
    griddep_wait();
    griddep_launch();
    const struct device_sample &p = a.in.rows[blockIdx.y];
    struct device_sampled *out = &a.in.outs[blockIdx.y];
    uint8_t *scratch = (uint8_t *)a.in.scratch + (int64_t)blockIdx.y * a.row_bytes;
    const struct team t = { (struct team_memory *)scratch, (int32_t)blockIdx.x, a.team };
    if (p.logit_row < 0) { /* padding */
        if (t.rank == 0 && threadIdx.x == 0) {
            out->token = -1;
            out->logprob = 0.0f;
            out->n_top = 0;
        }
        return;
    }
    struct row raw;
    raw.x = a.in.logits + (int64_t)p.logit_row * a.in.stride;
    raw.n = a.in.vocab;
    raw.n_warps = a.n_warps;
    raw.top = 0.0f;
    raw.temperature = 1.0;
    raw.counted = false;
    share_team(&raw, t);
    struct row changed = raw;
    if (p.target < 0 && has_changes(p)) {
        float *x = (float *)(scratch + sizeof(struct team_memory));
        change_logits(a, p, t, raw, x);
        changed.x = x;
    }
    changed.temperature = (double)p.temperature;
    const struct known k = find_known(m, p, t, changed, raw);
    if (team_leave(t))
        return;
    share(&raw, 0, raw.n);
    share(&changed, 0, raw.n);
    raw.top = logit_of(k.raw.key);
    changed.top = logit_of(k.best.key);
    const int32_t token = p.target >= 0 ? p.target : choose(m, p, t, k, changed);
    if (a.in.drawn != NULL && p.target < 0 && threadIdx.x == 0)
        a.in.drawn[p.slot] = token;
    report(m, p, t, k, raw, token, out);
}

/* ---- launcher ---------------------------------------------------------------------------------
 */

bool sample_fits(const struct sample_row *row)
{
    return row->params->n_top <= SAMPLE_TOP_MAX &&
           (row->target >= 0 || (!(row->params->typical_p < 1.0f) && row->params->chain == NULL));
}
/* Shared things, changed logits, counts of the history. */
static size_t row_bytes_of(int32_t vocab)
{
    return sizeof(struct team_memory) + (size_t)f64_pad(vocab, 32) * 2 * sizeof(float);
}
size_t sample_workspace(int32_t vocab, int32_t n_rows)
{
    return (size_t)n_rows * row_bytes_of(vocab);
}
/* All blocks are resident at once: at most one an SM. */
static int32_t team_of(const struct device_info *device, int32_t vocab, int32_t n_rows)
{
    const int32_t room = device->n_sms / n_rows;
    const int32_t use = (vocab + SLICE * TEAM_SLICES - 1) / (SLICE * TEAM_SLICES);
    const int32_t team = room < use ? room : use;
    return team < 1 ? 1 : team > TEAM_MAX ? TEAM_MAX : team;
}
cudaError_t sample_rows(const struct launch *launch, const struct sample_in *op)
{
    if (op->n_rows == 0)
        return cudaSuccess;
    if (op->vocab > SLICES_MAX * SLICE)
        return cudaErrorInvalidValue;
    const bool small = op->vocab <= VOCAB_SMALL;
    struct sample_args a;
    a.in = *op;
    a.n_warps = (small ? THREADS_SMALL : THREADS_LARGE) / 32;
    a.team = team_of(launch->device, op->vocab, op->n_rows);
    a.row_bytes = (int64_t)row_bytes_of(op->vocab);
    const dim3 grid((unsigned)a.team, (unsigned)op->n_rows);
    const int flags = a.team > 1 ? LAUNCH_WAITING : launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN;
    if (small)
        return LAUNCH((sample_kernel<THREADS_SMALL>), grid, THREADS_SMALL, sizeof(struct memory),
                      launch->stream, flags, a);
    return LAUNCH((sample_kernel<THREADS_LARGE>), grid, THREADS_LARGE, sizeof(struct memory),
                  launch->stream, flags, a);
}
