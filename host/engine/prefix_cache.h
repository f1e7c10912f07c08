/* prefix_cache.h - finding pages whose keys and values are known already.
 *
 * The rule, stated once:
 *   - A page that is full has a name: XXH3-128, keyed with a secret of this process, of (name of
 *     the page before it, rope variant, adapter, salt, its 16 tokens). The name of a page therefore
 *     stands for the whole prefix up to its end. The first page's parent is the root name, zero.
 *   - A name is never trusted alone: parent, variant, adapter, salt and tokens are kept beside the
 *     page and compared before it is used.
 *   - Only full pages are named, only after the step that computed them was committed. When two
 *     sequences computed the same page, the first to commit names it, the other stays private.
 *   - A hit leaves at least one token to compute, and never inside a shared page: of n tokens at
 *     most (n - 1) / 16 pages are taken. So a shared page is never written.
 *   - A hit of h pages needs, in a full group, pages 0..h-1; in a group with window w the pages
 *     that the next token (position 16 h) sees: from (16 h - w + 1) / 16 on, no others.
 *   - A page that nobody holds stays findable until kv_pool reuses it, the longest free first.
 *
 * Groups have pages of their own; the same name is looked up in each. Thread: engine only.
 * Allocates in init, never later. Knows nothing of who holds a page: that is kv_pool's. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/kv_layout.h"
#include "host/base/err.h"

struct page_name {
    uint64_t low, high;
};
/* What cached keys depend on besides the tokens. */
struct page_kind {
    uint64_t salt; /* tenant */
    int32_t rope_variant, adapter;
};
/* Everything that a name is made of. */
struct page_entry {
    struct page_name name, parent;
    struct page_kind kind;
    int32_t tokens[PAGE_TOKENS];
    int32_t next; /* page in the same bucket, -1: none */
    bool named;
};
struct prefix_group {
    int32_t window, n_pages;
    struct page_entry *entries; /* [n_pages] */
    int32_t *buckets;           /* [n_buckets] first page or -1 */
    uint32_t n_buckets;         /* a power of two */
};
/* What a lookup found. Pages [first[g], n_pages) of group g; scratch of the cache, valid until the
 * next lookup. */
struct prefix_hit {
    int32_t n_pages;
    struct page_name name; /* of page n_pages - 1; the root when n_pages is 0 */
    int32_t first[KV_GROUPS_MAX];
    const int32_t *pages[KV_GROUPS_MAX]; /* by absolute page index */
};
struct prefix_cache {
    int32_t n_groups, n_pages_seq; /* pages of the longest sequence */
    struct prefix_group groups[KV_GROUPS_MAX];
    struct page_name *names;        /* [n_pages_seq] scratch of a lookup */
    int32_t *found[KV_GROUPS_MAX];  /* [n_pages_seq] likewise */
    uint8_t secret[192];            /* at least XXH3_SECRET_SIZE_MIN = 136 */
    int32_t n_named[KV_GROUPS_MAX]; /* for statistics and tests */
};

MUST_USE bool prefix_cache_init(struct prefix_cache *cache, int32_t n_groups,
                                const int32_t *windows, const int32_t *n_pages, int32_t n_pages_seq,
                                struct err *err);
void prefix_cache_clear(struct prefix_cache *cache);

/* The name of the page with these 16 tokens behind `parent`. */
struct page_name prefix_cache_name(const struct prefix_cache *cache, struct page_name parent,
                                   const struct page_kind *kind, const int32_t *tokens);
/* Name a page. False, and nothing changes, when another page of the group has this name. */
bool prefix_cache_publish(struct prefix_cache *cache, int32_t g, int32_t page,
                          struct page_name parent, const struct page_kind *kind,
                          const int32_t *tokens);
/* The page will be overwritten. Does nothing when it has no name. */
void prefix_cache_forget(struct prefix_cache *cache, int32_t g, int32_t page);
bool prefix_cache_is_named(const struct prefix_cache *cache, int32_t g, int32_t page);
/* The longest usable hit for a sequence whose first n_tokens tokens are these. */
void prefix_cache_find(struct prefix_cache *cache, const struct page_kind *kind,
                       const int32_t *tokens, int32_t n_tokens, struct prefix_hit *hit);
/* First page that a token at `position` sees in a group with this window (0: full). */
static inline int32_t prefix_first_page(int32_t window, int32_t position)
{
    return window == 0 || position < window ? 0 : (position - window + 1) / PAGE_TOKENS;
}
