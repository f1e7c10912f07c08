/* stream: a chat whose text is split into content, reasoning and tool calls. The script is the
 * model's text, a byte a token; however it is drained, the deltas of the stream, joined, are the
 * message of the collected reply, ids of calls included. */
#include "tests/unit/server/stream.h"

static const char TOOLS[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
/* Marks that are special tokens of the demo's vocabulary. */
static const struct tool_format special_format = {
    .name = "special", .body = TOOL_JSON, .opens = { "<|im_start|>" }, .closes = { "<|im_end|>" }
};

struct row {
    const char *what, *format, *reasoning,
        *text; /* \x01: the token <|im_start|>, \x02: <|im_end|> */
    const char *stop;
    bool cut, one_call, keep_special;
    const char *content, *thoughts; /* NULL: null, absent */
    const char *calls[2];           /* name and arguments */
    const char *reason;
};

#define CALL(a) "<tool_call>{\"name\": \"f\", \"arguments\": " a "}</tool_call>"
static const struct row rows[] = {
    { .what = "text",
      .format = "hermes",
      .text = "Hi \xc3\xa9\xf0\x9f\x98\x80\n",
      .content = "Hi \xc3\xa9\xf0\x9f\x98\x80\n",
      .reason = "stop" },
    { .what = "nothing", .format = "hermes", .text = "", .content = "", .reason = "stop" },
    { .what = "one call",
      .format = "hermes",
      .text = CALL("{\"a\": \"\xc3\xa9\"}"),
      .calls = { "f{\"a\": \"\xc3\xa9\"}" },
      .reason = "tool_calls" },
    { .what = "text and two calls",
      .format = "hermes",
      .text = "On it.\n" CALL("{}") "\n" CALL("{\"b\":[1]}"),
      .content = "On it.",
      .calls = { "f{}", "f{\"b\":[1]}" },
      .reason = "tool_calls" },
    { .what = "thoughts and a call",
      .format = "hermes",
      .reasoning = "think",
      .text = "<think>\nwhy\n</think>\n\n" CALL("{}"),
      .thoughts = "why",
      .calls = { "f{}" },
      .reason = "tool_calls" },
    { .what = "thoughts alone",
      .reasoning = "think",
      .text = "<think>a</think>b",
      .thoughts = "a",
      .content = "b",
      .reason = "stop" },
    { .what = "cut by length",
      .format = "hermes",
      .text = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":",
      .cut = true,
      .calls = { "f{\"a\":" },
      .reason = "length" },
    { .what = "cut in front of a call",
      .format = "hermes",
      .text = "a <tool_c",
      .cut = true,
      .content = "a <tool_c",
      .reason = "length" },
    { .what = "one call ends it",
      .format = "hermes",
      .one_call = true,
      .text = CALL("{}") CALL("{}") "x",
      .calls = { "f{}" },
      .reason = "tool_calls" },
    { .what = "a stop string in the text",
      .format = "hermes",
      .stop = "STOP",
      .text = "abSTOPc" CALL("{}"),
      .content = "ab",
      .reason = "stop" },
    { .what = "a stop string in the arguments",
      .format = "hermes",
      .stop = "STOP",
      .text = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"STOP\"}}",
      .calls = { "f{\"a\":\"" },
      .reason = "stop" },
    { .what = "half a stop string at the end",
      .format = "hermes",
      .stop = "STOP",
      .text = CALL("{}") " ST",
      .content = "ST",
      .calls = { "f{}" },
      .reason = "tool_calls" },
    { .what = "special tokens as marks",
      .format = "special",
      .text = "a\x01{\"name\":\"f\"}\x02",
      .content = "a",
      .calls = { "f{}" },
      .reason = "tool_calls" },
    { .what = "special tokens that are shown",
      .format = "special",
      .keep_special = true,
      .text = "a\x01{\"name\":\"f\"}\x02",
      .content = "a",
      .calls = { "f{}" },
      .reason = "tool_calls" },
    { .what = "special tokens that are no marks",
      .format = "hermes",
      .text = "a\x01"
              "b",
      .content = "ab",
      .reason = "stop" },
};

static cJSON *tools;
static int32_t im_start, im_end;

static int32_t token_of(unsigned char byte)
{
    return byte == 1 ? im_start : byte == 2 ? im_end : byte_ids[byte];
}

static void play(struct fixture *f, const struct row *row, bool stream, size_t at_a_time)
{
    static const int32_t prompt[] = { 5, 6, 7 };
    struct api_stop stop = { row->stop, row->stop ? strlen(row->stop) : 0 };
    struct generate g = { .kind = API_CHAT, .n = 1, .skip_special = !row->keep_special };
    g.sampling.n_top = -1;
    g.stream = stream;
    g.n_stops = row->stop != NULL;
    g.tool = (struct tool_setup){
        .format = row->format == NULL                   ? NULL
                  : strcmp(row->format, "special") == 0 ? &special_format
                                                        : tool_format_find(row->format),
        .reasoning = row->reasoning ? reason_format_find(row->reasoning) : NULL,
        .calls = row->format != NULL,
        .one_call = row->one_call,
        .tools = tools,
        .id_seed = 3,
    };
    fixture_open(f, &g, &stop, prompt, 3);
    size_t n = strlen(row->text), at = 0;
    bool done = false;
    while (!done) {
        for (size_t k = 0; k < at_a_time && !done; k++) {
            struct event event = at < n ? token_event(token_of((unsigned char)row->text[at]), 0)
                                        : done_event(row->cut ? FINISH_LENGTH : FINISH_STOP);
            if (!put_event(f, 0, &event))
                break;
            done = at == n;
            at++;
        }
        exchange_drain(&f->x, f->job.requests[0]);
        take(f);
        done = done || f->x.n_done == 1;
    }
}

static void append(cJSON *message, const char *key, const cJSON *delta)
{
    const char *more = cJSON_GetStringValue(cJSON_GetObjectItem(delta, key));
    cJSON *so_far = cJSON_GetObjectItem(message, key);
    if (more == NULL)
        return;
    struct buf text;
    buf_init(&text, 1 << 20);
    if (cJSON_IsString(so_far))
        buf_puts(&text, so_far->valuestring);
    buf_puts(&text, more);
    cJSON_DeleteItemFromObject(message, key);
    cJSON_AddStringToObject(message, key, buf_text(&text));
    buf_clear(&text);
}

/* As clients do it: calls are found by their index. */
static void hear_delta(cJSON *message, const cJSON *delta)
{
    const cJSON *call;
    append(message, "content", delta);
    append(message, "reasoning_content", delta);
    if (cJSON_HasObjectItem(delta, "tool_calls") && !cJSON_HasObjectItem(message, "tool_calls"))
        cJSON_AddArrayToObject(message, "tool_calls");
    cJSON *calls = cJSON_GetObjectItem(message, "tool_calls");
    cJSON_ArrayForEach (call, cJSON_GetObjectItem(delta, "tool_calls")) {
        int index = cJSON_GetObjectItem(call, "index")->valueint;
        if (index == cJSON_GetArraySize(calls)) {
            cJSON *begun = cJSON_Duplicate(call, true);
            assert_true(cJSON_HasObjectItem(begun, "id"));
            assert_string_equal(cJSON_GetObjectItem(begun, "type")->valuestring, "function");
            cJSON_DeleteItemFromObject(begun, "index");
            cJSON_AddItemToArray(calls, begun);
        } else {
            assert_int_equal(index, cJSON_GetArraySize(calls) - 1);
            assert_false(cJSON_HasObjectItem(call, "id"));
            append(cJSON_GetObjectItem(cJSON_GetArrayItem(calls, index), "function"), "arguments",
                   cJSON_GetObjectItem(call, "function"));
        }
    }
}

/* The message that the stream's deltas make, and how it finished. */
static cJSON *follow(const struct buf *sse, char reason[16])
{
    cJSON *message = cJSON_CreateObject();
    int32_t n_finishes = 0;
    for (const char *at = buf_text(sse), *end; *at != 0; at = end + 2) {
        end = strstr(at, "\n\n");
        assert_non_null(end);
        if (strncmp(at + 6, "[DONE]", 6) == 0)
            continue;
        cJSON *root = strict(at + 6, (size_t)(end - at) - 6);
        const cJSON *choice = cJSON_GetObjectItem(root, "choices")->child;
        const cJSON *delta = cJSON_GetObjectItem(choice, "delta");
        const char *finish = cJSON_GetStringValue(cJSON_GetObjectItem(choice, "finish_reason"));
        assert_true(n_finishes == 0);
        if (finish != NULL) {
            snprintf(reason, 16, "%s", finish);
            n_finishes++;
            assert_null(delta->child); /* an empty delta carries the reason */
        } else {
            assert_non_null(delta->child); /* no empty event otherwise */
        }
        hear_delta(message, delta);
        json_free(root);
    }
    assert_int_equal(n_finishes, 1);
    return message;
}

static void check_message(const struct row *row, const cJSON *message, const char *reason)
{
    const char *content = cJSON_GetStringValue(cJSON_GetObjectItem(message, "content"));
    const char *thoughts = cJSON_GetStringValue(cJSON_GetObjectItem(message, "reasoning_content"));
    const cJSON *calls = cJSON_GetObjectItem(message, "tool_calls");
    if (strcmp(reason, row->reason) != 0)
        fail_msg("%s: finished by %s", row->what, reason);
    assert_string_equal(content ? content : "", row->content ? row->content : "");
    assert_string_equal(thoughts ? thoughts : "", row->thoughts ? row->thoughts : "");
    assert_int_equal(cJSON_GetArraySize(calls), (row->calls[0] != NULL) + (row->calls[1] != NULL));
    for (int i = 0; i < cJSON_GetArraySize(calls); i++) {
        const cJSON *function = cJSON_GetObjectItem(cJSON_GetArrayItem(calls, i), "function");
        char both[200];
        snprintf(both, sizeof both, "%s%s", cJSON_GetObjectItem(function, "name")->valuestring,
                 cJSON_GetObjectItem(function, "arguments")->valuestring);
        assert_string_equal(both, row->calls[i]);
    }
}

static void test_stream_is_the_message(void **state)
{
    (void)state;
    struct fixture f;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *row = &rows[i];
        play(&f, row, false, 1000);
        exchange_write_reply(&f.x);
        cJSON *root = strict(buf_text(&f.x.out), f.x.out.length);
        const cJSON *choice = cJSON_GetObjectItem(root, "choices")->child;
        cJSON *whole = cJSON_GetObjectItem(choice, "message");
        check_message(row, whole, cJSON_GetObjectItem(choice, "finish_reason")->valuestring);
        /* null when there are calls and nothing else */
        assert_int_equal(cJSON_IsNull(cJSON_GetObjectItem(whole, "content")),
                         row->calls[0] != NULL && row->content == NULL);
        assert_int_equal(f.server.metrics.tool_parses, row->format != NULL);
        fixture_close(&f);
        for (size_t n = 1; n < 12; n++) {
            char reason[16] = "";
            play(&f, row, true, n);
            cJSON *message = follow(&f.sse, reason);
            check_message(row, message, reason);
            if (!cJSON_Compare(cJSON_GetObjectItem(message, "tool_calls"),
                               cJSON_GetObjectItem(whole, "tool_calls"), true))
                assert_null(row->calls[0]); /* ids are the same too */
            cJSON_Delete(message);
            fixture_close(&f);
        }
        json_free(root);
    }
}

static int open_all(void **state)
{
    if (setup(state) != 0)
        return 1;
    im_start = tokenizer_find(tokenizer, "<|im_start|>", 12);
    im_end = tokenizer_find(tokenizer, "<|im_end|>", 10);
    assert_true(tokenizer_is_special(tokenizer, im_start));
    assert_true(tokenizer_is_special(tokenizer, im_end));
    tools = cJSON_Parse(TOOLS);
    return tools == NULL;
}
static int close_all(void **state)
{
    cJSON_Delete(tools);
    return teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_is_the_message),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
