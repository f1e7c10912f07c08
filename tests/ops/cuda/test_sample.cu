/* The device's sampler against the host's (host/backend/sampler.c, which the reference's cases
 * hold): random rows of every kind under random parameters, tokens equal, for the host's own random
 * number and for numbers put in the middle of the interval of chosen survivors, so that the whole
 * set of what stays is compared, and not just one draw. */
#include <optional>
#include <string>
#include "host/backend/sampler.h"
#include "host/base/rng.h"
#include "tests/ops/cuda/harness.cuh"
#include "tests/ops/cuda/late.cuh"

enum kind {
    WIDE,      /* spread over some units, as models have it */
    TIES,      /* multiples of one half */
    NARROW,    /* differences of some ulps: one bin holds everything */
    TAIL,      /* one far above the others: what top_k looks for is in the last bin */
    SLOPE,     /* even steps: small bins, whose borders a histogram in whole units misses */
    ZEROS,     /* 0, -0 and -1 */
    CONSTANT,  /* all equal */
    HUGE_SPAN, /* from -3e38 to 3e38 */
    HOLES,     /* some -infinity and NaN */
    INFINITE,  /* some +infinity */
    ONE_LEFT,  /* one number, the rest -infinity */
    NOTHING,   /* NaN and -infinity alone */
    KINDS
};
static const char *const kind_names[KINDS] = { "wide",  "ties",     "narrow",   "tail",
                                               "slope", "zeros",    "constant", "huge span",
                                               "holes", "infinite", "one left", "nothing" };

static std::vector<float> make_logits(struct random_numbers &random, enum kind kind, int vocab)
{
    static const float scales[] = { 0.01f, 1.0f, 4.0f, 12.0f, 300.0f };
    const float scale = scales[random.below(5)];
    std::vector<float> x((size_t)vocab);
    for (float &v : x) {
        v = (random.uniform() + random.uniform() + random.uniform()) * scale;
        if (kind == TIES)
            v = 0.5f * (float)(random.below(24) - 12);
        else if (kind == NARROW)
            v = 10.0f + (float)random.below(3000) * 0x1p-20f;
        else if (kind == TAIL)
            v = random.uniform();
        else if (kind == SLOPE)
            v = -0.02f * (float)random.below(1600);
        else if (kind == ZEROS)
            v = random.below(3) == 0 ? -1.0f : random.below(2) ? 0.0f : -0.0f;
        else if (kind == CONSTANT)
            v = -1.25f;
        else if (kind == HUGE_SPAN)
            v = random.uniform() * (random.below(2) ? 3e38f : random.below(2) ? 1e20f : 1e-20f);
        else if (kind == HOLES && random.below(3) == 0)
            v = random.below(2) ? NAN : -INFINITY;
        else if (kind == INFINITE && random.below(8) == 0)
            v = random.below(4) ? INFINITY : NAN;
        else if (kind == ONE_LEFT)
            v = -INFINITY;
        else if (kind == NOTHING)
            v = random.below(2) ? NAN : -INFINITY;
    }
    if (kind == TAIL)
        x[(size_t)random.below(vocab)] = 100.0f;
    if (kind == ONE_LEFT)
        x[(size_t)random.below(vocab)] = -7.5f;
    return x;
}

/* One row and all that its pointers reach. */
struct request {
    struct sample_params params;
    struct sample_row row;
    std::vector<int32_t> history, banned;
    std::vector<struct logit_bias> biases;
    std::vector<uint32_t> mask;
    void point()
    {
        params.biases = biases.data();
        params.n_biases = (int32_t)biases.size();
        row.params = &params;
        row.history = history.data();
        row.banned = banned.data();
        row.n_banned = (int32_t)banned.size();
        row.mask = mask.empty() ? NULL : mask.data();
    }
};

static void make_changes(struct random_numbers &random, int vocab, struct request &q)
{
    static const float repetitions[] = { 1.0f, 1.3f, 0.7f, 2.0f },
                       additions[] = { 0.0f, 0.5f, -0.8f };
    if (random.below(3) == 0) {
        q.params.repetition_penalty = repetitions[random.below(4)];
        q.params.presence_penalty = additions[random.below(3)];
        q.params.frequency_penalty = additions[random.below(3)];
        q.row.n_prompt = random.below(40);
        q.row.n_output = random.below(300);
        const int among = 1 + random.below(vocab); /* few: many repeats */
        for (int i = 0; i < q.row.n_prompt + q.row.n_output; i++)
            q.history.push_back(random.below(among));
    }
    if (random.below(4) == 0)
        for (int n = random.below(20); n > 0; n--) {
            const float bias = random.uniform() * (n % 5 ? 6.0f : 100.0f);
            q.biases.push_back({ random.below(vocab), n % 7 ? bias : -INFINITY });
        }
    if (!q.biases.empty() && random.below(2) == 0) /* never: the lowest ids, greatest or not */
        for (int id = 0; id < 8 && id < vocab; id++)
            q.biases.push_back({ id, -INFINITY });
    if (random.below(4) == 0)
        for (int n = random.below(vocab); n > 0; n--)
            q.banned.push_back(random.below(vocab));
    if (random.below(2) == 0) /* biased and banned, by different threads */
        for (size_t i = q.biases.size(); i-- > 0;)
            q.banned.push_back(q.biases[i].token);
    if (random.below(4) == 0) {
        q.mask.assign((size_t)(vocab + 31) / 32, 0);
        const int one_in = 1 << random.below(6);
        for (int i = 0; i < vocab; i++)
            if (random.below(one_in) == 0)
                q.mask[(size_t)i / 32] |= 1u << i % 32;
        if (random.below(4) == 0) { /* exactly one */
            q.mask.assign(q.mask.size(), 0);
            const int i = random.below(vocab);
            q.mask[(size_t)i / 32] = 1u << i % 32;
        }
    }
}
static void make_request(struct random_numbers &random, int vocab, struct request &q)
{
    static const float temperatures[] = { 0.0f, 9e-6f, 1e-5f, 0.3f, 0.7f,
                                          1.0f, 1.0f,  1.5f,  5.0f, 100.0f };
    static const float top_ps[] = {
        1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 0.1f, 0.0f, 0.999999f, 0.9999999f
    };
    static const float min_ps[] = { 0.0f, 0.0f, 0.05f, 0.3f, 1.0f, 1e-6f, 1.5f };
    const int top_ks[] = { 0, -1, 1, 2, 5, 40, vocab / 2, vocab - 1, vocab, vocab + 5 };
    static const int n_tops[] = { -1, -1, 0, 1, 5, SAMPLE_TOP_MAX };
    q = request();
    q.params = sample_params_neutral();
    q.params.temperature = temperatures[random.below(10)];
    q.params.top_k = random.below(2) ? 0 : top_ks[random.below(10)];
    q.params.top_p = top_ps[random.below(9)];
    q.params.min_p = min_ps[random.below(7)];
    q.params.n_top = n_tops[random.below(6)];
    q.params.seed = random.next();
    q.row.index = (uint64_t)random.below(3);
    q.row.position = random.below(5000);
    q.row.target = random.below(16) == 0 ? random.below(vocab) : -1;
    make_changes(random, vocab, q);
    q.point();
}

/* The device with this many multiprocessors, in spite of what there is: how many blocks share a
 * row. */
static int32_t n_sms = 1;

/* ---- running ----------------------------------------------------------------------------------
 */

/* What the device gets: rows over shared lists of ids. Row i is slot n - 1 - i; the last token of
 * every second history is in flight: known by slot alone. */
struct batch_rows {
    std::vector<struct device_sample> rows;
    std::vector<int32_t> ids;
    int put(const void *from, size_t n)
    {
        const int at = (int)ids.size();
        ids.insert(ids.end(), (const int32_t *)from, (const int32_t *)from + n);
        return at;
    }
    void add(const struct request &q, int logit_row, double draw)
    {
        struct device_sample d;
        memset(&d, 0, sizeof d);
        d.logit_row = logit_row;
        d.target = q.row.target;
        d.top_k = q.params.top_k;
        d.n_top = q.params.n_top;
        d.temperature = q.params.temperature;
        d.top_p = q.params.top_p;
        d.min_p = q.params.min_p;
        d.repetition_penalty = q.params.repetition_penalty;
        d.presence_penalty = q.params.presence_penalty;
        d.frequency_penalty = q.params.frequency_penalty;
        d.draw = draw;
        d.n_prompt = q.row.n_prompt;
        d.n_output = q.row.n_output;
        d.history_at = put(q.history.data(), q.history.size());
        d.n_biases = q.params.n_biases;
        d.biases_at = put(q.biases.data(), 2 * q.biases.size());
        d.n_banned = q.row.n_banned;
        d.banned_at = put(q.banned.data(), q.banned.size());
        d.mask_at = q.row.mask != NULL ? put(q.mask.data(), q.mask.size()) : -1;
        rows.push_back(d);
    }
};
static std::vector<struct device_sampled>
run(const struct batch_rows &batch, const std::vector<float> &logits, int vocab, int64_t stride)
{
    const int n = (int)batch.rows.size();
    std::vector<int32_t> ids = batch.ids;
    ids.push_back(0);
    device_array<float> x(logits), scratch(sample_workspace(vocab, n) / sizeof(float));
    std::vector<struct device_sample> sent = batch.rows;
    std::vector<int32_t> before((size_t)n, -5);
    for (int i = 0; i < n; i++) {
        struct device_sample &d = sent[(size_t)i];
        d.slot = n - 1 - i;
        if (i % 2 != 0 || d.n_prompt + d.n_output == 0)
            continue;
        int32_t &last = ids[(size_t)(d.history_at + d.n_prompt + d.n_output - 1)];
        before[(size_t)d.slot] = last;
        last = -1;
    }
    device_array<struct device_sample> rows(sent);
    device_array<int32_t> lists(ids), drawn(before);
    device_array<struct device_sampled> outs((size_t)n);
    struct sample_in in;
    memset(&in, 0, sizeof in);
    in.logits = x.data();
    in.stride = stride;
    in.vocab = vocab;
    in.n_rows = n;
    in.rows = rows.data();
    in.ids = lists.data();
    in.outs = outs.data();
    in.drawn = drawn.data();
    in.scratch = scratch.data();
    scratch.zero();
    struct device_info device = harness.device;
    device.n_sms = n_sms;
    std::optional<late> x_late;
    if (device.arch >= 90)
        x_late.emplace(x);
    struct launch launch = harness.launch;
    launch.device = &device;
    CUDA(sample_rows(&launch, &in));
    const std::vector<struct device_sampled> found = outs.read();
    const std::vector<float> left = scratch.read();
    for (int i = 0; i < n; i++) {
        static const float zeros[4] = { 0, 0, 0, 0 };
        EXPECT(memcmp(&left[(size_t)i * (left.size() / (size_t)n)], zeros, sizeof zeros) == 0,
               "row %d: tickets are not zero again", i);
    }
    const std::vector<int32_t> tokens = drawn.read();
    for (int i = 0; i < n; i++) {
        const struct device_sample &d = sent[(size_t)i];
        const bool draws = d.logit_row >= 0 && d.target < 0;
        const int32_t wanted = draws ? found[(size_t)i].token : before[(size_t)d.slot];
        EXPECT(tokens[(size_t)d.slot] == wanted, "row %d: slot %d has token %d, want %d", i, d.slot,
               tokens[(size_t)d.slot], wanted);
    }
    const std::vector<float> after = x.read();
    EXPECT(memcmp(after.data(), logits.data(), logits.size() * sizeof(float)) == 0,
           "logits were changed");
    return found;
}

static bool same_float(float a, float b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b);
    return a == b || fabsf(a - b) <= 3e-7f * fmaxf(fabsf(a), fabsf(b));
}
static std::string text_of(const struct request &q)
{
    char text[256];
    snprintf(text, sizeof text,
             "T %g, top_k %d, top_p %g, min_p %g, penalties %g %g %g, %d+%d known, %d biases, %d "
             "banned%s",
             (double)q.params.temperature, q.params.top_k, (double)q.params.top_p,
             (double)q.params.min_p, (double)q.params.repetition_penalty,
             (double)q.params.presence_penalty, (double)q.params.frequency_penalty, q.row.n_prompt,
             q.row.n_output, q.params.n_biases, q.row.n_banned, q.row.mask ? ", mask" : "");
    return text;
}
static void expect_out(const struct request &q, const struct device_sampled &found,
                       const struct sample_out &wanted)
{
    EXPECT(found.token == wanted.token, "token %d, wanted %d (%s)", found.token, wanted.token,
           text_of(q).c_str());
    EXPECT(same_float(found.logprob, wanted.logprob), "logprob %.9g, wanted %.9g",
           (double)found.logprob, (double)wanted.logprob);
    EXPECT(found.n_top == wanted.n_top, "n_top %d, wanted %d", found.n_top, wanted.n_top);
    for (int i = 0; i < wanted.n_top && found.n_top == wanted.n_top; i++) {
        EXPECT(found.top_tokens[i] == wanted.top_tokens[i], "top %d is %d, wanted %d", i,
               found.top_tokens[i], wanted.top_tokens[i]);
        EXPECT(same_float(found.top_logprobs[i], wanted.top_logprobs[i]),
               "top logprob %d: %.9g, wanted %.9g", i, (double)found.top_logprobs[i],
               (double)wanted.top_logprobs[i]);
    }
}

/* ---- cases ------------------------------------------------------------------------------------
 */

/* A number in the middle of the interval of a survivor, for its first, its last and some others. */
struct probe {
    int row, token;
};
static void add_probes(struct random_numbers &random, struct sampler *sampler, const float *logits,
                       int vocab, const struct request &q, int logit_row, int n_probes,
                       struct batch_rows &batch, std::vector<struct probe> &probes)
{
    if (q.row.target >= 0)
        return;
    std::vector<double> p((size_t)vocab);
    sampler_probs(sampler, logits, &q.row, p.data());
    struct request quiet = q;
    quiet.params.n_top = -1;
    std::vector<int> alive;
    std::vector<double> before((size_t)vocab);
    double sum = 0;
    for (int i = 0; i < vocab; i++) {
        before[(size_t)i] = sum;
        sum += p[(size_t)i];
        if (p[(size_t)i] > 1e-11) /* a middle that doubles can hit */
            alive.push_back(i);
    }
    for (int k = 0; k < n_probes && !alive.empty(); k++) {
        const size_t which = k == 0   ? 0
                             : k == 1 ? alive.size() - 1
                                      : (size_t)random.below((int)alive.size());
        const size_t token = (size_t)alive[which];
        probes.push_back({ (int)batch.rows.size(), (int)token });
        batch.add(quiet, logit_row, (before[token] + p[token] / 2) / sum);
    }
}

static void test_rows(struct sampler *sampler, enum kind kind, int vocab, int n_rows, int n_probes,
                      uint64_t seed)
{
    struct random_numbers random = { seed };
    const int64_t stride = vocab + random.below(5);
    std::vector<float> logits((size_t)(n_rows * stride), NAN);
    std::vector<struct request> requests((size_t)n_rows);
    std::vector<struct probe> probes;
    struct batch_rows batch;
    for (int i = 0; i < n_rows; i++) {
        struct request &q = requests[(size_t)i];
        const std::vector<float> x = make_logits(random, kind, vocab);
        memcpy(&logits[(size_t)(i * stride)], x.data(), x.size() * sizeof(float));
        make_request(random, vocab, q);
        EXPECT(sample_fits(&q.row), "sample_fits");
        batch.add(q, i, rng_uniform(q.params.seed, q.row.index, (uint64_t)q.row.position));
    }
    for (int i = 0; i < n_rows; i++)
        add_probes(random, sampler, &logits[(size_t)(i * stride)], vocab, requests[(size_t)i], i,
                   n_probes, batch, probes);
    const std::vector<struct device_sampled> found = run(batch, logits, vocab, stride);
    for (int i = 0; i < n_rows; i++) {
        struct sample_out wanted;
        sampler_row(sampler, &logits[(size_t)(i * stride)], &requests[(size_t)i].row, &wanted);
        expect_out(requests[(size_t)i], found[(size_t)i], wanted);
    }
    for (const struct probe &probe : probes) {
        const int row = batch.rows[(size_t)probe.row].logit_row;
        EXPECT(found[(size_t)probe.row].token == probe.token,
               "row %d: drew %d in the middle of %d (%s)", row, found[(size_t)probe.row].token,
               probe.token, text_of(requests[(size_t)row]).c_str());
    }
}

static void test_padding(void)
{
    struct request q;
    q.params = sample_params_neutral();
    q.params.n_top = 3;
    q.row = sample_row();
    q.row.target = -1;
    q.point();
    struct batch_rows batch;
    batch.add(q, -1, 0.5);
    const std::vector<struct device_sampled> found =
        run(batch, std::vector<float>(100, 1.0f), 100, 100);
    EXPECT(found[0].token == -1 && found[0].n_top == 0 && found[0].logprob == 0.0f,
           "row -1: token %d", found[0].token);
}
static void test_fits(void)
{
    struct sample_params p = sample_params_neutral();
    struct sample_row row = sample_row();
    row.params = &p;
    row.target = -1;
    EXPECT(sample_fits(&row), "neutral");
    p.typical_p = 0.9f;
    EXPECT(!sample_fits(&row), "typical_p");
    row.target = 3;
    EXPECT(sample_fits(&row), "a target draws nothing");
    struct sample_chain chain;
    memset(&chain, 0, sizeof chain);
    p.typical_p = 1;
    p.chain = &chain;
    EXPECT(sample_fits(&row), "a target draws nothing, whatever the chain");
    row.target = -1;
    EXPECT(!sample_fits(&row), "a chain");
}
/* The same bits again, and for every number of blocks a row. */
static void test_again(int vocab)
{
    struct random_numbers random = { 77 };
    struct batch_rows batch;
    std::vector<float> logits = make_logits(random, NARROW, vocab);
    struct request q;
    make_request(random, vocab, q);
    q.params = sample_params_neutral();
    q.params.top_p = 0.7f;
    q.params.n_top = SAMPLE_TOP_MAX;
    q.row.target = -1;
    q.point();
    batch.add(q, 0, 0.3);
    batch.add(q, 0, 0.3);
    const std::vector<struct device_sampled> alone = run(batch, logits, vocab, vocab);
    n_sms = 8;
    const std::vector<struct device_sampled> shared = run(batch, logits, vocab, vocab);
    n_sms = 1;
    EXPECT(memcmp(&alone[0], &alone[1], sizeof alone[0]) == 0, "the second row differs");
    EXPECT(memcmp(&alone[0], &shared[0], sizeof alone[0]) == 0, "with more blocks it differs");
    EXPECT(memcmp(&alone[0], &shared[1], sizeof alone[0]) == 0,
           "the second, with more blocks, differs");
}
static void test_too_wide(void)
{
    struct sample_in in;
    memset(&in, 0, sizeof in);
    in.n_rows = 1;
    in.vocab = (1 << 20) + 1;
    EXPECT(sample_rows(&harness.launch, &in) == cudaErrorInvalidValue, "a million tokens and one");
}
static void test_vocab(int vocab, int first_kind, int last_kind, int n_rows, int n_probes,
                       int32_t sms)
{
    struct sampler *sampler;
    struct err err;
    if (!sampler_open(&sampler, vocab, &err))
        exit(1);
    n_sms = sms;
    for (int kind = first_kind; kind <= last_kind; kind++)
        CASE("vocab %d, %s, %d SMs", vocab, kind_names[kind], sms)
    test_rows(sampler, (enum kind)kind, vocab, n_rows, n_probes, (uint64_t)(vocab * 100 + kind));
    n_sms = 1;
    sampler_close(sampler);
}

#if defined(__SANITIZE_THREAD__)
static const bool quick = true; /* a hundred times slower: the paths, not the numbers */
#else
static const bool quick = false;
#endif

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    if (quick) {
        test_vocab(33, 0, KINDS - 1, 2, 1, 1);
        test_vocab(5000, 0, SLOPE, 2, 0, 16);
        return harness_end();
    }
    for (int vocab : { 1, 2, 31, 33, 100, 257, 1000 })
        test_vocab(vocab, 0, KINDS - 1, 20, 6, 1);
    test_vocab(6000, 0, KINDS - 1, 6, 1, 1);
    test_vocab(9000, 0, KINDS - 1, 2, 1, 16);
    for (int vocab : { 32000, 50257, 128256 }) {
        test_vocab(vocab, 0, HUGE_SPAN, harness.full ? 12 : 2, 2, 1);
        test_vocab(vocab, 0, HUGE_SPAN, harness.full ? 3 : 1, 1, 16);
    }
    CASE("padding") test_padding();
    CASE("sample_fits") test_fits();
    CASE("too wide") test_too_wide();
    CASE("again, small") test_again(5000);
    CASE("again, large") test_again(20000);
    return harness_end();
}
