/* W3C Trace Context: what counts as a traceparent, and what goes back. */
#include "tests/support/support.h"
#include "server/trace.h"

#define ID   "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"

static void traceparents(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
        bool good;
    } rows[] = {
        { "00-" ID "-" SPAN "-01", "the example of the Recommendation", true },
        { "00-" ID "-" SPAN "-00", "not sampled", true },
        { "cc-" ID "-" SPAN "-01", "a later version", true },
        { "cc-" ID "-" SPAN "-01-what-the-future-brings", "which may say more", true },
        { "cc-" ID "-" SPAN "-01.x", "but behind a dash", false },
        { "00-" ID "-" SPAN "-01-more", "version 00 says no more", false },
        { "00-" ID "-" SPAN "-01 ", "nor blanks", false },
        { "ff-" ID "-" SPAN "-01", "version ff is forbidden", false },
        { "00-00000000000000000000000000000000-" SPAN "-01", "a trace id of zeros", false },
        { "00-" ID "-0000000000000000-01", "a parent id of zeros", false },
        { "00-0AF7651916CD43DD8448EB211C80319C-" SPAN "-01", "capitals", false },
        { "00-" ID "-b7ad6b716920333-01", "a digit too few", false },
        { "00-" ID "-" SPAN "1-01", "a digit too many", false },
        { "00-" ID "-" SPAN "-1", "flags of one digit", false },
        { "00-" ID "-" SPAN, "no flags", false },
        { "00-" ID, "no parent", false },
        { "0", "next to nothing", false },
        { "", "nothing", false },
        { "00_" ID "-" SPAN "-01", "another dash", false },
        { "0g-" ID "-" SPAN "-01", "no digit", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct trace trace;
        char text[64];
        /* A block of its own: reading on is an error of the sanitizer. */
        char *copy = strdup(rows[i].text);
        bool good = trace_read(&trace, copy);
        free(copy);
        if (good != rows[i].good)
            fail_msg("%s (%s): %s", rows[i].text, rows[i].why, good ? "taken" : "refused");
        if (!good) {
            assert_string_equal(trace_response(&trace, text, sizeof text), "");
            assert_string_equal(trace.trace_id, "");
            continue;
        }
        assert_string_equal(trace.trace_id, ID);
        assert_string_equal(trace.parent_id, SPAN);
        assert_int_equal(strlen(trace.span_id), 16);
        assert_string_not_equal(trace.span_id, SPAN);
        trace_response(&trace, text, sizeof text);
        assert_int_equal(strlen(text), 55);
        struct trace again; /* what goes back is a valid one too */
        assert_true(trace_read(&again, text));
        assert_string_equal(again.trace_id, ID);
        assert_string_equal(again.parent_id, trace.span_id);
    }
    struct trace trace;
    assert_false(trace_read(&trace, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(traceparents) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
