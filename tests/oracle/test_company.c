/* test_company.c - a sequence's logits are the same bits alone and among 31 others.
 *
 * 32 sequences of different prompts and lengths run together through batches made here: every step
 * a sequence takes a chunk of random length (often one row, sometimes none), and pages are dealt
 * out in a shuffled order. Each row's logits are compared with memcmp to those of the sequence
 * alone. */
#include "tests/oracle/model_run.h"
#include "host/base/rng.h"

enum { N = 32, LONG = 48, PAGES_EACH = LONG / PAGE_TOKENS, CHUNK_MAX = 7, ROWS = N * CHUNK_MAX };

struct crowd {
    int32_t prompts[N][LONG], length[N], computed[N];
    int32_t pages[N * PAGES_EACH]; /* [N][PAGES_EACH]: a permutation */
    uint64_t draws;
};

static int32_t draw(struct crowd *c, int32_t below)
{
    return (int32_t)(rng_philox(9, 0, c->draws++).v[0] % (uint32_t)below);
}

static void crowd_init(struct crowd *c, int32_t vocab)
{
    *c = (struct crowd){ 0 };
    for (int32_t s = 0; s < N; s++) {
        c->length[s] = 1 + draw(c, LONG);
        for (int32_t k = 0; k < LONG; k++)
            c->prompts[s][k] = draw(c, vocab);
    }
    for (int32_t i = 0; i < N * PAGES_EACH; i++) {
        int32_t other = draw(c, i + 1);
        c->pages[i] = c->pages[other];
        c->pages[other] = i;
    }
}

/* One step of everybody; compares with `alone`, [N][LONG][vocab]. Rows computed; 0: all done. */
static int32_t step(struct model_run *run, struct crowd *c, const float *alone, const char *name)
{
    struct err err;
    int32_t tokens[ROWS], positions[ROWS], row_seq[ROWS], logit_rows[ROWS], seq_of[N],
        table[N * PAGES_EACH];
    struct batch_seq seqs[N];
    struct batch batch = { .serial = batch_serial_next(), .n_groups = run->kv.n_groups };
    bool any_left = false;
    for (int32_t s = 0; s < N; s++) {
        int32_t left = c->length[s] - c->computed[s];
        int32_t n = draw(c, 3) == 0 ? draw(c, CHUNK_MAX + 1) : 1;
        any_left = any_left || left > 0;
        n = n < left ? n : left;
        if (n <= 0)
            continue;
        int32_t b = batch.n_seqs++;
        seq_of[b] = s;
        seqs[b] = (struct batch_seq){ s, batch.n_rows, n, c->computed[s], 0 };
        memcpy(table + b * PAGES_EACH, c->pages + s * PAGES_EACH, PAGES_EACH * sizeof *table);
        for (int32_t k = 0; k < n; k++) {
            int32_t r = batch.n_rows++;
            positions[r] = c->computed[s] + k;
            tokens[r] = c->prompts[s][positions[r]];
            row_seq[r] = b;
            logit_rows[r] = r;
        }
    }
    if (!any_left)
        return 0;
    if (batch.n_rows == 0)
        return 1; /* everybody drew nothing: again */
    batch.n_logit_rows = batch.n_rows;
    batch.tokens = tokens;
    batch.positions = positions;
    batch.row_seq = row_seq;
    batch.seqs = seqs;
    batch.logit_rows = logit_rows;
    for (int32_t g = 0; g < run->kv.n_groups; g++) {
        batch.pages[g] = table;
        batch.pages_stride[g] = PAGES_EACH;
    }
    model_forward(&run->model, &batch, &run->kv, NULL, NULL, NULL);
    assert_ok(run->be->ops->finish(run->be, &err), &err);
    const size_t vocab = (size_t)run->model.vocab;
    for (int32_t r = 0; r < batch.n_rows; r++) {
        int32_t s = seq_of[row_seq[r]];
        const float *want = alone + ((size_t)s * LONG + (size_t)positions[r]) * vocab;
        if (memcmp(view_row(run->model.logits, r), want, vocab * sizeof *want) != 0)
            fail_msg("%s: sequence %d, position %d differs", name, s, positions[r]);
    }
    for (int32_t b = 0; b < batch.n_seqs; b++)
        c->computed[seq_of[b]] += seqs[b].n_rows;
    return batch.n_rows;
}

static void logits_do_not_depend_on_company(void **state)
{
    (void)state;
    static const struct {
        const char *name, *model;
        bool exact;
        enum weights_mode weights;
        int32_t group;
        enum dtype kv;
    } rows[] = {
        { "exact, as stored", "llama_untied", true, WEIGHTS_AUTO, 128, DTYPE_NONE },
        { "exact, int4", "qwen3", true, WEIGHTS_INT4, 64, DTYPE_NONE },
        { "fast, as stored", "qwen2_tied", false, WEIGHTS_AUTO, 128, DTYPE_NONE },
        { "fast, int8", "mistral_window16", false, WEIGHTS_INT8, 32, DTYPE_NONE },
        { "fast, int4", "llama_tied_rope_llama3", false, WEIGHTS_INT4, 128, DTYPE_NONE },
        { "experts, exact, as stored", "mixtral_top2", true, WEIGHTS_AUTO, 128, DTYPE_NONE },
        { "experts, fast, int4", "qwen3_moe", false, WEIGHTS_INT4, 32, DTYPE_NONE },
        { "experts, fast, int8", "mixtral_top2", false, WEIGHTS_INT8, 32, DTYPE_NONE },
        { "fast, int8 KV", "qwen3", false, WEIGHTS_AUTO, 128, DTYPE_I8 },
        { "int8, int8 KV", "mistral_window16", false, WEIGHTS_INT8, 32, DTYPE_I8 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err;
        struct model_run run;
        struct model_setup setup = { .exact = rows[i].exact,
                                     .weights = rows[i].weights,
                                     .group = rows[i].group,
                                     .n_threads = 2,
                                     .ctx = LONG,
                                     .rows = ROWS,
                                     .kv = rows[i].kv };
        const int32_t n_pages[KV_GROUPS_MAX] = { N * PAGES_EACH, N * PAGES_EACH, N * PAGES_EACH,
                                                 N * PAGES_EACH };
        assert_ok(model_run_open(&run, oracle_path("models/%s", rows[i].model), NULL, &setup, &err),
                  &err);
        assert_ok(kv_cache_reserve(&run.kv, run.be, n_pages, &err), &err);
        assert_ok(batch_single_init(&run.single, ROWS, LONG, run.kv.n_groups, &err), &err);
        struct crowd crowd;
        crowd_init(&crowd, run.model.vocab);
        float *alone = calloc((size_t)N * LONG * (size_t)run.model.vocab, sizeof *alone);
        assert_non_null(alone);
        for (int32_t s = 0; s < N; s++)
            model_run_logits(&run, crowd.prompts[s], crowd.length[s], LONG,
                             alone + (size_t)s * LONG * (size_t)run.model.vocab, NULL, NULL);
        int32_t total = 0, n, widest = 0;
        while ((n = step(&run, &crowd, alone, rows[i].name)) > 0) {
            total += n;
            widest = n > widest ? n : widest;
        }
        assert_true(widest > N);
        printf("  %-18s %-24s %d rows equal, %d in the widest step\n", rows[i].name, rows[i].model,
               total, widest);
        free(alone);
        model_run_close(&run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(logits_do_not_depend_on_company) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
