/* dfa.c - expression -> graph with empty edges (Thompson) -> sets of its states (subsets) -> states
 * that do the same are one.
 *
 * Where the subsets become too many (the classic (a|b)*a(a|b){20}), each state of the graph stays a
 * state of its own, without empty edges, and the runtime follows several at once (places.h). */
#include "host/grammar/dfa.h"
#include <stdlib.h>
#include <string.h>

enum {
    LABEL_EMPTY = 0,
    LABEL_RANGE = 1u << 30, /* | low << 8 | high */
    LABEL_CALL = 2u << 30,  /* | rule */
    LABEL_KIND = 3u << 30,
    GRAPH_ACCEPT = 1,
    SUBSETS_FREE = 4096, /* subsets allowed beside SUBSETS_PER_STATE times the graph's states */
    SUBSETS_PER_STATE = 4,
    MERGE_PASSES = 4,
};

struct graph_edge {
    uint32_t from, to, label;
};
struct graph {
    uint32_t n_states, n_edges, capacity;
    struct graph_edge *edges;
    uint32_t *first;    /* [n_states + 1] into edges, once sorted by `from` */
    uint8_t *important; /* has an edge that is not empty, or is the end */
};
struct span {
    uint32_t expr, from, to;
};

static void add_edge(struct workshop *work, struct graph *graph, uint32_t from, uint32_t to,
                     uint32_t label)
{
    graph->edges =
        scratch_grow(work, graph->edges, graph->n_edges, &graph->capacity, sizeof *graph->edges);
    if (work_step(work, 1))
        graph->edges[graph->n_edges++] = (struct graph_edge){ from, to, label };
}

static uint32_t add_states(struct workshop *work, struct graph *graph, uint32_t n)
{
    uint32_t first = graph->n_states;
    uint32_t most = (uint32_t)work->limits->states * 4;
    if (n > most || first > most - n) {
        work_refuse(work, ERR_REQUEST, "the grammar takes more than %d states",
                    work->limits->states);
        return 0;
    }
    graph->n_states += n;
    return first;
}

struct spans {
    struct span *at;
    uint32_t n, capacity;
};

static void push_span(struct workshop *work, struct spans *spans, uint32_t expr, uint32_t from,
                      uint32_t to)
{
    spans->at = scratch_grow(work, spans->at, spans->n, &spans->capacity, sizeof *spans->at);
    if (!work->failed)
        spans->at[spans->n++] = (struct span){ expr, from, to };
}

static void add_text(struct workshop *work, struct graph *graph, const struct expr *e,
                     const struct span *span)
{
    uint32_t at = span->from;
    for (uint32_t i = 0; i < e->count && !work->failed; i++) {
        uint8_t byte = (uint8_t)work->bytes[e->first + i];
        uint32_t next = i + 1 == e->count ? span->to : add_states(work, graph, 1);
        add_edge(work, graph, at, next, LABEL_RANGE | (uint32_t)byte << 8 | byte);
        at = next;
    }
}

static void add_net(struct workshop *work, struct graph *graph, struct spans *spans,
                    const struct expr *e, const struct span *span)
{
    const uint32_t *items = work->items + e->first;
    uint32_t base = add_states(work, graph, items[0]);
    add_edge(work, graph, span->from, base, LABEL_EMPTY);
    add_edge(work, graph, base + 1, span->to, LABEL_EMPTY);
    for (uint32_t i = 0; i < e->count && !work->failed; i++)
        push_span(work, spans, items[3 + 3 * i], base + items[1 + 3 * i], base + items[2 + 3 * i]);
}

static void add_span(struct workshop *work, struct graph *graph, struct spans *spans,
                     const struct span *span, const uint8_t *rule_nullable)
{
    const struct expr *e = &work->exprs[span->expr];
    uint32_t at = span->from;
    switch ((enum expr_kind)e->kind) {
    case EXPR_KIND_NONE:
        break;
    case EXPR_KIND_EMPTY:
        add_edge(work, graph, span->from, span->to, LABEL_EMPTY);
        break;
    case EXPR_KIND_RANGE:
        add_edge(work, graph, span->from, span->to, LABEL_RANGE | e->first << 8 | e->count);
        break;
    case EXPR_KIND_TEXT:
        add_text(work, graph, e, span);
        break;
    case EXPR_KIND_SEQ:
        for (uint32_t i = 0; i < e->count && !work->failed; i++) {
            uint32_t next = i + 1 == e->count ? span->to : add_states(work, graph, 1);
            push_span(work, spans, work->items[e->first + i], at, next);
            at = next;
        }
        break;
    case EXPR_KIND_ALT:
        for (uint32_t i = 0; i < e->count && !work->failed; i++)
            push_span(work, spans, work->items[e->first + i], span->from, span->to);
        break;
    case EXPR_KIND_STAR:
        at = add_states(work, graph, 1);
        add_edge(work, graph, span->from, at, LABEL_EMPTY);
        add_edge(work, graph, at, span->to, LABEL_EMPTY);
        push_span(work, spans, e->first, at, at);
        break;
    case EXPR_KIND_RULE:
        if (!rule_nullable) {
            push_span(work, spans, work->rules[e->first].body, span->from, span->to);
            break;
        }
        add_edge(work, graph, span->from, span->to, LABEL_CALL | e->first);
        if (rule_nullable[e->first])
            add_edge(work, graph, span->from, span->to, LABEL_EMPTY);
        break;
    case EXPR_KIND_NET:
        add_net(work, graph, spans, e, span);
        break;
    }
}

static void sort_edges(struct workshop *work, struct graph *graph)
{
    uint32_t n = graph->n_states;
    struct graph_edge *sorted = scratch_take(work, graph->n_edges, sizeof *sorted);
    graph->first = scratch_take(work, (size_t)n + 2, sizeof *graph->first);
    graph->important = scratch_take(work, n, 1);
    if (!work_step(work, n + graph->n_edges))
        return;
    uint32_t *at = graph->first + 1; /* counted one ahead, so that placing ends at the firsts */
    for (uint32_t i = 0; i < graph->n_edges; i++)
        at[graph->edges[i].from + 1]++;
    for (uint32_t s = 0; s < n; s++)
        at[s + 1] += at[s];
    for (uint32_t i = 0; i < graph->n_edges; i++) {
        const struct graph_edge *edge = &graph->edges[i];
        sorted[at[edge->from]++] = *edge;
        if (edge->label != LABEL_EMPTY)
            graph->important[edge->from] = 1;
    }
    graph->important[GRAPH_ACCEPT] = 1;
    graph->edges = sorted;
}

static bool build_graph(struct workshop *work, uint32_t expr, const uint8_t *rule_nullable,
                        struct graph *graph)
{
    struct spans spans = { 0 };
    *graph = (struct graph){ .n_states = 2 };
    push_span(work, &spans, expr, 0, GRAPH_ACCEPT);
    while (spans.n > 0 && work_step(work, 1)) {
        struct span span = spans.at[--spans.n];
        add_span(work, graph, &spans, &span, rule_nullable);
    }
    if (!work->failed)
        sort_edges(work, graph);
    return !work->failed;
}

/* Sets of graph states, each once, and the automaton that grows from them. */
struct subsets {
    struct workshop *work;
    const struct graph *graph;
    uint32_t *members, n_members, members_capacity; /* of all sets, one behind the other */
    uint32_t *first, n, first_capacity;             /* set i: members[first[i] .. first[i + 1]) */
    uint32_t *table, table_mask;                    /* set + 1, by hash */
    uint32_t *stamps, stamp, *stack;                /* of the closure */
    struct dfa_edge *edges;
    uint32_t n_edges, edges_capacity;
    struct dfa_call *calls;
    uint32_t n_calls, calls_capacity;
    uint32_t *edge_first, *call_first;
    uint32_t edge_first_capacity, call_first_capacity;
    struct dfa_edge *out; /* of the set in hand, not yet merged */
    uint32_t n_out, out_capacity;
    struct dfa_call *out_calls;
    uint32_t n_out_calls, out_calls_capacity;
    uint32_t *seeds;
    uint32_t seeds_capacity;
};

static uint32_t hash_words(const uint32_t *words, size_t n)
{
    uint64_t hash = 0x9e3779b97f4a7c15u ^ n;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

static int compare_words(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool open_subsets(struct workshop *work, const struct graph *graph, struct subsets *sets)
{
    *sets = (struct subsets){ .work = work, .graph = graph, .table_mask = 63 };
    sets->stamps = scratch_take(work, graph->n_states, sizeof *sets->stamps);
    sets->stack = scratch_take(work, graph->n_states, sizeof *sets->stack);
    sets->table = scratch_take(work, sets->table_mask + 1, sizeof *sets->table);
    /* Never NULL, so that the first edge of a state without edges may be pointed at. */
    sets->edges = scratch_grow(work, NULL, 0, &sets->edges_capacity, sizeof *sets->edges);
    sets->calls = scratch_grow(work, NULL, 0, &sets->calls_capacity, sizeof *sets->calls);
    return !work->failed;
}

static void enlarge_table(struct subsets *sets)
{
    uint32_t mask = sets->table_mask * 2 + 1;
    uint32_t *table = scratch_take(sets->work, (size_t)mask + 1, sizeof *table);
    if (!table)
        return;
    for (uint32_t i = 0; i < sets->n; i++) {
        uint32_t at =
            hash_words(sets->members + sets->first[i], sets->first[i + 1] - sets->first[i]);
        while (table[at & mask])
            at++;
        table[at & mask] = i + 1;
    }
    sets->table = table;
    sets->table_mask = mask;
}

/* Append the important states that `seeds` reach by empty edges to the members, sorted; how many.
 */
static uint32_t close_seeds(struct subsets *sets, const uint32_t *seeds, uint32_t n_seeds)
{
    const struct graph *graph = sets->graph;
    uint32_t depth = 0, from = sets->n_members;
    sets->stamp++;
    for (uint32_t i = 0; i < n_seeds; i++)
        if (sets->stamps[seeds[i]] != sets->stamp) {
            sets->stamps[seeds[i]] = sets->stamp;
            sets->stack[depth++] = seeds[i];
        }
    while (depth > 0 && work_step(sets->work, 1)) {
        uint32_t state = sets->stack[--depth];
        if (graph->important[state]) {
            sets->members = scratch_grow(sets->work, sets->members, sets->n_members,
                                         &sets->members_capacity, sizeof *sets->members);
            if (sets->work->failed)
                return 0;
            sets->members[sets->n_members++] = state;
        }
        for (uint32_t e = graph->first[state]; e < graph->first[state + 1]; e++) {
            uint32_t to = graph->edges[e].to;
            if (graph->edges[e].label != LABEL_EMPTY || sets->stamps[to] == sets->stamp)
                continue;
            sets->stamps[to] = sets->stamp;
            sets->stack[depth++] = to;
        }
    }
    uint32_t n = sets->n_members - from;
    if (n > 1)
        qsort(sets->members + from, n, sizeof *sets->members, compare_words);
    return n;
}

/* The set that the seeds reach, by number; new ones are put at the end. UINT32_MAX: empty. */
static uint32_t find_set(struct subsets *sets, const uint32_t *seeds, uint32_t n_seeds)
{
    struct workshop *work = sets->work;
    uint32_t from = sets->n_members, n = close_seeds(sets, seeds, n_seeds);
    if (n == 0 || work->failed)
        return UINT32_MAX;
    uint32_t at = hash_words(sets->members + from, n);
    for (; sets->table[at & sets->table_mask] && work_step(work, 1); at++) {
        uint32_t set = sets->table[at & sets->table_mask] - 1;
        uint32_t size = sets->first[set + 1] - sets->first[set];
        if (size == n && memcmp(sets->members + sets->first[set], sets->members + from,
                                n * sizeof(uint32_t)) == 0) {
            sets->n_members = from;
            return set;
        }
    }
    sets->table[at & sets->table_mask] = sets->n + 1;
    sets->first =
        scratch_grow(work, sets->first, sets->n + 1, &sets->first_capacity, sizeof *sets->first);
    if (work->failed)
        return UINT32_MAX;
    sets->first[sets->n] = from;
    sets->first[++sets->n] = sets->n_members;
    if (sets->n > sets->table_mask / 2)
        enlarge_table(sets);
    return work->failed ? UINT32_MAX : sets->n - 1;
}

static void put_edge(struct subsets *sets, uint8_t low, uint8_t high, uint32_t to)
{
    sets->edges = scratch_grow(sets->work, sets->edges, sets->n_edges, &sets->edges_capacity,
                               sizeof *sets->edges);
    if (!sets->work->failed)
        sets->edges[sets->n_edges++] = (struct dfa_edge){ to, low, high };
}

static void put_call(struct subsets *sets, uint32_t rule, uint32_t to)
{
    sets->calls = scratch_grow(sets->work, sets->calls, sets->n_calls, &sets->calls_capacity,
                               sizeof *sets->calls);
    if (!sets->work->failed)
        sets->calls[sets->n_calls++] = (struct dfa_call){ rule, to };
}

/* Where the edges of state i begin; called with i = 0, 1, 2, ... and once more at the end. */
static void begin_state(struct subsets *sets, uint32_t i)
{
    struct workshop *work = sets->work;
    sets->edge_first = scratch_grow(work, sets->edge_first, i, &sets->edge_first_capacity,
                                    sizeof *sets->edge_first);
    sets->call_first = scratch_grow(work, sets->call_first, i, &sets->call_first_capacity,
                                    sizeof *sets->call_first);
    if (work->failed)
        return;
    sets->edge_first[i] = sets->n_edges;
    sets->call_first[i] = sets->n_calls;
}

static void gather(struct subsets *sets, uint32_t state)
{
    struct workshop *work = sets->work;
    const struct graph *graph = sets->graph;
    for (uint32_t e = graph->first[state]; e < graph->first[state + 1] && work_step(work, 1); e++) {
        uint32_t label = graph->edges[e].label, to = graph->edges[e].to;
        if ((label & LABEL_KIND) == LABEL_RANGE) {
            sets->out =
                scratch_grow(work, sets->out, sets->n_out, &sets->out_capacity, sizeof *sets->out);
            if (!work->failed)
                sets->out[sets->n_out++] =
                    (struct dfa_edge){ to, (uint8_t)(label >> 8), (uint8_t)label };
        } else if ((label & LABEL_KIND) == LABEL_CALL) {
            sets->out_calls = scratch_grow(work, sets->out_calls, sets->n_out_calls,
                                           &sets->out_calls_capacity, sizeof *sets->out_calls);
            if (!work->failed)
                sets->out_calls[sets->n_out_calls++] = (struct dfa_call){ label & ~LABEL_KIND, to };
        }
    }
}

static int compare_calls(const void *a, const void *b)
{
    const struct dfa_call *x = a, *y = b;
    if (x->rule != y->rule)
        return x->rule < y->rule ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

/* One edge for each stretch of bytes that leads to the same set. */
static void merge_ranges(struct subsets *sets)
{
    struct workshop *work = sets->work;
    bool begins[257] = { [0] = true };
    for (uint32_t i = 0; i < sets->n_out; i++)
        begins[sets->out[i].low] = begins[sets->out[i].high + 1] = true;
    uint32_t last = UINT32_MAX; /* the set that the edge before leads to, when it ends at low - 1 */
    for (int low = 0, next; low < 256 && work_step(work, sets->n_out); low = next) {
        uint32_t n_seeds = 0;
        for (next = low + 1; next < 256 && !begins[next];)
            next++;
        for (uint32_t i = 0; i < sets->n_out; i++)
            if (sets->out[i].low <= low && low <= sets->out[i].high)
                sets->seeds[n_seeds++] = sets->out[i].to;
        uint32_t set = n_seeds > 0 ? find_set(sets, sets->seeds, n_seeds) : UINT32_MAX;
        if (set == UINT32_MAX || work->failed) {
            last = UINT32_MAX;
        } else if (set == last) {
            sets->edges[sets->n_edges - 1].high = (uint8_t)(next - 1);
        } else {
            put_edge(sets, (uint8_t)low, (uint8_t)(next - 1), set);
            last = set;
        }
    }
}

static void merge_calls(struct subsets *sets)
{
    struct workshop *work = sets->work;
    if (sets->n_out_calls > 1)
        qsort(sets->out_calls, sets->n_out_calls, sizeof *sets->out_calls, compare_calls);
    for (uint32_t i = 0, next; i < sets->n_out_calls && work_step(work, 1); i = next) {
        uint32_t rule = sets->out_calls[i].rule, n_seeds = 0;
        for (next = i; next < sets->n_out_calls && sets->out_calls[next].rule == rule; next++)
            sets->seeds[n_seeds++] = sets->out_calls[next].to;
        uint32_t set = find_set(sets, sets->seeds, n_seeds);
        if (set != UINT32_MAX && !work->failed)
            put_call(sets, rule, set);
    }
}

/* `seeds` holds as many as there are edges in hand. */
static bool fit_seeds(struct subsets *sets)
{
    uint32_t n = sets->n_out > sets->n_out_calls ? sets->n_out : sets->n_out_calls;
    if (n > sets->seeds_capacity) {
        sets->seeds_capacity = n + n / 2;
        sets->seeds = scratch_take(sets->work, sets->seeds_capacity, sizeof *sets->seeds);
    }
    return !sets->work->failed;
}

static void expand_set(struct subsets *sets, uint32_t set, bool merge)
{
    struct workshop *work = sets->work;
    begin_state(sets, set);
    sets->n_out = sets->n_out_calls = 0;
    for (uint32_t m = sets->first[set]; m < sets->first[set + 1] && !work->failed; m++)
        gather(sets, sets->members[m]);
    if (work->failed || !fit_seeds(sets))
        return;
    if (merge) {
        merge_ranges(sets);
        merge_calls(sets);
        return;
    }
    for (uint32_t i = 0; i < sets->n_out && !work->failed; i++) {
        uint32_t to = find_set(sets, &sets->out[i].to, 1);
        if (to != UINT32_MAX)
            put_edge(sets, sets->out[i].low, sets->out[i].high, to);
    }
    for (uint32_t i = 0; i < sets->n_out_calls && !work->failed; i++) {
        uint32_t to = find_set(sets, &sets->out_calls[i].to, 1);
        if (to != UINT32_MAX)
            put_call(sets, sets->out_calls[i].rule, to);
    }
}

/* False: work->failed, or (when merging) more than `most` sets. */
static bool grow_sets(struct subsets *sets, bool merge, uint32_t most)
{
    const uint32_t seed = 0;
    if (find_set(sets, &seed, 1) == UINT32_MAX)
        return !sets->work->failed; /* matches nothing: no states at all */
    for (uint32_t set = 0; set < sets->n && !sets->work->failed; set++) {
        if (sets->n > most)
            return false;
        expand_set(sets, set, merge);
    }
    return !sets->work->failed;
}

static bool contains(const struct subsets *sets, uint32_t set, uint32_t state)
{
    for (uint32_t m = sets->first[set]; m < sets->first[set + 1]; m++)
        if (sets->members[m] == state)
            return true;
    return false;
}

/* The sets become states; one more, a copy of the first that does not accept, is the start where
 * the first accepts. */
static void take_states(struct subsets *sets, struct dfa *dfa)
{
    struct workshop *work = sets->work;
    uint32_t n = sets->n, end = n;
    begin_state(sets, n);
    dfa->accepts = scratch_take(work, (size_t)n + 1, 1);
    if (work->failed)
        return;
    for (uint32_t i = 0; i < n; i++)
        dfa->accepts[i] = contains(sets, i, GRAPH_ACCEPT);
    dfa->nullable = n > 0 && dfa->accepts[0];
    if (dfa->nullable || n == 0) {
        for (uint32_t e = 0; n > 0 && e < sets->edge_first[1] && !work->failed; e++)
            put_edge(sets, sets->edges[e].low, sets->edges[e].high, sets->edges[e].to);
        for (uint32_t c = 0; n > 0 && c < sets->call_first[1] && !work->failed; c++)
            put_call(sets, sets->calls[c].rule, sets->calls[c].to);
        begin_state(sets, ++end);
    }
    dfa->start = end > n ? n : 0;
    dfa->n_states = end;
    dfa->edges = sets->edges;
    dfa->calls = sets->calls;
    dfa->edge_first = sets->edge_first;
    dfa->call_first = sets->call_first;
}

static uint32_t hash_state(const struct dfa *dfa, const uint32_t *as, uint32_t state)
{
    uint64_t hash = dfa->accepts[state];
    for (uint32_t e = dfa->edge_first[state]; e < dfa->edge_first[state + 1]; e++) {
        const struct dfa_edge *edge = &dfa->edges[e];
        hash = (hash ^ as[edge->to] ^ (uint64_t)edge->low << 32 ^ (uint64_t)edge->high << 40) *
               0xff51afd7ed558ccdu;
        hash ^= hash >> 29;
    }
    for (uint32_t c = dfa->call_first[state]; c < dfa->call_first[state + 1]; c++) {
        hash = (hash ^ as[dfa->calls[c].to] ^ (uint64_t)dfa->calls[c].rule << 32) *
               0xc4ceb9fe1a85ec53u;
        hash ^= hash >> 31;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

static bool same_state(const struct dfa *dfa, const uint32_t *as, uint32_t a, uint32_t b)
{
    uint32_t n_edges = dfa->edge_first[a + 1] - dfa->edge_first[a];
    uint32_t n_calls = dfa->call_first[a + 1] - dfa->call_first[a];
    if (dfa->accepts[a] != dfa->accepts[b] ||
        n_edges != dfa->edge_first[b + 1] - dfa->edge_first[b] ||
        n_calls != dfa->call_first[b + 1] - dfa->call_first[b])
        return false;
    const struct dfa_edge *x = dfa->edges + dfa->edge_first[a];
    const struct dfa_edge *y = dfa->edges + dfa->edge_first[b];
    for (uint32_t i = 0; i < n_edges; i++)
        if (x[i].low != y[i].low || x[i].high != y[i].high || as[x[i].to] != as[y[i].to])
            return false;
    const struct dfa_call *p = dfa->calls + dfa->call_first[a];
    const struct dfa_call *q = dfa->calls + dfa->call_first[b];
    for (uint32_t i = 0; i < n_calls; i++)
        if (p[i].rule != q[i].rule || as[p[i].to] != as[q[i].to])
            return false;
    return true;
}

/* as[state]: the state that stands for it. Later states are seen first: in a tree, leaves. */
static bool merge_pass(struct workshop *work, const struct dfa *dfa, uint32_t *as, uint32_t *table,
                       uint32_t mask)
{
    bool merged = false;
    memset(table, 0, ((size_t)mask + 1) * sizeof *table);
    for (uint32_t s = dfa->n_states; s-- > 0;) {
        if (as[s] != s)
            continue;
        uint32_t at = hash_state(dfa, as, s);
        if (!work_step(work, 1 + dfa->edge_first[s + 1] - dfa->edge_first[s]))
            return false;
        for (; table[at & mask] && !same_state(dfa, as, table[at & mask] - 1, s);)
            at++;
        if (table[at & mask]) {
            as[s] = table[at & mask] - 1;
            merged = true;
        } else {
            table[at & mask] = s + 1;
        }
    }
    for (uint32_t s = 0; merged && s < dfa->n_states; s++)
        as[s] =
            as[as[s]]; /* what it was merged into may itself have been merged in a pass before */
    return merged;
}

/* Renumber without the states that others stand for; edges move down in place. */
static void drop_merged(struct dfa *dfa, const uint32_t *as, uint32_t *number)
{
    uint32_t n = 0, n_edges = 0, n_calls = 0;
    for (uint32_t s = 0; s < dfa->n_states; s++)
        if (as[s] == s)
            number[s] = n++;
    n = 0;
    for (uint32_t s = 0; s < dfa->n_states; s++) {
        uint32_t edge = dfa->edge_first[s], edge_end = dfa->edge_first[s + 1];
        uint32_t call = dfa->call_first[s], call_end = dfa->call_first[s + 1];
        if (as[s] != s)
            continue;
        uint32_t own = n_edges;
        dfa->accepts[n] = dfa->accepts[s];
        dfa->edge_first[n] = n_edges;
        dfa->call_first[n++] = n_calls;
        for (; edge < edge_end; edge++) {
            struct dfa_edge e = dfa->edges[edge];
            e.to = number[as[e.to]];
            if (n_edges > own && dfa->edges[n_edges - 1].to == e.to && e.low > 0 &&
                dfa->edges[n_edges - 1].high == e.low - 1)
                dfa->edges[n_edges - 1].high = e.high;
            else
                dfa->edges[n_edges++] = e;
        }
        for (; call < call_end; call++) {
            dfa->calls[n_calls] = dfa->calls[call];
            dfa->calls[n_calls].to = number[as[dfa->calls[call].to]];
            n_calls++;
        }
    }
    /* Behind the last state: dfa->edge_first has room, for n <= n_states. */
    dfa->edge_first[n] = n_edges;
    dfa->call_first[n] = n_calls;
    dfa->start = number[as[dfa->start]];
    dfa->n_states = n;
}

static void merge_states(struct workshop *work, struct dfa *dfa)
{
    uint32_t mask = 63;
    while (mask < 2 * dfa->n_states)
        mask = mask * 2 + 1;
    uint32_t *as = scratch_take(work, (size_t)dfa->n_states + 1, sizeof *as);
    uint32_t *number = scratch_take(work, (size_t)dfa->n_states + 1, sizeof *number);
    uint32_t *table = scratch_take(work, (size_t)mask + 1, sizeof *table);
    if (work->failed)
        return;
    for (uint32_t s = 0; s < dfa->n_states; s++)
        as[s] = s;
    for (int pass = 0; pass < MERGE_PASSES && merge_pass(work, dfa, as, table, mask); pass++)
        ;
    if (!work->failed)
        drop_merged(dfa, as, number);
}

bool dfa_build(struct workshop *work, uint32_t expr, const uint8_t *rule_nullable, struct dfa *dfa)
{
    struct graph graph;
    struct subsets sets;
    *dfa = (struct dfa){ 0 };
    if (!build_graph(work, expr, rule_nullable, &graph) || !open_subsets(work, &graph, &sets))
        return false;
    struct arena_mark mark = arena_mark(&work->scratch);
    struct subsets empty = sets;
    if (!grow_sets(&sets, true, SUBSETS_FREE + SUBSETS_PER_STATE * graph.n_states)) {
        if (work->failed || !rule_nullable)
            return work->failed ? false
                                : (work_refuse(work, ERR_REQUEST,
                                               "a pattern that is combined with another takes more "
                                               "than %u states",
                                               sets.n),
                                   false);
        arena_reset(&work->scratch, mark);
        sets = empty;
        memset(sets.table, 0, ((size_t)sets.table_mask + 1) * sizeof *sets.table);
        memset(sets.stamps, 0, graph.n_states * sizeof *sets.stamps);
        dfa->overlaps = true;
        if (!grow_sets(&sets, false, UINT32_MAX))
            return false;
    }
    take_states(&sets, dfa);
    if (!work->failed)
        merge_states(work, dfa);
    return !work->failed;
}
