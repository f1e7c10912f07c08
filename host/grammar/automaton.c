/* automaton.c - rules -> one table of states.
 *
 * Which rules may be empty; each rule by itself (dfa.c); calls get their addresses; heights, by
 * which everything that cannot reach an end falls away; no rule begins with itself. */
#include "host/grammar/automaton.h"
#include "host/grammar/dfa.h"
#include <stdlib.h>
#include <string.h>

enum { NO_RULE = UINT32_MAX, HEIGHT_UNKNOWN = 255 };

struct assembly {
    struct workshop *work;
    uint8_t *expr_nullable, *rule_nullable;
    uint32_t *alias;  /* [n_rules] the rule that this one only names */
    uint32_t *starts; /* [n_rules] state, or NO_RULE: not met yet */
    uint32_t *wanted; /* rules whose states are to be made, in order */
    uint32_t n_wanted, n_done;
    struct auto_state *states;
    uint32_t n_states, states_capacity;
    struct auto_edge *edges;
    uint32_t n_edges, edges_capacity;
    struct auto_call *calls; /* `start` is a rule until resolve_calls */
    uint32_t n_calls, calls_capacity;
};

static bool expr_is_nullable(const struct assembly *a, const struct expr *e)
{
    const struct workshop *work = a->work;
    switch ((enum expr_kind)e->kind) {
    case EXPR_KIND_NONE:
    case EXPR_KIND_RANGE:
    case EXPR_KIND_TEXT:
        return false;
    case EXPR_KIND_EMPTY:
    case EXPR_KIND_STAR:
        return true;
    case EXPR_KIND_RULE:
        return a->rule_nullable[e->first];
    case EXPR_KIND_SEQ:
        for (uint32_t i = 0; i < e->count; i++)
            if (!a->expr_nullable[work->items[e->first + i]])
                return false;
        return true;
    case EXPR_KIND_ALT:
        for (uint32_t i = 0; i < e->count; i++)
            if (a->expr_nullable[work->items[e->first + i]])
                return true;
        return false;
    case EXPR_KIND_NET:
        break;
    }
    return false; /* nets: see net_is_nullable */
}

/* Does a path of nullable edges lead from state 0 to 1? Edges of our nets mostly lead upwards, so a
 * few passes do; what they miss costs nothing but a wrong `false`, so they go on until nothing
 * changes. */
static bool net_is_nullable(const struct assembly *a, const struct expr *e)
{
    struct workshop *work = a->work;
    const uint32_t *items = work->items + e->first;
    struct arena_mark mark = arena_mark(&work->scratch);
    uint8_t *reached = scratch_take(work, items[0], 1);
    bool found = false;
    if (reached) {
        reached[0] = 1;
        for (bool changed = true; changed && work_step(work, e->count);) {
            changed = false;
            for (uint32_t i = 0; i < e->count; i++) {
                const uint32_t *edge = items + 1 + 3 * i;
                if (reached[edge[0]] && !reached[edge[1]] && a->expr_nullable[edge[2]])
                    reached[edge[1]] = changed = true;
            }
        }
        found = reached[1];
    }
    arena_reset(&work->scratch, mark);
    return found;
}

/* Children come before parents, so one pass settles everything but calls. */
static void find_nullable(struct assembly *a)
{
    struct workshop *work = a->work;
    for (bool changed = true; changed && work_step(work, work->n_exprs);) {
        changed = false;
        for (uint32_t i = 0; i < work->n_exprs && !work->failed; i++) {
            const struct expr *e = &work->exprs[i];
            if (!a->expr_nullable[i])
                a->expr_nullable[i] =
                    e->kind == EXPR_KIND_NET ? net_is_nullable(a, e) : expr_is_nullable(a, e);
        }
        for (uint32_t r = 0; r < work->n_rules; r++)
            if (!a->rule_nullable[r] && a->expr_nullable[work->rules[r].body])
                a->rule_nullable[r] = changed = true;
    }
}

/* A rule that only names another is that other; a ring of names matches nothing and stays. */
static void find_aliases(struct assembly *a)
{
    const struct workshop *work = a->work;
    for (uint32_t r = 0; r < work->n_rules; r++) {
        uint32_t at = r, n = 0;
        while (work->exprs[work->rules[at].body].kind == EXPR_KIND_RULE && n++ <= work->n_rules &&
               work_step(a->work, 1))
            at = work->exprs[work->rules[at].body].first;
        a->alias[r] = n <= work->n_rules ? at : r;
    }
}

static void want_rule(struct assembly *a, uint32_t rule)
{
    if (a->starts[rule] != NO_RULE)
        return;
    a->starts[rule] = 0;
    a->wanted[a->n_wanted++] = rule;
}

static void append_state(struct assembly *a, bool accepts)
{
    struct workshop *work = a->work;
    a->states = work_grow(work, a->states, a->n_states, &a->states_capacity, sizeof *a->states);
    if (!work_step(work, 1))
        return;
    a->states[a->n_states++] = (struct auto_state){
        .edges = a->n_edges, .calls = a->n_calls, .accepts = accepts, .height = HEIGHT_UNKNOWN
    };
    if (a->n_states > (uint32_t)work->limits->states)
        work_refuse(work, ERR_REQUEST, "the grammar takes more than %d states",
                    work->limits->states);
}

static void append_rule(struct assembly *a, uint32_t rule)
{
    struct workshop *work = a->work;
    struct arena_mark mark = arena_mark(&work->scratch);
    struct dfa dfa;
    if (dfa_build(work, work->rules[rule].body, a->rule_nullable, &dfa)) {
        uint32_t base = a->n_states;
        a->starts[rule] = base + dfa.start;
        for (uint32_t s = 0; s < dfa.n_states && !work->failed; s++) {
            append_state(a, dfa.accepts[s]);
            for (uint32_t e = dfa.edge_first[s]; e < dfa.edge_first[s + 1] && !work->failed; e++) {
                a->edges =
                    work_grow(work, a->edges, a->n_edges, &a->edges_capacity, sizeof *a->edges);
                if (!work->failed)
                    a->edges[a->n_edges++] =
                        (struct auto_edge){ base + dfa.edges[e].to, dfa.edges[e].low,
                                            dfa.edges[e].high };
            }
            for (uint32_t c = dfa.call_first[s]; c < dfa.call_first[s + 1] && !work->failed; c++) {
                uint32_t called = a->alias[dfa.calls[c].rule];
                want_rule(a, called);
                a->calls =
                    work_grow(work, a->calls, a->n_calls, &a->calls_capacity, sizeof *a->calls);
                if (!work->failed)
                    a->calls[a->n_calls++] =
                        (struct auto_call){ called, base + dfa.calls[c].to, false };
            }
        }
    }
    arena_reset(&work->scratch, mark);
}

/* What leads to a state: its callers and the edges into it, as lists. */
struct reverse {
    uint32_t *edge_from;                                 /* [n_edges] */
    uint32_t *call_from;                                 /* [n_calls] */
    uint32_t *edges_first, *edges_next;                  /* into a state */
    uint32_t *returns_first, *returns_next;              /* calls that return to it */
    uint32_t *starts_first, *starts_next;                /* calls that begin with it */
    uint32_t *bucket_first, *bucket_next, *bucket_state; /* states by the height they may have */
    uint32_t n_entries;
};
enum { LIST_END = UINT32_MAX };

static void link_state(uint32_t *first, uint32_t *next, uint32_t state, uint32_t i)
{
    next[i] = first[state];
    first[state] = i;
}

static bool open_reverse(struct assembly *a, struct reverse *r)
{
    struct workshop *work = a->work;
    size_t n = a->n_states, n_entries = n + a->n_edges + 2 * (size_t)a->n_calls;
    *r = (struct reverse){
        .edge_from = scratch_take(work, a->n_edges, sizeof(uint32_t)),
        .call_from = scratch_take(work, a->n_calls, sizeof(uint32_t)),
        .edges_first = scratch_take(work, n, sizeof(uint32_t)),
        .edges_next = scratch_take(work, a->n_edges, sizeof(uint32_t)),
        .returns_first = scratch_take(work, n, sizeof(uint32_t)),
        .returns_next = scratch_take(work, a->n_calls, sizeof(uint32_t)),
        .starts_first = scratch_take(work, n, sizeof(uint32_t)),
        .starts_next = scratch_take(work, a->n_calls, sizeof(uint32_t)),
        .bucket_first = scratch_take(work, CALL_DEPTH_MAX + 1, sizeof(uint32_t)),
        .bucket_next = scratch_take(work, n_entries, sizeof(uint32_t)),
        .bucket_state = scratch_take(work, n_entries, sizeof(uint32_t)),
    };
    if (!work_step(work, (int64_t)n_entries))
        return false;
    memset(r->edges_first, 0xff, n * sizeof(uint32_t));
    memset(r->returns_first, 0xff, n * sizeof(uint32_t));
    memset(r->starts_first, 0xff, n * sizeof(uint32_t));
    memset(r->bucket_first, 0xff, (CALL_DEPTH_MAX + 1) * sizeof(uint32_t));
    for (uint32_t s = 0; s < n; s++) {
        for (uint32_t e = a->states[s].edges; e < a->states[s + 1].edges; e++) {
            r->edge_from[e] = s;
            link_state(r->edges_first, r->edges_next, a->edges[e].to, e);
        }
        for (uint32_t c = a->states[s].calls; c < a->states[s + 1].calls; c++) {
            r->call_from[c] = s;
            link_state(r->returns_first, r->returns_next, a->calls[c].to, c);
            link_state(r->starts_first, r->starts_next, a->calls[c].start, c);
        }
    }
    return true;
}

static void propose(struct assembly *a, struct reverse *r, uint32_t state, int height)
{
    if (height > CALL_DEPTH_MAX || a->states[state].height != HEIGHT_UNKNOWN)
        return;
    r->bucket_state[r->n_entries] = state;
    link_state(r->bucket_first, r->bucket_next, (uint32_t)height, r->n_entries++);
}

/* A call is possible once its rule and what follows it have heights. */
static void propose_call(struct assembly *a, struct reverse *r, uint32_t c)
{
    int rule = a->states[a->calls[c].start].height, rest = a->states[a->calls[c].to].height;
    if (rule != HEIGHT_UNKNOWN && rest != HEIGHT_UNKNOWN)
        propose(a, r, r->call_from[c], rule + 1 > rest ? rule + 1 : rest);
}

/* Lowest first, as Dijkstra has it (Knuth's form, for calls want two): a height is final when
 * given. */
static void find_heights(struct assembly *a)
{
    struct workshop *work = a->work;
    struct arena_mark mark = arena_mark(&work->scratch);
    struct reverse r;
    if (open_reverse(a, &r)) {
        for (uint32_t s = 0; s < a->n_states; s++)
            if (a->states[s].accepts)
                propose(a, &r, s, 0);
        for (uint32_t height = 0; height <= CALL_DEPTH_MAX;) {
            uint32_t entry = r.bucket_first[height];
            if (entry == LIST_END) {
                height++;
                continue;
            }
            r.bucket_first[height] = r.bucket_next[entry];
            uint32_t state = r.bucket_state[entry];
            if (a->states[state].height != HEIGHT_UNKNOWN)
                continue;
            a->states[state].height = (uint8_t)height;
            for (uint32_t e = r.edges_first[state]; e != LIST_END; e = r.edges_next[e])
                propose(a, &r, r.edge_from[e], (int)height);
            for (uint32_t c = r.returns_first[state]; c != LIST_END; c = r.returns_next[c])
                propose_call(a, &r, c);
            for (uint32_t c = r.starts_first[state]; c != LIST_END; c = r.starts_next[c])
                propose_call(a, &r, c);
        }
    }
    arena_reset(&work->scratch, mark);
}

/* Edges and calls that lead nowhere go; the rest move down in place. */
static void drop_dead(struct assembly *a)
{
    uint32_t n_edges = 0, n_calls = 0;
    for (uint32_t s = 0; s < a->n_states; s++) {
        uint32_t e = a->states[s].edges, e_end = a->states[s + 1].edges;
        uint32_t c = a->states[s].calls, c_end = a->states[s + 1].calls;
        a->states[s].edges = n_edges;
        a->states[s].calls = n_calls;
        for (; e < e_end; e++)
            if (a->states[a->edges[e].to].height != HEIGHT_UNKNOWN)
                a->edges[n_edges++] = a->edges[e];
        for (; c < c_end; c++)
            if (a->states[a->calls[c].to].height != HEIGHT_UNKNOWN &&
                a->states[a->calls[c].start].height != HEIGHT_UNKNOWN)
                a->calls[n_calls++] = a->calls[c];
    }
    a->states[a->n_states].edges = a->n_edges = n_edges;
    a->states[a->n_states].calls = a->n_calls = n_calls;
    for (uint32_t c = 0; c < n_calls; c++) {
        const struct auto_state *to = &a->states[a->calls[c].to];
        a->calls[c].last = to->accepts && to[1].edges == to->edges && to[1].calls == to->calls;
    }
}

static const char *rule_at(const struct assembly *a, uint32_t start)
{
    for (uint32_t r = 0; r < a->work->n_rules; r++)
        if (a->starts[r] == start && a->work->rules[r].name)
            return a->work->rules[r].name;
    return "a rule without a name";
}

/* Depth first over "begins with a call of"; depth[s]: 0 not seen, 255 on the path, else how many
 * calls open from s without a byte, plus 1. */
static void check_left(struct assembly *a)
{
    enum { ON_PATH = 255 };
    struct workshop *work = a->work;
    struct arena_mark mark = arena_mark(&work->scratch);
    uint8_t *depth = scratch_take(work, a->n_states, 1);
    uint32_t *path = scratch_take(work, a->n_states, sizeof *path);
    uint32_t *call = scratch_take(work, a->n_states, sizeof *call);
    for (uint32_t s = 0; s < a->n_states && work_step(work, 1); s++) {
        uint32_t n = 0;
        if (depth[s] != 0 || a->states[s].calls == a->states[s + 1].calls)
            continue;
        path[n] = s;
        call[n++] = a->states[s].calls;
        depth[s] = ON_PATH;
        while (n > 0 && work_step(work, 1)) {
            uint32_t at = path[n - 1];
            if (call[n - 1] < a->states[at + 1].calls) {
                uint32_t next = a->calls[call[n - 1]++].start;
                if (depth[next] == ON_PATH) {
                    work_refuse(work, ERR_REQUEST,
                                "%s begins with itself (left recursion), which is not supported",
                                rule_at(a, next));
                } else if (depth[next] == 0) {
                    path[n] = next;
                    call[n++] = a->states[next].calls;
                    depth[next] = ON_PATH;
                }
                continue;
            }
            uint8_t deepest = 0;
            for (uint32_t c = a->states[at].calls; c < a->states[at + 1].calls; c++)
                if (depth[a->calls[c].start] > deepest)
                    deepest = depth[a->calls[c].start];
            depth[at] = deepest + 1;
            if (deepest >= LEFT_DEPTH_MAX)
                work_refuse(work, ERR_REQUEST, "%s begins with more than %d rules one in another",
                            rule_at(a, at), LEFT_DEPTH_MAX);
            n--;
        }
    }
    arena_reset(&work->scratch, mark);
}

static void *copy_out(struct workshop *work, const void *from, size_t n, size_t size)
{
    void *to = work->failed ? NULL : malloc(n * size + 1);
    if (!work->failed && !to)
        work_refuse(work, ERR_MEMORY, "no memory for a grammar of %zu bytes", n * size);
    if (to && n > 0)
        memcpy(to, from, n * size);
    return to;
}

static void take_automaton(struct assembly *a, uint32_t root, struct automaton *automaton)
{
    struct workshop *work = a->work;
    automaton->n_states = a->n_states;
    automaton->start = a->starts[root];
    automaton->accepts_empty = a->rule_nullable[root];
    automaton->states = copy_out(work, a->states, (size_t)a->n_states + 1, sizeof *a->states);
    automaton->edges = copy_out(work, a->edges, a->n_edges, sizeof *a->edges);
    automaton->calls = copy_out(work, a->calls, a->n_calls, sizeof *a->calls);
    automaton->bytes = ((size_t)a->n_states + 1) * sizeof *a->states +
                       a->n_edges * sizeof *a->edges + a->n_calls * sizeof *a->calls;
}

static bool assemble(struct assembly *a, uint32_t root, uint32_t n_fixed, uint32_t *n_shared)
{
    struct workshop *work = a->work;
    find_nullable(a);
    find_aliases(a);
    if (work->failed)
        return false;
    root = a->alias[root];
    for (uint32_t r = 0; r < n_fixed; r++)
        want_rule(a, r);
    for (bool root_wanted = false; !work->failed;) {
        if (a->n_done == a->n_wanted) {
            if (root_wanted)
                break;
            *n_shared = a->n_states; /* what the fixed rules call is theirs too */
            root_wanted = true;
            want_rule(a, root);
            continue;
        }
        append_rule(a, a->wanted[a->n_done++]);
    }
    append_state(a, false); /* closes the lists of the last */
    if (work->failed)
        return false;
    a->n_states--;
    for (uint32_t c = 0; c < a->n_calls; c++)
        a->calls[c].start = a->starts[a->calls[c].start];
    find_heights(a);
    if (work->failed)
        return false;
    if (a->states[a->starts[root]].height == HEIGHT_UNKNOWN && !a->rule_nullable[root]) {
        work_refuse(work, ERR_REQUEST, "the grammar matches no text (with at most %d open rules)",
                    CALL_DEPTH_MAX);
        return false;
    }
    drop_dead(a);
    check_left(a);
    return !work->failed;
}

bool automaton_build(struct workshop *work, uint32_t root, uint32_t n_fixed, uint32_t kind,
                     struct automaton *automaton)
{
    struct assembly a = { .work = work };
    *automaton = (struct automaton){ .kind = kind };
    struct arena_mark mark = arena_mark(&work->scratch);
    a.expr_nullable = scratch_take(work, work->n_exprs, 1);
    a.rule_nullable = scratch_take(work, work->n_rules, 1);
    a.alias = scratch_take(work, work->n_rules, sizeof *a.alias);
    a.starts = scratch_take(work, work->n_rules, sizeof *a.starts);
    a.wanted = scratch_take(work, work->n_rules, sizeof *a.wanted);
    uint32_t n_shared = 0;
    if (!work->failed) {
        memset(a.starts, 0xff, work->n_rules * sizeof *a.starts);
        if (assemble(&a, root, n_fixed, &n_shared))
            take_automaton(&a, a.alias[root], automaton);
    }
    automaton->n_shared = kind ? n_shared : 0;
    arena_reset(&work->scratch, mark);
    if (work->failed)
        automaton_clear(automaton);
    return !work->failed;
}

void automaton_clear(struct automaton *automaton)
{
    free(automaton->states);
    free(automaton->edges);
    free(automaton->calls);
    *automaton = (struct automaton){ 0 };
}
