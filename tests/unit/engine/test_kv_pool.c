/* test_kv_pool.c - pages taken, shared, trimmed and given back; kv_pool_check sees damage. */
#include "tests/support/support.h"
#include "host/base/rng.h"
#include "host/engine/kv_pool.h"

enum { SLOTS = 3, PAGES_SEQ = 8 };

static struct prefix_cache cache;
static struct kv_pool pool;

static void open_pool(int32_t n_groups, int32_t w0, int32_t w1, int32_t p0, int32_t p1)
{
    struct err err;
    int32_t windows[2] = { w0, w1 }, n_pages[2] = { p0, p1 };
    assert_ok(prefix_cache_init(&cache, n_groups, windows, n_pages, PAGES_SEQ, &err), &err);
    assert_ok(kv_pool_init(&pool, n_groups, windows, n_pages, SLOTS, PAGES_SEQ, &cache, &err),
              &err);
}

static void close_pool(void)
{
    struct err err;
    assert_ok(kv_pool_check(&pool, &err), &err);
    kv_pool_clear(&pool);
    prefix_cache_clear(&cache);
}

static void growing_is_all_or_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t n_tokens;
        bool ok;
        int32_t free0, free1;
    } rows[] = {
        { "nothing", 0, true, 6, 4 },
        { "one token, one page in each group", 1, true, 5, 3 },
        { "sixteen tokens, still one page", 16, true, 5, 3 },
        { "seventeen, two", 17, true, 4, 2 },
        { "all of the smaller group", 64, true, 2, 0 },
        { "one more than that: nothing changes", 65, false, 6, 4 },
        { "more than a sequence may have", 16 * PAGES_SEQ + 1, false, 6, 4 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        open_pool(2, 0, 40, 6, 4);
        if (kv_pool_grow(&pool, 1, rows[i].n_tokens) != rows[i].ok ||
            pool.groups[0].n_free != rows[i].free0 || pool.groups[1].n_free != rows[i].free1)
            fail_msg("%s", rows[i].name);
        struct err err;
        assert_ok(kv_pool_check(&pool, &err), &err);
        kv_pool_drop(&pool, 1);
        assert_int_equal(pool.groups[0].n_free, 6);
        close_pool();
    }
}

static void a_window_gives_back_what_is_behind_it(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t window, position, first;
    } rows[] = {
        { "nothing is behind at the start", 20, 0, 0 },
        { "position 19 sees 0..19", 20, 19, 0 },
        { "position 34 still sees token 15 of page 0", 20, 34, 0 },
        { "position 35 sees 16..35: page 0 is behind", 20, 35, 1 },
        { "a window of one page, at a border", 16, 31, 1 },
        { "a window of one page, before the border", 16, 30, 0 },
        { "a window of 17 at the border needs the page before", 17, 32, 1 },
        { "and loses it one later", 17, 48, 2 },
        { "a window of one token sees itself alone", 1, 48, 3 },
        { "a full group keeps all", 0, 63, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        open_pool(1, rows[i].window, 0, 8, 0);
        assert_true(kv_pool_grow(&pool, 0, 64));
        kv_pool_trim(&pool, 0, rows[i].position);
        if (pool.groups[0].spans[0].first != rows[i].first)
            fail_msg("%s: first page %d", rows[i].name, pool.groups[0].spans[0].first);
        assert_int_equal(pool.groups[0].n_free, 4 + rows[i].first);
        for (int32_t page = 0; page < 4; page++)
            assert_true((kv_pool_page(&pool, 0, 0, page) >= 0) == (page >= rows[i].first));
        close_pool();
    }
}

static void name_pages(int32_t slot, int32_t n, int32_t first_token)
{
    struct page_name parent = { 0 };
    struct page_kind kind = { 0 };
    for (int32_t i = 0; i < n; i++) {
        int32_t tokens[PAGE_TOKENS];
        for (int32_t k = 0; k < PAGE_TOKENS; k++)
            tokens[k] = first_token + i * PAGE_TOKENS + k;
        assert_true(prefix_cache_publish(&cache, 0, kv_pool_page(&pool, 0, slot, i), parent, &kind,
                                         tokens));
        parent = prefix_cache_name(&cache, parent, &kind, tokens);
    }
}

static int32_t hits(int32_t first_token, int32_t n_tokens, struct prefix_hit *hit)
{
    int32_t tokens[PAGES_SEQ * PAGE_TOKENS];
    for (int32_t i = 0; i < n_tokens; i++)
        tokens[i] = first_token + i;
    struct page_kind kind = { 0 };
    prefix_cache_find(&cache, &kind, tokens, n_tokens, hit);
    return hit->n_pages;
}

static void freed_pages_stay_findable_until_reused_oldest_first(void **state)
{
    (void)state;
    open_pool(1, 0, 0, 6, 0);
    struct prefix_hit hit;
    assert_true(kv_pool_grow(&pool, 0, 33)); /* pages 0, 1 named, the third not full */
    name_pages(0, 2, 100);
    assert_true(kv_pool_grow(&pool, 1, 32));
    name_pages(1, 2, 500);
    kv_pool_drop(&pool, 0);
    kv_pool_drop(&pool, 1);
    assert_int_equal(pool.groups[0].n_free, 6);
    assert_int_equal(hits(100, 40, &hit), 2);
    assert_int_equal(hits(500, 40, &hit), 2);
    /* Two pages have no name: these go first. */
    assert_true(kv_pool_grow(&pool, 2, 32));
    assert_int_equal(hits(100, 40, &hit), 2);
    assert_int_equal(hits(500, 40, &hit), 2);
    /* Then the first freed, its deepest page before its root. */
    assert_true(kv_pool_grow(&pool, 2, 48));
    assert_int_equal(hits(100, 40, &hit), 1);
    assert_true(kv_pool_grow(&pool, 2, 64));
    assert_int_equal(hits(100, 40, &hit), 0);
    assert_int_equal(hits(500, 40, &hit), 2);
    kv_pool_drop(&pool, 2);
    close_pool();
}

static void adopted_pages_are_shared_and_counted(void **state)
{
    (void)state;
    open_pool(1, 0, 0, 6, 0);
    struct prefix_hit hit;
    struct err err;
    assert_true(kv_pool_grow(&pool, 0, 40));
    name_pages(0, 2, 100);
    assert_int_equal(hits(100, 40, &hit), 2);
    assert_true(kv_pool_fits(&pool, &hit, 40, 2)); /* one page, two to spare, three free */
    assert_false(kv_pool_fits(&pool, &hit, 40, 3));
    kv_pool_adopt(&pool, 1, &hit);
    assert_int_equal(pool.groups[0].n_free, 3); /* nothing was taken */
    assert_true(kv_pool_grow(&pool, 1, 33));
    assert_true(kv_pool_page(&pool, 0, 1, 0) == kv_pool_page(&pool, 0, 0, 0));
    assert_true(kv_pool_page(&pool, 0, 1, 2) != kv_pool_page(&pool, 0, 0, 2));
    assert_ok(kv_pool_check(&pool, &err), &err);
    kv_pool_drop(&pool, 0);
    assert_int_equal(pool.groups[0].n_free, 3); /* its own third page alone */
    assert_ok(kv_pool_check(&pool, &err), &err);
    kv_pool_drop(&pool, 1);
    assert_int_equal(hits(100, 40, &hit), 2);
    assert_true(kv_pool_fits(&pool, &hit, 40, 3)); /* hit pages leave the free list too */
    assert_false(kv_pool_fits(&pool, &hit, 40, 4));
    kv_pool_adopt(&pool, 2, &hit);
    assert_int_equal(pool.groups[0].n_free, 4);
    kv_pool_drop(&pool, 2);
    close_pool();
}

static void what_an_empty_pool_cannot_hold(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t window, n_pages, n_tokens;
        bool can;
    } rows[] = {
        { "full: exactly", 0, 4, 64, true },
        { "full: one token over", 0, 4, 65, false },
        { "window 17: two pages do for any length", 17, 2, 128, true },
        { "window 17: one does not", 17, 1, 128, false },
        { "window 18: two others, and its own", 18, 3, 128, true },
        { "window 18: two are one short", 18, 2, 128, false },
        { "a window of one token needs one page", 1, 1, 128, true },
        { "shorter than the window", 100, 2, 32, true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        open_pool(1, rows[i].window, 0, rows[i].n_pages, 0);
        int32_t g, wanted;
        if (kv_pool_can_hold(&pool, rows[i].n_tokens, &g, &wanted) != rows[i].can)
            fail_msg("%s: wants %d", rows[i].name, wanted);
        /* And it is true: row by row, in the pool alone. */
        for (int32_t p = 0; rows[i].can && p < rows[i].n_tokens; p++) {
            if (!kv_pool_grow(&pool, 0, p + 1))
                fail_msg("%s: no page at position %d", rows[i].name, p);
            kv_pool_trim(&pool, 0, p + 1);
        }
        kv_pool_drop(&pool, 0);
        close_pool();
    }
}

static void check_sees_damage(void **state)
{
    (void)state;
    struct err err;
    open_pool(1, 0, 0, 6, 0);
    assert_true(kv_pool_grow(&pool, 0, 48));
    struct kv_pool_group *g = &pool.groups[0];
    int32_t page = kv_pool_page(&pool, 0, 0, 1), *entry = &g->tables[1], free_page = g->oldest;
    struct {
        const char *name;
        int32_t *at, value;
    } rows[] = {
        { "a count too high", &g->pages[page].refs, 2 },
        { "a count too low", &g->pages[page].refs, 0 },
        { "a table entry that nobody counted", entry, kv_pool_page(&pool, 0, 0, 0) },
        { "a table entry with a free page", entry, free_page },
        { "a table entry outside the pool", entry, 6 },
        { "a lost page", &g->spans[0].end, 2 },
        { "a span turned round", &g->spans[0].first, 4 },
        { "a wrong number of free pages", &g->n_free, 2 },
        { "a free list with a ring", &g->pages[g->newest].next, g->oldest },
        { "a free list that is cut", &g->pages[g->oldest].next, -1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_ok(kv_pool_check(&pool, &err), &err);
        int32_t before = *rows[i].at;
        *rows[i].at = rows[i].value;
        if (kv_pool_check(&pool, &err))
            fail_msg("not seen: %s", rows[i].name);
        *rows[i].at = before;
    }
    kv_pool_drop(&pool, 0);
    close_pool();
}

static void random_use_keeps_the_invariant(void **state)
{
    (void)state;
    open_pool(2, 0, 20, 12, 9);
    struct err err;
    int32_t n_tokens[SLOTS] = { 0 };
    for (uint64_t i = 0; i < 20000; i++) {
        struct rng4 r = rng_philox(3, 0, i);
        int32_t slot = (int32_t)(r.v[0] % SLOTS), more = (int32_t)(r.v[1] % 30);
        if (r.v[2] % 8 == 0 || n_tokens[slot] + more > PAGES_SEQ * PAGE_TOKENS) {
            kv_pool_drop(&pool, slot);
            n_tokens[slot] = 0;
        } else if (kv_pool_grow(&pool, slot, n_tokens[slot] + more)) {
            n_tokens[slot] += more;
            kv_pool_trim(&pool, slot, n_tokens[slot]);
        }
        assert_ok(kv_pool_check(&pool, &err), &err);
    }
    for (int32_t slot = 0; slot < SLOTS; slot++)
        kv_pool_drop(&pool, slot);
    assert_int_equal(pool.groups[0].n_free, 12);
    assert_int_equal(pool.groups[1].n_free, 9);
    close_pool();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growing_is_all_or_nothing),
        cmocka_unit_test(a_window_gives_back_what_is_behind_it),
        cmocka_unit_test(freed_pages_stay_findable_until_reused_oldest_first),
        cmocka_unit_test(adopted_pages_are_shared_and_counted),
        cmocka_unit_test(what_an_empty_pool_cannot_hold),
        cmocka_unit_test(check_sees_damage),
        cmocka_unit_test(random_use_keeps_the_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
