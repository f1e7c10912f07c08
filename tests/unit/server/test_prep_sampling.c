/* prep_sampling.c: texts of a request as tokens, and that something is left to be drawn. */
#include "tests/support/support.h"
#include <math.h>
#include "host/base/json.h"
#include "server/demo_model.h"
#include "server/prep.h"
#include "server/server.h"

enum { VOCAB = 4096, EOS = 2 };

struct fixture {
    struct model model;
    struct server server;
    struct job job;
    struct cJSON *root;
};
static struct tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    size_t n;
    struct err err;
    const struct hf_file *files = demo_model_files(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(files[i].name, "tokenizer.json") == 0)
            assert_ok(tokenizer_open(&tokenizer, files[i].bytes, files[i].size, &err), &err);
    assert_non_null(tokenizer);
    assert_int_equal(tokenizer_size(tokenizer), VOCAB);
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

/* What a body of /v1/completions says, up to prep_sampling, whose answer it is. */
static bool run(struct fixture *f, const char *body, size_t arena_max, struct err *err)
{
    static const char *const names[] = { "m" };
    memset(f, 0, sizeof *f);
    f->model.tokenizer = tokenizer;
    f->model.eos[0] = EOS;
    f->model.n_eos = 1;
    f->server.model = &f->model;
    f->server.api = (struct api_model){ .id = "m",
                                        .names = names,
                                        .n_names = 1,
                                        .vocab = VOCAB,
                                        .ctx = 100,
                                        .temperature = 1,
                                        .top_p = 1,
                                        .typical_p = 1,
                                        .repetition_penalty = 1,
                                        .no_tokenizer = "",
                                        .no_chat = "" };
    f->job.server = &f->server;
    arena_init(&f->job.arena, 16 << 20);
    *err = (struct err){ 0 };
    assert_ok(json_parse(body, strlen(body), &JSON_REQUEST_LIMITS, ERR_REQUEST, &f->root, err),
              err);
    assert_ok(api_parse_completion(&f->job.generate, f->root, &f->server.api, &f->job.arena, err),
              err);
    f->job.arena.limit = f->job.arena.used + arena_max;
    return prep_sampling(&f->job, err);
}
static void clear(struct fixture *f)
{
    json_free(f->root);
    arena_clear(&f->job.arena);
}
#define ALL (8 << 20)

static float bias_of(const struct sample_params *p, int32_t token)
{
    for (int32_t i = 0; i < p->n_biases; i++)
        if (p->biases[i].token == token)
            return p->biases[i].bias;
    return 0;
}
static int32_t one_token(const char *text)
{
    struct ids ids = { 0 };
    struct err err;
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), 0, NULL, 0, &ids, &err), &err);
    assert_int_equal(ids.n, 1);
    int32_t id = ids.ids[0];
    ids_clear(&ids);
    return id;
}

static void biases_are_summed(void **state)
{
    (void)state;
    struct fixture f;
    struct err err;
    const int32_t fox = one_token(" fox"), the = one_token(" the");
    assert_ok(run(&f,
                  "{\"prompt\":\"x\",\"logit_bias\":[[9,1],[\" fox the\",2],[8,5],[9,0.5],[\" "
                  "fox\",-3],[8,false]]}",
                  ALL, &err),
              &err);
    const struct sample_params *p = &f.job.generate.sampling;
    assert_int_equal(p->n_biases, 4);
    for (int32_t i = 1; i < 4; i++)
        assert_true(p->biases[i].token > p->biases[i - 1].token);
    assert_true(bias_of(p, 9) == 1.5f && bias_of(p, fox) == -1 && bias_of(p, the) == 2);
    assert_true(bias_of(p, 8) == -INFINITY && p->chain == NULL);
    clear(&f);
}

static void bad_words_come_in_two_forms(void **state)
{
    (void)state;
    struct fixture f;
    struct err err;
    assert_ok(run(&f, "{\"prompt\":\"x\",\"bad_words\":[\"fox\",\" lantern and\"]}", ALL, &err),
              &err);
    const struct generate *g = &f.job.generate;
    assert_true(bias_of(&g->sampling, one_token(" fox")) == -INFINITY);
    assert_ptr_equal(g->sampling.chain, &g->chain);
    bool spaced = false;
    for (int32_t i = 0; i < g->chain.n_bad_words; i++) {
        const struct token_run *word = &g->chain.bad_words[i];
        struct buf text;
        buf_init(&text, 1000);
        assert_true(word->n > 1);
        for (int32_t k = 0; k < word->n; k++) {
            size_t length;
            const char *bytes = tokenizer_bytes(tokenizer, word->ids[k], &length);
            buf_put(&text, bytes, length);
        }
        const char *found = buf_text(&text);
        spaced = spaced || strcmp(found, " lantern and") == 0;
        assert_true(strcmp(found, "lantern and") == 0 || strcmp(found, " lantern and") == 0 ||
                    strcmp(found, "fox") == 0);
        buf_clear(&text);
    }
    assert_true(spaced);
    clear(&f);
}

/* Tokens that hold a breaker end a repetition; runs do whose first token begins it and whose others
 * are the rest of it. */
static void breakers_over_tokens(void **state)
{
    (void)state;
    struct fixture f;
    struct err err;
    assert_ok(run(&f,
                  "{\"prompt\":\"x\",\"dry_multiplier\":1,"
                  "\"dry_sequence_breakers\":[\":\",\" lantern, and\"]}",
                  ALL, &err),
              &err);
    const struct sample_chain *c = &f.job.generate.chain;
    int32_t n_single = 0;
    for (int32_t id = 0; id < VOCAB; id++) {
        size_t length;
        const char *bytes = tokenizer_bytes(tokenizer, id, &length);
        const bool holds = bytes && (memchr(bytes, ':', length) ||
                                     (length >= 13 && memmem(bytes, length, " lantern, and", 13)));
        assert_int_equal(c->dry_breaks[id / 32] >> (id % 32) & 1, holds);
        n_single += holds;
    }
    assert_true(n_single > 0 && c->n_dry_breaks_long > 1);
    const int32_t lantern = one_token(" lantern");
    bool by_words = false;
    for (int32_t i = 0; i < c->n_dry_breaks_long; i++) {
        const struct token_run *run_of = &c->dry_breaks_long[i];
        struct buf text;
        size_t first;
        buf_init(&text, 1000);
        for (int32_t k = 0; k < run_of->n; k++) {
            size_t length;
            const char *bytes = tokenizer_bytes(tokenizer, run_of->ids[k], &length);
            buf_put(&text, bytes, length);
        }
        const char *at = strstr(buf_text(&text), " lantern, and");
        tokenizer_bytes(tokenizer, run_of->ids[0], &first);
        assert_true(run_of->n > 1 && at != NULL && (size_t)(at - buf_text(&text)) < first);
        assert_true(i == 0 || run_of[-1].ids[0] <= run_of->ids[0]);
        by_words = by_words || run_of->ids[0] == lantern;
        buf_clear(&text);
    }
    assert_true(by_words);
    clear(&f);
}

static void something_is_left(void **state)
{
    (void)state;
    static const struct {
        const char *body, *field; /* NULL: fine */
    } rows[] = {
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[2]}", NULL },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[2],\"min_tokens\":1}", "allowed_token_ids" },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[2],\"min_tokens\":1,\"ignore_eos\":true}",
          NULL },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[2,7],\"min_tokens\":1}", NULL },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[2,7],\"stop_token_ids\":[7],\"min_tokens\":1}",
          "allowed_token_ids" },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[7],\"logit_bias\":{\"7\":-100}}", NULL },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[7],\"logit_bias\":[[7,false]]}",
          "allowed_token_ids" },
        { "{\"prompt\":\"x\",\"bad_words\":[\" fox\"],\"logit_bias\":{\"5\":1}}", NULL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture f;
        struct err err;
        const bool ok = run(&f, rows[i].body, ALL, &err);
        if (rows[i].field == NULL)
            assert_ok(ok, &err);
        else if (ok || err.code != ERR_REQUEST || strcmp(err.field, rows[i].field) != 0)
            fail_msg("%s: %d, field %s: %s", rows[i].body, ok, err.field, err.text);
        clear(&f);
    }
}

/* Whatever memory there is, it is an error or the whole. */
static void too_little_memory(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"x\",\"dry_multiplier\":1,\"bad_words\":[\"fox and\"],"
                               "\"logit_bias\":[[\"a b\",1]],\"allowed_token_ids\":[5,6]}";
    int32_t n_refused = 0;
    for (size_t bytes = 0; bytes < 65536; bytes = bytes * 2 + 64) {
        struct fixture f;
        struct err err;
        if (!run(&f, body, bytes, &err)) {
            assert_true(err.code == ERR_MEMORY || err.code == ERR_REQUEST);
            assert_null(f.job.generate.sampling.chain);
            n_refused++;
        }
        clear(&f);
    }
    assert_true(n_refused > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(biases_are_summed),    cmocka_unit_test(bad_words_come_in_two_forms),
        cmocka_unit_test(breakers_over_tokens), cmocka_unit_test(something_is_left),
        cmocka_unit_test(too_little_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
