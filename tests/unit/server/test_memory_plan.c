/* The memory plan: what is left of the budget becomes pages, and never more than the budget. */
#include "tests/support/support.h"
#include "server/memory_plan.h"

struct shape {
    int32_t n_groups, windows[2], layers[2];
};
/* 2 KV heads of 64, bf16: a layer's page has 2 * 2 * 16 * 64 * 2 = 8192 bytes. */
static struct kv_cache cache_of(const struct shape *shape)
{
    struct kv_cache kv = {
        .n_groups = shape->n_groups, .n_kv_heads = 2, .head_dim = 64, .dtype = DTYPE_BF16
    };
    for (int32_t g = 0; g < shape->n_groups; g++) {
        kv.groups[g].window = shape->windows[g];
        kv.groups[g].n_layers = shape->layers[g];
    }
    return kv;
}

static void the_rest_of_the_budget_becomes_pages(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct shape shape;
        size_t budget, fixed; /* in pages of one layer, 8192 bytes */
        int32_t ctx, max_seqs, step;
        int32_t pages[2], per_seq[2];
    } rows[] = {
        { "one full group, all sequences fit",
          { 1, { 0 }, { 1 } },
          1000,
          100,
          160,
          4,
          32,
          { 40 },
          { 10 } },
        { "one full group, half of them fit",
          { 1, { 0 }, { 1 } },
          120,
          100,
          160,
          4,
          32,
          { 20 },
          { 10 } },
        { "exactly one fits", { 1, { 0 }, { 1 } }, 110, 100, 160, 4, 32, { 10 }, { 10 } },
        { "a context that ends inside a page",
          { 1, { 0 }, { 1 } },
          1000,
          0,
          161,
          1,
          32,
          { 11 },
          { 11 } },
        { "two layers: a page is twice as large",
          { 1, { 0 }, { 2 } },
          120,
          100,
          160,
          4,
          32,
          { 10 },
          { 10 } },
        { "a window group: ceil(64/16) + 1 + 32/16 pages",
          { 1, { 64 }, { 1 } },
          1000,
          0,
          1600,
          2,
          32,
          { 14 },
          { 7 } },
        { "a window as long as the context is a full group",
          { 1, { 4096 }, { 1 } },
          1000,
          0,
          160,
          2,
          32,
          { 20 },
          { 10 } },
        { "full and window, all fit",
          { 2, { 0, 64 }, { 1, 3 } },
          10000,
          0,
          1600,
          2,
          32,
          { 200, 14 },
          { 100, 7 } },
        { "full and window share what is left",
          { 2, { 0, 64 }, { 1, 3 } },
          181,
          0,
          1600,
          2,
          32,
          { 149, 10 },
          { 100, 7 } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_cache kv = cache_of(&rows[i].shape);
        struct memory_plan plan = { .budget = rows[i].budget * 8192,
                                    .weights = rows[i].fixed * 8192,
                                    .ctx = rows[i].ctx,
                                    .max_seqs = rows[i].max_seqs };
        struct err err;
        if (!memory_plan_make(&plan, &kv, rows[i].step, &err))
            fail_msg("%s: %s", rows[i].name, err.text);
        for (int32_t g = 0; g < plan.n_groups; g++)
            if (plan.groups[g].n_pages != rows[i].pages[g] ||
                plan.groups[g].pages_per_seq != rows[i].per_seq[g])
                fail_msg("%s: group %d has %d pages, %d a sequence", rows[i].name, g,
                         plan.groups[g].n_pages, plan.groups[g].pages_per_seq);
        assert_true(plan.weights + plan.kv <= plan.budget);
        assert_int_equal(plan.ctx_fits, plan.ctx);
    }
}

static void what_would_fit_is_said(void **state)
{
    (void)state;
    static const struct {
        size_t budget, fixed;
        int32_t fits;
        const char *said;
    } rows[] = {
        { 109, 100, 144, "--ctx 144 would fit" },
        { 101, 100, 16, "--ctx 16 would fit" },
        { 100, 100, 0, "try a larger --memory" },
        { 10, 100, 0, "try a larger --memory" },
    };
    struct kv_cache kv = cache_of(&(struct shape){ 1, { 0 }, { 1 } });
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct memory_plan plan = { .budget = rows[i].budget * 8192,
                                    .weights = rows[i].fixed * 8192,
                                    .ctx = 160,
                                    .max_seqs = 4 };
        struct err err;
        assert_false(memory_plan_make(&plan, &kv, 32, &err));
        assert_int_equal(err.code, ERR_MEMORY);
        assert_int_equal(plan.ctx_fits, rows[i].fits);
        if (strstr(err.text, rows[i].said) == NULL)
            fail_msg("said \"%s\"", err.text);
        if (rows[i].fits > 0) { /* and it does */
            plan.ctx = rows[i].fits;
            assert_ok(memory_plan_make(&plan, &kv, 32, &err), &err);
        }
    }
}

/* What a GPU's kernels take is a row of its own: it is no activation, and the sum has it. */
static void the_workspace_is_a_row(void **state)
{
    (void)state;
    struct kv_cache kv = cache_of(&(struct shape){ 1, { 0 }, { 1 } });
    for (size_t workspace = 0; workspace <= (size_t)3 << 20; workspace += (size_t)3 << 20) {
        struct memory_plan plan = { .available = 1 << 30,
                                    .budget = ((size_t)8 << 20) + 20 * 8192,
                                    .weights = (size_t)2 << 20,
                                    .activations = (size_t)1 << 20,
                                    .workspace = workspace,
                                    .tables = ((size_t)5 << 20) - workspace,
                                    .ctx = 160,
                                    .max_seqs = 4 };
        struct err err;
        struct buf text;
        assert_ok(memory_plan_make(&plan, &kv, 32, &err), &err);
        assert_int_equal(plan.groups[0].n_pages, 20); /* the same sum, whatever the row */
        buf_init(&text, 1 << 16);
        memory_plan_print(&text, &plan);
        const char *row = strstr(buf_text(&text), "\n  workspace ");
        assert_true((row != NULL) == (workspace > 0)); /* none on the CPU */
        if (row != NULL)
            assert_non_null(strstr(row, "3.00 MiB   scratch of the GPU's kernels, recordings\n"));
        assert_non_null(strstr(buf_text(&text), "1.00 MiB   scratch and logits of one step\n"));
        assert_non_null(strstr(buf_text(&text), "8.16 MiB   0 bytes of the budget left\n"));
        text.length = 0;
        memory_plan_json(&text, &plan);
        char wanted[64];
        snprintf(wanted, sizeof wanted, "\"workspace_bytes\":%zu,", workspace);
        assert_non_null(strstr(buf_text(&text), wanted));
        buf_clear(&text);
    }
}

static void available_memory_is_known_here(void **state)
{
    (void)state;
    size_t bytes = memory_available();
    assert_true(bytes > (size_t)1 << 20);
    assert_true(bytes < (size_t)1 << 50);
}

static void sizes_for_people(void **state)
{
    (void)state;
    static const struct {
        double bytes;
        const char *text;
    } rows[] = {
        { 0, "0 B" },
        { 1023, "1023 B" },
        { 1024, "1.00 KiB" },
        { 1536, "1.50 KiB" },
        { 10.0 * 1048576, "10.0 MiB" },
        { 4.0 * 1073741824, "4.00 GiB" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[32];
        assert_string_equal(memory_text(rows[i].bytes, text, sizeof text), rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rest_of_the_budget_becomes_pages),
        cmocka_unit_test(what_would_fit_is_said),
        cmocka_unit_test(the_workspace_is_a_row),
        cmocka_unit_test(available_memory_is_known_here),
        cmocka_unit_test(sizes_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
