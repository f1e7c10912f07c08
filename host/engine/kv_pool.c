/* kv_pool.c - page counts, the free list and the page tables.
 *
 * Invariant: refs == 0 exactly when the page is in the free list; see kv_pool.h. Steps run on the
 * device in the order in which they were planned, so a page may be given to another sequence while
 * a step that writes it is still in flight: the new owner's step comes after it. */
#include "host/engine/kv_pool.h"
#include <stdlib.h>

bool kv_pool_init(struct kv_pool *pool, int32_t n_groups, const int32_t *windows,
                  const int32_t *n_pages, int32_t n_slots, int32_t n_pages_seq,
                  struct prefix_cache *cache, struct err *err)
{
    CHECK(n_groups >= 1 && n_groups <= KV_GROUPS_MAX && n_slots >= 1 && n_pages_seq >= 1);
    *pool = (struct kv_pool){
        .n_groups = n_groups, .n_slots = n_slots, .n_pages_seq = n_pages_seq, .cache = cache
    };
    int32_t n_most = 0;
    for (int32_t g = 0; g < n_groups; g++) {
        CHECK(n_pages[g] >= 1 && windows[g] >= 0);
        struct kv_pool_group *group = &pool->groups[g];
        group->window = windows[g];
        group->n_pages = group->n_free = n_pages[g];
        group->pages = calloc((size_t)n_pages[g], sizeof *group->pages);
        /* Zero on demand: a slot touches only what its sequences use. */
        group->tables = calloc((size_t)n_slots * (size_t)n_pages_seq, sizeof *group->tables);
        group->spans = calloc((size_t)n_slots, sizeof *group->spans);
        if (!group->pages || !group->tables || !group->spans)
            goto fail;
        for (int32_t i = 0; i < n_pages[g]; i++)
            group->pages[i] =
                (struct kv_page){ .prev = i - 1, .next = i + 1 < n_pages[g] ? i + 1 : -1 };
        group->oldest = 0;
        group->newest = n_pages[g] - 1;
        n_most = n_pages[g] > n_most ? n_pages[g] : n_most;
    }
    pool->counts = calloc((size_t)n_most, sizeof *pool->counts);
    if (!pool->counts)
        goto fail;
    return true;
fail:
    kv_pool_clear(pool);
    return err_set(err, ERR_MEMORY, "no memory for the tables of %d KV groups", n_groups);
}

void kv_pool_clear(struct kv_pool *pool)
{
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        free(pool->groups[g].pages);
        free(pool->groups[g].tables);
        free(pool->groups[g].spans);
    }
    free(pool->counts);
    *pool = (struct kv_pool){ 0 };
}

static void list_remove(struct kv_pool_group *group, int32_t page)
{
    struct kv_page *p = &group->pages[page];
    *(p->prev >= 0 ? &group->pages[p->prev].next : &group->oldest) = p->next;
    *(p->next >= 0 ? &group->pages[p->next].prev : &group->newest) = p->prev;
    group->n_free--;
}

/* At the end; at the front when nothing could ever find it again. */
static void list_add(struct kv_pool_group *group, int32_t page, bool findable)
{
    struct kv_page *p = &group->pages[page];
    p->prev = findable ? group->newest : -1;
    p->next = findable ? -1 : group->oldest;
    *(p->prev >= 0 ? &group->pages[p->prev].next : &group->oldest) = page;
    *(p->next >= 0 ? &group->pages[p->next].prev : &group->newest) = page;
    group->n_free++;
}

static int32_t *table_of(const struct kv_pool *pool, const struct kv_pool_group *group,
                         int32_t slot)
{
    CHECK(slot >= 0 && slot < pool->n_slots);
    return group->tables + (int64_t)slot * pool->n_pages_seq;
}

static void give(struct kv_pool *pool, int32_t g, int32_t page)
{
    struct kv_pool_group *group = &pool->groups[g];
    CHECK(group->pages[page].refs > 0);
    if (--group->pages[page].refs == 0)
        list_add(group, page, pool->cache && prefix_cache_is_named(pool->cache, g, page));
}

static int32_t take(struct kv_pool *pool, int32_t g)
{
    struct kv_pool_group *group = &pool->groups[g];
    int32_t page = group->oldest;
    CHECK(page >= 0 && group->pages[page].refs == 0);
    list_remove(group, page);
    if (pool->cache)
        prefix_cache_forget(pool->cache, g, page);
    group->pages[page].refs = 1;
    return page;
}

int32_t kv_pool_reach(const struct kv_pool *pool, int32_t slot)
{
    int32_t n_pages = pool->n_pages_seq;
    for (int32_t g = 0; g < pool->n_groups; g++) {
        const struct kv_pool_group *group = &pool->groups[g];
        int32_t n = group->spans[slot].end + group->n_free;
        n_pages = n < n_pages ? n : n_pages;
    }
    return n_pages * PAGE_TOKENS;
}

bool kv_pool_grow(struct kv_pool *pool, int32_t slot, int32_t n_tokens)
{
    if (n_tokens > kv_pool_reach(pool, slot))
        return false;
    int32_t end = kv_pages_for(n_tokens);
    for (int32_t g = 0; g < pool->n_groups; g++) {
        struct kv_pool_group *group = &pool->groups[g];
        int32_t *table = table_of(pool, group, slot);
        struct kv_span *span = &group->spans[slot];
        for (; span->end < end; span->end++)
            table[span->end] = take(pool, g);
    }
    return true;
}

void kv_pool_adopt(struct kv_pool *pool, int32_t slot, const struct prefix_hit *hit)
{
    CHECK(kv_pool_is_empty(pool, slot));
    for (int32_t g = 0; g < pool->n_groups; g++) {
        struct kv_pool_group *group = &pool->groups[g];
        int32_t *table = table_of(pool, group, slot);
        for (int32_t i = hit->first[g]; i < hit->n_pages; i++) {
            int32_t page = hit->pages[g][i];
            CHECK(page >= 0 && page < group->n_pages);
            if (group->pages[page].refs++ == 0)
                list_remove(group, page);
            table[i] = page;
        }
        group->spans[slot] = (struct kv_span){ hit->first[g], hit->n_pages };
    }
}

/* Pages that a sequence of n_tokens needs at least, from page `first` on. The last token of a
 * window group sees w - 1 others: ceil((w - 1) / 16) pages, and its own when those end before. */
static int32_t pages_needed(int32_t window, int32_t n_tokens, int32_t first)
{
    int32_t n = kv_pages_for(n_tokens) - first;
    if (window > 0) {
        int32_t most = kv_pages_for((int64_t)window - 1) + 1;
        n = n < most ? n : most;
    }
    return n;
}

bool kv_pool_fits(const struct kv_pool *pool, const struct prefix_hit *hit, int32_t n_tokens,
                  int32_t spare)
{
    for (int32_t g = 0; g < pool->n_groups; g++) {
        const struct kv_pool_group *group = &pool->groups[g];
        int32_t n_hit = hit->n_pages - hit->first[g];
        int32_t n = pages_needed(group->window, n_tokens, hit->first[g]) - n_hit;
        n = n > 0 ? n : 0;
        for (int32_t i = hit->first[g]; i < hit->n_pages; i++)
            n += group->pages[hit->pages[g][i]].refs == 0; /* leaves the free list */
        if (n + spare > group->n_free)
            return false;
    }
    return true;
}

bool kv_pool_can_hold(const struct kv_pool *pool, int32_t n_tokens, int32_t *g, int32_t *wanted)
{
    for (*g = 0; *g < pool->n_groups; (*g)++) {
        *wanted = pages_needed(pool->groups[*g].window, n_tokens, 0);
        if (*wanted > pool->groups[*g].n_pages)
            return false;
    }
    return true;
}

void kv_pool_trim(struct kv_pool *pool, int32_t slot, int32_t position)
{
    for (int32_t g = 0; g < pool->n_groups; g++) {
        struct kv_pool_group *group = &pool->groups[g];
        if (group->window == 0)
            continue;
        int32_t first = prefix_first_page(group->window, position);
        struct kv_span *span = &group->spans[slot];
        int32_t *table = table_of(pool, group, slot);
        for (; span->first < first && span->first < span->end; span->first++)
            give(pool, g, table[span->first]);
    }
}

void kv_pool_drop(struct kv_pool *pool, int32_t slot)
{
    for (int32_t g = 0; g < pool->n_groups; g++) {
        struct kv_pool_group *group = &pool->groups[g];
        struct kv_span *span = &group->spans[slot];
        int32_t *table = table_of(pool, group, slot);
        while (span->end > span->first)
            give(pool, g, table[--span->end]);
        *span = (struct kv_span){ 0, 0 };
    }
}

bool kv_pool_is_empty(const struct kv_pool *pool, int32_t slot)
{
    for (int32_t g = 0; g < pool->n_groups; g++)
        if (pool->groups[g].spans[slot].end > 0)
            return false;
    return true;
}

static bool check_group(const struct kv_pool *pool, int32_t g, struct err *err)
{
    const struct kv_pool_group *group = &pool->groups[g];
    for (int32_t i = 0; i < group->n_pages; i++)
        pool->counts[i] = 0;
    for (int32_t slot = 0; slot < pool->n_slots; slot++) {
        struct kv_span span = group->spans[slot];
        if (span.first < 0 || span.first > span.end || span.end > pool->n_pages_seq)
            return err_set(err, ERR_DEVICE, "group %d slot %d: entries %d to %d", g, slot,
                           span.first, span.end);
        if (group->window == 0 && span.first != 0)
            return err_set(err, ERR_DEVICE, "group %d slot %d: full, but starts at %d", g, slot,
                           span.first);
        if (span.end != pool->groups[0].spans[slot].end)
            return err_set(err, ERR_DEVICE, "group %d slot %d: %d pages, group 0 has %d", g, slot,
                           span.end, pool->groups[0].spans[slot].end);
        for (int32_t i = span.first; i < span.end; i++) {
            int32_t page = kv_pool_page(pool, g, slot, i);
            if (page < 0 || page >= group->n_pages)
                return err_set(err, ERR_DEVICE, "group %d slot %d entry %d: page %d of %d", g, slot,
                               i, page, group->n_pages);
            pool->counts[page]++;
        }
    }
    int32_t n_unheld = 0, n_listed = 0, prev = -1;
    for (int32_t i = 0; i < group->n_pages; i++) {
        if (pool->counts[i] != group->pages[i].refs)
            return err_set(err, ERR_DEVICE, "group %d page %d: count %d, held by %d entries", g, i,
                           group->pages[i].refs, pool->counts[i]);
        n_unheld += pool->counts[i] == 0;
    }
    for (int32_t i = group->oldest; i >= 0; i = group->pages[i].next) {
        if (group->pages[i].refs != 0 || group->pages[i].prev != prev)
            return err_set(err, ERR_DEVICE, "group %d page %d: in the free list, %d held, after %d",
                           g, i, group->pages[i].refs, prev);
        prev = i;
        if (++n_listed > group->n_pages)
            return err_set(err, ERR_DEVICE, "group %d: the free list has a ring", g);
    }
    if (n_listed != n_unheld || n_listed != group->n_free || prev != group->newest)
        return err_set(err, ERR_DEVICE, "group %d: %d pages free, %d in the list, %d counted", g,
                       n_unheld, n_listed, group->n_free);
    return true;
}

bool kv_pool_check(const struct kv_pool *pool, struct err *err)
{
    for (int32_t g = 0; g < pool->n_groups; g++)
        if (!check_group(pool, g, err))
            return false;
    return true;
}
