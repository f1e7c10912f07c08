/* prefix_cache.c - names of full pages, in one chained table a group.
 *
 * Invariant: an entry is in exactly one chain when `named`, in none otherwise; no two entries of a
 * group are equal in all that a name is made of. Engine thread only. */
#include "host/engine/prefix_cache.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "host/base/rng.h"

bool prefix_cache_init(struct prefix_cache *cache, int32_t n_groups, const int32_t *windows,
                       const int32_t *n_pages, int32_t n_pages_seq, struct err *err)
{
    CHECK(n_groups >= 1 && n_groups <= KV_GROUPS_MAX && n_pages_seq >= 1);
    *cache = (struct prefix_cache){ .n_groups = n_groups, .n_pages_seq = n_pages_seq };
    for (size_t i = 0; i < sizeof cache->secret; i += sizeof(uint64_t)) {
        uint64_t bits = rng_system();
        memcpy(cache->secret + i, &bits, sizeof bits);
    }
    cache->names = calloc((size_t)n_pages_seq, sizeof *cache->names);
    if (!cache->names)
        goto fail;
    for (int32_t g = 0; g < n_groups; g++) {
        CHECK(n_pages[g] >= 1 && windows[g] >= 0);
        struct prefix_group *group = &cache->groups[g];
        group->window = windows[g];
        group->n_pages = n_pages[g];
        group->n_buckets = 16;
        while (group->n_buckets < (uint32_t)n_pages[g])
            group->n_buckets *= 2;
        group->entries = calloc((size_t)n_pages[g], sizeof *group->entries);
        group->buckets = malloc(group->n_buckets * sizeof *group->buckets);
        cache->found[g] = calloc((size_t)n_pages_seq, sizeof(int32_t));
        if (!group->entries || !group->buckets || !cache->found[g])
            goto fail;
        memset(group->buckets, 0xff, group->n_buckets * sizeof *group->buckets);
    }
    return true;
fail:
    prefix_cache_clear(cache);
    return err_set(err, ERR_MEMORY, "no memory for the prefix cache");
}

void prefix_cache_clear(struct prefix_cache *cache)
{
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        free(cache->groups[g].entries);
        free(cache->groups[g].buckets);
        free(cache->found[g]);
    }
    free(cache->names);
    *cache = (struct prefix_cache){ 0 };
}

struct page_name prefix_cache_name(const struct prefix_cache *cache, struct page_name parent,
                                   const struct page_kind *kind, const int32_t *tokens)
{
    struct {
        struct page_name parent;
        uint64_t salt;
        int32_t rope_variant, adapter;
        int32_t tokens[PAGE_TOKENS];
    } key = { parent, kind->salt, kind->rope_variant, kind->adapter, { 0 } };
    _Static_assert(sizeof key == 16 + 8 + 8 + 4 * PAGE_TOKENS, "no padding is hashed");
    memcpy(key.tokens, tokens, sizeof key.tokens);
    XXH128_hash_t hash =
        XXH3_128bits_withSecret(&key, sizeof key, cache->secret, sizeof cache->secret);
    struct page_name name = { hash.low64, hash.high64 };
    if (name.low == 0 && name.high == 0)
        name.low = 1; /* zero is the root's name */
    return name;
}

static bool name_equal(struct page_name a, struct page_name b)
{
    return a.low == b.low && a.high == b.high;
}

/* The page of group g that stands for exactly this, or -1. */
static int32_t find_page(const struct prefix_group *group, struct page_name name,
                         struct page_name parent, const struct page_kind *kind,
                         const int32_t *tokens)
{
    int32_t page = group->buckets[name.low & (group->n_buckets - 1)];
    for (; page >= 0; page = group->entries[page].next) {
        const struct page_entry *e = &group->entries[page];
        if (name_equal(e->name, name) && name_equal(e->parent, parent) &&
            e->kind.salt == kind->salt && e->kind.rope_variant == kind->rope_variant &&
            e->kind.adapter == kind->adapter && !memcmp(e->tokens, tokens, sizeof e->tokens))
            return page;
    }
    return -1;
}

bool prefix_cache_publish(struct prefix_cache *cache, int32_t g, int32_t page,
                          struct page_name parent, const struct page_kind *kind,
                          const int32_t *tokens)
{
    struct prefix_group *group = &cache->groups[g];
    CHECK(page >= 0 && page < group->n_pages);
    struct page_entry *e = &group->entries[page];
    CHECK(!e->named);
    struct page_name name = prefix_cache_name(cache, parent, kind, tokens);
    if (find_page(group, name, parent, kind, tokens) >= 0)
        return false;
    int32_t *bucket = &group->buckets[name.low & (group->n_buckets - 1)];
    *e = (struct page_entry){
        .name = name, .parent = parent, .kind = *kind, .next = *bucket, .named = true
    };
    memcpy(e->tokens, tokens, sizeof e->tokens);
    *bucket = page;
    cache->n_named[g]++;
    return true;
}

void prefix_cache_forget(struct prefix_cache *cache, int32_t g, int32_t page)
{
    struct prefix_group *group = &cache->groups[g];
    CHECK(page >= 0 && page < group->n_pages);
    struct page_entry *e = &group->entries[page];
    if (!e->named)
        return;
    int32_t *link = &group->buckets[e->name.low & (group->n_buckets - 1)];
    while (*link != page) {
        CHECK(*link >= 0);
        link = &group->entries[*link].next;
    }
    *link = e->next;
    e->named = false;
    cache->n_named[g]--;
}

bool prefix_cache_is_named(const struct prefix_cache *cache, int32_t g, int32_t page)
{
    return cache->groups[g].entries[page].named;
}

void prefix_cache_find(struct prefix_cache *cache, const struct page_kind *kind,
                       const int32_t *tokens, int32_t n_tokens, struct prefix_hit *hit)
{
    *hit = (struct prefix_hit){ 0 };
    for (int32_t g = 0; g < cache->n_groups; g++)
        hit->pages[g] = cache->found[g];
    int32_t n_pages = n_tokens > 0 ? (n_tokens - 1) / PAGE_TOKENS : 0;
    if (n_pages > cache->n_pages_seq)
        n_pages = cache->n_pages_seq;
    int32_t run[KV_GROUPS_MAX] = { 0 }; /* pages found in a row, up to this one */
    struct page_name parent = { 0 };
    bool more = true;
    for (int32_t i = 0; i < n_pages && more; i++) {
        const int32_t *page_tokens = tokens + (int64_t)i * PAGE_TOKENS;
        struct page_name name = prefix_cache_name(cache, parent, kind, page_tokens);
        bool usable = true; /* i + 1 pages are a hit */
        for (int32_t g = 0; g < cache->n_groups; g++) {
            const struct prefix_group *group = &cache->groups[g];
            int32_t page = find_page(group, name, parent, kind, page_tokens);
            cache->found[g][i] = page;
            run[g] = page >= 0 ? run[g] + 1 : 0;
            int32_t first = prefix_first_page(group->window, (i + 1) * PAGE_TOKENS);
            usable = usable && run[g] >= i + 1 - first;
            if (page < 0 && group->window == 0)
                more = false; /* a full group needs them all: nothing longer can hit */
        }
        cache->names[i] = name;
        if (usable)
            hit->n_pages = i + 1;
        parent = name;
    }
    if (hit->n_pages == 0)
        return;
    hit->name = cache->names[hit->n_pages - 1];
    for (int32_t g = 0; g < cache->n_groups; g++)
        hit->first[g] = prefix_first_page(cache->groups[g].window, hit->n_pages * PAGE_TOKENS);
}
