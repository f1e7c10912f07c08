/* error.h - struct err -> HTTP status and OpenAI-shaped body. */
#pragma once
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"

int32_t api_status(enum err_code code);
/* {"error":{"message","type","param","code"}}; n_prompt, n_ctx (ERR_CONTEXT) when n_ctx > 0. */
void api_write_error(struct buf *out, const struct err *err, int32_t n_prompt, int32_t n_ctx);
