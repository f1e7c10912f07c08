/* open_backend.h - from --device to a backend. open_backend.c is the only file that knows which
 * devices this build has. */
#pragma once
#include "host/backend/backend.h"
#include "server/options.h"

/* `activations`: enum activations (exact: the backend's exact arithmetic). ERR_UNSUPPORTED names
 * what this build or machine does not have. */
MUST_USE bool open_backend(struct backend **be, const struct options *options, int32_t activations,
                           struct err *err);
