/* attend.h - attention over paged keys and values on the CPU (DESIGN 4; layout: kv_layout.h).
 *
 * fp32 arithmetic over K and V as they are stored (int8: code * scale, in fp32). For every (row,
 * head), pages in ascending order from the one that holds the first visible position:
 *   s[t] = (q * scale) . k[t]      16 partial sums by feature mod 16, then the tree of v16_sum
 *   s    = cap * tanh(s / cap)     where a cap is set; -infinity outside the row's view
 *   m'   = max(m, s); p = e^(s - m'); l = l e^(m - m') + p (one sum per token of the page)
 *   o    = o e^(m - m') + sum over t ascending of p[t] v[t]
 * and y = o / l. Nothing in it depends on other rows, on the cut into blocks, or on which thread
 * does it; so the bits do not (backend.h), nor do they on the instruction set (simd.h). A head with
 * a sink starts with m = sink, l = 1; one without with m = -infinity, l = 0.
 * Source: Milakov, Gimelshein 2018 (online softmax); Dao 2022 (blocks). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/base/pool.h"
#include "host/backend/backend.h"

enum { ATTEND_HEAD_DIM_MAX = 512 };

struct attend_scratch;
/* For n_threads threads and heads of up to head_dim features. ERR_MEMORY; nothing later. */
MUST_USE bool attend_scratch_open(struct attend_scratch **scratch, enum cpu_isa isa,
                                  int32_t n_threads, int32_t head_dim, struct err *err);
void attend_scratch_close(struct attend_scratch *scratch); /* NULL is fine */
/* One attend_op. F32 views; K and V of every row of the batch are in the pages already. */
void attend_run(struct pool *pool, struct attend_scratch *scratch, const struct attend_op *op);
