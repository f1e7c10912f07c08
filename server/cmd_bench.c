/* cmd_bench.c - prefill and decode rates of a model, and their share of what this machine can do.
 *
 *   decode   share = bytes a step must read (weights + keys and values) / time / streaming rate
 *   prefill  share = 2 x weights x rows / time / int8 peak          (attention is not counted)
 *
 * Shared machines change speed from second to second: so the limit and the case are measured in
 * turn, the share is that of one turn, and medians over all rounds are shown. Calls model_forward
 * with batches made by hand; no engine, no tokenizer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/backend/cpu/limits.h"
#include "host/base/clock.h"
#include "host/base/half.h"
#include "host/base/log.h"
#include "host/base/pool.h"
#include "host/base/rng.h"
#include "server/commands.h"
#include "server/load_model.h"
#include "server/loadgen.h"

enum {
    CASE_MS = 250,     /* a case is repeated for so long in a round ... */
    REPEATS_MAX = 200, /* ... at most so often, and at least once */
    CASES_MAX = 2 * OPTION_LIST_MAX,
    SLOTS_MAX = 8192,
    FILL_ELEMENTS = 1 << 18,
};

struct bench_case {
    bool prefill;
    int32_t n;                                 /* sequences of decode, rows of prefill */
    double bytes, ops;                         /* of one step */
    double *seconds, *rates, *limits, *shares; /* [rounds] */
};
struct bench {
    const struct options *options;
    struct loaded loaded;
    struct kv_cache kv;
    struct pool *pool;
    bool own_pool;
    int32_t pages_per_seq, rows_max;
    double weight_bytes, head_weights, body_weights; /* read by a step; n_out * n_in */
    double expert_bytes, expert_share;               /* of all experts; that a row reads */
    struct bench_case cases[CASES_MAX];
    int32_t n_cases;
    /* the batch in hand */
    int32_t *tokens, *positions, *row_seq, *logit_rows, *pages;
    struct batch_seq *seqs;
};

/* ---- the batch --------------------------------------------------------------------------------
 */

static bool make_arrays(struct bench *b, int32_t n_seqs_max, struct err *err)
{
    size_t rows = (size_t)b->rows_max;
    b->tokens = calloc(rows, sizeof *b->tokens);
    b->positions = calloc(rows, sizeof *b->positions);
    b->row_seq = calloc(rows, sizeof *b->row_seq);
    b->logit_rows = calloc(rows, sizeof *b->logit_rows);
    b->seqs = calloc((size_t)n_seqs_max, sizeof *b->seqs);
    b->pages = calloc((size_t)n_seqs_max * (size_t)b->pages_per_seq, sizeof *b->pages);
    if (!b->tokens || !b->positions || !b->row_seq || !b->logit_rows || !b->seqs || !b->pages)
        return err_set(err, ERR_MEMORY, "no memory for %d rows", (int)b->rows_max);
    for (int32_t i = 0; i < b->rows_max; i++)
        b->tokens[i] = (int32_t)(rng_uniform(1, 2, (uint64_t)i) * b->loaded.model.vocab);
    for (int32_t i = 0; i < n_seqs_max * b->pages_per_seq; i++)
        b->pages[i] = i;
    return true;
}

/* Prefill: one sequence from position 0. Decode: n sequences with `depth` tokens behind each. */
static void run_case(struct bench *b, const struct bench_case *c)
{
    int32_t n_seqs = c->prefill ? 1 : c->n;
    for (int32_t i = 0; i < c->n; i++) {
        b->positions[i] = c->prefill ? i : b->options->depth;
        b->row_seq[i] = c->prefill ? 0 : i;
        b->logit_rows[i] = c->prefill ? c->n - 1 : i;
    }
    for (int32_t s = 0; s < n_seqs; s++)
        b->seqs[s] = (struct batch_seq){ .slot = s,
                                         .first_row = s,
                                         .n_rows = c->prefill ? c->n : 1,
                                         .first_position = b->positions[s] };
    struct batch batch = {
        .serial = batch_serial_next(),
        .n_rows = c->n,
        .n_seqs = n_seqs,
        .n_logit_rows = c->prefill ? 1 : c->n,
        .tokens = b->tokens,
        .positions = b->positions,
        .row_seq = b->row_seq,
        .seqs = b->seqs,
        .logit_rows = b->logit_rows,
        .n_groups = b->kv.n_groups,
    };
    for (int32_t g = 0; g < b->kv.n_groups; g++) {
        batch.pages[g] = b->pages;
        batch.pages_stride[g] = b->pages_per_seq;
    }
    model_forward(&b->loaded.model, &batch, &b->kv, NULL, NULL, NULL);
}

/* ---- what a step reads and multiplies ---------------------------------------------------------
 */

/* A separate embedding table is looked up, not read; a tied one is the head and is read once. */
static bool count_weights(struct bench *b, struct err *err)
{
    struct model_slot *slots = calloc(SLOTS_MAX, sizeof *slots);
    if (slots == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %d slots", SLOTS_MAX);
    int32_t n = model_slots(&b->loaded.model, slots, SLOTS_MAX);
    const struct model_slot *embed = NULL, *head = NULL;
    for (int32_t i = 0; i < n && i < SLOTS_MAX; i++) {
        const struct model_slot *slot = &slots[i];
        const double share = (double)slot->n_chosen / slot->n_experts;
        double weights = (double)slot->n_out * (double)slot->n_in * share;
        if (strstr(slot->name, "embed") != NULL) {
            embed = slot;
        } else if (strstr(slot->name, "head") != NULL) {
            head = slot;
        } else {
            if (slot->n_experts > 1) {
                b->expert_bytes += (double)slot->bytes;
                b->expert_share = share;
            } else {
                b->weight_bytes += (double)slot->bytes;
            }
            if (slot->n_out > 1 && slot->n_in > 1) /* norms are read, not multiplied */
                b->body_weights += weights;
        }
    }
    head = head != NULL ? head : embed;
    if (head != NULL) {
        b->weight_bytes += (double)head->bytes;
        b->head_weights = (double)head->n_out * (double)head->n_in;
    }
    free(slots);
    return b->body_weights > 0 || err_set(err, ERR_UNSUPPORTED, "the model has no linear layer");
}

/* Weights that a step of `rows` reads: of the experts those that some row has chosen, taken as
 * equally likely. */
static double step_bytes(const struct bench *b, double rows)
{
    return b->weight_bytes + b->expert_bytes * (1 - pow(1 - b->expert_share, rows));
}

static double kv_bytes(const struct bench *b, int32_t n_tokens)
{
    double bytes = 0;
    for (int32_t g = 0; g < b->kv.n_groups; g++) {
        int32_t window = b->kv.groups[g].window;
        int32_t seen = window > 0 && window < n_tokens ? window : n_tokens;
        bytes += (double)seen * (double)kv_page_bytes(&b->kv, g) / PAGE_TOKENS;
    }
    return bytes;
}

static bool add_cases(struct bench *b, bool prefill, const struct option_ints *list,
                      struct err *err)
{
    size_t rounds = (size_t)b->options->rounds;
    for (int32_t i = 0; i < list->n; i++) {
        struct bench_case *c = &b->cases[b->n_cases];
        double rows = list->items[i], logit_rows = prefill ? 1 : rows;
        *c = (struct bench_case){
            .prefill = prefill,
            .n = list->items[i],
            .bytes = step_bytes(b, rows) + (prefill ? kv_bytes(b, list->items[i])
                                                    : rows * kv_bytes(b, b->options->depth + 1)),
            .ops = 2 * (b->body_weights * rows + b->head_weights * logit_rows),
        };
        c->seconds = calloc(4 * rounds, sizeof *c->seconds);
        if (c->seconds == NULL)
            return err_set(err, ERR_MEMORY, "no memory for %d rounds", (int)rounds);
        c->rates = c->seconds + rounds;
        c->limits = c->rates + rounds;
        c->shares = c->limits + rounds;
        b->n_cases++;
    }
    return true;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Pages that were never written are one physical page of zeros, which sits in the cache: so all of
 * them are filled, with numbers as keys and values have them. */
static bool fill_pages(struct bench *b, struct err *err)
{
    size_t element = dtype_bytes(b->kv.dtype), block = (size_t)FILL_ELEMENTS * element;
    float *numbers = malloc((size_t)FILL_ELEMENTS * sizeof *numbers);
    uint8_t *narrow = malloc(block);
    bool ok = numbers != NULL && narrow != NULL;
    if (ok) {
        for (size_t i = 0; i < FILL_ELEMENTS; i++)
            numbers[i] = (float)(2 * rng_uniform(3, 4, i) - 1);
        half_narrow(narrow, numbers, b->kv.dtype, FILL_ELEMENTS);
        for (int32_t g = 0; g < b->kv.n_groups; g++) {
            size_t left = kv_page_bytes(&b->kv, g) * (size_t)b->kv.groups[g].n_pages;
            uint8_t *to = b->kv.groups[g].memory;
            for (size_t n; left > 0; left -= n, to += n) {
                n = left < block ? left : block;
                b->loaded.be->ops->upload(b->loaded.be, to, narrow, n);
            }
        }
        ok = b->loaded.be->ops->finish(b->loaded.be, err);
    } else {
        err_set(err, ERR_MEMORY, "no memory for a block of numbers");
    }
    free(numbers);
    free(narrow);
    return ok;
}

static int32_t largest(const struct option_ints *list)
{
    int32_t most = 0;
    for (int32_t i = 0; i < list->n; i++)
        most = list->items[i] > most ? list->items[i] : most;
    return most;
}

static bool open_bench(struct bench *b, struct err *err)
{
    const struct options *o = b->options;
    int32_t n_seqs = largest(&o->batches), prompt = largest(&o->prompts);
    int32_t tokens = o->depth + 1 > prompt ? o->depth + 1 : prompt;
    struct load_choice choice = load_choice_of(o, n_seqs);
    b->rows_max = prompt > n_seqs ? prompt : n_seqs;
    choice.rows_max = b->rows_max;
    choice.logit_rows_max = n_seqs;
    choice.ctx = tokens > o->ctx ? tokens : o->ctx;
    if (!load_model(&b->loaded, o, &choice, err))
        return false;
    struct model *model = &b->loaded.model;
    b->kv = model->kv_shape;
    b->pages_per_seq = kv_pages_for(tokens);
    int32_t n_pages[KV_GROUPS_MAX];
    double bytes = 0;
    for (int32_t g = 0; g < b->kv.n_groups; g++) {
        double pages = (double)n_seqs * (double)b->pages_per_seq;
        n_pages[g] = pages < INT32_MAX ? (int32_t)pages : INT32_MAX;
        bytes += pages * (double)kv_page_bytes(&b->kv, g);
    }
    size_t available = b->loaded.be->device_free > 0
                           ? b->loaded.be->device_free - model->weight_bytes
                           : memory_available();
    if (available > 0 && bytes > 0.9 * (double)available) {
        char texts[2][32];
        return err_set(
            err, ERR_MEMORY,
            "%d sequences of %d tokens need %s of keys and values, and %s are available; "
            "try a smaller --batch or --depth",
            (int)n_seqs, (int)tokens, memory_text(bytes, texts[0], sizeof texts[0]),
            memory_text((double)available, texts[1], sizeof texts[1]));
    }
    b->pool = b->loaded.be->pool;
    if (b->pool == NULL) {
        if (!pool_open(&b->pool, o->threads, err))
            return false;
        b->own_pool = true;
    }
    return kv_cache_reserve(&b->kv, b->loaded.be, n_pages, err) && fill_pages(b, err) &&
           make_arrays(b, n_seqs, err) && count_weights(b, err) &&
           add_cases(b, false, &o->batches, err) && add_cases(b, true, &o->prompts, err);
}

static void close_bench(struct bench *b)
{
    for (int32_t i = 0; i < b->n_cases; i++)
        free(b->cases[i].seconds);
    free(b->tokens);
    free(b->positions);
    free(b->row_seq);
    free(b->logit_rows);
    free(b->seqs);
    free(b->pages);
    if (b->own_pool)
        pool_close(b->pool);
    load_close(&b->loaded);
}

/* ---- measuring --------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *values, int32_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static bool time_case(struct bench *b, const struct bench_case *c, double *seconds, struct err *err)
{
    double times[REPEATS_MAX];
    int32_t n = 0;
    uint64_t begin = clock_ns();
    while (n == 0 || (n < REPEATS_MAX && clock_ns() - begin < (uint64_t)CASE_MS * 1000000u)) {
        uint64_t from = clock_ns();
        run_case(b, c);
        if (!b->loaded.be->ops->finish(b->loaded.be, err))
            return false;
        times[n++] = (double)(clock_ns() - from) * 1e-9;
    }
    *seconds = median(times, n);
    return true;
}

static bool measure(struct bench *b, struct err *err)
{
    double unused;
    for (int32_t i = 0; i < b->n_cases; i++) /* caches, page tables, the pool's threads */
        if (!time_case(b, &b->cases[i], &unused, err))
            return false;
    for (int32_t round = 0; round < b->options->rounds; round++)
        for (int32_t i = 0; i < b->n_cases; i++) {
            struct bench_case *c = &b->cases[i];
            c->limits[round] =
                c->prefill ? limits_int8_ops_per_s(b->pool) : limits_stream_bytes_per_s(b->pool);
            if (!time_case(b, c, &c->seconds[round], err))
                return false;
            c->rates[round] = (c->prefill ? c->ops : c->bytes) / c->seconds[round];
            c->shares[round] = c->limits[round] > 0 ? c->rates[round] / c->limits[round] : 0;
        }
    return true;
}

/* ---- printing ---------------------------------------------------------------------------------
 */

static void print_lines(struct buf *out, struct bench *b)
{
    const struct options *o = b->options;
    int32_t rounds = o->rounds;
    char text[32];
    buf_printf(out, "%s on %s; %s of weights a step; medians of %d rounds\n", b->loaded.name,
               b->loaded.be->name, memory_text(step_bytes(b, 1), text, sizeof text), (int)rounds);
    for (int32_t i = 0; i < b->n_cases; i++) {
        struct bench_case *c = &b->cases[i];
        double seconds = median(c->seconds, rounds), rate = median(c->rates, rounds);
        double limit = median(c->limits, rounds), share = median(c->shares, rounds);
        if (c->prefill)
            buf_printf(out,
                       "prefill rows %4d            %10.3f ms %9.1f token/s %8.1f Gop/s  "
                       "%5.1f %% of %.1f (int8 peak)\n",
                       (int)c->n, seconds * 1e3, c->n / seconds, rate * 1e-9, share * 100,
                       limit * 1e-9);
        else
            buf_printf(out,
                       "decode  batch %3d depth %-6d%10.3f ms %9.1f token/s %8.2f GB/s   "
                       "%5.1f %% of %.2f (streaming read)\n",
                       (int)c->n, (int)o->depth, seconds * 1e3, c->n / seconds, rate * 1e-9,
                       share * 100, limit * 1e-9);
    }
}

static void print_json(struct buf *out, struct bench *b)
{
    const struct options *o = b->options;
    int32_t rounds = o->rounds;
    buf_puts(out, "{\"model\":");
    buf_put_json_string(out, b->loaded.name, strlen(b->loaded.name));
    buf_puts(out, ",\"backend\":");
    buf_put_json_string(out, b->loaded.be->name, strlen(b->loaded.be->name));
    buf_printf(out,
               ",\"parameters\":%lld,\"step_weight_bytes\":%.0f,\"rounds\":%d,\"depth\":%d,"
               "\"cases\":[",
               (long long)b->loaded.model.n_parameters, step_bytes(b, 1), (int)rounds,
               (int)o->depth);
    for (int32_t i = 0; i < b->n_cases; i++) {
        struct bench_case *c = &b->cases[i];
        double seconds = median(c->seconds, rounds);
        buf_printf(out, "%s{\"kind\":\"%s\",\"%s\":%d,\"seconds\":%.9g,\"tokens_per_s\":%.6g,",
                   i > 0 ? "," : "", c->prefill ? "prefill" : "decode",
                   c->prefill ? "rows" : "batch", (int)c->n, seconds, c->n / seconds);
        buf_printf(out, "\"%s\":%.6g,\"limit\":%.6g,\"share\":%.4f}",
                   c->prefill ? "ops_per_s" : "bytes_per_s", median(c->rates, rounds),
                   median(c->limits, rounds), median(c->shares, rounds));
    }
    buf_puts(out, "]}\n");
}

int cmd_bench(const struct options *o)
{
    struct err err;
    if (o->url != NULL)
        return load_command(o);
    struct buf out;
    struct bench *b = calloc(1, sizeof *b);
    if (b == NULL) {
        err_set(&err, ERR_MEMORY, "no memory for the bench");
        return command_fail(&err);
    }
    log_configure(LOG_ERROR, false); /* a dummy has no tokenizer, and that is fine here */
    buf_init(&out, 1 << 20);
    b->options = o;
    int status;
    if (open_bench(b, &err) && measure(b, &err)) {
        if (o->json)
            print_json(&out, b);
        else
            print_lines(&out, b);
        status = command_print(&out);
    } else {
        status = command_fail(&err);
    }
    buf_clear(&out);
    close_bench(b);
    free(b);
    return status;
}
