/* pace.c - moving averages of step times. See pace.h. */
#include "host/engine/pace.h"
#include "host/base/err.h"

/* Weight of the newest measurement: follows a growing context within some ten steps, and one
 * page fault does not matter for long. */
static const double NEWEST = 0.25;
/* Aim below the bound, so that noise stays under it. */
static const double MARGIN = 0.7;

void pace_init(struct pace *pace, int32_t chunk_max)
{
    CHECK(chunk_max >= 1);
    *pace = (struct pace){ .chunk_max = chunk_max, .trusted = 2 * PACE_CHUNK_MIN };
}

static int32_t bucket_of(int32_t n_decode)
{
    int32_t bucket = 0;
    while (bucket < PACE_BUCKETS - 1 && (1 << bucket) < n_decode)
        bucket++;
    return bucket;
}

/* Of the nearest bucket that was seen: fewer rows first, which is the careful side. */
static double decode_ns(const struct pace *pace, int32_t n_decode)
{
    int32_t bucket = bucket_of(n_decode);
    for (int32_t i = bucket; i >= 0; i--)
        if (pace->decode_ns[i] > 0)
            return pace->decode_ns[i];
    for (int32_t i = bucket + 1; i < PACE_BUCKETS; i++)
        if (pace->decode_ns[i] > 0)
            return pace->decode_ns[i];
    return 0;
}

static void mix(double *average, double value)
{
    *average = *average > 0 ? *average + NEWEST * (value - *average) : value;
}

void pace_record(struct pace *pace, int32_t n_decode, int32_t n_prompt, uint64_t ns)
{
    double time = (double)ns;
    if (n_prompt == 0) {
        if (n_decode > 0)
            mix(&pace->decode_ns[bucket_of(n_decode)], time);
        return;
    }
    double base = n_decode > 0 ? decode_ns(pace, n_decode) : 0;
    double added = time - base;
    /* A decode estimate that has grown stale must not make rows look free. */
    double least = time * 0.02;
    mix(&pace->row_ns, (added > least ? added : least) / n_prompt);
    if (base > 0 && time <= 2 * base && 2 * n_prompt > pace->trusted)
        pace->trusted = 2 * n_prompt < pace->chunk_max ? 2 * n_prompt : pace->chunk_max;
}

int32_t pace_chunk(const struct pace *pace, int32_t n_decode)
{
    double base = decode_ns(pace, n_decode);
    double chunk = base > 0 && pace->row_ns > 0 ? MARGIN * base / pace->row_ns : 0;
    if (chunk > pace->trusted)
        chunk = pace->trusted;
    if (chunk < PACE_CHUNK_MIN)
        chunk = PACE_CHUNK_MIN;
    return chunk < pace->chunk_max ? (int32_t)chunk : pace->chunk_max;
}
