/* test_batch_build.c - a plan of three sequences, array by array. */
#include "tests/support/support.h"
#include "host/engine/batch_build.h"

enum { CTX = 128, SLOTS = 4 };

static void every_array_says_what_the_plan_says(void **state)
{
    (void)state;
    struct err err;
    struct kv_pool pool;
    struct scheduler s;
    struct plan plan;
    struct batch_build build;
    int32_t windows[2] = { 0, 16 }, n_pages[2] = { 20, 20 };
    assert_ok(kv_pool_init(&pool, 2, windows, n_pages, SLOTS, CTX / 16, NULL, &err), &err);
    assert_ok(scheduler_init(&s, &pool, NULL, SLOTS, CTX, 32, &err), &err);
    assert_ok(plan_init(&plan, SLOTS, &err), &err);
    assert_ok(batch_build_init(&build, 64, SLOTS, 32, 2, CTX / 16, &err), &err);
    struct request *requests[3];
    static const int32_t n_prompt[3] = { 33, 5, 8 };
    static const int32_t eos[2] = { 90, 91 };
    for (int32_t i = 0; i < 3; i++) {
        int32_t *prompt = malloc((size_t)n_prompt[i] * sizeof *prompt);
        assert_non_null(prompt);
        for (int32_t k = 0; k < n_prompt[i]; k++)
            prompt[k] = 100 * i + k;
        assert_ok(request_open(&requests[i], prompt, n_prompt[i], 1, -1, &err), &err);
        requests[i]->max_tokens = 10;
    }
    requests[1]->min_tokens = 2;
    requests[1]->n_stop_tokens = 1;
    requests[1]->stop_tokens = malloc(sizeof(int32_t));
    assert_non_null(requests[1]->stop_tokens);
    requests[1]->stop_tokens[0] = 77;
    requests[2]->prompt_logprobs = calloc(1, sizeof *requests[2]->prompt_logprobs);
    assert_non_null(requests[2]->prompt_logprobs);
    requests[2]->prompt_logprobs->n_top = 3;
    for (int32_t i = 0; i < 3; i++) {
        assert_ok(run_open(requests[i], eos, 2, &err), &err);
        scheduler_add(&s, ((struct run *)requests[i]->engine_private)->seqs);
    }
    struct seq *a = ((struct run *)requests[0]->engine_private)->seqs;

    assert_true(scheduler_plan(&s, &plan, 40, 40, 1)); /* 33 + 5 + 2 rows */
    batch_build_fill(&build, &plan, &s);
    const struct batch *b = &build.batch;
    assert_int_equal(b->n_rows, 40);
    assert_int_equal(b->n_seqs, 3);
    assert_int_equal(b->n_logit_rows, 4); /* two draws, two scores */
    static const int32_t logit_rows[] = { 32, 37, 38, 39 };
    assert_memory_equal(b->logit_rows, logit_rows, sizeof logit_rows);
    for (int32_t row = 0; row < 40; row++) {
        int32_t seq = row < 33 ? 0 : row < 38 ? 1 : 2, first = seq == 0 ? 0 : seq == 1 ? 33 : 38;
        assert_int_equal(b->row_seq[row], seq);
        assert_int_equal(b->positions[row], row - first);
        assert_int_equal(b->tokens[row], 100 * seq + row - first);
    }
    assert_int_equal(b->seqs[1].first_row, 33);
    assert_int_equal(b->seqs[1].n_rows, 5);
    assert_int_equal(b->seqs[1].first_position, 0);
    assert_int_equal(b->pages_stride[0], 3); /* as wide as the longest, not as the context */
    assert_true(batch_page(b, 0, 0, 2) >= 0 && batch_page(b, 0, 1, 0) >= 0);
    assert_int_equal(batch_page(b, 0, 1, 1), -1);
    assert_int_equal(build.rows[0].position, 33); /* of the token to be drawn */
    assert_int_equal(build.rows[0].n_banned, 0);
    assert_int_equal(build.rows[0].n_prompt, 33);
    assert_int_equal(build.rows[0].target, -1);
    assert_int_equal(build.rows[0].n_output, 0);
    assert_false(build.rows[0].in_flight);
    static const int32_t banned[] = { 90, 91, 77 };
    assert_int_equal(build.rows[1].n_banned, 3);
    assert_memory_equal(build.rows[1].banned, banned, sizeof banned);
    assert_int_equal(build.rows[2].target, 201);
    assert_int_equal(build.rows[3].target, 202);
    assert_int_equal(build.rows[3].params->n_top, 3);

    /* The next step, planned before this one is committed: A's token is in flight. */
    struct plan next;
    assert_ok(plan_init(&next, SLOTS, &err), &err);
    assert_true(scheduler_plan(&s, &next, 40, 40, 2));
    batch_build_fill(&build, &next, &s);
    assert_int_equal(build.batch.tokens[0], BATCH_TOKEN_IN_FLIGHT);
    assert_int_equal(build.batch.positions[0], 33);
    assert_int_equal(build.rows[0].position, 34);
    assert_int_equal(build.rows[0].slot, a->slot);
    assert_int_equal(build.rows[0].n_output, 1); /* the history has it, but not its value */
    assert_true(build.rows[0].in_flight);

    /* Committed: the value is known, and the window of 16 has left page 0 behind. */
    a->tokens[a->n_tokens++] = 555;
    struct seq *second = ((struct run *)requests[1]->engine_private)->seqs;
    second->tokens[second->n_tokens++] = 556;
    scheduler_commit(&s, &plan);
    batch_build_fill(&build, &next, &s);
    assert_int_equal(build.batch.tokens[0], 555);
    assert_int_equal(build.rows[0].n_output, 1);
    assert_false(build.rows[0].in_flight);
    assert_int_equal(build.rows[0].history[33], 555);
    assert_int_equal(batch_page(&build.batch, 1, 0, 0), -1);
    assert_true(batch_page(&build.batch, 0, 0, 0) >= 0);
    assert_true(batch_page(&build.batch, 1, 0, 2) >= 0);

    for (int32_t i = 0; i < 3; i++) {
        scheduler_drop(&s, ((struct run *)requests[i]->engine_private)->seqs);
        run_close(requests[i]);
        request_close(requests[i]);
    }
    batch_build_clear(&build);
    plan_clear(&plan);
    plan_clear(&next);
    scheduler_clear(&s);
    assert_ok(kv_pool_check(&pool, &err), &err);
    kv_pool_clear(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_array_says_what_the_plan_says) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
