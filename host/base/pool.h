/* pool.h - a small pinned thread pool; the caller works too. A run is cut into as many parts as
 * there are threads, fixed by index: results cannot depend on who runs a part. A thread that comes
 * late finds its part done by another. Waiters spin 50 us, then sleep. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

struct pool;
/* n_threads >= 1 in all, the caller included; 0 = one per usable CPU (sched_getaffinity), at most
 * 64. Pins workers 1.. to CPUs when there are enough. */
MUST_USE bool pool_open(struct pool **pool, int32_t n_threads, struct err *err);
void pool_close(struct pool *pool);
int32_t pool_threads(const struct pool *pool);
/* Run fn(arg, part, n_parts) for part 0..n_parts-1, n_parts = pool_threads; returns when all are
 * done. Only one thread may call it at a time. */
typedef void pool_fn(void *arg, int32_t part, int32_t n_parts);
void pool_run(struct pool *pool, pool_fn *fn, void *arg);
/* Rows [*from, *to) of n for this part, cut at multiples of `step`. */
void pool_share(int64_t n, int64_t step, int32_t part, int32_t n_parts, int64_t *from, int64_t *to);
#ifdef __cplusplus
}
#endif
