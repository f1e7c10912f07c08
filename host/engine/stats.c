/* stats.c - atomics, all relaxed but `device_lost`, which publishes its text. Each number is
 * exact; together they may be of two neighbouring steps. */
#include "host/engine/stats.h"
#include <stdio.h>
#include <string.h>
#include "host/base/clock.h"

#define STORE(at, value) atomic_store_explicit(&(at), (value), memory_order_relaxed)
#define LOAD(at)         atomic_load_explicit(&(at), memory_order_relaxed)

const int32_t ENGINE_STEP_EDGES[STEP_EDGES] = { 1,   8,    16,   32,   64,   128,  256,
                                                512, 1024, 2048, 4096, 8192, 16384 };

void stats_init(struct stats *stats, const struct engine_device *device)
{
    memset(stats, 0, sizeof *stats);
    stats->n_groups = device->n_groups;
    for (int32_t g = 0; g < device->n_groups; g++) {
        stats->pages_total[g] = device->n_pages[g];
        STORE(stats->pages_free[g], device->n_pages[g]);
    }
    STORE(stats->idle, true);
    STORE(stats->beat_ns, clock_ns());
}

void stats_write(struct stats *stats, const struct core *core, int32_t step_tokens, bool idle)
{
    const struct scheduler *s = &core->scheduler;
    STORE(stats->running, s->n_live);
    STORE(stats->waiting, s->n_waiting);
    STORE(stats->step_tokens, step_tokens);
    for (int32_t g = 0; g < stats->n_groups; g++)
        STORE(stats->pages_free[g], core->pool.groups[g].n_free);
    STORE(stats->prompt_tokens, s->counts.prompt_tokens);
    STORE(stats->cached_tokens, s->counts.cached_tokens);
    STORE(stats->generated_tokens, core->counts.generated_tokens);
    STORE(stats->prefix_queries, s->counts.prefix_queries);
    STORE(stats->prefix_hits, s->counts.prefix_hits);
    STORE(stats->preemptions, s->counts.preemptions);
    STORE(stats->steps, core->counts.steps);
    STORE(stats->rows, core->counts.rows);
    for (int32_t i = 0; i < 5; i++)
        STORE(stats->finished[i], core->counts.finished[i]);
    for (int32_t i = 0; i <= STEP_EDGES; i++)
        STORE(stats->step_classes[i], core->counts.step_classes[i]);
    atomic_fetch_add_explicit(&stats->beat, 1, memory_order_relaxed);
    STORE(stats->beat_ns, clock_ns());
    STORE(stats->idle, idle);
}

void stats_lose_device(struct stats *stats, const char *text)
{
    snprintf(stats->device_error, sizeof stats->device_error, "%s", text);
    atomic_store_explicit(&stats->device_lost, true, memory_order_release);
}

void stats_read(const struct stats *stats, struct engine_stats *out)
{
    *out = (struct engine_stats){
        .running = LOAD(stats->running),
        .waiting = LOAD(stats->waiting),
        .prompt_tokens = LOAD(stats->prompt_tokens),
        .cached_tokens = LOAD(stats->cached_tokens),
        .generated_tokens = LOAD(stats->generated_tokens),
        .prefix_queries = LOAD(stats->prefix_queries),
        .prefix_hits = LOAD(stats->prefix_hits),
        .preemptions = LOAD(stats->preemptions),
        .steps = LOAD(stats->steps),
        .rows = LOAD(stats->rows),
        .beat = LOAD(stats->beat),
        .idle = LOAD(stats->idle),
        .step_tokens = LOAD(stats->step_tokens),
    };
    out->beat_ns = out->idle ? clock_ns() : LOAD(stats->beat_ns);
    for (int32_t g = 0; g < stats->n_groups; g++) {
        out->pages_total[g] = stats->pages_total[g];
        out->pages_free[g] = LOAD(stats->pages_free[g]);
        double usage = 1 - (double)out->pages_free[g] / out->pages_total[g];
        out->kv_usage = usage > out->kv_usage ? usage : out->kv_usage;
    }
    for (int32_t i = 0; i < 5; i++)
        out->finished[i] = LOAD(stats->finished[i]);
    for (int32_t i = 0; i <= STEP_EDGES; i++)
        out->step_classes[i] = LOAD(stats->step_classes[i]);
    out->device_lost = atomic_load_explicit(&stats->device_lost, memory_order_acquire);
    if (out->device_lost)
        memcpy(out->device_error, stats->device_error, sizeof out->device_error);
}

uint64_t stats_stalled_ms(struct stats *stats)
{
    uint64_t beat = LOAD(stats->beat), now = clock_ns();
    if (LOAD(stats->idle))
        return 0;
    if (beat != LOAD(stats->seen_beat)) {
        STORE(stats->seen_ns, now);
        STORE(stats->seen_beat, beat);
        return 0;
    }
    uint64_t since = LOAD(stats->seen_ns), written = LOAD(stats->beat_ns);
    since = since > written ? since : written;
    return now > since ? (now - since) / 1000000u : 0;
}
