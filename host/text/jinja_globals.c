/* jinja_globals.c - the tests (x is defined), the global functions (range, namespace, ...), and
 * what `loop` knows.
 *
 * The clock that strftime_now shows is the request's, as UTC: a render is a function of its
 * input. */
#include "host/text/jinja.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- tests ---- */

enum test_kind {
    TEST_BOOLEAN,
    TEST_CALLABLE,
    TEST_DEFINED,
    TEST_DIVISIBLEBY,
    TEST_EQ,
    TEST_ESCAPED,
    TEST_EVEN,
    TEST_FALSE,
    TEST_FILTER,
    TEST_FLOAT,
    TEST_GE,
    TEST_GT,
    TEST_IN,
    TEST_INTEGER,
    TEST_ITERABLE,
    TEST_LE,
    TEST_LOWER,
    TEST_LT,
    TEST_MAPPING,
    TEST_NE,
    TEST_NONE,
    TEST_NUMBER,
    TEST_ODD,
    TEST_SAMEAS,
    TEST_SEQUENCE,
    TEST_STRING,
    TEST_TEST,
    TEST_TRUE,
    TEST_UNDEFINED,
    TEST_UPPER,
};
static const struct {
    const char *name;
    enum test_kind kind;
    int arguments;
} TESTS[] = {
    { "boolean", TEST_BOOLEAN, 0 },
    { "callable", TEST_CALLABLE, 0 },
    { "defined", TEST_DEFINED, 0 },
    { "divisibleby", TEST_DIVISIBLEBY, 1 },
    { "eq", TEST_EQ, 1 },
    { "equalto", TEST_EQ, 1 },
    { "==", TEST_EQ, 1 },
    { "escaped", TEST_ESCAPED, 0 },
    { "even", TEST_EVEN, 0 },
    { "false", TEST_FALSE, 0 },
    { "filter", TEST_FILTER, 0 },
    { "float", TEST_FLOAT, 0 },
    { "ge", TEST_GE, 1 },
    { ">=", TEST_GE, 1 },
    { "greaterthan", TEST_GT, 1 },
    { "gt", TEST_GT, 1 },
    { ">", TEST_GT, 1 },
    { "in", TEST_IN, 1 },
    { "integer", TEST_INTEGER, 0 },
    { "iterable", TEST_ITERABLE, 0 },
    { "le", TEST_LE, 1 },
    { "<=", TEST_LE, 1 },
    { "lower", TEST_LOWER, 0 },
    { "lessthan", TEST_LT, 1 },
    { "lt", TEST_LT, 1 },
    { "<", TEST_LT, 1 },
    { "mapping", TEST_MAPPING, 0 },
    { "ne", TEST_NE, 1 },
    { "!=", TEST_NE, 1 },
    { "none", TEST_NONE, 0 },
    { "number", TEST_NUMBER, 0 },
    { "odd", TEST_ODD, 0 },
    { "sameas", TEST_SAMEAS, 1 },
    { "sequence", TEST_SEQUENCE, 0 },
    { "string", TEST_STRING, 0 },
    { "test", TEST_TEST, 0 },
    { "true", TEST_TRUE, 0 },
    { "undefined", TEST_UNDEFINED, 0 },
    { "upper", TEST_UPPER, 0 },
};

int32_t test_find(struct value_text name)
{
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++)
        if (text_is_word(name, TESTS[i].name))
            return (int32_t)i;
    return -1;
}

static bool is_iterable(const struct value *value)
{
    return value->kind == VALUE_STRING || value->kind == VALUE_LIST || value->kind == VALUE_TUPLE ||
           value->kind == VALUE_VIEW || value->kind == VALUE_DICT ||
           value->kind == VALUE_UNDEFINED || value->kind == VALUE_LOOP;
}

/* It has a length and can be indexed. */
static bool is_sequence(const struct value *value)
{
    if (value->kind == VALUE_VIEW)
        return value->view == VIEW_RANGE;
    return is_iterable(value) && value->kind != VALUE_LOOP;
}

static bool same(struct run *run, const struct value *a, const struct value *b, bool *result)
{
    *result = false;
    if (a->kind != b->kind)
        return true;
    if (a->kind == VALUE_LIST || a->kind == VALUE_TUPLE || a->kind == VALUE_DICT) {
        *result = a->items.at == b->items.at && a->items.n == b->items.n;
        return true;
    }
    return value_equal(run, a, b, result);
}

static bool by_order(struct run *run, enum test_kind kind, const struct value *a,
                     const struct value *b, bool *result)
{
    const char *op = kind == TEST_LT ? "<" : kind == TEST_LE ? "<=" : kind == TEST_GT ? ">" : ">=";
    int order;
    if (!value_order(run, a, b, op, &order))
        return false;
    *result = kind == TEST_LT   ? order == -1
              : kind == TEST_LE ? order == -1 || order == 0
              : kind == TEST_GT ? order == 1
                                : order == 1 || order == 0;
    return true;
}

/* value % number == rest */
static bool by_rest(struct run *run, const struct value *value, const struct value *number,
                    jinja_int wanted, bool *result)
{
    struct value rest, want = value_int(wanted);
    return value_binary(run, '%', value, number, &rest) && value_equal(run, &rest, &want, result);
}

static bool by_case(struct run *run, const struct value *value, enum text_class what, bool *result)
{
    struct value text;
    if (!value_str(run, value, &text) || !run_spend(run, 4 * text.text.length))
        return false;
    *result = text_is(run, text.text, what);
    return true;
}

bool test_apply(struct run *run, int32_t test, const struct value *value, const struct call *call,
                bool *result)
{
    const struct value *given[BIND_MAX], two = value_int(2);
    enum value_kind kind = value->kind;
    char what[32];
    struct call named = *call;
    snprintf(what, sizeof what, "test '%s'", TESTS[test].name);
    named.what = what;
    if (!call_bind(run, &named, TESTS[test].arguments ? "other" : "", TESTS[test].arguments, given))
        return false;
    *result = false;
    switch (TESTS[test].kind) {
    case TEST_BOOLEAN:
        *result = kind == VALUE_BOOL;
        return true;
    case TEST_CALLABLE:
        *result = kind == VALUE_MACRO || kind == VALUE_METHOD || kind == VALUE_GLOBAL ||
                  kind == VALUE_JOINER || kind == VALUE_LOOP || kind == VALUE_UNDEFINED;
        return true;
    case TEST_DEFINED:
        *result = kind != VALUE_UNDEFINED;
        return true;
    case TEST_UNDEFINED:
        *result = kind == VALUE_UNDEFINED;
        return true;
    case TEST_DIVISIBLEBY:
        return by_rest(run, value, given[0], 0, result);
    case TEST_EVEN:
        return by_rest(run, value, &two, 0, result);
    case TEST_ODD:
        return by_rest(run, value, &two, 1, result);
    case TEST_NE:
    case TEST_EQ: {
        bool good = value_equal(run, value, given[0], result);
        *result = *result == (TESTS[test].kind == TEST_EQ);
        return good;
    }
    case TEST_GE:
    case TEST_GT:
    case TEST_LE:
    case TEST_LT:
        return by_order(run, TESTS[test].kind, value, given[0], result);
    case TEST_IN:
        return value_in(run, value, given[0], result);
    case TEST_ESCAPED:
        return true;
    case TEST_FALSE:
        *result = kind == VALUE_BOOL && !value->boolean;
        return true;
    case TEST_TRUE:
        *result = kind == VALUE_BOOL && value->boolean;
        return true;
    case TEST_FILTER:
        *result = kind == VALUE_STRING && filter_find(value->text) >= 0;
        return true;
    case TEST_TEST:
        *result = kind == VALUE_STRING && test_find(value->text) >= 0;
        return true;
    case TEST_FLOAT:
        *result = kind == VALUE_FLOAT;
        return true;
    case TEST_INTEGER:
        *result = kind == VALUE_INT;
        return true;
    case TEST_NUMBER:
        *result = value_is_number(value);
        return true;
    case TEST_STRING:
        *result = kind == VALUE_STRING;
        return true;
    case TEST_MAPPING:
        *result = kind == VALUE_DICT;
        return true;
    case TEST_NONE:
        *result = kind == VALUE_NONE;
        return true;
    case TEST_ITERABLE:
        *result = is_iterable(value);
        return true;
    case TEST_SEQUENCE:
        *result = is_sequence(value);
        return true;
    case TEST_SAMEAS:
        return same(run, value, given[0], result);
    case TEST_LOWER:
        return by_case(run, value, CLASS_LOWER, result);
    case TEST_UPPER:
        return by_case(run, value, CLASS_UPPER, result);
    }
    return true;
}

/* ---- loop ---- */

bool loop_attr(struct run *run, struct loop *loop, struct value_text name, struct value *out,
               bool *known)
{
    const struct {
        const char *name;
        struct value value;
    } rows[] = {
        { "index", value_int((jinja_int)loop->at + 1) },
        { "index0", value_int((jinja_int)loop->at) },
        { "revindex", value_int((jinja_int)(loop->n - loop->at)) },
        { "revindex0", value_int((jinja_int)(loop->n - loop->at - 1)) },
        { "first", value_bool(loop->at == 0) },
        { "last", value_bool(loop->at + 1 == loop->n) },
        { "length", value_int((jinja_int)loop->n) },
        { "depth", value_int(loop->depth + 1) },
        { "depth0", value_int(loop->depth) },
    };
    *known = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (text_is_word(name, rows[i].name)) {
            *out = rows[i].value;
            return true;
        }
    }
    bool next = text_is_word(name, "nextitem");
    *known = next || text_is_word(name, "previtem");
    if (!*known)
        return true;
    if (next ? loop->at + 1 == loop->n : loop->at == 0)
        return value_undefined(run, out, "there is no %s item", next ? "next" : "previous");
    *out = loop->items[next ? loop->at + 1 : loop->at - 1];
    return true;
}

bool loop_cycle(struct run *run, const struct value *self, const struct call *call,
                struct value *out)
{
    if (!call->n)
        return run_fail(run, "no items for cycling given");
    *out = call->items[self->loop->at % call->n];
    return true;
}

bool loop_changed(struct run *run, const struct value *self, const struct call *call,
                  struct value *out)
{
    struct value now = value_list(call->items, call->n);
    bool equal = false;
    now.kind = VALUE_TUPLE;
    if (self->loop->changed.kind == VALUE_TUPLE &&
        !value_equal(run, &self->loop->changed, &now, &equal))
        return false;
    self->loop->changed = now;
    *out = value_bool(!equal);
    return true;
}

/* ---- functions ---- */

static bool global_range(struct run *run, const struct call *call, struct value *out)
{
    const struct value *given[BIND_MAX];
    int64_t bounds[3] = { 0, 0, 1 };
    if (!call_bind(run, call, "start stop step", 1, given))
        return false;
    for (int i = 0; i < 3; i++) {
        if (given[i] && !value_is_integer(given[i]))
            return run_fail(run, "'%s' object cannot be interpreted as an integer",
                            value_type(given[i]));
        if (!argument_int(run, call, given[i], bounds[i], &bounds[i]))
            return false;
    }
    if (!given[1]) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    if (!bounds[2])
        return run_fail(run, "range() arg 3 must not be zero");
    int64_t step = bounds[2], span = step > 0 ? bounds[1] - bounds[0] : bounds[0] - bounds[1];
    int64_t stride = step > 0 ? step : -step; /* argument_int keeps clear of overflow */
    int64_t n = span > 0 ? (span - 1) / stride + 1 : 0;
    if (n > JINJA_RANGE_MAX)
        return run_fail(run, "Range too big. Ranges have at most %d elements.", JINJA_RANGE_MAX);
    struct value *items = run_take(run, (size_t)n, sizeof *items);
    if (!items || !run_spend(run, 16 * (size_t)n))
        return false;
    for (int64_t i = 0; i < n; i++)
        items[i] = value_int(bounds[0] + i * step);
    *out = value_view(VIEW_RANGE, items, (size_t)n);
    return true;
}

static bool space_set(struct run *run, struct space *space, struct value key, struct value value)
{
    struct value_pairs pairs = { space->pairs, space->n };
    bool failed;
    if (!value_hashable(run, &key))
        return false;
    const struct value *old = dict_find(run, &pairs, &key, &failed);
    if (failed)
        return false;
    if (old) {
        space
            ->pairs[(const struct value_pair *)(const void *)((const char *)old -
                                                              offsetof(struct value_pair, value)) -
                    space->pairs]
            .value = value;
        return true;
    }
    if (space->n == space->capacity) {
        size_t capacity = space->capacity ? 2 * space->capacity : 8;
        struct value_pair *more = run_take(run, capacity, sizeof *more);
        if (!more)
            return false;
        if (space->n)
            memcpy(more, space->pairs, space->n * sizeof *more);
        space->pairs = more;
        space->capacity = capacity;
    }
    space->pairs[space->n++] = (struct value_pair){ key, value };
    return true;
}

bool namespace_set(struct run *run, struct space *space, struct value_text name, struct value value)
{
    return space_set(run, space, value_text(name.bytes, name.length), value);
}

bool dict_build(struct run *run, struct space *space, const struct value *key,
                const struct value *value)
{
    return space_set(run, space, *key, *value);
}

/* dict(mapping or pairs, name=value, ...) */
static bool fill_space(struct run *run, const struct call *call, struct space *space)
{
    if (call->n > 1)
        return run_fail(run, "%s expected at most 1 argument, got %zu", call->what, call->n);
    const struct value *from = call->n ? call->items : NULL;
    for (size_t i = 0; from && from->kind == VALUE_DICT && i < from->pairs.n; i++)
        if (!space_set(run, space, from->pairs.at[i].key, from->pairs.at[i].value))
            return false;
    struct value_items items = { NULL, 0 };
    if (from && from->kind != VALUE_DICT && !value_iterate(run, from, &items))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        struct value_items pair;
        if (!value_iterate(run, &items.at[i], &pair))
            return false;
        if (pair.n != 2)
            return run_fail(run,
                            "dictionary update sequence element #%zu has length %zu; 2 is "
                            "required",
                            i, pair.n);
        if (!space_set(run, space, pair.at[0], pair.at[1]))
            return false;
    }
    for (size_t i = 0; i < call->n_named; i++)
        if (!namespace_set(run, space, call->named[i].name, call->named[i].value))
            return false;
    return true;
}

static bool global_dict(struct run *run, const struct call *call, struct value *out)
{
    struct space space = { 0 };
    if (!fill_space(run, call, &space))
        return false;
    *out = (struct value){ .kind = VALUE_DICT, .pairs = { space.pairs, space.n } };
    return true;
}

static bool global_namespace(struct run *run, const struct call *call, struct value *out)
{
    struct space *space = run_take(run, 1, sizeof *space);
    *out = (struct value){ .kind = VALUE_SPACE, .space = space };
    return space && fill_space(run, call, space);
}

static bool global_cycler(struct run *run, const struct call *call, struct value *out)
{
    struct cycler *cycler = run_take(run, 1, sizeof *cycler);
    if (!cycler)
        return false;
    if (!call->n || call->n_named)
        return run_fail(run, "cycler needs at least one item");
    *cycler = (struct cycler){ call->items, call->n, 0 };
    *out = (struct value){ .kind = VALUE_CYCLER, .cycler = cycler };
    return true;
}

static bool global_joiner(struct run *run, const struct call *call, struct value *out)
{
    const struct value *given[BIND_MAX];
    struct joiner *joiner = run_take(run, 1, sizeof *joiner);
    if (!joiner || !call_bind(run, call, "sep", 0, given))
        return false;
    joiner->separator = given[0] ? *given[0] : value_word(", ");
    *out = (struct value){ .kind = VALUE_JOINER, .joiner = joiner };
    return true;
}

static bool global_raise(struct run *run, const struct call *call, struct value *out)
{
    const struct value *given[BIND_MAX];
    if (!call_bind(run, call, "message", 1, given) || !value_str(run, given[0], out))
        return false;
    struct err *err = run->err;
    size_t n = out->text.length;
    if (!n)
        return run_fail(run, "raise_exception without a message");
    if (n > sizeof err->text - 1) { /* not within a character */
        n = sizeof err->text - 1;
        while (n && ((unsigned char)out->text.bytes[n] & 0xc0) == 0x80)
            n--;
    }
    err_set(err, ERR_REQUEST, "%s", "");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)out->text.bytes[i];
        err->text[i] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    err->text[n] = 0;
    return false;
}

/* One directive at a time, so that what the C library does not know is copied, as Python's. */
static bool global_strftime(struct run *run, const struct call *call, struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text format;
    struct tm tm;
    time_t now = (time_t)run->now_s;
    size_t from = run->out->length;
    if (!call_bind(run, call, "format", 1, given) ||
        !argument_text(run, call, given[0], "", &format))
        return false;
    if (!gmtime_r(&now, &tm))
        return run_fail(run, "strftime_now: the time is out of range");
    for (size_t i = 0; i < format.length; i++) {
        char directive[4] = "%", text[128];
        size_t n = 1;
        if (format.bytes[i] != '%' || i + 1 == format.length) {
            if (!run_put(run, &format.bytes[i], 1))
                return false;
            continue;
        }
        if (format.bytes[i + 1] && strchr("-_0^#", format.bytes[i + 1]) && i + 2 < format.length)
            directive[n++] = format.bytes[++i];
        char letter = format.bytes[++i];
        directive[n] = letter;
        if (letter == 'f') { /* Python's microseconds */
            if (!run_put(run, "000000", 6))
                return false;
        } else if (letter == 'z' || letter == 'Z') {
            continue; /* a time without zone */
        } else if (letter && strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%", letter)) {
            n = strftime(text, sizeof text, directive, &tm);
            if (!run_put(run, text, n))
                return false;
        } else if (!run_put(run, directive, strlen(directive))) {
            return false;
        }
    }
    return capture_end(run, from, out);
}

static bool global_refused(struct run *run, const struct call *call, struct value *out)
{
    (void)out;
    return run_fail(run, "%s() is not supported", call->what);
}

static const struct {
    const char *name;
    bool (*call)(struct run *run, const struct call *call, struct value *out);
} GLOBALS[] = {
    { "range", global_range },           { "dict", global_dict },
    { "namespace", global_namespace },   { "cycler", global_cycler },
    { "joiner", global_joiner },         { "raise_exception", global_raise },
    { "strftime_now", global_strftime }, { "lipsum", global_refused },
    { "self", global_refused },
};

int32_t global_count(void)
{
    return sizeof GLOBALS / sizeof *GLOBALS;
}

const char *global_name(int32_t global)
{
    return GLOBALS[global].name;
}

bool global_call(struct run *run, int32_t global, const struct call *call, struct value *out)
{
    struct call named = *call;
    named.what = GLOBALS[global].name;
    return GLOBALS[global].call(run, &named, out);
}
