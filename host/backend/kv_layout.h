/* kv_layout.h - where keys and values live: the one drawing and the one address formula.
 *
 * A KV group is the set of layers that look back equally far. A sequence has one page table per
 * group; a page of group g holds 16 tokens of EVERY layer of g:
 *
 *   group memory   [n_layers][n_pages][2][n_kv_heads] block
 *                   layer     page    K,V   head
 *
 *   block, F32, F16, BF16   [16][head_dim] elements                     token, feature
 *   block, I8               [16][head_dim] codes, then [16] F32 scales  (head_dim + 4) 16 bytes
 *
 *     code   c0,0 c0,1 ..   token 0        value = code * scale[token]
 *            c1,0 c1,1 ..   token 1        scale = max |feature| / 127 of the token's head, as
 *            ..                            fp32; codes -127..127, rounded to nearest even
 *            s0 s1 .. s15
 *
 *   A token's scale is written with its codes and never again: what a page holds does not depend on
 *   who else wrote it or when. Scales lie behind the codes, not among them, so that rows of codes
 *   stay whole 16-byte chunks, and a block starts at a multiple of 64 bytes where head_dim is one
 *   of 4. A scale for 16 tokens together would save 3 % and need codes to be rewritten.
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
enum { PAGE_TOKENS = 16, KV_GROUPS_MAX = 4, KV_SCALE_BYTES = 4 };

/* A head of int8 whose largest feature is below this is stored as zeros with the scale 0. */
#define KV_TINY 0x1p-100f

/* Kernels use the same two formulas. */
#ifdef __CUDACC__
#define KV_DEVICE_TOO static inline __host__ __device__
#else
#define KV_DEVICE_TOO static inline
#endif

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
/* Bytes of the 16 tokens of one head, K or V. Types are those above. */
KV_DEVICE_TOO int32_t kv_block_bytes(enum dtype dtype, int32_t head_dim)
{
    return PAGE_TOKENS * (dtype == DTYPE_I8 ? head_dim + KV_SCALE_BYTES
                                            : head_dim * (dtype == DTYPE_F32 ? 4 : 2));
}
/* Blocks before K (which = 0) or V (1) of a head of a page, from the layer's first page on. */
KV_DEVICE_TOO int64_t kv_block_index(int32_t n_kv_heads, int32_t page, int32_t which,
                                     int32_t kv_head)
{
    return ((int64_t)page * 2 + which) * n_kv_heads + kv_head;
}
/* Bytes of one page of group g (all its layers). */
static inline size_t kv_page_bytes(const struct kv_cache *kv, int32_t g)
{
    return (size_t)kv->groups[g].n_layers * 2 * (size_t)kv->n_kv_heads *
           (size_t)kv_block_bytes(kv->dtype, kv->head_dim);
}
/* Bytes from the group's memory to the block of K (which = 0) or V (1) of a head in a page. */
static inline size_t kv_offset(const struct kv_cache *kv, int32_t g, int32_t layer, int32_t page,
                               int32_t which, int32_t kv_head)
{
    const struct kv_group *group = &kv->groups[g];
    CHECK(layer >= 0 && layer < group->n_layers && page >= 0 && page < group->n_pages);
    const size_t layer_blocks = (size_t)group->n_pages * 2 * (size_t)kv->n_kv_heads;
    return ((size_t)layer * layer_blocks +
            (size_t)kv_block_index(kv->n_kv_heads, page, which, kv_head)) *
           (size_t)kv_block_bytes(kv->dtype, kv->head_dim);
}
static inline int32_t kv_pages_for(int64_t n_tokens)
{
    return (int32_t)((n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS);
}
#ifdef __cplusplus
}
#endif
