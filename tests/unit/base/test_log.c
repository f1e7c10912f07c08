/* log: one event is one line, whatever the values hold, and a stuck pipe stops nobody. */
#include "tests/support/support.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/json.h"
#include "host/base/log.h"

static int saved_stderr, pipe_ends[2];

static void capture(void)
{
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    assert_int_equal(pipe2(pipe_ends, O_NONBLOCK), 0);
    fcntl(pipe_ends[1], F_SETFL, 0); /* the writing end blocks, as a real one does */
    dup2(pipe_ends[1], STDERR_FILENO);
}

static size_t drain(char *text, size_t size)
{
    ssize_t n = read(pipe_ends[0], text, size - 1);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

static void release(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

#define LONG_TEXT                                                                                  \
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"

/* Each row logs one value as v=%s, and says how it comes out behind `v=` and as JSON. */
static const struct {
    const char *value, *text, *json;
} VALUES[] = {
    { "plain", "plain", "plain" },
    { "", "\"\"", "" },
    { "two words", "\"two words\"", "two words" },
    { "a=b", "\"a=b\"", "a=b" },
    { "x\nlevel=error forged=1", "\"x\\u000alevel=error forged=1\"", "x\nlevel=error forged=1" },
    { "q\" status=200", "\"q\\\" status=200\"", "q\" status=200" },
    { "back\\", "\"back\\\\\"", "back\\" },
    { "\x1b[31m\x7f", "\"\\u001b[31m\\u007f\"", "\x1b[31m\x7f" },
    { "\xff", "\"\\ufffd\"", "\xef\xbf\xbd" },
    { "caf\xc3\xa9", "\"caf\xc3\xa9\"", "caf\xc3\xa9" },
};

static void test_values(void **state)
{
    (void)state;
    for (int as_json = 0; as_json < 2; as_json++)
        for (int quoted = 0; quoted < 2; quoted++)
            for (size_t i = 0; i < sizeof VALUES / sizeof VALUES[0]; i++) {
                char line[8192], want[600];
                capture();
                log_configure(LOG_INFO, as_json);
                if (quoted)
                    log_info("event", "before=1 v=\"%s\" after=2", VALUES[i].value);
                else
                    log_info("event", "before=1 v=%s after=2", VALUES[i].value);
                size_t n = drain(line, sizeof line);
                release();
                assert_true(n > 0 && strchr(line, '\n') == line + n - 1);
                if (!as_json) {
                    bool bare = quoted && VALUES[i].text[0] != '"';
                    snprintf(want, sizeof want, "Z info event before=1 v=%s%s%s after=2\n",
                             bare ? "\"" : "", VALUES[i].text, bare ? "\"" : "");
                    if (!strstr(line, want))
                        fail_msg("%s, want %s", line, want);
                    continue;
                }
                struct err err;
                struct cJSON *root;
                assert_ok(json_parse(line, n, &JSON_REQUEST_LIMITS, ERR_FORMAT, &root, &err), &err);
                struct json_ref top = json_root(root);
                const char *text = NULL;
                int64_t before = 0, after = 0;
                assert_int_equal(json_count(&top), 6); /* ts level event before v after */
                assert_ok(json_opt_string(&top, "v", &text, &err), &err);
                assert_string_equal(text, VALUES[i].json);
                assert_ok(json_opt_int(&top, "before", 1, 1, &before, &err), &err);
                assert_ok(json_opt_int(&top, "after", 2, 2, &after, &err), &err);
                assert_int_equal(before + after, 3);
                json_free(root);
            }
}

static void test_conversions(void **state)
{
    (void)state;
    char line[8192];
    capture();
    log_configure(LOG_INFO, false);
    log_info("all",
             "d=%d u=%u ld=%ld lld=%lld zu=%zu x=%08x f=%.3f g=%g w=%5d p=%% c=%c s=%.*s h=%hhu "
             "star=%*d j=%jd",
             -5, 4000000000u, -5000000000l, 1ll << 60, (size_t)77, 0xabcu, 1.5, 1e-9, 42, 'c', 3,
             "abcdef", (unsigned char)200, 4, 7, (intmax_t)-1);
    size_t n = drain(line, sizeof line);
    assert_true(n > 0);
    if (!strstr(line, "Z info all d=-5 u=4000000000 ld=-5000000000 lld=1152921504606846976 zu=77 "
                      "x=00000abc f=1.500 g=1e-09 w=   42 p=% c=c s=abc h=200 star=   7 j=-1\n"))
        fail_msg("%s", line);
    log_info("nothing", " ");
    drain(line, sizeof line);
    errno = 42; /* logging on an error path must not change it */
    log_debug("quiet", "x=%d", 1);
    log_info("loud", "x=%d", 1);
    assert_int_equal(errno, 42);
    drain(line, sizeof line);
    assert_null(strstr(line, "quiet"));
    assert_non_null(strstr(line, "loud"));
    log_configure(LOG_OFF, false);
    log_error("silent", "x=%d", 1);
    assert_int_equal(drain(line, sizeof line), 0);
    release();
    log_configure(LOG_INFO, false);
}

/* Too long a value is cut; the line stays one line of at most 4096 bytes, and valid JSON. */
static void test_too_long(void **state)
{
    (void)state;
    char *value = malloc(20001);
    for (int kind = 0; kind < 3; kind++)
        for (int as_json = 0; as_json < 2; as_json++)
            for (size_t length = 2900; length <= 20000; length += length < 3100 ? 1 : 4000) {
                char line[8192];
                for (size_t i = 0; i < length; i++)
                    value[i] = kind == 0 ? 'x' : kind == 1 ? '"' : (char)0xff;
                value[length] = 0;
                capture();
                log_configure(LOG_INFO, as_json);
                log_info("long", "a=%s b=%s", value, "two words");
                size_t n = drain(line, sizeof line);
                release();
                assert_in_range(n, 2900, 4096);
                assert_true(strchr(line, '\n') == line + n - 1);
                struct err err;
                struct cJSON *root;
                if (!as_json)
                    continue;
                assert_ok(json_parse(line, n, &JSON_REQUEST_LIMITS, ERR_FORMAT, &root, &err), &err);
                json_free(root);
            }
    free(value);
    log_configure(LOG_INFO, false);
}

static void test_stuck_pipe(void **state)
{
    (void)state;
    static char text[200000];
    capture();
    log_configure(LOG_INFO, false);
    uint64_t start = clock_ms();
    for (int i = 0; i < 5000; i++)
        log_info("flood", "i=%d text=%s", i, LONG_TEXT);
    assert_true(clock_ms() - start < 30000); /* waited 10 ms once, then dropped */
    size_t n = drain(text, sizeof text);
    assert_true(n > 4096 && text[n - 1] == '\n');
    log_info("after", "x=1");
    drain(text, sizeof text);
    release();
    assert_non_null(strstr(text, "info after x=1\n"));
    assert_non_null(strstr(text, "warn log_dropped lines="));
}

static void test_check_is_logged(void **state)
{
    (void)state;
    char text[4096];
    capture();
    log_configure(LOG_OFF, false);
    pid_t child = fork();
    if (child == 0) {
        CHECK(saved_stderr == -12345);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    drain(text, sizeof text);
    release();
    log_configure(LOG_INFO, false);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "fatal bug file="));
    assert_non_null(strstr(text, "check=\"saved_stderr == -12345\"\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),          cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_too_long),        cmocka_unit_test(test_stuck_pipe),
        cmocka_unit_test(test_check_is_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
