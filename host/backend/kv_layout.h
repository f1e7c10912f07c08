/* kv_layout.h - where keys and values live: the one drawing and the one address formula.
 *
 * A KV group is the set of layers that look back equally far. A sequence has one page table per
 * group; a page of group g holds 16 tokens of EVERY layer of g:
 *
 *   group memory   [n_layers][n_pages][2][n_kv_heads][16][head_dim]      element: F32, F16 or BF16
 *                   layer     page    K,V   head     token  feature
 *
 * Position p of a sequence is in its page p / 16 (absolute: window groups keep the numbering and
 * give early pages back), at token p % 16. */
#pragma once
#include <stdint.h>
#include <stddef.h>
#include "host/base/dtype.h"
#include "host/base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

/* 16: vLLM's block size and what prefix-routing indexes expect; half an MMA tile of tokens. */
enum { PAGE_TOKENS = 16, KV_GROUPS_MAX = 4 };

struct kv_group {
    int32_t window;   /* a token sees itself and window - 1 before it; 0: everything */
    int32_t n_layers; /* layers in this group */
    int32_t n_pages;  /* pages of the group's memory */
    void *memory;     /* backend memory, kv_group_bytes; NULL before kv_cache_reserve */
};
struct kv_cache {
    int32_t n_groups;
    struct kv_group groups[KV_GROUPS_MAX];
    int32_t n_kv_heads, head_dim;
    enum dtype dtype;
};
/* Bytes of one page of group g (all its layers). */
static inline size_t kv_page_bytes(const struct kv_cache *kv, int32_t g)
{
    return (size_t)kv->groups[g].n_layers * 2 * (size_t)kv->n_kv_heads * PAGE_TOKENS *
           (size_t)kv->head_dim * dtype_bytes(kv->dtype);
}
/* Element offset of K (which = 0) or V (1) of a head in a page: a [16][head_dim] block. */
static inline size_t kv_offset(const struct kv_cache *kv, int32_t g, int32_t layer, int32_t page,
                               int32_t which, int32_t kv_head)
{
    const struct kv_group *group = &kv->groups[g];
    CHECK(layer >= 0 && layer < group->n_layers && page >= 0 && page < group->n_pages);
    size_t block = (((size_t)layer * (size_t)group->n_pages + (size_t)page) * 2 + (size_t)which) *
                       (size_t)kv->n_kv_heads +
                   (size_t)kv_head;
    return block * PAGE_TOKENS * (size_t)kv->head_dim;
}
static inline int32_t kv_pages_for(int64_t n_tokens)
{
    return (int32_t)((n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS);
}
#ifdef __cplusplus
}
#endif
