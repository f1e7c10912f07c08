/* jinja.h - the Jinja2 subset inside: values, tokens, tree, run. For jinja_*.c, chat.c and their
 * tests only; everybody else sees chat.h.
 *
 * A template is parsed once into an immutable tree (struct jinja) and rendered many times, from any
 * thread. A render (struct run) has one arena for all its values and budgets for steps, depth,
 * output and memory; it has no way to the system. Values are 32 bytes, passed by value; what they
 * point to lives in the render's arena or in the template's, and is never changed, except for
 * namespaces and the state of loops, cyclers and joiners.
 *
 * Semantics: Jinja2 3.1's immutable sandbox with trim_blocks, lstrip_blocks, loop controls, and
 * what the transformers library adds (generation blocks, tojson, raise_exception, strftime_now).
 * Integers have 128 bits; what does not fit is an error. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/arena.h"
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/map.h"

struct cJSON;
typedef __int128 jinja_int; /* the language has no shorter name for it */

/* The budgets of one render, and the limits of one template. */
enum {
    JINJA_SOURCE_MAX = 1 << 20, /* bytes; the largest known template has 17 KB                   */
    JINJA_NEST_MAX = 100,       /* blocks and brackets within each other, in the source           */
    JINJA_TREE_MAX = 400,       /* levels of one expression's tree: a + b + c + ... has one each  */
    JINJA_STEPS_MAX = 2000000, /* a node is a step; so are 64 bytes of text, or 4 values, handled */
    JINJA_STEP = 64,        /* a step in bytes                                                  */
    JINJA_DEPTH_MAX = 1000, /* nested evaluations; 2 MB of stack at most, sanitizers on       */
    JINJA_DATA_DEPTH_MAX = 128, /* lists within lists                                             */
    JINJA_OUTPUT_MAX = 16 << 20, /* bytes */
    JINJA_MEMORY_MAX = 96 << 20, /* bytes */
    JINJA_RANGE_MAX = 100000, /* elements; as Jinja2's sandbox                                  */
};

/* ---- values ---- */

enum value_kind {
    VALUE_UNDEFINED, /* text: why, for the error when it is used */
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_VIEW, /* items in order, made by range(), d.items(), a generator; `view` says which */
    VALUE_DICT,
    VALUE_SPACE, /* namespace(): the only mutable one */
    VALUE_LOOP,  /* `loop` inside a for */
    VALUE_MACRO,
    VALUE_METHOD, /* "x".strip, bound */
    VALUE_GLOBAL, /* a global function: range, dict, ... */
    VALUE_CYCLER,
    VALUE_JOINER,
};
enum view_kind { VIEW_RANGE, VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS, VIEW_GENERATOR };

struct value;
struct value_pair;
struct value_text {
    const char *bytes;
    size_t length;
};
struct value_items {
    const struct value *at;
    size_t n;
};
struct value_pairs {
    const struct value_pair *at;
    size_t n;
};
struct value {
    uint8_t kind; /* enum value_kind */
    uint8_t view; /* enum view_kind */
    union {
        bool boolean;
        jinja_int integer;
        double number;
        struct value_text text;   /* UTF-8, not NUL-terminated */
        struct value_items items; /* list, tuple, view */
        struct value_pairs pairs; /* dict, insertion order */
        struct space *space;
        struct loop *loop;
        struct macro *macro;
        struct method *method;
        struct cycler *cycler;
        struct joiner *joiner;
        int32_t global;
    };
};
struct value_pair {
    struct value key, value;
};
struct space {
    struct value_pair *pairs;
    size_t n, capacity;
};
struct method {
    struct value self;
    int32_t id; /* jinja_methods.c */
};
struct cycler {
    const struct value *items;
    size_t n, at;
};
struct joiner {
    struct value separator;
    bool used;
};
struct loop {
    const struct value *items;
    size_t n, at;
    int32_t depth;
    struct value changed; /* a tuple of the last loop.changed(...); undefined: none yet */
    const struct node *node;
    struct scope *scope;
};
struct named_value {
    struct value_text name;
    struct value value;
};
/* The arguments of a call, evaluated. */
struct call {
    const struct value *items;
    size_t n;
    const struct named_value *named;
    size_t n_named;
    const char *what; /* "filter 'join'", for errors */
};

/* ---- tokens and tree ---- */

enum token_kind {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_OPERATOR, /* op: the characters, '/' * 256 + '/' for two */
};
#define OP(a, b) ((a)*256 + (b))
struct token {
    uint8_t kind;
    uint16_t op;
    int32_t line;
    struct value value; /* text of data, name and string; number */
};

enum node_kind {
    /* expressions */
    NODE_CONST,   /* value */
    NODE_NAME,    /* symbol */
    NODE_LIST,    /* items */
    NODE_TUPLE,   /* items */
    NODE_DICT,    /* items: key, value, key, value */
    NODE_COND,    /* a if b else c; c may be NULL */
    NODE_OR,      /* a, b */
    NODE_AND,     /* a, b */
    NODE_NOT,     /* a */
    NODE_COMPARE, /* items: first operand, then operands; ops beside them */
    NODE_BINARY,  /* a op b */
    NODE_CONCAT,  /* items */
    NODE_NEGATE,  /* a */
    NODE_PLUS,    /* a */
    NODE_ATTR,    /* a . value.text */
    NODE_ITEM,    /* a [ b ] */
    NODE_SLICE,   /* a [ b : c : d ], each may be NULL but a */
    NODE_CALL,    /* a ( arguments ) */
    NODE_FILTER,  /* a | filter; a NULL in filter blocks: the block's text */
    NODE_TEST,    /* a is test */
    /* statements */
    NODE_DATA,         /* value.text */
    NODE_PRINT,        /* items: expressions */
    NODE_IF,           /* items: condition, condition, ...; bodies beside them; orelse */
    NODE_FOR,          /* a: target, b: iterable, c: test or NULL; body, orelse; flag: recursive */
    NODE_SET,          /* a: target, b: value */
    NODE_SET_BLOCK,    /* a: target, b: filter or NULL; body */
    NODE_MACRO,        /* symbol, parameters, body */
    NODE_CALL_BLOCK,   /* a: the call, parameters, body */
    NODE_FILTER_BLOCK, /* b: filter; body */
    NODE_WITH,         /* items: target, value, target, value; body */
    NODE_SCOPE,        /* body of generation or block (flag: sees the root's names only) */
    NODE_BREAK,
    NODE_CONTINUE,
};
enum compare_op { CMP_EQ, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE, CMP_IN, CMP_NOT_IN };
enum { /* what a macro's body refers to */
       MACRO_CALLER = 1,
       MACRO_KWARGS = 2,
       MACRO_VARARGS = 4,
};
struct node;
struct node_list {
    struct node **at;
    int32_t n, capacity;
};
struct arguments {
    struct node_list items;
    struct node_list named; /* values; names beside them */
    struct value_text *names;
    struct node *star, *star_star; /* *args, **kwargs, or NULL */
};
struct node {
    uint8_t kind; /* enum node_kind */
    uint8_t flag; /* FOR: recursive; MACRO, CALL_BLOCK: MACRO_ bits; TEST: negated */
    uint16_t op;  /* BINARY: as in struct token */
    int32_t line;
    int32_t height; /* of the expression's tree */
    int32_t symbol;
    int32_t entry; /* FILTER, TEST: index into the table, or -1: unknown, an error when reached */
    struct node *a, *b, *c, *d;
    struct node_list items;
    struct node_list body, orelse;
    struct node_list *bodies;    /* IF: one for each condition */
    uint8_t *ops;                /* COMPARE: [items.n - 1] */
    struct arguments *arguments; /* CALL, FILTER, TEST; NULL: none */
    int32_t *parameters;         /* MACRO, CALL_BLOCK: symbols; defaults are the last ones' */
    int32_t n_parameters;
    struct node_list defaults;
    struct value value;
};
struct jinja {
    struct arena arena; /* the tree and its strings */
    struct map symbols; /* name -> index into names */
    struct value_text *names;
    int32_t n_names, names_capacity;
    int32_t loop, caller, kwargs, varargs; /* symbols */
    struct node_list body;
};

/* ---- parsing (jinja_lex.c, jinja_expr.c, jinja_parse.c) ---- */

/* Split into tokens, whitespace control applied: their text in `arena`, themselves in `scratch`.
 * ERR_FORMAT with the line. */
MUST_USE bool jinja_lex(struct arena *arena, struct arena *scratch, const char *source,
                        size_t length, struct token **tokens, size_t *n_tokens, struct err *err);
/* Source (UTF-8) -> tree. ERR_FORMAT with the line. jinja_clear frees, also a zeroed one. */
MUST_USE bool jinja_parse(struct jinja *jinja, const char *source, size_t length, struct err *err);
void jinja_clear(struct jinja *jinja);
/* "chat template line 12: ...", ERR_FORMAT. */
bool jinja_syntax(struct err *err, int32_t line, const char *format, ...) PRINTF_LIKE(3, 4);

struct parser {
    struct jinja *jinja;
    struct err *err;
    const struct token *token; /* the current one; the last is TOKEN_END */
    int32_t nest;              /* blocks and brackets around */
    int32_t loops;             /* for loops around, in this macro */
    int32_t conditions;        /* ifs around: unknown filters are errors only when reached */
    struct node *macros[JINJA_NEST_MAX + 1];
    int32_t n_macros;
};
enum tuple_of { TUPLE_OF_EXPRESSIONS, TUPLE_WITHOUT_IF, TUPLE_OF_PRIMARIES };
/* jinja_expr.c for jinja_parse.c. NULL and false: err is set. */
struct node *parse_expression(struct parser *parser);
struct node *parse_primary(struct parser *parser);
struct node *parse_tuple(struct parser *parser, enum tuple_of of, const char *ends,
                         bool parentheses);
struct node *parse_filter(struct parser *parser, struct node *of);
struct node *parse_node(struct parser *parser, enum node_kind kind);
struct node *parse_node_at(struct parser *parser, enum node_kind kind, int32_t line);
bool parse_push(struct parser *parser, struct node_list *list, struct node *node);
bool parse_symbol(struct parser *parser, struct value_text name, int32_t *symbol);
bool parse_constant(struct value_text name, struct value *value); /* true, none, ...? */
bool parse_unexpected(struct parser *parser, const char *wanted);
bool parse_memory(struct parser *parser);
bool parse_nest(struct parser *parser); /* one level deeper; parser->nest-- afterwards */
void parse_next(struct parser *parser);
bool parse_at(const struct parser *parser, int op);
bool parse_skip(struct parser *parser, int op);
bool parse_expect(struct parser *parser, char op);
bool parse_at_name(const struct parser *parser, const char *word);
bool parse_skip_name(struct parser *parser, const char *word);
bool token_is(const struct token *token, const char *word);
bool text_is_word(struct value_text text, const char *word);
bool token_among(const struct token *token, const char *words); /* "endif else" */

/* ---- a render (jinja_eval.c, jinja_exec.c) ---- */

struct binding {
    int32_t symbol;
    struct value value;
};
struct scope {
    struct scope *up;
    struct binding *bindings;
    int32_t n, capacity;
    bool captured; /* a macro refers to it: must not be reused */
};
struct macro {
    const struct node *node;
    struct scope *scope;
    struct value_text name;
};
struct run {
    const struct jinja *jinja;
    struct arena arena;
    struct buf *out; /* also collects what is captured: a capture is the part behind a mark */
    struct scope *scope, *root;
    struct err *err;
    int64_t steps; /* left, in JINJA_STEPths */
    int64_t now_s;
    int32_t depth, line;
    uint32_t mark; /* the noncharacter that marks user text, or 0 (chat.h) */
    uint64_t random;
    char *tail, *tail_end; /* string space: the last string may grow in place */
};

/* Start a render that writes to `out` (initialized, empty). Errors go to `err`, which must outlive
 * the run. Always pair with run_clear. */
MUST_USE bool run_init(struct run *run, const struct jinja *jinja, struct buf *out, int64_t now_s,
                       struct err *err);
/* A variable of the template. The name may be any; values live as long as the run. */
MUST_USE bool run_define(struct run *run, const char *name, struct value value);
MUST_USE bool run_template(struct run *run);
void run_clear(struct run *run);

/* "chat template line 12: ...", ERR_REQUEST; returns false. */
bool run_fail(struct run *run, const char *format, ...) PRINTF_LIKE(2, 3);
bool run_fail_memory(struct run *run, size_t bytes);
/* Take work on so many bytes from the budget of steps, and at least a little. */
MUST_USE bool run_spend(struct run *run, size_t bytes);
MUST_USE bool run_enter(struct run *run); /* one level deeper; run->depth-- afterwards */
void *run_take(struct run *run, size_t n, size_t size); /* NULL: run_fail was called */

/* Kept out of line, so that the recursion through run_eval and exec has small frames. */
#define LEAF __attribute__((noinline))

MUST_USE bool run_eval(struct run *run, const struct node *node, struct value *out);
/* Arguments of a call (NULL: none); there is room for `room` more named ones. */
MUST_USE bool run_arguments(struct run *run, const struct arguments *arguments, struct call *call,
                            size_t room);
/* A NODE_CALL; `caller`: NULL, or the body of a call block. */
MUST_USE bool run_eval_call(struct run *run, const struct node *node, const struct macro *caller,
                            struct value *out);
struct scope *scope_open(struct run *run, struct scope *up); /* NULL: run_fail was called */
MUST_USE bool scope_set(struct run *run, struct scope *scope, int32_t symbol,
                        const struct value *value);
/* The value from run->scope on, or NULL; *compared grows by what was looked at. */
const struct value *scope_get(struct run *run, int32_t symbol, size_t *compared);
void scope_capture(struct scope *scope); /* a closure keeps it and those around it */

MUST_USE bool run_call(struct run *run, struct value callee, const struct call *call,
                       struct value *out);
MUST_USE bool run_macro(struct run *run, const struct macro *macro, const struct call *call,
                        struct value *out);
MUST_USE bool run_loop_again(struct run *run, struct loop *loop, struct value items,
                             struct value *out);

/* ---- values (jinja_value.c) ---- */

struct value value_none(void);
struct value value_bool(bool boolean);
struct value value_int(jinja_int integer);
struct value value_float(double number);
struct value value_text(const char *bytes, size_t length);
struct value value_word(const char *word); /* NUL-terminated, static */
struct value value_list(const struct value *items, size_t n);
struct value value_view(enum view_kind view, const struct value *items, size_t n);
/* Undefined, with the reason that its use gives. */
MUST_USE bool value_undefined(struct run *run, struct value *out, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* A copy in the render's string space. */
MUST_USE bool value_copy_text(struct run *run, const char *bytes, size_t length, struct value *out);
MUST_USE bool value_concat(struct run *run, struct value a, struct value b, struct value *out);

const char *value_type(const struct value *value);  /* Python's name: "str", "NoneType", ... */
bool value_is_number(const struct value *value);    /* int, float or bool */
double value_number(const struct value *value);     /* of a number */
jinja_int value_integer(const struct value *value); /* of an int or bool */
bool value_is_integer(const struct value *value);
bool value_truth(const struct value *value);
MUST_USE bool value_equal(struct run *run, const struct value *a, const struct value *b,
                          bool *equal);
/* a <, ==, > b: -1, 0, 1; 2 for NaN. An error for types that have no order. */
MUST_USE bool value_order(struct run *run, const struct value *a, const struct value *b,
                          const char *op, int *order);
MUST_USE bool value_in(struct run *run, const struct value *item, const struct value *container,
                       bool *found);
MUST_USE bool value_hashable(struct run *run, const struct value *key);
/* NULL when absent; *failed when comparing failed. */
const struct value *dict_find(struct run *run, const struct value_pairs *pairs,
                              const struct value *key, bool *failed);
const struct value *dict_find_text(const struct run *run, const struct value_pairs *pairs,
                                   const char *key, size_t length);
/* The elements as a list: strings give characters, dicts keys, undefined nothing. */
MUST_USE bool value_iterate(struct run *run, const struct value *value, struct value_items *items);
MUST_USE bool value_length(struct run *run, const struct value *value, size_t *length);
/* obj.name and obj[key], as the sandbox does. Missing gives undefined. */
MUST_USE bool value_attr(struct run *run, const struct value *obj, struct value_text name,
                         struct value *out);
MUST_USE bool value_item(struct run *run, const struct value *obj, const struct value *key,
                         struct value *out);
/* Each bound may be NULL. */
MUST_USE bool value_slice(struct run *run, const struct value *obj, const struct value *from,
                          const struct value *to, const struct value *step, struct value *out);
/* a op b; op as in struct token. */
MUST_USE bool value_binary(struct run *run, uint16_t op, const struct value *a,
                           const struct value *b, struct value *out);

/* ---- text of values (jinja_print.c) ---- */

/* str(), repr(): appended to run->out. */
MUST_USE bool value_put(struct run *run, const struct value *value);
MUST_USE bool value_put_repr(struct run *run, const struct value *value);
/* str() as a value; strings as they are. */
MUST_USE bool value_str(struct run *run, const struct value *value, struct value *out);
MUST_USE bool value_repr(struct run *run, const struct value *value, struct value *out);
struct json_style {
    bool ascii, sort;
    struct value_text indent, item_separator, key_separator;
    bool pretty;
};
MUST_USE bool value_put_json(struct run *run, const struct value *value,
                             const struct json_style *style);
enum { FLOAT_TEXT_MAX = 32, INT_TEXT_MAX = 48 };
int float_repr(double number, char text[FLOAT_TEXT_MAX]);
int int_repr(jinja_int number, char text[INT_TEXT_MAX]);
/* Take what was written to run->out behind `from` as a string value. */
MUST_USE bool capture_end(struct run *run, size_t from, struct value *out);
MUST_USE bool run_put(struct run *run, const char *bytes, size_t length);
/* "..." % args and "...".format(args) */
MUST_USE bool format_percent(struct run *run, const struct value *format, const struct value *args,
                             struct value *out);
MUST_USE bool format_braces(struct run *run, const struct value *format, const struct call *call,
                            struct value *out);
/* A value from JSON; strings are copied, each through `mark` when that is not NULL. */
struct marker;
MUST_USE bool value_from_json(struct run *run, const struct cJSON *json,
                              const struct marker *marker, struct value *out);
/* chat.c: writes the marked copy of the bytes to run->out. */
MUST_USE bool marker_put(struct run *run, const struct marker *marker, const char *bytes,
                         size_t length);

/* ---- text (jinja_text.c): characters are code points; a mark belongs to the one before it ---- */

/* The code point at *at, which moves behind it; bytes that are not UTF-8 count singly. */
uint32_t text_next(const struct run *run, const char **at, const char *end);
const char *text_previous(const struct run *run, const char *begin, const char *at);
size_t text_count(const struct run *run, struct value_text text);
size_t text_encode(uint32_t code, char bytes[4]);
bool text_is_space(uint32_t code);
/* The first (last) occurrence of `needle` at or behind `from`, marks in the hay skipped; NULL for
 * none. *match_end is behind it. */
const char *text_find(const struct run *run, const char *from, const char *end,
                      struct value_text needle, const char **match_end);
const char *text_find_last(const struct run *run, const char *begin, const char *end,
                           struct value_text needle, const char **match_end);
bool text_equal(const struct run *run, struct value_text a, struct value_text b);
/* As memcmp over code points, marks skipped. */
int text_order(const struct run *run, struct value_text a, struct value_text b);
/* `chars` NULL: whitespace. sides: 1 left, 2 right. */
struct value_text text_strip(const struct run *run, struct value_text text,
                             const struct value_text *chars, int sides);
enum text_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP, CASE_FOLD };
MUST_USE bool text_case(struct run *run, struct value_text text, enum text_case to,
                        struct value *out);
enum text_class {
    CLASS_ALNUM,
    CLASS_ALPHA,
    CLASS_ASCII,
    CLASS_DECIMAL,
    CLASS_DIGIT,
    CLASS_NUMERIC,
    CLASS_LOWER,
    CLASS_UPPER,
    CLASS_TITLE,
    CLASS_SPACE,
    CLASS_PRINTABLE,
    CLASS_IDENTIFIER,
};
bool text_is(const struct run *run, struct value_text text, enum text_class what);
bool code_is_printable(uint32_t code);

/* ---- methods, filters, tests, globals ---- */

/* The id of obj.name, or -1. */
int32_t method_find(const struct value *obj, struct value_text name);
MUST_USE bool method_call(struct run *run, const struct method *method, const struct call *call,
                          struct value *out);
int32_t filter_find(struct value_text name);
MUST_USE bool filter_apply(struct run *run, int32_t filter, const struct value *value,
                           const struct call *call, struct value *out);
struct filter_row {
    const char *name;
    bool (*apply)(struct run *run, const struct value *value, const struct call *call,
                  struct value *out);
};
extern const struct filter_row SEQUENCE_FILTERS[]; /* jinja_sequence.c; the last has no name */
int32_t test_find(struct value_text name);
MUST_USE bool test_apply(struct run *run, int32_t test, const struct value *value,
                         const struct call *call, bool *result);
int32_t global_count(void);
const char *global_name(int32_t global);
MUST_USE bool global_call(struct run *run, int32_t global, const struct call *call,
                          struct value *out);
/* space[name] = value; a namespace, or a dict in the making. */
MUST_USE bool namespace_set(struct run *run, struct space *space, struct value_text name,
                            struct value value);
MUST_USE bool dict_build(struct run *run, struct space *space, const struct value *key,
                         const struct value *value);
/* The attributes of `loop` that are not methods. */
MUST_USE bool loop_attr(struct run *run, struct loop *loop, struct value_text name,
                        struct value *out, bool *known);
MUST_USE bool loop_cycle(struct run *run, const struct value *self, const struct call *call,
                         struct value *out);
MUST_USE bool loop_changed(struct run *run, const struct value *self, const struct call *call,
                           struct value *out);

/* Bind a call to parameters by position and name. `names`: "width fillchar"; *given[i] is NULL
 * where no argument was given. */
enum { BIND_MAX = 6 };
MUST_USE bool call_bind(struct run *run, const struct call *call, const char *names, int required,
                        const struct value *given[BIND_MAX]);
/* An argument as an int64, `missing` when NULL; an error for other types. */
MUST_USE bool argument_int(struct run *run, const struct call *call, const struct value *argument,
                           int64_t missing, int64_t *out);
MUST_USE bool argument_text(struct run *run, const struct call *call, const struct value *argument,
                            const char *missing, struct value_text *out);
