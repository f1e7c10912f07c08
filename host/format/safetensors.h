/* safetensors.h - one .safetensors file: u64 header size, JSON header, data.
 * Format: huggingface/safetensors README. Enforced: header <= 100 MB and inside the file, JSON
 * object, no duplicate names, known dtypes, dtype x shape = end - begin, no overlap, no holes, data
 * ends where the file ends. */
#pragma once
#include "host/format/tensor_dir.h"

/* Add the tensors of one mapped file to `dir`, in the order of their data. `label` names the file
 * in messages and is copied. On success `dir` takes the mapping over; on false `dir` is as it was
 * and the mapping still the caller's. ERR_FORMAT: the file is not what it says, or a name is
 * already in `dir` (both files are named); ERR_UNSUPPORTED: a dtype or a rank that nibble does not
 * know. Data need not be aligned. Reads the header only: no page of data is touched. */
MUST_USE bool safetensors_add(struct tensor_dir *dir, struct file_map file, const char *label,
                              struct err *err);
