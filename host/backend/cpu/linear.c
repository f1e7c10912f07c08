/* linear.c - y = W x on the CPU: who does what with which kernel.
 *
 * Decides: which parts share their quantized activations, and which output rows each thread takes
 * (one contiguous range a part, so that weights stream once and in order; the inputs are never
 * split). The arithmetic is in linear_<isa>.c. Called by the CPU backend, one thread at a time;
 * allocates in linear_scratch_open only. */
#include "host/backend/cpu/linear.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/backend/cpu/acts.h"
#include "host/backend/cpu/linear_kernels.h"
#include "host/base/half.h"

static_assert((int)LINEAR_CHUNK == (int)LAYOUT_CHUNK, "one chunk");
static_assert((int)LINEAR_TILE_ROWS == (int)LAYOUT_TILE_ROWS, "one tile");
static_assert((int)LINEAR_CHUNK == (int)ACT_FP8_GROUP, "a scale of FP8 blocks a chunk");

/* Up to this many inputs in all the caller quantizes alone: handing rows to another thread costs
 * 1-2 us, quantizing 2048 inputs 0.3 us. */
enum { ALONE_INPUTS = 16384 };

struct linear_scratch {
    enum cpu_isa isa;
    const struct linear_kernels *kernels;
    const struct acts *acts;
    bool bf16; /* E4M3 by vdpbf16ps */
    int32_t n_threads, rows_max, n_in_max;
    int64_t row_bytes_max; /* of a quantized row */
    int32_t n_chunks_max;
    uint8_t *lengths; /* [n_chunks_max] inputs of each chunk, of the weight at work */
    uint8_t *octs;    /* [n_chunks_max] */
    int8_t *q;        /* [rows_max][row_bytes_max], as linear_quantized says */
    float *scale;     /* [LINEAR_SPLIT * rows_max][n_chunks_max] */
    int32_t *sum;     /* [LINEAR_SPLIT * rows_max][n_chunks_max] */
    int32_t *sub_sum; /* [LINEAR_SPLIT * rows_max][sub_sums_max] */
    float *sub_scale; /* [rows_max][sub_sums_max] */
    int32_t sub_sums_max;
    float *ordered;      /* [rows_max][n_in_max] inputs by scheme, in activation order */
    uint8_t *threads;    /* [n_threads][thread_bytes] */
    size_t thread_bytes; /* LINEAR_THREAD_BYTES, then LINEAR_WIDEN_ROWS * n_in_max floats: rows
                            of codes, widened; before that a row of x on its way */
};

static size_t pad64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}
/* n * size bytes at a 64-byte border; pages are not touched before they are used. */
static void *take(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - 64)
        return NULL;
    return aligned_alloc(64, pad64(bytes ? bytes : 1));
}

static const struct linear_kernels *kernels_of(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AVX512:
        return &linear_avx512;
    case CPU_ISA_AVX2:
        return &linear_avx2;
    default:
        return &linear_portable;
    }
}

bool linear_scratch_open(struct linear_scratch **scratch, enum cpu_isa isa, int32_t n_threads,
                         int32_t rows_max, int32_t n_in_max, struct err *err)
{
    CHECK(n_threads > 0 && rows_max > 0 && n_in_max > 0 && n_in_max <= INT32_MAX / 4);
    struct linear_scratch *s = calloc(1, sizeof *s);
    *scratch = s;
    if (!s)
        goto fail;
    s->isa = cpu_isa_resolve(isa);
    s->kernels = kernels_of(s->isa);
    s->acts = acts_of(s->isa);
    s->n_threads = n_threads;
    s->rows_max = rows_max;
    s->n_in_max = n_in_max;
    /* Groups of 9 inputs are padded to 16: never more than twice the inputs, or to a unit; bf16 is
     * two bytes of whole units. */
    s->row_bytes_max = 2 * ((int64_t)n_in_max + LAYOUT_UNIT);
    s->sub_sums_max = ((n_in_max - 1) / LINEAR_CHUNK + 1) * LAYOUT_SUBS_MAX;
    s->n_chunks_max = n_in_max / LAYOUT_GROUP_MIN + 1;
    const size_t rows = LINEAR_SPLIT * (size_t)rows_max, chunks = (size_t)s->n_chunks_max;
    s->thread_bytes = pad64((size_t)LINEAR_THREAD_BYTES) +
                      pad64((size_t)LINEAR_WIDEN_ROWS * (size_t)n_in_max * sizeof(float));
    s->lengths = take(chunks, 1);
    s->octs = take(chunks, 1);
    s->q = take(rows * (size_t)s->row_bytes_max + LINEAR_OVERREAD_BYTES, 1);
    s->scale = take(rows, chunks * sizeof *s->scale);
    s->sum = take(rows, chunks * sizeof *s->sum);
    s->sub_sum = take(rows, (size_t)s->sub_sums_max * sizeof *s->sub_sum);
    s->sub_scale = take((size_t)rows_max, (size_t)s->sub_sums_max * sizeof *s->sub_scale);
    s->ordered = take((size_t)rows_max, (size_t)n_in_max * sizeof *s->ordered);
    s->threads = take((size_t)n_threads, s->thread_bytes);
    if (!s->lengths || !s->octs || !s->q || !s->scale || !s->sum || !s->sub_sum || !s->sub_scale ||
        !s->ordered || !s->threads)
        goto fail;
    (void)linear_scratch_set_amx(s, true);
    (void)linear_scratch_set_bf16(s, true);
    return true;
fail:
    linear_scratch_close(s);
    *scratch = NULL;
    return err_set(err, ERR_MEMORY, "scratch for products of %d rows of %d inputs: out of memory",
                   rows_max, n_in_max);
}

void linear_scratch_close(struct linear_scratch *s)
{
    if (!s)
        return;
    free(s->lengths);
    free(s->octs);
    free(s->q);
    free(s->scale);
    free(s->sum);
    free(s->sub_sum);
    free(s->sub_scale);
    free(s->ordered);
    free(s->threads);
    free(s);
}

bool linear_scratch_set_amx(struct linear_scratch *s, bool on)
{
    on = on && s->isa == CPU_ISA_AVX512 && cpu_amx_available();
    s->kernels = on ? &linear_amx : kernels_of(s->isa);
    return on;
}

bool linear_scratch_set_bf16(struct linear_scratch *s, bool on)
{
    s->bf16 = on && s->isa == CPU_ISA_AVX512 && cpu_bf16_available();
    return s->bf16;
}

/* ---- activations ------------------------------------------------------------------------------
 */

static bool is_chunked(const struct weight_part *part)
{
    return part->shape.layout == LAYOUT_CHUNKS_C16;
}
static bool is_e4m3(const struct weight_part *part)
{
    return is_chunked(part) && layout_chunks_is_e4m3(&part->shape);
}
/* Whether its activations are int8 or bf16. */
static bool is_tiled(const struct weight_part *part)
{
    return part->shape.layout == LAYOUT_W4_C16 || part->shape.layout == LAYOUT_W8_C16 ||
           is_chunked(part);
}
/* What the product reads. */
enum form {
    FORM_FLOATS,
    FORM_INT8,       /* a scale a chunk */
    FORM_INT8_TOKEN, /* the scheme's: one scale a row */
    FORM_INT8_FINE,  /* NVFP4's codes and scales, of 16 inputs */
    FORM_BF16,       /* a power of two a chunk */
    FORM_E4M3,       /* the scheme's codes as bf16, its scale for every chunk */
};
static enum form form_of(const struct weight_part *part)
{
    const struct layout_shape *shape = &part->shape;
    const enum act_scheme scheme = part->act.scheme;
    if (!is_tiled(part))
        return FORM_FLOATS;
    if (is_e4m3(part)) {
        const bool blocks = scheme == ACT_FP8_BLOCK && part->order == NULL;
        return blocks || scheme == ACT_FP8_TOKEN || scheme == ACT_FP8_TENSOR ? FORM_E4M3
                                                                             : FORM_BF16;
    }
    if (act_is_int8(scheme))
        return FORM_INT8_TOKEN;
    const bool fine = is_chunked(part) && shape->group == ACT_NVFP4_GROUP && shape->symmetric;
    return fine && scheme == ACT_NVFP4 && part->order == NULL ? FORM_INT8_FINE : FORM_INT8;
}
/* Whether b may use the activations that were made for a. */
static bool same_input(const struct weight_part *a, const struct weight_part *b)
{
    if (form_of(a) != form_of(b) || a->order != b->order || !act_same(&a->act, &b->act))
        return false;
    return !is_tiled(a) || (layout_chunk_key(&a->shape) == layout_chunk_key(&b->shape) &&
                            is_chunked(a) == is_chunked(b));
}

struct product {
    struct linear_scratch *s;
    const struct linear_group *groups;
    int32_t n_groups, n_rows; /* rows of all groups */
    const int32_t *rows;      /* row i of the product reads x row rows[i]; NULL: row i */
    struct view x, y;
    int32_t like;                      /* the part whose input form is at work */
    bool now[WEIGHT_PARTS_MAX];        /* parts that share it */
    struct linear_quantized quantized; /* of all rows */
};

static const struct weight_part *like_of(const struct product *p, const struct linear_group *group)
{
    return &group->w->parts[p->like];
}
/* Prepared rows of one row of x. What a scheme has made floats of few bits takes three where the
 * form is not the scheme's own: 8 bits of the largest in 128 would lose their small ones, and what
 * 16 lose still turns roundings of the next layer's activations (0.13 rms of logits where fp32 has
 * 0.04). */
static int32_t split_of(const struct weight_part *part)
{
    const enum form form = form_of(part);
    return is_chunked(part) && part->act.scheme != ACT_EXACT &&
                   (form == FORM_INT8 || form == FORM_BF16)
               ? LINEAR_SPLIT
               : 1;
}
static bool is_bf16(enum form form)
{
    return form == FORM_BF16 || form == FORM_E4M3;
}
/* Its rows in blocks of their own. */
static struct linear_quantized quantized_of(const struct product *p,
                                            const struct linear_group *group)
{
    struct linear_quantized x = p->quantized;
    const int32_t n_split = split_of(like_of(p, group));
    const int64_t from = (int64_t)group->row_from * n_split;
    x.q += from * x.row_bytes;
    x.scale += from * x.n_chunks;
    x.sum += from * x.n_chunks;
    if (x.sub_sum)
        x.sub_sum += from * x.n_chunks * x.n_subs;
    if (x.sub_scale)
        x.sub_scale += from * x.n_chunks * x.n_subs;
    x.n_rows = group->n_rows * n_split;
    return x;
}
/* Whether fp32 rows are read from s->ordered, or from x itself. */
static bool is_gathered(const struct product *p, const struct weight_part *part)
{
    return part->order != NULL || p->rows != NULL || part->act.scheme != ACT_EXACT;
}

static float *ordered_row(const struct linear_scratch *s, int32_t row)
{
    return s->ordered + (int64_t)row * s->n_in_max;
}

static void quantize_row(const struct product *p, const struct linear_group *group, int32_t row,
                         const float *x)
{
    const struct linear_scratch *s = p->s;
    const struct linear_quantized to = quantized_of(p, group);
    const int32_t block = row / LINEAR_BLOCK_ROWS, in_block = row % LINEAR_BLOCK_ROWS;
    const int64_t at = linear_block_at(&to, block);
    s->kernels->quantize_row(x, s->lengths, s->octs, to.n_chunks, linear_block_rows(&to, block),
                             in_block, s->q + (linear_block_q(&to, block) - s->q),
                             s->scale + (to.scale - s->scale) + at,
                             s->sum + (to.sum - s->sum) + at);
}

static void *thread_row(const struct linear_scratch *s, int32_t thread)
{
    return s->threads + (size_t)thread * s->thread_bytes + pad64((size_t)LINEAR_THREAD_BYTES);
}

/* Where one prepared row lies; next_chunk goes on. */
struct row_at {
    int8_t *q;
    float *scale, *sub_scale;             /* sub_scale: n_rows apart */
    int32_t *sum, n_rows, in_block, each; /* each: bytes of an input */
};
static struct row_at row_at(const struct product *p, const struct linear_group *group, int32_t row)
{
    const struct linear_scratch *s = p->s;
    const struct linear_quantized to = quantized_of(p, group);
    const int32_t block = row / LINEAR_BLOCK_ROWS, in_block = row % LINEAR_BLOCK_ROWS;
    const int64_t at = (to.scale - s->scale) + linear_block_at(&to, block);
    struct row_at r = { .q = s->q + (linear_block_q(&to, block) - s->q),
                        .scale = s->scale + at + in_block,
                        .sum = s->sum + at + in_block,
                        .sub_scale = s->sub_scale + at * to.n_subs + in_block,
                        .n_rows = linear_block_rows(&to, block),
                        .in_block = in_block,
                        .each = is_bf16(form_of(like_of(p, group))) ? 2 : 1 };
    return r;
}
/* The row's bytes of chunk c. */
static int8_t *chunk_q(const struct linear_scratch *s, const struct row_at *r, int32_t c)
{
    return r->q + r->in_block * s->octs[c] * LAYOUT_OCT * r->each;
}
static void next_chunk(const struct linear_scratch *s, struct row_at *r, int32_t c, int32_t n_subs)
{
    r->q += r->n_rows * s->octs[c] * LAYOUT_OCT * r->each;
    r->scale += r->n_rows;
    r->sum += r->n_rows;
    r->sub_scale += r->n_rows * n_subs;
}

/* A row with one scale, as the checkpoint's scheme wants it: the codes cut into the chunks of the
 * weight. x is in the weight's order already, which changes neither scale nor codes. */
static void quantize_row_int8(const struct product *p, const struct linear_group *group,
                              int32_t row, const float *x, int8_t *codes)
{
    const struct linear_scratch *s = p->s;
    struct row_at r = row_at(p, group, row);
    float scale;
    act_quantize_int8(&like_of(p, group)->act, x, group->w->n_in, codes, &scale);
    for (int32_t c = 0; c < p->quantized.n_chunks; c++) {
        const int32_t n = s->lengths[c], padded = s->octs[c] * LAYOUT_OCT;
        int8_t *q = chunk_q(s, &r, c);
        memcpy(q, codes, (size_t)n);
        memset(q + n, 0, (size_t)(padded - n));
        *r.sum = 0;
        for (int32_t i = 0; i < n; i++)
            *r.sum += codes[i];
        *r.scale = scale;
        codes += n;
        next_chunk(s, &r, c, 0);
    }
}

/* One chunk of x by the scheme's own codes, or rounded to bf16. scale: of the row, or NaN where
 * each chunk has its own. */
static void prepare_chunk(const struct product *p, const struct weight_part *like, const float *x,
                          int32_t n, float scale, int8_t *q, const struct row_at *r)
{
    const struct acts *acts = p->s->acts;
    const struct act_quant *act = &like->act;
    const int32_t n_subs = p->quantized.n_subs;
    switch (form_of(like)) {
    case FORM_BF16:
        acts->round(x, n, q, r->scale);
        return;
    case FORM_INT8_FINE: {
        float scales[LAYOUT_SUBS_MAX] = { 0 };
        acts->nvfp4(x, n, act->scale, q, scales);
        for (int32_t i = 0; i < n_subs; i++)
            r->sub_scale[i * r->n_rows] = scales[i];
        *r->scale = 1;
        return;
    }
    default:
        break;
    }
    if (act->scheme != ACT_FP8_TOKEN) {
        const float most = acts->most(x, n);
        scale = act->scheme == ACT_FP8_BLOCK || isnan(most) ? most / ACT_FP8_MOST : scale;
    }
    /* zeros; or what is not finite, which has no codes */
    *r->scale = scale > 0 && scale <= 0x1.fffffep127f ? scale : scale * 0;
    if (*r->scale > 0)
        acts->e4m3(x, n, scale, q);
    else
        memset(q, 0, 2 * (size_t)n);
}
static void prepare_chunks(const struct product *p, const struct linear_group *group, int32_t row,
                           const float *x)
{
    const struct linear_scratch *s = p->s;
    const struct weight_part *like = like_of(p, group);
    const bool token = like->act.scheme == ACT_FP8_TOKEN;
    const float scale = token ? s->acts->most(x, group->w->n_in) / ACT_FP8_MOST : like->act.scale;
    struct row_at r = row_at(p, group, row);
    for (int32_t c = 0; c < p->quantized.n_chunks; c++) {
        const int32_t n = s->lengths[c], padded = s->octs[c] * LAYOUT_OCT;
        int8_t *q = chunk_q(s, &r, c);
        prepare_chunk(p, like, x, n, scale, q, &r);
        memset(q + n * r.each, 0, (size_t)((padded - n) * r.each));
        x += n;
        next_chunk(s, &r, c, p->quantized.n_subs);
    }
}

/* Sums of q over the subs of each chunk, of one row. */
static void sum_subs(const struct product *p, const struct linear_group *group, int32_t row)
{
    const struct linear_scratch *s = p->s;
    const struct linear_quantized x = quantized_of(p, group);
    const int32_t block = row / LINEAR_BLOCK_ROWS, n_rows = linear_block_rows(&x, block);
    const int32_t sub = LINEAR_CHUNK / x.n_subs, in_block = row % LINEAR_BLOCK_ROWS;
    const int8_t *q = linear_block_q(&x, block);
    int32_t *to = s->sub_sum + (x.sub_sum - s->sub_sum) + linear_block_at(&x, block) * x.n_subs;
    for (int32_t c = 0; c < x.n_chunks; c++, to += x.n_subs * n_rows) {
        const int32_t bytes = x.octs[c] * LAYOUT_OCT;
        const int8_t *from = q + in_block * bytes;
        for (int32_t i = 0; i < x.n_subs; i++) {
            int32_t sum = 0;
            for (int32_t j = i * sub; j < (i + 1) * sub && j < bytes; j++)
                sum += from[j];
            to[i * n_rows + in_block] = sum;
        }
        q += n_rows * bytes;
    }
}

/* What a prepared row left of x. */
static void take_rest(const struct product *p, const struct linear_group *group, int32_t row,
                      float *x)
{
    const struct linear_scratch *s = p->s;
    struct row_at r = row_at(p, group, row);
    for (int32_t c = 0; c < p->quantized.n_chunks; c++) {
        const int32_t n = s->lengths[c];
        const int8_t *q = chunk_q(s, &r, c);
        for (int32_t i = 0; i < n; i++) {
            uint16_t bits = 0;
            if (r.each == 2)
                memcpy(&bits, q + 2 * i, sizeof bits);
            x[i] -= (r.each == 2 ? half_bf16_to_f32(bits) : (float)q[i]) * *r.scale;
        }
        x += n;
        next_chunk(s, &r, c, 0);
    }
}

/* Row `row` of the prepared: x in the form of the weight. */
static void prepare_form(const struct product *p, const struct linear_group *group, int32_t row,
                         const float *x, int8_t *codes)
{
    switch (form_of(like_of(p, group))) {
    case FORM_FLOATS:
        return;
    case FORM_INT8:
        quantize_row(p, group, row, x);
        break;
    case FORM_INT8_TOKEN:
        quantize_row_int8(p, group, row, x, codes);
        break;
    case FORM_INT8_FINE:
    case FORM_BF16:
    case FORM_E4M3:
        prepare_chunks(p, group, row, x);
        break;
    }
    if (p->quantized.sub_sum != NULL)
        sum_subs(p, group, row);
}

/* Row i of the product: x quantized by the part's scheme, in its order and form. */
static void prepare_row(const struct product *p, const struct linear_group *group, int32_t i,
                        int32_t thread)
{
    const struct weight_part *like = like_of(p, group);
    const enum form form = form_of(like);
    const int32_t n_in = group->w->n_in;
    const int32_t n_split = split_of(like), row = (i - group->row_from) * n_split;
    const float *x = view_row(p->x, p->rows != NULL ? p->rows[i] : i);
    float *out = ordered_row(p->s, i);
    if (like->act.scheme != ACT_EXACT &&
        (form == FORM_FLOATS || form == FORM_INT8 || form == FORM_BF16)) {
        float *quantized = like->order ? thread_row(p->s, thread) : out;
        act_quantize(&like->act, x, n_in, quantized);
        x = quantized;
    }
    if (like->order) {
        for (int32_t k = 0; k < n_in; k++)
            out[k] = x[like->order[k]];
        x = out;
    }
    if (form == FORM_FLOATS && x != out)
        memcpy(out, x, (size_t)n_in * sizeof *out);
    prepare_form(p, group, row, x, thread_row(p->s, thread));
    for (int32_t h = 1; h < n_split; h++) { /* x is out: a scheme made it */
        take_rest(p, group, row + h - 1, out);
        prepare_form(p, group, row + h, out, NULL);
    }
}
/* This thread's share of the rows of all groups. */
static void prepare_rows(void *arg, int32_t part, int32_t n_parts)
{
    const struct product *p = arg;
    int64_t from, to;
    pool_share(p->n_rows, 1, part, n_parts, &from, &to);
    for (int32_t g = 0; g < p->n_groups; g++) {
        const struct linear_group *group = &p->groups[g];
        const int32_t end = group->row_from + group->n_rows;
        for (int32_t i = group->row_from > from ? group->row_from : (int32_t)from;
             i < end && i < to; i++)
            prepare_row(p, group, i, part);
    }
}

/* CHUNKS_C16: whole units; with int8, sums of the subs. */
static void form_chunks(struct product *p, const struct weight_part *like)
{
    struct linear_scratch *s = p->s;
    const enum form form = form_of(like);
    struct layout_chunks t;
    layout_chunks_of(&like->shape, &t);
    CHECK(t.n_chunks <= s->n_chunks_max && t.n_chunks * t.n_subs <= s->sub_sums_max);
    p->quantized =
        (struct linear_quantized){ .q = s->q,
                                   .scale = s->scale,
                                   .sum = s->sum,
                                   .sub_sum = is_bf16(form) ? NULL : s->sub_sum,
                                   .sub_scale = form == FORM_INT8_FINE ? s->sub_scale : NULL,
                                   .n_subs = t.n_subs,
                                   .octs = s->octs,
                                   .n_chunks = t.n_chunks,
                                   .n_rows = p->n_rows };
    for (int32_t c = 0; c < t.n_chunks; c++) {
        const int32_t inputs = layout_chunk_units(&like->shape, c) * LAYOUT_UNIT;
        s->lengths[c] = (uint8_t)layout_chunk_inputs(&like->shape, c);
        s->octs[c] = (uint8_t)(inputs / LAYOUT_OCT);
        p->quantized.row_bytes += inputs * (is_bf16(form) ? 2 : 1);
    }
    CHECK(p->quantized.row_bytes <= s->row_bytes_max);
}

static void prepare_input(struct product *p, struct pool *pool)
{
    struct linear_scratch *s = p->s;
    const struct weight_part *like = like_of(p, p->groups);
    p->quantized = (struct linear_quantized){ .n_rows = p->n_rows };
    if (is_chunked(like)) {
        form_chunks(p, like);
    } else if (is_tiled(like)) {
        struct layout_tiles t;
        layout_tiles_of(&like->shape, &t);
        CHECK(like->shape.group >= LAYOUT_GROUP_MIN || t.n_groups == 1);
        CHECK(t.n_chunks <= s->n_chunks_max && (int64_t)t.n_octs * LAYOUT_OCT <= s->row_bytes_max);
        p->quantized = (struct linear_quantized){ .q = s->q,
                                                  .scale = s->scale,
                                                  .sum = s->sum,
                                                  .octs = s->octs,
                                                  .row_bytes = t.n_octs * LAYOUT_OCT,
                                                  .n_chunks = t.n_chunks,
                                                  .n_rows = p->n_rows };
        for (int32_t c = 0; c < t.n_chunks; c++) {
            const int32_t n = layout_chunk_inputs(&like->shape, c);
            s->lengths[c] = (uint8_t)n;
            s->octs[c] = (uint8_t)((n + LAYOUT_OCT - 1) / LAYOUT_OCT);
        }
    } else if (!is_gathered(p, like)) {
        return;
    }
    if (p->n_rows == 1 || (int64_t)p->n_rows * p->groups->w->n_in <= ALONE_INPUTS)
        prepare_rows(p, 0, 1);
    else
        pool_run(pool, prepare_rows, p);
}

/* ---- products ---------------------------------------------------------------------------------
 */

static void run_tiles(const struct product *p, const struct linear_group *group,
                      const struct weight_part *part, struct view y, int32_t thread,
                      int32_t n_threads)
{
    const struct linear_scratch *s = p->s;
    struct linear_tiles job = {
        .packed = part->data,
        .bits = part->shape.layout == LAYOUT_W4_C16 ? 4 : 8,
        .zero = part->shape.symmetric ? 1 << (part->shape.bits - 1) : 0,
        .n_out = part->shape.n_out,
        .x = quantized_of(p, group),
        .bias = part->bias,
        .y = y.data,
        .y_stride = y.row_stride,
        .scratch = s->threads + (size_t)thread * s->thread_bytes,
    };
    layout_tiles_of(&part->shape, &job.at);
    int64_t from, to;
    pool_share(job.at.n_tiles, 1, thread, n_threads, &from, &to);
    job.tile_from = (int32_t)from;
    job.tile_to = (int32_t)to;
    if (from < to)
        s->kernels->tiles(&job);
}

static void run_chunks(const struct product *p, const struct linear_group *group,
                       const struct weight_part *part, struct view y, int32_t thread,
                       int32_t n_threads)
{
    const struct linear_scratch *s = p->s;
    struct linear_chunks job = {
        .packed = part->data,
        .table = part->shape.kind == CODE_TABLE,
        .split = split_of(part) == LINEAR_SPLIT,
        .n_out = part->shape.n_out,
        .x = quantized_of(p, group),
        .bias = part->bias,
        .y = y.data,
        .y_stride = y.row_stride,
        .scratch = s->threads + (size_t)thread * s->thread_bytes,
    };
    if (job.table && !is_e4m3(part))
        job.lut = *layout_chunks_table_lut(part->data);
    else if (!job.table)
        layout_chunks_int_lut(&part->shape, &job.lut);
    layout_chunks_of(&part->shape, &job.at);
    int64_t from, to;
    pool_share(job.at.n_tiles, 1, thread, n_threads, &from, &to);
    job.tile_from = (int32_t)from;
    job.tile_to = (int32_t)to;
    if (from < to && is_e4m3(part))
        (s->bf16 ? linear_e4m3_bf16 : s->kernels->e4m3)(&job);
    else if (from < to)
        s->kernels->chunks(&job);
}

static void run_rows(const struct product *p, const struct linear_group *group,
                     const struct weight_part *part, struct view y, int32_t thread,
                     int32_t n_threads)
{
    const struct linear_scratch *s = p->s;
    const bool gathered = is_gathered(p, part);
    const int64_t x_stride = gathered ? s->n_in_max : p->x.row_stride;
    const float *x = gathered ? s->ordered : p->x.data;
    struct linear_rows job = {
        .w = part->data,
        .dtype = part->dtype,
        .n_in = part->shape.n_in,
        .x = x + group->row_from * x_stride,
        .x_stride = x_stride,
        .n_rows = group->n_rows,
        .bias = part->bias,
        .y = y.data,
        .y_stride = y.row_stride,
    };
    int64_t from, to;
    pool_share(part->shape.n_out, LINEAR_WIDEN_ROWS, thread, n_threads, &from, &to);
    if (from == to)
        return;
    if (part->shape.layout == LAYOUT_ROWS) {
        job.row_from = (int32_t)from;
        job.row_to = (int32_t)to;
        s->kernels->rows(&job);
        return;
    }
    float *wide = thread_row(s, thread);
    job.w = (const uint8_t *)wide;
    job.dtype = DTYPE_F32;
    for (int32_t row = (int32_t)from; row < to; row += LINEAR_WIDEN_ROWS) {
        job.row_to = to - row < LINEAR_WIDEN_ROWS ? (int32_t)to - row : LINEAR_WIDEN_ROWS;
        for (int32_t i = 0; i < job.row_to; i++)
            layout_row(&part->shape, part->data, row + i, wide + (size_t)i * (size_t)job.n_in);
        job.bias = part->bias ? part->bias + row : NULL;
        job.y = (float *)y.data + row;
        s->kernels->rows(&job);
    }
}

static void run_parts(void *arg, int32_t thread, int32_t n_threads)
{
    const struct product *p = arg;
    for (int32_t g = 0; g < p->n_groups; g++) {
        const struct linear_group *group = &p->groups[g];
        struct view y = p->y;
        y.data = (float *)y.data + group->row_from * y.row_stride;
        for (int32_t i = 0; i < group->w->n_parts; i++) {
            const struct weight_part *part = &group->w->parts[i];
            if (p->now[i] && is_chunked(part))
                run_chunks(p, group, part, y, thread, n_threads);
            else if (p->now[i] && is_tiled(part))
                run_tiles(p, group, part, y, thread, n_threads);
            else if (p->now[i])
                run_rows(p, group, part, y, thread, n_threads);
            y.data = (float *)y.data + part->shape.n_out;
        }
    }
}

static void check_weight(const struct linear_scratch *s, const struct weight *w, struct view x,
                         struct view y)
{
    CHECK(x.n_cols == w->n_in && w->n_in <= s->n_in_max && y.n_cols == w->n_out);
    CHECK(w->n_parts >= 1 && w->n_parts <= WEIGHT_PARTS_MAX);
    int32_t n_out = 0;
    for (int32_t i = 0; i < w->n_parts; i++) {
        const struct weight_part *part = &w->parts[i];
        CHECK(part->shape.n_in == w->n_in && part->data);
        CHECK(part->shape.layout != LAYOUT_ROWS || part->dtype == DTYPE_F32 ||
              part->dtype == DTYPE_F16 || part->dtype == DTYPE_BF16);
        n_out += part->shape.n_out;
    }
    CHECK(n_out == w->n_out);
}

bool linear_same_forms(const struct weight *a, const struct weight *b)
{
    bool same = a->n_parts == b->n_parts && a->n_in == b->n_in && a->n_out == b->n_out;
    for (int32_t i = 0; i < a->n_parts && same; i++) {
        const struct weight_part *x = &a->parts[i], *y = &b->parts[i];
        same = x->shape.n_out == y->shape.n_out && form_of(x) == form_of(y) &&
               (x->order == NULL) == (y->order == NULL) &&
               (!is_tiled(x) || layout_chunk_key(&x->shape) == layout_chunk_key(&y->shape));
        for (int32_t j = 0; j < i && same; j++)
            same = same_input(x, &a->parts[j]) == same_input(y, &b->parts[j]);
    }
    return same;
}

void linear_product_groups(struct pool *pool, struct linear_scratch *s,
                           const struct linear_group *groups, int32_t n_groups, struct view x,
                           const int32_t *rows, struct view y)
{
    CHECK(x.dtype == DTYPE_F32 && y.dtype == DTYPE_F32);
    CHECK(pool_threads(pool) == s->n_threads);
    struct product p = { .s = s, .groups = groups, .rows = rows, .x = x, .y = y };
    for (int32_t g = 0; g < n_groups; g++) {
        check_weight(s, groups[g].w, x, y);
        CHECK(groups[g].row_from == p.n_rows && groups[g].n_rows >= 0);
        p.n_rows += groups[g].n_rows;
    }
    CHECK(p.n_rows <= s->rows_max && p.n_rows <= y.n_rows);
    if (p.n_rows == 0)
        return;
    p.n_groups = n_groups;
    const struct weight *w = groups->w;
    bool done[WEIGHT_PARTS_MAX] = { false };
    for (int32_t i = 0; i < w->n_parts; i++) {
        if (done[i])
            continue;
        p.like = i;
        for (int32_t j = 0; j < w->n_parts; j++) {
            p.now[j] = !done[j] && same_input(&w->parts[i], &w->parts[j]);
            done[j] = done[j] || p.now[j];
        }
        prepare_input(&p, pool);
        pool_run(pool, run_parts, &p);
    }
}

void linear_product(struct pool *pool, struct linear_scratch *s, const struct weight *w,
                    struct view x, struct view y)
{
    CHECK(x.n_rows == y.n_rows);
    const struct linear_group group = { w, 0, x.n_rows };
    linear_product_groups(pool, s, &group, 1, x, NULL, y);
}

void linear_weight_row(const struct weight_part *part, int32_t row, float *out)
{
    const struct layout_shape *shape = &part->shape;
    CHECK(row >= 0 && row < shape->n_out);
    if (shape->layout != LAYOUT_ROWS) {
        layout_row(shape, part->data, row, out);
        return;
    }
    const size_t n_in = (size_t)shape->n_in;
    const uint8_t *from =
        (const uint8_t *)part->data + (size_t)row * n_in * dtype_bytes(part->dtype);
    half_widen(out, from, part->dtype, n_in);
}
