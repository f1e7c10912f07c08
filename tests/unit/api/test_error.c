/* error: which status and type each code has, and the body's shape. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "api/error.h"
#include "host/base/json.h"

static const struct {
    enum err_code code;
    int32_t status;
    const char *type;
} CODES[] = {
    { ERR_REQUEST, 400, "invalid_request_error" },
    { ERR_CONTEXT, 400, "exceed_context_size_error" },
    { ERR_UNAUTHORIZED, 401, "authentication_error" },
    { ERR_NOT_FOUND, 404, "not_found_error" },
    { ERR_METHOD, 405, "invalid_request_error" },
    { ERR_TOO_LARGE, 413, "invalid_request_error" },
    { ERR_FULL, 429, "rate_limit_error" },
    { ERR_UNSUPPORTED, 501, "not_supported_error" },
    { ERR_UNAVAILABLE, 503, "unavailable_error" },
    { ERR_FORMAT, 500, "server_error" },
    { ERR_IO, 500, "server_error" },
    { ERR_MEMORY, 500, "server_error" },
    { ERR_DEVICE, 500, "server_error" },
};

static void check_body(const struct err *err, int32_t n_prompt, int32_t n_ctx, const char *want)
{
    struct buf out;
    struct err reading = { 0 };
    cJSON *got, *wanted;
    buf_init(&out, 1 << 16);
    api_write_error(&out, err, n_prompt, n_ctx);
    if (!json_parse(buf_text(&out), out.length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &got, &reading))
        fail_msg("%s: %s", buf_text(&out), reading.text);
    assert_ok(json_parse(want, strlen(want), &JSON_REQUEST_LIMITS, ERR_FORMAT, &wanted, &reading),
              &reading);
    if (!cJSON_Compare(got, wanted, true))
        fail_msg("%s, want %s", buf_text(&out), want);
    json_free(got);
    json_free(wanted);
    buf_clear(&out);
}

static void test_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof CODES / sizeof CODES[0]; i++) {
        struct err err;
        char want[256];
        assert_int_equal(api_status(CODES[i].code), CODES[i].status);
        err_set(&err, CODES[i].code, "text");
        snprintf(want, sizeof want,
                 "{\"error\":{\"message\":\"text\",\"type\":\"%s\",\"param\":null,\"code\":%d}}",
                 CODES[i].type, CODES[i].status);
        check_body(&err, 0, 0, want);
    }
}

static void test_bodies(void **state)
{
    (void)state;
    struct err err;
    /* An error is one line (err.h). */
    err_set_field(&err, ERR_REQUEST, "messages[2].role", "messages[2].role is \"x\"\n");
    check_body(&err, 0, 0,
               "{\"error\":{\"message\":\"messages[2].role is \\\"x\\\" \","
               "\"type\":\"invalid_request_error\",\"param\":\"messages[2].role\",\"code\":400}}");
    /* What is not text is cleaned where the error is made; a body is JSON even if it was not. */
    err_set_field(&err, ERR_NOT_FOUND, "a\xc3", "no \"\xff\"");
    check_body(&err, 0, 0,
               "{\"error\":{\"message\":\"no \\\"?\\\"\",\"type\":\"not_found_error\","
               "\"param\":\"a\",\"code\":404}}");
    memcpy(err.text, "\xff", 2);
    memcpy(err.field, "a\xc3", 3);
    check_body(&err, 0, 0,
               "{\"error\":{\"message\":\"\xef\xbf\xbd\",\"type\":\"not_found_error\","
               "\"param\":\"a\xef\xbf\xbd\",\"code\":404}}");
    err_set_field(&err, ERR_CONTEXT, "prompt", "too long");
    check_body(&err, 130, 128,
               "{\"error\":{\"message\":\"too long\",\"type\":\"exceed_context_size_error\","
               "\"param\":\"prompt\",\"code\":400,\"n_prompt_tokens\":130,\"n_ctx\":128}}");
    check_body(&err, 130, 0,
               "{\"error\":{\"message\":\"too long\",\"type\":\"exceed_context_size_error\","
               "\"param\":\"prompt\",\"code\":400}}");
    err_set(&err, ERR_FULL, "busy");
    check_body(&err, 130, 128,
               "{\"error\":{\"message\":\"busy\",\"type\":\"rate_limit_error\",\"param\":null,"
               "\"code\":429}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_codes),
                                        cmocka_unit_test(test_bodies) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
