/* Sequences with grammars in the engine, over the fake device: what comes out is in the language,
 * whatever else runs; who cannot go on ends alone. */
#include "host/base/clock.h"
#include "host/engine/core.h"
#include "host/grammar/grammar.h"
#include "tests/sim/fake_device.h"
#include "tests/support/support.h"

#include <poll.h>
#include <unistd.h>

enum { CTX = 96, SEQS = 6, REQUESTS = 60 };

static const int32_t eos = FAKE_EOS;

/* Token 0 ends a text; letters; a few of two bytes. No token has a digit. */
static const char *text_of(int32_t token)
{
    static const char *const pairs[] = { "ab", "bc", "cd", "xy", "{\"", "\":", "\"}", "\"," };
    static char letters[FAKE_VOCAB][2];
    if (token >= 53)
        return pairs[token - 53];
    letters[token][0] = (char)(token == 0 ? 0 : token <= 26 ? 'a' + token - 1 : 'A' + token - 27);
    return letters[token];
}
static struct grammar_vocab *open_vocab(void)
{
    struct grammar_text texts[FAKE_VOCAB];
    struct grammar_vocab *vocab;
    struct err err;
    for (int32_t i = 0; i < FAKE_VOCAB; i++)
        texts[i] = (struct grammar_text){ text_of(i), strlen(text_of(i)) };
    assert_ok(grammar_vocab_open(&vocab, texts, FAKE_VOCAB, &eos, 1, 1 << 20, &err), &err);
    return vocab;
}

struct bench {
    struct fake_device device;
    struct engine *engine;
    struct grammar_vocab *vocab;
};
static void bench_open(struct bench *b, int32_t depth, int32_t n_pages)
{
    struct err err;
    *b = (struct bench){ .vocab = open_vocab() };
    fake_device_init(&b->device, 2, (int32_t[]){ 0, 24 }, (int32_t[]){ n_pages, n_pages }, SEQS);
    b->device.depth = depth;
    const struct engine_device device = fake_engine_device(&b->device);
    const struct engine_options options = { .ctx = CTX,
                                            .max_seqs = SEQS,
                                            .max_queue = 512,
                                            .step_tokens_max = 64,
                                            .logit_rows_max = 16,
                                            .slow_ms_max = 30000,
                                            .prefix_cache = true,
                                            .overlap = depth == 2,
                                            .eos = &eos,
                                            .n_eos = 1,
                                            .grammar_vocab = b->vocab };
    assert_ok(engine_open(&b->engine, &device, &options, &err), &err);
}
static void bench_close(struct bench *b)
{
    engine_close(b->engine);
    grammar_vocab_close(b->vocab);
    fake_device_clear(&b->device);
}

/* One request, and what became of its sequences. */
struct asked {
    struct request *request;
    int32_t tokens[4][CTX], n[4], finish_token[4];
    enum finish finish[4];
    char error[256];
    bool back;
};
static struct grammar *compile(const char *regex)
{
    struct grammar *grammar;
    struct err err;
    assert_ok(grammar_compile_regex(&grammar, regex, strlen(regex), &GRAMMAR_LIMITS, &err), &err);
    return grammar;
}
static struct request *make(struct asked *a, uint64_t seed, int32_t n_seqs,
                            const struct grammar *grammar)
{
    struct err err;
    const int32_t n_prompt = 1 + (int32_t)(seed % 23);
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    assert_non_null(prompt);
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = 1 + (int32_t)((seed * 7 + (uint64_t)i) % (FAKE_VOCAB - 1));
    *a = (struct asked){ 0 };
    assert_ok(request_open(&a->request, prompt, n_prompt, n_seqs, 0, &err), &err);
    a->request->sampling.seed = seed;
    a->request->max_tokens = 40;
    a->request->grammar = grammar;
    a->request->owner = a;
    return a->request;
}
static void take(struct asked *a, struct request *r)
{
    for (int32_t i = 0; i < r->n_seqs; i++)
        while (spsc_ready(&r->outboxes[i].ring) > 0) {
            const struct event e = r->outboxes[i].events[spsc_read_at(&r->outboxes[i].ring)];
            spsc_read(&r->outboxes[i].ring);
            assert_true(a->finish[i] == FINISH_NONE);
            if (e.kind == EVENT_TOKEN)
                a->tokens[i][a->n[i]++] = e.token;
            a->finish[i] = e.finish;
            a->finish_token[i] = e.finish_token;
        }
    if (!atomic_load(&r->returned))
        return;
    snprintf(a->error, sizeof a->error, "%s", r->error_text);
    a->back = true;
}
static void run(struct bench *b, struct asked *asked, int32_t n)
{
    struct err err;
    for (int32_t i = 0; i < n; i++)
        assert_ok(engine_submit(b->engine, asked[i].request, &err), &err);
    for (int32_t n_back = 0; n_back < n;) {
        struct pollfd poller = { .fd = engine_news_fd(b->engine), .events = POLLIN };
        uint64_t count;
        assert_true(poll(&poller, 1, 60000) == 1);
        (void)!read(poller.fd, &count, sizeof count);
        for (struct request *r; (r = engine_take_news(b->engine)) != NULL;) {
            struct asked *a = r->owner;
            take(a, r);
            n_back += a->back;
        }
    }
}
static void text_of_answer(const struct asked *a, int32_t seq, char *text, size_t size)
{
    text[0] = 0;
    for (int32_t k = 0; k < a->n[seq]; k++) {
        const size_t n = strlen(text);
        snprintf(text + n, size - n, "%s", text_of(a->tokens[seq][k]));
    }
}
/* A whole text where it says so, and as it was alone: nothing depends on company. */
static void check(const struct asked *a, const struct grammar *grammar)
{
    const struct request *r = a->request;
    for (int32_t i = 0; i < r->n_seqs; i++) {
        char text[4 * CTX];
        text_of_answer(a, i, text, sizeof text);
        if (grammar == NULL) {
            int32_t wanted[CTX], finish_token;
            enum finish finish;
            const int32_t n = fake_answer(r, i, 0, wanted, &finish, &finish_token);
            assert_int_equal(a->finish[i], finish);
            assert_int_equal(a->n[i], n);
            assert_memory_equal(a->tokens[i], wanted, (size_t)n * sizeof *wanted);
        } else if (a->finish[i] == FINISH_STOP) {
            if (!grammar_accepts(grammar, text, strlen(text)))
                fail_msg("\"%s\" is not in its language", text);
            assert_true(a->finish_token[i] == -1 ||
                        (a->finish_token[i] == FAKE_EOS && !r->ignore_eos));
            assert_true(a->n[i] >= r->min_tokens || a->finish_token[i] == -1);
        } else {
            assert_int_equal(a->finish[i], FINISH_LENGTH);
            assert_int_equal(a->n[i], r->max_tokens);
        }
    }
}

static void texts_keep_their_grammars(void **state)
{
    (void)state;
    static const char *const languages[] = { "[a-e]{3,9}[xyz]", "a[bc]*", "(ab|bc){2,}",
                                             "[A-Z][a-z]{1,60}", "q" };
    enum { LANGUAGES = sizeof languages / sizeof *languages };
    struct grammar *grammars[LANGUAGES];
    int32_t n_stopped = 0, n_whole = 0;
    for (int32_t i = 0; i < LANGUAGES; i++)
        grammars[i] = compile(languages[i]);
    for (int32_t depth = 1; depth <= 2; depth++)
        for (int32_t n_pages = 12; n_pages <= 64; n_pages += 52) { /* 12: with preemptions */
            struct bench b;
            struct asked asked[REQUESTS];
            bench_open(&b, depth, n_pages);
            for (int32_t i = 0; i < REQUESTS; i++) {
                const int32_t k = i % (LANGUAGES + 1);
                struct request *r = make(&asked[i], (uint64_t)(i + 1), 1 + i % 4,
                                         k < LANGUAGES ? grammars[k] : NULL);
                r->ignore_eos = i % 7 == 0;
                r->min_tokens = i % 5 == 0 ? 6 : 0;
            }
            run(&b, asked, REQUESTS);
            for (int32_t i = 0; i < REQUESTS; i++) {
                check(&asked[i], asked[i].request->grammar);
                for (int32_t s = 0; asked[i].request->grammar && s < asked[i].request->n_seqs;
                     s++) {
                    n_stopped += asked[i].finish[s] == FINISH_STOP;
                    n_whole += asked[i].finish_token[s] == -1 && asked[i].finish[s] == FINISH_STOP;
                }
                request_close(asked[i].request);
            }
            if (depth == 2)
                assert_true(b.device.n_ahead > 0);
            bench_close(&b);
        }
    assert_true(n_whole > 100 && n_stopped > n_whole + 20); /* both ways of ending */
    for (int32_t i = 0; i < LANGUAGES; i++)
        grammar_close(grammars[i]);
}

/* No token has a digit; and what a grammar leaves may be excluded. */
static void no_token_is_left(void **state)
{
    (void)state;
    struct grammar *digits = compile("ab[0-9]"), *a_or_b = compile("(a|b)+c");
    for (int32_t depth = 1; depth <= 2; depth++) {
        struct bench b;
        struct asked asked[3];
        int32_t stops[] = { 1, 2, 53, 54 }; /* a, b, ab, bc: banned below min_tokens */
        bench_open(&b, depth, 64);
        make(&asked[0], 5, 2, digits);
        struct request *r = make(&asked[1], 6, 1, a_or_b);
        r->min_tokens = 3;
        r->stop_tokens = malloc(sizeof stops);
        assert_non_null(r->stop_tokens);
        memcpy(r->stop_tokens, stops, sizeof stops);
        r->n_stop_tokens = 4;
        make(&asked[2], 7, 4, NULL);
        run(&b, asked, 3);
        for (int32_t i = 0; i < 2; i++) {
            assert_int_equal(asked[i].finish[0], FINISH_ERROR);
            assert_non_null(strstr(asked[i].error, "no token is left that the grammar allows"));
        }
        check(&asked[2], NULL);
        for (int32_t i = 0; i < 3; i++)
            request_close(asked[i].request);
        struct engine_stats stats;
        engine_stats_read(b.engine, &stats);
        assert_false(stats.device_lost);
        bench_close(&b);
    }
    grammar_close(digits);
    grammar_close(a_or_b);
}

static void without_texts_of_tokens(void **state)
{
    (void)state;
    struct core core;
    struct fake_device fake;
    struct asked asked;
    struct err err;
    struct grammar *grammar = compile("a");
    fake_device_init(&fake, 1, (int32_t[]){ 0 }, (int32_t[]){ 8 }, 1);
    const struct engine_device device = fake_engine_device(&fake);
    const struct engine_options options = { .ctx = CTX,
                                            .max_seqs = 1,
                                            .max_queue = 1,
                                            .step_tokens_max = 8,
                                            .logit_rows_max = 8,
                                            .slow_ms_max = 1 };
    assert_ok(core_open(&core, &device, &options, 1, &err), &err);
    assert_false(core_accepts(&core, make(&asked, 1, 1, grammar), &err));
    assert_int_equal(err.code, ERR_REQUEST);
    assert_string_equal(err.text, "grammars need a tokenizer, which this model has not");
    request_close(asked.request);
    core_close(&core);
    fake_device_clear(&fake);
    grammar_close(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(texts_keep_their_grammars),
                                        cmocka_unit_test(no_token_is_left),
                                        cmocka_unit_test(without_texts_of_tokens) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
