/* fused_experts.h - the experts of a layer as one tensor of three dimensions, seen as the matrices
 * that they are.
 *
 *   transformers 5      gate_up_proj [experts][gate | up][hidden], down_proj
 * [experts][hidden][width] gpt-oss             gate_up_proj [experts][hidden][gate 0, up 0, gate 1,
 * ...], with gate_up_proj_bias [experts][gate 0, up 0, ...]; down_proj [experts][width][hidden],
 * down_proj_bias [experts][hidden]
 *
 * Sources: transformers' modeling_mixtral.py (experts as 3-D parameters), modeling_gpt_oss.py.
 * Pure; for load.c. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/format/tensor_dir.h"
#include "host/model/config.h"
#include "host/model/names.h"

/* Matrix, or bias, of one expert. `slot`: MATRIX_EXPERT_GATE_UP (part 0: gate, 1: up) or
 * MATRIX_EXPERT_DOWN. On true *whole is the tensor of all experts, or NULL where the directory has
 * none: then the experts have tensors of their own. `view` gets dimensions, data and steps of this
 * one's, and the whole one's name and file. ERR_FORMAT: its shape or type is another. */
MUST_USE bool fused_expert(const struct config *config, const struct tensor_dir *tensors, int32_t l,
                           enum matrix_slot slot, int32_t part, int32_t expert, bool bias,
                           struct tensor *view, const struct tensor **whole, struct err *err);
