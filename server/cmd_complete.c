/* cmd_complete.c - one completion on the terminal: the engine without HTTP.
 *
 * The text goes to standard output as it comes; a line of figures goes to standard error. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/json.h"
#include "host/base/log.h"
#include "host/base/rng.h"
#include "host/text/detok.h"
#include "server/commands.h"
#include "server/load_model.h"

enum { N_TOKENS_DEFAULT = 128 };

static bool encode_chat(const struct model *model, const char *prompt, size_t length,
                        struct ids *ids, struct err *err)
{
    struct chat_text text = { 0 };
    struct cJSON *root = NULL;
    struct buf json;
    if (model->chat == NULL)
        return err_set(err, ERR_UNSUPPORTED, "--chat: %s", model->chat_reason);
    buf_init(&json, (size_t)1 << 30);
    buf_puts(&json, "[{\"role\":\"user\",\"content\":");
    buf_put_json_string(&json, prompt, length);
    buf_puts(&json, "}]");
    bool ok = !json.failed || err_set(err, ERR_MEMORY, "no memory for the prompt");
    ok = ok && json_parse(buf_text(&json), json.length, &JSON_FILE_LIMITS, ERR_REQUEST, &root, err);
    if (ok) {
        struct chat_input input = {
            .messages = json_root(root).node,
            .add_generation_prompt = true,
            .bos_token = model->bos_text,
            .eos_token = model->eos_text,
            .unk_token = model->unk_text,
            .pad_token = model->pad_text,
            .now_s = (int64_t)time(NULL),
        };
        ok = chat_render(model->chat, &input, &text, err) &&
             tokenizer_encode(model->tokenizer, buf_text(&text.text), text.text.length,
                              ENCODE_PARSE_SPECIAL, text.barriers, text.n_barriers, ids, err);
    }
    chat_text_clear(&text);
    json_free(root);
    buf_clear(&json);
    return ok;
}

static bool make_request(const struct model *model, const struct options *o, const char *prompt,
                         size_t length, struct request **request, struct err *err)
{
    struct ids ids = { 0 };
    if (model->tokenizer == NULL)
        return err_set(err, ERR_UNSUPPORTED, "no text without a tokenizer: %s",
                       model->tokenizer_reason);
    bool ok = o->chat
                  ? encode_chat(model, prompt, length, &ids, err)
                  : tokenizer_encode(model->tokenizer, prompt, length,
                                     ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, NULL, 0, &ids, err);
    if (ok && ids.n == 0)
        ok = err_set(err, ERR_REQUEST, "the prompt has no token");
    if (ok && ids.n >= (size_t)model->ctx)
        ok = err_set(err, ERR_CONTEXT, "the prompt has %zu tokens, the context %d", ids.n,
                     (int)model->ctx);
    ok = ok && request_open(request, ids.ids, (int32_t)ids.n, 1, 0, err);
    if (!ok) {
        ids_clear(&ids);
        return false;
    }
    int32_t room = model->ctx - (int32_t)ids.n; /* the ids are the request's now */
    int32_t wanted = o->n_tokens > 0 ? o->n_tokens : o->chat ? room : N_TOKENS_DEFAULT;
    const struct model_defaults *d = &model->defaults;
    struct sample_params *p = &(*request)->sampling;
    (*request)->max_tokens = wanted < room ? wanted : room;
    *p = sample_params_neutral();
    p->temperature = o->temperature >= 0 ? (float)o->temperature : d->temperature;
    p->top_k = d->top_k;
    p->top_p = d->top_p;
    p->min_p = d->min_p;
    p->typical_p = d->typical_p;
    p->repetition_penalty = d->repetition_penalty;
    p->seed = o->seed >= 0 ? (uint64_t)o->seed : rng_system();
    p->n_top = -1;
    return true;
}

/* Reads what the outbox holds. False: EVENT_DONE came, and *finish says how. */
static bool drain(struct request *request, struct detok *detok, struct buf *out, int64_t *n_tokens,
                  enum finish *finish)
{
    struct outbox *outbox = &request->outboxes[0];
    bool more = true;
    while (spsc_ready(&outbox->ring) > 0) {
        const struct event event = outbox->events[spsc_read_at(&outbox->ring)];
        spsc_read(&outbox->ring);
        if (event.kind == EVENT_TOKEN) {
            detok_push(detok, event.token, out);
            ++*n_tokens;
        } else {
            detok_flush(detok, out);
            *finish = event.finish;
            *n_tokens += event.finish == FINISH_STOP && event.finish_token >= 0;
            more = false;
        }
    }
    return more;
}

static void print_figures(const struct request *request, int64_t n_tokens, uint64_t end_ns)
{
    double prefill = (double)(request->first_token_ns - request->first_plan_ns) * 1e-9;
    double decode = (double)(end_ns - request->first_token_ns) * 1e-9;
    if (request->first_token_ns == 0)
        return;
    fprintf(stderr, "%d prompt tokens in %.3f s (%.1f/s), %lld tokens in %.3f s (%.1f/s)\n",
            (int)request->n_prompt, prefill, (double)request->n_prompt / prefill,
            (long long)n_tokens, decode, n_tokens > 1 ? (double)(n_tokens - 1) / decode : 0.0);
}

/* The request is submitted: the engine's until it has returned. */
static bool stream(struct engine *engine, const struct model *model, struct request *request,
                   struct err *err)
{
    struct detok detok;
    struct buf out;
    enum finish finish = FINISH_NONE;
    int64_t n_tokens = 0;
    bool returned = false, written = true;
    buf_init(&out, 1 << 20);
    detok_init(&detok, model->tokenizer, true);
    detok_go_on(&detok, request->prompt, (size_t)request->n_prompt);
    while (!returned) {
        struct pollfd poller = { .fd = engine_news_fd(engine), .events = POLLIN };
        uint64_t n;
        if (poll(&poller, 1, -1) < 0 && errno != EINTR)
            CHECK(!"poll of the engine's eventfd");
        if (read(poller.fd, &n, sizeof n) != sizeof n)
            continue;
        for (struct request *news; (news = engine_take_news(engine)) != NULL;) {
            returned = atomic_load(&news->returned);
            drain(news, &detok, &out, &n_tokens, &finish);
            engine_wake(engine);
        }
        if (written &&
            (fwrite(buf_text(&out), 1, out.length, stdout) != out.length || fflush(stdout) != 0)) {
            written = err_set(err, ERR_IO, "standard output: %s", strerror(errno));
            atomic_store(&request->cancelled, true);
            engine_wake(engine);
        }
        buf_reset(&out);
    }
    uint64_t end_ns = clock_ns();
    buf_clear(&out);
    if (!written)
        return false;
    putchar('\n');
    if (finish == FINISH_ERROR)
        return err_set(err, ERR_DEVICE, "%s", request->error_text);
    print_figures(request, n_tokens, end_ns);
    return true;
}

int cmd_complete(const struct options *o)
{
    struct err err;
    struct loaded loaded = { 0 };
    struct engine *engine = NULL;
    struct request *request = NULL;
    struct buf prompt;
    bool ok = true;
    buf_init(&prompt, (size_t)256 << 20);
    if (o->prompt == NULL)
        ok = err_set(&err, ERR_REQUEST, "what to continue? Give -p TEXT (- reads standard input)");
    else if (strcmp(o->prompt, "-") == 0)
        ok = command_read_stdin(&prompt, &err);
    else
        buf_puts(&prompt, o->prompt);
    log_configure(LOG_WARN, false);
    struct load_choice choice = load_choice_of(o, 1);
    ok = ok && load_model(&loaded, o, &choice, &err) && load_plan(&loaded, o, 1, 0, &err) &&
         make_request(&loaded.model, o, buf_text(&prompt), prompt.length, &request, &err) &&
         load_engine(&loaded, o, 1, 1, &engine, &err);
    if (ok) {
        request->submit_ns = clock_ns();
        ok = engine_submit(engine, request, &err) && stream(engine, &loaded.model, request, &err);
    }
    if (engine != NULL) {
        engine_stop(engine);
        engine_close(engine);
    }
    if (request != NULL)
        request_close(request);
    load_close(&loaded);
    buf_clear(&prompt);
    return ok ? 0 : command_fail(&err);
}
