/* experts.c - which row goes to which expert, and what comes back.
 *
 * Called by the CPU backend, one thread at a time; allocates in experts_scratch_open only. */
#include "host/backend/cpu/experts.h"

#include <math.h>
#include <stdlib.h>

/* As in cpu_backend.c: floats of work from which waking the other threads pays. */
enum { ALONE_FLOATS = 16384 };

struct experts_scratch {
    int32_t rows_max, n_experts, n_chosen, cols;
    int32_t *starts;             /* [n_experts + 1] first product row of each expert */
    int32_t *sorted;             /* [rows_max * n_chosen] slot row of each product row */
    int32_t *place;              /* its inverse */
    int32_t *source;             /* row of x of each product row */
    struct linear_group *groups; /* [n_experts] */
    float *products;             /* [rows_max * n_chosen][cols] */
};

bool experts_scratch_open(struct experts_scratch **scratch, const struct backend_limits *limits,
                          struct err *err)
{
    CHECK(limits->n_experts > 0 && limits->n_chosen > 0 && limits->expert_cols > 0);
    CHECK(limits->n_chosen <= limits->n_experts);
    struct experts_scratch *s = calloc(1, sizeof *s);
    *scratch = s;
    size_t slots = 0, bytes = 0;
    if (!s || __builtin_mul_overflow((size_t)limits->rows_max, (size_t)limits->n_chosen, &slots) ||
        slots > INT32_MAX ||
        __builtin_mul_overflow(slots * sizeof(float), (size_t)limits->expert_cols, &bytes))
        goto fail;
    s->rows_max = limits->rows_max;
    s->n_experts = limits->n_experts;
    s->n_chosen = limits->n_chosen;
    s->cols = limits->expert_cols;
    s->starts = calloc((size_t)s->n_experts + 1, sizeof *s->starts);
    s->sorted = malloc(slots * sizeof *s->sorted);
    s->place = malloc(slots * sizeof *s->place);
    s->source = malloc(slots * sizeof *s->source);
    s->groups = calloc((size_t)s->n_experts, sizeof *s->groups);
    s->products = malloc(bytes); /* pages come when they are touched */
    if (s->starts && s->sorted && s->place && s->source && s->groups && s->products)
        return true;
fail:
    experts_scratch_close(s);
    *scratch = NULL;
    return err_set(err, ERR_MEMORY,
                   "scratch for %d rows through %d of %d experts of %d outputs: out of memory",
                   limits->rows_max, limits->n_chosen, limits->n_experts, limits->expert_cols);
}

void experts_scratch_close(struct experts_scratch *s)
{
    if (!s)
        return;
    free(s->starts);
    free(s->sorted);
    free(s->place);
    free(s->source);
    free(s->groups);
    free(s->products);
    free(s);
}

/* ---- route ------------------------------------------------------------------------------------
 */

static bool is_chosen(const int32_t *ids, int32_t n, int32_t id)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

void experts_route_row(enum route kind, const float *logits, int32_t n, int32_t n_chosen,
                       int32_t *ids, float *weights)
{
    for (int32_t s = 0; s < n_chosen; s++) {
        int32_t best = -1, rest = -1;
        for (int32_t e = n - 1; e >= 0; e--) { /* downwards: of equals the first index stays */
            const bool candidate = best < 0 || logits[e] >= logits[best];
            if ((!candidate && !isnan(logits[e])) || is_chosen(ids, s, e))
                continue;
            if (isnan(logits[e]))
                rest = e;
            else
                best = e;
        }
        ids[s] = best >= 0 ? best : rest;
    }
    if (kind == ROUTE_SIGMOID) {
        for (int32_t s = 0; s < n_chosen; s++)
            weights[s] = 1 / (1 + expf(-logits[ids[s]]));
        return;
    }
    const float top = logits[ids[0]];
    float sum = 0;
    for (int32_t s = 0; s < n_chosen; s++) {
        weights[s] = expf(logits[ids[s]] - top);
        sum += weights[s];
    }
    if (kind == ROUTE_SOFTMAX) {
        sum = 0;
        for (int32_t e = 0; e < n; e++)
            sum += expf(logits[e] - top);
    }
    for (int32_t s = 0; s < n_chosen; s++)
        weights[s] /= sum;
}

/* ---- experts ----------------------------------------------------------------------------------
 */

/* Slot rows by expert, in ascending order inside each. */
static void sort_slots(struct experts_scratch *s, const struct linear_experts_op *op,
                       int32_t n_slots)
{
    const int32_t n = op->w->n;
    for (int32_t e = 0; e <= n; e++)
        s->starts[e] = 0;
    for (int32_t i = 0; i < n_slots; i++) {
        CHECK(op->ids[i] >= 0 && op->ids[i] < n);
        s->starts[op->ids[i] + 1]++;
    }
    for (int32_t e = 0; e < n; e++)
        s->starts[e + 1] += s->starts[e];
    for (int32_t i = 0; i < n_slots; i++) {
        const int32_t at = s->starts[op->ids[i]]++; /* at the end: the start of the next */
        s->place[i] = at;
        s->sorted[at] = i;
        s->source[at] = op->epilogue == EPILOGUE_GATE ? i / op->n_chosen : i;
    }
}

/* Product rows [from, to): at most as many as `linear` takes at once. */
static void products(struct pool *pool, struct experts_scratch *s, struct linear_scratch *linear,
                     const struct experts *w, struct view x, int32_t from, int32_t to)
{
    const int32_t n_out = w->each[0].n_out;
    int32_t n_groups = 0;
    for (int32_t e = 0; e < w->n; e++) {
        const int32_t end = s->starts[e], start = e == 0 ? 0 : s->starts[e - 1];
        const int32_t first = start > from ? start : from, last = end < to ? end : to;
        if (first < last)
            s->groups[n_groups++] =
                (struct linear_group){ &w->each[e], first - from, last - first };
    }
    const struct view y =
        view_of(s->products + (size_t)from * (size_t)n_out, DTYPE_F32, to - from, n_out);
    linear_product_groups(pool, linear, s->groups, n_groups, x, s->source + from, y);
}

struct finish {
    const struct experts_scratch *s;
    const struct ops_kernels *kernels;
    const struct linear_experts_op *op;
};
static void gate_row(const struct finish *f, int32_t slot)
{
    const struct linear_experts_op *op = f->op;
    const int32_t n = op->y.n_cols;
    const float *product = f->s->products + (size_t)f->s->place[slot] * 2 * (size_t)n;
    float *y = view_row(op->y, slot);
    if (op->gate == GATE_SWIGLU_CLAMPED)
        f->kernels->gate_clamped(product, product + n, y, n, op->gate_limit);
    else
        f->kernels->gate(op->gate, product, product + n, y, n, 1);
}
static void add_row(const struct finish *f, int32_t row)
{
    const struct linear_experts_op *op = f->op;
    const int32_t n = op->y.n_cols, k = op->n_chosen;
    const int32_t *place = f->s->place + (size_t)row * (size_t)k;
    const float *weights = op->weights + (size_t)row * (size_t)k;
    float *first = f->s->products + (size_t)place[0] * (size_t)n;
    ops_scale(first, first, n, weights[0]);
    for (int32_t i = 1; i < k; i++)
        ops_add(f->s->products + (size_t)place[i] * (size_t)n, first, n, weights[i]);
    ops_add(first, view_row(op->y, row), n, op->scale);
}
static void finish_rows(void *arg, int32_t part, int32_t n_parts)
{
    const struct finish *f = arg;
    int64_t from, to;
    pool_share(f->op->y.n_rows, 1, part, n_parts, &from, &to);
    for (int32_t r = (int32_t)from; r < to; r++)
        if (f->op->epilogue == EPILOGUE_GATE)
            gate_row(f, r);
        else
            add_row(f, r);
}

void experts_run(struct pool *pool, struct experts_scratch *s, struct linear_scratch *linear,
                 const struct ops_kernels *kernels, const struct linear_experts_op *op,
                 struct view x)
{
    const bool gate = op->epilogue == EPILOGUE_GATE;
    const int32_t n_rows = gate ? x.n_rows : op->y.n_rows, n_slots = n_rows * op->n_chosen;
    const int32_t n_out = op->w->each[0].n_out;
    CHECK(gate || op->epilogue == EPILOGUE_ADD);
    CHECK(n_rows <= s->rows_max && op->n_chosen >= 1 && op->n_chosen <= s->n_chosen);
    CHECK(op->w->n >= op->n_chosen && op->w->n <= s->n_experts && n_out <= s->cols);
    CHECK((gate ? op->y.n_rows : x.n_rows) == n_slots);
    CHECK(op->y.n_cols == (gate ? n_out / 2 : n_out));
    for (int32_t e = 1; e < op->w->n; e++)
        CHECK(linear_same_forms(&op->w->each[0], &op->w->each[e]));
    sort_slots(s, op, n_slots);
    for (int32_t from = 0; from < n_slots; from += s->rows_max)
        products(pool, s, linear, op->w, x, from,
                 n_slots - from < s->rows_max ? n_slots : from + s->rows_max);
    struct finish finish = { s, kernels, op };
    if (op->y.n_rows == 1 || (int64_t)n_slots * n_out < ALONE_FLOATS)
        finish_rows(&finish, 0, 1);
    else
        pool_run(pool, finish_rows, &finish);
}
