/* experts.h - routing and experts on the CPU (backend.h: route, linear_experts).
 *
 * Slot rows (row, slot) are sorted by expert, stably, so that each expert's weights pass once for
 * all of its rows and the tile kernels see as many rows as there are. A product's row does not
 * depend on the rows beside it (linear.h), and weighted outputs are added in slot order: bits do
 * not depend on company. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/backend.h"
#include "host/backend/cpu/linear.h"
#include "host/backend/cpu/ops.h"
#include "host/base/err.h"
#include "host/base/pool.h"

struct experts_scratch;
/* For steps within `limits` (rows_max, n_experts, n_chosen, expert_cols). ERR_MEMORY; nothing
 * later. */
MUST_USE bool experts_scratch_open(struct experts_scratch **scratch,
                                   const struct backend_limits *limits, struct err *err);
void experts_scratch_close(struct experts_scratch *scratch); /* NULL is fine */

/* One row: ids and weights of the n_chosen of n logits (see struct route_op). A NaN is chosen last;
 * the ids are different ones in any case. */
void experts_route_row(enum route kind, const float *logits, int32_t n, int32_t n_chosen,
                       int32_t *ids, float *weights);
/* One linear_experts_op whose x is normed already. `linear` was opened for rows_max rows. */
void experts_run(struct pool *pool, struct experts_scratch *scratch, struct linear_scratch *linear,
                 const struct ops_kernels *kernels, const struct linear_experts_op *op,
                 struct view x);
