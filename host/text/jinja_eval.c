/* jinja_eval.c - walking the tree: expressions to values; scopes and budgets of a render.
 *
 * Invariant: every node costs a step and every nested one a level of depth, so that a render ends,
 * and ends in an error when it would not. Names are looked up in the chain of scopes. */
#include "host/text/jinja.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool run_fail(struct run *run, const char *format, ...)
{
    char text[sizeof run->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    return err_set(run->err, ERR_REQUEST, "chat template line %d: %s", run->line, text);
}

bool run_fail_memory(struct run *run, size_t bytes)
{
    if (bytes > run->arena.limit - run->arena.used)
        return run_fail(run, "more than %d MB of memory", JINJA_MEMORY_MAX >> 20);
    return err_set(run->err, ERR_MEMORY, "chat template: out of memory");
}

bool run_spend(struct run *run, size_t bytes)
{
    run->steps -=
        bytes > JINJA_MEMORY_MAX ? (int64_t)JINJA_STEPS_MAX * JINJA_STEP : (int64_t)bytes + 1;
    return run->steps >= 0 ? true : run_fail(run, "more than %d steps", JINJA_STEPS_MAX);
}

bool run_enter(struct run *run)
{
    if (++run->depth > JINJA_DEPTH_MAX)
        return run_fail(run, "more than %d levels of nesting or recursion", JINJA_DEPTH_MAX);
    return true;
}

void *run_take(struct run *run, size_t n, size_t size)
{
    void *memory = arena_take(&run->arena, n, size);
    if (!memory) {
        size_t bytes;
        run_fail_memory(run, __builtin_mul_overflow(n, size, &bytes) ? SIZE_MAX : bytes);
    }
    return memory;
}

/* ---- scopes ---- */

struct scope *scope_open(struct run *run, struct scope *up)
{
    struct scope *scope = run_take(run, 1, sizeof *scope);
    if (scope)
        scope->up = up;
    return scope;
}

bool scope_set(struct run *run, struct scope *scope, int32_t symbol, const struct value *value)
{
    for (int32_t i = 0; i < scope->n; i++) {
        if (scope->bindings[i].symbol == symbol) {
            scope->bindings[i].value = *value;
            return run_spend(run, 4 * (size_t)i);
        }
    }
    if (scope->n == scope->capacity) {
        int32_t capacity = scope->capacity ? 2 * scope->capacity : 4;
        struct binding *more = run_take(run, (size_t)capacity, sizeof *more);
        if (!more)
            return false;
        if (scope->n)
            memcpy(more, scope->bindings, (size_t)scope->n * sizeof *more);
        scope->bindings = more;
        scope->capacity = capacity;
    }
    scope->bindings[scope->n++] = (struct binding){ symbol, *value };
    return run_spend(run, 4 * (size_t)scope->n);
}

/* The binding's value, or NULL. */
const struct value *scope_get(struct run *run, int32_t symbol, size_t *compared)
{
    for (const struct scope *scope = run->scope; scope; scope = scope->up) {
        for (int32_t i = 0; i < scope->n; i++)
            if (scope->bindings[i].symbol == symbol)
                return &scope->bindings[i].value;
        *compared += (size_t)scope->n + 1;
    }
    return NULL;
}

void scope_capture(struct scope *scope)
{
    for (; scope && !scope->captured; scope = scope->up)
        scope->captured = true;
}

/* ---- expressions ---- */

LEAF static bool eval_name(struct run *run, const struct node *node, struct value *out)
{
    size_t compared = 0;
    const struct value *value = scope_get(run, node->symbol, &compared);
    if (!run_spend(run, 2 * compared))
        return false;
    if (value) {
        *out = *value;
        return true;
    }
    int length = (int)(node->value.text.length < 128 ? node->value.text.length : 128);
    return value_undefined(run, out, "'%.*s' is undefined", length, node->value.text.bytes);
}

/* The items' values in the arena. */
LEAF static bool eval_items(struct run *run, const struct node_list *list, struct value_items *out)
{
    struct value *items = run_take(run, (size_t)list->n, sizeof *items);
    if (!items)
        return false;
    for (int32_t i = 0; i < list->n; i++)
        if (!run_eval(run, list->at[i], &items[i]))
            return false;
    *out = (struct value_items){ items, (size_t)list->n };
    return true;
}

LEAF static bool eval_sequence(struct run *run, const struct node *node, struct value *out)
{
    struct value_items items;
    if (!eval_items(run, &node->items, &items))
        return false;
    if (node->kind != NODE_DICT) {
        *out = value_list(items.at, items.n);
        out->kind = node->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE;
        return true;
    }
    struct space space = { 0 };
    for (size_t i = 0; i + 1 < items.n; i += 2)
        if (!dict_build(run, &space, &items.at[i], &items.at[i + 1]))
            return false;
    *out = (struct value){ .kind = VALUE_DICT, .pairs = { space.pairs, space.n } };
    return true;
}

LEAF static bool compare(struct run *run, enum compare_op op, const struct value *a,
                         const struct value *b, bool *result)
{
    static const char *const names[] = { "==", "!=", "<", "<=", ">", ">=" };
    int order;
    switch (op) {
    case CMP_EQ:
    case CMP_NE:
        if (!value_equal(run, a, b, result))
            return false;
        *result = *result == (op == CMP_EQ);
        return true;
    case CMP_IN:
    case CMP_NOT_IN:
        if (!value_in(run, a, b, result))
            return false;
        *result = *result == (op == CMP_IN);
        return true;
    default:
        if (!value_order(run, a, b, names[op], &order))
            return false;
        *result = op == CMP_LT   ? order == -1
                  : op == CMP_LE ? order == -1 || order == 0
                  : op == CMP_GT ? order == 1
                                 : order == 1 || order == 0;
        return true;
    }
}

/* a < b < c: each operand is evaluated once, and none behind a comparison that fails. */
LEAF static bool eval_compare(struct run *run, const struct node *node, struct value *out)
{
    struct value a, b;
    bool holds = true;
    if (!run_eval(run, node->items.at[0], &a))
        return false;
    for (int32_t i = 1; i < node->items.n && holds; i++) {
        if (!run_eval(run, node->items.at[i], &b) ||
            !compare(run, (enum compare_op)node->ops[i - 1], &a, &b, &holds))
            return false;
        a = b;
    }
    *out = value_bool(holds);
    return true;
}

LEAF static bool eval_concat(struct run *run, const struct node *node, struct value *out)
{
    struct value sum = value_word("");
    for (int32_t i = 0; i < node->items.n; i++) {
        struct value item, text, left = sum;
        if (!run_eval(run, node->items.at[i], &item) || !value_str(run, &item, &text) ||
            !value_concat(run, left, text, &sum))
            return false;
    }
    *out = sum;
    return true;
}

LEAF static bool eval_binary(struct run *run, const struct node *node, struct value *out)
{
    struct value a, b;
    if (!run_eval(run, node->a, &a) || !run_eval(run, node->b, &b))
        return false;
    run->line = node->line;
    return value_binary(run, node->op, &a, &b, out);
}

LEAF static bool eval_sign(struct run *run, const struct node *node, struct value *out)
{
    struct value zero = value_int(0), a;
    if (!run_eval(run, node->a, &a))
        return false;
    if (!value_is_number(&a))
        return a.kind == VALUE_UNDEFINED
                   ? run_fail(run, "%.*s", (int)a.text.length, a.text.bytes)
                   : run_fail(run, "bad operand type for unary %c: '%s'",
                              node->kind == NODE_NEGATE ? '-' : '+', value_type(&a));
    if (a.kind == VALUE_FLOAT) {
        *out = value_float(node->kind == NODE_NEGATE ? -a.number : a.number);
        return true;
    }
    return value_binary(run, node->kind == NODE_NEGATE ? '-' : '+', &zero, &a, out);
}

LEAF static bool eval_cond(struct run *run, const struct node *node, struct value *out)
{
    struct value test;
    if (!run_eval(run, node->b, &test))
        return false;
    if (value_truth(&test))
        return run_eval(run, node->a, out);
    if (node->c)
        return run_eval(run, node->c, out);
    return value_undefined(run, out,
                           "the inline if-expression on line %d evaluated to false and no else "
                           "section was defined.",
                           node->line);
}

LEAF static bool eval_logic(struct run *run, const struct node *node, struct value *out)
{
    if (!run_eval(run, node->a, out))
        return false;
    return value_truth(out) == (node->kind == NODE_OR) ? true : run_eval(run, node->b, out);
}

LEAF static bool eval_attr(struct run *run, const struct node *node, struct value *out)
{
    struct value a;
    if (!run_eval(run, node->a, &a))
        return false;
    run->line = node->line;
    return value_attr(run, &a, node->value.text, out);
}

LEAF static bool eval_item(struct run *run, const struct node *node, struct value *out)
{
    struct value a, key;
    if (!run_eval(run, node->a, &a) || !run_eval(run, node->b, &key))
        return false;
    run->line = node->line;
    return value_item(run, &a, &key, out);
}

LEAF static bool eval_slice(struct run *run, const struct node *node, struct value *out)
{
    const struct node *nodes[3] = { node->b, node->c, node->d };
    struct value a, bounds[3];
    if (!run_eval(run, node->a, &a))
        return false;
    for (int i = 0; i < 3; i++)
        if (nodes[i] && !run_eval(run, nodes[i], &bounds[i]))
            return false;
    run->line = node->line;
    return value_slice(run, &a, nodes[0] ? &bounds[0] : NULL, nodes[1] ? &bounds[1] : NULL,
                       nodes[2] ? &bounds[2] : NULL, out);
}

/* *args: appended to the positional ones. */
static bool eval_star(struct run *run, const struct node *star, struct call *call)
{
    struct value value;
    struct value_items more;
    if (!run_eval(run, star, &value) || !value_iterate(run, &value, &more))
        return false;
    struct value *items = run_take(run, call->n + more.n, sizeof *items);
    if (!items || !run_spend(run, 16 * more.n))
        return false;
    if (call->n)
        memcpy(items, call->items, call->n * sizeof *items);
    if (more.n)
        memcpy(items + call->n, more.at, more.n * sizeof *items);
    call->items = items;
    call->n += more.n;
    return true;
}

/* Arguments of a call; `room` more named ones will be added by the caller. */
bool run_arguments(struct run *run, const struct arguments *arguments, struct call *call,
                   size_t room)
{
    struct value star_star = { .kind = VALUE_DICT };
    struct value_items items;
    *call = (struct call){ .what = "the call" };
    if (!arguments)
        return true;
    if (!eval_items(run, &arguments->items, &items))
        return false;
    call->items = items.at;
    call->n = items.n;
    if (arguments->star && !eval_star(run, arguments->star, call))
        return false;
    if (arguments->star_star && !run_eval(run, arguments->star_star, &star_star))
        return false;
    if (star_star.kind != VALUE_DICT)
        return run_fail(run, "argument after ** must be a mapping, not %s", value_type(&star_star));
    size_t n = (size_t)arguments->named.n, more = star_star.pairs.n;
    if (!n && !more && !room)
        return true;
    struct named_value *named = run_take(run, n + more + room, sizeof *named);
    if (!named || !run_spend(run, 16 * more))
        return false;
    for (size_t i = 0; i < n; i++) {
        named[i].name = arguments->names[i];
        if (!run_eval(run, arguments->named.at[i], &named[i].value))
            return false;
    }
    for (size_t i = 0; i < more; i++) {
        if (star_star.pairs.at[i].key.kind != VALUE_STRING)
            return run_fail(run, "keywords must be strings");
        named[n + i].name = star_star.pairs.at[i].key.text;
        named[n + i].value = star_star.pairs.at[i].value;
    }
    call->named = named;
    call->n_named = n + more;
    return true;
}

/* `caller`: NULL, or the body of a call block. */
bool run_eval_call(struct run *run, const struct node *node, const struct macro *caller,
                   struct value *out)
{
    struct value callee;
    struct call call;
    if (!run_eval(run, node->a, &callee) ||
        !run_arguments(run, node->arguments, &call, caller ? 1 : 0))
        return false;
    if (caller) {
        struct named_value *named = (struct named_value *)call.named;
        struct macro *copy = run_take(run, 1, sizeof *copy);
        if (!copy)
            return false;
        *copy = *caller;
        named[call.n_named].name = (struct value_text){ "caller", 6 };
        named[call.n_named++].value = (struct value){ .kind = VALUE_MACRO, .macro = copy };
    }
    run->line = node->line;
    return run_call(run, callee, &call, out);
}

LEAF static bool eval_filter(struct run *run, const struct node *node, struct value *out)
{
    struct value a;
    struct call call;
    if (!run_eval(run, node->a, &a) || !run_arguments(run, node->arguments, &call, 0))
        return false;
    run->line = node->line;
    if (node->entry < 0)
        return run_fail(run, "no filter named '%.*s'",
                        (int)(node->value.text.length < 64 ? node->value.text.length : 64),
                        node->value.text.bytes);
    return filter_apply(run, node->entry, &a, &call, out);
}

LEAF static bool eval_test(struct run *run, const struct node *node, struct value *out)
{
    struct value a;
    struct call call;
    bool holds;
    if (!run_eval(run, node->a, &a) || !run_arguments(run, node->arguments, &call, 0))
        return false;
    run->line = node->line;
    if (node->entry < 0)
        return run_fail(run, "no test named '%.*s'",
                        (int)(node->value.text.length < 64 ? node->value.text.length : 64),
                        node->value.text.bytes);
    if (!test_apply(run, node->entry, &a, &call, &holds))
        return false;
    *out = value_bool(holds != (node->flag != 0));
    return true;
}

static bool eval_kind(struct run *run, const struct node *node, struct value *out)
{
    switch (node->kind) {
    case NODE_CONST:
        *out = node->value;
        return true;
    case NODE_NAME:
        return eval_name(run, node, out);
    case NODE_LIST:
    case NODE_TUPLE:
    case NODE_DICT:
        return eval_sequence(run, node, out);
    case NODE_COND:
        return eval_cond(run, node, out);
    case NODE_OR:
    case NODE_AND:
        return eval_logic(run, node, out);
    case NODE_NOT:
        if (!run_eval(run, node->a, out))
            return false;
        *out = value_bool(!value_truth(out));
        return true;
    case NODE_COMPARE:
        return eval_compare(run, node, out);
    case NODE_BINARY:
        return eval_binary(run, node, out);
    case NODE_CONCAT:
        return eval_concat(run, node, out);
    case NODE_NEGATE:
    case NODE_PLUS:
        return eval_sign(run, node, out);
    case NODE_ATTR:
        return eval_attr(run, node, out);
    case NODE_ITEM:
        return eval_item(run, node, out);
    case NODE_SLICE:
        return eval_slice(run, node, out);
    case NODE_CALL:
        return run_eval_call(run, node, NULL, out);
    case NODE_FILTER:
        return eval_filter(run, node, out);
    default:
        return eval_test(run, node, out);
    }
}

bool run_eval(struct run *run, const struct node *node, struct value *out)
{
    run->line = node->line;
    if ((run->steps -= JINJA_STEP) < 0)
        return run_spend(run, 0);
    if (!run_enter(run))
        return false;
    bool good = eval_kind(run, node, out);
    run->depth--;
    return good;
}

/* ---- calls ---- */

bool run_call(struct run *run, struct value callee, const struct call *call, struct value *out)
{
    if (!run_enter(run))
        return false;
    bool good;
    switch (callee.kind) {
    case VALUE_METHOD:
        good = method_call(run, callee.method, call, out);
        break;
    case VALUE_GLOBAL:
        good = global_call(run, callee.global, call, out);
        break;
    case VALUE_MACRO:
        good = run_macro(run, callee.macro, call, out);
        break;
    case VALUE_JOINER:
        *out = callee.joiner->used ? callee.joiner->separator : value_word("");
        good = callee.joiner->used = true;
        break;
    case VALUE_LOOP:
        if (call->n != 1 || !callee.loop->node->flag)
            good = run_fail(run, "the loop is not recursive, or was not given one sequence");
        else
            good = run_loop_again(run, callee.loop, call->items[0], out);
        break;
    case VALUE_UNDEFINED:
        good = run_fail(run, "%.*s", (int)callee.text.length, callee.text.bytes);
        break;
    default:
        good = run_fail(run, "'%s' object is not callable", value_type(&callee));
    }
    run->depth--;
    return good;
}

/* ---- the render ---- */

bool run_init(struct run *run, const struct jinja *jinja, struct buf *out, int64_t now_s,
              struct err *err)
{
    *run = (struct run){ .jinja = jinja,
                         .out = out,
                         .err = err,
                         .steps = (int64_t)JINJA_STEPS_MAX * JINJA_STEP,
                         .now_s = now_s,
                         .line = 1 };
    arena_init(&run->arena, JINJA_MEMORY_MAX);
    run->root = run->scope = scope_open(run, NULL);
    if (!run->root)
        return false;
    for (int32_t i = 0; i < global_count(); i++)
        if (!run_define(run, global_name(i), (struct value){ .kind = VALUE_GLOBAL, .global = i }))
            return false;
    return true;
}

bool run_define(struct run *run, const char *name, struct value value)
{
    int32_t symbol = map_get(&run->jinja->symbols, name, strlen(name), -1);
    return symbol < 0 ? true : scope_set(run, run->root, symbol, &value);
}

void run_clear(struct run *run)
{
    arena_clear(&run->arena);
}
