/* ops.cu - the seam's ops as launches: which kernel, with which inputs prepared how.
 *
 * A product goes one of two ways. Fused: all parts are F64 of one kind and nothing comes between
 * product and epilogue: one launch, epilogue inside. In parts: one launch a part into the fp32
 * product, then one that finishes it (kv_store, gate_combine, post_combine). */
#include <string.h>
#include "cuda/state.h"

/* Rows of this op: a recording runs its whole bucket. */
int32_t rows_of(const struct cuda *cuda, int32_t rows)
{
    return cuda->bucket > 0 ? cuda->bucket : rows;
}
struct launch launch_of(const struct cuda *cuda)
{
    struct launch launch;
    launch.stream = cuda->stream;
    launch.device = &cuda->info;
    launch.pdl = cuda->info.arch >= 90;
    return launch;
}
struct norm_in norm_of(const struct norm *norm)
{
    struct norm_in in;
    memset(&in, 0, sizeof in);
    if (norm != NULL) {
        in.gain = norm->gain;
        in.bias = norm->bias;
        in.epsilon = norm->epsilon;
        in.layer = norm->kind == NORM_LAYER;
    }
    return in;
}
const int32_t *step_ints(const struct cuda *cuda, size_t at)
{
    return (const int32_t *)(const void *)(cuda->step.device + at);
}
const char *const path_names[PATHS + 1] = {
    "gemm_small",
    "gemm_small with rope and pages",
    "gemm_mma",
    "gemm_wgmma",
    "gemm_dense",
    "gemm_s8",
    "gemm_rows",
    "prepare",
    "kv_store",
    "gate_combine",
    "post_combine",
    "embed_rows",
    "gather_rows",
    "gather_columns",
    "route",
    "gemm_mma, experts",
    "gemm_rows, experts",
    "experts_gate",
    "experts_add",
    "attend_decode",
    "attend_prefill",
    "sample_rows",
    "sample, host",
    "replay",
    NULL,
};
static bool run(struct cuda *cuda, enum path path, cudaError_t status, const char *name)
{
    cuda->counts[path]++;
    return cuda_ok(cuda, status, path_names[path], name);
}

/* ---- products ---------------------------------------------------------------------------------
 */

static bool is_f64(const struct weight_part *part)
{
    return part->shape.layout == LAYOUT_W4_F64 || part->shape.layout == LAYOUT_W8_F64;
}
static void part_of(const struct weight_part *part, struct f64_part *out, struct f64_kind *kind)
{
    struct layout_f64 at;
    layout_f64_of(&part->shape, &at);
    *kind = at.kind;
    out->units = (const uint8_t *)part->data;
    out->row_factor = (const float *)(const void *)((const uint8_t *)part->data + at.factors_at);
    out->bias = part->bias;
    out->n_out = part->shape.n_out;
}
static bool same_kind(const struct f64_kind *a, const struct f64_kind *b)
{
    return a->bits == b->bits && a->group == b->group && a->zeros == b->zeros &&
           a->fractions == b->fractions && (a->table == NULL) == (b->table == NULL) &&
           (a->table == NULL || memcmp(a->table, b->table, 16 * sizeof *a->table) == 0);
}
bool cuda_matrix(const struct weight *w, int32_t from, int32_t to, struct f64_matrix *out)
{
    memset(out, 0, sizeof *out);
    for (int32_t i = from; i < to; i++) {
        struct f64_kind kind;
        if (!is_f64(&w->parts[i]) || w->parts[i].order != w->parts[from].order)
            return false;
        part_of(&w->parts[i], &out->parts[i - from], &kind);
        if (i > from && !same_kind(&kind, &out->kind))
            return false;
        out->kind = kind;
        out->n_out += w->parts[i].shape.n_out;
    }
    out->n_parts = to - from;
    out->n_in = w->n_in;
    return true;
}

/* The rows of x as the kernel wants them. */
static bool prepare_input(struct cuda *cuda, enum gemm_kernel kernel, struct gemm_op *op,
                          const char *name)
{
    if (kernel == GEMM_SMALL)
        return true;
    const struct launch launch = launch_of(cuda);
    struct prepare_op prepare;
    memset(&prepare, 0, sizeof prepare);
    prepare.x = op->x;
    prepare.x_stride = op->x_stride;
    prepare.rows = op->rows;
    prepare.n_in = op->w.n_in;
    prepare.norm = op->norm;
    prepare.y_stride = f64_pad(op->w.n_in, F64_UNIT_COLS);
    prepare.scale = cuda->x_scale;
    cudaError_t status;
    if (kernel == GEMM_S8) {
        prepare.y = cuda->x8;
        prepare.sum = cuda->x_sum;
        status = prepare_s8(&launch, &prepare);
    } else {
        prepare.y = cuda->x16;
        status = prepare_f16(&launch, &prepare);
    }
    memset(&op->norm, 0, sizeof op->norm);
    op->x = prepare.y;
    op->x_stride = prepare.y_stride;
    op->x_scale = cuda->x_scale;
    op->x_sum = cuda->x_sum;
    return run(cuda, PATH_PREPARE, status, name);
}

bool cuda_gemm(struct cuda *cuda, struct gemm_op *op, enum gemm_kernel kernel, const char *name)
{
    op->partial = cuda->partial;
    op->partial_bytes = cuda->partial_bytes;
    op->tickets = cuda->tickets;
    op->splits = cuda->options.invariant ? 1 : 0;
    if (!prepare_input(cuda, kernel, op, name))
        return false;
    const struct launch launch = launch_of(cuda);
    switch (kernel) {
    case GEMM_SMALL:
        return run(cuda, op->qkv != NULL ? PATH_GEMM_SMALL_QKV : PATH_GEMM_SMALL,
                   gemm_small(&launch, op), name);
    case GEMM_WGMMA:
        return run(cuda, PATH_GEMM_WGMMA, gemm_wgmma(&launch, op), name);
    case GEMM_DENSE:
        return run(cuda, PATH_GEMM_DENSE, gemm_dense(&launch, cuda->dense, op), name);
    case GEMM_S8:
        return run(cuda, PATH_GEMM_S8, gemm_s8(&launch, op), name);
    default:
        return run(cuda, PATH_GEMM_MMA, gemm_mma(&launch, op), name);
    }
}

static bool gemm(struct cuda *cuda, struct gemm_op *op, const char *name)
{
    return cuda_gemm(cuda, op, choose_gemm(cuda, op), name);
}

static struct gemm_out product_out(const struct cuda *cuda, int32_t col, int32_t n_cols)
{
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = cuda->product + col;
    out.stride = n_cols;
    out.dtype = DTYPE_F32;
    out.scale = 1;
    return out;
}
static struct gemm_out view_out(struct view y, const struct linear_op *op)
{
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = y.data;
    out.stride = y.row_stride;
    out.dtype = y.dtype;
    out.epilogue = op->epilogue;
    out.gate = op->gate;
    out.scale = op->scale;
    return out;
}
static bool rows_product(struct cuda *cuda, const struct weight_part *part, int32_t rows,
                         const void *x, int64_t x_stride, struct gemm_out out, const char *name)
{
    CHECK(part->shape.layout == LAYOUT_ROWS && part->order == NULL);
    const struct launch launch = launch_of(cuda);
    struct rows_op op;
    memset(&op, 0, sizeof op);
    op.w = part->data;
    op.dtype = part->dtype;
    op.n_out = part->shape.n_out;
    op.n_in = part->shape.n_in;
    op.rows = rows;
    op.x = x;
    op.x_stride = x_stride;
    op.bias = part->bias;
    op.out = out;
    op.one_order = cuda->options.invariant;
    return run(cuda, PATH_GEMM_ROWS, gemm_rows(&launch, &op), name);
}

/* x normed, in bf16, to `to`; x itself without a norm. */
static bool normed_to(struct cuda *cuda, const struct norm *norm, int32_t rows, int32_t n_in,
                      const void **x, int64_t *stride, uint16_t *to, const char *name)
{
    if (norm == NULL)
        return true;
    const struct launch launch = launch_of(cuda);
    struct prepare_op op;
    memset(&op, 0, sizeof op);
    op.x = *x;
    op.x_stride = *stride;
    op.rows = rows;
    op.n_in = n_in;
    op.norm = norm_of(norm);
    op.y = to;
    op.y_stride = n_in;
    *x = to;
    *stride = n_in;
    return run(cuda, PATH_PREPARE, prepare_bf16(&launch, &op), name);
}
/* The same once for all parts of rows. */
static bool normed_rows(struct cuda *cuda, const struct norm *norm, int32_t rows, int32_t n_in,
                        const void **x, int64_t *stride, const char *name)
{
    return normed_to(cuda, norm, rows, n_in, x, stride, cuda->normed, name);
}
/* op's input, normed, with its columns in this order, in cuda->normed; x16 is free until the
 * product prepares its input. */
static bool ordered_rows(struct cuda *cuda, const struct linear_op *op, const int32_t *order,
                         int32_t rows)
{
    const int32_t n_in = op->w->n_in;
    const struct launch launch = launch_of(cuda);
    const void *x = op->x.data;
    int64_t stride = op->x.row_stride;
    return normed_to(cuda, op->pre, rows, n_in, &x, &stride, cuda->x16, op->w->name) &&
           run(cuda, PATH_ORDER,
               gather_columns(&launch, x, stride, order, rows, n_in, cuda->normed, n_in),
               op->w->name);
}
/* What a product of F64 parts in this order (or NULL) reads. */
static void input_of(const struct cuda *cuda, const struct linear_op *op, const int32_t *order,
                     struct gemm_op *g)
{
    g->x = order != NULL ? cuda->normed : op->x.data;
    g->x_stride = order != NULL ? op->w->n_in : op->x.row_stride;
    g->norm = norm_of(order != NULL ? NULL : op->pre);
}

/* Every part into its columns of `out` (fp32 product, or y itself for one part). */
static bool parts_product(struct cuda *cuda, const struct linear_op *op, int32_t rows,
                          struct gemm_out out)
{
    const struct weight *w = op->w;
    const void *normed = NULL;
    int64_t normed_stride = 0;
    bool have_normed = false;
    for (int32_t i = 0; i < w->n_parts; i++) {
        struct gemm_op g;
        memset(&g, 0, sizeof g);
        if (cuda_matrix(w, i, i + 1, &g.w)) {
            g.rows = rows;
            input_of(cuda, op, w->parts[i].order, &g);
            g.out = out;
            if (w->parts[i].order != NULL) {
                have_normed = false;
                if (!ordered_rows(cuda, op, w->parts[i].order, rows))
                    return false;
            }
            if (!gemm(cuda, &g, w->name))
                return false;
        } else {
            if (!have_normed) {
                normed = op->x.data;
                normed_stride = op->x.row_stride;
                if (!normed_rows(cuda, op->pre, rows, w->n_in, &normed, &normed_stride, w->name))
                    return false;
            }
            have_normed = true;
            if (!rows_product(cuda, &w->parts[i], rows, normed, normed_stride, out, w->name))
                return false;
        }
        out.y = (char *)out.y + (size_t)w->parts[i].shape.n_out * dtype_bytes(out.dtype);
    }
    return true;
}

/* q and k are normed head by head; else over all heads, or not at all. */
static bool norms_heads(const struct kv_store *store)
{
    return store->q_norm != NULL && store->q_norm->n == store->kv->head_dim;
}
static void qkv_of(const struct cuda *cuda, const struct linear_op *op, struct qkv_out *out)
{
    const struct kv_store *store = op->store;
    const struct kv_cache *kv = store->kv;
    const struct rope *rope = store->rope;
    const int32_t g = store->group;
    memset(out, 0, sizeof *out);
    out->q = (uint16_t *)op->y.data;
    out->q_stride = op->y.row_stride;
    uint8_t *memory = (uint8_t *)kv->groups[g].memory;
    out->k_pages = memory + kv_offset(kv, g, store->layer, 0, 0, 0);
    out->v_pages = memory + kv_offset(kv, g, store->layer, 0, 1, 0);
    out->kv_dtype = kv->dtype;
    out->n_pages = kv->groups[g].n_pages;
    out->n_heads = store->n_heads;
    out->n_kv_heads = kv->n_kv_heads;
    out->head_dim = kv->head_dim;
    out->positions = step_ints(cuda, cuda->step.positions_at);
    out->row_seq = step_ints(cuda, cuda->step.row_seq_at);
    out->pages = cuda->step.pages_device[g];
    out->pages_stride = cuda->step.pages_stride[g];
    if (rope != NULL) {
        out->inv_freq = rope->inv_freq;
        if (rope->n_variants > 1)
            out->rope_variant = step_ints(cuda, cuda->step.variants_at);
        out->rotary_dim = rope->rotary_dim;
        out->rope_scale = rope->scale;
        out->interleaved = rope->interleaved;
    }
    if (norms_heads(store)) {
        CHECK(store->q_norm != NULL && store->k_norm != NULL);
        CHECK(store->q_norm->kind == NORM_RMS && store->q_norm->bias == NULL);
        out->q_gain = store->q_norm->gain;
        out->k_gain = store->k_norm->gain;
        out->epsilon = store->q_norm->epsilon;
    }
}

/* One launch with everything in it; false when there is none for this op (nothing was started). */
static bool linear_fused(struct cuda *cuda, const struct linear_op *op, int32_t rows)
{
    struct gemm_op g;
    struct qkv_out qkv;
    memset(&g, 0, sizeof g);
    if (op->post != NULL || !cuda_matrix(op->w, 0, op->w->n_parts, &g.w))
        return false;
    if (op->epilogue == EPILOGUE_ACT || (op->epilogue == EPILOGUE_GATE && op->w->n_parts != 2))
        return false;
    if (op->store != NULL && op->store->q_norm != NULL && !norms_heads(op->store))
        return false;
    if (op->store != NULL && op->store->rope != NULL && op->store->rope->n_variants > 1)
        return false;
    const int32_t *order = op->w->parts[0].order;
    g.rows = rows;
    input_of(cuda, op, order, &g);
    if (op->store != NULL) {
        qkv_of(cuda, op, &qkv);
        g.qkv = &qkv;
        g.out = product_out(cuda, 0, op->w->n_out);
        if (op->scale != 1 || cuda->options.invariant || !choose_takes_qkv(cuda, &g))
            return false;
    } else {
        g.out = view_out(op->y, op);
    }
    if (order == NULL || ordered_rows(cuda, op, order, rows))
        (void)gemm(cuda, &g, op->w->name);
    return true;
}

/* Norms of all of q, of all of k, where they stand in the product. */
static bool norm_whole(struct cuda *cuda, const struct linear_op *op, int32_t rows)
{
    const struct kv_store *store = op->store;
    const struct launch launch = launch_of(cuda);
    const int32_t n_out = op->w->n_out;
    if (store->q_norm == NULL || norms_heads(store))
        return true;
    CHECK(store->k_norm != NULL);
    const struct norm *norms[2] = { store->q_norm, store->k_norm };
    for (int32_t i = 0, col = 0; i < 2; col += norms[i]->n, i++) {
        struct gemm_out same = product_out(cuda, col, n_out);
        if (!run(cuda, PATH_POST,
                 post_combine(&launch, cuda->product + col, n_out, rows, norms[i]->n,
                              norm_of(norms[i]), &same),
                 op->w->name))
            return false;
    }
    return true;
}

static void finish_parts(struct cuda *cuda, const struct linear_op *op, int32_t rows)
{
    const struct launch launch = launch_of(cuda);
    const int32_t n_out = op->w->n_out;
    struct gemm_out out = view_out(op->y, op);
    const bool act = op->epilogue == EPILOGUE_ACT;
    if (op->post != NULL && (op->store != NULL || op->epilogue == EPILOGUE_GATE || act)) {
        struct gemm_out same = product_out(cuda, 0, n_out);
        if (!run(cuda, PATH_POST,
                 post_combine(&launch, cuda->product, n_out, rows, n_out, norm_of(op->post), &same),
                 op->w->name))
            return;
    }
    if (op->store != NULL) {
        struct qkv_out qkv;
        CHECK(op->scale == 1);
        if (!norm_whole(cuda, op, rows))
            return;
        qkv_of(cuda, op, &qkv);
        (void)run(cuda, PATH_KV_STORE, kv_store(&launch, cuda->product, n_out, rows, &qkv),
                  op->w->name);
    } else if (op->epilogue == EPILOGUE_GATE || act) {
        CHECK(op->scale == 1);
        (void)run(cuda, PATH_GATE,
                  gate_combine(&launch, cuda->product, n_out, rows, act ? n_out : n_out / 2,
                               op->gate, act, op->y.data, op->y.row_stride),
                  op->w->name);
    } else {
        (void)run(cuda, PATH_POST,
                  post_combine(&launch, cuda->product, n_out, rows, n_out, norm_of(op->post), &out),
                  op->w->name);
    }
}

void cuda_linear(struct backend *be, const struct linear_op *op)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->failed || op->x.n_rows == 0)
        return;
    CHECK(op->x.dtype == DTYPE_BF16 && op->x.n_cols == op->w->n_in);
    CHECK(op->w->n_in <= cuda->limits.cols_max && op->w->n_out <= cuda->limits.cols_max);
    const int32_t rows = rows_of(cuda, op->x.n_rows);
    if (op->store != NULL && !step_send(cuda, op->batch, rows))
        return;
    if (linear_fused(cuda, op, rows))
        return;
    /* A lone part of rows writes y itself. */
    if (op->w->n_parts == 1 && op->post == NULL && op->store == NULL &&
        op->epilogue != EPILOGUE_GATE && op->epilogue != EPILOGUE_ACT) {
        (void)parts_product(cuda, op, rows, view_out(op->y, op));
        return;
    }
    if (parts_product(cuda, op, rows, product_out(cuda, 0, op->w->n_out)))
        finish_parts(cuda, op, rows);
}

/* ---- the others -------------------------------------------------------------------------------
 */

void cuda_embed(struct backend *be, const struct embed_op *op)
{
    struct cuda *cuda = cuda_of(be);
    const int32_t rows = rows_of(cuda, op->batch->n_rows);
    if (cuda->failed || rows == 0 || !step_send(cuda, op->batch, rows))
        return;
    const struct weight_part *part = &op->table->parts[0];
    const struct launch launch = launch_of(cuda);
    struct f64_matrix matrix;
    struct embed_in in;
    memset(&in, 0, sizeof in);
    CHECK(part->order == NULL);
    if (cuda_matrix(op->table, 0, 1, &matrix)) {
        in.w = &matrix;
    } else {
        CHECK(part->shape.layout == LAYOUT_ROWS);
        in.rows_data = part->data;
        in.dtype = part->dtype;
    }
    in.vocab = op->table->n_out;
    in.hidden = op->table->n_in;
    in.tokens = step_ints(cuda, cuda->step.tokens_at);
    in.drawn = cuda->drawn;
    in.rows = rows;
    in.scale = op->scale;
    in.y = op->y.data;
    in.y_stride = op->y.row_stride;
    (void)run(cuda, PATH_EMBED, embed_rows(&launch, &in), op->table->name);
}

void cuda_attend(struct backend *be, const struct attend_op *op)
{
    struct cuda *cuda = cuda_of(be);
    const struct kv_cache *kv = op->kv;
    const struct step_buffers *s = &cuda->step;
    const int32_t g = op->group, rows = rows_of(cuda, op->batch->n_rows);
    if (cuda->failed || rows == 0 || !step_send(cuda, op->batch, rows))
        return;
    const struct launch launch = launch_of(cuda);
    struct attend_in in;
    memset(&in, 0, sizeof in);
    in.q = op->q.data;
    in.y = op->y.data;
    in.q_stride = op->q.row_stride;
    in.y_stride = op->y.row_stride;
    in.pages_memory = (const uint8_t *)kv->groups[g].memory + kv_offset(kv, g, op->layer, 0, 0, 0);
    in.kv_dtype = kv->dtype;
    in.n_pages = kv->groups[g].n_pages;
    in.n_heads = op->n_heads;
    in.n_kv_heads = kv->n_kv_heads;
    in.head_dim = kv->head_dim;
    in.window = kv->groups[g].window;
    in.scale = op->scale;
    in.soft_cap = op->soft_cap;
    in.sinks = op->sinks;
    in.positions = step_ints(cuda, s->positions_at);
    in.row_seq = step_ints(cuda, s->row_seq_at);
    in.pages = s->pages_device[g];
    in.pages_stride = s->pages_stride[g];
    in.partial = cuda->attend_partial;
    in.tickets = cuda->attend_tickets;
    if (s->n_decode[g] > 0) {
        in.items = (const struct attend_item *)(const void *)(s->device + s->decode_at[g]);
        in.n_items = cuda->bucket > 0 ? step_decode_items(cuda, cuda->bucket) : s->n_decode[g];
        if (!run(cuda, PATH_ATTEND_DECODE, attend_decode(&launch, &in), "attention"))
            return;
    }
    if (s->n_prefill[g] > 0) {
        CHECK(cuda->bucket == 0);
        in.items = (const struct attend_item *)(const void *)(s->device + s->prefill_at[g]);
        in.n_items = s->n_prefill[g];
        (void)run(cuda, PATH_ATTEND_PREFILL, attend_prefill(&launch, &in), "attention");
    }
}

void cuda_logits(struct backend *be, const struct logits_op *op)
{
    struct cuda *cuda = cuda_of(be);
    const struct batch *batch = op->batch;
    const int32_t n = cuda->bucket > 0 ? cuda->bucket_logits : batch->n_logit_rows;
    const struct weight *head = op->head;
    if (cuda->failed || n == 0 || !step_send(cuda, batch, rows_of(cuda, batch->n_rows)))
        return;
    const struct launch launch = launch_of(cuda);
    const void *x = op->x.data;
    int64_t stride = op->x.row_stride;
    if (!cuda->step.identity_logits) {
        if (!run(cuda, PATH_GATHER,
                 gather_rows(&launch, x, stride, step_ints(cuda, cuda->step.logit_rows_at), n,
                             head->n_in, cuda->gathered, head->n_in),
                 head->name))
            return;
        x = cuda->gathered;
        stride = head->n_in;
    }
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = op->logits.data;
    out.stride = op->logits.row_stride;
    out.dtype = DTYPE_F32;
    out.scale = op->scale;
    out.soft_cap = op->soft_cap;
    struct gemm_op g;
    memset(&g, 0, sizeof g);
    CHECK(head->parts[0].order == NULL);
    if (cuda_matrix(head, 0, 1, &g.w)) {
        g.rows = n;
        g.x = x;
        g.x_stride = stride;
        g.norm = norm_of(op->norm);
        g.out = out;
        (void)gemm(cuda, &g, head->name);
    } else if (normed_rows(cuda, op->norm, n, head->n_in, &x, &stride, head->name)) {
        (void)rows_product(cuda, &head->parts[0], n, x, stride, out, head->name);
    }
}
