/* stream, the edges: prompt ids, no tokenizer, slow clients, echo, failures, stop tokens. */
#include "tests/unit/server/stream.h"
#include "host/base/clock.h"

/* The ids of the prompt ride on the first chunk that there is, even when the first token gives no
 * text (it did not: they were lost). */
static void test_prompt_ids(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 5, 6 };
    struct generate g = {
        .kind = API_COMPLETION, .n = 1, .stream = true, .return_token_ids = true
    };
    struct fixture f;
    struct said said;
    g.sampling.n_top = -1;
    said_init(&said);
    fixture_open(&f, &g, NULL, prompt, 2);
    struct event events[] = { token_event(byte_ids[0xc3], 0), token_event(byte_ids[0xa9], 0),
                              token_event(byte_ids['b'], 0), done_event(FINISH_LENGTH) };
    for (size_t i = 0; i < 4; i++) {
        assert_true(put_event(&f, 0, &events[i]));
        exchange_drain(&f.x, NULL);
        if (i == 0)
            assert_int_equal(f.x.out.length, 0);
    }
    take(&f);
    assert_int_equal(hear_stream(&said, &f.sse, NULL), 4);
    assert_int_equal(said.n_prompts, 1);
    assert_int_equal(cJSON_GetArraySize(said.ids), 3);
    assert_string_equal(buf_text(&said.text), "\xc3\xa9"
                                              "b");
    said_clear(&said);
    fixture_close(&f);
}

/* Without a tokenizer the ids are the reply: they go out as they come. */
static void test_ids_only(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 5 };
    struct generate g = {
        .kind = API_COMPLETION, .n = 1, .stream = true, .return_token_ids = true
    };
    struct fixture f;
    struct said said;
    g.sampling.n_top = -1;
    said_init(&said);
    fixture_open(&f, &g, NULL, prompt, 1);
    f.model.tokenizer = NULL;
    for (int32_t i = 0; i < 3; i++) {
        struct event event = token_event(40 + i, 0);
        assert_true(put_event(&f, 0, &event));
        exchange_drain(&f.x, NULL);
        assert_true(f.x.out.length > 0);
        take(&f);
    }
    struct event done = done_event(FINISH_LENGTH);
    assert_true(put_event(&f, 0, &done));
    exchange_drain(&f.x, NULL);
    take(&f);
    assert_int_equal(hear_stream(&said, &f.sse, NULL), 5);
    assert_int_equal(cJSON_GetArraySize(said.ids), 3);
    assert_int_equal(cJSON_GetArrayItem(said.ids, 2)->valueint, 42);
    said_clear(&said);
    fixture_close(&f);
}

/* A client that does not read: the stream stops growing, events stay in the ring (so that the
 * engine plans no more), and the engine is woken when there is room again. */
static void test_slow_client(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 5 };
    struct generate g = { .kind = API_CHAT, .n = 1, .stream = true };
    struct fixture f;
    struct said said;
    int32_t fed = 0;
    enum { LONG = 3000 };
    g.sampling.n_top = -1;
    said_init(&said);
    fixture_open(&f, &g, NULL, prompt, 1);
    struct spsc *ring = &f.job.requests[0]->outboxes[0].ring;
    struct event event = token_event(byte_ids['a'], 0);
    while (spsc_room(ring) > 0) {
        assert_true(fed < LONG && put_event(&f, 0, &event));
        fed++;
        exchange_drain(&f.x, NULL);
    }
    assert_int_equal(spsc_ready(ring), OUTBOX_EVENTS);
    assert_in_range(f.x.out.length, EXCHANGE_OUT_MAX, EXCHANGE_OUT_MAX + 1024);
    n_wakes = 0;
    exchange_drain(&f.x, NULL);
    assert_int_equal(n_wakes, 0);
    take(&f);
    exchange_drain(&f.x, NULL);
    assert_int_equal(n_wakes, 1);
    assert_int_equal(spsc_ready(ring), 0);
    for (; fed < LONG; fed++) {
        assert_true(put_event(&f, 0, &event));
        exchange_drain(&f.x, NULL);
        take(&f);
    }
    event = done_event(FINISH_LENGTH);
    assert_true(put_event(&f, 0, &event));
    exchange_drain(&f.x, NULL);
    take(&f);
    hear_stream(&said, &f.sse, NULL);
    assert_int_equal(said.text.length, LONG);
    assert_int_equal(strspn(buf_text(&said.text), "a"), LONG);
    said_clear(&said);
    fixture_close(&f);
}

static void test_echo(void **state)
{
    (void)state;
    static const struct {
        bool stream, logprobs;
        int32_t n_tokens; /* of the answer "bb..." */
    } rows[] = { { false, false, 0 }, { true, false, 0 },  { false, true, 2 },
                 { true, true, 2 },   { false, false, 2 }, { true, false, 2 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t prompt[] = { byte_ids['x'], byte_ids[0xc3], byte_ids[0xa9] };
        struct api_prompt text = { .text = "x\xc3\xa9", .length = 3 };
        struct generate g = { .kind = API_COMPLETION,
                              .n = 1,
                              .stream = rows[i].stream,
                              .echo = true,
                              .return_token_ids = true,
                              .prompts = &text,
                              .n_prompts = 1 };
        struct fixture f;
        struct said said;
        g.sampling.n_top = rows[i].logprobs ? 0 : -1;
        said_init(&said);
        fixture_open(&f, &g, NULL, prompt, 3);
        struct prompt_logprobs known = { .logprobs = (float[]){ 0, -1, -2 } };
        f.job.requests[0]->prompt_logprobs = rows[i].logprobs ? &known : NULL;
        for (int32_t k = 0; k <= rows[i].n_tokens; k++) {
            struct event event =
                k < rows[i].n_tokens ? token_event(byte_ids['b'], 0) : done_event(FINISH_LENGTH);
            assert_true(put_event(&f, 0, &event));
            exchange_drain(&f.x, NULL);
        }
        if (rows[i].stream) {
            take(&f);
            hear_stream(&said, &f.sse, NULL);
        } else {
            exchange_write_reply(&f.x);
            cJSON *root = strict(buf_text(&f.x.out), f.x.out.length);
            hear(&said, cJSON_GetArrayItem(cJSON_GetObjectItem(root, "choices"), 0));
            json_free(root);
        }
        assert_string_equal(buf_text(&said.text), rows[i].n_tokens ? "x\xc3\xa9"
                                                                     "bb"
                                                                   : "x\xc3\xa9");
        assert_int_equal(cJSON_GetArraySize(said.ids), rows[i].n_tokens);
        assert_int_equal(said.n_prompts, 1);
        if (rows[i].logprobs) {
            char *offsets =
                cJSON_PrintUnformatted(cJSON_GetObjectItem(said.logprobs, "text_offset"));
            char *logprobs =
                cJSON_PrintUnformatted(cJSON_GetObjectItem(said.logprobs, "token_logprobs"));
            char b[64];
            snprintf(b, sizeof b, "[null,-1,-2,%g,%g]", -0.5 - byte_ids['b'] % 8,
                     -0.5 - byte_ids['b'] % 8);
            assert_string_equal(offsets, "[0,1,1,2,3]");
            assert_string_equal(logprobs, b);
            cJSON_free(offsets);
            cJSON_free(logprobs);
        } else {
            assert_true(cJSON_IsNull(said.logprobs));
        }
        f.job.requests[0]->prompt_logprobs = NULL;
        said_clear(&said);
        fixture_close(&f);
    }
}

/* An error before the first token is a status, after it an event; a sibling is cancelled. */
static void test_failures(void **state)
{
    (void)state;
    static const struct {
        bool stream, begun;
        enum finish finish;
        const char *says;
    } rows[] = {
        { true, false, FINISH_ERROR, "device lost" },
        { true, true, FINISH_ERROR, "device lost" },
        { false, false, FINISH_ERROR, "device lost" },
        { false, true, FINISH_ERROR, "device lost" },
        { true, true, FINISH_CANCELLED, "cancelled" },
        { false, true, FINISH_CANCELLED, "cancelled" },
    };
    static const int32_t prompt[] = { 5 };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct generate g = { .kind = API_CHAT, .n = 2, .stream = rows[i].stream };
        struct fixture f;
        struct said said[2];
        g.sampling.n_top = -1;
        said_init(&said[0]);
        said_init(&said[1]);
        fixture_open(&f, &g, NULL, prompt, 1);
        snprintf(f.job.requests[0]->error_text, sizeof f.job.requests[0]->error_text,
                 "device lost");
        struct event token = token_event(byte_ids['a'], 0), done = done_event(rows[i].finish);
        if (rows[i].begun)
            assert_true(put_event(&f, 0, &token));
        exchange_drain(&f.x, NULL);
        assert_true(put_event(&f, 0, &done));
        exchange_drain(&f.x, NULL);
        assert_int_equal(f.x.err.code, ERR_UNAVAILABLE);
        assert_non_null(strstr(f.x.err.text, rows[i].says));
        assert_true(f.job.requests[0]->cancelled);
        if (rows[i].stream && rows[i].begun) {
            cJSON *error = NULL;
            take(&f);
            assert_int_equal(hear_stream(said, &f.sse, &error), 4); /* role, a, error, [DONE] */
            assert_string_equal(buf_text(&said[0].text), "a");
            assert_int_equal(cJSON_GetObjectItem(error, "code")->valueint, 503);
            cJSON_Delete(error);
            assert_true(f.x.out_final);
            /* What still comes says nothing more. */
            assert_true(put_event(&f, 1, &token) && put_event(&f, 1, &done));
            exchange_drain(&f.x, NULL);
            assert_int_equal(f.x.out.length, 0);
        } else {
            assert_int_equal(f.x.state, EXCHANGE_RUNNING);
            assert_int_equal(f.x.out.length, 0);
        }
        said_clear(&said[0]);
        said_clear(&said[1]);
        fixture_close(&f);
    }
}

/* A stop token is told by its id; its text is shown with include_stop_str_in_output. */
static void test_stop_tokens(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 5 };
    for (int32_t include = 0; include < 2; include++) {
        struct generate g = { .kind = API_COMPLETION, .n = 1, .include_stop = include };
        struct fixture f;
        struct said said;
        g.sampling.n_top = -1;
        said_init(&said);
        fixture_open(&f, &g, NULL, prompt, 1);
        struct request *request = f.job.requests[0];
        request->stop_tokens = malloc(sizeof *request->stop_tokens);
        request->stop_tokens[0] = byte_ids['z'];
        request->n_stop_tokens = 1;
        struct event token = token_event(byte_ids['a'], 0), done = done_event(FINISH_STOP);
        done.finish_token = byte_ids['z'];
        assert_true(put_event(&f, 0, &token) && put_event(&f, 0, &done));
        exchange_drain(&f.x, NULL);
        exchange_write_reply(&f.x);
        cJSON *root = strict(buf_text(&f.x.out), f.x.out.length);
        hear(&said, cJSON_GetArrayItem(cJSON_GetObjectItem(root, "choices"), 0));
        assert_string_equal(buf_text(&said.text), include ? "az" : "a");
        assert_string_equal(said.finish, "stop");
        assert_int_equal(said.stop_reason->valueint, byte_ids['z']);
        json_free(root);
        said_clear(&said);
        fixture_close(&f);
    }
}

/* The most and longest stop strings that a request may bring, made to match half of themselves over
 * and over: the event loop must not feel it. (Comparing every end of the text with every beginning
 * took 2,000 comparisons of 2,000 bytes a stop string and token.) */
static void test_hostile_stops(void **state)
{
    (void)state;
    enum { N = 6000 };
    static const int32_t prompt[] = { 5 };
    static char text[API_STOP_BYTES_MAX], longest[API_STOP_BYTES_MAX];
    struct api_stop stops[API_STOPS_MAX];
    struct generate g = { .kind = API_COMPLETION, .n = 1, .n_stops = API_STOPS_MAX };
    struct fixture f;
    g.sampling.n_top = -1;
    memset(text, 'a', sizeof text);
    text[API_STOP_BYTES_MAX / 2] = 'c';
    for (int32_t i = 0; i < API_STOPS_MAX; i++)
        stops[i] = (struct api_stop){ text, API_STOP_BYTES_MAX - (size_t)i };
    memset(longest, 'a', sizeof longest);
    longest[API_STOP_BYTES_MAX - 1] = 'b';
    stops[API_STOPS_MAX - 1] = (struct api_stop){ longest, API_STOP_BYTES_MAX };
    fixture_open(&f, &g, stops, prompt, 1);
    uint64_t start_ns = clock_ns();
    for (int32_t i = 0; i < N; i++) {
        struct event event = token_event(byte_ids['a'], 0);
        assert_true(put_event(&f, 0, &event));
        exchange_drain(&f.x, NULL);
    }
    double us = (double)(clock_ns() - start_ns) * 1e-3 / N;
    print_message("           %.1f us a token with %d stop strings of %d bytes\n", us,
                  API_STOPS_MAX, API_STOP_BYTES_MAX);
    assert_int_equal(f.x.choices[0].held.length, API_STOP_BYTES_MAX - 1);
    assert_true(us < 200);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_ids),    cmocka_unit_test(test_ids_only),
        cmocka_unit_test(test_slow_client),   cmocka_unit_test(test_echo),
        cmocka_unit_test(test_failures),      cmocka_unit_test(test_stop_tokens),
        cmocka_unit_test(test_hostile_stops),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
