/* test_engine_answers.c - the engine on real models: an answer, its log-probabilities included, is
 * the same bit for bit alone in a roomy pool and among others in a pool that preempts, shares
 * prefixes, cuts prompts into chunks and gives window pages back. */
#include "tests/oracle/model_run.h"
#include <poll.h>
#include <unistd.h>
#include "host/base/rng.h"
#include "host/engine/engine.h"

enum { CTX = 128, N = 14, MAX_TOKENS = 40, PROMPT_MAX = 60, LIVE = 6 };

struct answer {
    int32_t tokens[MAX_TOKENS], n;
    float logprobs[MAX_TOKENS], tops[MAX_TOKENS];
    float prompt[PROMPT_MAX];
    enum finish finish;
};

/* Prompts share beginnings; some sample, some score their prompt, some have penalties. */
static struct request *make(int32_t i, int32_t vocab)
{
    struct err err;
    int32_t n_prompt = 5 + i * 53 % (PROMPT_MAX - 4), *prompt = malloc(PROMPT_MAX * sizeof *prompt);
    assert_non_null(prompt);
    for (int32_t k = 0; k < n_prompt; k++)
        prompt[k] = (int32_t)(rng_philox(1, (uint64_t)(i % 3), (uint64_t)k).v[0] % (uint32_t)vocab);
    struct request *r;
    assert_ok(request_open(&r, prompt, n_prompt, 1, 2, &err), &err);
    r->max_tokens = MAX_TOKENS;
    r->ignore_eos = true;
    r->sampling.temperature = i % 2 ? 1.0f : 0.0f;
    r->sampling.seed = (uint64_t)i;
    r->sampling.repetition_penalty = i % 4 == 3 ? 1.2f : 1.0f;
    if (i % 5 == 0) {
        r->prompt_logprobs = calloc(1, sizeof *r->prompt_logprobs);
        assert_non_null(r->prompt_logprobs);
        r->prompt_logprobs->logprobs = calloc((size_t)n_prompt, sizeof(float));
        assert_non_null(r->prompt_logprobs->logprobs);
    }
    return r;
}

static void take(struct request *r, struct answer *answer)
{
    struct outbox *outbox = &r->outboxes[0];
    for (; spsc_ready(&outbox->ring) > 0; spsc_read(&outbox->ring)) {
        uint32_t place = spsc_read_at(&outbox->ring);
        const struct event *event = &outbox->events[place];
        if (event->kind == EVENT_DONE) {
            answer->finish = event->finish;
            continue;
        }
        answer->tokens[answer->n] = event->token;
        answer->logprobs[answer->n] = event->logprob;
        answer->tops[answer->n++] = outbox->tops[place * 2 + 1].logprob;
    }
    if (!atomic_load(&r->returned))
        return;
    if (r->prompt_logprobs)
        memcpy(answer->prompt, r->prompt_logprobs->logprobs, (size_t)r->n_prompt * sizeof(float));
    request_close(r);
}

/* All N requests, `at_once` of them in the engine at a time. */
static struct engine_stats serve(struct model_run *run, int32_t n_pages, int32_t at_once,
                                 int32_t step_tokens, bool prefix_cache, struct answer *answers)
{
    struct err err;
    struct kv_cache kv = run->model.kv_shape;
    int32_t pages[KV_GROUPS_MAX] = { n_pages, n_pages, n_pages, n_pages };
    assert_ok(kv_cache_reserve(&kv, run->be, pages, &err), &err);
    struct engine_model_device model_device = { &run->model, &kv };
    struct engine_device device = engine_device_of_model(&model_device);
    struct engine_options options = { .ctx = CTX,
                                      .max_seqs = LIVE,
                                      .max_queue = N,
                                      .step_tokens = step_tokens,
                                      .step_tokens_max = 64,
                                      .logit_rows_max = 32,
                                      .slow_ms_max = 60000,
                                      .prefix_cache = prefix_cache };
    struct engine *engine;
    assert_ok(engine_open(&engine, &device, &options, &err), &err);
    memset(answers, 0, N * sizeof *answers);
    for (int32_t sent = 0, back = 0; back < N;) {
        for (; sent < N && sent - back < at_once; sent++) {
            struct request *r = make(sent, run->model.vocab);
            r->owner = &answers[sent];
            assert_ok(engine_submit(engine, r, &err), &err);
        }
        struct pollfd poller = { .fd = engine_news_fd(engine), .events = POLLIN };
        assert_int_equal(poll(&poller, 1, 60000), 1);
        uint64_t count;
        assert_int_equal(read(poller.fd, &count, sizeof count), sizeof count);
        for (struct request *r; (r = engine_take_news(engine)) != NULL;) {
            back += atomic_load(&r->returned);
            take(r, r->owner);
        }
    }
    struct engine_stats stats;
    engine_stats_read(engine, &stats);
    engine_close(engine);
    return stats;
}

static void answers_do_not_depend_on_company(void **state)
{
    (void)state;
    static const char *const models[] = { "mistral_window16", "qwen3", "llama_untied", "gemma2",
                                          "phi3_longrope" };
    for (int32_t m = 0; m < 5; m++) {
        for (int32_t exact = 0; exact < 2; exact++) {
            struct model_run run;
            struct err err;
            struct model_setup setup = { .exact = exact,
                                         .weights = exact ? WEIGHTS_AUTO : WEIGHTS_INT8,
                                         .group = 32,
                                         .ctx = CTX,
                                         .rows = 64,
                                         .n_threads = 2 };
            assert_ok(model_run_open(&run, oracle_path("models/%s", models[m]), NULL, &setup, &err),
                      &err);
            struct answer *alone = calloc(N, sizeof *alone), *among = calloc(N, sizeof *among);
            assert_true(alone && among);
            serve(&run, 64, 1, 64, false, alone);
            struct engine_stats stats = serve(&run, 14, N, 24, true, among);
            assert_true(stats.prefix_hits > 0);
            if (run.model.kv_shape.groups[0].window == 0)
                assert_true(stats.preemptions > 0);
            for (int32_t i = 0; i < N; i++) {
                assert_int_equal(alone[i].finish, FINISH_LENGTH);
                assert_int_equal(alone[i].n, MAX_TOKENS);
                if (memcmp(&alone[i], &among[i], sizeof alone[i]) != 0)
                    fail_msg("%s, exact %d: answer %d differs", models[m], exact, i);
            }
            printf("  %-18s exact %d: %llu steps, %llu preempted, %llu of %llu tokens hit\n",
                   models[m], exact, (unsigned long long)stats.steps,
                   (unsigned long long)stats.preemptions, (unsigned long long)stats.prefix_hits,
                   (unsigned long long)stats.prefix_queries);
            free(alone);
            free(among);
            model_run_close(&run);
        }
    }
}

/* longrope: keys of a sequence of more than 32 tokens differ from its first token on. Greedy
 * answers that cross this are what whole passes over all tokens so far give, one a token. */
static void crossing_the_border_is_starting_anew(void **state)
{
    (void)state;
    struct model_run run;
    struct err err;
    struct model_setup setup = { .exact = true, .ctx = CTX, .rows = CTX, .pages = true };
    assert_ok(model_run_open(&run, oracle_path("models/phi3_longrope"), NULL, &setup, &err), &err);
    const int32_t vocab = run.model.vocab, border = rope_border(&run.model.config.rope);
    struct answer *answers = calloc(N, sizeof *answers);
    float *logits = malloc((size_t)CTX * (size_t)vocab * sizeof *logits);
    assert_true(answers && logits && border == 32);
    serve(&run, 40, N, 24, true, answers);
    int32_t n_crossed = 0, n_close = 0;
    for (int32_t i = 0; i < N; i += 2) { /* the greedy ones without penalty */
        struct request *r = make(i, vocab);
        int32_t tokens[CTX], n = r->n_prompt;
        memcpy(tokens, r->prompt, (size_t)n * sizeof *tokens);
        n_crossed += n <= border && n + MAX_TOKENS > border;
        for (int32_t k = 0; k < MAX_TOKENS; k++, n++) {
            run.single.rope_variant = model_rope_variant(&run.model, n);
            model_run_logits(&run, tokens, n, CTX, logits, NULL, NULL);
            const float *row = logits + (size_t)(n - 1) * (size_t)vocab;
            int32_t best = 0, second = 1;
            for (int32_t t = 1; t < vocab; t++) {
                if (row[t] > row[best]) {
                    second = best;
                    best = t;
                } else if (t != best && row[t] > row[second]) {
                    second = t;
                }
            }
            if (row[best] - row[second] <= 1e-3f)
                n_close++;
            else if (best != answers[i].tokens[k])
                fail_msg("answer %d, token %d: %d, want %d", i, k, answers[i].tokens[k], best);
            tokens[n] = answers[i].tokens[k];
        }
        request_close(r);
    }
    printf("  %d answers crossed the border, %d near ties\n", n_crossed, n_close);
    assert_true(n_crossed >= 2);
    free(logits);
    free(answers);
    model_run_close(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(answers_do_not_depend_on_company),
                                        cmocka_unit_test(crossing_the_border_is_starting_anew) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
