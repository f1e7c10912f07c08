/* Opening a model and scoring with it while allocations fail one by one: a clean error each time,
 * nothing leaks (ASan). */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include "host/model/model.h"
#include "host/model/score.h"

struct place {
    struct hf_folder folder;
    struct backend *be;
};

static bool open_and_score(struct place *place, enum weights_mode weights, struct err *err)
{
    static const int32_t ids[8] = { 1, 5, 9, 200, 31, 7, 7, 2 };
    const struct model_options options = {
        .weights = weights, .group = 32, .rows_max = 4, .logit_rows_max = 4
    };
    struct model model;
    struct scorer scorer = { 0 };
    struct score score = { 0 };
    if (!model_open(&model, &place->folder, NULL, place->be, &options, err))
        return false;
    bool ok = scorer_open(&scorer, &model, 16, 0, err);
    if (ok) {
        ok = model_score(&scorer, ids, 8, NULL, &score, err);
        assert_true(score.n_tokens == (ok ? 7 : 0));
        scorer_close(&scorer);
    }
    model_close(&model);
    return ok;
}

static void test_open(void **state)
{
    (void)state;
    static const enum weights_mode modes[] = { WEIGHTS_AUTO, WEIGHTS_INT4 };
    enum { FAILURES_MAX = 2000 };
    for (size_t i = 0; i < 2; i++) {
        bool ok = false;
        int32_t n = 0;
        while (!ok) {
            struct place place;
            struct err err = { 0 };
            const struct cpu_options cpu = { .n_threads = 2 };
            assert_ok(hf_folder_open(&place.folder, oracle_path("models/qwen3"), &err), &err);
            assert_ok(cpu_backend_open(&place.be, &cpu, &err), &err);
            fail_alloc_at(++n);
            ok = open_and_score(&place, modes[i], &err);
            fail_alloc_off();
            if (!ok && err.code != ERR_MEMORY)
                fail_msg("allocation %d: code %d, \"%s\"", n, err.code, err.text);
            assert_true(n < FAILURES_MAX);
            place.be->ops->close(place.be);
            hf_folder_close(&place.folder);
        }
        assert_true(n > 10);
        print_message("%d allocations, each failed once\n", n - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_open) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
