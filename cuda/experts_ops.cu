/* experts_ops.cu - route and linear_experts as launches.
 *
 * route makes the lists that its experts' products need: which slot rows an expert has, in tiles.
 * A product is one launch for all experts, with a grid for the most tiles that there can be:
 * nothing waits for the host. F64 parts of one kind go through gemm_mma, whose sums have one order
 * whatever the tile, rows of numbers through gemm_rows. */
#include <string.h>
#include "cuda/state.h"

static bool run(struct cuda *cuda, enum path path, cudaError_t status, const char *name)
{
    cuda->counts[path]++;
    return cuda_ok(cuda, status, path_names[path], name);
}
static int64_t slots_max(const struct cuda *cuda)
{
    return (int64_t)cuda->limits.rows_max * cuda->limits.n_chosen;
}

bool experts_reserve(struct cuda *cuda, struct err *err)
{
    const struct backend_limits *l = &cuda->limits;
    struct experts_state *e = &cuda->experts;
    if (l->n_experts > EXPERTS_LIMIT)
        return err_set(err, ERR_UNSUPPORTED, "cuda: %d experts are not supported, at most %d",
                       l->n_experts, EXPERTS_LIMIT);
    const int64_t slots = slots_max(cuda);
    if (slots > INT32_MAX / 2)
        return err_set(err, ERR_MEMORY, "cuda: %d rows through %d experts each", l->rows_max,
                       l->n_chosen);
    const size_t n = (size_t)slots, cols = (size_t)f64_pad(l->expert_cols, F64_UNIT_COLS);
    e->x_elements = slots * (int64_t)cols;
    const struct {
        void **memory;
        size_t bytes;
        const char *what;
    } wanted[] = {
        { (void **)&e->lists.sorted, n * sizeof(int32_t), "rows of experts" },
        { (void **)&e->lists.ranks, n * sizeof(int32_t), "rows of experts" },
        { (void **)&e->x, n * cols * sizeof(uint16_t), "inputs of experts" },
        { (void **)&e->x_scale, n * sizeof(float), "scales of experts' inputs" },
        { (void **)&e->product, n * (size_t)l->expert_cols * sizeof(float), "products of experts" },
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!cuda_take(cuda, wanted[i].memory, wanted[i].bytes, wanted[i].what, err))
            return false;
    for (int32_t i = 0; i < EXPERT_LISTS; i++) {
        const int32_t tiles = experts_tiles_max(i, (int32_t)slots, l->n_experts);
        if (!cuda_take(cuda, (void **)&e->lists.tiles[i],
                       (size_t)tiles * sizeof(struct expert_tile), "tiles of experts", err))
            return false;
    }
    return true;
}

void cuda_route(struct backend *be, const struct route_op *op)
{
    struct cuda *cuda = cuda_of(be);
    struct experts_state *e = &cuda->experts;
    if (cuda->failed || op->logits.n_rows == 0)
        return;
    CHECK(op->logits.dtype == DTYPE_F32 && op->logits.n_cols <= cuda->limits.n_experts);
    CHECK(op->n_chosen >= 1 && op->n_chosen <= op->logits.n_cols &&
          op->n_chosen <= cuda->limits.n_chosen && op->logits.n_rows <= cuda->limits.rows_max);
    const struct launch launch = launch_of(cuda);
    struct route_in in;
    memset(&in, 0, sizeof in);
    in.logits = (const float *)op->logits.data;
    in.stride = op->logits.row_stride;
    in.rows = rows_of(cuda, op->logits.n_rows);
    in.n_experts = op->logits.n_cols;
    in.n_chosen = op->n_chosen;
    in.kind = op->kind;
    if (cuda->bucket > 0)
        in.positions = step_ints(cuda, cuda->step.positions_at);
    in.ids = op->ids;
    in.weights = op->weights;
    if (!run(cuda, PATH_ROUTE, experts_route(&launch, &in), "experts"))
        return;
    e->rows = in.rows;
    e->n_chosen = in.n_chosen;
    e->n_experts = in.n_experts;
    const int32_t n_slots = in.rows * in.n_chosen;
    for (int32_t i = 0; i < EXPERT_LISTS; i++)
        e->lists.n_tiles[i] = experts_tiles_max(i, n_slots, in.n_experts);
    (void)cuda_ok(cuda, experts_plan(&launch, in.ids, n_slots, in.n_experts, &e->lists), "route",
                  "lists of experts");
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* Bytes from `first` of expert 0 to that of the last, divided. */
static int64_t stride_of(const struct experts *w, const void *first, const void *last)
{
    if (w->n == 1 || first == NULL)
        return 0;
    const int64_t bytes = (const char *)last - (const char *)first;
    CHECK(last != NULL && bytes % (w->n - 1) == 0);
    return bytes / (w->n - 1);
}
static struct gemm_groups groups_of(const struct cuda *cuda, const struct experts *w, int32_t list,
                                    int32_t part, int32_t n_parts)
{
    const struct experts_state *e = &cuda->experts;
    const struct weight *first = &w->each[0], *last = &w->each[w->n - 1];
    struct gemm_groups groups;
    memset(&groups, 0, sizeof groups);
    groups.tiles = e->lists.tiles[list];
    groups.n_tiles = e->lists.n_tiles[list];
    groups.tokens = 1 << EXPERT_TILE_SHIFT(list);
    groups.rows = e->lists.sorted;
    for (int32_t p = 0; p < n_parts; p++) {
        groups.part_stride[p] =
            stride_of(w, first->parts[part + p].data, last->parts[part + p].data);
        groups.bias_stride[p] =
            stride_of(w, first->parts[part + p].bias, last->parts[part + p].bias);
    }
    return groups;
}
/* Elements of a row of e->x. */
static int32_t x_stride_of(const struct linear_experts_op *op)
{
    return f64_pad(op->x.n_cols, F64_UNIT_COLS);
}
/* Tiles that the rows of an expert fill on average. */
static int32_t list_of(const struct experts_state *e)
{
    const int32_t rows = e->rows * e->n_chosen / e->n_experts;
    return rows <= 8 ? 0 : rows <= 32 ? 1 : 2;
}

/* x of every product row, in the form that the kernel reads. */
static bool prepare_x(struct cuda *cuda, const struct linear_experts_op *op, bool f64)
{
    const struct experts_state *e = &cuda->experts;
    const struct launch launch = launch_of(cuda);
    struct prepare_op prepare;
    memset(&prepare, 0, sizeof prepare);
    prepare.from = e->lists.sorted;
    prepare.divisor = op->epilogue == EPILOGUE_GATE ? op->n_chosen : 1;
    prepare.x = op->x.data;
    prepare.x_stride = op->x.row_stride;
    prepare.rows = e->rows * e->n_chosen;
    prepare.n_in = op->x.n_cols;
    prepare.norm = norm_of(op->pre);
    prepare.y = e->x;
    prepare.y_stride = x_stride_of(op);
    prepare.scale = e->x_scale;
    return run(cuda, PATH_PREPARE,
               f64 ? prepare_f16(&launch, &prepare) : prepare_bf16(&launch, &prepare), op->w->name);
}

/* Parts [part, part + n) into `out`, in slot order. */
static bool product_f64(struct cuda *cuda, const struct linear_experts_op *op,
                        const struct f64_matrix *matrix, int32_t part, struct gemm_out out)
{
    const struct experts_state *e = &cuda->experts;
    const struct experts *w = op->w;
    const struct gemm_groups groups = groups_of(cuda, w, list_of(e), part, matrix->n_parts);
    const struct launch launch = launch_of(cuda);
    struct gemm_op g;
    memset(&g, 0, sizeof g);
    g.w = *matrix;
    g.rows = e->rows * e->n_chosen;
    g.groups = &groups;
    g.x = e->x;
    g.x_stride = x_stride_of(op);
    g.x_scale = e->x_scale;
    g.out = out;
    g.splits = 1;
    CHECK(gemm_mma_fits(&g, &cuda->info));
    return run(cuda, PATH_EXPERTS_MMA, gemm_mma(&launch, &g), w->name);
}
static bool product_rows(struct cuda *cuda, const struct linear_experts_op *op, int32_t part,
                         struct gemm_out out)
{
    const struct experts_state *e = &cuda->experts;
    const struct experts *w = op->w;
    const struct weight_part *p = &w->each[0].parts[part];
    CHECK(p->shape.layout == LAYOUT_ROWS && p->order == NULL);
    const struct gemm_groups groups = groups_of(cuda, w, EXPERT_LISTS - 1, part, 1);
    const struct launch launch = launch_of(cuda);
    struct rows_op rows;
    memset(&rows, 0, sizeof rows);
    rows.w = p->data;
    rows.dtype = p->dtype;
    rows.n_out = p->shape.n_out;
    rows.n_in = p->shape.n_in;
    rows.rows = e->rows * e->n_chosen;
    rows.x = e->x;
    rows.x_stride = x_stride_of(op);
    rows.bias = p->bias;
    rows.groups = &groups;
    rows.out = out;
    return run(cuda, PATH_EXPERTS_ROWS, gemm_rows(&launch, &rows), w->name);
}
/* All parts side by side in e->product; x is prepared for each kind that there is. */
static bool products(struct cuda *cuda, const struct linear_experts_op *op)
{
    const struct weight *first = &op->w->each[0];
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = cuda->experts.product;
    out.stride = first->n_out;
    out.dtype = DTYPE_F32;
    out.scale = 1;
    int32_t prepared = -1;
    for (int32_t p = 0; p < first->n_parts; p++) {
        struct f64_matrix matrix;
        const bool f64 = cuda_matrix(first, p, p + 1, &matrix);
        if (prepared != f64 && !prepare_x(cuda, op, f64))
            return false;
        prepared = f64;
        if (!(f64 ? product_f64(cuda, op, &matrix, p, out) : product_rows(cuda, op, p, out)))
            return false;
        out.y = (float *)out.y + first->parts[p].shape.n_out;
    }
    return true;
}

/* Gate and up of one kind: the gate in the product's epilogue. */
static bool gate_fused(struct cuda *cuda, const struct linear_experts_op *op)
{
    struct f64_matrix matrix;
    if (op->gate == GATE_SWIGLU_CLAMPED || op->w->each[0].n_parts != 2 ||
        !cuda_matrix(&op->w->each[0], 0, 2, &matrix))
        return false;
    struct gemm_out out;
    memset(&out, 0, sizeof out);
    out.y = op->y.data;
    out.stride = op->y.row_stride;
    out.dtype = op->y.dtype;
    out.epilogue = EPILOGUE_GATE;
    out.gate = op->gate;
    out.scale = 1;
    if (prepare_x(cuda, op, true))
        (void)product_f64(cuda, op, &matrix, 0, out);
    return true;
}

static void finish_gate(struct cuda *cuda, const struct linear_experts_op *op)
{
    const struct experts_state *e = &cuda->experts;
    const struct launch launch = launch_of(cuda);
    struct experts_gate_in in;
    memset(&in, 0, sizeof in);
    in.x = e->product;
    in.x_stride = op->w->each[0].n_out;
    in.ids = op->ids;
    in.n_slots = e->rows * e->n_chosen;
    in.n = op->y.n_cols;
    in.gate = op->gate;
    in.limit = op->gate_limit;
    in.y = op->y.data;
    in.y_stride = op->y.row_stride;
    (void)run(cuda, PATH_EXPERTS_GATE, experts_gate(&launch, &in), op->w->name);
}
static void finish_add(struct cuda *cuda, const struct linear_experts_op *op)
{
    const struct experts_state *e = &cuda->experts;
    const struct launch launch = launch_of(cuda);
    struct experts_add_in in;
    memset(&in, 0, sizeof in);
    in.x = e->product;
    in.x_stride = op->w->each[0].n_out;
    in.ids = op->ids;
    in.weights = op->weights;
    in.rows = e->rows;
    in.n_chosen = e->n_chosen;
    in.n = op->y.n_cols;
    in.scale = op->scale;
    in.y = op->y.data;
    in.y_stride = op->y.row_stride;
    (void)run(cuda, PATH_EXPERTS_ADD, experts_add(&launch, &in), op->w->name);
}

void cuda_linear_experts(struct backend *be, const struct linear_experts_op *op)
{
    struct cuda *cuda = cuda_of(be);
    const struct experts_state *e = &cuda->experts;
    const bool gate = op->epilogue == EPILOGUE_GATE;
    if (cuda->failed || op->x.n_rows == 0)
        return;
    const struct weight *first = &op->w->each[0];
    CHECK(gate || op->epilogue == EPILOGUE_ADD);
    CHECK(op->x.dtype == DTYPE_BF16 && op->y.dtype == DTYPE_BF16);
    CHECK(op->x.n_cols == first->n_in && op->y.n_cols == (gate ? first->n_out / 2 : first->n_out));
    for (int32_t p = 0; p < first->n_parts; p++)
        CHECK(first->parts[p].order == NULL);
    CHECK(op->w->n == e->n_experts && op->n_chosen == e->n_chosen); /* of the latest route */
    CHECK(rows_of(cuda, gate ? op->x.n_rows : op->y.n_rows) == e->rows);
    CHECK((gate ? op->y.n_rows : op->x.n_rows) ==
          (gate ? op->x.n_rows : op->y.n_rows) * op->n_chosen);
    CHECK((int64_t)e->rows * e->n_chosen * x_stride_of(op) <= e->x_elements);
    CHECK((int64_t)first->n_out <= cuda->limits.expert_cols);
    if (gate && gate_fused(cuda, op))
        return;
    if (!products(cuda, op))
        return;
    if (gate)
        finish_gate(cuda, op);
    else
        finish_add(cuda, op);
}
