/* kv_pool.h - KV pages, handed out and taken back.
 *
 * Every group has its own pages, and one page table per slot (a slot is the place of a sequence
 * that is being worked on). Table entries [first, end) hold a page each; what is before `first` has
 * left the window, what is from `end` on was never computed.
 *
 * Invariant: a page is free, perhaps still findable in the prefix cache, or held by as many table
 * entries as its count says; never both. kv_pool_check proves it.
 *
 * The free list is in order of reuse: pages without a name first, then the longest free first. All
 * operations are O(pages touched). Thread: engine only. Allocates in init, never later. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/kv_layout.h"
#include "host/base/err.h"
#include "host/engine/prefix_cache.h"

struct kv_page {
    int32_t refs;       /* table entries that hold it */
    int32_t prev, next; /* in the free list, -1 at its ends */
};
struct kv_span {
    int32_t first, end;
};
struct kv_pool_group {
    int32_t window, n_pages, n_free;
    int32_t oldest, newest; /* ends of the free list: next to be reused, last */
    struct kv_page *pages;  /* [n_pages] */
    int32_t *tables;        /* [n_slots][n_pages_seq], valid inside the slot's span */
    struct kv_span *spans;  /* [n_slots] */
};
struct kv_pool {
    int32_t n_groups, n_slots, n_pages_seq;
    struct kv_pool_group groups[KV_GROUPS_MAX];
    struct prefix_cache *cache; /* borrowed; NULL: no prefix cache */
    int32_t *counts;            /* scratch of kv_pool_check */
};

/* n_pages_seq: pages of the longest sequence. */
MUST_USE bool kv_pool_init(struct kv_pool *pool, int32_t n_groups, const int32_t *windows,
                           const int32_t *n_pages, int32_t n_slots, int32_t n_pages_seq,
                           struct prefix_cache *cache, struct err *err);
void kv_pool_clear(struct kv_pool *pool);

/* Tokens that the slot could hold in all with the pages that are free now. */
int32_t kv_pool_reach(const struct kv_pool *pool, int32_t slot);
/* Make room in every group for n_tokens tokens in all. Nothing changes on false. */
MUST_USE bool kv_pool_grow(struct kv_pool *pool, int32_t slot, int32_t n_tokens);
/* Take the pages of a hit into an empty slot. Always possible: they are held or free. */
void kv_pool_adopt(struct kv_pool *pool, int32_t slot, const struct prefix_hit *hit);
/* Whether a sequence of n_tokens tokens could start from `hit` and leave `spare` pages free in
 * every group. A window group is asked for what its window and one token need, not for more. */
bool kv_pool_fits(const struct kv_pool *pool, const struct prefix_hit *hit, int32_t n_tokens,
                  int32_t spare);
/* Whether a sequence that computes n_tokens positions can ever run, alone in the whole pool; else
 * *g and *wanted (pages) say what is missing. */
bool kv_pool_can_hold(const struct kv_pool *pool, int32_t n_tokens, int32_t *g, int32_t *wanted);
/* Give back what a token at `position` and those after it no longer see. */
void kv_pool_trim(struct kv_pool *pool, int32_t slot, int32_t position);
/* Give back everything; the slot is empty. The deepest page goes first, so it is reused first. */
void kv_pool_drop(struct kv_pool *pool, int32_t slot);
bool kv_pool_is_empty(const struct kv_pool *pool, int32_t slot);
/* Page id, or -1 outside the span. */
static inline int32_t kv_pool_page(const struct kv_pool *pool, int32_t g, int32_t slot,
                                   int32_t index)
{
    const struct kv_pool_group *group = &pool->groups[g];
    if (index < group->spans[slot].first || index >= group->spans[slot].end)
        return -1;
    return group->tables[(int64_t)slot * pool->n_pages_seq + index];
}
/* Walks everything. False says what is wrong; for tests, O(all pages and tables). */
MUST_USE bool kv_pool_check(const struct kv_pool *pool, struct err *err);
