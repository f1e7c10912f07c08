/* expr.c - expressions over bytes, and the budget of a compilation. */
#include "host/grammar/expr.h"
#include "host/base/clock.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct grammar_limits GRAMMAR_LIMITS = {
    .source_bytes = (size_t)1 << 20,
    .depth = 200,
    .states = 400000,
    .steps = 100000000,
    .ms = 2000,
    .memory_bytes = (size_t)256 << 20,
};

/* An item above this many states is called, not copied, where it is repeated. */
enum { COPY_SIZE_MAX = 8, COPIES_SIZE_MAX = 128, SIZE_MAX_STATES = 1 << 30 };

void workshop_open(struct workshop *work, const struct grammar_limits *limits, struct err *err)
{
    *work = (struct workshop){ .limits = limits, .err = err, .steps_left = limits->steps };
    if (limits->ms > 0)
        work->deadline_ns = clock_ns() + (uint64_t)limits->ms * 1000000u;
    arena_init(&work->arena, limits->memory_bytes / 2);
    arena_init(&work->scratch, limits->memory_bytes / 2);
    for (uint8_t kind = EXPR_KIND_NONE; kind <= EXPR_KIND_EMPTY && !work->failed; kind++) {
        work->exprs =
            work_grow(work, work->exprs, work->n_exprs, &work->exprs_capacity, sizeof *work->exprs);
        if (!work->failed)
            work->exprs[work->n_exprs++] = (struct expr){ .kind = kind };
    }
}

void workshop_close(struct workshop *work)
{
    arena_clear(&work->arena);
    arena_clear(&work->scratch);
}

uint32_t work_refuse(struct workshop *work, enum err_code code, const char *format, ...)
{
    char text[sizeof work->err->text];
    va_list arguments;
    if (work->failed)
        return EXPR_NONE;
    work->failed = true;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    err_set(work->err, code, "%s", text);
    return EXPR_NONE;
}

bool work_step(struct workshop *work, int64_t n)
{
    enum { CLOCK_STEPS = 1 << 16 }; /* a look at the clock in about 0.5 ms of work */
    if (work->failed)
        return false;
    int64_t before = work->steps_left;
    work->steps_left -= n;
    if (work->steps_left < 0) {
        work_refuse(work, ERR_REQUEST, "the grammar takes more than %lld steps to compile",
                    (long long)work->limits->steps);
        return false;
    }
    if (work->deadline_ns && before / CLOCK_STEPS != work->steps_left / CLOCK_STEPS &&
        clock_ns() > work->deadline_ns) {
        work_refuse(work, ERR_REQUEST, "the grammar takes more than %d ms to compile",
                    work->limits->ms);
        return false;
    }
    return true;
}

/* The arena gave nothing for n elements: it is at its limit, or there is no memory. */
static bool out_of_memory(struct workshop *work, const struct arena *arena, size_t n, size_t size)
{
    enum { ARENA_ALIGN = 16 };
    size_t bytes;
    if (!__builtin_mul_overflow(n, size, &bytes) && bytes <= SIZE_MAX - ARENA_ALIGN &&
        (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN <= arena->limit - arena->used) {
        work_refuse(work, ERR_MEMORY, "no memory to compile a grammar");
        return false;
    }
    work_refuse(work, ERR_REQUEST, "the grammar takes more than %zu bytes to compile",
                work->limits->memory_bytes);
    return false;
}

static void *grow_in(struct workshop *work, struct arena *arena, void *array, uint32_t n,
                     uint32_t *capacity, size_t size)
{
    if (work->failed || n < *capacity)
        return array;
    uint32_t more = n < 16 ? 32 : n + n / 2;
    void *grown = n < UINT32_MAX / 2 ? arena_take(arena, more, size) : NULL;
    if (!grown) {
        out_of_memory(work, arena, more, size);
        return array;
    }
    if (array)
        memcpy(grown, array, n * size);
    *capacity = more;
    return grown;
}

void *work_grow(struct workshop *work, void *array, uint32_t n, uint32_t *capacity, size_t size)
{
    return grow_in(work, &work->arena, array, n, capacity, size);
}

void *scratch_grow(struct workshop *work, void *array, uint32_t n, uint32_t *capacity, size_t size)
{
    return grow_in(work, &work->scratch, array, n, capacity, size);
}

void *scratch_take(struct workshop *work, size_t n, size_t size)
{
    void *taken = work->failed ? NULL : arena_take(&work->scratch, n, size);
    if (!taken && !work->failed)
        out_of_memory(work, &work->scratch, n, size);
    return taken;
}

static uint32_t add(struct workshop *work, enum expr_kind kind, uint32_t first, uint32_t count,
                    uint64_t size)
{
    work->exprs =
        work_grow(work, work->exprs, work->n_exprs, &work->exprs_capacity, sizeof *work->exprs);
    if (!work_step(work, 1))
        return EXPR_NONE;
    work->exprs[work->n_exprs] = (struct expr){
        .kind = (uint8_t)kind,
        .first = first,
        .count = count,
        .size = size > SIZE_MAX_STATES ? SIZE_MAX_STATES : (uint32_t)size,
    };
    return work->n_exprs++;
}

static void push_item(struct workshop *work, uint32_t item)
{
    work->items =
        work_grow(work, work->items, work->n_items, &work->items_capacity, sizeof *work->items);
    if (!work->failed)
        work->items[work->n_items++] = item;
}

uint32_t expr_range(struct workshop *work, uint8_t low, uint8_t high)
{
    return low > high ? EXPR_NONE : add(work, EXPR_KIND_RANGE, low, high, 1);
}

uint32_t expr_text(struct workshop *work, const char *bytes, size_t length)
{
    if (length == 0)
        return EXPR_EMPTY;
    uint32_t first = work->n_bytes;
    for (size_t i = 0; i < length; i++) {
        work->bytes = work_grow(work, work->bytes, work->n_bytes, &work->bytes_capacity, 1);
        if (!work_step(work, 1))
            return EXPR_NONE;
        work->bytes[work->n_bytes++] = bytes[i];
    }
    return add(work, EXPR_KIND_TEXT, first, work->n_bytes - first, length);
}

uint32_t expr_literal(struct workshop *work, const char *text)
{
    return expr_text(work, text, strlen(text));
}

/* Both lists drop what changes nothing: EMPTY in a sequence, NONE among alternatives. */
static uint32_t add_list(struct workshop *work, enum expr_kind kind, const uint32_t *items,
                         uint32_t n)
{
    uint32_t neutral = kind == EXPR_KIND_SEQ ? EXPR_EMPTY : EXPR_NONE;
    uint32_t first = work->n_items, last = neutral;
    uint64_t size = 0;
    for (uint32_t i = 0; i < n && !work->failed; i++) {
        if (kind == EXPR_KIND_SEQ && items[i] == EXPR_NONE) {
            work->n_items = first;
            return EXPR_NONE;
        }
        if (items[i] == neutral)
            continue;
        push_item(work, items[i]);
        size += work->exprs[items[i]].size;
        last = items[i];
    }
    if (work->failed)
        return EXPR_NONE;
    if (work->n_items - first <= 1) {
        work->n_items = first;
        return last;
    }
    return add(work, kind, first, work->n_items - first, size);
}

uint32_t expr_seq(struct workshop *work, const uint32_t *items, uint32_t n)
{
    return add_list(work, EXPR_KIND_SEQ, items, n);
}

uint32_t expr_alt(struct workshop *work, const uint32_t *items, uint32_t n)
{
    return add_list(work, EXPR_KIND_ALT, items, n);
}

uint32_t expr_seq2(struct workshop *work, uint32_t a, uint32_t b)
{
    return expr_seq(work, (const uint32_t[]){ a, b }, 2);
}

uint32_t expr_alt2(struct workshop *work, uint32_t a, uint32_t b)
{
    return expr_alt(work, (const uint32_t[]){ a, b }, 2);
}

uint32_t expr_option(struct workshop *work, uint32_t item)
{
    return expr_alt2(work, EXPR_EMPTY, item);
}

uint32_t expr_star(struct workshop *work, uint32_t item)
{
    if (item <= EXPR_EMPTY)
        return EXPR_EMPTY;
    if (work->exprs[item].kind == EXPR_KIND_STAR)
        return item;
    return add(work, EXPR_KIND_STAR, item, 0, (uint64_t)work->exprs[item].size + 1);
}

/* n copies in a row. */
static uint32_t copies(struct workshop *work, uint32_t item, int64_t n)
{
    uint32_t first = work->n_items;
    if (n == 0)
        return EXPR_EMPTY;
    if (n == 1)
        return item;
    for (int64_t i = 0; i < n; i++)
        push_item(work, item);
    if (work->failed)
        return EXPR_NONE;
    return add(work, EXPR_KIND_SEQ, first, (uint32_t)n, (uint64_t)n * work->exprs[item].size);
}

/* item? and behind it the next item?, n deep: a net, so that the tail is not copied. */
static uint32_t at_most_copies(struct workshop *work, uint32_t item, int64_t n)
{
    if (n == 0)
        return EXPR_EMPTY;
    if (n == 1)
        return expr_option(work, item);
    uint32_t first = work->n_items;
    push_item(work, (uint32_t)n + 1); /* states: 0, then 2.., 1 is the end */
    for (uint32_t i = 0; i < (uint32_t)n; i++) {
        uint32_t from = i == 0 ? 0 : i + 1, to = i + 1 == (uint32_t)n ? 1 : i + 2;
        const uint32_t edges[] = { from, to, item, from, 1, EXPR_EMPTY };
        for (uint32_t k = 0; k < 6; k++)
            push_item(work, edges[k]);
    }
    if (work->failed)
        return EXPR_NONE;
    return add(work, EXPR_KIND_NET, first, 2 * (uint32_t)n,
               (uint64_t)n * ((uint64_t)work->exprs[item].size + 1));
}

static int64_t root_of(int64_t n)
{
    int64_t root = 1;
    while (root * root < n)
        root++;
    return root;
}

/* Exactly n: q blocks of m, and the rest. */
static uint32_t exactly(struct workshop *work, uint32_t item, int64_t n)
{
    if (n * work->exprs[item].size <= COPIES_SIZE_MAX)
        return copies(work, item, n);
    int64_t m = root_of(n);
    uint32_t block = expr_as_rule(work, copies(work, item, m));
    return expr_seq2(work, copies(work, block, n / m), copies(work, item, n % m));
}

/* At most n: at most q blocks of m, then at most t >= m - 1 items, q * m + t = n. Every count has
 * one or two such forms, so few places are live at once. */
static uint32_t at_most(struct workshop *work, uint32_t item, int64_t n)
{
    if (n * work->exprs[item].size <= COPIES_SIZE_MAX)
        return at_most_copies(work, item, n);
    int64_t m = root_of(n);
    int64_t q = (n - (m - 1)) / m;
    uint32_t block = expr_as_rule(work, copies(work, item, m));
    uint32_t tail = expr_as_rule(work, at_most_copies(work, item, n - q * m));
    return expr_seq2(work, at_most_copies(work, block, q), tail);
}

uint32_t expr_repeat(struct workshop *work, uint32_t item, int64_t min, int64_t max)
{
    if (work->failed)
        return EXPR_NONE;
    if (min > REPEAT_MAX || max > REPEAT_MAX)
        return work_refuse(work, ERR_REQUEST, "a repetition of %lld, want at most %d",
                           (long long)(max > min ? max : min), REPEAT_MAX);
    if (max >= 0 && max < min)
        return EXPR_NONE;
    if (item == EXPR_NONE)
        return min == 0 ? EXPR_EMPTY : EXPR_NONE;
    if (item == EXPR_EMPTY || max == 0)
        return EXPR_EMPTY;
    if (work->exprs[item].size > COPY_SIZE_MAX && (min > 1 || max > 1 || (min == 1 && max < 0)))
        item = expr_as_rule(work, item);
    uint32_t head = exactly(work, item, min);
    uint32_t tail = max < 0 ? expr_star(work, item) : at_most(work, item, max - min);
    return expr_seq2(work, head, tail);
}

uint32_t expr_net(struct workshop *work, uint32_t n_states, const struct net_edge *edges,
                  uint32_t n_edges)
{
    uint32_t first = work->n_items;
    uint64_t size = n_states;
    push_item(work, n_states);
    for (uint32_t i = 0; i < n_edges && !work->failed; i++) {
        CHECK(edges[i].from < n_states && edges[i].to < n_states);
        push_item(work, edges[i].from);
        push_item(work, edges[i].to);
        push_item(work, edges[i].label);
        size += work->failed ? 0 : work->exprs[edges[i].label].size;
    }
    return work->failed ? EXPR_NONE : add(work, EXPR_KIND_NET, first, n_edges, size);
}

uint32_t rule_new(struct workshop *work, const char *name)
{
    work->rules =
        work_grow(work, work->rules, work->n_rules, &work->rules_capacity, sizeof *work->rules);
    if (work->failed)
        return 0;
    struct rule *rule = &work->rules[work->n_rules];
    *rule = (struct rule){ .body = EXPR_NONE };
    if (name && !(rule->name = arena_copy(&work->arena, name, strlen(name))))
        return out_of_memory(work, &work->arena, strlen(name) + 1, 1);
    return work->n_rules++;
}

void rule_set(struct workshop *work, uint32_t rule, uint32_t body)
{
    if (!work->failed)
        work->rules[rule].body = body;
}

uint32_t expr_rule(struct workshop *work, uint32_t rule)
{
    return add(work, EXPR_KIND_RULE, rule, 0, 1);
}

uint32_t expr_as_rule(struct workshop *work, uint32_t body)
{
    if (work->failed || body <= EXPR_EMPTY || work->exprs[body].kind == EXPR_KIND_RULE)
        return body;
    uint32_t rule = rule_new(work, NULL);
    rule_set(work, rule, body);
    return expr_rule(work, rule);
}
