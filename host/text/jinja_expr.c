/* jinja_expr.c - expressions: tokens to tree, by recursive descent. For jinja_parse.c.
 *
 * Invariant: an expression has at most JINJA_TREE_MAX levels and JINJA_NEST_MAX nested brackets and
 * blocks, so that neither parsing nor evaluating can exhaust the stack. Precedence: Jinja2 3.1,
 * quirks included (-2 ** 2 is 4, ** is left-associative, a test takes the next name as its
 * argument). */
#include "host/text/jinja.h"
#include <stdio.h>
#include <string.h>

static struct node *parse_unary(struct parser *parser, bool with_filter);
static struct node *parse_or(struct parser *parser);
static bool parse_arguments(struct parser *parser, struct arguments **arguments);

/* `parent` stands above `child` now; false when the tree becomes too high. child may be NULL. */
static bool raise_height(struct parser *parser, struct node *parent, const struct node *child)
{
    if (child && child->height >= parent->height)
        parent->height = child->height + 1;
    if (parent->height > JINJA_TREE_MAX)
        return jinja_syntax(parser->err, parent->line, "expression of more than %d levels",
                            JINJA_TREE_MAX);
    return true;
}

/* Append an operand (NULL after an error) to node's items. */
static bool add_item(struct parser *parser, struct node *node, struct node *item)
{
    return item && raise_height(parser, node, item) && parse_push(parser, &node->items, item);
}

static struct node *name_node(struct parser *parser)
{
    struct node *node = parse_node(parser, NODE_NAME);
    struct value_text name = parser->token->value.text;
    if (!node || !parse_symbol(parser, name, &node->symbol))
        return NULL;
    node->value = value_text(name.bytes, name.length);
    parse_next(parser);
    return node;
}

/* What the macros around refer to decides what their calls may be given. */
static void note_special(struct parser *parser, struct value_text name)
{
    uint8_t flag = text_is_word(name, "caller")    ? MACRO_CALLER
                   : text_is_word(name, "kwargs")  ? MACRO_KWARGS
                   : text_is_word(name, "varargs") ? MACRO_VARARGS
                                                   : 0;
    for (int32_t i = 0; flag && i < parser->n_macros; i++)
        parser->macros[i]->flag |= flag;
}

bool parse_constant(struct value_text name, struct value *value)
{
    if (text_is_word(name, "true") || text_is_word(name, "True"))
        *value = value_bool(true);
    else if (text_is_word(name, "false") || text_is_word(name, "False"))
        *value = value_bool(false);
    else if (text_is_word(name, "none") || text_is_word(name, "None"))
        *value = value_none();
    else
        return false;
    return true;
}

static bool at_tuple_end(const struct parser *parser, const char *ends)
{
    enum token_kind kind = parser->token->kind;
    return kind == TOKEN_VARIABLE_END || kind == TOKEN_BLOCK_END || parse_at(parser, ')') ||
           token_among(parser->token, ends);
}

/* One expression, or several with commas: a tuple. */
struct node *parse_tuple(struct parser *parser, enum tuple_of of, const char *ends,
                         bool parentheses)
{
    struct node *tuple = parse_node(parser, NODE_TUPLE);
    bool comma = false;
    while (tuple && !at_tuple_end(parser, ends)) {
        struct node *item = of == TUPLE_OF_PRIMARIES ? parse_primary(parser)
                            : of == TUPLE_WITHOUT_IF ? parse_or(parser)
                                                     : parse_expression(parser);
        if (!add_item(parser, tuple, item))
            return NULL;
        if (!parse_skip(parser, ','))
            break;
        comma = true;
    }
    if (!tuple || comma)
        return tuple;
    if (tuple->items.n)
        return tuple->items.at[0];
    if (parentheses)
        return tuple;
    parse_unexpected(parser, "an expression");
    return NULL;
}

static struct node *parse_sequence(struct parser *parser, enum node_kind kind, char close)
{
    struct node *node = parse_node(parser, kind);
    parse_next(parser);
    while (node && !parse_at(parser, close)) {
        if (node->items.n && !parse_expect(parser, ','))
            return NULL;
        if (parse_at(parser, close))
            break;
        if (!add_item(parser, node, parse_expression(parser)))
            return NULL;
        if (kind == NODE_DICT &&
            (!parse_expect(parser, ':') || !add_item(parser, node, parse_expression(parser))))
            return NULL;
    }
    parse_next(parser);
    return node;
}

static struct node *parse_bracketed(struct parser *parser)
{
    if (!parse_nest(parser))
        return NULL;
    struct node *node = NULL;
    if (parse_skip(parser, '(')) {
        node = parse_tuple(parser, TUPLE_OF_EXPRESSIONS, "", true);
        if (node && !parse_expect(parser, ')'))
            return NULL;
    } else if (parse_at(parser, '[')) {
        node = parse_sequence(parser, NODE_LIST, ']');
    } else {
        node = parse_sequence(parser, NODE_DICT, '}');
    }
    parser->nest--;
    return node;
}

/* Adjacent strings are one. */
static struct node *parse_strings(struct parser *parser)
{
    struct node *node = parse_node(parser, NODE_CONST);
    const struct token *first = parser->token;
    size_t length = 0, n = 0;
    for (; parser->token->kind == TOKEN_STRING; parse_next(parser), n++)
        length += parser->token->value.text.length;
    if (!node)
        return NULL;
    node->value = first->value;
    if (n == 1)
        return node;
    char *text = arena_take(&parser->jinja->arena, length, 1);
    if (!text) {
        parse_memory(parser);
        return NULL;
    }
    node->value = value_text(text, length);
    for (size_t i = 0; i < n; i++) {
        memcpy(text, first[i].value.text.bytes, first[i].value.text.length);
        text += first[i].value.text.length;
    }
    return node;
}

struct node *parse_primary(struct parser *parser)
{
    struct node *node = NULL;
    switch (parser->token->kind) {
    case TOKEN_NAME: {
        struct value constant;
        if (!parse_constant(parser->token->value.text, &constant)) {
            note_special(parser, parser->token->value.text);
            return name_node(parser);
        }
        node = parse_node(parser, NODE_CONST);
        if (node)
            node->value = constant;
        parse_next(parser);
        return node;
    }
    case TOKEN_STRING:
        return parse_strings(parser);
    case TOKEN_INT:
    case TOKEN_FLOAT:
        node = parse_node(parser, NODE_CONST);
        if (node)
            node->value = parser->token->value;
        parse_next(parser);
        return node;
    case TOKEN_OPERATOR:
        if (parse_at(parser, '(') || parse_at(parser, '[') || parse_at(parser, '{'))
            return parse_bracketed(parser);
        break;
    default:
        break;
    }
    parse_unexpected(parser, "an expression");
    return NULL;
}

/* Behind '[': an index or a slice. Several with commas (a tuple as a key) are refused. */
static struct node *parse_subscript(struct parser *parser, struct node *of)
{
    struct node *node = parse_node(parser, NODE_ITEM), *parts[3] = { NULL, NULL, NULL };
    int32_t n = 0;
    bool slice = false;
    parse_next(parser);
    if (!node || !parse_nest(parser))
        return NULL;
    if (parse_at(parser, ']')) {
        parse_unexpected(parser, "an index");
        return NULL;
    }
    while (!parse_at(parser, ']')) {
        if (parse_skip(parser, ':')) {
            slice = true;
            if (++n > 2) {
                parse_unexpected(parser, "']'");
                return NULL;
            }
            continue;
        }
        if (parts[n]) {
            parse_unexpected(parser, "']'");
            return NULL;
        }
        parts[n] = parse_expression(parser);
        if (!parts[n] || !raise_height(parser, node, parts[n]))
            return NULL;
    }
    parse_next(parser);
    parser->nest--;
    node->kind = slice ? NODE_SLICE : NODE_ITEM;
    node->a = of;
    node->b = parts[0];
    node->c = parts[1];
    node->d = parts[2];
    return raise_height(parser, node, of) ? node : NULL;
}

static struct node *parse_attribute(struct parser *parser, struct node *of)
{
    struct node *node = parse_node(parser, NODE_ATTR);
    parse_next(parser);
    if (!node)
        return NULL;
    node->a = of;
    if (parser->token->kind == TOKEN_NAME) {
        node->value = parser->token->value;
    } else if (parser->token->kind == TOKEN_INT) {
        node->kind = NODE_ITEM;
        node->b = parse_node(parser, NODE_CONST);
        if (!node->b)
            return NULL;
        node->b->value = parser->token->value;
    } else {
        parse_unexpected(parser, "name or number");
        return NULL;
    }
    parse_next(parser);
    return raise_height(parser, node, of) ? node : NULL;
}

/* The height of a call, filter or test: what it is applied to, and its arguments. */
static bool applied_height(struct parser *parser, struct node *node)
{
    const struct arguments *arguments = node->arguments;
    bool good = raise_height(parser, node, node->a);
    if (!arguments)
        return good;
    good = good && raise_height(parser, node, arguments->star) &&
           raise_height(parser, node, arguments->star_star);
    for (int32_t i = 0; good && i < arguments->items.n; i++)
        good = raise_height(parser, node, arguments->items.at[i]);
    for (int32_t i = 0; good && i < arguments->named.n; i++)
        good = raise_height(parser, node, arguments->named.at[i]);
    return good;
}

static struct node *parse_call(struct parser *parser, struct node *callee)
{
    struct node *node = parse_node(parser, NODE_CALL);
    if (!node || !parse_arguments(parser, &node->arguments))
        return NULL;
    node->a = callee;
    return applied_height(parser, node) ? node : NULL;
}

static struct node *parse_postfix(struct parser *parser, struct node *node)
{
    while (node) {
        if (parse_at(parser, '.'))
            node = parse_attribute(parser, node);
        else if (parse_at(parser, '['))
            node = parse_subscript(parser, node);
        else if (parse_at(parser, '('))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

static bool named_argument(struct parser *parser, struct arguments *arguments)
{
    struct value_text *names =
        arena_take(&parser->jinja->arena, (size_t)arguments->named.n + 1, sizeof *names);
    if (!names)
        return parse_memory(parser);
    if (arguments->named.n)
        memcpy(names, arguments->names, (size_t)arguments->named.n * sizeof *names);
    names[arguments->named.n] = parser->token->value.text;
    arguments->names = names;
    if (arguments->named.n >= JINJA_NEST_MAX)
        return jinja_syntax(parser->err, parser->token->line, "more than %d named arguments",
                            JINJA_NEST_MAX);
    parse_next(parser);
    parse_next(parser);
    struct node *value = parse_expression(parser);
    return value && parse_push(parser, &arguments->named, value);
}

static bool parse_argument(struct parser *parser, struct arguments *arguments)
{
    if (parse_at(parser, OP('*', '*'))) {
        parse_next(parser);
        if (arguments->star_star)
            return parse_unexpected(parser, "one ** argument");
        arguments->star_star = parse_expression(parser);
        return arguments->star_star;
    }
    if (arguments->star_star)
        return parse_unexpected(parser, "')' behind a ** argument");
    if (parse_skip(parser, '*')) {
        if (arguments->star)
            return parse_unexpected(parser, "one * argument");
        arguments->star = parse_expression(parser);
        return arguments->star;
    }
    if (parser->token->kind == TOKEN_NAME && parser->token[1].kind == TOKEN_OPERATOR &&
        parser->token[1].op == '=')
        return named_argument(parser, arguments);
    if (arguments->named.n || arguments->star)
        return parse_unexpected(parser, "a named argument");
    struct node *value = parse_expression(parser);
    return value && parse_push(parser, &arguments->items, value);
}

/* At '('. */
static bool parse_arguments(struct parser *parser, struct arguments **out)
{
    struct arguments *arguments = arena_take(&parser->jinja->arena, 1, sizeof *arguments);
    *out = arguments;
    if (!arguments)
        return parse_memory(parser);
    CHECK(parse_skip(parser, '('));
    if (!parse_nest(parser))
        return false;
    for (bool first = true; !parse_at(parser, ')'); first = false) {
        if (!first && !parse_expect(parser, ','))
            return false;
        if (parse_at(parser, ')'))
            break;
        if (!parse_argument(parser, arguments))
            return false;
    }
    parse_next(parser);
    parser->nest--;
    return true;
}

/* name or name.name: the second form only names things that do not exist here. */
static bool dotted_name(struct parser *parser, struct value_text *name)
{
    if (parser->token->kind != TOKEN_NAME)
        return parse_unexpected(parser, "a name");
    *name = parser->token->value.text;
    parse_next(parser);
    if (parse_at(parser, '.'))
        return jinja_syntax(parser->err, parser->token->line, "no filter or test '%.*s.'...",
                            (int)(name->length < 64 ? name->length : 64), name->bytes);
    return true;
}

static bool no_such(struct parser *parser, const struct node *node, const char *what)
{
    if (node->entry >= 0 || parser->conditions)
        return true;
    struct value_text name = node->value.text;
    return jinja_syntax(parser->err, node->line, "no %s named '%.*s'", what,
                        (int)(name.length < 64 ? name.length : 64), name.bytes);
}

/* Behind '|': the name and arguments, applied to `of` (NULL: to a block's text). */
struct node *parse_filter(struct parser *parser, struct node *of)
{
    struct node *node = parse_node(parser, NODE_FILTER);
    struct value_text name;
    if (!node || !dotted_name(parser, &name))
        return NULL;
    node->a = of;
    node->value = value_text(name.bytes, name.length);
    node->entry = filter_find(name);
    if (!no_such(parser, node, "filter") ||
        (parse_at(parser, '(') && !parse_arguments(parser, &node->arguments)) ||
        !applied_height(parser, node))
        return NULL;
    return node;
}

static bool begins_test_argument(const struct parser *parser)
{
    enum token_kind kind = parser->token->kind;
    if (kind == TOKEN_NAME)
        return !token_among(parser->token, "else or and");
    return kind == TOKEN_STRING || kind == TOKEN_INT || kind == TOKEN_FLOAT ||
           parse_at(parser, '[') || parse_at(parser, '{');
}

static struct node *parse_test(struct parser *parser, struct node *of)
{
    struct node *node = parse_node(parser, NODE_TEST);
    struct value_text name;
    parse_next(parser);
    if (!node)
        return NULL;
    node->flag = parse_skip_name(parser, "not");
    if (!dotted_name(parser, &name))
        return NULL;
    node->a = of;
    node->value = value_text(name.bytes, name.length);
    node->entry = test_find(name);
    if (!no_such(parser, node, "test"))
        return NULL;
    if (parse_at(parser, '(')) {
        if (!parse_arguments(parser, &node->arguments))
            return NULL;
    } else if (begins_test_argument(parser)) {
        if (parse_at_name(parser, "is")) {
            jinja_syntax(parser->err, node->line, "tests cannot be chained with is");
            return NULL;
        }
        struct node *argument = parse_postfix(parser, parse_primary(parser));
        node->arguments = arena_take(&parser->jinja->arena, 1, sizeof *node->arguments);
        if (!argument)
            return NULL;
        if (!node->arguments) {
            parse_memory(parser);
            return NULL;
        }
        if (!parse_push(parser, &node->arguments->items, argument))
            return NULL;
    }
    return applied_height(parser, node) ? node : NULL;
}

static struct node *parse_filters(struct parser *parser, struct node *node)
{
    while (node) {
        if (parse_skip(parser, '|'))
            node = parse_filter(parser, node);
        else if (parse_at_name(parser, "is"))
            node = parse_test(parser, node);
        else if (parse_at(parser, '('))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

static struct node *parse_unary(struct parser *parser, bool with_filter)
{
    struct node *node;
    if (parse_at(parser, '-') || parse_at(parser, '+')) {
        node = parse_node(parser, parse_at(parser, '-') ? NODE_NEGATE : NODE_PLUS);
        parse_next(parser);
        if (!node || !parse_nest(parser))
            return NULL;
        node->a = parse_unary(parser, false);
        parser->nest--;
        if (!node->a || !raise_height(parser, node, node->a))
            return NULL;
    } else {
        node = parse_primary(parser);
    }
    node = parse_postfix(parser, node);
    return with_filter ? parse_filters(parser, node) : node;
}

static struct node *binary(struct parser *parser, struct node *a, struct node *b, uint16_t op,
                           enum node_kind kind)
{
    if (!a || !b)
        return NULL;
    struct node *node = parse_node_at(parser, kind, a->line);
    if (!node)
        return NULL;
    node->a = a;
    node->b = b;
    node->op = op;
    return raise_height(parser, node, a) && raise_height(parser, node, b) ? node : NULL;
}

static struct node *parse_power(struct parser *parser)
{
    struct node *node = parse_unary(parser, true);
    while (node && parse_skip(parser, OP('*', '*')))
        node = binary(parser, node, parse_unary(parser, true), OP('*', '*'), NODE_BINARY);
    return node;
}

static struct node *parse_product(struct parser *parser)
{
    struct node *node = parse_power(parser);
    while (node && (parse_at(parser, '*') || parse_at(parser, '/') ||
                    parse_at(parser, OP('/', '/')) || parse_at(parser, '%'))) {
        uint16_t op = parser->token->op;
        parse_next(parser);
        node = binary(parser, node, parse_power(parser), op, NODE_BINARY);
    }
    return node;
}

static struct node *parse_concat(struct parser *parser)
{
    struct node *first = parse_product(parser);
    if (!first || !parse_at(parser, '~'))
        return first;
    struct node *node = parse_node_at(parser, NODE_CONCAT, first->line);
    if (!node || !add_item(parser, node, first))
        return NULL;
    while (parse_skip(parser, '~'))
        if (!add_item(parser, node, parse_product(parser)))
            return NULL;
    return node;
}

static struct node *parse_sum(struct parser *parser)
{
    struct node *node = parse_concat(parser);
    while (node && (parse_at(parser, '+') || parse_at(parser, '-'))) {
        uint16_t op = parser->token->op;
        parse_next(parser);
        node = binary(parser, node, parse_concat(parser), op, NODE_BINARY);
    }
    return node;
}

/* The comparison at the current token, or -1. */
static int compare_op(const struct parser *parser)
{
    static const struct {
        uint16_t op;
        uint8_t compare;
    } ops[] = { { OP('=', '='), CMP_EQ }, { OP('!', '='), CMP_NE }, { '<', CMP_LT },
                { OP('<', '='), CMP_LE }, { '>', CMP_GT },          { OP('>', '='), CMP_GE } };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (parse_at(parser, ops[i].op))
            return ops[i].compare;
    if (parse_at_name(parser, "in"))
        return CMP_IN;
    return parse_at_name(parser, "not") && token_is(parser->token + 1, "in") ? CMP_NOT_IN : -1;
}

static struct node *parse_compare(struct parser *parser)
{
    struct node *first = parse_sum(parser);
    if (!first || compare_op(parser) < 0)
        return first;
    struct node *node = parse_node_at(parser, NODE_COMPARE, first->line);
    if (!node || !add_item(parser, node, first))
        return NULL;
    uint8_t ops[JINJA_NEST_MAX];
    int op;
    while ((op = compare_op(parser)) >= 0) {
        if (node->items.n > JINJA_NEST_MAX) {
            jinja_syntax(parser->err, node->line, "more than %d comparisons", JINJA_NEST_MAX);
            return NULL;
        }
        ops[node->items.n - 1] = (uint8_t)op;
        parse_next(parser);
        if (op == CMP_NOT_IN)
            parse_next(parser);
        if (!add_item(parser, node, parse_sum(parser)))
            return NULL;
    }
    node->ops = (uint8_t *)arena_copy(&parser->jinja->arena, ops, (size_t)node->items.n - 1);
    if (!node->ops) {
        parse_memory(parser);
        return NULL;
    }
    return node;
}

static struct node *parse_not(struct parser *parser)
{
    if (!parse_at_name(parser, "not"))
        return parse_compare(parser);
    struct node *node = parse_node(parser, NODE_NOT);
    parse_next(parser);
    if (!node || !parse_nest(parser))
        return NULL;
    node->a = parse_not(parser);
    parser->nest--;
    return node->a && raise_height(parser, node, node->a) ? node : NULL;
}

static struct node *parse_and(struct parser *parser)
{
    struct node *node = parse_not(parser);
    while (node && parse_skip_name(parser, "and"))
        node = binary(parser, node, parse_not(parser), 0, NODE_AND);
    return node;
}

static struct node *parse_or(struct parser *parser)
{
    struct node *node = parse_and(parser);
    while (node && parse_skip_name(parser, "or"))
        node = binary(parser, node, parse_and(parser), 0, NODE_OR);
    return node;
}

struct node *parse_expression(struct parser *parser)
{
    struct node *node = parse_or(parser);
    while (node && parse_at_name(parser, "if")) {
        struct node *cond = parse_node_at(parser, NODE_COND, node->line);
        parse_next(parser);
        if (!cond || !parse_nest(parser))
            return NULL;
        cond->a = node;
        cond->b = parse_or(parser);
        if (!cond->b || !raise_height(parser, cond, cond->a) ||
            !raise_height(parser, cond, cond->b))
            return NULL;
        if (parse_skip_name(parser, "else")) {
            cond->c = parse_expression(parser);
            if (!cond->c || !raise_height(parser, cond, cond->c))
                return NULL;
        }
        parser->nest--;
        node = cond;
    }
    return node;
}
