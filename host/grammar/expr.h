/* expr.h - what every source is turned into: expressions over bytes that may call rules.
 *
 * Expressions are numbered, and children come before parents, so nothing here or in nfa.c walks a
 * tree by recursion. Failure is sticky: after the first (work->failed, *work->err says why) the
 * functions return EXPR_NONE and do nothing; compilers look at work->failed in their loops and at
 * the end. */
#pragma once
#include "host/base/arena.h"
#include "host/grammar/grammar.h"

enum expr_kind {
    EXPR_KIND_NONE,  /* matches nothing */
    EXPR_KIND_EMPTY, /* the empty text */
    EXPR_KIND_RANGE, /* one byte, first..count */
    EXPR_KIND_TEXT,  /* bytes[first .. first + count) */
    EXPR_KIND_SEQ,   /* items[first .. first + count), one behind the other */
    EXPR_KIND_ALT,   /* one of them */
    EXPR_KIND_STAR,  /* `first`, any number of times */
    EXPR_KIND_RULE,  /* what rule `first` matches */
    EXPR_KIND_NET,   /* a graph with expressions on its edges, see expr_net_begin */
};
struct expr {
    uint8_t kind;
    uint32_t first, count;
    uint32_t size; /* about how many states it takes */
};
enum { EXPR_NONE = 0, EXPR_EMPTY = 1 };

struct rule {
    uint32_t body;
    char *name; /* for errors; NULL: the source has no name for it */
};
struct net_edge {
    uint32_t from, to, label;
};
/* The most that {m,n} may ask for. */
enum { REPEAT_MAX = 1000000 };

/* Growing arrays live in the arena; what they leave behind when they grow counts too. */
struct workshop {
    struct arena arena;
    struct arena scratch; /* of one operation: whoever takes from it resets it (arena_mark) */
    const struct grammar_limits *limits;
    struct err *err;
    bool failed;
    int64_t steps_left;
    uint64_t deadline_ns; /* 0: none */
    struct expr *exprs;
    uint32_t n_exprs, exprs_capacity;
    uint32_t *items; /* of SEQ and ALT; of NET: n_states, then (from, to, label)... */
    uint32_t n_items, items_capacity;
    char *bytes; /* of TEXT */
    uint32_t n_bytes, bytes_capacity;
    struct rule *rules;
    uint32_t n_rules, rules_capacity;
};

void workshop_open(struct workshop *work, const struct grammar_limits *limits, struct err *err);
void workshop_close(struct workshop *work);
/* n steps of work: false (and failed) when the budget or the time is used up. */
bool work_step(struct workshop *work, int64_t n);
/* Fail; returns EXPR_NONE. */
uint32_t work_refuse(struct workshop *work, enum err_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* Room for n + 1 elements in an array of the arena, or of the scratch: the array, perhaps moved; as
 * it was when it failed. */
void *work_grow(struct workshop *work, void *array, uint32_t n, uint32_t *capacity, size_t size);
void *scratch_grow(struct workshop *work, void *array, uint32_t n, uint32_t *capacity, size_t size);
/* n zeroed elements of the scratch; NULL when it failed. */
void *scratch_take(struct workshop *work, size_t n, size_t size);

uint32_t expr_range(struct workshop *work, uint8_t low, uint8_t high);
uint32_t expr_text(struct workshop *work, const char *bytes, size_t length);
uint32_t expr_literal(struct workshop *work, const char *text); /* strlen */
uint32_t expr_seq(struct workshop *work, const uint32_t *items, uint32_t n);
uint32_t expr_alt(struct workshop *work, const uint32_t *items, uint32_t n);
uint32_t expr_seq2(struct workshop *work, uint32_t a, uint32_t b);
uint32_t expr_alt2(struct workshop *work, uint32_t a, uint32_t b);
uint32_t expr_option(struct workshop *work, uint32_t item);
uint32_t expr_star(struct workshop *work, uint32_t item);
/* min..max times, max < 0: without end. Large counts become rules of about sqrt(n) items, so that a
 * million takes two thousand states. */
uint32_t expr_repeat(struct workshop *work, uint32_t item, int64_t min, int64_t max);
/* A graph: `n_states` of them, from 0 to 1. */
uint32_t expr_net(struct workshop *work, uint32_t n_states, const struct net_edge *edges,
                  uint32_t n_edges);
/* A rule whose body follows (rule_set), and a call of it. `name` is copied. */
uint32_t rule_new(struct workshop *work, const char *name);
void rule_set(struct workshop *work, uint32_t rule, uint32_t body);
uint32_t expr_rule(struct workshop *work, uint32_t rule);
/* A call of a new rule with this body. */
uint32_t expr_as_rule(struct workshop *work, uint32_t body);
