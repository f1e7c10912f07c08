/* route and linear_experts of the CPU backend against plain loops in double, and bit for bit
 * against `linear` with each expert alone, for every resident layout, company, threads and
 * instruction set. */
#include "tests/support/support.h"
#include "tests/ops/plain.h"
#include "tests/ops/plain_experts.h"
#include "host/backend/cpu/cpu_backend.h"
#include "host/backend/cpu/experts.h"
#include "host/backend/cpu/isa.h"
#include "host/base/rng.h"

enum {
    EXPERTS_MAX = 9,
    ROWS_MAX = 70, /* of a step; more slot rows than the products' scratch takes at once */
    CHOSEN_MAX = 4,
    HIDDEN = 144,
    MLP = 72
};

static float uniform(uint64_t stream, int64_t i)
{
    return (float)(2 * rng_uniform(23, stream, (uint64_t)i) - 1);
}
static float *uniforms(uint64_t stream, int64_t n, float size)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = size * uniform(stream, i);
    return x;
}

static struct backend *open_cpu(int32_t n_threads, enum cpu_isa isa, int32_t n_experts)
{
    static const struct backend_limits common = { .rows_max = ROWS_MAX,
                                                  .logit_rows_max = 1,
                                                  .cols_max = 2 * HIDDEN,
                                                  .vocab = 1,
                                                  .n_heads = 1,
                                                  .head_dim = 2,
                                                  .ctx = 16,
                                                  .n_chosen = CHOSEN_MAX,
                                                  .expert_cols = 2 * HIDDEN };
    struct backend *be;
    struct err err;
    const struct cpu_options options = { n_threads, false, isa };
    struct backend_limits limits = common;
    limits.n_experts = n_experts;
    limits.n_chosen = n_experts < CHOSEN_MAX ? n_experts : CHOSEN_MAX;
    assert_ok(cpu_backend_open(&be, &options, &err), &err);
    assert_ok(be->ops->prepare(be, &limits, &err), &err);
    return be;
}
static void done(struct backend *be)
{
    struct err err;
    assert_ok(be->ops->finish(be, &err), &err);
    be->ops->close(be);
}

/* ---- route ------------------------------------------------------------------------------------
 */

static void test_route(void **state)
{
    (void)state;
    static const enum route kinds[] = { ROUTE_SOFTMAX, ROUTE_SOFTMAX_CHOSEN, ROUTE_SIGMOID };
    enum { ROWS = 40 };
    for (int32_t n = 1; n <= EXPERTS_MAX; n++)
        for (int32_t k = 1; k <= n && k <= CHOSEN_MAX; k++)
            for (size_t kind = 0; kind < 3; kind++)
                for (int32_t threads = 1; threads <= 2; threads++) {
                    float *logits = uniforms((uint64_t)(n * 8 + k), (int64_t)ROWS * n, 6);
                    for (int32_t i = 0; i < ROWS * n; i += 3)
                        logits[i] = rintf(logits[i]); /* ties among the whole numbers */
                    int32_t ids[ROWS * CHOSEN_MAX];
                    float weights[ROWS * CHOSEN_MAX];
                    struct backend *be = open_cpu(threads, CPU_ISA_AUTO, EXPERTS_MAX);
                    be->ops->route(be, &(struct route_op){ view_of(logits, DTYPE_F32, ROWS, n), ids,
                                                           weights, k, kinds[kind] });
                    done(be);
                    int32_t want_ids[CHOSEN_MAX];
                    double want[CHOSEN_MAX];
                    for (int32_t r = 0; r < ROWS; r++) {
                        plain_route(kinds[kind], logits + r * n, n, k, want_ids, want);
                        for (int32_t s = 0; s < k; s++) {
                            assert_int_equal(ids[r * k + s], want_ids[s]);
                            assert_true(fabs((double)weights[r * k + s] - want[s]) < 1e-6);
                        }
                    }
                    free(logits);
                }
}

static void test_route_of_hand_made_rows(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        float logits[5];
        int32_t ids[3];
    } rows[] = {
        { "the greatest first", { 1, 5, 3, 4, 2 }, { 1, 3, 2 } },
        { "of equals the first index", { 7, 7, 7, 7, 7 }, { 0, 1, 2 } },
        { "equals behind a greater one", { 0, 2, 9, 2, 2 }, { 2, 1, 3 } },
        { "minus infinity is a number", { -INFINITY, 1, -INFINITY, 0, -INFINITY }, { 1, 3, 0 } },
        { "NaN comes last", { NAN, 1, NAN, -3, 0 }, { 1, 4, 3 } },
        { "nothing but NaN", { NAN, NAN, NAN, NAN, NAN }, { 0, 1, 2 } },
        { "one number among NaN", { NAN, NAN, NAN, 2, NAN }, { 3, 0, 1 } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int32_t ids[3];
        float weights[3];
        experts_route_row(ROUTE_SOFTMAX_CHOSEN, rows[i].logits, 5, 3, ids, weights);
        for (int32_t s = 0; s < 3; s++)
            if (ids[s] != rows[i].ids[s])
                fail_msg("%s: slot %d is %d", rows[i].sentence, s, ids[s]);
    }
}

/* ---- experts ----------------------------------------------------------------------------------
 */

struct form {
    const char *name;
    enum layout layout;
    int32_t bits, group;
    bool symmetric;
    enum dtype dtype;
    bool order;
    double nmse_max; /* int8 activations cost about 1e-5 */
};
static const struct form forms[] = {
    { "rows of f32", LAYOUT_ROWS, 0, 0, false, DTYPE_F32, false, 1e-12 },
    { "rows of bf16", LAYOUT_ROWS, 0, 0, false, DTYPE_BF16, false, 1e-12 },
    { "rows of f16, ordered", LAYOUT_ROWS, 0, 0, false, DTYPE_F16, true, 1e-12 },
    { "codes", LAYOUT_CODES, 4, 24, false, DTYPE_NONE, false, 1e-12 },
    { "codes, ordered", LAYOUT_CODES, 3, 32, true, DTYPE_NONE, true, 1e-12 },
    { "W4_C16", LAYOUT_W4_C16, 4, 32, true, DTYPE_NONE, false, 2e-4 },
    { "W4_C16, asymmetric, ordered", LAYOUT_W4_C16, 4, 64, false, DTYPE_NONE, true, 2e-4 },
    { "W8_C16", LAYOUT_W8_C16, 8, 128, true, DTYPE_NONE, false, 2e-4 },
    { "CHUNKS_C16", LAYOUT_CHUNKS_C16, 3, 32, true, DTYPE_NONE, false, 2e-4 },
    { "CHUNKS_C16, asymmetric, ordered", LAYOUT_CHUNKS_C16, 5, 16, false, DTYPE_NONE, true, 2e-4 },
};
enum { N_FORMS = sizeof forms / sizeof *forms };

/* What one test has: weights of all experts, and the same as doubles. */
struct bank {
    struct weight each[EXPERTS_MAX];
    void *blocks[EXPERTS_MAX][2];
    float *biases[EXPERTS_MAX][2];
    int32_t order[2 * HIDDEN];
};

static void make_part(struct bank *bank, const struct form *form, int32_t e, int32_t p,
                      int32_t n_out, int32_t n_in)
{
    struct err err;
    struct weight *w = &bank->each[e];
    struct weight_part *part = &w->parts[p];
    const uint64_t seed = (uint64_t)(100 + 4 * e + 2 * p);
    const int32_t group = form->group == 0 || form->group > n_in ? n_in : form->group;
    float *rows = uniforms(seed, (int64_t)n_out * n_in, 0.2f);
    *part = (struct weight_part){
        .shape = { form->layout, n_out, n_in, form->bits, group, form->symmetric },
        .dtype = form->dtype,
        .bias = bank->biases[e][p] = uniforms(seed + 1, n_out, 0.5f),
        .order = form->order ? bank->order : NULL,
    };
    if (form->layout == LAYOUT_ROWS) {
        const size_t n = (size_t)n_out * (size_t)n_in;
        bank->blocks[e][p] = malloc(n * dtype_bytes(form->dtype));
        half_narrow(bank->blocks[e][p], rows, form->dtype, n);
    } else {
        struct matrix m;
        assert_ok(matrix_init(&m, n_out, n_in, form->bits, group, form->symmetric, &err), &err);
        assert_ok(matrix_quantize_rows(&m, rows, 0, n_out, &err), &err);
        bank->blocks[e][p] = aligned_alloc(64, layout_bytes(&part->shape));
        layout_pack(&part->shape, &m, 0, n_out, bank->blocks[e][p]);
        matrix_clear(&m);
    }
    part->data = bank->blocks[e][p];
    free(rows);
}
static struct bank *make_bank(const struct form *form, int32_t n_experts, int32_t n_parts,
                              int32_t part_out, int32_t n_in)
{
    struct bank *bank = calloc(1, sizeof *bank);
    assert_non_null(bank);
    for (int32_t i = 0; i < n_in; i++)
        bank->order[i] = i % 2 ? i / 2 : n_in - 1 - i / 2;
    for (int32_t e = 0; e < n_experts; e++) {
        bank->each[e] = (struct weight){
            .name = "experts", .n_out = n_parts * part_out, .n_in = n_in, .n_parts = n_parts
        };
        for (int32_t p = 0; p < n_parts; p++)
            make_part(bank, form, e, p, part_out, n_in);
    }
    return bank;
}
static void free_bank(struct bank *bank)
{
    for (int32_t e = 0; e < EXPERTS_MAX; e++)
        for (int32_t p = 0; p < 2; p++) {
            free(bank->blocks[e][p]);
            free(bank->biases[e][p]);
        }
    free(bank);
}

struct run {
    const struct form *form;
    int32_t n_experts, n_chosen, n_rows;
    enum gate gate;
    const struct norm *norm;
    float *x, *hidden, *y0; /* inputs: [rows], [slots], what y has before */
    int32_t *ids;
    float *weights;
    struct experts up, down;
};
/* rows [from, from + n): gated [slots][MLP], y [rows][HIDDEN] */
static void run_rows(struct backend *be, const struct run *run, int32_t from, int32_t n,
                     float *gated, float *y)
{
    const int32_t k = run->n_chosen;
    struct linear_experts_op op = { .x = view_of(run->x + from * HIDDEN, DTYPE_F32, n, HIDDEN),
                                    .y = view_of(gated, DTYPE_F32, n * k, MLP),
                                    .w = &run->up,
                                    .pre = run->norm,
                                    .ids = run->ids + from * k,
                                    .weights = run->weights + from * k,
                                    .n_chosen = k,
                                    .epilogue = EPILOGUE_GATE,
                                    .gate = run->gate,
                                    .gate_limit = 1.25f,
                                    .scale = 1 };
    be->ops->linear_experts(be, &op);
    memcpy(y, run->y0 + from * HIDDEN, sizeof *y * (size_t)(n * HIDDEN));
    op.x = view_of(run->hidden + from * k * MLP, DTYPE_F32, n * k, MLP);
    op.y = view_of(y, DTYPE_F32, n, HIDDEN);
    op.w = &run->down;
    op.pre = NULL;
    op.epilogue = EPILOGUE_ADD;
    op.scale = 0.75f;
    be->ops->linear_experts(be, &op);
}

static void plain_rows(const struct run *run, double *gated, double *y)
{
    const int32_t k = run->n_chosen;
    double *in = malloc(sizeof *in * HIDDEN);
    for (int32_t r = 0; r < run->n_rows; r++) {
        for (int32_t i = 0; i < HIDDEN; i++) {
            in[i] = (double)run->x[r * HIDDEN + i];
            y[r * HIDDEN + i] = (double)run->y0[r * HIDDEN + i];
        }
        if (run->norm)
            plain_norm(run->norm, in);
        for (int32_t s = 0; s < k; s++) {
            double both[2 * MLP], out[HIDDEN], hidden[MLP];
            const int32_t slot = r * k + s, e = run->ids[slot];
            plain_linear(&run->up.each[e], in, both);
            for (int32_t o = 0; o < MLP; o++) {
                gated[slot * MLP + o] = plain_gate(run->gate, both[o], both[MLP + o], 1.25);
                hidden[o] = (double)run->hidden[slot * MLP + o];
            }
            plain_linear(&run->down.each[e], hidden, out);
            for (int32_t o = 0; o < HIDDEN; o++)
                y[r * HIDDEN + o] += 0.75 * (double)run->weights[slot] * out[o];
        }
    }
    free(in);
}

/* The same from `linear` with one expert and one row at a time: the same bits. */
static void check_alone(struct backend *be, const struct run *run, const float *gated,
                        const float *y)
{
    const int32_t k = run->n_chosen;
    for (int32_t r = 0; r<run->n_rows; r += run->n_rows> 8 ? 7 : 1) {
        float sum[HIDDEN] = { 0 }, out[HIDDEN], alone[MLP];
        for (int32_t s = 0; s < k; s++) {
            const int32_t slot = r * k + s;
            struct linear_op op = { .x = view_of(run->x + r * HIDDEN, DTYPE_F32, 1, HIDDEN),
                                    .y = view_of(alone, DTYPE_F32, 1, MLP),
                                    .w = &run->up.each[run->ids[slot]],
                                    .pre = run->norm,
                                    .epilogue = EPILOGUE_GATE,
                                    .gate = run->gate,
                                    .scale = 1 };
            if (run->gate != GATE_SWIGLU_CLAMPED) {
                be->ops->linear(be, &op);
                assert_memory_equal(alone, gated + slot * MLP, sizeof alone);
            }
            op.x = view_of(run->hidden + slot * MLP, DTYPE_F32, 1, MLP);
            op.y = view_of(out, DTYPE_F32, 1, HIDDEN);
            op.w = &run->down.each[run->ids[slot]];
            op.pre = NULL;
            op.epilogue = EPILOGUE_STORE;
            be->ops->linear(be, &op);
            for (int32_t i = 0; i < HIDDEN; i++)
                sum[i] += out[i] * run->weights[slot];
        }
        for (int32_t i = 0; i < HIDDEN; i++)
            sum[i] = run->y0[r * HIDDEN + i] + sum[i] * 0.75f;
        assert_memory_equal(sum, y + r * HIDDEN, sizeof sum);
    }
}

static void check_run(struct run *run, const char *what)
{
    static const enum cpu_isa isas[] = { CPU_ISA_PORTABLE, CPU_ISA_AVX2, CPU_ISA_AVX512,
                                         CPU_ISA_AUTO };
    const int32_t n = run->n_rows, n_slots = n * run->n_chosen;
    const size_t gated_bytes = sizeof(float) * (size_t)(n_slots * MLP);
    const size_t y_bytes = sizeof(float) * (size_t)(n * HIDDEN);
    double *want_gated = malloc(2 * gated_bytes), *want_y = malloc(2 * y_bytes);
    float *gated = malloc(gated_bytes), *y = malloc(y_bytes);
    float *gated2 = malloc(gated_bytes), *y2 = malloc(y_bytes);
    plain_rows(run, want_gated, want_y);
    bool first = true;
    for (size_t i = 0; i < 4; i++)
        for (int32_t threads = 1; threads <= 2 && cpu_isa_available(isas[i]); threads++) {
            struct backend *be = open_cpu(threads, isas[i], run->n_experts);
            run_rows(be, run, 0, n, first ? gated : gated2, first ? y : y2);
            if (first) {
                check_alone(be, run, gated, y);
            } else {
                assert_memory_equal(gated, gated2, gated_bytes);
                assert_memory_equal(y, y2, y_bytes);
            }
            first = false;
            const int32_t some = n / 3, from = n - some; /* in other company */
            run_rows(be, run, from, some, gated2, y2);
            assert_memory_equal(gated + from * run->n_chosen * MLP, gated2,
                                sizeof(float) * (size_t)(some * run->n_chosen * MLP));
            assert_memory_equal(y + from * HIDDEN, y2, sizeof(float) * (size_t)(some * HIDDEN));
            done(be);
        }
    const double a = plain_nmse(gated, want_gated, (int64_t)n_slots * MLP);
    const double b = plain_nmse(y, want_y, (int64_t)n * HIDDEN);
    if (!(a <= run->form->nmse_max && b <= run->form->nmse_max))
        fail_msg("%s, %s: NMSE %.3g of the gates, %.3g of the sums", run->form->name, what, a, b);
    free(want_gated);
    free(want_y);
    free(gated);
    free(y);
    free(gated2);
    free(y2);
}

static void test_experts(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        int32_t n_experts, n_chosen, n_rows;
        enum gate gate;
        bool norm, lopsided; /* most rows want the same experts */
    } rows[] = {
        { "one row", 9, 4, 1, GATE_SILU, true, false },
        { "few rows", 5, 2, 6, GATE_GELU_TANH, false, false },
        { "many rows", 9, 3, ROWS_MAX, GATE_SILU, true, false },
        { "everybody wants the same", 9, 3, ROWS_MAX, GATE_SILU, false, true },
        { "a shared expert", 1, 1, 20, GATE_SILU, true, false },
        { "all experts chosen", 4, 4, 11, GATE_RELU2, true, false },
        { "clamped gate", 6, 2, 13, GATE_SWIGLU_CLAMPED, true, false },
    };
    float *gain = uniforms(1, HIDDEN, 1);
    const struct norm norm = { NORM_RMS, gain, NULL, HIDDEN, 1e-5f };
    for (int32_t f = 0; f < N_FORMS; f++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            const int32_t n = rows[i].n_rows, k = rows[i].n_chosen, e = rows[i].n_experts;
            struct bank *up = make_bank(&forms[f], e, 2, MLP, HIDDEN);
            struct bank *down = make_bank(&forms[f], e, 1, HIDDEN, MLP);
            float *logits = uniforms(9, (int64_t)n * e, 3);
            for (int32_t r = 0; r < n && rows[i].lopsided; r++)
                if (r % 9 != 0)
                    memcpy(logits + r * e, logits, sizeof *logits * (size_t)e);
            struct run run = { .form = &forms[f],
                               .n_experts = e,
                               .n_chosen = k,
                               .n_rows = n,
                               .gate = rows[i].gate,
                               .norm = rows[i].norm ? &norm : NULL,
                               .x = uniforms(2, (int64_t)n * HIDDEN, 2),
                               .hidden = uniforms(3, (int64_t)n * k * MLP, 2),
                               .y0 = uniforms(4, (int64_t)n * HIDDEN, 1),
                               .ids = malloc(sizeof(int32_t) * (size_t)(n * k)),
                               .weights = malloc(sizeof(float) * (size_t)(n * k)),
                               .up = { "up", e, up->each },
                               .down = { "down", e, down->each } };
            for (int32_t r = 0; r < n; r++)
                experts_route_row(ROUTE_SOFTMAX, logits + r * e, e, k, run.ids + r * k,
                                  run.weights + r * k);
            check_run(&run, rows[i].what);
            free(logits);
            free(run.x);
            free(run.hidden);
            free(run.y0);
            free(run.ids);
            free(run.weights);
            free_bank(up);
            free_bank(down);
        }
    free(gain);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_route),
                                        cmocka_unit_test(test_route_of_hand_made_rows),
                                        cmocka_unit_test(test_experts) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
