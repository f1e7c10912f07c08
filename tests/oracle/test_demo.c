/* The demo model against its reference figures: perplexity as stored and quantized, what the fast
 * arithmetic adds, greedy conversations. Protocol: score.h, tests/oracle/README.md. */
#include "tests/oracle/model_run.h"

#include <math.h>
#include "host/base/json.h"

enum { CTX = 2048, ROWS = 256 };
/* KL divergence is taken on every KL_STEP-th document, since it runs both models; perplexity on all
 * of them, where the build is fast enough to compare with the reference's figures. */
#ifdef NIBBLE_SANITIZED
enum { KL_STEP = 160, ALL = false };
#else
enum { KL_STEP = 8, ALL = true };
#endif

static char *reference_text;
static struct cJSON *reference;

static const char *demo_folder(void)
{
    return NIBBLE_SOURCE_DIR "/server/demo";
}

static int setup_all(void **state)
{
    (void)state;
    struct err err;
    size_t size;
    assert_ok(file_read(oracle_path("demo/reference.json"), 1 << 24, &reference_text, &size, &err),
              &err);
    assert_ok(json_parse(reference_text, size, &JSON_FILE_LIMITS, ERR_FORMAT, &reference, &err),
              &err);
    return 0;
}
static int clear_all(void **state)
{
    (void)state;
    json_free(reference);
    free(reference_text);
    return 0;
}

static double figure(const char *name, const char *key)
{
    struct err err;
    struct json_ref root = json_root(reference), figures, row;
    double value = NAN;
    assert_true(json_get(&root, "figures", &figures) && json_get(&figures, name, &row));
    assert_ok(json_opt_double(&row, key, -1e9, 1e9, &value, &err), &err);
    assert_true(value > -1e9); /* not NaN: it was there */
    return value;
}

static void open_demo(struct model_run *run, struct scorer *scorer, struct model_setup setup)
{
    struct err err;
    setup.ctx = CTX;
    setup.rows = ROWS;
    setup.n_threads = 2;
    assert_ok(model_run_open(run, demo_folder(), NULL, &setup, &err), &err);
    assert_ok(scorer_open(scorer, &run->model, CTX, 0, &err), &err);
}
static void close_demo(struct model_run *run, struct scorer *scorer)
{
    scorer_close(scorer);
    model_run_close(run);
}

static void read_documents(const struct model_run *run, struct documents *documents)
{
    struct err err;
    char *text;
    size_t size;
    assert_ok(file_read(oracle_path("demo/heldout.txt"), 1 << 24, &text, &size, &err), &err);
    assert_ok(
        documents_read(documents, run->model.tokenizer, run->model.bos, text, size, CTX, &err),
        &err);
    free(text);
}

static void test_documents(void **state)
{
    (void)state;
    struct model_run run;
    struct scorer scorer;
    struct documents documents;
    struct json_ref root = json_root(reference), heldout;
    struct err err;
    int64_t n = 0, n_tokens = 0;
    open_demo(&run, &scorer, (struct model_setup){ .exact = true });
    read_documents(&run, &documents);
    assert_true(json_get(&root, "heldout", &heldout));
    assert_ok(json_opt_int(&heldout, "documents", 0, 1 << 20, &n, &err), &err);
    assert_ok(json_opt_int(&heldout, "scored_tokens", 0, 1 << 30, &n_tokens, &err), &err);
    assert_int_equal(documents.n, n);
    assert_int_equal((int64_t)documents.ids.n - documents.n, n_tokens);
    for (int32_t i = 0; i < documents.n; i++)
        assert_int_equal(documents.ids.ids[documents.starts[i]], run.model.bos);
    documents_clear(&documents);

    /* A document longer than the context: pieces of at most 5, each with its BOS. */
    static const char text[] = "one two three four five six seven\n\n\n\neight\n";
    assert_ok(
        documents_read(&documents, run.model.tokenizer, run.model.bos, text, strlen(text), 5, &err),
        &err);
    assert_true(documents.n >= 3);
    for (int32_t i = 0; i < documents.n; i++) {
        assert_int_equal(documents.ids.ids[documents.starts[i]], run.model.bos);
        assert_in_range(documents.starts[i + 1] - documents.starts[i], 2, 5);
    }
    documents_clear(&documents);
    assert_false(documents_read(&documents, run.model.tokenizer, -1, "\n\n\n", 3, 5, &err));
    close_demo(&run, &scorer);
}

/* Scores in pieces of any size are the same doubles. */
static void test_score_chunks(void **state)
{
    (void)state;
    static const int32_t chunks[] = { 0, 1, 50 };
    struct documents documents;
    double *first = NULL, *now = NULL;
    for (size_t i = 0; i < 3; i++) {
        struct err err;
        struct model_run run;
        struct scorer scorer;
        struct score score = { 0 };
        struct model_setup setup = { .weights = WEIGHTS_INT8, .ctx = CTX, .rows = ROWS };
        assert_ok(model_run_open(&run, demo_folder(), NULL, &setup, &err), &err);
        assert_ok(scorer_open(&scorer, &run.model, CTX, chunks[i], &err), &err);
        read_documents(&run, &documents);
        const int32_t n = documents.starts[1];
        double **to = i == 0 ? &first : &now;
        *to = realloc(*to, (size_t)n * sizeof **to);
        assert_ok(model_score(&scorer, documents.ids.ids, n, *to, &score, &err), &err);
        assert_int_equal(score.n_tokens, n - 1);
        if (i > 0)
            assert_memory_equal(first, now, (size_t)(n - 1) * sizeof *now);
        double sum = 0;
        for (int32_t t = 0; t < n - 1; t++)
            sum += (*to)[t];
        assert_true(fabs(sum - score.log_probability) < 1e-9 * fabs(sum));
        const int32_t outside = run.model.vocab;
        assert_false(model_score(&scorer, &outside, 1, NULL, &score, &err));
        assert_int_equal(err.code, ERR_REQUEST);
        documents_clear(&documents);
        close_demo(&run, &scorer);
    }
    free(first);
    free(now);
}

static double perplexity_all(struct scorer *scorer, const struct documents *documents)
{
    struct err err;
    struct score sum = { 0 };
    for (int32_t i = 0; i < documents->n; i++)
        assert_ok(model_score(scorer, documents->ids.ids + documents->starts[i],
                              documents->starts[i + 1] - documents->starts[i], NULL, &sum, &err),
                  &err);
    return score_perplexity(&sum);
}

static struct divergence compare_some(struct scorer *base, struct scorer *other,
                                      const struct documents *documents)
{
    struct err err;
    struct divergence sum = { 0 };
    for (int32_t i = 0; i < documents->n; i += KL_STEP)
        assert_ok(model_compare(base, other, documents->ids.ids + documents->starts[i],
                                documents->starts[i + 1] - documents->starts[i], &sum, &err),
                  &err);
    assert_true(sum.n_tokens == sum.base.n_tokens && sum.n_tokens == sum.other.n_tokens);
    return sum;
}

static void test_perplexity(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        const char *figures; /* in reference.json; NULL: none */
        struct model_setup setup;
    } rows[] = {
        { "as stored, fast", NULL, { .weights = WEIGHTS_AUTO } },
        { "int8/64 exact",
          "int8 group 64",
          { .exact = true, .weights = WEIGHTS_INT8, .group = 64, .head_auto = true } },
        { "int8/128 exact",
          "int8 group 128",
          { .exact = true, .weights = WEIGHTS_INT8, .group = 128, .head_auto = true } },
        { "int8/128 fast", NULL, { .weights = WEIGHTS_INT8, .group = 128, .head_auto = true } },
        { "int8/128 fast, head too", NULL, { .weights = WEIGHTS_INT8, .group = 128 } },
        { "int4/64 exact",
          "int4 group 64",
          { .exact = true, .weights = WEIGHTS_INT4, .group = 64, .head_auto = true } },
        { "int4/128 exact",
          "int4 group 128",
          { .exact = true, .weights = WEIGHTS_INT4, .group = 128, .head_auto = true } },
        { "int4/64 asymmetric exact",
          NULL,
          { .exact = true,
            .weights = WEIGHTS_INT4,
            .group = 64,
            .head_auto = true,
            .asymmetric = true } },
        { "int4/128 fast", NULL, { .weights = WEIGHTS_INT4, .group = 128, .head_auto = true } },
    };
    struct model_run base_run, run;
    struct scorer base, other;
    struct documents documents;
    double exact_kl[2] = { 0, 0 };
    open_demo(&base_run, &base, (struct model_setup){ .exact = true });
    read_documents(&base_run, &documents);
    if (ALL) { /* the issue: 0.1 % */
        const double stored = perplexity_all(&base, &documents);
        print_message("as stored, exact: perplexity %.4f\n", stored);
        assert_true(fabs(stored / figure("bf16", "perplexity") - 1) < 1e-3);
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct model_setup *setup = &rows[i].setup;
        const bool four = setup->weights == WEIGHTS_INT4, eight = setup->weights == WEIGHTS_INT8;
        open_demo(&run, &other, *setup);
        const struct divergence sum = compare_some(&base, &other, &documents);
        const double tokens = (double)sum.n_tokens, kl = sum.kl / tokens;
        print_message("%-24s on %d tokens: perplexity %.4f, as stored %.4f; KL %.6f; same top-1 "
                      "%.2f %%\n",
                      rows[i].sentence, (int)sum.n_tokens, score_perplexity(&sum.other),
                      score_perplexity(&sum.base), kl, 100 * (double)sum.same_top / tokens);
        assert_true(kl > -1e-9 && kl < (four ? 0.01 : 0.002));
        if (setup->exact && setup->group == 128)
            exact_kl[four] = kl;
        if (!setup->exact && (four || eight)) {
            print_message("%-24s adds %.6f to the KL of exact arithmetic\n", "",
                          kl - exact_kl[four]);
            assert_true(kl - exact_kl[four] < 0.002);
        }
        if (rows[i].figures != NULL && ALL) { /* 0.5 % allowed */
            const double all = perplexity_all(&other, &documents);
            print_message("%-24s on all: perplexity %.4f, reference %.4f\n", "", all,
                          figure(rows[i].figures, "perplexity"));
            assert_true(all < figure(rows[i].figures, "perplexity") * 1.005);
        }
        if (rows[i].figures != NULL) /* a sample of the documents: half as much again allowed */
            assert_true(kl < figure(rows[i].figures, "kl") * 1.5 + 2e-5);
        close_demo(&run, &other);
    }
    documents_clear(&documents);
    close_demo(&base_run, &base);
}

/* The reference's conversations (greedy, fp32), token for token. */
static void test_conversations(void **state)
{
    (void)state;
    struct model_run run;
    struct err err;
    struct json_ref root = json_root(reference), samples, sample, list, item;
    const struct model_setup setup = { .exact = true, .ctx = CTX, .rows = ROWS, .pages = true };
    assert_ok(model_run_open(&run, demo_folder(), NULL, &setup, &err), &err);
    const size_t vocab = (size_t)run.model.vocab;
    float *logits = malloc(CTX * vocab * sizeof *logits);
    int32_t ids[CTX], n_samples = 0, n_tokens = 0;
    assert_true(json_get(&root, "samples", &samples));
    for (bool more = json_first(&samples, &sample); more; more = json_next(&sample), n_samples++) {
        static const char *const keys[] = { "prompt_ids", "output_ids" };
        int32_t n = 0, n_prompt = 0;
        for (int32_t k = 0; k < 2; k++) {
            n_prompt = n;
            assert_true(json_get(&sample, keys[k], &list));
            for (bool next = json_first(&list, &item); next; next = json_next(&item)) {
                int64_t id;
                assert_ok(json_int(&item, 0, (int64_t)vocab - 1, &id, &err), &err);
                assert_true(n < CTX);
                ids[n++] = (int32_t)id;
            }
        }
        model_run_logits(&run, ids, n, ROWS, logits, NULL, NULL);
        for (int32_t t = n_prompt; t < n; t++, n_tokens++) {
            const float *row = logits + (size_t)(t - 1) * vocab;
            size_t top = 0;
            for (size_t v = 1; v < vocab; v++)
                if (row[v] > row[top])
                    top = v;
            if ((int32_t)top != ids[t])
                fail_msg("sample %d, token %d: %zu, want %d", n_samples, t - n_prompt, top, ids[t]);
        }
    }
    print_message("%d conversations, %d tokens, all as the reference's\n", n_samples, n_tokens);
    assert_true(n_samples >= 4);
    free(logits);
    model_run_close(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_score_chunks),
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_perplexity),
    };
    return cmocka_run_group_tests(tests, setup_all, clear_all);
}
