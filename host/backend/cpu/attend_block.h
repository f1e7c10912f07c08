/* attend_block.h - the body of attend_block_<isa>: included once by each kernel file, whose flags
 * choose the form of simd.h. The arithmetic and its order are stated in attend.h.
 *
 * A page is read in one of two ways, with equal bits: few queries take K as it is stored (dot
 * products along the features, then the tree over lanes); many take K transposed, so that the tree
 * runs over registers with a token in each lane, and the 300 cycles of transposing are shared. */
#pragma once
#include <stdbool.h>
#include "host/base/err.h"
#include "host/backend/cpu/attend_kernels.h"
#include "host/backend/cpu/simd.h"

static_assert((int)PAGE_TOKENS == (int)SIMD_LANES, "a token of a page is a lane");

#ifdef SIMD_PLAIN_C
#define ATTEND_PIECE SIMD_PLAIN
#else
#define ATTEND_PIECE SIMD_INLINE
#endif
enum {
#ifdef SIMD_PLAIN_C
    TILE = 1,
#else
    TILE = 4, /* queries at once: 4 x 4 sums fill 16 of 32 registers */
#endif
    TRANSPOSE_AT = 12 /* queries of a page from which transposing K pays */
};

/* K or V of a page: [16][stride] elements of dtype; behind int8 codes their 16 scales. */
struct attend_kv {
    const void *data;
    int64_t stride;
    enum dtype dtype;
};
SIMD_INLINE float kv_scale(struct attend_kv kv, int32_t t)
{
    return ((const float *)(const void *)((const int8_t *)kv.data + PAGE_TOKENS * kv.stride))[t];
}
/* Features d .. d + 15 of token t. */
SIMD_INLINE struct v16 kv_row(struct attend_kv kv, int32_t t, int32_t d, enum dtype dtype)
{
    if (dtype != DTYPE_I8)
        return v16_widen(kv.data, t * kv.stride + d, dtype);
    return v16_mul(v16_load_i8((const int8_t *)kv.data + t * kv.stride + d),
                   v16_set1(kv_scale(kv, t)));
}

/* scores of n <= TILE queries with the 16 tokens of a page, K as it is stored. */
ATTEND_PIECE void scores_along(const float *q, int32_t dim, int n, struct attend_kv k, float *s)
{
    struct v16 folded[TILE][4];
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        struct v16 sum[TILE][4];
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++)
                sum[i][t] = v16_set1(0.0f);
        for (int32_t d = 0; d < dim; d += SIMD_LANES) {
            struct v16 x[TILE];
#pragma GCC unroll 4
            for (int i = 0; i < n; i++)
                x[i] = v16_load(q + (int64_t)i * dim + d);
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++) {
                struct v16 row = kv_row(k, 4 * g + t, d, k.dtype);
#pragma GCC unroll 4
                for (int i = 0; i < n; i++)
                    sum[i][t] = v16_fma(x[i], row, sum[i][t]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            folded[i][g] = v16_fold4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        v16_store(s + i * SIMD_LANES,
                  v16_fold16(folded[i][0], folded[i][1], folded[i][2], folded[i][3]));
}

/* The partial sum of features = j mod 16, a token in each lane, for n queries. */
ATTEND_PIECE void partial_across(const float *q, int32_t dim, int n, const float *kt, int j,
                                 struct v16 out[TILE])
{
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        out[i] = v16_set1(0.0f);
#pragma GCC unroll 8
    for (int32_t d = j; d < dim; d += SIMD_LANES) {
        struct v16 k = v16_load(kt + (int64_t)d * SIMD_LANES);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            out[i] = v16_fma(v16_set1(q[(int64_t)i * dim + d]), k, out[i]);
    }
}
/* As scores_along, K transposed: kt[feature][token]. */
ATTEND_PIECE void scores_across(const float *q, int32_t dim, int n, const float *kt, float *s)
{
    struct v16 f[4][TILE], b[TILE], c[TILE], e[TILE];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        partial_across(q, dim, n, kt, k, f[k]);
        partial_across(q, dim, n, kt, k + 8, b);
        partial_across(q, dim, n, kt, k + 4, c);
        partial_across(q, dim, n, kt, k + 12, e);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            f[k][i] = v16_add(v16_add(f[k][i], b[i]), v16_add(c[i], e[i]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        v16_store(s + i * SIMD_LANES,
                  v16_add(v16_add(f[0][i], f[2][i]), v16_add(f[1][i], f[3][i])));
}

/* o[i][d..d + 16 w) += sum over tokens from..to-1 of p[i][t] v[t], for n queries. */
ATTEND_PIECE void values_strip(float *o, int32_t dim, int n, int w, int32_t d, const float *p,
                               struct attend_kv v, int from, int to)
{
    struct v16 sum[TILE][4];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int c = 0; c < w; c++)
            sum[i][c] = v16_load(o + (int64_t)i * dim + d + c * SIMD_LANES);
    for (int t = from; t < to; t++) {
        struct v16 row[4];
#pragma GCC unroll 4
        for (int c = 0; c < w; c++)
            row[c] = kv_row(v, t, d + c * SIMD_LANES, v.dtype);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            struct v16 weight = v16_set1(p[i * SIMD_LANES + t]);
#pragma GCC unroll 4
            for (int c = 0; c < w; c++)
                sum[i][c] = v16_fma(weight, row[c], sum[i][c]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int c = 0; c < w; c++)
            v16_store(o + (int64_t)i * dim + d + c * SIMD_LANES, sum[i][c]);
}
ATTEND_PIECE void values_add(float *o, int32_t dim, int n, const float *p, struct attend_kv v,
                             int from, int to)
{
    int32_t d = 0;
    for (; d + 4 * SIMD_LANES <= dim; d += 4 * SIMD_LANES)
        values_strip(o, dim, n, 4, d, p, v, from, to);
    for (; d < dim; d += SIMD_LANES)
        values_strip(o, dim, n, 1, d, p, v, from, to);
}

/* Instances: 4, 2 or 1 queries, K and V as floats, BF16 or int8, and for the transposed form the
 * two usual widths unrolled. Calls, so that the file compiles in seconds. */
#define ATTEND_INSTANCE static __attribute__((noinline))
#define ATTEND_INSTANCES(n, name, dtype)                                                           \
    ATTEND_INSTANCE void along_##n##name(const float *q, int32_t dim, struct attend_kv k,          \
                                         float *s)                                                 \
    {                                                                                              \
        scores_along(q, dim, n, (struct attend_kv){ k.data, k.stride, dtype }, s);                 \
    }                                                                                              \
    ATTEND_INSTANCE void values_##n##name(float *o, int32_t dim, const float *p,                   \
                                          struct attend_kv v, int from, int to)                    \
    {                                                                                              \
        values_add(o, dim, n, p, (struct attend_kv){ v.data, v.stride, dtype }, from, to);         \
    }
#define ATTEND_ACROSS(n)                                                                           \
    ATTEND_INSTANCE void across_##n(const float *q, int32_t dim, const float *kt, float *s)        \
    {                                                                                              \
        if (dim == 64)                                                                             \
            scores_across(q, 64, n, kt, s);                                                        \
        else if (dim == 128)                                                                       \
            scores_across(q, 128, n, kt, s);                                                       \
        else                                                                                       \
            scores_across(q, dim, n, kt, s);                                                       \
    }
ATTEND_INSTANCES(1, f32, DTYPE_F32)
ATTEND_INSTANCES(1, bf16, DTYPE_BF16)
ATTEND_INSTANCES(1, i8, DTYPE_I8)
ATTEND_ACROSS(1)
#ifndef SIMD_PLAIN_C
ATTEND_INSTANCES(2, f32, DTYPE_F32)
ATTEND_INSTANCES(2, bf16, DTYPE_BF16)
ATTEND_INSTANCES(2, i8, DTYPE_I8)
ATTEND_ACROSS(2)
ATTEND_INSTANCES(4, f32, DTYPE_F32)
ATTEND_INSTANCES(4, bf16, DTYPE_BF16)
ATTEND_INSTANCES(4, i8, DTYPE_I8)
ATTEND_ACROSS(4)
#endif

enum form { FORM_F32, FORM_BF16, FORM_I8, FORMS };
SIMD_INLINE enum form form_of(enum dtype dtype)
{
    return dtype == DTYPE_BF16 ? FORM_BF16 : dtype == DTYPE_I8 ? FORM_I8 : FORM_F32;
}
struct attend_tile {
    int n;
    void (*along[FORMS])(const float *q, int32_t dim, struct attend_kv k, float *s);
    void (*across)(const float *q, int32_t dim, const float *kt, float *s);
    void (*values[FORMS])(float *o, int32_t dim, const float *p, struct attend_kv v, int from,
                          int to);
};
#define ATTEND_TILE(n)                                                                             \
    {                                                                                              \
        n, { along_##n##f32, along_##n##bf16, along_##n##i8 }, across_##n,                         \
        {                                                                                          \
            values_##n##f32, values_##n##bf16, values_##n##i8                                      \
        }                                                                                          \
    }
static const struct attend_tile attend_tiles[] = {
#ifndef SIMD_PLAIN_C
    ATTEND_TILE(4), ATTEND_TILE(2),
#endif
    ATTEND_TILE(1)
};

/* Scores to weights for one query; rescales its sums when the greatest score has risen. */
ATTEND_PIECE void soften(float *s, float *l, float *m, float *o, int32_t dim, float soft_cap,
                         uint32_t seen)
{
    struct v16 x = v16_load(s);
    if (soft_cap > 0)
        x = v16_mul(v16_tanh(v16_div(x, v16_set1(soft_cap))), v16_set1(soft_cap));
    x = v16_keep(seen, x, v16_set1(-INFINITY));
    struct v16 sum = v16_load(l);
    float top = v16_greatest(x);
    if (top > *m) {
        struct v16 shrink = v16_exp(v16_set1(*m - top));
        sum = v16_mul(sum, shrink);
        for (int32_t d = 0; d < dim; d += SIMD_LANES)
            v16_store(o + d, v16_mul(v16_load(o + d), shrink));
        *m = top;
    }
    struct v16 p = v16_exp(v16_sub(x, v16_set1(*m)));
    v16_store(l, v16_add(sum, p));
    v16_store(s, p);
}

/* Tokens [from, to) of page `page` that position p sees. */
SIMD_INLINE void tokens_seen(int32_t p, int32_t window, int32_t page, int *from, int *to)
{
    int32_t base = page * PAGE_TOKENS;
    int32_t first = window && p - window + 1 > base ? p - window + 1 - base : 0;
    *from = first;
    *to = p - base + 1 < PAGE_TOKENS ? p - base + 1 : PAGE_TOKENS;
}

struct attend_page {
    struct attend_kv k, v;
    const float *kt; /* K transposed, or NULL: use k */
    int32_t page;
};

/* The queries of a tile, the first being the q0-th of the block, against one page. */
static void tile_step(const struct attend_block *b, const struct attend_room *room,
                      const struct attend_page *pg, int32_t dim, const struct attend_tile *tile,
                      int32_t q0)
{
    const struct attend_tile *one = &attend_tiles[sizeof attend_tiles / sizeof *attend_tiles - 1];
    float *s = room->s + q0 * SIMD_LANES, *o = room->o + (int64_t)q0 * dim;
    const float *q = room->q + (int64_t)q0 * dim;
    if (pg->kt)
        tile->across(q, dim, pg->kt, s);
    else
        tile->along[form_of(pg->k.dtype)](q, dim, pg->k, s);
    int from[TILE] = { 0 }, to[TILE] = { 0 };
    bool alike = true;
    for (int i = 0; i < tile->n; i++) {
        int32_t row = (q0 + i) / b->n_heads;
        tokens_seen(b->position + row, b->window, pg->page, &from[i], &to[i]);
        alike = alike && from[i] == from[0] && to[i] == to[0];
        uint32_t seen = (0xffffu >> (PAGE_TOKENS - to[i])) & (0xffffu << from[i]);
        soften(s + i * SIMD_LANES, room->l + (q0 + i) * SIMD_LANES, room->m + q0 + i,
               o + (int64_t)i * dim, dim, b->soft_cap, seen);
    }
    /* Tokens out of view are left out, not multiplied by 0: their values may be anything. */
    const enum form form = form_of(pg->v.dtype);
    if (alike) {
        tile->values[form](o, dim, s, pg->v, from[0], to[0]);
        return;
    }
    for (int i = 0; i < tile->n; i++)
        one->values[form](o + (int64_t)i * dim, dim, s + i * SIMD_LANES, pg->v, from[i], to[i]);
}

/* Queries [q0, q1) against one page. */
static void page_step(const struct attend_block *b, const struct attend_room *room,
                      const struct attend_page *pg, int32_t dim, int32_t q0, int32_t q1)
{
    for (const struct attend_tile *tile = attend_tiles; q0 < q1; tile++)
        for (; q0 + tile->n <= q1; q0 += tile->n)
            tile_step(b, room, pg, dim, tile, q0);
}

/* A page as floats at `to`, rows padded with zeros to dim. */
static struct attend_kv page_widen(float *to, struct attend_kv from, int32_t head_dim, int32_t dim)
{
    for (int32_t t = 0; t < PAGE_TOKENS; t++) {
        float *row = to + (int64_t)t * dim;
        const size_t at = (size_t)t * (size_t)from.stride * dtype_bytes(from.dtype);
        int32_t d = 0;
        for (; d + SIMD_LANES <= head_dim; d += SIMD_LANES)
            v16_store(row + d, kv_row(from, t, d, from.dtype));
        if (d < dim) {
            memset(row + d, 0, (size_t)(dim - d) * sizeof *row);
            half_widen(row + d,
                       (const uint8_t *)from.data + at + (size_t)d * dtype_bytes(from.dtype),
                       from.dtype, (size_t)(head_dim - d));
            for (int32_t i = d; from.dtype == DTYPE_I8 && i < head_dim; i++)
                row[i] *= kv_scale(from, t);
        }
    }
    return (struct attend_kv){ to, dim, DTYPE_F32 };
}
/* K with a token in each lane: kt[feature][token]. */
ATTEND_PIECE void page_transpose(float *kt, struct attend_kv k, int32_t dim, enum dtype dtype)
{
    for (int32_t d = 0; d < dim; d += SIMD_LANES) {
        struct v16 rows[SIMD_LANES];
#pragma GCC unroll 16
        for (int t = 0; t < SIMD_LANES; t++)
            rows[t] = kv_row(k, t, d, dtype);
        v16_store_transposed(kt + (int64_t)d * SIMD_LANES, rows);
    }
}
static void block_start(const struct attend_block *b, const struct attend_room *room, int32_t dim)
{
    for (int32_t i = 0; i < b->n_rows * b->n_heads; i++) {
        const int32_t head = i % b->n_heads;
        const float *from = b->q + i / b->n_heads * b->q_stride + (int64_t)head * b->head_dim;
        float *q = room->q + (int64_t)i * dim;
        for (int32_t d = 0; d < dim; d++)
            q[d] = d < b->head_dim ? from[d] * b->scale : 0.0f;
        memset(room->o + (int64_t)i * dim, 0, (size_t)dim * sizeof(float));
        memset(room->l + i * SIMD_LANES, 0, SIMD_LANES * sizeof(float));
        room->m[i] = b->sinks ? b->sinks[head] : -INFINITY;
        if (b->sinks)
            room->l[i * SIMD_LANES] = 1.0f;
    }
}
static void block_end(const struct attend_block *b, const struct attend_room *room, int32_t dim)
{
    for (int32_t i = 0; i < b->n_rows * b->n_heads; i++) {
        float *y = b->y + i / b->n_heads * b->y_stride + (int64_t)(i % b->n_heads) * b->head_dim;
        const float *o = room->o + (int64_t)i * dim;
        const float l = v16_sum(v16_load(room->l + i * SIMD_LANES));
        for (int32_t d = 0; d < b->head_dim; d++)
            y[d] = o[d] / l;
    }
}

/* Rows [first, last] of the block that see any token of the page. */
static void rows_of_page(const struct attend_block *b, int32_t page, int32_t *first, int32_t *last)
{
    int32_t from = page * PAGE_TOKENS - b->position;
    int32_t to = b->n_rows - 1;
    if (b->window && (int64_t)page * PAGE_TOKENS + PAGE_TOKENS - 2 + b->window - b->position < to)
        to = page * PAGE_TOKENS + PAGE_TOKENS - 2 + b->window - b->position;
    *first = from > 0 ? from : 0;
    *last = to;
}

/* Asks for K (or V) of a later page: two streams in pieces of 2 KB are more than the hardware
 * follows. */
SIMD_INLINE void page_prefetch(const struct attend_block *b, const uint8_t *from, int32_t page)
{
    const int32_t id = b->pages[page];
    if (id < 0 || id >= b->n_pages)
        return;
    const size_t bytes = (size_t)kv_block_bytes(b->dtype, b->head_dim);
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(from + (size_t)id * b->page_bytes + i);
}

static void block_pages(const struct attend_block *b, const struct attend_room *room, int32_t dim)
{
    const int32_t start = b->window && b->position - b->window + 1 > 0
                              ? (b->position - b->window + 1) / PAGE_TOKENS
                              : 0;
    const int32_t end = (b->position + b->n_rows - 1) / PAGE_TOKENS;
    for (int32_t page = start; page <= end; page++) {
        const int32_t id = b->pages[page];
        CHECK(id >= 0 && id < b->n_pages);
        const size_t at = (size_t)id * b->page_bytes;
        struct attend_page pg = {
            .k = { b->k + at, b->head_dim, b->dtype },
            .v = { b->v + at, b->head_dim, b->dtype },
            .page = page,
        };
        int32_t first, last;
        rows_of_page(b, page, &first, &last);
        const int32_t n = (last - first + 1) * b->n_heads;
        const bool many = n >= TRANSPOSE_AT;
        if (page < end)
            page_prefetch(b, b->k, page + 1);
        /* Floats are read in place where rows need no padding; so are BF16 and int8 by few
         * queries. */
        const bool in_place = dim == b->head_dim && b->dtype != DTYPE_F16;
        if (!in_place || (many && b->dtype != DTYPE_F32))
            pg.v = page_widen(room->v, pg.v, b->head_dim, dim);
        if (!in_place)
            pg.k = page_widen(room->pad, pg.k, b->head_dim, dim);
        if (many) {
            switch (form_of(pg.k.dtype)) {
            case FORM_BF16:
                page_transpose(room->k, pg.k, dim, DTYPE_BF16);
                break;
            case FORM_I8:
                page_transpose(room->k, pg.k, dim, DTYPE_I8);
                break;
            default:
                page_transpose(room->k, pg.k, dim, DTYPE_F32);
                break;
            }
            pg.kt = room->k;
        }
        if (page < end)
            page_prefetch(b, b->v, page + 1);
        const int32_t q0 = first * b->n_heads, q1 = (last + 1) * b->n_heads;
        page_step(b, room, &pg, dim, q0, q1);
    }
}

/* The name of the kernel file's one function. */
static void attend_block_any(const struct attend_block *b, const struct attend_room *room)
{
    const int32_t dim = (b->head_dim + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES;
    CHECK(b->n_rows > 0 && b->n_rows * b->n_heads <= ATTEND_BLOCK);
    block_start(b, room, dim);
    block_pages(b, room, dim);
    block_end(b, room, dim);
}
