/* jinja_exec.c - walking the tree: statements to output, and calls of macros.
 *
 * Invariant: run->scope and the output are as before when a statement has ended, errors excepted.
 * for loops, macros, with and generation blocks open a scope; if does not; macros keep the one
 * they were written in. Captured output (macros, set blocks, filter blocks) is the part of run->out
 * behind a mark. */
#include "host/text/jinja.h"
#include <string.h>

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL };

static enum flow exec_list(struct run *run, const struct node_list *list);

/* What is left of the named arguments, as a dict: `used` says which are taken. */
static bool rest_of(struct run *run, const struct call *call, const bool *used, struct value *out)
{
    struct value_pair *pairs = run_take(run, call->n_named, sizeof *pairs);
    size_t n = 0;
    if (!pairs)
        return false;
    for (size_t i = 0; i < call->n_named; i++) {
        if (used[i])
            continue;
        pairs[n].key = value_text(call->named[i].name.bytes, call->named[i].name.length);
        pairs[n++].value = call->named[i].value;
    }
    *out = (struct value){ .kind = VALUE_DICT, .pairs = { pairs, n } };
    return true;
}

/* The named argument of this name, marked as used. */
static const struct value *take_named(const struct call *call, struct value_text name, bool *used)
{
    for (size_t i = 0; i < call->n_named; i++) {
        if (!used[i] && text_equal(NULL, call->named[i].name, name)) {
            used[i] = true;
            return &call->named[i].value;
        }
    }
    return NULL;
}

/* Parameters, defaults, caller, varargs, kwargs: into run->scope. */
LEAF static bool bind_macro(struct run *run, const struct macro *macro, const struct call *call)
{
    const struct node *node = macro->node;
    struct value value;
    bool *used = run_take(run, call->n_named, 1);
    int32_t first_default = node->n_parameters - node->defaults.n;
    const struct value *given;
    int length = (int)(macro->name.length < 64 ? macro->name.length : 64);
    if (!used)
        return false;
    for (int32_t i = 0; i < node->n_parameters; i++) {
        struct value_text name = run->jinja->names[node->parameters[i]];
        given = (size_t)i < call->n ? &call->items[i] : take_named(call, name, used);
        if (given)
            value = *given;
        else if (i >= first_default
                     ? !run_eval(run, node->defaults.at[i - first_default], &value)
                     : !value_undefined(run, &value, "parameter '%.*s' was not provided",
                                        (int)(name.length < 64 ? name.length : 64), name.bytes))
            return false;
        if (!scope_set(run, run->scope, node->parameters[i], &value))
            return false;
    }
    if (node->flag & MACRO_CALLER) {
        given = take_named(call, (struct value_text){ "caller", 6 }, used);
        if (given)
            value = *given;
        else if (!value_undefined(run, &value, "No caller defined"))
            return false;
        if (!scope_set(run, run->scope, run->jinja->caller, &value))
            return false;
    }
    if (node->flag & MACRO_VARARGS) {
        size_t taken = (size_t)node->n_parameters < call->n ? (size_t)node->n_parameters : call->n;
        value = value_list(call->items + taken, call->n - taken);
        value.kind = VALUE_TUPLE;
        if (!scope_set(run, run->scope, run->jinja->varargs, &value))
            return false;
    } else if (call->n > (size_t)node->n_parameters) {
        return run_fail(run, "macro '%.*s' takes not more than %d argument(s)", length,
                        macro->name.bytes, node->n_parameters);
    }
    if (node->flag & MACRO_KWARGS)
        return rest_of(run, call, used, &value) &&
               scope_set(run, run->scope, run->jinja->kwargs, &value);
    for (size_t i = 0; i < call->n_named; i++)
        if (!used[i])
            return run_fail(
                run, "macro '%.*s' takes no keyword argument '%.*s'", length, macro->name.bytes,
                (int)(call->named[i].name.length < 64 ? call->named[i].name.length : 64),
                call->named[i].name.bytes);
    return true;
}

bool run_macro(struct run *run, const struct macro *macro, const struct call *call,
               struct value *out)
{
    struct scope *before = run->scope;
    size_t from = run->out->length;
    run->scope = scope_open(run, macro->scope);
    bool good = run->scope && bind_macro(run, macro, call) &&
                exec_list(run, &macro->node->body) != FLOW_FAIL && capture_end(run, from, out);
    run->scope = before;
    return good;
}

/* ---- statements ---- */

static bool assign(struct run *run, const struct node *target, const struct value *value)
{
    struct value_items items;
    size_t compared = 0;
    if (target->kind == NODE_NAME)
        return scope_set(run, run->scope, target->symbol, value);
    if (target->kind == NODE_ATTR) {
        const struct value *space = scope_get(run, target->symbol, &compared);
        if (!space || space->kind != VALUE_SPACE)
            return run_fail(run, "cannot assign attribute on non-namespace object");
        return namespace_set(run, space->space, target->value.text, *value);
    }
    if (!value_iterate(run, value, &items))
        return false;
    if (items.n != (size_t)target->items.n)
        return run_fail(run, "%s values to unpack (expected %d, got %zu)",
                        items.n < (size_t)target->items.n ? "not enough" : "too many",
                        target->items.n, items.n);
    for (int32_t i = 0; i < target->items.n; i++)
        if (!scope_set(run, run->scope, target->items.at[i]->symbol, &items.at[i]))
            return false;
    return true;
}

/* A scope for one round of a loop: the last round's again, unless a macro keeps it. */
static bool round_scope(struct run *run, struct scope *outer, struct scope **inner)
{
    if (!*inner || (*inner)->captured)
        *inner = scope_open(run, outer);
    if (!*inner)
        return false;
    (*inner)->n = 0;
    run->scope = *inner;
    return true;
}

/* The items that pass the loop's test. */
LEAF static bool loop_filter(struct run *run, const struct node *node, struct value_items *items)
{
    struct scope *outer = run->scope, *inner = NULL;
    struct value *kept = run_take(run, items->n, sizeof *kept);
    size_t n = 0;
    bool good = kept;
    for (size_t i = 0; good && i < items->n; i++) {
        struct value test;
        good = round_scope(run, outer, &inner) && assign(run, node->a, &items->at[i]) &&
               run_eval(run, node->c, &test);
        if (good && value_truth(&test))
            kept[n++] = items->at[i];
    }
    run->scope = outer;
    *items = (struct value_items){ kept, n };
    return good;
}

LEAF static enum flow loop_items(struct run *run, const struct node *node, struct value_items items,
                                 int32_t depth)
{
    struct scope *outer = run->scope, *inner = NULL;
    struct loop *loop = run_take(run, 1, sizeof *loop);
    if (!loop)
        return FLOW_FAIL;
    *loop = (struct loop){ items.at, items.n, 0, depth, { .kind = VALUE_UNDEFINED }, node, outer };
    struct value self = { .kind = VALUE_LOOP, .loop = loop };
    enum flow flow = FLOW_ON;
    for (size_t i = 0; i < items.n && (flow == FLOW_ON || flow == FLOW_CONTINUE); i++) {
        loop->at = i;
        run->line = node->line;
        if ((run->steps -= JINJA_STEP) < 0 && !run_spend(run, 0))
            flow = FLOW_FAIL;
        else if (!round_scope(run, outer, &inner) ||
                 !scope_set(run, inner, run->jinja->loop, &self) ||
                 !assign(run, node->a, &items.at[i]))
            flow = FLOW_FAIL;
        else
            flow = exec_list(run, &node->body);
    }
    run->scope = outer;
    return flow == FLOW_FAIL ? FLOW_FAIL : FLOW_ON;
}

static enum flow loop_over(struct run *run, const struct node *node, const struct value *value,
                           int32_t depth)
{
    struct value_items items;
    if (!value_iterate(run, value, &items) || (node->c && !loop_filter(run, node, &items)))
        return FLOW_FAIL;
    if (items.n)
        return loop_items(run, node, items, depth);
    struct scope *outer = run->scope;
    run->scope = scope_open(run, outer);
    enum flow flow = run->scope ? exec_list(run, &node->orelse) : FLOW_FAIL;
    run->scope = outer;
    return flow;
}

bool run_loop_again(struct run *run, struct loop *loop, struct value items, struct value *out)
{
    struct scope *before = run->scope;
    size_t from = run->out->length;
    run->scope = loop->scope;
    bool good = loop_over(run, loop->node, &items, loop->depth + 1) != FLOW_FAIL &&
                capture_end(run, from, out);
    run->scope = before;
    return good;
}

LEAF static enum flow exec_for(struct run *run, const struct node *node)
{
    struct value value;
    if (!run_eval(run, node->b, &value))
        return FLOW_FAIL;
    run->line = node->line;
    if (node->flag)
        scope_capture(run->scope); /* loop(...) comes back to it */
    return loop_over(run, node, &value, 0);
}

static enum flow exec_if(struct run *run, const struct node *node)
{
    for (int32_t i = 0; i < node->items.n; i++) {
        struct value test;
        if (!run_eval(run, node->items.at[i], &test))
            return FLOW_FAIL;
        if (value_truth(&test))
            return exec_list(run, &node->bodies[i]);
    }
    return exec_list(run, &node->orelse);
}

LEAF static bool exec_print(struct run *run, const struct node *node)
{
    for (int32_t i = 0; i < node->items.n; i++) {
        struct value value;
        if (!run_eval(run, node->items.at[i], &value))
            return false;
        run->line = node->line;
        if (!value_put(run, &value))
            return false;
    }
    return true;
}

/* A body in a scope of its own, its output as a value. */
LEAF static bool capture_body(struct run *run, const struct node *node, struct value *out)
{
    struct scope *outer = run->scope;
    size_t from = run->out->length;
    run->scope = scope_open(run, outer);
    bool good = run->scope && exec_list(run, &node->body) != FLOW_FAIL;
    run->scope = outer;
    run->line = node->line;
    return good && capture_end(run, from, out);
}

/* A chain of filters on a block's text. */
static bool filter_text(struct run *run, const struct node *filter, const struct value *text,
                        struct value *out)
{
    struct value value = *text;
    struct call call;
    if (filter->a && !filter_text(run, filter->a, text, &value))
        return false;
    if (!run_arguments(run, filter->arguments, &call, 0))
        return false;
    run->line = filter->line;
    return filter->entry < 0 ? run_fail(run, "no such filter")
                             : filter_apply(run, filter->entry, &value, &call, out);
}

LEAF static bool exec_captured(struct run *run, const struct node *node)
{
    struct value text, value;
    if (!capture_body(run, node, &text))
        return false;
    value = text;
    if (node->b && !filter_text(run, node->b, &text, &value))
        return false;
    return node->kind == NODE_SET_BLOCK ? assign(run, node->a, &value) : value_put(run, &value);
}

LEAF static bool exec_set(struct run *run, const struct node *node)
{
    struct value value;
    if (!run_eval(run, node->b, &value))
        return false;
    run->line = node->line;
    return assign(run, node->a, &value);
}

LEAF static bool exec_macro(struct run *run, const struct node *node)
{
    struct macro *macro = run_take(run, 1, sizeof *macro);
    if (!macro)
        return false;
    *macro = (struct macro){ node, run->scope, node->value.text };
    scope_capture(run->scope);
    struct value value = { .kind = VALUE_MACRO, .macro = macro };
    return scope_set(run, run->scope, node->symbol, &value);
}

LEAF static bool exec_call_block(struct run *run, const struct node *node)
{
    struct macro caller = { node, run->scope, { "caller", 6 } };
    struct value value;
    scope_capture(run->scope);
    return run_eval_call(run, node->a, &caller, &value) && value_put(run, &value);
}

/* with, generation, block: a scope and no capture. */
LEAF static enum flow exec_scoped(struct run *run, const struct node *node)
{
    struct scope *outer = run->scope;
    struct scope *inner =
        scope_open(run, node->kind == NODE_SCOPE && node->flag ? run->root : outer);
    if (!inner)
        return FLOW_FAIL;
    for (int32_t i = 0; i + 1 < node->items.n; i += 2) {
        struct value value;
        bool good = run_eval(run, node->items.at[i + 1], &value);
        run->scope = inner;
        good = good && assign(run, node->items.at[i], &value);
        run->scope = outer; /* values see the names outside */
        if (!good)
            return FLOW_FAIL;
    }
    run->scope = inner;
    enum flow flow = exec_list(run, &node->body);
    run->scope = outer;
    return flow;
}

static enum flow on(bool good)
{
    return good ? FLOW_ON : FLOW_FAIL;
}

static enum flow exec(struct run *run, const struct node *node)
{
    switch (node->kind) {
    case NODE_DATA:
        return on(run_put(run, node->value.text.bytes, node->value.text.length));
    case NODE_PRINT:
        return on(exec_print(run, node));
    case NODE_IF:
        return exec_if(run, node);
    case NODE_FOR:
        return exec_for(run, node);
    case NODE_SET:
        return on(exec_set(run, node));
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK:
        return on(exec_captured(run, node));
    case NODE_MACRO:
        return on(exec_macro(run, node));
    case NODE_CALL_BLOCK:
        return on(exec_call_block(run, node));
    case NODE_WITH:
    case NODE_SCOPE:
        return exec_scoped(run, node);
    default:
        return node->kind == NODE_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
    }
}

static enum flow exec_list(struct run *run, const struct node_list *list)
{
    enum flow flow = FLOW_ON;
    if (!run_enter(run))
        return FLOW_FAIL;
    for (int32_t i = 0; i < list->n && flow == FLOW_ON; i++) {
        run->line = list->at[i]->line;
        flow = (run->steps -= JINJA_STEP) < 0 ? on(run_spend(run, 0)) : exec(run, list->at[i]);
    }
    run->depth--;
    return flow;
}

bool run_template(struct run *run)
{
    return exec_list(run, &run->jinja->body) != FLOW_FAIL;
}
