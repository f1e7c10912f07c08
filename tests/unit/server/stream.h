/* stream.h - an exchange without a socket or an engine, for tests of server/stream.c: outboxes are
 * filled by hand, engine_wake is counted, and what was said is gathered from either form of reply.
 * Included by one file of a program. */
#pragma once
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "host/base/json.h"
#include "host/base/rng.h"
#include "server/demo_model.h"
#include "server/exchange.h"
#include "server/server.h"

static int32_t n_wakes;
void engine_wake(struct engine *engine)
{
    (void)engine;
    n_wakes++;
}

enum { STOPS_MAX = 3, EOS = 2 };

static struct tokenizer *tokenizer;
static int32_t byte_ids[256]; /* the token that is this one byte */

static inline int setup(void **state)
{
    (void)state;
    size_t n, length;
    struct err err = { 0 };
    const struct hf_file *files = demo_model_files(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(files[i].name, "tokenizer.json") == 0)
            assert_ok(tokenizer_open(&tokenizer, files[i].bytes, files[i].size, &err), &err);
    assert_non_null(tokenizer);
    for (int32_t i = 0; i < tokenizer_size(tokenizer); i++) {
        const char *bytes = tokenizer_bytes(tokenizer, i, &length);
        if (bytes != NULL && length == 1 && !tokenizer_is_special(tokenizer, i))
            byte_ids[(unsigned char)bytes[0]] = i;
    }
    assert_true(byte_ids['a'] > 0 && byte_ids[0xf0] > 0 && byte_ids[0x80] > 0);
    return 0;
}
static inline int teardown(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

/* ---- one exchange without a socket ------------------------------------------------------------
 */

struct fixture {
    struct model model;
    struct server server;
    struct job job;
    struct exchange x;
    struct buf sse; /* what the client has read */
};

/* `stops`: [g->n_stops], copied. */
static inline void fixture_open(struct fixture *f, const struct generate *g,
                                const struct api_stop *stops, const int32_t *prompt,
                                int32_t n_prompt)
{
    struct err err = { 0 };
    memset(f, 0, sizeof *f);
    f->model.tokenizer = tokenizer;
    f->server.model = &f->model;
    f->server.api.id = "m";
    metrics_init(&f->server.metrics);
    buf_init(&f->sse, 64 << 20);
    arena_init(&f->job.arena, 4 << 20);
    f->job.generate = *g;
    if (g->n_seqs == 0)
        f->job.generate.n_seqs = g->n;
    f->job.generate.logprobs = g->sampling.n_top >= 0;
    f->job.generate.prompt_logprobs = -1;
    f->job.generate.stops =
        arena_take(&f->job.arena, (size_t)g->n_stops, sizeof *f->job.generate.stops);
    for (int32_t i = 0; i < g->n_stops; i++)
        f->job.generate.stops[i] = stops[i];
    f->job.requests = arena_take(&f->job.arena, 1, sizeof *f->job.requests);
    f->job.n_requests = 1;
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    memcpy(ids, prompt, (size_t)n_prompt * sizeof *ids);
    int32_t n_top = g->sampling.n_top > 0 ? g->sampling.n_top : 0;
    assert_ok(request_open(&f->job.requests[0], ids, n_prompt, f->job.generate.n_seqs, n_top, &err),
              &err);
    f->x.server = &f->server;
    f->x.job = &f->job;
    f->x.state = EXCHANGE_RUNNING;
    snprintf(f->x.id, sizeof f->x.id, "id-1");
    buf_init(&f->x.out, 64 << 20);
    assert_ok(exchange_begin(&f->x, &err), &err);
    f->x.n_running = f->x.n_choices;
}

static inline void fixture_close(struct fixture *f)
{
    exchange_end(&f->x);
    request_close(f->job.requests[0]);
    arena_clear(&f->job.arena);
    buf_clear(&f->x.out);
    buf_clear(&f->sse);
}

static inline bool put_event(struct fixture *f, int32_t seq, const struct event *event)
{
    struct request *request = f->job.requests[0];
    struct outbox *outbox = &request->outboxes[seq];
    if (spsc_room(&outbox->ring) == 0)
        return false;
    uint32_t at = spsc_write_at(&outbox->ring);
    outbox->events[at] = *event;
    for (int32_t k = 0; k < event->n_top; k++)
        outbox->tops[(int32_t)at * request->n_top + k] =
            (struct top){ event->token + k, event->logprob - (float)k };
    spsc_written(&outbox->ring);
    return true;
}
static inline struct event token_event(int32_t id, int32_t n_top)
{
    return (struct event){
        .kind = EVENT_TOKEN, .token = id, .logprob = -0.5f - (float)(id % 8), .n_top = n_top
    };
}
static inline struct event done_event(enum finish finish)
{
    return (struct event){ .kind = EVENT_DONE,
                           .finish = finish,
                           .finish_token = finish == FINISH_STOP ? EOS : -1 };
}

/* The client reads what there is. */
static inline void take(struct fixture *f)
{
    buf_put(&f->sse, buf_text(&f->x.out) + f->x.out_read, f->x.out.length - f->x.out_read);
    buf_reset(&f->x.out);
    f->x.out_read = 0;
}

/* ---- what a choice said, from either form -----------------------------------------------------
 */

struct said {
    struct buf text;
    cJSON *ids, *logprobs, *stop_reason;
    char finish[16];
    int32_t n_prompts, n_finishes;
};
static inline void said_init(struct said *said)
{
    *said = (struct said){ .ids = cJSON_CreateArray() };
    buf_init(&said->text, 1 << 20);
}
static inline void said_clear(struct said *said)
{
    buf_clear(&said->text);
    cJSON_Delete(said->ids);
    cJSON_Delete(said->logprobs);
    cJSON_Delete(said->stop_reason);
}
static inline void append_items(cJSON *to, cJSON *from)
{
    while (from != NULL && from->child != NULL)
        cJSON_AddItemToArray(to, cJSON_DetachItemFromArray(from, 0));
}

static inline void hear(struct said *said, cJSON *choice)
{
    cJSON *delta = cJSON_GetObjectItem(choice, "delta"), *finish, *logprobs;
    if (delta == NULL)
        delta = cJSON_GetObjectItem(choice, "message");
    const cJSON *text =
        delta ? cJSON_GetObjectItem(delta, "content") : cJSON_GetObjectItem(choice, "text");
    if (text != NULL)
        buf_puts(&said->text, text->valuestring);
    append_items(said->ids, cJSON_GetObjectItem(choice, "token_ids"));
    said->n_prompts += cJSON_HasObjectItem(choice, "prompt_token_ids");
    logprobs = cJSON_DetachItemFromObject(choice, "logprobs");
    if (said->logprobs == NULL || cJSON_IsNull(logprobs)) {
        cJSON_Delete(said->logprobs);
        said->logprobs = logprobs;
    } else {
        for (cJSON *list = said->logprobs->child; list != NULL; list = list->next)
            if (cJSON_IsArray(list))
                append_items(list, cJSON_GetObjectItem(logprobs, list->string));
        cJSON_Delete(logprobs);
    }
    finish = cJSON_GetObjectItem(choice, "finish_reason");
    if (cJSON_IsString(finish)) {
        snprintf(said->finish, sizeof said->finish, "%s", finish->valuestring);
        said->stop_reason = cJSON_DetachItemFromObject(choice, "stop_reason");
        said->n_finishes++;
    }
}

static inline cJSON *strict(const char *bytes, size_t length)
{
    cJSON *root;
    struct err err = { 0 };
    if (!json_parse(bytes, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err))
        fail_msg("%s: %.*s", err.text, (int)length, bytes);
    return root;
}

/* Every event of the stream in order; returns how many there were. Ends in one [DONE]. */
static inline int32_t hear_stream(struct said *said, const struct buf *sse, cJSON **error)
{
    const char *at = buf_text(sse), *end;
    int32_t n = 0;
    bool done = false;
    for (; *at != 0; at = end + 2, n++) {
        end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_memory_equal(at, "data: ", 6);
        assert_false(done);
        done = strncmp(at + 6, "[DONE]", 6) == 0;
        if (done)
            continue;
        cJSON *root = strict(at + 6, (size_t)(end - at) - 6);
        cJSON *choices = cJSON_GetObjectItem(root, "choices"), *choice;
        cJSON_ArrayForEach (choice, choices) {
            int32_t index = cJSON_GetObjectItem(choice, "index")->valueint;
            said[index].n_prompts += cJSON_HasObjectItem(root, "prompt_token_ids");
            assert_int_equal(said[index].n_finishes, 0);
            hear(&said[index], choice);
        }
        if (choices == NULL) {
            assert_non_null(error);
            *error = cJSON_DetachItemFromObject(root, "error");
            assert_non_null(*error);
        }
        json_free(root);
    }
    assert_true(done);
    return n;
}
