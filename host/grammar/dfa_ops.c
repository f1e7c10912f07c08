/* dfa_ops.c - both of two regular expressions, one without the other: pairs of states. */
#include "host/grammar/dfa.h"
#include <string.h>

enum { GONE = UINT32_MAX }; /* the second automaton has no way on */

struct pair {
    uint32_t a, b;
};
struct product {
    struct workshop *work;
    const struct dfa *a, *b;
    bool minus;
    struct pair *pairs; /* the state 2 + i of the net; 0 is the first pair too, 1 the end */
    uint32_t n_pairs, pairs_capacity;
    uint32_t *table, table_mask; /* pair + 1 */
    struct net_edge *edges;
    uint32_t n_edges, edges_capacity;
};

static void put_net_edge(struct product *p, uint32_t from, uint32_t to, uint32_t label)
{
    p->edges = scratch_grow(p->work, p->edges, p->n_edges, &p->edges_capacity, sizeof *p->edges);
    if (!p->work->failed)
        p->edges[p->n_edges++] = (struct net_edge){ from, to, label };
}

static uint32_t hash_pair(struct pair pair)
{
    uint64_t hash = ((uint64_t)pair.a << 32 | pair.b) * 0xff51afd7ed558ccdu;
    return (uint32_t)(hash >> 32);
}

static void place_pair(struct product *p, uint32_t i)
{
    uint32_t at = hash_pair(p->pairs[i]);
    while (p->table[at & p->table_mask])
        at++;
    p->table[at & p->table_mask] = i + 1;
}

static uint32_t find_pair(struct product *p, struct pair pair)
{
    struct workshop *work = p->work;
    for (uint32_t at = hash_pair(pair); p->table[at & p->table_mask]; at++) {
        uint32_t i = p->table[at & p->table_mask] - 1;
        if (p->pairs[i].a == pair.a && p->pairs[i].b == pair.b)
            return i;
    }
    p->pairs = scratch_grow(work, p->pairs, p->n_pairs, &p->pairs_capacity, sizeof *p->pairs);
    if (!work_step(work, 1))
        return 0;
    p->pairs[p->n_pairs++] = pair;
    if (p->n_pairs > (uint32_t)work->limits->states)
        return work_refuse(work, ERR_REQUEST, "the grammar takes more than %d states",
                           work->limits->states);
    if (p->n_pairs <= p->table_mask / 2) {
        place_pair(p, p->n_pairs - 1);
        return p->n_pairs - 1;
    }
    p->table_mask = p->table_mask * 2 + 1;
    p->table = scratch_take(work, (size_t)p->table_mask + 1, sizeof *p->table);
    for (uint32_t i = 0; i < p->n_pairs && !work->failed; i++)
        place_pair(p, i);
    return p->n_pairs - 1;
}

static bool accepts(const struct product *p, struct pair pair)
{
    bool b = pair.b != GONE && p->b->accepts[pair.b];
    return p->a->accepts[pair.a] && b != p->minus;
}

/* One stretch of bytes of the first automaton, cut where the second's edges begin and end. */
static void put_stretch(struct product *p, uint32_t i, const struct dfa_edge *edge)
{
    const struct dfa *b = p->b;
    uint32_t at = p->pairs[i].b;
    uint32_t e = at == GONE ? 0 : b->edge_first[at], end = at == GONE ? 0 : b->edge_first[at + 1];
    for (int low = edge->low, next; low <= edge->high && work_step(p->work, 1); low = next) {
        uint32_t to = GONE;
        next = edge->high + 1;
        while (e < end && b->edges[e].high < low)
            e++;
        if (e < end && b->edges[e].low <= low) {
            to = b->edges[e].to;
            if (b->edges[e].high + 1 < next)
                next = b->edges[e].high + 1;
        } else if (e < end && b->edges[e].low < next) {
            next = b->edges[e].low;
        }
        if (to == GONE && !p->minus)
            continue;
        uint32_t pair = find_pair(p, (struct pair){ edge->to, to });
        put_net_edge(p, 2 + i, 2 + pair, expr_range(p->work, (uint8_t)low, (uint8_t)(next - 1)));
    }
}

static uint32_t multiply(struct product *p)
{
    struct workshop *work = p->work;
    p->table_mask = 63;
    p->table = scratch_take(work, (size_t)p->table_mask + 1, sizeof *p->table);
    if (work->failed)
        return EXPR_NONE;
    find_pair(p, (struct pair){ p->a->start, p->b->start });
    put_net_edge(p, 0, 2, EXPR_EMPTY);
    if (p->a->nullable && p->b->nullable != p->minus)
        put_net_edge(p, 0, 1, EXPR_EMPTY);
    for (uint32_t i = 0; i < p->n_pairs && work_step(work, 1); i++) {
        struct pair pair = p->pairs[i];
        if (accepts(p, pair))
            put_net_edge(p, 2 + i, 1, EXPR_EMPTY);
        for (uint32_t e = p->a->edge_first[pair.a]; e < p->a->edge_first[pair.a + 1]; e++)
            put_stretch(p, i, &p->a->edges[e]);
    }
    return work->failed ? EXPR_NONE : expr_net(work, 2 + p->n_pairs, p->edges, p->n_edges);
}

static uint32_t combine(struct workshop *work, uint32_t a, uint32_t b, bool minus)
{
    struct arena_mark mark = arena_mark(&work->scratch);
    struct dfa first, second;
    uint32_t result = EXPR_NONE;
    if (dfa_build(work, a, NULL, &first) && dfa_build(work, b, NULL, &second)) {
        struct product p = { .work = work, .a = &first, .b = &second, .minus = minus };
        result = multiply(&p);
    }
    arena_reset(&work->scratch, mark);
    return result;
}

uint32_t expr_and(struct workshop *work, uint32_t a, uint32_t b)
{
    return combine(work, a, b, false);
}

uint32_t expr_minus(struct workshop *work, uint32_t a, uint32_t b)
{
    return combine(work, a, b, true);
}

bool expr_matches(struct workshop *work, uint32_t expr, const char *bytes, size_t length)
{
    struct arena_mark mark = arena_mark(&work->scratch);
    struct dfa dfa;
    bool found = false;
    if (dfa_build(work, expr, NULL, &dfa)) {
        uint32_t at = dfa.start;
        size_t i = 0;
        for (; i < length; i++) {
            uint32_t e = dfa.edge_first[at], end = dfa.edge_first[at + 1];
            while (e < end && (uint8_t)bytes[i] > dfa.edges[e].high)
                e++;
            if (e == end || (uint8_t)bytes[i] < dfa.edges[e].low)
                break;
            at = dfa.edges[e].to;
        }
        found = i == length && (length == 0 ? dfa.nullable : dfa.accepts[at]);
    }
    arena_reset(&work->scratch, mark);
    return found;
}
