/* error.c - the one place where an error becomes an HTTP status and a body. */
#include "api/error.h"
#include <string.h>

static const struct {
    enum err_code code;
    int32_t status;
    const char *type;
} table[] = {
    { ERR_REQUEST, 400, "invalid_request_error" },
    { ERR_CONTEXT, 400, "exceed_context_size_error" },
    { ERR_UNAUTHORIZED, 401, "authentication_error" },
    { ERR_NOT_FOUND, 404, "not_found_error" },
    { ERR_METHOD, 405, "invalid_request_error" },
    { ERR_TOO_LARGE, 413, "invalid_request_error" },
    { ERR_FULL, 429, "rate_limit_error" },
    { ERR_UNSUPPORTED, 501, "not_supported_error" },
    { ERR_UNAVAILABLE, 503, "unavailable_error" },
};
enum { N_TABLE = sizeof table / sizeof table[0] };

int32_t api_status(enum err_code code)
{
    for (size_t i = 0; i < N_TABLE; i++)
        if (table[i].code == code)
            return table[i].status;
    return 500; /* FORMAT, IO, MEMORY, DEVICE: ours, not the client's */
}

void api_write_error(struct buf *out, const struct err *err, int32_t n_prompt, int32_t n_ctx)
{
    const char *type = "server_error";
    for (size_t i = 0; i < N_TABLE; i++)
        if (table[i].code == err->code)
            type = table[i].type;
    buf_puts(out, "{\"error\":{\"message\":");
    buf_put_json_string(out, err->text, strlen(err->text));
    buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    if (err->field[0] != 0)
        buf_put_json_string(out, err->field, strlen(err->field));
    else
        buf_puts(out, "null");
    buf_printf(out, ",\"code\":%d", (int)api_status(err->code));
    if (err->code == ERR_CONTEXT && n_ctx > 0)
        buf_printf(out, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d", (int)n_prompt, (int)n_ctx);
    buf_puts(out, "}}");
}
