/* cpu_backend.h - what the CPU backend adds to backend.h. */
#pragma once
#include "host/backend/backend.h"

/* Keep a device failure: the first one wins; every later op is a no-op and finish() reports it as
 * ERR_DEVICE "cpu: OP: text". Tests inject with it. */
void cpu_backend_fail(struct backend *be, const char *op, const char *format, ...)
    PRINTF_LIKE(3, 4);
