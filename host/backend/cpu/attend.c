/* attend.c - attention on the CPU: cuts the batch into blocks and hands them to the threads.
 *
 * Invariant: a block's result does not depend on how the batch was cut (attend.h), so threads may
 * take blocks in any order: late rows of a prompt cost more than early ones, and a shared counter
 * balances them. Called by the CPU backend; allocates in attend_scratch_open only. */
#include "host/backend/cpu/attend.h"

#include <stdatomic.h>
#include <stdlib.h>
#include "host/backend/cpu/attend_kernels.h"
#include "host/backend/cpu/isa.h"

struct attend_scratch {
    attend_fn *block;
    int32_t n_threads, dim;
    float *floats; /* what the rooms point into */
    struct attend_room rooms[];
};

static size_t room_floats(int32_t dim)
{
    const size_t d = (size_t)dim;
    return 2 * ATTEND_BLOCK * d + 2 * ATTEND_BLOCK * PAGE_TOKENS + ATTEND_BLOCK +
           3 * PAGE_TOKENS * d;
}
static void room_place(struct attend_room *room, float *at, int32_t dim)
{
    const size_t d = (size_t)dim;
    room->q = at;
    room->o = room->q + ATTEND_BLOCK * d;
    room->s = room->o + ATTEND_BLOCK * d;
    room->l = room->s + ATTEND_BLOCK * PAGE_TOKENS;
    room->m = room->l + ATTEND_BLOCK * PAGE_TOKENS;
    room->k = room->m + ATTEND_BLOCK;
    room->v = room->k + PAGE_TOKENS * d;
    room->pad = room->v + PAGE_TOKENS * d;
}

bool attend_scratch_open(struct attend_scratch **scratch, enum cpu_isa isa, int32_t n_threads,
                         int32_t head_dim, struct err *err)
{
    CHECK(n_threads > 0 && head_dim > 0 && head_dim <= ATTEND_HEAD_DIM_MAX);
    const int32_t dim = (head_dim + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS;
    const size_t n = (size_t)n_threads, bytes = room_floats(dim) * sizeof(float);
    struct attend_scratch *s = calloc(1, sizeof *s + n * sizeof s->rooms[0]);
    if (s)
        s->floats = aligned_alloc(64, n * bytes);
    if (!s || !s->floats) {
        free(s);
        *scratch = NULL;
        return err_set(err, ERR_MEMORY, "scratch for attention: %zu bytes: out of memory",
                       n * bytes);
    }
    switch (cpu_isa_resolve(isa)) {
    case CPU_ISA_AVX512:
        s->block = attend_block_avx512;
        break;
    case CPU_ISA_AVX2:
        s->block = attend_block_avx2;
        break;
    default:
        s->block = attend_block_portable;
        break;
    }
    s->n_threads = n_threads;
    s->dim = dim;
    for (size_t i = 0; i < n; i++)
        room_place(&s->rooms[i], s->floats + i * room_floats(dim), dim);
    *scratch = s;
    return true;
}

void attend_scratch_close(struct attend_scratch *s)
{
    if (!s)
        return;
    free(s->floats);
    free(s);
}

/* The cut. Tasks of a sequence, KV head by KV head (its pages stay in L2 for all blocks of rows):
 * [n_kv_heads][n_parts][n_blocks], blocks from the last, the costliest, to the first. */
struct cut {
    struct attend_scratch *s;
    const struct attend_op *op;
    int32_t n_group;      /* query heads of a KV head */
    int32_t n_parts;      /* pieces a group is cut into */
    int32_t part_heads;   /* heads of a piece, the last may have fewer */
    int32_t block_rows;   /* rows of a block */
    _Atomic int64_t next; /* task */
};

static int64_t blocks_of(const struct cut *c, int32_t seq)
{
    return (c->op->batch->seqs[seq].n_rows + c->block_rows - 1) / c->block_rows;
}
static int64_t tasks_of(const struct cut *c, int32_t seq)
{
    return blocks_of(c, seq) * c->n_parts * c->op->kv->n_kv_heads;
}

static void cut_parts(struct cut *c, int32_t n_parts)
{
    c->part_heads = (c->n_group + n_parts - 1) / n_parts;
    c->n_parts = (c->n_group + c->part_heads - 1) / c->part_heads;
    c->block_rows = ATTEND_BLOCK / c->part_heads;
}

static void task_run(const struct cut *c, int32_t seq, int64_t task, const struct attend_room *room)
{
    const struct attend_op *op = c->op;
    const struct batch_seq *bs = &op->batch->seqs[seq];
    const struct kv_cache *kv = op->kv;
    const struct kv_group *group = &kv->groups[op->group];
    const int64_t n_blocks = blocks_of(c, seq);
    const int32_t block = (int32_t)(n_blocks - 1 - task % n_blocks);
    const int32_t part = (int32_t)(task / n_blocks % c->n_parts);
    const int32_t kv_head = (int32_t)(task / n_blocks / c->n_parts);
    const int32_t first = block * c->block_rows, head = part * c->part_heads;
    const int32_t head_all = kv_head * c->n_group + head;
    const uint8_t *memory = group->memory;
    const struct attend_block b = {
        .q = view_row(op->q, bs->first_row + first) + (int64_t)head_all * kv->head_dim,
        .y = view_row(op->y, bs->first_row + first) + (int64_t)head_all * kv->head_dim,
        .q_stride = op->q.row_stride,
        .y_stride = op->y.row_stride,
        .n_rows = bs->n_rows - first < c->block_rows ? bs->n_rows - first : c->block_rows,
        .n_heads = c->n_group - head < c->part_heads ? c->n_group - head : c->part_heads,
        .head_dim = kv->head_dim,
        .position = bs->first_position + first,
        .window = group->window,
        .scale = op->scale,
        .soft_cap = op->soft_cap,
        .sinks = op->sinks ? op->sinks + head_all : NULL,
        .pages = op->batch->pages[op->group] + (int64_t)seq * op->batch->pages_stride[op->group],
        .n_pages = group->n_pages,
        .k = memory + kv_offset(kv, op->group, op->layer, 0, 0, kv_head),
        .v = memory + kv_offset(kv, op->group, op->layer, 0, 1, kv_head),
        .page_bytes = 2 * (size_t)kv->n_kv_heads * (size_t)kv_block_bytes(kv->dtype, kv->head_dim),
        .dtype = kv->dtype,
    };
    c->s->block(&b, room);
}

static void attend_part(void *arg, int32_t part, int32_t n_parts)
{
    struct cut *c = arg;
    CHECK(n_parts <= c->s->n_threads);
    int32_t seq = 0;
    int64_t before = 0; /* tasks of the sequences before seq */
    for (;;) {
        const int64_t task = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        while (seq < c->op->batch->n_seqs && task >= before + tasks_of(c, seq))
            before += tasks_of(c, seq++);
        if (seq == c->op->batch->n_seqs)
            return;
        task_run(c, seq, task - before, &c->s->rooms[part]);
    }
}

void attend_run(struct pool *pool, struct attend_scratch *s, const struct attend_op *op)
{
    const struct kv_cache *kv = op->kv;
    const struct batch *batch = op->batch;
    CHECK(op->group >= 0 && op->group < kv->n_groups);
    CHECK(op->n_heads > 0 && op->n_heads % kv->n_kv_heads == 0);
    CHECK((kv->head_dim + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS <= s->dim);
    CHECK(kv->dtype == DTYPE_F32 || kv->dtype == DTYPE_F16 || kv->dtype == DTYPE_BF16 ||
          kv->dtype == DTYPE_I8);
    CHECK(kv->groups[op->group].memory && kv->groups[op->group].n_pages > 0);
    CHECK(op->q.n_cols == op->n_heads * kv->head_dim && op->y.n_cols == op->q.n_cols);
    CHECK(op->q.n_rows >= batch->n_rows && op->y.n_rows >= batch->n_rows);
    if (batch->n_rows == 0)
        return;
    struct cut c = { .s = s, .op = op, .n_group = op->n_heads / kv->n_kv_heads };
    cut_parts(&c, (c.n_group + ATTEND_BLOCK - 1) / ATTEND_BLOCK);
    int64_t n_tasks = 0;
    for (int32_t seq = 0; seq < batch->n_seqs; seq++)
        n_tasks += tasks_of(&c, seq);
    /* A lone row with few KV heads: threads share a group, each reading its K and V. */
    if (n_tasks > 0 && n_tasks < s->n_threads && c.n_group > 1) {
        int64_t want = c.n_parts * ((s->n_threads + n_tasks - 1) / n_tasks);
        cut_parts(&c, want < c.n_group ? (int32_t)want : c.n_group);
    }
    pool_run(pool, attend_part, &c);
}
