/* jinja_parse.c - statements: tokens to tree, by recursive descent; opening a template.
 *
 * Invariant: blocks nest at most JINJA_NEST_MAX deep; break and continue stand inside a loop of
 * the same macro. A tag that is not known is refused by name. */
#include "host/text/jinja.h"
#include <stdio.h>
#include <string.h>

static bool parse_body(struct parser *parser, const char *ends, struct node_list *body);

/* ---- small tools ---- */

static const char *token_name(const struct token *token, char text[64])
{
    switch (token->kind) {
    case TOKEN_END:
        return "end of template";
    case TOKEN_VARIABLE_END:
        return "end of print statement";
    case TOKEN_BLOCK_END:
        return "end of statement block";
    case TOKEN_NAME:
        snprintf(text, 64, "'%.*s'",
                 (int)(token->value.text.length < 48 ? token->value.text.length : 48),
                 token->value.text.bytes);
        return text;
    case TOKEN_STRING:
        return "a string";
    case TOKEN_INT:
    case TOKEN_FLOAT:
        return "a number";
    case TOKEN_OPERATOR:
        if (token->op > 255)
            snprintf(text, 64, "'%c%c'", token->op / 256, token->op % 256);
        else
            snprintf(text, 64, "'%c'", token->op);
        return text;
    default:
        return "text";
    }
}

bool parse_unexpected(struct parser *parser, const char *wanted)
{
    char text[64];
    return jinja_syntax(parser->err, parser->token->line, "expected %s, got %s", wanted,
                        token_name(parser->token, text));
}

bool parse_memory(struct parser *parser)
{
    return err_set(parser->err, ERR_MEMORY, "chat template: out of memory for its tree");
}

void parse_next(struct parser *parser)
{
    if (parser->token->kind != TOKEN_END)
        parser->token++;
}

bool parse_at(const struct parser *parser, int op)
{
    return parser->token->kind == TOKEN_OPERATOR && parser->token->op == op;
}

bool parse_skip(struct parser *parser, int op)
{
    if (!parse_at(parser, op))
        return false;
    parse_next(parser);
    return true;
}

bool parse_expect(struct parser *parser, char op)
{
    char wanted[4] = { '\'', op, '\'', 0 };
    return parse_skip(parser, op) || parse_unexpected(parser, wanted);
}

bool text_is_word(struct value_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.bytes, word, text.length) == 0;
}

bool token_is(const struct token *token, const char *word)
{
    return token->kind == TOKEN_NAME && text_is_word(token->value.text, word);
}

bool parse_at_name(const struct parser *parser, const char *word)
{
    return token_is(parser->token, word);
}

bool parse_skip_name(struct parser *parser, const char *word)
{
    if (!parse_at_name(parser, word))
        return false;
    parse_next(parser);
    return true;
}

/* Is the token one of the words, separated by single spaces? */
bool token_among(const struct token *token, const char *words)
{
    if (token->kind != TOKEN_NAME)
        return false;
    for (const char *word = words; *word;) {
        const char *end = strchrnul(word, ' ');
        if ((size_t)(end - word) == token->value.text.length &&
            memcmp(word, token->value.text.bytes, token->value.text.length) == 0)
            return true;
        word = *end ? end + 1 : end;
    }
    return false;
}

struct node *parse_node_at(struct parser *parser, enum node_kind kind, int32_t line)
{
    struct node *node = arena_take(&parser->jinja->arena, 1, sizeof *node);
    if (!node) {
        parse_memory(parser);
        return NULL;
    }
    node->kind = (uint8_t)kind;
    node->line = line;
    node->height = 1;
    return node;
}

struct node *parse_node(struct parser *parser, enum node_kind kind)
{
    return parse_node_at(parser, kind, parser->token->line);
}

bool parse_push(struct parser *parser, struct node_list *list, struct node *node)
{
    if (list->n == list->capacity) {
        int32_t capacity = list->capacity ? 2 * list->capacity : 4;
        struct node **more = arena_take(&parser->jinja->arena, (size_t)capacity, sizeof *more);
        if (!more)
            return parse_memory(parser);
        if (list->n)
            memcpy(more, list->at, (size_t)list->n * sizeof *more);
        list->at = more;
        list->capacity = capacity;
    }
    list->at[list->n++] = node;
    return true;
}

bool parse_symbol(struct parser *parser, struct value_text name, int32_t *symbol)
{
    struct jinja *jinja = parser->jinja;
    *symbol = map_get(&jinja->symbols, name.bytes, name.length, -1);
    if (*symbol >= 0)
        return true;
    if (jinja->n_names == jinja->names_capacity) {
        int32_t capacity = jinja->names_capacity ? 2 * jinja->names_capacity : 64;
        struct value_text *more = arena_take(&jinja->arena, (size_t)capacity, sizeof *more);
        if (!more)
            return parse_memory(parser);
        if (jinja->n_names)
            memcpy(more, jinja->names, (size_t)jinja->n_names * sizeof *more);
        jinja->names = more;
        jinja->names_capacity = capacity;
    }
    *symbol = jinja->n_names;
    jinja->names[jinja->n_names++] = name;
    if (!map_set(&jinja->symbols, name.bytes, name.length, *symbol, NULL))
        return parse_memory(parser);
    return true;
}

bool parse_nest(struct parser *parser)
{
    if (++parser->nest > JINJA_NEST_MAX)
        return jinja_syntax(parser->err, parser->token->line, "more than %d nested levels",
                            JINJA_NEST_MAX);
    return true;
}

/* ---- statements ---- */

static bool expect_block_end(struct parser *parser)
{
    if (parser->token->kind != TOKEN_BLOCK_END)
        return parse_unexpected(parser, "end of statement block");
    parse_next(parser);
    return true;
}

/* `%}`, a body, and the word that ended it, which is skipped. */
static bool parse_block(struct parser *parser, const char *end, struct node_list *body)
{
    if (!expect_block_end(parser) || !parse_body(parser, end, body))
        return false;
    parse_next(parser);
    return true;
}

/* A name, names with commas, or (in set) namespace.attribute. */
static struct node *parse_target(struct parser *parser, const char *ends, bool with_namespace)
{
    const struct token *token = parser->token;
    if (with_namespace && token->kind == TOKEN_NAME && token[1].kind == TOKEN_OPERATOR &&
        token[1].op == '.') {
        struct node *node = parse_node(parser, NODE_ATTR);
        if (!node || !parse_symbol(parser, token->value.text, &node->symbol))
            return NULL;
        parse_next(parser);
        parse_next(parser);
        node->value = parser->token->value;
        if (parser->token->kind != TOKEN_NAME) {
            parse_unexpected(parser, "a name");
            return NULL;
        }
        parse_next(parser);
        return node;
    }
    struct node *target = parse_tuple(parser, TUPLE_OF_PRIMARIES, ends, false);
    if (!target)
        return NULL;
    struct node **names = target->kind == NODE_TUPLE ? target->items.at : &target;
    int32_t n = target->kind == NODE_TUPLE ? target->items.n : 1;
    for (int32_t i = 0; i < n; i++) {
        if (names[i]->kind != NODE_NAME) {
            jinja_syntax(parser->err, names[i]->line, "cannot assign to this expression");
            return NULL;
        }
    }
    return target;
}

static bool parse_if(struct parser *parser, struct node *node)
{
    parser->conditions++;
    for (;;) {
        struct node *condition = parse_tuple(parser, TUPLE_WITHOUT_IF, "", false);
        struct node_list body = { 0 };
        if (!condition || !parse_push(parser, &node->items, condition) ||
            !expect_block_end(parser) || !parse_body(parser, "elif else endif", &body))
            return false;
        /* Bodies grow by doubling: a power of two means that the array is full. */
        int32_t n = node->items.n - 1;
        if (!(n & (n - 1))) {
            struct node_list *more =
                arena_take(&parser->jinja->arena, n ? 2 * (size_t)n : 1, sizeof *more);
            if (!more)
                return parse_memory(parser);
            if (n)
                memcpy(more, node->bodies, (size_t)n * sizeof *more);
            node->bodies = more;
        }
        node->bodies[n] = body;
        if (parse_skip_name(parser, "elif"))
            continue;
        if (parse_skip_name(parser, "else")) {
            if (!parse_block(parser, "endif", &node->orelse))
                return false;
        } else {
            parse_next(parser);
        }
        parser->conditions--;
        return true;
    }
}

static bool parse_for(struct parser *parser, struct node *node)
{
    node->a = parse_target(parser, "in", false);
    if (!node->a)
        return false;
    if (!parse_skip_name(parser, "in"))
        return parse_unexpected(parser, "'in'");
    node->b = parse_tuple(parser, TUPLE_WITHOUT_IF, "recursive", false);
    if (!node->b)
        return false;
    if (parse_skip_name(parser, "if")) {
        node->c = parse_expression(parser);
        if (!node->c)
            return false;
    }
    node->flag = parse_skip_name(parser, "recursive");
    parser->loops++;
    bool good = expect_block_end(parser) && parse_body(parser, "endfor else", &node->body);
    parser->loops--;
    if (!good)
        return false;
    if (parse_skip_name(parser, "else"))
        return parse_block(parser, "endfor", &node->orelse);
    parse_next(parser);
    return true;
}

static bool parse_set(struct parser *parser, struct node *node)
{
    node->a = parse_target(parser, "", true);
    if (!node->a)
        return false;
    if (parse_skip(parser, '=')) {
        node->b = parse_tuple(parser, TUPLE_OF_EXPRESSIONS, "", false);
        return node->b;
    }
    node->kind = NODE_SET_BLOCK;
    while (parse_skip(parser, '|')) {
        node->b = parse_filter(parser, node->b);
        if (!node->b)
            return false;
    }
    return parse_block(parser, "endset", &node->body);
}

/* (a, b, c=1) */
static bool parse_signature(struct parser *parser, struct node *node)
{
    int32_t symbols[JINJA_NEST_MAX];
    if (!parse_expect(parser, '('))
        return false;
    while (!parse_at(parser, ')')) {
        if (node->n_parameters && !parse_expect(parser, ','))
            return false;
        if (parser->token->kind != TOKEN_NAME)
            return parse_unexpected(parser, "a parameter's name");
        if (node->n_parameters == JINJA_NEST_MAX)
            return jinja_syntax(parser->err, node->line, "more than %d parameters", JINJA_NEST_MAX);
        struct value constant;
        if (parse_constant(parser->token->value.text, &constant))
            return parse_unexpected(parser, "a parameter's name");
        if (!parse_symbol(parser, parser->token->value.text, &symbols[node->n_parameters++]))
            return false;
        parse_next(parser);
        if (parse_skip(parser, '=')) {
            struct node *value = parse_expression(parser);
            if (!value || !parse_push(parser, &node->defaults, value))
                return false;
        } else if (node->defaults.n) {
            return jinja_syntax(parser->err, node->line,
                                "a parameter without default behind one with a default");
        }
    }
    parse_next(parser);
    node->parameters = (int32_t *)(void *)arena_copy(&parser->jinja->arena, symbols,
                                                     (size_t)node->n_parameters * sizeof *symbols);
    return node->parameters ? true : parse_memory(parser);
}

/* The body of a macro: loops around it do not count. */
static bool parse_macro_body(struct parser *parser, struct node *node, const char *end)
{
    int32_t loops = parser->loops;
    parser->loops = 0;
    bool good = parse_block(parser, end, &node->body);
    parser->loops = loops;
    return good;
}

static bool parse_macro(struct parser *parser, struct node *node)
{
    if (parser->token->kind != TOKEN_NAME)
        return parse_unexpected(parser, "the macro's name");
    node->value = parser->token->value;
    if (!parse_symbol(parser, parser->token->value.text, &node->symbol))
        return false;
    parse_next(parser);
    CHECK(parser->n_macros < JINJA_NEST_MAX); /* each is a nested level, this one too */
    parser->macros[parser->n_macros++] = node;
    bool good = parse_signature(parser, node) && parse_macro_body(parser, node, "endmacro");
    parser->n_macros--;
    return good;
}

static bool parse_call_block(struct parser *parser, struct node *node)
{
    if (parse_at(parser, '(') && !parse_signature(parser, node))
        return false;
    node->a = parse_expression(parser);
    if (!node->a)
        return false;
    if (node->a->kind != NODE_CALL)
        return jinja_syntax(parser->err, node->line, "call needs a call");
    CHECK(parser->n_macros < JINJA_NEST_MAX);
    parser->macros[parser->n_macros++] = node;
    bool good = parse_macro_body(parser, node, "endcall");
    parser->n_macros--;
    return good;
}

static bool parse_filter_block(struct parser *parser, struct node *node)
{
    do {
        node->b = parse_filter(parser, node->b);
        if (!node->b)
            return false;
    } while (parse_skip(parser, '|'));
    return parse_block(parser, "endfilter", &node->body);
}

static bool parse_with(struct parser *parser, struct node *node)
{
    while (parser->token->kind != TOKEN_BLOCK_END) {
        if (node->items.n && !parse_expect(parser, ','))
            return false;
        struct node *target = parse_target(parser, "", false);
        if (!target || !parse_push(parser, &node->items, target) || !parse_expect(parser, '='))
            return false;
        struct node *value = parse_expression(parser);
        if (!value || !parse_push(parser, &node->items, value))
            return false;
    }
    return parse_block(parser, "endwith", &node->body);
}

static bool parse_generation(struct parser *parser, struct node *node)
{
    return parse_macro_body(parser, node, "endgeneration");
}

static bool parse_named_block(struct parser *parser, struct node *node)
{
    if (parser->token->kind != TOKEN_NAME)
        return parse_unexpected(parser, "the block's name");
    parse_next(parser);
    while (token_among(parser->token, "scoped required"))
        parse_next(parser);
    node->flag = 1;
    if (!parse_macro_body(parser, node, "endblock"))
        return false;
    if (parser->token->kind == TOKEN_NAME)
        parse_next(parser);
    return true;
}

static bool parse_print(struct parser *parser, struct node *node)
{
    while (parser->token->kind != TOKEN_BLOCK_END) {
        if (node->items.n && !parse_expect(parser, ','))
            return false;
        struct node *value = parse_expression(parser);
        if (!value || !parse_push(parser, &node->items, value))
            return false;
    }
    return true;
}

static bool parse_jump(struct parser *parser, struct node *node)
{
    if (!parser->loops)
        return jinja_syntax(parser->err, node->line, "%s outside of a loop",
                            node->kind == NODE_BREAK ? "break" : "continue");
    return true;
}

/* Behind {%: one tag with all that belongs to it, up to its last %}. */
static struct node *parse_statement(struct parser *parser)
{
    static const struct {
        const char *tag;
        enum node_kind kind;
        bool (*parse)(struct parser *parser, struct node *node);
    } tags[] = {
        { "if", NODE_IF, parse_if },
        { "for", NODE_FOR, parse_for },
        { "set", NODE_SET, parse_set },
        { "macro", NODE_MACRO, parse_macro },
        { "call", NODE_CALL_BLOCK, parse_call_block },
        { "filter", NODE_FILTER_BLOCK, parse_filter_block },
        { "with", NODE_WITH, parse_with },
        { "generation", NODE_SCOPE, parse_generation },
        { "block", NODE_SCOPE, parse_named_block },
        { "print", NODE_PRINT, parse_print },
        { "break", NODE_BREAK, parse_jump },
        { "continue", NODE_CONTINUE, parse_jump },
    };
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!parse_at_name(parser, tags[i].tag))
            continue;
        struct node *node = parse_node(parser, tags[i].kind);
        parse_next(parser);
        if (!node || !parse_nest(parser) || !tags[i].parse(parser, node) ||
            !expect_block_end(parser))
            return NULL;
        parser->nest--;
        return node;
    }
    if (parser->token->kind == TOKEN_NAME) {
        struct value_text name = parser->token->value.text;
        int length = (int)(name.length < 64 ? name.length : 64);
        if (token_among(parser->token, "include import from extends autoescape"))
            jinja_syntax(parser->err, parser->token->line, "tag '%.*s' is not supported", length,
                         name.bytes);
        else
            jinja_syntax(parser->err, parser->token->line, "unknown tag '%.*s'", length,
                         name.bytes);
    } else {
        parse_unexpected(parser, "a tag's name");
    }
    return NULL;
}

/* Statements up to a tag that is one of `ends` (then its name is the current token), or, with
 * `ends` NULL, to the end of the template. */
static bool parse_body(struct parser *parser, const char *ends, struct node_list *body)
{
    int32_t line = ends ? parser->token[-1].line : 1; /* of the %} before the body */
    for (;;) {
        struct node *node = NULL;
        switch (parser->token->kind) {
        case TOKEN_END:
            if (ends)
                return jinja_syntax(parser->err, line,
                                    "the block that begins here lacks its end (one of: %s)", ends);
            return true;
        case TOKEN_DATA:
            node = parse_node(parser, NODE_DATA);
            if (node)
                node->value = parser->token->value;
            parse_next(parser);
            break;
        case TOKEN_VARIABLE_BEGIN: {
            parse_next(parser);
            node = parse_node(parser, NODE_PRINT);
            struct node *value = parse_tuple(parser, TUPLE_OF_EXPRESSIONS, "", false);
            if (!node || !value || !parse_push(parser, &node->items, value))
                return false;
            if (parser->token->kind != TOKEN_VARIABLE_END)
                return parse_unexpected(parser, "end of print statement");
            parse_next(parser);
            break;
        }
        case TOKEN_BLOCK_BEGIN:
            parse_next(parser);
            if (ends && token_among(parser->token, ends))
                return true;
            node = parse_statement(parser);
            break;
        default:
            return parse_unexpected(parser, "text or a tag");
        }
        if (!node || !parse_push(parser, body, node))
            return false;
    }
}

static bool word_symbol(struct parser *parser, const char *word, int32_t *symbol)
{
    return parse_symbol(parser, (struct value_text){ word, strlen(word) }, symbol);
}

bool jinja_parse(struct jinja *jinja, const char *source, size_t length, struct err *err)
{
    /* 1 MiB of source makes at most a million tokens of 64 bytes, in a doubling array. */
    *jinja = (struct jinja){ 0 };
    arena_init(&jinja->arena, (size_t)512 << 20);
    struct parser parser = { .jinja = jinja, .err = err };
    struct arena tokens;
    struct token *token = NULL;
    size_t n_tokens;
    arena_init(&tokens, (size_t)256 << 20);
    if (!map_init(&jinja->symbols, 64, err) ||
        !jinja_lex(&jinja->arena, &tokens, source, length, &token, &n_tokens, err))
        goto fail;
    parser.token = token;
    if (!parse_body(&parser, NULL, &jinja->body))
        goto fail;
    if (!word_symbol(&parser, "loop", &jinja->loop) ||
        !word_symbol(&parser, "caller", &jinja->caller) ||
        !word_symbol(&parser, "kwargs", &jinja->kwargs) ||
        !word_symbol(&parser, "varargs", &jinja->varargs))
        goto fail;
    arena_clear(&tokens);
    return true;
fail:
    arena_clear(&tokens);
    jinja_clear(jinja);
    return false;
}

void jinja_clear(struct jinja *jinja)
{
    map_clear(&jinja->symbols);
    arena_clear(&jinja->arena);
    *jinja = (struct jinja){ 0 };
}
