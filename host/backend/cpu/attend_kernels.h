/* attend_kernels.h - what attend.c asks of a kernel file: one block of rows of one KV head. */
#pragma once
#include <stdint.h>
#include "host/base/dtype.h"
#include "host/backend/kv_layout.h"

enum {
    /* (row, head) pairs of a block: at 64 features q and o take 16 KB each, next to 8 KB of one
     * widened page. One run each on a busy Xeon (48 KB of L1), prefill: 32 pairs 4 to 10 % slower,
     * 128 pairs 1 to 5 % faster, with runs 8 % apart; 128 is too many for an L1 of 32 KB. */
    ATTEND_BLOCK = 64,
};

struct attend_block {
    const float *q; /* first row, first head of the block; heads of a row are adjacent */
    float *y;       /* likewise */
    int64_t q_stride, y_stride;        /* floats between rows */
    int32_t n_rows, n_heads, head_dim; /* n_rows * n_heads <= ATTEND_BLOCK */
    int32_t position;                  /* of the first row; the others follow */
    int32_t window;                    /* 0: none */
    float scale, soft_cap;
    const float *sinks;   /* [n_heads] or NULL */
    const int32_t *pages; /* the sequence's table, by absolute page */
    int32_t n_pages;      /* page ids are below */
    const uint8_t *k, *v; /* this layer and KV head in page 0: a block of kv_layout.h */
    size_t page_bytes;    /* between page ids */
    enum dtype dtype;
};
/* Scratch of one thread, all 64-byte aligned; head_dim is rounded up to `dim`, a multiple of 16. */
struct attend_room {
    float *q, *o; /* [ATTEND_BLOCK][dim]: scaled queries; sums */
    float *s, *l; /* [ATTEND_BLOCK][16]: scores, then weights; sums of weights */
    float *m;     /* [ATTEND_BLOCK] greatest score so far */
    float *k;     /* [dim][16]: K of a page, a token in each lane */
    float *v;     /* [16][dim]: V of a page as floats */
    float *pad;   /* [16][dim]: K of a page as floats, where rows need padding */
};
typedef void attend_fn(const struct attend_block *block, const struct attend_room *room);
attend_fn attend_block_portable, attend_block_avx2, attend_block_avx512;
