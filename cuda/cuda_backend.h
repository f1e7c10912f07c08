/* cuda_backend.h - the seam (host/backend/backend.h) on one NVIDIA GPU. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/backend.h"
#ifdef __cplusplus
extern "C" {
#endif

struct cuda_options {
    int32_t device;     /* index */
    bool invariant;     /* fixed kernel and split order: a row's bits do not depend on company */
    bool int8;          /* activations quantized to int8 at run time where rows >= 33 (K4) */
    int32_t dense_rows; /* rows of a step from which cuBLASLt multiplies; 0: 2048 (choose.cu) */
    bool no_graphs;     /* every step eagerly: debugging, compute-sanitizer */
    /* File of measured kernel times (measure.cu): what it lacks is measured when a model is opened,
     * and added. Empty: measured, kept nowhere. NULL: kernels by rule (choose.cu). Copied. */
    const char *kernels;
    /* Of the program: what another one measured is measured again. Static. */
    const char *version;
};
/* ERR_DEVICE: no driver, a driver older than this build needs, no such device, a GPU older than
 * sm_80; the text says which, what was wanted and what was found. */
MUST_USE bool cuda_backend_open(struct backend **be, const struct cuda_options *options,
                                struct err *err);
/* How often each kernel path was started since open: paths and their names, for tests and
 * `inspect`; the names end with NULL. */
const char *const *cuda_backend_paths(void);
const int64_t *cuda_backend_counts(const struct backend *be);
#ifdef __cplusplus
}
#endif
