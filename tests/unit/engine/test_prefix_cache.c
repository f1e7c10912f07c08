/* test_prefix_cache.c - what is found, what is not, and that a name is never trusted alone. */
#include "tests/support/support.h"
#include "host/engine/prefix_cache.h"

enum { PAGES = 32, PAGES_SEQ = 8 };

static struct prefix_cache cache;

static void open_cache(int32_t n_groups, int32_t w0, int32_t w1)
{
    struct err err;
    int32_t windows[2] = { w0, w1 }, n_pages[2] = { PAGES, PAGES };
    assert_ok(prefix_cache_init(&cache, n_groups, windows, n_pages, PAGES_SEQ, &err), &err);
}

static const int32_t *text(void)
{
    static int32_t tokens[PAGES_SEQ * PAGE_TOKENS];
    for (int32_t i = 0; i < PAGES_SEQ * PAGE_TOKENS; i++)
        tokens[i] = 1000 + i * 3;
    return tokens;
}

/* Pages [first, n) of the text as pages base + i of group g. */
static void publish(int32_t g, int32_t base, int32_t first, int32_t n, struct page_kind kind,
                    const int32_t *tokens)
{
    struct page_name parent = { 0 };
    for (int32_t i = 0; i < n; i++, tokens += PAGE_TOKENS) {
        if (i >= first)
            assert_true(prefix_cache_publish(&cache, g, base + i, parent, &kind, tokens));
        parent = prefix_cache_name(&cache, parent, &kind, tokens);
    }
}

static void a_hit_leaves_one_token_to_compute(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t n_published, n_tokens, n_hit;
    } rows[] = {
        { "nothing was published", 0, 100, 0 },
        { "no token at all", 4, 0, 0 },
        { "one token", 4, 1, 0 },
        { "a page exactly: its last token must be computed", 4, 16, 0 },
        { "a page and a token", 4, 17, 1 },
        { "two pages exactly", 4, 32, 1 },
        { "all that was published, and one token", 4, 65, 4 },
        { "more than was published", 4, 100, 4 },
        { "the longest sequence", 8, 128, 7 },
    };
    struct page_kind kind = { 0 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        open_cache(1, 0, 0);
        publish(0, 5, 0, rows[i].n_published, kind, text());
        struct prefix_hit hit;
        prefix_cache_find(&cache, &kind, text(), rows[i].n_tokens, &hit);
        if (hit.n_pages != rows[i].n_hit)
            fail_msg("%s: %d pages", rows[i].name, hit.n_pages);
        struct page_name name = { 0 };
        for (int32_t p = 0; p < hit.n_pages; p++) {
            assert_int_equal(hit.pages[0][p], 5 + p);
            name = prefix_cache_name(&cache, name, &kind, text() + p * PAGE_TOKENS);
        }
        assert_memory_equal(&hit.name, &name, sizeof name); /* children can be named on */
        prefix_cache_clear(&cache);
    }
}

static void what_differs_is_not_found(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct page_kind kind;
        int32_t changed; /* position of a changed token, or -1 */
        int32_t n_hit;
    } rows[] = {
        { "the same", { 7, 0, 0 }, -1, 4 },
        { "another salt", { 8, 0, 0 }, -1, 0 },
        { "no salt", { 0, 0, 0 }, -1, 0 },
        { "another adapter", { 7, 0, 1 }, -1, 0 },
        { "another rope variant", { 7, 1, 0 }, -1, 0 },
        { "the first token", { 7, 0, 0 }, 0, 0 },
        { "the last token of page 0", { 7, 0, 0 }, 15, 0 },
        { "the first token of page 1", { 7, 0, 0 }, 16, 1 },
        { "the last token of page 3", { 7, 0, 0 }, 63, 3 },
        { "a token behind them all", { 7, 0, 0 }, 64, 4 },
    };
    open_cache(1, 0, 0);
    publish(0, 0, 0, 4, (struct page_kind){ 7, 0, 0 }, text());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int32_t tokens[80];
        memcpy(tokens, text(), sizeof tokens);
        if (rows[i].changed >= 0)
            tokens[rows[i].changed]++;
        struct prefix_hit hit;
        prefix_cache_find(&cache, &rows[i].kind, tokens, 80, &hit);
        if (hit.n_pages != rows[i].n_hit)
            fail_msg("%s: %d pages", rows[i].name, hit.n_pages);
    }
    prefix_cache_clear(&cache);
}

/* Two texts whose names collide (made by hand, XXH3 does not give us one): each field is compared.
 */
static void a_name_is_never_trusted_alone(void **state)
{
    (void)state;
    open_cache(1, 0, 0);
    struct page_kind kind = { 7, 2, 3 };
    publish(0, 0, 0, 1, kind, text());
    struct page_entry *e = &cache.groups[0].entries[0];
    struct prefix_hit hit;
    prefix_cache_find(&cache, &kind, text(), 17, &hit);
    assert_int_equal(hit.n_pages, 1);
    for (int32_t field = 0; field < 6; field++) {
        struct page_entry before = *e;
        switch (field) {
        case 0:
            e->parent.high ^= 1;
            break;
        case 1:
            e->kind.salt ^= 1;
            break;
        case 2:
            e->kind.rope_variant ^= 1;
            break;
        case 3:
            e->kind.adapter ^= 1;
            break;
        case 4:
            e->tokens[PAGE_TOKENS - 1] ^= 1;
            break;
        case 5:
            e->name.high ^= 1;
            break;
        }
        prefix_cache_find(&cache, &kind, text(), 17, &hit);
        if (hit.n_pages != 0)
            fail_msg("field %d is not compared", field);
        *e = before;
    }
    prefix_cache_clear(&cache);
}

static void a_window_group_needs_its_window_alone(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t window, first, n; /* pages [first, n) are in the window group; full has 0..5 */
        int32_t n_hit, hit_first;
    } rows[] = {
        { "window 16, all there", 16, 0, 6, 6, 5 },
        { "window 16, the last one alone", 16, 5, 6, 6, 5 },
        { "window 17 sees no further than 16 pages border", 17, 5, 6, 6, 5 },
        { "window 18 sees one token of the page before", 18, 5, 6, 0, 0 },
        { "window 18, two pages", 18, 4, 6, 6, 4 },
        { "window 33, two pages", 33, 4, 6, 6, 4 },
        { "window 34 wants three", 34, 4, 6, 0, 0 },
        { "a shorter hit where the window's pages are", 16, 2, 3, 3, 2 },
        { "a window of one token needs none", 1, 0, 0, 6, 6 },
        { "a window longer than the hit needs all", 500, 0, 6, 6, 0 },
        { "a window longer than the hit, the first gone", 500, 1, 6, 0, 0 },
    };
    struct page_kind kind = { 0 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        open_cache(2, 0, rows[i].window);
        publish(0, 0, 0, 6, kind, text());
        publish(1, 10, rows[i].first, rows[i].n, kind, text());
        struct prefix_hit hit;
        prefix_cache_find(&cache, &kind, text(), 128, &hit);
        if (hit.n_pages != rows[i].n_hit || hit.first[1] != rows[i].hit_first)
            fail_msg("%s: %d pages from %d", rows[i].name, hit.n_pages, hit.first[1]);
        for (int32_t p = hit.first[1]; p < hit.n_pages; p++)
            assert_int_equal(hit.pages[1][p], 10 + p);
        prefix_cache_clear(&cache);
    }
}

static void the_first_to_publish_names_it(void **state)
{
    (void)state;
    open_cache(1, 0, 0);
    struct page_kind kind = { 0 };
    struct page_name root = { 0 };
    assert_true(prefix_cache_publish(&cache, 0, 3, root, &kind, text()));
    assert_false(prefix_cache_publish(&cache, 0, 4, root, &kind, text()));
    assert_true(prefix_cache_is_named(&cache, 0, 3));
    assert_false(prefix_cache_is_named(&cache, 0, 4));
    assert_int_equal(cache.n_named[0], 1);
    prefix_cache_forget(&cache, 0, 4); /* has none: nothing happens */
    prefix_cache_forget(&cache, 0, 3);
    assert_int_equal(cache.n_named[0], 0);
    struct prefix_hit hit;
    prefix_cache_find(&cache, &kind, text(), 17, &hit);
    assert_int_equal(hit.n_pages, 0);
    assert_true(prefix_cache_publish(&cache, 0, 4, root, &kind, text()));
    prefix_cache_clear(&cache);
}

static void a_name_depends_on_all_that_it_is_made_of(void **state)
{
    (void)state;
    open_cache(1, 0, 0);
    struct page_name root = { 0 }, other = { 1, 0 };
    const struct page_kind kinds[] = { { 0, 0, 0 }, { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } };
    struct page_name names[6];
    for (int32_t i = 0; i < 4; i++)
        names[i] = prefix_cache_name(&cache, root, &kinds[i], text());
    names[4] = prefix_cache_name(&cache, other, &kinds[0], text());
    names[5] = prefix_cache_name(&cache, root, &kinds[0], text() + 1);
    for (int32_t i = 0; i < 6; i++)
        for (int32_t k = 0; k < i; k++)
            assert_memory_not_equal(&names[i], &names[k], sizeof names[i]);
    prefix_cache_clear(&cache);
}

static void names_differ_from_process_to_process(void **state)
{
    (void)state;
    struct page_kind kind = { 0 };
    struct page_name root = { 0 }, names[2];
    for (int32_t i = 0; i < 2; i++) {
        open_cache(1, 0, 0);
        names[i] = prefix_cache_name(&cache, root, &kind, text());
        prefix_cache_clear(&cache);
    }
    assert_memory_not_equal(&names[0], &names[1], sizeof names[0]);
}

static void every_page_in_every_bucket(void **state)
{
    (void)state;
    open_cache(1, 0, 0);
    struct page_kind kind = { 0 };
    struct page_name root = { 0 };
    int32_t tokens[PAGE_TOKENS + 1] = { 0 };
    for (int32_t round = 0; round < 3; round++) {
        for (int32_t i = 0; i < PAGES; i++) {
            tokens[0] = round * 1000 + i;
            prefix_cache_forget(&cache, 0, i);
            assert_true(prefix_cache_publish(&cache, 0, i, root, &kind, tokens));
        }
        for (int32_t i = 0; i < PAGES; i++) {
            struct prefix_hit hit;
            tokens[0] = round * 1000 + i;
            prefix_cache_find(&cache, &kind, tokens, PAGE_TOKENS + 1, &hit);
            assert_int_equal(hit.n_pages, 1);
            assert_int_equal(hit.pages[0][0], i);
        }
        assert_int_equal(cache.n_named[0], PAGES);
    }
    prefix_cache_clear(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hit_leaves_one_token_to_compute),
        cmocka_unit_test(what_differs_is_not_found),
        cmocka_unit_test(a_name_is_never_trusted_alone),
        cmocka_unit_test(a_window_group_needs_its_window_alone),
        cmocka_unit_test(the_first_to_publish_names_it),
        cmocka_unit_test(a_name_depends_on_all_that_it_is_made_of),
        cmocka_unit_test(names_differ_from_process_to_process),
        cmocka_unit_test(every_page_in_every_bucket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
