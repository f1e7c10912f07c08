/* stats.h - the engine's numbers, written by its thread, read by anyone without waiting. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "host/engine/core.h"
#include "host/engine/engine.h"

struct stats {
    int32_t n_groups;
    int32_t pages_total[KV_GROUPS_MAX]; /* constant */
    _Atomic int32_t running, waiting, step_tokens;
    _Atomic int32_t pages_free[KV_GROUPS_MAX];
    _Atomic uint64_t prompt_tokens, cached_tokens, generated_tokens;
    _Atomic uint64_t prefix_queries, prefix_hits, preemptions, steps, rows;
    _Atomic uint64_t finished[5];
    _Atomic uint64_t step_classes[STEP_EDGES + 1];
    _Atomic uint64_t beat, beat_ns;
    _Atomic bool idle, device_lost;
    char device_error[256]; /* written once, before device_lost */
    /* engine_stalled_ms: the beat that was last seen to be new, and when. Any observer writes it.
     */
    _Atomic uint64_t seen_beat, seen_ns;
};
void stats_init(struct stats *stats, const struct engine_device *device);
/* Engine thread: the numbers of now; counts as a heartbeat. */
void stats_write(struct stats *stats, const struct core *core, int32_t step_tokens, bool idle);
void stats_lose_device(struct stats *stats, const char *text);
void stats_read(const struct stats *stats, struct engine_stats *out);
/* Milliseconds without a beat while there is work, as far as the callers of this function have
 * seen: the time counts from the first call that met the beat. */
uint64_t stats_stalled_ms(struct stats *stats);
