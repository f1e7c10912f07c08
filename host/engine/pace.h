/* pace.h - how many rows of prompt a step may carry while somebody streams.
 *
 * A step with prompt in it should take at most twice a pure decode step. Both are measured: the
 * time of decode steps by the number of their rows, and the time that each further row adds.
 * Engine thread only. */
#pragma once
#include <stdint.h>

enum {
    /* Four rows stream the weights once (they decode at 3.5 times the rate of one), and where rows
     * are dear beside a step, as on a model that fits the cache, 16 would take three steps' time.
     */
    PACE_CHUNK_MIN = 4,
    PACE_BUCKETS = 16 /* decode rows 1, 2, 3-4, 5-8, ... */
};
struct pace {
    double decode_ns[PACE_BUCKETS]; /* a pure decode step; 0: not seen */
    double row_ns;                  /* what a row of prompt adds; 0: not seen */
    int32_t chunk_max;
    int32_t trusted; /* chunks up to twice the largest that kept the bound beside streams */
};
void pace_init(struct pace *pace, int32_t chunk_max);
/* A step of n_decode rows with one token to go and n_prompt others took so long. */
void pace_record(struct pace *pace, int32_t n_decode, int32_t n_prompt, uint64_t ns);
/* Rows of prompt beside n_decode streams. */
int32_t pace_chunk(const struct pace *pace, int32_t n_decode);
